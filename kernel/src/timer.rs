//! Deadlines: each CPU has a queue of wakers, and one hardware timer for the
//! first of them and the end of the running slice. No periodic tick.

use crate::{cpu, sched, time};
use base::{Lock, Nanos, rank};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::task::Waker;
use cpu::MAX_CPUS;
use timerq::{TimerId, TimerQueue};

static QUEUES: [Lock<TimerQueue<Waker>>; MAX_CPUS] =
    [const { Lock::new(rank::TIMER, TimerQueue::new()) }; MAX_CPUS];

/// What each CPU's hardware timer is set to, to leave it alone if that is right.
static SET: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// An armed deadline.
#[derive(Clone, Copy, Debug)]
pub struct Timer {
    cpu: usize,
    id: TimerId,
}

/// Wakes `waker` at `deadline` (CLOCK_MONOTONIC), once.
pub fn arm(deadline: Nanos, waker: Waker) -> Timer {
    let index = cpu::index();
    // The index is a running CPU's.
    let id = QUEUES.get(index).unwrap_or(&QUEUES[0]).lock().arm(deadline, waker);
    reprogram();
    Timer { cpu: index, id }
}

/// As [`arm`], for those who can be told that there is no memory.
pub fn try_arm(deadline: Nanos, waker: Waker) -> base::Result<Timer> {
    TimerQueue::<Waker>::ask()?;
    Ok(arm(deadline, waker))
}

/// Takes a deadline back; nothing happens if it has passed.
pub fn cancel(timer: Timer) {
    // The waker may hold the last reference to something: dropped unlocked.
    let waker = QUEUES.get(timer.cpu).and_then(|queue| queue.lock().cancel(timer.id));
    drop(waker);
}

/// Points the hardware at the next thing to happen on this CPU.
pub fn reprogram() {
    let index = cpu::index();
    let slice = sched::slice_end();
    let first = QUEUES.get(index).and_then(|queue| queue.lock().next_deadline());
    let deadline = slice.into_iter().chain(first).min().unwrap_or(Nanos::MAX);
    if SET.get(index).is_some_and(|set| set.swap(deadline, Relaxed) == deadline) {
        return;
    }
    if deadline == Nanos::MAX {
        arch::timer::disarm();
    } else {
        arch::timer::arm(time::to_ticks(deadline));
    }
}

/// The hardware timer went off.
pub fn interrupt() {
    let now = time::now();
    loop {
        // Wakers run unlocked: they take locks of their own.
        let due = QUEUES.get(cpu::index()).and_then(|queue| queue.lock().expire(now, 1).next());
        match due {
            Some((_, waker)) => waker.wake(),
            None => break,
        }
    }
    sched::tick(now);
    reprogram();
}
