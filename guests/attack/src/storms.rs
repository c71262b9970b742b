//! `storms`: one kind of attack after the other, each for `seconds=`, from all CPUs.
//! For machines where somebody else measures what it costs him: a line says which
//! one begins.
//!
//! Here it is known what must not happen. A memory access that reaches what isn't
//! the guest's, or a CPU that starts and isn't its own, is a failure.

use crate::{EXCEPTIONS_BY_CPU, Random, SEED, controller};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use guest_rt::machine::Machine;
use guest_rt::{cpu, gic, mmio, mrs, msr, psci, say, serial};

/// A name, and a small part of a storm.
type Storm = (&'static str, fn(&'static Machine, &mut Random));

const STORMS: &[Storm] = &[
    ("nothing", nothing),
    ("sgis", sgis),
    ("cpu_on", cpu_on),
    ("escape", escape),
    ("gic", registers_of_others),
    ("smc", smc),
    ("console", console),
    ("waits", waits),
    ("timers", timers),
];

static BEGIN: AtomicU64 = AtomicU64::new(0);
static FAILURES: AtomicU64 = AtomicU64::new(0);

/// All of them; the first CPU says what comes.
pub fn run(m: &'static Machine, who: u64, seconds: u64) {
    let mut r = Random::new(SEED.load(SeqCst) << 8 | who);
    // The others wait for the first.
    if who == 0 {
        BEGIN.store(cpu::now().max(1), SeqCst);
    }
    while BEGIN.load(SeqCst) == 0 {
        cpu::pause();
    }
    let (begin, length) = (BEGIN.load(SeqCst), seconds * cpu::frequency());
    for (i, (name, storm)) in STORMS.iter().enumerate() {
        if who == 0 {
            say!("attack: {name} begins");
        }
        let end = begin + length * (i as u64 + 1);
        while cpu::now() < end {
            storm(m, &mut r);
            cpu::unmask();
        }
        msr!("cntv_ctl_el0", 0);
        msr!("cntp_ctl_el0", 0);
    }
    if who == 0 {
        say!("attack: the end, {} failures", FAILURES.load(SeqCst));
    }
}

/// What can't be, and is.
fn failure(what: &str, at: u64, value: u64) {
    if FAILURES.fetch_add(1, SeqCst) < 10 {
        say!("FAIL attack.{what} {at:#x}: {value:#x}");
    }
}

/// To compare with.
fn nothing(_: &'static Machine, _: &mut Random) {
    cpu::delay(1000);
}

/// SGIs to every CPU that an SGI can name.
fn sgis(m: &'static Machine, r: &mut Random) {
    for _ in 0..100 {
        if gic::is_v2() {
            mmio::write32(m.gicd + gic::v2::GICD_SGIR, r.next() as u32 & 0x03ff_000f);
        } else {
            let aff = r.below(256) << 16 | r.below(4) << 32 | r.below(4) << 48;
            let everybody = u64::from(r.below(8) == 0) << 40;
            msr!("S3_0_C12_C11_5", r.below(16) << 24 | r.below(0x1_0000) | aff | everybody);
        }
    }
}

/// CPU_ON of CPUs that aren't ours; our own are on.
fn cpu_on(m: &'static Machine, r: &mut Random) {
    const ALREADY_ON: i64 = -4;
    for _ in 0..50 {
        let mpidr = r.below(256) | r.below(4) << 8 | r.below(4) << 16;
        let ours = m.cpus.iter().take(m.cpu_count).any(|own| own & 0xff_ffff == mpidr);
        let answer = psci::call([psci::CPU_ON, mpidr, m.ram.0, 0])[0] as i64;
        if answer == 0 || (answer == ALREADY_ON && !ours) {
            failure("cpu_on", mpidr, answer as u64);
        }
        psci::call([psci::AFFINITY_INFO, mpidr, 0, 0]);
    }
}

/// Loads and stores where nothing of ours is: every alias of our memory by one
/// address bit, below it, above it, and where machines have devices.
fn escape(m: &'static Machine, r: &mut Random) {
    let (start, end) = m.ram;
    let inside = start + r.below(end - start);
    // The runtime maps 39 bits.
    let at = match r.below(4) {
        0 => inside ^ 1 << (12 + r.below(27)),
        1 => end + r.below(1 << 34),
        2 => r.below(start),
        _ => inside | r.below(1 << 39),
    } & 0x7f_ffff_fff8;
    let device = |base: u64, size: u64| (base..base + size).contains(&at);
    let frames = 0x2_0000 * m.cpu_count as u64;
    let ours = (start..end).contains(&at)
        || device(m.gicd, 0x1_0000)
        || device(m.gicr, frames)
        || device(m.gicc, 0x2000)
        || device(m.uart, 0x1000);
    if ours {
        return;
    }
    if let Some(value) = load(at) {
        failure("escape.load", at, value.into());
    }
    if store(at, r.next() as u32) {
        failure("escape.store", at, 0);
    }
}

fn exceptions() -> u64 {
    EXCEPTIONS_BY_CPU[(mrs!("mpidr_el1") & 7) as usize].load(SeqCst)
}

/// None: it was refused.
fn load(at: u64) -> Option<u32> {
    let before = exceptions();
    let value: u32;
    // SAFETY: whatever is there, a load gives or takes an exception, which is stepped over.
    unsafe { asm!("mov {v:w}, wzr", "ldr {v:w}, [{at}]", v = out(reg) value, at = in(reg) at) };
    (exceptions() == before).then_some(value)
}

/// False: it was refused.
fn store(at: u64, value: u32) -> bool {
    let before = exceptions();
    mmio::write32(at, value);
    // A store's abort may come late.
    cpu::dsb();
    exceptions() == before
}

/// The interrupt controller's registers, of interrupts and CPUs that we don't have, too.
fn registers_of_others(m: &'static Machine, r: &mut Random) {
    for _ in 0..20 {
        controller(m, r);
        let banks = [0x100, 0x180, 0x200, 0x280, 0x300, 0x380];
        let at = m.gicd + banks[r.below(6) as usize] + 4 * r.below(32);
        if m.gicd != 0 {
            mmio::write32(at, r.next() as u32);
        }
        if m.gicr != 0 {
            let frame = m.gicr + 0x2_0000 * r.below(128);
            store(frame + r.below(0x2_0000) / 4 * 4, r.next() as u32);
        }
    }
    // Interrupts that we made pending come and go; timers stay ours.
    gic::init_cpu(m);
}

/// SMCs of every owner, but those that end this machine.
fn smc(_: &'static Machine, r: &mut Random) {
    let owners = [0x8000_0000u64, 0xc000_0000, 0x8200_0000, 0xc300_0000, 0x8400_0000, 0xb200_0000];
    let ends = [1, 2, 8, 9, 0xb, 0xc, 0xe, 0x12];
    for _ in 0..50 {
        let function = owners[r.below(6) as usize] | r.below(0x20);
        if function & 0xbf00_ffe0 == 0x8400_0000 && ends.contains(&(function & 0x1f)) {
            continue;
        }
        // SAFETY: SMCCC: x4 to x17 may change; if it traps it is stepped over.
        unsafe {
            asm!("smc #0", inout("x0") function => _, inout("x1") r.nasty() => _,
                inout("x2") r.nasty() => _, inout("x3") r.nasty() => _,
                out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _,
                out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _,
                out("x15") _, out("x16") _, out("x17") _)
        };
    }
}

/// As much as goes.
fn console(_: &'static Machine, r: &mut Random) {
    for i in 0..200u64 {
        serial::byte(if i == 199 { b'\n' } else { b'!' + r.below(90) as u8 });
    }
}

/// Waits that end at once, or soon.
fn waits(_: &'static Machine, r: &mut Random) {
    for _ in 0..50 {
        match r.below(3) {
            0 => cpu::wfe(),
            1 => cpu::pause(),
            _ => {
                msr!("cntv_cval_el0", cpu::now() + r.below(2000));
                msr!("cntv_ctl_el0", 1);
                cpu::wfi();
            }
        }
    }
}

/// Both timers, due again as soon as they were taken.
fn timers(_: &'static Machine, r: &mut Random) {
    for _ in 0..50 {
        let when = cpu::now().wrapping_sub(r.below(2)).wrapping_add(r.below(300));
        msr!("cntv_cval_el0", when);
        msr!("cntp_cval_el0", when);
        msr!("cntv_ctl_el0", 1);
        msr!("cntp_ctl_el0", 1);
        cpu::isb();
    }
}
