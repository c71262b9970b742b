//! The device tree that a guest gets.

use crate::passthrough::{self, GIC_PHANDLE, Passthrough};
use crate::{Domain, Problem, Region, SharedMemory, Writer, image, layout};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use fdt::Fdt;

/// What the tree describes.
#[derive(Clone, Copy, Debug)]
pub struct Guest<'a> {
    /// The domain.
    pub domain: &'a Domain,
    /// Its RAM, by the guest's addresses.
    pub memory: &'a [Region],
    /// A GICv3, or a GICv2.
    pub v3: bool,
    /// Where the ramdisk is in the guest.
    pub ramdisk: Option<Region>,
    /// Its partial device tree, and what that asks for.
    pub passthrough: Option<(&'a Passthrough, Fdt<'a>)>,
    /// Entropy for the guest's random number generator. Empty: none.
    pub rng_seed: &'a [u8],
    /// Entropy for where the guest's kernel puts itself. 0: none.
    pub kaslr_seed: u64,
}

const SPI: u32 = 0;
const PPI: u32 = 1;
const LEVEL_HIGH: u32 = 4;
/// The secure, physical, virtual and hypervisor timer's PPIs, as
/// device trees count them: INTIDs 29, 30, 27, 26.
const TIMERS: [u32; 4] = [13, 14, 11, 10];
/// What a PL011's baud rate is computed from.
const CLOCK_HZ: u32 = 24_000_000;

/// Writes it.
pub fn build(guest: &Guest<'_>) -> Result<Vec<u8>, Problem> {
    let path = || format!("/chosen/{}", guest.domain.name);
    if guest.domain.bootargs.contains('\0') {
        return Err(Problem::property(path(), "bootargs", "has a NUL in it"));
    }
    let tree = write(guest);
    tree.filter(|tree| tree.len() as u64 <= image::TREE_MAX)
        .ok_or_else(|| Problem::node(path(), "its device tree is larger than 2 MiB"))
}

fn write(guest: &Guest<'_>) -> Option<Vec<u8>> {
    let gic = guest.passthrough.map_or(GIC_PHANDLE, |(p, _)| p.gic_phandle);
    let clock = guest.passthrough.map_or(GIC_PHANDLE.saturating_add(1), |(p, _)| {
        p.free_phandle(GIC_PHANDLE.saturating_add(1))
    });
    let mut writer = Writer::default();
    writer.node("", |w| {
        w.texts("compatible", &["hypha,domain", "linux,dummy-virt"]);
        w.text("model", &guest.domain.name);
        w.cells("#address-cells", &[2]);
        w.cells("#size-cells", &[2]);
        w.cells("interrupt-parent", &[gic]);
        chosen(w, guest);
        aliases(w, guest);
        cpus(w, guest.domain.cpus);
        for bank in guest.memory {
            memory(w, bank);
        }
        if !guest.domain.shared_memory.is_empty() {
            shared_memory(w, &guest.domain.shared_memory);
        }
        w.node("psci", |w| {
            w.texts("compatible", &["arm,psci-1.0", "arm,psci-0.2"]);
            w.text("method", "hvc");
        });
        interrupt_controller(w, guest, gic);
        timer(w, guest);
        if let Some(seconds) = guest.domain.watchdog {
            watchdog(w, seconds);
        }
        if guest.domain.console {
            pl011(w, clock);
        }
        if let Some((_, fragment)) = &guest.passthrough {
            passthrough::copy(w, fragment);
        }
    });
    writer.finish()
}

fn chosen(w: &mut Writer, guest: &Guest<'_>) {
    w.node("chosen", |w| {
        w.text("bootargs", &guest.domain.bootargs);
        if guest.domain.console {
            w.text("stdout-path", &pl011_path());
        }
        if let Some(ramdisk) = guest.ramdisk {
            w.wide("linux,initrd-start", &[ramdisk.start]);
            w.wide("linux,initrd-end", &[ramdisk.end()]);
        }
        if !guest.rng_seed.is_empty() {
            w.property("rng-seed", guest.rng_seed);
        }
        if guest.kaslr_seed != 0 {
            w.wide("kaslr-seed", &[guest.kaslr_seed]);
        }
    });
}

fn aliases(w: &mut Writer, guest: &Guest<'_>) {
    if let Some((_, fragment)) = &guest.passthrough {
        w.node("aliases", |w| passthrough::copy_aliases(w, fragment));
    } else if guest.domain.console {
        w.node("aliases", |w| w.text("serial0", &pl011_path()));
    }
}

fn cpus(w: &mut Writer, count: u32) {
    w.node("cpus", |w| {
        w.cells("#address-cells", &[1]);
        w.cells("#size-cells", &[0]);
        for index in 0..count {
            let mpidr = u32::try_from(layout::mpidr(index)).unwrap_or(0);
            w.node(&format!("cpu@{mpidr:x}"), |w| {
                w.text("device_type", "cpu");
                w.text("compatible", "arm,armv8");
                w.cells("reg", &[mpidr]);
                w.text("enable-method", "psci");
            });
        }
    });
}

fn memory(w: &mut Writer, bank: &Region) {
    w.node(&format!("memory@{:x}", bank.start), |w| {
        w.text("device_type", "memory");
        w.wide("reg", &[bank.start, bank.size]);
    });
}

/// Linux's Documentation/devicetree/bindings/reserved-memory/xen,shared-memory.txt.
fn shared_memory(w: &mut Writer, list: &[SharedMemory]) {
    w.node("reserved-memory", |w| {
        w.cells("#address-cells", &[2]);
        w.cells("#size-cells", &[2]);
        w.flag("ranges");
        for shared in list {
            w.node(&format!("xen-shmem@{:x}", shared.guest), |w| {
                w.text("compatible", "xen,shared-memory-v1");
                w.wide("reg", &[shared.guest, shared.size]);
                w.text("xen,id", &shared.id);
            });
        }
    });
}

fn interrupt_controller(w: &mut Writer, guest: &Guest<'_>, phandle: u32) {
    let (compatible, frames) = if guest.v3 {
        let size = u64::from(guest.domain.cpus).saturating_mul(layout::GICR_SIZE);
        let redistributors = Region::new(layout::GICV3_GICR.start, size);
        ("arm,gic-v3", [layout::GICV3_GICD, redistributors])
    } else {
        ("arm,gic-400", [layout::GICV2_GICD, layout::GICV2_GICC])
    };
    let [gicd, other] = frames;
    w.node(&format!("interrupt-controller@{:x}", gicd.start), |w| {
        w.text("compatible", compatible);
        w.wide("reg", &[gicd.start, gicd.size, other.start, other.size]);
        w.flag("interrupt-controller");
        w.cells("#interrupt-cells", &[3]);
        w.cells("#address-cells", &[0]);
        w.cells("phandle", &[phandle]);
    });
}

fn timer(w: &mut Writer, guest: &Guest<'_>) {
    // A GICv2's flags have a mask of CPUs in them.
    let cpus = guest.domain.cpus.min(layout::CPUS_MAX_GICV2);
    let mask = if guest.v3 { 0 } else { (1u32 << cpus).wrapping_sub(1) << 8 };
    let cells: Vec<u32> = TIMERS.iter().flat_map(|ppi| [PPI, *ppi, mask | LEVEL_HIGH]).collect();
    w.node("timer", |w| {
        w.text("compatible", "arm,armv8-timer");
        w.cells("interrupts", &cells);
        w.flag("always-on");
    });
}

/// By SMC: the binding has no other way. Its function is the binding's default.
fn watchdog(w: &mut Writer, seconds: u32) {
    w.node("watchdog", |w| {
        w.text("compatible", "arm,smc-wdt");
        w.cells("timeout-sec", &[seconds]);
    });
}

fn pl011_path() -> String {
    format!("/pl011@{:x}", layout::PL011.start)
}

fn pl011(w: &mut Writer, clock: u32) {
    w.node("uart-clock", |w| {
        w.text("compatible", "fixed-clock");
        w.cells("#clock-cells", &[0]);
        w.cells("clock-frequency", &[CLOCK_HZ]);
        w.cells("phandle", &[clock]);
    });
    w.node(&format!("pl011@{:x}", layout::PL011.start), |w| {
        w.texts("compatible", &["arm,pl011", "arm,primecell"]);
        w.wide("reg", &[layout::PL011.start, layout::PL011.size]);
        w.cells("interrupts", &[SPI, layout::PL011_SPI, LEVEL_HIGH]);
        w.cells("clocks", &[clock, clock]);
        w.texts("clock-names", &["uartclk", "apb_pclk"]);
    });
}
