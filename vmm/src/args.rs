//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::error::{Error, Result};
use crate::layout;

/// Runs arm64 virtual machines on /dev/kvm, of Linux or of Hypha.
#[derive(Debug, Parser)]
#[command(name = "hypha-vmm", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boots a kernel in a new virtual machine.
    ///
    /// The guest's first serial console is this terminal: Ctrl-a x ends the guest, Ctrl-a a sends a Ctrl-a.
    /// Exit status: 0 the guest powered off or Ctrl-a x, 1 an error, 2 a wrong argument, 3 the guest crashed,
    /// 4 the guest asked for a reset and --no-reboot was given, 128+N signal N.
    Run(Box<Run>),
}

/// The arguments of `run`.
#[derive(Debug, Clone, Args)]
pub struct Run {
    /// The guest's kernel: an arm64 Image, plain or gzip-compressed.
    #[arg(long, value_name = "FILE")]
    pub kernel: PathBuf,

    /// The initial RAM disk.
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,

    /// How many CPUs the guest has.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = cpus, allow_negative_numbers = true)]
    pub cpus: u32,

    /// How much RAM the guest has, in MiB.
    #[arg(long, value_name = "MiB", default_value_t = 512, value_parser = mem, allow_negative_numbers = true)]
    pub mem: u64,

    /// The kernel's command line.
    #[arg(long, value_name = "STR", default_value = "console=ttyS0", allow_hyphen_values = true)]
    pub cmdline: String,

    /// A disk: a raw image or a block device, read-only with `,ro`. May be given several times.
    #[arg(long = "disk", value_name = "FILE[,ro]", value_parser = disk)]
    pub disks: Vec<Disk>,

    /// Which console standard input feeds. Both print.
    #[arg(long, value_enum, default_value_t = Console::Serial)]
    pub console: Console,

    /// The interrupt controller's version; `auto` takes the newest that the host can virtualise.
    #[arg(long, value_enum, default_value_t = GicChoice::Auto)]
    pub gic: GicChoice,

    /// Optional CPU features to give the guest.
    #[arg(long = "feature", value_enum, value_delimiter = ',', value_name = "NAME,...")]
    pub features: Vec<Feature>,

    /// KVM facilities to do without, even if the host has them.
    #[arg(long = "without", value_enum, value_delimiter = ',', value_name = "NAME,...")]
    pub without: Vec<Facility>,

    /// Exit with status 4 instead of restarting when the guest asks for a reset.
    #[arg(long)]
    pub no_reboot: bool,

    /// Allow the guest more RAM than the host has.
    #[arg(long)]
    pub overcommit: bool,

    /// Write the device tree that the guest gets to a file.
    #[arg(long, value_name = "FILE")]
    pub dump_dtb: Option<PathBuf>,
}

/// A disk on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The image or device.
    pub path: PathBuf,
    /// Whether the guest may only read.
    pub read_only: bool,
}

/// A console that the guest can read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Console {
    /// The 16550: ttyS0 in Linux.
    Serial,
    /// The virtio console: hvc0 in Linux.
    Virtio,
}

/// A choice of interrupt controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GicChoice {
    /// The newest that the host can virtualise.
    Auto,
    /// GICv2.
    #[value(name = "2")]
    V2,
    /// GICv3.
    #[value(name = "3")]
    V3,
}

/// A CPU feature that costs something and is only there on request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Feature {
    /// Scalable vectors.
    Sve,
    /// Pointer authentication.
    Ptrauth,
    /// The performance monitors.
    Pmu,
}

/// Something of KVM that we can do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Facility {
    /// KVM_IRQFD: KVM_IRQ_LINE serves instead.
    Irqfd,
    /// KVM_IOEVENTFD: notifications exit to us instead.
    Ioeventfd,
}

fn cpus(text: &str) -> std::result::Result<u32, String> {
    match text.parse() {
        Ok(n @ 1..=layout::MAX_CPUS) => Ok(n),
        _ => Err(format!("a guest has 1 to {} CPUs", layout::MAX_CPUS)),
    }
}

fn mem(text: &str) -> std::result::Result<u64, String> {
    let bytes = text
        .parse::<u64>()
        .ok()
        .filter(|mib| *mib > 0)
        .and_then(|mib| mib.checked_mul(layout::MIB))
        // What a 48-bit guest-physical address space holds, and a multiple of the block.
        .filter(|bytes| *bytes <= 1 << 47);
    match bytes {
        Some(bytes) if bytes.is_multiple_of(layout::BLOCK) => Ok(bytes / layout::MIB),
        Some(_) => Err("give an even number of MiB".into()),
        None => Err("give the guest's RAM in MiB, for example 512".into()),
    }
}

fn disk(text: &str) -> std::result::Result<Disk, String> {
    let (path, read_only) = match text.strip_suffix(",ro") {
        Some(path) => (path, true),
        None => (text, false),
    };
    if path.is_empty() {
        return Err("a disk needs a file name".into());
    }
    Ok(Disk { path: path.into(), read_only })
}

impl Run {
    /// How many virtio slots are taken: the disks, then entropy, then the console.
    pub fn virtio_slots(&self) -> Result<u32> {
        let room = layout::VIRTIO_SLOTS.saturating_sub(2);
        match u32::try_from(self.disks.len()) {
            Ok(n) if n <= room => Ok(n.saturating_add(2)),
            _ => Err(Error::new(format!("{} disks are too many", self.disks.len()))
                .cure(format!("give at most {room}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &str) -> std::result::Result<Run, String> {
        let line = format!("hypha-vmm run --kernel Image {args}");
        match Cli::try_parse_from(line.split_whitespace()) {
            Ok(Cli { command: Command::Run(run) }) => Ok(*run),
            Err(e) => Err(e.to_string()),
        }
    }

    #[test]
    fn the_command_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn defaults_and_values() {
        let run = parse("").unwrap();
        assert_eq!((run.cpus, run.mem, run.cmdline.as_str()), (1, 512, "console=ttyS0"));
        assert_eq!(run.virtio_slots(), Ok(2));
        let run = parse(
            "--cpus 4 --mem 1024 --disk a --disk b,ro --gic 2 --feature sve,pmu --without irqfd",
        )
        .unwrap();
        assert_eq!((run.cpus, run.mem, run.gic), (4, 1024, GicChoice::V2));
        assert_eq!(run.disks[1], Disk { path: "b".into(), read_only: true });
        assert!(!run.disks[0].read_only);
        assert_eq!(run.features, [Feature::Sve, Feature::Pmu]);
        assert_eq!(run.virtio_slots(), Ok(4));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (args, says) in [
            ("--cpus 0", "1 to 256"),
            ("--cpus 100000", "1 to 256"),
            ("--cpus -1", "1 to 256"),
            ("--mem -1", "for example 512"),
            ("--mem 0", "for example 512"),
            ("--mem 3", "even number"),
            ("--mem 999999999999999999999", "for example 512"),
            ("--mem 17592186044416", "for example 512"),
            ("--mem 1g", "for example 512"),
            ("--disk ,ro", "file name"),
            ("--gic 4", "auto, 2, 3"),
            ("--kernels x", "--kernel"),
        ] {
            let e = parse(args).unwrap_err();
            assert!(e.contains(says), "{args}: {e}");
        }
    }

    #[test]
    fn too_many_disks() {
        let run = parse(&"--disk x ".repeat(31)).unwrap();
        assert!(run.virtio_slots().is_err());
    }
}
