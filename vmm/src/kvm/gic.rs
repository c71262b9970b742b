//! The in-kernel interrupt controller (Documentation/virt/kvm/devices/arm-vgic*.rst).

use kvm_bindings::{
    KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CTRL,
    KVM_DEV_ARM_VGIC_GRP_NR_IRQS, KVM_VGIC_V2_ADDR_TYPE_CPU, KVM_VGIC_V2_ADDR_TYPE_DIST,
    KVM_VGIC_V3_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_REDIST, kvm_create_device, kvm_device_attr,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
};
use kvm_ioctls::{DeviceFd, VmFd};

use super::candidates;
use crate::args::GicChoice;
use crate::error::{Context, Error, Result};
use crate::fdt::Gic;
use crate::layout;

/// GICv2's SGIs name their targets in eight bits.
const V2_CPUS: u32 = 8;

/// Creates the first version of `choice` that the host can virtualise.
pub fn create(vm: &VmFd, choice: GicChoice, cpus: u32) -> Result<(Gic, DeviceFd)> {
    for gic in candidates(choice) {
        let mut device = kvm_create_device {
            type_: match gic {
                Gic::V2 => kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2,
                Gic::V3 => kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
            },
            fd: 0,
            flags: 0,
        };
        match vm.create_device(&mut device) {
            Ok(_) if *gic == Gic::V2 && cpus > V2_CPUS => {
                return Err(Error::new(format!("--cpus {cpus}: GICv2 has at most {V2_CPUS}"))
                    .cure(format!("give --cpus {V2_CPUS} or less, or a host with GICv3")));
            }
            Ok(fd) => return Ok((*gic, fd)),
            Err(e) if e.errno() == libc::ENODEV => {}
            Err(e) => return Err(e).context("KVM_CREATE_DEVICE for the GIC"),
        }
    }
    let error =
        Error::new("the host cannot virtualise the interrupt controller that was asked for");
    Err(match choice {
        GicChoice::Auto => {
            error.cure("the host needs a GICv2 or GICv3 with the virtualisation extensions")
        }
        _ => error.cure("leave --gic away to take what there is"),
    })
}

/// Places it and initialises it, once the vCPUs are there.
pub fn init(fd: &DeviceFd, gic: Gic, cpus: u32, irqs: u32) -> Result<()> {
    set(fd, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &irqs)?;
    let address = |kind: u32, address: u64| set(fd, KVM_DEV_ARM_VGIC_GRP_ADDR, kind, &address);
    match gic {
        Gic::V3 => {
            address(KVM_VGIC_V3_ADDR_TYPE_DIST, layout::GICD_BASE)?;
            address(KVM_VGIC_V3_ADDR_TYPE_REDIST, layout::gicr_base(cpus))?;
        }
        Gic::V2 => {
            address(KVM_VGIC_V2_ADDR_TYPE_DIST, layout::GICD_BASE)?;
            address(KVM_VGIC_V2_ADDR_TYPE_CPU, layout::GICC_BASE)?;
        }
    }
    set(fd, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, &0u64)
}

fn set<T>(fd: &DeviceFd, group: u32, attr: u32, value: &T) -> Result<()> {
    let pointer: *const T = value;
    let attribute = kvm_device_attr {
        flags: 0,
        group,
        attr: attr.into(),
        // KVM reads as many bytes from there as the group says; each caller gives a type of that size.
        addr: u64::try_from(pointer.expose_provenance()).unwrap_or(0),
    };
    fd.set_device_attr(&attribute)
        .map_err(|e| Error::new(format!("setting up the GIC, group {group} attribute {attr}: {e}")))
}
