//! Reads an initramfs: newc archives one after another, each plain or gzip,
//! with zero bytes between them (the format that Linux's
//! Documentation/driver-api/early-userspace/buffer-format.rst describes).
//!
//! [`unpack`] streams: gzip is inflated piece by piece into the archive
//! reader, which hands file contents to a [`Sink`] as they come. Nothing is
//! held but a window of 128 KiB, one header and one name. No locks are taken here.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, clippy::unwrap_used))]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod gzip;
mod inflate;
mod newc;

use base::Errno;
use core::fmt;
pub use newc::{Entry, Reader};

/// Where an archive's contents go. Names have no leading slash taken off and
/// may hold `..`: the sink decides what they mean.
pub trait Sink {
    /// A directory; it may exist already.
    fn directory(&mut self, entry: &Entry<'_>) -> Result<(), Errno>;
    /// A regular file begins: an existing one of this name is emptied.
    fn file(&mut self, entry: &Entry<'_>) -> Result<(), Errno>;
    /// The next bytes of the file begun last.
    fn data(&mut self, bytes: &[u8]) -> Result<(), Errno>;
    /// The file begun last is complete.
    fn file_end(&mut self) -> Result<(), Errno>;
    /// A symbolic link to `target`.
    fn symlink(&mut self, entry: &Entry<'_>, target: &[u8]) -> Result<(), Errno>;
    /// A device node, FIFO or socket.
    fn node(&mut self, entry: &Entry<'_>) -> Result<(), Errno>;
    /// Another name of the file that came as `first`. If the archive has its
    /// contents here, [`Sink::file`] for the same entry follows.
    fn hard_link(&mut self, entry: &Entry<'_>, first: &[u8]) -> Result<(), Errno>;
}

/// Why an archive could not be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Neither a newc header nor gzip at this offset of the input.
    Format {
        /// Bytes before it.
        at: usize,
    },
    /// A compression that isn't built in (`xz`, `zstd`, …).
    Compression(&'static str),
    /// A header field isn't hexadecimal, or a name is too long or empty.
    Header,
    /// The input ends within an archive.
    Truncated,
    /// The gzip stream is damaged.
    Inflate,
    /// A checksum doesn't match.
    Checksum,
    /// The sink refused an entry.
    Sink(Errno),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Format { at } => write!(f, "neither a newc cpio nor gzip at byte {at}"),
            Error::Compression(name) => {
                write!(f, "{name} compression is not supported, use gzip or none")
            }
            Error::Header => f.write_str("a cpio header is malformed"),
            Error::Truncated => f.write_str("the archive is truncated"),
            Error::Inflate => f.write_str("the gzip data is damaged"),
            Error::Checksum => f.write_str("a checksum does not match"),
            Error::Sink(errno) => write!(f, "cannot create an entry: {errno}"),
        }
    }
}

impl core::error::Error for Error {}

/// Unpacks all archives in `input` into `sink`. Returns how many entries there
/// were. What came before an error stays unpacked.
pub fn unpack(input: &[u8], sink: &mut dyn Sink) -> Result<usize, Error> {
    let mut reader = Reader::new();
    let mut rest = input;
    loop {
        // Padding between archives, and after the last.
        let zeros = rest.iter().position(|&byte| byte != 0).unwrap_or(rest.len());
        rest = rest.get(zeros..).unwrap_or_default();
        let at = input.len().saturating_sub(rest.len());
        match rest {
            [] => return Ok(reader.entries()),
            [0x1f, 0x8b, ..] => {
                let member = gzip::member(rest, &mut |bytes| feed_all(&mut reader, bytes, sink))?;
                rest = rest.get(member..).unwrap_or_default();
                if !reader.between_archives() {
                    return Err(Error::Truncated);
                }
            }
            [b'0', b'7', b'0', b'7', b'0', b'1' | b'2', ..] => {
                while !rest.is_empty() {
                    let used = reader.feed(rest, sink)?;
                    rest = rest.get(used..).unwrap_or_default();
                    if reader.between_archives() {
                        break;
                    }
                }
                if !reader.between_archives() {
                    return Err(Error::Truncated);
                }
            }
            _ => {
                return Err(
                    known_compression(rest).map_or(Error::Format { at }, Error::Compression)
                );
            }
        }
    }
}

/// Feeds bytes that may hold several archives with padding between them.
fn feed_all(reader: &mut Reader, mut bytes: &[u8], sink: &mut dyn Sink) -> Result<(), Error> {
    while !bytes.is_empty() {
        if reader.between_archives() {
            let zeros = bytes.iter().position(|&byte| byte != 0).unwrap_or(bytes.len());
            bytes = bytes.get(zeros..).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
        }
        let used = reader.feed(bytes, sink)?;
        bytes = bytes.get(used..).unwrap_or_default();
    }
    Ok(())
}

fn known_compression(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Some("xz"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("zstd"),
        [b'B', b'Z', b'h', ..] => Some("bzip2"),
        [0x02, 0x21, 0x4c, 0x18, ..] | [0x04, 0x22, 0x4d, 0x18, ..] => Some("lz4"),
        [0x89, b'L', b'Z', b'O', ..] => Some("lzo"),
        [0x5d, 0, 0, ..] => Some("lzma"),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
