//! What each CPU does against speculation attacks: chosen as it comes up, by
//! its ID registers and its firmware (policy in `cpuid::spectre`).

use crate::machine::Conduit;
use crate::{cpu, memory};
use arch::mitigation::{BY_HVC, Entry};
use arch::{sysreg, trap};
use base::{Lock, rank};
use core::sync::atomic::Ordering::Relaxed;
use cpuid::spectre::{self, Answer, Clearing, Firmware, Mitigation, Registers, States};
use smccc::{Call, Hvc, Smc, arch as calls, psci};
use world_switch::Together;
use world_switch::e2h0::E2h0;
use world_switch::vhe::Vhe;

/// Over all CPUs that came up.
static STATES: Lock<States> = Lock::new(rank::KERNEL_MAP, States {
    meltdown: spectre::State::NotAffected,
    spectre_v2: spectre::State::NotAffected,
    spectre_v4: spectre::State::NotAffected,
    spectre_bhb: spectre::State::NotAffected,
});

/// How the machine stands.
pub fn states() -> States {
    *STATES.lock()
}

/// Chooses this CPU's vectors. Before it has any.
pub fn init_cpu() {
    let id = Registers {
        midr: sysreg::midr_el1(),
        pfr0: sysreg::id_aa64pfr0_el1(),
        pfr1: sysreg::id_aa64pfr1_el1(),
        mmfr1: sysreg::id_aa64mmfr1_el1(),
        isar2: sysreg::id_aa64isar2_el1(),
    };
    let conduit = memory::machine().and_then(|machine| machine.psci);
    let firmware = match conduit {
        Some(Conduit::Smc) => ask::<Smc>(),
        Some(Conduit::Hvc) => ask::<Hvc>(),
        None => Firmware::default(),
    };
    let mitigation = spectre::assess(&id, &firmware);
    let by = if matches!(conduit, Some(Conduit::Hvc)) { BY_HVC } else { 0 };
    let (guest, el0) = entries(&mitigation);
    let this = cpu::this();
    this.loops.store(loops(&mitigation), Relaxed);
    this.function.store(u64::from(mitigation.harden) | by, Relaxed);
    this.guest_entry.store(guest as u32, Relaxed);
    let of_guests = if arch::host::is_e2h0() { E2h0::guest_vectors } else { Vhe::guest_vectors };
    this.guest_vectors.store(of_guests(guest), Relaxed);
    this.host_vectors.store(trap::vectors(el0), Relaxed);
    let hardens = mitigation.states.spectre_v2 == spectre::State::Mitigated;
    this.hardens.store(hardens, Relaxed);
    let mut states = STATES.lock();
    *states = states.with(mitigation.states);
    drop(states);
    report(&mitigation);
}

fn loops(mitigation: &Mitigation) -> u64 {
    match mitigation.clearing {
        Clearing::Loop(count) => count.into(),
        _ => 0,
    }
}

/// How exits from guests begin, and exceptions from EL0.
fn entries(mitigation: &Mitigation) -> (Entry, Entry) {
    let history = match mitigation.clearing {
        Clearing::Nothing => Entry::Plain,
        Clearing::Loop(_) => Entry::Loop,
        Clearing::Instruction => Entry::Instruction,
        Clearing::Firmware => Entry::Firmware,
    };
    (if mitigation.harden != 0 { Entry::Firmware } else { history }, history)
}

/// One line for each kind of CPU: the boot CPU's, and those that differ.
fn report(mitigation: &Mitigation) {
    static BOOT: Lock<Option<Mitigation>> = Lock::new(rank::KERNEL_MAP, None);
    let mut boot = BOOT.lock();
    if *boot == Some(*mitigation) {
        return;
    }
    boot.get_or_insert(*mitigation);
    drop(boot);
    let index = cpu::index();
    match mitigation.clearing {
        Clearing::Nothing if mitigation.harden == 0 => {}
        Clearing::Loop(count) => {
            log::info!("CPU{index}: branch history is cleared by {count} branches on entry");
        }
        Clearing::Instruction => log::info!("CPU{index}: branch history is cleared by CLRBHB on entry"),
        Clearing::Nothing | Clearing::Firmware => {}
    }
    if mitigation.harden != 0 {
        log::info!("CPU{index}: branch predictor hardening by firmware ({:#x})", mitigation.harden);
    }
}

/// What firmware says of this CPU: SMCCC 1.1, if PSCI knows of it (before PSCI
/// 1.0 an unknown call may do anything).
fn ask<C: Call>() -> Firmware {
    let knows_features = psci::version::<C>().is_ok_and(|version| version.major >= 1);
    let has_smccc = knows_features && psci::psci_features::<C>(calls::SMCCC_VERSION).is_ok();
    let is_1_1 = |version: calls::Version| (version.major, version.minor) >= (1, 1);
    if !has_smccc || !calls::version::<C>().is_ok_and(is_1_1) {
        return Firmware::default();
    }
    let answer = |function: u32| {
        let [answer, ..] = C::call32(calls::SMCCC_ARCH_FEATURES, [function, 0, 0, 0, 0, 0, 0]);
        Answer::new(answer as i32)
    };
    Firmware {
        workaround_1: answer(calls::SMCCC_ARCH_WORKAROUND_1),
        workaround_2: answer(calls::SMCCC_ARCH_WORKAROUND_2),
        workaround_3: answer(calls::SMCCC_ARCH_WORKAROUND_3),
    }
}

/// Another process gets the CPU: it must not go where the last one taught the
/// branch predictor to.
#[inline]
pub fn address_space_changes() {
    if cpu::this().hardens.load(Relaxed) {
        harden();
    }
}

#[cold]
fn harden() {
    let function = cpu::this().function.load(Relaxed);
    if function & BY_HVC != 0 {
        Hvc::call32(function as u32, [0; 7]);
    } else {
        Smc::call32(function as u32, [0; 7]);
    }
}
