//! What each CPU has of its own.
#![expect(unsafe_code, reason = "the per-CPU pointer")]

use crate::task::Task;
use arch::mitigation::PerCpu;
use arch::trap::EMERGENCY_STACK;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// The most CPUs this kernel drives.
pub const MAX_CPUS: usize = 32;

/// [`Cpu::taken`]: none.
pub const NONE_TAKEN: u32 = u32::MAX;

/// One CPU's data. Atomics, because other CPUs may look.
#[derive(Debug)]
#[repr(C)]
pub struct Cpu {
    /// Vectors find these two by TPIDR: an `arch::mitigation::PerCpu`.
    pub loops: AtomicU64,
    /// The call of firmware that forgets the branch predictor.
    pub function: AtomicU64,
    /// Top of the stack on which an overflow of all others is told: vectors.s
    /// reads it, too.
    pub emergency_stack: AtomicU64,
    /// An `arch::mitigation::Entry`: how exits from guests begin.
    pub guest_entry: AtomicU32,
    /// The call is to be made between processes, too.
    pub hardens: AtomicBool,
    /// VBAR_EL2 while a guest runs, where kernel and hypervisor are one.
    pub guest_vectors: AtomicU64,
    /// VBAR while the host does.
    pub host_vectors: AtomicU64,
    /// Its index, from 0, the boot CPU.
    pub index: AtomicU32,
    /// MPIDR affinity.
    pub hardware_id: AtomicU64,
    /// It runs tasks.
    pub online: AtomicBool,
    /// An interrupt that was acknowledged where it could not be handled.
    pub taken: AtomicU32,
    /// Timer interrupts taken, for /proc/interrupts and the boot log.
    pub ticks: AtomicU64,
    /// When it last said that it lives, and when others last said it does not.
    pub alive: AtomicU64,
    pub reported: AtomicU64,
    /// The current task; the run queue holds the reference.
    pub current: AtomicPtr<Task>,
    /// The current task should give the CPU up.
    pub need_resched: AtomicBool,
    /// Since when it has had nothing to do; the far future: it has.
    pub idle_since: AtomicU64,
    /// Nanoseconds that it had nothing to do before.
    pub idle_time: AtomicU64,
    /// Nanoseconds in system calls and page faults.
    pub system_time: AtomicU64,
    /// Whose FP registers are in the hardware: a token, see `fp`.
    pub fp_owner: AtomicU64,
    /// EL0 may use FP.
    pub fp_allowed: AtomicBool,
}

const _: () = {
    assert!(core::mem::offset_of!(Cpu, loops) == core::mem::offset_of!(PerCpu, loops));
    assert!(core::mem::offset_of!(Cpu, function) == core::mem::offset_of!(PerCpu, function));
    assert!(core::mem::offset_of!(Cpu, emergency_stack) == EMERGENCY_STACK);
};

static CPUS: [Cpu; MAX_CPUS] = [const {
    Cpu {
        loops: AtomicU64::new(0),
        function: AtomicU64::new(0),
        emergency_stack: AtomicU64::new(0),
        guest_entry: AtomicU32::new(0),
        hardens: AtomicBool::new(false),
        guest_vectors: AtomicU64::new(0),
        host_vectors: AtomicU64::new(0),
        index: AtomicU32::new(0),
        hardware_id: AtomicU64::new(0),
        online: AtomicBool::new(false),
        taken: AtomicU32::new(NONE_TAKEN),
        ticks: AtomicU64::new(0),
        alive: AtomicU64::new(0),
        reported: AtomicU64::new(0),
        current: AtomicPtr::new(core::ptr::null_mut()),
        need_resched: AtomicBool::new(false),
        idle_since: AtomicU64::new(u64::MAX),
        idle_time: AtomicU64::new(0),
        system_time: AtomicU64::new(0),
        fp_owner: AtomicU64::new(0),
        fp_allowed: AtomicBool::new(false),
    }
}; MAX_CPUS];

/// Makes this CPU number `index`: first thing it does in Rust.
pub fn init(index: usize, emergency_stack: u64) {
    let Some(cpu) = CPUS.get(index) else { crate::power::hang() };
    cpu.emergency_stack.store(emergency_stack, Ordering::Relaxed);
    cpu.index.store(index as u32, Ordering::Relaxed);
    cpu.hardware_id.store(arch::cpu::hardware_id(), Ordering::Relaxed);
    // SAFETY: the pointer is to a static; `this` relies on it.
    unsafe { arch::host::set_per_cpu(core::ptr::from_ref(cpu) as u64) };
}

/// The CPU we run on. A task that sleeps may find itself on another.
#[inline(always)]
pub fn this() -> &'static Cpu {
    // SAFETY: `init` stored a pointer to a static before anything else ran.
    unsafe { &*(arch::host::per_cpu() as *const Cpu) }
}

/// Index of the CPU we run on.
#[inline(always)]
pub fn index() -> usize {
    this().index.load(Ordering::Relaxed) as usize
}

/// CPU number `index`.
pub fn get(index: usize) -> Option<&'static Cpu> {
    CPUS.get(index)
}

/// All CPUs that run tasks.
pub fn online() -> impl Iterator<Item = &'static Cpu> {
    CPUS.iter().filter(|cpu| cpu.online.load(Ordering::Acquire))
}
