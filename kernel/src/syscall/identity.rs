//! Who a process is: IDs, groups, sessions, limits.

use super::SysResult;
use crate::process::credentials::{Ids, resource};
use crate::process::{caller, current, table, with_thread};
use crate::user::CurrentUser;
use base::{Errno, Result, UserMemExt, room};
use syscalls::nr;

pub fn getpid() -> SysResult {
    Ok(with_thread(|thread| i64::from(thread.process.pid))?)
}

pub fn gettid() -> SysResult {
    Ok(with_thread(|thread| i64::from(thread.tid()))?)
}

pub fn getppid() -> SysResult {
    Ok(i64::from(super::process::parent()?))
}

/// Works on the user or group IDs, whichever the call is about.
fn with_ids<R>(number: u64, f: impl FnOnce(&mut Ids) -> R) -> Result<R> {
    let of_group = matches!(
        number,
        nr::GETGID | nr::GETEGID | nr::SETGID | nr::SETREGID | nr::SETRESGID | nr::GETRESGID
    );
    Ok(current()?.with_identity(|_, credentials| {
        f(if of_group { &mut credentials.group } else { &mut credentials.user })
    }))
}

pub fn get_id(number: u64) -> SysResult {
    let effective = matches!(number, nr::GETEUID | nr::GETEGID);
    let id = with_ids(number, |ids| if effective { ids.effective } else { ids.real })?;
    Ok(i64::from(id))
}

pub fn set_id(number: u64, id: u32) -> SysResult {
    if id == u32::MAX {
        return Err(Errno::EINVAL.into());
    }
    with_ids(number, |ids| ids.set(id, id, id))?;
    Ok(0)
}

pub fn set_two_ids(number: u64, real: u32, effective: u32) -> SysResult {
    with_ids(number, |ids| ids.set_real_effective(real, effective))?;
    Ok(0)
}

pub fn set_three_ids(number: u64, real: u32, effective: u32, saved: u32) -> SysResult {
    with_ids(number, |ids| ids.set(real, effective, saved))?;
    Ok(0)
}

pub fn get_three_ids(number: u64, real: u64, effective: u64, saved: u64) -> SysResult {
    let ids = with_ids(number, |ids| *ids)?;
    CurrentUser.write_obj(real, &ids.real)?;
    CurrentUser.write_obj(effective, &ids.effective)?;
    CurrentUser.write_obj(saved, &ids.saved)?;
    Ok(0)
}

/// NGROUPS_MAX
const GROUPS_MAX: usize = 65536;

pub fn getgroups(size: i32, list: u64) -> SysResult {
    let groups = current()?.with_identity(|_, credentials| credentials.groups.clone());
    let size = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
    if size != 0 {
        if size < groups.len() {
            return Err(Errno::EINVAL.into());
        }
        for (at, group) in (0u64..).step_by(4).zip(groups.iter()) {
            CurrentUser.write_obj(list.wrapping_add(at), group)?;
        }
    }
    Ok(groups.len() as i64)
}

pub fn setgroups(size: i32, list: u64) -> SysResult {
    let size = usize::try_from(size).ok().filter(|&size| size <= GROUPS_MAX);
    let groups = CurrentUser.read_vec(list, size.ok_or(Errno::EINVAL)?)?;
    let groups = room::try_arc(groups)?;
    let old = current()?.with_identity(|_, credentials| core::mem::replace(&mut credentials.groups, groups));
    // Not under the lock.
    drop(old);
    Ok(0)
}

/// 0 stands for the caller.
fn or_caller(pid: u32) -> u32 {
    if pid == 0 { caller().pid } else { pid }
}

pub fn getpgid(pid: u32) -> SysResult {
    Ok(i64::from(table::group_and_session(or_caller(pid))?.0))
}

pub fn getsid(pid: u32) -> SysResult {
    Ok(i64::from(table::group_and_session(or_caller(pid))?.1))
}

pub fn setpgid(pid: i32, group: i32) -> SysResult {
    let pid = or_caller(u32::try_from(pid).map_err(|_| Errno::ESRCH)?);
    let group = u32::try_from(group).map_err(|_| Errno::EINVAL)?;
    let group = if group == 0 { pid } else { group };
    table::set_group(caller().pid, pid, group)?;
    Ok(0)
}

pub fn setsid() -> SysResult {
    Ok(i64::from(table::new_session(caller().pid)?))
}

pub fn umask(mask: u32) -> SysResult {
    let fs = current()?.fs()?;
    let old = core::mem::replace(&mut fs.lock().umask, mask & 0o777);
    Ok(i64::from(old))
}

/// _LINUX_CAPABILITY_VERSION_3
const CAPABILITY_VERSION: u32 = 0x2008_0522;

pub fn capget(header: u64, data: u64) -> SysResult {
    let version: u32 = CurrentUser.read_obj(header)?;
    if version != CAPABILITY_VERSION {
        CurrentUser.write_obj(header, &CAPABILITY_VERSION)?;
        return if data == 0 { Ok(0) } else { Err(Errno::EINVAL.into()) };
    }
    if data != 0 {
        // Effective and permitted: all 41. Inheritable: none.
        let (low, high) = (u32::MAX, 0x1ff);
        CurrentUser.write_obj(data, &[low, low, 0, high, high, 0u32])?;
    }
    Ok(0)
}

pub fn prlimit(pid: u32, resource: usize, new: u64, old: u64) -> SysResult {
    let process = match pid {
        0 => current()?,
        pid => table::process(pid)?,
    };
    if resource >= resource::COUNT {
        return Err(Errno::EINVAL.into());
    }
    let new: Option<[u64; 2]> = match new {
        0 => None,
        addr => Some(CurrentUser.read_obj(addr)?),
    };
    let (soft, hard) = process.with_identity(|limits, _| -> Result<_> {
        let before = limits.get(resource)?;
        if let Some([soft, hard]) = new {
            limits.set(resource, soft, hard)?;
        }
        Ok(before)
    })?;
    if old != 0 {
        CurrentUser.write_obj(old, &[soft, hard])?;
    }
    Ok(0)
}
