//! The KVM devices: Documentation/virt/kvm/devices/arm-vgic.rst (GICv2) and
//! arm-vgic-v3.rst.

#[cfg(feature = "user-space")]
mod user;

use crate::lr::ListRegisters;
use crate::mmio::{By, GICD_IIDR, is_dist_register, is_redist_register};
use crate::mmio_v2::{is_cpu_register, is_dist_register_v2};
use crate::regions::FRAME;
use crate::sysreg::IccReg;
use crate::vgic::{Cpu, Live, Vgic};
use alloc::boxed::Box;
use alloc::sync::Arc;
use base::{Errno, Result};
use core::sync::atomic::Ordering;

/// KVM_DEV_ARM_VGIC_GRP_ADDR.
pub const GRP_ADDR: u32 = 0;
/// KVM_DEV_ARM_VGIC_GRP_DIST_REGS.
pub const GRP_DIST_REGS: u32 = 1;
/// KVM_DEV_ARM_VGIC_GRP_CPU_REGS: GICv2's.
pub const GRP_CPU_REGS: u32 = 2;
/// KVM_DEV_ARM_VGIC_GRP_NR_IRQS.
pub const GRP_NR_IRQS: u32 = 3;
/// KVM_DEV_ARM_VGIC_GRP_CTRL.
pub const GRP_CTRL: u32 = 4;
/// KVM_DEV_ARM_VGIC_GRP_REDIST_REGS.
pub const GRP_REDIST_REGS: u32 = 5;
/// KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS.
pub const GRP_CPU_SYSREGS: u32 = 6;
/// KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO.
pub const GRP_LEVEL_INFO: u32 = 7;

/// KVM_VGIC_V2_ADDR_TYPE_DIST.
pub const ADDR_V2_DIST: u64 = 0;
/// KVM_VGIC_V2_ADDR_TYPE_CPU.
pub const ADDR_V2_CPU: u64 = 1;
/// KVM_VGIC_V3_ADDR_TYPE_DIST.
pub const ADDR_DIST: u64 = 2;
/// KVM_VGIC_V3_ADDR_TYPE_REDIST.
pub const ADDR_REDIST: u64 = 3;
/// KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION.
pub const ADDR_REDIST_REGION: u64 = 5;

/// KVM_DEV_ARM_VGIC_CTRL_INIT.
pub const CTRL_INIT: u64 = 0;
/// KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES.
pub const CTRL_SAVE_PENDING_TABLES: u64 = 3;

/// VGIC_LEVEL_INFO_LINE_LEVEL.
const LINE_LEVEL: u64 = 0;
/// GICD_IIDR.Revision.
const IIDR_REVISION: u32 = 0xf << 12;

/// The vCPUs of the VM, for attributes that may be touched only while none
/// runs.
pub trait Vcpus {
    /// Keeps all vCPUs out of KVM_RUN until the answer is dropped; `EBUSY` if
    /// one is in it.
    fn stop(&self) -> Result<Box<dyn Stopped + '_>>;
}

/// All vCPUs are out of KVM_RUN.
pub trait Stopped {
    /// The CPU interface of the vCPU with this index, not in the hardware.
    fn interface(&mut self, vcpu: usize) -> Option<&mut ListRegisters>;
}

/// A register access through the device.
enum Access {
    Get,
    Set(u64),
}

impl Vgic {
    /// KVM_HAS_DEVICE_ATTR: `ENXIO` if there is no such attribute.
    pub fn has_attr(&self, group: u32, attr: u64) -> Result<()> {
        if self.is_v2() {
            return self.has_attr_v2(group, attr);
        }
        let known = match group {
            GRP_ADDR => matches!(attr, ADDR_DIST | ADDR_REDIST | ADDR_REDIST_REGION),
            GRP_DIST_REGS => is_dist_register(attr as u32),
            GRP_REDIST_REGS => {
                self.vcpu_of(attr).ok_or(Errno::EINVAL)?;
                is_redist_register(attr as u32)
            }
            GRP_CPU_SYSREGS => {
                self.vcpu_of(attr).ok_or(Errno::EINVAL)?;
                IccReg::from_encoding(attr as u16).is_some()
            }
            GRP_NR_IRQS => true,
            GRP_CTRL => matches!(attr, CTRL_INIT | CTRL_SAVE_PENDING_TABLES),
            GRP_LEVEL_INFO => level_info(attr) == LINE_LEVEL,
            _ => false,
        };
        if known { Ok(()) } else { Err(Errno::ENXIO) }
    }

    fn has_attr_v2(&self, group: u32, attr: u64) -> Result<()> {
        let known = match group {
            GRP_ADDR => matches!(attr, ADDR_V2_DIST | ADDR_V2_CPU),
            GRP_DIST_REGS | GRP_CPU_REGS => {
                self.attr_cpu(group, attr)?;
                is_register_v2(group, attr as u32)
            }
            GRP_NR_IRQS => true,
            GRP_CTRL => attr == CTRL_INIT,
            _ => false,
        };
        if known { Ok(()) } else { Err(Errno::ENXIO) }
    }

    /// GRP_ADDR, and KVM_ARM_SET_DEVICE_ADDR of a GICv2.
    pub fn set_address(&self, attr: u64, value: u64) -> Result<()> {
        self.set_addr(attr, value)
    }

    /// Whether attribute `attr` of GRP_ADDR is one of this GIC's.
    fn is_addr(&self, attr: u64) -> bool {
        match self.is_v2() {
            true => matches!(attr, ADDR_V2_DIST | ADDR_V2_CPU),
            false => matches!(attr, ADDR_DIST | ADDR_REDIST | ADDR_REDIST_REGION),
        }
    }

    /// Whether this GIC has that group of 32-bit registers.
    fn has_words(&self, group: u32) -> bool {
        match self.is_v2() {
            true => matches!(group, GRP_DIST_REGS | GRP_CPU_REGS),
            false => matches!(group, GRP_DIST_REGS | GRP_REDIST_REGS | GRP_LEVEL_INFO),
        }
    }

    fn set_addr(&self, attr: u64, value: u64) -> Result<()> {
        let ipa_bits = self.config.ipa_bits;
        let mut setup = self.setup.lock();
        let vcpus = setup.cpus.len();
        match attr {
            _ if !self.is_addr(attr) => Err(Errno::ENXIO),
            ADDR_V2_CPU => setup.regions.set_cpu(value, ipa_bits),
            ADDR_V2_DIST | ADDR_DIST => setup.regions.set_dist(value, ipa_bits),
            ADDR_REDIST => {
                setup.regions.add_redists(0, value, 0, vcpus, ipa_bits)?;
                setup.place_redists();
                Ok(())
            }
            ADDR_REDIST_REGION => {
                let (index, flags, count) = (value & 0xfff, value & 0xf000, value >> 52);
                if flags != 0 || count == 0 {
                    return Err(Errno::EINVAL);
                }
                let base = value & 0x000f_ffff_ffff_0000;
                setup.regions.add_redists(index, base, count, vcpus, ipa_bits)?;
                setup.place_redists();
                Ok(())
            }
            _ => Err(Errno::ENXIO),
        }
    }

    fn get_addr(&self, attr: u64, given: u64) -> Result<u64> {
        let setup = self.setup.lock();
        match attr {
            _ if !self.is_addr(attr) => Err(Errno::ENXIO),
            ADDR_V2_CPU => Ok(setup.regions.cpu.unwrap_or(u64::MAX)),
            ADDR_V2_DIST | ADDR_DIST => Ok(setup.regions.dist().unwrap_or(u64::MAX)),
            ADDR_REDIST => Ok(setup.regions.redists(0).map_or(u64::MAX, |region| region.base)),
            ADDR_REDIST_REGION => {
                let index = given & 0xfff;
                let region = setup.regions.redists(index).ok_or(Errno::ENOENT)?;
                debug_assert!(region.base.is_multiple_of(FRAME));
                Ok(region.count << 52 | region.base | index)
            }
            _ => Err(Errno::ENXIO),
        }
    }

    /// KVM_DEV_ARM_VGIC_GRP_NR_IRQS.
    pub fn set_nr_irqs(&self, nr_irqs: u32) -> Result<()> {
        if !(64..=1024).contains(&nr_irqs) || !nr_irqs.is_multiple_of(32) {
            return Err(Errno::EINVAL);
        }
        let mut setup = self.setup.lock();
        if setup.nr_irqs != 0 {
            return Err(Errno::EBUSY);
        }
        setup.nr_irqs = nr_irqs;
        Ok(())
    }

    /// The vCPU in an attribute's mpidr field.
    fn vcpu_of(&self, attr: u64) -> Option<Arc<Cpu>> {
        let affinity = (attr >> 32) as u32;
        let setup = self.setup.lock();
        setup.cpus.iter().find(|cpu| cpu.affinity() == affinity).cloned()
    }

    /// The vCPU of an attribute; the distributor takes any.
    fn attr_cpu(&self, group: u32, attr: u64) -> Result<Arc<Cpu>> {
        let cpu = match group {
            // A vCPU's index, or KVM's number: the same if they were made in order.
            GRP_DIST_REGS | GRP_CPU_REGS if self.is_v2() => {
                let id = (attr >> 32) as u32 & 0xff;
                self.setup.lock().cpus.iter().find(|cpu| cpu.id() == id).cloned()
            }
            GRP_DIST_REGS => self.setup.lock().cpus.first().cloned(),
            _ => self.vcpu_of(attr),
        };
        cpu.ok_or(Errno::EINVAL)
    }

    fn access(
        &self,
        group: u32,
        attr: u64,
        cpu: &Cpu,
        access: Access,
        vcpus: &dyn Vcpus,
    ) -> Result<u64> {
        let mut stopped = vcpus.stop()?;
        let offset = attr as u32;
        if group == GRP_DIST_REGS && offset == GICD_IIDR {
            // The one that may be set before initialisation.
            return self.access_iidr(access);
        }
        if self.is_v2() {
            return self.access_v2(group, offset, cpu, access, &mut *stopped);
        }
        let live = self.live().ok_or(Errno::EBUSY)?;
        match group {
            GRP_CPU_SYSREGS => {
                let reg = IccReg::from_encoding(attr as u16).ok_or(Errno::ENXIO)?;
                let interface = stopped.interface(cpu.index()).ok_or(Errno::EINVAL)?;
                match access {
                    Access::Get => interface.icc_read(reg, &self.config),
                    Access::Set(value) => interface.icc_write(reg, value, &self.config).map(|()| 0),
                }
            }
            GRP_LEVEL_INFO => {
                let first = (attr & 0x3ff) as u32;
                if level_info(attr) != LINE_LEVEL || !first.is_multiple_of(32) {
                    return Err(Errno::EINVAL);
                }
                self.fold_all(live, &mut *stopped);
                match access {
                    Access::Get => Ok(u64::from(self.lines(live, cpu, first))),
                    Access::Set(lines) => {
                        self.set_lines(live, cpu, first, lines as u32);
                        Ok(0)
                    }
                }
            }
            GRP_DIST_REGS => {
                if !is_dist_register(offset) {
                    return Err(Errno::ENXIO);
                }
                self.fold_all(live, &mut *stopped);
                match access {
                    Access::Get => Ok(self.dist_read(live, offset, 4, By::User)),
                    Access::Set(value) => {
                        self.dist_write(live, offset, 4, value, By::User);
                        Ok(0)
                    }
                }
            }
            _ => {
                if !is_redist_register(offset) {
                    return Err(Errno::ENXIO);
                }
                self.fold_all(live, &mut *stopped);
                match access {
                    Access::Get => Ok(self.redist_read(live, cpu, offset, 4, By::User)),
                    Access::Set(value) => {
                        self.redist_write(live, cpu, offset, 4, value, By::User);
                        Ok(0)
                    }
                }
            }
        }
    }

    /// A register of a GICv2, which is initialised by the first access.
    fn access_v2(
        &self,
        group: u32,
        offset: u32,
        cpu: &Cpu,
        access: Access,
        stopped: &mut dyn Stopped,
    ) -> Result<u64> {
        self.init()?;
        let live = self.live().ok_or(Errno::EBUSY)?;
        if !is_register_v2(group, offset) {
            return Err(Errno::ENXIO);
        }
        if group == GRP_CPU_REGS {
            let interface = stopped.interface(cpu.index()).ok_or(Errno::EINVAL)?;
            return match access {
                Access::Get => Ok(u64::from(interface.gicc_read(offset))),
                Access::Set(value) => {
                    interface.gicc_write(offset, value as u32);
                    Ok(0)
                }
            };
        }
        self.fold_all(live, stopped);
        match access {
            Access::Get => Ok(self.dist_read_v2(live, cpu, offset, 4, By::User)),
            Access::Set(value) => {
                self.dist_write_v2(live, cpu, offset, 4, value, By::User);
                Ok(0)
            }
        }
    }

    /// GICD_IIDR: user space confirms the revision that it knows.
    fn access_iidr(&self, access: Access) -> Result<u64> {
        match access {
            Access::Get => Ok(u64::from(self.iidr())),
            Access::Set(value) => {
                let value = value as u32;
                let revision = (value & IIDR_REVISION) >> 12;
                if (value ^ self.iidr()) & !IIDR_REVISION != 0 || !matches!(revision, 2 | 3) {
                    return Err(Errno::EINVAL);
                }
                self.revision.store(revision, Ordering::Relaxed);
                self.groups_from_user.store(true, Ordering::Relaxed);
                Ok(0)
            }
        }
    }

    /// Folds every vCPU's list registers back: all state is in the banks then.
    fn fold_all(&self, live: &Live, stopped: &mut dyn Stopped) {
        for cpu in &live.cpus {
            if let Some(interface) = stopped.interface(cpu.index()) {
                // Nobody is loaded: lines of physical interrupts stay as last
                // seen.
                let lines = cpu.lock_raw().line;
                self.sync(cpu.index(), interface, lines);
                if cpu.needs_flush() {
                    // It must fill them again before its guest runs on.
                    self.kick(cpu.index());
                }
            }
        }
    }
}

fn is_register_v2(group: u32, offset: u32) -> bool {
    match group {
        GRP_DIST_REGS => is_dist_register_v2(offset),
        _ => is_cpu_register(offset),
    }
}

/// The info field of KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO.
fn level_info(attr: u64) -> u64 {
    (attr & 0xffff_ffff) >> 10
}
