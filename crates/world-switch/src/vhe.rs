//! Under VHE: the kernel is the hypervisor.

use core::arch::asm;
use regime::HostRegime;
use vcpu_context::{El1, GuestContext};

core::arch::global_asm!(
    include_str!("guest.s"),
    PC_X30 = const vcpu_context::offset::REGS + 240,
    PSTATE = const vcpu_context::offset::PSTATE,
);

// guest.s relies on these.
const _: () = assert!(vcpu_context::offset::REGS == 0);
const _: () = assert!(vcpu_context::offset::PC == 248);
const _: () = assert!(vcpu_context::offset::ESR_EL2 == vcpu_context::offset::PSTATE + 8);

/// HCR_EL2 for the host: E2H, TGE, RW; AMO, IMO, FMO are as if set under TGE.
pub const HCR_HOST: u64 = 1 << 34 | 1 << 27 | 1 << 31 | 0x38;

/// HCR_EL2.VSE: a virtual SError is pending.
const HCR_VSE: u64 = 1 << 8;

/// Answers an exit in the guest's HCR_EL2, interrupts masked: 0 resumes the
/// guest, anything else goes back to the caller of [`run`].
pub type Fast = extern "C" fn(context: *mut GuestContext, argument: *mut ()) -> u64;

/// [`run`]'s result: an interrupt of the host's is pending.
pub const EXIT_IRQ: u64 = 1 << 32;
/// [`run`]'s result: an SError from the guest; ESR_EL2 is in the context.
pub const EXIT_SERROR: u64 = 2 << 32;

unsafe extern "C" {
    fn __guest_run(context: *mut GuestContext, fast: Fast, argument: *mut ()) -> u64;
    fn __guest_vectors();
}

/// Enters the guest, and comes back when `fast` returns other than 0 (its
/// result) or an interrupt does (one of the constants above).
///
/// # Safety
/// The CPU is in the guest's world ([`World::enter`]) with this context's
/// registers loaded; interrupts are masked; `context` is valid and nobody
/// else's; `fast(context, argument)` is sound.
#[inline]
pub unsafe fn run(context: *mut GuestContext, fast: Fast, argument: *mut ()) -> u64 {
    // SAFETY: the caller's promise is what the routine needs.
    unsafe { __guest_run(context, fast, argument) }
}

/// The host's world, put aside while this CPU is in a guest's.
pub struct World {
    tpidr_el0: u64,
}

macro_rules! write {
    ($register:literal, $value:expr) => {
        asm!(concat!("msr ", $register, ", {}"), in(reg) $value, options(nostack, preserves_flags))
    };
}

macro_rules! read {
    ($register:literal) => {{
        let value: u64;
        asm!(concat!("mrs {}, ", $register), out(reg) value, options(nostack, preserves_flags));
        value
    }};
}

impl World {
    /// From the host's world to the guest's: HCR_EL2, vectors, and what EL0
    /// shares with the guest. `fp` says whether the guest's FP registers are
    /// in the hardware; if not, their use traps.
    ///
    /// # Safety
    /// `context` is loaded ([`load`]) and stays valid; interrupts are masked;
    /// until [`World::leave`] nothing runs that needs the host's regime (the
    /// token is taken for that).
    #[inline]
    pub unsafe fn enter(_regime: &mut HostRegime, context: &GuestContext, fp: bool) -> World {
        // SAFETY: see above. PSTATE legality was checked when it was set.
        unsafe {
            let world = World { tpidr_el0: read!("tpidr_el0") };
            write!("tpidr_el0", context.el1(El1::TPIDR_EL0));
            write!("tpidrro_el0", context.el1(El1::TPIDRRO_EL0));
            write!("sp_el0", context.sp_el0);
            allow_guest_fp(fp);
            write!("vbar_el2", __guest_vectors as *const () as u64);
            write!("hcr_el2", context.hcr_el2);
            // VBAR and HCR before the first instruction that relies on them:
            // ERET synchronises.
            world
        }
    }

    /// Back to the host's world. EL0's FP is trapped afterwards.
    ///
    /// # Safety
    /// The counterpart of [`World::enter`], on the same CPU.
    #[inline]
    pub unsafe fn leave(self, context: &mut GuestContext) {
        // SAFETY: the host's own values.
        unsafe {
            if context.hcr_el2 & HCR_VSE != 0 {
                // The CPU clears it once the guest has taken the SError.
                context.hcr_el2 = read!("hcr_el2");
            }
            write!("hcr_el2", HCR_HOST);
            write!("vbar_el2", arch::trap::vectors());
            arch::barrier::isb();
            context.sp_el0 = read!("sp_el0");
            context.set_el1(El1::TPIDR_EL0, read!("tpidr_el0"));
            context.set_el1(El1::TPIDRRO_EL0, read!("tpidrro_el0"));
            write!("tpidr_el0", self.tpidr_el0);
            write!("tpidrro_el0", 0u64);
            arch::host::allow_el0_fp(false);
        }
    }
}

/// In the guest's world: lets the guest use FP (CPTR_EL2.FPEN=0b11) or traps
/// it at EL0 and EL1 (0b00; under TGE=0 0b01 would trap nothing).
#[inline]
pub fn allow_guest_fp(allow: bool) {
    // TTA, TAM: trace units and activity monitors are the host's.
    const TRAPS: u64 = 1 << 28 | 1 << 30;
    let fpen: u64 = if allow { 0b11 << 20 } else { 0 };
    // SAFETY: the kernel itself is built soft-float; other bits stay zero: SVE
    // and SME trap (ZEN, SMEN = 0b00).
    unsafe { write!("cpacr_el1", TRAPS | fpen) }
}

/// FAR_EL2 and HPFAR_EL2 of the abort that just came from a guest.
#[inline]
pub fn read_abort(context: &mut GuestContext) {
    // SAFETY: reads.
    unsafe {
        context.far_el2 = read!("far_el2");
        context.hpfar_el2 = read!("hpfar_el2");
    }
}

/// Virtual addresses to guest physical ones, when HPFAR_EL2 isn't valid: asks
/// the MMU (AT S1E1R, Arm ARM D24.2). In the guest's world.
pub fn translate_guest(far: u64) -> Option<u64> {
    // SAFETY: AT changes PAR_EL1 only, which is the guest's: kept.
    unsafe {
        let par = read!("par_el1");
        asm!("at s1e1r, {}", "isb", in(reg) far, options(nostack));
        let result = read!("par_el1");
        write!("par_el1", par);
        (result & 1 == 0).then_some(result & 0x000f_ffff_ffff_f000)
    }
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

/// VSESR_EL2 for a virtual SError: IDS, an implementation-defined syndrome that
/// says nothing, as KVM gives it.
const VSESR_UNKNOWN: u64 = 1 << 24;

/// MDCR_EL2 bits for a guest: TDE is clear (its debug exceptions are its own),
/// TDA, TDOSA, TDRA: its debug registers trap; TPM, TPMCR: so does the PMU;
/// TPMS, TTRF: so do statistical profiling and trace filters.
const MDCR_TRAPS: u64 = 1 << 9 | 1 << 10 | 1 << 11 | 1 << 6 | 1 << 5 | 1 << 14 | 1 << 19;

/// ID_AA64PFR0_EL1.RAS: VDISR_EL2 and VSESR_EL2 exist.
fn has_ras() -> bool {
    // SAFETY: a read.
    unsafe { read!("id_aa64pfr0_el1") >> 28 & 0xf != 0 }
}

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

/// Copies the live virtual timer into the context.
///
/// # Safety
/// The vCPU is loaded on this CPU.
#[inline]
pub unsafe fn read_timer(context: &mut GuestContext) {
    // SAFETY: reads of guest registers.
    unsafe {
        context.timer.cntv_ctl = vhe_read!("cntv_ctl_el02");
        context.timer.cntv_cval = vhe_read!("cntv_cval_el02");
    }
}

/// The GIC's virtual CPU interface (GICv3 12.4).
pub mod gic {
    use core::arch::asm;

    /// Guests stay with the system registers: where the CPU has a GICv2's
    /// interface as well they could clear ICC_SRE_EL1.SRE, which is switched for
    /// nobody. From here on that traps (ICC_SRE_EL2.Enable, GICv3 12.4.4).
    ///
    /// # Safety
    /// The host runs at EL2, under VHE.
    pub unsafe fn keep_guests_in_system_registers() {
        // SAFETY: ICC_SRE_EL2.SRE is what EL2 itself obeys; boot has set it, and
        // ICC_SRE_EL1.SRE.
        unsafe {
            let sre = read!("S3_4_C12_C9_5");
            write!("S3_4_C12_C9_5", sre & !(1 << 3));
        }
    }

    /// ICH_VTR_EL2: how many list registers and so on.
    pub fn vtr() -> u64 {
        // SAFETY: a read.
        unsafe { read!("S3_4_C12_C11_1") }
    }

    macro_rules! registers {
        ($($index:literal => $name:literal,)+) => {
            /// List register `index`.
            #[inline]
            pub fn read_lr(index: u8) -> u64 {
                // SAFETY: reads.
                unsafe { match index { $($index => read!($name),)+ _ => 0 } }
            }

            /// Writes list register `index`.
            ///
            /// # Safety
            /// It exists (ICH_VTR_EL2.ListRegs), and a hardware interrupt it
            /// names belongs to the loaded guest.
            #[inline]
            pub unsafe fn write_lr(index: u8, value: u64) {
                // SAFETY: the caller's promise.
                unsafe { match index { $($index => write!($name, value),)+ _ => {} } }
            }
        };
    }

    registers! {
        0 => "S3_4_C12_C12_0", 1 => "S3_4_C12_C12_1", 2 => "S3_4_C12_C12_2",
        3 => "S3_4_C12_C12_3", 4 => "S3_4_C12_C12_4", 5 => "S3_4_C12_C12_5",
        6 => "S3_4_C12_C12_6", 7 => "S3_4_C12_C12_7", 8 => "S3_4_C12_C13_0",
        9 => "S3_4_C12_C13_1", 10 => "S3_4_C12_C13_2", 11 => "S3_4_C12_C13_3",
        12 => "S3_4_C12_C13_4", 13 => "S3_4_C12_C13_5", 14 => "S3_4_C12_C13_6",
        15 => "S3_4_C12_C13_7",
    }

    macro_rules! ich {
        ($($(#[$doc:meta])* $read:ident, $write:ident = $name:literal;)+) => {$(
            $(#[$doc])*
            #[inline]
            pub fn $read() -> u64 {
                // SAFETY: a read.
                unsafe { read!($name) }
            }

            $(#[$doc])*
            ///
            /// # Safety
            /// The loaded guest's value.
            #[inline]
            pub unsafe fn $write(value: u64) {
                // SAFETY: the caller's promise.
                unsafe { write!($name, value) }
            }
        )+};
    }

    ich! {
        /// ICH_HCR_EL2.
        hcr, set_hcr = "S3_4_C12_C11_0";
        /// ICH_VMCR_EL2.
        vmcr, set_vmcr = "S3_4_C12_C11_7";
        /// ICH_AP0R0_EL2.
        ap0r0, set_ap0r0 = "S3_4_C12_C8_0";
        /// ICH_AP0R1_EL2; with 6 or more preemption bits.
        ap0r1, set_ap0r1 = "S3_4_C12_C8_1";
        /// ICH_AP0R2_EL2; with 7 preemption bits.
        ap0r2, set_ap0r2 = "S3_4_C12_C8_2";
        /// ICH_AP0R3_EL2; with 7 preemption bits.
        ap0r3, set_ap0r3 = "S3_4_C12_C8_3";
        /// ICH_AP1R0_EL2.
        ap1r0, set_ap1r0 = "S3_4_C12_C9_0";
        /// ICH_AP1R1_EL2; with 6 or more preemption bits.
        ap1r1, set_ap1r1 = "S3_4_C12_C9_1";
        /// ICH_AP1R2_EL2; with 7 preemption bits.
        ap1r2, set_ap1r2 = "S3_4_C12_C9_2";
        /// ICH_AP1R3_EL2; with 7 preemption bits.
        ap1r3, set_ap1r3 = "S3_4_C12_C9_3";
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
    const MAX_PAGES: u64 = 64;
    let pages = len.div_ceil(4096);
    // SAFETY: forgetting translations is always sound. With TGE clear, nothing
    // but these instructions runs before it is set again.
    unsafe {
        arch::barrier::dsb_ishst();
        write!("vttbr_el2", vttbr_el2);
        write!("hcr_el2", HCR_HOST & !(1 << 27));
        arch::barrier::isb();
        if pages > MAX_PAGES {
            asm!("tlbi vmalls12e1is", options(nostack));
        } else {
            let first = start >> 12;
            for page in first..first.saturating_add(pages) {
                if last_level {
                    asm!("tlbi ipas2le1is, {}", in(reg) page, options(nostack));
                } else {
                    asm!("tlbi ipas2e1is, {}", in(reg) page, options(nostack));
                }
            }
            asm!("dsb ish", "tlbi vmalle1is", options(nostack));
        }
        arch::barrier::dsb_ish();
        write!("hcr_el2", HCR_HOST);
        write!("vttbr_el2", restore);
        arch::barrier::isb();
    }
}

/// Forgets the translations of all guests on this CPU.
pub fn flush_all_guests_local() {
    // SAFETY: forgetting translations is always sound. ALLE1 is by regime, in
    // any HCR_EL2.TGE.
    unsafe { asm!("dsb nshst", "tlbi alle1", "dsb nsh", "isb", options(nostack)) }
}

/// What VTTBR_EL2 holds.
pub fn vttbr() -> u64 {
    // SAFETY: a read.
    unsafe { read!("vttbr_el2") }
}
