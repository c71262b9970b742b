//! The kernel's first map, before there are frames.

use crate::descriptor::{is_table, leaf, shift, span, table};
use crate::regime::Regime;
use base::{Errno, PAGE_SIZE, PhysAddr, Result};
use core::marker::PhantomData;

/// Builds a map of kernel memory (the linear map, the image, devices) out of
/// pages that a closure gives. [`crate::PageTable::adopt`] takes it over.
pub struct KernelMapBuilder<R: Regime, F: FnMut() -> Option<PhysAddr>> {
    root: PhysAddr,
    bits: u8,
    offset: u64,
    pages: F,
    regime: PhantomData<R>,
}

impl<R: Regime, F: FnMut() -> Option<PhysAddr>> KernelMapBuilder<R, F> {
    /// An empty map of 2^`bits` bytes, 25 to 48, whose root is the first page.
    ///
    /// # Safety
    ///
    /// `pages` gives pages of memory that nobody else uses, writable now at
    /// their physical address plus `offset` (wrapping; 0 with the MMU off) with
    /// exposed provenance. They stay page tables for good.
    pub unsafe fn new(bits: u8, offset: u64, mut pages: F) -> Result<Self> {
        if !(25..=48).contains(&bits) {
            return Err(Errno::EINVAL);
        }
        let root = pages().ok_or(Errno::ENOMEM)?;
        let builder = KernelMapBuilder { root, bits, offset, pages, regime: PhantomData };
        builder.clear(root);
        Ok(builder)
    }

    /// What TTBR holds as address.
    pub fn root(&self) -> PhysAddr {
        self.root
    }

    fn entry(&self, table: PhysAddr, index: u64) -> *mut u64 {
        let at = table.get().wrapping_add(self.offset).wrapping_add((index & 511) << 3);
        core::ptr::with_exposed_provenance_mut(at as usize)
    }

    fn clear(&self, table: PhysAddr) {
        for index in 0..512 {
            // SAFETY: an aligned entry of a page that `pages` gave (contract of
            // `new`). Plain words: SIMD or DC ZVA would fail with the MMU off.
            unsafe { self.entry(table, index).write_volatile(0) };
        }
    }

    /// Maps `len` bytes, in the largest leaves that alignment allows: 1 GiB,
    /// 2 MiB, 4 KiB. What is mapped already is `EEXIST`.
    pub fn map(&mut self, start: u64, addr: PhysAddr, len: u64, attrs: R::Attrs) -> Result<()> {
        let base = if R::UPPER { u64::MAX << (self.bits & 63) } else { 0 };
        let mut at = start.wrapping_sub(base);
        let end = at.checked_add(len).ok_or(Errno::EINVAL)?;
        let mut addr = addr.get();
        let bits = R::encode(attrs).ok_or(Errno::EINVAL)?;
        if end > 1 << (self.bits & 63) || !(at | len | addr).is_multiple_of(PAGE_SIZE) {
            return Err(Errno::EINVAL);
        }
        let first = crate::table::geometry(self.bits, 0).0;
        while at < end {
            let fits = |level: &u8| {
                (at | addr).is_multiple_of(span(*level)) && end.wrapping_sub(at) >= span(*level)
            };
            let level = [1u8, 2].into_iter().filter(|l| *l >= first).find(fits).unwrap_or(3);
            let slot = self.slot(at, first, level)?;
            // SAFETY: as in `clear`.
            unsafe {
                if slot.read_volatile() != 0 {
                    return Err(Errno::EEXIST);
                }
                slot.write_volatile(addr | bits | leaf(level));
            }
            at = at.wrapping_add(span(level));
            addr = addr.wrapping_add(span(level));
        }
        Ok(())
    }

    fn slot(&mut self, at: u64, first: u8, level: u8) -> Result<*mut u64> {
        let mut from = self.root;
        for depth in first..level {
            let slot = self.entry(from, at >> shift(depth));
            // SAFETY: as in `clear`.
            let desc = unsafe { slot.read_volatile() };
            from = if desc == 0 {
                let page = (self.pages)().ok_or(Errno::ENOMEM)?;
                self.clear(page);
                // SAFETY: as in `clear`.
                unsafe { slot.write_volatile(table(page, false)) };
                page
            } else if is_table(desc, depth) {
                crate::descriptor::address(desc)
            } else {
                return Err(Errno::EEXIST);
            };
        }
        Ok(self.entry(from, at >> shift(level)))
    }
}
