//! The kernel's log: a ring for `dmesg`, and the console.

use crate::{console, time};
use alloc::vec::Vec;
use base::{Lock, rank, Room};
use bootargs::BootArgs;
use core::fmt::Write;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use log::{Level, LevelFilter, Metadata, Record};

const RING: usize = 64 << 10;

/// The last [`RING`] bytes of the log; `total` bytes were ever written.
struct Ring {
    bytes: [u8; RING],
    total: u64,
}

// Taken while the console's lock (same rank) is not held.
static RING_LOCK: Lock<Ring> = Lock::new(rank::LOG, Ring { bytes: [0; RING], total: 0 });
/// Messages of a level below this go to the console (`loglevel=`).
static CONSOLE_LEVEL: AtomicU8 = AtomicU8::new(7);
static SHOWN: AtomicU64 = AtomicU64::new(0);

struct Logger;
static LOGGER: Logger = Logger;

/// Starts the log.
pub fn init() {
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(LevelFilter::Debug);
}

/// As the command line says.
pub fn set(arguments: &BootArgs) {
    if let Some(level) = arguments.loglevel {
        CONSOLE_LEVEL.store(level, Ordering::Relaxed);
    }
}

/// Linux's log level (syslog(2)) of a message.
fn linux_level(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

impl log::Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut line = Line { bytes: [0; 512], len: 0 };
        let now = time::now();
        let level = linux_level(record.level());
        let (seconds, micros) = (now / 1_000_000_000, now % 1_000_000_000 / 1000);
        let _ = write!(line, "<{level}>[{seconds:5}.{micros:06}] {}", record.args());
        line.end();
        emit(level, line.text());
    }

    fn flush(&self) {}
}

/// Puts a line (with its `<level>`) in the ring and on the console.
fn emit(level: u8, text: &[u8]) {
    RING_LOCK.lock().push(text);
    if level < CONSOLE_LEVEL.load(Ordering::Relaxed) {
        let shown = text.iter().position(|&byte| byte == b'>').map_or(0, |at| at.saturating_add(1));
        let text = text.get(shown..).unwrap_or(text);
        // A terminal wants a carriage return too.
        console::log(text.strip_suffix(b"\n").unwrap_or(text));
        console::log(b"\r\n");
        SHOWN.fetch_add(1, Ordering::Relaxed);
    }
}

/// Writes a line from user space (/dev/kmsg).
pub fn from_user(text: &[u8]) {
    log::info!("{}", text.escape_ascii());
}

/// Messages of a level below this reach the console.
pub fn console_level() -> u8 {
    CONSOLE_LEVEL.load(Ordering::Relaxed)
}

/// How many lines were shown on the console.
pub fn shown() -> u64 {
    SHOWN.load(Ordering::Relaxed)
}

/// Sets which levels reach the console (syslog(2), SYSLOG_ACTION_CONSOLE_LEVEL).
pub fn set_console_level(level: u8) {
    CONSOLE_LEVEL.store(level, Ordering::Relaxed);
}

/// The last `max` bytes of the log, whole lines, for syslog(2) and dmesg.
pub fn tail(max: usize) -> Vec<u8> {
    // Not under the lock: the heap's comes before it.
    let mut out = Vec::new();
    if out.make_room(max.min(RING)).is_ok() {
        RING_LOCK.lock().tail(max.min(RING), &mut out);
    }
    out
}

/// How large the ring is.
pub const fn size() -> usize {
    RING
}

impl Ring {
    fn push(&mut self, text: &[u8]) {
        for &byte in text {
            let at = self.total.checked_rem(RING as u64).unwrap_or(0) as usize;
            if let Some(slot) = self.bytes.get_mut(at) {
                *slot = byte;
            }
            self.total = self.total.wrapping_add(1);
        }
    }

    /// The last `max` bytes, into what has room for them.
    fn tail(&self, max: usize, out: &mut Vec<u8>) {
        let have = self.total.min(RING as u64).min(max as u64);
        let start = self.total.wrapping_sub(have);
        for i in start..self.total {
            out.extend(self.bytes.get(i.checked_rem(RING as u64).unwrap_or(0) as usize));
        }
        if start > 0 {
            // Begin with a whole line.
            let cut = out.iter().position(|&byte| byte == b'\n').map_or(0, |at| at.saturating_add(1));
            out.drain(..cut);
        }
    }
}

/// One message; what is too long is cut.
struct Line {
    bytes: [u8; 512],
    len: usize,
}

impl Line {
    fn end(&mut self) {
        let _ = self.write_str("\n");
        if let Some(last) = self.bytes.get_mut(self.len.saturating_sub(1)) {
            *last = b'\n';
        }
    }

    fn text(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let room = self.bytes.len().saturating_sub(self.len);
        let take = text.len().min(room);
        let end = self.len.saturating_add(take);
        if let (Some(to), Some(from)) = (self.bytes.get_mut(self.len..end), text.as_bytes().get(..take)) {
            to.copy_from_slice(from);
            self.len = end;
        }
        Ok(())
    }
}
