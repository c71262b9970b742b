//! A vCPU's power, as PSCI sees it.

use crate::{ALREADY_ON, INVALID_PARAMETERS, SUCCESS};

/// Whether a vCPU runs. (KVM has no "on pending": turning on is one step.)
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Power {
    /// It runs, or would if its thread were in KVM_RUN.
    On,
    /// It is off, until CPU_ON.
    Off,
}

/// CPU_ON's answer, by what the target is; [`SUCCESS`] means that the caller
/// resets and starts it, in one step with the look at its state.
pub const fn cpu_on(target: Option<Power>) -> u64 {
    match target {
        None => INVALID_PARAMETERS,
        Some(Power::On) => ALREADY_ON,
        Some(Power::Off) => SUCCESS,
    }
}

/// The affinity bits that count at a lowest affinity level.
pub const fn affinity_mask(level: u64) -> Option<u64> {
    match level {
        0 => Some(0xff_00ff_ffff),
        1 => Some(0xff_00ff_ff00),
        2 => Some(0xff_00ff_0000),
        3 => Some(0xff_0000_0000),
        _ => None,
    }
}

/// AFFINITY_INFO's answer: 0 if any vCPU under `target` is on, 1 if all are
/// off, INVALID_PARAMETERS if there is none. `vcpus` gives each vCPU's MPIDR
/// and power.
pub fn affinity_info(
    target: u64,
    level: u64,
    vcpus: impl IntoIterator<Item = (u64, Power)>,
) -> u64 {
    let Some(mask) = affinity_mask(level) else {
        return INVALID_PARAMETERS;
    };
    let mut found = false;
    for (mpidr, power) in vcpus {
        if mpidr & mask == target & mask {
            if power == Power::On {
                return 0;
            }
            found = true;
        }
    }
    if found { 1 } else { INVALID_PARAMETERS }
}
