//! A queue of deadlines: `nanosleep`, futex time-outs, `timerfd`, interval
//! timers and scheduling slices all wait here.
//!
//! One [`TimerQueue`] serves one CPU or one clock. It holds no time itself:
//! the caller says what time it is and programs the hardware timer with
//! [`TimerQueue::next_deadline`].
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

extern crate alloc;
#[cfg(test)]
extern crate std;

use alloc::collections::BTreeMap;

/// Nanoseconds on the queue's clock.
pub type Nanos = u64;

/// Names one armed timer; good for [`TimerQueue::cancel`] even after it fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId {
    deadline: Nanos,
    // Never reused (2^64 timers do not happen), so a stale id finds nothing.
    serial: u64,
}

impl TimerId {
    /// When the timer is due.
    pub const fn deadline(self) -> Nanos {
        self.deadline
    }
}

/// Timers in order of their deadlines; of equal ones the first armed is first.
#[derive(Debug)]
pub struct TimerQueue<T> {
    timers: BTreeMap<TimerId, T>,
    next_serial: u64,
}

impl<T> TimerQueue<T> {
    /// An empty queue.
    pub const fn new() -> Self {
        TimerQueue { timers: BTreeMap::new(), next_serial: 0 }
    }

    /// Has [`expire`](Self::expire) give `token` back once `deadline` is past.
    /// If it is now the [`next_deadline`](Self::next_deadline), the hardware
    /// timer wants programming.
    pub fn arm(&mut self, deadline: Nanos, token: T) -> TimerId {
        let id = TimerId { deadline, serial: self.next_serial };
        self.next_serial = self.next_serial.wrapping_add(1);
        self.timers.insert(id, token);
        id
    }

    /// `ENOMEM` if there is no memory for one more timer.
    pub fn ask() -> base::Result<()> {
        base::room::room_in(&BTreeMap::<TimerId, T>::new())
    }

    /// Takes a timer back; `None` if it has expired or was taken back before.
    pub fn cancel(&mut self, id: TimerId) -> Option<T> {
        self.timers.remove(&id)
    }

    /// Whether the timer is still to expire.
    pub fn is_armed(&self, id: TimerId) -> bool {
        self.timers.contains_key(&id)
    }

    /// When the next timer is due.
    pub fn next_deadline(&self) -> Option<Nanos> {
        self.timers.first_key_value().map(|(id, _)| id.deadline)
    }

    /// Takes out timers due at `now`, at most `budget` of them: the caller may
    /// let the lock go and call again. Dropping the iterator keeps the rest.
    pub fn expire(&mut self, now: Nanos, budget: usize) -> Expire<'_, T> {
        Expire { queue: self, now, budget }
    }

    /// How many timers are armed.
    pub fn len(&self) -> usize {
        self.timers.len()
    }

    /// Whether no timer is armed.
    pub fn is_empty(&self) -> bool {
        self.timers.is_empty()
    }
}

impl<T> Default for TimerQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// What [`TimerQueue::expire`] returns.
#[derive(Debug)]
pub struct Expire<'a, T> {
    queue: &'a mut TimerQueue<T>,
    now: Nanos,
    budget: usize,
}

impl<T> Iterator for Expire<'_, T> {
    type Item = (TimerId, T);

    fn next(&mut self) -> Option<(TimerId, T)> {
        self.budget = self.budget.checked_sub(1)?;
        if self.queue.next_deadline()? > self.now {
            return None;
        }
        self.queue.timers.pop_first()
    }
}

/// When a periodic timer that was due at `deadline` is due next, and how many
/// periods have passed by `now` (what `timerfd` reads and `si_overrun` counts).
/// A `period` of 0 means one shot.
pub fn next_period(deadline: Nanos, period: Nanos, now: Nanos) -> (Option<Nanos>, u64) {
    if deadline > now {
        return (Some(deadline), 0);
    }
    let Some(missed) = now.saturating_sub(deadline).checked_div(period) else {
        return (None, 1);
    };
    let expirations = missed.saturating_add(1);
    (Some(deadline.saturating_add(period.saturating_mul(expirations))), expirations)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn expires_in_order() {
        let mut queue = TimerQueue::new();
        queue.arm(30, 'c');
        queue.arm(10, 'a');
        queue.arm(20, 'b');
        queue.arm(10, 'A');
        assert_eq!(queue.next_deadline(), Some(10));
        let due: Vec<_> = queue.expire(20, usize::MAX).map(|(_, token)| token).collect();
        assert_eq!(due, ['a', 'A', 'b']);
        assert_eq!(queue.next_deadline(), Some(30));
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn budget_bounds_the_work() {
        let mut queue = TimerQueue::new();
        for token in 0..10 {
            queue.arm(1, token);
        }
        assert_eq!(queue.expire(1, 4).count(), 4);
        assert_eq!(queue.expire(1, 0).count(), 0);
        assert_eq!(queue.len(), 6);
    }

    #[test]
    fn stale_ids_find_nothing() {
        let mut queue = TimerQueue::new();
        let first = queue.arm(5, 1);
        assert!(queue.is_armed(first));
        assert_eq!(queue.cancel(first), Some(1));
        queue.arm(5, 2);
        assert_eq!(queue.cancel(first), None);
        assert!(!queue.is_armed(first));
        assert_eq!(first.deadline(), 5);
    }

    #[test]
    fn periods() {
        assert_eq!(next_period(100, 10, 99), (Some(100), 0));
        assert_eq!(next_period(100, 10, 100), (Some(110), 1));
        assert_eq!(next_period(100, 10, 135), (Some(140), 4));
        assert_eq!(next_period(100, 0, 135), (None, 1));
        assert_eq!(next_period(0, 1, u64::MAX), (Some(u64::MAX), u64::MAX));
    }

    proptest! {
        #[test]
        fn behaves_like_a_sorted_list(ops in prop::collection::vec((0u8..3, 0u64..50), 0..200)) {
            let mut queue = TimerQueue::new();
            let mut model: Vec<(TimerId, usize)> = Vec::new();
            for (token, (op, value)) in ops.into_iter().enumerate() {
                match op {
                    0 => model.push((queue.arm(value, token), token)),
                    1 => {
                        if !model.is_empty() {
                            let (id, token) = model.remove(value as usize % model.len());
                            prop_assert_eq!(queue.cancel(id), Some(token));
                        }
                    }
                    _ => {
                        let mut due: Vec<_> =
                            model.iter().copied().filter(|(id, _)| id.deadline() <= value).collect();
                        due.sort();
                        model.retain(|(id, _)| id.deadline() > value);
                        let got: Vec<_> = queue.expire(value, usize::MAX).collect();
                        prop_assert_eq!(got, due);
                    }
                }
                prop_assert_eq!(queue.next_deadline(), model.iter().map(|(id, _)| id.deadline()).min());
            }
        }
    }
}
