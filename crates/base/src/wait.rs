//! Who wants to know when something changes.

use crate::{Lock, Result, Room, rank, room};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::task::Waker;

/// Up to so many are looked through one by one.
const FEW: usize = 16;

/// The parties that wait for an object to change: threads, epoll sets, irqfds;
/// each a [`Waker`].
///
/// Objects in Hypha don't block. They answer `EAGAIN`, and whoever wants to
/// wait registers *first* and tries again, so that no change is missed:
///
/// ```text
/// queue.register(&waker)?;
/// loop { match object.read(buf) { Err(EAGAIN) => sleep(), other => break other } }
/// queue.unregister(&waker);
/// ```
///
/// A registration stays until it is taken back. Wake-ups may be spurious.
pub struct WaitQueue {
    wakers: Lock<Wakers>,
}

/// Each waker once, with the number of its registrations. EL0 chooses how many
/// there are: no operation but waking looks at all of them.
struct Wakers {
    few: Vec<(Waker, usize)>,
    /// Those beyond, by the address of what they wake, which lives as long as
    /// its waker is here.
    more: BTreeMap<usize, (Waker, usize)>,
}

fn key(waker: &Waker) -> usize {
    waker.data().addr()
}

impl Wakers {
    fn find(&mut self, waker: &Waker) -> Option<&mut usize> {
        let few = self.few.iter_mut().find(|(other, _)| key(other) == key(waker));
        few.or_else(|| self.more.get_mut(&key(waker))).map(|(_, count)| count)
    }

    fn remove(&mut self, waker: &Waker) -> Option<Waker> {
        let at = self.few.iter().position(|(other, _)| key(other) == key(waker));
        let removed = match at {
            Some(at) => Some(self.few.swap_remove(at)),
            None => self.more.remove(&key(waker)),
        };
        removed.map(|(waker, _)| waker)
    }
}

impl WaitQueue {
    /// A queue that nobody waits on.
    pub const fn new() -> Self {
        let wakers = Wakers { few: Vec::new(), more: BTreeMap::new() };
        WaitQueue { wakers: Lock::new(rank::WAIT_QUEUE, wakers) }
    }

    /// Adds `waker`; registering it twice needs unregistering it twice.
    /// `ENOMEM` if there is no room.
    pub fn register(&self, waker: &Waker) -> Result<()> {
        let mut wakers = self.wakers.lock();
        if let Some(count) = wakers.find(waker) {
            *count = count.saturating_add(1);
        } else if wakers.few.len() < FEW {
            wakers.few.make_room(1)?;
            wakers.few.push((waker.clone(), 1));
        } else {
            room::try_insert(&mut wakers.more, key(waker), (waker.clone(), 1))?;
        }
        Ok(())
    }

    /// Makes room for one: the first registration can't fail.
    pub fn reserve(&self) -> Result<()> {
        self.wakers.lock().few.make_room(1)
    }

    /// Takes one registration of `waker` back; nothing happens if there is none.
    pub fn unregister(&self, waker: &Waker) {
        let taken = {
            let mut wakers = self.wakers.lock();
            match wakers.find(waker) {
                Some(count) if *count > 1 => {
                    *count = count.wrapping_sub(1);
                    None
                }
                Some(_) => wakers.remove(waker),
                None => None,
            }
        };
        // Dropped outside the lock: it may be the last reference to a task.
        drop(taken);
    }

    /// Wakes everybody. Wakers run under this queue's lock: they may take
    /// locks of a higher rank only and must not (un)register here.
    pub fn wake_all(&self) {
        let wakers = self.wakers.lock();
        for (waker, _) in &wakers.few {
            waker.wake_by_ref();
        }
        // Seldom, and dearer to begin than all of the above.
        if !wakers.more.is_empty() {
            wake_more(&wakers.more);
        }
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        let wakers = self.wakers.lock();
        wakers.few.is_empty() && wakers.more.is_empty()
    }
}

#[cold]
fn wake_more(more: &BTreeMap<usize, (Waker, usize)>) {
    for (waker, _) in more.values() {
        waker.wake_by_ref();
    }
}

impl Default for WaitQueue {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::sync::Arc;
    use alloc::task::Wake;
    use core::sync::atomic::{AtomicU32, Ordering};

    #[derive(Default)]
    struct Count(AtomicU32);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn wakes_those_registered() {
        let queue = WaitQueue::new();
        let (a, b) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let (wake_a, wake_b) = (Waker::from(a.clone()), Waker::from(b.clone()));
        queue.register(&wake_a).unwrap();
        queue.register(&wake_b).unwrap();
        queue.wake_all();
        queue.unregister(&wake_a);
        queue.wake_all();
        assert_eq!(a.0.load(Ordering::Relaxed), 1);
        assert_eq!(b.0.load(Ordering::Relaxed), 2);
        queue.unregister(&wake_b);
        queue.unregister(&wake_b);
        assert!(queue.is_empty());
    }

    /// Each is woken once, in whatever order and how often they came and go. A
    /// queue that looks at all of them for each doesn't get to the end.
    #[test]
    fn a_hundred_thousand() {
        const MANY: usize = 100_000;
        let queue = WaitQueue::new();
        let counts: Vec<_> = (0..MANY).map(|_| Arc::new(Count::default())).collect();
        let wakers: Vec<Waker> = counts.iter().map(|count| Waker::from(count.clone())).collect();
        let woken = |expected: u32| {
            queue.wake_all();
            counts.iter().all(|count| count.0.swap(0, Ordering::Relaxed) == expected)
        };
        for waker in wakers.iter().chain(&wakers) {
            queue.register(waker).unwrap();
        }
        for _ in 0..MANY {
            queue.register(&wakers[7]).unwrap();
        }
        assert!(woken(1));
        for _ in 0..MANY {
            queue.unregister(&wakers[7]);
        }
        wakers.iter().for_each(|waker| queue.unregister(waker));
        assert!(woken(1));
        wakers.iter().rev().for_each(|waker| queue.unregister(waker));
        assert!(woken(0) && queue.is_empty());
        assert_eq!(Arc::strong_count(&counts[9]), 2);
    }
}
