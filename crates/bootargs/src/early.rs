//! What decides the mode, read with the MMU off: memory is Device there, and
//! whatever the compiler makes an unaligned access of (a comparison of strings,
//! say) faults. So the line is a function from index to byte, and each byte is
//! looked at by itself. [`crate::Params`] reads the same line the same way, which
//! a test here holds it to.

use crate::KvmMode;

/// What the command line says of the mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarlyArgs {
    /// As [`crate::mode_requested`].
    pub mode: EarlyMode,
    /// As [`crate::vhe_hidden`].
    pub vhe_hidden: bool,
}

/// [`crate::ModeRequest`], without its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyMode {
    /// Nothing.
    Absent,
    /// A known mode.
    Mode(KvmMode),
    /// A value that no mode has.
    Unknown,
}

impl EarlyArgs {
    /// Reads a line of `len` bytes, or up to its first NUL.
    pub fn read(len: u64, at: impl Fn(u64) -> u8) -> EarlyArgs {
        let line = Line { at };
        let len = (0..len).find(|&i| line.byte(i) == 0).unwrap_or(len);
        let mut args = EarlyArgs { mode: EarlyMode::Absent, vhe_hidden: false };
        let mut next = 0;
        while let Some(word) = line.word(next, len) {
            next = word.end;
            if line.is(word, b"--") {
                break;
            }
            args.take(&line, word);
        }
        args
    }

    fn take<F: Fn(u64) -> u8>(&mut self, line: &Line<F>, word: Span) {
        let word = line.unquoted(word);
        let equals = (word.start..word.end).find(|&i| line.byte(i) == b'=');
        let key = Span { end: equals.unwrap_or(word.end), ..word };
        // A bare word has an empty value.
        let start = equals.map_or(word.end, |at| at.wrapping_add(1));
        let value = line.unquoted(Span { start, ..word });
        if line.is_key(key, b"kvm-arm.mode") {
            let known = KvmMode::ALL.iter().find(|mode| line.is(value, mode.name().as_bytes()));
            self.mode = match (known, self.mode) {
                (Some(mode), _) => EarlyMode::Mode(*mode),
                (None, EarlyMode::Mode(mode)) => EarlyMode::Mode(mode),
                (None, _) => EarlyMode::Unknown,
            };
        } else if line.is_key(key, b"id_aa64mmfr1.vh") {
            self.vhe_hidden = line.is_zero(value);
        }
    }
}

struct Line<F> {
    at: F,
}

/// Bytes of the line.
#[derive(Clone, Copy)]
struct Span {
    start: u64,
    end: u64,
}

impl Span {
    fn len(self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}

impl<F: Fn(u64) -> u8> Line<F> {
    fn byte(&self, index: u64) -> u8 {
        (self.at)(index)
    }

    /// The next word. Quotes keep spaces together.
    fn word(&self, from: u64, len: u64) -> Option<Span> {
        let start = (from..len).find(|&i| !is_space(self.byte(i)))?;
        let mut quoted = false;
        let end = (start..len).find(|&i| {
            let byte = self.byte(i);
            quoted ^= byte == b'"';
            is_space(byte) && !quoted
        });
        Some(Span { start, end: end.unwrap_or(len) })
    }

    /// Without a quote at the start, and then without one at the end.
    fn unquoted(&self, span: Span) -> Span {
        if span.len() == 0 || self.byte(span.start) != b'"' {
            return span;
        }
        let (start, last) = (span.start.wrapping_add(1), span.end.wrapping_sub(1));
        let closed = last >= start && self.byte(last) == b'"';
        Span { start, end: if closed { last } else { span.end } }
    }

    fn is(&self, span: Span, text: &[u8]) -> bool {
        self.compare(span, text, |a, b| a == b)
    }

    /// `-` and `_` are the same.
    fn is_key(&self, span: Span, name: &[u8]) -> bool {
        let dash = |byte| if byte == b'-' { b'_' } else { byte };
        self.compare(span, name, |a, b| dash(a) == dash(b))
    }

    fn compare(&self, span: Span, text: &[u8], same: impl Fn(u8, u8) -> bool) -> bool {
        span.len() == text.len() as u64
            && text.iter().zip(span.start..).all(|(&byte, i)| same(self.byte(i), byte))
    }

    /// Whether it is a number ([`crate::parse_int`]), and that is 0.
    fn is_zero(&self, span: Span) -> bool {
        let second = span.start.wrapping_add(1);
        let hex = span.len() > 2 && self.byte(second) | 0x20 == b'x';
        let digits = span.len() > 0 && self.byte(span.start) == b'0';
        let rest = if hex { second.wrapping_add(1) } else { span.start };
        digits && (rest..span.end).all(|i| self.byte(i) == b'0')
    }
}

/// The kernel's isspace() for ASCII.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ModeRequest, Params, mode_requested, vhe_hidden};
    use proptest::prelude::*;

    fn early(line: &[u8]) -> EarlyArgs {
        EarlyArgs::read(line.len() as u64, |i| line[i as usize])
    }

    fn late(line: &str) -> EarlyArgs {
        let mode = match mode_requested(Params::new(line)) {
            ModeRequest::Absent => EarlyMode::Absent,
            ModeRequest::Mode(mode) => EarlyMode::Mode(mode),
            ModeRequest::Unknown(_) => EarlyMode::Unknown,
        };
        EarlyArgs { mode, vhe_hidden: vhe_hidden(&Params::new(line)) }
    }

    #[test]
    fn as_linux_reads_them() {
        let mode = |line: &str| early(line.as_bytes()).mode;
        let nvhe = EarlyMode::Mode(KvmMode::Nvhe);
        assert_eq!(mode("quiet kvm-arm.mode=nvhe"), nvhe);
        assert_eq!(mode("kvm_arm.mode=nvhe"), nvhe);
        assert_eq!(mode("quiet\tkvm-arm.mode=nvhe\n"), nvhe);
        assert_eq!(mode("kvm-arm.mode=\"nvhe\""), nvhe);
        assert_eq!(mode("\"kvm-arm.mode=nvhe\" quiet"), nvhe);
        assert_eq!(mode("kvm-arm.mode=nvhe kvm-arm.mode=fast"), nvhe);
        assert_eq!(mode("kvm-arm.mode=fast"), EarlyMode::Unknown);
        assert_eq!(mode("kvm-arm.mode"), EarlyMode::Unknown);
        assert_eq!(mode("-- kvm-arm.mode=nvhe"), EarlyMode::Absent);
        assert_eq!(mode("x=\"a kvm-arm.mode=nvhe\""), EarlyMode::Absent);
        assert_eq!(mode("akvm-arm.mode=nvhe"), EarlyMode::Absent);
        assert_eq!(mode("quiet\0 kvm-arm.mode=nvhe"), EarlyMode::Absent);
        let hidden = |line: &str| early(line.as_bytes()).vhe_hidden;
        assert!(hidden("id_aa64mmfr1.vh=0") && hidden("id-aa64mmfr1.vh=0x0"));
        assert!(!hidden("id_aa64mmfr1.vh=0 id_aa64mmfr1.vh=1"));
        assert!(!hidden("id_aa64mmfr1.vh=") && !hidden("id_aa64mmfr1.vh=0x"));
    }

    #[test]
    fn other_bytes_are_no_spaces() {
        assert_eq!(early(b"a\xff kvm-arm.mode=none").mode, EarlyMode::Mode(KvmMode::None));
        assert_eq!(early(b"\xa0kvm-arm.mode=none").mode, EarlyMode::Absent);
    }

    proptest! {
        #[test]
        fn agrees_with_the_whole_command_line(
            words in prop::collection::vec(
                (
                    "\"?",
                    "(kvm[-_]arm.mode|id[-_]aa64mmfr1.vh|a|--|-|)",
                    "=?\"?",
                    "(vhe|nvhe|none|type1|protected|nested|0|1|0x0|0X00|00|0x|x|\0|)",
                    "\"?[ \t\n\x0b]{0,2}",
                ),
                0..8,
            )
        ) {
            let line: std::string::String = words
                .iter()
                .flat_map(|(a, b, c, d, e)| [a, b, c, d, e])
                .map(|part| part.as_str())
                .collect();
            prop_assert_eq!(early(line.as_bytes()), late(&line));
        }

        #[test]
        fn agrees_on_anything(line in "[-=\" \ta_0x.é]{0,40}") {
            prop_assert_eq!(early(line.as_bytes()), late(&line));
        }
    }
}
