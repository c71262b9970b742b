//! FUTEX_WAKE_OP's encoded operation (linux/futex.h).

use base::{Errno, Result};
use core::sync::atomic::{AtomicU32, Ordering};

/// What FUTEX_WAKE_OP does to the second word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WakeOp {
    change: Change,
    operand: u32,
    compare: Compare,
    with: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Set,
    Add,
    Or,
    AndNot,
    Xor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

const OPARG_SHIFT: u32 = 8;

impl WakeOp {
    /// Decodes `val3`: operation, comparison and two signed 12-bit arguments;
    /// `ENOSYS` for those that don't exist.
    pub fn decode(val3: u32) -> Result<WakeOp> {
        let op = (val3 >> 28) & 0xf;
        let change = match op & !OPARG_SHIFT {
            0 => Change::Set,
            1 => Change::Add,
            2 => Change::Or,
            3 => Change::AndNot,
            4 => Change::Xor,
            _ => return Err(Errno::ENOSYS),
        };
        let compare = match (val3 >> 24) & 0xf {
            0 => Compare::Equal,
            1 => Compare::NotEqual,
            2 => Compare::Less,
            3 => Compare::LessOrEqual,
            4 => Compare::Greater,
            5 => Compare::GreaterOrEqual,
            _ => return Err(Errno::ENOSYS),
        };
        let argument = sign_extend_12(val3 >> 12);
        let operand = match op & OPARG_SHIFT {
            0 => argument.cast_unsigned(),
            // Linux masks shifts beyond 31 too.
            _ => 1u32.wrapping_shl(argument.cast_unsigned()),
        };
        Ok(WakeOp { change, operand, compare, with: sign_extend_12(val3) })
    }

    /// Changes the word and says whether its old value passes the comparison,
    /// that is, whether the second futex is to be woken.
    pub fn apply(&self, word: &AtomicU32) -> bool {
        let order = Ordering::SeqCst;
        let old = match self.change {
            Change::Set => word.swap(self.operand, order),
            Change::Add => word.fetch_add(self.operand, order),
            Change::Or => word.fetch_or(self.operand, order),
            Change::AndNot => word.fetch_and(!self.operand, order),
            Change::Xor => word.fetch_xor(self.operand, order),
        };
        let old = old.cast_signed();
        match self.compare {
            Compare::Equal => old == self.with,
            Compare::NotEqual => old != self.with,
            Compare::Less => old < self.with,
            Compare::LessOrEqual => old <= self.with,
            Compare::Greater => old > self.with,
            Compare::GreaterOrEqual => old >= self.with,
        }
    }
}

/// The low 12 bits as a signed number.
fn sign_extend_12(bits: u32) -> i32 {
    (bits << 20).cast_signed() >> 20
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(op: u32, cmp: u32, oparg: i32, cmparg: i32) -> u32 {
        op << 28 | cmp << 24 | (oparg as u32 & 0xfff) << 12 | cmparg as u32 & 0xfff
    }

    fn run(val3: u32, old: u32) -> (u32, bool) {
        let word = AtomicU32::new(old);
        let wake = WakeOp::decode(val3).unwrap().apply(&word);
        (word.into_inner(), wake)
    }

    #[test]
    fn operations() {
        // What glibc's pthread_cond_signal() used: set 0, wake if old > 1.
        assert_eq!(run(0x0400_0001, 2), (0, true));
        assert_eq!(run(0x0400_0001, 1), (0, false));
        assert_eq!(run(encode(1, 0, -1, 5), 5), (4, true));
        assert_eq!(run(encode(2, 1, 8, 1), 1), (9, false));
        assert_eq!(run(encode(3, 2, 1, 0), u32::MAX), (u32::MAX - 1, true));
        assert_eq!(run(encode(4, 3, 3, -1), 0), (3, false));
        assert_eq!(run(encode(8 | 2, 5, 4, 0), 1), (17, true));
    }

    #[test]
    fn unknown_ones() {
        assert_eq!(WakeOp::decode(encode(5, 0, 0, 0)), Err(Errno::ENOSYS));
        assert_eq!(WakeOp::decode(encode(0, 6, 0, 0)), Err(Errno::ENOSYS));
    }

    proptest! {
        #[test]
        fn any_operation_is_survived(val3 in any::<u32>(), old in any::<u32>()) {
            if let Ok(op) = WakeOp::decode(val3) {
                op.apply(&AtomicU32::new(old));
            }
        }
    }
}
