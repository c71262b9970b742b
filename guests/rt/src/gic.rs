//! The interrupt controller that the device tree names: GICv2 or GICv3.

use crate::machine::Machine;
use crate::mmio;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub mod v2;
pub mod v3;

/// GICD_CTLR.
pub const GICD_CTLR: u64 = 0;
/// GICD_TYPER.
pub const GICD_TYPER: u64 = 4;
/// GICD_IIDR.
pub const GICD_IIDR: u64 = 8;

/// The timers' interrupts.
pub const VIRTUAL_TIMER: u32 = 27;
/// The EL1 physical timer's.
pub const PHYSICAL_TIMER: u32 = 30;

static GICD: AtomicU64 = AtomicU64::new(0);
/// A GICv2's CPU interface, 0 with a GICv3.
static GICC: AtomicU64 = AtomicU64::new(0);

pub(crate) fn set(m: &Machine) {
    GICD.store(m.gicd, Relaxed);
    GICC.store(m.gicc, Relaxed);
}

fn gicd() -> u64 {
    GICD.load(Relaxed)
}

fn gicc() -> u64 {
    GICC.load(Relaxed)
}

/// Whether it is a GICv2.
#[inline(always)]
pub fn is_v2() -> bool {
    gicc() != 0
}

/// The distributor, once.
pub fn init(m: &Machine) {
    if is_v2() { v2::init(m) } else { v3::init(m) }
}

/// This CPU's part: enables SGIs and timers, opens the CPU interface.
pub fn init_cpu(m: &Machine) {
    if is_v2() { v2::init_cpu(m) } else { v3::init_cpu(m) }
}

/// Where this CPU's private interrupts have the registers that shared ones have in the distributor.
pub fn private(m: &Machine) -> u64 {
    if is_v2() { m.gicd } else { v3::redistributor(m) + v3::SGI_FRAME }
}

/// Routes an SPI to a CPU and enables it, edge-triggered or not.
pub fn enable_spi(m: &Machine, intid: u32, mpidr: u64, edge: bool) {
    let i = u64::from(intid);
    if is_v2() {
        v2::route_spi(m, intid, mpidr)
    } else {
        v3::route_spi(m, intid, mpidr)
    }
    let config = m.gicd + 0xc00 + 4 * (i / 16);
    let bit = 2 << (2 * (intid % 16));
    let old = mmio::read32(config);
    mmio::write32(config, if edge { old | bit } else { old & !bit });
    mmio::write8(m.gicd + 0x400 + i, 0xa0);
    mmio::write32(m.gicd + 0x100 + 4 * (i / 32), 1 << (intid % 32));
}

/// Enables every SPI that there is, at this CPU: none should come.
pub fn enable_all_spis(m: &Machine, mpidr: u64) {
    let lines = mmio::read32(m.gicd + GICD_TYPER) & 0x1f;
    for intid in 32..(32 * (lines + 1)).min(1020) {
        enable_spi(m, intid, mpidr, true);
    }
}

/// Makes an SPI pending (GICD_ISPENDR).
pub fn pend_spi(m: &Machine, intid: u32) {
    mmio::write32(m.gicd + 0x200 + 4 * u64::from(intid / 32), 1 << (intid % 32));
}

/// Acknowledges: what [`end`] takes, with the INTID in it ([`intid`]).
pub fn acknowledge() -> u32 {
    if is_v2() { v2::acknowledge() } else { v3::acknowledge() }
}

/// The INTID of what was acknowledged: a GICv2 says who sent an SGI, too.
pub fn intid(iar: u32) -> u32 {
    if is_v2() { iar & 0x3ff } else { iar & 0xff_ffff }
}

/// Ends what was acknowledged.
pub fn end(iar: u32) {
    if is_v2() { v2::end(iar) } else { v3::end(iar) }
}

/// Sends an SGI to the CPU with this affinity.
pub fn send_sgi(intid: u64, mpidr: u64) {
    if is_v2() { v2::send_sgi(intid, mpidr) } else { v3::send_sgi(intid, mpidr) }
}
