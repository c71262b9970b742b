//! A device of a VM: the interrupt controller.

use crate::Done;
use crate::vcpu::{Owned, VcpuCore};
use crate::vm::Vm;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use base::{Errno, Result, UserMem, UserMemExt, room};
use kvm_abi as abi;
use kvm_abi::ioctl;
use regime::HostRegime;
use vgic::attr::{Stopped, Vcpus};
use vgic::{ListRegisters, Vgic};

/// What KVM_CREATE_DEVICE's file descriptor stands for.
pub struct Device {
    vm: Arc<Vm>,
    vgic: Arc<Vgic>,
}

impl Device {
    pub(crate) fn new(vm: Arc<Vm>, vgic: Arc<Vgic>) -> Device {
        Device { vm, vgic }
    }

    /// The VM, for [`Vm::release`].
    pub fn vm(&self) -> &Arc<Vm> {
        &self.vm
    }

    /// An ioctl on the device's file descriptor.
    pub fn ioctl(
        &self,
        regime: &mut HostRegime,
        user: &dyn UserMem,
        request: u32,
        arg: u64,
    ) -> Result<Done> {
        self.vm.check_space()?;
        // vCPUs inject what irqfds were signalled for; here they may all stand.
        self.vm.drain_all_irqfds(regime);
        let vcpus = AllVcpus { vm: &self.vm, regime };
        match request {
            ioctl::SET_DEVICE_ATTR => {
                let attr = read_attr(user, arg)?;
                self.vgic.set_attr(attr.group, attr.attr, user, attr.addr, &vcpus)?;
                self.vm.vcpus.wake_sleepers();
            }
            ioctl::GET_DEVICE_ATTR => {
                let attr = read_attr(user, arg)?;
                self.vgic.get_attr(attr.group, attr.attr, user, attr.addr, &vcpus)?;
            }
            ioctl::HAS_DEVICE_ATTR => {
                let attr = read_attr(user, arg)?;
                self.vgic.has_attr(attr.group, attr.attr)?;
            }
            _ => return Err(Errno::ENOTTY),
        }
        Ok(Done::Value(0))
    }
}

fn read_attr(user: &dyn UserMem, arg: u64) -> Result<abi::DeviceAttr> {
    let attr: abi::DeviceAttr = user.read_obj(arg)?;
    if attr.flags != 0 { Err(Errno::EINVAL) } else { Ok(attr) }
}

/// All vCPUs of the VM, out of KVM_RUN and with their CPU interfaces in memory.
struct AllVcpus<'a> {
    vm: &'a Vm,
    regime: &'a HostRegime,
}

struct Held<'a> {
    // Each vCPU, whose it is, and a copy of its interface, which goes back at
    // the end: two vCPUs' states aren't locked at once.
    vcpus: Vec<(&'a Arc<VcpuCore>, Owned<'a>, Box<ListRegisters>)>,
}

impl Vcpus for AllVcpus<'_> {
    fn stop(&self) -> Result<Box<dyn Stopped + '_>> {
        let owned = self.vm.stop_all()?;
        self.vm.pull_all(self.regime);
        let mut vcpus = room::try_vec(owned.len())?;
        for (core, owned) in self.vm.vcpus.iter().zip(owned) {
            let lrs = Box::new(core.state.lock().lrs.clone());
            vcpus.push((core, owned, lrs));
        }
        Ok(Box::new(Held { vcpus }))
    }
}

impl Stopped for Held<'_> {
    fn interface(&mut self, vcpu: usize) -> Option<&mut ListRegisters> {
        self.vcpus.get_mut(vcpu).map(|(_, _, lrs)| &mut **lrs)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        for (core, _, lrs) in &self.vcpus {
            core.state.lock().lrs = (**lrs).clone();
        }
    }
}
