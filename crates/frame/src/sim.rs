//! Simulated RAM, so that what stands on frames runs on a developer's machine.

use crate::handle::{Frame, GIGABYTE, Size};
use crate::ram::{RamRange, adopt, init, set_reserve};
use base::{BLOCK_SIZE, PhysAddr};
use core::sync::atomic::{AtomicU64, Ordering};
use std::alloc::{Layout, alloc, handle_alloc_error};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::vec::Vec;

/// Where the simulated RAM starts, as on QEMU's `virt`.
pub const BASE: PhysAddr = PhysAddr::new(0x4000_0000);

/// A GiB of the simulated RAM that isn't the allocator's. It costs only what is touched; but
/// not in Miri, which has none.
const WHOLE: RamRange = RamRange::new(0x8000_0000, if cfg!(miri) { 0 } else { GIGABYTE });

static RESERVED: AtomicU64 = AtomicU64::new(0);

/// A block behind the RAM that was reserved.
pub fn reserved() -> PhysAddr {
    PhysAddr::new(RESERVED.load(Ordering::Relaxed))
}

/// The blocks of a GiB. They stay in use, so that it never becomes the allocator's, which
/// tests empty.
pub fn gigabyte() -> &'static [Frame] {
    static BLOCKS: OnceLock<Vec<Frame>> = OnceLock::new();
    BLOCKS.get_or_init(|| {
        let start = WHOLE.start.get();
        let places = (start..WHOLE.end()).step_by(BLOCK_SIZE as usize);
        // SAFETY: reserved by `ram`, and taken once.
        let take = |at| unsafe { adopt(PhysAddr::new(at), Size::Block) };
        places.filter_map(|at| take(at).ok()).collect()
    })
}

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Gives the allocator `mib` MiB (a process's first call does), with a reserve
/// of nothing, and keeps other tests of the process out meanwhile.
pub fn ram(mib: usize) -> MutexGuard<'static, ()> {
    let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if crate::ram::ram().is_none() {
        let size = mib.saturating_mul(1 << 20).max(BLOCK_SIZE as usize);
        let all = size.saturating_add(BLOCK_SIZE as usize);
        let whole = WHOLE.end().saturating_sub(BASE.get()) as usize;
        let span = if cfg!(miri) { all } else { whole };
        let Ok(layout) = Layout::from_size_align(span, BLOCK_SIZE as usize) else { return guard };
        // SAFETY: the layout's size isn't zero.
        let memory = unsafe { alloc(layout) };
        if memory.is_null() {
            handle_alloc_error(layout);
        }
        // SAFETY: ours, and no more than there is.
        unsafe { memory.write_bytes(0, all.min(span)) };
        let offset = (memory.expose_provenance() as u64).wrapping_sub(BASE.get());
        let kept = RamRange::new(BASE.get().saturating_add(size as u64), BLOCK_SIZE);
        let regions = [RamRange::new(BASE.get(), all as u64), WHOLE];
        // SAFETY: the memory is ours, never freed, exposed, and lies at BASE + offset. What
        // isn't reserved is zeroed.
        let done = unsafe { init(offset, &regions, &[kept, WHOLE]) };
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
