//! Ranges of addresses.

use core::fmt;

/// `size` bytes from `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Region {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub size: u64,
}

impl Region {
    /// `size` bytes from `start`.
    pub const fn new(start: u64, size: u64) -> Region {
        Region { start, size }
    }

    /// The byte after the last.
    pub const fn end(&self) -> u64 {
        self.start.saturating_add(self.size)
    }

    /// Whether they have a byte in common.
    pub const fn overlaps(&self, other: &Region) -> bool {
        self.start < other.end() && other.start < self.end()
    }

    /// Whether all of `other` is in it.
    pub const fn contains(&self, other: &Region) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    /// The pages that it lies in.
    pub const fn pages(&self) -> Region {
        let start = self.start & !0xfff;
        let end = self.end().saturating_add(0xfff) & !0xfff;
        Region::new(start, end.saturating_sub(start))
    }

    /// Whole pages, not empty, and with an end below 48 bits?
    pub(crate) const fn is_pages(&self) -> bool {
        self.start & 0xfff == 0 && self.size & 0xfff == 0 && self.is_possible()
    }

    /// Not empty, and with an end below 48 bits?
    pub(crate) const fn is_possible(&self) -> bool {
        self.size != 0 && self.start < 1 << 48 && self.end() <= 1 << 48
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start, self.end())
    }
}
