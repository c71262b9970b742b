//! The scheduler's mechanism: run queues, wake-ups, switching. Which task is
//! next is first in, first out: the policy in `crates/sched` (fair share, nice,
//! real time) is not wired in yet, so that nice and priorities change nothing.
//!
//! The kernel is not preempted: a task runs in the kernel until it parks,
//! yields or returns to EL0 (or a guest), where `need_resched` is honoured.
#![expect(unsafe_code, reason = "the switch itself")]

use crate::task::{Task, state};
use crate::{cpu, gic, time, timer};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use base::{Lock, LockGuard, Nanos, rank};
use core::sync::atomic::{AtomicBool, AtomicI8, AtomicU64, Ordering::*};
use core::ops::Deref;
use core::task::Waker;
use cpu::MAX_CPUS;

/// What the scheduler knows of a task.
pub struct Entity {
    /// Nice value, -20 to 19.
    pub nice: AtomicI8,
    /// Real-time priority 1 to 99, or 0 for the fair class.
    pub rt_priority: AtomicI8,
    /// SCHED_RR rather than SCHED_FIFO.
    pub round_robin: AtomicBool,
    /// CPUs it may run on, a bit each.
    pub affinity: AtomicU64,
    /// When it last got the CPU.
    pub started: AtomicU64,
}

impl Entity {
    /// Nice 0, anywhere.
    pub const fn new() -> Self {
        Entity {
            nice: AtomicI8::new(0),
            rt_priority: AtomicI8::new(0),
            round_robin: AtomicBool::new(false),
            affinity: AtomicU64::new(u64::MAX),
            started: AtomicU64::new(0),
        }
    }
}

/// How long a task runs while others wait: 4 ms.
const SLICE: Nanos = 4_000_000;

/// How long a task runs before one that wakes may take its CPU: 2 ms. Without
/// it, who tells others something would lose the CPU at every word.
const STRETCH: Nanos = 2_000_000;

struct RunQueue {
    ready: VecDeque<Arc<Task>>,
    /// Somebody woke up and waits for the end of the current task's stretch.
    urged: bool,
    current: Option<Arc<Task>>,
    idle: Option<Arc<Task>>,
    /// The task the last switch came from: its registers are saved now.
    previous: Option<Arc<Task>>,
    /// It was told to run on other CPUs.
    previous_moves: bool,
}

static QUEUES: [Lock<RunQueue>; MAX_CPUS] = [const {
    Lock::new(
        rank::RUN_QUEUE,
        RunQueue {
            ready: VecDeque::new(),
            urged: false,
            current: None,
            idle: None,
            previous: None,
            previous_moves: false,
        },
    )
}; MAX_CPUS];

fn queue(cpu: usize) -> LockGuard<'static, RunQueue> {
    // An index past the end can't be: it comes from a running CPU.
    QUEUES.get(cpu).unwrap_or(&QUEUES[0]).lock()
}

/// Makes the flow that booted this CPU its idle task, and the CPU one that
/// runs tasks. Its stack is the boot stack; the one made here stays unused.
pub fn adopt() {
    let Ok(idle) = Task::new(0, || {}) else { crate::power::hang() };
    idle.state.store(state::RUNNING, Relaxed);
    idle.on_cpu.store(true, Relaxed);
    let this = cpu::this();
    this.current.store(Arc::as_ptr(&idle).cast_mut(), Relaxed);
    {
        let mut queue = queue(cpu::index());
        queue.idle = Some(idle.clone());
        queue.current = Some(idle);
    }
    this.online.store(true, Release);
}

/// The current task, borrowed: it can't end while its own code runs.
pub struct Current(*const Task);

impl Deref for Current {
    type Target = Task;
    #[inline]
    fn deref(&self) -> &Task {
        // SAFETY: the run queue keeps the current task alive until it has
        // switched away for good, and `Current` can't leave its thread.
        unsafe { &*self.0 }
    }
}

impl Current {
    /// A counted reference.
    pub fn arc(&self) -> Arc<Task> {
        // SAFETY: the pointer came from the run queue's Arc, which lives.
        unsafe {
            Arc::increment_strong_count(self.0);
            Arc::from_raw(self.0)
        }
    }
}

/// The current task, borrowed.
#[inline]
pub fn current_ref() -> Current {
    Current(cpu::this().current.load(Relaxed))
}

/// The current task.
pub fn current() -> Arc<Task> {
    current_ref().arc()
}

/// Lets a new task run.
pub fn start(task: &Arc<Task>) {
    wake(task);
}

/// Ends `task`'s park, now or the next one.
pub fn wake(task: &Arc<Task>) {
    task.woken.store(true, SeqCst);
    if task.state.compare_exchange(state::BLOCKED, state::QUEUED, SeqCst, SeqCst).is_ok() {
        enqueue(task.clone());
    }
}

/// Puts a QUEUED task into a run queue and makes that CPU look.
fn enqueue(task: Arc<Task>) {
    let target = place(&task);
    task.cpu.store(target as u32, Relaxed);
    queue(target).ready.push_back(task);
    if let Some(cpu) = cpu::get(target) {
        // Taken: who wakes next finds another idle CPU.
        cpu.idle.store(false, Relaxed);
        cpu.need_resched.store(true, SeqCst);
        if target != cpu::index() {
            gic::send_sgi(target, gic::SGI_RESCHEDULE);
        }
    }
}

/// Where a task that wakes should run.
fn place(task: &Task) -> usize {
    let last = task.cpu.load(Relaxed) as usize;
    // Its registers are still being saved there: only that CPU may resume it.
    if task.on_cpu.load(Acquire) {
        return last;
    }
    let affinity = task.entity.affinity.load(Relaxed);
    let allowed = |index: usize| {
        affinity & 1 << index != 0 && cpu::get(index).is_some_and(|cpu| cpu.online.load(Acquire))
    };
    let idle = |index: usize| cpu::get(index).is_some_and(|cpu| cpu.idle.load(Relaxed));
    if allowed(last) && idle(last) {
        return last;
    }
    let mut fallback = None;
    for index in 0..MAX_CPUS {
        if allowed(index) {
            if idle(index) {
                return index;
            }
            fallback = fallback.or(Some(index));
        }
    }
    if allowed(last) { last } else { fallback.unwrap_or(0) }
}

/// Suspends the current task until [`wake`]; returns at once if a wake-up came
/// since the last park. Wake-ups may be spurious. No lock may be held.
pub fn park() {
    let task = current();
    if task.woken.swap(false, SeqCst) {
        return;
    }
    task.state.store(state::BLOCKED, SeqCst);
    if task.woken.swap(false, SeqCst)
        && task.state.compare_exchange(state::BLOCKED, state::RUNNING, SeqCst, SeqCst).is_ok()
    {
        return;
    }
    drop(task);
    schedule();
    // A swap, not a store: what the waker did before is seen after.
    current().woken.swap(false, SeqCst);
}

/// Suspends the current task until woken or until `deadline` (CLOCK_MONOTONIC
/// nanoseconds). Whether the deadline has passed.
pub fn park_until(deadline: Option<Nanos>) -> bool {
    let Some(deadline) = deadline else {
        park();
        return false;
    };
    if time::now() >= deadline {
        return true;
    }
    let waker = Waker::from(current());
    let timer = timer::arm(deadline, waker);
    park();
    timer::cancel(timer);
    time::now() >= deadline
}

/// Lets others run, if there are any.
pub fn yield_now() {
    schedule();
}

/// The current task is over.
pub fn exit() -> ! {
    {
        let task = current();
        task.state.store(state::DEAD, SeqCst);
    }
    schedule();
    crate::power::hang()
}

/// Whether the current task should give the CPU up at its next chance.
#[inline]
pub fn need_resched() -> bool {
    cpu::this().need_resched.load(Relaxed)
}

/// A point in long work of the kernel's where interrupts are taken and others
/// get their turn. No lock may be held.
pub fn breathe() {
    arch::irq::window();
    if need_resched() {
        schedule();
    }
}

/// On the way to EL0, when the current task should give the CPU up: it does,
/// unless it has only just got it.
pub fn preempt() {
    if put_off() {
        timer::reprogram();
    } else {
        schedule();
    }
}

/// Whether others can wait for the end of the current task's stretch.
fn put_off() -> bool {
    let index = cpu::index();
    let mut queue = queue(index);
    let Some(entity) = queue.current.as_ref().map(|current| &current.entity) else { return false };
    let may_stay = entity.affinity.load(Relaxed) & 1 << index != 0;
    let young = time::now() < entity.started.load(Relaxed).saturating_add(STRETCH);
    if !may_stay || !young {
        return false;
    }
    queue.urged = true;
    // Under the lock: who comes now sets it again.
    cpu::this().need_resched.store(false, SeqCst);
    true
}

/// Runs the next task; returns when the caller's turn comes again.
pub fn schedule() {
    let index = cpu::index();
    cpu::this().need_resched.store(false, SeqCst);
    let now = time::now();
    let (previous, next) = {
        let mut queue = queue(index);
        let Some(previous) = queue.current.clone() else { return };
        let idle = queue.idle.as_ref().is_some_and(|idle| Arc::ptr_eq(idle, &previous));
        if !idle && previous.state.compare_exchange(state::RUNNING, state::QUEUED, SeqCst, SeqCst).is_ok() {
            if previous.entity.affinity.load(Relaxed) & 1 << index != 0 {
                queue.ready.push_back(previous.clone());
            } else {
                queue.previous_moves = true;
            }
        }
        let Some(next) = queue.ready.pop_front().or_else(|| queue.idle.clone()) else { return };
        next.state.store(state::RUNNING, SeqCst);
        next.entity.started.store(now, Relaxed);
        queue.urged = false;
        if Arc::ptr_eq(&previous, &next) {
            // Others may wait behind it: its slice has to end.
            drop(queue);
            timer::reprogram();
            return;
        }
        next.on_cpu.store(true, SeqCst);
        next.cpu.store(index as u32, Relaxed);
        cpu::this().current.store(Arc::as_ptr(&next).cast_mut(), Relaxed);
        queue.current = Some(next.clone());
        queue.previous = Some(previous.clone());
        (previous, next)
    };
    let ran = now.saturating_sub(previous.entity.started.load(Relaxed));
    previous.runtime.fetch_add(ran, Relaxed);
    if !previous.stack_is_whole() {
        crate::panic::fatal(format_args!("task {}: its kernel stack overflowed", previous.id));
    }
    leave(&previous);
    let (from, to) = (previous.context(), next.context());
    // The run queue holds references to both: `previous` until `finish`, which
    // runs after the switch; ours would not be dropped if it never returned.
    drop((previous, next));
    // SAFETY: `next` was taken from the run queue by us alone, its registers
    // were saved (on_cpu was clear or it last ran here), its stack is its own;
    // both tasks live, see above.
    unsafe { arch::switch::switch_to(from, to) };
    finish();
}

/// What the task that leaves the CPU takes with it.
fn leave(task: &Task) {
    task.fp.save();
    task.tpidr_el0.store(arch::sysreg::tpidr_el0(), Relaxed);
    crate::vcpu::leave(task);
}

/// The other side of a switch, on the stack of the task that now runs; a new
/// task's first act.
pub fn finish() {
    let (task, previous, moves) = {
        let mut queue = queue(cpu::index());
        let moves = core::mem::take(&mut queue.previous_moves);
        (queue.current.clone(), queue.previous.take(), moves)
    };
    if let Some(task) = task {
        arch::sysreg::set_tpidr_el0(task.tpidr_el0.load(Relaxed));
        crate::process::enter(&task);
        timer::reprogram();
    }
    if let Some(previous) = previous {
        // Its registers are all in memory: others may resume it.
        previous.on_cpu.store(false, Release);
        if moves {
            enqueue(previous);
        }
    }
}

/// When the current task's slice ends, if anybody else waits for this CPU and
/// the end isn't decided already.
pub fn slice_end() -> Option<Nanos> {
    if need_resched() {
        return None;
    }
    let queue = queue(cpu::index());
    let current = queue.current.as_ref()?;
    let slice = if queue.urged { STRETCH } else { SLICE };
    (!queue.ready.is_empty()).then(|| current.entity.started.load(Relaxed).saturating_add(slice))
}

/// The timer went off: if the slice is over, somebody else's turn.
pub fn tick(now: Nanos) {
    if slice_end().is_some_and(|end| now >= end) {
        cpu::this().need_resched.store(true, SeqCst);
    }
}

/// The affinity of `task` has changed: see that it runs where it may.
pub fn affinity_changed(task: &Arc<Task>) {
    let at = task.cpu.load(Relaxed) as usize;
    if task.entity.affinity.load(Relaxed) & 1 << at != 0 {
        return;
    }
    let waiting = {
        let mut queue = queue(at);
        let found = queue.ready.iter().position(|other| Arc::ptr_eq(other, task));
        found.and_then(|found| queue.ready.remove(found))
    };
    match waiting {
        Some(task) => enqueue(task),
        None => {
            if let Some(cpu) = cpu::get(at) {
                cpu.need_resched.store(true, SeqCst);
                if at == cpu::index() {
                    return;
                }
                gic::send_sgi(at, gic::SGI_RESCHEDULE);
            }
        }
    }
}

/// Takes a task that waits for another CPU.
fn steal() -> Option<Arc<Task>> {
    let me = cpu::index();
    for other in (0..MAX_CPUS).filter(|&other| other != me) {
        if !cpu::get(other).is_some_and(|cpu| cpu.online.load(Acquire)) {
            continue;
        }
        let mut queue = queue(other);
        let found = queue.ready.iter().position(|task| {
            !task.on_cpu.load(Acquire) && task.entity.affinity.load(Relaxed) & 1 << me != 0
        });
        if let Some(task) = found.and_then(|at| queue.ready.remove(at)) {
            return Some(task);
        }
    }
    None
}

/// The idle task of this CPU.
pub fn idle() -> ! {
    loop {
        if let Some(task) = steal() {
            task.cpu.store(cpu::index() as u32, Relaxed);
            queue(cpu::index()).ready.push_back(task);
            cpu::this().need_resched.store(true, SeqCst);
        }
        let this = cpu::this();
        this.idle.store(true, SeqCst);
        if !need_resched() {
            timer::reprogram();
            arch::irq::wait_for_interrupt();
        }
        this.idle.store(false, SeqCst);
        if need_resched() {
            schedule();
        }
    }
}

/// How long a CPU has been idle.
pub fn idle_time(cpu: usize) -> Nanos {
    let queue = queue(cpu);
    let (Some(idle), Some(current)) = (&queue.idle, &queue.current) else { return 0 };
    let before = idle.runtime.load(Relaxed);
    if !Arc::ptr_eq(idle, current) {
        return before;
    }
    before.saturating_add(time::now().saturating_sub(idle.entity.started.load(Relaxed)))
}

/// How many tasks are running or want to, for /proc/loadavg and /proc/stat.
pub fn runnable() -> usize {
    cpu::online()
        .map(|cpu| {
            let queue = queue(cpu.index.load(Relaxed) as usize);
            let running = match (&queue.current, &queue.idle) {
                (Some(current), Some(idle)) => usize::from(!Arc::ptr_eq(current, idle)),
                _ => 0,
            };
            queue.ready.len().saturating_add(running)
        })
        .sum()
}
