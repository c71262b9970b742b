//! TLB maintenance for the host's own regime.
//!
//! With E2H=1 and TGE=1, `TLBI *E1*` acts on the EL2&0 regime; at EL1 on
//! EL1&0. Both have ASIDs. At E2H=0 the EL2 regime has none and its own
//! operations, patched in.

use core::arch::asm;

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
            "dsb ish",
            "isb",
            options(nostack, preserves_flags)
        );
    }
}

/// Invalidates one address space on all CPUs.
pub fn flush_asid(asid: u16) {
    let operand = u64::from(asid) << 48;
    // SAFETY: forgetting translations is always sound.
    unsafe {
        asm!("dsb ishst", "tlbi aside1is, {}", "dsb ish", "isb", in(reg) operand,
             options(nostack, preserves_flags));
    }
}

/// Pages beyond which forgetting the whole address space is cheaper.
const MAX_PAGES: u64 = 64;

/// Invalidates `[start, start + len)` of one address space on all CPUs, leaf
/// entries only if `last_level`.
pub fn flush_range(asid: u16, start: u64, len: u64, last_level: bool) {
    let pages = len.div_ceil(4096);
    if pages > MAX_PAGES {
        return flush_asid(asid);
    }
    crate::barrier::dsb_ishst();
    let first = (start >> 12) & ((1 << 44) - 1);
    for page in first..first.saturating_add(pages) {
        let operand = u64::from(asid) << 48 | page;
        // SAFETY: forgetting translations is always sound.
        unsafe {
            if last_level {
                asm!("tlbi vale1is, {}", in(reg) operand, options(nostack, preserves_flags));
            } else {
                asm!("tlbi vae1is, {}", in(reg) operand, options(nostack, preserves_flags));
            }
        }
    }
    crate::barrier::dsb_ish();
    crate::barrier::isb();
}
