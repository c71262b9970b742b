//! tmpfs: files in frames, directories in one tree per file system. Also what
//! the root file system, devtmpfs and memfds are made of.
//!
//! Locks: a file system's tree (all its directories' entries) is one lock at
//! `NAMESPACE`, so that renames are atomic; a node's attributes and a file's
//! pages are at `INODE`. Frames are taken and freed under the latter.

use crate::abi::{
    DevId, FileType, OpenFlags, RENAME_EXCHANGE, RENAME_NOREPLACE, Stat, StatFs, Timespec,
};
use crate::file::{Caller, DirEntry, DirSink, File, Io, Position, VmObject};
use crate::inode::{Clock, FileSystem, Inode, InodeRef, NewNode, OpenRequest, SetAttr};
use crate::pipe::Pipe;
use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use base::{Errno, Lock, PAGE_SIZE, Result, WaitQueue, grave, rank, room};
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use frame::{Fill, Frame, Size, Use};
use spin::Once;

/// TMPFS_MAGIC.
const MAGIC: u64 = 0x0102_1994;
/// The largest file: what fits in `off_t`.
const MAX_SIZE: u64 = i64::MAX as u64;
/// File contents touched under the lock in one go by `truncate` and
/// `fallocate`: the loop lets go of it after so many pages.
const BATCH: u64 = 512;

static BREATHE: Once<fn()> = Once::new();

/// Sets what is called between batches, with no lock held, for others to get
/// their turn.
pub fn set_breathe(breathe: fn()) {
    BREATHE.call_once(|| breathe);
}

pub(crate) fn breathe() {
    if let Some(breathe) = BREATHE.get() {
        breathe();
    }
}

/// How much a file system may hold.
struct Quota {
    pages: AtomicU64,
    limit: AtomicU64,
    inodes: AtomicU64,
    inode_limit: AtomicU64,
}

impl Quota {
    fn take_page(&self) -> Result<()> {
        let limit = self.limit.load(Relaxed);
        let more = |used: u64| (used < limit).then(|| used.wrapping_add(1));
        self.pages.fetch_update(Relaxed, Relaxed, more).map(drop).map_err(|_| Errno::ENOSPC)
    }

    fn give_pages(&self, count: u64) {
        self.pages.fetch_sub(count, Relaxed);
    }

    fn take_inode(&self) -> Result<()> {
        let limit = self.inode_limit.load(Relaxed);
        let more = |used: u64| (used < limit).then(|| used.wrapping_add(1));
        self.inodes.fetch_update(Relaxed, Relaxed, more).map(drop).map_err(|_| Errno::ENOSPC)
    }

    fn give_inode(&self) {
        self.inodes.fetch_sub(1, Relaxed);
    }
}

/// What `mount -o` sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TmpfsOptions {
    /// Pages, at most.
    pub pages: u64,
    /// Inodes, at most.
    pub inodes: u64,
    /// The root's permissions.
    pub mode: u32,
    /// The root's owner.
    pub uid: u32,
    /// The root's group.
    pub gid: u32,
    /// Whether the limits were given (and are shown in `/proc/mounts`).
    pub shown: bool,
}

impl TmpfsOptions {
    /// Linux's defaults for a machine with that many pages: half of them, as
    /// many inodes, mode 1777.
    pub fn new(ram_pages: u64) -> Self {
        let half = ram_pages / 2;
        TmpfsOptions { pages: half, inodes: half, mode: 0o1777, uid: 0, gid: 0, shown: false }
    }

    /// Reads `size=`, `nr_blocks=`, `nr_inodes=`, `mode=`, `uid=`, `gid=`.
    pub fn parse(mut self, data: &[u8]) -> Result<Self> {
        let ram = self.pages.saturating_mul(2);
        for option in data.split(|&byte| byte == b',').filter(|option| !option.is_empty()) {
            let at = option.iter().position(|&byte| byte == b'=').unwrap_or(option.len());
            let (key, value) = option.split_at_checked(at).ok_or(Errno::EINVAL)?;
            let value = core::str::from_utf8(value.get(1..).unwrap_or_default())
                .map_err(|_| Errno::EINVAL)?;
            match key {
                b"size" => {
                    self.pages = match value.strip_suffix('%') {
                        Some(percent) => {
                            let percent: u64 = percent.parse().map_err(|_| Errno::EINVAL)?;
                            ram.saturating_mul(percent) / 100
                        }
                        None => number(value)?.div_ceil(PAGE_SIZE),
                    };
                    self.shown = true;
                }
                b"nr_blocks" => {
                    self.pages = number(value)?;
                    self.shown = true;
                }
                b"nr_inodes" => {
                    self.inodes = number(value)?;
                    self.shown = true;
                }
                b"mode" => {
                    self.mode = u32::from_str_radix(value, 8).map_err(|_| Errno::EINVAL)? & 0o7777
                }
                b"uid" => self.uid = value.parse().map_err(|_| Errno::EINVAL)?,
                b"gid" => self.gid = value.parse().map_err(|_| Errno::EINVAL)?,
                b"huge" | b"mpol" | b"inode32" | b"inode64" | b"noswap" => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        // 0 means no limit.
        if self.pages == 0 {
            self.pages = u64::MAX;
        }
        if self.inodes == 0 {
            self.inodes = u64::MAX;
        }
        Ok(self)
    }
}

/// A number with `k`, `m` or `g` behind it.
fn number(text: &str) -> Result<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at_checked(split).ok_or(Errno::EINVAL)?;
    let value: u64 = digits.parse().map_err(|_| Errno::EINVAL)?;
    let shift = match unit {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        "t" | "T" => 40,
        _ => return Err(Errno::EINVAL),
    };
    value.checked_mul(1u64 << shift).ok_or(Errno::EINVAL)
}

static NEXT_DEV: AtomicU32 = AtomicU32::new(20);

/// An unused device number for a file system without a device (major 0).
pub fn new_dev() -> DevId {
    DevId::new(0, NEXT_DEV.fetch_add(1, Relaxed))
}

/// A tree in memory.
pub struct Tmpfs {
    name: &'static str,
    dev: DevId,
    clock: Arc<dyn Clock>,
    quota: Arc<Quota>,
    options: TmpfsOptions,
    next_ino: AtomicU64,
    tree: Lock<Tree>,
    root: Lock<Option<Arc<Node>>>,
}

/// All directories by inode number.
struct Tree {
    dirs: BTreeMap<u64, Dir>,
}

struct Dir {
    node: Weak<Node>,
    /// The directory above, and the name in it.
    up: Option<(u64, Box<[u8]>)>,
    names: BTreeMap<Arc<[u8]>, Slot>,
    /// Names by age: listing positions stay good while entries come and go.
    ages: BTreeMap<u64, Arc<[u8]>>,
    next_age: u64,
}

#[derive(Clone)]
struct Slot {
    node: Arc<Node>,
    age: u64,
}

impl Drop for Dir {
    fn drop(&mut self) {
        grave::bury(core::mem::take(&mut self.names));
        grave::bury(core::mem::take(&mut self.ages));
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        grave::bury(core::mem::take(&mut self.dirs));
    }
}

impl Dir {
    fn new(node: &Arc<Node>, up: Option<(u64, Box<[u8]>)>) -> Dir {
        Dir {
            node: Arc::downgrade(node),
            up,
            names: BTreeMap::new(),
            ages: BTreeMap::new(),
            next_age: 1,
        }
    }

    /// Asks for what [`Dir::insert`] takes, which then doesn't fail: names are
    /// short.
    fn room(&self) -> Result<()> {
        room::room_in(&self.ages)?;
        room::room_in(&self.names)
    }

    fn insert(&mut self, name: &[u8], node: Arc<Node>) {
        let name: Arc<[u8]> = name.into();
        let age = self.next_age;
        self.next_age = age.wrapping_add(1);
        self.ages.insert(age, name.clone());
        if let Some(old) = self.names.insert(name, Slot { node, age }) {
            self.ages.remove(&old.age);
        }
    }

    fn remove(&mut self, name: &[u8]) -> Option<Arc<Node>> {
        let slot = self.names.remove(name)?;
        self.ages.remove(&slot.age);
        Some(slot.node)
    }
}

/// A file, directory, link or node.
struct Node {
    this: Weak<Node>,
    fs: Weak<Tmpfs>,
    dev: DevId,
    ino: u64,
    clock: Arc<dyn Clock>,
    quota: Arc<Quota>,
    attr: Lock<Attr>,
    body: Body,
}

struct Attr {
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u32,
    atime: Timespec,
    mtime: Timespec,
    ctime: Timespec,
    btime: Timespec,
}

enum Body {
    Dir,
    File(Arc<Pages>),
    Symlink(Box<[u8]>),
    Device(FileType, DevId),
    Fifo(Arc<Pipe>),
    Socket,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.quota.give_inode();
    }
}

impl Tmpfs {
    /// An empty tree that calls itself `name` in `/proc/mounts`.
    pub fn new(
        name: &'static str,
        options: TmpfsOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Tmpfs>> {
        let quota = room::try_arc(Quota {
            pages: AtomicU64::new(0),
            limit: AtomicU64::new(options.pages),
            inodes: AtomicU64::new(1),
            inode_limit: AtomicU64::new(options.inodes),
        })?;
        let fs = room::try_arc(Tmpfs {
            name,
            dev: new_dev(),
            clock,
            quota,
            options,
            next_ino: AtomicU64::new(2),
            tree: Lock::new(rank::NAMESPACE, Tree { dirs: BTreeMap::new() }),
            root: Lock::new(rank::INODE, None),
        })?;
        let root = fs.node_numbered(1, options.mode, Body::Dir)?;
        {
            let mut attr = root.attr.lock();
            attr.uid = options.uid;
            attr.gid = options.gid;
        }
        room::try_insert(&mut fs.tree.lock().dirs, 1, Dir::new(&root, None))?;
        *fs.root.lock() = Some(root);
        Ok(fs)
    }

    fn node_numbered(self: &Arc<Self>, ino: u64, mode: u32, body: Body) -> Result<Arc<Node>> {
        let now = self.clock.realtime();
        let nlink = if matches!(body, Body::Dir) { 2 } else { 1 };
        room::try_arc_cyclic(|this| Node {
            this: this.clone(),
            fs: Arc::downgrade(self),
            dev: self.dev,
            ino,
            clock: self.clock.clone(),
            quota: self.quota.clone(),
            attr: Lock::new(
                rank::INODE,
                Attr {
                    mode,
                    uid: 0,
                    gid: 0,
                    nlink,
                    atime: now,
                    mtime: now,
                    ctime: now,
                    btime: now,
                },
            ),
            body,
        })
    }

    fn new_node(self: &Arc<Self>, new: &NewNode<'_>) -> Result<Arc<Node>> {
        let ino = self.next_ino.fetch_add(1, Relaxed);
        let body = match new.kind {
            FileType::Dir => Body::Dir,
            FileType::Regular => Body::File(Pages::new(self.quota.clone(), (self.dev, ino))?),
            FileType::Symlink => Body::Symlink(room::try_copy(new.target)?.into()),
            FileType::Fifo => Body::Fifo(Pipe::new()?),
            FileType::Socket => Body::Socket,
            kind @ (FileType::Char | FileType::Block) => Body::Device(kind, new.rdev),
        };
        self.quota.take_inode()?;
        let node = self.node_numbered(ino, new.mode & 0o7777, body);
        if node.is_err() {
            self.quota.give_inode();
        }
        node
    }
}

impl FileSystem for Tmpfs {
    fn name(&self) -> &'static str {
        self.name
    }
    fn root(&self) -> InodeRef {
        let root = self.root.lock().clone();
        match root {
            Some(root) => root,
            // Set when it was made.
            None => Arc::new(Gone),
        }
    }
    fn statfs(&self) -> StatFs {
        let (pages, limit) = (self.quota.pages.load(Relaxed), self.quota.limit.load(Relaxed));
        let (inodes, most) =
            (self.quota.inodes.load(Relaxed), self.quota.inode_limit.load(Relaxed));
        let blocks = if limit == u64::MAX { 0 } else { limit };
        let free = blocks.saturating_sub(pages);
        StatFs {
            f_type: MAGIC,
            f_bsize: PAGE_SIZE,
            f_blocks: blocks,
            f_bfree: free,
            f_bavail: free,
            f_files: if most == u64::MAX { 0 } else { most },
            f_ffree: if most == u64::MAX { 0 } else { most.saturating_sub(inodes) },
            f_fsid: [self.dev.minor as i32, 0],
            f_namelen: 255,
            f_frsize: PAGE_SIZE,
            f_flags: 0x20,
            f_spare: [0; 4],
        }
    }
    fn dev(&self) -> DevId {
        self.dev
    }
    fn options(&self) -> String {
        let mut text = String::new();
        let (pages, inodes) = (self.options.pages, self.options.inodes);
        if self.options.shown || self.name != "tmpfs" {
            if pages != u64::MAX {
                text.push_str(&alloc::format!(",size={}k", pages.saturating_mul(4)));
            }
            if inodes != u64::MAX && self.name != "tmpfs" {
                text.push_str(&alloc::format!(",nr_inodes={inodes}"));
            }
        }
        if self.options.mode != 0o1777 && self.name != "rootfs" {
            text.push_str(&alloc::format!(",mode={:o}", self.options.mode));
        }
        text
    }
}

/// The root of a file system that has none.
struct Gone;

impl Inode for Gone {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn ino(&self) -> u64 {
        0
    }
    fn kind(&self) -> FileType {
        FileType::Dir
    }
    fn stat(&self) -> Stat {
        Stat::default()
    }
    fn open(self: Arc<Self>, _request: &OpenRequest<'_>) -> Result<Arc<dyn File>> {
        Err(Errno::ESTALE)
    }
}

impl Node {
    fn fs(&self) -> Result<Arc<Tmpfs>> {
        self.fs.upgrade().ok_or(Errno::ESTALE)
    }

    fn touch(&self) {
        let now = self.clock.realtime();
        let mut attr = self.attr.lock();
        attr.mtime = now;
        attr.ctime = now;
    }

    fn add_links(&self, count: i32) {
        let now = self.clock.realtime();
        let mut attr = self.attr.lock();
        attr.nlink = attr.nlink.saturating_add_signed(count);
        attr.ctime = now;
    }

    /// Bookkeeping for a name that is gone.
    fn unnamed(&self) {
        if matches!(self.body, Body::Dir) {
            self.add_links(-2);
        } else {
            self.add_links(-1);
        }
    }

    fn is_dir(&self) -> bool {
        matches!(self.body, Body::Dir)
    }
}

fn as_node(inode: &InodeRef) -> Result<&Node> {
    inode.as_any().downcast_ref::<Node>().ok_or(Errno::EXDEV)
}

impl Tree {
    fn dir(&mut self, ino: u64) -> Result<&mut Dir> {
        self.dirs.get_mut(&ino).ok_or(Errno::ENOENT)
    }

    fn get(&self, ino: u64, name: &[u8]) -> Result<Option<Arc<Node>>> {
        let dir = self.dirs.get(&ino).ok_or(Errno::ENOENT)?;
        Ok(dir.names.get(name).map(|slot| slot.node.clone()))
    }

    fn is_empty(&self, ino: u64) -> bool {
        self.dirs.get(&ino).is_none_or(|dir| dir.names.is_empty())
    }

    /// Whether `inner` is `outer` or below it.
    fn within(&self, inner: u64, outer: u64) -> bool {
        let mut at = inner;
        loop {
            if at == outer {
                return true;
            }
            match self.dirs.get(&at).and_then(|dir| dir.up.as_ref()) {
                Some((up, _)) => at = *up,
                None => return false,
            }
        }
    }

    /// Notes where a directory that moved is now.
    fn moved(&mut self, node: &Node, up: u64, name: &[u8]) {
        if let Some(dir) = self.dirs.get_mut(&node.ino) {
            dir.up = Some((up, name.into()));
        }
    }
}

impl Inode for Node {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn ino(&self) -> u64 {
        self.ino
    }
    fn kind(&self) -> FileType {
        match &self.body {
            Body::Dir => FileType::Dir,
            Body::File(_) => FileType::Regular,
            Body::Symlink(_) => FileType::Symlink,
            Body::Device(kind, _) => *kind,
            Body::Fifo(_) => FileType::Fifo,
            Body::Socket => FileType::Socket,
        }
    }
    fn stat(&self) -> Stat {
        let names = match (&self.body, self.fs.upgrade()) {
            (Body::Dir, Some(fs)) => {
                fs.tree.lock().dirs.get(&self.ino).map_or(0, |dir| dir.names.len())
            }
            _ => 0,
        };
        let (size, pages) = match &self.body {
            // As shmem counts: 20 bytes a name, and 40 for `.` and `..`.
            Body::Dir => ((names as u64).saturating_mul(20).saturating_add(40), 0),
            Body::File(pages) => pages.usage(),
            Body::Symlink(target) => (target.len() as u64, 0),
            _ => (0, 0),
        };
        let attr = self.attr.lock();
        Stat {
            dev: self.dev,
            ino: self.ino,
            mode: self.kind().mode() | attr.mode,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            rdev: if let Body::Device(_, rdev) = self.body { rdev } else { DevId::default() },
            size,
            blocks: pages.saturating_mul(PAGE_SIZE / 512),
            atime: attr.atime,
            mtime: attr.mtime,
            ctime: attr.ctime,
            btime: attr.btime,
        }
    }

    fn lookup(&self, _caller: &Caller, name: &[u8]) -> Result<InodeRef> {
        if !self.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        let fs = self.fs()?;
        let found = fs.tree.lock().get(self.ino, name)?;
        found.map(|node| node as InodeRef).ok_or(Errno::ENOENT)
    }

    fn parent(&self) -> Option<(InodeRef, Box<[u8]>)> {
        let fs = self.fs.upgrade()?;
        let tree = fs.tree.lock();
        let (up, name) = tree.dirs.get(&self.ino)?.up.as_ref()?;
        let parent = tree.dirs.get(up)?.node.upgrade()?;
        Some((parent, name.clone()))
    }

    fn create(&self, name: &[u8], new: &NewNode<'_>) -> Result<InodeRef> {
        if !self.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        let fs = self.fs()?;
        let node = fs.new_node(new)?;
        {
            let mut tree = fs.tree.lock();
            if tree.get(self.ino, name)?.is_some() {
                return Err(Errno::EEXIST);
            }
            tree.dir(self.ino)?.room()?;
            if node.is_dir() {
                let up = (self.ino, room::try_copy(name)?.into());
                room::try_insert(&mut tree.dirs, node.ino, Dir::new(&node, Some(up)))?;
            }
            tree.dir(self.ino)?.insert(name, node.clone());
        }
        self.touch();
        if node.is_dir() {
            self.add_links(1);
        }
        Ok(node)
    }

    fn link(&self, name: &[u8], target: &InodeRef) -> Result<()> {
        let fs = self.fs()?;
        let source = as_node(target)?;
        if source.dev != self.dev {
            return Err(Errno::EXDEV);
        }
        if source.is_dir() {
            return Err(Errno::EPERM);
        }
        let node = source.this.upgrade().ok_or(Errno::ENOENT)?;
        if source.attr.lock().nlink == 0 {
            return Err(Errno::ENOENT);
        }
        {
            let mut tree = fs.tree.lock();
            if tree.get(self.ino, name)?.is_some() {
                return Err(Errno::EEXIST);
            }
            let dir = tree.dir(self.ino)?;
            dir.room()?;
            dir.insert(name, node);
        }
        source.add_links(1);
        self.touch();
        Ok(())
    }

    fn unlink(&self, name: &[u8]) -> Result<()> {
        let fs = self.fs()?;
        let gone = {
            let mut tree = fs.tree.lock();
            let node = tree.get(self.ino, name)?.ok_or(Errno::ENOENT)?;
            if node.is_dir() {
                return Err(Errno::EISDIR);
            }
            tree.dir(self.ino)?.remove(name);
            node
        };
        gone.unnamed();
        self.touch();
        Ok(())
    }

    fn rmdir(&self, name: &[u8]) -> Result<()> {
        let fs = self.fs()?;
        let gone = {
            let mut tree = fs.tree.lock();
            let node = tree.get(self.ino, name)?.ok_or(Errno::ENOENT)?;
            if !node.is_dir() {
                return Err(Errno::ENOTDIR);
            }
            if !tree.is_empty(node.ino) {
                return Err(Errno::ENOTEMPTY);
            }
            tree.dirs.remove(&node.ino);
            tree.dir(self.ino)?.remove(name);
            node
        };
        gone.unnamed();
        self.add_links(-1);
        self.touch();
        Ok(())
    }

    fn rename(&self, name: &[u8], to: &InodeRef, to_name: &[u8], flags: u32) -> Result<()> {
        let fs = self.fs()?;
        let to = as_node(to)?;
        if to.dev != self.dev {
            return Err(Errno::EXDEV);
        }
        let exchange = flags & RENAME_EXCHANGE != 0;
        let (replaced, moved) = {
            let mut tree = fs.tree.lock();
            let node = tree.get(self.ino, name)?.ok_or(Errno::ENOENT)?;
            let other = tree.get(to.ino, to_name)?;
            if other.is_some() && flags & RENAME_NOREPLACE != 0 {
                return Err(Errno::EEXIST);
            }
            // A directory can't go below itself.
            if node.is_dir() && tree.within(to.ino, node.ino) {
                return Err(Errno::EINVAL);
            }
            match &other {
                None if exchange => return Err(Errno::ENOENT),
                Some(other) if Arc::ptr_eq(other, &node) => return Ok(()),
                Some(other) if exchange => {
                    if other.is_dir() && tree.within(self.ino, other.ino) {
                        return Err(Errno::EINVAL);
                    }
                }
                Some(other) => {
                    if other.is_dir() && tree.within(self.ino, other.ino) {
                        return Err(Errno::ENOTEMPTY);
                    }
                    match (node.is_dir(), other.is_dir()) {
                        (true, false) => return Err(Errno::ENOTDIR),
                        (false, true) => return Err(Errno::EISDIR),
                        (true, true) if !tree.is_empty(other.ino) => return Err(Errno::ENOTEMPTY),
                        _ => {}
                    }
                }
                None => {}
            }
            tree.dir(self.ino)?.room()?;
            tree.dir(to.ino)?.room()?;
            tree.dir(self.ino)?.remove(name);
            if let Some(other) = &other {
                tree.dir(to.ino)?.remove(to_name);
                if exchange {
                    tree.dir(self.ino)?.insert(name, other.clone());
                    tree.moved(other, self.ino, name);
                } else if other.is_dir() {
                    tree.dirs.remove(&other.ino);
                }
            }
            tree.dir(to.ino)?.insert(to_name, node.clone());
            tree.moved(&node, to.ino, to_name);
            (other, node)
        };
        // Link counts: each directory counts in the one above it.
        if moved.is_dir() {
            self.add_links(-1);
            to.add_links(1);
        }
        if let Some(other) = replaced {
            if exchange {
                if other.is_dir() {
                    to.add_links(-1);
                    self.add_links(1);
                }
            } else {
                if other.is_dir() {
                    to.add_links(-1);
                }
                other.unnamed();
            }
        }
        moved.add_links(0);
        self.touch();
        to.touch();
        Ok(())
    }

    fn readlink(&self, _caller: &Caller) -> Result<Vec<u8>> {
        match &self.body {
            Body::Symlink(target) => room::try_copy(target),
            _ => Err(Errno::EINVAL),
        }
    }

    fn open(self: Arc<Self>, _request: &OpenRequest<'_>) -> Result<Arc<dyn File>> {
        match &self.body {
            Body::Dir => Ok(room::try_arc(OpenDir { node: self })?),
            Body::File(pages) => Ok(room::try_arc(OpenPages { pages: pages.clone(), node: self })?),
            Body::Symlink(_) => Err(Errno::ELOOP),
            Body::Device(..) | Body::Fifo(_) | Body::Socket => Err(Errno::ENXIO),
        }
    }

    fn fifo(&self) -> Option<Arc<Pipe>> {
        match &self.body {
            Body::Fifo(pipe) => Some(pipe.clone()),
            _ => None,
        }
    }

    fn set_attr(&self, change: &SetAttr) -> Result<()> {
        let now = self.clock.realtime();
        let mut attr = self.attr.lock();
        if let Some(mode) = change.mode {
            attr.mode = mode & 0o7777;
        }
        attr.uid = change.uid.unwrap_or(attr.uid);
        attr.gid = change.gid.unwrap_or(attr.gid);
        attr.atime = change.atime.unwrap_or(attr.atime);
        attr.mtime = change.mtime.unwrap_or(attr.mtime);
        attr.ctime = now;
        Ok(())
    }

    fn truncate(&self, size: u64) -> Result<()> {
        match &self.body {
            Body::File(pages) => {
                pages.resize(size)?;
                self.touch();
                Ok(())
            }
            Body::Dir => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }
}

struct OpenDir {
    node: Arc<Node>,
}

impl File for OpenDir {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn read(&self, _io: &mut Io<'_>, _buf: &mut [u8]) -> Result<usize> {
        Err(Errno::EISDIR)
    }
    fn position(&self) -> Position {
        Position::Loose
    }
    fn stat(&self) -> Result<Stat> {
        Ok(self.node.stat())
    }
    fn size(&self) -> Result<u64> {
        Ok(i64::MAX as u64)
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn readdir(&self, _caller: &Caller, position: u64, sink: &mut dyn DirSink) -> Result<u64> {
        let fs = self.node.fs()?;
        let mut position = position;
        let tree = fs.tree.lock();
        let dir = tree.dirs.get(&self.node.ino).ok_or(Errno::ENOENT)?;
        let up = dir.up.as_ref().map_or(self.node.ino, |(up, _)| *up);
        for (at, name, ino) in [(0u64, &b"."[..], self.node.ino), (1, &b".."[..], up)] {
            if position == at {
                let next = at.saturating_add(1);
                if !sink.add(&DirEntry { ino, next, kind: FileType::Dir, name }) {
                    return Ok(position);
                }
                position = next;
            }
        }
        // Newest first, as Linux lists a tmpfs. Positions from 3 on name the
        // age of the entry listed last.
        let below = position.checked_sub(2).filter(|age| *age != 0).unwrap_or(u64::MAX);
        for (age, name) in dir.ages.range(..below).rev() {
            let Some(slot) = dir.names.get(name) else { continue };
            let next = age.saturating_add(2);
            let entry = DirEntry { ino: slot.node.ino, next, kind: slot.node.kind(), name };
            if !sink.add(&entry) {
                break;
            }
            position = next;
        }
        Ok(position)
    }
}

/// Takes pages `first..end` of a file (device, inode) out of all address spaces.
pub type UnmapPages = fn(file: (DevId, u64), first: u64, end: u64);

static UNMAP: Once<UnmapPages> = Once::new();

/// Says how pages that a file loses leave the mappings of it; the first call
/// wins. It is called with no lock held, after the file has lost them.
pub fn set_unmap(unmap: UnmapPages) {
    UNMAP.call_once(|| unmap);
}

/// A regular file's contents.
pub struct Pages {
    state: Lock<PagesState>,
    quota: Arc<Quota>,
    id: (DevId, u64),
    /// Whether it was ever mapped.
    mapped: AtomicBool,
}

struct PagesState {
    frames: BTreeMap<u64, Frame>,
    size: u64,
    /// F_SEAL_* (memfds).
    seals: u32,
    /// How many shared mappings there are that may be written.
    writable_maps: usize,
}

impl PagesState {
    fn may_write(&self) -> Result<()> {
        match self.seals & (seal::WRITE | seal::FUTURE_WRITE) {
            0 => Ok(()),
            _ => Err(Errno::EPERM),
        }
    }
}

impl Pages {
    fn new(quota: Arc<Quota>, id: (DevId, u64)) -> Result<Arc<Pages>> {
        let state = PagesState { frames: BTreeMap::new(), size: 0, seals: 0, writable_maps: 0 };
        let mapped = AtomicBool::new(false);
        room::try_arc(Pages { state: Lock::new(rank::INODE, state), quota, id, mapped })
    }

    fn map(self: &Arc<Self>) -> Arc<dyn VmObject> {
        self.mapped.store(true, Relaxed);
        self.clone()
    }

    /// Takes lost pages out of who has them mapped.
    fn unmap(&self, first: u64, end: u64) {
        if self.mapped.load(Relaxed)
            && first < end
            && let Some(unmap) = UNMAP.get()
        {
            unmap(self.id, first, end);
        }
    }

    /// (size, pages)
    fn usage(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.size, state.frames.len() as u64)
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let state = self.state.lock();
        let left = state.size.saturating_sub(offset);
        let len = left.min(buf.len() as u64) as usize;
        let buf = buf.get_mut(..len).unwrap_or_default();
        for (piece, index, within) in pieces_mut(offset, buf) {
            match state.frames.get(&index) {
                Some(frame) => frame.read(within, piece)?,
                None => piece.fill(0),
            }
        }
        Ok(len)
    }

    /// Writes at `offset`, or at the end for `append`. Where, and how much.
    fn write(&self, offset: u64, append: bool, data: &[u8]) -> Result<(u64, usize)> {
        let mut state = self.state.lock();
        let offset = if append { state.size } else { offset };
        if data.is_empty() {
            return Ok((offset, 0));
        }
        let room = MAX_SIZE.checked_sub(offset).filter(|room| *room > 0).ok_or(Errno::EFBIG)?;
        let data = data.get(..data.len().min(room as usize)).unwrap_or(data);
        let end = offset.saturating_add(data.len() as u64);
        state.may_write()?;
        if end > state.size && state.seals & seal::GROW != 0 {
            return Err(Errno::EPERM);
        }
        let mut done = 0usize;
        for (piece, index, within) in pieces(offset, data) {
            let fill = if piece.len() as u64 == PAGE_SIZE { Fill::Stale } else { Fill::Zeroed };
            let wrote =
                state.page(index, fill, &self.quota).and_then(|frame| frame.write(within, piece));
            match wrote {
                Ok(()) => done = done.saturating_add(piece.len()),
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        state.size = state.size.max(offset.saturating_add(done as u64));
        Ok((offset, done))
    }

    /// Sets the size; what is cut off is freed, a batch of pages at a time.
    fn resize(&self, size: u64) -> Result<()> {
        if size > MAX_SIZE {
            return Err(Errno::EFBIG);
        }
        {
            let mut state = self.state.lock();
            let sealed = if size < state.size { seal::SHRINK } else { seal::GROW };
            if size != state.size && state.seals & sealed != 0 {
                return Err(Errno::EPERM);
            }
            let within = size % PAGE_SIZE;
            // What a later growth uncovers reads as zeros.
            if size < state.size
                && within != 0
                && let Some(frame) = state.frames.get(&(size / PAGE_SIZE))
            {
                frame.fill_zero(within..PAGE_SIZE)?;
            }
            state.size = size;
        }
        // From here on faults past the size fail: what is mapped now is all.
        let first = size.div_ceil(PAGE_SIZE);
        if self.punch(first, u64::MAX) {
            self.unmap(first, u64::MAX);
        }
        Ok(())
    }

    /// Frees the pages `from..to`. Whether there were any.
    fn punch(&self, from: u64, to: u64) -> bool {
        let mut any = false;
        loop {
            // Freed after the lock is let go.
            let mut freed = Vec::new();
            {
                let mut state = self.state.lock();
                for _ in 0..BATCH {
                    let Some(index) = state.frames.range(from..to).next().map(|(index, _)| *index)
                    else {
                        break;
                    };
                    freed.extend(state.frames.remove(&index));
                }
            }
            if freed.is_empty() {
                return any;
            }
            any = true;
            self.quota.give_pages(freed.len() as u64);
            drop(freed);
            breathe();
        }
    }

    fn fallocate(&self, mode: u32, offset: u64, len: u64) -> Result<()> {
        const KEEP_SIZE: u32 = 1;
        const PUNCH_HOLE: u32 = 2;
        let end = offset.checked_add(len).ok_or(Errno::EFBIG)?;
        match mode {
            0 | KEEP_SIZE => {
                {
                    let state = self.state.lock();
                    if end > state.size && state.seals & seal::GROW != 0 {
                        return Err(Errno::EPERM);
                    }
                }
                let pages = len.div_ceil(PAGE_SIZE);
                let used = self.quota.pages.load(Relaxed);
                if pages > self.quota.limit.load(Relaxed).saturating_sub(used) {
                    return Err(Errno::ENOSPC);
                }
                for index in offset / PAGE_SIZE..end.div_ceil(PAGE_SIZE) {
                    self.state.lock().page(index, Fill::Zeroed, &self.quota)?;
                    if index.is_multiple_of(BATCH) {
                        breathe();
                    }
                }
                if mode & KEEP_SIZE == 0 {
                    let mut state = self.state.lock();
                    state.size = state.size.max(end);
                }
                Ok(())
            }
            m if m == KEEP_SIZE | PUNCH_HOLE => {
                {
                    let state = self.state.lock();
                    state.may_write()?;
                    // The edges stay, zeroed.
                    let (first, last) = (offset / PAGE_SIZE, end / PAGE_SIZE);
                    if first == last {
                        if let Some(frame) = state.frames.get(&first) {
                            frame.fill_zero(offset % PAGE_SIZE..end % PAGE_SIZE)?;
                        }
                        return Ok(());
                    }
                    if !offset.is_multiple_of(PAGE_SIZE)
                        && let Some(frame) = state.frames.get(&first)
                    {
                        frame.fill_zero(offset % PAGE_SIZE..PAGE_SIZE)?;
                    }
                    if !end.is_multiple_of(PAGE_SIZE)
                        && let Some(frame) = state.frames.get(&last)
                    {
                        frame.fill_zero(0..end % PAGE_SIZE)?;
                    }
                }
                let (first, last) = (offset.div_ceil(PAGE_SIZE), end / PAGE_SIZE);
                if first < last && self.punch(first, last) {
                    self.unmap(first, last);
                }
                Ok(())
            }
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn seek_data(&self, offset: u64, hole: bool) -> Result<u64> {
        let state = self.state.lock();
        if offset >= state.size {
            return Err(Errno::ENXIO);
        }
        let first = offset / PAGE_SIZE;
        if !hole {
            let index =
                state.frames.range(first..).next().map(|(index, _)| *index).ok_or(Errno::ENXIO)?;
            let at = index.saturating_mul(PAGE_SIZE).max(offset);
            return if at < state.size { Ok(at) } else { Err(Errno::ENXIO) };
        }
        let mut next = first;
        for (index, _) in state.frames.range(first..) {
            if *index != next {
                break;
            }
            next = next.saturating_add(1);
        }
        Ok(next.saturating_mul(PAGE_SIZE).max(offset).min(state.size))
    }
}

impl PagesState {
    fn page(&mut self, index: u64, fill: Fill, quota: &Quota) -> Result<&Frame> {
        use alloc::collections::btree_map::Entry;
        let room = match self.frames.contains_key(&index) {
            true => Ok(()),
            false => room::room_in(&self.frames),
        };
        match self.frames.entry(index) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                quota.take_page()?;
                let frame = room.and_then(|()| Frame::alloc_as(Use::Shared, Size::Page, fill));
                match frame {
                    Ok(frame) => Ok(entry.insert(frame)),
                    Err(_) => {
                        quota.give_pages(1);
                        Err(Errno::ENOSPC)
                    }
                }
            }
        }
    }
}

impl VmObject for Pages {
    fn frame(&self, index: u64, for_write: bool) -> Result<Frame> {
        let mut state = self.state.lock();
        if index >= state.size.div_ceil(PAGE_SIZE) {
            return Err(Errno::EFAULT);
        }
        if for_write && state.seals & seal::WRITE != 0 {
            return Err(Errno::EPERM);
        }
        state.page(index, Fill::Zeroed, &self.quota).cloned()
    }
    fn map_writable(&self) -> Result<()> {
        let mut state = self.state.lock();
        state.may_write()?;
        state.writable_maps = state.writable_maps.saturating_add(1);
        Ok(())
    }
    fn unmap_writable(&self) {
        let mut state = self.state.lock();
        state.writable_maps = state.writable_maps.saturating_sub(1);
    }
    fn len(&self) -> u64 {
        self.state.lock().size
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let frames = core::mem::take(&mut self.state.get_mut().frames);
        self.quota.give_pages(frames.len() as u64);
        grave::bury(frames);
    }
}

/// Cuts a range of a file at page borders: (piece, page index, offset in page).
fn pieces(offset: u64, data: &[u8]) -> impl Iterator<Item = (&[u8], u64, u64)> {
    let mut rest = data;
    let mut at = offset;
    core::iter::from_fn(move || {
        let within = at % PAGE_SIZE;
        let take = rest.len().min(PAGE_SIZE.wrapping_sub(within) as usize);
        let (piece, after) = rest.split_at_checked(take).filter(|(piece, _)| !piece.is_empty())?;
        let index = at / PAGE_SIZE;
        rest = after;
        at = at.saturating_add(take as u64);
        Some((piece, index, within))
    })
}

fn pieces_mut(offset: u64, data: &mut [u8]) -> impl Iterator<Item = (&mut [u8], u64, u64)> {
    let mut rest = Some(data);
    let mut at = offset;
    core::iter::from_fn(move || {
        let all = rest.take()?;
        let within = at % PAGE_SIZE;
        let take = all.len().min(PAGE_SIZE.wrapping_sub(within) as usize);
        if take == 0 {
            return None;
        }
        let (piece, after) = all.split_at_mut_checked(take)?;
        let index = at / PAGE_SIZE;
        rest = Some(after);
        at = at.saturating_add(take as u64);
        Some((piece, index, within))
    })
}

/// An open regular file.
struct OpenPages {
    pages: Arc<Pages>,
    node: Arc<Node>,
}

impl File for OpenPages {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn read(&self, io: &mut Io<'_>, buf: &mut [u8]) -> Result<usize> {
        self.pages.read(io.offset, buf)
    }
    fn write(&self, io: &mut Io<'_>, data: &[u8]) -> Result<usize> {
        let append = io.flags.contains(OpenFlags::APPEND);
        let (at, done) = self.pages.write(io.offset, append, data)?;
        io.offset = at;
        self.node.touch();
        Ok(done)
    }
    fn position(&self) -> Position {
        Position::Kept
    }
    fn size(&self) -> Result<u64> {
        Ok(self.pages.usage().0)
    }
    fn seek_data(&self, offset: u64, hole: bool) -> Result<u64> {
        self.pages.seek_data(offset, hole)
    }
    fn stat(&self) -> Result<Stat> {
        Ok(self.node.stat())
    }
    fn mmap(&self) -> Result<Arc<dyn VmObject>> {
        Ok(self.pages.map())
    }
    fn truncate(&self, size: u64) -> Result<()> {
        self.pages.resize(size)?;
        self.node.touch();
        Ok(())
    }
    fn fallocate(&self, mode: u32, offset: u64, len: u64) -> Result<()> {
        self.pages.fallocate(mode, offset, len)
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

/// F_SEAL_*.
pub mod seal {
    /// No more seals.
    pub const SEAL: u32 = 1;
    /// Can't shrink.
    pub const SHRINK: u32 = 2;
    /// Can't grow.
    pub const GROW: u32 = 4;
    /// Can't be written.
    pub const WRITE: u32 = 8;
    /// Can't be written through new mappings.
    pub const FUTURE_WRITE: u32 = 16;
    /// All that are known.
    pub const ALL: u32 = 31;
}

/// A file without a name (`memfd_create`).
pub struct MemFd {
    pages: Arc<Pages>,
    name: Box<str>,
    ino: u64,
    clock: Arc<dyn Clock>,
    born: Timespec,
}

/// The device of memfds: the kernel's own tmpfs.
const MEMFD_DEV: DevId = DevId::new(0, 1);
static NEXT_MEMFD: AtomicU64 = AtomicU64::new(2);

impl MemFd {
    /// An empty file with room for `max_pages`.
    pub fn new(
        name: &[u8],
        allow_sealing: bool,
        max_pages: u64,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<MemFd>> {
        let quota = room::try_arc(Quota {
            pages: AtomicU64::new(0),
            limit: AtomicU64::new(max_pages),
            inodes: AtomicU64::new(1),
            inode_limit: AtomicU64::new(1),
        })?;
        let ino = NEXT_MEMFD.fetch_add(1, Relaxed);
        let pages = Pages::new(quota, (MEMFD_DEV, ino))?;
        if !allow_sealing {
            pages.state.lock().seals = seal::SEAL;
        }
        room::try_arc(MemFd {
            pages,
            name: String::from_utf8_lossy(name).into(),
            ino,
            born: clock.realtime(),
            clock,
        })
    }

    /// F_ADD_SEALS: `EBUSY` for F_SEAL_WRITE while a shared mapping may be
    /// written.
    pub fn add_seals(&self, seals: u32) -> Result<()> {
        if seals & !seal::ALL != 0 {
            return Err(Errno::EINVAL);
        }
        let mut state = self.pages.state.lock();
        if state.seals & seal::SEAL != 0 {
            return Err(Errno::EPERM);
        }
        let adds_write = seals & !state.seals & seal::WRITE != 0;
        if adds_write && state.writable_maps > 0 {
            return Err(Errno::EBUSY);
        }
        state.seals |= seals;
        Ok(())
    }

    /// F_GET_SEALS.
    pub fn seals(&self) -> u32 {
        self.pages.state.lock().seals
    }
}

impl File for MemFd {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn read(&self, io: &mut Io<'_>, buf: &mut [u8]) -> Result<usize> {
        self.pages.read(io.offset, buf)
    }
    fn write(&self, io: &mut Io<'_>, data: &[u8]) -> Result<usize> {
        let (at, done) = self.pages.write(io.offset, io.flags.contains(OpenFlags::APPEND), data)?;
        io.offset = at;
        Ok(done)
    }
    fn position(&self) -> Position {
        Position::Kept
    }
    fn size(&self) -> Result<u64> {
        Ok(self.pages.usage().0)
    }
    fn seek_data(&self, offset: u64, hole: bool) -> Result<u64> {
        self.pages.seek_data(offset, hole)
    }
    fn wait_queue(&self) -> Option<&WaitQueue> {
        None
    }
    fn stat(&self) -> Result<Stat> {
        let (size, pages) = self.pages.usage();
        let now = self.clock.realtime();
        Ok(Stat {
            dev: MEMFD_DEV,
            ino: self.ino,
            mode: FileType::Regular.mode() | 0o777,
            nlink: 0,
            size,
            blocks: pages.saturating_mul(PAGE_SIZE / 512),
            atime: self.born,
            mtime: now,
            ctime: now,
            btime: self.born,
            ..Stat::default()
        })
    }
    fn mmap(&self) -> Result<Arc<dyn VmObject>> {
        Ok(self.pages.map())
    }
    fn truncate(&self, size: u64) -> Result<()> {
        self.pages.resize(size)
    }
    fn fallocate(&self, mode: u32, offset: u64, len: u64) -> Result<()> {
        self.pages.fallocate(mode, offset, len)
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
    fn describe(&self) -> Cow<'static, str> {
        Cow::Owned(alloc::format!("/memfd:{} (deleted)", self.name))
    }
}
