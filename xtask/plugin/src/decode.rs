//! What instructions, registers and call backs' data say. Nothing of QEMU is in it, so
//! that it has tests.

pub const OPEN: u16 = 0x6801;
pub const OPEN_TO_STAMP: u16 = 0x6802;
pub const CLOSE: u16 = 0x6803;
pub const STAMP: u16 = 0x6804;
pub const COUNT: u16 = 0x6805;
pub const OPEN_ASLEEP: u16 = 0x6806;

pub const WFE: u32 = 0xd503_205f;
pub const WFI: u32 = 0xd503_207f;
pub const ERET: u32 = 0xd69f_03e0;
pub const ERETAA: u32 = 0xd69f_0bff;
pub const ERETAB: u32 = 0xd69f_0fff;

/// A block of instructions in a call back's data: how many, and the address of
/// the first (the lower 48 bits, enough to tell how far an exception's is away).
#[derive(Clone, Copy)]
pub struct Block(pub u64);

impl Block {
    const ADDRESS: u64 = (1 << 48) - 1;

    pub fn new(at: u64, len: usize) -> Self {
        Self((len as u64) << 48 | at & Self::ADDRESS)
    }

    pub fn instructions(self) -> u64 {
        self.0 >> 48
    }

    /// How far it is above an address.
    pub fn offset_from(self, base: u64) -> u64 {
        (self.0 & Self::ADDRESS).wrapping_sub(base & Self::ADDRESS)
    }

    /// How many of its instructions did not execute, if an exception came that
    /// returns to `elr`.
    pub fn cut(self, elr: u64) -> u64 {
        let len = self.instructions();
        let executed = ((elr & Self::ADDRESS).wrapping_sub(self.0 & Self::ADDRESS) as i64) / 4;
        // Otherwise it is an interrupt, which comes between blocks.
        len.saturating_sub(u64::try_from(executed).unwrap_or(len))
    }
}

/// An instruction in a call back's data: its opcode or mark, and how many of its
/// block's instructions come from here on, itself included.
#[derive(Clone, Copy)]
pub struct Place(pub u64);

impl Place {
    pub fn new(what: u32, left: usize) -> Self {
        Self((left as u64) << 32 | u64::from(what))
    }

    pub fn what(self) -> u32 {
        self.0 as u32
    }

    pub fn left(self) -> u64 {
        self.0 >> 32
    }
}

/// Why a guest exited.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exit {
    pub vector: u16,
    pub syndrome: u32,
    pub function: u32,
}

impl Exit {
    /// The vectors for exceptions from a lower level in AArch64 (D1.3.1.5): synchronous,
    /// IRQ, FIQ, SError.
    pub fn is_vector(offset: u64) -> bool {
        matches!(offset, 0x400 | 0x480 | 0x500 | 0x580)
    }

    /// Without what says which register, and where (D24.2.40).
    pub fn new(vector: u16, esr: u32, w0: u32) -> Self {
        if vector != 0x400 {
            return Self { vector, syndrome: 0, function: 0 };
        }
        match esr >> 26 {
            // HVC, SMC.
            0x16 | 0x17 => Self { vector, syndrome: esr, function: w0 },
            // MSR, MRS and system instructions: not Rt.
            0x18 => Self { vector, syndrome: esr & !0x3e0, function: 0 },
            // Aborts: ISV, WnR and the status.
            0x20 | 0x24 => Self { vector, syndrome: esr & 0xfd00_007f, function: 0 },
            // WFI and WFE: which.
            0x01 => Self { vector, syndrome: esr & 0xfc00_0003, function: 0 },
            _ => Self { vector, syndrome: esr & 0xfc00_0000, function: 0 },
        }
    }
}

/// While this is HCR_EL2, is a guest below? Its interrupts are routed to EL2 (IMO), and EL0 is
/// not the host's (TGE).
pub fn is_guests(hcr: u64) -> bool {
    hcr & 1 << 4 != 0 && hcr & 1 << 27 == 0
}

/// Does an ERET with these lead into a guest? A hypervisor returns to itself as well, from
/// its own interrupts.
pub fn enters_guest(cpsr: u64, spsr: u64, hcr: u64) -> bool {
    exception_level(cpsr) == 2 && exception_level(spsr) < 2 && is_guests(hcr)
}

/// Of a PSTATE or SPSR.
pub fn exception_level(pstate: u64) -> u64 {
    pstate >> 2 & 3
}

/// HVC, SMC, SVC, BRK; MSR, MRS, SYS, barriers, WFE, WFI; ERET and its kin.
pub fn is_interesting(opcode: u32) -> bool {
    if opcode & 0xffff_f01f == 0xd503_201f {
        return opcode == WFE || opcode == WFI;
    }
    opcode >> 24 == 0xd4 || opcode >> 22 == 0xd5 << 2 || matches!(opcode, ERET | ERETAA | ERETAB)
}

/// The n of `movz xzr, #n`.
pub fn mark(opcode: u32) -> Option<u16> {
    let n = (opcode >> 5) as u16;
    (opcode & 0xffe0_001f == 0xd280_001f && (OPEN..=OPEN_ASLEEP).contains(&n)).then_some(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOP: u32 = 0xd503_201f;

    #[test]
    fn what_an_abort_cuts_off() {
        let block = Block::new(0xffff_8000_8000_1000, 8);
        assert_eq!((block.instructions(), block.offset_from(0xffff_8000_8000_0800)), (8, 0x800));
        // The third instruction aborted: it and what follows did not execute.
        assert_eq!(block.cut(0xffff_8000_8000_1008), 6);
        assert_eq!(block.cut(0xffff_8000_8000_1000), 8);
        // An interrupt after the block returns to what follows it, or to anywhere.
        assert_eq!(block.cut(0xffff_8000_8000_1020), 0);
        assert_eq!(block.cut(0xffff_8000_8000_0ffc), 0);
        assert_eq!(block.cut(0x40_0000), 0);
    }

    #[test]
    fn a_place_holds_both() {
        let place = Place::new(ERET, 512);
        assert_eq!((place.what(), place.left()), (ERET, 512));
    }

    #[test]
    fn marks_are_movz_of_six_numbers() {
        let movz = |n: u16, register: u32| 0xd280_0000 | u32::from(n) << 5 | register;
        for n in OPEN..=OPEN_ASLEEP {
            assert_eq!(mark(movz(n, 31)), Some(n));
            assert_eq!(mark(movz(n, 0)), None);
        }
        assert_eq!(mark(movz(OPEN - 1, 31)), None);
        assert_eq!(mark(movz(OPEN_ASLEEP + 1, 31)), None);
        assert_eq!(mark(NOP), None);
    }

    #[test]
    fn system_instructions() {
        // HVC #0, SVC #0, MRS x0 HCR_EL2, MSR DAIFSet, DSB SY, TLBI VMALLE1.
        let some = [0xd400_0002, 0xd400_0001, 0xd53c_1100, 0xd503_42df, 0xd503_3f9f, 0xd508_871f];
        for opcode in some.into_iter().chain([WFE, WFI, ERET, ERETAA, ERETAB]) {
            assert!(is_interesting(opcode), "{opcode:#x}");
        }
        // NOP, YIELD, RET, BR x0, MOV x0 x1.
        for opcode in [NOP, 0xd503_203f, 0xd65f_03c0, 0xd61f_0000, 0xaa01_03e0] {
            assert!(!is_interesting(opcode), "{opcode:#x}");
        }
    }

    #[test]
    fn exits_by_what_they_have_in_common() {
        // MRS of CTR_EL0 to x0 and to x9.
        let ctr = |rt: u32| Exit::new(0x400, 0x6232_c001 | rt << 5, 7);
        assert!(ctr(0) == ctr(9) && ctr(0).function == 0);
        // Another register, and a write.
        assert!(
            ctr(0) != Exit::new(0x400, 0x6232_c003, 0)
                && ctr(0) != Exit::new(0x400, 0x6232_c000, 0)
        );
        // HVCs differ by their function.
        let hvc = |w0| Exit::new(0x400, 0x5a00_0000, w0);
        assert!(hvc(0x8400_0000) != hvc(0x8400_0001));
        // Stores of x1 and of x2 that abort alike; a load.
        let abort = |srt: u32, wnr: u32| Exit::new(0x400, 0x9380_0007 | srt << 16 | wnr << 6, 0);
        assert!(abort(1, 1) == abort(2, 1) && abort(1, 1) != abort(1, 0));
        // WFI and WFE, conditional or not.
        assert!(Exit::new(0x400, 0x07e0_0000, 0) == Exit::new(0x400, 0x0600_0000, 0));
        assert!(Exit::new(0x400, 0x0600_0000, 0) != Exit::new(0x400, 0x0600_0001, 0));
        // An interrupt finds an old syndrome.
        assert!(Exit::new(0x480, 0x5a00_0000, 1) == Exit::new(0x480, 0, 2));
        assert!(Exit::is_vector(0x480) && !Exit::is_vector(0x200) && !Exit::is_vector(0x600));
    }

    #[test]
    fn guests_are_entered_from_el2() {
        const IMO: u64 = 1 << 4;
        const GUEST: u64 = IMO | 1;
        const HOST: u64 = 1 << 34 | 1 << 27;
        let (el2h, el1h, el0) = (9, 5, 0);
        assert!(enters_guest(el2h, el1h, GUEST) && enters_guest(el2h, el0, GUEST));
        // A hypervisor's own interrupt returns; a kernel's ERET at EL1; EL0 of a host.
        assert!(!enters_guest(el2h, el2h, GUEST));
        assert!(!enters_guest(el1h, el0, GUEST));
        assert!(!enters_guest(el2h, el0, HOST) && !enters_guest(el2h, el0, HOST | GUEST));
        // Protected KVM's host has a stage 2 (VM), but its interrupts itself.
        assert!(!enters_guest(el2h, el1h, 1 << 31 | 1 << 19 | 1));
        assert!(enters_guest(el2h, el1h, 1 << 31 | IMO));
    }
}
