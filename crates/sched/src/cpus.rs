//! Sets of CPUs.

use core::fmt;

const WORDS: usize = 4;

/// A set of CPUs: the affinity mask of a task, the CPUs online, the idle ones.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct CpuSet {
    words: [u64; WORDS],
}

impl CpuSet {
    /// How many CPUs there can be.
    pub const CAPACITY: usize = WORDS * 64;
    /// No CPU.
    pub const EMPTY: CpuSet = CpuSet { words: [0; WORDS] };
    /// Every CPU.
    pub const ALL: CpuSet = CpuSet { words: [u64::MAX; WORDS] };

    /// CPUs 0 to `count` - 1.
    pub fn first_n(count: usize) -> CpuSet {
        let mut set = CpuSet::EMPTY;
        for cpu in 0..count.min(Self::CAPACITY) {
            set.insert(cpu);
        }
        set
    }

    /// Just `cpu`.
    pub fn only(cpu: usize) -> CpuSet {
        let mut set = CpuSet::EMPTY;
        set.insert(cpu);
        set
    }

    /// From user memory's cpu_set_t of any length; CPUs that cannot be are
    /// dropped.
    pub fn from_bytes(bytes: &[u8]) -> CpuSet {
        let mut set = CpuSet::EMPTY;
        for (cpu, _) in (0..Self::CAPACITY)
            .zip(bytes.iter().flat_map(|byte| (0..8).map(move |bit| (byte, bit))))
            .filter(|(_, (byte, bit))| (**byte >> *bit) & 1 != 0)
        {
            set.insert(cpu);
        }
        set
    }

    /// As a cpu_set_t.
    pub fn to_bytes(&self) -> [u8; WORDS * 8] {
        let mut bytes = [0; WORDS * 8];
        for (place, word) in bytes.chunks_exact_mut(8).zip(self.words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Whether `cpu` is in it.
    pub fn contains(&self, cpu: usize) -> bool {
        self.words.get(cpu / 64).is_some_and(|word| (word >> (cpu % 64)) & 1 != 0)
    }

    /// Adds `cpu`, if there can be such a one.
    pub fn insert(&mut self, cpu: usize) {
        if let Some(word) = self.words.get_mut(cpu / 64) {
            *word |= 1 << (cpu % 64);
        }
    }

    /// Takes `cpu` out.
    pub fn remove(&mut self, cpu: usize) {
        if let Some(word) = self.words.get_mut(cpu / 64) {
            *word &= !(1 << (cpu % 64));
        }
    }

    /// Those in both.
    pub fn and(&self, other: &CpuSet) -> CpuSet {
        let mut words = self.words;
        for (word, other) in words.iter_mut().zip(other.words) {
            *word &= other;
        }
        CpuSet { words }
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.words == [0; WORDS]
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// The lowest.
    pub fn first(&self) -> Option<usize> {
        self.from(0)
    }

    /// The lowest that is not below `cpu`.
    fn from(&self, cpu: usize) -> Option<usize> {
        (cpu..Self::CAPACITY).find(|&cpu| self.contains(cpu))
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..Self::CAPACITY).filter(|&cpu| self.contains(cpu))
    }
}

impl FromIterator<usize> for CpuSet {
    fn from_iter<I: IntoIterator<Item = usize>>(cpus: I) -> CpuSet {
        let mut set = CpuSet::EMPTY;
        cpus.into_iter().for_each(|cpu| set.insert(cpu));
        set
    }
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Where a task wakes up that last ran on `previous`: there if that CPU is idle,
/// else on an idle CPU that it may use, the next one up first; else there, and it
/// waits or preempts. If its mask leaves no CPU that is online, it goes to any,
/// as on Linux.
pub fn place(affinity: &CpuSet, previous: usize, idle: &CpuSet, online: &CpuSet) -> usize {
    let allowed = affinity.and(online);
    let allowed = if allowed.is_empty() { online } else { &allowed };
    let resting = allowed.and(idle);
    let next_up = |set: &CpuSet| set.from(previous).or_else(|| set.first());
    next_up(&resting).or_else(|| next_up(allowed)).unwrap_or(previous)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn set(cpus: &[usize]) -> CpuSet {
        cpus.iter().copied().collect()
    }

    #[test]
    fn where_tasks_wake_up() {
        let online = CpuSet::first_n(4);
        let all = CpuSet::ALL;
        assert_eq!(place(&all, 1, &set(&[0, 1, 2]), &online), 1);
        assert_eq!(place(&all, 1, &set(&[0, 3]), &online), 3);
        assert_eq!(place(&all, 2, &set(&[0, 1]), &online), 0);
        assert_eq!(place(&all, 1, &CpuSet::EMPTY, &online), 1);
        assert_eq!(place(&set(&[0, 2]), 1, &set(&[3]), &online), 2);
        assert_eq!(place(&set(&[9]), 1, &set(&[2]), &online), 2);
        assert_eq!(place(&all, 7, &CpuSet::EMPTY, &CpuSet::EMPTY), 7);
    }

    #[test]
    fn bytes() {
        assert_eq!(CpuSet::from_bytes(&[5]), set(&[0, 2]));
        assert_eq!(CpuSet::from_bytes(&[0xff; 128]), CpuSet::ALL);
        assert_eq!(CpuSet::from_bytes(&[]), CpuSet::EMPTY);
        assert_eq!(set(&[9, 300]).to_bytes()[..3], [0, 2, 0]);
    }

    proptest! {
        #[test]
        fn sets_are_their_members(mut cpus in prop::collection::vec(0usize..CpuSet::CAPACITY, 0..50)) {
            let set = set(&cpus);
            cpus.sort();
            cpus.dedup();
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), cpus);
            prop_assert_eq!(CpuSet::from_bytes(&set.to_bytes()), set);
        }

        #[test]
        fn places_are_allowed(affinity: u8, idle: u8, online in 1u8.., previous in 0usize..10) {
            let of = |bits: u8| CpuSet::from_bytes(&[bits]);
            let (affinity, idle, online) = (of(affinity), of(idle), of(online));
            let cpu = place(&affinity, previous, &idle, &online);
            prop_assert!(online.contains(cpu));
            let allowed = affinity.and(&online);
            prop_assert!(allowed.is_empty() || allowed.contains(cpu));
            prop_assert!(allowed.and(&idle).is_empty() || idle.contains(cpu));
        }
    }
}
