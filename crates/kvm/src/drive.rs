//! A vCPU without a VMM: who runs it, and when its thread may sleep.

use crate::Done;
use base::Result;

/// The thread of a vCPU that runs until its VM's life is over. Whoever ends that
/// says so first ([`Driver::is_over`]), then calls [`crate::Vm::stop`].
pub trait Driver {
    /// Whether the VM's life is over.
    fn is_over(&self) -> bool;

    /// [`crate::Vcpu::run`].
    fn run(&mut self) -> Result<Done>;

    /// Sleeps until the vCPU's wait queue, where the thread is registered, wakes
    /// it. A wake-up since the last sleep ends this one at once.
    fn wait(&mut self);

    /// Run returned, and `struct kvm_run` says why; or it failed.
    fn exited(&mut self, result: Result<Done>);
}

/// Runs the vCPU to the end of its VM's life.
pub fn drive(thread: &mut impl Driver) {
    while !thread.is_over() {
        match thread.run() {
            // Looked at again: what stopped the vCPU may have come during this very
            // run, which then has seen to it, and wakes nobody.
            Ok(Done::Wait) if thread.is_over() => {}
            Ok(Done::Wait) => thread.wait(),
            result => thread.exited(result),
        }
    }
}
