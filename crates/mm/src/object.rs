//! What backs an area that isn't private anonymous memory.

use alloc::collections::BTreeMap;
use alloc::string::String;
use base::{BLOCK_SIZE, Errno, Lock, PAGE_SIZE, Result, grave, rank};
use core::sync::atomic::{AtomicU64, Ordering};
use frame::{Fill, Frame, Size, Use};

/// Who an object is: for futexes that processes share, and /proc/PID/maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ObjectId {
    /// The device's number, as stat(2) has it.
    pub dev: u64,
    /// The inode's number on it.
    pub ino: u64,
}

/// Something that gives pages: a file, shared memory, a vCPU's run page.
///
/// Called under a memory map's lock: takes locks of a higher rank only, and
/// never sleeps.
pub trait VmObject: Send + Sync {
    /// The page `index` (in 4 KiB). The object keeps a count if it will give the
    /// same page again. `for_write`: a shared mapping will write to it.
    ///
    /// `ENOMEM` becomes an out-of-memory fault, any other error (past the end of
    /// a file) SIGBUS.
    fn frame(&self, index: u64, for_write: bool) -> Result<Frame>;

    /// The 2 MiB from page `index`, a multiple of 512, if they are one block.
    fn block(&self, index: u64, for_write: bool) -> Option<Frame> {
        let _ = (index, for_write);
        None
    }

    /// Who it is.
    fn id(&self) -> ObjectId;

    /// The name in /proc/PID/maps.
    fn name(&self) -> String {
        String::new()
    }
}

/// Memory that processes share: MAP_SHARED|MAP_ANONYMOUS, memfd.
pub struct SharedMemory {
    id: ObjectId,
    pages: u64,
    frames: Lock<BTreeMap<u64, Frame>>,
}

static NEXT_INO: AtomicU64 = AtomicU64::new(1);

impl SharedMemory {
    /// `len` bytes of zeros, allocated when they are touched.
    pub fn new(len: u64) -> Self {
        SharedMemory {
            id: ObjectId { dev: 1, ino: NEXT_INO.fetch_add(1, Ordering::Relaxed) },
            pages: len.div_ceil(PAGE_SIZE),
            frames: Lock::new(rank::INODE, BTreeMap::new()),
        }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        grave::bury(core::mem::take(self.frames.get_mut()));
    }
}

/// The first page of the 2 MiB that hold `index`.
const fn block_start(index: u64) -> u64 {
    index & !(BLOCK_SIZE / PAGE_SIZE).wrapping_sub(1)
}

impl VmObject for SharedMemory {
    fn frame(&self, index: u64, _: bool) -> Result<Frame> {
        if index >= self.pages {
            return Err(Errno::EFAULT);
        }
        let mut frames = self.frames.lock();
        // A block's entry is at its first page.
        let block = frames.get(&block_start(index)).filter(|frame| frame.size() == Size::Block);
        if let Some(block) = block {
            return block.sub(index.wrapping_sub(block_start(index))).ok_or(Errno::EFAULT);
        }
        if let Some(frame) = frames.get(&index) {
            return Ok(frame.clone());
        }
        let frame = Frame::alloc_as(Use::Shared, Size::Page, Fill::Zeroed)?;
        frames.insert(index, frame.clone());
        Ok(frame)
    }

    fn block(&self, index: u64, _: bool) -> Option<Frame> {
        let end = index.checked_add(BLOCK_SIZE / PAGE_SIZE)?;
        if end > self.pages || index != block_start(index) {
            return None;
        }
        let mut frames = self.frames.lock();
        match frames.range(index..end).next() {
            Some((_, frame)) => (frame.size() == Size::Block).then(|| frame.clone()),
            None => {
                let block = Frame::alloc_as(Use::Shared, Size::Block, Fill::Zeroed).ok()?;
                frames.insert(index, block.clone());
                Some(block)
            }
        }
    }

    fn id(&self) -> ObjectId {
        self.id
    }

    fn name(&self) -> String {
        String::from("/dev/zero (deleted)")
    }
}
