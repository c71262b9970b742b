//! Scheduling policy: which task a CPU runs, for how long, and where a task
//! that wakes up goes. Pure and deterministic: no clock, no locks, no CPUs.
//!
//! * [`RunQueue`]: one CPU's runnable tasks. Real-time ones (SCHED_FIFO,
//!   SCHED_RR) come first, by priority; the others (SCHED_OTHER, SCHED_BATCH,
//!   SCHED_IDLE) share what is left by virtual runtime, weighed by nice values.
//! * [`Entity`]: what the scheduler knows of a task; it lives in the task.
//! * [`place`]: where to wake up.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod entity;
mod place;
mod queue;

pub use entity::{Class, Entity, RR_SLICE, SLICE};
pub use place::place;
pub use queue::{Enqueue, RunQueue, Schedulable};

/// Nanoseconds of CLOCK_MONOTONIC.
pub type Nanos = u64;
