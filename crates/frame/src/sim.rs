//! Simulated RAM, so that what stands on frames runs on a developer's machine.

use crate::ram::{RamRange, init, set_reserve};
use base::{BLOCK_SIZE, PhysAddr};
use core::sync::atomic::{AtomicU64, Ordering};
use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where the simulated RAM starts, as on QEMU's `virt`.
pub const BASE: PhysAddr = PhysAddr::new(0x4000_0000);

static RESERVED: AtomicU64 = AtomicU64::new(0);

/// A block behind the RAM that was reserved.
pub fn reserved() -> PhysAddr {
    PhysAddr::new(RESERVED.load(Ordering::Relaxed))
}

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Gives the allocator `mib` MiB (a process's first call does), with a reserve
/// of nothing, and keeps other tests of the process out meanwhile.
pub fn ram(mib: usize) -> MutexGuard<'static, ()> {
    let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if crate::ram::ram().is_none() {
        let size = mib.saturating_mul(1 << 20).max(BLOCK_SIZE as usize);
        let all = size.saturating_add(BLOCK_SIZE as usize);
        let Ok(layout) = Layout::from_size_align(all, BLOCK_SIZE as usize) else { return guard };
        // SAFETY: the layout's size isn't zero.
        let memory = unsafe { alloc_zeroed(layout) };
        if memory.is_null() {
            handle_alloc_error(layout);
        }
        let offset = (memory.expose_provenance() as u64).wrapping_sub(BASE.get());
        let kept = RamRange::new(BASE.get().saturating_add(size as u64), BLOCK_SIZE);
        let regions = [RamRange::new(BASE.get(), all as u64)];
        // SAFETY: the memory is ours, never freed, exposed, zeroed, and lies at
        // BASE + offset.
        let done = unsafe { init(offset, &regions, &[kept]) };
        debug_assert!(done.is_ok());
        RESERVED.store(kept.start.get(), Ordering::Relaxed);
        set_reserve(0);
    }
    crate::fail_allocation(0);
    // What earlier tests left.
    while base::grave::any() {
        base::grave::clear(|| ());
    }
    guard
}
