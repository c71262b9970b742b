//! Exits that are answered at EL2 in the guest's HCR_EL2, interrupts masked.
//!
//! No lock that others hold for long, no allocation, no log, no reference
//! counts; nothing here takes a [`regime::HostRegime`], so nothing can.

use crate::vcpu::Entry;
use psci::Action;
use traps::esr::{Esr, Fault, ec, fault_ipa};
use traps::sysreg::{SysAccess, SysReg, read_constant};
use traps::{MmioAccess, inject::skip};
use vcpu_context::GuestContext;
use vgic::{SgiKind, Vgic};

/// What became of an exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fast {
    /// Answered: the guest goes on.
    Resume,
    /// Answered, and the vCPU has new interrupts: the guest goes on after
    /// [`crate::VcpuState::refill`].
    Refill,
    /// Answered, but there is something to do in the host's regime before the
    /// guest goes on: [`crate::Host::enter`] returns [`crate::Exit::Done`].
    Done,
    /// Not answered: nothing has changed, [`crate::Exit::Sync`].
    NeedsHost,
}

/// Answers a synchronous exit, if that can be done here. Hypercalls come first
/// and need no stack, where this is inlined.
#[inline(always)]
pub fn fast(context: &mut GuestContext, entry: &Entry<'_>) -> Fast {
    let esr = Esr(context.esr_el2);
    if esr.ec() != ec::HVC64 {
        other(context, entry, esr)
    } else if hypercall(context, entry) {
        Fast::Resume
    } else {
        query(context, entry)
    }
}

#[inline(never)]
fn other(context: &mut GuestContext, entry: &Entry<'_>, esr: Esr) -> Fast {
    match esr.ec() {
        ec::SYSREG => system_register(context, entry, esr),
        ec::DABT_LOWER => device_read(context, entry, esr),
        _ => Fast::NeedsHost,
    }
}

/// The preferred return address of HVC is the instruction after it: there's
/// nothing to skip.
#[inline(always)]
fn hypercall(context: &mut GuestContext, entry: &Entry<'_>) -> bool {
    let [function, arg1, ..] = context.regs;
    let answer = psci::answer(&entry.snapshot.policy, function as u32, arg1);
    if let Some(value) = answer {
        let [x0, ..] = &mut context.regs;
        *x0 = value;
    }
    answer.is_some()
}

/// A hypercall that [`hypercall`] left, if it changes nothing outside of the guest.
#[inline(never)]
fn query(context: &mut GuestContext, entry: &Entry<'_>) -> Fast {
    let policy = &entry.snapshot.policy;
    if policy.filtered {
        return Fast::NeedsHost;
    }
    let [function, arg1, arg2, arg3, ..] = context.regs;
    match psci::decide_unanswered(policy, function as u32, [arg1, arg2, arg3]) {
        Action::Return(value) => context.set_x(0, value),
        Action::Return4(values) => {
            for (x, value) in (0..).zip(values) {
                context.set_x(x, value);
            }
        }
        Action::AffinityInfo { target, level } => {
            context.set_x(0, entry.vcpus.affinity_info(target, level));
        }
        _ => return Fast::NeedsHost,
    }
    Fast::Resume
}

#[inline(never)]
fn system_register(context: &mut GuestContext, entry: &Entry<'_>, esr: Esr) -> Fast {
    let access = SysAccess::decode(esr.iss());
    if access.reg == SysReg::ICC_SGI1R_EL1 && !access.is_read {
        return send_sgi(context, entry, access);
    }
    match read_constant(access, &entry.snapshot.id) {
        Some(value) => {
            context.set_x(access.rt, value);
            skip(context);
            Fast::Resume
        }
        None => Fast::NeedsHost,
    }
}

/// An SGI to vCPUs in the guest is an atomic OR and a physical interrupt.
#[inline]
fn send_sgi(context: &mut GuestContext, entry: &Entry<'_>, access: SysAccess) -> Fast {
    let Some(vgic) = &entry.snapshot.vgic else { return Fast::NeedsHost };
    vgic.send_sgi(entry.core.index, context.x(access.rt), SgiKind::Sgi1);
    skip(context);
    if entry.core.gic_has_news() { Fast::Refill } else { after(entry) }
}

/// After what may have told other vCPUs of interrupts.
#[inline]
fn after(entry: &Entry<'_>) -> Fast {
    if entry.has_sleepers() { Fast::Done } else { Fast::Resume }
}

/// Reads of the kernel's own devices that move no interrupt line.
fn bus_read(context: &mut GuestContext, entry: &Entry<'_>, esr: Esr, ipa: u64) -> Fast {
    let Some((device, at)) = entry.snapshot.bus.find(ipa) else { return Fast::NeedsHost };
    let Some(access) = MmioAccess::decode(esr, ipa) else { return Fast::NeedsHost };
    if access.is_write {
        return Fast::NeedsHost;
    }
    let Some(value) = device.read_fast(at, access.size) else { return Fast::NeedsHost };
    access.finish_load(context, value);
    skip(context);
    Fast::Resume
}

/// Reads of the interrupt controller that need no look at list registers.
#[inline(never)]
fn device_read(context: &mut GuestContext, entry: &Entry<'_>, esr: Esr) -> Fast {
    if esr.fault() != Fault::Translation {
        return Fast::NeedsHost;
    }
    let Some(vgic) = &entry.snapshot.vgic else { return Fast::NeedsHost };
    let ipa = fault_ipa(context.hpfar_el2, context.far_el2);
    let Some((region, offset)) = vgic.decode(ipa) else {
        return bus_read(context, entry, esr, ipa);
    };
    let Some(access) = MmioAccess::decode(esr, ipa) else { return Fast::NeedsHost };
    if access.is_write || Vgic::needs_sync(region, offset) {
        return Fast::NeedsHost;
    }
    let value = vgic.mmio_read(entry.core.index, region, offset, u32::from(access.size));
    access.finish_load(context, value);
    skip(context);
    Fast::Resume
}
