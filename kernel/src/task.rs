//! Tasks: what the scheduler runs, each on a kernel stack of its own.
#![expect(unsafe_code, reason = "stacks and suspended contexts")]

use crate::fp::FpContext;
use crate::stack::Stack;
use crate::user_space::{Account, Thread};
use crate::{cpu, sched};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::task::Wake;
use arch::switch::Context;
use arch::trap::TrapFrame;
use base::census::{Counted, Kind};
use base::{Lock, Result, rank, room};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use core::task::Waker;
use spin::Once;

/// Where a task is in its life. Changed under the rules in `sched`.
pub mod state {
    /// Current on a CPU.
    pub const RUNNING: u8 = 0;
    /// In a run queue.
    pub const QUEUED: u8 = 1;
    /// Waits for a wake-up.
    pub const BLOCKED: u8 = 2;
    /// Will never run again.
    pub const DEAD: u8 = 3;
    /// Waits for a wake-up, and keeps the CPU meanwhile.
    pub const WAITING: u8 = 4;
}

/// One flow of control.
pub struct Task {
    /// Linux's thread ID; 0 for idle tasks.
    pub id: u32,
    stack: Stack,
    context: UnsafeCell<Context>,
    /// One of [`state`].
    pub state: AtomicU8,
    /// A wake-up came that [`park`] has not consumed.
    pub woken: AtomicBool,
    /// Its registers are still in a CPU: it must not be resumed elsewhere.
    pub on_cpu: AtomicBool,
    /// The CPU it runs on, or ran on last.
    pub cpu: AtomicU32,
    /// What the scheduler knows of it.
    pub entity: ::sched::Entity,
    /// How its CPU time divides.
    pub time: Account,
    /// FP/SIMD registers.
    pub fp: FpContext,
    /// TPIDR_EL0 while it isn't running.
    pub tpidr_el0: AtomicU64,
    /// The user-space thread that it is; kernel threads have none.
    pub thread: Once<Thread>,
    body: Lock<Option<Box<dyn FnOnce() + Send>>>,
    /// How many allocations it has until one fails: see `fail`.
    pub fail_nth: AtomicU32,
    _counted: Counted,
}

/// Where every task starts.
extern "C" fn first(_: u64) -> ! {
    sched::finish();
    // The block drops what it borrows: exit does not return.
    {
        let body = sched::current().body.lock().take();
        if let Some(body) = body {
            body();
        }
    }
    sched::exit()
}

// SAFETY: `context` is touched only by the CPU that switches away from or to
// the task, and `on_cpu` orders one before the other.
unsafe impl Sync for Task {}
// SAFETY: all its parts may move between CPUs.
unsafe impl Send for Task {}

impl Task {
    /// A task that will run `body` and end when it returns; suspended until
    /// `sched::start`.
    pub fn new(id: u32, body: impl FnOnce() + Send + 'static) -> Result<Arc<Task>> {
        let counted = Counted::new(Kind::Task);
        // It counts already: whoever makes one at the same time sees it.
        sched::make_room()?;
        let body: Box<dyn FnOnce() + Send> = room::try_box(body)?;
        Self::with(id, Stack::new()?, Some(body), counted)
    }

    /// What a CPU is while it has nothing to do, on the stack that it came up on.
    pub fn idle(stack: Stack) -> Result<Arc<Task>> {
        Self::with(0, stack, None, Counted::new(Kind::Task))
    }

    fn with(id: u32, stack: Stack, body: Option<Box<dyn FnOnce() + Send>>, counted: Counted) -> Result<Arc<Task>> {
        let (_, top) = stack.range();
        // Room for the registers of EL0 at the very top.
        let start = top.wrapping_sub(size_of::<TrapFrame>() as u64);
        room::try_arc(Task {
            id,
            stack,
            context: UnsafeCell::new(Context::new(start, first, 0)),
            state: AtomicU8::new(state::BLOCKED),
            woken: AtomicBool::new(false),
            on_cpu: AtomicBool::new(false),
            cpu: AtomicU32::new(cpu::index() as u32),
            entity: ::sched::Entity::new(),
            time: Account::new(),
            fp: FpContext::new(),
            tpidr_el0: AtomicU64::new(0),
            thread: Once::new(),
            body: Lock::new(rank::PROCESS, body),
            fail_nth: AtomicU32::new(0),
            _counted: counted,
        })
    }

    /// The kernel stack, lowest and highest address.
    pub fn stack(&self) -> (u64, u64) {
        self.stack.range()
    }

    /// Where the suspended context is kept, for the switch.
    pub(crate) fn context(&self) -> *mut Context {
        self.context.get()
    }

    /// EL0's registers at the top of the kernel stack.
    ///
    /// # Safety
    /// The task is the current one and is not in an exception from EL0 whose
    /// frame is borrowed elsewhere, or it has never run.
    pub unsafe fn user_frame(&self) -> *mut TrapFrame {
        let (_, top) = self.stack.range();
        top.wrapping_sub(size_of::<TrapFrame>() as u64) as *mut TrapFrame
    }

    /// A waker that ends this task's [`park`].
    pub fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(self.clone())
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        sched::wake(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        sched::wake(self);
    }
}

/// The current task.
pub fn current() -> Arc<Task> {
    sched::current()
}
