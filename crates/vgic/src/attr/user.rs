//! Attributes whose values are in user memory.

use super::*;
use base::{UserMem, UserMemExt};

impl Vgic {
    /// KVM_SET_DEVICE_ATTR; `addr` is kvm_device_attr.addr.
    pub fn set_attr(
        &self,
        group: u32,
        attr: u64,
        mem: &dyn UserMem,
        addr: u64,
        vcpus: &dyn Vcpus,
    ) -> Result<()> {
        match group {
            GRP_ADDR => {
                if !self.is_addr(attr) {
                    return Err(Errno::ENXIO);
                }
                self.set_addr(attr, mem.read_obj(addr)?)
            }
            GRP_NR_IRQS => self.set_nr_irqs(mem.read_obj(addr)?),
            GRP_CTRL => match attr {
                CTRL_INIT => self.init(),
                // Without LPIs there is nothing to save.
                CTRL_SAVE_PENDING_TABLES if !self.is_v2() => vcpus.stop().map(drop),
                _ => Err(Errno::ENXIO),
            },
            _ if self.has_words(group) => {
                let cpu = self.attr_cpu(group, attr)?;
                let value: u32 = mem.read_obj(addr)?;
                self.access(group, attr, &cpu, Access::Set(u64::from(value)), vcpus).map(drop)
            }
            GRP_CPU_SYSREGS if !self.is_v2() => {
                let cpu = self.attr_cpu(group, attr)?;
                let value: u64 = mem.read_obj(addr)?;
                self.access(group, attr, &cpu, Access::Set(value), vcpus).map(drop)
            }
            _ => Err(Errno::ENXIO),
        }
    }

    /// KVM_GET_DEVICE_ATTR.
    pub fn get_attr(
        &self,
        group: u32,
        attr: u64,
        mem: &dyn UserMem,
        addr: u64,
        vcpus: &dyn Vcpus,
    ) -> Result<()> {
        match group {
            GRP_ADDR => {
                // A region's index comes in the value.
                let given = if attr == ADDR_REDIST_REGION { mem.read_obj(addr)? } else { 0 };
                mem.write_obj(addr, &self.get_addr(attr, given)?)
            }
            GRP_NR_IRQS => {
                let nr_irqs = self.setup.lock().nr_irqs;
                mem.write_obj(addr, &nr_irqs.max(32))
            }
            _ if self.has_words(group) => {
                let cpu = self.attr_cpu(group, attr)?;
                let value = self.access(group, attr, &cpu, Access::Get, vcpus)?;
                mem.write_obj(addr, &(value as u32))
            }
            GRP_CPU_SYSREGS if !self.is_v2() => {
                let cpu = self.attr_cpu(group, attr)?;
                let value = self.access(group, attr, &cpu, Access::Get, vcpus)?;
                mem.write_obj(addr, &value)
            }
            _ => Err(Errno::ENXIO),
        }
    }
}
