//! Where things go in an address space.

use crate::abi::MMAP_MIN_ADDR;
use base::{BLOCK_SIZE, PAGE_SIZE};

/// The policy of one address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The first address that EL0 doesn't have.
    pub task_size: u64,
    /// The top of the stack: the first address above it.
    pub stack_top: u64,
    /// How far the stack may grow: RLIMIT_STACK.
    pub stack_limit: u64,
    /// Mappings are placed below it, downwards.
    pub mmap_base: u64,
    /// Where the break starts, until the program's end is known.
    pub brk_start: u64,
}

/// What stays free below the stack: mmap_base keeps at least this (Linux's
/// MIN_GAP), and at most 5/6 of the space.
const MIN_GAP: u64 = 128 << 20;

impl Layout {
    /// A space of 2^`bits` bytes (39 to 48), with up to 22 bits of `random`
    /// moving the stack and the mappings in steps of pages.
    pub const fn new(bits: u32, random: u64, stack_limit: u64) -> Layout {
        let task_size = 1u64
            << if bits > 48 {
                48
            } else if bits < 39 {
                39
            } else {
                bits
            };
        let random = random & 0x3f_ffff;
        let below_top = (random >> 11).wrapping_mul(PAGE_SIZE);
        let stack_top = task_size.wrapping_sub(PAGE_SIZE).wrapping_sub(below_top);
        let largest = (task_size / 6).wrapping_mul(5);
        let gap = if stack_limit < MIN_GAP {
            MIN_GAP
        } else if stack_limit > largest {
            largest
        } else {
            stack_limit & !PAGE_SIZE.wrapping_sub(1)
        };
        let moved = (random & 0x7ff).wrapping_mul(BLOCK_SIZE);
        let mmap_base = stack_top.wrapping_sub(gap).wrapping_sub(moved);
        let mmap_base = mmap_base & !PAGE_SIZE.wrapping_sub(1);
        Layout {
            task_size,
            stack_top,
            stack_limit,
            mmap_base,
            brk_start: (task_size / 3).wrapping_mul(2),
        }
    }

    /// The lowest address that a mapping may have.
    pub const fn lowest(&self) -> u64 {
        MMAP_MIN_ADDR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_lie_below_the_stack() {
        for random in [0, 0x3f_ffff, u64::MAX, 0x12_3456] {
            for bits in [47, 48] {
                for limit in [0, 8 << 20, 1 << 30, u64::MAX] {
                    let layout = Layout::new(bits, random, limit);
                    assert!(layout.stack_top < layout.task_size);
                    assert!(layout.mmap_base <= layout.stack_top - MIN_GAP);
                    assert!(layout.mmap_base > layout.task_size / 8);
                    assert_eq!(layout.mmap_base % PAGE_SIZE, 0);
                }
            }
        }
    }
}
