//! The table that people read.

use super::events::Lane;
use super::model;
use super::operation::{OPERATIONS, Operation, Unit};
use super::record::{Kernel, Record};
use std::collections::{BTreeMap, BTreeSet};

/// The most causes of exits in a table.
const CAUSES: usize = 16;

/// Kernels and modes that were measured, modes in the order of the modes' table.
pub fn columns(records: &[Record], cpu: &str) -> Vec<(Kernel, String)> {
    let rank = |mode: &str| ["vhe", "nvhe", "protected", "type1"].iter().position(|m| *m == mode);
    let here = records.iter().filter(|record| record.cpu == cpu);
    let columns: BTreeSet<_> = here.map(|r| (rank(&r.mode), r.kernel, r.mode.clone())).collect();
    columns.into_iter().map(|(_, kernel, mode)| (kernel, mode)).collect()
}

/// A value in its unit.
pub fn value(unit: Unit, n: u64) -> String {
    match unit {
        Unit::Instructions => grouped(n),
        Unit::Kib => format!("{} KiB", grouped(n)),
        Unit::Exits => format!("{} exits", grouped(n)),
        Unit::Thousandths => format!("{:.3}", n as f64 / 1000.0),
    }
}

/// Operation × kernel and mode for one CPU model, in Markdown; Hypha's columns
/// have their ratio to Linux in the same mode (to Xen for Type-1) beside them.
pub fn markdown(records: &[Record], cpu: &str) -> String {
    let here: Vec<_> = records.iter().filter(|record| record.cpu == cpu).collect();
    let value = |op: &str, kernel: Kernel, mode: &str| {
        let found = here.iter().find(|r| r.op == op && r.kernel == kernel && r.mode == mode);
        found.map(|record| record.value)
    };
    let columns = columns(records, cpu);
    let mut rows = vec![vec!["operation".to_string()]];
    for (kernel, mode) in &columns {
        rows[0].push(format!("{} {mode}", kernel.name()));
        if *kernel == Kernel::Hypha {
            rows[0].push("ratio".into());
        }
    }
    for operation in OPERATIONS {
        if !here.iter().any(|record| record.op == operation.name) {
            continue;
        }
        let mut row = vec![operation.name.to_string()];
        for (kernel, mode) in &columns {
            let own = value(operation.name, *kernel, mode);
            row.push(own.map_or(String::new(), |n| self::value(operation.unit, n)));
            if *kernel == Kernel::Hypha {
                let other = if mode == "type1" { Kernel::Xen } else { Kernel::Linux };
                let other = value(operation.name, other, mode);
                row.push(match (own, other) {
                    (Some(own), Some(other)) if other > 0 => {
                        format!("{:.2}", own as f64 / other as f64)
                    }
                    _ => String::new(),
                });
            }
        }
        rows.push(row);
    }
    align(&rows)
}

/// Where Hypha takes more than Linux in the same mode or than Xen: the counts of instructions,
/// and then what has other units. Nothing if there was nobody to compare with.
pub fn exceeding(records: &[Record], cpu: &str) -> String {
    let kinds =
        [("counts of instructions", true), ("values in other units (memory, exits, ratio)", false)];
    let mut text = String::new();
    for (what, instructions) in kinds {
        let mut pairs = pairs(records, cpu);
        pairs.retain(|(op, _, _)| (op.unit == Unit::Instructions) == instructions);
        let above: Vec<_> =
            pairs.iter().filter(|(_, own, other)| own.value > other.value).collect();
        let compared = pairs.len();
        if compared == 0 {
            continue;
        }
        if above.is_empty() {
            text += &format!(
                "None of Hypha's {what} is above Linux's in the same mode or above Xen's \
                 ({compared} pairs).\n\n"
            );
            continue;
        }
        text += &format!(
            "Of Hypha's {what} these are above Linux's in the same mode or above Xen's \
             ({} of {compared} pairs):\n\n",
            above.len()
        );
        for (operation, own, other) in above {
            let cell = |record: &Record| {
                let value = value(operation.unit, record.value);
                format!("{} {} {value}", record.kernel.name(), record.mode)
            };
            text += &format!("- `{}`: {}, {}\n", operation.name, cell(own), cell(other));
        }
        text += "\n";
    }
    text
}

/// Hypha's counts of instructions that are above Linux's in the same mode or above Xen's.
pub fn above(records: &[Record], cpu: &str) -> Vec<String> {
    let instructions = pairs(records, cpu).into_iter();
    let instructions = instructions.filter(|(op, _, _)| op.unit == Unit::Instructions);
    instructions
        .filter(|(_, own, other)| own.value > other.value)
        .map(|(op, own, other)| {
            let (whose, mode) = (other.kernel.name(), &other.mode);
            format!("{} {}: {}, {whose} {mode} {}", own.mode, op.name, own.value, other.value)
        })
        .collect()
}

/// Each value of Hypha's with the same of Linux in the same mode, and with Xen's.
fn pairs<'a>(
    records: &'a [Record],
    cpu: &str,
) -> Vec<(&'static Operation, &'a Record, &'a Record)> {
    let mut pairs = Vec::new();
    for operation in OPERATIONS {
        let here = || records.iter().filter(|r| r.cpu == cpu && r.op == operation.name);
        for own in here().filter(|record| record.kernel == Kernel::Hypha) {
            let compares = |other: &&Record| match other.kernel {
                Kernel::Linux => other.mode == own.mode,
                Kernel::Hypha => false,
                Kernel::Xen => true,
            };
            pairs.extend(here().filter(compares).map(|other| (operation, own, other)));
        }
    }
    pairs
}

/// What the instructions are: levels, system registers, barriers, by the plugin.
pub fn events(records: &[Record], cpu: &str) -> String {
    let head = ["operation", "kernel", "EL2", "EL changes", "MRS", "MSR", "ISB", "DSB", "TLBI"];
    let head = head.into_iter().chain(["ERET", "cycles (model)"]);
    let mut rows = vec![head.map(String::from).collect::<Vec<_>>()];
    for operation in OPERATIONS {
        let of_op = |record: &&Record| record.cpu == cpu && record.op == operation.name;
        for record in records.iter().filter(of_op) {
            let Some(window) = &record.window else { continue };
            let sums = window.sums(None);
            let el2 = window.lanes.get(&Lane::El2).copied().unwrap_or(0);
            let mut row =
                vec![record.op.clone(), format!("{} {}", record.kernel.name(), record.mode)];
            let numbers = [el2, sums.el_changes, sums.sysreg_reads, sums.sysreg_writes, sums.isb];
            row.extend(numbers.map(grouped));
            let numbers = [sums.dsb, sums.tlbi, sums.eret, model::cycles(window)];
            row.extend(numbers.map(grouped));
            rows.push(row);
        }
    }
    if rows.len() > 1 { align(&rows) } else { String::new() }
}

/// What a Debian guest's boot exits for, the most frequent causes first: `op` is one of its
/// operations that count exits.
pub fn exits(records: &[Record], op: &str, cpu: &str) -> String {
    let here = |record: &&Record| record.op == op && record.cpu == cpu;
    let columns: Vec<_> = records.iter().filter(here).collect();
    let mut causes: BTreeMap<&str, u64> = BTreeMap::new();
    for record in &columns {
        for exits in &record.exits {
            let most = causes.entry(&exits.cause).or_default();
            *most = exits.times.max(*most);
        }
    }
    let mut causes: Vec<_> = causes.into_iter().collect();
    causes.sort_by_key(|(cause, most)| (std::cmp::Reverse(*most), *cause));
    let mut rows = vec![vec!["cause".to_string()]];
    for record in &columns {
        rows[0].push(format!("{} {}", record.kernel.name(), record.mode));
    }
    for (cause, _) in causes.iter().take(CAUSES) {
        let mut row = vec![cause.to_string()];
        for record in &columns {
            let found = record.exits.iter().find(|exits| exits.cause == *cause);
            row.push(found.map_or(String::new(), |exits| grouped(exits.times)));
        }
        rows.push(row);
    }
    if rows.len() > 1 { align(&rows) } else { String::new() }
}

fn align(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (column, cell) in row.iter().enumerate() {
            let width = width(column).unwrap_or(0);
            text += &if column == 0 {
                format!("| {cell:<width$} ")
            } else {
                format!("| {cell:>width$} ")
            };
        }
        text += "|\n";
        if number == 0 {
            for column in 0..row.len() {
                let dashes = "-".repeat(width(column).unwrap_or(1).max(2));
                text += &if column == 0 {
                    format!("| {dashes} ")
                } else {
                    format!("| {}: ", &dashes[1..])
                };
            }
            text += "|\n";
        }
    }
    text
}

/// 1234567 as 1,234,567.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(op: &str, kernel: Kernel, value: u64) -> Record {
        Record::new(op, kernel, "vhe", "max", value)
    }

    #[test]
    fn ratio_and_absence() {
        let records = [
            record("hypercall_null", Kernel::Linux, 1000),
            record("hypercall_null", Kernel::Hypha, 100),
            record("eoi", Kernel::Hypha, 21),
        ];
        let text = markdown(&records, "max");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "| operation      | linux vhe | hypha vhe | ratio |");
        assert_eq!(lines[2], "| hypercall_null |     1,000 |       100 |  0.10 |");
        assert_eq!(lines[3], "| eoi            |           |        21 |       |");
        assert_eq!(lines.len(), 4);
        assert!(markdown(&records, "cortex-a72").lines().count() <= 2);
    }

    #[test]
    fn more_than_linux_or_xen() {
        let other =
            |op: &str, kernel, mode: &str, value| Record::new(op, kernel, mode, "max", value);
        let mut records = vec![
            record("eoi", Kernel::Linux, 6),
            record("eoi", Kernel::Hypha, 6),
            other("timer", Kernel::Linux, "nvhe", 10),
            other("timer", Kernel::Xen, "type1", 1086),
            // Another mode of Linux's is nobody's measure.
            record("timer", Kernel::Hypha, 490),
            record("mem_vm_kib", Kernel::Linux, 64),
            record("mem_vm_kib", Kernel::Hypha, 28),
        ];
        let text = exceeding(&records, "max");
        let lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].starts_with("None of Hypha's counts of instructions is above"), "{text}");
        assert!(lines[0].ends_with("(2 pairs)."), "{text}");
        assert!(lines[1].starts_with("None of Hypha's values in other units"), "{text}");
        records.push(other("timer", Kernel::Hypha, "type1", 1087));
        records.push(record("guest_boot_ratio", Kernel::Linux, 980));
        records.push(record("guest_boot_ratio", Kernel::Hypha, 1201));
        let text = exceeding(&records, "max");
        let lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
        assert!(lines[0].starts_with("Of Hypha's counts of instructions these"), "{text}");
        assert!(lines[0].ends_with("(1 of 3 pairs):"), "{text}");
        assert_eq!(lines[1], "- `timer`: hypha type1 1,087, xen type1 1,086");
        assert_eq!(above(&records, "max"), ["type1 timer: 1087, xen type1 1086"]);
        assert!(lines[2].starts_with("Of Hypha's values in other units"), "{text}");
        assert_eq!(lines[3], "- `guest_boot_ratio`: hypha vhe 1.201, linux vhe 0.980");
        // Nobody to compare with, nothing to say.
        assert_eq!(exceeding(&records[1..2], "max"), "");
        assert_eq!(exceeding(&records, "cortex-a72"), "");
    }

    #[test]
    fn thousands() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(1000), "1,000");
        assert_eq!(grouped(12_345_678), "12,345,678");
    }
}
