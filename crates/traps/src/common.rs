//! ID registers of CPUs that differ, made one: what all of them have.
//!
//! A program, a guest or the kernel may run on any of them, and must find there
//! what it was told. Fields follow the Arm ARM's scheme (D24.1.3): unsigned
//! ones grow with what the CPU can do; signed ones have 0xf for nothing at all.

use crate::id::*;

/// Fields that tell of a burden, not of an ability: the largest counts.
const BURDENS: [(usize, u32); 1] = [
    // SpecSEI: a speculative read may raise an SError.
    (ID_AA64MMFR1, 24),
];

/// What the kernel has relied on since its boot CPU came up: (register, lowest
/// bit, name).
const RELIED_ON: [(usize, u32, &str); 5] = [
    (ID_AA64MMFR0, 0, "physical addresses of as many bits (ID_AA64MMFR0_EL1.PARange)"),
    (ID_AA64MMFR0, 28, "the 4 KiB granule (ID_AA64MMFR0_EL1.TGran4)"),
    (ID_AA64MMFR1, 8, "FEAT_VHE (ID_AA64MMFR1_EL1.VH)"),
    (ID_AA64MMFR1, 20, "FEAT_PAN (ID_AA64MMFR1_EL1.PAN)"),
    (ID_AA64PFR0, 24, "GICv3's system registers (ID_AA64PFR0_EL1.GIC)"),
];

/// What is common to CPUs that say `a` and `b`.
pub fn features(a: &IdRegs, b: &IdRegs) -> IdRegs {
    let mut common = a.clone();
    for register in 0..COUNT {
        let value = (0..64).step_by(4).fold(0, |value, shift| {
            let (a, b) = (field(a.at(register), shift), field(b.at(register), shift));
            with_field(value, shift, safest(register, shift, a, b))
        });
        common.put(register, value);
    }
    common
}

fn safest(register: usize, shift: u32, a: u64, b: u64) -> u64 {
    if SIGNED.contains(&(register, shift)) {
        if signed(a) < signed(b) { a } else { b }
    } else if BURDENS.contains(&(register, shift)) {
        a.max(b)
    } else {
        a.min(b)
    }
}

/// 0xf is -1.
const fn signed(field: u64) -> i64 {
    ((field << 60) as i64) >> 60
}

/// What a CPU that says `late` lacks of what the kernel has relied on since a
/// CPU that says `boot` started it: such a CPU can't be used.
pub fn missing(boot: &IdRegs, late: &IdRegs) -> Option<&'static str> {
    let lacks = |&&(register, shift, _): &&(usize, u32, &str)| {
        let (boot, late) = (field(boot.at(register), shift), field(late.at(register), shift));
        safest(register, shift, boot, late) != boot
    };
    RELIED_ON.iter().find(lacks).map(|&(.., name)| name)
}

/// CTR_EL0 for programs that may run on CPUs with `a` and `b` (Arm ARM
/// D24.2.34), if what they would do by it is right on both.
///
/// Programs read the register themselves, from the CPU they happen to be on:
/// the sizes of lines and what is kept coherent must be the same everywhere.
/// The policy of the instruction cache (L1Ip) matters to the kernel alone: any
/// difference makes it VIPT. ERG and CWG are upper bounds, 0 an unknown one.
pub fn ctr(a: u64, b: u64) -> Option<u64> {
    const L1IP: u64 = 3 << 14;
    const VIPT: u64 = 2 << 14;
    const SAME: u64 = 0xf | 0xf << 16 | 3 << 28 | 0x3f << 32;
    if (a ^ b) & SAME != 0 {
        return None;
    }
    let bound = |shift| match (field(a, shift), field(b, shift)) {
        (0, _) | (_, 0) => 0,
        (a, b) => a.max(b),
    };
    let l1ip = if (a ^ b) & L1IP == 0 { a & L1IP } else { VIPT };
    let rest = a & b & !(L1IP | 0xff << 20);
    Some(rest | l1ip | bound(20) << 20 | bound(24) << 24)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with(register: usize, value: u64) -> IdRegs {
        let mut values = [0; COUNT];
        values[register] = value;
        IdRegs::new(values)
    }

    /// What two CPUs have in common of one register.
    fn both(register: usize, a: u64, b: u64) -> u64 {
        features(&with(register, a), &with(register, b)).at(register)
    }

    #[test]
    fn the_lesser_of_each_field_counts() {
        // Cortex-A53 (no atomics) and Cortex-A55 in ID_AA64ISAR0_EL1.
        assert_eq!(both(ID_AA64ISAR0, 0x0001_1120, 0x0000_1000_1021_1120), 0x0001_1120);
        // 0xf is nothing, not much: FP, and the 64 KiB granule.
        assert_eq!(both(ID_AA64PFR0, 0x000f_0000, 0x0001_0000), 0x000f_0000);
        assert_eq!(both(ID_AA64MMFR0, 0xf << 24, 0), 0xf << 24);
        // An SError by speculation on either is one to reckon with.
        assert_eq!(both(ID_AA64MMFR1, 1 << 24, 0), 1 << 24);
    }

    #[test]
    fn a_cpu_that_lacks_what_the_kernel_stands_on_is_named() {
        let max = with(ID_AA64MMFR1, 1 << 8 | 3 << 20);
        assert_eq!(missing(&max, &max), None);
        assert!(missing(&max, &with(ID_AA64MMFR1, 1 << 8)).is_some_and(|why| why.contains("PAN")));
        assert!(missing(&max, &with(ID_AA64MMFR1, 3 << 20)).is_some_and(|why| why.contains("VHE")));
        // More than was relied on does no harm.
        assert_eq!(missing(&with(ID_AA64MMFR1, 1 << 8), &max), None);
        assert_eq!(missing(&with(ID_AA64MMFR0, 2), &with(ID_AA64MMFR0, 5)), None);
        assert!(missing(&with(ID_AA64MMFR0, 5), &with(ID_AA64MMFR0, 2)).is_some());
    }

    #[test]
    fn cache_types_of_a53_and_a72_meet() {
        // The same lines, VIPT and PIPT.
        let (a53, a72) = (0x8444_8004, 0x8444_c004);
        assert_eq!(ctr(a53, a72), Some(0x8444_8004));
        assert_eq!(ctr(a72, a72), Some(a72));
        // Other lines; and one CPU that keeps instructions coherent by itself.
        assert_eq!(ctr(a53, 0x8443_8004), None);
        assert_eq!(ctr(a53, 0xa444_8004), None);
        // An unknown granule stays unknown.
        assert_eq!(ctr(0x8404_8004, 0x8444_8004), Some(0x8404_8004));
        assert_eq!(ctr(0x8434_8004, 0x8454_8004), Some(0x8454_8004));
    }

    fn any_registers() -> impl Strategy<Value = IdRegs> {
        (proptest::array::uniform32(any::<u64>()), proptest::array::uniform24(any::<u64>()))
            .prop_map(|(first, rest)| {
                let mut all = [0; COUNT];
                all[..32].copy_from_slice(&first);
                all[32..].copy_from_slice(&rest);
                IdRegs::new(all)
            })
    }

    proptest! {
        /// However the CPUs come up, the result is the same, and promises no
        /// CPU more than it has.
        #[test]
        fn order_and_repetition_do_not_matter(a in any_registers(), b in any_registers(), c in any_registers()) {
            prop_assert_eq!(features(&a, &b), features(&b, &a));
            prop_assert_eq!(features(&features(&a, &b), &c), features(&a, &features(&b, &c)));
            prop_assert_eq!(features(&a, &a), a.clone());
            let common = features(&a, &b);
            for (register, shift) in (0..COUNT).flat_map(|r| (0..64).step_by(4).map(move |s| (r, s))) {
                let safe = field(common.at(register), shift);
                prop_assert_eq!(safest(register, shift, safe, field(a.at(register), shift)), safe);
                prop_assert_eq!(safest(register, shift, safe, field(b.at(register), shift)), safe);
            }
        }

        #[test]
        fn ctr_is_the_same_from_either_side(a: u64, b: u64) {
            prop_assert_eq!(ctr(a, b), ctr(b, a));
        }
    }
}
