//! A VM's stage 2: filled on demand, emptied before the host takes memory back.
//!
//! A fault looks the address up in the vCPU's snapshot, gets the frame from the
//! VMM's address space, and maps it under the stage-2 lock if neither slots nor
//! memory map have changed meanwhile (generation, sequence). Whoever changes
//! either changes the number first and unmaps under the same lock after. Lock
//! order: memory map, stage 2, TLB.

use crate::host::{AddressSpace, Host, MmuNotifier};
use crate::slots::Slot;
use crate::snapshot::VmSnapshot;
use alloc::sync::Arc;
use alloc::vec::Vec;
use base::census::{Counted, Kind};
use base::{BLOCK_SIZE, Errno, Lock, PAGE_SIZE, Result, Room, rank};
use frame::{GIGABYTE, Size};
use paging::{Gather, GuestDevice, Id, Memory, PageTable, Stage2, Stage2Attrs, Tlb, VmId};
use regime::HostRegime;

/// Stage 2, and the snapshot that says what may be mapped in it.
pub struct VmMemory {
    host: Arc<dyn Host>,
    /// The VMID.
    pub(crate) vmid: VmId,
    /// What VTTBR_EL2 and VTCR_EL2 hold of the table.
    pub(crate) root: u64,
    pub(crate) tsz: u8,
    pub(crate) sl0: u8,
    /// The first snapshot: without slots, events and devices.
    first: Arc<VmSnapshot>,
    inner: Lock<Inner>,
    _counted: Counted,
}

struct Inner {
    table: PageTable<Stage2>,
    snapshot: Arc<VmSnapshot>,
    /// Slots that are no longer in the snapshot, and whose entries are still
    /// being unmapped: who takes memory back must find those, too.
    leaving: Vec<Slot>,
}

/// The TLB entries of one VM.
struct VmTlb<'a> {
    host: &'a dyn Host,
    vmid: &'a Id,
}

impl Tlb for VmTlb<'_> {
    fn invalidate_range(&self, start: u64, len: u64, last_level: bool) {
        self.host.invalidate_stage2(self.vmid, start, len, last_level);
    }
}

impl VmMemory {
    pub(crate) fn new(host: Arc<dyn Host>, bits: u8, snapshot: VmSnapshot) -> Result<VmMemory> {
        let table = PageTable::new(bits)?;
        let first = Arc::new(snapshot);
        Ok(VmMemory {
            host,
            vmid: VmId::new(),
            root: table.root().get(),
            tsz: table.tsz(),
            sl0: table.sl0(),
            inner: Lock::new(
                rank::STAGE2,
                Inner { table, snapshot: first.clone(), leaving: Vec::new() },
            ),
            first,
            _counted: Counted::new(Kind::Stage2),
        })
    }

    /// The current configuration.
    pub fn snapshot(&self) -> Arc<VmSnapshot> {
        self.inner.lock().snapshot.clone()
    }

    /// `slot` is about to be taken out of the snapshot; [`VmMemory::unmap_slot`]
    /// is to follow.
    pub(crate) fn announce(&self, slot: Slot) -> Result<()> {
        let mut inner = self.inner.lock();
        inner.leaving.make_room(1)?;
        inner.leaving.push(slot);
        Ok(())
    }

    /// Replaces it. Faults in flight that used the old one start over.
    pub(crate) fn publish(&self, snapshot: VmSnapshot) {
        let new = Arc::new(snapshot);
        let old = core::mem::replace(&mut self.inner.lock().snapshot, new);
        // Dropped outside the lock: it may be the last.
        drop(old);
    }

    fn tlb(&self) -> VmTlb<'_> {
        VmTlb { host: &*self.host, vmid: &self.vmid.id }
    }

    /// Maps what backs `gpa` in `slot`, and says where that ends. `Ok` also means
    /// "changed meanwhile: let the guest fault again".
    pub(crate) fn fault(
        &self,
        regime: &HostRegime,
        space: &dyn AddressSpace,
        snapshot: &VmSnapshot,
        slot: &Slot,
        gpa: u64,
        write: bool,
    ) -> Result<u64> {
        let hva = slot.hva_of(gpa);
        let sequence = space.sequence();
        let page = space.get_frame(regime, hva, write)?;
        let low = BLOCK_SIZE.wrapping_sub(1);
        let (frame, at) = match page.frame.size() {
            Size::Page => (page.frame, gpa & !PAGE_SIZE.wrapping_sub(1)),
            Size::Block => {
                let start = gpa & !low;
                let fits = (gpa ^ hva) & low == 0
                    && start >= slot.gpa
                    && start.saturating_add(BLOCK_SIZE) <= slot.end();
                if fits {
                    (page.frame, start)
                } else {
                    let nth = (hva & low) / PAGE_SIZE;
                    let piece = page.frame.sub(nth).ok_or(Errno::EFAULT)?;
                    (piece, gpa & !PAGE_SIZE.wrapping_sub(1))
                }
            }
        };
        let attrs = Stage2Attrs {
            read: true,
            write: page.writable && !slot.readonly,
            exec: true,
            memory: Memory::Normal,
        };
        if write && !attrs.write {
            return Err(Errno::EFAULT);
        }
        self.host.make_coherent(&frame);

        let len = frame.size().bytes();
        let end = at.saturating_add(len);
        let tlb = self.tlb();
        let mut inner = self.inner.lock();
        if inner.snapshot.generation != snapshot.generation || !space.is_current(sequence) {
            return Ok(end);
        }
        if let Some(leaf) = inner.table.lookup(at) {
            let same = leaf.len() == len && leaf.addr() == frame.addr();
            let enough = leaf.attrs() == attrs || leaf.attrs().write;
            if (same && enough) || (!write && leaf.len() > len) {
                // Another vCPU was here first, perhaps to write.
                return Ok(end);
            }
        }
        match inner.table.map(at, frame.clone(), attrs) {
            Err(Errno::EEXIST) => {}
            done => return done.map(|()| end),
        }
        // Break before make (Arm ARM D8.16.1): the gather's end invalidates.
        let mut next = at;
        while next < end {
            let mut gather = Gather::new(&tlb);
            let reached = inner.table.unmap(next, end, &mut gather)?;
            drop(gather);
            if reached <= next {
                return Err(Errno::ENOMEM);
            }
            next = reached;
        }
        inner.table.map(at, frame, attrs)?;
        Ok(end)
    }

    /// Maps the GiB at `gpa` by one entry, with pauses. `EINVAL` unless `slot` has it all, and
    /// the host has it in one piece.
    pub(crate) fn map_gigabyte(
        &self,
        space: &dyn AddressSpace,
        slot: &Slot,
        gpa: u64,
        mut pause: impl FnMut(),
    ) -> Result<()> {
        let end = gpa.checked_add(GIGABYTE).ok_or(Errno::EINVAL)?;
        let whole = gpa.is_multiple_of(GIGABYTE) && end <= slot.end() && !slot.readonly;
        let blocks = whole.then(|| space.gigabyte(slot.hva_of(gpa))).flatten();
        let blocks = blocks.ok_or(Errno::EINVAL)?;
        for block in blocks {
            self.host.make_coherent(block);
            pause();
        }
        let attrs = Stage2Attrs { read: true, write: true, exec: true, memory: Memory::Normal };
        self.inner.lock().table.map_gigabyte(gpa, blocks, attrs)
    }

    /// Unmaps a slot that was announced and is in no snapshot any more.
    pub(crate) fn unmap_slot(&self, slot: &Slot, regime: &mut HostRegime) {
        self.unmap_in_steps(slot.gpa, slot.end(), || self.host.window(regime));
        let mut inner = self.inner.lock();
        if let Some(at) = inner.leaving.iter().position(|other| other == slot) {
            inner.leaving.swap_remove(at);
        }
    }

    /// Unmaps everything, with interrupt windows. What faults meanwhile stays.
    pub(crate) fn unmap_all(&self, regime: &mut HostRegime) {
        self.unmap_in_steps(0, u64::MAX, || self.host.window(regime));
    }

    /// The VM is gone, and its vCPUs: empties stage 2 for good, and lets go of what the snapshot holds. A
    /// notifier that was called meanwhile may drop the last reference to this
    /// later, under the memory map's lock: nothing but memory is left for it.
    pub(crate) fn retire(&self) {
        self.unmap(0, u64::MAX);
        let old = core::mem::replace(&mut self.inner.lock().snapshot, self.first.clone());
        // Outside the lock: it may hold files.
        drop(old);
    }

    /// Maps the page at `offset` of a device that the guest has to itself.
    pub(crate) fn map_device(&self, gpa: u64, device: &GuestDevice, offset: u64) -> Result<()> {
        let mut inner = self.inner.lock();
        match inner.table.map_device(gpa, device, offset) {
            // Another vCPU was here first.
            Err(Errno::EEXIST) => Ok(()),
            done => done,
        }
    }

    /// Unmaps guest physical addresses, and returns once no CPU reaches them.
    fn unmap(&self, start: u64, end: u64) {
        self.unmap_in_steps(start, end, || {});
    }

    fn unmap_in_steps(&self, start: u64, end: u64, mut between: impl FnMut()) {
        let limit = 1u64.checked_shl(64u32.saturating_sub(u32::from(self.tsz))).unwrap_or(u64::MAX);
        let end = end.min(limit);
        let mut at = start;
        let tlb = self.tlb();
        // In bounded steps: the lock is let go between.
        while at < end {
            let mut inner = self.inner.lock();
            let mut gather = Gather::new(&tlb);
            let reached = inner.table.unmap(at, end, &mut gather);
            drop(gather);
            let reached = match reached {
                Ok(reached) => reached,
                // No room to take a block apart: unmap all of it. What is
                // unmapped too much comes back by a fault. With a gather of its
                // own: what is left of the other might not reach `at`.
                Err(_) => {
                    let table = &mut inner.table;
                    at = table.lookup(at).map_or(at, |leaf| leaf.start);
                    let last = table.lookup(end.saturating_sub(1));
                    let whole = last.map_or(end, |leaf| leaf.end());
                    let mut gather = Gather::new(&tlb);
                    table.unmap(at, whole.min(limit), &mut gather).unwrap_or(end)
                }
            };
            drop(inner);
            if reached <= at {
                return;
            }
            at = reached;
            if at < end {
                between();
            }
        }
    }
}

#[cfg(test)]
impl VmMemory {
    /// What is mapped at `gpa`: physical address, bytes, writable.
    pub(crate) fn lookup(&self, gpa: u64) -> Option<(u64, u64, bool)> {
        let leaf = self.inner.lock().table.lookup(gpa)?;
        Some((leaf.addr().get(), leaf.len(), leaf.attrs().write))
    }
}

impl MmuNotifier for VmMemory {
    fn invalidate(&self, start: u64, end: u64) {
        // Not the snapshot: the last reference to it may hold much more.
        let slots = self.inner.lock().snapshot.slots.clone();
        for slot in slots.iter() {
            if let Some((from, to)) = slot.gpas_of(start, end) {
                self.unmap(from, to);
            }
        }
        let mut nth = 0usize;
        loop {
            let slot = self.inner.lock().leaving.get(nth).copied();
            let Some(slot) = slot else { break };
            if let Some((from, to)) = slot.gpas_of(start, end) {
                self.unmap(from, to);
            }
            nth = nth.wrapping_add(1);
        }
    }
}
