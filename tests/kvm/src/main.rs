//! `kvm-tests`: what a VMM may expect of /dev/kvm, on Linux and on Hypha.
//! `kvm-tests --help` says how to choose cases.

#![cfg(all(target_os = "linux", target_arch = "aarch64"))]

mod abi;
mod endure;
mod fail;
mod filter;
mod interrupts;
mod memory;
mod run;
mod vm;

fn main() {
    let cases: Vec<_> = [
        abi::CASES,
        run::CASES,
        filter::CASES,
        interrupts::CASES,
        memory::CASES,
        endure::CASES,
        fail::CASES,
    ]
    .into_iter()
    .flatten()
    .copied()
    .collect();
    std::process::exit(el0_tests::main_of(&cases));
}
