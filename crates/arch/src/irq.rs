//! Interrupt masking on this CPU.
//!
//! Hypha's kernel runs with IRQs masked (PSTATE.I=1). They are taken as
//! exceptions at EL0 and in a guest; when idle, and between the steps of long
//! work, the kernel asks the interrupt controller for them without unmasking.

use core::arch::asm;

/// Whether an interrupt waits to be taken (ISR_EL1.I).
#[inline(always)]
pub fn is_pending() -> bool {
    let isr: u64;
    // SAFETY: a read.
    unsafe { asm!("mrs {}, isr_el1", out(reg) isr, options(nostack, preserves_flags)) }
    isr & 1 << 7 != 0
}

/// Sleeps until an interrupt is pending, and leaves it so. WFI wakes on pending
/// interrupts even while they are masked (Arm ARM D1.6.2), so none is lost
/// between the caller's last look at its queues and the sleep.
#[inline(always)]
pub fn wait() {
    // SAFETY: nothing but time passes.
    unsafe { asm!("dsb sy", "wfi", options(nostack, preserves_flags)) }
}

/// Masks everything, for the road to the end.
pub fn mask_all() {
    // SAFETY: masking interrupts is always sound.
    unsafe { asm!("msr daifset, #15", options(nostack)) }
}
