//! siginfo_t (sigaction(2), "The siginfo_t argument").

use crate::set::Signal;
use base::{Errno, Result};

/// Values of si_code (asm-generic/siginfo.h).
#[expect(missing_docs, reason = "sigaction(2) has them")]
pub mod code {
    pub const SI_USER: i32 = 0;
    pub const SI_KERNEL: i32 = 0x80;
    pub const SI_QUEUE: i32 = -1;
    pub const SI_TIMER: i32 = -2;
    pub const SI_TKILL: i32 = -6;
    pub const ILL_ILLOPC: i32 = 1;
    pub const FPE_FLTINV: i32 = 7;
    pub const SEGV_MAPERR: i32 = 1;
    pub const SEGV_ACCERR: i32 = 2;
    pub const BUS_ADRALN: i32 = 1;
    pub const BUS_ADRERR: i32 = 2;
    pub const BUS_OBJERR: i32 = 3;
    pub const TRAP_BRKPT: i32 = 1;
    pub const CLD_EXITED: i32 = 1;
    pub const CLD_KILLED: i32 = 2;
    pub const CLD_DUMPED: i32 = 3;
    pub const CLD_STOPPED: i32 = 5;
    pub const CLD_CONTINUED: i32 = 6;
}

/// What comes with a signal. 48 bytes are all that any kind uses of
/// siginfo_t's 128.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SigInfo {
    signal: Signal,
    errno: i32,
    code: i32,
    // si_fields, from offset 16.
    fields: [u64; 4],
}

impl SigInfo {
    /// The size of siginfo_t.
    pub const SIZE: usize = 128;

    /// A signal with only a code: SI_KERNEL and the like.
    pub const fn kernel(signal: Signal, code: i32) -> SigInfo {
        SigInfo { signal, errno: 0, code, fields: [0; 4] }
    }

    /// From kill() (SI_USER) or tgkill() (SI_TKILL).
    pub fn user(signal: Signal, code: i32, pid: u32, uid: u32) -> SigInfo {
        SigInfo { signal, errno: 0, code, fields: [pair(pid, uid), 0, 0, 0] }
    }

    /// From a fault at `addr`.
    pub const fn fault(signal: Signal, code: i32, addr: u64) -> SigInfo {
        SigInfo { signal, errno: 0, code, fields: [addr, 0, 0, 0] }
    }

    /// SIGCHLD (or another signal a parent asked for): times in clock ticks.
    pub fn child(
        signal: Signal,
        code: i32,
        (pid, uid): (u32, u32),
        status: i32,
        (utime, stime): (u64, u64),
    ) -> SigInfo {
        let fields = [pair(pid, uid), u64::from(status.cast_unsigned()), utime, stime];
        SigInfo { signal, errno: 0, code, fields }
    }

    /// From a POSIX timer.
    pub fn timer(signal: Signal, timer: u32, overrun: u32, value: u64) -> SigInfo {
        let fields = [pair(timer, overrun), value, 0, 0];
        SigInfo { signal, errno: 0, code: code::SI_TIMER, fields }
    }

    /// What rt_sigqueueinfo() was given: the signal is the call's own argument.
    pub fn from_user(signal: Signal, bytes: &[u8; Self::SIZE]) -> SigInfo {
        let word = |at: usize| {
            let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk());
            u64::from_le_bytes(bytes.copied().unwrap_or_default())
        };
        let errno = (word(0) >> 32) as u32;
        SigInfo {
            signal,
            errno: errno.cast_signed(),
            code: (word(8) as u32).cast_signed(),
            fields: [word(16), word(24), word(32), word(40)],
        }
    }

    /// Which signal.
    pub const fn signal(&self) -> Signal {
        self.signal
    }

    /// si_code
    pub const fn code(&self) -> i32 {
        self.code
    }

    /// si_pid, of those kinds that have it.
    pub const fn pid(&self) -> u32 {
        self.fields[0] as u32
    }

    /// si_uid, of those kinds that have it.
    pub const fn uid(&self) -> u32 {
        (self.fields[0] >> 32) as u32
    }

    /// si_addr of a fault.
    pub const fn addr(&self) -> u64 {
        self.fields[0]
    }

    /// si_status of SIGCHLD.
    pub const fn status(&self) -> i32 {
        (self.fields[1] as u32).cast_signed()
    }

    /// Whether user space made it (SI_USER, SI_QUEUE, SI_TKILL ...).
    pub const fn is_from_user(&self) -> bool {
        self.code <= 0
    }

    /// Whether another process may send this by rt_sigqueueinfo(): it may not
    /// pose as the kernel or as kill(). `EPERM`.
    pub fn check_queued_for_other(&self) -> Result<()> {
        if self.code >= 0 || self.code == code::SI_TKILL { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// As user memory has it.
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let words = [
            pair(u32::from(self.signal.number()), self.errno.cast_unsigned()),
            u64::from(self.code.cast_unsigned()),
        ];
        let words = words.iter().chain(&self.fields);
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn i32_at(bytes: &[u8], at: usize) -> i32 {
        i32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn layout() {
        let info = SigInfo::child(Signal::SIGCHLD, code::CLD_EXITED, (42, 7), -3, (5, 6));
        let bytes = info.to_bytes();
        let words = [0, 4, 8, 16, 20, 24, 32, 40].map(|at| i32_at(&bytes, at));
        assert_eq!(words, [17, 0, 1, 42, 7, -3, 5, 6]);
        assert_eq!((info.pid(), info.uid(), info.status()), (42, 7, -3));
        let fault = SigInfo::fault(Signal::SIGSEGV, code::SEGV_MAPERR, 0x1234_5678_9abc);
        assert_eq!(fault.to_bytes()[16..24], 0x1234_5678_9abc_u64.to_le_bytes());
        assert!(!fault.is_from_user());
    }

    #[test]
    fn who_may_pose_as_whom() {
        let with = |code| SigInfo::kernel(Signal::SIGUSR1, code).check_queued_for_other();
        assert_eq!(with(code::SI_QUEUE), Ok(()));
        assert_eq!(with(code::SI_USER), Err(Errno::EPERM));
        assert_eq!(with(code::SI_KERNEL), Err(Errno::EPERM));
        assert_eq!(with(code::SI_TKILL), Err(Errno::EPERM));
    }

    proptest! {
        #[test]
        fn user_bytes_round_trip(head in any::<[u8; 32]>(), tail in any::<[u8; 16]>()) {
            let mut bytes = [0; 128];
            bytes[..32].copy_from_slice(&head);
            bytes[32..48].copy_from_slice(&tail);
            bytes[..4].copy_from_slice(&10u32.to_le_bytes());
            bytes[12..16].fill(0);
            let info = SigInfo::from_user(Signal::SIGUSR1, &bytes);
            prop_assert_eq!(info.to_bytes(), bytes);
        }
    }
}
