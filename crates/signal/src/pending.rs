//! Signals sent and not yet taken.

use crate::info::{SigInfo, code};
use crate::set::{SigSet, Signal};
use alloc::collections::VecDeque;
use base::{Errno, Result, Room};

/// A queue of pending signals: one per thread, and one per process for any of
/// its threads.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    set: SigSet,
    queue: VecDeque<SigInfo>,
}

impl Pending {
    /// Nothing pending.
    pub const fn new() -> Pending {
        Pending { set: SigSet::EMPTY, queue: VecDeque::new() }
    }

    /// Which signals are pending.
    pub const fn set(&self) -> SigSet {
        self.set
    }

    /// How many are queued: counts against RLIMIT_SIGPENDING.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether none is pending.
    pub const fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Adds a signal. A standard signal that is pending already stays as it is;
    /// real-time signals queue up to `limit` (RLIMIT_SIGPENDING), then those
    /// that carry a value fail with `EAGAIN`, and those of kill() lose their
    /// information.
    pub fn send(&mut self, info: SigInfo, limit: usize) -> Result<()> {
        let signal = info.signal();
        if !signal.is_realtime() && self.set.contains(signal) {
            return Ok(());
        }
        // At most 31 standard signals queue, so the kernel's own always may.
        let room = self.queue.len() < limit || (!signal.is_realtime() && info.code() >= 0);
        if room && self.queue.make_room(1).is_ok() {
            self.queue.push_back(info);
        } else if signal.is_realtime() && info.code() != code::SI_USER {
            return Err(Errno::EAGAIN);
        }
        self.set.insert(signal);
        Ok(())
    }

    /// Which pending signal comes first among those not `blocked`: those that an
    /// instruction caused, then the lowest number.
    pub fn next(&self, blocked: SigSet) -> Option<Signal> {
        let ready = self.set.without(blocked);
        ready.and(SigSet::SYNCHRONOUS).first().or_else(|| ready.first())
    }

    /// Takes the oldest instance of `signal`; `None` if it isn't pending.
    pub fn take(&mut self, signal: Signal) -> Option<SigInfo> {
        if !self.set.contains(signal) {
            return None;
        }
        let mut same = self.queue.iter().enumerate().filter(|(_, info)| info.signal() == signal);
        let first = same.next().map(|(at, _)| at);
        let more = same.next().is_some();
        if !more {
            self.set.remove(signal);
        }
        let info = first.and_then(|at| self.queue.remove(at));
        Some(info.unwrap_or_else(|| SigInfo::user(signal, code::SI_USER, 0, 0)))
    }

    /// Takes the next signal of `wanted`: rt_sigtimedwait(), signalfd.
    pub fn take_any(&mut self, wanted: SigSet) -> Option<SigInfo> {
        let signal = self.next(SigSet::ALL.without(wanted))?;
        self.take(signal)
    }

    /// Drops all instances of the signals in `which`.
    pub fn flush(&mut self, which: SigSet) {
        if !self.set.and(which).is_empty() {
            self.set = self.set.without(which);
            self.queue.retain(|info| !which.contains(info.signal()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn queued(number: u64, value: u32) -> SigInfo {
        SigInfo::user(Signal::new(number).unwrap(), code::SI_QUEUE, value, 0)
    }

    #[test]
    fn standard_signals_coalesce() {
        let mut pending = Pending::new();
        pending.send(queued(10, 1), 9).unwrap();
        pending.send(queued(10, 2), 9).unwrap();
        assert_eq!(pending.take(Signal::SIGUSR1).unwrap().pid(), 1);
        assert_eq!(pending.take(Signal::SIGUSR1), None);
        assert!(pending.is_empty());
    }

    #[test]
    fn real_time_signals_queue() {
        let mut pending = Pending::new();
        let rt = Signal::new(34).unwrap();
        for value in 1..4 {
            pending.send(queued(34, value), 3).unwrap();
        }
        assert_eq!(pending.send(queued(34, 4), 3), Err(Errno::EAGAIN));
        assert_eq!(pending.send(SigInfo::user(rt, code::SI_USER, 9, 9), 3), Ok(()));
        let taken: Vec<_> =
            core::iter::from_fn(|| pending.take(rt)).map(|info| info.pid()).collect();
        assert_eq!(taken, [1, 2, 3]);
    }

    #[test]
    fn signals_without_information() {
        let mut pending = Pending::new();
        pending.send(SigInfo::user(Signal::SIGTERM, code::SI_QUEUE, 1, 1), 0).unwrap();
        let info = pending.take(Signal::SIGTERM).unwrap();
        assert_eq!((info.pid(), info.code()), (0, code::SI_USER));
        pending.send(SigInfo::user(Signal::SIGTERM, code::SI_USER, 1, 1), 0).unwrap();
        assert_eq!(pending.take(Signal::SIGTERM).unwrap().pid(), 1);
    }

    #[test]
    fn order_and_flushing() {
        let mut pending = Pending::new();
        for number in [40, 2, 11, 1] {
            pending.send(queued(number, 0), 9).unwrap();
        }
        assert_eq!(pending.next(SigSet::EMPTY), Some(Signal::SIGSEGV));
        assert_eq!(pending.next(SigSet::SYNCHRONOUS), Some(Signal::SIGHUP));
        assert_eq!(
            pending.take_any(SigSet::only(Signal::SIGINT)).unwrap().signal(),
            Signal::SIGINT
        );
        assert_eq!(pending.take_any(SigSet::only(Signal::SIGINT)), None);
        pending.flush(SigSet::only(Signal::SIGSEGV));
        assert_eq!((pending.len(), pending.next(SigSet::EMPTY)), (2, Some(Signal::SIGHUP)));
        assert_eq!(pending.next(SigSet::ALL), None);
    }

    proptest! {
        #[test]
        fn set_and_queue_agree(ops in prop::collection::vec((0u8..4, 1u64..65), 0..200)) {
            let mut pending = Pending::new();
            for (op, number) in ops {
                let signal = Signal::new(number).unwrap();
                match op {
                    0 => { pending.take(signal); }
                    1 => pending.flush(SigSet::only(signal)),
                    _ => { let _ = pending.send(queued(number, 0), 50); }
                }
                prop_assert!(pending.len() <= 50 + 31);
                for info in &pending.queue {
                    prop_assert!(pending.set.contains(info.signal()));
                }
                for signal in pending.set.iter().filter(|signal| !signal.is_realtime()) {
                    let count = pending.queue.iter().filter(|info| info.signal() == signal).count();
                    prop_assert!(count <= 1);
                }
            }
        }
    }
}
