//! GICv3: distributor, this CPU's redistributor, the CPU interface.

use crate::cpu::{dsb, isb};
use crate::machine::Machine;
use crate::{mmio, mrs, msr};

use super::{GICD_CTLR, GICD_TYPER, PHYSICAL_TIMER, VIRTUAL_TIMER};
const GICR_TYPER: u64 = 8;
const GICR_WAKER: u64 = 0x14;
pub(super) const SGI_FRAME: u64 = 0x1_0000;

/// The distributor, once: group 1 on, affinity routing.
pub(super) fn init(m: &Machine) {
    mmio::write32(m.gicd + GICD_CTLR, 0x12);
    while mmio::read32(m.gicd + GICD_CTLR) & 1 << 31 != 0 {}
    let lines = mmio::read32(m.gicd + GICD_TYPER) & 0x1f;
    for i in 1..=u64::from(lines) {
        mmio::write32(m.gicd + 0x80 + 4 * i, !0); // Group 1.
    }
}

/// This CPU's redistributor.
pub fn redistributor(m: &Machine) -> u64 {
    let me = mrs!("mpidr_el1");
    let affinity = me & 0xff_ffff | (me >> 32 & 0xff) << 24;
    let mut at = m.gicr;
    loop {
        let typer = mmio::read64(at + GICR_TYPER);
        if typer >> 32 == affinity {
            return at;
        }
        assert!(typer & 1 << 4 == 0, "no redistributor for {me:#x}");
        at += 0x2_0000;
    }
}

/// This CPU's part: wakes the redistributor, enables SGIs and PPIs, opens the CPU interface.
pub(super) fn init_cpu(m: &Machine) {
    let r = redistributor(m);
    mmio::write32(r + GICR_WAKER, mmio::read32(r + GICR_WAKER) & !2);
    while mmio::read32(r + GICR_WAKER) & 4 != 0 {}
    let s = r + SGI_FRAME;
    mmio::write32(s + 0x80, !0); // Group 1.
    for i in 0..8 {
        mmio::write32(s + 0x400 + 4 * i, 0xa0a0_a0a0); // Priorities.
    }
    mmio::write32(s + 0x100, 0xffff | 1 << VIRTUAL_TIMER | 1 << PHYSICAL_TIMER);
    msr!("S3_0_C12_C12_5", mrs!("S3_0_C12_C12_5") | 1); // ICC_SRE_EL1.SRE
    isb();
    msr!("S3_0_C4_C6_0", 0xf0); // ICC_PMR_EL1
    msr!("S3_0_C12_C12_4", 0); // ICC_CTLR_EL1: one EOI does it all.
    msr!("S3_0_C12_C12_7", 1); // ICC_IGRPEN1_EL1
    isb();
}

/// Routes an SPI to a CPU.
pub(super) fn route_spi(m: &Machine, intid: u32, mpidr: u64) {
    mmio::write64(m.gicd + 0x6000 + 8 * u64::from(intid), mpidr & 0xff_00ff_ffff);
}

/// ICC_IAR1_EL1.
pub(super) fn acknowledge() -> u32 {
    let id = mrs!("S3_0_C12_C12_0") as u32;
    dsb();
    id
}

/// ICC_EOIR1_EL1.
#[inline(always)]
pub fn end(intid: u32) {
    msr!("S3_0_C12_C12_1", u64::from(intid));
    isb();
}

/// Sends an SGI to the CPU with this affinity.
#[inline(always)]
pub fn send_sgi(intid: u64, mpidr: u64) {
    let v = intid << 24
        | 1 << (mpidr & 0xf)
        | (mpidr >> 8 & 0xff) << 16
        | (mpidr >> 16 & 0xff) << 32
        | (mpidr >> 32 & 0xff) << 48
        | (mpidr >> 4 & 0xf) << 44;
    dsb();
    msr!("S3_0_C12_C11_5", v); // ICC_SGI1R_EL1
    isb();
}
