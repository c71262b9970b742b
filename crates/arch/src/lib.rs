//! AArch64, where it is not Rust: system registers, barriers, TLB and cache
//! maintenance, exception vectors, and the few assembly routines.
//!
//! This crate is one of the rooms where `unsafe` and assembly may live. It
//! knows nothing of tasks, memory maps or guests.
//!
//! [`host`] is the layer that names each *host* system register once. The
//! kernel's code is the same wherever it stands:
//!
//! | kernel at | names in the code | what reaches the hardware |
//! | --- | --- | --- |
//! | EL1 | `_EL1` | `_EL1` |
//! | EL2, E2H=1 (VHE) | `_EL1` | `_EL2`, redirected by the CPU; TPIDR patched |
//! | EL2, E2H=0 | `_EL1` | `_EL2`, patched into the code at boot |
#![no_std]
#![cfg(target_arch = "aarch64")]

pub mod barrier;
pub mod cache;
pub mod cpu;
pub mod fp;
pub mod gic;
pub mod guest_facts;
pub mod host;
pub mod irq;
pub mod map;
pub mod mitigation;
pub mod mmio;
pub mod regime;
pub mod switch;
pub mod sysreg;
pub mod timer;
pub mod tlb;
pub mod trap;
pub mod uaccess;

// `memcpy`, `memset` and friends: the kernel is built soft-float, so the
// generic ones would move a word at a time.
core::arch::global_asm!(include_str!("asm/mem.s"));
