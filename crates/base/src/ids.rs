//! Which small numbers are taken.

/// A set of the numbers below `64 * WORDS`.
#[derive(Clone, Debug)]
pub struct IdSet<const WORDS: usize>([u64; WORDS]);

impl<const WORDS: usize> IdSet<WORDS> {
    /// Nothing is taken.
    pub const fn new() -> Self {
        IdSet([0; WORDS])
    }

    /// Forgets all of it.
    pub fn clear(&mut self) {
        self.0.fill(0);
    }

    /// Takes `id`; nothing happens beyond the end.
    pub fn insert(&mut self, id: u32) {
        if let Some(word) = self.0.get_mut(id as usize / 64) {
            *word |= 1 << (id % 64);
        }
    }

    /// The lowest number in `from..end` that isn't taken.
    pub fn free(&self, from: u32, end: u32) -> Option<u32> {
        let first = from as usize / 64;
        let mut words = self.0.iter().enumerate().skip(first);
        words
            .find_map(|(index, word)| {
                // Below `from` everything counts as taken.
                let below = if index == first { (1u64 << (from % 64)).wrapping_sub(1) } else { 0 };
                let bit = (word | below).trailing_ones();
                let id = u32::try_from(index.checked_mul(64)?).ok()?.checked_add(bit)?;
                (bit < 64).then_some(id)
            })
            .filter(|id| *id < end)
    }
}

impl<const WORDS: usize> Default for IdSet<WORDS> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_next_that_is_free() {
        let mut ids = IdSet::<4>::new();
        assert_eq!(ids.free(0, 256), Some(0));
        assert_eq!(ids.free(255, 256), Some(255));
        assert_eq!(ids.free(256, 300), None);
        (10..200).for_each(|id| ids.insert(id));
        ids.insert(1000);
        assert_eq!(ids.free(9, 256), Some(9));
        assert_eq!(ids.free(10, 256), Some(200));
        assert_eq!(ids.free(64, 200), None);
        (0..256).for_each(|id| ids.insert(id));
        assert_eq!(ids.free(0, 256), None);
        ids.clear();
        assert_eq!(ids.free(77, 256), Some(77));
    }
}
