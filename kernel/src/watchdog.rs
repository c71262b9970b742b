//! Finds CPUs that are stuck in the kernel. The kernel runs with interrupts
//! masked and takes them at EL0, in guests, when idle and in `sched::breathe`;
//! who doesn't come to any of these for long can only be found by others. Each
//! CPU's timer says every few seconds that it lives, and looks at the next CPU.

use crate::{cpu, panic, sched, time, timer};
use alloc::sync::Arc;
use alloc::task::Wake;
use base::Nanos;
use core::sync::atomic::Ordering::Relaxed;
use core::task::Waker;

const SECOND: Nanos = 1_000_000_000;
/// How often each CPU says so.
const PERIOD: Nanos = 4 * SECOND;
/// How long it may be silent (Linux: twice `watchdog_thresh`, as well).
const LIMIT: Nanos = 20 * SECOND;

struct Watch;

impl Wake for Watch {
    fn wake(self: Arc<Self>) {
        look();
        timer::arm(time::now().saturating_add(PERIOD), Waker::from(self));
    }
}

/// This CPU is watched from here on, and watches.
pub fn init_cpu() {
    cpu::this().alive.store(time::now(), Relaxed);
    timer::arm(time::now().saturating_add(PERIOD), Waker::from(Arc::new(Watch)));
}

/// This CPU lives; does the next?
fn look() {
    let (me, now) = (cpu::this(), time::now());
    let last = me.alive.swap(now, Relaxed);
    // We come late ourselves: perhaps the whole machine stood still.
    if now.saturating_sub(last) > PERIOD.saturating_mul(2) {
        return;
    }
    let index = me.index.load(Relaxed);
    let after = cpu::online().find(|cpu| cpu.index.load(Relaxed) > index);
    let Some(next) = after.or_else(|| cpu::online().next()) else { return };
    let alive = next.alive.load(Relaxed);
    let silent = now.saturating_sub(alive);
    if alive == 0 || silent < LIMIT {
        return;
    }
    // Again when as much time has passed.
    if now.saturating_sub(next.reported.load(Relaxed)) < LIMIT {
        return;
    }
    next.reported.store(now, Relaxed);
    report(next.index.load(Relaxed) as usize, silent / SECOND);
}

fn report(cpu: usize, seconds: u64) {
    // Its run queue's lock may be what it hangs on to.
    let Some(task) = sched::try_current_of(cpu) else {
        log::error!("watchdog: BUG: soft lockup - CPU#{cpu} stuck for {seconds}s! [its run queue is locked]");
        return;
    };
    let comm = task.thread.get().map(|thread| thread.comm()).unwrap_or_default();
    let comm = comm.split(|byte| *byte == 0).next().unwrap_or_default();
    log::error!("watchdog: BUG: soft lockup - CPU#{cpu} stuck for {seconds}s! [{}:{}]", comm.escape_ascii(), task.id);
    panic::trace_of(&task);
}
