//! Physical memory.
//!
//! * [`Frame`]: a counted handle to 4 KiB or 2 MiB of memory that EL0, guests
//!   and devices can change at any time. It is copied, never borrowed.
//! * [`KernelPages`]: pages that the kernel alone uses: page tables, stacks,
//!   the heap. The two types don't convert into each other.
//! * [`init`]: hands the machine's RAM to the allocator.
//!
//! Memory is reached through the linear map: every byte of RAM is mapped at
//! its physical address plus one offset. The metadata is 4 bytes for each
//! 4 KiB, a state, an order and a count; and a quarter of a byte for the sets of free
//! blocks.
#![no_std]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

#[cfg(any(test, feature = "sim"))]
extern crate std;

mod buddy;
mod handle;
mod kernel;
mod meta;
mod ram;
mod set;
#[cfg(any(test, feature = "sim"))]
pub mod sim;

pub use buddy::MAX_ORDER;
pub use handle::{Fill, Frame, GIGABYTE, Pieces, Size, is_gigabyte};
pub use kernel::{KernelPages, entries_at};
#[cfg(any(test, feature = "sim"))]
pub use ram::fail_allocation;
pub use ram::{RamRange, Stats, Use, adopt, gaps, init, phys_to_virt, release, set_reserve, stats};
