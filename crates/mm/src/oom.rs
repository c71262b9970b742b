//! Out of memory: who has to go, so that the others can go on. As on Linux
//! (proc(5), oom_score_adj): the process that has most, weighed.

/// `oom_score_adj` of who is never chosen.
pub const NEVER: i32 = -1000;

/// What speaks against a process: the pages that its end gives back, page
/// tables included, and a thousandth of the machine's `total` for each point of
/// its `oom_score_adj`. None: it is never chosen.
pub fn badness(pages: u64, adjustment: i32, total: u64) -> Option<i64> {
    let point = (total / 1000) as i64;
    let weight = i64::from(adjustment).saturating_mul(point);
    (adjustment > NEVER).then(|| (pages as i64).saturating_add(weight))
}

/// /proc/PID/oom_score: 0 to 2000; who is at 0 is never chosen.
pub fn score(points: Option<i64>, total: u64) -> u64 {
    let Some(points) = points else { return 0 };
    let share = points.saturating_mul(1000).checked_div(total as i64).unwrap_or(0);
    let score = share.saturating_add(1000).saturating_mul(2) / 3;
    u64::try_from(score).unwrap_or(0)
}

/// How a process stands when somebody has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It lives; what speaks against it.
    Lives(i64),
    /// It was chosen before, or gives its memory back by itself just now.
    Leaves,
    /// There is nothing to be had from it, or it must not be chosen.
    Stays,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<T> {
    /// Wait: who leaves gives enough, or the next look chooses another.
    Wait,
    /// Try again: there is memory.
    Enough,
    /// This one goes.
    Choose(T),
    /// There is nobody.
    Nobody,
}

/// Looks at all `processes`, and only then whether there is `enough` memory:
/// who had left already when it was looked at has given it back by then.
///
/// Nobody is chosen as long as another leaves: however long that takes, it
/// comes to an end, and a second victim would die for the first one's memory.
pub fn choose<T>(
    processes: impl Iterator<Item = (Standing, T)>,
    enough: impl FnOnce() -> bool,
) -> Verdict<T> {
    let mut worst: Option<(i64, T)> = None;
    for (standing, process) in processes {
        match standing {
            Standing::Leaves => return Verdict::Wait,
            Standing::Lives(points) if worst.as_ref().is_none_or(|(most, _)| points > *most) => {
                worst = Some((points, process));
            }
            Standing::Lives(_) | Standing::Stays => {}
        }
    }
    if enough() {
        return Verdict::Enough;
    }
    worst.map_or(Verdict::Nobody, |(_, process)| Verdict::Choose(process))
}

#[cfg(test)]
mod tests {
    use super::{Standing::*, *};
    use core::cell::Cell;

    #[test]
    fn most_pages_or_most_points_go() {
        assert_eq!(badness(500, 0, 100_000), Some(500));
        assert_eq!(badness(500, 10, 100_000), Some(1500));
        assert_eq!(badness(500, -999, 100_000), Some(500 - 99_900));
        assert_eq!(badness(5000, NEVER, 100_000), None);
        let list =
            [(Lives(3), 'a'), (Lives(7), 'b'), (Stays, 'c'), (Lives(7), 'd'), (Lives(-2), 'e')];
        assert_eq!(choose(list.into_iter(), || false), Verdict::Choose('b'));
        assert_eq!(choose(list.into_iter(), || true), Verdict::Enough);
        assert_eq!(choose([(Stays, 'c')].into_iter(), || false), Verdict::Nobody);
    }

    #[test]
    fn nobody_goes_while_another_leaves() {
        for at in 0..3 {
            let mut list = [(Lives(1), 0), (Lives(9), 1), (Lives(5), 2)];
            list[at].0 = Leaves;
            assert_eq!(choose(list.into_iter(), || false), Verdict::Wait);
        }
    }

    /// One leaves while the others are looked at: before it is looked at itself,
    /// so that it isn't known to leave.
    #[test]
    fn memory_that_comes_back_meanwhile_counts() {
        let free = Cell::new(false);
        let list = [(Lives(1), 0), (Stays, 1), (Lives(5), 2)].into_iter();
        let looks = list.inspect(|(_, who)| free.set(free.get() || *who == 1));
        assert_eq!(choose(looks, || free.get()), Verdict::Enough);
    }

    #[test]
    fn scores() {
        assert_eq!(score(badness(0, 0, 1000), 1000), 666);
        assert_eq!(score(badness(1000, 0, 1000), 1000), 1333);
        assert_eq!(score(badness(1000, 1000, 1000), 1000), 2000);
        assert_eq!(score(badness(0, -999, 1000), 1000), 0);
        assert_eq!(score(None, 1000), 0);
        assert_eq!(score(Some(1), 0), 666);
    }
}
