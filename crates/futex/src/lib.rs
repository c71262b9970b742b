//! Futexes: sleeping until a word in user memory changes (futex(2)).
//!
//! Nothing here blocks or touches user memory. [`FutexTable::enqueue`] calls
//! back, *under the bucket's lock*, to compare the word; the caller has pinned
//! the word's frame before, so that the comparison cannot fault. A waker
//! changes the word first and takes the same lock to wake. So either the
//! waiter sees the new value, or the waker sees the waiter: no wake-up is lost.
//!
//! * [`FutexTable`]: WAIT, WAKE, REQUEUE, CMP_REQUEUE, WAKE_OP.
//! * [`WakeOp`]: FUTEX_WAKE_OP's third argument.
//! * [`robust`]: what happens to the locks of a thread that dies.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod op;
pub mod robust;
mod table;

pub use op::WakeOp;
pub use table::{FutexTable, Key, MATCH_ANY, Waiter};
