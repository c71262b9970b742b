//! What the vectors call.

use crate::{gic, psci, say};
use core::sync::atomic::{AtomicUsize, Ordering};

/// The interrupted context, as the vectors store it.
#[repr(C)]
pub struct Frame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// ELR_EL1.
    pub elr: u64,
    /// SPSR_EL1.
    pub spsr: u64,
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1.
    pub far: u64,
    /// CNTVCT_EL0 as the handler's third instruction read it.
    pub time: u64,
}

/// Takes an interrupt (given acknowledged, ended by the caller afterwards).
pub type Interrupt = fn(u32, &mut Frame);
/// Takes a synchronous exception; true if it is dealt with.
pub type Sync = fn(&mut Frame) -> bool;

/// Told of an interrupt that can't be acknowledged, or that comes as FIQ.
pub type Stray = fn();

static INTERRUPT: AtomicUsize = AtomicUsize::new(0);
static SYNC: AtomicUsize = AtomicUsize::new(0);

/// Sets what takes interrupts.
pub fn on_interrupt(f: Interrupt) {
    INTERRUPT.store(f as *const () as usize, Ordering::SeqCst);
}

/// Sets what takes synchronous exceptions.
pub fn on_sync(f: Sync) {
    SYNC.store(f as *const () as usize, Ordering::SeqCst);
}

static STRAY: AtomicUsize = AtomicUsize::new(0);

/// Sets what mends the interrupt controller, for guests that store anything anywhere. Others
/// take no FIQ, and have spurious interrupts now and then.
pub fn on_stray(f: Stray) {
    STRAY.store(f as *const () as usize, Ordering::SeqCst);
}

/// False: nobody mends it.
fn stray() -> bool {
    let f = STRAY.load(Ordering::SeqCst);
    if f != 0 {
        // SAFETY: on_stray stored a function of this type.
        let f = unsafe { core::mem::transmute::<usize, Stray>(f) };
        f();
    }
    f != 0
}

// SAFETY: only the vectors call it.
#[unsafe(no_mangle)]
extern "C" fn guest_rt_exception(frame: &mut Frame, kind: u64) {
    match kind & 3 {
        1 => {
            let iar = gic::acknowledge();
            let intid = gic::intid(iar);
            if intid >= 1020 {
                stray();
                return;
            }
            match INTERRUPT.load(Ordering::SeqCst) {
                0 => {}
                f => {
                    // SAFETY: on_interrupt stored a function of this type.
                    let f = unsafe { core::mem::transmute::<usize, Interrupt>(f) };
                    f(intid, frame);
                }
            }
            gic::end(iar);
            return;
        }
        0 => {
            let f = SYNC.load(Ordering::SeqCst);
            if f != 0 {
                // SAFETY: on_sync stored a function of this type.
                let f = unsafe { core::mem::transmute::<usize, Sync>(f) };
                if f(frame) {
                    return;
                }
            }
        }
        2 if stray() => return,
        _ => {}
    }
    say!(
        "PANIC exception {kind}: ESR {:#x} FAR {:#x} ELR {:#x} SPSR {:#x}",
        frame.esr,
        frame.far,
        frame.elr,
        frame.spsr
    );
    psci::off()
}
