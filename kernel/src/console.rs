//! The serial console: output for the log and the tty, input by interrupt.

use crate::machine::{Machine, Serial, SerialKind};
use crate::{gic, memory};
use arch::mmio::Mmio;
use base::{Lock, rank};
use core::sync::atomic::{AtomicBool, Ordering};
use spin::Once;

struct Port {
    kind: SerialKind,
    registers: Mmio,
}

static PORT: Once<Lock<Port>> = Once::new();
static INTID: Once<u32> = Once::new();
static SINK: Once<fn(&[u8])> = Once::new();
static PANICKED: AtomicBool = AtomicBool::new(false);

/// Finds the console's port and shows what the log holds so far.
pub fn init(machine: &Machine) {
    let Some(Serial { kind, registers, intid }) = &machine.serial else { return };
    let port = Port { kind: *kind, registers: memory::mmio(*registers) };
    PORT.call_once(|| Lock::new(rank::LOG, port));
    if let Some(intid) = intid {
        INTID.call_once(|| *intid);
    }
}

/// Whether there is a port.
pub fn is_there() -> bool {
    PORT.get().is_some()
}

/// The INTID of the port's interrupt.
pub fn intid() -> Option<u32> {
    INTID.get().copied()
}

/// Writes bytes as they are.
pub fn write(bytes: &[u8]) {
    if let Some(port) = PORT.get() {
        if PANICKED.load(Ordering::Relaxed) {
            // Whoever holds the lock may be the one that panicked.
            match port.try_lock() {
                Some(port) => port.write(bytes),
                None => write_unlocked(bytes),
            }
        } else {
            port.lock().write(bytes);
        }
    }
}

fn write_unlocked(bytes: &[u8]) {
    if let Some(Serial { kind, registers, .. }) = memory::machine().and_then(|m| m.serial.as_ref()) {
        Port { kind: *kind, registers: memory::mmio(*registers) }.write(bytes);
    }
}

/// From here on the console is written without waiting for its lock.
pub fn panicked() {
    PANICKED.store(true, Ordering::Relaxed);
}

/// A byte that has come in, if there is one.
fn read() -> Option<u8> {
    PORT.get()?.lock().read()
}

/// Lets the port interrupt when bytes come in, and says who gets them.
pub fn enable_input(sink: fn(&[u8])) {
    SINK.call_once(|| sink);
    if let (Some(port), Some(intid)) = (PORT.get(), intid()) {
        gic::enable(intid);
        port.lock().enable_input();
    }
}

/// The most that one interrupt takes: a flood must not starve the rest.
const BURST: usize = 64;

/// The port has bytes.
pub fn interrupt() {
    let mut bytes = [0u8; BURST];
    let mut count = 0usize;
    for (slot, byte) in bytes.iter_mut().zip(core::iter::from_fn(read)) {
        *slot = byte;
        count = count.saturating_add(1);
    }
    if let (Some(sink), Some(bytes)) = (SINK.get(), bytes.get(..count)) {
        sink(bytes);
    }
}

// PL011 registers (Arm DDI 0183).
const DR: u64 = 0x00;
const FR: u64 = 0x18;
const FR_RXFE: u32 = 1 << 4;
const FR_TXFF: u32 = 1 << 5;
const IMSC: u64 = 0x38;
const ICR: u64 = 0x44;
const RX_AND_TIMEOUT: u32 = 1 << 4 | 1 << 6;

/// How often a full transmit buffer is looked at before a byte is dropped: a
/// stuck port must not hold the machine.
const PATIENCE: u32 = 1_000_000;

impl Port {
    fn write(&self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_byte(byte);
        }
    }

    fn write_byte(&self, byte: u8) {
        for _ in 0..PATIENCE {
            if self.can_write() {
                break;
            }
            core::hint::spin_loop();
        }
        match self.kind {
            SerialKind::Pl011 => self.registers.write32(DR, u32::from(byte)),
            SerialKind::Ns16550 { .. } => self.registers.write8(0, byte),
        }
    }

    fn can_write(&self) -> bool {
        match self.kind {
            SerialKind::Pl011 => self.registers.read32(FR) & FR_TXFF == 0,
            SerialKind::Ns16550 { shift } => self.registers.read8(5 << shift) & 0x20 != 0,
        }
    }

    fn read(&self) -> Option<u8> {
        match self.kind {
            SerialKind::Pl011 => {
                self.registers.write32(ICR, RX_AND_TIMEOUT);
                let empty = self.registers.read32(FR) & FR_RXFE != 0;
                (!empty).then(|| (self.registers.read32(DR) & 0xff) as u8)
            }
            SerialKind::Ns16550 { shift } => {
                let ready = self.registers.read8(5 << shift) & 1 != 0;
                ready.then(|| self.registers.read8(0))
            }
        }
    }

    fn enable_input(&self) {
        match self.kind {
            SerialKind::Pl011 => self.registers.write32(IMSC, RX_AND_TIMEOUT),
            SerialKind::Ns16550 { shift } => self.registers.write8(1 << shift, 1),
        }
    }
}
