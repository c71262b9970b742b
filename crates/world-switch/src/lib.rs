//! The world switch: from the host's registers to a guest's and back.
//!
//! Three drivers over the same parts: [`vhe`], where the kernel is the hypervisor
//! and only what must be is switched; [`nvhe`], for the program `hyp` at EL2,
//! where host and guest share EL1, so that a guest's all is; [`e2h0`], where the kernel is
//! at EL2 without VHE, and EL1 is the guests' alone. All take the EL1 registers
//! from one list (`vcpu_context::el1_registers`), enter and leave by one text
//! (`guest.s`), and reach the GIC by [`gic`].
//!
//! Under VHE, two groups of registers switch at different times:
//!
//! * at each entry and exit: the general-purpose registers, PC, PSTATE
//!   ([`vhe::run`]);
//! * when the CPU goes over to EL0 or to the scheduler: HCR_EL2, VBAR_EL2 and
//!   what EL0 shares with the guest ([`vhe::World`]);
//! * when another vCPU or task gets the CPU ("load" and "put"): the EL1
//!   registers, the timers, stage 2, the GIC's virtual interface
//!   ([`vhe::load`], [`vhe::put`]).
//!
//! What EL0 (the VMM) could see or disturb while a guest's EL1 state is live:
//!
//! | register | answer |
//! | --- | --- |
//! | TPIDR_EL0, TPIDRRO_EL0, SP_EL0 | switched with the world |
//! | CNTV (may fire) | its PPI goes to the host, which notes it for the guest |
//! | CPACR_EL1, CNTKCTL_EL1 | under TGE=1 EL0 obeys CPTR_EL2 and CNTHCTL_EL2 |
//! | PMUSERENR_EL0 | zero for both |
//! | MDSCR_EL1, breakpoints | the host's; the guest's accesses trap (MDCR_EL2.TDA) |
//! | VDISR_EL2, VSESR_EL2 | no EL0 instruction reaches them (under TGE=1 DISR_EL1 is the host's) |
//! | FP/SIMD | trapped unless EL0's own |
#![no_std]

#[cfg(target_arch = "aarch64")]
mod access;
#[cfg(target_arch = "aarch64")]
pub mod e2h0;
#[cfg(target_arch = "aarch64")]
pub mod gic;
#[cfg(target_arch = "aarch64")]
mod guest;
#[cfg(target_arch = "aarch64")]
pub mod nvhe;
#[cfg(target_arch = "aarch64")]
pub mod vhe;

/// Answers an exit with the guest's EL1 state live, interrupts masked: 0
/// resumes the guest, anything else goes back to who ran it.
pub type Fast = extern "C" fn(context: *mut vcpu_context::GuestContext, argument: *mut ()) -> u64;

/// Who answers exits in the guest's world.
#[derive(Clone, Copy, Debug)]
pub struct Handlers {
    /// Synchronous ones.
    pub sync: Fast,
    /// Interrupts of the host's.
    pub irq: Fast,
}

/// The vectors of a CPU, for VBAR_EL2.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vectors {
    /// While a guest runs.
    pub guest: u64,
    /// While the host does.
    pub host: u64,
}

/// Kernel and hypervisor are one program: how it goes to the guest's world and
/// back.
#[cfg(target_arch = "aarch64")]
pub trait Together {
    /// What is put aside while this CPU is in a guest's world.
    type World;

    /// The vectors for guests on a CPU that `entry` is for. Its TPIDR_EL2 points
    /// to a [`PerCpu`](arch::mitigation::PerCpu).
    fn guest_vectors(entry: arch::mitigation::Entry) -> u64;

    /// From the host's world to the guest's. `fp` says whether the guest's FP
    /// registers are in the hardware; if not, their use traps. `vectors` are this
    /// CPU's.
    ///
    /// # Safety
    /// `context` is loaded and stays valid; interrupts are masked; until
    /// [`Together::leave`] nothing runs that needs the host's regime (the token
    /// is taken for that).
    unsafe fn enter(
        regime: &mut regime::HostRegime,
        context: &vcpu_context::GuestContext,
        fp: bool,
        vectors: Vectors,
    ) -> Self::World;

    /// Back to the host's world. EL0's FP is trapped afterwards.
    ///
    /// # Safety
    /// The counterpart of [`Together::enter`], on the same CPU.
    unsafe fn leave(world: Self::World, context: &mut vcpu_context::GuestContext);

    /// FAR_EL2 and HPFAR_EL2 of the abort that just came from a guest, in its
    /// world. False: let it fault again.
    fn read_abort(context: &mut vcpu_context::GuestContext) -> bool;

    /// Enters the guest, and comes back when one of the handlers returns other
    /// than 0 (its result), or with [`EXIT_SERROR`].
    ///
    /// # Safety
    /// The CPU is in the guest's world with this context's registers loaded;
    /// interrupts are masked; `context` is valid and nobody else's;
    /// the handlers are sound with `(context, argument)`.
    unsafe fn run(
        context: *mut vcpu_context::GuestContext,
        handlers: Handlers,
        argument: *mut (),
    ) -> u64;

    /// In the guest's world: lets the guest use FP, or traps it.
    fn allow_guest_fp(allow: bool);
}

/// The guest was left because an interrupt of the host's is pending or was taken.
pub const EXIT_IRQ: u64 = 1 << 32;
/// The guest was left because of its SError; ESR_EL2 is in the context.
pub const EXIT_SERROR: u64 = 2 << 32;

/// HCR_EL2.VSE: a virtual SError is pending.
#[cfg(target_arch = "aarch64")]
const HCR_VSE: u64 = 1 << 8;

/// TCR_EL1.EPD0 and EPD1: no table walks.
#[cfg(target_arch = "aarch64")]
const TCR_EPD: u64 = 1 << 7 | 1 << 23;
/// SCTLR_EL1.M.
#[cfg(target_arch = "aarch64")]
const SCTLR_M: u64 = 1;

/// MDCR_EL2 bits for a guest: TDE is clear (its debug exceptions are its own),
/// TDA, TDOSA, TDRA: its debug registers trap; TPM, TPMCR: so does the PMU;
/// TPMS, TTRF: so do statistical profiling and trace filters.
#[cfg(target_arch = "aarch64")]
const MDCR_TRAPS: u64 = 1 << 9 | 1 << 10 | 1 << 11 | 1 << 6 | 1 << 5 | 1 << 14 | 1 << 19;

#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    include_str!("../../arch/src/asm/mitigate.s"),
    include_str!("guest.s"),
    // Whoever doesn't use one of the two doesn't link it.
    "guest_switch guest, 0, 0, __vectors",
    "guest_switch hyp_guest, 1, 1, __hyp_vectors",
    "guest_switch e2h0_guest, 1, 0, __vectors",
    ".purgem mitigate",
    ".purgem mitigate_loop",
    ".purgem mitigate_percpu",
    PC_X30 = const vcpu_context::offset::REGS + 240,
    PSTATE = const vcpu_context::offset::PSTATE,
);

// guest.s relies on these.
const _: () = assert!(vcpu_context::offset::REGS == 0);
const _: () = assert!(vcpu_context::offset::PC == 248);
const _: () = assert!(vcpu_context::offset::ESR_EL2 == vcpu_context::offset::PSTATE + 8);
