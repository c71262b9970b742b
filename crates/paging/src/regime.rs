//! The translation regimes and what their leaves say.
#![forbid(unsafe_code)]

use crate::descriptor::{AF, SH_INNER};
use core::fmt::Debug;
use frame::Use;

/// What MAIR_EL1 and MAIR_EL2 hold, so that AttrIndx is [`Memory`] as a number.
pub const MAIR: u64 = 0xff | 0x04 << 8 | 0x44 << 16;

/// Memory types (Arm ARM, B2.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Memory {
    /// Normal, write-back cacheable.
    #[default]
    Normal = 0,
    /// Device-nGnRE.
    Device = 1,
    /// Normal, non-cacheable.
    NonCacheable = 2,
}

impl Memory {
    /// AttrIndx and SH of stage 1.
    const fn stage1(self) -> u64 {
        (self as u64) << 2 | self.shareability()
    }

    const fn from_stage1(desc: u64) -> Memory {
        match desc >> 2 & 7 {
            1 => Memory::Device,
            2 => Memory::NonCacheable,
            _ => Memory::Normal,
        }
    }

    /// MemAttr and SH of stage 2, without FEAT_S2FWB (D8.6.6).
    const fn stage2(self) -> u64 {
        let attr = match self {
            Memory::Normal => 0b1111,
            Memory::Device => 0b0001,
            Memory::NonCacheable => 0b0101,
        };
        attr << 2 | self.shareability()
    }

    const fn from_stage2(desc: u64) -> Memory {
        match desc >> 2 & 0xf {
            0b0001 => Memory::Device,
            0b0101 => Memory::NonCacheable,
            _ => Memory::Normal,
        }
    }

    /// Device memory is outer shareable whatever SH says.
    const fn shareability(self) -> u64 {
        match self {
            Memory::Device => 0,
            _ => SH_INNER,
        }
    }
}

/// A translation regime: how descriptors say what is allowed.
pub trait Regime: 'static {
    /// What a leaf allows and what memory it maps.
    type Attrs: Copy + PartialEq + Eq + Debug;
    /// Whether it translates the upper half, by TTBR1.
    const UPPER: bool = false;
    /// What its tables count as.
    const USE: Use = Use::Table;
    /// log2 of how many root tables may lie side by side (D8.2.2: 16 in stage 2).
    const CONCATENATED: u8 = 0;

    /// The leaf's bits without address, type and ownership; none for a mapping
    /// that allows nothing, whose entry isn't valid.
    fn encode(attrs: Self::Attrs) -> Option<u64>;
    /// What a valid leaf says.
    fn decode(desc: u64) -> Self::Attrs;
    /// What a leaf that isn't valid says.
    fn nothing() -> Self::Attrs;
}

const AP_EL0: u64 = 1 << 6;
const AP_READ_ONLY: u64 = 1 << 7;
const NOT_GLOBAL: u64 = 1 << 11;
const PXN: u64 = 1 << 53;
const UXN: u64 = 1 << 54;

const fn bit(condition: bool, bit: u64) -> u64 {
    if condition { bit } else { 0 }
}

/// Stage 1 for EL0, in the EL1&0 and EL2&0 regimes alike: tagged by ASID.
pub struct User;

/// What EL0 may do. Writing or executing implies reading, as on Linux without
/// FEAT_PAN3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct UserAttrs {
    /// Loads.
    pub read: bool,
    /// Stores.
    pub write: bool,
    /// Instruction fetches.
    pub exec: bool,
    /// The memory's type.
    pub memory: Memory,
}

impl Regime for User {
    type Attrs = UserAttrs;

    fn encode(attrs: UserAttrs) -> Option<u64> {
        (attrs.read || attrs.write || attrs.exec).then_some(
            attrs.memory.stage1()
                | AF
                | NOT_GLOBAL
                | AP_EL0
                | PXN
                | bit(!attrs.write, AP_READ_ONLY)
                | bit(!attrs.exec, UXN),
        )
    }

    fn decode(desc: u64) -> UserAttrs {
        UserAttrs {
            read: desc & AP_EL0 != 0,
            write: desc & (AP_EL0 | AP_READ_ONLY) == AP_EL0,
            exec: desc & UXN == 0,
            memory: Memory::from_stage1(desc),
        }
    }

    fn nothing() -> UserAttrs {
        UserAttrs::default()
    }
}

/// What the kernel may do with its own memory. It can always be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct KernelAttrs {
    /// Stores.
    pub write: bool,
    /// Instruction fetches.
    pub exec: bool,
    /// The memory's type.
    pub memory: Memory,
}

/// Stage 1 of the kernel's upper half, at EL1 or at EL2 with E2H=1.
pub struct Kernel;

impl Regime for Kernel {
    type Attrs = KernelAttrs;
    const UPPER: bool = true;

    fn encode(attrs: KernelAttrs) -> Option<u64> {
        Some(
            attrs.memory.stage1()
                | AF
                | UXN
                | bit(!attrs.write, AP_READ_ONLY)
                | bit(!attrs.exec, PXN),
        )
    }

    fn decode(desc: u64) -> KernelAttrs {
        KernelAttrs {
            write: desc & AP_READ_ONLY == 0,
            exec: desc & PXN == 0,
            memory: Memory::from_stage1(desc),
        }
    }

    fn nothing() -> KernelAttrs {
        KernelAttrs::default()
    }
}

/// Stage 1 of EL2 with E2H=0: one privilege level, so AP[1] is RES1 and bit 54
/// is XN (D8.4.1, D8.4.2).
pub struct El2;

impl Regime for El2 {
    type Attrs = KernelAttrs;

    fn encode(attrs: KernelAttrs) -> Option<u64> {
        Some(
            attrs.memory.stage1()
                | AF
                | AP_EL0
                | bit(!attrs.write, AP_READ_ONLY)
                | bit(!attrs.exec, UXN),
        )
    }

    fn decode(desc: u64) -> KernelAttrs {
        KernelAttrs {
            write: desc & AP_READ_ONLY == 0,
            exec: desc & UXN == 0,
            memory: Memory::from_stage1(desc),
        }
    }

    fn nothing() -> KernelAttrs {
        KernelAttrs::default()
    }
}

/// Stage 2: a guest's intermediate physical addresses.
pub struct Stage2;

/// What a guest may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Stage2Attrs {
    /// Loads: S2AP[0].
    pub read: bool,
    /// Stores: S2AP[1].
    pub write: bool,
    /// Instruction fetches, at EL1 and EL0: XN[1].
    pub exec: bool,
    /// The memory's type; stage 1 can make it weaker.
    pub memory: Memory,
}

impl Regime for Stage2 {
    type Attrs = Stage2Attrs;
    const USE: Use = Use::GuestTable;
    const CONCATENATED: u8 = 4;

    fn encode(attrs: Stage2Attrs) -> Option<u64> {
        (attrs.read || attrs.write || attrs.exec).then_some(
            attrs.memory.stage2()
                | AF
                | bit(attrs.read, 1 << 6)
                | bit(attrs.write, 1 << 7)
                | bit(!attrs.exec, 1 << 54),
        )
    }

    fn decode(desc: u64) -> Stage2Attrs {
        Stage2Attrs {
            read: desc & 1 << 6 != 0,
            write: desc & 1 << 7 != 0,
            exec: desc & 1 << 54 == 0,
            memory: Memory::from_stage2(desc),
        }
    }

    fn nothing() -> Stage2Attrs {
        Stage2Attrs::default()
    }
}
