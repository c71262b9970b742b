//! Programs on the host: the shell, parity with Linux, tests/el0 and tests/kvm.

use super::{Bench, NVHE, Needs, SystemTest, plain};
use crate::console::{Keyboard, Wait};
use crate::machine::Machine;
use crate::{build, initramfs, paths, run};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub const TESTS: &[SystemTest] = &[
    SystemTest {
        name: "shell: commands on the console",
        needs: Needs::UserSpace,
        long: false,
        run: |bench| bench.type_into_shell(None),
    },
    SystemTest {
        name: "parity: busybox prints what it prints on Linux",
        needs: Needs::UserSpace,
        long: false,
        run: |bench| bench.parity(None),
    },
    SystemTest {
        name: "el0: programs get what they may expect of Linux",
        needs: Needs::UserSpace,
        long: true,
        run: |bench| bench.program("el0-tests", None),
    },
    SystemTest {
        name: "kvm: programs get what VMMs may expect",
        needs: Needs::Kvm,
        long: false,
        run: |bench| bench.program("kvm-tests", None),
    },
    SystemTest {
        name: "kvm: programs get what VMMs may expect, nVHE",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.program_with("kvm-tests", None, 1024, NVHE),
    },
    SystemTest {
        name: "el0: odd calls and instructions, nVHE",
        needs: Needs::UserSpace,
        long: true,
        run: |bench| bench.program_with("el0-tests", None, 1024, &format!("{NVHE} misc")),
    },
    SystemTest {
        name: "memory: programs fill all but 24 MiB of 2 GiB, and the host lives",
        needs: Needs::UserSpace,
        long: false,
        run: |bench| bench.program_with("el0-tests", None, 2048, "oom"),
    },
];

impl Bench<'_> {
    pub(super) fn type_into_shell(&self, image: Option<&str>) -> Result<()> {
        let args =
            run::Args { host_shell: true, image: image.map(PathBuf::from), ..run::Args::default() };
        let machine = run::machine(&args, self.built)?;
        const PROMPT: &str = "hypha-host# ";
        let boot = Duration::from_secs(args.timeout);
        let soon = Duration::from_secs(30);
        self.watched(&machine, Keyboard::Test, |console| {
            console.expect(PROMPT, boot)?;
            // What is expected must not be what the terminal echoes.
            console.send("echo $((6 * 7))-answer\n")?;
            console.expect("42-answer", soon)?;
            console.expect(PROMPT, soon)?;
            console.send("seq 1 100 | grep -c 1\n")?;
            console.expect("\n20\r", soon)?;
            console.expect(PROMPT, soon)?;
            // Ctrl-c ends the foreground job and not the shell.
            console.send("sleep 1000\n")?;
            console.wait_for("never printed", Duration::from_secs(1));
            console.send("\x03")?;
            console.expect(PROMPT, soon)?;
            console.send("exit\n")?;
            console.expect("hypha-host: status 0", soon)?;
            match console.wait_end(Some(soon)) {
                Wait::Ended => Ok(()),
                other => bail!("after power off: {other:?}"),
            }
        })?;
        Ok(())
    }

    /// tests/parity: the same initramfs prints the same on Linux and on Hypha.
    pub(super) fn parity(&self, linux: Option<&Path>) -> Result<()> {
        let dir = paths::root().join("tests/parity");
        let initrd = paths::hypha().join("tests/parity.cpio.gz");
        let read = |name: &str| {
            let file = dir.join(name);
            std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))
        };
        initramfs::write(&initrd, initramfs::parity(&read("init")?, &read("parity.sh")?)?)?;
        let kernel = linux.or(self.built.image.as_deref()).context("no kernel")?;
        let mut machine = plain(kernel, initrd);
        // Seconds where the machine is ours, minutes where others build on it.
        machine.append += " PARITY_LIMIT=900";
        let log = self.watched(&machine, Keyboard::Nobody, |console| {
            console.expect("=== parity end ===", Duration::from_secs(960))?;
            match console.wait_end(Some(Duration::from_secs(60))) {
                Wait::Ended => Ok(()),
                other => bail!("after the test: {other:?}"),
            }
        })?;
        let got: Vec<_> = log
            .lines()
            .skip_while(|line| *line != "=== parity begin ===")
            .skip(1)
            .take_while(|line| *line != "=== parity end ===")
            .collect();
        let expected = String::from_utf8_lossy(&read("expected.txt")?).into_owned();
        compare(&expected.lines().collect::<Vec<_>>(), &got)
    }

    /// tests/el0 or tests/kvm as PID 1: named cases, each in a process of its own.
    pub(super) fn program(&self, package: &str, linux: Option<&Path>) -> Result<()> {
        self.program_with(package, linux, 1024, "")
    }

    /// On a machine with so many MiB; `append` goes to the end of the kernel's command line.
    fn program_with(
        &self,
        package: &str,
        linux: Option<&Path>,
        mem: u32,
        append: &str,
    ) -> Result<()> {
        let program = build::linux_program(package)?;
        let initrd = paths::hypha().join(format!("tests/{package}.cpio.gz"));
        initramfs::write(&initrd, initramfs::program(&std::fs::read(program)?))?;
        let kernel = linux.or(self.built.image.as_deref()).context("no kernel")?;
        let machine = plain(kernel, initrd);
        // Debian's kernel takes a CPU that the machine under it is slow to run for stuck.
        let calm =
            if linux.is_some() { "nowatchdog rcupdate.rcu_cpu_stall_suppress=1 " } else { "" };
        let append = format!("{} {calm}{append}", machine.append);
        let machine = Machine { mem, append, ..machine };
        let log = self.watched(&machine, Keyboard::Nobody, |console| {
            console.expect(" passed, ", Duration::from_secs(420))?;
            match console.wait_end(Some(Duration::from_secs(60))) {
                Wait::Ended => Ok(()),
                other => bail!("after the test: {other:?}"),
            }
        })?;
        let failures: Vec<_> = log.lines().filter(|line| line.starts_with("FAIL ")).collect();
        if !failures.is_empty() || !log.contains(" passed, 0 failed") {
            bail!("{} cases failed\n  {}", failures.len(), failures.join("\n  "));
        }
        Ok(())
    }
}

/// The first difference, with what stands around it.
fn compare(expected: &[&str], got: &[&str]) -> Result<()> {
    let same = expected.iter().zip(got).take_while(|(a, b)| a == b).count();
    if same == expected.len() && same == got.len() {
        return Ok(());
    }
    let mut section = "the start";
    for line in expected.iter().take(same) {
        if line.starts_with("-- ") {
            section = line;
        }
    }
    let line = |lines: &[&str]| lines.get(same).map_or("(the end)".into(), |l| format!("{l:?}"));
    bail!(
        "line {} differs, in section {section}\n  expected {}\n  got      {}",
        same + 1,
        line(expected),
        line(got)
    )
}

#[cfg(test)]
mod tests {
    use super::compare;

    #[test]
    fn differences() {
        assert!(compare(&["a", "b"], &["a", "b"]).is_ok());
        let error = compare(&["-- one", "a", "b"], &["-- one", "a", "c"]).unwrap_err().to_string();
        assert!(error.contains("line 3") && error.contains("-- one"), "{error}");
        assert!(compare(&["a"], &["a", "b"]).is_err());
        assert!(compare(&["a", "b"], &["a"]).is_err());
    }
}
