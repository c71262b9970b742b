//! The line discipline: what happens to bytes on their way in and out
//! (termios(3)). A pure state machine: bytes in, bytes and signals out.

use crate::abi::*;
use alloc::collections::VecDeque;

/// What may wait to be read; more is dropped (with a bell, IMAXBEL).
pub const INPUT_MAX: usize = 4096;

/// The bytes of input are kept with these marks.
const END: u16 = 0x100;
const EOF: u16 = 0x200;

/// Where echo and output go: small pieces, at once.
pub trait Output {
    /// Sends bytes to the terminal.
    fn put(&mut self, bytes: &[u8]);
}

/// What the discipline wants done after a byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// A signal for the foreground group.
    pub signal: Option<u32>,
    /// Output was stopped or started, or there is more to read.
    pub wake: bool,
}

/// A terminal's modes and input.
pub struct Line {
    /// The modes.
    pub termios: Termios2,
    input: VecDeque<u16>,
    /// Line ends (and EOFs) in `input`.
    lines: usize,
    /// The next byte is taken literally (VLNEXT).
    literal: bool,
    /// Output is stopped (VSTOP, TCOOFF).
    pub stopped: bool,
    /// The cursor's column, and where the line being edited began.
    column: usize,
    edit_column: usize,
}

impl Line {
    /// A cooked line.
    pub fn new() -> Line {
        Line {
            termios: Termios2::default(),
            input: VecDeque::with_capacity(64),
            lines: 0,
            literal: false,
            stopped: false,
            column: 0,
            edit_column: 0,
        }
    }

    fn local(&self, flag: u32) -> bool {
        self.termios.c_lflag & flag != 0
    }

    /// Whether lines are edited before they can be read.
    pub fn canonical(&self) -> bool {
        self.local(ICANON)
    }

    fn special(&self, index: usize) -> Option<u8> {
        // Zero disables a special character.
        self.termios.c_cc.get(index).copied().filter(|char| *char != 0)
    }

    fn is_special(&self, index: usize, byte: u8) -> bool {
        self.special(index) == Some(byte)
    }

    /// Takes a byte that came from the terminal.
    pub fn receive(&mut self, byte: u8, out: &mut dyn Output) -> Effects {
        let mut byte = byte;
        let iflag = self.termios.c_iflag;
        if iflag & ISTRIP != 0 {
            byte &= 0x7f;
        }
        if core::mem::take(&mut self.literal) {
            self.store(u16::from(byte), out);
            self.echo(byte, out);
            return Effects { wake: !self.canonical(), ..Effects::default() };
        }
        if iflag & IXON != 0 {
            if self.is_special(VSTOP, byte) {
                self.stopped = true;
                return Effects::default();
            }
            if self.is_special(VSTART, byte) {
                self.stopped = false;
                return Effects { wake: true, ..Effects::default() };
            }
        }
        let mut effects = Effects::default();
        if self.stopped && iflag & IXANY != 0 {
            self.stopped = false;
            effects.wake = true;
        }
        if self.local(ISIG) {
            for (index, signal) in [(VINTR, SIGINT), (VQUIT, SIGQUIT), (VSUSP, SIGTSTP)] {
                if self.is_special(index, byte) {
                    if !self.local(NOFLSH) {
                        self.flush();
                    }
                    self.stopped = false;
                    self.echo(byte, out);
                    return Effects { signal: Some(signal), wake: true };
                }
            }
        }
        match byte {
            b'\r' if iflag & IGNCR != 0 => return effects,
            b'\r' if iflag & ICRNL != 0 => byte = b'\n',
            b'\n' if iflag & INLCR != 0 => byte = b'\r',
            _ => {}
        }
        if self.canonical() {
            self.edit(byte, &mut effects, out);
        } else {
            self.store(u16::from(byte), out);
            self.echo(byte, out);
            effects.wake = true;
        }
        effects
    }

    /// A byte in canonical mode.
    fn edit(&mut self, byte: u8, effects: &mut Effects, out: &mut dyn Output) {
        let extended = self.local(IEXTEN);
        if self.is_special(VERASE, byte) {
            self.erase_char(out);
        } else if self.is_special(VKILL, byte) {
            self.kill(byte, out);
        } else if extended && self.is_special(VWERASE, byte) {
            self.erase_word(out);
        } else if extended && self.is_special(VLNEXT, byte) {
            self.literal = true;
            if self.local(ECHO) && self.local(ECHOCTL) {
                out.put(b"^\x08");
            }
        } else if extended && self.is_special(VREPRINT, byte) && self.local(ECHO) {
            self.reprint(byte, out);
        } else if self.is_special(VEOF, byte) {
            self.end_line(EOF);
            effects.wake = true;
        } else if byte == b'\n' {
            if self.local(ECHO) || self.local(ECHONL) {
                self.send(b'\n', out);
            }
            self.end_line(u16::from(byte) | END);
            effects.wake = true;
        } else if self.is_special(VEOL, byte) || (extended && self.is_special(VEOL2, byte)) {
            self.echo(byte, out);
            self.end_line(u16::from(byte) | END);
            effects.wake = true;
        } else {
            self.store(u16::from(byte), out);
            self.echo(byte, out);
        }
    }

    /// Puts a byte into the input; one place is kept for a line's end.
    fn store(&mut self, byte: u16, out: &mut dyn Output) {
        if self.input.len() >= INPUT_MAX.saturating_sub(1) {
            if self.termios.c_iflag & IMAXBEL != 0 {
                out.put(b"\x07");
            }
            return;
        }
        if self.editing() == 0 {
            self.edit_column = self.column;
        }
        self.input.push_back(byte);
    }

    fn end_line(&mut self, mark: u16) {
        if self.input.len() >= INPUT_MAX {
            return;
        }
        self.input.push_back(mark);
        self.lines = self.lines.saturating_add(1);
    }

    /// How many bytes the line being edited has.
    fn editing(&self) -> usize {
        self.input.iter().rev().take_while(|byte| **byte < END).count()
    }

    fn last(&self) -> Option<u8> {
        self.input.back().filter(|byte| **byte < END).map(|byte| *byte as u8)
    }

    fn erase_char(&mut self, out: &mut dyn Output) {
        while let Some(byte) = self.last() {
            self.input.pop_back();
            // A UTF-8 character goes as a whole.
            if self.termios.c_iflag & IUTF8 != 0 && byte & 0xc0 == 0x80 {
                continue;
            }
            self.unecho(byte, out);
            break;
        }
    }

    fn erase_word(&mut self, out: &mut dyn Output) {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
        let mut seen = false;
        while let Some(byte) = self.last() {
            if seen && !word(byte) {
                break;
            }
            seen |= word(byte);
            self.input.pop_back();
            self.unecho(byte, out);
        }
    }

    fn kill(&mut self, byte: u8, out: &mut dyn Output) {
        if self.local(ECHO) && self.local(ECHOKE) && self.local(ECHOE) {
            while self.last().is_some() {
                self.erase_char(out);
            }
            return;
        }
        while self.last().is_some() {
            self.input.pop_back();
        }
        self.echo(byte, out);
        if self.local(ECHOK) {
            self.send(b'\n', out);
        }
    }

    fn reprint(&mut self, byte: u8, out: &mut dyn Output) {
        self.echo(byte, out);
        self.send(b'\n', out);
        self.edit_column = 0;
        let start = self.input.len().saturating_sub(self.editing());
        for at in start..self.input.len() {
            if let Some(byte) = self.input.get(at).copied() {
                self.echo(byte as u8, out);
            }
        }
    }

    /// Wipes a byte that was echoed.
    fn unecho(&mut self, byte: u8, out: &mut dyn Output) {
        if !self.local(ECHO) {
            return;
        }
        if !self.local(ECHOE) {
            if let Some(erase) = self.special(VERASE) {
                self.echo(erase, out);
            }
            return;
        }
        let width = match byte {
            b'\t' => {
                // Back to where the text before the tab ended.
                let before = self.width_of_line();
                self.column.saturating_sub(before).clamp(1, 8)
            }
            _ if byte.is_ascii_control() => {
                if self.local(ECHOCTL) {
                    2
                } else {
                    0
                }
            }
            _ => 1,
        };
        for _ in 0..width {
            out.put(b"\x08 \x08");
            self.column = self.column.saturating_sub(1);
        }
        if byte == b'\t' {
            // Blanks over a tab's width would be wrong at its end only.
            self.column = self.width_of_line();
        }
    }

    /// The column after the line being edited.
    fn width_of_line(&self) -> usize {
        let editing = self.editing();
        let start = self.input.len().saturating_sub(editing);
        self.input.iter().skip(start).fold(self.edit_column, |column, byte| match *byte as u8 {
            b'\t' => column.saturating_add(8) & !7,
            byte if byte.is_ascii_control() => column.saturating_add(2),
            _ => column.saturating_add(1),
        })
    }

    fn echo(&mut self, byte: u8, out: &mut dyn Output) {
        if !self.local(ECHO) {
            return;
        }
        if byte.is_ascii_control() && byte != b'\t' && byte != b'\n' && self.local(ECHOCTL) {
            out.put(&[b'^', byte ^ 0x40]);
            self.column = self.column.saturating_add(2);
        } else {
            self.send(byte, out);
        }
    }

    /// One byte out, as OPOST says.
    pub fn send(&mut self, byte: u8, out: &mut dyn Output) {
        let oflag = self.termios.c_oflag;
        if oflag & OPOST == 0 {
            out.put(&[byte]);
            return;
        }
        match byte {
            b'\n' if oflag & ONLCR != 0 => {
                self.column = 0;
                out.put(b"\r\n");
            }
            b'\n' => {
                if oflag & ONLRET != 0 {
                    self.column = 0;
                }
                out.put(b"\n");
            }
            b'\r' if oflag & ONOCR != 0 && self.column == 0 => {}
            b'\r' if oflag & OCRNL != 0 => {
                if oflag & ONLRET != 0 {
                    self.column = 0;
                }
                out.put(b"\n");
            }
            b'\r' => {
                self.column = 0;
                out.put(b"\r");
            }
            b'\t' => {
                let next = self.column.saturating_add(8) & !7;
                if oflag & XTABS == XTABS {
                    let blanks = next.saturating_sub(self.column);
                    out.put(b"        ".get(..blanks).unwrap_or_default());
                } else {
                    out.put(b"\t");
                }
                self.column = next;
            }
            0x08 => {
                self.column = self.column.saturating_sub(1);
                out.put(b"\x08");
            }
            _ => {
                let byte = if oflag & OLCUC != 0 { byte.to_ascii_uppercase() } else { byte };
                // Continuation bytes of UTF-8 don't move the cursor.
                let continues = self.termios.c_iflag & IUTF8 != 0 && byte & 0xc0 == 0x80;
                if !byte.is_ascii_control() && !continues {
                    self.column = self.column.saturating_add(1);
                }
                out.put(&[byte]);
            }
        }
    }

    /// Bytes of a program out, as OPOST says.
    pub fn write(&mut self, data: &[u8], out: &mut dyn Output) {
        if self.termios.c_oflag & OPOST == 0 {
            return out.put(data);
        }
        let mut rest = data;
        while !rest.is_empty() {
            // Runs of plain text go out in one piece.
            let plain = rest.iter().position(|byte| byte.is_ascii_control()).unwrap_or(rest.len());
            let plain = if self.termios.c_oflag & OLCUC != 0 { 0 } else { plain };
            let (text, after) = rest.split_at_checked(plain).unwrap_or((rest, &[]));
            if !text.is_empty() {
                out.put(text);
                self.column = self.column.saturating_add(text.len());
            }
            rest = after;
            if let Some((first, after)) = rest.split_first() {
                self.send(*first, out);
                rest = after;
            }
        }
    }

    /// Reads a line or a part of one. `None`: there is none yet.
    pub fn read_line(&mut self, buf: &mut [u8]) -> Option<usize> {
        if self.lines == 0 {
            return None;
        }
        let mut count = 0usize;
        while count < buf.len() {
            let Some(byte) = self.input.pop_front() else { break };
            if byte >= END {
                self.lines = self.lines.saturating_sub(1);
            }
            if byte & EOF != 0 {
                return Some(count);
            }
            if let Some(slot) = buf.get_mut(count) {
                *slot = byte as u8;
            }
            count = count.saturating_add(1);
            if byte & END != 0 {
                return Some(count);
            }
        }
        // A line that was read to its last byte, and ends with EOF, has ended.
        if count > 0 && self.input.front().is_some_and(|byte| byte & EOF != 0) {
            self.input.pop_front();
            self.lines = self.lines.saturating_sub(1);
        }
        Some(count)
    }

    /// Reads what there is, in raw mode.
    pub fn read_raw(&mut self, buf: &mut [u8]) -> usize {
        let mut count = 0usize;
        while count < buf.len() {
            let Some(byte) = self.input.pop_front() else { break };
            if byte >= END {
                self.lines = self.lines.saturating_sub(1);
            }
            if byte & EOF != 0 {
                continue;
            }
            if let Some(slot) = buf.get_mut(count) {
                *slot = byte as u8;
            }
            count = count.saturating_add(1);
        }
        count
    }

    /// How many bytes could be read now.
    pub fn readable(&self) -> usize {
        let bytes =
            |input: &mut dyn Iterator<Item = &u16>| input.filter(|byte| **byte & EOF == 0).count();
        if self.canonical() {
            let complete = self.input.len().saturating_sub(self.editing());
            bytes(&mut self.input.iter().take(complete))
        } else {
            bytes(&mut self.input.iter())
        }
    }

    /// Whether a read would find something.
    pub fn input_ready(&self) -> bool {
        if self.canonical() { self.lines > 0 } else { self.readable() >= self.raw_minimum() }
    }

    /// How many bytes a raw read waits for.
    pub fn raw_minimum(&self) -> usize {
        let (min, time) = (self.cc(VMIN), self.cc(VTIME));
        // With a time between bytes, what has come is given at once.
        if time == 0 { usize::from(min).max(1) } else { 1 }
    }

    /// A value of `c_cc`.
    pub fn cc(&self, index: usize) -> u8 {
        self.termios.c_cc.get(index).copied().unwrap_or(0)
    }

    /// Forgets all input.
    pub fn flush(&mut self) {
        self.input.clear();
        self.lines = 0;
        self.literal = false;
    }

    /// Changes the modes.
    pub fn set(&mut self, termios: Termios2) {
        let was = self.canonical();
        self.termios = termios;
        // What was typed raw can be read as a line; nothing is lost.
        if !was
            && self.canonical()
            && self.editing() > 0
            && let Some(last) = self.input.back_mut()
        {
            *last |= END;
            self.lines = self.lines.saturating_add(1);
        }
        if self.termios.c_iflag & IXON == 0 {
            self.stopped = false;
        }
    }
}

impl Default for Line {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::String;
    use std::vec;
    use std::vec::Vec;

    impl Output for Vec<u8> {
        fn put(&mut self, bytes: &[u8]) {
            self.extend_from_slice(bytes);
        }
    }

    fn type_in(line: &mut Line, text: &[u8]) -> (String, Vec<u32>) {
        let mut out = Vec::new();
        let mut signals = Vec::new();
        for &byte in text {
            signals.extend(line.receive(byte, &mut out).signal);
        }
        (String::from_utf8_lossy(&out).into_owned(), signals)
    }

    fn read(line: &mut Line) -> Option<String> {
        let mut buf = [0; 100];
        line.read_line(&mut buf).map(|count| String::from_utf8_lossy(&buf[..count]).into_owned())
    }

    #[test]
    fn edits_lines() {
        let mut line = Line::new();
        let (echo, _) = type_in(&mut line, b"helo\x7flo\r");
        assert_eq!(echo, "helo\x08 \x08lo\r\n");
        assert_eq!(read(&mut line), Some("hello\n".into()));
        assert_eq!(read(&mut line), None);
        type_in(&mut line, b"one two-three\x17\x17x\x15kept\nand more");
        assert_eq!(read(&mut line), Some("kept\n".into()));
        assert!(!line.input_ready());
        let (echo, _) = type_in(&mut line, b"\x16\x03\n");
        assert_eq!(echo, "^\x08^C\r\n");
        assert_eq!(read(&mut line), Some("and more\x03\n".into()));
        // A tab goes as wide as it was.
        let (echo, _) = type_in(&mut line, b"ab\t\x7f");
        assert_eq!(echo.matches('\x08').count(), 12);
        let (echo, _) = type_in(&mut line, b"\x12");
        assert_eq!(echo, "^R\r\nab");
    }

    #[test]
    fn ends_files() {
        let mut line = Line::new();
        type_in(&mut line, b"\x04");
        assert_eq!(read(&mut line), Some("".into()));
        type_in(&mut line, b"part\x04");
        assert_eq!(line.readable(), 4);
        let mut buf = [0; 4];
        assert_eq!(line.read_line(&mut buf), Some(4));
        assert_eq!(line.read_line(&mut buf), None);
        type_in(&mut line, b"long line\n");
        assert_eq!(line.read_line(&mut buf), Some(4));
        assert_eq!(read(&mut line), Some(" line\n".into()));
    }

    #[test]
    fn signals() {
        let mut line = Line::new();
        let (echo, signals) = type_in(&mut line, b"dropped\x03");
        assert_eq!((echo.as_str(), signals), ("dropped^C", vec![SIGINT]));
        assert_eq!(type_in(&mut line, b"\x1c\x1a").1, [SIGQUIT, SIGTSTP]);
        type_in(&mut line, b"x\n");
        assert_eq!(read(&mut line), Some("x\n".into()));
        type_in(&mut line, b"\x13");
        assert!(line.stopped);
        type_in(&mut line, b"\x11");
        assert!(!line.stopped);
    }

    #[test]
    fn raw_and_output() {
        let mut line = Line::new();
        let mut raw = Termios2 { c_lflag: 0, c_iflag: 0, c_oflag: 0, ..Termios2::default() };
        line.set(raw);
        assert_eq!(type_in(&mut line, b"\x03\r\x7f"), (String::new(), vec![]));
        assert!(line.input_ready());
        let mut buf = [0; 10];
        assert_eq!(line.read_raw(&mut buf), 3);
        assert_eq!(&buf[..3], b"\x03\r\x7f");
        raw.c_cc[VMIN] = 2;
        line.set(raw);
        type_in(&mut line, b"a");
        assert!(!line.input_ready());
        line.set(Termios2::default());
        assert_eq!(read(&mut line), Some("a".into()));
        let mut out = Vec::new();
        line.write(b"a\nb\tc\r\n", &mut out);
        assert_eq!(out, b"a\r\nb\tc\r\r\n");
        line.set(raw);
        out.clear();
        line.write(b"a\nb", &mut out);
        assert_eq!(out, b"a\nb");
    }

    proptest! {
        #[test]
        fn any_input(text: Vec<u8>, lflag: u32, iflag: u32, oflag: u32, more: Vec<u8>, size in 0usize..50) {
            let mut line = Line::new();
            type_in(&mut line, &text);
            line.set(Termios2 { c_lflag: lflag, c_iflag: iflag, c_oflag: oflag, ..Termios2::default() });
            type_in(&mut line, &more);
            let mut buf = vec![0; size];
            let before = line.readable();
            let got = if line.canonical() { line.read_line(&mut buf).unwrap_or(0) } else { line.read_raw(&mut buf) };
            prop_assert!(got <= before);
            line.set(Termios2::default());
            type_in(&mut line, &text);
            prop_assert_eq!(line.lines, line.input.iter().filter(|byte| **byte >= END).count());
            let mut out = Vec::new();
            line.write(&more, &mut out);
            prop_assert!(out.len() >= more.len());
        }

        /// Canonical input against the plainest model: erase and newline only.
        #[test]
        fn erases_like_a_vec(keys in proptest::collection::vec(prop_oneof![Just(0x7fu8), Just(b'\n'), b'a'..=b'e'], 0..200)) {
            let mut line = Line::new();
            let (mut model, mut lines) = (Vec::new(), Vec::new());
            for key in &keys {
                match key {
                    0x7f => {
                        model.pop();
                    }
                    b'\n' => {
                        model.push(b'\n');
                        lines.push(String::from_utf8(core::mem::take(&mut model)).unwrap());
                    }
                    byte => model.push(*byte),
                }
            }
            type_in(&mut line, &keys);
            for want in lines {
                let mut buf = [0; 300];
                let got = line.read_line(&mut buf).unwrap();
                prop_assert_eq!(String::from_utf8_lossy(&buf[..got]), want);
            }
            prop_assert_eq!(read(&mut line), None);
        }
    }
}
