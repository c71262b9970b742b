//! The GICv3 CPU interface's system registers (GICv3 12.2).

use core::arch::asm;

/// Unmasks all priorities, separates priority drop from deactivation, enables
/// group 1.
pub fn enable_cpu_interface() {
    // SAFETY: interrupts are masked in PSTATE, and taken only where they are
    // handled. ICC_SRE_EL1.SRE first: the others need it.
    unsafe {
        asm!(
            "mrs {t}, S3_0_C12_C12_5",
            "orr {t}, {t}, #1",
            "msr S3_0_C12_C12_5, {t}",     // ICC_SRE_EL1
            "isb",
            "mov {t}, #0xf0",
            "msr S3_0_C4_C6_0, {t}",       // ICC_PMR_EL1
            "msr S3_0_C12_C12_3, xzr",     // ICC_BPR1_EL1
            "mov {t}, #2",
            "msr S3_0_C12_C12_4, {t}",     // ICC_CTLR_EL1: EOImode
            "mov {t}, #1",
            "msr S3_0_C12_C12_7, {t}",     // ICC_IGRPEN1_EL1
            "isb",
            t = out(reg) _, options(nostack)
        );
    }
}

/// ICC_IAR1_EL1: the most urgent pending interrupt, now active; 1023 if none.
#[inline(always)]
pub fn acknowledge() -> u32 {
    let intid: u64;
    // SAFETY: changes the GIC's state only.
    unsafe { asm!("mrs {}, S3_0_C12_C12_0", "dsb sy", out(reg) intid, options(nostack)) }
    intid as u32
}

/// ICC_EOIR1_EL1: back to the priority before the interrupt.
#[inline(always)]
pub fn drop_priority(intid: u32) {
    // SAFETY: changes the GIC's state only.
    unsafe { asm!("msr S3_0_C12_C12_1, {}", "isb", in(reg) u64::from(intid), options(nostack)) }
}

/// ICC_DIR_EL1: the interrupt is no longer active.
#[inline(always)]
pub fn deactivate(intid: u32) {
    // SAFETY: changes the GIC's state only.
    unsafe { asm!("msr S3_0_C12_C11_1, {}", "isb", in(reg) u64::from(intid), options(nostack)) }
}

/// ICC_SGI1R_EL1: interrupts the CPU with affinity `hardware_id`.
pub fn send_sgi(hardware_id: u64, sgi: u32) {
    let aff = |shift: u32| (hardware_id >> shift) & 0xff;
    let value = aff(32) << 48
        | aff(16) << 32
        | aff(8) << 16
        | u64::from(sgi & 15) << 24
        | (aff(0) >> 4) << 44
        | 1 << (aff(0) & 15);
    // SAFETY: interrupts another CPU; stores before it are visible there first.
    unsafe { asm!("dsb ishst", "msr S3_0_C12_C11_5, {}", "isb", in(reg) value, options(nostack)) }
}
