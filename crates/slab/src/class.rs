//! The sizes that objects come in.
#![forbid(unsafe_code)]

use crate::PAGE;
use core::alloc::Layout;

/// All sizes are multiples of this.
const UNIT: usize = 16;
/// How many there are.
pub const CLASSES: usize = 17;
/// Most leave little of a page: up from 448 they are the largest that nine, seven, five,
/// four, three and two objects can have.
const SIZES: [u16; CLASSES] =
    [16, 32, 48, 64, 80, 96, 128, 160, 192, 256, 336, 448, 576, 800, 1008, 1344, LARGEST];
const LARGEST: u16 = 2016;

const UNITS: usize = LARGEST as usize / UNIT;
/// The first of [`SIZES`] that has so many units.
const FIRST: [u8; UNITS + 1] = first();

#[expect(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "while compiling")]
const fn first() -> [u8; UNITS + 1] {
    let mut first = [0; UNITS + 1];
    let (mut units, mut class) = (0, 0);
    while units <= UNITS {
        if units * UNIT > SIZES[class as usize] as usize {
            class += 1;
        }
        first[units] = class;
        units += 1;
    }
    first
}

/// The size of an object and its neighbours. Powers of two that divide it divide their
/// addresses, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    index: u8,
    size: u16,
}

impl Class {
    /// The smallest that objects of this layout fit in, if there is one.
    #[inline]
    pub fn of(layout: Layout) -> Option<Class> {
        let first = *FIRST.get(layout.size().div_ceil(UNIT))?;
        let below = layout.align().wrapping_sub(1);
        let mut classes = (0u8..).zip(SIZES).skip(usize::from(first));
        let (index, size) = classes.find(|(_, size)| usize::from(*size) & below == 0)?;
        Some(Class { index, size })
    }

    /// All of them, upwards.
    #[cfg(test)]
    pub fn all() -> impl Iterator<Item = Class> {
        (0u8..).zip(SIZES).map(|(index, size)| Class { index, size })
    }

    /// In bytes.
    pub const fn size(self) -> usize {
        self.size as usize
    }

    /// Its place among all.
    pub const fn index(self) -> usize {
        self.index as usize
    }

    /// How many objects a page has below which `header` bytes are taken.
    pub fn capacity(self, header: usize) -> usize {
        PAGE.wrapping_sub(header).checked_div(self.size()).unwrap_or(0)
    }

    /// Where in its page the `n`th object lies: they are counted down from its end, which
    /// every alignment divides.
    pub fn offset(self, n: usize) -> usize {
        PAGE.wrapping_sub(n.wrapping_add(1).wrapping_mul(self.size()))
    }

    /// Which object lies there.
    pub fn number(self, offset: usize) -> usize {
        let above = PAGE.wrapping_sub(offset).checked_div(self.size()).unwrap_or(0);
        above.wrapping_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HEADER;

    fn size(size: usize, align: usize) -> Option<usize> {
        Class::of(Layout::from_size_align(size, align).unwrap()).map(Class::size)
    }

    #[test]
    fn the_smallest_that_fits() {
        assert_eq!((size(0, 1), size(1, 1), size(16, 16)), (Some(16), Some(16), Some(16)));
        assert_eq!((size(17, 8), size(2016, 8), size(2017, 1)), (Some(32), Some(2016), None));
        assert_eq!((size(64, 64), size(65, 64), size(80, 32)), (Some(64), Some(128), Some(96)));
        assert_eq!((size(600, 64), size(1344, 64), size(1345, 64)), (Some(1344), Some(1344), None));
        // Nothing but pages.
        assert_eq!(
            (size(1, 4096), size(0, 1 << 20), size(isize::MAX as usize, 1)),
            (None, None, None)
        );
        for wanted in 1..=2016 {
            let class = Class::all().find(|class| class.size() >= wanted).unwrap();
            assert_eq!(size(wanted, 1), Some(class.size()));
        }
    }

    #[test]
    fn objects_fill_their_page() {
        for class in Class::all() {
            let objects = class.capacity(HEADER);
            assert!((2..=crate::slots::MAX).contains(&objects));
            let lowest = class.offset(objects - 1);
            assert!(lowest >= HEADER && lowest - HEADER < class.size());
            assert!((0..objects).all(|n| class.number(class.offset(n)) == n));
            // A tenth is lost at most, and less than a third of an object.
            assert!(lowest - HEADER < PAGE / 10, "{class:?}");
            assert_eq!(class.offset(0) % (1 << class.size().trailing_zeros()), 0);
        }
        assert!(Class::all().zip(Class::all().skip(1)).all(|(a, b)| b.size() <= 2 * a.size()));
    }
}
