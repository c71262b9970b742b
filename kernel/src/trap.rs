//! What the exception vectors call.
#![expect(unsafe_code, reason = "called from assembly")]

use crate::{console, cpu, fail, gic, panic, speculation, timer, type1, user_space, vcpu};
use arch::trap::TrapFrame;
use core::sync::atomic::Ordering;

/// Points this CPU at the vectors.
pub fn init() {
    speculation::init_cpu();
    if let Some(erratum) = cpuid::errata::repeat_tlbi(arch::sysreg::midr_el1())
        && arch::tlb::repeat()
    {
        log::info!("erratum {} of {}: TLB invalidation is repeated", erratum.number, erratum.cpu);
    }
    let vectors = cpu::this().host_vectors.load(Ordering::Relaxed);
    // SAFETY: the vectors of arch::trap, which call the functions below.
    unsafe { arch::host::set_vbar(vectors) };
    arch::sysreg::reset_debug();
    // 64-bit programs read 0, as on Linux. From here on it stays that.
    arch::sysreg::set_tpidrro_el0(0);
    arch::timer::allow_el0();
    arch::barrier::isb();
}

/// Exception classes (ESR.EC, Arm ARM D24.2.40).
pub mod ec {
    pub const FP: u64 = 0x07;
    pub const SVC64: u64 = 0x15;
    pub const IABORT_LOWER: u64 = 0x20;
    pub const IABORT_CURRENT: u64 = 0x21;
    pub const PC_ALIGNMENT: u64 = 0x22;
    pub const DABORT_LOWER: u64 = 0x24;
    pub const DABORT_CURRENT: u64 = 0x25;
    pub const SP_ALIGNMENT: u64 = 0x26;
    pub const FP_EXCEPTION: u64 = 0x2c;
    pub const BREAKPOINT_LOWER: u64 = 0x30;
    pub const STEP_LOWER: u64 = 0x32;
    pub const WATCHPOINT_LOWER: u64 = 0x34;
    pub const BRK64: u64 = 0x3c;
}

/// ESR.EC.
pub fn class(esr: u64) -> u64 {
    esr >> 26 & 0x3f
}

/// Whether the fault status code is one that mapping can mend: translation,
/// access flag and permission faults (0b0001xx to 0b0011xx).
pub fn can_be_mended(esr: u64) -> bool {
    matches!(esr >> 2 & 15, 1..=3)
}

/// FAR, where the exception has set it (Arm ARM D24.2.40); else what it holds is somebody
/// else's, perhaps a guest's: 0.
pub fn told_far(esr: u64, far: u64) -> u64 {
    // FnV: an abort that isn't a translation's, and knows of no address.
    const FAR_NOT_VALID: u64 = 1 << 10;
    match class(esr) {
        ec::DABORT_LOWER | ec::IABORT_LOWER | ec::DABORT_CURRENT | ec::IABORT_CURRENT
            if esr & FAR_NOT_VALID == 0 =>
        {
            far
        }
        ec::PC_ALIGNMENT | ec::WATCHPOINT_LOWER => far,
        _ => 0,
    }
}

#[unsafe(no_mangle)]
extern "C" fn hypha_el1_sync(frame: &mut TrapFrame, esr: u64, far: u64) {
    if class(esr) == ec::DABORT_CURRENT && user_space::mend(frame, esr, far) {
        return;
    }
    let what = match class(esr) {
        ec::DABORT_CURRENT => "data abort in the kernel",
        ec::IABORT_CURRENT => "instruction abort in the kernel",
        _ => "exception in the kernel",
    };
    panic::exception(format_args!("{what}"), frame, esr, told_far(esr, far))
}

/// On the CPU's emergency stack.
#[unsafe(no_mangle)]
extern "C" fn hypha_stack_overflow(frame: &mut TrapFrame, esr: u64, far: u64) -> ! {
    panic::stack_overflow(frame, esr, told_far(esr, far))
}

#[unsafe(no_mangle)]
extern "C" fn hypha_el1_irq() {
    interrupts();
}

#[unsafe(no_mangle)]
extern "C" fn hypha_bad_exception(frame: &mut TrapFrame, esr: u64, far: u64, which: u64) -> ! {
    const NAMES: [&str; 4] = ["synchronous exception", "IRQ", "FIQ", "SError"];
    let name = NAMES.get((which & 3) as usize).copied().unwrap_or("exception");
    panic::exception(format_args!("{name}"), frame, esr, told_far(esr, far))
}

/// How many interrupts are taken in one go before the interrupted code gets a
/// turn: a storm must not starve it.
const BURST: u32 = 64;

/// Takes what is pending. In the host's regime, interrupts masked.
pub fn interrupts() {
    let taken = &cpu::this().taken;
    for _ in 0..BURST {
        let intid = match taken.load(Ordering::Relaxed) {
            cpu::NONE_TAKEN => match gic::acknowledge() {
                Some(intid) => intid,
                None => break,
            },
            intid => {
                taken.store(cpu::NONE_TAKEN, Ordering::Relaxed);
                intid
            }
        };
        match gic::intid(intid) {
            gic::SGI_RESCHEDULE => {}
            gic::SGI_STOP => panic::stop(),
            gic::SGI_PUT => vcpu::put_requested(),
            id if id == arch::timer::host_intid() => {
                cpu::this().ticks.fetch_add(1, Ordering::Relaxed);
                let _suspended = fail::suspend();
                timer::interrupt();
            }
            id => match vcpu::interrupt(id).or_else(|| type1::interrupt(id)) {
                // Stays active: the guest deactivates it.
                Some(true) => continue,
                Some(false) => {}
                None => {
                    let _suspended = fail::suspend();
                    if !console::interrupt(id) {
                        log::warn!("Interrupt {id} has no handler: disabled");
                        gic::disable(id);
                    }
                }
            },
        }
        gic::deactivate(intid);
    }
}
