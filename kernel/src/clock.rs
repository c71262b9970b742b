//! The wall clock: CLOCK_REALTIME is CLOCK_MONOTONIC and an offset.

use crate::wait::{self, Ended};
use crate::{memory, sched, time};
use base::{Errno, Nanos, Result, WaitQueue};
use core::sync::atomic::{AtomicU64, Ordering::{Relaxed, SeqCst}};
use core::task::Waker;

/// What is added to the time since boot. Until somebody sets the clock, boot
/// was in 1970, as on Linux without a clock that keeps time.
static OFFSET: AtomicU64 = AtomicU64::new(0);

/// How often it was set.
static SETS: AtomicU64 = AtomicU64::new(0);
/// Woken when it was set: who waits for a time of day computes anew.
pub static WAS_SET: WaitQueue = WaitQueue::new();

/// Sets the clock by the machine's own (PL031, Arm DDI 0224), if it has one.
pub fn init() {
    const RTCDR: u64 = 0;
    if let Some(rtc) = memory::machine().and_then(|machine| machine.rtc) {
        let seconds = memory::mmio(rtc).read32(RTCDR);
        if set_realtime(Nanos::from(seconds).saturating_mul(1_000_000_000)).is_err() {
            log::warn!("Clock: the machine's says that boot was before 1970: not taken");
        }
    }
}

/// CLOCK_REALTIME: nanoseconds since 1970.
pub fn realtime() -> Nanos {
    to_realtime(time::now())
}

/// Sets CLOCK_REALTIME: `EINVAL` if boot were before 1970 then.
pub fn set_realtime(now: Nanos) -> Result<()> {
    let offset = now.checked_sub(time::now()).ok_or(Errno::EINVAL)?;
    OFFSET.store(offset, Relaxed);
    crate::vdso::set_realtime(offset);
    SETS.fetch_add(1, SeqCst);
    WAS_SET.wake_all();
    Ok(())
}

/// How often the clock was set.
pub fn sets() -> u64 {
    SETS.load(SeqCst)
}

/// The CLOCK_REALTIME time of a CLOCK_MONOTONIC one.
pub fn to_realtime(monotonic: Nanos) -> Nanos {
    monotonic.wrapping_add(OFFSET.load(Relaxed))
}

/// The CLOCK_MONOTONIC time of a CLOCK_REALTIME one; 0 if that is before boot.
pub fn to_monotonic(realtime: Nanos) -> Nanos {
    realtime.saturating_sub(OFFSET.load(Relaxed))
}

/// As [`wait::retry`], until a time of day: whoever sets the clock changes when that
/// is.
pub fn retry_until<T>(
    time: Nanos,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T, Ended> {
    let waker = Waker::from(sched::current());
    WAS_SET.register(&waker)?;
    let result = loop {
        let before = sets();
        let result = wait::retry(Some(to_monotonic(time)), || match attempt() {
            Err(Errno::EAGAIN) if sets() != before => Ok(None),
            other => other.map(Some),
        });
        match result {
            Ok(None) => {}
            Ok(Some(value)) => break Ok(value),
            Err(ended) => break Err(ended),
        }
    };
    WAS_SET.unregister(&waker);
    result
}
