//! What each CPU has of its own.

use arch::mitigation::{Entry, PerCpu};
use core::cell::UnsafeCell;
use core::mem::{MaybeUninit, offset_of};
use hyp_abi::{Failure, INVALID, Init, MAX_CPUS, MAX_RAM, Range, Run, SUCCESS, VERSION, layout};
use psci::Policy;
use vcpu_context::GuestContext;
use world_switch::nvhe::HostState;

/// One CPU's data; TPIDR_EL2 points to it.
#[repr(C)]
pub struct Cpu {
    /// What the vectors for guests read.
    mitigation: PerCpu,
    /// The stub's vectors, physical. entry.s knows its place, and the next.
    stub_vectors: u64,
    /// The identity-mapped page.
    idmap: u64,
    /// Where a failure is told.
    failure: *mut Failure,
    /// The end of the stack.
    stack: u64,
    /// Shared with the host.
    run: *mut Run,
    /// The host's address that hears of a failure.
    pub host_panic: u64,
    /// A failure was told already.
    pub failed: bool,
    /// The guest's world is live.
    pub in_guest: bool,
    /// The host's registers while it is.
    pub host: HostState,
    /// The context that ran last, as [`Run`] names it, and here.
    pub context: Option<(u64, *mut GuestContext)>,
    /// List registers and active-priority registers there are.
    pub gic: crate::gic::Shape,
    /// What the guest's firmware calls may ask for, as of `generation`.
    pub policy: Policy,
    pub generation: u64,
    ram: [Range; MAX_RAM],
}

#[repr(transparent)]
struct Slot(UnsafeCell<MaybeUninit<Cpu>>);
// SAFETY: each CPU uses its own slot alone, found by TPIDR_EL2.
unsafe impl Sync for Slot {}

static CPUS: [Slot; MAX_CPUS] = [const { Slot(UnsafeCell::new(MaybeUninit::uninit())) }; MAX_CPUS];

unsafe extern "C" {
    fn __hyp_vectors();
}

core::arch::global_asm!(
    include_str!("entry.s"),
    MAGIC = const hyp_abi::Header::MAGIC,
    VERSION = const VERSION,
    CALL_INIT = const hyp_abi::Call::Init as u64,
    RESET_VECTORS = const hyp_abi::stub::RESET_VECTORS,
    SOFT_RESTART = const hyp_abi::stub::SOFT_RESTART,
    STUB_ERROR = const hyp_abi::stub::ERROR,
    INIT_STACK = const offset_of!(Init, stack),
    INIT_VERSION = const offset_of!(Init, version),
    CPU_STUB = const offset_of!(Cpu, stub_vectors),
    CPU_FAILURE = const offset_of!(Cpu, failure),
    CPU_STACK = const offset_of!(Cpu, stack),
);

// What entry.s relies on.
const _: () = {
    assert!(offset_of!(Init, mair) == 0 && offset_of!(Init, ttbr0) == 16);
    assert!(offset_of!(Cpu, mitigation) == 0);
    assert!(offset_of!(Cpu, idmap).wrapping_sub(offset_of!(Cpu, stub_vectors)) == 8);
    assert!(offset_of!(Failure, sp) == 248 && offset_of!(Failure, vector) == 296);
    assert!(layout::IMAGE == 0xc000_0000_0000);
};

/// The first Rust on each CPU, MMU on, on its own stack: `init` is physical, as
/// the host gave it, `idmap` where the code that called this lies.
#[unsafe(no_mangle)]
extern "C" fn hyp_init(init: u64, idmap: u64) -> u64 {
    // It was read with the MMU off, so it is somewhere; in RAM that is mapped,
    // if this holds. Its own list says what RAM is.
    if init >= layout::PHYS_LIMIT || init & 63 != 0 {
        return INVALID;
    }
    let address = init.wrapping_add(layout::LINEAR) as usize;
    // SAFETY: the host's word at boot; see above. Any bytes make an `Init`.
    let init = unsafe { core::ptr::with_exposed_provenance::<Init>(address).read_volatile() };
    let Some(slot) = CPUS.get(init.cpu as usize) else { return INVALID };
    let Some(entry) = entry(init.entry) else { return INVALID };
    if matches!(entry, Entry::Loop) && init.loops == 0 {
        return INVALID;
    }
    let run = hyp_abi::ram_at(&init.ram, init.run, size_of::<Run>() as u64, 64);
    let Some(run) = run else { return INVALID };
    let run: *mut Run = core::ptr::with_exposed_provenance_mut(run as usize);
    let cpu = Cpu {
        mitigation: PerCpu { loops: init.loops, function: init.function },
        stub_vectors: init.stub_vectors,
        idmap,
        // SAFETY: the place of a field, within `Run`.
        failure: unsafe { &raw mut (*run).failure },
        stack: init.stack,
        run,
        host_panic: init.host_panic,
        failed: false,
        in_guest: false,
        host: HostState::new(__hyp_vectors as *const () as u64, entry),
        context: None,
        gic: crate::gic::Shape::of_this_cpu(init.gicv3 != 0),
        policy: Policy::new(),
        generation: 0,
        ram: init.ram,
    };
    // SAFETY: this CPU's own slot: the host enters each CPU with its own index,
    // when it isn't in here already. TPIDR_EL2 is this program's.
    unsafe {
        let place = slot.0.get().cast::<Cpu>();
        place.write(cpu);
        core::arch::asm!("msr tpidr_el2, {}", in(reg) place, options(nostack, preserves_flags));
    }
    SUCCESS
}

fn entry(number: u64) -> Option<Entry> {
    Some(match number {
        hyp_abi::entry::PLAIN => Entry::Plain,
        hyp_abi::entry::LOOP => Entry::Loop,
        hyp_abi::entry::INSTRUCTION => Entry::Instruction,
        hyp_abi::entry::FIRMWARE => Entry::Firmware,
        _ => return None,
    })
}

/// This CPU's data.
///
/// # Safety
/// `hyp_init` succeeded here, and nobody else holds a reference.
pub unsafe fn this() -> &'static mut Cpu {
    let cpu: *mut Cpu;
    // SAFETY: `hyp_init` set TPIDR_EL2.
    unsafe {
        core::arch::asm!("mrs {}, tpidr_el2", out(reg) cpu, options(nomem, nostack, preserves_flags));
        &mut *cpu
    }
}

impl Cpu {
    /// What this CPU shares with the host, which doesn't run meanwhile.
    pub fn run(&self) -> *mut Run {
        self.run
    }

    /// A `T` of the host's at physical `phys`, if it lies in RAM.
    pub fn host_memory<T>(&self, phys: u64) -> Option<*mut T> {
        let (size, align) = (size_of::<T>() as u64, align_of::<T>() as u64);
        let address = hyp_abi::ram_at(&self.ram, phys, size, align)?;
        Some(core::ptr::with_exposed_provenance_mut(address as usize))
    }
}
