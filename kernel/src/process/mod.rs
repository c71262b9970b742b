//! Processes and threads of user space.

use crate::task::Task;
use arch::trap::TrapFrame;

/// What a memory access wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Load.
    Read,
    /// Store.
    Write,
    /// Instruction fetch.
    Exec,
}

/// Why EL0 can't go on as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Nothing is mapped there: SIGSEGV, SEGV_MAPERR.
    Unmapped,
    /// Mapped without the right: SIGSEGV, SEGV_ACCERR.
    Denied,
    /// Past the end of a file, or an external abort: SIGBUS.
    Bus,
    /// SIGBUS, BUS_ADRALN.
    Alignment,
    /// No memory for the page: the process is killed.
    OutOfMemory,
    /// SIGILL.
    IllegalInstruction,
    /// SIGTRAP, TRAP_BRKPT.
    Breakpoint,
    /// SIGTRAP, TRAP_TRACE.
    Trace,
    /// SIGFPE.
    FloatingPoint,
}

/// A fault of EL0's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What happened.
    pub kind: FaultKind,
    /// At which address.
    pub address: u64,
}

/// The user-space side of a task.
pub struct Thread {}

/// Maps what the current process may access at `address`, or says why not.
pub fn fault(address: u64, _access: Access) -> Result<(), Fault> {
    Err(Fault { kind: FaultKind::Unmapped, address })
}

/// Turns a fault of the current thread into its signal.
pub fn raise(_frame: &mut TrapFrame, _fault: &Fault, _esr: u64, _far: u64) {}

/// Whether the current thread has something to do before it returns to EL0:
/// signals, exit, stop. On the path of every return: a load or two.
#[inline]
pub fn has_work() -> bool {
    false
}

/// Does it: may change `frame` (a signal handler's), sleep, or not return.
pub fn work(_frame: &mut TrapFrame) {}

/// `task` is about to run on this CPU: make its address space current.
pub fn enter(_task: &Task) {}

/// Whether the current thread has a signal to take: what ends a wait early.
pub fn signal_pending() -> bool {
    false
}
