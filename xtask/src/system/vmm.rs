//! The VMM, by scripts in the host's initramfs: bad input, and a sudden end.

use super::{Bench, Needs, SystemTest, nvhe, options};
use crate::console::{Keyboard, Wait};
use crate::run;
use anyhow::{Result, bail};
use std::path::PathBuf;
use std::time::Duration;

pub const TESTS: &[SystemTest] = &[
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
];

impl Bench<'_> {
    /// A script in the host's initramfs, instead of a guest.
    pub(super) fn script(&self, command: &str, image: Option<&str>) -> Result<()> {
        self.script_with(command, run::Args { image: image.map(PathBuf::from), ..options() })
    }

    pub(super) fn script_with(&self, command: &str, args: run::Args) -> Result<()> {
        let args = run::Args { append: format!("hypha.run={command}"), ..args };
        let machine = run::machine(&args, self.built)?;
        let log = self.watched(&machine, Keyboard::Nobody, |console| {
            console.expect("hypha-host: status ", Duration::from_secs(2400))?;
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
}
