//! What execve() has to know about the files it starts.
//!
//! * [`Header`] and [`Image`]: arm64 ELF executables, static (`ET_EXEC`) and
//!   position-independent (`ET_DYN`), turned into a [`LoadStep`] list that the
//!   memory manager carries out.
//! * [`Script`]: `#!` lines.
//! * [`Args`] and [`StackImage`]: the strings, vectors and auxiliary vector
//!   that a program finds at its stack pointer.
//!
//! Files are hostile: every number in them is checked, nothing overflows, and
//! the errnos are those of Linux's fs/exec.c and fs/binfmt_elf.c.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod header;
mod image;
mod script;
mod stack;

pub use header::{Header, HeaderKind};
pub use image::{Image, LoadStep, Protection};
pub use script::{MAX_SCRIPT_DEPTH, SCRIPT_HEAD, Script};
pub use stack::{Args, AuxValues, StackImage, StackLayout, aux};

/// The page size of EL0 in Hypha.
pub const PAGE_SIZE: u64 = 4096;

fn page_down(addr: u64) -> u64 {
    addr & !(PAGE_SIZE - 1)
}

fn page_up(addr: u64) -> Option<u64> {
    Some(page_down(addr.checked_add(PAGE_SIZE - 1)?))
}
