//! KVM's ABI on arm64: ioctl numbers, structures, constants (Linux's
//! Documentation/virt/kvm/api.rst and include/uapi). `kvm-bindings` needs
//! `std`; its layouts check these in the tests.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]
#![allow(missing_docs, reason = "the names are Linux's; api.rst documents them")]

pub mod cap;
pub mod ioctl;
pub mod reg;
pub mod run;
mod structs;
pub mod vgic;

pub use structs::*;

/// KVM_GET_API_VERSION.
pub const API_VERSION: i64 = 12;

pub const MEM_LOG_DIRTY_PAGES: u32 = 1;
pub const MEM_READONLY: u32 = 2;
pub const MEM_GUEST_MEMFD: u32 = 4;

pub const MP_STATE_RUNNABLE: u32 = 0;
pub const MP_STATE_STOPPED: u32 = 5;
pub const MP_STATE_SUSPENDED: u32 = 10;

pub const IRQFD_FLAG_DEASSIGN: u32 = 1;
pub const IRQFD_FLAG_RESAMPLE: u32 = 2;

pub const IOEVENTFD_FLAG_DATAMATCH: u32 = 1;
pub const IOEVENTFD_FLAG_PIO: u32 = 2;
pub const IOEVENTFD_FLAG_DEASSIGN: u32 = 4;

pub const IRQ_ROUTING_IRQCHIP: u32 = 1;
pub const IRQ_ROUTING_MSI: u32 = 2;

pub const DEV_TYPE_ARM_VGIC_V2: u32 = 5;
pub const DEV_TYPE_ARM_VGIC_V3: u32 = 7;
pub const DEV_TYPE_ARM_VGIC_ITS: u32 = 8;
pub const CREATE_DEVICE_TEST: u32 = 1;

/// KVM_ARM_SET_DEVICE_ADDR's `id`: device in bits 16 to 31.
pub const ARM_DEVICE_VGIC_V2: u64 = 0;

pub const ARM_TARGET_GENERIC_V8: u32 = 5;
pub const ARM_VCPU_POWER_OFF: u32 = 0;
pub const ARM_VCPU_EL1_32BIT: u32 = 1;
pub const ARM_VCPU_PSCI_0_2: u32 = 2;
pub const ARM_VCPU_PMU_V3: u32 = 3;
pub const ARM_VCPU_SVE: u32 = 4;
pub const ARM_VCPU_PTRAUTH_ADDRESS: u32 = 5;
pub const ARM_VCPU_PTRAUTH_GENERIC: u32 = 6;
pub const ARM_VCPU_HAS_EL2: u32 = 7;

/// KVM_IRQ_LINE's `irq`: type in bits 24 to 27.
pub const ARM_IRQ_TYPE_CPU: u32 = 0;
pub const ARM_IRQ_TYPE_SPI: u32 = 1;
pub const ARM_IRQ_TYPE_PPI: u32 = 2;

/// Groups of attributes of a vCPU's fd.
pub const ARM_VCPU_PMU_V3_CTRL: u32 = 0;
pub const ARM_VCPU_TIMER_CTRL: u32 = 1;
pub const ARM_VCPU_TIMER_IRQ_VTIMER: u64 = 0;
pub const ARM_VCPU_TIMER_IRQ_PTIMER: u64 = 1;
pub const ARM_VCPU_PVTIME_CTRL: u32 = 2;

/// Group of attributes of a VM's fd.
pub const ARM_VM_SMCCC_CTRL: u32 = 0;
pub const ARM_VM_SMCCC_FILTER: u64 = 0;
pub const SMCCC_FILTER_HANDLE: u8 = 0;
pub const SMCCC_FILTER_DENY: u8 = 1;
pub const SMCCC_FILTER_FWD_TO_USER: u8 = 2;

#[cfg(test)]
mod tests;
