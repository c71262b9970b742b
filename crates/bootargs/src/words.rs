//! Splitting the command line: no heap, no statics.

/// One parameter: `key`, `key=value` or `key="some value"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param<'a> {
    /// What stands before the first `=`; the whole word if there is none.
    pub key: &'a str,
    /// What stands after it, without enclosing quotes.
    pub value: Option<&'a str>,
    /// The word as written, without enclosing quotes.
    pub word: &'a str,
}

impl Param<'_> {
    /// Whether the key is `name`; Linux takes `-` and `_` for the same.
    pub fn is(&self, name: &str) -> bool {
        same_key(self.key, name)
    }
}

/// Compares keys as Linux does: `-` and `_` are the same.
pub fn same_key(a: &str, b: &str) -> bool {
    let dash = |byte: u8| if byte == b'-' { b'_' } else { byte };
    a.len() == b.len() && a.bytes().map(dash).eq(b.bytes().map(dash))
}

/// The kernel's parameters, up to ` -- `. What follows that is for init: see
/// [`Params::init_words`].
#[derive(Clone, Debug)]
pub struct Params<'a> {
    rest: &'a str,
    init: Option<&'a str>,
}

impl<'a> Params<'a> {
    /// The parameters in `line`, which ends at its first NUL.
    pub fn new(line: &'a str) -> Self {
        let line = line.split_once('\0').map_or(line, |(line, _)| line);
        Params { rest: line, init: None }
    }

    /// As [`new`](Self::new), from a device tree's `/chosen/bootargs`: bytes
    /// after the first that is not UTF-8 are left out.
    pub fn from_bytes(line: &'a [u8]) -> Self {
        let text = match core::str::from_utf8(line) {
            Ok(text) => text,
            Err(error) => line
                .get(..error.valid_up_to())
                .and_then(|line| core::str::from_utf8(line).ok())
                .unwrap_or(""),
        };
        Self::new(text)
    }

    /// The last value of `name` (an empty one for a bare word): for looking up
    /// single parameters before there is a heap.
    pub fn lookup(&self, name: &str) -> Option<&'a str> {
        self.clone().filter(|param| param.is(name)).last().map(|param| param.value.unwrap_or(""))
    }

    /// The words after ` -- `, which are arguments of init. Call it when the
    /// iterator has ended.
    pub fn init_words(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut rest = self.init.unwrap_or("");
        core::iter::from_fn(move || {
            let (word, tail) = next_word(rest)?;
            rest = tail;
            Some(split(word).word)
        })
    }
}

impl<'a> Iterator for Params<'a> {
    type Item = Param<'a>;

    fn next(&mut self) -> Option<Param<'a>> {
        let (word, rest) = next_word(self.rest)?;
        if word == "--" {
            self.rest = "";
            self.init = Some(rest);
            return None;
        }
        self.rest = rest;
        Some(split(word))
    }
}

/// The next word and what follows it. Quotes keep spaces together.
fn next_word(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start_matches(is_space);
    if line.is_empty() {
        return None;
    }
    let mut quoted = false;
    let end = line
        .bytes()
        .position(|byte| {
            if byte == b'"' {
                quoted = !quoted;
            }
            is_space(char::from(byte)) && !quoted
        })
        .unwrap_or(line.len());
    line.split_at_checked(end)
}

/// The kernel's isspace() for ASCII.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// Divides a word at its first `=` and takes enclosing quotes off: those around
/// the whole word, or around the value. Quotes in the middle stay.
fn split(word: &str) -> Param<'_> {
    let word = match word.strip_prefix('"') {
        Some(word) => word.strip_suffix('"').unwrap_or(word),
        None => word,
    };
    match word.split_once('=') {
        None => Param { key: word, value: None, word },
        Some((key, value)) => {
            let value = match value.strip_prefix('"') {
                Some(value) => value.strip_suffix('"').unwrap_or(value),
                None => value,
            };
            Param { key, value: Some(value), word }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn all(line: &str) -> Vec<(&str, Option<&str>)> {
        Params::new(line).map(|param| (param.key, param.value)).collect()
    }

    #[test]
    fn words_and_values() {
        assert_eq!(
            all("  console=ttyAMA0,115200 quiet\tloglevel=7\n"),
            [("console", Some("ttyAMA0,115200")), ("quiet", None), ("loglevel", Some("7"))]
        );
        assert_eq!(all("a= =b"), [("a", Some("")), ("", Some("b"))]);
        assert_eq!(all("root=UUID=12"), [("root", Some("UUID=12"))]);
        assert_eq!(all(""), []);
        assert_eq!(all("a\0b"), [("a", None)]);
    }

    #[test]
    fn quotes() {
        assert_eq!(all(r#"a="b c" d"#), [("a", Some("b c")), ("d", None)]);
        assert_eq!(all(r#""a=b c" d"#), [("a", Some("b c")), ("d", None)]);
        assert_eq!(all(r#""a b""#), [("a b", None)]);
        assert_eq!(all(r#"a="unclosed b"#), [("a", Some("unclosed b"))]);
        assert_eq!(all(r#"a=b"c d"e"#), [("a", Some(r#"b"c d"e"#))]);
    }

    #[test]
    fn the_rest_is_for_init() {
        let mut params = Params::new(r#"quiet -- -s "two words" a=b -- c"#);
        assert_eq!(params.by_ref().count(), 1);
        let init: Vec<_> = params.init_words().collect();
        assert_eq!(init, ["-s", "two words", "a=b", "--", "c"]);
        assert_eq!(params.next(), None);
    }

    #[test]
    fn looked_up_early() {
        let params = Params::from_bytes(b"kvm_arm.mode=nvhe a kvm-arm.mode=none \xff tail");
        assert_eq!(params.lookup("kvm-arm.mode"), Some("none"));
        assert_eq!(params.lookup("a"), Some(""));
        assert_eq!(params.lookup("tail"), None);
    }

    proptest! {
        #[test]
        fn any_line_ends(line in "[ a-c\"=\t-]{0,60}") {
            let mut params = Params::new(&line);
            let words = params.by_ref().count() + params.init_words().count();
            prop_assert!(words <= line.len());
        }

        #[test]
        fn any_bytes_are_survived(line in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Params::from_bytes(&line).count();
        }

        #[test]
        fn plain_words_survive(words in prop::collection::vec("[a-z]{1,8}(=[a-z0-9]{0,8})?", 0..10)) {
            let line = words.join("  ");
            let got: Vec<_> = Params::new(&line).map(|param| param.word).collect();
            prop_assert_eq!(got, words);
        }
    }
}
