//! What the device tree says of the machine.
#![expect(unsafe_code, reason = "the device tree is raw memory")]

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use arch::regime::STACKS;
use bootargs::BootArgs;
use domain::Region;
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use frame::RamRange;

/// Where a device's registers are, by physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// First byte.
    pub base: u64,
    /// Length in bytes.
    pub len: u64,
}

/// A serial port that the kernel can drive.
#[derive(Clone, Debug)]
pub struct Serial {
    /// What drives it.
    pub kind: SerialKind,
    /// Its registers.
    pub registers: Registers,
    /// Its interrupt, as INTID.
    pub intid: Option<u32>,
}

/// The serial ports there are drivers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SerialKind {
    /// `arm,pl011`.
    Pl011,
    /// `ns16550a`, `ns16550`: registers `1 << shift` bytes apart.
    Ns16550 {
        /// `reg-shift`.
        shift: u32,
    },
}

/// How firmware is called (`/psci`, `method`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// SMC.
    Smc,
    /// HVC.
    Hvc,
}

/// The interrupt controller.
#[derive(Clone, Debug)]
pub enum Gic {
    /// `arm,gic-v3`: distributor and redistributor regions.
    V3 {
        /// Distributor.
        distributor: Registers,
        /// Redistributor regions.
        redistributors: Vec<Registers>,
    },
    /// `arm,cortex-a15-gic` and the like: distributor and CPU interface, and with
    /// the virtualisation extensions what guests need.
    V2 {
        /// Distributor.
        distributor: Registers,
        /// CPU interface.
        cpu: Registers,
        /// Virtual interface control (GICH).
        hypervisor: Option<Registers>,
        /// The virtual CPU interface (GICV).
        guest: Option<Registers>,
    },
}

/// The machine.
#[derive(Debug)]
pub struct Machine {
    /// `/model`.
    pub model: String,
    /// RAM that the kernel maps: whole pages, upwards, none twice.
    pub memory: Vec<RamRange>,
    /// RAM that is somebody else's: the tree itself, reserved regions.
    pub reserved: Vec<RamRange>,
    /// The same without what is virtual machines' ([`Machine::reserve_domains`]).
    pub kept: Vec<RamRange>,
    /// What not even speculation may touch (`no-map`).
    no_map: Vec<RamRange>,
    /// Where the tree is, physical.
    pub tree_address: u64,
    /// The initrd, physical.
    pub initrd: Option<RamRange>,
    /// What was said to be the initrd and can't be.
    pub lost_initrd: Option<RamRange>,
    /// MPIDR affinities, boot CPU or not, in the order of the tree.
    pub cpus: Vec<u64>,
    /// How to call PSCI, if there is one.
    pub psci: Option<Conduit>,
    /// The interrupt controller.
    pub gic: Option<Gic>,
    /// The console.
    pub serial: Option<Serial>,
    /// The real-time clock (`arm,pl031`).
    pub rtc: Option<Registers>,
    /// The command line, raw.
    pub command_line: String,
    /// The command line, read.
    pub arguments: BootArgs,
    /// `/chosen/rng-seed`.
    pub rng_seed: Vec<u8>,
}

/// A view of the device tree.
///
/// # Safety
/// The boot loader put a device tree at physical `address` (booting.rst), it is
/// mapped at `address + offset`, and nobody writes it.
pub unsafe fn read(address: u64, offset: u64) -> Option<Fdt<'static>> {
    if address == 0 {
        return None;
    }
    let pointer = core::ptr::with_exposed_provenance(address.wrapping_add(offset) as usize);
    // SAFETY: the caller's promise; the header is checked.
    unsafe { Fdt::from_raw(pointer).ok() }
}

fn cells(bytes: &[u8], at: usize, count: usize) -> Option<u64> {
    let start = at.checked_mul(4)?;
    let end = start.checked_add(count.checked_mul(4)?)?;
    let bytes = bytes.get(start..end)?;
    Some(bytes.iter().fold(0u64, |value, &byte| value << 8 | u64::from(byte)))
}

fn cell_property(node: &FdtNode<'_>, name: &str) -> Option<u64> {
    let property = node.property(name)?;
    cells(property.value(), 0, 1)
}

fn text(node: &FdtNode<'_>, name: &str) -> Option<String> {
    let property = node.property(name)?;
    let value = property.value();
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    Some(String::from_utf8_lossy(value.get(..end)?).to_string())
}

fn compatible(node: &FdtNode<'_>, with: &str) -> bool {
    node.property("compatible").is_some_and(|property| {
        property.value().split(|&byte| byte == 0).any(|name| name == with.as_bytes())
    })
}

fn enabled(node: &FdtNode<'_>) -> bool {
    text(node, "status").is_none_or(|status| status == "okay" || status == "ok")
}

/// `reg`, with the parent's cell counts.
fn reg(node: &FdtNode<'_>, address_cells: usize, size_cells: usize) -> Vec<Registers> {
    let Some(property) = node.property("reg") else { return Vec::new() };
    let bytes = property.value();
    let stride = address_cells.saturating_add(size_cells).max(1);
    let count = (bytes.len() / 4).checked_div(stride).unwrap_or(0);
    (0..count)
        .filter_map(|i| {
            let at = i.checked_mul(stride)?;
            let base = cells(bytes, at, address_cells)?;
            let len = cells(bytes, at.checked_add(address_cells)?, size_cells)?;
            Some(Registers { base, len })
        })
        .collect()
}

/// The first entry of `interrupts`, for a GIC: type, number, flags.
fn interrupt(node: &FdtNode<'_>) -> Option<u32> {
    let property = node.property("interrupts")?;
    let number = u32::try_from(cells(property.value(), 1, 1)?).ok()?;
    match cells(property.value(), 0, 1)? {
        0 => number.checked_add(32),
        1 => number.checked_add(16),
        _ => None,
    }
}

impl Machine {
    /// Reads the tree. What is missing or malformed is left out.
    pub fn from_tree(tree: &Fdt<'_>, at: RamRange) -> Machine {
        let root = tree.root();
        let address_cells = cell_property(&root, "#address-cells").unwrap_or(2) as usize;
        let size_cells = cell_property(&root, "#size-cells").unwrap_or(1) as usize;
        let chosen = root.child("chosen");
        let command_line = chosen.as_ref().and_then(|c| text(c, "bootargs")).unwrap_or_default();
        let mut machine = Machine {
            model: text(&root, "model").unwrap_or_default(),
            memory: Vec::new(),
            reserved: alloc::vec![at],
            kept: Vec::new(),
            no_map: alloc::vec![BEYOND],
            tree_address: 0,
            initrd: chosen.as_ref().and_then(initrd),
            lost_initrd: None,
            cpus: Vec::new(),
            psci: None,
            gic: None,
            serial: None,
            rtc: None,
            arguments: BootArgs::parse(&command_line),
            command_line,
            rng_seed: chosen
                .as_ref()
                .and_then(|c| c.property("rng-seed"))
                .map(|p| p.value().to_vec())
                .unwrap_or_default(),
        };
        for region in tree.memory_reservations() {
            machine.reserved.push(RamRange::new(region.address(), region.size()));
        }
        let stdout = stdout(&root);
        for node in root.children() {
            machine.take(&node, address_cells, size_cells, stdout.as_deref());
        }
        if machine.serial.is_none() && stdout.is_some() {
            // stdout-path names something else: any port is better than none.
            for node in root.children() {
                machine.take_serial(&node, address_cells, size_cells);
            }
        }
        machine.memory = runs(&machine.memory, &machine.no_map);
        machine
    }

    /// The memory of the VMs that the tree names: their modules, and what they have
    /// by its physical address. It stays theirs.
    pub fn reserve_domains(&mut self, tree: &Fdt<'_>) {
        self.kept = self.reserved.clone();
        let mut reserve = |region: Region| {
            let start = region.start & !0xfff;
            let end = region.end().saturating_add(0xfff) & !0xfff;
            self.reserved.push(RamRange::new(start, end.saturating_sub(start)));
        };
        for domain in domain::read(tree).domains {
            reserve(domain.kernel);
            domain.ramdisk.into_iter().for_each(&mut reserve);
            domain.partial_tree.into_iter().for_each(&mut reserve);
            domain.static_memory.into_iter().for_each(&mut reserve);
            let shared = domain.shared_memory.into_iter();
            shared.filter_map(|s| Some(Region::new(s.host?, s.size))).for_each(&mut reserve);
        }
    }

    /// Takes the initrd for what it is said to be only if it lies in RAM, and
    /// not in `image`; then applies `mem=`. As on Linux, an initrd beyond that
    /// limit stays.
    pub fn settle(&mut self, image: RamRange) {
        let image_end = image.end();
        self.initrd = self.initrd.filter(|initrd| {
            let (start, end) = (initrd.start.get(), initrd.end());
            let in_ram = self.memory.iter().any(|ram| ram.start.get() <= start && end <= ram.end());
            let apart = end <= image.start.get() || image_end <= start;
            if !in_ram || !apart {
                self.lost_initrd = Some(*initrd);
            }
            in_ram && apart
        });
        // Kernel stacks have the end of the kernel's range.
        for range in &mut self.memory {
            range.size = range.size.min(STACKS.saturating_sub(range.start.get()));
        }
        if let Some(limit) = self.arguments.mem {
            let mut left = limit;
            for range in &mut self.memory {
                range.size = range.size.min(left) & !0xfff;
                left = left.saturating_sub(range.size);
            }
        }
        if let Some(initrd) = self.initrd {
            let start = initrd.start.get() & !0xfff;
            let end = initrd.end().saturating_add(0xfff) & !0xfff;
            self.memory.push(RamRange::new(start, end.saturating_sub(start)));
            self.memory = runs(&self.memory, &[]);
            self.reserved.push(initrd);
        }
    }

    fn take(&mut self, node: &FdtNode<'_>, address_cells: usize, size_cells: usize, stdout: Option<&str>) {
        let regs = || reg(node, address_cells, size_cells);
        if text(node, "device_type").as_deref() == Some("memory") && enabled(node) {
            self.memory.extend(regs().iter().map(|r| RamRange::new(r.base, r.len)));
        } else if node.name() == "cpus" {
            let id_cells = cell_property(node, "#address-cells").unwrap_or(1) as usize;
            for cpu in node.children() {
                if text(&cpu, "device_type").as_deref() == Some("cpu") && enabled(&cpu) {
                    self.cpus.extend(reg(&cpu, id_cells, 0).first().map(|r| r.base));
                }
            }
        } else if node.name() == "reserved-memory" {
            for region in node.children() {
                let regions = reg(&region, address_cells, size_cells);
                let no_map = region.property("no-map").is_some();
                let list = if no_map { &mut self.no_map } else { &mut self.reserved };
                list.extend(regions.iter().map(|r| RamRange::new(r.base, r.len)));
            }
        } else if compatible(node, "arm,psci-0.2") || compatible(node, "arm,psci-1.0") {
            self.psci = match text(node, "method").as_deref() {
                Some("smc") => Some(Conduit::Smc),
                Some("hvc") => Some(Conduit::Hvc),
                _ => None,
            };
        } else if compatible(node, "arm,gic-v3") {
            let regions = regs();
            let count = cell_property(node, "#redistributor-regions").unwrap_or(1) as usize;
            if let Some((distributor, rest)) = regions.split_first() {
                self.gic = Some(Gic::V3 {
                    distributor: *distributor,
                    redistributors: rest
                        .iter()
                        .take(count)
                        .map(|r| Registers { len: r.len.min(REDISTRIBUTORS_MAX), ..*r })
                        .collect(),
                });
            }
        } else if compatible(node, "arm,cortex-a15-gic") || compatible(node, "arm,gic-400") {
            if let [distributor, cpu, rest @ ..] = regs().as_slice() {
                self.gic = Some(Gic::V2 {
                    distributor: *distributor,
                    cpu: *cpu,
                    hypervisor: rest.first().copied(),
                    guest: rest.get(1).copied(),
                });
            }
        } else if compatible(node, "arm,pl031") {
            self.rtc = regs().first().copied();
        } else if stdout.is_none_or(|path| path.trim_start_matches('/') == node.name()) {
            self.take_serial(node, address_cells, size_cells);
        }
    }

    fn take_serial(&mut self, node: &FdtNode<'_>, address_cells: usize, size_cells: usize) {
        let kind = if compatible(node, "arm,pl011") {
            SerialKind::Pl011
        } else if compatible(node, "ns16550a") || compatible(node, "ns16550") {
            let shift = cell_property(node, "reg-shift").unwrap_or(0).min(8) as u32;
            SerialKind::Ns16550 { shift }
        } else {
            return;
        };
        if self.serial.is_some() || !enabled(node) {
            return;
        }
        if let Some(registers) = reg(node, address_cells, size_cells).first().copied() {
            self.serial = Some(Serial { kind, registers, intid: interrupt(node) });
        }
    }
}

/// What lies beyond 48 bits has no place in the linear map.
const BEYOND: RamRange = RamRange::new(1 << 48, u64::MAX - (1 << 48));

/// The most of one region of redistributors that is mapped: 256 of the larger
/// kind, 256 KiB each (GICv4).
const REDISTRIBUTORS_MAX: u64 = 64 << 20;

/// The whole pages of `regions` that `holes` leave: upwards, none twice.
fn runs(regions: &[RamRange], holes: &[RamRange]) -> Vec<RamRange> {
    let mut runs: Vec<RamRange> = Vec::new();
    frame::gaps(regions, &[holes], |start, end| match runs.last_mut() {
        Some(last) if last.end() == start => last.size = last.size.saturating_add(end.wrapping_sub(start)),
        _ => runs.push(RamRange::new(start, end.wrapping_sub(start))),
    });
    runs
}

fn initrd(chosen: &FdtNode<'_>) -> Option<RamRange> {
    let address = |name| {
        let property = chosen.property(name)?;
        let bytes = property.value();
        cells(bytes, 0, bytes.len() / 4)
    };
    let (start, end) = (address("linux,initrd-start")?, address("linux,initrd-end")?);
    let len = end.checked_sub(start).filter(|len| *len > 0)?;
    Some(RamRange::new(start, len))
}

/// The path of `/chosen/stdout-path`, aliases resolved, options cut off.
fn stdout(root: &FdtNode<'_>) -> Option<String> {
    let path = text(&root.child("chosen")?, "stdout-path")?;
    let path = path.split(':').next()?.to_string();
    if path.starts_with('/') {
        return Some(path);
    }
    text(&root.child("aliases")?, &path)
}
