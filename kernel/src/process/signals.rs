//! Sending signals, and delivering them on the way to EL0.

use super::{Fault, FaultKind, Process, Thread, exit, table};
use crate::task::Task;
use crate::user::CurrentUser;
use crate::{cpu, el0, gic, sched, task};
use alloc::boxed::Box;
use alloc::sync::Arc;
use arch::trap::TrapFrame;
use base::{Errno, Result, UserMem, WaitQueue, room};
use core::sync::atomic::Ordering::*;
use credentials::resource;
use signal::{
    Actions, Context, Delivery, Flags, FpState, Handler, Pending, Resume, SigInfo, SigSet, Signal,
    ThreadSignals, code,
};

use super::credentials;

/// Woken when any signal is sent: signalfds, which show whoever reads his own.
pub static ARRIVALS: WaitQueue = WaitQueue::new();

/// The signals that threads of a process share.
#[derive(Default)]
pub struct ProcessSignals {
    pub(super) pending: Pending,
    /// Too large for structures that are moved about on small stacks.
    pub(super) actions: Box<Actions>,
    /// All threads are to stand still.
    pub(super) stopped: Option<Stop>,
    /// How many of them do.
    pub(super) standing: usize,
    /// A stop is over by SIGCONT, and no wait() has heard.
    pub(super) continued: bool,
    /// A thread took a stop signal and is about to stop the process: SIGCONT
    /// and SIGKILL call it off.
    pub(super) stopping: bool,
    /// All threads are to end, with this wait status.
    pub(super) exiting: Option<i32>,
    /// All other threads are to end: this one calls execve().
    pub(super) exec: Option<u32>,
    /// It is init and dies of its own faults only.
    pub(super) unkillable: bool,
}

/// A stop of the whole process.
#[derive(Clone, Copy)]
pub(super) struct Stop {
    /// By which signal.
    signal: Signal,
    /// All threads stand still.
    complete: bool,
    /// A wait() has told of it.
    heard: bool,
}

/// What a parent may hear of a child that lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It stopped by this signal.
    Stopped(Signal),
    /// It goes on.
    Continued,
}

impl ProcessSignals {
    /// All threads are to end, with `status` unless one was given before.
    pub(super) fn begin_exit(&mut self, status: i32) {
        self.exiting.get_or_insert(status);
        self.forget_stop();
    }

    /// Who ends isn't stopped any more, and neither was it continued.
    fn forget_stop(&mut self) {
        (self.stopping, self.stopped, self.continued) = (false, None, false);
    }

    /// What no wait() has heard yet, of what is asked for; `leave`: it is to be
    /// heard again.
    pub(super) fn news(&mut self, stopped: bool, continued: bool, leave: bool) -> Option<News> {
        if let Some(stop) = self.stopped.as_mut().filter(|stop| stopped && stop.complete && !stop.heard) {
            stop.heard = !leave;
            return Some(News::Stopped(stop.signal));
        }
        let news = (self.continued && continued).then_some(News::Continued);
        self.continued &= news.is_none() || leave;
        news
    }
}

/// Whether the current thread has something to do before it returns to EL0:
/// signals, exit, stop. On the path of every return: a load or two.
#[inline]
pub fn has_work() -> bool {
    sched::current_ref().thread.get().is_some_and(|thread| thread.attention.load(Relaxed))
}

/// Whether a call that sleeps should return to EL0, with `EINTR` or to be
/// restarted.
pub fn signal_pending() -> bool {
    let task = sched::current_ref();
    let Some(thread) = task.thread.get() else { return false };
    thread.attention.load(Acquire) && {
        let process = thread.process.signals.lock();
        let signals = thread.signals.lock();
        process.exiting.is_some()
            || process.exec.is_some_and(|tid| tid != thread.tid())
            || process.stopped.is_some()
            || signals.has_work(process.pending.set())
    }
}

/// Whether the current thread is to die: what even calls that signals don't
/// interrupt must not wait any longer for.
pub fn kill_pending() -> bool {
    let task = sched::current_ref();
    let Some(thread) = task.thread.get() else { return false };
    thread.attention.load(Acquire) && {
        let process = thread.process.signals.lock();
        let signals = thread.signals.lock();
        let pending = process.pending.set().with(signals.pending.set());
        process.exiting.is_some()
            || process.exec.is_some_and(|tid| tid != thread.tid())
            || pending.contains(Signal::SIGKILL)
    }
}

/// Makes a thread look at what there is to do, wherever it is.
pub(super) fn alert(task: &Arc<Task>) {
    if let Some(thread) = task.thread.get() {
        thread.attention.store(true, SeqCst);
    }
    // Who isn't running now looks when it is.
    let running = task.state.load(SeqCst) == task::state::RUNNING;
    sched::wake(task);
    // In EL0 or in a guest on another CPU, it has to come to the kernel.
    let cpu = task.cpu.load(Relaxed) as usize;
    if running && cpu != cpu::index() {
        gic::send_sgi(cpu, gic::SGI_RESCHEDULE);
    }
}

/// Sends a signal to a process: any of its threads may take it.
pub fn send(process: &Arc<Process>, info: SigInfo) -> Result<()> {
    send_to(process, None, info)?;
    ARRIVALS.wake_all();
    Ok(())
}

/// Sends a signal to one thread.
pub fn send_thread(task: &Arc<Task>, info: SigInfo) -> Result<()> {
    let thread = task.thread.get().ok_or(Errno::ESRCH)?;
    send_to(&thread.process, Some(task), info)?;
    ARRIVALS.wake_all();
    Ok(())
}

/// Who is to look at what there is to do.
enum Alerted<'a> {
    Nobody,
    One(&'a Arc<Task>),
    All,
}

/// [`alert`]s all threads of a process. In place: a copy of the list might find
/// no memory.
pub(super) fn alert_all(process: &Process) {
    process.threads.lock().iter().for_each(alert);
}

/// All but waking the signalfds: who sends many signals does that once.
fn send_to(process: &Arc<Process>, target: Option<&Arc<Task>>, info: SigInfo) -> Result<()> {
    let signal = info.signal();
    let limit = process.limit(resource::SIGPENDING).min(65536) as usize;
    let mut continued = false;
    {
        // Held until somebody is told: who leaves the process meanwhile finds
        // the signal pending, and passes it on.
        let threads = process.threads.lock();
        let mut alerted = Alerted::Nobody;
        let mut shared = process.signals.lock();
        let cancelled = SigSet::cancelled_by(signal);
        if !cancelled.is_empty() {
            shared.pending.flush(cancelled);
            for thread in threads.iter().filter_map(|task| task.thread.get()) {
                thread.signals.lock().pending.flush(cancelled);
            }
        }
        if signal == Signal::SIGKILL {
            shared.forget_stop();
        }
        if signal == Signal::SIGCONT {
            shared.stopping = false;
            if shared.stopped.take().is_some() {
                (shared.continued, continued) = (true, true);
            }
        }
        // The one who is asked whether the signal matters.
        let first = target.or(threads.first());
        let blocked = first
            .and_then(|task| task.thread.get())
            .map_or(SigSet::EMPTY, |thread| thread.signals.lock().blocked());
        if !shared.actions.ignores(signal, blocked, shared.unkillable) {
            match target.and_then(|task| Some((task, task.thread.get()?))) {
                Some((task, thread)) => {
                    let mut own = thread.signals.lock();
                    own.send(info, limit)?;
                    if own.wants(signal) {
                        alerted = Alerted::One(task);
                    }
                }
                None => {
                    shared.pending.send(info, limit)?;
                    let wants = |task: &&Arc<Task>| {
                        task.thread.get().is_some_and(|thread| thread.signals.lock().wants(signal))
                    };
                    alerted = match threads.iter().find(wants) {
                        _ if signal == Signal::SIGKILL => Alerted::All,
                        Some(task) => Alerted::One(task),
                        None => Alerted::Nobody,
                    };
                }
            }
        }
        drop(shared);
        match alerted {
            Alerted::One(task) if !continued => alert(task),
            Alerted::Nobody if !continued => {}
            _ => threads.iter().for_each(alert),
        }
    }
    if continued {
        tell_parent(process, News::Continued);
    }
    // Those who wait for it with it blocked.
    process.signal_arrived.wake_all();
    Ok(())
}

/// A thread that may have been told to take signals of `which` does so no more:
/// it has left the process, or blocks them now. Others are told of those that
/// are pending for the process.
pub(super) fn pass_on(process: &Process, which: SigSet) {
    let mut left = {
        let shared = process.signals.lock();
        // All are being told to end.
        if shared.exiting.is_some() { SigSet::EMPTY } else { shared.pending.set().and(which) }
    };
    if left.is_empty() {
        return;
    }
    for task in process.threads.lock().iter() {
        let Some(thread) = task.thread.get() else { continue };
        let blocked = thread.signals.lock().blocked();
        if !left.without(blocked).is_empty() {
            left = left.and(blocked);
            alert(task);
        }
    }
}

/// Sends a signal to all of a process group; `ESRCH` if it has no members.
pub fn send_group(group: u32, info: SigInfo) -> Result<()> {
    send_all(|_, member| member == group, info)
}

/// Sends a signal to all processes that `whom`, given ID and group, chooses:
/// `ESRCH` if there are none, and an error only if none got it.
pub fn send_all(whom: impl Fn(u32, u32) -> bool, info: SigInfo) -> Result<()> {
    if info.signal() == Signal::SIGCONT {
        // The parents' news need the table; nobody who goes on is missed by it.
        let chosen = table::with(|table| {
            let mut chosen = room::try_vec(table.living(&whom).count())?;
            chosen.extend(table.living(&whom).cloned());
            Ok::<_, Errno>(chosen)
        })?;
        return first_success(chosen.iter().map(|process| send(process, info)));
    }
    // Under the table's lock: a member that forks meanwhile finds the signal
    // pending, and its child is made after it was handled, or not at all.
    let sent =
        table::with(|table| first_success(table.living(&whom).map(|process| send_to(process, None, info))));
    ARRIVALS.wake_all();
    sent
}

/// Whether [`send_all`] would find anybody.
pub fn probe(whom: impl Fn(u32, u32) -> bool) -> Result<()> {
    let found = table::with(|table| table.living(&whom).next().is_some());
    if found { Ok(()) } else { Err(Errno::ESRCH) }
}

fn first_success(results: impl Iterator<Item = Result<()>>) -> Result<()> {
    let mut all = Err(Errno::ESRCH);
    // To the end: each of them is a signal sent.
    for one in results {
        if all.is_err() {
            all = one;
        }
    }
    all
}

/// Tells the parent that a process stopped or continued.
fn tell_parent(process: &Arc<Process>, news: News) {
    let parent = table::with(|table| {
        let parent = table.entry(process.pid).ok()?.parent;
        table.entry(parent).ok().map(|entry| entry.process.clone())
    });
    let Some(parent) = parent else { return };
    parent.child_changed.wake_all();
    if parent.signals.lock().actions.wants_child_stops() {
        let (code, by) = match news {
            News::Stopped(signal) => (code::CLD_STOPPED, signal),
            News::Continued => (code::CLD_CONTINUED, Signal::SIGCONT),
        };
        let status = i32::from(by.number());
        let time = process.cpu_time();
        let times = (exit::ticks(time.user), exit::ticks(time.system));
        let info = SigInfo::child(Signal::SIGCHLD, code, (process.pid, 0), status, times);
        // Nobody waits for it if the queue is full.
        let _ = send(&parent, info);
    }
}

/// Turns a fault of the current thread into its signal.
pub fn raise(_frame: &mut TrapFrame, fault: &Fault, esr: u64, far: u64) {
    // In the order of the kinds. An illegal instruction's address is its own.
    let (signal, code) = match fault.kind {
        FaultKind::Unmapped => (Signal::SIGSEGV, code::SEGV_MAPERR),
        FaultKind::Denied => (Signal::SIGSEGV, code::SEGV_ACCERR),
        FaultKind::Bus => (Signal::SIGBUS, code::BUS_ADRERR),
        FaultKind::Alignment => (Signal::SIGBUS, code::BUS_ADRALN),
        FaultKind::IllegalInstruction => (Signal::SIGILL, code::ILL_ILLOPC),
        FaultKind::Breakpoint => (Signal::SIGTRAP, code::TRAP_BRKPT),
        FaultKind::Trace => (Signal::SIGTRAP, 2),
        FaultKind::FloatingPoint => (Signal::SIGFPE, code::FPE_FLTINV),
        FaultKind::OutOfMemory => {
            let Ok(process) = super::current() else { return };
            return exit::begin_group_exit(&process, i32::from(Signal::SIGKILL.number()));
        }
    };
    let _ = super::with_thread(|thread| *thread.fault.lock() = (far, esr));
    force(SigInfo::fault(signal, code, fault.address), false);
}

/// Sends the current thread a signal that it can't put off.
pub fn force(info: SigInfo, fatal: bool) {
    let _ = super::with_thread(|thread| {
        let mut shared = thread.process.signals.lock();
        let mut own = thread.signals.lock();
        if signal::force(&mut own, &mut shared.actions, info, fatal) {
            shared.unkillable = false;
        }
        thread.attention.store(true, Release);
    });
}

/// What the current thread does next.
enum Step {
    End,
    Stand,
    Deliver(SigInfo, Delivery),
    Nothing,
}

/// Does what is to be done: may change `frame` (a signal handler's), sleep, or
/// not return.
pub fn work(frame: &mut TrapFrame) {
    loop {
        match step() {
            Step::End => exit::thread(),
            Step::Stand => stand_still(),
            Step::Deliver(info, Delivery::Terminate { core }) => {
                let status = i32::from(info.signal().number()) | if core { 0x80 } else { 0 };
                if let Ok(process) = super::current() {
                    exit::begin_group_exit(&process, status);
                }
            }
            Step::Deliver(info, Delivery::Stop) => stop(info.signal()),
            Step::Deliver(info, Delivery::Handler(action)) => {
                let _ = super::with_thread(|thread| taken(&thread.process, &info));
                resume(frame, Some(action.flags));
                if deliver(frame, &info, &action).is_err() {
                    force(SigInfo::kernel(Signal::SIGSEGV, code::SI_KERNEL), true);
                }
            }
            Step::Nothing => {
                resume(frame, None);
                return;
            }
        }
    }
}

fn step() -> Step {
    let task = sched::current_ref();
    let Some(thread) = task.thread.get() else { return Step::Nothing };
    // Cleared before the last look: who sends later sets it again.
    thread.attention.store(false, SeqCst);
    let mut guard = thread.process.signals.lock();
    let shared = &mut *guard;
    if shared.exiting.is_some() || shared.exec.is_some_and(|tid| tid != thread.tid()) {
        return Step::End;
    }
    let mut own = thread.signals.lock();
    let killed = shared.pending.set().with(own.pending.set()).contains(Signal::SIGKILL);
    if shared.stopped.is_some() && !killed {
        return Step::Stand;
    }
    let unkillable = shared.unkillable;
    match signal::next_action(&mut own, &mut shared.pending, &mut shared.actions, unkillable) {
        Some((info, delivery)) => {
            if matches!(delivery, Delivery::Stop) {
                shared.stopping = true;
            }
            Step::Deliver(info, delivery)
        }
        None => {
            drop((own, guard));
            // The mask from before may let others through.
            thread.with_signals(ThreadSignals::restore_blocked);
            Step::Nothing
        }
    }
}

/// A signal left the pending ones to be handled.
fn taken(process: &Arc<Process>, info: &SigInfo) {
    if info.signal() == Signal::SIGALRM {
        crate::syscall::time::alarm_taken(process);
    }
}

/// Decides what becomes of an interrupted system call.
fn resume(frame: &mut TrapFrame, handler: Option<Flags>) {
    let restart = super::with_thread(|thread| thread.restart.lock().take()).ok().flatten();
    let was_call = frame.syscall >= 0;
    frame.syscall = -1;
    let Some(restart) = restart.filter(|_| was_call) else { return };
    let resume = restart.resume(handler);
    let [x0, _, _, _, _, _, _, _, x8, ..] = &mut frame.x;
    match resume {
        Resume::Interrupted => *x0 = Errno::EINTR.to_ret() as u64,
        Resume::Again | Resume::RestartSyscall => {
            *x0 = frame.orig_x0;
            frame.pc = frame.pc.wrapping_sub(4);
            if resume == Resume::RestartSyscall {
                *x8 = syscalls::nr::RESTART_SYSCALL;
            }
        }
    }
}

/// Stops the process: this thread and all others.
fn stop(signal: Signal) {
    let Ok(process) = super::current() else { return };
    if signal != Signal::SIGSTOP {
        let group = table::group_and_session(process.pid).map_or(0, |(group, _)| group);
        if table::is_orphaned(group) {
            return;
        }
    }
    {
        let mut signals = process.signals.lock();
        if !core::mem::take(&mut signals.stopping) {
            return;
        }
        signals.stopped.get_or_insert(Stop { signal, complete: false, heard: false });
    }
    // The last of them to stand still tells the parent.
    alert_all(&process);
}

/// One more thread stands still, or is gone: the process has stopped if it was
/// the last to run.
pub(super) fn settle_stop(process: &Arc<Process>) {
    let stopped = {
        let threads = process.threads.lock();
        let mut signals = process.signals.lock();
        let all = signals.standing >= threads.len() && signals.exiting.is_none();
        let begun = signals.stopped.filter(|stop| all && !stop.complete);
        begun.map(|stop| {
            signals.stopped = Some(Stop { complete: true, ..stop });
            signals.continued = false;
            stop.signal
        })
    };
    if let Some(signal) = stopped {
        tell_parent(process, News::Stopped(signal));
    }
}

/// Waits for SIGCONT or the end.
fn stand_still() {
    let Ok(process) = super::current() else { return };
    let count = |add: isize| {
        let mut signals = process.signals.lock();
        signals.standing = signals.standing.saturating_add_signed(add);
    };
    count(1);
    settle_stop(&process);
    while super::with_thread(must_stand) == Ok(true) {
        sched::park();
    }
    // Stopped again meanwhile, it comes back before it gets to EL0.
    count(-1);
    // There may be more to do than when it stopped.
    let _ = super::with_thread(|thread| thread.attention.store(true, SeqCst));
}

fn must_stand(thread: &Thread) -> bool {
    let shared = thread.process.signals.lock();
    let own = thread.signals.lock();
    let killed = shared.pending.set().with(own.pending.set()).contains(Signal::SIGKILL);
    let ends = shared.exiting.is_some() || shared.exec.is_some_and(|tid| tid != thread.tid());
    shared.stopped.is_some() && !ends && !killed
}

/// The FP/SIMD registers as a frame has them.
fn fp_of(task: &Task) -> FpState {
    let state = task.fp.read();
    FpState { v: state.v, fpsr: state.fpsr as u32, fpcr: state.fpcr as u32 }
}

/// Builds a handler's frame and points `frame` at the handler.
fn deliver(frame: &mut TrapFrame, info: &SigInfo, action: &signal::Action) -> Result<()> {
    let Handler::Function(handler) = action.handler else { return Ok(()) };
    let task = sched::current();
    let thread = task.thread.get().ok_or(Errno::ESRCH)?;
    let mm = thread.process.mm()?;
    let on_stack = action.flags.contains(Flags::ONSTACK);
    let (top, context) = {
        let mut own = thread.signals.lock();
        let top = own.altstack.frame_top(frame.sp, on_stack);
        let context = Context {
            x: frame.x,
            sp: frame.sp,
            pc: frame.pc,
            pstate: frame.pstate,
            fp: fp_of(&task),
            mask: own.mask_to_save(),
            stack: own.altstack.save(),
        };
        (top, context)
    };
    let synchronous = SigSet::SYNCHRONOUS.contains(info.signal()) && !info.is_from_user();
    let fault = synchronous.then(|| *thread.fault.lock());
    let entry = signal::build_frame(top, &context, info, fault)?;
    CurrentUser.write(entry.sp, &entry.bytes)?;

    let [x0, x1, x2, .., x29, x30] = &mut frame.x;
    *x0 = u64::from(info.signal().number());
    if action.flags.contains(Flags::SIGINFO) {
        (*x1, *x2) = (entry.info, entry.ucontext);
    }
    *x29 = entry.fp;
    *x30 = match action.flags.contains(Flags::RESTORER) {
        true => action.restorer,
        false => mm.trampoline.load(Relaxed),
    };
    frame.sp = entry.sp;
    frame.pc = handler;
    frame.pstate = signal::handler_pstate(frame.pstate);
    thread.with_signals(|own| own.enter_handler(info.signal(), action));
    Ok(())
}

/// rt_sigreturn(): back to what the handler interrupted. A bad frame is a
/// SIGSEGV.
pub fn sigreturn(frame: &mut TrapFrame) {
    let restored = CurrentUser
        .read_frame(frame.sp)
        .and_then(|bytes| signal::parse_frame(&bytes));
    let Ok(context) = restored else {
        return force(SigInfo::kernel(Signal::SIGSEGV, code::SI_KERNEL), false);
    };
    let task = sched::current();
    let fp = arch::fp::FpState {
        v: context.fp.v,
        fpsr: u64::from(context.fp.fpsr),
        fpcr: u64::from(context.fp.fpcr),
    };
    task.fp.write(&fp);
    frame.x = context.x;
    frame.sp = context.sp;
    frame.pc = context.pc;
    frame.pstate = el0::pstate(context.pstate);
    // Not a system call any more: there is nothing to restart.
    frame.syscall = -1;
    if let Some(thread) = task.thread.get() {
        *thread.restart.lock() = None;
        thread.with_signals(|own| {
            own.set_blocked(context.mask);
            // As on Linux, a stack that isn't valid any more is left alone.
            let _ = own.altstack.set(context.stack, context.sp);
        });
    }
}

trait ReadFrame {
    fn read_frame(&self, addr: u64) -> Result<alloc::vec::Vec<u8>>;
}

impl ReadFrame for CurrentUser {
    fn read_frame(&self, addr: u64) -> Result<alloc::vec::Vec<u8>> {
        if !addr.is_multiple_of(16) {
            return Err(Errno::EFAULT);
        }
        base::UserMemExt::read_vec(self, addr, signal::FRAME_SIZE)
    }
}

/// The system-call side: what the calls change.
impl Process {
    /// rt_sigaction(): the old action.
    pub fn set_action(&self, signal: Signal, new: Option<signal::Action>) -> Result<signal::Action> {
        let threads = self.threads.lock();
        let mut shared = self.signals.lock();
        let old = shared.actions.get(signal);
        if let Some(new) = new {
            let ignored = shared.actions.set(signal, new)?;
            if !ignored.is_empty() {
                shared.pending.flush(ignored);
                for thread in threads.iter().filter_map(|task| task.thread.get()) {
                    thread.signals.lock().pending.flush(ignored);
                }
            }
        }
        Ok(old)
    }

    /// Signals pending for the whole process, ignored ones, caught ones: for
    /// /proc/PID/status.
    pub fn signal_sets(&self) -> (SigSet, SigSet, SigSet) {
        let shared = self.signals.lock();
        let (ignored, caught) = shared.actions.ignored_and_caught();
        (shared.pending.set(), ignored, caught)
    }

    /// Whether it is stopped.
    pub fn is_stopped(&self) -> bool {
        self.signals.lock().stopped.is_some_and(|stop| stop.complete)
    }

    /// Whether the current thread of a terminal's background group may be
    /// stopped by `signal`: it neither blocks nor ignores it.
    pub fn would_stop(&self, signal: Signal) -> bool {
        let ignored = self.signals.lock().actions.get(signal).handler == Handler::Ignore;
        let blocked = super::with_thread(|thread| !thread.signals.lock().wants(signal));
        !ignored && blocked != Ok(true)
    }
}

impl Thread {
    /// Works on the thread's signals. If that changes the mask, there may be
    /// something to deliver, or something that others have to take now.
    pub fn with_signals<R>(&self, f: impl FnOnce(&mut ThreadSignals) -> R) -> R {
        let (result, newly_blocked) = {
            let mut own = self.signals.lock();
            let before = own.blocked();
            let result = f(&mut own);
            (result, own.blocked().without(before))
        };
        if !newly_blocked.is_empty() {
            pass_on(&self.process, newly_blocked);
        }
        let shared = self.process.signals.lock();
        let own = self.signals.lock();
        if own.has_work(shared.pending.set()) {
            self.attention.store(true, SeqCst);
        }
        result
    }

    /// Takes a pending signal of `wanted`, the thread's own first.
    pub fn take_signal(&self, wanted: SigSet) -> Option<SigInfo> {
        let info = {
            let mut shared = self.process.signals.lock();
            let mut own = self.signals.lock();
            own.pending.take_any(wanted).or_else(|| shared.pending.take_any(wanted))
        }?;
        taken(&self.process, &info);
        Some(info)
    }

    /// All signals pending for it.
    pub fn pending(&self) -> SigSet {
        let shared = self.process.signals.lock();
        let own = self.signals.lock();
        shared.pending.set().with(own.pending.set())
    }
}
