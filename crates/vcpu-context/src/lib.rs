//! A vCPU's registers as plain data, laid out in the order in which the world
//! switch reaches them.
//!
//! * The first five cache lines, [`GuestContext::regs`] to
//!   [`GuestContext::hpfar_el2`], are what an exit saves: x0-x30, ELR_EL2,
//!   SPSR_EL2 and the syndrome, in pairs for LDP/STP, all within their reach
//!   (offset < 512). Nothing else is touched by an exit that is answered at once.
//! * The rest is loaded and put when a vCPU takes or leaves a CPU. The EL1
//!   registers have one list, [`el1_registers!`], from which both drivers (VHE
//!   with the `_EL12` names, nVHE with the `_EL1` names) and the ONE_REG
//!   interface are made.
//!
//! Offsets for assembly are in [`offset`].
#![no_std]
#![forbid(unsafe_code)]

/// Calls `$callback! { (Variant, nvhe name, VHE name, (op0, op1, CRn, CRm, op2)), ... }`
/// with every EL1 (and EL0) register that a guest owns while its vCPU is loaded.
///
/// The name under VHE is the `_EL12` alias where HCR_EL2.E2H redirects the
/// plain name to EL2; SP_EL1, PAR_EL1, TPIDR_EL1, the EL0 thread registers and
/// CSSELR_EL1 have no alias (Arm ARM D13, "EL2 Host"). The order is the order in
/// memory; it has the registers that translate last, so that a driver that
/// walks it can write SCTLR_EL1 and TCR_EL1 after the tables they use.
#[macro_export]
macro_rules! el1_registers {
    ($callback:ident) => {
        $callback! {
            (SP_EL1, "SP_EL1", "SP_EL1", (3, 4, 4, 1, 0)),
            (ELR_EL1, "ELR_EL1", "ELR_EL12", (3, 0, 4, 0, 1)),
            (SPSR_EL1, "SPSR_EL1", "SPSR_EL12", (3, 0, 4, 0, 0)),
            (ESR_EL1, "ESR_EL1", "ESR_EL12", (3, 0, 5, 2, 0)),
            (FAR_EL1, "FAR_EL1", "FAR_EL12", (3, 0, 6, 0, 0)),
            (AFSR0_EL1, "AFSR0_EL1", "AFSR0_EL12", (3, 0, 5, 1, 0)),
            (AFSR1_EL1, "AFSR1_EL1", "AFSR1_EL12", (3, 0, 5, 1, 1)),
            (PAR_EL1, "PAR_EL1", "PAR_EL1", (3, 0, 7, 4, 0)),
            (VBAR_EL1, "VBAR_EL1", "VBAR_EL12", (3, 0, 12, 0, 0)),
            (CONTEXTIDR_EL1, "CONTEXTIDR_EL1", "CONTEXTIDR_EL12", (3, 0, 13, 0, 1)),
            (TPIDR_EL1, "TPIDR_EL1", "TPIDR_EL1", (3, 0, 13, 0, 4)),
            (TPIDR_EL0, "TPIDR_EL0", "TPIDR_EL0", (3, 3, 13, 0, 2)),
            (TPIDRRO_EL0, "TPIDRRO_EL0", "TPIDRRO_EL0", (3, 3, 13, 0, 3)),
            (CNTKCTL_EL1, "CNTKCTL_EL1", "CNTKCTL_EL12", (3, 0, 14, 1, 0)),
            (CSSELR_EL1, "CSSELR_EL1", "CSSELR_EL1", (3, 2, 0, 0, 0)),
            (CPACR_EL1, "CPACR_EL1", "CPACR_EL12", (3, 0, 1, 0, 2)),
            (MAIR_EL1, "MAIR_EL1", "MAIR_EL12", (3, 0, 10, 2, 0)),
            (AMAIR_EL1, "AMAIR_EL1", "AMAIR_EL12", (3, 0, 10, 3, 0)),
            (TTBR0_EL1, "TTBR0_EL1", "TTBR0_EL12", (3, 0, 2, 0, 0)),
            (TTBR1_EL1, "TTBR1_EL1", "TTBR1_EL12", (3, 0, 2, 0, 1)),
            (TCR_EL1, "TCR_EL1", "TCR_EL12", (3, 0, 2, 0, 2)),
            (SCTLR_EL1, "SCTLR_EL1", "SCTLR_EL12", (3, 0, 1, 0, 0)),
        }
    };
}

macro_rules! define_el1 {
    ($(($variant:ident, $nvhe:literal, $vhe:literal, ($op0:literal, $op1:literal, $crn:literal, $crm:literal, $op2:literal)),)+) => {
        /// A register of [`el1_registers!`]; indexes [`GuestContext::el1`].
        #[allow(non_camel_case_types, reason = "the Arm ARM's names")]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(usize)]
        pub enum El1 {
            $(
                #[doc = concat!("`", $nvhe, "`, under VHE `", $vhe, "`.")]
                $variant,
            )+
        }

        impl El1 {
            /// Every register, in the order of memory.
            pub const ALL: &[El1] = &[$(El1::$variant,)+];

            /// The register's name in the Arm ARM.
            pub const fn name(self) -> &'static str {
                match self { $(El1::$variant => $nvhe,)+ }
            }

            /// Its encoding in MRS/MSR: (op0, op1, CRn, CRm, op2).
            pub const fn encoding(self) -> (u8, u8, u8, u8, u8) {
                match self { $(El1::$variant => ($op0, $op1, $crn, $crm, $op2),)+ }
            }
        }
    };
}
el1_registers!(define_el1);

/// How many registers [`el1_registers!`] has.
pub const EL1_COUNT: usize = El1::ALL.len();

/// FP and SIMD registers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct FpState {
    /// v0 to v31.
    pub v: [u128; 32],
    /// FPSR.
    pub fpsr: u64,
    /// FPCR.
    pub fpcr: u64,
}

/// The guest's two timers, as the hardware holds them while loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TimerState {
    /// CNTV_CTL_EL0 (under VHE by `_EL02`).
    pub cntv_ctl: u64,
    /// CNTV_CVAL_EL0.
    pub cntv_cval: u64,
    /// CNTVOFF_EL2.
    pub cntvoff: u64,
    /// CNTP_CTL_EL0, emulated unless FEAT_ECV gives CNTPOFF_EL2.
    pub cntp_ctl: u64,
    /// CNTP_CVAL_EL0.
    pub cntp_cval: u64,
    /// CNTPOFF_EL2, or what emulation subtracts.
    pub cntpoff: u64,
}

/// One vCPU's registers. See the crate's documentation for the order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct GuestContext {
    /// x0 to x30.
    pub regs: [u64; 31],
    /// The program counter: ELR_EL2 at exit and entry. Pairs with x30.
    pub pc: u64,
    /// PSTATE: SPSR_EL2 at exit and entry.
    pub pstate: u64,
    /// ESR_EL2 of the last exit. Pairs with PSTATE.
    pub esr_el2: u64,
    /// FAR_EL2 of the last abort.
    pub far_el2: u64,
    /// HPFAR_EL2 of the last abort. Pairs with FAR_EL2.
    pub hpfar_el2: u64,
    /// HCR_EL2 while the guest runs.
    pub hcr_el2: u64,
    /// VTTBR_EL2: the VMID and the stage-2 root.
    pub vttbr_el2: u64,
    /// SP_EL0.
    pub sp_el0: u64,
    /// VMPIDR_EL2: what the guest reads as MPIDR_EL1.
    pub vmpidr_el2: u64,
    /// VPIDR_EL2: what the guest reads as MIDR_EL1.
    pub vpidr_el2: u64,
    /// MDSCR_EL1 as the guest sees it; debug registers are trapped (MDCR_EL2.TDA).
    pub mdscr_el1: u64,
    /// VDISR_EL2, which the guest reads and writes as DISR_EL1 (FEAT_RAS).
    pub vdisr_el2: u64,
    /// The registers of [`El1`].
    pub el1: [u64; EL1_COUNT],
    /// The timers.
    pub timer: TimerState,
    /// FP and SIMD registers.
    pub fp: FpState,
}

/// SCTLR_EL1 at reset: the RES1 bits of Armv8.0 (Arm ARM D19.2, as KVM's guests
/// find it): MMU, caches and alignment checks off.
pub const SCTLR_EL1_RESET: u64 = 0x00c5_0078;

/// PSTATE at reset: EL1h, with D, A, I and F masked.
pub const PSTATE_RESET: u64 = 0x3c5;

impl GuestContext {
    /// The state at reset, with every register that the Arm ARM leaves UNKNOWN
    /// zero.
    pub const fn new() -> Self {
        let mut context = GuestContext {
            regs: [0; 31],
            pc: 0,
            pstate: PSTATE_RESET,
            esr_el2: 0,
            far_el2: 0,
            hpfar_el2: 0,
            hcr_el2: 0,
            vttbr_el2: 0,
            sp_el0: 0,
            vmpidr_el2: 0,
            vpidr_el2: 0,
            mdscr_el1: 0,
            vdisr_el2: 0,
            el1: [0; EL1_COUNT],
            timer: TimerState {
                cntv_ctl: 0,
                cntv_cval: 0,
                cntvoff: 0,
                cntp_ctl: 0,
                cntp_cval: 0,
                cntpoff: 0,
            },
            fp: FpState { v: [0; 32], fpsr: 0, fpcr: 0 },
        };
        context.set_el1(El1::SCTLR_EL1, SCTLR_EL1_RESET);
        context
    }

    /// General-purpose register `n`; 31 is XZR.
    #[inline(always)]
    pub const fn x(&self, n: u8) -> u64 {
        if n < 31 {
            #[expect(clippy::indexing_slicing, reason = "checked above")]
            self.regs[n as usize]
        } else {
            0
        }
    }

    /// Writes general-purpose register `n`; writes to 31 (XZR) are lost.
    #[inline(always)]
    pub const fn set_x(&mut self, n: u8, value: u64) {
        if n < 31 {
            #[expect(clippy::indexing_slicing, reason = "checked above")]
            {
                self.regs[n as usize] = value;
            }
        }
    }

    /// What PSTATE says about the exception level may come from the VMM: nothing
    /// but EL0t, EL1t and EL1h in AArch64 is entered. Anything else becomes an
    /// illegal state, which the guest takes as an exception (Arm ARM D1.3.4).
    #[inline]
    pub const fn legalize(&mut self) {
        const MODE: u64 = 0x1f;
        const IL: u64 = 1 << 20;
        const EL1H: u64 = 5;
        if !matches!(self.pstate & MODE, 0 | 4 | EL1H) {
            self.pstate = self.pstate & !MODE | EL1H | IL;
        }
    }

    /// An EL1 register.
    #[inline(always)]
    pub const fn el1(&self, register: El1) -> u64 {
        #[expect(clippy::indexing_slicing, reason = "the enum has EL1_COUNT variants")]
        self.el1[register as usize]
    }

    /// Writes an EL1 register.
    #[inline(always)]
    pub const fn set_el1(&mut self, register: El1, value: u64) {
        #[expect(clippy::indexing_slicing, reason = "the enum has EL1_COUNT variants")]
        {
            self.el1[register as usize] = value;
        }
    }
}

impl Default for GuestContext {
    fn default() -> Self {
        Self::new()
    }
}

/// Byte offsets in [`GuestContext`], for assembly.
pub mod offset {
    use super::{El1, FpState, GuestContext, TimerState};
    use core::mem::offset_of;

    /// x0; register n is at `REGS + 8 * n`.
    pub const REGS: usize = offset_of!(GuestContext, regs);
    /// ELR_EL2.
    pub const PC: usize = offset_of!(GuestContext, pc);
    /// SPSR_EL2.
    pub const PSTATE: usize = offset_of!(GuestContext, pstate);
    /// ESR_EL2.
    pub const ESR_EL2: usize = offset_of!(GuestContext, esr_el2);
    /// FAR_EL2.
    pub const FAR_EL2: usize = offset_of!(GuestContext, far_el2);
    /// HPFAR_EL2.
    pub const HPFAR_EL2: usize = offset_of!(GuestContext, hpfar_el2);
    /// HCR_EL2.
    pub const HCR_EL2: usize = offset_of!(GuestContext, hcr_el2);
    /// VTTBR_EL2.
    pub const VTTBR_EL2: usize = offset_of!(GuestContext, vttbr_el2);
    /// SP_EL0.
    pub const SP_EL0: usize = offset_of!(GuestContext, sp_el0);
    /// VMPIDR_EL2.
    pub const VMPIDR_EL2: usize = offset_of!(GuestContext, vmpidr_el2);
    /// VPIDR_EL2.
    pub const VPIDR_EL2: usize = offset_of!(GuestContext, vpidr_el2);
    /// MDSCR_EL1.
    pub const MDSCR_EL1: usize = offset_of!(GuestContext, mdscr_el1);
    /// The first of the EL1 registers.
    pub const EL1: usize = offset_of!(GuestContext, el1);
    /// CNTV_CTL_EL0.
    pub const CNTV_CTL: usize = offset_of!(GuestContext, timer) + offset_of!(TimerState, cntv_ctl);
    /// CNTV_CVAL_EL0.
    pub const CNTV_CVAL: usize =
        offset_of!(GuestContext, timer) + offset_of!(TimerState, cntv_cval);
    /// CNTVOFF_EL2.
    pub const CNTVOFF: usize = offset_of!(GuestContext, timer) + offset_of!(TimerState, cntvoff);
    /// v0; register n is at `FP_V + 16 * n`.
    pub const FP_V: usize = offset_of!(GuestContext, fp) + offset_of!(FpState, v);
    /// FPSR.
    pub const FPSR: usize = offset_of!(GuestContext, fp) + offset_of!(FpState, fpsr);
    /// FPCR.
    pub const FPCR: usize = offset_of!(GuestContext, fp) + offset_of!(FpState, fpcr);
    /// The size of the whole.
    pub const SIZE: usize = size_of::<GuestContext>();

    /// Where an EL1 register is.
    pub const fn el1(register: El1) -> usize {
        EL1.wrapping_add((register as usize).wrapping_mul(8))
    }

    // What the save code relies on: pairs are adjacent, 16-byte aligned for
    // x0/x1, and in LDP's reach.
    const _: () = {
        assert!(REGS == 0);
        assert!(PC == 31 * 8);
        assert!(PSTATE == 256 && ESR_EL2 == 264);
        assert!(FAR_EL2 == 272 && HPFAR_EL2 == 280);
        assert!(HCR_EL2 == 288 && VTTBR_EL2 == 296);
        assert!(FP_V.is_multiple_of(16));
        assert!(CNTV_CVAL == CNTV_CTL + 8);
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_distinct() {
        for (i, a) in El1::ALL.iter().enumerate() {
            assert_eq!(*a as usize, i);
            for b in El1::ALL.iter().skip(i + 1) {
                assert_ne!(a.encoding(), b.encoding(), "{a:?} {b:?}");
                assert_ne!(a.name(), b.name());
            }
        }
    }

    #[test]
    fn xzr_reads_zero_and_ignores_writes() {
        let mut context = GuestContext::new();
        context.set_x(31, 5);
        context.set_x(30, 7);
        assert_eq!(context.x(31), 0);
        assert_eq!(context.x(30), 7);
        assert_eq!(context.pc, 0);
    }

    #[test]
    fn no_other_exception_level_is_entered() {
        let mut context = GuestContext::new();
        for mode in 0..32 {
            context.pstate = 0x3c0 | mode;
            context.legalize();
            match mode {
                0 | 4 | 5 => assert_eq!(context.pstate, 0x3c0 | mode),
                // EL2, EL3, AArch32, reserved.
                _ => assert_eq!(context.pstate, 0x3c5 | 1 << 20, "{mode}"),
            }
        }
    }

    #[test]
    fn reset_state() {
        let context = GuestContext::default();
        assert_eq!(context.el1(El1::SCTLR_EL1), SCTLR_EL1_RESET);
        assert_eq!(context.pstate, 0x3c5);
        assert_eq!(offset::SIZE % 64, 0);
    }
}
