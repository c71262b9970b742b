//! Under VHE: the kernel is the hypervisor.

use crate::access::{read, write};
use arch::mitigation::Entry;
use core::arch::asm;
use regime::HostRegime;
use vcpu_context::{El1, GuestContext};

/// HCR_EL2 for the host: E2H, TGE, RW; AMO, IMO, FMO are as if set under TGE.
pub const HCR_HOST: u64 = 1 << 34 | 1 << 27 | 1 << 31 | 0x38;

pub use crate::gic;
pub use crate::guest::flush_all_guests_local;
use crate::guest::{self, VSESR_UNKNOWN, forget, forget_here, has_ras};
use crate::{HCR_VSE, Handlers, MDCR_TRAPS, SCTLR_M, TCR_EPD, Together, Vectors};

pub use crate::{EXIT_IRQ, EXIT_SERROR, Fast};

unsafe extern "C" {
    fn __guest_run(context: *mut GuestContext, sync: Fast, argument: *mut (), irq: Fast) -> u64;
    fn __guest_vectors();
    fn __guest_vectors_loop();
    fn __guest_vectors_instruction();
    fn __guest_vectors_firmware();
}

/// The host's world, put aside while this CPU is in a guest's.
pub struct World {
    tpidr_el0: u64,
    host_vectors: u64,
}

/// The arrangement.
pub struct Vhe;

impl Together for Vhe {
    type World = World;

    fn read_abort(context: &mut GuestContext) -> bool {
        guest::read_abort(context, false)
    }

    fn guest_vectors(entry: Entry) -> u64 {
        let vectors = match entry {
            Entry::Plain => __guest_vectors,
            Entry::Loop => __guest_vectors_loop,
            Entry::Instruction => __guest_vectors_instruction,
            Entry::Firmware => __guest_vectors_firmware,
        };
        vectors as unsafe extern "C" fn() as *const () as u64
    }

    /// HCR_EL2, vectors, and what EL0 shares with the guest.
    #[inline]
    unsafe fn enter(
        _regime: &mut HostRegime,
        context: &GuestContext,
        fp: bool,
        vectors: Vectors,
    ) -> World {
        // SAFETY: see above. PSTATE legality was checked when it was set.
        unsafe {
            let world = World { tpidr_el0: read!("tpidr_el0"), host_vectors: vectors.host };
            write!("tpidr_el0", context.el1(El1::TPIDR_EL0));
            write!("tpidrro_el0", context.el1(El1::TPIDRRO_EL0));
            write!("sp_el0", context.sp_el0);
            allow_guest_fp(fp);
            write!("vbar_el2", vectors.guest);
            write!("hcr_el2", context.hcr_el2);
            // VBAR and HCR before the first instruction that relies on them:
            // ERET synchronises.
            world
        }
    }

    #[inline]
    unsafe fn leave(world: World, context: &mut GuestContext) {
        // SAFETY: the host's own values.
        unsafe {
            if context.hcr_el2 & HCR_VSE != 0 {
                // The CPU clears it once the guest has taken the SError.
                context.hcr_el2 = read!("hcr_el2");
            }
            write!("hcr_el2", HCR_HOST);
            write!("vbar_el2", world.host_vectors);
            arch::barrier::isb();
            context.sp_el0 = read!("sp_el0");
            context.set_el1(El1::TPIDR_EL0, read!("tpidr_el0"));
            context.set_el1(El1::TPIDRRO_EL0, read!("tpidrro_el0"));
            write!("tpidr_el0", world.tpidr_el0);
            write!("tpidrro_el0", 0u64);
            arch::host::allow_el0_fp(false);
        }
    }

    #[inline]
    unsafe fn run(context: *mut GuestContext, handlers: Handlers, argument: *mut ()) -> u64 {
        // SAFETY: the caller's promise is what the routine needs.
        unsafe { __guest_run(context, handlers.sync, argument, handlers.irq) }
    }

    #[inline]
    fn allow_guest_fp(allow: bool) {
        allow_guest_fp(allow);
    }
}

/// In the guest's world: lets the guest use FP (CPTR_EL2.FPEN=0b11) or traps
/// it at EL0 and EL1 (0b00; under TGE=0 0b01 would trap nothing).
#[inline]
fn allow_guest_fp(allow: bool) {
    // TTA, TAM: trace units and activity monitors are the host's.
    const TRAPS: u64 = 1 << 28 | 1 << 30;
    let fpen: u64 = if allow { 0b11 << 20 } else { 0 };
    // SAFETY: the kernel itself is built soft-float; other bits stay zero: SVE
    // and SME trap (ZEN, SMEN = 0b00).
    unsafe { write!("cpacr_el1", TRAPS | fpen) }
}

macro_rules! define_el1_switch {
    ($(($variant:ident, $nvhe:literal, $vhe:literal, $encoding:tt),)+) => {
        /// Copies the guest's EL1 registers from the hardware.
        unsafe fn save_el1(context: &mut GuestContext) {
            $(
                if !with_world(El1::$variant) {
                    // SAFETY: a read of a guest register.
                    let value = unsafe { vhe_read!($vhe) };
                    context.set_el1(El1::$variant, value);
                }
            )+
        }

        /// Copies the guest's EL1 registers to the hardware.
        unsafe fn load_el1(context: &GuestContext) {
            $(
                if !with_world(El1::$variant) {
                    // SAFETY: guest registers don't affect the host at EL2
                    // under E2H, see the crate's table.
                    unsafe { vhe_write!($vhe, context.el1(El1::$variant)) };
                }
            )+
        }
    };
}

/// Registers that switch with the world, not with the vCPU.
const fn with_world(register: El1) -> bool {
    matches!(register, El1::TPIDR_EL0 | El1::TPIDRRO_EL0)
}

macro_rules! vhe_read {
    ($register:literal) => {{
        let value: u64;
        asm!(".arch armv8.1-a", concat!("mrs {}, ", $register), out(reg) value,
             options(nostack, preserves_flags));
        value
    }};
}

/// As `arch::host`'s registers: see there.
macro_rules! patched_read {
    ($vhe:literal, $e2h0:literal) => {{
        let value: u64;
        asm!(
            ".arch armv8.1-a",
            concat!("661: mrs {v}, ", $vhe),
            ".pushsection .hostpatch.e2h0, \"a\"",
            ".long 661b - .",
            concat!("mrs {v}, ", $e2h0),
            ".popsection",
            v = out(reg) value,
            options(nostack, preserves_flags)
        );
        value
    }};
}

macro_rules! vhe_write {
    ($register:literal, $value:expr) => {
        asm!(".arch armv8.1-a", concat!("msr ", $register, ", {}"), in(reg) $value,
             options(nostack, preserves_flags))
    };
}

vcpu_context::el1_registers!(define_el1_switch);

/// How the guest may use timers and counters while it is loaded: the physical
/// timer traps (EL1PTEN), EL0 of the host may read CNTVCT (EL0VCTEN).
const CNTHCTL_GUEST: u64 = 1 << 1;
/// CNTHCTL_EL2.EL1PCTEN: CNTPCT_EL0 doesn't trap. It shows the machine's count.
const EL1PCTEN: u64 = 1 << 10;

/// Makes the vCPU's EL1 registers, timers and stage 2 live in this CPU.
///
/// # Safety
/// In the host's regime, interrupts masked, no other vCPU loaded on this CPU,
/// and this one on no other. VTTBR and VTCR describe tables that live until
/// [`put`].
pub unsafe fn load(context: &GuestContext, vtcr_el2: u64) {
    // SAFETY: see above; under TGE=1 none of this acts on the host.
    unsafe {
        write!("vtcr_el2", vtcr_el2);
        write!("vttbr_el2", context.vttbr_el2);
        write!("vmpidr_el2", context.vmpidr_el2);
        write!("vpidr_el2", context.vpidr_el2);
        load_el1(context);
        let direct = if context.timer.cntpoff == 0 { EL1PCTEN } else { 0 };
        write!("cnthctl_el2", CNTHCTL_GUEST | direct);
        write!("cntvoff_el2", context.timer.cntvoff);
        vhe_write!("cntv_cval_el02", context.timer.cntv_cval);
        arch::barrier::isb();
        vhe_write!("cntv_ctl_el02", context.timer.cntv_ctl);
        if has_ras() {
            write!("S3_4_C12_C1_1", context.vdisr_el2);
            write!("S3_4_C5_C2_3", VSESR_UNKNOWN); // VSESR_EL2
        }
        let mdcr = read!("mdcr_el2");
        write!("mdcr_el2", mdcr | MDCR_TRAPS);
        arch::barrier::isb();
    }
}

/// Takes the vCPU's registers out of this CPU.
///
/// # Safety
/// The counterpart of [`load`], in the host's regime.
pub unsafe fn put(context: &mut GuestContext) {
    // SAFETY: see above.
    unsafe {
        save_el1(context);
        read_timer(context);
        vhe_write!("cntv_ctl_el02", 0u64);
        if has_ras() {
            context.vdisr_el2 = read!("S3_4_C12_C1_1");
        }
        let mdcr = read!("mdcr_el2");
        write!("mdcr_el2", mdcr & !MDCR_TRAPS);
        write!("vttbr_el2", 0u64);
        arch::barrier::isb();
    }
}

/// Copies the live virtual timer into the context. At E2H=0 boot patches in the
/// names that it has there.
///
/// # Safety
/// The vCPU is loaded on this CPU.
#[inline]
pub unsafe fn read_timer(context: &mut GuestContext) {
    // SAFETY: reads of guest registers.
    unsafe {
        context.timer.cntv_ctl = patched_read!("cntv_ctl_el02", "cntv_ctl_el0");
        context.timer.cntv_cval = patched_read!("cntv_cval_el02", "cntv_cval_el0");
    }
}

/// Forgets translations of a guest, on all CPUs: a range of guest physical
/// addresses, or all of the VMID where `len` is `u64::MAX`.
///
/// `TLBI IPAS2E1IS` acts on the current VTTBR's VMID, in any HCR_EL2.TGE
/// (Arm ARM D8.16); stage 1 entries that went through the old stage 2 go by
/// `TLBI VMALLE1IS`, which needs TGE=0.
///
/// # Safety
/// Interrupts are masked; `vttbr_el2` names the guest's VMID, and `restore` is
/// what VTTBR_EL2 holds now.
pub unsafe fn flush_guest(vttbr_el2: u64, restore: u64, start: u64, len: u64, last_level: bool) {
    arch::barrier::dsb_ishst();
    // SAFETY: the caller's promise; TGE is clear.
    unsafe { as_guest(vttbr_el2, restore, || forget(start, len, last_level)) }
}

/// Forgets a guest's translations on this CPU: another of its vCPUs comes.
///
/// # Safety
/// As for [`flush_guest`].
pub unsafe fn flush_guest_local(vttbr_el2: u64, restore: u64) {
    // SAFETY: the caller's promise; TGE is clear.
    unsafe { as_guest(vttbr_el2, restore, || forget_here()) }
}

/// `forget`s with TGE=0 and this VTTBR_EL2.
///
/// # Safety
/// As for [`flush_guest`]; `forget` does no more than that.
unsafe fn as_guest(vttbr_el2: u64, restore: u64, forget: impl FnOnce()) {
    // SAFETY: forgetting translations is always sound. With TGE clear, nothing
    // but these instructions runs before it is set again. EL1's TCR and SCTLR
    // are the guest's: under TGE=1 they mean nothing, and they come back.
    unsafe {
        // A speculative AT would walk the loaded guest's stage 1, or the last
        // one's, by another's stage 2: no walks, no stage 1 that is off.
        let speculative_at = cpuid::errata::speculative_at(read!("midr_el1")).is_some();
        let mut saved = (0, 0);
        if speculative_at {
            let (tcr, sctlr) = (vhe_read!("tcr_el12"), vhe_read!("sctlr_el12"));
            saved = (tcr, sctlr);
            vhe_write!("tcr_el12", tcr | TCR_EPD);
            vhe_write!("sctlr_el12", sctlr | SCTLR_M);
        }
        write!("vttbr_el2", vttbr_el2);
        if speculative_at {
            // All of the above before TGE changes.
            arch::barrier::isb();
        }
        write!("hcr_el2", HCR_HOST & !(1 << 27));
        arch::barrier::isb();
        forget();
        write!("hcr_el2", HCR_HOST);
        if speculative_at {
            arch::barrier::isb();
        }
        write!("vttbr_el2", restore);
        arch::barrier::isb();
        if speculative_at {
            let (tcr, sctlr) = saved;
            vhe_write!("sctlr_el12", sctlr);
            vhe_write!("tcr_el12", tcr);
            arch::barrier::isb();
        }
    }
}

/// What VTTBR_EL2 holds.
pub fn vttbr() -> u64 {
    // SAFETY: a read.
    unsafe { read!("vttbr_el2") }
}
