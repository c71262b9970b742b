//! `./x trace OP`: the ladder of one operation, from a real run.

use super::boot::{Kit, Subject};
use super::ladder;
use super::operation;
use super::record::{Kernel, Record};
use super::svg::{self, Panel};
use crate::run::Mode;
use crate::system_packages::{For, ensure};
use crate::{build, paths, proc, ui};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
#[command(after_help = operation::help())]
pub struct Args {
    /// The operations
    #[arg(required = true)]
    op: Vec<String>,
    /// Only these kernels
    #[arg(long, value_enum, value_delimiter = ',')]
    kernel: Vec<Kernel>,
    /// Only these modes
    #[arg(long, value_enum, value_delimiter = ',')]
    mode: Vec<Mode>,
    /// QEMU's CPU model
    #[arg(long, default_value = "max")]
    cpu: String,
    /// Where OP.svg is written
    #[arg(long, value_name = "DIR", default_value = "docs/trace")]
    out: PathBuf,
}

pub fn run(args: &Args) -> Result<()> {
    for op in &args.op {
        if operation::find(op).is_none() {
            bail!("there is no operation {op}; --help lists them");
        }
    }
    ensure(For::Run)?;
    let built = build::build(&build::Args::default())?;
    let kit = Kit::watching(&built, &args.op, &args.kernel)?;
    let mut runs = Vec::new();
    for subject in super::subjects(std::slice::from_ref(&args.cpu), &args.kernel, &args.mode) {
        ui::step(format!("Tracing {} on {}", subject.title(), subject.cpu));
        let records = subject.measure(&kit, &args.op)?;
        runs.push((subject, records));
    }
    for op in &args.op {
        for panel in &panels(op, &runs) {
            print(op, panel);
        }
        let (file, svg) = drawing(op, &runs, &args.out)?;
        proc::write_whole(&file, svg.as_bytes())?;
        ui::note(file.display().to_string());
    }
    if let Some((file, svg)) = side_by_side(&runs, &args.out) {
        proc::write_whole(&file, svg.as_bytes())?;
        ui::note(file.display().to_string());
    }
    Ok(())
}

/// Type-2 and Type-1 side by side, for DIR/type2-and-type1.svg: a load from a device's register
/// that somebody must answer, with a VMM and without. None: not both were measured.
pub fn side_by_side(runs: &[(Subject, Vec<Record>)], dir: &Path) -> Option<(PathBuf, String)> {
    let mut all = Vec::new();
    for (kind, mode, op) in
        [("Type-2", Mode::Vhe, "mmio_user_read"), ("Type-1", Mode::Type1, "console_read")]
    {
        let of_mode = runs.iter().filter(|(subject, _)| subject.mode == mode);
        let before = all.len();
        for run in of_mode {
            all.extend(
                panels(op, std::slice::from_ref(run))
                    .into_iter()
                    .map(|panel| Panel { title: format!("{kind}: {}", panel.title), ..panel }),
            );
        }
        if all.len() == before {
            return None;
        }
    }
    let file = paths::root().join(dir).join("type2-and-type1.svg");
    Some((file, svg::draw("A load from a device, Type-2 and Type-1", &all)))
}

/// An operation of these runs, for DIR/OP.svg.
pub fn drawing(op: &str, runs: &[(Subject, Vec<Record>)], dir: &Path) -> Result<(PathBuf, String)> {
    let panels = panels(op, runs);
    if panels.is_empty() {
        bail!("nothing ran {op} between marks");
    }
    Ok((paths::root().join(dir).join(format!("{op}.svg")), svg::draw(op, &panels)))
}

fn panels(op: &str, runs: &[(Subject, Vec<Record>)]) -> Vec<Panel> {
    let mut panels = Vec::new();
    for (subject, records) in runs {
        let record = records.iter().find(|record| record.op == op);
        if let Some(window) = record.and_then(|record| record.window.as_ref()) {
            panels.extend(of_subject(subject, window));
        }
    }
    panels
}

fn of_subject(subject: &Subject, window: &super::events::Window) -> Vec<Panel> {
    let ladders = ladder::ladders(window);
    let several = ladders.len() > 1;
    ladders
        .into_iter()
        .enumerate()
        .map(|(i, ladder)| {
            let mut title = subject.title();
            if several {
                title += if i == 0 { ", the CPU that begins" } else { ", the other CPU" };
            }
            let instructions = window.own.get(&ladder.cpu).copied().unwrap_or(0);
            Panel { title, instructions, ladder }
        })
        .collect()
}

fn print(op: &str, panel: &Panel) {
    println!("\n{op}, {}: {} instructions", panel.title, panel.instructions);
    for step in &panel.ladder.steps {
        let by = step.by.as_deref().unwrap_or("start");
        println!("  {:<20} {:<10} {:>7}", by, step.lane.name(), step.instructions);
        for words in step.words() {
            println!("      {words}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::events::{Event, Lane, What, Window};

    fn run(kernel: Kernel, mode: Mode, op: &str) -> (Subject, Vec<Record>) {
        let event = |own, lane, what| Event { cpu: 0, at: own, own, lane, what };
        let window = Window {
            own: [(0, 90)].into(),
            events: vec![
                event(10, Lane::El2, What::From(Lane::GuestEl1)),
                event(80, Lane::GuestEl1, What::From(Lane::El2)),
            ],
            ..Window::default()
        };
        let record = Record::new(op, kernel, mode.name(), "max", 90);
        let record = Record { window: Some(window), ..record };
        (Subject { kernel, mode, cpu: "max".into() }, vec![record])
    }

    #[test]
    fn both_kinds_or_no_picture() {
        let two = run(Kernel::Linux, Mode::Vhe, "mmio_user_read");
        let one = run(Kernel::Hypha, Mode::Type1, "console_read");
        let other = run(Kernel::Hypha, Mode::Nvhe, "mmio_user_read");
        let (file, svg) = side_by_side(&[one.clone(), other, two.clone()], Path::new("d")).unwrap();
        assert!(file.ends_with("d/type2-and-type1.svg"));
        let (left, right) = (svg.find("Type-2: linux vhe"), svg.find("Type-1: hypha type1"));
        assert!(left.is_some() && left < right);
        assert!(!svg.contains("nvhe"));
        assert!(side_by_side(&[one], Path::new("d")).is_none());
        assert!(side_by_side(&[two], Path::new("d")).is_none());
    }
}
