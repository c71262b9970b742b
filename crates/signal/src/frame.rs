//! arm64's signal frame: struct rt_sigframe { siginfo_t; struct ucontext }
//! (asm/sigcontext.h, asm/ucontext.h; Linux's Documentation/arch/arm64/
//! {sve,elf_hwcaps}.rst describe the records).

use crate::altstack::UserStack;
use crate::info::SigInfo;
use crate::set::SigSet;
use alloc::vec::Vec;
use base::{Errno, Result, room};

/// The size of the frame.
pub const FRAME_SIZE: usize = RESERVED + RESERVED_SIZE;

/// `AT_MINSIGSTKSZ`: the frame, the frame record above it, and alignment.
pub const MIN_STACK_AUX: u64 = FRAME_SIZE as u64 + 32;

// Offsets within the frame.
const UCONTEXT: usize = 128;
const UC_STACK: usize = UCONTEXT + 16;
const UC_SIGMASK: usize = UCONTEXT + 40;
// After the mask there is room for 1024 signals; then the 16-byte aligned
// struct sigcontext.
const SIGCONTEXT: usize = UCONTEXT + 176;
const REGS: usize = SIGCONTEXT + 8;
const SP: usize = REGS + 31 * 8;
const RESERVED: usize = SIGCONTEXT + 288;
const RESERVED_SIZE: usize = 4096;

const FPSIMD_MAGIC: u32 = 0x4650_8001;
const FPSIMD_SIZE: usize = 528;
const ESR_MAGIC: u32 = 0x4553_5201;
const ESR_SIZE: usize = 16;
const RECORD_HEAD: usize = 8;

/// Bits of PSTATE that user space may choose: NZCV, TCO, DIT, SSBS, BTYPE.
const PSTATE_USER: u64 = 0xf300_1c00;
/// PSTATE.M (EL0t and AArch64 are 0) and the masks D, A, I, F: those must be 0.
const PSTATE_MUST_BE_0: u64 = 0x3df;
/// PSTATE.TCO and PSTATE.BTYPE: clear when a handler starts.
const PSTATE_HANDLER_CLEARS: u64 = 0x0200_0c00;
/// PSTATE.SS: single step is the debugger's business.
const PSTATE_SS: u64 = 1 << 21;

/// The SIMD and floating-point registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FpState {
    /// V0 to V31
    pub v: [u128; 32],
    /// FPSR
    pub fpsr: u32,
    /// FPCR
    pub fpcr: u32,
}

/// What a signal interrupts, and sigreturn restores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Context {
    /// X0 to X30
    pub x: [u64; 31],
    /// SP_EL0
    pub sp: u64,
    /// ELR_EL1: where to go on.
    pub pc: u64,
    /// SPSR_EL1
    pub pstate: u64,
    /// SIMD and floating point.
    pub fp: FpState,
    /// The signal mask.
    pub mask: SigSet,
    /// The alternate stack.
    pub stack: UserStack,
}

/// Where a handler starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandlerEntry {
    /// SP_EL0, and where [`bytes`](Self::bytes) go.
    pub sp: u64,
    /// X29: the frame record.
    pub fp: u64,
    /// X1 and X2 for an SA_SIGINFO handler: siginfo_t and ucontext_t.
    pub info: u64,
    /// See [`info`](Self::info).
    pub ucontext: u64,
    /// The frame and the frame record.
    pub bytes: Vec<u8>,
}

/// PSTATE at a handler's start.
pub const fn handler_pstate(pstate: u64) -> u64 {
    pstate & !(PSTATE_HANDLER_CLEARS | PSTATE_SS)
}

/// Builds the frame below `top` (from
/// [`AltStack::frame_top`](crate::AltStack::frame_top)). `fault` has FAR and
/// ESR if a fault of the thread caused the signal. `EFAULT` if there is no
/// address below `top` for it: [`force`](crate::force) SIGSEGV then.
pub fn build_frame(
    top: u64,
    context: &Context,
    info: &SigInfo,
    fault: Option<(u64, u64)>,
) -> Result<HandlerEntry> {
    // The frame record, { x29, x30 } of what was interrupted, for unwinders.
    let record = top.checked_sub(16).ok_or(Errno::EFAULT)? & !15;
    let sp = record.checked_sub(FRAME_SIZE as u64).ok_or(Errno::EFAULT)?;
    let size = FRAME_SIZE.saturating_add(16);
    let mut bytes = room::try_zeros(size)?;

    put(&mut bytes, 0, &info.to_bytes());
    put_words(&mut bytes, UC_STACK, &context.stack.to_words());
    put_words(&mut bytes, UC_SIGMASK, &[context.mask.bits()]);
    put_words(&mut bytes, SIGCONTEXT, &[fault.map_or(0, |(far, _)| far)]);
    put_words(&mut bytes, REGS, &context.x);
    put_words(&mut bytes, SP, &[context.sp, context.pc, context.pstate]);

    let mut at = RESERVED;
    put_words(&mut bytes, at, &[record_head(FPSIMD_MAGIC, FPSIMD_SIZE)]);
    let control = u64::from(context.fp.fpsr) | u64::from(context.fp.fpcr) << 32;
    put_words(&mut bytes, at.saturating_add(8), &[control]);
    for (register, value) in context.fp.v.iter().enumerate() {
        let offset = register.saturating_mul(16).saturating_add(16);
        put(&mut bytes, at.saturating_add(offset), &value.to_le_bytes());
    }
    at = at.saturating_add(FPSIMD_SIZE);
    if let Some((_, esr)) = fault {
        put_words(&mut bytes, at, &[record_head(ESR_MAGIC, ESR_SIZE), esr]);
    }
    // The records end with one of magic 0 and size 0: the bytes are zero.
    let [.., x29, x30] = context.x;
    put_words(&mut bytes, FRAME_SIZE, &[x29, x30]);
    Ok(HandlerEntry { sp, fp: record, info: sp, ucontext: sp.wrapping_add(UCONTEXT as u64), bytes })
}

/// Reads a frame back for rt_sigreturn: `bytes` are [`FRAME_SIZE`] bytes at
/// SP_EL0. User space may have written anything there: `EINVAL` (which becomes
/// SIGSEGV) unless the state is one that EL0 may be in and the records are well
/// formed.
pub fn parse_frame(bytes: &[u8]) -> Result<Context> {
    let frame = bytes.get(..FRAME_SIZE).ok_or(Errno::EINVAL)?;
    let [sp, pc, pstate] = words(frame, SP)?;
    if pstate & PSTATE_MUST_BE_0 != 0 || pstate >> 32 != 0 {
        return Err(Errno::EINVAL);
    }
    let [mask] = words(frame, UC_SIGMASK)?;
    Ok(Context {
        x: words(frame, REGS)?,
        sp,
        pc,
        pstate: pstate & PSTATE_USER,
        fp: parse_records(frame.get(RESERVED..).ok_or(Errno::EINVAL)?)?,
        mask: SigSet::from_bits(mask).blockable(),
        stack: UserStack::from_words(words(frame, UC_STACK)?),
    })
}

/// The records in __reserved: one for FP/SIMD, maybe one for ESR, a terminator.
fn parse_records(mut rest: &[u8]) -> Result<FpState> {
    let mut fp = None;
    // Ends: every record is at least its head.
    loop {
        let [head] = words(rest, 0)?;
        let (magic, size) = (head as u32, (head >> 32) as usize);
        match magic {
            0 if size == 0 => break,
            FPSIMD_MAGIC if size == FPSIMD_SIZE && fp.is_none() => fp = Some(parse_fpsimd(rest)?),
            // Written for information, ignored here.
            ESR_MAGIC if size >= RECORD_HEAD && size.is_multiple_of(16) => {}
            _ => return Err(Errno::EINVAL),
        }
        rest = rest.get(size..).ok_or(Errno::EINVAL)?;
    }
    fp.ok_or(Errno::EINVAL)
}

fn parse_fpsimd(record: &[u8]) -> Result<FpState> {
    let [control] = words(record, 8)?;
    let mut fp =
        FpState { fpsr: control as u32, fpcr: (control >> 32) as u32, ..FpState::default() };
    let values = record.get(16..FPSIMD_SIZE).ok_or(Errno::EINVAL)?.chunks_exact(16);
    for (register, value) in fp.v.iter_mut().zip(values) {
        *register = u128::from_le_bytes(value.try_into().map_err(|_| Errno::EINVAL)?);
    }
    Ok(fp)
}

fn record_head(magic: u32, size: usize) -> u64 {
    u64::from(magic) | (size as u64) << 32
}

fn put(bytes: &mut [u8], at: usize, data: &[u8]) {
    let end = at.saturating_add(data.len());
    if let Some(place) = bytes.get_mut(at..end) {
        place.copy_from_slice(data);
    }
}

fn put_words(bytes: &mut [u8], at: usize, words: &[u64]) {
    for (index, word) in words.iter().enumerate() {
        put(bytes, at.saturating_add(index.saturating_mul(8)), &word.to_le_bytes());
    }
}

fn words<const N: usize>(bytes: &[u8], at: usize) -> Result<[u64; N]> {
    let mut words = [0; N];
    let size = N.saturating_mul(8);
    let bytes = bytes.get(at..at.saturating_add(size)).ok_or(Errno::EINVAL)?;
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().map_err(|_| Errno::EINVAL)?);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::code;
    use crate::set::Signal;
    use proptest::prelude::*;

    fn context() -> Context {
        let mut context = Context {
            sp: 0x7fff_0000,
            pc: 0x40_1000,
            pstate: 0x6000_0000,
            mask: SigSet::only(Signal::SIGINT),
            stack: UserStack { sp: 0x1000, flags: 0, size: 0x4000 },
            ..Context::default()
        };
        for (index, x) in context.x.iter_mut().enumerate() {
            *x = 0x100 + index as u64;
        }
        for (index, v) in context.fp.v.iter_mut().enumerate() {
            *v = 1 << (index * 4);
        }
        context.fp.fpcr = 0x0300_0000;
        context.fp.fpsr = 0x1f;
        context
    }

    fn info() -> SigInfo {
        SigInfo::fault(Signal::SIGSEGV, code::SEGV_MAPERR, 0xdead)
    }

    #[test]
    fn sizes_are_those_of_the_headers() {
        // sizeof(struct rt_sigframe), offsetof(.., uc.uc_mcontext.__reserved).
        assert_eq!((FRAME_SIZE, SIGCONTEXT, RESERVED), (4688, 304, 592));
        assert_eq!(MIN_STACK_AUX, 4720);
    }

    #[test]
    fn round_trip() {
        let entry =
            build_frame(0x7fff_0008, &context(), &info(), Some((0xdead, 0x9200_0046))).unwrap();
        assert_eq!((entry.sp % 16, entry.fp), (0, 0x7ffe_fff0));
        assert_eq!((entry.info, entry.ucontext), (entry.sp, entry.sp + 128));
        assert_eq!(entry.bytes.len(), 4704);
        assert_eq!(entry.bytes[..128], info().to_bytes());
        assert_eq!(words(&entry.bytes, SIGCONTEXT), Ok([0xdead]));
        assert_eq!(words(&entry.bytes, RESERVED + 528 + 8), Ok([0x9200_0046]));
        assert_eq!(words(&entry.bytes, FRAME_SIZE), Ok([0x100 + 29, 0x100 + 30]));
        assert_eq!(parse_frame(&entry.bytes), Ok(context()));
        let quiet = build_frame(0x7fff_0000, &context(), &info(), None).unwrap();
        assert_eq!(parse_frame(&quiet.bytes), Ok(context()));
        assert_eq!(build_frame(100, &context(), &info(), None), Err(Errno::EFAULT));
        assert_eq!(build_frame(4700, &context(), &info(), None), Err(Errno::EFAULT));
    }

    #[test]
    fn nobody_returns_into_the_kernel() {
        let good = build_frame(0x10000, &context(), &info(), None).unwrap().bytes;
        let with_pstate = |pstate: u64| {
            let mut bytes = good.clone();
            put_words(&mut bytes, SP + 16, &[pstate]);
            parse_frame(&bytes).map(|context| context.pstate)
        };
        // EL1h, EL2h, EL1t, AArch32, each of DAIF, bits beyond 32.
        for bad in [5, 9, 4, 0x10, 0x40, 0x80, 0x100, 0x200, 1 << 32] {
            assert_eq!(with_pstate(bad), Err(Errno::EINVAL), "{bad:#x}");
        }
        assert_eq!(with_pstate(0xf000_0000), Ok(0xf000_0000));
        // PAN, UAO, SS, IL, ALLINT are not user space's.
        assert_eq!(with_pstate(0xf3f0_3c00), Ok(0xf300_1c00));
        assert_eq!(handler_pstate(0xf320_1c00), 0xf100_1000);
    }

    #[test]
    fn bad_records() {
        let good = build_frame(0x10000, &context(), &info(), None).unwrap().bytes;
        let with = |at: usize, word: u64| {
            let mut bytes = good.clone();
            put_words(&mut bytes, RESERVED + at, &[word]);
            parse_frame(&bytes).map(|_| ())
        };
        let head = |magic: u32, size: u32| u64::from(magic) | u64::from(size) << 32;
        assert_eq!(with(0, 0), Err(Errno::EINVAL)); // no FP/SIMD
        assert_eq!(with(0, head(FPSIMD_MAGIC, 512)), Err(Errno::EINVAL));
        assert_eq!(with(528, head(FPSIMD_MAGIC, 528)), Err(Errno::EINVAL)); // twice
        assert_eq!(with(528, head(0x5356_4501, 16)), Err(Errno::EINVAL)); // SVE
        assert_eq!(with(528, head(0, 16)), Err(Errno::EINVAL));
        assert_eq!(with(528, head(ESR_MAGIC, 0)), Err(Errno::EINVAL));
        assert_eq!(with(528, head(ESR_MAGIC, 8)), Err(Errno::EINVAL));
        assert_eq!(with(528, head(ESR_MAGIC, 0xffff_fff0)), Err(Errno::EINVAL));
        assert_eq!(with(528, head(ESR_MAGIC, 4096 - 528)), Err(Errno::EINVAL)); // no end
        assert_eq!(with(528, head(ESR_MAGIC, 32)), Ok(()));
        assert_eq!(parse_frame(&good[..FRAME_SIZE - 1]), Err(Errno::EINVAL));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            noise in prop::collection::vec((0usize..FRAME_SIZE, any::<u8>()), 0..40)
        ) {
            let mut bytes = build_frame(0x10000, &context(), &info(), None).unwrap().bytes;
            for (at, byte) in noise {
                bytes[at] = byte;
            }
            if let Ok(context) = parse_frame(&bytes) {
                prop_assert_eq!(context.pstate & !PSTATE_USER, 0);
                prop_assert!(context.mask.and(SigSet::UNCATCHABLE).is_empty());
            }
        }

        #[test]
        fn any_state_round_trips(x: [u64; 31], sp: u64, pc: u64, flags in 0u64..16, top in 8192u64..) {
            let context = Context { x, sp, pc, pstate: flags << 28, ..context() };
            let entry = build_frame(top, &context, &info(), None).unwrap();
            prop_assert!(entry.sp.is_multiple_of(16) && entry.sp + entry.bytes.len() as u64 <= top);
            prop_assert_eq!(parse_frame(&entry.bytes), Ok(context));
        }
    }
}
