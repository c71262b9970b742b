//! The same tests on Debian's kernel: what they want is what Linux gives.

use super::{Needs, SystemTest, gicv2, options};
use crate::run;

pub const TESTS: &[SystemTest] = &[
    SystemTest {
        name: "linux: kvm-tests on Debian's kernel",
        needs: Needs::Nothing,
        long: true,
        run: |bench| bench.program("kvm-tests", Some(&bench.built.guest_image)),
    },
    SystemTest {
        name: "linux: el0-tests on Debian's kernel",
        needs: Needs::Nothing,
        long: true,
        run: |bench| bench.program("el0-tests", Some(&bench.built.guest_image)),
    },
    SystemTest {
        name: "linux: guest conformance on GICv2",
        needs: Needs::Vmm,
        long: true,
        run: |bench| bench.bare_guest("guest-conformance", " passed, 0 failed", &gicv2(debian())),
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

fn debian() -> run::Args {
    run::Args { image: Some("debian".into()), ..options() }
}
