//! Where `hyp` lives: the one range of 48 bits that TTBR0_EL2 has at E2H=0.
//!
//! | addresses | what |
//! | --- | --- |
//! | below 2^46 | the identity map, of the page that turns the MMU on |
//! | from 2^47, 2^46 long | all RAM, at its physical address plus [`LINEAR`] |
//! | from [`IMAGE`] | `hyp` itself: code, constants, data |
//! | from [`STACKS`] | a stack for each CPU, with nothing mapped below |
//!
//! RAM must lie below 2^46 (64 TiB); then nothing of this can collide with it
//! or its identity map, wherever the machine has it.

/// Where physical addresses end that `hyp` can reach.
pub const PHYS_LIMIT: u64 = 1 << 46;
/// From physical addresses to `hyp`'s.
pub const LINEAR: u64 = 1 << 47;
/// Where `hyp` is linked.
pub const IMAGE: u64 = LINEAR + PHYS_LIMIT;
/// The first CPU's stack ends one [`STACK_STRIDE`] above.
pub const STACKS: u64 = IMAGE + (1 << 45);
/// Between stacks.
pub const STACK_STRIDE: u64 = 1 << 16;
/// The mapped part of a stack.
pub const STACK_SIZE: u64 = 1 << 13;

/// The end of a CPU's stack.
pub const fn stack_end(cpu: u64) -> u64 {
    STACKS.wrapping_add(cpu.wrapping_add(1).wrapping_mul(STACK_STRIDE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_collides() {
        // The linear map ends where the image starts, the image before the
        // stacks, the stacks within the range.
        const { assert!(PHYS_LIMIT <= LINEAR) };
        assert_eq!(LINEAR + PHYS_LIMIT, IMAGE);
        const { assert!(IMAGE < STACKS) };
        assert!(stack_end(crate::MAX_CPUS as u64) < 1 << 48);
        const { assert!(STACK_SIZE < STACK_STRIDE) };
        assert_eq!(stack_end(0) - STACK_STRIDE, STACKS);
    }
}
