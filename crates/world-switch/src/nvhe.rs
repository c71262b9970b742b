//! At E2H=0, in `hyp`: host and guest share EL1, so that a guest's is switched, and what the
//! host has in it ([`Kept`]).
//!
//! While the host runs, memory is the truth of a vCPU's registers, but for:
//!
//! | in the hardware | until |
//! | --- | --- |
//! | FP/SIMD (`fp` here, `kernel/src/fp.rs` there) | somebody else needs them |
//! | CNTV: its compare value moved by CNTVOFF_EL2, which is 0 for the host | the vCPU is put |
//! | list registers and active priorities; ICH_HCR_EL2 is 0 | another vCPU is loaded |

use crate::access::{read, write};
use crate::{EXIT_IRQ, EXIT_SERROR, Fast, HCR_VSE, MDCR_TRAPS, SCTLR_M, TCR_EPD};
use arch::mitigation::Entry;
use core::arch::asm;
use vcpu_context::{El1, GuestContext};

pub use crate::gic;
pub use crate::guest::flush_all_guests_local;
use crate::guest::{self, VSESR_UNKNOWN, has_ras};

const _: () = assert!(EXIT_IRQ != EXIT_SERROR);

unsafe extern "C" {
    fn __hyp_guest_run(context: *mut GuestContext, fast: Fast, argument: *mut ()) -> u64;
    fn __hyp_guest_vectors();
    fn __hyp_guest_vectors_loop();
    fn __hyp_guest_vectors_instruction();
    fn __hyp_guest_vectors_firmware();
}

/// The vectors for guests on a CPU that `entry` is for. Its TPIDR_EL2 points to
/// a [`PerCpu`](arch::mitigation::PerCpu).
fn guest_vectors(entry: Entry) -> u64 {
    let vectors = match entry {
        Entry::Plain => __hyp_guest_vectors,
        Entry::Loop => __hyp_guest_vectors_loop,
        Entry::Instruction => __hyp_guest_vectors_instruction,
        Entry::Firmware => __hyp_guest_vectors_firmware,
    };
    vectors as unsafe extern "C" fn() as *const () as u64
}

/// HCR_EL2 for the host: RW; API and APK, or EL0's PACGA, which nothing at EL1
/// can disable, would trap to EL2.
pub const HCR_HOST: u64 = 1 << 31 | 3 << 40;
/// HCR_EL2 bits that a guest always runs with: VM, FMO, IMO, AMO, TSC, RW.
const HCR_GUEST: u64 = 1 | 7 << 3 | 1 << 19 | 1 << 31;
/// HCR_EL2 bits that nobody may set: TGE, HCD, E2H, NV, NV1, NV2.
const HCR_NEVER: u64 = 1 << 27 | 1 << 29 | 1 << 34 | 1 << 42 | 1 << 43 | 1 << 45;

/// CPTR_EL2 at E2H=0: RES1 bits, with SVE and SME trapped, FP not.
pub(crate) const CPTR_HOST: u64 = 0x33ff;
/// TFP; TTA, TAM.
const CPTR_TFP: u64 = 1 << 10;
const CPTR_GUEST: u64 = CPTR_HOST | 1 << 20 | 1 << 30;

/// CNTHCTL_EL2 at E2H=0: EL1PCTEN, EL1PCEN.
const CNTHCTL_HOST: u64 = 3;
/// EL1PCTEN alone: CNTPCT_EL0 doesn't trap, and shows the machine's count; the
/// physical timer does.
pub(crate) const EL1PCTEN: u64 = 1;

/// The host's registers while a guest runs.
#[derive(Debug)]
pub struct HostState {
    /// What [`Kept`] says.
    el1: [u64; vcpu_context::EL1_COUNT],
    sp_el0: u64,
    /// What the host reads as MIDR_EL1 and MPIDR_EL1: the CPU's own.
    vpidr_el2: u64,
    vmpidr_el2: u64,
    mdcr_el2: u64,
    /// The CPU has an erratum of `errata::SPECULATIVE_AT`.
    speculative_at: bool,
    /// The CPU has `errata::STAGE2_FOR_STAGE1`.
    doubtful_aborts: bool,
    /// FEAT_RAS: the guest has a DISR_EL1 of its own.
    ras: bool,
    /// Vectors while the host runs.
    vbar_el2: u64,
    /// MDCR_EL2 and vectors while a guest does.
    guest_mdcr: u64,
    guest_vectors: u64,
}

macro_rules! el1_read {
    ($register:literal) => {{
        let value: u64;
        // Not memory, as far as this program is concerned: EL1's registers mean
        // nothing to it. So neighbours can be stored in pairs.
        asm!(concat!("mrs {}, ", $register), out(reg) value,
             options(nomem, nostack, preserves_flags));
        value
    }};
}

macro_rules! el1_write {
    ($register:literal, $value:expr) => {
        asm!(concat!("msr ", $register, ", {}"), in(reg) $value,
             options(nomem, nostack, preserves_flags))
    };
}

macro_rules! define_el1_switch {
    ($(($variant:ident, $nvhe:literal, $vhe:literal, $encoding:tt),)+) => {
        /// EL1's registers to memory, those that are `wanted`.
        #[inline(always)]
        unsafe fn save_el1(to: &mut [u64; vcpu_context::EL1_COUNT], wanted: impl Fn(El1) -> bool) {
            let [$($variant),+] = *to;
            // SAFETY: reads.
            unsafe {
                *to = [$(if wanted(El1::$variant) { el1_read!($nvhe) } else { $variant }),+];
            }
        }

        /// EL1's registers from memory, those that are `wanted`.
        #[inline(always)]
        unsafe fn load_el1(from: &[u64; vcpu_context::EL1_COUNT], wanted: impl Fn(El1) -> bool) {
            let [$($variant),+] = *from;
            $(
                if wanted(El1::$variant) {
                    // SAFETY: EL1's registers don't affect EL2 at E2H=0.
                    unsafe { el1_write!($nvhe, $variant) };
                }
            )+
        }
    };
}

#[allow(non_snake_case, reason = "the Arm ARM's names")]
pub(crate) mod switch {
    use super::{El1, Kept, asm};
    vcpu_context::el1_registers!(define_el1_switch);

    /// Where the order of changes matters, these are left for last.
    const fn translates(register: El1) -> bool {
        matches!(register, El1::SCTLR_EL1 | El1::TCR_EL1)
    }

    #[inline(always)]
    unsafe fn load_in_order(
        from: &[u64; vcpu_context::EL1_COUNT],
        translation_last: bool,
        wanted: impl Fn(El1) -> bool,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            if translation_last {
                load_el1(from, |register| wanted(register) && !translates(register));
            } else {
                load_el1(from, wanted);
            }
        }
    }

    /// A guest's.
    #[inline(always)]
    pub unsafe fn load(from: &[u64; vcpu_context::EL1_COUNT], translation_last: bool) {
        // SAFETY: the caller's promise.
        unsafe { load_in_order(from, translation_last, |_| true) }
    }

    pub unsafe fn save(to: &mut [u64; vcpu_context::EL1_COUNT]) {
        // SAFETY: the caller's promise.
        unsafe { save_el1(to, |_| true) }
    }

    /// The host's.
    #[inline(always)]
    pub unsafe fn load_host(from: &[u64; vcpu_context::EL1_COUNT], translation_last: bool) {
        // SAFETY: the caller's promise.
        unsafe { load_in_order(from, translation_last, |r| Kept::of(r) != Kept::Not) }
    }

    #[inline(always)]
    pub unsafe fn save_host(to: &mut [u64; vcpu_context::EL1_COUNT]) {
        // SAFETY: the caller's promise.
        unsafe { save_el1(to, |register| Kept::of(register) == Kept::Each) }
    }
}

/// What the host at EL1 finds in a register after a guest ran (`hyp_abi::Call::Run`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// What the guest had there. The host calls with interrupts masked, and with nothing
    /// in these: it uses none of them before it, or an exception, has set it anew.
    Not,
    /// What it was when the host entered `hyp` on this CPU: boot had set it, if anybody,
    /// and nobody does afterwards.
    SinceInit,
    /// What it was before.
    Each,
}

impl Kept {
    const fn of(register: El1) -> Kept {
        match register {
            El1::ELR_EL1 | El1::SPSR_EL1 | El1::ESR_EL1 | El1::FAR_EL1 => Kept::Not,
            El1::AFSR0_EL1 | El1::AFSR1_EL1 | El1::PAR_EL1 | El1::CSSELR_EL1 => Kept::Not,
            El1::VBAR_EL1 | El1::CONTEXTIDR_EL1 | El1::CNTKCTL_EL1 => Kept::SinceInit,
            // EL0 could read what a guest had there.
            El1::TPIDRRO_EL0 => Kept::SinceInit,
            El1::MAIR_EL1 | El1::AMAIR_EL1 | El1::TTBR1_EL1 => Kept::SinceInit,
            El1::TCR_EL1 | El1::SCTLR_EL1 => Kept::SinceInit,
            El1::SP_EL1 | El1::TPIDR_EL1 | El1::TPIDR_EL0 => Kept::Each,
            El1::CPACR_EL1 | El1::TTBR0_EL1 => Kept::Each,
        }
    }
}

impl HostState {
    /// For this CPU, whose vectors for the host are at `vbar_el2`; exits from
    /// guests begin with `entry`. At EL2; the host's world is live, and EL1 as boot
    /// leaves it.
    pub fn new(vbar_el2: u64, entry: Entry) -> HostState {
        let mut el1 = [0; vcpu_context::EL1_COUNT];
        // SAFETY: reads.
        let (midr, mpidr, mdcr_el2) = unsafe {
            switch::save(&mut el1);
            (read!("midr_el1"), read!("mpidr_el1"), read!("mdcr_el2"))
        };
        if cpuid::errata::repeat_tlbi(midr).is_some() {
            arch::tlb::repeat();
        }
        let ras = has_ras();
        if ras {
            // SAFETY: VSESR_EL2, which FEAT_RAS has. A virtual SError alone reads it (Arm
            // ARM, VSESR_EL2), and HCR_HOST lets none be pending.
            unsafe { write!("S3_4_C5_C2_3", VSESR_UNKNOWN) }
        }
        HostState {
            el1,
            sp_el0: 0,
            vpidr_el2: midr,
            vmpidr_el2: mpidr,
            mdcr_el2,
            speculative_at: cpuid::errata::speculative_at(midr).is_some(),
            doubtful_aborts: cpuid::errata::STAGE2_FOR_STAGE1.is_in(midr),
            ras,
            vbar_el2,
            guest_mdcr: mdcr_el2 | MDCR_TRAPS,
            guest_vectors: guest_vectors(entry),
        }
    }

    /// FAR_EL2 and HPFAR_EL2 of the abort that just came from a guest, in its world.
    /// False: let it fault again.
    #[inline]
    pub fn read_abort(&self, context: &mut GuestContext) -> bool {
        guest::read_abort(context, self.doubtful_aborts)
    }

    /// From the host's world to the guest's. `fp` says whether the guest's FP
    /// registers are in the hardware; if not, their use traps.
    ///
    /// # Safety
    /// At EL2, E2H=0; the host's world is live and is put aside here. VTTBR and
    /// VTCR describe tables that live until [`HostState::leave`]. PSTATE in the
    /// context names EL1 or EL0.
    #[inline]
    pub unsafe fn enter(&mut self, context: &GuestContext, vtcr_el2: u64, fp: bool) {
        // SAFETY: see above.
        unsafe {
            switch::save_host(&mut self.el1);
            self.sp_el0 = read!("sp_el0");
            if self.speculative_at {
                write!("tcr_el1", read!("tcr_el1") | TCR_EPD);
                arch::barrier::isb();
            }
            write!("vtcr_el2", vtcr_el2);
            write!("vttbr_el2", context.vttbr_el2);
            write!("vmpidr_el2", context.vmpidr_el2);
            write!("vpidr_el2", context.vpidr_el2);
            write!("sp_el0", context.sp_el0);
            switch::load(&context.el1, self.speculative_at);
            let direct = if context.timer.cntpoff == 0 { EL1PCTEN } else { 0 };
            write!("cnthctl_el2", direct);
            if self.ras {
                write!("S3_4_C12_C1_1", context.vdisr_el2);
            }
            // The offset first: between the two the timer's line may fall, but
            // not rise, as long as counts don't go backwards.
            write!("cntvoff_el2", context.timer.cntvoff);
            write!("cntv_cval_el0", context.timer.cntv_cval);
            write!("cntv_ctl_el0", context.timer.cntv_ctl);
            allow_guest_fp(fp);
            write!("mdcr_el2", self.guest_mdcr);
            write!("vbar_el2", self.guest_vectors);
            write!("hcr_el2", context.hcr_el2 & !HCR_NEVER | HCR_GUEST);
            if self.speculative_at {
                arch::barrier::isb();
                write!("sctlr_el1", context.el1(El1::SCTLR_EL1));
                arch::barrier::isb();
                write!("tcr_el1", context.el1(El1::TCR_EL1));
            }
            // ERET synchronises the rest.
        }
    }

    /// Back to the host's world.
    ///
    /// # Safety
    /// The counterpart of [`HostState::enter`], on the same CPU.
    #[inline]
    pub unsafe fn leave(&mut self, context: &mut GuestContext) {
        // SAFETY: the host's own values.
        unsafe {
            switch::save(&mut context.el1);
            context.sp_el0 = read!("sp_el0");
            if context.hcr_el2 & HCR_VSE != 0 {
                // The CPU clears it once the guest has taken the SError.
                context.hcr_el2 = context.hcr_el2 & !HCR_VSE | read!("hcr_el2") & HCR_VSE;
            }
            if self.ras {
                context.vdisr_el2 = read!("S3_4_C12_C1_1");
            }
            context.timer.cntv_ctl = read!("cntv_ctl_el0");
            let cval = read!("cntv_cval_el0");
            context.timer.cntv_cval = cval;
            // The same moment by the host's counter: an interrupt that is
            // pending stays so, and one that is due meanwhile comes. What lies
            // past the counter's end must not come round to its start.
            let moment = cval.saturating_add_signed(context.timer.cntvoff as i64);
            write!("cntv_cval_el0", moment);
            write!("cntvoff_el2", 0u64);
            write!("cnthctl_el2", CNTHCTL_HOST);
            self.restore();
        }
    }

    /// What the host needs of EL1 and EL2, whatever is there now.
    ///
    /// # Safety
    /// The host's world was put aside here.
    #[inline]
    unsafe fn restore(&mut self) {
        // SAFETY: the host's own values.
        unsafe {
            if self.speculative_at {
                write!("tcr_el1", read!("tcr_el1") | TCR_EPD);
                arch::barrier::isb();
                write!("sctlr_el1", read!("sctlr_el1") | SCTLR_M);
                arch::barrier::isb();
            }
            switch::load_host(&self.el1, self.speculative_at);
            write!("sp_el0", self.sp_el0);
            write!("cptr_el2", CPTR_HOST);
            write!("mdcr_el2", self.mdcr_el2);
            write!("vbar_el2", self.vbar_el2);
            write!("hcr_el2", HCR_HOST);
            // VMID 0 is the host's own.
            write!("vttbr_el2", 0u64);
            write!("vpidr_el2", self.vpidr_el2);
            write!("vmpidr_el2", self.vmpidr_el2);
            if self.speculative_at {
                let [.., tcr, sctlr] = self.el1;
                arch::barrier::isb();
                write!("sctlr_el1", sctlr);
                arch::barrier::isb();
                write!("tcr_el1", tcr);
            }
        }
    }

    /// The host's world once more, to hear of a failure: whatever was live.
    ///
    /// # Safety
    /// As for [`HostState::leave`]; the guest's state is lost.
    pub unsafe fn abandon_guest(&mut self) {
        // SAFETY: the host's own values; no list register is in use afterwards,
        // and the guest's timer is off.
        unsafe {
            write!("cntv_ctl_el0", 0u64);
            write!("cntvoff_el2", 0u64);
            write!("cnthctl_el2", CNTHCTL_HOST);
            self.restore();
            arch::barrier::isb();
        }
    }

    /// Forgets translations of a guest, on all CPUs: a range of guest physical
    /// addresses, or all of the VMID where `len` is `u64::MAX`.
    ///
    /// # Safety
    /// The host's world is live.
    pub unsafe fn flush_guest(&self, vmid: u16, start: u64, len: u64, last_level: bool) {
        arch::barrier::dsb_ishst();
        // SAFETY: the caller's promise; TGE is clear at EL2 with E2H=0.
        unsafe { self.as_guest(vmid, || guest::forget(start, len, last_level)) }
    }

    /// Forgets a guest's translations on this CPU.
    ///
    /// # Safety
    /// The host's world is live.
    pub unsafe fn flush_guest_local(&self, vmid: u16) {
        // SAFETY: as above.
        unsafe { self.as_guest(vmid, || guest::forget_here()) }
    }

    /// `forget`s with this VMID in VTTBR_EL2.
    ///
    /// # Safety
    /// The host's world is live; `forget` does no more than that.
    unsafe fn as_guest(&self, vmid: u16, forget: impl FnOnce()) {
        // SAFETY: forgetting translations is always sound; VTTBR names the VMID
        // for nothing but that.
        unsafe {
            let tcr = read!("tcr_el1");
            if self.speculative_at {
                write!("tcr_el1", tcr | TCR_EPD);
                arch::barrier::isb();
            }
            write!("vttbr_el2", u64::from(vmid) << 48);
            arch::barrier::isb();
            forget();
            write!("vttbr_el2", 0u64);
            arch::barrier::isb();
            if self.speculative_at {
                write!("tcr_el1", tcr);
                arch::barrier::isb();
            }
        }
    }
}

const _: () = {
    // `restore` finds the two by their place.
    assert!(El1::SCTLR_EL1 as usize == vcpu_context::EL1_COUNT - 1);
    assert!(El1::TCR_EL1 as usize == vcpu_context::EL1_COUNT - 2);
};

/// Lets the guest use FP, or traps it. At E2H=0 the trap holds at EL2, too.
#[inline]
pub fn allow_guest_fp(allow: bool) {
    let tfp = if allow { 0 } else { CPTR_TFP };
    // SAFETY: this program is built soft-float.
    unsafe { write!("cptr_el2", CPTR_GUEST | tfp) }
}

/// Enters the guest, and comes back when `fast` returns other than 0 (its
/// result) or an interrupt does (`EXIT_IRQ`, `EXIT_SERROR`).
///
/// # Safety
/// In the guest's world ([`HostState::enter`]); interrupts are masked;
/// `context` is valid and nobody else's; `fast(context, argument)` is sound.
#[inline]
pub unsafe fn run(context: *mut GuestContext, fast: Fast, argument: *mut ()) -> u64 {
    // SAFETY: the caller's promise is what the routine needs. It changes
    // ELR_EL2 and SPSR_EL2, which lead back to the host.
    unsafe {
        let (elr, spsr) = (read!("elr_el2"), read!("spsr_el2"));
        let why = __hyp_guest_run(context, fast, argument);
        write!("elr_el2", elr);
        write!("spsr_el2", spsr);
        why
    }
}
