//! Linux signals as a state machine (signal(7)), and the frame that a handler
//! runs on.
//!
//! Nothing here sleeps, wakes or touches user memory. The kernel keeps a
//! [`ThreadSignals`] per thread and a shared [`Pending`] and [`Actions`] per
//! process, sends with [`ThreadSignals::send`] or [`Pending::send`], and asks
//! [`next_action`] on the way back to EL0 what to do.
//!
//! Sending to a process, in the kernel's words:
//!
//! 1. [`SigSet::cancelled_by`]: SIGCONT and the stop signals take each other
//!    out of *all* queues of the process; SIGCONT also continues it.
//! 2. [`Actions::ignores`]: drop the signal if nobody would notice.
//! 3. [`Pending::send`] and wake a thread that doesn't block it.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod action;
mod altstack;
mod deliver;
mod frame;
mod info;
mod pending;
mod restart;
mod set;

pub use action::{Action, Actions, ChildNotice, Flags, Handler};
pub use altstack::{AltStack, MIN_STACK, UserStack};
pub use deliver::{Delivery, ThreadSignals, force, next_action};
pub use frame::{
    Context, FRAME_SIZE, FpState, HandlerEntry, MIN_STACK_AUX, build_frame, handler_pstate,
    parse_frame,
};
pub use info::{SigInfo, code};
pub use pending::Pending;
pub use restart::{Restart, Resume};
pub use set::{DefaultAction, SIGRTMAX, SIGRTMIN, SigSet, Signal};
