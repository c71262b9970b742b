//! The current process's memory, as the kernel reaches it.

use arch::uaccess;
use base::{Errno, Result, UserMem};

/// The memory of the process that runs on this CPU.
///
/// Copies fault pages in; no lock may be held. TCR.TBI0 is on, so the top byte
/// of EL0's pointers is the program's; as Linux without the tagged address ABI,
/// system calls refuse tagged ones.
#[derive(Clone, Copy, Debug)]
pub struct CurrentUser;

impl UserMem for CurrentUser {
    fn read(&self, addr: u64, out: &mut [u8]) -> Result<()> {
        match uaccess::copy_from_user(out, addr) {
            0 => Ok(()),
            _ => Err(Errno::EFAULT),
        }
    }

    fn write(&self, addr: u64, data: &[u8]) -> Result<()> {
        match uaccess::copy_to_user(addr, data) {
            0 => Ok(()),
            _ => Err(Errno::EFAULT),
        }
    }
}
