//! The kernel's log: a ring for `dmesg`, and the console.

use crate::{console, time};
use alloc::vec::Vec;
use base::{Errno, Lock, Nanos, Result, WaitQueue, rank, room};
use bootargs::BootArgs;
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use log::{Level, LevelFilter, Metadata, Record};

const RING: usize = 64 << 10;
/// How many records the ring knows the places of.
const RECORDS: usize = 4096;
/// The longest text from user space (Linux's PRINTKRB_RECORD_MAX).
pub const TEXT_MAX: usize = 1024;
/// The longest record: `<level>[time] text` and a newline.
pub const RECORD_MAX: usize = TEXT_MAX + 64;
/// What of a record the console shows at most, in bytes.
const SHOWN_MAX: usize = 512;

/// The last [`RING`] bytes of the log, in records; `total` bytes were ever
/// written.
struct Ring {
    bytes: [u8; RING],
    total: u64,
    /// Where the records from `first` to `next` start, each at its number's
    /// place.
    starts: [u64; RECORDS],
    first: u64,
    next: u64,
    /// syslog(2): the first record that was not cleared, and the first byte that
    /// was not read.
    cleared: u64,
    unread: u64,
}

// Taken while the console's lock (same rank) is not held.
static RING_LOCK: Lock<Ring> = Lock::new(
    rank::LOG,
    Ring { bytes: [0; RING], total: 0, starts: [0; RECORDS], first: 0, next: 0, cleared: 0, unread: 0 },
);
/// Who waits for records. The log may be written with any lock held, so that
/// its readers are told by [`tell`].
static READERS: WaitQueue = WaitQueue::new();
static NEWS: AtomicBool = AtomicBool::new(false);
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
        let mut line = Line::<512>::new();
        let level = linux_level(record.level());
        line.head(level, time::now());
        let _ = write!(line, "{}", record.args());
        line.end();
        emit(level, line.text());
    }

    fn flush(&self) {}
}

/// Puts a record (with its `<level>`) in the ring and on the console.
fn emit(level: u8, text: &[u8]) {
    RING_LOCK.lock().push(text);
    NEWS.store(true, Ordering::Release);
    if level < CONSOLE_LEVEL.load(Ordering::Relaxed) {
        let shown = text.iter().position(|&byte| byte == b'>').map_or(0, |at| at.saturating_add(1));
        let text = text.get(shown..).unwrap_or(text);
        // A terminal wants a carriage return too, and nothing from user space
        // that it would obey. The port is slow, and interrupts are masked.
        let mut line = Line::<SHOWN_MAX>::new();
        for &byte in text.strip_suffix(b"\n").unwrap_or(text) {
            if byte.is_ascii_control() && !matches!(byte, b'\t' | b'\n') {
                let _ = write!(line, "\\x{byte:02x}");
            } else {
                line.push(&[byte]);
            }
        }
        console::log(line.text());
        console::log(b"\r\n");
        SHOWN.fetch_add(1, Ordering::Relaxed);
    }
}

/// Writes a record from user space (/dev/kmsg); `priority`: facility and level.
pub fn from_user(priority: u8, text: &[u8]) {
    let mut line = Line::<RECORD_MAX>::new();
    line.head(priority, time::now());
    line.push(text);
    line.end();
    emit(priority & 7, line.text());
}

/// Wakes who waits for records, if there are new ones. No lock may be held.
#[inline]
pub fn tell() {
    if NEWS.load(Ordering::Relaxed) && NEWS.swap(false, Ordering::Acquire) {
        READERS.wake_all();
    }
}

/// Who waits for records.
pub fn readers() -> &'static WaitQueue {
    &READERS
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

/// The last records of at most `max` bytes that were not cleared, for syslog(2).
pub fn tail(max: usize) -> Result<Vec<u8>> {
    // Not under the lock: the heap's comes before it.
    let mut out = room::try_vec(max.min(RING))?;
    let ring = RING_LOCK.lock();
    let mut from = ring.next;
    for number in (ring.first.max(ring.cleared)..ring.next).rev() {
        if ring.total.saturating_sub(ring.start(number)) > max as u64 {
            break;
        }
        from = number;
    }
    ring.copy(ring.start(from), ring.total, &mut out);
    Ok(out)
}

/// What [`tail`] shows begins after what there is now.
pub fn clear() {
    let mut ring = RING_LOCK.lock();
    ring.cleared = ring.next;
}

/// The number of the first record that was not cleared.
pub fn cleared() -> u64 {
    RING_LOCK.lock().cleared
}

/// How many bytes [`take`] has not given.
pub fn unread() -> u64 {
    let ring = RING_LOCK.lock();
    ring.total.saturating_sub(ring.unread.max(ring.start(ring.first)))
}

/// The next `max` bytes that nobody took; `EAGAIN` if there are none.
pub fn take(max: usize) -> Result<Vec<u8>> {
    let mut out = room::try_vec(max.min(RING))?;
    let mut ring = RING_LOCK.lock();
    let from = ring.unread.max(ring.start(ring.first));
    let to = ring.total.min(from.saturating_add(max as u64));
    if from == to {
        return Err(Errno::EAGAIN);
    }
    ring.copy(from, to, &mut out);
    ring.unread = to;
    Ok(out)
}

/// The numbers of the oldest record and of the one that comes next.
pub fn numbers() -> (u64, u64) {
    let ring = RING_LOCK.lock();
    (ring.first, ring.next)
}

/// The record `number`: `EAGAIN` if it is yet to come, `EPIPE` if it is gone.
pub fn record(number: u64) -> Result<Vec<u8>> {
    let mut out = room::try_vec(RECORD_MAX)?;
    let ring = RING_LOCK.lock();
    if number >= ring.next {
        return Err(Errno::EAGAIN);
    }
    if number < ring.first {
        return Err(Errno::EPIPE);
    }
    ring.copy(ring.start(number), ring.start(number.wrapping_add(1)), &mut out);
    Ok(out)
}

/// How large the ring is.
pub const fn size() -> usize {
    RING
}

impl Ring {
    /// Where a record starts; the next one: at the end.
    fn start(&self, number: u64) -> u64 {
        match number < self.next {
            true => self.starts.get(number as usize % RECORDS).copied().unwrap_or(self.total),
            false => self.total,
        }
    }

    fn push(&mut self, text: &[u8]) {
        if let Some(start) = self.starts.get_mut(self.next as usize % RECORDS) {
            *start = self.total;
        }
        self.next = self.next.wrapping_add(1);
        for &byte in text {
            if let Some(slot) = self.bytes.get_mut(self.total as usize % RING) {
                *slot = byte;
            }
            self.total = self.total.wrapping_add(1);
        }
        let gone = |ring: &Ring| {
            ring.next.wrapping_sub(ring.first) > RECORDS as u64
                || ring.total.wrapping_sub(ring.start(ring.first)) > RING as u64
        };
        while self.first < self.next && gone(self) {
            self.first = self.first.wrapping_add(1);
        }
    }

    /// Bytes `from..to` of what is there, into what has room for them.
    fn copy(&self, from: u64, to: u64, out: &mut Vec<u8>) {
        for at in from..to {
            if out.len() == out.capacity() {
                break;
            }
            out.extend(self.bytes.get(at as usize % RING));
        }
    }
}

/// One record; what is too long is cut.
struct Line<const SIZE: usize> {
    bytes: [u8; SIZE],
    len: usize,
}

impl<const SIZE: usize> Line<SIZE> {
    const fn new() -> Self {
        Line { bytes: [0; SIZE], len: 0 }
    }

    fn head(&mut self, priority: u8, now: Nanos) {
        let (seconds, micros) = (now / 1_000_000_000, now % 1_000_000_000 / 1000);
        let _ = write!(self, "<{priority}>[{seconds:5}.{micros:06}] ");
    }

    fn push(&mut self, text: &[u8]) {
        let room = self.bytes.len().saturating_sub(self.len);
        let take = text.len().min(room);
        let end = self.len.saturating_add(take);
        if let (Some(to), Some(from)) = (self.bytes.get_mut(self.len..end), text.get(..take)) {
            to.copy_from_slice(from);
            self.len = end;
        }
    }

    fn end(&mut self) {
        self.push(b"\n");
        if let Some(last) = self.bytes.get_mut(self.len.saturating_sub(1)) {
            *last = b'\n';
        }
    }

    fn text(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl<const SIZE: usize> Write for Line<SIZE> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}
