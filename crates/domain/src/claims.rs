//! Domains that want what isn't there, or what another has.
//!
//! This is asked twice. Before any memory is given out, [`SetAside`] says what of it is
//! domains', and must not be. Then [`check`] judges all that they want.

use crate::passthrough::{Interrupt, Passthrough};
use crate::{Domain, Problem, Region, SharedMemory, layout};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// What the machine has.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// RAM that can be used.
    pub ram: &'a [Region],
    /// All RAM: what is kept from everybody or cut off is no device, either.
    pub all_ram: &'a [Region],
    /// RAM that is firmware's, the boot loader's or the hypervisor's.
    pub reserved: &'a [Region],
    /// RAM that isn't given out: `reserved`, and what [`SetAside`] said.
    pub set_aside: &'a [Region],
    /// What is the hypervisor's: its memory and its devices' registers.
    pub taken: &'a [(Region, &'static str)],
    /// INTIDs of its own.
    pub interrupts: &'a [u32],
    /// INTIDs end here: so many its GIC has (GICD_TYPER.ITLinesNumber).
    pub lines: u32,
    /// Its GIC is a GICv3, and so is the guests'.
    pub v3: bool,
    /// As many bits an address has, the guests', too (ID_AA64MMFR0_EL1.PARange).
    pub address_bits: u8,
}

/// What a domain wants.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The domain.
    pub domain: &'a Domain,
    /// Its devices.
    pub passthrough: Option<&'a Passthrough>,
}

/// What of RAM is set aside: the modules, and the memory that domains name by its address.
pub struct SetAside<'a> {
    machine: &'a Machine<'a>,
    /// What is reserved already, then what is set aside.
    taken: Vec<Region>,
}

impl<'a> SetAside<'a> {
    /// Nothing yet. `machine.set_aside` doesn't matter.
    pub fn new(machine: &'a Machine<'a>) -> SetAside<'a> {
        SetAside { machine, taken: machine.reserved.to_vec() }
    }

    /// What this domain names: nothing if it can't have that, or one typing error would take
    /// the others' memory; nor what would leave less than [`least_left`].
    pub fn add(&mut self, domain: &Domain) {
        let claim = Claim { domain, passthrough: None };
        let mut judge = Judge::new(self.machine, &claim);
        judge.alone();
        if !judge.problems.is_empty() {
            return;
        }
        let before = self.taken.len();
        self.taken.extend(named(domain).map(|region| region.pages()));
        if largest_piece(self.machine.ram, &self.taken) < least_left(self.machine.ram) {
            self.taken.truncate(before);
        }
    }

    /// Whole pages.
    pub fn finish(mut self) -> Vec<Region> {
        self.taken.split_off(self.machine.reserved.len().min(self.taken.len()))
    }
}

/// How much RAM must stay in one piece: some for the hypervisor's own, and room for its
/// table of all pages, which takes 4 to 8 bytes for each.
fn least_left(ram: &[Region]) -> u64 {
    let all = ram.iter().fold(0u64, |sum, ram| sum.saturating_add(ram.size));
    (16u64 << 20).saturating_add(all / 512)
}

/// The largest piece of `ram` that nothing of `taken` lies in.
fn largest_piece(ram: &[Region], taken: &[Region]) -> u64 {
    let mut largest = 0;
    for ram in ram {
        let mut at = ram.start;
        while at < ram.end() {
            let rest = Region::new(at, ram.end().saturating_sub(at));
            let next = taken.iter().filter(|taken| taken.overlaps(&rest));
            let next = next.min_by_key(|taken| taken.start);
            let stop = next.map_or(ram.end(), |taken| taken.start.max(at));
            largest = largest.max(stop.saturating_sub(at));
            at = next.map_or(ram.end(), Region::end);
        }
    }
    largest
}

/// All that a domain names by the machine's address, but for its devices.
fn named(domain: &Domain) -> impl Iterator<Item = Region> {
    let memory = domain.static_memory.iter().copied().chain(shared_regions(domain));
    modules(domain).map(|(region, _)| region).chain(memory)
}

/// Says of each domain what it can't have; the index is the domain's. Of two that
/// want the same, the first gets it, unless it doesn't start either.
pub fn check(claims: &[Claim<'_>], machine: &Machine<'_>) -> Vec<(usize, Problem)> {
    let mut problems = Vec::new();
    let mut accepted: Vec<Claim<'_>> = Vec::new();
    for (index, claim) in claims.iter().enumerate() {
        let mut judge = Judge::new(machine, claim);
        judge.alone();
        judge.is_set_aside();
        for other in claims.iter().filter(|other| !core::ptr::eq(*other, claim)) {
            judge.modules_of(other.domain);
        }
        for other in &accepted {
            judge.against(other);
        }
        if judge.problems.is_empty() {
            accepted.push(*claim);
        }
        problems.extend(judge.problems.into_iter().map(|problem| (index, problem)));
    }
    problems
}

fn path(domain: &Domain) -> String {
    format!("/chosen/{}", domain.name)
}

fn modules(domain: &Domain) -> impl Iterator<Item = (Region, &'static str)> {
    let kernel = (domain.kernel, "kernel");
    let ramdisk = domain.ramdisk.map(|region| (region, "ramdisk"));
    let tree = domain.partial_tree.map(|region| (region, "partial device tree"));
    [Some(kernel), ramdisk, tree].into_iter().flatten()
}

/// What of a guest lies where something else of its is. Where its RAM is the memory
/// that was free (`direct-map` alone), this is asked again when it has its RAM.
/// No address has more than `bits`.
pub fn guest_addresses(claim: &Claim<'_>, v3: bool, bits: u8, ram: &[Region]) -> Vec<Problem> {
    let domain = claim.domain;
    let mut all: Vec<(Region, &str)> = layout::devices(v3, domain.console).collect();
    let limit = 1u64.checked_shl(bits.into()).unwrap_or(u64::MAX);
    let memory = if domain.direct_map { "direct-map" } else { "memory" };
    let wanted = ram
        .iter()
        .map(|region| (*region, memory, "its memory"))
        .chain(guest_shared(claim).map(|region| (region, "xen,shared-mem", "its shared memory")))
        .chain(guest_devices(claim).map(|region| (region, "xen,reg", "a device")));
    let mut problems = Vec::new();
    for (region, property, name) in wanted {
        if let Some((other, what)) = all.iter().find(|(other, _)| other.overlaps(&region)) {
            let what = format!("{region} of the guest is not free: {what} is at {other}");
            problems.push(Problem::property(path(domain), property, what));
        }
        if region.end() > limit {
            let what =
                format!("{region} of the guest is beyond the {bits} bits that addresses have");
            problems.push(Problem::property(path(domain), property, what));
        }
        all.push((region, name));
    }
    problems
}

fn guest_shared(claim: &Claim<'_>) -> impl Iterator<Item = Region> {
    let shared = claim.domain.shared_memory.iter();
    shared.map(|shared| Region::new(shared.guest, shared.size))
}

fn guest_devices(claim: &Claim<'_>) -> impl Iterator<Item = Region> {
    let mappings = claim.passthrough.into_iter().flat_map(|devices| &devices.mappings);
    mappings.map(|mapping| Region::new(mapping.guest, mapping.host.size))
}

/// How many bits a guest's addresses have: enough for the highest, 40 at least, and no more
/// than the machine's, `most`.
pub fn address_bits(claim: &Claim<'_>, most: u8, ram: &[Region]) -> u8 {
    let all = ram.iter().copied().chain(guest_shared(claim)).chain(guest_devices(claim));
    let last = all.map(|region| region.end().saturating_sub(1)).max().unwrap_or(0);
    let needed = u64::BITS.saturating_sub(last.leading_zeros());
    u8::try_from(needed).unwrap_or(most).max(40).min(most)
}

struct Judge<'a> {
    machine: &'a Machine<'a>,
    claim: &'a Claim<'a>,
    path: String,
    problems: Vec<Problem>,
}

impl<'a> Judge<'a> {
    fn new(machine: &'a Machine<'a>, claim: &'a Claim<'a>) -> Judge<'a> {
        Judge { machine, claim, path: path(claim.domain), problems: Vec::new() }
    }

    fn fault(&mut self, property: &str, what: String) {
        self.problems.push(Problem::property(self.path.clone(), property, what));
    }

    /// RAM in one piece, and nobody's.
    fn is_free_ram(&mut self, region: Region, property: &str, what: &str) {
        if !self.machine.ram.iter().any(|ram| ram.contains(&region)) {
            self.fault(property, format!("{what} {region} is not in the machine's RAM"));
        }
        self.is_not_taken(region, property, what);
    }

    /// The same, and not reserved: modules may be, by who put them there.
    fn is_for_guests(&mut self, region: Region, property: &str) {
        self.is_free_ram(region, property, "memory");
        if let Some(other) = self.machine.reserved.iter().find(|other| other.overlaps(&region)) {
            self.fault(property, format!("memory {region} is reserved: {other}"));
        }
    }

    fn is_not_taken(&mut self, region: Region, property: &str, what: &str) {
        let taken = self.machine.taken.iter().find(|(taken, _)| taken.overlaps(&region));
        if let Some((_, name)) = taken {
            self.fault(property, format!("{what} {region} is {name}"));
        }
    }

    /// What doesn't depend on other domains.
    fn alone(&mut self) {
        let domain = self.claim.domain;
        if !self.machine.v3 && domain.cpus > layout::CPUS_MAX_GICV2 {
            self.fault("cpus", format!("a GICv2 has at most {}", layout::CPUS_MAX_GICV2));
        }
        for (region, name) in modules(domain) {
            self.is_free_ram(region, "reg", name);
        }
        for region in &domain.static_memory {
            self.is_for_guests(*region, "xen,static-mem");
        }
        self.modules_of(domain);
        for shared in &domain.shared_memory {
            if let Some(region) = shared.on_host() {
                self.is_for_guests(region, "xen,shared-mem");
                if domain.direct_map && region.start != shared.guest {
                    let what = "with direct-map, the guest's address is the machine's";
                    self.fault("xen,shared-mem", what.into());
                }
            } else if domain.direct_map {
                let what = "with direct-map, the machine's address must be there";
                self.fault("xen,shared-mem", what.into());
            }
        }
        self.host_addresses();
        self.guest_addresses();
        let Some(passthrough) = self.claim.passthrough else { return };
        for mapping in &passthrough.mappings {
            self.is_not_taken(mapping.host, "xen,reg", "a device's");
            if self.machine.all_ram.iter().any(|ram| ram.overlaps(&mapping.host)) {
                self.fault("xen,reg", format!("{} is RAM", mapping.host));
            }
            if mapping.host.end() > 1 << self.machine.address_bits.min(63) {
                let bits = self.machine.address_bits;
                self.fault("xen,reg", format!("{} is beyond {bits} bits of address", mapping.host));
            }
        }
        for Interrupt { intid, .. } in &passthrough.interrupts {
            if *intid >= self.machine.lines {
                let what = format!("INTID {intid} is none of the GIC's: {}", self.machine.lines);
                self.fault("interrupts", what);
            }
            if self.machine.interrupts.contains(intid) {
                self.fault("interrupts", format!("INTID {intid} is the hypervisor's"));
            }
            if domain.console && *intid == layout::PL011_INTID {
                self.fault("interrupts", format!("INTID {intid} is the virtual PL011's"));
            }
            if domain.nr_spis.is_some_and(|n| *intid >= n.saturating_add(32)) {
                self.fault("nr_spis", format!("INTID {intid} is not among them"));
            }
        }
    }

    /// What it names by address is still there. It is, if there is nothing else to say.
    fn is_set_aside(&mut self) {
        let kept = self.machine.set_aside;
        let is_there = |region: Region| kept.iter().any(|kept| kept.contains(&region));
        if self.problems.is_empty() && !named(self.claim.domain).all(is_there) {
            let least = least_left(self.machine.ram).div_ceil(1 << 20);
            let what = format!(
                "its modules and the memory that it names would leave the hypervisor less than \
                 {least} MiB in one piece"
            );
            self.problems.push(Problem::node(self.path.clone(), what));
        }
    }

    /// No memory of the machine's is wanted twice. `xen,static-mem` alone was looked at
    /// when it was read.
    fn host_addresses(&mut self) {
        let domain = self.claim.domain;
        let mut all = domain.static_memory.clone();
        for (i, shared) in domain.shared_memory.iter().enumerate() {
            if domain.shared_memory.iter().take(i).any(|other| other.id == shared.id) {
                let what = format!("{} is another node's of this domain: keep one", shared.id);
                self.fault("xen,shm-id", what);
            }
            let Some(region) = shared.on_host() else { continue };
            if let Some(other) = all.iter().find(|other| other.overlaps(&region)) {
                let what = format!("{region} is wanted twice: {other} is this domain's, too");
                self.fault("xen,shared-mem", what);
            }
            all.push(region);
        }
    }

    /// Nothing of the guest's lies where something else of its is, as far as that is
    /// known now.
    fn guest_addresses(&mut self) {
        let domain = self.claim.domain;
        let ram: Vec<Region> = if domain.static_memory.is_empty() && !domain.direct_map {
            layout::banks(layout::ram_size(domain))
        } else {
            layout::static_banks(domain).iter().map(|bank| bank.0).collect()
        };
        self.problems.extend(guest_addresses(
            self.claim,
            self.machine.v3,
            self.machine.address_bits,
            &ram,
        ));
    }

    /// Modules are read again whenever their domain starts.
    fn modules_of(&mut self, other: &Domain) {
        let domain = self.claim.domain;
        let mine: Vec<_> = domain
            .static_memory
            .iter()
            .map(|region| (*region, "xen,static-mem"))
            .chain(shared_regions(domain).map(|region| (region, "xen,shared-mem")))
            .collect();
        for (region, property) in mine {
            if let Some((module, name)) = modules(other).find(|(m, _)| m.overlaps(&region)) {
                let what = format!("{region} is where {}'s {name} is ({module})", other.name);
                self.fault(property, what);
            }
        }
    }

    /// What another domain has.
    fn against(&mut self, other: &Claim<'_>) {
        let (domain, name) = (self.claim.domain, &other.domain.name);
        for region in &domain.static_memory {
            if other.domain.static_memory.iter().any(|theirs| theirs.overlaps(region)) {
                self.fault("xen,static-mem", format!("{region} is {name}'s, too"));
            }
            if shared_regions(other.domain).any(|theirs| theirs.overlaps(region)) {
                self.fault("xen,static-mem", format!("{region} is shared memory of {name}"));
            }
        }
        for mine in &domain.shared_memory {
            let same = other.domain.shared_memory.iter().find(|theirs| theirs.id == mine.id);
            if same.is_some_and(|same| (same.host, same.size) != (mine.host, mine.size)) {
                let what = format!("{} is elsewhere, or of another size, in {name}", mine.id);
                self.fault("xen,shared-mem", what);
            }
            if same.is_some_and(|same| same.owner && mine.owner) {
                self.fault("role", format!("{} has another owner: {name}", mine.id));
            }
            let Some(region) = mine.on_host() else { continue };
            let clash = other.domain.static_memory.iter().any(|theirs| theirs.overlaps(&region))
                || same.is_none() && shared_regions(other.domain).any(|r| r.overlaps(&region));
            if clash {
                self.fault("xen,shared-mem", format!("{region} is {name}'s"));
            }
        }
        let (Some(mine), Some(theirs)) = (self.claim.passthrough, other.passthrough) else {
            return;
        };
        for mapping in &mine.mappings {
            if theirs.mappings.iter().any(|theirs| theirs.host.overlaps(&mapping.host)) {
                self.fault("xen,reg", format!("{} is {name}'s, too", mapping.host));
            }
        }
        for interrupt in &mine.interrupts {
            if theirs.interrupts.iter().any(|theirs| theirs.intid == interrupt.intid) {
                self.fault("interrupts", format!("INTID {} is {name}'s, too", interrupt.intid));
            }
        }
    }
}

fn shared_regions(domain: &Domain) -> impl Iterator<Item = Region> {
    domain.shared_memory.iter().filter_map(SharedMemory::on_host)
}
