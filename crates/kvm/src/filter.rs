//! A VM's SMCCC filter: which firmware calls are the VMM's, and which nobody's
//! (Linux's Documentation/virt/kvm/devices/vm.rst, KVM_ARM_VM_SMCCC_FILTER).

#[cfg(feature = "user-space")]
mod ask;

use alloc::vec::Vec;

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// KVM answers it.
    Handle,
    /// It isn't there: NOT_SUPPORTED.
    Deny,
    /// The VMM answers it.
    Forward,
}

/// Functions, from the first to the last, and what becomes of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Range {
    first: u32,
    last: u32,
    pub verdict: Verdict,
}

/// The ranges, ascending and apart. What is in none is KVM's to answer.
#[derive(Default, Debug)]
pub(crate) struct Filter {
    ranges: Vec<Range>,
}

impl Filter {
    /// What becomes of a call.
    pub fn verdict(&self, function: u32) -> Verdict {
        let at = self.ranges.partition_point(|range| range.last < function);
        match self.ranges.get(at) {
            Some(range) if range.first <= function => range.verdict,
            _ => Verdict::Handle,
        }
    }
}
