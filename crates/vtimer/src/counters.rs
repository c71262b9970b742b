//! By how much a VM's counters are behind the machine's.

use base::{Errno, Result};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A VM's counter offsets, one of each for all its vCPUs.
#[derive(Debug)]
pub struct Counters {
    virt: AtomicU64,
    phys: AtomicU64,
    /// User space chose them: what it writes to counts is ignored since.
    fixed: AtomicBool,
}

impl Counters {
    /// For a VM made at the machine's count `now`: its virtual counter starts at
    /// zero, its physical one is the machine's.
    pub const fn new(now: u64) -> Self {
        Counters {
            virt: AtomicU64::new(now),
            phys: AtomicU64::new(0),
            fixed: AtomicBool::new(false),
        }
    }

    /// CNTVOFF_EL2.
    #[inline]
    pub fn virtual_offset(&self) -> u64 {
        self.virt.load(Ordering::Relaxed)
    }

    /// CNTPOFF_EL2, or what trapped accesses subtract.
    #[inline]
    pub fn physical_offset(&self) -> u64 {
        self.phys.load(Ordering::Relaxed)
    }

    /// KVM_ARM_SET_COUNTER_OFFSET: struct kvm_arm_counter_offset's fields. The
    /// caller makes sure that no vCPU runs (`EBUSY`).
    pub fn set_offset(&self, counter_offset: u64, reserved: u64) -> Result<()> {
        if reserved != 0 {
            return Err(Errno::EINVAL);
        }
        self.fixed.store(true, Ordering::Relaxed);
        self.virt.store(counter_offset, Ordering::Relaxed);
        self.phys.store(counter_offset, Ordering::Relaxed);
        Ok(())
    }

    /// KVM_SET_ONE_REG of KVM_REG_ARM_TIMER_CNT: the virtual counter shows
    /// `count` at the machine's `now`.
    pub fn set_virtual_count(&self, count: u64, now: u64) {
        if !self.fixed.load(Ordering::Relaxed) {
            self.virt.store(now.wrapping_sub(count), Ordering::Relaxed);
        }
    }

    /// KVM_SET_ONE_REG of KVM_REG_ARM_PTIMER_CNT.
    pub fn set_physical_count(&self, count: u64, now: u64) {
        if !self.fixed.load(Ordering::Relaxed) {
            self.phys.store(now.wrapping_sub(count), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_can_be_set_until_the_offset_is() {
        let counters = Counters::new(1000);
        assert_eq!((counters.virtual_offset(), counters.physical_offset()), (1000, 0));
        counters.set_virtual_count(5, 2000);
        counters.set_physical_count(3000, 2000);
        assert_eq!(counters.virtual_offset(), 1995);
        assert_eq!(2000u64.wrapping_sub(counters.physical_offset()), 3000);
        assert_eq!(counters.set_offset(7, 1), Err(Errno::EINVAL));
        counters.set_offset(7, 0).unwrap();
        counters.set_virtual_count(5, 2000);
        counters.set_physical_count(5, 2000);
        assert_eq!((counters.virtual_offset(), counters.physical_offset()), (7, 7));
    }
}
