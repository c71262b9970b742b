//! Deflate (RFC 1951), by `miniz_oxide`, in bounded memory.

use crate::Error;
use alloc::boxed::Box;
use base::room;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

/// Output is handed on when this is full: a power of two, and more than the
/// 32 KiB that deflate looks back.
const WINDOW: usize = 128 << 10;

/// Inflates the stream at the start of `input`, handing its contents to `out`
/// in pieces. Returns the stream's length.
pub fn inflate(
    input: &[u8],
    out: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<usize, Error> {
    let mut window = room::try_zeros(WINDOW).map_err(Error::Sink)?;
    // 11 KiB, where the ready-made stream of this crate has 43 KiB: a kernel
    // stack may see it before the heap does.
    let mut state: Box<DecompressorOxide> = Box::default();
    let mut used = 0usize;
    let mut at = 0usize;
    loop {
        let rest = input.get(used..).unwrap_or_default();
        let (status, read, written) = decompress(&mut state, rest, &mut window, at, 0);
        used = used.saturating_add(read);
        let end = at.saturating_add(written);
        out(window.get(at..end).unwrap_or_default())?;
        match status {
            TINFLStatus::Done => return Ok(used),
            TINFLStatus::HasMoreOutput if written > 0 => at = end % WINDOW,
            TINFLStatus::NeedsMoreInput | TINFLStatus::FailedCannotMakeProgress => {
                return Err(Error::Truncated);
            }
            _ => return Err(Error::Inflate),
        }
    }
}
