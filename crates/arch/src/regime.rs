//! Which translation regime the host's code runs in.

/// The exception level and translation regime of the host kernel: decided once
/// at boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Regime {
    /// EL1, regime EL1&0: TTBR0 and TTBR1, ASIDs.
    El1 = 0,
    /// EL2 with HCR_EL2.E2H=1 and TGE=1 (VHE), regime EL2&0.
    El2Vhe = 1,
    /// EL2 with HCR_EL2.E2H=0, regime EL2: one range, no ASIDs, no EL0.
    El2 = 2,
}

impl Regime {
    /// Whether there is an upper half (TTBR1) and an EL0 in this regime.
    pub fn has_el0(self) -> bool {
        self != Regime::El2
    }

    /// The exception level of the host kernel.
    pub fn exception_level(self) -> u32 {
        match self {
            Regime::El1 => 1,
            Regime::El2Vhe | Regime::El2 => 2,
        }
    }

    /// Where kernel stacks are mapped (kernel/src/stack.rs): the last 512 GiB of
    /// the kernel's range. RAM that would be there in the linear map isn't used.
    pub fn stack_area(self) -> u64 {
        self.linear_offset().wrapping_add(STACKS)
    }

    /// Offset from physical addresses to the linear map. Regimes with an upper
    /// half keep the kernel there; EL2's only range is the lower one, where
    /// the map is the identity.
    pub fn linear_offset(self) -> u64 {
        match self {
            Regime::El1 | Regime::El2Vhe => 0xffff_0000_0000_0000,
            Regime::El2 => 0,
        }
    }
}

/// Where stacks begin, from the start of the linear map.
pub const STACKS: u64 = 0xff80_0000_0000;

/// Memory attributes by index, for MAIR: 0 Normal write-back, 1 Device-nGnRE,
/// 2 Normal non-cacheable.
pub const MAIR: u64 = 0x44_04_ff;

/// A stage-1 leaf descriptor's attributes in the host's regime (Arm ARM D8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attributes {
    /// Kernel code: read, execute.
    Code,
    /// Kernel constants: read.
    ReadOnly,
    /// Kernel data and all other RAM: read, write.
    Data,
    /// Device registers: read, write, Device-nGnRE.
    Device,
    /// Code and data alike, for the moments before the final map is in force.
    Boot,
}

impl Attributes {
    /// The descriptor bits other than address and type.
    pub fn bits(self, regime: Regime) -> u64 {
        const AF: u64 = 1 << 10;
        const INNER_SHAREABLE: u64 = 3 << 8;
        const READ_ONLY: u64 = 2 << 6;
        const PXN: u64 = 1 << 53;
        const UXN_OR_XN: u64 = 1 << 54;
        // EL2's regime has one privilege level: AP[1] is RES1, bit 54 is XN,
        // bit 53 is RES0. The others keep EL0 out: UXN always.
        let (base, no_execute) = match regime {
            Regime::El2 => (AF | 1 << 6, UXN_OR_XN),
            Regime::El1 | Regime::El2Vhe => (AF | UXN_OR_XN, PXN),
        };
        let normal = base | INNER_SHAREABLE;
        match self {
            Attributes::Code => normal | READ_ONLY,
            Attributes::ReadOnly => normal | READ_ONLY | no_execute,
            Attributes::Data => normal | no_execute,
            Attributes::Device => base | 1 << 2 | no_execute,
            Attributes::Boot => normal,
        }
    }
}
