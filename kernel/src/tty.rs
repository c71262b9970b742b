//! The serial ports as terminals: bytes from the port to the line discipline,
//! and back.

use crate::machine::SerialKind;
use crate::process::{signals, table};
use crate::{console, fs, memory};
use ::tty::{Tty, TtyDriver, TtyHost, Ttys};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bootargs::Console;
use signal::{SigInfo, Signal};
use spin::Once;
use vfs::{Caller, DevId};
use vfs::device::{self, DeviceRegistry};

static TTYS: Once<Arc<Ttys>> = Once::new();
/// Those of the ports.
static PORTS: Once<Vec<Arc<Tty>>> = Once::new();

/// Of a port.
struct Driver(usize);

impl TtyDriver for Driver {
    fn put(&self, bytes: &[u8]) {
        console::write(self.0, bytes);
    }
}

/// Linux's ttynull.
struct Null;

impl TtyDriver for Null {
    fn put(&self, _: &[u8]) {}
}

struct Host;

/// SI_KERNEL
const FROM_KERNEL: i32 = 0x80;

impl TtyHost for Host {
    fn signal_group(&self, pgid: u32, signal: u32) {
        if let Ok(signal) = Signal::new(u64::from(signal)) {
            // An empty group has nobody to tell.
            let _ = signals::send_group(pgid, SigInfo::kernel(signal, FROM_KERNEL));
        }
    }

    fn is_blocked_or_ignored(&self, caller: &Caller, signal: u32) -> bool {
        let Ok(signal) = Signal::new(u64::from(signal)) else { return true };
        table::process(caller.pid).is_ok_and(|process| !process.would_stop(signal))
    }

    fn is_orphaned(&self, pgid: u32) -> bool {
        table::is_orphaned(pgid)
    }

    fn session_of_group(&self, pgid: u32) -> Option<u32> {
        table::session_of_group(pgid)
    }
}

/// Makes the console's terminal and its devices.
pub fn register(devices: &DeviceRegistry) {
    let ttys = TTYS.call_once(Ttys::new);
    let Some(machine) = memory::machine() else { return };
    let make = |name, dev, driver| Tty::new(name, dev, driver, Arc::new(Host), fs::timers());
    let ports = machine.serials.iter().enumerate().map(|(port, serial)| {
        let first = match serial.kind {
            SerialKind::Ns16550 { .. } => device::TTY_S0,
            SerialKind::Pl011 => device::TTY_AMA0,
        };
        let dev = DevId::new(first.major, first.minor.wrapping_add(serial.number));
        let tty = make(serial.name, dev, Arc::new(Driver(port)) as Arc<dyn TtyDriver>);
        ttys.add(tty.clone(), machine.consoles.console == Console::Port(port));
        tty
    });
    PORTS.call_once(|| ports.collect());
    if machine.consoles.console == Console::Null {
        ttys.add(make("ttynull", device::TTY_NULL, Arc::new(Null)), true);
    }
    ttys.register(devices);
    console::enable_input(|_| true, input);
}

/// The name of the terminal that /dev/console is.
pub fn console_name() -> Option<&'static str> {
    TTYS.get()?.console().map(|tty| tty.name())
}

/// The leader of `session` has ended: it loses its terminal.
pub fn session_ended(session: u32) {
    if let Some(ttys) = TTYS.get() {
        ttys.session_ended(session);
    }
}

/// The controlling terminal of a session, as /proc/PID/stat has it: its device
/// number and foreground group.
pub fn of_session(session: u32) -> Option<(u64, u32)> {
    let tty = TTYS.get()?.of_session(session)?;
    Some((tty.dev().encode(), tty.session()?.1))
}

/// Bytes from a serial port.
fn input(port: usize, bytes: &[u8]) {
    if let Some(tty) = PORTS.get().and_then(|ports| ports.get(port)) {
        tty.input(bytes);
    }
}
