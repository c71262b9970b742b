//! rustfmt and clippy.

use crate::toolchain::Toolchain;
use crate::workspace::{Package, Room};
use crate::{build, proc};
use anyhow::Result;

pub fn fmt(toolchain: &Toolchain) -> Result<()> {
    proc::run(toolchain.cargo().args(["fmt", "--all", "--", "--check"]))
}

/// Clippy on what is built for the developer's machine.
pub fn clippy_host(toolchain: &Toolchain, members: &[Package]) -> Result<()> {
    let mut command = toolchain.cargo();
    command.args(["clippy", "--all-targets"]);
    for package in members.iter().filter(|p| p.room == Room::Host) {
        command.args(["-p", &package.name]);
    }
    proc::run(command.args(["--", "-D", "warnings"]))
}

/// Clippy on the kernel and other bare-metal programs.
pub fn clippy_bare(toolchain: &Toolchain, members: &[Package]) -> Result<()> {
    let mut command = toolchain.cargo_bare("clippy")?;
    for package in members.iter().filter(|p| p.room == Room::Bare) {
        command.args(["-p", &package.name]);
    }
    proc::run(command.args(["--", "-D", "warnings"]))?;
    // Again, without what a build may leave out.
    match members.iter().find(|p| p.name == build::KERNEL) {
        Some(kernel) => {
            let args = build::Args { no_user_space: true, ..build::Args::default() };
            let mut command = build::kernel_command(toolchain, "clippy", kernel, &args)?;
            proc::run(command.args(["--", "-D", "warnings"]))
        }
        None => Ok(()),
    }
}

/// Clippy on arm64 Linux programs that are nothing on the developer's machine.
pub fn clippy_linux(toolchain: &Toolchain, members: &[Package]) -> Result<()> {
    let mut command = toolchain.cargo_linux("clippy")?;
    for package in members.iter().filter(|p| p.room == Room::Linux) {
        command.args(["-p", &package.name]);
    }
    proc::run(command.args(["--", "-D", "warnings"]))
}
