//! Interrupts from outside: KVM_IRQ_LINE, KVM_SET_GSI_ROUTING, KVM_IRQFD, and
//! KVM_IOEVENTFD the other way round.

use crate::host::{EventFd, Host};
use crate::snapshot::IoEvent;
use crate::vcpu::{VcpuList, request};
use crate::vm::Vm;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use base::{Errno, Result, Room};
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::Waker;
use kvm_abi as abi;
use regime::HostRegime;

/// KVM_CAP_IRQ_ROUTING.
pub(crate) const MAX_ROUTES: usize = 4096;
/// Linux's KVM_IRQCHIP_NUM_PINS: SPIs.
pub(crate) const PINS: u32 = 1020 - 32;
/// Linux's NR_IOBUS_DEVS.
const MAX_IO_EVENTS: usize = 1000;
/// Irqfds of a VM. Linux's go when their eventfd is closed; these keep it open,
/// so that the number of descriptors is no bound.
const MAX_IRQFDS: usize = 4096;

/// How many interrupts of irqfds are injected at once, with the VM locked.
const BATCH: usize = 64;

/// Global system interrupt to pin of the interrupt controller, in order. `None`:
/// each is its own.
pub(crate) type Routes = Option<Vec<(u32, u32)>>;

/// An irqfd: a waker on an eventfd.
pub(crate) struct Irqfd {
    line: Arc<Line>,
    waker: Waker,
}

struct Line {
    gsi: u32,
    eventfd: Arc<dyn EventFd>,
    /// Signalled, and not yet injected.
    pending: AtomicBool,
    vcpus: Arc<VcpuList>,
    host: Arc<dyn Host>,
}

impl Wake for Line {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    /// Runs under the eventfd's wait queue's lock, where the interrupt
    /// controller's locks may not be taken: a vCPU does the rest.
    fn wake_by_ref(self: &Arc<Self>) {
        self.pending.store(true, Ordering::SeqCst);
        for core in self.vcpus.iter() {
            core.request(request::IRQFD);
        }
        for core in self.vcpus.iter() {
            core.kick(&*self.host);
            if core.is_in_guest() {
                // It is on its way.
                return;
            }
        }
    }
}

impl Drop for Irqfd {
    fn drop(&mut self) {
        self.line.eventfd.wait_queue().unregister(&self.waker);
    }
}

impl Vm {
    /// KVM_IRQ_LINE.
    pub(crate) fn irq_line(&self, level: abi::IrqLevel) -> Result<()> {
        let irq = level.irq;
        let kind = (irq >> 24) & 0xf;
        let vcpu = ((irq >> 16) & 0xff).wrapping_add(((irq >> 28) & 0xf).wrapping_mul(256));
        let number = irq & 0xffff;
        let vgic = self.vgic().ok_or(Errno::ENXIO)?;
        let result = match kind {
            abi::ARM_IRQ_TYPE_PPI => {
                let core = self.vcpus.by_id(vcpu).ok_or(Errno::EINVAL)?;
                if !(16..32).contains(&number) {
                    return Err(Errno::EINVAL);
                }
                vgic.inject_ppi(core.index, number, level.level != 0)
            }
            abi::ARM_IRQ_TYPE_SPI => {
                if number < 32 {
                    return Err(Errno::EINVAL);
                }
                vgic.inject_spi(number, level.level != 0)
            }
            // The CPU's own lines are the interrupt controller's.
            abi::ARM_IRQ_TYPE_CPU => Err(Errno::ENXIO),
            _ => Err(Errno::EINVAL),
        };
        self.vcpus.wake_sleepers();
        result
    }

    /// Raises and lowers a GSI: an edge.
    fn pulse(&self, routes: &Routes, gsi: u32) {
        let pin = match routes {
            None => Some(gsi),
            Some(routes) => {
                let at = routes.binary_search_by_key(&gsi, |(from, _)| *from).ok();
                at.and_then(|at| routes.get(at)).map(|(_, pin)| *pin)
            }
        };
        if let (Some(pin), Some(vgic)) = (pin, self.vgic()) {
            let intid = pin.saturating_add(32);
            // What isn't there, or not yet, is lost: as on Linux.
            let _ = vgic.inject_spi(intid, true);
            let _ = vgic.inject_spi(intid, false);
        }
    }

    /// Injects what irqfds were signalled for, some at a time. Whether that was all.
    pub(crate) fn drain_irqfds(&self) -> bool {
        let mut left = BATCH;
        {
            let config = self.config.lock();
            for irqfd in &config.irqfds {
                if !irqfd.line.pending.load(Ordering::Relaxed) {
                    continue;
                }
                if left == 0 {
                    break;
                }
                if irqfd.line.pending.swap(false, Ordering::SeqCst) && irqfd.line.eventfd.take() {
                    self.pulse(&config.routes, irqfd.line.gsi);
                    left = left.saturating_sub(1);
                }
            }
        }
        self.vcpus.wake_sleepers();
        left != 0
    }

    /// All that they were signalled for until now: Linux injects while somebody
    /// signals, so that nobody who looks afterwards finds it missing.
    pub(crate) fn drain_all_irqfds(&self, regime: &mut HostRegime) {
        for _ in 0..=MAX_IRQFDS / BATCH {
            if self.drain_irqfds() {
                break;
            }
            self.host().window(regime);
        }
    }

    /// KVM_IRQFD.
    pub(crate) fn irqfd(&self, regime: &mut HostRegime, args: &abi::Irqfd) -> Result<()> {
        if args.flags & !abi::IRQFD_FLAG_DEASSIGN != 0 || args.gsi as usize >= MAX_ROUTES {
            return Err(Errno::EINVAL);
        }
        let eventfd = self.host().eventfd(args.fd as i32)?;
        if args.flags & abi::IRQFD_FLAG_DEASSIGN != 0 {
            self.drain_all_irqfds(regime);
            let mut gone = Vec::new();
            {
                let mut config = self.config.lock();
                let mut at = 0;
                while let Some(irqfd) = config.irqfds.get(at) {
                    if irqfd.line.gsi == args.gsi && irqfd.line.eventfd.same(&*eventfd) {
                        gone.make_room(1)?;
                        gone.push(config.irqfds.swap_remove(at));
                    } else {
                        at = at.wrapping_add(1);
                    }
                }
            }
            // Unregistered outside the lock, by being dropped.
            return Ok(());
        }
        if !self.vgic().is_some_and(|vgic| vgic.is_initialized()) {
            return Err(Errno::EAGAIN);
        }
        let line = Arc::new(Line {
            gsi: args.gsi,
            eventfd: eventfd.clone(),
            pending: AtomicBool::new(false),
            vcpus: self.vcpus.clone(),
            host: self.host().clone(),
        });
        let waker = Waker::from(line.clone());
        let irqfd = Irqfd { line: line.clone(), waker };
        {
            let mut config = self.config.lock();
            if config.irqfds.iter().any(|other| other.line.eventfd.same(&*eventfd)) {
                return Err(Errno::EBUSY);
            }
            if config.irqfds.len() >= MAX_IRQFDS {
                return Err(Errno::ENOSPC);
            }
            config.irqfds.make_room(1)?;
            eventfd.wait_queue().register(&irqfd.waker)?;
            config.irqfds.push(irqfd);
        }
        // It may have been signalled before.
        line.pending.store(true, Ordering::SeqCst);
        self.drain_all_irqfds(regime);
        Ok(())
    }

    /// KVM_IOEVENTFD.
    pub(crate) fn ioeventfd(&self, args: &abi::Ioeventfd) -> Result<()> {
        let known = abi::IOEVENTFD_FLAG_DATAMATCH | abi::IOEVENTFD_FLAG_DEASSIGN;
        let matching = args.flags & abi::IOEVENTFD_FLAG_DATAMATCH != 0;
        if args.flags & !known != 0
            || !matches!(args.len, 0 | 1 | 2 | 4 | 8)
            || args.addr.checked_add(u64::from(args.len)).is_none()
            || (args.len == 0 && matching)
        {
            return Err(Errno::EINVAL);
        }
        let event = IoEvent {
            addr: args.addr,
            len: args.len,
            datamatch: matching.then_some(args.datamatch),
            eventfd: self.host().eventfd(args.fd)?,
        };
        self.change(|new| {
            if args.flags & abi::IOEVENTFD_FLAG_DEASSIGN != 0 {
                let at = new.io_events.iter().position(|other| {
                    other.addr == event.addr
                        && other.len == event.len
                        && other.datamatch == event.datamatch
                        && other.eventfd.same(&*event.eventfd)
                });
                new.io_events.remove(at.ok_or(Errno::ENOENT)?);
                return Ok(());
            }
            if new.io_events.iter().any(|other| other.collides(&event)) {
                return Err(Errno::EEXIST);
            }
            if new.io_events.len() >= MAX_IO_EVENTS {
                return Err(Errno::ENOSPC);
            }
            new.io_events.make_room(1)?;
            let at = new.io_events.partition_point(|other| other.addr <= event.addr);
            new.io_events.insert(at, event.clone());
            Ok(())
        })
    }
}
