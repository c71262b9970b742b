//! A virtual PL011 (Arm DDI 0183), and one console for many of them.
//!
//! [`Vpl011`] has the registers that Linux's amba-pl011 driver touches, as a
//! PL011 and as an SBSA generic UART. [`Mux`] prints whole lines of each VM with
//! its name in front, and gives what is typed to one of them.
//!
//! Nothing here waits or knows of a host: bytes come and go by return values.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod mux;
mod queue;
mod uart;

pub use mux::{Input, Mux, Rate};
pub use uart::{Vpl011, register};
