//! Counted handles to memory that others can change at any time.

use crate::buddy::MAX_ORDER;
use crate::meta;
use crate::ram::{Owner, Use, phys_to_virt, ram};
use base::{BLOCK_SIZE, Errno, PAGE_SIZE, PhysAddr, Result};
use core::fmt;
use core::num::NonZeroU64;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// How much a [`Frame`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Size {
    /// 4 KiB: a level-3 entry.
    Page,
    /// 2 MiB: a level-2 entry.
    Block,
}

impl Size {
    /// In bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            Size::Page => PAGE_SIZE,
            Size::Block => BLOCK_SIZE,
        }
    }

    /// In 4 KiB pages.
    pub const fn pages(self) -> u64 {
        self.bytes() / PAGE_SIZE
    }

    pub(crate) const fn order(self) -> u8 {
        match self {
            Size::Page => 0,
            Size::Block => MAX_ORDER,
        }
    }
}

/// What one level-1 entry maps: 512 blocks.
pub const GIGABYTE: u64 = 1 << 30;

/// Whether these are the 512 blocks of one GiB, upwards, from a multiple of it on.
pub fn is_gigabyte(blocks: &[Frame]) -> bool {
    let start = blocks.first().map_or(1, |block| block.addr().get());
    let places = (start..).step_by(BLOCK_SIZE as usize);
    let fits = |(block, at): (&Frame, u64)| block.size() == Size::Block && block.addr().get() == at;
    blocks.len() as u64 == GIGABYTE / BLOCK_SIZE
        && start.is_multiple_of(GIGABYTE)
        && blocks.iter().zip(places).all(fits)
}

/// What fresh memory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Zeros.
    Zeroed,
    /// What its last owner left: overwrite it all before anybody sees it.
    Stale,
}

/// A counted handle to 4 KiB or 2 MiB of RAM, freed with its last handle.
///
/// A 4 KiB handle can be to a piece of a 2 MiB block ([`Frame::sub`]); it then
/// keeps the whole block. The memory may be mapped at EL0, in guests or given
/// to devices: it changes under us, so it is only ever copied in and out.
pub struct Frame(NonZeroU64);

/// Marks in the low bits of a handle. One is always set.
const PAGE: u64 = 1;
const BLOCK: u64 = 2;

impl Frame {
    /// Fresh anonymous memory; `ENOMEM` if there is none but the kernel's
    /// reserve.
    pub fn alloc(size: Size, fill: Fill) -> Result<Frame> {
        Self::alloc_as(Use::Anonymous, size, fill)
    }

    /// Fresh memory that counts as used for this.
    pub fn alloc_as(usage: Use, size: Size, fill: Fill) -> Result<Frame> {
        if !usage.is_user() {
            return Err(Errno::EINVAL);
        }
        let word = meta::user(size.order(), usage as u8);
        let addr = ram().ok_or(Errno::ENOMEM)?.take(size.order(), Owner::User, word)?;
        let frame = Frame::wrap(addr, size);
        if fill == Fill::Zeroed {
            frame.fill_zero(0..size.bytes())?;
        }
        Ok(frame)
    }

    /// Fresh anonymous memory: the blocks of a GiB, as [`is_gigabyte`] wants them. They hold
    /// what their last owners left. `ENOMEM` if no GiB is free whole.
    pub fn gigabyte() -> Result<Pieces> {
        Frame::run(GIGABYTE)
    }

    /// As [`Frame::gigabyte`], with another power of two of bytes.
    fn run(size: u64) -> Result<Pieces> {
        let word = meta::user(MAX_ORDER, Use::Anonymous as u8);
        let start = ram().ok_or(Errno::ENOMEM)?.take_run(size, word)?;
        Ok(Pieces { start, size: Size::Block, left: size / BLOCK_SIZE })
    }

    const fn wrap(addr: PhysAddr, size: Size) -> Frame {
        let mark = match size {
            Size::Page => PAGE,
            Size::Block => BLOCK,
        };
        // `mark` is never zero: the sum neither.
        match NonZeroU64::new(addr.get() | mark) {
            Some(raw) => Frame(raw),
            None => Frame(NonZeroU64::MIN),
        }
    }

    /// Its physical address.
    #[inline]
    pub const fn addr(&self) -> PhysAddr {
        PhysAddr::new(self.0.get() & !PAGE_SIZE.wrapping_sub(1))
    }

    /// A page or a block.
    #[inline]
    pub const fn size(&self) -> Size {
        if self.0.get() & BLOCK != 0 { Size::Block } else { Size::Page }
    }

    /// How many handles there are to this memory, and to the block it is a
    /// piece of.
    pub fn ref_count(&self) -> u64 {
        u64::from(self.with_count(|count| count.load(Ordering::Acquire)) & meta::COUNT)
    }

    /// Whether it is a piece of a block, whose handles count together.
    pub fn is_piece(&self) -> bool {
        self.size() == Size::Page
            && self.with_count(|c| meta::order(c.load(Ordering::Relaxed)) != 0)
    }

    /// A handle to the `index`th 4 KiB of it (0 only for a page).
    pub fn sub(&self, index: u64) -> Option<Frame> {
        if index >= self.size().pages() {
            return None;
        }
        self.count_up();
        Some(Frame::wrap(self.addr().offset(index.wrapping_mul(PAGE_SIZE))?, Size::Page))
    }

    /// Takes a block apart: its 512 pages in order. If this was the only handle
    /// they become frames of their own; otherwise they keep counting on the
    /// block. A page is its only piece.
    pub fn split(self) -> Pieces {
        let size = self.size();
        let start = self.addr();
        if size == Size::Block {
            self.with_index(|table, index| {
                let word = table.word(index);
                let now = word.load(Ordering::Acquire);
                let usage = meta::usage(now);
                if now == meta::user(MAX_ORDER, usage) {
                    // The only handle is ours and no longer used: nobody can
                    // count up while the heads change.
                    for page in 0..size.pages() as u32 {
                        let word = table.word(index.wrapping_add(page));
                        word.store(meta::user(0, usage), Ordering::Relaxed);
                    }
                } else {
                    count_up(word, size.pages().wrapping_sub(1) as u32);
                }
            });
        }
        core::mem::forget(self);
        Pieces { start, size: Size::Page, left: size.pages() }
    }

    /// The range as an offset, if the memory holds it.
    fn check(&self, offset: u64, len: usize) -> Result<*mut u8> {
        let end = offset.checked_add(len as u64).ok_or(Errno::EFAULT)?;
        if end > self.size().bytes() {
            return Err(Errno::EFAULT);
        }
        Ok(phys_to_virt(self.addr()).wrapping_add(offset as usize))
    }

    /// Copies out; `EFAULT` past its end.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let from = self.check(offset, out.len())?;
        // SAFETY: `check` keeps the source within this frame, which is mapped
        // RAM (init's contract) and stays ours while the handle lives; `out` is
        // no frame's memory: frames are never borrowed. Others may write the
        // source meanwhile: the copy is then a mix, made of bytes that no type
        // of ours rests on.
        unsafe { core::ptr::copy_nonoverlapping(from, out.as_mut_ptr(), out.len()) };
        Ok(())
    }

    /// Copies in; `EFAULT` past its end.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let to = self.check(offset, data.len())?;
        // SAFETY: as in `read`, with the frame as the destination.
        unsafe { core::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len()) };
        Ok(())
    }

    /// Fills bytes with zeros; `EFAULT` past its end.
    pub fn fill_zero(&self, range: Range<u64>) -> Result<()> {
        let len = range.end.checked_sub(range.start).ok_or(Errno::EFAULT)? as usize;
        let to = self.check(range.start, len)?;
        // SAFETY: as in `read`, with the frame as the destination.
        unsafe { core::ptr::write_bytes(to, 0, len) };
        Ok(())
    }

    /// Copies all of `other`, which has the same size (or `EINVAL`).
    pub fn copy_from(&self, other: &Frame) -> Result<()> {
        if self.size() != other.size() {
            return Err(Errno::EINVAL);
        }
        self.copy_range(0, other, 0, self.size().bytes())
    }

    /// Copies `len` bytes from `other`; `EFAULT` past either end.
    pub fn copy_range(&self, at: u64, other: &Frame, from: u64, len: u64) -> Result<()> {
        let to = self.check(at, len as usize)?;
        let from = other.check(from, len as usize)?;
        // SAFETY: as in `read`, for both sides; both may be the same memory, so
        // the copy allows overlap.
        unsafe { core::ptr::copy(from, to, len as usize) };
        Ok(())
    }

    /// The aligned word at `offset`, for atomic accesses.
    pub fn atomic_u32(&self, offset: u64) -> Option<&AtomicU32> {
        let word = self.check(offset, 4).ok()?.cast::<AtomicU32>();
        // SAFETY: within the frame (see `read`), aligned, and it lives as long
        // as the handle does. Atomics may be changed by others.
        offset.is_multiple_of(4).then(|| unsafe { &*word })
    }

    /// The aligned double word at `offset`, for atomic accesses.
    pub fn atomic_u64(&self, offset: u64) -> Option<&AtomicU64> {
        let word = self.check(offset, 8).ok()?.cast::<AtomicU64>();
        // SAFETY: as in `atomic_u32`.
        offset.is_multiple_of(8).then(|| unsafe { &*word })
    }

    /// Gives the handle up for its address, which a page-table entry keeps
    /// together with the size. The memory stays counted.
    pub fn into_raw(self) -> PhysAddr {
        let addr = self.addr();
        core::mem::forget(self);
        addr
    }

    /// The handle that `into_raw` gave up.
    ///
    /// # Safety
    ///
    /// `addr` and `size` come from one [`Frame::into_raw`], and each of those
    /// is taken back at most once.
    pub unsafe fn from_raw(addr: PhysAddr, size: Size) -> Frame {
        Frame::wrap(addr, size)
    }

    /// One more handle to the memory that a page-table entry keeps.
    ///
    /// # Safety
    ///
    /// `addr` and `size` come from a [`Frame::into_raw`] that nobody took back
    /// yet, nor does during this call.
    pub unsafe fn clone_raw(addr: PhysAddr, size: Size) -> Frame {
        let frame = Frame::wrap(addr, size);
        frame.count_up();
        frame
    }

    #[inline]
    fn with_index<R>(&self, f: impl FnOnce(&crate::buddy::Table, u32) -> R) -> R {
        static NOTHING: crate::buddy::Table = crate::buddy::Table(&[]);
        match ram() {
            Some(ram) => f(&ram.table, ram.index(self.addr())),
            None => f(&NOTHING, meta::NIL),
        }
    }

    /// Calls with the word that counts for this memory: its own, or its block's.
    #[inline]
    fn with_count<R>(&self, f: impl FnOnce(&AtomicU32) -> R) -> R {
        self.with_index(|table, index| f(table.word(head(table, index))))
    }

    fn count_up(&self) {
        self.with_count(|word| count_up(word, 1));
    }
}

/// The head of the memory at `index`: itself, or the start of its block.
#[inline]
fn head(table: &crate::buddy::Table, index: u32) -> u32 {
    let own = table.word(index).load(Ordering::Relaxed);
    if meta::is_user(own) { index } else { index & !((1 << MAX_ORDER) - 1) }
}

#[inline]
fn count_up(word: &AtomicU32, handles: u32) {
    // Relaxed as in Arc: who counts up has a handle already.
    let before = word.fetch_add(handles, Ordering::Relaxed);
    if before & meta::COUNT >= meta::STUCK {
        word.store(meta::stuck(before), Ordering::Relaxed);
    }
}

impl Clone for Frame {
    fn clone(&self) -> Frame {
        self.count_up();
        Frame(self.0)
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        let Some(ram) = ram() else { return };
        let index = head(&ram.table, ram.index(self.addr()));
        let word = ram.table.word(index);
        let before = word.fetch_sub(1, Ordering::Release);
        match before & meta::COUNT {
            1 => {
                // What others did with the memory happens before it is free.
                fence(Ordering::Acquire);
                ram.give(index, meta::order(before), meta::usage(before));
            }
            meta::STUCK.. => word.store(meta::stuck(before), Ordering::Relaxed),
            _ => {}
        }
    }
}

impl PartialEq for Frame {
    /// Whether both name the same memory.
    fn eq(&self, other: &Frame) -> bool {
        self.0 == other.0
    }
}

impl Eq for Frame {}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({:#x}, {:?})", self.addr(), self.size())
    }
}

/// Frames of one size, one behind another: the pages of a block that [`Frame::split`] took
/// apart, the blocks of a GiB.
pub struct Pieces {
    start: PhysAddr,
    size: Size,
    left: u64,
}

impl Iterator for Pieces {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        self.left = self.left.checked_sub(1)?;
        let frame = Frame::wrap(self.start, self.size);
        self.start = self.start.offset(self.size.bytes()).unwrap_or(self.start);
        Some(frame)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for Pieces {}

impl Drop for Pieces {
    fn drop(&mut self) {
        for page in self.by_ref() {
            drop(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KernelPages, Use, fail_allocation, set_reserve, sim, stats};
    use std::vec::Vec;

    #[test]
    fn memory_with_an_address_becomes_frames() {
        let _ram = sim::ram(16);
        let block = sim::reserved();
        let free = stats().free;
        // SAFETY: reserved, and adopted once.
        let frame = unsafe { crate::adopt(block, Size::Block) }.unwrap();
        assert_eq!((frame.addr(), frame.ref_count()), (block, 1));
        frame.write(0x1000, &[7]).unwrap();
        let piece = frame.sub(1).unwrap();
        let middle = PhysAddr::new(block.get() + 0x1000);
        let refused = |addr, size| {
            // SAFETY: refused.
            assert_eq!(unsafe { crate::adopt(addr, size) }.err(), Some(Errno::EBUSY));
        };
        // Neither all of it, nor a page, a second time.
        refused(block, Size::Block);
        refused(block, Size::Page);
        refused(middle, Size::Page);
        drop(frame);
        assert_eq!(stats().free, free);
        drop(piece);
        assert_eq!(stats().free, free + Size::Block.bytes());
        // Nor what is the allocator's: free, used, or the kernel's.
        refused(block, Size::Block);
        refused(middle, Size::Page);
        let used = Frame::alloc(Size::Page, Fill::Stale).unwrap();
        refused(used.addr(), Size::Page);
        let around = used.addr().get() & !(Size::Block.bytes() - 1);
        refused(PhysAddr::new(around), Size::Block);
        let kernel = KernelPages::alloc(Use::Table, 3, Fill::Zeroed).unwrap();
        refused(PhysAddr::new(kernel.addr().get() + 0x5000), Size::Page);
        let (odd, beyond) = (PhysAddr::new(block.get() + 0x1000), PhysAddr::new(1 << 40));
        // SAFETY: refused.
        assert!(unsafe { crate::adopt(odd, Size::Block) }.is_err());
        // SAFETY: refused.
        assert!(unsafe { crate::adopt(beyond, Size::Page) }.is_err());
    }

    #[test]
    fn a_run_starts_at_a_multiple_of_its_size() {
        let _ram = sim::ram(16);
        const SIZE: u64 = 4 << 20;
        let before = stats();
        // What is at the start keeps the first from being whole.
        let first = Frame::alloc(Size::Page, Fill::Stale).unwrap();
        let mut runs: Vec<Vec<Frame>> = Vec::new();
        while let Ok(run) = Frame::run(SIZE) {
            runs.push(run.collect());
        }
        assert!(runs.len() >= 2);
        let taken = SIZE * runs.len() as u64;
        assert_eq!(stats().user - before.user, taken + PAGE_SIZE);
        assert_eq!(before.free - stats().free, taken + PAGE_SIZE);
        for run in &runs {
            let start = run[0].addr().get();
            assert!(start.is_multiple_of(SIZE) && run.len() == 2);
            assert_eq!((run[1].addr().get(), run[1].size()), (start + BLOCK_SIZE, Size::Block));
            assert!(run.iter().all(|block| block.ref_count() == 1));
        }
        // One is free, but is the kernel's.
        runs.pop();
        set_reserve(stats().free - SIZE + PAGE_SIZE);
        assert_eq!(Frame::run(SIZE).err(), Some(Errno::ENOMEM));
        set_reserve(stats().free - SIZE);
        drop(Frame::run(SIZE).unwrap());
        set_reserve(0);
        drop((first, runs));
        assert_eq!((stats().free, stats().user), (before.free, before.user));
    }

    #[test]
    fn counts_and_frees() {
        let _ram = sim::ram(16);
        let free = stats().free;
        let frame = Frame::alloc(Size::Page, Fill::Zeroed).unwrap();
        let second = frame.clone();
        assert_eq!(frame.ref_count(), 2);
        assert_eq!(stats().user, 4096);
        drop(frame);
        assert_eq!(second.ref_count(), 1);
        let addr = second.into_raw();
        // SAFETY: from into_raw, once.
        drop(unsafe { Frame::from_raw(addr, Size::Page) });
        assert_eq!((stats().free, stats().user), (free, 0));
    }

    #[test]
    fn copies_and_checks() {
        let _ram = sim::ram(16);
        let frame = Frame::alloc(Size::Page, Fill::Zeroed).unwrap();
        frame.write(4090, b"hello!").unwrap();
        assert_eq!(frame.write(4091, b"hello!"), Err(Errno::EFAULT));
        assert_eq!(frame.write(u64::MAX, b"h"), Err(Errno::EFAULT));
        let copy = Frame::alloc(Size::Page, Fill::Stale).unwrap();
        copy.copy_from(&frame).unwrap();
        let mut text = [0; 6];
        copy.read(4090, &mut text).unwrap();
        assert_eq!(&text, b"hello!");
        copy.fill_zero(4092..4096).unwrap();
        copy.read(4090, &mut text).unwrap();
        assert_eq!(&text, b"he\0\0\0\0");
        assert!(frame.atomic_u32(4096).is_none() && frame.atomic_u32(2).is_none());
        frame.atomic_u64(8).unwrap().store(7, Ordering::Relaxed);
        assert_eq!(frame.atomic_u32(8).unwrap().load(Ordering::Relaxed), 7);
    }

    #[test]
    fn pieces_keep_their_block() {
        let _ram = sim::ram(16);
        let free = stats().free;
        let block = Frame::alloc(Size::Block, Fill::Zeroed).unwrap();
        let piece = block.sub(511).unwrap();
        let first = block.sub(0).unwrap();
        assert!(block.sub(512).is_none());
        assert!(piece.is_piece() && !block.is_piece());
        assert_eq!(piece.addr().get() - block.addr().get(), 511 * 4096);
        assert_eq!((piece.ref_count(), first.ref_count()), (3, 3));
        drop(block);
        assert_eq!(stats().user, BLOCK_SIZE);
        drop((piece, first));
        assert_eq!(stats().free, free);
    }

    /// So many handles that their number can't be told: the memory stays.
    #[test]
    fn a_count_gets_stuck_and_never_overflows() {
        let _ram = sim::ram(16);
        for size in [Size::Page, Size::Block] {
            let frame = Frame::alloc(size, Fill::Stale).unwrap();
            let set = |count: u32| {
                let word = meta::user(size.order(), 0) - 1 + count;
                frame.with_count(|counted| counted.store(word, Ordering::Relaxed));
            };
            let is_stuck = |frame: &Frame| frame.ref_count() == 7 << 25;
            set(meta::STUCK - 2);
            // Up to there it is exact.
            drop(frame.clone());
            assert_eq!(frame.ref_count(), u64::from(meta::STUCK) - 2);
            set(meta::STUCK - 1);
            let handles = [frame.clone(), frame.clone()];
            assert!(is_stuck(&frame));
            drop(handles);
            assert!(is_stuck(&frame));
            // A handle that goes while others come.
            set(meta::STUCK);
            drop(frame.clone());
            assert!(is_stuck(&frame));
            assert_eq!(frame.clone().split().count(), size.pages() as usize);
            assert!(is_stuck(&frame) && frame.size() == size);
            assert!(!frame.is_piece());
            set(1);
        }
        assert_eq!(stats().user, 0);
    }

    #[test]
    fn a_users_memory_is_used_as_users_do() {
        let _ram = sim::ram(16);
        assert_eq!(Frame::alloc_as(Use::Heap, Size::Page, Fill::Stale), Err(Errno::EINVAL));
        for usage in Use::ALL.into_iter().filter(|usage| usage.is_user()) {
            for size in [Size::Page, Size::Block] {
                let frame = Frame::alloc_as(usage, size, Fill::Stale).unwrap();
                assert_eq!(stats().used_for(usage), size.bytes());
                drop(frame);
                assert_eq!(stats().used_for(usage), 0);
            }
        }
    }

    #[test]
    fn splits_alone_and_shared() {
        let _ram = sim::ram(16);
        let free = stats().free;
        let block = Frame::alloc(Size::Block, Fill::Zeroed).unwrap();
        block.write(4096, b"x").unwrap();
        let mut pieces: Vec<Frame> = block.split().collect();
        assert_eq!(pieces.len(), 512);
        assert!(pieces.iter().all(|page| page.ref_count() == 1 && !page.is_piece()));
        let mut byte = [0];
        pieces[1].read(0, &mut byte).unwrap();
        assert_eq!(&byte, b"x");
        pieces.truncate(1);
        assert_eq!(stats().user, 4096);
        drop(pieces);

        let block = Frame::alloc(Size::Block, Fill::Zeroed).unwrap();
        let other = block.clone();
        let mut pieces = block.split();
        assert_eq!(other.ref_count(), 513);
        drop(pieces.next());
        drop(pieces);
        assert_eq!(other.ref_count(), 1);
        drop(other);
        assert_eq!(stats().free, free);
    }

    #[test]
    fn fails_on_order_and_keeps_the_reserve() {
        let _ram = sim::ram(16);
        fail_allocation(2);
        let first = Frame::alloc(Size::Page, Fill::Stale);
        assert!(first.is_ok());
        assert_eq!(KernelPages::alloc(Use::Table, 0, Fill::Stale).err(), Some(Errno::ENOMEM));
        assert!(KernelPages::alloc(Use::Table, 0, Fill::Stale).is_ok());
        set_reserve(4 * 4096);
        let mut all = Vec::new();
        while let Ok(page) = Frame::alloc(Size::Page, Fill::Stale) {
            all.push(page);
        }
        assert_eq!(stats().free, 4 * 4096);
        let kernel: Vec<_> =
            (0..2).map(|_| KernelPages::alloc(Use::Table, 0, Fill::Zeroed).unwrap()).collect();
        assert!(!base::room::is_low());
        // The other half of the reserve is the heap's alone.
        assert!(KernelPages::alloc(Use::Table, 0, Fill::Zeroed).is_err());
        let heap: Vec<_> = (0..2).map(|_| KernelPages::alloc_for_heap(0).unwrap()).collect();
        assert!(base::room::is_low());
        assert_eq!(stats().kernel, 4 * 4096);
        assert!(KernelPages::alloc_for_heap(0).is_err());
        drop(heap);
        assert!(!base::room::is_low());
        set_reserve(0);
        drop((all, kernel, first));
        assert_eq!((stats().user, stats().kernel), (0, 0));
        assert_eq!(stats().total, stats().free + stats().table + stats().reserved);
    }

    /// Memory runs out, and what comes back comes back in single pages.
    #[test]
    fn the_heap_gets_pieces_of_what_is_scattered() {
        let _ram = sim::ram(16);
        set_reserve(2 << 20);
        let pages = || core::iter::from_fn(|| Frame::alloc(Size::Page, Fill::Stale).ok());
        let mut all: Vec<_> = pages().collect();
        let free = stats().free;
        assert_eq!(free, 2 << 20);
        // The heap grows into its own, and would get no further.
        let grown: Vec<_> = (0..384).map(|_| KernelPages::alloc_for_heap(0).unwrap()).collect();
        all.retain(|page| page.addr().get() & 4096 == 0);
        let pieces: Vec<_> = (0..8).map(|_| KernelPages::alloc_for_heap(4).unwrap()).collect();
        assert!(KernelPages::alloc_for_heap(4).is_err());
        assert!(KernelPages::alloc_for_heap(0).is_ok());
        drop((pieces, all, grown));
        // It is whole again: users can't have it, nor break it.
        all = pages().collect();
        assert_eq!(stats().free, free);
        assert!(stats().by_order[4] >= 8);
        set_reserve(0);
        drop(all);
    }

    #[test]
    fn kernel_pages_are_aligned_and_zeroed() {
        let _ram = sim::ram(16);
        let root = KernelPages::alloc(Use::Table, 4, Fill::Zeroed).unwrap();
        assert!(root.addr().is_aligned(16 * 4096));
        assert_eq!(root.entries().len(), 16 * 512);
        assert!(root.entries().iter().all(|entry| entry.load(Ordering::Relaxed) == 0));
        root.entries()[0].store(1, Ordering::Relaxed);
        let addr = root.into_raw();
        // SAFETY: from into_raw, once; the page lives until then.
        let root = unsafe {
            assert_eq!(crate::entries_at(addr)[0].load(Ordering::Relaxed), 1);
            KernelPages::from_raw(addr)
        };
        assert_eq!(root.order(), 4);
        assert_eq!(KernelPages::order_for(4097), Some(1));
        assert_eq!(KernelPages::order_for(3 << 20), None);
        assert!(KernelPages::alloc(Use::Table, 10, Fill::Stale).is_err());
    }
}
