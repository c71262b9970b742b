//! Which of the machine's CPUs each domain gets.

use crate::{Domain, Placement, Problem};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

/// The machine's CPUs (counted as in `/cpus`) of each domain: for an exclusive
/// one a CPU for each virtual CPU, in order; for a shared one those that its
/// virtual CPUs take turns on. An empty list: the domain can't have what it
/// wants, and the list of problems says why. `runs` says of each of the machine's CPUs
/// whether it runs.
///
/// What names its CPUs goes first. Exclusive domains without a wish take free
/// CPUs from the end, so that the boot CPU, which does what the machine needs,
/// is the last to go. Shared ones take all that no exclusive one has. A CPU that
/// doesn't run is missed only by who names it.
pub fn assign(domains: &[Domain], runs: &[bool]) -> (Vec<Vec<u32>>, Vec<Problem>) {
    let mut assigned: Vec<Vec<u32>> = vec![Vec::new(); domains.len()];
    let mut problems = Vec::new();
    let path = |domain: &Domain| format!("/chosen/{}", domain.name);
    let mut exclusive: Vec<u32> = Vec::new();
    let wish = |domain: &&Domain| !domain.host_cpus.is_empty();
    let is_exclusive = |domain: &&Domain| domain.placement == Placement::Exclusive;
    let running: Vec<u32> =
        (0u32..).zip(runs).filter_map(|(cpu, runs)| runs.then_some(cpu)).collect();
    let missed =
        |domain: &Domain| domain.host_cpus.iter().copied().find(|cpu| !running.contains(cpu));

    for (domain, list) in domains.iter().zip(&mut assigned) {
        if let Some(cpu) = missed(domain) {
            let what = if runs.get(cpu as usize).is_some() {
                format!("names CPU {cpu}, which doesn't run")
            } else {
                format!("names a CPU that the machine doesn't have: it has {}", runs.len())
            };
            problems.push(Problem::property(path(domain), "hypha,cpus", what));
        } else if is_exclusive(&domain) && wish(&domain) {
            if domain.host_cpus.iter().any(|cpu| exclusive.contains(cpu)) {
                let what = "names a CPU that another domain has to itself";
                problems.push(Problem::property(path(domain), "hypha,cpus", what));
                continue;
            }
            exclusive.extend(&domain.host_cpus);
            list.clone_from(&domain.host_cpus);
        }
    }
    // A CPU that a shared domain names is not free for those who don't care.
    let named: Vec<u32> = domains
        .iter()
        .filter(|domain| !is_exclusive(domain))
        .flat_map(|domain| domain.host_cpus.iter().copied())
        .collect();
    for (domain, list) in domains.iter().zip(&mut assigned) {
        if !is_exclusive(&domain) || wish(&domain) {
            continue;
        }
        let is_free = |cpu: &u32| !exclusive.contains(cpu) && !named.contains(cpu);
        let free = running.iter().copied().rev().filter(is_free);
        let mut taken: Vec<u32> = free.take(domain.cpus as usize).collect();
        if taken.len() < domain.cpus as usize {
            let what = "there are not as many CPUs left";
            problems.push(Problem::property(path(domain), "hypha,placement", what));
            continue;
        }
        taken.reverse();
        exclusive.extend(&taken);
        *list = taken;
    }
    for (domain, list) in domains.iter().zip(&mut assigned) {
        if is_exclusive(&domain) || missed(domain).is_some() {
            continue;
        }
        let wanted = running.iter().copied();
        let wanted = wanted.filter(|cpu| !wish(&domain) || domain.host_cpus.contains(cpu));
        let left: Vec<u32> = wanted.filter(|cpu| !exclusive.contains(cpu)).collect();
        if left.is_empty() {
            let what = "no CPU is left: exclusive domains have them all";
            problems.push(Problem::node(path(domain), what));
        }
        *list = left;
    }
    (assigned, problems)
}

/// The CPU that takes the host's interrupts: the first of `online` that no domain has
/// to itself. None: they have them all. A bit for each CPU.
pub fn for_the_host(online: u64, exclusive: u64) -> Option<usize> {
    let left = online & !exclusive;
    (left != 0).then(|| left.trailing_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::domain;
    use proptest::prelude::*;

    fn shared(cpus: u32, host: &[u32]) -> Domain {
        Domain { cpus, host_cpus: host.to_vec(), ..domain("s") }
    }

    fn exclusive(cpus: u32, host: &[u32]) -> Domain {
        Domain { placement: Placement::Exclusive, ..shared(cpus, host) }
    }

    #[test]
    fn exclusive_ones_go_last_on_the_machine_and_the_others_share() {
        let (cpus, problems) =
            assign(&[shared(2, &[]), exclusive(1, &[]), shared(1, &[])], &[true; 4]);
        assert_eq!(problems, []);
        assert_eq!(cpus, [vec![0, 1, 2], vec![3], vec![0, 1, 2]]);
    }

    #[test]
    fn wishes_go_first() {
        let (cpus, problems) =
            assign(&[exclusive(1, &[]), exclusive(2, &[3, 2]), shared(1, &[1])], &[true; 4]);
        assert_eq!(problems, []);
        assert_eq!(cpus, [vec![0], vec![3, 2], vec![1]]);
    }

    #[test]
    fn what_cannot_be_had() {
        let (cpus, problems) = assign(&[exclusive(1, &[1]), exclusive(1, &[1])], &[true; 2]);
        assert_eq!(cpus, [vec![1], vec![]]);
        assert!(problems[0].what.contains("to itself"));
        let (cpus, problems) = assign(&[exclusive(4, &[]), shared(1, &[])], &[true; 4]);
        assert_eq!(cpus, [vec![0, 1, 2, 3], vec![]]);
        assert!(problems[0].what.contains("no CPU is left"));
        let (_, problems) = assign(&[exclusive(5, &[])], &[true; 4]);
        assert!(problems[0].what.contains("not as many"));
        let (_, problems) = assign(&[shared(1, &[4])], &[true; 4]);
        assert!(problems[0].what.contains("doesn't have"));
    }

    #[test]
    fn only_who_names_a_cpu_that_is_down_misses_it() {
        let runs = [true, true, false, true, false];
        let domains = [shared(4, &[]), exclusive(1, &[]), shared(1, &[0, 1]), shared(1, &[1, 2])];
        let (cpus, problems) = assign(&domains, &runs);
        assert_eq!(cpus, [vec![0, 1], vec![3], vec![0, 1], vec![]]);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].what.contains("names CPU 2, which doesn't run"));
        let (cpus, problems) = assign(&[exclusive(1, &[4]), exclusive(3, &[])], &runs);
        assert_eq!(cpus, [vec![], vec![0, 1, 3]]);
        assert!(problems[0].what.contains("names CPU 4, which doesn't run"));
        let (_, problems) = assign(&[exclusive(4, &[])], &runs);
        assert!(problems[0].what.contains("not as many"));
    }

    #[test]
    fn the_host_keeps_off_exclusive_cpus() {
        assert_eq!(for_the_host(0b1111, 0), Some(0));
        assert_eq!(for_the_host(0b1111, 0b0001), Some(1));
        assert_eq!(for_the_host(0b1101, 0b0001), Some(2));
        assert_eq!(for_the_host(0b1111, 0b0111), Some(3));
        assert_eq!(for_the_host(0b0011, 0b1111), None);
        assert_eq!(for_the_host(1 << 63, 0), Some(63));
    }

    proptest! {
        #[test]
        fn exclusive_cpus_are_nobody_elses(
            wishes in proptest::collection::vec(
                (any::<bool>(), 1u32..5, proptest::collection::btree_set(0u32..6, 0..4)), 0..6),
            runs in proptest::collection::vec(any::<bool>(), 0..8),
        ) {
            let domains: Vec<Domain> = wishes.iter().map(|(alone, n, host)| {
                let host: Vec<u32> = host.iter().copied().collect();
                if !alone {
                    shared(*n, &host)
                } else {
                    exclusive(if host.is_empty() { *n } else { host.len() as u32 }, &host)
                }
            }).collect();
            let (assigned, problems) = assign(&domains, &runs);
            prop_assert_eq!(assigned.iter().filter(|list| list.is_empty()).count(), problems.len());
            for (i, (domain, list)) in domains.iter().zip(&assigned).enumerate() {
                prop_assert!(list.iter().all(|cpu| runs.get(*cpu as usize) == Some(&true)));
                if domain.placement == Placement::Exclusive {
                    prop_assert!(list.is_empty() || list.len() == domain.cpus as usize);
                    for (j, other) in assigned.iter().enumerate() {
                        prop_assert!(i == j || !list.iter().any(|cpu| other.contains(cpu)));
                    }
                }
            }
        }
    }
}
