//! The kernel heap: small things from talc, which grows by kernel pages; large
//! things are kernel pages themselves.
#![expect(unsafe_code, reason = "a global allocator")]

use base::{Lock, PhysAddr, rank};
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};
use frame::{Fill, KernelPages};
use talc::DefaultBinning;
use talc::base::Talc;
use talc::source::Manual;

/// From this size on an allocation is pages of its own.
const LARGE: usize = 16 << 10;
/// How much the heap grows by: 64 KiB.
const GROWTH_ORDER: u8 = 4;

struct Heap {
    small: Lock<Talc<Manual, DefaultBinning>>,
    used: AtomicUsize,
}

#[global_allocator]
static HEAP: Heap =
    Heap { small: Lock::new(rank::HEAP, Talc::new(Manual)), used: AtomicUsize::new(0) };

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

impl Heap {
    fn grow(&self) -> bool {
        let Ok(pages) = KernelPages::alloc_for_heap(GROWTH_ORDER) else { return false };
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
                .and_then(|order| KernelPages::alloc(order, Fill::Stale).ok())
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
                if !self.grow() {
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
            // SAFETY: came from `try_allocate` with this layout.
            unsafe { self.small.lock().deallocate(pointer.as_ptr(), layout) };
        }
    }
}
