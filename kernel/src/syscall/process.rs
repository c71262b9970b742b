//! clone, execve, wait and what belongs to them.

use super::{Args, Failure, SysResult, time};
use crate::process::clone::{Request, flag};
use crate::process::credentials::resource;
use crate::process::exec;
use crate::process::wait::{Found, Options, Which, wait};
use crate::process::{caller, current, namespace, table, with_thread};
use crate::user::CurrentUser;
use alloc::sync::Arc;
use arch::trap::TrapFrame;
use base::{Errno, Result, UserMem, UserMemExt};
use core::sync::atomic::Ordering::Relaxed;
use signal::{SigInfo, Signal};
use vfs::OpenFile;
use vfs::abi::{AT_EMPTY_PATH, AT_FDCWD};

pub fn clone(frame: &TrapFrame, [flags, stack, parent_tid, tls, child_tid, _]: Args) -> SysResult {
    let request = Request {
        flags: flags & 0xffff_ff00,
        exit_signal: flags & 0xff,
        stack,
        tls,
        parent_tid,
        child_tid,
    };
    crate::process::clone::clone(frame, &request)
}

/// struct clone_args: its size when it was introduced.
const CLONE_ARGS_SIZE: usize = 64;

pub fn clone3(frame: &TrapFrame, args: u64, size: u64) -> SysResult {
    if size < CLONE_ARGS_SIZE as u64 {
        return Err(Errno::EINVAL.into());
    }
    if size > 4096 {
        return Err(Errno::E2BIG.into());
    }
    // What later versions appended must be zero: set_tid, cgroup.
    let rest: alloc::vec::Vec<u8> = CurrentUser
        .read_vec(args.wrapping_add(CLONE_ARGS_SIZE as u64), (size as usize).saturating_sub(CLONE_ARGS_SIZE))?;
    if rest.iter().any(|&byte| byte != 0) {
        return Err(Errno::E2BIG.into());
    }
    let [flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls]: [u64; 8] =
        CurrentUser.read_obj(args)?;
    if (stack == 0) != (stack_size == 0) || flags & (flag::PIDFD | 0xff) != 0 || pidfd != 0 {
        return Err(Errno::EINVAL.into());
    }
    let stack = stack.checked_add(stack_size).ok_or(Errno::EINVAL)?;
    let request = Request { flags, exit_signal, stack, tls, parent_tid, child_tid };
    crate::process::clone::clone(frame, &request)
}

const PATH_MAX: usize = 4096;

pub fn execve(frame: &mut TrapFrame, path: u64, argv: u64, envp: u64) -> SysResult {
    execveat(frame, AT_FDCWD, path, argv, envp, 0)
}

pub fn execveat(
    frame: &mut TrapFrame,
    dir: i32,
    path: u64,
    argv: u64,
    envp: u64,
    flags: u32,
) -> SysResult {
    let path = CurrentUser.read_cstr(path, PATH_MAX)?;
    let process = current()?;
    let limit = process.limit(resource::STACK);
    let args = elf::Args::from_user(&CurrentUser, argv, envp, limit)?;
    // The first file is found from `dir`, interpreters from their own paths.
    let first = match path.first() {
        Some(b'/') if flags == 0 => None,
        _ => Some(open_at(dir, &path, flags)?),
    };
    let shown = match dir {
        AT_FDCWD => path,
        _ if path.first() == Some(&b'/') => path,
        dir if path.is_empty() => alloc::format!("/dev/fd/{dir}").into_bytes(),
        dir => [alloc::format!("/dev/fd/{dir}/").as_bytes(), &path].concat(),
    };
    exec::exec(frame, &shown, first, &exec::open_program, args)?;
    Ok(0)
}

fn open_at(dir: i32, path: &[u8], flags: u32) -> Result<Arc<OpenFile>> {
    if path.is_empty() && flags & AT_EMPTY_PATH == 0 {
        return Err(Errno::ENOENT);
    }
    let caller = caller();
    let process = current()?;
    let fs = process.fs()?.lock().clone();
    let files = fs.files(namespace()?, &caller);
    if dir == AT_FDCWD || path.first() == Some(&b'/') {
        return files.open_exec(path, flags);
    }
    let file = process.files()?.get(dir)?;
    if path.is_empty() && file.place().is_none() {
        return Ok(file); // memfd
    }
    let base = file.place().ok_or(Errno::ENOTDIR)?;
    files.at(base).open_exec(path, flags)
}

mod option {
    pub const NOHANG: u32 = 1;
    pub const STOPPED: u32 = 2;
    pub const EXITED: u32 = 4;
    pub const CONTINUED: u32 = 8;
    pub const NOWAIT: u32 = 0x0100_0000;
    pub const NOTHREAD: u32 = 0x2000_0000;
    pub const ALL: u32 = 0x4000_0000;
    pub const CLONE: u32 = 0x8000_0000;
}

fn wait_options(bits: u32, exited: bool) -> Options {
    let all = bits & option::ALL != 0;
    let clones = bits & option::CLONE != 0;
    Options {
        no_hang: bits & option::NOHANG != 0,
        exited,
        stopped: bits & option::STOPPED != 0,
        continued: bits & option::CONTINUED != 0,
        leave: bits & option::NOWAIT != 0,
        clones: all || clones,
        children: all || !clones,
    }
}

pub fn wait4(pid: i32, status: u64, options: u32, usage: u64) -> SysResult {
    let known = option::NOHANG
        | option::STOPPED
        | option::CONTINUED
        | option::NOTHREAD
        | option::ALL
        | option::CLONE;
    if options & !known != 0 {
        return Err(Errno::EINVAL.into());
    }
    let me = caller();
    let which = match pid {
        i32::MIN => return Err(Errno::ESRCH.into()),
        -1 => Which::Any,
        0 => Which::Group(me.pgid),
        pid if pid < 0 => Which::Group(pid.unsigned_abs()),
        pid => Which::Process(pid.unsigned_abs()),
    };
    let Some(found) = wait(me.pid, which, wait_options(options, true))? else { return Ok(0) };
    if status != 0 {
        CurrentUser.write_obj(status, &found.status)?;
    }
    write_usage(usage, &found)?;
    Ok(i64::from(found.pid))
}

fn write_usage(at: u64, found: &Found) -> Result<()> {
    if at == 0 { Ok(()) } else { CurrentUser.write_obj(at, &time::usage(found.time, found.pages)) }
}

pub fn waitid(kind: u32, id: u32, info: u64, options: u32, usage: u64) -> SysResult {
    let known = option::NOHANG
        | option::STOPPED
        | option::EXITED
        | option::CONTINUED
        | option::NOWAIT
        | option::NOTHREAD
        | option::ALL
        | option::CLONE;
    let asked = option::STOPPED | option::EXITED | option::CONTINUED;
    if options & !known != 0 || options & asked == 0 {
        return Err(Errno::EINVAL.into());
    }
    let me = caller();
    let which = match (kind, id) {
        (0, _) => Which::Any,
        (1, 1..) => Which::Process(id),
        (2, 0) => Which::Group(me.pgid),
        (2, _) => Which::Group(id),
        _ => return Err(Errno::EINVAL.into()),
    };
    let exited = options & option::EXITED != 0;
    let found = wait(me.pid, which, wait_options(options, exited))?;
    if info != 0 {
        let bytes = match &found {
            Some(found) => {
                let (code, status) = found.code;
                SigInfo::child(Signal::SIGCHLD, code, (found.pid, 0), status, (0, 0)).to_bytes()
            }
            None => [0; SigInfo::SIZE],
        };
        CurrentUser.write(info, &bytes)?;
    }
    if let Some(found) = &found {
        write_usage(usage, found)?;
    }
    Ok(0)
}

pub fn set_tid_address(addr: u64) -> SysResult {
    Ok(with_thread(|thread| {
        thread.clear_child_tid.store(addr, Relaxed);
        i64::from(thread.tid())
    })?)
}

pub fn personality(value: u32) -> SysResult {
    Ok(i64::from(current()?.personality(value)))
}

/// PR_* operations (linux/prctl.h).
mod pr {
    pub const SET_PDEATHSIG: u32 = 1;
    pub const GET_PDEATHSIG: u32 = 2;
    pub const GET_DUMPABLE: u32 = 3;
    pub const SET_DUMPABLE: u32 = 4;
    pub const SET_NAME: u32 = 15;
    pub const GET_NAME: u32 = 16;
    pub const CAPBSET_READ: u32 = 23;
    pub const CAPBSET_DROP: u32 = 24;
    pub const SET_TIMERSLACK: u32 = 29;
    pub const GET_TIMERSLACK: u32 = 30;
    pub const SET_NO_NEW_PRIVS: u32 = 38;
    pub const GET_NO_NEW_PRIVS: u32 = 39;
    pub const GET_TID_ADDRESS: u32 = 40;
    pub const GET_SPECULATION_CTRL: u32 = 52;
    pub const SET_SPECULATION_CTRL: u32 = 53;
}

/// PR_SPEC_STORE_BYPASS, for threads: as on Linux with `ssbd=force-on`. EL0
/// starts with PSTATE.SSBS clear, and may set it by itself where it exists.
mod store_bypass {
    use base::Errno;
    use cpuid::spectre::State;

    const PR_SPEC_STORE_BYPASS: u64 = 0;
    const PR_SPEC_NOT_AFFECTED: i64 = 0;
    const PR_SPEC_ENABLE: u64 = 1 << 1;
    const PR_SPEC_DISABLE: u64 = 1 << 2;
    const PR_SPEC_FORCE_DISABLE: u64 = 1 << 3;
    const PR_SPEC_DISABLE_NOEXEC: u64 = 1 << 4;

    pub fn get(which: u64) -> super::SysResult {
        if which != PR_SPEC_STORE_BYPASS {
            return Err(Errno::ENODEV.into());
        }
        Ok(match crate::speculation::states().spectre_v4 {
            State::NotAffected => PR_SPEC_NOT_AFFECTED,
            State::Mitigated => PR_SPEC_DISABLE as i64,
            State::Vulnerable => PR_SPEC_ENABLE as i64,
        })
    }

    pub fn set(which: u64, how: u64) -> super::SysResult {
        if which != PR_SPEC_STORE_BYPASS {
            return Err(Errno::ENODEV.into());
        }
        let mitigated = crate::speculation::states().spectre_v4 == State::Mitigated;
        match how {
            PR_SPEC_ENABLE if mitigated => Err(Errno::EPERM.into()),
            PR_SPEC_DISABLE | PR_SPEC_FORCE_DISABLE | PR_SPEC_DISABLE_NOEXEC if mitigated => Ok(0),
            PR_SPEC_ENABLE | PR_SPEC_DISABLE | PR_SPEC_FORCE_DISABLE | PR_SPEC_DISABLE_NOEXEC => {
                Err(Errno::ENXIO.into())
            }
            _ => Err(Errno::ERANGE.into()),
        }
    }
}

/// The last capability: CAP_CHECKPOINT_RESTORE.
const CAP_LAST: u64 = 40;

pub fn prctl(operation: u32, a1: u64, a2: u64) -> SysResult {
    match operation {
        pr::SET_NAME => {
            // 16 bytes are read at most; a name that is cut is no error.
            let mut name = [0; 16];
            for (at, byte) in (0u64..).zip(name.iter_mut().take(15)) {
                let next: u8 = CurrentUser.read_obj(a1.wrapping_add(at))?;
                if next == 0 {
                    break;
                }
                *byte = next;
            }
            with_thread(|thread| thread.set_comm(&name))?;
            Ok(0)
        }
        pr::GET_NAME => {
            let name = with_thread(|thread| thread.comm())?;
            CurrentUser.write(a1, &name)?;
            Ok(0)
        }
        pr::GET_SPECULATION_CTRL => store_bypass::get(a1),
        pr::SET_SPECULATION_CTRL => store_bypass::set(a1, a2),
        pr::SET_PDEATHSIG if a1 <= 64 => {
            current()?.parent_death_signal.store(a1 as u32, Relaxed);
            Ok(0)
        }
        pr::GET_PDEATHSIG => {
            let signal = current()?.parent_death_signal.load(Relaxed);
            CurrentUser.write_obj(a1, &signal)?;
            Ok(0)
        }
        pr::GET_DUMPABLE => Ok(1),
        pr::SET_DUMPABLE if a1 <= 1 => Ok(0),
        pr::CAPBSET_READ | pr::CAPBSET_DROP if a1 <= CAP_LAST => {
            Ok(i64::from(operation == pr::CAPBSET_READ))
        }
        pr::SET_TIMERSLACK => Ok(0),
        pr::GET_TIMERSLACK => Ok(50_000),
        // Nobody has privileges to gain: execve() knows no set-user-ID.
        pr::SET_NO_NEW_PRIVS if a1 == 1 && a2 == 0 => {
            with_thread(|thread| thread.no_new_privs.store(true, Relaxed))?;
            Ok(0)
        }
        pr::GET_NO_NEW_PRIVS if a1 == 0 && a2 == 0 => {
            Ok(i64::from(with_thread(|thread| thread.no_new_privs.load(Relaxed))?))
        }
        pr::GET_TID_ADDRESS => {
            let addr = with_thread(|thread| thread.clear_child_tid.load(Relaxed))?;
            CurrentUser.write_obj(a1, &addr)?;
            Ok(0)
        }
        _ => Err(Failure::Errno(Errno::EINVAL)),
    }
}

/// The parent of the current process, as it is known to itself.
pub fn parent() -> Result<u32> {
    table::parent(current()?.pid)
}
