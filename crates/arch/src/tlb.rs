//! TLB maintenance for the host's own regime.
//!
//! With E2H=1 and TGE=1, `TLBI *E1*` acts on the EL2&0 regime; at EL1 on
//! EL1&0. Both have ASIDs. At E2H=0 the EL2 regime has none and its own
//! operations, patched in.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// A CPU has an erratum of `cpuid::errata::REPEAT_TLBI`.
static REPEATS: AtomicBool = AtomicBool::new(false);

/// This CPU has one: from now on broadcasts are repeated, whoever makes them. Whether
/// they weren't before.
pub fn repeat() -> bool {
    !REPEATS.swap(true, Relaxed)
}

/// Whether one more broadcast TLBI and DSB are needed after those that were.
#[inline]
pub fn repeats() -> bool {
    REPEATS.load(Relaxed)
}

/// After broadcast TLBIs: until no CPU uses, or is still using, what they took away.
#[inline]
fn complete() {
    crate::barrier::dsb_ish();
    if repeats() {
        once_more();
    }
    crate::barrier::isb();
}

#[cold]
fn once_more() {
    // SAFETY: forgetting translations is always sound.
    unsafe {
        asm!(
            "661: tlbi vale1is, xzr",
            ".pushsection .hostpatch.e2h0, \"a\"",
            ".long 661b - .",
            "tlbi vale2is, xzr",
            ".popsection",
            "dsb ish",
            options(nostack, preserves_flags)
        );
    }
}

/// Invalidates everything of the host's regime on all CPUs.
pub fn flush_all() {
    // SAFETY: forgetting translations is always sound.
    unsafe {
        asm!(
            "dsb ishst",
            "661: tlbi vmalle1is",
            ".pushsection .hostpatch.e2h0, \"a\"",
            ".long 661b - .",
            "tlbi alle2is",
            ".popsection",
            options(nostack, preserves_flags)
        );
    }
    complete();
}

/// Invalidates `pages` pages of the kernel's own from `start` on all CPUs.
pub fn flush_kernel_pages(start: u64, pages: u64) {
    crate::barrier::dsb_ishst();
    let first = (start >> 12) & ((1 << 44) - 1);
    for page in first..first.saturating_add(pages) {
        // SAFETY: forgetting translations is always sound.
        unsafe {
            asm!(
                "661: tlbi vaae1is, {page}",
                ".pushsection .hostpatch.e2h0, \"a\"",
                ".long 661b - .",
                "tlbi vae2is, {page}",
                ".popsection",
                page = in(reg) page,
                options(nostack, preserves_flags)
            );
        }
    }
    complete();
}

/// Invalidates one address space on all CPUs.
pub fn flush_asid(asid: u16) {
    let operand = u64::from(asid) << 48;
    // SAFETY: forgetting translations is always sound.
    unsafe {
        asm!("dsb ishst", "tlbi aside1is, {}", in(reg) operand,
             options(nostack, preserves_flags));
    }
    complete();
}

/// Pages beyond which forgetting the whole address space is cheaper, if each
/// takes an instruction.
const MAX_PAGES: u64 = 64;
/// Likewise, if one instruction takes a range: the most that scale 1 reaches.
const MAX_IN_RANGES: u64 = 32 * 64;

/// Invalidates `[start, start + len)` of one address space on all CPUs, leaf
/// entries only if `last_level`.
pub fn flush_range(asid: u16, start: u64, len: u64, last_level: bool) {
    let pages = len.div_ceil(4096);
    let first = (start >> 12) & ((1 << 44) - 1);
    let ranges = pages > 1 && crate::cpu::has_tlb_ranges();
    if pages > if ranges { MAX_IN_RANGES } else { MAX_PAGES } {
        return flush_asid(asid);
    }
    crate::barrier::dsb_ishst();
    if ranges {
        flush_pages(range_operand(asid, first, pages), last_level);
    } else {
        for page in first..first.saturating_add(pages) {
            flush_page(u64::from(asid) << 48 | page, last_level);
        }
    }
    complete();
}

/// TLBI RVAE1IS's operand (C5.5): (NUM + 1) * 2^(5 * SCALE + 1) pages from
/// `first`. It may reach further than asked, which forgets too much and harms
/// nobody.
fn range_operand(asid: u16, first: u64, pages: u64) -> u64 {
    const TG_4K: u64 = 1 << 46;
    let (scale, unit) = if pages <= 64 { (0, 2) } else { (1, 64) };
    let num = pages.div_ceil(unit).saturating_sub(1) & 31;
    u64::from(asid) << 48 | TG_4K | scale << 44 | num << 39 | first & ((1 << 37) - 1)
}

fn flush_page(operand: u64, last_level: bool) {
    // SAFETY: forgetting translations is always sound.
    unsafe {
        if last_level {
            asm!("tlbi vale1is, {}", in(reg) operand, options(nostack, preserves_flags));
        } else {
            asm!("tlbi vae1is, {}", in(reg) operand, options(nostack, preserves_flags));
        }
    }
}

/// Only with FEAT_TLBIRANGE.
fn flush_pages(operand: u64, last_level: bool) {
    // By number: the base architecture's assembler doesn't know the names.
    // SAFETY: forgetting translations is always sound.
    unsafe {
        if last_level {
            // TLBI RVALE1IS
            asm!("sys #0, c8, c2, #5, {}", in(reg) operand, options(nostack, preserves_flags));
        } else {
            // TLBI RVAE1IS
            asm!("sys #0, c8, c2, #1, {}", in(reg) operand, options(nostack, preserves_flags));
        }
    }
}
