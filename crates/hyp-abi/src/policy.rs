//! A VM's firmware policy in words: two programs don't share a Rust layout.

use psci::{Policy, Workaround};

/// [`Policy`], packed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackedPolicy {
    std: u64,
    std_hyp: u64,
    vendor_hyp: u64,
    /// PSCI's version in the lower half; the workarounds, two bits each, from
    /// bit 32; bit 38: SYSTEM_SUSPEND; bit 39: a filter; bit 40: a watchdog.
    rest: u64,
}

const SYSTEM_SUSPEND: u64 = 1 << 38;
const FILTERED: u64 = 1 << 39;
const WATCHDOG: u64 = 1 << 40;

fn code(workaround: Workaround) -> u64 {
    match workaround {
        Workaround::NotAvailable => 0,
        Workaround::Available => 1,
        Workaround::NotRequired => 2,
    }
}

fn workaround(code: u64) -> Workaround {
    match code & 3 {
        1 => Workaround::Available,
        2 => Workaround::NotRequired,
        _ => Workaround::NotAvailable,
    }
}

impl PackedPolicy {
    /// In words.
    pub fn pack(policy: &Policy) -> PackedPolicy {
        let suspend = if policy.system_suspend { SYSTEM_SUSPEND } else { 0 };
        let filtered = if policy.filtered { FILTERED } else { 0 };
        let watchdog = if policy.watchdog { WATCHDOG } else { 0 };
        PackedPolicy {
            std: policy.std,
            std_hyp: policy.std_hyp,
            vendor_hyp: policy.vendor_hyp,
            rest: u64::from(policy.psci_version)
                | code(policy.workaround_1) << 32
                | code(policy.workaround_2) << 34
                | code(policy.workaround_3) << 36
                | suspend
                | filtered
                | watchdog,
        }
    }

    /// From words: any words make a policy.
    pub fn unpack(&self) -> Policy {
        Policy {
            psci_version: self.rest as u32,
            std: self.std,
            std_hyp: self.std_hyp,
            vendor_hyp: self.vendor_hyp,
            workaround_1: workaround(self.rest >> 32),
            workaround_2: workaround(self.rest >> 34),
            workaround_3: workaround(self.rest >> 36),
            system_suspend: self.rest & SYSTEM_SUSPEND != 0,
            filtered: self.rest & FILTERED != 0,
            watchdog: self.rest & WATCHDOG != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_loses_nothing() {
        let all = [Workaround::NotAvailable, Workaround::Available, Workaround::NotRequired];
        for (i, one) in all.into_iter().enumerate() {
            let policy = Policy {
                psci_version: psci::PSCI_1_0,
                std: 5,
                std_hyp: 6,
                vendor_hyp: 7,
                workaround_1: one,
                workaround_2: all[(i + 1) % 3],
                workaround_3: all[(i + 2) % 3],
                system_suspend: i == 1,
                filtered: i == 2,
                watchdog: i == 0,
            };
            assert_eq!(PackedPolicy::pack(&policy).unpack(), policy);
        }
        assert_eq!(PackedPolicy::pack(&Policy::new()).unpack(), Policy::new());
    }
}
