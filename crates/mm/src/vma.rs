//! The areas of an address space.

use crate::abi::{MAX_MAP_COUNT, PROT_EXEC, PROT_READ, PROT_WRITE};
use crate::fault::Access;
use crate::object::{ObjectId, VmObject};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use base::{Errno, PAGE_SHIFT, Result, room};
use paging::UserAttrs;

/// What an area is, besides its protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct VmaFlags {
    /// MAP_SHARED.
    pub shared: bool,
    /// MAP_GROWSDOWN: the stack.
    pub grows_down: bool,
    /// MADV_HUGEPAGE.
    pub huge: bool,
    /// MADV_NOHUGEPAGE, MAP_STACK.
    pub no_huge: bool,
    /// MADV_DONTFORK.
    pub dont_fork: bool,
    /// MADV_DONTDUMP.
    pub dont_dump: bool,
    /// MADV_WIPEONFORK.
    pub wipe_on_fork: bool,
}

/// An area: `start..end`, in whole pages.
#[derive(Clone)]
pub(crate) struct Vma {
    pub start: u64,
    pub end: u64,
    /// PROT_ bits.
    pub prot: u32,
    /// What mprotect may set it to.
    pub max_prot: u32,
    pub flags: VmaFlags,
    /// None: private anonymous memory. Else with the index of its first page.
    pub object: Option<(Arc<dyn VmObject>, u64)>,
}

impl Vma {
    pub fn len(&self) -> u64 {
        self.end.wrapping_sub(self.start)
    }

    /// The object's page behind `addr`.
    pub fn index(&self, addr: u64) -> u64 {
        let first = self.object.as_ref().map_or(0, |(_, first)| *first);
        first.wrapping_add(addr.wrapping_sub(self.start) >> PAGE_SHIFT)
    }

    /// On arm64 without FEAT_PAN3 what can be written or executed can be read.
    pub fn allows(&self, access: Access) -> bool {
        match access {
            Access::Read => self.prot & (PROT_READ | PROT_WRITE | PROT_EXEC) != 0,
            Access::Write => self.prot & PROT_WRITE != 0,
            Access::Exec => self.prot & PROT_EXEC != 0,
        }
    }

    /// What a leaf allows, `write` if the frame may be written.
    pub fn attrs(&self, write: bool) -> UserAttrs {
        UserAttrs {
            read: self.prot & (PROT_READ | PROT_WRITE | PROT_EXEC) != 0,
            write: write && self.prot & PROT_WRITE != 0,
            exec: self.prot & PROT_EXEC != 0,
            ..UserAttrs::default()
        }
    }

    /// What a leaf that allowed `old` allows here, `write` if it may be written.
    /// What wasn't executable isn't: the caches may not agree on it. The leaf
    /// may have allowed more than the area: mprotect() changes areas first, and
    /// pages in steps.
    pub fn attrs_after(&self, old: UserAttrs, write: bool) -> UserAttrs {
        let new = self.attrs(old.write && write);
        UserAttrs { exec: new.exec && old.exec, ..new }
    }

    /// Whether `next`, which starts where this ends, is more of the same.
    fn continues(&self, next: &Vma) -> bool {
        let same_object = match (&self.object, &next.object) {
            (None, None) => true,
            (Some((a, _)), Some((b, first))) => Arc::ptr_eq(a, b) && self.index(self.end) == *first,
            _ => false,
        };
        self.end == next.start
            && self.prot == next.prot
            && self.max_prot == next.max_prot
            && self.flags == next.flags
            && same_object
    }

    pub fn info(&self) -> VmaInfo {
        let object = self.object.as_ref();
        VmaInfo {
            start: self.start,
            end: self.end,
            prot: self.prot,
            flags: self.flags,
            offset: object.map_or(0, |(_, first)| first << PAGE_SHIFT),
            id: object.map(|(object, _)| object.id()),
            name: object.map_or_else(String::new, |(object, _)| object.name()),
        }
    }
}

/// A line of /proc/PID/maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmaInfo {
    /// Its first address.
    pub start: u64,
    /// The first address above it.
    pub end: u64,
    /// PROT_ bits.
    pub prot: u32,
    /// The rest.
    pub flags: VmaFlags,
    /// Of `start` in the object, in bytes.
    pub offset: u64,
    /// Whose pages it maps; none for private anonymous memory.
    pub id: Option<ObjectId>,
    /// The object's name, `[heap]`, `[stack]` or nothing.
    pub name: String,
}

/// The areas by their start. They don't overlap.
#[derive(Default)]
pub(crate) struct VmaTree {
    areas: BTreeMap<u64, Vma>,
    pages: u64,
}

impl VmaTree {
    pub fn count(&self) -> usize {
        self.areas.len()
    }

    /// 4 KiB pages in areas.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// `ENOMEM` if `more` areas are too many, or there is no memory for them.
    pub fn room(&self, more: usize) -> Result<()> {
        if more == 0 {
            return Ok(());
        }
        let fits = self.count().saturating_add(more) <= MAX_MAP_COUNT;
        if fits { room::room_in(&self.areas) } else { Err(Errno::ENOMEM) }
    }

    /// The area that holds `addr`.
    pub fn find(&self, addr: u64) -> Option<&Vma> {
        self.areas.range(..=addr).next_back().map(|(_, vma)| vma).filter(|vma| vma.end > addr)
    }

    /// The first area that ends above `addr`.
    pub fn find_or_above(&self, addr: u64) -> Option<&Vma> {
        self.find(addr).or_else(|| self.areas.range(addr..).next().map(|(_, vma)| vma))
    }

    /// The last area that starts below `addr`.
    pub fn below(&self, addr: u64) -> Option<&Vma> {
        self.areas.range(..addr).next_back().map(|(_, vma)| vma)
    }

    /// The areas that reach into `start..end`, upwards.
    pub fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = &Vma> {
        let first = self.find(start).map_or(start, |vma| vma.start);
        self.areas.range(first..end.max(first)).map(|(_, vma)| vma)
    }

    /// All of them, upwards.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Vma> {
        self.areas.values()
    }

    /// Whether nothing is in `start..end`.
    pub fn is_free(&self, start: u64, end: u64) -> bool {
        self.overlapping(start, end).next().is_none()
    }

    /// Whether all of `start..end` is in areas.
    pub fn covers(&self, start: u64, end: u64) -> bool {
        let mut at = start;
        for vma in self.overlapping(start, end) {
            if vma.start > at {
                return false;
            }
            at = vma.end;
        }
        at >= end
    }

    /// How many areas more there are if `start..end` gets borders of its own.
    pub fn splits(&self, start: u64, end: u64) -> usize {
        let cut = |at: u64| usize::from(self.find(at).is_some_and(|vma| vma.start < at));
        cut(start).wrapping_add(cut(end))
    }

    /// Adds an area, where it is free.
    pub fn insert(&mut self, vma: Vma) {
        self.pages = self.pages.wrapping_add(vma.len() >> PAGE_SHIFT);
        self.areas.insert(vma.start, vma);
    }

    /// Takes out the area that starts at `start`.
    pub fn take(&mut self, start: u64) -> Option<Vma> {
        let vma = self.areas.remove(&start)?;
        self.pages = self.pages.wrapping_sub(vma.len() >> PAGE_SHIFT);
        Some(vma)
    }

    /// Takes out the lowest area.
    pub fn take_first(&mut self) -> Option<Vma> {
        let start = *self.areas.keys().next()?;
        self.take(start)
    }

    /// Makes `at` a border between areas, if it lies in one.
    pub fn cut(&mut self, at: u64) {
        let Some(start) = self.find(at).map(|vma| vma.start).filter(|start| *start < at) else {
            return;
        };
        if let Some(mut low) = self.take(start) {
            let mut high = low.clone();
            high.start = at;
            let index = low.index(at);
            if let Some((_, first)) = &mut high.object {
                *first = index;
            }
            low.end = at;
            self.insert(low);
            self.insert(high);
        }
    }

    /// Takes `start..end` out of all areas. The first of what was there.
    pub fn remove(&mut self, start: u64, end: u64) {
        self.cut(start);
        self.cut(end);
        while let Some(at) = self.areas.range(start..end.max(start)).next().map(|(at, _)| *at) {
            self.take(at);
        }
    }

    /// Gives `start..end` borders of its own, changes each area in it, and
    /// merges what became the same.
    pub fn change(&mut self, start: u64, end: u64, mut f: impl FnMut(&mut Vma)) {
        self.cut(start);
        self.cut(end);
        for (_, vma) in self.areas.range_mut(start..end.max(start)) {
            f(vma);
        }
        let mut at = start;
        while let Some(vma) = self.find_or_above(at).filter(|vma| vma.start <= end) {
            let (start, next) = (vma.start, vma.end);
            self.merge(start);
            at = next;
        }
    }

    /// Merges the area that ends at `at` with the one that starts there.
    pub fn merge(&mut self, at: u64) {
        let Some(low) = self.below(at) else { return };
        let start = low.start;
        if !self.areas.get(&at).is_some_and(|high| low.continues(high)) {
            return;
        }
        if let (Some(mut low), Some(high)) = (self.take(start), self.take(at)) {
            low.end = high.end;
            self.insert(low);
        }
    }

    /// The highest free range of `len` bytes in `lowest..top` whose start is a
    /// multiple of `align`.
    pub fn find_gap(&self, lowest: u64, top: u64, len: u64, align: u64) -> Option<u64> {
        let mut top = top;
        for vma in self.areas.range(..top).rev().map(|(_, vma)| vma).chain(None) {
            // The gap between this area and the last.
            let bottom = vma.end.max(lowest);
            if let Some(start) = fit(bottom, top, len, align) {
                return Some(start);
            }
            top = vma.start.min(top);
            if top <= lowest {
                return None;
            }
        }
        fit(lowest, top, len, align)
    }
}

fn fit(bottom: u64, top: u64, len: u64, align: u64) -> Option<u64> {
    let start = top.checked_sub(len)? & !align.wrapping_sub(1);
    (start >= bottom).then_some(start)
}
