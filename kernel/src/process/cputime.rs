//! CPU time, the program's and the kernel's own.
//!
//! A task's whole time is the scheduler's account. What of it passes in system
//! calls and page faults is the kernel's, by the same account, so that sleep
//! counts nowhere. KVM_RUN isn't among them: it is the guest's, which Linux
//! counts as the program's, too (proc(5)).

use crate::{cpu, task::Task, time};
use base::Nanos;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// [`Account::known`]: the task is in the kernel for its program.
const INSIDE: u64 = 1 << 63;

/// What a task keeps of it; written by its own CPU.
pub struct Account {
    /// The part that doesn't grow now: with [`INSIDE`] its program's time, else
    /// the kernel's. The rest of its whole time is the other's. In one word, so
    /// that others see both or neither change.
    known: AtomicU64,
    /// The kernel's time when it entered it last.
    before: AtomicU64,
}

impl Account {
    /// Nothing yet.
    pub const fn new() -> Account {
        Account { known: AtomicU64::new(0), before: AtomicU64::new(0) }
    }

    /// How `total` divides.
    fn divide(&self, total: Nanos) -> CpuTime {
        let known = self.known.load(Relaxed);
        let part = (known & !INSIDE).min(total);
        let rest = total.saturating_sub(part);
        match known & INSIDE {
            0 => CpuTime { user: rest, system: part },
            _ => CpuTime { user: part, system: rest },
        }
    }
}

/// CPU time, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    pub user: Nanos,
    pub system: Nanos,
}

impl CpuTime {
    /// Both.
    pub fn plus(self, other: CpuTime) -> CpuTime {
        CpuTime {
            user: self.user.saturating_add(other.user),
            system: self.system.saturating_add(other.system),
        }
    }

    /// The whole.
    pub fn total(self) -> Nanos {
        self.user.saturating_add(self.system)
    }

    /// `task`'s until now.
    pub fn of(task: &Task) -> CpuTime {
        task.time.divide(task.entity.runtime(time::now()))
    }
}

/// The current task's time is the kernel's from here on.
pub fn enter_kernel(task: &Task) {
    let CpuTime { user, system } = CpuTime::of(task);
    task.time.before.store(system, Relaxed);
    task.time.known.store(user | INSIDE, Relaxed);
}

/// The current task's time is its program's again.
pub fn leave_kernel(task: &Task) {
    if task.time.known.load(Relaxed) & INSIDE == 0 {
        return;
    }
    let system = CpuTime::of(task).system;
    task.time.known.store(system & !INSIDE, Relaxed);
    // All of it on the CPU where it ends: near enough for /proc/stat.
    let spent = system.saturating_sub(task.time.before.load(Relaxed));
    let whole = &cpu::this().system_time;
    whole.store(whole.load(Relaxed).saturating_add(spent), Relaxed);
}
