//! At E2H=0 with the kernel itself at EL2 (Type-1 on CPUs without FEAT_VHE).
//!
//! EL1 is the guests' alone, and EL2's own registers have their own names and
//! their own translations: what the kernel does while a vCPU is loaded needs
//! neither TGE nor a change of HCR_EL2. So everything stays from load to put, the
//! thread registers and SP_EL0 too, but for the vectors and the FP trap, which at
//! E2H=0 holds at EL2 as well.

use crate::access::{read, write};
use crate::guest::{self, VSESR_UNKNOWN, forget, forget_here, has_ras};
use crate::nvhe::{CPTR_HOST, EL1PCTEN, allow_guest_fp, switch};
use crate::{Fast, HCR_VSE, Handlers, MDCR_TRAPS, SCTLR_M, TCR_EPD, Together, Vectors};
use arch::mitigation::Entry;
use cpuid::errata::STAGE2_FOR_STAGE1;
use regime::HostRegime;
use vcpu_context::{El1, GuestContext};

/// HCR_EL2 for the host, as boot has it: RW, API, APK; AMO, IMO, FMO.
const HCR_HOST: u64 = 1 << 31 | 3 << 40 | 0x38;

unsafe extern "C" {
    fn __e2h0_guest_run(
        context: *mut GuestContext,
        sync: Fast,
        argument: *mut (),
        irq: Fast,
    ) -> u64;
    fn __e2h0_guest_vectors();
    fn __e2h0_guest_vectors_loop();
    fn __e2h0_guest_vectors_instruction();
    fn __e2h0_guest_vectors_firmware();
}

/// The arrangement.
pub struct E2h0;

impl Together for E2h0 {
    /// The host's vectors.
    type World = u64;

    fn read_abort(context: &mut GuestContext) -> bool {
        // SAFETY: a read.
        let midr = unsafe { read!("midr_el1") };
        guest::read_abort(context, STAGE2_FOR_STAGE1.is_in(midr))
    }

    fn guest_vectors(entry: Entry) -> u64 {
        let vectors = match entry {
            Entry::Plain => __e2h0_guest_vectors,
            Entry::Loop => __e2h0_guest_vectors_loop,
            Entry::Instruction => __e2h0_guest_vectors_instruction,
            Entry::Firmware => __e2h0_guest_vectors_firmware,
        };
        vectors as unsafe extern "C" fn() as *const () as u64
    }

    #[inline]
    unsafe fn enter(
        _regime: &mut HostRegime,
        context: &GuestContext,
        fp: bool,
        vectors: Vectors,
    ) -> u64 {
        allow_guest_fp(fp);
        // SAFETY: the caller's promise. ERET synchronises.
        unsafe {
            write!("vbar_el2", vectors.guest);
            write!("hcr_el2", context.hcr_el2);
        }
        vectors.host
    }

    #[inline]
    unsafe fn leave(host_vectors: u64, context: &mut GuestContext) {
        // SAFETY: the host's own values.
        unsafe {
            if context.hcr_el2 & HCR_VSE != 0 {
                // The CPU clears it once the guest has taken the SError.
                context.hcr_el2 = read!("hcr_el2");
            }
            write!("cptr_el2", CPTR_HOST);
            write!("vbar_el2", host_vectors);
        }
        arch::barrier::isb();
    }

    #[inline]
    unsafe fn run(context: *mut GuestContext, handlers: Handlers, argument: *mut ()) -> u64 {
        // SAFETY: the caller's promise is what the routine needs.
        unsafe { __e2h0_guest_run(context, handlers.sync, argument, handlers.irq) }
    }

    #[inline]
    fn allow_guest_fp(allow: bool) {
        allow_guest_fp(allow);
    }
}

/// Makes the vCPU's EL1 registers, timers and stage 2 live in this CPU.
///
/// # Safety
/// Interrupts masked, no other vCPU loaded on this CPU, and this one on no
/// other. VTTBR and VTCR describe tables that live until [`put`].
pub unsafe fn load(context: &GuestContext, vtcr_el2: u64) {
    // SAFETY: see above; none of this acts on EL2. In the order of the errata in
    // `cpuid::errata`, which costs CPUs without them little here: walks are off
    // and stage 1 is on since `put` or reset, and what the guest has comes last.
    unsafe {
        stop_walks(read!("tcr_el1"), read!("sctlr_el1"));
        write!("vtcr_el2", vtcr_el2);
        write!("vttbr_el2", context.vttbr_el2);
        write!("vmpidr_el2", context.vmpidr_el2);
        write!("vpidr_el2", context.vpidr_el2);
        write!("sp_el0", context.sp_el0);
        switch::load(&context.el1, true);
        let direct = if context.timer.cntpoff == 0 { EL1PCTEN } else { 0 };
        write!("cnthctl_el2", direct);
        write!("cntvoff_el2", context.timer.cntvoff);
        write!("cntv_cval_el0", context.timer.cntv_cval);
        arch::barrier::isb();
        write!("cntv_ctl_el0", context.timer.cntv_ctl);
        if has_ras() {
            write!("S3_4_C12_C1_1", context.vdisr_el2);
            write!("S3_4_C5_C2_3", VSESR_UNKNOWN); // VSESR_EL2
        }
        write!("mdcr_el2", read!("mdcr_el2") | MDCR_TRAPS);
        write!("hcr_el2", context.hcr_el2);
        arch::barrier::isb();
        write!("sctlr_el1", context.el1(El1::SCTLR_EL1));
        arch::barrier::isb();
        write!("tcr_el1", context.el1(El1::TCR_EL1));
        arch::barrier::isb();
    }
}

/// Takes the vCPU's registers out of this CPU.
///
/// # Safety
/// The counterpart of [`load`].
pub unsafe fn put(context: &mut GuestContext) {
    // SAFETY: see above.
    unsafe {
        switch::save(&mut context.el1);
        context.sp_el0 = read!("sp_el0");
        crate::vhe::read_timer(context);
        write!("cntv_ctl_el0", 0u64);
        if has_ras() {
            context.vdisr_el2 = read!("S3_4_C12_C1_1");
        }
        write!("mdcr_el2", read!("mdcr_el2") & !MDCR_TRAPS);
        // Nothing is translated by what is left in EL1's registers.
        stop_walks(read!("tcr_el1"), read!("sctlr_el1"));
        write!("hcr_el2", HCR_HOST);
        write!("vttbr_el2", 0u64);
        arch::barrier::isb();
    }
}

/// No walks in EL1's regime, and no stage 1 that is off, which needs none.
///
/// # Safety
/// `tcr` and `sctlr` are what TCR_EL1 and SCTLR_EL1 hold; no guest runs until
/// they have a guest's values again.
unsafe fn stop_walks(tcr: u64, sctlr: u64) {
    // SAFETY: EL1's registers mean nothing to the host at EL2 with E2H=0.
    unsafe {
        write!("tcr_el1", tcr | TCR_EPD);
        arch::barrier::isb();
        write!("sctlr_el1", sctlr | SCTLR_M);
        arch::barrier::isb();
    }
}

/// Forgets translations of a guest, on all CPUs: a range of guest physical
/// addresses, or all of the VMID where `len` is `u64::MAX`.
///
/// # Safety
/// Interrupts are masked; `vttbr_el2` names the guest's VMID, and `restore` is
/// what VTTBR_EL2 holds now.
pub unsafe fn flush_guest(vttbr_el2: u64, restore: u64, start: u64, len: u64, last_level: bool) {
    arch::barrier::dsb_ishst();
    // SAFETY: the caller's promise.
    unsafe { as_guest(vttbr_el2, restore, || forget(start, len, last_level)) }
}

/// Forgets a guest's translations on this CPU: another of its vCPUs comes.
///
/// # Safety
/// As for [`flush_guest`].
pub unsafe fn flush_guest_local(vttbr_el2: u64, restore: u64) {
    // SAFETY: the caller's promise.
    unsafe { as_guest(vttbr_el2, restore, || forget_here()) }
}

/// `forget`s with this VTTBR_EL2.
///
/// # Safety
/// As for [`flush_guest`]; `forget` does no more than that.
unsafe fn as_guest(vttbr_el2: u64, restore: u64, forget: impl FnOnce()) {
    // SAFETY: forgetting translations is always sound. Nothing is translated in
    // EL1's regime under the wrong VMID: see `stop_walks`.
    unsafe {
        let (tcr, sctlr) = (read!("tcr_el1"), read!("sctlr_el1"));
        stop_walks(tcr, sctlr);
        write!("vttbr_el2", vttbr_el2);
        arch::barrier::isb();
        forget();
        write!("vttbr_el2", restore);
        arch::barrier::isb();
        write!("sctlr_el1", sctlr);
        arch::barrier::isb();
        write!("tcr_el1", tcr);
        arch::barrier::isb();
    }
}
