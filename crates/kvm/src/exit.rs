//! Exits that need the host's regime.

use crate::filter::Verdict;
use crate::run::Vcpu;
use crate::snapshot::VmSnapshot;
use crate::vcpu::{VcpuState, request};
use base::{Errno, PAGE_SIZE, Result};
use kvm_abi::run::{self as page, offset};
use psci::Action;
use regime::HostRegime;
use traps::esr::{Esr, Fault, ec, fault_ipa};
use traps::inject::skip;
use traps::sysreg::{Class, DebugReg, ICC_SRE, SysAccess, classify, oslsr};
use traps::{Exception, MmioAccess};
use vcpu_context::El1;
use vgic::{SgiKind, Vgic};
use vtimer::TimerReg;

/// What an exit leaves to be done with the vCPU's state unlocked.
#[derive(Debug)]
pub(crate) enum Todo {
    /// Nothing: the guest goes on.
    Resume,
    /// Let interrupts and other tasks in, then go on.
    Window,
    /// KVM_RUN returns 0; the run page says why.
    ToUser,
    /// The guest takes this exception.
    Inject(Exception),
    /// A firmware call.
    Call(Action),
    /// The guest cleans its caches by set and way.
    CleanAll,
    /// The guest caused an SError.
    SError(u64),
    /// The CPU couldn't enter.
    FailEntry(u64),
    /// An exit that nothing should cause.
    Unknown(u64),
}

impl Vcpu {
    /// Answers a synchronous exit that [`crate::fast`] left.
    pub(crate) fn handle(
        &self,
        state: &mut VcpuState,
        regime: &HostRegime,
        snapshot: &VmSnapshot,
    ) -> Result<Todo> {
        let esr = Esr(state.context.esr_el2);
        match esr.ec() {
            ec::DABT_LOWER => self.abort(state, regime, snapshot, esr, false),
            ec::IABT_LOWER => self.abort(state, regime, snapshot, esr, true),
            ec::SYSREG => Ok(self.system_register(state, snapshot, esr)),
            ec::WFX => {
                skip(&mut state.context);
                // WFIT and WFET may end early: they yield.
                if esr.is_wfe() || esr.has_timeout() {
                    return Ok(Todo::Window);
                }
                state.waiting = true;
                Ok(Todo::Resume)
            }
            ec::HVC64 => Ok(self.firmware(state, snapshot, 0)),
            ec::SMC64 => {
                // Trapped before it was executed, unlike HVC.
                skip(&mut state.context);
                if esr.immediate() != 0 {
                    state.context.set_x(0, psci::NOT_SUPPORTED);
                    return Ok(Todo::Resume);
                }
                Ok(self.firmware(state, snapshot, page::HYPERCALL_EXIT_SMC))
            }
            // What guests aren't offered: SVE, SME, pointer authentication,
            // AArch32, and whatever else is trapped. As on Linux.
            0x00..=0x1f | ec::MOPS => Ok(Todo::Inject(Exception::Undefined)),
            _ => Ok(Todo::Unknown(esr.0)),
        }
    }

    /// A stage-2 fault.
    fn abort(
        &self,
        state: &mut VcpuState,
        regime: &HostRegime,
        snapshot: &VmSnapshot,
        esr: Esr,
        fetch: bool,
    ) -> Result<Todo> {
        let far = state.context.far_el2;
        let give = |size: bool| {
            Ok(Todo::Inject(match (fetch, size) {
                (false, false) => Exception::DataAbort { far },
                (true, false) => Exception::InstructionAbort { far },
                (false, true) => Exception::DataAddressSize { far },
                (true, true) => Exception::InstructionAddressSize { far },
            }))
        };
        match esr.fault() {
            Fault::Translation | Fault::Permission | Fault::AccessFlag => {}
            Fault::External => return give(false),
            _ => return Err(Errno::EFAULT),
        }
        let ipa = fault_ipa(state.context.hpfar_el2, far);
        // Beyond what the guest sees as physical addresses; or only beyond the
        // size that its VMM gave it, where nothing answers.
        if ipa >= snapshot.ipa_limit {
            return give(ipa >> self.vm.facts().ipa_bits != 0);
        }
        let abort = esr.data_abort();
        let write = esr.needs_write();
        match snapshot.slots.find(ipa) {
            Some(slot) if !(write && slot.readonly) => {
                let space = self.vm.space();
                self.vm.memory.fault(regime, space, snapshot, slot, ipa, write)?;
                Ok(Todo::Resume)
            }
            // Nothing can be fetched from, and no page table lies in, a device.
            _ if fetch || esr.s1ptw() => give(false),
            _ if abort.cache_maintenance() => {
                skip(&mut state.context);
                Ok(Todo::Resume)
            }
            _ => match snapshot.device_at(ipa) {
                Some((device, at)) => {
                    let page = |at: u64| at & !PAGE_SIZE.wrapping_sub(1);
                    self.vm.memory.map_device(page(ipa), device, page(at))?;
                    Ok(Todo::Resume)
                }
                None => self.device(state, regime, snapshot, esr, ipa),
            },
        }
    }

    /// An access where there is no memory (or it is read-only).
    fn device(
        &self,
        state: &mut VcpuState,
        regime: &HostRegime,
        snapshot: &VmSnapshot,
        esr: Esr,
        ipa: u64,
    ) -> Result<Todo> {
        let Some(access) = MmioAccess::decode(esr, ipa) else {
            // The hardware doesn't say what the instruction does (api.rst,
            // KVM_CAP_ARM_NISV_TO_USER).
            if !snapshot.nisv_to_user {
                return Err(Errno::ENOSYS);
            }
            self.put_u64(offset::ARM_NISV_ESR_ISS, u64::from(esr.iss()));
            self.put_u64(offset::ARM_NISV_FAULT_IPA, ipa);
            self.set_exit(page::EXIT_ARM_NISV);
            return Ok(Todo::ToUser);
        };
        if let Some(vgic) = &snapshot.vgic
            && let Some((region, at)) = vgic.decode(ipa)
        {
            self.gic(state, vgic, region, at, &access);
            return Ok(Todo::Resume);
        }
        if let Some((device, at)) = snapshot.bus.find(ipa) {
            if access.is_write {
                device.write(regime, at, access.size, access.store_value(&state.context));
            } else {
                access.finish_load(&mut state.context, device.read(regime, at, access.size));
            }
            skip(&mut state.context);
            self.look_at_gic();
            return Ok(Todo::Resume);
        }
        let value = access.store_value(&state.context);
        if access.is_write
            && let Some(event) = snapshot.io_event(ipa, u32::from(access.size), value)
        {
            event.eventfd.signal(1);
            skip(&mut state.context);
            return Ok(Todo::Resume);
        }
        self.put_u64(offset::MMIO_PHYS_ADDR, ipa);
        if access.is_write {
            self.put_u64(offset::MMIO_DATA, value);
        }
        // len and is_write, which is a byte.
        let how = u64::from(access.size) | (u64::from(access.is_write) << 32);
        self.put_u64(offset::MMIO_LEN, how);
        self.set_exit(page::EXIT_MMIO);
        state.mmio = Some(access);
        Ok(Todo::ToUser)
    }

    fn gic(
        &self,
        state: &mut VcpuState,
        vgic: &Vgic,
        region: vgic::Region,
        at: u32,
        access: &MmioAccess,
    ) {
        if Vgic::needs_sync(region, at) {
            self.sync(state);
        }
        let (index, len) = (self.core.index, u32::from(access.size));
        if access.is_write {
            vgic.mmio_write(index, region, at, len, access.store_value(&state.context));
        } else {
            access.finish_load(&mut state.context, vgic.mmio_read(index, region, at, len));
        }
        skip(&mut state.context);
        self.look_at_gic();
    }

    /// The guest touched the interrupt controller: there may be news for itself.
    fn look_at_gic(&self) {
        if self.core.gic_has_news() {
            self.core.request(request::VGIC);
        }
    }

    fn system_register(&self, state: &mut VcpuState, snapshot: &VmSnapshot, esr: Esr) -> Todo {
        let access = SysAccess::decode(esr.iss());
        let facts = self.vm.facts();
        let written = state.context.x(access.rt);
        let class = classify(access, snapshot.has_gicv3(), snapshot.id.has_lor());
        let mut todo = Todo::Resume;
        let value = match class {
            Class::Undefined => return Todo::Inject(Exception::Undefined),
            Class::Id { crm, op2 } => snapshot.id.get(crm, op2),
            Class::RazWi => 0,
            Class::Constant(value) => value,
            Class::Ctr => facts.ctr,
            Class::Clidr => facts.clidr,
            Class::Actlr => facts.actlr,
            Class::Csselr => {
                if !access.is_read {
                    state.context.set_el1(El1::CSSELR_EL1, written & 0xf);
                }
                state.context.el1(El1::CSSELR_EL1)
            }
            Class::Ccsidr => {
                let selected = state.context.el1(El1::CSSELR_EL1) as u8;
                let known = facts.ccsidr.iter().find(|(select, _)| *select == selected);
                known.map_or(0, |(_, value)| u64::from(*value))
            }
            Class::Mdscr => cell(&mut state.context.mdscr_el1, access, written),
            Class::OsLockWrite => {
                state.os_lock = written & 1 != 0;
                0
            }
            Class::OsLockStatus => oslsr(state.os_lock),
            Class::Debug { kind, n } => match debug_reg(state, kind, n) {
                Some(slot) => cell(slot, access, written),
                None => 0,
            },
            Class::DcSetWay => {
                // Loops over all sets and ways come by the first of them.
                if written >> 4 == 0 {
                    todo = Todo::CleanAll;
                }
                0
            }
            Class::IccSgi1r => self.sgi(snapshot, written, SgiKind::Sgi1),
            Class::IccAsgi1r => self.sgi(snapshot, written, SgiKind::Asgi1),
            Class::IccSgi0r => self.sgi(snapshot, written, SgiKind::Sgi0),
            Class::IccDir => {
                // Trapped only while interrupts are active without a list
                // register (ICH_HCR_EL2.TDIR).
                self.sync(state);
                if let Some(vgic) = &snapshot.vgic {
                    vgic.deactivate(self.core.index, written as u32);
                    self.look_at_gic();
                }
                0
            }
            Class::IccSre => ICC_SRE,
            Class::Cntpct => self.host_now().wrapping_sub(state.counters.physical_offset()),
            Class::CntpTval => self.ptimer(state, TimerReg::Tval, access, written),
            Class::CntpCtl => self.ptimer(state, TimerReg::Ctl, access, written),
            Class::CntpCval => self.ptimer(state, TimerReg::Cval, access, written),
        };
        if access.is_read {
            state.context.set_x(access.rt, value);
        }
        skip(&mut state.context);
        todo
    }

    /// SMCCC: function in W0, arguments in X1 to X3. `flags` is for the VMM. The PC
    /// is behind the instruction.
    fn firmware(&self, state: &mut VcpuState, snapshot: &VmSnapshot, flags: u64) -> Todo {
        let [function, arg1, arg2, arg3, ..] = state.context.regs;
        let function = function as u32;
        let action = match snapshot.verdict(function) {
            Verdict::Handle => psci::decide(&snapshot.policy, function, [arg1, arg2, arg3]),
            Verdict::Deny => Action::Return(psci::NOT_SUPPORTED),
            Verdict::Forward => {
                self.forward(function, flags);
                return Todo::ToUser;
            }
        };
        match action {
            Action::Return(value) => {
                state.context.set_x(0, value);
                Todo::Resume
            }
            action => Todo::Call(action),
        }
    }

    /// The call is the VMM's to answer, by the vCPU's registers: none are shown here.
    pub(crate) fn forward(&self, function: u32, flags: u64) {
        for at in (offset::HYPERCALL_ARGS..offset::HYPERCALL_FLAGS).step_by(8) {
            self.put_u64(at, 0);
        }
        self.put_u64(offset::HYPERCALL_NR, u64::from(function));
        self.put_u64(offset::HYPERCALL_FLAGS, flags);
        self.set_exit(page::EXIT_HYPERCALL);
    }

    fn host_now(&self) -> u64 {
        self.vm.host().now()
    }

    fn sgi(&self, snapshot: &VmSnapshot, value: u64, kind: SgiKind) -> u64 {
        if let Some(vgic) = &snapshot.vgic {
            vgic.send_sgi(self.core.index, value, kind);
            self.look_at_gic();
        }
        0
    }

    fn ptimer(&self, state: &mut VcpuState, reg: TimerReg, access: SysAccess, written: u64) -> u64 {
        let (now, offset) = (self.host_now(), state.counters.physical_offset());
        if access.is_read {
            return state.ptimer.read(reg, now, offset);
        }
        state.ptimer.write(reg, written, now, offset);
        self.update_ptimer(state);
        self.look_at_gic();
        0
    }
}

/// A register that only stores.
fn cell(slot: &mut u64, access: SysAccess, written: u64) -> u64 {
    if !access.is_read {
        *slot = written;
    }
    *slot
}

pub(crate) fn debug_reg(state: &mut VcpuState, kind: DebugReg, n: u8) -> Option<&mut u64> {
    let file = match kind {
        DebugReg::Bvr => 0,
        DebugReg::Bcr => 1,
        DebugReg::Wvr => 2,
        DebugReg::Wcr => 3,
    };
    state.debug.get_mut(file)?.get_mut(usize::from(n))
}
