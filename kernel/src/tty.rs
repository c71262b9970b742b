//! The console as a terminal: bytes from the serial port to the line
//! discipline.

use crate::console;

/// The serial port has bytes.
pub fn interrupt() {
    while console::read().is_some() {}
}
