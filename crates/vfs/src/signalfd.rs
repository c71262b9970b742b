//! signalfd(2).
//!
//! Locks: the mask is at `INODE`; the kernel's [`SignalSource`] is called with
//! no lock held. As on Linux, reading and polling look at the signals of the
//! thread that calls.

use crate::abi::{Events, OpenFlags};
use crate::file::{File, Io, OpenFile};
use alloc::borrow::Cow;
use alloc::sync::Arc;
use base::{Errno, Lock, Result, WaitQueue, rank, room};
use core::any::Any;

/// `struct signalfd_siginfo`'s size.
pub const SIGINFO_LEN: usize = 128;

/// The calling thread's pending signals.
pub trait SignalSource: Send + Sync + 'static {
    /// Whether one of `mask` is pending for the calling thread or its process.
    fn is_pending(&self, mask: u64) -> bool;
    /// Takes one of them, as a `struct signalfd_siginfo`.
    fn take(&self, mask: u64) -> Option<[u8; SIGINFO_LEN]>;
    /// Woken when a signal becomes pending for somebody.
    fn wait_queue(&self) -> &WaitQueue;
}

/// A descriptor that signals are read from.
pub struct SignalFd {
    mask: Lock<u64>,
    source: Arc<dyn SignalSource>,
}

/// SIGKILL and SIGSTOP can't be read.
const NEVER: u64 = 1 << 8 | 1 << 18;

impl SignalFd {
    /// `signalfd4` with -1: a new descriptor.
    pub fn open(mask: u64, flags: u32, source: Arc<dyn SignalSource>) -> Result<Arc<OpenFile>> {
        let known = OpenFlags::NONBLOCK.bits() | OpenFlags::CLOEXEC.bits();
        if flags & !known != 0 {
            return Err(Errno::EINVAL);
        }
        let status = OpenFlags::from_bits_retain(flags) & OpenFlags::NONBLOCK;
        let file = SignalFd { mask: Lock::new(rank::INODE, mask & !NEVER), source };
        OpenFile::anonymous(room::try_arc(file)?, status | OpenFlags::RDWR)
    }

    /// `signalfd4` with a descriptor: changes the mask.
    pub fn set_mask(&self, mask: u64) {
        *self.mask.lock() = mask & !NEVER;
        self.source.wait_queue().wake_all();
    }
}

impl File for SignalFd {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn read(&self, _io: &mut Io<'_>, buf: &mut [u8]) -> Result<usize> {
        let mask = *self.mask.lock();
        if buf.len() < SIGINFO_LEN {
            return Err(Errno::EINVAL);
        }
        let mut done = 0usize;
        for slot in buf.as_chunks_mut::<SIGINFO_LEN>().0 {
            let Some(info) = self.source.take(mask) else { break };
            *slot = info;
            done = done.saturating_add(SIGINFO_LEN);
        }
        if done == 0 { Err(Errno::EAGAIN) } else { Ok(done) }
    }
    fn poll(&self) -> Events {
        let mask = *self.mask.lock();
        if self.source.is_pending(mask) { Events::READ } else { Events::empty() }
    }
    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(self.source.wait_queue())
    }
    fn describe(&self) -> Cow<'static, str> {
        Cow::Borrowed("anon_inode:[signalfd]")
    }
}
