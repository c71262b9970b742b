//! A watchdog by firmware calls: the one that Linux knows as `arm,smc-wdt` (its
//! device-tree binding, and OP-TEE's side of it).
//!
//! One function; X1 says which call, X2 its argument. Only data: whoever has it looks at
//! [`Watchdog::deadline`] and acts.

use crate::{INVALID_PARAMETERS, NOT_SUPPORTED, SUCCESS};

/// X0: SUCCESS; X1 and X2: the least and the most seconds of a timeout.
const INIT: u32 = 0;
/// X2: the timeout in seconds.
const SET_TIMEOUT: u32 = 1;
/// X2: 1 starts it, 0 stops it.
const ENABLE: u32 = 2;
/// The time begins anew.
const PET: u32 = 3;
/// X1: seconds that are left.
const GET_TIMELEFT: u32 = 4;

/// The least timeout: seconds.
const LEAST: u32 = 1;
/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// A guest's watchdog: stopped at first. Times are nanoseconds by any clock that goes up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watchdog {
    /// The longest timeout that the guest may set: seconds.
    most: u32,
    timeout: u32,
    /// Nobody pets it until then: the guest hangs. None: it is stopped.
    deadline: Option<u64>,
    /// When its owner looks next. None: when told to.
    look: Option<u64>,
}

impl Watchdog {
    /// One whose timeout is at first, and at most, so many seconds.
    pub const fn new(most: u32) -> Watchdog {
        let most = if most < LEAST { LEAST } else { most };
        Watchdog { most, timeout: most, deadline: None, look: None }
    }

    /// When it runs out, if it runs: its owner looks then.
    pub fn wait(&mut self) -> Option<u64> {
        self.look = self.deadline;
        self.deadline
    }

    /// Whether it runs and its time is over.
    pub fn is_over(&self, now: u64) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Whether it runs out before its owner looks, who has to be told. Otherwise a guest
    /// wakes nobody, whatever it calls.
    pub fn is_early(&self) -> bool {
        match (self.deadline, self.look) {
            (Some(deadline), Some(look)) => deadline < look,
            (deadline, None) => deadline.is_some(),
            (None, _) => false,
        }
    }

    /// It runs no more.
    pub fn stop(&mut self) {
        self.deadline = None;
    }

    /// Answers a call: X0 to X3. `call` is W1, `value` is W2: it's a 32-bit function.
    pub fn call(&mut self, call: u32, value: u32, now: u64) -> [u64; 4] {
        let runs = self.deadline.is_some();
        match (call, value) {
            (INIT, _) => [SUCCESS, LEAST.into(), self.most.into(), 0],
            (SET_TIMEOUT, seconds) if (LEAST..=self.most).contains(&seconds) => {
                self.timeout = seconds;
                self.begin(runs, now)
            }
            (ENABLE, 1) => self.begin(true, now),
            (ENABLE, 0) => self.begin(false, now),
            (PET, _) => self.begin(runs, now),
            (GET_TIMELEFT, _) => {
                let left = self.deadline.map_or(0, |deadline| deadline.saturating_sub(now));
                [SUCCESS, left.div_ceil(SECOND), 0, 0]
            }
            (SET_TIMEOUT | ENABLE, _) => [INVALID_PARAMETERS, 0, 0, 0],
            _ => [NOT_SUPPORTED, 0, 0, 0],
        }
    }

    /// Its time begins, if it runs.
    fn begin(&mut self, runs: bool, now: u64) -> [u64; 4] {
        let timeout = u64::from(self.timeout).saturating_mul(SECOND);
        self.deadline = runs.then_some(now.saturating_add(timeout));
        [SUCCESS, 0, 0, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DONE: [u64; 4] = [SUCCESS, 0, 0, 0];
    const INVALID: [u64; 4] = [INVALID_PARAMETERS, 0, 0, 0];

    #[test]
    fn runs_out_when_nobody_pets_it() {
        let mut dog = Watchdog::new(30);
        assert_eq!(dog.call(INIT, 0, 0), [SUCCESS, 1, 30, 0]);
        assert_eq!(dog.call(SET_TIMEOUT, 2, 0), DONE);
        // Set, and even petted, it doesn't run yet.
        assert_eq!(dog.call(PET, 0, 5), DONE);
        assert_eq!((dog.deadline, dog.is_over(u64::MAX)), (None, false));
        assert_eq!(dog.call(ENABLE, 1, 100), DONE);
        assert_eq!(dog.deadline, Some(100 + 2 * SECOND));
        assert_eq!(dog.call(GET_TIMELEFT, 0, SECOND), [SUCCESS, 2, 0, 0]);
        assert_eq!(dog.call(PET, 0, 2 * SECOND), DONE);
        assert!(!dog.is_over(4 * SECOND - 1));
        assert!(dog.is_over(4 * SECOND));
        assert_eq!(dog.call(GET_TIMELEFT, 0, 5 * SECOND), [SUCCESS, 0, 0, 0]);
        assert_eq!(dog.call(ENABLE, 0, 5 * SECOND), DONE);
        assert_eq!(dog.deadline, None);
    }

    #[test]
    fn a_new_timeout_counts_from_now() {
        let mut dog = Watchdog::new(30);
        dog.call(ENABLE, 1, 0);
        assert_eq!(dog.deadline, Some(30 * SECOND));
        assert_eq!(dog.call(SET_TIMEOUT, 5, SECOND), DONE);
        assert_eq!(dog.deadline, Some(6 * SECOND));
        dog.stop();
        assert!(!dog.is_over(u64::MAX) && !dog.is_early());
    }

    /// Only what comes before its owner looks wakes that: a guest can't wake it at will.
    #[test]
    fn its_owner_is_woken_once_for_each_time_that_it_looks() {
        let mut dog = Watchdog::new(30);
        assert_eq!((dog.wait(), dog.is_early()), (None, false));
        dog.call(ENABLE, 1, 0);
        assert!(dog.is_early());
        assert_eq!((dog.wait(), dog.is_early()), (Some(30 * SECOND), false));
        dog.call(SET_TIMEOUT, 2, 0);
        assert!(dog.is_early());
        assert_eq!(dog.wait(), Some(2 * SECOND));
        for now in 1..1000 {
            for (call, value) in [(SET_TIMEOUT, 30), (SET_TIMEOUT, 2), (ENABLE, 0), (ENABLE, 1)] {
                dog.call(call, value, now);
                assert!(!dog.is_early());
            }
        }
    }

    #[test]
    fn what_is_not_possible_is_refused_and_changes_nothing() {
        let mut dog = Watchdog::new(30);
        dog.call(ENABLE, 1, 7);
        let before = dog;
        for seconds in [0, 31, u32::MAX] {
            assert_eq!(dog.call(SET_TIMEOUT, seconds, 9), INVALID);
        }
        assert_eq!(dog.call(ENABLE, 2, 9), INVALID);
        for call in [5, 6, u32::MAX] {
            assert_eq!(dog.call(call, 1, 9), [NOT_SUPPORTED, 0, 0, 0]);
        }
        assert_eq!(dog, before);
        // The end of time is no overflow.
        assert_eq!(dog.call(PET, 0, u64::MAX), DONE);
        assert_eq!(dog.deadline, Some(u64::MAX));
    }
}
