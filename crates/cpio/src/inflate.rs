//! Deflate (RFC 1951), made for speed at boot: an initramfs is the largest
//! thing that happens before the first program.
//!
//! Codes are looked up in one table of 11 bits (literals and lengths) or 8
//! (distances), longer ones in a second table behind it. Output goes to a flat
//! buffer, which slides when it is full: the last 32 KiB are all that matches
//! can reach.

use crate::Error;
use alloc::vec;
use alloc::vec::Vec;
use base::Errno;

/// How far back matches reach.
const WINDOW: usize = 32 * 1024;
const BUFFER: usize = 4 * WINDOW;
/// The longest match, and what copying by eights may write past it.
const ROOM: usize = 258 + 16;

const LITERALS: usize = 288;
const DISTANCES: usize = 32;
const MAX_BITS: usize = 15;
const LITERAL_BITS: u32 = 11;
const DISTANCE_BITS: u32 = 8;
const LENGTH_BITS: u32 = 7;

// An entry of a table: bits 0 to 7 say how long the code is, 8 to 12 how many
// bits follow it (or a second table's width), 16 to 30 hold the value. 0 is no
// code at all.
const LITERAL: u32 = 1 << 31;
const SECOND: u32 = 1 << 15;
const END: u32 = 1 << 14;

const fn entry(value: u32, extra: u32) -> u32 {
    value << 16 | extra << 8
}

/// Lengths 3 to 258, symbols 257 to 285 (section 3.2.5).
const LENGTHS: [(u16, u8); 29] = [
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (11, 1),
    (13, 1),
    (15, 1),
    (17, 1),
    (19, 2),
    (23, 2),
    (27, 2),
    (31, 2),
    (35, 3),
    (43, 3),
    (51, 3),
    (59, 3),
    (67, 4),
    (83, 4),
    (99, 4),
    (115, 4),
    (131, 5),
    (163, 5),
    (195, 5),
    (227, 5),
    (258, 0),
];

/// Distances 1 to 32768, symbols 0 to 29.
const DISTANCE_BASES: [(u16, u8); 30] = [
    (1, 0),
    (2, 0),
    (3, 0),
    (4, 0),
    (5, 1),
    (7, 1),
    (9, 2),
    (13, 2),
    (17, 3),
    (25, 3),
    (33, 4),
    (49, 4),
    (65, 5),
    (97, 5),
    (129, 6),
    (193, 6),
    (257, 7),
    (385, 7),
    (513, 8),
    (769, 8),
    (1025, 9),
    (1537, 9),
    (2049, 10),
    (3073, 10),
    (4097, 11),
    (6145, 11),
    (8193, 12),
    (12289, 12),
    (16385, 13),
    (24577, 13),
];

/// The order of code length codes (section 3.2.7).
const ORDER: [u8; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

fn literal_entry(symbol: usize) -> u32 {
    match symbol {
        0..256 => LITERAL | entry(symbol as u32, 0),
        256 => END,
        _ => LENGTHS
            .get(symbol.wrapping_sub(257))
            .map_or(0, |(base, extra)| entry(u32::from(*base), u32::from(*extra))),
    }
}

fn distance_entry(symbol: usize) -> u32 {
    DISTANCE_BASES.get(symbol).map_or(0, |(base, extra)| entry(u32::from(*base), u32::from(*extra)))
}

/// A decoding table.
struct Table {
    bits: u32,
    entries: Vec<u32>,
}

impl Table {
    fn new(bits: u32) -> Table {
        Table { bits, entries: Vec::new() }
    }

    /// Fills it for canonical codes of these lengths.
    fn build(&mut self, lengths: &[u8], entry_of: fn(usize) -> u32) -> Result<(), Error> {
        let mut counts = [0u32; MAX_BITS + 1];
        for length in lengths {
            let count = counts.get_mut(usize::from(*length)).ok_or(Error::Inflate)?;
            *count = count.wrapping_add(1);
        }
        let [_, used @ ..] = &mut counts;
        let mut next = [0u32; MAX_BITS + 2];
        let (mut code, mut left) = (0u32, 1u32);
        for (count, next) in used.iter().zip(next.iter_mut().skip(1)) {
            *next = code;
            code = code.wrapping_add(*count) << 1;
            left = (left << 1).checked_sub(*count).ok_or(Error::Inflate)?;
        }
        // Only a single code may leave others unused.
        let total: u32 = used.iter().sum();
        if left != 0 && total > 1 {
            return Err(Error::Inflate);
        }
        let primary = 1usize << self.bits;
        self.entries.clear();
        self.entries.resize(primary, 0);
        self.seconds(lengths, next)?;
        for (symbol, length) in lengths.iter().enumerate().filter(|(_, length)| **length != 0) {
            let slot = next.get_mut(usize::from(*length)).ok_or(Error::Inflate)?;
            let length = u32::from(*length);
            let code = reverse(*slot, length);
            *slot = slot.wrapping_add(1);
            let value = entry_of(symbol);
            // A symbol that no one may use stays no code.
            let value = if value == 0 { 0 } else { value | length };
            let (from, to, first) = if length <= self.bits {
                (0, primary, code)
            } else {
                let head = self
                    .entries
                    .get(code & primary.wrapping_sub(1))
                    .copied()
                    .ok_or(Error::Inflate)?;
                let start = (head >> 16 & 0x1fff) as usize;
                (start, start.wrapping_add(1 << (head >> 8 & 0x1f)), code >> self.bits)
            };
            let step =
                1usize << if length <= self.bits { length } else { length.wrapping_sub(self.bits) };
            let slots = self.entries.get_mut(from..to).ok_or(Error::Inflate)?;
            slots.iter_mut().skip(first).step_by(step).for_each(|slot| *slot = value);
        }
        Ok(())
    }

    /// Makes room for codes longer than the first table's width.
    fn seconds(&mut self, lengths: &[u8], mut next: [u32; MAX_BITS + 2]) -> Result<(), Error> {
        let primary = 1usize << self.bits;
        let mut long = false;
        for length in lengths.iter().filter(|length| **length != 0) {
            let slot = next.get_mut(usize::from(*length)).ok_or(Error::Inflate)?;
            let length = u32::from(*length);
            let code = reverse(*slot, length);
            *slot = slot.wrapping_add(1);
            if length > self.bits {
                long = true;
                let head =
                    self.entries.get_mut(code & primary.wrapping_sub(1)).ok_or(Error::Inflate)?;
                *head = (*head).max(length.wrapping_sub(self.bits));
            }
        }
        if !long {
            return Ok(());
        }
        for at in 0..primary {
            let end = self.entries.len();
            let Some(head) = self.entries.get_mut(at).filter(|head| **head != 0) else { continue };
            let width = *head;
            *head = SECOND | entry(end as u32, width) | self.bits;
            self.entries.resize(end.saturating_add(1 << width), 0);
        }
        Ok(())
    }
}

fn reverse(code: u32, length: u32) -> usize {
    (code.reverse_bits() >> 32u32.wrapping_sub(length)) as usize
}

/// The bits of the input, from the lowest up.
struct Bits<'a> {
    input: &'a [u8],
    at: usize,
    bits: u64,
    /// How many of `bits` count; above them may be more of the input.
    count: u32,
}

impl Bits<'_> {
    /// Makes at least 56 bits count, as long as the input has them.
    #[inline(always)]
    fn refill(&mut self) {
        if let Some(word) = self.input.get(self.at..).and_then(|rest| rest.first_chunk::<8>()) {
            self.bits |= u64::from_le_bytes(*word) << self.count;
            self.at = self.at.wrapping_add((63u32.wrapping_sub(self.count) >> 3) as usize);
            self.count |= 56;
        } else {
            self.refill_bytes();
        }
    }

    #[cold]
    fn refill_bytes(&mut self) {
        while self.count <= 56
            && let Some(byte) = self.input.get(self.at)
        {
            self.bits |= u64::from(*byte) << self.count;
            self.at = self.at.wrapping_add(1);
            self.count = self.count.wrapping_add(8);
        }
    }

    #[inline(always)]
    fn drop_bits(&mut self, count: u32) -> Result<(), Error> {
        self.count = self.count.checked_sub(count).ok_or(Error::Truncated)?;
        self.bits >>= count & 63;
        Ok(())
    }

    #[inline(always)]
    fn take(&mut self, count: u32) -> Result<u32, Error> {
        let value = self.bits as u32 & (1u32 << (count & 31)).wrapping_sub(1);
        self.drop_bits(count)?;
        Ok(value)
    }

    fn need(&mut self, count: u32) -> Result<u32, Error> {
        self.refill();
        self.take(count)
    }

    #[inline(always)]
    fn peek(&self, table: &Table) -> u32 {
        let index = self.bits as usize & (1usize << (table.bits & 31)).wrapping_sub(1);
        table.entries.get(index).copied().unwrap_or(0)
    }

    /// The entry behind a code longer than the first table's width.
    #[inline(always)]
    fn peek_second(&self, table: &Table, head: u32) -> u32 {
        let width = head >> 8 & 0x1f;
        let index = (self.bits >> (table.bits & 63)) as usize & (1usize << width).wrapping_sub(1);
        table
            .entries
            .get(((head >> 16 & 0x1fff) as usize).wrapping_add(index))
            .copied()
            .unwrap_or(0)
    }

    /// Back to the next whole byte of the input.
    fn align(&mut self) {
        self.at = self.at.saturating_sub((self.count >> 3) as usize);
        self.bits = 0;
        self.count = 0;
    }
}

/// Where the output goes, piece by piece.
struct Out<'a> {
    buffer: Vec<u8>,
    at: usize,
    /// What is before it has been handed on.
    handed: usize,
    hand: &'a mut dyn FnMut(&[u8]) -> Result<(), Error>,
}

impl Out<'_> {
    fn flush(&mut self) -> Result<(), Error> {
        (self.hand)(self.buffer.get(self.handed..self.at).ok_or(Error::Inflate)?)?;
        self.handed = self.at;
        Ok(())
    }

    /// Makes room for the longest match.
    #[inline(always)]
    fn make_room(&mut self) -> Result<(), Error> {
        if self.at > BUFFER - ROOM { self.slide() } else { Ok(()) }
    }

    #[cold]
    fn slide(&mut self) -> Result<(), Error> {
        self.flush()?;
        let from = self.at.saturating_sub(WINDOW);
        self.buffer.copy_within(from..self.at, 0);
        self.at = self.at.saturating_sub(from);
        self.handed = self.at;
        Ok(())
    }

    #[inline(always)]
    fn push(&mut self, byte: u8) {
        // There is room: see `make_room`.
        if let Some(slot) = self.buffer.get_mut(self.at) {
            *slot = byte;
        }
        self.at = self.at.wrapping_add(1);
    }
}

/// Inflates the stream at the start of `input`, handing its contents to `hand`
/// in pieces. Returns the stream's length in bytes.
pub fn inflate(
    input: &[u8],
    hand: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<usize, Error> {
    let mut bits = Bits { input, at: 0, bits: 0, count: 0 };
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(BUFFER).map_err(|_| Error::Sink(Errno::ENOMEM))?;
    buffer.resize(BUFFER, 0);
    let mut out = Out { buffer, at: 0, handed: 0, hand };
    let (mut literals, mut distances) = (Table::new(LITERAL_BITS), Table::new(DISTANCE_BITS));
    loop {
        let last = bits.need(1)? == 1;
        match bits.take(2)? {
            0 => stored(&mut bits, &mut out)?,
            1 => {
                fixed(&mut literals, &mut distances)?;
                compressed(&mut bits, &mut out, &literals, &distances)?;
            }
            2 => {
                dynamic(&mut bits, &mut literals, &mut distances)?;
                compressed(&mut bits, &mut out, &literals, &distances)?;
            }
            _ => return Err(Error::Inflate),
        }
        if last {
            break;
        }
    }
    out.flush()?;
    bits.align();
    Ok(bits.at)
}

/// A block as it is (section 3.2.4).
fn stored(bits: &mut Bits<'_>, out: &mut Out<'_>) -> Result<(), Error> {
    bits.align();
    let head = bits
        .input
        .get(bits.at..)
        .and_then(|rest| rest.first_chunk::<4>())
        .ok_or(Error::Truncated)?;
    let [a, b, c, d] = *head;
    let length = u16::from_le_bytes([a, b]);
    if length != !u16::from_le_bytes([c, d]) {
        return Err(Error::Inflate);
    }
    let start = bits.at.saturating_add(4);
    let end = start.saturating_add(usize::from(length));
    let data = bits.input.get(start..end).ok_or(Error::Truncated)?;
    bits.at = end;
    for piece in data.chunks(256) {
        out.make_room()?;
        let to = out.at.wrapping_add(piece.len());
        out.buffer.get_mut(out.at..to).ok_or(Error::Inflate)?.copy_from_slice(piece);
        out.at = to;
    }
    Ok(())
}

/// The codes that need no description (section 3.2.6).
fn fixed(literals: &mut Table, distances: &mut Table) -> Result<(), Error> {
    let mut lengths = [8u8; LITERALS];
    for (symbol, length) in lengths.iter_mut().enumerate() {
        *length = match symbol {
            0..144 | 280.. => 8,
            144..256 => 9,
            _ => 7,
        };
    }
    literals.build(&lengths, literal_entry)?;
    distances.build(&[5; DISTANCES], distance_entry)
}

/// Reads the codes' description (section 3.2.7).
fn dynamic(bits: &mut Bits<'_>, literals: &mut Table, distances: &mut Table) -> Result<(), Error> {
    let literal_count = bits.need(5)?.wrapping_add(257) as usize;
    let distance_count = bits.take(5)?.wrapping_add(1) as usize;
    let length_count = bits.take(4)?.wrapping_add(4) as usize;
    if literal_count > 286 || distance_count > 30 {
        return Err(Error::Inflate);
    }
    let mut lengths = [0u8; 19];
    for symbol in ORDER.iter().take(length_count) {
        let length = bits.need(3)? as u8;
        *lengths.get_mut(usize::from(*symbol)).ok_or(Error::Inflate)? = length;
    }
    let mut table = Table::new(LENGTH_BITS);
    // Values of zero would be "no code": all are one higher.
    table.build(&lengths, |symbol| entry(symbol.wrapping_add(1) as u32, 0))?;
    let total = literal_count.wrapping_add(distance_count);
    let mut all = vec![0u8; total];
    let mut at = 0usize;
    while at < total {
        bits.refill();
        let found = bits.peek(&table);
        if found == 0 {
            return Err(if bits.count < MAX_BITS as u32 {
                Error::Truncated
            } else {
                Error::Inflate
            });
        }
        bits.drop_bits(found & 0xff)?;
        let symbol = (found >> 16).wrapping_sub(1) as u8;
        let (value, repeat) = match symbol {
            0..=15 => (symbol, 1),
            16 => {
                let before =
                    at.checked_sub(1).and_then(|before| all.get(before)).ok_or(Error::Inflate)?;
                (*before, bits.take(2)?.wrapping_add(3))
            }
            17 => (0, bits.take(3)?.wrapping_add(3)),
            _ => (0, bits.take(7)?.wrapping_add(11)),
        };
        let end = at.wrapping_add(repeat as usize);
        all.get_mut(at..end).ok_or(Error::Inflate)?.fill(value);
        at = end;
    }
    let (literal_lengths, distance_lengths) =
        all.split_at_checked(literal_count).ok_or(Error::Inflate)?;
    // A block that could never end.
    if literal_lengths.get(256) == Some(&0) {
        return Err(Error::Inflate);
    }
    literals.build(literal_lengths, literal_entry)?;
    distances.build(distance_lengths, distance_entry)
}

/// A block's codes, while there is room for a match and input to spare: with
/// everything in registers and without counting bits. Whether the block ended.
fn compressed_fast(
    from: &mut Bits<'_>,
    out: &mut Out<'_>,
    literals: &Table,
    distances: &Table,
) -> Result<bool, Error> {
    // Masked indices of arrays need no check.
    let first = literals.entries.first_chunk::<{ 1 << LITERAL_BITS }>().ok_or(Error::Inflate)?;
    let first_distance =
        distances.entries.first_chunk::<{ 1 << DISTANCE_BITS }>().ok_or(Error::Inflate)?;
    let buffer = out.buffer.first_chunk_mut::<BUFFER>().ok_or(Error::Inflate)?;
    let input = from.input;
    let (mut at, mut bits, mut count) = (from.at, from.bits, from.count);
    let mut to = out.at;
    macro_rules! refill {
        ($word:expr) => {
            bits |= u64::from_le_bytes($word) << (count & 63);
            at = at.wrapping_add((63u32.wrapping_sub(count) >> 3) as usize);
            count |= 56;
        };
    }
    macro_rules! drop_code {
        ($found:expr) => {
            bits = bits.wrapping_shr($found);
            count = count.wrapping_sub($found & 0xff);
        };
    }
    macro_rules! extra {
        ($found:expr) => {{
            let width = $found >> 8 & 0x1f;
            let value = bits as u32 & 1u32.wrapping_shl(width).wrapping_sub(1);
            bits = bits.wrapping_shr(width);
            count = count.wrapping_sub(width);
            ($found >> 16).wrapping_add(value)
        }};
    }
    macro_rules! look {
        ($table:expr) => {
            $table.get(bits as usize & ($table.len().wrapping_sub(1))).copied().unwrap_or(0)
        };
    }
    macro_rules! push {
        ($found:expr) => {
            if let Some(slot) = buffer.get_mut(to) {
                *slot = ($found >> 16) as u8;
            }
            to = to.wrapping_add(1);
        };
    }
    let ended = loop {
        // Two refills move on by seven bytes at most, each.
        let next = input.get(at..).and_then(|rest| rest.first_chunk::<16>());
        let Some(next) = next.filter(|_| to <= BUFFER - ROOM) else { break false };
        let [a, b, c, d, e, f, g, h, ..] = *next;
        refill!([a, b, c, d, e, f, g, h]);
        let mut found = look!(first);
        if found & LITERAL != 0 {
            drop_code!(found);
            push!(found);
            found = look!(first);
            if found & LITERAL != 0 {
                drop_code!(found);
                push!(found);
                found = look!(first);
                if found & LITERAL != 0 {
                    drop_code!(found);
                    push!(found);
                    continue;
                }
            }
            let word = input.get(at..).and_then(|rest| rest.first_chunk::<8>());
            refill!(*word.ok_or(Error::Inflate)?);
        }
        if found & SECOND != 0 {
            let width = found >> 8 & 0x1f;
            let index = (bits >> LITERAL_BITS) as usize & (1usize << width).wrapping_sub(1);
            let index = ((found >> 16 & 0x1fff) as usize).wrapping_add(index);
            found = literals.entries.get(index).copied().unwrap_or(0);
            if found & LITERAL != 0 {
                drop_code!(found);
                push!(found);
                continue;
            }
        }
        drop_code!(found);
        if found & END != 0 {
            break true;
        }
        let length = extra!(found) as usize;
        let mut code = look!(first_distance);
        if code & SECOND != 0 {
            let width = code >> 8 & 0x1f;
            let index = (bits >> DISTANCE_BITS) as usize & (1usize << width).wrapping_sub(1);
            let index = ((code >> 16 & 0x1fff) as usize).wrapping_add(index);
            code = distances.entries.get(index).copied().unwrap_or(0);
        }
        if found == 0 || code == 0 {
            return Err(Error::Inflate);
        }
        drop_code!(code);
        let distance = extra!(code) as usize;
        copy(buffer, to, distance, length)?;
        to = to.wrapping_add(length);
    };
    (from.at, from.bits, from.count) = (at, bits, count);
    out.at = to;
    Ok(ended)
}

/// A block's codes, to its end.
fn compressed(
    bits: &mut Bits<'_>,
    out: &mut Out<'_>,
    literals: &Table,
    distances: &Table,
) -> Result<(), Error> {
    loop {
        out.make_room()?;
        if compressed_fast(bits, out, literals, distances)? {
            return Ok(());
        }
        out.make_room()?;
        // One code with all checks: near the input's end.
        bits.refill();
        let mut found = bits.peek(literals);
        if found & SECOND != 0 {
            found = bits.peek_second(literals, found);
        }
        if found == 0 {
            return Err(if bits.count < MAX_BITS as u32 {
                Error::Truncated
            } else {
                Error::Inflate
            });
        }
        bits.drop_bits(found & 0xff)?;
        if found & END != 0 {
            return Ok(());
        }
        if found & LITERAL != 0 {
            out.push((found >> 16) as u8);
            continue;
        }
        // At most 15 + 5 bits for the length and 15 + 13 for the distance.
        let length = (found >> 16).wrapping_add(bits.take(found >> 8 & 0x1f)?);
        let mut found = bits.peek(distances);
        if found & SECOND != 0 {
            found = bits.peek_second(distances, found);
        }
        if found == 0 {
            return Err(if bits.count < MAX_BITS as u32 {
                Error::Truncated
            } else {
                Error::Inflate
            });
        }
        bits.drop_bits(found & 0xff)?;
        let distance = (found >> 16).wrapping_add(bits.take(found >> 8 & 0x1f)?);
        let buffer = out.buffer.first_chunk_mut::<BUFFER>().ok_or(Error::Inflate)?;
        copy(buffer, out.at, distance as usize, length as usize)?;
        out.at = out.at.wrapping_add(length as usize);
    }
}

/// Copies a match of 3 to 258 bytes to `to`.
#[inline(always)]
fn copy(buffer: &mut [u8; BUFFER], to: usize, distance: usize, length: usize) -> Result<(), Error> {
    let mut from = to.checked_sub(distance).ok_or(Error::Inflate)?;
    let mut to = to;
    let end = to.wrapping_add(length);
    if distance >= 8 {
        // Eight at a time, up to seven too many: there is room for those.
        while to < end {
            let eight = *buffer
                .get(from..)
                .and_then(|rest| rest.first_chunk::<8>())
                .ok_or(Error::Inflate)?;
            *buffer
                .get_mut(to..)
                .and_then(|rest| rest.first_chunk_mut::<8>())
                .ok_or(Error::Inflate)? = eight;
            from = from.wrapping_add(8);
            to = to.wrapping_add(8);
        }
        return Ok(());
    }
    if distance == 1 {
        let byte = *buffer.get(from).ok_or(Error::Inflate)?;
        buffer.get_mut(to..end).ok_or(Error::Inflate)?.fill(byte);
        return Ok(());
    }
    while to < end {
        let byte = *buffer.get(from).ok_or(Error::Inflate)?;
        *buffer.get_mut(to).ok_or(Error::Inflate)? = byte;
        from = from.wrapping_add(1);
        to = to.wrapping_add(1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(input: &[u8]) -> Result<(Vec<u8>, usize), Error> {
        let mut got = Vec::new();
        let used = inflate(input, &mut |piece| {
            got.extend_from_slice(piece);
            Ok(())
        })?;
        Ok((got, used))
    }

    #[test]
    fn known_streams() {
        // Stored, fixed, and an empty fixed block.
        assert_eq!(all(&[1, 3, 0, 0xfc, 0xff, b'a', b'b', b'c', 9]), Ok((b"abc".to_vec(), 8)));
        assert_eq!(all(&[0x4b, 0x4c, 0x4a, 0x06, 0]), Ok((b"abc".to_vec(), 5)));
        assert_eq!(all(&[3, 0]), Ok((vec![], 2)));
        assert_eq!(all(&[]), Err(Error::Truncated));
        assert_eq!(all(&[7]), Err(Error::Inflate));
        assert_eq!(all(&[1, 3, 0, 0xfc, 0xfe, b'a', b'b', b'c']), Err(Error::Inflate));
    }

    #[test]
    fn long_and_short_matches() {
        let mut text = Vec::new();
        for round in 0u32..60_000 {
            let mixed = round.wrapping_mul(2_654_435_761);
            match mixed >> 29 {
                0 => text.extend(core::iter::repeat_n(mixed as u8, 300)),
                1 => text.extend_from_slice(b"ab"),
                2 => text.extend_from_slice(&mixed.to_le_bytes()),
                3 => text.extend_from_within(
                    text.len().saturating_sub(30_000)..text.len().saturating_sub(29_950),
                ),
                _ => text.push((mixed >> 8) as u8 & 31),
            }
        }
        for level in [0, 1, 6, 9] {
            let packed = miniz_oxide::deflate::compress_to_vec(&text, level);
            let (got, used) = all(&packed).unwrap();
            assert_eq!(used, packed.len());
            assert!(got == text, "level {level}");
        }
    }

    proptest! {
        #[test]
        fn as_it_was(text in proptest::collection::vec(0u8..20, 0..6000), noise: Vec<u8>, level in 0u8..10) {
            let text = [text.clone(), noise, text].concat();
            let packed = miniz_oxide::deflate::compress_to_vec(&text, level);
            prop_assert_eq!(all(&packed), Ok((text, packed.len())));
        }

        #[test]
        fn damage_is_no_harm(text in proptest::collection::vec(0u8..20, 0..3000), at in 0usize..2000, flip: u8, cut in 0usize..2000) {
            let mut packed = miniz_oxide::deflate::compress_to_vec(&text, 6);
            if let Some(byte) = packed.get_mut(at) {
                *byte ^= flip;
            }
            packed.truncate(cut);
            let ours = all(&packed);
            if let Ok(theirs) = miniz_oxide::inflate::decompress_to_vec(&packed) {
                prop_assert_eq!(ours.map(|(got, _)| got), Ok(theirs));
            } else {
                prop_assert!(ours.is_err());
            }
        }

        #[test]
        fn noise_is_no_harm(noise: Vec<u8>) {
            let ours = all(&noise);
            prop_assert_eq!(ours.is_ok(), miniz_oxide::inflate::decompress_to_vec(&noise).is_ok());
        }
    }
}
