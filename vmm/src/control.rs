//! What ends a run of the guest, and telling everyone about it.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use crate::error::{Context, Error, Result};
use crate::sync::lock;

/// Why the guest stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// It powered itself off.
    Off,
    /// It asked for a reset.
    Reset,
    /// It said that it crashed.
    Crash,
    /// Ctrl-a x.
    Quit,
    /// A signal to us.
    Signal(i32),
    /// Something failed that the guest cannot go on without.
    Failed(Error),
}

impl Stop {
    /// The process's exit status for it; a reset has one for when resets are not wanted.
    pub fn exit_status(&self) -> u8 {
        match self {
            Stop::Off | Stop::Quit => 0,
            Stop::Failed(_) => 1,
            Stop::Crash => 3,
            Stop::Reset => 4,
            Stop::Signal(n) => u8::try_from(*n).unwrap_or(0).saturating_add(128),
        }
    }

    /// What the user asked for comes before what the guest did.
    fn outranks(&self, other: &Stop) -> bool {
        let by_user = |s: &Stop| matches!(s, Stop::Quit | Stop::Signal(_));
        by_user(self) && !by_user(other)
    }
}

/// Where the stop is announced. There is one for the whole process; it goes on through resets.
pub struct Control {
    stop: Mutex<Option<Stop>>,
    stopping: AtomicBool,
    event: EventFd,
}

impl Control {
    /// Nothing is announced.
    pub fn new() -> Result<Arc<Control>> {
        Ok(Arc::new(Control {
            stop: Mutex::new(None),
            stopping: AtomicBool::new(false),
            event: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).context("eventfd")?,
        }))
    }

    /// Announces a stop. The first reason stays, unless a later one is the user's.
    pub fn stop(&self, why: Stop) {
        let mut stop = lock(&self.stop);
        if stop.as_ref().is_none_or(|first| why.outranks(first)) {
            *stop = Some(why);
        }
        self.stopping.store(true, Ordering::Release);
        let _ = self.event.write(1);
    }

    /// Whether a stop is announced.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Becomes readable when a stop is announced.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// Takes the stop back, so that the guest can start again.
    pub fn take(&self) -> Option<Stop> {
        let mut stop = lock(&self.stop);
        self.stopping.store(false, Ordering::Release);
        let _ = self.event.read();
        stop.take()
    }
}

/// The signal that came, and the eventfd that tells the main loop so.
static SIGNAL: AtomicI32 = AtomicI32::new(0);
static SIGNAL_EVENT: AtomicI32 = AtomicI32::new(-1);

extern "C" fn on_signal(signal: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    SIGNAL.store(signal, Ordering::Relaxed);
    let one = 1u64;
    // SAFETY: write is async-signal-safe and the pointer is to 8 bytes, which is what an eventfd takes.
    unsafe {
        libc::write(SIGNAL_EVENT.load(Ordering::Relaxed), (&raw const one).cast(), size_of::<u64>())
    };
}

/// Has SIGINT, SIGTERM, SIGHUP and SIGQUIT signal `event` instead of killing us: the terminal wants restoring.
pub fn catch_signals(event: &EventFd) -> Result<()> {
    use std::os::fd::AsRawFd;
    SIGNAL_EVENT.store(event.as_raw_fd(), Ordering::Relaxed);
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
        vmm_sys_util::signal::register_signal_handler(signal, on_signal).context("sigaction")?;
    }
    Ok(())
}

/// The signal that came, if one did.
pub fn caught_signal() -> Option<i32> {
    match SIGNAL.load(Ordering::Relaxed) {
        0 => None,
        n => Some(n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stays_but_the_user_comes_first() {
        let c = Control::new().unwrap();
        assert!(!c.stopping());
        c.stop(Stop::Reset);
        c.stop(Stop::Off);
        assert_eq!(c.take(), Some(Stop::Reset));
        assert!(!c.stopping());
        c.stop(Stop::Reset);
        c.stop(Stop::Quit);
        c.stop(Stop::Crash);
        assert!(c.stopping());
        assert_eq!(c.take(), Some(Stop::Quit));
        assert_eq!(c.take(), None);
    }

    #[test]
    fn exit_statuses_differ() {
        assert_eq!(Stop::Off.exit_status(), 0);
        assert_eq!(Stop::Signal(15).exit_status(), 143);
        assert_ne!(Stop::Crash.exit_status(), 0);
        assert_ne!(Stop::Failed(Error::new("x")).exit_status(), 0);
    }
}
