//! Processes and threads of user space.
//!
//! | module | what it does |
//! | --- | --- |
//! | `table` | who there is: IDs, parents, groups, sessions, zombies |
//! | `space` | address spaces, ASIDs |
//! | `signals` | sending, delivering, handlers' frames |
//! | `clone`, `exec`, `exit`, `wait` | the life of a process |
//! | `oom` | who has to go when there is no memory |
//! | `credentials` | users, groups, limits |
//!
//! Locks, in the order they nest: the table (`PROCESS`); a process's parts; its
//! threads; its signals (`SIGNAL`); a thread's signals.

pub mod clone;
pub mod cputime;
pub mod credentials;
pub mod exec;
pub mod exit;
pub mod oom;
pub mod signals;
pub mod space;
pub mod table;
pub mod wait;

use crate::task::Task;
use crate::syscall::Failure;
use crate::wait::Ended;
use crate::{sched, time};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::trap::TrapFrame;
use base::{Errno, Lock, Nanos, Result, WaitQueue, rank, room};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering::*};
use core::task::Waker;
use cputime::CpuTime;
use credentials::{Credentials, Limits};
use elf::StackLayout;
use signal::{Actions, Restart, SigSet, ThreadSignals};
use space::{Mm, MmUser};
use vfs::{Caller, FdTable, FdTableUser, FsContext, Namespace, Place};

pub use signals::{has_work, raise, signal_pending, work};

/// What a memory access wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Load.
    Read,
    /// Store.
    Write,
    /// Instruction fetch.
    Exec,
}

/// Why EL0 can't go on as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Nothing is mapped there: SIGSEGV, SEGV_MAPERR.
    Unmapped,
    /// Mapped without the right: SIGSEGV, SEGV_ACCERR.
    Denied,
    /// Past the end of a file, or an external abort: SIGBUS.
    Bus,
    /// SIGBUS, BUS_ADRALN.
    Alignment,
    /// No memory for the page, and this process is the one that ends.
    OutOfMemory,
    /// SIGILL.
    IllegalInstruction,
    /// SIGTRAP, TRAP_BRKPT.
    Breakpoint,
    /// SIGTRAP, TRAP_TRACE.
    Trace,
    /// SIGFPE.
    FloatingPoint,
}

/// A fault of EL0's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What happened.
    pub kind: FaultKind,
    /// At which address.
    pub address: u64,
}

/// What threads of a process share.
pub struct Process {
    /// Its ID: that of its first thread.
    pub pid: u32,
    parts: Lock<Parts>,
    threads: Lock<Vec<Arc<Task>>>,
    signals: Lock<signals::ProcessSignals>,
    /// Woken when a child changes: wait4() and friends.
    pub child_changed: WaitQueue,
    /// Woken when a thread ends, for execve().
    pub thread_gone: WaitQueue,
    /// Woken when a signal is sent to it or one of its threads:
    /// rt_sigtimedwait().
    pub signal_arrived: WaitQueue,
    /// When it was started, CLOCK_MONOTONIC.
    pub started: Nanos,
    /// CPU time of threads that ended.
    dead_time: Lock<CpuTime>,
    /// ITIMER_REAL.
    pub alarm: Lock<crate::syscall::time::Alarm>,
    personality: AtomicU32,
    /// PR_SET_PDEATHSIG: what it gets when its parent ends; 0: nothing.
    pub parent_death_signal: AtomicU32,
    /// /proc/PID/oom_score_adj.
    pub oom_score_adj: AtomicI32,
    /// It is the one that has to go: see `oom`.
    oom_chosen: AtomicBool,
}

/// What of a process can be replaced: by execve(), unshare() or exit.
struct Parts {
    mm: Option<MmUser>,
    files: Option<FdTableUser>,
    fs: Option<Arc<Lock<FsContext>>>,
    exe: Option<Place>,
    stack: Option<StackLayout>,
    limits: Limits,
    credentials: Credentials,
}

/// The user-space side of a task.
pub struct Thread {
    /// Whose it is.
    pub process: Arc<Process>,
    tid: AtomicU32,
    signals: Lock<ThreadSignals>,
    /// Something is to be done before it returns to EL0.
    attention: AtomicBool,
    /// What becomes of the system call that a signal interrupted.
    restart: Lock<Option<Restart>>,
    /// Which call restart_syscall() goes on with, and until when.
    resume: Lock<Option<Resumable>>,
    deadline: Lock<Option<Nanos>>,
    /// set_tid_address().
    pub clear_child_tid: AtomicU64,
    /// PR_SET_NO_NEW_PRIVS: it stays, here and in children.
    pub no_new_privs: AtomicBool,
    /// set_robust_list().
    pub robust_list: AtomicU64,
    comm: Lock<[u8; 16]>,
    /// FAR_EL1 and ESR_EL1 of its last fault.
    fault: Lock<(u64, u64)>,
    /// It has left the table of threads, or won't come there. Under its lock.
    is_over: AtomicBool,
    /// A parent in vfork() that waits for it.
    vfork: Lock<Option<Arc<clone::Vfork>>>,
    started: Nanos,
}

/// A call that restart_syscall() goes on with.
#[derive(Clone, Copy)]
struct Resumable {
    number: u64,
    args: [u64; 6],
    deadline: Nanos,
}

/// Lock ranks within a process, between the table's and that of signals.
const PARTS: u8 = rank::PROCESS + 1;
const THREADS: u8 = rank::PROCESS + 2;
/// A thread's signals nest in those of its process.
const THREAD_SIGNALS: u8 = rank::SIGNAL + 1;
/// Leaves: nothing is locked under them.
const LEAF: u8 = rank::SIGNAL + 2;

impl Process {
    fn new(pid: u32, parts: Parts, actions: Box<Actions>) -> Process {
        let signals = signals::ProcessSignals { actions, ..signals::ProcessSignals::default() };
        Process {
            pid,
            parts: Lock::new(PARTS, parts),
            threads: Lock::new(THREADS, Vec::new()),
            signals: Lock::new(rank::SIGNAL, signals),
            child_changed: WaitQueue::new(),
            thread_gone: WaitQueue::new(),
            signal_arrived: WaitQueue::new(),
            started: time::now(),
            dead_time: Lock::new(LEAF, CpuTime::default()),
            alarm: Lock::new(LEAF, crate::syscall::time::Alarm::default()),
            personality: AtomicU32::new(0),
            parent_death_signal: AtomicU32::new(0),
            oom_score_adj: AtomicI32::new(0),
            oom_chosen: AtomicBool::new(false),
        }
    }

    /// Its address space; `ESRCH` once it has ended.
    pub fn mm(&self) -> Result<Arc<Mm>> {
        self.parts.lock().mm.as_ref().map(|user| user.mm().clone()).ok_or(Errno::ESRCH)
    }

    /// Its descriptors; `ESRCH` once it has ended.
    pub fn files(&self) -> Result<Arc<FdTable>> {
        self.parts.lock().files.as_ref().map(|user| user.table().clone()).ok_or(Errno::ESRCH)
    }

    /// Descriptors of its own, if it shares them with another process.
    pub fn unshare_files(&self) -> Result<()> {
        let shared = self.parts.lock().files.as_ref().is_some_and(FdTableUser::is_shared);
        if shared {
            let own = FdTableUser::new(room::try_arc(self.files()?.duplicate()?)?);
            let old = self.parts.lock().files.replace(own);
            // Not under the lock: the others may have gone meanwhile.
            drop(old);
        }
        Ok(())
    }

    /// Its root, working directory and umask; `ESRCH` once it has ended.
    pub fn fs(&self) -> Result<Arc<Lock<FsContext>>> {
        self.parts.lock().fs.clone().ok_or(Errno::ESRCH)
    }

    /// The program it runs: /proc/PID/exe.
    pub fn exe(&self) -> Option<Place> {
        self.parts.lock().exe.clone()
    }

    /// Where its arguments and environment are: /proc/PID/cmdline, environ.
    pub fn stack_layout(&self) -> Option<StackLayout> {
        self.parts.lock().stack
    }

    /// Resource limits.
    pub fn limits(&self) -> Limits {
        self.parts.lock().limits
    }

    /// The soft limit of one resource.
    pub fn limit(&self, resource: usize) -> u64 {
        self.parts.lock().limits.soft(resource)
    }

    /// Changes limits or users.
    pub fn with_identity<R>(&self, f: impl FnOnce(&mut Limits, &mut Credentials) -> R) -> R {
        let parts = &mut *self.parts.lock();
        f(&mut parts.limits, &mut parts.credentials)
    }

    /// How many threads it has.
    pub fn thread_count(&self) -> usize {
        self.threads.lock().len()
    }

    /// Its thread `tid`. Without one its first: the leader, unless that has ended.
    pub fn thread(&self, tid: Option<u32>) -> Option<Arc<Task>> {
        let threads = self.threads.lock();
        let wanted = tid.unwrap_or(self.pid);
        let found = threads.iter().find(|task| task.thread.get().is_some_and(|t| t.tid() == wanted));
        let first = threads.first().filter(|_| tid.is_none());
        found.or(first).cloned()
    }

    /// Its threads, or `ENOMEM`.
    pub fn try_threads(&self) -> Result<Vec<Arc<Task>>> {
        room::try_copy(&self.threads.lock())
    }

    /// CPU time used, by threads that ended, too.
    pub fn cpu_time(&self) -> CpuTime {
        // Under the lock: who ends meanwhile would count twice, or not at all.
        let threads = self.threads.lock();
        let dead = *self.dead_time.lock();
        threads.iter().fold(dead, |sum, task| sum.plus(CpuTime::of(task)))
    }

    /// The name of its first thread.
    pub fn comm(&self) -> [u8; 16] {
        let threads = self.threads.lock();
        let first = threads.first().and_then(|task| task.thread.get());
        first.map_or([0; 16], Thread::comm)
    }

    /// Whether it was told to end.
    pub fn is_ending(&self) -> bool {
        self.signals.lock().exiting.is_some()
    }

    /// personality(): sets it unless `value` is 0xffffffff; what it was.
    pub fn personality(&self, value: u32) -> u32 {
        match value {
            u32::MAX => self.personality.load(Relaxed),
            value => self.personality.swap(value, Relaxed),
        }
    }
}

impl Thread {
    fn new(process: Arc<Process>, tid: u32, blocked: SigSet, comm: [u8; 16]) -> Thread {
        Thread {
            process,
            tid: AtomicU32::new(tid),
            signals: Lock::new(THREAD_SIGNALS, ThreadSignals::new(blocked)),
            attention: AtomicBool::new(false),
            restart: Lock::new(LEAF, None),
            resume: Lock::new(LEAF, None),
            deadline: Lock::new(LEAF, None),
            clear_child_tid: AtomicU64::new(0),
            no_new_privs: AtomicBool::new(false),
            robust_list: AtomicU64::new(0),
            comm: Lock::new(LEAF, comm),
            fault: Lock::new(LEAF, (0, 0)),
            is_over: AtomicBool::new(false),
            vfork: Lock::new(LEAF, None),
            started: time::now(),
        }
    }

    /// Its ID. It changes when a thread other than the first calls execve().
    pub fn tid(&self) -> u32 {
        self.tid.load(Relaxed)
    }

    /// Its name, NUL-padded.
    pub fn comm(&self) -> [u8; 16] {
        *self.comm.lock()
    }

    /// Names it: at most 15 bytes count.
    pub fn set_comm(&self, name: &[u8]) {
        let mut comm = [0; 16];
        for (to, from) in comm.iter_mut().take(15).zip(name) {
            *to = *from;
        }
        *self.comm.lock() = comm;
    }

    /// When it was started, CLOCK_MONOTONIC.
    pub fn started(&self) -> Nanos {
        self.started
    }

    /// Says what becomes of the current system call, which is about to return
    /// `EINTR`.
    pub fn set_restart(&self, restart: Restart) {
        *self.restart.lock() = Some(restart);
    }

    /// The current call, whose time-out is relative, gets interrupted: if it is
    /// to go on, then until `deadline`. What it fails with.
    pub fn interrupted(&self, number: u64, args: [u64; 6], deadline: Nanos) -> Failure {
        *self.resume.lock() = Some(Resumable { number, args, deadline });
        Failure::Restart(Restart::Block)
    }

    /// restart_syscall(): the call that was interrupted, to be made again.
    pub fn resume(&self) -> Option<(u64, [u64; 6])> {
        let resumable = self.resume.lock().take()?;
        *self.deadline.lock() = Some(resumable.deadline);
        Some((resumable.number, resumable.args))
    }

    /// The call that restart_syscall() went on with is over.
    pub fn resumed(&self) {
        *self.deadline.lock() = None;
    }

    /// When a relative time-out of `timeout` ends: later than now, or when the
    /// call that restart_syscall() goes on with was to end.
    pub fn deadline_in(&self, timeout: Nanos) -> Nanos {
        let resumed = self.deadline.lock().take();
        resumed.unwrap_or_else(|| time::now().saturating_add(timeout))
    }
}

/// The user-space side of the current task; `ESRCH` for the kernel's own tasks.
pub fn with_thread<R>(f: impl FnOnce(&Thread) -> R) -> Result<R> {
    let task = sched::current_ref();
    task.thread.get().map(f).ok_or(Errno::ESRCH)
}

/// The current process; `ESRCH` for the kernel's own tasks.
pub fn current() -> Result<Arc<Process>> {
    with_thread(|thread| thread.process.clone())
}

/// Who calls, for files.
pub fn caller() -> Caller {
    with_thread(|thread| {
        let pid = thread.process.pid;
        let (pgid, sid) = table::group_and_session(pid).unwrap_or((pid, pid));
        Caller { pid, tid: thread.tid(), pgid, sid }
    })
    .unwrap_or_default()
}

static NAMESPACE: spin::Once<Arc<Namespace>> = spin::Once::new();

/// The file tree, from when it is there.
pub fn set_namespace(namespace: Arc<Namespace>) {
    NAMESPACE.call_once(|| namespace);
}

/// The file tree.
pub fn namespace() -> Result<&'static Arc<Namespace>> {
    NAMESPACE.get().ok_or(Errno::ENOENT)
}

/// Maps what the current process may access at `address`, or says why not.
/// Sleeps when there is no memory, until somebody else has given some back.
pub fn fault(address: u64, access: Access) -> Result<(), Fault> {
    let unmapped = Fault { kind: FaultKind::Unmapped, address };
    let mm = current().and_then(|process| process.mm()).map_err(|_| unmapped)?;
    let access = match access {
        Access::Read => mm::Access::Read,
        Access::Write => mm::Access::Write,
        Access::Exec => mm::Access::Exec,
    };
    let mapped = loop {
        match mm.fault(address, access) {
            Err(mm::Fault::Oom) if oom::relieve() => {}
            other => break other,
        }
    };
    mapped.map_err(|fault| {
        let kind = match fault {
            mm::Fault::SegvMapErr => FaultKind::Unmapped,
            mm::Fault::SegvAccErr => FaultKind::Denied,
            mm::Fault::BusAdrErr => FaultKind::Bus,
            mm::Fault::Oom => FaultKind::OutOfMemory,
        };
        Fault { kind, address }
    })
}

/// `task` is about to run on this CPU: make its address space current.
pub fn enter(task: &Task) {
    let mm = task.thread.get().and_then(|thread| thread.process.mm().ok());
    space::activate(mm.as_deref());
}

/// The trap frame that a new thread starts with.
fn start_frame(pc: u64, sp: u64) -> TrapFrame {
    TrapFrame { pc, sp, syscall: -1, ..TrapFrame::default() }
}

/// As [`crate::wait::until`], but only the end of the process ends it early: for what has to
/// be over before the caller may go on.
pub fn until_killed<T>(queue: &WaitQueue, mut attempt: impl FnMut() -> Result<T>) -> Result<T, Ended> {
    let waker = Waker::from(sched::current());
    queue.register(&waker)?;
    let result = loop {
        match attempt() {
            Err(Errno::EAGAIN) => {}
            other => break other.map_err(Ended::Errno),
        }
        if signals::kill_pending() {
            break Err(Ended::Interrupted);
        }
        sched::park();
    };
    queue.unregister(&waker);
    result
}
