//! wait4() and waitid().

use super::cputime::CpuTime;
use super::signals::News;
use super::table::{self, Table};
use crate::syscall::Failure;
use crate::wait;
use base::{Errno, Result};
use signal::{Restart, Signal, code};

/// Which children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Any.
    Any,
    /// That one.
    Process(u32),
    /// Those in this process group.
    Group(u32),
}

/// What is waited for, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// WNOHANG: don't.
    pub no_hang: bool,
    /// WEXITED (wait4: always).
    pub exited: bool,
    /// WSTOPPED, WUNTRACED.
    pub stopped: bool,
    /// WCONTINUED.
    pub continued: bool,
    /// WNOWAIT: leave it to be waited for again.
    pub leave: bool,
    /// Children that send another signal than SIGCHLD: __WCLONE, __WALL.
    pub clones: bool,
    /// Children that send SIGCHLD.
    pub children: bool,
}

/// What became of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which.
    pub pid: u32,
    /// As wait4() tells it.
    pub status: i32,
    /// si_code and si_status, as waitid() tells it.
    pub code: (i32, i32),
    /// CPU time it and its children used.
    pub time: CpuTime,
    /// Pages it had in memory at its end.
    pub pages: u64,
}

/// Waits for a child of process `pid`: `ECHILD` if there is none to wait for,
/// `None` if WNOHANG found nothing.
pub fn wait(pid: u32, which: Which, options: Options) -> Result<Option<Found>, Failure> {
    let process = table::process(pid)?;
    let look = || {
        let found = table::with(|table| look(table, pid, which, options));
        found.map(|(found, entry)| {
            drop(entry);
            found
        })
    };
    if options.no_hang {
        return match look() {
            Err(Errno::EAGAIN) => Ok(None),
            result => Ok(Some(result?)),
        };
    }
    let found = wait::until(&process.child_changed, None, look);
    found.map(Some).map_err(|ended| Failure::from_wait(ended, Restart::Sys, Errno::EAGAIN))
}

/// `EAGAIN` if nothing has happened yet.
fn look(
    table: &mut Table,
    pid: u32,
    which: Which,
    options: Options,
) -> Result<(Found, Option<table::Entry>)> {
    let mut any = false;
    let mut news = None;
    let mut last = 0;
    // One by one: a copy of the list might find no memory.
    while let Some(&child) = table.entry(pid)?.children.range(last..).next() {
        last = child.saturating_add(1);
        let Ok(entry) = table.entry(child) else { continue };
        let meant = match which {
            Which::Any => true,
            Which::Process(wanted) => child == wanted,
            Which::Group(group) => entry.group == group,
        };
        let is_child = entry.exit_signal == Signal::SIGCHLD.number();
        if !meant || !(if is_child { options.children } else { options.clones }) {
            continue;
        }
        any = true;
        if let Some(status) = entry.zombie {
            if options.exited {
                let time = entry.own_time.plus(entry.children_time);
                news = Some(Found { time, pages: entry.pages, ..exited(child, status) });
            }
        } else {
            let mut signals = entry.process.signals.lock();
            news = signals.news(options.stopped, options.continued, options.leave).map(|news| {
                let (code, by, status) = match news {
                    News::Stopped(by) => (code::CLD_STOPPED, by, i32::from(by.number()) << 8 | 0x7f),
                    News::Continued => (code::CLD_CONTINUED, Signal::SIGCONT, 0xffff),
                };
                Found { code: (code, i32::from(by.number())), ..exited(child, status) }
            });
        }
        if news.is_some() {
            break;
        }
    }
    let found = match news {
        Some(found) => found,
        None if any => return Err(Errno::EAGAIN),
        None => return Err(Errno::ECHILD),
    };
    let ended = matches!(found.code.0, code::CLD_EXITED | code::CLD_KILLED | code::CLD_DUMPED);
    let mut buried = None;
    if ended && !options.leave {
        buried = table.processes.remove(&found.pid);
        let parent = table.entry(pid)?;
        parent.children.remove(&found.pid);
        parent.children_time = parent.children_time.plus(found.time);
    }
    Ok((found, buried))
}

fn exited(pid: u32, status: i32) -> Found {
    let code = match status & 0x7f {
        0 => (code::CLD_EXITED, status >> 8 & 0xff),
        signal if status & 0x80 != 0 => (code::CLD_DUMPED, signal),
        signal => (code::CLD_KILLED, signal),
    };
    Found { pid, status, code, time: CpuTime::default(), pages: 0 }
}
