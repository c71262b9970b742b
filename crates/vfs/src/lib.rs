//! Files, as Linux's system calls know them.
//!
//! * [`ops::Files`]: every call with a path, on top of [`path`] (mounts,
//!   resolution) and [`inode`] (what file systems implement).
//! * [`file::File`] and [`file::OpenFile`]: what stands behind descriptors;
//!   [`fdtable::FdTable`] holds those.
//! * File systems: [`tmpfs`] (also the root), devtmpfs ([`device`]), [`proc`]
//!   and [`sysfs`] (both made of [`synth`]).
//! * Things with descriptors only: [`pipe`], [`epoll`], [`eventfd`], [`timerfd`],
//!   [`signalfd`], [`unix`] sockets.
//!
//! Nothing here blocks: see [`base::WaitQueue`]. Lock ranks, in the order they
//! nest: `FD_TABLE` (tables of descriptors), `EPOLL` (interest lists),
//! `NAMESPACE` (mounts, a tmpfs's tree), `OPEN_FILE` (offsets, record locks),
//! `INODE` (contents), `WAIT_QUEUE`, `EPOLL_READY`. Each module says which it
//! takes. Files call into the kernel (generated files, timers, signals to
//! process groups) with none of them held.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::arithmetic_side_effects, clippy::unwrap_used, clippy::indexing_slicing)
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod abi;
pub mod device;
pub mod epoll;
pub mod eventfd;
pub mod fdtable;
pub mod file;
pub mod initramfs;
pub mod inode;
pub mod locks;
pub mod ops;
pub mod path;
pub mod pipe;
pub mod proc;
pub mod signalfd;
pub mod synth;
pub mod sysfs;
pub mod timerfd;
pub mod tmpfs;
pub mod types;
pub mod unix;

#[cfg(test)]
mod tests;

pub use abi::{DevId, Events, FileType, OpenFlags, Stat, Timespec};
pub use fdtable::{FdTable, FdTableUser};
pub use file::{Caller, File, Io, OpenFile, Position, Registration, VmObject};
pub use inode::{Clock, FileSystem, Inode, InodeRef};
pub use ops::{Files, FsContext};
pub use path::{Namespace, Place};
