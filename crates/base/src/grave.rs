//! What is too large to be dropped in one go.
//!
//! The last reference to a file of a million pages may go anywhere, with
//! interrupts masked and with locks held. So a drop puts what is large aside,
//! and the kernel drops that in pieces before it returns to EL0.

use crate::{Lock, WaitQueue, rank};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, LinkedList};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};

/// So much is dropped in one go: each may have a few parts itself, and each of
/// those.
const PIECE: usize = 64;
/// What has no more parts is dropped where it is.
const FEW: usize = 8;
/// File systems have directories, those have files, and those have pages.
const DEPTH: usize = 4;

type Remains = Box<dyn FnMut() -> bool + Send>;

/// Each drops a piece of itself when called, and says whether there is more.
static LEFT: Lock<LinkedList<Remains>> =
    Lock::new(rank::FRAMES.saturating_sub(1), LinkedList::new());
static ANY: AtomicBool = AtomicBool::new(false);
/// How many callers of [`clear`] are at it, and who waits for them.
static BUSY: AtomicUsize = AtomicUsize::new(0);
static DONE: WaitQueue = WaitQueue::new();

/// Drops a map: if it is large, later and in pieces.
pub fn bury<K: Ord + Send + 'static, V: Send + 'static>(mut map: BTreeMap<K, V>) {
    if map.len() <= FEW {
        return;
    }
    let remains: Remains = Box::new(move || (0..PIECE).all(|_| map.pop_first().is_some()));
    let mut left = LEFT.lock();
    left.push_back(remains);
    ANY.store(true, Release);
}

/// Whether [`clear`] has something to do.
#[inline]
pub fn any() -> bool {
    ANY.load(Relaxed)
}

/// Whether somebody is dropping something.
pub fn is_busy() -> bool {
    BUSY.load(Acquire) != 0
}

/// Where those wait who want it dropped.
pub fn queue() -> &'static WaitQueue {
    &DONE
}

/// Drops what is there, and calls `breathe` after each piece. No lock may be
/// held. What others put aside meanwhile is theirs to drop.
pub fn clear(breathe: impl Fn()) {
    BUSY.fetch_add(1, AcqRel);
    drop_pieces(breathe);
    BUSY.fetch_sub(1, AcqRel);
    DONE.wake_all();
}

fn drop_pieces(breathe: impl Fn()) {
    for _ in 0..DEPTH {
        let count = LEFT.lock().len();
        for _ in 0..count {
            let one = {
                let mut left = LEFT.lock();
                let one = left.pop_front();
                ANY.store(!left.is_empty(), Release);
                one
            };
            let Some(mut one) = one else { return };
            while one() {
                breathe();
            }
            breathe();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::sync::Arc;
    use std::cell::Cell;

    struct Dir(BTreeMap<usize, Arc<()>>);

    impl Drop for Dir {
        fn drop(&mut self) {
            bury(core::mem::take(&mut self.0));
        }
    }

    #[test]
    fn in_pieces_with_breaths_between() {
        let part = Arc::new(());
        let map = |len| (0..len).map(|key| (key, part.clone())).collect::<BTreeMap<_, _>>();
        bury(map(FEW));
        assert!(Arc::strong_count(&part) == 1 && !any());
        bury(map(10 * PIECE + 1));
        // Large things in a large thing.
        bury((0..PIECE + 1).map(|key| (key, Dir(map(2 * PIECE)))).collect::<BTreeMap<_, _>>());
        assert!(any());
        let all = Arc::strong_count(&part);
        let (last, most) = (Cell::new(all), Cell::new(0));
        let breathe = || {
            let now = Arc::strong_count(&part);
            most.set(most.get().max(last.replace(now) - now));
            assert!(is_busy());
        };
        while any() {
            clear(breathe);
        }
        assert!(!is_busy());
        assert_eq!(Arc::strong_count(&part), 1);
        assert_eq!(most.get(), PIECE);
    }
}
