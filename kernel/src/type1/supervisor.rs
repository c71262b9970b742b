//! Whoever builds a VM, waits for its end, and builds it anew.

use super::console;
use super::memory::GuestMemory;
use super::plan::{self, Plan};
use super::report;
use super::vm::{End, Life, schedule};
use crate::{power, sched, task, time};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use domain::OnCrash;
use kvm::Host;

/// How long a VM that has crashed stays off: one that crashes at once must not
/// do so all the time.
const PAUSE: u64 = 1_000_000_000;

/// A life shorter than this that ends in a reset is followed by a pause, too.
const SHORT: u64 = 100_000_000;

/// A VM that crashes or hangs again within this time is only named: its registers would fill
/// the log.
const QUIET: u64 = 10_000_000_000;

/// VMs that haven't ended for good.
static ALIVE: AtomicUsize = AtomicUsize::new(0);
/// VMs that haven't started yet.
static COMING: AtomicUsize = AtomicUsize::new(0);
/// What guests have: RAM, and the modules that it is filled from.
static GUESTS: AtomicU64 = AtomicU64::new(0);

/// A number for a new thread.
pub fn thread_id() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Starts a supervisor for each VM; the machine goes off with the last of them.
pub fn start(plans: Vec<Plan>, host: Arc<dyn Host>) {
    ALIVE.store(plans.len(), Ordering::SeqCst);
    COMING.store(plans.len(), Ordering::SeqCst);
    GUESTS.store(plan::module_bytes(&plans), Ordering::SeqCst);
    let free = plan::online_cpus() & !plan::exclusive_cpus(&plans);
    for plan in plans {
        let plan = Arc::new(plan);
        let elsewhere = plan.is_exclusive() && plan.domain.watchdog.is_some() && free != 0;
        let watch = if elsewhere { free } else { plan.all_cpus() };
        let (ours, host) = (plan.clone(), host.clone());
        let supervisor = task::Task::new(thread_id(), move || {
            let mut coming = Coming(true);
            supervise(&ours, &host, watch, &mut coming);
            coming.is_up();
            has_ended(&ours);
        });
        match supervisor {
            Ok(task) => {
                schedule(&task, &plan, plan.all_cpus());
                sched::start(&task);
            }
            Err(errno) => {
                log::error!("{}: no thread to supervise it: {errno}", plan.domain.name);
                Coming(true).is_up();
                has_ended(&plan);
            }
        }
    }
}

/// A VM has ended for good, or never began; with the last one the machine goes off.
fn has_ended(plan: &Plan) {
    console::off(&plan.domain.name);
    if ALIVE.fetch_sub(1, Ordering::SeqCst) == 1 {
        log::info!("All virtual machines have ended: powering off");
        power::off();
    }
}

/// A VM that hasn't started yet.
struct Coming(bool);

impl Coming {
    /// It has started, or never will. The last one says what is left for others.
    fn is_up(&mut self) {
        if core::mem::take(&mut self.0) && COMING.fetch_sub(1, Ordering::SeqCst) == 1 {
            report::memory(GUESTS.load(Ordering::SeqCst));
        }
    }
}

/// A VM from its first start to its last end.
///
/// While it lives its supervisor is on the CPUs `watch`: the timer of a watchdog isn't to
/// disturb an exclusive VM.
fn supervise(plan: &Arc<Plan>, host: &Arc<dyn Host>, watch: u64, coming: &mut Coming) {
    let name = &plan.domain.name;
    let memory = match GuestMemory::take(&plan.domain) {
        Ok(memory) => memory,
        Err(errno) => return log::error!("{name}: no memory for it: {errno}"),
    };
    let ram = memory.ram().iter().fold(0u64, |sum, bank| sum.saturating_add(bank.size));
    GUESTS.fetch_add(ram, Ordering::SeqCst);
    let mut said = None;
    while let Some(end) = live(plan, &memory, host, watch, coming) {
        end.tell(name, &mut said);
        if !end.goes_on(plan) {
            break;
        }
    }
    let has_begun = !coming.0;
    if has_begun && plan.passthrough.as_ref().is_some_and(|devices| !devices.may_dma.is_empty()) {
        log::warn!("{name}: nobody gets its memory, which its devices may still write");
        core::mem::forget(memory);
    }
}

/// One life of it. None: it can't be begun, and never could.
fn live(
    plan: &Arc<Plan>,
    memory: &Arc<GuestMemory>,
    host: &Arc<dyn Host>,
    watch: u64,
    coming: &mut Coming,
) -> Option<Ended> {
    let name = &plan.domain.name;
    let life = match Life::build(plan, memory, host) {
        Ok(life) => life,
        Err(why) if coming.0 => {
            log::error!("{name}: {why}");
            return None;
        }
        Err(why) => return Some(Ended { end: End::Crash(None, why), life: None, short: false }),
    };
    log::info!(
        "{name}: starts, {} CPUs on {:#x}, {} MiB; {} GiB are mapped whole",
        plan.domain.cpus,
        plan.all_cpus(),
        plan.domain.memory >> 20,
        life.gigabytes
    );
    coming.is_up();
    let started = time::now();
    let end = life.run(watch);
    let short = time::now().saturating_sub(started) < SHORT;
    Some(Ended { end, life: Some(life), short })
}

/// A life that has ended.
struct Ended {
    end: End,
    /// None: it was over before it began.
    life: Option<Arc<Life>>,
    short: bool,
}

impl Ended {
    /// Says how it ended; with registers, unless some were told of at `said`, not long ago.
    fn tell(&self, name: &str, said: &mut Option<u64>) {
        let at_fault = match &self.end {
            End::Off => return log::info!("{name}: is off"),
            End::Reset => return log::info!("{name}: resets"),
            End::Crash(cpu, _) => *cpu,
            End::Hang => None,
        };
        let now = time::now();
        if let Some(life) = &self.life
            && said.is_none_or(|then| now.saturating_sub(then) >= QUIET)
        {
            life.report(at_fault);
            *said = Some(now);
        }
        match &self.end {
            End::Crash(_, why) => log::error!("{name}: crashed: {why}"),
            _ => log::error!("{name}: hung: it did not pet its watchdog in time"),
        }
    }

    /// Whether another one follows: now.
    fn goes_on(self, plan: &Plan) -> bool {
        let name = &plan.domain.name;
        // Before a pause: others may want its memory.
        drop(self.life);
        match self.end {
            End::Off => return false,
            End::Reset => {
                if self.short {
                    sched::park_until(Some(time::now().saturating_add(PAUSE)));
                }
            }
            End::Crash(..) | End::Hang => match plan.domain.on_crash {
                OnCrash::Restart => {
                    sched::park_until(Some(time::now().saturating_add(PAUSE)));
                }
                OnCrash::Stop => {
                    log::error!("{name}: stays off (hypha,on-crash)");
                    return false;
                }
                OnCrash::ResetAll => {
                    log::error!("{name}: resets the machine (hypha,on-crash)");
                    power::reset();
                }
            },
        }
        true
    }
}
