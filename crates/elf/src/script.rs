//! `#!` lines (Linux's fs/binfmt_script.c; execve(2), "Interpreter scripts").

use base::{Errno, Result};

/// How much of a file's start the kernel looks at.
pub const SCRIPT_HEAD: usize = 256;

/// How often an interpreter may be a script itself before execve() says
/// `ELOOP`.
pub const MAX_SCRIPT_DEPTH: usize = 5;

/// What a `#!` line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Script<'a> {
    /// The program to run.
    pub interpreter: &'a [u8],
    /// The rest of the line, if there is one: one argument, spaces and all.
    pub argument: Option<&'a [u8]>,
}

impl<'a> Script<'a> {
    /// Reads the first [`SCRIPT_HEAD`] bytes of a file (fewer if it is shorter).
    /// `None` if it does not begin with `#!`; `ENOEXEC` if the line names no
    /// interpreter, or so long a one that its end is not to be seen.
    pub fn parse(head: &'a [u8]) -> Option<Result<Script<'a>>> {
        let head = head.get(..SCRIPT_HEAD).unwrap_or(head);
        let text = head.strip_prefix(b"#!")?;
        // Linux keeps the last byte of its buffer for a NUL.
        let full = head.len() == SCRIPT_HEAD;
        let text = if full { text.split_last().map_or(text, |(_, text)| text) } else { text };
        Some(parse_line(text, full))
    }
}

fn parse_line(text: &[u8], cut: bool) -> Result<Script<'_>> {
    // A NUL ends the search for the end of the line.
    let text = text.split(|&byte| byte == 0).next().unwrap_or(text);
    let line = match text.iter().position(|&byte| byte == b'\n') {
        Some(end) => text.get(..end).unwrap_or(text),
        None => {
            // The path may go on behind what we see: only a blank after it
            // tells that it does not.
            let named = text.trim_start_blank();
            if cut && text.len() >= SCRIPT_HEAD - 3 && !named.iter().any(|&byte| is_blank(byte)) {
                return Err(Errno::ENOEXEC);
            }
            text
        }
    };
    let line = line.trim_start_blank().trim_end_blank();
    if line.is_empty() {
        return Err(Errno::ENOEXEC);
    }
    let end = line.iter().position(|&byte| is_blank(byte)).unwrap_or(line.len());
    let (interpreter, rest) = line.split_at_checked(end).ok_or(Errno::ENOEXEC)?;
    let rest = rest.trim_start_blank();
    Ok(Script { interpreter, argument: (!rest.is_empty()).then_some(rest) })
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

trait Blank {
    fn trim_start_blank(&self) -> &Self;
    fn trim_end_blank(&self) -> &Self;
}

impl Blank for [u8] {
    fn trim_start_blank(&self) -> &[u8] {
        let at = self.iter().position(|&byte| !is_blank(byte)).unwrap_or(self.len());
        self.get(at..).unwrap_or(&[])
    }

    fn trim_end_blank(&self) -> &[u8] {
        let last = self.iter().rposition(|&byte| !is_blank(byte));
        last.and_then(|last| self.get(..=last)).unwrap_or(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    type Line<'a> = (&'a [u8], Option<&'a [u8]>);

    fn script(head: &[u8]) -> Option<Result<Line<'_>>> {
        Some(Script::parse(head)?.map(|script| (script.interpreter, script.argument)))
    }

    #[test]
    fn lines() {
        let sh: &[u8] = b"/bin/sh";
        assert_eq!(script(b"#!/bin/sh\necho"), Some(Ok((sh, None))));
        assert_eq!(script(b"#! \t/bin/sh  -e -x \t\n"), Some(Ok((sh, Some(&b"-e -x"[..])))));
        assert_eq!(script(b"#!/bin/sh"), Some(Ok((sh, None))));
        assert_eq!(script(b"#!/bin/sh\0x\n"), Some(Ok((sh, None))));
        assert_eq!(script(b"#!/bin/sh -\r\n"), Some(Ok((sh, Some(&b"-\r"[..])))));
        assert_eq!(script(b"#!\n"), Some(Err(Errno::ENOEXEC)));
        assert_eq!(script(b"#!   \t"), Some(Err(Errno::ENOEXEC)));
        assert_eq!(script(b"#!"), Some(Err(Errno::ENOEXEC)));
        assert_eq!(script(b"#"), None);
        assert_eq!(script(b"\x7fELF"), None);
    }

    #[test]
    fn long_lines() {
        let mut head = vec![b'a'; 256];
        head[..3].copy_from_slice(b"#!/");
        assert_eq!(script(&head), Some(Err(Errno::ENOEXEC)));
        // A blank behind the path proves that it is whole; the argument is cut.
        head[100] = b' ';
        let (path, argument) = script(&head).unwrap().unwrap();
        assert_eq!((path.len(), argument.unwrap().len()), (98, 255 - 101));
        head[100] = b'a';
        head[200] = b'\n';
        assert_eq!(script(&head).unwrap().unwrap().0.len(), 198);
        // A file that ends there has its whole path in sight.
        assert!(script(&head[..199]).unwrap().is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(tail in prop::collection::vec(any::<u8>(), 0..300)) {
            let head: Vec<u8> = [b"#!".as_slice(), &tail].concat();
            if let Some(Ok(script)) = Script::parse(&head) {
                prop_assert!(!script.interpreter.is_empty());
                prop_assert!(!script.interpreter.contains(&0));
            }
        }
    }
}
