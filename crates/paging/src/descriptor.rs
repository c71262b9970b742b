//! What descriptors have in common (Arm ARM, D8.3).
#![forbid(unsafe_code)]

use base::PhysAddr;

/// The entry takes part in translation.
pub const VALID: u64 = 1;
/// Next-level table, or a page at level 3; clear for a block.
pub const TABLE: u64 = 1 << 1;
/// Where the output or next-level address lies.
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
/// The first address that an entry cannot hold.
pub const ADDRESS_BITS: u64 = 1 << 48;
/// Access flag: set by us, always.
pub const AF: u64 = 1 << 10;
/// Shareability: inner shareable.
pub const SH_INNER: u64 = 3 << 8;

/// Software's (bits [58:55] are): the entry owns a counted frame or, in a table
/// descriptor, a table of the frame allocator's. Set in an entry that isn't
/// VALID, it is a mapping without any access.
pub const OWNED: u64 = 1 << 55;

/// log2 of what an entry at `level` maps.
pub const fn shift(level: u8) -> u32 {
    12u32.wrapping_add(9u32.wrapping_mul(3u32.wrapping_sub(level as u32)))
}

/// What an entry at `level` maps.
pub const fn span(level: u8) -> u64 {
    1 << (shift(level) & 63)
}

/// The address in a descriptor.
pub const fn address(desc: u64) -> PhysAddr {
    PhysAddr::new(desc & ADDRESS)
}

/// Whether it points to a table of the next level.
pub const fn is_table(desc: u64, level: u8) -> bool {
    level < 3 && desc & (VALID | TABLE) == VALID | TABLE
}

/// A table descriptor.
pub const fn table(addr: PhysAddr, owned: bool) -> u64 {
    addr.get() & ADDRESS | VALID | TABLE | if owned { OWNED } else { 0 }
}

/// The type bits of a leaf at `level`.
pub const fn leaf(level: u8) -> u64 {
    if level == 3 { VALID | TABLE } else { VALID }
}

/// All of a leaf but its address and type.
pub const fn attributes(desc: u64) -> u64 {
    desc & !(ADDRESS | VALID | TABLE)
}
