//! Out of memory: who has to go, so that the others can go on.
//!
//! As on Linux: the process that has most, weighed by its `oom_score_adj`;
//! never init, and nobody at -1000. Nothing here allocates.

use super::{Process, exit, signals, table};
use crate::{sched, time};
use alloc::sync::Arc;
use base::{Errno, Lock, Nanos, PAGE_SHIFT, Result, grave, rank};
use core::sync::atomic::Ordering::Relaxed;
use signal::Signal;

/// `oom_score_adj` of who is never chosen (proc(5)).
const NEVER: i32 = -1000;

/// How long one that was killed may take to give its memory back before
/// another is chosen.
const PATIENCE: Nanos = 3_000_000_000;

/// So much free memory beside the reserve is no reason to kill.
const ENOUGH: u64 = 16 << PAGE_SHIFT;

/// When one was last killed. Who holds it chooses.
static LAST: Lock<Option<Nanos>> = Lock::new(rank::PROCESS - 1, None);

/// No memory for a page that the current thread touched, or its guest did:
/// sees to it that somebody gives some back. Whether to try again: the current
/// process isn't the one that goes. Sleeps; no lock may be held.
pub fn relieve() -> bool {
    grave::clear(sched::breathe);
    if signals::kill_pending() || !choose() || signals::kill_pending() {
        return false;
    }
    // Let them end; a timer would want memory.
    sched::yield_now();
    sched::breathe();
    true
}

/// Kills somebody, or finds that somebody is ending already. False: there is
/// nobody.
fn choose() -> bool {
    let mut last = LAST.lock();
    let now = time::now();
    let recently = last.is_some_and(|last| now.saturating_sub(last) < PATIENCE);
    let stats = frame::stats();
    if stats.free > stats.kernel_reserve.saturating_add(ENOUGH) {
        // Somebody gave back meanwhile.
        return true;
    }
    let total = stats.total >> PAGE_SHIFT;
    let mut ending = false;
    let mut worst: Option<(i64, Arc<Process>)> = None;
    for process in processes() {
        if process.is_ending() {
            // Its memory may be on its way out although it has none any more.
            ending |= !table::is_zombie(process.pid);
            continue;
        }
        let Ok(mm) = process.mm() else { continue };
        let Some(points) = badness(&process, mm.size().1, total) else { continue };
        if worst.as_ref().is_none_or(|(most, _)| points > *most) {
            worst = Some((points, process));
        }
    }
    if ending && recently {
        return true;
    }
    let Some((_, victim)) = worst else { return ending };
    *last = Some(now);
    // Under the lock: nobody else chooses it too.
    kill(&victim);
    true
}

/// All processes, one by one: a list would want memory.
fn processes() -> impl Iterator<Item = Arc<Process>> {
    let mut last = 0;
    core::iter::from_fn(move || {
        let process = table::after(last)?;
        last = process.pid;
        Some(process)
    })
}

/// What speaks against a process: its pages, and a thousandth of the machine's
/// for each point of its `oom_score_adj`.
fn badness(process: &Process, pages: u64, total: u64) -> Option<i64> {
    let adjust = process.oom_score_adj.load(Relaxed);
    if process.pid == 1 || adjust <= NEVER {
        return None;
    }
    let adjust = i64::from(adjust).saturating_mul((total / 1000) as i64);
    Some((pages as i64).saturating_add(adjust))
}

fn kill(victim: &Arc<Process>) {
    let Ok(mm) = victim.mm() else { return };
    let (total, resident) = mm.size();
    let comm = victim.comm();
    let name = comm.split(|byte| *byte == 0).next().unwrap_or_default();
    log::error!(
        "Out of memory: Killed process {} ({}) total-vm:{}kB, rss:{}kB, oom_score_adj:{}",
        victim.pid,
        name.escape_ascii(),
        total.saturating_mul(4),
        resident.saturating_mul(4),
        victim.oom_score_adj.load(Relaxed)
    );
    // Who shares its memory would keep it: vfork()'s children, above all.
    for process in processes() {
        let shares = process.mm().is_ok_and(|other| Arc::ptr_eq(&other, &mm));
        if shares && process.pid != 1 {
            exit::begin_group_exit(&process, i32::from(Signal::SIGKILL.number()));
        }
    }
}

/// /proc/PID/oom_score: 0 to 2000; who is at 0 is never chosen.
pub fn score(process: &Process) -> u64 {
    let total = frame::stats().total >> PAGE_SHIFT;
    let pages = process.mm().map_or(0, |mm| mm.size().1);
    let Some(points) = badness(process, pages, total) else { return 0 };
    let share = points.saturating_mul(1000).checked_div(total as i64).unwrap_or(0);
    let score = share.saturating_add(1000).saturating_mul(2) / 3;
    u64::try_from(score).unwrap_or(0)
}

/// Writes /proc/PID/oom_score_adj: `EINVAL` out of -1000 to 1000.
pub fn set_adjustment(process: &Process, value: i32) -> Result<()> {
    if !(NEVER..=1000).contains(&value) {
        return Err(Errno::EINVAL);
    }
    process.oom_score_adj.store(value, Relaxed);
    Ok(())
}
