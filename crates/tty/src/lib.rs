//! Terminals: [`line`] is the line discipline; [`Tty`] adds the session that
//! owns the terminal, job control and the ioctls; [`Ttys`] knows all of them
//! and opens `/dev/tty`.
//!
//! Locks: a terminal's state is at `INODE`, held while echo and output go to
//! the driver (whose lock is at `LOG`). The kernel's [`TtyHost`] is called, and
//! user memory is copied, with no lock held.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::arithmetic_side_effects, clippy::unwrap_used, clippy::indexing_slicing)
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod abi;
pub mod line;

use abi::*;
use alloc::sync::{Arc, Weak};
use alloc::task::Wake;
use alloc::vec::Vec;
use base::{Errno, Lock, Nanos, Result, UserMem, UserMemExt, WaitQueue, rank};
use core::any::Any;
use core::task::Waker;
use line::{Line, Output};
use vfs::abi::Events;
use vfs::device::{self, DeviceRegistry};
use vfs::inode::OpenRequest;
use vfs::timerfd::{ClockId, Timers};
use vfs::{Caller, DevId, File, Io, OpenFlags};
use zerocopy::IntoBytes;

/// What a program writes goes out in pieces of this size, so that the caller
/// can look up in between.
const WRITE_CHUNK: usize = 1024;

/// The serial port or whatever shows the characters.
pub trait TtyDriver: Send + Sync + 'static {
    /// Sends bytes; takes all of them.
    fn put(&self, bytes: &[u8]);
}

/// What terminals need of the kernel's processes. Called with no lock held.
pub trait TtyHost: Send + Sync + 'static {
    /// Sends a signal to a process group.
    fn signal_group(&self, pgid: u32, signal: u32);
    /// Whether the calling thread blocks or ignores a signal.
    fn is_blocked_or_ignored(&self, caller: &Caller, signal: u32) -> bool;
    /// Whether nobody could continue the group: no member has a parent in
    /// another group of the session.
    fn is_orphaned(&self, pgid: u32) -> bool;
    /// The session of a process group, if there is such a group.
    fn session_of_group(&self, pgid: u32) -> Option<u32>;
}

/// A terminal.
pub struct Tty {
    name: &'static str,
    dev: DevId,
    driver: Arc<dyn TtyDriver>,
    host: Arc<dyn TtyHost>,
    timers: Arc<dyn Timers>,
    state: Lock<State>,
    queue: Arc<Queue>,
}

/// On its own, so that a deadline doesn't keep the terminal.
struct Queue(WaitQueue);

impl Wake for Queue {
    fn wake(self: Arc<Self>) {
        self.0.wake_all();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.0.wake_all();
    }
}

struct State {
    line: Line,
    size: WinSize,
    /// The session whose controlling terminal this is.
    session: Option<u32>,
    /// The group that may read, and gets signals.
    foreground: u32,
    /// Counts hang-ups: files from before one are dead.
    hangups: u32,
    /// When a read that waits VTIME without VMIN gives up.
    give_up: Option<Nanos>,
    /// The deadline's number, to take it back with.
    armed: Option<u64>,
}

impl State {
    /// Reads what there is; sets `give_up` if that is to be waited for.
    fn read(&mut self, io: &Io<'_>, buf: &mut [u8], now: Nanos) -> Result<usize> {
        if self.line.canonical() {
            self.give_up = None;
            return self.line.read_line(buf).ok_or(Errno::EAGAIN);
        }
        let have = self.line.readable();
        let (min, time) = (self.line.cc(VMIN), self.line.cc(VTIME));
        // A small buffer is full before VMIN is reached.
        let want = self.line.raw_minimum().min(buf.len());
        let nonblock = io.flags.contains(OpenFlags::NONBLOCK);
        if have >= want || (nonblock && have > 0) {
            self.give_up = None;
            return Ok(self.line.read_raw(buf));
        }
        match (min, time) {
            (0, 0) => Ok(0),
            (0, tenths) if !nonblock => match self.give_up {
                Some(at) if at <= now => {
                    self.give_up = None;
                    Ok(0)
                }
                Some(_) => Err(Errno::EAGAIN),
                None => {
                    let wait = u64::from(tenths).saturating_mul(100_000_000);
                    self.give_up = Some(now.saturating_add(wait));
                    Err(Errno::EAGAIN)
                }
            },
            _ => Err(Errno::EAGAIN),
        }
    }
}

struct Sent<'a>(&'a dyn TtyDriver);

impl Output for Sent<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.0.put(bytes);
    }
}

impl Tty {
    /// A terminal that no session owns.
    pub fn new(
        name: &'static str,
        dev: DevId,
        driver: Arc<dyn TtyDriver>,
        host: Arc<dyn TtyHost>,
        timers: Arc<dyn Timers>,
    ) -> Arc<Tty> {
        let state = State {
            line: Line::new(),
            size: WinSize::default(),
            session: None,
            foreground: 0,
            hangups: 0,
            give_up: None,
            armed: None,
        };
        Arc::new(Tty {
            name,
            dev,
            driver,
            host,
            timers,
            state: Lock::new(rank::INODE, state),
            queue: Arc::new(Queue(WaitQueue::new())),
        })
    }

    /// Its name below /dev.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its number.
    pub fn dev(&self) -> DevId {
        self.dev
    }

    /// The session that owns it, and its foreground group
    /// (`/proc/<pid>/stat`).
    pub fn session(&self) -> Option<(u32, u32)> {
        let state = self.state.lock();
        state.session.map(|session| (session, state.foreground))
    }

    /// Takes bytes that were typed.
    pub fn input(&self, bytes: &[u8]) {
        for chunk in bytes.chunks(64) {
            let mut signals = Vec::new();
            let mut wake = false;
            let group = {
                let mut state = self.state.lock();
                let group = state.session.map(|_| state.foreground);
                for &byte in chunk {
                    let effects = state.line.receive(byte, &mut Sent(&*self.driver));
                    wake |= effects.wake;
                    signals.extend(effects.signal);
                }
                group
            };
            if let Some(group) = group.filter(|group| *group != 0) {
                for signal in signals {
                    self.host.signal_group(group, signal);
                }
            }
            if wake {
                self.queue.0.wake_all();
            }
        }
    }

    /// The line went dead, or `vhangup`: SIGHUP and SIGCONT to the session's
    /// leader and the foreground group; all open files are dead from now on.
    pub fn hang_up(&self) {
        let owner = {
            let mut state = self.state.lock();
            state.hangups = state.hangups.wrapping_add(1);
            state.line = Line::new();
            state.give_up = None;
            let owner = state.session.take().map(|session| (session, state.foreground));
            state.foreground = 0;
            owner
        };
        self.tell_hang_up(owner);
        self.queue.0.wake_all();
    }

    /// The leader of `session` has ended: the session loses the terminal.
    pub fn session_ended(&self, session: u32) {
        self.drop_session(session);
    }

    fn drop_session(&self, session: u32) -> bool {
        let owner = {
            let mut state = self.state.lock();
            if state.session != Some(session) {
                return false;
            }
            let foreground = state.foreground;
            state.session = None;
            state.foreground = 0;
            (session, foreground)
        };
        // The leader itself is ending or asked for it.
        self.signal_hang_up(owner.1);
        true
    }

    fn tell_hang_up(&self, owner: Option<(u32, u32)>) {
        if let Some((session, foreground)) = owner {
            // A session's leader leads the group of the same number.
            if session != foreground {
                self.signal_hang_up(session);
            }
            self.signal_hang_up(foreground);
        }
    }

    fn signal_hang_up(&self, group: u32) {
        if group != 0 {
            self.host.signal_group(group, SIGHUP);
            self.host.signal_group(group, SIGCONT);
        }
    }

    /// Makes it the controlling terminal of the caller's session, which must
    /// have none: `EPERM` if another session has it.
    fn take(&self, caller: &Caller, steal: bool) -> Result<()> {
        let mut state = self.state.lock();
        match state.session {
            Some(session) if session == caller.sid => Ok(()),
            Some(_) if !steal => Err(Errno::EPERM),
            _ => {
                state.session = Some(caller.sid);
                state.foreground = caller.pgid;
                Ok(())
            }
        }
    }

    /// Whether it is the caller's controlling terminal.
    fn is_callers(&self, caller: &Caller) -> bool {
        caller.sid != 0 && self.state.lock().session == Some(caller.sid)
    }

    /// Job control: lets the foreground pass; a background process gets
    /// `signal` (`ERESTART`), or `EIO` if that can't reach it.
    fn check_foreground(&self, caller: &Caller, signal: u32) -> Result<()> {
        {
            let state = self.state.lock();
            if state.session != Some(caller.sid)
                || state.foreground == caller.pgid
                || state.foreground == 0
            {
                return Ok(());
            }
        }
        let deaf = self.host.is_blocked_or_ignored(caller, signal);
        if deaf {
            // Writing is allowed then, reading isn't.
            return if signal == SIGTTOU { Ok(()) } else { Err(Errno::EIO) };
        }
        if self.host.is_orphaned(caller.pgid) {
            return Err(Errno::EIO);
        }
        self.host.signal_group(caller.pgid, signal);
        Err(Errno::ERESTART)
    }

    fn read(&self, io: &Io<'_>, buf: &mut [u8]) -> Result<usize> {
        self.check_foreground(io.caller, SIGTTIN)?;
        let now = self.timers.now(ClockId::Monotonic);
        let (result, deadline, stale) = {
            let mut state = self.state.lock();
            let before = state.give_up;
            let result = state.read(io, buf, now);
            let deadline = state.give_up.filter(|_| before.is_none());
            let over = state.give_up.is_none() || deadline.is_some();
            (result, deadline, if over { state.armed.take() } else { None })
        };
        if let Some(stale) = stale {
            self.timers.cancel(stale);
        }
        if let Some(deadline) = deadline {
            let armed = self.timers.arm(deadline, Waker::from(self.queue.clone()))?;
            let stale = {
                let mut state = self.state.lock();
                // The wait may have ended meanwhile.
                let waits = state.give_up == Some(deadline);
                if waits { state.armed.replace(armed) } else { Some(armed) }
            };
            if let Some(stale) = stale {
                self.timers.cancel(stale);
            }
        }
        result
    }

    fn write(&self, io: &Io<'_>, data: &[u8]) -> Result<usize> {
        let stops = self.state.lock().line.termios.c_lflag & TOSTOP != 0;
        if stops {
            self.check_foreground(io.caller, SIGTTOU)?;
        }
        let chunk = data.get(..WRITE_CHUNK).unwrap_or(data);
        let mut state = self.state.lock();
        if state.line.stopped {
            return Err(Errno::EAGAIN);
        }
        state.line.write(chunk, &mut Sent(&*self.driver));
        Ok(chunk.len())
    }

    fn poll(&self) -> Events {
        let state = self.state.lock();
        let mut events = Events::empty();
        events.set(Events::READ, state.line.input_ready());
        events.set(Events::WRITE, !state.line.stopped);
        events
    }

    fn set_modes(&self, caller: &Caller, termios: Termios2, flush: bool) -> Result<i64> {
        self.check_foreground(caller, SIGTTOU)?;
        {
            let mut state = self.state.lock();
            if flush {
                state.line.flush();
            }
            state.line.set(termios);
            state.give_up = None;
        }
        self.queue.0.wake_all();
        Ok(0)
    }

    fn ioctl(
        &self,
        ttys: &Ttys,
        caller: &Caller,
        cmd: u32,
        arg: u64,
        mem: &dyn UserMem,
    ) -> Result<i64> {
        match cmd {
            TCGETS | TCGETS2 => {
                let termios = self.state.lock().line.termios;
                let bytes = termios.as_bytes();
                let len = if cmd == TCGETS { TERMIOS_LEN } else { bytes.len() };
                mem.write(arg, bytes.get(..len).ok_or(Errno::EINVAL)?)?;
            }
            TCSETS | TCSETSW | TCSETSF | TCSETS2 | TCSETSW2 | TCSETSF2 => {
                let old = matches!(cmd, TCSETS | TCSETSW | TCSETSF);
                let mut termios = self.state.lock().line.termios;
                let bytes = termios.as_mut_bytes();
                let len = if old { TERMIOS_LEN } else { bytes.len() };
                mem.read(arg, bytes.get_mut(..len).ok_or(Errno::EINVAL)?)?;
                return self.set_modes(caller, termios, matches!(cmd, TCSETSF | TCSETSF2));
            }
            TIOCGWINSZ => {
                let size = self.state.lock().size;
                mem.write_obj(arg, &size)?;
            }
            TIOCSWINSZ => {
                let size: WinSize = mem.read_obj(arg)?;
                let group = {
                    let mut state = self.state.lock();
                    let changed = state.size != size;
                    state.size = size;
                    (changed && state.session.is_some()).then_some(state.foreground)
                };
                if let Some(group) = group.filter(|group| *group != 0) {
                    self.host.signal_group(group, SIGWINCH);
                }
            }
            FIONREAD => {
                let count = self.state.lock().line.readable() as u32;
                mem.write_obj(arg, &count)?;
            }
            // Output is never held back: the driver takes it all.
            TIOCOUTQ => mem.write_obj(arg, &0u32)?,
            TCFLSH => {
                self.check_foreground(caller, SIGTTOU)?;
                match arg {
                    0 | 2 => self.state.lock().line.flush(),
                    1 => {}
                    _ => return Err(Errno::EINVAL),
                }
            }
            TCSBRK | TCSBRKP | TIOCSBRK | TIOCCBRK => self.check_foreground(caller, SIGTTOU)?,
            TCXONC => {
                self.check_foreground(caller, SIGTTOU)?;
                match arg {
                    0 | 1 => {
                        self.state.lock().line.stopped = arg == 0;
                        self.queue.0.wake_all();
                    }
                    2 | 3 => {}
                    _ => return Err(Errno::EINVAL),
                }
            }
            TIOCSTI => {
                let byte: u8 = mem.read_obj(arg)?;
                self.input(&[byte]);
            }
            TIOCSCTTY => return self.set_controlling(ttys, caller, arg == 1),
            TIOCNOTTY => {
                if !self.is_callers(caller) {
                    return Err(Errno::ENOTTY);
                }
                if caller.pid == caller.sid {
                    self.drop_session(caller.sid);
                }
            }
            TIOCGPGRP | TIOCGSID => {
                let (session, group) = self
                    .session()
                    .filter(|(session, _)| *session == caller.sid)
                    .ok_or(Errno::ENOTTY)?;
                mem.write_obj(arg, &if cmd == TIOCGSID { session } else { group })?;
            }
            TIOCSPGRP => {
                if !self.is_callers(caller) {
                    return Err(Errno::ENOTTY);
                }
                self.check_foreground(caller, SIGTTOU)?;
                let group: i32 = mem.read_obj(arg)?;
                let group = u32::try_from(group).map_err(|_| Errno::EINVAL)?;
                let session = self.host.session_of_group(group).ok_or(Errno::ESRCH)?;
                if session != caller.sid {
                    return Err(Errno::EPERM);
                }
                self.state.lock().foreground = group;
                // Whoever waited in the background may read now.
                self.queue.0.wake_all();
            }
            TIOCVHANGUP => self.hang_up(),
            TIOCGETD => mem.write_obj(arg, &0u32)?,
            TIOCSETD => {
                let discipline: u32 = mem.read_obj(arg)?;
                if discipline != 0 {
                    return Err(Errno::EINVAL);
                }
            }
            TIOCEXCL | TIOCNXCL => {}
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }

    fn set_controlling(&self, ttys: &Ttys, caller: &Caller, steal: bool) -> Result<i64> {
        if self.is_callers(caller) && caller.pid == caller.sid {
            return Ok(0);
        }
        // Only a leader without a terminal gets one.
        if caller.pid != caller.sid || ttys.of_session(caller.sid).is_some() {
            return Err(Errno::EPERM);
        }
        self.take(caller, steal)?;
        Ok(0)
    }
}

/// All terminals.
pub struct Ttys {
    this: Weak<Ttys>,
    all: Lock<Vec<Arc<Tty>>>,
    console: Lock<Option<Arc<Tty>>>,
}

impl Ttys {
    /// None yet.
    pub fn new() -> Arc<Ttys> {
        Arc::new_cyclic(|this| Ttys {
            this: this.clone(),
            all: Lock::new(rank::NAMESPACE, Vec::new()),
            console: Lock::new(rank::NAMESPACE, None),
        })
    }

    /// Adds a terminal; `console`: it is what /dev/console opens.
    pub fn add(&self, tty: Arc<Tty>, console: bool) {
        if console {
            *self.console.lock() = Some(tty.clone());
        }
        self.all.lock().push(tty);
    }

    /// What /dev/console opens.
    pub fn console(&self) -> Option<Arc<Tty>> {
        self.console.lock().clone()
    }

    /// A session's controlling terminal.
    pub fn of_session(&self, session: u32) -> Option<Arc<Tty>> {
        let all: Vec<Arc<Tty>> = self.all.lock().clone();
        all.into_iter().find(|tty| tty.session().is_some_and(|(owner, _)| owner == session))
    }

    /// The leader of `session` has ended.
    pub fn session_ended(&self, session: u32) {
        if let Some(tty) = self.of_session(session) {
            tty.session_ended(session);
        }
    }

    /// Adds /dev/tty, /dev/console and all terminals to the devices.
    pub fn register(self: &Arc<Self>, devices: &DeviceRegistry) {
        let ttys = self.clone();
        devices.register(device::TTY, "tty", 0o666, move |request| {
            let tty = ttys.of_session(request.caller.sid).ok_or(Errno::ENXIO)?;
            Ok(ttys.open_file(tty, false))
        });
        let ttys = self.clone();
        devices.register(device::CONSOLE, "console", 0o600, move |_| {
            let tty = ttys.console().ok_or(Errno::ENODEV)?;
            Ok(ttys.open_file(tty, true))
        });
        let all: Vec<Arc<Tty>> = self.all.lock().clone();
        for tty in all {
            let (ttys, dev, name) = (self.clone(), tty.dev, tty.name);
            devices.register(dev, name, 0o600, move |request| Ok(ttys.open(&tty, request)));
        }
    }

    /// Opens a terminal by its own node: it becomes the controlling terminal
    /// of a session leader that has none, unless O_NOCTTY says otherwise.
    pub fn open(&self, tty: &Arc<Tty>, request: &OpenRequest<'_>) -> Arc<dyn File> {
        let caller = request.caller;
        let wanted = !request.flags.contains(OpenFlags::NOCTTY) && request.flags.readable();
        if wanted
            && caller.pid == caller.sid
            && caller.sid != 0
            && self.of_session(caller.sid).is_none()
        {
            // Another session's terminal is opened all the same.
            let _ = tty.take(caller, false);
        }
        self.open_file(tty.clone(), false)
    }

    fn open_file(&self, tty: Arc<Tty>, console: bool) -> Arc<dyn File> {
        let hangups = tty.state.lock().hangups;
        Arc::new(OpenTty { tty, ttys: self.this.clone(), hangups, console })
    }
}

/// An open terminal.
pub struct OpenTty {
    tty: Arc<Tty>,
    ttys: Weak<Ttys>,
    hangups: u32,
    /// /dev/console survives hang-ups.
    console: bool,
}

impl OpenTty {
    /// The terminal.
    pub fn tty(&self) -> &Arc<Tty> {
        &self.tty
    }

    fn is_dead(&self) -> bool {
        !self.console && self.tty.state.lock().hangups != self.hangups
    }
}

impl File for OpenTty {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn read(&self, io: &mut Io<'_>, buf: &mut [u8]) -> Result<usize> {
        if self.is_dead() {
            return Ok(0);
        }
        if buf.is_empty() {
            return Ok(0);
        }
        self.tty.read(io, buf)
    }
    fn write(&self, io: &mut Io<'_>, data: &[u8]) -> Result<usize> {
        if self.is_dead() {
            return Err(Errno::EIO);
        }
        self.tty.write(io, data)
    }
    fn poll(&self) -> Events {
        if self.is_dead() {
            return Events::READ | Events::WRITE | Events::ERR | Events::HUP;
        }
        self.tty.poll()
    }
    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.tty.queue.0)
    }
    fn ioctl(&self, caller: &Caller, cmd: u32, arg: u64, mem: &dyn UserMem) -> Result<i64> {
        if self.is_dead() {
            return Err(Errno::EIO);
        }
        let ttys = self.ttys.upgrade().ok_or(Errno::EIO)?;
        self.tty.ioctl(&ttys, caller, cmd, arg, mem)
    }
}

#[cfg(test)]
mod tests;
