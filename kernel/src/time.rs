//! Time since boot, from the architectural counter.

use base::Nanos;
use core::sync::atomic::{AtomicU64, Ordering};

const SECOND: u64 = 1_000_000_000;

static START: AtomicU64 = AtomicU64::new(0);
static FREQUENCY: AtomicU64 = AtomicU64::new(62_500_000);
/// Nanoseconds a tick, and the rest in 2^-64.
static WHOLE: AtomicU64 = AtomicU64::new(16);
static FRACTION: AtomicU64 = AtomicU64::new(0);

/// Starts the clock.
pub fn init() {
    // Firmware that leaves CNTFRQ zero leaves the clock running at a guess.
    let frequency = arch::sysreg::cntfrq_el0();
    if frequency != 0 {
        FREQUENCY.store(frequency, Ordering::Relaxed);
        let (whole, rest) = (SECOND.checked_div(frequency), SECOND.checked_rem(frequency));
        WHOLE.store(whole.unwrap_or(0), Ordering::Relaxed);
        // Rounded up, so that a deadline that was waited for has passed.
        let rest = u128::from(rest.unwrap_or(0)) << 64;
        FRACTION.store(rest.div_ceil(u128::from(frequency)) as u64, Ordering::Relaxed);
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
    let (whole, fraction) = nanos_per_tick();
    let ticks = u128::from(ticks);
    let rest = ticks.wrapping_mul(u128::from(fraction)) >> 64;
    let nanos = ticks.wrapping_mul(u128::from(whole)).wrapping_add(rest);
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

/// Nanoseconds a tick, and the rest in 2^-64: what the vDSO counts with too.
pub fn nanos_per_tick() -> (u64, u64) {
    (WHOLE.load(Ordering::Relaxed), FRACTION.load(Ordering::Relaxed))
}

/// The counter's value at boot.
pub fn start() -> u64 {
    START.load(Ordering::Relaxed)
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
