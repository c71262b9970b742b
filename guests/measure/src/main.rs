//! Measures each kind of exit. Under QEMU's `-icount shift=0` the counter
//! counts instructions (of all CPUs), so that what is printed is instructions;
//! elsewhere it is nanoseconds.
//!
//! Each operation runs N and 4N times; the difference, divided by 3N, is
//! printed as `name: number`, without what starting and ending the loop takes.
//! Each count is the least of forty.
//! `n=` and `op=` on the command line choose N and the operations.
//!
//! | operation | from | to |
//! | --- | --- | --- |
//! | `hypercall_null` | HVC of a function that doesn't exist | its return, loop included |
//! | `smccc_version`, `psci_version`, `psci_affinity` | HVC | its return, loop included |
//! | `mmio_user_read`, `mmio_user_write` | a load from, a store to a PL031 register in the VMM | the next instruction, loop included |
//! | `ioeventfd_write` | a store to a queue's notify register | the next instruction, loop included |
//! | `console_read` | a load of a PL011's UARTFR | the next instruction, loop included |
//! | `vgic_read` | a load of GICD_TYPER | the next instruction, loop included |
//! | `sgi_self` | writing ICC_SGI1R_EL1 (GICv2: GICD_SGIR) | the handler's first instructions |
//! | `sgi_other`, `sgi_asleep` | writing ICC_SGI1R_EL1, then WFE | the handler's first instructions on a CPU that computes, that waits in WFI |
//! | `eoi` | writing ICC_EOIR1_EL1 (GICv2: GICC_EOIR) | the next instruction |
//! | `timer`, `timer_wfi` | the deadline | the handler's first instructions, computing, waiting in WFI |
//! | `blk_read_4k` | telling a virtio block device of a read of 4 KiB, then WFI | its interrupt handler's first instructions |
//! | `fp_first` | the first FP instruction after an exit to the VMM | the next instruction |
//! | `s2_fault_2m` | the first store to 2 MiB of memory | the next instruction |
#![cfg_attr(target_os = "none", no_std, no_main)]

mod block;

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use guest_rt::exception::{Frame, on_interrupt};
use guest_rt::machine::Machine;
use guest_rt::{cpu, gic, mark, mmio, mrs, msr, psci, say};

guest_rt::guest!(run);

const SGI: u32 = 1;
/// How often each count is taken.
const RUNS: u32 = 40;
/// PL011: its flags.
const UARTFR: u64 = 0x18;
/// PL031: a register that only identifies it, and one that nothing follows from.
const RTC_ID: u64 = 0xfe0;
const RTC_MATCH: u64 = 4;
/// virtio-mmio.
const QUEUE_NOTIFY: u64 = 0x50;

/// What the handler saw: the time of its first instructions, and how often it ran.
static TIME: AtomicU64 = AtomicU64::new(0);
static COUNT: AtomicU64 = AtomicU64::new(0);
static ASLEEP: AtomicBool = AtomicBool::new(false);
static STARTED: AtomicBool = AtomicBool::new(false);

fn handler(intid: u32, frame: &mut Frame) {
    if intid == gic::VIRTUAL_TIMER {
        msr!("cntv_ctl_el0", 2); // Masked.
    }
    TIME.store(frame.time, SeqCst);
    COUNT.fetch_add(1, SeqCst);
    if intid >= 32 {
        block::acknowledge();
    }
    cpu::sev();
}

fn run(m: &'static Machine) {
    say!("# CNTFRQ {}: numbers are {}", cpu::frequency(), unit());
    on_interrupt(handler);
    if m.gicd != 0 {
        gic::init(m);
        gic::init_cpu(m);
    }
    let n = m.number("n", 8).max(1);
    let wanted = |name: &str| m.argument("op").is_none_or(|op| op.split(',').any(|o| o == name));
    let loops = |name: &str, f: &dyn Fn()| {
        if wanted(name) {
            report(name, difference(n, &|k| timed(k, f)));
            marked(name, f);
        }
    };
    loops("hypercall_null", &|| hvc(0xc600_ff00));
    loops("smccc_version", &|| hvc(psci::SMCCC_VERSION));
    loops("psci_version", &|| hvc(psci::VERSION));
    let own = mrs!("mpidr_el1") & 0xff_00ff_ffff;
    loops("psci_affinity", &|| hvc_of(psci::AFFINITY_INFO, own));
    if m.rtc != 0 {
        loops("mmio_user_read", &|| {
            mmio::read32(m.rtc + RTC_ID);
        });
        loops("mmio_user_write", &|| mmio::write32(m.rtc + RTC_MATCH, 0));
    }
    if m.virtio != 0 {
        loops("ioeventfd_write", &|| mmio::write32(m.virtio + QUEUE_NOTIFY, 0));
    }
    if m.pl011 && m.uart != 0 {
        loops("console_read", &|| {
            mmio::read32(m.uart + UARTFR);
        });
    }
    if m.gicd != 0 {
        loops("vgic_read", &|| {
            mmio::read32(m.gicd + gic::GICD_TYPER);
        });
        cpu::unmask();
        let sums = |name: &str, f: &dyn Fn() -> u64| {
            if wanted(name) {
                f(); // The first time warms up.
                report(name, difference(n, &|k| (0..k).map(|_| f()).sum()));
            }
        };
        sums("sgi_self", &|| sgi("sgi_self", mrs!("mpidr_el1"), cpu::pause));
        sums("eoi", &eoi);
        // Marked while it waits: what comes before the deadline is not in it.
        let name = mark::name("timer");
        sums("timer", &|| {
            timer(|| {
                mark::open_to_stamp(name);
                cpu::pause();
            })
        });
        let name = mark::name("timer_wfi");
        sums("timer_wfi", &|| {
            timer(|| {
                mark::open_asleep(name);
                cpu::wfi();
            })
        });
        if m.cpu_count > 1 && (wanted("sgi_other") || wanted("sgi_asleep")) {
            let r = cpu::start(m, 1, other, (&raw const *m) as u64);
            if r == 0 && cpu::until(|| STARTED.load(SeqCst)) {
                sums("sgi_other", &|| sgi("sgi_other", m.cpus[1], cpu::wfe));
                ASLEEP.store(true, SeqCst);
                sgi("", m.cpus[1], cpu::wfe);
                sums("sgi_asleep", &|| {
                    // Time for it to fall asleep, and for its host to settle.
                    cpu::delay(cpu::millisecond() / 20);
                    sgi("sgi_asleep", m.cpus[1], cpu::wfe)
                });
            } else {
                say!("# the second CPU did not start: {r}");
            }
        }
        if wanted("blk_read_4k") && block::is_there(m) {
            block::init(m);
            if read_block() == 0 || !block::done() {
                say!("# the block device does not read");
            } else {
                sums("blk_read_4k", &read_block);
            }
        }
        cpu::mask();
    }
    if m.rtc != 0 && wanted("fp_first") {
        report("fp_first", difference(n, &|k| (0..k).map(|_| fp_first(m)).sum()));
    }
    if wanted("s2_fault_2m") {
        fault_2m(m);
    }
    say!("# done");
}

fn unit() -> &'static str {
    if cpu::frequency() == 1_000_000_000 { "instructions under icount" } else { "nanoseconds" }
}

fn report(name: &str, per: u64) {
    say!("{name}: {per}");
}

/// Ticks to nanoseconds, which under icount are instructions.
fn scale(ticks: u64) -> u64 {
    (u128::from(ticks) * 1_000_000_000 / u128::from(cpu::frequency())) as u64
}

/// What one round costs: the difference of N and 4N. The counter is everybody's,
/// so each is the least of many short runs: nothing else got into that one.
fn difference(n: u64, f: &dyn Fn(u64) -> u64) -> u64 {
    let least = |k| (0..RUNS).map(|_| f(k)).min().unwrap_or(0);
    cpu::delay(cpu::millisecond()); // What the last line set off is over.
    f(n.min(16)); // Fills caches of every kind.
    let (one, four) = (least(n), least(4 * n));
    (scale(four.saturating_sub(one)) + 3 * n / 2) / (3 * n)
}

fn timed(n: u64, f: &dyn Fn()) -> u64 {
    let start = cpu::now();
    for _ in 0..n {
        f();
    }
    cpu::now() - start
}

/// One round at a time between marks.
fn marked(name: &str, f: &dyn Fn()) {
    let name = mark::name(name);
    for _ in 0..RUNS {
        mark::open(name);
        f();
        mark::close();
    }
}

#[inline(always)]
fn hvc(function: u64) {
    hvc_of(function, 0);
}

#[inline(always)]
fn hvc_of(function: u64, argument: u64) {
    // SAFETY: SMCCC: x4 to x17 may change, the rest is kept.
    unsafe {
        core::arch::asm!("hvc #0", inout("x0") function => _, inout("x1") argument => _, inout("x2") 0u64 => _,
            out("x3") _, out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _,
            out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _,
            out("x15") _, out("x16") _, out("x17") _);
    }
}

/// Sends an SGI and waits for its handler; from the first instruction to the handler's.
fn sgi(name: &str, to: u64, wait: fn()) -> u64 {
    let before = COUNT.load(SeqCst);
    let v2 = gic::is_v2();
    mark::open_to_stamp(mark::name(name));
    let start = cpu::now();
    if v2 {
        gic::v2::send_sgi(u64::from(SGI), to);
    } else {
        gic::v3::send_sgi(u64::from(SGI), to);
    }
    while COUNT.load(SeqCst) == before {
        wait();
    }
    let time = TIME.load(SeqCst) - start;
    // Lets the receiver end its handler and get back to what it does.
    for _ in 0..20 {
        cpu::pause();
    }
    time
}

/// Reads 4 KiB; from telling the device to its interrupt's handler.
fn read_block() -> u64 {
    let before = COUNT.load(SeqCst);
    block::prepare();
    mark::open_to_stamp(mark::name("blk_read_4k"));
    let start = cpu::now();
    block::go();
    if !cpu::until(|| {
        let done = COUNT.load(SeqCst) != before;
        if !done {
            cpu::wfi();
        }
        done
    }) {
        return 0;
    }
    TIME.load(SeqCst) - start
}

/// With interrupts masked: takes an SGI to self by hand, and times its end.
fn eoi() -> u64 {
    cpu::mask();
    gic::send_sgi(2, mrs!("mpidr_el1"));
    let v2 = gic::is_v2();
    let mut iar = gic::acknowledge();
    while gic::intid(iar) >= 1020 {
        iar = gic::acknowledge();
    }
    mark::open(mark::name("eoi"));
    let start = cpu::now();
    if v2 {
        gic::v2::end(iar)
    } else {
        gic::v3::end(iar)
    }
    let time = cpu::now() - start;
    mark::close();
    cpu::unmask();
    time
}

#[inline(always)]
fn timer(wait: impl Fn()) -> u64 {
    let before = COUNT.load(SeqCst);
    let due = cpu::now() + cpu::millisecond() / 20;
    msr!("cntv_cval_el0", due);
    msr!("cntv_ctl_el0", 1);
    cpu::isb();
    while COUNT.load(SeqCst) == before {
        wait();
    }
    TIME.load(SeqCst) - due
}

/// The first FP instruction after an exit to the VMM, which may have used them.
fn fp_first(m: &Machine) -> u64 {
    mmio::read32(m.rtc + RTC_ID);
    mark::open(mark::name("fp_first"));
    let start = cpu::now();
    // SAFETY: fmov d0, xzr: the guest is built without FP, so nobody misses it.
    unsafe { core::arch::asm!(".inst 0x9e6703e0", options(nomem, nostack)) };
    let time = cpu::now() - start;
    mark::close();
    time
}

extern "C" fn other(machine: u64) -> ! {
    // SAFETY: the first CPU passed its machine, which lives for ever.
    let m = unsafe { &*(machine as *const Machine) };
    gic::init_cpu(m);
    cpu::unmask();
    STARTED.store(true, SeqCst);
    loop {
        if ASLEEP.load(SeqCst) {
            cpu::wfi();
        } else {
            cpu::pause();
        }
    }
}

/// First touches of memory that nothing was loaded to, a block at a time. There
/// isn't enough of it for many rounds: the least of single ones.
fn fault_2m(m: &Machine) {
    const BLOCK: u64 = 2 << 20;
    let blocks = (m.ram.1 - m.free) / BLOCK;
    let at = |i| m.free + i * BLOCK;
    let timed = |i| {
        let start = cpu::now();
        mmio::write64(at(i), i);
        cpu::now() - start
    };
    if let Some(least) = (0..blocks / 2).map(timed).min() {
        report("s2_fault_2m", scale(least));
    }
    let name = mark::name("s2_fault_2m");
    for i in blocks / 2..blocks {
        mark::open(name);
        mmio::write64(at(i), i);
        mark::close();
    }
}
