//! Where output goes, and where devices are: `console=`, `earlycon`, and a device
//! tree whose devices stand on buses.

use super::corner::reporting_initrd;
use super::{Bench, Needs, SystemTest, plain, says};
use crate::console::{Keyboard, Wait};
use crate::fdt::Node;
use crate::machine::Machine;
use crate::{paths, type1};
use anyhow::{Context, Result, bail};
use std::time::Duration;

pub const TESTS: &[SystemTest] = &[
    SystemTest {
        name: "boot: console= and earlycon say where output goes",
        needs: Needs::UserSpace,
        long: false,
        run: |bench| {
            // The log goes to earlycon until the consoles are there; init's words
            // go nowhere.
            let log = bench.console("console=null earlycon")?;
            says(&log, "Hypervisor: ")?;
            says(&log, "earlycon: ends here")?;
            says_not(&log, "MemTotal:")?;
            // None of them: earlycon goes on.
            let log = bench.console("console=hvc0 earlycon=pl011,0x9000000")?;
            says(&log, "console=hvc0: there is no such console")?;
            says(&log, "init has no terminal")?;
            says_not(&log, "MemTotal:")?;
            // The last one that is there.
            let log = bench.console("console=ttyS0 console=ttyAMA0,115200 earlycon=sbi")?;
            says(&log, "console=ttyS0: there is no such console")?;
            says(&log, "earlycon=sbi: unknown")?;
            says(&log, "MemTotal:")
        },
    },
    SystemTest {
        name: "boot: interrupt controller and console on buses of the device tree",
        needs: Needs::UserSpace,
        long: false,
        run: |bench| bench.buses(),
    },
];

fn says_not(log: &str, text: &str) -> Result<()> {
    if log.contains(text) {
        bail!("the log says {text:?}");
    }
    Ok(())
}

impl Bench<'_> {
    /// Boots until /init powers off.
    fn console(&self, append: &str) -> Result<String> {
        let kernel = self.built.image.as_deref().context("no kernel")?;
        let append = format!("{append} panic=-1");
        self.to_its_end(&Machine { append, ..plain(kernel, reporting_initrd()?) })
    }

    fn to_its_end(&self, machine: &Machine) -> Result<String> {
        self.watched(machine, Keyboard::Nobody, |console| {
            match console.wait_end(Some(Duration::from_secs(60))) {
                Wait::Ended => Ok(()),
                other => bail!("{}: {other:?}", machine.append),
            }
        })
    }

    fn buses(&self) -> Result<()> {
        let kernel = self.built.image.as_deref().context("no kernel")?;
        let mut machine =
            Machine { append: "panic=-1".into(), ..plain(kernel, reporting_initrd()?) };
        let file = paths::hypha().join("tests/buses.dtb");
        let tree = put_on_buses(type1::own_tree(&machine, &file)?)?;
        type1::use_tree(&mut machine, &tree, &file)?;
        let log = self.to_its_end(&machine)?;
        says(&log, "CPUs: 2 of 2 up")?;
        says(&log, "MemTotal:")
    }
}

/// Moves the interrupt controller to a bus, and serial port and clock to another
/// on that.
fn put_on_buses(mut tree: Node) -> Result<Node> {
    let mut take = |name: &str| {
        let at = tree.children.iter().position(|child| child.name.starts_with(name));
        Ok::<_, anyhow::Error>(tree.children.remove(at.with_context(|| format!("no {name}"))?))
    };
    let mut gic = take("intc@")?;
    gic.children.clear();
    let (uart, clock) = (take("pl011@")?, take("pl031@")?);
    let path = format!("/soc/apb/{}", uart.name);
    let bus = |name: &str, ranges: &[u32]| {
        let bus = Node::new(name).texts("compatible", &["simple-bus"]);
        bus.cells("#address-cells", &[1]).cells("#size-cells", &[1]).cells("ranges", ranges)
    };
    let at = |node: Node, reg: &[u32]| {
        let bytes: Vec<u8> = reg.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        node.bytes("reg", bytes)
    };
    let apb = bus("apb", &[0, 0x0100_0000, 0x2_0000])
        .child(at(uart, &[0, 0x1000]))
        .child(at(clock, &[0x1_0000, 0x1000]));
    let soc = bus("soc", &[0, 0, 0x0800_0000, 0x0200_0000])
        .child(at(gic, &[0, 0x1_0000, 0xa_0000, 0xf6_0000]))
        .child(apb);
    tree.children.push(soc);
    let text = |path: &str| [path.as_bytes(), &[0]].concat();
    tree.find("chosen").context("no /chosen")?.set("stdout-path", text(&path));
    tree.find("aliases").context("no /aliases")?.set("serial0", text(&path));
    Ok(tree)
}
