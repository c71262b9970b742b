//! The tree of tables that the hardware walks.

use crate::descriptor::{
    ADDRESS_BITS, OWNED, TABLE, VALID, address, attributes, is_table, leaf, shift, span, table,
};
use crate::gather::Gather;
use crate::regime::{Regime, Stage2};
use base::{BLOCK_SIZE, Errno, PAGE_SIZE, PhysAddr, Result};
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU64, Ordering};
use frame::{Fill, Frame, GIGABYTE, KernelPages, Size, Use, entries_at, is_gigabyte};

/// A page table. Its owner keeps it under a lock; the hardware walks it on any
/// CPU meanwhile.
///
/// Every leaf that holds a frame holds one count of it. Ranges are half open,
/// addresses are input addresses (with the upper bits set in the upper half).
/// Dropping a table that isn't empty leaks what it maps: [`PageTable::unmap`]
/// it whole first.
pub struct PageTable<R: Regime> {
    root: PhysAddr,
    /// None: the builder's memory, which is never freed.
    owned: Option<KernelPages>,
    level: u8,
    /// log2 of the size of the input space.
    bits: u8,
    /// 4 KiB pages in leaves that own frames.
    pages: u64,
    /// Tables, in pages, the root included.
    tables: u64,
    regime: PhantomData<R>,
}

/// A mapping: all of what one entry maps.
pub struct Leaf<R: Regime> {
    /// Its first input address.
    pub start: u64,
    level: u8,
    desc: u64,
    regime: PhantomData<R>,
}

impl<R: Regime> Leaf<R> {
    /// How many bytes it maps.
    pub fn len(&self) -> u64 {
        span(self.level)
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The first input address above it.
    pub fn end(&self) -> u64 {
        self.start.wrapping_add(self.len())
    }

    /// Whether it is a 2 MiB (or larger) block.
    pub fn is_block(&self) -> bool {
        self.level < 3
    }

    /// The physical address that it maps.
    pub fn addr(&self) -> PhysAddr {
        address(self.desc)
    }

    /// What it allows.
    pub fn attrs(&self) -> R::Attrs {
        if self.desc & VALID != 0 { R::decode(self.desc) } else { R::nothing() }
    }

    fn size(&self) -> Option<Size> {
        match self.level {
            _ if self.desc & OWNED == 0 => None,
            2 => Some(Size::Block),
            3 => Some(Size::Page),
            _ => None,
        }
    }
}

/// The tables of a level below: 512 entries.
type Entries<'a> = &'a [AtomicU64];

/// The entries of the table where walks start.
fn root_entries(owned: &Option<KernelPages>, root: PhysAddr) -> Entries<'_> {
    match owned {
        Some(pages) => pages.entries(),
        None => child(table(root, false)),
    }
}

/// Makes stores to a table visible to table walks (D8.2.6): a walk that
/// follows sees them.
#[inline]
pub fn publish() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier.
    unsafe {
        core::arch::asm!("dsb ishst", options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "aarch64"))]
    core::sync::atomic::fence(Ordering::SeqCst);
}

/// The entries of the table that `desc` points to.
fn child<'a>(desc: u64) -> Entries<'a> {
    // SAFETY: table descriptors are only ever made by this crate, from
    // `KernelPages` or the builder's memory. A table leaves its parent before
    // it is freed, both under `&mut PageTable`, and the borrow doesn't outlive
    // the call on the `PageTable` that walks it.
    unsafe { entries_at(address(desc)) }
}

/// Allocates a table for the empty `slot`.
fn grow<'a>(slot: &AtomicU64, usage: Use) -> Result<Entries<'a>> {
    let desc = table(KernelPages::alloc(usage, 0, Fill::Zeroed)?.into_raw(), true);
    // Release: whoever sees the pointer sees the zeros.
    slot.store(desc, Ordering::Release);
    Ok(child(desc))
}

/// The frame that an owning leaf gave up: a page's, a block's.
///
/// # Safety
///
/// `desc` was in an entry that is now cleared, of level 2 or 3 if OWNED is set.
unsafe fn take_frame(desc: u64, level: u8) -> Option<Frame> {
    if desc & OWNED == 0 {
        return None;
    }
    let size = if level == 3 { Size::Page } else { Size::Block };
    // SAFETY: owning leaves are made by `PageTable::map` and `split` only, from
    // `into_raw`, with this size; the cleared entry was the only one to know.
    Some(unsafe { Frame::from_raw(address(desc), size) })
}

/// The blocks that an owning leaf of level 1 gave up, upwards: take them all.
///
/// # Safety
///
/// `desc` was in an entry of level 1 that is now cleared, and OWNED is set.
unsafe fn take_gigabyte(desc: u64) -> impl Iterator<Item = Frame> {
    let places = (address(desc).get()..).step_by(BLOCK_SIZE as usize);
    // SAFETY: `PageTable::map_gigabyte` made it, from `into_raw` of these; the cleared entry
    // was the only one to know.
    let block = |at| unsafe { Frame::from_raw(PhysAddr::new(at), Size::Block) };
    places.take((GIGABYTE / BLOCK_SIZE) as usize).map(block)
}

fn index(at: u64, level: u8) -> usize {
    (at >> shift(level)) as usize & 511
}

impl<R: Regime> PageTable<R> {
    /// An empty table of 2^`bits` bytes of input addresses, 25 to 48.
    pub fn new(bits: u8) -> Result<Self> {
        if !(25..=48).contains(&bits) {
            return Err(Errno::EINVAL);
        }
        let (level, order) = geometry(bits, R::CONCATENATED);
        let root = KernelPages::alloc(R::USE, order, Fill::Zeroed)?;
        Ok(PageTable {
            root: root.addr(),
            owned: Some(root),
            level,
            bits,
            pages: 0,
            tables: 1 << order,
            regime: PhantomData,
        })
    }

    /// Takes over the map that [`crate::KernelMapBuilder`] made.
    ///
    /// # Safety
    ///
    /// `root` is the builder's, of 2^`bits` bytes, and nobody else changes the
    /// tables any more. The frame allocator's linear map is set up.
    pub unsafe fn adopt(root: PhysAddr, bits: u8) -> Self {
        let (level, _) = geometry(bits, 0);
        PageTable { root, owned: None, level, bits, pages: 0, tables: 0, regime: PhantomData }
    }

    /// What TTBR holds as address.
    pub fn root(&self) -> PhysAddr {
        self.root
    }

    /// TnSZ: 64 less the bits of the input space.
    pub fn tsz(&self) -> u8 {
        64u8.wrapping_sub(self.bits)
    }

    /// The size of the input space, as log2.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// The level where walks start.
    pub fn start_level(&self) -> u8 {
        self.level
    }

    fn entries(&self) -> Entries<'_> {
        root_entries(&self.owned, self.root)
    }

    fn root_index(&self, offset: u64) -> usize {
        (offset >> shift(self.level)) as usize
    }

    /// What is added to an offset for an input address.
    fn base(&self) -> u64 {
        if R::UPPER { u64::MAX << (self.bits & 63) } else { 0 }
    }

    /// The range's offsets in the input space.
    fn range(&self, start: u64, end: u64, align: u64) -> Result<(u64, u64)> {
        let size = 1u64 << (self.bits & 63);
        let (from, to) = (start.wrapping_sub(self.base()), end.wrapping_sub(self.base()));
        let aligned = (from | to).is_multiple_of(align);
        if from <= to && to <= size && aligned { Ok((from, to)) } else { Err(Errno::EINVAL) }
    }

    /// The entry for `offset` at `level`, making the tables above it. `EEXIST`
    /// if a larger leaf is in the way.
    fn slot(&mut self, offset: u64, level: u8) -> Result<&AtomicU64> {
        let first = self.root_index(offset);
        let mut slot = root_entries(&self.owned, self.root).get(first).ok_or(Errno::EINVAL)?;
        let mut at = self.level;
        while at < level {
            let desc = slot.load(Ordering::Relaxed);
            let entries = match desc {
                0 => {
                    let entries = grow(slot, R::USE)?;
                    self.tables = self.tables.wrapping_add(1);
                    entries
                }
                _ if is_table(desc, at) => child(desc),
                _ => return Err(Errno::EEXIST),
            };
            at = at.wrapping_add(1);
            slot = entries.get(index(offset, at)).ok_or(Errno::EINVAL)?;
        }
        Ok(slot)
    }

    /// Maps a frame where nothing is mapped (`EEXIST`), with a page or a block
    /// entry as its size is. `ENOMEM` without room for a table, `EINVAL` if
    /// `at` isn't aligned to the frame's size or out of range.
    pub fn map(&mut self, at: u64, frame: Frame, attrs: R::Attrs) -> Result<()> {
        let size = frame.size().bytes();
        let (offset, _) = self.range(at, at.wrapping_add(size), size)?;
        let level = match frame.size() {
            Size::Page => 3,
            Size::Block => 2,
        };
        if level < self.level {
            return Err(Errno::EINVAL);
        }
        let slot = self.slot(offset, level)?;
        if slot.load(Ordering::Relaxed) != 0 {
            return Err(Errno::EEXIST);
        }
        let bits = match R::encode(attrs) {
            Some(bits) => bits | leaf(level),
            None => leaf(level) & !VALID,
        };
        let pages = frame.size().pages();
        slot.store(frame.into_raw().get() | bits | OWNED, Ordering::Release);
        self.pages = self.pages.wrapping_add(pages);
        publish();
        Ok(())
    }

    /// Maps 1 GiB where nothing is mapped (`EEXIST`) by one entry, which holds a count of each
    /// of `blocks`. `EINVAL` unless they are a GiB ([`is_gigabyte`]), and `at` is a multiple of
    /// that in a table that has such entries.
    pub fn map_gigabyte(&mut self, at: u64, blocks: &[Frame], attrs: R::Attrs) -> Result<()> {
        let (offset, _) = self.range(at, at.wrapping_add(GIGABYTE), GIGABYTE)?;
        let bits = R::encode(attrs).ok_or(Errno::EINVAL)?;
        let (Some(first), true, 0..=1) = (blocks.first(), is_gigabyte(blocks), self.level) else {
            return Err(Errno::EINVAL);
        };
        let slot = self.slot(offset, 1)?;
        if slot.load(Ordering::Relaxed) != 0 {
            return Err(Errno::EEXIST);
        }
        for block in blocks {
            block.clone().into_raw();
        }
        slot.store(first.addr().get() | bits | leaf(1) | OWNED, Ordering::Release);
        self.pages = self.pages.wrapping_add(GIGABYTE / PAGE_SIZE);
        publish();
        Ok(())
    }

    /// Maps physical memory that isn't counted, devices or the kernel's own, in
    /// the largest leaves that alignment allows.
    ///
    /// # Safety
    ///
    /// Whoever uses this table may access `len` bytes from `addr` as `attrs`
    /// says, for as long as they are mapped.
    pub unsafe fn map_raw(
        &mut self,
        start: u64,
        addr: PhysAddr,
        len: u64,
        attrs: R::Attrs,
    ) -> Result<()> {
        let (mut at, end) = self.range(start, start.wrapping_add(len), PAGE_SIZE)?;
        let mut addr = addr.get();
        if !addr.is_multiple_of(PAGE_SIZE) || addr.checked_add(len).is_none_or(|e| e > ADDRESS_BITS)
        {
            return Err(Errno::EINVAL);
        }
        let bits = R::encode(attrs).ok_or(Errno::EINVAL)?;
        while at < end {
            let fits = |level: &u8| {
                (at | addr).is_multiple_of(span(*level)) && end.wrapping_sub(at) >= span(*level)
            };
            let level = [1u8, 2].into_iter().filter(|l| *l >= self.level).find(fits).unwrap_or(3);
            let slot = self.slot(at, level)?;
            if slot.load(Ordering::Relaxed) != 0 {
                return Err(Errno::EEXIST);
            }
            slot.store(addr | bits | leaf(level), Ordering::Release);
            at = at.wrapping_add(span(level));
            addr = addr.wrapping_add(span(level));
        }
        publish();
        Ok(())
    }

    /// The mapping that holds `at`.
    pub fn lookup(&self, at: u64) -> Option<Leaf<R>> {
        let (offset, _) = self.range(at, at.checked_add(1)?, 1).ok()?;
        let mut desc = self.entries().get(self.root_index(offset))?.load(Ordering::Relaxed);
        let mut level = self.level;
        while is_table(desc, level) {
            level = level.wrapping_add(1);
            desc = child(desc).get(index(offset, level))?.load(Ordering::Relaxed);
        }
        let start = at & !span(level).wrapping_sub(1);
        (desc != 0).then_some(Leaf { start, level, desc, regime: PhantomData })
    }

    /// A handle to the frame that `leaf` holds: to all of it. None for what
    /// [`PageTable::map_raw`] or [`PageTable::map_gigabyte`] mapped, or if the leaf has
    /// changed.
    pub fn frame(&self, leaf: &Leaf<R>) -> Option<Frame> {
        let size = leaf.size()?;
        let now = self.lookup(leaf.start)?;
        if now.desc != leaf.desc || now.level != leaf.level {
            return None;
        }
        // SAFETY: the entry holds this count now, and `&self` keeps it there.
        Some(unsafe { Frame::clone_raw(address(leaf.desc), size) })
    }

    /// How many handles there are to the frame that holds `at`, the table's
    /// own included.
    pub fn frame_count(&self, at: u64) -> Option<u64> {
        let leaf = self.lookup(at)?;
        self.frame(&leaf).map(|frame| frame.ref_count().saturating_sub(1))
    }

    /// Calls `f` for each mapping that reaches into `start..end`, upwards.
    pub fn visit(
        &self,
        start: u64,
        end: u64,
        f: &mut dyn FnMut(Leaf<R>) -> Result<()>,
    ) -> Result<()> {
        let (from, to) = self.range(start, end, 1)?;
        self.visit_level(self.entries(), self.level, 0, from, to, f)
    }

    fn visit_level(
        &self,
        entries: Entries<'_>,
        level: u8,
        table_start: u64,
        from: u64,
        to: u64,
        f: &mut dyn FnMut(Leaf<R>) -> Result<()>,
    ) -> Result<()> {
        for (slot, at) in slots(entries, level, table_start, from, to) {
            let desc = slot.load(Ordering::Relaxed);
            if is_table(desc, level) {
                self.visit_level(child(desc), level.wrapping_add(1), at, from, to, f)?;
            } else if desc != 0 {
                let start = at.wrapping_add(self.base());
                f(Leaf { start, level, desc, regime: PhantomData })?;
            }
        }
        Ok(())
    }

    /// Unmaps `start..end` into `gather`, taking blocks apart that reach over
    /// an end (`ENOMEM` without room for that; the rest is done). Returns how
    /// far it came: call again with a fresh gather from there if that isn't
    /// `end`.
    pub fn unmap(&mut self, start: u64, end: u64, gather: &mut Gather<'_>) -> Result<u64> {
        let (from, to) = self.range(start, end, PAGE_SIZE)?;
        let mut walk = Walk::new(self, from, to, gather);
        let next = walk.unmap(self.entries(), self.level, 0);
        let (gone, tables) = (walk.pages, walk.tables);
        self.pages = self.pages.wrapping_sub(gone);
        self.tables = self.tables.wrapping_add(tables);
        Ok(next?.wrapping_add(self.base()))
    }

    /// Changes what the mappings in `start..end` allow to what `f` makes of it,
    /// taking blocks apart that reach over an end. Returns how far it came, as
    /// [`PageTable::unmap`] does.
    pub fn protect(
        &mut self,
        start: u64,
        end: u64,
        gather: &mut Gather<'_>,
        mut f: impl FnMut(R::Attrs) -> R::Attrs,
    ) -> Result<u64> {
        let (from, to) = self.range(start, end, PAGE_SIZE)?;
        let mut walk = Walk::new(self, from, to, gather);
        let next = walk.protect::<R>(self.entries(), self.level, 0, &mut f);
        self.tables = self.tables.wrapping_add(walk.tables);
        // What wasn't valid before isn't in the gather.
        publish();
        Ok(next?.wrapping_add(self.base()))
    }

    /// Puts `frame`, a page, in the place of the page at `at`, which a block may
    /// hold. Break before make (D8.16.1): no TLB has the old page once the new
    /// one is in. `EFAULT` if nothing is there; `ENOMEM` without room to take the
    /// block apart: then the old page stays.
    pub fn replace(
        &mut self,
        at: u64,
        frame: Frame,
        attrs: R::Attrs,
        gather: &mut Gather<'_>,
    ) -> Result<()> {
        let (offset, _) = self.range(at, at.wrapping_add(PAGE_SIZE), PAGE_SIZE)?;
        let bits = R::encode(attrs).filter(|_| frame.size() == Size::Page).ok_or(Errno::EINVAL)?;
        self.lookup(at).ok_or(Errno::EFAULT)?;
        self.split(at, gather)?;
        let slot = self.slot(offset, 3)?;
        let desc = slot.swap(0, Ordering::AcqRel);
        if desc & VALID != 0 {
            gather.break_leaf(at, PAGE_SIZE);
        }
        slot.store(frame.into_raw().get() | bits | leaf(3) | OWNED, Ordering::Release);
        publish();
        // SAFETY: the entry that held `desc` was cleared, and this is the only
        // copy. No TLB knows of it any more.
        let old = unsafe { take_frame(desc, 3) };
        if old.is_none() {
            self.pages = self.pages.wrapping_add(1);
        }
        Ok(())
    }

    /// Takes the block that holds `at` apart into pages, if there is one.
    pub fn split(&mut self, at: u64, gather: &mut Gather<'_>) -> Result<()> {
        let (offset, _) = self.range(at, at.wrapping_add(1), 1)?;
        let base = self.base();
        let mut level = self.level;
        let first = self.root_index(offset);
        let mut slot = root_entries(&self.owned, self.root).get(first).ok_or(Errno::EINVAL)?;
        loop {
            let desc = slot.load(Ordering::Relaxed);
            if desc == 0 || level == 3 {
                return Ok(());
            }
            if !is_table(desc, level) {
                let start = offset & !span(level).wrapping_sub(1);
                split(slot, level, start.wrapping_add(base), R::USE, gather)?;
                self.tables = self.tables.wrapping_add(1);
            }
            let entries = child(slot.load(Ordering::Relaxed));
            level = level.wrapping_add(1);
            slot = entries.get(index(offset, level)).ok_or(Errno::EINVAL)?;
        }
    }

    /// Takes the block that holds `at` apart unless it starts there, so that a
    /// range may end there.
    pub fn split_at(&mut self, at: u64, gather: &mut Gather<'_>) -> Result<()> {
        match self.lookup(at) {
            Some(leaf) if leaf.start != at => self.split(at, gather),
            _ => Ok(()),
        }
    }

    /// The first mapping that reaches into `start..end`.
    pub fn next(&self, start: u64, end: u64) -> Option<Leaf<R>> {
        let mut first = None;
        let _ = self.visit(start, end, &mut |leaf| {
            first = Some(leaf);
            Err(Errno::EINTR) // Enough.
        });
        first
    }

    /// How many 4 KiB pages of frames are mapped.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// How many pages of memory the tables themselves are.
    pub fn tables(&self) -> u64 {
        self.tables
    }

    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.entries().iter().all(|entry| entry.load(Ordering::Relaxed) == 0)
    }
}

impl PageTable<Stage2> {
    /// VTCR_EL2.SL0 for the 4 KiB granule (D8.2.9).
    pub fn sl0(&self) -> u8 {
        2u8.saturating_sub(self.level)
    }
}

impl<R: Regime> Drop for PageTable<R> {
    fn drop(&mut self) {
        if !self.is_empty() {
            debug_assert!(self.owned.is_none(), "a page table is dropped with mappings");
            // Not safe to free: TLBs may know it.
            if let Some(root) = self.owned.take() {
                root.into_raw();
            }
        }
    }
}

/// Start level and log2 of the root tables for 2^`bits` bytes, with up to
/// 2^`concatenated` tables at the start level.
pub fn geometry(bits: u8, concatenated: u8) -> (u8, u8) {
    let index_bits = |level: u8| u32::from(bits).saturating_sub(shift(level));
    let fits = |level: &u8| index_bits(*level) <= u32::from(concatenated).wrapping_add(9);
    // From the deepest: each level less is a memory access less in a walk.
    let level = [2, 1, 0].into_iter().find(fits).unwrap_or(0);
    (level, index_bits(level).saturating_sub(9) as u8)
}

/// The entries of a table that `from..to` touches, with their offsets.
fn slots<'a>(
    entries: Entries<'a>,
    level: u8,
    table_start: u64,
    from: u64,
    to: u64,
) -> impl Iterator<Item = (&'a AtomicU64, u64)> {
    let first = (from.saturating_sub(table_start) >> shift(level)) as usize;
    let table_end = (entries.len() as u64) << shift(level);
    let last = to.saturating_sub(table_start).min(table_end).div_ceil(span(level)) as usize;
    let skipped = (first as u64) << shift(level);
    entries
        .get(first..last.max(first))
        .unwrap_or_default()
        .iter()
        .zip((table_start.wrapping_add(skipped)..).step_by(span(level) as usize))
}

/// Replaces the block in `slot` by a table of its parts, break before make
/// (D8.16.1): walks meanwhile fault, and find it done when they have the lock.
fn split(
    slot: &AtomicU64,
    level: u8,
    start: u64,
    usage: Use,
    gather: &mut Gather<'_>,
) -> Result<()> {
    let desc = slot.load(Ordering::Relaxed);
    let entries = KernelPages::alloc(usage, 0, Fill::Zeroed)?;
    let below = level.wrapping_add(1);
    let bits =
        attributes(desc) | if desc & VALID != 0 { leaf(below) } else { leaf(below) & !VALID };
    if desc & VALID != 0 {
        slot.store(0, Ordering::Release);
        gather.break_leaf(start, span(level));
    }
    // The frames of a GiB are blocks of their own: their counts move as they are.
    let held = match level {
        2.. => {
            // SAFETY: nobody reads the entry until it is written again: this is under
            // `&mut PageTable`, and its frame moves into the table.
            unsafe { take_frame(desc, level) }
        }
        _ => None,
    };
    match held {
        Some(block) => {
            for (entry, page) in entries.entries().iter().zip(block.split()) {
                entry.store(page.into_raw().get() | bits, Ordering::Relaxed);
            }
        }
        None => {
            let parts = (address(desc).get()..).step_by(span(below) as usize);
            for (entry, addr) in entries.entries().iter().zip(parts) {
                entry.store(addr | bits, Ordering::Relaxed);
            }
        }
    }
    slot.store(table(entries.into_raw(), true), Ordering::Release);
    publish();
    Ok(())
}

/// A walk that changes entries.
struct Walk<'a, 't> {
    base: u64,
    from: u64,
    to: u64,
    usage: Use,
    gather: &'a mut Gather<'t>,
    /// Pages unmapped.
    pages: u64,
    /// Tables made less tables freed: it may wrap.
    tables: u64,
}

impl<'a, 't> Walk<'a, 't> {
    fn new<R: Regime>(
        table: &PageTable<R>,
        from: u64,
        to: u64,
        gather: &'a mut Gather<'t>,
    ) -> Self {
        Walk { base: table.base(), from, to, usage: R::USE, gather, pages: 0, tables: 0 }
    }

    /// Whether the range covers all of the entry at `at`.
    fn covers(&self, at: u64, level: u8) -> bool {
        self.from <= at && at.saturating_add(span(level)) <= self.to
    }

    /// Where to go on if the budget ends before the entry at `at`.
    fn resume(&self, at: u64) -> u64 {
        at.max(self.from)
    }

    /// Splits leaves that the range only touches, so that `slot` is a table or
    /// is all in the range.
    fn fit(&mut self, slot: &AtomicU64, desc: u64, at: u64, level: u8) -> Result<u64> {
        if desc == 0 || is_table(desc, level) || self.covers(at, level) {
            return Ok(desc);
        }
        split(slot, level, at.wrapping_add(self.base), self.usage, self.gather)?;
        self.tables = self.tables.wrapping_add(1);
        Ok(slot.load(Ordering::Relaxed))
    }

    fn unmap(&mut self, entries: Entries<'_>, level: u8, table_start: u64) -> Result<u64> {
        for (slot, at) in slots(entries, level, table_start, self.from, self.to) {
            if !self.gather.spend() {
                return Ok(self.resume(at));
            }
            let desc = slot.load(Ordering::Relaxed);
            if desc == 0 {
                continue;
            }
            let desc = self.fit(slot, desc, at, level)?;
            let start = at.wrapping_add(self.base);
            if is_table(desc, level) {
                let entries = child(desc);
                let next = self.unmap(entries, level.wrapping_add(1), at)?;
                let empty = entries.iter().all(|entry| entry.load(Ordering::Relaxed) == 0);
                if empty && desc & OWNED != 0 {
                    slot.store(0, Ordering::Release);
                    // SAFETY: OWNED says that `grow` or `split` made the table
                    // from `into_raw`; the entry that kept it is cleared.
                    let table = unsafe { KernelPages::from_raw(address(desc)) };
                    self.gather.table(start, span(level), table);
                    self.tables = self.tables.wrapping_sub(1);
                }
                if next < self.to.min(at.saturating_add(span(level))) {
                    return Ok(next);
                }
                continue;
            }
            slot.store(0, Ordering::Release);
            if level < 2 && desc & OWNED != 0 {
                // SAFETY: the entry is cleared; OWNED is set, which at level 0 nobody does.
                self.gather_gigabyte(start, unsafe { take_gigabyte(desc) });
                continue;
            }
            // SAFETY: the entry is cleared; of an owning one the level is 2 or 3.
            match unsafe { take_frame(desc, level) } {
                Some(frame) => {
                    self.pages = self.pages.wrapping_add(frame.size().pages());
                    self.gather.frame(start, frame, desc & VALID != 0);
                }
                None => self.gather.stale(start, span(level)),
            }
        }
        Ok(self.to.min(table_start.saturating_add((entries.len() as u64) << shift(level))))
    }

    /// The blocks of a GiB at `start`. Out of the way of what is usual.
    #[cold]
    #[inline(never)]
    fn gather_gigabyte(&mut self, start: u64, blocks: impl Iterator<Item = Frame>) {
        for (block, at) in blocks.zip((start..).step_by(BLOCK_SIZE as usize)) {
            // It is as much work as its blocks.
            self.gather.spend();
            self.pages = self.pages.wrapping_add(Size::Block.pages());
            self.gather.frame(at, block, true);
        }
    }

    fn protect<R: Regime>(
        &mut self,
        entries: Entries<'_>,
        level: u8,
        table_start: u64,
        f: &mut dyn FnMut(R::Attrs) -> R::Attrs,
    ) -> Result<u64> {
        for (slot, at) in slots(entries, level, table_start, self.from, self.to) {
            if !self.gather.spend() {
                return Ok(self.resume(at));
            }
            let desc = slot.load(Ordering::Relaxed);
            if desc == 0 {
                continue;
            }
            // A block that has nothing to change isn't taken apart.
            let attrs = |desc| if desc & VALID != 0 { R::decode(desc) } else { R::nothing() };
            if !is_table(desc, level) && f(attrs(desc)) == attrs(desc) {
                continue;
            }
            let desc = self.fit(slot, desc, at, level)?;
            if is_table(desc, level) {
                let next = self.protect::<R>(child(desc), level.wrapping_add(1), at, f)?;
                if next < self.to.min(at.saturating_add(span(level))) {
                    return Ok(next);
                }
                continue;
            }
            let bits = match R::encode(f(attrs(desc))) {
                Some(bits) => bits | leaf(level),
                None => leaf(level) & TABLE,
            };
            slot.store(address(desc).get() | bits | desc & OWNED, Ordering::Release);
            if desc & VALID != 0 {
                self.gather.stale(at.wrapping_add(self.base), span(level));
            }
        }
        Ok(self.to.min(table_start.saturating_add((entries.len() as u64) << shift(level))))
    }
}

const _: () = assert!(BLOCK_SIZE == span(2) && PAGE_SIZE == span(3));
