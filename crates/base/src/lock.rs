//! A spin lock that knows its place in the lock order.
//!
//! Hypha's kernel runs with interrupts masked; they are taken at EL0, in a
//! guest, in the idle loop and at explicit windows only. A spin lock therefore
//! never races with an interrupt handler on its own CPU, and holders are never
//! preempted: critical sections are short by rule.
//!
//! Rules, checked in debug builds through the [`LockTracker`]:
//! * a lock may be taken only while every lock held has a *lower* rank;
//! * no lock is held across a copy to or from user memory, or across anything
//!   that can sleep.

use core::fmt;
use core::ops::{Deref, DerefMut};
use spin::mutex::{TicketMutex, TicketMutexGuard};
use spin::{Once, RelaxStrategy};

/// The lock order, outermost first. The numbers leave room.
///
/// Memory map before stage 2 before TLB is the order that guest memory needs
/// (design.md); the others follow the direction of calls.
pub mod rank {
    /// Process tree: parents, children, process groups, sessions.
    pub const PROCESS: u8 = 10;
    /// One process's or thread's signals.
    pub const SIGNAL: u8 = 14;
    /// A table of file descriptors.
    pub const FD_TABLE: u8 = 18;
    /// An epoll set's interest list.
    pub const EPOLL: u8 = 20;
    /// Mount table and directory tree.
    pub const NAMESPACE: u8 = 22;
    /// An open file description (offset, flags).
    pub const OPEN_FILE: u8 = 24;
    /// A VM's configuration: memory slots, devices, vCPU list.
    pub const VM: u8 = 28;
    /// A vCPU's state, while it is not running.
    pub const VCPU: u8 = 30;
    /// An address space: the VMA tree and its page tables.
    pub const MEMORY_MAP: u8 = 40;
    /// A guest's stage-2 tables.
    pub const STAGE2: u8 = 44;
    /// An inode: a file's pages, a directory's entries, a pipe, an eventfd.
    pub const INODE: u8 = 50;
    /// A VM's interrupt controller (distributor).
    pub const VGIC: u8 = 54;
    /// One vCPU's part of the interrupt controller.
    pub const VGIC_CPU: u8 = 56;
    /// Futex hash buckets.
    pub const FUTEX: u8 = 60;
    /// Timer queues.
    pub const TIMER: u8 = 64;
    /// Wait queues. The one rank that may nest in itself: an epoll set is
    /// woken from the queues of its members, and epoll refuses cycles (ELOOP).
    pub const WAIT_QUEUE: u8 = 70;
    /// An epoll set's ready list.
    pub const EPOLL_READY: u8 = 72;
    /// Run queues.
    pub const RUN_QUEUE: u8 = 80;
    /// Page tables of the kernel itself, ASID and VMID allocation.
    pub const KERNEL_MAP: u8 = 84;
    /// The frame allocator.
    pub const FRAMES: u8 = 88;
    /// The kernel heap.
    pub const HEAP: u8 = 92;
    /// The console and the log.
    pub const LOG: u8 = 96;
}

/// Follows which locks the current CPU holds. The kernel installs one in debug
/// builds; tests may too.
pub trait LockTracker: Sync {
    /// Called before a lock of `rank` is taken: panics if a lock of the same
    /// or a higher rank is held.
    fn acquire(&self, rank: u8);
    /// Called after a lock of `rank` was let go.
    fn release(&self, rank: u8);
}

static TRACKER: Once<&'static dyn LockTracker> = Once::new();

/// Installs the tracker; the first call wins.
pub fn set_lock_tracker(tracker: &'static dyn LockTracker) {
    TRACKER.call_once(|| tracker);
}

/// A turn of a loop that waits for another CPU. YIELD on the machine, as Linux's
/// cpu_relax() has it, not [`core::hint::spin_loop`]'s ISB: a hardware thread or an
/// emulator lets the other run at once.
#[inline(always)]
pub fn relax() {
    #[cfg(target_os = "none")]
    arch::barrier::yield_hint();
    #[cfg(not(target_os = "none"))]
    core::hint::spin_loop();
}

/// [`relax`] for the crate `spin`.
struct Yield;

impl RelaxStrategy for Yield {
    #[inline(always)]
    fn relax() {
        relax();
    }
}

/// A fair spin lock around a `T`, with a rank from [`rank`].
pub struct Lock<T: ?Sized> {
    rank: u8,
    inner: TicketMutex<T, Yield>,
}

impl<T> Lock<T> {
    /// A lock at `rank` in the order.
    pub const fn new(rank: u8, value: T) -> Self {
        Lock { rank, inner: TicketMutex::new(value) }
    }

    /// Unwraps the value.
    pub fn into_inner(self) -> T {
        self.inner.into_inner()
    }
}

impl<T: ?Sized> Lock<T> {
    /// Takes the lock, spinning until it is free.
    #[inline]
    pub fn lock(&self) -> LockGuard<'_, T> {
        track(|tracker| tracker.acquire(self.rank));
        LockGuard { inner: Some(self.inner.lock()), rank: self.rank }
    }

    /// Takes a second lock of the same rank, in an order that the caller
    /// answers for (by index, by address). The tracker sees it one rank higher,
    /// so there is no third.
    #[inline]
    pub fn lock_second(&self) -> LockGuard<'_, T> {
        let rank = self.rank.saturating_add(1);
        track(|tracker| tracker.acquire(rank));
        LockGuard { inner: Some(self.inner.lock()), rank }
    }

    /// Takes the lock if it is free.
    #[inline]
    pub fn try_lock(&self) -> Option<LockGuard<'_, T>> {
        let inner = self.inner.try_lock()?;
        track(|tracker| tracker.acquire(self.rank));
        Some(LockGuard { inner: Some(inner), rank: self.rank })
    }

    /// The value, where exclusive access proves that nobody holds the lock.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Lock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// Holds a [`Lock`] until dropped.
pub struct LockGuard<'a, T: ?Sized> {
    // None only inside drop: the lock is let go before the tracker hears of it.
    inner: Option<TicketMutexGuard<'a, T>>,
    rank: u8,
}

impl<T: ?Sized> Deref for LockGuard<'_, T> {
    type Target = T;
    #[inline]
    #[expect(clippy::unreachable, reason = "None only inside drop")]
    fn deref(&self) -> &T {
        match &self.inner {
            Some(guard) => guard,
            None => unreachable!(),
        }
    }
}

impl<T: ?Sized> DerefMut for LockGuard<'_, T> {
    #[inline]
    #[expect(clippy::unreachable, reason = "None only inside drop")]
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.inner {
            Some(guard) => guard,
            None => unreachable!(),
        }
    }
}

impl<T: ?Sized> Drop for LockGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.inner = None;
        track(|tracker| tracker.release(self.rank));
    }
}

#[inline]
fn track(f: impl FnOnce(&dyn LockTracker)) {
    if cfg!(debug_assertions)
        && let Some(tracker) = TRACKER.get()
    {
        f(*tracker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_and_lets_go() {
        let lock = Lock::new(rank::VM, 1);
        {
            let mut guard = lock.lock();
            *guard = 2;
            assert!(lock.try_lock().is_none());
        }
        assert_eq!(*lock.lock(), 2);
    }
}
