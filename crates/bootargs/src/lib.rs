//! The kernel command line, as Linux reads it
//! (Documentation/admin-guide/kernel-parameters.rst).
//!
//! * [`EarlyArgs`]: what decides the mode, for early boot with the MMU off.
//! * [`Params`]: iterates over the parameters. No heap and no state.
//! * [`BootArgs`]: all of it, typed, with warnings to log and what is passed on
//!   to init.
//! * [`Consoles`], [`EarlyCon`]: what becomes of `console=` and `earlycon`.
//! * [`KvmMode`]: the values of `kvm-arm.mode=`.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod args;
mod console;
mod early;
mod mode;
mod values;
mod words;

pub use args::{BootArgs, Warning};
pub use console::{Console, Consoles, EarlyCon};
pub use early::{EarlyArgs, EarlyMode};
pub use mode::{KvmMode, ModeRequest, mode_requested, vhe_hidden};
pub use values::{parse_int, parse_size};
pub use words::{Param, Params, same_key};
