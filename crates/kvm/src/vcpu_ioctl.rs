//! The ioctls on a vCPU's file descriptor, but for KVM_RUN.

use crate::Done;
use crate::run::Vcpu;
use crate::vcpu::HCR_VSE;
use base::{Errno, Result, UserMem, UserMemExt};
use kvm_abi as abi;
use kvm_abi::ioctl;
use regime::HostRegime;
use traps::Exception;
use vtimer::TimerKind;

impl Vcpu {
    /// An ioctl on the vCPU's file descriptor.
    pub fn ioctl(
        &self,
        regime: &mut HostRegime,
        user: &dyn UserMem,
        request: u32,
        arg: u64,
    ) -> Result<Done> {
        self.vm.check_space()?;
        if request == ioctl::RUN {
            if arg != 0 {
                return Err(Errno::EINVAL);
            }
            return self.run(regime);
        }
        let Ok(_owned) = self.core.own() else { return Ok(Done::Wait) };
        match request {
            ioctl::ARM_VCPU_INIT => {
                let init = user.read_obj(arg)?;
                self.init(regime, &init)?;
            }
            ioctl::GET_ONE_REG | ioctl::SET_ONE_REG => {
                self.initialized()?;
                let reg: abi::OneReg = user.read_obj(arg)?;
                self.one_reg(regime, user, &reg, request == ioctl::SET_ONE_REG)?;
            }
            ioctl::GET_REG_LIST => {
                self.initialized()?;
                self.reg_list(user, arg)?;
            }
            ioctl::GET_MP_STATE => {
                user.write_obj(arg, &abi::MpState { mp_state: self.core.power_raw() })?;
            }
            ioctl::SET_MP_STATE => {
                let state: abi::MpState = user.read_obj(arg)?;
                match state.mp_state {
                    abi::MP_STATE_RUNNABLE | abi::MP_STATE_STOPPED | abi::MP_STATE_SUSPENDED => {
                        self.core.set_power(self.host(), state.mp_state);
                    }
                    _ => return Err(Errno::EINVAL),
                }
            }
            ioctl::GET_VCPU_EVENTS => {
                let state = self.core.state.lock();
                let events = abi::VcpuEvents {
                    serror_pending: u8::from(state.context.hcr_el2 & HCR_VSE != 0),
                    ext_dabt_pending: 0,
                    ..Default::default()
                };
                drop(state);
                user.write_obj(arg, &events)?;
            }
            ioctl::SET_VCPU_EVENTS => self.set_events(&user.read_obj(arg)?)?,
            ioctl::SET_DEVICE_ATTR | ioctl::GET_DEVICE_ATTR | ioctl::HAS_DEVICE_ATTR => {
                let attr: abi::DeviceAttr = user.read_obj(arg)?;
                self.attr(user, request, &attr)?;
            }
            ioctl::ARM_VCPU_FINALIZE => {
                self.initialized()?;
                let _: i32 = user.read_obj(arg)?;
                // Nothing that can be asked for needs it.
                return Err(Errno::EINVAL);
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(Done::Value(0))
    }

    fn initialized(&self) -> Result<()> {
        match self.core.state.lock().features {
            Some(_) => Ok(()),
            None => Err(Errno::ENOEXEC),
        }
    }

    fn set_events(&self, events: &abi::VcpuEvents) -> Result<()> {
        if events.reserved.iter().any(|word| *word != 0)
            || events.pad.iter().any(|byte| *byte != 0)
            || (events.serror_pending != 0 && events.serror_has_esr != 0)
        {
            // SErrors with a syndrome need KVM_CAP_ARM_INJECT_SERROR_ESR; that
            // there is none says nothing.
            return Err(Errno::EINVAL);
        }
        let mut state = self.core.state.lock();
        if events.serror_pending != 0 {
            state.context.hcr_el2 |= HCR_VSE;
        } else {
            state.context.hcr_el2 &= !HCR_VSE;
        }
        if events.ext_dabt_pending != 0 {
            let far = state.context.far_el2;
            state.injected = Some(Exception::DataAbort { far });
        }
        Ok(())
    }

    /// The vCPU's own attributes: which PPIs the timers raise.
    fn attr(&self, user: &dyn UserMem, request: u32, attr: &abi::DeviceAttr) -> Result<()> {
        let kind = match (attr.group, attr.attr) {
            (abi::ARM_VCPU_TIMER_CTRL, abi::ARM_VCPU_TIMER_IRQ_VTIMER) => TimerKind::Virtual,
            (abi::ARM_VCPU_TIMER_CTRL, abi::ARM_VCPU_TIMER_IRQ_PTIMER) => TimerKind::Physical,
            _ => return Err(Errno::ENXIO),
        };
        match request {
            ioctl::SET_DEVICE_ATTR => {
                let intid: i32 = user.read_obj(attr.addr)?;
                if self.vm.vgic().is_none() {
                    return Err(Errno::EINVAL);
                }
                self.vm.config.lock().timer_irqs.set(kind, intid)
            }
            ioctl::GET_DEVICE_ATTR => {
                let intid = self.vm.config.lock().timer_irqs.get(kind);
                user.write_obj(attr.addr, &intid)
            }
            _ => Ok(()),
        }
    }
}
