//! What a trap to EL2 means.
//!
//! * [`esr`]: the syndrome (ESR_EL2, HPFAR_EL2, FAR_EL2) decoded.
//! * [`mmio`]: a trapped load or store as an access of a device.
//! * [`sysreg`]: which trapped system register it is and what becomes of it.
//! * [`id`]: the ID registers a guest sees.
//! * [`common`]: the ID registers of CPUs that differ, made one.
//! * [`inject`]: exceptions given to the guest, and stepping over an instruction.
//!
//! Everything is a function of registers: no locks, no allocation.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

#[cfg(test)]
extern crate std;

pub mod common;
pub mod esr;
pub mod id;
pub mod inject;
pub mod mmio;
pub mod sysreg;

pub use esr::{DataAbort, Esr, Fault, Severity, ec, fault_ipa};
pub use id::{GuestFeatures, IdRegs};
pub use inject::{Exception, PstateFeatures};
pub use mmio::MmioAccess;
pub use sysreg::{Class, SysAccess, SysReg, classify};
