//! The console as a terminal: bytes from the serial port to the line
//! discipline, and back.

use crate::machine::SerialKind;
use crate::process::{signals, table};
use crate::{console, fs, memory};
use ::tty::{Tty, TtyDriver, TtyHost, Ttys};
use alloc::sync::Arc;
use signal::{SigInfo, Signal};
use spin::Once;
use vfs::Caller;
use vfs::device::{self, DeviceRegistry};

static TTYS: Once<Arc<Ttys>> = Once::new();
static CONSOLE: Once<Arc<Tty>> = Once::new();

struct Driver;

impl TtyDriver for Driver {
    fn put(&self, bytes: &[u8]) {
        console::write(bytes);
    }
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
    if console::is_there() {
        let kind = memory::machine().and_then(|machine| Some(machine.serial.as_ref()?.kind));
        let (name, dev) = match kind {
            Some(SerialKind::Ns16550 { .. }) => ("ttyS0", device::TTY_S0),
            _ => ("ttyAMA0", device::TTY_AMA0),
        };
        let tty = Tty::new(name, dev, Arc::new(Driver), Arc::new(Host), fs::timers());
        ttys.add(tty.clone(), true);
        CONSOLE.call_once(|| tty);
    }
    ttys.register(devices);
    console::enable_input(input);
}

/// The name of the terminal that /dev/console is.
pub fn console_name() -> Option<&'static str> {
    CONSOLE.get().map(|tty| tty.name())
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

/// Bytes from the serial port.
fn input(bytes: &[u8]) {
    if let Some(tty) = CONSOLE.get() {
        tty.input(bytes);
    }
}
