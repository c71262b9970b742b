//! epoll(7), and the one waker on many files that `poll` and `select` need.
//!
//! Locks: a set's interest list is at `EPOLL`, its ready list at `EPOLL_READY`.
//! An item's waker runs under a member's queue (`WAIT_QUEUE`), takes the ready
//! list, lets go of it, and wakes the set's own queue (`WAIT_QUEUE` nests in
//! itself; `GRAPH` keeps the nesting free of cycles). No list is held while a
//! member is polled.

use crate::abi::{EpollEvent, Events};
use crate::file::{File, OpenFile, Registration};
use alloc::borrow::Cow;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::{Arc, Weak};
use alloc::task::Wake;
use alloc::vec::Vec;
use base::{Errno, Lock, Result, Room, WaitQueue, rank, room};
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::task::Waker;

/// How deep epoll sets may hold each other: waking recurses that far.
const MAX_NESTS: u32 = 5;
/// In how many others a set may be: with the depth, this bounds what one
/// wake-up can cost.
const MAX_PARENTS: usize = 8;
/// How many sets a check for cycles looks at.
const MAX_GRAPH: usize = 1000;
/// How many sets a set may hold: checks for cycles walk these, and nothing else
/// that is in it.
const MAX_SETS: usize = 32;
/// How many events one `epoll_wait` gives at most.
pub const MAX_EVENTS: usize = i32::MAX as usize / size_of::<EpollEvent>();

/// Held while a set is added to a set: two of them could close a cycle.
static GRAPH: Lock<()> = Lock::new(rank::EPOLL.saturating_sub(1), ());

/// An epoll set.
pub struct Epoll {
    this: Weak<Epoll>,
    items: Lock<BTreeMap<(i32, u64), Arc<Item>>>,
    ready: Arc<Ready>,
    /// The sets among them, some of them gone by now. Changed under `GRAPH`.
    sets: Lock<Vec<Member>>,
    /// The sets that this one was put into.
    parents: Lock<Vec<Weak<Epoll>>>,
}

/// A set in a set: its key there, and the set.
type Member = ((i32, u64), Weak<OpenFile>);

/// What wakers touch. It is apart from the set because a waker may be the last
/// to let go of it, under a member's queue, where the set's end could not run.
struct Ready {
    list: Lock<ReadyList>,
    queue: WaitQueue,
}

#[derive(Default)]
struct ReadyList {
    items: VecDeque<Arc<Item>>,
    /// The set is gone: nothing is queued any more.
    closed: bool,
}

impl Ready {
    fn len(&self) -> usize {
        self.list.lock().items.len()
    }

    fn push(&self, item: &Arc<Item>) {
        let mut list = self.list.lock();
        // There is room: `add` reserves it.
        if !list.closed && !item.queued.swap(true, Ordering::AcqRel) {
            list.items.push_back(item.clone());
        }
    }

    /// Takes the first off: from here on a change of its file queues it again.
    fn pop(&self) -> Option<Arc<Item>> {
        let mut list = self.list.lock();
        let item = list.items.pop_front()?;
        item.queued.store(false, Ordering::Release);
        Some(item)
    }

    fn remove(&self, item: &Arc<Item>) {
        let gone = {
            let mut list = self.list.lock();
            let at = list.items.iter().position(|other| Arc::ptr_eq(other, item));
            at.and_then(|at| {
                item.queued.store(false, Ordering::Release);
                list.items.remove(at)
            })
        };
        drop(gone);
    }
}

/// One file in a set's interest list.
pub struct Item {
    set: Weak<Epoll>,
    ready: Arc<Ready>,
    file: Weak<OpenFile>,
    key: (i32, u64),
    /// Events wanted, and how (ET, ONESHOT). No events at all: disarmed.
    events: AtomicU32,
    data: Lock<u64>,
    /// Whether it is in the ready list.
    queued: AtomicBool,
    /// Taken out of the set.
    dead: AtomicBool,
}

const ALWAYS: Events = Events::ERR.union(Events::HUP);
const HOW: Events =
    Events::ET.union(Events::ONESHOT).union(Events::EXCLUSIVE).union(Events::WAKEUP);

impl Item {
    fn events(&self) -> Events {
        Events::from_bits_retain(self.events.load(Ordering::Acquire))
    }

    fn wanted(&self) -> Events {
        let events = self.events();
        let wanted = events.difference(HOW);
        // A one-shot that has fired reports nothing, not even errors.
        if wanted.is_empty() && events.contains(Events::ONESHOT) { wanted } else { wanted | ALWAYS }
    }

    /// Puts it on its set's ready list, and tells the set's waiters.
    fn ready(self: &Arc<Self>) {
        if self.dead.load(Ordering::Acquire) || self.wanted().is_empty() {
            return;
        }
        self.ready.push(self);
        self.ready.queue.wake_all();
    }

    /// Takes its waker back from its file's queue.
    pub(crate) fn leave_queue(self: &Arc<Self>, queue: &WaitQueue) {
        queue.unregister(&Waker::from(self.clone()));
    }

    /// Leaves its set: the file is closed.
    pub(crate) fn forget(self: &Arc<Self>) {
        self.dead.store(true, Ordering::Release);
        if let Some(set) = self.set.upgrade() {
            let gone = set.items.lock().remove(&self.key);
            drop(gone);
        }
        self.ready.remove(self);
    }
}

impl Wake for Item {
    fn wake(self: Arc<Self>) {
        self.ready();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.ready();
    }
}

impl Epoll {
    /// An empty set.
    pub fn new() -> Result<Arc<Epoll>> {
        let ready = room::try_arc(Ready {
            list: Lock::new(rank::EPOLL_READY, ReadyList::default()),
            queue: WaitQueue::new(),
        })?;
        room::try_arc_cyclic(|this| Epoll {
            this: this.clone(),
            items: Lock::new(rank::EPOLL, BTreeMap::new()),
            ready,
            sets: Lock::new(rank::EPOLL, Vec::new()),
            parents: Lock::new(rank::EPOLL, Vec::new()),
        })
    }

    /// EPOLL_CTL_ADD.
    pub fn add(&self, fd: i32, file: &Arc<OpenFile>, event: EpollEvent) -> Result<()> {
        let queue = file.wait_queue().ok_or(Errno::EPERM)?;
        let events = Events::from_bits_retain(event.events);
        if events.contains(Events::EXCLUSIVE)
            && (events.contains(Events::ONESHOT) || file.downcast::<Epoll>().is_some())
        {
            return Err(Errno::EINVAL);
        }
        let key = (fd, file.id());
        let _graph = match file.downcast::<Epoll>() {
            Some(inner) => {
                let guard = GRAPH.lock();
                if core::ptr::eq(inner, self) {
                    return Err(Errno::EINVAL);
                }
                let below = inner.depth(self, &mut MAX_GRAPH.clone())?;
                if below.saturating_add(self.height(MAX_NESTS)?) > MAX_NESTS {
                    return Err(Errno::ELOOP);
                }
                let parents = inner.live_parents()?;
                if parents.len() >= MAX_PARENTS {
                    return Err(Errno::EINVAL);
                }
                let mut weak: Vec<Weak<Epoll>> = room::try_vec(parents.len().saturating_add(1))?;
                weak.extend(parents.iter().map(Arc::downgrade));
                weak.push(self.this.clone());
                *inner.parents.lock() = weak;
                let mut sets = self.members()?;
                if sets.iter().all(|(other, _)| *other != key) {
                    if sets.len() >= MAX_SETS {
                        return Err(Errno::ENOSPC);
                    }
                    sets.make_room(1)?;
                    sets.push((key, Arc::downgrade(file)));
                }
                *self.sets.lock() = sets;
                Some(guard)
            }
            None => None,
        };
        let item = room::try_arc(Item {
            set: self.this.clone(),
            ready: self.ready.clone(),
            file: Arc::downgrade(file),
            key,
            events: AtomicU32::new(events.bits()),
            data: Lock::new(rank::EPOLL_READY, event.data),
            queued: AtomicBool::new(false),
            dead: AtomicBool::new(false),
        })?;
        {
            let mut items = self.items.lock();
            if items.contains_key(&key) {
                return Err(Errno::EEXIST);
            }
            {
                let queued = &mut self.ready.list.lock().items;
                let want = items.len().saturating_add(1).saturating_sub(queued.len());
                queued.make_room(want)?;
            }
            room::try_insert(&mut items, key, item.clone())?;
        }
        let joined =
            file.add_watcher(&item).and_then(|()| queue.register(&Waker::from(item.clone())));
        if let Err(errno) = joined {
            item.forget();
            return Err(errno);
        }
        if file.poll().intersects(item.wanted()) {
            item.ready();
        }
        Ok(())
    }

    /// EPOLL_CTL_MOD.
    pub fn modify(&self, fd: i32, file: &Arc<OpenFile>, event: EpollEvent) -> Result<()> {
        let events = Events::from_bits_retain(event.events);
        let item = self.items.lock().get(&(fd, file.id())).cloned().ok_or(Errno::ENOENT)?;
        if events.contains(Events::EXCLUSIVE) || item.events().contains(Events::EXCLUSIVE) {
            return Err(Errno::EINVAL);
        }
        *item.data.lock() = event.data;
        item.events.store(events.bits(), Ordering::Release);
        if file.poll().intersects(item.wanted()) {
            item.ready();
        }
        Ok(())
    }

    /// EPOLL_CTL_DEL.
    pub fn remove(&self, fd: i32, file: &Arc<OpenFile>) -> Result<()> {
        let item = self.items.lock().remove(&(fd, file.id())).ok_or(Errno::ENOENT)?;
        item.dead.store(true, Ordering::Release);
        if let Some(queue) = file.wait_queue() {
            item.leave_queue(queue);
        }
        self.ready.remove(&item);
        Ok(())
    }

    /// How many sets deep this one is. `ELOOP` if `target` is among them.
    fn depth(&self, target: &Epoll, budget: &mut usize) -> Result<u32> {
        if core::ptr::eq(self, target) {
            return Err(Errno::ELOOP);
        }
        *budget = budget.checked_sub(1).ok_or(Errno::ELOOP)?;
        let members = self.members()?;
        let mut deepest = 0u32;
        for file in members.iter().filter_map(|(_, file)| file.upgrade()) {
            if let Some(inner) = file.downcast::<Epoll>() {
                deepest = deepest.max(inner.depth(target, budget)?);
            }
        }
        Ok(deepest.saturating_add(1))
    }

    /// How many sets high the tower is whose bottom this one is, up to `limit`.
    fn height(&self, limit: u32) -> Result<u32> {
        let Some(limit) = limit.checked_sub(1) else { return Ok(1) };
        let mut above = 0u32;
        for parent in self.live_parents()? {
            above = above.max(parent.height(limit)?);
        }
        Ok(above.saturating_add(1))
    }

    /// The sets in it.
    fn members(&self) -> Result<Vec<Member>> {
        let mut sets = room::try_copy(&self.sets.lock())?;
        let items = self.items.lock();
        sets.retain(|(key, _)| items.contains_key(key));
        Ok(sets)
    }

    /// The sets that this one is in now.
    fn live_parents(&self) -> Result<Vec<Arc<Epoll>>> {
        let parents: Vec<Arc<Epoll>> =
            room::try_collect(self.parents.lock().iter().filter_map(Weak::upgrade))?;
        let mut live = room::try_vec(parents.len())?;
        for parent in parents {
            let files = parent.members()?;
            let mut files = files.iter().filter_map(|(_, file)| file.upgrade());
            let is_self = |set: &Epoll| core::ptr::eq(set, self);
            if files.any(|file| file.downcast::<Epoll>().is_some_and(is_self)) {
                live.push(parent);
            }
        }
        Ok(live)
    }

    /// `epoll_wait`'s try: fills `out`; how many. 0: nothing is ready.
    pub fn collect(&self, out: &mut [EpollEvent]) -> usize {
        let mut filled = 0usize;
        // Each item that is queued now gets one look; what stays ready goes to
        // the end of the list.
        let mut looks = self.ready.len();
        while filled < out.len() && looks > 0 {
            looks = looks.saturating_sub(1);
            let Some(item) = self.ready.pop() else { break };
            if item.dead.load(Ordering::Acquire) {
                continue;
            }
            let Some(file) = item.file.upgrade() else { continue };
            let happened = file.poll() & item.wanted();
            if happened.is_empty() {
                continue;
            }
            if let Some(slot) = out.get_mut(filled) {
                *slot = EpollEvent { events: happened.bits(), pad: 0, data: *item.data.lock() };
                filled = filled.saturating_add(1);
            }
            let events = item.events();
            if events.contains(Events::ONESHOT) {
                item.events.store((events & HOW).bits(), Ordering::Release);
            } else if !events.contains(Events::ET) {
                self.ready.push(&item);
            }
        }
        filled
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        let queued = {
            let mut list = self.ready.list.lock();
            list.closed = true;
            core::mem::take(&mut list.items)
        };
        drop(queued);
        for item in core::mem::take(self.items.get_mut()).into_values() {
            item.dead.store(true, Ordering::Release);
            if let Some(file) = item.file.upgrade()
                && let Some(queue) = file.wait_queue()
            {
                item.leave_queue(queue);
            }
        }
    }
}

impl File for Epoll {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn poll(&self) -> Events {
        let mut looks = self.ready.len();
        while looks > 0 {
            looks = looks.saturating_sub(1);
            let Some(item) = self.ready.pop() else { break };
            let ready = !item.dead.load(Ordering::Acquire)
                && item.file.upgrade().is_some_and(|file| file.poll().intersects(item.wanted()));
            if ready {
                // It stays queued for `collect`, edge or not.
                self.ready.push(&item);
                return Events::READ;
            }
        }
        Events::empty()
    }
    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.ready.queue)
    }
    fn describe(&self) -> Cow<'static, str> {
        Cow::Borrowed("anon_inode:[eventpoll]")
    }
}

/// One entry of `poll`'s list (or of `select`'s sets).
pub struct PollItem {
    /// The file; `None` for a negative descriptor, which is left out.
    pub file: Option<Arc<OpenFile>>,
    /// What is asked for.
    pub events: Events,
    /// What happened.
    pub revents: Events,
}

/// Registers one waker with all files. Dropping the result takes it back.
pub fn register_all(items: &[PollItem], waker: &Waker) -> Result<Vec<Registration>> {
    let mut registrations = room::try_vec(items.len())?;
    for file in items.iter().filter_map(|item| item.file.as_ref()) {
        if file.wait_queue().is_some() {
            registrations.push(Registration::new(file, waker)?);
        }
    }
    Ok(registrations)
}

/// Fills in what happened; how many items have something.
pub fn poll_all(items: &mut [PollItem]) -> usize {
    let mut count = 0usize;
    for item in items {
        if let Some(file) = &item.file {
            item.revents = file.poll() & (item.events | ALWAYS);
        }
        if !item.revents.is_empty() {
            count = count.saturating_add(1);
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::OpenFlags;
    use crate::file::Caller;
    use crate::pipe::Pipe;
    use std::vec;

    fn event(events: Events, data: u64) -> EpollEvent {
        EpollEvent { events: events.bits(), pad: 0, data }
    }

    fn collect(set: &Epoll) -> Vec<(u32, u64)> {
        let mut out = vec![EpollEvent::default(); 8];
        let count = set.collect(&mut out);
        out[..count].iter().map(|event| (event.events, event.data)).collect()
    }

    fn who() -> Caller {
        Caller::default()
    }

    const IN: u32 = 1;
    const OUT: u32 = 4;

    #[test]
    fn level_and_edge() {
        let (r, w) = Pipe::pair(OpenFlags::empty()).unwrap();
        let level = Epoll::new().unwrap();
        let edge = Epoll::new().unwrap();
        level.add(3, &r, event(Events::IN, 7)).unwrap();
        edge.add(3, &r, event(Events::IN | Events::ET, 8)).unwrap();
        assert_eq!(level.add(3, &r, event(Events::IN, 7)), Err(Errno::EEXIST));
        assert!(collect(&level).is_empty());
        w.write(&who(), b"ab").unwrap();
        assert_eq!(level.poll(), Events::READ);
        assert_eq!(collect(&level), [(IN, 7)]);
        assert_eq!(collect(&level), [(IN, 7)]);
        assert_eq!(collect(&edge), [(IN, 8)]);
        assert!(collect(&edge).is_empty());
        w.write(&who(), b"c").unwrap();
        assert_eq!(collect(&edge), [(IN, 8)]);
        let mut buf = [0; 8];
        assert_eq!(r.read(&who(), &mut buf), Ok(3));
        assert!(collect(&level).is_empty());
        assert_eq!(level.poll(), Events::empty());
        drop(w);
        assert_eq!(collect(&level), [(Events::HUP.bits(), 7)]);
    }

    #[test]
    fn one_shot_and_modify() {
        let (_r, w) = Pipe::pair(OpenFlags::empty()).unwrap();
        let set = Epoll::new().unwrap();
        set.add(4, &w, event(Events::OUT | Events::ONESHOT, 1)).unwrap();
        assert_eq!(collect(&set), [(OUT, 1)]);
        assert!(collect(&set).is_empty());
        w.write(&who(), b"x").unwrap();
        assert!(collect(&set).is_empty());
        set.modify(4, &w, event(Events::OUT | Events::ONESHOT, 2)).unwrap();
        assert_eq!(collect(&set), [(OUT, 2)]);
        assert_eq!(set.modify(5, &w, event(Events::OUT, 2)), Err(Errno::ENOENT));
        set.remove(4, &w).unwrap();
        assert_eq!(set.remove(4, &w), Err(Errno::ENOENT));
    }

    #[test]
    fn closing_removes() {
        let (r, w) = Pipe::pair(OpenFlags::empty()).unwrap();
        let set = Epoll::new().unwrap();
        set.add(3, &r, event(Events::IN, 1)).unwrap();
        w.write(&who(), b"x").unwrap();
        drop(r);
        assert!(collect(&set).is_empty());
        assert!(set.items.lock().is_empty());
        set.add(4, &w, event(Events::OUT, 1)).unwrap();
        drop(set);
        assert!(w.wait_queue().unwrap().is_empty());
    }

    #[test]
    fn nests_without_cycles() {
        let open = |set: &Arc<Epoll>| OpenFile::anonymous(set.clone(), OpenFlags::RDWR).unwrap();
        let (r, w) = Pipe::pair(OpenFlags::empty()).unwrap();
        let (a, b) = (Epoll::new().unwrap(), Epoll::new().unwrap());
        let (file_a, file_b) = (open(&a), open(&b));
        a.add(1, &r, event(Events::IN, 1)).unwrap();
        b.add(2, &file_a, event(Events::IN, 2)).unwrap();
        assert_eq!(a.add(3, &file_b, event(Events::IN, 3)), Err(Errno::ELOOP));
        assert_eq!(a.add(3, &file_a, event(Events::IN, 3)), Err(Errno::EINVAL));
        assert!(collect(&b).is_empty());
        w.write(&who(), b"x").unwrap();
        assert_eq!(collect(&b), [(IN, 2)]);
        assert_eq!(collect(&a), [(IN, 1)]);
        let null = OpenFile::anonymous(Arc::new(crate::device::Null), OpenFlags::RDWR).unwrap();
        assert_eq!(a.add(9, &null, event(Events::IN, 3)), Err(Errno::EPERM));
        // b holds a; up to five.
        let mut top = file_b;
        let mut all = vec![];
        for level in 3.. {
            let next = Epoll::new().unwrap();
            let added = next.add(1, &top, event(Events::IN, 0));
            assert_eq!(added, if level <= 5 { Ok(()) } else { Err(Errno::ELOOP) });
            if added.is_err() {
                break;
            }
            all.push(top);
            top = OpenFile::anonymous(next, OpenFlags::RDWR).unwrap();
        }
        // Nor from below.
        let bottom = OpenFile::anonymous(Epoll::new().unwrap(), OpenFlags::RDWR).unwrap();
        assert_eq!(a.add(1, &bottom, event(Events::IN, 0)), Err(Errno::ELOOP));
    }

    /// What checks for cycles look at is bounded, however much else is in a set.
    #[test]
    fn few_sets_in_a_set() {
        let outer = Epoll::new().unwrap();
        let (r, _w) = Pipe::pair(OpenFlags::empty()).unwrap();
        for fd in 1000..2000 {
            outer.add(fd, &r, event(Events::IN, 0)).unwrap();
        }
        let open = || OpenFile::anonymous(Epoll::new().unwrap(), OpenFlags::RDWR).unwrap();
        let inner: Vec<_> = (0..=MAX_SETS).map(|_| open()).collect();
        for (fd, set) in (0..).zip(&inner[..MAX_SETS]) {
            outer.add(fd, set, event(Events::IN, 0)).unwrap();
        }
        assert_eq!(outer.members().unwrap().len(), MAX_SETS);
        assert_eq!(outer.add(99, &inner[MAX_SETS], event(Events::IN, 0)), Err(Errno::ENOSPC));
        outer.remove(0, &inner[0]).unwrap();
        outer.add(99, &inner[MAX_SETS], event(Events::IN, 0)).unwrap();
    }

    #[test]
    fn poll_lists() {
        let (r, w) = Pipe::pair(OpenFlags::empty()).unwrap();
        let mut items = [
            PollItem { file: Some(r.clone()), events: Events::IN, revents: Events::empty() },
            PollItem { file: None, events: Events::IN, revents: Events::empty() },
            PollItem { file: Some(w.clone()), events: Events::OUT, revents: Events::empty() },
        ];
        let waker = Waker::noop();
        let registered = register_all(&items, waker).unwrap();
        assert_eq!(poll_all(&mut items), 1);
        w.write(&who(), b"x").unwrap();
        assert_eq!(poll_all(&mut items), 2);
        assert_eq!(items[0].revents, Events::IN);
        drop(registered);
        assert!(r.wait_queue().unwrap().is_empty());
    }
}
