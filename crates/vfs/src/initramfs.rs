//! Unpacks an initramfs into the root file system.

use crate::abi::{DevId, FileType, OpenFlags, Timespec};
use crate::file::{Caller, OpenFile};
use crate::inode::{NewNode, SetAttr};
use crate::ops::{Files, FsContext, change};
use crate::path::{Namespace, Place};
use alloc::collections::LinkedList;
use alloc::sync::Arc;
use base::Errno;
use cpio::{Entry, Sink};

/// What came of unpacking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries in the archives.
    pub entries: usize,
    /// Entries that could not be made (no such directory, odd names), which
    /// are left out as Linux does.
    pub skipped: usize,
}

/// Unpacks `archive` (newc, plain or gzip, several) into `/`.
pub fn unpack(ns: &Namespace, archive: &[u8]) -> Result<Unpacked, cpio::Error> {
    let caller = Caller::default();
    let context = FsContext { umask: 0, ..FsContext::new(ns) };
    let mut tree = Tree {
        files: context.files(ns, &caller),
        open: None,
        mtime: 0,
        skipped: 0,
        dirs: LinkedList::new(),
    };
    let entries = cpio::unpack(archive, &mut tree);
    // Directories last: what was put into them changed their times.
    for (place, mtime) in core::mem::take(&mut tree.dirs) {
        let _ = change(&place, &times(mtime));
    }
    Ok(Unpacked { entries: entries?, skipped: tree.skipped })
}

struct Tree<'a> {
    files: Files<'a>,
    open: Option<Arc<OpenFile>>,
    mtime: u32,
    skipped: usize,
    /// A list: an archive may have more than the heap gives in one piece.
    dirs: LinkedList<(Place, u32)>,
}

fn times(mtime: u32) -> SetAttr {
    let time = Timespec { sec: i64::from(mtime), nsec: 0 };
    SetAttr { mtime: Some(time), atime: Some(time), ..SetAttr::default() }
}

impl Tree<'_> {
    /// Out of room is the only error that ends it all.
    fn skip(&mut self, result: Result<(), Errno>) -> Result<(), Errno> {
        match result {
            Err(errno @ (Errno::ENOSPC | Errno::ENOMEM)) => Err(errno),
            Err(_) => {
                self.skipped = self.skipped.saturating_add(1);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Clears the way for something of `kind`. Whether it is there already.
    fn clear(&self, name: &[u8], kind: FileType) -> bool {
        let Ok(place) = self.files.find(name, crate::abi::AT_SYMLINK_NOFOLLOW) else {
            return false;
        };
        if place.inode.kind() == kind && kind != FileType::Symlink {
            return true;
        }
        let flags = if place.is_dir() { crate::abi::AT_REMOVEDIR } else { 0 };
        drop(place);
        let _ = self.files.unlink(name, flags);
        false
    }

    fn attributes(&self, entry: &Entry<'_>) -> Result<Place, Errno> {
        let place = self.files.find(entry.name, crate::abi::AT_SYMLINK_NOFOLLOW)?;
        let mode = (place.inode.kind() != FileType::Symlink).then_some(entry.mode & 0o7777);
        let attr =
            SetAttr { mode, uid: Some(entry.uid), gid: Some(entry.gid), ..times(entry.mtime) };
        change(&place, &attr)?;
        Ok(place)
    }

    fn make_directory(&mut self, entry: &Entry<'_>) -> Result<(), Errno> {
        if !self.clear(entry.name, FileType::Dir) {
            self.files.mkdir(entry.name, entry.mode)?;
        }
        let place = self.attributes(entry)?;
        self.dirs.push_back((place, entry.mtime));
        Ok(())
    }

    fn make_node(&mut self, entry: &Entry<'_>) -> Result<(), Errno> {
        let kind = FileType::from_mode(entry.mode).ok_or(Errno::EINVAL)?;
        if !self.clear(entry.name, kind) {
            let (major, minor) = entry.rdev;
            self.files.mknod(entry.name, entry.mode, DevId::new(major, minor).encode())?;
        }
        self.attributes(entry).map(drop)
    }
}

impl Sink for Tree<'_> {
    fn directory(&mut self, entry: &Entry<'_>) -> Result<(), Errno> {
        let made = self.make_directory(entry);
        self.skip(made)
    }

    fn file(&mut self, entry: &Entry<'_>) -> Result<(), Errno> {
        self.clear(entry.name, FileType::Regular);
        let flags = OpenFlags::WRONLY | OpenFlags::CREAT | OpenFlags::TRUNC | OpenFlags::NOFOLLOW;
        let opened = self.files.open(entry.name, flags, entry.mode);
        let result = opened.and_then(|file| {
            self.open = Some(file);
            self.mtime = entry.mtime;
            self.attributes(entry).map(drop)
        });
        self.skip(result)
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let Some(file) = &self.open else { return Ok(()) };
        let mut rest = bytes;
        while !rest.is_empty() {
            match file.write(self.files.caller, rest)? {
                0 => return Err(Errno::ENOSPC),
                count => rest = rest.get(count..).unwrap_or_default(),
            }
        }
        Ok(())
    }

    fn file_end(&mut self) -> Result<(), Errno> {
        if let Some(place) = self.open.take().and_then(|file| file.place().cloned()) {
            let _ = change(&place, &times(self.mtime));
        }
        Ok(())
    }

    fn symlink(&mut self, entry: &Entry<'_>, target: &[u8]) -> Result<(), Errno> {
        self.clear(entry.name, FileType::Symlink);
        let made =
            self.files.symlink(target, entry.name).and_then(|()| self.attributes(entry).map(drop));
        self.skip(made)
    }

    fn node(&mut self, entry: &Entry<'_>) -> Result<(), Errno> {
        let made = self.make_node(entry);
        self.skip(made)
    }

    fn hard_link(&mut self, entry: &Entry<'_>, first: &[u8]) -> Result<(), Errno> {
        let _ = self.files.unlink(entry.name, 0);
        let made = self.files.link(first, self.files.base, entry.name, 0);
        self.skip(made)
    }
}

/// A device node that programs expect before they mount devtmpfs, if the
/// archive has none (as Linux's built-in archive does for `/dev/console`).
pub fn ensure_node(
    ns: &Namespace,
    dir: &[u8],
    name: &[u8],
    mode: u32,
    dev: DevId,
) -> Result<(), Errno> {
    let caller = Caller::default();
    let context = FsContext { umask: 0, ..FsContext::new(ns) };
    let files = context.files(ns, &caller);
    match files.mkdir(dir, 0o755) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno),
    }
    let dir = files.find_dir(dir)?;
    let new = NewNode { kind: FileType::Char, mode, rdev: dev, target: b"" };
    match dir.inode.create(name, &new) {
        Ok(_) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}
