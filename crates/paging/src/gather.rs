//! What left a page table but may still be in a TLB.
#![forbid(unsafe_code)]

use crate::table::publish;
use frame::{Frame, KernelPages};

/// The TLBs of one address space: the kernel knows its ASID or VMID, and which
/// CPUs hold it.
pub trait Tlb {
    /// Makes every CPU forget `len` bytes from `start`, and returns once they
    /// have (DSB). `last_level`: only leaves changed, so that cached pointers to
    /// tables may stay.
    fn invalidate_range(&self, start: u64, len: u64, last_level: bool);
}

const FRAMES: usize = 128;
const TABLES: usize = 16;

/// Frames and tables that left a page table. They are freed when it is dropped
/// or full, after the TLBs forgot them: there is no other way to free them.
///
/// It also limits how much one call does, so that the caller can let interrupts
/// in between calls.
pub struct Gather<'t> {
    tlb: &'t dyn Tlb,
    start: u64,
    end: u64,
    last_level: bool,
    budget: usize,
    frames: [Option<Frame>; FRAMES],
    frame_count: usize,
    tables: [Option<KernelPages>; TABLES],
    table_count: usize,
}

impl<'t> Gather<'t> {
    /// Entries that a new gather's calls look at before they stop.
    pub const BUDGET: usize = 2048;

    /// Nothing yet.
    pub fn new(tlb: &'t dyn Tlb) -> Self {
        Gather {
            tlb,
            start: u64::MAX,
            end: 0,
            last_level: true,
            budget: Self::BUDGET,
            frames: [const { None }; FRAMES],
            frame_count: 0,
            tables: [const { None }; TABLES],
            table_count: 0,
        }
    }

    /// A gather whose calls go through to the end: for small ranges.
    pub fn unbounded(tlb: &'t dyn Tlb) -> Self {
        let mut gather = Gather::new(tlb);
        gather.budget = usize::MAX;
        gather
    }

    /// Invalidates what changed so far, then frees what left.
    pub fn flush(&mut self) {
        if self.start < self.end {
            let len = self.end.wrapping_sub(self.start);
            // The invalidation comes after the stores (D8.16.2).
            publish();
            self.tlb.invalidate_range(self.start, len, self.last_level);
        }
        (self.start, self.end, self.last_level) = (u64::MAX, 0, true);
        self.frames.iter_mut().take(self.frame_count).for_each(|slot| *slot = None);
        self.tables.iter_mut().take(self.table_count).for_each(|slot| *slot = None);
        (self.frame_count, self.table_count) = (0, 0);
    }

    /// Counts one entry looked at; false once the budget is spent.
    pub(crate) fn spend(&mut self) -> bool {
        match self.budget.checked_sub(1) {
            Some(left) => {
                self.budget = left;
                true
            }
            None => false,
        }
    }

    /// The leaf at `start` changed and may be cached.
    pub(crate) fn stale(&mut self, start: u64, len: u64) {
        self.start = self.start.min(start);
        self.end = self.end.max(start.saturating_add(len));
    }

    /// `frame` left the leaf at `start`; `cached` unless the leaf wasn't valid.
    pub(crate) fn frame(&mut self, start: u64, frame: Frame, cached: bool) {
        if cached {
            self.stale(start, frame.size().bytes());
        }
        if self.frame_count == FRAMES {
            self.flush();
            if cached {
                self.stale(start, frame.size().bytes());
            }
        }
        if let Some(slot) = self.frames.get_mut(self.frame_count) {
            *slot = Some(frame);
            self.frame_count = self.frame_count.wrapping_add(1);
        }
    }

    /// The table that mapped `len` bytes from `start` left.
    pub(crate) fn table(&mut self, start: u64, len: u64, table: KernelPages) {
        if self.table_count == TABLES {
            self.flush();
        }
        self.stale(start, len);
        self.last_level = false;
        if let Some(slot) = self.tables.get_mut(self.table_count) {
            *slot = Some(table);
            self.table_count = self.table_count.wrapping_add(1);
        }
    }

    /// Invalidates one leaf at once, for break-before-make (D8.16.1).
    pub(crate) fn break_leaf(&self, start: u64, len: u64) {
        publish();
        self.tlb.invalidate_range(start, len, true);
    }
}

impl Drop for Gather<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}
