//! The current process's memory, as the kernel reaches it.

use arch::uaccess;
use base::{Errno, Result, UserMem};

/// The memory of the process that runs on this CPU.
///
/// Copies fault pages in; no lock may be held.
#[derive(Clone, Copy, Debug)]
pub struct CurrentUser;

impl UserMem for CurrentUser {
    fn read(&self, addr: u64, out: &mut [u8]) -> Result<()> {
        match uaccess::copy_from_user(out, untag(addr)) {
            0 => Ok(()),
            _ => Err(Errno::EFAULT),
        }
    }

    fn write(&self, addr: u64, data: &[u8]) -> Result<()> {
        match uaccess::copy_to_user(untag(addr), data) {
            0 => Ok(()),
            _ => Err(Errno::EFAULT),
        }
    }
}

/// TCR.TBI0 is on: the top byte of a user pointer is the program's. As Linux
/// without the tagged address ABI, tagged pointers to system calls are refused,
/// so nothing is stripped.
const fn untag(addr: u64) -> u64 {
    addr
}
