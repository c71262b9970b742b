//! Interrupt masking on this CPU.
//!
//! Hypha's kernel runs with IRQs masked (PSTATE.I=1) and opens windows: at
//! EL0, in a guest, when idle, and between the steps of long work.

use core::arch::asm;

/// Takes the interrupts that are pending, if any, and masks again. Must be
/// called with no lock held.
#[inline(always)]
pub fn window() {
    // SAFETY: the vectors are in place whenever the kernel runs tasks, and the
    // handlers preserve all registers.
    unsafe { asm!("msr daifclr, #2", "isb", "msr daifset, #2", options(nostack)) }
}

/// Sleeps until an interrupt is pending, then takes it. WFI wakes on pending
/// interrupts even while they are masked (Arm ARM D1.6.2), so none is lost
/// between the caller's last look at its queues and the sleep.
#[inline(always)]
pub fn wait_for_interrupt() {
    // SAFETY: as for `window`.
    unsafe { asm!("dsb sy", "wfi", "msr daifclr, #2", "isb", "msr daifset, #2", options(nostack)) }
}

/// Masks everything, for the road to the end.
pub fn mask_all() {
    // SAFETY: masking interrupts is always sound.
    unsafe { asm!("msr daifset, #15", options(nostack)) }
}
