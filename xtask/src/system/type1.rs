//! Machines whose VMs stand in the device tree.

use super::{Bench, Needs, SystemTest, gicv2, options, says};
use crate::console::{Console, Keyboard};
use crate::fdt::Node;
use crate::run::{self, Mode};
use crate::type1::{self, Vm};
use crate::{debian, paths, ui};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::time::Duration;

pub const TESTS: &[SystemTest] = &[
    SystemTest {
        name: "type1: two Debian guests and a real-time guest on max",
        needs: Needs::Type1,
        long: true,
        run: |bench| bench.vms(&machine()),
    },
    SystemTest {
        name: "type1: two Debian guests and a real-time guest on cortex-a72",
        needs: Needs::Type1,
        long: true,
        run: |bench| bench.vms(&run::Args { cpu: "cortex-a72".into(), ..machine() }),
    },
    SystemTest {
        name: "type1: two Debian guests and a real-time guest on cortex-a53 with a GICv2",
        needs: Needs::Type1,
        long: true,
        run: |bench| bench.vms(&gicv2(run::Args { cpu: "cortex-a53".into(), ..machine() })),
    },
    SystemTest {
        name: "type1: each console answers, Ctrl-a three times switches",
        needs: Needs::Type1,
        long: true,
        run: |bench| bench.consoles(),
    },
    SystemTest {
        name: "type1: one guest restarts, one crashes, the real-time guest misses nothing",
        needs: Needs::Type1,
        long: true,
        run: |bench| bench.restart_and_crash(),
    },
    SystemTest {
        name: "type1: attacks are contained, the real-time guest misses nothing",
        needs: Needs::Type1,
        long: true,
        run: |bench| bench.storms(),
    },
    SystemTest {
        name: "type1: a malformed property keeps one VM from starting",
        needs: Needs::Type1,
        long: true,
        run: |bench| bench.malformed(),
    },
    SystemTest {
        name: "type1: a device tree for Xen, chosen without being asked",
        needs: Needs::Type1,
        long: true,
        run: |bench| {
            let hypha = bench.built.image.clone().context("no kernel")?;
            let log = bench.dom0less(&hypha, "[domU1] hypha-guest: ready")?;
            says(&log, "xen,domain")
        },
    },
    SystemTest {
        name: "xen: the same device tree on Debian's Xen 4.17",
        needs: Needs::Nothing,
        long: true,
        run: |bench| bench.dom0less(&debian::xen()?, "hypha-guest: ready").map(drop),
    },
];

/// Two Debian guests, 2 CPUs each, and the real-time guest, on 4 CPUs.
fn machine() -> run::Args {
    run::Args { mode: Mode::Type1, smp: 4, guest_mem: 256, ..options() }
}

const SOON: Duration = Duration::from_secs(60);
/// The shell of the Debian guests.
const PROMPT: &str = "guest# ";

/// Presses Ctrl-a three times; the first of two is QEMU's own.
fn switch(console: &mut Console) -> Result<()> {
    console.send("\x01a\x01a\x01a")
}

impl Bench<'_> {
    /// All of them come up, and the real-time guest misses no tick meanwhile.
    fn vms(&self, args: &run::Args) -> Result<()> {
        let (machine, goals) = type1::prepare(args, self.built)?;
        let log = self.watched(&machine, Keyboard::Nobody, |console| {
            run::watch_vms(console, args, &goals, false)?;
            console.expect("[rt] rt: 1000 ticks", SOON)
        })?;
        for vm in ["domU1", "domU2"] {
            says(&log, &format!("[{vm}] hypha-guest: up"))?;
        }
        no_tick_missed(&log)
    }

    /// Each shell answers when it has the input, and only then.
    fn consoles(&self) -> Result<()> {
        let args = machine();
        let (machine, goals) = type1::prepare(&args, self.built)?;
        self.watched(&machine, Keyboard::Test, |console| {
            console.expect_all(&goals, Duration::from_secs(args.timeout))?;
            for vm in ["domU1", "domU2"] {
                console.send("\n")?;
                console.expect(&format!("[{vm}] {PROMPT}"), SOON)?;
                // What is expected must not be what the terminal echoes.
                console.send("echo $((6 * 7))-answer\n")?;
                console.expect(&format!("[{vm}] 42-answer"), SOON)?;
                switch(console)?;
                console.expect("Console input: ", SOON)?;
            }
            // The real-time guest has it now, then the first again.
            switch(console)?;
            console.expect("Console input: domU1", SOON)?;
            console.send("\n")?;
            console.expect(&format!("[domU1] {PROMPT}"), SOON)
        })?;
        Ok(())
    }

    /// `reboot` starts one VM anew, alone; a crash is reported and does the same.
    fn restart_and_crash(&self) -> Result<()> {
        let args = machine();
        let (machine, goals) = type1::prepare(&args, self.built)?;
        let log = self.watched(&machine, Keyboard::Test, |console| {
            let limit = Duration::from_secs(args.timeout);
            console.expect_all(&goals, limit)?;
            console.send("reboot -f\n")?;
            console.expect("[domU1] hypha-guest: ready", limit)?;
            switch(console)?;
            console.expect("Console input: domU2", SOON)?;
            // Linux panics, and with panic=-1 asks for a reset.
            console.forgives_panics = true;
            console.send("echo c >/proc/sysrq-trigger\n")?;
            console.expect("[domU2] hypha-guest: ready", limit)?;
            console.expect("[rt] rt: 1000 ticks", SOON)
        })?;
        no_tick_missed(&log)
    }

    /// The attacking guest goes from one kind to the next; the other one's latency
    /// under each is noted.
    fn storms(&self) -> Result<()> {
        let args = machine();
        let kernel = self.built.image.clone().context("no kernel")?;
        let mut attacker = Vm::bare("attack", "guest-attack", "storms=3 rounds=0")?;
        attacker.cpus = 2;
        let vms = [attacker, Vm::realtime()?];
        let machine = type1::machine(&args, &kernel, &vms, &self.tree())?;
        let log = self.watched(&machine, Keyboard::Nobody, |console| {
            console.expect("attack: the end", Duration::from_secs(900))
        })?;
        let mut storm = "";
        for line in log.lines() {
            if let Some(text) = line.strip_prefix("[attack] ") {
                if text.starts_with("FAIL ") {
                    bail!("the attack succeeded: {text}");
                }
                let name = text.strip_prefix("attack: ").and_then(|t| t.strip_suffix(" begins"));
                storm = name.unwrap_or(storm);
            } else if let Some(report) = line.strip_prefix("[rt] rt: ") {
                ui::note(format!("{storm:<10} {report}"));
            }
        }
        no_tick_missed(&log)
    }

    /// The message names node and property, and the other VM starts.
    fn malformed(&self) -> Result<()> {
        let args = machine();
        let kernel = self.built.image.clone().context("no kernel")?;
        let mut bad = Vm::debian("bad", &args, self.built);
        bad.more = Node::default().text("hypha,placement", "elsewhere");
        let mut unsupported = Vm::debian("enhanced", &args, self.built);
        unsupported.more = Node::default().text("xen,enhanced", "enabled");
        let vms = [bad, unsupported, Vm::debian("good", &args, self.built)];
        let machine = type1::machine(&args, &kernel, &vms, &self.tree())?;
        let log = self.watched(&machine, Keyboard::Nobody, |console| {
            console.expect("[good] hypha-guest: ready", Duration::from_secs(args.timeout))
        })?;
        says(&log, "/chosen/bad: hypha,placement: must be")?;
        says(&log, "/chosen/enhanced: xen,enhanced: ")?;
        if log.contains("[bad]") || log.contains("[enhanced]") {
            bail!("a VM started whose node is malformed");
        }
        Ok(())
    }

    /// One kernel, one ramdisk, `vpl011`: nothing that isn't in Xen's documentation,
    /// and no `kvm-arm.mode=`.
    fn dom0less(&self, kernel: &Path, ready: &str) -> Result<String> {
        let args = run::Args { cpu: "cortex-a72".into(), ..machine() };
        let vms = [Vm::debian("domU1", &args, self.built)];
        let machine = type1::machine(&args, kernel, &vms, &self.tree())?;
        self.watched(&machine, Keyboard::Nobody, |console| {
            console.expect(ready, Duration::from_secs(args.timeout))
        })
    }

    fn tree(&self) -> std::path::PathBuf {
        paths::hypha().join("tests/type1.dtb")
    }
}

/// What the real-time guest reports, every second.
fn no_tick_missed(log: &str) -> Result<()> {
    let reports: Vec<_> = log.lines().filter(|line| line.contains(" ticks, ")).collect();
    if reports.is_empty() {
        bail!("the real-time guest reports nothing");
    }
    match reports.iter().find(|line| !line.contains(" 0 missed")) {
        Some(line) => bail!("ticks were missed: {line}"),
        None => Ok(()),
    }
}
