//! GICv2: the distributor, whose private registers are banked by CPU, and the CPU interface.

use super::{GICD_CTLR, PHYSICAL_TIMER, VIRTUAL_TIMER, gicc};
use crate::cpu::dsb;
use crate::machine::Machine;
use crate::mmio;

/// GICC_CTLR.
pub const GICC_CTLR: u64 = 0;
/// GICC_PMR.
pub const GICC_PMR: u64 = 4;
/// GICC_IAR.
pub const GICC_IAR: u64 = 0xc;
/// GICC_EOIR.
pub const GICC_EOIR: u64 = 0x10;
/// GICC_IIDR.
pub const GICC_IIDR: u64 = 0xfc;
/// GICC_DIR.
pub const GICC_DIR: u64 = 0x1000;
/// GICD_ITARGETSR.
pub const GICD_ITARGETSR: u64 = 0x800;
/// GICD_SGIR.
pub const GICD_SGIR: u64 = 0xf00;
/// GICD_CPENDSGIR.
pub const GICD_CPENDSGIR: u64 = 0xf10;
/// GICD_SPENDSGIR.
pub const GICD_SPENDSGIR: u64 = 0xf20;

/// The distributor, once: everything is in group 0.
pub(super) fn init(m: &Machine) {
    mmio::write32(m.gicd + GICD_CTLR, 1);
}

/// This CPU's part: enables SGIs and PPIs, opens the CPU interface.
pub(super) fn init_cpu(m: &Machine) {
    mmio::write32(m.gicd + 0x80, 0); // Group 0.
    for i in 0..8 {
        mmio::write32(m.gicd + 0x400 + 4 * i, 0xa0a0_a0a0); // Priorities.
    }
    mmio::write32(m.gicd + 0x100, 0xffff | 1 << VIRTUAL_TIMER | 1 << PHYSICAL_TIMER);
    mmio::write32(m.gicc + GICC_PMR, 0xf0);
    mmio::write32(m.gicc + GICC_CTLR, 1); // One EOI does it all.
}

/// Routes an SPI to a CPU.
pub(super) fn route_spi(m: &Machine, intid: u32, mpidr: u64) {
    mmio::write8(m.gicd + GICD_ITARGETSR + u64::from(intid), 1 << (mpidr & 7));
}

/// GICC_IAR.
pub(super) fn acknowledge() -> u32 {
    let id = mmio::read32(gicc() + GICC_IAR);
    dsb();
    id
}

/// GICC_EOIR.
#[inline(always)]
pub fn end(iar: u32) {
    mmio::write32(gicc() + GICC_EOIR, iar);
}

/// Sends an SGI to the CPU with this affinity, which is its number.
#[inline(always)]
pub fn send_sgi(intid: u64, mpidr: u64) {
    dsb();
    mmio::write32(super::gicd() + GICD_SGIR, (1 << (16 + (mpidr & 7)) | intid) as u32);
}
