//! CPU models: what the kernel says of their flaws is what Debian's kernel says.

use super::{Bench, Needs, SystemTest, options};
use crate::console::{Keyboard, Wait};
use crate::machine::Machine;
use crate::{initramfs, paths, run};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::time::Duration;

pub const TESTS: &[SystemTest] = &[
    SystemTest {
        name: "cpus: neoverse-n1's vulnerabilities are named as on Linux",
        needs: Needs::UserSpace,
        long: false,
        run: |bench| bench.vulnerabilities("neoverse-n1", "spectre_v2: Mitigation: CSV2, BHB"),
    },
    SystemTest {
        name: "cpus: cortex-a72's vulnerabilities are named as on Linux",
        needs: Needs::UserSpace,
        long: true,
        run: |bench| bench.vulnerabilities("cortex-a72", "spectre_v2: Vulnerable"),
    },
    SystemTest {
        name: "cpus: max's vulnerabilities are named as on Linux",
        needs: Needs::UserSpace,
        long: true,
        run: |bench| bench.vulnerabilities("max", "spectre_v2: Not affected"),
    },
    SystemTest {
        name: "cpus: guest on cortex-a55",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.boot(&run::Args { cpu: "cortex-a55".into(), ..options() }),
    },
    SystemTest {
        name: "cpus: guest on cortex-a76",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.boot(&run::Args { cpu: "cortex-a76".into(), ..options() }),
    },
    SystemTest {
        name: "cpus: guest on cortex-a710",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.boot(&run::Args { cpu: "cortex-a710".into(), ..options() }),
    },
];

const INIT: &[u8] = b"#!/bin/busybox sh
/bin/busybox mkdir -p /sys
/bin/busybox mount -t sysfs sysfs /sys
cd /sys/devices/system/cpu/vulnerabilities
for file in *; do echo \"vulnerable? $file: $(/bin/busybox cat $file)\"; done
/bin/busybox poweroff -f
";

impl Bench<'_> {
    /// The same files with the same words, and among them `this`.
    fn vulnerabilities(&self, cpu: &str, this: &str) -> Result<()> {
        let kernel = self.built.image.as_deref().context("no kernel")?;
        let ours = self.vulnerability_files(cpu, kernel)?;
        if !ours.iter().any(|line| line.ends_with(this)) {
            bail!("{this:?} is not in\n  {}", ours.join("\n  "));
        }
        let theirs = self.vulnerability_files(cpu, &self.built.guest_image)?;
        if ours != theirs {
            bail!("Linux says\n  {}\nand we\n  {}", theirs.join("\n  "), ours.join("\n  "));
        }
        Ok(())
    }

    fn vulnerability_files(&self, cpu: &str, kernel: &Path) -> Result<Vec<String>> {
        let initrd = paths::hypha().join("tests/vulnerabilities.cpio.gz");
        initramfs::write(&initrd, initramfs::parity(INIT, b"")?)?;
        let args = run::Args { cpu: cpu.into(), ..options() };
        let machine = run::machine(&args, self.built)?;
        let kernel = kernel.to_path_buf();
        let append = "console=ttyAMA0 panic=-1".into();
        let machine = Machine { kernel, initrd: Some(initrd), append, ..machine };
        let log = self.watched(&machine, Keyboard::Nobody, |console| {
            console.expect("vulnerable? vmscape", Duration::from_secs(300))?;
            match console.wait_end(Some(Duration::from_secs(60))) {
                Wait::Ended => Ok(()),
                other => bail!("after power off: {other:?}"),
            }
        })?;
        let lines = log.lines().filter(|line| line.starts_with("vulnerable? "));
        Ok(lines.map(str::to_string).collect())
    }
}
