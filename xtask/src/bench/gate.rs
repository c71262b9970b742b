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

/// A change may cost so much: 2 % or 8 instructions, whichever is more.
const PERCENT: u64 = 2;
const INSTRUCTIONS: u64 = 8;
/// Another compiler than the counts are of makes other code; this much more is
/// no longer the compiler.
const OTHER_COMPILER: u64 = 10;

fn file() -> PathBuf {
    paths::root().join("xtask/bench-counts.txt")
}

const HEAD: &str = "\
# Instructions of Hypha's exits (QEMU -icount, -cpu max, GICv3, 2 CPUs), one a line:
# mode operation count. `./x test bench` refuses counts that are more than 2 % or
# 8 instructions above these, whichever is more; `./x bench --update` writes them anew.
";

/// The counts in the repository, and the compiler that they are of.
#[derive(PartialEq, Eq, Debug)]
struct Counts {
    compiler: String,
    counts: Vec<(String, String, u64)>,
}

impl Counts {
    fn parse(text: &str) -> Result<Self> {
        let mut compiler = None;
        let mut counts = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let words: Vec<_> = line.split_whitespace().collect();
            match words[..] {
                ["rustc", version] => compiler = Some(version.to_string()),
                [mode, op, count] => counts.push((
                    mode.to_string(),
                    op.to_string(),
                    count.parse().with_context(|| format!("not a count: {line}"))?,
                )),
                _ => bail!("not a count: {line}"),
            }
        }
        Ok(Self { compiler: compiler.context("no compiler is named")?, counts })
    }

    fn show(&self) -> String {
        let mut text = format!("{HEAD}rustc {}\n", self.compiler);
        for (mode, op, count) in &self.counts {
            text += &format!("{mode} {op} {count}\n");
        }
        text
    }

    /// What is worse or missing: mode, operation, limit, count.
    fn worse(&self, compiler: &str, records: &[Record]) -> Vec<(String, String, u64, Option<u64>)> {
        let percent = if compiler == self.compiler { PERCENT } else { OTHER_COMPILER };
        let mut worse = Vec::new();
        for (mode, op, count) in &self.counts {
            let limit = count + (count * percent / 100).max(INSTRUCTIONS);
            let now = records.iter().find(|r| r.mode == *mode && r.op == *op).map(|r| r.value);
            if now.is_none_or(|now| now > limit) {
                worse.push((mode.clone(), op.clone(), limit, now));
            }
        }
        worse
    }
}

/// One boot, and the comparison.
pub fn check(built: &build::Built) -> Result<()> {
    let kept = Counts::parse(&std::fs::read_to_string(file())?)?;
    let compiler = compiler()?;
    let records = measure(built, &kept.modes())?;
    ui::note(format!("{:<10} {:<16} {:>9} {:>9}", "mode", "operation", "recorded", "now"));
    for (mode, op, count) in &kept.counts {
        let now = records.iter().find(|r| r.mode == *mode && r.op == *op);
        let now = now.map_or("-".into(), |record| record.value.to_string());
        ui::note(format!("{mode:<10} {op:<16} {count:>9} {now:>9}"));
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
        .map(|(mode, op, limit, now)| match now {
            Some(now) => format!("{mode} {op}: {now} instructions, at most {limit} pass"),
            None => format!("{mode} {op}: was not measured"),
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
    let counts = records.iter().map(|r| (r.mode.clone(), r.op.clone(), r.value)).collect();
    let new = Counts { compiler: compiler()?, counts };
    proc::write_whole(&file(), new.show().as_bytes())?;
    ui::step(format!("Wrote {} counts", new.counts.len()));
    Ok(())
}

impl Counts {
    fn modes(&self) -> Vec<Mode> {
        let all = super::hypha_modes();
        all.into_iter().filter(|m| self.counts.iter().any(|(mode, ..)| mode == m.name())).collect()
    }
}

fn measure(built: &build::Built, modes: &[Mode]) -> Result<Vec<Record>> {
    let kit = Kit::new(built)?;
    let mut records = Vec::new();
    for mode in modes {
        let subject = Subject { kernel: Kernel::Hypha, mode: *mode, cpu: "max".into() };
        let instructions = |record: &Record| {
            operation::find(&record.op).is_some_and(|op| op.unit == Unit::Instructions)
        };
        records.extend(subject.measure(&kit, &[])?.into_iter().filter(instructions));
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
        Record {
            op: op.into(),
            kernel: Kernel::Hypha,
            mode: "vhe".into(),
            cpu: "max".into(),
            value,
            window: None,
            exits: Vec::new(),
        }
    }

    #[test]
    fn limits() {
        let kept = Counts::parse("# c\nrustc 1.96.0\nvhe eoi 100\nvhe timer 1000\n").unwrap();
        assert_eq!(Counts::parse(&kept.show()).unwrap(), kept);
        let worse = |compiler, eoi, timer| {
            let records = [record("eoi", eoi), record("timer", timer)];
            kept.worse(compiler, &records).into_iter().map(|w| w.1).collect::<Vec<_>>()
        };
        assert!(worse("1.96.0", 108, 1020).is_empty());
        assert_eq!(worse("1.96.0", 109, 1020), ["eoi"]);
        assert_eq!(worse("1.96.0", 90, 1021), ["timer"]);
        assert_eq!(worse("1.97.0", 111, 1100), ["eoi"]);
        // What is not measured any more fails too.
        assert_eq!(kept.worse("1.96.0", &[record("eoi", 1)])[0].3, None);
        assert!(Counts::parse("vhe eoi 100").is_err());
        assert!(Counts::parse("rustc 1\nvhe eoi x").is_err());
    }
}
