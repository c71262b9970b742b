//! The scheduler's mechanism: run queues, wake-ups, switching. Which task is
//! next is `crates/sched`'s to say.
//!
//! The kernel is not preempted: a task runs in the kernel until it parks,
//! yields or returns to EL0 (or a guest), where `need_resched` is honoured.
//!
//! A task that parks while nobody else wants its CPU stays where it is, in
//! WFI, with its address space, FP registers and vCPU left in the hardware; to
//! wake it is a flag and, from another CPU, an interrupt.
#![expect(unsafe_code, reason = "the switch itself")]

use crate::panic::fatal;
use crate::task::{Task, state};
use crate::{cpu, gic, stack, time, timer, trap};
use ::sched::{Enqueue, Entity, Schedulable};
use alloc::sync::Arc;
use alloc::vec::Vec;
use base::census::Kind;
use base::{Lock, LockGuard, Nanos, rank};
use core::ops::Deref;
use core::sync::atomic::{AtomicU64, Ordering::*};
use core::task::Waker;
use cpu::MAX_CPUS;

impl Schedulable for Task {
    fn entity(&self) -> &Entity {
        &self.entity
    }
}

/// One CPU's tasks.
struct RunQueue {
    tasks: ::sched::RunQueue<Arc<Task>>,
    idle: Option<Arc<Task>>,
    /// The task the last switch came from: its registers are saved now.
    previous: Option<Arc<Task>>,
    /// Runnable, but not here: they go elsewhere after the switch.
    strays: Vec<Arc<Task>>,
}

static QUEUES: [Lock<RunQueue>; MAX_CPUS] = [const {
    Lock::new(
        rank::RUN_QUEUE,
        RunQueue {
            tasks: ::sched::RunQueue::new(),
            idle: None,
            previous: None,
            strays: Vec::new(),
        },
    )
}; MAX_CPUS];

/// CPUs that run tasks, a bit each.
static ONLINE: AtomicU64 = AtomicU64::new(0);
/// CPUs that have nothing to do.
static IDLE: AtomicU64 = AtomicU64::new(0);
/// CPUs that do their own tasks' work alone: an exclusive VM's.
static RESERVED: AtomicU64 = AtomicU64::new(0);
/// CPUs that tasks wait for. Changed under the queue's lock.
static WANTED: AtomicU64 = AtomicU64::new(0);

const _: () = assert!(MAX_CPUS <= 64);

fn bit(cpu: usize) -> u64 {
    1 << (cpu & 63)
}

fn queue(cpu: usize) -> LockGuard<'static, RunQueue> {
    // An index past the end can't be: it comes from a running CPU.
    QUEUES.get(cpu).unwrap_or(&QUEUES[0]).lock()
}

impl RunQueue {
    /// Keeps [`WANTED`] true, after the queue has changed.
    fn note(&self, cpu: usize) {
        let wanted = self.tasks.waiting() != 0;
        if wanted != (WANTED.load(Relaxed) & bit(cpu) != 0) {
            if wanted {
                WANTED.fetch_or(bit(cpu), SeqCst);
            } else {
                WANTED.fetch_and(!bit(cpu), SeqCst);
            }
        }
    }
}

/// Gives CPU `cpu`, before it runs tasks, the task that it is until then and
/// whenever it has nothing to do.
pub fn prepare(cpu: usize, idle: Arc<Task>) -> base::Result<()> {
    let mut queue = queue(cpu);
    if !queue.tasks.make_room(room()) {
        return Err(base::Errno::ENOMEM);
    }
    queue.idle = Some(idle);
    Ok(())
}

/// Makes the flow that brought this CPU up its idle task, which [`prepare`] got,
/// and the CPU one that runs tasks.
pub fn adopt() {
    let Some(idle) = queue(cpu::index()).idle.clone() else {
        fatal(format_args!("CPU{}: no idle task", cpu::index()));
    };
    idle.state.store(state::RUNNING, Relaxed);
    idle.on_cpu.store(true, Relaxed);
    idle.cpu.store(cpu::index() as u32, Relaxed);
    let this = cpu::this();
    this.current.store(Arc::as_ptr(&idle).cast_mut(), Relaxed);
    this.online.store(true, Release);
    ONLINE.fetch_or(bit(cpu::index()), SeqCst);
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

/// The current task's number, for the last words: 0 if there is none, too.
pub fn current_id() -> u32 {
    let current = cpu::this().current.load(Relaxed);
    if current.is_null() { 0 } else { Current(current).id }
}

/// The current task.
pub fn current() -> Arc<Task> {
    current_ref().arc()
}

/// What another CPU runs, unless its run queue is locked.
pub fn try_current_of(cpu: usize) -> Option<Arc<Task>> {
    let queue = QUEUES.get(cpu)?.try_lock()?;
    queue.tasks.current().or(queue.idle.as_ref()).cloned()
}

/// From now on these CPUs, a bit each, are neither told that tasks wait elsewhere nor tidy up
/// after others.
pub fn reserve(cpus: u64) {
    RESERVED.fetch_or(cpus, SeqCst);
}

fn is_reserved(cpu: usize) -> bool {
    RESERVED.load(Relaxed) & bit(cpu) != 0
}

/// Room in all queues for all tasks, the one that is being made and counted
/// already among them: to wake one can't fail.
pub fn make_room() -> base::Result<()> {
    let fits =
        cpu::online().all(|cpu| queue(cpu.index.load(Relaxed) as usize).tasks.make_room(room()));
    if fits { Ok(()) } else { Err(base::Errno::ENOMEM) }
}

/// For how many tasks a queue has room.
fn room() -> usize {
    (Kind::Task.alive() as usize).max(256)
}

/// Lets a new task run.
pub fn start(task: &Arc<Task>) {
    // A signal may have woken it first.
    if task.state.compare_exchange(state::BLOCKED, state::QUEUED, SeqCst, SeqCst).is_ok() {
        enqueue(task.clone(), Enqueue::New);
    }
}

/// Ends `task`'s park, now or the next one.
pub fn wake(task: &Arc<Task>) {
    let again = task.woken.swap(true, SeqCst);
    match task.state.compare_exchange(state::BLOCKED, state::QUEUED, SeqCst, SeqCst) {
        Ok(_) => enqueue(task.clone(), Enqueue::Wake),
        // Who woke it first tells it.
        Err(state::WAITING) if !again => {
            let at = task.cpu.load(Relaxed) as usize;
            IDLE.fetch_and(!bit(at), SeqCst);
            if at != cpu::index() {
                gic::send_sgi(at, gic::SGI_RESCHEDULE);
            }
        }
        Err(_) => {}
    }
}

/// Makes a CPU look whether another task should run there.
fn poke(cpu: usize) {
    if let Some(other) = cpu::get(cpu) {
        other.need_resched.store(true, SeqCst);
        if cpu != cpu::index() {
            gic::send_sgi(cpu, gic::SGI_RESCHEDULE);
        }
    }
}

/// Puts a QUEUED task into a run queue and makes that CPU look.
fn enqueue(task: Arc<Task>, why: Enqueue) {
    let target = place(&task);
    task.cpu.store(target as u32, Relaxed);
    let look = {
        let mut queue = queue(target);
        let now = time::now();
        if queue.tasks.is_current(&task) {
            // It was about to sleep.
            drop(queue.tasks.block(now));
        }
        let before = queue.tasks.next_tick();
        let preempts = queue.tasks.enqueue(task, why, now);
        queue.note(target);
        preempts || queue.tasks.next_tick() != before
    };
    // Taken: who wakes next finds another idle CPU.
    let rested = IDLE.fetch_and(!bit(target), SeqCst) & bit(target) != 0;
    // Who rests in place looks who waits only when it is interrupted, and a
    // real-time task that rests isn't preempted by what has less priority.
    if look || rested {
        poke(target);
    }
    if !rested {
        nudge(target);
    }
}

/// Tells an idle CPU if tasks wait for `busy`. [`rest`] says first that its CPU
/// is idle and then looks who is wanted; whoever made a CPU wanted, or what
/// waits there free to be taken, looks here after that: one sees the other.
fn nudge(busy: usize) {
    let others = ONLINE.load(Relaxed) & !RESERVED.load(Relaxed) & !bit(busy);
    let idle = IDLE.load(SeqCst) & others;
    if idle == 0 || WANTED.load(SeqCst) & bit(busy) == 0 {
        return;
    }
    let other = idle.trailing_zeros() as usize;
    IDLE.fetch_and(!bit(other), SeqCst);
    if other != cpu::index() {
        gic::send_sgi(other, gic::SGI_RESCHEDULE);
    }
}

/// Where a task that wakes should run.
fn place(task: &Task) -> usize {
    let last = task.cpu.load(Relaxed) as usize;
    // Its registers are still being saved there: only that CPU may resume it,
    // or send it on.
    if task.on_cpu.load(Acquire) {
        return last;
    }
    ::sched::place(task.entity.affinity(), last, IDLE.load(SeqCst), ONLINE.load(Relaxed))
}

/// Suspends the current task until [`wake`]; returns at once if a wake-up came
/// since the last park. Wake-ups may be spurious. No lock may be held.
pub fn park() {
    let task = current_ref();
    // A swap, not a store: what the waker did before is seen after.
    if task.woken.swap(false, SeqCst) || wait_here(|| false) {
        return;
    }
    task.state.store(state::BLOCKED, SeqCst);
    if task.woken.swap(false, SeqCst)
        && task.state.compare_exchange(state::BLOCKED, state::RUNNING, SeqCst, SeqCst).is_ok()
    {
        return;
    }
    switch(false);
    task.woken.swap(false, SeqCst);
}

/// Waits for a wake-up, or for `event`, whose causes interrupt this CPU, without
/// leaving the CPU; `false` if others want it. No lock may be held.
pub fn wait_here(event: impl Fn() -> bool) -> bool {
    let index = cpu::index();
    if WANTED.load(SeqCst) & bit(index) != 0 {
        return false;
    }
    let task = current_ref();
    let now = time::now();
    task.entity.pause(now);
    task.state.store(state::WAITING, SeqCst);
    let ended = rest(now, || {
        if task.woken.load(SeqCst) || event() {
            return Some(true);
        }
        (!task.entity.may_run_on(index)).then_some(false)
    });
    task.state.store(state::RUNNING, SeqCst);
    if ended {
        // A swap, not a store: what the waker did before is seen after.
        task.woken.swap(false, SeqCst);
    }
    ended
}

/// Sleeps until `end` says something, or, which is `false`, until a task waits
/// for this CPU.
fn rest(start: Nanos, end: impl Fn() -> Option<bool>) -> bool {
    let this = cpu::this();
    let index = cpu::index();
    this.idle_since.store(start, Relaxed);
    let result = loop {
        if !is_reserved(index) {
            // Before the sleep: no switch may come for long.
            stack::reap();
        }
        IDLE.fetch_or(bit(index), SeqCst);
        if let Some(result) = end() {
            break result;
        }
        let wanted = WANTED.load(SeqCst);
        if wanted & bit(index) != 0 || wanted != 0 && !is_reserved(index) && steal() {
            break false;
        }
        arch::irq::wait();
        trap::interrupts();
    };
    IDLE.fetch_and(!bit(index), SeqCst);
    let now = time::now();
    this.idle_since.store(Nanos::MAX, Relaxed);
    this.idle_time.fetch_add(now.saturating_sub(start), Relaxed);
    current_ref().entity.resume(now);
    result
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
    if WANTED.load(Relaxed) & bit(cpu::index()) != 0 {
        switch(true);
    }
}

/// The current task is over.
pub fn exit() -> ! {
    current_ref().state.store(state::DEAD, SeqCst);
    switch(false);
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
    if arch::irq::is_pending() || cpu::this().taken.load(Relaxed) != cpu::NONE_TAKEN {
        trap::interrupts();
    }
    if need_resched() {
        preempt();
    }
}

/// The current task gives the CPU up, if it is another's turn.
pub fn preempt() {
    let index = cpu::index();
    let go = {
        let mut queue = queue(index);
        // Under the lock: who comes now sets it again.
        cpu::this().need_resched.store(false, SeqCst);
        queue.tasks.tick(time::now()) || !current_ref().entity.may_run_on(index)
    };
    if go {
        switch(false);
    } else {
        timer::reprogram();
    }
}

/// Runs the next task; returns when the caller's turn comes again.
fn switch(yields: bool) {
    let this = cpu::this();
    let index = cpu::index();
    let now = time::now();
    let previous = current();
    let next = {
        let mut guard = queue(index);
        let queue = &mut *guard;
        this.need_resched.store(false, SeqCst);
        let Some(idle) = queue.idle.clone() else { return };
        if !Arc::ptr_eq(&idle, &previous) {
            let runs_on =
                previous.state.compare_exchange(state::RUNNING, state::QUEUED, SeqCst, SeqCst);
            match runs_on {
                Ok(_) if yields => queue.tasks.yield_now(now),
                Ok(_) => {}
                // Who has woken it meanwhile puts it back.
                Err(_) => drop(queue.tasks.block(now)),
            }
        }
        let next = loop {
            match queue.tasks.pick(now) {
                None => break idle,
                Some(next) if next.entity.may_run_on(index) => break next.clone(),
                Some(_) => queue.strays.extend(queue.tasks.block(now)),
            }
        };
        queue.note(index);
        next.state.store(state::RUNNING, SeqCst);
        if Arc::ptr_eq(&previous, &next) {
            let strays = core::mem::take(&mut queue.strays);
            drop(guard);
            // Others may wait behind it: its slice has to end.
            timer::reprogram();
            send_on(strays);
            return;
        }
        next.on_cpu.store(true, SeqCst);
        next.cpu.store(index as u32, Relaxed);
        this.current.store(Arc::as_ptr(&next).cast_mut(), Relaxed);
        queue.previous = Some(previous.clone());
        next
    };
    leave(&previous);
    let (from, to) = (previous.context(), next.context());
    // The run queue holds references to both: `previous` until `finish`, which
    // runs after the switch; ours would not be dropped if it never returned.
    drop((previous, next));
    // The stack may have been mapped by another CPU since.
    arch::barrier::isb();
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
    let (previous, strays) = {
        let mut queue = queue(cpu::index());
        (queue.previous.take(), core::mem::take(&mut queue.strays))
    };
    let task = current_ref();
    arch::sysreg::set_tpidr_el0(task.tpidr_el0.load(Relaxed));
    crate::user_space::enter(&task);
    timer::reprogram();
    if let Some(previous) = previous {
        // Its registers are all in memory: others may resume it.
        previous.on_cpu.store(false, SeqCst);
        nudge(cpu::index());
    }
    if !is_reserved(cpu::index()) {
        stack::reap();
    }
    send_on(strays);
}

/// Tasks that came to a CPU where they may not run any more.
fn send_on(strays: Vec<Arc<Task>>) {
    for stray in strays {
        enqueue(stray, Enqueue::Migrate);
    }
}

/// When the current task's turn ends, if anybody else waits for this CPU and
/// the end isn't decided already.
pub fn slice_end() -> Option<Nanos> {
    let index = cpu::index();
    if WANTED.load(Relaxed) & bit(index) == 0 || need_resched() {
        return None;
    }
    queue(index).tasks.next_tick()
}

/// The timer went off: if the current task's turn is over, somebody else's.
pub fn tick(now: Nanos) {
    if slice_end().is_some_and(|end| now >= end) {
        cpu::this().need_resched.store(true, SeqCst);
    }
}

/// Changes how `task` is scheduled.
pub fn change(task: &Arc<Task>, change: impl FnOnce(&Entity)) {
    let at = task.cpu.load(Relaxed) as usize;
    let look = queue(at).tasks.changed(task, time::now(), change);
    if look {
        poke(at);
    }
}

/// Changes where `task` may run, and sees that it does.
pub fn set_affinity(task: &Arc<Task>, cpus: u64) {
    task.entity.set_affinity(cpus);
    let at = task.cpu.load(Relaxed) as usize;
    if task.entity.may_run_on(at) {
        return;
    }
    let waited = {
        let mut queue = queue(at);
        let waited = queue.tasks.remove(task, time::now());
        queue.note(at);
        waited
    };
    if waited {
        enqueue(task.clone(), Enqueue::Migrate);
    } else {
        poke(at);
    }
}

/// Takes a task that waits for another CPU into this one's queue.
fn steal() -> bool {
    let me = cpu::index();
    let now = time::now();
    let fits =
        |task: &Arc<Task>| !task.on_cpu.load(Acquire) && task.entity.may_run_on(me);
    let mut others = WANTED.load(Relaxed) & !bit(me);
    while others != 0 {
        let other = others.trailing_zeros() as usize;
        others &= others.wrapping_sub(1);
        let found = {
            let mut queue = queue(other);
            let found = queue.tasks.steal(fits, now);
            queue.note(other);
            found
        };
        if let Some(task) = found {
            task.cpu.store(me as u32, Relaxed);
            let mut queue = queue(me);
            queue.tasks.enqueue(task, Enqueue::Migrate, now);
            queue.note(me);
            // Should the current task go on after all, its turn has to end.
            cpu::this().need_resched.store(true, SeqCst);
            return true;
        }
    }
    false
}

/// The idle task of this CPU.
pub fn idle() -> ! {
    loop {
        crate::log::tell();
        rest(time::now(), || None);
        switch(false);
    }
}

/// How long a CPU has been idle.
pub fn idle_time(cpu: usize) -> Nanos {
    let Some(cpu) = cpu::get(cpu) else { return 0 };
    let now = time::now().saturating_sub(cpu.idle_since.load(Relaxed));
    cpu.idle_time.load(Relaxed).saturating_add(now)
}

/// How many tasks are running or want to, for /proc/loadavg and /proc/stat.
pub fn runnable() -> usize {
    let running =
        |task: &Arc<Task>| usize::from(task.state.load(Relaxed) == state::RUNNING);
    cpu::online()
        .map(|cpu| {
            let queue = queue(cpu.index.load(Relaxed) as usize);
            let current = queue.tasks.current().map_or(0, running);
            queue.tasks.waiting().saturating_add(current)
        })
        .sum()
}
