//! Where a task wakes up.

/// The CPU for a task that last ran on `previous`: there if that CPU is idle,
/// else on an idle CPU that it may use, the next one up first; else there, and it
/// waits or preempts. If its mask leaves no CPU that is online, it goes to any,
/// as on Linux. Sets of CPUs are bits.
pub fn place(affinity: u64, previous: usize, idle: u64, online: u64) -> usize {
    let allowed = match affinity & online {
        0 => online,
        allowed => allowed,
    };
    let from = |set: u64| {
        let up = set & (u64::MAX << (previous & 63));
        (if up != 0 { up } else { set }).trailing_zeros() as usize
    };
    match (allowed & idle, allowed) {
        (0, 0) => previous,
        (0, allowed) => from(allowed),
        (resting, _) => from(resting),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn where_tasks_wake_up() {
        let all = u64::MAX;
        assert_eq!(place(all, 1, 0b0111, 0b1111), 1);
        assert_eq!(place(all, 1, 0b1001, 0b1111), 3);
        assert_eq!(place(all, 2, 0b0011, 0b1111), 0);
        assert_eq!(place(all, 1, 0, 0b1111), 1);
        assert_eq!(place(0b0101, 1, 0b1000, 0b1111), 2);
        assert_eq!(place(1 << 9, 1, 0b0100, 0b1111), 2);
        assert_eq!(place(all, 7, 0, 0), 7);
    }

    proptest! {
        #[test]
        fn places_are_allowed(affinity: u64, idle: u64, online in 1u64.., previous in 0usize..64) {
            let cpu = place(affinity, previous, idle, online);
            let allowed = if affinity & online == 0 { online } else { affinity & online };
            prop_assert!(allowed >> cpu & 1 != 0);
            prop_assert!(allowed & idle == 0 || idle >> cpu & 1 != 0);
        }
    }
}
