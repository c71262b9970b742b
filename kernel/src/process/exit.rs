//! The end of threads and processes.

use super::cputime::{self, CpuTime};
use super::{Process, clone, oom, signals, space, table};
use crate::{sched, syscall};
use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use base::{Nanos, grave};
use core::sync::atomic::Ordering::*;
use signal::{SigInfo, SigSet, Signal, code};

/// Clock ticks (USER_HZ, 100 a second) in `nanos`.
pub fn ticks(nanos: Nanos) -> u64 {
    nanos / 10_000_000
}

/// Tells all threads of a process to end, with wait status `status` unless one
/// was given before.
pub fn begin_group_exit(process: &Arc<Process>, status: i32) {
    process.signals.lock().begin_exit(status);
    signals::alert_all(process);
}

/// exit(2): the current thread ends; the process with its last one. `code` is
/// what exit() was given.
pub fn exit(code: i32) -> ! {
    if let Ok(process) = super::current() {
        let alone = process.threads.lock().len() == 1;
        if alone {
            process.signals.lock().begin_exit((code & 0xff) << 8);
        }
    }
    thread()
}

/// exit_group(2): the whole process ends.
pub fn exit_group(code: i32) -> ! {
    if let Ok(process) = super::current() {
        begin_group_exit(&process, (code & 0xff) << 8);
    }
    thread()
}

/// The current thread ends. Nothing with a destructor may be alive in callers.
pub fn thread() -> ! {
    leave();
    sched::exit()
}

/// All of [`thread`] that has something to drop.
fn leave() {
    let task = sched::current();
    let Some(thread) = task.thread.get() else { return };
    let process = thread.process.clone();
    syscall::futex::thread_exits(thread);
    clone::release_parent(thread);

    // Once this thread isn't counted, another that calls execve() may take its
    // ID, and free the page table.
    table::remove_thread(thread);
    space::activate(None);
    cputime::leave_kernel(&task);
    let time = CpuTime::of(&task);
    let last = {
        let mut threads = process.threads.lock();
        threads.retain(|other| !Arc::ptr_eq(other, &task));
        let mut dead = process.dead_time.lock();
        *dead = dead.plus(time);
        threads.is_empty()
    };
    if last {
        end(&process);
    } else {
        signals::settle_stop(&process);
        signals::pass_on(&process, SigSet::ALL);
    }
    process.thread_gone.wake_all();
}

/// The last thread has ended: so does the process.
fn end(process: &Arc<Process>) {
    let pid = process.pid;
    // What ends by pthread_exit() in its last thread ended well.
    let status = process.signals.lock().exiting.unwrap_or(0);
    if pid == 1 {
        let (code, signal) = (status >> 8, status & 0x7f);
        crate::panic::fatal(format_args!("init ended: exit code {code}, signal {signal}"));
    }
    syscall::time::cancel_alarm(process);

    // Each in turn, so that no lock is held while they are dropped. Memory first,
    // which leaves in steps: VMs that their files keep have nothing mapped then.
    let mm = process.parts.lock().mm.take();
    let pages = mm.as_ref().map_or(0, |user| user.mm().size().1);
    // Again: what came before may have slept, and switched back to it.
    space::activate(None);
    if let Some(mm) = mm {
        mm.leave();
    }
    let files = process.parts.lock().files.take();
    drop(files);
    let fs = process.parts.lock().fs.take();
    drop(fs);
    let exe = process.parts.lock().exe.take();
    drop(exe);
    // Who waits for the process finds its memory free.
    grave::clear(sched::breathe);

    let session_leader = table::group_and_session(pid).is_ok_and(|(_, session)| session == pid);
    if session_leader {
        crate::tty::session_ended(pid);
    }
    let (parent, notice) = bury(process, status, pages);
    oom::ended();
    if let Some((parent, info)) = parent.as_ref().zip(notice) {
        let _ = signals::send(parent, info);
    }
    if let Some(parent) = parent {
        parent.child_changed.wake_all();
    }
}

/// Hands the children to init, and makes the process a zombie, or nothing if
/// nobody wants to know. The parent, and what is still to be sent to it.
fn bury(
    process: &Arc<Process>,
    status: i32,
    pages: u64,
) -> (Option<Arc<Process>>, Option<SigInfo>) {
    let pid = process.pid;
    let time = process.cpu_time();
    let mut reaped = alloc::vec::Vec::new();
    let mut init_has_news = false;
    let mut orphans = alloc::vec::Vec::new();
    // Groups that lose who ties them to their session.
    let mut loose = BTreeSet::new();
    let (parent, notice, init) = table::with(|table| {
        if let Ok(entry) = table.entry(pid) {
            let (group, parent) = (entry.group, entry.parent);
            if table.ties(pid, parent) {
                loose.insert(group);
            }
        }
        let children = match table.entry(pid) {
            Ok(entry) => core::mem::take(&mut entry.children),
            Err(_) => return (None, None, None),
        };
        for child in children {
            if table.ties(child, pid)
                && let Ok(entry) = table.entry(child)
            {
                loose.insert(entry.group);
            }
            if let Ok(entry) = table.entry(child) {
                entry.parent = 1;
                entry.exit_signal = Signal::SIGCHLD.number();
                init_has_news |= entry.zombie.is_some();
                orphans.push(entry.process.clone());
            }
            if let Ok(init) = table.entry(1) {
                init.children.insert(child);
            }
        }
        let init = table.entry(1).ok().map(|entry| entry.process.clone());
        let Ok(entry) = table.entry(pid) else { return (None, None, init) };
        entry.zombie = Some(status);
        entry.own_time = time;
        entry.pages = pages;
        let (parent, exit_signal) = (entry.parent, entry.exit_signal);
        let parent = table.entry(parent).ok().map(|entry| entry.process.clone());
        let Some(parent) = parent else {
            reaped.extend(table.processes.remove(&pid));
            return (None, None, init);
        };
        let exit_signal = Signal::new(exit_signal.into()).ok();
        let wanted = parent.signals.lock().actions.on_child_exit();
        let is_child = exit_signal == Some(Signal::SIGCHLD);
        if is_child && wanted.reap {
            reaped.extend(table.processes.remove(&pid));
            if let Ok(entry) = table.entry(parent.pid) {
                entry.children.remove(&pid);
            }
        }
        let notice = exit_signal.filter(|_| wanted.signal || !is_child).map(|signal| {
            let (code, value) = match status & 0x7f {
                0 => (code::CLD_EXITED, status >> 8 & 0xff),
                by if status & 0x80 != 0 => (code::CLD_DUMPED, by),
                by => (code::CLD_KILLED, by),
            };
            SigInfo::child(signal, code, (pid, 0), value, (ticks(time.user), ticks(time.system)))
        });
        // Who sees the zombie has SIGCHLD pending, and the other way round.
        // Other signals may be news themselves, and need the table.
        let notice = notice.filter(|info| {
            if is_child {
                let _ = signals::send(&parent, *info);
            }
            !is_child
        });
        (Some(parent), notice, init)
    });
    drop(reaped);
    // POSIX: a group that is orphaned by it, and has members that stand still,
    // is told to hang up, and goes on.
    let stranded = match loose.is_empty() {
        true => loose,
        false => table::with(|table| table.stranded(&loose)),
    };
    for group in stranded {
        for signal in [Signal::SIGHUP, Signal::SIGCONT] {
            let _ = signals::send_group(group, SigInfo::kernel(signal, code::SI_KERNEL));
        }
        sched::breathe();
    }
    for orphan in orphans {
        let signal = orphan.parent_death_signal.load(Relaxed);
        if let Ok(signal) = Signal::new(signal.into()) {
            let _ = signals::send(&orphan, SigInfo::user(signal, code::SI_USER, pid, 0));
        }
    }
    if let Some(init) = init.filter(|_| init_has_news) {
        let info = SigInfo::kernel(Signal::SIGCHLD, code::SI_KERNEL);
        let _ = signals::send(&init, info);
        init.child_changed.wake_all();
    }
    (parent, notice)
}
