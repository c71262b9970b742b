//! What this CPU can do, from its ID registers.

use crate::sysreg::*;

/// Four bits of an ID register.
pub const fn field(value: u64, shift: u32) -> u64 {
    (value >> shift) & 15
}

/// FEAT_VHE (ID_AA64MMFR1_EL1.VH).
pub fn has_vhe() -> bool {
    field(id_aa64mmfr1_el1(), 8) != 0
}

/// FEAT_PAN (ID_AA64MMFR1_EL1.PAN).
pub fn has_pan() -> bool {
    field(id_aa64mmfr1_el1(), 20) != 0
}

/// Whether the system-register interface of GICv3 is there.
pub fn has_gicv3_registers() -> bool {
    field(id_aa64pfr0_el1(), 24) != 0
}

/// Bits of physical address space (ID_AA64MMFR0_EL1.PARange).
pub fn pa_bits() -> u32 {
    match field(id_aa64mmfr0_el1(), 0) {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        // 5: 48 bits; more needs FEAT_LPA, which this kernel does not use.
        _ => 48,
    }
}

/// Whether ASIDs have 16 bits (ID_AA64MMFR0_EL1.ASIDBits).
pub fn has_16_bit_asids() -> bool {
    field(id_aa64mmfr0_el1(), 4) == 2
}

/// Whether the CPU forgets ranges at once, FEAT_TLBIRANGE
/// (ID_AA64ISAR0_EL1.TLB).
pub fn has_tlb_ranges() -> bool {
    field(id_aa64isar0_el1(), 56) == 2
}

/// Affinity bits of MPIDR_EL1: what PSCI and the device tree call a CPU.
pub fn hardware_id() -> u64 {
    mpidr_el1() & 0xff_00ff_ffff
}

/// A random word from the CPU (FEAT_RNG), if it has one to give.
pub fn random() -> Option<u64> {
    if field(id_aa64isar0_el1(), 60) == 0 {
        return None;
    }
    let (value, flags): (u64, u64);
    // SAFETY: RNDR exists; it sets NZCV to 0b0100 if it failed.
    unsafe {
        core::arch::asm!("mrs {}, S3_3_C2_C4_0", "mrs {}, nzcv", out(reg) value, out(reg) flags,
                         options(nomem, nostack));
    }
    (flags & 1 << 30 == 0).then_some(value)
}
