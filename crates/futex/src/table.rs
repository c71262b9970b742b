//! The buckets and who waits in them.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use base::{Errno, Lock, LockGuard, Result, rank, room};
use core::ops::Bound;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::task::Waker;

/// Which futex: words at different addresses can be the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// In memory of one address space (FUTEX_PRIVATE_FLAG, or private pages).
    Private {
        /// Identifies the address space.
        mm: u64,
        /// The word's address.
        addr: u64,
    },
    /// In memory that others may have mapped elsewhere.
    Shared {
        /// Identifies the file or the shared memory.
        object: u64,
        /// The word's offset there.
        offset: u64,
    },
}

/// FUTEX_BITSET_MATCH_ANY
pub const MATCH_ANY: u32 = u32::MAX;

/// How many waiters one hold of a bucket's lock looks at.
const CHUNK: usize = 64;

/// Where a waiter is: its futex, and its place in the line.
type Place = (Key, u64);
type Bucket = BTreeMap<Place, Arc<Waiter>>;

/// One thread's stay in the table.
pub struct Waiter {
    bitset: u32,
    waker: Waker,
    woken: AtomicBool,
    // Changes when requeued, under the locks of both buckets. Taken last, so
    // it ranks above a second bucket.
    place: Lock<Place>,
}

impl Waiter {
    /// Whether it was woken. Once true, it is out of the table.
    pub fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Acquire)
    }
}

/// Takes a waiter out, and with the last one the memory that the map keeps for
/// the next.
fn take(bucket: &mut Bucket, place: &Place) -> Option<Arc<Waiter>> {
    let waiter = bucket.remove(place);
    if bucket.is_empty() {
        *bucket = Bucket::new();
    }
    waiter
}

/// All futexes of the machine.
pub struct FutexTable {
    buckets: Box<[Lock<Bucket>]>,
    next_ticket: AtomicU64,
}

impl FutexTable {
    /// A table with room to spread over `buckets` locks; `ENOMEM` if there is no
    /// memory for them. A few for each CPU do.
    pub fn new(buckets: usize) -> Result<FutexTable> {
        let count = buckets.clamp(1, 4096);
        let mut table = room::try_vec(count)?;
        table.resize_with(count, || Lock::new(rank::FUTEX, BTreeMap::new()));
        Ok(FutexTable { buckets: table.into_boxed_slice(), next_ticket: AtomicU64::new(0) })
    }

    /// FUTEX_WAIT, FUTEX_WAIT_BITSET: puts `waker` in the line of `key` if
    /// `check` finds the expected value, else `EAGAIN`. `check` runs under the
    /// bucket's lock and must not fault. `EINVAL` for an empty `bitset`, `ENOMEM`
    /// without room for one more.
    ///
    /// Until [`Waiter::is_woken`], the caller may [`cancel`](Self::cancel); it
    /// has to if it stops waiting.
    pub fn enqueue(
        &self,
        key: Key,
        bitset: u32,
        waker: &Waker,
        check: impl FnOnce() -> Result<bool>,
    ) -> Result<Arc<Waiter>> {
        if bitset == 0 {
            return Err(Errno::EINVAL);
        }
        let ticket = self.next_ticket.fetch_add(1, Ordering::Relaxed);
        let place = (key, ticket);
        let waiter = room::try_arc(Waiter {
            bitset,
            waker: waker.clone(),
            woken: AtomicBool::new(false),
            place: Lock::new(rank::FUTEX.saturating_add(2), place),
        })?;
        // The waiter is dropped after the lock.
        let entered = {
            let mut bucket = self.bucket(key).lock();
            match check() {
                Ok(true) => room::try_insert(&mut bucket, place, waiter.clone()).map(drop),
                Ok(false) => Err(Errno::EAGAIN),
                Err(errno) => Err(errno),
            }
        };
        entered.map(|()| waiter)
    }

    /// Takes a waiter out. False if it was woken before: then the wake-up is
    /// the caller's, who reports success and no time-out.
    pub fn cancel(&self, waiter: &Arc<Waiter>) -> bool {
        loop {
            if waiter.is_woken() {
                return false;
            }
            let place = *waiter.place.lock();
            let taken = take(&mut self.bucket(place.0).lock(), &place);
            // Dropped here, outside the lock.
            if taken.is_some() {
                return true;
            }
            // Woken or requeued between the two locks: look again.
            base::relax();
        }
    }

    /// FUTEX_WAKE, FUTEX_WAKE_BITSET: wakes up to `count` that wait for `key`
    /// with one of the bits in `bitset`, longest wait first. Returns how many.
    pub fn wake(&self, key: Key, count: usize, bitset: u32) -> Result<usize> {
        self.wake_in_chunks(key, count, bitset, || {})
    }

    /// As [`wake`](Self::wake); calls `between` without locks after each so
    /// many waiters, for interrupts to be taken.
    pub fn wake_in_chunks(
        &self,
        key: Key,
        count: usize,
        bitset: u32,
        mut between: impl FnMut(),
    ) -> Result<usize> {
        if bitset == 0 {
            return Err(Errno::EINVAL);
        }
        let mut walk = Walk::new(key, &self.next_ticket);
        let mut woken = 0usize;
        while woken < count && !walk.done {
            let mut out = Removed::new();
            {
                let mut bucket = self.bucket(key).lock();
                walk.wake(&mut bucket, count.saturating_sub(woken), bitset, &mut out);
            }
            woken = woken.saturating_add(out.count);
            drop(out);
            if !walk.done {
                between();
            }
        }
        Ok(woken)
    }

    /// FUTEX_REQUEUE, FUTEX_CMP_REQUEUE: if `check` holds (`EAGAIN` if not; it
    /// runs under the locks and must not fault), wakes up to `wake` waiters of
    /// `from` and puts up to `requeue` others in the line of `to`. Returns how
    /// many were woken and how many moved.
    pub fn requeue(
        &self,
        from: Key,
        to: Key,
        wake: usize,
        requeue: usize,
        check: impl FnOnce() -> Result<bool>,
    ) -> Result<(usize, usize)> {
        let mut walk = Walk::new(from, &self.next_ticket);
        let mut check = Some(check);
        let (mut woken, mut moved) = (0usize, 0usize);
        while !walk.done {
            let mut out = Removed::new();
            let mut pair = self.lock_pair(from, to);
            if let Some(check) = check.take()
                && !check()?
            {
                return Err(Errno::EAGAIN);
            }
            walk.wake(pair.first(), wake.saturating_sub(woken), MATCH_ANY, &mut out);
            woken = woken.saturating_add(out.count);
            if woken >= wake {
                walk.done = false;
                let room = CHUNK.saturating_sub(out.count);
                let left = requeue.saturating_sub(moved).min(room);
                for _ in 0..left {
                    let Some(waiter) = walk.next(pair.first()) else { break };
                    // A new ticket: it goes to the end of the other line.
                    let ticket = self.next_ticket.fetch_add(1, Ordering::Relaxed);
                    *waiter.place.lock() = (to, ticket);
                    pair.second().insert((to, ticket), waiter);
                    moved = moved.saturating_add(1);
                }
                walk.done |= moved >= requeue;
            }
            drop(pair);
            drop(out);
        }
        Ok((woken, moved))
    }

    /// FUTEX_WAKE_OP: runs `op` on the second word under both locks (see
    /// [`WakeOp::apply`](crate::WakeOp::apply); it must not fault), wakes up to
    /// `count` at `first`, and if `op` says so up to `second_count` at `second`.
    pub fn wake_op(
        &self,
        first: Key,
        count: usize,
        second: Key,
        second_count: usize,
        op: impl FnOnce() -> Result<bool>,
    ) -> Result<usize> {
        let tickets = &self.next_ticket;
        let (mut walk, mut walk_second) = (Walk::new(first, tickets), Walk::new(second, tickets));
        let (mut out, mut out_second) = (Removed::new(), Removed::new());
        let also = {
            let mut pair = self.lock_pair(first, second);
            let also = op()?;
            walk.wake(pair.first(), count, MATCH_ANY, &mut out);
            if also {
                walk_second.wake(pair.second(), second_count, MATCH_ANY, &mut out_second);
            }
            also
        };
        let mut woken = out.count.saturating_add(out_second.count);
        // Rarely are there so many that one hold of the locks doesn't do.
        let (left, left_second) =
            (count.saturating_sub(out.count), second_count.saturating_sub(out_second.count));
        drop((out, out_second));
        if !walk.done {
            woken = woken.saturating_add(self.wake(first, left, MATCH_ANY)?);
        }
        if also && !walk_second.done {
            woken = woken.saturating_add(self.wake(second, left_second, MATCH_ANY)?);
        }
        Ok(woken)
    }

    /// How many wait, everywhere. Walks all buckets: for statistics and tests.
    pub fn len(&self) -> usize {
        self.buckets.iter().fold(0, |sum, bucket| sum.saturating_add(bucket.lock().len()))
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.buckets.iter().all(|bucket| bucket.lock().is_empty())
    }

    fn index(&self, key: Key) -> usize {
        let (a, b) = match key {
            Key::Private { mm, addr } => (mm, addr),
            Key::Shared { object, offset } => (!object, offset),
        };
        // Fibonacci hashing: the high bits of the product are well mixed.
        let mixed = (a.rotate_left(32) ^ b).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        (mixed as usize).checked_rem(self.buckets.len()).unwrap_or(0)
    }

    #[expect(clippy::indexing_slicing, reason = "index() is below the length, which is not 0")]
    fn bucket(&self, key: Key) -> &Lock<Bucket> {
        &self.buckets[self.index(key)]
    }

    /// Both buckets, locked in the order of their indices.
    fn lock_pair(&self, first: Key, second: Key) -> Pair<'_> {
        let (a, b) = (self.bucket(first), self.bucket(second));
        match self.index(first).cmp(&self.index(second)) {
            core::cmp::Ordering::Equal => Pair { first: a.lock(), second: None },
            core::cmp::Ordering::Less => {
                let first = a.lock();
                Pair { first, second: Some(b.lock_second()) }
            }
            core::cmp::Ordering::Greater => {
                let second = b.lock();
                Pair { first: a.lock_second(), second: Some(second) }
            }
        }
    }
}

/// Two locked buckets, which may be one.
struct Pair<'a> {
    first: LockGuard<'a, Bucket>,
    second: Option<LockGuard<'a, Bucket>>,
}

impl Pair<'_> {
    fn first(&mut self) -> &mut Bucket {
        &mut self.first
    }

    fn second(&mut self) -> &mut Bucket {
        self.second.as_mut().unwrap_or(&mut self.first)
    }
}

/// A walk along the line of one futex, which may let go of the lock between
/// steps. Only those who stood in line when it began are visited, so it ends.
struct Walk<'t> {
    key: Key,
    from: Bound<u64>,
    tickets: &'t AtomicU64,
    limit: Option<u64>,
    done: bool,
}

impl Walk<'_> {
    fn new(key: Key, tickets: &AtomicU64) -> Walk<'_> {
        Walk { key, from: Bound::Included(0), tickets, limit: None, done: false }
    }

    /// Who came later isn't looked at. Fixed at the first look, under the
    /// bucket's lock: read before it, it could miss who is in line already.
    fn limit(&mut self) -> u64 {
        *self.limit.get_or_insert_with(|| self.tickets.load(Ordering::Relaxed))
    }

    fn range(&mut self) -> (Bound<Place>, Bound<Place>) {
        let from = match self.from {
            Bound::Excluded(ticket) => Bound::Excluded((self.key, ticket)),
            _ => Bound::Included((self.key, 0)),
        };
        (from, Bound::Excluded((self.key, self.limit())))
    }

    /// Takes the next waiter out of the bucket.
    fn next(&mut self, bucket: &mut Bucket) -> Option<Arc<Waiter>> {
        // With `from` at the limit the range would be upside down.
        let limit = self.limit();
        let past = matches!(self.from, Bound::Excluded(ticket) if ticket >= limit);
        let place = if past { None } else { bucket.range(self.range()).next() };
        let Some((&place, _)) = place else {
            self.done = true;
            return None;
        };
        self.from = Bound::Excluded(place.1);
        take(bucket, &place)
    }

    /// Wakes up to `count`, looking at no more than a chunk.
    fn wake(&mut self, bucket: &mut Bucket, count: usize, bitset: u32, out: &mut Removed) {
        for _ in 0..CHUNK {
            if out.count >= count {
                self.done = true;
                return;
            }
            let limit = self.limit();
            let past = matches!(self.from, Bound::Excluded(ticket) if ticket >= limit);
            let next = if past { None } else { bucket.range(self.range()).next() };
            let Some((&place, waiter)) = next else {
                self.done = true;
                return;
            };
            self.from = Bound::Excluded(place.1);
            if waiter.bitset & bitset == 0 {
                continue;
            }
            // Release: who sees the flag sees what was written before.
            waiter.woken.store(true, Ordering::Release);
            waiter.waker.wake_by_ref();
            if let Some(waiter) = take(bucket, &place) {
                out.push(waiter);
            }
        }
    }
}

/// Waiters taken out under a lock, to be dropped after it: one may hold the
/// last reference to a task.
struct Removed {
    waiters: [Option<Arc<Waiter>>; CHUNK],
    count: usize,
}

impl Removed {
    fn new() -> Removed {
        Removed { waiters: [const { None }; CHUNK], count: 0 }
    }

    fn push(&mut self, waiter: Arc<Waiter>) {
        if let Some(slot) = self.waiters.get_mut(self.count) {
            *slot = Some(waiter);
        }
        self.count = self.count.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::task::Wake;
    use alloc::vec::Vec;
    use core::sync::atomic::AtomicU32;
    use proptest::prelude::*;
    use std::thread;

    fn key(addr: u64) -> Key {
        Key::Private { mm: 1, addr }
    }

    fn wait(table: &FutexTable, addr: u64) -> Arc<Waiter> {
        let waker = Waker::noop();
        table.enqueue(key(addr), MATCH_ANY, waker, || Ok(true)).unwrap()
    }

    fn woken(waiters: &[Arc<Waiter>]) -> Vec<usize> {
        (0..waiters.len()).filter(|&index| waiters[index].is_woken()).collect()
    }

    #[test]
    fn in_the_order_of_waiting() {
        let table = FutexTable::new(4).unwrap();
        let waiters: Vec<_> = (0..4).map(|_| wait(&table, 8)).collect();
        let other = wait(&table, 16);
        assert_eq!(table.wake(key(8), 2, MATCH_ANY), Ok(2));
        assert_eq!(woken(&waiters), [0, 1]);
        assert_eq!(table.wake(key(8), 9, MATCH_ANY), Ok(2));
        assert_eq!(table.wake(key(8), 9, MATCH_ANY), Ok(0));
        assert!(!other.is_woken());
        assert!(table.cancel(&other));
        assert!(!table.cancel(&waiters[0]));
        assert!(table.is_empty());
    }

    #[test]
    fn the_value_decides() {
        let table = FutexTable::new(4).unwrap();
        let waker = Waker::noop();
        let wait = |check| table.enqueue(key(0), MATCH_ANY, waker, || check).err();
        assert_eq!(wait(Ok(false)), Some(Errno::EAGAIN));
        assert_eq!(wait(Err(Errno::EFAULT)), Some(Errno::EFAULT));
        assert_eq!(wait(Ok(true)), None);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn bitsets() {
        let table = FutexTable::new(1).unwrap();
        let waker = Waker::noop();
        let waiters: Vec<_> = [1, 2, 3]
            .iter()
            .map(|&bits| table.enqueue(key(0), bits, waker, || Ok(true)).unwrap())
            .collect();
        assert_eq!(table.wake(key(0), 9, 2), Ok(2));
        assert_eq!(woken(&waiters), [1, 2]);
        assert_eq!(table.wake(key(0), 9, 0), Err(Errno::EINVAL));
        assert_eq!(table.enqueue(key(0), 0, waker, || Ok(true)).err(), Some(Errno::EINVAL));
    }

    #[test]
    fn many_are_woken_in_chunks() {
        let table = FutexTable::new(1).unwrap();
        let waiters: Vec<_> = (0..200).map(|_| wait(&table, 0)).collect();
        let mut windows = 0;
        let count = table.wake_in_chunks(key(0), usize::MAX, MATCH_ANY, || windows += 1);
        assert_eq!((count, windows), (Ok(200), 3));
        assert_eq!(woken(&waiters).len(), 200);
    }

    #[test]
    fn requeued_ones_wait_elsewhere() {
        for buckets in [1, 2, 3, 64] {
            let table = FutexTable::new(buckets).unwrap();
            for to in [0, 4, 8, 12, 16] {
                let waiters: Vec<_> = (0..5).map(|_| wait(&table, 8)).collect();
                let result = table.requeue(key(8), key(to), 1, 2, || Ok(true));
                assert_eq!(result, Ok((1, 2)));
                assert_eq!(woken(&waiters), [0]);
                assert!(table.cancel(&waiters[1]));
                assert_eq!(table.wake(key(to), 1, MATCH_ANY), Ok(1));
                let next = if to == 8 { 3 } else { 2 };
                assert_eq!(woken(&waiters), [0, next]);
                assert_eq!(table.wake(key(8), 9, MATCH_ANY).unwrap(), 2);
                assert!(table.is_empty());
            }
        }
    }

    #[test]
    fn requeue_checks_first_and_moves_many() {
        let table = FutexTable::new(8).unwrap();
        let _waiters: Vec<_> = (0..300).map(|_| wait(&table, 8)).collect();
        let no = table.requeue(key(8), key(16), 1, 9, || Ok(false));
        assert_eq!(no, Err(Errno::EAGAIN));
        assert_eq!(table.requeue(key(8), key(16), 100, 150, || Ok(true)), Ok((100, 150)));
        assert_eq!(table.wake(key(8), 999, MATCH_ANY), Ok(50));
        assert_eq!(table.requeue(key(16), key(8), 0, usize::MAX, || Ok(true)), Ok((0, 150)));
        assert_eq!(table.requeue(key(16), key(8), 5, 5, || Ok(true)), Ok((0, 0)));
        assert_eq!(table.wake(key(8), 999, MATCH_ANY), Ok(150));
    }

    #[test]
    fn wake_op_wakes_both() {
        let table = FutexTable::new(2).unwrap();
        let (a, b) = (wait(&table, 8), wait(&table, 16));
        assert_eq!(table.wake_op(key(8), 1, key(16), 1, || Ok(false)), Ok(1));
        assert!(a.is_woken() && !b.is_woken());
        assert_eq!(table.wake_op(key(8), 1, key(16), 1, || Ok(true)), Ok(1));
        assert!(b.is_woken());
        let _many: Vec<_> = (0..100).map(|_| wait(&table, 8)).collect();
        assert_eq!(table.wake_op(key(8), 100, key(8), 5, || Ok(true)), Ok(100));
    }

    /// A mutex as C libraries build it: 0 free, 1 taken, 2 taken and waited for.
    #[test]
    fn no_wake_up_is_lost() {
        struct Thread(thread::Thread);
        impl Wake for Thread {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let table = FutexTable::new(2).unwrap();
        let word = AtomicU32::new(0);
        let counter = AtomicU32::new(0);
        let rounds = if cfg!(miri) { 20 } else { 3000 };
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let waker = Waker::from(Arc::new(Thread(thread::current())));
                    for _ in 0..rounds {
                        let mut state =
                            match word.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst) {
                                Ok(_) => 0,
                                Err(state) => state,
                            };
                        while state != 0 {
                            let waited_for =
                                word.compare_exchange(1, 2, Ordering::SeqCst, Ordering::SeqCst);
                            if state == 2 || waited_for != Err(0) {
                                let check = || Ok(word.load(Ordering::SeqCst) == 2);
                                if let Ok(waiter) = table.enqueue(key(4), MATCH_ANY, &waker, check)
                                {
                                    while !waiter.is_woken() {
                                        thread::park();
                                    }
                                }
                            }
                            state = word.swap(2, Ordering::SeqCst);
                        }
                        // Not atomic: the mutex has to protect it.
                        let value = counter.load(Ordering::Relaxed);
                        counter.store(value + 1, Ordering::Relaxed);
                        if word.swap(0, Ordering::SeqCst) == 2 {
                            table.wake(key(4), 1, MATCH_ANY).unwrap();
                        }
                    }
                });
            }
        });
        assert_eq!(counter.into_inner(), 4 * rounds);
        assert!(table.is_empty());
    }

    /// Waiters are moved to and fro while they try to leave.
    #[test]
    fn leaving_while_requeued() {
        let table = FutexTable::new(4).unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    table.requeue(key(4), key(8), 0, 9, || Ok(true)).unwrap();
                    table.requeue(key(8), key(4), 0, 9, || Ok(true)).unwrap();
                }
            });
            let waiting: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..2000 {
                            let waiter = wait(&table, 4);
                            assert!(table.cancel(&waiter));
                        }
                    })
                })
                .collect();
            waiting.into_iter().for_each(|thread| thread.join().unwrap());
            stop.store(true, Ordering::Relaxed);
        });
        assert!(table.is_empty());
    }

    proptest! {
        #[test]
        fn behaves_like_a_list(
            buckets in 1usize..5,
            ops in prop::collection::vec((0u8..4, 0u64..3, 0u64..3, 0usize..4, 0usize..4), 0..120),
        ) {
            let table = FutexTable::new(buckets).unwrap();
            let mut model: Vec<(u64, Arc<Waiter>)> = Vec::new();
            let take = |model: &mut Vec<(u64, Arc<Waiter>)>, addr, count| {
                let mut taken = Vec::new();
                while taken.len() < count
                    && let Some(at) = model.iter().position(|(at, _)| *at == addr)
                {
                    taken.push(model.remove(at).1);
                }
                taken
            };
            for (op, a, b, n, m) in ops {
                match op {
                    0 => model.push((a, wait(&table, a))),
                    1 => {
                        let expected = take(&mut model, a, n);
                        prop_assert_eq!(table.wake(key(a), n, MATCH_ANY), Ok(expected.len()));
                        prop_assert!(expected.iter().all(|waiter| waiter.is_woken()));
                    }
                    2 => {
                        let woken = take(&mut model, a, n);
                        let moved = take(&mut model, a, m);
                        let got = table.requeue(key(a), key(b), n, m, || Ok(true));
                        prop_assert_eq!(got, Ok((woken.len(), moved.len())));
                        model.extend(moved.into_iter().map(|waiter| (b, waiter)));
                    }
                    _ => {
                        if !model.is_empty() {
                            let (_, waiter) = model.remove(n % model.len());
                            prop_assert!(table.cancel(&waiter));
                        }
                    }
                }
                prop_assert!(model.iter().all(|(_, waiter)| !waiter.is_woken()));
                prop_assert_eq!(table.len(), model.len());
            }
        }
    }
}
