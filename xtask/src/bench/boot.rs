//! One boot of a kernel with the measuring programs on it.

use super::events::Events;
use super::operation::{self, GUEST_BOOTS, GuestBoot};
use super::record::{Kernel, Record};
use crate::console::{Console, Keyboard, Wait};
use crate::fdt::Node;
use crate::machine::Machine;
use crate::run::Mode;
use crate::type1::{self, Vm};
use crate::{build, debian, initramfs, paths, proc};
use anyhow::{Context, Result, bail};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What its /init counts.
const BOOT_GUEST: &str = "boot_guest";
const BOOT_HOST: &str = "boot_host";
/// A Debian guest's machine, MiB.
const GUEST_MEM: u32 = 512;
/// Its command line, but for the console, everywhere (`initramfs/bench-run` as well).
const GUEST_WORDS: &str = "quiet panic=-1";
/// What its /init counts when the kernel's own threads have come to rest.
const SETTLED: &str = "guest_settled";

/// What a domain can measure: what needs neither `hypha-vmm`'s devices nor memory
/// that comes on demand.
const DOMAIN: [&str; 12] = [
    "hypercall_null",
    "smccc_version",
    "psci_version",
    "psci_affinity",
    CONSOLE,
    "vgic_read",
    "sgi_self",
    "sgi_other",
    "sgi_asleep",
    "eoi",
    "timer",
    "timer_wfi",
];

/// What nobody else can: the console of a VM of `hypha-vmm`'s is the VMM's.
const CONSOLE: &str = "console_read";

/// How long a boot with its measurements may take.
const LIMIT: Duration = Duration::from_secs(900);

/// What all boots have in common, byte for byte.
pub struct Kit {
    hypha: PathBuf,
    linux: PathBuf,
    xen: Option<PathBuf>,
    /// The measuring guest.
    measure: PathBuf,
    initramfs: PathBuf,
    guest: Option<Guest>,
    /// QEMU's plugin that sees what executes.
    plugin: Option<PathBuf>,
}

/// A Debian guest whose /init counts.
struct Guest {
    /// The guest's, which is the bare machine's as well.
    initramfs: PathBuf,
    /// The host's, with the guest in it. It isn't compressed, as what Xen's and Type-1's
    /// boot loader hands on isn't.
    host_initramfs: PathBuf,
    /// What the bare machine needed, by CPU model and number of CPUs.
    bare: RefCell<BTreeMap<(String, u32), u64>>,
}

impl Kit {
    pub fn new(built: &build::Built) -> Result<Self> {
        let measure = build::bare_guest("guest-measure")?;
        let files = [
            ("hypha/bench/host-measure", read(&build::linux_program("host-measure")?)?),
            ("hypha/hypha-vmm", read(vmm(built)?)?),
            ("hypha/bench/measure", read(&measure)?),
        ];
        let file = paths::hypha().join("bench/initramfs.cpio.gz");
        initramfs::write(&file, initramfs::bench(&files)?)?;
        Ok(Self {
            hypha: built.image.clone().context("this tree has no kernel")?,
            linux: built.guest_image.clone(),
            xen: None,
            measure,
            initramfs: file,
            guest: None,
            plugin: None,
        })
    }

    /// With the plugin, and with what only the plugin can measure.
    pub fn watching(built: &build::Built, ops: &[String], kernels: &[Kernel]) -> Result<Self> {
        let mut kit = Self { plugin: Some(build::plugin()?), ..Self::new(built)? };
        if ops.is_empty() || ops.iter().any(|op| operation::is_guest_boot(op)) {
            kit.guest = Some(Guest::new(built)?);
        }
        if kernels.is_empty() || kernels.contains(&Kernel::Xen) {
            kit.xen = Some(debian::xen()?);
        }
        Ok(kit)
    }
}

impl Guest {
    fn new(built: &build::Built) -> Result<Self> {
        let program = read(&build::linux_program("host-measure")?)?;
        let initramfs = paths::hypha().join("bench/program.cpio");
        let archive = initramfs::program(&program);
        proc::write_if_changed(&initramfs, &archive)?;
        let files = [
            ("hypha/bench/host-measure", program),
            ("hypha/hypha-vmm", read(vmm(built)?)?),
            ("hypha/guest/Image", read(&built.guest_image)?),
            ("hypha/guest/initramfs", archive),
        ];
        let host_initramfs = paths::hypha().join("bench/guest-host.cpio");
        proc::write_if_changed(&host_initramfs, &initramfs::bench(&files)?)?;
        Ok(Self { initramfs, host_initramfs, bare: RefCell::default() })
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

fn remove(file: &Path) -> Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", file.display()))
        }
        _ => Ok(()),
    }
}

fn vmm(built: &build::Built) -> Result<&Path> {
    built.vmm.as_deref().context("this tree has no hypha-vmm")
}

/// What Hypha executes from power-on to the first instructions of /init, with an
/// initramfs of at least 1 MiB, compressed.
pub fn instructions_to_init(built: &build::Built) -> Result<u64> {
    const SIZE: u64 = 1 << 20;
    let program = read(&build::linux_program("host-measure")?)?;
    let file = paths::hypha().join("bench/small-initramfs.cpio.gz");
    let size = |padding| -> Result<u64> {
        initramfs::write(&file, initramfs::marking(&program, padding)?)?;
        Ok(file.metadata()?.len())
    };
    let bare = size(0)?;
    if bare < SIZE && size(SIZE - bare)? < SIZE {
        bail!("the initramfs is smaller than 1 MiB");
    }
    let kit = Kit { plugin: Some(build::plugin()?), ..Kit::new(built)? };
    let subject = Subject { kernel: Kernel::Hypha, mode: Mode::Vhe, cpu: "max".into() };
    let append = "console=ttyAMA0 quiet panic=-1 hypha.run=/bin/true";
    let machine = subject.machine(&kit.hypha, Some(&file), append);
    let (_, events) = subject.watch(&kit, machine, End::Status)?;
    events.counts.get(BOOT_HOST).copied().context("/init did not say that it runs")
}

/// What a boot is for.
#[derive(Clone, Copy)]
enum Load<'a> {
    /// These operations.
    Measure(&'a [String]),
    /// A Debian guest's boot.
    Guest(&'a Guest, &'a GuestBoot),
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

    /// Boots it and takes down what the programs say. No operations: all.
    pub fn measure(&self, kit: &Kit, ops: &[String]) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        let here = self.on_the_machine(ops, kit.plugin.is_some());
        if !here.is_empty() {
            let (log, events) = self.boot(kit, Load::Measure(&here))?;
            records = self.records(&log, &events);
            records.retain(|record| here.contains(&record.op));
            let missing = missing(&here, &records);
            if !missing.is_empty() {
                let (missing, log) = (missing.join(", "), self.file("log"));
                bail!("{} on {}: no {missing} in {}", self.title(), self.cpu, log.display());
            }
        }
        if let Some(guest) = &kit.guest {
            for boot in GUEST_BOOTS.iter().filter(|boot| boot.is_wanted(ops)) {
                let (_, events) = self.boot(kit, Load::Guest(guest, boot))?;
                records.extend(self.of_guest(kit, guest, boot, &events, ops)?);
            }
        }
        Ok(records)
    }

    /// Of these operations (or of all) those that this kernel in this mode has, and that need
    /// no Debian guest: each of them must come out of a run.
    fn on_the_machine(&self, ops: &[String], plugin: bool) -> Vec<String> {
        let of_domain = |op: &str| match self.mode {
            Mode::Type1 => DOMAIN.contains(&op),
            _ => op != CONSOLE,
        };
        let counted = |op: &str| plugin || op != BOOT_HOST;
        let all = operation::OPERATIONS.iter().map(|operation| operation.name);
        all.filter(|op| is_wanted(ops, op) && !operation::is_guest_boot(op))
            .filter(|op| of_domain(op) && counted(op))
            .map(String::from)
            .collect()
    }

    /// One virtual nanosecond an instruction, idle time skipped, and nothing by the
    /// real clock: the same run again is the same run.
    fn machine(&self, kernel: &Path, initrd: Option<&Path>, append: &str) -> Machine {
        let extra =
            ["-icount", "shift=0,sleep=off", "-seed", "1", "-rtc", "base=2026-01-01,clock=vm"];
        Machine {
            cpu: self.cpu.clone(),
            gic: 3,
            smp: 2,
            mem: 2048,
            el2: true,
            gdb: false,
            kernel: kernel.into(),
            initrd: initrd.map(PathBuf::from),
            append: append.into(),
            extra: extra.map(String::from).into(),
        }
    }

    /// A host kernel with a user space that does it.
    fn host(&self, kit: &Kit, load: Load<'_>) -> Machine {
        let kernel = if self.kernel == Kernel::Linux { &kit.linux } else { &kit.hypha };
        let (initramfs, what) = match load {
            Load::Measure(ops) => (&kit.initramfs, format!("op={}", ops.join("+"))),
            Load::Guest(guest, boot) => (&guest.host_initramfs, format!("guest={}", boot.vcpus)),
        };
        let mut words = vec!["console=ttyAMA0".to_string(), "quiet".into(), "panic=-1".into()];
        words.extend(self.mode.parameter().map(String::from));
        words.push(format!("hypha.run=/hypha/bench/run,{what}"));
        self.machine(kernel, Some(initramfs), &words.join(" "))
    }

    /// A Type-1 hypervisor with a domain that does it.
    fn hypervisor(&self, kit: &Kit, load: Load<'_>) -> Result<Machine> {
        let (kernel, append) = match self.kernel {
            Kernel::Xen => (kit.xen.as_deref().context("Xen is not there")?, "console=dtuart"),
            Kernel::Hypha => (&*kit.hypha, "console=ttyAMA0 quiet kvm-arm.mode=type1"),
            Kernel::Linux => bail!("Linux is no Type-1 hypervisor"),
        };
        let mut machine = self.machine(kernel, None, append);
        let (cpus, memory, kernel, ramdisk, bootargs) = match load {
            Load::Measure(ops) => (2, 64, &kit.measure, None, format!("op={}", ops.join(","))),
            Load::Guest(guest, boot) => {
                let bootargs = format!("console=ttyAMA0 {GUEST_WORDS}");
                (boot.vcpus, GUEST_MEM, &kit.linux, Some(guest.initramfs.clone()), bootargs)
            }
        };
        let vm = Vm {
            name: "domU1".into(),
            cpus,
            memory,
            kernel: kernel.clone(),
            ramdisk,
            bootargs,
            more: Node::default(),
        };
        type1::add(&mut machine, &[vm], "console=dtuart", &self.file("dtb"))?;
        Ok(machine)
    }

    /// The guest's kernel and initramfs, without anybody below: a machine of the
    /// guest's size, with a device tree that has no more than the guest's.
    fn bare(&self, kit: &Kit, guest: &Guest, cpus: u32) -> Result<u64> {
        let key = (self.cpu.clone(), cpus);
        if let Some(count) = guest.bare.borrow().get(&key) {
            return Ok(*count);
        }
        let append = format!("console=ttyAMA0 {GUEST_WORDS}");
        let mut machine = self.machine(&kit.linux, Some(&guest.initramfs), &append);
        (machine.el2, machine.mem, machine.smp) = (false, GUEST_MEM, cpus);
        let subject = Self { kernel: Kernel::Linux, mode: Mode::None, cpu: self.cpu.clone() };
        let dtb = subject.file("dtb");
        let mut root = type1::own_tree(&machine, &dtb)?;
        const KEPT: [&str; 8] =
            ["chosen", "memory", "cpus", "psci", "timer", "intc", "apb-pclk", "pl0"];
        root.children.retain(|node| KEPT.iter().any(|kept| node.name.starts_with(kept)));
        // Nor have the guest's GIC and its buses.
        root.children.iter_mut().for_each(|node| {
            if node.name.starts_with("intc") {
                node.children.clear();
            }
        });
        root.children.retain(|node| !node.name.starts_with("pl061"));
        type1::use_tree(&mut machine, &root, &dtb)?;
        let (_, events) = subject.watch(kit, machine, End::Off)?;
        let count = events.counts.get(SETTLED).copied();
        let count = count.context("the bare machine did not get through /init")?;
        guest.bare.borrow_mut().insert(key, count);
        Ok(count)
    }

    /// What a run leaves, by its extension.
    fn file(&self, extension: &str) -> PathBuf {
        let name = format!("{}-{}-{}.{extension}", self.kernel.name(), self.mode.name(), self.cpu);
        paths::hypha().join("bench").join(name)
    }

    fn boot(&self, kit: &Kit, load: Load<'_>) -> Result<(String, Events)> {
        if self.mode == Mode::Type1 {
            let end = match load {
                Load::Measure(_) => End::Words("# done"),
                Load::Guest(..) => End::Words("Power down"),
            };
            self.watch(kit, self.hypervisor(kit, load)?, end)
        } else {
            self.watch(kit, self.host(kit, load), End::Status)
        }
    }

    /// Runs it to its end: what it said, and what the plugin saw.
    fn watch(&self, kit: &Kit, mut machine: Machine, end: End) -> Result<(String, Events)> {
        let events = self.file("events");
        // What an earlier run left isn't this one's.
        remove(&events)?;
        if let Some(plugin) = &kit.plugin {
            let plugin = format!("file={},out={}", plugin.display(), events.display());
            machine.extra.extend(["-plugin".into(), plugin]);
        }
        let mut console = Console::start(&machine, Keyboard::Test, false)?;
        let mut reached = true;
        if let End::Status | End::Words(_) = end {
            reached = console.wait_for(end.words(), LIMIT) == Wait::Seen;
        }
        if reached && matches!(end, End::Words(_)) {
            // Nobody turns the machine off: QEMU's own keys, Ctrl-a x, do.
            console.send("\x01x")?;
        }
        let ended = console.wait_end(Some(if reached { LIMIT } else { Duration::ZERO }));
        if ended == Wait::Ended {
            // The console ends before QEMU does: the plugin has yet to write.
            console.status()?;
        }
        let log = console.log();
        let trouble = console.trouble();
        drop(console);
        proc::write_whole(&self.file("log"), log.as_bytes())?;
        let well = end != End::Status || log.lines().any(|line| line == "hypha-host: status 0");
        if !(reached && ended == Wait::Ended && well) {
            let tail: Vec<_> = log.lines().rev().take(15).collect();
            let tail: Vec<_> = tail.into_iter().rev().collect();
            bail!(
                "{} on {}: {ended:?} {}\n  {}\n  machine: {}",
                self.title(),
                self.cpu,
                trouble.unwrap_or_default(),
                tail.join("\n  "),
                proc::show(&machine.command())
            );
        }
        let events = match kit.plugin {
            Some(_) => Events::read(&events)?,
            None => Events::default(),
        };
        Ok((log, events))
    }

    fn record(&self, op: &str, value: u64) -> Record {
        Record::new(op, self.kernel, self.mode.name(), &self.cpu, value)
    }

    /// The lines `name: number` of known operations, and what the plugin counted
    /// from power-on.
    fn records(&self, log: &str, events: &Events) -> Vec<Record> {
        let record = |op: &str, value| Record {
            window: events.windows.get(op).cloned(),
            ..self.record(op, value)
        };
        let line = |line: &str| {
            // Xen says whose line it is, "(XEN) DOM1: ", and so does Hypha.
            let whose = line.rsplit_once("DOM1: ").or_else(|| line.split_once("[domU1] "));
            let line = whose.map_or(line, |(_, line)| line);
            let (op, value) = line.split_once(": ")?;
            operation::find(op)?;
            Some(record(op, value.trim().parse().ok()?))
        };
        let counts = events.counts.iter().filter(|(op, _)| operation::find(op).is_some());
        log.lines().filter_map(line).chain(counts.map(|(op, count)| record(op, *count))).collect()
    }

    /// What a Debian guest's boot took: of these operations (or of all) the records.
    fn of_guest(
        &self,
        kit: &Kit,
        guest: &Guest,
        boot: &GuestBoot,
        events: &Events,
        ops: &[String],
    ) -> Result<Vec<Record>> {
        let count = events.counts.get(BOOT_GUEST);
        let count = *count.with_context(|| format!("{}: no guest booted", self.title()))?;
        let mut records = Vec::new();
        if is_wanted(ops, boot.boot) {
            records.push(self.record(boot.boot, count));
        }
        if is_wanted(ops, boot.exits) {
            let exits = events.exits.get(BOOT_GUEST).cloned();
            let exits = exits.with_context(|| format!("{}: no guest exited", self.title()))?;
            let sum = exits.iter().map(|exits| exits.times).sum();
            records.push(Record { exits, ..self.record(boot.exits, sum) });
        }
        if is_wanted(ops, boot.ratio) {
            let since = events.since.get(SETTLED).context("the guest did not get through /init")?;
            let bare = self.bare(kit, guest, boot.vcpus)?;
            records.push(self.record(boot.ratio, (since * 1000).div_ceil(bare.max(1))));
        }
        Ok(records)
    }
}

impl GuestBoot {
    /// Does one of these operations (or of all) need it?
    fn is_wanted(&self, ops: &[String]) -> bool {
        ops.is_empty() || ops.iter().any(|op| self.measures(op))
    }
}

/// Is it one of these operations? No operations are all.
fn is_wanted(ops: &[String], op: &str) -> bool {
    ops.is_empty() || ops.iter().any(|wanted| wanted == op)
}

/// The operations without a record.
fn missing<'a>(wanted: &'a [String], records: &[Record]) -> Vec<&'a str> {
    let has = |op: &str| records.iter().any(|record| record.op == op);
    wanted.iter().map(String::as_str).filter(|op| !has(op)).collect()
}

/// How a run ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// The host's /init says its status and powers off.
    Status,
    /// Nobody powers off after these words.
    Words(&'static str),
    /// The kernel powers off.
    Off,
}

impl End {
    fn words(self) -> &'static str {
        match self {
            End::Status => "hypha-host: status ",
            End::Words(words) => words,
            End::Off => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(kernel: Kernel, mode: Mode) -> Subject {
        Subject { kernel, mode, cpu: "max".into() }
    }

    #[test]
    fn what_each_has() {
        let host = subject(Kernel::Linux, Mode::Nvhe);
        let all = host.on_the_machine(&[], true);
        assert_eq!(all.len(), operation::OPERATIONS.len() - 3 * GUEST_BOOTS.len() - 1);
        assert!(!all.iter().any(|op| op == CONSOLE));
        // Only the plugin knows what was executed since power-on.
        let unwatched = host.on_the_machine(&[], false);
        assert_eq!(
            missing(&all, &unwatched.iter().map(|op| host.record(op, 1)).collect::<Vec<_>>()),
            [BOOT_HOST]
        );
        assert_eq!(subject(Kernel::Xen, Mode::Type1).on_the_machine(&[], true), DOMAIN);
        let ops = ["eoi", "run_exit", "boot_guest"].map(String::from);
        assert_eq!(host.on_the_machine(&ops, true), ["eoi", "run_exit"]);
        assert_eq!(subject(Kernel::Hypha, Mode::Type1).on_the_machine(&ops, true), ["eoi"]);
    }

    #[test]
    fn lines_of_a_log() {
        let xen = subject(Kernel::Xen, Mode::Type1);
        let wanted = ["eoi", "timer", "vgic_read"].map(String::from);
        let log = "(XEN) DOM1: eoi: 6\n(XEN) DOM1: timer: much\n[domU1] vgic_read: 249\n";
        let records = xen.records(log, &Events::default());
        assert_eq!(records.iter().map(|r| r.value).collect::<Vec<_>>(), [6, 249]);
        assert_eq!(missing(&wanted, &records), ["timer"]);
    }

    #[test]
    fn guests_have_one_command_line() {
        let script = include_str!("../../initramfs/bench-run");
        assert!(script.contains(&format!("'console=ttyS0 {GUEST_WORDS}'")));
        assert!(script.contains("guest=*)") && script.contains("--cpus \"${word#guest=}\""));
    }

    #[test]
    fn an_old_file_goes() {
        let file = std::env::temp_dir().join(format!("bench-events-{}", std::process::id()));
        std::fs::write(&file, "count boot_host 1\nend\n").unwrap();
        remove(&file).unwrap();
        remove(&file).unwrap();
        assert!(Events::read(&file).is_err());
    }
}
