//! Finds CPUs that are stuck in the kernel. The kernel runs with interrupts
//! masked and takes them at EL0, in guests, when idle and in `sched::breathe`;
//! who doesn't come to any of these for long can only be found by others. Each
//! CPU's timer says every few seconds that it lives, and looks at the next CPU. A CPU
//! that a virtual machine has to itself is left alone.

use crate::timer::{self, Timer};
use crate::{cpu, panic, sched, time, user_space};
use alloc::sync::Arc;
use alloc::task::Wake;
use base::{Lock, Nanos, rank};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::task::Waker;
use cpu::MAX_CPUS;

const SECOND: Nanos = 1_000_000_000;
/// How often each CPU says so.
const PERIOD: Nanos = 4 * SECOND;
/// How long it may be silent (Linux: twice `watchdog_thresh`, as well).
const LIMIT: Nanos = 20 * SECOND;

/// CPUs that neither are watched nor watch, a bit each.
static ALONE: AtomicU64 = AtomicU64::new(0);
/// Each CPU's next time.
static NEXT: [Lock<Option<Timer>>; MAX_CPUS] =
    [const { Lock::new(rank::TIMER, None) }; MAX_CPUS];

struct Watch;

impl Wake for Watch {
    fn wake(self: Arc<Self>) {
        if is_alone(cpu::index()) {
            return;
        }
        look();
        arm(self);
    }
}

fn is_alone(cpu: usize) -> bool {
    ALONE.load(Relaxed) >> (cpu & 63) & 1 != 0
}

fn arm(watch: Arc<Watch>) {
    let next = timer::arm(time::now().saturating_add(PERIOD), Waker::from(watch));
    if let Some(slot) = NEXT.get(cpu::index()) {
        *slot.lock() = Some(next);
    }
}

/// Leaves these CPUs alone, a bit each: no interrupt of ours comes there.
pub fn leave_alone(cpus: u64) {
    ALONE.fetch_or(cpus, Relaxed);
    for (index, slot) in NEXT.iter().enumerate().filter(|(index, _)| is_alone(*index)) {
        let next = slot.lock().take();
        next.into_iter().for_each(timer::cancel);
        if let Some(cpu) = cpu::get(index) {
            cpu.alive.store(0, Relaxed);
        }
    }
}

/// This CPU is watched from here on, and watches.
pub fn init_cpu() {
    cpu::this().alive.store(time::now(), Relaxed);
    arm(Arc::new(Watch));
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
    let mut watched = cpu::online().filter(|cpu| !is_alone(cpu.index.load(Relaxed) as usize));
    let first = watched.next();
    let after = first.into_iter().chain(watched).find(|cpu| cpu.index.load(Relaxed) > index);
    let Some(next) = after.or(first) else { return };
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
    let comm = user_space::comm(&task);
    let comm = comm.split(|byte| *byte == 0).next().unwrap_or_default();
    log::error!("watchdog: BUG: soft lockup - CPU#{cpu} stuck for {seconds}s! [{}:{}]", comm.escape_ascii(), task.id);
    panic::trace_of(&task);
}
