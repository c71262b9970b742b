//! Who there is: process and thread IDs, parents and children, process groups
//! and sessions, and what wait() has not collected yet.

use super::{Process, Thread};
use super::cputime::CpuTime;
use crate::task::Task;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use base::{Errno, IdSet, Lock, Result, rank, room};
use core::sync::atomic::Ordering::Relaxed;

/// /proc/sys/kernel/pid_max
pub const PID_MAX: u32 = 32768;
/// As on Linux, low numbers stay with those who boot.
const FIRST_AGAIN: u32 = 300;
/// How many tasks there may be: /proc/sys/kernel/threads-max.
pub const TASKS_MAX: usize = 8192;

/// A process in the tree.
pub(super) struct Entry {
    pub process: Arc<Process>,
    pub parent: u32,
    pub group: u32,
    pub session: u32,
    pub children: BTreeSet<u32>,
    /// It ended with this wait status.
    pub zombie: Option<i32>,
    /// What the parent gets when it ends; 0: nothing.
    pub exit_signal: u8,
    /// It called execve(): setpgid() by the parent is over.
    pub ran_exec: bool,
    /// CPU time, of it if it is a zombie, and of children it waited for.
    pub own_time: CpuTime,
    pub children_time: CpuTime,
    /// Pages it had in memory at its end.
    pub pages: u64,
}

pub(super) struct Table {
    pub processes: BTreeMap<u32, Entry>,
    pub threads: BTreeMap<u32, Arc<Task>>,
    last: u32,
    /// All IDs were given out once.
    wrapped: bool,
    /// For [`Table::allocate`].
    taken: IdSet<{ PID_MAX as usize / 64 }>,
}

static TABLE: Lock<Table> = Lock::new(
    rank::PROCESS,
    Table {
        processes: BTreeMap::new(),
        threads: BTreeMap::new(),
        last: 0,
        wrapped: false,
        taken: IdSet::new(),
    },
);

/// Works on the table; nothing in `f` may sleep or touch user memory.
pub(super) fn with<R>(f: impl FnOnce(&mut Table) -> R) -> R {
    f(&mut TABLE.lock())
}

impl Table {
    /// A free ID. `EAGAIN` if there are too many tasks. Zombies count: each has
    /// an ID, and memory.
    fn allocate(&mut self) -> Result<u32> {
        if self.threads.len().max(self.processes.len()) >= TASKS_MAX {
            return Err(Errno::EAGAIN);
        }
        let next = self.last.wrapping_add(1);
        if !self.wrapped && next < PID_MAX {
            self.last = next;
            return Ok(next);
        }
        self.wrapped = true;
        // One look at all there is, not one for each ID that is taken.
        self.taken.clear();
        self.threads.keys().for_each(|&tid| self.taken.insert(tid));
        for (&pid, entry) in &self.processes {
            for id in [pid, entry.group, entry.session] {
                self.taken.insert(id);
            }
        }
        let free = self.taken.free(next, PID_MAX);
        let id = free.or_else(|| self.taken.free(FIRST_AGAIN, PID_MAX)).ok_or(Errno::EAGAIN)?;
        self.last = id;
        Ok(id)
    }

    /// Processes that live and that `whom`, given ID and group, chooses.
    pub fn living(&self, whom: impl Fn(u32, u32) -> bool) -> impl Iterator<Item = &Arc<Process>> {
        let living = self.processes.iter().filter(|(_, entry)| entry.zombie.is_none());
        living.filter(move |(pid, entry)| whom(**pid, entry.group)).map(|(_, entry)| &entry.process)
    }

    /// Whether a process group has no member that ties it to its session: its
    /// members are not stopped by the terminal.
    pub fn is_orphaned(&self, group: u32) -> bool {
        let mut members = self.processes.iter().filter(|(_, entry)| entry.group == group);
        !members.any(|(pid, entry)| self.ties_now(*pid, entry))
    }

    /// As on Linux, a child of init ties nothing.
    fn ties_now(&self, pid: u32, entry: &Entry) -> bool {
        entry.zombie.is_none() && entry.parent != 1 && self.ties(pid, entry.parent)
    }

    /// Of `groups` those that are orphaned, and in which somebody stopped:
    /// nobody is left who would let him go on.
    pub fn stranded(&self, groups: &BTreeSet<u32>) -> BTreeSet<u32> {
        let (mut tied, mut stopped) = (BTreeSet::new(), BTreeSet::new());
        let members = self.processes.iter().filter(|(_, entry)| groups.contains(&entry.group));
        for (pid, entry) in members {
            if self.ties_now(*pid, entry) {
                tied.insert(entry.group);
            }
            if entry.zombie.is_none() && entry.process.is_stopped() {
                stopped.insert(entry.group);
            }
        }
        stopped.retain(|group| !tied.contains(group));
        stopped
    }

    /// Whether `child` ties its group to the session, `parent` being in another
    /// group of it.
    pub fn ties(&self, child: u32, parent: u32) -> bool {
        let both = self.processes.get(&child).zip(self.processes.get(&parent));
        both.is_some_and(|(child, parent)| child.group != parent.group && child.session == parent.session)
    }

    pub fn entry(&mut self, pid: u32) -> Result<&mut Entry> {
        self.processes.get_mut(&pid).ok_or(Errno::ESRCH)
    }
}

/// Reserves an ID for a task that is not there yet.
pub fn new_id() -> Result<u32> {
    with(Table::allocate)
}

/// Enters a process. A child of `parent` inherits its group and session; 0 for
/// the first process. `EINTR` if a signal has come for the caller: it may have
/// been for its group, which the child would be in.
pub fn add_process(process: &Arc<Process>, parent: u32, exit_signal: u8) -> Result<()> {
    with(|table| {
        if super::signal_pending() {
            return Err(Errno::EINTR);
        }
        let pid = process.pid;
        // First all that may fail: a node for it here, and one in its parent.
        room::room_in(&table.processes)?;
        room::room_in(&BTreeMap::<u32, ()>::new())?;
        let (group, session) = match table.processes.get_mut(&parent) {
            Some(parent) => {
                parent.children.insert(pid);
                (parent.group, parent.session)
            }
            // Linux's init is in group and session 0 until it calls setsid().
            None => (0, 0),
        };
        let entry = Entry {
            process: process.clone(),
            parent,
            group,
            session,
            children: BTreeSet::new(),
            zombie: None,
            exit_signal,
            ran_exec: false,
            own_time: CpuTime::default(),
            children_time: CpuTime::default(),
            pages: 0,
        };
        table.processes.insert(pid, entry);
        Ok(())
    })
}

/// `ENOMEM` if there is no memory to enter one more thread.
pub fn ask_for_thread() -> Result<()> {
    with(|table| room::room_in(&table.threads))
}

/// Enters a thread, which can't be refused any more. A signal may have let it run
/// as soon as its process had it: it may be over already.
pub fn add_thread(task: &Arc<Task>) {
    with(|table| {
        if let Some(thread) = task.thread.get().filter(|thread| !thread.is_over.load(Relaxed)) {
            table.threads.insert(thread.tid(), task.clone());
        }
    });
}

/// A thread that called execve() takes the ID of its process.
pub fn take_process_id(thread: &Thread, task: &Arc<Task>) {
    let pid = thread.process.pid;
    let removed = with(|table| {
        let removed = table.threads.remove(&thread.tid());
        thread.tid.store(pid, Relaxed);
        table.threads.insert(pid, task.clone());
        removed
    });
    drop(removed);
}

/// A thread is over.
pub fn remove_thread(thread: &Thread) {
    let removed = with(|table| {
        thread.is_over.store(true, Relaxed);
        table.threads.remove(&thread.tid())
    });
    drop(removed);
}

/// The thread of that ID.
pub fn thread(tid: u32) -> Result<Arc<Task>> {
    with(|table| table.threads.get(&tid).cloned().ok_or(Errno::ESRCH))
}

/// The process of that ID; zombies too.
pub fn process(pid: u32) -> Result<Arc<Process>> {
    with(|table| table.entry(pid).map(|entry| entry.process.clone()))
}

/// The IDs of all processes, in order.
pub fn pids() -> Result<Vec<u32>> {
    with(|table| room::try_collect(table.processes.keys().copied()))
}

/// How many processes there are, zombies too.
pub fn process_count() -> usize {
    with(|table| table.processes.len())
}

/// All processes, in the order of their IDs.
pub fn all() -> Result<Vec<Arc<Process>>> {
    with(|table| room::try_collect(table.processes.values().map(|entry| entry.process.clone())))
}

/// The first process whose ID is above `pid`.
pub fn after(pid: u32) -> Option<Arc<Process>> {
    with(|table| table.processes.range(pid.saturating_add(1)..).next().map(|(_, e)| e.process.clone()))
}

/// Those of a process group that live.
pub fn group_members(group: u32) -> Result<Vec<Arc<Process>>> {
    with(|table| {
        let members = table.processes.values();
        let members = members.filter(|entry| entry.group == group && entry.zombie.is_none());
        room::try_collect(members.map(|entry| entry.process.clone()))
    })
}

/// The session of a process group, if anybody lives in it.
pub fn session_of_group(group: u32) -> Option<u32> {
    with(|table| {
        let mut members = table.processes.values();
        let member = members.find(|entry| entry.group == group && entry.zombie.is_none())?;
        Some(member.session)
    })
}

/// How many tasks there are.
pub fn task_count() -> usize {
    with(|table| table.threads.len())
}

/// The last ID given out, for /proc/loadavg.
pub fn last_id() -> u32 {
    with(|table| table.last)
}

/// A process's group and session.
pub fn group_and_session(pid: u32) -> Result<(u32, u32)> {
    with(|table| table.entry(pid).map(|entry| (entry.group, entry.session)))
}

/// A process's parent; 0 for init.
pub fn parent(pid: u32) -> Result<u32> {
    with(|table| table.entry(pid).map(|entry| entry.parent))
}

/// CPU time of children that were waited for.
pub fn children_time(pid: u32) -> CpuTime {
    with(|table| table.entry(pid).map(|entry| entry.children_time).unwrap_or_default())
}

/// Whether it is a zombie: /proc/PID/stat.
pub fn is_zombie(pid: u32) -> bool {
    with(|table| table.entry(pid).is_ok_and(|entry| entry.zombie.is_some()))
}

/// Whether it has ended: a zombie, or not even that.
pub fn is_gone(pid: u32) -> bool {
    with(|table| table.entry(pid).map_or(true, |entry| entry.zombie.is_some()))
}

/// Whether the terminal may not stop members of `group`.
pub fn is_orphaned(group: u32) -> bool {
    with(|table| table.is_orphaned(group))
}

/// setpgid(2): `caller` moves `pid` (itself or a child that has not called
/// execve()) to `group`.
pub fn set_group(caller: u32, pid: u32, group: u32) -> Result<()> {
    with(|table| {
        let session = table.entry(caller)?.session;
        let entry = table.entry(pid)?;
        if pid != caller && entry.parent != caller {
            return Err(Errno::ESRCH);
        }
        if pid != caller && entry.ran_exec {
            return Err(Errno::EACCES);
        }
        // Not out of its session, and a session's leader stays where it is.
        if entry.session != session || entry.session == pid {
            return Err(Errno::EPERM);
        }
        let exists = |entry: &Entry| entry.group == group && entry.session == session;
        if group != pid && !table.processes.values().any(exists) {
            return Err(Errno::EPERM);
        }
        table.entry(pid)?.group = group;
        Ok(())
    })
}

/// setsid(2): `EPERM` for the leader of a process group.
pub fn new_session(pid: u32) -> Result<u32> {
    with(|table| {
        if table.processes.values().any(|entry| entry.group == pid) {
            return Err(Errno::EPERM);
        }
        let entry = table.entry(pid)?;
        (entry.group, entry.session) = (pid, pid);
        Ok(pid)
    })
}

/// It called execve().
pub(super) fn note_exec(pid: u32) {
    with(|table| {
        if let Ok(entry) = table.entry(pid) {
            entry.ran_exec = true;
        }
    });
}
