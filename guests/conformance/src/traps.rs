//! Instructions and registers that a guest doesn't have give it an UNDEFINED
//! exception of its own, or nothing; never the end of the machine.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use guest_rt::cases::{Case, Outcome};
use guest_rt::exception::Frame;
use guest_rt::machine::Machine;
use guest_rt::{check, mrs, same};

pub const CASES: &[Case] = &[
    ("traps.undefined_instruction", undefined),
    ("traps.el2_registers", el2_registers),
    ("traps.unallocated_registers", unallocated),
    ("traps.svc_is_mine", svc),
    ("traps.brk_is_mine", brk),
    ("traps.data_abort_is_mine", data_abort),
    ("traps.cache_by_set_way", set_way),
    ("traps.debug_registers", debug_registers),
    ("traps.actlr", actlr),
];

/// How many came, and the last one's syndrome, place and address.
static COUNT: AtomicU64 = AtomicU64::new(0);
static ESR: AtomicU64 = AtomicU64::new(0);
static ELR: AtomicU64 = AtomicU64::new(0);
static FAR: AtomicU64 = AtomicU64::new(0);
/// Whether one is expected: else it's fatal.
static EXPECTED: AtomicU64 = AtomicU64::new(0);

pub fn sync(f: &mut Frame) -> bool {
    if EXPECTED.load(SeqCst) == 0 {
        return false;
    }
    COUNT.fetch_add(1, SeqCst);
    ESR.store(f.esr, SeqCst);
    ELR.store(f.elr, SeqCst);
    FAR.store(f.far, SeqCst);
    // SVC's return address is the next instruction already.
    if f.esr >> 26 != 0x15 {
        f.elr += 4;
    }
    true
}

/// Runs it; gives how many exceptions came and the class of the last.
pub fn caught(f: impl Fn()) -> (u64, u64) {
    COUNT.store(0, SeqCst);
    ESR.store(0, SeqCst);
    EXPECTED.store(1, SeqCst);
    f();
    EXPECTED.store(0, SeqCst);
    (COUNT.load(SeqCst), ESR.load(SeqCst) >> 26)
}

macro_rules! run {
    ($($code:literal),+) => {
        // SAFETY: either does nothing or is caught and stepped over.
        unsafe { core::arch::asm!($($code),+, out("x9") _, options(nostack)) }
    };
}

fn undefined(_: &'static Machine) -> Outcome {
    same!(caught(|| run!("udf #0")) == (1, 0), 1);
    same!(caught(|| run!(".inst 0x00001234")) == (1, 0), 1);
    Ok(())
}

fn el2_registers(_: &'static Machine) -> Outcome {
    same!(caught(|| run!("mrs x9, S3_4_C1_C1_0")) == (1, 0), 1); // HCR_EL2
    same!(caught(|| run!("msr S3_4_C1_C1_0, xzr")) == (1, 0), 1);
    same!(caught(|| run!("mrs x9, S3_4_C2_C1_0")) == (1, 0), 1); // VTTBR_EL2
    same!(caught(|| run!("mrs x9, S3_5_C1_C0_0")) == (1, 0), 1); // SCTLR_EL12
    Ok(())
}

fn unallocated(_: &'static Machine) -> Outcome {
    same!(caught(|| run!("mrs x9, S3_0_C5_C7_5")) == (1, 0), 1);
    same!(caught(|| run!("msr S3_0_C5_C7_5, x9")) == (1, 0), 1);
    same!(caught(|| run!("mrs x9, S3_3_C14_C15_0")).0 <= 1, 1);
    Ok(())
}

fn svc(_: &'static Machine) -> Outcome {
    same!(caught(|| run!("svc #0x77")) == (1, 0x15), 1);
    same!(ESR.load(SeqCst) & 0xffff, 0x77);
    Ok(())
}

fn brk(_: &'static Machine) -> Outcome {
    same!(caught(|| run!("brk #0x99")) == (1, 0x3c), 1);
    same!(ESR.load(SeqCst) & 0xffff, 0x99);
    Ok(())
}

fn data_abort(_: &'static Machine) -> Outcome {
    // Beyond what stage 1 maps: EL1's own fault, with its own address.
    let at: u64 = 0x0000_4000_0000_1238;
    let r = caught(|| {
        guest_rt::mmio::read64(at);
    });
    same!(r == (1, 0x25), 1);
    same!(FAR.load(SeqCst), at);
    Ok(())
}

fn set_way(_: &'static Machine) -> Outcome {
    same!(caught(|| run!("dc cisw, xzr", "dc csw, xzr", "dc isw, xzr")).0, 0);
    Ok(())
}

fn debug_registers(_: &'static Machine) -> Outcome {
    // They're RAZ/WI, or they work; reading and writing them is no fault.
    let r = caught(|| {
        run!(
            "mrs x9, mdscr_el1",
            "msr mdscr_el1, x9",
            "mrs x9, dbgbvr0_el1",
            "msr dbgbvr0_el1, xzr",
            "msr dbgbcr0_el1, xzr",
            "msr dbgwcr0_el1, xzr",
            "msr oslar_el1, xzr",
            "mrs x9, oslsr_el1"
        )
    });
    same!(r.0, 0);
    Ok(())
}

fn actlr(_: &'static Machine) -> Outcome {
    let r = caught(|| {
        let v = mrs!("actlr_el1");
        guest_rt::msr!("actlr_el1", v);
    });
    same!(r.0, 0);
    check!(mrs!("actlr_el1") == mrs!("actlr_el1"));
    Ok(())
}
