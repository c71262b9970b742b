//! Who wants to know when something changes.

use crate::{Lock, Result, Room, rank};
use alloc::vec::Vec;
use core::task::Waker;

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
    wakers: Lock<Vec<Waker>>,
}

impl WaitQueue {
    /// A queue that nobody waits on.
    pub const fn new() -> Self {
        WaitQueue { wakers: Lock::new(rank::WAIT_QUEUE, Vec::new()) }
    }

    /// Adds `waker`; registering it twice needs unregistering it twice.
    /// `ENOMEM` if there is no room.
    pub fn register(&self, waker: &Waker) -> Result<()> {
        let mut wakers = self.wakers.lock();
        wakers.make_room(1)?;
        wakers.push(waker.clone());
        Ok(())
    }

    /// Makes room for one more: the next registration can't fail.
    pub fn reserve(&self) -> Result<()> {
        self.wakers.lock().make_room(1)
    }

    /// Takes one registration of `waker` back; nothing happens if there is none.
    pub fn unregister(&self, waker: &Waker) {
        let taken = {
            let mut wakers = self.wakers.lock();
            let at = wakers.iter().position(|other| other.will_wake(waker));
            at.map(|at| wakers.remove(at))
        };
        // Dropped outside the lock: it may be the last reference to a task.
        drop(taken);
    }

    /// Wakes everybody. Wakers run under this queue's lock: they may take
    /// locks of a higher rank only and must not (un)register here.
    pub fn wake_all(&self) {
        for waker in self.wakers.lock().iter() {
            waker.wake_by_ref();
        }
    }

    /// Wakes the one that has waited longest and puts it last.
    pub fn wake_one(&self) {
        let mut wakers = self.wakers.lock();
        if let Some(first) = wakers.first() {
            first.wake_by_ref();
            wakers.rotate_left(1);
        }
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.wakers.lock().is_empty()
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
        queue.wake_one();
        queue.unregister(&wake_a);
        queue.wake_all();
        assert_eq!(a.0.load(Ordering::Relaxed), 2);
        assert_eq!(b.0.load(Ordering::Relaxed), 2);
        queue.unregister(&wake_b);
        queue.unregister(&wake_b);
        assert!(queue.is_empty());
    }
}
