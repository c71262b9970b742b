//! timerfd(2).
//!
//! Locks: a timer's setting is at `INODE`; clocks are read and deadlines armed
//! with no lock held. How often a timer has expired is counted when somebody
//! looks: only the next expiry is ever armed.

use crate::abi::{Events, OpenFlags, Timespec};
use crate::file::{File, Io, OpenFile};
use alloc::borrow::Cow;
use alloc::sync::Arc;
use alloc::task::Wake;
use base::{Errno, Lock, Nanos, Result, WaitQueue, rank, room};
use core::any::Any;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use core::task::Waker;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The clocks that a timer may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockId {
    /// CLOCK_REALTIME (and its ALARM sister).
    Realtime,
    /// CLOCK_MONOTONIC.
    Monotonic,
    /// CLOCK_BOOTTIME (and its ALARM sister).
    Boottime,
}

impl ClockId {
    /// From a system call's argument.
    pub fn from_arg(id: u32) -> Result<ClockId> {
        match id {
            0 | 8 => Ok(ClockId::Realtime),
            1 => Ok(ClockId::Monotonic),
            7 | 9 => Ok(ClockId::Boottime),
            _ => Err(Errno::EINVAL),
        }
    }
}

/// The kernel's clocks and its queue of deadlines. Called with no lock held.
pub trait Timers: Send + Sync + 'static {
    /// Reads a clock.
    fn now(&self, clock: ClockId) -> Nanos;
    /// Wakes `waker` when CLOCK_MONOTONIC reaches `deadline` (at once if it
    /// has). The number is for [`Timers::cancel`].
    fn arm(&self, deadline: Nanos, waker: Waker) -> Result<u64>;
    /// Takes a deadline back, if it hasn't come yet.
    fn cancel(&self, armed: u64);
    /// How often CLOCK_REALTIME was set.
    fn clock_sets(&self) -> u64;
    /// Woken when it was.
    fn clock_was_set(&self) -> &WaitQueue;
}

/// `struct itimerspec`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ItimerSpec {
    /// Time between expiries; zero: only one.
    pub interval: Timespec,
    /// The first expiry; zero: disarmed.
    pub value: Timespec,
}

/// TFD_TIMER_ABSTIME.
pub const ABSTIME: u32 = 1;
/// TFD_TIMER_CANCEL_ON_SET: who reads hears that the clock was set.
pub const CANCEL_ON_SET: u32 = 2;

/// A timer that can be read.
pub struct TimerFd {
    clock: ClockId,
    timers: Arc<dyn Timers>,
    state: Lock<Setting>,
    /// On its own: the deadline that wakes it must not keep the timer.
    queue: Arc<Alarm>,
}

#[derive(Clone, Copy)]
struct Setting {
    /// The clock that this setting follows.
    clock: ClockId,
    /// The next expiry on that clock; `None`: disarmed.
    next: Option<Nanos>,
    interval: Nanos,
    armed: Option<u64>,
    /// It waits for a time of day, and is woken when the clock is set.
    follows: bool,
    /// TFD_TIMER_CANCEL_ON_SET: how often the clock had been set.
    cancelled_after: Option<u64>,
}

impl Setting {
    fn disarmed(clock: ClockId) -> Setting {
        Setting {
            clock,
            next: None,
            interval: 0,
            armed: None,
            follows: false,
            cancelled_after: None,
        }
    }

    /// Whether the clock was set since somebody last asked, and it matters.
    fn is_cancelled(&self, sets: u64) -> bool {
        self.cancelled_after.is_some_and(|seen| seen != sets)
    }

    /// How often it expired until `now`.
    fn expired(&self, now: Nanos) -> u64 {
        match self.next.and_then(|next| now.checked_sub(next)) {
            None => 0,
            Some(late) => late.checked_div(self.interval).map_or(1, |more| more.saturating_add(1)),
        }
    }

    /// Goes past what has expired. How often that was.
    fn consume(&mut self, now: Nanos) -> u64 {
        let count = self.expired(now);
        if count > 0 {
            self.next = (self.interval > 0).then(|| {
                self.next.unwrap_or(now).saturating_add(self.interval.saturating_mul(count))
            });
        }
        count
    }

    fn spec(&self, now: Nanos) -> ItimerSpec {
        // An expired periodic timer shows its next expiry.
        let mut ahead = *self;
        ahead.consume(now);
        ItimerSpec {
            interval: Timespec::from_nanos(self.interval),
            value: Timespec::from_nanos(ahead.next.map_or(0, |next| next.saturating_sub(now))),
        }
    }
}

impl TimerFd {
    /// A disarmed timer.
    pub fn new(clock: ClockId, timers: Arc<dyn Timers>) -> Result<Arc<TimerFd>> {
        room::try_arc(TimerFd {
            clock,
            timers,
            state: Lock::new(rank::INODE, Setting::disarmed(clock)),
            queue: room::try_arc(Alarm { queue: WaitQueue::new(), rang: AtomicBool::new(false) })?,
        })
    }

    /// `timerfd_create`.
    pub fn open(clock: u32, flags: u32, timers: Arc<dyn Timers>) -> Result<Arc<OpenFile>> {
        let known = OpenFlags::NONBLOCK.bits() | OpenFlags::CLOEXEC.bits();
        if flags & !known != 0 {
            return Err(Errno::EINVAL);
        }
        let status = OpenFlags::from_bits_retain(flags) & OpenFlags::NONBLOCK;
        let timer = TimerFd::new(ClockId::from_arg(clock)?, timers)?;
        OpenFile::anonymous(timer, status | OpenFlags::RDWR)
    }

    /// `timerfd_settime`: the old setting.
    pub fn set(&self, flags: u32, spec: &ItimerSpec) -> Result<ItimerSpec> {
        if flags & !(ABSTIME | CANCEL_ON_SET) != 0 {
            return Err(Errno::EINVAL);
        }
        let value = spec.value.to_nanos().ok_or(Errno::EINVAL)?;
        let interval = spec.interval.to_nanos().ok_or(Errno::EINVAL)?;
        // A relative time is one of CLOCK_MONOTONIC: setting the clock doesn't
        // move it.
        let absolute = flags & ABSTIME != 0;
        let clock = if absolute { self.clock } else { ClockId::Monotonic };
        let next = match (value, absolute) {
            (0, _) => None,
            (at, true) => Some(at),
            (after, false) => Some(self.timers.now(clock).saturating_add(after)),
        };
        let real = absolute && clock == ClockId::Realtime;
        let follows = real && next.is_some();
        let cancels = real && flags & CANCEL_ON_SET != 0;
        let cancelled_after = cancels.then(|| self.timers.clock_sets());
        let waker = Waker::from(self.queue.clone());
        if follows {
            self.timers.clock_was_set().register(&waker)?;
        }
        let old_now = self.now();
        let old = {
            let mut state = self.state.lock();
            let setting = Setting { clock, next, interval, armed: None, follows, cancelled_after };
            core::mem::replace(&mut *state, setting)
        };
        let spec = old.spec(old_now);
        self.forget(old);
        if let Err(errno) = self.arm() {
            // Nothing would ring: it says so, unless it was set again meanwhile.
            let stale = {
                let mut state = self.state.lock();
                let ours = (state.next, state.clock, &state.armed) == (next, clock, &None);
                ours.then(|| core::mem::replace(&mut *state, Setting::disarmed(clock)))
            };
            stale.into_iter().for_each(|stale| self.forget(stale));
            return Err(errno);
        }
        Ok(spec)
    }

    /// A setting is over.
    fn forget(&self, setting: Setting) {
        if let Some(armed) = setting.armed {
            self.timers.cancel(armed);
        }
        if setting.follows {
            self.timers.clock_was_set().unregister(&Waker::from(self.queue.clone()));
        }
    }

    /// What the clock shows that the timer follows now.
    fn now(&self) -> Nanos {
        let clock = self.state.lock().clock;
        self.timers.now(clock)
    }

    /// `timerfd_gettime`.
    pub fn get(&self) -> ItimerSpec {
        let now = self.now();
        self.state.lock().spec(now)
    }

    /// Arms the next expiry, if there is one.
    fn arm(&self) -> Result<()> {
        let Setting { next, clock, .. } = *self.state.lock();
        let Some(next) = next else { return Ok(()) };
        // The kernel's deadlines are on CLOCK_MONOTONIC.
        let left = next.saturating_sub(self.timers.now(clock));
        let deadline = self.timers.now(ClockId::Monotonic).saturating_add(left);
        let waker = Waker::from(self.queue.clone());
        let armed = self.timers.arm(deadline, waker)?;
        let stale = {
            let mut state = self.state.lock();
            // Set again meanwhile: that setting has its own deadline.
            if (state.next, state.clock) == (Some(next), clock) {
                state.armed.replace(armed)
            } else {
                Some(armed)
            }
        };
        if let Some(stale) = stale {
            self.timers.cancel(stale);
        }
        Ok(())
    }

    /// Nothing has expired: arms anew if the deadline came nevertheless, or the
    /// clock was set. No lock may be held.
    fn arm_again(&self) -> Result<()> {
        if self.queue.rang.swap(false, Relaxed) { self.arm() } else { Ok(()) }
    }
}

/// Who waits for a timer; what the kernel's queue of deadlines holds.
struct Alarm {
    queue: WaitQueue,
    /// A deadline has come since somebody last looked, or the clock was set.
    rang: AtomicBool,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.rang.store(true, Relaxed);
        self.queue.wake_all();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.rang.store(true, Relaxed);
        self.queue.wake_all();
    }
}

impl Drop for TimerFd {
    fn drop(&mut self) {
        let setting = *self.state.lock();
        self.forget(setting);
    }
}

impl File for TimerFd {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn read(&self, _io: &mut Io<'_>, buf: &mut [u8]) -> Result<usize> {
        let out = buf.first_chunk_mut::<8>().ok_or(Errno::EINVAL)?;
        let (now, sets) = (self.now(), self.timers.clock_sets());
        let count = {
            let mut state = self.state.lock();
            if state.is_cancelled(sets) {
                state.cancelled_after = Some(sets);
                return Err(Errno::ECANCELED);
            }
            state.consume(now)
        };
        if count == 0 {
            self.arm_again()?;
            return Err(Errno::EAGAIN);
        }
        *out = count.to_le_bytes();
        self.arm()?;
        Ok(8)
    }
    fn poll(&self) -> Events {
        let (now, sets) = (self.now(), self.timers.clock_sets());
        let state = *self.state.lock();
        if state.expired(now) > 0 || state.is_cancelled(sets) {
            return Events::READ;
        }
        // A reader gets the error.
        if self.arm_again().is_err() {
            self.queue.rang.store(true, Relaxed);
        }
        Events::empty()
    }
    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue.queue)
    }
    fn describe(&self) -> Cow<'static, str> {
        Cow::Borrowed("anon_inode:[timerfd]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::Caller;
    use std::sync::Mutex;
    use std::vec::Vec;

    #[derive(Default)]
    struct Fake {
        now: Mutex<u64>,
        armed: Mutex<Vec<(u64, u64, Waker)>>,
        next: Mutex<u64>,
        set_back: Mutex<u64>,
        sets: Mutex<u64>,
        was_set: WaitQueue,
    }
    impl Fake {
        fn set_back(&self, by: u64) {
            *self.set_back.lock().unwrap() = by;
            *self.sets.lock().unwrap() += 1;
            self.was_set.wake_all();
        }
        fn advance(&self, by: u64) {
            let now = {
                let mut now = self.now.lock().unwrap();
                *now += by;
                *now
            };
            let due: Vec<_> =
                self.armed.lock().unwrap().extract_if(.., |(_, at, _)| *at <= now).collect();
            due.into_iter().for_each(|(_, _, waker)| waker.wake());
        }
    }
    impl Timers for Fake {
        fn now(&self, clock: ClockId) -> Nanos {
            let now = *self.now.lock().unwrap();
            let back = *self.set_back.lock().unwrap();
            if clock == ClockId::Realtime { now + 1_000_000 - back } else { now }
        }
        fn arm(&self, deadline: Nanos, waker: Waker) -> Result<u64> {
            let mut next = self.next.lock().unwrap();
            *next += 1;
            self.armed.lock().unwrap().push((*next, deadline, waker));
            Ok(*next)
        }
        fn cancel(&self, armed: u64) {
            self.armed.lock().unwrap().retain(|(id, _, _)| *id != armed);
        }
        fn clock_sets(&self) -> u64 {
            *self.sets.lock().unwrap()
        }
        fn clock_was_set(&self) -> &WaitQueue {
            &self.was_set
        }
    }

    fn spec(value: u64, interval: u64) -> ItimerSpec {
        ItimerSpec { value: Timespec::from_nanos(value), interval: Timespec::from_nanos(interval) }
    }

    #[test]
    fn expires_and_repeats() {
        let who = Caller::default();
        let timers = Arc::new(Fake::default());
        let file = TimerFd::open(1, 0, timers.clone()).unwrap();
        let timer = file.downcast::<TimerFd>().unwrap();
        let mut buf = [0; 8];
        assert_eq!(file.read(&who, &mut buf), Err(Errno::EAGAIN));
        assert_eq!(timer.set(0, &spec(100, 30)), Ok(spec(0, 0)));
        timers.advance(99);
        assert_eq!(file.poll(), Events::empty());
        assert_eq!(timer.get(), spec(1, 30));
        timers.advance(1);
        assert_eq!(file.poll(), Events::READ);
        timers.advance(65);
        assert_eq!(timer.get(), spec(25, 30));
        assert_eq!(file.read(&who, &mut buf), Ok(8));
        assert_eq!(buf, 3u64.to_le_bytes());
        assert_eq!(file.read(&who, &mut buf), Err(Errno::EAGAIN));
        assert_eq!(timers.armed.lock().unwrap().last().unwrap().1, 190);
        timer.set(0, &spec(0, 0)).unwrap();
        assert!(timers.armed.lock().unwrap().is_empty());
        timer.set(ABSTIME, &spec(10, 0)).unwrap();
        assert_eq!(file.read(&who, &mut buf), Ok(8));
        assert_eq!(file.poll(), Events::empty());
        assert_eq!(timer.set(4, &spec(1, 0)), Err(Errno::EINVAL));
        let bad = ItimerSpec { value: Timespec { sec: 0, nsec: 1_000_000_000 }, ..spec(0, 0) };
        assert_eq!(timer.set(0, &bad), Err(Errno::EINVAL));
        timer.set(0, &spec(1000, 0)).unwrap();
        drop(file);
        assert!(timers.armed.lock().unwrap().is_empty());
    }

    #[test]
    fn follows_the_wall_clock() {
        let timers = Arc::new(Fake::default());
        let file = TimerFd::open(0, 0, timers.clone()).unwrap();
        let timer = file.downcast::<TimerFd>().unwrap();
        timer.set(ABSTIME, &spec(1_000_500, 0)).unwrap();
        assert_eq!(timers.armed.lock().unwrap()[0].1, 500);
        timers.advance(500);
        assert_eq!(file.poll(), Events::READ);
        // Set back, it rings too early.
        timer.set(ABSTIME, &spec(1_001_000, 0)).unwrap();
        timers.set_back(300);
        timers.advance(500);
        assert!(timers.armed.lock().unwrap().is_empty());
        assert_eq!(file.poll(), Events::empty());
        assert_eq!(timers.armed.lock().unwrap()[0].1, 1300);
        timers.advance(300);
        assert_eq!(file.poll(), Events::READ);
        // Set forward, it rings earlier; a relative one doesn't.
        timer.set(ABSTIME, &spec(1_002_000, 0)).unwrap();
        assert_eq!(file.poll(), Events::empty());
        timers.set_back(0);
        assert_eq!(file.poll(), Events::empty());
        assert_eq!(timers.armed.lock().unwrap()[0].1, 2000);
        timer.set(0, &spec(500, 0)).unwrap();
        let before = timers.armed.lock().unwrap()[0].1;
        timers.set_back(100);
        assert_eq!(file.poll(), Events::empty());
        assert_eq!(timers.armed.lock().unwrap()[0].1, before);
        assert!(timers.was_set.is_empty());
    }

    #[test]
    fn is_cancelled_when_the_clock_is_set() {
        let (who, mut buf) = (Caller::default(), [0; 8]);
        let timers = Arc::new(Fake::default());
        let file = TimerFd::open(0, 0, timers.clone()).unwrap();
        let timer = file.downcast::<TimerFd>().unwrap();
        timer.set(ABSTIME | CANCEL_ON_SET, &spec(1_009_000, 0)).unwrap();
        assert_eq!(file.poll(), Events::empty());
        timers.set_back(5);
        assert_eq!(file.poll(), Events::READ);
        assert_eq!(file.read(&who, &mut buf), Err(Errno::ECANCELED));
        assert_eq!(file.read(&who, &mut buf), Err(Errno::EAGAIN));
        timers.advance(10_000);
        assert_eq!(file.read(&who, &mut buf), Ok(8));
        drop(file);
        assert!(timers.was_set.is_empty());
    }
}
