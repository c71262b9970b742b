//! Type-1 mode: the VMs that the device tree names, on this kernel alone.
//!
//! No system call, no EL0 program, no file system. Each VM has a supervisor, a
//! kernel thread that builds it, starts a thread for each of its virtual CPUs,
//! and builds it anew when it resets, crashes or hangs; it builds on the VM's own CPUs, so
//! that others don't notice, and waits where it disturbs nobody. What a VMM does for its VMs through KVM's file
//! descriptors is done here by calls of the same objects (`crates/kvm`).

mod console;
mod devices;
mod memory;
mod plan;
mod report;
mod supervisor;
mod vm;

pub use devices::interrupt;

use crate::boot::BootPlan;
use crate::{cpu, kvm, power, sched, task, time, watchdog};
use core::sync::atomic::Ordering;

/// Starts the VMs.
pub fn start(boot: &BootPlan) {
    let plans = plan::read();
    if plans.is_empty() {
        return without_guests();
    }
    let Some(host) = kvm::hypervisor(boot) else { return without_guests() };
    for plan in plans.iter().filter(|plan| plan.is_exclusive()) {
        watchdog::leave_alone(plan.all_cpus());
    }
    let exclusive = plan::exclusive_cpus(&plans);
    // Somebody has to tidy up.
    if domain::cpus::for_the_host(plan::online_cpus(), exclusive).is_some() {
        sched::reserve(exclusive);
    }
    console::init(&plans);
    devices::init(&plans);
    supervisor::start(plans, host);
}

/// Shows that CPUs and timers live, which is all that can be done.
fn without_guests() {
    let body = || {
        for elapsed in [10, 20, 30] {
            sched::park_until(Some(time::now().saturating_add(10_000_000)));
            log::info!("Timer: {elapsed} ms");
        }
        for cpu in cpu::online() {
            let index = cpu.index.load(Ordering::Relaxed);
            let ticks = cpu.ticks.load(Ordering::Relaxed);
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
