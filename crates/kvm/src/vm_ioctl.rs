//! The ioctls on a VM's file descriptor.

use crate::device::Device;
use crate::filter::Range;
use crate::system::check_extension;
use crate::vm::Vm;
use crate::{Done, irq};
use alloc::sync::Arc;
use alloc::vec::Vec;
use base::{Errno, Result, UserMem, UserMemExt, room};
use core::sync::atomic::Ordering;
use kvm_abi as abi;
use kvm_abi::ioctl;
use regime::HostRegime;
use vgic::Version;

impl Vm {
    /// Only the address space that made the VM may use it: `EIO`.
    pub(crate) fn check_space(&self) -> Result<()> {
        if self.host().address_space_id() == self.space().id() { Ok(()) } else { Err(Errno::EIO) }
    }

    /// An ioctl on the VM's file descriptor.
    pub fn ioctl(
        self: &Arc<Self>,
        regime: &mut HostRegime,
        user: &dyn UserMem,
        request: u32,
        arg: u64,
    ) -> Result<Done> {
        self.check_space()?;
        match request {
            ioctl::CHECK_EXTENSION => {
                Ok(Done::Value(check_extension(self.facts(), Some(self), arg)))
            }
            ioctl::CREATE_VCPU => self.create_vcpu(arg).map(Done::Vcpu),
            ioctl::SET_USER_MEMORY_REGION => self.set_memory(regime, &user.read_obj(arg)?),
            ioctl::SET_USER_MEMORY_REGION2 => {
                let region: abi::UserspaceMemoryRegion2 = user.read_obj(arg)?;
                // Without guest_memfd its fields are ignored, as Linux ignores
                // them without the flag.
                let old = abi::UserspaceMemoryRegion {
                    slot: region.slot,
                    flags: region.flags,
                    guest_phys_addr: region.guest_phys_addr,
                    memory_size: region.memory_size,
                    userspace_addr: region.userspace_addr,
                };
                self.set_memory(regime, &old)
            }
            ioctl::GET_DIRTY_LOG => {
                let log: abi::DirtyLog = user.read_obj(arg)?;
                // No slot has a dirty bitmap.
                Err(if log.slot >= crate::slots::MAX_SLOTS { Errno::EINVAL } else { Errno::ENOENT })
            }
            ioctl::IRQ_LINE => self.irq_line(user.read_obj(arg)?).map(zero),
            ioctl::IRQFD => self.irqfd(regime, &user.read_obj(arg)?).map(zero),
            ioctl::IOEVENTFD => self.ioeventfd(&user.read_obj(arg)?).map(zero),
            ioctl::SET_GSI_ROUTING => self.set_gsi_routing(regime, user, arg).map(zero),
            ioctl::CREATE_DEVICE => self.create_device(user.read_obj(arg)?, arg),
            ioctl::CREATE_IRQCHIP => match self.facts().gic() {
                // It is a GICv2, always.
                Some(_) => self.create_vgic(Version::V2).map(|_| Done::Value(0)),
                None => Err(Errno::ENXIO),
            },
            ioctl::ARM_SET_DEVICE_ADDR => self.set_device_addr(&user.read_obj(arg)?).map(zero),
            ioctl::ARM_PREFERRED_TARGET => {
                let target = abi::VcpuInit { target: abi::ARM_TARGET_GENERIC_V8, features: [0; 7] };
                user.write_obj(arg, &target).map(zero)
            }
            ioctl::ARM_SET_COUNTER_OFFSET => {
                let offset: abi::ArmCounterOffset = user.read_obj(arg)?;
                let stopped = self.stop_all()?;
                self.counters.set_offset(offset.counter_offset, offset.reserved)?;
                // Before one can run on with the old offset.
                self.pull_all(regime);
                drop(stopped);
                Ok(Done::Value(0))
            }
            ioctl::ENABLE_CAP => self.enable_cap(&user.read_obj(arg)?).map(zero),
            // None can be read: KVM_GET_DEVICE_ATTR isn't there.
            ioctl::SET_DEVICE_ATTR | ioctl::HAS_DEVICE_ATTR => {
                let attr: abi::DeviceAttr = user.read_obj(arg)?;
                match (attr.group, attr.attr) {
                    (abi::ARM_VM_SMCCC_CTRL, abi::ARM_VM_SMCCC_FILTER) => {}
                    _ => return Err(Errno::ENXIO),
                }
                if request == ioctl::SET_DEVICE_ATTR {
                    self.filter_calls(&user.read_obj(attr.addr)?)?;
                }
                Ok(Done::Value(0))
            }
            // As Linux's kvm_arch_vm_ioctl.
            _ => Err(Errno::EINVAL),
        }
    }

    fn enable_cap(&self, cap: &abi::EnableCap) -> Result<()> {
        if cap.flags != 0 {
            return Err(Errno::EINVAL);
        }
        match cap.cap {
            abi::cap::ARM_NISV_TO_USER => self.change(|new| {
                new.nisv_to_user = true;
                Ok(())
            }),
            abi::cap::ARM_SYSTEM_SUSPEND => self.change(|new| {
                new.policy.system_suspend = true;
                Ok(())
            }),
            _ => Err(Errno::EINVAL),
        }
    }

    /// KVM_ARM_VM_SMCCC_FILTER.
    fn filter_calls(&self, filter: &abi::SmcccFilter) -> Result<()> {
        let range = Range::decode(filter)?;
        self.change(|new| {
            // Set under the VM's lock, which is held here.
            if self.ran.load(Ordering::Relaxed) {
                return Err(Errno::EBUSY);
            }
            new.filter(range)
        })
    }

    fn create_device(self: &Arc<Self>, args: abi::CreateDevice, at: u64) -> Result<Done> {
        if args.flags & !abi::CREATE_DEVICE_TEST != 0 {
            return Err(Errno::EINVAL);
        }
        let version = match args.type_ {
            abi::DEV_TYPE_ARM_VGIC_V2 => Version::V2,
            abi::DEV_TYPE_ARM_VGIC_V3 => Version::V3,
            _ => return Err(Errno::ENODEV),
        };
        if self.facts().gic().is_none_or(|gic| gic.version != version) {
            return Err(Errno::ENODEV);
        }
        if args.flags & abi::CREATE_DEVICE_TEST != 0 {
            return Ok(Done::Value(0));
        }
        let vgic = self.create_vgic(version)?;
        let device = Arc::new(Device::new(self.clone(), vgic));
        let fd_at = at.checked_add(core::mem::offset_of!(abi::CreateDevice, fd) as u64);
        Ok(Done::Device { device, fd_at: fd_at.ok_or(Errno::EFAULT)? })
    }

    /// KVM_ARM_SET_DEVICE_ADDR: a GICv2's frames, before there were attributes.
    fn set_device_addr(&self, args: &abi::ArmDeviceAddr) -> Result<()> {
        let (device, kind) = (args.id >> 16 & 0xffff, args.id & 0xffff);
        if device != abi::ARM_DEVICE_VGIC_V2 {
            return Err(Errno::ENODEV);
        }
        if self.facts().gic().is_none() {
            return Err(Errno::ENXIO);
        }
        let vgic = self.vgic().filter(|vgic| vgic.version() == Version::V2);
        match kind {
            abi::vgic::V2_ADDR_TYPE_DIST | abi::vgic::V2_ADDR_TYPE_CPU => {
                vgic.ok_or(Errno::ENODEV)?.set_address(kind, args.addr)
            }
            _ => Err(Errno::ENODEV),
        }
    }

    /// Takes all vCPUs: `EBUSY` if one is in KVM_RUN.
    pub(crate) fn stop_all(&self) -> Result<Vec<crate::vcpu::Owned<'_>>> {
        let mut owned = room::try_vec(self.vcpus.len())?;
        for core in self.vcpus.iter() {
            owned.push(core.own().map_err(|_| Errno::EBUSY)?);
        }
        Ok(owned)
    }

    /// KVM_SET_GSI_ROUTING.
    fn set_gsi_routing(
        &self,
        regime: &mut HostRegime,
        user: &dyn UserMem,
        addr: u64,
    ) -> Result<()> {
        let head: abi::IrqRouting = user.read_obj(addr)?;
        if head.nr as usize > irq::MAX_ROUTES || head.flags != 0 {
            return Err(Errno::EINVAL);
        }
        let at = addr.checked_add(size_of::<abi::IrqRouting>() as u64).ok_or(Errno::EFAULT)?;
        let entries: Vec<abi::IrqRoutingEntry> = user.read_vec(at, head.nr as usize)?;
        let mut routes = room::try_vec(entries.len())?;
        for entry in &entries {
            let [chip, pin, ..] = entry.u;
            if entry.type_ != abi::IRQ_ROUTING_IRQCHIP
                || entry.flags != 0
                || entry.gsi as usize >= irq::MAX_ROUTES
                || chip != 0
                || pin >= irq::PINS
            {
                // MSIs need an ITS.
                return Err(Errno::EINVAL);
            }
            routes.push((entry.gsi, pin));
        }
        routes.sort_unstable();
        // One chip has one pin for each.
        if routes.array_windows().any(|[(a, _), (b, _)]| a == b) {
            return Err(Errno::EINVAL);
        }
        // What was signalled before goes where it went before.
        self.drain_all_irqfds(regime);
        let old = self.config.lock().routes.replace(routes);
        drop(old);
        Ok(())
    }
}

fn zero((): ()) -> Done {
    Done::Value(0)
}
