//! Devices of the machine's that VMs have: their registers go to stage 2, their
//! interrupts are handed on.
//!
//! A level-sensitive interrupt stays active until the guest has ended its own: it
//! fires no more often than the guest takes it.
#![expect(unsafe_code, reason = "gives registers of the machine's to guests")]

use super::plan::Plan;
use crate::gic;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use base::{Errno, Lock, PhysAddr, Result, rank};
use domain::passthrough::Interrupt;
use kvm::Vm;
use paging::GuestDevice;
use spin::Once;

/// An interrupt of a VM's device.
struct Line {
    interrupt: Interrupt,
    /// Whose it is: a VM that lives, or none.
    vm: Lock<Weak<Vm>>,
}

static LINES: Once<Vec<Line>> = Once::new();

/// Knows whose devices there are.
pub fn init(plans: &[Plan]) {
    let interrupts = plans.iter().filter_map(|plan| plan.passthrough.as_ref());
    let lines = interrupts.flat_map(|devices| &devices.interrupts).map(|interrupt| Line {
        interrupt: *interrupt,
        vm: Lock::new(rank::INODE, Weak::new()),
    });
    let lines = lines.collect();
    LINES.call_once(|| lines);
}

/// The most that an INTID of the plan's devices is.
pub fn last_interrupt(plan: &Plan) -> Option<u32> {
    plan.passthrough.as_ref()?.interrupts.iter().map(|interrupt| interrupt.intid).max()
}

/// Gives a VM that starts (anew) the devices of its plan.
pub fn attach(plan: &Plan, vm: &Arc<Vm>) -> Result<()> {
    let Some(devices) = &plan.passthrough else { return Ok(()) };
    for mapping in &devices.mappings {
        // SAFETY: registers of a device that is nobody else's (`domain::claims`). If it
        // writes memory, whoever made the device tree trusts this guest with the
        // machine, or said that it doesn't (`xen,force-assign-without-iommu`).
        let device = unsafe { GuestDevice::new(PhysAddr::new(mapping.host.start), mapping.host.size) };
        vm.pass_through(mapping.guest, device.ok_or(Errno::EINVAL)?)?;
    }
    let vgic = vm.vgic().ok_or(Errno::ENODEV)?;
    let cpu = plan.cpus.first().copied().unwrap_or(0);
    for line in of(plan) {
        let Interrupt { intid, edge } = line.interrupt;
        vgic.set_resample(intid, !edge)?;
        *line.vm.lock() = Arc::downgrade(vm);
        gic::hand_on(intid, edge, cpu);
    }
    Ok(())
}

/// The VM has ended: its devices are quiet until it starts anew.
pub fn detach(plan: &Plan) {
    for line in of(plan) {
        gic::disable(line.interrupt.intid);
        *line.vm.lock() = Weak::new();
        gic::set_active(line.interrupt.intid, false);
    }
}

fn of(plan: &Plan) -> impl Iterator<Item = &'static Line> {
    let wanted = plan.passthrough.as_ref().map_or(&[][..], |devices| devices.interrupts.as_slice());
    let lines = LINES.get().map_or(&[][..], Vec::as_slice);
    wanted.iter().filter_map(|wanted| lines.iter().find(|line| line.interrupt == *wanted))
}

/// An interrupt came, if it is one of a VM's device: whether it stays active.
pub fn interrupt(intid: u32) -> Option<bool> {
    let line = LINES.get()?.iter().find(|line| line.interrupt.intid == intid)?;
    let vm = line.vm.lock().upgrade();
    let Some(vm) = vm else {
        gic::disable(intid);
        return Some(false);
    };
    if let Some(vgic) = vm.vgic() {
        // There is such an interrupt: `attach` found it.
        let _ = vgic.inject_spi(intid, true);
        if line.interrupt.edge {
            let _ = vgic.inject_spi(intid, false);
        }
    }
    vm.vcpus().wake_sleepers();
    Some(!line.interrupt.edge)
}
