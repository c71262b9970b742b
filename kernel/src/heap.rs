//! The kernel heap: small things from talc, which grows by kernel pages and
//! gives them back; large things are kernel pages themselves.
#![expect(unsafe_code, reason = "a global allocator")]

use base::{Lock, PAGE_SIZE, PhysAddr, rank};
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};
use frame::{Fill, KernelPages, Use};
use talc::DefaultBinning;
use talc::base::Talc;
use talc::base::binning::Binning;
use talc::source::Source;

/// From this size on an allocation is pages of its own.
const LARGE: usize = 16 << 10;
/// How much the heap grows by, where that is to be had: 64 KiB.
const GROWTH_ORDER: u8 = 4;
/// Up to here large things may have the last of the reserve, too: lists that
/// grow where nobody can be told no. Above, only who can asks.
const SURE: usize = 64 << 10;

/// Where talc's regions come from and go: the frame allocator, but not while
/// the heap's lock is held, which ranks above the frames'.
#[derive(Debug)]
struct Regions {
    /// The region that the last `deallocate` emptied.
    empty: Option<NonNull<u8>>,
}

// SAFETY: a region's address, which belongs to whoever has the struct.
unsafe impl Send for Regions {}

// SAFETY: touches no allocator; `resize` returns one of the two addresses it
// was given.
unsafe impl Source for Regions {
    fn acquire<B: Binning>(_: &mut Talc<Self, B>, _: Layout) -> Result<(), ()> {
        Err(())
    }

    const TRACK_HEAP_END: bool = true;

    unsafe fn resize(&mut self, chunk: *mut u8, end: *mut u8, is_base: bool) -> *mut u8 {
        // A region starts at a page, and its first chunk some bytes above.
        let base = chunk.wrapping_sub(1).map_addr(|addr| addr & !(PAGE_SIZE as usize).wrapping_sub(1));
        if !is_base || base == FIRST_HEAP.0.get().cast() {
            return end;
        }
        self.empty = NonNull::new(base);
        chunk
    }
}

struct Heap {
    small: Lock<Talc<Regions, DefaultBinning>>,
    used: AtomicUsize,
}

#[global_allocator]
static HEAP: Heap =
    Heap { small: Lock::new(rank::HEAP, Talc::new(Regions { empty: None })), used: AtomicUsize::new(0) };

/// What the heap starts with, before there are frames.
const FIRST: usize = 64 << 10;

#[repr(C, align(4096))]
struct First(core::cell::UnsafeCell<[u8; FIRST]>);
// SAFETY: handed to the allocator once, by the boot CPU.
unsafe impl Sync for First {}
static FIRST_HEAP: First = First(core::cell::UnsafeCell::new([0; FIRST]));

/// Gives the heap its first memory. Once, on the boot CPU.
pub fn init() {
    // SAFETY: the array is static and nobody else's.
    unsafe { HEAP.small.lock().claim(FIRST_HEAP.0.get().cast(), FIRST) };
}

/// Bytes in use.
pub fn used() -> usize {
    HEAP.used.load(Ordering::Relaxed)
}

/// What a region loses at its ends, at most.
const OVERHEAD: usize = 128;

impl Heap {
    /// Takes a region that has room for `layout`.
    fn grow(&self, layout: Layout) -> bool {
        // talc aligns both ends, and keeps a tag at each.
        let needed = layout.size().saturating_add(layout.align()).saturating_add(OVERHEAD);
        let Some(least) = KernelPages::order_for(needed) else { return false };
        // Memory may be in pieces: smaller regions do.
        let orders = (least..=least.max(GROWTH_ORDER)).rev();
        let pages = orders.into_iter().find_map(|order| KernelPages::alloc_for_heap(order).ok());
        let Some(pages) = pages.or_else(|| KernelPages::alloc_piece_for_heap(least).ok()) else { return false };
        let (start, len) = (pages.as_ptr(), pages.len());
        let _ = pages.into_raw();
        // SAFETY: fresh pages, given up for good.
        unsafe { self.small.lock().claim(start.as_ptr(), len) };
        true
    }
}

// SAFETY: `alloc` returns memory that nobody else has, of the layout asked for
// (talc's and the frame allocator's promise), until `dealloc`.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let pointer = if layout.size() >= LARGE {
            // The frame allocator's lock ranks below the heap's: not nested.
            KernelPages::order_for(layout.size())
                .and_then(|order| match layout.size() <= SURE {
                    true => KernelPages::alloc_piece_for_heap(order).ok(),
                    false => KernelPages::alloc(Use::Heap, order, Fill::Stale).ok(),
                })
                .map_or(core::ptr::null_mut(), |pages| {
                    let pointer = pages.as_ptr().as_ptr();
                    let _ = pages.into_raw();
                    pointer
                })
        } else {
            loop {
                // SAFETY: GlobalAlloc promises a layout of non-zero size.
                if let Some(pointer) = unsafe { self.small.lock().try_allocate(layout) } {
                    break pointer.as_ptr();
                }
                if !self.grow(layout) {
                    break core::ptr::null_mut();
                }
            }
        };
        if !pointer.is_null() {
            self.used.fetch_add(layout.size(), Ordering::Relaxed);
        }
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.used.fetch_sub(layout.size(), Ordering::Relaxed);
        if layout.size() >= LARGE {
            let phys = crate::memory::virt_to_phys(pointer.addr() as u64);
            // SAFETY: came from `into_raw` in `alloc`, whose size class the
            // layout repeats.
            drop(unsafe { KernelPages::from_raw(PhysAddr::new(phys)) });
        } else if let Some(pointer) = NonNull::new(pointer) {
            let empty = {
                let mut small = self.small.lock();
                // SAFETY: came from `try_allocate` with this layout.
                unsafe { small.deallocate(pointer.as_ptr(), layout) };
                small.source.empty.take()
            };
            if let Some(region) = empty {
                let phys = crate::memory::virt_to_phys(region.as_ptr().addr() as u64);
                // SAFETY: `grow` claimed it with `into_raw`; talc has forgotten
                // it, and nothing of it is allocated.
                drop(unsafe { KernelPages::from_raw(PhysAddr::new(phys)) });
            }
        }
    }
}
