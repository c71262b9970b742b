//! A ring of bytes.

/// At most `N` bytes, first in, first out.
#[derive(Clone, Debug)]
pub struct Queue<const N: usize> {
    bytes: [u8; N],
    first: usize,
    len: usize,
}

impl<const N: usize> Queue<N> {
    pub const fn new() -> Self {
        Queue { bytes: [0; N], first: 0, len: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// False: it is full.
    pub fn push(&mut self, byte: u8) -> bool {
        let at = self.first.wrapping_add(self.len).checked_rem(N).unwrap_or(0);
        match self.bytes.get_mut(at) {
            Some(slot) if self.len < N => {
                *slot = byte;
                self.len = self.len.wrapping_add(1);
                true
            }
            _ => false,
        }
    }

    pub fn pop(&mut self) -> Option<u8> {
        if self.len == 0 {
            return None;
        }
        let byte = self.bytes.get(self.first).copied();
        self.first = self.first.wrapping_add(1).checked_rem(N).unwrap_or(0);
        self.len = self.len.wrapping_sub(1);
        byte
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        #[test]
        fn is_a_queue(steps in proptest::collection::vec(proptest::option::of(any::<u8>()), 0..100)) {
            let mut queue = Queue::<7>::new();
            let mut model = VecDeque::new();
            for step in steps {
                match step {
                    Some(byte) => {
                        prop_assert_eq!(queue.push(byte), model.len() < 7);
                        if model.len() < 7 {
                            model.push_back(byte);
                        }
                    }
                    None => prop_assert_eq!(queue.pop(), model.pop_front()),
                }
                prop_assert_eq!(queue.len(), model.len());
            }
        }
    }
}
