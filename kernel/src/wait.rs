//! The one place where the kernel blocks.
//!
//! Objects answer EAGAIN and have a wait queue; a caller that wants to wait
//! registers first, tries, and sleeps until it is woken. Wake-ups may be
//! spurious: it tries again.

use crate::{sched, user_space};
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
        if user_space::signal_pending() {
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
