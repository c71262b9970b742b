//! System calls with a path in them, and those on what a path found.

use super::{Args, SysResult, fd_of};
use crate::process;
use crate::user::CurrentUser;
use alloc::sync::Arc;
use alloc::vec::Vec;
use base::{Errno, Result, UserMem, UserMemExt, Room};
use linux_raw_sys::general;
use syscalls::nr;
use vfs::abi::{
    AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, OpenFlags, PATH_MAX, Stat, StatFs, Timespec,
};
use vfs::{Caller, Files, FsContext, OpenFile, Place};

/// This group's calls.
pub fn dispatch(number: u64, a: Args) -> Option<SysResult> {
    let [x0, x1, x2, x3, x4, _] = a;
    Some(match number {
        nr::OPENAT => openat(x0, x1, x2 as u32, x3 as u32),
        nr::NEWFSTATAT => newfstatat(x0, x1, x2, x3 as u32),
        nr::FSTAT => fstat(x0, x1),
        nr::STATX => statx(x0, x1, x2 as u32, x4),
        nr::STATFS => path(x0).and_then(|p| at(None, |f| f.statfs(&p))).map_err(Into::into).and_then(|s| put_statfs(x1, &s)),
        nr::FSTATFS => fstatfs(x0, x1),
        nr::FACCESSAT => done(named(x0, x1, |f, p| f.access(p, x2 as u32, 0))),
        nr::FACCESSAT2 => done(named(x0, x1, |f, p| f.access(p, x2 as u32, x3 as u32))),
        nr::READLINKAT => readlinkat(x0, x1, x2, x3),
        nr::MKDIRAT => done(named(x0, x1, |f, p| f.mkdir(p, x2 as u32))),
        nr::MKNODAT => done(named(x0, x1, |f, p| f.mknod(p, x2 as u32, x3))),
        nr::UNLINKAT => done(named(x0, x1, |f, p| f.unlink(p, x2 as u32))),
        nr::SYMLINKAT => {
            done(path(x0).and_then(|target| named(x1, x2, |f, p| f.symlink(&target, p))))
        }
        nr::LINKAT => two(x0, x1, x2, x3, |f, old, base, new| f.link(old, base, new, x4 as u32)),
        nr::RENAMEAT => two(x0, x1, x2, x3, |f, old, base, new| f.rename(old, base, new, 0)),
        nr::RENAMEAT2 => {
            two(x0, x1, x2, x3, |f, old, base, new| f.rename(old, base, new, x4 as u32))
        }
        nr::FCHMODAT => done(named(x0, x1, |f, p| f.chmod(p, x2 as u32, 0))),
        nr::FCHMOD => done(on_fd(x0, |f| f.chmod(b"", x1 as u32, AT_EMPTY_PATH))),
        nr::FCHOWNAT => {
            done(named(x0, x1, |f, p| f.chown(p, x2 as u32, x3 as u32, x4 as u32)))
        }
        nr::FCHOWN => {
            done(on_fd(x0, |f| f.chown(b"", x1 as u32, x2 as u32, AT_EMPTY_PATH)))
        }
        nr::UTIMENSAT => utimensat(x0, x1, x2, x3 as u32),
        nr::TRUNCATE => done(path(x0).and_then(|p| {
            super::io::check_size(|| Ok(at(None, |f| f.stat(&p, 0))?.size), x1 as i64)?;
            at(None, |f| f.truncate(&p, x1 as i64))
        })),
        nr::CHDIR => done(path(x0).and_then(|p| chdir(at(None, |f| f.find_dir(&p))?))),
        nr::FCHDIR => done(fchdir(x0)),
        nr::CHROOT => done(chroot(x0)),
        nr::GETCWD => getcwd(x0, x1),
        nr::MOUNT => mount(a),
        nr::UMOUNT2 => done(path(x0).and_then(|p| at(None, |f| f.umount(&p, x1 as u32)))),
        nr::GETDENTS64 => getdents64(x0, x1, x2),
        _ => return None,
    })
}

fn done(result: Result<()>) -> SysResult {
    result?;
    Ok(0)
}

/// A path argument.
pub fn path(at: u64) -> Result<Vec<u8>> {
    CurrentUser.read_cstr(at, PATH_MAX)
}

fn context() -> Result<FsContext> {
    Ok(process::current()?.fs()?.lock().clone())
}

/// What a directory descriptor names; None for AT_FDCWD.
fn base(dirfd: u64) -> Result<Option<Place>> {
    if fd_of(dirfd) == AT_FDCWD {
        return Ok(None);
    }
    let file = process::current()?.files()?.get(fd_of(dirfd))?;
    file.place().cloned().map(Some).ok_or(Errno::ENOTDIR)
}

/// Runs a path operation relative to `base`, or to the working directory.
fn at<R>(base: Option<Place>, op: impl FnOnce(Files<'_>) -> Result<R>) -> Result<R> {
    let context = context()?;
    let caller = process::caller();
    let files = context.files(process::namespace()?, &caller);
    match &base {
        Some(place) => op(files.at(place)),
        None => op(files),
    }
}

/// An `*at` call's directory and path.
fn named<R>(dirfd: u64, name: u64, op: impl FnOnce(Files<'_>, &[u8]) -> Result<R>) -> Result<R> {
    let name = path(name)?;
    // Absolute paths don't look at the descriptor.
    let base = if name.first() == Some(&b'/') { None } else { base(dirfd)? };
    at(base, |files| op(files, &name))
}

/// An operation on an open file's own inode.
fn on_fd<R>(fd: u64, op: impl FnOnce(Files<'_>) -> Result<R>) -> Result<R> {
    let file = process::current()?.files()?.get(fd_of(fd))?;
    match file.place().cloned() {
        Some(place) => at(Some(place), op),
        None => Err(Errno::EINVAL),
    }
}

fn two(
    old_dir: u64,
    old: u64,
    new_dir: u64,
    new: u64,
    op: impl FnOnce(Files<'_>, &[u8], &Place, &[u8]) -> Result<()>,
) -> SysResult {
    let new = path(new)?;
    let new_base = match base(new_dir) {
        Ok(Some(place)) => place,
        Ok(None) => context()?.cwd,
        Err(_) if new.first() == Some(&b'/') => context()?.cwd,
        Err(errno) => return Err(errno.into()),
    };
    done(named(old_dir, old, |files, old| op(files, old, &new_base, &new)))
}

fn openat(dirfd: u64, name: u64, flags: u32, mode: u32) -> SysResult {
    let flags = OpenFlags::from_bits_retain(flags);
    let file = named(dirfd, name, |files, path| files.open(path, flags, mode))?;
    // A FIFO's other end may have to come first.
    let nonblocking = flags.contains(OpenFlags::NONBLOCK);
    super::io::blocking(&file, nonblocking, || file.file().open_ready())?;
    install(file, flags.contains(OpenFlags::CLOEXEC))
}

/// Gives the process a descriptor for `file`.
pub fn install(file: Arc<OpenFile>, cloexec: bool) -> SysResult {
    let process = process::current()?;
    let limit = process.limit(general::RLIMIT_NOFILE as usize);
    Ok(i64::from(process.files()?.install(file, cloexec, limit)?))
}

fn put_stat(to: u64, stat: &Stat) -> SysResult {
    CurrentUser.write_obj(to, &stat.to_abi())?;
    Ok(0)
}

fn newfstatat(dirfd: u64, name: u64, to: u64, flags: u32) -> SysResult {
    let known = AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | vfs::abi::AT_NO_AUTOMOUNT;
    if flags & !known != 0 {
        return Err(Errno::EINVAL.into());
    }
    let name = path(name)?;
    if name.is_empty() && flags & AT_EMPTY_PATH != 0 && fd_of(dirfd) != AT_FDCWD {
        return fstat(dirfd, to);
    }
    let base = if name.first() == Some(&b'/') { None } else { base(dirfd)? };
    put_stat(to, &at(base, |files| files.stat(&name, flags))?)
}

fn fstat(fd: u64, to: u64) -> SysResult {
    let file = process::current()?.files()?.get(fd_of(fd))?;
    put_stat(to, &file.stat()?)
}

fn statx(dirfd: u64, name: u64, flags: u32, to: u64) -> SysResult {
    // AT_STATX_SYNC_TYPE, 0x6000, makes no difference here.
    let known = AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | vfs::abi::AT_NO_AUTOMOUNT | 0x6000;
    if flags & !known != 0 || flags & 0x6000 == 0x6000 {
        return Err(Errno::EINVAL.into());
    }
    // Since Linux 6.11 a null path means an empty one.
    let name = if name == 0 && flags & AT_EMPTY_PATH != 0 { Vec::new() } else { path(name)? };
    let statx = if name.is_empty() && flags & AT_EMPTY_PATH != 0 && fd_of(dirfd) != AT_FDCWD {
        let file = process::current()?.files()?.get(fd_of(dirfd))?;
        let mount = file.place().map(|place| (place.mount.id(), place.is_mount_root()));
        file.stat()?.to_statx(mount)
    } else {
        let base = if name.first() == Some(&b'/') { None } else { base(dirfd)? };
        let (stat, mount) = at(base, |files| files.stat_with_mount(&name, flags & !0x6000))?;
        stat.to_statx(Some(mount))
    };
    CurrentUser.write_obj(to, &statx)?;
    Ok(0)
}

fn put_statfs(to: u64, statfs: &StatFs) -> SysResult {
    CurrentUser.write_obj(to, statfs)?;
    Ok(0)
}

fn fstatfs(fd: u64, to: u64) -> SysResult {
    put_statfs(to, &on_fd(fd, |files| files.statfs(b"."))?)
}

fn readlinkat(dirfd: u64, name: u64, to: u64, size: u64) -> SysResult {
    if size as i32 <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let name = path(name)?;
    let base = if name.first() == Some(&b'/') { None } else { base(dirfd)? };
    let target = at(base, |files| files.readlink(&name))?;
    let part = target.get(..target.len().min(size as usize)).unwrap_or_default();
    CurrentUser.write(to, part)?;
    Ok(part.len() as i64)
}

fn utimensat(dirfd: u64, name: u64, times: u64, flags: u32) -> SysResult {
    let times = match times {
        0 => None,
        at => Some(CurrentUser.read_obj::<[Timespec; 2]>(at)?),
    };
    if name == 0 {
        // futimens(): the descriptor itself.
        if fd_of(dirfd) == AT_FDCWD {
            return Err(Errno::EFAULT.into());
        }
        return done(on_fd(dirfd, |files| files.utimens(b"", times, AT_EMPTY_PATH)));
    }
    done(named(dirfd, name, |files, path| files.utimens(path, times, flags)))
}

fn with_fs(change: impl FnOnce(&mut FsContext)) -> Result<()> {
    change(&mut process::current()?.fs()?.lock());
    Ok(())
}

fn chdir(to: Place) -> Result<()> {
    let mut old = None;
    with_fs(|fs| old = Some(core::mem::replace(&mut fs.cwd, to)))
}

fn fchdir(fd: u64) -> Result<()> {
    let file = process::current()?.files()?.get(fd_of(fd))?;
    let place = file.place().filter(|place| place.is_dir()).cloned().ok_or(Errno::ENOTDIR)?;
    chdir(place)
}

fn chroot(name: u64) -> Result<()> {
    let name = path(name)?;
    let to = at(None, |files| files.find_dir(&name))?;
    with_fs(|fs| fs.root = to)
}

fn getcwd(to: u64, size: u64) -> SysResult {
    let mut cwd = at(None, |files| files.getcwd())?;
    cwd.push(0);
    if cwd.len() as u64 > size {
        return Err(Errno::ERANGE.into());
    }
    CurrentUser.write(to, &cwd)?;
    Ok(cwd.len() as i64)
}

fn mount(a: Args) -> SysResult {
    let [source, target, kind, flags, data, _] = a;
    let optional = |at: u64| if at == 0 { Ok(Vec::new()) } else { path(at) };
    let (source, target) = (optional(source)?, path(target)?);
    let (kind, data) = (optional(kind)?, optional(data)?);
    // The old magic number in the upper half of the flags is ignored.
    let flags = if flags & 0xffff_0000 == 0xc0ed_0000 { flags & 0xffff } else { flags };
    done(at(None, |files| files.mount(&source, &target, &kind, flags as u32, &data)))
}

fn getdents64(fd: u64, to: u64, size: u64) -> SysResult {
    let file = process::current()?.files()?.get(fd_of(fd))?;
    let mut buffer = Vec::new();
    let size = (size as usize).min(32 << 10);
    buffer.make_room(size)?;
    buffer.resize(size, 0);
    let caller: Caller = process::caller();
    let used = file.getdents(&caller, &mut buffer)?;
    CurrentUser.write(to, buffer.get(..used).unwrap_or_default())?;
    Ok(used as i64)
}
