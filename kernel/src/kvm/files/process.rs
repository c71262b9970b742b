//! What a process gives to its VMs: its memory, and eventfds.

use crate::process;
use crate::syscall::fd;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use base::{Errno, Lock, Result, WaitQueue, rank};
use kvm::{AddressSpace, EventFd, HostFrame};
use regime::HostRegime;
use vfs::OpenFile;
use vfs::eventfd::EventFd as File;

/// The current process's memory. Only a process can open /dev/kvm; one that is
/// ending has none left.
pub fn address_space() -> Option<Arc<dyn AddressSpace>> {
    let space = process::current().and_then(|process| process.mm()).map(|mm| (**mm).clone());
    Some(Arc::new(Space { space: space.ok()?, adapters: Lock::new(rank::VM, Vec::new()) }))
}

/// The eventfd behind a descriptor of the current process's.
pub fn eventfd(number: i32) -> Result<Arc<dyn EventFd>> {
    let file = fd::get(number as u64)?;
    file.downcast::<File>().ok_or(Errno::EINVAL)?;
    Ok(Arc::new(Event(file)))
}

/// A process's memory, for its VMs.
struct Space {
    space: Arc<mm::AddressSpace>,
    /// Keeps the notifiers registered: memory management holds them weakly.
    adapters: Lock<Vec<Arc<Adapter>>>,
}

/// Hands memory management's word on to KVM.
struct Adapter(Weak<dyn kvm::MmuNotifier>);

impl mm::MmuNotifier for Adapter {
    fn invalidate(&self, start: u64, end: u64) {
        if let Some(notifier) = self.0.upgrade() {
            notifier.invalidate(start, end);
        }
    }
}

impl AddressSpace for Space {
    fn id(&self) -> u64 {
        self.space.id()
    }

    fn sequence(&self) -> u64 {
        self.space.invalidate_seq()
    }

    fn is_current(&self, sequence: u64) -> bool {
        self.space.is_current(sequence)
    }

    fn get_frame(&self, _regime: &HostRegime, addr: u64, write: bool) -> Result<HostFrame> {
        let backing = self.space.get_frame(addr, write).map_err(|fault| fault.errno())?;
        Ok(HostFrame { frame: backing.frame, writable: backing.writable })
    }

    fn register(&self, notifier: Weak<dyn kvm::MmuNotifier>) -> Result<()> {
        let adapter = Arc::new(Adapter(notifier));
        let weak: Weak<dyn mm::MmuNotifier> = Arc::<Adapter>::downgrade(&adapter);
        self.space.register(weak)?;
        self.adapters.lock().push(adapter);
        Ok(())
    }
}

/// An eventfd that KVM signals or listens to.
struct Event(Arc<OpenFile>);

static NOBODY: WaitQueue = WaitQueue::new();

impl EventFd for Event {
    fn signal(&self, count: u64) {
        if let Some(event) = self.0.downcast::<File>() {
            event.signal(count);
        }
    }

    fn take(&self) -> bool {
        self.0.downcast::<File>().is_some_and(|event| event.consume())
    }

    fn wait_queue(&self) -> &WaitQueue {
        self.0.wait_queue().unwrap_or(&NOBODY)
    }
}
