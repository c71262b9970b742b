//! The machine's RAM: where it lies, its metadata, the allocator's lock.

use crate::buddy::{Buddy, MAX_ORDER, POOL_ORDER, Table, frames};
use crate::handle::{Frame, Size};
use crate::meta;
use crate::set;
use base::{BLOCK_SIZE, Errno, Lock, PAGE_SHIFT, PAGE_SIZE, PhysAddr, Result, rank, room};
#[cfg(any(test, feature = "sim"))]
use core::sync::atomic::AtomicU64;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use spin::Once;

/// A range of physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RamRange {
    /// Its first byte.
    pub start: PhysAddr,
    /// Its length in bytes.
    pub size: u64,
}

impl RamRange {
    /// `size` bytes from `start`.
    pub const fn new(start: u64, size: u64) -> Self {
        RamRange { start: PhysAddr::new(start), size }
    }

    /// The first address above it.
    pub const fn end(&self) -> u64 {
        self.start.get().saturating_add(self.size)
    }
}

/// Where the frames of the machine are, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Stats {
    /// All RAM that was handed to [`init`].
    pub total: u64,
    /// Free now.
    pub free: u64,
    /// Owned by [`crate::Frame`]s.
    pub user: u64,
    /// Owned by [`crate::KernelPages`].
    pub kernel: u64,
    /// What both are used for: see [`Use`].
    pub uses: [u64; Use::ALL.len()],
    /// The allocator's own: its table, and its sets of free blocks.
    pub table: u64,
    /// The rest: the kernel's image, what firmware keeps.
    pub reserved: u64,
    /// Free memory that only the kernel may use.
    pub kernel_reserve: u64,
    /// Free blocks by order, as in `/proc/buddyinfo`.
    pub by_order: [u64; crate::MAX_ORDER as usize + 1],
}

/// Stretches of RAM further apart than 2 MiB.
const ZONES: usize = 32;

/// A stretch of RAM from a 2 MiB boundary to a 2 MiB boundary, so that buddies
/// by address are buddies by index.
#[derive(Clone, Copy, Default)]
struct Zone {
    start: u64,
    size: u64,
    first: u32,
}

#[derive(Clone, Copy)]
struct Zones {
    zones: [Zone; ZONES],
    count: usize,
}

impl Zones {
    fn new(regions: &[RamRange]) -> Self {
        let mut zones = Zones { zones: [Zone::default(); ZONES], count: 0 };
        let (mut above, mut first) = (0u64, 0u64);
        // The lowest region that reaches above what is taken, again and again:
        // sorts, and merges what overlaps or shares a 2 MiB block.
        while let Some(region) =
            regions.iter().filter(|r| r.size > 0 && r.end() > above).min_by_key(|r| r.start)
        {
            let start = region.start.get().max(above) & !BLOCK_SIZE.wrapping_sub(1);
            let Some(end) = region.end().checked_next_multiple_of(BLOCK_SIZE) else { break };
            let size = end.wrapping_sub(start);
            let next = first.saturating_add(size >> PAGE_SHIFT);
            if next > set::LIMIT {
                break;
            }
            match zones.count.checked_sub(1).and_then(|last| zones.zones.get_mut(last)) {
                Some(last) if last.start.wrapping_add(last.size) == start => {
                    last.size = last.size.wrapping_add(size);
                }
                _ => {
                    let Some(zone) = zones.zones.get_mut(zones.count) else { break };
                    *zone = Zone { start, size, first: first as u32 };
                    zones.count = zones.count.wrapping_add(1);
                }
            }
            (above, first) = (end, next);
        }
        zones
    }

    fn iter(&self) -> impl Iterator<Item = &Zone> {
        self.zones.iter().take(self.count)
    }

    fn frames(&self) -> u64 {
        self.iter().map(|zone| zone.size >> PAGE_SHIFT).fold(0, u64::wrapping_add)
    }

    #[inline]
    fn index(&self, addr: PhysAddr) -> Option<u32> {
        self.iter().find_map(|zone| {
            let offset = addr.get().wrapping_sub(zone.start);
            (offset < zone.size).then(|| zone.first.wrapping_add((offset >> PAGE_SHIFT) as u32))
        })
    }

    #[inline]
    fn addr(&self, index: u32) -> Option<PhysAddr> {
        self.iter().find_map(|zone| {
            let offset = u64::from(index.wrapping_sub(zone.first)) << PAGE_SHIFT;
            (offset < zone.size).then(|| PhysAddr::new(zone.start.wrapping_add(offset)))
        })
    }
}

/// What memory is used for. Each frame says so, so that what is given back
/// leaves the account that it came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Use {
    /// Programs' (and guests') private memory.
    Anonymous,
    /// Files in memory, and memory that processes share.
    Shared,
    /// What KVM_RUN and its caller share, and what programs see of the kernel.
    Window,
    /// Kernel stacks.
    Stack,
    /// Page tables of programs and of the kernel.
    Table,
    /// Page tables of guests: stage 2.
    GuestTable,
    /// The heap.
    Heap,
    /// The hypervisor's own.
    Hyp,
}

impl Use {
    /// All of them, in the order of [`Stats::uses`].
    pub const ALL: [Use; 8] = [
        Use::Anonymous,
        Use::Shared,
        Use::Window,
        Use::Stack,
        Use::Table,
        Use::GuestTable,
        Use::Heap,
        Use::Hyp,
    ];

    /// A word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Use::Anonymous => "anonymous",
            Use::Shared => "shared",
            Use::Window => "window",
            Use::Stack => "stacks",
            Use::Table => "tables",
            Use::GuestTable => "guest-tables",
            Use::Heap => "heap",
            Use::Hyp => "hyp",
        }
    }

    pub(crate) const fn is_user(self) -> bool {
        matches!(self, Use::Anonymous | Use::Shared | Use::Window)
    }
}

impl Stats {
    /// Bytes that are used for this.
    pub fn used_for(&self, usage: Use) -> u64 {
        self.uses.get(usage as usize).copied().unwrap_or(0)
    }
}

/// How far into the reserve an allocation may go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    User,
    /// Stacks and page tables: who asks can be told no.
    Kernel,
    /// The heap, whose callers mostly can't: the pool is for it.
    Heap,
}

struct Accounts {
    buddy: Buddy,
    /// Frames by [`Use`].
    uses: [u64; Use::ALL.len()],
    /// Frames that user allocations leave free.
    reserve: u64,
    /// Bytes that the allocator was ever given.
    managed: u64,
}

pub struct Ram {
    offset: u64,
    zones: Zones,
    pub table: Table,
    total: u64,
    table_bytes: u64,
    accounts: Lock<Accounts>,
}

static RAM: Once<Ram> = Once::new();
/// Counts down to an allocation that fails; zero is off.
#[cfg(any(test, feature = "sim"))]
static FAIL: AtomicU64 = AtomicU64::new(0);

/// The kernel's reserve unless [`set_reserve`] says otherwise.
const RESERVE: u64 = 2 << 20;

/// The RAM, once it is known.
#[inline]
pub fn ram() -> Option<&'static Ram> {
    RAM.get()
}

/// Where the linear map has `addr`. The pointer is good for RAM that [`init`]
/// was told of; what may be done with it depends on who owns the memory.
#[inline]
pub fn phys_to_virt(addr: PhysAddr) -> *mut u8 {
    let offset = ram().map_or(0, |ram| ram.offset);
    core::ptr::with_exposed_provenance_mut(addr.get().wrapping_add(offset) as usize)
}

/// Calls `f(start, end)` for each run of whole free pages of `regions` that
/// `reserved` leaves, upwards. Lists need no order and may overlap.
pub fn gaps(regions: &[RamRange], reserved: &[&[RamRange]], mut f: impl FnMut(u64, u64)) {
    let mut done = 0;
    while let Some(region) =
        regions.iter().filter(|r| r.size > 0 && r.end() > done).min_by_key(|r| r.start)
    {
        let mut at = region.start.get().max(done);
        done = region.end();
        while at < region.end() {
            let next = reserved
                .iter()
                .flat_map(|list| list.iter())
                .filter(|r| r.size > 0 && r.end() > at)
                .min_by_key(|r| r.start);
            let stop = next.map_or(done, |r| r.start.get().min(done));
            let start = PhysAddr::new(at).page_align_up();
            let end = PhysAddr::new(stop).page_align_down().get();
            if let Some(start) = start.map(PhysAddr::get).filter(|start| *start < end) {
                f(start, end);
            }
            at = next.map_or(done, RamRange::end);
        }
    }
}

/// Hands RAM to the allocator: `regions` less `reserved` (the kernel's image,
/// the initrd, the device tree, what firmware keeps). Lists need no order and
/// may overlap. Only the first call counts. `ENOMEM` if nothing holds the table
/// of metadata.
///
/// # Safety
///
/// * Every byte of `regions` is RAM, mapped readable and writable, now and
///   forever, at its physical address plus `phys_to_virt_offset` (wrapping),
///   and that mapping's provenance is exposed.
/// * Nobody else uses RAM that isn't in `reserved`.
pub unsafe fn init(
    phys_to_virt_offset: u64,
    regions: &[RamRange],
    reserved: &[RamRange],
) -> Result<()> {
    if RAM.is_completed() {
        return Ok(());
    }
    let zones = Zones::new(regions);
    let count = zones.frames();
    let sets = Buddy::words(count);
    let needed = count.saturating_mul(4).saturating_add(sets.saturating_mul(8));
    let bytes = needed.next_multiple_of(PAGE_SIZE);
    // First fit: next to what breaks up the low memory anyway.
    let mut place = None;
    gaps(regions, &[reserved], |start, end| {
        if end.wrapping_sub(start) >= bytes && zones.index(PhysAddr::new(start)).is_some() {
            place = place.or(Some(start));
        }
    });
    let place = place.filter(|_| count > 0).ok_or(Errno::ENOMEM)?;
    let at = core::ptr::with_exposed_provenance_mut::<u64>(
        place.wrapping_add(phys_to_virt_offset) as usize
    );
    // SAFETY: `place` is `bytes` of mapped RAM that nobody else uses (contract),
    // page-aligned, and holds both slices, the sets in front. It is zeroed before it
    // is borrowed and, as it joins the reserved ranges below, used for nothing else.
    // A zero is a valid AtomicU32.
    let (table, sets) = unsafe {
        core::ptr::write_bytes(at.cast::<u8>(), 0, bytes as usize);
        let table = at.wrapping_add(sets as usize).cast::<AtomicU32>();
        (
            core::slice::from_raw_parts(table, count as usize),
            core::slice::from_raw_parts_mut(at, sets as usize),
        )
    };
    let table = Table(table);
    let buddy = Buddy::new(table, sets);
    let mut accounts = Accounts { buddy, uses: [0; Use::ALL.len()], reserve: 0, managed: 0 };
    let own = [RamRange::new(place, bytes)];
    gaps(regions, &[reserved, &own], |start, end| give_range(&zones, &mut accounts, start, end));
    accounts.set_reserve(RESERVE);
    let mut total = 0u64;
    gaps(regions, &[], |start, end| total = total.wrapping_add(end.wrapping_sub(start)));
    RAM.call_once(|| Ram {
        offset: phys_to_virt_offset,
        zones,
        table,
        total,
        table_bytes: bytes,
        accounts: Lock::new(rank::FRAMES, accounts),
    });
    Ok(())
}

/// Gives `start..end` to the buddy, in so far as the zones cover it.
fn give_range(zones: &Zones, accounts: &mut Accounts, start: u64, end: u64) {
    for zone in zones.iter() {
        let from = start.max(zone.start).wrapping_sub(zone.start);
        let to = end.min(zone.start.wrapping_add(zone.size)).saturating_sub(zone.start);
        if from < to && start < zone.start.wrapping_add(zone.size) {
            let index = |offset: u64| zone.first.wrapping_add((offset >> PAGE_SHIFT) as u32);
            accounts.buddy.give_range(index(from), index(to));
            accounts.managed = accounts.managed.wrapping_add(to.wrapping_sub(from));
        }
    }
}

/// Gives memory that was reserved at [`init`] to the allocator: the initrd once
/// it is unpacked, code that only boot needed. Only whole pages are given.
///
/// # Safety
///
/// `range` lies in what `init` was told is reserved, wasn't released before,
/// and nobody uses it any more.
pub unsafe fn release(range: RamRange) {
    let Some(ram) = ram() else { return };
    let mut accounts = ram.accounts.lock();
    gaps(&[range], &[], |start, end| give_range(&ram.zones, &mut accounts, start, end));
}

/// A frame of memory that was reserved at [`init`]: what a device tree gives to
/// somebody by its address. `EINVAL` unless it is RAM, `EBUSY` if any of it is the
/// allocator's or was adopted before. With its last handle it becomes the allocator's.
///
/// # Safety
///
/// `addr` lies in what [`init`] was told is reserved, and nobody else uses it.
pub unsafe fn adopt(addr: PhysAddr, size: Size) -> Result<Frame> {
    let ram = ram().ok_or(Errno::EINVAL)?;
    let last = addr.offset(size.bytes().wrapping_sub(1)).ok_or(Errno::EINVAL)?;
    let (Some(index), Some(end)) = (ram.zones.index(addr), ram.zones.index(last)) else {
        return Err(Errno::EINVAL);
    };
    let whole = addr.get().is_multiple_of(size.bytes());
    if !whole || u64::from(end.wrapping_sub(index)) != size.pages().wrapping_sub(1) {
        return Err(Errno::EINVAL);
    }
    let word = meta::user(size.order(), Use::Anonymous as u8);
    let mut accounts = ram.accounts.lock();
    if !is_reserved(ram.table, index, size) {
        return Err(Errno::EBUSY);
    }
    ram.table.word(index).store(word, Relaxed);
    if let Some(used) = accounts.uses.get_mut(Use::Anonymous as usize) {
        *used = used.wrapping_add(size.pages());
    }
    accounts.managed = accounts.managed.wrapping_add(size.bytes());
    drop(accounts);
    // SAFETY: nobody's memory (contract), and its word says that it has one handle.
    Ok(unsafe { Frame::from_raw(addr, size) })
}

/// Whether all of it is nobody's: no head is in it, and no block that starts before
/// it reaches into it.
fn is_reserved(table: Table, index: u32, size: Size) -> bool {
    let word = |index: u32| table.word(index).load(Relaxed);
    let inside = index..index.saturating_add(size.pages() as u32);
    let above = |order: u8| {
        let head = word(index & !(frames(order) as u32).wrapping_sub(1));
        head == meta::NONE || meta::order(head) < order
    };
    inside.into_iter().all(|index| word(index) == meta::NONE)
        && (size.order()..=MAX_ORDER).all(above)
}

/// How much free memory, in bytes, [`crate::Frame`]s must leave to the kernel.
pub fn set_reserve(bytes: u64) {
    if let Some(ram) = ram() {
        ram.accounts.lock().set_reserve(bytes);
    }
}

/// Lets the `nth` allocation from now on fail (1: the next), for tests of what
/// then happens. Zero takes the order back.
#[cfg(any(test, feature = "sim"))]
pub fn fail_allocation(nth: u64) {
    FAIL.store(nth, Relaxed);
}

/// What the memory is used for.
pub fn stats() -> Stats {
    let Some(ram) = ram() else { return Stats::default() };
    let accounts = ram.accounts.lock();
    let outside = accounts.managed.saturating_add(ram.table_bytes);
    let uses = accounts.uses.map(|frames| frames << PAGE_SHIFT);
    let sum = |user: bool| {
        let counted = Use::ALL.iter().zip(uses).filter(|(usage, _)| usage.is_user() == user);
        counted.map(|(_, bytes)| bytes).fold(0, u64::wrapping_add)
    };
    Stats {
        total: ram.total,
        free: accounts.buddy.free_frames() << PAGE_SHIFT,
        user: sum(true),
        kernel: sum(false),
        uses,
        table: ram.table_bytes,
        reserved: ram.total.saturating_sub(outside),
        kernel_reserve: accounts.reserve << PAGE_SHIFT,
        by_order: accounts.buddy.by_order(),
    }
}

impl Ram {
    /// The index of the frame at `addr`; of nobody's frame outside RAM.
    #[inline]
    pub fn index(&self, addr: PhysAddr) -> u32 {
        self.zones.index(addr).unwrap_or(meta::NIL)
    }

    /// Takes 2^`order` frames, whose first gets the metadata `word`.
    pub fn take(&self, order: u8, owner: Owner, word: u32) -> Result<PhysAddr> {
        #[cfg(any(test, feature = "sim"))]
        if FAIL.load(Relaxed) != 0 && FAIL.fetch_sub(1, Relaxed) == 1 {
            return Err(Errno::ENOMEM);
        }
        // For the heap, those were asked who can be told no.
        if owner != Owner::Heap {
            room::ask()?;
        }
        let size = frames(order);
        let index = {
            let mut accounts = self.accounts.lock();
            let kept = match owner {
                Owner::User => accounts.reserve,
                Owner::Kernel => accounts.reserve / 2,
                Owner::Heap => 0,
            };
            if accounts.buddy.free_frames() < size.saturating_add(kept) {
                return Err(Errno::ENOMEM);
            }
            let index = match accounts.buddy.take(order, word) {
                None if owner == Owner::Heap => accounts.buddy.take_pooled(order, word),
                index => index,
            };
            let index = index.ok_or(Errno::ENOMEM)?;
            if let Some(used) = accounts.uses.get_mut(usize::from(meta::usage(word))) {
                *used = used.wrapping_add(size);
            }
            accounts.note();
            index
        };
        self.zones.addr(index).ok_or(Errno::ENOMEM)
    }

    /// Takes `size` bytes, 2^n blocks, from a multiple of that on; each block's head becomes
    /// `word`. For who may not go into the reserve.
    pub fn take_run(&self, size: u64, word: u32) -> Result<PhysAddr> {
        room::ask()?;
        for zone in self.zones.iter() {
            let end = zone.start.wrapping_add(zone.size);
            let Some(mut at) = zone.start.checked_next_multiple_of(size) else { continue };
            while at.checked_add(size).is_some_and(|next| next <= end) {
                if self.take_run_at(self.index(PhysAddr::new(at)), size, word) {
                    return Ok(PhysAddr::new(at));
                }
                at = at.wrapping_add(size);
            }
        }
        Err(Errno::ENOMEM)
    }

    fn take_run_at(&self, index: u32, size: u64, word: u32) -> bool {
        let frames = size >> PAGE_SHIFT;
        let mut accounts = self.accounts.lock();
        let enough = accounts.buddy.free_frames() >= frames.saturating_add(accounts.reserve);
        if !enough || !accounts.buddy.take_run(index, (size / BLOCK_SIZE) as u32, word) {
            return false;
        }
        if let Some(used) = accounts.uses.get_mut(usize::from(meta::usage(word))) {
            *used = used.wrapping_add(frames);
        }
        accounts.note();
        true
    }

    /// Gives back what was taken, for the use that its word said.
    pub fn give(&self, index: u32, order: u8, usage: u8) {
        let mut accounts = self.accounts.lock();
        if let Some(used) = accounts.uses.get_mut(usize::from(usage)) {
            *used = used.wrapping_sub(frames(order));
        }
        accounts.buddy.give(index, order);
        accounts.note();
    }
}

impl Accounts {
    /// A quarter of it stays in one piece, for the heap: half of what is the
    /// heap's alone. Memory that comes back page by page would leave the last of
    /// it in pieces of a page, and who can't be told no may want some KiB.
    fn set_reserve(&mut self, bytes: u64) {
        self.reserve = bytes >> PAGE_SHIFT;
        self.buddy.set_pool((self.reserve >> 2 >> POOL_ORDER) as usize);
    }

    /// Low is when what is left is the heap's: calls that make things should fail
    /// now, while small allocations still can't.
    fn note(&self) {
        room::set_low(self.buddy.free_frames() < self.reserve / 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn gaps_leave_out_what_is_reserved() {
        let regions = [RamRange::new(0x10_0000, 0x10_0000), RamRange::new(0x1800, 0x5000)];
        let reserved = [
            RamRange::new(0x3000, 0x100),
            RamRange::new(0x2f00, 0x200),
            RamRange::new(0x18_0000, 0x100_0000),
            RamRange::new(0, 0),
        ];
        let mut seen = Vec::new();
        gaps(&regions, &[&reserved], |start, end| seen.push((start, end)));
        assert_eq!(seen, [(0x4000, 0x6000), (0x10_0000, 0x18_0000)]);
    }

    #[test]
    fn zones_map_both_ways() {
        let zones = Zones::new(&[
            RamRange::new(0x8_8000_0000, 0x40_0000),
            RamRange::new(0x4000_1000, 0x20_0000),
            RamRange::new(0x4020_2000, 0x1000),
            RamRange::new(0x4040_0000, 0x1000),
        ]);
        assert_eq!(zones.count, 2);
        assert_eq!(zones.frames(), 5 * 512);
        for addr in [0x4000_0000, 0x4020_3000, 0x405f_f000, 0x8_8000_0000, 0x8_803f_f000] {
            let index = zones.index(PhysAddr::new(addr)).unwrap();
            assert_eq!(zones.addr(index), Some(PhysAddr::new(addr)));
        }
        assert_eq!(zones.index(PhysAddr::new(0x4060_0000)), None);
        assert_eq!(zones.index(PhysAddr::new(0x8_8040_0000)), None);
        assert_eq!(zones.addr(5 * 512), None);
    }
}
