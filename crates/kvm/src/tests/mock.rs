//! A kernel made of maps.

use crate::*;
use base::{Errno, LockTracker, PAGE_SIZE, Result, UserMem, WaitQueue, rank, set_lock_tracker};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use frame::{Fill, Frame, Size};
use psci::Workaround;
use regime::HostRegime;
use std::boxed::Box;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};
use std::vec;
use std::vec::Vec;
use traps::{GuestFeatures, IdRegs};

type Race = Box<dyn FnOnce(&MockSpace) + Send>;
pub type Script = Box<dyn FnMut(&mut VcpuState, &Entry<'_>) -> Exit + Send>;

pub type Window = Box<dyn FnMut(&MockHost) + Send>;
pub type Guest = Box<dyn Fn(&mut VcpuState, &Entry<'_>) -> Exit + Send + Sync>;

pub struct MockHost {
    /// What runs instead of a script, on many threads at once.
    pub guest: std::sync::OnceLock<Guest>,
    pub facts: Facts,
    pub now: AtomicU64,
    pub signal: AtomicBool,
    pub script: Mutex<VecDeque<Script>>,
    pub kicks: Mutex<Vec<u32>>,
    pub space: Arc<MockSpace>,
    /// The caller is another process.
    pub elsewhere: AtomicBool,
    pub eventfds: Mutex<BTreeMap<i32, Arc<MockEvent>>>,
    pub flushed: Mutex<Vec<(u64, u64)>>,
    pub timer: Mutex<Option<u64>>,
    pub windows: AtomicU64,
    /// What else happens in a window.
    pub in_window: Mutex<Option<Window>>,
    /// Asks for more whenever list registers are filled, as other vCPUs may.
    pub pestered: AtomicBool,
}

pub fn facts() -> Facts {
    let mut id = IdRegs::new([0; traps::id::COUNT]);
    id.set(4, 0, 0x1201_0000_1011_1112);
    id.set(7, 0, 0x0000_0000_0010_0125);
    id.set(7, 1, 0x0000_0000_1021_1122);
    Facts {
        id,
        features: GuestFeatures::default(),
        midr: 0x413f_d0c1,
        revidr: 0,
        aidr: 0,
        ctr: 0x8444_c004,
        clidr: 0xc300_0123,
        actlr: 0,
        ccsidr: vec![(0, 0x701f_e01a), (1, 0x201f_e01a)],
        ich_vtr: Some(0x9000_0003),
        gic_deactivates: true,
        gicv: None,
        ipa_bits: 44,
        cpus: 2,
        vtimer_intid: 27,
        hcr_el2: 0x8000_0001,
        stage2_fwb: false,
        workarounds: [Workaround::NotRequired, Workaround::NotAvailable, Workaround::Available],
    }
}

/// Checks the order of locks, by thread.
struct Order;

std::thread_local! {
    static HELD: core::cell::RefCell<Vec<u8>> = const { core::cell::RefCell::new(Vec::new()) };
}

impl LockTracker for Order {
    fn acquire(&self, taken: u8) {
        HELD.with_borrow_mut(|held| {
            let nests = |rank: u8| rank < taken || (rank == taken && rank == rank::WAIT_QUEUE);
            assert!(held.iter().all(|rank| nests(*rank)), "{taken} while {held:?}");
            held.push(taken);
        });
    }
    fn release(&self, rank: u8) {
        HELD.with_borrow_mut(|held| {
            if let Some(at) = held.iter().rposition(|other| *other == rank) {
                held.remove(at);
            }
        });
    }
}

/// Nobody holds a lock where the kernel may wait.
fn no_locks() {
    HELD.with_borrow(|held| assert!(held.is_empty(), "waits with {held:?}"));
}

impl MockHost {
    pub fn new() -> Arc<MockHost> {
        MockHost::with(facts())
    }

    pub fn with(facts: Facts) -> Arc<MockHost> {
        set_lock_tracker(&Order);
        Arc::new(MockHost {
            guest: std::sync::OnceLock::new(),
            facts,
            now: AtomicU64::new(1000),
            signal: AtomicBool::new(false),
            script: Mutex::default(),
            kicks: Mutex::default(),
            space: Arc::new(MockSpace::default()),
            elsewhere: AtomicBool::new(false),
            eventfds: Mutex::default(),
            flushed: Mutex::default(),
            timer: Mutex::default(),
            windows: AtomicU64::new(0),
            in_window: Mutex::default(),
            pestered: AtomicBool::new(false),
        })
    }

    pub fn push(&self, step: impl FnMut(&mut VcpuState, &Entry<'_>) -> Exit + Send + 'static) {
        self.script.lock().unwrap().push_back(Box::new(step));
    }

    pub fn add_eventfd(&self, fd: i32) -> Arc<MockEvent> {
        let event = Arc::new(MockEvent::default());
        self.eventfds.lock().unwrap().insert(fd, event.clone());
        event
    }
}

impl Host for MockHost {
    fn facts(&self) -> &Facts {
        &self.facts
    }
    fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }
    fn entropy(&self) -> Option<[u64; 3]> {
        Some([0x1111, 0x2222, 0x3333])
    }
    fn signal_pending(&self) -> bool {
        self.signal.load(Ordering::Relaxed)
    }
    fn address_space(&self) -> Arc<dyn AddressSpace> {
        self.space.clone()
    }
    fn address_space_id(&self) -> u64 {
        self.space.id() + u64::from(self.elsewhere.load(Ordering::Relaxed))
    }
    fn eventfd(&self, fd: i32) -> Result<Arc<dyn EventFd>> {
        let event = self.eventfds.lock().unwrap().get(&fd).cloned().ok_or(Errno::EBADF)?;
        Ok(event)
    }
    fn kick(&self, cpu: u32) {
        self.kicks.lock().unwrap().push(cpu);
    }
    /// Runs the script; when it ends, a signal comes.
    fn enter(&self, _: &mut HostRegime, entry: &Entry<'_>, state: &mut VcpuState) -> Exit {
        if let Some(guest) = self.guest.get() {
            return guest(state, entry);
        }
        let step = self.script.lock().unwrap().pop_front();
        match step {
            Some(mut step) => step(state, entry),
            None => {
                self.signal.store(true, Ordering::Relaxed);
                Exit::Interrupt
            }
        }
    }
    fn pull(&self, _: &HostRegime, _: &Arc<VcpuCore>) {
        no_locks();
    }
    fn read_live(&self, _: &VcpuCore, _: &mut VcpuState) {}
    fn write_live(&self, core: &VcpuCore, _: &VcpuState, _: u8, _: bool) {
        if self.pestered.load(Ordering::Relaxed) {
            core.timer_due();
        }
    }
    fn this_cpu(&self) -> u32 {
        0
    }
    fn window(&self, _: &mut HostRegime) {
        no_locks();
        self.windows.fetch_add(1, Ordering::Relaxed);
        if let Some(then) = &mut *self.in_window.lock().unwrap() {
            then(self);
        }
    }
    fn set_timer(&self, _: &Arc<VcpuCore>, deadline: Option<u64>) {
        *self.timer.lock().unwrap() = deadline;
    }
    fn invalidate_stage2(&self, _: &paging::Id, start: u64, len: u64, _: bool) {
        self.flushed.lock().unwrap().push((start, len));
    }
    fn make_coherent(&self, _: &Frame) {}
    fn note(&self, _: &HostRegime, _: core::fmt::Arguments<'_>) {}
    fn fatal(&self, what: core::fmt::Arguments<'_>) -> ! {
        panic!("fatal: {what}")
    }
}

#[derive(Default)]
pub struct MockSpace {
    pub sequence: AtomicU64,
    /// By address: pages or blocks, and whether writable.
    pub frames: Mutex<BTreeMap<u64, (Frame, bool)>>,
    pub notifiers: Mutex<Vec<Weak<dyn MmuNotifier>>>,
    /// Runs in the middle of the next `get_frame`.
    pub race: Mutex<Option<Race>>,
}

impl MockSpace {
    pub fn back(&self, addr: u64, size: Size, writable: bool) -> u64 {
        let frame = Frame::alloc(size, Fill::Zeroed).unwrap();
        let at = frame.addr().get();
        self.frames.lock().unwrap().insert(addr, (frame, writable));
        at
    }

    pub fn invalidate(&self, start: u64, end: u64) {
        self.sequence.fetch_add(2, Ordering::Relaxed);
        for notifier in self.notifiers.lock().unwrap().iter().filter_map(Weak::upgrade) {
            notifier.invalidate(start, end);
        }
    }
}

impl AddressSpace for MockSpace {
    fn id(&self) -> u64 {
        7
    }
    fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::Relaxed)
    }
    fn is_current(&self, sequence: u64) -> bool {
        self.sequence() == sequence
    }
    fn get_frame(&self, _: &HostRegime, addr: u64, write: bool) -> Result<HostFrame> {
        let found = {
            let frames = self.frames.lock().unwrap();
            let (start, (frame, writable)) =
                frames.range(..=addr).next_back().ok_or(Errno::EFAULT)?;
            if addr - start >= frame.size().bytes() || (write && !writable) {
                return Err(Errno::EFAULT);
            }
            HostFrame { frame: frame.clone(), writable: *writable }
        };
        if let Some(race) = self.race.lock().unwrap().take() {
            race(self);
        }
        Ok(found)
    }
    fn register(&self, notifier: Weak<dyn MmuNotifier>) -> Result<()> {
        self.notifiers.lock().unwrap().push(notifier);
        Ok(())
    }
}

#[derive(Default)]
pub struct MockEvent {
    pub count: AtomicU64,
    pub queue: WaitQueue,
}

impl EventFd for MockEvent {
    fn signal(&self, count: u64) {
        self.count.fetch_add(count, Ordering::Relaxed);
        self.queue.wake_all();
    }
    fn take(&self) -> bool {
        self.count.swap(0, Ordering::Relaxed) != 0
    }
    fn wait_queue(&self) -> &WaitQueue {
        &self.queue
    }
}

/// A page of user memory and more at 0x10000.
pub struct User(pub Mutex<Vec<u8>>);
pub const USER: u64 = 0x10000;

impl User {
    pub fn new() -> User {
        User(Mutex::new(vec![0; 16 * PAGE_SIZE as usize]))
    }
}

impl UserMem for User {
    fn read(&self, addr: u64, out: &mut [u8]) -> Result<()> {
        no_locks();
        let memory = self.0.lock().unwrap();
        let at = addr.checked_sub(USER).ok_or(Errno::EFAULT)? as usize;
        let end = at.checked_add(out.len()).ok_or(Errno::EFAULT)?;
        out.copy_from_slice(memory.get(at..end).ok_or(Errno::EFAULT)?);
        Ok(())
    }
    fn write(&self, addr: u64, data: &[u8]) -> Result<()> {
        no_locks();
        let mut memory = self.0.lock().unwrap();
        let at = addr.checked_sub(USER).ok_or(Errno::EFAULT)? as usize;
        let end = at.checked_add(data.len()).ok_or(Errno::EFAULT)?;
        memory.get_mut(at..end).ok_or(Errno::EFAULT)?.copy_from_slice(data);
        Ok(())
    }
}

impl VcpuState {
    /// Opens the CPU interface: VPMR = 0xff, both groups enabled.
    pub fn open(&mut self) {
        self.lrs.vmcr = 0xff << 24 | 3;
    }
}
