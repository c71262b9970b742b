//! Secondary CPUs.
#![expect(unsafe_code, reason = "entry from assembly")]

use crate::boot::BootPlan;
use crate::machine::Machine;
use crate::{cpu, features, gic, memory, power, sched, time, trap};
use crate::stack::{self, Stack};
use crate::task::Task;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Once;

/// What head.s hands a CPU that comes up: read with its MMU off.
#[repr(C)]
struct SecondaryBoot {
    plan: u64,
    stack_top: u64,
    index: u64,
}

#[repr(C, align(64))]
struct BootSlot(UnsafeCell<SecondaryBoot>);
// SAFETY: the boot CPU writes it while no other CPU is coming up.
unsafe impl Sync for BootSlot {}
static SLOT: BootSlot = BootSlot(UnsafeCell::new(SecondaryBoot { plan: 0, stack_top: 0, index: 0 }));

/// Why the CPU that comes up can't be used.
static REFUSED: Once<&str> = Once::new();

/// The emergency stack of the CPU that comes up.
static EMERGENCY: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    fn __secondary_entry();
}

/// Brings up every CPU that the device tree names, one after the other, up to
/// `maxcpus=`.
pub fn start_secondaries(plan: &'static BootPlan, machine: &Machine) {
    let boot = cpu::this();
    boot.online.store(true, Ordering::Release);
    let plan_len = size_of::<BootPlan>();
    // SAFETY: the plan is mapped; the secondaries read it with their MMU off.
    unsafe { arch::cache::clean_to_poc(core::ptr::from_ref(plan) as usize, plan_len) };
    let others = machine.cpus.iter().filter(|&&id| id != boot.hardware_id.load(Ordering::Relaxed));
    let max = machine.arguments.maxcpus.unwrap_or(u32::MAX).max(1) as usize;
    let max = max.min(cpu::MAX_CPUS);
    for (index, &id) in (1..max).zip(others) {
        if let Err(why) = start(plan, index, id) {
            log::error!("CPU{index} (MPIDR {id:#x}) did not start: {why}");
            break;
        }
    }
    let count = cpu::online().count();
    log::info!("CPUs: {count} of {} up in {} us", machine.cpus.len(), time::now() / 1000);
}

fn start(plan: &'static BootPlan, index: usize, id: u64) -> Result<(), &'static str> {
    let no_memory = |_| "no memory for its stacks";
    let stack = Stack::new().map_err(no_memory)?;
    let (_, stack_top) = stack.range();
    let idle = Task::idle(stack).map_err(no_memory)?;
    sched::prepare(index, idle).map_err(no_memory)?;
    EMERGENCY.store(stack::emergency().map_err(no_memory)?, Ordering::Relaxed);
    let slot = SecondaryBoot {
        plan: memory::virt_to_phys(core::ptr::from_ref(plan) as u64),
        stack_top,
        index: index as u64,
    };
    // SAFETY: nobody reads the slot until CPU_ON below; afterwards we wait.
    unsafe {
        SLOT.0.get().write(slot);
        arch::cache::clean_to_poc(SLOT.0.get() as usize, size_of::<SecondaryBoot>());
    }
    let entry = memory::virt_to_phys(__secondary_entry as *const () as u64);
    let context = memory::virt_to_phys(SLOT.0.get() as u64);
    power::cpu_on(id, entry, context).map_err(|_| "PSCI CPU_ON refused")?;
    let deadline = time::now().saturating_add(1_000_000_000);
    let is_up = || cpu::get(index).is_some_and(|cpu| cpu.online.load(Ordering::Acquire));
    while !is_up() {
        if let Some(missing) = REFUSED.get() {
            log::error!("CPU{index} lacks {missing}, which the kernel relies on");
            return Err("it is not like the first");
        }
        if time::now() > deadline {
            return Err("it did not come up within a second");
        }
        arch::barrier::yield_hint();
    }
    Ok(())
}

/// A secondary CPU, with its MMU on, in the kernel's map.
#[unsafe(no_mangle)]
extern "C" fn hypha_secondary_main(index: u64) -> ! {
    cpu::init(index as usize, EMERGENCY.load(Ordering::Relaxed));
    trap::init();
    if memory::phys_to_virt(0) != 0 {
        // TTBR0 has the identity map that the CPU came up on. Its entries are
        // global: left in the TLB, they would shadow those of processes.
        memory::close_lower_half();
    }
    if let Err(missing) = features::admit_cpu() {
        REFUSED.call_once(|| missing);
        power::hang();
    }
    gic::init_cpu();
    crate::hyp::enter_cpu();
    crate::secondary_main()
}
