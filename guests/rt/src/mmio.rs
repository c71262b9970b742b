//! Device registers, by plain base-register instructions that a hypervisor
//! can decode from the syndrome.

use core::arch::asm;

macro_rules! access {
    ($read:ident, $write:ident, $ty:ty, $load:literal, $store:literal, $w:literal) => {
        /// Loads from a device.
        #[inline(always)]
        pub fn $read(at: u64) -> $ty {
            let v: $ty;
            // SAFETY: a device's register, or the guest wants to see what is there.
            unsafe {
                asm!(concat!($load, " {v", $w, "}, [{at}]"), v = out(reg) v, at = in(reg) at,
                    options(nostack, preserves_flags))
            };
            v
        }
        /// Stores to a device.
        #[inline(always)]
        pub fn $write(at: u64, v: $ty) {
            // SAFETY: as above.
            unsafe {
                asm!(concat!($store, " {v", $w, "}, [{at}]"), v = in(reg) v, at = in(reg) at,
                    options(nostack, preserves_flags))
            };
        }
    };
}

access!(read8, write8, u8, "ldrb", "strb", ":w");
access!(read16, write16, u16, "ldrh", "strh", ":w");
access!(read32, write32, u32, "ldr", "str", ":w");
access!(read64, write64, u64, "ldr", "str", "");
