//! Checks the order of locks in builds with debug assertions.
//!
//! A CPU holds no lock when it switches tasks or takes an interrupt, so what
//! it holds is counted per CPU.

use crate::cpu::{self, MAX_CPUS};
use base::{LockTracker, rank};
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

const RANKS: usize = 128;

struct Tracker {
    held: [[AtomicU8; RANKS]; MAX_CPUS],
}

static TRACKER: Tracker =
    Tracker { held: [const { [const { AtomicU8::new(0) }; RANKS] }; MAX_CPUS] };

/// Starts checking: once this CPU knows who it is.
pub fn init() {
    if cfg!(debug_assertions) {
        base::set_lock_tracker(&TRACKER);
    }
}

impl Tracker {
    fn count(&self, rank: u8) -> Option<&AtomicU8> {
        self.held.get(cpu::index())?.get(usize::from(rank))
    }
}

impl LockTracker for Tracker {
    fn acquire(&self, taken: u8) {
        let held = self.held.get(cpu::index()).map_or([].as_slice(), |held| held);
        let highest = held.iter().rposition(|count| count.load(Relaxed) > 0);
        if let Some(highest) = highest {
            let taken = usize::from(taken);
            // Wait queues alone nest in themselves: see base::rank.
            let nests = taken == usize::from(rank::WAIT_QUEUE) && taken == highest;
            assert!(taken > highest || nests, "lock of rank {taken} taken under {highest}");
        }
        if let Some(count) = self.count(taken) {
            count.fetch_add(1, Relaxed);
        }
    }

    fn release(&self, rank: u8) {
        if let Some(count) = self.count(rank) {
            // Locks taken before `init` were not counted.
            let _ = count.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1));
        }
    }
}
