//! Users, groups and resource limits. Everybody is root: IDs are kept and
//! shown, and grant or deny nothing.

use alloc::sync::Arc;
use alloc::vec::Vec;
use base::{Errno, Result};

/// Real, effective and saved ID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// Real.
    pub real: u32,
    /// Effective.
    pub effective: u32,
    /// Saved.
    pub saved: u32,
}

impl Ids {
    /// setresuid(): u32::MAX leaves one as it is.
    pub fn set(&mut self, real: u32, effective: u32, saved: u32) {
        for (id, new) in [
            (&mut self.real, real),
            (&mut self.effective, effective),
            (&mut self.saved, saved),
        ] {
            if new != u32::MAX {
                *id = new;
            }
        }
    }

    /// setreuid(): the saved one follows, as POSIX has it.
    pub fn set_real_effective(&mut self, real: u32, effective: u32) {
        let follows = real != u32::MAX || (effective != u32::MAX && effective != self.real);
        self.set(real, effective, if follows && effective != u32::MAX { effective } else { u32::MAX });
    }
}

/// Whose a process is.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Users.
    pub user: Ids,
    /// Groups.
    pub group: Ids,
    /// Further groups: up to 256 KiB, so that processes share them and no copy
    /// is ever made.
    pub groups: Arc<Vec<u32>>,
}

/// Resources, as getrlimit(2) numbers them (asm-generic/resource.h).
pub mod resource {
    /// RLIMIT_FSIZE
    pub const FSIZE: usize = 1;
    /// RLIMIT_STACK
    pub const STACK: usize = 3;
    /// RLIMIT_NOFILE
    pub const NOFILE: usize = 7;
    /// RLIMIT_AS
    pub const AS: usize = 9;
    /// RLIMIT_SIGPENDING
    pub const SIGPENDING: usize = 11;
    /// How many there are.
    pub const COUNT: usize = 16;
}

/// RLIM_INFINITY
pub const INFINITY: u64 = u64::MAX;

/// Resource limits: soft and hard.
#[derive(Clone, Copy, Debug)]
pub struct Limits([(u64, u64); resource::COUNT]);

impl Limits {
    /// What init has on Linux.
    pub const fn new() -> Limits {
        const NONE: (u64, u64) = (INFINITY, INFINITY);
        Limits([
            NONE,                  // CPU
            NONE,                  // FSIZE
            NONE,                  // DATA
            (8 << 20, INFINITY),   // STACK
            (0, INFINITY),         // CORE
            NONE,                  // RSS
            (8192, 8192),          // NPROC
            (1024, 4096),          // NOFILE
            (8 << 20, 8 << 20),    // MEMLOCK
            NONE,                  // AS
            NONE,                  // LOCKS
            (8192, 8192),          // SIGPENDING
            (819_200, 819_200),    // MSGQUEUE
            (0, 0),                // NICE
            (0, 0),                // RTPRIO
            NONE,                  // RTTIME
        ])
    }

    /// Soft and hard limit; `EINVAL` for a resource that isn't.
    pub fn get(&self, resource: usize) -> Result<(u64, u64)> {
        self.0.get(resource).copied().ok_or(Errno::EINVAL)
    }

    /// The soft limit.
    pub fn soft(&self, resource: usize) -> u64 {
        self.0.get(resource).map_or(INFINITY, |limit| limit.0)
    }

    /// Sets both; `EINVAL` if the soft one is above the hard one, `EPERM` for
    /// more descriptors than there can be.
    pub fn set(&mut self, resource: usize, soft: u64, hard: u64) -> Result<()> {
        let limit = self.0.get_mut(resource).ok_or(Errno::EINVAL)?;
        if soft > hard {
            return Err(Errno::EINVAL);
        }
        if resource == self::resource::NOFILE && hard > u64::from(vfs::fdtable::NR_OPEN) {
            return Err(Errno::EPERM);
        }
        *limit = (soft, hard);
        Ok(())
    }
}
