//! A GICv2's virtual interface control registers (GIC architecture specification
//! 2.0, 5.3): the same things as the ICH_* registers, otherwise laid out.

use crate::lr::{ICH_LR_ACTIVE, ICH_LR_EOI, ICH_LR_GROUP, ICH_LR_HW, ICH_LR_PENDING};

/// Enables, and the count of ends.
pub const GICH_HCR: u64 = 0x0;
/// How many list registers there are.
pub const GICH_VTR: u64 = 0x4;
/// The guest's CPU interface. Laid out as ICH_VMCR_EL2, with five bits of PMR.
pub const GICH_VMCR: u64 = 0x8;
/// Active priorities, of both groups.
pub const GICH_APR: u64 = 0xf0;
/// The first list register; four bytes each.
pub const GICH_LR0: u64 = 0x100;

/// En, UIE, LRENPIE, NPIE and EOICount are where ICH_HCR_EL2 has them; the
/// others are no business of ours.
pub const GICH_HCR_MASK: u64 = 0xf800_000f;

const PENDING: u32 = 1 << 28;
const ACTIVE: u32 = 1 << 29;
const GROUP1: u32 = 1 << 30;
const HW: u32 = 1 << 31;
const EOI: u32 = 1 << 19;
/// Bits 9 to 0 of VirtualID, and bits 12 to 10: the CPU that sent an SGI, which
/// GICH_LR has in PhysicalID.
const VIRTUAL_ID: u32 = 0x3ff;
const SENDER: u32 = 7 << 10;
const PHYSICAL_ID: u32 = 0x3ff << 10;

const MOVES: [(u64, u32); 4] =
    [(ICH_LR_PENDING, PENDING), (ICH_LR_ACTIVE, ACTIVE), (ICH_LR_GROUP, GROUP1), (ICH_LR_HW, HW)];

/// ICH_LR<n>_EL2 as GICH_LR<n>.
pub fn lr_to_gich(lr: u64) -> u32 {
    let mut out = lr as u32 & VIRTUAL_ID | ((lr >> 51 & 0x1f) as u32) << 23;
    for (ich, gich) in MOVES {
        if lr & ich != 0 {
            out |= gich;
        }
    }
    if lr & ICH_LR_HW != 0 {
        return out | ((lr >> 32) as u32) << 10 & PHYSICAL_ID;
    }
    if lr & ICH_LR_EOI != 0 {
        out |= EOI;
    }
    out | lr as u32 & SENDER
}

/// GICH_LR<n> as ICH_LR<n>_EL2.
pub fn lr_from_gich(lr: u32) -> u64 {
    let mut out = u64::from(lr & VIRTUAL_ID) | u64::from(lr >> 23 & 0x1f) << 51;
    for (ich, gich) in MOVES {
        if lr & gich != 0 {
            out |= ich;
        }
    }
    if lr & HW != 0 {
        return out | u64::from(lr >> 10 & 0x3ff) << 32;
    }
    if lr & EOI != 0 {
        out |= ICH_LR_EOI;
    }
    out | u64::from(lr & SENDER)
}
