//! Addresses that can't be taken for one another.

use core::fmt;

/// The translation granule: 4 KiB.
pub const PAGE_SIZE: u64 = 4096;
/// `log2(PAGE_SIZE)`.
pub const PAGE_SHIFT: u32 = 12;
/// What one level-2 block descriptor maps: 2 MiB.
pub const BLOCK_SIZE: u64 = 2 << 20;
/// `log2(BLOCK_SIZE)`.
pub const BLOCK_SHIFT: u32 = 21;

macro_rules! address {
    ($name:ident, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The address `value`.
            pub const fn new(value: u64) -> Self {
                $name(value)
            }

            /// The address as a number.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The start of the page that holds it.
            pub const fn page_align_down(self) -> Self {
                $name(self.0 & !PAGE_SIZE.wrapping_sub(1))
            }

            /// The next page boundary at or above it; none past the top.
            pub const fn page_align_up(self) -> Option<Self> {
                match self.0.checked_next_multiple_of(PAGE_SIZE) {
                    Some(value) => Some($name(value)),
                    None => None,
                }
            }

            /// The start of the 2 MiB that hold it.
            pub const fn block_align_down(self) -> Self {
                $name(self.0 & !BLOCK_SIZE.wrapping_sub(1))
            }

            /// Whether it is a multiple of `align`, a power of two.
            pub const fn is_aligned(self, align: u64) -> bool {
                self.0 & align.wrapping_sub(1) == 0
            }

            /// The offset in its page.
            pub const fn page_offset(self) -> u64 {
                self.0 & PAGE_SIZE.wrapping_sub(1)
            }

            /// The number of its page.
            pub const fn page_number(self) -> u64 {
                self.0 >> PAGE_SHIFT
            }

            /// `bytes` further; none past the top.
            pub const fn offset(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(value) => Some($name(value)),
                    None => None,
                }
            }

            /// How far it lies above `start`; none if below.
            pub const fn offset_from(self, start: Self) -> Option<u64> {
                self.0.checked_sub(start.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address!(PhysAddr, "A physical address: what the machine's bus sees.");
address!(VirtAddr, "A virtual address, of EL0 or of the kernel.");
address!(Ipa, "An intermediate physical address: what a guest takes for physical.");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligns_and_offsets() {
        let addr = PhysAddr::new(0x1_2345);
        assert_eq!(addr.page_align_down(), PhysAddr::new(0x1_2000));
        assert_eq!(addr.page_align_up(), Some(PhysAddr::new(0x1_3000)));
        assert_eq!(addr.page_offset(), 0x345);
        assert_eq!(addr.page_number(), 0x12);
        assert_eq!(addr.offset(u64::MAX), None);
        assert_eq!(addr.offset_from(PhysAddr::new(0x1_2340)), Some(5));
        assert_eq!(VirtAddr::new(u64::MAX).page_align_up(), None);
        assert!(Ipa::new(4 << 20).is_aligned(BLOCK_SIZE));
        assert_eq!(std::format!("{addr:?}"), "PhysAddr(0x12345)");
    }
}
