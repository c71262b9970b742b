//! A vCPU's file descriptor, and KVM_RUN.

use crate::Done;
use crate::exit::Todo;
use crate::host::{Exit, Host};
use crate::snapshot::VmSnapshot;
use crate::vcpu::{Entry, HCR_VSE, SUSPENDED, Start, VcpuCore, VcpuState, request};
use crate::vm::Vm;
use alloc::sync::Arc;
use base::{Errno, Result, WaitQueue};
use core::sync::atomic::Ordering;
use frame::Frame;
use kvm_abi as abi;
use kvm_abi::run::{self as page, offset};
use psci::Action;
use regime::HostRegime;
use traps::{Esr, Exception, Severity};
use vtimer::TimerKind;

/// What KVM_CREATE_VCPU's file descriptor stands for.
pub struct Vcpu {
    pub(crate) vm: Arc<Vm>,
    pub(crate) core: Arc<VcpuCore>,
    run: Frame,
}

/// How KVM_RUN goes on.
enum Next {
    /// Look at requests, enter the guest.
    Again,
    /// KVM_RUN returns 0: the run page says why.
    ToUser,
}

/// What the requests left.
enum Ready {
    /// Enter; whether the list registers were just looked at.
    Go { flushed: bool },
    /// Wait for a wake-up.
    Wait,
    /// More was asked all the time: let interrupts in, then look again.
    Window,
    /// KVM_RUN returns 0.
    ToUser,
}

/// How many rounds of requests come between two looks at interrupts and
/// signals. Other vCPUs and irqfds can ask faster than is answered here, where
/// interrupts are masked.
const ROUNDS: u32 = 8;

impl Vcpu {
    pub(crate) fn new(vm: Arc<Vm>, core: Arc<VcpuCore>, run: Frame) -> Vcpu {
        Vcpu { vm, core, run }
    }

    /// The page that mmap gives at offset 0: `struct kvm_run`.
    pub fn run_page(&self) -> &Frame {
        &self.run
    }

    /// Where to wait when [`Done::Wait`] was answered. Register before asking.
    pub fn wait_queue(&self) -> &WaitQueue {
        self.core.wait_queue()
    }

    /// What others know it as.
    pub fn core(&self) -> &Arc<VcpuCore> {
        &self.core
    }

    /// Its VM, for [`Vm::release`].
    pub fn vm(&self) -> &Arc<Vm> {
        &self.vm
    }

    pub(crate) fn host(&self) -> &dyn Host {
        &**self.vm.host()
    }

    /// KVM_ARM_VCPU_INIT.
    pub fn init(&self, regime: &mut HostRegime, init: &abi::VcpuInit) -> Result<()> {
        const POWER_OFF: u32 = 1 << abi::ARM_VCPU_POWER_OFF;
        /// All that Linux knows, whether the machine has it or not.
        const KNOWN: u32 = (1 << 8) - 1;
        const OFFERED: u32 = POWER_OFF | 1 << abi::ARM_VCPU_PSCI_0_2;
        if init.target != abi::ARM_TARGET_GENERIC_V8 {
            return Err(Errno::EINVAL);
        }
        let [features, rest @ ..] = init.features;
        if features & !KNOWN != 0 || rest.iter().any(|word| *word != 0) {
            return Err(Errno::ENOENT);
        }
        if features & !OFFERED != 0 {
            return Err(Errno::EINVAL);
        }
        let kept = features & !POWER_OFF;
        {
            let mut config = self.vm.config.lock();
            if config.features.is_some_and(|before| before != kept) {
                return Err(Errno::EINVAL);
            }
            config.features = Some(kept);
        }
        self.host().pull(regime, &self.core);
        // A CPU_ON that hasn't come through yet was the old machine's.
        self.core.take_start();
        let ran = {
            let mut state = self.core.state.lock();
            state.features = Some(kept);
            state.reset(self.vm.facts(), self.core.mpidr());
            self.update_ptimer(&mut state);
            state.ran
        };
        if ran && !self.vm.facts().stage2_fwb {
            // A guest that starts anew reads memory with its caches off: what
            // it gets mapped is cleaned again.
            self.vm.memory.unmap_all(regime);
        }
        if features & POWER_OFF != 0 {
            self.core.stop(self.host());
        } else {
            self.core.resume();
        }
        Ok(())
    }

    /// KVM_RUN.
    pub fn run(&self, regime: &mut HostRegime) -> Result<Done> {
        let Ok(_owned) = self.core.own() else { return Ok(Done::Wait) };
        let mut snapshot = self.begin(regime)?;
        let result = if self.page_u8(offset::IMMEDIATE_EXIT) != 0 {
            self.core.state.lock().waiting = false;
            Err(Errno::EINTR)
        } else if self.host().signal_pending() {
            self.interrupted()
        } else {
            self.set_exit(page::EXIT_UNKNOWN);
            self.run_loop(regime, &mut snapshot)
        };
        let old = self.core.state.lock().snapshot.replace(snapshot);
        drop(old);
        result
    }

    /// Instead of completing the access that the run page tells of: an external
    /// abort.
    pub fn refuse_access(&self) {
        let mut state = self.core.state.lock();
        if state.mmio.is_some() {
            state.injected = Some(Exception::DataAbort { far: state.context.far_el2 });
        }
    }

    /// What comes before the first entry: checks, and the end of an access that
    /// the VMM completed.
    fn begin(&self, regime: &HostRegime) -> Result<Arc<VmSnapshot>> {
        let mut state = self.core.state.lock();
        if state.features.is_none() {
            return Err(Errno::ENOEXEC);
        }
        if !state.ran {
            drop(state);
            self.first_run()?;
            state = self.core.state.lock();
        }
        if let Some(exception) = state.injected.take() {
            // Instead of completing the access, if there is one.
            state.mmio = None;
            drop(state);
            self.inject(regime, exception);
            state = self.core.state.lock();
        }
        if let Some(access) = state.mmio.take() {
            if !access.is_write {
                access.finish_load(&mut state.context, self.page_u64(offset::MMIO_DATA));
            }
            traps::inject::skip(&mut state.context);
        }
        let held = state.snapshot.take();
        drop(state);
        Ok(held.unwrap_or_else(|| self.vm.memory.snapshot()))
    }

    /// At a vCPU's first KVM_RUN: what is fixed from now on.
    fn first_run(&self) -> Result<()> {
        let (virt, phys, hidden) = {
            let mut config = self.vm.config.lock();
            let hidden = self.vm.facts().has_gicv3() && self.vm.vgic().is_none();
            if hidden {
                // As Linux's kvm_finalize_sys_regs: until now it could come.
                self.vm.change_locked(|new| {
                    new.id.hide_gicv3();
                    Ok(())
                })?;
            }
            if let Some(vgic) = self.vm.vgic() {
                vgic.map_resources()?;
                config.timer_irqs.fix()?;
                let virt = config.timer_irqs.get(TimerKind::Virtual);
                vgic.map_phys(self.core.index, virt, Some(self.vm.facts().vtimer_intid))?;
            }
            self.vm.ran.store(true, Ordering::Relaxed);
            let irqs = &config.timer_irqs;
            (irqs.get(TimerKind::Virtual), irqs.get(TimerKind::Physical), hidden)
        };
        if hidden {
            self.vm.tell_all();
        }
        let mut state = self.core.state.lock();
        if hidden {
            // Its system registers are UNDEFINED.
            state.lrs.hcr = vgic::ICH_HCR_TRAP_ALL;
        }
        state.vtimer_intid = virt;
        state.ptimer_intid = phys;
        state.ran = true;
        Ok(())
    }

    /// A signal: KVM_RUN fails, and the run page says so, too.
    fn interrupted(&self) -> Result<Done> {
        // WFI may end at any time.
        self.core.state.lock().waiting = false;
        self.set_exit(page::EXIT_INTR);
        Err(Errno::EINTR)
    }

    fn run_loop(&self, regime: &mut HostRegime, snapshot: &mut Arc<VmSnapshot>) -> Result<Done> {
        let host = self.host();
        let core = &self.core;
        let mut rounds = 0u32;
        loop {
            let cpu = host.this_cpu();
            let live_in = core.live_in.load(Ordering::Relaxed);
            if live_in != cpu && live_in != u32::MAX {
                // This thread has moved. It may move again while it waits.
                host.pull(regime, core);
                continue;
            }
            let mut ready = self.ready(regime, snapshot, &mut rounds);
            let mut state = core.state.lock();
            if state.waiting
                && let Ready::Go { flushed } = ready
            {
                if flushed && state.wakes(core.index, host.now()) {
                    state.waiting = false;
                } else {
                    drop(state);
                    ready = self.idle(flushed);
                    state = core.state.lock();
                }
            }
            match ready {
                Ready::Go { .. } => {}
                Ready::Wait => {
                    drop(state);
                    // Looking at list registers may have found others' interrupts.
                    if self.vm.vcpus.has_sleepers() {
                        self.vm.vcpus.wake_sleepers();
                    }
                    if host.signal_pending() {
                        return self.interrupted();
                    }
                    if self.rest(regime, cpu) {
                        continue;
                    }
                    return Ok(Done::Wait);
                }
                Ready::Window => {
                    drop(state);
                    host.window(regime);
                    if host.signal_pending() {
                        return self.interrupted();
                    }
                    continue;
                }
                Ready::ToUser => return Ok(Done::Value(0)),
            }
            let memory = &self.vm.memory;
            core.enter_mode(cpu);
            if core.has_requests() {
                core.leave_mode();
                continue;
            }
            let entry = Entry {
                core,
                snapshot,
                vcpus: &self.vm.vcpus,
                stage2_root: memory.root,
                vmid: &memory.vmid,
                stage2_tsz: memory.tsz,
                stage2_sl0: memory.sl0,
            };
            rounds = 0;
            let exit = host.enter(regime, &entry, &mut state);
            core.leave_mode();
            if state.lrs.used != 0 {
                self.withdraw_timer(&mut state);
            }
            let todo = match exit {
                Exit::Sync => self.handle(&mut state, regime, snapshot),
                Exit::Done => Ok(Todo::Resume),
                Exit::Interrupt => Ok(Todo::Window),
                Exit::SError(esr) => Ok(Todo::SError(esr)),
                Exit::FailEntry(reason) => Ok(Todo::FailEntry(reason)),
            };
            drop(state);
            if self.vm.vcpus.has_sleepers() {
                self.vm.vcpus.wake_sleepers();
            }
            let next = match todo? {
                Todo::Resume => Next::Again,
                Todo::Window => {
                    host.window(regime);
                    if host.signal_pending() {
                        return self.interrupted();
                    }
                    Next::Again
                }
                Todo::ToUser => Next::ToUser,
                other => self.act(regime, other)?,
            };
            match next {
                Next::Again => {}
                Next::ToUser => return Ok(Done::Value(0)),
            }
        }
    }

    /// Waits with everything left in the hardware, if nobody else wants the CPU
    /// and the vCPU isn't switched off.
    fn rest(&self, regime: &mut HostRegime, cpu: u32) -> bool {
        let core = &self.core;
        if core.is_stopped() {
            return false;
        }
        core.sleep_mode(cpu);
        let rested = self.host().rest(regime, core);
        core.leave_mode();
        rested
    }

    /// Does what was requested, until the guest can be entered.
    fn ready(
        &self,
        regime: &mut HostRegime,
        snapshot: &mut Arc<VmSnapshot>,
        rounds: &mut u32,
    ) -> Ready {
        let core = &self.core;
        let mut flushed = false;
        while core.has_requests() {
            *rounds = rounds.wrapping_add(1);
            if rounds.is_multiple_of(ROUNDS) {
                return Ready::Window;
            }
            let requests = core.take_requests();
            if requests & request::SNAPSHOT != 0 {
                *snapshot = self.vm.memory.snapshot();
            }
            let more = requests & request::IRQFD != 0 && !self.vm.drain_irqfds();
            if requests & request::POWER != 0 {
                if core.has_ended() {
                    return Ready::Wait;
                }
                if let Some(start) = core.take_start() {
                    self.start(regime, start);
                }
            }
            if requests & (request::TIMER | request::VGIC) != 0 {
                let mut state = core.state.lock();
                let mut fired = 0;
                if requests & request::TIMER != 0 {
                    fired = self.timers(&mut state);
                    core.about_to_flush();
                }
                self.flush_fired(&mut state, fired);
                flushed = true;
            }
            if more {
                core.request(request::IRQFD);
                return Ready::Window;
            }
        }
        if core.power_raw() == kvm_abi::MP_STATE_RUNNABLE {
            Ready::Go { flushed }
        } else {
            self.idle(flushed)
        }
    }

    /// Off, suspended, or in WFI.
    #[cold]
    fn idle(&self, flushed: bool) -> Ready {
        if self.core.is_stopped() {
            return Ready::Wait;
        }
        let mut state = self.core.state.lock();
        if !flushed {
            // Whether the timer's interrupt is still with the guest decides.
            self.flush(&mut state);
        }
        if !state.wakes(self.core.index, self.host().now()) {
            return Ready::Wait;
        }
        state.waiting = false;
        drop(state);
        if self.core.power_raw() == SUSPENDED {
            self.core.resume();
            self.system_event(page::SYSTEM_EVENT_WAKEUP, &[]);
            return Ready::ToUser;
        }
        Ready::Go { flushed: true }
    }

    /// CPU_ON started this vCPU.
    fn start(&self, regime: &HostRegime, start: Start) {
        self.host().pull(regime, &self.core);
        let mut state = self.core.state.lock();
        state.reset(self.vm.facts(), self.core.mpidr());
        self.update_ptimer(&mut state);
        state.context.pc = start.entry;
        state.context.set_x(0, start.context_id);
    }

    /// Timers that fired, and the physical timer's next time. The PPIs whose
    /// physical interrupts fired, for the flush that follows.
    fn timers(&self, state: &mut VcpuState) -> u32 {
        // While the vCPU is live nowhere the timer can't fire by itself: it is
        // made as if it had, and its interrupt becomes active at the next load.
        let missed = self.core.live_in.load(Ordering::Relaxed) == u32::MAX
            && self.lines(state) != 0
            && !state.forwarded(self.core.index);
        self.update_ptimer(state);
        if self.core.take_fired() || missed {
            1u32.checked_shl(state.vtimer_intid).unwrap_or(0)
        } else {
            0
        }
    }

    /// The physical timer's line, and when it changes by itself.
    pub(crate) fn update_ptimer(&self, state: &mut VcpuState) {
        let (now, offset) = (self.host().now(), state.counters.physical_offset());
        let level = state.ptimer.line_level(now, offset);
        if level != state.ptimer_level {
            state.ptimer_level = level;
            if let Some(vgic) = &state.vgic {
                let _ = vgic.inject_ppi(self.core.index, state.ptimer_intid, level);
            }
        }
        if !level && let Some(deadline) = state.ptimer.fires_at(now, offset) {
            self.host().set_timer(&self.core, Some(deadline));
        }
    }

    /// The lines of PPIs that stand for physical interrupts.
    fn lines(&self, state: &VcpuState) -> u32 {
        let up = state.vtimer().line_level(self.host().now(), state.counters.virtual_offset());
        if up { 1u32.checked_shl(state.vtimer_intid).unwrap_or(0) } else { 0 }
    }

    /// The virtual timer's line is level-sensitive: if it fell before the guest
    /// took the interrupt, that is pending no more.
    #[cold]
    fn withdraw_timer(&self, state: &mut VcpuState) {
        if state.forwarded(self.core.index) {
            self.host().read_live(&self.core, state);
            if self.lines(state) == 0 {
                self.flush(state);
            }
        }
    }

    /// Fills the list registers anew.
    fn flush(&self, state: &mut VcpuState) {
        self.flush_fired(state, 0);
    }

    fn flush_fired(&self, state: &mut VcpuState, fired: u32) {
        self.host().read_live(&self.core, state);
        let lines = self.lines(state);
        let VcpuState { vgic: Some(vgic), lrs, .. } = state else { return };
        let outcome = vgic.flush_fired(self.core.index, lrs, fired, &mut || lines);
        self.write_back(state, &outcome);
    }

    /// Folds the list registers back, for a look at pending and active states.
    pub(crate) fn sync(&self, state: &mut VcpuState) {
        self.host().read_live(&self.core, state);
        let lines = self.lines(state);
        let VcpuState { vgic: Some(vgic), lrs, .. } = state else { return };
        let outcome = vgic.sync(self.core.index, lrs, lines);
        self.write_back(state, &outcome);
    }

    fn write_back(&self, state: &VcpuState, outcome: &vgic::Outcome) {
        let mask = 1u32.checked_shl(state.vtimer_intid).unwrap_or(0);
        let deactivate = outcome.deactivate & mask != 0;
        self.host().write_live(&self.core, state, outcome.write, deactivate);
    }

    /// Makes the guest take an exception.
    fn inject(&self, regime: &HostRegime, exception: Exception) {
        // The EL1 registers that it changes may be live.
        self.host().pull(regime, &self.core);
        let features = self.vm.memory.snapshot().id.pstate_features();
        let mut state = self.core.state.lock();
        traps::inject::inject(&mut state.context, features, exception);
    }

    /// What an exit asks for that can't be done with the vCPU's state locked.
    fn act(&self, regime: &mut HostRegime, todo: Todo) -> Result<Next> {
        match todo {
            Todo::Inject(exception) => self.inject(regime, exception),
            Todo::Call(action) => return Ok(self.call(action)),
            Todo::CleanAll => {
                if !self.vm.facts().stage2_fwb {
                    // What is mapped again is cleaned first.
                    self.vm.memory.unmap_all(regime);
                }
            }
            Todo::SError(esr) => self.serror(regime, esr),
            Todo::FailEntry(reason) => {
                self.put_u64(offset::FAIL_ENTRY_REASON, reason);
                self.put_u32(offset::FAIL_ENTRY_CPU, self.host().this_cpu());
                self.set_exit(page::EXIT_FAIL_ENTRY);
                return Ok(Next::ToUser);
            }
            Todo::Unknown(esr) => {
                self.host().note(regime, format_args!("unexpected exit, ESR {esr:#x}"));
                self.put_u32(
                    offset::INTERNAL_SUBERROR,
                    page::INTERNAL_ERROR_UNEXPECTED_EXIT_REASON,
                );
                self.put_u32(offset::INTERNAL_NDATA, 1);
                self.put_u64(offset::INTERNAL_DATA, esr);
                self.set_exit(page::EXIT_INTERNAL_ERROR);
                return Ok(Next::ToUser);
            }
            Todo::Resume | Todo::Window => {}
            Todo::ToUser => return Ok(Next::ToUser),
        }
        Ok(Next::Again)
    }

    /// An SError that was taken from the guest. What it is about may be the guest's alone,
    /// or not: as Linux, the host doesn't go on with what nobody has contained.
    #[cold]
    fn serror(&self, regime: &HostRegime, esr: u64) {
        let what = format_args!("SError in a guest, ESR {esr:#x}");
        match Esr(esr).severity(self.vm.facts().has_ras()) {
            Severity::Uncontained => self.host().fatal(what),
            Severity::Harmless => self.host().note(regime, what),
            Severity::Contained | Severity::Unknown => {
                self.host().note(regime, what);
                self.core.state.lock().context.hcr_el2 |= HCR_VSE;
            }
        }
    }

    fn set_x0(&self, value: u64) {
        self.core.state.lock().context.set_x(0, value);
    }

    /// A firmware call that touches other vCPUs or the VMM.
    fn call(&self, action: Action) -> Next {
        let host = self.host();
        let vcpus = &self.vm.vcpus;
        match action {
            Action::Return(value) => self.set_x0(value),
            Action::Return4(values) => self.set_results(values),
            Action::Random { bits, wide } => {
                self.set_results(psci::random(bits, wide, host.entropy()));
            }
            Action::CpuSuspend => {
                let mut state = self.core.state.lock();
                state.context.set_x(0, psci::SUCCESS);
                state.waiting = true;
            }
            Action::CpuOff => self.core.stop(host),
            Action::CpuOn { target, entry, context_id } => {
                let found = vcpus.iter().find(|core| core.mpidr() & psci::MPIDR_AFFINITY == target);
                let answer = match found {
                    Some(core) => core.turn_on(host, Start { entry, context_id }),
                    None => psci::cpu_on(None),
                };
                self.set_x0(answer);
            }
            Action::AffinityInfo { target, level } => {
                self.set_x0(vcpus.affinity_info(target, level));
            }
            Action::SystemOff => return self.stop_system(page::SYSTEM_EVENT_SHUTDOWN, 0),
            Action::SystemReset { reset2 } => {
                let flags = if reset2 { page::SYSTEM_EVENT_RESET_FLAG_PSCI_RESET2 } else { 0 };
                return self.stop_system(page::SYSTEM_EVENT_RESET, flags);
            }
            Action::SystemSuspend => {
                self.system_event(page::SYSTEM_EVENT_SUSPEND, &[]);
                return Next::ToUser;
            }
            Action::Watchdog => {
                self.forward(psci::function::WATCHDOG, 0);
                return Next::ToUser;
            }
        }
        Next::Again
    }

    fn set_results(&self, values: [u64; 4]) {
        let mut state = self.core.state.lock();
        for (n, value) in (0u8..).zip(values) {
            state.context.set_x(n, value);
        }
    }

    /// SYSTEM_OFF and SYSTEM_RESET: no vCPU runs on, and if the VMM lets this
    /// one go on, the call failed.
    fn stop_system(&self, event: u32, flags: u64) -> Next {
        self.set_x0(psci::INTERNAL_FAILURE);
        for core in self.vm.vcpus.iter() {
            core.stop(self.host());
        }
        self.system_event(event, &[flags]);
        Next::ToUser
    }

    fn system_event(&self, event: u32, data: &[u64]) {
        self.put_u32(offset::SYSTEM_EVENT_TYPE, event);
        self.put_u32(offset::SYSTEM_EVENT_NDATA, data.len() as u32);
        for (at, value) in (offset::SYSTEM_EVENT_DATA..).step_by(8).zip(data) {
            self.put_u64(at, *value);
        }
        self.set_exit(page::EXIT_SYSTEM_EVENT);
    }

    pub(crate) fn set_exit(&self, reason: u32) {
        // With ready_for_interrupt_injection, if_flag and flags, which are zero.
        self.put_u64(offset::EXIT_REASON, u64::from(reason));
    }

    pub(crate) fn put_u64(&self, at: usize, value: u64) {
        if let Some(word) = self.run.atomic_u64(at as u64) {
            word.store(value, Ordering::Relaxed);
        }
    }

    pub(crate) fn put_u32(&self, at: usize, value: u32) {
        if let Some(word) = self.run.atomic_u32(at as u64) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn page_u64(&self, at: usize) -> u64 {
        self.run.atomic_u64(at as u64).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn page_u8(&self, at: usize) -> u8 {
        let word = self.run.atomic_u32((at & !3) as u64);
        let word = word.map_or(0, |word| word.load(Ordering::Relaxed));
        (word >> ((at & 3) as u32).wrapping_mul(8)) as u8
    }
}
