//! A set of numbers, which soon finds the least of them.
#![forbid(unsafe_code)]

/// As many as [`LIMIT`] takes.
const LEVELS: usize = 5;
/// Numbers are below this.
pub const LIMIT: u64 = 1 << 30;

/// Bit `n` of the first level: `n` is a member. Of each level above: word `n` of
/// the one below isn't zero.
pub struct Set {
    levels: [&'static mut [u64]; LEVELS],
}

impl Set {
    /// The words that numbers below `bound` need.
    pub fn words(bound: u64) -> u64 {
        sizes(bound).into_iter().fold(0, u64::wrapping_add)
    }

    /// An empty one. It takes its words, which are zero, from the front of `memory`.
    pub fn new(bound: u64, memory: &mut &'static mut [u64]) -> Set {
        let levels = sizes(bound).map(|size| memory.split_off_mut(..size as usize));
        Set { levels: levels.map(Option::unwrap_or_default) }
    }

    pub fn insert(&mut self, n: u32) {
        let mut n = n;
        for level in &mut self.levels {
            let Some(word) = level.get_mut((n >> 6) as usize) else { return };
            if core::mem::replace(word, *word | 1 << (n & 63)) != 0 {
                return;
            }
            n >>= 6;
        }
    }

    pub fn remove(&mut self, n: u32) {
        let mut n = n;
        for level in &mut self.levels {
            let Some(word) = level.get_mut((n >> 6) as usize) else { return };
            *word &= !(1 << (n & 63));
            if *word != 0 {
                return;
            }
            n >>= 6;
        }
    }

    /// The least member.
    pub fn first(&self) -> Option<u32> {
        self.levels.iter().rev().try_fold(0, |n, level| {
            let word = level.get(n as usize).filter(|word| **word != 0)?;
            Some(n << 6 | word.trailing_zeros())
        })
    }
}

/// The words of each level.
fn sizes(bound: u64) -> [u64; LEVELS] {
    let mut below = bound;
    [(); LEVELS].map(|()| {
        below = below.div_ceil(64).max(1);
        below
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::vec;

    fn set(bound: u64) -> Set {
        let mut memory: &'static mut [u64] = vec![0; Set::words(bound) as usize].leak();
        let set = Set::new(bound, &mut memory);
        assert!(memory.is_empty());
        set
    }

    #[test]
    fn reaches_its_bound() {
        for bound in [1, 64, 65, 4096, 4097, 1 << 20] {
            let mut set = set(bound);
            assert_eq!(set.first(), None);
            set.insert(bound as u32 - 1);
            assert_eq!(set.first(), Some(bound as u32 - 1));
            set.remove(bound as u32 - 1);
            assert_eq!(set.first(), None);
        }
        assert_eq!(sizes(LIMIT)[LEVELS - 1], 1);
    }

    proptest! {
        #[test]
        fn is_a_set(steps in prop::collection::vec((any::<bool>(), 0u32..10_000), 1..400)) {
            let mut set = set(10_000);
            let mut model = BTreeSet::new();
            for (insert, n) in steps {
                if insert {
                    set.insert(n);
                    model.insert(n);
                } else {
                    // Half of the time one that is there.
                    let n = model.range(n..).next().copied().filter(|m| m % 2 == 0).unwrap_or(n);
                    set.remove(n);
                    model.remove(&n);
                }
                prop_assert_eq!(set.first(), model.first().copied());
            }
        }
    }
}
