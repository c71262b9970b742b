//! Futexes on user memory.

use super::{Args, Failure, SysResult, time};
use crate::process::space::Mm;
use crate::process::{Thread, current, table, with_thread};
use crate::user::CurrentUser;
use crate::{clock, sched, wait};
use base::{Errno, Nanos, Result, UserMem, UserMemExt};
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::*;
use frame::Frame;
use futex::robust::{self, RobustMem};
use futex::{FutexTable, Key, MATCH_ANY, WakeOp};
use mm::FutexKey;
use signal::Restart;
use spin::Once;
use syscalls::nr;

/// Futex operations (linux/futex.h).
mod op {
    pub const WAIT: u32 = 0;
    pub const WAKE: u32 = 1;
    pub const REQUEUE: u32 = 3;
    pub const CMP_REQUEUE: u32 = 4;
    pub const WAKE_OP: u32 = 5;
    pub const WAIT_BITSET: u32 = 9;
    pub const WAKE_BITSET: u32 = 10;
    pub const PRIVATE: u32 = 128;
    pub const REALTIME: u32 = 256;
}

fn futexes() -> Result<&'static FutexTable> {
    static TABLE: Once<Option<FutexTable>> = Once::new();
    TABLE.call_once(|| FutexTable::new(256).ok()).as_ref().ok_or(Errno::ENOMEM)
}

fn key(mm: &Mm, addr: u64, private: bool) -> Result<Key> {
    Ok(match mm.futex_key(addr, private)? {
        FutexKey::Private { mm, addr } => Key::Private { mm, addr },
        FutexKey::Shared { id, offset } => {
            Key::Shared { object: id.dev.rotate_left(40) ^ id.ino, offset }
        }
    })
}

/// A futex word, pinned: reading it can't fault.
struct Word<'a> {
    mm: &'a Mm,
    seq: u64,
    frame: Frame,
    offset: u64,
}

impl<'a> Word<'a> {
    fn pin(mm: &'a Mm, addr: u64, write: bool) -> Result<Word<'a>> {
        if !addr.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        let seq = mm.invalidate_seq();
        let backing = mm.get_frame(addr, write).map_err(|fault| fault.errno())?;
        let offset = addr.wrapping_sub(backing.start);
        Ok(Word { mm, seq, frame: backing.frame, offset })
    }

    /// The word, or [`STALE`] if the page was replaced since (a copy on write,
    /// an unmapping): pin it again.
    fn get(&self) -> Result<&AtomicU32> {
        if !self.mm.is_current(self.seq) {
            return Err(STALE);
        }
        self.frame.atomic_u32(self.offset).ok_or(Errno::EFAULT)
    }
}

/// Never leaves this file.
const STALE: Errno = Errno::ERESTART;

/// Repeats what found its word [`STALE`].
fn retry<R>(mut attempt: impl FnMut() -> Result<R>) -> Result<R> {
    loop {
        match attempt() {
            Err(STALE) => sched::breathe(),
            result => return result,
        }
    }
}

pub fn futex(args: Args) -> SysResult {
    let [addr, operation, value, timeout, addr2, value3] = args;
    let (operation, value, value3) = (operation as u32, value as u32, value3 as u32);
    let private = operation & op::PRIVATE != 0;
    let command = operation & !(op::PRIVATE | op::REALTIME);
    // FUTEX_WAIT's time-out is relative: no clock can be chosen for it.
    if operation & op::REALTIME != 0 && command != op::WAIT_BITSET {
        return Err(Errno::ENOSYS.into());
    }
    let mm = current()?.mm()?;
    let table = futexes()?;
    // How many to wake or move.
    let count = value as usize;
    let (count2, count2_valid) = (timeout as u32 as usize, timeout as i32 >= 0);
    match command {
        op::WAIT => {
            let deadline = match timeout {
                0 => None,
                timeout => {
                    let timeout = time::read_timespec(timeout)?;
                    Some(with_thread(|thread| thread.deadline_in(timeout))?)
                }
            };
            let result = wait_for(&mm, addr, private, value, MATCH_ANY, deadline.map(Until::Monotonic));
            with_time_out(result, args, deadline)
        }
        op::WAIT_BITSET => {
            let real = operation & op::REALTIME != 0;
            let deadline = match timeout {
                0 => None,
                timeout => {
                    let time = time::read_timespec(timeout)?;
                    Some(if real { Until::Realtime(time) } else { Until::Monotonic(time) })
                }
            };
            let result = wait_for(&mm, addr, private, value, value3, deadline);
            // Made again, it reads when it is to end once more.
            with_time_out(result, args, deadline.map(|_| Nanos::MAX))
        }
        op::WAKE => Ok(wake(&mm, addr, private, count, MATCH_ANY)?),
        op::WAKE_BITSET => Ok(wake(&mm, addr, private, count, value3)?),
        op::REQUEUE | op::CMP_REQUEUE => {
            if (value as i32) < 0 || !count2_valid {
                return Err(Errno::EINVAL.into());
            }
            let (from, to) = (key(&mm, addr, private)?, key(&mm, addr2, private)?);
            let (woken, moved) = if command == op::REQUEUE {
                table.requeue(from, to, count, count2, || Ok(true))?
            } else {
                retry(|| {
                    let word = Word::pin(&mm, addr, false)?;
                    let check = || Ok(word.get()?.load(SeqCst) == value3);
                    table.requeue(from, to, count, count2, check)
                })?
            };
            Ok(woken.saturating_add(moved) as i64)
        }
        op::WAKE_OP => {
            let change = WakeOp::decode(value3)?;
            let (first, second) = (key(&mm, addr, private)?, key(&mm, addr2, private)?);
            let woken = retry(|| {
                let word = Word::pin(&mm, addr2, true)?;
                let apply = || Ok(change.apply(word.get()?));
                table.wake_op(first, one_or(count), second, one_or(count2), apply)
            })?;
            Ok(woken as i64)
        }
        // Priority inheritance is not there.
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// As on Linux, waking none (or fewer) wakes one.
fn one_or(count: usize) -> usize {
    if (count as i32) < 1 { 1 } else { count }
}

/// A wait with a time-out that a signal interrupted goes on with what is left
/// of the time, and only if no handler ran.
fn with_time_out(result: SysResult, args: Args, deadline: Option<Nanos>) -> SysResult {
    match (result, deadline) {
        (Err(Failure::Restart(_)), Some(deadline)) => {
            Err(with_thread(|thread| thread.interrupted(nr::FUTEX, args, deadline))?)
        }
        (result, _) => result,
    }
}

/// When a wait ends, and by which clock.
#[derive(Clone, Copy)]
enum Until {
    Monotonic(Nanos),
    Realtime(Nanos),
}

fn wait_for(
    mm: &Mm,
    addr: u64,
    private: bool,
    value: u32,
    bitset: u32,
    deadline: Option<Until>,
) -> SysResult {
    let table = futexes()?;
    let key = key(mm, addr, private)?;
    let waker = crate::task::current().waker();
    let waiter = retry(|| {
        let word = Word::pin(mm, addr, false)?;
        table.enqueue(key, bitset, &waker, || Ok(word.get()?.load(SeqCst) == value))
    })?;
    let woken = || if waiter.is_woken() { Ok(0) } else { Err(Errno::EAGAIN) };
    let result = match deadline {
        None => wait::retry(None, woken),
        Some(Until::Monotonic(time)) => wait::retry(Some(time), woken),
        Some(Until::Realtime(time)) => clock::retry_until(time, woken),
    };
    match result {
        Ok(value) => Ok(value),
        // Woken at the last moment: the wake-up must not be lost.
        Err(_) if !table.cancel(&waiter) => Ok(0),
        Err(ended) => Err(Failure::from_wait(ended, Restart::Sys, Errno::ETIMEDOUT)),
    }
}

fn wake(mm: &Mm, addr: u64, private: bool, count: usize, bitset: u32) -> Result<i64> {
    let key = key(mm, addr, private)?;
    Ok(futexes()?.wake_in_chunks(key, one_or(count), bitset, sched::breathe)? as i64)
}

pub fn set_robust_list(head: u64, len: u64) -> SysResult {
    if len != robust::HEAD_SIZE {
        return Err(Errno::EINVAL.into());
    }
    with_thread(|thread| thread.robust_list.store(head, Relaxed))?;
    Ok(0)
}

pub fn get_robust_list(tid: u32, head: u64, len: u64) -> SysResult {
    let list = match tid {
        0 => with_thread(|thread| thread.robust_list.load(Relaxed))?,
        tid => {
            let task = table::thread(tid)?;
            task.thread.get().ok_or(Errno::ESRCH)?.robust_list.load(Relaxed)
        }
    };
    CurrentUser.write_obj(len, &robust::HEAD_SIZE)?;
    CurrentUser.write_obj(head, &list)?;
    Ok(0)
}

/// The memory of a thread that ends.
struct DeadMem<'a>(&'a Mm);

impl UserMem for DeadMem<'_> {
    fn read(&self, addr: u64, out: &mut [u8]) -> Result<()> {
        self.0.read(addr, out)
    }

    fn write(&self, addr: u64, data: &[u8]) -> Result<()> {
        self.0.write(addr, data)
    }
}

impl RobustMem for DeadMem<'_> {
    fn compare_exchange(&self, addr: u64, old: u32, new: u32) -> Result<u32> {
        retry(|| {
            let word = Word::pin(self.0, addr, true)?;
            Ok(match word.get()?.compare_exchange(old, new, SeqCst, SeqCst) {
                Ok(seen) | Err(seen) => seen,
            })
        })
    }
}

/// A thread ends or leaves its memory: hands on the locks it held, and tells
/// those who wait for its end.
pub fn thread_exits(thread: &Thread) {
    let Ok(mm) = thread.process.mm() else { return };
    let list = thread.robust_list.swap(0, Relaxed);
    robust::walk_dead(&DeadMem(&mm), list, thread.tid(), |addr| {
        let _ = wake(&mm, addr, false, 1, MATCH_ANY);
    });
    let tid = thread.clear_child_tid.swap(0, Relaxed);
    if tid != 0 && mm.write_obj(tid, &0u32).is_ok() {
        let _ = wake(&mm, tid, false, 1, MATCH_ANY);
    }
}
