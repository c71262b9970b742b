//! Memory that stays a guest's while its VM lives, by the guest's addresses.

use alloc::vec::Vec;
use base::{BLOCK_SIZE, PAGE_SIZE};
use frame::{Frame, Size};

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
