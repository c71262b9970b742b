//! clone(), fork(), vfork(): new threads and processes.
#![expect(unsafe_code, reason = "the registers that a new thread starts with")]

use super::{Parts, Process, Thread, space::MmUser, table};
use crate::syscall::{Failure, SysResult};
use crate::task::Task;
use crate::user::CurrentUser;
use crate::{el0, sched};
use alloc::sync::Arc;
use arch::trap::TrapFrame;
use base::{Errno, Lock, Result, UserMemExt, WaitQueue, Room, room};
use core::sync::atomic::{AtomicBool, Ordering::*};
use signal::{Restart, Signal};
use vfs::{FdTable, FdTableUser};

/// CLONE_* flags (linux/sched.h).
pub mod flag {
    pub const VM: u64 = 0x100;
    pub const FS: u64 = 0x200;
    pub const FILES: u64 = 0x400;
    pub const SIGHAND: u64 = 0x800;
    pub const PIDFD: u64 = 0x1000;
    pub const PTRACE: u64 = 0x2000;
    pub const VFORK: u64 = 0x4000;
    pub const PARENT: u64 = 0x8000;
    pub const THREAD: u64 = 0x10000;
    pub const SYSVSEM: u64 = 0x40000;
    pub const SETTLS: u64 = 0x80000;
    pub const PARENT_SETTID: u64 = 0x10_0000;
    pub const CHILD_CLEARTID: u64 = 0x20_0000;
    pub const DETACHED: u64 = 0x40_0000;
    pub const UNTRACED: u64 = 0x80_0000;
    pub const CHILD_SETTID: u64 = 0x100_0000;
    pub const IO: u64 = 0x8000_0000;
    pub const CLEAR_SIGHAND: u64 = 0x1_0000_0000;
}

/// What is supported: no namespaces, no pidfds.
const KNOWN: u64 = flag::VM
    | flag::FS
    | flag::FILES
    | flag::SIGHAND
    | flag::PTRACE
    | flag::VFORK
    | flag::PARENT
    | flag::THREAD
    | flag::SYSVSEM
    | flag::SETTLS
    | flag::PARENT_SETTID
    | flag::CHILD_CLEARTID
    | flag::DETACHED
    | flag::UNTRACED
    | flag::CHILD_SETTID
    | flag::IO
    | flag::CLEAR_SIGHAND;

/// What clone() and clone3() are asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request {
    /// CLONE_* without the exit signal.
    pub flags: u64,
    /// What the parent gets when the child ends; 0: nothing.
    pub exit_signal: u64,
    /// The child's stack pointer; 0: the parent's.
    pub stack: u64,
    /// The child's thread pointer.
    pub tls: u64,
    /// Where CLONE_PARENT_SETTID writes.
    pub parent_tid: u64,
    /// Where CLONE_CHILD_SETTID writes and CLONE_CHILD_CLEARTID clears.
    pub child_tid: u64,
}

/// A parent waits until its child calls execve() or ends.
pub struct Vfork {
    done: AtomicBool,
    queue: WaitQueue,
}

/// Lets a parent in vfork() go on.
pub(super) fn release_parent(thread: &Thread) {
    if let Some(vfork) = thread.vfork.lock().take() {
        vfork.done.store(true, Release);
        vfork.queue.wake_all();
    }
}

/// Makes a thread or a process that goes on as the caller does; its ID.
pub fn clone(frame: &TrapFrame, request: &Request) -> SysResult {
    let Request { flags, exit_signal, .. } = *request;
    let has = |wanted: u64| flags & wanted == wanted;
    // A thread shares signal handlers, and those need shared memory. Processes
    // that share handlers were LinuxThreads': nobody makes them any more.
    if flags & !KNOWN != 0
        || has(flag::THREAD) && !has(flag::SIGHAND)
        || has(flag::SIGHAND) && !has(flag::VM)
        || has(flag::SIGHAND) && !has(flag::THREAD)
        || has(flag::SIGHAND | flag::CLEAR_SIGHAND)
    {
        return Err(Errno::EINVAL.into());
    }
    // As on Linux: first the handlers, then the child.
    if super::signal_pending() {
        return Err(Failure::Restart(Restart::Always));
    }
    let exit_signal = match exit_signal {
        0 => 0,
        number => Signal::new(number)?.number(),
    };
    let parent_task = sched::current();
    let parent = parent_task.thread.get().ok_or(Errno::ESRCH)?;
    let tid = table::new_id()?;
    if has(flag::PARENT_SETTID) {
        CurrentUser.write_obj(request.parent_tid, &tid)?;
    }
    let process = match has(flag::THREAD) {
        true => parent.process.clone(),
        false => room::try_arc(copy_process(&parent.process, tid, flags)?)?,
    };
    if has(flag::CHILD_SETTID) {
        // Where it isn't mapped, the child alone would notice.
        let _ = process.mm()?.write_obj(request.child_tid, &tid);
    }

    let task = Task::new(tid, run)?;
    let mut registers = *frame;
    let [x0, ..] = &mut registers.x;
    *x0 = 0;
    registers.syscall = -1;
    if request.stack != 0 {
        registers.sp = request.stack;
    }
    // SAFETY: the task has never run.
    unsafe { task.user_frame().write(registers) };
    task.fp.write(&parent_task.fp.read());
    let tls = if has(flag::SETTLS) { request.tls } else { arch::sysreg::tpidr_el0() };
    task.tpidr_el0.store(tls, Relaxed);
    task.entity.inherit(&parent_task.entity);

    let blocked = parent.signals.lock().blocked();
    let thread = Thread::new(process.clone(), tid, blocked, parent.comm());
    thread.no_new_privs.store(parent.no_new_privs.load(Relaxed), Relaxed);
    if has(flag::CHILD_CLEARTID) {
        thread.clear_child_tid.store(request.child_tid, Relaxed);
    }
    // vfork(): the child uses the parent's stack, and its alternate one too.
    if flags & (flag::VM | flag::VFORK) != flag::VM {
        let altstack = parent.signals.lock().altstack;
        thread.signals.lock().altstack = altstack;
    }
    let vfork = match has(flag::VFORK) {
        true => {
            let queue = WaitQueue::new();
            // The parent must not go on beside a child that has its stack.
            queue.reserve()?;
            Some(room::try_arc(Vfork { done: AtomicBool::new(false), queue })?)
        }
        false => None,
    };
    table::ask_for_thread()?;
    *thread.vfork.lock() = vfork.clone();
    task.thread.call_once(|| thread);

    if !has(flag::THREAD) {
        let ancestor = match has(flag::PARENT) {
            true => table::parent(parent.process.pid)?,
            false => parent.process.pid,
        };
        {
            let mut threads = process.threads.lock();
            threads.make_room(1)?;
            threads.push(task.clone());
        }
        if let Err(errno) = table::add_process(&process, ancestor, exit_signal) {
            // Each holds the other.
            process.threads.lock().clear();
            return Err(match errno {
                Errno::EINTR => Failure::Restart(Restart::Always),
                errno => errno.into(),
            });
        }
    } else {
        let mut threads = process.threads.lock();
        let signals = process.signals.lock();
        // All threads are being told to end: this one would not be.
        if signals.exiting.is_some() || signals.exec.is_some() {
            return Err(Failure::Restart(Restart::Always));
        }
        if signals.stopped.is_some()
            && let Some(thread) = task.thread.get()
        {
            thread.attention.store(true, Release);
        }
        drop(signals);
        threads.make_room(1)?;
        threads.push(task.clone());
    }
    table::add_thread(&task);
    sched::start(&task);
    drop(task);
    if let Some(vfork) = vfork {
        let done = || if vfork.done.load(Acquire) { Ok(()) } else { Err(Errno::EAGAIN) };
        // Killed while it waits, the parent ends on its way out.
        let _ = super::until_killed(&vfork.queue, done);
    }
    Ok(i64::from(tid))
}

/// What a new thread does first: the registers are on its stack.
fn run() {
    let registers = {
        let task = sched::current_ref();
        // SAFETY: the frame was written before the task was started, and
        // nothing has come from EL0 since.
        unsafe { *task.user_frame() }
    };
    // A signal may have come before it ever ran.
    let mut registers = registers;
    while super::has_work() {
        super::work(&mut registers);
    }
    el0::enter(&registers)
}

fn copy_process(parent: &Arc<Process>, pid: u32, flags: u64) -> Result<Process> {
    let has = |wanted: u64| flags & wanted != 0;
    let mm = parent.mm()?;
    let single = parent.threads.lock().len() == 1;
    let mm = if has(flag::VM) { mm } else { room::try_arc(mm.fork(single)?)? };
    let files = parent.files()?;
    let files: Arc<FdTable> =
        if has(flag::FILES) { files } else { room::try_arc(files.duplicate()?)? };
    let fs = parent.fs()?;
    let fs = match has(flag::FS) {
        true => fs,
        false => {
            let copy = fs.lock().clone();
            room::try_arc(Lock::new(super::LEAF, copy))?
        }
    };
    let parts = {
        let parts = parent.parts.lock();
        Parts {
            mm: Some(MmUser::new(mm)),
            files: Some(FdTableUser::new(files)),
            fs: Some(fs),
            exe: parts.exe.clone(),
            stack: parts.stack,
            limits: parts.limits,
            credentials: parts.credentials.clone(),
        }
    };
    room::ask_for::<signal::Actions>()?;
    let mut actions = parent.signals.lock().actions.clone();
    if has(flag::CLEAR_SIGHAND) {
        actions.clear_handlers();
    }
    let process = Process::new(pid, parts, actions);
    process.personality(parent.personality(u32::MAX));
    process.oom_score_adj.store(parent.oom_score_adj.load(Relaxed), Relaxed);
    Ok(process)
}
