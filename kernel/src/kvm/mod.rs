//! KVM in the kernel: its file descriptors, and what `crates/kvm` needs.

mod files;
mod host;

pub use files::ioctl;

use crate::boot::BootPlan;
use crate::memory;
use alloc::sync::Arc;
use kvm::Kvm;
use mode::Hypervisor;
use spin::Once;
use vfs::device::{self, DeviceRegistry};

static KVM: Once<Arc<Kvm>> = Once::new();

/// Makes /dev/kvm, if there is a hypervisor and the machine can run guests.
pub fn init(plan: &BootPlan, devices: &DeviceRegistry) {
    let Some(host) = hypervisor(plan) else { return };
    let kvm = KVM.call_once(|| Arc::new(Kvm::new(host)));
    let file: Arc<dyn vfs::File> = Arc::new(files::KvmFile(kvm.clone()));
    devices.register_file(device::KVM, "kvm", 0o600, file);
}

/// The hypervisor, if there is one and the machine can run guests.
pub fn hypervisor(plan: &BootPlan) -> Option<Arc<dyn kvm::Host>> {
    let split = match plan.choice.hypervisor {
        Hypervisor::Vhe | Hypervisor::Type1 => false,
        Hypervisor::Nvhe => true,
        Hypervisor::None => return None,
    };
    if split && !crate::hyp::is_ready() {
        log::warn!("KVM: hyp did not start: there is no /dev/kvm");
        return None;
    }
    let crash = memory::machine().and_then(|machine| machine.arguments.hypha("crash"));
    if split && crash == Some("hyp") {
        crate::hyp::crash();
    }
    let facts = match host::facts() {
        Ok(facts) => facts,
        Err(why) => {
            log::warn!("KVM: {why}: there are no guests");
            return None;
        }
    };
    crate::vcpu::init();
    log::info!(
        "KVM: {}, {} bits of guest physical address, GICv{}, {} list registers",
        match plan.choice.hypervisor {
            Hypervisor::Type1 => "Type-1",
            Hypervisor::Nvhe => "nVHE",
            _ => "VHE",
        },
        facts.ipa_bits,
        if facts.has_gicv3() { 3 } else { 2 },
        facts.gic().map_or(0, |gic| gic.nr_lrs())
    );
    if !facts.gic_deactivates {
        log::info!("KVM: this GIC's virtual interface does not deactivate interrupts: we do");
    }
    Some(if split {
        Arc::new(host::Machine::<true, false>::new(facts))
    } else if arch::host::is_e2h0() {
        Arc::new(host::Machine::<false, true>::new(facts))
    } else {
        Arc::new(host::Machine::<false, false>::new(facts))
    })
}
