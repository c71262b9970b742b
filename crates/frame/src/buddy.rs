//! A buddy allocator: a set of free blocks for each order.
#![forbid(unsafe_code)]

use crate::meta;
use crate::set::Set;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The largest order: 2 MiB.
pub const MAX_ORDER: u8 = 9;
const ORDERS: usize = MAX_ORDER as usize + 1;
/// Single frames held back from merging, so that freeing a page and taking the
/// next doesn't merge and split a block each time.
const CACHE: usize = 32;
/// The blocks of the pool: 64 KiB, the largest piece that the heap hands to who
/// can't be told no.
pub const POOL_ORDER: u8 = 4;
/// How many blocks the pool has at most.
pub const POOL: usize = 8;

/// The table of metadata: one word for each frame. Out of range is a frame
/// that nobody has.
#[derive(Clone, Copy)]
pub struct Table(pub &'static [AtomicU32]);

static NOBODY: AtomicU32 = AtomicU32::new(meta::NONE);

impl Table {
    #[inline]
    pub fn word(&self, index: u32) -> &'static AtomicU32 {
        self.0.get(index as usize).unwrap_or(&NOBODY)
    }

    fn get(&self, index: u32) -> u32 {
        self.word(index).load(Relaxed)
    }

    fn set(&self, index: u32, word: u32) {
        self.word(index).store(word, Relaxed);
    }
}

/// The frames of one order.
pub const fn frames(order: u8) -> u64 {
    1 << (order & 0xf)
}

/// The free blocks. A block of `order` starts at a multiple of its size, by
/// index as by address.
pub struct Buddy {
    table: Table,
    /// By order; members are indices divided by the block's size.
    free: [Set; ORDERS],
    blocks: [u64; ORDERS],
    /// Bit `n`: set `n` isn't empty.
    nonempty: u32,
    cache: [u32; CACHE],
    cached: usize,
    /// Blocks that stay in one piece whatever the sets' are broken into, for
    /// [`Buddy::take_pooled`]. They are free, too.
    pool: [u32; POOL],
    pooled: usize,
    /// How many there should be.
    pool_size: usize,
    free_frames: u64,
}

impl Buddy {
    /// The words that the sets need for so many frames.
    pub fn words(frames: u64) -> u64 {
        bounds(frames).map(Set::words).into_iter().fold(0, u64::wrapping_add)
    }

    /// No memory yet. `sets` are [`Buddy::words`], all zero.
    pub fn new(table: Table, sets: &'static mut [u64]) -> Self {
        let mut sets = sets;
        Buddy {
            table,
            free: bounds(table.0.len() as u64).map(|bound| Set::new(bound, &mut sets)),
            blocks: [0; ORDERS],
            nonempty: 0,
            cache: [0; CACHE],
            cached: 0,
            pool: [0; POOL],
            pooled: 0,
            pool_size: 0,
            free_frames: 0,
        }
    }

    /// Free frames.
    pub fn free_frames(&self) -> u64 {
        self.free_frames
    }

    /// Takes a block, whose head becomes `word`.
    pub fn take(&mut self, order: u8, word: u32) -> Option<u32> {
        let index = match self.take_cached(order).or_else(|| self.take_block(order)) {
            Some(index) => index,
            None => {
                self.drain(0);
                self.take_block(order)?
            }
        };
        self.table.set(index, word);
        self.free_frames = self.free_frames.wrapping_sub(frames(order));
        Some(index)
    }

    /// Takes `count` free blocks of the largest order one behind another, from `start` on;
    /// their heads become `word`. All of them, or none.
    pub fn take_run(&mut self, start: u32, count: u32, word: u32) -> bool {
        let blocks = || (start..).step_by(frames(MAX_ORDER) as usize).take(count as usize);
        let free = meta::head(meta::FREE, MAX_ORDER);
        if blocks().any(|index| self.table.get(index) != free) {
            return false;
        }
        for index in blocks() {
            self.unlink(index, MAX_ORDER);
            self.table.set(index, word);
        }
        let taken = u64::from(count).wrapping_mul(frames(MAX_ORDER));
        self.free_frames = self.free_frames.wrapping_sub(taken);
        true
    }

    /// Gives a block back.
    pub fn give(&mut self, index: u32, order: u8) {
        self.free_frames = self.free_frames.wrapping_add(frames(order));
        if self.pooled < self.pool_size {
            // Nothing is held back from merging until it is full again.
            self.drain(0);
            self.insert(index, order);
            return self.fill_pool();
        }
        if order != 0 {
            return self.insert(index, order);
        }
        if self.cached == CACHE {
            self.drain(CACHE / 2);
        }
        if let Some(slot) = self.cache.get_mut(self.cached) {
            *slot = index;
            self.cached = self.cached.wrapping_add(1);
            self.table.set(index, meta::head(meta::CACHED, 0));
        }
    }

    /// Gives the frames from `start` up to `end`, in blocks as large as
    /// alignment allows.
    pub fn give_range(&mut self, start: u32, end: u32) {
        let mut at = start;
        while at < end {
            let fits = (end.wrapping_sub(at)).ilog2();
            let order = at.trailing_zeros().min(fits).min(u32::from(MAX_ORDER)) as u8;
            self.free_frames = self.free_frames.wrapping_add(frames(order));
            self.insert(at, order);
            at = at.wrapping_add(frames(order) as u32);
        }
    }

    /// Sets so many blocks aside, from now on or as soon as there are any.
    pub fn set_pool(&mut self, blocks: usize) {
        self.pool_size = blocks.min(POOL);
        while self.pooled > self.pool_size {
            let Some(index) = self.unpool() else { break };
            self.insert(index, POOL_ORDER);
        }
        self.drain(0);
        self.fill_pool();
    }

    /// Takes a block out of the pool; what is left of the pool's goes to the
    /// sets.
    pub fn take_pooled(&mut self, order: u8, word: u32) -> Option<u32> {
        if order > POOL_ORDER {
            return None;
        }
        let index = self.unpool()?;
        self.table.set(index, meta::NONE);
        self.split(index, POOL_ORDER, order);
        self.table.set(index, word);
        self.free_frames = self.free_frames.wrapping_sub(frames(order));
        Some(index)
    }

    fn unpool(&mut self) -> Option<u32> {
        self.pooled = self.pooled.checked_sub(1)?;
        self.pool.get(self.pooled).copied()
    }

    fn fill_pool(&mut self) {
        while self.pooled < self.pool_size {
            let Some(index) = self.take_block(POOL_ORDER) else { return };
            let Some(slot) = self.pool.get_mut(self.pooled) else { return };
            *slot = index;
            self.pooled = self.pooled.wrapping_add(1);
            self.table.set(index, meta::head(meta::CACHED, POOL_ORDER));
        }
    }

    fn take_cached(&mut self, order: u8) -> Option<u32> {
        let last = self.cached.checked_sub(1).filter(|_| order == 0)?;
        self.cached = last;
        self.cache.get(last).copied()
    }

    fn drain(&mut self, keep: usize) {
        while self.cached > keep {
            if let Some(index) = self.take_cached(0) {
                self.insert(index, 0);
            }
        }
    }

    fn take_block(&mut self, order: u8) -> Option<u32> {
        let sets = self.nonempty >> order;
        if order > MAX_ORDER || sets == 0 {
            return None;
        }
        let from = order.wrapping_add(sets.trailing_zeros() as u8);
        let index = self.free.get(usize::from(from))?.first()? << from;
        self.unlink(index, from);
        self.split(index, from, order);
        Some(index)
    }

    /// Gives all of a block of order `from` to the sets but its first 2^`order`
    /// frames.
    fn split(&mut self, index: u32, from: u8, order: u8) {
        let mut from = from;
        while from > order {
            from = from.wrapping_sub(1);
            self.link(index.wrapping_add(frames(from) as u32), from);
        }
    }

    /// Merges with free buddies, then links.
    fn insert(&mut self, index: u32, order: u8) {
        let (mut index, mut order) = (index, order);
        self.table.set(index, meta::NONE);
        while order < MAX_ORDER {
            let buddy = index ^ frames(order) as u32;
            if self.table.get(buddy) != meta::head(meta::FREE, order) {
                break;
            }
            self.unlink(buddy, order);
            index &= buddy;
            order = order.wrapping_add(1);
        }
        self.link(index, order);
    }

    fn link(&mut self, index: u32, order: u8) {
        self.count(order, 1);
        let Some(set) = self.free.get_mut(usize::from(order)) else { return };
        set.insert(index >> order);
        self.table.set(index, meta::head(meta::FREE, order));
    }

    fn unlink(&mut self, index: u32, order: u8) {
        self.count(order, u64::MAX);
        let Some(set) = self.free.get_mut(usize::from(order)) else { return };
        set.remove(index >> order);
        self.table.set(index, meta::NONE);
    }

    fn count(&mut self, order: u8, change: u64) {
        let Some(blocks) = self.blocks.get_mut(usize::from(order)) else { return };
        *blocks = blocks.wrapping_add(change);
        self.nonempty = self.nonempty & !(1 << order) | u32::from(*blocks != 0) << order;
    }

    /// Blocks free in each order, those of cache and pool among them.
    pub fn by_order(&self) -> [u64; ORDERS] {
        let mut counts = self.blocks;
        if let Some(singles) = counts.first_mut() {
            *singles = singles.wrapping_add(self.cached as u64);
        }
        if let Some(blocks) = counts.get_mut(usize::from(POOL_ORDER)) {
            *blocks = blocks.wrapping_add(self.pooled as u64);
        }
        counts
    }
}

/// How many blocks of each order there can be among so many frames.
fn bounds(frames: u64) -> [u64; ORDERS] {
    let mut order = 0u8;
    [(); ORDERS].map(|()| {
        let bound = frames.div_ceil(self::frames(order));
        order = order.wrapping_add(1);
        bound
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::boxed::Box;
    use std::vec;
    use std::vec::Vec;

    fn buddy(frames: usize) -> Buddy {
        let table = Table(Box::leak((0..frames).map(|_| AtomicU32::new(0)).collect()));
        Buddy::new(table, vec![0; Buddy::words(frames as u64) as usize].leak())
    }

    #[test]
    fn splits_and_merges() {
        let mut buddy = buddy(1536);
        buddy.give_range(3, 1500);
        assert_eq!(buddy.free_frames(), 1497);
        let whole = buddy.by_order();
        assert_eq!(whole[9], 1);
        let word = meta::kernel(0, 0);
        let taken: Vec<u32> = core::iter::from_fn(|| buddy.take(0, word)).collect();
        assert_eq!(taken.len(), 1497);
        for index in taken {
            buddy.give(index, 0);
        }
        buddy.drain(0);
        assert_eq!(buddy.by_order(), whole);
    }

    #[test]
    fn a_run_is_taken_whole_or_not_at_all() {
        let mut buddy = buddy(8 * 512);
        buddy.give_range(0, 8 * 512);
        let word = meta::user(MAX_ORDER, 0);
        assert!(buddy.take_run(2 * 512, 4, word));
        assert_eq!((buddy.free_frames(), buddy.by_order()[9]), (4 * 512, 4));
        // One of them is taken, is in pieces, is beyond the end.
        assert!(!buddy.take_run(0, 3, word));
        assert_eq!(buddy.take(0, meta::user(0, 0)), Some(0));
        assert!(!buddy.take_run(0, 2, word));
        assert!(!buddy.take_run(6 * 512, 3, word));
        assert_eq!(buddy.free_frames(), 4 * 512 - 1);
        buddy.give(0, 0);
        (2..6).for_each(|block| buddy.give(block * 512, MAX_ORDER));
        buddy.drain(0);
        assert!(buddy.take_run(0, 8, word));
        assert_eq!((buddy.free_frames(), buddy.take(0, word)), (0, None));
    }

    /// Memory in single frames, none beside another: the pool has pieces all the
    /// same, and is whole again as soon as its neighbours are.
    #[test]
    fn the_pool_stays_in_one_piece() {
        let mut buddy = buddy(1024);
        buddy.give_range(0, 1024);
        buddy.set_pool(2);
        let word = meta::kernel(0, 0);
        let taken: Vec<u32> = core::iter::from_fn(|| buddy.take(0, word)).collect();
        assert_eq!((taken.len(), buddy.free_frames()), (1024 - 32, 32));
        let (even, odd): (Vec<_>, Vec<_>) = taken.into_iter().partition(|index| index % 2 == 0);
        even.into_iter().for_each(|index| buddy.give(index, 0));
        for order in 1..=POOL_ORDER {
            assert_eq!(buddy.take(order, meta::kernel(order, 0)), None);
        }
        let large = buddy.take_pooled(POOL_ORDER, meta::kernel(POOL_ORDER, 0)).unwrap();
        // What is left of the other is for everybody.
        let small = buddy.take_pooled(1, meta::kernel(1, 0)).unwrap();
        let rest = buddy.take(3, meta::kernel(3, 0)).unwrap();
        assert_eq!(buddy.take_pooled(0, word), None);
        buddy.give(small, 1);
        assert_eq!(buddy.pooled, 0);
        odd.into_iter().for_each(|index| buddy.give(index, 0));
        assert_eq!(buddy.pooled, 2);
        buddy.give(rest, 3);
        buddy.give(large, POOL_ORDER);
        buddy.set_pool(0);
        assert_eq!((buddy.free_frames(), buddy.by_order()[9]), (1024, 2));
    }

    proptest! {
        /// Blocks handed out never overlap, are aligned, and all come back.
        #[test]
        fn blocks_are_disjoint(
            pool in 0..=POOL,
            steps in prop::collection::vec((0..3, 0u8..=9, any::<prop::sample::Index>()), 1..400),
        ) {
            const FRAMES: usize = 2048;
            let mut buddy = buddy(FRAMES);
            buddy.give_range(1, FRAMES as u32 - 5);
            let whole = (buddy.by_order(), buddy.free_frames());
            buddy.set_pool(pool);
            prop_assert_eq!(buddy.free_frames(), whole.1);
            let mut owner = [false; FRAMES];
            let mut held: Vec<(u32, u8)> = Vec::new();
            for (take, order, which) in steps {
                let word = meta::user(order, 0);
                if take > 0 {
                    let index = if take == 1 { buddy.take(order, word) } else { buddy.take_pooled(order, word) };
                    let Some(index) = index else { continue };
                    prop_assert_eq!(u64::from(index) % frames(order), 0);
                    for frame in &mut owner[index as usize..][..frames(order) as usize] {
                        prop_assert!(!*frame);
                        *frame = true;
                    }
                    held.push((index, order));
                } else if !held.is_empty() {
                    let (index, order) = held.swap_remove(which.index(held.len()));
                    owner[index as usize..][..frames(order) as usize].fill(false);
                    buddy.give(index, order);
                }
                let used = owner.iter().filter(|owned| **owned).count() as u64;
                prop_assert_eq!(buddy.free_frames(), whole.1 - used);
            }
            for (index, order) in held {
                buddy.give(index, order);
            }
            prop_assert_eq!(buddy.pooled, pool);
            buddy.set_pool(0);
            prop_assert_eq!((buddy.by_order(), buddy.free_frames()), whole);
        }
    }
}
