//! From `/chosen`'s `xen,domain` nodes to [`Domain`]s.

use crate::nodes::{cell_counts, cells, compatible, one_cell, text};
use crate::{Domain, OnCrash, Placement, Problem, Region, SharedMemory, layout};
use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use fdt::{Fdt, Node, Property};

/// What `/chosen` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The domains that can be built, in the tree's order.
    pub domains: Vec<Domain>,
    /// Why others can't.
    pub problems: Vec<Problem>,
}

/// More domains than this are a mistake.
pub const DOMAINS_MAX: usize = 64;
/// So are more regions in one property, or more modules in a domain.
const LIST_MAX: usize = 64;
/// No more is said of one domain.
const PROBLEMS_MAX: usize = 16;
/// No longer words for a guest: Linux takes 2 KiB.
const BOOTARGS_MAX: usize = 4096;

const DOMAIN: &str = "xen,domain";
const SHARED_MEMORY: &str = "xen,domain-shared-memory-v1";

/// Whether there is any domain in the tree. Needs no heap.
pub fn present(tree: &Fdt<'_>) -> bool {
    tree.root()
        .child("chosen")
        .is_some_and(|chosen| chosen.children().any(|node| compatible(&node, DOMAIN)))
}

/// Reads all domains.
pub fn read(tree: &Fdt<'_>) -> Found {
    let (mut domains, mut problems) = (Vec::new(), Vec::new());
    for_each(tree, |domain| domains.push(domain), |problem| problems.push(problem));
    Found { domains, problems }
}

/// Reads all domains, one by one, for who has little memory; `tell` gets what is wrong with
/// others.
pub fn for_each(tree: &Fdt<'_>, mut take: impl FnMut(Domain), mut tell: impl FnMut(Problem)) {
    let Some(chosen) = tree.root().child("chosen") else { return };
    let outer = cell_counts(&chosen);
    let mut names: Vec<&str> = Vec::new();
    let nodes = chosen.children().filter(|node| compatible(node, DOMAIN));
    for (nth, node) in nodes.enumerate() {
        let mut reader = Reader::new(&node);
        if nth >= DOMAINS_MAX {
            return tell(Problem::node(reader.path, "there are more than 64 domains"));
        }
        if names.contains(&node.name()) {
            reader.fault("two nodes have this name");
        }
        match reader.domain(&node, outer) {
            Some(domain) if reader.problems.is_empty() => {
                names.push(node.name());
                take(domain);
            }
            _ => reader.problems.into_iter().for_each(&mut tell),
        }
    }
}

/// Reads one domain, and keeps what is wrong with it.
struct Reader {
    path: String,
    problems: Vec<Problem>,
}

/// What the modules of a domain are.
#[derive(Default)]
struct Modules {
    /// Where it is, the path of its node, its `bootargs`.
    kernel: Option<(Region, String, String)>,
    ramdisk: Option<Region>,
    partial_tree: Option<Region>,
}

/// Properties of the binding that change nothing here. Those of `xen,enhanced`'s
/// interfaces have no meaning without it.
const NO_MATTER: &[&str] = &[
    "compatible",
    "#address-cells",
    "#size-cells",
    "#xen,static-mem-address-cells",
    "#xen,static-mem-size-cells",
    "name",
    "phandle",
    "linux,phandle",
    "xen,domain-p2m-mem-mb",
    "max_grant_version",
    "max_grant_frames",
    "max_maptrack_frames",
];

impl Reader {
    fn new(node: &Node<'_>) -> Reader {
        Reader { path: format!("/chosen/{}", node.name()), problems: Vec::new() }
    }

    fn fault(&mut self, what: impl Into<Cow<'static, str>>) {
        self.keep(Problem::node(self.path.clone(), what));
    }

    fn property(&mut self, name: &str, what: impl Into<Cow<'static, str>>) {
        self.keep(Problem::property(self.path.clone(), name, what));
    }

    fn at(&mut self, child: &Node<'_>, property: &str, what: impl Into<Cow<'static, str>>) {
        let node = format!("{}/{}", self.path, child.name());
        self.keep(Problem::property(node, property, what));
    }

    fn keep(&mut self, problem: Problem) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }

    fn domain(&mut self, node: &Node<'_>, outer: Option<(usize, usize)>) -> Option<Domain> {
        let mut domain = Domain {
            name: node.name().to_string(),
            cpus: 0,
            memory: 0,
            console: false,
            nr_spis: None,
            direct_map: false,
            static_memory: Vec::new(),
            kernel: Region::new(0, 0),
            kernel_node: String::new(),
            bootargs: String::new(),
            ramdisk: None,
            partial_tree: None,
            shared_memory: Vec::new(),
            placement: Placement::default(),
            host_cpus: Vec::new(),
            priority: None,
            on_crash: OnCrash::default(),
            watchdog: None,
        };
        let Some(inner) = cell_counts(node) else {
            self.property("#address-cells", "these and #size-cells are one cell each, 0 to 4");
            return None;
        };
        let mut seen: Vec<String> = Vec::new();
        for property in node.properties() {
            let name = property.name();
            if seen.iter().any(|other| other == name) || seen.len() >= LIST_MAX {
                self.property(name, "is there twice, or one of too many");
                break;
            }
            self.take(&mut domain, node, &property, outer);
            seen.push(name.to_string());
        }
        for (name, is_there) in [("cpus", domain.cpus > 0), ("memory", domain.memory > 0)] {
            if !is_there && node.property(name).is_none() {
                self.property(name, "is missing");
            }
        }
        self.memory_sizes(&domain);
        let mut modules = Modules::default();
        for (i, child) in node.children().enumerate() {
            if i >= LIST_MAX {
                self.fault("has more than 64 nodes below it");
                break;
            }
            if compatible(&child, SHARED_MEMORY) {
                domain.shared_memory.extend(self.shared_memory(&child, inner));
            } else {
                self.module(&child, inner, &mut modules);
            }
        }
        let Some((kernel, kernel_node, bootargs)) = modules.kernel else {
            if self.problems.is_empty() {
                self.fault("has no module that is compatible with multiboot,kernel");
            }
            return None;
        };
        domain.kernel = kernel;
        domain.kernel_node = kernel_node;
        domain.bootargs = bootargs;
        domain.ramdisk = modules.ramdisk;
        domain.partial_tree = modules.partial_tree;
        Some(domain)
    }

    /// Takes one property of the domain's node.
    fn take(
        &mut self,
        domain: &mut Domain,
        node: &Node<'_>,
        property: &Property<'_>,
        outer: Option<(usize, usize)>,
    ) {
        let name = property.name();
        match name {
            "cpus" => match one_cell(property) {
                Some(n @ 1..=layout::CPUS_MAX) => domain.cpus = n,
                Some(_) => self.property(name, "must be 1 to 128"),
                None => self.property(name, "must be one cell"),
            },
            "memory" => match (property.value().len(), cells(property.value(), 0, 2)) {
                (8, Some(kib)) if kib > 0 && kib <= 1 << 30 => match kib.checked_mul(1024) {
                    Some(bytes) if bytes & 0xfff == 0 => domain.memory = bytes,
                    _ => self.property(name, "must be whole pages: a multiple of 4 KiB"),
                },
                (8, _) => self.property(name, "must be 1 KiB to 1 TiB, in KiB"),
                _ => self.property(name, "must be two cells: a 64-bit number of KiB"),
            },
            "vpl011" => match property.value() {
                [] | b"\0" | b"sbsa_uart\0" | b"pl011\0" => domain.console = true,
                _ => self.property(name, "must be empty, \"pl011\" or \"sbsa_uart\""),
            },
            "nr_spis" => match one_cell(property) {
                Some(n @ 0..=960) => domain.nr_spis = Some(n),
                _ => self.property(name, "must be one cell, 0 to 960"),
            },
            "direct-map" => match property.value() {
                [] => domain.direct_map = true,
                _ => self.property(name, "must be empty"),
            },
            "xen,static-mem" => self.static_memory(domain, node, property, outer),
            "hypha,placement" => match property.value() {
                b"exclusive\0" => domain.placement = Placement::Exclusive,
                b"shared\0" => domain.placement = Placement::Shared,
                _ => self.property(name, "must be \"exclusive\" or \"shared\""),
            },
            "hypha,cpus" => self.host_cpus(domain, property),
            "hypha,priority" => match one_cell(property) {
                Some(n @ 1..=99) => domain.priority = u8::try_from(n).ok(),
                _ => self.property(name, "must be one cell, 1 to 99"),
            },
            "hypha,on-crash" => match property.value() {
                b"restart\0" => domain.on_crash = OnCrash::Restart,
                b"stop\0" => domain.on_crash = OnCrash::Stop,
                b"reset-all\0" => domain.on_crash = OnCrash::ResetAll,
                _ => self.property(name, "must be \"restart\", \"stop\" or \"reset-all\""),
            },
            "hypha,watchdog" => match one_cell(property) {
                Some(n @ 1..=layout::WATCHDOG_MAX) => domain.watchdog = Some(n),
                _ => self.property(name, "must be one cell, 1 to 3600"),
            },
            "status" => match property.value() {
                b"okay\0" | b"ok\0" => {}
                _ => self.property(name, "is not \"okay\""),
            },
            // Off is what there is.
            "xen,enhanced" if property.value() == b"disabled\0" => {}
            "sve" if one_cell(property) == Some(0) => {}
            "passthrough" if matches!(property.value(), b"enabled\0" | b"disabled\0") => {}
            "xen,enhanced" => self.property(name, "Xen's hypercalls are not supported"),
            "passthrough" => self.property(name, "must be \"enabled\" or \"disabled\""),
            _ if NO_MATTER.contains(&name) => {}
            _ => self.property(name, "is not supported"),
        }
    }

    fn static_memory(
        &mut self,
        domain: &mut Domain,
        node: &Node<'_>,
        property: &Property<'_>,
        outer: Option<(usize, usize)>,
    ) {
        let name = property.name();
        // Xen 4.15's way of saying it, then today's: the parent's cells.
        let own = |name| node.property(name).map(|p| one_cell(&p).filter(|n| *n <= 4));
        let counts = match (own("#xen,static-mem-address-cells"), own("#xen,static-mem-size-cells"))
        {
            (None, None) => outer,
            (address, size) => {
                address.flatten().zip(size.flatten()).map(|(a, s)| (a as usize, s as usize))
            }
        };
        let Some(regions) = counts.and_then(|counts| regions(property.value(), counts)) else {
            return self.property(name, "is not pairs of address and size in the parent's cells");
        };
        if regions.iter().any(|region| !region.is_pages()) {
            return self.property(name, "must be whole pages");
        }
        if overlap(&regions) {
            return self.property(name, "has regions that overlap");
        }
        domain.static_memory = regions;
    }

    fn host_cpus(&mut self, domain: &mut Domain, property: &Property<'_>) {
        let (chunks, rest) = property.value().as_chunks::<4>();
        let list: Vec<u32> =
            chunks.iter().take(LIST_MAX).map(|cell| u32::from_be_bytes(*cell)).collect();
        let twice = list.iter().enumerate().any(|(i, n)| list.iter().take(i).any(|m| m == n));
        if list.is_empty() || !rest.is_empty() || chunks.len() > LIST_MAX || twice {
            return self.property(property.name(), "must be cells that name CPUs, none twice");
        }
        domain.host_cpus = list;
    }

    /// What only makes sense together.
    fn memory_sizes(&mut self, domain: &Domain) {
        let total = domain.static_memory.iter().fold(0u64, |sum, r| sum.saturating_add(r.size));
        if !domain.static_memory.is_empty() && domain.memory > 0 && total != domain.memory {
            self.property("xen,static-mem", "is not as much as memory says");
        }
        let exclusive = domain.placement == Placement::Exclusive;
        if exclusive && !domain.host_cpus.is_empty() {
            let count = u32::try_from(domain.host_cpus.len()).unwrap_or(u32::MAX);
            if domain.cpus > 0 && count != domain.cpus {
                self.property("hypha,cpus", "an exclusive domain needs as many as cpus says");
            }
        }
    }

    fn module(&mut self, child: &Node<'_>, inner: (usize, usize), modules: &mut Modules) {
        let is = |names: [&str; 2]| names.iter().any(|name| compatible(child, name));
        let kernel = is(["multiboot,kernel", "xen,linux-zimage"]);
        let ramdisk = is(["multiboot,ramdisk", "xen,linux-initrd"]);
        let partial_tree = is(["multiboot,device-tree"; 2]);
        if !kernel && !ramdisk && !partial_tree && !is(["multiboot,module", "xen,multiboot-module"])
        {
            return self.at(child, "compatible", "is not supported below a domain");
        }
        let Some(region) = self.reg(child, inner) else { return };
        // Modules that don't say what they are: the first is the kernel, the
        // second the ramdisk.
        let silent = !kernel && !ramdisk && !partial_tree;
        if kernel || silent && modules.kernel.is_none() {
            if modules.kernel.is_some() {
                return self.at(child, "compatible", "is a second kernel");
            }
            let property = child.property("bootargs");
            if property.as_ref().is_some_and(|p| p.value().len() > BOOTARGS_MAX) {
                return self.at(child, "bootargs", "is longer than 4096 bytes");
            }
            match property.map(|property| text(&property)) {
                Some(None) => self.at(child, "bootargs", "is not a string"),
                other => {
                    let path = format!("{}/{}", self.path, child.name());
                    modules.kernel = Some((region, path, other.flatten().unwrap_or_default()));
                }
            }
        } else if ramdisk || silent && modules.ramdisk.is_none() {
            if modules.ramdisk.replace(region).is_some() {
                self.at(child, "compatible", "is a second ramdisk");
            }
        } else if silent {
            self.at(child, "compatible", "does not say what this module is");
        } else if modules.partial_tree.replace(region).is_some() {
            self.at(child, "compatible", "is a second partial device tree");
        }
    }

    fn reg(&mut self, child: &Node<'_>, inner: (usize, usize)) -> Option<Region> {
        let property = child.property("reg");
        if property.is_none() && child.property("xen,uefi-binary").is_some() {
            self.at(child, "xen,uefi-binary", "is not supported: there is no UEFI");
            return None;
        }
        let Some(property) = property else {
            self.at(child, "reg", "is missing");
            return None;
        };
        match regions(property.value(), inner).as_deref() {
            Some([region]) if region.is_possible() => Some(*region),
            Some([_]) => {
                self.at(child, "reg", "is empty, or no address");
                None
            }
            _ => {
                self.at(child, "reg", "is not one address and size in the domain's cells");
                None
            }
        }
    }

    fn shared_memory(&mut self, child: &Node<'_>, inner: (usize, usize)) -> Option<SharedMemory> {
        // With its terminator.
        let fits = |property: &Property<'_>| (2..17).contains(&property.value().len());
        let id = child.property("xen,shm-id").filter(fits).and_then(|property| text(&property));
        let Some(id) = id else {
            self.at(child, "xen,shm-id", "must be a string of 1 to 15 characters");
            return None;
        };
        let owner = match child.property("role").as_ref().map(Property::value) {
            None | Some(b"borrower\0") => false,
            Some(b"owner\0") => true,
            Some(_) => {
                self.at(child, "role", "must be \"owner\" or \"borrower\"");
                return None;
            }
        };
        let property = child.property("xen,shared-mem");
        let bytes = property.as_ref().map(Property::value).unwrap_or_default();
        let (address, size) = inner;
        let counted = bytes.len() / 4;
        let with_host = address.saturating_add(address).saturating_add(size);
        let parts = if bytes.len() & 3 != 0 || address == 0 || size == 0 {
            None
        } else if counted == with_host {
            let twice = address.saturating_add(address);
            let host = cells(bytes, 0, address);
            host.zip(cells(bytes, address, address).zip(cells(bytes, twice, size)))
                .map(|(host, (guest, size))| (Some(host), guest, size))
        } else if counted == address.saturating_add(size) {
            cells(bytes, 0, address).zip(cells(bytes, address, size)).map(|(g, s)| (None, g, s))
        } else {
            None
        };
        let Some((host, guest, size)) = parts else {
            let what = "is not machine's address (or none), guest's address, and size";
            self.at(child, "xen,shared-mem", what);
            return None;
        };
        let all = [Some(guest), host];
        if !all.iter().flatten().all(|start| Region::new(*start, size).is_pages()) {
            self.at(child, "xen,shared-mem", "must be whole pages");
            return None;
        }
        Some(SharedMemory { id, host, guest, size, owner })
    }
}

/// Pairs of address and size.
pub(crate) fn regions(bytes: &[u8], (address, size): (usize, usize)) -> Option<Vec<Region>> {
    let stride = address.checked_add(size)?.checked_mul(4)?;
    if address == 0 || size == 0 || bytes.is_empty() || bytes.len().checked_rem(stride)? != 0 {
        return None;
    }
    let entries = bytes.chunks(stride);
    if entries.len() > LIST_MAX {
        return None;
    }
    entries
        .map(|entry| Some(Region::new(cells(entry, 0, address)?, cells(entry, address, size)?)))
        .collect()
}

/// Whether any two have a byte in common.
pub(crate) fn overlap(regions: &[Region]) -> bool {
    regions.iter().enumerate().any(|(i, a)| regions.iter().take(i).any(|b| a.overlaps(b)))
}
