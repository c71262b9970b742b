//! `./x test`: everything that must hold before a change lands.

use crate::check::{docs, licences, rooms, style, unit};
use crate::system_packages::{For, ensure};
use crate::toolchain::Toolchain;
use crate::workspace::{self, Package, Room};
use crate::{build, system, ui};
use anyhow::{Context, Result, bail};
use std::cell::OnceCell;
use std::time::Instant;

#[derive(clap::Args)]
pub struct Args {
    /// Also the long runs
    #[arg(long)]
    full: bool,
    /// Run the host-testable crates that have `unsafe` code under Miri as well
    /// (needs a toolchain that has it: nightly)
    #[arg(long)]
    miri: bool,
    /// Only name the tests
    #[arg(long)]
    list: bool,
    /// Only tests whose name contains one of these
    filters: Vec<String>,
}

/// What the tests share.
struct Workshop {
    toolchain: Toolchain,
    members: Vec<Package>,
    /// Built once, for the first test that boots it.
    built: OnceCell<build::Built>,
}

impl Workshop {
    fn built(&self) -> Result<&build::Built> {
        match self.built.get() {
            Some(built) => Ok(built),
            None => {
                let built = system::build()?;
                Ok(self.built.get_or_init(|| built))
            }
        }
    }
}

type Run = Box<dyn Fn(&Workshop) -> Result<unit::Count>>;

struct Test {
    name: String,
    run: Run,
}

fn check(name: &str, run: impl Fn(&Workshop) -> Result<()> + 'static) -> Test {
    let run = move |context: &Workshop| {
        run(context)?;
        Ok(unit::Count { passed: 1, failed: 0 })
    };
    Test { name: name.into(), run: Box::new(run) }
}

pub fn run(args: &Args) -> Result<()> {
    if !args.list {
        ensure(For::Checks)?;
    }
    let toolchain = Toolchain::find()?;
    let members = workspace::members(&toolchain)?;
    let context = Workshop { toolchain, members, built: OnceCell::new() };
    let tests = tests(&context, args);
    let wanted = |name: &str| {
        args.filters.is_empty() || args.filters.iter().any(|filter| name.contains(filter.as_str()))
    };
    let tests: Vec<_> = tests.into_iter().filter(|test| wanted(&test.name)).collect();
    if tests.is_empty() {
        bail!("no test has a name like {}", args.filters.join(", "));
    }
    if args.list {
        for test in &tests {
            println!("{}", test.name);
        }
        return Ok(());
    }
    ui::step(context.toolchain.describe());
    let mut total = unit::Count::default();
    let mut failures = Vec::new();
    for test in &tests {
        ui::step(format!("Test: {}", test.name));
        let start = Instant::now();
        let (count, reason) = match (test.run)(&context) {
            Ok(count) => (count, None),
            Err(error) => (unit::Count { passed: 0, failed: 1 }, Some(format!("{error:#}"))),
        };
        let seconds = start.elapsed().as_secs_f32();
        ui::verdict(count.failed == 0, format!("{} ({seconds:.1} s)", test.name));
        if let Some(reason) = reason {
            ui::note(&reason);
        }
        if count.failed > 0 {
            failures.push(test.name.as_str());
        }
        total.passed += count.passed;
        total.failed += count.failed;
    }
    for name in &failures {
        ui::verdict(false, name);
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    if total.failed > 0 {
        bail!("{} of {} tests failed", failures.len(), tests.len());
    }
    Ok(())
}

/// All tests there are, in the order in which they run. What has nothing to
/// test in this tree is not there.
fn tests(context: &Workshop, args: &Args) -> Vec<Test> {
    let has = |room| context.members.iter().any(|package| package.room == room);
    let mut tests = vec![
        check("fmt", |c| style::fmt(&c.toolchain)),
        check("unsafe rooms", |c| rooms::check(&c.members)),
        check("docs", |_| docs::check()),
        check("licences", |c| licences::check(&c.toolchain)),
        check("clippy host", |c| style::clippy_host(&c.toolchain, &c.members)),
    ];
    if has(Room::Bare) {
        tests.push(check("clippy bare", |c| style::clippy_bare(&c.toolchain, &c.members)));
    }
    if has(Room::Linux) {
        tests.push(check("clippy linux", |c| style::clippy_linux(&c.toolchain, &c.members)));
    }
    tests.push(Test {
        name: "unit tests".into(),
        run: Box::new(|c| unit::run(&c.toolchain, &c.members)),
    });
    if args.miri {
        tests.push(check("miri", |c| miri(&c.members)));
    }
    let member = |name: &str| context.members.iter().any(|package| package.name == name);
    for test in system::listed(member(build::KERNEL), member(build::VMM), args.full) {
        tests.push(check(test.name, |context| {
            (test.run)(&system::Bench { built: context.built()?, name: test.name })
        }));
    }
    if member(build::KERNEL) && member(build::VMM) {
        for test in system::suites::tests(args.full) {
            tests.push(check(&test.name.clone(), move |context| {
                test.run(&system::Bench { built: context.built()?, name: &test.name })
            }));
        }
    }
    tests
}

/// Miri on the host crates that are allowed `unsafe`.
fn miri(members: &[Package]) -> Result<()> {
    let rustup = crate::proc::which("rustup").context("Miri needs rustup")?;
    let has = crate::proc::quiet(&rustup, &["run", "nightly", "cargo", "miri", "--version"]);
    if has.is_none() {
        bail!("no Miri here: rustup toolchain install nightly --component miri rust-src");
    }
    let mut command = std::process::Command::new(rustup);
    command.args(["run", "nightly", "cargo", "miri", "test"]);
    let mut any = false;
    for package in members.iter().filter(|p| p.room == Room::Host) {
        if rooms::allowed(package)? {
            any = true;
            command.args(["-p", &package.name]);
        }
    }
    if !any {
        bail!("no host-testable crate has `unsafe` code: there is nothing for Miri to run");
    }
    command.current_dir(crate::paths::root()).env_remove("RUSTC").env_remove("CARGO");
    crate::proc::run(&mut command)
}
