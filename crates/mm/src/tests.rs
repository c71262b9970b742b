use crate::abi::*;
use crate::*;
use alloc::sync::{Arc, Weak};
use base::{BLOCK_SIZE, Errno, LockTracker, PAGE_SIZE, PhysAddr, Result, UserMemExt};
use frame::{Frame, Size, sim, stats};
use paging::Tlb;
use proptest::prelude::*;
use std::boxed::Box;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::vec;
use std::vec::Vec;

/// A TLB that keeps what it saw until told to forget.
#[derive(Default)]
struct Env {
    tlb: Mutex<HashMap<u64, (PhysAddr, bool)>>,
    windows: AtomicU64,
    /// What another thread does in the next window.
    other: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    synced: AtomicU64,
}

impl Tlb for Env {
    fn invalidate_range(&self, start: u64, len: u64, _: bool) {
        self.tlb.lock().unwrap().retain(|page, _| *page < start || *page - start >= len);
    }
}

impl MmEnv for Env {
    fn window(&self) {
        self.windows.fetch_add(1, Ordering::Relaxed);
        let other = self.other.lock().unwrap().take();
        if let Some(other) = other {
            other();
        }
    }
    fn sync_code(&self, _: &Frame) {
        self.synced.fetch_add(1, Ordering::Relaxed);
    }
}

/// A guest's view: pages by user address.
#[derive(Default)]
struct Stage2(Mutex<BTreeMap<u64, (Frame, PhysAddr, bool)>>);

impl MmuNotifier for Stage2 {
    fn invalidate(&self, start: u64, end: u64) {
        let mut map = self.0.lock().unwrap();
        // Told before the page table lets go: it has a count too.
        assert!(map.range(start..end).all(|(_, (frame, ..))| frame.ref_count() >= 2));
        map.retain(|page, _| *page < start || *page >= end);
    }
}

/// Panics at a lock taken out of order.
struct Order;

std::thread_local! {
    static HELD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl LockTracker for Order {
    fn acquire(&self, rank: u8) {
        HELD.with_borrow_mut(|held| {
            assert!(held.iter().all(|other| *other < rank), "{rank} after {held:?}");
            held.push(rank);
        });
    }
    fn release(&self, rank: u8) {
        HELD.with_borrow_mut(|held| {
            let last = held.iter().rposition(|other| *other == rank).unwrap();
            held.remove(last);
        });
    }
}

fn space() -> (AddressSpace, Arc<Env>) {
    base::set_lock_tracker(&Order);
    let env = Arc::new(Env::default());
    let space = AddressSpace::new(env.clone(), Layout::new(48, 0, 8 << 20)).unwrap();
    (space, env)
}

const RW: u32 = PROT_READ | PROT_WRITE;
const ANON: u32 = MAP_PRIVATE | MAP_ANONYMOUS;

fn map(space: &AddressSpace, addr: u64, len: u64, prot: u32, flags: u32) -> Result<u64> {
    space.mmap(Map { addr, len, prot, flags, object: None })
}

/// A file of 16 pages that hold their index.
struct File(Vec<Frame>);

impl File {
    fn new() -> Self {
        frame::fail_allocation(0);
        let pages = (0..16u64).map(|index| {
            let frame = Frame::alloc(Size::Page, frame::Fill::Zeroed).unwrap();
            frame.write(0, &(index + 100).to_le_bytes()).unwrap();
            frame.write(16, &(index + 100).to_le_bytes()).unwrap();
            frame
        });
        File(pages.collect())
    }
}

impl VmObject for File {
    fn frame(&self, index: u64, _: bool) -> Result<Frame> {
        self.0.get(index as usize).cloned().ok_or(Errno::EFAULT)
    }
    fn id(&self) -> ObjectId {
        ObjectId { dev: 7, ino: 42 }
    }
    fn name(&self) -> std::string::String {
        "/bin/file".into()
    }
}

fn file(len: u64, prot: u32, flags: u32, offset: u64, may_write: bool) -> Map {
    let object = Some(MapObject { object: Arc::new(File::new()), offset, may_write });
    Map { addr: 0, len, prot, flags, object }
}

fn nothing_left() {
    base::grave::clear(|| ());
    assert_eq!((stats().user, stats().kernel), (0, 0));
}

const A: u64 = 0x1000_0000;

#[test]
fn pages_come_when_touched() {
    let _ram = sim::ram(64);
    let (space, _) = space();
    let at = map(&space, 0, 8 * PAGE_SIZE, RW, ANON).unwrap();
    assert_eq!(space.size(), (8, 0));
    assert_eq!(space.read_obj::<u64>(at + 4096), Ok(0));
    space.write_obj(at + 8190, &0x1122_3344_u32).unwrap();
    assert_eq!(space.read_obj::<u32>(at + 8190), Ok(0x1122_3344));
    assert_eq!(space.size(), (8, 2));
    let mut resident = [9; 8];
    space.mincore(at, &mut resident).unwrap();
    assert_eq!(resident, [0, 1, 1, 0, 0, 0, 0, 0]);
    assert_eq!(space.fault(at - 1, Access::Read), Err(Fault::SegvMapErr));
    assert_eq!(space.fault(at, Access::Exec), Err(Fault::SegvAccErr));
    space.mprotect(at, PAGE_SIZE, PROT_READ).unwrap();
    assert_eq!(space.fault(at, Access::Write), Err(Fault::SegvAccErr));
    assert_eq!(space.read_obj::<u64>(u64::MAX - 3), Err(Errno::EFAULT));
    space.munmap(at, 8 * PAGE_SIZE).unwrap();
    assert_eq!(space.size(), (0, 0));
    drop(space);
    nothing_left();
}

#[test]
fn mmap_answers_as_linux_does() {
    let _ram = sim::ram(64);
    let (space, _) = space();
    let fixed = ANON | MAP_FIXED;
    let err = |addr, len, prot, flags| map(&space, addr, len, prot, flags).err();
    assert_eq!(err(0, 0, RW, ANON), Some(Errno::EINVAL));
    assert_eq!(err(0, u64::MAX, RW, ANON), Some(Errno::ENOMEM));
    assert_eq!(err(0, 1 << 49, PROT_NONE, ANON), Some(Errno::ENOMEM));
    assert_eq!(err(0, 1 << 40, RW, ANON), Some(Errno::ENOMEM));
    assert_eq!(err(0, 4096, RW, MAP_ANONYMOUS), Some(Errno::EINVAL));
    assert_eq!(err(0, 4096, RW, MAP_ANONYMOUS | 3), Some(Errno::EINVAL));
    assert_eq!(err(0, 4096, RW, MAP_PRIVATE), Some(Errno::EBADF));
    assert_eq!(err(0, 4096, RW, ANON | MAP_HUGETLB), Some(Errno::ENOMEM));
    assert_eq!(err(A + 1, 4096, RW, fixed), Some(Errno::EINVAL));
    assert_eq!(err(4096, 4096, RW, fixed), Some(Errno::EPERM));
    assert_eq!(err(1 << 48, 4096, RW, fixed), Some(Errno::ENOMEM));
    assert_eq!(map(&space, 0, 1 << 40, RW, ANON | MAP_NORESERVE).map(|_| ()), Ok(()));
    assert_eq!(map(&space, A, 4096, RW, fixed), Ok(A));
    assert_eq!(err(A, 4096, RW, ANON | MAP_FIXED_NOREPLACE), Some(Errno::EEXIST));
    assert_eq!(map(&space, A + 5000, 4096, RW, ANON), Ok(A + 4096));
    assert_ne!(map(&space, A, 4096, RW, ANON).unwrap(), A);
    assert_eq!(space.mmap(file(4096, RW, MAP_SHARED, 0, false)), Err(Errno::EACCES));
    assert_eq!(space.mmap(file(4096, RW, MAP_SHARED, 1, true)), Err(Errno::EINVAL));
    assert_eq!(space.mmap(file(8192, RW, MAP_SHARED, !4095, true)), Err(Errno::EOVERFLOW));
    let sync = MAP_SHARED_VALIDATE | MAP_SYNC;
    assert_eq!(space.mmap(file(4096, RW, sync, 0, true)), Err(Errno::EOPNOTSUPP));
    let at = space.mmap(file(4096, PROT_READ, MAP_SHARED, 0, false)).unwrap();
    assert_eq!(space.mprotect(at, 4096, RW), Err(Errno::EACCES));
    assert_eq!(space.munmap(A + 1, 4096), Err(Errno::EINVAL));
    assert_eq!(space.munmap(A, 0), Err(Errno::EINVAL));
    assert_eq!(space.munmap(1 << 48, 4096), Err(Errno::EINVAL));
    assert_eq!(space.munmap(0, 1 << 48), Ok(()));
    assert_eq!(space.mprotect(A, 4096, RW), Err(Errno::ENOMEM));
    assert_eq!(space.mprotect(A + 1, 4096, RW), Err(Errno::EINVAL));
    assert_eq!(space.mprotect(A, 0, RW), Ok(()));
    assert_eq!(space.mprotect(A, 4096, 0x40), Err(Errno::EINVAL));
    assert_eq!(space.madvise(A, 4096, 5), Err(Errno::EINVAL));
    assert_eq!(space.madvise(A, 4096, u32::MAX), Err(Errno::EINVAL));
    assert_eq!(space.madvise(A + 1, 4096, MADV_DONTNEED), Err(Errno::EINVAL));
    assert_eq!(space.madvise(A, 4096, MADV_DONTNEED), Err(Errno::ENOMEM));
    assert_eq!(space.madvise(A, 0, MADV_DONTNEED), Ok(()));
    map(&space, A, 4 * 4096, RW, fixed).unwrap();
    assert_eq!(space.madvise(A + 4096, 4096, MADV_DOFORK), Ok(()));
    assert_eq!(space.madvise(A + 4096, 4096, MADV_DONTFORK), Ok(()));
    assert_eq!(space.munmap(A, 4 * 4096), Ok(()));
    assert_eq!(space.msync(A, 4096, MS_ASYNC | MS_SYNC), Err(Errno::EINVAL));
    assert_eq!(space.msync(A, 4096, MS_SYNC), Err(Errno::ENOMEM));
    assert_eq!(space.mlock(A, 4096, 0), Err(Errno::ENOMEM));
    assert_eq!(space.mlockall(0), Err(Errno::EINVAL));
    assert_eq!(space.mincore(A, &mut [0]), Err(Errno::ENOMEM));
}

#[test]
fn areas_merge_and_are_limited() {
    let _ram = sim::ram(64);
    let (space, _) = space();
    let fixed = ANON | MAP_FIXED;
    for page in 0..8 {
        map(&space, A + page * PAGE_SIZE, PAGE_SIZE, RW, fixed).unwrap();
    }
    assert_eq!(space.area_above(0).unwrap().end, A + 8 * PAGE_SIZE);
    space.mprotect(A + PAGE_SIZE, PAGE_SIZE, PROT_READ).unwrap();
    assert_eq!(space.area_above(A).unwrap().end, A + PAGE_SIZE);
    space.mprotect(A + PAGE_SIZE, PAGE_SIZE, RW).unwrap();
    assert_eq!(space.area_above(A).unwrap().end, A + 8 * PAGE_SIZE);
    let len = (2 * MAX_MAP_COUNT as u64 + 8) * PAGE_SIZE;
    map(&space, A, len, PROT_NONE, fixed).unwrap();
    let mut at = A + PAGE_SIZE;
    let error = loop {
        match space.munmap(at, PAGE_SIZE) {
            Ok(()) => at += 2 * PAGE_SIZE,
            Err(error) => break error,
        }
    };
    assert_eq!(error, Errno::ENOMEM);
    assert_eq!((at - A) / PAGE_SIZE / 2 + 1, MAX_MAP_COUNT as u64);
    assert_eq!(space.mprotect(at, PAGE_SIZE, RW), Err(Errno::ENOMEM));
    assert_eq!(map(&space, 0, PAGE_SIZE, RW, ANON), Err(Errno::ENOMEM));
}

#[test]
fn guest_sized_areas_get_blocks() {
    let _ram = sim::ram(64);
    let (space, env) = space();
    let at = map(&space, 0, 8 << 20, RW, ANON | MAP_NORESERVE).unwrap();
    assert_eq!(at % BLOCK_SIZE, 0);
    let backing = space.get_frame(at + 5000, true).unwrap();
    assert_eq!((backing.frame.size(), backing.start), (Size::Block, at));
    assert!(backing.writable && !backing.executable);
    drop(backing);
    assert_eq!(stats().user, BLOCK_SIZE);
    space.write_obj(at + 3 * PAGE_SIZE, &7u64).unwrap();
    // Part of it goes: the rest stays, and memory is free.
    space.madvise(at + PAGE_SIZE, PAGE_SIZE, MADV_DONTNEED).unwrap();
    assert_eq!(stats().user, BLOCK_SIZE - PAGE_SIZE);
    assert_eq!(space.read_obj::<u64>(at + 3 * PAGE_SIZE), Ok(7));
    // Stacks and small areas don't.
    let stack = map(&space, 0, 8 << 20, RW, ANON | MAP_STACK).unwrap();
    assert_eq!(space.get_frame(stack, true).unwrap().frame.size(), Size::Page);
    let small = map(&space, A, 2 << 20, RW, ANON | MAP_FIXED).unwrap();
    assert_eq!(space.get_frame(small, true).unwrap().frame.size(), Size::Page);
    space.madvise(small, PAGE_SIZE, MADV_DONTNEED).unwrap();
    space.madvise(small, 2 << 20, MADV_HUGEPAGE).unwrap();
    assert_eq!(space.get_frame(small, true).unwrap().frame.size(), Size::Block);
    // Shared memory of that size does, with any process.
    let shared = map(&space, 0, 4 << 20, RW, MAP_SHARED | MAP_ANONYMOUS).unwrap();
    space.write_obj(shared + BLOCK_SIZE, &9u64).unwrap();
    let child = space.fork(Arc::new(Env::default()), false).unwrap();
    assert_eq!(child.read_obj::<u64>(shared + BLOCK_SIZE), Ok(9));
    assert_eq!(child.get_frame(shared + BLOCK_SIZE, true).unwrap().frame.size(), Size::Block);
    // No block is free: pages.
    let mut all = Vec::new();
    while let Ok(block) = Frame::alloc(Size::Block, frame::Fill::Stale) {
        all.push(block);
    }
    let more = map(&space, 0, 8 << 20, RW, ANON).unwrap();
    assert_eq!(space.get_frame(more, true).map(|b| b.frame.size()), Ok(Size::Page));
    drop(all);
    space.madvise(more, 8 << 20, MADV_POPULATE_WRITE).unwrap();
    assert!(env.windows.load(Ordering::Relaxed) > 4);
    drop((space, child));
    nothing_left();
}

#[test]
fn fork_copies_on_write() {
    let _ram = sim::ram(64);
    let (parent, _) = space();
    let at = map(&parent, 0, 4 * PAGE_SIZE, RW, ANON).unwrap();
    let gone = map(&parent, 0, PAGE_SIZE, RW, ANON).unwrap();
    let wiped = map(&parent, A, PAGE_SIZE, RW, ANON | MAP_FIXED).unwrap();
    parent.madvise(gone, PAGE_SIZE, MADV_DONTFORK).unwrap();
    parent.madvise(wiped, PAGE_SIZE, MADV_WIPEONFORK).unwrap();
    for addr in [at, at + PAGE_SIZE, gone, wiped] {
        parent.write_obj(addr, &1u64).unwrap();
    }
    let pages = stats().user;
    let child = parent.fork(Arc::new(Env::default()), false).unwrap();
    assert_eq!(stats().user, pages);
    child.write_obj(at, &2u64).unwrap();
    parent.write_obj(at + PAGE_SIZE, &3u64).unwrap();
    assert_eq!(parent.read_obj::<u64>(at), Ok(1));
    assert_eq!(child.read_obj::<u64>(at), Ok(2));
    assert_eq!(child.read_obj::<u64>(at + PAGE_SIZE), Ok(1));
    assert_eq!(child.read_obj::<u64>(gone), Err(Errno::EFAULT));
    assert_eq!(child.read_obj::<u64>(wiped), Ok(0));
    assert_eq!(parent.read_obj::<u64>(wiped), Ok(1));
    drop(child);
    // Alone again: written in place.
    let before = stats().user;
    parent.write_obj(at, &4u64).unwrap();
    assert_eq!(stats().user, before);
    for nth in 1..40 {
        frame::fail_allocation(nth);
        drop(parent.fork(Arc::new(Env::default()), false));
        frame::fail_allocation(0);
        assert_eq!(parent.read_obj::<u64>(at), Ok(4));
        parent.write_obj(at, &4u64).unwrap();
    }
    drop(parent);
    nothing_left();
}

#[test]
fn what_becomes_code_is_synced_first() {
    let _ram = sim::ram(64);
    let (space, env) = space();
    let synced = || env.synced.load(Ordering::Relaxed);
    let len = 3 * BLOCK_SIZE;
    let at = map(&space, 0, len, RW, ANON).unwrap();
    space.write_obj(at, &1u64).unwrap();
    space.write_obj(at + len - 8, &2u64).unwrap();
    assert_eq!(synced(), 0);
    space.mprotect(at, len, PROT_READ | PROT_EXEC).unwrap();
    // Not executable before it is: the fault syncs.
    for page in [at, at + len - PAGE_SIZE] {
        let before = synced();
        assert!(!space.get_frame(page, false).unwrap().executable);
        space.fault(page, Access::Exec).unwrap();
        assert_eq!(synced(), before + 1);
        assert!(space.get_frame(page, false).unwrap().executable);
    }
    assert_eq!(space.read_obj::<u64>(at), Ok(1));
    assert_eq!(space.read_obj::<u64>(at + len - 8), Ok(2));
    // Writable too, and copied on write by the way.
    space.mprotect(at, PAGE_SIZE, RW).unwrap();
    let child = space.fork(Arc::new(Env::default()), false).unwrap();
    drop(child);
    space.mprotect(at, PAGE_SIZE, RW | PROT_EXEC).unwrap();
    let before = synced();
    space.write_obj(at, &3u64).unwrap();
    assert!(synced() > before || !space.get_frame(at, false).unwrap().executable);
    drop(space);
    nothing_left();
}

#[test]
fn only_private_memory_is_a_stack() {
    let _ram = sim::ram(64);
    let (space, _) = space();
    let mut stack = file(PAGE_SIZE, RW, MAP_PRIVATE | MAP_GROWSDOWN, 0, true);
    assert_eq!(space.mmap(stack), Err(Errno::EINVAL));
    stack = Map {
        addr: 0,
        len: PAGE_SIZE,
        prot: RW,
        flags: MAP_SHARED | MAP_ANONYMOUS | MAP_GROWSDOWN,
        object: None,
    };
    assert_eq!(space.mmap(stack), Err(Errno::EINVAL));
    map(&space, 0, PAGE_SIZE, RW, ANON | MAP_GROWSDOWN).unwrap();
    drop(space);
    nothing_left();
}

#[test]
fn files_are_private_or_shared() {
    let _ram = sim::ram(64);
    let (space, env) = space();
    let private = space.mmap(file(17 * PAGE_SIZE, RW | PROT_EXEC, MAP_PRIVATE, 0, false)).unwrap();
    assert_eq!(space.read_obj::<u64>(private + 2 * PAGE_SIZE), Ok(102));
    space.write_obj(private + 2 * PAGE_SIZE, &5u64).unwrap();
    assert_eq!(space.read_obj::<u64>(private + 2 * PAGE_SIZE), Ok(5));
    space.madvise(private, 17 * PAGE_SIZE, MADV_DONTNEED).unwrap();
    assert_eq!(space.read_obj::<u64>(private + 2 * PAGE_SIZE), Ok(102));
    assert_eq!(space.fault(private + 16 * PAGE_SIZE, Access::Read), Err(Fault::BusAdrErr));
    assert_eq!(space.madvise(private, PAGE_SIZE, MADV_FREE), Err(Errno::EINVAL));
    assert!(env.synced.load(Ordering::Relaxed) > 0);
    let info = space.area_above(private).unwrap();
    assert_eq!((info.name.as_str(), info.offset, info.id.unwrap().ino), ("/bin/file", 0, 42));
    space.munmap(private, PAGE_SIZE).unwrap();
    assert_eq!(space.area_above(private).unwrap().offset, PAGE_SIZE);

    let shared = space.mmap(file(4 * PAGE_SIZE, PROT_READ, MAP_SHARED, PAGE_SIZE, true)).unwrap();
    assert_eq!(space.read_obj::<u64>(shared), Ok(101));
    space.mprotect(shared, PAGE_SIZE, RW).unwrap();
    space.write_obj(shared, &6u64).unwrap();
    space.madvise(shared, PAGE_SIZE, MADV_DONTNEED).unwrap();
    assert_eq!(space.read_obj::<u64>(shared), Ok(6));
    let key = space.futex_key(shared + PAGE_SIZE + 8, false).unwrap();
    let id = ObjectId { dev: 7, ino: 42 };
    assert_eq!(key, FutexKey::Shared { id, offset: 2 * PAGE_SIZE + 8 });
    let alone = FutexKey::Private { mm: space.id(), addr: private + PAGE_SIZE };
    assert_eq!(space.futex_key(private + PAGE_SIZE, false), Ok(alone));
    assert_eq!(space.futex_key(2, true), Err(Errno::EINVAL));
    assert_eq!(space.futex_key(4, false), Err(Errno::EFAULT));
    drop(space);
    nothing_left();
}

#[test]
fn lost_pages_of_a_file_leave() {
    let _ram = sim::ram(64);
    let (space, _) = space();
    let at = space.mmap(file(8 * PAGE_SIZE, RW, MAP_SHARED, 2 * PAGE_SIZE, true)).unwrap();
    let other = map(&space, 0, PAGE_SIZE, RW, ANON).unwrap();
    let resident = |addr: u64| {
        let mut out = [0];
        space.mincore(addr, &mut out).unwrap();
        out[0] & 1 == 1
    };
    for page in 0..8 {
        space.fault(at + page * PAGE_SIZE, Access::Read).unwrap();
    }
    space.fault(other, Access::Write).unwrap();
    let id = ObjectId { dev: 7, ino: 42 };
    space.unmap_object(ObjectId { dev: 7, ino: 43 }, 0, u64::MAX).unwrap();
    space.unmap_object(id, 4, 6).unwrap();
    space.unmap_object(id, 9, u64::MAX).unwrap();
    space.unmap_object(id, 0, 2).unwrap();
    let left: std::vec::Vec<bool> = (0..8).map(|page| resident(at + page * PAGE_SIZE)).collect();
    assert_eq!(left, [true, true, false, false, true, true, true, false]);
    assert!(resident(other));
    drop(space);
    nothing_left();
}

#[test]
fn stacks_grow_and_the_break_moves() {
    let _ram = sim::ram(64);
    let (space, _) = space();
    let top = space.layout().stack_top;
    let flags = ANON | MAP_FIXED | MAP_GROWSDOWN | MAP_STACK;
    map(&space, top - PAGE_SIZE, PAGE_SIZE, RW, flags).unwrap();
    space.write_obj(top - (1 << 20), &1u64).unwrap();
    assert_eq!(space.area_above(top - 1).unwrap().start, top - (1 << 20));
    assert_eq!(space.area_above(top - 1).unwrap().name, "[stack]");
    assert_eq!(space.fault(top - (8 << 20) - 1, Access::Write), Err(Fault::SegvMapErr));
    map(&space, top - (4 << 20), PAGE_SIZE, RW, ANON | MAP_FIXED).unwrap();
    assert_eq!(space.fault(top - (4 << 20) + PAGE_SIZE, Access::Write), Err(Fault::SegvMapErr));
    assert_eq!(space.fault(top - (2 << 20), Access::Write), Ok(()));

    space.set_brk_start(A + 5);
    let start = A + PAGE_SIZE;
    assert_eq!(space.brk(0), start);
    assert_eq!(space.brk(start + 100), start + 100);
    space.write_obj(start + 4000, &1u64).unwrap();
    assert_eq!(space.area_above(start).unwrap().name, "[heap]");
    assert_eq!(space.brk(start + 3 * PAGE_SIZE), start + 3 * PAGE_SIZE);
    assert_eq!(space.area_above(start).unwrap().end, start + 3 * PAGE_SIZE);
    assert_eq!(space.brk(start), start);
    assert_eq!(space.fault(start, Access::Read), Err(Fault::SegvMapErr));
    map(&space, start + PAGE_SIZE, PAGE_SIZE, RW, ANON | MAP_FIXED).unwrap();
    assert_eq!(space.brk(start + 2 * PAGE_SIZE), start);
    assert_eq!(space.brk(u64::MAX), start);
}

#[test]
fn mremap_grows_shrinks_and_moves() {
    let _ram = sim::ram(64);
    let (space, _) = space();
    let at = map(&space, A, 4 * PAGE_SIZE, RW, ANON | MAP_FIXED).unwrap();
    space.write_obj(at + 3 * PAGE_SIZE, &3u64).unwrap();
    let remap = |old, old_len, new_len, flags, new| {
        space.mremap(old, old_len * PAGE_SIZE, new_len * PAGE_SIZE, flags, new)
    };
    assert_eq!(remap(at, 4, 8, 0, 0), Ok(at));
    assert_eq!(remap(at, 8, 4, 0, 0), Ok(at));
    map(&space, at + 4 * PAGE_SIZE, PAGE_SIZE, PROT_NONE, ANON | MAP_FIXED).unwrap();
    assert_eq!(remap(at, 4, 8, 0, 0), Err(Errno::ENOMEM));
    let moved = remap(at, 4, 8, MREMAP_MAYMOVE, 0).unwrap();
    assert_eq!(space.read_obj::<u64>(moved + 3 * PAGE_SIZE), Ok(3));
    assert_eq!(space.fault(at, Access::Read), Err(Fault::SegvMapErr));
    let both = MREMAP_MAYMOVE | MREMAP_FIXED;
    assert_eq!(remap(moved, 8, 8, both, moved + PAGE_SIZE), Err(Errno::EINVAL));
    assert_eq!(remap(moved, 8, 8, MREMAP_FIXED, A), Err(Errno::EINVAL));
    assert_eq!(remap(moved, 8, 0, both, A), Err(Errno::EINVAL));
    assert_eq!(remap(moved, 9, 9, both, A), Err(Errno::EFAULT));
    assert_eq!(remap(A, 1, 1, both, moved), Err(Errno::EFAULT));
    assert_eq!(remap(moved + 2 * PAGE_SIZE, 6, 3, both, A), Ok(A));
    assert_eq!(space.read_obj::<u64>(A + PAGE_SIZE), Ok(3));
    // Blocks that can't stay blocks are taken apart, the others not.
    let big = map(&space, 0, 8 << 20, RW, ANON).unwrap();
    space.write_obj(big + 77, &7u64).unwrap();
    let to = 0x2000_0000u64;
    assert_eq!(space.mremap(big, 8 << 20, 8 << 20, both, to), Ok(to));
    assert_eq!(space.get_frame(to, false).unwrap().frame.size(), Size::Block);
    assert_eq!(space.mremap(to, 8 << 20, 8 << 20, both, 0x3000_1000), Ok(0x3000_1000));
    assert_eq!(space.read_obj::<u64>(0x3000_1000 + 77), Ok(7));
    assert_eq!(space.get_frame(0x3000_1000, false).unwrap().frame.size(), Size::Page);
    drop(space);
    nothing_left();
}

/// A write to a shared page that can't be copied, for want of whichever
/// allocation, loses nothing.
#[test]
fn copying_on_write_may_fail_and_be_tried_again() {
    let _ram = sim::ram(64);
    let (space, _) = space();
    // Alone in its table, and in a block.
    let page = map(&space, 0x10_0000_0000, PAGE_SIZE, RW, ANON | MAP_FIXED).unwrap();
    let block = map(&space, 0x20_0000_0000, 4 << 20, RW, ANON | MAP_FIXED).unwrap();
    for (at, allocations) in [(page, 1), (block, 2)] {
        space.write_obj(at, &7u64).unwrap();
        let child = space.fork(Arc::new(Env::default()), false).unwrap();
        for n in 1..=allocations {
            frame::fail_allocation(n);
            assert_eq!(space.write_obj(at, &8u64), Err(Errno::EFAULT));
            frame::fail_allocation(0);
            assert_eq!((space.read_obj(at), child.read_obj(at)), (Ok(7u64), Ok(7u64)));
        }
        // One more than it takes.
        frame::fail_allocation(allocations + 1);
        space.write_obj(at, &8u64).unwrap();
        frame::fail_allocation(0);
        assert_eq!((space.read_obj(at), child.read_obj(at)), (Ok(8u64), Ok(7u64)));
    }
    drop(space);
    nothing_left();
}

/// Pages by the thousand, not in blocks, that a VM has, too.
fn many_pages(space: &AddressSpace, pages: u64) -> u64 {
    let at = map(space, 0, pages * PAGE_SIZE, RW, ANON).unwrap();
    space.madvise(at, pages * PAGE_SIZE, MADV_NOHUGEPAGE).unwrap();
    for page in 0..pages {
        space.write_obj(at + page * PAGE_SIZE, &page).unwrap();
    }
    at
}

#[test]
fn long_calls_have_windows() {
    const PAGES: u64 = 8 << 10;
    let _ram = sim::ram(64);
    let (space, env) = space();
    let told = Arc::new(Told::default());
    let weak: Weak<Told> = Arc::downgrade(&told);
    space.register(weak).unwrap();
    let at = many_pages(&space, PAGES);
    let check = |call: &mut dyn FnMut()| {
        told.0.lock().unwrap().clear();
        env.windows.store(0, Ordering::Relaxed);
        call();
        let told = told.0.lock().unwrap();
        assert!(told.len() >= 4 && told.iter().all(|len| *len <= 8 << 20), "{told:?}");
        assert!(env.windows.load(Ordering::Relaxed) >= 3);
    };
    let mut child = None;
    check(&mut || child = space.fork(Arc::new(Env::default()), true).ok());
    let child = child.unwrap();
    check(&mut || space.mprotect(at, PAGES * PAGE_SIZE, PROT_READ).unwrap());
    check(&mut || space.munmap(at, PAGES * PAGE_SIZE).unwrap());
    assert!((0..PAGES).all(|page| child.read_obj(at + page * PAGE_SIZE) == Ok(page)));
    drop((space, child));
    nothing_left();
}

/// What other threads do while mprotect() works: no page ever allows more than
/// its area once both are done.
#[test]
fn mprotect_meets_others_between_its_steps() {
    const PAGES: u64 = 4 << 10;
    let _ram = sim::ram(64);
    let last = |at: u64| at + (PAGES - 1) * PAGE_SIZE;
    let run = |prot, other: fn(Arc<AddressSpace>, u64)| {
        let (space, env) = space();
        let space = Arc::new(space);
        let at = many_pages(&space, PAGES);
        let same = space.clone();
        *env.other.lock().unwrap() = Some(Box::new(move || other(same, at)));
        space.mprotect(at, PAGES * PAGE_SIZE, prot).unwrap();
        assert!(env.other.lock().unwrap().is_none());
        (space, at)
    };
    let writes = |space: &AddressSpace, at| space.get_frame(at, true).map(drop);
    const MOVED: u64 = 0x10_0000_0000;

    let (space, at) = run(PROT_READ, |space, at| {
        let flags = MREMAP_MAYMOVE | MREMAP_FIXED;
        let last = at + (PAGES - 1) * PAGE_SIZE;
        space.mremap(last, PAGE_SIZE, PAGE_SIZE, flags, MOVED).unwrap();
    });
    assert_eq!(space.read_obj(MOVED), Ok(PAGES - 1));
    assert_eq!(writes(&space, MOVED), Err(Fault::SegvAccErr));
    assert_eq!(writes(&space, at), Err(Fault::SegvAccErr));
    drop(space);

    let (space, at) = run(PROT_READ, |space, at| {
        space.mprotect(at, PAGES * PAGE_SIZE, RW).unwrap();
    });
    assert_eq!((writes(&space, at), writes(&space, last(at))), (Ok(()), Ok(())));
    drop(space);

    let (space, at) = run(PROT_READ, |space, at| {
        let last = at + (PAGES - 1) * PAGE_SIZE;
        space.munmap(last, PAGE_SIZE).unwrap();
        map(&space, last, PAGE_SIZE, RW, ANON | MAP_FIXED).unwrap();
        space.write_obj(last, &1u64).unwrap();
    });
    assert_eq!(writes(&space, at), Err(Fault::SegvAccErr));
    assert_eq!(writes(&space, last(at)), Ok(()));
    drop(space);

    static CHILD: Mutex<Option<AddressSpace>> = Mutex::new(None);
    let (space, at) = run(PROT_NONE, |space, _| {
        *CHILD.lock().unwrap() = space.fork(Arc::new(Env::default()), false).ok();
    });
    let child = CHILD.lock().unwrap().take().unwrap();
    for space in [&space, &child] {
        assert_eq!(space.get_frame(last(at), false).map(drop), Err(Fault::SegvAccErr));
        space.mprotect(last(at), PAGE_SIZE, RW).unwrap();
        assert_eq!(space.read_obj(last(at)), Ok(PAGES - 1));
    }
    drop((space, child));
    nothing_left();
}

/// Who is told how much leaves.
#[derive(Default)]
struct Told(Mutex<Vec<u64>>);

impl MmuNotifier for Told {
    fn invalidate(&self, start: u64, end: u64) {
        self.0.lock().unwrap().push(end - start);
    }
}

/// A VM may have by pages what its VMM has by blocks: it must not be asked for
/// all of it at once, nor for what isn't there.
#[test]
fn notifiers_hear_of_a_part_at_a_time() {
    const MIB: u64 = 1 << 20;
    let _ram = sim::ram(64);
    let (space, env) = space();
    let told = Arc::new(Told::default());
    let weak: Weak<Told> = Arc::downgrade(&told);
    space.register(weak).unwrap();
    let calls = || core::mem::take(&mut *told.0.lock().unwrap());
    let windows = || env.windows.swap(0, Ordering::Relaxed);
    let flags = ANON | MAP_NORESERVE;
    let at = map(&space, 0, 1 << 40, RW, flags).unwrap();
    let fill = || {
        space.madvise(at, 32 * MIB, MADV_POPULATE_WRITE).unwrap();
        space.write_obj(at + (1 << 39), &1u64).unwrap();
        calls();
        windows();
    };
    let check = |calls: Vec<u64>, windows: u64| {
        assert!(calls.iter().all(|len| *len <= 8 * MIB), "{calls:?}");
        assert!((5..=6).contains(&calls.len()), "{calls:?}");
        assert!(windows + 1 >= calls.len() as u64);
    };
    fill();
    space.madvise(at, 1 << 40, MADV_DONTNEED).unwrap();
    check(calls(), windows());
    fill();
    space.exit();
    check(calls(), windows());
    drop(space);
    nothing_left();
}

#[test]
fn notifiers_hear_before_and_the_count_says_so() {
    let _ram = sim::ram(64);
    let (space, _) = space();
    let stage2 = Arc::new(Stage2::default());
    let weak: Weak<Stage2> = Arc::downgrade(&stage2);
    space.register(weak).unwrap();
    let at = map(&space, 0, 4 * PAGE_SIZE, RW, ANON).unwrap();
    let enter = |addr: u64, write| {
        let seq = space.invalidate_seq();
        let backing = space.get_frame(addr, write).unwrap();
        let addr_of = backing.frame.addr().offset(addr - backing.start).unwrap();
        let mut map = stage2.0.lock().unwrap();
        assert!(space.is_current(seq));
        map.insert(addr, (backing.frame, addr_of, backing.writable));
    };
    let held = || stage2.0.lock().unwrap().len();
    enter(at, true);
    enter(at + PAGE_SIZE, false);
    let seq = space.invalidate_seq();
    space.madvise(at, PAGE_SIZE, MADV_DONTNEED).unwrap();
    assert_eq!(held(), 1);
    assert!(!space.is_current(seq));
    space.mprotect(at + PAGE_SIZE, PAGE_SIZE, PROT_READ).unwrap();
    assert_eq!(held(), 0);
    space.mprotect(at + PAGE_SIZE, PAGE_SIZE, RW).unwrap();
    enter(at, true);
    enter(at + PAGE_SIZE, true);
    let child = space.fork(Arc::new(Env::default()), false).unwrap();
    assert_eq!(held(), 0);
    // A guest reads a page that is then copied on a write.
    let seq = space.invalidate_seq();
    assert!(!space.get_frame(at, false).unwrap().writable);
    assert!(space.is_current(seq));
    let backing = space.get_frame(at, false).unwrap();
    stage2.0.lock().unwrap().insert(at, (backing.frame.clone(), backing.frame.addr(), false));
    drop(backing);
    space.write_obj(at, &1u64).unwrap();
    assert_eq!(held(), 0);
    drop(child);
    enter(at, true);
    space.mremap(at, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, A).unwrap();
    assert_eq!(held(), 0);
    enter(A, true);
    space.exit();
    assert_eq!(held(), 0);
    drop(space);
    nothing_left();
}

// A model: pages of content.

#[derive(Clone, Debug)]
enum Op {
    Map { at: u64, pages: u64, prot: u32, kind: u8, fixed: bool },
    Unmap { at: u64, pages: u64 },
    Protect { at: u64, pages: u64, prot: u32 },
    DontNeed { at: u64, pages: u64 },
    Huge { at: u64, pages: u64, advice: u32 },
    Remap { at: u64, old: u64, new: u64, to: u64, fixed: bool },
    Write { at: u64, value: u64 },
    Read { at: u64 },
    Guest { at: u64, write: bool },
    Fork,
    Exit,
    FailNext { nth: u64 },
}

const ARENA: u64 = 2048;
const START: u64 = 0x10_0000;

fn op() -> impl Strategy<Value = (prop::sample::Index, Op)> {
    let at = (0..ARENA).prop_map(|page| (START + page) * PAGE_SIZE);
    let aligned = (0..4u64).prop_map(|block| (START + block * 512) * PAGE_SIZE);
    let at = prop_oneof![3 => at, 1 => aligned];
    let pages = prop_oneof![3 => 1..8u64, 1 => 1..ARENA, 1 => Just(1024u64)];
    let prot = prop_oneof![4 => Just(RW), 1 => Just(PROT_READ), 1 => Just(PROT_NONE)];
    let op = prop_oneof![
        3 => (at.clone(), pages.clone(), prot.clone(), 0u8..6, any::<bool>())
            .prop_map(|(at, pages, prot, kind, fixed)| Op::Map { at, pages, prot, kind, fixed }),
        2 => (at.clone(), pages.clone()).prop_map(|(at, pages)| Op::Unmap { at, pages }),
        2 => (at.clone(), pages.clone(), prot)
            .prop_map(|(at, pages, prot)| Op::Protect { at, pages, prot }),
        2 => (at.clone(), pages.clone()).prop_map(|(at, pages)| Op::DontNeed { at, pages }),
        1 => (at.clone(), pages.clone(), MADV_DONTFORK..=MADV_NOHUGEPAGE)
            .prop_map(|(at, pages, advice)| Op::Huge { at, pages, advice }),
        2 => (at.clone(), pages.clone(), pages, at.clone(), any::<bool>())
            .prop_map(|(at, old, new, to, fixed)| Op::Remap { at, old, new, to, fixed }),
        10 => (at.clone(), 1..u64::MAX).prop_map(|(at, value)| Op::Write { at, value }),
        5 => at.clone().prop_map(|at| Op::Read { at }),
        6 => (at, any::<bool>()).prop_map(|(at, write)| Op::Guest { at, write }),
        1 => Just(Op::Fork),
        1 => Just(Op::Exit),
        1 => (1..6u64).prop_map(|nth| Op::FailNext { nth }),
    ];
    (any::<prop::sample::Index>(), op)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Content {
    /// Now, and before the first write.
    Private(u64, u64),
    Shared(u64, u64),
}

#[derive(Clone, Copy, Debug)]
struct Page {
    prot: u32,
    content: Content,
    dont_fork: bool,
}

struct Process {
    space: AddressSpace,
    env: Arc<Env>,
    stage2: Arc<Stage2>,
    pages: BTreeMap<u64, Page>,
}

impl Process {
    fn new(space: AddressSpace, env: Arc<Env>, pages: BTreeMap<u64, Page>) -> Self {
        let stage2 = Arc::new(Stage2::default());
        let weak: Weak<Stage2> = Arc::downgrade(&stage2);
        space.register(weak).unwrap();
        Process { space, env, stage2, pages }
    }

    fn remove(&mut self, at: u64, end: u64) {
        self.pages.retain(|page, _| *page < at || *page >= end);
    }
}

#[derive(Default)]
struct World {
    processes: Vec<Process>,
    shared: HashMap<(u64, u64), u64>,
    objects: u64,
}

impl World {
    fn value(&self, page: &Page) -> u64 {
        match page.content {
            Content::Private(now, _) => now,
            Content::Shared(object, index) => {
                self.shared.get(&(object, index)).copied().unwrap_or(0)
            }
        }
    }

    fn step(&mut self, who: usize, op: Op) {
        let process = &mut self.processes[who];
        let space = &process.space;
        match op {
            Op::Map { at, pages, prot, kind, fixed } => {
                let pages = if kind == 5 { pages.min(16) } else { pages };
                let len = pages * PAGE_SIZE;
                let flags = if fixed { MAP_FIXED } else { 0 }
                    | if kind == 4 { MAP_SHARED } else { MAP_PRIVATE }
                    | if kind == 5 { 0 } else { MAP_ANONYMOUS };
                let object = (kind == 5).then(|| MapObject {
                    object: Arc::new(File::new()),
                    offset: 0,
                    may_write: true,
                });
                let Ok(got) = space.mmap(Map { addr: at, len, prot, flags, object }) else {
                    // Out of memory on the way: what was there may be gone.
                    assert!(fixed);
                    return self.resync(who);
                };
                if fixed {
                    assert_eq!(got, at);
                    process.remove(at, at + len);
                }
                self.objects += 1;
                for index in 0..pages {
                    let content = match kind {
                        4 => Content::Shared(self.objects, index),
                        5 => Content::Private(index + 100, index + 100),
                        _ => Content::Private(0, 0),
                    };
                    let page = Page { prot, content, dont_fork: false };
                    assert!(process.pages.insert(got + index * PAGE_SIZE, page).is_none());
                }
            }
            Op::Unmap { at, pages } => {
                let len = pages * PAGE_SIZE;
                match space.munmap(at, len) {
                    Ok(()) => process.remove(at, at + len),
                    Err(_) => self.resync(who),
                }
            }
            Op::Protect { at, pages, prot } => {
                let end = at + pages * PAGE_SIZE;
                let done = space.mprotect(at, end - at, prot);
                let mut next = at;
                while let Some(page) = process.pages.get_mut(&next).filter(|_| next < end) {
                    if done.is_ok() {
                        page.prot = prot;
                    }
                    next += PAGE_SIZE;
                }
                assert!(next == end || done == Err(Errno::ENOMEM));
                if done.is_err() {
                    self.resync(who);
                }
            }
            Op::DontNeed { at, pages } => {
                let end = at + pages * PAGE_SIZE;
                let _ = space.madvise(at, end - at, MADV_DONTNEED);
                // All but a failed allocation drops everything: see what it did.
                let left = |page: u64| space.lock().table.lookup(page).is_some();
                for (at, page) in process.pages.range_mut(at..end) {
                    if let Content::Private(now, first) = &mut page.content
                        && !left(*at)
                    {
                        *now = *first;
                    }
                }
            }
            Op::Huge { at, pages, advice } => {
                let end = at + pages * PAGE_SIZE;
                let _ = space.madvise(at, end - at, advice);
                for (_, page) in process.pages.range_mut(at..end) {
                    match advice {
                        MADV_DONTFORK => page.dont_fork = true,
                        MADV_DOFORK => page.dont_fork = false,
                        _ => (),
                    }
                }
            }
            Op::Remap { at, old, new, to, fixed } => {
                let (old, new) = (old * PAGE_SIZE, new * PAGE_SIZE);
                let flags = MREMAP_MAYMOVE | if fixed { MREMAP_FIXED } else { 0 };
                let Ok(got) = space.mremap(at, old, new, flags, to) else {
                    return self.resync(who);
                };
                let moved: Vec<_> = process
                    .pages
                    .range(at..at + old.min(new))
                    .map(|(a, p)| (*a - at, *p))
                    .collect();
                assert_eq!(moved.len() as u64, old.min(new) / PAGE_SIZE);
                process.remove(at, at + old);
                process.remove(got, got + new);
                let first = moved[0].1;
                for offset in (0..new).step_by(PAGE_SIZE as usize) {
                    let index = offset / PAGE_SIZE;
                    let content = match (moved.get(index as usize), first.content) {
                        (Some((_, page)), _) => page.content,
                        (None, Content::Shared(object, index0)) => {
                            Content::Shared(object, index0 + index)
                        }
                        (None, Content::Private(_, 0)) => Content::Private(0, 0),
                        (None, Content::Private(_, first)) => {
                            Content::Private(first + index, first + index)
                        }
                    };
                    process.pages.insert(got + offset, Page { content, ..first });
                }
            }
            Op::Write { at, value } => {
                let done = space.write_obj(at + 16, &value);
                let page = process.pages.get_mut(&at).filter(|page| page.prot & PROT_WRITE != 0);
                let Some(page) = page else { return assert!(done.is_err()) };
                if done.is_ok() {
                    match &mut page.content {
                        Content::Private(now, _) => *now = value,
                        Content::Shared(object, index) => {
                            self.shared.insert((*object, *index), value);
                        }
                    }
                }
            }
            Op::Read { at } => {
                let value = space.read_obj::<u64>(at + 16);
                let page = process.pages.get(&at).filter(|page| page.prot != 0).copied();
                match page {
                    None => assert!(value.is_err()),
                    Some(_) if value.is_err() => (), // Out of memory, or past the file's end.
                    Some(page) => assert_eq!(value, Ok(self.value(&page))),
                }
            }
            Op::Guest { at, write } => {
                let seq = space.invalidate_seq();
                let Ok(backing) = space.get_frame(at, write) else { return };
                if !space.is_current(seq) {
                    return; // A guest would try again.
                }
                let addr = backing.frame.addr().offset(at - backing.start).unwrap();
                assert!(!write || backing.writable);
                process.env.tlb.lock().unwrap().insert(at, (addr, backing.writable));
                process
                    .stage2
                    .0
                    .lock()
                    .unwrap()
                    .insert(at, (backing.frame, addr, backing.writable));
            }
            Op::Fork => {
                if self.processes.len() < 4 {
                    let process = &self.processes[who];
                    let env = Arc::new(Env::default());
                    let Ok(child) = process.space.fork(env.clone(), true) else { return };
                    let pages = process.pages.iter().filter(|(_, page)| !page.dont_fork);
                    let pages = pages.map(|(at, page)| (*at, *page)).collect();
                    self.processes.push(Process::new(child, env, pages));
                }
            }
            Op::Exit => {
                if self.processes.len() > 1 {
                    let process = self.processes.swap_remove(who);
                    process.space.exit();
                    assert!(process.stage2.0.lock().unwrap().is_empty());
                }
            }
            Op::FailNext { nth } => frame::fail_allocation(nth),
        }
    }

    /// A failed call may have done a part: takes over what is there now.
    fn resync(&mut self, who: usize) {
        let process = &mut self.processes[who];
        let locked = process.space.lock();
        process.pages.retain(|at, page| {
            let Some(vma) = locked.vmas.find(*at) else { return false };
            page.prot = vma.prot;
            if let Content::Private(now, first) = &mut page.content
                && locked.table.lookup(*at).is_none()
            {
                *now = *first;
            }
            true
        });
    }

    fn check(&self) {
        for process in &self.processes {
            let locked = process.space.lock();
            assert_eq!(locked.vmas.pages(), process.pages.len() as u64);
            for (at, page) in &process.pages {
                let vma = locked.vmas.find(*at).expect("an area");
                assert_eq!(vma.prot, page.prot);
                let Some(leaf) = locked.table.lookup(*at) else {
                    if let Content::Private(now, first) = page.content {
                        assert_eq!(now, first, "a written page is gone");
                    }
                    continue;
                };
                let allowed = leaf.attrs();
                assert!(!allowed.write || page.prot & PROT_WRITE != 0);
                assert!(!allowed.read || page.prot != 0);
                let mut bytes = [0; 8];
                let frame = locked.table.frame(&leaf).unwrap();
                frame.read(*at - leaf.start + 16, &mut bytes).unwrap();
                assert_eq!(u64::from_le_bytes(bytes), self.value(page));
            }
            // Nobody knows a frame or a right that the page table hasn't.
            let entries = process.stage2.0.lock().unwrap();
            let tlb = process.env.tlb.lock().unwrap();
            let known = entries.iter().map(|(at, (_, addr, write))| (at, (*addr, *write)));
            for (at, (addr, write)) in known.chain(tlb.iter().map(|(at, entry)| (at, *entry))) {
                let leaf = locked.table.lookup(*at).expect("a mapping");
                assert_eq!(leaf.addr().offset(*at - leaf.start), Some(addr));
                assert!(leaf.attrs().write || !write);
                assert!(leaf.attrs().read);
            }
        }
    }
}

/// Few, as each step compares all memory; PROPTEST_CASES asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(32)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]
    #[test]
    fn memory_is_what_the_model_says(ops in prop::collection::vec(op(), 1..80)) {
        let _ram = sim::ram(512);
        let mut world = World::default();
        let (space, env) = space();
        world.processes.push(Process::new(space, env, BTreeMap::new()));
        for (who, op) in ops {
            let who = who.index(world.processes.len());
            world.step(who, op);
            world.check();
        }
        frame::fail_allocation(0);
        drop(world);
        nothing_left();
    }
}

/// Numbers that programs pass by mistake or malice.
fn number() -> impl Strategy<Value = u64> {
    let edge = prop::sample::select(vec![
        0,
        1,
        4095,
        4096,
        65535,
        65536,
        BLOCK_SIZE,
        1 << 47,
        (1 << 48) - 4096,
        1 << 48,
        1 << 63,
        u64::MAX - 4095,
        u64::MAX,
    ]);
    prop_oneof![
        edge.clone(),
        (edge.clone(), edge).prop_map(|(a, b)| a.wrapping_add(b)),
        (0..64u64).prop_map(|page| A + page * PAGE_SIZE),
        any::<u64>(),
    ]
}

proptest! {
    /// Whatever the arguments: an answer, and soon.
    #[test]
    fn no_argument_hurts(calls in prop::collection::vec((0..14u8, number(), number(), number(), any::<u32>(), 0..0x3_0000u32), 1..40)) {
        let _ram = sim::ram(64);
        let (space, _) = space();
        let object: Arc<dyn VmObject> = Arc::new(File::new());
        map(&space, A, 64 * PAGE_SIZE, RW, ANON | MAP_FIXED).unwrap();
        map(&space, 1 << 40, 1 << 40, RW, ANON | MAP_FIXED | MAP_NORESERVE).unwrap();
        for (call, a, b, c, wild, tame) in calls {
            let _ = match call {
                0 => map(&space, a, b, wild, tame).map(|_| ()),
                1 => {
                    let object = Some(MapObject { object: object.clone(), offset: c, may_write: true });
                    let flags = tame & !MAP_ANONYMOUS;
                    space.mmap(Map { addr: a, len: b, prot: wild, flags, object }).map(|_| ())
                }
                2 => space.munmap(a, b),
                3 => space.mprotect(a, b, tame & 7),
                4 => space.mprotect(a, b, wild),
                5 => space.madvise(a, b, tame & 31),
                6 => space.mremap(a, b, c, tame & 7, A.wrapping_add(b)).map(|_| ()),
                7 => { space.brk(a); Ok(()) }
                8 => space.msync(a, b, tame & 7),
                9 => space.mincore(a, &mut vec![0; (b & 0xffff) as usize]),
                10 => space.write_obj(a, &b),
                11 => space.read_obj::<u64>(a).map(|_| ()),
                12 => space.fork(Arc::new(Env::default()), false).map(|_| ()),
                _ => space.futex_key(a, false).map(|_| ()),
            };
        }
        drop((space, object));
        nothing_left();
    }
}
