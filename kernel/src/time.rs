//! Time since boot, from the architectural counter.

use base::Nanos;
use core::sync::atomic::{AtomicU64, Ordering};

static START: AtomicU64 = AtomicU64::new(0);
static FREQUENCY: AtomicU64 = AtomicU64::new(62_500_000);

/// Starts the clock.
pub fn init() {
    // Firmware that leaves CNTFRQ zero leaves the clock running at a guess.
    let frequency = arch::sysreg::cntfrq_el0();
    if frequency != 0 {
        FREQUENCY.store(frequency, Ordering::Relaxed);
    }
    START.store(arch::timer::counter(), Ordering::Relaxed);
}

/// The counter's frequency, Hz.
pub fn frequency() -> u64 {
    FREQUENCY.load(Ordering::Relaxed)
}

/// CLOCK_MONOTONIC: nanoseconds since boot.
pub fn now() -> Nanos {
    to_nanos(arch::timer::counter().wrapping_sub(START.load(Ordering::Relaxed)))
}

/// Nanoseconds in `ticks` of the counter.
pub fn to_nanos(ticks: u64) -> Nanos {
    let frequency = frequency();
    if frequency == 1_000_000_000 {
        return ticks;
    }
    let nanos = u128::from(ticks).wrapping_mul(1_000_000_000).checked_div(u128::from(frequency));
    nanos.and_then(|nanos| u64::try_from(nanos).ok()).unwrap_or(u64::MAX)
}

/// The counter's value at CLOCK_MONOTONIC `nanos`, rounded up.
pub fn to_ticks(nanos: Nanos) -> u64 {
    let frequency = frequency();
    let ticks = if frequency == 1_000_000_000 {
        nanos
    } else {
        let ticks = u128::from(nanos).wrapping_mul(u128::from(frequency)).div_ceil(1_000_000_000);
        u64::try_from(ticks).unwrap_or(u64::MAX)
    };
    ticks.saturating_add(START.load(Ordering::Relaxed))
}

/// CLOCK_MONOTONIC at the counter's value `ticks`, rounded up; 0 if that was
/// before boot.
pub fn from_ticks(ticks: u64) -> Nanos {
    to_nanos(ticks.saturating_sub(START.load(Ordering::Relaxed))).saturating_add(1)
}
