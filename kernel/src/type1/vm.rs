//! One life of a VM: built from its plan, run by a thread for each virtual CPU,
//! until it goes off, resets or crashes.

use super::memory::GuestMemory;
use super::plan::Plan;
use super::{console, plan, report};
use crate::machine::Gic;
use crate::vcpu::with_host_regime;
use crate::{memory, random, sched, task, time, wait};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use base::{Errno, Lock, WaitQueue, rank};
use core::sync::atomic::{AtomicUsize, Ordering};
use core::task::Waker;
use domain::claims::{self, Claim};
use domain::image::{self, HEADER, Placed};
use domain::{Problem, Region, layout, tree};
use kvm::{Done, Driver, Host, Vcpu, Vm};
use kvm_abi::run::{self as page, offset};
use kvm_abi::{self as abi, UserspaceMemoryRegion, VcpuInit};
use ::sched::Class;
use psci::Watchdog;
use spin::Once;
use vgic::{Version, Vgic};

/// How a life ended.
#[derive(Clone, Debug)]
pub enum End {
    /// PSCI SYSTEM_OFF.
    Off,
    /// PSCI SYSTEM_RESET.
    Reset,
    /// The guest did what it can't go on after, on this virtual CPU if on any.
    Crash(Option<usize>, String),
    /// It didn't pet its watchdog in time.
    Hang,
}

/// How soon a supervisor looks again that can't be woken: nanoseconds.
const LOOK: u64 = 10_000_000;

/// A VM that lives.
pub struct Life {
    plan: Arc<Plan>,
    vm: Arc<Vm>,
    vcpus: Vec<Arc<Vcpu>>,
    /// How many GiB are mapped by one entry each.
    pub gigabytes: u64,
    end: Once<End>,
    /// Threads that haven't ended.
    threads: AtomicUsize,
    /// Threads have ended, or the watchdog runs out earlier than it did.
    changed: WaitQueue,
    watchdog: Lock<Watchdog>,
}

impl Life {
    /// Builds it: memory cleared, kernel, ramdisk and device tree in place, all
    /// mapped, the first virtual CPU at the kernel's entry.
    pub fn build(
        plan: &Arc<Plan>,
        memory: &Arc<GuestMemory>,
        host: &Arc<dyn Host>,
    ) -> Result<Arc<Life>, String> {
        let machine = memory::machine().ok_or("there is no machine")?;
        let v3 = matches!(machine.gic, Some(Gic::V3 { .. }));
        let most = host.facts().ipa_bits;
        let placed = load(plan, memory, v3, most).map_err(|problem| problem.to_string())?;
        let made = with_host_regime(|regime| -> base::Result<_> {
            let claim = Claim { domain: &plan.domain, passthrough: plan.passthrough.as_ref() };
            let bits = claims::address_bits(&claim, most, &memory.ram());
            let vm = Vm::new(host, memory.clone(), bits.into())?;
            let vgic = vm.create_vgic(if v3 { Version::V3 } else { Version::V2 })?;
            place_vgic(&vgic, v3)?;
            let last = super::devices::last_interrupt(plan).unwrap_or(0);
            // Guests set up each interrupt that there is, by an exit or more: no more than
            // are used or asked for.
            let asked = plan.domain.nr_spis.map_or(0, |spis| spis.saturating_add(32));
            let irqs = asked.max(last.saturating_add(1)).clamp(64, 1024);
            vgic.set_nr_irqs(irqs.next_multiple_of(32))?;
            let mut vcpus = Vec::new();
            for id in 0..u64::from(plan.domain.cpus) {
                vcpus.push(vm.create_vcpu(id)?);
            }
            vgic.init()?;
            for (slot, region) in (0..).zip(memory.regions()) {
                vm.set_memory(
                    regime,
                    &UserspaceMemoryRegion {
                        slot,
                        flags: 0,
                        guest_phys_addr: region.start,
                        memory_size: region.size,
                        userspace_addr: region.start,
                    },
                )?;
            }
            if let Some(console) = console::device(&plan.domain.name, &vm) {
                vm.add_device(layout::PL011.start, layout::PL011.size, console)?;
            }
            super::devices::attach(plan, &vm)?;
            if plan.domain.watchdog.is_some() {
                vm.offer_watchdog()?;
            }
            for (index, vcpu) in vcpus.iter().enumerate() {
                vcpu.init(regime, &init(index))?;
                if plan.is_exclusive() {
                    vcpu.core().state.lock().let_wait();
                }
            }
            let gigabytes = vm.populate(regime)?;
            Ok((vm, vcpus, gigabytes))
        });
        let (vm, vcpus, gigabytes) = made.map_err(|errno| {
            format!("/chosen/{}: it could not be made: {errno}", plan.domain.name)
        })?;
        if let Some(first) = vcpus.first() {
            let mut state = first.core().state.lock();
            state.context.pc = placed.kernel;
            state.context.set_x(0, placed.tree);
        }
        Ok(Arc::new(Life {
            plan: plan.clone(),
            vm,
            gigabytes,
            threads: AtomicUsize::new(vcpus.len()),
            vcpus,
            end: Once::new(),
            changed: WaitQueue::new(),
            watchdog: Lock::new(rank::INODE, Watchdog::new(plan.domain.watchdog.unwrap_or(1))),
        }))
    }

    /// Runs it to its end. Meanwhile the caller, its supervisor, is on the CPUs `watch`.
    pub fn run(self: &Arc<Self>, watch: u64) -> End {
        for index in 0..self.vcpus.len() {
            if let Err(errno) = self.start(index) {
                self.threads.fetch_sub(1, Ordering::SeqCst);
                self.finish(End::Crash(None, format!("no thread for a virtual CPU: {errno}")));
            }
        }
        go_to(watch);
        self.watch();
        go_to(self.plan.all_cpus());
        super::devices::detach(&self.plan);
        with_host_regime(|regime| {
            self.vm.release(regime);
            self.vm.empty(regime);
        });
        self.end.get().cloned().unwrap_or(End::Off)
    }

    /// Waits until all its threads have ended; sees to that when its watchdog runs out.
    ///
    /// That it is petted doesn't wake anybody: the timer is set anew when it comes.
    fn watch(&self) {
        loop {
            let deadline = self.watchdog.lock().wait();
            let changed = || match self.threads.load(Ordering::SeqCst) {
                0 => Ok(true),
                _ if self.watchdog.lock().is_early() => Ok(false),
                _ => Err(Errno::EAGAIN),
            };
            match wait::until(&self.changed, deadline, changed) {
                Ok(true) => return,
                Ok(false) => {}
                Err(wait::Ended::TimedOut) => self.look_at_watchdog(),
                // No memory to be told of changes by: look again soon.
                Err(_) => {
                    self.look_at_watchdog();
                    sched::park_until(Some(time::now().saturating_add(LOOK)));
                }
            }
        }
    }

    fn look_at_watchdog(&self) {
        let hangs = {
            let mut watchdog = self.watchdog.lock();
            let is_over = watchdog.is_over(time::now());
            if is_over {
                watchdog.stop();
            }
            is_over
        };
        if hangs {
            self.finish(End::Hang);
        }
    }

    /// The registers of one of its virtual CPUs, or of all, to the log. When it has ended.
    pub fn report(&self, only: Option<usize>) {
        for (index, vcpu) in self.vcpus.iter().enumerate() {
            if only.is_none_or(|only| only == index) {
                let context = vcpu.core().state.lock().context.clone();
                report::registers(&self.plan.domain.name, index, &context);
            }
        }
    }

    /// The guest calls its watchdog.
    fn call_watchdog(&self, vcpu: &Vcpu) {
        let [_, call, value, ..] = vcpu.core().state.lock().context.regs;
        let (results, early) = {
            let mut watchdog = self.watchdog.lock();
            (watchdog.call(call as u32, value as u32, time::now()), watchdog.is_early())
        };
        {
            let mut state = vcpu.core().state.lock();
            for (n, value) in (0u8..).zip(results) {
                state.context.set_x(n, value);
            }
        }
        if early {
            self.changed.wake_all();
        }
    }

    /// Starts the thread of a virtual CPU.
    fn start(self: &Arc<Self>, index: usize) -> base::Result<()> {
        let life = self.clone();
        let task = task::Task::new(super::supervisor::thread_id(), move || {
            life.thread(index);
            life.threads.fetch_sub(1, Ordering::SeqCst);
            life.changed.wake_all();
        })?;
        schedule(&task, &self.plan, self.plan.affinity(index));
        sched::start(&task);
        Ok(())
    }

    /// Says how it ends, if nothing else came first, and stops all virtual CPUs.
    fn finish(&self, end: End) {
        self.end.call_once(|| end);
        self.vm.stop();
    }

    /// A virtual CPU's thread.
    fn thread(&self, index: usize) {
        let Some(vcpu) = self.vcpus.get(index) else { return };
        let waker = Waker::from(sched::current());
        if let Err(errno) = vcpu.wait_queue().register(&waker) {
            return self.finish(End::Crash(None, errno.to_string()));
        }
        kvm::drive(&mut Thread { life: self, vcpu, index });
        vcpu.wait_queue().unregister(&waker);
        with_host_regime(|regime| crate::vcpu::pull(regime, vcpu.core()));
    }

    /// KVM_RUN returned: `struct kvm_run` says why.
    fn exit(&self, vcpu: &Vcpu, index: usize) {
        let word = |at: usize| {
            let word = vcpu.run_page().atomic_u32(at as u64);
            word.map_or(0, |word| word.load(Ordering::Relaxed))
        };
        match word(offset::EXIT_REASON) {
            page::EXIT_MMIO => vcpu.refuse_access(),
            page::EXIT_SYSTEM_EVENT => match word(offset::SYSTEM_EVENT_TYPE) {
                page::SYSTEM_EVENT_SHUTDOWN => self.finish(End::Off),
                page::SYSTEM_EVENT_RESET => self.finish(End::Reset),
                _ => {}
            },
            page::EXIT_HYPERCALL => self.call_watchdog(vcpu),
            page::EXIT_UNKNOWN | page::EXIT_INTR => {}
            page::EXIT_FAIL_ENTRY => self.crash(index, "its state can't be entered"),
            _ => self.crash(index, "an exit that nothing should cause"),
        }
    }

    fn crash(&self, index: usize, why: &str) {
        self.finish(End::Crash(Some(index), format!("virtual CPU {index}: {why}")));
    }
}

/// What runs a virtual CPU.
struct Thread<'a> {
    life: &'a Life,
    vcpu: &'a Vcpu,
    index: usize,
}

impl Driver for Thread<'_> {
    fn is_over(&self) -> bool {
        self.life.end.get().is_some()
    }

    fn run(&mut self) -> base::Result<Done> {
        crate::vcpu::come_home(self.vcpu.core());
        with_host_regime(|regime| self.vcpu.run(regime))
    }

    fn wait(&mut self) {
        sched::park();
        sched::breathe();
    }

    fn exited(&mut self, result: base::Result<Done>) {
        let why = match result {
            Ok(_) => return self.life.exit(self.vcpu, self.index),
            Err(Errno::ENOSYS) => "an access that no syndrome describes, where no memory is",
            Err(Errno::EFAULT) => "an abort that nothing can mend",
            Err(_) => "the hypervisor could not go on",
        };
        self.life.crash(self.index, why);
    }
}

/// The current task goes on on one of these CPUs.
fn go_to(cpus: u64) {
    sched::set_affinity(&sched::current(), cpus);
    sched::breathe();
}

/// As the plan says.
pub fn schedule(task: &Arc<task::Task>, plan: &Plan, cpus: u64) {
    task.entity.set_affinity(cpus);
    if let Some(priority) = plan.domain.priority {
        task.entity.set_class(Class::RoundRobin, priority);
    }
}

fn init(index: usize) -> VcpuInit {
    let off = if index == 0 { 0 } else { 1 << abi::ARM_VCPU_POWER_OFF };
    let mut init = VcpuInit { target: abi::ARM_TARGET_GENERIC_V8, features: [0; 7] };
    let [features, ..] = &mut init.features;
    *features = 1 << abi::ARM_VCPU_PSCI_0_2 | off;
    init
}

fn place_vgic(vgic: &Vgic, v3: bool) -> base::Result<()> {
    if v3 {
        vgic.set_address(abi::vgic::V3_ADDR_TYPE_DIST, layout::GICV3_GICD.start)?;
        vgic.set_address(abi::vgic::V3_ADDR_TYPE_REDIST, layout::GICV3_GICR.start)
    } else {
        vgic.set_address(abi::vgic::V2_ADDR_TYPE_DIST, layout::GICV2_GICD.start)?;
        vgic.set_address(abi::vgic::V2_ADDR_TYPE_CPU, layout::GICV2_GICC.start)
    }
}

/// Clears memory and puts kernel, ramdisk and device tree in.
fn load(plan: &Plan, memory: &GuestMemory, v3: bool, most: u8) -> Result<Placed, Problem> {
    let domain = &plan.domain;
    let fault = |what: String| Problem::node(format!("/chosen/{}", domain.name), what);
    // `claims` saw that they are.
    let module = |region: Region| {
        memory::module(region).ok_or_else(|| fault(format!("its module {region} is not in RAM")))
    };
    let kernel = module(domain.kernel)?;
    let ramdisk = domain.ramdisk.map(module).transpose()?;
    let banks = memory.ram();
    let first = banks.first().ok_or_else(|| fault("it has no memory".into()))?;
    // With direct-map alone, where its memory is wasn't known before.
    let claim = Claim { domain, passthrough: plan.passthrough.as_ref() };
    let problems = claims::guest_addresses(&claim, v3, most, &banks);
    if let Some(problem) = problems.into_iter().next() {
        return Err(problem);
    }
    let header = kernel.get(..HEADER).unwrap_or(kernel);
    let ramdisk_len = ramdisk.map(|ramdisk| ramdisk.len() as u64);
    let placed = image::prepare(domain, header, kernel.len() as u64, ramdisk_len, *first)?;
    let fragment = plan.passthrough.is_some().then(|| plan::fragment(domain)).transpose()?;
    let tree = tree::build(&tree::Guest {
        domain,
        memory: &banks,
        v3,
        ramdisk: placed.ramdisk,
        passthrough: plan.passthrough.as_ref().zip(fragment),
        rng_seed: &random::array::<64>(),
        kaslr_seed: random::word(),
    })?;
    memory.clear(sched::breathe);
    let write = |at, bytes| {
        let written = memory.write(at, bytes, sched::breathe);
        written.map_err(|errno| fault(format!("its memory can't be written: {errno}")))
    };
    write(placed.kernel, kernel)?;
    write(placed.tree, &tree)?;
    if let (Some(region), Some(bytes)) = (placed.ramdisk, ramdisk) {
        write(region.start, bytes)?;
    }
    Ok(placed)
}
