//! What a process wants done with each signal (sigaction(2)).

use crate::set::{DefaultAction, SigSet, Signal};
use base::{Errno, Result};

/// SA_* flags (asm-generic/signal-defs.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Flags(u64);

impl Flags {
    /// No SIGCHLD when children stop or continue.
    pub const NOCLDSTOP: Flags = Flags(1);
    /// Children leave no zombies.
    pub const NOCLDWAIT: Flags = Flags(2);
    /// The handler takes three arguments.
    pub const SIGINFO: Flags = Flags(4);
    /// Addresses keep their tag bits.
    pub const EXPOSE_TAGBITS: Flags = Flags(0x800);
    /// sa_restorer is set (glibc does not on arm64).
    pub const RESTORER: Flags = Flags(0x0400_0000);
    /// The handler runs on the alternate stack.
    pub const ONSTACK: Flags = Flags(0x0800_0000);
    /// Interrupted system calls start again.
    pub const RESTART: Flags = Flags(0x1000_0000);
    /// The signal is not blocked in its handler.
    pub const NODEFER: Flags = Flags(0x4000_0000);
    /// Back to the default once delivered.
    pub const RESETHAND: Flags = Flags(0x8000_0000);

    const KNOWN: u64 = 0xdc00_0807;

    /// The flags that the kernel knows of `bits`: others read back as 0, which
    /// is how programs find out.
    pub const fn from_bits(bits: u64) -> Flags {
        Flags(bits & Self::KNOWN)
    }

    /// As in user memory.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether all of `other` are set.
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

/// sa_handler
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Handler {
    /// SIG_DFL
    #[default]
    Default,
    /// SIG_IGN
    Ignore,
    /// A function at this address.
    Function(u64),
}

/// One signal's struct sigaction, as the system call has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Action {
    /// sa_handler
    pub handler: Handler,
    /// sa_flags
    pub flags: Flags,
    /// sa_restorer
    pub restorer: u64,
    /// sa_mask
    pub mask: SigSet,
}

impl Action {
    /// Reads handler, flags, restorer and mask: the words of the kernel's
    /// struct sigaction.
    pub fn from_words([handler, flags, restorer, mask]: [u64; 4]) -> Action {
        let handler = match handler {
            0 => Handler::Default,
            1 => Handler::Ignore,
            addr => Handler::Function(addr),
        };
        let mask = SigSet::from_bits(mask).blockable();
        Action { handler, flags: Flags::from_bits(flags), restorer, mask }
    }

    /// The same words.
    pub fn to_words(&self) -> [u64; 4] {
        let handler = match self.handler {
            Handler::Default => 0,
            Handler::Ignore => 1,
            Handler::Function(addr) => addr,
        };
        [handler, self.flags.bits(), self.restorer, self.mask.bits()]
    }
}

/// What a parent is to hear of its child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChildNotice {
    /// Send SIGCHLD.
    pub signal: bool,
    /// Leave no zombie: nobody will wait for it.
    pub reap: bool,
}

/// All actions of a process.
#[derive(Clone, Debug)]
pub struct Actions {
    actions: [Action; 64],
}

impl Actions {
    /// Everything at its default.
    pub const fn new() -> Actions {
        const DEFAULT: Action =
            Action { handler: Handler::Default, flags: Flags(0), restorer: 0, mask: SigSet::EMPTY };
        Actions { actions: [DEFAULT; 64] }
    }

    /// What to do with `signal`.
    #[expect(clippy::indexing_slicing, reason = "a Signal is 1 to 64")]
    pub fn get(&self, signal: Signal) -> Action {
        self.actions[usize::from(signal.number()).wrapping_sub(1) % 64]
    }

    /// rt_sigaction(): `EINVAL` for SIGKILL and SIGSTOP. Returns the signals to
    /// flush from all queues of the process: one that is ignored from now on is
    /// not pending any more.
    pub fn set(&mut self, signal: Signal, action: Action) -> Result<SigSet> {
        if SigSet::UNCATCHABLE.contains(signal) {
            return Err(Errno::EINVAL);
        }
        self.put(signal, action);
        let ignored = self.discards(signal);
        Ok(if ignored { SigSet::only(signal) } else { SigSet::EMPTY })
    }

    #[expect(clippy::indexing_slicing, reason = "a Signal is 1 to 64")]
    pub(crate) fn put(&mut self, signal: Signal, action: Action) {
        self.actions[usize::from(signal.number()).wrapping_sub(1) % 64] = action;
    }

    /// execve(): handlers are gone, what is ignored stays so.
    pub fn reset_for_exec(&mut self) {
        for action in &mut self.actions {
            let handler = match action.handler {
                Handler::Ignore => Handler::Ignore,
                _ => Handler::Default,
            };
            *action = Action { handler, ..Action::default() };
        }
    }

    /// clone() with CLONE_CLEAR_SIGHAND.
    pub fn clear_handlers(&mut self) {
        self.reset_for_exec();
    }

    /// Whether the signal does nothing when delivered.
    fn discards(&self, signal: Signal) -> bool {
        match self.get(signal).handler {
            Handler::Ignore => true,
            Handler::Default => {
                matches!(signal.default_action(), DefaultAction::Ignore | DefaultAction::Continue)
            }
            Handler::Function(_) => false,
        }
    }

    /// Whether sending `signal` to a thread that blocks `blocked` can be left
    /// out. A blocked signal counts: its action may change. `unkillable` is for
    /// init, which only gets signals that it handles.
    pub fn ignores(&self, signal: Signal, blocked: SigSet, unkillable: bool) -> bool {
        if unkillable && self.get(signal).handler == Handler::Default {
            return true;
        }
        !blocked.contains(signal) && self.discards(signal)
    }

    /// A child ended.
    pub fn on_child_exit(&self) -> ChildNotice {
        let action = self.get(Signal::SIGCHLD);
        let ignored = action.handler == Handler::Ignore;
        let reap = ignored || action.flags.contains(Flags::NOCLDWAIT);
        ChildNotice { signal: !ignored, reap }
    }

    /// Whether to send SIGCHLD when a child stops or continues.
    pub fn wants_child_stops(&self) -> bool {
        let action = self.get(Signal::SIGCHLD);
        action.handler != Handler::Ignore && !action.flags.contains(Flags::NOCLDSTOP)
    }

    /// The sets SigIgn and SigCgt of /proc/PID/status.
    pub fn ignored_and_caught(&self) -> (SigSet, SigSet) {
        let (mut ignored, mut caught) = (SigSet::EMPTY, SigSet::EMPTY);
        for signal in SigSet::ALL.iter() {
            match self.get(signal).handler {
                Handler::Default => {}
                Handler::Ignore => ignored.insert(signal),
                Handler::Function(_) => caught.insert(signal),
            }
        }
        (ignored, caught)
    }
}

impl Default for Actions {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const IGNORE: Action =
        Action { handler: Handler::Ignore, flags: Flags(0), restorer: 0, mask: SigSet::EMPTY };

    fn caught(flags: Flags) -> Action {
        Action { handler: Handler::Function(0x1000), flags, ..Action::default() }
    }

    #[test]
    fn some_signals_are_nobodys_choice() {
        let mut actions = Actions::new();
        assert_eq!(actions.set(Signal::SIGKILL, IGNORE), Err(Errno::EINVAL));
        assert_eq!(actions.set(Signal::SIGSTOP, caught(Flags(0))), Err(Errno::EINVAL));
    }

    #[test]
    fn ignoring_flushes() {
        let mut actions = Actions::new();
        let term = SigSet::only(Signal::SIGTERM);
        assert_eq!(actions.set(Signal::SIGTERM, IGNORE), Ok(term));
        assert_eq!(actions.set(Signal::SIGTERM, Action::default()), Ok(SigSet::EMPTY));
        let chld = SigSet::only(Signal::SIGCHLD);
        assert_eq!(actions.set(Signal::SIGCHLD, Action::default()), Ok(chld));
        assert_eq!(actions.set(Signal::SIGCHLD, caught(Flags(0))), Ok(SigSet::EMPTY));
    }

    #[test]
    fn what_can_be_left_out() {
        let mut actions = Actions::new();
        let none = SigSet::EMPTY;
        assert!(actions.ignores(Signal::SIGCHLD, none, false));
        assert!(!actions.ignores(Signal::SIGCHLD, SigSet::ALL, false));
        assert!(!actions.ignores(Signal::SIGTERM, none, false));
        assert!(actions.ignores(Signal::SIGTERM, none, true));
        assert!(actions.ignores(Signal::SIGKILL, none, true));
        actions.set(Signal::SIGTERM, caught(Flags(0))).unwrap();
        assert!(!actions.ignores(Signal::SIGTERM, none, true));
    }

    #[test]
    fn exec_keeps_what_is_ignored() {
        let mut actions = Actions::new();
        actions.set(Signal::SIGINT, IGNORE).unwrap();
        actions.set(Signal::SIGHUP, caught(Flags::RESTART)).unwrap();
        let sets = actions.ignored_and_caught();
        assert_eq!(sets, (SigSet::only(Signal::SIGINT), SigSet::only(Signal::SIGHUP)));
        actions.reset_for_exec();
        assert_eq!(actions.get(Signal::SIGINT).handler, Handler::Ignore);
        assert_eq!(actions.get(Signal::SIGHUP), Action::default());
    }

    #[test]
    fn children() {
        let mut actions = Actions::new();
        let notice = |signal, reap| ChildNotice { signal, reap };
        assert_eq!(actions.on_child_exit(), notice(true, false));
        assert!(actions.wants_child_stops());
        actions.set(Signal::SIGCHLD, caught(Flags(3))).unwrap();
        assert_eq!(actions.on_child_exit(), notice(true, true));
        assert!(!actions.wants_child_stops());
        actions.set(Signal::SIGCHLD, IGNORE).unwrap();
        assert_eq!(actions.on_child_exit(), notice(false, true));
    }

    proptest! {
        #[test]
        fn words_round_trip(words: [u64; 4]) {
            let action = Action::from_words(words);
            prop_assert_eq!(Action::from_words(action.to_words()), action);
            prop_assert!(action.mask.and(SigSet::UNCATCHABLE).is_empty());
            // SA_UNSUPPORTED never reads back.
            prop_assert_eq!(action.flags.bits() & 0x400, 0);
        }
    }
}
