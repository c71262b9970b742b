//! What a guest's firmware calls ask for: PSCI 1.1 (Arm DEN 0022), the SMC
//! Calling Convention 1.1 (DEN 0028), the true random number firmware interface
//! 1.0 (DEN 0098), and the services by which guests know KVM.
//!
//! [`answer`] takes what costs nothing: it runs at EL2 in the guest's HCR_EL2.
//! [`decide`] takes every call and says as data what is to be done; the KVM
//! layer does it. [`Watchdog`] is what Type-1 mode answers [`Action::Watchdog`] with.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

#[cfg(test)]
extern crate std;

pub mod function;
mod power;
#[cfg(test)]
mod tests;
mod watchdog;

pub use power::{Power, affinity_info, affinity_mask, cpu_on};
pub use watchdog::Watchdog;

use function as f;

/// SMCCC's NOT_SUPPORTED, and PSCI's.
pub const NOT_SUPPORTED: u64 = -1i64 as u64;
/// SMCCC's NOT_REQUIRED.
pub const NOT_REQUIRED: u64 = -2i64 as u64;
/// TRNG's INVALID_PARAMETER.
pub const TRNG_INVALID_PARAMETER: u64 = -2i64 as u64;
/// TRNG's NO_ENTROPY.
pub const TRNG_NO_ENTROPY: u64 = -3i64 as u64;
/// Success.
pub const SUCCESS: u64 = 0;
/// PSCI's INVALID_PARAMETERS.
pub const INVALID_PARAMETERS: u64 = -2i64 as u64;
/// PSCI's DENIED.
pub const DENIED: u64 = -3i64 as u64;
/// PSCI's ALREADY_ON.
pub const ALREADY_ON: u64 = -4i64 as u64;
/// PSCI's INTERNAL_FAILURE.
pub const INTERNAL_FAILURE: u64 = -6i64 as u64;

/// SMCCC 1.1.
pub const SMCCC_VERSION: u64 = 0x1_0001;

/// A version of PSCI: major in the upper half.
pub const PSCI_0_2: u32 = 0x0_0002;
/// PSCI 1.0.
pub const PSCI_1_0: u32 = 0x1_0000;
/// PSCI 1.1.
pub const PSCI_1_1: u32 = 0x1_0001;

/// KVM_REG_ARM_STD_BIT_TRNG_V1_0.
pub const STD_TRNG: u64 = 1;
/// KVM_REG_ARM_VENDOR_HYP_BIT_FUNC_FEAT.
pub const VENDOR_FEATURES: u64 = 1;

/// What the host does about a speculation problem that firmware could help
/// with; as KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_n shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Workaround {
    /// Affected, and there's nothing to call.
    #[default]
    NotAvailable,
    /// Affected; the call exists.
    Available,
    /// Not affected.
    NotRequired,
}

/// What a VM's guests may call: part of the immutable snapshot of the VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// The version of PSCI.
    pub psci_version: u32,
    /// Standard secure services, KVM_REG_ARM_STD_BMAP.
    pub std: u64,
    /// Standard hypervisor services, KVM_REG_ARM_STD_HYP_BMAP. None yet.
    pub std_hyp: u64,
    /// Vendor-specific hypervisor services, KVM_REG_ARM_VENDOR_HYP_BMAP.
    pub vendor_hyp: u64,
    /// Branch predictor (Spectre variant 2).
    pub workaround_1: Workaround,
    /// Speculative store bypass. `Available` isn't offered: guests use SSBS.
    pub workaround_2: Workaround,
    /// Branch history (Spectre-BHB).
    pub workaround_3: Workaround,
    /// SYSTEM_SUSPEND exits to the VMM (KVM_CAP_ARM_SYSTEM_SUSPEND).
    pub system_suspend: bool,
    /// The calls of a watchdog exit to the VMM. For Type-1 mode alone.
    pub watchdog: bool,
    /// A filter (KVM_ARM_VM_SMCCC_FILTER) denies or forwards calls. Whoever has it
    /// asks it before [`decide`]; [`answer`] knows nothing.
    pub filtered: bool,
}

impl Policy {
    /// What is offered in [`Policy::std`], and its default.
    pub const STD: u64 = STD_TRNG;
    /// What is offered in [`Policy::std_hyp`], and its default.
    pub const STD_HYP: u64 = 0;
    /// What is offered in [`Policy::vendor_hyp`], and its default.
    pub const VENDOR_HYP: u64 = VENDOR_FEATURES;

    /// Everything offered, and no workaround known.
    pub const fn new() -> Self {
        Policy {
            psci_version: PSCI_1_1,
            std: Self::STD,
            std_hyp: Self::STD_HYP,
            vendor_hyp: Self::VENDOR_HYP,
            workaround_1: Workaround::NotAvailable,
            workaround_2: Workaround::NotAvailable,
            workaround_3: Workaround::NotAvailable,
            system_suspend: false,
            watchdog: false,
            filtered: false,
        }
    }

    const fn has_1_0(&self) -> bool {
        self.psci_version >= PSCI_1_0
    }

    const fn has_1_1(&self) -> bool {
        self.psci_version >= PSCI_1_1
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::new()
    }
}

/// What a call asks of the KVM layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// x0 becomes this.
    Return(u64),
    /// x0 to x3 become these.
    Return4([u64; 4]),
    /// x0 to x3 become [`random`]'s.
    Random {
        /// How many bits are wanted.
        bits: u32,
        /// The 64-bit call.
        wide: bool,
    },
    /// x0 becomes SUCCESS and the vCPU waits for an interrupt as for WFI.
    CpuSuspend,
    /// The vCPU stops until another turns it on.
    CpuOff,
    /// x0 becomes what [`cpu_on`] says; on success the target is reset and
    /// starts.
    CpuOn {
        /// The target's MPIDR affinity.
        target: u64,
        /// Where it starts.
        entry: u64,
        /// Its x0.
        context_id: u64,
    },
    /// x0 becomes what [`affinity_info`] says.
    AffinityInfo {
        /// The target's MPIDR affinity.
        target: u64,
        /// The lowest affinity level that counts.
        level: u64,
    },
    /// x0 becomes INTERNAL_FAILURE, all vCPUs stop, and the VMM is told of
    /// KVM_SYSTEM_EVENT_SHUTDOWN.
    SystemOff,
    /// The same with KVM_SYSTEM_EVENT_RESET; `reset2` with the flag
    /// KVM_SYSTEM_EVENT_RESET_FLAG_PSCI_RESET2.
    SystemReset {
        /// It was SYSTEM_RESET2.
        reset2: bool,
    },
    /// The VMM is told of KVM_SYSTEM_EVENT_SUSPEND; registers stay.
    SystemSuspend,
    /// The VMM answers it, by [`Watchdog`].
    Watchdog,
}

/// The affinity fields of MPIDR_EL1.
pub const MPIDR_AFFINITY: u64 = 0xff_00ff_ffff;

/// Answers calls that need nothing but the policy, with one value for x0;
/// `None` means [`decide`]. `function` is W0, `arg1` is X1.
#[inline(always)]
pub const fn answer(policy: &Policy, function: u32, arg1: u64) -> Option<u64> {
    if policy.filtered { None } else { known(policy, function, arg1) }
}

/// [`answer`], whether there is a filter or not.
#[inline(always)]
const fn known(policy: &Policy, function: u32, arg1: u64) -> Option<u64> {
    // Most calls that exist aren't fast; what doesn't exist is.
    match function {
        f::SMCCC_VERSION => Some(SMCCC_VERSION),
        f::PSCI_VERSION => Some(policy.psci_version as u64),
        f::SMCCC_ARCH_FEATURES => Some(arch_features(policy, arg1 as u32)),
        f::PSCI_FEATURES => Some(psci_features(policy, arg1 as u32)),
        f::PSCI_MIGRATE_INFO_TYPE => Some(2),
        // Done by the exit itself, on CPUs that need it.
        f::ARCH_WORKAROUND_1 | f::ARCH_WORKAROUND_2 | f::ARCH_WORKAROUND_3 => Some(SUCCESS),
        f::CPU_SUSPEND
        | f::CPU_SUSPEND_64
        | f::CPU_OFF
        | f::CPU_ON
        | f::CPU_ON_64
        | f::AFFINITY_INFO
        | f::AFFINITY_INFO_64
        | f::SYSTEM_OFF
        | f::SYSTEM_RESET
        | f::SYSTEM_RESET2
        | f::SYSTEM_RESET2_64
        | f::SYSTEM_SUSPEND
        | f::SYSTEM_SUSPEND_64
        | f::TRNG_VERSION
        | f::TRNG_FEATURES
        | f::TRNG_GET_UUID
        | f::TRNG_RND
        | f::TRNG_RND_64
        | f::VENDOR_UID
        | f::VENDOR_FEATURES => None,
        f::WATCHDOG if policy.watchdog => None,
        // MIGRATE, CPU_FREEZE, STAT and the like, and all the rest.
        _ => Some(NOT_SUPPORTED),
    }
}

/// Says what a call asks for that no filter denies or forwards. `function` is W0, `args` X1 to X3.
pub const fn decide(policy: &Policy, function: u32, args: [u64; 3]) -> Action {
    match known(policy, function, args[0]) {
        Some(value) => Action::Return(value),
        None => decide_unanswered(policy, function, args),
    }
}

/// [`decide`] for a call that [`answer`] has left although nothing is filtered.
pub const fn decide_unanswered(policy: &Policy, function: u32, args: [u64; 3]) -> Action {
    let [arg1, arg2, arg3] = args;
    // A 32-bit call has 32-bit arguments, whatever the upper halves hold.
    let narrow = function & f::SMC64 == 0;
    let arg1 = if narrow { arg1 & 0xffff_ffff } else { arg1 };
    let arg2 = if narrow { arg2 & 0xffff_ffff } else { arg2 };
    let arg3 = if narrow { arg3 & 0xffff_ffff } else { arg3 };
    match function {
        f::CPU_SUSPEND | f::CPU_SUSPEND_64 => Action::CpuSuspend,
        f::CPU_OFF => Action::CpuOff,
        f::CPU_ON | f::CPU_ON_64 => {
            if arg1 & !MPIDR_AFFINITY != 0 {
                Action::Return(INVALID_PARAMETERS)
            } else {
                Action::CpuOn { target: arg1, entry: arg2, context_id: arg3 }
            }
        }
        f::AFFINITY_INFO | f::AFFINITY_INFO_64 => {
            if arg1 & !MPIDR_AFFINITY != 0 || affinity_mask(arg2).is_none() {
                Action::Return(INVALID_PARAMETERS)
            } else {
                Action::AffinityInfo { target: arg1, level: arg2 }
            }
        }
        f::SYSTEM_OFF => Action::SystemOff,
        f::SYSTEM_RESET => Action::SystemReset { reset2: false },
        f::SYSTEM_RESET2 | f::SYSTEM_RESET2_64 if policy.has_1_1() => {
            // Warm reset, or the vendor's own.
            let kind = arg1 as u32;
            if kind == 0 || kind >= 0x8000_0000 {
                Action::SystemReset { reset2: true }
            } else {
                Action::Return(INVALID_PARAMETERS)
            }
        }
        f::SYSTEM_SUSPEND | f::SYSTEM_SUSPEND_64 if policy.system_suspend && policy.has_1_0() => {
            Action::SystemSuspend
        }
        f::WATCHDOG if policy.watchdog => Action::Watchdog,
        f::TRNG_VERSION if policy.std & STD_TRNG != 0 => Action::Return(0x1_0000),
        f::TRNG_FEATURES if policy.std & STD_TRNG != 0 => match arg1 as u32 {
            f::TRNG_VERSION
            | f::TRNG_FEATURES
            | f::TRNG_GET_UUID
            | f::TRNG_RND
            | f::TRNG_RND_64 => Action::Return(SUCCESS),
            _ => Action::Return(NOT_SUPPORTED),
        },
        f::TRNG_GET_UUID if policy.std & STD_TRNG != 0 => Action::Return4(TRNG_UUID),
        f::TRNG_RND | f::TRNG_RND_64 if policy.std & STD_TRNG != 0 => {
            let wide = !narrow;
            let most = if wide { 192 } else { 96 };
            if arg1 == 0 || arg1 > most {
                Action::Return(TRNG_INVALID_PARAMETER)
            } else {
                Action::Random { bits: arg1 as u32, wide }
            }
        }
        f::VENDOR_UID if policy.vendor_hyp & VENDOR_FEATURES != 0 => Action::Return4(KVM_UID),
        f::VENDOR_FEATURES if policy.vendor_hyp & VENDOR_FEATURES != 0 => {
            Action::Return4([policy.vendor_hyp, 0, 0, 0])
        }
        _ => Action::Return(NOT_SUPPORTED),
    }
}

/// 28b46fb6-2ec5-11e9-a9ca-4b564d003a74, by which guests know KVM's services.
const KVM_UID: [u64; 4] = [0xb66f_b428, 0xe911_c52e, 0x564b_caa9, 0x743a_004d];

/// The random number generator's back end: Hypha's host. Version 4 UUID
/// 6b7c1f52-90d4-4d0e-b3a9-2f64e1c85a07.
const TRNG_UUID: [u64; 4] = [0x521f_7c6b, 0x0e4d_d490, 0x642f_a9b3, 0x075a_c8e1];

/// x0 to x3 of TRNG_RND: `entropy`'s lowest `bits` bits, least significant in
/// the last register; NO_ENTROPY if there is none.
pub fn random(bits: u32, wide: bool, entropy: Option<[u64; 3]>) -> [u64; 4] {
    let Some(entropy) = entropy else { return [TRNG_NO_ENTROPY, 0, 0, 0] };
    let width: u32 = if wide { 64 } else { 32 };
    let part = |index: u32| {
        let below = width.wrapping_mul(index);
        let wanted = bits.saturating_sub(below).min(width);
        let mask = match wanted {
            0 => 0,
            64 => u64::MAX,
            _ => (1u64 << wanted).wrapping_sub(1),
        };
        entropy.get(index as usize).copied().unwrap_or(0) & mask
    };
    [SUCCESS, part(2), part(1), part(0)]
}

const fn arch_features(policy: &Policy, function: u32) -> u64 {
    let workaround = match function {
        f::ARCH_WORKAROUND_1 => policy.workaround_1,
        f::ARCH_WORKAROUND_3 => policy.workaround_3,
        f::ARCH_WORKAROUND_2 => {
            return match policy.workaround_2 {
                Workaround::NotRequired => NOT_REQUIRED,
                _ => NOT_SUPPORTED,
            };
        }
        _ => return NOT_SUPPORTED,
    };
    match workaround {
        Workaround::NotAvailable => NOT_SUPPORTED,
        Workaround::Available => SUCCESS,
        // "The call is implemented; this CPU isn't affected."
        Workaround::NotRequired => 1,
    }
}

const fn psci_features(policy: &Policy, function: u32) -> u64 {
    if !policy.has_1_0() {
        return NOT_SUPPORTED;
    }
    match function {
        f::PSCI_VERSION
        | f::PSCI_FEATURES
        | f::PSCI_MIGRATE_INFO_TYPE
        | f::CPU_SUSPEND
        | f::CPU_SUSPEND_64
        | f::CPU_OFF
        | f::CPU_ON
        | f::CPU_ON_64
        | f::AFFINITY_INFO
        | f::AFFINITY_INFO_64
        | f::SYSTEM_OFF
        | f::SYSTEM_RESET
        | f::SMCCC_VERSION => SUCCESS,
        f::SYSTEM_RESET2 | f::SYSTEM_RESET2_64 if policy.has_1_1() => SUCCESS,
        f::SYSTEM_SUSPEND | f::SYSTEM_SUSPEND_64 if policy.system_suspend => SUCCESS,
        _ => NOT_SUPPORTED,
    }
}
