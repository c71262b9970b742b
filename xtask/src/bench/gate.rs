//! No change makes an exit cost more without saying so: Hypha's counts stand in
//! a file, and `./x test` compares.

use super::boot::{Kit, Subject};
use super::operation::{self, Unit};
use super::record::{Kernel, Record};
use crate::run::Mode;
use crate::toolchain::Toolchain;
use crate::{build, paths, proc, ui};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;

/// A change may cost so much: 2 % or 8, whichever is more.
const PERCENT: u64 = 2;
const LEAST: u64 = 8;
/// Another compiler than the counts are of makes other code; this much more is
/// no longer the compiler.
const OTHER_COMPILER: u64 = 10;

/// Where the counts are of by default.
const CPU: &str = "max";
/// A CPU whose ID registers ask for mitigations, and what is counted on it.
const OTHER_CPU: &str = "neoverse-n1";
const OTHER_OPS: [&str; 4] = ["hypercall_null", "psci_version", "mmio_user_read", "vgic_read"];

fn file() -> PathBuf {
    paths::root().join("xtask/bench-counts.txt")
}

const HEAD: &str = "\
# Instructions of Hypha's exits (QEMU -icount, GICv3, 2 CPUs), one a line: mode operation
# count, with the CPU model before them if it isn't max.
# `./x test bench` refuses counts that are more than 2 % or 8 above these, whichever is
# more; `./x bench --update` writes them anew.
";

/// The counts in the repository, and the compiler that they are of.
#[derive(PartialEq, Eq, Debug)]
struct Counts {
    compiler: String,
    counts: Vec<Count>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Count {
    cpu: String,
    mode: String,
    op: String,
    count: u64,
}

impl Count {
    fn of(record: &Record) -> Self {
        let Record { cpu, mode, op, .. } = record.clone();
        Self { cpu, mode, op, count: record.value }
    }

    fn now(&self, records: &[Record]) -> Option<u64> {
        let same = |r: &&Record| r.cpu == self.cpu && r.mode == self.mode && r.op == self.op;
        records.iter().find(same).map(|record| record.value)
    }

    /// What it is the count of, as a line of the file has it.
    fn title(&self) -> String {
        let cpu = if self.cpu == CPU { String::new() } else { format!("{} ", self.cpu) };
        format!("{cpu}{} {}", self.mode, self.op)
    }
}

impl Counts {
    fn parse(text: &str) -> Result<Self> {
        let mut compiler = None;
        let mut counts = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let words: Vec<_> = line.split_whitespace().collect();
            match words[..] {
                ["rustc", version] => compiler = Some(version.to_string()),
                [ref cpu @ .., mode, op, count] if cpu.len() <= 1 => counts.push(Count {
                    cpu: cpu.first().unwrap_or(&CPU).to_string(),
                    mode: mode.to_string(),
                    op: op.to_string(),
                    count: count.parse().with_context(|| format!("not a count: {line}"))?,
                }),
                _ => bail!("not a count: {line}"),
            }
        }
        Ok(Self { compiler: compiler.context("no compiler is named")?, counts })
    }

    fn show(&self) -> String {
        let mut text = format!("{HEAD}rustc {}\n", self.compiler);
        for count in &self.counts {
            text += &format!("{} {}\n", count.title(), count.count);
        }
        text
    }

    /// What is worse or missing: count, limit, count now.
    fn worse(&self, compiler: &str, records: &[Record]) -> Vec<(&Count, u64, Option<u64>)> {
        let percent = if compiler == self.compiler { PERCENT } else { OTHER_COMPILER };
        let mut worse = Vec::new();
        for count in &self.counts {
            let limit = count.count + (count.count * percent / 100).max(LEAST);
            let now = count.now(records);
            if now.is_none_or(|now| now > limit) {
                worse.push((count, limit, now));
            }
        }
        worse
    }
}

/// A boot for each mode and CPU model, and the comparison.
pub fn check(built: &build::Built) -> Result<()> {
    let kept = Counts::parse(&std::fs::read_to_string(file())?)?;
    let compiler = compiler()?;
    let records = measure(built, &kept.modes())?;
    ui::note(format!("{:<36} {:>9} {:>9}", "mode, operation", "recorded", "now"));
    for count in &kept.counts {
        let now = count.now(&records).map_or("-".into(), |now| now.to_string());
        ui::note(format!("{:<36} {:>9} {now:>9}", count.title(), count.count));
    }
    if compiler != kept.compiler {
        ui::warn(format!(
            "the counts are of rustc {}, this is {compiler}: {OTHER_COMPILER} % more passes",
            kept.compiler
        ));
    }
    let worse = kept.worse(&compiler, &records);
    if worse.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = worse
        .iter()
        .map(|(count, limit, now)| match now {
            Some(now) => format!("{}: {now}, at most {limit} pass", count.title()),
            None => format!("{}: was not measured", count.title()),
        })
        .collect();
    bail!(
        "{} counts have become worse (if that is meant: ./x bench --update)\n  {}",
        worse.len(),
        lines.join("\n  ")
    )
}

/// Writes the counts anew.
pub fn update(built: &build::Built) -> Result<()> {
    let modes: Vec<_> = super::hypha_modes();
    let records = measure(built, &modes)?;
    let counts = records.iter().map(Count::of).collect();
    let new = Counts { compiler: compiler()?, counts };
    proc::write_whole(&file(), new.show().as_bytes())?;
    ui::step(format!("Wrote {} counts", new.counts.len()));
    Ok(())
}

impl Counts {
    fn modes(&self) -> Vec<Mode> {
        let all = super::hypha_modes();
        all.into_iter().filter(|m| self.counts.iter().any(|count| count.mode == m.name())).collect()
    }
}

fn measure(built: &build::Built, modes: &[Mode]) -> Result<Vec<Record>> {
    let kit = Kit::new(built)?;
    let mut records = Vec::new();
    let others = OTHER_OPS.map(String::from);
    for (cpu, ops) in [(CPU, &[][..]), (OTHER_CPU, &others[..])] {
        for mode in modes {
            let subject = Subject { kernel: Kernel::Hypha, mode: *mode, cpu: cpu.into() };
            let instructions = |record: &Record| {
                operation::find(&record.op).is_some_and(|op| op.unit == Unit::Instructions)
            };
            records.extend(subject.measure(&kit, ops)?.into_iter().filter(instructions));
        }
    }
    Ok(records)
}

/// The kernel's compiler.
pub fn compiler() -> Result<String> {
    let text = proc::output(Toolchain::find()?.program("rustc").arg("--version"))?;
    Ok(text.split_whitespace().nth(1).unwrap_or_default().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(op: &str, value: u64) -> Record {
        Record::new(op, Kernel::Hypha, "vhe", "max", value)
    }

    #[test]
    fn limits() {
        let kept = Counts::parse("# c\nrustc 1.96.0\nvhe eoi 100\nvhe timer 1000\n").unwrap();
        assert_eq!(Counts::parse(&kept.show()).unwrap(), kept);
        let worse = |compiler, eoi, timer| {
            let records = [record("eoi", eoi), record("timer", timer)];
            kept.worse(compiler, &records).into_iter().map(|w| w.0.op.clone()).collect::<Vec<_>>()
        };
        assert!(worse("1.96.0", 108, 1020).is_empty());
        assert_eq!(worse("1.96.0", 109, 1020), ["eoi"]);
        assert_eq!(worse("1.96.0", 90, 1021), ["timer"]);
        assert_eq!(worse("1.97.0", 111, 1100), ["eoi"]);
        // What is not measured any more fails too.
        assert_eq!(kept.worse("1.96.0", &[record("eoi", 1)])[0].2, None);
        // A CPU model of its own.
        let kept = Counts::parse("rustc 1\nneoverse-n1 vhe eoi 100\n").unwrap();
        assert_eq!(kept.worse("1", &[record("eoi", 1)])[0].2, None);
        let n1 = Record { cpu: OTHER_CPU.into(), ..record("eoi", 100) };
        assert!(kept.worse("1", &[n1]).is_empty());
        assert_eq!(Counts::parse(&kept.show()).unwrap(), kept);
        assert!(Counts::parse("vhe eoi 100").is_err());
        assert!(Counts::parse("rustc 1\nvhe eoi x").is_err());
    }
}
