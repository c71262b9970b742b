//! What the device tree says of the machine.
#![expect(unsafe_code, reason = "the device tree is raw memory")]

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use arch::regime::STACKS;
use bootargs::{BootArgs, Console, Consoles, EarlyCon};
use devices::{Device, cell, cell_counts, cells, is_enabled, reg, text};
use domain::claims::{self, SetAside};
use domain::Region;
use fdt::{Fdt, Node};
use frame::RamRange;

pub use devices::Registers;

/// A serial port that the kernel can drive.
#[derive(Clone, Debug)]
pub struct Serial {
    /// Where it is in the tree.
    pub path: String,
    /// What Linux calls it: `ttyAMA0`, `ttyS0`.
    pub name: &'static str,
    /// The number in that.
    pub number: u32,
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
        /// `reg-io-width` is 4: they are read and written as words.
        words: bool,
    },
}

/// As many ports as have names.
const SERIALS_MAX: usize = 4;

impl SerialKind {
    fn names(self) -> &'static [&'static str; SERIALS_MAX] {
        match self {
            SerialKind::Pl011 => &["ttyAMA0", "ttyAMA1", "ttyAMA2", "ttyAMA3"],
            SerialKind::Ns16550 { .. } => &["ttyS0", "ttyS1", "ttyS2", "ttyS3"],
        }
    }
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
    /// All RAM that the tree names: what `no-map` keeps and `mem=` cuts off, too.
    pub all_memory: Vec<RamRange>,
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
    /// The serial ports.
    pub serials: Vec<Serial>,
    /// Which of them show the log, and what /dev/console is.
    pub consoles: Consoles,
    /// Where `earlycon` writes.
    pub early: Option<Serial>,
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
    let start = core::ptr::with_exposed_provenance(address.wrapping_add(offset) as usize);
    // SAFETY: the caller's promise; the header says how long the tree is.
    let data = unsafe {
        let size = fdt::total_size(core::slice::from_raw_parts(start, 8))?;
        core::slice::from_raw_parts(start, size)
    };
    Fdt::new(data).ok()
}

/// The first entry of `interrupts`, for a GIC: type, number, flags.
fn interrupt(node: &Node<'_>) -> Option<u32> {
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
        let chosen = root.child("chosen");
        let command_line = chosen.as_ref().and_then(|c| text(c, "bootargs")).unwrap_or_default();
        let mut machine = Machine {
            model: text(&root, "model").unwrap_or_default(),
            memory: Vec::new(),
            all_memory: Vec::new(),
            reserved: alloc::vec![at],
            kept: Vec::new(),
            no_map: alloc::vec![BEYOND],
            tree_address: 0,
            initrd: chosen.as_ref().and_then(initrd),
            lost_initrd: None,
            cpus: Vec::new(),
            psci: None,
            gic: None,
            serials: Vec::new(),
            consoles: Consoles::choose(&[], &[], None),
            early: None,
            rtc: None,
            arguments: BootArgs::parse(&command_line),
            command_line,
            rng_seed: chosen
                .as_ref()
                .and_then(|c| c.property("rng-seed"))
                .map(|p| p.value().to_vec())
                .unwrap_or_default(),
        };
        for (address, size) in tree.memory_reservations() {
            machine.reserved.push(RamRange::new(address, size));
        }
        let stdout = devices::stdout(tree);
        let mut stdout_port = None;
        devices::walk(tree, &mut |device| {
            if machine.take(device) && stdout.as_deref() == Some(device.path) {
                stdout_port = machine.serials.len().checked_sub(1);
            }
        });
        machine.name_serials(&root);
        machine.all_memory = runs(&machine.memory, &[]);
        machine.memory = runs(&machine.memory, &machine.no_map);
        machine.choose_consoles(stdout_port);
        machine
    }

    /// The memory of the VMs that the tree names: their modules, and what they have
    /// by its physical address. It stays theirs. `image` is the kernel's.
    pub fn reserve_domains(&mut self, tree: &Fdt<'_>, image: RamRange) {
        self.kept = self.reserved.clone();
        // How many bits addresses have isn't known yet: `claims::check` asks then.
        let machine = claims::Machine {
            address_bits: 48,
            ram: &regions(&self.memory),
            all_ram: &[],
            reserved: &regions(&self.kept),
            set_aside: &[],
            taken: &[(region(&image), "the kernel")],
            interrupts: &[],
            lines: 0,
            v3: matches!(self.gic, Some(Gic::V3 { .. })),
        };
        let mut set_aside = SetAside::new(&machine);
        domain::for_each(tree, |domain| set_aside.add(&domain), drop);
        let set_aside = set_aside.finish();
        self.reserved.extend(set_aside.iter().map(|it| RamRange::new(it.start, it.size)));
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

    /// Takes a device. Whether it is a serial port that can be had.
    fn take(&mut self, device: &Device<'_>) -> bool {
        let node = device.node;
        let regs = || device.registers();
        if text(node, "device_type").as_deref() == Some("memory") && device.is_enabled() {
            self.memory.extend(regs().iter().map(|r| RamRange::new(r.base, r.len)));
        } else if device.path == "/cpus" {
            self.cpus = cpus(node);
        } else if device.path == "/reserved-memory" {
            self.take_reserved(node);
        } else if device.is_compatible("arm,psci-0.2") || device.is_compatible("arm,psci-1.0") {
            self.psci = match text(node, "method").as_deref() {
                Some("smc") => Some(Conduit::Smc),
                Some("hvc") => Some(Conduit::Hvc),
                _ => None,
            };
        } else if device.is_compatible("arm,gic-v3") {
            let regions = regs();
            let count = cell(node, "#redistributor-regions").unwrap_or(1) as usize;
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
        } else if device.is_compatible("arm,cortex-a15-gic") || device.is_compatible("arm,gic-400") {
            if let [distributor, cpu, rest @ ..] = regs().as_slice() {
                self.gic = Some(Gic::V2 {
                    distributor: *distributor,
                    cpu: *cpu,
                    hypervisor: rest.first().copied(),
                    guest: rest.get(1).copied(),
                });
            }
        } else if device.is_compatible("arm,pl031") {
            self.rtc = regs().first().copied();
        } else {
            return self.take_serial(device);
        }
        false
    }

    fn take_reserved(&mut self, node: &Node<'_>) {
        let counts = cell_counts(node);
        for region in node.children() {
            let regions = reg(&region, counts);
            let no_map = region.property("no-map").is_some();
            let list = if no_map { &mut self.no_map } else { &mut self.reserved };
            list.extend(regions.iter().map(|r| RamRange::new(r.base, r.len)));
        }
    }

    fn take_serial(&mut self, device: &Device<'_>) -> bool {
        let kind = if device.is_compatible("arm,pl011") {
            SerialKind::Pl011
        } else if device.is_compatible("ns16550a") || device.is_compatible("ns16550") {
            let shift = cell(device.node, "reg-shift").unwrap_or(0).min(8) as u32;
            SerialKind::Ns16550 { shift, words: cell(device.node, "reg-io-width") == Some(4) }
        } else {
            return false;
        };
        let first = device.registers().first().copied();
        let usable = device.is_enabled() && self.serials.len() < SERIALS_MAX;
        let Some(registers) = first.filter(|_| usable) else { return false };
        let intid = interrupt(device.node);
        let path = String::from(device.path);
        self.serials.push(Serial { path, name: "", number: 0, kind, registers, intid });
        true
    }

    /// Gives the ports Linux's names: by number of the alias `serialN`, the others
    /// by what is left.
    fn name_serials(&mut self, root: &Node<'_>) {
        let aliases = root.child("aliases");
        let alias = |n: usize| text(aliases.as_ref()?, &format!("serial{n}"));
        let mut taken: Vec<&str> = Vec::new();
        for by_alias in [true, false] {
            for serial in &mut self.serials {
                let names = serial.kind.names();
                let free = |at: &usize| names.get(*at).is_some_and(|name| !taken.contains(name));
                let at = (0..names.len()).find(|n| alias(*n).as_deref() == Some(&serial.path));
                if at.is_some() != by_alias {
                    continue;
                }
                let at = at.filter(free).or_else(|| (0..names.len()).find(free));
                if let Some((at, name)) = at.and_then(|at| Some((at, *names.get(at)?))) {
                    (serial.name, serial.number) = (name, at as u32);
                    taken.push(name);
                }
            }
        }
    }

    /// As `console=` and `earlycon` say; `stdout` is what the device tree names.
    fn choose_consoles(&mut self, stdout: Option<usize>) {
        // Any port is better than none.
        let stdout = stdout.or((!self.serials.is_empty()).then_some(0));
        let names: Vec<&str> = self.serials.iter().map(|serial| serial.name).collect();
        self.consoles = Consoles::choose(&self.arguments.consoles, &names, stdout);
        self.arguments.warnings.extend_from_slice(&self.consoles.warnings);
        let Some(value) = &self.arguments.earlycon else { return };
        let device = |kind, base| {
            let registers = Registers { base, len: 0x1000 };
            Serial { path: String::new(), name: "earlycon", number: 0, kind, registers, intid: None }
        };
        match EarlyCon::parse(value) {
            Ok(EarlyCon::Stdout) => {
                self.early = stdout.and_then(|port| self.serials.get(port)).cloned();
            }
            Ok(EarlyCon::Pl011(address)) => self.early = Some(device(SerialKind::Pl011, address)),
            Ok(EarlyCon::Uart8250 { address, words }) => {
                let kind = SerialKind::Ns16550 { shift: if words { 2 } else { 0 }, words };
                self.early = Some(device(kind, address));
            }
            Err(warning) => self.arguments.warnings.push(warning),
        }
        // What is RAM, or has no place in the linear map, is no device.
        let is_device = |at: &Registers| {
            let end = at.base.saturating_add(at.len);
            let apart = |ram: &RamRange| end <= ram.start.get() || ram.end() <= at.base;
            end <= BEYOND.start.get() && self.memory.iter().all(apart)
        };
        self.early = self.early.take().filter(|serial| is_device(&serial.registers));
    }

    /// The ports that are a console.
    pub fn used_serials(&self) -> impl Iterator<Item = &Serial> {
        let Consoles { log, console, .. } = &self.consoles;
        let used = move |port| log.contains(&port) || *console == Console::Port(port);
        let all = self.serials.iter().enumerate();
        all.filter(move |(port, _)| used(*port)).map(|(_, serial)| serial)
    }

    /// Where `earlycon` writes once the kernel is up: as on Linux, only where there is
    /// no other console.
    pub fn lasting_earlycon(&self) -> Option<&Serial> {
        self.early.as_ref().filter(|_| self.consoles.console == Console::Nothing)
    }

    /// What can say something before the consoles are there: `earlycon`'s, or else
    /// the first port that the log goes to.
    pub fn first_port(&self) -> Option<&Serial> {
        let first = self.consoles.log.first().and_then(|port| self.serials.get(*port));
        self.early.as_ref().or(first)
    }
}

fn region(ram: &RamRange) -> Region {
    Region::new(ram.start.get(), ram.size)
}

/// As the crate `domain` has them.
pub fn regions(list: &[RamRange]) -> Vec<Region> {
    list.iter().map(region).collect()
}

/// The CPUs' MPIDR affinities.
fn cpus(node: &Node<'_>) -> Vec<u64> {
    let id_cells = cell(node, "#address-cells").unwrap_or(1) as usize;
    let is_cpu = |node: &Node<'_>| text(node, "device_type").as_deref() == Some("cpu");
    node.children()
        .filter(|node| is_cpu(node) && is_enabled(node))
        .filter_map(|node| cells(node.property("reg")?.value(), 0, id_cells))
        .collect()
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

fn initrd(chosen: &Node<'_>) -> Option<RamRange> {
    let address = |name| {
        let property = chosen.property(name)?;
        let bytes = property.value();
        cells(bytes, 0, bytes.len() / 4)
    };
    let (start, end) = (address("linux,initrd-start")?, address("linux,initrd-end")?);
    let len = end.checked_sub(start).filter(|len| *len > 0)?;
    Some(RamRange::new(start, len))
}
