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
    forget_instructions();
}

/// The instruction side's part of it, where the data side is clean.
pub fn forget_instructions() {
    crate::barrier::dsb_ish();
    // CTR_EL0.DIC: instruction caches need no invalidation.
    if ctr_el0() & (1 << 29) == 0 {
        // SAFETY: an invalidation of the whole instruction cache.
        unsafe { asm!("ic ialluis", "dsb ish", options(nostack, preserves_flags)) }
    }
    crate::barrier::isb();
}

/// Fills with zeros, by whole blocks of DC ZVA.
///
/// # Safety
/// `[start, start + len)` is Normal memory, writable, nobody else's, and starts
/// and ends at a multiple of 2 KiB, the largest block there can be.
pub unsafe fn zero(start: usize, len: usize) {
    const UNROLLED: usize = 16;
    let dczid: u64;
    // SAFETY: a read.
    unsafe { asm!("mrs {}, dczid_el0", out(reg) dczid, options(nomem, nostack, preserves_flags)) };
    let block = 4usize << (dczid & 15);
    let step = block.wrapping_mul(UNROLLED);
    // DCZID_EL0.DZP: prohibited.
    if dczid & 1 << 4 != 0 || !len.is_multiple_of(step) {
        // SAFETY: the caller's promise.
        unsafe {
            core::ptr::write_bytes(core::ptr::with_exposed_provenance_mut::<u8>(start), 0, len)
        };
        return;
    }
    let end = start.wrapping_add(len);
    let mut at = start;
    while at < end {
        // SAFETY: the caller vouches for the range, of which `step` bytes are
        // left.
        unsafe {
            asm!(
                ".rept {n}", "dc zva, {at}", "add {at}, {at}, {block}", ".endr",
                n = const UNROLLED,
                at = inout(reg) at, block = in(reg) block,
                options(nostack, preserves_flags)
            );
        }
    }
}

/// Cleans and invalidates to the point of coherency: what was written is in
/// memory for observers with their caches off.
///
/// # Safety
/// `[start, start + len)` is mapped.
pub unsafe fn clean_to_poc(start: usize, len: usize) {
    const UNROLLED: usize = 16;
    let dline = 4usize << ((ctr_el0() >> 16) & 15);
    let end = start.wrapping_add(len);
    let mut at = start & !dline.wrapping_sub(1);
    let step = dline.wrapping_mul(UNROLLED);
    while end.saturating_sub(at) >= step {
        // SAFETY: the caller vouches for the range, of which `step` bytes are left.
        unsafe {
            asm!(
                ".rept {n}", "dc civac, {at}", "add {at}, {at}, {dline}", ".endr",
                n = const UNROLLED,
                at = inout(reg) at, dline = in(reg) dline,
                options(nostack, preserves_flags)
            );
        }
    }
    while at < end {
        // SAFETY: the caller vouches for the range.
        unsafe { asm!("dc civac, {}", in(reg) at, options(nostack, preserves_flags)) }
        at = at.wrapping_add(dline);
    }
    crate::barrier::dsb_sy();
}
