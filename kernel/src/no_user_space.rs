//! In the place of `user_space.rs` where the build leaves the feature `user-space`
//! out: nothing is at EL0, every task is the kernel's own, and Type-1 is the only
//! mode.
#![expect(unsafe_code, reason = "called from assembly")]

use crate::boot::BootPlan;
use crate::panic;
use crate::task::Task;
use alloc::sync::Arc;
use arch::trap::TrapFrame;
use base::{Errno, Result};
use kvm::{AddressSpace, EventFd};

/// No task is a program's.
pub enum Thread {}

/// Nor is its time.
pub struct Account;

impl Account {
    /// Nothing.
    pub const fn new() -> Account {
        Account
    }
}

/// Nobody wants the time of day.
pub fn init() {}

/// Boot has found no other mode to be in: entered at EL1, say.
pub fn start(_: &'static BootPlan) {
    panic::fatal(format_args!(
        "nothing to run: this build has no user space, and no EL2 for virtual machines"
    ));
}

/// No address space but the kernel's.
pub fn enter(_: &Task) {}

/// There are no signals.
pub fn signal_pending() -> bool {
    false
}

/// The kernel copies from nobody's memory.
pub fn mend(_: &mut TrapFrame, _: u64, _: u64) -> bool {
    false
}

/// There is no process that a VM could take memory of.
pub fn address_space() -> Option<Arc<dyn AddressSpace>> {
    None
}

/// As of the kernel's own tasks.
pub fn address_space_id() -> u64 {
    0
}

/// No descriptor is open.
pub fn eventfd(_: i32) -> Result<Arc<dyn EventFd>> {
    Err(Errno::EBADF)
}

/// As of the kernel's own tasks.
pub fn pid() -> u32 {
    0
}

/// As of the kernel's own tasks.
pub fn comm(_: &Task) -> [u8; 16] {
    [0; 16]
}

/// The kernel never leaves for EL0.
#[unsafe(no_mangle)]
extern "C" fn hypha_el0_sync(frame: &mut TrapFrame, esr: u64, far: u64) {
    panic::exception(format_args!("exception from EL0"), frame, esr, far)
}

/// See [`hypha_el0_sync`].
#[unsafe(no_mangle)]
extern "C" fn hypha_el0_irq(frame: &mut TrapFrame) {
    panic::exception(format_args!("interrupt from EL0"), frame, 0, 0)
}
