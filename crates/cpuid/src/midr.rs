//! MIDR_EL1: implementer, part number, variant and revision.

/// An implementer and a part number of its.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Model {
    implementer: u8,
    part: u16,
}

impl Model {
    /// The model that MIDR_EL1 names.
    pub const fn of(midr: u64) -> Model {
        Model { implementer: (midr >> 24) as u8, part: (midr >> 4) as u16 & 0xfff }
    }
}

/// Variant and revision, as in r1p2.
pub const fn version(midr: u64) -> (u8, u8) {
    ((midr >> 20) as u8 & 15, midr as u8 & 15)
}

/// Whether `midr` names one of `models`.
pub fn is_one_of(midr: u64, models: &[Model]) -> bool {
    models.contains(&Model::of(midr))
}

macro_rules! models {
    ($($implementer:literal: $($name:ident = $part:literal),+;)+) => {$($(
        #[allow(missing_docs, reason = "the names are the CPUs'")]
        pub const $name: Model = Model { implementer: $implementer, part: $part };
    )+)+};
}

models! {
    0x41: // Arm
        CORTEX_A34 = 0xd02, CORTEX_A53 = 0xd03, CORTEX_A35 = 0xd04, CORTEX_A55 = 0xd05,
        CORTEX_A57 = 0xd07, CORTEX_A72 = 0xd08, CORTEX_A73 = 0xd09, CORTEX_A75 = 0xd0a,
        CORTEX_A76 = 0xd0b, NEOVERSE_N1 = 0xd0c, CORTEX_A77 = 0xd0d, CORTEX_A76AE = 0xd0e,
        NEOVERSE_V1 = 0xd40, CORTEX_A78 = 0xd41, CORTEX_A78AE = 0xd42, CORTEX_X1 = 0xd44,
        CORTEX_A510 = 0xd46, CORTEX_A710 = 0xd47, CORTEX_X2 = 0xd48, NEOVERSE_N2 = 0xd49,
        CORTEX_A78C = 0xd4b, CORTEX_X1C = 0xd4c, CORTEX_A715 = 0xd4d, CORTEX_X3 = 0xd4e,
        NEOVERSE_V2 = 0xd4f, CORTEX_A520 = 0xd80, CORTEX_A720 = 0xd81;
    0x42: // Broadcom
        BRAHMA_B53 = 0x100, VULCAN = 0x516;
    0x43: // Cavium
        THUNDERX2 = 0x0af;
    0x48: // HiSilicon
        TSV110 = 0xd01, HIP09 = 0xd02;
    0x4e: // NVIDIA
        CARMEL = 0x004;
    0x51: // Qualcomm
        KRYO_2XX_GOLD = 0x800, KRYO_2XX_SILVER = 0x801, KRYO_3XX_GOLD = 0x802,
        KRYO_3XX_SILVER = 0x803, KRYO_4XX_GOLD = 0x804, KRYO_4XX_SILVER = 0x805;
    0xc0: // Ampere
        AMPERE1 = 0xac3, AMPERE1A = 0xac4;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn midr_taken_apart() {
        // QEMU's neoverse-n1, r4p1.
        assert_eq!(Model::of(0x414f_d0c1), NEOVERSE_N1);
        assert_eq!(version(0x414f_d0c1), (4, 1));
        assert!(!is_one_of(0x514f_d0c1, &[NEOVERSE_N1]));
    }
}
