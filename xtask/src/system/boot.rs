//! From power-on to the guest's own words, and off again: machines and modes.

use super::{Bench, Needs, SystemTest, gicv2, nvhe, options, says};
use crate::console::Keyboard;
use crate::{build, run, ui};
use anyhow::{Context, Result, bail};

pub const TESTS: &[SystemTest] = &[
    SystemTest {
        name: "boot: guest on max",
        needs: Needs::Kvm,
        long: false,
        run: |bench| bench.together(&options()),
    },
    SystemTest {
        name: "boot: guest on neoverse-n1",
        needs: Needs::Kvm,
        long: false,
        run: |bench| bench.together(&run::Args { cpu: "neoverse-n1".into(), ..options() }),
    },
    SystemTest {
        name: "boot: 4 CPUs, guest with 4 CPUs",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.together(&run::Args { smp: 4, guest_cpus: 4, ..options() }),
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
        run: |bench| bench.together(&run::Args { gic: 2, ..options() }),
    },
    SystemTest {
        name: "boot: GICv2 host with 4 CPUs, guest with 4 CPUs",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.together(&run::Args { gic: 2, smp: 4, guest_cpus: 4, ..options() }),
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
        run: |bench| bench.together(&run::Args { cpu: "cortex-a76".into(), ..options() }),
    },
    SystemTest {
        name: "boot: guest on neoverse-v1",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.together(&run::Args { cpu: "neoverse-v1".into(), ..options() }),
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
        name: "boot: guest on max, VHE left out of the build",
        needs: Needs::Kvm,
        long: true,
        run: |bench| {
            let no_vhe = build::build(&build::Args { no_vhe: true, ..build::Args::default() })?;
            let bench = Bench { built: &no_vhe, name: bench.name };
            bench.split(&options(), "this build leaves VHE out")
        },
    },
];

impl Bench<'_> {
    /// As `./x run` with these options; also wants the guest's own words.
    pub(super) fn boot(&self, args: &run::Args) -> Result<()> {
        self.boot_log(args).map(drop)
    }

    /// As [`Bench::boot`], kernel and hypervisor together at EL2.
    fn together(&self, args: &run::Args) -> Result<()> {
        let log = self.boot_log(args)?;
        says(&log, "Kernel: at EL2 (HCR_EL2.E2H=1), entered at EL2")?;
        says(
            &log,
            "Hypervisor: VHE, in the kernel: the CPU has FEAT_VHE and the Image was entered at EL2",
        )?;
        says(&log, "KVM: VHE")
    }

    /// As [`Bench::boot`], the host at EL1 for this reason.
    pub(super) fn split(&self, args: &run::Args, reason: &str) -> Result<()> {
        let log = self.boot_log(args)?;
        says(&log, "Kernel: at EL1, entered at EL2")?;
        says(&log, &format!("Hypervisor: nVHE, hyp at EL2: {reason}"))?;
        says(&log, "KVM: nVHE")
    }

    pub(super) fn boot_log(&self, args: &run::Args) -> Result<String> {
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
}
