//! KVM's virtual GICv2 and GICv3, as pure state.
//!
//! * [`Vgic`]: the controller of one VM: its vCPUs, interrupts and frames.
//! * [`Vgic::inject_spi`], [`Vgic::inject_ppi`], [`Vgic::send_sgi`]: interrupts
//!   come in, and [`Kick`] says whom to wake.
//! * [`Vgic::flush`], [`Vgic::sync`]: to and from the list registers
//!   ([`ListRegisters`]) that the world switch copies to the hardware.
//! * [`Vgic::mmio_read`], [`Vgic::mmio_write`]: the guest's view.
//! * [`Vgic::set_attr`], [`Vgic::get_attr`]: user space's view.
//!
//! The states of interrupts, and how list registers are filled and folded back,
//! know nothing of either GIC's frames.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]
#![cfg_attr(
    not(feature = "user-space"),
    allow(dead_code, reason = "what only attributes ask for is among what all need")
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod attr;
mod bank;
pub mod gich;
mod lr;
mod mmio;
mod mmio_v2;
mod regions;
mod switch;
mod sysreg;
#[cfg(test)]
mod tests;
mod vgic;

pub use lr::{
    ICH_HCR_EN, ICH_HCR_EOICOUNT_MASK, ICH_HCR_EOICOUNT_SHIFT, ICH_HCR_LRENPIE, ICH_HCR_NPIE,
    ICH_HCR_TDIR, ICH_HCR_TRAP_ALL, ICH_HCR_UIE, ICH_LR_ACTIVE, ICH_LR_EOI, ICH_LR_GROUP,
    ICH_LR_HW, ICH_LR_PENDING, ListRegisters, MAX_LRS,
};
pub use switch::Outcome;
pub use sysreg::{ICC_SRE_EL1_VALUE, IccReg, sysreg};
pub use vgic::{Config, Cpu, Kick, MAX_VCPUS_V2, MAX_VCPUS_V3, Region, SgiKind, Version, Vgic};
