//! Notices an initrd that was cut short before a guest panics over it.
//!
//! An initrd is a row of newc cpio archives (Documentation/driver-api/early-userspace/buffer-format.rst), each
//! plain or compressed. Plain and gzip ones are walked to their end; what else it may be is the guest's business.

use std::io::{self, Read};

use flate2::bufread::GzDecoder;

use crate::error::{Error, Result};

/// A newc header: the magic and 13 fields of 8 hexadecimal digits.
const HEADER_LEN: usize = 110;

/// The name that ends an archive.
const TRAILER: &[u8] = b"TRAILER!!!\0";

/// Checks the whole file `file`.
pub fn check(file: &[u8]) -> Result<()> {
    if file.is_empty() {
        return Err(Error::new("the initrd is empty").cure("leave --initrd away, or make it again"));
    }
    let mut rest = file;
    loop {
        let padding = rest.iter().take_while(|b| **b == 0).count();
        rest = rest.get(padding..).unwrap_or(&[]);
        if rest.is_empty() {
            return Ok(());
        }
        let outcome = if is_newc(rest) {
            walk(&mut rest)
        } else if rest.starts_with(&[0x1f, 0x8b]) {
            gunzip(&mut rest)
        } else {
            return Ok(());
        };
        outcome.map_err(|e| {
            Error::new(format!("the initrd is truncated or damaged: {e}"))
                .cure("copy or make the initrd again")
        })?;
    }
}

fn is_newc(bytes: &[u8]) -> bool {
    bytes.starts_with(b"070701") || bytes.starts_with(b"070702")
}

/// Decompresses one gzip member, whose end carries a checksum and the length.
fn gunzip(rest: &mut &[u8]) -> io::Result<()> {
    let mut decoder = GzDecoder::new(&mut *rest);
    io::copy(&mut decoder, &mut io::sink())?;
    Ok(())
}

/// Walks one plain archive past its trailer.
fn walk(rest: &mut &[u8]) -> io::Result<()> {
    let cut = || io::Error::other("the cpio archive ends within an entry");
    loop {
        let bytes: &[u8] = rest;
        let header = bytes.get(..HEADER_LEN).ok_or_else(cut)?;
        if !is_newc(header) {
            return Err(io::Error::other("a cpio header is missing where one should be"));
        }
        let (Some(file_size), Some(name_size)) = (hex(header, 54), hex(header, 94)) else {
            return Err(io::Error::other("a cpio header has a field that is not a number"));
        };
        let entry_end = || {
            let name_end = HEADER_LEN.checked_add(name_size)?;
            let data = name_end.checked_next_multiple_of(4)?;
            let end = data.checked_add(file_size)?;
            Some((name_end, end, end.checked_next_multiple_of(4)?))
        };
        let (name_end, end, next) = entry_end().ok_or_else(cut)?;
        let name = bytes.get(HEADER_LEN..name_end).ok_or_else(cut)?;
        if end > bytes.len() {
            return Err(cut());
        }
        // The padding of the very last entry may be missing.
        *rest = bytes.get(next..).unwrap_or(&[]);
        if name == TRAILER {
            return Ok(());
        }
    }
}

fn hex(header: &[u8], at: usize) -> Option<usize> {
    let digits = header.get(at..)?.first_chunk::<8>()?;
    usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Decompresses a gzip kernel, as far as `limit` bytes.
pub fn decompress(file: &[u8], limit: u64) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    // One byte more than allowed tells whether there was more.
    let mut decoder = GzDecoder::new(file).take(limit.saturating_add(1));
    decoder.read_to_end(&mut out).map_err(|e| {
        Error::new(format!("the kernel is a damaged or truncated gzip file: {e}"))
            .cure("copy or download the kernel again")
    })?;
    if u64::try_from(out.len()).unwrap_or(u64::MAX) > limit {
        return Err(Error::new("the kernel, decompressed, does not fit in the guest's RAM")
            .cure("give a larger --mem, or check the file"));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn entry(name: &str, data: &[u8]) -> Vec<u8> {
        let mut v = format!("070701{:08x}{:08x}", 1, 0o100_644).into_bytes();
        v.extend(format!("{:08x}", 0).repeat(4).bytes());
        v.extend(format!("{:08x}", data.len()).bytes());
        v.extend(format!("{:08x}", 0).repeat(4).bytes());
        v.extend(format!("{:08x}{:08x}", name.len() + 1, 0).bytes());
        assert_eq!(v.len(), HEADER_LEN);
        v.extend(name.bytes().chain([0]));
        v.resize(v.len().next_multiple_of(4), 0);
        v.extend(data);
        v.resize(v.len().next_multiple_of(4), 0);
        v
    }

    fn archive() -> Vec<u8> {
        let mut v = entry("init", b"#!/bin/sh\n");
        v.extend(entry("etc/motd", b"hello"));
        v.extend(entry("TRAILER!!!", b""));
        v
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        e.write_all(bytes).unwrap();
        e.finish().unwrap()
    }

    #[test]
    fn whole_ones_pass() {
        let mut both = archive();
        both.resize(both.len().next_multiple_of(512), 0);
        both.extend(gzip(&archive()));
        both.extend([0; 100]);
        for file in [archive(), gzip(&archive()), both, b"any other thing".to_vec()] {
            check(&file).unwrap();
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        for file in [archive(), gzip(&archive())] {
            for len in 0..file.len() {
                // Less than a magic number is anything; the padding behind the trailer may go.
                let allowed = (1..6).contains(&len) || len + 4 > file.len() && file[0] == b'0';
                assert!(check(&file[..len]).is_err() || allowed, "cut at {len}");
            }
        }
    }

    #[test]
    fn kernels_are_decompressed_within_a_limit() {
        let file = gzip(&[7; 1000]);
        assert_eq!(decompress(&file, 1000).unwrap(), [7; 1000]);
        assert!(decompress(&file, 999).is_err());
        assert!(decompress(&file[..file.len() - 1], 1000).is_err());
    }

    proptest::proptest! {
        #[test]
        fn never_panics(at in 0usize..400, bytes in proptest::collection::vec(0u8.., 0..40)) {
            let mut file = archive();
            for (i, b) in bytes.iter().enumerate() {
                if let Some(slot) = file.get_mut(at + i) {
                    *slot = *b;
                }
            }
            let _ = check(&file);
        }
    }
}
