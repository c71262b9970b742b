//! What the rest of the kernel asks of user space. A build without the feature
//! `user-space` has `no_user_space.rs` in this file's place.

pub use crate::el0::mend;
pub use crate::init::start;
pub use crate::kvm::{address_space, eventfd};
pub use crate::process::cputime::Account;
pub use crate::process::space::current_id as address_space_id;
pub use crate::process::{Thread, enter, signal_pending};

use crate::task::Task;
use crate::{clock, process};

/// What programs will ask for, as soon as the machine is known.
pub fn init() {
    clock::init();
}

/// The current process's ID; 0 for the kernel's own tasks.
pub fn pid() -> u32 {
    process::caller().pid
}

/// The name of `task`, NUL-padded; none of the kernel's own.
pub fn comm(task: &Task) -> [u8; 16] {
    task.thread.get().map(Thread::comm).unwrap_or_default()
}
