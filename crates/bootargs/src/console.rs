//! `console=` and `earlycon`, as Linux takes them: which ports show the log, what
//! /dev/console is, and where output goes before that.

use crate::args::Warning;
use crate::parse_int;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// What /dev/console is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// This port.
    Port(usize),
    /// A terminal that shows nothing (`console=null`).
    Null,
    /// None of those asked for exists.
    Nothing,
}

/// What becomes of the `console=` parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consoles {
    /// The ports that show the log.
    pub log: Vec<usize>,
    /// What /dev/console is: the last one named, of those that exist.
    pub console: Console,
    /// What to tell the user.
    pub warnings: Vec<Warning>,
}

impl Consoles {
    /// `wanted`: the parameters' values, in order; `ports`: the names of the ports
    /// there are. Without parameters it is `stdout`, what the device tree names.
    /// With some, only what they name, even if none of that exists: as on Linux.
    pub fn choose(wanted: &[String], ports: &[&str], stdout: Option<usize>) -> Consoles {
        let mut chosen =
            Consoles { log: Vec::new(), console: Console::Nothing, warnings: Vec::new() };
        if wanted.is_empty() {
            if let Some(port) = stdout {
                chosen.take(port);
            }
            return chosen;
        }
        for value in wanted {
            let (name, index) = split(value);
            let found = ports.iter().position(|port| split(port) == (name, index));
            match found {
                Some(port) => chosen.take(port),
                None if matches!(name, "" | "null" | "ttynull") => chosen.console = Console::Null,
                None => {
                    let text = format!("console={value}: there is no such console");
                    chosen.warnings.push(Warning(text));
                }
            }
        }
        chosen
    }

    fn take(&mut self, port: usize) {
        if !self.log.contains(&port) {
            self.log.push(port);
        }
        self.console = Console::Port(port);
    }
}

/// `ttyAMA1,115200`: the name, and the number, which is 0 if it isn't there.
fn split(value: &str) -> (&str, u32) {
    let end = value.find(|c: char| c.is_ascii_digit() || c == ',').unwrap_or(value.len());
    let (name, rest) = value.split_at_checked(end).unwrap_or((value, ""));
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let number = rest.get(..digits).and_then(|digits| digits.parse().ok());
    (name, number.unwrap_or(0))
}

/// Where `earlycon` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyCon {
    /// To what `/chosen/stdout-path` names.
    Stdout,
    /// `pl011,ADDRESS`.
    Pl011(u64),
    /// `uart8250,mmio,ADDRESS`; with `mmio32` registers are words.
    Uart8250 {
        /// Where the registers are.
        address: u64,
        /// They are 32 bits wide, and four bytes apart.
        words: bool,
    },
}

impl EarlyCon {
    /// Reads the parameter's value.
    pub fn parse(value: &str) -> Result<EarlyCon, Warning> {
        if value.is_empty() {
            return Ok(EarlyCon::Stdout);
        }
        let unknown = || Warning(format!("earlycon={value}: unknown; known are {KNOWN}"));
        let mut parts = value.split(',');
        let driver = parts.next().unwrap_or("");
        let mut place = parts.next().unwrap_or("");
        let words = place == "mmio32";
        if matches!(place, "mmio" | "mmio32") {
            place = parts.next().unwrap_or("");
        }
        let address = parse_int(place).filter(|address| *address != 0).ok_or_else(unknown)?;
        match driver {
            "pl011" => Ok(EarlyCon::Pl011(address)),
            "uart8250" | "uart" | "ns16550" | "ns16550a" => {
                Ok(EarlyCon::Uart8250 { address, words })
            }
            _ => Err(unknown()),
        }
    }
}

const KNOWN: &str = "pl011,ADDRESS and uart8250,mmio|mmio32,ADDRESS";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;

    const PORTS: [&str; 3] = ["ttyAMA0", "ttyAMA1", "ttyS0"];

    fn choose(wanted: &[&str]) -> (Vec<usize>, Console, usize) {
        let wanted: Vec<String> = wanted.iter().map(|value| value.to_string()).collect();
        let chosen = Consoles::choose(&wanted, &PORTS, Some(1));
        (chosen.log, chosen.console, chosen.warnings.len())
    }

    #[test]
    fn the_device_tree_s_if_none_is_named() {
        assert_eq!(choose(&[]), ([1].into(), Console::Port(1), 0));
        let none = Consoles::choose(&[], &[], None);
        assert_eq!((none.log, none.console), ([].into(), Console::Nothing));
    }

    #[test]
    fn the_last_one_named() {
        assert_eq!(choose(&["ttyAMA0"]), ([0].into(), Console::Port(0), 0));
        assert_eq!(choose(&["ttyAMA", "ttyS0,115200n8"]), ([0, 2].into(), Console::Port(2), 0));
        assert_eq!(choose(&["ttyS0", "ttyAMA1", "ttyS0"]), ([2, 1].into(), Console::Port(2), 0));
    }

    #[test]
    fn what_does_not_exist() {
        assert_eq!(choose(&["ttyAMA0", "hvc0"]), ([0].into(), Console::Port(0), 1));
        assert_eq!(choose(&["tty0", "ttyS1", "ttyAMA01x"]), ([1].into(), Console::Port(1), 2));
        // As on Linux: nothing is shown.
        assert_eq!(choose(&["hvc0"]), ([].into(), Console::Nothing, 1));
        let told = Consoles::choose(&["hvc0".to_string()], &PORTS, None).warnings;
        assert_eq!(told[0].to_string(), "console=hvc0: there is no such console");
    }

    #[test]
    fn none_at_all() {
        for value in ["", "null", "ttynull"] {
            assert_eq!(choose(&[value]), ([].into(), Console::Null, 0));
            assert_eq!(choose(&["ttyS0", value]), ([2].into(), Console::Null, 0));
            assert_eq!(choose(&[value, "ttyS0"]), ([2].into(), Console::Port(2), 0));
        }
    }

    #[test]
    fn early() {
        let parse = |value| EarlyCon::parse(value).ok();
        assert_eq!(parse(""), Some(EarlyCon::Stdout));
        assert_eq!(parse("pl011,0x9000000"), Some(EarlyCon::Pl011(0x900_0000)));
        assert_eq!(parse("pl011,mmio32,0x9000000,115200"), Some(EarlyCon::Pl011(0x900_0000)));
        let uart = |words| Some(EarlyCon::Uart8250 { address: 0x1000, words });
        assert_eq!(parse("uart8250,mmio32,0x1000"), uart(true));
        assert_eq!(parse("uart8250,mmio,0x1000,115200n8"), uart(false));
        assert_eq!(parse("ns16550a,0x1000"), uart(false));
        for bad in ["pl011", "pl011,", "pl011,io,0x1000", "pl011,0", "sbi", "uart8250,mmio16,0x1"] {
            assert!(EarlyCon::parse(bad).unwrap_err().to_string().contains(bad));
        }
    }

    proptest! {
        #[test]
        fn any_value_is_survived(value in ".{0,30}") {
            let _ = EarlyCon::parse(&value);
            let _ = Consoles::choose(&[value], &PORTS, None);
        }
    }
}
