//! fail-nth: the N-th allocation from now on that may fail, does. As Linux's
//! Documentation/fault-injection/fault-injection.rst has it: a number for each
//! task, in `/proc/self/task/TID/fail-nth`, that counts down to the failure.
//!
//! Each question of `base::room`, the frame allocator's too, is an allocation.
//! Until the first number is written, nobody asks here.

use crate::sched;
use crate::task::Task;
use base::room;
use core::sync::atomic::Ordering::Relaxed;

/// Lets the `nth` allocation of `task` fail (1: the next). Zero takes it back.
pub fn set(task: &Task, nth: u32) {
    task.fail_nth.store(nth, Relaxed);
    room::refuse_by(refuse);
}

/// How many allocations are left until the failure; zero once it has come.
pub fn get(task: &Task) -> u32 {
    task.fail_nth.load(Relaxed)
}

fn refuse() -> bool {
    let task = sched::current_ref();
    let left = task.fail_nth.load(Relaxed);
    if left != 0 {
        task.fail_nth.store(left.wrapping_sub(1), Relaxed);
    }
    left == 1
}

/// What an interrupt's handlers allocate is nobody's: the task that they
/// interrupted gets its number back at the drop.
pub struct Suspended(u32);

/// Suspends the current task's number.
pub fn suspend() -> Suspended {
    let task = sched::current_ref();
    let left = task.fail_nth.load(Relaxed);
    if left != 0 {
        task.fail_nth.store(0, Relaxed);
    }
    Suspended(left)
}

impl Drop for Suspended {
    fn drop(&mut self) {
        if self.0 != 0 {
            sched::current_ref().fail_nth.store(self.0, Relaxed);
        }
    }
}
