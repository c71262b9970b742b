//! KVM in the kernel: its file descriptors, and what `crates/kvm` needs.

#[cfg(feature = "user-space")]
mod files;
mod host;

#[cfg(feature = "user-space")]
pub use files::{address_space, eventfd, init, ioctl};

use crate::boot::BootPlan;
use crate::memory;
use alloc::sync::Arc;
use mode::Hypervisor;

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
