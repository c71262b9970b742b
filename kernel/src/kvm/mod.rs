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
    let split = match plan.choice.hypervisor {
        Hypervisor::Vhe => false,
        Hypervisor::Nvhe => true,
        _ => return,
    };
    if split && !crate::hyp::is_ready() {
        log::warn!("KVM: hyp did not start: there is no /dev/kvm");
        return;
    }
    let crash = memory::machine().and_then(|machine| machine.arguments.hypha("crash"));
    if split && crash == Some("hyp") {
        crate::hyp::crash();
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
        "KVM: {}, {} bits of guest physical address, GICv{}, {} list registers",
        if split { "nVHE" } else { "VHE" },
        facts.ipa_bits,
        if facts.has_gicv3() { 3 } else { 2 },
        facts.gic().map_or(0, |gic| gic.nr_lrs())
    );
    if !facts.gic_deactivates {
        log::info!("KVM: this GIC's virtual interface does not deactivate interrupts: we do");
    }
    let host: Arc<dyn kvm::Host> = if split {
        Arc::new(host::Machine::<true>::new(facts))
    } else {
        Arc::new(host::Machine::<false>::new(facts))
    };
    let kvm = KVM.call_once(|| Arc::new(Kvm::new(host)));
    let file: Arc<dyn vfs::File> = Arc::new(files::KvmFile(kvm.clone()));
    devices.register_file(device::KVM, "kvm", 0o600, file);
}
