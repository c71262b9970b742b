//! The CPU interface's system registers, as ICH_VMCR_EL2 and ICH_AP<x>R<n>_EL2
//! hold them: for KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS and for traps.

use crate::lr::ListRegisters;
use crate::vgic::Config;
use base::{Errno, Result};

/// ICC_SRE_EL1 as every guest sees it: SRE, DFB, DIB. There is no GICv2.
pub const ICC_SRE_EL1_VALUE: u64 = 0x7;

/// ICH_VMCR_EL2.VENG0.
pub(crate) const VMCR_VENG0: u64 = 1 << 0;
/// ICH_VMCR_EL2.VENG1.
pub(crate) const VMCR_VENG1: u64 = 1 << 1;
/// ICH_VMCR_EL2.VCBPR.
pub(crate) const VMCR_VCBPR: u64 = 1 << 4;
/// ICH_VMCR_EL2.VEOIM.
pub(crate) const VMCR_VEOIM: u64 = 1 << 9;
const VMCR_VFIQEN: u64 = 1 << 3;
const VMCR_VBPR1: u32 = 18;
const VMCR_VBPR0: u32 = 21;
const VMCR_VPMR: u32 = 24;

/// Whether the CPU interface signals an interrupt of this priority and group.
pub(crate) fn interface_passes(vmcr: u64, priority: u8, group1: bool) -> bool {
    let enable = if group1 { VMCR_VENG1 } else { VMCR_VENG0 };
    vmcr & enable != 0 && u64::from(priority) < (vmcr >> VMCR_VPMR) & 0xff
}

/// A register of the CPU interface that can be read and written from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IccReg {
    /// ICC_PMR_EL1.
    Pmr,
    /// ICC_BPR0_EL1.
    Bpr0,
    /// ICC_AP0R<n>_EL1.
    Ap0r(u8),
    /// ICC_AP1R<n>_EL1.
    Ap1r(u8),
    /// ICC_BPR1_EL1.
    Bpr1,
    /// ICC_CTLR_EL1.
    Ctlr,
    /// ICC_SRE_EL1.
    Sre,
    /// ICC_IGRPEN0_EL1.
    Igrpen0,
    /// ICC_IGRPEN1_EL1.
    Igrpen1,
}

/// Packs an A64 system register's fields as KVM does: Op0 from bit 14, Op1 11,
/// CRn 7, CRm 3, Op2 0.
pub const fn sysreg(op0: u16, op1: u16, crn: u16, crm: u16, op2: u16) -> u16 {
    op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
}

impl IccReg {
    /// From [`sysreg`]'s encoding.
    pub const fn from_encoding(encoding: u16) -> Option<IccReg> {
        const PMR: u16 = sysreg(3, 0, 4, 6, 0);
        const BPR0: u16 = sysreg(3, 0, 12, 8, 3);
        const AP0R0: u16 = sysreg(3, 0, 12, 8, 4);
        const AP0R3: u16 = sysreg(3, 0, 12, 8, 7);
        const AP1R0: u16 = sysreg(3, 0, 12, 9, 0);
        const AP1R3: u16 = sysreg(3, 0, 12, 9, 3);
        const BPR1: u16 = sysreg(3, 0, 12, 12, 3);
        const CTLR: u16 = sysreg(3, 0, 12, 12, 4);
        const SRE: u16 = sysreg(3, 0, 12, 12, 5);
        const IGRPEN0: u16 = sysreg(3, 0, 12, 12, 6);
        const IGRPEN1: u16 = sysreg(3, 0, 12, 12, 7);
        Some(match encoding {
            PMR => IccReg::Pmr,
            BPR0 => IccReg::Bpr0,
            AP0R0..=AP0R3 => IccReg::Ap0r((encoding & 3) as u8),
            AP1R0..=AP1R3 => IccReg::Ap1r((encoding & 3) as u8),
            BPR1 => IccReg::Bpr1,
            CTLR => IccReg::Ctlr,
            SRE => IccReg::Sre,
            IGRPEN0 => IccReg::Igrpen0,
            IGRPEN1 => IccReg::Igrpen1,
            _ => return None,
        })
    }
}

/// Bits 10:8, PRIbits; 13:11, IDbits; 14, SEIS; 15, A3V of ICC_CTLR_EL1.
fn ctlr_constant(config: &Config) -> u64 {
    u64::from(config.priority_bits().saturating_sub(1)) << 8
        | u64::from(config.id_bits()) << 11
        | u64::from(config.seis()) << 14
        | u64::from(config.a3v()) << 15
}

/// How many of the four active-priority registers exist.
fn apr_count(config: &Config) -> u8 {
    match config.priority_bits() {
        7.. => 4,
        6 => 2,
        _ => 1,
    }
}

fn replace(vmcr: &mut u64, shift: u32, mask: u64, value: u64) {
    *vmcr = (*vmcr & !mask.wrapping_shl(shift)) | (value & mask).wrapping_shl(shift);
}

impl ListRegisters {
    /// Reads an ICC_* register. `EINVAL` for one that doesn't exist.
    pub fn icc_read(&self, reg: IccReg, config: &Config) -> Result<u64> {
        let field = |shift: u32, mask: u64| (self.vmcr >> shift) & mask;
        let flag = |bit: u64| u64::from(self.vmcr & bit != 0);
        Ok(match reg {
            IccReg::Pmr => field(VMCR_VPMR, 0xff),
            IccReg::Bpr0 => field(VMCR_VBPR0, 7),
            // With a common binary point, ICC_BPR1_EL1 reads BPR0 + 1, at most 7.
            IccReg::Bpr1 if self.vmcr & VMCR_VCBPR != 0 => {
                field(VMCR_VBPR0, 7).saturating_add(1).min(7)
            }
            IccReg::Bpr1 => field(VMCR_VBPR1, 7),
            IccReg::Ctlr => ctlr_constant(config) | flag(VMCR_VCBPR) | flag(VMCR_VEOIM) << 1,
            IccReg::Sre => ICC_SRE_EL1_VALUE,
            IccReg::Igrpen0 => flag(VMCR_VENG0),
            IccReg::Igrpen1 => flag(VMCR_VENG1),
            IccReg::Ap0r(n) => apr(&self.ap0r, n, config)?,
            IccReg::Ap1r(n) => apr(&self.ap1r, n, config)?,
        })
    }

    /// Writes an ICC_* register. `EINVAL` for one that doesn't exist, and for
    /// values that this machine cannot give.
    pub fn icc_write(&mut self, reg: IccReg, value: u64, config: &Config) -> Result<()> {
        let vmcr = &mut self.vmcr;
        match reg {
            IccReg::Pmr => replace(vmcr, VMCR_VPMR, 0xff, value),
            IccReg::Bpr0 => replace(vmcr, VMCR_VBPR0, 7, value),
            IccReg::Bpr1 if *vmcr & VMCR_VCBPR != 0 => {}
            IccReg::Bpr1 => replace(vmcr, VMCR_VBPR1, 7, value),
            IccReg::Ctlr => {
                let own = ctlr_constant(config);
                let wants = |shift: u32| (value >> shift) & 7;
                let has = |shift: u32| (own >> shift) & 7;
                if wants(8) > has(8) || wants(11) > has(11) || (value ^ own) & 0xc000 != 0 {
                    return Err(Errno::EINVAL);
                }
                replace(vmcr, 4, 1, value);
                replace(vmcr, 9, 1, value >> 1);
            }
            IccReg::Sre => {
                if value & 1 == 0 {
                    return Err(Errno::EINVAL);
                }
            }
            IccReg::Igrpen0 => replace(vmcr, 0, 1, value),
            IccReg::Igrpen1 => replace(vmcr, 1, 1, value),
            IccReg::Ap0r(n) => *apr_mut(&mut self.ap0r, n, config)? = value as u32,
            IccReg::Ap1r(n) => *apr_mut(&mut self.ap1r, n, config)? = value as u32,
        }
        // Group 0 is signalled as FIQ, always, where system registers are on.
        self.vmcr |= VMCR_VFIQEN;
        Ok(())
    }
}

fn apr(aprs: &[u32; 4], n: u8, config: &Config) -> Result<u64> {
    if n >= apr_count(config) {
        return Err(Errno::EINVAL);
    }
    aprs.get(usize::from(n)).map(|&apr| u64::from(apr)).ok_or(Errno::EINVAL)
}

fn apr_mut<'a>(aprs: &'a mut [u32; 4], n: u8, config: &Config) -> Result<&'a mut u32> {
    if n >= apr_count(config) {
        return Err(Errno::EINVAL);
    }
    aprs.get_mut(usize::from(n)).ok_or(Errno::EINVAL)
}
