//! Robust futexes: when a thread dies with locks held, their next owners hear
//! of it (get_robust_list(2); Documentation/locking/robust-futex-ABI.rst).

use base::{Result, UserMem, UserMemExt};

/// Somebody waits (FUTEX_WAITERS).
pub const WAITERS: u32 = 0x8000_0000;
/// The owner died (FUTEX_OWNER_DIED).
pub const OWNER_DIED: u32 = 0x4000_0000;
/// The owner's thread ID (FUTEX_TID_MASK).
pub const TID_MASK: u32 = 0x3fff_ffff;
/// How many locks are looked at: the list is user memory and may be a ring
/// without end (ROBUST_LIST_LIMIT).
pub const LIMIT: usize = 2048;
/// The size of struct robust_list_head, which set_robust_list() insists on.
pub const HEAD_SIZE: u64 = 24;

/// Atomic access to words of user memory, besides plain copies.
pub trait RobustMem: UserMem {
    /// Replaces the word at `addr` if it is `old`; returns what it was. `EFAULT`
    /// if it is not there.
    fn compare_exchange(&self, addr: u64, old: u32, new: u32) -> Result<u32>;
}

/// Walks the list at `head` (0: there is none) of the dying thread `tid`, marks
/// the locks it owns, and calls `wake` with the address of each that somebody
/// waits for, to wake one of them. Stops silently where the list is broken, as
/// Linux does.
pub fn walk_dead(memory: &impl RobustMem, head: u64, tid: u32, mut wake: impl FnMut(u64)) {
    if head != 0 {
        // An error only ends the walk.
        let _ = walk(memory, head, tid, &mut wake);
    }
}

fn walk(memory: &impl RobustMem, head: u64, tid: u32, wake: &mut impl FnMut(u64)) -> Result<()> {
    // struct robust_list_head { next, futex_offset, list_op_pending }. Bit 0 of
    // a link marks a priority-inheriting lock.
    let [first, offset, pending]: [u64; 3] = memory.read_obj(head)?;
    let (pending, pending_pi) = (pending & !1, pending & 1 != 0);
    let mut link = first;
    let mut outcome = Ok(());
    for _ in 0..LIMIT {
        let entry = link & !1;
        if entry == head {
            break;
        }
        // Read on before the lock is let go: its new owner may free it.
        let next = memory.read_obj::<u64>(entry);
        if entry != pending {
            let pi = link & 1 != 0;
            outcome = owner_died(memory, entry.wrapping_add(offset), tid, pi, false, wake);
            if outcome.is_err() {
                break;
            }
        }
        match next {
            Ok(next) => link = next,
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    if pending != 0 {
        let _ = owner_died(memory, pending.wrapping_add(offset), tid, pending_pi, true, wake);
    }
    outcome
}

/// Marks one lock. `pending`: the thread was about to take or release it.
fn owner_died(
    memory: &impl RobustMem,
    addr: u64,
    tid: u32,
    pi: bool,
    pending: bool,
    wake: &mut impl FnMut(u64),
) -> Result<()> {
    if !addr.is_multiple_of(4) {
        return Err(base::Errno::EINVAL);
    }
    let mut word: u32 = memory.read_obj(addr)?;
    // Another thread may keep changing the word: it could do so for ever only
    // if it changes it between every load and exchange; give up then.
    for _ in 0..LIMIT {
        // Released already, but died before waking the next: do that.
        if pending && !pi && word & TID_MASK == 0 {
            wake(addr);
            return Ok(());
        }
        if word & TID_MASK != tid {
            return Ok(());
        }
        let seen = memory.compare_exchange(addr, word, word & WAITERS | OWNER_DIED)?;
        if seen == word {
            if !pi && word & WAITERS != 0 {
                wake(addr);
            }
            return Ok(());
        }
        word = seen;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Errno;
    use proptest::prelude::*;
    use std::sync::Mutex;
    use std::vec;
    use std::vec::Vec;

    /// Memory from address 0x1000 on.
    struct Flat(Mutex<Vec<u8>>);

    impl Flat {
        fn new(words: &[(u64, u64)]) -> Flat {
            let flat = Flat(Mutex::new(vec![0; 4096]));
            words.iter().for_each(|(addr, word)| flat.write_obj(*addr, word).unwrap());
            flat
        }
    }

    impl UserMem for Flat {
        fn read(&self, addr: u64, out: &mut [u8]) -> Result<()> {
            let memory = self.0.lock().unwrap();
            let at = addr.checked_sub(0x1000).ok_or(Errno::EFAULT)? as usize;
            let end = at.checked_add(out.len()).ok_or(Errno::EFAULT)?;
            out.copy_from_slice(memory.get(at..end).ok_or(Errno::EFAULT)?);
            Ok(())
        }
        fn write(&self, addr: u64, data: &[u8]) -> Result<()> {
            let mut memory = self.0.lock().unwrap();
            let at = addr.checked_sub(0x1000).ok_or(Errno::EFAULT)? as usize;
            memory.get_mut(at..at + data.len()).ok_or(Errno::EFAULT)?.copy_from_slice(data);
            Ok(())
        }
    }

    impl RobustMem for Flat {
        fn compare_exchange(&self, addr: u64, old: u32, new: u32) -> Result<u32> {
            let seen: u32 = self.read_obj(addr)?;
            if seen == old {
                self.write_obj(addr, &new)?;
            }
            Ok(seen)
        }
    }

    const HEAD: u64 = 0x1000;

    #[test]
    fn locks_of_the_dead_are_marked() {
        let tid = 7u64;
        let memory = Flat::new(&[
            (HEAD, 0x1100),
            (HEAD + 8, 16),
            (HEAD + 16, 0x1300),
            (0x1100, 0x1200),
            (0x1110, tid | u64::from(WAITERS)),
            (0x1200, 0x1301),
            (0x1210, 8),
            (0x1300, HEAD),
            (0x1310, tid),
        ]);
        let mut woken = vec![];
        walk_dead(&memory, HEAD, 7, |addr| woken.push(addr));
        assert_eq!(woken, [0x1110]);
        assert_eq!(memory.read_obj(0x1110), Ok(WAITERS | OWNER_DIED));
        assert_eq!(memory.read_obj(0x1210), Ok(8u32));
        assert_eq!(memory.read_obj(0x1310), Ok(OWNER_DIED));
    }

    #[test]
    fn released_but_not_yet_handed_on() {
        let memory = Flat::new(&[(HEAD, HEAD), (HEAD + 8, 16), (HEAD + 16, 0x1100)]);
        let mut woken = vec![];
        walk_dead(&memory, HEAD, 7, |addr| woken.push(addr));
        assert_eq!(woken, [0x1110]);
        walk_dead(&memory, 0, 7, |_| panic!("there is no list"));
        walk_dead(&memory, 8, 7, |_| panic!("it is not there"));
    }

    #[test]
    fn rings_end() {
        let memory = Flat::new(&[(HEAD, 0x1100), (HEAD + 8, 16), (0x1100, 0x1100), (0x1110, 7)]);
        walk_dead(&memory, HEAD, 7, |_| {});
        assert_eq!(memory.read_obj(0x1110), Ok(OWNER_DIED));
    }

    proptest! {
        #[test]
        fn any_memory_is_survived(words in prop::collection::vec(
            prop_oneof![any::<u64>(), 0x1000u64..0x1200], 64)) {
            let memory = Flat(Mutex::new(words.iter().flat_map(|word| word.to_le_bytes()).collect()));
            let mut count = 0;
            walk_dead(&memory, HEAD, 7, |_| count += 1);
            prop_assert!(count <= LIMIT + 1);
        }
    }
}
