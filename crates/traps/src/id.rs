//! The ID registers a guest sees: op0=3, op1=0, CRn=0, CRm=1..7.
//!
//! A guest sees a field only if it is on the list below and what the field
//! promises works: SVE, SME, MTE, pointer authentication, the PMU, statistical
//! profiling, trace, activity monitors, MPAM, nested virtualisation and what
//! needs HCRX_EL2 or TCR2_EL1 don't yet; AArch32 isn't offered.

use crate::inject::PstateFeatures;

/// How many registers there are.
pub const COUNT: usize = 56;

/// Where a register is in [`IdRegs`]: `crm` 1 to 7, `op2` 0 to 7; anything else
/// is beyond the end.
#[inline]
pub const fn index(crm: u8, op2: u8) -> usize {
    (crm.wrapping_sub(1) as usize).wrapping_mul(8).wrapping_add(op2 as usize)
}

macro_rules! names {
    ($($name:ident = ($crm:literal, $op2:literal)),+ $(,)?) => {
        $(
            #[doc = concat!("The index of `", stringify!($name), "_EL1`.")]
            pub const $name: usize = index($crm, $op2);
        )+
        /// The Arm ARM's name of the register at `index`, if it has one here.
        pub const fn name(index: usize) -> Option<&'static str> {
            $(if index == $name { return Some(concat!(stringify!($name), "_EL1")); })+
            None
        }
    };
}

names! {
    ID_PFR0 = (1, 0), ID_DFR0 = (1, 2), ID_ISAR0 = (2, 0), ID_MMFR0 = (1, 4),
    ID_AA64PFR0 = (4, 0), ID_AA64PFR1 = (4, 1), ID_AA64PFR2 = (4, 2),
    ID_AA64ZFR0 = (4, 4), ID_AA64SMFR0 = (4, 5), ID_AA64FPFR0 = (4, 7),
    ID_AA64DFR0 = (5, 0), ID_AA64DFR1 = (5, 1), ID_AA64AFR0 = (5, 4), ID_AA64AFR1 = (5, 5),
    ID_AA64ISAR0 = (6, 0), ID_AA64ISAR1 = (6, 1), ID_AA64ISAR2 = (6, 2), ID_AA64ISAR3 = (6, 3),
    ID_AA64MMFR0 = (7, 0), ID_AA64MMFR1 = (7, 1), ID_AA64MMFR2 = (7, 2), ID_AA64MMFR3 = (7, 3),
    ID_AA64MMFR4 = (7, 4),
}

/// What of the host bears on the guest's ID registers besides its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestFeatures {
    /// CLIDR, CCSIDR and CSSELR are trapped (HCR_EL2.TID2) and answered in
    /// CCSIDR_EL1's 32-bit format.
    pub trap_cache_ids: bool,
    /// The CPUs aren't affected by Spectre variant 2, whatever CSV2 says.
    pub csv2_unaffected: bool,
    /// The CPUs aren't affected by Meltdown, whatever CSV3 says.
    pub csv3_unaffected: bool,
    /// The guest has a GICv3 CPU interface by system registers.
    pub gicv3: bool,
}

/// The registers' values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdRegs {
    values: [u64; COUNT],
}

/// Which bits of the host's registers a guest may see.
const VISIBLE: [u64; COUNT] = {
    let mut visible = [0; COUNT];
    // CSV3, CSV2, DIT, RAS, AdvSIMD, FP, EL3..EL0. GIC is set by us.
    visible[ID_AA64PFR0] = 0xff0f_0000_f0ff_ffff;
    // CSV2_frac, SSBS, BT.
    visible[ID_AA64PFR1] = 0x0000_000f_0000_00ff;
    // DoubleLock, CTX_CMPs, WRPs, BRPs, DebugVer.
    visible[ID_AA64DFR0] = 0x0000_00f0_f0f0_f00f;
    // All but TME.
    visible[ID_AA64ISAR0] = 0xffff_ffff_f0ff_fff0;
    // I8MM, DGH, BF16, SPECRES, SB, FRINTTS, LRCPC, FCMA, JSCVT, DPB.
    visible[ID_AA64ISAR1] = 0x00ff_ffff_00ff_f00f;
    // LUT, CSSC, RPRFM, CLRBHB, BC, RPRES.
    visible[ID_AA64ISAR2] = 0x0fff_0000_f0f0_00f0;
    // FAMINMAX.
    visible[ID_AA64ISAR3] = 0x0000_0000_0000_00f0;
    // ECV, granules of stage 1, SNSMEM, ASIDBits, PARange. No mixed endianness.
    visible[ID_AA64MMFR0] = 0xf000_0000_fff0_f0ff;
    // ECBHB, TIDCP1, nTLBPA, AFP, ETS, SpecSEI, PAN, LO, HPDS, HAFDBS.
    visible[ID_AA64MMFR1] = 0xf0ff_f0f0_0fff_f00f;
    // E0PD, BBM, TTL, IDS, AT, ST, CCIDX, VARange, IESB, LSM, UAO, CnP.
    visible[ID_AA64MMFR2] = 0xf0ff_00ff_f0ff_ffff;
    visible
};

/// Fields that are limited: (register, lowest bit, largest value).
const LIMITS: [(usize, u32, u64); 8] = [
    // AArch64 only.
    (ID_AA64PFR0, 0, 1),
    (ID_AA64PFR0, 4, 1),
    (ID_AA64PFR0, 8, 1),
    (ID_AA64PFR0, 12, 1),
    // RAS: the error records are RAZ, and nothing newer than FEAT_RAS is.
    (ID_AA64PFR0, 28, 1),
    // Debug as of Armv8.2.
    (ID_AA64DFR0, 0, 8),
    // CNTPCTSS and CNTVCTSS, not CNTPOFF.
    (ID_AA64MMFR0, 60, 1),
    // Hardware access flag and dirty state.
    (ID_AA64MMFR1, 0, 2),
];

/// Fields where 0xf means "absent" (signed): (register, lowest bit).
pub(crate) const SIGNED: [(usize, u32); 5] = [
    (ID_AA64PFR0, 16),
    (ID_AA64PFR0, 20),
    (ID_AA64DFR0, 36),
    (ID_AA64MMFR0, 28),
    (ID_AA64MMFR0, 24),
];

pub(crate) const fn field(value: u64, shift: u32) -> u64 {
    (value >> shift) & 0xf
}

pub(crate) const fn with_field(value: u64, shift: u32, field: u64) -> u64 {
    (value & !(0xf << shift)) | (field << shift)
}

impl IdRegs {
    /// Registers as read from a CPU; those of AArch32 may be left zero.
    pub const fn new(values: [u64; COUNT]) -> Self {
        IdRegs { values }
    }

    /// What a guest sees on CPUs whose common features are `host`.
    pub fn guest(host: &IdRegs, features: GuestFeatures) -> IdRegs {
        let mut guest = IdRegs { values: [0; COUNT] };
        for ((value, host), mask) in guest.values.iter_mut().zip(&host.values).zip(&VISIBLE) {
            *value = host & mask;
        }
        for (register, shift, limit) in LIMITS {
            guest.change(register, shift, |value| value.min(limit));
        }
        // The CPU says less than is known: Linux, too, tells guests.
        if features.csv2_unaffected {
            guest.change(ID_AA64PFR0, 56, |value| value.max(1));
        }
        if features.csv3_unaffected {
            guest.change(ID_AA64PFR0, 60, |value| value.max(1));
        }
        // SCXTNUM_ELx (CSV2 = 2 and up, CSV2_frac = 2) would be more state to
        // switch.
        guest.change(ID_AA64PFR0, 56, |value| value.min(1));
        guest.change(ID_AA64PFR1, 32, |value| value.min(1));
        if features.gicv3 {
            guest.change(ID_AA64PFR0, 24, |_| 1);
        }
        if features.trap_cache_ids {
            guest.change(ID_AA64MMFR2, 20, |_| 0);
        }
        guest
    }

    fn change(&mut self, register: usize, shift: u32, f: impl FnOnce(u64) -> u64) {
        if let Some(value) = self.values.get_mut(register) {
            *value = with_field(*value, shift, f(field(*value, shift)) & 0xf);
        }
    }

    /// The register with this `crm` and `op2`; zero for those that aren't
    /// allocated, as the Arm ARM has it.
    #[inline]
    pub fn get(&self, crm: u8, op2: u8) -> u64 {
        self.at(index(crm, op2))
    }

    /// The register at an index of this module.
    #[inline]
    pub fn at(&self, index: usize) -> u64 {
        self.values.get(index).copied().unwrap_or(0)
    }

    /// A VMM's write: allowed if no field promises more than `self` (which is
    /// what this host can do); answers the new value's acceptance.
    pub fn allows(&self, crm: u8, op2: u8, value: u64) -> bool {
        let at = index(crm, op2);
        let Some(&limit) = self.values.get(at) else {
            return false;
        };
        (0..16u32).map(|n| n.wrapping_mul(4)).all(|shift| {
            let (have, want) = (field(limit, shift), field(value, shift));
            if SIGNED.contains(&(at, shift)) {
                // Absent is always allowed but where Linux relies on it.
                want == have || want == 0xf
            } else {
                // GIC must be what the VM has; BRPs etc. are plain counts.
                want <= have
            }
        })
    }

    /// Stores a value that [`IdRegs::allows`] accepted.
    pub fn set(&mut self, crm: u8, op2: u8, value: u64) {
        self.put(index(crm, op2), value);
    }

    /// Stores a value at an index of this module.
    pub(crate) fn put(&mut self, index: usize, value: u64) {
        if let Some(slot) = self.values.get_mut(index) {
            *slot = value;
        }
    }

    /// The VM has no GICv3, after all: its system registers aren't there.
    pub fn hide_gicv3(&mut self) {
        self.change(ID_AA64PFR0, 24, |_| 0);
    }

    /// The optional PSTATE bits.
    pub fn pstate_features(&self) -> PstateFeatures {
        PstateFeatures {
            pan: field(self.at(ID_AA64MMFR1), 20) != 0,
            ssbs: field(self.at(ID_AA64PFR1), 4) != 0,
            dit: field(self.at(ID_AA64PFR0), 48) != 0,
            mte: field(self.at(ID_AA64PFR1), 8) >= 2,
        }
    }

    /// Whether limited ordering regions (FEAT_LOR) exist.
    pub fn has_lor(&self) -> bool {
        field(self.at(ID_AA64MMFR1), 16) != 0
    }

    /// Physical address bits, ID_AA64MMFR0_EL1.PARange.
    pub fn pa_bits(&self) -> u32 {
        match field(self.at(ID_AA64MMFR0), 0) {
            0 => 32,
            1 => 36,
            2 => 40,
            3 => 42,
            4 => 44,
            6 => 52,
            7 => 56,
            _ => 48,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A CPU that has everything.
    fn max() -> IdRegs {
        let mut host = IdRegs::new([0; COUNT]);
        host.set(4, 0, 0x1301_1111_2120_1222 & !(0xf << 24));
        host.set(4, 1, 0x0000_0221_0101_0322);
        host.set(5, 0, 0x0000_000f_1030_5619);
        host.set(6, 1, 0x2101_1111_0021_1002 | 0x1000_0000 | 0x10);
        host.set(7, 0, 0x2100_0322_0010_2126);
        host.set(7, 1, 0x1111_1112_1131_2123);
        host.set(7, 2, 0x1221_0112_1010_1011);
        host
    }

    fn visible(features: GuestFeatures) -> IdRegs {
        IdRegs::guest(&max(), features)
    }

    #[test]
    fn what_is_not_switched_is_hidden() {
        let guest = visible(GuestFeatures { gicv3: true, ..Default::default() });
        let pfr0 = guest.at(ID_AA64PFR0);
        for (name, shift) in [("SVE", 32), ("SEL2", 36), ("MPAM", 40), ("AMU", 44), ("RME", 52)] {
            assert_eq!(field(pfr0, shift), 0, "{name}");
        }
        assert_eq!(pfr0 & 0xffff, 0x1111, "AArch64 only");
        assert_eq!(field(pfr0, 24), 1, "GIC");
        assert_eq!(field(pfr0, 28), 1, "RAS");
        let pfr1 = guest.at(ID_AA64PFR1);
        assert_eq!(pfr1 & !0x0000_000f_0000_00ff, 0);
        let isar1 = guest.at(ID_AA64ISAR1);
        for shift in [4, 8, 24, 28] {
            assert_eq!(field(isar1, shift), 0, "pointer authentication");
        }
        assert_eq!(field(guest.at(ID_AA64DFR0), 8), 0, "PMUVer");
        assert_eq!(field(guest.at(ID_AA64DFR0), 32), 0, "PMSVer");
        assert_eq!(guest.at(ID_PFR0), 0);
        assert_eq!(guest.get(1, 7), 0);
        assert_eq!(guest.get(9, 0), 0);
    }

    #[test]
    fn cache_format_follows_the_trap() {
        assert_eq!(field(visible(GuestFeatures::default()).at(ID_AA64MMFR2), 20), 1);
        let trapped = visible(GuestFeatures { trap_cache_ids: true, ..Default::default() });
        assert_eq!(field(trapped.at(ID_AA64MMFR2), 20), 0);
    }

    #[test]
    fn csv_is_at_least_what_is_known() {
        let host = IdRegs::new([0; COUNT]);
        let features =
            GuestFeatures { csv2_unaffected: true, csv3_unaffected: true, ..Default::default() };
        let guest = IdRegs::guest(&host, features);
        assert_eq!(guest.at(ID_AA64PFR0) >> 56, 0x11);
    }

    #[test]
    fn names_are_where_they_are() {
        assert_eq!(name(ID_AA64MMFR4), Some("ID_AA64MMFR4_EL1"));
        assert_eq!(name(3), None);
        assert_eq!(visible(GuestFeatures::default()).pa_bits(), 52);
    }

    proptest! {
        #[test]
        fn a_guest_view_is_allowed_and_idempotent(values in proptest::array::uniform32(any::<u64>()), rest in proptest::array::uniform24(any::<u64>())) {
            let mut all = [0u64; COUNT];
            all[..32].copy_from_slice(&values);
            all[32..].copy_from_slice(&rest);
            let guest = IdRegs::guest(&IdRegs::new(all), GuestFeatures::default());
            for crm in 1..8 {
                for op2 in 0..8 {
                    prop_assert!(guest.allows(crm, op2, guest.get(crm, op2)));
                }
            }
            prop_assert_eq!(IdRegs::guest(&guest, GuestFeatures::default()), guest);
        }

        #[test]
        fn no_field_grows(value: u64) {
            let guest = visible(GuestFeatures::default());
            if guest.allows(6, 0, value) {
                prop_assert_eq!(value, 0); // the host has none
            }
        }
    }
}
