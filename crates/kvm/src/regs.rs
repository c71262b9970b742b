//! KVM_GET_ONE_REG, KVM_SET_ONE_REG, KVM_GET_REG_LIST.

use crate::exit::debug_reg;
use crate::run::Vcpu;
use crate::vcpu::VcpuState;
use alloc::vec::Vec;
use base::{Errno, Result, UserMem, UserMemExt, room};
use core::sync::atomic::Ordering;
use kvm_abi as abi;
use kvm_abi::reg;
use psci::{Policy, Workaround};
use regime::HostRegime;
use traps::sysreg::{DebugReg, oslsr};
use traps::{GuestFeatures, IdRegs};
use vcpu_context::El1;
use vtimer::TimerReg;

/// System registers that are core registers in this interface.
const IN_CORE: [El1; 3] = [El1::SP_EL1, El1::ELR_EL1, El1::SPSR_EL1];

/// A core register.
enum Core {
    X(u8),
    Sp,
    Pc,
    Pstate,
    El1(El1),
    /// SPSR_abt and the like: nothing here, there is no AArch32.
    Nothing,
    V(usize),
    Fpsr,
    Fpcr,
}

impl Core {
    /// By index and size: `ENOENT` beyond `struct kvm_regs`, `EINVAL` for what
    /// lies between registers in it.
    fn decode(id: u64) -> Result<Core> {
        use reg::core as c;
        let index = id & 0xffff;
        let words = reg::size(id) as u64 >> 2;
        if index.saturating_add(words) >= c::WORDS {
            return Err(Errno::ENOENT);
        }
        let (core, size) = match index {
            c::X0..c::SP if index & 1 == 0 => (Core::X((index >> 1) as u8), reg::SIZE_U64),
            c::SP => (Core::Sp, reg::SIZE_U64),
            c::PC => (Core::Pc, reg::SIZE_U64),
            c::PSTATE => (Core::Pstate, reg::SIZE_U64),
            c::SP_EL1 => (Core::El1(El1::SP_EL1), reg::SIZE_U64),
            c::ELR_EL1 => (Core::El1(El1::ELR_EL1), reg::SIZE_U64),
            c::SPSR => (Core::El1(El1::SPSR_EL1), reg::SIZE_U64),
            74 | 76 | 78 | 80 => (Core::Nothing, reg::SIZE_U64),
            c::V0..c::FPSR if index & 3 == 0 => {
                (Core::V((index.wrapping_sub(c::V0) >> 2) as usize), reg::SIZE_U128)
            }
            c::FPSR => (Core::Fpsr, reg::SIZE_U32),
            c::FPCR => (Core::Fpcr, reg::SIZE_U32),
            _ => return Err(Errno::EINVAL),
        };
        if id & reg::SIZE_MASK == size { Ok(core) } else { Err(Errno::EINVAL) }
    }

    fn get(&self, state: &VcpuState) -> u128 {
        let context = &state.context;
        match *self {
            Core::X(n) => context.x(n).into(),
            Core::Sp => context.sp_el0.into(),
            Core::Pc => context.pc.into(),
            Core::Pstate => context.pstate.into(),
            Core::El1(register) => context.el1(register).into(),
            Core::Nothing => 0,
            Core::V(n) => context.fp.v.get(n).copied().unwrap_or(0),
            Core::Fpsr => context.fp.fpsr.into(),
            Core::Fpcr => context.fp.fpcr.into(),
        }
    }

    fn set(&self, state: &mut VcpuState, value: u128) -> Result<()> {
        let context = &mut state.context;
        let word = value as u64;
        match *self {
            Core::X(n) => context.set_x(n, word),
            Core::Sp => context.sp_el0 = word,
            Core::Pc => context.pc = word,
            Core::Pstate => {
                if !traps::inject::valid_guest_pstate(word) {
                    return Err(Errno::EINVAL);
                }
                context.pstate = word;
            }
            Core::El1(register) => context.set_el1(register, word),
            Core::Nothing => {}
            Core::V(n) => {
                if let Some(slot) = context.fp.v.get_mut(n) {
                    *slot = value;
                }
            }
            Core::Fpsr => context.fp.fpsr = word,
            Core::Fpcr => context.fp.fpcr = word,
        }
        Ok(())
    }
}

/// What a system register is.
enum Sys {
    El1(El1),
    Id {
        crm: u8,
        op2: u8,
    },
    /// The machine's: it can be written with the value that it has.
    Fixed(u64),
    Mpidr,
    Mdscr,
    Debug(DebugReg, u8),
    Oslsr,
    /// Reads zero, ignores writes.
    Zero,
    Vtimer(TimerReg),
    Ptimer(TimerReg),
}

impl Vcpu {
    fn decode_sys(&self, id: u64) -> Result<Sys> {
        let facts = self.vm.facts();
        if id & reg::SIZE_MASK != reg::SIZE_U64 {
            return Err(Errno::ENOENT);
        }
        match id {
            // Counter and compare value are swapped, see `kvm_abi::reg`.
            reg::TIMER_CTL => return Ok(Sys::Vtimer(TimerReg::Ctl)),
            reg::TIMER_CVAL => return Ok(Sys::Vtimer(TimerReg::Cval)),
            reg::TIMER_CNT => return Ok(Sys::Vtimer(TimerReg::Count)),
            reg::PTIMER_CTL => return Ok(Sys::Ptimer(TimerReg::Ctl)),
            reg::PTIMER_CVAL => return Ok(Sys::Ptimer(TimerReg::Cval)),
            reg::PTIMER_CNT => return Ok(Sys::Ptimer(TimerReg::Count)),
            _ => {}
        }
        Ok(match reg::encoding(id) {
            (3, 0, 0, 0, 0) => Sys::Fixed(facts.midr),
            (3, 0, 0, 0, 5) => Sys::Mpidr,
            (3, 0, 0, 0, 6) => Sys::Fixed(facts.revidr),
            (3, 0, 0, crm @ 1..=7, op2) => Sys::Id { crm, op2 },
            (3, 1, 0, 0, 1) => Sys::Fixed(facts.clidr),
            (3, 1, 0, 0, 7) => Sys::Fixed(facts.aidr),
            (3, 3, 0, 0, 1) => Sys::Fixed(facts.ctr),
            (3, 0, 1, 0, 1) => Sys::Fixed(facts.actlr),
            (2, 0, 0, n, 4) => Sys::Debug(DebugReg::Bvr, n),
            (2, 0, 0, n, 5) => Sys::Debug(DebugReg::Bcr, n),
            (2, 0, 0, n, 6) => Sys::Debug(DebugReg::Wvr, n),
            (2, 0, 0, n, 7) => Sys::Debug(DebugReg::Wcr, n),
            (2, 0, 0, 2, 0) => Sys::Zero,
            (2, 0, 0, 2, 2) => Sys::Mdscr,
            (2, 0, 1, 1, 4) => Sys::Oslsr,
            (3, 0, 12, 1, 1) => Sys::Zero,
            encoding => {
                let known = El1::ALL.iter().find(|register| register.encoding() == encoding);
                match known {
                    Some(register) if !IN_CORE.contains(register) => Sys::El1(*register),
                    _ => return Err(Errno::ENOENT),
                }
            }
        })
    }

    /// All registers' ids, in the order in which they are listed.
    fn ids(&self) -> Result<Vec<u64>> {
        use reg::core as c;
        const MOST: usize = 320;
        let facts = self.vm.facts();
        let mut ids = room::try_vec(MOST.saturating_add(facts.ccsidr.len()))?;
        let core = |size, index| reg::core_reg(size, index);
        ids.extend((c::X0..=c::SP_EL1).step_by(2).map(|index| core(reg::SIZE_U64, index)));
        ids.extend((c::ELR_EL1..=80).step_by(2).map(|index| core(reg::SIZE_U64, index)));
        ids.extend((c::V0..c::FPSR).step_by(4).map(|index| core(reg::SIZE_U128, index)));
        ids.extend([core(reg::SIZE_U32, c::FPSR), core(reg::SIZE_U32, c::FPCR)]);
        ids.extend([reg::PSCI_VERSION]);
        ids.extend([reg::SMCCC_ARCH_WORKAROUND_1, reg::SMCCC_ARCH_WORKAROUND_2]);
        ids.extend([reg::SMCCC_ARCH_WORKAROUND_3]);
        ids.extend([reg::STD_BMAP, reg::STD_HYP_BMAP, reg::VENDOR_HYP_BMAP]);
        ids.extend([reg::TIMER_CTL, reg::TIMER_CNT, reg::TIMER_CVAL]);
        ids.extend([reg::PTIMER_CTL, reg::PTIMER_CNT, reg::PTIMER_CVAL]);
        for n in 0..16 {
            ids.extend((4..8).map(|op2| reg::sysreg(2, 0, 0, n, op2)));
        }
        ids.extend([reg::sysreg(2, 0, 0, 2, 0), reg::sysreg(2, 0, 0, 2, 2)]);
        ids.extend([reg::sysreg(2, 0, 1, 1, 4)]);
        ids.extend([reg::sysreg(3, 0, 0, 0, 0), reg::sysreg(3, 0, 0, 0, 5)]);
        ids.extend([reg::sysreg(3, 0, 0, 0, 6)]);
        for crm in 1..8 {
            ids.extend((0..8).map(|op2| reg::sysreg(3, 0, 0, crm, op2)));
        }
        ids.extend([reg::sysreg(3, 0, 1, 0, 1), reg::sysreg(3, 0, 12, 1, 1)]);
        ids.extend([reg::sysreg(3, 1, 0, 0, 1), reg::sysreg(3, 1, 0, 0, 7)]);
        ids.extend([reg::sysreg(3, 3, 0, 0, 1)]);
        ids.extend(El1::ALL.iter().filter(|register| !IN_CORE.contains(register)).map(
            |register| {
                let (op0, op1, crn, crm, op2) = register.encoding();
                reg::sysreg(op0, op1, crn, crm, op2)
            },
        ));
        ids.extend(facts.ccsidr.iter().map(|(select, _)| reg::ccsidr(*select)));
        Ok(ids)
    }

    /// KVM_GET_REG_LIST: `E2BIG`, with the number, if there is no room.
    pub(crate) fn reg_list(&self, user: &dyn UserMem, arg: u64) -> Result<()> {
        let head: abi::RegList = user.read_obj(arg)?;
        let ids = self.ids()?;
        let n = ids.len() as u64;
        user.write_obj(arg, &abi::RegList { n })?;
        if head.n < n {
            return Err(Errno::E2BIG);
        }
        let mut at = arg;
        for id in &ids {
            at = at.checked_add(8).ok_or(Errno::EFAULT)?;
            user.write_obj(at, id)?;
        }
        Ok(())
    }

    /// KVM_GET_ONE_REG and KVM_SET_ONE_REG. The vCPU is owned.
    pub(crate) fn one_reg(
        &self,
        regime: &HostRegime,
        user: &dyn UserMem,
        one: &abi::OneReg,
        set: bool,
    ) -> Result<()> {
        if one.id & reg::ARCH_MASK != reg::ARM64 {
            return Err(Errno::EINVAL);
        }
        if one.id & reg::UNUSED_MASK != 0 {
            return Err(Errno::ENOENT);
        }
        let size = reg::size(one.id);
        let mut bytes = [0u8; 16];
        let bytes = bytes.get_mut(..size).ok_or(Errno::ENOENT)?;
        // Before anything is copied: it may fault.
        self.vm.host().pull(regime, &self.core);
        if set {
            // Unknown registers are told apart first, as on Linux.
            self.get(one.id)?;
            user.read(one.addr, bytes)?;
            let mut value = [0u8; 16];
            if let Some(low) = value.get_mut(..size) {
                low.copy_from_slice(bytes);
            }
            self.set(one.id, u128::from_le_bytes(value))
        } else {
            let value = self.get(one.id)?.to_le_bytes();
            user.write(one.addr, value.get(..size).ok_or(Errno::ENOENT)?)
        }
    }

    fn get(&self, id: u64) -> Result<u128> {
        let coproc = id & reg::COPROC_MASK;
        match coproc {
            reg::CORE => Ok(Core::decode(id)?.get(&self.core.state.lock())),
            reg::SYSREG => self.get_sys(id).map(u128::from),
            reg::FW | reg::FW_FEAT_BMAP => {
                let policy = self.vm.memory.snapshot().policy;
                get_firmware(&policy, id).map(u128::from)
            }
            reg::DEMUX => self.ccsidr(id).map(u128::from),
            _ => Err(Errno::ENOENT),
        }
    }

    fn set(&self, id: u64, value: u128) -> Result<()> {
        let word = value as u64;
        match id & reg::COPROC_MASK {
            reg::CORE => Core::decode(id)?.set(&mut self.core.state.lock(), value),
            reg::SYSREG => self.set_sys(id, word),
            reg::FW | reg::FW_FEAT_BMAP => self.set_firmware(id, word),
            reg::DEMUX if u64::from(self.ccsidr(id)?) == word => Ok(()),
            reg::DEMUX => Err(Errno::EINVAL),
            _ => Err(Errno::ENOENT),
        }
    }

    fn ccsidr(&self, id: u64) -> Result<u32> {
        let known = self.vm.facts().ccsidr.iter().find(|(select, _)| reg::ccsidr(*select) == id);
        known.map(|(_, value)| *value).ok_or(Errno::ENOENT)
    }

    fn get_sys(&self, id: u64) -> Result<u64> {
        let sys = self.decode_sys(id)?;
        if let Sys::Id { crm, op2 } = sys {
            return Ok(self.vm.memory.snapshot().id.get(crm, op2));
        }
        let now = self.vm.host().now();
        let mut state = self.core.state.lock();
        Ok(match sys {
            Sys::El1(register) => state.context.el1(register),
            Sys::Fixed(value) => value,
            Sys::Mpidr => self.core.mpidr(),
            Sys::Mdscr => state.context.mdscr_el1,
            Sys::Debug(kind, n) => debug_reg(&mut state, kind, n).map_or(0, |slot| *slot),
            Sys::Oslsr => oslsr(state.os_lock),
            Sys::Zero | Sys::Id { .. } => 0,
            Sys::Vtimer(which) => state.vtimer().read(which, now, state.counters.virtual_offset()),
            Sys::Ptimer(which) => state.ptimer.read(which, now, state.counters.physical_offset()),
        })
    }

    fn set_sys(&self, id: u64, value: u64) -> Result<()> {
        let sys = self.decode_sys(id)?;
        match sys {
            Sys::Id { crm, op2 } => return self.set_id(crm, op2, value),
            Sys::Mpidr => {
                if let Some(vgic) = self.vm.vgic() {
                    vgic.set_mpidr(self.core.index, value)?;
                }
                self.core.set_mpidr(value);
            }
            _ => {}
        }
        let now = self.vm.host().now();
        let mut state = self.core.state.lock();
        match sys {
            Sys::El1(register) => state.context.set_el1(register, value),
            Sys::Fixed(fixed) if fixed != value => return Err(Errno::EINVAL),
            Sys::Mpidr => state.context.vmpidr_el2 = value,
            Sys::Mdscr => state.context.mdscr_el1 = value,
            Sys::Debug(kind, n) => {
                if let Some(slot) = debug_reg(&mut state, kind, n) {
                    *slot = value;
                }
            }
            Sys::Oslsr => {
                if (value ^ oslsr(false)) & !2 != 0 {
                    return Err(Errno::EINVAL);
                }
                state.os_lock = value & 2 != 0;
            }
            Sys::Fixed(_) | Sys::Zero | Sys::Id { .. } => {}
            Sys::Vtimer(TimerReg::Count) => state.counters.set_virtual_count(value, now),
            Sys::Vtimer(which) => {
                let offset = state.counters.virtual_offset();
                let mut timer = state.vtimer();
                timer.write(which, value, now, offset);
                state.context.timer.cntv_ctl = timer.ctl();
                state.context.timer.cntv_cval = timer.cval();
            }
            Sys::Ptimer(TimerReg::Count) => state.counters.set_physical_count(value, now),
            Sys::Ptimer(which) => {
                let offset = state.counters.physical_offset();
                state.ptimer.write(which, value, now, offset);
                self.core.request(crate::request::TIMER);
            }
        }
        Ok(())
    }

    /// A VMM may offer less than the machine has, until a vCPU has run.
    fn set_id(&self, crm: u8, op2: u8, value: u64) -> Result<()> {
        if self.vm.memory.snapshot().id.get(crm, op2) == value {
            return Ok(());
        }
        if self.vm.ran.load(Ordering::Relaxed) {
            return Err(Errno::EBUSY);
        }
        let facts = self.vm.facts();
        let features = GuestFeatures { gicv3: facts.has_gicv3(), ..facts.features };
        if !IdRegs::guest(&facts.id, features).allows(crm, op2, value) {
            return Err(Errno::EINVAL);
        }
        self.vm.change(|new| {
            // Under the VM's lock, under which a vCPU sets it before it runs.
            if self.vm.ran.load(Ordering::Relaxed) {
                return Err(Errno::EBUSY);
            }
            new.id.set(crm, op2, value);
            Ok(())
        })
    }

    fn set_firmware(&self, id: u64, value: u64) -> Result<()> {
        {
            // From here on nobody else changes the policy.
            let _config = self.vm.config.lock();
            let current = self.vm.memory.snapshot().policy;
            let new = change_firmware(current, id, value)?;
            if new == current {
                return Ok(());
            }
            if self.vm.ran.load(Ordering::Relaxed) && id & reg::COPROC_MASK == reg::FW_FEAT_BMAP {
                return Err(Errno::EBUSY);
            }
            self.vm.change_locked(|snapshot| {
                snapshot.policy = new;
                Ok(())
            })?;
        }
        self.vm.tell_all();
        Ok(())
    }
}

/// The policy after a firmware register was written.
fn change_firmware(current: Policy, id: u64, value: u64) -> Result<Policy> {
    let mut new = current;
    match id {
        reg::PSCI_VERSION => {
            let known = [psci::PSCI_0_2, psci::PSCI_1_0, psci::PSCI_1_1];
            new.psci_version = u32::try_from(value)
                .ok()
                .filter(|version| known.contains(version))
                .ok_or(Errno::EINVAL)?;
        }
        reg::SMCCC_ARCH_WORKAROUND_1 => lower(&mut new.workaround_1, id, value)?,
        reg::SMCCC_ARCH_WORKAROUND_2 => check_store_bypass(current.workaround_2, value)?,
        reg::SMCCC_ARCH_WORKAROUND_3 => lower(&mut new.workaround_3, id, value)?,
        reg::STD_BMAP if value & !Policy::STD == 0 => new.std = value,
        reg::STD_HYP_BMAP if value & !Policy::STD_HYP == 0 => new.std_hyp = value,
        reg::VENDOR_HYP_BMAP if value & !Policy::VENDOR_HYP == 0 => new.vendor_hyp = value,
        reg::STD_BMAP | reg::STD_HYP_BMAP | reg::VENDOR_HYP_BMAP => return Err(Errno::EINVAL),
        _ => return Err(Errno::ENOENT),
    }
    Ok(new)
}

/// As KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_n shows it.
fn level(workaround: Workaround, id: u64) -> u64 {
    let second = id == reg::SMCCC_ARCH_WORKAROUND_2;
    match workaround {
        Workaround::NotAvailable => 0,
        Workaround::Available if second => 2,
        Workaround::Available => 1,
        Workaround::NotRequired if second => 3,
        Workaround::NotRequired => 2,
    }
}

/// What other hosts may have said of speculative store bypass must not be
/// better than what is true here; nothing changes.
fn check_store_bypass(ours: Workaround, value: u64) -> Result<()> {
    const AVAILABLE: u64 = 2;
    /// KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_2_ENABLED.
    const ENABLED: u64 = 1 << 4;
    let needs = match value & !ENABLED {
        // Not available, unknown.
        0 | 1 => false,
        AVAILABLE | 3 => true,
        _ => return Err(Errno::EINVAL),
    };
    let misplaced = value & ENABLED != 0 && value & !ENABLED != AVAILABLE;
    if misplaced || (needs && ours != Workaround::NotRequired) {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// Guests may be told less than is true, never more.
fn lower(workaround: &mut Workaround, id: u64, value: u64) -> Result<()> {
    let all = [Workaround::NotAvailable, Workaround::Available, Workaround::NotRequired];
    let wanted = all.into_iter().find(|known| level(*known, id) == value).ok_or(Errno::EINVAL)?;
    if level(wanted, id) > level(*workaround, id) {
        return Err(Errno::EINVAL);
    }
    *workaround = wanted;
    Ok(())
}

fn get_firmware(policy: &Policy, id: u64) -> Result<u64> {
    Ok(match id {
        reg::PSCI_VERSION => policy.psci_version.into(),
        reg::SMCCC_ARCH_WORKAROUND_1 => level(policy.workaround_1, id),
        reg::SMCCC_ARCH_WORKAROUND_2 => level(policy.workaround_2, id),
        reg::SMCCC_ARCH_WORKAROUND_3 => level(policy.workaround_3, id),
        reg::STD_BMAP => policy.std,
        reg::STD_HYP_BMAP => policy.std_hyp,
        reg::VENDOR_HYP_BMAP => policy.vendor_hyp,
        _ => return Err(Errno::ENOENT),
    })
}
