//! Small objects in pages: what the kernel's heap is made of.
//!
//! A slab is a page of objects of one size ([`Class`]), below which a header says which
//! of them are free. An object's slab is found by its address and its class by its
//! layout, so objects have no header of their own. Of each class there is a list of the
//! slabs that have room; full ones are in no list. All of it is a bounded number of steps.
//!
//! [`Slabs`] takes and returns pages; where they come from is its caller's business.
#![no_std]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

#[cfg(test)]
extern crate std;

mod class;
mod slots;
#[cfg(test)]
mod tests;

pub use class::Class;

use class::CLASSES;
use core::num::NonZeroUsize;
use core::ptr::NonNull;
use slots::Slots;

/// The size of a slab, and its alignment.
pub const PAGE: usize = 4096;
const HEADER: usize = size_of::<Slab>();

/// The header of a page.
struct Slab {
    slots: Slots,
    next: Option<Page>,
    prev: Option<Page>,
}

/// The address of a page with a valid header, which is its [`Slabs`]' alone.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Page(NonZeroUsize);

impl Page {
    fn pointer<T>(self) -> NonNull<T> {
        NonNull::with_exposed_provenance(self.0)
    }
}

/// Objects of all classes, and the pages that hold them.
pub struct Slabs {
    /// By class: the first slab with room.
    room: [Option<Page>; CLASSES],
    /// The first page without a class.
    spare: Option<Page>,
}

impl Slabs {
    /// No page yet.
    #[expect(clippy::new_without_default, reason = "nobody asks for it")]
    pub const fn new() -> Self {
        Slabs { room: [None; CLASSES], spare: None }
    }

    /// Adds a page for the class that next needs one.
    ///
    /// # Safety
    ///
    /// `page` is [`PAGE`] bytes of memory, aligned to as many, and nobody else's until
    /// [`Slabs::free`] returns it.
    pub unsafe fn add(&mut self, page: NonNull<u8>) {
        let slab = Slab { slots: Slots::new(0), next: self.spare, prev: None };
        // SAFETY: the page is ours (contract), and a header fits in it.
        unsafe { page.cast().write(slab) };
        self.spare = Some(Page(page.expose_provenance()));
    }

    /// An object of this class, uninitialised; none if that takes a page that isn't there.
    #[inline]
    pub fn alloc(&mut self, class: Class) -> Option<NonNull<u8>> {
        let page = self.first(class).or_else(|| self.open(class))?;
        let slab = self.slab(page);
        let slot = slab.slots.take()?;
        if slab.slots.is_full() {
            self.unlink(page, class);
        }
        let address = page.0.checked_add(class.offset(slot))?;
        Some(NonNull::with_exposed_provenance(address))
    }

    /// Frees an object. If its slab is empty now, the page is the caller's.
    ///
    /// # Safety
    ///
    /// `object` comes from [`Slabs::alloc`] of the same class, and isn't used any more.
    #[inline]
    pub unsafe fn free(&mut self, object: NonNull<u8>, class: Class) -> Option<NonNull<u8>> {
        let offset = object.addr().get() % PAGE;
        // The page of an object that is allocated (contract).
        let page = Page(NonZeroUsize::new(object.addr().get().wrapping_sub(offset))?);
        let slab = self.slab(page);
        let was_full = slab.slots.is_full();
        slab.slots.give(class.number(offset));
        if slab.slots.is_empty() {
            // A slab has two objects at least: it is in the list.
            self.unlink(page, class);
            return Some(page.pointer());
        }
        if was_full {
            self.link(page, class);
        }
        None
    }

    /// Makes a spare page a slab.
    fn open(&mut self, class: Class) -> Option<Page> {
        let page = self.spare?;
        let slab = self.slab(page);
        slab.slots = Slots::new(class.capacity(HEADER));
        self.spare = slab.next;
        self.link(page, class);
        Some(page)
    }

    fn first(&self, class: Class) -> Option<Page> {
        *self.room.get(class.index())?
    }

    fn set_first(&mut self, class: Class, page: Option<Page>) {
        if let Some(first) = self.room.get_mut(class.index()) {
            *first = page;
        }
    }

    fn link(&mut self, page: Page, class: Class) {
        let next = self.first(class);
        if let Some(next) = next {
            self.slab(next).prev = Some(page);
        }
        let slab = self.slab(page);
        (slab.prev, slab.next) = (None, next);
        self.set_first(class, Some(page));
    }

    fn unlink(&mut self, page: Page, class: Class) {
        let slab = self.slab(page);
        let (prev, next) = (slab.prev, slab.next);
        if let Some(next) = next {
            self.slab(next).prev = prev;
        }
        match prev {
            Some(prev) => self.slab(prev).next = next,
            None => self.set_first(class, next),
        }
    }

    #[inline]
    fn slab(&mut self, page: Page) -> &mut Slab {
        // SAFETY: a `Page` is in a list, from `add` until `free` takes it out, or has just
        // been found by an object of it: its header is valid, outside all objects, and
        // only reached through `self`, which is borrowed.
        unsafe { page.pointer().as_mut() }
    }
}
