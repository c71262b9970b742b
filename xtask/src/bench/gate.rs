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
/// Where the clock ticks every 16 instructions, and each round reads it.
const TICK: u64 = 16;
/// Another compiler than the counts are of makes other code; this much more is
/// no longer the compiler.
const OTHER_COMPILER: u64 = 10;

/// Where the counts are of by default.
const CPU: &str = "max";
/// A CPU whose ID registers ask for mitigations, and what is counted on it.
const OTHER_CPU: &str = "neoverse-n1";
const OTHER_OPS: [&str; 10] = [
    "hypercall_null",
    "smccc_version",
    "psci_version",
    "psci_affinity",
    "mmio_user_read",
    "vgic_read",
    "sgi_other",
    "sgi_asleep",
    "timer",
    "timer_wfi",
];

/// What an operation takes at most, whatever the file says: the project's promise.
struct Ceiling {
    mode: Mode,
    op: &'static str,
    most: u64,
    /// The entries in it that mitigations are for: the guest's exits, and its VMM's system calls.
    entries: u64,
}

/// What an entry may take more on the other CPU than on `max`, for the mitigation.
const MITIGATION: u64 = 110;

const fn ceiling(mode: Mode, op: &'static str, most: u64, entries: u64) -> Ceiling {
    Ceiling { mode, op, most, entries }
}

const CEILINGS: [Ceiling; 21] = [
    ceiling(Mode::Vhe, "hypercall_null", 160, 1),
    ceiling(Mode::Vhe, "smccc_version", 160, 1),
    ceiling(Mode::Vhe, "vgic_read", 320, 1),
    ceiling(Mode::Vhe, "mmio_user_read", 1600, 2),
    ceiling(Mode::Vhe, "mmio_user_write", 1600, 2),
    ceiling(Mode::Vhe, "sgi_other", 1000, 2),
    ceiling(Mode::Vhe, "sgi_asleep", 1800, 2),
    ceiling(Mode::Vhe, "timer", 600, 1),
    ceiling(Mode::Vhe, "timer_wfi", 1000, 1),
    ceiling(Mode::Nvhe, "hypercall_null", 200, 1),
    ceiling(Mode::Nvhe, "smccc_version", 200, 1),
    ceiling(Mode::Nvhe, "psci_affinity", 900, 1),
    ceiling(Mode::Nvhe, "sgi_other", 2100, 2),
    ceiling(Mode::Nvhe, "timer", 1500, 1),
    ceiling(Mode::Type1, "hypercall_null", 150, 1),
    ceiling(Mode::Type1, "smccc_version", 150, 1),
    ceiling(Mode::Type1, "console_read", 350, 1),
    ceiling(Mode::Type1, "vgic_read", 320, 1),
    ceiling(Mode::Type1, "sgi_self", 450, 1),
    ceiling(Mode::Type1, "sgi_other", 900, 2),
    ceiling(Mode::Type1, "timer", 550, 1),
];

fn file() -> PathBuf {
    paths::root().join("xtask/bench-counts.txt")
}

const HEAD: &str = "\
# Instructions of Hypha's exits (QEMU -icount, GICv3, 2 CPUs), one a line: mode operation
# count, with the CPU model before them if it isn't max.
# `./x test bench` refuses counts that are more than 2 % or 8 above these, whichever is
# more, and those that are not here; `./x bench --update` writes them anew.
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

    /// A change of this size may be nothing, however small the count is.
    fn least(&self) -> u64 {
        let each_round_reads_it = self.op.starts_with("sgi_") || self.op.starts_with("timer");
        if self.cpu != CPU && each_round_reads_it { TICK } else { LEAST }
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

    /// The measured ones against these: those that fail, and those that have become better.
    fn compare(&self, compiler: &str, records: &[Record]) -> Verdict {
        let percent = if compiler == self.compiler { PERCENT } else { OTHER_COMPILER };
        let mut verdict = Verdict::default();
        for count in &self.counts {
            let (title, kept) = (count.title(), count.count);
            let margin = (kept * percent / 100).max(count.least());
            match count.now(records) {
                None => verdict.failures.push(format!("{title}: was not measured")),
                Some(now) if now > kept + margin => {
                    verdict.failures.push(format!("{title}: {now}, at most {} pass", kept + margin))
                }
                Some(now) if now + margin < kept => {
                    verdict.better.push(format!("{title}: {now} instead of {kept}"))
                }
                Some(_) => {}
            }
        }
        for now in records.iter().map(Count::of) {
            if !self.counts.iter().any(|count| count.title() == now.title()) {
                let (title, count) = (now.title(), now.count);
                verdict.failures.push(format!("{title}: {count}, and no count is recorded"));
            }
        }
        verdict.failures.extend(above_ceilings(records));
        verdict.failures.extend(dear_mitigations(records));
        verdict
    }
}

#[derive(Default, Debug)]
struct Verdict {
    failures: Vec<String>,
    better: Vec<String>,
}

/// What takes more than it ever may.
fn above_ceilings(records: &[Record]) -> Vec<String> {
    let mut above = Vec::new();
    for Ceiling { mode, op, most, entries } in CEILINGS {
        for record in records.iter().filter(|r| r.mode == mode.name() && r.op == op) {
            let mitigations = if record.cpu == CPU { 0 } else { entries * MITIGATION };
            let most = most + mitigations;
            if record.value > most {
                let title = Count::of(record).title();
                above.push(format!("{title}: {}, and the ceiling is {most}", record.value));
            }
        }
    }
    above
}

/// What takes more on the other CPU than mitigations explain.
fn dear_mitigations(records: &[Record]) -> Vec<String> {
    let mut dear = Vec::new();
    for Ceiling { mode, op, entries, .. } in CEILINGS {
        let on = |cpu: &str| {
            let same = |r: &&Record| r.cpu == cpu && r.mode == mode.name() && r.op == op;
            records.iter().find(same)
        };
        let (Some(plain), Some(other)) = (on(CPU), on(OTHER_CPU)) else { continue };
        let now = Count::of(other);
        let most = plain.value + entries * MITIGATION + now.least();
        if now.count > most {
            let (title, count) = (now.title(), now.count);
            dear.push(format!("{title}: {count}, and {CPU}'s allows {most}"));
        }
    }
    dear
}

/// A boot for each mode and CPU model, and the comparison.
pub fn check(built: &build::Built) -> Result<()> {
    let kept = Counts::parse(&std::fs::read_to_string(file())?)?;
    let compiler = compiler()?;
    let records = measure(built)?;
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
    let Verdict { failures, better } = kept.compare(&compiler, &records);
    if !better.is_empty() {
        ui::warn(format!(
            "{} counts have become better, and the file lets them get worse again; take what \
             ./x bench --update writes into the change:\n  {}",
            better.len(),
            better.join("\n  ")
        ));
    }
    if failures.is_empty() {
        return Ok(());
    }
    bail!(
        "{} counts do not pass (if that is meant: ./x bench --update; a ceiling stays)\n  {}",
        failures.len(),
        failures.join("\n  ")
    )
}

/// Writes the counts anew.
pub fn update(built: &build::Built) -> Result<()> {
    let records = measure(built)?;
    let above = above_ceilings(&records);
    if !above.is_empty() {
        ui::warn(format!("./x test bench will refuse these:\n  {}", above.join("\n  ")));
    }
    let counts = records.iter().map(Count::of).collect();
    let new = Counts { compiler: compiler()?, counts };
    proc::write_whole(&file(), new.show().as_bytes())?;
    ui::step(format!("Wrote {} counts", new.counts.len()));
    Ok(())
}

fn measure(built: &build::Built) -> Result<Vec<Record>> {
    let kit = Kit::new(built)?;
    let mut records = Vec::new();
    let others = OTHER_OPS.map(String::from);
    for (cpu, ops) in [(CPU, &[][..]), (OTHER_CPU, &others[..])] {
        for mode in super::hypha_modes() {
            let subject = Subject { kernel: Kernel::Hypha, mode, cpu: cpu.into() };
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

    fn failures(kept: &Counts, compiler: &str, records: &[Record]) -> Vec<String> {
        kept.compare(compiler, records).failures
    }

    #[test]
    fn limits() {
        let kept = Counts::parse("# c\nrustc 1.96.0\nvhe eoi 100\nvhe run_exit 1000\n").unwrap();
        assert_eq!(Counts::parse(&kept.show()).unwrap(), kept);
        let worse = |compiler, eoi, run_exit| {
            failures(&kept, compiler, &[record("eoi", eoi), record("run_exit", run_exit)])
        };
        assert!(worse("1.96.0", 108, 1020).is_empty());
        assert_eq!(worse("1.96.0", 109, 1020), ["vhe eoi: 109, at most 108 pass"]);
        assert_eq!(worse("1.96.0", 90, 1021), ["vhe run_exit: 1021, at most 1020 pass"]);
        assert_eq!(worse("1.97.0", 111, 1100), ["vhe eoi: 111, at most 110 pass"]);
        assert!(Counts::parse("vhe eoi 100").is_err());
        assert!(Counts::parse("rustc 1\nvhe eoi x").is_err());
    }

    #[test]
    fn better_is_told() {
        let kept = Counts::parse("rustc 1\nvhe eoi 100\nvhe run_exit 1000\n").unwrap();
        let better = |eoi, run_exit| {
            let verdict = kept.compare("1", &[record("eoi", eoi), record("run_exit", run_exit)]);
            assert!(verdict.failures.is_empty());
            verdict.better
        };
        assert!(better(92, 980).is_empty());
        assert_eq!(better(91, 980), ["vhe eoi: 91 instead of 100"]);
        assert_eq!(better(92, 979), ["vhe run_exit: 979 instead of 1000"]);
    }

    #[test]
    fn what_is_measured_is_what_is_recorded() {
        let kept = Counts::parse("rustc 1\nvhe eoi 100\n").unwrap();
        assert_eq!(failures(&kept, "1", &[]), ["vhe eoi: was not measured"]);
        let (eoi, more) = (record("eoi", 100), record("fp_first", 7));
        let missing = |more| failures(&kept, "1", &[eoi.clone(), more]);
        assert_eq!(missing(more.clone()), ["vhe fp_first: 7, and no count is recorded"]);
        let more = Record { mode: "nvhe".into(), ..more };
        assert_eq!(missing(more), ["nvhe fp_first: 7, and no count is recorded"]);
        // A CPU model of its own.
        let n1 = Record { cpu: OTHER_CPU.into(), ..eoi.clone() };
        assert_eq!(missing(n1.clone()), ["neoverse-n1 vhe eoi: 100, and no count is recorded"]);
        let kept = Counts::parse("rustc 1\nneoverse-n1 vhe eoi 100\n").unwrap();
        assert_eq!(Counts::parse(&kept.show()).unwrap(), kept);
        assert_eq!(failures(&kept, "1", &[eoi]).len(), 2);
        assert!(failures(&kept, "1", &[n1]).is_empty());
    }

    #[test]
    fn a_tick_is_no_change() {
        let n1 = |op: &str, value| Record { cpu: OTHER_CPU.into(), ..record(op, value) };
        let kept = Counts::parse(
            "rustc 1\nneoverse-n1 vhe timer 500\nneoverse-n1 vhe hypercall_null 100\n",
        )
        .unwrap();
        let failures = |timer, hypercall| {
            failures(&kept, "1", &[n1("timer", timer), n1("hypercall_null", hypercall)]).len()
        };
        assert_eq!((failures(516, 108), failures(517, 108), failures(516, 109)), (0, 1, 1));
    }

    #[test]
    fn ceilings() {
        // Whatever the file says, whichever the compiler.
        let kept = Counts::parse("rustc 1\nvhe hypercall_null 161\n").unwrap();
        let slow = record("hypercall_null", 161);
        let refused = ["vhe hypercall_null: 161, and the ceiling is 160"];
        assert_eq!(failures(&kept, "1", std::slice::from_ref(&slow)), refused);
        assert_eq!(failures(&kept, "2", std::slice::from_ref(&slow)), refused);
        assert!(failures(&kept, "1", &[record("hypercall_null", 160)]).is_empty());
        // A mode has its own; some have none.
        let nvhe = |value| Record { mode: "nvhe".into(), ..record("hypercall_null", value) };
        assert!(above_ceilings(&[nvhe(200), record("eoi", 9999)]).is_empty());
        assert_eq!(above_ceilings(&[nvhe(201)]).len(), 1);
        // The mitigation's price for each exit: an SGI to another CPU has two.
        let n1 = |op: &str, value| Record { cpu: OTHER_CPU.into(), ..record(op, value) };
        assert!(above_ceilings(&[n1("hypercall_null", 270), n1("sgi_other", 1220)]).is_empty());
        assert_eq!(above_ceilings(&[n1("hypercall_null", 271), n1("sgi_other", 1221)]).len(), 2);
    }

    #[test]
    fn mitigations() {
        let n1 = |op: &str, value| Record { cpu: OTHER_CPU.into(), ..record(op, value) };
        let dear = |hypercall, sgi| {
            let max = [record("hypercall_null", 98), record("sgi_other", 890)];
            let n1 = [n1("hypercall_null", hypercall), n1("sgi_other", sgi)];
            dear_mitigations(&[max, n1].concat())
        };
        assert_eq!(dear(216, 1126), [""; 0]);
        let text = dear(217, 1127);
        assert_eq!(text[0], "neoverse-n1 vhe hypercall_null: 217, and max's allows 216");
        assert_eq!(text.len(), 2);
    }

    #[test]
    fn the_file_keeps_to_the_ceilings() {
        let kept = Counts::parse(&std::fs::read_to_string(file()).unwrap()).unwrap();
        for Ceiling { mode, op, .. } in CEILINGS {
            let same = |c: &&Count| c.cpu == CPU && c.mode == mode.name() && c.op == op;
            assert!(kept.counts.iter().any(|count| same(&count)), "{} {op}", mode.name());
        }
        let records = kept.counts.iter().map(|Count { cpu, mode, op, count }| {
            Record::new(op, Kernel::Hypha, mode, cpu, *count)
        });
        let records: Vec<_> = records.collect();
        assert_eq!(above_ceilings(&records), [""; 0]);
        assert_eq!(dear_mitigations(&records), [""; 0]);
    }

    #[test]
    fn ceilings_are_documented() {
        let text = std::fs::read_to_string(paths::root().join("docs/bench.md")).unwrap();
        let (_, table) = text.split_once("| at most | VHE | nVHE | Type-1 |\n").unwrap();
        for Ceiling { mode, op, most, .. } in CEILINGS {
            let row = table.lines().find(|line| line.contains(&format!("`{op}`"))).unwrap();
            let column = match mode {
                Mode::Vhe => 2,
                Mode::Nvhe => 3,
                _ => 4,
            };
            let cell = row.split('|').nth(column).unwrap().trim().replace(',', "");
            assert_eq!(cell, most.to_string(), "{} {op}", mode.name());
        }
    }
}
