//! Virtual machines as the device tree names them, and the device trees that
//! they get: the pure side of Type-1 mode.
//!
//! * [`read`] takes Xen's dom0less bindings (`/chosen` nodes that are compatible
//!   with `xen,domain`) to a list of [`Domain`]s. What is malformed or isn't
//!   supported becomes a [`Problem`] that names node and property, and that
//!   domain is not in the list.
//! * [`passthrough::read`] takes a partial device tree to mappings and interrupts.
//! * [`claims::check`] finds domains that want the same memory or interrupts.
//! * [`cpus::assign`] gives each virtual CPU its place.
//! * [`image::prepare`] says where kernel, ramdisk and tree go in a guest's RAM.
//! * [`tree::build`] writes the guest's device tree.
//!
//! docs/type1.md lists the bindings and where they differ from Xen's.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

extern crate alloc;
#[cfg(test)]
#[macro_use]
extern crate std;

pub mod claims;
pub mod cpus;
pub mod image;
pub mod layout;
mod nodes;
pub mod passthrough;
mod problem;
mod read;
mod region;
#[cfg(test)]
mod tests;
pub mod tree;
mod writer;

use alloc::string::String;
use alloc::vec::Vec;

pub use problem::Problem;
pub use read::{Found, for_each, present, read};
pub use region::Region;
pub use writer::Writer;

/// A virtual machine that the device tree asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// The node's name, such as `domU1`.
    pub name: String,
    /// `cpus`: how many virtual CPUs.
    pub cpus: u32,
    /// `memory`, in bytes: whole pages.
    pub memory: u64,
    /// `vpl011`: it has a console.
    pub console: bool,
    /// `nr_spis`.
    pub nr_spis: Option<u32>,
    /// `direct-map`: RAM has the same addresses in the guest as in the machine.
    pub direct_map: bool,
    /// `xen,static-mem`: the machine's memory that it gets. Empty: any.
    pub static_memory: Vec<Region>,
    /// `multiboot,kernel`, where the boot loader put it.
    pub kernel: Region,
    /// The path of that module's node, for messages.
    pub kernel_node: String,
    /// The kernel's `bootargs`.
    pub bootargs: String,
    /// `multiboot,ramdisk`.
    pub ramdisk: Option<Region>,
    /// `multiboot,device-tree`: a partial device tree for [`passthrough::read`].
    pub partial_tree: Option<Region>,
    /// `xen,domain-shared-memory-v1`.
    pub shared_memory: Vec<SharedMemory>,
    /// `hypha,placement`.
    pub placement: Placement,
    /// `hypha,cpus`: the machine's CPUs that it may use, counted as in `/cpus`.
    /// Empty: any.
    pub host_cpus: Vec<u32>,
    /// `hypha,priority`: 1 to 99, higher goes first. None: it shares what is left.
    pub priority: Option<u8>,
    /// `hypha,on-crash`.
    pub on_crash: OnCrash,
    /// `hypha,watchdog`: how many seconds it may go without petting its watchdog. None: it
    /// has none, and nobody notices that it hangs.
    pub watchdog: Option<u32>,
}

/// How a domain's virtual CPUs share the machine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Placement {
    /// Round-robin with other domains'.
    #[default]
    Shared,
    /// Each virtual CPU has a CPU to itself.
    Exclusive,
}

/// What happens when a domain crashes, or hangs as its watchdog says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnCrash {
    /// It starts anew, alone.
    #[default]
    Restart,
    /// It stays off.
    Stop,
    /// The machine is reset.
    ResetAll,
}

/// A region that several domains share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedMemory {
    /// `xen,shm-id`.
    pub id: String,
    /// The machine's address; none: any.
    pub host: Option<u64>,
    /// The guest's address.
    pub guest: u64,
    /// Bytes.
    pub size: u64,
    /// `role = "owner"`.
    pub owner: bool,
}

impl SharedMemory {
    /// The machine's memory, where it is named.
    pub fn on_host(&self) -> Option<Region> {
        self.host.map(|start| Region::new(start, self.size))
    }
}
