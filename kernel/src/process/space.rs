//! Address spaces on this machine: their ASIDs, TLBs and which one is current.
#![expect(unsafe_code, reason = "TTBR0 and instruction caches")]

use crate::cpu::{self, MAX_CPUS};
use crate::{features, memory, sched};
use alloc::sync::Arc;
use base::{Lock, Result, rank, room};
use core::ops::Deref;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::*};
use frame::Frame;
use mm::{AddressSpace, Layout, MmEnv};
use paging::{Contexts, Id, Tlb};
use spin::Once;
use traps::id::ID_AA64MMFR0;

/// An address space that CPUs can run.
pub struct Mm {
    space: Arc<AddressSpace>,
    env: Arc<Env>,
    /// The root of its page table: TTBR0 without the ASID.
    root: u64,
    /// Where the code is that signal handlers return to.
    pub trampoline: AtomicU64,
    /// How many processes run in it. Others, such as readers of /proc, hold
    /// references too, but nothing waits for them.
    users: AtomicUsize,
}

/// A process's own reference to its address space.
pub struct MmUser(Arc<Mm>);

impl MmUser {
    /// One more process runs in `mm`.
    pub fn new(mm: Arc<Mm>) -> MmUser {
        mm.users.fetch_add(1, Relaxed);
        MmUser(mm)
    }

    /// The address space itself.
    pub fn mm(&self) -> &Arc<Mm> {
        &self.0
    }

    /// The process leaves it; the last one empties it, with interrupt windows,
    /// whoever still looks at it.
    pub fn leave(self) {
        let mm = self.0.clone();
        drop(self);
        if mm.users.load(Acquire) == 0 {
            mm.exit();
        }
    }
}

impl Drop for MmUser {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, AcqRel);
    }
}

impl Deref for Mm {
    type Target = Arc<AddressSpace>;
    fn deref(&self) -> &Arc<AddressSpace> {
        &self.space
    }
}

impl Mm {
    /// An empty one.
    pub fn new(layout: Layout) -> Result<Mm> {
        let env = room::try_arc(Env { asid: Id::new() })?;
        let space = AddressSpace::new(env.clone(), layout)?;
        Self::with(space, env, 0)
    }

    /// A copy for a child; `single`: the process has one thread.
    pub fn fork(&self, single: bool) -> Result<Mm> {
        let env = room::try_arc(Env { asid: Id::new() })?;
        let space = self.space.fork(env.clone(), single && self.users.load(Acquire) == 1)?;
        Self::with(space, env, self.trampoline.load(Relaxed))
    }

    fn with(space: AddressSpace, env: Arc<Env>, trampoline: u64) -> Result<Mm> {
        let root = space.root().get();
        let trampoline = AtomicU64::new(trampoline);
        let space = room::try_arc(space)?;
        Ok(Mm { space, env, root, trampoline, users: AtomicUsize::new(0) })
    }
}

/// What memory management asks of the kernel.
struct Env {
    asid: Id,
}

impl Tlb for Env {
    fn invalidate_range(&self, start: u64, len: u64, last_level: bool) {
        // Without an ASID it never ran: no TLB knows of it.
        if let Some(asid) = self.asid.get() {
            arch::tlb::flush_range(asid, start, len, last_level);
        }
    }
}

impl MmEnv for Env {
    fn window(&self) {
        sched::breathe();
    }

    fn sync_code(&self, frame: &Frame) {
        let start = frame::phys_to_virt(frame.addr()).addr();
        // SAFETY: the frame is mapped in the kernel for as long as the handle
        // lives.
        unsafe { arch::cache::sync_icache(start, frame.size().bytes() as usize) };
    }
}

static CONTEXTS: Once<Lock<Contexts>> = Once::new();
/// The id of the address space in each CPU's TTBR0; 0 for the empty table. Not
/// the root: its page may come back as another's.
static CURRENT: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

fn contexts() -> &'static Lock<Contexts> {
    CONTEXTS.call_once(|| {
        let bits = if features::field(ID_AA64MMFR0, 4) == 2 { 16 } else { 8 };
        Lock::new(rank::KERNEL_MAP, Contexts::new(bits, MAX_CPUS))
    })
}

/// The id of the address space that is current on this CPU, which is that of the
/// process whose system call this is; 0 if there is none.
pub fn current_id() -> u64 {
    CURRENT.get(cpu::index()).map_or(0, |current| current.load(Relaxed))
}

/// Makes `mm` current on this CPU, or nothing at all.
pub fn activate(mm: Option<&Mm>) {
    let index = cpu::index();
    let Some(current) = CURRENT.get(index) else { return };
    let id = mm.map_or(0, |mm| mm.space.id());
    // A regime without EL0 never comes past this: TTBR0 is the kernel's there.
    if current.load(Relaxed) == id {
        return;
    }
    current.store(id, Relaxed);
    let value = match mm {
        None => memory::empty_table(),
        Some(mm) => {
            let switch = contexts().lock().switch(index, &mm.env.asid);
            if switch.flush_local {
                arch::tlb::flush_all();
            }
            mm.root | u64::from(switch.id) << 48
        }
    };
    crate::speculation::address_space_changes();
    // SAFETY: the kernel runs from TTBR1; the table is empty or that of a
    // living address space, which `Process` keeps while a CPU runs it.
    unsafe { arch::host::set_ttbr0(value) };
    arch::barrier::isb();
}
