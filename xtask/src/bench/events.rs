//! What the plugin saw between two marks, and what it adds up to.

use super::instruction::{self, Kind};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::Path;

/// Where a CPU is. The order is the plugin's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Lane {
    HostEl0,
    HostEl1,
    El2,
    GuestEl1,
    GuestEl0,
}

pub const LANES: [Lane; 5] =
    [Lane::HostEl0, Lane::HostEl1, Lane::El2, Lane::GuestEl1, Lane::GuestEl0];

impl Lane {
    pub fn name(self) -> &'static str {
        match self {
            Lane::HostEl0 => "el0_host",
            Lane::HostEl1 => "el1_host",
            Lane::El2 => "el2",
            Lane::GuestEl1 => "el1_guest",
            Lane::GuestEl0 => "el0_guest",
        }
    }

    pub fn level(self) -> u8 {
        match self {
            Lane::HostEl0 | Lane::GuestEl0 => 0,
            Lane::HostEl1 | Lane::GuestEl1 => 1,
            Lane::El2 => 2,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// It came to `lane` from here.
    From(Lane),
    /// It executes a system instruction.
    System(u32),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    pub cpu: usize,
    /// The machine's instructions since the window was opened.
    pub at: u64,
    /// The CPU's own.
    pub own: u64,
    pub lane: Lane,
    pub what: What,
}

/// The window of the fewest instructions.
#[derive(Clone, Default, Debug)]
pub struct Window {
    pub name: String,
    pub instructions: u64,
    /// Instructions by lane, of all CPUs.
    pub lanes: BTreeMap<Lane, u64>,
    /// By CPU.
    pub own: BTreeMap<usize, u64>,
    pub events: Vec<Event>,
}

/// Sums of events.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Sums {
    pub el_changes: u64,
    /// Exceptions that were taken to a higher level.
    pub traps: u64,
    pub sysreg_reads: u64,
    pub sysreg_writes: u64,
    pub isb: u64,
    pub dsb: u64,
    pub tlbi: u64,
    pub eret: u64,
}

impl Sums {
    pub fn fields(&self) -> [(&'static str, u64); 8] {
        [
            ("el_changes", self.el_changes),
            ("traps", self.traps),
            ("sysreg_reads", self.sysreg_reads),
            ("sysreg_writes", self.sysreg_writes),
            ("isb", self.isb),
            ("dsb", self.dsb),
            ("tlbi", self.tlbi),
            ("eret", self.eret),
        ]
    }
}

impl Window {
    /// Of all lanes, or of one; a change of level belongs to the lane it leads to.
    pub fn sums(&self, lane: Option<Lane>) -> Sums {
        let mut sums = Sums::default();
        for event in self.events.iter().filter(|event| lane.is_none_or(|l| event.lane == l)) {
            let counter = match event.what {
                What::From(from) => {
                    sums.traps += u64::from(from.level() < event.lane.level());
                    &mut sums.el_changes
                }
                What::System(opcode) => match instruction::kind(opcode) {
                    Kind::Read => &mut sums.sysreg_reads,
                    Kind::Write => &mut sums.sysreg_writes,
                    Kind::Isb => &mut sums.isb,
                    Kind::Dsb => &mut sums.dsb,
                    Kind::Tlbi => &mut sums.tlbi,
                    Kind::Eret => &mut sums.eret,
                    Kind::Call | Kind::Wait | Kind::Other => continue,
                },
            };
            *counter += 1;
        }
        sums
    }
}

/// Exits from guests for one cause.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exits {
    pub cause: String,
    pub times: u64,
}

/// What the plugin wrote.
#[derive(Default, Debug)]
pub struct Events {
    pub windows: BTreeMap<String, Window>,
    /// Instructions since power-on, by name.
    pub counts: BTreeMap<String, u64>,
    /// Instructions since a guest was first entered.
    pub since: BTreeMap<String, u64>,
    /// The exits until then.
    pub exits: BTreeMap<String, Vec<Exits>>,
}

impl Events {
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("the plugin left no {}", file.display()))?;
        Self::whole(&text).with_context(|| file.display().to_string())
    }

    /// Of a plugin that came to its end.
    fn whole(text: &str) -> Result<Self> {
        let events =
            text.strip_suffix("end\n").filter(|rest| rest.is_empty() || rest.ends_with('\n'));
        Self::parse(events.context("the plugin did not write to its end")?)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut events = Self::default();
        let mut window: Option<Window> = None;
        for line in text.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            match (words[..].first().copied(), &words[1..], &mut window) {
                (Some("window"), [name, instructions], _) => {
                    events.keep(window.take());
                    window = Some(Window {
                        name: name.to_string(),
                        instructions: instructions.parse()?,
                        ..Window::default()
                    });
                }
                // A window without a name is nobody's.
                (Some("window"), [_], _) => events.keep(window.take()),
                (Some("in"), [_, lane, count], Some(window)) => {
                    *window.lanes.entry(self::lane(lane)?).or_default() += count.parse::<u64>()?;
                }
                (Some("own"), [cpu, count], Some(window)) => {
                    window.own.insert(cpu.parse()?, count.parse()?);
                }
                (Some("to"), [cpu, at, own, to, from], Some(window)) => window.events.push(Event {
                    cpu: cpu.parse()?,
                    at: at.parse()?,
                    own: own.parse()?,
                    lane: lane(to)?,
                    what: What::From(lane(from)?),
                }),
                (Some("op"), [cpu, at, own, lane, opcode], Some(window)) => {
                    window.events.push(Event {
                        cpu: cpu.parse()?,
                        at: at.parse()?,
                        own: own.parse()?,
                        lane: self::lane(lane)?,
                        what: What::System(u32::from_str_radix(opcode, 16)?),
                    })
                }
                (Some("in" | "own" | "to" | "op"), _, None) => {}
                (Some("count"), [name, count], _) => {
                    events.counts.insert(name.to_string(), count.parse()?);
                }
                (Some("since"), [name, count], _) => {
                    events.since.insert(name.to_string(), count.parse()?);
                }
                (Some("exit"), [name, vector, syndrome, function, times], _) => {
                    let number = |word: &str| u32::from_str_radix(word, 16);
                    let cause = cause(number(vector)?, number(syndrome)?, number(function)?);
                    let exits = events.exits.entry(name.to_string()).or_default();
                    let times = times.parse()?;
                    match exits.iter_mut().find(|known| known.cause == cause) {
                        Some(known) => known.times += times,
                        None => exits.push(Exits { cause, times }),
                    }
                }
                _ => bail!("the plugin wrote {line:?}"),
            }
        }
        events.keep(window);
        Ok(events)
    }

    fn keep(&mut self, window: Option<Window>) {
        if let Some(window) = window {
            self.windows.insert(window.name.clone(), window);
        }
    }
}

/// Why a guest exited: by the vector, and ESR_EL2 (D24.2.40).
fn cause(vector: u32, esr: u32, function: u32) -> String {
    match vector {
        0x480 => return "interrupt".into(),
        0x500 => return "FIQ".into(),
        0x580 => return "SError".into(),
        _ => {}
    }
    match esr >> 26 {
        0x01 if esr & 1 == 0 => "WFI".into(),
        0x01 => "WFE".into(),
        0x07 => "FP".into(),
        0x16 => format!("HVC {function:#x}"),
        0x17 => format!("SMC {function:#x}"),
        0x18 => {
            // Op0, Op2, Op1, CRn, CRm and the direction, as MRS and MSR encode them.
            let field = |shift: u32, mask: u32| esr >> shift & mask;
            let opcode = 0xd500_0000
                | field(0, 1) << 21
                | field(20, 3) << 19
                | field(14, 7) << 16
                | field(10, 15) << 12
                | field(1, 15) << 8
                | field(17, 7) << 5;
            let verb = if esr & 1 == 1 { "read" } else { "write" };
            format!("{verb} of {}", instruction::name(opcode))
        }
        0x20 => "instruction abort".into(),
        // ISV: an access that the hypervisor can carry out; without it, memory.
        0x24 if esr & 0x3c == 0x04 && esr & 1 << 24 != 0 && esr & 1 << 6 != 0 => {
            "data abort, write".into()
        }
        0x24 if esr & 0x3c == 0x04 && esr & 1 << 24 != 0 => "data abort, read".into(),
        0x24 => "data abort, other".into(),
        class => format!("class {class:#04x}"),
    }
}

fn lane(word: &str) -> Result<Lane> {
    let lane = LANES.get(word.parse::<usize>()?).copied();
    lane.with_context(|| format!("there is no lane {word}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsed_and_summed() {
        let text = "window  7\nop 0 1 1 2 d69f03e0\n\
                    window hvc 30\nin 0 2 20\nin 0 3 5\nin 1 3 5\nown 0 25\nop 0 1 1 3 d4000002\n\
                    to 0 2 2 2 3\nop 0 3 3 2 d53c5206\nop 0 4 4 2 d51c4021\n\
                    op 0 5 5 2 d5033fdf\nop 0 6 6 2 d69f03e0\nto 0 7 7 3 2\ncount boot 1000\n";
        let events = Events::parse(text).unwrap();
        assert_eq!(events.counts["boot"], 1000);
        assert_eq!(events.windows.len(), 1);
        let window = &events.windows["hvc"];
        assert_eq!(window.lanes[&Lane::GuestEl1], 10);
        let sums = window.sums(None);
        assert_eq!(
            sums,
            Sums {
                el_changes: 2,
                traps: 1,
                sysreg_reads: 1,
                sysreg_writes: 1,
                isb: 1,
                eret: 1,
                ..Sums::default()
            }
        );
        assert_eq!(window.sums(Some(Lane::El2)).el_changes, 1);
        assert_eq!(window.sums(Some(Lane::GuestEl1)).traps, 0);
        let text = "since boot 9\nexit boot 400 6232c001 00000000 7\nexit boot 480 00000000 0 2\n\
                    exit boot 400 5a000000 84000000 1\n";
        let events = Events::parse(text).unwrap();
        assert_eq!(events.since["boot"], 9);
        let causes: Vec<_> =
            events.exits["boot"].iter().map(|e| (e.cause.as_str(), e.times)).collect();
        assert_eq!(causes, [("read of CTR_EL0", 7), ("interrupt", 2), ("HVC 0x84000000", 1)]);
        assert!(Events::parse("to 0 0 0 9 0\nwindow a 1\nto 0 0 0 9 0\n").is_err());
        assert!(Events::parse("nonsense").is_err());
    }

    #[test]
    fn half_a_file_is_none() {
        assert_eq!(Events::whole("count boot 10\nend\n").unwrap().counts["boot"], 10);
        assert!(Events::whole("end\n").unwrap().counts.is_empty());
        for half in ["", "count boot 10\n", "count boot 1", "count boot 10\nend", "count bend\n"] {
            assert!(Events::whole(half).is_err(), "{half:?}");
        }
    }
}
