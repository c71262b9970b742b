//! `./x run`: boot in QEMU, watch the console, tell success from failure.

use crate::console::{Console, Keyboard, Wait};
use crate::initramfs::{self, Cargo};
use crate::machine::Machine;
use crate::system_packages::{For, ensure};
use crate::{build, paths, proc, type1, ui};
use anyhow::{Context, Result, bail};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where host kernel and hypervisor stand.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// Kernel and hypervisor together at EL2 (HCR_EL2.E2H=1)
    #[default]
    Vhe,
    /// Kernel at EL1, hypervisor at EL2
    Nvhe,
    /// As nvhe, and the host cannot reach a guest's memory
    Protected,
    /// Kernel at EL2 without a user space of its own
    Type1,
    /// No hypervisor: no /dev/kvm
    None,
}

impl Mode {
    /// The kernel parameter that asks for it, as on Linux.
    pub fn parameter(self) -> Option<&'static str> {
        match self {
            Mode::Vhe => None,
            Mode::Nvhe => Some("kvm-arm.mode=nvhe"),
            Mode::Protected => Some("kvm-arm.mode=protected"),
            Mode::Type1 => Some("kvm-arm.mode=type1"),
            Mode::None => Some("kvm-arm.mode=none"),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Mode::Vhe => "vhe",
            Mode::Nvhe => "nvhe",
            Mode::Protected => "protected",
            Mode::Type1 => "type1",
            Mode::None => "none",
        }
    }

    /// The modes that Hypha has today.
    pub const fn is_built(self) -> bool {
        matches!(self, Mode::Vhe | Mode::Nvhe | Mode::Type1 | Mode::None)
    }
}

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Where host kernel and hypervisor stand
    #[arg(long, value_enum, default_value_t)]
    pub mode: Mode,
    /// QEMU's CPU model: max, neoverse-n1, cortex-a72, ...
    #[arg(long, default_value = "max")]
    pub cpu: String,
    /// The host's interrupt controller
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=3))]
    pub gic: u32,
    /// The host's CPUs
    #[arg(long, default_value_t = 2, default_value_if("mode", "type1", "4"))]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
    pub smp: u32,
    /// The host's memory, MiB
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(64..))]
    pub mem: u32,
    /// The guest's CPUs
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub guest_cpus: u32,
    /// The guest's memory, MiB
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(32..))]
    pub guest_mem: u32,
    /// Guest kernel instead of Debian's
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Guest initramfs instead of ours
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// With --mode type1: how many Debian guests, beside the real-time guest
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=16))]
    pub guests: u32,
    /// With --mode type1: keep the machine's device tree
    #[arg(long, value_name = "FILE")]
    pub dtb_out: Option<PathBuf>,
    /// More for the host's command line
    #[arg(long, value_name = "STR", default_value = "", allow_hyphen_values = true)]
    pub append: String,
    /// Stop at the host's shell instead of starting a guest
    #[arg(long)]
    pub host_shell: bool,
    /// Wait for a debugger, and say how to attach one
    #[arg(long)]
    pub gdb: bool,
    /// End once the guests are up (with --host-shell: the host)
    #[arg(long)]
    pub exit_after_boot: bool,
    /// Boot another host kernel, such as Debian's, with the same initramfs;
    /// `debian` is Debian's own
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// A machine without EL2: the kernel is entered at EL1
    #[arg(long)]
    pub el1: bool,
    /// How many seconds the boot may take
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub timeout: u64,
    #[command(flatten)]
    pub build: build::Args,
}

impl Default for Args {
    fn default() -> Self {
        #[derive(clap::Parser)]
        struct Defaults {
            #[command(flatten)]
            args: Args,
        }
        <Defaults as clap::Parser>::parse_from(["run"]).args
    }
}

pub fn run(args: &Args) -> Result<()> {
    if !args.mode.is_built() && args.image.is_none() {
        let name = format!("{:?}", args.mode).to_lowercase();
        bail!("mode {name} is not built yet; vhe, nvhe, type1 and none are");
    }
    for file in [&args.kernel, &args.initrd].into_iter().flatten() {
        file.metadata().with_context(|| format!("cannot read {}", file.display()))?;
    }
    if args.dtb_out.is_some() && args.mode != Mode::Type1 {
        bail!("--dtb-out needs --mode type1");
    }
    ensure(For::Run)?;
    let built = build::build(&args.build)?;
    let (machine, goals) = match args.mode {
        Mode::Type1 => type1::prepare(args, &built)?,
        _ => (machine(args, &built)?, Vec::new()),
    };
    ui::step(format!("Booting: {}", proc::show(&machine.command())));
    if args.gdb {
        let elf = built.image.as_deref().unwrap_or(&machine.kernel).with_extension("elf");
        ui::note(format!(
            // Linked at 0, it runs in the linear map, where QEMU loads it.
            "waiting for: gdb-multiarch -ex 'add-symbol-file {} -o 0xffff000040200000' \
             -ex 'target remote :1234'",
            elf.strip_prefix(paths::root()).unwrap_or(&elf).display()
        ));
    }
    let interactive = std::io::stdin().is_terminal() && !args.exit_after_boot;
    if interactive {
        ui::note("Ctrl-a x ends QEMU");
    }
    let keyboard = if args.exit_after_boot { Keyboard::Nobody } else { Keyboard::Us };
    let mut console = Console::start(&machine, keyboard, true)?;
    let result = match args.mode {
        Mode::Type1 => watch_vms(&mut console, args, &goals, interactive),
        _ => watch(&mut console, args, interactive),
    };
    drop(console);
    if result.is_ok() {
        ui::step("The run succeeded");
    }
    result
}

/// The machine for these options, and for what was built.
pub fn machine(args: &Args, built: &build::Built) -> Result<Machine> {
    let kernel = match &args.image {
        Some(file) if file == Path::new("debian") => built.guest_image.clone(),
        Some(file) => {
            file.metadata().with_context(|| format!("cannot read {}", file.display()))?;
            file.clone()
        }
        None => built.image.clone().context(
            "this tree has no kernel yet; --image debian boots Debian's with the same initramfs",
        )?,
    };
    let initrd = initrd(args, built)?;
    let mut words = vec!["console=ttyAMA0".to_string(), "panic=-1".into()];
    words.extend(args.mode.parameter().map(String::from));
    words.push(format!("hypha.cpus={}", args.guest_cpus));
    words.push(format!("hypha.mem={}", args.guest_mem));
    if args.host_shell {
        words.push("hypha.shell".into());
    }
    if args.exit_after_boot {
        words.push("hypha.exit".into());
    }
    if !args.append.is_empty() {
        words.push(args.append.clone());
    }
    Ok(Machine {
        cpu: args.cpu.clone(),
        gic: args.gic,
        smp: args.smp,
        mem: args.mem,
        el2: !args.el1,
        gdb: args.gdb,
        kernel,
        initrd: Some(initrd),
        append: words.join(" "),
        extra: Vec::new(),
    })
}

/// The host's initramfs, with another guest in it if one was named.
fn initrd(args: &Args, built: &build::Built) -> Result<PathBuf> {
    if args.kernel.is_none() && args.initrd.is_none() {
        return Ok(built.initramfs.clone());
    }
    let vmm = built.vmm.as_ref().context("this tree has no hypha-vmm yet")?;
    let read = |file: &Path| {
        std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
    };
    let cargo = Cargo {
        vmm: Some(read(vmm)?),
        guest: Some((
            read(args.kernel.as_ref().unwrap_or(&built.guest_image))?,
            read(args.initrd.as_ref().unwrap_or(&built.guest_initramfs))?,
        )),
        files: Vec::new(),
    };
    ui::step("Packing the host's initramfs with this guest");
    let file = paths::hypha().join("run/initramfs.cpio.gz");
    initramfs::write(&file, initramfs::host(&cargo)?)?;
    Ok(file)
}

/// Watches VMs that the machine started by itself. They run until somebody ends
/// them, or with --exit-after-boot until each of `goals` was printed.
pub fn watch_vms(
    console: &mut Console,
    args: &Args,
    goals: &[String],
    interactive: bool,
) -> Result<()> {
    let limit = Duration::from_secs(if args.gdb { 86400 } else { args.timeout });
    console.expect_all(goals, limit)?;
    if args.exit_after_boot {
        return Ok(());
    }
    let end = console.wait_end((!interactive && !args.gdb).then_some(limit));
    match (end, console.trouble()) {
        (_, Some(line)) => bail!("a kernel complained: {line}"),
        (Wait::TimedOut, _) => {
            bail!("the machine did not power off within {} seconds", args.timeout)
        }
        _ => Ok(()),
    }
}

/// Watches a boot to its end and judges it.
pub fn watch(console: &mut Console, args: &Args, interactive: bool) -> Result<()> {
    let limit = Duration::from_secs(args.timeout);
    console.forgives_stalls = args.image.is_some();
    // A guest's initramfs that isn't ours prints what it likes.
    let goal = match (args.host_shell, args.exit_after_boot, &args.initrd) {
        (true, true, _) => Some("hypha-host: ready"),
        (true, false, _) => Some("hypha-host: shell"),
        (false, _, None) => Some("hypha-guest: ready"),
        (false, _, Some(_)) => None,
    };
    let mut reached = goal.is_none();
    if let Some(goal) = goal {
        let limit = if args.gdb { Duration::from_secs(86400) } else { limit };
        match console.wait_for(goal, limit) {
            Wait::Seen => reached = true,
            Wait::Ended => {}
            Wait::TimedOut => bail!("{goal:?} was not printed within {} seconds", limit.as_secs()),
            Wait::Trouble => {}
        }
    }
    if console.trouble().is_none() {
        let limit =
            (!interactive && !args.gdb && (args.exit_after_boot || reached)).then_some(limit);
        if console.wait_end(limit) == Wait::TimedOut {
            bail!("the machine did not power off within {} seconds", args.timeout);
        }
    }
    if let Some(line) = console.trouble() {
        bail!("a kernel complained: {line}");
    }
    let status = console.status()?;
    if !status.success() {
        bail!("QEMU ended with {status}");
    }
    let log = console.log();
    let host = log.lines().find_map(|line| line.trim().strip_prefix("hypha-host: status "));
    match host {
        Some("0") if reached => Ok(()),
        // Ctrl-a x.
        None if reached && interactive => Ok(()),
        Some("0") => bail!("the host ended well, but never printed {:?}", goal.unwrap_or_default()),
        Some(status) => bail!("the host's /init reports status {status}"),
        None => bail!("the machine went off without the host's report"),
    }
}
