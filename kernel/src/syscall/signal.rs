//! Signals: kill, rt_sig*, sigaltstack.

use super::{Failure, SysResult, time};
use crate::process::{Process, caller, current, signals, table, with_thread};
use crate::user::CurrentUser;
use crate::wait;
use alloc::sync::Arc;
use base::{Errno, Result, UserMem, UserMemExt};
use signal::{Action, Restart, SigInfo, SigSet, Signal, UserStack, code};
use zerocopy::IntoBytes;

/// Signal 0 only asks whether one could be sent.
fn signal_or_probe(number: u32) -> Result<Option<Signal>> {
    if number == 0 { Ok(None) } else { Signal::new(number.into()).map(Some) }
}

/// The process of a process's or a thread's ID: kill(2) takes both.
fn process_of(id: u32) -> Result<Arc<Process>> {
    table::process(id).or_else(|errno| {
        let task = table::thread(id)?;
        task.thread.get().map(|thread| thread.process.clone()).ok_or(errno)
    })
}

pub fn kill(pid: i32, number: u32) -> SysResult {
    let signal = signal_or_probe(number)?;
    let me = caller();
    let info = signal.map(|signal| SigInfo::user(signal, code::SI_USER, me.pid, 0));
    let group = match pid {
        i32::MIN => return Err(Errno::ESRCH.into()),
        1.. => {
            let process = process_of(pid.unsigned_abs())?;
            if let Some(info) = info {
                signals::send(&process, info)?;
            }
            return Ok(0);
        }
        0 => me.pgid,
        pid => pid.unsigned_abs(),
    };
    let whom = |other: u32, of: u32| if pid == -1 { other != 1 && other != me.pid } else { of == group };
    match info {
        Some(info) => signals::send_all(whom, info)?,
        None => signals::probe(whom)?,
    }
    Ok(0)
}

/// `group` of -1: any (tkill).
pub fn tgkill(group: i32, tid: i32, number: u32) -> SysResult {
    let tid = u32::try_from(tid).ok().filter(|&tid| tid != 0).ok_or(Errno::EINVAL)?;
    let signal = signal_or_probe(number)?;
    let task = table::thread(tid)?;
    let process = task.thread.get().ok_or(Errno::ESRCH)?.process.pid;
    if group != -1 && group.unsigned_abs() != process {
        return Err(Errno::ESRCH.into());
    }
    if let Some(signal) = signal {
        let info = SigInfo::user(signal, code::SI_TKILL, caller().pid, 0);
        signals::send_thread(&task, info)?;
    }
    Ok(0)
}

pub fn rt_sigqueueinfo(pid: u32, number: u64, info: u64) -> SysResult {
    let process = process_of(pid)?;
    let info = queued_info(number, info, process.pid)?;
    signals::send(&process, info)?;
    Ok(0)
}

pub fn rt_tgsigqueueinfo(group: u32, tid: u32, number: u64, info: u64) -> SysResult {
    let task = table::thread(tid)?;
    let process = task.thread.get().ok_or(Errno::ESRCH)?.process.pid;
    if process != group {
        return Err(Errno::ESRCH.into());
    }
    signals::send_thread(&task, queued_info(number, info, process)?)?;
    Ok(0)
}

fn queued_info(number: u64, info: u64, to: u32) -> Result<SigInfo> {
    let signal = Signal::new(number)?;
    let mut bytes = [0; SigInfo::SIZE];
    CurrentUser.read(info, &mut bytes)?;
    let info = SigInfo::from_user(signal, &bytes);
    if to != caller().pid {
        info.check_queued_for_other()?;
    }
    Ok(info)
}

/// sizeof(sigset_t), which all rt_ calls insist on.
const SET_SIZE: u64 = 8;

fn check_set_size(size: u64) -> Result<()> {
    if size == SET_SIZE { Ok(()) } else { Err(Errno::EINVAL) }
}

fn read_set(addr: u64) -> Result<SigSet> {
    Ok(SigSet::from_bits(CurrentUser.read_obj(addr)?))
}

pub fn rt_sigaction(number: u64, new: u64, old: u64, size: u64) -> SysResult {
    check_set_size(size)?;
    let signal = Signal::new(number)?;
    let new = match new {
        0 => None,
        addr => Some(Action::from_words(CurrentUser.read_obj(addr)?)),
    };
    let before = current()?.set_action(signal, new)?;
    if old != 0 {
        CurrentUser.write_obj(old, &before.to_words())?;
    }
    Ok(0)
}

pub fn rt_sigprocmask(how: u32, new: u64, old: u64, size: u64) -> SysResult {
    check_set_size(size)?;
    let new = match new {
        0 => None,
        addr => Some(read_set(addr)?),
    };
    if new.is_some() && how > 2 {
        return Err(Errno::EINVAL.into());
    }
    let before = with_thread(|thread| {
        thread.with_signals(|signals| {
            let before = signals.blocked();
            if let Some(set) = new {
                signals.set_blocked(match how {
                    0 => before.with(set),
                    1 => before.without(set),
                    _ => set,
                });
            }
            before
        })
    })?;
    if old != 0 {
        CurrentUser.write_obj(old, &before.bits())?;
    }
    Ok(0)
}

pub fn rt_sigpending(set: u64, size: u64) -> SysResult {
    // Smaller sets are allowed here, and here only.
    if size > SET_SIZE {
        return Err(Errno::EINVAL.into());
    }
    let pending = with_thread(|thread| {
        let blocked = thread.with_signals(|signals| signals.blocked());
        thread.pending().and(blocked)
    })?;
    let bits = pending.bits();
    CurrentUser.write(set, bits.as_bytes().get(..size as usize).ok_or(Errno::EINVAL)?)?;
    Ok(0)
}

pub fn rt_sigsuspend(set: u64, size: u64) -> SysResult {
    check_set_size(size)?;
    let set = read_set(set)?;
    with_thread(|thread| thread.with_signals(|signals| signals.swap_blocked(set)))?;
    let nothing = || Err::<i64, Errno>(Errno::EAGAIN);
    let ended = wait::retry(None, nothing);
    ended.map_err(|ended| Failure::from_wait(ended, Restart::NoHandler, Errno::EINTR))
}

pub fn rt_sigtimedwait(set: u64, info: u64, timeout: u64, size: u64) -> SysResult {
    check_set_size(size)?;
    let wanted = read_set(set)?.blockable();
    let timeout = match timeout {
        0 => None,
        addr => Some(time::read_timespec(addr)?),
    };
    let deadline = timeout.map(|timeout| crate::time::now().saturating_add(timeout));
    let take = || with_thread(|thread| thread.take_signal(wanted))?.ok_or(Errno::EAGAIN);
    let taken = match deadline {
        Some(_) if timeout == Some(0) => take()?,
        // As on Linux it is not started again: a signal that isn't waited for
        // ends it.
        _ => wait::until(&current()?.signal_arrived, deadline, take).map_err(|ended| match ended {
            wait::Ended::Interrupted => Failure::Errno(Errno::EINTR),
            ended => Failure::from_wait(ended, Restart::Sys, Errno::EAGAIN),
        })?,
    };
    if info != 0 {
        CurrentUser.write(info, &taken.to_bytes())?;
    }
    Ok(i64::from(taken.signal().number()))
}

pub fn sigaltstack(new: u64, old: u64, sp: u64) -> SysResult {
    let new = match new {
        0 => None,
        addr => Some(UserStack::from_words(CurrentUser.read_obj(addr)?)),
    };
    let before = with_thread(|thread| {
        thread.with_signals(|signals| {
            let before = signals.altstack.report(sp);
            new.map_or(Ok(()), |new| signals.altstack.set(new, sp)).map(|()| before)
        })
    })??;
    if old != 0 {
        CurrentUser.write_obj(old, &before.to_words())?;
    }
    Ok(0)
}
