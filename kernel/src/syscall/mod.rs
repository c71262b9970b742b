//! System calls: Linux's numbers, arguments and errnos for arm64.

use arch::trap::TrapFrame;
use base::{Errno, Result};

/// The arguments of a system call, x0 to x5.
pub type Args = [u64; 6];

/// EL0 executed SVC: x8 is the number, x0 to x5 the arguments; the result goes
/// to x0, errors negated.
pub fn enter(frame: &mut TrapFrame) {
    let [a0, a1, a2, a3, a4, a5, _, _, number, ..] = frame.x;
    frame.orig_x0 = a0;
    frame.syscall = number as i64;
    let result = dispatch(number, [a0, a1, a2, a3, a4, a5]);
    let [x0, ..] = &mut frame.x;
    *x0 = match result {
        Ok(value) => value as u64,
        Err(errno) => errno.to_ret() as u64,
    };
}

fn dispatch(number: u64, _args: Args) -> Result<i64> {
    let name = syscalls::name(number);
    log::warn!("System call {number} ({name:?}) is not there: ENOSYS");
    Err(Errno::ENOSYS)
}
