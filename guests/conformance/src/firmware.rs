//! PSCI, SMCCC, TRNG.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use guest_rt::cases::{Case, Outcome, SKIP};
use guest_rt::machine::Machine;
use guest_rt::psci::{self, call};
use guest_rt::{check, cpu, same};

pub const CASES: &[Case] = &[
    ("firmware.smccc_version", smccc_version),
    ("firmware.unknown_function", unknown_function),
    ("firmware.psci_version", psci_version),
    ("firmware.psci_features", psci_features),
    ("firmware.affinity_info", affinity_info),
    ("firmware.cpu_on_off", cpu_on_off),
    ("firmware.cpu_on_errors", cpu_on_errors),
    ("firmware.trng", trng),
    ("firmware.vendor_id", vendor_id),
];

const NOT_SUPPORTED: i64 = -1;
const INVALID_PARAMETERS: i64 = -2;
const ALREADY_ON: i64 = -4;
const ON: u64 = 0;
const OFF: u64 = 1;

fn one(f: u64, a: u64) -> i64 {
    call([f, a, 0, 0])[0] as i64
}

/// As SMC32 functions answer: 32 bits.
fn one32(f: u64, a: u64) -> i64 {
    i64::from(one(f, a) as i32)
}

fn smccc_version(_: &'static Machine) -> Outcome {
    check!(one32(psci::SMCCC_VERSION, 0) >= 0x1_0001);
    // SMCCC_ARCH_FEATURES of what doesn't exist.
    same!(one32(0x8000_0001, 0x8000_7abc), NOT_SUPPORTED);
    Ok(())
}

fn unknown_function(_: &'static Machine) -> Outcome {
    for f in [0x8600_ff00u64, 0xc600_ff00, 0x8400_ffff, 0xc300_1234, 0xbeef_0000, 0x8000_ffff] {
        same!(one(f, 0), NOT_SUPPORTED);
    }
    Ok(())
}

fn psci_version(_: &'static Machine) -> Outcome {
    let v = one(psci::VERSION, 0);
    check!(v == 2 || (0x1_0000..=0x1_0004).contains(&v));
    Ok(())
}

fn psci_features(_: &'static Machine) -> Outcome {
    if one(psci::VERSION, 0) < 0x1_0000 {
        return SKIP;
    }
    for f in [psci::VERSION, psci::CPU_OFF, psci::CPU_ON, psci::SYSTEM_OFF, 0x8400_0009] {
        same!(one32(psci::FEATURES, f), 0);
    }
    same!(one32(psci::FEATURES, psci::SMCCC_VERSION), 0);
    same!(one32(psci::FEATURES, 0x8400_00ff), NOT_SUPPORTED);
    Ok(())
}

fn state(mpidr: u64) -> u64 {
    call([psci::AFFINITY_INFO, mpidr, 0, 0])[0]
}

fn affinity_info(m: &'static Machine) -> Outcome {
    same!(state(m.cpus[0]), ON);
    for i in 1..m.cpu_count {
        same!(state(m.cpus[i]), OFF);
    }
    same!(state(0xff_ffff), INVALID_PARAMETERS);
    Ok(())
}

static SEEN: AtomicU64 = AtomicU64::new(0);
static WHO: AtomicU64 = AtomicU64::new(0);

extern "C" fn once(argument: u64) -> ! {
    WHO.store(guest_rt::mrs!("mpidr_el1"), SeqCst);
    SEEN.store(argument, SeqCst);
    call([psci::CPU_OFF, 0, 0, 0]);
    loop {
        cpu::wfi();
    }
}

fn cpu_on_off(m: &'static Machine) -> Outcome {
    for round in 1..=5u64 {
        for i in 1..m.cpu_count {
            let word = round << 32 | i as u64;
            same!(cpu::start(m, i, once, word), 0);
            check!(cpu::until(|| SEEN.load(SeqCst) == word));
            same!(WHO.load(SeqCst) & 0xff_00ff_ffff, m.cpus[i]);
            check!(cpu::until(|| state(m.cpus[i]) == OFF));
        }
    }
    Ok(())
}

fn cpu_on_errors(m: &'static Machine) -> Outcome {
    same!(call([psci::CPU_ON, m.cpus[0], m.ram.0, 0])[0], ALREADY_ON);
    same!(call([psci::CPU_ON, 0xff_ffff, m.ram.0, 0])[0], INVALID_PARAMETERS);
    Ok(())
}

fn trng(_: &'static Machine) -> Outcome {
    const VERSION: u64 = 0x8400_0050;
    const RND64: u64 = 0xc400_0053;
    if one32(VERSION, 0) == NOT_SUPPORTED {
        return SKIP; // It's optional.
    }
    check!(one32(VERSION, 0) >= 0x1_0000);
    let (a, b) = (call([RND64, 192, 0, 0]), call([RND64, 192, 0, 0]));
    same!(a[0], 0);
    check!(a[1..] != b[1..]);
    // 8 bits: nothing beyond them.
    let c = call([RND64, 8, 0, 0]);
    same!((c[0], c[1], c[2], c[3] >> 8) == (0, 0, 0, 0), 1);
    for bad in [193, u64::MAX] {
        same!(call([RND64, bad, 0, 0])[0], INVALID_PARAMETERS);
    }
    Ok(())
}

fn vendor_id(_: &'static Machine) -> Outcome {
    // Whoever has vendor calls says whose they are, the same each time.
    let a = call([0x8600_ff01, 0, 0, 0]);
    same!(a == call([0x8600_ff01, 0, 0, 0]), 1);
    Ok(())
}
