//! The first task: what boot leads to.

use crate::boot::BootPlan;
use crate::{cpu, power, sched, task, time};
use core::sync::atomic::Ordering;

/// Starts PID 1 from the initramfs.
pub fn start(_plan: &'static BootPlan) {
    without_user_space();
}

/// There is no EL0 in this regime (EL2 with E2H=0): shows that CPUs and timers
/// live, which is all that can be done before Type-1 is built.
pub fn without_user_space() {
    let body = || {
        for round in [10, 20, 30] {
            sched::park_until(Some(time::now().saturating_add(10_000_000)));
            log::info!("Timer: {round} ms");
        }
        for cpu in cpu::online() {
            let (index, ticks) = (cpu.index.load(Ordering::Relaxed), cpu.ticks.load(Ordering::Relaxed));
            log::info!("CPU {index}: {ticks} timer interrupts");
        }
        log::info!("No virtual machines to run: powering off");
        power::off()
    };
    match task::Task::new(1, body) {
        Ok(task) => sched::start(&task),
        Err(_) => power::hang(),
    }
}
