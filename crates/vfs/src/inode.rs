//! What file systems are made of.

use crate::abi::{DevId, FileType, OpenFlags, Stat, StatFs, Timespec};
use crate::file::{Caller, File};
use crate::path::Place;
use crate::pipe::Pipe;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use base::{Errno, Result};
use core::any::Any;

/// A counted inode.
pub type InodeRef = Arc<dyn Inode>;

/// What a new file is to be.
#[derive(Clone, Copy, Debug)]
pub struct NewNode<'a> {
    /// Its kind.
    pub kind: FileType,
    /// Permission bits, the umask taken off.
    pub mode: u32,
    /// For device nodes.
    pub rdev: DevId,
    /// For symbolic links.
    pub target: &'a [u8],
}

/// Changes to an inode; `None` leaves things as they are.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Access time.
    pub atime: Option<Timespec>,
    /// Modification time.
    pub mtime: Option<Timespec>,
}

/// How a file is being opened.
#[derive(Clone, Copy, Debug)]
pub struct OpenRequest<'a> {
    /// Who.
    pub caller: &'a Caller,
    /// How.
    pub flags: OpenFlags,
}

/// A file, directory, link or node of a file system. The defaults are those of
/// something that is not a directory and can't be changed.
pub trait Inode: Send + Sync + 'static {
    /// For downcasts within a file system.
    fn as_any(&self) -> &dyn Any;
    /// Its number, unique within the file system.
    fn ino(&self) -> u64;
    /// Its kind; never changes.
    fn kind(&self) -> FileType;
    /// What `stat` tells.
    fn stat(&self) -> Stat;

    /// Finds a name (never `.` or `..`) in a directory.
    fn lookup(&self, _caller: &Caller, _name: &[u8]) -> Result<InodeRef> {
        Err(Errno::ENOTDIR)
    }
    /// A directory's own directory, and its name there; `None` for the root
    /// and for what was removed.
    fn parent(&self) -> Option<(InodeRef, Box<[u8]>)> {
        None
    }
    /// Makes something in a directory; `EEXIST` if the name is taken.
    fn create(&self, _name: &[u8], _new: &NewNode<'_>) -> Result<InodeRef> {
        Err(Errno::EPERM)
    }
    /// Gives `target` a name more in this directory.
    fn link(&self, _name: &[u8], _target: &InodeRef) -> Result<()> {
        Err(Errno::EPERM)
    }
    /// Removes a name that isn't a directory's.
    fn unlink(&self, _name: &[u8]) -> Result<()> {
        Err(Errno::EPERM)
    }
    /// Removes an empty directory.
    fn rmdir(&self, _name: &[u8]) -> Result<()> {
        Err(Errno::EPERM)
    }
    /// Moves a name from this directory to `to`, of the same file system.
    fn rename(&self, _name: &[u8], _to: &InodeRef, _to_name: &[u8], _flags: u32) -> Result<()> {
        Err(Errno::EPERM)
    }
    /// A symbolic link's target.
    fn readlink(&self, _caller: &Caller) -> Result<Vec<u8>> {
        Err(Errno::EINVAL)
    }
    /// Where a magic link (`/proc/self/exe`, `fd/N`) leads without a path.
    fn follow(&self, _caller: &Caller) -> Option<Result<Place>> {
        None
    }
    /// Opens it (not for FIFOs and device nodes: those are opened through
    /// [`Inode::fifo`] and the registry of devices).
    fn open(self: Arc<Self>, request: &OpenRequest<'_>) -> Result<Arc<dyn File>>;
    /// The pipe behind a FIFO.
    fn fifo(&self) -> Option<Arc<Pipe>> {
        None
    }
    /// Changes attributes.
    fn set_attr(&self, _attr: &SetAttr) -> Result<()> {
        Err(Errno::EPERM)
    }
    /// Cuts or grows a regular file.
    fn truncate(&self, _size: u64) -> Result<()> {
        Err(Errno::EINVAL)
    }
}

/// A mountable tree.
pub trait FileSystem: Send + Sync + 'static {
    /// Its type as in `/proc/mounts`.
    fn name(&self) -> &'static str;
    /// The top directory.
    fn root(&self) -> InodeRef;
    /// What `statfs` tells.
    fn statfs(&self) -> StatFs;
    /// Its device number.
    fn dev(&self) -> DevId;
    /// Options for `/proc/mounts`, each with a comma before it.
    fn options(&self) -> String {
        String::new()
    }
}

/// The wall clock that file times come from.
pub trait Clock: Send + Sync + 'static {
    /// Now, since 1970.
    fn realtime(&self) -> Timespec;
}
