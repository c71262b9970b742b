//! Interrupt lines as devices see them.

use vmm_sys_util::eventfd::EventFd;

/// An edge-triggered interrupt line. Devices raise it; nothing is lost if it is raised again before it is taken.
pub trait Irq: Send + Sync {
    /// Makes the interrupt pending.
    fn raise(&self);
}

/// A line that KVM listens to (KVM_IRQFD).
impl Irq for EventFd {
    fn raise(&self) {
        // Only a counter at its maximum refuses, and then the interrupt is pending already.
        let _ = self.write(1);
    }
}
