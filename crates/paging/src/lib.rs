//! Page tables whose entries hold counted frames.
//!
//! [`PageTable`] is the tree that the hardware walks, for one of the regimes
//! [`User`], [`Kernel`], [`El2`] and [`Stage2`], which differ in what the
//! descriptors say. What leaves a table goes through a [`Gather`], which frees
//! it only after the TLBs forgot it ([`Tlb`]). [`KernelMapBuilder`] makes the
//! kernel's first map before there are frames. [`Contexts`] hands out ASIDs
//! and VMIDs by generation.
//!
//! 4 KiB granule, output addresses of up to 48 bits, descriptors as in the Arm
//! ARM, D8.3.
#![no_std]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod builder;
mod context;
mod descriptor;
mod device;
mod gather;
mod regime;
mod table;
#[cfg(test)]
mod tests;

pub use builder::KernelMapBuilder;
pub use context::{Contexts, Id, Switch, VmId};
pub use device::GuestDevice;
pub use gather::{Gather, Tlb};
pub use regime::{
    El2, Kernel, KernelAttrs, MAIR, Memory, Regime, Stage2, Stage2Attrs, User, UserAttrs,
};
pub use table::{Leaf, PageTable, publish};
