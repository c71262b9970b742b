//! How many there are of what must not be left over: each carries a token.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Threads of the kernel's and of programs.
    Task,
    /// Processes' memory.
    AddressSpace,
    /// Open file descriptions.
    File,
    /// Virtual machines.
    Vm,
    /// Virtual CPUs.
    Vcpu,
    /// Stage-2 address spaces: each has a VMID once it ran.
    Stage2,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 6] =
        [Kind::Task, Kind::AddressSpace, Kind::File, Kind::Vm, Kind::Vcpu, Kind::Stage2];

    /// A word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Task => "tasks",
            Kind::AddressSpace => "spaces",
            Kind::File => "files",
            Kind::Vm => "vms",
            Kind::Vcpu => "vcpus",
            Kind::Stage2 => "vmids",
        }
    }

    /// How many there are now.
    pub fn alive(self) -> u64 {
        ALIVE.get(self as usize).map_or(0, |count| count.load(Relaxed))
    }
}

static ALIVE: [AtomicU64; Kind::ALL.len()] = [const { AtomicU64::new(0) }; Kind::ALL.len()];

/// Part of what is counted, from its making to its drop.
#[derive(Debug)]
pub struct Counted(Kind);

impl Counted {
    /// One more.
    pub fn new(kind: Kind) -> Counted {
        if let Some(count) = ALIVE.get(kind as usize) {
            count.fetch_add(1, Relaxed);
        }
        Counted(kind)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(count) = ALIVE.get(self.0 as usize) {
            count.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (number, kind) in Kind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, number);
        }
        let before = Kind::Vcpu.alive();
        let one = Counted::new(Kind::Vcpu);
        assert_eq!(Kind::Vcpu.alive(), before + 1);
        drop(one);
        assert_eq!(Kind::Vcpu.alive(), before);
    }
}
