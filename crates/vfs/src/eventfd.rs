//! eventfd(2), for programs and for the kernel itself.
//!
//! Locks: the count is at `INODE`; the queue is woken, and consumers are
//! called, with no lock held.

use crate::abi::{Events, OpenFlags};
use crate::file::{File, Io, OpenFile};
use alloc::borrow::Cow;
use alloc::sync::Arc;
use alloc::vec::Vec;
use base::{Errno, Lock, Result, WaitQueue, rank, room};
use core::any::Any;

/// EFD_SEMAPHORE; EFD_NONBLOCK and EFD_CLOEXEC are the O_ flags.
pub const EFD_SEMAPHORE: u32 = 1;

/// Somebody in the kernel who takes every signal for themselves: an irqfd.
/// Called with no lock held by the eventfd, on the signaller's CPU.
pub trait EventConsumer: Send + Sync {
    /// The eventfd was signalled; its count has been taken.
    fn signalled(&self);
}

type Consumers = Arc<Vec<Arc<dyn EventConsumer>>>;

/// A counter that can be waited for.
pub struct EventFd {
    semaphore: bool,
    state: Lock<State>,
    queue: WaitQueue,
}

struct State {
    count: u64,
    /// A write found it full, since it was last taken.
    refused: bool,
    /// Replaced as a whole, so that signalling only counts a reference up.
    consumers: Option<Consumers>,
}

impl EventFd {
    /// An eventfd.
    pub fn new(initial: u32, semaphore: bool) -> Result<Arc<EventFd>> {
        let state = State { count: u64::from(initial), refused: false, consumers: None };
        room::try_arc(EventFd {
            semaphore,
            state: Lock::new(rank::INODE, state),
            queue: WaitQueue::new(),
        })
    }

    /// `eventfd2`: an open file for it.
    pub fn open(initial: u32, flags: u32) -> Result<Arc<OpenFile>> {
        let known = EFD_SEMAPHORE | OpenFlags::NONBLOCK.bits() | OpenFlags::CLOEXEC.bits();
        if flags & !known != 0 {
            return Err(Errno::EINVAL);
        }
        let status = OpenFlags::from_bits_retain(flags) & OpenFlags::NONBLOCK;
        let event = EventFd::new(initial, flags & EFD_SEMAPHORE != 0)?;
        OpenFile::anonymous(event, status | OpenFlags::RDWR)
    }

    /// Signals from within the kernel (ioeventfd, irqfd's resampling): never
    /// fails, never allocates, stops counting at the top.
    pub fn signal(&self, by: u64) {
        let consumers = {
            let mut state = self.state.lock();
            state.count = state.count.saturating_add(by);
            state.take_for_consumers()
        };
        self.tell(consumers);
    }

    fn tell(&self, consumers: Option<Consumers>) {
        match consumers {
            Some(consumers) => consumers.iter().for_each(|consumer| consumer.signalled()),
            None => self.queue.wake_all(),
        }
    }

    /// Adds a consumer; one signal that was there already goes to it at once.
    pub fn attach(&self, consumer: Arc<dyn EventConsumer>) -> Result<()> {
        let pending = {
            let mut state = self.state.lock();
            let before = state.consumers.as_ref().map_or(&[][..], |consumers| &consumers[..]);
            let mut all: Vec<Arc<dyn EventConsumer>> =
                room::try_vec(before.len().saturating_add(1))?;
            all.extend_from_slice(before);
            all.push(consumer);
            state.consumers = Some(room::try_arc(all)?);
            if state.count > 0 { state.take_for_consumers() } else { None }
        };
        if pending.is_some() {
            self.tell(pending);
        }
        Ok(())
    }

    /// Takes a consumer back. Whether it was there.
    pub fn detach(&self, consumer: &Arc<dyn EventConsumer>) -> bool {
        {
            let mut state = self.state.lock();
            let Some(mut all) = state.consumers.take() else { return false };
            let before = all.len();
            // A copy only where somebody walks the list right now.
            let rest = Arc::make_mut(&mut all);
            rest.retain(|other| !Arc::ptr_eq(other, consumer));
            let found = rest.len() < before;
            state.consumers = (!rest.is_empty()).then_some(all);
            found
        }
    }

    /// Takes the count as a read does; `None` if it is zero. Wakes everybody: who
    /// polls for writing with EPOLLET hears of each read, as on Linux.
    pub fn take(&self) -> Option<u64> {
        let (value, _) = self.state.lock().take(self.semaphore)?;
        self.queue.wake_all();
        Some(value)
    }

    /// Takes it from within the kernel, for one of those that wait (an irqfd): it
    /// wakes nobody, itself included, unless a writer found no room. Whether
    /// there was something.
    pub fn consume(&self) -> bool {
        let Some((_, was_full)) = self.state.lock().take(self.semaphore) else { return false };
        if was_full {
            self.queue.wake_all();
        }
        true
    }
}

/// The highest count that a write leaves (eventfd(2)).
const MAX: u64 = u64::MAX.wrapping_sub(1);

impl State {
    /// What a read gives, and whether a writer may wait for it.
    fn take(&mut self, semaphore: bool) -> Option<(u64, bool)> {
        if self.count == 0 {
            return None;
        }
        let was_full = self.count >= MAX || self.refused;
        self.refused = false;
        let value = if semaphore { 1 } else { self.count };
        self.count = self.count.saturating_sub(value);
        Some((value, was_full))
    }

    fn take_for_consumers(&mut self) -> Option<Consumers> {
        let consumers = self.consumers.clone()?;
        self.count = 0;
        Some(consumers)
    }
}

impl File for EventFd {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn read(&self, _io: &mut Io<'_>, buf: &mut [u8]) -> Result<usize> {
        let out = buf.first_chunk_mut::<8>().ok_or(Errno::EINVAL)?;
        *out = self.take().ok_or(Errno::EAGAIN)?.to_le_bytes();
        Ok(8)
    }
    fn write(&self, _io: &mut Io<'_>, data: &[u8]) -> Result<usize> {
        let value = u64::from_le_bytes(*data.first_chunk::<8>().ok_or(Errno::EINVAL)?);
        if value == u64::MAX {
            return Err(Errno::EINVAL);
        }
        let consumers = {
            let mut state = self.state.lock();
            let Some(sum) = state.count.checked_add(value).filter(|sum| *sum <= MAX) else {
                state.refused = true;
                return Err(Errno::EAGAIN);
            };
            state.count = sum;
            if value == 0 { None } else { state.take_for_consumers() }
        };
        self.tell(consumers);
        Ok(8)
    }
    fn poll(&self) -> Events {
        let count = self.state.lock().count;
        let mut events = Events::empty();
        events.set(Events::READ, count > 0);
        events.set(Events::WRITE, count < MAX);
        events.set(Events::ERR, count == u64::MAX);
        events
    }
    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }
    fn describe(&self) -> Cow<'static, str> {
        Cow::Borrowed("anon_inode:[eventfd]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::Caller;
    use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

    #[derive(Default)]
    struct Irq(AtomicU32);
    impl EventConsumer for Irq {
        fn signalled(&self) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn counts() {
        let who = Caller::default();
        let file = EventFd::open(3, 0).unwrap();
        let mut buf = [0; 8];
        assert_eq!(file.read(&who, &mut buf[..7]), Err(Errno::EINVAL));
        assert_eq!(file.read(&who, &mut buf), Ok(8));
        assert_eq!(buf, 3u64.to_le_bytes());
        assert_eq!(file.read(&who, &mut buf), Err(Errno::EAGAIN));
        assert_eq!(file.write(&who, &u64::MAX.to_le_bytes()), Err(Errno::EINVAL));
        assert_eq!(file.write(&who, &(u64::MAX - 1).to_le_bytes()), Ok(8));
        assert_eq!(file.write(&who, &1u64.to_le_bytes()), Err(Errno::EAGAIN));
        assert_eq!(file.poll(), Events::READ);
        file.downcast::<EventFd>().unwrap().signal(9);
        assert!(file.poll().contains(Events::ERR));
        let semaphore = EventFd::open(2, EFD_SEMAPHORE).unwrap();
        assert_eq!(semaphore.read(&who, &mut buf), Ok(8));
        assert_eq!(buf, 1u64.to_le_bytes());
        assert_eq!(semaphore.read(&who, &mut buf), Ok(8));
        assert_eq!(semaphore.read(&who, &mut buf), Err(Errno::EAGAIN));
        assert_eq!(EventFd::open(0, 4).err(), Some(Errno::EINVAL));
    }

    #[test]
    fn consuming_wakes_only_who_found_it_full() {
        struct Woken(AtomicU32);
        impl std::task::Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Relaxed);
            }
        }
        let woken = Arc::new(Woken(AtomicU32::new(0)));
        let times = || woken.0.load(Relaxed);
        let file = EventFd::open(0, 0).unwrap();
        let event = file.downcast::<EventFd>().unwrap();
        event.wait_queue().unwrap().register(&woken.clone().into()).unwrap();
        assert!(!event.consume());
        event.signal(1);
        assert_eq!(times(), 1);
        // An irqfd doesn't signal itself.
        assert!(event.consume() && !event.consume());
        assert_eq!(times(), 1);
        // A write that had to wait, though it isn't full for all.
        let who = Caller::default();
        assert_eq!(file.write(&who, &5u64.to_le_bytes()), Ok(8));
        assert_eq!(file.write(&who, &(u64::MAX - 3).to_le_bytes()), Err(Errno::EAGAIN));
        assert!(event.consume());
        assert_eq!(times(), 3);
        // Full for all: who polls for writing waits.
        assert_eq!(file.write(&who, &(u64::MAX - 1).to_le_bytes()), Ok(8));
        assert!(event.consume());
        assert_eq!(times(), 5);
        // A read tells everybody.
        event.signal(1);
        assert_eq!(event.take(), Some(1));
        assert_eq!(times(), 7);
    }

    #[test]
    fn consumers_take_signals() {
        let event = EventFd::new(1, false).unwrap();
        let irq = Arc::new(Irq::default());
        let consumer: Arc<dyn EventConsumer> = irq.clone();
        event.attach(consumer.clone()).unwrap();
        assert_eq!(irq.0.load(Relaxed), 1);
        event.signal(1);
        event.signal(5);
        assert_eq!(irq.0.load(Relaxed), 3);
        assert_eq!(event.take(), None);
        assert!(event.detach(&consumer));
        assert!(!event.detach(&consumer));
        event.signal(2);
        assert_eq!((irq.0.load(Relaxed), event.take()), (3, Some(2)));
    }
}
