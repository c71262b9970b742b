//! What the scheduler knows of a task.

use crate::Nanos;
use core::sync::atomic::{AtomicI8, AtomicU8, AtomicU64, Ordering::Relaxed};

/// How long a fair task runs while others wait.
pub const SLICE: Nanos = 4_000_000;
/// How long a SCHED_RR task runs while its equals wait (Linux's default).
pub const RR_SLICE: Nanos = 100_000_000;

/// Which class of sched(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// SCHED_OTHER: a share by nice value.
    Other = 0,
    /// SCHED_FIFO: runs until it blocks or a higher one wakes.
    Fifo = 1,
    /// SCHED_RR: as SCHED_FIFO, but takes turns with its equals.
    RoundRobin = 2,
    /// SCHED_BATCH: treated as SCHED_OTHER.
    Batch = 3,
    /// SCHED_IDLE: what others leave, and a little more.
    Idle = 5,
}

impl Class {
    /// From Linux's number.
    pub fn new(number: u32) -> Option<Class> {
        Some(match number {
            0 => Class::Other,
            1 => Class::Fifo,
            2 => Class::RoundRobin,
            3 => Class::Batch,
            5 => Class::Idle,
            _ => return None,
        })
    }

    /// Whether it has a priority and comes before all others.
    pub fn is_real_time(self) -> bool {
        matches!(self, Class::Fifo | Class::RoundRobin)
    }

    /// How long it may run before it is its equals' turn; SCHED_FIFO: no limit.
    pub fn slice(self) -> Option<Nanos> {
        match self {
            Class::Fifo => None,
            Class::RoundRobin => Some(RR_SLICE),
            Class::Other | Class::Batch | Class::Idle => Some(SLICE),
        }
    }
}

/// Virtual time per real time, in 2^-20: nice -20 to 19. Each step of nice
/// changes the share by a quarter, as on Linux, so that a task gets about 10 %
/// more or less against another.
const RATES: [u32; 40] = rates();
const NICE_0: u64 = 1 << 20;
/// Of SCHED_IDLE: a fifth of the share of nice 19.
const IDLE_RATE: u32 = 340 << 20;

#[expect(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "at compile time")]
const fn rates() -> [u32; 40] {
    let mut rates = [NICE_0 as u32; 40];
    let mut step = 1;
    while step <= 20 {
        // 64 more bits of which 20 stay.
        rates[20 - step] = (rates[21 - step] as u64 * 4 / 5) as u32;
        if step < 20 {
            rates[20 + step] = (rates[19 + step] as u64 * 5 / 4) as u32;
        }
        step += 1;
    }
    rates
}

/// The current task isn't running: it waits, and keeps its CPU.
const PAUSED: Nanos = Nanos::MAX;

/// What the scheduler knows of a task. Atomics, because anybody may look, and
/// change how it is scheduled; the rest is changed by the CPU whose queue the
/// task is in, under that queue's lock.
#[derive(Debug)]
pub struct Entity {
    class: AtomicU8,
    priority: AtomicU8,
    nice: AtomicI8,
    affinity: AtomicU64,
    /// In a queue: weighted time that it has run, on the queue's clock, of
    /// which only differences matter. Sleeping: how far it was ahead.
    pub(crate) vruntime: AtomicU64,
    pub(crate) slept_at: AtomicU64,
    /// Nanoseconds left of its slice.
    pub(crate) slice_left: AtomicU64,
    /// Running: since when its time isn't accounted yet.
    since: AtomicU64,
    runtime: AtomicU64,
}

impl Entity {
    /// SCHED_OTHER, nice 0, anywhere; it has never run.
    pub const fn new() -> Entity {
        Entity {
            class: AtomicU8::new(Class::Other as u8),
            priority: AtomicU8::new(0),
            nice: AtomicI8::new(0),
            affinity: AtomicU64::new(u64::MAX),
            vruntime: AtomicU64::new(0),
            slept_at: AtomicU64::new(0),
            slice_left: AtomicU64::new(SLICE),
            since: AtomicU64::new(PAUSED),
            runtime: AtomicU64::new(0),
        }
    }

    /// How it is scheduled.
    pub fn class(&self) -> Class {
        Class::new(u32::from(self.class.load(Relaxed))).unwrap_or(Class::Other)
    }

    /// 1 to 99 for real-time classes, else 0.
    pub fn priority(&self) -> u8 {
        self.priority.load(Relaxed)
    }

    /// -20 to 19, whether it counts or not.
    pub fn nice(&self) -> i8 {
        self.nice.load(Relaxed)
    }

    /// The CPUs it may run on, a bit each.
    pub fn affinity(&self) -> u64 {
        self.affinity.load(Relaxed)
    }

    /// Whether it may run on `cpu`.
    pub fn may_run_on(&self, cpu: usize) -> bool {
        self.affinity() >> (cpu & 63) & 1 != 0
    }

    /// Changes its class and priority. The caller tells its queue
    /// ([`RunQueue::changed`](crate::RunQueue::changed)).
    pub fn set_class(&self, class: Class, priority: u8) {
        let priority = if class.is_real_time() { priority.clamp(1, 99) } else { 0 };
        self.class.store(class as u8, Relaxed);
        self.priority.store(priority, Relaxed);
        self.slice_left.store(class.slice().unwrap_or(0), Relaxed);
    }

    /// Changes its nice value: of its next slice.
    pub fn set_nice(&self, nice: i8) {
        self.nice.store(nice.clamp(-20, 19), Relaxed);
    }

    /// Changes where it may run.
    pub fn set_affinity(&self, cpus: u64) {
        self.affinity.store(cpus, Relaxed);
    }

    /// A child is scheduled as its parent is.
    pub fn inherit(&self, parent: &Entity) {
        self.set_class(parent.class(), parent.priority());
        self.set_nice(parent.nice());
        self.set_affinity(parent.affinity());
    }

    /// How long it has run in all.
    pub fn runtime(&self, now: Nanos) -> Nanos {
        self.runtime.load(Relaxed).saturating_add(self.unaccounted(now))
    }

    /// The current task waits and keeps its CPU: time stops for it.
    pub fn pause(&self, now: Nanos) {
        self.account(now);
        self.since.store(PAUSED, Relaxed);
    }

    /// The current task goes on.
    pub fn resume(&self, now: Nanos) {
        self.since.store(now, Relaxed);
    }

    /// Accounts its time until now. By the CPU that runs it.
    pub(crate) fn account(&self, now: Nanos) {
        let delta = self.unaccounted(now);
        if delta == 0 {
            return;
        }
        self.since.store(now, Relaxed);
        self.runtime.store(self.runtime.load(Relaxed).saturating_add(delta), Relaxed);
        self.slice_left.store(self.slice_left.load(Relaxed).saturating_sub(delta), Relaxed);
        let vruntime = self.vruntime.load(Relaxed).wrapping_add(self.virtual_time(delta));
        self.vruntime.store(vruntime, Relaxed);
    }

    /// Where on its queue's clock it is, running.
    pub(crate) fn vruntime_at(&self, now: Nanos) -> u64 {
        self.vruntime.load(Relaxed).wrapping_add(self.virtual_time(self.unaccounted(now)))
    }

    /// When its slice ends, if it runs on.
    pub(crate) fn slice_end(&self) -> Nanos {
        self.since.load(Relaxed).saturating_add(self.slice_left.load(Relaxed))
    }

    fn unaccounted(&self, now: Nanos) -> Nanos {
        now.saturating_sub(self.since.load(Relaxed))
    }

    /// How much virtual time `delta` of real time is.
    pub(crate) fn virtual_time(&self, delta: Nanos) -> u64 {
        let rate = match self.class() {
            Class::Idle => IDLE_RATE,
            Class::Fifo | Class::RoundRobin => return 0,
            Class::Other | Class::Batch => {
                let index = usize::from(self.nice().wrapping_add(20).unsigned_abs());
                RATES.get(index).copied().unwrap_or(NICE_0 as u32)
            }
        };
        (u128::from(delta).wrapping_mul(u128::from(rate)) >> 20) as u64
    }
}

impl Default for Entity {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        let rate = |nice| {
            let entity = Entity::new();
            entity.set_nice(nice);
            entity.virtual_time(1 << 30)
        };
        assert_eq!(rate(0), 1 << 30);
        for nice in -20..19 {
            let ratio = rate(nice + 1) as f64 / rate(nice) as f64;
            assert!((ratio - 1.25).abs() < 0.001, "{nice}: {ratio}");
        }
        assert_eq!(rate(-128), rate(-20));
        let idle = Entity::new();
        idle.set_class(Class::Idle, 7);
        assert!(idle.virtual_time(1 << 30) > 4 * rate(19));
        assert_eq!(idle.priority(), 0);
    }

    #[test]
    fn time_stops_in_a_pause() {
        let entity = Entity::new();
        entity.resume(100);
        assert_eq!(entity.runtime(150), 50);
        entity.pause(200);
        assert_eq!(entity.runtime(900), 100);
        entity.resume(900);
        assert_eq!(entity.runtime(901), 101);
    }
}
