//! The 16550, for words.

use crate::mmio;
use core::fmt::{Arguments, Write};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

static BASE: AtomicU64 = AtomicU64::new(0);
static BUSY: AtomicBool = AtomicBool::new(false);

struct Port(u64);

impl Write for Port {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        for b in s.bytes() {
            // Line status, bit 5: there is room. A device that is stuck shouldn't stop us.
            for _ in 0..10_000 {
                if mmio::read8(self.0 + 5) & 0x20 != 0 {
                    break;
                }
            }
            mmio::write8(self.0, b);
        }
        Ok(())
    }
}

/// Where the registers are.
pub fn set(base: u64) {
    BASE.store(base, Ordering::Relaxed);
}

/// One line, whole, from any CPU.
pub fn line(words: Arguments<'_>) {
    let base = BASE.load(Ordering::Relaxed);
    if base == 0 {
        return;
    }
    while BUSY.swap(true, Ordering::Acquire) {
        core::hint::spin_loop();
    }
    let _ = writeln!(Port(base), "{words}\r");
    BUSY.store(false, Ordering::Release);
}
