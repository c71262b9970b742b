//! Record locks: `fcntl`'s F_SETLK (by process), F_OFD_SETLK (by open file)
//! and `flock`.
//!
//! Locks: one table at `OPEN_FILE`; nothing is called under it. Whoever waits
//! (F_SETLKW, `flock`) registers with [`queue`].

use crate::abi::{DevId, SEEK_CUR, SEEK_END, SEEK_SET};
use crate::file::OpenFile;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use base::{Errno, Lock, Result, Room, WaitQueue, rank, room};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Shared.
pub const F_RDLCK: i16 = 0;
/// Exclusive.
pub const F_WRLCK: i16 = 1;
/// None.
pub const F_UNLCK: i16 = 2;

/// `flock`: shared.
pub const LOCK_SH: u32 = 1;
/// `flock`: exclusive.
pub const LOCK_EX: u32 = 2;
/// `flock`: don't wait.
pub const LOCK_NB: u32 = 4;
/// `flock`: let go.
pub const LOCK_UN: u32 = 8;

/// Ranges that one file may have locked: EL0 makes them.
const MAX_RANGES: usize = 4096;

/// Who holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A table of descriptors, which processes may share: F_SETLK.
    Process(u64),
    /// An open file (OFD locks).
    Description(u64),
    /// An open file's `flock`, which doesn't meet the others.
    Flock(u64),
}

impl Owner {
    fn meets(self, other: Owner) -> bool {
        let flock = |owner| matches!(owner, Owner::Flock(_));
        self != other && flock(self) == flock(other)
    }
}

/// A locked range; `end` is exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Whose.
    pub owner: Owner,
    /// Which process took it, for F_GETLK.
    pub pid: u32,
    /// Whether nobody else may share it.
    pub exclusive: bool,
    /// First byte.
    pub start: u64,
    /// After the last byte.
    pub end: u64,
}

type Key = (DevId, u64);

static TABLE: Lock<BTreeMap<Key, Vec<Range>>> = Lock::new(rank::OPEN_FILE, BTreeMap::new());
/// Whether there may be any lock at all: closing files asks.
static HELD: AtomicBool = AtomicBool::new(false);
static QUEUE: WaitQueue = WaitQueue::new();

/// Where those register who wait for any lock to be let go.
pub fn queue() -> &'static WaitQueue {
    &QUEUE
}

/// A range from `struct flock`'s fields.
pub fn range(file: &OpenFile, whence: i16, start: i64, len: i64) -> Result<(u64, u64)> {
    let base = match whence as u32 {
        SEEK_SET => 0,
        SEEK_CUR => file.seek(0, SEEK_CUR).unwrap_or(0),
        SEEK_END => file.file().size()?,
        _ => return Err(Errno::EINVAL),
    };
    let base = i64::try_from(base).map_err(|_| Errno::EOVERFLOW)?;
    let from = base.checked_add(start).ok_or(Errno::EOVERFLOW)?;
    let (from, to) = if len < 0 {
        (from.checked_add(len).ok_or(Errno::EINVAL)?, from)
    } else if len == 0 {
        (from, i64::MAX)
    } else {
        (from, from.checked_add(len).ok_or(Errno::EOVERFLOW)?)
    };
    let from = u64::try_from(from).map_err(|_| Errno::EINVAL)?;
    Ok((from, to as u64))
}

/// The first lock that keeps `want` from being taken.
pub fn conflict(key: Key, want: &Range) -> Option<Range> {
    TABLE.lock().get(&key).and_then(|held| find_conflict(held, want))
}

fn find_conflict(held: &[Range], want: &Range) -> Option<Range> {
    held.iter()
        .find(|other| {
            other.owner.meets(want.owner)
                && other.start < want.end
                && want.start < other.end
                && (other.exclusive || want.exclusive)
        })
        .copied()
}

/// Takes or changes a lock: `EAGAIN` if another one is in the way.
pub fn set(key: Key, want: Range) -> Result<()> {
    {
        let mut table = TABLE.lock();
        if table.get(&key).is_some_and(|held| find_conflict(held, &want).is_some()) {
            return Err(Errno::EAGAIN);
        }
        if !table.contains_key(&key) {
            let first = room::try_vec(2).map_err(|_| Errno::ENOLCK)?;
            room::try_insert(&mut table, key, first).map_err(|_| Errno::ENOLCK)?;
        }
        let Some(held) = table.get_mut(&key) else { return Err(Errno::ENOLCK) };
        if held.len() >= MAX_RANGES || held.make_room(2).is_err() {
            return Err(Errno::ENOLCK);
        }
        carve(held, want.owner, want.start, want.end);
        held.push(want);
        HELD.store(true, Relaxed);
    }
    // A change from exclusive to shared may let others in.
    QUEUE.wake_all();
    Ok(())
}

/// Lets go of a range.
pub fn unset(key: Key, owner: Owner, start: u64, end: u64) -> Result<()> {
    if !HELD.load(Relaxed) {
        return Ok(());
    }
    {
        let mut table = TABLE.lock();
        let Some(held) = table.get_mut(&key) else { return Ok(()) };
        // What lets go of all splits nothing, and must not fail.
        let splits = |range: &Range| range.owner == owner && range.start < start && end < range.end;
        if held.iter().any(splits) && held.make_room(1).is_err() {
            return Err(Errno::ENOLCK);
        }
        carve(held, owner, start, end);
        if held.is_empty() {
            table.remove(&key);
        }
        if table.is_empty() {
            HELD.store(false, Relaxed);
        }
    }
    QUEUE.wake_all();
    Ok(())
}

/// Takes `start..end` out of the owner's ranges; at most one of them is split.
fn carve(held: &mut Vec<Range>, owner: Owner, start: u64, end: u64) {
    let mut split = None;
    held.retain_mut(|range| {
        if range.owner != owner || range.end <= start || end <= range.start {
            return true;
        }
        if range.start < start && end < range.end {
            split = Some(Range { start: end, ..*range });
            range.end = start;
            return true;
        }
        if range.start < start {
            range.end = start;
            return true;
        }
        range.start = end;
        range.start < range.end
    });
    held.extend(split);
}

/// The key of a file that has an inode.
pub fn key(file: &OpenFile) -> Result<Key> {
    let stat = file.stat()?;
    Ok((stat.dev, stat.ino))
}

/// Lets go of what has been locked in a file through a table of descriptors:
/// one of them was closed.
pub fn release_process(file: &OpenFile, table: u64) {
    if HELD.load(Relaxed)
        && let Ok(key) = key(file)
    {
        let _ = unset(key, Owner::Process(table), 0, u64::MAX);
    }
}

/// Lets go of what an open file has locked: it is closed for good.
pub(crate) fn release_description(file: &OpenFile) {
    if HELD.load(Relaxed)
        && let Ok(key) = key(file)
    {
        let _ = unset(key, Owner::Description(file.id()), 0, u64::MAX);
        let _ = unset(key, Owner::Flock(file.id()), 0, u64::MAX);
    }
}

/// `flock`: `EAGAIN` if it would wait (the kernel waits unless LOCK_NB).
pub fn flock(file: &OpenFile, operation: u32) -> Result<()> {
    let (key, owner) = (key(file)?, Owner::Flock(file.id()));
    let exclusive = match operation & !LOCK_NB {
        LOCK_SH => false,
        LOCK_EX => true,
        LOCK_UN => return unset(key, owner, 0, u64::MAX),
        _ => return Err(Errno::EINVAL),
    };
    set(key, Range { owner, pid: 0, exclusive, start: 0, end: u64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_split_and_conflict() {
        let key = (DevId::new(0, 99), 1);
        let (a, b) = (Owner::Process(1), Owner::Process(2));
        let range = |owner, exclusive, start, end| Range { owner, pid: 0, exclusive, start, end };
        set(key, range(a, true, 0, 100)).unwrap();
        assert_eq!(set(key, range(b, false, 50, 60)), Err(Errno::EAGAIN));
        unset(key, a, 40, 70).unwrap();
        set(key, range(b, false, 50, 60)).unwrap();
        assert_eq!(conflict(key, &range(a, true, 55, 56)), Some(range(b, false, 50, 60)));
        assert_eq!(conflict(key, &range(b, true, 70, 71)), Some(range(a, true, 70, 100)));
        set(key, range(Owner::Flock(7), true, 0, u64::MAX)).unwrap();
        assert_eq!(set(key, range(Owner::Flock(8), false, 0, 1)), Err(Errno::EAGAIN));
        for owner in [a, b, Owner::Flock(7)] {
            unset(key, owner, 0, u64::MAX).unwrap();
        }
        assert_eq!(conflict(key, &range(a, true, 0, u64::MAX)), None);
    }
}
