//! What CPUs give away by speculation, what this kernel does about it, and how
//! Linux words that in /sys/devices/system/cpu/vulnerabilities.
//!
//! Sources: Arm, "Cache Speculation Side-channels", "Spectre-BHB: Speculative
//! Target Reuse Attacks" (the loop counts), SMCCC (DEN 0028) for the calls of
//! firmware; Linux's documentation for words and precedence.

use crate::field;
use crate::midr::*;

/// The registers of a CPU that bear on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// MIDR_EL1.
    pub midr: u64,
    /// ID_AA64PFR0_EL1.
    pub pfr0: u64,
    /// ID_AA64PFR1_EL1.
    pub pfr1: u64,
    /// ID_AA64MMFR1_EL1.
    pub mmfr1: u64,
    /// ID_AA64ISAR2_EL1.
    pub isar2: u64,
}

/// What firmware answers SMCCC_ARCH_FEATURES for one of its workarounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// There is no such call (or no firmware).
    #[default]
    Absent,
    /// The call exists, and this CPU needs it.
    Needed,
    /// This CPU isn't affected.
    NotNeeded,
}

impl Answer {
    /// From the answer's 32 bits: 0; 1 or NOT_REQUIRED; anything else.
    pub const fn new(answer: i32) -> Answer {
        match answer {
            0 => Answer::Needed,
            1 | -2 => Answer::NotNeeded,
            _ => Answer::Absent,
        }
    }
}

/// Firmware's answers, on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Firmware {
    /// SMCCC_ARCH_WORKAROUND_1: forget what the branch predictor learnt.
    pub workaround_1: Answer,
    /// SMCCC_ARCH_WORKAROUND_2: speculative store bypass on and off.
    pub workaround_2: Answer,
    /// SMCCC_ARCH_WORKAROUND_3: as the first, and branch history.
    pub workaround_3: Answer,
}

/// How a CPU, or the machine, stands to a problem. What is worse is greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// It doesn't have it.
    #[default]
    NotAffected,
    /// It has it, and something is done.
    Mitigated,
    /// It has it.
    Vulnerable,
}

/// What clears branch history, on the way in from whom isn't trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clearing {
    /// Nothing need, or nothing can.
    #[default]
    Nothing,
    /// So many taken branches, then a speculation barrier.
    Loop(u8),
    /// CLRBHB (FEAT_CLRBHB).
    Instruction,
    /// A call of firmware.
    Firmware,
}

/// What is known of the CPU, or of all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct States {
    /// Variant 3: EL0 reads what the kernel maps.
    pub meltdown: State,
    /// Variant 2: others train the branch predictor.
    pub spectre_v2: State,
    /// Variant 4: speculative store bypass.
    pub spectre_v4: State,
    /// Others train it by branch history.
    pub spectre_bhb: State,
}

impl States {
    /// Of two CPUs together: the worse of each.
    pub fn with(self, other: States) -> States {
        States {
            meltdown: self.meltdown.max(other.meltdown),
            spectre_v2: self.spectre_v2.max(other.spectre_v2),
            spectre_v4: self.spectre_v4.max(other.spectre_v4),
            spectre_bhb: self.spectre_bhb.max(other.spectre_bhb),
        }
    }
}

/// What is to be done on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mitigation {
    /// How it stands.
    pub states: States,
    /// On entry from guests and EL0.
    pub clearing: Clearing,
    /// The call of firmware (a function identifier, or 0) that makes it forget
    /// the branch predictor: on entry from guests, and between processes.
    pub harden: u32,
}

/// SMCCC_ARCH_WORKAROUND_1.
pub const WORKAROUND_1: u32 = 0x8000_8000;
/// SMCCC_ARCH_WORKAROUND_3.
pub const WORKAROUND_3: u32 = 0x8000_3fff;

/// What to do on the CPU with these registers and this firmware.
pub fn assess(id: &Registers, firmware: &Firmware) -> Mitigation {
    let spectre_v2 = spectre_v2(id, firmware);
    let clearing = clearing(id, firmware);
    let spectre_bhb = if !bhb_affected(id) {
        State::NotAffected
    } else if spectre_v2 == State::Vulnerable {
        // No use alone.
        State::Vulnerable
    } else if clearing != Clearing::Nothing || has_ecbhb(id) {
        State::Mitigated
    } else {
        State::Vulnerable
    };
    let harden = match spectre_v2 {
        State::Mitigated if firmware.workaround_3 == Answer::Needed => WORKAROUND_3,
        State::Mitigated => WORKAROUND_1,
        _ if clearing == Clearing::Firmware => WORKAROUND_3,
        _ => 0,
    };
    let states = States {
        meltdown: meltdown(id),
        spectre_v2,
        spectre_v4: spectre_v4(id, firmware),
        spectre_bhb,
    };
    let clearing = if spectre_bhb == State::Mitigated { clearing } else { Clearing::Nothing };
    let harden = if spectre_v2 == State::Vulnerable { 0 } else { harden };
    Mitigation { states, clearing, harden }
}

/// In-order CPUs, which don't speculate far enough for any of it.
const IN_ORDER: [Model; 5] = [CORTEX_A35, CORTEX_A53, CORTEX_A55, BRAHMA_B53, KRYO_3XX_SILVER];

/// This kernel doesn't unmap itself from EL0.
fn meltdown(id: &Registers) -> State {
    const SAFE: [Model; 10] = [
        THUNDERX2,
        VULCAN,
        CORTEX_A57,
        CORTEX_A72,
        CORTEX_A73,
        TSV110,
        CARMEL,
        KRYO_2XX_GOLD,
        KRYO_2XX_SILVER,
        KRYO_4XX_SILVER,
    ];
    let safe = is_one_of(id.midr, &IN_ORDER) || is_one_of(id.midr, &SAFE);
    // ID_AA64PFR0_EL1.CSV3
    if safe || field(id.pfr0, 60) != 0 { State::NotAffected } else { State::Vulnerable }
}

fn spectre_v2(id: &Registers, firmware: &Firmware) -> State {
    const SAFE: [Model; 3] = [TSV110, KRYO_2XX_SILVER, KRYO_4XX_SILVER];
    // ID_AA64PFR0_EL1.CSV2
    let safe = is_one_of(id.midr, &IN_ORDER) || is_one_of(id.midr, &SAFE);
    if safe || field(id.pfr0, 56) != 0 {
        return State::NotAffected;
    }
    match firmware.workaround_1 {
        Answer::NotNeeded => State::NotAffected,
        Answer::Needed => State::Mitigated,
        Answer::Absent => State::Vulnerable,
    }
}

/// With FEAT_SSBS exceptions clear PSTATE.SSBS (SCTLR_ELx.DSSBS is 0), and EL0
/// can ask for it by prctl. Firmware's switch isn't used.
fn spectre_v4(id: &Registers, firmware: &Firmware) -> State {
    let safe = is_one_of(id.midr, &IN_ORDER) || is_one_of(id.midr, &[KRYO_4XX_SILVER]);
    if safe {
        State::NotAffected
    } else if has_ssbs(id) {
        State::Mitigated
    } else if firmware.workaround_2 == Answer::NotNeeded {
        State::NotAffected
    } else {
        State::Vulnerable
    }
}

/// ID_AA64PFR1_EL1.SSBS.
pub const fn has_ssbs(id: &Registers) -> bool {
    field(id.pfr1, 4) != 0
}

/// FEAT_ECBHB (ID_AA64MMFR1_EL1.ECBHB): the CPU keeps history apart itself.
const fn has_ecbhb(id: &Registers) -> bool {
    field(id.mmfr1, 60) != 0
}

/// CPUs that nobody knows are affected.
fn bhb_affected(id: &Registers) -> bool {
    const SAFE: [Model; 4] = [CORTEX_A510, CORTEX_A520, KRYO_2XX_SILVER, KRYO_4XX_SILVER];
    // FEAT_CSV2_3.
    let immune = field(id.pfr0, 56) >= 3;
    !immune && !is_one_of(id.midr, &IN_ORDER) && !is_one_of(id.midr, &SAFE)
}

/// Taken branches that fill the history, by CPU (Arm's white paper, table 1).
const LOOPS: [(u8, &[Model]); 6] = [
    (132, &[CORTEX_X3, NEOVERSE_V2]),
    (38, &[CORTEX_A715, CORTEX_A720]),
    (
        32,
        &[
            CORTEX_A78,
            CORTEX_A78AE,
            CORTEX_A78C,
            CORTEX_X1,
            CORTEX_X1C,
            CORTEX_A710,
            CORTEX_X2,
            NEOVERSE_N2,
            NEOVERSE_V1,
        ],
    ),
    (24, &[CORTEX_A76, CORTEX_A76AE, CORTEX_A77, NEOVERSE_N1, KRYO_4XX_GOLD, HIP09]),
    (11, &[AMPERE1]),
    (8, &[CORTEX_A72, CORTEX_A57]),
];

/// The cheapest that works, in this order.
fn clearing(id: &Registers, firmware: &Firmware) -> Clearing {
    if !bhb_affected(id) || has_ecbhb(id) {
        return Clearing::Nothing;
    }
    // ID_AA64ISAR2_EL1.CLRBHB
    if field(id.isar2, 28) != 0 {
        return Clearing::Instruction;
    }
    let known = LOOPS.iter().find(|(_, models)| is_one_of(id.midr, models));
    match known {
        Some((count, _)) => Clearing::Loop(*count),
        None if firmware.workaround_3 == Answer::Needed => Clearing::Firmware,
        None => Clearing::Nothing,
    }
}

const NOT_AFFECTED: &str = "Not affected";

/// The files of /sys/devices/system/cpu/vulnerabilities, and what is in them.
pub fn vulnerabilities(states: &States) -> impl Iterator<Item = (&'static str, &'static str)> {
    // What only CPUs of other architectures have.
    const ELSEWHERE: [&str; 13] = [
        "gather_data_sampling",
        "indirect_target_selection",
        "itlb_multihit",
        "l1tf",
        "mds",
        "mmio_stale_data",
        "reg_file_data_sampling",
        "retbleed",
        "spec_rstack_overflow",
        "srbds",
        "tsa",
        "tsx_async_abort",
        "vmscape",
    ];
    let own = [
        ("meltdown", if states.meltdown == State::NotAffected { NOT_AFFECTED } else { VULNERABLE }),
        ("spec_store_bypass", spec_store_bypass(states)),
        ("spectre_v1", "Mitigation: __user pointer sanitization"),
        ("spectre_v2", branch_predictor(states)),
    ];
    own.into_iter().chain(ELSEWHERE.map(|name| (name, NOT_AFFECTED)))
}

const VULNERABLE: &str = "Vulnerable";

fn spec_store_bypass(states: &States) -> &'static str {
    match states.spectre_v4 {
        State::NotAffected => NOT_AFFECTED,
        State::Mitigated => "Mitigation: Speculative Store Bypass disabled via prctl",
        State::Vulnerable => VULNERABLE,
    }
}

/// A machine that branch history is a problem for can't be "Not affected".
fn branch_predictor(states: &States) -> &'static str {
    match (states.spectre_v2, states.spectre_bhb) {
        (State::NotAffected, State::NotAffected) => NOT_AFFECTED,
        (State::NotAffected, State::Mitigated) => "Mitigation: CSV2, BHB",
        (State::NotAffected, State::Vulnerable) => "Mitigation: CSV2, but not BHB",
        (State::Mitigated, State::NotAffected) => "Mitigation: Branch predictor hardening",
        (State::Mitigated, State::Mitigated) => "Mitigation: Branch predictor hardening, BHB",
        (State::Mitigated, State::Vulnerable) => {
            "Mitigation: Branch predictor hardening, but not BHB"
        }
        (State::Vulnerable, _) => VULNERABLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Firmware = Firmware {
        workaround_1: Answer::Absent,
        workaround_2: Answer::Absent,
        workaround_3: Answer::Absent,
    };

    /// QEMU's models.
    fn cpu(midr: u64, pfr0: u64, pfr1: u64) -> Registers {
        Registers { midr, pfr0, pfr1, ..Registers::default() }
    }

    fn text(mitigation: &Mitigation, file: &str) -> &'static str {
        let mut all = vulnerabilities(&mitigation.states);
        all.find(|(name, _)| *name == file).map_or("", |(_, text)| text)
    }

    #[test]
    fn neoverse_n1_clears_by_24_branches() {
        let n1 = assess(&cpu(0x414f_d0c1, 0x1100_0000_1111_1112, 0x20), &NONE);
        assert_eq!(n1.clearing, Clearing::Loop(24));
        assert_eq!(n1.harden, 0);
        assert_eq!(text(&n1, "spectre_v2"), "Mitigation: CSV2, BHB");
        assert_eq!(text(&n1, "meltdown"), "Not affected");
        assert_eq!(
            text(&n1, "spec_store_bypass"),
            "Mitigation: Speculative Store Bypass disabled via prctl"
        );
    }

    #[test]
    fn neoverse_v1_clears_by_32_branches() {
        let v1 = assess(&cpu(0x411f_d402, 0x1101_1101_2011_1112, 0x20), &NONE);
        assert_eq!(v1.clearing, Clearing::Loop(32));
    }

    #[test]
    fn in_order_cpus_have_nothing() {
        for midr in [0x410f_d034, 0x412f_d050] {
            let safe = assess(&cpu(midr, 0x1111_2222, 0), &NONE);
            assert_eq!(safe, Mitigation::default());
            assert_eq!(text(&safe, "spectre_v2"), "Not affected");
        }
    }

    #[test]
    fn a57_and_a72_need_firmware() {
        let a72 = cpu(0x410f_d083, 0x2222, 0);
        let alone = assess(&a72, &NONE);
        assert_eq!(alone.clearing, Clearing::Nothing, "no use alone");
        assert_eq!(text(&alone, "spectre_v2"), "Vulnerable");
        assert_eq!(text(&alone, "spec_store_bypass"), "Vulnerable");
        assert_eq!(text(&alone, "meltdown"), "Not affected");
        let first = Firmware { workaround_1: Answer::Needed, ..NONE };
        let old = assess(&a72, &first);
        assert_eq!((old.clearing, old.harden), (Clearing::Loop(8), WORKAROUND_1));
        assert_eq!(text(&old, "spectre_v2"), "Mitigation: Branch predictor hardening, BHB");
        let third = Firmware { workaround_3: Answer::Needed, ..first };
        assert_eq!(assess(&a72, &third).harden, WORKAROUND_3);
        let fixed = Firmware { workaround_1: Answer::NotNeeded, ..NONE };
        assert_eq!(text(&assess(&a72, &fixed), "spectre_v2"), "Mitigation: CSV2, BHB");
    }

    #[test]
    fn hardware_comes_before_software() {
        let mut n2 = cpu(0x410f_d493, 1 << 56, 0);
        assert_eq!(assess(&n2, &NONE).clearing, Clearing::Loop(32));
        n2.isar2 = 1 << 28;
        assert_eq!(assess(&n2, &NONE).clearing, Clearing::Instruction);
        n2.mmfr1 = 1 << 60;
        let own = assess(&n2, &NONE);
        assert_eq!(own.clearing, Clearing::Nothing);
        assert_eq!(own.states.spectre_bhb, State::Mitigated);
        // QEMU's max: FEAT_CSV2_3.
        n2.pfr0 = 3 << 56;
        assert_eq!(assess(&n2, &NONE).states.spectre_bhb, State::NotAffected);
    }

    #[test]
    fn unknown_cpus_are_affected() {
        let new = cpu(0x7f0f_fff0, 0x1100_0000_0000_0000, 0x20);
        let alone = assess(&new, &NONE);
        assert_eq!(text(&alone, "spectre_v2"), "Mitigation: CSV2, but not BHB");
        let helped = assess(&new, &Firmware { workaround_3: Answer::Needed, ..NONE });
        assert_eq!((helped.clearing, helped.harden), (Clearing::Firmware, WORKAROUND_3));
        assert_eq!(text(&helped, "spectre_v2"), "Mitigation: CSV2, BHB");
        let a75 = assess(&cpu(0x410f_d0a0, 0, 0), &NONE);
        assert_eq!(text(&a75, "meltdown"), "Vulnerable");
    }

    #[test]
    fn the_worst_cpu_speaks_for_all() {
        let n1 = assess(&cpu(0x414f_d0c1, 0x1100_0000_1111_1112, 0x20), &NONE).states;
        let a53 = assess(&cpu(0x410f_d034, 0x2222, 0), &NONE).states;
        let a57 = assess(&cpu(0x411f_d070, 0x2222, 0), &NONE).states;
        assert_eq!(n1.with(a53), n1);
        assert_eq!(a53.with(a57).spectre_v2, State::Vulnerable);
        assert_eq!(n1.with(a57), a57.with(n1));
    }

    #[test]
    fn firmware_answers() {
        let all = [0, 1, -2, -1, 2].map(Answer::new);
        use Answer::*;
        assert_eq!(all, [Needed, NotNeeded, NotNeeded, Absent, Absent]);
    }
}
