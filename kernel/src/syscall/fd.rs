//! System calls on descriptors, and those that make them from nothing.

use super::path::install;
use super::{Args, Failure, SysResult, fd_of};
use crate::user::CurrentUser;
use crate::{process, wait};
use alloc::sync::Arc;
use base::{Errno, Result, UserMemExt};
use linux_raw_sys::{general, ioctl};
use syscalls::nr;
use signal::Restart;
use vfs::abi::Flock;
use vfs::abi::OpenFlags;
use vfs::eventfd::EventFd;
use vfs::locks::{self, Owner, Range};
use vfs::pipe::Pipe;
use vfs::timerfd::{ItimerSpec, TimerFd};
use vfs::tmpfs::MemFd;
use vfs::OpenFile;

/// This group's calls.
pub fn dispatch(number: u64, a: Args) -> Option<SysResult> {
    let [x0, x1, x2, x3, ..] = a;
    Some(match number {
        nr::CLOSE => close(x0),
        nr::CLOSE_RANGE => close_range(x0, x1, x2 as u32),
        nr::DUP => dup(x0),
        nr::DUP3 => dup3(x0, x1, x2 as u32),
        nr::FCNTL => fcntl(x0, x1 as u32, x2),
        nr::FLOCK => flock(x0, x1 as u32),
        nr::FTRUNCATE => on(x0, |file| {
            super::io::check_size(|| Ok(file.stat()?.size), x1 as i64)?;
            file.truncate(x1 as i64)
        }),
        nr::FALLOCATE => on(x0, |file| {
            // As Linux: what keeps the size is held to the limit too.
            if x1 as u32 & general::FALLOC_FL_PUNCH_HOLE == 0 {
                let end = (x2 as i64).saturating_add(x3 as i64);
                super::io::check_size(|| Ok(file.stat()?.size), end)?;
            }
            file.fallocate(x1 as u32, x2 as i64, x3 as i64)
        }),
        nr::FSYNC | nr::FDATASYNC => on(x0, |file| file.file().sync()),
        nr::FADVISE64 => on(x0, |_| Ok(())),
        // Nothing is behind memory: it is all as safe as it gets.
        nr::SYNC => Ok(0),
        nr::SYNCFS => on(x0, |_| Ok(())),
        nr::PIPE2 => pipe2(x0, x1 as u32),
        nr::EVENTFD2 => made(EventFd::open(x0 as u32, x1 as u32), x1 as u32),
        nr::MEMFD_CREATE => memfd_create(x0, x1 as u32),
        nr::TIMERFD_CREATE => {
            made(TimerFd::open(x0 as u32, x1 as u32, crate::fs::timers()), x1 as u32)
        }
        nr::TIMERFD_SETTIME => timerfd_settime(x0, x1 as u32, x2, x3),
        nr::TIMERFD_GETTIME => timerfd_gettime(x0, x1),
        _ => return None,
    })
}

/// The open file behind a descriptor of the current process.
pub fn get(fd: u64) -> Result<Arc<OpenFile>> {
    process::current()?.files()?.get(fd_of(fd))
}

fn on(fd: u64, op: impl FnOnce(&OpenFile) -> Result<()>) -> SysResult {
    op(&*get(fd)?)?;
    Ok(0)
}

/// A descriptor for what was just made; O_CLOEXEC as in its flags.
fn made(file: Result<Arc<OpenFile>>, flags: u32) -> SysResult {
    install(file?, flags & general::O_CLOEXEC != 0)
}

fn close(fd: u64) -> SysResult {
    process::current()?.files()?.close(fd_of(fd))?;
    Ok(0)
}

fn close_range(first: u64, last: u64, flags: u32) -> SysResult {
    const UNSHARE: u32 = 1 << 1;
    const CLOEXEC: u32 = 1 << 2;
    let (first, last) = (first as u32, last as u32);
    if flags & !(UNSHARE | CLOEXEC) != 0 || first > last {
        return Err(Errno::EINVAL.into());
    }
    let process = process::current()?;
    if flags & UNSHARE != 0 {
        process.unshare_files()?;
    }
    if flags & CLOEXEC != 0 {
        process.files()?.set_cloexec_range(first, last);
    } else {
        process.files()?.close_range(first, last);
    }
    Ok(0)
}

fn dup(fd: u64) -> SysResult {
    install(get(fd)?, false)
}

fn dup3(old: u64, new: u64, flags: u32) -> SysResult {
    if flags & !general::O_CLOEXEC != 0 || fd_of(old) == fd_of(new) {
        return Err(Errno::EINVAL.into());
    }
    let process = process::current()?;
    let files = process.files()?;
    let file = files.get(fd_of(old))?;
    let limit = process.limit(general::RLIMIT_NOFILE as usize);
    files.install_at(fd_of(new), file, flags & general::O_CLOEXEC != 0, limit)?;
    Ok(i64::from(fd_of(new)))
}

fn fcntl(fd: u64, command: u32, arg: u64) -> SysResult {
    let process = process::current()?;
    let files = process.files()?;
    let file = files.get(fd_of(fd))?;
    Ok(match command {
        general::F_DUPFD | general::F_DUPFD_CLOEXEC => {
            let limit = process.limit(general::RLIMIT_NOFILE as usize);
            if arg >= limit {
                return Err(Errno::EINVAL.into());
            }
            let cloexec = command == general::F_DUPFD_CLOEXEC;
            i64::from(files.install_from(file, cloexec, arg as u32, limit)?)
        }
        general::F_GETFD => i64::from(files.cloexec(fd_of(fd))?),
        general::F_SETFD => {
            files.set_cloexec(fd_of(fd), arg & u64::from(general::FD_CLOEXEC) != 0)?;
            0
        }
        // 64-bit programs always have large files.
        general::F_GETFL => i64::from(file.flags().bits()),
        general::F_SETFL => {
            file.set_flags(OpenFlags::from_bits_retain(arg as u32));
            0
        }
        general::F_GETLK | general::F_OFD_GETLK => lock_get(&file, command, arg)?,
        general::F_SETLK | general::F_SETLKW | general::F_OFD_SETLK | general::F_OFD_SETLKW => {
            return lock_set(fd_of(fd), &file, command, arg);
        }
        general::F_GETPIPE_SZ | general::F_SETPIPE_SZ => {
            let end = file.downcast::<vfs::pipe::PipeEnd>().ok_or(Errno::EBADF)?;
            if command == general::F_GETPIPE_SZ {
                end.pipe().size() as i64
            } else {
                end.pipe().set_size(arg as usize)? as i64
            }
        }
        general::F_ADD_SEALS => {
            let memfd = file.downcast::<MemFd>().ok_or(Errno::EINVAL)?;
            if !file.flags().writable() {
                return Err(Errno::EPERM.into());
            }
            memfd.add_seals(arg as u32)?;
            0
        }
        general::F_GET_SEALS => i64::from(file.downcast::<MemFd>().ok_or(Errno::EINVAL)?.seals()),
        general::F_SETOWN | general::F_SETSIG => 0,
        general::F_GETOWN | general::F_GETSIG => 0,
        _ => return Err(Errno::EINVAL.into()),
    })
}

/// The lock that is asked for: the process's, or (OFD) the open file's.
fn wanted_lock(file: &OpenFile, command: u32, flock: &Flock) -> Result<Range> {
    let (start, end) = locks::range(file, flock.l_whence, flock.l_start, flock.l_len)?;
    let exclusive = flock.l_type == general::F_WRLCK as i16;
    let process = process::current()?;
    let owner = match command {
        general::F_OFD_GETLK | general::F_OFD_SETLK | general::F_OFD_SETLKW => Owner::Description(file.id()),
        _ => Owner::Process(process.files()?.id()),
    };
    Ok(Range { owner, pid: process.pid, exclusive, start, end })
}

fn lock_get(file: &OpenFile, command: u32, at: u64) -> Result<i64> {
    let mut flock: Flock = CurrentUser.read_obj(at)?;
    let want = wanted_lock(file, command, &flock)?;
    match locks::conflict(locks::key(file)?, &want) {
        None => flock.l_type = general::F_UNLCK as i16,
        Some(other) => {
            flock.l_type = if other.exclusive { general::F_WRLCK } else { general::F_RDLCK } as i16;
            flock.l_whence = 0;
            flock.l_start = other.start as i64;
            let to_the_end = other.end >= i64::MAX as u64;
            flock.l_len = if to_the_end { 0 } else { other.end.saturating_sub(other.start) as i64 };
            flock.l_pid = match other.owner {
                Owner::Process(_) => other.pid as i32,
                Owner::Description(_) | Owner::Flock(_) => -1,
            };
        }
    }
    CurrentUser.write_obj(at, &flock)?;
    Ok(0)
}

fn lock_set(fd: i32, file: &Arc<OpenFile>, command: u32, at: u64) -> SysResult {
    let flock: Flock = CurrentUser.read_obj(at)?;
    let want = wanted_lock(file, command, &flock)?;
    let key = locks::key(file)?;
    let flags = file.flags();
    match flock.l_type as u32 {
        general::F_UNLCK => {
            locks::unset(key, want.owner, want.start, want.end)?;
            return Ok(0);
        }
        // Who can't read can't keep others from writing, and so on.
        general::F_RDLCK if !flags.readable() => return Err(Errno::EBADF.into()),
        general::F_WRLCK if !flags.writable() => return Err(Errno::EBADF.into()),
        general::F_RDLCK | general::F_WRLCK => {}
        _ => return Err(Errno::EINVAL.into()),
    }
    let waits = matches!(command, general::F_SETLKW | general::F_OFD_SETLKW);
    wait_for_lock(waits, || locks::set(key, want))?;
    if let Owner::Process(table) = want.owner {
        // Closed meanwhile, which lets go of what there was then: nobody would let
        // go of this.
        let files = process::current()?.files()?;
        let open = files.get(fd).is_ok_and(|now| Arc::ptr_eq(&now, file));
        if files.id() != table || !open {
            locks::unset(key, want.owner, want.start, want.end)?;
            return Err(Errno::EBADF.into());
        }
    }
    Ok(0)
}

fn wait_for_lock(waits: bool, mut attempt: impl FnMut() -> Result<()>) -> SysResult {
    if waits {
        wait::until(locks::queue(), None, attempt)
            .map_err(|ended| Failure::from_wait(ended, Restart::Sys, Errno::EAGAIN))?;
    } else {
        attempt()?;
    }
    Ok(0)
}

fn flock(fd: u64, operation: u32) -> SysResult {
    let file = get(fd)?;
    wait_for_lock(operation & locks::LOCK_NB == 0, || locks::flock(&file, operation))
}

/// ioctl().
pub fn file_ioctl(fd: u64, command: u32, arg: u64) -> SysResult {
    let file = get(fd)?;
    file.not_path()?;
    match command {
        ioctl::FIOCLEX | ioctl::FIONCLEX => {
            process::current()?.files()?.set_cloexec(fd_of(fd), command == ioctl::FIOCLEX)?;
            Ok(0)
        }
        ioctl::FIONBIO => {
            file.set_nonblocking(CurrentUser.read_obj::<i32>(arg)? != 0);
            Ok(0)
        }
        _ => match crate::kvm::ioctl(&file, command, arg) {
            Some(result) => result,
            None => {
                let caller = process::caller();
                super::io::blocking(&file, true, || {
                    file.file().ioctl(&caller, command, arg, &CurrentUser)
                })
            }
        },
    }
}

fn pipe2(to: u64, flags: u32) -> SysResult {
    let known = general::O_CLOEXEC | general::O_NONBLOCK | general::O_DIRECT;
    if flags & !known != 0 {
        return Err(Errno::EINVAL.into());
    }
    let cloexec = flags & general::O_CLOEXEC != 0;
    let (reader, writer) = Pipe::pair(OpenFlags::from_bits_retain(flags & !general::O_CLOEXEC))?;
    let process = process::current()?;
    let files = process.files()?;
    let limit = process.limit(general::RLIMIT_NOFILE as usize);
    let first = files.install(reader, cloexec, limit)?;
    let second = files.install(writer, cloexec, limit);
    let result = second.and_then(|second| {
        CurrentUser.write_obj(to, &[first, second]).inspect_err(|_| {
            let _ = files.close(second);
        })
    });
    if let Err(errno) = result {
        let _ = files.close(first);
        return Err(errno.into());
    }
    Ok(0)
}

fn memfd_create(name: u64, flags: u32) -> SysResult {
    const CLOEXEC: u32 = 1;
    const ALLOW_SEALING: u32 = 2;
    const NOEXEC_SEAL: u32 = 8;
    const EXEC: u32 = 16;
    // MFD_HUGETLB: there is no pool of huge pages, as on a Linux without one.
    if flags & !(CLOEXEC | ALLOW_SEALING | NOEXEC_SEAL | EXEC) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let name = CurrentUser.read_cstr(name, 250).map_err(|errno| match errno {
        Errno::ENAMETOOLONG => Errno::EINVAL,
        errno => errno,
    })?;
    let clock = process::namespace()?.clock().clone();
    let pages = frame::stats().total / base::PAGE_SIZE;
    let file = MemFd::new(&name, flags & ALLOW_SEALING != 0, pages, clock)?;
    install(OpenFile::anonymous(file, OpenFlags::RDWR)?, flags & CLOEXEC != 0)
}

fn timerfd_settime(fd: u64, flags: u32, new: u64, old: u64) -> SysResult {
    let file = get(fd)?;
    let timer = file.downcast::<TimerFd>().ok_or(Errno::EINVAL)?;
    let before = timer.set(flags, &CurrentUser.read_obj::<ItimerSpec>(new)?)?;
    if old != 0 {
        CurrentUser.write_obj(old, &before)?;
    }
    Ok(0)
}

fn timerfd_gettime(fd: u64, to: u64) -> SysResult {
    let file = get(fd)?;
    let timer = file.downcast::<TimerFd>().ok_or(Errno::EINVAL)?;
    CurrentUser.write_obj(to, &timer.get())?;
    Ok(0)
}
