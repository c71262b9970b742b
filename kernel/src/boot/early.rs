//! With the MMU off: choose the mode, patch the host registers, build the
//! first translation tables.
//!
//! Memory is Device here: no atomics, no unaligned accesses, so no `memcpy` of
//! odd sizes, no string comparison through `memcmp`. Bytes are read one by one.
#![expect(unsafe_code, reason = "raw memory before there is anything else")]

use arch::host::Patch;
use arch::map::Mapper;
use arch::regime::{Attributes, MAIR, Regime};
use bootargs::{EarlyArgs, EarlyMode, KvmMode};
use core::cell::UnsafeCell;
use mode::{Choice, Facts, Place, Requested};

/// What the assembly in head.s needs to turn the MMU on, here and on every
/// secondary CPU, and what was decided on the way.
#[repr(C)]
pub struct BootPlan {
    /// An `arch::regime::Regime`.
    pub regime: Regime,
    /// MAIR.
    pub mair: u64,
    /// TCR.
    pub tcr: u64,
    /// SCTLR, with the MMU on.
    pub sctlr: u64,
    /// The identity map of the Image (for E2H=0: the kernel's map).
    pub ttbr0: u64,
    /// The kernel's map; unused at E2H=0.
    pub ttbr1: u64,
    /// From physical addresses to the linear map.
    pub offset: u64,
    /// Where the Image lies.
    pub image: u64,
    /// The mode, and why.
    pub choice: Choice,
    /// What it was chosen from.
    pub facts: Facts,
}

const TABLES: usize = 64;

/// How many of them are in use. Plain loads and stores only: exclusives need
/// Normal memory.
static USED: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);

#[repr(C, align(4096))]
struct Early {
    tables: UnsafeCell<[[u64; 512]; TABLES]>,
    plan: UnsafeCell<core::mem::MaybeUninit<BootPlan>>,
}

// SAFETY: used by the boot CPU alone, before any other is started.
unsafe impl Sync for Early {}

static EARLY: Early = Early {
    tables: UnsafeCell::new([[0; 512]; TABLES]),
    plan: UnsafeCell::new(core::mem::MaybeUninit::uninit()),
};

unsafe extern "C" {
    static __image_end: u8;
    static __hostpatch_el2_start: Patch;
    static __hostpatch_el2_end: Patch;
    static __hostpatch_e2h0_start: Patch;
    static __hostpatch_e2h0_end: Patch;
}

/// Called by head.s once, on the boot CPU: MMU off, bss zero, relocated to
/// where the Image lies.
#[unsafe(no_mangle)]
extern "C" fn hypha_early(device_tree: u64, image: u64) -> *const BootPlan {
    let (line, has_domains) = read_chosen(device_tree);
    let arguments = EarlyArgs::read(line.len, |index| line.at(index));
    let entered_at = arch::sysreg::exception_level();
    let facts = Facts {
        entered_at: entered_at as u8,
        cpu_has_vhe: arch::cpu::has_vhe(),
        e2h_is_res1: entered_at == 2 && e2h_is_res1(),
        build_has_vhe: cfg!(feature = "vhe"),
        build_has_hyp: crate::hyp::is_built(),
        vhe_hidden: arguments.vhe_hidden,
        requested: if cfg!(feature = "user-space") { requested(arguments.mode) } else { Requested::NoUserSpace },
        has_domains,
    };
    let choice = mode::choose(&facts);
    let regime = match choice.place {
        Place::El1 => Regime::El1,
        Place::El2Vhe => Regime::El2Vhe,
        Place::El2 => Regime::El2,
    };
    patch(regime);

    let offset = regime.linear_offset();
    let mut pages = take_table;
    let identity = pages().unwrap_or(0);
    let high = if offset == 0 { identity } else { pages().unwrap_or(0) };
    let image_end = (&raw const __image_end) as u64;
    let start = image & !BLOCK_MASK;
    let len = image_end.wrapping_add(BLOCK_MASK) & !BLOCK_MASK;
    let len = len.wrapping_sub(start);
    let tree = device_tree & !BLOCK_MASK;
    // SAFETY: the tables are in our bss, reachable at their physical address.
    let mut map = |root, offset: u64, phys: u64, len| unsafe {
        Mapper::new(root, 0, regime, &mut pages).map(
            phys.wrapping_add(offset),
            phys,
            len,
            Attributes::Boot,
        )
    };
    // A failure leaves something unmapped; the fault that follows is all that
    // can be told before there is a console.
    let _ = map(identity, 0, start, len);
    if offset != 0 {
        let _ = map(high, offset, start, len);
    }
    // The device tree is at most 2 MiB long (booting.rst) but may straddle.
    for block in [tree, tree.wrapping_add(BLOCK_MASK.wrapping_add(1))] {
        let _ = map(high, offset, block, BLOCK_MASK.wrapping_add(1));
    }

    let plan = BootPlan {
        regime,
        mair: MAIR,
        tcr: arch::map::tcr(regime),
        sctlr: arch::map::sctlr(regime),
        ttbr0: identity,
        ttbr1: high,
        offset,
        image,
        choice,
        facts,
    };
    // SAFETY: we are alone; the cell outlives everything. What was written
    // with the caches off must not be shadowed by stale lines later.
    unsafe {
        let place = EARLY.plan.get().cast::<BootPlan>();
        place.write(plan);
        arch::cache::clean_to_poc(start as usize, len as usize);
        place
    }
}

const BLOCK_MASK: u64 = (2 << 20) - 1;

fn patch(regime: Regime) {
    // SAFETY: the linker script delimits the tables that the macros filled;
    // with the MMU off all code is writable, and no other CPU runs.
    unsafe {
        if regime != Regime::El1 {
            arch::host::apply_patches(&raw const __hostpatch_el2_start, &raw const __hostpatch_el2_end);
        }
        if regime == Regime::El2 {
            arch::host::apply_patches(
                &raw const __hostpatch_e2h0_start,
                &raw const __hostpatch_e2h0_end,
            );
        }
    }
}

/// Whether HCR_EL2.E2H can't be cleared: tries, and looks at what that did. At
/// EL2, MMU off: harmless.
fn e2h_is_res1() -> bool {
    let (hcr, far): (u64, u64);
    let mark = 0x5a5a_0000u64;
    // SAFETY: boot writes HCR_EL2 for good afterwards; with the MMU off, the
    // regime makes no difference to this code, and nobody needs the two FARs.
    unsafe {
        core::arch::asm!(
            "msr hcr_el2, {rw}", "isb", "mrs {hcr}, hcr_el2",
            "msr far_el2, {mark}", "msr far_el1, xzr", "isb", "mrs {far}, far_el2",
            rw = in(reg) 1u64 << 31, mark = in(reg) mark, hcr = out(reg) hcr, far = out(reg) far,
            options(nostack)
        );
    }
    mode::e2h_is_res1(arch::sysreg::id_aa64mmfr4_el1(), hcr, far != mark)
}

fn requested(mode: EarlyMode) -> Requested {
    match mode {
        EarlyMode::Absent => Requested::Absent,
        EarlyMode::Unknown => Requested::Unknown,
        EarlyMode::Mode(KvmMode::Vhe) => Requested::Vhe,
        EarlyMode::Mode(KvmMode::Nvhe) => Requested::Nvhe,
        EarlyMode::Mode(KvmMode::Protected) => Requested::Protected,
        EarlyMode::Mode(KvmMode::Nested) => Requested::Nested,
        EarlyMode::Mode(KvmMode::Type1) => Requested::Type1,
        EarlyMode::Mode(KvmMode::None) => Requested::None,
    }
}

/// Bytes in memory that nobody else writes now, read one at a time.
#[derive(Clone, Copy)]
struct Bytes {
    start: u64,
    len: u64,
}

impl Bytes {
    fn at(&self, index: u64) -> u8 {
        if index >= self.len {
            return 0;
        }
        let address = self.start.wrapping_add(index) as usize;
        // SAFETY: within a device tree that the boot loader vouches for
        // (booting.rst: at most 2 MiB, in RAM).
        unsafe { core::ptr::with_exposed_provenance::<u8>(address).read_volatile() }
    }

    fn word(&self, index: u64) -> u32 {
        (0..4).fold(0, |word, i| word << 8 | u32::from(self.at(index.wrapping_add(i))))
    }

    fn matches(&self, at: u64, text: &[u8]) -> bool {
        text.iter().zip(at..).all(|(&byte, i)| self.at(i) == byte)
    }
}

/// Of `/chosen` in the flattened device tree (Devicetree Specification 5.4):
/// `bootargs`, or nothing; whether it has virtual machines.
fn read_chosen(device_tree: u64) -> (Bytes, bool) {
    const MAX: u64 = 2 << 20;
    let mut bootargs = Bytes { start: device_tree, len: 0 };
    let mut has_domains = false;
    let header = Bytes { start: device_tree, len: 40 };
    if device_tree & 7 != 0 || device_tree == 0 || header.word(0) != 0xd00d_feed {
        return (bootargs, false);
    }
    let total = u64::from(header.word(4)).min(MAX);
    let tree = Bytes { start: device_tree, len: total };
    let strings = u64::from(header.word(12));
    let mut at = u64::from(header.word(8));
    let mut depth = 0u32;
    let mut in_chosen = false;
    while at < total {
        let token = tree.word(at);
        at = at.wrapping_add(4);
        match token {
            // FDT_BEGIN_NODE
            1 => {
                depth = depth.wrapping_add(1);
                if depth == 2 {
                    in_chosen = tree.matches(at, b"chosen\0");
                }
                while at < total && tree.at(at) != 0 {
                    at = at.wrapping_add(1);
                }
                at = at.wrapping_add(4) & !3;
            }
            // FDT_END_NODE
            2 => {
                if depth == 2 {
                    in_chosen = false;
                }
                depth = depth.wrapping_sub(1);
            }
            // FDT_PROP
            3 => {
                let len = u64::from(tree.word(at));
                let name = strings.wrapping_add(u64::from(tree.word(at.wrapping_add(4))));
                let value = at.wrapping_add(8);
                if in_chosen && depth == 2 && tree.matches(name, b"bootargs\0") {
                    let start = device_tree.wrapping_add(value);
                    let rest = total.saturating_sub(value);
                    bootargs = Bytes { start, len: len.saturating_sub(1).min(rest) };
                }
                if in_chosen && depth == 3 && tree.matches(name, b"compatible\0") {
                    has_domains |= tree.matches(value, b"xen,domain\0");
                }
                at = value.wrapping_add(len).wrapping_add(3) & !3;
            }
            // FDT_NOP
            4 => {}
            _ => break,
        }
    }
    (bootargs, has_domains)
}

/// A page for a translation table, zeroed; None when the pool is used up.
/// For the boot CPU, before it starts others.
pub fn take_table() -> Option<u64> {
    let used = USED.load(core::sync::atomic::Ordering::Relaxed);
    if used >= TABLES as u64 {
        return None;
    }
    USED.store(used.wrapping_add(1), core::sync::atomic::Ordering::Relaxed);
    // Before the MMU is on, addresses are physical and the offset is 0.
    let tables = crate::memory::virt_to_phys(EARLY.tables.get() as u64);
    Some(tables.wrapping_add(used.wrapping_mul(4096)))
}
