//! Signal numbers and sets of them.

use base::{Errno, Result};
use core::fmt;

/// A signal: 1 to 64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(u8);

/// The first real-time signal, as the kernel counts.
pub const SIGRTMIN: u8 = 32;
/// The last one.
pub const SIGRTMAX: u8 = 64;

macro_rules! signals {
    ($($name:ident = $number:literal),+ $(,)?) => {
        impl Signal {
            $(
                #[doc = concat!("Linux's `", stringify!($name), "`.")]
                pub const $name: Signal = Signal($number);
            )+

            /// The name, or "SIGRT" for a real-time signal.
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($number => stringify!($name),)+
                    _ => "SIGRT",
                }
            }
        }
    };
}

// asm-generic/signal.h
signals! {
    SIGHUP = 1,
    SIGINT = 2,
    SIGQUIT = 3,
    SIGILL = 4,
    SIGTRAP = 5,
    SIGABRT = 6,
    SIGBUS = 7,
    SIGFPE = 8,
    SIGKILL = 9,
    SIGUSR1 = 10,
    SIGSEGV = 11,
    SIGUSR2 = 12,
    SIGPIPE = 13,
    SIGALRM = 14,
    SIGTERM = 15,
    SIGSTKFLT = 16,
    SIGCHLD = 17,
    SIGCONT = 18,
    SIGSTOP = 19,
    SIGTSTP = 20,
    SIGTTIN = 21,
    SIGTTOU = 22,
    SIGURG = 23,
    SIGXCPU = 24,
    SIGXFSZ = 25,
    SIGVTALRM = 26,
    SIGPROF = 27,
    SIGWINCH = 28,
    SIGIO = 29,
    SIGPWR = 30,
    SIGSYS = 31,
}

/// What happens to a process that has set no handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    /// It ends.
    Terminate,
    /// It ends and its image is of interest.
    CoreDump,
    /// Nothing.
    Ignore,
    /// It stops.
    Stop,
    /// It continues (when the signal is sent); at delivery, nothing.
    Continue,
}

impl Signal {
    /// The signal of that number: `EINVAL` for 0 and what is beyond 64.
    pub fn new(number: u64) -> Result<Signal> {
        match u8::try_from(number) {
            Ok(number @ 1..=64) => Ok(Signal(number)),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Its number.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Whether every instance of it is queued.
    pub const fn is_realtime(self) -> bool {
        self.0 >= SIGRTMIN
    }

    /// Its default action (signal(7), "Standard signals").
    pub const fn default_action(self) -> DefaultAction {
        match self {
            Signal::SIGCHLD | Signal::SIGURG | Signal::SIGWINCH => DefaultAction::Ignore,
            Signal::SIGCONT => DefaultAction::Continue,
            Signal::SIGSTOP | Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU => {
                DefaultAction::Stop
            }
            Signal::SIGQUIT
            | Signal::SIGILL
            | Signal::SIGTRAP
            | Signal::SIGABRT
            | Signal::SIGFPE
            | Signal::SIGSEGV
            | Signal::SIGBUS
            | Signal::SIGSYS
            | Signal::SIGXCPU
            | Signal::SIGXFSZ => DefaultAction::CoreDump,
            _ => DefaultAction::Terminate,
        }
    }

    const fn bit(self) -> u64 {
        // A Signal is 1 to 64.
        1u64.wrapping_shl((self.0 as u32).wrapping_sub(1))
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of signals; as in user memory, bit n - 1 is signal n.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct SigSet(u64);

impl SigSet {
    /// No signal.
    pub const EMPTY: SigSet = SigSet(0);
    /// Every signal.
    pub const ALL: SigSet = SigSet(u64::MAX);
    /// SIGKILL and SIGSTOP: never blocked, caught or ignored.
    pub const UNCATCHABLE: SigSet = SigSet(Signal::SIGKILL.bit() | Signal::SIGSTOP.bit());
    /// Those that stop a process.
    pub const STOP: SigSet = SigSet(
        Signal::SIGSTOP.bit()
            | Signal::SIGTSTP.bit()
            | Signal::SIGTTIN.bit()
            | Signal::SIGTTOU.bit(),
    );
    /// Those that an instruction causes: delivered before others.
    pub const SYNCHRONOUS: SigSet = SigSet(
        Signal::SIGSEGV.bit()
            | Signal::SIGBUS.bit()
            | Signal::SIGILL.bit()
            | Signal::SIGTRAP.bit()
            | Signal::SIGFPE.bit()
            | Signal::SIGSYS.bit(),
    );

    /// The set that a word of user memory describes.
    pub const fn from_bits(bits: u64) -> SigSet {
        SigSet(bits)
    }

    /// The word for user memory.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Just `signal`.
    pub const fn only(signal: Signal) -> SigSet {
        SigSet(signal.bit())
    }

    /// What may be blocked of it: all but SIGKILL and SIGSTOP.
    pub const fn blockable(self) -> SigSet {
        self.without(SigSet::UNCATCHABLE)
    }

    /// Pending signals that sending `signal` takes back: SIGCONT and the stop
    /// signals cancel each other.
    pub const fn cancelled_by(signal: Signal) -> SigSet {
        match signal {
            Signal::SIGCONT => SigSet::STOP,
            _ if SigSet::STOP.contains(signal) => SigSet::only(Signal::SIGCONT),
            _ => SigSet::EMPTY,
        }
    }

    /// Whether `signal` is in it.
    pub const fn contains(self, signal: Signal) -> bool {
        self.0 & signal.bit() != 0
    }

    /// Whether nothing is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What is in either.
    pub const fn with(self, other: SigSet) -> SigSet {
        SigSet(self.0 | other.0)
    }

    /// What is in this one only.
    pub const fn without(self, other: SigSet) -> SigSet {
        SigSet(self.0 & !other.0)
    }

    /// What is in both.
    pub const fn and(self, other: SigSet) -> SigSet {
        SigSet(self.0 & other.0)
    }

    /// Adds `signal`.
    pub const fn insert(&mut self, signal: Signal) {
        self.0 |= signal.bit();
    }

    /// Takes `signal` out.
    pub const fn remove(&mut self, signal: Signal) {
        self.0 &= !signal.bit();
    }

    /// The one with the lowest number.
    pub fn first(self) -> Option<Signal> {
        Signal::new(u64::from(self.0.trailing_zeros()).saturating_add(1)).ok()
    }

    /// All of them, in order.
    pub fn iter(self) -> impl Iterator<Item = Signal> {
        let mut left = self;
        core::iter::from_fn(move || {
            let signal = left.first()?;
            left.remove(signal);
            Some(signal)
        })
    }
}

impl fmt::Debug for SigSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn numbers() {
        assert_eq!(Signal::new(0), Err(Errno::EINVAL));
        assert_eq!(Signal::new(65), Err(Errno::EINVAL));
        assert_eq!(Signal::new(u64::MAX), Err(Errno::EINVAL));
        assert_eq!(Signal::new(9), Ok(Signal::SIGKILL));
        assert!(Signal::new(32).unwrap().is_realtime());
        assert_eq!(SigSet::only(Signal::new(64).unwrap()).bits(), 1 << 63);
        assert_eq!(SigSet::only(Signal::SIGHUP).bits(), 1);
    }

    #[test]
    fn continuing_and_stopping_cancel_each_other() {
        assert_eq!(SigSet::cancelled_by(Signal::SIGCONT), SigSet::STOP);
        assert_eq!(SigSet::cancelled_by(Signal::SIGTSTP), SigSet::only(Signal::SIGCONT));
        assert!(SigSet::cancelled_by(Signal::SIGKILL).is_empty());
    }

    proptest! {
        #[test]
        fn sets_are_their_members(bits: u64) {
            let set = SigSet::from_bits(bits);
            let members: Vec<_> = set.iter().collect();
            prop_assert_eq!(members.len() as u32, bits.count_ones());
            let again = members.iter().fold(SigSet::EMPTY, |mut set, &signal| {
                set.insert(signal);
                set
            });
            prop_assert_eq!(again, set);
            prop_assert!(members.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
