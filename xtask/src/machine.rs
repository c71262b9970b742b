//! The emulated machine: what QEMU is asked for.

use crate::{proc, qemu};
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Clone, Debug)]
pub struct Machine {
    pub cpu: String,
    pub gic: u32,
    pub smp: u32,
    pub mem: u32,
    /// With EL2; without it the kernel is entered at EL1.
    pub el2: bool,
    /// Waits for a debugger on port 1234.
    pub gdb: bool,
    pub kernel: PathBuf,
    pub initrd: Option<PathBuf>,
    pub append: String,
    /// More for QEMU.
    pub extra: Vec<String>,
}

impl Machine {
    pub fn command(&self) -> Command {
        let mut command = self.bare("");
        command.arg("-no-reboot");
        command.arg("-kernel").arg(&self.kernel);
        if let Some(initrd) = &self.initrd {
            command.arg("-initrd").arg(initrd);
        }
        if !self.append.is_empty() {
            command.arg("-append").arg(&self.append);
        }
        if self.gdb {
            command.args(["-s", "-S"]);
        }
        command.args(&self.extra);
        command
    }

    /// Makes QEMU write the device tree of this machine, and end.
    pub fn dump_tree(&self, file: &Path) -> Command {
        let mut command = self.bare(&format!(",dumpdtb={}", file.display()));
        // A seed for random numbers, for one.
        command.args(&self.extra);
        command
    }

    /// CPUs, memory and console.
    fn bare(&self, more: &str) -> Command {
        let program = proc::which(qemu::PROGRAM).unwrap_or_else(|| qemu::PROGRAM.into());
        // If we are killed, so is QEMU.
        let mut command = match proc::which("setpriv") {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        let el2 = if self.el2 { "on" } else { "off" };
        command.arg("-M").arg(format!("virt,virtualization={el2},gic-version={}{more}", self.gic));
        command.arg("-cpu").arg(self.cpu_model());
        command.arg("-smp").arg(self.smp.to_string());
        command.arg("-m").arg(self.mem.to_string());
        command.args(["-nographic", "-nic", "none"]);
        command
    }

    /// The architected algorithm of pointer authentication costs an emulator
    /// half its time; the one it invents itself is as good here.
    fn cpu_model(&self) -> String {
        match self.cpu.as_str() {
            "max" => "max,pauth-impdef=on".into(),
            other => other.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line() {
        let machine = Machine {
            cpu: "max".into(),
            gic: 3,
            smp: 2,
            mem: 1024,
            el2: true,
            gdb: false,
            kernel: "Image".into(),
            initrd: None,
            append: "console=ttyAMA0".into(),
            extra: Vec::new(),
        };
        let line = proc::show(&machine.command());
        assert!(line.ends_with(
            "-M virt,virtualization=on,gic-version=3 -cpu max,pauth-impdef=on -smp 2 -m 1024 \
             -nographic -nic none -no-reboot -kernel Image -append console=ttyAMA0"
        ));
    }
}
