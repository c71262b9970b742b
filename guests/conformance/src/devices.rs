//! Loads and stores that exit: width, sign, which register; and memory.

use crate::traps::caught;
use guest_rt::cases::{Case, Outcome};
use guest_rt::machine::Machine;
use guest_rt::{check, mmio, same};

pub const CASES: &[Case] = &[
    ("devices.widths", widths),
    ("devices.sign_extension", sign_extension),
    ("devices.registers", registers),
    ("devices.store_values", store_values),
    ("devices.post_index", post_index),
    ("devices.nothing_there", nothing_there),
    ("devices.clock", clock),
    ("memory.first_touch", first_touch),
    ("memory.across_blocks", across_blocks),
    ("memory.exclusives", exclusives),
    ("memory.executes", executes),
    ("memory.below_ram", below_ram),
];

/// virtio-mmio's MagicValue, "virt".
const MAGIC: u64 = 0x7472_6976;
/// The 16550's scratch register: eight bits that hold what is put there.
const SCRATCH: u64 = 7;
/// GICD_IPRIORITYR: a byte for each INTID.
const GICD_IPRIORITYR: u64 = 0x400;

fn widths(m: &'static Machine) -> Outcome {
    same!(mmio::read32(m.virtio), MAGIC);
    for v in [0u8, 0x5a, 0xff, 0x80] {
        mmio::write8(m.uart + SCRATCH, v);
        same!(mmio::read8(m.uart + SCRATCH), v);
    }
    Ok(())
}

macro_rules! load {
    ($code:literal, $at:expr) => {{
        let v: u64;
        // SAFETY: a device's register.
        unsafe {
            core::arch::asm!($code, v = inout(reg) u64::MAX => v, at = in(reg) $at, options(nostack))
        };
        v
    }};
}

fn sign_extension(m: &'static Machine) -> Outcome {
    let at = m.uart + SCRATCH;
    mmio::write8(at, 0x85);
    // The register's upper half is cleared by a W destination, filled by an X one.
    same!(load!("ldrb {v:w}, [{at}]", at), 0x85);
    // Emulators that give the size of a load but not its sign (ISS.SSE) have been
    // seen: whoever answers it can't know then. Every load is as if unsigned there,
    // no matter where it is answered, and of no other value.
    let signed = load!("ldrsb {v}, [{at}]", at) != 0x85;
    if !signed {
        guest_rt::say!("# the syndrome has no sign bit (ISS.SSE) here");
    }
    let either = |yes: u64, no: u64| if signed { yes } else { no };
    same!(load!("ldrsb {v:w}, [{at}]", at), either(0xffff_ff85, 0x85));
    same!(load!("ldrsb {v}, [{at}]", at), either(0xffff_ffff_ffff_ff85, 0x85));
    mmio::write8(at, 0x45);
    same!(load!("ldrsb {v}, [{at}]", at), 0x45);
    same!(load!("ldr {v:w}, [{at}]", m.virtio), MAGIC);
    same!(load!("ldrsw {v}, [{at}]", m.virtio), MAGIC);
    // A byte of a distributor register with its top bit set, which only the
    // interrupt controller knows: the priority of an interrupt.
    let priority = m.gicd + GICD_IPRIORITYR + 40;
    let before = mmio::read8(priority);
    mmio::write8(priority, 0xa0);
    let got = [load!("ldrb {v:w}, [{at}]", priority), load!("ldrsb {v}, [{at}]", priority)];
    mmio::write8(priority, before as u8);
    same!(got[0], 0xa0);
    same!(got[1], either(0xffff_ffff_ffff_ffa0, 0xa0));
    Ok(())
}

fn registers(m: &'static Machine) -> Outcome {
    let v: u64;
    // Into every register that can be had, summed.
    // SAFETY: all are named; the loads are from a device.
    unsafe {
        core::arch::asm!(
            "mov x2, #0",
            "ldr w1, [x0]", "add x2, x2, x1", "ldr w3, [x0]", "add x2, x2, x3",
            "ldr w4, [x0]", "add x2, x2, x4", "ldr w5, [x0]", "add x2, x2, x5",
            "ldr w8, [x0]", "add x2, x2, x8", "ldr w9, [x0]", "add x2, x2, x9",
            "ldr w15, [x0]", "add x2, x2, x15", "ldr w16, [x0]", "add x2, x2, x16",
            "ldr w17, [x0]", "add x2, x2, x17", "ldr w20, [x0]", "add x2, x2, x20",
            "ldr w27, [x0]", "add x2, x2, x27", "ldr w28, [x0]", "add x2, x2, x28",
            "ldr w30, [x0]", "add x2, x2, x30",
            "ldr wzr, [x0]", "add x2, x2, xzr",
            in("x0") m.virtio, out("x1") _, out("x2") v, out("x3") _, out("x4") _, out("x5") _,
            out("x8") _, out("x9") _, out("x15") _, out("x16") _, out("x17") _, out("x20") _,
            out("x27") _, out("x28") _, out("x30") _, options(nostack),
        )
    };
    same!(v, 13 * MAGIC);
    Ok(())
}

fn store_values(m: &'static Machine) -> Outcome {
    let at = m.uart + SCRATCH;
    // Only the low byte goes out, and XZR is zero.
    // SAFETY: a device's register.
    unsafe {
        core::arch::asm!("strb {v:w}, [{at}]", v = in(reg) 0x1234_5678_9abc_de6fu64, at = in(reg) at)
    };
    same!(mmio::read8(at), 0x6f);
    // SAFETY: as above.
    unsafe { core::arch::asm!("strb wzr, [{at}]", at = in(reg) at) };
    same!(mmio::read8(at), 0);
    Ok(())
}

fn post_index(m: &'static Machine) -> Outcome {
    // Register-offset forms carry a syndrome too, and the address is right.
    let v: u64;
    // SAFETY: a device's register.
    unsafe {
        core::arch::asm!("ldr {v:w}, [{at}, {off}]", v = out(reg) v, at = in(reg) m.virtio - 64,
            off = in(reg) 64u64, options(nostack))
    };
    same!(v, MAGIC);
    // The scaled offset of virtio's Version register: 2.
    // SAFETY: as above.
    unsafe { core::arch::asm!("ldr {v:w}, [{at}, #4]", v = lateout(reg) _, at = in(reg) m.virtio) };
    same!(mmio::read32(m.virtio + 4), 2);
    Ok(())
}

fn nothing_there(m: &'static Machine) -> Outcome {
    // Where no device is, a load gives something and the guest goes on.
    let _ = m;
    let r = caught(|| {
        mmio::write32(0x0700_0000, 0x1234);
        mmio::read32(0x0700_0000);
        mmio::read64(0x0700_0008);
    });
    same!(r.0, 0);
    Ok(())
}

fn clock(m: &'static Machine) -> Outcome {
    if m.rtc != 0 {
        // Seconds since 1970: some time after 2020 or an unset clock.
        let a = mmio::read32(m.rtc);
        let b = mmio::read32(m.rtc);
        check!(b - a <= 1);
    }
    Ok(())
}

const BLOCK: u64 = 2 << 20;

fn first_touch(m: &'static Machine) -> Outcome {
    // Fresh memory reads zero; a page of each block, then the pages around it.
    let blocks = (m.ram.1 - m.free) / BLOCK;
    for i in 0..blocks.min(24) {
        let at = m.free + i * BLOCK + 4096 * (i % 512);
        same!(mmio::read64(at), 0);
        mmio::write64(at, i ^ 0x55aa_0000);
        mmio::write64(at + 8, !i);
    }
    for i in 0..blocks.min(24) {
        let at = m.free + i * BLOCK + 4096 * (i % 512);
        same!(mmio::read64(at), i ^ 0x55aa_0000);
        same!(mmio::read64(at + 8), !i);
        same!(mmio::read64(at + 16), 0);
    }
    // The last page of RAM is there.
    let last = m.ram.1 - 8;
    mmio::write64(last, 0x1a57);
    same!(mmio::read64(last), 0x1a57);
    Ok(())
}

fn across_blocks(m: &'static Machine) -> Outcome {
    // A pair across two pages that were never touched, in blocks that weren't.
    for i in 30..34 {
        let at = m.free + i * BLOCK - 8;
        if at + 16 > m.ram.1 {
            break;
        }
        let (a, b): (u64, u64);
        // SAFETY: RAM that nobody else uses.
        unsafe {
            core::arch::asm!("stp {x}, {y}, [{at}]", "ldp {a}, {b}, [{at}]", at = in(reg) at,
                x = in(reg) i, y = in(reg) !i, a = out(reg) a, b = out(reg) b)
        };
        same!(a, i);
        same!(b, !i);
    }
    Ok(())
}

fn exclusives(m: &'static Machine) -> Outcome {
    use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
    let at = m.free + 26 * BLOCK;
    // SAFETY: RAM that nobody else uses, aligned.
    let word = unsafe { &*(at as *const AtomicU64) };
    for i in 0..1000 {
        same!(word.fetch_add(3, SeqCst), 3 * i);
    }
    Ok(())
}

fn executes(m: &'static Machine) -> Outcome {
    // Code in fresh memory: mov w0, #n; ret.
    for n in 0..8u32 {
        let at = m.free + 27 * BLOCK + u64::from(n) * 4096;
        mmio::write32(at, 0x5280_0000 | (n + 100) << 5);
        mmio::write32(at + 4, 0xd65f_03c0);
        // SAFETY: cleans and invalidates lines of ours.
        unsafe {
            core::arch::asm!("dc cvau, {0}", "dsb ish", "ic ivau, {0}", "dsb ish", "isb", in(reg) at)
        };
        // SAFETY: the two instructions above follow the C calling convention.
        let f = unsafe { core::mem::transmute::<u64, extern "C" fn() -> u32>(at) };
        same!(f(), n + 100);
    }
    Ok(())
}

fn below_ram(m: &'static Machine) -> Outcome {
    // Outside RAM is not RAM: what is stored there doesn't stay, or is a fault.
    let at = m.ram.0 - BLOCK;
    let r = caught(|| {
        mmio::write32(at, 0x1111_2222);
        check_is_gone(at);
    });
    check!(r.0 <= 2);
    Ok(())
}

fn check_is_gone(at: u64) {
    if mmio::read32(at) == 0x1111_2222 {
        guest_rt::say!("# {at:#x} holds what was stored, though no RAM is there");
    }
}
