//! One gzip member (RFC 1952), inflated through a window of 32 KiB.

use crate::Error;
use crate::crc::Crc32;
use alloc::boxed::Box;
use alloc::vec;
use base::Errno;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

/// Deflate's distances reach back 32 KiB at most; the inflater wants a power
/// of two at least that big.
const WINDOW: usize = 32 * 1024;

const FHCRC: u8 = 2;
const FEXTRA: u8 = 4;
const FNAME: u8 = 8;
const FCOMMENT: u8 = 16;

/// Inflates the member at the start of `input`, handing its contents to `out`
/// in pieces. Returns the member's length.
pub fn member(
    input: &[u8],
    out: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<usize, Error> {
    let mut rest = header(input)?;
    let mut inflater = Box::<DecompressorOxide>::default();
    let mut window = vec::Vec::new();
    window.try_reserve_exact(WINDOW).map_err(|_| Error::Sink(Errno::ENOMEM))?;
    window.resize(WINDOW, 0u8);
    let mut at = 0usize;
    let mut crc = Crc32::new();
    let mut size = 0u32;
    loop {
        // No flag for more input: all of it is there, so running dry is an error.
        let (status, used, made) = decompress(&mut inflater, rest, &mut window, at, 0);
        rest = rest.get(used..).ok_or(Error::Inflate)?;
        let piece = window.get(at..at.saturating_add(made)).ok_or(Error::Inflate)?;
        crc.update(piece);
        size = size.wrapping_add(made as u32);
        out(piece)?;
        at = at.wrapping_add(made) % WINDOW;
        match status {
            TINFLStatus::Done => break,
            TINFLStatus::HasMoreOutput => {}
            TINFLStatus::NeedsMoreInput | TINFLStatus::FailedCannotMakeProgress => {
                return Err(Error::Truncated);
            }
            _ => return Err(Error::Inflate),
        }
    }
    let (trailer, rest) = rest.split_at_checked(8).ok_or(Error::Truncated)?;
    let (want_crc, want_size) = match *trailer {
        [a, b, c, d, e, f, g, h] => {
            (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
        }
        _ => return Err(Error::Truncated),
    };
    if crc.value() != want_crc || size != want_size {
        return Err(Error::Checksum);
    }
    Ok(input.len().saturating_sub(rest.len()))
}

/// Skips the member's header; what follows is the deflate stream.
fn header(input: &[u8]) -> Result<&[u8], Error> {
    let (fixed, mut rest) = input.split_at_checked(10).ok_or(Error::Truncated)?;
    let flags = match *fixed {
        [0x1f, 0x8b, 8, flags, ..] => flags,
        _ => return Err(Error::Inflate),
    };
    if flags & FEXTRA != 0 {
        let (length, after) = rest.split_first_chunk::<2>().ok_or(Error::Truncated)?;
        rest = after.get(usize::from(u16::from_le_bytes(*length))..).ok_or(Error::Truncated)?;
    }
    for flag in [FNAME, FCOMMENT] {
        if flags & flag != 0 {
            let nul = rest.iter().position(|&byte| byte == 0).ok_or(Error::Truncated)?;
            rest = rest.get(nul.saturating_add(1)..).ok_or(Error::Truncated)?;
        }
    }
    if flags & FHCRC != 0 {
        rest = rest.get(2..).ok_or(Error::Truncated)?;
    }
    Ok(rest)
}
