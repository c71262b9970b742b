//! What the scheduler knows of a task.

use crate::Nanos;
use crate::cpus::CpuSet;
use crate::queue::{RR_SLICE, SLICE};

/// Names a task; ties are broken by it.
pub type TaskId = u64;

/// How a task is scheduled (sched(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// SCHED_OTHER and SCHED_BATCH, with a nice value from -20 to 19.
    Fair {
        /// Lower gets more.
        nice: i8,
    },
    /// SCHED_IDLE: what others leave, and a little more.
    Idle,
    /// SCHED_FIFO, 1 to 99: runs until it blocks or a higher one wakes.
    Fifo {
        /// Higher comes first.
        priority: u8,
    },
    /// SCHED_RR: as SCHED_FIFO, but takes turns with its equals.
    RoundRobin {
        /// Higher comes first.
        priority: u8,
    },
}

/// The weight of nice 0.
const NICE_0: u64 = 1 << 20;
/// The weight of SCHED_IDLE: well below that of nice 19.
const IDLE: u64 = 3 << 10;

impl Policy {
    /// The priority of a real-time policy.
    pub fn priority(self) -> Option<u8> {
        match self {
            Policy::Fifo { priority } | Policy::RoundRobin { priority } => Some(priority),
            Policy::Fair { .. } | Policy::Idle => None,
        }
    }

    /// How long it may run before it is its equals' turn; SCHED_FIFO: no limit.
    pub fn slice(self) -> Option<Nanos> {
        match self {
            Policy::Fifo { .. } => None,
            Policy::RoundRobin { .. } => Some(RR_SLICE),
            Policy::Fair { .. } | Policy::Idle => Some(SLICE),
        }
    }

    /// The share of a fair task: each step of nice changes it by a quarter, as
    /// on Linux, so that it gets about 10 % more or less against another.
    pub fn weight(self) -> u64 {
        let nice = match self {
            Policy::Fair { nice } => nice.clamp(-20, 19),
            Policy::Idle => return IDLE,
            Policy::Fifo { .. } | Policy::RoundRobin { .. } => 0,
        };
        let mut weight = NICE_0;
        for _ in 0..nice.unsigned_abs() {
            // At most 2^20 * 1.25^20, about 9e7.
            weight = match nice < 0 {
                true => weight.saturating_mul(5) / 4,
                false => weight.saturating_mul(4) / 5,
            };
        }
        weight
    }

    /// How much virtual time `delta` of real time is.
    pub(crate) fn virtual_time(self, delta: Nanos) -> u128 {
        u128::from(delta)
            .saturating_mul(u128::from(NICE_0))
            .checked_div(u128::from(self.weight()))
            .unwrap_or(0)
    }
}

/// A task as its run queue has it; `T` is the kernel's handle on it.
#[derive(Clone, Debug)]
pub struct Entity<T> {
    /// Which task.
    pub id: TaskId,
    /// The task itself.
    pub task: T,
    /// Where it may run.
    pub affinity: CpuSet,
    pub(crate) policy: Policy,
    /// In a queue: weighted time it has run, on the queue's clock, which only
    /// differences matter of. Sleeping: see `lag`.
    pub(crate) vruntime: u128,
    /// Sleeping: how far it was ahead of its queue.
    pub(crate) lag: u128,
    pub(crate) slept_at: Nanos,
    /// Nanoseconds left of its slice.
    pub(crate) slice_left: Nanos,
    pub(crate) runtime: Nanos,
}

impl<T> Entity<T> {
    /// A task that has never run.
    pub fn new(id: TaskId, task: T, policy: Policy, affinity: CpuSet) -> Entity<T> {
        Entity {
            id,
            task,
            affinity,
            policy,
            vruntime: 0,
            lag: 0,
            slept_at: 0,
            slice_left: policy.slice().unwrap_or(0),
            runtime: 0,
        }
    }

    /// How it is scheduled.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Changes that, for an entity that is in no queue; see
    /// [`RunQueue::change`](crate::RunQueue::change) for others.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
        self.slice_left = policy.slice().unwrap_or(0);
    }

    /// How long it has run in all, as of its queue's last accounting.
    pub fn runtime(&self) -> Nanos {
        self.runtime
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights() {
        let weight = |nice| Policy::Fair { nice }.weight();
        assert_eq!(weight(0), NICE_0);
        for nice in -20..19 {
            let ratio = weight(nice) as f64 / weight(nice + 1) as f64;
            assert!((ratio - 1.25).abs() < 0.001, "{nice}: {ratio}");
        }
        assert_eq!(weight(-128), weight(-20));
        assert!(Policy::Idle.weight() < weight(19) / 4 + 1);
    }

    #[test]
    fn virtual_time() {
        assert_eq!(Policy::Fair { nice: 0 }.virtual_time(1000), 1000);
        assert_eq!(Policy::Fair { nice: -1 }.virtual_time(1000), 800);
        assert!(Policy::Idle.virtual_time(u64::MAX) > u128::from(u64::MAX));
    }
}
