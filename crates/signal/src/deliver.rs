//! From pending signals to what a thread does next.

use crate::action::{Action, Actions, Flags, Handler};
use crate::altstack::AltStack;
use crate::info::SigInfo;
use crate::pending::Pending;
use crate::set::{DefaultAction, SigSet, Signal};
use base::Result;

/// One thread's signals.
#[derive(Clone, Debug, Default)]
pub struct ThreadSignals {
    blocked: SigSet,
    /// The mask to go back to when a call such as rt_sigsuspend() or ppoll()
    /// has put another in its place.
    saved: Option<SigSet>,
    /// Signals for this thread alone.
    pub pending: Pending,
    /// Its alternate stack.
    pub altstack: AltStack,
}

impl ThreadSignals {
    /// For a thread that starts with `blocked`: its creator's mask.
    pub const fn new(blocked: SigSet) -> ThreadSignals {
        ThreadSignals {
            blocked: blocked.blockable(),
            saved: None,
            pending: Pending::new(),
            altstack: AltStack::new(),
        }
    }

    /// The signal mask.
    pub const fn blocked(&self) -> SigSet {
        self.blocked
    }

    /// Sets the mask (rt_sigprocmask(), sigreturn); SIGKILL and SIGSTOP stay
    /// unblocked.
    pub fn set_blocked(&mut self, mask: SigSet) {
        self.blocked = mask.blockable();
    }

    /// rt_sigsuspend(), ppoll(), pselect6(), epoll_pwait(): another mask for the
    /// time of the call.
    pub fn swap_blocked(&mut self, mask: SigSet) {
        self.saved.get_or_insert(self.blocked);
        self.set_blocked(mask);
    }

    /// The call is over and no handler runs: back to the mask from before.
    pub fn restore_blocked(&mut self) {
        if let Some(mask) = self.saved.take() {
            self.blocked = mask;
        }
    }

    /// Sends a signal to this thread alone.
    pub fn send(&mut self, info: SigInfo, limit: usize) -> Result<()> {
        self.pending.send(info, limit)
    }

    /// Whether there is something to do on the way to EL0; `shared` is the
    /// process's [`Pending::set`].
    pub fn has_work(&self, shared: SigSet) -> bool {
        !self.pending.set().with(shared).without(self.blocked).is_empty()
    }

    /// Whether this thread would take `signal` if the process got it.
    pub const fn wants(&self, signal: Signal) -> bool {
        !self.blocked.contains(signal)
    }

    /// A handler's frame is built: changes the mask for the time it runs.
    pub fn enter_handler(&mut self, signal: Signal, action: &Action) {
        let mut blocked = self.blocked.with(action.mask);
        if !action.flags.contains(Flags::NODEFER) {
            blocked.insert(signal);
        }
        self.blocked = blocked.blockable();
        self.saved = None;
    }

    /// The mask that a handler's frame saves and sigreturn restores.
    pub fn mask_to_save(&self) -> SigSet {
        self.saved.unwrap_or(self.blocked)
    }

    /// execve(): pending signals and the mask stay, the stack goes.
    pub fn reset_for_exec(&mut self) {
        self.altstack = AltStack::new();
    }
}

/// What to do with a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// End the whole process.
    Terminate {
        /// Linux would write its memory out; wait() reports so.
        core: bool,
    },
    /// Stop the whole process. For other signals than SIGSTOP only if its
    /// process group is not orphaned.
    Stop,
    /// Run a handler: build its frame with [`ThreadSignals::mask_to_save`], then
    /// call [`ThreadSignals::enter_handler`]. If the frame cannot be written,
    /// [`force`] SIGSEGV.
    Handler(Action),
}

/// Takes the next signal that something is to be done about, if there is one;
/// on the way, ignored ones are dropped. `unkillable` is for init.
///
/// With nothing left to do, call [`ThreadSignals::restore_blocked`].
pub fn next_action(
    thread: &mut ThreadSignals,
    shared: &mut Pending,
    actions: &mut Actions,
    unkillable: bool,
) -> Option<(SigInfo, Delivery)> {
    // Ends: every round takes a signal, and none is added.
    loop {
        let info = take_next(thread, shared)?;
        let signal = info.signal();
        let action = actions.get(signal);
        match action.handler {
            Handler::Ignore => {}
            Handler::Function(_) => {
                if action.flags.contains(Flags::RESETHAND) {
                    actions.put(signal, Action::default());
                }
                return Some((info, Delivery::Handler(action)));
            }
            Handler::Default if unkillable => {}
            Handler::Default => match signal.default_action() {
                DefaultAction::Ignore | DefaultAction::Continue => {}
                DefaultAction::Stop => return Some((info, Delivery::Stop)),
                DefaultAction::Terminate => {
                    return Some((info, Delivery::Terminate { core: false }));
                }
                DefaultAction::CoreDump => {
                    return Some((info, Delivery::Terminate { core: true }));
                }
            },
        }
    }
}

/// SIGKILL before all else, then this thread's own, then the process's.
fn take_next(thread: &mut ThreadSignals, shared: &mut Pending) -> Option<SigInfo> {
    let kill = Signal::SIGKILL;
    if let Some(info) = thread.pending.take(kill).or_else(|| shared.take(kill)) {
        return Some(info);
    }
    let blocked = thread.blocked;
    if let Some(signal) = thread.pending.next(blocked) {
        return thread.pending.take(signal);
    }
    let signal = shared.next(blocked)?;
    shared.take(signal)
}

/// Sends a signal that cannot be put off: a fault of the thread's own. Blocked
/// or ignored, it gets its default action. `fatal`: not even a handler may run
/// (the frame of a SIGSEGV handler could not be written).
///
/// Returns whether the default action will be taken, even for init: the caller
/// then passes `unkillable` as false to [`next_action`].
pub fn force(
    thread: &mut ThreadSignals,
    actions: &mut Actions,
    info: SigInfo,
    fatal: bool,
) -> bool {
    let signal = info.signal();
    let action = actions.get(signal);
    if fatal || thread.blocked.contains(signal) || action.handler == Handler::Ignore {
        actions.put(signal, Action::default());
        thread.blocked.remove(signal);
    }
    // The new fault is what to report, not one still pending from before.
    thread.pending.flush(SigSet::only(signal));
    // Without memory the signal is sent all the same, without its information.
    let _ = thread.pending.send(info, usize::MAX);
    actions.get(signal).handler == Handler::Default
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::code;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[derive(Default)]
    struct Process {
        thread: ThreadSignals,
        shared: Pending,
        actions: Actions,
        init: bool,
    }

    fn info(number: u8) -> SigInfo {
        SigInfo::user(Signal::new(number.into()).unwrap(), code::SI_USER, 1, 0)
    }

    fn handler(flags: Flags, mask: SigSet) -> Action {
        Action { handler: Handler::Function(0x4000), flags, restorer: 0, mask }
    }

    impl Process {
        fn next(&mut self) -> Option<(u8, Delivery)> {
            next_action(&mut self.thread, &mut self.shared, &mut self.actions, self.init)
                .map(|(info, delivery)| (info.signal().number(), delivery))
        }
        fn send(&mut self, number: u8) {
            self.shared.send(info(number), 99).unwrap();
        }
    }

    #[test]
    fn defaults() {
        let mut process = Process::default();
        for number in [17, 18, 20, 15, 3, 40] {
            process.send(number);
        }
        assert_eq!(process.next(), Some((3, Delivery::Terminate { core: true })));
        assert_eq!(process.next(), Some((15, Delivery::Terminate { core: false })));
        assert_eq!(process.next(), Some((20, Delivery::Stop)));
        assert_eq!(process.next(), Some((40, Delivery::Terminate { core: false })));
        assert_eq!(process.next(), None);
    }

    #[test]
    fn order() {
        let mut process = Process::default();
        process.send(1);
        process.send(9);
        process.thread.send(info(15), 9).unwrap();
        process.thread.send(info(11), 9).unwrap();
        let order: Vec<_> =
            core::iter::from_fn(|| process.next()).map(|(number, _)| number).collect();
        assert_eq!(order, [9, 11, 15, 1]);
    }

    #[test]
    fn masks_while_a_handler_runs() {
        let mut process = Process::default();
        let mask = SigSet::from_bits(u64::MAX);
        let action = handler(Flags::RESETHAND, SigSet::only(Signal::SIGINT));
        process.actions.set(Signal::SIGUSR1, action).unwrap();
        process.send(10);
        let Some((10, Delivery::Handler(action))) = process.next() else { panic!() };
        process.thread.enter_handler(Signal::SIGUSR1, &action);
        let both = SigSet::only(Signal::SIGINT).with(SigSet::only(Signal::SIGUSR1));
        assert_eq!(process.thread.blocked(), both);
        assert_eq!(process.actions.get(Signal::SIGUSR1), Action::default());
        process.send(2);
        assert!(!process.thread.has_work(process.shared.set()));
        assert_eq!(process.next(), None);
        process.thread.set_blocked(SigSet::EMPTY);
        assert!(process.thread.has_work(process.shared.set()));

        let nodefer = handler(Flags::NODEFER, mask);
        process.thread.enter_handler(Signal::SIGUSR2, &nodefer);
        assert_eq!(process.thread.blocked(), SigSet::ALL.blockable());
        process.thread.set_blocked(SigSet::EMPTY);
        process.thread.enter_handler(Signal::SIGUSR2, &handler(Flags::NODEFER, SigSet::EMPTY));
        assert_eq!(process.thread.blocked(), SigSet::EMPTY);
    }

    #[test]
    fn masks_for_the_time_of_a_call() {
        let mut thread = ThreadSignals::new(SigSet::only(Signal::SIGHUP));
        thread.swap_blocked(SigSet::ALL);
        assert!(thread.wants(Signal::SIGKILL) && !thread.wants(Signal::SIGTERM));
        assert_eq!(thread.mask_to_save(), SigSet::only(Signal::SIGHUP));
        thread.restore_blocked();
        assert_eq!(thread.blocked(), SigSet::only(Signal::SIGHUP));
        thread.swap_blocked(SigSet::EMPTY);
        thread.enter_handler(Signal::SIGINT, &handler(Flags::default(), SigSet::EMPTY));
        thread.restore_blocked();
        assert_eq!(thread.blocked(), SigSet::only(Signal::SIGINT));
    }

    #[test]
    fn init_dies_of_its_own_faults_only() {
        let mut process = Process { init: true, ..Process::default() };
        process.send(15);
        process.send(9);
        assert_eq!(process.next(), None);
        let fault = SigInfo::fault(Signal::SIGSEGV, code::SEGV_MAPERR, 0);
        assert!(force(&mut process.thread, &mut process.actions, fault, false));
        process.init = false;
        assert_eq!(process.next(), Some((11, Delivery::Terminate { core: true })));
    }

    #[test]
    fn forced_signals() {
        let mut process = Process::default();
        let fault = SigInfo::fault(Signal::SIGSEGV, code::SEGV_MAPERR, 0x1234);
        let action = handler(Flags::SIGINFO, SigSet::EMPTY);
        process.actions.set(Signal::SIGSEGV, action).unwrap();
        assert!(!force(&mut process.thread, &mut process.actions, fault, false));
        assert_eq!(process.next(), Some((11, Delivery::Handler(action))));
        // A fault in the handler's own frame, or with the signal blocked, kills.
        assert!(force(&mut process.thread, &mut process.actions, fault, true));
        assert_eq!(process.next(), Some((11, Delivery::Terminate { core: true })));
        process.actions.set(Signal::SIGSEGV, action).unwrap();
        process.thread.set_blocked(SigSet::ALL);
        assert!(force(&mut process.thread, &mut process.actions, fault, false));
        assert_eq!(process.next(), Some((11, Delivery::Terminate { core: true })));
    }

    proptest! {
        #[test]
        fn everything_unblocked_is_taken(
            own in prop::collection::vec(1u8..65, 0..20),
            shared in prop::collection::vec(1u8..65, 0..20),
            blocked: u64,
        ) {
            let mut process = Process::default();
            process.thread.set_blocked(SigSet::from_bits(blocked));
            own.iter().for_each(|&number| process.thread.send(info(number), 99).unwrap());
            shared.iter().for_each(|&number| process.send(number));
            let mut rounds = 0;
            while let Some((number, _)) = process.next() {
                rounds += 1;
                prop_assert!(process.thread.wants(Signal::new(number.into()).unwrap()));
            }
            prop_assert!(rounds <= own.len() + shared.len());
            prop_assert!(!process.thread.has_work(process.shared.set()));
        }
    }
}
