//! ASIDs and VMIDs, by generation: no flush when an address space ends, one
//! when the numbers run out.
#![forbid(unsafe_code)]

use crate::table::publish;
use alloc::boxed::Box;
use alloc::vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst, fence};

/// An address space's (or VM's) number: generation and ASID or VMID. Zero: none
/// yet.
#[derive(Debug, Default)]
pub struct Id(AtomicU64);

impl Id {
    /// No number yet.
    pub const fn new() -> Self {
        Id(AtomicU64::new(0))
    }

    /// The ASID or VMID it had last, for invalidation by address; none if it
    /// never ran.
    ///
    /// Who changed a table entry asks after the change: either it finds the
    /// number, or the walks that [`Contexts::switch`] is about to allow find
    /// the change.
    pub fn get(&self) -> Option<u16> {
        fence(SeqCst);
        match self.0.load(Relaxed) {
            0 => None,
            id => Some(id as u16),
        }
    }
}

/// A VM's number, and which of its vCPUs each CPU ran last under it.
///
/// What a TLB holds under a VMID is taken to be one PE's: with TTBR0_EL1.CnP = 0 each
/// may have tables of its own for one ASID (Arm ARM, TTBR0_EL1.CnP).
#[derive(Debug)]
pub struct VmId {
    /// The VMID.
    pub id: Id,
    /// By CPU: one more than the vCPU's index; 0: none yet.
    last: [AtomicU32; VmId::CPUS],
}

impl VmId {
    /// The CPUs there may be.
    pub const CPUS: usize = 32;

    /// No number yet, and nothing ran.
    pub const fn new() -> Self {
        VmId { id: Id::new(), last: [const { AtomicU32::new(0) }; VmId::CPUS] }
    }

    /// On `cpu`: its vCPU with this index is about to run here. Whether another was the
    /// last that did, whose translations this CPU must forget first (TLBI VMALLE1).
    ///
    /// A new VMID changes nothing: [`Contexts::switch`] has what it stood for before
    /// forgotten, and from then on each change of vCPUs is answered here.
    pub fn changes_vcpu(&self, cpu: usize, vcpu: usize) -> bool {
        let Some(last) = self.last.get(cpu) else { return true };
        let vcpu = (vcpu as u32).saturating_add(1);
        let before = last.load(Relaxed);
        if before == vcpu {
            return false;
        }
        last.store(vcpu, Relaxed);
        before != 0
    }
}

impl Default for VmId {
    fn default() -> Self {
        VmId::new()
    }
}

/// What to do on a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    /// For TTBR or VTTBR.
    pub id: u16,
    /// First invalidate all of this CPU's entries (TLBI VMALLE1, or ALLE1 for
    /// VMIDs), not broadcast: numbers are in use again that had other owners.
    pub flush_local: bool,
}

#[derive(Clone, Copy, Default)]
struct Cpu {
    active: u64,
    flush: bool,
}

/// Hands out ASIDs or VMIDs. Keep it under a lock of rank `KERNEL_MAP`.
///
/// Number 0 is never given: it is the kernel's own.
pub struct Contexts {
    generation: u64,
    used: Box<[u64]>,
    next: usize,
    cpus: Box<[Cpu]>,
}

const GENERATION: u64 = 1 << 16;

impl Contexts {
    /// For numbers of `bits` bits (8, or 16 where the CPU has them) and `cpus`
    /// CPUs, which must be fewer than numbers.
    pub fn new(bits: u32, cpus: usize) -> Self {
        let mut contexts = Contexts {
            generation: GENERATION,
            used: vec![0; 1usize << bits.clamp(6, 16) >> 6].into(),
            next: 1,
            cpus: vec![Cpu::default(); cpus].into(),
        };
        contexts.mark(0);
        contexts
    }

    /// What `cpu` uses from now on, for the address space of `id`.
    pub fn switch(&mut self, cpu: usize, id: &Id) -> Switch {
        let mut value = id.0.load(Relaxed);
        if value & !(GENERATION.wrapping_sub(1)) != self.generation {
            value = self.renew(value);
            id.0.store(value, Relaxed);
            // Known before the first walk under it: see `Id::get`. A DSB, since
            // DMBs don't order walks; the caller's ISB follows.
            publish();
        }
        let Some(cpu) = self.cpus.get_mut(cpu) else {
            return Switch { id: value as u16, flush_local: true };
        };
        cpu.active = value;
        Switch { id: value as u16, flush_local: core::mem::take(&mut cpu.flush) }
    }

    fn word(&mut self, number: usize) -> Option<&mut u64> {
        self.used.get_mut(number >> 6)
    }

    fn mark(&mut self, number: usize) {
        if let Some(word) = self.word(number) {
            *word |= 1 << (number & 63);
        }
    }

    /// A number of this generation: the old one if it is still free.
    fn renew(&mut self, old: u64) -> u64 {
        // A number that ran on a CPU across the last rollover was kept for its
        // owner: it runs on, so it must not change.
        let number = old as u16 as usize;
        if old != 0 {
            let current = self.generation | number as u64;
            let kept = self.cpus.iter().any(|cpu| cpu.active == old);
            let free = self.word(number).is_some_and(|word| *word & 1 << (number & 63) == 0);
            if kept || free {
                self.mark(number);
                self.cpus.iter_mut().filter(|cpu| cpu.active == old).for_each(|cpu| {
                    cpu.active = current;
                });
                return current;
            }
        }
        let number = match self.find() {
            Some(number) => number,
            None => {
                self.roll_over();
                self.find().unwrap_or(1)
            }
        };
        self.mark(number);
        self.next = number.wrapping_add(1);
        self.generation | number as u64
    }

    fn find(&self) -> Option<usize> {
        let start = self.next >> 6;
        let words = self.used.iter().enumerate();
        let order = words.clone().skip(start).chain(words.take(start));
        order
            .into_iter()
            .find(|(_, word)| **word != u64::MAX)
            .map(|(index, word)| index.wrapping_mul(64).wrapping_add(word.trailing_ones() as usize))
    }

    fn roll_over(&mut self) {
        self.generation = self.generation.wrapping_add(GENERATION);
        self.used.fill(0);
        self.mark(0);
        self.next = 1;
        for index in 0..self.cpus.len() {
            let Some(cpu) = self.cpus.get_mut(index) else { break };
            cpu.flush = true;
            let active = cpu.active;
            if active != 0 {
                self.mark(active as u16 as usize);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::vec::Vec;

    #[test]
    fn a_vcpu_finds_no_others_translations() {
        let vm = VmId::new();
        // The first there, the same again, another, and the first again.
        assert!(!vm.changes_vcpu(0, 0));
        assert!(!vm.changes_vcpu(0, 0));
        assert!(vm.changes_vcpu(0, 1));
        assert!(!vm.changes_vcpu(0, 1));
        assert!(vm.changes_vcpu(0, 0));
        // Elsewhere it is the first; here it is still the last.
        assert!(!vm.changes_vcpu(1, 0));
        assert!(!vm.changes_vcpu(0, 0));
        assert!(vm.changes_vcpu(1, 511));
        // A CPU that isn't counted knows nothing.
        assert!(vm.changes_vcpu(VmId::CPUS, 0));
        assert!(vm.changes_vcpu(VmId::CPUS, 0));
    }

    proptest! {
        /// What a CPU's TLB holds under a VM's number was made by the vCPU that it runs
        /// under it, across rollovers, too.
        #[test]
        fn translations_have_one_vcpu(
            steps in prop::collection::vec((0usize..4, 0usize..80, 0usize..3), 1..2000),
        ) {
            let mut contexts = Contexts::new(6, 4);
            let vms: Vec<VmId> = (0..80).map(|_| VmId::new()).collect();
            let mut tlbs: Vec<HashMap<u16, (usize, usize)>> = std::vec![HashMap::new(); 4];
            for (cpu, owner, vcpu) in steps {
                let switch = contexts.switch(cpu, &vms[owner].id);
                if switch.flush_local {
                    tlbs[cpu].clear();
                }
                if vms[owner].changes_vcpu(cpu, vcpu) {
                    tlbs[cpu].remove(&switch.id);
                }
                let known = *tlbs[cpu].entry(switch.id).or_insert((owner, vcpu));
                prop_assert_eq!(known, (owner, vcpu));
            }
        }

        /// A CPU's TLB never holds entries of one number for two owners, and no
        /// two CPUs run different owners under one number.
        #[test]
        fn numbers_have_one_owner(steps in prop::collection::vec((0usize..4, 0usize..200), 1..2000)) {
            let mut contexts = Contexts::new(6, 4);
            let ids: Vec<Id> = (0..200).map(|_| Id::new()).collect();
            let mut tlbs: Vec<HashMap<u16, usize>> = std::vec![HashMap::new(); 4];
            let mut running: [Option<(usize, u16)>; 4] = [None; 4];
            for (cpu, owner) in steps {
                let switch = contexts.switch(cpu, &ids[owner]);
                prop_assert!(switch.id != 0 && switch.id < 64);
                if switch.flush_local {
                    tlbs[cpu].clear();
                }
                running[cpu] = Some((owner, switch.id));
                for (owner, id) in running.iter().flatten() {
                    for (other, other_id) in running.iter().flatten() {
                        prop_assert_eq!(owner == other, id == other_id);
                    }
                }
                let known = *tlbs[cpu].entry(switch.id).or_insert(owner);
                prop_assert_eq!(known, owner);
            }
        }
    }
}
