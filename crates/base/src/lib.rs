//! What every pure crate of Hypha shares.
//!
//! * [`PhysAddr`], [`VirtAddr`], [`Ipa`]: addresses that can't be mixed up.
//! * [`Errno`]: Linux's error numbers, the only error type that crosses the ABI.
//! * [`Lock`]: a spin lock with a rank; debug builds check the lock order.
//! * [`Room`], [`room`]: heap allocations that are refused when memory is out.
//! * [`grave`]: large things, dropped in pieces.
//! * [`WaitQueue`]: who wants to know when something changes. Objects never
//!   block: they answer `EAGAIN` and the kernel's one blocking loop waits here.
//! * [`UserMem`]: memory that EL0 can change under us: an allegation, never a
//!   `&[u8]`.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod addr;
pub mod census;
mod errno;
pub mod grave;
mod ids;
mod lock;
pub mod room;
#[cfg(feature = "user-space")]
mod user;
mod wait;

pub use addr::{BLOCK_SHIFT, BLOCK_SIZE, Ipa, PAGE_SHIFT, PAGE_SIZE, PhysAddr, VirtAddr};
pub use errno::Errno;
pub use ids::IdSet;
pub use lock::{Lock, LockGuard, LockTracker, rank, relax, set_lock_tracker};
pub use room::Room;
#[cfg(feature = "user-space")]
pub use user::{UserMem, UserMemExt};
pub use wait::WaitQueue;

/// What every fallible operation in the kernel returns.
pub type Result<T, E = Errno> = core::result::Result<T, E>;

/// Nanoseconds, of CLOCK_MONOTONIC unless said otherwise.
pub type Nanos = u64;
