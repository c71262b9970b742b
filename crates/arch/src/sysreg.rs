//! Plain system registers: those that are the same wherever the kernel stands.

use core::arch::asm;

macro_rules! readers {
    ($($(#[$doc:meta])* $name:ident = $register:literal;)+) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name() -> u64 {
            let value: u64;
            // SAFETY: reading this register has no side effect.
            unsafe {
                asm!(concat!("mrs {}, ", $register), out(reg) value,
                     options(nomem, nostack, preserves_flags));
            }
            value
        }
    )+};
}

readers! {
    /// The exception level we run at, in bits 3:2.
    current_el = "CurrentEL";
    /// This CPU's affinity.
    mpidr_el1 = "mpidr_el1";
    /// Main ID.
    midr_el1 = "midr_el1";
    /// Revision ID.
    revidr_el1 = "revidr_el1";
    /// Cache type.
    ctr_el0 = "ctr_el0";
    /// Cache level ID.
    clidr_el1 = "clidr_el1";
    /// Counter frequency, Hz.
    cntfrq_el0 = "cntfrq_el0";
    /// DC ZVA block size.
    dczid_el0 = "dczid_el0";
    /// AArch64 debug features 0.
    id_aa64dfr0_el1 = "id_aa64dfr0_el1";
    /// AArch64 debug features 1.
    id_aa64dfr1_el1 = "id_aa64dfr1_el1";
    /// AArch64 instruction set attributes 0.
    id_aa64isar0_el1 = "id_aa64isar0_el1";
    /// AArch64 instruction set attributes 1.
    id_aa64isar1_el1 = "id_aa64isar1_el1";
    /// AArch64 instruction set attributes 2.
    id_aa64isar2_el1 = "S3_0_C0_C6_2";
    /// AArch64 memory model features 0.
    id_aa64mmfr0_el1 = "id_aa64mmfr0_el1";
    /// AArch64 memory model features 1.
    id_aa64mmfr1_el1 = "id_aa64mmfr1_el1";
    /// AArch64 memory model features 2.
    id_aa64mmfr2_el1 = "S3_0_C0_C7_2";
    /// AArch64 memory model features 3.
    id_aa64mmfr3_el1 = "S3_0_C0_C7_3";
    /// AArch64 memory model features 4.
    id_aa64mmfr4_el1 = "S3_0_C0_C7_4";
    /// AArch64 processor features 0.
    id_aa64pfr0_el1 = "id_aa64pfr0_el1";
    /// AArch64 processor features 1.
    id_aa64pfr1_el1 = "id_aa64pfr1_el1";
    /// SVE features.
    id_aa64zfr0_el1 = "S3_0_C0_C4_4";
    /// EL0's thread pointer.
    tpidr_el0 = "tpidr_el0";
    /// EL0's read-only thread pointer.
    tpidrro_el0 = "tpidrro_el0";
    /// EL0's stack pointer.
    sp_el0 = "sp_el0";
    /// The virtual counter, unordered: see `timer::counter`.
    cntvct_el0 = "cntvct_el0";
    /// The result of the last address translation instruction.
    par_el1 = "par_el1";
}

/// The exception level we run at: 1 or 2.
pub fn exception_level() -> u64 {
    (current_el() >> 2) & 3
}

/// Sets EL0's thread pointer, which only EL0's code reads.
#[inline(always)]
pub fn set_tpidr_el0(value: u64) {
    // SAFETY: the kernel never reads TPIDR_EL0 to act on it.
    unsafe { asm!("msr tpidr_el0, {}", in(reg) value, options(nomem, nostack, preserves_flags)) }
}

/// Sets EL0's read-only thread pointer, which only EL0's code reads. At boot: `hyp`
/// gives back what was there when it was entered.
#[inline(always)]
pub fn set_tpidrro_el0(value: u64) {
    // SAFETY: as for `set_tpidr_el0`.
    unsafe { asm!("msr tpidrro_el0, {}", in(reg) value, options(nomem, nostack, preserves_flags)) }
}

/// Switches self-hosted debug off and user access to the PMU off on this CPU.
pub fn reset_debug() {
    // SAFETY: neither register affects how this kernel's code executes.
    unsafe {
        asm!("msr mdscr_el1, xzr", options(nomem, nostack, preserves_flags));
    }
    // PMUVer 0 and 15: no PMUv3.
    if !matches!((id_aa64dfr0_el1() >> 8) & 15, 0 | 15) {
        // SAFETY: PMUv3 is there; EL0 loses access to it.
        unsafe { asm!("msr pmuserenr_el0, xzr", options(nomem, nostack, preserves_flags)) }
    }
}
