//! Copies to and from EL0's memory with EL0's rights (LDTR/STTR).
//!
//! A fault inside these routines is the trap handler's: it maps the page and
//! returns here, or jumps to the fix-up, which returns what is left.

core::arch::global_asm!(include_str!("asm/uaccess.s"));

unsafe extern "C" {
    fn __uaccess_start();
    fn __uaccess_end();
    fn __uaccess_fixup();
    fn __copy_from_user(dst: *mut u8, src: u64, len: usize) -> usize;
    fn __copy_to_user(dst: u64, src: *const u8, len: usize) -> usize;
}

/// The end of EL0's half: addresses at and above it are never EL0's.
pub const USER_END: u64 = 1 << 48;

fn in_user_half(addr: u64, len: usize) -> bool {
    addr.checked_add(len as u64).is_some_and(|end| end <= USER_END)
}

/// Copies from EL0's memory at `addr`; how many bytes could *not* be copied.
/// LDTR checks with EL0's rights, which needs HCR_EL2.TGE=1 at EL2: never call
/// it in a guest's HCR_EL2.
pub fn copy_from_user(out: &mut [u8], addr: u64) -> usize {
    if !in_user_half(addr, out.len()) {
        return out.len();
    }
    // SAFETY: `out` is valid for writes; loads from `addr` are made with EL0's
    // rights, so they reach nothing of the kernel's, and faults are fixed up.
    unsafe { __copy_from_user(out.as_mut_ptr(), addr, out.len()) }
}

/// Copies to EL0's memory at `addr`; how many bytes could *not* be copied.
pub fn copy_to_user(addr: u64, data: &[u8]) -> usize {
    if !in_user_half(addr, data.len()) {
        return data.len();
    }
    // SAFETY: as for `copy_from_user`, with the directions swapped.
    unsafe { __copy_to_user(addr, data.as_ptr(), data.len()) }
}

/// Where to continue if the instruction at `pc` faulted on EL0's memory and
/// the fault can't be mended; None if it isn't one of ours.
pub fn fixup(pc: u64) -> Option<u64> {
    let start = __uaccess_start as *const () as u64;
    let end = __uaccess_end as *const () as u64;
    (start..end).contains(&pc).then_some(__uaccess_fixup as *const () as u64)
}
