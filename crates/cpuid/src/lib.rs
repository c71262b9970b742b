//! What the identification registers of the machine's CPUs say, and what
//! follows from it.
//!
//! * [`midr`]: which CPU it is.
//! * [`errata`]: what is wrong with it, and is worked around.
//! * [`spectre`]: what it gives away by speculation, and what is done about it.
//!
//! Functions of registers: no locks, no allocation, nothing read here.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

#[cfg(test)]
extern crate std;

pub mod errata;
pub mod midr;
pub mod spectre;

/// Four bits of an ID register.
#[inline]
pub const fn field(value: u64, shift: u32) -> u64 {
    value >> shift & 0xf
}
