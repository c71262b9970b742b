//! CPUs whose errata must be worked around, by MIDR_EL1.

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
const NVIDIA: u8 = 0x4e;
const QUALCOMM: u8 = 0x51;
const MICROSOFT: u8 = 0x6d;
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

/// Accesses by a translation that a broadcast TLBI took away may still be under way on
/// this CPU when the DSB after it has ended elsewhere (CVE-2025-10263, and like ones
/// before it). One more broadcast TLBI, whichever, and DSB wait for them. (Arm's also
/// have 1286807, Cortex-A76 to r3p0.)
pub const REPEAT_TLBI: [Erratum; 27] = [
    Erratum { number: 2_441_007, cpu: "Cortex-A55", model: (ARM, 0xd05), last: ALL },
    Erratum { number: 4_193_800, cpu: "Cortex-A76", model: (ARM, 0xd0b), last: ALL },
    Erratum { number: 4_193_800, cpu: "Neoverse N1", model: (ARM, 0xd0c), last: ALL },
    Erratum { number: 4_193_798, cpu: "Cortex-A77", model: (ARM, 0xd0d), last: ALL },
    Erratum { number: 4_193_801, cpu: "Cortex-A76AE", model: (ARM, 0xd0e), last: ALL },
    Erratum { number: 4_193_790, cpu: "Neoverse V1", model: (ARM, 0xd40), last: ALL },
    Erratum { number: 4_193_791, cpu: "Cortex-A78", model: (ARM, 0xd41), last: ALL },
    Erratum { number: 4_193_793, cpu: "Cortex-A78AE", model: (ARM, 0xd42), last: ALL },
    Erratum { number: 4_193_791, cpu: "Cortex-X1", model: (ARM, 0xd44), last: ALL },
    Erratum { number: 2_441_009, cpu: "Cortex-A510", model: (ARM, 0xd46), last: (1, 1) },
    Erratum { number: 4_193_788, cpu: "Cortex-A710", model: (ARM, 0xd47), last: ALL },
    Erratum { number: 4_193_788, cpu: "Cortex-X2", model: (ARM, 0xd48), last: ALL },
    Erratum { number: 4_193_789, cpu: "Neoverse N2", model: (ARM, 0xd49), last: ALL },
    Erratum { number: 4_193_794, cpu: "Cortex-A78C", model: (ARM, 0xd4b), last: ALL },
    Erratum { number: 4_193_792, cpu: "Cortex-X1C", model: (ARM, 0xd4c), last: ALL },
    Erratum { number: 4_193_786, cpu: "Cortex-X3", model: (ARM, 0xd4e), last: ALL },
    Erratum { number: 4_193_787, cpu: "Neoverse V2", model: (ARM, 0xd4f), last: ALL },
    Erratum { number: 4_118_414, cpu: "Cortex-X4", model: (ARM, 0xd82), last: ALL },
    Erratum { number: 4_193_784, cpu: "Neoverse V3AE", model: (ARM, 0xd83), last: ALL },
    Erratum { number: 4_193_784, cpu: "Neoverse V3", model: (ARM, 0xd84), last: ALL },
    Erratum { number: 4_193_781, cpu: "Cortex-X925", model: (ARM, 0xd85), last: ALL },
    Erratum { number: 4_193_780, cpu: "C1-Ultra", model: (ARM, 0xd8c), last: ALL },
    Erratum { number: 4_193_780, cpu: "C1-Premium", model: (ARM, 0xd90), last: ALL },
    Erratum { number: 1_029, cpu: "Olympus", model: (NVIDIA, 0x010), last: ALL },
    Erratum { number: 1_009, cpu: "Falkor", model: (QUALCOMM, 0x800), last: (0, 0) },
    Erratum { number: 1_286_807, cpu: "Kryo 4xx Gold", model: (QUALCOMM, 0x804), last: (15, 14) },
    Erratum { number: 4_193_789, cpu: "Cobalt 100", model: (MICROSOFT, 0xd49), last: ALL },
];

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

/// The erratum of [`REPEAT_TLBI`] that the CPU with this MIDR_EL1 has.
pub fn repeat_tlbi(midr: u64) -> Option<&'static Erratum> {
    REPEAT_TLBI.iter().find(|erratum| erratum.is_in(midr))
}

/// All errata of the world switch's that the CPU with this MIDR_EL1 has.
pub fn of(midr: u64) -> impl Iterator<Item = &'static Erratum> {
    speculative_at(midr).into_iter().chain(Some(&STAGE2_FOR_STAGE1).filter(move |e| e.is_in(midr)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_whose_broadcasts_end_early() {
        let number = |midr| repeat_tlbi(midr).map(|erratum| erratum.number);
        // Cortex-A76 and Neoverse N1, of any version: QEMU's are r4p1.
        assert_eq!(number(0x410f_d0b0), Some(4_193_800));
        assert_eq!(number(0x414f_d0b1), Some(4_193_800));
        assert_eq!(number(0x414f_d0c1), Some(4_193_800));
        assert_eq!(number(0x411f_d402), Some(4_193_790));
        assert_eq!(number(0x412f_d050), Some(2_441_007));
        assert_eq!(number(0x410f_d82f), Some(4_118_414));
        // Cortex-A510 until r1p1.
        assert_eq!(number(0x411f_d461), Some(2_441_009));
        assert_eq!(number(0x411f_d462), None);
        // By maker, too: Neoverse N2 and the one that is made of it, and nobody else's.
        assert_eq!(number(0x410f_d490), Some(4_193_789));
        assert_eq!(number(0x6d0f_d490), Some(4_193_789));
        assert_eq!(number(0x510f_d490), None);
        assert_eq!(number(0x510f_8000), Some(1009));
        assert_eq!(number(0x510f_8001), None);
        // Cortex-A53, A57, A72; QEMU's max.
        for midr in [0x410f_d034, 0x411f_d070, 0x410f_d083, 0x000f_0510] {
            assert_eq!(number(midr), None);
        }
    }

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
