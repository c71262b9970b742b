//! Memory that stays a guest's while its VM lives, by the guest's addresses.

use alloc::vec::Vec;
use base::{BLOCK_SIZE, PAGE_SIZE};
use frame::{Frame, Size};

/// Memory in one piece, as the guest sees it: frames of one size.
pub struct Bank {
    start: u64,
    size: Size,
    frames: Vec<Frame>,
}

impl Bank {
    /// `frames`, all of one size, from guest physical `start` on.
    pub fn new(start: u64, frames: Vec<Frame>) -> Bank {
        let size = frames.first().map_or(Size::Page, Frame::size);
        Bank { start, size, frames }
    }

    /// The guest physical address of its first byte.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Its bytes.
    pub fn len(&self) -> u64 {
        self.size.bytes().saturating_mul(self.frames.len() as u64)
    }

    /// Whether there is no memory in it.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Its memory, upwards.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
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
