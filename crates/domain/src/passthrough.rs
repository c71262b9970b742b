//! Partial device trees: the machine's devices that a domain gets
//! (Xen's docs/misc/arm/passthrough.txt).

use crate::image::TREE_MAX;
use crate::nodes::{cell_counts, cells, one_cell, text};
use crate::{Domain, Problem, Region, Writer};
use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use devices::Registers;
use fdt::{Fdt, Node};

/// The phandle of a guest's interrupt controller, where the partial tree has no
/// `/gic` that says another (Xen's GUEST_PHANDLE_GIC).
pub const GIC_PHANDLE: u32 = 65000;

/// Nodes within nodes: the kernel's stack is small.
const DEPTH_MAX: usize = 8;
const LIST_MAX: usize = 256;

/// What a domain's partial device tree asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passthrough {
    /// Registers.
    pub mappings: Vec<Mapping>,
    /// Interrupts; the guest has them by the same number.
    pub interrupts: Vec<Interrupt>,
    /// The paths of devices that may write memory of their own accord: without an IOMMU
    /// the guest is trusted.
    pub may_dma: Vec<String>,
    /// The guest's interrupt controller has this phandle.
    pub gic_phandle: u32,
    /// All phandles of the partial tree.
    pub phandles: Vec<u32>,
}

/// Registers of a device: whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The machine's addresses.
    pub host: Region,
    /// The guest's address.
    pub guest: u64,
}

/// An interrupt of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// INTID, here and there.
    pub intid: u32,
    /// Edge-triggered.
    pub edge: bool,
}

/// The tree in a module: the boot loader may have left more room than it needs. A guest's
/// tree has no more than [`TREE_MAX`] bytes, and this is a part of it.
pub fn fragment<'a>(domain: &Domain, module: &'a [u8]) -> Result<Fdt<'a>, Problem> {
    let fault = |what| Problem::node(path(domain), what);
    let total = fdt::total_size(module);
    if total.is_some_and(|total| total as u64 > TREE_MAX) {
        return Err(fault("its multiboot,device-tree is larger than 2 MiB"));
    }
    total
        .and_then(|total| module.get(..total))
        .and_then(|bytes| Fdt::new(bytes).ok())
        .ok_or_else(|| fault("its multiboot,device-tree is no device tree"))
}

fn path(domain: &Domain) -> String {
    format!("/chosen/{}", domain.name)
}

/// Reads a domain's partial tree, and what the machine's own says of the devices
/// that it names.
pub fn read(
    domain: &Domain,
    fragment: &Fdt<'_>,
    machine: &Fdt<'_>,
) -> Result<Passthrough, Vec<Problem>> {
    let mut reader = Reader {
        prefix: format!("{}'s multiboot,device-tree: ", path(domain)),
        direct_map: domain.direct_map,
        machine: *machine,
        host: Host::new(machine),
        out: Passthrough {
            mappings: Vec::new(),
            interrupts: Vec::new(),
            may_dma: Vec::new(),
            gic_phandle: GIC_PHANDLE,
            phandles: Vec::new(),
        },
        problems: Vec::new(),
    };
    let root = fragment.root();
    let gic = root.child("gic").and_then(|gic| phandle(&gic));
    reader.out.gic_phandle = gic.unwrap_or(GIC_PHANDLE);
    match root.child("passthrough") {
        Some(node) => match cell_counts(&root) {
            // The guest's root names its GIC.
            Some(counts) => reader.walk(&node, "", counts, true, 0),
            None => reader.fault("/", "#address-cells", "is malformed"),
        },
        None => reader.fault("/passthrough", "compatible", "is missing: there is no such node"),
    }
    if reader.out.phandles.contains(&reader.out.gic_phandle) {
        reader.fault("/gic", "phandle", "is another node's, too");
    }
    if reader.problems.is_empty() { Ok(reader.out) } else { Err(reader.problems) }
}

fn phandle(node: &Node<'_>) -> Option<u32> {
    one_cell(&node.property("phandle").or_else(|| node.property("linux,phandle"))?)
}

/// What the machine's own tree says, whatever bus it is on.
struct Host {
    /// The interrupt controller's phandle: of several the last's, as the kernel takes it.
    gic: Option<u32>,
    /// The pages that devices have, and whether that one leaves memory alone.
    devices: Vec<(Region, bool)>,
}

impl Host {
    fn new(machine: &Fdt<'_>) -> Host {
        const GICS: [&str; 3] = ["arm,gic-v3", "arm,cortex-a15-gic", "arm,gic-400"];
        let mut host = Host { gic: None, devices: Vec::new() };
        devices::walk(machine, &mut |device| {
            if GICS.iter().any(|name| device.is_compatible(name)) {
                host.gic = phandle(device.node);
            }
            let harmless = leaves_memory_alone(device.node);
            let pages = |at: &Registers| (Region::new(at.base, at.len).pages(), harmless);
            host.devices.extend(device.registers().iter().map(pages));
        });
        host
    }

    /// Whether each of these pages is a device's, and all their devices leave memory alone.
    fn is_harmless(&self, pages: &Region) -> bool {
        let here = || self.devices.iter().filter(|(device, _)| device.overlaps(pages));
        let mut at = pages.start;
        while at < pages.end() {
            let byte = Region::new(at, 1);
            match here().find(|(device, _)| device.overlaps(&byte)) {
                Some((device, _)) => at = device.end(),
                None => return false,
            }
        }
        here().all(|(_, harmless)| *harmless)
    }
}

/// Devices that don't write memory.
const NO_DMA: &[&str] = &[
    "arm,pl011",
    "arm,sbsa-uart",
    "ns16550a",
    "ns16550",
    "snps,dw-apb-uart",
    "arm,pl031",
    "arm,pl061",
    "fixed-clock",
];

/// Whether the node is such a device: what it is compatible with first is what it is.
fn leaves_memory_alone(node: &Node<'_>) -> bool {
    node.property("compatible").is_some_and(|property| {
        let first = property.value().split(|byte| *byte == 0).next();
        NO_DMA.iter().any(|name| first == Some(name.as_bytes()))
    })
}

struct Reader<'a> {
    prefix: String,
    direct_map: bool,
    machine: Fdt<'a>,
    host: Host,
    out: Passthrough,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn fault(&mut self, node: &str, property: &str, what: impl Into<Cow<'static, str>>) {
        if self.problems.len() < LIST_MAX {
            let node = format!("{}{node}", self.prefix);
            self.problems.push(Problem::property(node, property, what));
        }
    }

    /// `counts`: the cells that the node's parent gives its children; `by_gic`:
    /// interrupts of theirs are the GIC's unless they say otherwise.
    fn walk(
        &mut self,
        node: &Node<'_>,
        above: &str,
        counts: (usize, usize),
        by_gic: bool,
        depth: usize,
    ) {
        let path = format!("{above}/{}", node.name());
        if depth >= DEPTH_MAX {
            return self.fault(&path, "name", "lies too deep");
        }
        if let Some(phandle) = phandle(node) {
            if self.out.phandles.contains(&phandle) {
                return self.fault(&path, "phandle", "is another node's, too");
            }
            if self.out.phandles.len() >= LIST_MAX {
                return self.fault(&path, "phandle", "is one of too many: there may be 256");
            }
            self.out.phandles.push(phandle);
        }
        let by_gic = match node.property("interrupt-parent") {
            Some(parent) => one_cell(&parent) == Some(self.out.gic_phandle),
            None => by_gic,
        };
        self.device(node, &path, counts, by_gic);
        let Some(inner) = cell_counts(node) else {
            return self.fault(&path, "#address-cells", "is malformed");
        };
        // Who is in an interrupt controller is its child in this, too.
        let by_gic = by_gic && node.property("#interrupt-cells").is_none();
        for child in node.children() {
            self.walk(&child, &path, inner, by_gic, depth.saturating_add(1));
        }
    }

    fn device(&mut self, node: &Node<'_>, path: &str, counts: (usize, usize), by_gic: bool) {
        let mapped = node.property("xen,reg");
        let host_path = node.property("xen,path");
        if mapped.is_none() && host_path.is_none() {
            return;
        }
        let mut may_dma = false;
        if let Some(property) = &mapped {
            let before = self.out.mappings.len();
            self.mappings(path, property.value(), counts);
            // What is behind the registers is what the machine's tree has there, whatever
            // the node calls itself.
            let mut new = self.out.mappings.iter().skip(before);
            may_dma =
                !leaves_memory_alone(node) || new.any(|new| !self.host.is_harmless(&new.host));
        }
        let forced = node.property("xen,force-assign-without-iommu").is_some();
        let mut name = path.to_string();
        if let Some(property) = host_path {
            let machine = self.machine;
            let host_path = text(&property);
            let Some((host_path, host)) =
                host_path.and_then(|path| machine.find_node(&path).map(|node| (path, node)))
            else {
                return self.fault(path, "xen,path", "names no node of the machine");
            };
            may_dma |= !leaves_memory_alone(&host);
            let parent = self.interrupt_parent(&host_path);
            self.interrupts(path, &host, "xen,path", parent.is_some() && parent == self.host.gic);
            name = host_path;
        } else if by_gic {
            // The guest's numbers are the machine's. What another controller of the
            // guest's gets is between the two.
            self.interrupts(path, node, "interrupts", true);
        }
        if may_dma && !forced && !self.direct_map {
            let what = "is missing: the device may write memory, there is no IOMMU driver, and the \
                        domain has no direct-map";
            self.fault(path, "xen,force-assign-without-iommu", what);
        }
        if may_dma && self.out.may_dma.len() < LIST_MAX {
            self.out.may_dma.push(name);
        }
    }

    /// `xen,reg`: machine's address, size, guest's address.
    fn mappings(&mut self, path: &str, value: &[u8], (address, size): (usize, usize)) {
        let stride = address.saturating_add(size).saturating_add(address).saturating_mul(4);
        let whole = address > 0 && size > 0 && value.len().checked_rem(stride) == Some(0);
        if !whole || value.is_empty() {
            return self.fault(path, "xen,reg", "is not machine's address, size, guest's address");
        }
        for entry in value.chunks(stride) {
            let host = cells(entry, 0, address);
            let len = cells(entry, address, size);
            let guest = cells(entry, address.saturating_add(size), address);
            let (Some(host), Some(len), Some(guest)) = (host, len, guest) else {
                return self.fault(path, "xen,reg", "has a number of more than 64 bits");
            };
            let host = Region::new(host, len);
            if !host.is_pages() || !Region::new(guest, len).is_pages() {
                return self.fault(path, "xen,reg", "must be whole pages");
            }
            if self.out.mappings.len() >= LIST_MAX {
                return self.fault(path, "xen,reg", "is one of too many");
            }
            self.out.mappings.push(Mapping { host, guest });
        }
    }

    fn interrupts(&mut self, path: &str, node: &Node<'_>, blame: &str, by_gic: bool) {
        if node.property("interrupts-extended").is_some() {
            return self.fault(path, blame, "interrupts-extended is not supported");
        }
        let Some(property) = node.property("interrupts") else { return };
        if !by_gic {
            return self.fault(path, blame, "interrupts that are not the GIC's are not supported");
        }
        let value = property.value();
        if value.is_empty() || value.len().checked_rem(12) != Some(0) {
            return self.fault(path, blame, "has interrupts that are not three cells each");
        }
        for entry in value.chunks(12) {
            let cell = |at| cells(entry, at, 1);
            let (Some(0), Some(number @ 0..=987), Some(flags)) = (cell(0), cell(1), cell(2)) else {
                return self.fault(path, blame, "has an interrupt that is no SPI");
            };
            let intid = u32::try_from(number).unwrap_or(0).saturating_add(32);
            if self.out.interrupts.iter().any(|other| other.intid == intid) {
                continue;
            }
            if self.out.interrupts.len() >= LIST_MAX {
                return self.fault(path, blame, "has one interrupt too many");
            }
            self.out.interrupts.push(Interrupt { intid, edge: flags & 3 != 0 });
        }
    }

    /// What `interrupt-parent` says at a node of the machine, or above it.
    fn interrupt_parent(&self, path: &str) -> Option<u32> {
        let mut node = self.machine.root();
        let mut parent = node.property("interrupt-parent").and_then(|p| one_cell(&p));
        for name in path.split('/').filter(|name| !name.is_empty()) {
            // Who is in an interrupt controller is its child in this, too.
            if node.property("#interrupt-cells").is_some() {
                parent = phandle(&node);
            }
            node = node.child(name)?;
            if let Some(property) = node.property("interrupt-parent") {
                parent = one_cell(&property);
            }
        }
        parent
    }
}

impl Passthrough {
    /// A phandle that the partial tree doesn't use, from `first` on.
    pub(crate) fn free_phandle(&self, first: u32) -> u32 {
        let taken = |n: &u32| self.phandles.contains(n) || *n == self.gic_phandle;
        (first..u32::MAX).find(|n| !taken(n)).unwrap_or(first)
    }
}

/// Copies what the guest is to see: `/passthrough`, without what is for us.
pub(crate) fn copy(writer: &mut Writer, fragment: &Fdt<'_>) {
    if let Some(node) = fragment.root().child("passthrough") {
        copy_node(writer, &node, 0);
    }
}

/// The partial tree's aliases.
pub(crate) fn copy_aliases(writer: &mut Writer, fragment: &Fdt<'_>) {
    if let Some(node) = fragment.root().child("aliases") {
        copy_properties(writer, &node);
    }
}

fn copy_properties(writer: &mut Writer, node: &Node<'_>) {
    for property in node.properties().filter(|property| !property.name().starts_with("xen,")) {
        writer.property(property.name(), property.value());
    }
}

fn copy_node(writer: &mut Writer, node: &Node<'_>, depth: usize) {
    if depth >= DEPTH_MAX {
        return;
    }
    writer.node(node.name(), |writer| {
        copy_properties(writer, node);
        for child in node.children() {
            copy_node(writer, &child, depth.saturating_add(1));
        }
    });
}
