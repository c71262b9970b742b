//! From the device tree to what is built: which VMs, on which CPUs.

use crate::machine::{Gic, Machine, Registers, regions};
use crate::{cpu, features, gic, memory};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use domain::claims::{self, Claim};
use domain::passthrough::{self, Passthrough};
use domain::{Domain, Placement, Problem, Region};
use fdt::Fdt;

/// A VM to build.
pub struct Plan {
    /// What the device tree says.
    pub domain: Domain,
    /// The CPUs (as this kernel counts them): of an exclusive VM one for each
    /// virtual CPU, of a shared one those that they take turns on.
    pub cpus: Vec<usize>,
    /// The machine's devices that it gets.
    pub passthrough: Option<Passthrough>,
}

impl Plan {
    /// Whether each virtual CPU has a CPU to itself.
    pub fn is_exclusive(&self) -> bool {
        self.domain.placement == Placement::Exclusive
    }

    /// The CPUs that virtual CPU `index` may run on, a bit each.
    pub fn affinity(&self, index: usize) -> u64 {
        let bit = |cpu: &usize| 1u64 << (cpu & 63);
        match self.cpus.get(index) {
            Some(cpu) if self.is_exclusive() => bit(cpu),
            _ => self.cpus.iter().map(bit).fold(0, |mask, bit| mask | bit),
        }
    }

    /// All CPUs that it may run on.
    pub fn all_cpus(&self) -> u64 {
        self.cpus.iter().fold(0, |mask, cpu| mask | 1u64 << (cpu & 63))
    }
}

/// The CPUs that run tasks, a bit each.
pub fn online_cpus() -> u64 {
    let index = |cpu: &cpu::Cpu| cpu.index.load(Ordering::Relaxed);
    cpu::online().fold(0, |mask, cpu| mask | 1u64 << (index(cpu) & 63))
}

/// The CPUs that VMs have to themselves, a bit each.
pub fn exclusive_cpus(plans: &[Plan]) -> u64 {
    let exclusive = plans.iter().filter(|plan| plan.is_exclusive());
    exclusive.fold(0, |mask, plan| mask | plan.all_cpus())
}

/// How much memory the plans' modules take: several VMs may have the same.
pub fn module_bytes(plans: &[Plan]) -> u64 {
    let mut modules: Vec<Region> = plans
        .iter()
        .map(|plan| &plan.domain)
        .flat_map(|domain| [Some(domain.kernel), domain.ramdisk, domain.partial_tree])
        .flatten()
        .collect();
    modules.sort_unstable();
    modules.dedup();
    let bytes = |module: &Region| module.size.next_multiple_of(base::PAGE_SIZE);
    modules.iter().fold(0, |sum, module| sum.saturating_add(bytes(module)))
}

/// Reads the tree, says in the log what can't be, and returns what can.
pub fn read() -> Vec<Plan> {
    let (Some(machine), Some(tree)) = (memory::machine(), memory::device_tree()) else {
        return Vec::new();
    };
    let found = domain::read(&tree);
    found.problems.iter().for_each(refuse);
    let mut domains = Vec::new();
    for domain in found.domains {
        match passthrough(&domain, &tree, machine) {
            Ok(devices) => domains.push((domain, devices)),
            Err(problems) => problems.iter().for_each(refuse),
        }
    }
    let refused = claims(&domains, machine);
    for (_, problem) in &refused {
        refuse(problem);
    }
    let mut at = 0usize;
    domains.retain(|_| {
        let fine = refused.iter().all(|(index, _)| *index != at);
        at = at.wrapping_add(1);
        fine
    });
    place(domains, machine)
}

fn refuse(problem: &Problem) {
    log::error!("Type-1: {problem}");
}

/// What the domain's partial device tree asks for.
fn passthrough(
    domain: &Domain,
    tree: &Fdt<'_>,
    machine: &Machine,
) -> Result<Option<Passthrough>, Vec<Problem>> {
    let Some(module) = domain.partial_tree else { return Ok(None) };
    if !is_ram(machine, &module) {
        // `claims` says so.
        return Ok(None);
    }
    let fragment = fragment(domain).map_err(|problem| alloc::vec![problem])?;
    let devices = passthrough::read(domain, &fragment, tree)?;
    for device in &devices.may_dma {
        log::warn!("Type-1: {}: {device} may write memory of its own accord", domain.name);
    }
    if !devices.may_dma.is_empty() {
        log::warn!("Type-1: {}: no IOMMU is driven: this VM is trusted", domain.name);
    }
    Ok(Some(devices))
}

/// A domain's partial device tree.
pub fn fragment(domain: &Domain) -> Result<Fdt<'static>, Problem> {
    let module = domain.partial_tree.and_then(memory::module).unwrap_or_default();
    passthrough::fragment(domain, module)
}

fn is_ram(machine: &Machine, region: &Region) -> bool {
    machine.memory.iter().any(|ram| ram.start.get() <= region.start && region.end() <= ram.end())
}

/// Who wants what isn't there, or what another has.
fn claims(
    domains: &[(Domain, Option<Passthrough>)],
    machine: &Machine,
) -> Vec<(usize, Problem)> {
    let ram = regions(&machine.memory);
    let all_ram = regions(&machine.all_memory);
    let reserved = regions(&machine.kept);
    let set_aside = regions(&machine.reserved);
    let [image, _, _, end] = memory::image().map(memory::virt_to_phys);
    let mut taken = alloc::vec![(Region::new(image, end.wrapping_sub(image)), "the kernel")];
    let mut device = |registers: &Registers, name| {
        taken.push((Region::new(registers.base, registers.len), name));
    };
    match &machine.gic {
        Some(Gic::V3 { distributor, redistributors }) => {
            device(distributor, "the GIC");
            redistributors.iter().for_each(|region| device(region, "the GIC"));
        }
        Some(Gic::V2 { distributor, cpu, hypervisor, guest }) => {
            device(distributor, "the GIC");
            device(cpu, "the GIC");
            hypervisor.iter().chain(guest).for_each(|region| device(region, "the GIC"));
        }
        None => {}
    }
    let mut interrupts = Vec::new();
    for serial in machine.used_serials() {
        device(&serial.registers, "the console");
        interrupts.extend(serial.intid);
    }
    if let Some(serial) = machine.lasting_earlycon() {
        device(&serial.registers, "earlycon's");
    }
    let claims: Vec<_> = domains
        .iter()
        .map(|(domain, devices)| Claim { domain, passthrough: devices.as_ref() })
        .collect();
    let v3 = matches!(machine.gic, Some(Gic::V3 { .. }));
    let machine = claims::Machine {
        ram: &ram,
        all_ram: &all_ram,
        reserved: &reserved,
        set_aside: &set_aside,
        taken: &taken,
        interrupts: &interrupts,
        lines: gic::lines(),
        v3,
        // As the facts that VMs are made by have it.
        address_bits: features::common().id.pa_bits().clamp(32, 48) as u8,
    };
    claims::check(&claims, &machine)
}

/// Gives each its CPUs.
fn place(domains: Vec<(Domain, Option<Passthrough>)>, machine: &Machine) -> Vec<Plan> {
    let online: Vec<Option<usize>> = machine.cpus.iter().map(|id| online(*id)).collect();
    let runs: Vec<bool> = online.iter().map(Option::is_some).collect();
    let only: Vec<Domain> = domains.iter().map(|(domain, _)| domain.clone()).collect();
    let (places, problems) = domain::cpus::assign(&only, &runs);
    problems.iter().for_each(refuse);
    let mut plans = Vec::new();
    for ((domain, passthrough), numbers) in domains.into_iter().zip(places) {
        let index = |number: &u32| online.get(*number as usize).copied().flatten();
        let cpus: Vec<usize> = numbers.iter().filter_map(index).collect();
        if !cpus.is_empty() {
            plans.push(Plan { domain, cpus, passthrough });
        }
    }
    plans
}

/// The running CPU that has this MPIDR.
fn online(id: u64) -> Option<usize> {
    cpu::online()
        .find(|cpu| cpu.hardware_id.load(Ordering::Relaxed) == id)
        .map(|cpu| cpu.index.load(Ordering::Relaxed) as usize)
}
