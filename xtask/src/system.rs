//! Whole-system tests: a machine in QEMU, its console watched.

use crate::console::{Console, Keyboard, Wait};
use crate::initramfs;
use crate::machine::Machine;
use crate::run::{self, Mode};
use crate::{build, paths, proc, ui};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a test needs of this tree.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Debian's kernel and busybox alone.
    Nothing,
    /// hypha-vmm, on Linux.
    Vmm,
    /// The kernel as far as its first task.
    Kernel,
    /// The kernel runs /init.
    UserSpace,
    /// The kernel has /dev/kvm.
    Kvm,
}

/// How far the kernel has come: tests of what it cannot do yet are not listed.
const HAS_USER_SPACE: bool = true;
const HAS_KVM: bool = true;

pub struct SystemTest {
    pub name: &'static str,
    pub needs: Needs,
    /// Only with --full: long, or not yet known to pass on Hypha.
    pub long: bool,
    pub run: fn(&Bench) -> Result<()>,
}

/// Where a test runs.
pub struct Bench<'a> {
    pub built: &'a build::Built,
    pub name: &'static str,
}

/// One after the other: two cores are enough for one emulated machine.
pub const TESTS: &[SystemTest] = &[
    SystemTest {
        name: "boot: banner at EL2 with VHE",
        needs: Needs::Kernel,
        long: false,
        run: |bench| {
            bench.banner(&options(), &["has FEAT_VHE", "HCR_EL2.E2H=1", "CPUs: 2 of 2 up"])
        },
    },
    SystemTest {
        name: "boot: E2H=0 at EL2 on cortex-a72: 4 CPUs, ticking timers",
        needs: Needs::Kernel,
        long: false,
        run: |bench| {
            let args = run::Args {
                cpu: "cortex-a72".into(),
                smp: 4,
                append: "kvm-arm.mode=type1".into(),
                ..options()
            };
            bench.banner(&args, &["HCR_EL2.E2H=0", "CPUs: 4 of 4 up", "timer interrupts"])
        },
    },
    SystemTest {
        name: "boot: guest on max",
        needs: Needs::Kvm,
        long: false,
        run: |bench| bench.boot(&options()),
    },
    SystemTest {
        name: "boot: guest on neoverse-n1",
        needs: Needs::Kvm,
        long: false,
        run: |bench| bench.boot(&run::Args { cpu: "neoverse-n1".into(), ..options() }),
    },
    SystemTest {
        name: "boot: 4 CPUs, guest with 4 CPUs",
        needs: Needs::Kvm,
        long: false,
        run: |bench| bench.boot(&run::Args { smp: 4, guest_cpus: 4, ..options() }),
    },
    SystemTest {
        name: "boot: guest on max, nVHE",
        needs: Needs::Kvm,
        long: false,
        run: |bench| bench.split(&nvhe(), "asked for by kvm-arm.mode="),
    },
    SystemTest {
        name: "boot: guest on max, nVHE because VHE is hidden",
        needs: Needs::Kvm,
        long: true,
        run: |bench| {
            let args = run::Args { append: "id_aa64mmfr1.vh=0".into(), ..options() };
            bench.split(&args, "id_aa64mmfr1.vh=0 hides VHE")
        },
    },
    SystemTest {
        name: "boot: guest on cortex-a72",
        needs: Needs::Kvm,
        long: false,
        run: |bench| {
            let args = run::Args { cpu: "cortex-a72".into(), ..options() };
            bench.split(&args, "the CPU has no FEAT_VHE")
        },
    },
    SystemTest {
        name: "boot: cortex-a57, 4 CPUs, guest with 4 CPUs",
        needs: Needs::Kvm,
        long: true,
        run: |bench| {
            let cpu = "cortex-a57".into();
            let args = run::Args { cpu, smp: 4, guest_cpus: 4, ..options() };
            bench.split(&args, "the CPU has no FEAT_VHE")
        },
    },
    SystemTest {
        name: "boot: GICv2 host reaches its shell",
        needs: Needs::UserSpace,
        long: false,
        run: |bench| bench.boot(&run::Args { gic: 2, host_shell: true, ..options() }),
    },
    SystemTest {
        name: "boot: guest on a GICv2 host",
        needs: Needs::Kvm,
        long: false,
        run: |bench| bench.boot(&run::Args { gic: 2, ..options() }),
    },
    SystemTest {
        name: "boot: GICv2 host with 4 CPUs, guest with 4 CPUs",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.boot(&run::Args { gic: 2, smp: 4, guest_cpus: 4, ..options() }),
    },
    SystemTest {
        name: "boot: guest on cortex-a53 with a GICv2",
        needs: Needs::Kvm,
        long: false,
        run: |bench| {
            let args = gicv2(run::Args { cpu: "cortex-a53".into(), ..options() });
            bench.split(&args, "the CPU has no FEAT_VHE")
        },
    },
    SystemTest {
        name: "boot: guest on a GICv2 host, nVHE",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.split(&gicv2(nvhe()), "asked for by kvm-arm.mode="),
    },
    SystemTest {
        name: "boot: cortex-a57 with a GICv2, 4 CPUs, guest with 4 CPUs",
        needs: Needs::Kvm,
        long: true,
        run: |bench| {
            let cpu = "cortex-a57".into();
            let args = gicv2(run::Args { cpu, smp: 4, guest_cpus: 4, ..options() });
            bench.split(&args, "the CPU has no FEAT_VHE")
        },
    },
    SystemTest {
        name: "boot: guest on cortex-a76",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.boot(&run::Args { cpu: "cortex-a76".into(), ..options() }),
    },
    SystemTest {
        name: "boot: guest on neoverse-v1",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.boot(&run::Args { cpu: "neoverse-v1".into(), ..options() }),
    },
    SystemTest {
        name: "boot: mode none has no /dev/kvm and says why",
        needs: Needs::UserSpace,
        long: false,
        run: |bench| {
            let log = bench.no_kvm(&run::Args { mode: Mode::None, ..shell() })?;
            says(&log, "asked for by kvm-arm.mode=")
        },
    },
    SystemTest {
        name: "boot: a machine without EL2 has no /dev/kvm and says why",
        needs: Needs::UserSpace,
        long: false,
        run: |bench| {
            let log = bench.no_kvm(&run::Args { el1: true, ..shell() })?;
            says(&log, "EL2")
        },
    },
    SystemTest {
        name: "boot: as its own guest, by the virtual timer",
        needs: Needs::Kvm,
        long: false,
        run: |bench| bench.own_guest(),
    },
    SystemTest {
        name: "boot: mem= below where the initrd lies",
        needs: Needs::UserSpace,
        long: false,
        run: |bench| bench.little_memory(),
    },
    SystemTest {
        name: "boot: without an initramfs, a panic that says why, and the reboot",
        needs: Needs::UserSpace,
        long: false,
        run: |bench| bench.panic(),
    },
    SystemTest {
        name: "boot: a failure at EL2 reaches the log, with registers",
        needs: Needs::UserSpace,
        long: false,
        run: |bench| bench.failure_at_el2(),
    },
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
        long: false,
        run: |bench| bench.program_with("kvm-tests", None, 1024, NVHE),
    },
    SystemTest {
        name: "el0: odd calls and instructions, nVHE",
        needs: Needs::UserSpace,
        long: false,
        run: |bench| bench.program_with("el0-tests", None, 1024, &format!("{NVHE} misc")),
    },
    SystemTest {
        name: "linux: kvm-tests on Debian's kernel",
        needs: Needs::Nothing,
        long: true,
        run: |bench| bench.program("kvm-tests", Some(&bench.built.guest_image)),
    },
    SystemTest {
        name: "memory: programs fill all but 24 MiB of 2 GiB, and the host lives",
        needs: Needs::UserSpace,
        long: false,
        run: |bench| bench.program_with("el0-tests", None, 2048, "oom"),
    },
    SystemTest {
        name: "linux: el0-tests on Debian's kernel",
        needs: Needs::Nothing,
        long: true,
        run: |bench| bench.program("el0-tests", Some(&bench.built.guest_image)),
    },
    SystemTest {
        name: "guest: conformance",
        needs: Needs::Kvm,
        long: false,
        run: |bench| bench.bare_guest("guest-conformance", " passed, 0 failed", &options()),
    },
    SystemTest {
        name: "guest: conformance, nVHE",
        needs: Needs::Kvm,
        long: false,
        run: |bench| bench.bare_guest_with("guest-conformance", " passed, 0 failed", nvhe()),
    },
    SystemTest {
        name: "guest: conformance on cortex-a72",
        needs: Needs::Kvm,
        long: true,
        run: |bench| {
            let args = run::Args { cpu: "cortex-a72".into(), ..options() };
            bench.bare_guest_with("guest-conformance", " passed, 0 failed", args)
        },
    },
    SystemTest {
        name: "bench: no exit costs more than is recorded",
        needs: Needs::Kvm,
        long: false,
        run: |bench| crate::bench::gate::check(bench.built),
    },
    SystemTest {
        name: "guest: attack",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.bare_guest("guest-attack", "ok attack.survived", &options()),
    },
    SystemTest {
        name: "guest: conformance on GICv2",
        needs: Needs::Kvm,
        long: false,
        run: |bench| bench.bare_guest("guest-conformance", " passed, 0 failed", &gicv2(options())),
    },
    SystemTest {
        name: "guest: conformance on GICv2, nVHE",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.bare_guest_with("guest-conformance", " passed, 0 failed", gicv2(nvhe())),
    },
    SystemTest {
        name: "guest: attack on GICv2",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.bare_guest("guest-attack", "ok attack.survived", &gicv2(options())),
    },
    SystemTest {
        name: "linux: guest conformance on GICv2",
        needs: Needs::Vmm,
        long: true,
        run: |bench| bench.bare_guest("guest-conformance", " passed, 0 failed", &gicv2(debian())),
    },
    SystemTest {
        name: "guest: attack, nVHE",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.bare_guest_with("guest-attack", "ok attack.survived", nvhe()),
    },
    SystemTest {
        name: "linux: guest conformance",
        needs: Needs::Vmm,
        long: true,
        run: |bench| bench.bare_guest("guest-conformance", " passed, 0 failed", &debian()),
    },
    SystemTest {
        name: "linux: guest attack",
        needs: Needs::Vmm,
        long: true,
        run: |bench| bench.bare_guest("guest-attack", "ok attack.survived", &debian()),
    },
    SystemTest {
        name: "vmm: bad input is refused",
        needs: Needs::Kvm,
        long: false,
        run: |bench| bench.script("/hypha/tests/bad-input-test", None),
    },
    SystemTest {
        name: "vmm: killed 10 times at random moments",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.script("/hypha/tests/kill-test,10", None),
    },
    SystemTest {
        name: "vmm: killed 100 times at random moments",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.script("/hypha/tests/kill-test,100", None),
    },
    SystemTest {
        name: "vmm: killed 10 times at random moments, nVHE",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.script_with("/hypha/tests/kill-test,10", nvhe()),
    },
    SystemTest {
        name: "boot: 20 times in a row on max, nVHE",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.repeat(&nvhe()),
    },
    SystemTest {
        name: "boot: 20 times in a row on max",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.repeat(&options()),
    },
    SystemTest {
        name: "boot: 20 times in a row on neoverse-n1",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.repeat(&run::Args { cpu: "neoverse-n1".into(), ..options() }),
    },
    SystemTest {
        name: "boot: 20 times in a row with 4 CPUs, guest with 4",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.repeat(&run::Args { smp: 4, guest_cpus: 4, ..options() }),
    },
    SystemTest {
        name: "linux: bad input is refused",
        needs: Needs::Vmm,
        long: true,
        run: |bench| bench.script("/hypha/tests/bad-input-test", Some("debian")),
    },
    SystemTest {
        name: "linux: hypha-vmm killed 10 times at random moments",
        needs: Needs::Vmm,
        long: true,
        // Linux keeps more of its own.
        run: |bench| bench.script("/hypha/tests/kill-test,10,16384", Some("debian")),
    },
    SystemTest {
        name: "linux: hypha-vmm runs the guest on Debian's kernel",
        needs: Needs::Vmm,
        long: false,
        run: |bench| bench.boot(&run::Args { image: Some("debian".into()), ..options() }),
    },
    SystemTest {
        name: "linux: parity is what Debian's kernel prints",
        needs: Needs::Nothing,
        long: true,
        run: |bench| bench.parity(Some(&bench.built.guest_image)),
    },
    SystemTest {
        name: "linux: the harness types into a shell on Debian's kernel",
        needs: Needs::Nothing,
        long: true,
        run: |bench| bench.type_into_shell(Some("debian")),
    },
];

fn options() -> run::Args {
    run::Args { exit_after_boot: true, ..run::Args::default() }
}

const NVHE: &str = " kvm-arm.mode=nvhe";

fn nvhe() -> run::Args {
    run::Args { mode: Mode::Nvhe, ..options() }
}

/// The same on Debian's kernel.
fn debian() -> run::Args {
    run::Args { image: Some("debian".into()), ..options() }
}

/// The same on a machine with a GICv2.
fn gicv2(args: run::Args) -> run::Args {
    run::Args { gic: 2, ..args }
}

fn shell() -> run::Args {
    run::Args { host_shell: true, ..options() }
}

/// Two CPUs, 1 GiB, and an initramfs that powers off by itself.
fn plain(kernel: &Path, initrd: PathBuf) -> Machine {
    Machine {
        cpu: "max".into(),
        gic: 3,
        smp: 2,
        mem: 1024,
        el2: true,
        gdb: false,
        kernel: kernel.into(),
        initrd: Some(initrd),
        append: "console=ttyAMA0 quiet panic=-1".into(),
        extra: Vec::new(),
    }
}

/// An initramfs that sleeps a second, says what the kernel counted, and powers
/// off.
fn reporting_initrd() -> Result<PathBuf> {
    const INIT: &[u8] = b"#!/bin/busybox sh
/bin/busybox mkdir -p /proc
/bin/busybox mount -t proc proc /proc
/bin/busybox sleep 1
/bin/busybox grep ^timer: /proc/interrupts
/bin/busybox grep ^MemTotal: /proc/meminfo
/bin/busybox poweroff -f
";
    let initrd = paths::hypha().join("tests/reporting.cpio.gz");
    initramfs::write(&initrd, initramfs::parity(INIT, b"")?)?;
    Ok(initrd)
}

fn says(log: &str, text: &str) -> Result<()> {
    if !log.contains(text) {
        bail!("the log does not say {text:?}");
    }
    Ok(())
}

impl Bench<'_> {
    /// Boots until all of these were printed, in this order.
    fn banner(&self, args: &run::Args, texts: &[&str]) -> Result<()> {
        let machine = run::machine(args, self.built)?;
        self.watched(&machine, Keyboard::Nobody, |console| {
            texts.iter().try_for_each(|text| console.expect(text, Duration::from_secs(60)))
        })?;
        Ok(())
    }

    /// As `./x run` with these options; also wants the guest's own words.
    fn boot(&self, args: &run::Args) -> Result<()> {
        self.boot_log(args).map(drop)
    }

    /// As [`Bench::boot`], the host at EL1 for this reason.
    fn split(&self, args: &run::Args, reason: &str) -> Result<()> {
        let log = self.boot_log(args)?;
        says(&log, "Kernel: at EL1, entered at EL2")?;
        says(&log, &format!("Hypervisor: nVHE, hyp at EL2: {reason}"))?;
        says(&log, "KVM: nVHE")
    }

    fn boot_log(&self, args: &run::Args) -> Result<String> {
        let machine = run::machine(args, self.built)?;
        let log =
            self.watched(&machine, Keyboard::Nobody, |console| run::watch(console, args, false))?;
        if !args.host_shell {
            let mut lines = log.lines().skip_while(|line| *line != "hypha-guest: up").skip(1);
            let uname = lines.next().unwrap_or_default();
            let nproc = lines.next().unwrap_or_default();
            if !uname.starts_with("Linux ") || !uname.contains("aarch64") {
                bail!("the guest's uname -a is {uname:?}");
            }
            if nproc != args.guest_cpus.to_string() {
                bail!("the guest has {nproc:?} CPUs instead of {}", args.guest_cpus);
            }
        }
        Ok(log)
    }

    fn repeat(&self, args: &run::Args) -> Result<()> {
        for round in 1..=20 {
            self.boot(args).with_context(|| format!("boot {round} of 20"))?;
            ui::note(format!("boot {round} of 20 succeeded"));
        }
        Ok(())
    }

    /// A guest without an operating system, which says what it found.
    fn bare_guest(&self, package: &str, verdict: &str, on: &run::Args) -> Result<()> {
        self.bare_guest_with(package, verdict, on.clone())
    }

    fn bare_guest_with(&self, package: &str, verdict: &str, args: run::Args) -> Result<()> {
        let args = run::Args {
            kernel: Some(build::bare_guest(package)?),
            // None: the guest is its kernel alone.
            initrd: Some("/dev/null".into()),
            ..args
        };
        let machine = run::machine(&args, self.built)?;
        let log =
            self.watched(&machine, Keyboard::Nobody, |console| run::watch(console, &args, false))?;
        let failures: Vec<_> = log.lines().filter(|line| line.starts_with("FAIL ")).collect();
        if !failures.is_empty() {
            bail!("{} cases failed\n  {}", failures.len(), failures.join("\n  "));
        }
        says(&log, verdict)
    }

    /// A script in the host's initramfs, instead of a guest.
    fn script(&self, command: &str, image: Option<&str>) -> Result<()> {
        self.script_with(command, run::Args { image: image.map(PathBuf::from), ..options() })
    }

    fn script_with(&self, command: &str, args: run::Args) -> Result<()> {
        let args = run::Args { append: format!("hypha.run={command}"), ..args };
        let machine = run::machine(&args, self.built)?;
        let log = self.watched(&machine, Keyboard::Nobody, |console| {
            console.expect("hypha-host: status ", Duration::from_secs(1200))?;
            match console.wait_end(Some(Duration::from_secs(60))) {
                Wait::Ended => Ok(()),
                other => bail!("after the script: {other:?}"),
            }
        })?;
        if !log.lines().any(|line| line == "hypha-host: status 0") {
            let tail: Vec<_> = log.lines().rev().take(25).collect();
            bail!(
                "the script failed:\n  {}",
                tail.into_iter().rev().collect::<Vec<_>>().join("\n  ")
            );
        }
        Ok(())
    }

    /// Hypha in Hypha: its CNTVOFF_EL2 isn't zero, so only the virtual timer
    /// goes off when it should.
    fn own_guest(&self) -> Result<()> {
        let args = run::Args {
            kernel: Some(self.built.image.clone().context("no kernel")?),
            initrd: Some(reporting_initrd()?),
            ..options()
        };
        let machine = run::machine(&args, self.built)?;
        let log =
            self.watched(&machine, Keyboard::Nobody, |console| run::watch(console, &args, false))?;
        says(&log, "entered at EL1")?;
        let line = log.lines().find(|line| line.starts_with("timer:"));
        let counts = line.context("the guest does not count its timer interrupts")?;
        let count: u64 = counts.split_whitespace().filter_map(|n| n.parse::<u64>().ok()).sum();
        if count > 200 {
            bail!("{count} timer interrupts in a second's sleep");
        }
        Ok(())
    }

    /// The initrd counts as RAM even beyond the limit, as on Linux.
    fn little_memory(&self) -> Result<()> {
        let kernel = self.built.image.as_deref().context("no kernel")?;
        let append = "console=ttyAMA0 panic=-1 mem=64M".into();
        let machine = Machine { append, ..plain(kernel, reporting_initrd()?) };
        let log = self.watched(&machine, Keyboard::Nobody, |console| {
            match console.wait_end(Some(Duration::from_secs(60))) {
                Wait::Ended => Ok(()),
                other => bail!("after mem=64M: {other:?}"),
            }
        })?;
        let line = log.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let total = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        match total {
            Some(60_000..=70_000) => Ok(()),
            other => bail!("MemTotal is {other:?} KiB"),
        }
    }

    /// There is no init to run: the reason, and the reboot that panic=-1 asks for.
    fn panic(&self) -> Result<()> {
        let kernel = self.built.image.as_deref().context("no kernel")?;
        let machine = Machine { initrd: None, ..plain(kernel, PathBuf::new()) };
        let log = self.watched(&machine, Keyboard::Nobody, |console| {
            match console.wait_end(Some(Duration::from_secs(60))) {
                Wait::Trouble => Ok(()),
                other => bail!("no panic: {other:?}"),
            }
        })?;
        says(&log, "Kernel panic: no init found")?;
        says(&log, "rebooting")
    }

    /// `hyp` fails on request: the host prints its registers, and reboots.
    fn failure_at_el2(&self) -> Result<()> {
        let args = run::Args { append: "hypha.crash=hyp".into(), ..nvhe() };
        let machine = run::machine(&args, self.built)?;
        let log = self.watched(&machine, Keyboard::Nobody, |console| {
            match console.wait_end(Some(Duration::from_secs(60))) {
                Wait::Trouble => Ok(()),
                other => bail!("no panic: {other:?}"),
            }
        })?;
        // BRK #0x48, from the vector for EL2 itself.
        says(&log, "Kernel panic: hyp failed at EL2: vector 4, ESR 0xf2000048")?;
        says(&log, "x28 ")?;
        says(&log, "rebooting")
    }

    fn no_kvm(&self, args: &run::Args) -> Result<String> {
        let machine = run::machine(args, self.built)?;
        let log =
            self.watched(&machine, Keyboard::Nobody, |console| run::watch(console, args, false))?;
        says(&log, "hypha-host: there is no /dev/kvm")?;
        Ok(log)
    }

    fn type_into_shell(&self, image: Option<&str>) -> Result<()> {
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
    fn parity(&self, linux: Option<&Path>) -> Result<()> {
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
    fn program(&self, package: &str, linux: Option<&Path>) -> Result<()> {
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
        let append = format!("{} {append}", machine.append);
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

    /// Runs a machine, keeps its log, and shows the log's end if it fails.
    fn watched(
        &self,
        machine: &Machine,
        keyboard: Keyboard,
        script: impl FnOnce(&mut Console) -> Result<()>,
    ) -> Result<String> {
        let mut console = Console::start(machine, keyboard, false)?;
        let result = script(&mut console);
        let log = console.log();
        drop(console);
        let name: String =
            self.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let file = paths::hypha().join("tests").join(format!("{name}.log"));
        proc::write_whole(&file, log.as_bytes())?;
        match result {
            Ok(()) => Ok(log),
            Err(error) => {
                let lines: Vec<_> = log.lines().collect();
                for line in &lines[lines.len().saturating_sub(30)..] {
                    eprintln!("    | {line}");
                }
                ui::note(format!("machine: {}", proc::show(&machine.command())));
                ui::note(format!("whole log: {}", file.display()));
                Err(error)
            }
        }
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

/// The tests that this tree can run.
pub fn listed(kernel: bool, vmm: bool, full: bool) -> impl Iterator<Item = &'static SystemTest> {
    TESTS.iter().filter(move |test| {
        (full || !test.long)
            && match test.needs {
                Needs::Nothing => true,
                Needs::Vmm => vmm,
                Needs::Kernel => kernel,
                Needs::UserSpace => kernel && HAS_USER_SPACE,
                Needs::Kvm => kernel && vmm && HAS_USER_SPACE && HAS_KVM,
            }
    })
}

/// Builds what the tests boot.
pub fn build() -> Result<build::Built> {
    build::build(&build::Args::default())
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
