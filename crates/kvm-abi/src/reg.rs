//! KVM_GET/SET_ONE_REG's register ids.

/// KVM_REG_ARM64.
pub const ARM64: u64 = 0x6000_0000_0000_0000;
/// The architecture, and what lies between it and the register; not its size.
pub const ARCH_MASK: u64 = 0xff0f_ffff_0000_0000;
pub const SIZE_MASK: u64 = 0x00f0_0000_0000_0000;
pub const SIZE_U32: u64 = 0x0020_0000_0000_0000;
pub const SIZE_U64: u64 = 0x0030_0000_0000_0000;
pub const SIZE_U128: u64 = 0x0040_0000_0000_0000;

pub const COPROC_MASK: u64 = 0x0fff_0000;
/// Above the group of registers.
pub const UNUSED_MASK: u64 = 0xf000_0000;
pub const CORE: u64 = 0x10 << 16;
pub const DEMUX: u64 = 0x11 << 16;
pub const SYSREG: u64 = 0x13 << 16;
pub const FW: u64 = 0x14 << 16;
pub const SVE: u64 = 0x15 << 16;
pub const FW_FEAT_BMAP: u64 = 0x16 << 16;

/// The bytes a register has.
pub const fn size(id: u64) -> usize {
    1 << ((id & SIZE_MASK) >> 52)
}

/// Indices into `struct kvm_regs`, in units of 32 bits.
pub mod core {
    /// x0; each register takes two.
    pub const X0: u64 = 0;
    pub const SP: u64 = 62;
    pub const PC: u64 = 64;
    pub const PSTATE: u64 = 66;
    pub const SP_EL1: u64 = 68;
    pub const ELR_EL1: u64 = 70;
    /// SPSR_EL1, then those of AArch32's abt, und, irq and fiq.
    pub const SPSR: u64 = 72;
    pub const SPSR_COUNT: u64 = 5;
    /// v0, aligned to 16 bytes; each register takes four.
    pub const V0: u64 = 84;
    pub const FPSR: u64 = 212;
    pub const FPCR: u64 = 213;
    /// The size of the structure.
    pub const WORDS: u64 = 216;
}

/// A system register's id.
pub const fn sysreg(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> u64 {
    ARM64
        | SIZE_U64
        | SYSREG
        | ((op0 as u64 & 3) << 14)
        | ((op1 as u64 & 7) << 11)
        | ((crn as u64 & 15) << 7)
        | ((crm as u64 & 15) << 3)
        | (op2 as u64 & 7)
}

/// The encoding (op0, op1, CRn, CRm, op2) in a system register's id.
pub const fn encoding(id: u64) -> (u8, u8, u8, u8, u8) {
    (
        (id >> 14) as u8 & 3,
        (id >> 11) as u8 & 7,
        (id >> 7) as u8 & 15,
        (id >> 3) as u8 & 15,
        id as u8 & 7,
    )
}

/// A core register's id.
pub const fn core_reg(size: u64, index: u64) -> u64 {
    ARM64 | size | CORE | index
}

// The virtual timer's counter and compare value are swapped against the
// registers' encodings: an old mistake that became ABI.
pub const TIMER_CTL: u64 = sysreg(3, 3, 14, 3, 1);
pub const TIMER_CVAL: u64 = sysreg(3, 3, 14, 0, 2);
pub const TIMER_CNT: u64 = sysreg(3, 3, 14, 3, 2);
pub const PTIMER_CTL: u64 = sysreg(3, 3, 14, 2, 1);
pub const PTIMER_CVAL: u64 = sysreg(3, 3, 14, 2, 2);
pub const PTIMER_CNT: u64 = sysreg(3, 3, 14, 0, 1);

pub const fn fw(n: u64) -> u64 {
    ARM64 | SIZE_U64 | FW | n
}
pub const PSCI_VERSION: u64 = fw(0);
pub const SMCCC_ARCH_WORKAROUND_1: u64 = fw(1);
pub const SMCCC_ARCH_WORKAROUND_2: u64 = fw(2);
pub const SMCCC_ARCH_WORKAROUND_3: u64 = fw(3);

pub const fn fw_bmap(n: u64) -> u64 {
    ARM64 | SIZE_U64 | FW_FEAT_BMAP | n
}
pub const STD_BMAP: u64 = fw_bmap(0);
pub const STD_HYP_BMAP: u64 = fw_bmap(1);
pub const VENDOR_HYP_BMAP: u64 = fw_bmap(2);

/// A cache's CCSIDR, selected by a value of CSSELR_EL1.
pub const fn ccsidr(csselr: u8) -> u64 {
    ARM64 | SIZE_U32 | DEMUX | csselr as u64
}
