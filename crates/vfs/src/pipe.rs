//! Pipes and FIFOs (pipe(7), fifo(7)).
//!
//! Locks: a pipe's state is at `INODE`; its queue is woken after that is let
//! go. The kernel raises SIGPIPE on `EPIPE`.

use crate::abi::{Events, OpenFlags, Stat};
use crate::file::{ANON_DEV, Caller, File, Io, OpenFile};
use alloc::borrow::Cow;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use base::{Errno, Lock, Result, Room, UserMem, UserMemExt, WaitQueue, rank, room};
use core::any::Any;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Writes up to this size are never mixed with others.
pub const PIPE_BUF: usize = 4096;
/// What a pipe holds unless told otherwise.
pub const DEFAULT_SIZE: usize = 65536;
/// What F_SETPIPE_SZ allows (`/proc/sys/fs/pipe-max-size`).
pub const MAX_SIZE: usize = 1 << 20;

pub(crate) const FIONREAD: u32 = 0x541b;

static NEXT_INO: AtomicU64 = AtomicU64::new(4);

/// A number for something anonymous, as `/proc/<pid>/fd` shows it.
pub(crate) fn anonymous_ino() -> u64 {
    NEXT_INO.fetch_add(1, Relaxed)
}

/// The buffer between readers and writers.
pub struct Pipe {
    ino: u64,
    state: Lock<State>,
    queue: WaitQueue,
}

struct State {
    /// Grows up to `size` as it is used.
    data: VecDeque<u8>,
    size: usize,
    readers: u32,
    writers: u32,
    /// How often it was ever opened for reading and writing: who waits for a
    /// peer sees that one came, even if it has gone again.
    reads_opened: u64,
    writes_opened: u64,
}

impl Pipe {
    /// A pipe that nobody has open.
    pub fn new() -> Result<Arc<Pipe>> {
        let state = State {
            data: VecDeque::new(),
            size: DEFAULT_SIZE,
            readers: 0,
            writers: 0,
            reads_opened: 0,
            writes_opened: 0,
        };
        room::try_arc(Pipe {
            ino: anonymous_ino(),
            state: Lock::new(rank::INODE, state),
            queue: WaitQueue::new(),
        })
    }

    /// `pipe2`: the reading and the writing end.
    pub fn pair(flags: OpenFlags) -> Result<(Arc<OpenFile>, Arc<OpenFile>)> {
        let pipe = Pipe::new()?;
        let status = flags & (OpenFlags::NONBLOCK | OpenFlags::DIRECT);
        let reader = PipeEnd::new(pipe.clone(), true, false, true);
        let writer = PipeEnd::new(pipe, false, true, true);
        Ok((
            OpenFile::anonymous(room::try_arc(reader)?, status)?,
            OpenFile::anonymous(room::try_arc(writer)?, status | OpenFlags::WRONLY)?,
        ))
    }

    /// Opens a FIFO. `ENXIO`: for writing, without waiting, and nobody reads.
    /// [`File::open_ready`] tells whether the peer has come.
    pub fn open(self: &Arc<Self>, flags: OpenFlags) -> Result<PipeEnd> {
        let (read, write) = (flags.readable(), flags.writable());
        let nonblock = flags.contains(OpenFlags::NONBLOCK);
        if write && !read && nonblock && self.state.lock().readers == 0 {
            return Err(Errno::ENXIO);
        }
        Ok(PipeEnd::new(self.clone(), read, write, nonblock))
    }

    fn read(&self, buf: &mut [u8]) -> Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let (count, freed) = {
            let mut state = self.state.lock();
            if state.data.is_empty() {
                return if state.writers == 0 { Ok(0) } else { Err(Errno::EAGAIN) };
            }
            let count = buf.len().min(state.data.len());
            copy_out(&mut state.data, buf.get_mut(..count).unwrap_or_default());
            // An idle pipe keeps no buffer; it is freed outside the lock.
            let empty = state.data.is_empty() && state.data.capacity() > PIPE_BUF;
            (count, if empty { Some(core::mem::take(&mut state.data)) } else { None })
        };
        drop(freed);
        self.queue.wake_all();
        Ok(count)
    }

    fn write(&self, data: &[u8]) -> Result<usize> {
        let count = {
            let mut state = self.state.lock();
            if state.readers == 0 {
                return Err(Errno::EPIPE);
            }
            if data.is_empty() {
                return Ok(0);
            }
            let room = state.size.saturating_sub(state.data.len());
            // Small writes go in whole or not at all.
            if room == 0 || (data.len() <= PIPE_BUF && room < data.len()) {
                return Err(Errno::EAGAIN);
            }
            let count = room.min(data.len());
            state.data.make_room(count)?;
            state.data.extend(data.get(..count).unwrap_or_default());
            count
        };
        self.queue.wake_all();
        Ok(count)
    }

    /// F_GETPIPE_SZ.
    pub fn size(&self) -> usize {
        self.state.lock().size
    }

    /// F_SETPIPE_SZ: rounds up; the new size.
    pub fn set_size(&self, size: usize) -> Result<usize> {
        if size > MAX_SIZE {
            return Err(Errno::EPERM);
        }
        let size = size.max(PIPE_BUF).next_power_of_two();
        {
            let mut state = self.state.lock();
            if state.data.len() > size {
                return Err(Errno::EBUSY);
            }
            state.size = size;
        }
        self.queue.wake_all();
        Ok(size)
    }
}

/// Moves the first `out.len()` bytes of `from`.
pub(crate) fn copy_out(from: &mut VecDeque<u8>, out: &mut [u8]) {
    let count = out.len();
    let (first, second) = from.as_slices();
    let split = first.len().min(count);
    let (head, tail) = out.split_at_mut(split);
    for (to, from) in [(head, first), (tail, second)] {
        let from = from.get(..to.len()).unwrap_or_default();
        to.copy_from_slice(from);
    }
    from.drain(..count);
}

/// One opening of a pipe.
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    read: bool,
    write: bool,
    /// The count of the other side's openings before this one, if it has to
    /// wait for one.
    await_peer: Option<u64>,
}

impl PipeEnd {
    fn new(pipe: Arc<Pipe>, read: bool, write: bool, nonblock: bool) -> PipeEnd {
        let await_peer = {
            let mut state = pipe.state.lock();
            if read {
                state.readers = state.readers.saturating_add(1);
                state.reads_opened = state.reads_opened.wrapping_add(1);
            }
            if write {
                state.writers = state.writers.saturating_add(1);
                state.writes_opened = state.writes_opened.wrapping_add(1);
            }
            match (read, write) {
                _ if nonblock => None,
                (true, false) if state.writers == 0 => Some(state.writes_opened),
                (false, true) if state.readers == 0 => Some(state.reads_opened),
                _ => None,
            }
        };
        pipe.queue.wake_all();
        PipeEnd { pipe, read, write, await_peer }
    }

    /// The pipe.
    pub fn pipe(&self) -> &Arc<Pipe> {
        &self.pipe
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        let stale = {
            let mut state = self.pipe.state.lock();
            state.readers = state.readers.saturating_sub(u32::from(self.read));
            state.writers = state.writers.saturating_sub(u32::from(self.write));
            // A FIFO that nobody has open forgets what was in it.
            let unused = state.readers == 0 && state.writers == 0;
            if unused { Some(core::mem::take(&mut state.data)) } else { None }
        };
        drop(stale);
        self.pipe.queue.wake_all();
    }
}

impl File for PipeEnd {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn read(&self, _io: &mut Io<'_>, buf: &mut [u8]) -> Result<usize> {
        self.pipe.read(buf)
    }
    fn write(&self, _io: &mut Io<'_>, data: &[u8]) -> Result<usize> {
        self.pipe.write(data)
    }
    fn poll(&self) -> Events {
        let state = self.pipe.state.lock();
        let mut events = Events::empty();
        if self.read {
            events.set(Events::READ, !state.data.is_empty());
            // A FIFO that never had a writer hasn't been hung up on.
            events.set(Events::HUP, state.writers == 0 && state.writes_opened != 0);
        }
        if self.write {
            // As Linux: writable while a PIPE_BUF fits, and once nobody reads.
            let room = state.size.saturating_sub(state.data.len());
            events.set(Events::WRITE, room >= PIPE_BUF);
            events.set(Events::ERR, state.readers == 0);
        }
        events
    }
    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.pipe.queue)
    }
    fn ioctl(&self, _caller: &Caller, cmd: u32, arg: u64, mem: &dyn UserMem) -> Result<i64> {
        match cmd {
            FIONREAD => {
                let count = self.pipe.state.lock().data.len() as u32;
                mem.write_obj(arg, &count)?;
                Ok(0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }
    fn stat(&self) -> Result<Stat> {
        Ok(Stat { dev: ANON_DEV, ino: self.pipe.ino, mode: 0o010_600, nlink: 1, ..Stat::default() })
    }
    fn open_ready(&self) -> Result<()> {
        let Some(before) = self.await_peer else { return Ok(()) };
        let state = self.pipe.state.lock();
        let now = if self.read { state.writes_opened } else { state.reads_opened };
        if now == before { Err(Errno::EAGAIN) } else { Ok(()) }
    }
    fn describe(&self) -> Cow<'static, str> {
        Cow::Owned(alloc::format!("pipe:[{}]", self.pipe.ino))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Events;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    fn who() -> Caller {
        Caller::default()
    }

    #[test]
    fn ends_and_events() {
        let (r, w) = Pipe::pair(OpenFlags::empty()).unwrap();
        let mut buf = [0; 16];
        assert_eq!(r.read(&who(), &mut buf), Err(Errno::EAGAIN));
        assert_eq!(r.poll(), Events::empty());
        assert_eq!(w.poll(), Events::WRITE);
        assert_eq!(w.write(&who(), b"hello"), Ok(5));
        assert_eq!(w.read(&who(), &mut buf), Err(Errno::EBADF));
        assert_eq!(r.poll(), Events::READ);
        assert_eq!(r.read(&who(), &mut buf[..2]), Ok(2));
        drop(w);
        assert_eq!(r.poll(), Events::READ | Events::HUP);
        assert_eq!(r.read(&who(), &mut buf), Ok(3));
        assert_eq!(&buf[..3], b"llo");
        assert_eq!(r.read(&who(), &mut buf), Ok(0));
        assert_eq!(r.seek(0, 0), Err(Errno::ESPIPE));
        let (r, w) = Pipe::pair(OpenFlags::empty()).unwrap();
        drop(r);
        assert_eq!(w.write(&who(), b"x"), Err(Errno::EPIPE));
        assert!(w.poll().contains(Events::ERR));
    }

    #[test]
    fn small_writes_are_whole() {
        let (r, w) = Pipe::pair(OpenFlags::empty()).unwrap();
        let big = vec![1u8; DEFAULT_SIZE - 100];
        assert_eq!(w.write(&who(), &big), Ok(DEFAULT_SIZE - 100));
        assert_eq!(w.write(&who(), &[2; 101]), Err(Errno::EAGAIN));
        assert_eq!(w.poll(), Events::empty());
        assert_eq!(w.write(&who(), &[2; PIPE_BUF + 1]), Ok(100));
        assert_eq!(w.write(&who(), &[2; PIPE_BUF + 1]), Err(Errno::EAGAIN));
        let mut buf = vec![0; DEFAULT_SIZE];
        assert_eq!(r.read(&who(), &mut buf), Ok(DEFAULT_SIZE));
        assert_eq!(w.poll(), Events::WRITE);
    }

    #[test]
    fn fifos_wait_for_their_peer() {
        let pipe = Pipe::new().unwrap();
        assert!(matches!(pipe.open(OpenFlags::WRONLY | OpenFlags::NONBLOCK), Err(Errno::ENXIO)));
        let reader = pipe.open(OpenFlags::empty()).unwrap();
        assert_eq!(reader.open_ready(), Err(Errno::EAGAIN));
        let writer = pipe.open(OpenFlags::WRONLY).unwrap();
        assert_eq!(writer.open_ready(), Ok(()));
        drop(writer);
        assert_eq!(reader.open_ready(), Ok(()));
        assert!(reader.poll().contains(Events::HUP));
        drop(reader);
        let both = pipe.open(OpenFlags::RDWR).unwrap();
        assert_eq!(both.open_ready(), Ok(()));
    }

    proptest! {
        #[test]
        fn like_a_queue(ops in proptest::collection::vec((any::<bool>(), 0usize..9000), 1..60)) {
            let (r, w) = Pipe::pair(OpenFlags::empty()).unwrap();
            let mut model: std::collections::VecDeque<u8> = Default::default();
            let mut next = 0u8;
            for (write, count) in ops {
                if write {
                    let data: Vec<u8> = (0..count).map(|_| { next = next.wrapping_add(1); next }).collect();
                    let room = DEFAULT_SIZE - model.len();
                    match w.write(&who(), &data) {
                        Ok(done) => {
                            prop_assert!(done == count || (count > PIPE_BUF && done == room));
                            model.extend(&data[..done]);
                        }
                        Err(errno) => {
                            prop_assert_eq!(errno, Errno::EAGAIN);
                            prop_assert!(room == 0 || (count <= PIPE_BUF && room < count));
                        }
                    }
                } else {
                    let mut buf = vec![0; count];
                    match r.read(&who(), &mut buf) {
                        Ok(done) => {
                            prop_assert_eq!(done, count.min(model.len()));
                            for byte in &buf[..done] {
                                prop_assert_eq!(Some(*byte), model.pop_front());
                            }
                        }
                        Err(errno) => {
                            prop_assert_eq!(errno, Errno::EAGAIN);
                            prop_assert!(model.is_empty());
                        }
                    }
                }
            }
        }
    }
}
