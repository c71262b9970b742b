//! The few lines of the table that the README shows.

use super::operation::Unit;
use super::record::{Kernel, Record};
use super::{operation, table};
use crate::{paths, proc};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;

const BEGIN: &str = "<!-- ./x bench --docs writes from here -->\n";
const END: &str = "<!-- to here -->\n";

const ROWS: [(&str, &str); 7] = [
    ("hypercall_null", "null hypercall"),
    ("vgic_read", "read of the vGIC"),
    ("mmio_user_read", "MMIO read answered in the VMM"),
    ("sgi_other", "SGI to a computing vCPU"),
    ("timer", "timer, due to taken"),
    ("vm_cycle", "VM made, run and ended"),
    ("boot_host", "boot to /init"),
];

/// The README with these lines in it. All must have been measured: Linux, Hypha and Xen.
pub fn readme(records: &[Record]) -> Result<(PathBuf, String)> {
    let columns = table::columns(records, "max");
    for kernel in [Kernel::Linux, Kernel::Hypha, Kernel::Xen] {
        if !columns.iter().any(|(known, _)| *known == kernel) {
            bail!("{} was not measured, and the README's table has it", kernel.name());
        }
    }
    let file = paths::root().join("README.md");
    let text = std::fs::read_to_string(&file)?;
    let text = proc::between(&text, BEGIN, END, &table(records))
        .context("README.md has no place for the table")?;
    Ok((file, text))
}

fn table(records: &[Record]) -> String {
    let wanted =
        |(kernel, mode): &(Kernel, String)| *kernel != Kernel::Linux || mode != "protected";
    let columns: Vec<_> = table::columns(records, "max").into_iter().filter(wanted).collect();
    let mut text = String::from("\n|");
    for (kernel, mode) in &columns {
        let mode = match mode.as_str() {
            "vhe" => "VHE",
            "nvhe" => "nVHE",
            "type1" => "Type-1",
            other => other,
        };
        let title = match kernel {
            Kernel::Linux => format!("Linux {mode}"),
            Kernel::Hypha => format!("Hypha {mode}"),
            Kernel::Xen => "Xen".into(),
        };
        text += &format!(" | {title}");
    }
    text += " |\n| ---";
    text += &" | ---:".repeat(columns.len());
    text += " |\n";
    for (op, words) in ROWS {
        let find = |(kernel, mode): &(Kernel, String)| {
            let found = records
                .iter()
                .find(|r| r.cpu == "max" && r.op == op && r.kernel == *kernel && r.mode == *mode);
            let unit = operation::find(op).map_or(Unit::Instructions, |found| found.unit);
            found.map_or(String::new(), |r| table::value(unit, r.value))
        };
        let cells: Vec<_> = columns.iter().map(find).collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            text += &format!("| {words} | {} |\n", cells.join(" | "));
        }
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written() {
        let record =
            |op: &str, kernel, mode: &str, value| Record::new(op, kernel, mode, "max", value);
        let records = [
            record("hypercall_null", Kernel::Linux, "vhe", 1314),
            record("hypercall_null", Kernel::Xen, "type1", 1657),
            record("timer", Kernel::Linux, "vhe", 2683),
        ];
        let table = table(&records);
        assert!(table.contains("| | Linux VHE | Xen |\n| --- | ---: | ---: |\n"), "{table}");
        assert!(table.contains("| timer, due to taken | 2,683 |  |\n"), "{table}");
        let hypha = record("timer", Kernel::Hypha, "vhe", 490);
        // Without Hypha the table would be a fragment.
        assert!(readme(&records).unwrap_err().to_string().contains("hypha"));
        let (_, text) = readme(&[&records[..], &[hypha]].concat()).unwrap();
        assert!(text.contains("| timer, due to taken | 2,683 | 490 |  |\n"));
    }
}
