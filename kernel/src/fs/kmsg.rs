//! The log as user space sees it: /dev/kmsg.

use crate::log;
use base::{Errno, Result};
use core::any::Any;
use vfs::{File, Io, Position};

/// /dev/kmsg: what is written goes to the log; reading gives the log as it is.
pub struct Kmsg;

impl File for Kmsg {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn write(&self, _io: &mut Io<'_>, data: &[u8]) -> Result<usize> {
        let text = data.strip_suffix(b"\n").unwrap_or(data);
        let text = match text {
            // A priority in front is cut off: all is level 6 here.
            [b'<', digit, b'>', rest @ ..] if digit.is_ascii_digit() => rest,
            [b'<', a, b, b'>', rest @ ..] if a.is_ascii_digit() && b.is_ascii_digit() => rest,
            text => text,
        };
        log::from_user(text);
        Ok(data.len())
    }

    fn read(&self, io: &mut Io<'_>, buf: &mut [u8]) -> Result<usize> {
        let log = log::tail(log::size());
        let rest = log.get(usize::try_from(io.offset).unwrap_or(usize::MAX)..).unwrap_or_default();
        if rest.is_empty() {
            return Err(Errno::EAGAIN);
        }
        let n = rest.len().min(buf.len());
        for (to, from) in buf.iter_mut().zip(rest) {
            *to = *from;
        }
        Ok(n)
    }

    fn position(&self) -> Position {
        Position::Loose
    }
}

