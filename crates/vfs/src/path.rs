//! Mounts and path resolution (path_resolution(7)).
//!
//! Locks: the mount table is at `NAMESPACE`; nothing is called under it. Where a
//! mount is mounted is at `OPEN_FILE`, and changes only under the former.

use crate::abi::{FileType, NAME_MAX, PATH_MAX, Stat};
use crate::device::DeviceRegistry;
use crate::file::Caller;
use crate::inode::{Clock, FileSystem, InodeRef};
use crate::proc::Anonymous;
use crate::synth::make_room;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use base::{Errno, Lock, Result, Room, rank, room};
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Symbolic links followed in one resolution.
const MAX_LINKS: u32 = 40;
/// Mounts in one namespace; EL0 makes them.
const MAX_MOUNTS: usize = 1024;

/// Read-only mount.
pub const MS_RDONLY: u32 = 1;
/// No set-user-id.
pub const MS_NOSUID: u32 = 2;
/// No device nodes.
pub const MS_NODEV: u32 = 4;
/// No execution.
pub const MS_NOEXEC: u32 = 8;
/// Change a mount's flags.
pub const MS_REMOUNT: u32 = 32;
/// No access times.
pub const MS_NOATIME: u32 = 1024;
/// Another view of a tree.
pub const MS_BIND: u32 = 4096;
/// Move a mount.
pub const MS_MOVE: u32 = 8192;
const MS_KEPT: u32 = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME;
/// Propagation types: accepted, there is but one namespace.
const MS_PROPAGATION: u32 = (1 << 17) | (1 << 18) | (1 << 19) | (1 << 20);

/// A file system's tree (or a part, for bind mounts) at a place.
pub struct Mount {
    id: u64,
    fs: Arc<dyn FileSystem>,
    root: InodeRef,
    source: String,
    flags: AtomicU32,
    /// Where it is mounted; `None` for the root of all. Changed by MS_MOVE.
    on: Lock<Option<Place>>,
    /// Mounts on places within this one.
    mounted_here: AtomicUsize,
}

impl Mount {
    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }
    /// What is mounted.
    pub fn fs(&self) -> &Arc<dyn FileSystem> {
        &self.fs
    }
    /// Its top directory.
    pub fn root(&self) -> &InodeRef {
        &self.root
    }
    /// MS_* flags.
    pub fn flags(&self) -> u32 {
        self.flags.load(Relaxed)
    }
    /// `EROFS` if nothing may be changed.
    pub fn writable(&self) -> Result<()> {
        if self.flags() & MS_RDONLY != 0 { Err(Errno::EROFS) } else { Ok(()) }
    }
}

/// An inode as found in a mount, with the name it was found by.
#[derive(Clone)]
pub struct Place {
    /// Where.
    pub mount: Arc<Mount>,
    /// What.
    pub inode: InodeRef,
    /// The directory and name it was found by, if it isn't a directory.
    entry: Option<Arc<(InodeRef, Box<[u8]>)>>,
}

impl Place {
    /// The top of a mount.
    pub fn root_of(mount: &Arc<Mount>) -> Place {
        Place { mount: mount.clone(), inode: mount.root.clone(), entry: None }
    }

    /// A place for something that no directory holds.
    pub(crate) fn detached(inode: InodeRef) -> Result<Place> {
        let mount = room::try_arc(Mount {
            id: 0,
            fs: room::try_arc(Anonymous { inode: inode.clone() })?,
            root: inode.clone(),
            source: String::new(),
            flags: AtomicU32::new(0),
            on: Lock::new(rank::OPEN_FILE, None),
            mounted_here: AtomicUsize::new(0),
        })?;
        Ok(Place { mount, inode, entry: None })
    }

    pub(crate) fn child(&self, inode: InodeRef, name: &[u8]) -> Result<Place> {
        let entry = match inode.kind() {
            FileType::Dir => None,
            _ => Some(room::try_arc((self.inode.clone(), room::try_copy(name)?.into()))?),
        };
        Ok(Place { mount: self.mount.clone(), inode, entry })
    }

    /// Whether both are the same file in the same mount.
    pub fn same(&self, other: &Place) -> bool {
        Arc::ptr_eq(&self.mount, &other.mount) && self.inode.ino() == other.inode.ino()
    }

    /// Whether it is the top of its mount.
    pub fn is_mount_root(&self) -> bool {
        self.inode.ino() == self.mount.root.ino()
    }

    /// What `stat` tells.
    pub fn stat(&self) -> Stat {
        self.inode.stat()
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.inode.kind() == FileType::Dir
    }

    /// The directory that holds this directory, across mounts; itself at the
    /// very top or at `root`.
    fn up(&self, root: &Place) -> Place {
        let mut at = self.clone();
        loop {
            if at.same(root) {
                return at;
            }
            if !at.is_mount_root() {
                break;
            }
            let on = at.mount.on.lock().clone();
            match on {
                Some(place) => at = place,
                None => return at,
            }
        }
        match at.inode.parent() {
            Some((inode, _)) => Place { mount: at.mount, inode, entry: None },
            None => at,
        }
    }

    /// The path from `root`. `Err(ENOENT)` if it was removed.
    pub fn path(&self, root: &Place) -> Result<Vec<u8>> {
        let mut names: Vec<Box<[u8]>> = Vec::new();
        let mut at = self.clone();
        let mut reachable = true;
        // A tree deeper than PATH_MAX names has no path.
        for _ in 0..PATH_MAX {
            if at.same(root) && at.is_dir() {
                break;
            }
            if let Some(entry) = at.entry.take() {
                let (dir, name) = &*entry;
                let still = dir.lookup(&Caller::default(), name);
                if !still.is_ok_and(|inode| inode.ino() == at.inode.ino()) {
                    return Err(Errno::ENOENT);
                }
                names.make_room(1)?;
                names.push(room::try_copy(name)?.into());
                at = Place { mount: at.mount, inode: dir.clone(), entry: None };
            } else if at.is_mount_root() {
                let on = at.mount.on.lock().clone();
                match on {
                    Some(place) => at = place,
                    None => {
                        reachable = false;
                        break;
                    }
                }
            } else {
                let (inode, name) = at.inode.parent().ok_or(Errno::ENOENT)?;
                names.make_room(1)?;
                names.push(name);
                at = Place { mount: at.mount, inode, entry: None };
            }
        }
        let mut path = room::Text::new();
        if !reachable {
            path.push(b"(unreachable)")?;
        }
        for name in names.iter().rev() {
            path.push(b"/")?;
            path.push(name)?;
        }
        if names.is_empty() {
            path.push(b"/")?;
        }
        let path = path.into_bytes();
        if path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        Ok(path)
    }

    /// The path as `/proc/<pid>/exe` and `fd/N` show it.
    pub fn path_shown(&self, root: &Place) -> Result<Vec<u8>> {
        let path = self.path(root);
        if !matches!(path, Err(errno) if errno != Errno::ENOMEM) {
            return path;
        }
        let (mut dir, mut name) = (room::try_copy(b"/")?, &b""[..]);
        if let Some(entry) = &self.entry {
            let place = Place { mount: self.mount.clone(), inode: entry.0.clone(), entry: None };
            dir = match place.path(root) {
                Err(Errno::ENOMEM) => return Err(Errno::ENOMEM),
                other => other.unwrap_or(dir),
            };
            name = &entry.1;
        }
        const DELETED: &[u8] = b" (deleted)";
        dir.make_room(name.len().saturating_add(DELETED.len()).saturating_add(1))?;
        if !name.is_empty() && dir.last() != Some(&b'/') {
            dir.push(b'/');
        }
        dir.extend_from_slice(name);
        dir.extend_from_slice(DELETED);
        Ok(dir)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({}:{})", self.mount.id, self.inode.ino())
    }
}

/// Makes a file system from `mount`'s source and options.
pub type MakeFs = dyn Fn(&[u8]) -> Result<Arc<dyn FileSystem>> + Send + Sync;

struct FsType {
    name: &'static str,
    make: Box<MakeFs>,
}

struct Mounts {
    /// What is mounted on (mount, inode): the last is on top.
    on: BTreeMap<(u64, u64), Vec<Arc<Mount>>>,
    /// All, in the order they were made.
    all: Vec<Arc<Mount>>,
}

/// The tree of mounts, the file system types and the devices: what all
/// processes share.
pub struct Namespace {
    mounts: Lock<Mounts>,
    types: Lock<Vec<Arc<FsType>>>,
    next_id: AtomicU64,
    devices: Arc<DeviceRegistry>,
    clock: Arc<dyn Clock>,
    top: Arc<Mount>,
}

impl Namespace {
    /// A namespace with `root` at `/`.
    pub fn new(
        root: Arc<dyn FileSystem>,
        source: &str,
        devices: Arc<DeviceRegistry>,
        clock: Arc<dyn Clock>,
    ) -> Arc<Namespace> {
        let top = Arc::new(Mount {
            id: 1,
            root: root.root(),
            fs: root,
            source: source.into(),
            flags: AtomicU32::new(0),
            on: Lock::new(rank::OPEN_FILE, None),
            mounted_here: AtomicUsize::new(0),
        });
        Arc::new(Namespace {
            mounts: Lock::new(
                rank::NAMESPACE,
                Mounts { on: BTreeMap::new(), all: Vec::from([top.clone()]) },
            ),
            types: Lock::new(rank::NAMESPACE, Vec::new()),
            next_id: AtomicU64::new(2),
            devices,
            clock,
            top,
        })
    }

    /// `/`, for the first process.
    pub fn root(&self) -> Place {
        self.over(Place::root_of(&self.top))
    }

    /// The wall clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The devices.
    pub fn devices(&self) -> &Arc<DeviceRegistry> {
        &self.devices
    }

    /// Makes `mount -t name` possible.
    pub fn register_fs(
        &self,
        name: &'static str,
        make: impl Fn(&[u8]) -> Result<Arc<dyn FileSystem>> + Send + Sync + 'static,
    ) {
        self.types.lock().push(Arc::new(FsType { name, make: Box::new(make) }));
    }

    /// The types that can be mounted, for `/proc/filesystems`.
    pub fn fs_types(&self) -> Vec<&'static str> {
        self.types.lock().iter().map(|kind| kind.name).collect()
    }

    /// What is mounted on top of a place.
    fn over(&self, mut place: Place) -> Place {
        while place.mount.mounted_here.load(Relaxed) != 0 {
            let top = {
                let mounts = self.mounts.lock();
                mounts
                    .on
                    .get(&(place.mount.id, place.inode.ino()))
                    .and_then(|stack| stack.last().cloned())
            };
            match top {
                Some(mount) => place = Place::root_of(&mount),
                None => break,
            }
        }
        place
    }

    /// Whether something is mounted on this name of a directory.
    pub fn is_mountpoint(&self, place: &Place) -> bool {
        place.mount.mounted_here.load(Relaxed) != 0
            && self.mounts.lock().on.contains_key(&(place.mount.id, place.inode.ino()))
    }

    /// Resolves `path` from `base` (or from `root` if absolute).
    pub fn walk(&self, at: &WalkFrom<'_>, path: &[u8], follow: Follow) -> Result<Walked> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        if path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let mut links = 0u32;
        let mut owned: Vec<u8>;
        let mut rest: &[u8] = path;
        let mut place = if path.first() == Some(&b'/') { at.root.clone() } else { at.base.clone() };
        loop {
            rest = skip_slashes(rest);
            let end = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
            let (name, after) = rest.split_at_checked(end).unwrap_or((rest, &[]));
            let is_last = skip_slashes(after).is_empty();
            let slash = !after.is_empty();
            if !place.is_dir() {
                return Err(Errno::ENOTDIR);
            }
            match name {
                b"" => {
                    let last = Last::Root;
                    return Ok(Walked {
                        dir: place.clone(),
                        last,
                        place: Some(place),
                        slash: true,
                    });
                }
                b"." | b".." => {
                    let dir = place.clone();
                    if name == b".." {
                        place = self.over(place.up(at.root));
                    }
                    if is_last {
                        let last = if name == b"." { Last::Dot } else { Last::DotDot };
                        return Ok(Walked { dir, last, place: Some(place), slash: true });
                    }
                    rest = after;
                    continue;
                }
                _ => {}
            }
            if name.len() > NAME_MAX {
                return Err(Errno::ENAMETOOLONG);
            }
            let inode = match place.inode.lookup(at.caller, name) {
                Ok(inode) => inode,
                Err(Errno::ENOENT) if is_last => {
                    return Ok(Walked {
                        dir: place,
                        last: Last::Name(name.into()),
                        place: None,
                        slash,
                    });
                }
                Err(errno) => return Err(errno),
            };
            let follows = match follow {
                Follow::Yes => true,
                Follow::No => slash,
                Follow::Parent => false,
            };
            let child = place.child(inode, name)?;
            if child.inode.kind() == FileType::Symlink && (!is_last || follows) {
                links = links.saturating_add(1);
                if links > MAX_LINKS {
                    return Err(Errno::ELOOP);
                }
                if let Some(target) = child.inode.follow(at.caller) {
                    let target = target?;
                    if is_last {
                        if slash && !target.is_dir() {
                            return Err(Errno::ENOTDIR);
                        }
                        return Ok(Walked {
                            dir: place,
                            last: Last::Magic,
                            place: Some(target),
                            slash,
                        });
                    }
                    place = target;
                    rest = after;
                    continue;
                }
                let mut target = child.inode.readlink(at.caller)?;
                if target.is_empty() {
                    return Err(Errno::ENOENT);
                }
                if target.first() == Some(&b'/') {
                    place = at.root.clone();
                }
                target.make_room(after.len())?;
                target.extend_from_slice(after);
                owned = target;
                rest = &owned;
                continue;
            }
            if is_last {
                let dir = place;
                let last = Last::Name(name.into());
                // The last name of unlink, rmdir and rename is the one below.
                let found = if follow == Follow::Parent { child } else { self.over(child) };
                if slash && !found.is_dir() && follow != Follow::Parent {
                    return Err(Errno::ENOTDIR);
                }
                return Ok(Walked { dir, last, place: Some(found), slash });
            }
            place = self.over(child);
            rest = after;
        }
    }

    /// Mounts a file system of a registered type on a directory.
    pub fn mount_type(
        &self,
        on: &Place,
        fs_type: &[u8],
        source: &[u8],
        data: &[u8],
        flags: u32,
    ) -> Result<()> {
        let kind = {
            let types = self.types.lock();
            types
                .iter()
                .find(|kind| kind.name.as_bytes() == fs_type)
                .cloned()
                .ok_or(Errno::ENODEV)?
        };
        let fs = (kind.make)(data)?;
        self.mount(on, fs, source, flags)
    }

    /// Mounts `fs` on a directory.
    pub fn mount(
        &self,
        on: &Place,
        fs: Arc<dyn FileSystem>,
        source: &[u8],
        flags: u32,
    ) -> Result<()> {
        let root = fs.root();
        self.add(on, fs, root, source, flags)
    }

    fn add(
        &self,
        on: &Place,
        fs: Arc<dyn FileSystem>,
        root: InodeRef,
        source: &[u8],
        flags: u32,
    ) -> Result<()> {
        if on.is_dir() != (root.kind() == FileType::Dir) {
            return Err(Errno::ENOTDIR);
        }
        let on = self.over(on.clone());
        // Linux refuses to mount the very same file system on itself.
        if on.is_mount_root() && Arc::ptr_eq(&on.mount.fs, &fs) && on.inode.ino() == root.ino() {
            return Err(Errno::EBUSY);
        }
        let mount = room::try_arc(Mount {
            id: self.next_id.fetch_add(1, Relaxed),
            fs,
            root,
            source: String::from_utf8_lossy(source).into_owned(),
            flags: AtomicU32::new(flags & MS_KEPT),
            on: Lock::new(rank::OPEN_FILE, Some(on.clone())),
            mounted_here: AtomicUsize::new(0),
        })?;
        let mut mounts = self.mounts.lock();
        if mounts.all.len() >= MAX_MOUNTS {
            return Err(Errno::ENOSPC);
        }
        mounts.all.make_room(1)?;
        mounts.put_on(&on, mount.clone())?;
        mounts.all.push(mount);
        on.mount.mounted_here.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Shows the tree at `source` at `on` too (without what is mounted in it).
    pub fn bind(&self, source: &Place, on: &Place, flags: u32) -> Result<()> {
        let name = source.mount.source.clone();
        let flags = flags | source.mount.flags();
        self.add(on, source.mount.fs.clone(), source.inode.clone(), name.as_bytes(), flags)
    }

    /// Changes a mount's flags.
    pub fn remount(&self, at: &Place, flags: u32) -> Result<()> {
        if !at.is_mount_root() {
            return Err(Errno::EINVAL);
        }
        at.mount.flags.store(flags & MS_KEPT, Relaxed);
        Ok(())
    }

    /// Moves the mount whose top `from` is to `on`.
    pub fn move_mount(&self, from: &Place, on: &Place) -> Result<()> {
        if !from.is_mount_root() {
            return Err(Errno::EINVAL);
        }
        if on.is_dir() != from.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        let on = self.over(on.clone());
        let before = {
            // Nobody else moves a mount between the check and the change.
            let mut mounts = self.mounts.lock();
            // A mount can't be moved into itself. `on` keeps all that is above.
            let mut above = on.clone();
            loop {
                if Arc::ptr_eq(&above.mount, &from.mount) {
                    return Err(Errno::ELOOP);
                }
                let next = above.mount.on.lock().clone();
                match next {
                    Some(place) => above = place,
                    None => break,
                }
            }
            let old = from.mount.on.lock().clone().ok_or(Errno::EINVAL)?;
            mounts.put_on(&on, from.mount.clone())?;
            // It is there: nobody else moves it meanwhile.
            mounts.take_off(&old, &from.mount)?;
            on.mount.mounted_here.fetch_add(1, Relaxed);
            old.mount.mounted_here.fetch_sub(1, Relaxed);
            from.mount.on.lock().replace(on)
        };
        // Dropped outside the lock: a whole file system may go.
        drop(before);
        Ok(())
    }

    /// Unmounts what `at` is the top of: `EBUSY` while it is used, unless
    /// `lazy` (MNT_DETACH).
    pub fn unmount(&self, at: Place, lazy: bool) -> Result<()> {
        if !at.is_mount_root() {
            return Err(Errno::EINVAL);
        }
        let mount = at.mount.clone();
        drop(at);
        // The root of all stays.
        let on = mount.on.lock().clone().ok_or(Errno::EBUSY)?;
        let gone = {
            let mut mounts = self.mounts.lock();
            // Held by: the two tables and `mount`. Every place in it (working
            // directories, open files, mounts on it) holds it once more.
            if !lazy && Arc::strong_count(&mount) > 3 {
                return Err(Errno::EBUSY);
            }
            mounts.take_off(&on, &mount)?;
            let at = mounts.all.iter().position(|other| Arc::ptr_eq(other, &mount));
            at.map(|at| mounts.all.remove(at))
        };
        on.mount.mounted_here.fetch_sub(1, Relaxed);
        // Dropped outside the lock: a whole file system may go.
        drop(gone);
        Ok(())
    }

    /// `mount(2)` less what needs paths.
    pub fn is_propagation(flags: u32) -> bool {
        flags & MS_PROPAGATION != 0 && flags & (MS_BIND | MS_MOVE | MS_REMOUNT) == 0
    }

    /// `/proc/<pid>/mounts` as seen from `root`. How many there are and their
    /// names are EL0's: `ENOMEM` if the text finds no room.
    pub fn mounts_text(&self, root: &Place) -> Result<Vec<u8>> {
        let all: Vec<Arc<Mount>> = self.mounts.lock().all.clone();
        let mut text = Vec::new();
        for mount in all {
            // What lies outside a changed root isn't shown.
            let on = mount.on.lock().clone();
            let Ok(path) = Place::root_of(&mount).path(root) else { continue };
            if path.starts_with(b"(unreachable)") {
                continue;
            }
            let options = mount.fs.options();
            let names = mount.source.len().saturating_add(path.len());
            make_room(&mut text, names.saturating_add(options.len()))?;
            escape(mount.source.as_bytes(), &mut text);
            text.push(b' ');
            escape(&path, &mut text);
            text.push(b' ');
            text.extend_from_slice(mount.fs.name().as_bytes());
            let flags = mount.flags();
            text.extend_from_slice(if flags & MS_RDONLY != 0 { b" ro" } else { b" rw" });
            for (flag, name) in
                [(MS_NOSUID, ",nosuid"), (MS_NODEV, ",nodev"), (MS_NOEXEC, ",noexec")]
            {
                if flags & flag != 0 {
                    text.extend_from_slice(name.as_bytes());
                }
            }
            if on.is_some() {
                let atime = if flags & MS_NOATIME != 0 { ",noatime" } else { ",relatime" };
                text.extend_from_slice(atime.as_bytes());
            }
            text.extend_from_slice(options.as_bytes());
            text.extend_from_slice(b" 0 0\n");
        }
        Ok(text)
    }
}

impl Mounts {
    fn put_on(&mut self, on: &Place, mount: Arc<Mount>) -> Result<()> {
        let key = (on.mount.id, on.inode.ino());
        if let Some(stack) = self.on.get_mut(&key) {
            stack.make_room(1)?;
            stack.push(mount);
            return Ok(());
        }
        let mut stack = room::try_vec(1)?;
        stack.push(mount);
        room::try_insert(&mut self.on, key, stack)?;
        Ok(())
    }

    fn take_off(&mut self, on: &Place, mount: &Arc<Mount>) -> Result<()> {
        let key = (on.mount.id, on.inode.ino());
        let stack = self.on.get_mut(&key).ok_or(Errno::EINVAL)?;
        let at = stack.iter().position(|other| Arc::ptr_eq(other, mount)).ok_or(Errno::EINVAL)?;
        // The table of all still holds it.
        drop(stack.remove(at));
        if stack.is_empty() {
            self.on.remove(&key);
        }
        Ok(())
    }
}

/// As mangle_path does: blanks and backslashes in octal.
fn escape(name: &[u8], out: &mut Vec<u8>) {
    if name.is_empty() {
        out.extend_from_slice(b"none");
    }
    for &byte in name {
        match byte {
            b' ' => out.extend_from_slice(b"\\040"),
            b'\t' => out.extend_from_slice(b"\\011"),
            b'\n' => out.extend_from_slice(b"\\012"),
            b'\\' => out.extend_from_slice(b"\\134"),
            _ => out.push(byte),
        }
    }
}

fn skip_slashes(path: &[u8]) -> &[u8] {
    let start = path.iter().position(|&byte| byte != b'/').unwrap_or(path.len());
    path.get(start..).unwrap_or_default()
}

/// Where a resolution starts.
#[derive(Clone, Copy)]
pub struct WalkFrom<'a> {
    /// Who.
    pub caller: &'a Caller,
    /// The process's root.
    pub root: &'a Place,
    /// The working directory or the directory of `*at` calls.
    pub base: &'a Place,
}

/// What to do with a last component that is a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// Follow it.
    Yes,
    /// Leave it, unless a slash follows.
    No,
    /// The name itself is what matters: never follow it, nor cross a mount.
    Parent,
}

/// How a path ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Last {
    /// A name in `dir`.
    Name(Box<[u8]>),
    /// `/`.
    Root,
    /// `.`.
    Dot,
    /// `..`.
    DotDot,
    /// A magic link.
    Magic,
}

/// What a path led to.
#[derive(Clone, Debug)]
pub struct Walked {
    /// The directory of the last component.
    pub dir: Place,
    /// The last component.
    pub last: Last,
    /// What it names, if it exists.
    pub place: Option<Place>,
    /// Whether slashes followed.
    pub slash: bool,
}

impl Walked {
    /// What it names, or `ENOENT`.
    pub fn found(self) -> Result<Place> {
        self.place.ok_or(Errno::ENOENT)
    }
}
