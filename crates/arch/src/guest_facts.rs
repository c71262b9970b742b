//! What guests are told of the CPU, read once.

use core::arch::asm;

macro_rules! read {
    ($register:expr) => {{
        let value: u64;
        // SAFETY: an identification register; those not yet allocated read as
        // zero (Arm ARM D24.1.3).
        unsafe { asm!(concat!("mrs {}, ", $register), out(reg) value, options(nomem, nostack)) };
        value
    }};
}

/// AIDR_EL1.
pub fn aidr_el1() -> u64 {
    read!("aidr_el1")
}

/// The AArch64 ID register op0=3, op1=0, CRn=0, CRm=`crm` (4 to 7),
/// op2=`op2`; zero for any other.
pub fn id_register(crm: u8, op2: u8) -> u64 {
    macro_rules! bank {
        ($crm:literal) => {
            match op2 {
                0 => read!(concat!("S3_0_C0_C", $crm, "_0")),
                1 => read!(concat!("S3_0_C0_C", $crm, "_1")),
                2 => read!(concat!("S3_0_C0_C", $crm, "_2")),
                3 => read!(concat!("S3_0_C0_C", $crm, "_3")),
                4 => read!(concat!("S3_0_C0_C", $crm, "_4")),
                5 => read!(concat!("S3_0_C0_C", $crm, "_5")),
                6 => read!(concat!("S3_0_C0_C", $crm, "_6")),
                7 => read!(concat!("S3_0_C0_C", $crm, "_7")),
                _ => 0,
            }
        };
    }
    match crm {
        4 => bank!("4"),
        5 => bank!("5"),
        6 => bank!("6"),
        7 => bank!("7"),
        _ => 0,
    }
}

/// CCSIDR_EL1 of every cache that CLIDR_EL1 names, by CSSELR_EL1.
pub fn cache_sizes() -> impl Iterator<Item = (u8, u32)> {
    let clidr = crate::sysreg::clidr_el1();
    (0..7u8).flat_map(move |level| {
        let kind = clidr >> level.wrapping_mul(3) & 7;
        let data = (kind >= 2).then_some(level << 1);
        let instruction = matches!(kind, 1 | 3).then_some(level << 1 | 1);
        data.into_iter().chain(instruction).map(|select| (select, ccsidr(select)))
    })
}

fn ccsidr(select: u8) -> u32 {
    let value: u64;
    // SAFETY: selects and reads; at boot, before any guest has a CSSELR.
    unsafe {
        asm!("msr csselr_el1, {}", "isb", "mrs {}, ccsidr_el1", in(reg) u64::from(select),
             out(reg) value, options(nomem, nostack));
    }
    value as u32
}
