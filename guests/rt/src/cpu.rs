//! The CPU: registers by name, the counter, waiting, other CPUs.

use crate::machine::Machine;
use crate::psci;
use core::sync::atomic::{AtomicU64, Ordering};

/// Reads a system register.
#[macro_export]
macro_rules! mrs {
    ($name:literal) => {{
        let v: u64;
        // SAFETY: a test guest reads what it likes; a trap is handled.
        unsafe { core::arch::asm!(concat!("mrs {}, ", $name), out(reg) v, options(nostack)) };
        v
    }};
}

/// Writes a system register.
#[macro_export]
macro_rules! msr {
    ($name:literal, $v:expr) => {{
        let v: u64 = $v;
        // SAFETY: a test guest writes what it likes; what follows is its affair.
        unsafe { core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) v, options(nostack)) };
    }};
}

/// The virtual counter, in order with what is before it.
#[inline(always)]
pub fn now() -> u64 {
    isb();
    mrs!("cntvct_el0")
}

/// Its frequency.
pub fn frequency() -> u64 {
    mrs!("cntfrq_el0")
}

macro_rules! instruction {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)+) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name() {
            // SAFETY: changes no register or memory.
            unsafe { core::arch::asm!($code, options(nostack)) };
        }
    )+};
}

instruction! {
    /// ISB.
    isb = "isb";
    /// DSB SY.
    dsb = "dsb sy";
    /// WFI.
    wfi = "wfi";
    /// WFE.
    wfe = "wfe";
    /// SEV.
    sev = "sev";
    /// YIELD.
    pause = "yield";
    /// Takes interrupts.
    unmask = "msr daifclr, #3";
    /// Takes no interrupts.
    mask = "msr daifset, #3";
}

/// Waits for so many ticks of the counter.
pub fn delay(ticks: u64) {
    let start = now();
    while now() - start < ticks {}
}

/// Ticks of a millisecond.
pub fn millisecond() -> u64 {
    frequency() / 1000
}

/// Waits until the condition holds, for a second at most.
pub fn until(f: impl Fn() -> bool) -> bool {
    let start = now();
    while !f() {
        if now() - start > frequency() {
            return false;
        }
        pause();
    }
    true
}

const STACK: usize = 32 * 1024;

#[repr(C, align(64))]
struct Start {
    stack: AtomicU64,
    function: AtomicU64,
    argument: AtomicU64,
}

#[repr(C, align(64))]
struct Stack(core::cell::UnsafeCell<[u8; STACK]>);

// SAFETY: each is one CPU's.
unsafe impl Sync for Stack {}

static STARTS: [Start; 8] = [const {
    Start { stack: AtomicU64::new(0), function: AtomicU64::new(0), argument: AtomicU64::new(0) }
}; 8];
static STACKS: [Stack; 8] = [const { Stack(core::cell::UnsafeCell::new([0; STACK])) }; 8];

/// Starts CPU `i` (as the device tree counts them) in `f`; gives PSCI's answer.
pub fn start(m: &Machine, i: usize, f: extern "C" fn(u64) -> !, argument: u64) -> i64 {
    unsafe extern "C" {
        fn guest_rt_secondary();
    }
    let s = &STARTS[i];
    s.stack.store(STACKS[i].0.get() as u64 + STACK as u64, Ordering::Relaxed);
    s.function.store(f as *const () as u64, Ordering::Relaxed);
    s.argument.store(argument, Ordering::Release);
    let s = &raw const *s as u64;
    // The CPU may read it before it shares our caches.
    // SAFETY: cleans a line of ours.
    unsafe { core::arch::asm!("dc civac, {}", "dsb sy", in(reg) s) };
    psci::call([psci::CPU_ON, m.cpus[i], guest_rt_secondary as *const () as u64, s])[0] as i64
}
