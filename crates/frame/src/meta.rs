//! The word of metadata that each 4 KiB frame has.
//!
//! Of a [`crate::Frame`]'s head, bit 31 is set: `[30]` it is a block, `[29:28]` what it is
//! used for, `[27:0]` the count. Of all others: `[30:28]` state, `[27:24]` order,
//! `[23:20]` what it is used for.
#![forbid(unsafe_code)]

use crate::buddy::MAX_ORDER;

/// Not a head: reserved memory, or the inside of a block.
pub const NONE: u32 = 0;
/// Head of a free block that is in the set of its order.
pub const FREE: u32 = 1 << 28;
/// Head of a free block in the allocator's cache or pool, and in no set.
pub const CACHED: u32 = 2 << 28;
/// Head of memory that a `KernelPages` owns.
pub const KERNEL: u32 = 3 << 28;

const USER: u32 = 1 << 31;
const USER_BLOCK: u32 = 1 << 30;
const USER_USE: u32 = 28;
/// The count of a user's.
pub const COUNT: u32 = (1 << 28) - 1;
/// A count that reaches this stays above it: memory is rather lost than freed too
/// early. Handles are 8 bytes each: these are one and a half GiB of page tables.
pub const STUCK: u32 = 3 << 26;
/// Where it stays: further from both ends than all CPUs' handles on their way.
const MIDDLE: u32 = 7 << 25;

/// Nobody's index.
pub const NIL: u32 = u32::MAX;

/// A head of `order` in `state` that nobody owns.
pub const fn head(state: u32, order: u8) -> u32 {
    state | (order as u32) << 24
}

/// Head of memory that a `KernelPages` owns, used for the `usage`th of the uses.
pub const fn kernel(order: u8, usage: u8) -> u32 {
    head(KERNEL, order) | (usage as u32 & 0xf) << 20
}

/// Head of a page or a block (of the largest order) that a counted `Frame` owns,
/// with a count of one; `usage` is one of the first four.
pub const fn user(order: u8, usage: u8) -> u32 {
    let block = if order == MAX_ORDER { USER_BLOCK } else { 0 };
    USER | block | (usage as u32 & 3) << USER_USE | 1
}

/// Whether a counted `Frame` owns it.
pub const fn is_user(word: u32) -> bool {
    word & USER != 0
}

/// The order of a head.
pub const fn order(word: u32) -> u8 {
    match word & (USER | USER_BLOCK) {
        USER => 0,
        bits if bits & USER != 0 => MAX_ORDER,
        _ => (word >> 24) as u8 & 0xf,
    }
}

/// What an owned head is used for.
pub const fn usage(word: u32) -> u8 {
    if is_user(word) { (word >> USER_USE) as u8 & 3 } else { (word >> 20) as u8 & 0xf }
}

/// A user's word whose count stays where it is.
pub const fn stuck(word: u32) -> u32 {
    word & !COUNT | MIDDLE
}
