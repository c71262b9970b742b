//! The syndrome of an exception taken to EL2 (Arm ARM D19.2.40, ESR_EL2).

/// Exception classes, ESR_EL2.EC.
pub mod ec {
    /// Unknown reason.
    pub const UNKNOWN: u32 = 0x00;
    /// WFI, WFE, WFIT, WFET.
    pub const WFX: u32 = 0x01;
    /// Access to FP, SIMD or SVE.
    pub const FP_ACCESS: u32 = 0x07;
    /// Pointer authentication.
    pub const PAUTH: u32 = 0x09;
    /// Illegal execution state.
    pub const ILLEGAL: u32 = 0x0e;
    /// HVC from AArch32.
    pub const HVC32: u32 = 0x12;
    /// SMC from AArch32.
    pub const SMC32: u32 = 0x13;
    /// SVC from AArch64.
    pub const SVC64: u32 = 0x15;
    /// HVC from AArch64.
    pub const HVC64: u32 = 0x16;
    /// SMC from AArch64.
    pub const SMC64: u32 = 0x17;
    /// MSR, MRS or system instruction.
    pub const SYSREG: u32 = 0x18;
    /// Access to SVE.
    pub const SVE: u32 = 0x19;
    /// Access to SME.
    pub const SME: u32 = 0x1d;
    /// Instruction abort from a lower level.
    pub const IABT_LOWER: u32 = 0x20;
    /// Instruction abort from the same level.
    pub const IABT_SAME: u32 = 0x21;
    /// Data abort from a lower level.
    pub const DABT_LOWER: u32 = 0x24;
    /// Data abort from the same level.
    pub const DABT_SAME: u32 = 0x25;
    /// Memory copy or set instruction.
    pub const MOPS: u32 = 0x27;
    /// SError.
    pub const SERROR: u32 = 0x2f;
    /// Breakpoint from a lower level.
    pub const BREAKPOINT_LOWER: u32 = 0x30;
    /// Software step from a lower level.
    pub const SOFTSTEP_LOWER: u32 = 0x32;
    /// Watchpoint from a lower level.
    pub const WATCHPOINT_LOWER: u32 = 0x34;
    /// BRK from AArch64.
    pub const BRK64: u32 = 0x3c;
}

/// ESR.IL: a 32-bit instruction.
pub const IL: u64 = 1 << 25;

/// The value of ESR_EL2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Esr(pub u64);

impl Esr {
    /// The exception class.
    #[inline(always)]
    pub const fn ec(self) -> u32 {
        (self.0 >> 26) as u32 & 0x3f
    }

    /// The instruction-specific syndrome, ISS.
    #[inline(always)]
    pub const fn iss(self) -> u32 {
        self.0 as u32 & 0x01ff_ffff
    }

    /// Whether the instruction has 4 bytes.
    #[inline(always)]
    pub const fn il(self) -> bool {
        self.0 & IL != 0
    }

    /// The 16-bit immediate of HVC, SMC, SVC, BRK.
    #[inline(always)]
    pub const fn immediate(self) -> u16 {
        self.0 as u16
    }

    /// For [`ec::WFX`]: whether it is WFE or WFET (which only yield).
    pub const fn is_wfe(self) -> bool {
        self.0 & 1 != 0
    }

    /// For [`ec::WFX`]: whether it has a timeout (WFIT, WFET).
    pub const fn has_timeout(self) -> bool {
        self.0 & 2 != 0
    }

    /// For aborts: what failed.
    #[inline]
    pub const fn fault(self) -> Fault {
        match self.0 & 0x3f {
            0x00..=0x03 => Fault::AddressSize,
            0x04..=0x07 => Fault::Translation,
            // FEAT_LPA2: level -1 and level -2.
            0x2a | 0x2b => Fault::Translation,
            0x29 | 0x2c => Fault::AddressSize,
            0x08..=0x0b => Fault::AccessFlag,
            0x0c..=0x0f => Fault::Permission,
            0x10..=0x1f => Fault::External,
            0x21 => Fault::Alignment,
            0x30 => Fault::TlbConflict,
            _ => Fault::Other,
        }
    }

    /// For aborts: whether stage 2 failed on the walk of stage 1 (S1PTW).
    #[inline]
    pub const fn s1ptw(self) -> bool {
        self.0 & (1 << 7) != 0
    }

    /// For aborts, of data and of fetches: whether stage 2 must give write
    /// permission. A failed walk of stage 1 needs it only for a permission fault:
    /// hardware then wanted to set the access flag or dirty state, for a fetch as
    /// for a load. A fetch itself has no WnR (RES0).
    #[inline]
    pub const fn needs_write(self) -> bool {
        if self.s1ptw() {
            matches!(self.fault(), Fault::Permission)
        } else {
            let abort = self.data_abort();
            self.ec() == ec::DABT_LOWER && abort.wnr() && !abort.cache_maintenance()
        }
    }

    /// For data aborts.
    #[inline]
    pub const fn data_abort(self) -> DataAbort {
        DataAbort(self.0)
    }

    /// For aborts: whether FAR_EL2 isn't valid (FnV).
    pub const fn far_not_valid(self) -> bool {
        self.0 & (1 << 10) != 0
    }

    /// For [`ec::SERROR`], on a CPU that has FEAT_RAS or not: how bad it is.
    pub const fn severity(self, ras: bool) -> Severity {
        const IDS: u64 = 1 << 24;
        const SERROR: u64 = 0x11;
        if !ras || self.0 & IDS != 0 {
            return Severity::Unknown;
        }
        // AET means something with this DFSC alone; another is uncategorized.
        match self.0 >> 10 & 7 {
            1 | 3 if self.0 & 0x3f == SERROR => Severity::Contained,
            2 | 6 if self.0 & 0x3f == SERROR => Severity::Harmless,
            _ => Severity::Uncontained,
        }
    }
}

/// How bad an SError is: ESR_EL2.AET (Arm ARM D24.2.40, "ISS encoding for an SError
/// exception").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// Nobody says: there is no FEAT_RAS, or the syndrome is implementation defined.
    Unknown,
    /// Corrected (CE), or nothing that was used so far (restartable, UEO).
    Harmless,
    /// What was interrupted can't go on; nobody else is concerned (unrecoverable, UEU;
    /// recoverable, UER).
    Contained,
    /// It may have reached anybody (uncontainable, UC), or nothing is known of where it
    /// is.
    Uncontained,
}

/// What ESR_EL2.DFSC or IFSC says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Address size fault.
    AddressSize,
    /// Translation fault: nothing is mapped.
    Translation,
    /// Access flag fault.
    AccessFlag,
    /// Permission fault.
    Permission,
    /// Synchronous external abort, on the access or on a table walk.
    External,
    /// Alignment fault.
    Alignment,
    /// TLB conflict.
    TlbConflict,
    /// Something else.
    Other,
}

/// The syndrome of a data abort (Arm ARM D19.2.40, "ISS encoding for an
/// exception from a Data Abort").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataAbort(u64);

impl DataAbort {
    /// ISV: the fields that follow are valid.
    #[inline(always)]
    pub const fn valid(self) -> bool {
        self.0 & (1 << 24) != 0
    }

    /// SAS: bytes accessed: 1, 2, 4 or 8.
    #[inline(always)]
    pub const fn size(self) -> u8 {
        1 << ((self.0 >> 22) & 3)
    }

    /// SSE: a load sign-extends.
    #[inline(always)]
    pub const fn sign_extend(self) -> bool {
        self.0 & (1 << 21) != 0
    }

    /// SRT: the register loaded or stored, 31 is XZR.
    #[inline(always)]
    pub const fn rt(self) -> u8 {
        (self.0 >> 16) as u8 & 0x1f
    }

    /// SF: the register is 64 bits wide.
    #[inline(always)]
    pub const fn sixty_four(self) -> bool {
        self.0 & (1 << 15) != 0
    }

    /// CM: cache maintenance or AT.
    #[inline(always)]
    pub const fn cache_maintenance(self) -> bool {
        self.0 & (1 << 8) != 0
    }

    /// WnR: a write, unless it is cache maintenance, which reports a write
    /// always, or the walk of stage 1 failed, see [`Esr::needs_write`].
    #[inline(always)]
    pub const fn wnr(self) -> bool {
        self.0 & (1 << 6) != 0
    }
}

/// The intermediate physical address of a stage-2 fault: HPFAR_EL2 holds bits
/// from 12 up, FAR_EL2 the offset in the page.
#[inline(always)]
pub const fn fault_ipa(hpfar_el2: u64, far_el2: u64) -> u64 {
    // FIPA is HPFAR_EL2[43:4] for IPA[51:12] (FEAT_LPA included).
    ((hpfar_el2 & 0x0000_0fff_ffff_fff0) << 8) | (far_el2 & 0xfff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn classes() {
        assert_eq!(Esr(0x5a00_0000).ec(), ec::HVC64);
        assert!(Esr(0x5a00_0000).il());
        assert_eq!(Esr(0x5a00_1234).immediate(), 0x1234);
        // WFI, WFE, WFIT
        assert!(!Esr(0x0600_0000).is_wfe());
        assert!(Esr(0x0600_0001).is_wfe());
        assert!(Esr(0x0600_0002).has_timeout() && !Esr(0x0600_0002).is_wfe());
    }

    #[test]
    fn serrors_by_severity() {
        let serror = |iss: u64| Esr((0x2f << 26) | IL | iss);
        // AET by number; the DFSC that gives it a meaning.
        let expected = [
            Severity::Uncontained, // UC
            Severity::Contained,   // UEU
            Severity::Harmless,    // UEO
            Severity::Contained,   // UER
            Severity::Uncontained, // reserved
            Severity::Uncontained, // reserved
            Severity::Harmless,    // CE
            Severity::Uncontained, // reserved
        ];
        for (aet, expected) in (0u64..).zip(expected) {
            assert_eq!(serror(aet << 10 | 0x11).severity(true), expected, "{aet}");
            // EA says nothing of this.
            assert_eq!(serror(aet << 10 | 1 << 9 | 0x11).severity(true), expected, "{aet}");
            // Without FEAT_RAS all of it is RES0 or means something else.
            assert_eq!(serror(aet << 10 | 0x11).severity(false), Severity::Unknown);
            // IDS: implementation defined.
            assert_eq!(serror(1 << 24 | aet << 10 | 0x11).severity(true), Severity::Unknown);
            // Uncategorized.
            assert_eq!(serror(aet << 10).severity(true), Severity::Uncontained);
        }
    }

    #[test]
    fn a_store_to_a_device() {
        // str w3, [x0] to unmapped IPA: ISV, SAS=2, SRT=3, WnR, translation L3.
        let esr = Esr((0x24 << 26) | IL | (1 << 24) | (2 << 22) | (3 << 16) | (1 << 6) | 0x07);
        let abort = esr.data_abort();
        assert!(esr.needs_write());
        assert!(abort.valid() && !abort.sixty_four() && !abort.sign_extend());
        assert_eq!((abort.size(), abort.rt()), (4, 3));
        assert_eq!(esr.fault(), Fault::Translation);
    }

    #[test]
    fn stage_1_walks_read_unless_permission_failed() {
        for class in [ec::DABT_LOWER, ec::IABT_LOWER] {
            let walk = |fsc: u64| Esr((u64::from(class) << 26) | (1 << 7) | fsc);
            assert!(!walk(0x07).needs_write() && !walk(0x07 | 1 << 6).needs_write());
            assert!(walk(0x0f).needs_write());
        }
    }

    #[test]
    fn fetches_read() {
        let fetch = |fsc: u64| Esr((u64::from(ec::IABT_LOWER) << 26) | fsc);
        assert!(!fetch(0x07).needs_write() && !fetch(0x0f).needs_write());
    }

    #[test]
    fn ipa() {
        assert_eq!(fault_ipa(0x0900_0000 >> 8, 0xffff_0000_1234_5018), 0x0900_0018);
        assert_eq!(fault_ipa(0x0000_0fff_ffff_fff0, 0xfff), 0x000f_ffff_ffff_ffff);
        // NS (bit 63) is no address.
        assert_eq!(fault_ipa(1 << 63, 0), 0);
    }

    proptest! {
        #[test]
        fn any_syndrome_decodes(raw: u64) {
            let esr = Esr(raw);
            let abort = esr.data_abort();
            prop_assert!([1, 2, 4, 8].contains(&abort.size()));
            prop_assert!(abort.rt() < 32);
            prop_assert!(esr.ec() < 64);
            let _ = (esr.fault(), esr.needs_write());
        }
    }
}
