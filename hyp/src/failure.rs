//! When something here is broken: the host hears of it, with registers, and
//! stops the machine.

use crate::cpu;
use core::arch::asm;
use core::panic::PanicInfo;

/// From entry.s, registers saved, on an empty stack: where the host goes on.
#[unsafe(no_mangle)]
extern "C" fn hyp_failed() -> u64 {
    // SAFETY: whoever held a reference is gone for good: the stack is anew.
    let cpu = unsafe { cpu::this() };
    if cpu.failed {
        // Even telling fails. One CPU fewer; the others' watchdogs see it.
        loop {
            arch::barrier::wfe();
        }
    }
    cpu.failed = true;
    if cpu.in_guest {
        // SAFETY: the guest's world was entered on this CPU and is live, or on
        // its way in or out.
        unsafe { cpu.host.abandon_guest() };
    }
    cpu.host_panic
}

/// Fails on request.
pub fn crash() -> ! {
    // SAFETY: a breakpoint instruction, which goes to the vectors above.
    unsafe { asm!("brk #0x48", options(noreturn)) }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let line = info.location().map_or(0, |at| u64::from(at.line()));
    // SAFETY: as in `hyp_failed`; `run` is this CPU's.
    unsafe { (*cpu::this().run()).failure.line = line };
    crash()
}
