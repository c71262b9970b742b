//! What the host kernel at EL1 and `hyp` at EL2 say to each other: calls by
//! HVC, what they share in memory, and where `hyp` lives.
//!
//! * [`Call`]: function identifiers of the SMC Calling Convention, in x0, with
//!   arguments in x1 to x4 and the answer in x0. What isn't known is answered
//!   [`NOT_SUPPORTED`]. [`VERSION`] is checked by both sides.
//! * [`stub`]: the three calls that work without `hyp`, too (Linux's
//!   Documentation/virt/kvm/arm/hyp-abi.rst), so that a next kernel can take
//!   EL2 over.
//! * [`Init`]: what a CPU needs to enter `hyp`; [`Run`]: what a CPU's host and
//!   `hyp` share from then on. Both are reached by physical address.
//! * [`Header`]: how the kernel finds its way in `hyp`'s binary.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, clippy::unwrap_used))]

pub mod layout;
mod policy;
mod ram;

pub use policy::PackedPolicy;
pub use ram::{MAX_RAM, Range, ram_at};

/// Of everything here. Both sides compare.
pub const VERSION: u64 = 4;

/// SMCCC's answer to a function that isn't there.
pub const NOT_SUPPORTED: u64 = -1i64 as u64;
/// An argument is wrong: a pointer outside RAM, a version that isn't ours.
pub const INVALID: u64 = -2i64 as u64;
/// Done.
pub const SUCCESS: u64 = 0;

/// A function of `hyp`: fast, 64-bit, of a vendor-specific hypervisor service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Call {
    /// Before [`Call::Version`]: turns this CPU's MMU on at EL2. x1 = the
    /// physical address of [`Init`].
    Init = 0xc600_0000,
    /// Answers [`VERSION`].
    Version = 0xc600_0001,
    /// Answers ICH_VTR_EL2, or 0 without a GICv3.
    GicType = 0xc600_0002,
    /// Enters the vCPU that this CPU's [`Run`] names; answers an [`exit`]. Leaves a guest's
    /// values in ELR_EL1, SPSR_EL1, ESR_EL1, FAR_EL1, AFSR0_EL1, AFSR1_EL1, PAR_EL1 and
    /// CSSELR_EL1. What the host sets at boot, if at all (VBAR_EL1, MAIR_EL1, AMAIR_EL1,
    /// TTBR1_EL1, TCR_EL1, SCTLR_EL1, CONTEXTIDR_EL1, CNTKCTL_EL1, TPIDRRO_EL0), comes
    /// back as it was at [`Call::Init`].
    Run = 0xc600_0003,
    /// The vCPU leaves this CPU: what is still in registers goes to [`Run`].
    Put = 0xc600_0004,
    /// Forgets translations of a guest on all CPUs. x1 = VMID, x2 = start,
    /// x3 = length (`u64::MAX`: all), x4 = only last-level entries changed.
    FlushGuest = 0xc600_0005,
    /// Forgets translations on this CPU: of the guest with VMID x1, or of all guests where
    /// x1 is 0.
    FlushLocal = 0xc600_0006,
    /// Fails as if by itself, to show that the host hears of it.
    Crash = 0xc600_0007,
}

impl Call {
    /// All there are.
    pub const ALL: [Call; 8] = [
        Call::Init,
        Call::Version,
        Call::GicType,
        Call::Run,
        Call::Put,
        Call::FlushGuest,
        Call::FlushLocal,
        Call::Crash,
    ];

    /// The call with this number.
    pub fn from_number(number: u64) -> Option<Call> {
        Call::ALL.into_iter().find(|call| *call as u64 == number)
    }
}

/// Linux's stub calls. They change x0 only.
pub mod stub {
    /// x1 = the physical address that VBAR_EL2 gets. Not while `hyp` is there: its MMU is
    /// on ([`ERROR`]).
    pub const SET_VECTORS: u64 = 0;
    /// Turns EL2's MMU off and goes to physical x1 at EL2, with x2 to x4 as
    /// its x0 to x2.
    pub const SOFT_RESTART: u64 = 1;
    /// Turns EL2's MMU off and puts the stub's vectors back.
    pub const RESET_VECTORS: u64 = 2;
    /// The answer to any other.
    pub const ERROR: u64 = 0x0bad_ca11;
}

/// Why [`Call::Run`] came back.
pub mod exit {
    /// A synchronous exception; the syndrome is in the context.
    pub const SYNC: u64 = 1;
    /// An interrupt of the host's is pending.
    pub const IRQ: u64 = 1 << 32;
    /// An SError from the guest; ESR_EL2 is in the context.
    pub const SERROR: u64 = 2 << 32;
}

/// [`Init::entry`].
pub mod entry {
    /// At once.
    pub const PLAIN: u64 = 0;
    /// With [`super::Init::loops`] taken branches.
    pub const LOOP: u64 = 1;
    /// With CLRBHB.
    pub const INSTRUCTION: u64 = 2;
    /// With firmware's [`super::Init::function`], then the branches.
    pub const FIRMWARE: u64 = 3;
}

/// What a CPU needs to enter `hyp`, read with the MMU off.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Init {
    /// MAIR_EL2.
    pub mair: u64,
    /// TCR_EL2.
    pub tcr: u64,
    /// TTBR0_EL2.
    pub ttbr0: u64,
    /// SCTLR_EL2.
    pub sctlr: u64,
    /// The end of the CPU's stack, in `hyp`'s addresses.
    pub stack: u64,
    /// [`VERSION`].
    pub version: u64,
    /// The CPU's index, below [`MAX_CPUS`].
    pub cpu: u64,
    /// The CPU's [`Run`], physical.
    pub run: u64,
    /// Where the host hears of a failure of `hyp`'s: an address of its own.
    pub host_panic: u64,
    /// The stub's vectors, physical.
    pub stub_vectors: u64,
    /// 1: there is a GICv3.
    pub gicv3: u64,
    /// What exits from guests begin with on this CPU: an [`entry`].
    pub entry: u64,
    /// Taken branches that fill its branch history.
    pub loops: u64,
    /// Firmware's call that forgets the branch predictor.
    pub function: u64,
    /// All RAM: what the host's pointers may point to.
    pub ram: [Range; MAX_RAM],
}

/// The most CPUs `hyp` serves.
pub const MAX_CPUS: usize = 32;

/// The virtual CPU interface: what stays in ICH_* registers while the guest
/// runs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Gic {
    /// ICH_LR<n>_EL2.
    pub lr: [u64; 16],
    /// `lr[..used]` are in use: read back at each exit.
    pub used: u64,
    /// ICH_HCR_EL2; at exit only EOIcount is updated.
    pub hcr: u64,
    /// ICH_VMCR_EL2.
    pub vmcr: u64,
    /// ICH_MISR_EL2 at exit: reasons for a maintenance interrupt.
    pub misr: u64,
    /// ICH_AP0R<n>_EL2; updated by [`Call::Put`].
    pub ap0r: [u32; 4],
    /// ICH_AP1R<n>_EL2.
    pub ap1r: [u32; 4],
}

/// What `hyp` had in its registers when it failed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Failure {
    /// x0 to x30.
    pub x: [u64; 31],
    /// SP_EL2.
    pub sp: u64,
    /// ELR_EL2.
    pub pc: u64,
    /// SPSR_EL2.
    pub pstate: u64,
    /// ESR_EL2.
    pub esr: u64,
    /// FAR_EL2.
    pub far: u64,
    /// HPFAR_EL2.
    pub hpfar: u64,
    /// Which vector: 0 to 15.
    pub vector: u64,
    /// The line of `hyp`'s source, if it was a broken invariant.
    pub line: u64,
}

/// What a CPU's host and `hyp` share. One of the two has the CPU, so one at a
/// time looks at it.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Run {
    /// The vCPU's `GuestContext`, physical, 64-byte aligned.
    pub context: u64,
    /// VTCR_EL2.
    pub vtcr_el2: u64,
    /// 1: the vCPU is new to this CPU: all of `gic` is written. `hyp` clears it.
    pub load: u64,
    /// How many list registers changed. `hyp` clears it.
    pub lr_write: u64,
    /// Where EL0's FP registers are to be saved before a guest's are loaded,
    /// physical; 0: nothing in them is worth it.
    pub host_fp: u64,
    /// 1: the guest's FP registers are in the hardware.
    pub guest_fp: u64,
    /// 0: there is no GICv3 to switch; the host does it by itself.
    pub gicv3: u64,
    /// Changes whenever `policy` does.
    pub policy_generation: u64,
    /// What the guest's firmware calls may ask for.
    pub policy: PackedPolicy,
    /// The virtual CPU interface.
    pub gic: Gic,
    /// After a failure.
    pub failure: Failure,
}

/// The start of `hyp`'s binary: addresses of its own, [`layout::IMAGE`] first.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// [`Header::MAGIC`].
    pub magic: u64,
    /// [`VERSION`].
    pub version: u64,
    /// The page that runs with the MMU off; its vectors are at its start.
    pub idmap: u64,
    /// The end of that page.
    pub idmap_end: u64,
    /// The end of the code.
    pub text_end: u64,
    /// The end of constants; data follows.
    pub rodata_end: u64,
    /// The end of data; zeros follow.
    pub data_end: u64,
    /// The end.
    pub end: u64,
}

impl Header {
    /// "HyphaHyp".
    pub const MAGIC: u64 = u64::from_le_bytes(*b"HyphaHyp");

    /// The header of `binary`, if it is one this side can use.
    pub fn read(binary: &[u8]) -> Option<Header> {
        let (words, _) = binary.as_chunks();
        let [magic, version, idmap, idmap_end, text_end, rodata_end, data_end, end] =
            words.first_chunk()?.map(u64::from_le_bytes);
        let header =
            Header { magic, version, idmap, idmap_end, text_end, rodata_end, data_end, end };
        let ordered = header.idmap >= layout::IMAGE
            && header.idmap_end > header.idmap
            && header.text_end >= header.idmap_end
            && header.rodata_end >= header.text_end
            && header.data_end >= header.rodata_end
            && header.end >= header.data_end
            && header.end < layout::STACKS;
        let pages = [header.idmap, header.idmap_end, header.text_end, header.rodata_end];
        let aligned = pages.iter().all(|address| address & 0xfff == 0);
        let complete = header.data_end.wrapping_sub(layout::IMAGE) >= binary.len() as u64;
        let ours = header.magic == Header::MAGIC && header.version == VERSION;
        (ours && ordered && aligned && complete).then_some(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn calls_have_distinct_numbers_that_are_no_stub_calls() {
        for (i, call) in Call::ALL.into_iter().enumerate() {
            assert_eq!(Call::from_number(call as u64), Some(call));
            assert!(call as u64 > stub::RESET_VECTORS);
            // Fast, 64-bit, vendor-specific hypervisor service (SMCCC 2.5).
            assert_eq!(call as u64 >> 24, 0xc6);
            assert!(Call::ALL.iter().skip(i + 1).all(|other| *other != call));
        }
        assert_eq!(Call::from_number(0xc600_0008), None);
        assert_eq!(Call::from_number(stub::RESET_VECTORS), None);
        assert_eq!(Call::from_number(NOT_SUPPORTED), None);
    }

    #[test]
    fn exits_are_not_answers() {
        for exit in [exit::SYNC, exit::IRQ, exit::SERROR] {
            assert!(exit != SUCCESS && exit != INVALID && exit != NOT_SUPPORTED);
        }
    }

    #[test]
    fn assembly_finds_what_it_reads_with_the_mmu_off() {
        assert_eq!(offset_of!(Init, mair), 0);
        assert_eq!(offset_of!(Init, ttbr0), 16);
        assert_eq!(offset_of!(Init, stack), 32);
        assert_eq!(offset_of!(Failure, sp), 248);
        assert_eq!(offset_of!(Failure, vector), 296);
    }

    fn header() -> [u64; 8] {
        let at = layout::IMAGE;
        let [a, b, c, d] = [0x1000, 0x2000, 0x5000, 0x6000].map(|offset| at + offset);
        [Header::MAGIC, VERSION, a, b, c, d, at + 0x6100, at + 0x9000]
    }

    fn bytes(words: [u64; 8]) -> [u8; 64] {
        let mut out = [0; 64];
        for (chunk, word) in out.chunks_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        out
    }

    #[test]
    fn a_header_must_make_sense() {
        assert!(Header::read(&bytes(header())).is_some());
        assert!(Header::read(&[]).is_none());
        assert!(Header::read(&bytes(header())[..63]).is_none());
        for (word, value) in [
            (0, 0),
            (1, VERSION + 1),
            (2, layout::IMAGE + 0x1001),
            (3, layout::IMAGE),
            (4, layout::IMAGE),
            (5, layout::IMAGE + 0x5800),
            (6, layout::IMAGE),
            (7, layout::STACKS),
        ] {
            let mut words = header();
            words[word] = value;
            assert!(Header::read(&bytes(words)).is_none(), "{word}");
        }
    }
}
