//! From power-on to the first task.
#![expect(unsafe_code, reason = "entry from assembly")]

mod early;

pub use early::{BootPlan, take_table};

use crate::{console, cpu, gic, hyp, log, machine, memory, smp, stack, time};
use arch::regime::Regime;
use mode::Hypervisor;

core::arch::global_asm!(include_str!("head.s"));

/// The boot CPU, with the MMU on, in the kernel's own half if there is one.
#[unsafe(no_mangle)]
extern "C" fn hypha_main(plan: &'static mut BootPlan, device_tree: u64) -> ! {
    cpu::init(0, stack::boot_emergency());
    if plan.facts.entered_at == 1 {
        arch::timer::use_virtual();
    }
    time::init();
    log::init();
    // SAFETY: early.rs mapped the device tree at its linear address.
    let tree = unsafe { machine::read(device_tree, plan.offset) };
    let machine = memory::init(plan, device_tree, &tree);
    crate::user_space::init();
    console::init(machine);
    banner(plan);
    memory::report();
    for warning in &machine.arguments.warnings {
        ::log::warn!("{warning}");
    }
    crate::random::init();
    crate::trap::init();
    gic::init(machine);
    if plan.choice.hypervisor == Hypervisor::Nvhe {
        match hyp::prepare(plan, machine) {
            Ok(()) => hyp::enter_cpu(),
            Err(why) => ::log::error!("hyp: {why}"),
        }
    }
    if let Err(why) = crate::features::admit_cpu() {
        ::log::error!("CPU0 lacks {why}");
    }
    smp::start_secondaries(plan, machine);
    console::end_early(machine);
    crate::kernel_main(plan)
}

/// The first lines of the log: the three things that "VHE" can mean (whether
/// the CPU has it, where the kernel runs, which hypervisor is in use), and why.
fn banner(plan: &BootPlan) {
    let facts = &plan.facts;
    ::log::info!("Hypha {} (rustc, Apache-2.0 OR MIT)", env!("CARGO_PKG_VERSION"));
    if let Some(machine) = memory::machine().filter(|machine| !machine.model.is_empty()) {
        ::log::info!("Machine: {}", machine.model);
    }
    let has = if facts.cpu_has_vhe { "has" } else { "has no" };
    let hidden = if facts.vhe_hidden { ", hidden by id_aa64mmfr1.vh=0" } else { "" };
    let res1 = if facts.e2h_is_res1 { ", and only E2H=1" } else { "" };
    ::log::info!("CPU: MIDR {:#010x} {has} FEAT_VHE{hidden}{res1}", arch::sysreg::midr_el1());
    let place = match plan.regime {
        Regime::El1 => "EL1",
        Regime::El2Vhe => "EL2 (HCR_EL2.E2H=1)",
        Regime::El2 => "EL2 (HCR_EL2.E2H=0)",
    };
    ::log::info!("Kernel: at {place}, entered at EL{}, loaded at {:#x}", facts.entered_at, plan.image);
    let hypervisor = match plan.choice.hypervisor {
        Hypervisor::None => "none, there is no /dev/kvm",
        Hypervisor::Vhe => "VHE, in the kernel",
        Hypervisor::Nvhe => "nVHE, hyp at EL2",
        Hypervisor::Type1 => "Type-1, in the kernel, no user space",
    };
    ::log::info!("Hypervisor: {hypervisor}: {}", plan.choice.reason.text());
}
