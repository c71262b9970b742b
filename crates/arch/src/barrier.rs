//! Barriers (Arm ARM B2.3).

use core::arch::asm;

/// Instruction synchronisation barrier.
#[inline(always)]
pub fn isb() {
    // SAFETY: a barrier changes no state that Rust can see.
    unsafe { asm!("isb", options(nostack, preserves_flags)) }
}

/// Data synchronisation barrier, inner shareable.
#[inline(always)]
pub fn dsb_ish() {
    // SAFETY: as for `isb`.
    unsafe { asm!("dsb ish", options(nostack, preserves_flags)) }
}

/// Data synchronisation barrier for stores, inner shareable: page-table writes
/// are visible to walkers before what follows.
#[inline(always)]
pub fn dsb_ishst() {
    // SAFETY: as for `isb`.
    unsafe { asm!("dsb ishst", options(nostack, preserves_flags)) }
}

/// Data synchronisation barrier, full system.
#[inline(always)]
pub fn dsb_sy() {
    // SAFETY: as for `isb`.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) }
}

/// YIELD: for loops that wait for another CPU, which hardware threads and
/// emulators may run in place of this one meanwhile.
#[inline(always)]
pub fn yield_hint() {
    // SAFETY: a hint.
    unsafe { asm!("yield", options(nomem, nostack, preserves_flags)) }
}

/// Waits for an event (WFE): a hint to a spinning CPU.
#[inline(always)]
pub fn wfe() {
    // SAFETY: a hint.
    unsafe { asm!("wfe", options(nomem, nostack, preserves_flags)) }
}
