//! Registers hold over every kind of exit.

use guest_rt::cases::{Case, Outcome};
use guest_rt::exception::on_interrupt;
use guest_rt::machine::Machine;
use guest_rt::{cpu, gic, mrs, msr, psci, same};

pub const CASES: &[Case] = &[
    ("registers.general_over_hvc", |_| general(HVC, psci::VERSION)),
    ("registers.general_over_mmio", |m| general(LOAD, m.virtio)),
    ("registers.general_over_vgic", |m| general(LOAD, m.gicd + gic::GICD_TYPER)),
    ("registers.general_over_wfi", |_| over_wfi(|| general(WFI, 0))),
    ("registers.fp_over_hvc", |_| fp(HVC, psci::VERSION)),
    ("registers.fp_over_mmio", |m| fp(LOAD, m.virtio)),
    ("registers.fp_over_wfi", |_| over_wfi(|| fp(WFI, 0))),
    ("registers.system", system),
    ("registers.identity_is_stable", identity),
    ("registers.counter_grows", counter),
];

core::arch::global_asm!(
    r#"
    .arch_extension fp
    .arch_extension simd
    // x0: which exit, x1: its argument, x2: 31 words of general registers or 32 quadwords.
    // Loads what x2 points to, makes the exit, stores what it finds.
    .balign 4
general_over:
    stp     x29, x30, [sp, #-112]!
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    stp     x2, x1, [sp, #96]
    mov     x3, x0
    ldp     x4, x5, [x2, #32]
    ldp     x6, x7, [x2, #48]
    ldp     x8, x9, [x2, #64]
    ldp     x10, x11, [x2, #80]
    ldp     x12, x13, [x2, #96]
    ldp     x14, x15, [x2, #112]
    ldp     x16, x17, [x2, #128]
    ldp     x18, x19, [x2, #144]
    ldp     x20, x21, [x2, #160]
    ldp     x22, x23, [x2, #176]
    ldp     x24, x25, [x2, #192]
    ldp     x26, x27, [x2, #208]
    ldp     x28, x29, [x2, #224]
    ldr     x30, [x2, #240]
    cmp     x3, #1
    b.lo    1f
    b.eq    2f
    wfi
    b       3f
1:  mov     x0, x1
    hvc     #0
    b       3f
2:  ldr     w0, [x1]
3:  ldr     x2, [sp, #96]
    stp     x4, x5, [x2, #32]
    stp     x6, x7, [x2, #48]
    stp     x8, x9, [x2, #64]
    stp     x10, x11, [x2, #80]
    stp     x12, x13, [x2, #96]
    stp     x14, x15, [x2, #112]
    stp     x16, x17, [x2, #128]
    stp     x18, x19, [x2, #144]
    stp     x20, x21, [x2, #160]
    stp     x22, x23, [x2, #176]
    stp     x24, x25, [x2, #192]
    stp     x26, x27, [x2, #208]
    stp     x28, x29, [x2, #224]
    str     x30, [x2, #240]
    ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     x29, x30, [sp], #112
    ret

fp_over:
    stp     x29, x30, [sp, #-32]!
    str     x2, [sp, #16]
    mov     x3, x0
    ldp     q0, q1, [x2, #0]
    ldp     q2, q3, [x2, #32]
    ldp     q4, q5, [x2, #64]
    ldp     q6, q7, [x2, #96]
    ldp     q8, q9, [x2, #128]
    ldp     q10, q11, [x2, #160]
    ldp     q12, q13, [x2, #192]
    ldp     q14, q15, [x2, #224]
    ldp     q16, q17, [x2, #256]
    ldp     q18, q19, [x2, #288]
    ldp     q20, q21, [x2, #320]
    ldp     q22, q23, [x2, #352]
    ldp     q24, q25, [x2, #384]
    ldp     q26, q27, [x2, #416]
    ldp     q28, q29, [x2, #448]
    ldp     q30, q31, [x2, #480]
    cmp     x3, #1
    b.lo    1f
    b.eq    2f
    wfi
    b       3f
1:  mov     x0, x1
    hvc     #0
    b       3f
2:  ldr     w0, [x1]
3:  ldr     x2, [sp, #16]
    stp     q0, q1, [x2, #0]
    stp     q2, q3, [x2, #32]
    stp     q4, q5, [x2, #64]
    stp     q6, q7, [x2, #96]
    stp     q8, q9, [x2, #128]
    stp     q10, q11, [x2, #160]
    stp     q12, q13, [x2, #192]
    stp     q14, q15, [x2, #224]
    stp     q16, q17, [x2, #256]
    stp     q18, q19, [x2, #288]
    stp     q20, q21, [x2, #320]
    stp     q22, q23, [x2, #352]
    stp     q24, q25, [x2, #384]
    stp     q26, q27, [x2, #416]
    stp     q28, q29, [x2, #448]
    stp     q30, q31, [x2, #480]
    ldp     x29, x30, [sp], #32
    ret
"#
);

unsafe extern "C" {
    safe fn general_over(exit: u64, argument: u64, registers: &mut [u64; 32]);
    safe fn fp_over(exit: u64, argument: u64, registers: &mut [u128; 32]);
}

const HVC: u64 = 0;
const LOAD: u64 = 1;
const WFI: u64 = 2;

/// x4 to x30 (PSCI keeps them: SMCCC 1.1, 2.6), many times over.
fn general(exit: u64, argument: u64) -> Outcome {
    for round in 0..50u64 {
        let pattern: [u64; 32] =
            core::array::from_fn(|i| (round << 8 | i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut r = pattern;
        general_over(exit, argument, &mut r);
        for i in 4..31 {
            same!(r[i], pattern[i]);
        }
    }
    Ok(())
}

fn fp(exit: u64, argument: u64) -> Outcome {
    for round in 0..50u64 {
        let pattern: [u128; 32] = core::array::from_fn(|i| {
            u128::from(round << 8 | i as u64)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
        });
        let mut r = pattern;
        fp_over(exit, argument, &mut r);
        for i in 0..32 {
            same!(r[i], pattern[i]);
            same!(r[i] >> 64, pattern[i] >> 64);
        }
    }
    Ok(())
}

/// WFI that a timer ends, the interrupt masked: what is pending wakes it.
fn over_wfi(f: fn() -> Outcome) -> Outcome {
    fn nothing(_: u32, _: &mut guest_rt::exception::Frame) {
        msr!("cntv_ctl_el0", 0);
    }
    on_interrupt(nothing);
    // Stays pending, so that each WFI after the first returns at once.
    msr!("cntv_cval_el0", cpu::now() + cpu::millisecond());
    msr!("cntv_ctl_el0", 1);
    let r = f();
    msr!("cntv_ctl_el0", 0);
    r
}

/// What the guest's EL1 owns, over a hypercall, a vGIC access and one that the VMM answers.
fn system(m: &'static Machine) -> Outcome {
    macro_rules! hold {
        ($($name:literal = $value:expr;)+) => {{
            $(let _old = mrs!($name); msr!($name, $value); cpu::isb();
            for _ in 0..5 {
                psci::call([psci::VERSION, 0, 0, 0]);
                guest_rt::mmio::read32(m.gicd + gic::GICD_IIDR);
                if m.virtio != 0 {
                    guest_rt::mmio::read32(m.virtio);
                }
                let now = mrs!($name);
                if now != $value {
                    msr!($name, _old);
                    cpu::isb();
                }
                same!(now, $value);
            }
            msr!($name, _old);
            cpu::isb();)+
        }};
    }
    hold! {
        "tpidr_el0" = 0x1111_2222_3333_4440;
        "tpidrro_el0" = 0x5555_6666_7777_8880;
        "tpidr_el1" = 0x9999_aaaa_bbbb_ccc0;
        "sp_el0" = 0x1234_5678_9abc_def0;
        "contextidr_el1" = 0xabcd;
        "elr_el1" = 0xffff_0000_1234_5678;
        "spsr_el1" = 0x3c5;
        "esr_el1" = 0x9600_0045;
        "far_el1" = 0xffff_8000_dead_0000;
        "afsr0_el1" = mrs!("afsr0_el1");
        "par_el1" = 0x0000_000f_f000_0000 | mrs!("par_el1") & 0xff00_0000_0000_0fff;
        "ttbr1_el1" = 0x8765_4000;
        "cntkctl_el1" = 0x3;
        "cntv_cval_el0" = 0x7fff_ffff_ffff_0000;
        "cntp_cval_el0" = 0x7fff_ffff_fff0_0000;
        "S3_3_C4_C4_0" = 0x0080_0000;
        "S3_3_C4_C4_1" = 0x0800_001f;
        "csselr_el1" = 0;
    }
    Ok(())
}

fn identity(_: &'static Machine) -> Outcome {
    let all = || {
        [
            mrs!("midr_el1"),
            mrs!("mpidr_el1"),
            mrs!("revidr_el1"),
            mrs!("id_aa64pfr0_el1"),
            mrs!("id_aa64pfr1_el1"),
            mrs!("id_aa64isar0_el1"),
            mrs!("id_aa64isar1_el1"),
            mrs!("id_aa64mmfr0_el1"),
            mrs!("id_aa64mmfr1_el1"),
            mrs!("id_aa64mmfr2_el1"),
            mrs!("id_aa64dfr0_el1"),
            mrs!("ctr_el0"),
            mrs!("clidr_el1"),
            mrs!("dczid_el0"),
        ]
    };
    let first = all();
    for _ in 0..20 {
        let now = all();
        for i in 0..first.len() {
            same!(now[i], first[i]);
        }
    }
    same!(mrs!("CurrentEL"), 1 << 2);
    Ok(())
}

fn counter(_: &'static Machine) -> Outcome {
    let mut last = cpu::now();
    for i in 0..2000 {
        if i % 16 == 0 {
            psci::call([psci::VERSION, 0, 0, 0]);
        }
        let now = cpu::now();
        guest_rt::check!(now >= last);
        last = now;
    }
    Ok(())
}
