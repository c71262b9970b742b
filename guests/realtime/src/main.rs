//! Wants to be woken every millisecond, and says how late it was: a guest that
//! steers something. It takes the virtual timer's interrupt at deadlines that
//! don't move, counts those that it missed, and reports every second (or `report=`
//! milliseconds) on its serial port, for ever or for `seconds=`. Every interrupt that there
//! can be is enabled: one that is not the timer's is strange, and is counted.
//!
//! How late: from the deadline to the handler's third instruction, by the virtual
//! counter. Between ticks it waits (WFI), or with `spin` it computes.
//!
//! With `alone=` it does nothing but compute, for so many seconds, and ends; with `suspend=`
//! it spends them in PSCI's CPU_SUSPEND.
//!
//! Every second it adds one to the word at `post=`, and says what stands at `look=`:
//! memory that it shares with others.
#![cfg_attr(target_os = "none", no_std, no_main)]

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use guest_rt::exception::{Frame, on_interrupt};
use guest_rt::machine::Machine;
use guest_rt::{cpu, gic, mmio, msr, psci, say};

/// Ticks a second.
const RATE: u64 = 1000;

static PERIOD: AtomicU64 = AtomicU64::new(0);
/// When the next tick is due.
static DUE: AtomicU64 = AtomicU64::new(0);
static TICKS: AtomicU64 = AtomicU64::new(0);
static MISSED: AtomicU64 = AtomicU64::new(0);
/// Interrupts that nobody should send it.
static STRANGE: AtomicU64 = AtomicU64::new(0);
/// Sum and maximum of how late they were.
static LATE: AtomicU64 = AtomicU64::new(0);
static WORST: AtomicU64 = AtomicU64::new(0);

fn arm(deadline: u64) {
    DUE.store(deadline, Relaxed);
    msr!("cntv_cval_el0", deadline);
    msr!("cntv_ctl_el0", 1);
    cpu::isb();
}

fn tick(intid: u32, frame: &mut Frame) {
    if intid != gic::VIRTUAL_TIMER {
        STRANGE.fetch_add(1, Relaxed);
        return;
    }
    let (due, period) = (DUE.load(Relaxed), PERIOD.load(Relaxed));
    let late = frame.time.wrapping_sub(due);
    TICKS.fetch_add(1, Relaxed);
    LATE.fetch_add(late, Relaxed);
    WORST.fetch_max(late, Relaxed);
    // A tick whose time is over when it comes was missed, with all in between.
    let missed = late / period;
    MISSED.fetch_add(missed, Relaxed);
    arm(due + period * (missed + 1));
}

// SAFETY: the runtime declares it with this signature, and there is one.
#[unsafe(no_mangle)]
fn guest_main(m: &'static Machine) {
    let period = cpu::frequency() / RATE;
    PERIOD.store(period, Relaxed);
    let spin = m.bootargs.split_ascii_whitespace().any(|word| word == "spin");
    let seconds = m.number("seconds", u64::MAX);
    let report = (m.number("report", 1000) * RATE / 1000).max(1);
    let (post, look) = (m.number("post", 0), m.number("look", 0));
    let alone = m.number("alone", 0);
    if alone != 0 {
        say!("rt: computes");
        let end = cpu::now() + alone * cpu::frequency();
        while cpu::now() < end {
            core::hint::spin_loop();
        }
        say!("rt: has computed");
        return;
    }
    on_interrupt(tick);
    gic::init(m);
    gic::init_cpu(m);
    let suspend = m.number("suspend", 0);
    if suspend != 0 {
        return suspended(cpu::now() + suspend * cpu::frequency());
    }
    gic::enable_all_spis(m, m.cpus[0]);
    say!("rt: started, {RATE} ticks a second of {} counts", cpu::frequency());
    arm(cpu::now() + period);
    cpu::unmask();
    let (mut all, mut all_missed, mut all_strange, mut all_worst) = (0, 0, 0, 0);
    for _ in 0..seconds.saturating_mul(RATE) / report {
        while TICKS.load(Relaxed) + MISSED.load(Relaxed) < report {
            if spin {
                core::hint::spin_loop();
            } else {
                cpu::wfi();
            }
        }
        cpu::mask();
        let ticks = TICKS.swap(0, Relaxed);
        let missed = MISSED.swap(0, Relaxed);
        let strange = STRANGE.swap(0, Relaxed);
        let late = LATE.swap(0, Relaxed);
        let worst = WORST.swap(0, Relaxed);
        cpu::unmask();
        all += ticks;
        all_missed += missed;
        all_strange += strange;
        all_worst = all_worst.max(worst);
        say!(
            "rt: {ticks} ticks, {missed} missed, {strange} strange, late by {} ns, at most {} ns",
            nanoseconds(late / ticks.max(1)),
            nanoseconds(worst)
        );
        if post != 0 {
            mmio::write32(post, mmio::read32(post).wrapping_add(1));
        }
        if look != 0 {
            say!("rt: there stands {}", mmio::read32(look));
        }
    }
    cpu::mask();
    say!(
        "rt: in all {all} ticks, {all_missed} missed, {all_strange} strange, late by at most {} ns",
        nanoseconds(all_worst)
    );
}

fn suspended(end: u64) {
    say!("rt: is suspended");
    msr!("cntv_cval_el0", end);
    msr!("cntv_ctl_el0", 1);
    cpu::isb();
    while cpu::now() < end {
        // Wakes when the timer's interrupt is pending, which is masked.
        psci::call([psci::CPU_SUSPEND, 0, 0, 0]);
    }
    say!("rt: was suspended");
}

fn nanoseconds(counts: u64) -> u64 {
    counts.saturating_mul(1_000_000_000) / cpu::frequency()
}
