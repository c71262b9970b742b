//! What the project promises besides counts of instructions. Only QEMU's plugin sees it.

use super::boot::{Kit, Subject};
use super::record::{Kernel, Record};
use super::{subjects, table};
use crate::run::Mode;
use crate::{build, ui};
use anyhow::{Result, bail};

/// A Debian guest with one vCPU exits so often until its /init runs, at most.
const BOOT_EXITS: u64 = 1500;
/// Its boot's instructions, by those of the same kernel's on the machine itself, in
/// thousandths.
const BOOT_RATIO: u64 = 1030;
/// The CPU that its boot is promised on: Linux lets this one's reads of CTR_EL0 trap.
const BOOT_CPU: &str = "neoverse-n1";

/// Exception-level changes of an operation.
struct Levels {
    mode: Mode,
    op: &'static str,
    changes: u64,
}

/// There and back; where nVHE's host answers, by EL1.
const LEVELS: [Levels; 4] = [
    Levels { mode: Mode::Vhe, op: "hypercall_null", changes: 2 },
    Levels { mode: Mode::Vhe, op: "psci_affinity", changes: 2 },
    Levels { mode: Mode::Nvhe, op: "hypercall_null", changes: 2 },
    Levels { mode: Mode::Nvhe, op: "psci_affinity", changes: 4 },
];

const MODES: [Mode; 2] = [Mode::Vhe, Mode::Nvhe];

/// Exception levels of a hypercall, as the trace shows them.
pub fn levels(built: &build::Built) -> Result<()> {
    let ops = ["hypercall_null", "psci_affinity"].map(String::from);
    held(&measure(built, "max", &ops)?, wrong_levels)
}

/// What a Debian guest's boot takes.
pub fn guest_boot(built: &build::Built) -> Result<()> {
    let ops = ["guest_boot_exits", "guest_boot_ratio"].map(String::from);
    held(&measure(built, BOOT_CPU, &ops)?, dear_boots)
}

/// All operations, beside the same of Linux's and Xen's.
pub fn others(built: &build::Built) -> Result<()> {
    let kit = Kit::watching(built, &[], &[])?;
    let mut records = Vec::new();
    for subject in subjects(&["max".into()], &[], &[]) {
        ui::note(format!("{} on {}", subject.title(), subject.cpu));
        records.extend(subject.measure(&kit, &[])?);
    }
    ui::note(table::markdown(&records, "max"));
    let alone = unmet(&records);
    if !alone.is_empty() {
        bail!("nobody's counts are there to compare with {}", alone.join(", "));
    }
    held(&records, |records| table::above(records, "max"))
}

/// Hypha's modes, and whom each is compared with, of whom there are no counts.
fn unmet(records: &[Record]) -> Vec<String> {
    let has = |kernel, mode: Mode| {
        records.iter().any(|record| record.kernel == kernel && record.mode == mode.name())
    };
    let mut unmet = Vec::new();
    for mode in super::hypha_modes() {
        let (other, its) = match mode {
            Mode::Type1 => (Kernel::Xen, Mode::Type1),
            _ => (Kernel::Linux, mode),
        };
        if !has(Kernel::Hypha, mode) || !has(other, its) || !has(Kernel::Xen, Mode::Type1) {
            unmet.push(mode.name().to_string());
        }
    }
    unmet
}

fn measure(built: &build::Built, cpu: &str, ops: &[String]) -> Result<Vec<Record>> {
    let kit = Kit::watching(built, ops, &[Kernel::Hypha])?;
    let mut records = Vec::new();
    for mode in MODES {
        let subject = Subject { kernel: Kernel::Hypha, mode, cpu: cpu.into() };
        records.extend(subject.measure(&kit, ops)?);
    }
    ui::note(table::markdown(&records, cpu));
    Ok(records)
}

fn held(records: &[Record], broken: impl Fn(&[Record]) -> Vec<String>) -> Result<()> {
    let broken = broken(records);
    match broken.is_empty() {
        true => Ok(()),
        false => bail!("promised, and not so:\n  {}", broken.join("\n  ")),
    }
}

fn find<'a>(records: &'a [Record], mode: Mode, op: &str) -> Option<&'a Record> {
    records.iter().find(|record| record.mode == mode.name() && record.op == op)
}

fn wrong_levels(records: &[Record]) -> Vec<String> {
    let mut wrong = Vec::new();
    for Levels { mode, op, changes } in LEVELS {
        let window = find(records, mode, op).and_then(|record| record.window.as_ref());
        let seen = window.map(|window| window.sums(None).el_changes);
        if seen != Some(changes) {
            wrong.push(format!(
                "{} {op}: {} changes of exception level, and not {changes}",
                mode.name(),
                seen.map_or("no".into(), |seen| seen.to_string())
            ));
        }
    }
    wrong
}

fn dear_boots(records: &[Record]) -> Vec<String> {
    let mut dear = Vec::new();
    for mode in MODES {
        for (op, most) in [("guest_boot_exits", BOOT_EXITS), ("guest_boot_ratio", BOOT_RATIO)] {
            match find(records, mode, op).map(|record| record.value) {
                None => dear.push(format!("{} {op}: was not measured", mode.name())),
                Some(value) if value > most => {
                    dear.push(format!("{} {op}: {value}, at most {most}", mode.name()));
                }
                Some(_) => {}
            }
        }
    }
    dear
}

#[cfg(test)]
mod tests {
    use super::super::events::{Event, Lane, What, Window};
    use super::*;

    fn record(mode: Mode, op: &str, value: u64) -> Record {
        Record::new(op, Kernel::Hypha, mode.name(), "max", value)
    }

    #[test]
    fn boots() {
        let boots = |exits, ratio| {
            let of = |mode| {
                let exits = record(mode, "guest_boot_exits", exits);
                [exits, record(mode, "guest_boot_ratio", ratio)]
            };
            dear_boots(&MODES.map(of).concat())
        };
        assert_eq!(boots(1500, 1030), [""; 0]);
        let text = boots(1501, 1031);
        assert_eq!(text.len(), 4);
        assert_eq!(text[0], "vhe guest_boot_exits: 1501, at most 1500");
        assert_eq!(text[3], "nvhe guest_boot_ratio: 1031, at most 1030");
        assert_eq!(dear_boots(&[])[0], "vhe guest_boot_exits: was not measured");
    }

    #[test]
    fn nobody_is_left_out() {
        let mut records = Vec::new();
        for mode in super::super::hypha_modes() {
            records.push(record(mode, "eoi", 6));
            let linux = Record { kernel: Kernel::Linux, ..record(mode, "eoi", 6) };
            records.extend((mode != Mode::Type1).then_some(linux));
        }
        assert_eq!(unmet(&records), ["vhe", "nvhe", "type1"]);
        records.push(Record { kernel: Kernel::Xen, ..record(Mode::Type1, "eoi", 6) });
        assert_eq!(unmet(&records), [""; 0]);
        records.retain(|r| r.kernel != Kernel::Linux || r.mode != "nvhe");
        assert_eq!(unmet(&records), ["nvhe"]);
    }

    #[test]
    fn levels_are_counted() {
        let event = |lane, from| Event { cpu: 0, at: 0, own: 0, lane, what: What::From(from) };
        let (up, down) = (event(Lane::El2, Lane::GuestEl1), event(Lane::GuestEl1, Lane::El2));
        let record = |levels: &Levels| {
            let events = [up, down].repeat(levels.changes as usize / 2);
            let window = Window { events, ..Window::default() };
            Record { window: Some(window), ..record(levels.mode, levels.op, 98) }
        };
        assert_eq!(wrong_levels(&LEVELS.each_ref().map(record)), [""; 0]);
    }

    #[test]
    fn levels_need_a_window() {
        let seen =
            Record { window: Some(Window::default()), ..record(Mode::Vhe, "hypercall_null", 98) };
        let text = wrong_levels(&[seen]);
        assert_eq!(text.len(), 4);
        assert_eq!(text[0], "vhe hypercall_null: 0 changes of exception level, and not 2");
        assert_eq!(text[3], "nvhe psci_affinity: no changes of exception level, and not 4");
    }
}
