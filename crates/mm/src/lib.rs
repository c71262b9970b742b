//! Address spaces of processes.
//!
//! [`AddressSpace`] is a tree of areas ([`VmaInfo`] tells of one) and the page
//! table that they fill on demand, under one lock of rank `MEMORY_MAP`. What
//! backs an area is anonymous memory or a [`VmObject`]. KVM follows what leaves
//! or gets write-protected through an [`MmuNotifier`], and takes frames by
//! [`AddressSpace::get_frame`]. The kernel gives each address space its TLB
//! maintenance and interrupt windows by [`MmEnv`].
//!
//! Calls and errnos are those of Linux's man-pages (mmap(2), mremap(2), ...).
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod abi;
mod advise;
mod brk;
mod fault;
mod fork;
mod layout;
mod map;
mod object;
pub mod oom;
mod remap;
mod space;
#[cfg(test)]
mod tests;
mod vma;

pub use fault::{Access, Backing, Fault, FutexKey};
pub use layout::Layout;
pub use map::{Map, MapObject};
pub use object::{ObjectId, SharedMemory, VmObject};
pub use space::{AddressSpace, MmEnv, MmuNotifier, Usage};
pub use vma::{VmaFlags, VmaInfo};
