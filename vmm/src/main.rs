//! The program `hypha-vmm`.

use std::process::ExitCode;

use clap::Parser;
use hypha_vmm::args::{Cli, Command};
use hypha_vmm::error::Result;
use hypha_vmm::terminal;

fn main() -> ExitCode {
    let Command::Run(arguments) = Cli::parse().command;
    let result = run(&arguments);
    terminal::restore();
    match result {
        Ok(status) => ExitCode::from(status),
        Err(e) => {
            eprintln!("hypha-vmm: {e}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(target_arch = "aarch64")]
fn run(arguments: &hypha_vmm::args::Run) -> Result<u8> {
    hypha_vmm::run::run(arguments)
}

#[cfg(not(target_arch = "aarch64"))]
fn run(_: &hypha_vmm::args::Run) -> Result<u8> {
    use hypha_vmm::error::Error;
    Err(Error::new("this hypha-vmm is not built for arm64, and arm64 guests need an arm64 host")
        .cure("build it with --target aarch64-unknown-linux-gnu and run it there"))
}
