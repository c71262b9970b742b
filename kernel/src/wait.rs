//! The one place where the kernel blocks.
//!
//! Objects answer EAGAIN and have a wait queue; a caller that wants to wait
//! registers first, tries, and sleeps until it is woken. Wake-ups may be
//! spurious: it tries again.

use crate::{clock, process};
use crate::sched;
use base::{Errno, Nanos, Result, WaitQueue};
use core::task::Waker;

/// Why waiting ended without a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A signal is pending: the system call is to be interrupted or restarted.
    Interrupted,
    /// The deadline has passed.
    TimedOut,
    /// The attempt failed.
    Errno(Errno),
}

impl From<Errno> for Ended {
    fn from(errno: Errno) -> Self {
        Ended::Errno(errno)
    }
}

/// Tries until `attempt` answers something other than EAGAIN, sleeping on
/// `queue` in between; a signal or `deadline` (CLOCK_MONOTONIC) ends it. No
/// lock may be held.
pub fn until<T>(
    queue: &WaitQueue,
    deadline: Option<Nanos>,
    attempt: impl FnMut() -> Result<T>,
) -> Result<T, Ended> {
    // Nothing to wait for: don't touch the queue.
    let mut attempt = attempt;
    match attempt() {
        Err(Errno::EAGAIN) => {}
        other => return other.map_err(Ended::Errno),
    }
    let waker = Waker::from(sched::current());
    queue.register(&waker)?;
    let result = retry(deadline, attempt);
    queue.unregister(&waker);
    result
}

/// As [`until`], for callers whose waker is registered already wherever a
/// change would be told.
pub fn retry<T>(
    deadline: Option<Nanos>,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T, Ended> {
    loop {
        match attempt() {
            Err(Errno::EAGAIN) => {}
            other => return other.map_err(Ended::Errno),
        }
        if process::signal_pending() {
            return Err(Ended::Interrupted);
        }
        if sched::park_until(deadline) {
            // Once more: the change may have come with the deadline.
            return match attempt() {
                Err(Errno::EAGAIN) => Err(Ended::TimedOut),
                other => other.map_err(Ended::Errno),
            };
        }
    }
}

/// As [`retry`], until a time of day: whoever sets the clock changes when that
/// is.
pub fn retry_until_realtime<T>(
    time: Nanos,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T, Ended> {
    let waker = Waker::from(sched::current());
    clock::WAS_SET.register(&waker)?;
    let result = loop {
        let sets = clock::sets();
        let result = retry(Some(clock::to_monotonic(time)), || match attempt() {
            Err(Errno::EAGAIN) if clock::sets() != sets => Ok(None),
            other => other.map(Some),
        });
        match result {
            Ok(None) => {}
            Ok(Some(value)) => break Ok(value),
            Err(ended) => break Err(ended),
        }
    };
    clock::WAS_SET.unregister(&waker);
    result
}

/// As [`until`], but only the end of the process ends it early: for what has to
/// be over before the caller may go on.
pub fn until_killed<T>(queue: &WaitQueue, mut attempt: impl FnMut() -> Result<T>) -> Result<T, Ended> {
    let waker = Waker::from(sched::current());
    queue.register(&waker)?;
    let result = loop {
        match attempt() {
            Err(Errno::EAGAIN) => {}
            other => break other.map_err(Ended::Errno),
        }
        if process::signals::kill_pending() {
            break Err(Ended::Interrupted);
        }
        sched::park();
    };
    queue.unregister(&waker);
    result
}
