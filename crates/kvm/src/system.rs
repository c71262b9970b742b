//! `/dev/kvm`.

use crate::host::{Facts, Host};
use crate::irq::MAX_ROUTES;
use crate::slots::MAX_SLOTS;
use crate::vcpu::MAX_VCPUS;
use crate::vm::Vm;
use crate::{Done, GIC_WITHOUT_ITS};
use alloc::sync::Arc;
use base::{Errno, Result, UserMem};
use kvm_abi::cap as c;
use kvm_abi::{ioctl, run};
use regime::HostRegime;

/// What opening `/dev/kvm` gives.
pub struct Kvm {
    host: Arc<dyn Host>,
}

impl Kvm {
    /// KVM on this machine.
    pub fn new(host: Arc<dyn Host>) -> Kvm {
        Kvm { host }
    }

    /// An ioctl on `/dev/kvm`.
    pub fn ioctl(
        &self,
        _regime: &mut HostRegime,
        _user: &dyn UserMem,
        request: u32,
        arg: u64,
    ) -> Result<Done> {
        match request {
            ioctl::GET_API_VERSION if arg == 0 => Ok(Done::Value(kvm_abi::API_VERSION)),
            ioctl::GET_VCPU_MMAP_SIZE if arg == 0 => Ok(Done::Value(run::MMAP_SIZE)),
            ioctl::CHECK_EXTENSION => {
                Ok(Done::Value(check_extension(self.host.facts(), None, arg)))
            }
            ioctl::CREATE_VM => Vm::new(&self.host, self.host.address_space(), arg).map(Done::Vm),
            ioctl::GET_API_VERSION | ioctl::GET_VCPU_MMAP_SIZE => Err(Errno::EINVAL),
            // As Linux: what /dev/kvm doesn't know is EINVAL.
            _ => Err(Errno::EINVAL),
        }
    }
}

/// KVM_CHECK_EXTENSION, on `/dev/kvm` or on a VM.
pub(crate) fn check_extension(facts: &Facts, _vm: Option<&Vm>, number: u64) -> i64 {
    let Ok(number) = u32::try_from(number) else { return 0 };
    match number {
        c::IRQCHIP | c::ARM_PSCI | c::ARM_PSCI_0_2 => i64::from(facts.ich_vtr.is_some()).max(
            // PSCI is there without an interrupt controller.
            i64::from(number != c::IRQCHIP),
        ),
        c::USER_MEMORY
        | c::USER_MEMORY2
        | c::SYNC_MMU
        | c::DESTROY_MEMORY_REGION_WORKS
        | c::JOIN_MEMORY_REGIONS_WORKS
        | c::ONE_REG
        | c::IRQFD
        | c::IOEVENTFD
        | c::IOEVENTFD_NO_LENGTH
        | c::IOEVENTFD_ANY_LENGTH
        | c::INTERNAL_ERROR_DATA
        | c::MP_STATE
        | c::VCPU_EVENTS
        | c::READONLY_MEM
        | c::DEVICE_CTRL
        | c::ARM_SET_DEVICE_ADDR
        | c::CHECK_EXTENSION_VM
        | c::ENABLE_CAP_VM
        | c::IMMEDIATE_EXIT
        | c::VCPU_ATTRIBUTES
        | c::ARM_IRQ_LINE_LAYOUT_2
        | c::ARM_NISV_TO_USER
        | c::ARM_INJECT_EXT_DABT
        | c::ARM_SYSTEM_SUSPEND
        | c::SYSTEM_EVENT_DATA
        | c::COUNTER_OFFSET => 1,
        c::NR_MEMSLOTS => i64::from(MAX_SLOTS),
        c::NR_VCPUS => i64::from(facts.cpus).min(facts.max_vcpus() as i64),
        c::MAX_VCPUS => facts.max_vcpus() as i64,
        c::MAX_VCPU_ID => MAX_VCPUS as i64,
        c::IRQ_ROUTING => MAX_ROUTES as i64,
        c::ARM_VM_IPA_SIZE => i64::from(facts.ipa_bits),
        // Not there (yet): dirty logging, coalesced MMIO, resampling irqfds,
        // MSIs, guest debugging, PMU, SVE, pointer authentication, MTE, steal
        // time, PTP, SErrors with a syndrome, nested virtualisation, statistics.
        c::SIGNAL_MSI | c::MSI_DEVID => GIC_WITHOUT_ITS,
        _ => 0,
    }
}
