//! A guest runs, and what of its exits needs no host.

use crate::cpu::Cpu;
use arch::fp::FpState;
use core::mem::offset_of;
use hyp_abi::{INVALID, SUCCESS, exit};
use vcpu_context::GuestContext;
use world_switch::nvhe;

const EC_FP: u64 = 0x07;
const EC_HVC64: u64 = 0x16;
const EC_IABT_LOWER: u64 = 0x20;
const EC_DABT_LOWER: u64 = 0x24;

const _: () = {
    assert!(size_of::<FpState>() == size_of::<vcpu_context::FpState>());
    assert!(offset_of!(FpState, fpcr) == offset_of!(vcpu_context::FpState, fpcr));
    assert!(exit::IRQ == world_switch::EXIT_IRQ && exit::SERROR == world_switch::EXIT_SERROR);
};

/// Enters the vCPU that `Run` names, until the host is needed.
pub fn run(cpu: &mut Cpu) -> u64 {
    // SAFETY: the host, who shares it, waits for the answer.
    let run = unsafe { &mut *cpu.run() };
    let phys = run.context;
    let context = match cpu.context {
        Some((last, context)) if last == phys => context,
        _ => {
            let Some(context) = cpu.host_memory::<GuestContext>(phys) else { return INVALID };
            cpu.context = Some((phys, context));
            context
        }
    };
    if run.policy_generation != cpu.generation {
        cpu.generation = run.policy_generation;
        cpu.policy = run.policy.unpack();
    }
    // SAFETY: the host lends it for the call; any bytes make one.
    unsafe { (*context).legalize() };
    if run.gicv3 != 0 {
        if core::mem::take(&mut run.load) != 0 {
            cpu.gic.load(&run.gic);
        }
        cpu.gic.enter(&run.gic, core::mem::take(&mut run.lr_write));
    }
    cpu.in_guest = true;
    let (vtcr, fp) = (run.vtcr_el2, run.guest_fp != 0);
    let this: *mut Cpu = cpu;
    // SAFETY: the host's world is live; the registers are the guest's. What
    // `answer` gets, and what it reaches by it, is not used here meanwhile.
    let (why, cpu) = unsafe {
        (*this).host.enter(&*context, vtcr, fp);
        let why = nvhe::run(context, answer, this.cast());
        (*this).host.leave(&mut *context);
        (why, &mut *this)
    };
    cpu.in_guest = false;
    // SAFETY: as above.
    let run = unsafe { &mut *cpu.run() };
    if run.gicv3 != 0 {
        cpu.gic.leave(&mut run.gic);
    }
    why
}

/// The vCPU leaves this CPU.
pub fn put(cpu: &mut Cpu) -> u64 {
    // SAFETY: as in `run`.
    let run = unsafe { &mut *cpu.run() };
    if run.gicv3 != 0 {
        cpu.gic.put(&mut run.gic);
    }
    SUCCESS
}

/// A synchronous exit, with the guest's world live: 0 goes back to the guest.
extern "C" fn answer(context: *mut GuestContext, argument: *mut ()) -> u64 {
    // SAFETY: `run` passes its own, and uses neither until it has the result.
    let (context, cpu) = unsafe { (&mut *context, &mut *argument.cast::<Cpu>()) };
    match context.esr_el2 >> 26 & 0x3f {
        EC_HVC64 => {
            let [function, arg1, ..] = context.regs;
            let Some(value) = psci::answer(&cpu.policy, function as u32, arg1) else {
                return exit::SYNC;
            };
            let [x0, ..] = &mut context.regs;
            *x0 = value;
            0
        }
        EC_FP => {
            take_fp(context, cpu);
            0
        }
        EC_IABT_LOWER | EC_DABT_LOWER => {
            if cpu.host.read_abort(context) {
                exit::SYNC
            } else {
                0
            }
        }
        _ => exit::SYNC,
    }
}

/// The guest's first use of FP since somebody else's registers were in.
#[inline(never)]
fn take_fp(context: &mut GuestContext, cpu: &mut Cpu) {
    // SAFETY: as in `run`, which waits for the result.
    let run = unsafe { &mut *cpu.run() };
    nvhe::allow_guest_fp(true);
    arch::barrier::isb();
    if run.guest_fp == 0 {
        let host = core::mem::take(&mut run.host_fp);
        if let Some(state) = cpu.host_memory::<FpState>(host) {
            // SAFETY: the host's area, in RAM.
            unsafe { arch::fp::save(state) };
        }
        // SAFETY: the layouts agree, see above.
        unsafe { arch::fp::load(core::ptr::from_ref(&context.fp).cast()) };
        run.guest_fp = 1;
    }
}
