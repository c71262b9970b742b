//! The path system calls: everything with a name in it.
//!
//! The kernel makes a [`Files`] for each call, out of who calls, their root and
//! working directory (or the directory of an `*at` call) and umask. All of EL0
//! is root, so that modes are kept but (but for the execute bit) not checked.

use crate::abi::{
    AT_EMPTY_PATH, AT_REMOVEDIR, AT_SYMLINK_FOLLOW, AT_SYMLINK_NOFOLLOW, DevId, FileType,
    OpenFlags, RENAME_EXCHANGE, RENAME_NOREPLACE, Stat, StatFs, Timespec, UTIME_NOW, UTIME_OMIT,
};
use crate::file::{Caller, File, OpenFile, Position};
use crate::inode::{InodeRef, NewNode, OpenRequest, SetAttr};
use crate::path::{
    Follow, Last, MS_BIND, MS_MOVE, MS_NODEV, MS_REMOUNT, Namespace, Place, WalkFrom, Walked,
};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use base::{Errno, Result, room};
use core::any::Any;

/// `access`: execute.
pub const X_OK: u32 = 1;
/// `access`: write.
pub const W_OK: u32 = 2;
/// `access`: read.
pub const R_OK: u32 = 4;

/// `umount2`: even if it is used.
pub const MNT_DETACH: u32 = 2;
const MNT_KNOWN: u32 = 0xf;

/// A process's view of the tree. `fork` clones it.
#[derive(Clone, Debug)]
pub struct FsContext {
    /// Where absolute paths start.
    pub root: Place,
    /// Where relative ones do.
    pub cwd: Place,
    /// Permission bits that new files don't get.
    pub umask: u32,
}

impl FsContext {
    /// The first process's.
    pub fn new(ns: &Namespace) -> FsContext {
        FsContext { root: ns.root(), cwd: ns.root(), umask: 0o022 }
    }

    /// The operations, relative to the working directory.
    pub fn files<'a>(&'a self, ns: &'a Namespace, caller: &'a Caller) -> Files<'a> {
        Files { ns, caller, root: &self.root, base: &self.cwd, umask: self.umask }
    }
}

/// The path operations for one system call.
#[derive(Clone, Copy)]
pub struct Files<'a> {
    /// The mounts.
    pub ns: &'a Namespace,
    /// Who.
    pub caller: &'a Caller,
    /// The process's root.
    pub root: &'a Place,
    /// The working directory, or the directory of an `*at` call.
    pub base: &'a Place,
    /// Permission bits that new files don't get.
    pub umask: u32,
}

/// What `open` with O_PATH gives: only a place.
struct PathOnly;

impl File for PathOnly {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn position(&self) -> Position {
        Position::Loose
    }
}

impl<'a> Files<'a> {
    /// The same with paths relative to `base`.
    pub fn at(self, base: &'a Place) -> Files<'a> {
        Files { base, ..self }
    }

    fn walk(&self, path: &[u8], follow: Follow) -> Result<Walked> {
        self.ns.walk(
            &WalkFrom { caller: self.caller, root: self.root, base: self.base },
            path,
            follow,
        )
    }

    /// What a path names. `flags`: AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH.
    pub fn find(&self, path: &[u8], flags: u32) -> Result<Place> {
        if path.is_empty() && flags & AT_EMPTY_PATH != 0 {
            return Ok(self.base.clone());
        }
        let follow = if flags & AT_SYMLINK_NOFOLLOW != 0 { Follow::No } else { Follow::Yes };
        self.walk(path, follow)?.found()
    }

    /// A directory, for `chdir`, `chroot` and mounts.
    pub fn find_dir(&self, path: &[u8]) -> Result<Place> {
        let place = self.find(path, 0)?;
        if place.is_dir() { Ok(place) } else { Err(Errno::ENOTDIR) }
    }

    /// `openat`. For a FIFO, [`File::open_ready`] tells when it is open.
    pub fn open(&self, path: &[u8], flags: OpenFlags, mode: u32) -> Result<Arc<OpenFile>> {
        let mut flags = flags;
        if flags.contains(OpenFlags::PATH) {
            flags &=
                OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW | OpenFlags::CLOEXEC;
        }
        if flags.contains(OpenFlags::TMPFILE) {
            return Err(Errno::EOPNOTSUPP);
        }
        let create = flags.contains(OpenFlags::CREAT);
        let exclusive = create && flags.contains(OpenFlags::EXCL);
        if create && flags.contains(OpenFlags::DIRECTORY) {
            return Err(Errno::EINVAL);
        }
        let no_follow = flags.contains(OpenFlags::NOFOLLOW) || exclusive;
        // A second round if somebody else made it in between.
        for _ in 0..8 {
            let walked = self.walk(path, if no_follow { Follow::No } else { Follow::Yes })?;
            if let Some(place) = walked.place {
                if exclusive {
                    return Err(Errno::EEXIST);
                }
                if create && (walked.slash || place.is_dir()) {
                    return Err(Errno::EISDIR);
                }
                return self.open_place(place, flags);
            }
            if !create {
                return Err(Errno::ENOENT);
            }
            let Last::Name(name) = walked.last else { return Err(Errno::ENOENT) };
            if walked.slash {
                return Err(Errno::EISDIR);
            }
            let dir = walked.dir;
            dir.mount.writable()?;
            let mode = mode & 0o7777 & !self.umask;
            let new =
                NewNode { kind: FileType::Regular, mode, rdev: DevId::default(), target: b"" };
            match dir.inode.create(&name, &new) {
                Ok(inode) => {
                    let request = OpenRequest { caller: self.caller, flags };
                    let file = inode.clone().open(&request)?;
                    return OpenFile::new(file, flags, Some(dir.child(inode, &name)?));
                }
                Err(Errno::EEXIST) if !exclusive => {}
                // A directory that can't make files (procfs).
                Err(Errno::EPERM) => return Err(Errno::EACCES),
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::EAGAIN)
    }

    /// Opens what was found already (a magic link's target too).
    pub fn open_place(&self, place: Place, flags: OpenFlags) -> Result<Arc<OpenFile>> {
        let kind = place.inode.kind();
        if flags.contains(OpenFlags::DIRECTORY) && kind != FileType::Dir {
            return Err(Errno::ENOTDIR);
        }
        if flags.contains(OpenFlags::PATH) {
            return OpenFile::new(room::try_arc(PathOnly)?, flags, Some(place));
        }
        let request = OpenRequest { caller: self.caller, flags };
        let truncate = flags.contains(OpenFlags::TRUNC);
        let file: Arc<dyn File> = match kind {
            FileType::Symlink => return Err(Errno::ELOOP),
            FileType::Dir if flags.writable() || truncate => return Err(Errno::EISDIR),
            FileType::Dir => place.inode.clone().open(&request)?,
            FileType::Fifo => room::try_arc(place.inode.fifo().ok_or(Errno::ENXIO)?.open(flags)?)?,
            FileType::Char | FileType::Block => {
                if place.mount.flags() & MS_NODEV != 0 {
                    return Err(Errno::EACCES);
                }
                self.ns.devices().open(kind, place.stat().rdev, &request)?
            }
            FileType::Socket => return Err(Errno::ENXIO),
            FileType::Regular => {
                if flags.writable() || truncate {
                    place.mount.writable()?;
                }
                let file = place.inode.clone().open(&request)?;
                if truncate {
                    place.inode.truncate(0)?;
                }
                file
            }
        };
        OpenFile::new(file, flags, Some(place))
    }

    /// Opens a program to run it: a regular file with an execute bit.
    pub fn open_exec(&self, path: &[u8], flags: u32) -> Result<Arc<OpenFile>> {
        let place = self.find(path, flags)?;
        match place.inode.kind() {
            FileType::Symlink => return Err(Errno::ELOOP),
            FileType::Regular if place.stat().mode & 0o111 != 0 => {}
            _ => return Err(Errno::EACCES),
        }
        if place.mount.flags() & crate::path::MS_NOEXEC != 0 {
            return Err(Errno::EACCES);
        }
        self.open_place(place, OpenFlags::empty())
    }

    /// The parent and name of something to be made; it must not exist.
    fn for_new(&self, path: &[u8], dir_wanted: bool) -> Result<(Place, Box<[u8]>)> {
        let walked = self.walk(path, Follow::Parent)?;
        let Last::Name(name) = walked.last else { return Err(Errno::EEXIST) };
        if walked.place.is_some() {
            return Err(Errno::EEXIST);
        }
        if walked.slash && !dir_wanted {
            return Err(Errno::ENOENT);
        }
        walked.dir.mount.writable()?;
        Ok((walked.dir, name))
    }

    fn make(&self, path: &[u8], new: &NewNode<'_>) -> Result<InodeRef> {
        let (dir, name) = self.for_new(path, new.kind == FileType::Dir)?;
        dir.inode.create(&name, new)
    }

    /// `mkdirat`.
    pub fn mkdir(&self, path: &[u8], mode: u32) -> Result<()> {
        let mode = mode & 0o1777 & !self.umask;
        self.make(path, &NewNode { kind: FileType::Dir, mode, rdev: DevId::default(), target: b"" })
            .map(drop)
    }

    /// `mknodat`: FIFOs, device nodes, sockets and regular files.
    pub fn mknod(&self, path: &[u8], mode: u32, dev: u64) -> Result<()> {
        let kind = match mode & crate::abi::S_IFMT {
            0 => FileType::Regular,
            _ => FileType::from_mode(mode).ok_or(Errno::EINVAL)?,
        };
        match kind {
            FileType::Dir => return Err(Errno::EPERM),
            FileType::Symlink => return Err(Errno::EINVAL),
            _ => {}
        }
        let mode = mode & 0o7777 & !self.umask;
        self.make(path, &NewNode { kind, mode, rdev: DevId::decode(dev), target: b"" }).map(drop)
    }

    /// `symlinkat`.
    pub fn symlink(&self, target: &[u8], path: &[u8]) -> Result<()> {
        if target.is_empty() {
            return Err(Errno::ENOENT);
        }
        self.make(
            path,
            &NewNode { kind: FileType::Symlink, mode: 0o777, rdev: DevId::default(), target },
        )
        .map(drop)
    }

    /// `linkat`; the new path is relative to `new_base`.
    pub fn link(&self, old: &[u8], new_base: &Place, new: &[u8], flags: u32) -> Result<()> {
        if flags & !(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH) != 0 {
            return Err(Errno::EINVAL);
        }
        let no_follow = if flags & AT_SYMLINK_FOLLOW != 0 { 0 } else { AT_SYMLINK_NOFOLLOW };
        let source = self.find(old, no_follow | (flags & AT_EMPTY_PATH))?;
        let (dir, name) = self.at(new_base).for_new(new, false)?;
        if !Arc::ptr_eq(&source.mount, &dir.mount) {
            return Err(Errno::EXDEV);
        }
        if source.is_dir() {
            return Err(Errno::EPERM);
        }
        dir.inode.link(&name, &source.inode)
    }

    /// `unlinkat`.
    pub fn unlink(&self, path: &[u8], flags: u32) -> Result<()> {
        if flags & !AT_REMOVEDIR != 0 {
            return Err(Errno::EINVAL);
        }
        let remove_dir = flags & AT_REMOVEDIR != 0;
        let walked = self.walk(path, Follow::Parent)?;
        let name = match (walked.last, remove_dir) {
            (Last::Name(name), _) => name,
            (_, false) => return Err(Errno::EISDIR),
            (Last::Dot, true) => return Err(Errno::EINVAL),
            (Last::DotDot, true) => return Err(Errno::ENOTEMPTY),
            (_, true) => return Err(Errno::EBUSY),
        };
        walked.dir.mount.writable()?;
        let place = walked.place.ok_or(Errno::ENOENT)?;
        match (remove_dir, place.is_dir()) {
            (true, false) => return Err(Errno::ENOTDIR),
            (false, true) => return Err(Errno::EISDIR),
            (false, false) if walked.slash => return Err(Errno::ENOTDIR),
            _ => {}
        }
        if self.ns.is_mountpoint(&place) {
            return Err(Errno::EBUSY);
        }
        drop(place);
        if remove_dir { walked.dir.inode.rmdir(&name) } else { walked.dir.inode.unlink(&name) }
    }

    /// `renameat2`; the new path is relative to `new_base`.
    pub fn rename(&self, old: &[u8], new_base: &Place, new: &[u8], flags: u32) -> Result<()> {
        const BOTH: u32 = RENAME_NOREPLACE | RENAME_EXCHANGE;
        if flags & !BOTH != 0 || flags & BOTH == BOTH {
            return Err(Errno::EINVAL);
        }
        let from = self.walk(old, Follow::Parent)?;
        let to = self.at(new_base).walk(new, Follow::Parent)?;
        if !Arc::ptr_eq(&from.dir.mount, &to.dir.mount) {
            return Err(Errno::EXDEV);
        }
        let Last::Name(name) = from.last else { return Err(Errno::EBUSY) };
        let Last::Name(to_name) = to.last else {
            return Err(if flags & RENAME_NOREPLACE != 0 { Errno::EEXIST } else { Errno::EBUSY });
        };
        from.dir.mount.writable()?;
        let source = from.place.ok_or(Errno::ENOENT)?;
        if flags & RENAME_NOREPLACE != 0 && to.place.is_some() {
            return Err(Errno::EEXIST);
        }
        if (from.slash || (to.slash && flags & RENAME_EXCHANGE == 0)) && !source.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        if self.ns.is_mountpoint(&source)
            || to.place.as_ref().is_some_and(|place| self.ns.is_mountpoint(place))
        {
            return Err(Errno::EBUSY);
        }
        from.dir.inode.rename(&name, &to.dir.inode, &to_name, flags)
    }

    /// `readlinkat`. An empty path names `base` itself (opened with O_PATH).
    pub fn readlink(&self, path: &[u8]) -> Result<Vec<u8>> {
        let place = if path.is_empty() {
            if self.base.inode.kind() != FileType::Symlink {
                return Err(Errno::ENOENT);
            }
            self.base.clone()
        } else {
            self.walk(path, Follow::No)?.found()?
        };
        if place.inode.kind() != FileType::Symlink {
            return Err(Errno::EINVAL);
        }
        place.inode.readlink(self.caller)
    }

    /// `newfstatat`, `statx`.
    pub fn stat(&self, path: &[u8], flags: u32) -> Result<Stat> {
        Ok(self.find(path, flags)?.stat())
    }

    /// `statx`'s mount id, and whether the place is the top of its mount.
    pub fn stat_with_mount(&self, path: &[u8], flags: u32) -> Result<(Stat, (u64, bool))> {
        let place = self.find(path, flags)?;
        Ok((place.stat(), (place.mount.id(), place.is_mount_root())))
    }

    /// `faccessat2`.
    pub fn access(&self, path: &[u8], mode: u32, flags: u32) -> Result<()> {
        if mode & !(R_OK | W_OK | X_OK) != 0 {
            return Err(Errno::EINVAL);
        }
        let place = self.find(path, flags)?;
        if mode & X_OK != 0 && !place.is_dir() && place.stat().mode & 0o111 == 0 {
            return Err(Errno::EACCES);
        }
        if mode & W_OK != 0 && matches!(place.inode.kind(), FileType::Dir | FileType::Regular) {
            place.mount.writable()?;
        }
        Ok(())
    }

    fn change(&self, path: &[u8], flags: u32, attr: &SetAttr) -> Result<()> {
        change(&self.find(path, flags)?, attr)
    }

    /// `fchmodat`.
    pub fn chmod(&self, path: &[u8], mode: u32, flags: u32) -> Result<()> {
        let place = self.find(path, flags)?;
        if place.inode.kind() == FileType::Symlink {
            return Err(Errno::EOPNOTSUPP);
        }
        change(&place, &SetAttr { mode: Some(mode & 0o7777), ..SetAttr::default() })
    }

    /// `fchownat`; `u32::MAX` leaves an id.
    pub fn chown(&self, path: &[u8], uid: u32, gid: u32, flags: u32) -> Result<()> {
        self.change(path, flags, &owner_change(uid, gid))
    }

    /// `utimensat` with a path.
    pub fn utimens(&self, path: &[u8], times: Option<[Timespec; 2]>, flags: u32) -> Result<()> {
        let Some(attr) = times_change(times, self.ns.clock().realtime())? else {
            return self.find(path, flags).map(drop);
        };
        self.change(path, flags, &attr)
    }

    /// `truncate`.
    pub fn truncate(&self, path: &[u8], size: i64) -> Result<()> {
        let size = u64::try_from(size).map_err(|_| Errno::EINVAL)?;
        let place = self.find(path, 0)?;
        match place.inode.kind() {
            FileType::Regular => {}
            FileType::Dir => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        place.mount.writable()?;
        place.inode.truncate(size)
    }

    /// `statfs`.
    pub fn statfs(&self, path: &[u8]) -> Result<StatFs> {
        Ok(statfs(&self.find(path, 0)?))
    }

    /// `mount(2)`.
    pub fn mount(
        &self,
        source: &[u8],
        target: &[u8],
        fs_type: &[u8],
        flags: u32,
        data: &[u8],
    ) -> Result<()> {
        // The magic number that old programs put in the upper half.
        let flags = if flags & 0xffff_0000 == 0xc0ed_0000 { flags & 0xffff } else { flags };
        let on = self.find(target, 0)?;
        if flags & MS_REMOUNT != 0 {
            self.ns.remount(&on, flags)
        } else if flags & MS_BIND != 0 {
            self.ns.bind(&self.find(source, 0)?, &on, flags)
        } else if Namespace::is_propagation(flags) {
            if on.is_mount_root() { Ok(()) } else { Err(Errno::EINVAL) }
        } else if flags & MS_MOVE != 0 {
            self.ns.move_mount(&self.find(source, 0)?, &on)
        } else if on.is_dir() {
            self.ns.mount_type(&on, fs_type, source, data, flags)
        } else {
            Err(Errno::ENOTDIR)
        }
    }

    /// `umount2`.
    pub fn umount(&self, target: &[u8], flags: u32) -> Result<()> {
        if flags & !MNT_KNOWN != 0 {
            return Err(Errno::EINVAL);
        }
        self.ns.unmount(self.find(target, 0)?, flags & MNT_DETACH != 0)
    }

    /// `getcwd`: the path of `base`. `ENOENT` if it was removed.
    pub fn getcwd(&self) -> Result<Vec<u8>> {
        self.base.path(self.root)
    }
}

/// Changes a place's attributes: `fchmod`, `fchown`, `futimens`.
pub fn change(place: &Place, attr: &SetAttr) -> Result<()> {
    place.mount.writable()?;
    place.inode.set_attr(attr)
}

/// What `chown` changes; `u32::MAX` leaves an id.
pub fn owner_change(uid: u32, gid: u32) -> SetAttr {
    let id = |id: u32| (id != u32::MAX).then_some(id);
    SetAttr { uid: id(uid), gid: id(gid), ..SetAttr::default() }
}

/// What `utimensat` changes; `None`: nothing.
pub fn times_change(times: Option<[Timespec; 2]>, now: Timespec) -> Result<Option<SetAttr>> {
    let Some([atime, mtime]) = times else {
        return Ok(Some(SetAttr { atime: Some(now), mtime: Some(now), ..SetAttr::default() }));
    };
    let one = |time: Timespec| match time.nsec {
        UTIME_NOW => Ok(Some(now)),
        UTIME_OMIT => Ok(None),
        0..1_000_000_000 => Ok(Some(time)),
        _ => Err(Errno::EINVAL),
    };
    let (atime, mtime) = (one(atime)?, one(mtime)?);
    Ok((atime.is_some() || mtime.is_some()).then_some(SetAttr {
        atime,
        mtime,
        ..SetAttr::default()
    }))
}

/// `fstatfs`.
pub fn statfs(place: &Place) -> StatFs {
    let mut stat = place.mount.fs().statfs();
    // ST_VALID, and the mount's own flags, whose low bits are the same.
    stat.f_flags = 0x20 | u64::from(place.mount.flags() & 0xf);
    if place.mount.flags() & crate::path::MS_NOATIME == 0 {
        // ST_RELATIME
        stat.f_flags |= 0x1000;
    }
    stat
}
