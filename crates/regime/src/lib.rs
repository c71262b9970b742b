//! The proof that the CPU is in the host's translation regime.
//!
//! Under VHE an exit is first handled in the guest's HCR_EL2, with TGE=0. There,
//! LDTR/STTR run with EL2's privilege, TLBI by address and AT act on the guest's
//! regime, and PSTATE.PAN isn't set by exceptions (Arm ARM, D1.3 "Exceptions",
//! and the description of HCR_EL2.TGE). Whatever needs the host's regime (user
//! access, host TLB maintenance, interrupt handlers, scheduling, logging, the
//! allocator) takes a [`HostRegime`], and only the flip of HCR_EL2.TGE makes
//! one: forgetting it does not compile.
#![no_std]

use core::marker::PhantomData;

/// The CPU is in the host's regime while a reference to this lives.
///
/// Neither `Send` nor `Copy`: it speaks of this CPU, now.
#[derive(Debug)]
pub struct HostRegime {
    here: PhantomData<*const ()>,
}

impl HostRegime {
    /// Says that the CPU is in the host's regime.
    ///
    /// # Safety
    ///
    /// HCR_EL2 holds the host's value (under VHE: TGE=1) on this CPU, PSTATE.PAN
    /// is set, and both stay so until the value is dropped.
    #[inline(always)]
    pub const unsafe fn assume() -> Self {
        HostRegime { here: PhantomData }
    }

    /// On a developer's machine there is one regime only.
    #[cfg(not(target_os = "none"))]
    pub const fn hosted() -> Self {
        HostRegime { here: PhantomData }
    }
}
