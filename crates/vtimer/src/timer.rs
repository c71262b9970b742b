//! One timer.

/// CNT*_CTL_EL0.ENABLE.
pub const CTL_ENABLE: u64 = 1 << 0;
/// CNT*_CTL_EL0.IMASK.
pub const CTL_IMASK: u64 = 1 << 1;
/// CNT*_CTL_EL0.ISTATUS.
pub const CTL_ISTATUS: u64 = 1 << 2;

/// A timer's registers, as a guest names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerReg {
    /// CNT*_CTL_EL0.
    Ctl,
    /// CNT*_CVAL_EL0.
    Cval,
    /// CNT*_TVAL_EL0.
    Tval,
    /// CNT*CT_EL0, read-only.
    Count,
}

/// One timer: the virtual (CNTV_*) or the physical one (CNTP_*).
///
/// Methods take `now`, the machine's count, and `offset`, by how much the
/// timer's counter is behind (CNTVOFF_EL2, CNTPOFF_EL2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timer {
    ctl: u64,
    cval: u64,
}

impl Timer {
    /// A timer after reset: disabled.
    pub const fn new() -> Self {
        Timer { ctl: 0, cval: 0 }
    }

    /// From CNT*_CTL_EL0 and CNT*_CVAL_EL0, as saved from the hardware.
    pub const fn from_regs(ctl: u64, cval: u64) -> Self {
        Timer { ctl: ctl & (CTL_ENABLE | CTL_IMASK), cval }
    }

    /// CNT*_CTL_EL0 without ISTATUS: what restores the hardware.
    pub const fn ctl(&self) -> u64 {
        self.ctl
    }

    /// CNT*_CVAL_EL0.
    pub const fn cval(&self) -> u64 {
        self.cval
    }

    /// Whether the counter has reached CVAL, enabled or not.
    const fn is_due(&self, now: u64, offset: u64) -> bool {
        now.wrapping_sub(offset) >= self.cval
    }

    /// Whether the timer can raise its line at all.
    const fn is_armed(&self) -> bool {
        self.ctl & (CTL_ENABLE | CTL_IMASK) == CTL_ENABLE
    }

    /// The level of the timer's line.
    pub const fn line_level(&self, now: u64, offset: u64) -> bool {
        self.is_armed() && self.is_due(now, offset)
    }

    /// The machine's count at which the line goes up: `now` if it is up. `None`
    /// if it doesn't go up before the machine's counter ends.
    pub const fn fires_at(&self, now: u64, offset: u64) -> Option<u64> {
        if !self.is_armed() {
            return None;
        }
        if self.is_due(now, offset) {
            return Some(now);
        }
        // Not due: the guest's count is below CVAL.
        now.checked_add(self.cval.wrapping_sub(now.wrapping_sub(offset)))
    }

    /// Reads a register: a trapped access, or KVM_GET_ONE_REG. As in KVM,
    /// ISTATUS tells whether the timer is due even while it is disabled, where
    /// the architecture leaves it UNKNOWN.
    pub const fn read(&self, reg: TimerReg, now: u64, offset: u64) -> u64 {
        match reg {
            TimerReg::Ctl if self.is_due(now, offset) => self.ctl | CTL_ISTATUS,
            TimerReg::Ctl => self.ctl,
            TimerReg::Cval => self.cval,
            // CompareValue - count, the low 32 bits.
            TimerReg::Tval => self.cval.wrapping_sub(now.wrapping_sub(offset)) & 0xffff_ffff,
            TimerReg::Count => now.wrapping_sub(offset),
        }
    }

    /// Writes a register; the count ignores it.
    pub const fn write(&mut self, reg: TimerReg, value: u64, now: u64, offset: u64) {
        match reg {
            TimerReg::Ctl => self.ctl = value & (CTL_ENABLE | CTL_IMASK),
            TimerReg::Cval => self.cval = value,
            // Signed, 32 bits.
            TimerReg::Tval => {
                let ahead = value as u32 as i32 as i64 as u64;
                self.cval = now.wrapping_sub(offset).wrapping_add(ahead);
            }
            TimerReg::Count => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn registers_read_as_written() {
        let mut timer = Timer::new();
        timer.write(TimerReg::Tval, 100, 1000, 400);
        assert_eq!(timer.cval(), 700);
        assert_eq!(timer.read(TimerReg::Tval, 1000, 400), 100);
        assert_eq!(timer.read(TimerReg::Count, 1000, 400), 600);
        timer.write(TimerReg::Ctl, 0xff, 1000, 400);
        assert_eq!(timer.ctl(), CTL_ENABLE | CTL_IMASK);
        assert_eq!(timer.read(TimerReg::Ctl, 1100, 400), 7);
        assert_eq!(timer.read(TimerReg::Ctl, 1099, 400), 3);
        timer.write(TimerReg::Tval, 0xffff_ffff, 1000, 400);
        assert_eq!(timer.cval(), 599);
        timer.write(TimerReg::Count, 5, 1000, 400);
        assert_eq!(timer.read(TimerReg::Count, 1000, 400), 600);
    }

    #[test]
    fn masked_or_disabled_never_fires() {
        for ctl in [0, CTL_IMASK, CTL_ENABLE | CTL_IMASK] {
            let timer = Timer::from_regs(ctl, 0);
            assert!(!timer.line_level(1, 0));
            assert_eq!(timer.fires_at(1, 0), None);
        }
        assert_eq!(Timer::from_regs(CTL_ENABLE, u64::MAX).fires_at(10, 5), None);
        assert_eq!(Timer::from_regs(CTL_ENABLE, 10).fires_at(3, 0), Some(10));
    }

    proptest! {
        #[test]
        fn fires_exactly_when_the_line_goes_up(
            ctl in 0u64..8, cval: u64, now: u64, offset: u64, near in 0u64..1000,
        ) {
            // Both far values and values close to the count.
            for cval in [cval, now.wrapping_sub(offset).wrapping_add(near)] {
                let timer = Timer::from_regs(ctl, cval);
                match timer.fires_at(now, offset) {
                    Some(at) => {
                        prop_assert!(at >= now);
                        prop_assert!(timer.line_level(at, offset));
                        if at > now {
                            prop_assert!(!timer.line_level(now, offset));
                            prop_assert!(!timer.line_level(at - 1, offset));
                        }
                    }
                    None => prop_assert!(!timer.line_level(now, offset)),
                }
            }
        }

        #[test]
        fn tval_round_trips(value: u32, now: u64, offset: u64) {
            let mut timer = Timer::new();
            timer.write(TimerReg::Tval, value.into(), now, offset);
            prop_assert_eq!(timer.read(TimerReg::Tval, now, offset), u64::from(value));
        }
    }
}
