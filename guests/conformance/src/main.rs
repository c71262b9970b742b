//! Checks what a guest may expect of its hypervisor: that its registers are
//! its own over every kind of exit, that interrupts and timers come, that
//! devices see the width and the sign that the instruction says, that memory
//! is there, and that firmware answers as its specifications say.
#![cfg_attr(target_os = "none", no_std, no_main)]

mod devices;
mod firmware;
mod interrupts;
mod registers;
mod traps;

use guest_rt::cases::{self, Case};
use guest_rt::exception::on_sync;
use guest_rt::machine::Machine;
use guest_rt::{cpu, gic, say};

guest_rt::guest!(run);

fn run(m: &'static Machine) {
    say!("# {} CPUs, RAM {:#x} to {:#x}", m.cpu_count, m.ram.0, m.ram.1);
    on_sync(traps::sync);
    if m.gicd != 0 {
        gic::init(m);
        gic::init_cpu(m);
    }
    let mut all: [Case; 64] = [("", |_| Ok(())); 64];
    let mut n = 0;
    for group in
        [firmware::CASES, registers::CASES, traps::CASES, devices::CASES, interrupts::CASES]
    {
        for case in group {
            all[n] = *case;
            n += 1;
        }
    }
    cpu::mask();
    cases::run(m, &all[..n]);
}
