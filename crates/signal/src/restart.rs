//! What becomes of a system call that a signal interrupted (signal(7),
//! "Interruption of system calls and library functions by signal handlers").

use crate::action::Flags;

/// What an interrupted system call returns inside the kernel, in place of an
/// errno; user space never sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// ERESTARTSYS: starts again, unless a handler without SA_RESTART ran.
    Sys,
    /// ERESTARTNOHAND: starts again, unless any handler ran.
    NoHandler,
    /// ERESTARTNOINTR: always starts again.
    Always,
    /// ERESTART_RESTARTBLOCK: goes on by restart_syscall() (with what is left of
    /// the time), unless any handler ran.
    Block,
}

/// How user space goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// The call returns `EINTR`.
    Interrupted,
    /// x0 gets its first value back, and the PC goes back to the SVC.
    Again,
    /// The PC goes back to the SVC, and x8 becomes restart_syscall's number.
    RestartSyscall,
}

impl Restart {
    /// What to do: `handler` has the flags of the handler about to run, or is
    /// `None` if the signal turned out to need none.
    pub const fn resume(self, handler: Option<Flags>) -> Resume {
        match (self, handler) {
            (Restart::Always, _) => Resume::Again,
            (Restart::Block, None) => Resume::RestartSyscall,
            (_, None) => Resume::Again,
            (Restart::Sys, Some(flags)) if flags.contains(Flags::RESTART) => Resume::Again,
            (_, Some(_)) => Resume::Interrupted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_linux_does() {
        let plain = Some(Flags::default());
        let restart = Some(Flags::RESTART);
        let all = |kind: Restart| [kind.resume(None), kind.resume(plain), kind.resume(restart)];
        use Resume::*;
        assert_eq!(all(Restart::Sys), [Again, Interrupted, Again]);
        assert_eq!(all(Restart::NoHandler), [Again, Interrupted, Interrupted]);
        assert_eq!(all(Restart::Always), [Again, Again, Again]);
        assert_eq!(all(Restart::Block), [RestartSyscall, Interrupted, Interrupted]);
    }
}
