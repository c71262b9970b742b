//! A VM: what KVM_CREATE_VM's file descriptor stands for.

use crate::bus::{Bus, MmioDevice};
use crate::host::{AddressSpace, Facts, Host, MmuNotifier};
use crate::irq::{Irqfd, Routes};
use crate::memory::VmMemory;
use crate::slots::{Change, Slots};
use crate::snapshot::VmSnapshot;
use crate::vcpu::{Kicker, VcpuCore, VcpuList, VcpuState, request};
use crate::{Done, Vcpu};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use base::census::{Counted, Kind};
use base::{Errno, Lock, PAGE_SIZE, Result, Room, rank};
use core::sync::atomic::{AtomicBool, Ordering};
use frame::{Fill, Frame, GIGABYTE, Size, Use};
use kvm_abi as abi;
use paging::GuestDevice;
use psci::Policy;
use regime::HostRegime;
use traps::{GuestFeatures, IdRegs};
use vgic::{Config as GicConfig, Version, Vgic};
use vtimer::{Counters, TimerIrqs};

/// A virtual machine.
pub struct Vm {
    _counted: Counted,
    host: Arc<dyn Host>,
    space: Arc<dyn AddressSpace>,
    pub(crate) memory: Arc<VmMemory>,
    pub(crate) vcpus: Arc<VcpuList>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) config: Lock<Config>,
    /// A vCPU has been in the guest: ID registers, timers and the SMCCC filter are
    /// fixed.
    pub(crate) ran: AtomicBool,
    /// The size of the guest's physical addresses, as log2.
    ipa_bits: u8,
}

/// What changes under the VM's lock.
pub(crate) struct Config {
    pub irqfds: Vec<Irqfd>,
    pub routes: Routes,
    pub timer_irqs: TimerIrqs,
    /// KVM_ARM_VCPU_INIT's features, the same for all.
    pub features: Option<u32>,
}

/// User addresses of the VMM: 48 bits.
const USER_LIMIT: u64 = 1 << 48;

impl Vm {
    /// KVM_CREATE_VM: `kind` is the size of guest physical addresses in bits,
    /// or 0 for 40; `space` is its VMM's memory, or what the kernel gives it
    /// where there is no VMM.
    pub fn new(host: &Arc<dyn Host>, space: Arc<dyn AddressSpace>, kind: u64) -> Result<Arc<Vm>> {
        let facts = host.facts();
        if kind & !0xff != 0 {
            return Err(Errno::EINVAL);
        }
        let ipa_bits = match kind as u8 {
            0 if facts.ipa_bits >= 40 => 40,
            // "The default" doesn't fit: say so, as Linux does.
            0 => return Err(Errno::EINVAL),
            bits if (32..=facts.ipa_bits).contains(&bits) => bits,
            _ => return Err(Errno::EINVAL),
        };
        let features = GuestFeatures { gicv3: facts.has_gicv3(), ..facts.features };
        let [workaround_1, workaround_2, workaround_3] = facts.workarounds;
        let snapshot = VmSnapshot {
            generation: 1,
            slots: Arc::new(Slots::new()),
            io_events: Vec::new(),
            bus: Arc::new(Bus::new()),
            vgic: None,
            gicv: None,
            passed: Vec::new(),
            policy: Policy { workaround_1, workaround_2, workaround_3, ..Policy::new() },
            filter: None,
            id: IdRegs::guest(&facts.id, features),
            nisv_to_user: false,
            ipa_limit: 1u64.checked_shl(u32::from(ipa_bits)).unwrap_or(u64::MAX),
        };
        let memory = Arc::new(VmMemory::new(host.clone(), ipa_bits, snapshot)?);
        let notifier: Arc<dyn MmuNotifier> = memory.clone();
        space.register(Arc::downgrade(&notifier))?;
        Ok(Arc::new(Vm {
            _counted: Counted::new(Kind::Vm),
            counters: Arc::new(Counters::new(host.now())),
            host: host.clone(),
            space,
            memory,
            vcpus: Arc::new(VcpuList::new()),
            config: Lock::new(
                rank::VM,
                Config {
                    irqfds: Vec::new(),
                    routes: None,
                    timer_irqs: TimerIrqs::new(),
                    features: None,
                },
            ),
            ran: AtomicBool::new(false),
            ipa_bits,
        }))
    }

    /// The kernel.
    pub(crate) fn host(&self) -> &Arc<dyn Host> {
        &self.host
    }

    pub(crate) fn facts(&self) -> &Facts {
        self.host.facts()
    }

    /// The VMM's memory.
    pub(crate) fn space(&self) -> &dyn AddressSpace {
        &*self.space
    }

    /// The interrupt controller, if it has been made.
    pub fn vgic(&self) -> Option<Arc<Vgic>> {
        self.memory.snapshot().vgic.clone()
    }

    /// Its vCPUs.
    pub fn vcpus(&self) -> &VcpuList {
        &self.vcpus
    }

    /// Changes the configuration that vCPUs see, and tells them.
    pub(crate) fn change<T>(&self, f: impl FnOnce(&mut VmSnapshot) -> Result<T>) -> Result<T> {
        let result = {
            // One change at a time.
            let _config = self.config.lock();
            self.change_locked(f)?
        };
        self.tell_all();
        Ok(result)
    }

    /// The same where the VM's lock is held; [`Vm::tell_all`] is to follow.
    pub(crate) fn change_locked<T>(
        &self,
        f: impl FnOnce(&mut VmSnapshot) -> Result<T>,
    ) -> Result<T> {
        let mut new = self.memory.snapshot().try_clone()?;
        let result = f(&mut new)?;
        self.memory.publish(new);
        Ok(result)
    }

    pub(crate) fn tell_all(&self) {
        for core in self.vcpus.iter() {
            core.ask(&*self.host, request::SNAPSHOT);
        }
    }

    /// KVM_SET_USER_MEMORY_REGION.
    pub fn set_memory(
        &self,
        regime: &mut HostRegime,
        region: &abi::UserspaceMemoryRegion,
    ) -> Result<Done> {
        let limit = self.memory.snapshot().ipa_limit;
        let gone = self.change(|new| {
            let mut slots = new.slots.try_clone()?;
            let change = slots.set(region, limit, USER_LIMIT)?;
            let before = new.slots.iter().find(|slot| slot.id == region.slot).copied();
            new.slots = Arc::new(slots);
            let gone = before.filter(|_| change != Change::None);
            gone.map_or(Ok(()), |slot| self.memory.announce(slot))?;
            Ok(gone)
        })?;
        if let Some(slot) = gone {
            // No new fault maps there: it would find the generation changed.
            self.memory.unmap_slot(&slot, regime);
        }
        Ok(Done::Value(0))
    }

    /// Adds a device of the kernel's: [`Bus::with`].
    pub fn add_device(&self, base: u64, len: u64, device: Arc<dyn MmioDevice>) -> Result<()> {
        self.change(|new| {
            new.bus = Arc::new(new.bus.with(base, len, device)?);
            Ok(())
        })
    }

    /// Lets the calls of a watchdog ([`psci::Watchdog`]) exit as KVM_EXIT_HYPERCALL.
    pub fn offer_watchdog(&self) -> Result<()> {
        self.change(|new| {
            new.policy.watchdog = true;
            Ok(())
        })
    }

    /// Gives the guest a device of the machine's, at `gpa`: whole pages, mapped when
    /// they are first touched.
    pub fn pass_through(&self, gpa: u64, device: GuestDevice) -> Result<()> {
        if gpa & PAGE_SIZE.wrapping_sub(1) != 0 {
            return Err(Errno::EINVAL);
        }
        self.change(|new| {
            new.passed.make_room(1)?;
            new.passed.push((gpa, device));
            Ok(())
        })
    }

    /// Maps all of its memory, so that the guest never faults on it. Returns how many GiB are
    /// mapped by one entry each.
    pub fn populate(&self, regime: &mut HostRegime) -> Result<u64> {
        let snapshot = self.memory.snapshot();
        let mut gigabytes = 0u64;
        for slot in snapshot.slots.iter() {
            let mut at = slot.gpa;
            while at < slot.end() {
                let pause = || self.host.window(regime);
                if self.memory.map_gigabyte(self.space(), slot, at, pause).is_ok() {
                    at = at.saturating_add(GIGABYTE);
                    gigabytes = gigabytes.saturating_add(1);
                    continue;
                }
                let write = !slot.readonly;
                at = self.memory.fault(regime, self.space(), &snapshot, slot, at, write)?;
                self.host.window(regime);
            }
        }
        Ok(gigabytes)
    }

    /// Unmaps all of its memory, with interrupt windows: little is left to do when it is dropped,
    /// which may be anywhere.
    pub fn empty(&self, regime: &mut HostRegime) {
        self.memory.unmap_all(regime);
    }

    /// Sends all its vCPUs out of the guest and switches them off for good: their threads
    /// get [`Done::Wait`] from [`Vcpu::run`].
    pub fn stop(&self) {
        for core in self.vcpus.iter() {
            core.end(&*self.host);
        }
    }

    /// KVM_CREATE_VCPU.
    pub fn create_vcpu(self: &Arc<Self>, id: u64) -> Result<Arc<Vcpu>> {
        if id >= self.facts().max_vcpus() as u64 {
            return Err(Errno::EINVAL);
        }
        let id = id as u32;
        let run = Frame::alloc_as(Use::Window, Size::Page, Fill::Zeroed)?;
        let core = {
            let _config = self.config.lock();
            let snapshot = self.memory.snapshot();
            if snapshot.vgic.as_ref().is_some_and(|vgic| vgic.is_initialized()) {
                return Err(Errno::EBUSY);
            }
            if self.vcpus.by_id(id).is_some() {
                return Err(Errno::EEXIST);
            }
            let index = self.vcpus.len();
            // Aff0 has 16 values: what GICv3's SGIs reach.
            let mpidr = (1u64 << 31)
                | u64::from(id & 0xf)
                | (u64::from(id >> 4 & 0xff) << 8)
                | (u64::from(id >> 12 & 0xff) << 16);
            let mut state = Box::new(VcpuState::new(self.facts(), self.counters.clone(), mpidr));
            state.vgic = snapshot.vgic.clone();
            let core = Arc::new(VcpuCore::new(id, index, mpidr, state));
            if let Some(vgic) = &snapshot.vgic {
                vgic.add_vcpu(id, mpidr)?;
                if let Some(cpu) = vgic.cpu(index) {
                    core.set_gic(cpu);
                }
            }
            self.vcpus.push(core.clone())?;
            core
        };
        Ok(Arc::new(Vcpu::new(self.clone(), core, run)))
    }

    /// Makes the interrupt controller. Guests have the machine's kind or none: a
    /// GICv3 without support for GICv2 system-register-less guests can't give
    /// them one.
    pub fn create_vgic(&self, version: Version) -> Result<Arc<Vgic>> {
        let config = self.facts().gic().filter(|gic| gic.version == version);
        let config = GicConfig { ipa_bits: self.ipa_bits, ..config.ok_or(Errno::ENODEV)? };
        let vgic = {
            let _config = self.config.lock();
            let snapshot = self.memory.snapshot();
            if snapshot.vgic.is_some() {
                return Err(Errno::EEXIST);
            }
            if self.ran.load(Ordering::Relaxed) {
                return Err(Errno::EBUSY);
            }
            if self.vcpus.len() > config.max_vcpus() {
                return Err(Errno::E2BIG);
            }
            let kick = Arc::new(Kicker { vcpus: self.vcpus.clone(), host: self.host.clone() });
            let vgic = Arc::new(Vgic::new(kick, config));
            for core in self.vcpus.iter() {
                // A vCPU in KVM_RUN, or being looked at, has it locked for moments only.
                let index = vgic.add_vcpu(core.id, core.mpidr())?;
                if let Some(cpu) = vgic.cpu(index) {
                    core.set_gic(cpu);
                }
                core.state.lock().vgic = Some(vgic.clone());
            }
            self.change_locked(|new| {
                new.vgic = Some(vgic.clone());
                new.gicv = self.facts().gicv;
                Ok(())
            })?;
            vgic
        };
        self.tell_all();
        Ok(vgic)
    }

    pub(crate) fn pull_all(&self, regime: &HostRegime) {
        for core in self.vcpus.iter() {
            self.host.pull(regime, core);
        }
    }

    /// The last reference that user space had is gone (its file descriptors and
    /// those of its vCPUs and devices are closed): lets go of what CPUs still
    /// hold. The kernel calls it where it has the host's regime, before it drops
    /// what may be its last `Arc`.
    pub fn release(&self, regime: &HostRegime) {
        self.pull_all(regime);
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Irqfds first: their wakers reach vCPUs.
        let irqfds = core::mem::take(&mut self.config.get_mut().irqfds);
        drop(irqfds);
        // vCPUs know the interrupt controller, which knows the vCPUs.
        for core in self.vcpus.iter() {
            self.host.set_timer(core, None);
            let (vgic, snapshot) = {
                let mut state = core.state.lock();
                (state.vgic.take(), state.snapshot.take())
            };
            drop((vgic, snapshot));
        }
        self.memory.retire();
    }
}
