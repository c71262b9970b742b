//! KVM: the objects behind its file descriptors, and what becomes of an exit.
//!
//! * [`Kvm`], [`Vm`], [`Vcpu`], [`Device`]: what `/dev/kvm`, KVM_CREATE_VM,
//!   KVM_CREATE_VCPU and KVM_CREATE_DEVICE give; each has an `ioctl`.
//! * [`Host`], [`AddressSpace`], [`EventFd`]: what the kernel gives.
//! * [`drive`]: who runs a vCPU where there is no VMM.
//! * [`fast`]: exits that are answered in the guest's HCR_EL2.
//!
//! The README beside this crate's Cargo.toml tells the life of an exit.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]
#![cfg_attr(
    not(feature = "user-space"),
    allow(dead_code, reason = "what only ioctls ask for is among what all need")
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod bank;
mod bus;
#[cfg(feature = "user-space")]
mod device;
mod drive;
mod exit;
mod fast;
mod filter;
mod host;
mod irq;
mod memory;
#[cfg(feature = "user-space")]
mod regs;
mod run;
mod slots;
mod snapshot;
#[cfg(feature = "user-space")]
mod system;
#[cfg(test)]
mod tests;
mod vcpu;
#[cfg(feature = "user-space")]
mod vcpu_ioctl;
mod vm;
#[cfg(feature = "user-space")]
mod vm_ioctl;

pub use bank::Bank;
pub use bus::{Bus, MmioDevice};
#[cfg(feature = "user-space")]
pub use device::Device;
pub use drive::{Driver, drive};
pub use fast::{Fast, fast};
pub use host::{AddressSpace, EventFd, Exit, Facts, Host, HostFrame, MmuNotifier};
pub use memory::VmMemory;
pub use run::Vcpu;
pub use slots::{Change, MAX_SLOTS, Slot, Slots};
pub use snapshot::{IoEvent, VmSnapshot};
#[cfg(feature = "user-space")]
pub use system::Kvm;
pub use vcpu::{Entry, MAX_VCPUS, PutPlan, VcpuCore, VcpuList, VcpuState, request};
pub use vm::Vm;

use alloc::sync::Arc;

/// What an ioctl did.
pub enum Done {
    /// It returns this.
    Value(i64),
    /// It returns a new file descriptor for this VM.
    Vm(Arc<Vm>),
    /// It returns a new file descriptor for this vCPU.
    Vcpu(Arc<Vcpu>),
    #[cfg(feature = "user-space")]
    /// A new file descriptor for this device is stored at `fd_at` (a `u32` in
    /// user memory), and the ioctl returns 0.
    Device {
        /// The device.
        device: Arc<Device>,
        /// Where user space wants the descriptor.
        fd_at: u64,
    },
    /// It can't go on: wait on [`Vcpu::wait_queue`] (registered before the call)
    /// or for a signal, and call again. (`EAGAIN` is a real answer of some of
    /// KVM's ioctls.)
    Wait,
}

/// KVM_CAP_SIGNAL_MSI and KVM_CAP_MSI_DEVID: there is no ITS yet.
const GIC_WITHOUT_ITS: i64 = 0;
