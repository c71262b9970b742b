//! Terminals' ABI: asm-generic/termbits.h and asm-generic/ioctls.h.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Special characters in `c_cc`.
pub const NCCS: usize = 19;

/// `struct termios2`; its first 36 bytes are the kernel's `struct termios`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Termios2 {
    /// Input modes.
    pub c_iflag: u32,
    /// Output modes.
    pub c_oflag: u32,
    /// Control modes.
    pub c_cflag: u32,
    /// Local modes.
    pub c_lflag: u32,
    /// Line discipline.
    pub c_line: u8,
    /// Special characters.
    pub c_cc: [u8; NCCS],
    /// Input speed.
    pub c_ispeed: u32,
    /// Output speed.
    pub c_ospeed: u32,
}

/// Length of `struct termios`.
pub const TERMIOS_LEN: usize = 36;

impl Default for Termios2 {
    /// As Linux sets a serial console up: 115200n8, cooked.
    fn default() -> Self {
        let mut c_cc = [0; NCCS];
        let chars = [
            (VINTR, 3),
            (VQUIT, 28),
            (VERASE, 127),
            (VKILL, 21),
            (VEOF, 4),
            (VMIN, 1),
            (VSTART, 17),
            (VSTOP, 19),
            (VSUSP, 26),
            (VREPRINT, 18),
            (VDISCARD, 15),
            (VWERASE, 23),
            (VLNEXT, 22),
        ];
        for (index, value) in chars {
            if let Some(slot) = c_cc.get_mut(index) {
                *slot = value;
            }
        }
        Termios2 {
            c_iflag: ICRNL | IXON,
            c_oflag: OPOST | ONLCR,
            c_cflag: 0x1002 | CS8 | CREAD | HUPCL | CLOCAL,
            c_lflag: ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN,
            c_line: 0,
            c_cc,
            c_ispeed: 115_200,
            c_ospeed: 115_200,
        }
    }
}

/// `struct winsize`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct WinSize {
    /// Rows.
    pub ws_row: u16,
    /// Columns.
    pub ws_col: u16,
    /// Unused.
    pub ws_xpixel: u16,
    /// Unused.
    pub ws_ypixel: u16,
}

macro_rules! constants {
    ($($name:ident: $kind:ty = $value:expr;)+) => {
        $(#[doc = concat!("Linux's `", stringify!($name), "`.")] pub const $name: $kind = $value;)+
    };
}

constants! {
    VINTR: usize = 0;
    VQUIT: usize = 1;
    VERASE: usize = 2;
    VKILL: usize = 3;
    VEOF: usize = 4;
    VTIME: usize = 5;
    VMIN: usize = 6;
    VSTART: usize = 8;
    VSTOP: usize = 9;
    VSUSP: usize = 10;
    VEOL: usize = 11;
    VREPRINT: usize = 12;
    VDISCARD: usize = 13;
    VWERASE: usize = 14;
    VLNEXT: usize = 15;
    VEOL2: usize = 16;

    ISTRIP: u32 = 0x20;
    INLCR: u32 = 0x40;
    IGNCR: u32 = 0x80;
    ICRNL: u32 = 0x100;
    IUCLC: u32 = 0x200;
    IXON: u32 = 0x400;
    IXANY: u32 = 0x800;
    IMAXBEL: u32 = 0x2000;
    IUTF8: u32 = 0x4000;

    OPOST: u32 = 1;
    OLCUC: u32 = 2;
    ONLCR: u32 = 4;
    OCRNL: u32 = 8;
    ONOCR: u32 = 0x10;
    ONLRET: u32 = 0x20;
    XTABS: u32 = 0x1800;

    CS8: u32 = 0x30;
    CREAD: u32 = 0x80;
    HUPCL: u32 = 0x400;
    CLOCAL: u32 = 0x800;

    ISIG: u32 = 1;
    ICANON: u32 = 2;
    ECHO: u32 = 8;
    ECHOE: u32 = 0x10;
    ECHOK: u32 = 0x20;
    ECHONL: u32 = 0x40;
    NOFLSH: u32 = 0x80;
    TOSTOP: u32 = 0x100;
    ECHOCTL: u32 = 0x200;
    ECHOPRT: u32 = 0x400;
    ECHOKE: u32 = 0x800;
    IEXTEN: u32 = 0x8000;

    TCGETS: u32 = 0x5401;
    TCSETS: u32 = 0x5402;
    TCSETSW: u32 = 0x5403;
    TCSETSF: u32 = 0x5404;
    TCSBRK: u32 = 0x5409;
    TCXONC: u32 = 0x540a;
    TCFLSH: u32 = 0x540b;
    TIOCEXCL: u32 = 0x540c;
    TIOCNXCL: u32 = 0x540d;
    TIOCSCTTY: u32 = 0x540e;
    TIOCGPGRP: u32 = 0x540f;
    TIOCSPGRP: u32 = 0x5410;
    TIOCOUTQ: u32 = 0x5411;
    TIOCSTI: u32 = 0x5412;
    TIOCGWINSZ: u32 = 0x5413;
    TIOCSWINSZ: u32 = 0x5414;
    FIONREAD: u32 = 0x541b;
    TIOCNOTTY: u32 = 0x5422;
    TIOCSETD: u32 = 0x5423;
    TIOCGETD: u32 = 0x5424;
    TCSBRKP: u32 = 0x5425;
    TIOCSBRK: u32 = 0x5427;
    TIOCCBRK: u32 = 0x5428;
    TIOCGSID: u32 = 0x5429;
    TCGETS2: u32 = 0x802c_542a;
    TCSETS2: u32 = 0x402c_542b;
    TCSETSW2: u32 = 0x402c_542c;
    TCSETSF2: u32 = 0x402c_542d;
    TIOCVHANGUP: u32 = 0x5437;

    SIGHUP: u32 = 1;
    SIGINT: u32 = 2;
    SIGQUIT: u32 = 3;
    SIGCONT: u32 = 18;
    SIGTSTP: u32 = 20;
    SIGTTIN: u32 = 21;
    SIGTTOU: u32 = 22;
    SIGWINCH: u32 = 28;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts() {
        assert_eq!(size_of::<Termios2>(), 44);
        assert_eq!(core::mem::offset_of!(Termios2, c_ispeed), TERMIOS_LEN);
        assert_eq!(size_of::<WinSize>(), 8);
    }
}
