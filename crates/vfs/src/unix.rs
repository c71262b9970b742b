//! AF_UNIX sockets (unix(7)): stream, datagram and seqpacket; pairs, paths and
//! abstract names; SCM_RIGHTS.
//!
//! Locks: a socket's state is at `INODE`, and two are never held at once; the
//! table of names, and what ended sockets left, are at `NAMESPACE`. Queues are woken with no lock held.
//! `PASSING` (`OPEN_FILE`) is held while a socket is put into a queue.

use crate::abi::{Events, FileType, OpenFlags, Stat};
use crate::file::{ANON_DEV, Caller, File, Io, OpenFile};
use crate::ops::Files;
use crate::pipe::{FIONREAD, anonymous_ino};
use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, LinkedList, VecDeque};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use base::{Errno, Lock, Nanos, Result, Room, UserMem, UserMemExt, WaitQueue, rank, room};
use core::any::Any;
use core::sync::atomic::{AtomicU64, Ordering};

/// Address family.
pub const AF_UNIX: u16 = 1;
/// The longest `sun_path`.
pub const PATH_LEN: usize = 108;
/// What a stream's or queue's receiver holds.
const BUFFER: usize = 208 * 1024;
/// Datagrams that may wait (net.unix.max_dgram_qlen), and a stream's messages
/// with files.
const MAX_QUEUED: usize = 512;
/// The longest backlog.
const MAX_BACKLOG: usize = 4096;
/// Descriptors that one message may carry (SCM_MAX_FD).
pub const MAX_RIGHTS: usize = 253;

/// Sockets, and files in their queues, that a search for rings looks at.
const MAX_SEARCH: usize = 1024;
const MAX_LOOKS: usize = 65_536;

/// SOCK_*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketType {
    /// A stream of bytes.
    Stream,
    /// Messages, from anybody.
    Datagram,
    /// Messages, in a connection.
    SeqPacket,
}

impl SocketType {
    /// From `socket`'s argument without SOCK_NONBLOCK and SOCK_CLOEXEC.
    pub fn from_arg(kind: u32) -> Result<SocketType> {
        match kind {
            1 => Ok(SocketType::Stream),
            2 => Ok(SocketType::Datagram),
            5 => Ok(SocketType::SeqPacket),
            _ => Err(Errno::ESOCKTNOSUPPORT),
        }
    }

    /// The number.
    pub fn number(self) -> u32 {
        match self {
            SocketType::Stream => 1,
            SocketType::Datagram => 2,
            SocketType::SeqPacket => 5,
        }
    }
}

/// Which of a socket's time-outs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// SO_RCVTIMEO
    Receive,
    /// SO_SNDTIMEO
    Send,
}

/// A socket's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// None.
    #[default]
    Unnamed,
    /// A path, as it was bound.
    Path(Box<[u8]>),
    /// A name in the abstract name space.
    Abstract(Box<[u8]>),
}

impl Address {
    /// From `sockaddr_un`'s bytes.
    pub fn parse(bytes: &[u8]) -> Result<Address> {
        let (family, path) = bytes.split_first_chunk::<2>().ok_or(Errno::EINVAL)?;
        if u16::from_le_bytes(*family) != AF_UNIX {
            return Err(Errno::EINVAL);
        }
        if path.len() > PATH_LEN {
            return Err(Errno::EINVAL);
        }
        match path.split_first() {
            None => Ok(Address::Unnamed),
            Some((0, name)) => Ok(Address::Abstract(name.into())),
            Some(_) => {
                let end = path.iter().position(|byte| *byte == 0).unwrap_or(path.len());
                Ok(Address::Path(path.get(..end).unwrap_or(path).into()))
            }
        }
    }

    /// To `sockaddr_un`'s bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = AF_UNIX.to_le_bytes().to_vec();
        match self {
            Address::Unnamed => {}
            Address::Path(path) => {
                bytes.extend_from_slice(path);
                bytes.push(0);
            }
            Address::Abstract(name) => {
                bytes.push(0);
                bytes.extend_from_slice(name);
            }
        }
        bytes
    }
}

/// What came with a message.
#[derive(Default)]
pub struct Received {
    /// Bytes put into the buffer.
    pub count: usize,
    /// The message was longer (MSG_TRUNC): its whole length.
    pub whole: usize,
    /// Who sent it.
    pub from: Address,
    /// Open files that came along.
    pub rights: Vec<Arc<OpenFile>>,
}

/// MSG_PEEK.
pub const MSG_PEEK: u32 = 2;

struct Message {
    data: Box<[u8]>,
    from: Address,
    rights: Vec<Arc<OpenFile>>,
}

/// Process id, user and group of a peer (SO_PEERCRED).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Process.
    pub pid: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

#[derive(Default)]
struct State {
    name: Address,
    /// The peer of a connection, or where datagrams go.
    peer: Option<Weak<Socket>>,
    peer_name: Address,
    peer_credentials: Credentials,
    credentials: Credentials,
    connected: bool,
    /// Who listens: connections that wait, and how many may.
    backlog: Option<usize>,
    waiting: VecDeque<Arc<Socket>>,
    /// A stream's bytes.
    bytes: VecDeque<u8>,
    /// Files on their way: at which byte of the stream (counted from the
    /// start of the connection) they came.
    rights: VecDeque<(u64, Vec<Arc<OpenFile>>)>,
    received: u64,
    /// Messages.
    messages: VecDeque<Message>,
    message_bytes: usize,
    /// Senders of datagrams that found no room: they wait on their own queues.
    blocked: Vec<Weak<Socket>>,
    /// Nothing more is read / written.
    read_shut: bool,
    write_shut: bool,
    /// The peer is gone.
    peer_gone: bool,
    /// Passes `ECONNRESET` on once.
    reset: bool,
}

/// A socket.
pub struct Socket {
    this: Weak<Socket>,
    kind: SocketType,
    ino: u64,
    state: Lock<State>,
    queue: WaitQueue,
    /// Where its state goes when it ends: one node, so that an end allocates
    /// nothing.
    grave: LinkedList<State>,
    /// The last search that saw it.
    seen: AtomicU64,
    /// Time-outs for receiving and sending; `u64::MAX`: none.
    receive_timeout: AtomicU64,
    send_timeout: AtomicU64,
}

/// Bound sockets: abstract names, and the inodes of paths.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Abstract(Box<[u8]>),
    Inode(crate::abi::DevId, u64),
}

static NAMES: Lock<BTreeMap<Key, Weak<Socket>>> = Lock::new(rank::NAMESPACE, BTreeMap::new());

/// What ended sockets left, and whether somebody is dropping it.
static LEFT: Lock<(LinkedList<State>, bool)> =
    Lock::new(rank::NAMESPACE, (LinkedList::new(), false));

/// Drops what ended sockets left. Their queues may hold the last reference to
/// further sockets: those only add to the list, so the stack stays flat.
fn bury(mut grave: LinkedList<State>) {
    {
        let mut left = LEFT.lock();
        left.0.append(&mut grave);
        if left.1 {
            return;
        }
        left.1 = true;
    }
    loop {
        let state = {
            let mut left = LEFT.lock();
            let one = left.0.len().min(1);
            let mut rest = left.0.split_off(one);
            core::mem::swap(&mut rest, &mut left.0);
            left.1 = !rest.is_empty();
            rest
        };
        if state.is_empty() {
            return;
        }
        drop(state);
    }
}

/// Held while a socket is put into a queue: two of them could close a ring,
/// which nothing would ever free. Counts the searches.
static PASSING: Lock<u64> = Lock::new(rank::OPEN_FILE, 0);

/// A search, under [`PASSING`], for a socket through the queues of others.
struct Search<'a> {
    number: u64,
    target: &'a Socket,
    looks: usize,
}

impl Search<'_> {
    fn visit(&mut self, socket: &Socket, seen: &mut Vec<Arc<Socket>>) -> Result<()> {
        if core::ptr::eq(socket, self.target) {
            return Err(Errno::ETOOMANYREFS);
        }
        if socket.seen.swap(self.number, Ordering::Relaxed) != self.number
            && let Some(socket) = socket.this.upgrade()
        {
            if seen.len() >= MAX_SEARCH {
                return Err(Errno::ETOOMANYREFS);
            }
            seen.push(socket);
        }
        Ok(())
    }

    fn look(&mut self, files: &[Arc<OpenFile>], seen: &mut Vec<Arc<Socket>>) -> Result<()> {
        for file in files {
            self.looks = self.looks.checked_sub(1).ok_or(Errno::ETOOMANYREFS)?;
            if let Some(socket) = file.downcast::<Socket>() {
                self.visit(socket, seen)?;
            }
        }
        Ok(())
    }

    /// `ETOOMANYREFS` if the target can be reached from `files`. Whoever is
    /// in `seen` must be let go of without the lock.
    fn run(&mut self, files: &[Arc<OpenFile>], seen: &mut Vec<Arc<Socket>>) -> Result<()> {
        self.look(files, seen)?;
        let mut next = 0usize;
        while let Some(socket) = seen.get(next).cloned() {
            next = next.saturating_add(1);
            let state = socket.state.lock();
            for end in &state.waiting {
                self.visit(end, seen)?;
            }
            for (_, files) in &state.rights {
                self.look(files, seen)?;
            }
            for message in &state.messages {
                self.look(&message.rights, seen)?;
            }
        }
        Ok(())
    }
}

fn wake_senders(senders: &[Weak<Socket>]) {
    for sender in senders.iter().filter_map(Weak::upgrade) {
        sender.queue.wake_all();
    }
}

fn lookup(key: &Key) -> Result<Arc<Socket>> {
    NAMES.lock().get(key).and_then(Weak::upgrade).ok_or(Errno::ECONNREFUSED)
}

impl Socket {
    /// A socket without a name or a peer.
    pub fn new(kind: SocketType, caller: &Caller) -> Result<Arc<Socket>> {
        let credentials = Credentials { pid: caller.pid, uid: 0, gid: 0 };
        room::try_arc_cyclic(|this| Socket {
            this: this.clone(),
            kind,
            ino: anonymous_ino(),
            state: Lock::new(rank::INODE, State { credentials, ..State::default() }),
            queue: WaitQueue::new(),
            grave: LinkedList::from([State::default()]),
            seen: AtomicU64::new(0),
            receive_timeout: AtomicU64::new(u64::MAX),
            send_timeout: AtomicU64::new(u64::MAX),
        })
    }

    fn timeout_in(&self, direction: Direction) -> &AtomicU64 {
        match direction {
            Direction::Receive => &self.receive_timeout,
            Direction::Send => &self.send_timeout,
        }
    }

    /// How long the kernel waits for this socket, if not for ever.
    pub fn timeout(&self, direction: Direction) -> Option<Nanos> {
        Some(self.timeout_in(direction).load(Ordering::Relaxed)).filter(|nanos| *nanos != u64::MAX)
    }

    /// Sets that.
    pub fn set_timeout(&self, direction: Direction, timeout: Option<Nanos>) {
        self.timeout_in(direction).store(timeout.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// An open file for a socket; `flags`: O_NONBLOCK.
    pub fn open(self: &Arc<Self>, flags: OpenFlags) -> Result<Arc<OpenFile>> {
        OpenFile::anonymous(self.clone(), OpenFlags::RDWR | (flags & OpenFlags::NONBLOCK))
    }

    /// `socketpair`.
    pub fn pair(kind: SocketType, caller: &Caller) -> Result<(Arc<Socket>, Arc<Socket>)> {
        let (a, b) = (Socket::new(kind, caller)?, Socket::new(kind, caller)?);
        for (one, other) in [(&a, &b), (&b, &a)] {
            let mut state = one.state.lock();
            state.peer = Some(Arc::downgrade(other));
            state.connected = true;
            state.peer_credentials = Credentials { pid: caller.pid, uid: 0, gid: 0 };
        }
        Ok((a, b))
    }

    /// SO_TYPE.
    pub fn kind(&self) -> SocketType {
        self.kind
    }

    /// SO_ACCEPTCONN.
    pub fn is_listening(&self) -> bool {
        self.state.lock().backlog.is_some()
    }

    /// SO_PEERCRED.
    pub fn peer_credentials(&self) -> Credentials {
        self.state.lock().peer_credentials
    }

    /// `getsockname`.
    pub fn name(&self) -> Address {
        self.state.lock().name.clone()
    }

    /// `getpeername`.
    pub fn peer_name(&self) -> Result<Address> {
        let state = self.state.lock();
        if state.connected || state.peer.is_some() {
            Ok(state.peer_name.clone())
        } else {
            Err(Errno::ENOTCONN)
        }
    }

    fn key_of(address: &Address, files: &Files<'_>) -> Result<Key> {
        match address {
            Address::Unnamed => Err(Errno::EINVAL),
            Address::Abstract(name) => Ok(Key::Abstract(name.clone())),
            Address::Path(path) => {
                let place = files.find(path, 0)?;
                if place.inode.kind() != FileType::Socket {
                    return Err(Errno::ECONNREFUSED);
                }
                let stat = place.stat();
                Ok(Key::Inode(stat.dev, stat.ino))
            }
        }
    }

    /// `bind`.
    pub fn bind(&self, address: Address, files: &Files<'_>) -> Result<()> {
        if self.state.lock().name != Address::Unnamed {
            return Err(Errno::EINVAL);
        }
        let (address, key) = match address {
            // The kernel finds a free abstract name of five digits.
            Address::Unnamed => {
                let mut number = self.ino;
                loop {
                    let name: Box<[u8]> =
                        alloc::format!("{:05x}", number & 0xf_ffff).into_bytes().into();
                    let key = Key::Abstract(name.clone());
                    if lookup(&key).is_err() {
                        break (Address::Abstract(name), key);
                    }
                    number = number.wrapping_add(1);
                }
            }
            Address::Abstract(name) => (Address::Abstract(name.clone()), Key::Abstract(name)),
            Address::Path(path) => {
                let in_use = |errno| if errno == Errno::EEXIST { Errno::EADDRINUSE } else { errno };
                files.mknod(&path, FileType::Socket.mode() | 0o777, 0).map_err(in_use)?;
                let stat = files.stat(&path, crate::abi::AT_SYMLINK_NOFOLLOW)?;
                (Address::Path(path), Key::Inode(stat.dev, stat.ino))
            }
        };
        {
            let mut names = NAMES.lock();
            names.retain(|_, socket| socket.strong_count() > 0);
            if names.contains_key(&key) {
                return Err(Errno::EADDRINUSE);
            }
            room::try_insert(&mut names, key, self.this.clone())?;
        }
        self.state.lock().name = address;
        Ok(())
    }

    /// `listen`.
    pub fn listen(&self, backlog: i32) -> Result<()> {
        if self.kind == SocketType::Datagram {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut state = self.state.lock();
        if state.name == Address::Unnamed || state.connected {
            return Err(Errno::EINVAL);
        }
        state.backlog = Some(usize::try_from(backlog).unwrap_or(MAX_BACKLOG).clamp(1, MAX_BACKLOG));
        Ok(())
    }

    /// `connect`; `EAGAIN` while the listener's backlog is full.
    pub fn connect(&self, address: &Address, files: &Files<'_>, caller: &Caller) -> Result<()> {
        if self.kind == SocketType::Datagram {
            if *address == Address::Unnamed {
                let mut state = self.state.lock();
                state.peer = None;
                state.peer_name = Address::Unnamed;
                return Ok(());
            }
            let peer = lookup(&Self::key_of(address, files)?)?;
            if peer.kind != self.kind {
                return Err(Errno::EPROTOTYPE);
            }
            let mut state = self.state.lock();
            state.peer = Some(Arc::downgrade(&peer));
            state.peer_name = address.clone();
            return Ok(());
        }
        let listener = lookup(&Self::key_of(address, files)?)?;
        if listener.kind != self.kind {
            return Err(Errno::EPROTOTYPE);
        }
        let this = self.this.upgrade().ok_or(Errno::EINVAL)?;
        let own_name = {
            let state = self.state.lock();
            if state.connected {
                return Err(Errno::EISCONN);
            }
            if state.backlog.is_some() {
                return Err(Errno::EINVAL);
            }
            state.name.clone()
        };
        // The accepted end, made now and picked up by `accept`.
        let end = Socket::new(self.kind, caller)?;
        {
            let mut state = end.state.lock();
            state.peer = Some(Arc::downgrade(&this));
            state.connected = true;
            state.peer_name = own_name;
            state.peer_credentials = Credentials { pid: caller.pid, uid: 0, gid: 0 };
            state.name = address.clone();
        }
        // Nobody may send us the listener over its end before it is queued.
        let passing = PASSING.lock();
        // Connected before it can be accepted, undone if it can't be queued.
        {
            let mut state = self.state.lock();
            if state.connected {
                return Err(Errno::EISCONN);
            }
            state.peer = Some(Arc::downgrade(&end));
            state.connected = true;
            state.peer_name = address.clone();
        }
        let queued = {
            let mut state = listener.state.lock();
            match state.backlog {
                None => Err(Errno::ECONNREFUSED),
                Some(_) if state.read_shut => Err(Errno::ECONNREFUSED),
                Some(room) if state.waiting.len() > room => Err(Errno::EAGAIN),
                Some(_) => state.waiting.make_room(1).map(|()| {
                    state.waiting.push_back(end.clone());
                    state.credentials
                }),
            }
        };
        drop(passing);
        match queued {
            Ok(credentials) => {
                self.state.lock().peer_credentials = credentials;
                listener.queue.wake_all();
                self.queue.wake_all();
                Ok(())
            }
            Err(errno) => {
                {
                    let mut state = self.state.lock();
                    state.peer = None;
                    state.connected = false;
                    state.peer_name = Address::Unnamed;
                }
                // Its end must not report a hang-up to us.
                end.state.lock().peer = None;
                Err(errno)
            }
        }
    }

    /// Where to wait for [`Socket::connect`] to find room.
    pub fn connect_queue(&self, address: &Address, files: &Files<'_>) -> Result<Arc<Socket>> {
        lookup(&Self::key_of(address, files)?)
    }

    /// `accept`: `EAGAIN` if nobody waits.
    pub fn accept(&self, flags: OpenFlags) -> Result<Arc<OpenFile>> {
        if self.kind == SocketType::Datagram {
            return Err(Errno::EOPNOTSUPP);
        }
        let end = {
            let mut state = self.state.lock();
            if state.backlog.is_none() {
                return Err(Errno::EINVAL);
            }
            let Some(end) = state.waiting.front() else {
                return Err(if state.read_shut { Errno::EINVAL } else { Errno::EAGAIN });
            };
            // It stays in the queue if there is no memory for a file.
            let end = end.open(flags)?;
            drop(state.waiting.pop_front());
            end
        };
        // Whoever found the backlog full may try again.
        self.queue.wake_all();
        Ok(end)
    }

    fn peer(&self) -> Result<Arc<Socket>> {
        let (peer, connected, gone) = {
            let state = self.state.lock();
            (state.peer.clone(), state.connected, state.peer_gone)
        };
        let missing = if self.kind == SocketType::Datagram {
            if peer.is_some() { Errno::ECONNREFUSED } else { Errno::ENOTCONN }
        } else if connected || gone {
            Errno::EPIPE
        } else {
            Errno::ENOTCONN
        };
        peer.and_then(|peer| peer.upgrade()).ok_or(missing)
    }

    /// Sends to the peer, or (datagrams) to `to`. `EPIPE`: the kernel raises
    /// SIGPIPE unless MSG_NOSIGNAL.
    pub fn send(
        &self,
        data: &[u8],
        to: Option<(&Address, &Files<'_>)>,
        mut rights: Vec<Arc<OpenFile>>,
    ) -> Result<usize> {
        if self.state.lock().write_shut {
            return Err(Errno::EPIPE);
        }
        let peer = match to {
            Some((address, files)) if self.kind == SocketType::Datagram => {
                let peer = lookup(&Self::key_of(address, files)?)?;
                if peer.kind != self.kind {
                    return Err(Errno::EPROTOTYPE);
                }
                peer
            }
            Some(_) if self.state.lock().connected => return Err(Errno::EISCONN),
            Some(_) => return Err(Errno::EOPNOTSUPP),
            None => self.peer()?,
        };
        // What the search holds is dropped after the lock is let go, and so
        // are files that aren't sent.
        let mut seen = Vec::new();
        let passing = if rights.iter().any(|file| file.downcast::<Socket>().is_some()) {
            seen.make_room(MAX_SEARCH)?;
            let mut passing = PASSING.lock();
            *passing = passing.wrapping_add(1);
            let mut search = Search { number: *passing, target: &peer, looks: MAX_LOOKS };
            search.run(&rights, &mut seen).map(|()| Some(passing))?
        } else {
            None
        };
        let count = if self.kind == SocketType::Stream {
            self.send_bytes(&peer, data, &mut rights)?
        } else {
            self.send_message(&peer, data, &mut rights)?
        };
        drop(passing);
        peer.queue.wake_all();
        Ok(count)
    }

    fn send_bytes(
        &self,
        peer: &Arc<Socket>,
        data: &[u8],
        rights: &mut Vec<Arc<OpenFile>>,
    ) -> Result<usize> {
        {
            let mut state = peer.state.lock();
            if state.read_shut {
                return Err(Errno::EPIPE);
            }
            if data.is_empty() {
                return Ok(0);
            }
            let room = BUFFER.saturating_sub(state.bytes.len());
            if room == 0 {
                return Err(Errno::EAGAIN);
            }
            if !rights.is_empty() {
                if state.rights.len() >= MAX_QUEUED {
                    return Err(Errno::EAGAIN);
                }
                state.rights.make_room(1)?;
            }
            let count = room.min(data.len());
            state.bytes.make_room(count)?;
            if !rights.is_empty() {
                let at = state.received.saturating_add(state.bytes.len() as u64);
                state.rights.push_back((at, core::mem::take(rights)));
            }
            state.bytes.extend(data.get(..count).unwrap_or_default());
            Ok(count)
        }
    }

    /// Has the receiver wake this sender when there is room: a datagram's
    /// receiver need not know its senders.
    fn wait_for_room(&self, receiver: &mut State) -> Result<()> {
        if self.kind == SocketType::Datagram {
            let blocked = &mut receiver.blocked;
            blocked.retain(|other| other.strong_count() > 0 && !other.ptr_eq(&self.this));
            blocked.make_room(1)?;
            blocked.push(self.this.clone());
        }
        Ok(())
    }

    fn send_message(
        &self,
        peer: &Arc<Socket>,
        data: &[u8],
        rights: &mut Vec<Arc<OpenFile>>,
    ) -> Result<usize> {
        if data.len() > BUFFER {
            return Err(Errno::EMSGSIZE);
        }
        let mut copy = room::try_vec(data.len())?;
        copy.extend_from_slice(data);
        let mut message = Message { data: copy.into(), from: self.name(), rights: Vec::new() };
        {
            let mut state = peer.state.lock();
            if state.read_shut {
                return Err(if self.kind == SocketType::Datagram {
                    Errno::ECONNREFUSED
                } else {
                    Errno::EPIPE
                });
            }
            let bytes = state.message_bytes.saturating_add(data.len());
            if state.messages.len() >= MAX_QUEUED || (bytes > BUFFER && !state.messages.is_empty())
            {
                self.wait_for_room(&mut state)?;
                return Err(Errno::EAGAIN);
            }
            state.messages.make_room(1)?;
            message.rights = core::mem::take(rights);
            state.messages.push_back(message);
            state.message_bytes = bytes;
        }
        Ok(data.len())
    }

    /// Receives. 0 bytes: the end of a stream.
    pub fn receive(&self, buf: &mut [u8], flags: u32) -> Result<Received> {
        let peek = flags & MSG_PEEK != 0;
        let received = if self.kind == SocketType::Stream {
            self.receive_bytes(buf, peek)?
        } else {
            self.receive_message(buf, peek)?
        };
        if !peek {
            let (peer, blocked) = {
                let mut state = self.state.lock();
                (state.peer.clone(), core::mem::take(&mut state.blocked))
            };
            wake_senders(&blocked);
            wake_senders(peer.as_slice());
        }
        Ok(received)
    }

    fn end(&self, state: &mut State) -> Result<Received> {
        if core::mem::take(&mut state.reset) {
            return Err(Errno::ECONNRESET);
        }
        if state.read_shut || state.peer_gone {
            return Ok(Received::default());
        }
        if !state.connected && self.kind != SocketType::Datagram {
            return Err(if self.kind == SocketType::Stream {
                Errno::EINVAL
            } else {
                Errno::ENOTCONN
            });
        }
        Err(Errno::EAGAIN)
    }

    fn receive_bytes(&self, buf: &mut [u8], peek: bool) -> Result<Received> {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.bytes.is_empty() {
            return if buf.is_empty() && state.connected {
                Ok(Received::default())
            } else {
                self.end(state)
            };
        }
        let mut count = buf.len().min(state.bytes.len());
        // Files come with their first byte, and a read stops before the next.
        let mut rights = Vec::new();
        if state.rights.front().is_some_and(|(at, _)| *at == state.received) && !peek && count > 0 {
            rights = state.rights.pop_front().map(|(_, files)| files).unwrap_or_default();
        }
        if let Some((at, _)) = state.rights.front().filter(|(at, _)| *at > state.received) {
            count = count.min(at.saturating_sub(state.received) as usize);
        }
        let out = buf.get_mut(..count).unwrap_or_default();
        if peek {
            for (to, from) in out.iter_mut().zip(&state.bytes) {
                *to = *from;
            }
        } else {
            crate::pipe::copy_out(&mut state.bytes, out);
            state.received = state.received.wrapping_add(count as u64);
        }
        Ok(Received { count, whole: count, from: Address::Unnamed, rights })
    }

    fn receive_message(&self, buf: &mut [u8], peek: bool) -> Result<Received> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(message) = state.messages.front() else { return self.end(state) };
        let whole = message.data.len();
        let count = buf.len().min(whole);
        if let (Some(to), Some(from)) = (buf.get_mut(..count), message.data.get(..count)) {
            to.copy_from_slice(from);
        }
        if peek {
            return Ok(Received { count, whole, from: message.from.clone(), rights: Vec::new() });
        }
        let message = state.messages.pop_front();
        state.message_bytes = state.message_bytes.saturating_sub(whole);
        drop(guard);
        let (from, rights) =
            message.map(|message| (message.from, message.rights)).unwrap_or_default();
        Ok(Received { count, whole, from, rights })
    }

    /// `shutdown`: 0 reading, 1 writing, 2 both.
    pub fn shutdown(&self, how: u32) -> Result<()> {
        if how > 2 {
            return Err(Errno::EINVAL);
        }
        let (peer, blocked) = {
            let mut state = self.state.lock();
            if !state.connected && state.peer.is_none() && state.backlog.is_none() {
                return Err(Errno::ENOTCONN);
            }
            state.read_shut |= how != 1;
            state.write_shut |= how != 0;
            let peer = state.peer.clone().filter(|_| self.kind != SocketType::Datagram);
            let shut = state.read_shut;
            (peer, if shut { core::mem::take(&mut state.blocked) } else { Vec::new() })
        };
        wake_senders(&blocked);
        if let Some(peer) = peer.and_then(|peer| peer.upgrade()) {
            {
                let mut state = peer.state.lock();
                state.read_shut |= how != 0;
                state.write_shut |= how != 1;
            }
            peer.queue.wake_all();
        }
        self.queue.wake_all();
        Ok(())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut state = core::mem::take(self.state.get_mut());
        if state.name != Address::Unnamed {
            NAMES.lock().retain(|_, socket| socket.strong_count() > 0);
        }
        wake_senders(&core::mem::take(&mut state.blocked));
        let unread = !state.bytes.is_empty();
        let peer = state.peer.as_ref().and_then(Weak::upgrade);
        if let Some(peer) = peer.filter(|_| self.kind != SocketType::Datagram) {
            {
                let mut peers = peer.state.lock();
                peers.peer_gone = true;
                peers.write_shut = true;
                peers.reset |= unread;
            }
            peer.queue.wake_all();
        }
        // Connections that were never accepted, and files on their way, go too.
        if state.rights.is_empty() && state.messages.is_empty() && state.waiting.is_empty() {
            return;
        }
        let mut grave = core::mem::take(&mut self.grave);
        if let Some(place) = grave.front_mut() {
            core::mem::swap(place, &mut state);
        }
        bury(grave);
    }
}

impl File for Socket {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn read(&self, _io: &mut Io<'_>, buf: &mut [u8]) -> Result<usize> {
        self.receive(buf, 0).map(|received| received.count)
    }
    fn write(&self, _io: &mut Io<'_>, data: &[u8]) -> Result<usize> {
        self.send(data, None, Vec::new())
    }
    fn poll(&self) -> Events {
        let (mut events, peer) = {
            let state = self.state.lock();
            let mut events = Events::empty();
            let has =
                !state.bytes.is_empty() || !state.messages.is_empty() || !state.waiting.is_empty();
            let ended = state.read_shut || state.peer_gone;
            events.set(Events::READ, has || ended || state.reset);
            events.set(Events::RDHUP, ended);
            let unconnected =
                !state.connected && state.backlog.is_none() && self.kind != SocketType::Datagram;
            let both_shut = state.read_shut && state.write_shut;
            events.set(Events::HUP, state.peer_gone || both_shut || unconnected);
            events.set(Events::ERR, state.reset);
            (events, state.peer.clone())
        };
        let room = match peer.and_then(|peer| peer.upgrade()) {
            Some(peer) => {
                let mut state = peer.state.lock();
                let half = BUFFER / 2;
                let room = state.bytes.len() < half
                    && state.message_bytes < half
                    && state.messages.len() < MAX_QUEUED
                    && state.rights.len() < MAX_QUEUED;
                // Without memory for the wake-up, let it try and be told.
                room || self.wait_for_room(&mut state).is_err()
            }
            None => !self.is_listening(),
        };
        events.set(Events::WRITE, room);
        events
    }
    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }
    fn ioctl(&self, _caller: &Caller, cmd: u32, arg: u64, mem: &dyn UserMem) -> Result<i64> {
        if cmd != FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let count = {
            let state = self.state.lock();
            state.messages.front().map_or(state.bytes.len(), |message| message.data.len())
        };
        mem.write_obj(arg, &(count as u32))?;
        Ok(0)
    }
    fn stat(&self) -> Result<Stat> {
        Ok(Stat {
            dev: ANON_DEV,
            ino: self.ino,
            mode: FileType::Socket.mode() | 0o777,
            nlink: 1,
            ..Stat::default()
        })
    }
    fn describe(&self) -> Cow<'static, str> {
        Cow::Owned(alloc::format!("socket:[{}]", self.ino))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    fn who() -> Caller {
        Caller { pid: 7, tid: 7, pgid: 7, sid: 7 }
    }

    #[test]
    fn stream_pairs() {
        let (a, b) = Socket::pair(SocketType::Stream, &who()).unwrap();
        let (fa, fb) = (a.open(OpenFlags::empty()).unwrap(), b.open(OpenFlags::empty()).unwrap());
        drop((a, b));
        let mut buf = [0; 8];
        assert_eq!(fb.read(&who(), &mut buf), Err(Errno::EAGAIN));
        assert_eq!(fa.write(&who(), b"ping"), Ok(4));
        assert_eq!(fb.poll(), Events::READ | Events::WRITE);
        assert_eq!(fb.read(&who(), &mut buf), Ok(4));
        assert_eq!(fb.write(&who(), b"pong"), Ok(4));
        assert_eq!(fa.read(&who(), &mut buf), Ok(4));
        assert_eq!(fb.downcast::<Socket>().unwrap().peer_credentials().pid, 7);
        fb.downcast::<Socket>().unwrap().shutdown(1).unwrap();
        assert_eq!(fa.read(&who(), &mut buf), Ok(0));
        assert_eq!(fb.write(&who(), b"x"), Err(Errno::EPIPE));
        assert_eq!(fa.write(&who(), b"left"), Ok(4));
        drop(fa);
        assert!(fb.poll().contains(Events::HUP | Events::READ | Events::RDHUP));
        assert_eq!(fb.read(&who(), &mut buf), Ok(4));
        assert_eq!(fb.read(&who(), &mut buf), Ok(0));
        let (a, b) = Socket::pair(SocketType::Stream, &who()).unwrap();
        a.send(&vec![1; BUFFER], None, vec![]).unwrap();
        assert_eq!(a.send(&[1], None, vec![]), Err(Errno::EAGAIN));
        assert!(!a.poll().contains(Events::OUT));
        drop(b);
        assert_eq!(a.send(&[1], None, vec![]), Err(Errno::EPIPE));
        assert!(matches!(a.receive(&mut buf, 0), Err(Errno::ECONNRESET)));
        assert!(matches!(a.receive(&mut buf, 0), Ok(Received { count: 0, .. })));
    }

    #[test]
    fn rights_travel_with_their_bytes() {
        let (a, b) = Socket::pair(SocketType::Stream, &who()).unwrap();
        let file = a.open(OpenFlags::empty()).unwrap();
        a.send(b"one", None, vec![]).unwrap();
        a.send(b"two", None, vec![file.clone()]).unwrap();
        let mut buf = [0; 8];
        let first = b.receive(&mut buf, 0).unwrap();
        assert_eq!((first.count, first.rights.len()), (3, 0));
        let second = b.receive(&mut buf, 0).unwrap();
        assert_eq!((second.count, second.rights.len()), (3, 1));
        assert_eq!(second.rights[0].id(), file.id());
    }

    #[test]
    fn rights_wait_for_room() {
        let (a, b) = Socket::pair(SocketType::Stream, &who()).unwrap();
        let file =
            Socket::new(SocketType::Stream, &who()).unwrap().open(OpenFlags::empty()).unwrap();
        for _ in 0..MAX_QUEUED {
            a.send(b"x", None, vec![file.clone()]).unwrap();
        }
        assert_eq!(a.send(b"x", None, vec![file.clone()]), Err(Errno::EAGAIN));
        assert!(!a.poll().contains(Events::WRITE));
        assert_eq!(a.send(b"x", None, vec![]), Ok(1));
        assert_eq!(b.receive(&mut [0; 8], 0).unwrap().rights.len(), 1);
        assert!(a.poll().contains(Events::WRITE));
        assert_eq!(a.send(b"x", None, vec![file]), Ok(1));
    }

    #[test]
    fn nested_sockets_end_on_a_small_stack() {
        let ends = || {
            let (mut sender, b) = Socket::pair(SocketType::Stream, &who()).unwrap();
            let (bottom, mut last) = (b.open(OpenFlags::empty()).unwrap(), Arc::downgrade(&b));
            drop(b);
            for _ in 0..10_000 {
                let (a, b) = Socket::pair(SocketType::Stream, &who()).unwrap();
                last = Arc::downgrade(&b);
                sender.send(b"x", None, vec![b.open(OpenFlags::empty()).unwrap()]).unwrap();
                sender = a;
            }
            assert!(last.strong_count() > 0);
            drop(bottom);
            assert_eq!(last.strong_count(), 0);
            assert!(LEFT.lock().0.is_empty() && !LEFT.lock().1);
        };
        std::thread::Builder::new().stack_size(256 << 10).spawn(ends).unwrap().join().unwrap();
    }

    #[test]
    fn blocked_senders_of_datagrams_are_woken() {
        struct Count(core::sync::atomic::AtomicUsize);
        impl alloc::task::Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
            }
        }
        let count = Arc::new(Count(0.into()));
        let woken = || count.0.swap(0, core::sync::atomic::Ordering::Relaxed) > 0;
        let new = || Socket::new(SocketType::Datagram, &who()).unwrap();
        let (sender, receiver, another) = (new(), new(), new());
        // Connected one way only.
        sender.state.lock().peer = Some(Arc::downgrade(&receiver));
        receiver.state.lock().peer = Some(Arc::downgrade(&another));
        let arm = || sender.queue.register(&count.clone().into()).unwrap();
        let fill = || while sender.send(b"x", None, vec![]).is_ok() {};
        fill();
        fill();
        assert_eq!(receiver.state.lock().blocked.len(), 1);
        arm();
        receiver.receive(&mut [0; 8], 0).unwrap();
        assert!(woken() && receiver.state.lock().blocked.is_empty());
        // By poll alone.
        fill();
        receiver.state.lock().blocked.clear();
        arm();
        assert!(!sender.poll().contains(Events::WRITE));
        receiver.receive(&mut [0; 8], 0).unwrap();
        assert!(woken() && sender.poll().contains(Events::WRITE));
        fill();
        arm();
        receiver.shutdown(0).unwrap();
        assert!(woken());
        assert_eq!(sender.send(b"x", None, vec![]), Err(Errno::ECONNREFUSED));
        receiver.state.lock().read_shut = false;
        fill();
        arm();
        drop(receiver);
        assert!(woken());
    }

    #[test]
    fn rings_are_refused() {
        for kind in [SocketType::Stream, SocketType::SeqPacket, SocketType::Datagram] {
            let pair = || Socket::pair(kind, &who()).unwrap();
            let open = |socket: &Arc<Socket>| socket.open(OpenFlags::empty()).unwrap();
            let ((a, b), (c, d)) = (pair(), pair());
            let refused = Err(Errno::ETOOMANYREFS);
            // Its own peer; through one queue; not once that was read.
            assert_eq!(a.send(b"x", None, vec![open(&b)]), refused);
            assert_eq!(a.send(b"x", None, vec![open(&d)]), Ok(1));
            assert_eq!(c.send(b"x", None, vec![open(&b)]), refused);
            assert_eq!(c.send(b"x", None, vec![open(&a)]), Ok(1));
            drop(b.receive(&mut [0; 8], 0).unwrap());
            assert_eq!(c.send(b"x", None, vec![open(&b)]), Ok(1));
            // Through a connection that waits.
            let (listener, (e, f)) = (Socket::new(kind, &who()).unwrap(), pair());
            listener.state.lock().waiting.push_back(f);
            assert_eq!(e.send(b"x", None, vec![open(&listener)]), refused);
            // Too far to tell.
            let (mut sender, bottom) = pair();
            for _ in 0..MAX_SEARCH {
                let (next, b) = pair();
                sender.send(b"x", None, vec![open(&b)]).unwrap();
                sender = next;
            }
            let (g, _h) = pair();
            assert_eq!(g.send(b"x", None, vec![open(&bottom)]), refused);
        }
    }

    #[test]
    fn messages_keep_their_borders() {
        let (a, b) = Socket::pair(SocketType::SeqPacket, &who()).unwrap();
        a.send(b"hello", None, vec![]).unwrap();
        a.send(b"", None, vec![]).unwrap();
        a.send(b"x", None, vec![]).unwrap();
        let mut buf = [0; 3];
        let peeked = b.receive(&mut buf, MSG_PEEK).unwrap();
        assert_eq!((peeked.count, peeked.whole), (3, 5));
        assert_eq!(b.receive(&mut buf, 0).unwrap().whole, 5);
        assert_eq!(b.receive(&mut buf, 0).unwrap().whole, 0);
        assert_eq!(b.receive(&mut buf, 0).unwrap().whole, 1);
        assert!(matches!(b.receive(&mut buf, 0), Err(Errno::EAGAIN)));
    }

    #[test]
    fn addresses() {
        assert_eq!(Address::parse(&[1, 0]), Ok(Address::Unnamed));
        assert_eq!(Address::parse(&[2, 0, b'x']), Err(Errno::EINVAL));
        assert_eq!(Address::parse(&[1]), Err(Errno::EINVAL));
        assert_eq!(Address::parse(b"\x01\0/tmp/s\0junk"), Ok(Address::Path(b"/tmp/s"[..].into())));
        let name = Address::parse(b"\x01\0\0abc").unwrap();
        assert_eq!(name, Address::Abstract(b"abc"[..].into()));
        assert_eq!(name.to_bytes(), b"\x01\0\0abc");
        assert_eq!(Address::Path(b"/s"[..].into()).to_bytes(), b"\x01\0/s\0");
    }
}
