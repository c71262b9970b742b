//! A trapped load or store as an access of a device.

use crate::esr::Esr;
use vcpu_context::GuestContext;

/// One access, decoded from a data abort with a valid syndrome.
///
/// Guests are little-endian: ID_AA64MMFR0_EL1 says that mixed endianness isn't
/// there, so SCTLR_EL1.EE needs no look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MmioAccess {
    /// The address: intermediate physical.
    pub ipa: u64,
    /// Bytes: 1, 2, 4 or 8.
    pub size: u8,
    /// Store or load.
    pub is_write: bool,
    /// The register stored from or loaded to; 31 is XZR.
    pub rt: u8,
    /// A load sign-extends.
    pub sign_extend: bool,
    /// The register is X, not W.
    pub sixty_four: bool,
}

impl MmioAccess {
    /// Decodes; `None` if the hardware gives no syndrome (ISV=0: load/store
    /// pair, writeback, atomics...) or it is no plain access.
    #[inline]
    pub const fn decode(esr: Esr, ipa: u64) -> Option<Self> {
        let abort = esr.data_abort();
        if !abort.valid() || abort.cache_maintenance() || esr.s1ptw() {
            return None;
        }
        Some(MmioAccess {
            ipa,
            size: abort.size(),
            is_write: abort.wnr(),
            rt: abort.rt(),
            sign_extend: abort.sign_extend(),
            sixty_four: abort.sixty_four(),
        })
    }

    /// What a store writes, zero-extended.
    #[inline]
    pub const fn store_value(&self, context: &GuestContext) -> u64 {
        context.x(self.rt) & mask(self.size)
    }

    /// What the register holds after a load of `raw` (only its low `size`
    /// bytes count): zero- or sign-extended to W or X.
    #[inline]
    pub const fn load_value(&self, raw: u64) -> u64 {
        let value = raw & mask(self.size);
        if !self.sign_extend || self.size >= 8 {
            return value;
        }
        let shift = 64u32.wrapping_sub((self.size as u32).wrapping_mul(8));
        let extended = ((value << shift) as i64 >> shift) as u64;
        if self.sixty_four { extended } else { extended & 0xffff_ffff }
    }

    /// Completes a load.
    #[inline]
    pub const fn finish_load(&self, context: &mut GuestContext, raw: u64) {
        context.set_x(self.rt, self.load_value(raw));
    }
}

/// The low `size` bytes.
#[inline]
pub const fn mask(size: u8) -> u64 {
    if size >= 8 { u64::MAX } else { (1u64 << (size as u32).wrapping_mul(8)).wrapping_sub(1) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esr::IL;
    use proptest::prelude::*;

    fn load(size: u8, sign_extend: bool, sixty_four: bool) -> MmioAccess {
        MmioAccess { ipa: 0, size, is_write: false, rt: 1, sign_extend, sixty_four }
    }

    #[test]
    fn extension() {
        assert_eq!(load(1, false, false).load_value(0xffff_ff80), 0x80);
        assert_eq!(load(1, true, false).load_value(0x80), 0xffff_ff80);
        assert_eq!(load(1, true, true).load_value(0x80), 0xffff_ffff_ffff_ff80);
        assert_eq!(load(2, true, true).load_value(0x7fff), 0x7fff);
        assert_eq!(load(4, true, true).load_value(0x8000_0000), 0xffff_ffff_8000_0000);
        assert_eq!(load(8, false, true).load_value(u64::MAX), u64::MAX);
    }

    #[test]
    fn no_syndrome_no_access() {
        assert_eq!(MmioAccess::decode(Esr((0x24 << 26) | IL | 0x07), 0), None);
        assert_eq!(MmioAccess::decode(Esr((0x24 << 26) | (1 << 24) | (1 << 8)), 0), None);
        assert_eq!(MmioAccess::decode(Esr((0x24 << 26) | (1 << 24) | (1 << 7)), 0), None);
    }

    proptest! {
        /// Against the plain definition, by Rust's own conversions.
        #[test]
        fn loads_match_the_casts(raw: u64, size_log2 in 0u8..4, signed: bool, wide: bool) {
            let size = 1u8 << size_log2;
            let expect = match (size, signed) {
                (1, false) => u64::from(raw as u8),
                (2, false) => u64::from(raw as u16),
                (4, false) => u64::from(raw as u32),
                (1, true) => i64::from(raw as i8) as u64,
                (2, true) => i64::from(raw as i16) as u64,
                (4, true) => i64::from(raw as i32) as u64,
                _ => raw,
            };
            let expect = if wide || size == 8 { expect } else { expect & 0xffff_ffff };
            prop_assert_eq!(load(size, signed, wide).load_value(raw), expect);
        }

        #[test]
        fn stores_take_low_bytes(value: u64, size_log2 in 0u8..4, rt in 0u8..32) {
            let mut context = GuestContext::new();
            context.set_x(rt, value);
            let size = 1u8 << size_log2;
            let access = MmioAccess { ipa: 0, size, is_write: true, rt, sign_extend: false, sixty_four: true };
            let expect = if rt == 31 { 0 } else { value & mask(size) };
            prop_assert_eq!(access.store_value(&context), expect);
        }
    }
}
