//! `./x latency`: how late a real-time guest is while another guest attacks.

use crate::run::{self, Mode};
use crate::system::storms::{ATTACKS, Latency};
use crate::system::{self, Bench};
use crate::system_packages::{For, ensure};
use crate::{build, paths, proc, ui};
use anyhow::{Context, Result};
use std::time::Duration;

#[derive(clap::Args)]
pub struct Args {
    /// How long each attack lasts, in milliseconds of virtual time
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(500..=60_000))]
    length: u64,
    /// Write the table to docs/type1.md
    #[arg(long)]
    docs: bool,
}

/// A machine that it is measured on.
struct Subject {
    cpu: &'static str,
    gic: u32,
}

const SUBJECTS: [Subject; 2] =
    [Subject { cpu: "max", gic: 3 }, Subject { cpu: "cortex-a53", gic: 2 }];

impl Subject {
    fn title(&self) -> String {
        format!("{}, GICv{}", self.cpu, self.gic)
    }
}

const BEGIN: &str = "<!-- ./x latency --docs writes from here -->\n";
const END: &str = "<!-- to here -->\n";

pub fn run(args: &Args) -> Result<()> {
    ensure(For::Run)?;
    let built = build::build(&build::Args::default())?;
    let bench = Bench { built: &built, name: "latency" };
    let mut columns = Vec::new();
    for subject in &SUBJECTS {
        ui::step(format!("Attacking on {}", subject.title()));
        let machine = run::Args {
            mode: Mode::Type1,
            cpu: subject.cpu.into(),
            gic: subject.gic,
            smp: 4,
            ..system::options()
        };
        let length = Duration::from_millis(args.length);
        columns.push((subject.title(), bench.storms(&machine, length)?));
    }
    let text = format!("\n{} ms of each:\n{}", args.length, table(&columns));
    println!("{text}");
    if args.docs {
        let file = paths::root().join("docs/type1.md");
        let old = std::fs::read_to_string(&file)?;
        let new = proc::between(&old, BEGIN, END, &text).context("type1.md has no place for it")?;
        proc::write_whole(&file, new.as_bytes())?;
        ui::note(file.display().to_string());
    }
    Ok(())
}

fn table(columns: &[(String, Vec<Latency>)]) -> String {
    let mut text = String::from("\n| attack | contained how");
    for (title, _) in columns {
        text += &format!(" | {title}");
    }
    text += &format!(" |\n| --- | ---{} |\n", " | ---:".repeat(columns.len()));
    for (i, attack) in ATTACKS.iter().enumerate() {
        text += &format!("| `{}`: {} | {}", attack.name, attack.what, attack.contained);
        for (_, latencies) in columns {
            let cell = latencies.get(i).map_or(String::new(), |latency| {
                format!("{} ({})", micros(latency.worst), micros(latency.mean))
            });
            text += &format!(" | {cell}");
        }
        text += " |\n";
    }
    text + "\n"
}

fn micros(nanoseconds: u64) -> String {
    let tenths = (nanoseconds + 50) / 100;
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table() {
        let latency = |name| Latency { name, ticks: 1000, mean: 1049, worst: 61_950 };
        let column = ATTACKS.iter().map(|attack| latency(attack.name)).collect();
        let text = table(&[("max".into(), column)]);
        assert!(text.starts_with("\n| attack | contained how | max |\n| --- | --- | ---: |\n"));
        assert!(text.contains(" dropped | 62.0 (1.0) |\n"), "{text}");
        assert_eq!(text.matches("62.0 (1.0)").count(), ATTACKS.len());
    }

    /// A run wrote it, of all attacks that there are today.
    #[test]
    fn the_documentation_has_all() {
        let text = std::fs::read_to_string(paths::root().join("docs/type1.md")).unwrap();
        let table = text.split(BEGIN).nth(1).unwrap().split(END).next().unwrap();
        let rows: Vec<_> = table.lines().filter(|line| line.starts_with("| `")).collect();
        assert_eq!(rows.len(), ATTACKS.len());
        for (row, attack) in rows.iter().zip(&ATTACKS) {
            let words = format!("| `{}`: {} | {} | ", attack.name, attack.what, attack.contained);
            let figures = row.strip_prefix(&words).unwrap_or_else(|| panic!("{row}: {words}"));
            assert_eq!(figures.matches(" (").count(), SUBJECTS.len(), "{row}");
        }
    }
}
