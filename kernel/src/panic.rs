//! The end: registers, a backtrace, then stop or reboot as `panic=` says.
#![expect(unsafe_code, reason = "walking the stack")]

use crate::{console, cpu, gic, memory, power, sched, stack, time};
use crate::task::Task;
use arch::trap::TrapFrame;
use core::fmt::Arguments;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

static PANICKING: AtomicBool = AtomicBool::new(false);
/// How many CPUs stand still.
static STOPPED: AtomicUsize = AtomicUsize::new(0);
/// How long the others may take to, nanoseconds.
const PATIENCE: u64 = 100_000_000;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    begin();
    match info.location() {
        Some(at) => log::error!("Kernel panic: {} at {}:{}", info.message(), at.file(), at.line()),
        None => log::error!("Kernel panic: {}", info.message()),
    }
    let registers = arch::trap::registers();
    show_registers(&registers.x, registers.sp);
    let [.., frame_pointer, _] = registers.x;
    backtrace(frame_pointer, None);
    end()
}

/// An exception that nothing in the kernel was prepared for.
pub fn exception(what: Arguments<'_>, frame: &TrapFrame, esr: u64, far: u64) -> ! {
    begin();
    log::error!("Kernel panic: {what}: ESR {esr:#x} FAR {far:#x} PC {:#x} PSTATE {:#x}", frame.pc, frame.pstate);
    show_registers(&frame.x, frame.sp);
    let [.., x29, _] = frame.x;
    backtrace(x29, Some(frame.pc));
    end()
}

/// A fault in `frame`'s code, on a stack where no frame could be kept.
pub fn stack_overflow(frame: &TrapFrame, esr: u64, far: u64) -> ! {
    if !stack::is_guard(far) && !stack::is_guard(frame.sp) {
        exception(format_args!("exception without a stack"), frame, esr, far);
    }
    let task = sched::current_id();
    exception(format_args!("kernel stack overflow in task {task}"), frame, esr, far)
}

/// `hyp` at EL2 failed; the registers are its own.
pub fn hypervisor(failure: &hyp_abi::Failure) -> ! {
    begin();
    log::error!(
        "Kernel panic: hyp failed at EL2: vector {}, ESR {:#x} FAR {:#x} HPFAR {:#x} PC {:#x} PSTATE {:#x}",
        failure.vector, failure.esr, failure.far, failure.hpfar, failure.pc, failure.pstate
    );
    show_registers(&failure.x, failure.sp);
    if failure.line != 0 {
        log::error!("hyp: a broken invariant in line {} of its source", failure.line);
    }
    end()
}

fn begin() {
    arch::irq::mask_all();
    if PANICKING.swap(true, Ordering::SeqCst) {
        // Another CPU is at it already, or we panicked while panicking.
        stop();
    }
    let mut others = 0usize;
    for index in 0..cpu::MAX_CPUS {
        let online = cpu::get(index).is_some_and(|cpu| cpu.online.load(Ordering::Relaxed));
        if online && index != cpu::index() {
            gic::send_sgi(index, gic::SGI_STOP);
            others = others.wrapping_add(1);
        }
    }
    // Let them end the lines that they are writing; one may hang with interrupts
    // masked.
    let until = time::now().saturating_add(PATIENCE);
    while STOPPED.load(Ordering::Acquire) < others && time::now() < until {
        core::hint::spin_loop();
    }
    console::panicked();
}

/// Another CPU tells of the end: this one stands still.
pub fn stop() -> ! {
    STOPPED.fetch_add(1, Ordering::Release);
    power::hang()
}

fn show_registers(x: &[u64; 31], sp: u64) {
    for (i, row) in x.chunks(4).enumerate() {
        log::error!("x{:<2} {row:016x?}", i.wrapping_mul(4));
    }
    log::error!("sp  {sp:016x}");
}

/// The most lines of a backtrace, and the most frames it looks at: recursion
/// takes two lines.
const LINES: usize = 32;
const FRAMES: usize = 4096;

fn backtrace(frame_pointer: u64, pc: Option<u64>) {
    log::error!("Backtrace of CPU {} (addresses in the Image):", cpu::index());
    let mut calls = Calls::default();
    if let Some(pc) = pc {
        calls.show(pc);
    }
    let mut fp = frame_pointer;
    for _ in 0..FRAMES {
        if fp & 15 != 0 || !memory::is_mapped(fp) || calls.lines >= LINES {
            break;
        }
        // SAFETY: aligned, and mapped: nothing that a frame pointer may point
        // to has side effects, the words there may be anything.
        let (next, lr) = unsafe {
            let record = fp as *const u64;
            (record.read_volatile(), record.add(1).read_volatile())
        };
        // The return address is after the call.
        calls.show(lr.wrapping_sub(4));
        if next <= fp {
            break;
        }
        fp = next;
    }
    calls.end_repeats();
}

/// Shows calls, the same one over and over as one.
#[derive(Default)]
struct Calls {
    last: u64,
    repeats: u64,
    lines: usize,
}

impl Calls {
    fn show(&mut self, pc: u64) {
        if pc == self.last {
            self.repeats = self.repeats.wrapping_add(1);
            return;
        }
        self.end_repeats();
        self.last = pc;
        self.lines = self.lines.wrapping_add(1);
        let [start, text_end, ..] = memory::image();
        if (start..text_end).contains(&pc) {
            log::error!("  {}", crate::symbols::Name(pc.wrapping_sub(start)));
        } else {
            log::error!("  {pc:#x}, outside the kernel's text");
        }
    }

    fn end_repeats(&mut self) {
        if self.repeats != 0 {
            log::error!("    and {} times more", self.repeats);
            self.repeats = 0;
        }
    }
}

/// What a task was called from that runs on another CPU: its registers are out of
/// reach, so return addresses come from the frame records on its stack. What was
/// called last and has returned can show up first.
pub fn trace_of(task: &Task) {
    log::error!("Backtrace from the stack of that task (the first may have returned):");
    let [start, text_end, ..] = memory::image();
    let (bottom, top) = task.stack();
    let mut calls = Calls::default();
    let mut expected = 0;
    for at in (bottom.saturating_add(16)..top.saturating_sub(16)).step_by(16) {
        // SAFETY: two words of a stack that the caller's reference keeps; its
        // owner may be writing them, and they may be anything.
        let (next, lr) = unsafe {
            let record = at as *const u64;
            (record.read_volatile(), record.add(1).read_volatile())
        };
        let is_record = (next > at && next < top || next == 0) && (start..text_end).contains(&lr);
        if !is_record || at < expected {
            continue;
        }
        if calls.lines >= LINES {
            break;
        }
        // From here on, the chain. The return address is after the call.
        expected = if next == 0 { top } else { next };
        calls.show(lr.wrapping_sub(4));
    }
    calls.end_repeats();
}

fn end() -> ! {
    let seconds = memory::machine().map_or(0, |machine| machine.arguments.panic);
    if seconds == 0 {
        log::error!("hypha: panic: stopped (panic=0)");
        power::hang();
    }
    log::error!("hypha: panic: rebooting in {} s (panic={seconds})", seconds.max(0));
    let until = time::now().saturating_add(u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000_000));
    while time::now() < until {
        core::hint::spin_loop();
    }
    power::reset()
}

/// Nothing can go on: init is gone.
pub fn fatal(why: Arguments<'_>) -> ! {
    begin();
    log::error!("Kernel panic: {why}");
    let registers = arch::trap::registers();
    show_registers(&registers.x, registers.sp);
    let [.., frame_pointer, _] = registers.x;
    backtrace(frame_pointer, None);
    end()
}
