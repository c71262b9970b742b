//! `./x bench`: what each exit costs, side by side with Linux.

pub mod boot;
mod chart;
mod events;
pub mod gate;
mod headline;
mod instruction;
mod ladder;
mod model;
mod operation;
pub mod promises;
mod record;
mod svg;
mod table;
pub mod trace;

use crate::run::Mode;
use crate::system_packages::{For, ensure};
use crate::{build, debian, paths, proc, ui};
use anyhow::{Result, bail};
use boot::{Kit, Subject};
use clap::ValueEnum;
use record::{Kernel, Record};
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
#[command(after_help = operation::help())]
pub struct Args {
    /// Only these kernels
    #[arg(long, value_enum, value_delimiter = ',')]
    kernel: Vec<Kernel>,
    /// Only these modes
    #[arg(long, value_enum, value_delimiter = ',')]
    mode: Vec<Mode>,
    /// QEMU's CPU models; instructions are exact on max (its counter runs at 1 GHz)
    #[arg(long, value_delimiter = ',', default_value = "max")]
    cpu: Vec<String>,
    /// Only these operations
    #[arg(long, value_delimiter = ',')]
    op: Vec<String>,
    /// Write one record for each operation, kernel, mode and CPU model
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the tables to docs/bench-results.md, docs/bench-chart.svg, docs/trace and the README's
    #[arg(long, conflicts_with_all = ["kernel", "mode", "op"])]
    docs: bool,
    /// Write Hypha's counts to xtask/bench-counts.txt, which `./x test bench` compares with
    #[arg(long, conflicts_with_all = ["kernel", "mode", "cpu", "op", "json", "docs"])]
    update: bool,
}

/// Linux's modes that Hypha has or will have, and Xen's.
const MODES: [Mode; 4] = [Mode::Vhe, Mode::Nvhe, Mode::Protected, Mode::Type1];

/// What docs/vhe-and-nvhe.md shows.
const DRAWN: [&str; 5] =
    ["hypercall_null", "psci_affinity", "mmio_user_read", "sgi_other", "run_exit"];

/// Hypha's modes with guests.
fn hypha_modes() -> Vec<Mode> {
    MODES.into_iter().filter(|mode| Kernel::Hypha.has(*mode)).collect()
}

impl Kernel {
    /// Does the kernel have this mode?
    fn has(self, mode: Mode) -> bool {
        match self {
            Kernel::Linux => mode != Mode::Type1,
            Kernel::Hypha => mode.is_built(),
            Kernel::Xen => mode == Mode::Type1,
        }
    }
}

pub fn run(args: &Args) -> Result<()> {
    for op in &args.op {
        if operation::find(op).is_none() {
            bail!("there is no operation {op}; --help lists them");
        }
    }
    ensure(For::Run)?;
    let built = build::build(&build::Args::default())?;
    if args.update {
        return gate::update(&built);
    }
    let kit = Kit::watching(&built, &args.op, &args.kernel)?;
    let mut runs = Vec::new();
    for subject in subjects(&args.cpu, &args.kernel, &args.mode) {
        ui::step(format!("Measuring {} on {}", subject.title(), subject.cpu));
        let measured = subject.measure(&kit, &args.op)?;
        runs.push((subject, measured));
    }
    let records: Vec<_> = runs.iter().flat_map(|(_, records)| records).cloned().collect();
    if records.is_empty() {
        bail!("nothing was measured: no kernel, mode and operation fits");
    }
    let text: String = args.cpu.iter().map(|cpu| tables(&records, cpu)).collect();
    println!("{text}");
    if let Some(file) = &args.json {
        record::write(file, &records)?;
        ui::note(format!("{} records in {}", records.len(), file.display()));
    }
    if args.docs {
        // All of them are made before the first is written.
        for (file, text) in docs(&args.cpu, runs, &records, &versions()?)? {
            proc::write_whole(&file, text.as_bytes())?;
            ui::note(file.display().to_string());
        }
    }
    Ok(())
}

/// All tables of a CPU model.
fn tables(records: &[Record], cpu: &str) -> String {
    let mut text = format!("## {cpu}: instructions\n\n{}\n", table::markdown(records, cpu));
    text += &table::exceeding(records, cpu);
    let events = table::events(records, cpu);
    if !events.is_empty() {
        text += "What they are, on all CPUs, in the shortest round:\n\n";
        text += &format!("{events}\n{}\n\n", model::CAVEAT);
    }
    for boot in operation::GUEST_BOOTS {
        let exits = table::exits(records, boot.exits, cpu);
        if !exits.is_empty() {
            let vcpus = if boot.vcpus == 1 { "vCPU" } else { "vCPUs" };
            let with = format!("{} {vcpus}", boot.vcpus);
            text += &format!("What a Debian guest with {with} exits for until its /init runs:\n\n");
            text += &format!("{exits}\n");
        }
    }
    text
}

/// What `--docs` writes, and where to: the results of each CPU model in a file of its own;
/// of `max` the chart, the ladders and the README's lines as well.
fn docs(
    cpus: &[String],
    runs: Vec<(Subject, Vec<Record>)>,
    records: &[Record],
    versions: &str,
) -> Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    for cpu in cpus {
        let max = cpu == "max";
        let name = if max { String::new() } else { format!("-{cpu}") };
        let chart =
            if max { "![All operations, by kernel and mode](bench-chart.svg)\n\n" } else { "" };
        let tables = tables(records, cpu);
        let text = format!("{}{chart}{}\n", results_head(cpu, versions), tables.trim_end());
        files.push((paths::root().join(format!("docs/bench-results{name}.md")), text));
    }
    let runs: Vec<_> = runs.into_iter().filter(|(subject, _)| subject.cpu == "max").collect();
    if runs.is_empty() {
        return Ok(files);
    }
    files.push((paths::root().join("docs/bench-chart.svg"), chart::draw(records, "max")));
    files.push(headline::readme(records)?);
    for op in DRAWN {
        files.push(trace::drawing(op, &runs, Path::new("docs/trace"))?);
    }
    files.extend(trace::side_by_side(&runs, Path::new("docs/trace")));
    Ok(files)
}

fn results_head(cpu: &str, versions: &str) -> String {
    format!(
        "# Results of `./x bench`, {cpu}\n\n\
         Written by `./x bench --docs`, all of it; what each line counts is in [bench.md](bench.md).\n\
         {versions}.\n\n"
    )
}

/// Of all that takes part.
fn versions() -> Result<String> {
    let qemu = crate::qemu::check()?;
    let qemu = qemu.split_whitespace().next().unwrap_or_default();
    Ok(format!(
        "QEMU {qemu}, rustc {}, Debian's Linux {} and Xen {}",
        gate::compiler()?,
        debian::kernel_version()?,
        debian::xen_version()?
    ))
}

fn subjects(cpus: &[String], kernels: &[Kernel], modes: &[Mode]) -> Vec<Subject> {
    let mut subjects = Vec::new();
    for cpu in cpus {
        for mode in MODES {
            for kernel in Kernel::value_variants() {
                let wanted = (kernels.is_empty() || kernels.contains(kernel))
                    && (modes.is_empty() || modes.contains(&mode));
                if kernel.has(mode) && wanted {
                    subjects.push(Subject { kernel: *kernel, mode, cpu: cpu.clone() });
                }
            }
        }
    }
    subjects
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn accepted(words: &str) -> bool {
        Command::try_parse_from(format!("bench {words}").split_whitespace()).is_ok()
    }

    #[test]
    fn documents_are_of_whole_runs() {
        for words in ["--docs", "--docs --cpu neoverse-n1", "--docs --cpu max,neoverse-n1"] {
            assert!(accepted(words), "{words}");
        }
        assert!(accepted("--docs --json x") && accepted("--update"));
        for words in ["--op eoi", "--kernel hypha", "--mode vhe"] {
            assert!(accepted(words), "{words}");
            assert!(!accepted(&format!("--docs {words}")), "{words}");
            assert!(!accepted(&format!("--update {words}")), "{words}");
        }
        for words in ["--cpu max", "--json x", "--docs"] {
            assert!(!accepted(&format!("--update {words}")), "{words}");
        }
    }

    #[test]
    fn a_whole_run_has_xen() {
        let subjects = subjects(&["max".into()], &[], &[]);
        let has = |kernel| subjects.iter().any(|subject| subject.kernel == kernel);
        assert!(has(Kernel::Xen) && has(Kernel::Linux) && has(Kernel::Hypha));
    }

    #[test]
    fn only_max_has_chart_ladders_and_headline() {
        let run = |cpu: &str| {
            let subject = Subject { kernel: Kernel::Hypha, mode: Mode::Vhe, cpu: cpu.into() };
            (subject, vec![Record::new("eoi", Kernel::Hypha, "vhe", cpu, 6)])
        };
        let docs = |cpu: &str| docs(&[cpu.into()], vec![run(cpu)], &run(cpu).1, "QEMU 10");
        let files = docs("neoverse-n1").unwrap();
        assert_eq!(files.len(), 1);
        assert!(files[0].0.ends_with("docs/bench-results-neoverse-n1.md"));
        assert!(files[0].1.contains("QEMU 10.\n") && files[0].1.contains("| eoi"));
        // Neither Linux nor Xen was measured: nothing is written.
        assert!(docs("max").is_err());
    }
}
