//! `hyp`: what stays at EL2 when the host kernel is at EL1. It switches worlds
//! and holds what can be done nowhere else; everything that is a decision is
//! the host's. README.md says how it is entered and where it lies.
//!
//! No heap, no locks: each CPU has its own [`cpu::Cpu`], and runs here with
//! interrupts masked from entry to exit.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod calls;
#[cfg(target_os = "none")]
mod cpu;
#[cfg(target_os = "none")]
mod failure;
#[cfg(target_os = "none")]
mod gic;
#[cfg(target_os = "none")]
mod guest;

#[cfg(not(target_os = "none"))]
fn main() {}
