//! What both drivers know of a guest that has just trapped.

use crate::access::{read, write};
use core::arch::asm;
use vcpu_context::GuestContext;

/// VSESR_EL2 for a virtual SError: IDS, an implementation-defined syndrome that
/// says nothing, as KVM gives it.
pub(crate) const VSESR_UNKNOWN: u64 = 1 << 24;

/// ID_AA64PFR0_EL1.RAS: VDISR_EL2 and VSESR_EL2 exist.
pub(crate) fn has_ras() -> bool {
    // SAFETY: a read.
    unsafe { read!("id_aa64pfr0_el1") >> 28 & 0xf != 0 }
}

/// FAR_EL2 and HPFAR_EL2 of the abort that just came from a guest, in its
/// world. False: stage 1 has changed meanwhile, or is what really faults; let it
/// fault again. `doubtful`: it may be stage 1's although it says that it is stage
/// 2's (`errata::STAGE2_FOR_STAGE1`).
#[inline]
pub(crate) fn read_abort(context: &mut GuestContext, doubtful: bool) -> bool {
    // SAFETY: reads.
    unsafe {
        context.far_el2 = read!("far_el2");
        context.hpfar_el2 = read!("hpfar_el2");
    }
    // HPFAR_EL2 is UNKNOWN after a permission fault (DFSC 0b0011xx) that isn't
    // on a stage-1 walk (S1PTW, bit 7; Arm ARM D24.2.63).
    let on_walk = context.esr_el2 & 1 << 7 != 0;
    let permission = context.esr_el2 & 0x3c == 0x0c;
    if !on_walk && (permission || doubtful) {
        let Some(ipa) = translate_guest(context.far_el2) else { return false };
        context.hpfar_el2 = ipa >> 8;
    }
    true
}

/// Virtual addresses to guest physical ones, when HPFAR_EL2 isn't valid: asks
/// the MMU (AT S1E1R, Arm ARM D24.2). In the guest's world.
fn translate_guest(far: u64) -> Option<u64> {
    // SAFETY: AT changes PAR_EL1 only, which is the guest's: kept.
    unsafe {
        let par = read!("par_el1");
        asm!("at s1e1r, {}", "isb", in(reg) far, options(nostack));
        let result = read!("par_el1");
        write!("par_el1", par);
        (result & 1 == 0).then_some(result & 0x000f_ffff_ffff_f000)
    }
}

/// Forgets translations of the guest whose VMID VTTBR_EL2 holds, on all CPUs;
/// with TGE=0.
///
/// # Safety
/// Forgetting is always sound; but for TGE.
pub(crate) unsafe fn forget(start: u64, len: u64, last_level: bool) {
    const MAX_PAGES: u64 = 64;
    let pages = len.div_ceil(4096);
    // SAFETY: forgetting translations is always sound.
    unsafe {
        if pages > MAX_PAGES {
            asm!("tlbi vmalls12e1is", options(nostack));
        } else {
            let first = start >> 12;
            for page in first..first.saturating_add(pages) {
                if last_level {
                    asm!("tlbi ipas2le1is, {}", in(reg) page, options(nostack));
                } else {
                    asm!("tlbi ipas2e1is, {}", in(reg) page, options(nostack));
                }
            }
            asm!("dsb ish", "tlbi vmalle1is", options(nostack));
        }
        arch::barrier::dsb_ish();
        if arch::tlb::repeats() {
            asm!("tlbi vale1is, xzr", "dsb ish", options(nostack));
        }
    }
}

/// Forgets translations (and instructions, where caches tell VMIDs apart) of the
/// guest whose VMID VTTBR_EL2 holds, on this CPU; with TGE=0.
///
/// # Safety
/// Forgetting is always sound; but for TGE.
pub(crate) unsafe fn forget_here() {
    // SAFETY: see above. Stage 2's own entries stay.
    unsafe { asm!("tlbi vmalle1", "ic iallu", "dsb nsh", "isb", options(nostack)) }
}

/// Forgets the translations of all guests on this CPU.
pub fn flush_all_guests_local() {
    // SAFETY: forgetting translations is always sound. ALLE1 is by regime, in
    // any HCR_EL2.TGE.
    unsafe { asm!("dsb nshst", "tlbi alle1", "dsb nsh", "isb", options(nostack)) }
}
