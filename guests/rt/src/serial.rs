//! The serial port, for words: a 16550 or a PL011.

use crate::mmio;
use core::fmt::{Arguments, Write};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

static BASE: AtomicU64 = AtomicU64::new(0);
static BUSY: AtomicBool = AtomicBool::new(false);

static PL011: AtomicBool = AtomicBool::new(false);

struct Port(u64);

impl Port {
    fn has_room(&self) -> bool {
        if PL011.load(Ordering::Relaxed) {
            // UARTFR.TXFF
            mmio::read32(self.0 + 0x18) & 0x20 == 0
        } else {
            // Line status, bit 5.
            mmio::read8(self.0 + 5) & 0x20 != 0
        }
    }
}

impl Write for Port {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        for b in s.bytes() {
            // A device that is stuck shouldn't stop us.
            let _ = (0..10_000).any(|_| self.has_room());
            mmio::write8(self.0, b);
        }
        Ok(())
    }
}

/// Where the registers are, and whose.
pub fn set(base: u64, pl011: bool) {
    PL011.store(pl011, Ordering::Relaxed);
    BASE.store(base, Ordering::Relaxed);
}

/// A byte, at once: for those who want to be a nuisance.
pub fn byte(b: u8) {
    match BASE.load(Ordering::Relaxed) {
        0 => {}
        base => mmio::write8(base, b),
    }
}

/// The settings that words need, after somebody stored anything anywhere: no
/// divisor latch, no loopback.
pub fn recover() {
    let base = BASE.load(Ordering::Relaxed);
    if base != 0 && !PL011.load(Ordering::Relaxed) {
        mmio::write8(base + 3, 3); // Line control.
        mmio::write8(base + 4, 0); // Modem control.
    }
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
