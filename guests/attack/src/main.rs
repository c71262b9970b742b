//! Does what a hostile guest would: random firmware calls, loads and stores to
//! devices, the interrupt controller's registers and nowhere, system registers
//! of every encoding, SMC, storms of SGIs, from all CPUs at once; for a number
//! of rounds. Then it powers off. Whatever it is answered is right, as long
//! as the host stands and it comes to its end.
//!
//! `seed=` and `rounds=` on the command line; the same seed does the same. With
//! `storms=N` it does one kind after the other instead, for N milliseconds each, and then
//! asks for a reset; with `crash` it does at once what a guest can't go on after. `hang`
//! starts a watchdog and hangs; `pet=N` pets it for N seconds and does nothing else.
#![cfg_attr(target_os = "none", no_std, no_main)]

use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering::SeqCst};
use guest_rt::exception::{Frame, on_interrupt, on_stray, on_sync};
use guest_rt::machine::Machine;
use guest_rt::{cpu, gic, mmio, msr, psci, say, serial};

mod storms;
mod watchdog;

guest_rt::guest!(run);

/// Numbers that look random (xorshift64*).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }
    /// A number that breaks things more often than an even one would.
    fn nasty(&mut self) -> u64 {
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << self.below(64),
            3 => (1 << self.below(64)) - 1,
            4 => self.below(256),
            5 => 0x8000_0000 + self.below(1 << 28),
            _ => self.next(),
        }
    }
}

static EXCEPTIONS: AtomicU64 = AtomicU64::new(0);
/// The same, each CPU's own.
static EXCEPTIONS_BY_CPU: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];
/// The last one's ESR_EL1, each CPU's own.
static ESR_BY_CPU: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];
static INTERRUPTS: AtomicU64 = AtomicU64::new(0);
static FINISHED: AtomicU64 = AtomicU64::new(0);
static ROUNDS: AtomicU64 = AtomicU64::new(0);
static SEED: AtomicU64 = AtomicU64::new(0);

/// Whatever it was: the next instruction.
fn sync(f: &mut Frame) -> bool {
    EXCEPTIONS.fetch_add(1, SeqCst);
    let me = (guest_rt::mrs!("mpidr_el1") & 7) as usize;
    EXCEPTIONS_BY_CPU[me].fetch_add(1, SeqCst);
    ESR_BY_CPU[me].store(f.esr, SeqCst);
    match f.esr >> 26 {
        // SVC: it comes back behind it anyway.
        0x15 => {}
        // A fetch that was refused: back to who called.
        0x21 => f.elr = f.x[30],
        _ => f.elr += 4,
    }
    true
}

fn interrupt(intid: u32, _: &mut Frame) {
    INTERRUPTS.fetch_add(1, SeqCst);
    if intid == gic::VIRTUAL_TIMER {
        msr!("cntv_ctl_el0", 2);
    } else if intid == gic::PHYSICAL_TIMER {
        msr!("cntp_ctl_el0", 2);
    }
}

static MACHINE: AtomicPtr<Machine> = AtomicPtr::new(null_mut());

/// We have told the controller to signal what nobody can acknowledge, or to signal it as FIQ.
fn stray() {
    // SAFETY: nobody, or the machine, which lives for ever and isn't written.
    if let Some(m) = unsafe { MACHINE.load(SeqCst).as_ref() } {
        if !gic::is_v2() {
            msr!("S3_0_C12_C12_6", 0); // ICC_IGRPEN0_EL1
        }
        gic::init_cpu(m);
    }
}

fn run(m: &'static Machine) {
    if m.bootargs.split_ascii_whitespace().any(|word| word == "hang") {
        watchdog::hang();
    }
    if let Some(seconds) = m.argument("pet").and_then(|n| n.parse().ok()) {
        return watchdog::pet(seconds);
    }
    SEED.store(m.number("seed", 1), SeqCst);
    ROUNDS.store(m.number("rounds", 2000), SeqCst);
    say!("# seed {} rounds {}", SEED.load(SeqCst), ROUNDS.load(SeqCst));
    on_sync(sync);
    on_interrupt(interrupt);
    if m.bootargs.split_ascii_whitespace().any(|word| word == "crash") {
        storms::crash(m);
    }
    if m.gicd != 0 {
        MACHINE.store((&raw const *m).cast_mut(), SeqCst);
        on_stray(stray);
        gic::init(m);
    }
    for i in 1..m.cpu_count {
        cpu::start(m, i, other, (&raw const *m) as u64);
    }
    attack(m, 0);
    let start = cpu::now();
    while FINISHED.load(SeqCst) < m.cpu_count as u64 && cpu::now() - start < 20 * cpu::frequency() {
        cpu::pause();
    }
    cpu::mask();
    // Whose store to the serial port was the last is nobody's choice.
    serial::recover();
    say!("");
    say!(
        "# {} exceptions, {} interrupts, {} of {} CPUs at the end",
        EXCEPTIONS.load(SeqCst),
        INTERRUPTS.load(SeqCst),
        FINISHED.load(SeqCst),
        m.cpu_count
    );
    say!("ok attack.survived");
}

extern "C" fn other(machine: u64) -> ! {
    // SAFETY: the first CPU passed its machine, which lives for ever.
    let m = unsafe { &*(machine as *const Machine) };
    let me = guest_rt::mrs!("mpidr_el1") & 0xff_00ff_ffff;
    attack(m, me + 1);
    cpu::mask();
    psci::call([psci::CPU_OFF, 0, 0, 0]);
    loop {
        cpu::wfi();
    }
}

fn attack(m: &'static Machine, who: u64) {
    let mut r = Random::new(SEED.load(SeqCst) << 8 | who);
    if m.gicd != 0 {
        gic::init_cpu(m);
    }
    cpu::unmask();
    if let Some(milliseconds) = m.argument("storms").and_then(|n| n.parse().ok()) {
        storms::run(m, who, milliseconds);
    }
    for _ in 0..ROUNDS.load(SeqCst) {
        match r.below(8) {
            0 | 1 => firmware(m, &mut r),
            2 => devices(m, &mut r),
            3 => controller(m, &mut r),
            4 => system_register(&mut r),
            5 => sgis(m, &mut r),
            6 => instructions(&mut r),
            _ => timers(&mut r),
        }
        cpu::unmask();
    }
    FINISHED.fetch_add(1, SeqCst);
}

/// Anything but what would end or restart the machine, or put this CPU to sleep for good.
fn firmware(m: &'static Machine, r: &mut Random) {
    let owner = [0x8000_0000u64, 0x8400_0000, 0xc400_0000, 0x8600_0000, 0xc600_0000, 0xbf00_0000];
    let f = match r.below(8) {
        0 => r.nasty(),
        _ => owner[r.below(6) as usize] | r.below(0x80),
    };
    // CPU_SUSPEND, CPU_OFF, SYSTEM_OFF, SYSTEM_RESET, CPU_FREEZE, CPU_DEFAULT_SUSPEND,
    // SYSTEM_SUSPEND, SYSTEM_RESET2, and the PSCI 0.1 numbers' like.
    let ends = [1, 2, 8, 9, 0xb, 0xc, 0xe, 0x12];
    if f & 0xbf00_ffe0 == 0x8400_0000 && ends.contains(&(f & 0x1f)) {
        return;
    }
    // CPU_ON only of a CPU that is on, or of none, at nowhere.
    let a = if f & 0xbfff_ffff == 0x8400_0003 && r.below(2) == 0 { m.cpus[0] } else { r.nasty() };
    let a = if f & 0xbfff_ffff == 0x8400_0003 && a != m.cpus[0] { a | 0xff_ff00 } else { a };
    psci::call([f, a, r.nasty(), r.nasty()]);
}

/// Loads and stores of every width where devices are and where nothing is.
fn devices(m: &'static Machine, r: &mut Random) {
    let at = match r.below(5) {
        0 => m.virtio + r.below(0x2000),
        1 => m.rtc + r.below(0x1000),
        2 => r.below(0x4000_0000),
        3 => 0x2_0000_0000 + r.below(1 << 37),
        // Not the data register: it would print.
        _ if m.pl011 => m.uart + 0x18 + r.below(0x100),
        _ => m.uart + 2 + r.below(6),
    };
    // The serial port's own: interrupts and modem lines would be harmless, its divisor latch isn't
    // (the data register turns into something else): leave line control alone.
    if at & !7 == m.uart && at & 7 == 3 {
        return;
    }
    poke(at, r);
}

fn poke(at: u64, r: &mut Random) {
    let v = r.nasty();
    match r.below(8) {
        0 => drop(mmio::read8(at)),
        1 => drop(mmio::read16(at & !1)),
        2 => drop(mmio::read32(at & !3)),
        3 => drop(mmio::read64(at & !7)),
        4 => mmio::write8(at, v as u8),
        5 => mmio::write16(at & !1, v as u16),
        6 => mmio::write32(at & !3, v as u32),
        _ => mmio::write64(at & !7, v),
    }
}

fn controller(m: &'static Machine, r: &mut Random) {
    if m.gicd == 0 {
        return;
    }
    let at = match r.below(3) {
        0 => m.gicd + r.below(0x1_0000),
        1 if gic::is_v2() => m.gicc + r.below(0x2000),
        1 => m.gicr + r.below(0x2_0000 * m.cpu_count as u64),
        _ => {
            m.gicd
                + [
                    0, 4, 8, 0x80, 0x100, 0x180, 0x200, 0x280, 0x300, 0x380, 0x400, 0xc00, 0x800,
                    0xf00,
                ][r.below(14) as usize]
                + 4 * r.below(16)
        }
    };
    poke(at, r);
}

/// MRS and MSR of a random encoding: written as an instruction, made visible, run.
fn system_register(r: &mut Random) {
    let read = r.below(2) == 0;
    let op0 = 2 + r.below(2);
    let (op1, crn, crm, op2) = (r.below(8), r.below(16), r.below(16), r.below(8));
    // What would take our own footing away: translation, vectors, stack, where we return to.
    let ours = op0 == 3 && ([1, 2, 3, 4, 5, 6, 10, 13].contains(&crn) || crn == 12 && crm == 0);
    // A binary point of zero ends QEMU's TCG with an assertion, not the host.
    let binary_point = op0 == 3 && crn == 12 && (crm == 8 || crm == 12) && (op2 == 3 || op2 == 4);
    if !read && (ours || binary_point) {
        return;
    }
    let i = 0xd500_0000u64
        | u64::from(read) << 21
        | op0 << 19
        | op1 << 16
        | crn << 12
        | crm << 8
        | op2 << 5
        | 9;
    execute(i as u32, r.nasty());
}

/// Runs one instruction with x9 set, between two that return.
fn execute(instruction: u32, x9: u64) {
    #[repr(align(64))]
    struct Code(core::cell::UnsafeCell<[[u32; 16]; 8]>);
    // SAFETY: each CPU writes its own row.
    unsafe impl Sync for Code {}
    static CODE: Code = Code(core::cell::UnsafeCell::new([[0; 16]; 8]));
    let row = (guest_rt::mrs!("mpidr_el1") & 7) as usize;
    let at = CODE.0.get() as u64 + 64 * row as u64;
    mmio::write32(at, instruction);
    mmio::write32(at + 4, 0xd65f_03c0); // ret
    // SAFETY: the code is ours; what it may change is named, and what traps is stepped over.
    unsafe {
        core::arch::asm!(
            "dc cvau, {at}", "dsb ish", "ic ivau, {at}", "dsb ish", "isb", "blr {at}",
            at = in(reg) at, inout("x9") x9 => _, out("x30") _,
        )
    };
}

fn sgis(m: &'static Machine, r: &mut Random) {
    if m.gicd == 0 {
        return;
    }
    if gic::is_v2() {
        for _ in 0..r.below(40) {
            // Filters, targets and numbers of every kind; senders taken back.
            mmio::write32(m.gicd + gic::v2::GICD_SGIR, r.nasty() as u32);
            let at = gic::v2::GICD_CPENDSGIR + 4 * r.below(8);
            mmio::write32(m.gicd + at, r.nasty() as u32);
        }
        if r.below(4) == 0 {
            mmio::write32(m.gicc + gic::v2::GICC_EOIR, r.nasty() as u32);
            mmio::write32(m.gicc + gic::v2::GICC_DIR, r.nasty() as u32);
            mmio::write32(m.gicc + gic::v2::GICC_PMR, r.below(0x100) as u32);
            mmio::write32(m.gicc + gic::v2::GICC_PMR, 0xf0);
        }
        return;
    }
    for _ in 0..r.below(40) {
        let v = match r.below(4) {
            0 => r.nasty() & !(1 << 40),
            1 => 1 << 40 | r.below(16) << 24, // All but me.
            _ => r.below(16) << 24 | r.below(256),
        };
        msr!("S3_0_C12_C11_5", v);
    }
    if r.below(4) == 0 {
        msr!("S3_0_C12_C12_1", r.nasty() & 0xff_ffff); // An EOI of what isn't active.
        let pmr = r.below(0x100);
        msr!("S3_0_C4_C6_0", pmr);
        msr!("S3_0_C4_C6_0", 0xf0);
    }
}

/// Instructions that trap or might.
fn instructions(r: &mut Random) {
    let all = [
        0xd400_0003u32,            // smc #0
        0xd402_46a3,               // smc #0x1235
        0xd402_46a2,               // hvc #0x1235
        0xd503_205f,               // wfe
        0xd503_203f,               // yield
        0xd508_7e5f,               // dc cisw, xzr's like
        0xd508_871f,               // tlbi vmalle1
        0xd50c_871f,               // tlbi alle2's like
        0xd508_7809,               // at s1e1r, x9
        0xd50c_7809,               // at s1e2r, x9
        0xd69f_03e0 ^ 0x0000_0bff, // unallocated near eret
        0x0000_0000,               // udf
        0xd503_309f,               // dsb's like
        0xd420_0020,               // brk #1
    ];
    let i = all[r.below(all.len() as u64) as usize];
    // An SMC or HVC takes its function from x0, which holds an address here: unknown.
    execute(i, r.nasty());
}

fn timers(r: &mut Random) {
    let when = match r.below(4) {
        0 => 0,
        1 => u64::MAX,
        2 => cpu::now() + r.below(cpu::millisecond()),
        _ => r.nasty(),
    };
    match r.below(4) {
        0 => msr!("cntv_cval_el0", when),
        1 => msr!("cntv_tval_el0", when),
        2 => msr!("cntp_cval_el0", when),
        _ => {}
    }
    msr!("cntv_ctl_el0", r.below(4));
    msr!("cntp_ctl_el0", r.below(4) | 2);
}
