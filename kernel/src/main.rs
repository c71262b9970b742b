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
    boot console cpu gic heap log machine memory panic power smp symbols time trap
}

/// The boot CPU, with everything but tasks in place.
#[cfg(target_os = "none")]
fn kernel_main(plan: &'static boot::BootPlan, _machine: &'static machine::Machine) -> ! {
    let until = time::now().saturating_add(50_000_000);
    time::arm_tick();
    while time::now() < until {
        arch::irq::wait_for_interrupt();
    }
    for cpu in cpu::online() {
        ::log::info!(
            "CPU {}: {} ticks",
            cpu.index.load(core::sync::atomic::Ordering::Relaxed),
            cpu.ticks.load(core::sync::atomic::Ordering::Relaxed)
        );
    }
    let _ = plan;
    power::off()
}

/// A secondary CPU, with everything but tasks in place.
#[cfg(target_os = "none")]
fn secondary_main() -> ! {
    time::arm_tick();
    loop {
        arch::irq::wait_for_interrupt();
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("This is a kernel: build it for aarch64-unknown-none-softfloat (./x build).");
}
