//! The world switch: from the host's registers to a guest's and back.
//!
//! Two groups of registers switch at different times:
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
#![cfg(target_arch = "aarch64")]

pub mod vhe;
