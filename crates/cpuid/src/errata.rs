//! CPUs whose errata the world switch must work around, by MIDR_EL1.

/// An erratum: its number at the CPU's maker, and the CPUs that have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Erratum {
    /// The number in the errata notice.
    pub number: u32,
    /// The CPU's name.
    pub cpu: &'static str,
    /// MIDR_EL1's implementer and part number.
    model: (u8, u16),
    /// The last variant and revision that has it, as in rXpY.
    last: (u8, u8),
}

const ARM: u8 = 0x41;
const ALL: (u8, u8) = (15, 15);

/// A speculative AT or table walk in EL1's regime may use registers of which
/// some are already (or still) another world's, and leave what it finds in the
/// TLB. So walks are switched off, and the MMU on, while they change.
pub const SPECULATIVE_AT: [Erratum; 4] = [
    Erratum { number: 1_319_537, cpu: "Cortex-A57", model: (ARM, 0xd07), last: ALL },
    Erratum { number: 1_319_367, cpu: "Cortex-A72", model: (ARM, 0xd08), last: ALL },
    Erratum { number: 1_165_522, cpu: "Cortex-A76", model: (ARM, 0xd0b), last: (2, 0) },
    Erratum { number: 1_530_923, cpu: "Cortex-A55", model: (ARM, 0xd05), last: (2, 0) },
];

/// A load that crosses a page may report a stage 1 translation fault as one of
/// stage 2, with an HPFAR_EL2 that is none. So stage 1 is looked at first.
pub const STAGE2_FOR_STAGE1: Erratum =
    Erratum { number: 834_220, cpu: "Cortex-A57", model: (ARM, 0xd07), last: (1, 2) };

impl Erratum {
    /// Whether the CPU with this MIDR_EL1 has it.
    #[inline]
    pub fn is_in(&self, midr: u64) -> bool {
        let model = ((midr >> 24) as u8, (midr >> 4) as u16 & 0xfff);
        let version = ((midr >> 20) as u8 & 15, midr as u8 & 15);
        model == self.model && version <= self.last
    }
}

/// The erratum of [`SPECULATIVE_AT`] that the CPU with this MIDR_EL1 has.
pub fn speculative_at(midr: u64) -> Option<&'static Erratum> {
    SPECULATIVE_AT.iter().find(|erratum| erratum.is_in(midr))
}

/// All errata that the CPU with this MIDR_EL1 has.
pub fn of(midr: u64) -> impl Iterator<Item = &'static Erratum> {
    speculative_at(midr).into_iter().chain(Some(&STAGE2_FOR_STAGE1).filter(move |e| e.is_in(midr)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_have_their_errata() {
        let number = |midr| speculative_at(midr).map(|erratum| erratum.number);
        // QEMU's cortex-a57 (r1p0) and cortex-a72 (r0p3).
        assert_eq!(number(0x411f_d070), Some(1_319_537));
        assert_eq!(number(0x410f_d083), Some(1_319_367));
        // Cortex-A76: r2p0 has it, r2p1, r3p0 and r4p1 (QEMU's) don't.
        assert_eq!(number(0x412f_d0b0), Some(1_165_522));
        assert_eq!(number(0x410f_d0b9), Some(1_165_522));
        assert_eq!(number(0x412f_d0b1), None);
        assert_eq!(number(0x414f_d0b1), None);
        // Cortex-A53, Neoverse N1, another maker's 0xd08.
        assert_eq!(number(0x410f_d034), None);
        assert_eq!(number(0x413f_d0c1), None);
        assert_eq!(number(0x510f_d083), None);
        // Cortex-A57: r1p2 is the last that may call a fault stage 2's.
        let all = |midr| of(midr).map(|erratum| erratum.number).collect::<std::vec::Vec<_>>();
        assert_eq!(all(0x411f_d070), [1_319_537, 834_220]);
        assert_eq!(all(0x411f_d072), [1_319_537, 834_220]);
        assert_eq!(all(0x411f_d073), [1_319_537]);
        assert_eq!(all(0x410f_d083), [1_319_367]);
        assert_eq!(all(0x414f_d0b1), []);
    }
}
