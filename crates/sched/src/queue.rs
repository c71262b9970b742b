//! One CPU's run queue.

use crate::Nanos;
use crate::entity::{Entity, Policy, TaskId};
use alloc::collections::BTreeMap;

/// How long a fair task runs while others wait.
pub const SLICE: Nanos = 4_000_000;
/// How long a SCHED_RR task runs while its equals wait (Linux's default).
pub const RR_SLICE: Nanos = 100_000_000;
/// How much further a waking task must be behind than the running one to
/// preempt it; also the most that a sleeper gains.
const WAKE_CREDIT: u128 = 1_000_000;

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

/// Priority from high to low, then the order of arrival.
type RealTimeKey = (u8, i64);
type FairKey = (u128, TaskId);

/// The runnable tasks of one CPU.
#[derive(Debug)]
pub struct RunQueue<T> {
    real_time: BTreeMap<RealTimeKey, Entity<T>>,
    fair: BTreeMap<FairKey, Entity<T>>,
    current: Option<Entity<T>>,
    /// Until when the current one's time is accounted.
    accounted: Nanos,
    /// The queue's virtual clock: never goes back.
    min_vruntime: u128,
    last_arrival: i64,
    first_arrival: i64,
}

impl<T> RunQueue<T> {
    /// An idle CPU's queue.
    pub const fn new() -> RunQueue<T> {
        RunQueue {
            real_time: BTreeMap::new(),
            fair: BTreeMap::new(),
            current: None,
            accounted: 0,
            min_vruntime: 0,
            last_arrival: 0,
            first_arrival: 0,
        }
    }

    /// The task that runs.
    pub fn current(&self) -> Option<&Entity<T>> {
        self.current.as_ref()
    }

    /// How many are runnable, with the one that runs.
    pub fn len(&self) -> usize {
        self.waiting().saturating_add(usize::from(self.current.is_some()))
    }

    /// Whether the CPU is idle and has nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many wait for the CPU.
    pub fn waiting(&self) -> usize {
        self.real_time.len().saturating_add(self.fair.len())
    }

    /// Adds a runnable task. True if it should run at once: the CPU is to call
    /// [`pick`](Self::pick).
    pub fn enqueue(&mut self, mut entity: Entity<T>, why: Enqueue, now: Nanos) -> bool {
        self.account(now);
        let clock = self.min_vruntime;
        entity.vruntime = match why {
            Enqueue::New => {
                let turn = entity.policy.virtual_time(SLICE).min(u128::from(SLICE));
                clock.saturating_add(turn)
            }
            Enqueue::Migrate => clock.saturating_add(entity.lag),
            Enqueue::Wake => {
                // What it was ahead melts away while it sleeps; beyond that it
                // gains a little, so that who mostly sleeps is quick to run.
                let slept = u128::from(now.saturating_sub(entity.slept_at));
                match entity.lag.checked_sub(slept) {
                    Some(ahead) => clock.saturating_add(ahead),
                    None => {
                        let gain = slept.saturating_sub(entity.lag).min(WAKE_CREDIT);
                        clock.saturating_sub(gain)
                    }
                }
            }
        };
        let preempts = self.preempts(&entity);
        self.insert(entity, false);
        preempts
    }

    /// The task to run now: the current one goes back into the queue, and the
    /// one that comes first becomes current. `None`: idle.
    pub fn pick(&mut self, now: Nanos) -> Option<&Entity<T>> {
        self.account(now);
        if let Some(mut current) = self.current.take() {
            let used_up = current.policy.slice().is_some() && current.slice_left == 0;
            if used_up {
                current.slice_left = current.policy.slice().unwrap_or(0);
            }
            // A real-time task that is preempted stays first among its equals.
            self.insert(current, !used_up);
        }
        self.pick_next()
    }

    /// The current task sleeps (or ends): takes it out. Call
    /// [`pick`](Self::pick) next.
    pub fn block(&mut self, now: Nanos) -> Option<Entity<T>> {
        self.account(now);
        let mut entity = self.current.take()?;
        self.leave(&mut entity, now);
        Some(entity)
    }

    /// sched_yield(): the current task goes behind its equals. Call
    /// [`pick`](Self::pick) next.
    pub fn yield_now(&mut self, now: Nanos) {
        self.account(now);
        let last = self.fair.last_key_value().map(|((vruntime, _), _)| *vruntime);
        if let Some(current) = &mut self.current {
            current.slice_left = 0;
            match current.policy {
                Policy::Fair { .. } | Policy::Idle => {
                    // Behind all others, yet not so far as to be forgotten.
                    let bound = current.vruntime.saturating_add(2 * u128::from(SLICE));
                    let behind = last.unwrap_or(0).saturating_add(1).min(bound);
                    current.vruntime = current.vruntime.max(behind);
                }
                Policy::Fifo { .. } | Policy::RoundRobin { .. } => {
                    if let Some(current) = self.current.take() {
                        self.insert(current, false);
                    }
                }
            }
        }
    }

    /// The timer fired, or anything else let the kernel look: accounts the time
    /// and says whether to [`pick`](Self::pick) again.
    pub fn tick(&mut self, now: Nanos) -> bool {
        self.account(now);
        let Some(current) = &self.current else { return self.waiting() != 0 };
        if let Some(first) = self.first_waiting_priority()
            && current.policy.priority() < Some(first)
        {
            return true;
        }
        let used_up = current.policy.slice().is_some() && current.slice_left == 0;
        used_up && self.has_equal(current)
    }

    /// When to call [`tick`](Self::tick) at the latest; `None` if nobody waits
    /// for the current task's slice to end: no timer is needed then.
    pub fn next_tick(&self) -> Option<Nanos> {
        let current = self.current.as_ref()?;
        current.policy.slice()?;
        self.has_equal(current).then(|| self.accounted.saturating_add(current.slice_left))
    }

    /// A task for another CPU that is idle: the first real-time one, else the
    /// fair one that would wait longest, among those that may run there.
    pub fn steal(&mut self, cpu: usize, now: Nanos) -> Option<Entity<T>> {
        self.account(now);
        let allowed = |entity: &Entity<T>| entity.affinity.contains(cpu);
        let real_time = self.real_time.iter().find(|(_, entity)| allowed(entity));
        if let Some((&key, _)) = real_time {
            return self.real_time.remove(&key);
        }
        let fair = self.fair.iter().rev().find(|(_, entity)| allowed(entity));
        let key = *fair?.0;
        let mut entity = self.fair.remove(&key)?;
        self.leave(&mut entity, now);
        Some(entity)
    }

    /// Takes a waiting task out: it is to go elsewhere. The current one is not
    /// found: it leaves by [`block`](Self::block).
    pub fn remove(&mut self, id: TaskId, now: Nanos) -> Option<Entity<T>> {
        self.account(now);
        let real_time = self.real_time.iter().find(|(_, entity)| entity.id == id);
        if let Some((&key, _)) = real_time {
            return self.real_time.remove(&key);
        }
        let key = *self.fair.iter().find(|(_, entity)| entity.id == id)?.0;
        let mut entity = self.fair.remove(&key)?;
        self.leave(&mut entity, now);
        Some(entity)
    }

    /// Changes a runnable task's affinity or policy, current or waiting. `None`
    /// if it isn't here; else whether to [`pick`](Self::pick) again. (Whether it
    /// may still run on this CPU is the caller's to look at.)
    pub fn change(
        &mut self,
        id: TaskId,
        now: Nanos,
        change: impl FnOnce(&mut Entity<T>),
    ) -> Option<bool> {
        self.account(now);
        if let Some(current) = &mut self.current
            && current.id == id
        {
            change(current);
            // One that was real-time until now has no place in virtual time.
            current.vruntime = current.vruntime.max(self.min_vruntime);
            return Some(self.tick(now));
        }
        let mut entity = self.remove(id, now)?;
        change(&mut entity);
        Some(self.enqueue(entity, Enqueue::Migrate, now))
    }

    /// Accounts the current task's time until now, for those who ask how long
    /// it has run.
    pub fn account(&mut self, now: Nanos) {
        let delta = now.saturating_sub(self.accounted);
        self.accounted = self.accounted.max(now);
        if let Some(current) = &mut self.current {
            current.runtime = current.runtime.saturating_add(delta);
            current.slice_left = current.slice_left.saturating_sub(delta);
            if current.policy.priority().is_none() {
                let delta = current.policy.virtual_time(delta);
                current.vruntime = current.vruntime.saturating_add(delta);
            }
        }
        self.advance_clock();
    }

    /// The virtual clock follows whoever is furthest behind.
    fn advance_clock(&mut self) {
        let waiting = self.fair.first_key_value().map(|((vruntime, _), _)| *vruntime);
        let running = self.current.as_ref().filter(|current| current.policy.priority().is_none());
        let behind = [waiting, running.map(|current| current.vruntime)].into_iter().flatten().min();
        if let Some(behind) = behind {
            self.min_vruntime = self.min_vruntime.max(behind);
        }
    }

    fn pick_next(&mut self) -> Option<&Entity<T>> {
        let first = self.real_time.pop_first().map(|(_, entity)| entity);
        let next = first.or_else(|| self.fair.pop_first().map(|(_, entity)| entity));
        self.current = next.map(|mut entity| {
            if entity.slice_left == 0 {
                entity.slice_left = entity.policy.slice().unwrap_or(0);
            }
            entity
        });
        self.advance_clock();
        self.current.as_ref()
    }

    fn insert(&mut self, entity: Entity<T>, in_front: bool) {
        match entity.policy.priority() {
            Some(priority) => {
                let arrival = if in_front {
                    self.first_arrival = self.first_arrival.wrapping_sub(1);
                    self.first_arrival
                } else {
                    self.last_arrival = self.last_arrival.wrapping_add(1);
                    self.last_arrival
                };
                self.real_time.insert((u8::MAX.wrapping_sub(priority), arrival), entity);
            }
            None => {
                self.fair.insert((entity.vruntime, entity.id), entity);
            }
        }
    }

    fn leave(&self, entity: &mut Entity<T>, now: Nanos) {
        entity.lag = entity.vruntime.saturating_sub(self.min_vruntime);
        entity.slept_at = now;
    }

    fn first_waiting_priority(&self) -> Option<u8> {
        self.real_time.first_key_value().map(|((key, _), _)| u8::MAX.wrapping_sub(*key))
    }

    /// Whether a task waits that takes turns with `current`.
    fn has_equal(&self, current: &Entity<T>) -> bool {
        match current.policy.priority() {
            Some(priority) => self.first_waiting_priority() >= Some(priority),
            None => self.waiting() != 0,
        }
    }

    /// Whether `entity` should run instead of the current task.
    fn preempts(&self, entity: &Entity<T>) -> bool {
        let Some(current) = &self.current else { return true };
        match (entity.policy, current.policy) {
            (new, old) if new.priority().is_some() || old.priority().is_some() => {
                new.priority() > old.priority()
            }
            (Policy::Idle, _) => false,
            (_, Policy::Idle) => true,
            _ => entity.vruntime.saturating_add(WAKE_CREDIT) <= current.vruntime,
        }
    }
}

impl<T> Default for RunQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpus::CpuSet;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::vec;
    use std::vec::Vec;

    const MS: Nanos = 1_000_000;
    const NICE_0: Policy = Policy::Fair { nice: 0 };

    fn task(id: TaskId, policy: Policy) -> Entity<()> {
        Entity::new(id, (), policy, CpuSet::ALL)
    }

    fn queue(policies: &[Policy]) -> RunQueue<()> {
        let mut queue = RunQueue::new();
        for (id, policy) in policies.iter().enumerate() {
            queue.enqueue(task(id as TaskId, *policy), Enqueue::New, 0);
        }
        queue
    }

    fn running(queue: &RunQueue<()>) -> Option<TaskId> {
        queue.current().map(|entity| entity.id)
    }

    /// Runs until `end`, taking the timer as asked for; returns run times.
    fn simulate(queue: &mut RunQueue<()>, start: Nanos, end: Nanos) -> BTreeMap<TaskId, Nanos> {
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
        let mut queue =
            queue(&[NICE_0, Policy::Fifo { priority: 5 }, Policy::Fifo { priority: 9 }]);
        assert_eq!(queue.pick(0).unwrap().id, 2);
        assert_eq!(queue.next_tick(), None);
        assert!(!queue.tick(1000 * MS));
        assert!(!queue.enqueue(task(7, Policy::Fifo { priority: 9 }), Enqueue::Wake, 0));
        assert!(queue.enqueue(task(8, Policy::Fifo { priority: 10 }), Enqueue::Wake, 0));
        assert_eq!(queue.pick(0).unwrap().id, 8);
        queue.block(0);
        // The preempted one is still first among its equals.
        assert_eq!(queue.pick(0).unwrap().id, 2);
        queue.yield_now(0);
        assert_eq!(queue.pick(0).unwrap().id, 7);
        queue.block(0);
        queue.pick(0);
        queue.block(0);
        assert_eq!(queue.pick(0).unwrap().id, 1);
        queue.block(0);
        assert_eq!(queue.pick(0).unwrap().id, 0);
    }

    #[test]
    fn round_robin_takes_turns() {
        let policy = Policy::RoundRobin { priority: 1 };
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
    fn idle_tasks_take_what_is_left() {
        let mut queue = queue(&[NICE_0, Policy::Idle]);
        let runtimes = simulate(&mut queue, 0, 10_000 * MS);
        assert!(runtimes[&1] > 0 && runtimes[&1] < 100 * MS, "{runtimes:?}");
        queue.block(10_000 * MS);
        let mut idle = RunQueue::new();
        idle.enqueue(task(1, Policy::Idle), Enqueue::New, 0);
        idle.pick(0);
        assert!(idle.enqueue(task(2, NICE_0), Enqueue::Wake, 0));
    }

    #[test]
    fn yielding_lets_the_other_run() {
        let mut queue = queue(&[NICE_0, NICE_0]);
        let first = queue.pick(0).unwrap().id;
        queue.yield_now(0);
        let second = queue.pick(0).unwrap().id;
        assert_ne!(first, second);
        queue.yield_now(0);
        assert_eq!(queue.pick(0).unwrap().id, first);
        // Alone, it goes on at once.
        queue.block(0);
        queue.pick(0);
        queue.yield_now(0);
        assert_eq!(queue.pick(0).unwrap().id, second);
    }

    #[test]
    fn stealing_minds_the_mask() {
        let mut queue = RunQueue::new();
        for id in 0..3 {
            let entity = Entity::new(id, (), NICE_0, CpuSet::only(id as usize));
            queue.enqueue(entity, Enqueue::New, 0);
        }
        queue.pick(0);
        assert_eq!(queue.steal(0, 0).map(|entity| entity.id), None);
        assert_eq!(queue.steal(2, 0).map(|entity| entity.id), Some(2));
        assert_eq!(queue.steal(2, 0).map(|entity| entity.id), None);
        assert_eq!(queue.len(), 2);
        assert!(queue.remove(0, 0).is_none());
        assert_eq!(queue.remove(1, 0).map(|entity| entity.id), Some(1));
    }

    #[test]
    fn policies_change() {
        let mut queue = queue(&[NICE_0, NICE_0]);
        queue.pick(0);
        let fifo = |entity: &mut Entity<()>| entity.set_policy(Policy::Fifo { priority: 1 });
        assert_eq!(queue.change(1, 0, fifo), Some(true));
        assert_eq!(queue.pick(0).unwrap().id, 1);
        assert_eq!(queue.change(1, 0, |entity| entity.set_policy(NICE_0)), Some(false));
        assert_eq!(queue.change(0, 0, fifo), Some(true));
        assert_eq!(queue.change(7, 0, fifo), None);
    }

    fn any_policy() -> impl Strategy<Value = Policy> {
        prop_oneof![
            6 => (-5i8..6).prop_map(|nice| Policy::Fair { nice }),
            1 => (1u8..4).prop_map(|priority| Policy::Fifo { priority }),
            1 => (1u8..4).prop_map(|priority| Policy::RoundRobin { priority }),
        ]
    }

    proptest! {
        #[test]
        fn shares_follow_weights(nices in prop::collection::vec(-10i8..11, 2..6)) {
            let policies: Vec<_> = nices.iter().map(|&nice| Policy::Fair { nice }).collect();
            let total: u64 = policies.iter().map(|policy| policy.weight()).sum();
            let end = 20_000 * MS;
            let runtimes = simulate(&mut queue(&policies), 0, end);
            for (id, policy) in policies.iter().enumerate() {
                let share = end as f64 * policy.weight() as f64 / total as f64;
                let got = runtimes.get(&(id as TaskId)).copied().unwrap_or(0) as f64;
                // Weighted, nobody is further off than a few slices of the
                // lightest.
                let slack = 0.05 * share + 4.0 * SLICE as f64;
                prop_assert!((got - share).abs() <= slack, "{id}: {got} of {share}: {runtimes:?}");
            }
        }

        #[test]
        fn nobody_is_lost_or_starved(
            ops in prop::collection::vec((0u8..8, any_policy(), 0u64..20), 1..200),
        ) {
            let mut queue = RunQueue::new();
            let mut sleeping: Vec<Entity<()>> = vec![];
            let (mut now, mut created) = (0, 0);
            for (op, policy, value) in ops {
                now += value * MS / 4;
                match op {
                    0 | 1 => {
                        queue.enqueue(task(created, policy), Enqueue::New, now);
                        created += 1;
                    }
                    2 => sleeping.extend(queue.block(now)),
                    3 => {
                        if let Some(entity) = sleeping.pop() {
                            queue.enqueue(entity, Enqueue::Wake, now);
                        }
                    }
                    4 => queue.yield_now(now),
                    5 => {
                        if let Some(entity) = queue.steal(value as usize, now) {
                            queue.enqueue(entity, Enqueue::Migrate, now);
                        }
                    }
                    6 => { queue.change(value, now, |entity| entity.set_policy(policy)); }
                    _ => {}
                }
                if op != 7 || queue.tick(now) {
                    queue.pick(now);
                }
                prop_assert_eq!(queue.len() + sleeping.len(), created as usize);
                prop_assert_eq!(running(&queue).is_some(), !queue.is_empty());
                // The highest priority runs.
                let running = queue.current().and_then(|current| current.policy().priority());
                prop_assert!(queue.first_waiting_priority() <= running || op == 7);
            }
            // Without real-time tasks, everybody's turn comes.
            while queue.current().is_some_and(|current| current.policy().priority().is_some()) {
                queue.block(now);
                queue.pick(now);
            }
            let left = queue.len();
            let runtimes = simulate(&mut queue, now, now + 40_000 * MS);
            prop_assert_eq!(runtimes.len(), left);
        }
    }
}
