//! Which objects of a page are free.
#![forbid(unsafe_code)]

/// The most there can be.
pub const MAX: usize = 256;

/// A bit for each object that is free, and their number.
pub struct Slots {
    free: [u64; MAX / 64],
    count: usize,
    all: usize,
}

impl Slots {
    /// So many, all of them free.
    pub fn new(all: usize) -> Slots {
        let all = all.min(MAX);
        let mut left = all;
        let free = [(); MAX / 64].map(|()| {
            let bits = left.min(64);
            left = left.wrapping_sub(bits);
            u64::MAX.checked_shr(64u32.wrapping_sub(bits as u32)).unwrap_or(0)
        });
        Slots { free, count: all, all }
    }

    /// Takes one that is free.
    #[inline]
    pub fn take(&mut self) -> Option<usize> {
        let (word, base) =
            self.free.iter_mut().zip((0..).step_by(64)).find(|(word, _)| **word != 0)?;
        let bit = word.trailing_zeros() as usize;
        *word &= word.wrapping_sub(1);
        self.count = self.count.wrapping_sub(1);
        Some(bit.wrapping_add(base))
    }

    /// Gives one back. It wasn't free.
    #[inline]
    pub fn give(&mut self, n: usize) {
        let bit = 1 << (n & 63);
        let word = self.free.get_mut(n >> 6).filter(|word| n < self.all && **word & bit == 0);
        debug_assert!(word.is_some(), "freed twice, or never allocated");
        let Some(word) = word else { return };
        *word |= bit;
        self.count = self.count.wrapping_add(1);
    }

    /// None is free.
    pub fn is_full(&self) -> bool {
        self.count == 0
    }

    /// All are.
    pub fn is_empty(&self) -> bool {
        self.count == self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_is_taken_once() {
        for all in 0..=MAX {
            let mut slots = Slots::new(all);
            assert!(slots.is_empty());
            let taken: BTreeSet<_> = core::iter::from_fn(|| slots.take()).collect();
            assert!(slots.is_full() && taken.into_iter().eq(0..all));
            for n in 0..all {
                slots.give(n);
                assert_eq!((slots.take(), slots.take()), (Some(n), None));
            }
            for n in 0..all {
                assert!(!slots.is_empty());
                slots.give(n);
            }
            assert!(slots.is_empty());
        }
        let mut slots = Slots::new(1000);
        assert_eq!(core::iter::from_fn(|| slots.take()).count(), MAX);
    }

    #[test]
    #[should_panic = "freed twice"]
    fn freed_twice() {
        Slots::new(3).give(1);
    }

    #[test]
    #[should_panic = "never allocated"]
    fn never_allocated() {
        Slots::new(3).give(3);
    }
}
