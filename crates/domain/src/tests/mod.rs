//! Trees written here, read back.

mod fuzz;
mod guest;
mod passthrough;
mod reading;

use crate::claims::{Machine, SetAside};
use crate::{Domain, OnCrash, Placement, Region, Writer};
use alloc::string::ToString;
use alloc::vec::Vec;

/// A domain that can be built.
pub fn domain(name: &str) -> Domain {
    Domain {
        name: name.to_string(),
        cpus: 1,
        memory: 64 << 20,
        console: true,
        nr_spis: None,
        direct_map: false,
        static_memory: Vec::new(),
        kernel: Region::new(0x4800_0000, 0x10_0000),
        kernel_node: std::format!("/chosen/{name}/module@48000000"),
        bootargs: "console=ttyAMA0".into(),
        ramdisk: None,
        partial_tree: None,
        shared_memory: Vec::new(),
        placement: Placement::Shared,
        host_cpus: Vec::new(),
        priority: None,
        on_crash: OnCrash::Restart,
        watchdog: None,
    }
}

/// Writes a domain's node as an image builder would.
pub fn domain_node(w: &mut Writer, name: &str, more: impl FnOnce(&mut Writer)) {
    w.node(name, |w| {
        w.text("compatible", "xen,domain");
        w.cells("#address-cells", &[2]);
        w.cells("#size-cells", &[1]);
        w.wide("memory", &[65536]);
        w.cells("cpus", &[1]);
        more(w);
        w.node("module@48000000", |w| {
            w.texts("compatible", &["multiboot,kernel", "multiboot,module"]);
            w.cells("reg", &[0, 0x4800_0000, 0x10_0000]);
            w.text("bootargs", "console=ttyAMA0");
        });
    });
}

/// A machine's tree with this below `/chosen`.
pub fn machine(chosen: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut w = Writer::default();
    w.node("", |w| {
        w.cells("#address-cells", &[2]);
        w.cells("#size-cells", &[2]);
        w.cells("interrupt-parent", &[1]);
        w.node("chosen", |w| {
            w.cells("#address-cells", &[2]);
            w.cells("#size-cells", &[2]);
            chosen(w);
        });
        w.node("intc@8000000", |w| {
            w.text("compatible", "arm,gic-v3");
            w.cells("phandle", &[1]);
        });
        w.node("virtio_mmio@a000000", |w| {
            w.text("compatible", "virtio,mmio");
            w.wide("reg", &[0xa00_0000, 0x200]);
            w.cells("interrupts", &[0, 16, 1]);
        });
        for (name, compatible, at) in [
            ("pl061@9030000", &["arm,pl061", "arm,primecell"], 0x903_0000),
            ("pl011@9040000", &["arm,pl011", "arm,primecell"], 0x904_0000),
            ("serial@9050000", &["vendor,dma-uart", "arm,pl011"], 0x905_0000),
        ] {
            w.node(name, |w| {
                w.texts("compatible", compatible);
                w.wide("reg", &[at, 0x1000]);
            });
        }
        w.node("pl031@9010000", |w| {
            w.texts("compatible", &["arm,pl031", "arm,primecell"]);
            w.wide("reg", &[0x901_0000, 0x1000]);
            w.cells("interrupts", &[0, 2, 4]);
        });
    });
    w.finish().unwrap()
}

/// What of RAM is set aside for these.
pub fn set_aside(domains: &[crate::Domain], machine: &Machine<'_>) -> Vec<crate::Region> {
    let mut set_aside = SetAside::new(machine);
    domains.iter().for_each(|domain| set_aside.add(domain));
    set_aside.finish()
}
