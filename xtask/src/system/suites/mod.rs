//! The same everywhere: all suites in one boot, in each configuration, and their
//! results compared case by case with those of the other configurations.

mod configuration;
mod results;

use super::{Bench, options};
use crate::console::{Keyboard, Wait};
use crate::initramfs::{self, Cargo};
use crate::machine::Machine;
use crate::{build, paths, run};
use anyhow::{Context, Result, bail};
use configuration::Configuration;
use results::Results;
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

/// Programs for EL0, and guests for the VMM.
const PROGRAMS: &[&str] = &["el0-tests", "kvm-tests"];
const GUESTS: &[&str] = &["guest-conformance", "guest-attack"];

/// One for each configuration.
pub struct Test {
    pub name: String,
    configuration: Configuration,
    whole: bool,
    /// What the configurations before it gave.
    others: Rc<RefCell<Vec<(Configuration, Results)>>>,
}

/// Short suites in few configurations, or everything in all.
pub fn tests(full: bool) -> Vec<Test> {
    let others = Rc::new(RefCell::new(Vec::new()));
    let configurations = if full { configuration::all() } else { configuration::pairwise() };
    configurations
        .into_iter()
        .map(|configuration| Test {
            name: format!("suites: {}", configuration.name()),
            configuration,
            whole: full,
            others: others.clone(),
        })
        .collect()
}

impl Test {
    pub fn run(&self, bench: &Bench) -> Result<()> {
        let results = self.results(bench)?;
        let failures = results.failures();
        if !failures.is_empty() {
            bail!("{} cases failed\n  {}", failures.len(), failures.join("\n  "));
        }
        let mut others = self.others.borrow_mut();
        for (other, theirs) in others.iter() {
            let same_hardware = self.configuration.same_hardware(other);
            theirs
                .compare(&results, same_hardware)
                .with_context(|| format!("unlike {}", other.name()))?;
        }
        others.push((self.configuration, results));
        Ok(())
    }

    /// Boots the machine and takes down what the suites print.
    fn results(&self, bench: &Bench) -> Result<Results> {
        let Configuration { mode, cpu, gic, count } = self.configuration;
        let script = if self.whole { "suites,whole" } else { "suites" };
        let args = run::Args {
            mode,
            cpu: cpu.into(),
            gic,
            smp: count,
            mem: 1024,
            append: format!("quiet hypha.run=/hypha/tests/{script}"),
            ..options()
        };
        let machine =
            Machine { initrd: Some(initrd(bench.built)?), ..run::machine(&args, bench.built)? };
        let log = bench.watched(&machine, Keyboard::Nobody, |console| {
            console.expect("hypha-host: status ", Duration::from_secs(1200))?;
            match console.wait_end(Some(Duration::from_secs(60))) {
                Wait::Ended => Ok(()),
                other => bail!("after the suites: {other:?}"),
            }
        })?;
        Results::of(&log, &[PROGRAMS, GUESTS].concat())
    }
}

/// The host's initramfs with all programs and guests.
pub fn initrd(built: &build::Built) -> Result<PathBuf> {
    let read = |file: PathBuf| {
        std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))
    };
    let mut files = Vec::new();
    for name in PROGRAMS {
        files.push((format!("hypha/tests/{name}"), read(build::linux_program(name)?)?));
    }
    for name in GUESTS {
        files.push((format!("hypha/tests/{name}.Image"), read(build::bare_guest(name)?)?));
    }
    let vmm = read(built.vmm.clone().context("this tree has no hypha-vmm yet")?)?;
    let cargo = Cargo { vmm: Some(vmm), guest: None, files };
    let file = paths::hypha().join("tests/suites.cpio.gz");
    initramfs::write(&file, initramfs::host(&cargo)?)?;
    Ok(file)
}
