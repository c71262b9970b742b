//! Boots without a guest: other exception levels, little memory, and bad ends.

use super::{Bench, Needs, SystemTest, nvhe, options, plain, says, shell};
use crate::console::{Keyboard, Wait};
use crate::initramfs;
use crate::machine::Machine;
use crate::paths;
use crate::run::{self, Mode};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::time::Duration;

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
        name: "boot: without rng-seed and FEAT_RNG, numbers from the counter's jitter",
        needs: Needs::Kernel,
        long: false,
        run: |bench| bench.no_seed(),
    },
    SystemTest {
        name: "boot: without an initramfs, a panic that says why, and the reboot",
        needs: Needs::UserSpace,
        long: false,
        run: |bench| bench.panic(),
    },
    SystemTest {
        name: "boot: a CPU stuck in the kernel is found by the others",
        needs: Needs::UserSpace,
        long: false,
        run: |bench| bench.stuck(),
    },
    SystemTest {
        name: "boot: a failure at EL2 reaches the log, with registers",
        needs: Needs::UserSpace,
        long: false,
        run: |bench| {
            // BRK #0x48, from the vector for EL2 itself.
            let what = "Kernel panic: hyp failed at EL2: vector 4, ESR 0xf2000048";
            bench.crash("hyp", nvhe(), &[what, "x28 "])
        },
    },
    SystemTest {
        name: "boot: a soft restart of EL2, which hyp then takes over",
        needs: Needs::Kvm,
        long: false,
        run: |bench| {
            let log =
                bench.boot_log(&run::Args { append: "hypha.restart=el2".into(), ..nvhe() })?;
            for cpu in 0..2 {
                says(&log, &format!("hyp: CPU{cpu}: EL2 was restarted"))?;
            }
            Ok(())
        },
    },
    SystemTest {
        name: "boot: a stack that overflows reaches the log, with a backtrace",
        needs: Needs::Kernel,
        long: false,
        run: |bench| {
            let said = ["Kernel panic: kernel stack overflow", "use_up+", "times more"];
            let type1 = run::Args {
                cpu: "cortex-a72".into(),
                append: "kvm-arm.mode=type1".into(),
                ..options()
            };
            // A task's stack, a CPU's own; VHE, EL1, E2H=0.
            for args in [options(), nvhe(), type1] {
                for stack in ["stack", "idle"] {
                    bench.crash(stack, args.clone(), &said)?;
                }
            }
            Ok(())
        },
    },
];

impl Bench<'_> {
    /// Boots until all of these were printed, in this order.
    fn banner(&self, args: &run::Args, texts: &[&str]) -> Result<()> {
        let machine = run::machine(args, self.built)?;
        self.watched(&machine, Keyboard::Nobody, |console| {
            texts.iter().try_for_each(|text| console.expect(text, Duration::from_secs(60)))
        })?;
        Ok(())
    }

    fn no_kvm(&self, args: &run::Args) -> Result<String> {
        let machine = run::machine(args, self.built)?;
        let log =
            self.watched(&machine, Keyboard::Nobody, |console| run::watch(console, args, false))?;
        says(&log, "hypha-host: there is no /dev/kvm")?;
        Ok(log)
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

    /// Little to seed random numbers from: it says so, and from what they are.
    fn no_seed(&self) -> Result<()> {
        let args = run::Args { cpu: "cortex-a72".into(), ..options() };
        let mut machine = run::machine(&args, self.built)?;
        machine.extra.extend(["-M".into(), "dtb-randomness=off".into()]);
        self.watched(&machine, Keyboard::Nobody, |console| {
            let warning = "Random: neither rng-seed nor FEAT_RNG: seeded from the counter's jitter";
            console.expect(warning, Duration::from_secs(60))
        })?;
        Ok(())
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
        says(&log, "x28 [")?;
        says(&log, "Backtrace of CPU")?;
        says(&log, "rebooting")
    }

    /// A task keeps its CPU for 30 s; the other CPU says so, with the task's stack.
    fn stuck(&self) -> Result<()> {
        let args =
            run::Args { append: "hypha.crash=stuck".into(), exit_after_boot: false, ..shell() };
        let machine = run::machine(&args, self.built)?;
        let log = self.watched(&machine, Keyboard::Test, |console| {
            match console.wait_for("never printed", Duration::from_secs(90)) {
                Wait::Trouble => Ok(()),
                other => bail!("nobody complained: {other:?}"),
            }
        })?;
        says(&log, "watchdog: BUG: soft lockup - CPU#")?;
        let trace = log.lines().skip_while(|line| !line.contains("soft lockup")).take(8);
        if !trace.into_iter().any(|line| line.contains("task::first")) {
            bail!("the backtrace doesn't lead to the task's start");
        }
        Ok(())
    }

    /// What `hypha.crash=` asks for fails: the host says so, and reboots.
    fn crash(&self, what: &str, args: run::Args, said: &[&str]) -> Result<()> {
        let args = run::Args { append: format!("{} hypha.crash={what}", args.append), ..args };
        let machine = run::machine(&args, self.built)?;
        let log = self.watched(&machine, Keyboard::Nobody, |console| {
            match console.wait_end(Some(Duration::from_secs(60))) {
                Wait::Trouble => Ok(()),
                other => bail!("no panic: {other:?}"),
            }
        })?;
        for text in said {
            says(&log, text)?;
        }
        says(&log, "rebooting")
    }
}

/// An initramfs that sleeps a second, says what the kernel counted, and powers
/// off.
pub fn reporting_initrd() -> Result<PathBuf> {
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
