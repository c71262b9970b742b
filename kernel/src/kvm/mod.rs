//! KVM in the kernel: its file descriptors, and what `crates/kvm` needs.

mod files;
mod host;

pub use files::ioctl;

use crate::boot::BootPlan;
use alloc::sync::Arc;
use kvm::Kvm;
use mode::Hypervisor;
use spin::Once;
use vfs::device::{self, DeviceRegistry};

static KVM: Once<Arc<Kvm>> = Once::new();

/// Makes /dev/kvm, if there is a hypervisor and the machine can run guests.
pub fn init(plan: &BootPlan, devices: &DeviceRegistry) {
    if plan.choice.hypervisor != Hypervisor::Vhe {
        return;
    }
    let facts = match host::facts() {
        Ok(facts) => facts,
        Err(why) => {
            log::warn!("KVM: {why}: there is no /dev/kvm");
            return;
        }
    };
    crate::vcpu::init();
    log::info!(
        "KVM: VHE, {} bits of guest physical address, {} list registers",
        facts.ipa_bits,
        facts.ich_vtr.map_or(0, |vtr| (vtr & 31).saturating_add(1))
    );
    let kvm = KVM.call_once(|| Arc::new(Kvm::new(Arc::new(host::Machine::new(facts)))));
    let file: Arc<dyn vfs::File> = Arc::new(files::KvmFile(kvm.clone()));
    devices.register_file(device::KVM, "kvm", 0o600, file);
}
