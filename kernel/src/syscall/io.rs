//! Reading and writing through descriptors.
//!
//! Data goes through a kernel buffer, chunk by chunk: files never see user
//! memory, and no lock is held while it is copied.

use super::{Args, Failure, SysResult, fd_of, socket};
use crate::process::credentials::{INFINITY, resource};
use crate::process;
use crate::user::CurrentUser;
use crate::wait;
use alloc::sync::Arc;
use alloc::vec::Vec;
use base::{Errno, Nanos, PAGE_SIZE, Result, UserMem, UserMemExt, WaitQueue, room};
use syscalls::nr;
use signal::{Restart, SigInfo, Signal};
use vfs::unix::Direction;
use vfs::{Caller, OpenFile, OpenFlags, Position};

/// How much is moved at a time.
const CHUNK: usize = 64 << 10;
/// The most one call moves (MAX_RW_COUNT).
const MAX: u64 = 0x7fff_f000;
/// The most ranges that readv() and friends take.
const IOV_MAX: u64 = 1024;

/// This group's calls.
pub fn dispatch(number: u64, a: Args) -> Option<SysResult> {
    let [fd, buf, len, x3, ..] = a;
    Some(match number {
        nr::READ => read(fd, &[(buf, len)], None),
        nr::WRITE => write(fd, &[(buf, len)], None),
        nr::READV => ranges(buf, len).and_then(|iov| read(fd, &iov, None)),
        nr::WRITEV => ranges(buf, len).and_then(|iov| write(fd, &iov, None)),
        nr::PREAD64 => read(fd, &[(buf, len)], Some(x3 as i64)),
        nr::PWRITE64 => write(fd, &[(buf, len)], Some(x3 as i64)),
        nr::PREADV => ranges(buf, len).and_then(|iov| read(fd, &iov, Some(x3 as i64))),
        nr::PWRITEV => ranges(buf, len).and_then(|iov| write(fd, &iov, Some(x3 as i64))),
        nr::PREADV2 => v2(a, read),
        nr::PWRITEV2 => v2(a, write),
        nr::LSEEK => seek(fd, buf as i64, len as u32),
        nr::SENDFILE => sendfile(fd, buf, len, x3),
        nr::COPY_FILE_RANGE => copy_file_range(a),
        _ => return None,
    })
}

/// Reads or writes the ranges of user memory, at an offset or the file's own.
type Transfer = fn(u64, &[(u64, u64)], Option<i64>) -> SysResult;

/// preadv2() and pwritev2(): offset -1 is the file's own; no flags are known.
fn v2(a: Args, op: Transfer) -> SysResult {
    let [fd, iov, count, offset, _, flags] = a;
    if flags != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let offset = (offset as i64 != -1).then_some(offset as i64);
    op(fd, &ranges(iov, count)?, offset)
}

/// An iovec array.
fn ranges(iov: u64, count: u64) -> Result<Vec<(u64, u64)>, Failure> {
    if count > IOV_MAX {
        return Err(Errno::EINVAL.into());
    }
    let raw: Vec<[u64; 2]> = CurrentUser.read_vec(iov, count as usize)?;
    let mut total = 0u64;
    for [_, len] in &raw {
        total = total.checked_add(*len).filter(|t| *t <= i64::MAX as u64).ok_or(Errno::EINVAL)?;
    }
    Ok(raw.into_iter().map(|[base, len]| (base, len)).collect())
}

/// A file's read or write, waiting if it would block and may.
pub fn blocking<T>(
    file: &OpenFile,
    nonblocking: bool,
    op: impl FnMut() -> Result<T>,
) -> Result<T, Failure> {
    blocking_until(file, nonblocking, None, op)
}

/// As [`blocking`], until `deadline`: `EAGAIN` then, and a signal is `EINTR`.
pub fn blocking_until<T>(
    file: &OpenFile,
    nonblocking: bool,
    deadline: Option<Nanos>,
    mut op: impl FnMut() -> Result<T>,
) -> Result<T, Failure> {
    static NEVER: WaitQueue = WaitQueue::new();
    let result = if nonblocking {
        op().map_err(Failure::Errno)
    } else {
        wait::until(file.wait_queue().unwrap_or(&NEVER), deadline, op).map_err(|ended| match ended {
            wait::Ended::Interrupted if deadline.is_some() => Failure::Errno(Errno::EINTR),
            ended => Failure::from_wait(ended, Restart::Sys, Errno::EAGAIN),
        })
    };
    match result {
        // A terminal stopped us: after the signal, again.
        Err(Failure::Errno(Errno::ERESTART)) => Err(Failure::Restart(Restart::Sys)),
        other => other,
    }
}

/// The kernel's side of a transfer.
struct Buffer {
    /// Short ones, such as eventfd's and fail-nth's, need no heap.
    short: [u8; SHORT],
    long: Vec<u8>,
    len: usize,
}

const SHORT: usize = 128;

impl Buffer {
    fn new(len: u64) -> Result<Buffer> {
        let len = usize::try_from(len).unwrap_or(CHUNK).min(CHUNK);
        let long = if len > SHORT { room::try_zeros(len)? } else { Vec::new() };
        Ok(Buffer { short: [0; SHORT], long, len })
    }

    /// For so much of `file`: a short one while memory is low, unless it is a stream,
    /// in which records must stay whole.
    fn of(file: &OpenFile, len: u64) -> Result<Buffer> {
        let in_pieces = room::is_low() && file.file().position() != Position::Stream;
        Buffer::new(if in_pieces { len.min(SHORT as u64) } else { len })
    }

    fn len(&self) -> usize {
        self.len
    }

    /// Its first `len` bytes.
    fn first(&mut self, len: usize) -> &mut [u8] {
        let all = if self.len > SHORT { &mut self.long[..] } else { &mut self.short[..] };
        all.get_mut(..len).unwrap_or_default()
    }
}

/// What was done counts, even if what follows fails.
fn partial(done: u64, failure: Failure) -> SysResult {
    if done > 0 { Ok(done as i64) } else { Err(failure) }
}

/// Where in its ranges of user memory a transfer is.
#[derive(Clone, Copy)]
struct Ranges<'a> {
    rest: &'a [(u64, u64)],
    /// How much of the first is done.
    at: u64,
    /// How much there is in all.
    left: u64,
}

impl<'a> Ranges<'a> {
    fn new(rest: &'a [(u64, u64)]) -> Self {
        let all = rest.iter().fold(0u64, |sum, (_, len)| sum.saturating_add(*len));
        Ranges { rest, at: 0, left: all.min(MAX) }
    }

    /// The next piece, of at most `most` bytes.
    fn next(&mut self, most: usize) -> Option<(u64, usize)> {
        let most = self.left.min(most as u64);
        while let Some(((base, len), others)) = self.rest.split_first() {
            let piece = len.saturating_sub(self.at).min(most);
            if piece > 0 {
                let at = base.wrapping_add(self.at);
                self.at = self.at.saturating_add(piece);
                self.left = self.left.saturating_sub(piece);
                return Some((at, piece as usize));
            }
            if most == 0 {
                break;
            }
            (self.rest, self.at) = (others, 0);
        }
        None
    }

    /// Copies `data` there; how much, and what stopped it.
    fn write(&mut self, data: &[u8]) -> (usize, Result<()>) {
        let mut done = 0usize;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            let Some((at, len)) = self.next(rest.len()) else { break };
            if let Err(errno) = CurrentUser.write(at, rest.get(..len).unwrap_or_default()) {
                return (done, Err(errno));
            }
            done = done.saturating_add(len);
        }
        (done, Ok(()))
    }

    /// Fills `data` from there; how much, and what stopped it.
    fn read(&mut self, data: &mut [u8]) -> (usize, Result<()>) {
        let mut done = 0usize;
        while let Some(rest) = data.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let Some((at, len)) = self.next(rest.len()) else { break };
            if let Err(errno) = CurrentUser.read(at, rest.get_mut(..len).unwrap_or_default()) {
                return (done, Err(errno));
            }
            done = done.saturating_add(len);
        }
        (done, Ok(()))
    }

    /// How many of the next `most` bytes can be written, see [`writable`].
    fn writable(mut self, most: usize) -> Result<usize> {
        let mut reach = 0usize;
        while let Some((at, len)) = self.next(most.saturating_sub(reach)) {
            let some = match writable(at, len) {
                Ok(some) => some,
                Err(errno) if reach == 0 => return Err(errno),
                Err(_) => 0,
            };
            reach = reach.saturating_add(some);
            if some < len {
                break;
            }
        }
        Ok(reach)
    }
}

fn read(fd: u64, iov: &[(u64, u64)], at: Option<i64>) -> SysResult {
    let file = process::current()?.files()?.get(fd_of(fd))?;
    if at.is_none() && socket::has_messages(&file) {
        return socket::receive_message(&file, iov);
    }
    let caller = process::caller();
    let is_stream = file.file().position() == Position::Stream;
    let mut to = Ranges::new(iov);
    if to.left == 0 && iov.len() == 1 {
        // Even an empty read says whether it could be.
        return file.read(&caller, &mut []).map(|n| n as i64).map_err(Into::into);
    }
    let mut chunk = Buffer::of(&file, to.left)?;
    let mut done = 0u64;
    while to.left > 0 {
        let mut want = chunk.len().min(usize::try_from(to.left).unwrap_or(CHUNK));
        if is_stream {
            want = match to.writable(want) {
                Ok(want) => want,
                Err(errno) => return partial(done, errno.into()),
            };
        }
        let part = chunk.first(want);
        // Only the first piece waits.
        let nonblocking = file.nonblocking() || done > 0;
        let deadline = if nonblocking { None } else { socket::deadline(&file, Direction::Receive) };
        let got = blocking_until(&file, nonblocking, deadline, || match at {
            None => file.read(&caller, part),
            Some(at) => file.read_at(&caller, at.saturating_add(done as i64), part),
        });
        let got = match got {
            Ok(got) => got,
            Err(failure) => return partial(done, failure),
        };
        let (put, result) = to.write(chunk.first(got));
        done = done.saturating_add(put as u64);
        if let Err(errno) = result {
            if at.is_none() && !is_stream {
                // What was read and had no place is read again next time.
                let _ = file.seek((put as i64).saturating_sub(got as i64), vfs::abi::SEEK_CUR);
            }
            return partial(done, errno.into());
        }
        if got < want {
            break;
        }
        crate::sched::breathe();
    }
    Ok(done as i64)
}

/// How many of the `len` bytes at `base` can be written, brought in page by
/// page: what leaves a pipe, a terminal or an eventfd can't go back, so it is
/// not taken for a buffer that isn't there. `EFAULT` if none.
fn writable(base: u64, len: usize) -> Result<usize> {
    let mm = process::current()?.mm()?;
    let mut reach = 0usize;
    while reach < len {
        let at = base.wrapping_add(reach as u64);
        if mm.get_frame(at, true).is_err() {
            break;
        }
        let room = PAGE_SIZE.saturating_sub(at % PAGE_SIZE);
        reach = reach.saturating_add(room as usize);
    }
    match reach.min(len) {
        0 => Err(Errno::EFAULT),
        reach => Ok(reach),
    }
}

fn write(fd: u64, iov: &[(u64, u64)], at: Option<i64>) -> SysResult {
    let file = process::current()?.files()?.get(fd_of(fd))?;
    let caller = process::caller();
    let mut from = Ranges::new(iov);
    if at.is_none() && socket::has_messages(&file) && (from.left > 0 || iov.len() == 1) {
        return socket::send_message(&file, iov);
    }
    if from.left == 0 && iov.len() == 1 {
        return file.write(&caller, &[]).map(|n| n as i64).map_err(Into::into);
    }
    // An eventfd takes one number at a time.
    let one_by_one = file.downcast::<vfs::eventfd::EventFd>().is_some();
    let mut chunk = Buffer::of(&file, from.left)?;
    let mut done = 0u64;
    while from.left > 0 {
        let mut want = chunk.len().min(usize::try_from(from.left).unwrap_or(CHUNK));
        if one_by_one {
            let mut ahead = from;
            want = ahead.next(want).map_or(0, |(_, len)| len);
        }
        // All ranges that have room in a chunk are written as one: a line of
        // the log, or what a pipe takes whole or not at all.
        let (got, fault) = from.read(chunk.first(want));
        if got > 0 {
            match write_all(&file, &caller, chunk.first(got), at, &mut done) {
                Ok(true) => {}
                Ok(false) => return Ok(done as i64),
                Err(failure) => return partial(done, failure),
            }
        }
        if let Err(errno) = fault {
            return partial(done, errno.into());
        }
        crate::sched::breathe();
    }
    Ok(done as i64)
}

/// Writes a chunk, waiting for room as long as it takes; false when a file
/// that doesn't wait took less than all.
fn write_all(
    file: &Arc<OpenFile>,
    caller: &Caller,
    data: &[u8],
    at: Option<i64>,
    done: &mut u64,
) -> Result<bool, Failure> {
    let mut data = data;
    loop {
        let nonblocking = file.nonblocking();
        let at = at.map(|at| at.saturating_add(*done as i64));
        let allowed = data.get(..room_for(file, at, data.len())?).unwrap_or(data);
        let deadline = if nonblocking { None } else { socket::deadline(file, Direction::Send) };
        let put = blocking_until(file, nonblocking, deadline, || match at {
            None => file.write(caller, allowed),
            Some(at) => file.write_at(caller, at, allowed),
        });
        let put = match put {
            Ok(put) => put,
            Err(Failure::Errno(Errno::EPIPE)) => {
                broken_pipe(caller);
                return Err(Errno::EPIPE.into());
            }
            Err(failure) => return Err(failure),
        };
        *done = done.saturating_add(put as u64);
        let limited = put == allowed.len();
        data = data.get(put..).unwrap_or_default();
        if data.is_empty() {
            return Ok(true);
        }
        if nonblocking || put == 0 || limited {
            return Ok(false);
        }
    }
}

/// How many of `len` bytes RLIMIT_FSIZE lets be written, at `at` or where the
/// file is; SIGXFSZ and `EFBIG` if none.
fn room_for(file: &OpenFile, at: Option<i64>, len: usize) -> Result<usize, Failure> {
    let limit = process::current()?.limit(resource::FSIZE);
    if limit == INFINITY || len == 0 {
        return Ok(len);
    }
    let stat = file.stat()?;
    if stat.mode & vfs::abi::S_IFMT != vfs::abi::S_IFREG {
        return Ok(len);
    }
    let position = match at {
        _ if file.flags().contains(OpenFlags::APPEND) => stat.size,
        Some(at) => u64::try_from(at).map_err(|_| Errno::EINVAL)?,
        None => file.seek(0, vfs::abi::SEEK_CUR)?,
    };
    match limit.saturating_sub(position) {
        0 => {
            too_large();
            Err(Errno::EFBIG.into())
        }
        room => Ok(usize::try_from(room).unwrap_or(len).min(len)),
    }
}

/// Whether RLIMIT_FSIZE lets a file that is `now()` bytes long be made `size`
/// long; SIGXFSZ and `EFBIG` if not. It never stops one from shrinking.
pub fn check_size(now: impl FnOnce() -> Result<u64>, size: i64) -> Result<()> {
    let limit = process::current()?.limit(resource::FSIZE);
    if u64::try_from(size).is_ok_and(|size| size > limit) && now()? < size as u64 {
        too_large();
        return Err(Errno::EFBIG);
    }
    Ok(())
}

fn too_large() {
    let info = SigInfo::kernel(Signal::SIGXFSZ, signal::code::SI_KERNEL);
    // It can't fail for a standard signal to oneself.
    let _ = process::signals::send_thread(&crate::sched::current(), info);
}

/// Whoever writes to a pipe that nobody reads gets SIGPIPE.
fn broken_pipe(caller: &Caller) {
    let info = SigInfo::user(Signal::SIGPIPE, 0, caller.pid, 0);
    // It can't fail for a standard signal to oneself.
    let _ = process::signals::send_thread(&crate::sched::current(), info);
}

fn seek(fd: u64, offset: i64, whence: u32) -> SysResult {
    let file = process::current()?.files()?.get(fd_of(fd))?;
    Ok(file.seek(offset, whence)? as i64)
}

/// One step of sendfile() or copy_file_range(), repeated until the count or the
/// end of the input.
fn copy(
    from: &Arc<OpenFile>,
    mut from_at: Option<i64>,
    to: &Arc<OpenFile>,
    mut to_at: Option<i64>,
    count: u64,
) -> Result<(u64, Option<i64>, Option<i64>), Failure> {
    let caller = process::caller();
    let count = count.min(MAX);
    let mut chunk = Buffer::new(count.max(1))?;
    let mut done = 0u64;
    let mut ended = Ok(());
    while done < count {
        let want = chunk.len().min(usize::try_from(count.saturating_sub(done)).unwrap_or(CHUNK));
        let part = chunk.first(want);
        let nonblocking = from.nonblocking() || done > 0;
        let got = blocking(from, nonblocking, || match from_at {
            None => from.read(&caller, part),
            Some(at) => from.read_at(&caller, at, part),
        });
        let got = match got {
            Ok(0) => break,
            Ok(got) => got,
            Err(failure) => {
                ended = Err(failure);
                break;
            }
        };
        let mut put = 0u64;
        let base = to_at;
        let result =
            write_all(to, &caller, chunk.first(got), base, &mut put);
        done = done.saturating_add(put);
        from_at = from_at.map(|at| at.saturating_add(put as i64));
        to_at = to_at.map(|at| at.saturating_add(put as i64));
        if put < got as u64 && from_at.is_none() {
            // What was read and not written is read again next time.
            let _ = from.seek((put as i64).saturating_sub(got as i64), vfs::abi::SEEK_CUR);
        }
        match result {
            Ok(true) => {}
            Ok(false) => break,
            Err(failure) => {
                ended = Err(failure);
                break;
            }
        }
        crate::sched::breathe();
    }
    match ended {
        Err(failure) if done == 0 => Err(failure),
        _ => Ok((done, from_at, to_at)),
    }
}

fn sendfile(out: u64, input: u64, offset: u64, count: u64) -> SysResult {
    let files = process::current()?.files()?;
    let (to, from) = (files.get(fd_of(out))?, files.get(fd_of(input))?);
    // What the output doesn't take must be there to be read again (sendfile(2)).
    if from.file().position() == Position::Stream {
        return Err(Errno::EINVAL.into());
    }
    let at = if offset == 0 { None } else { Some(CurrentUser.read_obj::<i64>(offset)?) };
    let (done, at, _) = copy(&from, at, &to, None, count)?;
    if let Some(at) = at {
        CurrentUser.write_obj(offset, &at)?;
    }
    Ok(done as i64)
}

/// How much of `count` bytes copy_file_range() copies: what the input has now,
/// and nothing onto itself.
fn copy_length(
    from: &OpenFile,
    from_at: Option<i64>,
    to: &OpenFile,
    to_at: Option<i64>,
    count: u64,
) -> Result<u64> {
    let position = |file: &OpenFile, at: Option<i64>| match at {
        Some(at) => u64::try_from(at).map_err(|_| Errno::EINVAL),
        None => file.seek(0, vfs::abi::SEEK_CUR),
    };
    let (start, target) = (position(from, from_at)?, position(to, to_at)?);
    if start.checked_add(count).is_none() || target.checked_add(count).is_none() {
        return Err(Errno::EOVERFLOW);
    }
    let (source, other) = (from.stat()?, to.stat()?);
    let count = count.min(source.size.saturating_sub(start));
    let overlap = target < start.saturating_add(count) && start < target.saturating_add(count);
    if overlap && (source.dev, source.ino) == (other.dev, other.ino) {
        return Err(Errno::EINVAL);
    }
    Ok(count)
}

fn copy_file_range(a: Args) -> SysResult {
    let [input, in_offset, out, out_offset, count, flags] = a;
    if flags != 0 {
        return Err(Errno::EINVAL.into());
    }
    let files = process::current()?.files()?;
    let (to, from) = (files.get(fd_of(out))?, files.get(fd_of(input))?);
    let is_regular = |file: &OpenFile| {
        file.stat().is_ok_and(|stat| stat.mode & vfs::abi::S_IFMT == vfs::abi::S_IFREG)
    };
    if !is_regular(&to) || !is_regular(&from) {
        return Err(Errno::EINVAL.into());
    }
    if !from.flags().readable() || !to.flags().writable() || to.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EBADF.into());
    }
    let read_offset = |at: u64| match at {
        0 => Ok(None),
        at => CurrentUser.read_obj::<i64>(at).map(Some),
    };
    let (from_at, to_at) = (read_offset(in_offset)?, read_offset(out_offset)?);
    let count = copy_length(&from, from_at, &to, to_at, count)?;
    let (done, from_at, to_at) = copy(&from, from_at, &to, to_at, count)?;
    if let Some(at) = from_at {
        CurrentUser.write_obj(in_offset, &at)?;
    }
    if let Some(at) = to_at {
        CurrentUser.write_obj(out_offset, &at)?;
    }
    Ok(done as i64)
}
