//! List registers and the rest of the hypervisor's view of the CPU interface.

/// ICH_LR<n>_EL2.State, "pending" bit.
pub const ICH_LR_PENDING: u64 = 1 << 62;
/// ICH_LR<n>_EL2.State, "active" bit.
pub const ICH_LR_ACTIVE: u64 = 1 << 63;
/// ICH_LR<n>_EL2.HW.
pub const ICH_LR_HW: u64 = 1 << 61;
/// ICH_LR<n>_EL2.Group.
pub const ICH_LR_GROUP: u64 = 1 << 60;
/// ICH_LR<n>_EL2: bit 41 of pINTID, "EOI" when HW is 0.
pub const ICH_LR_EOI: u64 = 1 << 41;
const PRIORITY_SHIFT: u32 = 48;
const PINTID_SHIFT: u32 = 32;
const PINTID_MASK: u64 = 0x1fff;

/// ICH_HCR_EL2.En.
pub const ICH_HCR_EN: u64 = 1 << 0;
/// ICH_HCR_EL2.UIE: tell when at most one list register is valid.
pub const ICH_HCR_UIE: u64 = 1 << 1;
/// ICH_HCR_EL2.LRENPIE: tell when the guest ended what no list register has.
pub const ICH_HCR_LRENPIE: u64 = 1 << 2;
/// ICH_HCR_EL2.NPIE: tell when no list register is pending.
pub const ICH_HCR_NPIE: u64 = 1 << 3;
/// ICH_HCR_EL2.TC, TALL0, TALL1: trap all of the CPU interface's system registers.
pub const ICH_HCR_TRAP_ALL: u64 = 7 << 10;
/// ICH_HCR_EL2.TDIR: trap ICC_DIR_EL1. Reserved where ICH_VTR_EL2.TDS is 0.
pub const ICH_HCR_TDIR: u64 = 1 << 14;
/// ICH_HCR_EL2.EOIcount, its place.
pub const ICH_HCR_EOICOUNT_SHIFT: u32 = 27;
/// ICH_HCR_EL2.EOIcount, its width.
pub const ICH_HCR_EOICOUNT_MASK: u64 = 0x1f;

/// How many list registers the architecture allows.
pub const MAX_LRS: usize = 16;

/// One interrupt in a list register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lr {
    /// With a GICv2's SGI, the CPU that sent it in bits 12 to 10.
    pub intid: u32,
    pub pending: bool,
    pub active: bool,
    /// The physical interrupt that ends with this one.
    pub hw: Option<u16>,
    /// Tell when the guest has ended it.
    pub eoi: bool,
    pub group1: bool,
    pub priority: u8,
}

const INTID_MASK: u32 = 0x3ff;
/// Where GICv2's list registers have who sent an SGI.
pub(crate) const SENDER_SHIFT: u32 = 10;

/// The INTID in a list register. Without LPIs there are 1020 of them.
pub(crate) const fn intid(lr: u64) -> u32 {
    lr as u32 & INTID_MASK
}

/// ICH_LR<n>_EL2.HW and pINTID: the physical interrupt that ends with it.
pub(crate) const fn lr_of_physical(pintid: u16) -> u64 {
    ICH_LR_HW | (pintid as u64 & PINTID_MASK) << PINTID_SHIFT
}

/// ICH_LR<n>_EL2.Priority.
pub(crate) const fn lr_of_priority(priority: u8) -> u64 {
    (priority as u64) << PRIORITY_SHIFT
}

impl Lr {
    /// Who sent it: of a GICv2's SGIs.
    pub fn sender(&self) -> u8 {
        (self.intid >> SENDER_SHIFT) as u8 & 7
    }

    /// As ICH_LR<n>_EL2.
    #[cfg(test)]
    pub fn encode(&self) -> u64 {
        let flag = |on: bool, bit: u64| if on { bit } else { 0 };
        let physical = match self.hw {
            Some(pintid) => lr_of_physical(pintid),
            None => flag(self.eoi, ICH_LR_EOI),
        };
        u64::from(self.intid)
            | physical
            | flag(self.pending, ICH_LR_PENDING)
            | flag(self.active, ICH_LR_ACTIVE)
            | flag(self.group1, ICH_LR_GROUP)
            | lr_of_priority(self.priority)
    }

    /// From ICH_LR<n>_EL2.
    pub fn decode(lr: u64) -> Lr {
        let hw = lr & ICH_LR_HW != 0;
        Lr {
            intid: lr as u32,
            pending: lr & ICH_LR_PENDING != 0,
            active: lr & ICH_LR_ACTIVE != 0,
            hw: hw.then_some(((lr >> PINTID_SHIFT) & PINTID_MASK) as u16),
            eoi: !hw && lr & ICH_LR_EOI != 0,
            group1: lr & ICH_LR_GROUP != 0,
            priority: (lr >> PRIORITY_SHIFT) as u8,
        }
    }
}

/// One vCPU's virtual CPU interface as plain data: what the world switch copies
/// to and from the ICH_* registers, or with other layouts ([`crate::gich`]) to
/// and from a GICv2's GICH_* registers. It belongs to the vCPU; while that runs,
/// the registers are the truth and this is what was last put there.
#[derive(Clone, Debug)]
pub struct ListRegisters {
    /// ICH_LR<n>_EL2.
    pub lr: [u64; MAX_LRS],
    /// `lr[..used]` are in use, the others are zero.
    pub used: u8,
    /// ICH_HCR_EL2. Read it back (for EOIcount) where LRENPIE is set.
    pub hcr: u64,
    /// ICH_VMCR_EL2.
    pub vmcr: u64,
    /// ICH_AP0R<n>_EL2; the first is GICH_APR, too.
    pub ap0r: [u32; 4],
    /// ICH_AP1R<n>_EL2.
    pub ap1r: [u32; 4],
    /// Banks with interrupts that found no list register.
    pub(crate) backlog: u32,
    /// Physical interrupts held active for this vCPU, as of the last sync.
    pub(crate) held: u32,
}

impl Default for ListRegisters {
    fn default() -> Self {
        Self::new()
    }
}

impl ListRegisters {
    /// A CPU interface after reset: all masked, groups disabled.
    pub const fn new() -> Self {
        ListRegisters {
            lr: [0; MAX_LRS],
            used: 0,
            hcr: ICH_HCR_EN,
            vmcr: 0,
            ap0r: [0; 4],
            ap1r: [0; 4],
            backlog: 0,
            held: 0,
        }
    }

    /// The list registers in use.
    pub fn in_use(&self) -> &[u64] {
        self.lr.get(..usize::from(self.used)).unwrap_or(&self.lr)
    }

    /// The same, to read them back.
    pub fn in_use_mut(&mut self) -> &mut [u64] {
        self.lr.get_mut(..usize::from(self.used)).unwrap_or_default()
    }

    /// Whether a maintenance interrupt can come: what `sync` needs to see.
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.used == 0
    }
}
