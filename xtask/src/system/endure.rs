//! Endurance: what is made and ended again and again leaves nothing behind.

use super::{Bench, Needs, SystemTest, nvhe, options, says, suites};
use crate::console::{Keyboard, Wait};
use crate::machine::Machine;
use crate::run;
use anyhow::{Result, bail};
use std::time::Duration;

pub const TESTS: &[SystemTest] = &[
    SystemTest {
        name: "endure: 50 VMs made, and 50 killed, and all is back",
        needs: Needs::Kvm,
        long: false,
        run: |bench| bench.endure(50, options()),
    },
    SystemTest {
        name: "endure: 50 VMs made, and 50 killed, and all is back, nVHE",
        needs: Needs::Kvm,
        long: false,
        run: |bench| bench.endure(50, nvhe()),
    },
    SystemTest {
        name: "endure: 1000 VMs made, and 1000 killed, and all is back",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.endure(1000, options()),
    },
    SystemTest {
        name: "endure: 1000 VMs made, and 1000 killed, and all is back, nVHE",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.endure(1000, nvhe()),
    },
    SystemTest {
        name: "endure: a guest with 8 CPUs on 4 works in parallel, once",
        needs: Needs::Kvm,
        long: false,
        run: |bench| bench.parallel(1, options()),
    },
    SystemTest {
        name: "endure: a guest with 8 CPUs on 4 works in parallel, once, nVHE",
        needs: Needs::Kvm,
        long: false,
        run: |bench| bench.parallel(1, nvhe()),
    },
    SystemTest {
        name: "endure: a guest with 8 CPUs on 4 works in parallel, 20 rounds",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.parallel(20, options()),
    },
    SystemTest {
        name: "endure: a guest with 8 CPUs on 4 works in parallel, 20 rounds, nVHE",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.parallel(20, nvhe()),
    },
    SystemTest {
        name: "endure: 20 guests at once in 2 GiB",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.crowd(options()),
    },
    SystemTest {
        name: "endure: 20 guests at once in 2 GiB, nVHE",
        needs: Needs::Kvm,
        long: true,
        run: |bench| bench.crowd(nvhe()),
    },
];

impl Bench<'_> {
    /// In one boot of host and guest; neither may complain of a stall.
    fn parallel(&self, rounds: u32, args: run::Args) -> Result<()> {
        // Quiet: a console's first flush of everything is long, and not what counts here.
        let append = format!("hypha.guest=quiet,hypha.parallel={rounds}");
        let args = run::Args { smp: 4, guest_cpus: 8, append, timeout: 3600, ..args };
        let log = self.boot_log(&args)?;
        let last = format!("hypha-guest: parallel: round {rounds} of {rounds} done");
        if let Some(failure) = log.lines().find(|line| line.contains("hypha-guest: FAIL")) {
            bail!("{failure}");
        }
        says(&log, &last)
    }

    /// Debian guests of 80 MiB, on 4 CPUs.
    fn crowd(&self, args: run::Args) -> Result<()> {
        self.script_with("/hypha/tests/crowd-test,20,80", run::Args { smp: 4, mem: 2048, ..args })
    }

    fn endure(&self, rounds: u32, args: run::Args) -> Result<()> {
        let append = format!("quiet hypha.run=/hypha/tests/endure,{rounds}");
        let args = run::Args { mem: 1024, append, ..args };
        let initrd = Some(suites::initrd(self.built)?);
        let machine = Machine { initrd, ..run::machine(&args, self.built)? };
        let log = self.watched(&machine, Keyboard::Nobody, |console| {
            console.expect("hypha-host: status ", Duration::from_secs(3600))?;
            match console.wait_end(Some(Duration::from_secs(60))) {
                Wait::Ended => Ok(()),
                other => bail!("after the rounds: {other:?}"),
            }
        })?;
        let failures: Vec<_> = log.lines().filter(|line| line.starts_with("FAIL ")).collect();
        if !failures.is_empty() || log.contains("\nskip ") {
            bail!("a round left something behind\n  {}", failures.join("\n  "));
        }
        says(&log, "hypha-host: status 0")
    }
}
