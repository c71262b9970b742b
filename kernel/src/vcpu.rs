//! The virtual CPU that is loaded on each CPU, if any.

use crate::task::Task;

/// `task` leaves the CPU: its guest's registers go to memory.
pub fn leave(_task: &Task) {}

/// The FP registers are needed for EL0: a guest's go to memory.
pub fn evict_fp() {}

/// Whether `intid` belongs to a guest, which will deactivate it.
pub fn interrupt(_intid: u32) -> bool {
    false
}
