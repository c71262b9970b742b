//! Kernel stacks. Each has a guard below it, addresses that nothing is mapped
//! at: who uses a stack up is stopped by a fault and not by what it destroyed.
//!
//! The linear map consists of blocks, so stacks are mapped a second time, in an
//! area of their own (`Regime::stack_area`). It is divided into slots, 64 KiB
//! each, with the guard in the lower half. Bit 15 of an address therefore tells
//! stack and guard apart, which is how the exception vectors know an overflow
//! before they use the stack.
//!
//! A stack may lose its owner where the TLBs of the host's regime can't be told
//! (in a guest's world, under VHE): it is only noted there, and [`reap`] frees it,
//! which a CPU calls when it switches, before it sleeps (unless it is reserved), and for a
//! new stack.
#![expect(unsafe_code, reason = "the kernel's own translation tables")]

use crate::memory::{self, KernelMap};
use alloc::vec::Vec;
use arch::map::MapError;
use arch::regime::Attributes;
use base::room::Room;
use base::{Errno, Lock, PAGE_SIZE, PhysAddr, Result, rank};
use core::sync::atomic::{AtomicBool, Ordering};
use frame::{Fill, KernelPages, Use};

/// Stacks are 2^this pages.
const ORDER: u8 = 3;
const SIZE: u64 = PAGE_SIZE << ORDER;
const SLOT: u64 = 2 * SIZE;
/// The area is the last entry of the top table: 512 GiB.
const COUNT: u32 = ((512 << 30) / SLOT) as u32;

const _: () = assert!(SIZE == 1 << 15, "vectors.s looks at bit 15");

// The boot CPU's, in head.s.
unsafe extern "C" {
    static __boot_emergency_top: u8;
    static __boot_stack: u8;
    static __boot_stack_top: u8;
}

/// A stack.
pub struct Stack {
    bottom: u64,
    /// The boot CPU's is in the Image: none.
    slot: Option<u32>,
}

/// Which slots are free. Who holds the lock may change the area's map.
struct Slots {
    /// From here on they were never used.
    fresh: u32,
    free: Vec<u32>,
    /// Without an owner, still mapped.
    dead: Vec<u32>,
}

static SLOTS: Lock<Slots> =
    Lock::new(rank::KERNEL_MAP, Slots { fresh: 0, free: Vec::new(), dead: Vec::new() });
/// There are dead ones.
static DEAD: AtomicBool = AtomicBool::new(false);

/// Where an overflow of the boot CPU's stack is told.
pub fn boot_emergency() -> u64 {
    (&raw const __boot_emergency_top) as u64
}

/// The guard of the boot CPU's stack, which the final map leaves out.
pub fn boot_guard() -> (u64, u64) {
    (boot_emergency(), (&raw const __boot_stack) as u64)
}

/// Pages on which a CPU tells that a stack overflowed; their top.
pub fn emergency() -> Result<u64> {
    let pages = KernelPages::alloc(Use::Stack, 1, Fill::Stale)?;
    let top = (pages.as_ptr().as_ptr() as u64).wrapping_add(pages.len() as u64);
    // The CPU's for good.
    let _ = pages.into_raw();
    Ok(top)
}

impl Stack {
    /// A fresh one, its contents undefined.
    pub fn new() -> Result<Stack> {
        reap();
        let map = memory::kernel_map().ok_or(Errno::ENOMEM)?;
        let pages = KernelPages::alloc(Use::Stack, ORDER, Fill::Stale)?;
        let mut slots = SLOTS.lock();
        let slot = slots.take()?;
        let bottom = bottom(map, slot);
        if map_pages(map, bottom, pages.addr()).is_err() {
            slots.free.push(slot);
            return Err(Errno::ENOMEM);
        }
        // The slot's entries own them now.
        let _ = pages.into_raw();
        Ok(Stack { bottom, slot: Some(slot) })
    }

    /// The one that the boot CPU runs on from head.s on.
    pub fn boot() -> Stack {
        Stack { bottom: (&raw const __boot_stack) as u64, slot: None }
    }

    /// The lowest and the highest address.
    pub fn range(&self) -> (u64, u64) {
        (self.bottom, self.bottom.wrapping_add(SIZE))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            // There is room: see `take`.
            SLOTS.lock().dead.push(slot);
            DEAD.store(true, Ordering::Release);
        }
    }
}

/// Frees the stacks that lost their owners. In the host's regime.
pub fn reap() {
    if !DEAD.load(Ordering::Acquire) {
        return;
    }
    let Some(map) = memory::kernel_map() else { return };
    loop {
        // Held over the TLB maintenance: nobody may find the slot free before
        // what it mapped is forgotten.
        let mut slots = SLOTS.lock();
        let Some(slot) = slots.dead.pop() else {
            DEAD.store(false, Ordering::Release);
            return;
        };
        let pages = unmap_pages(map, bottom(map, slot));
        slots.free.push(slot);
        drop(slots);
        drop(pages);
    }
}

/// Whether `address` is in the guard of a stack.
pub fn is_guard(address: u64) -> bool {
    let (start, end) = boot_guard();
    let in_area = memory::kernel_map().is_some_and(|map| {
        let offset = address.wrapping_sub(map.regime.stack_area());
        offset < u64::from(COUNT).wrapping_mul(SLOT) && offset & SIZE == 0
    });
    (start..end).contains(&address) || in_area
}

impl Slots {
    /// A free slot, with room in both lists for its way back.
    fn take(&mut self) -> Result<u32> {
        if let Some(slot) = self.free.pop() {
            return Ok(slot);
        }
        let slot = self.fresh;
        let fresh = slot.checked_add(1).filter(|fresh| *fresh <= COUNT).ok_or(Errno::ENOMEM)?;
        for list in [&mut self.free, &mut self.dead] {
            let more = (fresh as usize).saturating_sub(list.len());
            list.make_room(more)?;
        }
        self.fresh = fresh;
        Ok(slot)
    }
}

/// Where the stack of `slot` begins, above its guard.
fn bottom(map: &KernelMap, slot: u32) -> u64 {
    let at = u64::from(slot).wrapping_mul(SLOT).wrapping_add(SIZE);
    map.regime.stack_area().wrapping_add(at)
}

fn map_pages(map: &KernelMap, bottom: u64, phys: PhysAddr) -> core::result::Result<(), MapError> {
    let mut tables = || {
        let table = KernelPages::alloc(Use::Table, 0, Fill::Zeroed).ok()?;
        Some(table.into_raw().get())
    };
    // SAFETY: with the slots locked, nobody else changes the area's tables.
    let mut mapper = unsafe { map.mapper(&mut tables) };
    let result = mapper.map(bottom, phys.get(), SIZE, Attributes::Data);
    // Who switches to the stack has an ISB in between (sched::switch).
    paging::publish();
    result
}

fn unmap_pages(map: &KernelMap, bottom: u64) -> Option<KernelPages> {
    let mut first = None;
    let mut no_tables = || None;
    // SAFETY: as in `map_pages`.
    let mut mapper = unsafe { map.mapper(&mut no_tables) };
    for page in 0..SIZE / PAGE_SIZE {
        let phys = mapper.unmap_page(bottom.wrapping_add(page.wrapping_mul(PAGE_SIZE)));
        first = first.or(phys);
    }
    arch::tlb::flush_kernel_pages(bottom, SIZE / PAGE_SIZE);
    // SAFETY: `Stack::new` gave them to the slot by `into_raw`; its entries, the
    // only ones to know, are gone.
    first.map(|phys| unsafe { KernelPages::from_raw(PhysAddr::new(phys)) })
}
