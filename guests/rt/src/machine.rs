//! The machine, from the device tree.

use crate::{gic, serial};
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

/// The most CPUs that a guest here uses.
pub const CPUS: usize = 8;

/// What the guests want to know.
#[derive(Debug)]
pub struct Machine {
    /// MPIDR affinities.
    pub cpus: [u64; CPUS],
    /// How many there are.
    pub cpu_count: usize,
    /// The GIC's distributor, 0 without one.
    pub gicd: u64,
    /// The redistributors, 0 without a GICv3.
    pub gicr: u64,
    /// The CPU interface, 0 without a GICv2.
    pub gicc: u64,
    /// The serial port.
    pub uart: u64,
    /// It is a PL011, not a 16550.
    pub pl011: bool,
    /// The PL031, or 0.
    pub rtc: u64,
    /// The first virtio-mmio slot, or 0.
    pub virtio: u64,
    /// Its interrupt, or 0.
    pub virtio_spi: u32,
    /// PSCI by SMC.
    pub smc: bool,
    /// RAM's first byte and the one after its last.
    pub ram: (u64, u64),
    /// The first byte of RAM that nothing was loaded to.
    pub free: u64,
    /// The command line.
    pub bootargs: &'static str,
}

impl Machine {
    /// The value of `key=` on the command line.
    pub fn argument(&self, key: &str) -> Option<&'static str> {
        self.bootargs
            .split_ascii_whitespace()
            .find_map(|w| w.strip_prefix(key).and_then(|w| w.strip_prefix('=')))
    }

    /// A number on the command line.
    pub fn number(&self, key: &str, default: u64) -> u64 {
        self.argument(key).and_then(|v| v.parse().ok()).unwrap_or(default)
    }
}

static MACHINE: Once = Once(core::cell::UnsafeCell::new(None));

struct Once(core::cell::UnsafeCell<Option<Machine>>);

// SAFETY: written once, before there is a second CPU.
unsafe impl Sync for Once {}

fn cell64(bytes: &[u8], i: usize) -> u64 {
    bytes.get(8 * i..8 * i + 8).map_or(0, |b| b.iter().fold(0, |v, b| v << 8 | u64::from(*b)))
}

fn reg(node: &FdtNode<'_>, i: usize) -> u64 {
    node.property("reg").map_or(0, |p| cell64(p.value(), i))
}

fn is(node: &FdtNode<'_>, what: &str) -> bool {
    node.property("compatible")
        .is_some_and(|p| p.value().split(|b| *b == 0).any(|c| c == what.as_bytes()))
}

pub(crate) fn read(device_tree: u64, image: u64) -> &'static Machine {
    unsafe extern "C" {
        static __image_end: u8;
    }
    let end = (&raw const __image_end) as u64;
    let mut m = Machine {
        cpus: [0; CPUS],
        cpu_count: 0,
        gicd: 0,
        gicr: 0,
        gicc: 0,
        uart: 0,
        pl011: false,
        rtc: 0,
        virtio: 0,
        virtio_spi: 0,
        smc: false,
        ram: (image, end),
        free: end,
        bootargs: "",
    };
    // SAFETY: the boot protocol's promise; the header is checked.
    let tree: Option<Fdt<'static>> = unsafe { Fdt::from_raw(device_tree as *const u8).ok() };
    if let Some(tree) = tree {
        m.free = m.free.max(device_tree + tree.data().len() as u64);
        for node in tree.root().children() {
            walk(&node, &mut m);
        }
    }
    m.free = m.free.next_multiple_of(2 << 20);
    serial::set(m.uart, m.pl011);
    gic::set(&m);
    // SAFETY: one CPU, and nobody has a reference yet.
    let slot = unsafe { &mut *MACHINE.0.get() };
    slot.insert(m)
}

fn walk(node: &FdtNode<'static>, m: &mut Machine) {
    let name = node.name();
    if name.starts_with("memory@") {
        m.ram = (reg(node, 0), reg(node, 0) + reg(node, 1));
    } else if name == "chosen" {
        if let Some(p) = node.property("bootargs") {
            let value: *const [u8] = p.value();
            // SAFETY: it points into the device tree, which stays where it is.
            let text = core::str::from_utf8(unsafe { &*value }).unwrap_or("");
            m.bootargs = text.trim_end_matches('\0');
        }
    } else if name == "cpus" {
        for cpu in node.children().filter(|c| c.name().starts_with("cpu@")) {
            if let (Some(slot), Some(p)) = (m.cpus.get_mut(m.cpu_count), cpu.property("reg")) {
                *slot = p.value().iter().fold(0, |v, b| v << 8 | u64::from(*b));
                m.cpu_count += 1;
            }
        }
    } else if name == "psci" {
        m.smc = node.property("method").is_some_and(|p| p.value() == b"smc\0");
    } else if is(node, "arm,gic-v3") {
        (m.gicd, m.gicr) = (reg(node, 0), reg(node, 2));
    } else if is(node, "arm,cortex-a15-gic") || is(node, "arm,gic-400") {
        (m.gicd, m.gicc) = (reg(node, 0), reg(node, 2));
    } else if is(node, "ns16550a") || is(node, "ns16550") {
        (m.uart, m.pl011) = (reg(node, 0), false);
    } else if (is(node, "arm,pl011") || is(node, "arm,sbsa-uart")) && m.uart == 0 {
        // Xen's is an SBSA UART: a PL011 that needs no setting up.
        (m.uart, m.pl011) = (reg(node, 0), true);
    } else if is(node, "arm,pl031") {
        m.rtc = reg(node, 0);
    } else if is(node, "virtio,mmio") {
        let at = reg(node, 0);
        if m.virtio == 0 || at < m.virtio {
            m.virtio = at;
            // Type (0: SPI), number, flags.
            let cell = |p: &[u8]| p.iter().fold(0, |v, b| v << 8 | u32::from(*b));
            let spi = node.property("interrupts").and_then(|p| p.value().get(4..8).map(cell));
            m.virtio_spi = spi.map_or(0, |spi| spi + 32);
        }
    } else if is(node, "simple-bus") {
        for child in node.children() {
            walk(&child, m);
        }
    }
}
