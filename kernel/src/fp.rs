//! Whose FP/SIMD registers are in the hardware.
//!
//! They stay until somebody else needs them: EL0 and guests find them trapped
//! unless they are their own, and the trap loads them. When a thread leaves the
//! CPU its registers are copied to memory, but remain valid in the hardware if
//! it comes back first.
#![expect(unsafe_code, reason = "registers and their save areas")]

use crate::cpu;
use arch::fp::FpState;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

static NEXT_TOKEN: AtomicU64 = AtomicU64::new(1);
const NOWHERE: u32 = u32::MAX;

/// A thread's FP/SIMD registers. Touched only by the thread itself, on the CPU
/// it runs on, and by nobody while it is suspended.
pub struct FpContext {
    state: UnsafeCell<FpState>,
    /// Unique, never reused: the hardware's content is known by it.
    token: u64,
    /// The CPU whose registers were last this context's.
    cpu: AtomicU32,
}

// SAFETY: `state` is accessed only through the owning thread (see the type).
unsafe impl Sync for FpContext {}

impl FpContext {
    /// All registers zero.
    pub fn new() -> Self {
        FpContext {
            state: UnsafeCell::new(FpState::new()),
            token: NEXT_TOKEN.fetch_add(1, Relaxed),
            cpu: AtomicU32::new(NOWHERE),
        }
    }

    fn is_loaded(&self) -> bool {
        let cpu = cpu::this();
        cpu.fp_owner.load(Relaxed) == self.token
            && self.cpu.load(Relaxed) == cpu.index.load(Relaxed)
    }

    /// On the way to EL0: lets it use FP if the registers are its own.
    pub fn prepare_el0(&self) {
        allow(self.is_loaded());
    }

    /// EL0 touched FP that wasn't its own: make it so.
    pub fn take(&self) {
        let cpu = cpu::this();
        allow(true);
        if !self.is_loaded() {
            // Whoever was there was copied out when it left the CPU, or is a
            // guest that `save_guest` copies.
            crate::vcpu::evict_fp();
            // SAFETY: the state is this thread's, see the type.
            unsafe { arch::fp::load(self.state.get()) };
            cpu.fp_owner.store(self.token, Relaxed);
            self.cpu.store(cpu.index.load(Relaxed), Relaxed);
        }
    }

    /// Where the registers belong, if they are in the hardware.
    pub fn save_area(&self) -> Option<u64> {
        self.is_loaded().then(|| self.state.get().addr() as u64)
    }

    /// The thread leaves the CPU, or somebody wants to read its registers.
    pub fn save(&self) {
        if self.is_loaded() {
            // The kernel is at EL1/EL2: FPEN 0b01 and 0b11 both let it pass.
            // SAFETY: the state is this thread's, see the type.
            unsafe { arch::fp::save(self.state.get()) };
        }
    }

    /// The registers, of the current thread or one that is suspended.
    pub fn read(&self) -> FpState {
        self.save();
        // SAFETY: see the type.
        unsafe { self.state.get().read() }
    }

    /// Replaces the registers, of the current thread or a new one.
    pub fn write(&self, state: &FpState) {
        // SAFETY: see the type.
        unsafe { self.state.get().write(*state) };
        self.cpu.store(NOWHERE, Relaxed);
        // Whatever is in the hardware is no longer it.
        let _ = cpu::this().fp_owner.compare_exchange(self.token, 0, Relaxed, Relaxed);
    }
}

/// Sets EL0's FP trap if it isn't as wanted.
fn allow(allow: bool) {
    let cpu = cpu::this();
    if cpu.fp_allowed.load(Relaxed) != allow {
        cpu.fp_allowed.store(allow, Relaxed);
        arch::host::allow_el0_fp(allow);
    }
}

/// The loaded guest's FP/SIMD registers. At most one vCPU is loaded on a CPU,
/// so that one mark says it all.
pub struct GuestFp;

/// Never a token: they count up from 1.
const GUEST: u64 = u64::MAX;

const _: () = assert!(size_of::<FpState>() == size_of::<vcpu_context::FpState>());
const _: () = assert!(
    core::mem::offset_of!(FpState, fpcr) == core::mem::offset_of!(vcpu_context::FpState, fpcr)
);

impl GuestFp {
    /// Whether the guest's registers are in the hardware.
    #[inline]
    pub fn is_loaded() -> bool {
        Self::is_loaded_on(cpu::this())
    }

    /// The same of this CPU, where it is known which that is.
    #[inline]
    pub fn is_loaded_on(this: &cpu::Cpu) -> bool {
        this.fp_owner.load(Relaxed) == GUEST
    }

    /// At EL2, `hyp` loaded them, and saved what was there.
    pub fn taken() {
        cpu::this().fp_owner.store(GUEST, Relaxed);
    }

    /// In the guest's world: it touched FP that wasn't its own.
    pub fn take<A: world_switch::Together>(state: &mut vcpu_context::FpState) {
        A::allow_guest_fp(true);
        arch::barrier::isb();
        if !Self::is_loaded() {
            // EL0's registers are those of the thread that runs the vCPU.
            crate::sched::current_ref().fp.save();
            // SAFETY: the layouts agree, see above.
            unsafe { arch::fp::load(core::ptr::from_ref(state).cast()) };
            cpu::this().fp_owner.store(GUEST, Relaxed);
        }
    }

    /// In the host's world: somebody else needs the registers.
    pub fn put(state: &mut vcpu_context::FpState) {
        if Self::is_loaded() {
            // SAFETY: the layouts agree, see above.
            unsafe { arch::fp::save(core::ptr::from_mut(state).cast()) };
            cpu::this().fp_owner.store(0, Relaxed);
        }
    }
}
