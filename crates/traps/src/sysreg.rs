//! Trapped system registers and instructions (EC 0x18).

use crate::id::IdRegs;

/// op0, op1, CRn, CRm and op2, packed as in ESR_EL2.ISS (without Rt and
/// direction), so that a trap's key is one AND.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SysReg(pub u32);

const KEY_MASK: u32 = 0x003f_fc1e;

impl SysReg {
    /// A register by its encoding; each part is cut to its width.
    pub const fn new(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Self {
        SysReg(
            ((op0 as u32 & 3) << 20)
                | ((op2 as u32 & 7) << 17)
                | ((op1 as u32 & 7) << 14)
                | ((crn as u32 & 15) << 10)
                | ((crm as u32 & 15) << 1),
        )
    }

    /// op0.
    pub const fn op0(self) -> u8 {
        (self.0 >> 20) as u8 & 3
    }
    /// op1.
    pub const fn op1(self) -> u8 {
        (self.0 >> 14) as u8 & 7
    }
    /// CRn.
    pub const fn crn(self) -> u8 {
        (self.0 >> 10) as u8 & 15
    }
    /// CRm.
    pub const fn crm(self) -> u8 {
        (self.0 >> 1) as u8 & 15
    }
    /// op2.
    pub const fn op2(self) -> u8 {
        (self.0 >> 17) as u8 & 7
    }
}

/// One trapped MRS, MSR or SYS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SysAccess {
    /// Which.
    pub reg: SysReg,
    /// The general-purpose register; 31 is XZR.
    pub rt: u8,
    /// MRS (true) or MSR/SYS.
    pub is_read: bool,
}

impl SysAccess {
    /// From the ISS of a trap with EC 0x18.
    #[inline(always)]
    pub const fn decode(iss: u32) -> Self {
        SysAccess {
            reg: SysReg(iss & KEY_MASK),
            rt: (iss >> 5) as u8 & 0x1f,
            is_read: iss & 1 != 0,
        }
    }
}

macro_rules! regs {
    ($($name:ident = ($op0:literal, $op1:literal, $crn:literal, $crm:literal, $op2:literal)),+ $(,)?) => {
        impl SysReg {
            $(
                #[doc = concat!("`", stringify!($name), "`.")]
                pub const $name: SysReg = SysReg::new($op0, $op1, $crn, $crm, $op2);
            )+
            /// The Arm ARM's name, if the register is known here.
            pub const fn name(self) -> Option<&'static str> {
                $(if self.0 == SysReg::$name.0 { return Some(stringify!($name)); })+
                None
            }
        }
    };
}

regs! {
    MIDR_EL1 = (3, 0, 0, 0, 0), MPIDR_EL1 = (3, 0, 0, 0, 5), REVIDR_EL1 = (3, 0, 0, 0, 6),
    AIDR_EL1 = (3, 1, 0, 0, 7), ACTLR_EL1 = (3, 0, 1, 0, 1),
    CCSIDR_EL1 = (3, 1, 0, 0, 0), CLIDR_EL1 = (3, 1, 0, 0, 1), CSSELR_EL1 = (3, 2, 0, 0, 0),
    CTR_EL0 = (3, 3, 0, 0, 1), DISR_EL1 = (3, 0, 12, 1, 1),
    MDCCINT_EL1 = (2, 0, 0, 2, 0), MDSCR_EL1 = (2, 0, 0, 2, 2), MDRAR_EL1 = (2, 0, 1, 0, 0),
    OSLAR_EL1 = (2, 0, 1, 0, 4), OSLSR_EL1 = (2, 0, 1, 1, 4), OSDLR_EL1 = (2, 0, 1, 3, 4),
    DBGPRCR_EL1 = (2, 0, 1, 4, 4), DBGCLAIMSET_EL1 = (2, 0, 7, 8, 6),
    DBGCLAIMCLR_EL1 = (2, 0, 7, 9, 6), DBGAUTHSTATUS_EL1 = (2, 0, 7, 14, 6),
    MDCCSR_EL0 = (2, 3, 0, 1, 0), DBGDTR_EL0 = (2, 3, 0, 4, 0), DBGDTRRX_EL0 = (2, 3, 0, 5, 0),
    ICC_SGI1R_EL1 = (3, 0, 12, 11, 5), ICC_ASGI1R_EL1 = (3, 0, 12, 11, 6),
    ICC_SGI0R_EL1 = (3, 0, 12, 11, 7), ICC_SRE_EL1 = (3, 0, 12, 12, 5),
    LORSA_EL1 = (3, 0, 10, 4, 0), LOREA_EL1 = (3, 0, 10, 4, 1), LORN_EL1 = (3, 0, 10, 4, 2),
    LORC_EL1 = (3, 0, 10, 4, 3), LORID_EL1 = (3, 0, 10, 4, 7),
    PMMIR_EL1 = (3, 0, 9, 14, 6),
    CNTPCT_EL0 = (3, 3, 14, 0, 1), CNTPCTSS_EL0 = (3, 3, 14, 0, 5),
    CNTP_TVAL_EL0 = (3, 3, 14, 2, 0), CNTP_CTL_EL0 = (3, 3, 14, 2, 1),
    CNTP_CVAL_EL0 = (3, 3, 14, 2, 2),
    CNTV_CTL_EL0 = (3, 3, 14, 3, 1), CNTV_CVAL_EL0 = (3, 3, 14, 3, 2),
    CNTVCT_EL0 = (3, 3, 14, 0, 2),
    DC_ISW = (1, 0, 7, 6, 2), DC_CSW = (1, 0, 7, 10, 2), DC_CISW = (1, 0, 7, 14, 2),
    SP_EL0 = (3, 0, 4, 1, 0),
}

/// What a trapped access is, as far as its encoding and direction say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// An ID register, read: [`IdRegs::get`].
    Id {
        /// CRm.
        crm: u8,
        /// op2.
        op2: u8,
    },
    /// Reads zero, ignores writes.
    RazWi,
    /// A fixed value, read.
    Constant(u64),
    /// Gives the guest an UNDEFINED exception.
    Undefined,
    /// MDSCR_EL1: stored.
    Mdscr,
    /// OSLAR_EL1, written: bit 0 locks.
    OsLockWrite,
    /// OSLSR_EL1, read: see [`oslsr`].
    OsLockStatus,
    /// A breakpoint or watchpoint register: stored.
    Debug {
        /// Which file of registers.
        kind: DebugReg,
        /// Which of its 16.
        n: u8,
    },
    /// CTR_EL0, read.
    Ctr,
    /// CLIDR_EL1, read.
    Clidr,
    /// CCSIDR_EL1, read: selected by CSSELR_EL1.
    Ccsidr,
    /// CSSELR_EL1, read or written.
    Csselr,
    /// ACTLR_EL1: the host's value, writes ignored.
    Actlr,
    /// DC by set and way: the guest's memory has to be cleaned, see
    /// [the reason](self#set-and-way).
    DcSetWay,
    /// ICC_SGI1R_EL1, written: generate SGIs of group 1.
    IccSgi1r,
    /// ICC_ASGI1R_EL1, written.
    IccAsgi1r,
    /// ICC_SGI0R_EL1, written.
    IccSgi0r,
    /// ICC_DIR_EL1, written: deactivate an interrupt.
    IccDir,
    /// ICC_SRE_EL1.
    IccSre,
    /// CNTPCT_EL0 or CNTPCTSS_EL0, read.
    Cntpct,
    /// CNTP_TVAL_EL0.
    CntpTval,
    /// CNTP_CTL_EL0.
    CntpCtl,
    /// CNTP_CVAL_EL0.
    CntpCval,
}

/// A file of debug registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DebugReg {
    /// DBGBVRn_EL1.
    Bvr,
    /// DBGBCRn_EL1.
    Bcr,
    /// DBGWVRn_EL1.
    Wvr,
    /// DBGWCRn_EL1.
    Wcr,
}

/// ICC_SRE_EL1 in a guest with a GICv3: SRE, DFB and DIB, all fixed.
pub const ICC_SRE: u64 = 7;

/// OSLSR_EL1: the OS lock is implemented (OSLM = 0b10) and `locked` or not.
pub const fn oslsr(locked: bool) -> u64 {
    8 | if locked { 2 } else { 0 }
}

/// What the access at hand is. `gicv3`: the VM has a GICv3; `lor`: the guest
/// sees FEAT_LOR.
///
/// What isn't listed is UNDEFINED, as for a CPU that lacks it: statistical
/// profiling, trace, PMU (there is none yet), SVE, SME, MTE, MPAM, activity
/// monitors, pointer authentication keys, implementation-defined registers.
///
/// # Set and way
///
/// Linux guests clean by set and way when they take a CPU down. On hardware that
/// can't affect other CPUs' caches, so a hypervisor has to clean the guest's
/// memory by address instead (api of Linux's KVM: it unmaps or cleans stage 2).
pub const fn classify(access: SysAccess, gicv3: bool, lor: bool) -> Class {
    let reg = access.reg;
    let read = access.is_read;
    match (reg.op0(), reg.op1(), reg.crn(), reg.crm(), reg.op2()) {
        // ID registers are read-only; those unallocated read zero.
        (3, 0, 0, crm @ 1..=7, op2) if read => Class::Id { crm, op2 },
        (3, 3, 0, 0, 1) if read => Class::Ctr,
        (3, 1, 0, 0, 0) if read => Class::Ccsidr,
        (3, 1, 0, 0, 1) if read => Class::Clidr,
        (3, 2, 0, 0, 0) => Class::Csselr,
        (3, 0, 1, 0, 1) => Class::Actlr,
        // AIDR and REVIDR, if trapped.
        (3, 1, 0, 0, 7) | (3, 0, 0, 0, 6) if read => Class::Constant(0),

        // Debug.
        (2, 0, 0, n, 4) => Class::Debug { kind: DebugReg::Bvr, n },
        (2, 0, 0, n, 5) => Class::Debug { kind: DebugReg::Bcr, n },
        (2, 0, 0, n, 6) => Class::Debug { kind: DebugReg::Wvr, n },
        (2, 0, 0, n, 7) => Class::Debug { kind: DebugReg::Wcr, n },
        (2, 0, 0, 2, 2) => Class::Mdscr,
        (2, 0, 0, 2, 0) => Class::RazWi,
        (2, 0, 1, 0, 0) => Class::RazWi,
        (2, 0, 1, 0, 4) if !read => Class::OsLockWrite,
        (2, 0, 1, 1, 4) if read => Class::OsLockStatus,
        (2, 0, 1, 3, 4) | (2, 0, 1, 4, 4) => Class::RazWi,
        (2, 0, 7, 8, 6) | (2, 0, 7, 9, 6) => Class::RazWi,
        (2, 0, 7, 14, 6) if read => Class::Constant(0),
        (2, 3, 0, 1, 0) | (2, 3, 0, 4, 0) | (2, 3, 0, 5, 0) => Class::RazWi,

        // Error records (FEAT_RAS): there are none.
        (3, 0, 5, 3 | 4, _) => Class::RazWi,
        (3, 0, 5, 5, 0..=3) => Class::RazWi,

        // Limited ordering regions: FEAT_LOR with no regions.
        (3, 0, 10, 4, 0..=3) if lor => Class::RazWi,
        (3, 0, 10, 4, 7) if lor && read => Class::Constant(0),
        (3, 0, 9, 14, 6) => Class::RazWi,

        // The interrupt controller.
        (3, 0, 12, 11, 1) if !read && gicv3 => Class::IccDir,
        (3, 0, 12, 11, 5) if !read && gicv3 => Class::IccSgi1r,
        (3, 0, 12, 11, 6) if !read && gicv3 => Class::IccAsgi1r,
        (3, 0, 12, 11, 7) if !read && gicv3 => Class::IccSgi0r,
        (3, 0, 12, 12, 5) if gicv3 => Class::IccSre,

        // The physical timer.
        (3, 3, 14, 0, 1 | 5) if read => Class::Cntpct,
        (3, 3, 14, 2, 0) => Class::CntpTval,
        (3, 3, 14, 2, 1) => Class::CntpCtl,
        (3, 3, 14, 2, 2) => Class::CntpCval,

        // Cache maintenance by set and way.
        (1, 0, 7, 6 | 10 | 14, 2) if !read => Class::DcSetWay,

        _ => Class::Undefined,
    }
}

/// What needs nothing but the guest's ID registers: the value of a read, or
/// `None` to go the long way.
#[inline]
pub fn read_constant(access: SysAccess, id: &IdRegs) -> Option<u64> {
    let reg = access.reg;
    if access.is_read
        && (reg.0 & SysReg::new(3, 7, 15, 8, 0).0) == SysReg::new(3, 0, 0, 0, 0).0
        && reg.crm() != 0
    {
        return Some(id.get(reg.crm(), reg.op2()));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{COUNT, ID_AA64PFR0};
    use proptest::prelude::*;

    fn iss(reg: SysReg, rt: u32, read: bool) -> u32 {
        reg.0 | (rt << 5) | u32::from(read)
    }

    fn class(reg: SysReg, read: bool) -> Class {
        classify(SysAccess::decode(iss(reg, 3, read)), true, true)
    }

    #[test]
    fn known_registers() {
        assert_eq!(class(SysReg::ICC_SGI1R_EL1, false), Class::IccSgi1r);
        assert_eq!(class(SysReg::ICC_SGI1R_EL1, true), Class::Undefined);
        assert_eq!(class(SysReg::new(3, 0, 0, 4, 0), true), Class::Id { crm: 4, op2: 0 });
        assert_eq!(class(SysReg::new(3, 0, 0, 4, 0), false), Class::Undefined);
        assert_eq!(class(SysReg::CTR_EL0, true), Class::Ctr);
        assert_eq!(class(SysReg::OSLAR_EL1, false), Class::OsLockWrite);
        assert_eq!(class(SysReg::OSLAR_EL1, true), Class::Undefined);
        assert_eq!(class(SysReg::DC_CISW, false), Class::DcSetWay);
        assert_eq!(class(SysReg::CNTPCTSS_EL0, true), Class::Cntpct);
        // PMCR_EL0, PMSCR_EL1, TRBLIMITR_EL1, MPAM0_EL1, ZCR_EL1, APIAKeyLo_EL1
        for (op1, crn, crm, op2) in [
            (3, 9, 12, 0),
            (0, 9, 9, 0),
            (0, 9, 11, 0),
            (0, 10, 5, 1),
            (0, 1, 2, 0),
            (0, 2, 1, 0),
            (0, 15, 2, 1),
        ] {
            assert_eq!(class(SysReg::new(3, op1, crn, crm, op2), true), Class::Undefined);
        }
    }

    #[test]
    fn without_a_gicv3_its_registers_are_undefined() {
        let access = SysAccess::decode(iss(SysReg::ICC_SGI1R_EL1, 0, false));
        assert_eq!(classify(access, false, true), Class::Undefined);
        let access = SysAccess::decode(iss(SysReg::ICC_SRE_EL1, 0, true));
        assert_eq!(classify(access, false, true), Class::Undefined);
    }

    #[test]
    fn lor_follows_the_id_register() {
        let access = SysAccess::decode(iss(SysReg::LORC_EL1, 0, false));
        assert_eq!(classify(access, true, true), Class::RazWi);
        assert_eq!(classify(access, true, false), Class::Undefined);
    }

    #[test]
    fn the_short_way_reads_id_registers_only() {
        let mut id = IdRegs::new([0; COUNT]);
        id.set(4, 0, 0x77);
        assert_eq!(id.at(ID_AA64PFR0), 0x77);
        let read = |reg| read_constant(SysAccess::decode(iss(reg, 0, true)), &id);
        assert_eq!(read(SysReg::new(3, 0, 0, 4, 0)), Some(0x77));
        assert_eq!(read(SysReg::new(3, 0, 0, 1, 7)), Some(0));
        assert_eq!(read(SysReg::MIDR_EL1), None);
        assert_eq!(read(SysReg::CTR_EL0), None);
        assert_eq!(read(SysReg::new(3, 0, 1, 4, 0)), None);
        assert_eq!(read(SysReg::new(3, 0, 0, 8, 0)), None);
    }

    proptest! {
        #[test]
        fn keys_round_trip(op0 in 0u8..4, op1 in 0u8..8, crn in 0u8..16, crm in 0u8..16, op2 in 0u8..8, rt in 0u32..32, read: bool) {
            let reg = SysReg::new(op0, op1, crn, crm, op2);
            let access = SysAccess::decode(iss(reg, rt, read));
            prop_assert_eq!(access.reg, reg);
            prop_assert_eq!((reg.op0(), reg.op1(), reg.crn(), reg.crm(), reg.op2()), (op0, op1, crn, crm, op2));
            prop_assert_eq!((u32::from(access.rt), access.is_read), (rt, read));
            let _ = classify(access, true, false);
        }

        /// Writes never succeed on what only reads, and the two ways agree.
        #[test]
        fn short_and_long_way_agree(raw in 0u32..0x0200_0000) {
            let access = SysAccess::decode(raw);
            let id = IdRegs::new([9; COUNT]);
            let short = read_constant(access, &id);
            let long = classify(access, true, true);
            prop_assert_eq!(short.is_some(), matches!(long, Class::Id { .. }));
        }
    }
}
