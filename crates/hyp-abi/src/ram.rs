//! Which physical addresses are RAM: what a pointer of the host's may name.

/// The most ranges of RAM that `hyp` is told of.
pub const MAX_RAM: usize = 16;

/// A range of physical addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub start: u64,
    /// How many.
    pub len: u64,
}

/// The address at which `hyp` finds `size` bytes at physical `phys`, if they
/// all lie in one range of RAM and `phys` is a multiple of `align` (a power of
/// two).
pub fn ram_at(ram: &[Range], phys: u64, size: u64, align: u64) -> Option<u64> {
    let end = phys.checked_add(size)?;
    let aligned = phys & align.wrapping_sub(1) == 0;
    let inside = |range: &Range| {
        phys >= range.start
            && phys.wrapping_sub(range.start) < range.len
            && end.wrapping_sub(range.start) <= range.len
    };
    let found = aligned && end <= crate::layout::PHYS_LIMIT && ram.iter().any(inside);
    found.then_some(phys.wrapping_add(crate::layout::LINEAR))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{LINEAR, PHYS_LIMIT};

    const RAM: [Range; 3] = [
        Range { start: 0x4000_0000, len: 0x1000_0000 },
        Range { start: 0, len: 0 },
        Range { start: PHYS_LIMIT - 0x1000, len: 0x2000 },
    ];

    #[test]
    fn only_ram_is_found() {
        assert_eq!(ram_at(&RAM, 0x4000_0000, 64, 64), Some(LINEAR + 0x4000_0000));
        assert_eq!(ram_at(&RAM, 0x4fff_ffc0, 64, 64), Some(LINEAR + 0x4fff_ffc0));
        // Misaligned, across the end, before the start, nowhere, around.
        assert_eq!(ram_at(&RAM, 0x4000_0008, 64, 64), None);
        assert_eq!(ram_at(&RAM, 0x4fff_ffc0, 128, 64), None);
        assert_eq!(ram_at(&RAM, 0x3fff_ffc0, 128, 64), None);
        assert_eq!(ram_at(&RAM, 0, 1, 1), None);
        assert_eq!(ram_at(&RAM, u64::MAX - 63, 64, 64), None);
        assert_eq!(ram_at(&RAM, 0x4000_0000, u64::MAX, 64), None);
        // Beyond what is mapped.
        assert!(ram_at(&RAM, PHYS_LIMIT - 64, 64, 64).is_some());
        assert_eq!(ram_at(&RAM, PHYS_LIMIT, 64, 64), None);
    }
}
