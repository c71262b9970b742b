//! Hypha's kernel. ARCHITECTURE.md is the map.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![deny(unsafe_code)]

#[cfg(target_os = "none")]
extern crate alloc;

macro_rules! modules {
    ($($name:ident)+) => {$(
        #[cfg(target_os = "none")]
        mod $name;
    )+};
}

modules! {
    boot clock console cpu crash fail features fp fs gic gich heap hyp init kvm lock_order log machine memory
    panic power process random sched smp speculation stack symbols syscall task time timer trap tty
    type1 user vcpu vdso wait watchdog
}

/// The boot CPU, with everything but tasks in place.
#[cfg(target_os = "none")]
fn kernel_main(plan: &'static boot::BootPlan) -> ! {
    lock_order::init();
    let idle = task::Task::idle(stack::Stack::boot());
    if idle.and_then(|idle| sched::prepare(0, idle)).is_err() {
        power::hang();
    }
    sched::adopt();
    watchdog::init_cpu();
    crash::boot();
    match plan.choice.hypervisor {
        mode::Hypervisor::Type1 => type1::start(plan),
        _ => init::start(plan),
    }
    sched::idle()
}

/// A secondary CPU, with everything but tasks in place.
#[cfg(target_os = "none")]
fn secondary_main() -> ! {
    sched::adopt();
    watchdog::init_cpu();
    sched::idle()
}
