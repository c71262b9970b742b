//! `./x build`: everything that is booted.

use crate::crates::{self, Linked};
use crate::initramfs::{self, Cargo};
use crate::system_packages::{For, ensure};
use crate::toolchain::{BARE, Toolchain};
use crate::workspace::{self, Package};
use crate::{debian, hyp, image, ksyms, modules, paths, proc, ui};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The packages by name.
pub const KERNEL: &str = "hypha";
pub const VMM: &str = "hypha-vmm";

/// What the guest needs to reach the VMM's devices.
const GUEST_MODULES: &[&str] = &["virtio_mmio", "virtio_blk", "virtio_rng", "virtio_net"];

#[derive(clap::Args, Clone, Debug, Default)]
#[group(skip)]
pub struct Args {
    /// Leave VHE out of the kernel (Linux: CONFIG_ARM64_VHE=n)
    #[arg(long)]
    pub no_vhe: bool,
    /// Leave programs out of the kernel, and with them all modes but Type-1
    #[arg(long)]
    pub no_user_space: bool,
}

impl Args {
    /// The kernel's features that it is built without.
    fn left_out(&self) -> Vec<&'static str> {
        let all = [(self.no_vhe, "vhe"), (self.no_user_space, "user-space")];
        all.into_iter().filter_map(|(out, feature)| out.then_some(feature)).collect()
    }
}

/// Where things are once they are built.
pub struct Built {
    /// None as long as this tree has no kernel.
    pub image: Option<PathBuf>,
    /// The crates in it.
    pub linked: Vec<Linked>,
    pub initramfs: PathBuf,
    pub vmm: Option<PathBuf>,
    pub guest_image: PathBuf,
    pub guest_initramfs: PathBuf,
}

pub fn run(args: &Args) -> Result<()> {
    ensure(For::Build)?;
    let built = build(args)?;
    if built.image.is_some() {
        let type1 = type1_alone(args)?;
        crates::report(&built.linked, &type1);
        crates::check_type1(&type1)?;
    }
    ui::step("Built");
    let files = [
        built.image.clone(),
        built.image.map(|image| image.with_extension("elf")),
        Some(built.initramfs),
        built.vmm,
        Some(built.guest_image),
        Some(built.guest_initramfs),
    ];
    for file in files.into_iter().flatten() {
        let size = file.metadata().map(|m| m.len()).unwrap_or(0);
        let shown = file.strip_prefix(paths::root()).unwrap_or(&file).display().to_string();
        ui::note(format!("{shown:<40} {:>10}", ui::size(size)));
    }
    Ok(())
}

/// Builds what this tree has.
pub fn build(args: &Args) -> Result<Built> {
    let toolchain = Toolchain::find()?;
    let members = workspace::members(&toolchain)?;
    let find = |name: &str| members.iter().find(|package| package.name == name);
    let out = paths::hypha();
    std::fs::create_dir_all(out.join("guest"))?;

    let (image, linked) = match find(KERNEL) {
        Some(package) => {
            let hyp = hyp::build(&toolchain)?;
            let (image, linked) = kernel(&toolchain, package, args, &hyp)?;
            (Some(image), linked)
        }
        None => {
            ui::warn("this tree has no kernel yet");
            (None, Vec::new())
        }
    };
    let vmm = match find(VMM) {
        Some(_) => Some(vmm(&toolchain)?),
        None => {
            ui::warn("this tree has no hypha-vmm yet");
            None
        }
    };
    let (guest_image, guest_initramfs) = guest()?;

    let mut cargo = Cargo::default();
    if let Some(vmm) = &vmm {
        cargo.vmm = Some(std::fs::read(vmm)?);
        cargo.guest = Some((std::fs::read(&guest_image)?, std::fs::read(&guest_initramfs)?));
    }
    let initramfs = out.join("initramfs.cpio.gz");
    initramfs::write(&initramfs, initramfs::host(&cargo)?)?;
    Ok(Built { image, linked, initramfs, vmm, guest_image, guest_initramfs })
}

fn kernel(
    toolchain: &Toolchain,
    package: &Package,
    args: &Args,
    hyp: &Path,
) -> Result<(PathBuf, Vec<Linked>)> {
    ui::step("Building the kernel");
    let mut command = kernel_command(toolchain, "build", package, args)?;
    command.arg("--release");
    if !args.no_user_space {
        // Its build script embeds it.
        command.env("HYPHA_HYP", hyp);
    }
    // With other features, elsewhere: neither build undoes the other.
    let (target, out) = match args.left_out().as_slice() {
        [] => (paths::target(), paths::hypha()),
        left_out => {
            let name = format!("no-{}", left_out.join("-"));
            (paths::target().join(&name), paths::hypha().join(&name))
        }
    };
    command.arg("--target-dir").arg(&target);
    let linked = crates::linked(&mut command, toolchain, &target)?;
    let elf_file = target.join(BARE).join("release").join(KERNEL);
    let mut elf = std::fs::read(&elf_file)
        .with_context(|| format!("cargo left no {}", elf_file.display()))?;
    ksyms::fill(&mut elf)?;
    let flat = image::flatten(&elf)?;
    image::check_header(&flat)?;
    let image_file = out.join("Image");
    proc::write_if_changed(&out.join("Image.elf"), &elf)?;
    proc::write_if_changed(&image_file, &flat)?;
    image::report(&elf, &flat)?;
    Ok((image_file, linked))
}

/// The crates that the compiler reads for a kernel without user space: for what runs
/// in Type-1 mode.
fn type1_alone(args: &Args) -> Result<Vec<Linked>> {
    let toolchain = Toolchain::find()?;
    let members = workspace::members(&toolchain)?;
    let package = members.iter().find(|package| package.name == KERNEL).context("no kernel")?;
    let args = Args { no_user_space: true, ..args.clone() };
    let mut command = kernel_command(&toolchain, "check", package, &args)?;
    command.arg("--release");
    let target = paths::target().join("type1-alone");
    command.arg("--target-dir").arg(&target);
    crates::linked(&mut command, &toolchain, &target)
}

/// `cargo VERB` of the kernel.
pub fn kernel_command(
    toolchain: &Toolchain,
    verb: &str,
    package: &Package,
    args: &Args,
) -> Result<Command> {
    let mut command = toolchain.cargo_bare(verb)?;
    command.args(["-p", KERNEL]);
    let left_out = args.left_out();
    if !left_out.is_empty() {
        let features = package.default_features.iter();
        let kept: Vec<_> =
            features.filter(|feature| !left_out.contains(&feature.as_str())).cloned().collect();
        command.args(["--no-default-features", "--features", &kept.join(",")]);
    }
    Ok(command)
}

fn vmm(toolchain: &Toolchain) -> Result<PathBuf> {
    let built = cargo_program(toolchain, VMM, &[])?;
    let file = paths::hypha().join(VMM);
    proc::write_if_changed(&file, &std::fs::read(&built)?)?;
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?;
    Ok(file)
}

/// A bare-metal guest as an Image.
pub fn bare_guest(package: &str) -> Result<PathBuf> {
    let toolchain = Toolchain::find()?;
    ui::step(format!("Building {package}"));
    proc::run(toolchain.cargo_bare("build")?.args(["--release", "-p", package]))?;
    let elf = std::fs::read(paths::target().join(BARE).join("release").join(package))?;
    let flat = image::flatten(&elf)?;
    image::check_header(&flat)?;
    let file = paths::hypha().join("guest").join(format!("{package}.Image"));
    proc::write_if_changed(&file, &flat)?;
    Ok(file)
}

/// The plugin for QEMU that `./x bench` measures with.
pub fn plugin() -> Result<PathBuf> {
    ui::step("Building bench-plugin");
    let mut command = Toolchain::find()?.cargo();
    command.env("CARGO_PROFILE_RELEASE_LTO", "off");
    proc::run(command.args(["build", "--release", "-p", "bench-plugin"]))?;
    Ok(paths::target().join("release/libbench_plugin.so"))
}

/// A static arm64 Linux program of the workspace, for tests.
pub fn linux_program(package: &str) -> Result<PathBuf> {
    cargo_program(&Toolchain::find()?, package, &[("CARGO_PROFILE_RELEASE_LTO", "off")])
}

fn cargo_program(
    toolchain: &Toolchain,
    package: &str,
    environment: &[(&str, &str)],
) -> Result<PathBuf> {
    ui::step(format!("Building {package}"));
    let mut command = toolchain.cargo_linux("build")?;
    command.args(["--release", "-p", package]);
    // It travels in an initramfs.
    command.env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    command.envs(environment.iter().copied());
    proc::run(&mut command)?;
    Ok(paths::target().join(toolchain.linux_target()).join("release").join(package))
}

/// Debian's kernel and the guest's initramfs.
pub fn guest() -> Result<(PathBuf, PathBuf)> {
    let tree = debian::kernel()?;
    let vmlinuz = std::fs::read(modules::vmlinuz(&tree)?)?;
    image::check_header(&vmlinuz).context("Debian's kernel")?;
    let kernel = paths::hypha().join("guest/Image");
    proc::write_if_changed(&kernel, &vmlinuz)?;
    let modules = modules::load_order(&tree, GUEST_MODULES)?;
    let file = paths::hypha().join("guest/initramfs.cpio.gz");
    initramfs::write(&file, initramfs::guest(&modules)?)?;
    Ok((kernel, file))
}
