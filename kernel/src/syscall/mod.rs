//! System calls: Linux's numbers, arguments and errnos for arm64.

use crate::wait::Ended;
use arch::trap::TrapFrame;
use base::Errno;
use signal::Restart;

/// The arguments of a system call, x0 to x5.
pub type Args = [u64; 6];

/// Why a system call has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// An errno, for the program.
    Errno(Errno),
    /// A signal came first: EINTR or the same call again, as the handler says.
    Restart(Restart),
}

/// What a system call returns.
pub type SysResult = Result<i64, Failure>;

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Failure::Errno(errno)
    }
}

impl Failure {
    /// A wait ended: `restart` says what a signal does to this call. A wait
    /// that timed out answers `timeout`.
    pub fn from_wait(ended: Ended, restart: Restart, timeout: Errno) -> Failure {
        match ended {
            Ended::Interrupted => Failure::Restart(restart),
            Ended::TimedOut => Failure::Errno(timeout),
            Ended::Errno(errno) => Failure::Errno(errno),
        }
    }
}

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
        Err(Failure::Errno(errno)) => errno.to_ret() as u64,
        Err(Failure::Restart(_)) => Errno::EINTR.to_ret() as u64,
    };
}

fn dispatch(number: u64, _args: Args) -> SysResult {
    let name = syscalls::name(number);
    log::warn!("System call {number} ({name:?}) is not there: ENOSYS");
    Err(Errno::ENOSYS.into())
}
