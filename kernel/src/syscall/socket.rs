//! Sockets: AF_UNIX, until there is a network (unix(7)); and signalfd.

use super::io::blocking_until;
use super::path::install;
use super::{Args, Failure, SysResult, fd_of};
use crate::process::credentials::resource;
use crate::process::{self, caller, current, with_thread};
use crate::user::CurrentUser;
use alloc::sync::Arc;
use alloc::vec::Vec;
use base::{Errno, Nanos, Result, UserMem, UserMemExt, WaitQueue, Room, room};
use signal::{SigInfo, SigSet, Signal, code};
use syscalls::nr;
use vfs::ops::Files;
use vfs::signalfd::{SIGINFO_LEN, SignalFd, SignalSource};
use vfs::unix::{AF_UNIX, Address, Direction, MSG_PEEK, Received, Socket, SocketType};
use vfs::{OpenFile, OpenFlags};

const SOCK_TYPE: u32 = 0xf;
const SOCK_NONBLOCK: u32 = 0o4000;
const SOCK_CLOEXEC: u32 = 0o200_0000;

const MSG_TRUNC: u32 = 0x20;
const MSG_CTRUNC: u32 = 8;
const MSG_DONTWAIT: u32 = 0x40;
const MSG_NOSIGNAL: u32 = 0x4000;
const MSG_CMSG_CLOEXEC: u32 = 0x4000_0000;

/// This group's calls; `None` for others.
pub fn dispatch(number: u64, a: Args) -> Option<SysResult> {
    let [a0, a1, a2, a3, a4, a5] = a;
    Some(match number {
        nr::SOCKET => socket(a0 as u32, a1 as u32, a2 as u32),
        nr::SOCKETPAIR => socketpair(a0 as u32, a1 as u32, a2 as u32, a3),
        nr::BIND => bind(a0, a1, a2),
        nr::LISTEN => listen(a0, a1 as i32),
        nr::ACCEPT => accept(a0, a1, a2, 0),
        nr::ACCEPT4 => accept(a0, a1, a2, a3 as u32),
        nr::CONNECT => connect(a0, a1, a2),
        nr::GETSOCKNAME => name(a0, a1, a2, false),
        nr::GETPEERNAME => name(a0, a1, a2, true),
        nr::SENDTO => sendto(a0, a1, a2, a3 as u32, a4, a5),
        nr::RECVFROM => recvfrom(a0, a1, a2, a3 as u32, a4, a5),
        nr::SENDMSG => sendmsg(a0, a1, a2 as u32),
        nr::RECVMSG => recvmsg(a0, a1, a2 as u32),
        nr::SHUTDOWN => shutdown(a0, a1 as u32),
        nr::SETSOCKOPT => setsockopt(a0, a1 as u32, a2 as u32, a3, a4 as u32),
        nr::GETSOCKOPT => getsockopt(a0, a1 as u32, a2 as u32, a3, a4),
        nr::SIGNALFD4 => signalfd(a0, a1, a2, a3 as u32),
        _ => return None,
    })
}

fn kind_of(family: u32, kind: u32, protocol: u32) -> Result<SocketType> {
    if family != u32::from(AF_UNIX) {
        return Err(Errno::EAFNOSUPPORT);
    }
    if kind & !(SOCK_TYPE | SOCK_NONBLOCK | SOCK_CLOEXEC) != 0 {
        return Err(Errno::EINVAL);
    }
    // PF_UNIX itself is accepted as its protocol.
    if protocol > 1 {
        return Err(Errno::EPROTONOSUPPORT);
    }
    SocketType::from_arg(kind & SOCK_TYPE)
}

fn status(kind: u32) -> OpenFlags {
    if kind & SOCK_NONBLOCK != 0 { OpenFlags::NONBLOCK } else { OpenFlags::empty() }
}

fn socket(family: u32, kind: u32, protocol: u32) -> SysResult {
    let socket = Socket::new(kind_of(family, kind, protocol)?, &caller())?;
    install(socket.open(status(kind))?, kind & SOCK_CLOEXEC != 0)
}

fn socketpair(family: u32, kind: u32, protocol: u32, out: u64) -> SysResult {
    let (a, b) = Socket::pair(kind_of(family, kind, protocol)?, &caller())?;
    let cloexec = kind & SOCK_CLOEXEC != 0;
    let (a, b) = (a.open(status(kind))?, b.open(status(kind))?);
    let first = install(a, cloexec)?;
    let close = |fd: i64| current()?.files()?.close(fd as i32);
    let second = install(b, cloexec).inspect_err(|_| {
        let _ = close(first);
    })?;
    if let Err(errno) = CurrentUser.write_obj(out, &[first as i32, second as i32]) {
        close(first)?;
        close(second)?;
        return Err(errno.into());
    }
    Ok(0)
}

/// A socket's open file; `ENOTSOCK` for others.
fn open_socket(fd: u64) -> Result<Arc<OpenFile>> {
    let file = current()?.files()?.get(fd_of(fd))?;
    socket_of(&file)?;
    Ok(file)
}

fn socket_of(file: &OpenFile) -> Result<&Socket> {
    file.downcast::<Socket>().ok_or(Errno::ENOTSOCK)
}

/// The longest address: struct sockaddr_storage.
const ADDRESS_MAX: u64 = 128;

fn read_address(at: u64, len: u64) -> Result<Address> {
    if len > ADDRESS_MAX {
        return Err(Errno::EINVAL);
    }
    let bytes: Vec<u8> = CurrentUser.read_vec(at, len as usize)?;
    Address::parse(&bytes)
}

/// Writes an address where the caller has room for `*len` bytes, and how long
/// it is there.
fn write_address(address: &Address, at: u64, len: u64) -> Result<()> {
    if at == 0 {
        return Ok(());
    }
    let room: i32 = CurrentUser.read_obj(len)?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    let bytes = address.to_bytes();
    CurrentUser.write(at, bytes.get(..room.min(bytes.len())).unwrap_or(&bytes))?;
    CurrentUser.write_obj(len, &(bytes.len() as u32))
}

/// Runs `f` with the caller's view of the file tree.
fn with_files<R>(f: impl FnOnce(&Files<'_>) -> Result<R>) -> Result<R> {
    let context = current()?.fs()?.lock().clone();
    let caller = caller();
    f(&context.files(process::namespace()?, &caller))
}

fn bind(fd: u64, address: u64, len: u64) -> SysResult {
    let file = open_socket(fd)?;
    let address = read_address(address, len)?;
    with_files(|files| socket_of(&file)?.bind(address, files))?;
    Ok(0)
}

fn listen(fd: u64, backlog: i32) -> SysResult {
    socket_of(&*open_socket(fd)?)?.listen(backlog)?;
    Ok(0)
}

fn accept(fd: u64, address: u64, len: u64, flags: u32) -> SysResult {
    if flags & !(SOCK_NONBLOCK | SOCK_CLOEXEC) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let process = current()?;
    let file = open_socket(fd)?;
    // First, as on Linux: who can't be given the connection doesn't take it.
    let reserved = process.files()?.reserve(process.limit(resource::NOFILE))?;
    let deadline = deadline(&file, Direction::Receive);
    let end = blocking_until(&file, file.nonblocking(), deadline, || {
        socket_of(&file)?.accept(status(flags))
    })?;
    write_address(&socket_of(&end)?.peer_name().unwrap_or_default(), address, len)?;
    Ok(i64::from(reserved.install(end, flags & SOCK_CLOEXEC != 0)))
}

fn connect(fd: u64, address: u64, len: u64) -> SysResult {
    let file = open_socket(fd)?;
    let address = read_address(address, len)?;
    let caller = caller();
    let attempt = || with_files(|files| socket_of(&file)?.connect(&address, files, &caller));
    match attempt() {
        Err(Errno::EAGAIN) if !file.nonblocking() => {
            // The other's backlog is full: it tells when it has accepted one.
            let other = with_files(|files| socket_of(&file)?.connect_queue(&address, files))?;
            let deadline = deadline(&file, Direction::Send);
            blocking_until(&*other.open(OpenFlags::empty())?, false, deadline, attempt)?;
        }
        result => result?,
    }
    Ok(0)
}

fn name(fd: u64, address: u64, len: u64, peer: bool) -> SysResult {
    let file = open_socket(fd)?;
    let socket = socket_of(&file)?;
    let name = if peer { socket.peer_name()? } else { socket.name() };
    if address == 0 {
        return Err(Errno::EFAULT.into());
    }
    write_address(&name, address, len)?;
    Ok(0)
}

/// The most that one message holds, and one step of a stream.
const CHUNK: u64 = 256 << 10;

/// Whether each write to a file is a message: a datagram, or a record.
pub fn has_messages(file: &OpenFile) -> bool {
    file.downcast::<Socket>().is_some_and(|socket| socket.kind() != SocketType::Stream)
}

/// When a wait on a file ends: SO_RCVTIMEO, SO_SNDTIMEO.
pub fn deadline(file: &OpenFile, direction: Direction) -> Option<Nanos> {
    let timeout = file.downcast::<Socket>()?.timeout(direction)?;
    Some(crate::time::now().saturating_add(timeout))
}

/// read() and readv() of a message: what has no room is lost.
pub fn receive_message(file: &OpenFile, ranges: &[(u64, u64)]) -> SysResult {
    let room = ranges.iter().fold(0u64, |sum, (_, len)| sum.saturating_add(*len));
    // As Linux: an empty read takes nothing.
    if room == 0 {
        return Ok(0);
    }
    let (_, data) = receive(file, room, 0)?;
    scatter(&data, ranges)?;
    Ok(data.len() as i64)
}

/// write() and writev() of a message.
pub fn send_message(file: &OpenFile, ranges: &[(u64, u64)]) -> SysResult {
    send(file, ranges, 0, None, Vec::new())
}

/// Copies a message to its ranges.
fn scatter(data: &[u8], ranges: &[(u64, u64)]) -> Result<()> {
    let mut rest = data;
    for &(at, len) in ranges {
        let (now, later) = rest.split_at(rest.len().min(usize::try_from(len).unwrap_or(usize::MAX)));
        CurrentUser.write(at, now)?;
        rest = later;
    }
    Ok(())
}

fn nonblocking(file: &OpenFile, flags: u32) -> bool {
    file.nonblocking() || flags & MSG_DONTWAIT != 0
}

/// Sends what is in user memory; a stream's data in steps.
fn send(
    file: &OpenFile,
    ranges: &[(u64, u64)],
    flags: u32,
    to: Option<&Address>,
    rights: Vec<Arc<OpenFile>>,
) -> SysResult {
    let socket = socket_of(file)?;
    let total = ranges.iter().fold(0u64, |sum, (_, len)| sum.saturating_add(*len));
    if socket.kind() != SocketType::Stream && total > CHUNK {
        return Err(Errno::EMSGSIZE.into());
    }
    let mut data: Vec<u8> = room::try_vec(total.min(CHUNK) as usize)?;
    for (at, len) in ranges {
        let take = CHUNK.saturating_sub(data.len() as u64).min(*len);
        data.extend_from_slice(&CurrentUser.read_vec::<u8>(*at, take as usize)?);
    }
    let mut done = 0usize;
    let mut rights = Some(rights);
    loop {
        let rest = data.get(done..).unwrap_or_default();
        let attempt = || {
            // Kept for another attempt, if this one finds no room.
            let rights = rights.clone().unwrap_or_default();
            match to {
                Some(address) => {
                    with_files(|files| socket.send(rest, Some((address, files)), rights))
                }
                None => socket.send(rest, None, rights),
            }
        };
        let deadline = deadline(file, Direction::Send);
        match blocking_until(file, nonblocking(file, flags), deadline, attempt) {
            Ok(count) => done = done.saturating_add(count),
            Err(_) if done > 0 => return Ok(done as i64),
            Err(Failure::Errno(Errno::EPIPE)) if flags & MSG_NOSIGNAL == 0 => {
                let info = SigInfo::user(Signal::SIGPIPE, code::SI_USER, caller().pid, 0);
                let _ = process::signals::send_thread(&crate::sched::current(), info);
                return Err(Errno::EPIPE.into());
            }
            Err(failure) => return Err(failure),
        }
        rights = None;
        if done >= data.len() {
            return Ok(done as i64);
        }
    }
}

fn sendto(fd: u64, data: u64, len: u64, flags: u32, to: u64, to_len: u64) -> SysResult {
    let file = open_socket(fd)?;
    let to = if to == 0 { None } else { Some(read_address(to, to_len)?) };
    send(&file, &[(data, len)], flags, to.as_ref(), Vec::new())
}

/// Receives into a kernel buffer of at most `room` bytes.
fn receive(file: &OpenFile, room: u64, flags: u32) -> Result<(Received, Vec<u8>), Failure> {
    let socket = socket_of(file)?;
    let mut buffer = Vec::new();
    let room = room.min(CHUNK) as usize;
    buffer.make_room(room)?;
    buffer.resize(room, 0);
    let deadline = deadline(file, Direction::Receive);
    let received = blocking_until(file, nonblocking(file, flags), deadline, || {
        socket.receive(&mut buffer, flags & MSG_PEEK)
    })?;
    buffer.truncate(received.count);
    Ok((received, buffer))
}

fn recvfrom(fd: u64, out: u64, len: u64, flags: u32, from: u64, from_len: u64) -> SysResult {
    let file = open_socket(fd)?;
    let (received, data) = receive(&file, len, flags)?;
    CurrentUser.write(out, &data)?;
    write_address(&received.from, from, from_len)?;
    let count = if flags & MSG_TRUNC != 0 { received.whole.max(data.len()) } else { data.len() };
    Ok(count as i64)
}

/// struct msghdr: name, its length, iovec, their count, control data, its
/// length, flags.
type MsgHdr = [u64; 7];

fn read_message(at: u64) -> Result<(MsgHdr, Vec<(u64, u64)>)> {
    let header: MsgHdr = CurrentUser.read_obj(at)?;
    let [_, _, iov, count, ..] = header;
    if count > 1024 {
        return Err(Errno::EMSGSIZE);
    }
    let ranges: Vec<[u64; 2]> = CurrentUser.read_vec(iov, count as usize)?;
    Ok((header, ranges.into_iter().map(|[at, len]| (at, len)).collect()))
}

const SOL_SOCKET: u32 = 1;
const SCM_RIGHTS: u32 = 1;
/// struct cmsghdr: length, level, type.
const CMSG_HEADER: u64 = 16;

/// The files that a message's control data names.
fn read_rights(control: u64, len: u64) -> Result<Vec<Arc<OpenFile>>> {
    let mut rights = Vec::new();
    let mut at = 0u64;
    // Ends: each round goes at least a header further.
    while control != 0 && at.saturating_add(CMSG_HEADER) <= len.min(8192) {
        let [size, kind]: [u64; 2] = CurrentUser.read_obj(control.wrapping_add(at))?;
        if size < CMSG_HEADER || size > len.saturating_sub(at) {
            return Err(Errno::EINVAL);
        }
        let (level, kind) = (kind as u32, (kind >> 32) as u32);
        if level == SOL_SOCKET && kind == SCM_RIGHTS {
            let count = size.saturating_sub(CMSG_HEADER) / 4;
            let fds = control.wrapping_add(at).wrapping_add(CMSG_HEADER);
            for fd in CurrentUser.read_vec::<i32>(fds, count as usize)? {
                rights.push(current()?.files()?.get(fd)?);
            }
            if rights.len() > vfs::unix::MAX_RIGHTS {
                return Err(Errno::EINVAL);
            }
        }
        at = at.saturating_add(size.next_multiple_of(8));
    }
    Ok(rights)
}

fn sendmsg(fd: u64, message: u64, flags: u32) -> SysResult {
    let file = open_socket(fd)?;
    let ([name, name_len, _, _, control, control_len, _], ranges) = read_message(message)?;
    let name_len = u64::from(name_len as u32);
    let to = if name == 0 || name_len == 0 { None } else { Some(read_address(name, name_len)?) };
    let rights = read_rights(control, control_len)?;
    send(&file, &ranges, flags, to.as_ref(), rights)
}

fn recvmsg(fd: u64, message: u64, flags: u32) -> SysResult {
    let file = open_socket(fd)?;
    let ([name, name_len, _, _, control, control_len, _], ranges) = read_message(message)?;
    let total = ranges.iter().fold(0u64, |sum, (_, len)| sum.saturating_add(*len));
    let (received, data) = receive(&file, total, flags)?;
    scatter(&data, &ranges)?;
    let mut told = if received.whole > data.len() { MSG_TRUNC } else { 0 };
    if name != 0 {
        let bytes = received.from.to_bytes();
        let room = bytes.len().min(name_len as u32 as usize);
        let bytes = bytes.get(..room).unwrap_or_default();
        CurrentUser.write(name, bytes)?;
        CurrentUser.write_obj(message.wrapping_add(8), &(bytes.len() as u32))?;
    }
    let mut control_used = 0u64;
    if !received.rights.is_empty() {
        // As many as there is room for; the others are closed.
        let room = control_len.saturating_sub(CMSG_HEADER) / 4;
        let room = if control == 0 { 0 } else { room };
        let mut fds = 0u64;
        for right in received.rights {
            if fds >= room {
                told |= MSG_CTRUNC;
                break;
            }
            let fd = install(right, flags & MSG_CMSG_CLOEXEC != 0)? as i32;
            let at = control.wrapping_add(CMSG_HEADER).wrapping_add(fds.saturating_mul(4));
            CurrentUser.write_obj(at, &fd)?;
            fds = fds.saturating_add(1);
        }
        if fds > 0 {
            let size = CMSG_HEADER.saturating_add(fds.saturating_mul(4));
            let kind = u64::from(SOL_SOCKET) | u64::from(SCM_RIGHTS) << 32;
            CurrentUser.write_obj(control, &[size, kind])?;
            control_used = size.next_multiple_of(8).min(control_len);
        }
    }
    CurrentUser.write_obj(message.wrapping_add(40), &control_used)?;
    CurrentUser.write_obj(message.wrapping_add(48), &told)?;
    Ok(data.len() as i64)
}

fn shutdown(fd: u64, how: u32) -> SysResult {
    socket_of(&*open_socket(fd)?)?.shutdown(how)?;
    Ok(0)
}

/// SO_* options (asm-generic/socket.h).
mod so {
    pub const REUSEADDR: u32 = 2;
    pub const TYPE: u32 = 3;
    pub const ERROR: u32 = 4;
    pub const SNDBUF: u32 = 7;
    pub const RCVBUF: u32 = 8;
    pub const KEEPALIVE: u32 = 9;
    pub const PASSCRED: u32 = 16;
    pub const PEERCRED: u32 = 17;
    pub const RCVTIMEO: u32 = 20;
    pub const SNDTIMEO: u32 = 21;
    pub const ACCEPTCONN: u32 = 30;
    pub const PROTOCOL: u32 = 38;
    pub const DOMAIN: u32 = 39;
}

/// Which time-out an option is.
const fn timeout_of(option: u32) -> Option<Direction> {
    match option {
        so::RCVTIMEO => Some(Direction::Receive),
        so::SNDTIMEO => Some(Direction::Send),
        _ => None,
    }
}

fn setsockopt(fd: u64, level: u32, option: u32, value: u64, len: u32) -> SysResult {
    let file = open_socket(fd)?;
    if level != SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP.into());
    }
    if let Some(direction) = timeout_of(option) {
        if (len as usize) < size_of::<[i64; 2]>() {
            return Err(Errno::EINVAL.into());
        }
        // struct timeval. Zero: none; a time before now: no waiting at all.
        let [seconds, micros]: [i64; 2] = CurrentUser.read_obj(value)?;
        let micros = u64::try_from(micros).ok().filter(|micros| *micros < 1_000_000).ok_or(Errno::EDOM)?;
        let timeout = match u64::try_from(seconds) {
            Err(_) => Some(0),
            Ok(0) if micros == 0 => None,
            Ok(seconds) => {
                Some(seconds.saturating_mul(1_000_000_000).saturating_add(micros.saturating_mul(1000)))
            }
        };
        socket_of(&file)?.set_timeout(direction, timeout);
        return Ok(0);
    }
    match option {
        // Accepted, and of no consequence here.
        so::REUSEADDR | so::SNDBUF | so::RCVBUF | so::KEEPALIVE => Ok(0),
        _ => Err(Errno::ENOPROTOOPT.into()),
    }
}

fn getsockopt(fd: u64, level: u32, option: u32, out: u64, len: u64) -> SysResult {
    let file = open_socket(fd)?;
    let socket = socket_of(&file)?;
    if level != SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let peer = socket.peer_credentials();
    let timeout = timeout_of(option).map(|direction| socket.timeout(direction).unwrap_or(0));
    let timeout = timeout.map(|nanos| [nanos / 1_000_000_000, nanos % 1_000_000_000 / 1000]);
    let value: &[u32] = match option {
        so::TYPE => &[socket.kind().number()],
        so::ERROR | so::PROTOCOL | so::PASSCRED | so::REUSEADDR | so::KEEPALIVE => &[0],
        so::SNDBUF | so::RCVBUF => &[212_992],
        so::ACCEPTCONN => &[u32::from(socket.is_listening())],
        so::DOMAIN => &[u32::from(AF_UNIX)],
        so::PEERCRED => &[peer.pid, peer.uid, peer.gid],
        so::RCVTIMEO | so::SNDTIMEO => &[],
        _ => return Err(Errno::ENOPROTOOPT.into()),
    };
    let bytes: Vec<u8> = match timeout {
        Some(timeval) => timeval.iter().flat_map(|word| word.to_le_bytes()).collect(),
        None => value.iter().flat_map(|word| word.to_le_bytes()).collect(),
    };
    let room: i32 = CurrentUser.read_obj(len)?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?.min(bytes.len());
    CurrentUser.write(out, bytes.get(..room).unwrap_or(&bytes))?;
    CurrentUser.write_obj(len, &(room as u32))?;
    Ok(0)
}

/// The calling thread's signals, for signalfds.
struct Signals;

impl SignalSource for Signals {
    fn is_pending(&self, mask: u64) -> bool {
        let wanted = SigSet::from_bits(mask);
        with_thread(|thread| !thread.pending().and(wanted).is_empty()) == Ok(true)
    }

    fn take(&self, mask: u64) -> Option<[u8; SIGINFO_LEN]> {
        let info = with_thread(|thread| thread.take_signal(SigSet::from_bits(mask))).ok()??;
        Some(signalfd_info(&info))
    }

    fn wait_queue(&self) -> &WaitQueue {
        &process::signals::ARRIVALS
    }
}

/// struct signalfd_siginfo (linux/signalfd.h).
fn signalfd_info(info: &SigInfo) -> [u8; SIGINFO_LEN] {
    let mut bytes = [0; SIGINFO_LEN];
    let child = info.signal() == Signal::SIGCHLD && !info.is_from_user();
    let fields: [(usize, u32); 6] = [
        (0, u32::from(info.signal().number())),
        (8, info.code().cast_unsigned()),
        (12, info.pid()),
        (16, info.uid()),
        (40, if child { info.status().cast_unsigned() } else { 0 }),
        (44, if child { 0 } else { info.status().cast_unsigned() }),
    ];
    for (at, value) in fields {
        if let Some(place) = bytes.get_mut(at..at.saturating_add(4)) {
            place.copy_from_slice(&value.to_le_bytes());
        }
    }
    bytes
}

fn signalfd(fd: u64, mask: u64, size: u64, flags: u32) -> SysResult {
    if size != 8 {
        return Err(Errno::EINVAL.into());
    }
    let mask: u64 = CurrentUser.read_obj(mask)?;
    if fd_of(fd) == -1 {
        let file = SignalFd::open(mask, flags, Arc::new(Signals))?;
        return install(file, flags & OpenFlags::CLOEXEC.bits() != 0);
    }
    let file = current()?.files()?.get(fd_of(fd))?;
    file.downcast::<SignalFd>().ok_or(Errno::EINVAL)?.set_mask(mask);
    Ok(i64::from(fd_of(fd)))
}
