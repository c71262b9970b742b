//! Waiting for one of many: poll, select, epoll.

use super::path::install;
use super::{Args, Failure, SysResult, fd_of};
use crate::user::CurrentUser;
use crate::{process, sched, time, wait};
use alloc::sync::Arc;
use alloc::vec::Vec;
use base::{Errno, Nanos, Result, UserMem, UserMemExt, Room, room};
use core::task::Waker;
use linux_raw_sys::general;
use syscalls::nr;
use signal::{Restart, SigSet};
use vfs::abi::{EpollEvent, Events, OpenFlags, Timespec};
use vfs::epoll::{self, Epoll, PollItem};
use vfs::{FdTable, OpenFile};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// This group's calls.
pub fn dispatch(number: u64, a: Args) -> Option<SysResult> {
    let [x0, x1, x2, x3, x4, x5] = a;
    Some(match number {
        nr::PPOLL => ppoll(x0, x1, x2, x3, x4),
        nr::PSELECT6 => pselect6(a),
        nr::EPOLL_CREATE1 => epoll_create1(x0 as u32),
        nr::EPOLL_CTL => epoll_ctl(x0, x1 as u32, x2, x3),
        nr::EPOLL_PWAIT => {
            let timeout = x3 as i32;
            let deadline =
                (timeout >= 0).then(|| after(Nanos::from(timeout as u32).saturating_mul(1_000_000)));
            epoll_wait(x0, x1, x2, deadline, x4, x5)
        }
        nr::EPOLL_PWAIT2 => {
            deadline_at(x3).map_err(Into::into).and_then(|end| epoll_wait(x0, x1, x2, end, x4, x5))
        }
        _ => return None,
    })
}

fn after(timeout: Nanos) -> Nanos {
    time::now().saturating_add(timeout)
}

/// A relative time-out in user memory; 0 for none.
fn deadline_at(at: u64) -> Result<Option<Nanos>> {
    if at == 0 {
        return Ok(None);
    }
    let timeout = CurrentUser.read_obj::<Timespec>(at)?.to_nanos().ok_or(Errno::EINVAL)?;
    Ok(Some(after(timeout)))
}

/// Runs `body` with the signal mask at `mask` (0: as it is), as ppoll() and
/// friends do: the mask is in force until the handler has run.
fn with_mask(mask: u64, size: u64, body: impl FnOnce() -> SysResult) -> SysResult {
    if mask == 0 {
        return body();
    }
    if size != 8 {
        return Err(Errno::EINVAL.into());
    }
    let mask = SigSet::from_bits(CurrentUser.read_obj::<u64>(mask)?);
    process::with_thread(|thread| thread.with_signals(|signals| signals.swap_blocked(mask)))?;
    let result = body();
    // A handler runs under the call's mask and goes back to the old one itself.
    if !matches!(result, Err(Failure::Restart(_))) {
        process::with_thread(|thread| thread.with_signals(|signals| signals.restore_blocked()))?;
    }
    result
}

/// So many descriptors are looked at in one go: a call may name a million.
const STEP: usize = 256;

fn poll_all(items: &mut [PollItem]) -> usize {
    let mut ready = 0usize;
    for some in items.chunks_mut(STEP) {
        ready = ready.saturating_add(epoll::poll_all(some));
        sched::breathe();
    }
    ready
}

/// Drops what a list holds: maybe the last references to files.
fn drop_in_steps<T>(mut list: Vec<T>) {
    while !list.is_empty() {
        list.truncate(list.len().saturating_sub(STEP));
        sched::breathe();
    }
}

/// Polls until something happened; how many files. 0 if the deadline came.
fn wait_for(items: &mut [PollItem], deadline: Option<Nanos>) -> Result<usize, Failure> {
    let ready = poll_all(items);
    if ready > 0 || deadline.is_some_and(|end| end <= time::now()) {
        return Ok(ready);
    }
    let waker = Waker::from(sched::current());
    let mut registered = room::try_vec(items.len().div_ceil(STEP))?;
    let mut all = Ok(());
    for some in items.chunks(STEP) {
        match epoll::register_all(some, &waker) {
            Ok(some) => registered.push(some),
            Err(errno) => {
                all = Err(errno);
                break;
            }
        }
        sched::breathe();
    }
    let result = all.map_err(Into::into).and_then(|()| {
        wait::retry(deadline, || match poll_all(items) {
            0 => Err(Errno::EAGAIN),
            ready => Ok(ready),
        })
    });
    for some in registered {
        drop(some);
        sched::breathe();
    }
    match result {
        Ok(ready) => Ok(ready),
        Err(wait::Ended::TimedOut) => Ok(0),
        Err(ended) => Err(Failure::from_wait(ended, Restart::NoHandler, Errno::EAGAIN)),
    }
}

/// `struct pollfd`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct PollFd {
    fd: i32,
    events: u16,
    revents: u16,
}

/// Where `revents` is in it.
const REVENTS: u64 = core::mem::offset_of!(PollFd, revents) as u64;

fn ppoll(fds: u64, count: u64, timeout: u64, mask: u64, mask_size: u64) -> SysResult {
    let process = process::current()?;
    if count > process.limit(general::RLIMIT_NOFILE as usize) {
        return Err(Errno::EINVAL.into());
    }
    let mut list: Vec<PollFd> = CurrentUser.read_vec(fds, count as usize)?;
    let deadline = deadline_at(timeout)?;
    let files = process.files()?;
    let mut items = room::try_vec(list.len())?;
    let mut bad = 0usize;
    for entry in &mut list {
        entry.revents = 0;
        let file = if entry.fd < 0 { None } else { files.get(entry.fd).ok() };
        if entry.fd >= 0 && file.is_none() {
            entry.revents = general::POLLNVAL as u16;
            bad = bad.saturating_add(1);
        }
        let events = Events::from_bits_retain(u32::from(entry.events));
        items.push(PollItem { file, events, revents: Events::empty() });
        if items.len().is_multiple_of(STEP) {
            sched::breathe();
        }
    }
    let result = with_mask(mask, mask_size, || {
        let deadline = if bad > 0 { Some(0) } else { deadline };
        Ok(wait_for(&mut items, deadline)? as i64)
    });
    put_remaining(timeout, deadline);
    // As Linux, also when a signal ended it; and revents alone: another thread
    // may have changed the rest.
    let mut written = Ok(());
    for (index, (entry, item)) in (0u64..).zip(list.iter().zip(&items)) {
        let revents = entry.revents | item.revents.bits() as u16;
        let at = fds.wrapping_add(index.wrapping_mul(size_of::<PollFd>() as u64));
        written = CurrentUser.write_obj(at.wrapping_add(REVENTS), &revents);
        if written.is_err() {
            break;
        }
        if (index as usize).is_multiple_of(STEP) {
            sched::breathe();
        }
    }
    drop_in_steps(items);
    written?;
    Ok(result?.saturating_add(bad as i64))
}

/// Linux writes back what was left of the time-out.
fn put_remaining(at: u64, deadline: Option<Nanos>) {
    if let (Some(end), true) = (deadline, at != 0) {
        let left = Timespec::from_nanos(end.saturating_sub(time::now()));
        let _ = CurrentUser.write_obj(at, &left);
    }
}

/// The three sets of select(), and what poll calls them (fs/select.c's
/// POLLIN_SET and so on, which are part of the ABI).
const SETS: [Events; 3] = [
    Events::READ.union(Events::HUP).union(Events::ERR),
    Events::WRITE.union(Events::ERR),
    Events::PRI,
];
fn pselect6(a: Args) -> SysResult {
    let [count, read, write, except, timeout, mask] = a;
    let files = process::current()?.files()?;
    // As Linux: no descriptor is above the table's end, however many are named.
    let count = usize::try_from(count as i32).map_err(|_| Errno::EINVAL)?;
    let count = count.min(files.capacity().max(64));
    let words = count.div_ceil(64);
    let (mask, mask_size) = match mask {
        0 => (0, 8),
        at => {
            let [mask, size]: [u64; 2] = CurrentUser.read_obj(at)?;
            (mask, size)
        }
    };
    let deadline = deadline_at(timeout)?;
    let mut items: Vec<PollItem> = Vec::new();
    // Of each item, which set and which descriptor it stands for.
    let mut whose: Vec<(usize, usize)> = Vec::new();
    let mut sets: [Vec<u64>; 3] = [const { Vec::new() }; 3];
    let places = [read, write, except];
    for (set, ((address, events), bits)) in places.iter().zip(SETS).zip(&mut sets).enumerate() {
        if *address == 0 {
            continue;
        }
        *bits = CurrentUser.read_vec(*address, words)?;
        for (index, word) in bits.iter_mut().enumerate() {
            let first = index.saturating_mul(64);
            let above = count.saturating_sub(first);
            if above < 64 {
                *word &= !(u64::MAX << above);
            }
            // From here on it holds what is ready.
            let mut wanted = core::mem::take(word);
            items.make_room(wanted.count_ones() as usize)?;
            whose.make_room(wanted.count_ones() as usize)?;
            while wanted != 0 {
                let fd = first.saturating_add(wanted.trailing_zeros() as usize);
                wanted &= wanted.wrapping_sub(1);
                let file = Some(files.get(fd as i32)?);
                items.push(PollItem { file, events, revents: Events::empty() });
                whose.push((set, fd));
            }
            if index.is_multiple_of(STEP / 64) {
                sched::breathe();
            }
        }
    }
    let result =
        with_mask(mask, mask_size, || Ok(wait_for(&mut items, deadline)? as i64));
    put_remaining(timeout, deadline);
    if let Err(failure) = result {
        drop_in_steps(items);
        return Err(failure);
    }
    let mut total = 0i64;
    for ((set, fd), item) in whose.iter().zip(&items) {
        let bits = sets.get_mut(*set).and_then(|bits| bits.get_mut(fd / 64));
        if let (Some(word), true) = (bits, item.revents.intersects(item.events)) {
            *word |= 1 << (fd % 64);
            total = total.saturating_add(1);
        }
    }
    drop_in_steps(items);
    for (address, bits) in places.iter().zip(&sets) {
        if *address != 0 {
            CurrentUser.write(*address, bits.as_slice().as_bytes())?;
        }
    }
    Ok(total)
}

fn epoll_create1(flags: u32) -> SysResult {
    if flags & !general::EPOLL_CLOEXEC != 0 {
        return Err(Errno::EINVAL.into());
    }
    let file = OpenFile::anonymous(Epoll::new()?, OpenFlags::RDWR)?;
    install(file, flags & general::EPOLL_CLOEXEC != 0)
}

fn set_of(files: &Arc<FdTable>, fd: u64) -> Result<Arc<OpenFile>> {
    let file = files.get(fd_of(fd))?;
    file.downcast::<Epoll>().ok_or(Errno::EINVAL)?;
    Ok(file)
}

fn epoll_ctl(set: u64, op: u32, fd: u64, event: u64) -> SysResult {
    let event = match op {
        general::EPOLL_CTL_DEL => EpollEvent::default(),
        _ => CurrentUser.read_obj(event)?,
    };
    let files = process::current()?.files()?;
    let file = files.get(fd_of(fd))?;
    let set_file = set_of(&files, set)?;
    if Arc::ptr_eq(&set_file, &file) {
        return Err(Errno::EINVAL.into());
    }
    let set = set_file.downcast::<Epoll>().ok_or(Errno::EINVAL)?;
    match op {
        general::EPOLL_CTL_ADD => set.add(fd_of(fd), &file, event)?,
        general::EPOLL_CTL_MOD => set.modify(fd_of(fd), &file, event)?,
        general::EPOLL_CTL_DEL => set.remove(fd_of(fd), &file)?,
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

/// How many events one call returns at most; more come with the next.
const EVENTS: u64 = 256;

fn epoll_wait(
    set: u64,
    to: u64,
    count: u64,
    deadline: Option<Nanos>,
    mask: u64,
    size: u64,
) -> SysResult {
    if count as i32 <= 0 || count > epoll::MAX_EVENTS as u64 {
        return Err(Errno::EINVAL.into());
    }
    let files = process::current()?.files()?;
    let file = set_of(&files, set)?;
    drop(files);
    let mut events = room::try_vec(count.min(EVENTS) as usize)?;
    events.resize(count.min(EVENTS) as usize, EpollEvent::default());
    with_mask(mask, size, || {
        let set = file.downcast::<Epoll>().ok_or(Errno::EINVAL)?;
        let queue = file.wait_queue().ok_or(Errno::EINVAL)?;
        let ready = wait::until(queue, deadline, || match set.collect(&mut events) {
            0 => Err(Errno::EAGAIN),
            ready => Ok(ready),
        });
        let ready = match ready {
            Ok(ready) => ready,
            Err(wait::Ended::TimedOut) => 0,
            Err(ended) => {
                return Err(Failure::from_wait(ended, Restart::NoHandler, Errno::EAGAIN));
            }
        };
        CurrentUser.write(to, events.get(..ready).unwrap_or_default().as_bytes())?;
        Ok(ready as i64)
    })
}
