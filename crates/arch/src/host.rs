//! Host system registers, each named once.
//!
//! The names are `_EL1`. At EL1 they are what they say. At EL2 with E2H=1 the
//! CPU redirects them to `_EL2` (Arm ARM D8.8, "Behavior of HCR_EL2.E2H").
//! What it does not redirect, and everything for E2H=0, is patched at boot:
//! each access leaves its address and the replacement instruction in a table.

use core::arch::asm;

/// One place to patch: where, relative to the entry, and what to put there.
#[repr(C)]
pub struct Patch {
    offset: i32,
    instruction: u32,
}

macro_rules! host_registers {
    ($($(#[$doc:meta])* $read:ident, $write:ident = $el1:literal, $table:literal, $el2:literal;)+) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $read() -> u64 {
            let value: u64;
            // SAFETY: reading this register has no side effect, whichever of
            // the two names boot settled on.
            unsafe {
                asm!(
                    concat!("661: mrs {v}, ", $el1),
                    concat!(".pushsection ", $table, ", \"a\""),
                    ".long 661b - .",
                    concat!("mrs {v}, ", $el2),
                    ".popsection",
                    v = out(reg) value,
                    options(nomem, nostack, preserves_flags)
                );
            }
            value
        }

        $(#[$doc])*
        ///
        /// # Safety
        /// The value takes effect on this CPU: it must keep the running code,
        /// its stack and its data reachable.
        #[inline(always)]
        pub unsafe fn $write(value: u64) {
            // SAFETY: the caller answers for the value.
            unsafe {
                asm!(
                    concat!("661: msr ", $el1, ", {v}"),
                    concat!(".pushsection ", $table, ", \"a\""),
                    ".long 661b - .",
                    concat!("msr ", $el2, ", {v}"),
                    ".popsection",
                    v = in(reg) value,
                    options(nostack, preserves_flags)
                );
            }
        }
    )+};
}

host_registers! {
    /// System control.
    sctlr, set_sctlr = "sctlr_el1", ".hostpatch.e2h0", "sctlr_el2";
    /// Translation control.
    tcr, set_tcr = "tcr_el1", ".hostpatch.e2h0", "tcr_el2";
    /// Translation table base of the lower range.
    ttbr0, set_ttbr0 = "ttbr0_el1", ".hostpatch.e2h0", "ttbr0_el2";
    /// Memory attributes.
    mair, set_mair = "mair_el1", ".hostpatch.e2h0", "mair_el2";
    /// Vector base.
    vbar, set_vbar = "vbar_el1", ".hostpatch.e2h0", "vbar_el2";
    /// Exception syndrome.
    esr, set_esr = "esr_el1", ".hostpatch.e2h0", "esr_el2";
    /// Fault address.
    far, set_far = "far_el1", ".hostpatch.e2h0", "far_el2";
    /// Host timer control. Under E2H `CNTP_*` at EL2 is CNTHP.
    timer_ctl, set_timer_ctl = "cntp_ctl_el0", ".hostpatch.e2h0", "cnthp_ctl_el2";
    /// Host timer compare value.
    timer_cval, set_timer_cval = "cntp_cval_el0", ".hostpatch.e2h0", "cnthp_cval_el2";
    /// Base of this CPU's data. TPIDR_EL1 is not redirected: it is the guest's.
    per_cpu, set_per_cpu = "tpidr_el1", ".hostpatch.el2", "tpidr_el2";
}

/// Translation table base of the upper range; absent at E2H=0, where nothing
/// may ask for it.
///
/// # Safety
/// As for the others.
#[inline(always)]
pub unsafe fn set_ttbr1(value: u64) {
    // SAFETY: the caller answers for the value; at EL1 and under E2H the
    // register exists.
    unsafe { asm!("msr ttbr1_el1, {}", in(reg) value, options(nostack, preserves_flags)) }
}

/// Traps EL0's use of FP/SIMD (and always SVE, SME), or lets it pass.
///
/// CPACR_EL1.FPEN at EL1, CPTR_EL2.FPEN under E2H (same layout, redirected).
/// At E2H=0 there is no EL0, and this is not called.
#[inline(always)]
pub fn allow_el0_fp(allow: bool) {
    // FPEN, bits 21:20: 0b01 traps EL0 only, 0b11 traps nothing.
    let cpacr: u64 = if allow { 0b11 << 20 } else { 0b01 << 20 };
    // SAFETY: the kernel itself is built soft-float.
    unsafe { asm!("msr cpacr_el1, {}", in(reg) cpacr, options(nostack, preserves_flags)) }
}

/// Whether the kernel stands at EL1: a constant, once boot has patched it.
#[inline(always)]
pub fn is_at_el1() -> bool {
    let value: u64;
    // SAFETY: moves a constant.
    unsafe {
        asm!(
            "661: mov {v}, #1",
            ".pushsection .hostpatch.el2, \"a\"",
            ".long 661b - .",
            "mov {v}, #0",
            ".popsection",
            v = out(reg) value,
            options(nomem, nostack, preserves_flags)
        );
    }
    value != 0
}

/// Whether the kernel stands at EL2 with E2H=0: a constant, once boot has patched
/// it.
#[inline(always)]
pub fn is_e2h0() -> bool {
    let value: u64;
    // SAFETY: moves a constant.
    unsafe {
        asm!(
            "661: mov {v}, #0",
            ".pushsection .hostpatch.e2h0, \"a\"",
            ".long 661b - .",
            "mov {v}, #1",
            ".popsection",
            v = out(reg) value,
            options(nomem, nostack, preserves_flags)
        );
    }
    value != 0
}

/// Applies a patch table: boot calls it with the MMU off, before any patched
/// access runs.
///
/// # Safety
/// `[start, end)` is a table that this module's macros made, and the code it
/// points to is writable and not running on another CPU.
pub unsafe fn apply_patches(start: *const Patch, end: *const Patch) {
    let mut entry = start;
    while entry < end {
        // SAFETY: `entry` lies in the table; its offset leads to the
        // instruction that the same macro emitted, aligned to 4 bytes.
        unsafe {
            let place = entry.byte_offset((*entry).offset as isize).cast_mut().cast::<u32>();
            place.write_volatile((*entry).instruction);
            asm!("dc cvau, {0}", "ic ivau, {0}", in(reg) place, options(nostack));
            entry = entry.add(1);
        }
    }
    // SAFETY: completes the maintenance above.
    unsafe { asm!("dsb ish", "isb", options(nostack)) }
}
