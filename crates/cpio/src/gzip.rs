//! One gzip member (RFC 1952), inflated piece by piece.

use crate::Error;
use crate::inflate::inflate;
use crc32fast::Hasher;

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
    let rest = header(input)?;
    let mut crc = Hasher::new();
    let mut size = 0u32;
    let used = inflate(rest, &mut |piece| {
        crc.update(piece);
        size = size.wrapping_add(piece.len() as u32);
        out(piece)
    })?;
    let rest = rest.get(used..).ok_or(Error::Truncated)?;
    let (trailer, rest) = rest.split_at_checked(8).ok_or(Error::Truncated)?;
    let (want_crc, want_size) = match *trailer {
        [a, b, c, d, e, f, g, h] => {
            (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
        }
        _ => return Err(Error::Truncated),
    };
    if crc.finalize() != want_crc || size != want_size {
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
