//! Exceptions given to the guest at EL1, as AArch64.TakeException does it
//! (Arm ARM J1.1.2), and stepping over an emulated instruction.

use crate::esr::{Esr, IL, ec};
use vcpu_context::{El1, GuestContext};

/// PSTATE bits as SPSR_EL2 lays them out (Arm ARM C5.2.19).
pub mod pstate {
    /// N, Z, C and V.
    pub const NZCV: u64 = 0xf << 28;
    /// Tag check override (FEAT_MTE).
    pub const TCO: u64 = 1 << 25;
    /// Data-independent timing.
    pub const DIT: u64 = 1 << 24;
    /// User access override.
    pub const UAO: u64 = 1 << 23;
    /// Privileged access never.
    pub const PAN: u64 = 1 << 22;
    /// Software step.
    pub const SS: u64 = 1 << 21;
    /// Illegal execution state.
    pub const IL: u64 = 1 << 20;
    /// Speculative store bypass safe.
    pub const SSBS: u64 = 1 << 12;
    /// Branch type, for BTI.
    pub const BTYPE: u64 = 3 << 10;
    /// D, A, I and F masked.
    pub const DAIF: u64 = 0xf << 6;
    /// Serrors masked.
    pub const A: u64 = 1 << 8;
    /// Interrupts masked.
    pub const I: u64 = 1 << 7;
    /// AArch32.
    pub const NRW: u64 = 1 << 4;
    /// The mode: exception level and stack pointer, or the AArch32 mode.
    pub const MODE: u64 = 0x1f;
    /// EL0.
    pub const EL0T: u64 = 0;
    /// EL1 with SP_EL0.
    pub const EL1T: u64 = 4;
    /// EL1 with SP_EL1.
    pub const EL1H: u64 = 5;
}

/// SCTLR_EL1.SPAN: exceptions leave PSTATE.PAN alone.
const SCTLR_SPAN: u64 = 1 << 23;
/// SCTLR_EL1.DSSBS: PSTATE.SSBS after an exception.
const SCTLR_DSSBS: u64 = 1 << 44;

/// Which optional PSTATE bits the guest's CPU has: see
/// [`crate::IdRegs::pstate_features`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PstateFeatures {
    /// FEAT_PAN.
    pub pan: bool,
    /// FEAT_SSBS.
    pub ssbs: bool,
    /// FEAT_DIT.
    pub dit: bool,
    /// FEAT_MTE.
    pub mte: bool,
}

/// An exception that emulation gives to the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exception {
    /// The instruction is undefined.
    Undefined,
    /// An external abort on an access to `far`: nothing answers there.
    DataAbort {
        /// The faulting virtual address.
        far: u64,
    },
    /// An external abort on an instruction fetch from `far`.
    InstructionAbort {
        /// The faulting virtual address.
        far: u64,
    },
    /// An address size fault on a data access: the address has no place in the
    /// guest's physical address space.
    DataAddressSize {
        /// The faulting virtual address.
        far: u64,
    },
    /// The same on an instruction fetch.
    InstructionAddressSize {
        /// The faulting virtual address.
        far: u64,
    },
}

/// The kinds of vector, by offset within a group.
const SYNCHRONOUS: u64 = 0;
const SERROR: u64 = 0x180;

/// Makes the guest take `exception` at EL1, synchronously, instead of the
/// instruction at PC.
///
/// The EL1 registers in `context` must be the truth, not the hardware's.
pub fn inject(context: &mut GuestContext, features: PstateFeatures, exception: Exception) {
    let esr = syndrome(context.pstate, exception, Esr(context.esr_el2).il());
    match exception {
        Exception::Undefined => {}
        Exception::DataAbort { far }
        | Exception::InstructionAbort { far }
        | Exception::DataAddressSize { far }
        | Exception::InstructionAddressSize { far } => context.set_el1(El1::FAR_EL1, far),
    }
    context.set_el1(El1::ESR_EL1, esr);
    enter(context, features, SYNCHRONOUS);
}

/// Makes the guest take a virtual SError with `iss` now. The caller checks
/// that PSTATE.A is clear; hardware does it by HCR_EL2.VSE otherwise.
pub fn inject_serror(context: &mut GuestContext, features: PstateFeatures, iss: u32) {
    let esr = (u64::from(ec::SERROR) << 26) | IL | u64::from(iss & 0x01ff_ffff);
    context.set_el1(El1::ESR_EL1, esr);
    enter(context, features, SERROR);
}

fn syndrome(pstate: u64, exception: Exception, il: bool) -> u64 {
    // EL1t and EL1h are "the same level", EL0 of either state is lower.
    let from_el1 = matches!(pstate & pstate::MODE, pstate::EL1T | pstate::EL1H);
    let (class, iss) = match exception {
        // UNDEFINED has always IL set but for a 16-bit T32 instruction.
        Exception::Undefined => (ec::UNKNOWN, 0),
        // Synchronous external abort, not on a table walk.
        Exception::DataAbort { .. } => (data_class(from_el1), 0x10),
        Exception::InstructionAbort { .. } => (fetch_class(from_el1), 0x10),
        // Address size fault, level 0.
        Exception::DataAddressSize { .. } => (data_class(from_el1), 0),
        Exception::InstructionAddressSize { .. } => (fetch_class(from_el1), 0),
    };
    let il = match exception {
        // Without ISV, IL is 1 for data aborts; for fetches too.
        Exception::Undefined => il || pstate & pstate::NRW == 0,
        _ => true,
    };
    (u64::from(class) << 26) | if il { IL } else { 0 } | iss
}

const fn data_class(from_el1: bool) -> u32 {
    if from_el1 { ec::DABT_SAME } else { ec::DABT_LOWER }
}

const fn fetch_class(from_el1: bool) -> u32 {
    if from_el1 { ec::IABT_SAME } else { ec::IABT_LOWER }
}

/// AArch64.TakeException to EL1: ELR, SPSR, the new PSTATE, the vector.
fn enter(context: &mut GuestContext, features: PstateFeatures, kind: u64) {
    let old = context.pstate;
    let sctlr = context.el1(El1::SCTLR_EL1);
    let group = match old & pstate::MODE {
        pstate::EL1T => 0,
        pstate::EL1H => 0x200,
        _ if old & pstate::NRW == 0 => 0x400,
        _ => 0x600,
    };
    context.set_el1(El1::ELR_EL1, context.pc);
    context.set_el1(El1::SPSR_EL1, old);
    // VBAR_EL1[10:0] are RES0.
    let vbar = context.el1(El1::VBAR_EL1) & !0x7ff;
    context.pc = vbar.wrapping_add(group).wrapping_add(kind);

    // UAO, SS, IL, BTYPE and (FEAT_NMI, not offered) ALLINT become 0.
    let mut new = (old & pstate::NZCV) | pstate::DAIF | pstate::EL1H;
    if features.dit {
        new |= old & pstate::DIT;
    }
    if features.pan {
        new |= old & pstate::PAN;
        if sctlr & SCTLR_SPAN == 0 {
            new |= pstate::PAN;
        }
    }
    if features.ssbs && sctlr & SCTLR_DSSBS != 0 {
        new |= pstate::SSBS;
    }
    if features.mte {
        new |= pstate::TCO;
    }
    context.pstate = new;
}

/// Steps over the instruction at PC that was emulated: PC+4, no branch target
/// pending, no step pending.
#[inline(always)]
pub const fn skip(context: &mut GuestContext) {
    context.pc = context.pc.wrapping_add(4);
    context.pstate &= !(pstate::BTYPE | pstate::SS);
}

/// Whether PSTATE, as a VMM asks for it, names a state a guest may be in: EL0
/// or EL1 in AArch64.
pub const fn valid_guest_pstate(value: u64) -> bool {
    matches!(value & pstate::MODE, pstate::EL0T | pstate::EL1T | pstate::EL1H)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: PstateFeatures = PstateFeatures { pan: true, ssbs: true, dit: true, mte: true };

    fn at(pstate: u64) -> GuestContext {
        let mut context = GuestContext::new();
        context.pc = 0xffff_8000_1000;
        context.pstate = pstate;
        context.esr_el2 = (0x18 << 26) | IL;
        context.set_el1(El1::VBAR_EL1, 0xffff_8000_0000_0800);
        context
    }

    #[test]
    fn undefined_at_el1h() {
        let mut context = at(0x6000_0000 | pstate::EL1H | pstate::BTYPE);
        inject(&mut context, ALL, Exception::Undefined);
        assert_eq!(context.pc, 0xffff_8000_0000_0800 + 0x200);
        assert_eq!(context.el1(El1::ELR_EL1), 0xffff_8000_1000);
        assert_eq!(context.el1(El1::SPSR_EL1), 0x6000_0000 | pstate::EL1H | pstate::BTYPE);
        assert_eq!(context.el1(El1::ESR_EL1), IL);
        // SPAN is set at reset: PAN stays.
        let expect = 0x6000_0000 | pstate::DAIF | pstate::EL1H | pstate::TCO;
        assert_eq!(context.pstate, expect);
    }

    #[test]
    fn vectors_by_where_it_came_from() {
        for (mode, offset) in [(0u64, 0x400u64), (4, 0), (5, 0x200), (0x10, 0x600)] {
            let mut context = at(mode);
            inject(&mut context, ALL, Exception::DataAbort { far: 0x77 });
            assert_eq!(context.pc, 0xffff_8000_0000_0800 + offset);
            let class = if offset < 0x400 { ec::DABT_SAME } else { ec::DABT_LOWER };
            assert_eq!(context.el1(El1::ESR_EL1), (u64::from(class) << 26) | IL | 0x10);
            assert_eq!(context.el1(El1::FAR_EL1), 0x77);
            let mut context = at(mode);
            inject_serror(&mut context, ALL, 0x123);
            assert_eq!(context.pc, 0xffff_8000_0000_0800 + offset + 0x180);
            assert_eq!(context.el1(El1::ESR_EL1), (0x2f << 26) | IL | 0x123);
        }
    }

    #[test]
    fn skipping_clears_btype_and_step() {
        let mut context = at(pstate::BTYPE | pstate::SS | pstate::EL1H | pstate::NZCV);
        skip(&mut context);
        assert_eq!(context.pc, 0xffff_8000_1004);
        assert_eq!(context.pstate, pstate::EL1H | pstate::NZCV);
    }

    proptest! {
        /// J1.1.2, bit by bit.
        #[test]
        fn the_new_pstate(old: u64, sctlr: u64, pan: bool, ssbs: bool, dit: bool, mte: bool) {
            let mut context = at(old);
            context.set_el1(El1::SCTLR_EL1, sctlr);
            inject(&mut context, PstateFeatures { pan, ssbs, dit, mte }, Exception::Undefined);
            let new = context.pstate;
            prop_assert_eq!(new & pstate::MODE, pstate::EL1H);
            prop_assert_eq!(new & pstate::DAIF, pstate::DAIF);
            prop_assert_eq!(new & pstate::NZCV, old & pstate::NZCV);
            prop_assert_eq!(new & (pstate::SS | pstate::IL | pstate::UAO | pstate::BTYPE), 0);
            prop_assert_eq!(new & pstate::DIT != 0, dit && old & pstate::DIT != 0);
            prop_assert_eq!(new & pstate::SSBS != 0, ssbs && sctlr & (1 << 44) != 0);
            prop_assert_eq!(new & pstate::TCO != 0, mte);
            let pan_bit = pan && (old & pstate::PAN != 0 || sctlr & (1 << 23) == 0);
            prop_assert_eq!(new & pstate::PAN != 0, pan_bit);
            prop_assert!(valid_guest_pstate(new));
        }
    }
}
