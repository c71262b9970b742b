//! The kernel heap: small things in slabs of a page, which go back to the frames
//! when they are empty; large things are kernel pages themselves.
#![expect(unsafe_code, reason = "a global allocator")]

use base::{Lock, PAGE_SIZE, PhysAddr, rank};
use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};
use frame::{Fill, KernelPages, Use};
use slab::{Class, PAGE, Slabs};

/// Up to here large things may have the last of the reserve, as slabs may: lists that
/// grow where nobody can be told no. Above, only who can asks.
const SURE: usize = 64 << 10;
/// What there is before there are frames.
const FIRST: usize = 128 << 10;

const _: () = assert!(PAGE as u64 == PAGE_SIZE);

#[repr(C, align(4096))]
struct First(UnsafeCell<[u8; FIRST]>);
// SAFETY: pieces of it are handed out, each to one owner.
unsafe impl Sync for First {}
static FIRST_PAGES: First = First(UnsafeCell::new([0; FIRST]));

struct Small {
    slabs: Slabs,
    /// So much of [`FIRST_PAGES`] was handed out. What comes back is the slabs' for good.
    first: usize,
}

struct Heap {
    // The frames' lock ranks below this one: they are taken and given without it.
    small: Lock<Small>,
    used: AtomicUsize,
}

#[global_allocator]
static HEAP: Heap = Heap {
    small: Lock::new(rank::HEAP, Small { slabs: Slabs::new(), first: 0 }),
    used: AtomicUsize::new(0),
};

/// Bytes in use.
pub fn used() -> usize {
    HEAP.used.load(Ordering::Relaxed)
}

/// Where things of a layout are.
#[derive(PartialEq)]
enum Place {
    Slab(Class),
    /// Pages of their own, of this order.
    Pages(u8),
}

impl Place {
    #[inline]
    fn of(layout: Layout) -> Option<Place> {
        let pages = || KernelPages::order_for(layout.size().max(layout.align()));
        Class::of(layout).map(Place::Slab).or_else(|| pages().map(Place::Pages))
    }
}

impl Small {
    fn alloc(&mut self, class: Class) -> Option<NonNull<u8>> {
        if let Some(object) = self.slabs.alloc(class) {
            return Some(object);
        }
        let page = self.take_first(0)?;
        // SAFETY: a fresh page.
        unsafe { self.slabs.add(page) };
        self.slabs.alloc(class)
    }

    /// Takes pages of the first ones, aligned to their size.
    fn take_first(&mut self, order: u8) -> Option<NonNull<u8>> {
        let size = PAGE.checked_shl(u32::from(order))?;
        // The first ones are aligned to a page.
        let base = FIRST_PAGES.0.get().cast::<u8>();
        let offset = base.wrapping_add(self.first).align_offset(size);
        let start = self.first.checked_add(offset)?;
        let end = start.checked_add(size).filter(|end| *end <= FIRST)?;
        let pages = NonNull::new(base.wrapping_add(start));
        self.first = end;
        pages
    }

    /// Gives pages back that were taken of the first ones.
    ///
    /// # Safety
    ///
    /// They are from `take_first`, and nobody's now.
    unsafe fn give_first(&mut self, pages: NonNull<u8>, order: u8) {
        for n in 0..1usize.wrapping_shl(u32::from(order)) {
            let page = pages.as_ptr().wrapping_add(n.wrapping_mul(PAGE));
            if let Some(page) = NonNull::new(page) {
                // SAFETY: one of them (contract).
                unsafe { self.slabs.add(page) };
            }
        }
    }
}

impl Heap {
    #[inline]
    fn alloc_small(&self, class: Class) -> Option<NonNull<u8>> {
        if let Some(object) = self.small.lock().alloc(class) {
            return Some(object);
        }
        let pages = KernelPages::alloc_for_heap(0).ok()?;
        let page = pages.as_ptr();
        let _ = pages.into_raw();
        let mut small = self.small.lock();
        // SAFETY: a fresh page, given up until `free` returns it.
        unsafe { small.slabs.add(page) };
        small.slabs.alloc(class)
    }

    fn alloc_pages(&self, order: u8, size: usize) -> Option<NonNull<u8>> {
        let pages = match size <= SURE {
            true => KernelPages::alloc_for_heap(order),
            false => KernelPages::alloc(Use::Heap, order, Fill::Stale),
        };
        // Long lists of a device tree are read before there are frames.
        let Ok(pages) = pages else { return self.small.lock().take_first(order) };
        let pointer = pages.as_ptr();
        let _ = pages.into_raw();
        Some(pointer)
    }

    /// # Safety
    ///
    /// They are what `alloc_small` added to the slabs or `alloc_pages` returned, and
    /// nobody's now.
    unsafe fn free_pages(&self, pages: NonNull<u8>, order: u8) {
        if pages.addr().get().wrapping_sub(FIRST_PAGES.0.get().addr()) < FIRST {
            // SAFETY: from `take_first`, by their address.
            return unsafe { self.small.lock().give_first(pages, order) };
        }
        let phys = crate::memory::virt_to_phys(pages.addr().get() as u64);
        // SAFETY: from `into_raw`, once (contract).
        drop(unsafe { KernelPages::from_raw(PhysAddr::new(phys)) });
    }
}

// SAFETY: `alloc` returns memory that nobody else has, of the layout asked for
// (the slabs' and the frame allocator's promise), until `dealloc`.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let pointer = match Place::of(layout) {
            Some(Place::Slab(class)) => self.alloc_small(class),
            Some(Place::Pages(order)) => self.alloc_pages(order, layout.size()),
            None => None,
        };
        let Some(pointer) = pointer else { return core::ptr::null_mut() };
        self.used.fetch_add(layout.size(), Ordering::Relaxed);
        pointer.as_ptr()
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.used.fetch_sub(layout.size(), Ordering::Relaxed);
        let Some(pointer) = NonNull::new(pointer) else { return };
        match Place::of(layout) {
            Some(Place::Slab(class)) => {
                // SAFETY: came from `alloc` with this layout, which names the class again.
                let empty = unsafe { self.small.lock().slabs.free(pointer, class) };
                if let Some(page) = empty {
                    // SAFETY: the slabs have it no more.
                    unsafe { self.free_pages(page, 0) };
                }
            }
            // SAFETY: came from `alloc` with this layout, which names the order again.
            Some(Place::Pages(order)) => unsafe { self.free_pages(pointer, order) },
            None => {}
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: `size`, rounded up to the alignment, is no overflow (GlobalAlloc).
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if Place::of(wanted) == Place::of(layout) {
            self.used.fetch_add(size.wrapping_sub(layout.size()), Ordering::Relaxed);
            return pointer;
        }
        // SAFETY: a layout that isn't of size zero (GlobalAlloc).
        let new = unsafe { self.alloc(wanted) };
        if !new.is_null() {
            // SAFETY: both are as large, and they are two; the old one is the caller's,
            // which gives it up with this.
            unsafe {
                core::ptr::copy_nonoverlapping(pointer, new, size.min(layout.size()));
                self.dealloc(pointer, layout);
            }
        }
        new
    }
}
