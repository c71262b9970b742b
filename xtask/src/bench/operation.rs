//! What is measured, and from where to where.

/// One operation.
pub struct Operation {
    pub name: &'static str,
    pub from: &'static str,
    pub to: &'static str,
    pub unit: Unit,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    Instructions,
    Kib,
    /// Exits from a guest.
    Exits,
    /// A ratio, in thousandths.
    Thousandths,
}

impl Unit {
    /// A value's key in JSON.
    pub fn key(self) -> &'static str {
        match self {
            Unit::Instructions => "instructions",
            Unit::Kib => "kib",
            Unit::Exits => "exits",
            Unit::Thousandths => "ratio",
        }
    }
}

const fn operation(name: &'static str, from: &'static str, to: &'static str) -> Operation {
    Operation { name, from, to, unit: Unit::Instructions }
}

/// In the order of the table.
pub const OPERATIONS: &[Operation] = &[
    operation(
        "hypercall_null",
        "HVC of a function that doesn't exist",
        "its return, loop included",
    ),
    operation("smccc_version", "HVC of SMCCC_VERSION", "its return, loop included"),
    operation("psci_version", "HVC of PSCI_VERSION", "its return, loop included"),
    operation(
        "psci_affinity",
        "HVC of PSCI_AFFINITY_INFO, which looks at vCPUs",
        "its return, loop included",
    ),
    operation(
        "mmio_user_read",
        "a load from a PL031 register in the VMM",
        "the next instruction, loop included",
    ),
    operation(
        "mmio_user_write",
        "a store to a PL031 register in the VMM",
        "the next instruction, loop included",
    ),
    operation(
        "ioeventfd_write",
        "a store to a virtio queue's notify register",
        "the next instruction, loop included",
    ),
    operation(
        "console_read",
        "a load of UARTFR of the PL011 that the hypervisor itself emulates",
        "the next instruction, loop included",
    ),
    operation("vgic_read", "a load of GICD_TYPER", "the next instruction, loop included"),
    operation(
        "sgi_self",
        "writing ICC_SGI1R_EL1 for the own CPU",
        "the handler's third instruction (its time stamp)",
    ),
    operation(
        "sgi_other",
        "writing ICC_SGI1R_EL1, the sender then in WFE",
        "the handler's time stamp on a CPU that computes",
    ),
    operation(
        "sgi_asleep",
        "writing ICC_SGI1R_EL1, the sender then in WFE",
        "the handler's time stamp on a CPU that was in WFI",
    ),
    operation("eoi", "writing ICC_EOIR1_EL1", "the next instruction"),
    operation(
        "timer",
        "the virtual timer's deadline, the vCPU computing",
        "the handler's time stamp",
    ),
    operation(
        "timer_wfi",
        "the virtual timer's deadline, the vCPU in WFI",
        "the handler's time stamp",
    ),
    operation(
        "s2_fault_2m",
        "the first store to 2 MiB that nobody touched",
        "the next instruction",
    ),
    operation(
        "s2_fault_4k",
        "the first store to a 4 KiB page that nobody touched",
        "the next instruction, loop included",
    ),
    operation(
        "fp_first",
        "the first FP instruction after an exit to the VMM",
        "the next instruction",
    ),
    operation(
        "run_exit",
        "KVM_RUN with immediate_exit set, at EL0",
        "its EINTR at EL0, loop included",
    ),
    operation(
        "vcpu_switch",
        "KVM_RUN of one VM's vCPU, at EL0, after the other VM's on this CPU",
        "its guest's exit by a store, at EL0",
    ),
    operation(
        "vm_cycle",
        "KVM_CREATE_VM; two slots, a vCPU, a run to the guest's first exit",
        "the last file descriptor closed",
    ),
    operation(
        "blk_read_4k",
        "telling a virtio block device of a read of 4 KiB, the vCPU then in WFI",
        "its interrupt handler's time stamp",
    ),
    operation("boot_host", "power-on", "the first instructions of the host's /init"),
    operation(
        "boot_guest",
        "power-on, the guest's kernel in the host's initramfs",
        "the first instructions of a Debian guest's /init; the guest has 1 vCPU",
    ),
    Operation {
        name: "guest_boot_exits",
        from: "a Debian guest's first instruction, 1 vCPU",
        to: "the first instructions of its /init: how often it exited",
        unit: Unit::Exits,
    },
    Operation {
        name: "guest_boot_ratio",
        from: "the same, in instructions of guest and host",
        to: "the end of the kernel's self-tests, by those of the same kernel and initramfs on the machine itself",
        unit: Unit::Thousandths,
    },
    operation("boot_guest_2", "as `boot_guest`, with 2 vCPUs", "the same"),
    Operation {
        name: "guest_boot_exits_2",
        from: "as `guest_boot_exits`, with 2 vCPUs",
        to: "the same",
        unit: Unit::Exits,
    },
    Operation {
        name: "guest_boot_ratio_2",
        from: "as `guest_boot_ratio`, with 2 vCPUs",
        to: "the same, by those of a machine with 2 CPUs",
        unit: Unit::Thousandths,
    },
    Operation {
        name: "mem_host_kib",
        from: "the machine's memory, 2 GiB",
        to: "what of it programs can't have (MemAvailable) once the host is up",
        unit: Unit::Kib,
    },
    Operation {
        name: "mem_vm_kib",
        from: "MemAvailable before eight VMs of one vCPU that ran",
        to: "MemAvailable while they are there, by eight",
        unit: Unit::Kib,
    },
];

/// The operation with this name.
pub fn find(name: &str) -> Option<&'static Operation> {
    OPERATIONS.iter().find(|operation| operation.name == name)
}

/// A Debian guest's boot, and what it measures.
pub struct GuestBoot {
    pub vcpus: u32,
    pub boot: &'static str,
    pub exits: &'static str,
    pub ratio: &'static str,
}

pub const GUEST_BOOTS: [GuestBoot; 2] = [
    GuestBoot {
        vcpus: 1,
        boot: "boot_guest",
        exits: "guest_boot_exits",
        ratio: "guest_boot_ratio",
    },
    GuestBoot {
        vcpus: 2,
        boot: "boot_guest_2",
        exits: "guest_boot_exits_2",
        ratio: "guest_boot_ratio_2",
    },
];

impl GuestBoot {
    /// Is it one of this boot's operations?
    pub fn measures(&self, op: &str) -> bool {
        [self.boot, self.exits, self.ratio].contains(&op)
    }
}

/// Is it an operation of a Debian guest's boot?
pub fn is_guest_boot(op: &str) -> bool {
    GUEST_BOOTS.iter().any(|boot| boot.measures(op))
}

/// The table of endpoints in Markdown, as docs/bench.md has it.
#[cfg(test)]
pub fn endpoints() -> String {
    let mut text = String::from("| operation | from | to |\n| --- | --- | --- |\n");
    for Operation { name, from, to, .. } in OPERATIONS {
        text += &format!("| `{name}` | {from} | {to} |\n");
    }
    text
}

/// The same for `--help`.
pub fn help() -> String {
    let mut text = String::from("Operations, from and to:\n");
    for Operation { name, from, to, .. } in OPERATIONS {
        text += &format!("  {name:<18} {from} → {to}\n");
    }
    text + "\ndocs/bench.md says how they are counted."
}

#[cfg(test)]
mod tests {
    #[test]
    fn documented() {
        let file = crate::paths::root().join("docs/bench.md");
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.contains(&super::endpoints()), "docs/bench.md lacks:\n{}", super::endpoints());
    }
}
