//! What VMMs ask of a filter.

use super::{Filter, Range, Verdict};
use crate::snapshot::VmSnapshot;
use base::{Errno, Result, room};
use kvm_abi as abi;
use psci::function::ARCH_CALLS;

/// How many ranges a filter may have: one more is `ENOMEM`.
const MAX_RANGES: usize = 256;

impl Range {
    /// What a VMM asks for. `EINVAL`: no function, one behind the last there can
    /// be, an action that isn't one, or padding that isn't zero.
    pub fn decode(filter: &abi::SmcccFilter) -> Result<Range> {
        let verdict = match filter.action {
            abi::SMCCC_FILTER_HANDLE => Verdict::Handle,
            abi::SMCCC_FILTER_DENY => Verdict::Deny,
            abi::SMCCC_FILTER_FWD_TO_USER => Verdict::Forward,
            _ => return Err(Errno::EINVAL),
        };
        if filter.pad.iter().any(|byte| *byte != 0) {
            return Err(Errno::EINVAL);
        }
        let more = filter.nr_functions.checked_sub(1).ok_or(Errno::EINVAL)?;
        let last = filter.base.checked_add(more).ok_or(Errno::EINVAL)?;
        Ok(Range { first: filter.base, last, verdict })
    }

    fn touches(&self, first: u32, last: u32) -> bool {
        self.first <= last && first <= self.last
    }
}

impl Filter {
    /// A filter with one more range. `EEXIST` if a call has its verdict already, as
    /// the Arm Architecture Calls have from the start.
    pub fn with(&self, range: Range) -> Result<Filter> {
        let reserved = ARCH_CALLS.iter().any(|&(first, last)| range.touches(first, last));
        if reserved || self.ranges.iter().any(|old| range.touches(old.first, old.last)) {
            return Err(Errno::EEXIST);
        }
        if self.ranges.len() >= MAX_RANGES {
            return Err(Errno::ENOMEM);
        }
        let mut ranges = room::try_vec(self.ranges.len().saturating_add(1))?;
        ranges.extend_from_slice(&self.ranges);
        let at = ranges.partition_point(|old: &Range| old.last < range.first);
        ranges.insert(at, range);
        Ok(Filter { ranges })
    }
}

impl VmSnapshot {
    /// Puts more firmware calls under the filter: [`Filter::with`].
    pub(crate) fn filter(&mut self, range: Range) -> Result<()> {
        let none = Filter::default();
        let new = self.filter.as_deref().unwrap_or(&none).with(range)?;
        self.filter = Some(room::try_arc(new)?);
        self.policy.filtered |= range.verdict != Verdict::Handle;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ask(base: u32, nr_functions: u32, action: u8) -> abi::SmcccFilter {
        abi::SmcccFilter { base, nr_functions, action, pad: [0; 15] }
    }

    fn add(filter: &mut Filter, base: u32, nr_functions: u32, action: u8) -> Result<()> {
        *filter = filter.with(Range::decode(&ask(base, nr_functions, action))?)?;
        Ok(())
    }

    #[test]
    fn requests_are_checked() {
        assert_eq!(
            Range::decode(&ask(7, 3, 1)),
            Ok(Range { first: 7, last: 9, verdict: Verdict::Deny })
        );
        let invalid = Err(Errno::EINVAL);
        for action in [3, 4, 255] {
            assert_eq!(Range::decode(&ask(7, 3, action)), invalid);
        }
        for (base, nr_functions) in [(0, 0), (7, 0), (u32::MAX, 0), (u32::MAX, 2), (2, u32::MAX)] {
            assert_eq!(Range::decode(&ask(base, nr_functions, 1)), invalid);
        }
        assert!(Range::decode(&ask(u32::MAX, 1, 2)).is_ok());
        assert!(Range::decode(&ask(1, u32::MAX, 2)).is_ok());
        for at in 0..15 {
            let mut filter = ask(7, 3, 1);
            filter.pad[at] = 1;
            assert_eq!(Range::decode(&filter), invalid);
        }
    }

    #[test]
    fn architecture_calls_are_reserved() {
        for (base, nr_functions) in [
            (0x8000_0000, 1),
            (0x8000_ffff, 1),
            (0xc000_0000, 0x1_0000),
            (0x7fff_ffff, 2),
            (0xc000_ffff, 2),
            (0, u32::MAX),
        ] {
            for action in 0..3 {
                let mut filter = Filter::default();
                assert_eq!(add(&mut filter, base, nr_functions, action), Err(Errno::EEXIST));
            }
        }
        let mut filter = Filter::default();
        for (base, nr_functions) in
            [(0, 0x8000_0000), (0x8001_0000, 0x3fff_0000), (0xc001_0000, 0x3fff_0000)]
        {
            assert_eq!(add(&mut filter, base, nr_functions, 1), Ok(()));
        }
        for (function, verdict) in [
            (0x7fff_ffff, Verdict::Deny),
            (0x8000_0000, Verdict::Handle),
            (0x8000_ffff, Verdict::Handle),
            (0x8001_0000, Verdict::Deny),
            (0xbfff_ffff, Verdict::Deny),
            (0xc000_ffff, Verdict::Handle),
            (u32::MAX, Verdict::Deny),
        ] {
            assert_eq!(filter.verdict(function), verdict, "{function:#x}");
        }
    }

    #[test]
    fn there_is_a_limit() {
        let mut filter = Filter::default();
        for n in 0..MAX_RANGES as u32 {
            // From behind, so that each is put before the others.
            assert_eq!(add(&mut filter, 0x8600_0000 - n * 2, 1, 1), Ok(()));
        }
        assert_eq!(add(&mut filter, 0x8700_0000, 1, 1), Err(Errno::ENOMEM));
        assert_eq!(add(&mut filter, 0x8600_0000, 1, 1), Err(Errno::EEXIST));
        assert_eq!(filter.verdict(0x8600_0000), Verdict::Deny);
        assert_eq!(filter.verdict(0x8600_0001), Verdict::Handle);
    }

    proptest! {
        /// Whatever is asked for, in whatever order: a call has the verdict of the
        /// one range that got it.
        #[test]
        fn every_call_has_one_verdict(
            asked in proptest::collection::vec((0u32..64, 0u32..9, 0u8..4), 0..40),
        ) {
            const AT: u32 = 0x8400_0000;
            let mut filter = Filter::default();
            let mut model = [None; 80];
            for (base, nr_functions, action) in asked {
                let cells = &mut model[base as usize..(base + nr_functions) as usize];
                let want = if nr_functions == 0 || action > 2 {
                    Err(Errno::EINVAL)
                } else if cells.iter().any(Option::is_some) {
                    Err(Errno::EEXIST)
                } else {
                    let all = [Verdict::Handle, Verdict::Deny, Verdict::Forward];
                    cells.fill(Some(all[usize::from(action)]));
                    Ok(())
                };
                prop_assert_eq!(add(&mut filter, AT + base, nr_functions, action), want);
            }
            for (function, verdict) in (AT..).zip(model) {
                prop_assert_eq!(filter.verdict(function), verdict.unwrap_or(Verdict::Handle));
            }
        }
    }
}
