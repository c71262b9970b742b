//! Tables of file descriptors.
//!
//! Locks: a table is at `FD_TABLE`. Files taken out of it are dropped after it
//! is let go: closing runs code of any rank above.

use crate::file::OpenFile;
use crate::locks;
use crate::tmpfs::breathe;
use alloc::sync::Arc;
use alloc::vec::Vec;
use base::{Errno, Lock, Result, Room, rank, room};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::*};

/// What RLIMIT_NOFILE can be raised to (`/proc/sys/fs/nr_open`).
pub const NR_OPEN: u32 = 1 << 20;

#[derive(Clone)]
struct Entry {
    file: Arc<OpenFile>,
    cloexec: bool,
}

/// What a descriptor stands for.
#[derive(Clone, Default)]
enum Slot {
    #[default]
    Free,
    /// Somebody's who has no file for it yet: see [`Reserved`].
    Reserved,
    Open(Entry),
}

#[derive(Default)]
struct Slots {
    slots: Vec<Slot>,
    /// No descriptor below it is free.
    lowest_free: usize,
}

/// One process's descriptors.
pub struct FdTable {
    slots: Lock<Slots>,
    id: u64,
    /// How many processes have it; others may look at it meanwhile.
    users: AtomicUsize,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl FdTable {
    /// An empty table.
    pub fn new() -> FdTable {
        Self::with(Slots::default())
    }

    fn with(slots: Slots) -> FdTable {
        FdTable {
            slots: Lock::new(rank::FD_TABLE, slots),
            id: NEXT_ID.fetch_add(1, Relaxed),
            users: AtomicUsize::new(0),
        }
    }

    /// Who it is. As on Linux, record locks belong to it, not to one of the
    /// processes that share it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The copy that `fork` makes.
    pub fn duplicate(&self) -> Result<FdTable> {
        let slots = self.slots.lock();
        let mut copy =
            Slots { slots: room::try_vec(slots.slots.len())?, lowest_free: slots.lowest_free };
        for (index, slot) in slots.slots.iter().enumerate() {
            // Who reserved one puts its file into this table.
            let reserved = matches!(slot, Slot::Reserved);
            copy.slots.push(if reserved { Slot::Free } else { slot.clone() });
            if reserved {
                copy.lowest_free = copy.lowest_free.min(index);
            }
        }
        Ok(Self::with(copy))
    }

    /// The file behind a descriptor.
    pub fn get(&self, fd: i32) -> Result<Arc<OpenFile>> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let slots = self.slots.lock();
        Ok(slots.entry(index).ok_or(Errno::EBADF)?.file.clone())
    }

    /// Puts a file at the lowest free descriptor from `from` on, below `limit`
    /// (RLIMIT_NOFILE), or `EMFILE`.
    pub fn install_from(
        &self,
        file: Arc<OpenFile>,
        cloexec: bool,
        from: u32,
        limit: u64,
    ) -> Result<i32> {
        let index = self.slots.lock().take_free(from, limit)?;
        Ok(self.open_reserved(index, Entry { file, cloexec }))
    }

    /// The lowest free descriptor, for a file that is yet to be made.
    pub fn reserve(self: &Arc<Self>, limit: u64) -> Result<Reserved> {
        let index = self.slots.lock().take_free(0, limit)?;
        Ok(Reserved { table: self.clone(), index, filled: false })
    }

    fn open_reserved(&self, index: usize, entry: Entry) -> i32 {
        if let Some(slot) = self.slots.lock().slots.get_mut(index) {
            *slot = Slot::Open(entry);
        }
        index as i32
    }

    /// Puts a file at the lowest free descriptor.
    pub fn install(&self, file: Arc<OpenFile>, cloexec: bool, limit: u64) -> Result<i32> {
        self.install_from(file, cloexec, 0, limit)
    }

    /// `dup3`: puts a file at `fd`; closes what was there. `EBUSY` if another has
    /// reserved it (dup(2)).
    pub fn install_at(
        &self,
        fd: i32,
        file: Arc<OpenFile>,
        cloexec: bool,
        limit: u64,
    ) -> Result<()> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        if index as u64 >= limit.min(u64::from(NR_OPEN)) {
            return Err(Errno::EBADF);
        }
        let old = {
            let mut slots = self.slots.lock();
            let slot = slots.slot(index)?;
            if matches!(slot, Slot::Reserved) {
                return Err(Errno::EBUSY);
            }
            core::mem::replace(slot, Slot::Open(Entry { file, cloexec }))
        };
        if let Slot::Open(old) = old {
            locks::release_process(&old.file, self.id);
        }
        Ok(())
    }

    /// `close`.
    pub fn close(&self, fd: i32) -> Result<()> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let old = self.slots.lock().take(index).ok_or(Errno::EBADF)?;
        locks::release_process(&old.file, self.id);
        Ok(())
    }

    /// Takes some of a range of descriptors out, and where to go on, if there
    /// are more: few looks in one go, for the table may have a million slots.
    fn take_some(
        &self,
        first: usize,
        last: usize,
        cloexec_only: bool,
    ) -> (Vec<Arc<OpenFile>>, Option<usize>) {
        const TAKEN: usize = 64;
        const LOOKS: usize = 4096;
        let mut taken = Vec::new();
        let mut slots = self.slots.lock();
        let end = last.saturating_add(1).min(slots.slots.len());
        for index in first..end {
            if taken.len() == TAKEN || index.wrapping_sub(first) == LOOKS {
                return (taken, Some(index));
            }
            let wanted = slots.entry(index);
            if wanted.is_some_and(|entry| entry.cloexec || !cloexec_only)
                && let Some(entry) = slots.take(index)
            {
                taken.push(entry.file);
            }
        }
        (taken, None)
    }

    fn close_some(&self, first: usize, last: usize, cloexec_only: bool) {
        let mut from = Some(first);
        while let Some(first) = from {
            let (taken, next) = self.take_some(first, last, cloexec_only);
            for file in &taken {
                locks::release_process(file, self.id);
            }
            drop(taken);
            breathe();
            from = next;
        }
    }

    /// `close_range` without flags.
    pub fn close_range(&self, first: u32, last: u32) {
        self.close_some(first as usize, last as usize, false);
    }

    /// `close_range` with CLOSE_RANGE_CLOEXEC.
    pub fn set_cloexec_range(&self, first: u32, last: u32) {
        let mut slots = self.slots.lock();
        let count = (last as usize).saturating_add(1).saturating_sub(first as usize);
        for slot in slots.slots.iter_mut().skip(first as usize).take(count) {
            if let Slot::Open(entry) = slot {
                entry.cloexec = true;
            }
        }
    }

    /// `execve`: closes what is marked so.
    pub fn exec(&self) {
        self.close_some(0, usize::MAX, true);
    }

    /// F_GETFD.
    pub fn cloexec(&self, fd: i32) -> Result<bool> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let slots = self.slots.lock();
        slots.entry(index).map(|entry| entry.cloexec).ok_or(Errno::EBADF)
    }

    /// F_SETFD.
    pub fn set_cloexec(&self, fd: i32, cloexec: bool) -> Result<()> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let mut slots = self.slots.lock();
        match slots.slots.get_mut(index) {
            Some(Slot::Open(entry)) => entry.cloexec = cloexec,
            _ => return Err(Errno::EBADF),
        }
        Ok(())
    }

    /// All descriptors from `from` on, in order, at most `max`.
    pub fn list(&self, from: i32, max: usize) -> Result<Vec<(i32, Arc<OpenFile>)>> {
        let mut some = room::try_vec(max)?;
        let slots = self.slots.lock();
        let open = slots.slots.iter().enumerate().skip(from.max(0) as usize);
        let open = open.filter_map(|(fd, slot)| match slot {
            Slot::Open(entry) => Some((fd as i32, entry.file.clone())),
            _ => None,
        });
        some.extend(open.take(max));
        Ok(some)
    }

    /// How many slots there are (`FDSize` in `/proc/<pid>/status`).
    pub fn capacity(&self) -> usize {
        self.slots.lock().slots.len().next_multiple_of(64).max(64)
    }
}

/// A process that has a table, by itself or with others.
pub struct FdTableUser(Arc<FdTable>);

impl FdTableUser {
    /// One more has `table`.
    pub fn new(table: Arc<FdTable>) -> FdTableUser {
        table.users.fetch_add(1, Relaxed);
        FdTableUser(table)
    }

    /// The table itself.
    pub fn table(&self) -> &Arc<FdTable> {
        &self.0
    }

    /// Whether other processes have it, too.
    pub fn is_shared(&self) -> bool {
        self.0.users.load(Acquire) > 1
    }
}

impl Drop for FdTableUser {
    /// The last one closes all there is, whoever still looks at it.
    fn drop(&mut self) {
        if self.0.users.fetch_sub(1, AcqRel) == 1 {
            self.0.close_range(0, u32::MAX);
        }
    }
}

impl Default for FdTable {
    fn default() -> Self {
        Self::new()
    }
}

/// A descriptor that nobody else gets, and that stands for no file yet. It is
/// free again unless one comes.
pub struct Reserved {
    table: Arc<FdTable>,
    index: usize,
    filled: bool,
}

impl Reserved {
    /// Lets it stand for `file`.
    pub fn install(mut self, file: Arc<OpenFile>, cloexec: bool) -> i32 {
        self.filled = true;
        self.table.open_reserved(self.index, Entry { file, cloexec })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.filled {
            self.table.slots.lock().free(self.index);
        }
    }
}

impl Slots {
    fn entry(&self, index: usize) -> Option<&Entry> {
        match self.slots.get(index) {
            Some(Slot::Open(entry)) => Some(entry),
            _ => None,
        }
    }

    /// The slot, which is there afterwards.
    fn slot(&mut self, index: usize) -> Result<&mut Slot> {
        if let Some(more) = index.saturating_add(1).checked_sub(self.slots.len()) {
            self.slots.make_room(more)?;
            self.slots.resize_with(index.saturating_add(1), Slot::default);
        }
        self.slots.get_mut(index).ok_or(Errno::EBADF)
    }

    /// Reserves the lowest free slot from `from` on, below `limit`, or `EMFILE`.
    fn take_free(&mut self, from: u32, limit: u64) -> Result<usize> {
        let limit = limit.min(u64::from(NR_OPEN)) as usize;
        let start = (from as usize).max(self.lowest_free);
        let free = self.slots.iter().skip(start).position(|slot| matches!(slot, Slot::Free));
        let index = match free {
            Some(after) => start.saturating_add(after),
            None => self.slots.len().max(start),
        };
        if index >= limit {
            return Err(Errno::EMFILE);
        }
        *self.slot(index)? = Slot::Reserved;
        if from as usize <= self.lowest_free {
            self.lowest_free = index.saturating_add(1);
        }
        Ok(index)
    }

    fn take(&mut self, index: usize) -> Option<Entry> {
        self.entry(index)?;
        match self.free(index) {
            Slot::Open(entry) => Some(entry),
            _ => None,
        }
    }

    fn free(&mut self, index: usize) -> Slot {
        self.lowest_free = self.lowest_free.min(index);
        self.slots.get_mut(index).map(core::mem::take).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::OpenFlags;
    use crate::pipe::Pipe;

    #[test]
    fn reserved_ones_are_nobody_elses() {
        let table = Arc::new(FdTable::new());
        let (r, w) = Pipe::pair(OpenFlags::empty()).unwrap();
        let first = table.reserve(2).unwrap();
        assert_eq!(table.install(r.clone(), false, 2), Ok(1));
        assert_eq!(table.reserve(2).err(), Some(Errno::EMFILE));
        // It isn't open, neither here nor in a copy, where nobody fills it.
        assert_eq!(table.get(0).err(), Some(Errno::EBADF));
        assert_eq!(table.close(0), Err(Errno::EBADF));
        assert_eq!(table.set_cloexec(0, true), Err(Errno::EBADF));
        assert_eq!(table.install_at(0, r.clone(), false, 2), Err(Errno::EBUSY));
        assert_eq!(table.list(0, 9).unwrap().len(), 1);
        assert_eq!(table.duplicate().unwrap().install(r.clone(), false, 9), Ok(0));
        table.close_range(0, 9);
        assert_eq!(first.install(w.clone(), true), 0);
        assert!(Arc::ptr_eq(&table.get(0).unwrap(), &w) && table.cloexec(0).unwrap());
        drop(table.reserve(9).unwrap());
        assert_eq!(table.install(r, false, 9), Ok(1));
        // Who fails to fill it doesn't close what came after it.
        let third = table.reserve(9).unwrap();
        drop(third);
        assert_eq!(table.install(w, false, 9), Ok(2));
    }

    #[test]
    fn lowest_first() {
        let table = FdTable::new();
        let (r, w) = Pipe::pair(OpenFlags::empty()).unwrap();
        for fd in 0..5 {
            assert_eq!(table.install(r.clone(), fd == 3, 1024), Ok(fd));
        }
        assert_eq!(table.install(r.clone(), false, 5), Err(Errno::EMFILE));
        table.close(1).unwrap();
        table.close(2).unwrap();
        assert_eq!(table.close(2), Err(Errno::EBADF));
        assert_eq!(table.get(-1).err(), Some(Errno::EBADF));
        assert_eq!(table.install_from(w.clone(), false, 2, 1024), Ok(2));
        assert_eq!(table.install(w.clone(), false, 1024), Ok(1));
        assert_eq!(table.install(w.clone(), false, 1024), Ok(5));
        assert_eq!(table.install_from(w.clone(), false, 100, 1024), Ok(100));
        assert_eq!(table.install_from(w.clone(), false, 100, 1024), Ok(101));
        table.install_at(50, r.clone(), false, 1024).unwrap();
        assert_eq!(table.install_at(1024, r.clone(), false, 1024), Err(Errno::EBADF));
        assert_eq!(table.install(w, false, 1024), Ok(6));
        let copy = table.duplicate().unwrap();
        assert_eq!(copy.cloexec(3), Ok(true));
        copy.exec();
        assert_eq!(copy.get(3).err(), Some(Errno::EBADF));
        copy.close_range(0, u32::MAX);
        assert!(copy.list(0, 10).unwrap().is_empty());
        assert_eq!(table.list(0, 3).unwrap().len(), 3);
        assert_eq!(copy.install(r, false, 10), Ok(0));
    }

    /// The last process closes its files, whoever looks at the table meanwhile.
    #[test]
    fn last_user_closes() {
        let table = Arc::new(FdTable::new());
        let (r, w) = Pipe::pair(OpenFlags::empty()).unwrap();
        for _ in 0..1000 {
            table.install(r.clone(), false, 1024).unwrap();
        }
        table.install_at(NR_OPEN as i32 - 1, r, false, u64::MAX).unwrap();
        let (one, two) = (FdTableUser::new(table.clone()), FdTableUser::new(table.clone()));
        let looks = two.table().clone();
        assert!(one.is_shared());
        drop(one);
        assert!(!two.is_shared() && looks.get(0).is_ok());
        drop(two);
        assert_eq!(looks.get(0).err(), Some(Errno::EBADF));
        // Nobody reads any more.
        let caller = crate::file::Caller::default();
        assert_eq!(w.write(&caller, b"x"), Err(Errno::EPIPE));
    }
}
