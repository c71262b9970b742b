//! The GICv2's distributor frame (GIC architecture specification 2.0, 4.3), and
//! its CPU interface as user space sees it.
//!
//! The distributor's registers for SGIs and PPIs are banked by the CPU that
//! accesses them. One enable bit is for both groups, as in Linux. What isn't
//! there reads as zero and ignores writes: identification registers, too.

use crate::bank::bit;
use crate::lr::ListRegisters;
use crate::mmio::{By, GICD_CTLR, GICD_IIDR, GICD_TYPER, per_intid};
use crate::vgic::{Cpu, GICD_CTLR_GRP0, GICD_CTLR_GRP1, Live, MAX_VCPUS_V2, Vgic};

const ITARGETSR: u32 = 0x800;
const ITARGETSR_END: u32 = 0xc00;
const SGIR: u32 = 0xf00;
const CPENDSGIR: u32 = 0xf10;
const SPENDSGIR: u32 = 0xf20;
const SPENDSGIR_END: u32 = 0xf30;

const GICC_CTLR: u32 = 0x0;
const GICC_PMR: u32 = 0x4;
const GICC_BPR: u32 = 0x8;
const GICC_ABPR: u32 = 0x1c;
const GICC_APR: u32 = 0xd0;
const GICC_APR_END: u32 = 0xe0;
const GICC_IIDR: u32 = 0xfc;

/// GICC_IIDR: product 'K', architecture version 2, implementer Arm, as KVM's.
const IIDR: u32 = 0x04b2_043b;
/// The fields of GICC_CTLR that GICH_VMCR has at the same places: enables,
/// AckCtl, FIQEn, CBPR, EOImode.
const CTLR_MASK: u64 = 0x21f;

/// What GICD_SGIR.TargetListFilter says.
fn sgi_targets(value: u32, sender: u32, all: u32) -> u32 {
    let myself = 1u32.wrapping_shl(sender);
    match value >> 24 & 3 {
        0 => value >> 16 & all,
        1 => all & !myself,
        2 => myself,
        _ => 0,
    }
}

impl Vgic {
    #[inline(never)]
    pub(crate) fn dist_read_v2(
        &self,
        live: &Live,
        cpu: &Cpu,
        offset: u32,
        len: u32,
        by: By,
    ) -> u64 {
        match (offset, len) {
            (GICD_CTLR, 4) => u64::from(live.ctlr() & GICD_CTLR_GRP0),
            (GICD_TYPER, 4) => {
                let cpus = (live.cpus.len() as u32).saturating_sub(1);
                u64::from((live.nr_irqs >> 5).saturating_sub(1) | cpus << 5)
            }
            (GICD_IIDR, 4) => u64::from(self.iidr()),
            (ITARGETSR..ITARGETSR_END, 1 | 4) => {
                bytes(len, |at| targets(live, cpu, offset.wrapping_sub(ITARGETSR).wrapping_add(at)))
            }
            (CPENDSGIR..SPENDSGIR_END, 1 | 4) => {
                let bank = cpu.lock_private();
                bytes(len, |at| bank.senders(((offset & 0xf).wrapping_add(at)) as usize))
            }
            _ => match per_intid(offset) {
                Some((kind, intid)) => self.read_bank(live, Some(cpu), kind, intid, len, by),
                None => 0,
            },
        }
    }

    pub(crate) fn dist_write_v2(
        &self,
        live: &Live,
        cpu: &Cpu,
        offset: u32,
        len: u32,
        value: u64,
        by: By,
    ) {
        match (offset, len) {
            (GICD_CTLR, 4) => {
                let on = value as u32 & GICD_CTLR_GRP0 != 0;
                let groups = if on { GICD_CTLR_GRP0 | GICD_CTLR_GRP1 } else { 0 };
                self.set_ctlr(live, groups, by.vcpu());
            }
            (ITARGETSR..ITARGETSR_END, 1 | 4) => {
                let first = offset.wrapping_sub(ITARGETSR);
                for (at, byte) in (0..len).zip(value.to_le_bytes()) {
                    self.set_targets(live, cpu, first.wrapping_add(at), byte, by);
                }
            }
            (SGIR, 4) => {
                let sender = cpu.index() as u32;
                let all = 1u32.wrapping_shl(live.cpus.len() as u32).wrapping_sub(1);
                let targets = sgi_targets(value as u32, sender, all);
                let id = (value & 0xf) as usize;
                for target in &live.cpus {
                    if targets & 1u32.wrapping_shl(target.index() as u32) != 0 {
                        self.change(live, target, 0, by.vcpu(), |bank| {
                            bank.send_from(id, 1u8.wrapping_shl(sender));
                            bit(id)
                        });
                    }
                }
            }
            (CPENDSGIR..SPENDSGIR_END, 1 | 4) => {
                let first = (offset & 0xf) as usize;
                self.change(live, cpu, 0, by.vcpu(), |bank| {
                    let mut changed = 0;
                    for (i, byte) in (first..).zip(value.to_le_bytes()).take(len as usize) {
                        if offset < SPENDSGIR {
                            bank.unsend_from(i, byte);
                        } else {
                            bank.send_from(i, byte);
                        }
                        changed |= bit(i);
                    }
                    changed
                });
            }
            _ => {
                if let Some((kind, intid)) = per_intid(offset) {
                    self.write_bank(live, Some(cpu), kind, intid, len, value, by);
                }
            }
        }
    }

    /// GICD_ITARGETSR: the interrupt goes to the first of those named; if none
    /// is, to the first vCPU, as in Linux. Those of SGIs and PPIs are read-only.
    fn set_targets(&self, live: &Live, cpu: &Cpu, intid: u32, byte: u8, by: By) {
        if intid < 32 || intid >= live.nr_irqs {
            return;
        }
        let all = 1u32.wrapping_shl(live.cpus.len() as u32).wrapping_sub(1);
        let targets = u32::from(byte) & all;
        let target = if targets == 0 { 0 } else { targets.trailing_zeros() as u16 };
        let (n, i) = ((intid >> 5) as usize, (intid & 31) as usize);
        self.change(live, cpu, n, by.vcpu(), |bank| {
            bank.set_route(i, targets, target);
            bit(i)
        });
    }
}

/// GICD_ITARGETSR's byte of one interrupt.
fn targets(live: &Live, cpu: &Cpu, intid: u32) -> u8 {
    let (n, i) = ((intid >> 5) as usize, (intid & 31) as usize);
    if n == 0 {
        return 1u8.wrapping_shl(cpu.index() as u32);
    }
    let bank = live.lock_bank(cpu, n);
    bank.and_then(|bank| bank.route.get(i).copied()).unwrap_or(0) as u8
}

fn bytes(len: u32, mut byte: impl FnMut(u32) -> u8) -> u64 {
    (0..len).rev().fold(0, |all, at| all << 8 | u64::from(byte(at)))
}

/// Whether the distributor has a register at this offset, for device attributes.
pub(crate) fn is_dist_register_v2(offset: u32) -> bool {
    offset.is_multiple_of(4)
        && (matches!(offset, GICD_CTLR..=GICD_IIDR | ITARGETSR..ITARGETSR_END | SGIR)
            || matches!(offset, CPENDSGIR..SPENDSGIR_END)
            || per_intid(offset).is_some())
}

/// The same for the CPU interface.
pub(crate) fn is_cpu_register(offset: u32) -> bool {
    offset.is_multiple_of(4)
        && (matches!(offset, GICC_CTLR..=GICC_BPR | GICC_ABPR | GICC_IIDR)
            || matches!(offset, GICC_APR..GICC_APR_END))
}

impl ListRegisters {
    /// Reads a register of the GICv2 CPU interface (KVM_DEV_ARM_VGIC_GRP_CPU_REGS).
    /// The priority mask is the five bits that GICH_VMCR has, as in Linux.
    pub(crate) fn gicc_read(&self, offset: u32) -> u32 {
        let field = |shift: u32, mask: u64| ((self.vmcr >> shift) & mask) as u32;
        match offset {
            GICC_CTLR => field(0, CTLR_MASK),
            GICC_PMR => field(27, 0x1f),
            GICC_BPR => field(21, 7),
            GICC_ABPR => field(18, 7),
            GICC_APR => self.ap0r.first().copied().unwrap_or(0),
            GICC_IIDR => IIDR,
            _ => 0,
        }
    }

    /// Writes one; those that can't be written ignore it.
    pub(crate) fn gicc_write(&mut self, offset: u32, value: u32) {
        let (shift, mask) = match offset {
            GICC_CTLR => (0, CTLR_MASK),
            GICC_PMR => (27, 0x1f),
            GICC_BPR => (21, 7),
            GICC_ABPR => (18, 7),
            GICC_APR => {
                if let Some(apr) = self.ap0r.first_mut() {
                    *apr = value;
                }
                return;
            }
            _ => return,
        };
        self.vmcr = self.vmcr & !(mask << shift) | (u64::from(value) & mask) << shift;
    }
}

const _: () = assert!(MAX_VCPUS_V2 == 8);
