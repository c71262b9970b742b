use super::*;
use core::alloc::Layout;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::vec::Vec;

const PAGE_LAYOUT: Layout = match Layout::from_size_align(PAGE, PAGE) {
    Ok(layout) => layout,
    Err(_) => panic!(),
};

/// Slabs, the pages they have, and what is allocated, each object full of a byte.
struct Heap {
    slabs: Slabs,
    pages: BTreeSet<usize>,
    live: Vec<(NonNull<u8>, Layout, u8)>,
    next: u8,
}

impl Heap {
    fn new() -> Heap {
        Heap { slabs: Slabs::new(), pages: BTreeSet::new(), live: Vec::new(), next: 0 }
    }

    fn add(&mut self) {
        // SAFETY: not of size zero.
        let page = NonNull::new(unsafe { std::alloc::alloc(PAGE_LAYOUT) }).unwrap();
        assert!(self.pages.insert(page.addr().get()));
        // SAFETY: fresh, and given back when `free` returns it.
        unsafe { self.slabs.add(page) };
    }

    /// Whether a page was needed; none if no class has such objects.
    fn alloc(&mut self, layout: Layout) -> Option<bool> {
        let class = Class::of(layout)?;
        let object = self.slabs.alloc(class);
        let grown = object.is_none();
        if grown {
            self.add();
        }
        let object = object.or_else(|| self.slabs.alloc(class)).unwrap();
        let at = object.addr().get();
        assert_eq!(at % layout.align(), 0);
        assert!(self.pages.contains(&(at & !(PAGE - 1))));
        assert!(at % PAGE >= HEADER && at % PAGE + layout.size() <= PAGE);
        self.next = self.next.wrapping_add(1);
        // SAFETY: allocated, of this size.
        unsafe { object.write_bytes(self.next, layout.size()) };
        self.live.push((object, layout, self.next));
        Some(grown)
    }

    /// Whether a page came back.
    fn free(&mut self, n: usize) -> bool {
        let (object, layout, byte) = self.live.swap_remove(n);
        // SAFETY: allocated and written, of this size.
        let bytes = unsafe { core::slice::from_raw_parts(object.as_ptr(), layout.size()) };
        // Nobody else has it.
        assert!(bytes.iter().all(|b| *b == byte));
        // SAFETY: from `alloc`, once.
        let page = unsafe { self.slabs.free(object, Class::of(layout).unwrap()) };
        if let Some(page) = page {
            assert!(self.pages.remove(&page.addr().get()));
            // SAFETY: from `add`, and ours again.
            unsafe { std::alloc::dealloc(page.as_ptr(), PAGE_LAYOUT) };
        }
        page.is_some()
    }

    /// The pages that hold something.
    fn used(&self) -> BTreeSet<usize> {
        self.live.iter().map(|(object, ..)| object.addr().get() & !(PAGE - 1)).collect()
    }
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

#[test]
fn pages_come_back_when_they_are_empty() {
    for class in Class::all() {
        let layout = layout(class.size(), 16);
        let objects = class.capacity(HEADER);
        let mut heap = Heap::new();
        // Three slabs.
        for n in 0..3 * objects {
            assert_eq!(heap.alloc(layout), Some(n % objects == 0));
        }
        assert_eq!(heap.pages.len(), 3);
        // One of each, the middle one's last: they have room, and it is used.
        for n in [2 * objects, 0, objects] {
            assert!(!heap.free(n));
        }
        assert!((0..3).all(|_| heap.alloc(layout) == Some(false)));
        assert_eq!(heap.alloc(layout), Some(true));
        let empty = (0..heap.live.len()).filter(|_| heap.free(0)).count();
        assert_eq!((empty, heap.pages.len()), (4, 0));
        // Nothing is left in a list.
        assert!(heap.slabs.alloc(class).is_none());
    }
}

#[test]
fn spare_pages_are_for_any_class() {
    let mut heap = Heap::new();
    heap.add();
    heap.add();
    assert_eq!(heap.alloc(layout(16, 8)), Some(false));
    assert_eq!(heap.alloc(layout(2000, 8)), Some(false));
    assert_eq!(heap.alloc(layout(100, 64)), Some(true));
    assert_eq!(heap.alloc(layout(2017, 1)), None);
    assert_eq!(heap.alloc(layout(1, 4096)), None);
    assert!(heap.free(0) && heap.free(0) && heap.free(0));
}

proptest! {
    #[test]
    fn like_the_model(
        steps in prop::collection::vec((any::<bool>(), 1usize..2200, 0u32..9, any::<prop::sample::Index>()), 0..400),
        bias in 0usize..8,
    ) {
        let mut heap = Heap::new();
        for (alloc, size, shift, which) in steps {
            if alloc || heap.live.is_empty() {
                // Mostly few sizes, so that slabs fill.
                let size = if size % 8 < bias { size % 4 * 333 + 1 } else { size };
                heap.alloc(layout(size, 1 << shift));
            } else {
                heap.free(which.index(heap.live.len()));
            }
            prop_assert_eq!(&heap.pages, &heap.used());
        }
        while !heap.live.is_empty() {
            heap.free(heap.live.len() / 2);
        }
        prop_assert!(heap.pages.is_empty());
        prop_assert!(heap.slabs.spare.is_none() && heap.slabs.room.iter().all(|first| first.is_none()));
    }
}
