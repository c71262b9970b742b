//! The log as user space sees it: /dev/kmsg (Linux's
//! Documentation/ABI/testing/dev-kmsg).

use crate::log;
use alloc::vec::Vec;
use base::{Errno, Result, WaitQueue, room};
use core::any::Any;
use core::fmt::Write;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use vfs::abi::{SEEK_DATA, SEEK_END, SEEK_SET};
use vfs::{Events, File, Io, Position};

/// An open /dev/kmsg: each read gives one record, each write makes one.
pub struct Kmsg {
    /// The record to be read next.
    next: AtomicU64,
}

/// LOG_USER: what user space writes is never the kernel's (facility 0).
const USER: u8 = 1;
/// KERN_WARNING, what messages without a level have.
const DEFAULT_LEVEL: u8 = 4;

impl Kmsg {
    /// From the oldest record on.
    pub fn new() -> Kmsg {
        Kmsg { next: AtomicU64::new(log::numbers().0) }
    }
}

impl File for Kmsg {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn write(&self, _io: &mut Io<'_>, data: &[u8]) -> Result<usize> {
        if data.len() > log::TEXT_MAX {
            return Err(Errno::EINVAL);
        }
        let (priority, text) = split_priority(data);
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        log::from_user(priority, text);
        Ok(data.len())
    }

    fn read(&self, _io: &mut Io<'_>, buf: &mut [u8]) -> Result<usize> {
        loop {
            let number = self.next.load(Relaxed);
            let record = match log::record(number) {
                Err(Errno::EPIPE) => {
                    self.next.store(log::numbers().0, Relaxed);
                    return Err(Errno::EPIPE);
                }
                record => format(number, &record?)?,
            };
            let to = buf.get_mut(..record.len()).ok_or(Errno::EINVAL)?;
            let following = number.wrapping_add(1);
            // Another reader may have been given it meanwhile.
            if self.next.compare_exchange(number, following, Relaxed, Relaxed).is_ok() {
                to.copy_from_slice(&record);
                return Ok(record.len());
            }
        }
    }

    fn poll(&self) -> Events {
        match self.next.load(Relaxed) < log::numbers().1 {
            true => Events::READ,
            false => Events::empty(),
        }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(log::readers())
    }

    fn position(&self) -> Position {
        Position::Stream
    }

    fn seek(&self, offset: i64, whence: u32) -> Result<u64> {
        if offset != 0 {
            return Err(Errno::ESPIPE);
        }
        let next = match whence {
            SEEK_SET => log::numbers().0,
            SEEK_DATA => log::cleared(),
            SEEK_END => log::numbers().1,
            _ => return Err(Errno::EINVAL),
        };
        self.next.store(next, Relaxed);
        Ok(0)
    }
}

/// The `<N>` that may stand before a text: facility and level.
fn split_priority(data: &[u8]) -> (u8, &[u8]) {
    let none = (USER << 3 | DEFAULT_LEVEL, data);
    let Some(rest) = data.strip_prefix(b"<") else { return none };
    let Some((digits, text)) = rest.iter().position(|&byte| byte == b'>').and_then(|at| {
        let (digits, text) = rest.split_at_checked(at)?;
        Some((digits, text.get(1..)?))
    }) else {
        return none;
    };
    let number = core::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u8>().ok());
    match number {
        Some(number) if number >> 3 == 0 => (USER << 3 | number, text),
        Some(number) => (number, text),
        None => none,
    }
}

/// `priority,number,microseconds,flag;text`, from `<priority>[seconds] text`.
fn format(number: u64, record: &[u8]) -> Result<Vec<u8>> {
    let parts = || {
        let record = record.strip_prefix(b"<")?;
        let (priority, rest) = split(record, b'>')?;
        let (seconds, rest) = split(rest.strip_prefix(b"[")?, b'.')?;
        let (micros, text) = split(rest, b']')?;
        Some((priority, seconds.trim_ascii_start(), micros, text.strip_prefix(b" ")?))
    };
    let (priority, seconds, micros, text) = parts().ok_or(Errno::EIO)?;
    let mut out = room::Text::new();
    out.push(priority)?;
    out.print(format_args!(",{number},"))?;
    // Without leading zeros: it is a number.
    let zeros = seconds.iter().chain(micros).take_while(|&&digit| digit == b'0').count();
    let digits = seconds.len().saturating_add(micros.len());
    let skipped = zeros.min(digits.saturating_sub(1));
    for digit in seconds.iter().chain(micros).skip(skipped) {
        out.push(&[*digit])?;
    }
    out.push(b",-;")?;
    for &byte in text.strip_suffix(b"\n").unwrap_or(text) {
        match byte {
            b'\\' | ..b' ' | 127.. => write!(out, "\\x{byte:02x}").map_err(|_| Errno::ENOMEM)?,
            byte => out.push(&[byte])?,
        }
    }
    out.push(b"\n")?;
    Ok(out.into_bytes())
}

/// What is before and after the first `at`.
fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let index = text.iter().position(|&byte| byte == at)?;
    let (before, after) = text.split_at_checked(index)?;
    Some((before, after.get(1..)?))
}
