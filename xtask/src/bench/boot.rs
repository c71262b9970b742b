//! One boot of a kernel with the measuring programs on it.

use super::events::Events;
use super::operation;
use super::record::{Kernel, Record};
use crate::console::{Console, Keyboard, Wait};
use crate::machine::Machine;
use crate::run::Mode;
use crate::{build, initramfs, paths, proc};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// It has a boot of its own.
const BOOT_GUEST: &str = "boot_guest";

/// What all boots have in common, byte for byte.
pub struct Kit {
    pub hypha: PathBuf,
    pub linux: PathBuf,
    pub initramfs: PathBuf,
    /// The same with a Debian guest in it.
    pub guest_initramfs: Option<PathBuf>,
    /// QEMU's plugin that sees what executes.
    pub plugin: Option<PathBuf>,
}

impl Kit {
    pub fn new(built: &build::Built) -> Result<Self> {
        let read = |file: &PathBuf| {
            std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
        };
        let vmm = built.vmm.as_ref().context("this tree has no hypha-vmm")?;
        let files = [
            ("hypha/bench/host-measure", read(&build::linux_program("host-measure")?)?),
            ("hypha/hypha-vmm", read(vmm)?),
            ("hypha/bench/measure", read(&build::bare_guest("guest-measure")?)?),
        ];
        let file = paths::hypha().join("bench/initramfs.cpio.gz");
        initramfs::write(&file, initramfs::bench(&files)?)?;
        Ok(Self {
            hypha: built.image.clone().context("this tree has no kernel")?,
            linux: built.guest_image.clone(),
            initramfs: file,
            guest_initramfs: None,
            plugin: None,
        })
    }

    /// With the plugin, and with what only the plugin can measure.
    pub fn watching(built: &build::Built, ops: &[String]) -> Result<Self> {
        let mut kit = Self { plugin: Some(build::plugin()?), ..Self::new(built)? };
        if ops.is_empty() || ops.iter().any(|op| op == BOOT_GUEST) {
            let read = |file: &Path| {
                std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
            };
            let program = read(&build::linux_program("host-measure")?)?;
            let vmm = built.vmm.as_ref().context("this tree has no hypha-vmm")?;
            let files = [
                ("hypha/bench/host-measure", program.clone()),
                ("hypha/hypha-vmm", read(vmm)?),
                ("hypha/guest/Image", read(&built.guest_image)?),
                ("hypha/guest/initramfs", initramfs::program(&program)),
            ];
            let file = paths::hypha().join("bench/guest-initramfs.cpio.gz");
            initramfs::write(&file, initramfs::bench(&files)?)?;
            kit.guest_initramfs = Some(file);
        }
        Ok(kit)
    }
}

/// A kernel in a mode on a CPU model.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subject {
    pub kernel: Kernel,
    pub mode: Mode,
    pub cpu: String,
}

impl Subject {
    pub fn title(&self) -> String {
        format!("{} {}", self.kernel.name(), self.mode.name())
    }

    /// The machine that runs a command (commas for spaces) on this initramfs.
    fn machine(&self, kit: &Kit, initramfs: &Path, command: &str) -> Result<Machine> {
        let kernel = match self.kernel {
            Kernel::Linux => kit.linux.clone(),
            Kernel::Hypha => kit.hypha.clone(),
            Kernel::Xen => bail!("Xen does not boot this way"),
        };
        let mut words = vec!["console=ttyAMA0".to_string(), "quiet".into(), "panic=-1".into()];
        words.extend(self.mode.parameter().map(String::from));
        words.push(format!("hypha.run={command}"));
        // One virtual nanosecond an instruction, idle time skipped, and nothing
        // by the real clock: the same run again is the same run.
        let extra =
            ["-icount", "shift=0,sleep=off", "-seed", "1", "-rtc", "base=2026-01-01,clock=vm"];
        let mut extra: Vec<_> = extra.map(String::from).into();
        if let Some(plugin) = &kit.plugin {
            let out = self.file("events");
            extra.push("-plugin".into());
            extra.push(format!("file={},out={}", plugin.display(), out.display()));
        }
        Ok(Machine {
            cpu: self.cpu.clone(),
            gic: 3,
            smp: 2,
            mem: 2048,
            el2: true,
            gdb: false,
            kernel,
            initrd: Some(initramfs.into()),
            append: words.join(" "),
            extra,
        })
    }

    /// What a run leaves, by its extension.
    fn file(&self, extension: &str) -> PathBuf {
        let name = format!("{}-{}-{}.{extension}", self.kernel.name(), self.mode.name(), self.cpu);
        paths::hypha().join("bench").join(name)
    }

    /// Boots it and takes down what the programs say. No operations: all.
    pub fn measure(&self, kit: &Kit, ops: &[String]) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        let here: Vec<_> = ops.iter().filter(|op| *op != BOOT_GUEST).cloned().collect();
        if ops.is_empty() || !here.is_empty() {
            let mut command = "/hypha/bench/run".to_string();
            if !here.is_empty() {
                command += &format!(",op={}", here.join("+"));
            }
            records = self.boot(kit, &kit.initramfs, &command)?;
        }
        if let Some(initramfs) = &kit.guest_initramfs {
            let command = "/hypha/hypha-vmm,run,--kernel,/hypha/guest/Image,--initrd,\
                           /hypha/guest/initramfs,--cpus,2,--mem,512";
            let of_guest = self.boot(kit, initramfs, command)?;
            records.extend(of_guest.into_iter().filter(|record| record.op == BOOT_GUEST));
        }
        Ok(records)
    }

    fn boot(&self, kit: &Kit, initramfs: &Path, command: &str) -> Result<Vec<Record>> {
        let machine = self.machine(kit, initramfs, command)?;
        let mut console = Console::start(&machine, Keyboard::Nobody, false)?;
        let end = match console.wait_for("hypha-host: status ", Duration::from_secs(900)) {
            Wait::Seen => console.wait_end(Some(Duration::from_secs(60))),
            other => other,
        };
        if end == Wait::Ended {
            // The console ends before QEMU does: the plugin has yet to write.
            console.status()?;
        }
        let log = console.log();
        let trouble = console.trouble();
        drop(console);
        proc::write_whole(&self.file("log"), log.as_bytes())?;
        let ok = end == Wait::Ended && log.lines().any(|line| line == "hypha-host: status 0");
        if !ok {
            let tail: Vec<_> = log.lines().rev().take(15).collect();
            let tail: Vec<_> = tail.into_iter().rev().collect();
            bail!(
                "{} on {}: {end:?} {}\n  {}\n  machine: {}",
                self.title(),
                self.cpu,
                trouble.unwrap_or_default(),
                tail.join("\n  "),
                proc::show(&machine.command())
            );
        }
        let events = match kit.plugin {
            Some(_) => Events::read(&self.file("events"))?,
            None => Events::default(),
        };
        Ok(self.records(&log, &events))
    }

    /// The lines `name: number` of known operations, and what the plugin counted
    /// from power-on.
    fn records(&self, log: &str, events: &Events) -> Vec<Record> {
        let record = |op: &str, value: u64| Record {
            op: op.into(),
            kernel: self.kernel,
            mode: self.mode.name().into(),
            cpu: self.cpu.clone(),
            value,
            window: events.windows.get(op).cloned(),
        };
        let line = |line: &str| {
            let (op, value) = line.split_once(": ")?;
            operation::find(op)?;
            Some(record(op, value.trim().parse().ok()?))
        };
        let counts = events.counts.iter().filter(|(op, _)| operation::find(op).is_some());
        log.lines().filter_map(line).chain(counts.map(|(op, count)| record(op, *count))).collect()
    }
}
