//! Exception entry and return (Arm ARM D1.3).
//!
//! The vectors save a [`TrapFrame`] and call the kernel's handlers, which are
//! `extern "C"` functions the kernel defines:
//! `hypha_el0_sync(frame, esr, far)`, `hypha_el0_irq(frame)`,
//! `hypha_el1_sync(frame, esr, far)`, `hypha_el1_irq()`,
//! `hypha_stack_overflow(frame, esr, far)` and
//! `hypha_bad_exception(frame, esr, far, which)`.
//! The kernel's stacks are such that bit 15 of the address of a frame on one is
//! set; the word at [`EMERGENCY_STACK`] of a CPU's data (`host::per_cpu`) is the top
//! of another stack, on which `hypha_stack_overflow` is called for a frame without that.

use crate::mitigation::{Entry, PerCpu};

core::arch::global_asm!(
    include_str!("asm/mitigate.s"),
    include_str!("asm/vectors.s"),
    // world-switch defines it again, maybe in the same object.
    ".purgem mitigate",
    ".purgem mitigate_loop",
    ".purgem mitigate_percpu",
    EMERGENCY_STACK = const EMERGENCY_STACK,
);

/// Where a CPU's data have the top of the stack for overflows of the others:
/// after a [`PerCpu`].
pub const EMERGENCY_STACK: usize = size_of::<PerCpu>();

/// What EL0 (or interrupted kernel code) had in its registers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct TrapFrame {
    /// X0 to X30.
    pub x: [u64; 31],
    /// SP_EL0; for kernel code, the stack pointer before the exception.
    pub sp: u64,
    /// ELR: where to return.
    pub pc: u64,
    /// SPSR: how to return.
    pub pstate: u64,
    /// X0 as a system call got it, for restarting it.
    pub orig_x0: u64,
    /// The system call's number, or -1 outside system calls.
    pub syscall: i64,
}

const _: () = assert!(size_of::<TrapFrame>() == 288);

unsafe extern "C" {
    fn __vectors();
    fn __vectors_loop();
    fn __vectors_instruction();
    fn __vectors_firmware();
    fn __return_to_el0(frame: *mut TrapFrame) -> !;
}

/// What the caller has in its registers: for a panic, which no exception led to.
#[inline(always)]
pub fn registers() -> TrapFrame {
    let mut frame = TrapFrame::default();
    // SAFETY: stores to `frame`, at the offsets of `x` and `sp`, and nowhere else.
    unsafe {
        core::arch::asm!(
            "stp x0, x1, [{frame}]",
            "stp x2, x3, [{frame}, #16]",
            "stp x4, x5, [{frame}, #32]",
            "stp x6, x7, [{frame}, #48]",
            "stp x8, x9, [{frame}, #64]",
            "stp x10, x11, [{frame}, #80]",
            "stp x12, x13, [{frame}, #96]",
            "stp x14, x15, [{frame}, #112]",
            "stp x16, x17, [{frame}, #128]",
            "stp x18, x19, [{frame}, #144]",
            "stp x20, x21, [{frame}, #160]",
            "stp x22, x23, [{frame}, #176]",
            "stp x24, x25, [{frame}, #192]",
            "stp x26, x27, [{frame}, #208]",
            "stp x28, x29, [{frame}, #224]",
            "mov {sp}, sp",
            "stp x30, {sp}, [{frame}, #240]",
            frame = in(reg) &raw mut frame,
            sp = out(reg) _,
            options(nostack, preserves_flags)
        );
    }
    frame
}

/// Address of the host's vectors, for VBAR, on a CPU that `entry` is for. The
/// CPU's TPIDR points to a [`PerCpu`].
pub fn vectors(entry: Entry) -> u64 {
    let vectors = match entry {
        Entry::Plain => __vectors,
        Entry::Loop => __vectors_loop,
        Entry::Instruction => __vectors_instruction,
        Entry::Firmware => __vectors_firmware,
    };
    vectors as unsafe extern "C" fn() as *const () as u64
}

/// Leaves for EL0 with the registers in `frame`; the kernel stack is left with
/// its top at the end of `frame`, where the next exception finds it.
///
/// # Safety
/// `frame` lies at the top of the current task's kernel stack, PSTATE in it is
/// EL0's, and EL0's state (TTBR0, thread pointers, FP trap) is in place.
pub unsafe fn return_to_el0(frame: *mut TrapFrame) -> ! {
    // SAFETY: the caller's promise is what the routine needs.
    unsafe { __return_to_el0(frame) }
}
