//! System registers by name.

macro_rules! write {
    ($register:literal, $value:expr) => {
        core::arch::asm!(concat!("msr ", $register, ", {}"), in(reg) $value,
                         options(nostack, preserves_flags))
    };
}

macro_rules! read {
    ($register:literal) => {{
        let value: u64;
        core::arch::asm!(concat!("mrs {}, ", $register), out(reg) value,
                         options(nostack, preserves_flags));
        value
    }};
}

pub(crate) use {read, write};
