//! Machines whose VMs stand in the device tree.

use super::storms::count_instructions;
use super::{Bench, Needs, SystemTest, gicv2, options, says};
use crate::console::{Console, Keyboard, Wait};
use crate::fdt::Node;
use crate::run::{self, Mode};
use crate::type1::{self, Vm};
use crate::{build, crates, debian, initramfs, modules, paths, ui};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::time::Duration;

pub const TESTS: &[SystemTest] = &[
    SystemTest {
        name: "type1: two Debian guests, reset and panic, and a real-time guest on max",
        needs: Needs::Type1,
        long: true,
        run: |bench| bench.vms(&machine()),
    },
    SystemTest {
        name: "type1: two Debian guests, reset and panic, and a real-time guest on max with a GICv2",
        needs: Needs::Type1,
        long: true,
        run: |bench| bench.vms(&gicv2(machine())),
    },
    SystemTest {
        name: "type1: two Debian guests, reset and panic, and a real-time guest on cortex-a72",
        needs: Needs::Type1,
        long: true,
        run: |bench| bench.vms(&run::Args { cpu: "cortex-a72".into(), ..machine() }),
    },
    SystemTest {
        name: "type1: two Debian guests, reset and panic, and a real-time guest on cortex-a72 with a GICv2",
        needs: Needs::Type1,
        long: true,
        run: |bench| bench.vms(&gicv2(run::Args { cpu: "cortex-a72".into(), ..machine() })),
    },
    SystemTest {
        name: "type1: two Debian guests, reset and panic, and a real-time guest on cortex-a53",
        needs: Needs::Type1,
        long: true,
        run: |bench| bench.vms(&run::Args { cpu: "cortex-a53".into(), ..machine() }),
    },
    SystemTest {
        name: "type1: two Debian guests, reset and panic, and a real-time guest on cortex-a53 with a GICv2",
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
        name: "type1: attacks are contained, the real-time guest misses nothing",
        needs: Needs::Type1,
        long: true,
        run: |bench| bench.attacks(&machine()),
    },
    SystemTest {
        name: "type1: attacks are contained, on cortex-a53 with a GICv2",
        needs: Needs::Type1,
        long: true,
        run: |bench| bench.attacks(&gicv2(run::Args { cpu: "cortex-a53".into(), ..machine() })),
    },
    SystemTest {
        name: "type1: a crash is reported, and does what the tree says",
        needs: Needs::Type1,
        long: false,
        run: |bench| bench.crashes(),
    },
    SystemTest {
        name: "type1: a malformed property keeps one VM from starting",
        needs: Needs::Type1,
        long: false,
        run: |bench| bench.malformed(),
    },
    SystemTest {
        name: "type1: an exclusive CPU that computes takes no exit in 10 seconds",
        needs: Needs::Type1,
        long: false,
        run: |bench| bench.computes_alone(),
    },
    SystemTest {
        name: "type1: an exclusive CPU that is suspended isn't woken for others",
        needs: Needs::Type1,
        long: false,
        run: |bench| bench.suspended_alone(),
    },
    SystemTest {
        name: "type1: a guest has the machine's disk and network, by virtio-mmio",
        needs: Needs::Type1,
        long: true,
        run: |bench| bench.passthrough(&machine()),
    },
    SystemTest {
        name: "type1: a guest has the machine's disk and network, on cortex-a53 with a GICv2",
        needs: Needs::Type1,
        long: true,
        run: |bench| bench.passthrough(&gicv2(run::Args { cpu: "cortex-a53".into(), ..machine() })),
    },
    SystemTest {
        name: "type1: VMs share memory, and have the memory that the tree names",
        needs: Needs::Type1,
        long: false,
        run: |bench| bench.shared_memory(),
    },
    SystemTest {
        name: "type1: a VM has a GiB of memory in one piece, and again after a reset",
        needs: Needs::Type1,
        long: false,
        run: |bench| bench.gigabyte(),
    },
    SystemTest {
        name: "type1: a kernel without user space runs the same guests",
        needs: Needs::Type1,
        long: true,
        run: |bench| {
            let args = build::Args { no_user_space: true, ..build::Args::default() };
            let alone = build::build(&args)?;
            crates::check_type1(&alone.linked)?;
            let bench = Bench { built: &alone, name: bench.name };
            bench.vms(&run::Args { cpu: "neoverse-n1".into(), ..machine() })
        },
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
        name: "type1: a hung guest is reported, and does what the tree says",
        needs: Needs::Type1,
        long: false,
        run: |bench| bench.hangs(),
    },
    SystemTest {
        name: "type1: Linux's driver for the watchdog pets it, and is missed",
        needs: Needs::Type1,
        long: true,
        run: |bench| bench.linux_watchdog(),
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

/// Presses Ctrl-a three times: QEMU, whose own key it is, hands on every second.
fn switch(console: &mut Console) -> Result<()> {
    console.send("\x01\x01\x01\x01\x01\x01")
}

/// The shell, asked by an empty line, says that it is ready.
fn prompts(console: &mut Console, vm: &str) -> Result<()> {
    console.send("\n")?;
    console.expect(&format!("[{vm}] {PROMPT}"), SOON)
}

/// The shell answers: it has the input.
fn answers(console: &mut Console, vm: &str) -> Result<()> {
    prompts(console, vm)?;
    // What is expected must not be what the terminal echoes.
    console.send("echo $((6 * 7))-answer\n")?;
    console.expect(&format!("[{vm}] 42-answer"), SOON)
}

impl Bench<'_> {
    /// All of them come up. Each Linux console answers, one guest is reset and another panics,
    /// and starts anew, alone. The real-time guest misses no tick meanwhile.
    fn vms(&self, args: &run::Args) -> Result<()> {
        let (mut machine, goals) = type1::prepare(args, self.built)?;
        count_instructions(&mut machine);
        let log = self.watched(&machine, Keyboard::Test, |console| {
            let limit = Duration::from_secs(args.timeout);
            console.expect_all(&goals, limit)?;
            answers(console, "domU1")?;
            console.send("reboot -f\n")?;
            console.expect("domU1: resets", limit)?;
            console.expect("[domU1] hypha-guest: ready", limit)?;
            switch(console)?;
            console.expect("Console input: domU2", SOON)?;
            answers(console, "domU2")?;
            // Linux panics, and with panic=-1 asks for a reset.
            console.forgives_panics = true;
            console.send("echo c >/proc/sysrq-trigger\n")?;
            console.expect("domU2: resets", limit)?;
            console.expect("[domU2] hypha-guest: ready", limit)?;
            console.expect("[rt] rt: 1000 ticks", SOON)
        })?;
        for guest in 1..=args.guests {
            says(&log, &format!("[domU{guest}] hypha-guest: up"))?;
        }
        starts_within(&log, "rt", 15_000_000)?;
        starts_within(&log, &format!("domU{}", args.guests), 60_000_000)?;
        takes_at_most(&log, 6 << 10)?;
        no_tick_missed(&log)
    }

    /// Each shell answers when it has the input, and only then.
    fn consoles(&self) -> Result<()> {
        let args = machine();
        let (machine, goals) = type1::prepare(&args, self.built)?;
        self.watched(&machine, Keyboard::Test, |console| {
            console.expect_all(&goals, Duration::from_secs(args.timeout))?;
            for vm in ["domU1", "domU2"] {
                answers(console, vm)?;
                switch(console)?;
                console.expect("Console input: ", SOON)?;
            }
            // The real-time guest has it now, then the first again.
            switch(console)?;
            console.expect("Console input: domU1", SOON)?;
            prompts(console, "domU1")
        })?;
        Ok(())
    }

    /// A guest attacks in each way for half a second.
    fn attacks(&self, args: &run::Args) -> Result<()> {
        for latency in self.storms(args, Duration::from_millis(500))? {
            let name = latency.name;
            ui::note(format!("{name:<8} {} ns, at most {}", latency.mean, latency.worst));
        }
        Ok(())
    }

    /// A crash is reported with the registers, and what comes then is as the tree says; the
    /// real-time guest doesn't notice.
    fn crashes(&self) -> Result<()> {
        let args = machine();
        let kernel = self.built.image.clone().context("no kernel")?;
        let crashing = |name: &str, then: &str| -> Result<Vm> {
            let mut vm = Vm::bare(name, "guest-attack", "crash")?;
            vm.more = Node::default().text("hypha,on-crash", then);
            Ok(vm)
        };
        let vms = [crashing("again", "restart")?, crashing("once", "stop")?, Vm::realtime()?];
        let mut machine = type1::machine(&args, &kernel, &vms, &self.tree())?;
        count_instructions(&mut machine);
        let log = self.watched(&machine, Keyboard::Nobody, |console| {
            for _ in 0..3 {
                console.expect("[again] attack: crashes", SOON)?;
            }
            console.expect("[rt] rt: 1000 ticks", SOON)
        })?;
        says(&log, "again: CPU 0: PC 0x")?;
        says(&log, "again: crashed: virtual CPU 0: an access that no syndrome describes")?;
        says(&log, "once: crashed: virtual CPU 0: ")?;
        says(&log, "once: stays off (hypha,on-crash)")?;
        if log.matches("[once] attack: crashes").count() != 1 {
            bail!("the VM that is to stay off started anew");
        }
        no_tick_missed(&log)?;
        // QEMU ends where the machine would start anew.
        let vms = [crashing("all", "reset-all")?, Vm::realtime()?];
        let machine = type1::machine(&args, &kernel, &vms, &self.tree())?;
        let log = self.watched(&machine, Keyboard::Nobody, |console| {
            match console.wait_end(Some(SOON)) {
                Wait::Ended => Ok(()),
                _ => bail!("the machine doesn't reset"),
            }
        })?;
        says(&log, "all: resets the machine (hypha,on-crash)")
    }

    /// The message names node and property, and the other VM starts: on the two CPUs of
    /// four that run.
    fn malformed(&self) -> Result<()> {
        let args = run::Args { append: "maxcpus=2".into(), ..machine() };
        let kernel = self.built.image.clone().context("no kernel")?;
        let mut bad = Vm::debian("bad", &args, self.built);
        bad.more = Node::default().text("hypha,placement", "elsewhere");
        let mut unsupported = Vm::debian("enhanced", &args, self.built);
        unsupported.more = Node::default().text("xen,enhanced", "enabled");
        // The kernel is in it, and so are all modules.
        let mut covers = Vm::debian("covers", &args, self.built);
        covers.memory = args.mem;
        covers.more =
            Node::default().wide("xen,static-mem", &[0x4000_0000, u64::from(args.mem) << 20]);
        let mut names = Vm::debian("names", &args, self.built);
        names.more = Node::default().cells("hypha,cpus", &[3]);
        let vms = [bad, unsupported, covers, names, Vm::debian("good", &args, self.built)];
        let machine = type1::machine(&args, &kernel, &vms, &self.tree())?;
        let log = self.watched(&machine, Keyboard::Nobody, |console| {
            console.expect("[good] hypha-guest: ready", Duration::from_secs(args.timeout))
        })?;
        says(&log, "/chosen/bad: hypha,placement: must be")?;
        says(&log, "/chosen/enhanced: xen,enhanced: ")?;
        says(&log, "/chosen/covers: xen,static-mem: memory 0x40000000..")?;
        says(&log, "/chosen/names: hypha,cpus: names CPU 3, which doesn't run")?;
        says(&log, "good: starts, 2 CPUs on 0x3")?;
        if ["[bad]", "[enhanced]", "[covers]", "[names]"].iter().any(|vm| log.contains(vm)) {
            bail!("a VM started that can't have what its node says");
        }
        Ok(())
    }

    /// The guest reads the disk and reaches its gateway, and does so again after a
    /// reset. Its memory has the machine's addresses, which its devices write to.
    fn passthrough(&self, args: &run::Args) -> Result<()> {
        let kernel = self.built.image.clone().context("no kernel")?;
        let dir = paths::hypha().join("tests");
        let disk = dir.join("type1.disk");
        std::fs::create_dir_all(&dir)?;
        let mut contents = b"hypha-disk: here\n".to_vec();
        contents.resize(1 << 20, 0);
        std::fs::write(&disk, contents)?;
        let mut vm = Vm::debian("domU1", args, self.built);
        let (module, loader) = partial_tree(transports())?;
        vm.more = Node::default().flag("direct-map").child(module);
        let mut machine = type1::machine(args, &kernel, &[vm, Vm::realtime()?], &self.tree())?;
        let mut add = |option: &str, value: String| machine.extra.extend([option.into(), value]);
        add("-device", loader);
        add("-drive", format!("file={},if=none,id=disk,format=raw", disk.display()));
        add("-device", "virtio-blk-device,drive=disk,bus=virtio-mmio-bus.0".into());
        add("-netdev", "user,id=net,restrict=on".into());
        add("-device", "virtio-net-device,netdev=net,bus=virtio-mmio-bus.1".into());
        let log = self.watched(&machine, Keyboard::Test, |console| {
            let limit = Duration::from_secs(args.timeout);
            for life in 1..=2 {
                console.expect("[domU1] hypha-guest: ready", limit)?;
                prompts(console, "domU1")?;
                console.send("head -n 1 /dev/vda\n")?;
                console.expect("[domU1] hypha-disk: here", SOON)?;
                console.send("ifconfig eth0 10.0.2.15 up; ping -c 3 10.0.2.2\n")?;
                console.expect("[domU1] 3 packets transmitted, 3 packets received", SOON)?;
                if life == 1 {
                    console.send("reboot -f\n")?;
                    console.expect("domU1: resets", limit)?;
                }
            }
            Ok(())
        })?;
        says(&log, "Type-1: domU1: /virtio_mmio@a000e00 may write memory of its own accord")?;
        says(&log, "Type-1: domU1: no IOMMU is driven: this VM is trusted")
    }

    /// In a second and in ten it takes the same exits: those of its start and end.
    fn computes_alone(&self) -> Result<()> {
        let args = run::Args { smp: 2, ..machine() };
        let kernel = self.built.image.clone().context("no kernel")?;
        let mut exits = Vec::new();
        for seconds in [1, 10] {
            let vm = Vm::bare("alone", type1::REALTIME, &format!("alone={seconds}"))?.alone();
            let mut machine = type1::machine(&args, &kernel, &[vm], &self.tree())?;
            let trace = self.tree().with_extension("int");
            // 64 ns an instruction: ten seconds are soon over.
            let extra = ["-icount", "shift=6,sleep=off", "-d", "int", "-D"];
            machine.extra.extend(extra.map(String::from));
            machine.extra.push(trace.display().to_string());
            self.watched(&machine, Keyboard::Nobody, |console| {
                console.expect("[alone] rt: has computed", Duration::from_secs(args.timeout))?;
                match console.wait_end(Some(SOON)) {
                    Wait::Ended => Ok(()),
                    _ => bail!("the machine stays on without a VM"),
                }
            })?;
            exits.push(exits_to_el2(&std::fs::read_to_string(&trace)?, 1));
        }
        ui::note(format!("exits in 1 and in 10 seconds: {exits:?}"));
        match exits[..] {
            [one, ten] if one == ten && one > 0 => Ok(()),
            _ => bail!("computing costs exits: {exits:?}"),
        }
    }

    /// While its virtual CPU waits in the kernel, and two other VMs take turns on the only other
    /// CPU, it gets as many SGIs in a second as in ten.
    fn suspended_alone(&self) -> Result<()> {
        let args = run::Args { smp: 2, ..machine() };
        let kernel = self.built.image.clone().context("no kernel")?;
        let mut sgis = Vec::new();
        for seconds in [1, 10] {
            let vm = |name: &str, does: &str| {
                Vm::bare(name, type1::REALTIME, &format!("{does}={seconds}"))
            };
            let vms = [vm("sleeps", "suspend")?.alone(), vm("a", "alone")?, vm("b", "alone")?];
            let mut machine = type1::machine(&args, &kernel, &vms, &self.tree())?;
            let trace = self.tree().with_extension("sgi");
            let extra = ["-icount", "shift=6,sleep=off", "-trace", "gicv3_redist_send_sgi", "-D"];
            machine.extra.extend(extra.map(String::from));
            machine.extra.push(trace.display().to_string());
            self.watched(&machine, Keyboard::Nobody, |console| {
                console.expect("[sleeps] rt: was suspended", Duration::from_secs(args.timeout))?;
                console.expect("All virtual machines have ended", SOON)
            })?;
            let trace = std::fs::read_to_string(&trace)?;
            let begins = "GICv3 redistributor 0x1 pending SGI";
            sgis.push(trace.lines().filter(|line| line.contains(begins)).count());
        }
        ui::note(format!("SGIs in 1 and in 10 seconds: {sgis:?}"));
        match sgis[..] {
            // The first lets it run.
            [one, ten] if one == ten && one > 0 => Ok(()),
            _ => bail!("others' work wakes the CPU: {sgis:?}"),
        }
    }

    /// One counts in memory that both have; one has its RAM where the tree says.
    fn shared_memory(&self) -> Result<()> {
        const GUESTS: u64 = 0x8000_0000;
        const STATIC: u64 = 0x6000_0000;
        let args = machine();
        let kernel = self.built.image.clone().context("no kernel")?;
        let share = |role: &str, host: &[u64]| {
            let addresses = host.iter().copied().chain([GUESTS]);
            let mut cells: Vec<u32> =
                addresses.flat_map(|at| [(at >> 32) as u32, at as u32]).collect();
            cells.push(0x1000);
            Node::new("shared")
                .text("compatible", "xen,domain-shared-memory-v1")
                .text("role", role)
                .text("xen,shm-id", "1")
                .cells("xen,shared-mem", &cells)
        };
        let post = format!("seconds=20 post={GUESTS}");
        let look = format!("seconds=20 look={GUESTS}");
        let mut counts = Vm::bare("counts", type1::REALTIME, &post)?;
        let static_memory = [STATIC, u64::from(counts.memory) << 20];
        let host = [STATIC + (64 << 20)];
        counts.more =
            Node::default().wide("xen,static-mem", &static_memory).child(share("owner", &host));
        let mut looks = Vm::bare("looks", type1::REALTIME, &look)?;
        looks.more = Node::default().child(share("borrower", &host));
        let machine = type1::machine(&args, &kernel, &[counts, looks], &self.tree())?;
        let log = self.watched(&machine, Keyboard::Nobody, |console| {
            console.expect("All virtual machines have ended", SOON)
        })?;
        // One writes a number each second, and the other looks; where the machine is slow,
        // it may miss some.
        let seen = log.lines().filter_map(|line| line.split_once("[looks] rt: there stands "));
        let seen: Vec<u32> = seen.filter_map(|(_, number)| number.trim().parse().ok()).collect();
        if !seen.is_sorted() || seen.last().is_none_or(|last| *last < 5) {
            bail!("the one that looks saw {seen:?}");
        }
        Ok(())
    }

    /// The guest fills most of the memory that one entry maps.
    fn gigabyte(&self) -> Result<()> {
        let args = run::Args { mem: 3072, ..machine() };
        let kernel = self.built.image.clone().context("no kernel")?;
        let mut vm = Vm::debian("large", &args, self.built);
        vm.memory = 1152;
        let machine = type1::machine(&args, &kernel, &[vm], &self.tree())?;
        self.watched(&machine, Keyboard::Test, |console| {
            let limit = Duration::from_secs(args.timeout);
            for life in 1..=2 {
                console.expect("large: starts, ", limit)?;
                console.expect(", 1152 MiB; 1 GiB are mapped whole", SOON)?;
                console.expect("[large] hypha-guest: ready", limit)?;
                prompts(console, "large")?;
                console.send("dd if=/dev/zero of=/large bs=1M count=500; ls -l /large\n")?;
                console.expect("[large] -rw-r--r--", SOON)?;
                console.expect(" 524288000 ", SOON)?;
                if life == 1 {
                    console.send("reboot -f\n")?;
                    console.expect("large: resets", limit)?;
                }
            }
            Ok(())
        })?;
        Ok(())
    }

    /// The program that pets it is killed without a word to the driver.
    fn linux_watchdog(&self) -> Result<()> {
        let args = machine();
        let kernel = self.built.image.clone().context("no kernel")?;
        let modules = modules::load_order(&debian::kernel()?, &["arm_smc_wdt"])?;
        let ramdisk = paths::hypha().join("tests/watchdog.cpio.gz");
        initramfs::write(&ramdisk, initramfs::guest(&modules)?)?;
        let mut vm = Vm::debian("domU1", &args, self.built);
        vm.ramdisk = Some(ramdisk);
        vm.more = Node::default().cells("hypha,watchdog", &[5]);
        let machine = type1::machine(&args, &kernel, &[vm], &self.tree())?;
        self.watched(&machine, Keyboard::Test, |console| {
            let limit = Duration::from_secs(args.timeout);
            console.expect("[domU1] hypha-guest: ready", limit)?;
            prompts(console, "domU1")?;
            console.send("watchdog -T 3 -t 1 /dev/watchdog; sleep 8; echo $((6 * 7))-petted\n")?;
            console.expect("[domU1] 42-petted", SOON)?;
            console.send("killall -9 watchdog\n")?;
            console.expect("domU1: CPU 0: PC 0x", SOON)?;
            console.expect("domU1: hung: it did not pet its watchdog in time", SOON)?;
            console.expect("[domU1] hypha-guest: ready", limit)
        })?;
        Ok(())
    }

    /// Of three that have a watchdog one hangs and starts anew, one hangs and stays off, and
    /// one pets it. The first has its CPU to itself.
    fn hangs(&self) -> Result<()> {
        let args = machine();
        let kernel = self.built.image.clone().context("no kernel")?;
        let vm = |name: &str, does: &str, on_crash: &str| -> Result<Vm> {
            let mut vm = Vm::bare(name, "guest-attack", does)?;
            vm.more =
                Node::default().cells("hypha,watchdog", &[5]).text("hypha,on-crash", on_crash);
            Ok(vm)
        };
        let vms = [
            vm("again", "hang", "restart")?.alone(),
            vm("once", "hang", "stop")?,
            vm("pets", "pet=15", "reset-all")?,
        ];
        let machine = type1::machine(&args, &kernel, &vms, &self.tree())?;
        let log = self.watched(&machine, Keyboard::Nobody, |console| {
            let limit = Duration::from_secs(args.timeout);
            for _ in 0..2 {
                console.expect("[again] hang: begins", limit)?;
                console.expect("again: hung: ", limit)?;
            }
            console.expect("[pets] pet: has ended", limit)?;
            console.expect("pets: is off", limit)
        })?;
        says(&log, "[again] watchdog: 0 (1 to 5 s)")?;
        says(&log, "once: stays off (hypha,on-crash)")?;
        for vm in ["again", "once"] {
            // Where it spins: in its RAM, with all interrupts masked.
            says(&log, &format!("{vm}: CPU 0: PC 0x00000000400"))?;
            says(&log, &format!("{vm}: SCTLR_EL1 "))?;
        }
        if log.matches("[once] hang: begins").count() != 1 || log.contains("pets: hung") {
            bail!("the wrong one hung, or started anew");
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

    pub(super) fn tree(&self) -> std::path::PathBuf {
        paths::hypha().join("tests/type1.dtb")
    }
}

/// Where QEMU's loader puts the partial device tree: below the other modules.
const PARTIAL_AT: u32 = 0xb000_0000;

/// The first page of QEMU's virtio-mmio transports, which is
/// eight of them.
fn transports() -> Vec<Node> {
    let transport = |nth: u32| {
        let at = 0x0a00_0000 + 0x200 * nth;
        let node = Node::new(format!("virtio_mmio@{at:x}"))
            .text("compatible", "virtio,mmio")
            .wide("reg", &[at.into(), 0x200])
            .cells("interrupt-parent", &[65000])
            .cells("interrupts", &[0, 16 + nth, 1])
            .flag("dma-coherent")
            .text("xen,path", &format!("/virtio_mmio@{at:x}"))
            .flag("xen,force-assign-without-iommu");
        if nth == 0 { node.wide("xen,reg", &[at.into(), 0x1000, at.into()]) } else { node }
    };
    (0..8).map(transport).collect()
}

/// QEMU's real-time clock.
pub(super) fn clock() -> Node {
    const AT: u64 = 0x0901_0000;
    Node::new(format!("pl031@{AT:x}"))
        .texts("compatible", &["arm,pl031", "arm,primecell"])
        .wide("reg", &[AT, 0x1000])
        .cells("interrupt-parent", &[65000])
        .cells("interrupts", &[0, 2, 4])
        .text("xen,path", &format!("/pl031@{AT:x}"))
        .wide("xen,reg", &[AT, 0x1000, AT])
}

/// A partial device tree in the machine's memory: its module's node, and what `-device` wants.
pub(super) fn partial_tree(devices: Vec<Node>) -> Result<(Node, String)> {
    let bus = Node::new("passthrough")
        .text("compatible", "simple-bus")
        .flag("ranges")
        .cells("#address-cells", &[2])
        .cells("#size-cells", &[2]);
    let bus = devices.into_iter().fold(bus, Node::child);
    let root = Node::new("").cells("#address-cells", &[2]).cells("#size-cells", &[2]);
    let tree = root.child(bus).write()?;
    let dir = paths::hypha().join("tests");
    std::fs::create_dir_all(&dir)?;
    let file = dir.join("type1.partial.dtb");
    std::fs::write(&file, &tree)?;
    let module = Node::new(format!("module@{PARTIAL_AT:x}"))
        .texts("compatible", &["multiboot,device-tree", "multiboot,module"])
        .cells("reg", &[0, PARTIAL_AT, u32::try_from(tree.len())?]);
    let loader = format!("loader,file={},addr={PARTIAL_AT:#x},force-raw=on", file.display());
    Ok((module, loader))
}

/// How many exceptions QEMU's log (`-d int`) says that took CPU `cpu` from a guest to EL2.
fn exits_to_el2(trace: &str, cpu: u32) -> usize {
    let begins = format!("on CPU {cpu}");
    let mut here = false;
    let mut exits = 0;
    for line in trace.lines() {
        if line.starts_with("Taking exception") {
            here = line.ends_with(&begins);
        } else if here && line.starts_with("...from EL1 to EL2") {
            exits += 1;
        }
    }
    exits
}

/// From power-on to the VM's first instruction: the log's time, which is counted in
/// instructions of all CPUs, and idle time.
fn starts_within(log: &str, vm: &str, limit: u64) -> Result<()> {
    let text = format!("] {vm}: starts, ");
    let line = log.lines().find(|line| line.contains(&text)).context("the VM never starts")?;
    let time = line.trim_start_matches('[').split(']').next().unwrap_or_default().trim();
    let (seconds, micros) = time.split_once('.').context("the log has no times")?;
    let instructions = seconds.parse::<u64>()? * 1_000_000_000 + micros.parse::<u64>()? * 1000;
    ui::note(format!("{vm} starts after {instructions} instructions"));
    if instructions > limit {
        bail!("{vm} starts after {instructions} instructions, and not {limit}");
    }
    Ok(())
}

/// What isn't the guests' when all are up: KiB.
fn takes_at_most(log: &str, limit: u64) -> Result<()> {
    let (_, rest) =
        log.split_once("all virtual machines are up, ").context("the VMs never are up")?;
    let text = rest.lines().next().unwrap_or_default();
    let kib: u64 = text.split(' ').next().unwrap_or_default().parse()?;
    ui::note(text);
    if kib > limit {
        bail!("{kib} KiB are not the guests', and not at most {limit}");
    }
    Ok(())
}

/// What the real-time guest reports, every second: no tick was missed, and no interrupt came
/// that isn't its own. It is the one that started, and counts since then.
pub(super) fn no_tick_missed(log: &str) -> Result<()> {
    let starts = log.matches("] rt: starts, ").count();
    if starts != 1 {
        bail!("the real-time guest starts {starts} times");
    }
    if let Some(line) = log.lines().find(|l| l.contains("rt: crashed") || l.contains("rt: resets"))
    {
        bail!("the real-time guest is no longer the same: {line}");
    }
    // Where the log was cut off isn't the end of a line.
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let reports: Vec<_> = whole.lines().filter(|line| line.contains(" ticks, ")).collect();
    if reports.is_empty() {
        bail!("the real-time guest reports nothing");
    }
    match reports.iter().find(|line| !line.contains(" 0 missed, 0 strange")) {
        Some(line) => bail!("ticks were missed, or interrupts were strange: {line}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks() {
        let start = "[    0.004068] rt: starts, 1 CPUs on 0x8, 16 MiB\n";
        let report = "[rt] rt: 1000 ticks, 0 missed, 0 strange, late by 1 ns, at most 2 ns\n";
        let log = format!("{start}{report}{report}");
        assert!(no_tick_missed(&log).is_ok());
        for (old, new) in [
            (start, String::new()),
            (start, start.repeat(2)),
            (start, format!("{start}[    1.0] rt: crashed: virtual CPU 0: x\n")),
            (report, String::new()),
            ("0 missed", "1 missed".into()),
            ("0 strange", "1 strange".into()),
        ] {
            assert!(no_tick_missed(&log.replace(old, &new)).is_err(), "{old}: {new}");
        }
        assert!(no_tick_missed(&format!("{log}[rt] rt: 1000 ticks, 0 mi")).is_ok());
        assert!(no_tick_missed(&format!("{start}{}", report.trim_end())).is_err());
    }
}
