//! One CPU's run queue.

use crate::Nanos;
use crate::entity::{Class, Entity, SLICE};
use alloc::collections::BinaryHeap;
use alloc::sync::Arc;
use base::Room;
use core::cmp::Ordering;
use core::sync::atomic::Ordering::Relaxed;

/// How long a fair task runs before a fair one that wakes may take its CPU.
/// Without it, who tells others something would lose the CPU at every word.
const STRETCH: Nanos = 2_000_000;
/// The most that a sleeper gains on the others.
const WAKE_CREDIT: u64 = 1_000_000;

/// How far behind sched_yield() puts the caller at most: two slices.
const MAX_YIELD: i64 = 8_000_000;

/// A task, or a counted reference to one.
pub trait Schedulable {
    /// What the scheduler keeps in it.
    fn entity(&self) -> &Entity;
}

impl<T: Schedulable> Schedulable for Arc<T> {
    fn entity(&self) -> &Entity {
        (**self).entity()
    }
}

/// Why a task enters a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enqueue {
    /// It is new: it waits one turn, so that forking gains nothing.
    New,
    /// It slept, and may be early for its next turn.
    Wake,
    /// It comes from another queue ([`RunQueue::steal`], [`RunQueue::remove`]).
    Migrate,
}

/// What comes first: priority from high to low, then the order of arrival; or
/// virtual runtime. Numbers wrap: only differences count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    /// Priority, 0 for the fair.
    priority: u8,
    order: u64,
    serial: u64,
}

impl Key {
    /// Greater is earlier.
    fn compare(&self, other: &Key) -> Ordering {
        let earlier = |a: u64, b: u64| (b.wrapping_sub(a) as i64).cmp(&0);
        (self.priority.cmp(&other.priority))
            .then_with(|| earlier(self.order, other.order))
            .then_with(|| earlier(self.serial, other.serial))
    }
}

#[derive(Debug)]
struct Waiting<T> {
    key: Key,
    task: T,
}

impl<T> Ord for Waiting<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.compare(&other.key)
    }
}

impl<T> PartialOrd for Waiting<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Waiting<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl<T> Eq for Waiting<T> {}

/// The runnable tasks of one CPU.
#[derive(Debug)]
pub struct RunQueue<T> {
    waiting: BinaryHeap<Waiting<T>>,
    current: Option<T>,
    /// When the current one got the CPU.
    picked: Nanos,
    /// One that woke is behind the current task and waits for the end of its
    /// stretch.
    urged: bool,
    /// The virtual clock: follows whoever is furthest behind, never goes back.
    clock: u64,
    last_arrival: u64,
    first_arrival: u64,
}

impl<T: Schedulable + Clone> RunQueue<T> {
    /// An idle CPU's queue.
    pub const fn new() -> RunQueue<T> {
        RunQueue {
            waiting: BinaryHeap::new(),
            current: None,
            picked: 0,
            urged: false,
            clock: 0,
            last_arrival: 0,
            first_arrival: 0,
        }
    }

    /// Sees to it that so many tasks can wait here. False: no memory.
    pub fn make_room(&mut self, tasks: usize) -> bool {
        self.waiting.make_room(tasks.saturating_sub(self.waiting.len())).is_ok()
    }

    /// The task that runs.
    pub fn current(&self) -> Option<&T> {
        self.current.as_ref()
    }

    /// Whether `task` is the one that runs.
    pub fn is_current(&self, task: &T) -> bool {
        self.current.as_ref().is_some_and(|current| same(current, task))
    }

    /// How many wait for the CPU.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Adds a runnable task. True if it should run at once: the CPU is to call
    /// [`pick`](Self::pick). Otherwise [`next_tick`](Self::next_tick) may have
    /// changed.
    pub fn enqueue(&mut self, task: T, why: Enqueue, now: Nanos) -> bool {
        self.advance_clock(now);
        let entity = task.entity();
        // Sleeping, that is how far ahead of the clock it was.
        let ahead = entity.vruntime.load(Relaxed);
        let vruntime = match why {
            Enqueue::New => self.clock.wrapping_add(entity.virtual_time(SLICE).min(SLICE)),
            Enqueue::Migrate => self.clock.wrapping_add(ahead),
            Enqueue::Wake => {
                // What it was ahead melts away while it sleeps; beyond that it
                // gains a little, so that who mostly sleeps is quick to run.
                let slept = now.saturating_sub(entity.slept_at.load(Relaxed));
                match ahead.checked_sub(slept) {
                    Some(ahead) => self.clock.wrapping_add(ahead),
                    None => self.clock.wrapping_sub(slept.saturating_sub(ahead).min(WAKE_CREDIT)),
                }
            }
        };
        entity.vruntime.store(vruntime, Relaxed);
        let preempts = self.preempts(entity, now);
        self.insert(task, false);
        preempts
    }

    /// The task to run now: the current one goes back into the queue, and the
    /// one that comes first becomes current. `None`: idle.
    pub fn pick(&mut self, now: Nanos) -> Option<&T> {
        if let Some(current) = self.current.take() {
            let entity = current.entity();
            entity.pause(now);
            let slice = entity.class().slice();
            let used_up = slice.is_some() && entity.slice_left.load(Relaxed) == 0;
            // A real-time task that is preempted stays first among its equals.
            self.insert(current, !used_up);
        }
        self.current = self.waiting.pop().map(|waiting| waiting.task);
        if let Some(current) = &self.current {
            let entity = current.entity();
            if entity.slice_left.load(Relaxed) == 0 {
                entity.slice_left.store(entity.class().slice().unwrap_or(0), Relaxed);
            }
            entity.resume(now);
        }
        self.picked = now;
        self.urged = false;
        self.advance_clock(now);
        self.current.as_ref()
    }

    /// The current task sleeps, ends or goes elsewhere: takes it out. Call
    /// [`pick`](Self::pick) next.
    pub fn block(&mut self, now: Nanos) -> Option<T> {
        let current = self.current.take()?;
        current.entity().pause(now);
        self.leave(current.entity(), now);
        Some(current)
    }

    /// sched_yield(): the current task goes behind its equals. Call
    /// [`pick`](Self::pick) next.
    pub fn yield_now(&mut self, now: Nanos) {
        let Some(current) = &self.current else { return };
        let entity = current.entity();
        entity.account(now);
        entity.slice_left.store(0, Relaxed);
        if entity.class().is_real_time() {
            if entity.class() == Class::Fifo
                && let Some(current) = self.current.take()
            {
                current.entity().pause(now);
                self.insert(current, false);
            }
            return;
        }
        // Behind all others, yet not so far as to be forgotten.
        let mine = entity.vruntime.load(Relaxed);
        let fair = self.waiting.iter().filter(|waiting| waiting.key.priority == 0);
        let ahead = fair.map(|waiting| waiting.key.order.wrapping_sub(mine) as i64).max();
        let ahead = ahead.unwrap_or(0).clamp(-1, MAX_YIELD).wrapping_add(1);
        entity.vruntime.store(mine.wrapping_add(ahead as u64), Relaxed);
    }

    /// The timer fired, or anything else let the CPU look: accounts the time
    /// and says whether to [`pick`](Self::pick) again.
    pub fn tick(&mut self, now: Nanos) -> bool {
        let Some(current) = &self.current else { return !self.waiting.is_empty() };
        let entity = current.entity();
        entity.account(now);
        let Some(first) = self.waiting.peek() else { return false };
        if first.key.priority != entity.priority() {
            return first.key.priority > entity.priority();
        }
        let class = entity.class();
        if class.slice().is_some() && entity.slice_left.load(Relaxed) == 0 {
            return true;
        }
        if class == Class::Idle && first.task.entity().class() != Class::Idle {
            return true;
        }
        self.urged
            && now >= self.picked.saturating_add(STRETCH)
            && is_before(first.key.order, entity.vruntime.load(Relaxed))
    }

    /// When to call [`tick`](Self::tick) at the latest; `None` if nobody waits
    /// for the end of the current task's slice: no timer is needed then.
    pub fn next_tick(&self) -> Option<Nanos> {
        let entity = self.current.as_ref()?.entity();
        let first = self.waiting.peek()?;
        entity.class().slice()?;
        if first.key.priority < entity.priority() {
            return None;
        }
        let stretch = self.picked.saturating_add(STRETCH);
        let end = entity.slice_end();
        Some(if self.urged { end.min(stretch) } else { end })
    }

    /// A task for another CPU that is idle: of those for which `fits`, the first
    /// real-time one, else the fair one that would wait longest.
    pub fn steal(&mut self, fits: impl Fn(&T) -> bool, now: Nanos) -> Option<T> {
        let rank = |waiting: &Waiting<T>| (waiting.key.priority, waiting.key.order);
        let fitting = self.waiting.iter().filter(|waiting| fits(&waiting.task));
        let found = fitting.reduce(|a, b| match rank(a).0.cmp(&rank(b).0) {
            Ordering::Less => b,
            Ordering::Greater => a,
            // Of real-time tasks the first, of others the last.
            Ordering::Equal if is_before(rank(a).1, rank(b).1) == (rank(a).0 != 0) => a,
            Ordering::Equal => b,
        });
        let task = found?.task.clone();
        self.remove(&task, now).then_some(task)
    }

    /// Takes a waiting task out, if it is here. The current one isn't found: it
    /// leaves by [`block`](Self::block).
    pub fn remove(&mut self, task: &T, now: Nanos) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| !same(&waiting.task, task));
        if self.waiting.len() == before {
            return false;
        }
        self.leave(task.entity(), now);
        true
    }

    /// `change`s how a task is scheduled, wherever it is. True if the CPU is to
    /// look again ([`tick`](Self::tick)).
    pub fn changed(&mut self, task: &T, now: Nanos, change: impl FnOnce(&Entity)) -> bool {
        let entity = task.entity();
        if self.remove(task, now) {
            change(entity);
            self.enqueue(task.clone(), Enqueue::Migrate, now);
            return true;
        }
        change(entity);
        if !self.is_current(task) {
            return false;
        }
        // One that was real-time until now has no place in virtual time.
        let vruntime = entity.vruntime.load(Relaxed);
        if is_before(vruntime, self.clock) {
            entity.vruntime.store(self.clock, Relaxed);
        }
        true
    }

    fn advance_clock(&mut self, now: Nanos) {
        let fair = |waiting: &&Waiting<T>| waiting.key.priority == 0;
        // If real-time tasks wait, the clock may stand: they go first.
        let waiting = self.waiting.peek().filter(fair).map(|waiting| waiting.key.order);
        let running = self.current.as_ref().map(Schedulable::entity);
        let running = running.filter(|entity| !entity.class().is_real_time());
        let running = running.map(|entity| entity.vruntime_at(now));
        let behind = match (waiting, running) {
            (Some(a), Some(b)) => Some(if is_before(a, b) { a } else { b }),
            (a, b) => a.or(b),
        };
        if let Some(behind) = behind
            && is_before(self.clock, behind)
        {
            self.clock = behind;
        }
    }

    fn insert(&mut self, task: T, in_front: bool) {
        let entity = task.entity();
        self.last_arrival = self.last_arrival.wrapping_add(1);
        let serial = self.last_arrival;
        let order = if !entity.class().is_real_time() {
            entity.vruntime.load(Relaxed)
        } else if in_front {
            self.first_arrival = self.first_arrival.wrapping_sub(1);
            self.first_arrival
        } else {
            serial
        };
        let key = Key { priority: entity.priority(), order, serial };
        self.waiting.push(Waiting { key, task });
    }

    fn leave(&self, entity: &Entity, now: Nanos) {
        let ahead = entity.vruntime.load(Relaxed).wrapping_sub(self.clock) as i64;
        let ahead = if entity.class().is_real_time() { 0 } else { ahead.max(0) };
        entity.vruntime.store(ahead.unsigned_abs(), Relaxed);
        entity.slept_at.store(now, Relaxed);
    }

    /// Whether `new` should run instead of the current task.
    fn preempts(&mut self, new: &Entity, now: Nanos) -> bool {
        let Some(current) = &self.current else { return true };
        let current = current.entity();
        if new.class().is_real_time() || current.class().is_real_time() {
            return new.priority() > current.priority();
        }
        match (new.class() == Class::Idle, current.class() == Class::Idle) {
            (true, _) => return false,
            (false, true) => return true,
            (false, false) => {}
        }
        if !is_before(new.vruntime.load(Relaxed), current.vruntime_at(now)) {
            return false;
        }
        self.urged = true;
        now >= self.picked.saturating_add(STRETCH)
    }
}

/// In virtual time, which wraps.
fn is_before(a: u64, b: u64) -> bool {
    (a.wrapping_sub(b) as i64) < 0
}

fn same<T: Schedulable>(a: &T, b: &T) -> bool {
    core::ptr::eq(a.entity(), b.entity())
}

impl<T: Schedulable + Clone> Default for RunQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::vec;
    use std::vec::Vec;

    const MS: Nanos = 1_000_000;

    #[derive(Debug)]
    struct Task {
        id: u64,
        entity: Entity,
    }

    impl Schedulable for Task {
        fn entity(&self) -> &Entity {
            &self.entity
        }
    }

    type Queue = RunQueue<Arc<Task>>;
    /// Class, priority, nice.
    type Policy = (Class, u8, i8);

    const NICE_0: Policy = (Class::Other, 0, 0);
    const IDLE: Policy = (Class::Idle, 0, 0);

    const fn fifo(priority: u8) -> Policy {
        (Class::Fifo, priority, 0)
    }

    fn task(id: u64, (class, priority, nice): Policy) -> Arc<Task> {
        let entity = Entity::new();
        entity.set_class(class, priority);
        entity.set_nice(nice);
        Arc::new(Task { id, entity })
    }

    fn queue(policies: &[Policy]) -> Queue {
        let mut queue = RunQueue::new();
        for (id, policy) in policies.iter().enumerate() {
            queue.enqueue(task(id as u64, *policy), Enqueue::New, 0);
        }
        queue
    }

    fn running(queue: &Queue) -> Option<u64> {
        queue.current().map(|task| task.id)
    }

    fn pick(queue: &mut Queue, now: Nanos) -> u64 {
        queue.pick(now).unwrap().id
    }

    /// Runs until `end`, taking the timer as asked for; returns run times.
    fn simulate(queue: &mut Queue, start: Nanos, end: Nanos) -> BTreeMap<u64, Nanos> {
        let mut runtimes = BTreeMap::new();
        let mut now = start;
        queue.pick(now);
        while now < end {
            let next = queue.next_tick().unwrap_or(end).clamp(now, end);
            if let Some(id) = running(queue) {
                *runtimes.entry(id).or_default() += next - now;
            }
            now = next;
            if queue.tick(now) {
                queue.pick(now);
            }
        }
        runtimes
    }

    #[test]
    fn equals_share() {
        let mut queue = queue(&[NICE_0; 3]);
        let runtimes = simulate(&mut queue, 0, 300 * MS);
        for id in 0..3 {
            assert!(runtimes[&id].abs_diff(100 * MS) <= SLICE, "{runtimes:?}");
        }
        assert_eq!(
            queue.current().unwrap().entity.runtime(300 * MS),
            runtimes[&running(&queue).unwrap()]
        );
    }

    #[test]
    fn nobody_waiting_needs_no_timer() {
        let mut queue = queue(&[NICE_0]);
        assert_eq!(queue.next_tick(), None);
        queue.pick(0);
        assert_eq!(queue.next_tick(), None);
        assert!(!queue.tick(50 * MS));
        queue.enqueue(task(9, NICE_0), Enqueue::Wake, 50 * MS);
        assert!(queue.next_tick().is_some());
    }

    #[test]
    fn real_time_comes_first() {
        let mut queue = queue(&[NICE_0, fifo(5), fifo(9)]);
        assert_eq!(pick(&mut queue, 0), 2);
        assert_eq!(queue.next_tick(), None);
        assert!(!queue.tick(1000 * MS));
        assert!(!queue.enqueue(task(7, fifo(9)), Enqueue::Wake, 0));
        assert!(queue.enqueue(task(8, fifo(10)), Enqueue::Wake, 0));
        assert!(queue.tick(0));
        assert_eq!(pick(&mut queue, 0), 8);
        queue.block(0);
        // The preempted one is still first among its equals.
        assert_eq!(pick(&mut queue, 0), 2);
        queue.yield_now(0);
        assert_eq!(pick(&mut queue, 0), 7);
        queue.block(0);
        queue.pick(0);
        queue.block(0);
        assert_eq!(pick(&mut queue, 0), 1);
        queue.block(0);
        assert_eq!(pick(&mut queue, 0), 0);
        assert!(queue.enqueue(task(9, fifo(1)), Enqueue::Wake, 0));
    }

    #[test]
    fn round_robin_takes_turns() {
        let policy = (Class::RoundRobin, 1, 0);
        let mut queue = queue(&[policy, policy, NICE_0]);
        let runtimes = simulate(&mut queue, 0, 1000 * MS);
        assert_eq!(runtimes, BTreeMap::from([(0, 500 * MS), (1, 500 * MS)]));
    }

    #[test]
    fn who_sleeps_is_quick_to_run() {
        let mut queue = queue(&[NICE_0, NICE_0]);
        simulate(&mut queue, 0, 100 * MS);
        let sleeper = queue.block(100 * MS).unwrap();
        queue.pick(100 * MS);
        assert!(queue.enqueue(sleeper, Enqueue::Wake, 150 * MS));
        queue.pick(150 * MS);
        // Having slept long gives no more than a small credit.
        let runtimes = simulate(&mut queue, 150 * MS, 250 * MS);
        let (a, b) = (runtimes[&0], runtimes[&1]);
        assert!(a.abs_diff(b) <= 2 * SLICE, "{runtimes:?}");
    }

    #[test]
    fn waking_waits_for_the_end_of_a_stretch() {
        let mut queue = queue(&[NICE_0, NICE_0]);
        queue.pick(0);
        let sleeper = queue.block(0).unwrap();
        queue.pick(0);
        queue.block(50 * MS);
        assert!(queue.pick(50 * MS).is_none());
        queue.enqueue(task(5, NICE_0), Enqueue::New, 60 * MS);
        queue.pick(60 * MS);
        assert!(!queue.enqueue(sleeper, Enqueue::Wake, 60 * MS + 1000));
        assert!(!queue.tick(60 * MS + 1000));
        let then = queue.next_tick().unwrap();
        assert_eq!(then, 60 * MS + STRETCH);
        assert!(queue.tick(then));
        assert_eq!(pick(&mut queue, then), 0);
    }

    #[test]
    fn napping_does_not_pay() {
        // One task sleeps for a moment at each slice's end.
        let mut queue = queue(&[NICE_0, NICE_0]);
        let mut now = 0;
        let mut runtimes = [0; 2];
        queue.pick(now);
        while now < 1000 * MS {
            let next = queue.next_tick().unwrap();
            let id = running(&queue).unwrap();
            runtimes[id as usize] += next - now;
            now = next;
            if id == 0 {
                let napper = queue.block(now).unwrap();
                queue.pick(now);
                queue.enqueue(napper, Enqueue::Wake, now + 10_000);
            }
            if queue.tick(now) {
                queue.pick(now);
            }
        }
        assert!(runtimes[0] <= runtimes[1] + 20 * MS, "{runtimes:?}");
    }

    #[test]
    fn waiting_in_place_costs_nothing() {
        let mut queue = queue(&[NICE_0]);
        queue.pick(0);
        let current = queue.current().unwrap().clone();
        current.entity.pause(MS);
        current.entity.resume(900 * MS);
        assert_eq!(current.entity.runtime(901 * MS), 2 * MS);
        // Who comes now is no further behind than if it had not waited.
        queue.enqueue(task(1, NICE_0), Enqueue::Migrate, 901 * MS);
        assert!(!queue.tick(901 * MS));
    }

    #[test]
    fn idle_tasks_take_what_is_left() {
        let mut queue = queue(&[NICE_0, IDLE]);
        let runtimes = simulate(&mut queue, 0, 10_000 * MS);
        assert!(runtimes[&1] > 0 && runtimes[&1] < 100 * MS, "{runtimes:?}");
        let mut idle = RunQueue::new();
        idle.enqueue(task(1, IDLE), Enqueue::New, 0);
        idle.pick(0);
        assert!(idle.enqueue(task(2, NICE_0), Enqueue::Wake, 0));
        assert!(idle.tick(0));
    }

    #[test]
    fn yielding_lets_the_other_run() {
        let mut queue = queue(&[NICE_0, NICE_0]);
        let first = pick(&mut queue, 0);
        queue.yield_now(0);
        let second = pick(&mut queue, 0);
        assert_ne!(first, second);
        queue.yield_now(0);
        assert_eq!(pick(&mut queue, 0), first);
        // Alone, it goes on at once.
        queue.block(0);
        queue.pick(0);
        queue.yield_now(0);
        assert_eq!(pick(&mut queue, 0), second);
    }

    #[test]
    fn stealing_minds_the_mask() {
        let mut queue = queue(&[NICE_0, NICE_0, NICE_0, fifo(1)]);
        assert_eq!(pick(&mut queue, 0), 3);
        let odd = |task: &Arc<Task>| task.id == 1;
        assert_eq!(queue.steal(odd, 0).map(|task| task.id), Some(1));
        assert!(queue.steal(odd, 0).is_none());
        // The one that would wait longest.
        assert_eq!(queue.steal(|_| true, 0).map(|task| task.id), Some(2));
        let zero = queue.steal(|_| true, 0).unwrap();
        assert!(!queue.remove(&zero, 0));
        assert_eq!((queue.waiting(), running(&queue)), (0, Some(3)));
    }

    #[test]
    fn room_is_made_beforehand() {
        let mut queue = queue(&[NICE_0, NICE_0]);
        assert!(queue.make_room(1000));
        let room = queue.waiting.capacity();
        assert!(room >= 1000);
        assert!(queue.make_room(1000));
        assert_eq!(queue.waiting.capacity(), room);
        assert!(!queue.make_room(usize::MAX));
    }

    #[test]
    fn policies_change() {
        let mut queue = queue(&[NICE_0, NICE_0]);
        pick(&mut queue, 0);
        let first = queue.current().unwrap().clone();
        let second = queue.waiting.peek().unwrap().task.clone();
        assert!(queue.changed(&second, 0, |entity| entity.set_class(Class::Fifo, 1)));
        assert!(queue.tick(0));
        assert_eq!(pick(&mut queue, 0), second.id);
        assert!(queue.changed(&second, 0, |entity| entity.set_class(Class::Other, 0)));
        assert!(!queue.tick(0));
        assert!(queue.changed(&first, 0, |entity| entity.set_class(Class::RoundRobin, 3)));
        assert!(queue.tick(0));
        let other = task(7, NICE_0);
        assert!(!queue.changed(&other, 0, |entity| entity.set_nice(5)));
        assert_eq!(other.entity.nice(), 5);
    }

    fn any_policy() -> impl Strategy<Value = Policy> {
        prop_oneof![
            6 => (-5i8..6).prop_map(|nice| (Class::Other, 0, nice)),
            1 => (1u8..4).prop_map(fifo),
            1 => (1u8..4).prop_map(|priority| (Class::RoundRobin, priority, 0)),
        ]
    }

    proptest! {
        #[test]
        fn shares_follow_weights(nices in prop::collection::vec(-10i8..11, 2..6)) {
            let policies: Vec<_> = nices.iter().map(|&nice| (Class::Other, 0, nice)).collect();
            let weight = |nice: i8| 1.25f64.powi(-i32::from(nice));
            let total: f64 = nices.iter().map(|&nice| weight(nice)).sum();
            let end = 20_000 * MS;
            let runtimes = simulate(&mut queue(&policies), 0, end);
            for (id, nice) in nices.iter().enumerate() {
                let share = end as f64 * weight(*nice) / total;
                let got = runtimes.get(&(id as u64)).copied().unwrap_or(0) as f64;
                // Weighted, nobody is further off than a few slices of the
                // lightest.
                let slack = 0.05 * share + 4.0 * SLICE as f64;
                prop_assert!((got - share).abs() <= slack, "{id}: {got} of {share}: {runtimes:?}");
            }
        }

        #[test]
        fn nobody_is_lost_or_starved(
            start: u64,
            ops in prop::collection::vec((0u8..8, any_policy(), 0u64..20), 1..200),
        ) {
            let mut queue: Queue = RunQueue::new();
            // Virtual time wraps.
            queue.clock = start;
            let mut tasks: Vec<Arc<Task>> = vec![];
            let mut sleeping: Vec<Arc<Task>> = vec![];
            let mut now = 0;
            for (op, policy, value) in ops {
                now += value * MS / 4;
                match op {
                    0 | 1 => {
                        let task = task(tasks.len() as u64, policy);
                        tasks.push(task.clone());
                        queue.enqueue(task, Enqueue::New, now);
                    }
                    2 => sleeping.extend(queue.block(now)),
                    3 => {
                        if let Some(task) = sleeping.pop() {
                            queue.enqueue(task, Enqueue::Wake, now);
                        }
                    }
                    4 => queue.yield_now(now),
                    5 => {
                        if let Some(task) = queue.steal(|task| task.id % 2 == value % 2, now) {
                            queue.enqueue(task, Enqueue::Migrate, now);
                        }
                    }
                    6 => {
                        if let Some(task) = tasks.get(value as usize) {
                            queue.changed(&task.clone(), now, |entity| {
                                entity.set_class(policy.0, policy.1);
                                entity.set_nice(policy.2);
                            });
                        }
                    }
                    _ => {}
                }
                if op != 7 || queue.tick(now) {
                    queue.pick(now);
                }
                let here = queue.waiting() + usize::from(queue.current().is_some());
                prop_assert_eq!(here + sleeping.len(), tasks.len());
                prop_assert_eq!(running(&queue).is_some(), here != 0);
                // The highest priority runs.
                let first = queue.waiting.peek().map_or(0, |waiting| waiting.key.priority);
                let current = queue.current().map_or(0, |task| task.entity.priority());
                prop_assert!(first <= current || op == 7);
            }
            // Without real-time tasks, everybody's turn comes.
            while queue.current().is_some_and(|task| task.entity.class().is_real_time()) {
                queue.block(now);
                queue.pick(now);
            }
            let left = queue.waiting() + usize::from(queue.current().is_some());
            let runtimes = simulate(&mut queue, now, now + 40_000 * MS);
            prop_assert_eq!(runtimes.len(), left);
        }
    }
}
