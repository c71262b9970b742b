//! FP/SIMD registers. The kernel is built soft-float: what is in them belongs
//! to EL0 or to a guest.

use core::arch::asm;

/// V0 to V31, FPSR and FPCR.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FpState {
    /// V0 to V31.
    pub v: [u128; 32],
    /// Floating-point status.
    pub fpsr: u64,
    /// Floating-point control.
    pub fpcr: u64,
}

impl FpState {
    /// What a new program starts with: all zero.
    pub const fn new() -> Self {
        FpState { v: [0; 32], fpsr: 0, fpcr: 0 }
    }
}

impl Default for FpState {
    fn default() -> Self {
        Self::new()
    }
}

/// Copies the registers to `*state`. FP must not be trapped at the current EL
/// (CPACR/CPTR.FPEN other than 0b00 and 0b10).
///
/// # Safety
/// `state` is valid for writes.
pub unsafe fn save(state: *mut FpState) {
    // SAFETY: `state` has room for all that is stored (layout above).
    unsafe {
        asm!(
            ".arch_extension fp",
            ".arch_extension simd",
            "stp q0, q1, [{p}, #0]", "stp q2, q3, [{p}, #32]",
            "stp q4, q5, [{p}, #64]", "stp q6, q7, [{p}, #96]",
            "stp q8, q9, [{p}, #128]", "stp q10, q11, [{p}, #160]",
            "stp q12, q13, [{p}, #192]", "stp q14, q15, [{p}, #224]",
            "stp q16, q17, [{p}, #256]", "stp q18, q19, [{p}, #288]",
            "stp q20, q21, [{p}, #320]", "stp q22, q23, [{p}, #352]",
            "stp q24, q25, [{p}, #384]", "stp q26, q27, [{p}, #416]",
            "stp q28, q29, [{p}, #448]", "stp q30, q31, [{p}, #480]",
            "mrs {t}, fpsr", "str {t}, [{p}, #512]",
            "mrs {t}, fpcr", "str {t}, [{p}, #520]",
            p = in(reg) state, t = out(reg) _,
            options(nostack, preserves_flags)
        );
    }
}

/// Loads the registers from `*state`; the condition is that of [`save`].
///
/// # Safety
/// `state` is valid for reads.
pub unsafe fn load(state: *const FpState) {
    // SAFETY: reads `state`; the kernel keeps nothing of its own in these.
    unsafe {
        asm!(
            ".arch_extension fp",
            ".arch_extension simd",
            "ldp q0, q1, [{p}, #0]", "ldp q2, q3, [{p}, #32]",
            "ldp q4, q5, [{p}, #64]", "ldp q6, q7, [{p}, #96]",
            "ldp q8, q9, [{p}, #128]", "ldp q10, q11, [{p}, #160]",
            "ldp q12, q13, [{p}, #192]", "ldp q14, q15, [{p}, #224]",
            "ldp q16, q17, [{p}, #256]", "ldp q18, q19, [{p}, #288]",
            "ldp q20, q21, [{p}, #320]", "ldp q22, q23, [{p}, #352]",
            "ldp q24, q25, [{p}, #384]", "ldp q26, q27, [{p}, #416]",
            "ldp q28, q29, [{p}, #448]", "ldp q30, q31, [{p}, #480]",
            "ldr {t}, [{p}, #512]", "msr fpsr, {t}",
            "ldr {t}, [{p}, #520]", "msr fpcr, {t}",
            p = in(reg) state, t = out(reg) _,
            options(nostack, preserves_flags, readonly)
        );
    }
}
