//! The program `hyp` at EL2, as the host at EL1 knows it: how it gets there,
//! and what is asked of it (nVHE; crates/hyp-abi has the words for it).
#![expect(unsafe_code, reason = "HVC, hyp's translation tables, memory shared with it")]

use crate::boot::BootPlan;
use crate::fp::GuestFp;
use crate::machine::Machine;
use crate::{cpu, memory, panic, sched, vcpu};
use arch::map::Mapper;
use arch::mitigation;
use arch::regime::{Attributes, MAIR, Regime};
use core::sync::atomic::{AtomicUsize, Ordering::*};
use frame::{Fill, KernelPages, Use};
use hyp_abi::{
    Call, Header, Init, MAX_CPUS, MAX_RAM, PackedPolicy, Range, Run, exit, layout, stub,
};
use kvm::{Entry, Exit, Fast, VcpuState};
use spin::Once;

/// Its binary; nothing in a build without it.
static BINARY: &[u8] = include_bytes!(env!("HYPHA_HYP_FILE"));

/// Whether this build has it. Boot asks with the MMU off.
pub const fn is_built() -> bool {
    !BINARY.is_empty()
}

/// What a CPU and its `hyp` share.
#[repr(C)]
struct Shared {
    init: Init,
    run: Run,
}

const _: () = {
    assert!(cpu::MAX_CPUS <= MAX_CPUS);
    assert!(mitigation::Entry::Plain as u64 == hyp_abi::entry::PLAIN);
    assert!(mitigation::Entry::Loop as u64 == hyp_abi::entry::LOOP);
    assert!(mitigation::Entry::Instruction as u64 == hyp_abi::entry::INSTRUCTION);
    assert!(mitigation::Entry::Firmware as u64 == hyp_abi::entry::FIRMWARE);
};

/// Where it lies, once it is made.
struct Place {
    /// The identity-mapped page, physical.
    idmap: u64,
    root: u64,
    /// By CPU.
    shared: KernelPages,
    ram: [Range; MAX_RAM],
}

static PLACE: Once<Place> = Once::new();
/// CPUs that entered it.
static ENTERED: AtomicUsize = AtomicUsize::new(0);

/// Calls it. Only the calls of this module are made.
fn call(call: Call, x1: u64, x2: u64, x3: u64, x4: u64) -> u64 {
    // SAFETY: see the wrappers; it keeps the procedure call standard.
    unsafe { hvc(call as u64, x1, x2, x3, x4) }
}

/// # Safety
/// The program at EL2 does what the caller expects of this call.
#[inline(always)]
unsafe fn hvc(number: u64, x1: u64, x2: u64, x3: u64, x4: u64) -> u64 {
    let answer;
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!("hvc #0", inout("x0") number => answer, inout("x1") x1 => _,
            inout("x2") x2 => _, inout("x3") x3 => _, inout("x4") x4 => _, out("x5") _,
            out("x6") _, out("x7") _, out("x8") _, out("x9") _, out("x10") _, out("x11") _,
            out("x12") _, out("x13") _, out("x14") _, out("x15") _, out("x16") _,
            out("x17") _, out("x18") _, lateout("x30") _, options(nostack));
    }
    answer
}

/// Puts it in memory, with translation tables of its own. On the boot CPU.
pub fn prepare(plan: &BootPlan, machine: &Machine) -> Result<(), &'static str> {
    let header = Header::read(BINARY).ok_or("its binary is not one this kernel can use")?;
    let mut ram = [Range::default(); MAX_RAM];
    if machine.memory.len() > MAX_RAM {
        return Err("RAM has more ranges than it can be told of");
    }
    for (slot, range) in ram.iter_mut().zip(&machine.memory) {
        *slot = Range { start: range.start.get(), len: range.size };
        if range.end() > layout::PHYS_LIMIT {
            return Err("there is RAM above 64 TiB");
        }
    }
    for erratum in cpuid::errata::of(arch::sysreg::midr_el1()) {
        log::info!("hyp: erratum {} of {}: worked around", erratum.number, erratum.cpu);
    }
    place(plan, &header, ram, machine.cpus.len().min(MAX_CPUS)).map(|place| {
        PLACE.call_once(|| place);
    })
}

fn place(plan: &BootPlan, header: &Header, ram: [Range; MAX_RAM], cpus: usize) -> Result<Place, &'static str> {
    const NO_MEMORY: &str = "there is no memory for it";
    let alloc = |bytes: u64| {
        let order = KernelPages::order_for(bytes as usize).ok_or(NO_MEMORY)?;
        KernelPages::alloc(Use::Hyp, order, Fill::Zeroed).map_err(|_| NO_MEMORY)
    };
    let image = alloc(header.end.wrapping_sub(layout::IMAGE))?;
    let shared = alloc((size_of::<Shared>() as u64).saturating_mul(cpus as u64))?;
    let root = alloc(4096)?.into_raw().get();
    // SAFETY: fresh pages, at least as many bytes as the binary has
    // (`Header::read`). It runs with caches off at first.
    unsafe {
        let to = image.as_ptr().as_ptr();
        core::ptr::copy_nonoverlapping(BINARY.as_ptr(), to, BINARY.len().min(image.len()));
        arch::cache::clean_to_poc(to as usize, image.len());
        arch::cache::sync_icache(to as usize, image.len());
    }
    let image = image.into_raw().get();
    let mut pages = || alloc(4096).ok().map(|page| page.into_raw().get());
    // SAFETY: tables of its own, in RAM that the linear map covers.
    let mut mapper = unsafe { Mapper::new(root, plan.offset, Regime::El2, &mut pages) };
    let mut map = |virt, phys, len, attributes| {
        mapper.map(virt, phys, len, attributes).map_err(|_| NO_MEMORY)
    };
    let at = |virt: u64| virt.wrapping_sub(layout::IMAGE).wrapping_add(image);
    let sections = [
        (layout::IMAGE, header.idmap, Attributes::ReadOnly),
        (header.idmap, header.text_end, Attributes::Code),
        (header.text_end, header.rodata_end, Attributes::ReadOnly),
        (header.rodata_end, header.end.wrapping_add(0xfff) & !0xfff, Attributes::Data),
    ];
    for (start, end, attributes) in sections {
        map(start, at(start), end.wrapping_sub(start), attributes)?;
    }
    let idmap = at(header.idmap);
    map(idmap, idmap, header.idmap_end.wrapping_sub(header.idmap), Attributes::Code)?;
    for range in ram.iter().filter(|range| range.len > 0) {
        map(range.start.wrapping_add(layout::LINEAR), range.start, range.len, Attributes::Data)?;
    }
    for cpu in 0..cpus as u64 {
        let stack = alloc(layout::STACK_SIZE)?.into_raw().get();
        let start = layout::stack_end(cpu).wrapping_sub(layout::STACK_SIZE);
        map(start, stack, layout::STACK_SIZE, Attributes::Data)?;
    }
    Ok(Place { idmap, root, shared, ram })
}

fn shared() -> Option<(&'static Place, *mut Shared)> {
    let place = PLACE.get()?;
    let at = cpu::index().wrapping_mul(size_of::<Shared>());
    let fits = at.saturating_add(size_of::<Shared>()) <= place.shared.len();
    fits.then(|| (place, place.shared.as_ptr().as_ptr().wrapping_add(at).cast()))
}

/// This CPU enters it, if it is to be. Each CPU, once, before it runs tasks.
pub fn enter_cpu() {
    let Some((place, shared)) = shared() else { return };
    let restart = memory::machine().and_then(|machine| machine.arguments.hypha("restart"));
    let entered = take_el2(place, shared) && (restart != Some("el2") || restart_el2() && take_el2(place, shared));
    if entered {
        ENTERED.fetch_add(1, Relaxed);
    }
}

/// EL2 becomes the program's, on this CPU.
fn take_el2(place: &Place, shared: *mut Shared) -> bool {
    let init = Init {
        mair: MAIR,
        tcr: arch::map::tcr(Regime::El2),
        // WXN: what can be written can't be executed.
        sctlr: arch::map::sctlr(Regime::El2) | 1 << 19,
        ttbr0: place.root,
        stack: layout::stack_end(cpu::index() as u64),
        version: hyp_abi::VERSION,
        cpu: cpu::index() as u64,
        run: memory::virt_to_phys(shared.addr() as u64).wrapping_add(core::mem::offset_of!(Shared, run) as u64),
        host_panic: hypha_hyp_failed as *const () as u64,
        stub_vectors: stub_vectors(),
        gicv3: u64::from(crate::gic::is_v3()),
        entry: u64::from(cpu::this().guest_entry.load(Relaxed)),
        loops: cpu::this().loops.load(Relaxed),
        function: cpu::this().function.load(Relaxed),
        ram: place.ram,
    };
    // SAFETY: this CPU's part, which is nobody else's until the calls below;
    // the stub at EL2 (head.s) takes the first of them, `hyp` the others.
    let (answer, version) = unsafe {
        (*shared).init = init;
        (*shared).run.gicv3 = init.gicv3;
        arch::cache::clean_to_poc(shared.addr(), size_of::<Shared>());
        hvc(stub::SET_VECTORS, place.idmap, 0, 0, 0);
        let init = memory::virt_to_phys(shared.addr() as u64);
        let answer = call(Call::Init, init, 0, 0, 0);
        (answer, if answer == hyp_abi::SUCCESS { call(Call::Version, 0, 0, 0, 0) } else { 0 })
    };
    let entered = answer == hyp_abi::SUCCESS && version == hyp_abi::VERSION;
    if !entered {
        log::error!("hyp: CPU{}: init answers {answer:#x}, version {version}", cpu::index());
    }
    entered
}

/// `hypha.restart=el2`: hands this CPU's EL2 to what a soft restart finds, to see
/// that a next kernel could take it over. Before any guest.
fn restart_el2() -> bool {
    // SAFETY: ours, see head.s: it comes back, with x0 changed. The stub refuses
    // the last call, which is none of its three.
    let (sum, refused) = unsafe {
        let next = memory::virt_to_phys(__next_kernel as *const () as u64);
        let sum = hvc(stub::SOFT_RESTART, next, 1, 2, 4);
        (sum, hvc(stub::RESET_VECTORS + 1, 0, 0, 0, 0))
    };
    let done = sum == 7 && refused == stub::ERROR;
    if done {
        log::info!("hyp: CPU{}: EL2 was restarted", cpu::index());
    } else {
        log::error!("hyp: CPU{}: a soft restart of EL2 gives {sum:#x}, {refused:#x}", cpu::index());
    }
    done
}

unsafe extern "C" {
    fn __stub_vectors();
    fn __next_kernel();
}

fn stub_vectors() -> u64 {
    memory::virt_to_phys(__stub_vectors as *const () as u64)
}

/// Whether all CPUs that run tasks entered it.
pub fn is_ready() -> bool {
    ENTERED.load(Relaxed) == cpu::online().count()
}

/// This CPU's EL2 goes back to the stub, for whoever comes next. For good: no
/// guest may run here any more.
pub fn leave_cpu() {
    if PLACE.get().is_some() {
        // SAFETY: the call exists with `hyp` and without it.
        unsafe { hvc(stub::RESET_VECTORS, 0, 0, 0, 0) };
    }
}

/// ICH_VTR_EL2.
pub fn gic_type() -> u64 {
    call(Call::GicType, 0, 0, 0, 0)
}

/// Makes it fail, to show that this is heard of.
pub fn crash() {
    call(Call::Crash, 0, 0, 0, 0);
}

/// Forgets translations of a guest: see `kvm::Host::invalidate_stage2`.
pub fn flush_guest(vmid: u16, start: u64, len: u64, last_level: bool) {
    call(Call::FlushGuest, u64::from(vmid), start, len, u64::from(last_level));
}

/// Forgets the translations of all guests on this CPU.
pub fn flush_all_guests_local() {
    call(Call::FlushLocal, 0, 0, 0, 0);
}

/// Forgets the translations of one guest on this CPU. VMID 0 is no guest's.
pub fn flush_guest_local(vmid: u16) {
    call(Call::FlushLocal, u64::from(vmid), 0, 0, 0);
}

/// What this CPU shares with `hyp`.
///
/// # Safety
/// Nobody holds another reference to it: interrupts are masked, and this one is
/// not used across a call, in which it is `hyp`'s.
unsafe fn this_run() -> Option<&'static mut Run> {
    let (_, shared) = shared()?;
    // SAFETY: allocated for good, initialised by `enter_cpu`.
    Some(unsafe { &mut (*shared).run })
}

/// ICH_HCR_EL2.EOIcount: ends of interrupts that no list register holds.
const EOICOUNT: u64 = 0x1f << 27;

/// The vCPU's registers will be entered from `state` on this CPU.
pub fn load(state: &VcpuState, vtcr_el2: u64) {
    // SAFETY: the only reference, see above.
    let Some(run) = (unsafe { this_run() }) else { return };
    run.context = memory::virt_to_phys(core::ptr::from_ref(&state.context).addr() as u64);
    run.vtcr_el2 = vtcr_el2;
    run.load = 1;
    run.lr_write = 0;
    run.gic.lr = state.lrs.lr;
    run.gic.vmcr = state.lrs.vmcr;
    run.gic.ap0r = state.lrs.ap0r;
    run.gic.ap1r = state.lrs.ap1r;
}

/// The vCPU leaves this CPU: what is not in `state` yet comes there.
pub fn put(state: &mut VcpuState) {
    // SAFETY: the only reference; a new one after the call.
    if unsafe { this_run() }.is_some_and(|run| run.load == 0) {
        call(Call::Put, 0, 0, 0, 0);
        // SAFETY: as above.
        if let Some(run) = unsafe { this_run() }.filter(|run| run.gicv3 != 0) {
            state.lrs.ap0r = run.gic.ap0r;
            state.lrs.ap1r = run.gic.ap1r;
        }
    }
    arch::timer::disarm_virtual();
}

/// List registers `..write` of `state`, and ICH_HCR_EL2, are news for the vCPU
/// that is loaded.
pub fn write_live(state: &VcpuState, write: u8) {
    // SAFETY: the only reference.
    let Some(run) = (unsafe { this_run() }) else { return };
    for (to, from) in run.gic.lr.iter_mut().zip(&state.lrs.lr).take(usize::from(write)) {
        *to = *from;
    }
    run.lr_write = run.lr_write.max(u64::from(write));
    run.gic.hcr = state.lrs.hcr;
    run.gic.used = u64::from(state.lrs.used);
}

/// Runs the loaded vCPU until the kernel proper must answer.
pub fn enter(entry: &Entry<'_>, state: &mut VcpuState) -> Exit {
    let had_fp = GuestFp::is_loaded();
    {
        // SAFETY: the only reference; a new one after the call.
        let Some(run) = (unsafe { this_run() }) else { return Exit::FailEntry(0) };
        let policy = PackedPolicy::pack(&entry.snapshot.policy);
        if policy != run.policy || run.policy_generation == 0 {
            run.policy = policy;
            run.policy_generation = run.policy_generation.wrapping_add(1).max(1);
        }
        run.gic.hcr = state.lrs.hcr;
        run.gic.used = u64::from(state.lrs.used);
        run.guest_fp = u64::from(had_fp);
        run.host_fp = if had_fp { 0 } else { memory_of_fp() };
    }
    loop {
        let mut refill = false;
        let exit = loop {
            match call(Call::Run, 0, 0, 0, 0) {
                exit::SYNC => match kvm::fast(&mut state.context, entry) {
                    Fast::Resume => {}
                    Fast::Refill => {
                        refill = true;
                        break Exit::Done;
                    }
                    Fast::Done => break Exit::Done,
                    Fast::NeedsHost => break Exit::Sync,
                },
                exit::IRQ => break Exit::Interrupt,
                exit::SERROR => break Exit::SError(state.context.esr_el2),
                other => break Exit::FailEntry(other),
            }
        };
        // SAFETY: as above.
        if let Some(run) = unsafe { this_run() } {
            if run.guest_fp != 0 && !had_fp {
                GuestFp::taken();
            }
            leave(run, entry, state);
        }
        let goes_on = match exit {
            Exit::Interrupt => vcpu::take_interrupt::<true>(entry, state),
            Exit::Done => refill && vcpu::refill::<true>(entry, state),
            _ => false,
        };
        if !goes_on {
            return exit;
        }
    }
}

/// What the guest may have changed of its CPU interface, if `hyp` switches that.
#[inline]
fn leave(run: &Run, entry: &Entry<'_>, state: &mut VcpuState) {
    if run.gicv3 == 0 {
        return;
    }
    let used = usize::from(state.lrs.used);
    for (to, from) in state.lrs.lr.iter_mut().zip(&run.gic.lr).take(used) {
        *to = *from;
    }
    state.lrs.vmcr = run.gic.vmcr;
    state.lrs.hcr = state.lrs.hcr & !EOICOUNT | run.gic.hcr & EOICOUNT;
    if run.gic.misr != 0 {
        // The maintenance interrupt that `hyp` took back.
        entry.core.timer_due();
    }
}

/// Where the current thread's FP registers belong, if they are in the hardware.
fn memory_of_fp() -> u64 {
    sched::current_ref().fp.save_area().map_or(0, memory::virt_to_phys)
}

/// `hyp` failed on this CPU, and sent it here: EL1 is the host's again.
extern "C" fn hypha_hyp_failed() -> ! {
    // SAFETY: whoever held a reference will not go on.
    let failure = unsafe { this_run() }.map(|run| run.failure).unwrap_or_default();
    panic::hypervisor(&failure)
}
