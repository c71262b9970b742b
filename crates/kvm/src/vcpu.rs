//! A vCPU: what others see of it, and what belongs to whoever runs it.

use crate::host::{Facts, Host};
use crate::snapshot::VmSnapshot;
use alloc::boxed::Box;
use alloc::sync::Arc;
use base::census::{Counted, Kind};
use base::{Errno, Lock, Result, WaitQueue, rank};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use psci::Power;
use spin::Once;
use traps::esr::Esr;
use traps::inject::skip;
use traps::sysreg::{SysAccess, SysReg};
use traps::{Exception, MmioAccess};
use vcpu_context::GuestContext;
use vgic::{Cpu, Kick, ListRegisters, Vgic};
use vtimer::{Counters, Timer};

/// What a vCPU must do before it enters the guest: bits of
/// [`VcpuCore::requests`].
pub mod request {
    /// Take the VM's new snapshot.
    pub const SNAPSHOT: u32 = 1 << 0;
    /// Interrupts changed: fill the list registers.
    pub const VGIC: u32 = 1 << 1;
    /// A timer fired.
    pub const TIMER: u32 = 1 << 2;
    /// Power or start values changed.
    pub const POWER: u32 = 1 << 3;
    /// An irqfd was signalled.
    pub const IRQFD: u32 = 1 << 4;
}

/// HCR_EL2.VSE: a virtual SError is pending. Hardware clears it when taken.
pub(crate) const HCR_VSE: u64 = 1 << 8;

/// HCR_EL2.TWI: WFI traps.
const HCR_TWI: u64 = 1 << 13;

const OUTSIDE: u32 = 0;
const IN_GUEST: u32 = 1;
const KICKED: u32 = 2;
/// Its thread waits in the kernel and keeps its CPU.
const ASLEEP: u32 = 3;

/// KVM_MP_STATE_*.
const RUNNABLE: u32 = kvm_abi::MP_STATE_RUNNABLE;
const STOPPED: u32 = kvm_abi::MP_STATE_STOPPED;
pub(crate) const SUSPENDED: u32 = kvm_abi::MP_STATE_SUSPENDED;

/// Where a vCPU that CPU_ON started begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub entry: u64,
    pub context_id: u64,
}

/// A vCPU, as the VM, other vCPUs and interrupt handlers know it. It doesn't
/// keep the VM alive.
pub struct VcpuCore {
    /// KVM_CREATE_VCPU's argument.
    pub id: u32,
    /// The order of creation.
    pub index: usize,
    /// VMPIDR_EL2.
    mpidr: AtomicU64,
    /// What it must do before it enters: see [`request`].
    requests: AtomicU32,
    mode: AtomicU32,
    cpu: AtomicU32,
    /// KVM_MP_STATE_*.
    power: AtomicU32,
    /// Its VM's life is over: nobody turns it on any more.
    over: AtomicBool,
    /// The virtual timer's physical interrupt fired while it was live.
    fired: AtomicBool,
    wait: WaitQueue,
    owned: AtomicBool,
    /// Somebody waits to own it.
    contended: AtomicBool,
    /// The interrupt controller's part, if there is one.
    gic: Once<Arc<Cpu>>,
    start: Lock<Option<Start>>,
    /// What belongs to who owns it ([`Owned`]), and to the CPU it is live in.
    pub state: Lock<Box<VcpuState>>,
    /// For the kernel: the CPU that holds its registers, or `u32::MAX`.
    pub live_in: AtomicU32,
    _counted: Counted,
}

/// Rank of the start values: taken under nothing but the VM.
const RANK_START: u8 = rank::VCPU - 1;

/// DBGB*n_EL1 and DBGW*n_EL1: stored, without effect.
pub(crate) type DebugRegs = [[u64; 16]; 4];

/// A vCPU's registers and what hangs on them.
pub struct VcpuState {
    /// Registers. EL1 state, timers and FP are the truth only while the vCPU is
    /// live nowhere.
    pub context: GuestContext,
    /// The CPU interface.
    pub lrs: ListRegisters,
    /// The VM's interrupt controller; none once the VM is gone.
    pub vgic: Option<Arc<Vgic>>,
    /// The VM's counter offsets.
    pub counters: Arc<Counters>,
    /// The physical timer, which is emulated.
    pub ptimer: Timer,
    /// HCR_EL2 as after a reset.
    hcr_el2: u64,
    /// The PPI of the virtual timer.
    pub(crate) vtimer_intid: u32,
    pub(crate) ptimer_intid: u32,
    pub(crate) ptimer_level: bool,
    /// KVM_ARM_VCPU_INIT's features, once called.
    pub(crate) features: Option<u32>,
    pub(crate) ran: bool,
    /// In WFI: KVM_RUN goes on when an interrupt is there.
    pub(crate) waiting: bool,
    /// An access that the VMM completes.
    pub(crate) mmio: Option<MmioAccess>,
    /// An exception that KVM_SET_VCPU_EVENTS asked for.
    pub(crate) injected: Option<Exception>,
    pub(crate) debug: DebugRegs,
    pub(crate) os_lock: bool,
    pub(crate) snapshot: Option<Arc<VmSnapshot>>,
}

/// What to do when a vCPU's registers leave a CPU: see README, "Load and put".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutPlan {
    /// The virtual timer's physical interrupt is active on the guest's behalf:
    /// deactivate it.
    pub deactivate: bool,
    /// Wake the vCPU ([`VcpuCore::timer_due`]) at this count of the machine's.
    pub deadline: Option<u64>,
}

impl VcpuState {
    pub(crate) fn new(facts: &Facts, counters: Arc<Counters>, mpidr: u64) -> VcpuState {
        let mut state = VcpuState {
            context: GuestContext::new(),
            lrs: ListRegisters::new(),
            vgic: None,
            counters,
            ptimer: Timer::new(),
            hcr_el2: facts.hcr_el2,
            vtimer_intid: 27,
            ptimer_intid: 30,
            ptimer_level: false,
            features: None,
            ran: false,
            waiting: false,
            mmio: None,
            injected: None,
            debug: [[0; 16]; 4],
            os_lock: false,
            snapshot: None,
        };
        state.reset(facts, mpidr);
        state
    }

    /// Registers as after a reset of the CPU. Not the CPU interface, which
    /// KVM_ARM_VCPU_INIT leaves alone, as on Linux.
    pub(crate) fn reset(&mut self, facts: &Facts, mpidr: u64) {
        self.context = GuestContext::new();
        self.context.hcr_el2 = self.hcr_el2;
        self.context.vmpidr_el2 = mpidr;
        self.context.vpidr_el2 = facts.midr;
        self.ptimer = Timer::new();
        self.waiting = false;
        self.mmio = None;
        self.injected = None;
        self.debug = [[0; 16]; 4];
        self.os_lock = false;
        // The timer's line falls at the next look: see `Vcpu::update_ptimer`.
    }

    /// The vCPU has its CPU to itself: WFI waits there, and does not trap
    /// (HCR_EL2.TWI).
    pub fn let_wait(&mut self) {
        self.hcr_el2 &= !HCR_TWI;
        self.context.hcr_el2 &= !HCR_TWI;
    }

    /// The virtual timer, as far as memory has it.
    pub(crate) fn vtimer(&self) -> Timer {
        vtimer(&self.context)
    }

    /// The virtual timer's physical interrupt is held active for the guest.
    pub(crate) fn forwarded(&self, index: usize) -> bool {
        let mask = 1u32.checked_shl(self.vtimer_intid).unwrap_or(0);
        self.vgic.as_ref().is_some_and(|vgic| vgic.forwarded(index) & mask != 0)
    }

    /// The virtual timer's physical interrupt was acknowledged while the vCPU is
    /// loaded and its CPU interface is in `lrs`: fills the list registers. How
    /// many changed; `None` if there is no interrupt controller.
    pub fn vtimer_fired(&mut self, core: &VcpuCore) -> Option<u8> {
        let mask = 1u32.checked_shl(self.vtimer_intid).unwrap_or(0);
        let vgic = self.vgic.as_ref()?;
        // What fired was up.
        Some(vgic.flush_fired(core.index, &mut self.lrs, mask, &mut || mask).write)
    }

    /// In the guest's world: answers the exit, if it is a write of ICC_SGI1R_EL1 that
    /// names this very vCPU and nothing else is to be done. The list register to
    /// write, and its value. `read` gives one.
    #[inline]
    pub fn send_to_self(
        &mut self,
        core: &VcpuCore,
        read: impl Fn(usize) -> u64,
    ) -> Option<(usize, u64)> {
        let access = SysAccess::decode(Esr(self.context.esr_el2).iss());
        if access.reg != SysReg::ICC_SGI1R_EL1 || access.is_read {
            return None;
        }
        let sgi = own_sgi(self.context.x(access.rt), core.mpidr())?;
        let VcpuState { vgic: Some(vgic), lrs, context, .. } = self else { return None };
        let slot = vgic.send_to_self(core.index, sgi, lrs, read)?;
        skip(context);
        Some((slot, lrs.lr.get(slot).copied()?))
    }

    /// There is news from the interrupt controller, and the vCPU's CPU interface
    /// is up to date here: fills the list registers. How many changed, and whether
    /// the virtual timer's physical interrupt is to be deactivated. `read_timer`
    /// brings the virtual timer up to date, if that is needed, and says what time
    /// it is.
    pub fn refill(
        &mut self,
        core: &VcpuCore,
        read_timer: impl Fn(&mut GuestContext) -> u64,
    ) -> (u8, bool) {
        let mask = 1u32.checked_shl(self.vtimer_intid).unwrap_or(0);
        let VcpuState { vgic: Some(vgic), lrs, context, counters, .. } = self else {
            return (0, false);
        };
        let mut lines = || {
            let now = read_timer(context);
            let up = vtimer(context).line_level(now, counters.virtual_offset());
            if up { mask } else { 0 }
        };
        let outcome = vgic.flush_fired(core.index, lrs, 0, &mut lines);
        (outcome.write, outcome.deactivate & mask != 0)
    }

    /// Whether WFI ends: an interrupt or a virtual SError could be taken, or a
    /// timer is due whose interrupt isn't on its way yet.
    pub(crate) fn wakes(&self, index: usize, now: u64) -> bool {
        self.context.hcr_el2 & HCR_VSE != 0
            || self.vgic.as_ref().is_some_and(|vgic| vgic.has_deliverable(index, &self.lrs))
            || (self.vtimer().line_level(now, self.counters.virtual_offset())
                && !self.forwarded(index))
    }

    /// When a vCPU leaves a CPU, after its registers were saved here.
    pub fn put_plan(&mut self, core: &VcpuCore, now: u64) -> PutPlan {
        let fired = core.fired.swap(false, Ordering::Relaxed);
        // The guest may have ended the timer's interrupt since the last exit
        // that looked: what is forwarded must be known, or a deadline is lost.
        let line = self.vtimer().line_level(now, self.counters.virtual_offset());
        let mask = 1u32.checked_shl(self.vtimer_intid).unwrap_or(0);
        let mut fell = false;
        if let VcpuState { vgic: Some(vgic), lrs, .. } = self {
            let outcome = vgic.flush(core.index, lrs, if line { mask } else { 0 });
            fell = outcome.deactivate & mask != 0;
        }
        let forwarded = self.forwarded(core.index);
        let physical = self.ptimer.fires_at(now, self.counters.physical_offset());
        let virt = if forwarded {
            None
        } else {
            self.vtimer().fires_at(now, self.counters.virtual_offset())
        };
        let physical = if self.ptimer_level { None } else { physical };
        let deadline = match (virt, physical) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        PutPlan { deactivate: fired || forwarded || fell, deadline }
    }

    /// When a vCPU comes to a CPU, before its registers are written there:
    /// whether the virtual timer's physical interrupt must be made active.
    pub fn load_plan(&mut self, core: &VcpuCore) -> bool {
        self.context.timer.cntvoff = self.counters.virtual_offset();
        self.context.timer.cntpoff = self.counters.physical_offset();
        self.forwarded(core.index)
    }
}

/// The SGI, if this value of ICC_SGI1R_EL1 names the CPU of this MPIDR_EL1 and no
/// other (GICv3 12.2.20).
#[inline]
fn own_sgi(value: u64, mpidr: u64) -> Option<usize> {
    const INTID: u64 = 0xf << 24;
    let aff0 = mpidr & 0xff;
    let target = 1u64.wrapping_shl(aff0 as u32)
        | (mpidr & 0xff00) << 8
        | (mpidr & 0xff_0000) << 16
        | (mpidr & 0xff_0000_0000) << 16;
    (aff0 < 16 && value & !INTID == target).then_some((value >> 24 & 0xf) as usize)
}

fn vtimer(context: &GuestContext) -> Timer {
    Timer::from_regs(context.timer.cntv_ctl, context.timer.cntv_cval)
}

impl VcpuCore {
    pub(crate) fn new(id: u32, index: usize, mpidr: u64, state: Box<VcpuState>) -> VcpuCore {
        VcpuCore {
            id,
            index,
            mpidr: AtomicU64::new(mpidr),
            requests: AtomicU32::new(request::SNAPSHOT),
            mode: AtomicU32::new(OUTSIDE),
            cpu: AtomicU32::new(0),
            power: AtomicU32::new(RUNNABLE),
            over: AtomicBool::new(false),
            fired: AtomicBool::new(false),
            wait: WaitQueue::new(),
            owned: AtomicBool::new(false),
            contended: AtomicBool::new(false),
            gic: Once::new(),
            start: Lock::new(RANK_START, None),
            state: Lock::new(rank::VCPU, state),
            live_in: AtomicU32::new(u32::MAX),
            _counted: Counted::new(Kind::Vcpu),
        }
    }

    /// MPIDR_EL1 as the guest reads it.
    pub fn mpidr(&self) -> u64 {
        self.mpidr.load(Ordering::Relaxed)
    }

    pub(crate) fn set_mpidr(&self, mpidr: u64) {
        self.mpidr.store(mpidr, Ordering::Relaxed);
    }

    /// Who waits for it: threads in KVM_RUN, and for their turn at it.
    pub fn wait_queue(&self) -> &WaitQueue {
        &self.wait
    }

    pub(crate) fn set_gic(&self, cpu: Arc<Cpu>) {
        self.gic.call_once(|| cpu);
    }

    /// Whether the list registers need to be filled anew.
    #[inline]
    pub(crate) fn gic_has_news(&self) -> bool {
        self.gic.get().is_some_and(|cpu| cpu.needs_flush())
    }

    /// Asks for something, without telling. [`VcpuCore::kick`] tells.
    #[inline]
    pub(crate) fn request(&self, bits: u32) {
        self.requests.fetch_or(bits, Ordering::SeqCst);
    }

    /// Whether anything was asked: the one atomic load before entry.
    #[inline(always)]
    pub fn has_requests(&self) -> bool {
        self.requests.load(Ordering::SeqCst) != 0
    }

    pub(crate) fn take_requests(&self) -> u32 {
        self.requests.swap(0, Ordering::SeqCst)
    }

    /// In the guest's world: whether all that is asked is to fill the list
    /// registers, which may be done there ([`VcpuState::refill`]). If so, it is
    /// asked no more, and who asks after this kicks again.
    #[inline]
    pub fn take_news(&self) -> bool {
        self.mode.store(IN_GUEST, Ordering::SeqCst);
        let (old, new) = (request::VGIC, 0);
        self.requests.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// A flush follows that covers what was asked so far.
    pub(crate) fn about_to_flush(&self) {
        self.requests.fetch_and(!request::VGIC, Ordering::SeqCst);
    }

    /// Whether nobody is about to look at the requests: whoever owns the vCPU
    /// does so before it enters the guest and after it gives the vCPU up.
    #[inline]
    fn is_unattended(&self) -> bool {
        !self.owned.load(Ordering::SeqCst)
    }

    /// Makes the vCPU leave the guest, or its sleep, if it is there; says whether
    /// it was (or is on its way out).
    #[inline]
    fn kick_out(&self, host: &dyn Host) -> bool {
        match self.mode.load(Ordering::SeqCst) {
            OUTSIDE => false,
            KICKED => true,
            from => self.kick_from(host, from),
        }
    }

    fn kick_from(&self, host: &dyn Host, from: u32) -> bool {
        let kicked = self.mode.compare_exchange(from, KICKED, Ordering::SeqCst, Ordering::SeqCst);
        match kicked {
            Ok(_) => {
                host.kick(self.cpu.load(Ordering::Relaxed));
                true
            }
            Err(mode) => mode != OUTSIDE,
        }
    }

    /// Makes the vCPU look at its requests, wherever it is.
    pub(crate) fn kick(&self, host: &dyn Host) {
        if !self.kick_out(host) && self.is_unattended() {
            self.wait.wake_all();
        }
    }

    /// Asks for something and makes the vCPU look at it.
    pub(crate) fn ask(&self, host: &dyn Host, bits: u32) {
        self.request(bits);
        self.kick(host);
    }

    /// Says that the guest is about to run here. [`VcpuCore::has_requests`] is
    /// looked at after this, so that a kick is never lost.
    #[inline]
    pub(crate) fn enter_mode(&self, cpu: u32) {
        self.cpu.store(cpu, Ordering::Relaxed);
        self.mode.store(IN_GUEST, Ordering::SeqCst);
    }

    /// Says that its thread is about to wait on this CPU, until
    /// [`VcpuCore::has_requests`].
    pub(crate) fn sleep_mode(&self, cpu: u32) {
        self.cpu.store(cpu, Ordering::Relaxed);
        self.mode.store(ASLEEP, Ordering::SeqCst);
    }

    #[inline]
    pub(crate) fn leave_mode(&self) {
        self.mode.store(OUTSIDE, Ordering::SeqCst);
    }

    /// Whether it is in the guest or asleep, or was sent out of there.
    pub(crate) fn is_in_guest(&self) -> bool {
        self.mode.load(Ordering::Relaxed) != OUTSIDE
    }

    /// The virtual timer's physical interrupt fired while this vCPU was live in
    /// the CPU, and was acknowledged (priority dropped, still active). Called by
    /// the interrupt handler.
    pub fn vtimer_fired(&self) {
        self.fired.store(true, Ordering::Relaxed);
        self.timer_due();
    }

    /// A deadline of [`Host::set_timer`] or [`PutPlan::deadline`] came. Called
    /// by the kernel's timer queue; any context. The CPU to interrupt, unless it
    /// is the caller's, if the vCPU sleeps there.
    pub fn timer_due(&self) -> Option<u32> {
        self.request(request::TIMER);
        if self.is_unattended() {
            self.wait.wake_all();
        }
        let asleep = self.mode.load(Ordering::SeqCst) == ASLEEP;
        asleep.then(|| self.cpu.load(Ordering::Relaxed))
    }

    pub(crate) fn take_fired(&self) -> bool {
        self.fired.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn power_raw(&self) -> u32 {
        self.power.load(Ordering::SeqCst)
    }

    pub(crate) fn power(&self) -> Power {
        if self.power_raw() == STOPPED { Power::Off } else { Power::On }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.power_raw() == STOPPED
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Whether its VM's life is over. If so it is off, even if it was being turned on.
    pub(crate) fn has_ended(&self) -> bool {
        if !self.is_over() {
            return false;
        }
        // Who holds this has stored its power already, or sees that it is over.
        let _start = self.start.lock();
        self.power.store(STOPPED, Ordering::SeqCst);
        true
    }

    pub(crate) fn set_power(&self, host: &dyn Host, power: u32) {
        self.power.store(power, Ordering::SeqCst);
        self.ask(host, request::POWER);
    }

    pub(crate) fn stop(&self, host: &dyn Host) {
        self.set_power(host, STOPPED);
    }

    /// Stops it for good, even if another vCPU is turning it on just now.
    pub(crate) fn end(&self, host: &dyn Host) {
        // Before the request, which makes it look at this.
        self.over.store(true, Ordering::SeqCst);
        self.stop(host);
    }

    pub(crate) fn resume(&self) {
        self.power.store(RUNNABLE, Ordering::SeqCst);
    }

    /// CPU_ON: in one step, so that of two callers one is told ALREADY_ON.
    pub(crate) fn turn_on(&self, host: &dyn Host, start: Start) -> u64 {
        let answer = {
            let mut slot = self.start.lock();
            let answer = match self.is_over() {
                true => psci::INTERNAL_FAILURE,
                false => psci::cpu_on(Some(self.power())),
            };
            if answer == psci::SUCCESS {
                *slot = Some(start);
                // Before the power, so that it can't go on where it was switched off.
                self.request(request::POWER);
                self.power.store(RUNNABLE, Ordering::SeqCst);
            }
            answer
        };
        if answer == psci::SUCCESS {
            self.ask(host, request::POWER);
        }
        answer
    }

    pub(crate) fn take_start(&self) -> Option<Start> {
        self.start.lock().take()
    }

    /// Takes the vCPU: one at a time runs it or looks at its registers. `EAGAIN`
    /// if it is taken; [`VcpuCore::wait_queue`] tells when it is free.
    pub(crate) fn own(&self) -> Result<Owned<'_>> {
        if self.try_own() {
            return Ok(Owned { core: self });
        }
        // Either the owner sees this, or we see that there is none.
        self.contended.store(true, Ordering::SeqCst);
        if self.try_own() { Ok(Owned { core: self }) } else { Err(Errno::EAGAIN) }
    }

    fn try_own(&self) -> bool {
        self.owned.compare_exchange(false, true, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// Whoever holds this runs the vCPU, or looks at its registers.
pub(crate) struct Owned<'a> {
    core: &'a VcpuCore,
}

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        self.core.owned.store(false, Ordering::SeqCst);
        let contended = &self.core.contended;
        let waited_for =
            contended.load(Ordering::SeqCst) && contended.swap(false, Ordering::SeqCst);
        // What was asked while it was owned woke nobody.
        if waited_for || self.core.has_requests() {
            self.core.wait.wake_all();
        }
    }
}

/// What [`crate::fast`] and the kernel's entry code read.
pub struct Entry<'a> {
    /// The vCPU.
    pub core: &'a Arc<VcpuCore>,
    /// Its VM's configuration.
    pub snapshot: &'a VmSnapshot,
    /// The VM's vCPUs.
    pub vcpus: &'a VcpuList,
    /// VTTBR_EL2.BADDR: the root of stage 2.
    pub stage2_root: u64,
    /// The VMID, for the kernel's [`paging::Contexts`].
    pub vmid: &'a paging::VmId,
    /// VTCR_EL2.T0SZ and SL0 as the table has them.
    pub stage2_tsz: u8,
    /// See `stage2_tsz`.
    pub stage2_sl0: u8,
}

impl Entry<'_> {
    /// Whether a vCPU has to be woken, which needs the host's regime.
    #[inline]
    pub fn has_sleepers(&self) -> bool {
        self.vcpus.has_sleepers()
    }
}

const CHUNK: usize = 32;
type Chunk = [Once<Arc<VcpuCore>>; CHUNK];
/// KVM_CAP_MAX_VCPUS.
pub const MAX_VCPUS: usize = 512;

/// A VM's vCPUs by index. Grows only; looking one up takes no lock.
pub struct VcpuList {
    chunks: [Once<Box<Chunk>>; MAX_VCPUS / CHUNK],
    len: AtomicU32,
    /// A vCPU was told of an interrupt and isn't in the guest: somebody who may
    /// schedule must wake it.
    sleepers: AtomicBool,
}

impl VcpuList {
    pub(crate) const fn new() -> Self {
        VcpuList {
            chunks: [const { Once::new() }; MAX_VCPUS / CHUNK],
            len: AtomicU32::new(0),
            sleepers: AtomicBool::new(false),
        }
    }

    /// The vCPU with this index.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&Arc<VcpuCore>> {
        self.chunks.get(index / CHUNK)?.get()?.get(index % CHUNK)?.get()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Acquire) as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, in the order of creation.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<VcpuCore>> {
        (0..self.len()).map_while(|index| self.get(index))
    }

    /// The vCPU with this number.
    pub fn by_id(&self, id: u32) -> Option<&Arc<VcpuCore>> {
        self.iter().find(|core| core.id == id)
    }

    /// PSCI's AFFINITY_INFO (Arm DEN0022, 5.7).
    pub(crate) fn affinity_info(&self, target: u64, level: u64) -> u64 {
        let all = self.iter().map(|core| (core.mpidr() & psci::MPIDR_AFFINITY, core.power()));
        psci::affinity_info(target, level, all)
    }

    /// Appends; the caller holds the VM's lock, and the index is `len`.
    pub(crate) fn push(&self, core: Arc<VcpuCore>) -> Result<()> {
        let at = self.len();
        let chunk = self.chunks.get(at / CHUNK).ok_or(Errno::EINVAL)?;
        let chunk = chunk.call_once(|| Box::new([const { Once::new() }; CHUNK]));
        let slot = chunk.get(at % CHUNK).ok_or(Errno::EINVAL)?;
        slot.call_once(|| core);
        self.len.store(at.wrapping_add(1) as u32, Ordering::Release);
        Ok(())
    }

    /// Wakes the vCPUs that interrupts came for while nobody could schedule.
    /// Says whether there may have been any.
    pub fn wake_sleepers(&self) {
        if self.sleepers.swap(false, Ordering::SeqCst) {
            for core in self.iter() {
                if core.has_requests() {
                    core.wait.wake_all();
                }
            }
        }
    }

    #[inline]
    pub(crate) fn has_sleepers(&self) -> bool {
        self.sleepers.load(Ordering::SeqCst)
    }
}

/// How the interrupt controller reaches vCPUs: those in the guest by an
/// interrupt, which needs no host regime; the others when somebody with the
/// host's regime comes by ([`VcpuList::wake_sleepers`]).
pub(crate) struct Kicker {
    pub vcpus: Arc<VcpuList>,
    pub host: Arc<dyn Host>,
}

impl Kick for Kicker {
    fn kick(&self, vcpu: usize) {
        if let Some(core) = self.vcpus.get(vcpu) {
            core.request(request::VGIC);
            if !core.kick_out(&*self.host) && core.is_unattended() {
                self.vcpus.sleepers.store(true, Ordering::SeqCst);
            }
        }
    }

    fn ended(&self, intid: u32) {
        self.host.interrupt_ended(intid);
    }
}
