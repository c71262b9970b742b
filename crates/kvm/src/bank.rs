//! Memory that stays a guest's while its VM lives, by the guest's addresses.

use alloc::vec::Vec;
use base::{BLOCK_SIZE, PAGE_SIZE};
use frame::{Frame, GIGABYTE, Size, is_gigabyte};

/// Memory in one piece, as the guest sees it: frames of one size.
pub struct Bank {
    /// The guest physical address of its first byte.
    pub start: u64,
    size: Size,
    /// Its memory, upwards.
    pub frames: Vec<Frame>,
}

impl Bank {
    /// `frames`, all of one size, from guest physical `start` on.
    pub fn new(start: u64, frames: Vec<Frame>) -> Bank {
        let size = frames.first().map_or(Size::Page, Frame::size);
        Bank { start, size, frames }
    }

    /// How long it is.
    pub fn bytes(&self) -> u64 {
        self.size.bytes().saturating_mul(self.frames.len() as u64)
    }

    /// The frame that holds a guest physical address, and where in it.
    pub fn at(&self, gpa: u64) -> Option<(&Frame, u64)> {
        let (offset, size) = (gpa.checked_sub(self.start)?, self.size.bytes());
        let frame = self.frames.get(offset.checked_div(size)? as usize)?;
        Some((frame, offset.checked_rem(size)?))
    }

    /// The blocks of the GiB at a guest physical address, if the machine, too, has one there.
    pub fn gigabyte(&self, gpa: u64) -> Option<&[Frame]> {
        let first = gpa.checked_sub(self.start)?.checked_div(BLOCK_SIZE)?;
        let end = first.checked_add(GIGABYTE / BLOCK_SIZE)?;
        let blocks = self.frames.get(first as usize..end as usize)?;
        let whole = gpa.is_multiple_of(GIGABYTE) && self.start.is_multiple_of(BLOCK_SIZE);
        (whole && is_gigabyte(blocks)).then_some(blocks)
    }

    /// What stage 2 maps at a guest physical address: the page, or all of a block
    /// where the guest's address of it is a block's, too.
    pub fn mapped(&self, gpa: u64) -> Option<Frame> {
        let (frame, offset) = self.at(gpa)?;
        if self.start.is_multiple_of(BLOCK_SIZE) {
            return Some(frame.clone());
        }
        frame.sub(offset / PAGE_SIZE)
    }
}
