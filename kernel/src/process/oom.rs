//! Out of memory: who has to go, so that the others can go on.
//!
//! Who that is, `mm::oom` says: the process that has most, weighed by its
//! `oom_score_adj`; never init, and nobody at -1000.

use super::{Process, exit, signals, table};
use crate::sched;
use alloc::sync::Arc;
use base::{Errno, Lock, PAGE_SHIFT, Result, WaitQueue, grave, rank};
use core::sync::atomic::{AtomicU64, Ordering::*};
use mm::oom::{NEVER, Standing, Verdict, badness, choose};
use signal::Signal;

/// So much free memory beside the reserve is no reason to kill.
const ENOUGH: u64 = 16 << PAGE_SHIFT;

/// Who holds it chooses.
static CHOICE: Lock<()> = Lock::new(rank::PROCESS - 1, ());

/// How many processes have ended, and who waits for the next.
static ENDS: AtomicU64 = AtomicU64::new(0);
static ENDED: WaitQueue = WaitQueue::new();

/// No memory for a page that the current thread touched, or its guest did:
/// sees to it that somebody gives some back. Whether to try again: the current
/// process isn't the one that goes. Sleeps; no lock may be held.
pub fn relieve() -> bool {
    grave::clear(sched::breathe);
    // What others are dropping may be a dead process's.
    let dropped = || if grave::is_busy() { Err(Errno::EAGAIN) } else { Ok(()) };
    let _ = super::until_killed(grave::queue(), dropped);
    let before = ENDS.load(Acquire);
    if signals::kill_pending() {
        return false;
    }
    match look() {
        Verdict::Nobody => return false,
        Verdict::Enough => {}
        Verdict::Wait | Verdict::Choose(()) => {
            // Asleep, and not in a loop: who has to go may be less urgent.
            let ended = || if ENDS.load(Acquire) == before { Err(Errno::EAGAIN) } else { Ok(()) };
            // There may be no memory even to wait: then it is a loop.
            let _ = super::until_killed(&ENDED, ended);
        }
    }
    sched::yield_now();
    sched::breathe();
    !signals::kill_pending()
}

/// A process has ended; its memory is back.
pub(super) fn ended() {
    ENDS.fetch_add(1, AcqRel);
    ENDED.wake_all();
}

/// Kills somebody, or finds that this isn't needed.
fn look() -> Verdict<()> {
    let _chooses = CHOICE.lock();
    let total = frame::stats().total >> PAGE_SHIFT;
    let enough = || {
        let stats = frame::stats();
        stats.free > stats.kernel_reserve.saturating_add(ENOUGH)
    };
    let looked = processes().map(|process| (standing(&process, total), process));
    match choose(looked, enough) {
        Verdict::Wait => Verdict::Wait,
        Verdict::Enough => Verdict::Enough,
        Verdict::Nobody => Verdict::Nobody,
        // Under the lock: nobody else chooses it too.
        Verdict::Choose(victim) => {
            kill(&victim);
            Verdict::Choose(())
        }
    }
}

fn standing(process: &Process, total: u64) -> Standing {
    let chosen = process.oom_chosen.load(Relaxed);
    match process.mm() {
        Ok(mm) if !chosen => points(process, mm.weight(), total).map_or(Standing::Stays, Standing::Lives),
        // It is emptied before its process is a zombie.
        Err(_) if !chosen && !process.is_ending() => Standing::Stays,
        _ if table::is_gone(process.pid) => Standing::Stays,
        _ => Standing::Leaves,
    }
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

/// What speaks against a process.
fn points(process: &Process, pages: u64, total: u64) -> Option<i64> {
    let adjustment = process.oom_score_adj.load(Relaxed);
    badness(pages, adjustment, total).filter(|_| process.pid != 1)
}

fn kill(victim: &Arc<Process>) {
    victim.oom_chosen.store(true, Relaxed);
    let Ok(mm) = victim.mm() else { return };
    // It ends by itself, and is only waited for.
    if !victim.is_ending() {
        let usage = mm.usage();
        let kib = |pages: u64| pages.saturating_mul(4);
        let comm = victim.comm();
        let name = comm.split(|byte| *byte == 0).next().unwrap_or_default();
        log::error!(
            "Out of memory: Killed process {} ({}) total-vm:{}kB, rss:{}kB, pgtables:{}kB oom_score_adj:{}",
            victim.pid,
            name.escape_ascii(),
            kib(usage.total),
            kib(usage.resident),
            kib(usage.tables),
            victim.oom_score_adj.load(Relaxed)
        );
    }
    // Who shares its memory would keep it: vfork()'s children, above all.
    for process in processes() {
        let shares = process.mm().is_ok_and(|other| Arc::ptr_eq(&other, &mm));
        if shares && process.pid != 1 {
            exit::begin_group_exit(&process, i32::from(Signal::SIGKILL.number()));
        }
    }
}

/// /proc/PID/oom_score.
pub fn score(process: &Process) -> u64 {
    let total = frame::stats().total >> PAGE_SHIFT;
    let pages = process.mm().map_or(0, |mm| mm.weight());
    mm::oom::score(points(process, pages, total), total)
}

/// Writes /proc/PID/oom_score_adj: `EINVAL` out of -1000 to 1000.
pub fn set_adjustment(process: &Process, value: i32) -> Result<()> {
    if !(NEVER..=1000).contains(&value) {
        return Err(Errno::EINVAL);
    }
    process.oom_score_adj.store(value, Relaxed);
    Ok(())
}
