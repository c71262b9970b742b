//! Whole-system tests: a machine in QEMU, its console watched.

mod boot;
mod corner;
mod cpus;
mod endure;
mod guest;
mod linux;
mod ports;
mod programs;
pub mod storms;
pub mod suites;
mod type1;
mod vmm;

use crate::console::{Console, Keyboard};
use crate::machine::Machine;
use crate::run::{self, Mode};
use crate::{build, paths, proc, ui};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};

/// What a test needs of this tree.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Debian's kernel and busybox alone.
    Nothing,
    /// hypha-vmm, on Linux.
    Vmm,
    /// The kernel as far as its first task.
    Kernel,
    /// The kernel runs /init.
    UserSpace,
    /// The kernel has /dev/kvm.
    Kvm,
    /// The kernel starts VMs by itself.
    Type1,
}

/// How far the kernel has come: tests of what it cannot do yet are not listed.
const HAS_USER_SPACE: bool = true;
const HAS_KVM: bool = true;
const HAS_TYPE1: bool = Mode::Type1.is_built();

pub struct SystemTest {
    pub name: &'static str,
    pub needs: Needs,
    /// Only with --full: long, or not yet known to pass on Hypha.
    pub long: bool,
    pub run: fn(&Bench) -> Result<()>,
}

/// Where a test runs.
pub struct Bench<'a> {
    pub built: &'a build::Built,
    pub name: &'a str,
}

/// One after the other: two cores are enough for one emulated machine.
const GROUPS: &[&[SystemTest]] = &[
    corner::TESTS,
    ports::TESTS,
    boot::TESTS,
    programs::TESTS,
    guest::TESTS,
    type1::TESTS,
    cpus::TESTS,
    vmm::TESTS,
    endure::TESTS,
    linux::TESTS,
];

pub fn options() -> run::Args {
    run::Args { exit_after_boot: true, ..run::Args::default() }
}

const NVHE: &str = " kvm-arm.mode=nvhe";

fn nvhe() -> run::Args {
    run::Args { mode: Mode::Nvhe, ..options() }
}

/// The same on a machine with a GICv2.
fn gicv2(args: run::Args) -> run::Args {
    run::Args { gic: 2, ..args }
}

fn shell() -> run::Args {
    run::Args { host_shell: true, ..options() }
}

/// Two CPUs, 1 GiB, and an initramfs that powers off by itself.
fn plain(kernel: &Path, initrd: PathBuf) -> Machine {
    Machine {
        cpu: "max".into(),
        gic: 3,
        smp: 2,
        mem: 1024,
        el2: true,
        gdb: false,
        kernel: kernel.into(),
        initrd: Some(initrd),
        append: "console=ttyAMA0 quiet panic=-1".into(),
        extra: Vec::new(),
    }
}

fn says(log: &str, text: &str) -> Result<()> {
    if !log.contains(text) {
        bail!("the log does not say {text:?}");
    }
    Ok(())
}

impl Bench<'_> {
    /// Runs a machine, keeps its log, and shows the log's end if it fails.
    fn watched(
        &self,
        machine: &Machine,
        keyboard: Keyboard,
        script: impl FnOnce(&mut Console) -> Result<()>,
    ) -> Result<String> {
        let mut console = Console::start(machine, keyboard, false)?;
        let result = script(&mut console);
        let log = console.log();
        drop(console);
        let name: String =
            self.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let file = paths::hypha().join("tests").join(format!("{name}.log"));
        proc::write_whole(&file, log.as_bytes())?;
        match result {
            Ok(()) => Ok(log),
            Err(error) => {
                let lines: Vec<_> = log.lines().collect();
                for line in &lines[lines.len().saturating_sub(30)..] {
                    eprintln!("    | {line}");
                }
                ui::note(format!("machine: {}", proc::show(&machine.command())));
                ui::note(format!("whole log: {}", file.display()));
                Err(error)
            }
        }
    }
}

/// The tests that this tree can run.
pub fn listed(kernel: bool, vmm: bool, full: bool) -> impl Iterator<Item = &'static SystemTest> {
    GROUPS.iter().copied().flatten().filter(move |test| {
        (full || !test.long)
            && match test.needs {
                Needs::Nothing => true,
                Needs::Vmm => vmm,
                Needs::Kernel => kernel,
                Needs::UserSpace => kernel && HAS_USER_SPACE,
                Needs::Type1 => kernel && HAS_TYPE1,
                Needs::Kvm => kernel && vmm && HAS_USER_SPACE && HAS_KVM,
            }
    })
}

/// Builds what the tests boot.
pub fn build() -> Result<build::Built> {
    build::build(&build::Args::default())
}
