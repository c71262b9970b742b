//! Guests without an operating system, which say what they found.

use super::{Bench, Needs, SystemTest, gicv2, nvhe, options, says};
use crate::console::Keyboard;
use crate::{build, run};
use anyhow::{Result, bail};

pub const TESTS: &[SystemTest] = &[
    SystemTest {
        name: "guest: conformance",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.bare_guest("guest-conformance", " passed, 0 failed", &options()),
    },
    SystemTest {
        name: "guest: conformance, nVHE",
        needs: Needs::Kvm,
        long: true,
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
        name: "guest: attack",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.bare_guest("guest-attack", "ok attack.survived", &options()),
    },
    SystemTest {
        name: "guest: conformance on GICv2",
        needs: Needs::Kvm,
        long: true,
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
        name: "guest: attack, nVHE",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.bare_guest_with("guest-attack", "ok attack.survived", nvhe()),
    },
    SystemTest {
        name: "bench: /init runs within 100 million instructions of power-on",
        needs: Needs::UserSpace,
        long: false,
        run: |bench| {
            let count = crate::bench::boot::instructions_to_init(bench.built)?;
            crate::ui::note(format!("{count} instructions, with 1 MiB of initramfs"));
            if count > 100_000_000 {
                anyhow::bail!("{count} instructions");
            }
            Ok(())
        },
    },
    SystemTest {
        name: "bench: no exit costs more than is recorded",
        needs: Needs::Kvm,
        long: false,
        run: |bench| crate::bench::gate::check(bench.built),
    },
    SystemTest {
        name: "bench: a hypercall's exception levels",
        needs: Needs::Kvm,
        long: false,
        run: |bench| crate::bench::promises::levels(bench.built),
    },
    SystemTest {
        name: "bench: a Debian guest's boot on neoverse-n1, in exits and instructions",
        needs: Needs::Kvm,
        long: false,
        run: |bench| crate::bench::promises::guest_boot(bench.built),
    },
    SystemTest {
        name: "bench: no operation takes more than on Linux or on Xen",
        needs: Needs::Kvm,
        long: true,
        run: |bench| crate::bench::promises::others(bench.built),
    },
];

impl Bench<'_> {
    /// A guest without an operating system, which says what it found.
    pub(super) fn bare_guest(&self, package: &str, verdict: &str, on: &run::Args) -> Result<()> {
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
}
