//! The word of metadata that each 4 KiB frame has.
//!
//! `[63:60]` state, `[59:56]` order; then for a free block `[55:28]` previous
//! and `[27:0]` next in its list, for owned memory `[51:48]` what it is used for and,
//! of a user block, `[47:0]` its count.
#![forbid(unsafe_code)]

/// Not a head: reserved memory, or the inside of a block.
pub const NONE: u64 = 0;
/// Head of a free block, in a free list.
pub const FREE: u64 = 1 << 60;
/// Head of a free block in the allocator's cache or pool, and in no list.
pub const CACHED: u64 = 2 << 60;
/// Head of memory that a counted `Frame` owns.
pub const USER: u64 = 3 << 60;
/// Head of memory that a `KernelPages` owns.
pub const KERNEL: u64 = 4 << 60;

const STATE: u64 = 0xf << 60;
const LINK_BITS: u32 = 28;
const LINK: u64 = (1 << LINK_BITS) - 1;
/// The count of a user block.
pub const COUNT: u64 = (1 << 48) - 1;
/// The end of a free list. Also the number of frames that the links can name.
pub const NIL: u32 = LINK as u32;

/// Which of the states a word says.
pub const fn state(word: u64) -> u64 {
    word & STATE
}

/// The order of a head.
pub const fn order(word: u64) -> u8 {
    (word >> 56) as u8 & 0xf
}

/// A head of `order` in `state`, with a count or links of zero.
pub const fn head(state: u64, order: u8) -> u64 {
    state | (order as u64) << 56
}

/// A head of `order` in `state` that is used for the `usage`th of the uses.
pub const fn used_head(state: u64, order: u8, usage: u8) -> u64 {
    head(state, order) | (usage as u64 & 0xf) << USE_SHIFT
}

const USE_SHIFT: u32 = 48;

/// What an owned head is used for.
pub const fn usage(word: u64) -> u8 {
    (word >> USE_SHIFT) as u8 & 0xf
}

/// A free head with its links.
pub const fn free(order: u8, prev: u32, next: u32) -> u64 {
    head(FREE, order) | (prev as u64 & LINK) << LINK_BITS | next as u64 & LINK
}

/// A free head's predecessor.
pub const fn prev(word: u64) -> u32 {
    (word >> LINK_BITS & LINK) as u32
}

/// A free head's successor.
pub const fn next(word: u64) -> u32 {
    (word & LINK) as u32
}
