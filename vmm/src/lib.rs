//! Hypha's virtual machine monitor: an ordinary Rust program on the rust-vmm crates that runs arm64 guests on
//! /dev/kvm, be it Linux's or Hypha's.
//!
//! [`machine`] puts a machine together; the guest's accesses to devices arrive on the [`bus`], on the vCPU's
//! thread; virtio queues are served by the main thread. What talks to KVM is in `kvm` and only there for arm64;
//! everything else compiles and is tested on any Linux machine.

#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

pub mod args;
pub mod bus;
pub mod control;
pub mod devices;
pub mod error;
pub mod fdt;
pub mod image;
pub mod initrd;
pub mod input;
pub mod irq;
#[cfg(target_arch = "aarch64")]
pub mod kvm;
pub mod layout;
#[cfg(target_arch = "aarch64")]
pub mod machine;
pub mod memory;
pub mod output;
pub mod random;
#[cfg(target_arch = "aarch64")]
pub mod run;
pub mod sync;
pub mod terminal;
pub mod virtio;
