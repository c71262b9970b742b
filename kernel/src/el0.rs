//! To EL0 and back: system calls, and the faults of programs.
#![expect(unsafe_code, reason = "called from assembly, and leaves for EL0")]

use crate::process::{self, Fault, FaultKind, cputime};
use crate::task::Task;
use crate::trap::{self, can_be_mended, class, ec, told_far};
use crate::{sched, syscall};
use arch::trap::TrapFrame;
use arch::uaccess;

/// The alignment fault's status code.
const ALIGNMENT_FAULT: u64 = 0b10_0001;

#[unsafe(no_mangle)]
extern "C" fn hypha_el0_sync(frame: &mut TrapFrame, esr: u64, far: u64) {
    match class(esr) {
        ec::SVC64 => syscall::enter(frame),
        ec::DABORT_LOWER | ec::IABORT_LOWER if can_be_mended(esr) => {
            // TBI0: the top byte is not part of the address.
            let address = far & ((1 << 56) - 1);
            cputime::enter_kernel(&sched::current_ref());
            if let Err(fault) = process::fault(address, access(esr)) {
                process::raise(frame, &fault, esr, far);
            }
            cputime::leave_kernel(&sched::current_ref());
        }
        ec::FP => sched::current_ref().fp.take(),
        class => {
            let kind = match class {
                ec::DABORT_LOWER if esr & 0x3f == ALIGNMENT_FAULT => FaultKind::Alignment,
                ec::DABORT_LOWER | ec::IABORT_LOWER => FaultKind::Bus,
                ec::PC_ALIGNMENT | ec::SP_ALIGNMENT => FaultKind::Alignment,
                ec::BRK64 => FaultKind::Breakpoint,
                ec::BREAKPOINT_LOWER | ec::STEP_LOWER | ec::WATCHPOINT_LOWER => FaultKind::Trace,
                ec::FP_EXCEPTION => FaultKind::FloatingPoint,
                // ID registers too: HWCAP_CPUID isn't offered.
                _ => FaultKind::IllegalInstruction,
            };
            let told = told_far(esr, far);
            let address = match class {
                ec::DABORT_LOWER | ec::IABORT_LOWER | ec::PC_ALIGNMENT => told,
                _ => frame.pc,
            };
            process::raise(frame, &Fault { kind, address }, esr, told);
        }
    }
    exit_to_el0(frame);
}

#[unsafe(no_mangle)]
extern "C" fn hypha_el0_irq(frame: &mut TrapFrame) {
    trap::interrupts();
    exit_to_el0(frame);
}

/// All that must be done before EL0 goes on, with interrupts masked from the
/// last look to the ERET.
fn exit_to_el0(frame: &mut TrapFrame) {
    loop {
        if sched::need_resched() {
            sched::preempt();
        } else if process::has_work() {
            process::work(frame);
        } else {
            break;
        }
    }
    let task = sched::current_ref();
    prepare(&task);
}

/// What of EL0's state isn't in the trap frame.
fn prepare(task: &Task) {
    task.fp.prepare_el0();
}

/// A fault of the kernel's, in a copy from or to user space: maps the page, or ends
/// the copy. Whether it was one.
pub fn mend(frame: &mut TrapFrame, esr: u64, far: u64) -> bool {
    let Some(fixup) = uaccess::fixup(frame.pc) else { return false };
    if !can_be_mended(esr) || process::fault(far, access(esr)).is_err() {
        frame.pc = fixup;
    }
    true
}

/// Leaves for EL0 with `registers`; what the task was doing in the kernel is
/// over.
pub fn enter(registers: &TrapFrame) -> ! {
    let task = sched::current();
    cputime::leave_kernel(&task);
    prepare(&task);
    // SAFETY: the frame is at the top of the current task's stack, far above
    // where we are; PSTATE is EL0's by the callers' construction, forced here.
    unsafe {
        let frame = task.user_frame();
        frame.write(*registers);
        (*frame).pstate = pstate(registers.pstate);
        drop(task);
        arch::trap::return_to_el0(frame)
    }
}

/// PSTATE for EL0, whatever is asked for: EL0t, AArch64, nothing masked; the
/// flags and the bits EL0 may choose (NZCV, TCO, DIT, SSBS, BTYPE) as given.
pub fn pstate(pstate: u64) -> u64 {
    const USER: u64 = 0xf << 28 | 1 << 25 | 1 << 24 | 1 << 12 | 3 << 10;
    pstate & USER
}

/// What an abort wanted to do.
fn access(esr: u64) -> process::Access {
    // WnR is bit 6; cache maintenance (CM, bit 8) sets it but only needs to read.
    if matches!(class(esr), ec::IABORT_LOWER | ec::IABORT_CURRENT) {
        process::Access::Exec
    } else if esr & 1 << 6 != 0 && esr & 1 << 8 == 0 {
        process::Access::Write
    } else {
        process::Access::Read
    }
}
