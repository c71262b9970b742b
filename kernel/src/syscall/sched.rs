//! Scheduling: affinity, policies, nice values.

use super::{SysResult, time};
use crate::process::{caller, table};
use crate::task::Task;
use crate::user::CurrentUser;
use crate::{cpu, sched};
use ::sched::Class;
use alloc::sync::Arc;
use alloc::vec::Vec;
use base::{Errno, Result, UserMem, UserMemExt, Room, room};
use core::sync::atomic::Ordering::Relaxed;

pub fn sched_yield() -> SysResult {
    sched::yield_now();
    Ok(0)
}

/// The thread of that ID; 0 is the caller.
fn thread(tid: u32) -> Result<Arc<Task>> {
    if tid == 0 { Ok(sched::current()) } else { table::thread(tid) }
}

/// The CPUs that are there.
fn possible() -> u64 {
    cpu::online().fold(0, |set, cpu| set | 1 << (cpu.index.load(Relaxed) % 64))
}

pub fn getaffinity(tid: u32, len: u64, out: u64) -> SysResult {
    // In longs, and enough for all CPUs.
    if !len.is_multiple_of(8) || len == 0 {
        return Err(Errno::EINVAL.into());
    }
    let set = thread(tid)?.entity.affinity() & possible();
    CurrentUser.write_obj(out, &set)?;
    Ok(8)
}

pub fn setaffinity(tid: u32, len: u64, set: u64) -> SysResult {
    let mut bytes = [0; 8];
    let len = len.min(8) as usize;
    CurrentUser.read(set, bytes.get_mut(..len).ok_or(Errno::EINVAL)?)?;
    let set = u64::from_le_bytes(bytes) & possible();
    if set == 0 {
        return Err(Errno::EINVAL.into());
    }
    sched::set_affinity(&thread(tid)?, set);
    Ok(0)
}

const RESET_ON_FORK: u32 = 0x4000_0000;

pub fn getscheduler(tid: u32) -> SysResult {
    Ok(thread(tid)?.entity.class() as i64)
}

/// `None` keeps the class.
fn set_class(task: &Arc<Task>, class: Option<u32>, priority: i32) -> Result<()> {
    let class = match class {
        Some(number) => Class::new(number).ok_or(Errno::EINVAL)?,
        None => task.entity.class(),
    };
    let allowed = if class.is_real_time() { 1..=99 } else { 0..=0 };
    let priority = u8::try_from(priority).ok().filter(|priority| allowed.contains(priority));
    let priority = priority.ok_or(Errno::EINVAL)?;
    sched::change(task, |entity| entity.set_class(class, priority));
    Ok(())
}

pub fn setscheduler(tid: u32, policy: i32, param: u64) -> SysResult {
    let priority = CurrentUser.read_obj(param)?;
    set_class(&thread(tid)?, Some(policy as u32 & !RESET_ON_FORK), priority)?;
    Ok(0)
}

pub fn getparam(tid: u32, param: u64) -> SysResult {
    let priority = i32::from(thread(tid)?.entity.priority());
    CurrentUser.write_obj(param, &priority)?;
    Ok(0)
}

pub fn setparam(tid: u32, param: u64) -> SysResult {
    let priority = CurrentUser.read_obj(param)?;
    set_class(&thread(tid)?, None, priority)?;
    Ok(0)
}

/// The lowest or highest priority of a policy: only real-time ones have any.
pub fn priority_limit(policy: u32, limit: i64) -> SysResult {
    let class = Class::new(policy).ok_or(Errno::EINVAL)?;
    Ok(if class.is_real_time() { limit } else { 0 })
}

pub fn rr_get_interval(tid: u32, out: u64) -> SysResult {
    let interval = thread(tid)?.entity.class().slice().unwrap_or(0);
    CurrentUser.write_obj(out, &time::timespec(interval))?;
    Ok(0)
}

/// Whom getpriority() and setpriority() mean: a thread, a process group, or
/// everybody of a user, which is everybody.
fn whom(which: u32, who: u32) -> Result<Vec<Arc<Task>>> {
    let group = if who == 0 { caller().pgid } else { who };
    let processes = match which {
        0 => return room::try_collect([thread(who)?]),
        1 => table::group_members(group)?,
        2 => table::all()?,
        _ => return Err(Errno::EINVAL),
    };
    let mut tasks: Vec<Arc<Task>> = Vec::new();
    for process in processes {
        let threads = process.try_threads()?;
        tasks.make_room(threads.len())?;
        tasks.extend(threads);
    }
    if tasks.is_empty() { Err(Errno::ESRCH) } else { Ok(tasks) }
}

pub fn getpriority(which: u32, who: u32) -> SysResult {
    let nice = whom(which, who)?.iter().map(|task| task.entity.nice()).min();
    // Never negative: 40 for -20 to 1 for 19.
    Ok(20i64.saturating_sub(i64::from(nice.unwrap_or(0))))
}

pub fn setpriority(which: u32, who: u32, nice: i32) -> SysResult {
    let nice = nice.clamp(-20, 19) as i8;
    for task in whom(which, who)? {
        sched::change(&task, |entity| entity.set_nice(nice));
    }
    Ok(0)
}

pub fn getcpu(cpu: u64, node: u64) -> SysResult {
    if cpu != 0 {
        CurrentUser.write_obj(cpu, &(cpu::index() as u32))?;
    }
    if node != 0 {
        CurrentUser.write_obj(node, &0u32)?;
    }
    Ok(0)
}
