//! The serial ports: output for the log and the terminals, input by interrupt.

use crate::machine::{Machine, Serial, SerialKind};
use crate::{gic, memory};
use alloc::vec::Vec;
use arch::mmio::Mmio;
use base::{Lock, rank};
use bootargs::Console;
use core::sync::atomic::{AtomicBool, Ordering};
use spin::Once;

struct Port {
    kind: SerialKind,
    registers: Mmio,
    /// Where they are, physical.
    base: u64,
    /// One writes or reads at a time.
    busy: Lock<()>,
}

/// As `Machine::serials` has them.
static PORTS: Once<Vec<Port>> = Once::new();
/// What speaks until those are there.
static EARLY: Once<Port> = Once::new();
/// `earlycon` asks for that; else it speaks only of a panic.
static EARLY_ON: AtomicBool = AtomicBool::new(false);
static SINK: Once<fn(usize, &[u8])> = Once::new();
static PANICKED: AtomicBool = AtomicBool::new(false);

impl Port {
    /// Of registers that are mapped.
    fn new(serial: &Serial) -> Port {
        let registers = memory::mmio(serial.registers);
        let base = serial.registers.base;
        Port { kind: serial.kind, registers, base, busy: Lock::new(rank::LOG, ()) }
    }
}

/// Memory isn't set up yet, but the registers of [`Machine::first_port`] are mapped.
pub fn early(machine: &Machine) {
    if let Some(serial) = machine.first_port() {
        EARLY.call_once(|| Port::new(serial));
        EARLY_ON.store(machine.early.is_some(), Ordering::Relaxed);
    }
}

/// The ports, from here on.
pub fn init(machine: &Machine) {
    PORTS.call_once(|| machine.serials.iter().map(Port::new).collect());
}

/// The kernel is up: `earlycon` ends where another console is.
pub fn end_early(machine: &Machine) {
    if machine.lasting_earlycon().is_none() && EARLY_ON.load(Ordering::Relaxed) {
        log::info!("earlycon: ends here");
        EARLY_ON.store(false, Ordering::Relaxed);
    }
}

/// The port that /dev/console is, if it is one.
pub fn main() -> Option<usize> {
    match memory::machine()?.consoles.console {
        Console::Port(port) => Some(port),
        Console::Null | Console::Nothing => None,
    }
}

/// Shows a piece of the log.
pub fn log(bytes: &[u8]) {
    let (there, panicked) = (PORTS.get().is_some(), PANICKED.load(Ordering::Relaxed));
    let speaks = EARLY_ON.load(Ordering::Relaxed) || (panicked && !there);
    let early = EARLY.get().filter(|_| speaks);
    if let Some(port) = early {
        port.write(bytes);
    }
    let Some(ports) = PORTS.get() else { return };
    let shown = memory::machine().map_or(&[][..], |machine| &machine.consoles.log);
    for port in shown.iter().filter_map(|port| ports.get(*port)) {
        // Not twice, where both are the same.
        if early.is_none_or(|early| early.base != port.base) {
            port.write(bytes);
        }
    }
}

/// Writes bytes to a port as they are.
pub fn write(port: usize, bytes: &[u8]) {
    if let Some(port) = PORTS.get().and_then(|ports| ports.get(port)) {
        port.write(bytes);
    }
}

/// From here on ports are written without waiting for their locks.
pub fn panicked() {
    PANICKED.store(true, Ordering::Relaxed);
}

/// A byte that has come in, if there is one.
fn read(port: usize) -> Option<u8> {
    PORTS.get()?.get(port)?.read()
}

/// Lets ports interrupt when bytes come in, and says who gets them.
pub fn enable_input(wanted: impl Fn(usize) -> bool, sink: fn(usize, &[u8])) {
    SINK.call_once(|| sink);
    let serials = memory::machine().map_or(&[][..], |machine| &machine.serials);
    let ports = PORTS.get().into_iter().flatten().zip(serials).enumerate();
    for (_, (port, serial)) in ports.filter(|(number, _)| wanted(*number)) {
        if let Some(intid) = serial.intid {
            gic::enable(intid);
            port.enable_input();
        }
    }
}

/// The most that one interrupt takes: a flood must not starve the rest.
const BURST: usize = 64;

/// An interrupt. Whether it is a port's, which has bytes.
pub fn interrupt(intid: u32) -> bool {
    let serials = memory::machine().map_or(&[][..], |machine| &machine.serials);
    let Some(port) = serials.iter().position(|serial| serial.intid == Some(intid)) else {
        return false;
    };
    let mut bytes = [0u8; BURST];
    let mut count = 0usize;
    for (slot, byte) in bytes.iter_mut().zip(core::iter::from_fn(|| read(port))) {
        *slot = byte;
        count = count.saturating_add(1);
    }
    if let (Some(sink), Some(bytes)) = (SINK.get(), bytes.get(..count)) {
        sink(port, bytes);
    }
    true
}

// PL011 registers (Arm DDI 0183).
const DR: u64 = 0x00;
const FR: u64 = 0x18;
const FR_RXFE: u32 = 1 << 4;
const FR_TXFF: u32 = 1 << 5;
const IMSC: u64 = 0x38;
const ICR: u64 = 0x44;
const RX_AND_TIMEOUT: u32 = 1 << 4 | 1 << 6;

// 16550 registers, and bits of the line status.
const IER: u64 = 1;
const LSR: u64 = 5;
const LSR_DR: u8 = 1 << 0;
const LSR_THRE: u8 = 1 << 5;

/// How often a full transmit buffer is looked at before a byte is dropped: a
/// stuck port must not hold the machine.
const PATIENCE: u32 = 1_000_000;

impl Port {
    fn write(&self, bytes: &[u8]) {
        // In a panic whoever holds it may be the one that panicked.
        let _busy = if PANICKED.load(Ordering::Relaxed) {
            self.busy.try_lock()
        } else {
            Some(self.busy.lock())
        };
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
            SerialKind::Ns16550 { .. } => self.set(0, byte),
        }
    }

    fn can_write(&self) -> bool {
        match self.kind {
            SerialKind::Pl011 => self.registers.read32(FR) & FR_TXFF == 0,
            SerialKind::Ns16550 { .. } => self.get(LSR) & LSR_THRE != 0,
        }
    }

    fn read(&self) -> Option<u8> {
        let _busy = self.busy.lock();
        match self.kind {
            SerialKind::Pl011 => {
                self.registers.write32(ICR, RX_AND_TIMEOUT);
                let empty = self.registers.read32(FR) & FR_RXFE != 0;
                (!empty).then(|| (self.registers.read32(DR) & 0xff) as u8)
            }
            SerialKind::Ns16550 { .. } => {
                let ready = self.get(LSR) & LSR_DR != 0;
                ready.then(|| self.get(0))
            }
        }
    }

    fn enable_input(&self) {
        let _busy = self.busy.lock();
        match self.kind {
            SerialKind::Pl011 => self.registers.write32(IMSC, RX_AND_TIMEOUT),
            SerialKind::Ns16550 { .. } => self.set(IER, 1),
        }
    }

    /// A 16550's register.
    fn get(&self, register: u64) -> u8 {
        match self.kind {
            SerialKind::Ns16550 { shift, words: true } => self.registers.read32(register << shift) as u8,
            SerialKind::Ns16550 { shift, .. } => self.registers.read8(register << shift),
            SerialKind::Pl011 => 0,
        }
    }

    fn set(&self, register: u64, value: u8) {
        match self.kind {
            SerialKind::Ns16550 { shift, words: true } => {
                self.registers.write32(register << shift, u32::from(value));
            }
            SerialKind::Ns16550 { shift, .. } => self.registers.write8(register << shift, value),
            SerialKind::Pl011 => {}
        }
    }
}
