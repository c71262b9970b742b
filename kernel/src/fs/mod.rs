//! The file tree: what boot puts into it, and which devices there are.

mod kmsg;
mod proc;

use crate::boot::BootPlan;
use crate::{clock, memory, random, time, timer, tty};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use base::{Lock, Nanos, Result, WaitQueue, rank, room};
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::Waker;
use spin::Once;
use timer::Timer;
use vfs::device::{self, DeviceRegistry};
use vfs::timerfd::{ClockId, Timers};
use vfs::tmpfs::{Tmpfs, TmpfsOptions};
use vfs::{Clock, Namespace, Timespec};

struct WallClock;

impl Clock for WallClock {
    fn realtime(&self) -> Timespec {
        Timespec::from_nanos(clock::realtime())
    }
}

/// Makes the root, unpacks the initramfs into it, and lists the devices.
pub fn init(plan: &BootPlan) -> Result<Arc<Namespace>> {
    let clock: Arc<dyn Clock> = Arc::new(WallClock);
    let devices = DeviceRegistry::new();
    devices.register_memory(random::fill, random::mix);
    devices.register(device::KMSG, "kmsg", 0o644, |_| Ok(room::try_arc(kmsg::Kmsg::new())?));
    tty::register(&devices);
    crate::kvm::init(plan, &devices);
    let pages = frame::stats().total / base::PAGE_SIZE;
    let options = TmpfsOptions { mode: 0o755, ..TmpfsOptions::new(pages) };
    let root = Tmpfs::new("rootfs", options, clock.clone())?;
    let namespace = Namespace::new(root, "rootfs", devices.clone(), clock.clone());
    for name in ["tmpfs", "ramfs"] {
        let clock = clock.clone();
        namespace.register_fs(name, move |data| {
            let options = TmpfsOptions::new(pages).parse(data)?;
            Ok(Tmpfs::new(name, options, clock.clone())?)
        });
    }
    vfs::device::register_devtmpfs(&namespace, pages)?;
    proc::register(&namespace);
    unpack(&namespace);
    vfs::tmpfs::set_breathe(crate::sched::breathe);
    Ok(namespace)
}

fn unpack(namespace: &Namespace) {
    let before = time::now();
    if let Some(archive) = memory::initrd() {
        match vfs::initramfs::unpack(namespace, archive) {
            Ok(unpacked) => {
                let taken = time::now().saturating_sub(before) / 1000;
                log::info!(
                    "Initramfs: {} entries from {} KiB in {taken} us",
                    unpacked.entries,
                    archive.len() / 1024
                );
                if unpacked.skipped > 0 {
                    log::warn!("Initramfs: {} entries could not be made", unpacked.skipped);
                }
            }
            Err(error) => log::error!("Initramfs: {error:?}: is the initrd a newc cpio, plain or gzip?"),
        }
    }
    memory::release_initrd();
    let console = vfs::initramfs::ensure_node(namespace, b"/dev", b"console", 0o600, device::CONSOLE);
    if let Err(errno) = console {
        log::warn!("Initramfs: /dev/console could not be made: {errno}");
    }
}

/// The kernel's clocks and deadlines, for timerfds.
struct KernelTimers {
    armed: Lock<BTreeMap<u64, Timer>>,
    next: AtomicU64,
}

impl Timers for KernelTimers {
    fn now(&self, clock: ClockId) -> Nanos {
        match clock {
            ClockId::Realtime => clock::realtime(),
            ClockId::Monotonic | ClockId::Boottime => time::now(),
        }
    }

    fn arm(&self, deadline: Nanos, waker: Waker) -> Result<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let timer = timer::try_arm(deadline, waker)?;
        if let Err(errno) = room::try_insert(&mut self.armed.lock(), number, timer) {
            timer::cancel(timer);
            return Err(errno);
        }
        Ok(number)
    }

    fn cancel(&self, armed: u64) {
        let timer = self.armed.lock().remove(&armed);
        if let Some(timer) = timer {
            timer::cancel(timer);
        }
    }

    fn clock_sets(&self) -> u64 {
        clock::sets()
    }

    fn clock_was_set(&self) -> &WaitQueue {
        &clock::WAS_SET
    }
}

/// What timerfds are made with.
pub fn timers() -> Arc<dyn Timers> {
    static TIMERS: Once<Arc<KernelTimers>> = Once::new();
    TIMERS
        .call_once(|| {
            Arc::new(KernelTimers {
                armed: Lock::new(rank::TIMER, BTreeMap::new()),
                next: AtomicU64::new(1),
            })
        })
        .clone()
}
