//! Firmware: PSCI (Arm DEN 0022) over SMC or HVC.

use crate::machine::Conduit;
use crate::{hyp, memory};
use smccc::{Hvc, Smc, psci};

/// Turns the machine off; stands still if firmware won't.
pub fn off() -> ! {
    hyp::leave_cpu();
    match conduit() {
        Some(Conduit::Smc) => drop(psci::system_off::<Smc>()),
        Some(Conduit::Hvc) => drop(psci::system_off::<Hvc>()),
        None => log::error!("Power off: the device tree names no PSCI"),
    }
    hang()
}

/// Resets the machine; stands still if firmware won't.
pub fn reset() -> ! {
    hyp::leave_cpu();
    match conduit() {
        Some(Conduit::Smc) => drop(psci::system_reset::<Smc>()),
        Some(Conduit::Hvc) => drop(psci::system_reset::<Hvc>()),
        None => log::error!("Reset: the device tree names no PSCI"),
    }
    hang()
}

/// Starts another CPU at physical `entry` with `context` in x0.
pub fn cpu_on(id: u64, entry: u64, context: u64) -> Result<(), psci::Error> {
    match conduit() {
        Some(Conduit::Smc) => psci::cpu_on::<Smc>(id, entry, context),
        Some(Conduit::Hvc) => psci::cpu_on::<Hvc>(id, entry, context),
        None => Err(psci::Error::NotSupported),
    }
}

fn conduit() -> Option<Conduit> {
    memory::machine().and_then(|machine| machine.psci)
}

/// Stands still, for good.
pub fn hang() -> ! {
    arch::irq::mask_all();
    loop {
        arch::barrier::wfe();
    }
}
