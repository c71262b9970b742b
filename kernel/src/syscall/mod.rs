//! System calls: Linux's numbers, arguments and errnos for arm64.
//!
//! [`dispatch`] is the table. A call's arguments are words as EL0 left them:
//! each handler takes from them what the man-page says, with the width that it
//! says (`int` arguments are the low 32 bits).

pub mod fd;
pub mod futex;
mod identity;
mod io;
mod memory;
pub mod path;
mod poll;
mod process;
mod sched;
pub mod signal;
mod socket;
pub mod system;
pub mod time;

use crate::process::{cputime, with_thread};
use crate::wait::Ended;
use ::signal::Restart;
use arch::trap::TrapFrame;
use base::{Errno, Lock, grave, rank, room};
use kvm_abi::ioctl::RUN as KVM_RUN;
use syscalls::nr;

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

/// A descriptor argument: an `int`.
pub const fn fd_of(argument: u64) -> i32 {
    argument as i32
}

/// EL0 executed SVC: x8 is the number, x0 to x5 the arguments; the result goes
/// to x0, errors negated.
pub fn enter(frame: &mut TrapFrame) {
    let [a0, a1, a2, a3, a4, a5, _, _, number, ..] = frame.x;
    frame.orig_x0 = a0;
    frame.syscall = number as i64;
    // KVM_RUN's time is the guest's.
    let counted = a1 as u32 != KVM_RUN || number != nr::IOCTL;
    if counted {
        cputime::enter_kernel(&crate::sched::current_ref());
    }
    let result = dispatch(number, [a0, a1, a2, a3, a4, a5], frame);
    if counted {
        if grave::any() {
            grave::clear(crate::sched::breathe);
        }
        cputime::leave_kernel(&crate::sched::current_ref());
    }
    crate::log::tell();
    let [x0, ..] = &mut frame.x;
    *x0 = match result {
        Ok(value) => value as u64,
        Err(Failure::Errno(errno)) => errno.to_ret() as u64,
        Err(Failure::Restart(restart)) => {
            let _ = with_thread(|thread| thread.set_restart(restart));
            Errno::EINTR.to_ret() as u64
        }
    };
}

/// Whether a call makes things out of the kernel's heap. They are refused with
/// ENOMEM when memory is so low that small allocations might fail, so that
/// those which can't be refused never do; what gives memory back always works.
const fn makes_things(number: u64) -> bool {
    matches!(
        number,
        nr::CLONE
            | nr::CLONE3
            | nr::EXECVE
            | nr::EXECVEAT
            | nr::MMAP
            | nr::MPROTECT
            | nr::MREMAP
            | nr::MADVISE
            | nr::BRK
            | nr::OPENAT
            | nr::DUP
            | nr::DUP3
            | nr::FCNTL
            | nr::PIPE2
            | nr::EVENTFD2
            | nr::EPOLL_CREATE1
            | nr::EPOLL_CTL
            | nr::TIMERFD_CREATE
            | nr::TIMERFD_SETTIME
            | nr::SIGNALFD4
            | nr::MEMFD_CREATE
            | nr::SOCKET
            | nr::SOCKETPAIR
            | nr::ACCEPT
            | nr::ACCEPT4
            | nr::SENDMSG
            | nr::SENDTO
            | nr::MKDIRAT
            | nr::MKNODAT
            | nr::LINKAT
            | nr::SYMLINKAT
            | nr::RENAMEAT
            | nr::RENAMEAT2
            | nr::MOUNT
            | nr::IOCTL
            | nr::SETITIMER
            | nr::RT_SIGQUEUEINFO
    )
}

/// Makes one call. `frame` is for those that change all registers.
fn dispatch(number: u64, a: Args, frame: &mut TrapFrame) -> SysResult {
    let [a0, a1, a2, a3, a4, _] = a;
    if room::is_low() && makes_things(number) {
        return Err(Errno::ENOMEM.into());
    }
    match number {
        // KVM_RUN: an exit to the VMM comes through here twice.
        nr::IOCTL => fd::file_ioctl(a0, a1 as u32, a2),
        nr::CLONE => process::clone(frame, a),
        nr::CLONE3 => process::clone3(frame, a0, a1),
        nr::EXECVE => process::execve(frame, a0, a1, a2),
        nr::EXECVEAT => process::execveat(frame, a0 as i32, a1, a2, a3, a4 as u32),
        nr::EXIT => crate::process::exit::exit(a0 as i32),
        nr::EXIT_GROUP => crate::process::exit::exit_group(a0 as i32),
        nr::WAIT4 => process::wait4(a0 as i32, a1, a2 as u32, a3),
        nr::WAITID => process::waitid(a0 as u32, a1 as u32, a2, a3 as u32, a4),
        nr::SET_TID_ADDRESS => process::set_tid_address(a0),
        nr::SET_ROBUST_LIST => futex::set_robust_list(a0, a1),
        nr::GET_ROBUST_LIST => futex::get_robust_list(a0 as u32, a1, a2),
        nr::FUTEX => futex::futex(a),
        nr::PRCTL => process::prctl(a0 as u32, a1, a2),
        nr::PERSONALITY => process::personality(a0 as u32),
        // Programs do without (linux-abi-survey): not worth a warning each.
        nr::RSEQ | nr::MEMBARRIER | nr::PIDFD_OPEN | nr::SECCOMP => Err(Errno::ENOSYS.into()),

        nr::GETPID => identity::getpid(),
        nr::GETPPID => identity::getppid(),
        nr::GETTID => identity::gettid(),
        nr::GETUID | nr::GETEUID | nr::GETGID | nr::GETEGID => identity::get_id(number),
        nr::SETUID | nr::SETGID => identity::set_id(number, a0 as u32),
        nr::SETREUID | nr::SETREGID => identity::set_two_ids(number, a0 as u32, a1 as u32),
        nr::SETRESUID | nr::SETRESGID => {
            identity::set_three_ids(number, a0 as u32, a1 as u32, a2 as u32)
        }
        nr::GETRESUID | nr::GETRESGID => identity::get_three_ids(number, a0, a1, a2),
        // They answer the old value, and everybody is root.
        nr::SETFSUID | nr::SETFSGID => Ok(0),
        nr::GETGROUPS => identity::getgroups(a0 as i32, a1),
        nr::SETGROUPS => identity::setgroups(a0 as i32, a1),
        nr::GETPGID => identity::getpgid(a0 as u32),
        nr::SETPGID => identity::setpgid(a0 as i32, a1 as i32),
        nr::GETSID => identity::getsid(a0 as u32),
        nr::SETSID => identity::setsid(),
        nr::UMASK => identity::umask(a0 as u32),
        nr::CAPGET => identity::capget(a0, a1),
        nr::CAPSET => Ok(0),
        nr::PRLIMIT64 => identity::prlimit(a0 as u32, a1 as usize, a2, a3),
        nr::GETRLIMIT => identity::prlimit(0, a0 as usize, 0, a1),
        nr::SETRLIMIT => identity::prlimit(0, a0 as usize, a1, 0),

        nr::KILL => signal::kill(a0 as i32, a1 as u32),
        nr::TKILL => signal::tgkill(-1, a0 as i32, a1 as u32),
        nr::TGKILL if a0 as i32 > 0 => signal::tgkill(a0 as i32, a1 as i32, a2 as u32),
        nr::TGKILL => Err(Errno::EINVAL.into()),
        nr::RT_SIGACTION => signal::rt_sigaction(a0, a1, a2, a3),
        nr::RT_SIGPROCMASK => signal::rt_sigprocmask(a0 as u32, a1, a2, a3),
        nr::RT_SIGPENDING => signal::rt_sigpending(a0, a1),
        nr::RT_SIGSUSPEND => signal::rt_sigsuspend(a0, a1),
        nr::RT_SIGTIMEDWAIT => signal::rt_sigtimedwait(a0, a1, a2, a3),
        nr::RT_SIGQUEUEINFO => signal::rt_sigqueueinfo(a0 as u32, a1, a2),
        nr::RT_TGSIGQUEUEINFO => signal::rt_tgsigqueueinfo(a0 as u32, a1 as u32, a2, a3),
        nr::RT_SIGRETURN => {
            crate::process::signals::sigreturn(frame);
            let [x0, ..] = frame.x;
            Ok(x0 as i64)
        }
        nr::SIGALTSTACK => signal::sigaltstack(a0, a1, frame.sp),
        nr::RESTART_SYSCALL => match with_thread(|thread| thread.resume())? {
            Some((number, args)) if number != nr::RESTART_SYSCALL => {
                let result = dispatch(number, args, frame);
                with_thread(|thread| thread.resumed())?;
                result
            }
            _ => Err(Errno::EINTR.into()),
        },

        nr::CLOCK_GETTIME => time::clock_gettime(a0 as u32, a1),
        nr::CLOCK_SETTIME => time::clock_settime(a0 as u32, a1),
        nr::CLOCK_GETRES => time::clock_getres(a0 as u32, a1),
        nr::CLOCK_NANOSLEEP => time::clock_nanosleep(a0 as u32, a1 as u32, a2, a3),
        nr::NANOSLEEP => time::nanosleep(a0, a1),
        nr::GETTIMEOFDAY => time::gettimeofday(a0, a1),
        nr::SETTIMEOFDAY => time::settimeofday(a0),
        nr::TIMES => time::times(a0),
        nr::GETRUSAGE => time::getrusage(a0 as i32, a1),
        nr::GETITIMER => time::getitimer(a0 as u32, a1),
        nr::SETITIMER => time::setitimer(a0 as u32, a1, a2),

        nr::SCHED_YIELD => sched::sched_yield(),
        nr::SCHED_GETAFFINITY => sched::getaffinity(a0 as u32, a1, a2),
        nr::SCHED_SETAFFINITY => sched::setaffinity(a0 as u32, a1, a2),
        nr::SCHED_GETSCHEDULER => sched::getscheduler(a0 as u32),
        nr::SCHED_SETSCHEDULER => sched::setscheduler(a0 as u32, a1 as i32, a2),
        nr::SCHED_GETPARAM => sched::getparam(a0 as u32, a1),
        nr::SCHED_SETPARAM => sched::setparam(a0 as u32, a1),
        nr::SCHED_GET_PRIORITY_MAX => sched::priority_limit(a0 as u32, 99),
        nr::SCHED_GET_PRIORITY_MIN => sched::priority_limit(a0 as u32, 1),
        nr::SCHED_RR_GET_INTERVAL => sched::rr_get_interval(a0 as u32, a1),
        nr::GETPRIORITY => sched::getpriority(a0 as u32, a1 as u32),
        nr::SETPRIORITY => sched::setpriority(a0 as u32, a1 as u32, a2 as i32),
        nr::GETCPU => sched::getcpu(a0, a1),

        nr::UNAME => system::uname(a0),
        nr::SETHOSTNAME => system::sethostname(a0, a1),
        nr::SETDOMAINNAME => system::setdomainname(a0, a1),
        nr::SYSINFO => system::sysinfo(a0),
        nr::GETRANDOM => system::getrandom(a0, a1, a2 as u32),
        nr::SYSLOG => system::syslog(a0 as u32, a1, a2 as i32),
        nr::REBOOT => system::reboot(a0 as u32, a1 as u32, a2 as u32),

        _ => memory::dispatch(number, a)
            .or_else(|| socket::dispatch(number, a))
            .or_else(|| io::dispatch(number, a))
            .or_else(|| path::dispatch(number, a))
            .or_else(|| fd::dispatch(number, a))
            .or_else(|| poll::dispatch(number, a))
            .unwrap_or_else(|| unknown(number)),
    }
}

/// Which unknown calls were reported.
static REPORTED: Lock<[u64; 8]> = Lock::new(rank::LOG - 2, [0; 8]);

/// A call that isn't there: reported once, by name.
fn unknown(number: u64) -> SysResult {
    let word = (number / 64).min(7) as usize;
    let bit = 1u64 << (number % 64);
    let first = match REPORTED.lock().get_mut(word) {
        Some(word) => core::mem::replace(word, *word | bit) & bit == 0,
        None => false,
    };
    if first {
        let name = syscalls::name(number).unwrap_or("(no such call)");
        let pid = crate::process::caller().pid;
        log::warn!("Process {pid}: system call {number}, {name}, is not there: ENOSYS");
    }
    Err(Errno::ENOSYS.into())
}
