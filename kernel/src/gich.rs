//! A GICv2's virtual interface: list registers by MMIO, banked by CPU.
//!
//! What `world_switch::vhe::gic` is for a GICv3. Nothing here depends on the
//! exception level: whoever has GICH mapped can do it, at EL1, too. The guest's
//! CPU interface, GICV, is mapped into guests (`GuestDevice`) and never by us.
#![expect(unsafe_code, reason = "hands GICV to guests")]

use crate::machine::Gic;
use crate::memory;
use arch::mmio::Mmio;
use base::PhysAddr;
use paging::GuestDevice;
use core::sync::atomic::{AtomicBool, Ordering};
use spin::Once;
use vgic::ListRegisters;
use vgic::gich::*;

/// The registers, and how many list registers of them are used.
pub struct Gich {
    registers: Mmio,
    lrs: u8,
}

static GICH: Once<Gich> = Once::new();
/// One load tells the usual case, a GICv3.
static PRESENT: AtomicBool = AtomicBool::new(false);

/// ICH_HCR_EL2.EOIcount, which GICH_HCR has at the same place.
const EOICOUNT: u64 = vgic::ICH_HCR_EOICOUNT_MASK << vgic::ICH_HCR_EOICOUNT_SHIFT;

/// GICV: the CPU interface's two pages.
const GICV_SIZE: u64 = 0x2000;

/// Finds the virtual interface of the machine's GICv2; what guests get mapped.
pub fn init() -> Result<GuestDevice, &'static str> {
    let Some(Gic::V2 { hypervisor, guest, .. }) = memory::machine().and_then(|m| m.gic.as_ref())
    else {
        return Err("the GIC is not one that guests can use");
    };
    let (Some(hypervisor), Some(guest)) = (hypervisor, guest) else {
        return Err("the GICv2 has no virtualisation extensions");
    };
    if guest.len < GICV_SIZE {
        return Err("the GICv2's virtual CPU interface is too small");
    }
    // SAFETY: the device tree says that this is GICV. Guests can do nothing with
    // it but handle their own virtual interrupts (GIC architecture
    // specification 2.0, 5.5), and deactivate the physical ones that list
    // registers of theirs name.
    let gicv = unsafe { GuestDevice::new(PhysAddr::new(guest.base), GICV_SIZE) };
    // Else a page of it would show something else, too.
    let gicv = gicv.ok_or("the GICv2's virtual CPU interface is not page aligned")?;
    GICH.call_once(|| {
        let registers = memory::mmio(*hypervisor);
        registers.write32(GICH_HCR, 0);
        let last = registers.read32(GICH_VTR) & 0x3f;
        Gich { registers, lrs: last.min(15).saturating_add(1) as u8 }
    });
    PRESENT.store(true, Ordering::Release);
    Ok(gicv)
}

/// GICH_VTR.
pub fn vtr() -> Option<u64> {
    get().map(|gich| gich.registers.read32(GICH_VTR).into())
}

/// The virtual interface, if the machine has a GICv2 and guests.
#[inline]
pub fn get() -> Option<&'static Gich> {
    if PRESENT.load(Ordering::Relaxed) { GICH.get() } else { None }
}

impl Gich {
    /// A vCPU comes to this CPU.
    pub fn load(&self, lrs: &ListRegisters) {
        let [apr, ..] = lrs.ap0r;
        self.registers.write32(GICH_VMCR, lrs.vmcr as u32);
        self.registers.write32(GICH_APR, apr);
        for (index, value) in (0..self.lrs).zip(lrs.lr) {
            self.write_lr(index, value);
        }
        self.set_hcr(lrs.hcr);
    }

    /// It leaves.
    pub fn save(&self, lrs: &mut ListRegisters) {
        self.read(lrs);
        let [apr, ..] = &mut lrs.ap0r;
        *apr = self.registers.read32(GICH_APR);
        // Nothing is signalled from here on.
        self.set_hcr(0);
    }

    /// What its guest may have changed.
    #[cold]
    pub fn read(&self, lrs: &mut ListRegisters) {
        for (index, slot) in (0..lrs.used).zip(&mut lrs.lr) {
            *slot = lr_from_gich(self.registers.read32(lr_offset(index)));
        }
        lrs.vmcr = self.registers.read32(GICH_VMCR).into();
        lrs.hcr = lrs.hcr & !EOICOUNT | self.hcr() & EOICOUNT;
    }

    /// List registers `..write` and GICH_HCR.
    #[cold]
    pub fn write(&self, lrs: &ListRegisters, write: u8) {
        for (index, value) in (0..write).zip(lrs.lr) {
            self.write_lr(index, value);
        }
        self.set_hcr(lrs.hcr);
    }

    /// Writes a list register, given as ICH_LR<n>_EL2.
    fn write_lr(&self, index: u8, value: u64) {
        self.registers.write32(lr_offset(index), lr_to_gich(value));
    }

    /// GICH_HCR, as ICH_HCR_EL2.
    pub fn hcr(&self) -> u64 {
        u64::from(self.registers.read32(GICH_HCR)) & GICH_HCR_MASK
    }

    /// Writes GICH_HCR, given as ICH_HCR_EL2.
    pub fn set_hcr(&self, hcr: u64) {
        self.registers.write32(GICH_HCR, (hcr & GICH_HCR_MASK) as u32);
    }
}

fn lr_offset(index: u8) -> u64 {
    GICH_LR0.wrapping_add(u64::from(index).wrapping_mul(4))
}
