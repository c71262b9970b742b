//! A guest's generic timers, as a state machine (Arm ARM, D12 "The Generic
//! Timer in AArch64 state").
//!
//! * [`Timer`]: one timer's CTL and CVAL; when it fires, and whether its line is
//!   up.
//! * [`Counters`]: what a VM's counters are behind the machine's: CNTVOFF_EL2
//!   and CNTPOFF_EL2 (KVM_ARM_SET_COUNTER_OFFSET, KVM_REG_ARM_TIMER_CNT).
//! * [`TimerIrqs`]: which PPIs the timers raise (KVM_ARM_VCPU_TIMER_CTRL).
//! * [`Clock`]: counter ticks to nanoseconds and back.
//!
//! Counts are of the machine's counter, CNTPCT_EL0 less nothing, unless said
//! otherwise.
//!
//! In KVM's ABI the identifiers KVM_REG_ARM_TIMER_CNT and KVM_REG_ARM_TIMER_CVAL
//! are swapped with regard to the registers that they seem to encode. Whoever
//! decodes ONE_REG identifiers deals with that, not this crate.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

mod clock;
mod counters;
mod irqs;
mod timer;

pub use clock::Clock;
pub use counters::Counters;
pub use irqs::{TimerIrqs, TimerKind};
pub use timer::{CTL_ENABLE, CTL_IMASK, CTL_ISTATUS, Timer, TimerReg};
