use super::*;
use proptest::prelude::*;
use std::collections::HashSet;
use std::vec::Vec;

const POLICY: Policy = Policy::new();

fn call(function: u32, args: [u64; 3]) -> Action {
    decide(&POLICY, function, args)
}

#[test]
fn versions() {
    assert_eq!(answer(&POLICY, 0x8000_0000, 0), Some(0x1_0001));
    assert_eq!(answer(&POLICY, 0x8400_0000, 0), Some(0x1_0001));
    assert_eq!(call(f::PSCI_MIGRATE_INFO_TYPE, [0; 3]), Action::Return(2));
    assert_eq!(answer(&POLICY, 0xdead_beef, 0), Some(NOT_SUPPORTED));
    assert_eq!(NOT_SUPPORTED, u64::MAX);
}

#[test]
fn features_say_what_exists() {
    for function in [f::CPU_ON_64, f::SYSTEM_OFF, f::SMCCC_VERSION, f::SYSTEM_RESET2_64] {
        assert_eq!(call(f::PSCI_FEATURES, [function.into(), 0, 0]), Action::Return(0));
    }
    assert_eq!(call(f::PSCI_FEATURES, [0xc400_000e, 0, 0]), Action::Return(NOT_SUPPORTED));
    let suspend = Policy { system_suspend: true, ..POLICY };
    assert_eq!(decide(&suspend, f::PSCI_FEATURES, [0xc400_000e, 0, 0]), Action::Return(0));
    assert_eq!(decide(&suspend, f::SYSTEM_SUSPEND_64, [1, 2, 3]), Action::SystemSuspend);
    let old = Policy { psci_version: PSCI_0_2, ..POLICY };
    assert_eq!(decide(&old, f::PSCI_FEATURES, [0x8400_0000, 0, 0]), Action::Return(NOT_SUPPORTED));
    assert_eq!(decide(&old, f::SYSTEM_RESET2, [0; 3]), Action::Return(NOT_SUPPORTED));
}

#[test]
fn workarounds() {
    let policy = Policy {
        workaround_1: Workaround::NotRequired,
        workaround_2: Workaround::NotRequired,
        workaround_3: Workaround::Available,
        ..POLICY
    };
    let ask = |function: u32| decide(&policy, f::SMCCC_ARCH_FEATURES, [function.into(), 0, 0]);
    assert_eq!(ask(f::ARCH_WORKAROUND_1), Action::Return(1));
    assert_eq!(ask(f::ARCH_WORKAROUND_2), Action::Return(NOT_REQUIRED));
    assert_eq!(ask(f::ARCH_WORKAROUND_3), Action::Return(0));
    assert_eq!(ask(f::PV_TIME_FEATURES), Action::Return(NOT_SUPPORTED));
    // The exit did it already, if there was anything to do.
    for function in [f::ARCH_WORKAROUND_1, f::ARCH_WORKAROUND_2, f::ARCH_WORKAROUND_3] {
        assert_eq!(answer(&Policy::new(), function, 0), Some(SUCCESS));
    }
}

#[test]
fn narrow_calls_have_narrow_arguments() {
    assert_eq!(
        call(f::CPU_ON, [0xffff_ffff_0000_0001, 0xffff_ffff_4000_0000, u64::MAX]),
        Action::CpuOn { target: 1, entry: 0x4000_0000, context_id: 0xffff_ffff }
    );
    assert_eq!(
        call(f::CPU_ON_64, [1, 0x1_4000_0000, 7]),
        Action::CpuOn { target: 1, entry: 0x1_4000_0000, context_id: 7 }
    );
    assert_eq!(call(f::CPU_ON_64, [1 << 31, 0, 0]), Action::Return(INVALID_PARAMETERS));
    assert_eq!(call(f::AFFINITY_INFO_64, [0, 4, 0]), Action::Return(INVALID_PARAMETERS));
}

#[test]
fn reset2_takes_warm_and_vendor() {
    assert_eq!(call(f::SYSTEM_RESET2, [0, 0, 0]), Action::SystemReset { reset2: true });
    assert_eq!(
        call(f::SYSTEM_RESET2_64, [0x8000_0000, 0, 0]),
        Action::SystemReset { reset2: true }
    );
    assert_eq!(call(f::SYSTEM_RESET2, [1, 0, 0]), Action::Return(INVALID_PARAMETERS));
}

#[test]
fn random_numbers() {
    let entropy = Some([u64::MAX; 3]);
    assert_eq!(random(64, true, None), [(-3i64).cast_unsigned(), 0, 0, 0]);
    assert_eq!(call(f::TRNG_RND_64, [0, 0, 0]), Action::Return(TRNG_INVALID_PARAMETER));
    assert_eq!(call(f::TRNG_RND_64, [193, 0, 0]), Action::Return(TRNG_INVALID_PARAMETER));
    assert_eq!(call(f::TRNG_RND, [97, 0, 0]), Action::Return(TRNG_INVALID_PARAMETER));
    assert_eq!(call(f::TRNG_RND, [96, 0, 0]), Action::Random { bits: 96, wide: false });
    assert_eq!(random(1, true, entropy), [0, 0, 0, 1]);
    assert_eq!(random(64, true, entropy), [0, 0, 0, u64::MAX]);
    assert_eq!(random(65, true, entropy), [0, 0, 1, u64::MAX]);
    assert_eq!(random(192, true, entropy), [0, u64::MAX, u64::MAX, u64::MAX]);
    assert_eq!(random(33, false, entropy), [0, 0, 1, 0xffff_ffff]);
    let none = Policy { std: 0, ..POLICY };
    assert_eq!(decide(&none, f::TRNG_VERSION, [0; 3]), Action::Return(NOT_SUPPORTED));
}

#[test]
fn guests_know_kvm() {
    assert_eq!(
        call(f::VENDOR_UID, [0; 3]),
        Action::Return4([0xb66f_b428, 0xe911_c52e, 0x564b_caa9, 0x743a_004d])
    );
    assert_eq!(call(f::VENDOR_FEATURES, [0; 3]), Action::Return4([1, 0, 0, 0]));
    let none = Policy { vendor_hyp: 0, ..POLICY };
    assert_eq!(decide(&none, f::VENDOR_UID, [0; 3]), Action::Return(NOT_SUPPORTED));
}

/// Two vCPUs, every interleaving of CPU_ON, CPU_OFF and AFFINITY_INFO to depth
/// six: never two starts without a stop between, and AFFINITY_INFO is the truth.
#[test]
fn two_vcpus_exhaustively() {
    type State = ([Power; 2], [u32; 2], [u32; 2]);
    const MPIDR: [u64; 2] = [0x8000_0000, 0x8000_0001];
    let start: State = ([Power::On, Power::Off], [1, 0], [0, 0]);
    let mut seen = HashSet::from([start]);
    let mut todo = Vec::from([(start, 0)]);
    while let Some(((power, starts, stops), depth)) = todo.pop() {
        for target in 0..2usize {
            assert_eq!(starts[target] - stops[target], u32::from(power[target] == Power::On));
            let vcpus = MPIDR.iter().map(|m| m & MPIDR_AFFINITY).zip(power);
            let info = affinity_info(target as u64, 0, vcpus.clone());
            assert_eq!(info, u64::from(power[target] == Power::Off));
            let any = u64::from(power.iter().all(|p| *p == Power::Off));
            assert_eq!(affinity_info(0, 1, vcpus.clone()), any);
            assert_eq!(affinity_info(2, 0, vcpus), INVALID_PARAMETERS);
        }
        if depth == 6 {
            continue;
        }
        for caller in 0..2usize {
            if power[caller] == Power::Off {
                continue;
            }
            // CPU_OFF
            let mut next = (power, starts, stops);
            next.0[caller] = Power::Off;
            next.2[caller] += 1;
            if seen.insert(next) {
                todo.push((next, depth + 1));
            }
            // CPU_ON of each target, and of one that doesn't exist.
            assert_eq!(cpu_on(None), INVALID_PARAMETERS);
            for target in 0..2usize {
                let answer = cpu_on(Some(power[target]));
                assert_eq!(answer == ALREADY_ON, power[target] == Power::On);
                if answer == SUCCESS {
                    let mut next = (power, starts, stops);
                    next.0[target] = Power::On;
                    next.1[target] += 1;
                    if seen.insert(next) {
                        todo.push((next, depth + 1));
                    }
                }
            }
        }
    }
    assert!(seen.len() > 20);
}

proptest! {
    /// The short way never says something else than the long one.
    #[test]
    fn short_and_long_way_agree(function: u32, args: [u64; 3], known in 0usize..24) {
        const KNOWN: [u32; 24] = [
            f::SMCCC_VERSION, f::SMCCC_ARCH_FEATURES, f::PSCI_VERSION, f::CPU_SUSPEND,
            f::CPU_SUSPEND_64, f::CPU_OFF, f::CPU_ON, f::CPU_ON_64, f::AFFINITY_INFO,
            f::AFFINITY_INFO_64, f::PSCI_MIGRATE_INFO_TYPE, f::SYSTEM_OFF, f::SYSTEM_RESET,
            f::PSCI_FEATURES, f::SYSTEM_SUSPEND, f::SYSTEM_RESET2, f::TRNG_VERSION,
            f::TRNG_FEATURES, f::TRNG_GET_UUID, f::TRNG_RND, f::TRNG_RND_64, f::VENDOR_UID,
            f::VENDOR_FEATURES, f::PV_TIME_ST,
        ];
        let filtered = Policy { filtered: true, ..POLICY };
        for function in [function, KNOWN[known]] {
            let left = match answer(&POLICY, function, args[0]) {
                Some(value) => Action::Return(value),
                None => decide_unanswered(&POLICY, function, args),
            };
            prop_assert_eq!(decide(&POLICY, function, args), left);
            // A filter changes how, not what.
            prop_assert_eq!(decide(&filtered, function, args), decide(&POLICY, function, args));
            prop_assert_eq!(answer(&filtered, function, args[0]), None);
        }
    }
}

#[test]
fn a_watchdog_where_there_is_one() {
    let offered = Policy { watchdog: true, ..POLICY };
    assert_eq!(decide(&POLICY, f::WATCHDOG, [0; 3]), Action::Return(NOT_SUPPORTED));
    assert_eq!(answer(&offered, f::WATCHDOG, 0), None);
    assert_eq!(decide(&offered, f::WATCHDOG, [0; 3]), Action::Watchdog);
    // The function of the 64-bit convention is another, which isn't there.
    assert_eq!(decide(&offered, f::WATCHDOG | f::SMC64, [0; 3]), Action::Return(NOT_SUPPORTED));
}
