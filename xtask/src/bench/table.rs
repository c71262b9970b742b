//! The table that people read.

use super::events::Lane;
use super::model;
use super::operation::{OPERATIONS, Unit};
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

/// What a Debian guest's boot exits for, the most frequent causes first.
pub fn exits(records: &[Record], cpu: &str) -> String {
    let here = |record: &&Record| record.cpu == cpu && !record.exits.is_empty();
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
    fn thousands() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(1000), "1,000");
        assert_eq!(grouped(12_345_678), "12,345,678");
    }
}
