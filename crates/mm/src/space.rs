//! The address space: its lock, its life, who is told of changes.

use crate::layout::Layout;
use crate::vma::{VmaInfo, VmaTree};
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use base::census::{Counted, Kind};
use base::{BLOCK_SIZE, Lock, LockGuard, PAGE_SHIFT, PAGE_SIZE, Result, Room, rank};
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU64, Ordering};
use frame::Frame;
use paging::{Gather, PageTable, Tlb, User};

/// What the kernel does for one address space: it knows its ASID.
pub trait MmEnv: Tlb + Send + Sync {
    /// Lets pending interrupts in, between the steps of long calls. No lock is
    /// held.
    fn window(&self) {}

    /// Makes instruction fetches see what was written to `frame` (Arm ARM,
    /// B2.7.4), before EL0 may execute it.
    fn sync_code(&self, frame: &Frame) {
        let _ = frame;
    }
}

/// Who keeps translations of its own of an address space: KVM's stage 2.
///
/// Called under the memory map's lock, before mappings are removed, replaced or
/// write-protected: takes locks of a higher rank only (`STAGE2`). Implement it
/// on what holds just those translations: the call may hold the last reference,
/// and lets go of it after the lock.
/// It may drop more than asked: whole blocks, so that memory management can
/// take them apart.
pub trait MmuNotifier: Send + Sync {
    /// Forgets `start..end`, of EL0's addresses: the frames' handles too.
    fn invalidate(&self, start: u64, end: u64);
}

/// A process's address space.
pub struct AddressSpace {
    id: u64,
    pub(crate) env: Arc<dyn MmEnv>,
    /// Odd while mappings leave, see `invalidate_seq`.
    seq: AtomicU64,
    pub(crate) inner: Lock<Inner>,
    _counted: Counted,
}

/// What the lock protects.
pub(crate) struct Inner {
    pub layout: Layout,
    pub vmas: VmaTree,
    pub table: PageTable<User>,
    pub brk_start: u64,
    pub brk: u64,
    pub notifiers: Vec<Weak<dyn MmuNotifier>>,
}

/// Pages by use, as in /proc/PID/statm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Usage {
    /// In areas: the virtual size.
    pub total: u64,
    /// In the page table.
    pub resident: u64,
    /// In executable areas.
    pub text: u64,
    /// In writable private areas, the stack's included.
    pub data: u64,
    /// In the stack.
    pub stack: u64,
    /// The page table's own.
    pub tables: u64,
}

/// What leaves at once, between interrupt windows: as many pages as a gather
/// looks at. Whole blocks.
const STEP: u64 = Gather::BUDGET as u64 * PAGE_SIZE;

const _: () = assert!(STEP.is_power_of_two() && STEP >= BLOCK_SIZE);

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl AddressSpace {
    /// An empty one. `ENOMEM` without room for its page table.
    pub fn new(env: Arc<dyn MmEnv>, layout: Layout) -> Result<Self> {
        let brk = layout.brk_start;
        let (vmas, table) = (VmaTree::default(), PageTable::new(48)?);
        Ok(Self::with(
            env,
            Inner { layout, vmas, table, brk_start: brk, brk, notifiers: Vec::new() },
        ))
    }

    pub(crate) fn with(env: Arc<dyn MmEnv>, inner: Inner) -> Self {
        AddressSpace {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            env,
            seq: AtomicU64::new(0),
            inner: Lock::new(rank::MEMORY_MAP, inner),
            _counted: Counted::new(Kind::AddressSpace),
        }
    }

    /// A number that no other address space ever has.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The root of the page table, for TTBR0.
    pub fn root(&self) -> base::PhysAddr {
        self.inner.lock().table.root()
    }

    /// What the kernel gave for it.
    pub fn env(&self) -> &Arc<dyn MmEnv> {
        &self.env
    }

    /// Where things go in it.
    pub fn layout(&self) -> Layout {
        self.inner.lock().layout
    }

    pub(crate) fn lock(&self) -> Locked<'_> {
        Locked { space: self, inner: self.inner.lock(), begun: false, told: [const { None }; 4] }
    }

    /// Tells `notifier` of what leaves, from now on, as long as it lives.
    pub fn register(&self, notifier: Weak<dyn MmuNotifier>) -> Result<()> {
        let mut inner = self.inner.lock();
        inner.notifiers.retain(|notifier| notifier.strong_count() > 0);
        inner.notifiers.make_room(1)?;
        inner.notifiers.push(notifier);
        Ok(())
    }

    /// Counts what is invalidated. To map a frame elsewhere: read this; take the
    /// frame by `get_frame`; take the lock that the notifier takes; go on only
    /// if [`AddressSpace::is_current`].
    pub fn invalidate_seq(&self) -> u64 {
        self.seq.load(Ordering::Acquire)
    }

    /// Whether nothing was or is being invalidated since `seq` was read.
    pub fn is_current(&self, seq: u64) -> bool {
        seq & 1 == 0 && self.seq.load(Ordering::Acquire) == seq
    }

    /// The first area that ends above `addr`: for /proc/PID/maps, area by area.
    pub fn area_above(&self, addr: u64) -> Option<VmaInfo> {
        let inner = self.inner.lock();
        let vma = inner.vmas.find_or_above(addr)?;
        let mut info = vma.info();
        if info.id.is_none() {
            if vma.start < inner.brk && vma.end > inner.brk_start {
                info.name = String::from("[heap]");
            } else if vma.flags.grows_down {
                info.name = String::from("[stack]");
            }
        }
        Some(info)
    }

    /// Page counts.
    pub fn usage(&self) -> Usage {
        let inner = self.inner.lock();
        let mut usage = Usage {
            total: inner.vmas.pages(),
            resident: inner.table.pages(),
            tables: inner.table.tables(),
            ..Usage::default()
        };
        for vma in inner.vmas.iter() {
            let pages = vma.len() >> PAGE_SHIFT;
            let add = |applies: bool, sum: &mut u64| {
                *sum = sum.wrapping_add(if applies { pages } else { 0 });
            };
            add(vma.prot & crate::abi::PROT_EXEC != 0, &mut usage.text);
            add(vma.prot & crate::abi::PROT_WRITE != 0 && !vma.flags.shared, &mut usage.data);
            add(vma.flags.grows_down, &mut usage.stack);
        }
        usage
    }

    /// The virtual and the resident size, in pages, at once.
    pub fn size(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.vmas.pages(), inner.table.pages())
    }

    /// What its end gives back, in pages: those in the page table, and its own.
    pub fn weight(&self) -> u64 {
        let inner = self.inner.lock();
        inner.table.pages().saturating_add(inner.table.tables())
    }

    /// Unmaps everything, with interrupt windows: the process is gone, or
    /// replaced its program. No CPU runs it any more.
    pub fn exit(&self) {
        while !self.exit_step() {
            self.env.window();
        }
    }

    /// A bounded part of [`AddressSpace::exit`]; true when done.
    fn exit_step(&self) -> bool {
        let mut locked = self.lock();
        let end = 1 << locked.table.bits();
        // Nothing to split: a step covers whole blocks.
        let mut next = locked.zap_step(0, end).unwrap_or(end);
        if next >= end {
            // Nothing is mapped, but a failed call may have left empty tables.
            let mut gather = Gather::new(&*self.env);
            next = locked.table.unmap(0, end, &mut gather).unwrap_or(end);
        }
        // Objects may have much to free themselves: not under the lock.
        let areas: Vec<_> = core::iter::from_fn(|| locked.vmas.take_first()).take(64).collect();
        let done = next >= end && locked.vmas.count() == 0;
        drop(locked);
        drop(areas);
        done
    }
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        while !self.exit_step() {}
    }
}

/// An address space while its lock is held.
pub(crate) struct Locked<'a> {
    pub space: &'a AddressSpace,
    inner: LockGuard<'a, Inner>,
    begun: bool,
    /// Who was told: after `inner`, so that they end, if these are the last
    /// references, without the lock.
    told: [Option<Arc<dyn MmuNotifier>>; 4],
}

impl Deref for Locked<'_> {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Inner {
        &mut self.inner
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if self.begun {
            self.space.seq.fetch_add(1, Ordering::Release);
        }
    }
}

impl<'a> Locked<'a> {
    /// Announces that mappings in `start..end` leave or get write-protected.
    pub fn notify(&mut self, start: u64, end: u64) {
        let step = if self.begun { 2 } else { 1 };
        self.begun = true;
        self.space.seq.fetch_add(step, Ordering::AcqRel);
        let told = &mut self.told;
        self.inner.notifiers.retain(|notifier| {
            let Some(notifier) = notifier.upgrade() else { return false };
            notifier.invalidate(start, end);
            let known = told.iter().flatten().any(|known| Arc::ptr_eq(known, &notifier));
            if let Some(slot) = told.iter_mut().find(|slot| slot.is_none()).filter(|_| !known) {
                *slot = Some(notifier);
            }
            true
        });
    }

    /// A gather that works to the end.
    pub fn gather(&self) -> Gather<'a> {
        Gather::unbounded(&*self.space.env)
    }

    /// Unmaps a bounded part of `start..end`; how far it came. Whoever is told
    /// has no more to do than this: what is mapped here by blocks may be mapped
    /// there by pages.
    pub fn zap_step(&mut self, start: u64, end: u64) -> Result<u64> {
        let Some((from, stop)) = self.next_step(start, end) else { return Ok(end) };
        self.notify(from, stop);
        let mut gather = Gather::new(&*self.space.env);
        self.table.unmap(from, stop, &mut gather)
    }

    /// What of `start..end` to work on next: from the first mapping on, as far
    /// as goes at once. None if nothing is mapped.
    pub fn next_step(&self, start: u64, end: u64) -> Option<(u64, u64)> {
        let from = self.table.next(start, end)?.start.max(start);
        let stop = (from | STEP.wrapping_sub(1)).saturating_add(1);
        Some((from, stop.min(end)))
    }

    /// Unmaps all of `start..end`.
    pub fn zap(&mut self, start: u64, end: u64) -> Result<()> {
        if self.table.next(start, end).is_some() {
            self.notify(start, end);
            let mut gather = self.gather();
            self.table.unmap(start, end, &mut gather)?;
        }
        Ok(())
    }
}

impl AddressSpace {
    /// Unmaps `start..end` in steps, with interrupt windows between them, down
    /// to what one step does. What is touched meanwhile may stay.
    pub(crate) fn zap_in_steps(&self, start: u64, end: u64) -> Result<()> {
        let mut at = start;
        while at < end {
            at = self.lock().zap_step(at, end)?;
            if at < end {
                self.env.window();
            }
        }
        Ok(())
    }
}
