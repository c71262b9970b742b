//! The virtual CPU that is loaded on each CPU, if any: entering the guest,
//! loading and putting its registers.
//!
//! A vCPU stays loaded while its thread runs, in the guest, in the kernel or at
//! EL0, and is put when the thread leaves the CPU.
#![expect(unsafe_code, reason = "the world switch")]

use crate::fp::GuestFp;
use crate::hyp;
use crate::memory;
use crate::task::Task;
use crate::timer::{self, Timer};
use crate::gich::Gich;
use crate::{cpu, gic, gich, sched, time, user_space};
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::task::Wake;
use base::{Lock, rank};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use core::task::Waker;
use cpu::MAX_CPUS;
use frame::Frame;
use kvm::{Entry, Exit, Fast, VcpuCore, VcpuState};
use paging::{Contexts, Id, VmId};
use regime::HostRegime;
use spin::Once;
use traps::id::{ID_AA64MMFR0, ID_AA64MMFR1};
use vcpu_context::GuestContext;
use world_switch::{Handlers, Together, Vectors, e2h0, gic as ich, vhe};

/// The virtual timer's interrupt; the GIC's maintenance interrupt.
pub const VTIMER_INTID: u32 = 27;
const MAINTENANCE_INTID: u32 = 25;

/// ICH_HCR_EL2.EOIcount: ends of interrupts that no list register holds.
const EOICOUNT: u64 = 0x1f << 27;

const NOWHERE: u32 = u32::MAX;

const _: () = assert!(MAX_CPUS <= VmId::CPUS);

/// Per CPU: the vCPU whose registers are in the hardware.
static LOADED: [Lock<Option<Arc<VcpuCore>>>; MAX_CPUS] =
    [const { Lock::new(rank::VM, None) }; MAX_CPUS];
/// Per CPU: ICH_HCR_EL2 was cleared to quieten the maintenance interrupt.
static QUIET: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];
/// Per CPU: the guest's interrupts are enabled in the GIC.
static READY: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];

static CONTEXTS: Once<Lock<Contexts>> = Once::new();

/// What of VTCR_EL2 follows from what the CPUs can do: PS, 40 to 48 bits of
/// output, and VS, 16-bit VMIDs.
static VTCR_OF_CPUS: AtomicU64 = AtomicU64::new(0);

/// Prepares for guests.
pub fn init() {
    CONTEXTS.call_once(|| {
        let id = crate::features::common().id;
        let has_16_bit_vmids = arch::cpu::field(id.at(ID_AA64MMFR1), 4) == 2;
        // 5: 48 bits; more needs FEAT_LPA2, which this kernel does not use.
        let ps = arch::cpu::field(id.at(ID_AA64MMFR0), 0).min(5);
        VTCR_OF_CPUS.store(ps << 16 | u64::from(has_16_bit_vmids) << 19, Relaxed);
        let bits = if has_16_bit_vmids { 16 } else { 8 };
        Lock::new(rank::KERNEL_MAP, Contexts::new(bits, MAX_CPUS))
    });
}

/// Runs `f` with the token that says that the CPU is in the host's regime.
pub fn with_host_regime<R>(f: impl FnOnce(&mut HostRegime) -> R) -> R {
    // SAFETY: only `enter` leaves the host's regime, and it is back in it when
    // it returns; everything that can call this runs outside of it.
    let mut regime = unsafe { HostRegime::assume() };
    f(&mut regime)
}

/// Whether the hypervisor is a program of its own, at EL2.
#[inline(always)]
pub fn split() -> bool {
    arch::host::is_at_el1()
}

fn loaded_here(core: &VcpuCore) -> bool {
    core.live_in.load(Relaxed) == cpu::index() as u32
}

/// Runs the guest until it needs the host, through `hyp` at EL2.
pub fn enter_split(entry: &Entry<'_>, state: &mut VcpuState) -> Exit {
    if !loaded_here(entry.core) {
        load(entry, state);
    }
    if gich::get().is_some() {
        wake_gic(state);
    }
    hyp::enter(entry, state)
}

/// Runs the guest until it needs the host.
pub fn enter<A: Together>(
    regime: &mut HostRegime,
    entry: &Entry<'_>,
    state: &mut VcpuState,
) -> Exit {
    if !loaded_here(entry.core) {
        load(entry, state);
    }
    wake_gic(state);
    state.context.legalize();
    let this = cpu::this();
    let fp = GuestFp::is_loaded_on(this);
    let vectors = Vectors {
        guest: this.guest_vectors.load(Relaxed),
        host: this.host_vectors.load(Relaxed),
    };
    let state: *mut VcpuState = state;
    let mut guest = Guest { entry, state };
    // SAFETY: the context is loaded and `state` is locked by the caller;
    // interrupts are masked in the kernel; the handlers get the guest that they
    // expect, which outlives the run, and use its state alone; nothing between
    // enter and leave needs the host's regime.
    let (why, state) = unsafe {
        let world = A::enter(regime, &(*state).context, fp, vectors);
        let handlers = Handlers { sync: fast_exit::<A>, irq: fast_interrupt };
        let why = A::run(&raw mut (*state).context, handlers, (&raw mut guest).cast());
        A::leave(world, &mut (*state).context);
        (why, &mut *state)
    };
    this.fp_allowed.store(false, Relaxed);
    match why {
        vhe::EXIT_IRQ => Exit::Interrupt,
        vhe::EXIT_SERROR => Exit::SError(state.context.esr_el2),
        DONE => Exit::Done,
        _ => Exit::Sync,
    }
}

/// Restores ICH_HCR_EL2, if the maintenance interrupt had to be quiet.
#[inline]
fn wake_gic(state: &VcpuState) {
    if QUIET.get(cpu::index()).is_some_and(|quiet| quiet.swap(false, Relaxed)) {
        set_hcr(state.lrs.hcr);
    }
}

/// In the guest's world (split: between two runs), an interrupt is pending:
/// takes it, if it concerns but the guest; else it is left to the host's handlers.
/// Whether the guest may go on: not while another is pending, which an interrupt
/// that never rests would keep off.
pub fn take_interrupt<const SPLIT: bool>(entry: &Entry<'_>, state: &mut VcpuState) -> bool {
    if state.vgic.is_none() {
        return false;
    }
    let Some(taken) = gic::acknowledge() else { return false };
    match gic::intid(taken) {
        VTIMER_INTID => {
            if gic_is_ours::<SPLIT>() {
                read_gic(state);
            }
            if let Some(write) = state.vtimer_fired(entry.core) {
                write_gic::<SPLIT>(state, write);
            }
            !arch::irq::is_pending() && !entry.has_sleepers()
        }
        gic::SGI_RESCHEDULE => {
            gic::deactivate(taken);
            let wanted =
                arch::irq::is_pending() || sched::need_resched() || user_space::signal_pending();
            !wanted && entry.core.take_news() && refill::<SPLIT>(entry, state)
        }
        _ => {
            cpu::this().taken.store(taken, Relaxed);
            false
        }
    }
}

/// In the guest's world: gives the guest its new interrupts. Whether it may go
/// on.
// Apart: other exits need not save what it uses.
#[inline(never)]
pub fn refill<const SPLIT: bool>(entry: &Entry<'_>, state: &mut VcpuState) -> bool {
    if gic_is_ours::<SPLIT>() {
        read_gic(state);
    }
    let (write, deactivate) = state.refill(entry.core, |context| {
        // Split, memory has the timer while the host runs.
        if !SPLIT {
            // SAFETY: it is loaded here.
            unsafe { vhe::read_timer(context) };
        }
        arch::timer::counter()
    });
    write_gic::<SPLIT>(state, write);
    if deactivate {
        gic::set_active(VTIMER_INTID, false);
    }
    !entry.core.has_requests() && !entry.has_sleepers()
}

const NEEDS_HOST: u64 = 1;
const DONE: u64 = 2;

/// What runs: what [`enter`] hands to those that answer exits.
struct Guest<'a> {
    entry: &'a Entry<'a>,
    /// Theirs alone while they run.
    state: *mut VcpuState,
}

/// A synchronous exit, in the guest's HCR_EL2: 0 goes back to the guest.
extern "C" fn fast_exit<A: Together>(_context: *mut GuestContext, argument: *mut ()) -> u64 {
    // SAFETY: `enter` passes its own, which nobody else uses until this returns.
    let (entry, state) = unsafe {
        let guest = &*argument.cast::<Guest<'_>>();
        (guest.entry, &mut *guest.state)
    };
    // Hypercalls first, without a stack.
    if state.context.esr_el2 >> 26 == EC_HVC64 {
        return match kvm::fast(&mut state.context, entry) {
            Fast::Resume => 0,
            _ => NEEDS_HOST,
        };
    }
    other_exit::<A>(entry, state)
}

#[inline(never)]
fn other_exit<A: Together>(entry: &Entry<'_>, state: &mut VcpuState) -> u64 {
    let context = &mut state.context;
    match context.esr_el2 >> 26 {
        EC_FP => {
            GuestFp::take::<A>(&mut context.fp);
            return 0;
        }
        EC_IABT_LOWER | EC_DABT_LOWER if !A::read_abort(context) => return 0,
        EC_SYSREG if send_to_self(entry, state) => return 0,
        _ => {}
    }
    match kvm::fast(&mut state.context, entry) {
        Fast::Resume => 0,
        Fast::Refill if refill::<false>(entry, state) => 0,
        Fast::Refill | Fast::Done => DONE,
        Fast::NeedsHost => NEEDS_HOST,
    }
}

/// The guest sends an SGI to itself: into its list register, if that is all.
fn send_to_self(entry: &Entry<'_>, state: &mut VcpuState) -> bool {
    // Written in system registers, it is a GICv3.
    match state.send_to_self(entry.core, ich::read_lr) {
        Some((slot, value)) => {
            // SAFETY: an SGI of the loaded guest's, in a list register that the
            // machine has.
            unsafe { ich::write_lr(slot, value) };
            true
        }
        None => false,
    }
}

/// An interrupt, in the guest's HCR_EL2: 0 goes back to the guest.
extern "C" fn fast_interrupt(_context: *mut GuestContext, argument: *mut ()) -> u64 {
    // SAFETY: as above.
    let (entry, state) = unsafe {
        let guest = &*argument.cast::<Guest<'_>>();
        (guest.entry, &mut *guest.state)
    };
    if take_interrupt::<false>(entry, state) { 0 } else { vhe::EXIT_IRQ }
}

const EC_FP: u64 = 0x07;
const EC_HVC64: u64 = 0x16;
const EC_SYSREG: u64 = 0x18;
const EC_IABT_LOWER: u64 = 0x20;
const EC_DABT_LOWER: u64 = 0x24;

/// VTCR_EL2 for a table of this shape: write-back, inner shareable walks, 4 KiB
/// granule, RES1.
fn vtcr(tsz: u8, sl0: u8) -> u64 {
    let shape = u64::from(tsz) | u64::from(sl0) << 6;
    shape | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 31 | VTCR_OF_CPUS.load(Relaxed)
}

fn load(entry: &Entry<'_>, state: &mut VcpuState) {
    let index = cpu::index();
    put_here();
    let Some(contexts) = CONTEXTS.get() else { return };
    let switch = contexts.lock().switch(index, &entry.vmid.id);
    if switch.flush_local {
        if split() {
            hyp::flush_all_guests_local();
        } else {
            vhe::flush_all_guests_local();
        }
    }
    if entry.vmid.changes_vcpu(index, entry.core.index) {
        forget_last_vcpu(switch.id);
    }
    if READY.get(index).is_some_and(|ready| !ready.swap(true, Relaxed)) {
        gic::enable(VTIMER_INTID);
        gic::enable(MAINTENANCE_INTID);
        if !split() && gich::get().is_none() {
            // SAFETY: the host runs at EL2. (Split, `hyp` does it.)
            unsafe { ich::keep_guests_in_system_registers() };
        }
    }
    state.context.vttbr_el2 = entry.stage2_root | u64::from(switch.id) << 48;
    gic::set_active(VTIMER_INTID, state.load_plan(entry.core));
    // The virtual timer is live from here on; the physical one is emulated.
    let physical = state.counters.physical_offset();
    set_timer(entry.core, state.ptimer.fires_at(arch::timer::counter(), physical));
    let vtcr = vtcr(entry.stage2_tsz, entry.stage2_sl0);
    // No vCPU is loaded here any more, and this one nowhere: its thread put it
    // when it left its last CPU. The tables live as long as the VM, which
    // releases its vCPUs before them.
    if split() {
        hyp::load(state, vtcr);
        if let Some(gich) = gich::get() {
            gich.load(&state.lrs);
        }
    } else {
        // SAFETY: see above.
        unsafe {
            if arch::host::is_e2h0() {
                e2h0::load(&state.context, vtcr);
            } else {
                vhe::load(&state.context, vtcr);
            }
            load_gic(state);
        }
    }
    entry.core.live_in.store(index as u32, Relaxed);
    if let Some(slot) = LOADED.get(index) {
        *slot.lock() = Some(entry.core.clone());
    }
}

/// Another vCPU of this VM was the last that this CPU ran under its VMID.
#[cold]
fn forget_last_vcpu(vmid: u16) {
    if split() {
        return hyp::flush_guest_local(vmid);
    }
    let (vttbr, ours) = (u64::from(vmid) << 48, vhe::vttbr());
    // SAFETY: interrupts are masked in the kernel, `ours` is what was there.
    unsafe {
        if arch::host::is_e2h0() {
            e2h0::flush_guest_local(vttbr, ours);
        } else {
            vhe::flush_guest_local(vttbr, ours);
        }
    }
}

/// How many list registers and active-priority registers this CPU has.
fn gic_shape() -> (u8, u8) {
    static SHAPE: AtomicU64 = AtomicU64::new(0);
    let mut vtr = SHAPE.load(Relaxed);
    if vtr == 0 {
        // Bit 63 is RES0: a mark that it was read.
        vtr = ich::vtr() | 1 << 63;
        SHAPE.store(vtr, Relaxed);
    }
    let preemption_bits = (vtr >> 26 & 7).saturating_add(1);
    let groups = match preemption_bits {
        7.. => 4,
        6 => 2,
        _ => 1,
    };
    (((vtr & 31) as u8).saturating_add(1), groups)
}

/// # Safety
/// The vCPU is being loaded on this CPU.
unsafe fn load_gic(state: &VcpuState) {
    if let Some(gich) = gich::get() {
        return gich.load(&state.lrs);
    }
    let (lrs, groups) = gic_shape();
    let [a0, a1, a2, a3] = state.lrs.ap0r.map(u64::from);
    let [b0, b1, b2, b3] = state.lrs.ap1r.map(u64::from);
    // SAFETY: the registers exist (`gic_shape`), the values are the guest's.
    unsafe {
        ich::set_vmcr(state.lrs.vmcr);
        ich::set_ap0r0(a0);
        ich::set_ap1r0(b0);
        if groups > 1 {
            ich::set_ap0r1(a1);
            ich::set_ap1r1(b1);
        }
        if groups > 2 {
            ich::set_ap0r2(a2);
            ich::set_ap1r2(b2);
            ich::set_ap0r3(a3);
            ich::set_ap1r3(b3);
        }
        ich::write_lrs(state.lrs.lr.get(..usize::from(lrs)).unwrap_or_default());
        ich::set_hcr(state.lrs.hcr);
    }
}

fn save_gic(state: &mut VcpuState) {
    if let Some(gich) = gich::get() {
        return gich.save(&mut state.lrs);
    }
    let (_, groups) = gic_shape();
    read_gic(state);
    let [a0, a1, a2, a3] = &mut state.lrs.ap0r;
    let [b0, b1, b2, b3] = &mut state.lrs.ap1r;
    *a0 = ich::ap0r0() as u32;
    *b0 = ich::ap1r0() as u32;
    if groups > 1 {
        *a1 = ich::ap0r1() as u32;
        *b1 = ich::ap1r1() as u32;
    }
    if groups > 2 {
        *a2 = ich::ap0r2() as u32;
        *b2 = ich::ap1r2() as u32;
        *a3 = ich::ap0r3() as u32;
        *b3 = ich::ap1r3() as u32;
    }
    // SAFETY: no guest is loaded from here on: nothing to deliver.
    unsafe { ich::set_hcr(0) };
}

/// What the guest may have changed of its CPU interface.
#[inline]
fn read_gic(state: &mut VcpuState) {
    if let Some(gich) = gich::get() {
        return gich.read(&mut state.lrs);
    }
    ich::read_lrs(state.lrs.in_use_mut());
    state.lrs.vmcr = ich::vmcr();
    // Of what is in it only the count changes by itself, and means something only
    // while interrupts are active that no list register holds.
    if state.lrs.hcr & vgic::ICH_HCR_LRENPIE != 0 {
        state.lrs.hcr = state.lrs.hcr & !EOICOUNT | ich::hcr() & EOICOUNT;
    }
}

/// Writes ICH_HCR_EL2, or what a GICv2 has for it.
fn set_hcr(hcr: u64) {
    match gich::get() {
        Some(gich) => gich.set_hcr(hcr),
        // SAFETY: the loaded guest's value.
        None => unsafe { ich::set_hcr(hcr) },
    }
}

/// Whether the loaded guest's virtual CPU interface is in the hardware while the
/// host runs. Split, `hyp` switches it, unless it is a GICv2's: that is device
/// memory, which the host at EL1 reaches, and no interrupt comes of it while
/// HCR_EL2.IMO is clear (Arm ARM D24.2.61).
#[inline]
fn gic_is_ours<const SPLIT: bool>() -> bool {
    !SPLIT || gich::get().is_some()
}

/// See `kvm::Host::read_live`.
pub fn read_live<const SPLIT: bool>(core: &VcpuCore, state: &mut VcpuState) {
    if gic_is_ours::<SPLIT>() && loaded_here(core) {
        read_gic(state);
    }
    // Split, memory has the timer while the host runs.
    if !SPLIT && loaded_here(core) {
        // SAFETY: it is loaded here.
        unsafe { vhe::read_timer(&mut state.context) };
    }
}

/// See `kvm::Host::write_live`.
pub fn write_live<const SPLIT: bool>(
    core: &VcpuCore,
    state: &VcpuState,
    write: u8,
    deactivate: bool,
) {
    if !loaded_here(core) {
        return;
    }
    write_gic::<SPLIT>(state, write);
    if let Some(quiet) = QUIET.get(cpu::index()) {
        quiet.store(false, Relaxed);
    }
    if deactivate {
        gic::set_active(VTIMER_INTID, false);
    }
}

/// List registers `..write` and ICH_HCR_EL2 of the vCPU that is loaded here.
fn write_gic<const SPLIT: bool>(state: &VcpuState, write: u8) {
    if !gic_is_ours::<SPLIT>() {
        return hyp::write_live(state, write);
    }
    match gich::get() {
        Some(gich) => gich.write(&state.lrs, write),
        None => {
            let values = state.lrs.lr.get(..usize::from(write)).unwrap_or_default();
            // SAFETY: the loaded guest's values, and no more list registers than
            // the machine said it has.
            unsafe {
                ich::write_lrs(values);
                ich::set_hcr(state.lrs.hcr);
            }
        }
    }
}

/// Puts what is loaded on this CPU. No vCPU's state may be locked by the
/// caller, unless none is loaded or another's.
fn put_here() {
    let index = cpu::index();
    let core = LOADED.get(index).and_then(|slot| slot.lock().take());
    let Some(core) = core else { return };
    let deadline = {
        let mut state = core.state.lock();
        GuestFp::put(&mut state.context.fp);
        if split() {
            hyp::put(&mut state);
            if let Some(gich) = gich::get() {
                gich.save(&mut state.lrs);
            }
        } else {
            save_gic(&mut state);
            // SAFETY: it is the one that is loaded.
            unsafe {
                if arch::host::is_e2h0() {
                    e2h0::put(&mut state.context);
                } else {
                    vhe::put(&mut state.context);
                }
            }
        }
        let plan = state.put_plan(&core, arch::timer::counter());
        if plan.deactivate {
            gic::set_active(VTIMER_INTID, false);
        }
        plan.deadline
    };
    if let Some(quiet) = QUIET.get(index) {
        quiet.store(false, Relaxed);
    }
    core.live_in.store(NOWHERE, Release);
    if let Some(deadline) = deadline {
        set_timer(&core, Some(deadline));
    }
}

/// `task` leaves the CPU: its guest's registers go to memory.
pub fn leave(_task: &Task) {
    put_here();
}

/// Another CPU wants what is loaded here.
pub fn put_requested() {
    put_here();
}

/// See `kvm::Host::pull`: makes memory the truth.
pub fn pull(_regime: &HostRegime, core: &Arc<VcpuCore>) {
    loop {
        let at = core.live_in.load(Acquire);
        if at == NOWHERE {
            return;
        }
        if at == cpu::index() as u32 {
            put_here();
        } else {
            gic::send_sgi(at as usize, gic::SGI_PUT);
            // Its CPU may want something of ours meanwhile.
            sched::breathe();
        }
    }
}

/// A vCPU that another thread ran last may be loaded on that thread's CPU.
pub fn come_home(core: &Arc<VcpuCore>) {
    if !matches!(core.live_in.load(Acquire), NOWHERE) && !loaded_here(core) {
        with_host_regime(|regime| pull(regime, core));
    }
}

/// The FP registers are needed for EL0: a guest's go to memory.
pub fn evict_fp() {
    if !GuestFp::is_loaded() {
        return;
    }
    let core = LOADED.get(cpu::index()).and_then(|slot| slot.lock().clone());
    if let Some(core) = core {
        GuestFp::put(&mut core.state.lock().context.fp);
    }
}

/// An interrupt on this CPU that belongs to a guest: whether it stays active.
pub fn interrupt(intid: u32) -> Option<bool> {
    let core = || LOADED.get(cpu::index()).and_then(|slot| slot.lock().clone());
    match intid {
        VTIMER_INTID => match core() {
            // The guest deactivates it, or we do when it leaves.
            Some(core) => {
                core.vtimer_fired();
                Some(true)
            }
            None => Some(false),
        },
        MAINTENANCE_INTID => {
            // List registers want attention, at the next entry. Until then the
            // level-sensitive interrupt is kept quiet.
            // (What `hyp` switches is quiet while the host runs.)
            if !split() || gich::get().is_some() {
                // `enter` and `write_live` restore it.
                set_hcr(gich::get().map_or_else(ich::hcr, Gich::hcr) & EOICOUNT);
                if let Some(quiet) = QUIET.get(cpu::index()) {
                    quiet.store(true, Relaxed);
                }
            }
            if let Some(core) = core() {
                core.timer_due();
            }
            Some(false)
        }
        _ => None,
    }
}

/// A vCPU's deadline: wakes the vCPU.
struct Due(Weak<VcpuCore>);

impl Wake for Due {
    fn wake(self: Arc<Self>) {
        if let Some(core) = self.0.upgrade()
            && let Some(at) = core.timer_due()
            && at as usize != cpu::index()
        {
            gic::send_sgi(at as usize, gic::SGI_RESCHEDULE);
        }
    }
}

/// The deadlines that are armed, by vCPU.
static TIMERS: Lock<BTreeMap<usize, Timer>> = Lock::new(rank::TIMER, BTreeMap::new());

/// See `kvm::Host::set_timer`.
pub fn set_timer(core: &Arc<VcpuCore>, deadline: Option<u64>) {
    let key = Arc::as_ptr(core).addr();
    let old = TIMERS.lock().remove(&key);
    if let Some(old) = old {
        timer::cancel(old);
    }
    if let Some(ticks) = deadline {
        let waker = Waker::from(Arc::new(Due(Arc::downgrade(core))));
        let armed = timer::arm(time::from_ticks(ticks), waker);
        TIMERS.lock().insert(key, armed);
    }
}

/// See `kvm::Host::invalidate_stage2`.
pub fn invalidate_stage2(vmid: &Id, start: u64, len: u64, last_level: bool) {
    // Without a VMID it never ran.
    let Some(vmid) = vmid.get() else { return };
    if split() {
        return hyp::flush_guest(vmid, start, len, last_level);
    }
    let ours = vhe::vttbr();
    // Only the VMID counts for invalidation.
    // SAFETY: interrupts are masked, `ours` is what was there.
    unsafe {
        let vttbr = u64::from(vmid) << 48;
        if arch::host::is_e2h0() {
            e2h0::flush_guest(vttbr, ours, start, len, last_level);
        } else {
            vhe::flush_guest(vttbr, ours, start, len, last_level);
        }
    }
}

/// See `kvm::Host::make_coherent`.
pub fn make_coherent(frame: &Frame, fwb: bool) {
    let start = memory::phys_to_virt(frame.addr().get()) as usize;
    let len = frame.size().bytes() as usize;
    // SAFETY: the linear map covers all frames.
    unsafe {
        if fwb {
            arch::cache::sync_icache(start, len);
        } else {
            // Which is clean to the point of unification, too.
            arch::cache::clean_to_poc(start, len);
            arch::cache::forget_instructions();
        }
    }
}
