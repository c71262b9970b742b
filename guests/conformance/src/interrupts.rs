//! SGIs, SPIs, timers, and waiting for them.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use guest_rt::cases::{Case, Outcome, SKIP};
use guest_rt::exception::{Frame, on_interrupt};
use guest_rt::gic::v2;
use guest_rt::machine::Machine;
use guest_rt::{check, cpu, gic, mmio, mrs, msr, psci, same};

pub const CASES: &[Case] = &[
    ("interrupts.gic_ids", gic_ids),
    ("interrupts.sgi_self", sgi_self),
    ("interrupts.sgi_masked_stays", sgi_masked_stays),
    ("interrupts.priority_order", priority_order),
    ("interrupts.spi_software", spi_software),
    ("interrupts.disabled_stays_away", disabled_stays_away),
    ("interrupts.virtual_timer", virtual_timer),
    ("interrupts.physical_timer", physical_timer),
    ("interrupts.timer_wakes_wfi", timer_wakes_wfi),
    ("interrupts.timer_is_level", timer_is_level),
    ("interrupts.storm_keeps_registers", storm_keeps_registers),
    ("interrupts.sgi_other", sgi_other),
    ("interrupts.sgi_flood", sgi_flood),
    ("interrupts.spi_other", spi_other),
    ("interrupts.priority_mask", priority_mask),
    ("interrupts.end_and_deactivate", end_and_deactivate),
    ("interrupts.v2_targets", v2_targets),
    ("interrupts.v2_sgi_filters", v2_sgi_filters),
    ("interrupts.v2_sgi_senders", v2_sgi_senders),
    ("interrupts.v2_sgi_pending", v2_sgi_pending),
];

static COUNT: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];
static LAST: AtomicU64 = AtomicU64::new(0);
static REARM: AtomicU64 = AtomicU64::new(0);

fn handler(intid: u32, _: &mut Frame) {
    match intid {
        gic::VIRTUAL_TIMER => match REARM.load(SeqCst) {
            0 => msr!("cntv_ctl_el0", 0),
            n => {
                REARM.store(n - 1, SeqCst);
                msr!("cntv_cval_el0", cpu::now() + cpu::millisecond() / 10);
            }
        },
        gic::PHYSICAL_TIMER => msr!("cntp_ctl_el0", 0),
        _ => {}
    }
    COUNT[intid as usize % 64].fetch_add(1, SeqCst);
    LAST.store(LAST.load(SeqCst) << 8 | u64::from(intid), SeqCst);
}

fn count(intid: u32) -> u64 {
    COUNT[intid as usize].load(SeqCst)
}

/// Interrupts on for a while.
fn with_interrupts(f: impl FnOnce() -> Outcome) -> Outcome {
    on_interrupt(handler);
    cpu::unmask();
    let r = f();
    cpu::mask();
    r
}

fn me() -> u64 {
    mrs!("mpidr_el1") & 0xff_00ff_ffff
}

fn gic_ids(m: &'static Machine) -> Outcome {
    let typer = mmio::read32(m.gicd + gic::GICD_TYPER);
    check!(typer & 0x1f >= 1); // At least 32 SPIs.
    if gic::is_v2() {
        same!(typer >> 5 & 7, m.cpu_count as u32 - 1); // CPUNumber.
        same!(mmio::read32(m.gicc + v2::GICC_IIDR) >> 16 & 0xf, 2); // Architecture version.
        same!(mmio::read32(m.gicd + gic::GICD_CTLR), 1);
    } else {
        same!(mmio::read32(m.gicd + 0xffe8) >> 4 & 0xf, 3); // GICD_PIDR2: GICv3.
        same!(mmio::read32(gic::v3::redistributor(m) + 0xffe8) >> 4 & 0xf, 3);
        same!(mmio::read32(m.gicd + gic::GICD_CTLR) & 0x12, 0x12);
    }
    // A byte of what was written as bytes, and of the word.
    mmio::write8(m.gicd + 0x400 + 40, 0x80);
    same!(mmio::read8(m.gicd + 0x400 + 40) & 0xf8, 0x80);
    same!(mmio::read32(m.gicd + 0x400 + 40) & 0xf8, 0x80);
    Ok(())
}

fn sgi_self(_: &'static Machine) -> Outcome {
    with_interrupts(|| {
        for id in 0..16 {
            let before = count(id);
            gic::send_sgi(u64::from(id), me());
            check!(cpu::until(|| count(id) == before + 1));
        }
        Ok(())
    })
}

fn sgi_masked_stays(_: &'static Machine) -> Outcome {
    let before = count(3);
    gic::send_sgi(3, me());
    gic::send_sgi(3, me()); // One pending bit.
    cpu::delay(cpu::millisecond());
    same!(count(3), before);
    with_interrupts(|| {
        check!(cpu::until(|| count(3) == before + 1));
        cpu::delay(cpu::millisecond());
        same!(count(3), before + 1);
        Ok(())
    })
}

fn priority_order(m: &'static Machine) -> Outcome {
    let base = gic::private(m) + 0x400;
    mmio::write32(base + 4, 0x4080_c020); // SGIs 4 to 7: 0x20 0xc0 0x80 0x40.
    for id in [5, 6, 7, 4] {
        gic::send_sgi(id, me());
    }
    cpu::delay(cpu::millisecond());
    LAST.store(0, SeqCst);
    let r = with_interrupts(|| {
        check!(cpu::until(|| LAST.load(SeqCst) >> 24 != 0));
        same!(LAST.load(SeqCst), 0x0407_0605);
        Ok(())
    });
    mmio::write32(base + 4, 0xa0a0_a0a0);
    r
}

fn spi_software(m: &'static Machine) -> Outcome {
    let id = 32 + 20;
    gic::enable_spi(m, id, me(), true);
    with_interrupts(|| {
        for i in 1..=20 {
            let before = count(id);
            gic::pend_spi(m, id);
            check!(cpu::until(|| count(id) == before + 1));
            guest_rt::check!(i > 0);
        }
        Ok(())
    })
}

fn disabled_stays_away(m: &'static Machine) -> Outcome {
    let id = 32 + 21;
    with_interrupts(|| {
        gic::pend_spi(m, id); // Never enabled.
        cpu::delay(cpu::millisecond());
        same!(count(id), 0);
        // Pending, and it says so; then taken back.
        let bit = 1u32 << (id % 32);
        same!(mmio::read32(m.gicd + 0x204) & bit, bit);
        mmio::write32(m.gicd + 0x284, bit);
        same!(mmio::read32(m.gicd + 0x204) & bit, 0);
        Ok(())
    })
}

fn virtual_timer(_: &'static Machine) -> Outcome {
    with_interrupts(|| {
        for us in [10, 200, 3000u64] {
            let before = count(gic::VIRTUAL_TIMER);
            let due = cpu::now() + cpu::millisecond() * us / 1000;
            msr!("cntv_cval_el0", due);
            msr!("cntv_ctl_el0", 1);
            check!(cpu::until(|| count(gic::VIRTUAL_TIMER) == before + 1));
            check!(cpu::now() >= due);
        }
        Ok(())
    })
}

fn physical_timer(_: &'static Machine) -> Outcome {
    with_interrupts(|| {
        let before = count(gic::PHYSICAL_TIMER);
        msr!("cntp_tval_el0", cpu::millisecond());
        msr!("cntp_ctl_el0", 1);
        check!(cpu::until(|| count(gic::PHYSICAL_TIMER) == before + 1));
        Ok(())
    })
}

fn timer_wakes_wfi(_: &'static Machine) -> Outcome {
    with_interrupts(|| {
        for _ in 0..10 {
            let before = count(gic::VIRTUAL_TIMER);
            let due = cpu::now() + cpu::millisecond();
            msr!("cntv_cval_el0", due);
            msr!("cntv_ctl_el0", 1);
            while count(gic::VIRTUAL_TIMER) == before {
                cpu::wfi();
            }
            let late = cpu::now() - due;
            check!(late < cpu::frequency() * 2);
        }
        Ok(())
    })
}

fn timer_is_level(m: &'static Machine) -> Outcome {
    // Pending while the condition holds, gone when it doesn't.
    let before = count(gic::VIRTUAL_TIMER);
    msr!("cntv_cval_el0", cpu::now());
    msr!("cntv_ctl_el0", 1);
    cpu::delay(cpu::millisecond());
    same!(mrs!("cntv_ctl_el0") & 7, 5); // ISTATUS, ENABLE.
    msr!("cntv_ctl_el0", 0);
    cpu::isb();
    // An exit that the host answers, for the line to be seen.
    mmio::read32(m.virtio);
    with_interrupts(|| {
        cpu::delay(cpu::millisecond());
        same!(count(gic::VIRTUAL_TIMER), before);
        Ok(())
    })
}

fn storm_keeps_registers(_: &'static Machine) -> Outcome {
    REARM.store(60, SeqCst);
    with_interrupts(|| {
        msr!("cntv_cval_el0", cpu::now());
        msr!("cntv_ctl_el0", 1);
        let start = cpu::now();
        while REARM.load(SeqCst) != 0 {
            let bad: u64;
            // SAFETY: only registers, all named.
            unsafe {
                core::arch::asm!(
                    "mov x1, #0x101", "mov x2, #0x102", "mov x3, #0x103", "mov x9, #0x109",
                    "mov x15, #0x10f", "mov x17, #0x111", "mov x20, #0x114", "mov x28, #0x11c",
                    "movz x4, #0x6000, lsl #16", "msr nzcv, x4",
                    "mov x0, #3000", "2: sub x0, x0, #1", "cbnz x0, 2b",
                    "mrs x5, nzcv", "eor x0, x4, x5",
                    "sub x1, x1, #0x101", "sub x2, x2, #0x102", "sub x3, x3, #0x103",
                    "sub x9, x9, #0x109", "sub x15, x15, #0x10f", "sub x17, x17, #0x111",
                    "sub x20, x20, #0x114", "sub x28, x28, #0x11c",
                    "orr x0, x0, x1", "orr x0, x0, x2", "orr x0, x0, x3", "orr x0, x0, x9", "orr x0, x0, x15",
                    "orr x0, x0, x17", "orr x0, x0, x20", "orr x0, x0, x28",
                    out("x0") bad, out("x1") _, out("x2") _, out("x3") _, out("x4") _, out("x5") _,
                    out("x9") _, out("x15") _, out("x17") _, out("x20") _, out("x28") _,
                    options(nostack),
                )
            };
            same!(bad, 0);
            check!(cpu::now() - start < 5 * cpu::frequency());
        }
        check!(cpu::until(|| mrs!("cntv_ctl_el0") & 1 == 0));
        Ok(())
    })
}

static UP: AtomicBool = AtomicBool::new(false);
static REPLIES: AtomicU64 = AtomicU64::new(0);

extern "C" fn echo(machine: u64) -> ! {
    // SAFETY: the first CPU passed its machine, which lives for ever.
    let m = unsafe { &*(machine as *const Machine) };
    gic::init_cpu(m);
    UP.store(true, SeqCst);
    let mut asleep = false;
    loop {
        // Takes its interrupts by hand, so that the other's handler isn't shared.
        let iar = gic::acknowledge();
        let id = gic::intid(iar);
        if id < 1020 {
            gic::end(iar);
            REPLIES.fetch_add(1, SeqCst);
            gic::send_sgi(9, m.cpus[0]);
            if id == 14 {
                UP.store(false, SeqCst);
                psci::call([psci::CPU_OFF, 0, 0, 0]);
            }
            asleep = !asleep;
        }
        if asleep {
            cpu::wfi();
        }
    }
}

fn sgi_other(m: &'static Machine) -> Outcome {
    if m.cpu_count < 2 {
        return SKIP;
    }
    same!(cpu::start(m, 1, echo, (&raw const *m) as u64), 0);
    check!(cpu::until(|| UP.load(SeqCst)));
    with_interrupts(|| {
        for i in 0..100 {
            let before = count(9);
            gic::send_sgi(8, m.cpus[1]);
            check!(cpu::until(|| count(9) == before + 1));
            if i % 10 == 0 {
                cpu::delay(cpu::millisecond()); // It sleeps every second time.
            }
        }
        same!(REPLIES.load(SeqCst), 100);
        gic::send_sgi(14, m.cpus[1]);
        check!(cpu::until(|| !UP.load(SeqCst)));
        Ok(())
    })
}

fn sgi_flood(_: &'static Machine) -> Outcome {
    // More at once than there are list registers.
    let before: [u64; 16] = core::array::from_fn(|i| count(i as u32));
    for id in 0..16 {
        gic::send_sgi(id, me());
    }
    with_interrupts(|| {
        for id in 0..16u32 {
            check!(cpu::until(|| count(id) == before[id as usize] + 1));
        }
        Ok(())
    })
}

fn spi_other(m: &'static Machine) -> Outcome {
    if m.cpu_count < 2 {
        return SKIP;
    }
    let id = 32 + 22;
    gic::enable_spi(m, id, m.cpus[1], true);
    same!(cpu::start(m, 1, echo, (&raw const *m) as u64), 0);
    check!(cpu::until(|| UP.load(SeqCst)));
    let r = with_interrupts(|| {
        for _ in 0..20 {
            let (before, replies) = (count(9), REPLIES.load(SeqCst));
            gic::pend_spi(m, id);
            check!(cpu::until(|| count(9) == before + 1));
            same!(REPLIES.load(SeqCst), replies + 1);
            same!(count(id), 0); // Never here.
        }
        gic::send_sgi(14, m.cpus[1]);
        check!(cpu::until(|| !UP.load(SeqCst)));
        Ok(())
    });
    mmio::write32(m.gicd + 0x184, 1 << (id % 32));
    r
}

fn set_priority_mask(m: &Machine, mask: u64) {
    if gic::is_v2() {
        mmio::write32(m.gicc + v2::GICC_PMR, mask as u32);
    } else {
        msr!("S3_0_C4_C6_0", mask);
        cpu::isb();
    }
}

fn priority_mask(m: &'static Machine) -> Outcome {
    let before = count(5);
    set_priority_mask(m, 0xa0); // SGIs have 0xa0: not above it.
    let r = with_interrupts(|| {
        gic::send_sgi(5, me());
        cpu::delay(cpu::millisecond());
        same!(count(5), before);
        set_priority_mask(m, 0xf0);
        check!(cpu::until(|| count(5) == before + 1));
        Ok(())
    });
    set_priority_mask(m, 0xf0);
    r
}

/// Acknowledges the next interrupt, masked here; 1023 if none comes.
fn acknowledge_next() -> u32 {
    let start = cpu::now();
    loop {
        let iar = gic::acknowledge();
        if gic::intid(iar) < 1020 || cpu::now() - start > cpu::frequency() {
            return iar;
        }
    }
}

/// EOImode 1: the end drops the priority, and the interrupt stays active until it is deactivated.
/// The timer's is the hardware's own all along.
fn end_and_deactivate(m: &'static Machine) -> Outcome {
    type Write<T> = fn(&Machine, T);
    let (set, drop, deactivate): (Write<u64>, Write<u32>, Write<u32>) = if gic::is_v2() {
        (
            |m, on| mmio::write32(m.gicc + v2::GICC_CTLR, 1 | (on as u32) << 9),
            |m, iar| mmio::write32(m.gicc + v2::GICC_EOIR, iar),
            |m, iar| mmio::write32(m.gicc + v2::GICC_DIR, iar),
        )
    } else {
        (
            |_, on| msr!("S3_0_C12_C12_4", on << 1),
            |_, iar| msr!("S3_0_C12_C12_1", u64::from(iar)),
            |_, iar| msr!("S3_0_C12_C11_1", u64::from(iar)),
        )
    };
    set(m, 1);
    cpu::isb();
    let r = (|| {
        for _ in 0..20 {
            msr!("cntv_cval_el0", cpu::now());
            msr!("cntv_ctl_el0", 1);
            cpu::isb();
            let iar = acknowledge_next();
            same!(gic::intid(iar), gic::VIRTUAL_TIMER);
            drop(m, iar);
            cpu::isb();
            // The line is up, but it is active still.
            let bit = 1u32 << gic::VIRTUAL_TIMER;
            same!(mmio::read32(gic::private(m) + 0x300) & bit, bit);
            same!(gic::intid(gic::acknowledge()), 1023);
            msr!("cntv_ctl_el0", 0);
            cpu::isb();
            deactivate(m, iar);
            cpu::isb();
            same!(mmio::read32(gic::private(m) + 0x300) & bit, 0);
        }
        Ok(())
    })();
    msr!("cntv_ctl_el0", 0);
    set(m, 0);
    cpu::isb();
    r
}

fn v2_targets(m: &'static Machine) -> Outcome {
    if !gic::is_v2() {
        return SKIP;
    }
    let at = m.gicd + v2::GICD_ITARGETSR;
    let mine = 1u8 << (me() & 7);
    // Those of SGIs and PPIs name the CPU that reads them, whatever is written.
    for i in 0..32 {
        mmio::write8(at + i, 0xff);
        same!(mmio::read8(at + i), mine);
    }
    // Those of SPIs name CPUs that are there.
    let all = ((1u32 << m.cpu_count) - 1) as u8;
    mmio::write32(at + 60, 0xff01_00ff);
    same!(mmio::read8(at + 60), all);
    same!(mmio::read8(at + 61), 0);
    same!(mmio::read32(at + 60), u32::from(all) << 24 | 1 << 16 | u32::from(all));
    mmio::write32(at + 60, 0);
    Ok(())
}

/// Takes the next interrupt by hand: GICC_IAR, ended.
fn by_hand() -> u32 {
    let iar = acknowledge_next();
    if gic::intid(iar) < 1020 {
        gic::end(iar);
    }
    iar
}

fn none_is_pending(m: &Machine) -> bool {
    cpu::delay(cpu::millisecond());
    mmio::read32(m.gicc + v2::GICC_IAR) == 1023
}

fn v2_sgi_filters(m: &'static Machine) -> Outcome {
    if !gic::is_v2() {
        return SKIP;
    }
    let me = (me() & 7) as u32;
    let send = |value: u32| mmio::write32(m.gicd + v2::GICD_SGIR, value);
    send(2 << 24 | 0xff << 16 | 6); // To itself, whatever the list says.
    same!(by_hand(), me << 10 | 6);
    send(1 << 24 | 1 << (16 + me) | 6); // To all others.
    send(3 << 24 | 1 << (16 + me) | 6); // Reserved: to nobody.
    send(1 << 31 >> 8 & 0xff << 16 | 6); // To a CPU that isn't there, with fewer than 8.
    check!(none_is_pending(m));
    send(1 << (16 + me) | 6);
    same!(by_hand(), me << 10 | 6);
    check!(none_is_pending(m));
    same!(mmio::read32(m.gicd + v2::GICD_SGIR), 0); // Write-only.
    Ok(())
}

fn v2_sgi_senders(m: &'static Machine) -> Outcome {
    if !gic::is_v2() {
        return SKIP;
    }
    // SGI 7 as if CPUs 0, 2 and 5 had sent it: three interrupts, each with its sender.
    mmio::write8(m.gicd + v2::GICD_SPENDSGIR + 7, 0b10_0101);
    same!(mmio::read8(m.gicd + v2::GICD_CPENDSGIR + 7), 0b10_0101);
    let mut seen = 0u8;
    for _ in 0..3 {
        let iar = by_hand();
        same!(iar & 0x3ff, 7);
        seen |= 1 << (iar >> 10 & 7);
    }
    same!(seen, 0b10_0101);
    check!(none_is_pending(m));
    // One that is active, and another's that comes meanwhile.
    mmio::write8(m.gicd + v2::GICD_SPENDSGIR + 7, 1 << 3);
    let first = acknowledge_next();
    same!(first, 3 << 10 | 7);
    mmio::write8(m.gicd + v2::GICD_SPENDSGIR + 7, 1 << 4);
    check!(none_is_pending(m)); // The running priority is its own.
    gic::end(first);
    same!(by_hand(), 4 << 10 | 7);
    Ok(())
}

fn v2_sgi_pending(m: &'static Machine) -> Outcome {
    if !gic::is_v2() {
        return SKIP;
    }
    mmio::write32(m.gicd + 0x200, 1 << 8); // GICD_ISPENDR0: not for SGIs.
    same!(mmio::read32(m.gicd + 0x200) & 0xffff, 0);
    check!(none_is_pending(m));
    mmio::write32(m.gicd + v2::GICD_SPENDSGIR + 8, 0x0000_0601);
    same!(mmio::read32(m.gicd + 0x200) & 0xffff, 0x300); // SGIs 8 and 9.
    mmio::write32(m.gicd + 0x280, 0x300); // GICD_ICPENDR0: not for SGIs.
    same!(mmio::read32(m.gicd + v2::GICD_SPENDSGIR + 8), 0x0000_0601);
    mmio::write32(m.gicd + v2::GICD_CPENDSGIR + 8, 0x0000_0200);
    same!(mmio::read32(m.gicd + v2::GICD_SPENDSGIR + 8), 0x0000_0401);
    mmio::write32(m.gicd + v2::GICD_CPENDSGIR + 8, 0xffff_ffff);
    same!(mmio::read32(m.gicd + 0x200) & 0xffff, 0);
    check!(none_is_pending(m));
    Ok(())
}
