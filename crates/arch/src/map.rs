//! The kernel's own translation tables: built once at boot, before there is a
//! frame allocator, in whichever regime the host runs.
//!
//! Four levels, 4 KiB granule, 48 bits (Arm ARM D8.2). A mapping uses the
//! largest block that alignment allows.

use crate::regime::{Attributes, Regime};

const VALID: u64 = 1;
const TABLE_OR_PAGE: u64 = 2;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// Why a mapping could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// No page left for a table.
    OutOfTables,
    /// Something else is mapped there.
    Occupied,
    /// Addresses or length are not multiples of 4 KiB.
    Misaligned,
}

/// Writes translation tables that live at `table address + offset`.
pub struct Mapper<'a> {
    root: u64,
    /// From a table's physical address to where we can write it now.
    offset: u64,
    regime: Regime,
    /// Hands out zeroed, page-aligned pages by physical address.
    pages: &'a mut dyn FnMut() -> Option<u64>,
}

impl<'a> Mapper<'a> {
    /// Edits the tables below `root`.
    ///
    /// # Safety
    /// `root`, every table below it, and every page from `pages` are mapped,
    /// writable and nobody else's at their physical address plus `offset`.
    pub unsafe fn new(
        root: u64,
        offset: u64,
        regime: Regime,
        pages: &'a mut dyn FnMut() -> Option<u64>,
    ) -> Self {
        Mapper { root, offset, regime, pages }
    }

    /// Maps `[virt, virt + len)` to `[phys, phys + len)`. New entries only:
    /// what is mapped already stays and is an error.
    pub fn map(
        &mut self,
        virt: u64,
        phys: u64,
        len: u64,
        attributes: Attributes,
    ) -> Result<(), MapError> {
        if (virt | phys | len) & 0xfff != 0 {
            return Err(MapError::Misaligned);
        }
        let (mut virt, mut phys, mut left) = (virt, phys, len);
        while left > 0 {
            let step = self.map_one(virt, phys, left, attributes)?;
            virt = virt.wrapping_add(step);
            phys = phys.wrapping_add(step);
            left = left.wrapping_sub(step);
        }
        Ok(())
    }

    fn map_one(
        &mut self,
        virt: u64,
        phys: u64,
        left: u64,
        attributes: Attributes,
    ) -> Result<u64, MapError> {
        let mut table = self.root;
        let mut shift = 39u32;
        loop {
            let size = 1u64 << shift;
            let index = (virt >> shift) & 511;
            let entry = self.entry(table, index);
            let fits = shift <= 30 && left >= size && (virt | phys) & size.wrapping_sub(1) == 0;
            if fits && entry & VALID == 0 {
                let kind = if shift == 12 { VALID | TABLE_OR_PAGE } else { VALID };
                self.set_entry(table, index, phys | kind | attributes.bits(self.regime));
                return Ok(size);
            }
            if shift == 12 {
                return Err(MapError::Occupied);
            }
            if entry & VALID == 0 {
                let page = (self.pages)().ok_or(MapError::OutOfTables)?;
                self.set_entry(table, index, page | VALID | TABLE_OR_PAGE);
                table = page;
            } else if entry & TABLE_OR_PAGE != 0 {
                table = entry & ADDRESS;
            } else {
                return Err(MapError::Occupied);
            }
            shift = shift.wrapping_sub(9);
        }
    }

    /// The physical address that `virt` is mapped to, if it is mapped.
    pub fn lookup(&self, virt: u64) -> Option<u64> {
        let (table, shift) = self.leaf(virt)?;
        let inside = (1u64 << shift).wrapping_sub(1);
        let entry = self.entry(table, virt >> shift & 511);
        Some((entry & ADDRESS & !inside) | (virt & inside))
    }

    /// Unmaps the page at `virt`; what it was mapped to. Blocks stay as they
    /// are. Whoever may have used the mapping forgets it by a TLB invalidation.
    pub fn unmap_page(&mut self, virt: u64) -> Option<u64> {
        let (table, 12) = self.leaf(virt)? else { return None };
        let index = virt >> 12 & 511;
        let phys = self.entry(table, index) & ADDRESS;
        self.set_entry(table, index, 0);
        Some(phys)
    }

    /// The table that holds the valid leaf for `virt`, and the log2 of how much
    /// the leaf maps.
    fn leaf(&self, virt: u64) -> Option<(u64, u32)> {
        let mut table = self.root;
        for shift in [39u32, 30, 21, 12] {
            let entry = self.entry(table, virt >> shift & 511);
            match entry & (VALID | TABLE_OR_PAGE) {
                VALID => return Some((table, shift)),
                3 if shift == 12 => return Some((table, shift)),
                3 => table = entry & ADDRESS,
                _ => return None,
            }
        }
        None
    }

    fn slot(&self, table: u64, index: u64) -> *mut u64 {
        let address = table.wrapping_add(self.offset).wrapping_add(index.wrapping_mul(8));
        core::ptr::with_exposed_provenance_mut(address as usize)
    }

    fn entry(&self, table: u64, index: u64) -> u64 {
        // SAFETY: `index` < 512; tables are ours by the contract of `new`.
        unsafe { self.slot(table, index & 511).read_volatile() }
    }

    fn set_entry(&mut self, table: u64, index: u64, value: u64) {
        // SAFETY: as for `entry`.
        unsafe { self.slot(table, index & 511).write_volatile(value) }
    }
}

/// TCR for the host's regime: 48-bit ranges, 4 KiB granule, write-back tables.
pub fn tcr(regime: Regime) -> u64 {
    let pa_size = match crate::cpu::pa_bits() {
        32 => 0,
        36 => 1,
        40 => 2,
        42 => 3,
        44 => 4,
        _ => 5,
    };
    // T0SZ=16, IRGN0=ORGN0=WBWA, SH0=inner.
    let lower: u64 = 16 | 1 << 8 | 1 << 10 | 3 << 12;
    match regime {
        // TCR_EL2 at E2H=0: PS at 16, RES1 at 23 and 31.
        Regime::El2 => lower | pa_size << 16 | 1 << 23 | 1 << 31,
        Regime::El1 | Regime::El2Vhe => {
            let asid16 = u64::from(crate::cpu::has_16_bit_asids());
            // T1SZ, IRGN1, ORGN1, SH1, TG1=4K; IPS; AS; TBI0 as Linux has it.
            lower
                | 16 << 16
                | 1 << 24
                | 1 << 26
                | 3 << 28
                | 2 << 30
                | pa_size << 32
                | asid16 << 36
                | 1 << 37
        }
    }
}

/// SCTLR for the host's regime with MMU and caches on.
pub fn sctlr(regime: Regime) -> u64 {
    // M, C, SA, I, EOS (11), EIS (22): the last two are RES1 without FEAT_ExS
    // and keep entry and return context-synchronising with it.
    let common = 1 | 1 << 2 | 1 << 3 | 1 << 11 | 1 << 12 | 1 << 22;
    match regime {
        Regime::El2 => common | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 18 | 1 << 23 | 1 << 28 | 1 << 29,
        Regime::El1 | Regime::El2Vhe => {
            // SA0, SED, DZE, UCT, nTWI, nTWE, UCI, nTLSMD, LSMAOE, TSCXT; SPAN
            // is RES1 where there is no FEAT_PAN.
            let span = u64::from(!crate::cpu::has_pan()) << 23;
            common
                | 1 << 4
                | 1 << 8
                | 1 << 14
                | 1 << 15
                | 1 << 16
                | 1 << 18
                | 1 << 20
                | 1 << 26
                | 1 << 28
                | 1 << 29
                | span
        }
    }
}
