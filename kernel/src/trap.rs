//! What the exception vectors call.
#![expect(unsafe_code, reason = "called from assembly")]

use crate::{cpu, gic, panic, time};
use arch::trap::TrapFrame;
use core::sync::atomic::Ordering;

/// Points this CPU at the vectors.
pub fn init() {
    // SAFETY: the vectors of arch::trap, which call the functions below.
    unsafe { arch::host::set_vbar(arch::trap::vectors()) };
    arch::sysreg::reset_debug();
    arch::barrier::isb();
}

#[unsafe(no_mangle)]
extern "C" fn hypha_el0_sync(frame: &mut TrapFrame, esr: u64, far: u64) {
    panic::exception("exception from EL0", frame, esr, far)
}

#[unsafe(no_mangle)]
extern "C" fn hypha_el0_irq(_frame: &mut TrapFrame) {
    interrupts();
}

#[unsafe(no_mangle)]
extern "C" fn hypha_el1_sync(frame: &mut TrapFrame, esr: u64, far: u64) {
    panic::exception("exception in the kernel", frame, esr, far)
}

#[unsafe(no_mangle)]
extern "C" fn hypha_el1_irq() {
    interrupts();
}

#[unsafe(no_mangle)]
extern "C" fn hypha_bad_exception(frame: &mut TrapFrame, esr: u64, far: u64, which: u64) -> ! {
    const NAMES: [&str; 4] = ["synchronous exception", "IRQ", "FIQ", "SError"];
    let name = NAMES.get((which & 3) as usize).copied().unwrap_or("exception");
    let _ = which;
    panic::exception(name, frame, esr, far)
}

/// How many interrupts are taken in one go before the interrupted code gets a
/// turn: a storm must not starve it.
const BURST: u32 = 64;

fn interrupts() {
    for _ in 0..BURST {
        let Some(intid) = gic::acknowledge() else { break };
        if intid == arch::timer::host_intid() {
            cpu::this().ticks.fetch_add(1, Ordering::Relaxed);
            time::arm_tick();
        }
        gic::deactivate(intid);
    }
}
