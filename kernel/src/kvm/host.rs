//! What KVM asks of this kernel.

use crate::{cpu, features, gic, gich, hyp, random, time, user_space, vcpu};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use arch::sysreg;
use base::{Errno, Nanos, Result};
use core::fmt::Arguments;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use cpuid::spectre::State;
use frame::Frame;
use kvm::{AddressSpace, Entry, EventFd, Exit, Facts, Host, HostFrame, VcpuCore, VcpuState};
use paging::{GuestDevice, Id};
use psci::Workaround;
use regime::HostRegime;
use traps::GuestFeatures;
use traps::id::{ID_AA64MMFR2, ID_AA64PFR0};
use world_switch::e2h0::E2h0;
use world_switch::vhe::Vhe;

/// HCR_EL2 for guests (Arm ARM D24.2.61): VM, SWIO, PTW, FMO, IMO, AMO, FB,
/// BSU=inner, TWI, TID3, TSC, TIDCP, TACR, TSW, RW, TLOR.
const HCR_GUEST: u64 = 1
    | 1 << 1
    | 1 << 2
    | 7 << 3
    | 1 << 9
    | 1 << 10
    | 1 << 13
    | 1 << 18
    | 1 << 19
    | 1 << 20
    | 1 << 21
    | 1 << 22
    | 1 << 31
    | 1 << 35;
/// E2H, under VHE.
const HCR_E2H: u64 = 1 << 34;
const HCR_FWB: u64 = 1 << 46;
/// TERR, TEA, with FEAT_RAS: the error records are the host's.
const HCR_RAS: u64 = 1 << 36 | 1 << 37;

/// What is true of this machine: ID registers are those of all CPUs together;
/// the boot CPU names the model, as on Linux.
pub fn facts() -> Result<Facts, &'static str> {
    let split = vcpu::split();
    let (ich_vtr, gicv) = interrupt_controller(split)?;
    let common = features::common();
    let fwb = arch::cpu::field(common.id.at(ID_AA64MMFR2), 40) != 0;
    let ras = arch::cpu::field(common.id.at(ID_AA64PFR0), 28) != 0;
    let states = crate::speculation::states();
    let guest = GuestFeatures {
        trap_cache_ids: false,
        csv2_unaffected: states.spectre_v2 == State::NotAffected,
        csv3_unaffected: states.meltdown == State::NotAffected,
        gicv3: gicv.is_none(),
    };
    let workaround = |state| match state {
        State::NotAffected => Workaround::NotRequired,
        State::Mitigated => Workaround::Available,
        State::Vulnerable => Workaround::NotAvailable,
    };
    // With FEAT_SSBS guests help themselves, and need not know more.
    let spectre_v4 = match workaround(states.spectre_v4) {
        Workaround::Available => Workaround::NotAvailable,
        other => other,
    };
    Ok(Facts {
        ipa_bits: common.id.pa_bits().clamp(32, 48) as u8,
        id: common.id,
        features: guest,
        midr: sysreg::midr_el1(),
        revidr: sysreg::revidr_el1(),
        aidr: arch::guest_facts::aidr_el1(),
        ctr: common.ctr,
        clidr: sysreg::clidr_el1(),
        actlr: 0,
        ccsidr: arch::guest_facts::cache_sizes().collect::<Vec<_>>(),
        vtimer_intid: vcpu::VTIMER_INTID as u16,
        ich_vtr: Some(ich_vtr),
        gic_deactivates: gic::deactivates(),
        gicv,
        cpus: cpu::online().count() as u32,
        hcr_el2: HCR_GUEST
            | (if split || arch::host::is_e2h0() { 0 } else { HCR_E2H })
            | (if fwb { HCR_FWB } else { 0 }) | (if ras { HCR_RAS } else { 0 }),
        stage2_fwb: fwb,
        workarounds: [
            workaround(states.spectre_v2),
            spectre_v4,
            workaround(states.spectre_bhb),
        ],
    })
}

/// What guests' interrupt controllers stand on: ICH_VTR_EL2, or GICH_VTR and GICV.
fn interrupt_controller(split: bool) -> Result<(u64, Option<GuestDevice>), &'static str> {
    if gic::is_v3() && arch::cpu::has_gicv3_registers() {
        return Ok((if split { hyp::gic_type() } else { world_switch::gic::vtr() }, None));
    }
    let gicv = gich::init()?;
    gich::vtr().map(|vtr| (vtr, Some(gicv))).ok_or("there is no GIC that guests can use")
}

/// The kernel, for KVM. `SPLIT`: the hypervisor is a program of its own; `E2H0`:
/// it isn't, and the CPUs have no VHE.
pub struct Machine<const SPLIT: bool, const E2H0: bool> {
    facts: Facts,
}

impl<const SPLIT: bool, const E2H0: bool> Machine<SPLIT, E2H0> {
    /// With what was found out at boot.
    pub fn new(facts: Facts) -> Self {
        Machine { facts }
    }
}

impl<const SPLIT: bool, const E2H0: bool> Host for Machine<SPLIT, E2H0> {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn now(&self) -> u64 {
        arch::timer::counter()
    }

    fn entropy(&self) -> Option<[u64; 3]> {
        random::is_seeded().then(random::words)
    }

    fn signal_pending(&self) -> bool {
        user_space::signal_pending()
    }

    fn address_space(&self) -> Arc<dyn AddressSpace> {
        user_space::address_space().unwrap_or_else(|| Arc::new(NoSpace))
    }

    fn address_space_id(&self) -> u64 {
        user_space::address_space_id()
    }

    fn eventfd(&self, number: i32) -> Result<Arc<dyn EventFd>> {
        user_space::eventfd(number)
    }

    fn kick(&self, cpu: u32) {
        gic::send_sgi(cpu as usize, gic::SGI_RESCHEDULE);
    }

    fn enter(&self, regime: &mut HostRegime, entry: &Entry<'_>, state: &mut VcpuState) -> Exit {
        // Interrupts may have been taken since KVM_RUN last looked (`rest`, `pull`,
        // a window), and a signal's kick with them.
        if crate::sched::need_resched() || user_space::signal_pending() {
            return Exit::Interrupt;
        }
        if SPLIT {
            vcpu::enter_split(entry, state)
        } else if E2H0 {
            vcpu::enter::<E2h0>(regime, entry, state)
        } else {
            vcpu::enter::<Vhe>(regime, entry, state)
        }
    }

    fn pull(&self, regime: &HostRegime, core: &Arc<VcpuCore>) {
        vcpu::pull(regime, core);
    }

    fn read_live(&self, core: &VcpuCore, state: &mut VcpuState) {
        vcpu::read_live::<SPLIT>(core, state);
    }

    fn write_live(&self, core: &VcpuCore, state: &VcpuState, write: u8, deactivate: bool) {
        vcpu::write_live::<SPLIT>(core, state, write, deactivate);
    }

    fn this_cpu(&self) -> u32 {
        cpu::index() as u32
    }

    fn rest(&self, _regime: &mut HostRegime, core: &VcpuCore) -> bool {
        crate::sched::wait_here(|| core.has_requests())
    }

    fn window(&self, _regime: &mut HostRegime) {
        crate::sched::breathe();
    }

    fn set_timer(&self, core: &Arc<VcpuCore>, deadline: Option<u64>) {
        vcpu::set_timer(core, deadline);
    }

    fn invalidate_stage2(&self, vmid: &Id, start: u64, len: u64, last_level: bool) {
        vcpu::invalidate_stage2(vmid, start, len, last_level);
    }

    fn make_coherent(&self, frame: &Frame) {
        vcpu::make_coherent(frame, self.facts.stage2_fwb);
    }

    fn interrupt_ended(&self, intid: u32) {
        gic::set_active(intid, false);
    }

    fn note(&self, _regime: &HostRegime, what: Arguments<'_>) {
        if allowed(time::now()) {
            log::warn!("KVM: pid {}: {what}", user_space::pid());
        }
    }

    fn fatal(&self, what: Arguments<'_>) -> ! {
        crate::panic::fatal(what)
    }
}

/// At most ten lines a second: a guest must not flood the log.
fn allowed(now: Nanos) -> bool {
    static LAST: AtomicU64 = AtomicU64::new(0);
    const GAP: Nanos = 100_000_000;
    let last = LAST.load(Relaxed);
    (last == 0 || now.saturating_sub(last) >= GAP)
        && LAST.compare_exchange(last, now.max(1), Relaxed, Relaxed).is_ok()
}

/// Nobody's memory: that of a process that is ending, say.
struct NoSpace;

impl AddressSpace for NoSpace {
    fn id(&self) -> u64 {
        0
    }

    fn sequence(&self) -> u64 {
        0
    }

    fn is_current(&self, _sequence: u64) -> bool {
        false
    }

    fn get_frame(&self, _regime: &HostRegime, _addr: u64, _write: bool) -> Result<HostFrame> {
        Err(Errno::EFAULT)
    }

    fn register(&self, _notifier: Weak<dyn kvm::MmuNotifier>) -> Result<()> {
        Err(Errno::ESRCH)
    }
}
