//! Which PPIs the timers raise.

use base::{Errno, Result};

/// The timers, in the order of the attributes of KVM_ARM_VCPU_TIMER_CTRL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerKind {
    /// The EL1 virtual timer: KVM_ARM_VCPU_TIMER_IRQ_VTIMER.
    Virtual,
    /// The EL1 physical timer: KVM_ARM_VCPU_TIMER_IRQ_PTIMER.
    Physical,
    /// The EL2 virtual timer: KVM_ARM_VCPU_TIMER_IRQ_HVTIMER.
    HypVirtual,
    /// The EL2 physical timer: KVM_ARM_VCPU_TIMER_IRQ_HPTIMER.
    HypPhysical,
}

impl TimerKind {
    /// From an attribute of KVM_ARM_VCPU_TIMER_CTRL; `ENXIO` if it is none.
    pub const fn from_attr(attr: u64) -> Result<TimerKind> {
        Ok(match attr {
            0 => TimerKind::Virtual,
            1 => TimerKind::Physical,
            2 => TimerKind::HypVirtual,
            3 => TimerKind::HypPhysical,
            _ => return Err(Errno::ENXIO),
        })
    }
}

/// The timers' INTIDs, the same for all vCPUs of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerIrqs {
    /// By [`TimerKind`].
    intids: [u8; 4],
    fixed: bool,
}

impl Default for TimerIrqs {
    fn default() -> Self {
        Self::new()
    }
}

impl TimerIrqs {
    /// What the Arm Base System Architecture recommends.
    pub const fn new() -> Self {
        TimerIrqs { intids: [27, 30, 28, 26], fixed: false }
    }

    /// The INTID of a timer.
    pub const fn get(&self, kind: TimerKind) -> u32 {
        let [virt, phys, hyp_virt, hyp_phys] = self.intids;
        (match kind {
            TimerKind::Virtual => virt,
            TimerKind::Physical => phys,
            TimerKind::HypVirtual => hyp_virt,
            TimerKind::HypPhysical => hyp_phys,
        }) as u32
    }

    /// KVM_SET_DEVICE_ATTR: `EINVAL` if `intid` is no PPI, `EBUSY` once a vCPU
    /// has run.
    pub fn set(&mut self, kind: TimerKind, intid: i32) -> Result<()> {
        let intid = u8::try_from(intid).map_err(|_| Errno::EINVAL)?;
        if !(16..32).contains(&intid) {
            return Err(Errno::EINVAL);
        }
        if self.fixed {
            return Err(Errno::EBUSY);
        }
        let [virt, phys, hyp_virt, hyp_phys] = &mut self.intids;
        *match kind {
            TimerKind::Virtual => virt,
            TimerKind::Physical => phys,
            TimerKind::HypVirtual => hyp_virt,
            TimerKind::HypPhysical => hyp_phys,
        } = intid;
        Ok(())
    }

    /// At a VM's first KVM_RUN: fixes them. `EINVAL` if two timers share one.
    pub fn fix(&mut self) -> Result<()> {
        let mut seen = 0u32;
        for intid in self.intids {
            let mask = 1u32.wrapping_shl(u32::from(intid));
            if seen & mask != 0 {
                return Err(Errno::EINVAL);
            }
            seen |= mask;
        }
        self.fixed = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_distinct_ppis_until_the_first_run() {
        let mut irqs = TimerIrqs::new();
        assert_eq!(irqs.get(TimerKind::Virtual), 27);
        assert_eq!(irqs.get(TimerKind::Physical), 30);
        assert_eq!(irqs.get(TimerKind::HypVirtual), 28);
        assert_eq!(irqs.get(TimerKind::HypPhysical), 26);
        for bad in [-1, 0, 15, 32, 283] {
            assert_eq!(irqs.set(TimerKind::Virtual, bad), Err(Errno::EINVAL));
        }
        irqs.set(TimerKind::Virtual, 30).unwrap();
        assert_eq!(irqs.fix(), Err(Errno::EINVAL));
        irqs.set(TimerKind::Physical, 16).unwrap();
        irqs.fix().unwrap();
        assert_eq!(irqs.set(TimerKind::Virtual, 20), Err(Errno::EBUSY));
        assert_eq!(TimerKind::from_attr(4), Err(Errno::ENXIO));
        assert_eq!(TimerKind::from_attr(2), Ok(TimerKind::HypVirtual));
    }
}
