//! The terminal's raw mode, and its way back.

use std::mem::MaybeUninit;
use std::sync::Mutex;

use crate::sync::lock;

/// What the terminal was before; kept here so that a panic or a signal can restore it from anywhere.
static SAVED: Mutex<Option<libc::termios>> = Mutex::new(None);

/// Raw mode, until it is dropped.
pub struct RawMode(());

impl RawMode {
    /// Makes standard input raw, if it is a terminal.
    pub fn enter() -> Option<RawMode> {
        let mut before = MaybeUninit::uninit();
        // SAFETY: tcgetattr writes a termios to the pointer if it returns 0, and says so if it is no terminal.
        if unsafe { libc::tcgetattr(libc::STDIN_FILENO, before.as_mut_ptr()) } != 0 {
            return None;
        }
        // SAFETY: it returned 0.
        let before = unsafe { before.assume_init() };
        let mut raw = before;
        raw.c_iflag &= !(libc::IGNBRK
            | libc::BRKINT
            | libc::PARMRK
            | libc::ISTRIP
            | libc::INLCR
            | libc::IGNCR
            | libc::ICRNL
            | libc::IXON);
        raw.c_lflag &= !(libc::ECHO | libc::ECHONL | libc::ICANON | libc::ISIG | libc::IEXTEN);
        raw.c_cflag &= !(libc::CSIZE | libc::PARENB);
        raw.c_cflag |= libc::CS8;
        // Output processing stays: our own messages end lines with \n alone.
        *lock(&SAVED) = Some(before);
        set(&raw);
        // A panic in a release build aborts, so that no destructor runs.
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            report(info);
        }));
        Some(RawMode(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back to what it was, if it was changed.
pub fn restore() {
    if let Some(before) = lock(&SAVED).take() {
        set(&before);
    }
}

fn set(termios: &libc::termios) {
    // SAFETY: the pointer is that of a whole termios.
    unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, termios) };
}

/// Whether standard input is a terminal.
pub fn stdin_is_terminal() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stdin())
}
