//! Pages that the kernel alone uses.

use crate::buddy::{MAX_ORDER, frames};
use crate::handle::Fill;
use crate::meta;
use crate::ram::{Owner, Use, phys_to_virt, ram};
use base::{Errno, PAGE_SIZE, PhysAddr, Result};
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

/// 2^order contiguous pages, aligned to their size, of the kernel's own: page
/// tables, stacks, growth of the heap. They have one owner, and never become
/// user memory.
pub struct KernelPages {
    addr: PhysAddr,
    order: u8,
}

impl KernelPages {
    /// Fresh pages; half of the kernel's reserve may be used up for them.
    pub fn alloc(usage: Use, order: u8, fill: Fill) -> Result<KernelPages> {
        Self::alloc_for(Owner::Kernel, usage, order, fill)
    }

    /// Fresh pages for the heap, whose callers mostly can't be told no: the
    /// last of the reserve is theirs. At most 64 KiB are to be had in one piece
    /// even where all free memory is in single pages.
    pub fn alloc_for_heap(order: u8) -> Result<KernelPages> {
        Self::alloc_for(Owner::Heap, Use::Heap, order, Fill::Stale)
    }

    fn alloc_for(owner: Owner, usage: Use, order: u8, fill: Fill) -> Result<KernelPages> {
        let order = Some(order).filter(|order| *order <= MAX_ORDER).ok_or(Errno::ENOMEM)?;
        let word = meta::kernel(order, usage as u8);
        let addr = ram().ok_or(Errno::ENOMEM)?.take(order, owner, word)?;
        let pages = KernelPages { addr, order };
        if fill == Fill::Zeroed {
            // SAFETY: the pages are mapped RAM (init's contract), fresh and ours.
            unsafe { core::ptr::write_bytes(pages.as_ptr().as_ptr(), 0, pages.len()) };
        }
        Ok(pages)
    }

    /// The smallest order that holds `bytes`; none above 2 MiB.
    pub fn order_for(bytes: usize) -> Option<u8> {
        (0..=MAX_ORDER).find(|order| frames(*order).wrapping_mul(PAGE_SIZE) >= bytes as u64)
    }

    /// Their physical address.
    pub const fn addr(&self) -> PhysAddr {
        self.addr
    }

    /// How many pages, as a power of two.
    pub const fn order(&self) -> u8 {
        self.order
    }

    /// Their length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub const fn len(&self) -> usize {
        (frames(self.order) as usize).wrapping_mul(PAGE_SIZE as usize)
    }

    /// Where the linear map has them. Good while `self` lives.
    pub fn as_ptr(&self) -> NonNull<u8> {
        NonNull::new(phys_to_virt(self.addr)).unwrap_or(NonNull::dangling())
    }

    /// The pages as atomic double words, as page tables need them.
    pub fn entries(&self) -> &[AtomicU64] {
        // SAFETY: the pages are mapped, initialised RAM, page-aligned, ours
        // while `self` lives; whoever writes through `as_ptr` promises to
        // respect this.
        unsafe { core::slice::from_raw_parts(self.as_ptr().cast().as_ptr(), self.len() / 8) }
    }

    /// Gives the owner up for an address, for what hardware or assembly keeps.
    pub fn into_raw(self) -> PhysAddr {
        let addr = self.addr;
        core::mem::forget(self);
        addr
    }

    /// The owner that [`KernelPages::into_raw`] gave up.
    ///
    /// # Safety
    ///
    /// `addr` comes from `into_raw` and is taken back once.
    pub unsafe fn from_raw(addr: PhysAddr) -> KernelPages {
        let order = ram()
            .map_or(0, |ram| meta::order(ram.table.word(ram.index(addr)).load(Ordering::Relaxed)));
        KernelPages { addr, order }
    }
}

impl Drop for KernelPages {
    fn drop(&mut self) {
        if let Some(ram) = ram() {
            let index = ram.index(self.addr);
            let word = ram.table.word(index).load(Ordering::Relaxed);
            ram.give(index, self.order, meta::usage(word));
        }
    }
}

impl fmt::Debug for KernelPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KernelPages({:#x}, order {})", self.addr, self.order)
    }
}

/// One page of kernel memory as 512 atomic double words: a page table that is
/// known by its address only.
///
/// # Safety
///
/// `addr` is a page of a [`KernelPages`] (or of reserved memory that serves as
/// a page table) that lives for `'a` and is used by atomic accesses only.
pub unsafe fn entries_at<'a>(addr: PhysAddr) -> &'a [AtomicU64; 512] {
    // SAFETY: as the contract says; init's contract maps it.
    unsafe { &*phys_to_virt(addr.page_align_down()).cast() }
}
