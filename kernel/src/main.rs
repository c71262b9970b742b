//! Hypha's kernel. ARCHITECTURE.md is the map.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![deny(unsafe_code)]
#![cfg_attr(
    not(feature = "user-space"),
    allow(dead_code, reason = "what all modes have also answers what only programs ask")
)]

#[cfg(target_os = "none")]
extern crate alloc;

macro_rules! modules {
    (if $when:meta: $($name:ident)+) => {$(
        #[cfg(all(target_os = "none", $when))]
        mod $name;
    )+};
}

modules! {
    if all(): boot console cpu crash fail features fp gic gich heap hyp kvm lock_order log machine memory
    panic power random sched smp speculation stack symbols task time timer trap type1 vcpu wait watchdog
}

// Programs, and what they need of the kernel: all modes but Type-1.
modules! {
    if feature = "user-space": clock el0 fs init process syscall tty user user_space vdso
}
#[cfg(all(target_os = "none", not(feature = "user-space")))]
#[path = "no_user_space.rs"]
mod user_space;

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
        _ => user_space::start(plan),
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
