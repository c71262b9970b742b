//! Trees whose files are made up when they are read: what procfs and sysfs are
//! built of.
//!
//! Locks: a directory's children are at `NAMESPACE`, a file's text at `INODE`;
//! generators are called with neither held, so that they may take any lock.

use crate::abi::{DevId, FileType, Stat, StatFs};
use crate::file::{Caller, DirEntry, DirSink, File, Io, Position};
use crate::inode::{FileSystem, Inode, InodeRef, OpenRequest, SetAttr};
use crate::path::Place;
use crate::tmpfs::new_dev;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use base::{Errno, Lock, Result, Room, rank, room};
use core::any::Any;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Makes a file's text.
pub type Generate = dyn Fn(&Caller) -> Result<Vec<u8>> + Send + Sync;
/// Takes what is written to a file.
pub type Store = dyn Fn(&Caller, &[u8]) -> Result<()> + Send + Sync;

/// The longest text that a write to such a file may have.
const STORE_MAX: usize = 4096;

/// Makes room for a line with `names` bytes of names in it, which escapes make
/// up to four times as long, and some numbers.
pub(crate) fn make_room(text: &mut Vec<u8>, names: usize) -> Result<()> {
    let most = names.saturating_mul(4).saturating_add(256);
    text.make_room(most)
}

/// Attributes that all nodes of a tree share.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// The tree's device number.
    pub dev: DevId,
    /// What files say their size is.
    pub file_size: u64,
    /// All times.
    pub born: crate::abi::Timespec,
}

impl Look {
    /// What `stat` tells about a node.
    pub fn stat(&self, ino: u64, kind: FileType, mode: u32) -> Stat {
        Stat {
            dev: self.dev,
            ino,
            mode: kind.mode() | mode,
            nlink: if kind == FileType::Dir { 2 } else { 1 },
            size: if kind == FileType::Regular { self.file_size } else { 0 },
            atime: self.born,
            mtime: self.born,
            ctime: self.born,
            btime: self.born,
            ..Stat::default()
        }
    }
}

/// An entry of a made-up directory: position, name, inode number, kind.
pub type Listed = (u64, Box<[u8]>, u64, FileType);

/// A directory that can say what is in it.
pub trait Lister: Inode {
    /// The entries (less `.` and `..`) from a position on, in order; positions
    /// are 2 and up. It may stop anywhere after the first.
    fn list(&self, caller: &Caller, from: u64) -> Result<Vec<Listed>>;
}

/// An open made-up directory.
pub struct OpenList<D> {
    dir: Arc<D>,
}

impl<D: Lister> OpenList<D> {
    /// Opens one.
    pub fn open(dir: Arc<D>) -> Result<Arc<dyn File>> {
        Ok(room::try_arc(OpenList { dir })?)
    }
}

impl<D: Lister> File for OpenList<D> {
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
        Ok(self.dir.stat())
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
    fn readdir(&self, caller: &Caller, position: u64, sink: &mut dyn DirSink) -> Result<u64> {
        let mut position = position;
        let ino = self.dir.ino();
        let up = self.dir.parent().map_or(ino, |(parent, _)| parent.ino());
        for (at, name, ino) in [(0u64, &b"."[..], ino), (1, &b".."[..], up)] {
            if position == at {
                let next = at.saturating_add(1);
                if !sink.add(&DirEntry { ino, next, kind: FileType::Dir, name }) {
                    return Ok(position);
                }
                position = next;
            }
        }
        for (at, name, ino, kind) in self.dir.list(caller, position)? {
            let next = at.saturating_add(1);
            if !sink.add(&DirEntry { ino, next, kind, name: &name }) {
                break;
            }
            position = next;
        }
        Ok(position)
    }
}

/// A tree of made-up files.
pub struct SynthFs {
    name: &'static str,
    magic: u64,
    look: Look,
    root: InodeRef,
}

impl SynthFs {
    /// A tree with `root` on top.
    pub fn new(name: &'static str, magic: u64, look: Look, root: InodeRef) -> Arc<SynthFs> {
        Arc::new(SynthFs { name, magic, look, root })
    }
}

impl FileSystem for SynthFs {
    fn name(&self) -> &'static str {
        self.name
    }
    fn root(&self) -> InodeRef {
        self.root.clone()
    }
    fn statfs(&self) -> StatFs {
        StatFs {
            f_type: self.magic,
            f_bsize: 4096,
            f_frsize: 4096,
            f_namelen: 255,
            f_fsid: [self.look.dev.minor as i32, 0],
            ..StatFs::default()
        }
    }
    fn dev(&self) -> DevId {
        self.look.dev
    }
}

/// A look for a new tree.
pub fn look(file_size: u64, born: crate::abi::Timespec) -> Look {
    Look { dev: new_dev(), file_size, born }
}

/// A directory of fixed names.
pub struct Dir {
    this: Weak<Dir>,
    ino: u64,
    look: Look,
    up: Option<(Weak<Dir>, Box<[u8]>)>,
    next_ino: Arc<AtomicU64>,
    children: Lock<BTreeMap<Box<[u8]>, InodeRef>>,
}

impl Dir {
    /// The top of a tree. Inode numbers below 2^32 are this tree's.
    pub fn root(look: Look) -> Arc<Dir> {
        Self::make(look, 1, None, Arc::new(AtomicU64::new(2)))
    }

    fn make(
        look: Look,
        ino: u64,
        up: Option<(Weak<Dir>, Box<[u8]>)>,
        next_ino: Arc<AtomicU64>,
    ) -> Arc<Dir> {
        Arc::new_cyclic(|this| Dir {
            this: this.clone(),
            ino,
            look,
            up,
            next_ino,
            children: Lock::new(rank::NAMESPACE, BTreeMap::new()),
        })
    }

    /// The directory `path`, made with all above it if it isn't there.
    pub fn dir(&self, path: &str) -> Arc<Dir> {
        let mut at = self.this.clone();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let Some(dir) = at.upgrade() else { break };
            let there = dir.children.lock().get(name.as_bytes()).cloned();
            let there = there
                .and_then(|inode| inode.as_any().downcast_ref::<Dir>().map(|dir| dir.this.clone()));
            at = match there {
                Some(child) => child,
                None => {
                    let ino = self.next_ino.fetch_add(1, Relaxed);
                    let up = Some((dir.this.clone(), name.as_bytes().into()));
                    let child = Self::make(self.look, ino, up, self.next_ino.clone());
                    let weak = Arc::downgrade(&child);
                    dir.children.lock().insert(name.as_bytes().into(), child);
                    weak
                }
            };
        }
        // Held by its parent; only a tree being torn down has none.
        at.upgrade().unwrap_or_else(|| Self::make(self.look, 0, None, self.next_ino.clone()))
    }

    /// Adds (or replaces) any inode at `path`.
    pub fn add(&self, path: &str, inode: impl FnOnce(u64) -> InodeRef) {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let inode = inode(self.next_ino.fetch_add(1, Relaxed));
        let old = self.dir(dir).children.lock().insert(name.as_bytes().into(), inode);
        drop(old);
    }

    /// Adds a file that is read.
    pub fn file(
        &self,
        path: &str,
        generate: impl Fn(&Caller) -> Result<Vec<u8>> + Send + Sync + 'static,
    ) {
        self.add(path, |ino| Text::inode(self.look, ino, 0o444, Arc::new(generate), None));
    }

    /// Adds a file that never changes.
    pub fn fixed(&self, path: &str, text: impl Into<String>) {
        let text: String = text.into();
        self.file(path, move |_| Ok(text.clone().into_bytes()));
    }

    /// Adds a file that is read and written.
    pub fn setting(
        &self,
        path: &str,
        generate: impl Fn(&Caller) -> Result<Vec<u8>> + Send + Sync + 'static,
        store: impl Fn(&Caller, &[u8]) -> Result<()> + Send + Sync + 'static,
    ) {
        self.add(path, |ino| {
            Text::inode(self.look, ino, 0o644, Arc::new(generate), Some(Arc::new(store)))
        });
    }

    /// Adds a symbolic link.
    pub fn link(
        &self,
        path: &str,
        target: impl Fn(&Caller) -> Result<Vec<u8>> + Send + Sync + 'static,
    ) {
        self.add(path, |ino| {
            Arc::new(Link { look: self.look, ino, target: Box::new(target), follow: None })
        });
    }
}

impl Inode for Dir {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn ino(&self) -> u64 {
        self.ino
    }
    fn kind(&self) -> FileType {
        FileType::Dir
    }
    fn stat(&self) -> Stat {
        let dirs =
            self.children.lock().values().filter(|child| child.kind() == FileType::Dir).count()
                as u32;
        Stat { nlink: dirs.saturating_add(2), ..self.look.stat(self.ino, FileType::Dir, 0o555) }
    }
    fn lookup(&self, _caller: &Caller, name: &[u8]) -> Result<InodeRef> {
        self.children.lock().get(name).cloned().ok_or(Errno::ENOENT)
    }
    fn parent(&self) -> Option<(InodeRef, Box<[u8]>)> {
        let (up, name) = self.up.as_ref()?;
        Some((up.upgrade()?, name.clone()))
    }
    fn open(self: Arc<Self>, _request: &OpenRequest<'_>) -> Result<Arc<dyn File>> {
        OpenList::open(self)
    }
}

impl Lister for Dir {
    fn list(&self, _caller: &Caller, from: u64) -> Result<Vec<Listed>> {
        let children = self.children.lock();
        let skip = from.saturating_sub(2);
        let entries = children.iter().zip(2u64..).skip(usize::try_from(skip).unwrap_or(usize::MAX));
        let mut listed = room::try_vec(children.len())?;
        for ((name, child), at) in entries {
            listed.push((at, room::try_copy(name)?.into(), child.ino(), child.kind()));
        }
        Ok(listed)
    }
}

/// A file whose text is made when it is read from its start.
pub struct Text {
    look: Look,
    ino: u64,
    mode: u32,
    generate: Arc<Generate>,
    store: Option<Arc<Store>>,
}

impl Text {
    /// A file.
    pub fn inode(
        look: Look,
        ino: u64,
        mode: u32,
        generate: Arc<Generate>,
        store: Option<Arc<Store>>,
    ) -> InodeRef {
        Arc::new(Text { look, ino, mode, generate, store })
    }
}

impl Inode for Text {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn ino(&self) -> u64 {
        self.ino
    }
    fn kind(&self) -> FileType {
        FileType::Regular
    }
    fn stat(&self) -> Stat {
        self.look.stat(self.ino, FileType::Regular, self.mode)
    }
    fn open(self: Arc<Self>, request: &OpenRequest<'_>) -> Result<Arc<dyn File>> {
        if request.flags.writable() && self.store.is_none() {
            return Err(Errno::EACCES);
        }
        Ok(room::try_arc(OpenText { node: self, text: Lock::new(rank::INODE, None) })?)
    }
    fn set_attr(&self, attr: &SetAttr) -> Result<()> {
        // Times may be "set": `touch` and `cp -a` try.
        if attr.mode.is_none() && attr.uid.is_none() && attr.gid.is_none() {
            Ok(())
        } else {
            Err(Errno::EPERM)
        }
    }
    fn truncate(&self, _size: u64) -> Result<()> {
        // `>` opens with O_TRUNC.
        if self.store.is_some() { Ok(()) } else { Err(Errno::EINVAL) }
    }
}

struct OpenText {
    node: Arc<Text>,
    text: Lock<Option<Arc<Vec<u8>>>>,
}

impl File for OpenText {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn read(&self, io: &mut Io<'_>, buf: &mut [u8]) -> Result<usize> {
        let have = if io.offset == 0 { None } else { self.text.lock().clone() };
        let text = match have {
            Some(text) => text,
            None => {
                let text = room::try_arc((self.node.generate)(io.caller)?)?;
                let old = self.text.lock().replace(text.clone());
                drop(old);
                text
            }
        };
        let offset = usize::try_from(io.offset).unwrap_or(usize::MAX);
        let rest = text.get(offset..).unwrap_or_default();
        let count = rest.len().min(buf.len());
        let (Some(to), Some(from)) = (buf.get_mut(..count), rest.get(..count)) else {
            return Ok(0);
        };
        to.copy_from_slice(from);
        Ok(count)
    }
    fn write(&self, io: &mut Io<'_>, data: &[u8]) -> Result<usize> {
        let store = self.node.store.as_ref().ok_or(Errno::EINVAL)?;
        if data.len() > STORE_MAX {
            return Err(Errno::EINVAL);
        }
        store(io.caller, data)?;
        Ok(data.len())
    }
    fn position(&self) -> Position {
        Position::Loose
    }
    fn stat(&self) -> Result<Stat> {
        Ok(self.node.stat())
    }
    fn truncate(&self, size: u64) -> Result<()> {
        self.node.truncate(size)
    }
}

type Target = dyn Fn(&Caller) -> Result<Vec<u8>> + Send + Sync;
type FollowTo = dyn Fn(&Caller) -> Result<Place> + Send + Sync;

/// A symbolic link whose target is made up.
pub struct Link {
    look: Look,
    ino: u64,
    target: Box<Target>,
    follow: Option<Box<FollowTo>>,
}

impl Link {
    /// A link that leads where `follow` says, whatever `target` reads.
    pub fn magic(
        look: Look,
        ino: u64,
        target: impl Fn(&Caller) -> Result<Vec<u8>> + Send + Sync + 'static,
        follow: impl Fn(&Caller) -> Result<Place> + Send + Sync + 'static,
    ) -> InodeRef {
        Arc::new(Link { look, ino, target: Box::new(target), follow: Some(Box::new(follow)) })
    }
}

impl Inode for Link {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn ino(&self) -> u64 {
        self.ino
    }
    fn kind(&self) -> FileType {
        FileType::Symlink
    }
    fn stat(&self) -> Stat {
        self.look.stat(self.ino, FileType::Symlink, 0o777)
    }
    fn readlink(&self, caller: &Caller) -> Result<Vec<u8>> {
        (self.target)(caller)
    }
    fn follow(&self, caller: &Caller) -> Option<Result<Place>> {
        self.follow.as_ref().map(|follow| follow(caller))
    }
    fn open(self: Arc<Self>, _request: &OpenRequest<'_>) -> Result<Arc<dyn File>> {
        Err(Errno::ELOOP)
    }
}
