//! Endurance: what is made and ended again and again leaves nothing behind.

use super::{Bench, Needs, SystemTest, nvhe, options, suites};
use crate::console::{Keyboard, Wait};
use crate::machine::Machine;
use crate::run;
use anyhow::{Result, bail};
use std::time::Duration;

pub const TESTS: &[SystemTest] = &[
    SystemTest {
        name: "endure: 100 VMs made, and 100 killed, and all is back",
        needs: Needs::Kvm,
        long: false,
        run: |bench| bench.endure(100, options()),
    },
    SystemTest {
        name: "endure: 100 VMs made, and 100 killed, and all is back, nVHE",
        needs: Needs::Kvm,
        long: false,
        run: |bench| bench.endure(100, nvhe()),
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
];

impl Bench<'_> {
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
        super::says(&log, "hypha-host: status 0")
    }
}
