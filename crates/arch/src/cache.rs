//! Cache maintenance by address.

use crate::sysreg::ctr_el0;
use core::arch::asm;

/// Makes code written through the data side visible to instruction fetch on
/// all CPUs (Arm ARM B2.7.4).
///
/// # Safety
/// `[start, start + len)` is mapped.
pub unsafe fn sync_icache(start: usize, len: usize) {
    let ctr = ctr_el0();
    let dline = 4usize << ((ctr >> 16) & 15);
    let end = start.wrapping_add(len);
    // CTR_EL0.IDC: data side needs no cleaning to the point of unification.
    if ctr & (1 << 28) == 0 {
        let mut at = start & !dline.wrapping_sub(1);
        while at < end {
            // SAFETY: the caller vouches for the range.
            unsafe { asm!("dc cvau, {}", in(reg) at, options(nostack, preserves_flags)) }
            at = at.wrapping_add(dline);
        }
    }
    crate::barrier::dsb_ish();
    // CTR_EL0.DIC: instruction caches need no invalidation.
    if ctr & (1 << 29) == 0 {
        // SAFETY: an invalidation of the whole instruction cache.
        unsafe { asm!("ic ialluis", "dsb ish", options(nostack, preserves_flags)) }
    }
    crate::barrier::isb();
}

/// Cleans and invalidates to the point of coherency: what was written is in
/// memory for observers with their caches off.
///
/// # Safety
/// `[start, start + len)` is mapped.
pub unsafe fn clean_to_poc(start: usize, len: usize) {
    let dline = 4usize << ((ctr_el0() >> 16) & 15);
    let end = start.wrapping_add(len);
    let mut at = start & !dline.wrapping_sub(1);
    while at < end {
        // SAFETY: the caller vouches for the range.
        unsafe { asm!("dc civac, {}", in(reg) at, options(nostack, preserves_flags)) }
        at = at.wrapping_add(dline);
    }
    crate::barrier::dsb_sy();
}
