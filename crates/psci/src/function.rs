//! Function identifiers: bit 31 fast call, bit 30 64-bit, bits 29 to 24 owner.
#![allow(missing_docs, reason = "the names are the specifications'")]

/// Set in the identifiers of 64-bit calls.
pub const SMC64: u32 = 1 << 30;

/// The first and the last of the Arm Architecture Calls, of 32 and of 64 bits
/// (DEN 0028, section 6). No filter may touch them.
pub const ARCH_CALLS: [(u32, u32); 2] = [(0x8000_0000, 0x8000_ffff), (0xc000_0000, 0xc000_ffff)];

pub const SMCCC_VERSION: u32 = 0x8000_0000;
pub const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;
pub const ARCH_WORKAROUND_1: u32 = 0x8000_8000;
pub const ARCH_WORKAROUND_2: u32 = 0x8000_7fff;
pub const ARCH_WORKAROUND_3: u32 = 0x8000_3fff;

pub const PSCI_VERSION: u32 = 0x8400_0000;
pub const CPU_SUSPEND: u32 = 0x8400_0001;
pub const CPU_SUSPEND_64: u32 = 0xc400_0001;
pub const CPU_OFF: u32 = 0x8400_0002;
pub const CPU_ON: u32 = 0x8400_0003;
pub const CPU_ON_64: u32 = 0xc400_0003;
pub const AFFINITY_INFO: u32 = 0x8400_0004;
pub const AFFINITY_INFO_64: u32 = 0xc400_0004;
pub const PSCI_MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
pub const SYSTEM_OFF: u32 = 0x8400_0008;
pub const SYSTEM_RESET: u32 = 0x8400_0009;
pub const PSCI_FEATURES: u32 = 0x8400_000a;
pub const SYSTEM_SUSPEND: u32 = 0x8400_000e;
pub const SYSTEM_SUSPEND_64: u32 = 0xc400_000e;
pub const SYSTEM_RESET2: u32 = 0x8400_0012;
pub const SYSTEM_RESET2_64: u32 = 0xc400_0012;

pub const TRNG_VERSION: u32 = 0x8400_0050;
pub const TRNG_FEATURES: u32 = 0x8400_0051;
pub const TRNG_GET_UUID: u32 = 0x8400_0052;
pub const TRNG_RND: u32 = 0x8400_0053;
pub const TRNG_RND_64: u32 = 0xc400_0053;

/// Linux's default for `arm,smc-wdt`.
pub const WATCHDOG: u32 = 0x8200_3d06;

pub const PV_TIME_FEATURES: u32 = 0xc500_0020;
pub const PV_TIME_ST: u32 = 0xc500_0021;

pub const VENDOR_UID: u32 = 0x8600_ff01;
pub const VENDOR_FEATURES: u32 = 0x8600_0000;
