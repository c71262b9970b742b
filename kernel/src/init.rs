//! The first task: what boot leads to.

use crate::boot::BootPlan;
use crate::machine::Machine;
use crate::{fs, memory, power, process};
use alloc::string::String;
use alloc::vec::Vec;

/// Starts process 1 from the initramfs.
pub fn start(plan: &'static BootPlan) {
    let Some(machine) = memory::machine() else { power::hang() };
    let namespace = match fs::init(plan) {
        Ok(namespace) => namespace,
        Err(errno) => crate::panic::fatal(format_args!("no root file system: {errno}")),
    };
    let arguments = &machine.arguments;
    let bytes = |strings: &[String]| strings.iter().map(|s| s.clone().into_bytes()).collect();
    let args: Vec<Vec<u8>> = bytes(&arguments.init_args);
    let environment: Vec<Vec<u8>> = bytes(&arguments.init_env);
    let programs = programs(machine);
    if let Err(errno) = process::exec::start_init(namespace, programs, args, environment) {
        crate::panic::fatal(format_args!("process 1 could not be made: {errno}"));
    }
}

/// What may be process 1, in Linux's order (init/main.c's documented one):
/// rdinit= or /init; then init=; then the usual places.
fn programs(machine: &Machine) -> Vec<Vec<u8>> {
    let arguments = &machine.arguments;
    let mut programs: Vec<Vec<u8>> = Vec::new();
    let first = arguments.rdinit.as_deref().unwrap_or("/init");
    programs.push(first.as_bytes().to_vec());
    match &arguments.init {
        Some(init) => programs.push(init.as_bytes().to_vec()),
        None => {
            for path in ["/sbin/init", "/etc/init", "/bin/init", "/bin/sh"] {
                programs.push(path.as_bytes().to_vec());
            }
        }
    }
    programs
}
