//! `storms`: one kind of attack after the other, each for so many milliseconds, from all
//! CPUs. For machines where somebody else measures what it costs him: a line says which
//! one begins.
//!
//! Here it is known what must not happen. A memory access that reaches what isn't
//! the guest's, a CPU that isn't its own and answers, or an interrupt that it doesn't have
//! and that can be set up, is a failure. That nobody else gets an interrupt must he say.

use crate::{ESR_BY_CPU, EXCEPTIONS_BY_CPU, Random, SEED, controller};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use guest_rt::machine::Machine;
use guest_rt::{cpu, gic, mmio, mrs, msr, psci, say, serial, translation};

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

/// Milliseconds between two storms, so that what one leaves isn't the other's: a console that
/// was flooded has room for words again, and who measures in steps of 100 ms has one step that
/// is in no storm.
const PAUSE: u64 = 300;

static BEGIN: AtomicU64 = AtomicU64::new(0);
static FAILURES: AtomicU64 = AtomicU64::new(0);

/// All of them; the first CPU says what comes.
pub fn run(m: &'static Machine, who: u64, milliseconds: u64) {
    let mut r = Random::new(SEED.load(SeqCst) << 8 | who);
    can_tell(m);
    // The others wait for the first.
    if who == 0 {
        BEGIN.store(cpu::now() + PAUSE * cpu::millisecond(), SeqCst);
    }
    while BEGIN.load(SeqCst) == 0 {
        cpu::pause();
    }
    let mut begin = BEGIN.load(SeqCst);
    let length = milliseconds * cpu::millisecond();
    for (name, storm) in STORMS {
        // While nobody else writes to the console.
        if who == 0 {
            say!("attack: {name} begins");
        }
        wait_until(begin);
        while cpu::now() < begin + length {
            storm(m, &mut r);
            cpu::unmask();
        }
        msr!("cntv_ctl_el0", 0);
        msr!("cntp_ctl_el0", 0);
        begin += length + PAUSE * cpu::millisecond();
        wait_until(begin - PAUSE / 2 * cpu::millisecond());
        // Whatever was done to it: the next one has a controller again.
        if who == 0 {
            gic::init(m);
        }
        quieten(m, who);
        gic::init_cpu(m);
    }
    if who == 0 {
        say!("attack: the end, {} failures", FAILURES.load(SeqCst));
        // This machine's, not the machine's below.
        psci::call_by_smc([psci::SYSTEM_RESET, 0, 0, 0]);
        say!("FAIL attack.reset: goes on");
    }
}

/// No interrupt is enabled, pending or active any more: neither this CPU's private ones nor,
/// by the first CPU, shared ones. An active one would keep its list register.
fn quieten(m: &'static Machine, who: u64) {
    let clear = |frame: u64, n: u64| {
        for register in [0x180, 0x280, 0x380] {
            mmio::write32(frame + register + 4 * n, !0);
        }
    };
    let private = gic::private(m);
    clear(private, 0);
    mmio::write32(private + 0xc04, 0); // PPIs are levels.
    if who == 0 {
        let lines = u64::from(mmio::read32(m.gicd + gic::GICD_TYPER) & 0x1f);
        (1..=lines).for_each(|n| clear(m.gicd, n));
    }
}

fn wait_until(time: u64) {
    while cpu::now() < time {
        cpu::pause();
    }
}

/// A load of two registers where nothing is: no syndrome says what it wants, so that nobody
/// can answer it.
pub fn crash(m: &'static Machine) {
    say!("attack: crashes");
    // SAFETY: x9 and x10 are given up; nothing is stored.
    unsafe { asm!("ldp x9, x10, [{at}]", at = in(reg) m.ram.1, out("x9") _, out("x10") _) };
    say!("FAIL attack.crash: goes on");
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

/// SGIs of every kind to every CPU that an SGI can name.
fn sgis(m: &'static Machine, r: &mut Random) {
    for _ in 0..100 {
        if gic::is_v2() {
            mmio::write32(m.gicd + gic::v2::GICD_SGIR, r.next() as u32 & 0x03ff_800f);
            continue;
        }
        // Half of them to the first sixteen, where a small machine has its CPUs.
        let far = r.below(256) << 16 | r.below(4) << 32 | r.below(4) << 48;
        let affinity = if r.below(2) == 0 { 0 } else { far };
        let everybody = u64::from(r.below(8) == 0) << 40;
        let sgi = r.below(16) << 24 | r.below(0x1_0000) | affinity | everybody;
        match r.below(4) {
            0 => msr!("S3_0_C12_C11_6", sgi), // ICC_ASGI1R_EL1
            1 => msr!("S3_0_C12_C11_7", sgi), // ICC_SGI0R_EL1
            _ => msr!("S3_0_C12_C11_5", sgi), // ICC_SGI1R_EL1
        }
    }
}

/// CPU_ON of CPUs that aren't ours, and where they are, by HVC and by SMC; our own are on.
fn cpu_on(m: &'static Machine, r: &mut Random) {
    for _ in 0..50 {
        let far = r.below(256) | r.below(4) << 8 | r.below(4) << 16;
        let mpidr = if r.below(2) == 0 { r.below(8) } else { far };
        let ours = m.cpus.iter().take(m.cpu_count).any(|own| own & 0xff_ffff == mpidr);
        let call = if r.below(2) == 0 { psci::call } else { psci::call_by_smc };
        let (on, info) = match ours {
            true => (psci::ALREADY_ON, 0),
            false => (psci::INVALID_PARAMETERS, psci::INVALID_PARAMETERS),
        };
        let answer = call([psci::CPU_ON, mpidr, m.ram.0, 0])[0] as i64;
        if answer != on {
            failure("cpu_on", mpidr, answer as u64);
        }
        let answer = call([psci::AFFINITY_INFO, mpidr, 0, 0])[0] as i64;
        if answer != info {
            failure("affinity_info", mpidr, answer as u64);
        }
    }
}

/// Where QEMU's `virt` has devices and memory.
const MACHINE: [u64; 12] = [
    0x0800_0000, // GICD
    0x0801_0000, // GICC
    0x0803_0000, // GICH
    0x0804_0000, // GICV
    0x0808_0000, // GITS
    0x080a_0000, // GICR
    0x0900_0000, // PL011
    0x0901_0000, // PL031
    0x0902_0000, // fw_cfg
    0x0a00_0000, // virtio-mmio
    0x4020_0000, // The kernel, if our RAM isn't there.
    0x8000_0000, // RAM
];

/// Loads, stores and fetches where nothing of ours is: every alias of our memory by one
/// address bit, below it, above it, and where machines have devices.
fn escape(m: &'static Machine, r: &mut Random) {
    if r.below(4) == 0 {
        return beyond(m, r);
    }
    let (start, end) = m.ram;
    let inside = start + r.below(end - start);
    let at = match r.below(5) {
        0 => inside ^ 1 << (12 + r.below(27)),
        1 => end + r.below(1 << 34),
        2 => r.below(start),
        3 => MACHINE[r.below(12) as usize] + r.below(0x1_0000),
        _ => inside | r.below(1 << 39),
    };
    // The runtime maps 39 bits, one to one but for the windows at the end.
    let at = at & 0x7f_ffff_fff8;
    if is_ours(m, at) || at >= WINDOWS {
        return;
    }
    try_all(at, at, r);
}

/// Guest's addresses of ours: memory, and what the hypervisor has for us there.
fn is_ours(m: &Machine, at: u64) -> bool {
    let device = |base: u64, size: u64| base != 0 && (base..base + size).contains(&at);
    (m.ram.0..m.ram.1).contains(&at)
        || device(m.gicd, 0x1_0000)
        || device(m.gicr, 0x2_0000 * m.cpu_count as u64)
        || device(m.gicc, 0x2000)
        || device(m.uart, 0x1000)
}

/// From here on each CPU has a GiB of virtual addresses that it maps as it likes.
const WINDOWS: u64 = 504 << 30;

fn window() -> u64 {
    WINDOWS + ((mrs!("mpidr_el1") & 7) << 30)
}

/// The same by our own translation, which leads to every address that a CPU has.
fn beyond(m: &Machine, r: &mut Random) {
    let bits = translation::widen();
    let (start, end) = m.ram;
    let inside = start + r.below(end - start);
    let target = match r.below(3) {
        0 => inside ^ 1 << (30 + r.below(u64::from(bits) - 30)),
        1 => inside | r.next() & ((1 << bits) - 1),
        _ => MACHINE[r.below(12) as usize] + r.below(0x1_0000),
    } & !7;
    if is_ours(m, target) {
        return;
    }
    let at = window() | target & 0x3fff_ffff;
    if r.below(4) == 0 {
        // There is no table there that anybody could walk: it is refused as the access is.
        translation::map_table(at, target);
        let refused = load(at).is_none() && is_external(last_esr());
        if !refused {
            failure("escape.walk", target, last_esr());
        }
    } else {
        translation::map_block(at, target);
        try_all(at, target, r);
    }
}

/// A load, a store and a fetch by the virtual address `at`, which leads to `target`.
fn try_all(at: u64, target: u64, r: &mut Random) {
    if let Some(value) = load(at) {
        failure("escape.load", target, value.into());
    } else if !is_external(last_esr()) {
        failure("escape.load_refused_here", target, last_esr());
    }
    if store(at, r.next() as u32) {
        failure("escape.store", target, 0);
    } else if !is_external(last_esr()) {
        failure("escape.store_refused_here", target, last_esr());
    }
    // Our own translation has no code in the first GiB.
    if at >= 1 << 30 && r.below(8) == 0 {
        if fetch(at) {
            failure("escape.fetch", target, 0);
        } else if !is_external(last_esr()) {
            failure("escape.fetch_refused_here", target, last_esr());
        }
    }
}

/// What is ours isn't refused by the same means: a refusal says something.
fn can_tell(m: &Machine) {
    static MARKS: [AtomicU64; 8] = [const { AtomicU64::new(0x6d61_726b) }; 8];
    let own = MARKS[(mrs!("mpidr_el1") & 7) as usize].as_ptr() as u64;
    let code = nothing_at_all as *const () as u64;
    let [at, code_at] = [own, code].map(|address| window() | address & 0x3fff_ffff);
    translation::map_block(at, own);
    let seen = (load(own), load(at), store(at, 0x6b72_616d), load(own), load(m.ram.1));
    if seen != (Some(0x6d61_726b), Some(0x6d61_726b), true, Some(0x6b72_616d), None) {
        say!("FAIL attack.can_tell: {seen:x?}");
    }
    translation::map_block(code_at, code);
    if !(fetch(code) && fetch(code_at)) {
        say!("FAIL attack.can_tell: a fetch");
    }
}

extern "C" fn nothing_at_all() {}

fn last_esr() -> u64 {
    ESR_BY_CPU[(mrs!("mpidr_el1") & 7) as usize].load(SeqCst)
}

/// A synchronous external abort, on a translation table walk or not (ESR_ELx.DFSC).
fn is_external(esr: u64) -> bool {
    matches!(esr & 0x3f, 0x10 | 0x14..=0x17)
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

/// False: it was refused.
fn fetch(at: u64) -> bool {
    let before = exceptions();
    // SAFETY: it is refused, and the handler returns to behind the call; or something runs that
    // isn't ours, and we have got out.
    unsafe { asm!("blr {at}", at = in(reg) at, clobber_abi("C")) };
    exceptions() == before
}

/// The interrupt controller's registers, of interrupts and CPUs that we don't have, too.
fn registers_of_others(m: &'static Machine, r: &mut Random) {
    for _ in 0..20 {
        controller(m, r);
        let banks = [0x100, 0x180, 0x200, 0x280, 0x300, 0x380];
        let at = m.gicd + banks[r.below(6) as usize] + 4 * r.below(32);
        mmio::write32(at, r.next() as u32);
        // One that we have and whose namesake below is another's, who takes it for strange.
        gic::pend_spi(m, 32 + r.below(32) as u32);
        missing_interrupt(m, r);
        if m.gicr != 0 {
            let frame = r.below(128);
            let at = m.gicr + 0x2_0000 * frame + (r.below(0x2_0000) & !3);
            if frame < m.cpu_count as u64 {
                store(at, r.next() as u32);
            } else if store(at, r.next() as u32) || load(at).is_some() {
                failure("gic.redistributor", at, 0);
            }
        }
    }
}

/// An SPI that our distributor doesn't have can't be set up: its registers stay zero.
fn missing_interrupt(m: &Machine, r: &mut Random) {
    let have = 32 * (u64::from(mmio::read32(m.gicd + gic::GICD_TYPER)) % 32 + 1);
    if have >= 1020 {
        return;
    }
    let spi = have + r.below(1020 - have);
    // Group, enable, pending, active; priority and target; configuration.
    let bit = [0x80, 0x100, 0x200, 0x300][r.below(4) as usize] + spi / 32 * 4;
    let byte = [0x400, 0x800][r.below(2) as usize] + (spi & !3);
    let configuration = 0xc00 + spi / 16 * 4;
    let at = m.gicd + [bit, byte, configuration][r.below(3) as usize];
    store(at, !0);
    if let Some(value @ 1..) = load(at) {
        failure("gic.spi", at, value.into());
    }
}

/// SMCs of every owner, but those that end this machine. Nobody but PSCI's and the
/// architecture's is there.
fn smc(_: &'static Machine, r: &mut Random) {
    let owners = [0x8000_0000u64, 0xc000_0000, 0x8200_0000, 0xc300_0000, 0x8400_0000, 0xb200_0000];
    let ends = [1, 2, 8, 9, 0xb, 0xc, 0xe, 0x12];
    for _ in 0..50 {
        let owner = owners[r.below(6) as usize];
        let function = owner | r.below(0x20);
        if function & 0xbf00_ffe0 == 0x8400_0000 && ends.contains(&(function & 0x1f)) {
            continue;
        }
        let answer = psci::call_by_smc([function, r.nasty(), r.nasty(), r.nasty()])[0] as i64;
        let nobody = [0x8200_0000, 0xc300_0000, 0xb200_0000].contains(&owner);
        if nobody && answer != psci::NOT_SUPPORTED {
            failure("smc", function, answer as u64);
        }
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
                // Masked, so that it isn't taken before WFI, which it wakes all the same.
                cpu::mask();
                msr!("cntv_cval_el0", cpu::now() + r.below(2000));
                msr!("cntv_ctl_el0", 1);
                cpu::wfi();
                cpu::unmask();
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
