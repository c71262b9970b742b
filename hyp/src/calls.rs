//! The host's calls.

use crate::cpu::{self, Cpu};
use crate::guest;
use hyp_abi::{Call, NOT_SUPPORTED, SUCCESS, VERSION};
use world_switch::nvhe;

/// An HVC of the host's that is no stub call: x0 to x4, and what x0 becomes.
#[unsafe(no_mangle)]
extern "C" fn hyp_host_call(number: u64, x1: u64, x2: u64, x3: u64, x4: u64) -> u64 {
    // SAFETY: the vectors that call this are in force after `hyp_init`; this
    // is the one reference, there is no entry while one is being answered.
    let cpu = unsafe { cpu::this() };
    if number == Call::Run as u64 { guest::run(cpu) } else { other(cpu, number, x1, x2, x3, x4) }
}

/// Not on the way into a guest and out of it.
#[cold]
#[inline(never)]
fn other(cpu: &mut Cpu, number: u64, x1: u64, x2: u64, x3: u64, x4: u64) -> u64 {
    let Some(call) = Call::from_number(number) else { return NOT_SUPPORTED };
    match call {
        // Taken before; this CPU is here already.
        Call::Init | Call::Run => NOT_SUPPORTED,
        Call::Version => VERSION,
        Call::GicType => cpu.gic.vtr,
        Call::Put => guest::put(cpu),
        Call::FlushGuest => {
            // SAFETY: it is the host that called.
            unsafe { cpu.host.flush_guest(x1 as u16, x2, x3, x4 != 0) };
            SUCCESS
        }
        Call::FlushLocal => {
            match x1 as u16 {
                0 => nvhe::flush_all_guests_local(),
                // SAFETY: as above.
                vmid => unsafe { cpu.host.flush_guest_local(vmid) },
            }
            SUCCESS
        }
        Call::Crash => crate::failure::crash(),
    }
}
