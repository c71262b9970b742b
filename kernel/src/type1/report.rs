//! What Type-1 mode has to say: the last words of a guest that crashed or hung, and what is not its
//! guests'.

use crate::sched;
use core::fmt::Arguments;
use frame::Use;
use vcpu_context::{El1, GuestContext};

/// All virtual machines are up, and `guests` bytes are their memory and modules: what
/// the rest is.
pub fn memory(guests: u64) {
    let stats = frame::stats();
    let ours = stats.total.saturating_sub(stats.free).saturating_sub(guests);
    let stacks = stats.used_for(Use::Stack);
    let tables = stats.used_for(Use::Table).saturating_add(stats.used_for(Use::GuestTable));
    let heap = stats.used_for(Use::Heap);
    let known = [stats.table, stacks, tables, heap].into_iter().fold(0, u64::saturating_add);
    log::info!(
        "Type-1: all virtual machines are up, {} KiB are not theirs: {} frame table, {} stacks, \
         {} translation tables, {} heap, {} kernel and others",
        ours >> 10,
        stats.table >> 10,
        stacks >> 10,
        tables >> 10,
        heap >> 10,
        ours.saturating_sub(known) >> 10
    );
}

/// The registers of a virtual CPU, to the log. Where the line is slow that takes long: others
/// get their turn between.
pub fn registers(name: &str, index: usize, context: &GuestContext) {
    let line = |text: Arguments<'_>| {
        log::error!("{name}: {text}");
        sched::breathe();
    };
    line(format_args!(
        "CPU {index}: PC {:#018x} PSTATE {:#010x} ESR_EL2 {:#010x} FAR_EL2 {:#018x} HPFAR_EL2 {:#x}",
        context.pc, context.pstate, context.esr_el2, context.far_el2, context.hpfar_el2
    ));
    for (n, group) in (0..31u32).step_by(4).zip(context.regs.chunks(4)) {
        match *group {
            [a, b, c, d] => line(format_args!("x{n:<2} {a:016x} {b:016x} {c:016x} {d:016x}")),
            [a, b, c] => line(format_args!("x{n:<2} {a:016x} {b:016x} {c:016x}")),
            _ => {}
        }
    }
    for register in [
        El1::SP_EL1,
        El1::ELR_EL1,
        El1::SPSR_EL1,
        El1::ESR_EL1,
        El1::FAR_EL1,
        El1::VBAR_EL1,
        El1::TTBR0_EL1,
        El1::TTBR1_EL1,
        El1::TCR_EL1,
        El1::SCTLR_EL1,
    ] {
        line(format_args!("{:<10} {:#018x}", register.name(), context.el1(register)));
    }
}
