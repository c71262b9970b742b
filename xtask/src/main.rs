//! The front door behind `./x`.

mod bench;
mod build;
mod check;
mod console;
mod cpio;
mod crates;
mod debian;
mod doctor;
mod fdt;
mod hyp;
mod image;
mod initramfs;
mod ksyms;
mod latency;
mod machine;
mod modules;
mod paths;
mod proc;
mod qemu;
mod run;
mod system;
mod system_packages;
mod test;
mod toolchain;
mod type1;
mod ui;
mod workspace;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Build, run and test Hypha, a KVM host kernel for Arm64.
#[derive(Parser)]
#[command(name = "x", bin_name = "./x", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Subcommand_,
}

#[derive(Subcommand)]
enum Subcommand_ {
    /// Build the kernel, the VMM and the initramfs archives into target/hypha
    Build(build::Args),
    /// Boot in QEMU: the host, the VMM on it, a Debian guest in that
    Run(run::Args),
    /// Run the checks and tests; ends with `N passed, N failed`
    Test(test::Args),
    /// Count what each exit costs, on Hypha and on Linux
    Bench(bench::Args),
    /// Draw the ladder of an operation: exception levels, what is saved and restored
    Trace(bench::trace::Args),
    /// How late a real-time guest is while another guest attacks (Type-1 mode)
    Latency(latency::Args),
    /// Say what this machine has and what it lacks
    Doctor(doctor::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Subcommand_::Build(args) => build::run(args),
        Subcommand_::Run(args) => run::run(args),
        Subcommand_::Test(args) => test::run(args),
        Subcommand_::Bench(args) => bench::run(args),
        Subcommand_::Trace(args) => bench::trace::run(args),
        Subcommand_::Latency(args) => latency::run(args),
        Subcommand_::Doctor(args) => doctor::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui::error(format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
