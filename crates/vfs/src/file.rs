//! Open files: the trait that every kind of file implements, and the open file
//! description around it (offset, status flags), which descriptors share.
//!
//! Locks: [`OpenFile`] has its offset at `OPEN_FILE`, held across the file's
//! own `INODE` lock so that writers through one description don't overlap; and
//! the list of epoll items that watch it, also at `OPEN_FILE`.

use crate::abi::{
    DevId, Events, FileType, OpenFlags, SEEK_CUR, SEEK_DATA, SEEK_END, SEEK_HOLE, SEEK_SET, Stat,
};
use crate::epoll;
use crate::locks;
use crate::path::Place;
use alloc::borrow::Cow;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use base::census::{Counted, Kind};
use base::{Errno, Lock, Result, Room, UserMem, WaitQueue, rank, room};
use core::any::Any;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use core::task::Waker;
use frame::Frame;

/// Who makes a system call, as far as files care.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// The process (thread group).
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// The process group.
    pub pgid: u32,
    /// The session.
    pub sid: u32,
}

/// The circumstances of one read or write.
#[derive(Debug)]
pub struct Io<'a> {
    /// Who.
    pub caller: &'a Caller,
    /// Where in the file. A write to a file open for appending moves it to
    /// the file's end.
    pub offset: u64,
    /// The open file's flags.
    pub flags: OpenFlags,
}

/// How a file treats the offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// There is none: pipes, terminals, sockets.
    Stream,
    /// There is one, kept under its lock during the operation.
    Kept,
    /// There is one, but the operation may take locks below `OPEN_FILE`
    /// (generated files, directories), so that it isn't kept locked.
    Loose,
}

/// Memory that can be mapped: a file's pages.
pub trait VmObject: Send + Sync {
    /// The frame behind the `index`th page. `for_write`: the caller will
    /// write through a shared mapping. `EFAULT` past the end (SIGBUS).
    fn frame(&self, index: u64, for_write: bool) -> Result<Frame>;
    /// A shared mapping that may be written is made: `EPERM` if it mustn't
    /// (seals). Each that was made is to be taken back.
    fn map_writable(&self) -> Result<()> {
        Ok(())
    }
    /// One of those is gone.
    fn unmap_writable(&self) {}
    /// The size in bytes; what lies past its last page faults.
    fn len(&self) -> u64;
    /// Whether there is nothing to map.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One name in a directory.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    /// Inode number.
    pub ino: u64,
    /// Where to go on after it.
    pub next: u64,
    /// What it is.
    pub kind: FileType,
    /// Its name.
    pub name: &'a [u8],
}

/// Takes directory entries until it is full.
pub trait DirSink {
    /// Whether there was room for it; if not, it is asked for again later.
    fn add(&mut self, entry: &DirEntry<'_>) -> bool;
}

/// What stands behind a descriptor. Operations never block: they answer
/// `EAGAIN` when they would, and whoever wants to wait registers with
/// [`File::wait_queue`] first. Buffers are kernel memory.
///
/// `ERESTART` means that a signal was sent to the caller (a background process
/// that used its terminal) and the call starts anew after it.
pub trait File: Send + Sync + 'static {
    /// For downcasts: KVM objects, terminals, epoll sets.
    fn as_any(&self) -> &dyn Any;

    /// Reads; 0 at the end.
    fn read(&self, _io: &mut Io<'_>, _buf: &mut [u8]) -> Result<usize> {
        Err(Errno::EINVAL)
    }
    /// Writes; may take less than all.
    fn write(&self, _io: &mut Io<'_>, _data: &[u8]) -> Result<usize> {
        Err(Errno::EINVAL)
    }
    /// How it treats the offset.
    fn position(&self) -> Position {
        Position::Stream
    }
    /// The size, for `SEEK_END`.
    fn size(&self) -> Result<u64> {
        Ok(self.stat()?.size)
    }
    /// The next data (or hole) at or after `offset`.
    fn seek_data(&self, offset: u64, hole: bool) -> Result<u64> {
        let size = self.size()?;
        if offset >= size {
            return Err(Errno::ENXIO);
        }
        Ok(if hole { size } else { offset })
    }
    /// What would not block now.
    fn poll(&self) -> Events {
        Events::READ | Events::WRITE
    }
    /// `lseek` on what has no offset: `ESPIPE`, but for what has its own idea.
    fn seek(&self, _offset: i64, _whence: u32) -> Result<u64> {
        Err(Errno::ESPIPE)
    }
    /// Who wants to know when [`File::poll`]'s answer may change. Files
    /// without one never block and can't be watched by epoll.
    fn wait_queue(&self) -> Option<&WaitQueue> {
        None
    }
    /// Device control. What makes new descriptors or runs guests, the kernel
    /// handles itself by [`File::as_any`].
    fn ioctl(&self, _caller: &Caller, _cmd: u32, _arg: u64, _mem: &dyn UserMem) -> Result<i64> {
        Err(Errno::ENOTTY)
    }
    /// Its pages.
    fn mmap(&self) -> Result<Arc<dyn VmObject>> {
        Err(Errno::ENODEV)
    }
    /// Lists a directory from `position` (0: the start); the new position.
    fn readdir(&self, _caller: &Caller, _position: u64, _sink: &mut dyn DirSink) -> Result<u64> {
        Err(Errno::ENOTDIR)
    }
    /// What `fstat` tells where there is no inode.
    fn stat(&self) -> Result<Stat> {
        Ok(Stat { dev: ANON_DEV, ino: 1, mode: 0o600, nlink: 1, ..Stat::default() })
    }
    /// Cuts or grows it.
    fn truncate(&self, _size: u64) -> Result<()> {
        Err(Errno::EINVAL)
    }
    /// `fallocate(2)`.
    fn fallocate(&self, _mode: u32, _offset: u64, _len: u64) -> Result<()> {
        Err(Errno::ENODEV)
    }
    /// `fsync`, `fdatasync`.
    fn sync(&self) -> Result<()> {
        Err(Errno::EINVAL)
    }
    /// `EAGAIN` while opening has to wait (a FIFO without a peer).
    fn open_ready(&self) -> Result<()> {
        Ok(())
    }
    /// What `/proc/<pid>/fd/N` shows where there is no path.
    fn describe(&self) -> Cow<'static, str> {
        Cow::Borrowed("anon_inode:[file]")
    }
}

/// The device number of what has no file system (pipes, eventfds, sockets).
pub const ANON_DEV: DevId = DevId::new(0, 15);

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// An open file description: what `open` makes and `dup` and `fork` share.
pub struct OpenFile {
    file: Arc<dyn File>,
    place: Option<Place>,
    flags: AtomicU32,
    id: u64,
    offset: Lock<u64>,
    watchers: Lock<Vec<Weak<epoll::Item>>>,
    _counted: Counted,
}

impl OpenFile {
    /// Opens something that has no name: a pipe, an eventfd, a VM.
    pub fn anonymous(file: Arc<dyn File>, flags: OpenFlags) -> Result<Arc<OpenFile>> {
        Self::new(file, flags, None)
    }

    pub(crate) fn new(
        file: Arc<dyn File>,
        flags: OpenFlags,
        place: Option<Place>,
    ) -> Result<Arc<OpenFile>> {
        let drop = OpenFlags::CREAT
            | OpenFlags::EXCL
            | OpenFlags::NOCTTY
            | OpenFlags::TRUNC
            | OpenFlags::CLOEXEC
            | OpenFlags::TMPFILE;
        room::try_arc(OpenFile {
            file,
            place,
            flags: AtomicU32::new(flags.difference(drop).bits()),
            id: NEXT_ID.fetch_add(1, Relaxed),
            offset: Lock::new(rank::OPEN_FILE, 0),
            watchers: Lock::new(rank::OPEN_FILE, Vec::new()),
            _counted: Counted::new(Kind::File),
        })
    }

    /// The file.
    pub fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// The file as what it is.
    pub fn downcast<T: File>(&self) -> Option<&T> {
        self.file.as_any().downcast_ref()
    }

    /// Where it was found, if it has a name.
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// A number no other open file ever has.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Access mode and status flags (F_GETFL).
    pub fn flags(&self) -> OpenFlags {
        OpenFlags::from_bits_retain(self.flags.load(Relaxed))
    }

    /// Whether operations should fail with `EAGAIN` rather than wait.
    pub fn nonblocking(&self) -> bool {
        self.flags().contains(OpenFlags::NONBLOCK)
    }

    /// F_SETFL: changes what may be changed.
    pub fn set_flags(&self, flags: OpenFlags) {
        let keep = self.flags().difference(OpenFlags::SETTABLE);
        self.flags.store((keep | (flags & OpenFlags::SETTABLE)).bits(), Relaxed);
    }

    /// FIONBIO.
    pub fn set_nonblocking(&self, on: bool) {
        let mut flags = self.flags();
        flags.set(OpenFlags::NONBLOCK, on);
        self.flags.store(flags.bits(), Relaxed);
    }

    fn io<'a>(&self, caller: &'a Caller, offset: u64) -> Io<'a> {
        Io { caller, offset, flags: self.flags() }
    }

    /// Fails for a mere reference to a place (O_PATH).
    pub fn not_path(&self) -> Result<()> {
        if self.flags().contains(OpenFlags::PATH) { Err(Errno::EBADF) } else { Ok(()) }
    }

    /// Reads at the offset and moves it.
    pub fn read(&self, caller: &Caller, buf: &mut [u8]) -> Result<usize> {
        if !self.flags().readable() {
            return Err(Errno::EBADF);
        }
        self.at_offset(caller, |io| self.file.read(io, buf))
    }

    /// Writes at the offset and moves it.
    pub fn write(&self, caller: &Caller, data: &[u8]) -> Result<usize> {
        if !self.flags().writable() {
            return Err(Errno::EBADF);
        }
        self.at_offset(caller, |io| self.file.write(io, data))
    }

    fn at_offset(
        &self,
        caller: &Caller,
        op: impl FnOnce(&mut Io<'_>) -> Result<usize>,
    ) -> Result<usize> {
        match self.file.position() {
            Position::Stream => op(&mut self.io(caller, 0)),
            Position::Kept => {
                let mut offset = self.offset.lock();
                let mut io = self.io(caller, *offset);
                let done = op(&mut io)?;
                *offset = io.offset.saturating_add(done as u64);
                Ok(done)
            }
            Position::Loose => {
                let before = *self.offset.lock();
                let mut io = self.io(caller, before);
                let done = op(&mut io)?;
                *self.offset.lock() = io.offset.saturating_add(done as u64);
                Ok(done)
            }
        }
    }

    /// `pread64`.
    pub fn read_at(&self, caller: &Caller, offset: i64, buf: &mut [u8]) -> Result<usize> {
        let offset = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        self.not_path()?;
        self.seekable()?;
        if !self.flags().readable() {
            return Err(Errno::EBADF);
        }
        self.file.read(&mut self.io(caller, offset), buf)
    }

    /// `pwrite64`. As on Linux, a file open for appending is appended to.
    pub fn write_at(&self, caller: &Caller, offset: i64, data: &[u8]) -> Result<usize> {
        let offset = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        self.not_path()?;
        self.seekable()?;
        if !self.flags().writable() {
            return Err(Errno::EBADF);
        }
        self.file.write(&mut self.io(caller, offset), data)
    }

    fn seekable(&self) -> Result<()> {
        if self.file.position() == Position::Stream { Err(Errno::ESPIPE) } else { Ok(()) }
    }

    /// `lseek`.
    pub fn seek(&self, offset: i64, whence: u32) -> Result<u64> {
        self.not_path()?;
        if self.file.position() == Position::Stream {
            return self.file.seek(offset, whence);
        }
        // The size is asked for outside the lock: it may take others.
        let from = match whence {
            SEEK_SET | SEEK_CUR => 0,
            SEEK_END => self.file.size()?,
            SEEK_DATA | SEEK_HOLE => {
                let from = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
                let found = self.file.seek_data(from, whence == SEEK_HOLE)?;
                *self.offset.lock() = found;
                return Ok(found);
            }
            _ => return Err(Errno::EINVAL),
        };
        let mut position = self.offset.lock();
        let from = if whence == SEEK_CUR { *position } else { from };
        let new = i64::try_from(from).map_err(|_| Errno::EOVERFLOW)?;
        let new = new.checked_add(offset).ok_or(Errno::EOVERFLOW)?;
        *position = u64::try_from(new).map_err(|_| Errno::EINVAL)?;
        Ok(*position)
    }

    /// `getdents64`: fills `buf` with `struct linux_dirent64`s; 0 at the end.
    pub fn getdents(&self, caller: &Caller, buf: &mut [u8]) -> Result<usize> {
        self.not_path()?;
        let mut writer = DirentWriter { buf, used: 0, full: false };
        let before = *self.offset.lock();
        let after = self.file.readdir(caller, before, &mut writer)?;
        if writer.used == 0 && writer.full {
            return Err(Errno::EINVAL);
        }
        let used = writer.used;
        *self.offset.lock() = after;
        Ok(used)
    }

    /// `fstat`.
    pub fn stat(&self) -> Result<Stat> {
        match &self.place {
            Some(place) => Ok(place.stat()),
            None => self.file.stat(),
        }
    }

    /// `ftruncate`.
    pub fn truncate(&self, size: i64) -> Result<()> {
        let size = u64::try_from(size).map_err(|_| Errno::EINVAL)?;
        self.not_path()?;
        if !self.flags().writable() {
            return Err(Errno::EINVAL);
        }
        self.file.truncate(size)
    }

    /// `fallocate`.
    pub fn fallocate(&self, mode: u32, offset: i64, len: i64) -> Result<()> {
        self.not_path()?;
        if !self.flags().writable() {
            return Err(Errno::EBADF);
        }
        let offset = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let len = u64::try_from(len).ok().filter(|len| *len > 0).ok_or(Errno::EINVAL)?;
        offset.checked_add(len).filter(|end| *end <= i64::MAX as u64).ok_or(Errno::EFBIG)?;
        self.file.fallocate(mode, offset, len)
    }

    /// What would not block now.
    pub fn poll(&self) -> Events {
        self.file.poll()
    }

    /// Where to register before waiting.
    pub fn wait_queue(&self) -> Option<&WaitQueue> {
        self.file.wait_queue()
    }

    pub(crate) fn add_watcher(&self, item: &Arc<epoll::Item>) -> Result<()> {
        let mut watchers = self.watchers.lock();
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.make_room(1)?;
        watchers.push(Arc::downgrade(item));
        Ok(())
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        for watcher in core::mem::take(self.watchers.get_mut()) {
            if let Some(item) = watcher.upgrade() {
                if let Some(queue) = self.file.wait_queue() {
                    item.leave_queue(queue);
                }
                item.forget();
            }
        }
        locks::release_description(self);
    }
}

/// A waker's registration with an open file's queue, taken back on drop.
pub struct Registration {
    file: Arc<OpenFile>,
    waker: Waker,
}

impl Registration {
    /// Registers `waker`; nothing to wait for is fine.
    pub fn new(file: &Arc<OpenFile>, waker: &Waker) -> Result<Registration> {
        if let Some(queue) = file.wait_queue() {
            queue.register(waker)?;
        }
        Ok(Registration { file: file.clone(), waker: waker.clone() })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(queue) = self.file.wait_queue() {
            queue.unregister(&self.waker);
        }
    }
}

/// Writes `struct linux_dirent64`: ino, offset, length, type, name, NUL, to a
/// multiple of eight bytes.
struct DirentWriter<'a> {
    buf: &'a mut [u8],
    used: usize,
    full: bool,
}

impl DirSink for DirentWriter<'_> {
    fn add(&mut self, entry: &DirEntry<'_>) -> bool {
        const HEAD: usize = 19;
        let len = HEAD.saturating_add(entry.name.len()).saturating_add(1).next_multiple_of(8);
        let record = self.buf.get_mut(self.used..).and_then(|rest| rest.get_mut(..len));
        let Some((head, tail)) = record.and_then(|record| record.split_at_mut_checked(HEAD)) else {
            self.full = true;
            return false;
        };
        let fields = [
            &entry.ino.to_le_bytes()[..],
            &entry.next.to_le_bytes(),
            &(len as u16).to_le_bytes(),
            &[entry.kind as u8],
        ];
        for (to, from) in head.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        tail.fill(0);
        for (to, from) in tail.iter_mut().zip(entry.name) {
            *to = *from;
        }
        self.used = self.used.saturating_add(len);
        true
    }
}

/// Copies up to `count` bytes from one file to another through `chunk`, as
/// `sendfile` and `copy_file_range` do; offsets of `None` are the files' own.
/// One chunk at a time: the kernel calls again while there is more.
pub fn copy_chunk(
    caller: &Caller,
    from: &OpenFile,
    from_offset: Option<i64>,
    to: &OpenFile,
    to_offset: Option<i64>,
    chunk: &mut [u8],
) -> Result<usize> {
    let got = match from_offset {
        Some(offset) => from.read_at(caller, offset, chunk)?,
        None => {
            from.seekable().map_err(|_| Errno::EINVAL)?;
            from.read(caller, chunk)?
        }
    };
    let mut data = chunk.get(..got).ok_or(Errno::EIO)?;
    let mut done = 0usize;
    let mut result = Ok(());
    while !data.is_empty() {
        let wrote = match to_offset {
            Some(offset) => to.write_at(caller, offset.saturating_add(done as i64), data),
            None => to.write(caller, data),
        };
        match wrote {
            Ok(0) => break,
            Ok(count) => {
                done = done.saturating_add(count);
                data = data.get(count..).unwrap_or_default();
            }
            Err(errno) => {
                result = Err(errno);
                break;
            }
        }
    }
    // What was read but could not be written is read again next time.
    if from_offset.is_none() && done < got {
        from.seek((done as i64).saturating_sub(got as i64), SEEK_CUR)?;
    }
    if done == 0 { result.map(|()| 0) } else { Ok(done) }
}
