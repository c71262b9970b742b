//! Firmware calls, by HVC (or SMC where the machine has it so).

use core::arch::asm;

/// NOT_SUPPORTED, PSCI's and SMCCC's answer.
pub const NOT_SUPPORTED: i64 = -1;
/// INVALID_PARAMETERS: there is no such CPU.
pub const INVALID_PARAMETERS: i64 = -2;
/// ALREADY_ON.
pub const ALREADY_ON: i64 = -4;

/// PSCI_VERSION.
pub const VERSION: u64 = 0x8400_0000;
/// CPU_OFF.
pub const CPU_OFF: u64 = 0x8400_0002;
/// CPU_SUSPEND, 64 bits.
pub const CPU_SUSPEND: u64 = 0xc400_0001;
/// CPU_ON, 64 bits.
pub const CPU_ON: u64 = 0xc400_0003;
/// AFFINITY_INFO, 64 bits.
pub const AFFINITY_INFO: u64 = 0xc400_0004;
/// SYSTEM_OFF.
pub const SYSTEM_OFF: u64 = 0x8400_0008;
/// SYSTEM_RESET.
pub const SYSTEM_RESET: u64 = 0x8400_0009;
/// PSCI_FEATURES.
pub const FEATURES: u64 = 0x8400_000a;
/// SMCCC_VERSION.
pub const SMCCC_VERSION: u64 = 0x8000_0000;

macro_rules! conduit {
    ($(#[$doc:meta])* $name:ident = $code:literal) => {
        $(#[$doc])*
        pub fn $name(a: [u64; 4]) -> [u64; 4] {
            let [mut x0, mut x1, mut x2, mut x3] = a;
            // SAFETY: SMCCC: x4 to x17 may change, the rest is kept.
            unsafe {
                asm!($code, inout("x0") x0, inout("x1") x1, inout("x2") x2, inout("x3") x3,
                    out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _,
                    out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _,
                    out("x15") _, out("x16") _, out("x17") _);
            }
            [x0, x1, x2, x3]
        }
    };
}

conduit! {
    /// HVC with four arguments; x0 to x3 come back.
    call = "hvc #0"
}
conduit! {
    /// The same by SMC.
    call_by_smc = "smc #0"
}

/// Powers off.
pub fn off() -> ! {
    call([SYSTEM_OFF, 0, 0, 0]);
    loop {
        crate::cpu::wfi();
    }
}
