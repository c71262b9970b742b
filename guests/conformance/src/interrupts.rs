//! SGIs, SPIs, timers, and waiting for them.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use guest_rt::cases::{Case, Outcome};
use guest_rt::exception::{Frame, on_interrupt};
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
    same!(mmio::read32(m.gicd + 0xffe8) >> 4 & 0xf, 3); // GICD_PIDR2: GICv3.
    same!(mmio::read32(gic::redistributor(m) + 0xffe8) >> 4 & 0xf, 3);
    same!(mmio::read32(m.gicd + gic::GICD_CTLR) & 0x12, 0x12);
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
    let base = gic::redistributor(m) + 0x1_0000 + 0x400;
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
        let id = gic::acknowledge();
        if id < 16 {
            gic::end(id);
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
        return Ok(());
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
