//! The alternate signal stack (sigaltstack(2)).

use base::{Errno, Result};

/// The smallest alternate stack that sigaltstack() takes: arm64's MINSIGSTKSZ.
pub const MIN_STACK: u64 = 5120;

/// stack_t, as in user memory: sp, flags, size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct UserStack {
    /// ss_sp: the lowest address.
    pub sp: u64,
    /// ss_flags
    pub flags: u32,
    /// ss_size
    pub size: u64,
}

impl UserStack {
    /// From the three words of stack_t (flags are the low half of the second).
    pub const fn from_words([sp, flags, size]: [u64; 3]) -> UserStack {
        UserStack { sp, flags: flags as u32, size }
    }

    /// The same words.
    pub const fn to_words(&self) -> [u64; 3] {
        [self.sp, self.flags as u64, self.size]
    }
}

const ONSTACK: u32 = 1;
const DISABLE: u32 = 2;
const AUTODISARM: u32 = 1 << 31;

/// A thread's alternate stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AltStack(UserStack);

impl AltStack {
    /// None: what a new program has, and a new thread.
    pub const fn new() -> AltStack {
        AltStack(UserStack { sp: 0, flags: DISABLE, size: 0 })
    }

    /// Whether `sp` is on it. With SS_AUTODISARM a handler never is, since the
    /// stack is disarmed while it runs.
    pub fn contains(&self, sp: u64) -> bool {
        // The stack grows down: its top counts, its lowest address doesn't.
        self.0.flags & AUTODISARM == 0
            && sp > self.0.sp
            && sp.wrapping_sub(self.0.sp) <= self.0.size
    }

    /// What sigaltstack() reports to a thread at `sp`.
    pub fn report(&self, sp: u64) -> UserStack {
        let state = match () {
            () if self.0.size == 0 => DISABLE,
            () if self.contains(sp) => ONSTACK,
            () => 0,
        };
        UserStack { flags: state | self.0.flags & AUTODISARM, ..self.0 }
    }

    /// sigaltstack(): `EPERM` on the stack itself, `EINVAL` for unknown flags,
    /// `ENOMEM` if it is too small.
    pub fn set(&mut self, new: UserStack, sp: u64) -> Result<()> {
        if self.contains(sp) {
            return Err(Errno::EPERM);
        }
        match new.flags & !AUTODISARM {
            DISABLE => self.0 = UserStack { sp: 0, size: 0, ..new },
            0 | ONSTACK if new.size < MIN_STACK => return Err(Errno::ENOMEM),
            0 | ONSTACK => self.0 = new,
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    /// Where a handler's frame goes below: the alternate stack's top if
    /// `on_stack` (SA_ONSTACK) asks for it and `sp` isn't there yet.
    pub fn frame_top(&self, sp: u64, on_stack: bool) -> u64 {
        let armed = self.0.size != 0 && !self.contains(sp);
        if on_stack && armed { self.0.sp.wrapping_add(self.0.size) } else { sp }
    }

    /// What the frame remembers; an SS_AUTODISARM stack is gone after that,
    /// until sigreturn.
    pub fn save(&mut self) -> UserStack {
        let saved = self.0;
        if saved.flags & AUTODISARM != 0 {
            *self = AltStack::new();
        }
        saved
    }
}

impl Default for AltStack {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STACK: UserStack = UserStack { sp: 0x10000, flags: 0, size: 0x2000 };

    #[test]
    fn set_and_report() {
        let mut alt = AltStack::new();
        assert_eq!(alt.report(0x11000).flags, DISABLE);
        alt.set(STACK, 0x9000).unwrap();
        assert_eq!(alt.report(0x9000), STACK);
        assert_eq!(alt.report(0x11000).flags, ONSTACK);
        assert_eq!(alt.set(STACK, 0x11000), Err(Errno::EPERM));
        assert_eq!(alt.set(UserStack { flags: 4, ..STACK }, 0), Err(Errno::EINVAL));
        assert_eq!(alt.set(UserStack { size: 5119, ..STACK }, 0), Err(Errno::ENOMEM));
        alt.set(UserStack { flags: DISABLE, ..STACK }, 0).unwrap();
        assert_eq!(alt.report(0x11000), UserStack { sp: 0, flags: DISABLE, size: 0 });
    }

    #[test]
    fn where_frames_go() {
        let mut alt = AltStack::new();
        assert_eq!(alt.frame_top(0x9000, true), 0x9000);
        alt.set(STACK, 0).unwrap();
        assert_eq!(alt.frame_top(0x9000, true), 0x12000);
        assert_eq!(alt.frame_top(0x9000, false), 0x9000);
        assert_eq!(alt.frame_top(0x11000, true), 0x11000);
        assert_eq!(alt.frame_top(0x12000, true), 0x12000);
        assert!(!alt.contains(0x10000));
    }

    #[test]
    fn disarmed_while_used() {
        let mut alt = AltStack::new();
        let stack = UserStack { flags: AUTODISARM, ..STACK };
        alt.set(stack, 0).unwrap();
        assert_eq!(alt.report(0x11000).flags, AUTODISARM);
        assert_eq!(alt.save(), stack);
        assert_eq!(alt, AltStack::new());
        alt.set(stack, 0x11000).unwrap();
        let mut wrapping = AltStack::new();
        wrapping.set(UserStack { sp: u64::MAX - 9, flags: 0, size: u64::MAX }, 0).unwrap();
        assert!(wrapping.contains(u64::MAX));
    }
}
