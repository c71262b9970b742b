//! Counter ticks and nanoseconds.

const NANOS: u64 = 1_000_000_000;

/// A multiplication and a shift in place of a division.
#[derive(Clone, Copy, Debug)]
struct Ratio {
    mult: u64,
    shift: u32,
}

impl Ratio {
    /// `num / den`, rounded up in the last of (nearly) 64 bits, so that whole
    /// results come out whole.
    const fn new(num: u64, den: u64) -> Ratio {
        let mut shift = 64;
        loop {
            let wide = (num as u128).wrapping_shl(shift).div_ceil(den as u128);
            if wide <= u64::MAX as u128 || shift == 0 {
                return Ratio { mult: wide as u64, shift };
            }
            shift = shift.wrapping_sub(1);
        }
    }

    #[inline]
    const fn apply(self, value: u64) -> u64 {
        let product = (value as u128).wrapping_mul(self.mult as u128);
        let scaled = product.wrapping_shr(self.shift);
        if scaled > u64::MAX as u128 { u64::MAX } else { scaled as u64 }
    }
}

/// Converts between ticks of the counter (CNTFRQ_EL0) and nanoseconds. What
/// doesn't fit saturates.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    frequency: u32,
    to_nanos: Ratio,
    to_ticks: Ratio,
}

impl Clock {
    /// For a counter of `frequency` ticks a second; 0 counts as 1.
    pub const fn new(frequency: u32) -> Clock {
        let frequency = if frequency == 0 { 1 } else { frequency };
        Clock {
            frequency,
            to_nanos: Ratio::new(NANOS, frequency as u64),
            to_ticks: Ratio::new(frequency as u64, NANOS),
        }
    }

    /// CNTFRQ_EL0.
    pub const fn frequency(&self) -> u32 {
        self.frequency
    }

    /// Nanoseconds that `ticks` take.
    #[inline]
    pub const fn nanos(&self, ticks: u64) -> u64 {
        self.to_nanos.apply(ticks)
    }

    /// Whole ticks in `nanos`.
    #[inline]
    pub const fn ticks(&self, nanos: u64) -> u64 {
        self.to_ticks.apply(nanos)
    }

    /// Ticks after which `nanos` have passed: for deadlines, which must not be
    /// early.
    #[inline]
    pub const fn ticks_after(&self, nanos: u64) -> u64 {
        self.ticks(nanos).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn common_frequencies_are_exact() {
        let clock = Clock::new(1_000_000_000);
        assert_eq!((clock.nanos(12345), clock.ticks(12345)), (12345, 12345));
        let clock = Clock::new(62_500_000);
        assert_eq!((clock.nanos(1), clock.nanos(u64::MAX >> 4)), (16, !15));
        assert_eq!((clock.ticks(16), clock.ticks(15), clock.ticks(1600)), (1, 0, 100));
        assert_eq!(clock.nanos(u64::MAX), u64::MAX);
        let clock = Clock::new(24_000_000);
        assert_eq!((clock.nanos(24), clock.nanos(24_000_000)), (1000, NANOS));
        assert_eq!(Clock::new(0).nanos(2), 2 * NANOS);
    }

    proptest! {
        #[test]
        fn close_to_the_true_quotient(frequency in 1u32.., value: u64) {
            let clock = Clock::new(frequency);
            for (got, num, den) in [
                (clock.nanos(value), NANOS, u64::from(frequency)),
                (clock.ticks(value), u64::from(frequency), NANOS),
            ] {
                let exact = u128::from(value) * u128::from(num) / u128::from(den);
                let exact = u64::try_from(exact).unwrap_or(u64::MAX);
                // The ratio's last bit: one part in 2^62, so at most 5 in 2^64.
                prop_assert!(got >= exact && got - exact <= 8, "{got} {exact}");
            }
        }

        #[test]
        fn deadlines_are_not_early(frequency in 1u32.., nanos in 0u64..1 << 50) {
            let clock = Clock::new(frequency);
            prop_assert!(clock.nanos(clock.ticks_after(nanos)) >= nanos);
        }
    }
}
