//! What the exit path reads of a VM: immutable, replaced as a whole.

use crate::bus::Bus;
use crate::filter::{Filter, Verdict};
use crate::host::EventFd;
use crate::slots::Slots;
use alloc::sync::Arc;
use alloc::vec::Vec;
use base::{Result, room};
use paging::GuestDevice;
use psci::Policy;
use traps::IdRegs;
use vgic::Vgic;

/// One ioeventfd.
#[derive(Clone)]
pub struct IoEvent {
    /// The guest physical address.
    pub addr: u64,
    /// Bytes: 0 (any), 1, 2, 4 or 8.
    pub len: u32,
    /// What must be written, if it matters.
    pub datamatch: Option<u64>,
    /// What is signalled.
    pub eventfd: Arc<dyn EventFd>,
}

impl IoEvent {
    /// Whether a write of `len` bytes of `value` at its address is meant.
    fn matches(&self, len: u32, value: u64) -> bool {
        (self.len == 0 || self.len == len)
            && self.datamatch.is_none_or(|wanted| {
                wanted & traps::mmio::mask(len as u8) == value & traps::mmio::mask(len as u8)
            })
    }

    /// Whether both can't be there at once (Linux's ioeventfd_check_collision).
    pub fn collides(&self, other: &IoEvent) -> bool {
        self.addr == other.addr
            && (self.len == 0
                || other.len == 0
                || (self.len == other.len
                    && match (self.datamatch, other.datamatch) {
                        (Some(a), Some(b)) => a == b,
                        _ => true,
                    }))
    }
}

/// A VM's configuration, as its vCPUs see it. Each vCPU holds one and takes a
/// new one when a request says so.
pub struct VmSnapshot {
    /// Grows with each change.
    pub generation: u64,
    /// Memory.
    pub slots: Arc<Slots>,
    /// In the order of addresses.
    pub io_events: Vec<IoEvent>,
    /// Devices in the kernel.
    pub bus: Arc<Bus>,
    /// The interrupt controller.
    pub vgic: Option<Arc<Vgic>>,
    /// What a GICv2's CPU interface is mapped to.
    pub gicv: Option<GuestDevice>,
    /// Devices of the machine's that the guest has, by guest physical address.
    pub passed: Vec<(u64, GuestDevice)>,
    /// Firmware calls.
    pub policy: Policy,
    /// Which of them aren't KVM's to answer; `policy.filtered` says that there are any.
    pub(crate) filter: Option<Arc<Filter>>,
    /// ID registers.
    pub id: IdRegs,
    /// KVM_CAP_ARM_NISV_TO_USER is on.
    pub nisv_to_user: bool,
    /// Guest physical addresses below this exist.
    pub ipa_limit: u64,
}

impl VmSnapshot {
    /// A copy to change.
    pub fn try_clone(&self) -> Result<VmSnapshot> {
        let mut io_events = room::try_vec(self.io_events.len())?;
        io_events.extend_from_slice(&self.io_events);
        let mut passed = room::try_vec(self.passed.len())?;
        passed.extend_from_slice(&self.passed);
        Ok(VmSnapshot {
            generation: self.generation.wrapping_add(1),
            slots: self.slots.clone(),
            io_events,
            bus: self.bus.clone(),
            vgic: self.vgic.clone(),
            gicv: self.gicv,
            passed,
            policy: self.policy,
            filter: self.filter.clone(),
            id: self.id.clone(),
            nisv_to_user: self.nisv_to_user,
            ipa_limit: self.ipa_limit,
        })
    }

    /// What becomes of a firmware call.
    pub(crate) fn verdict(&self, function: u32) -> Verdict {
        self.filter.as_ref().map_or(Verdict::Handle, |filter| filter.verdict(function))
    }

    /// Whether the guest has a GICv3, and with it system registers.
    pub fn has_gicv3(&self) -> bool {
        self.vgic.is_some() && self.gicv.is_none()
    }

    /// The device of the machine's that the guest has at a guest physical address,
    /// and where in it: the GICV behind its GICv2's CPU interface, or one that was
    /// passed through.
    pub fn device_at(&self, addr: u64) -> Option<(&GuestDevice, u64)> {
        let gicv = self.gicv.as_ref().and_then(|gicv| {
            let at = self.vgic.as_ref()?.cpu_interface(addr)?;
            Some((gicv, at))
        });
        gicv.or_else(|| {
            self.passed.iter().find_map(|(base, device)| {
                let at = addr.wrapping_sub(*base);
                (at < device.len()).then_some((device, at))
            })
        })
    }

    /// Whether anything waits for writes at `addr`.
    #[inline]
    pub fn has_io_event(&self, addr: u64) -> bool {
        self.io_events.binary_search_by_key(&addr, |event| event.addr).is_ok()
    }

    /// Who waits for this write.
    pub fn io_event(&self, addr: u64, len: u32, value: u64) -> Option<&IoEvent> {
        let first = self.io_events.partition_point(|event| event.addr < addr);
        self.io_events
            .iter()
            .skip(first)
            .take_while(|event| event.addr == addr)
            .find(|event| event.matches(len, value))
    }
}
