//! The start code's translation table: blocks of 1 GiB, one to one, for 39 bits.

use crate::{cpu, mrs, msr};
use core::arch::asm;

/// Block, AF, inner shareable, attribute 1 (normal memory).
const BLOCK: u64 = 0x705;
/// A pointer to a table of the next level.
const TABLE: u64 = 3;
const GIB: u64 = 1 << 30;
const ENTRIES: u64 = 512;

/// This CPU's output addresses may have as many bits as it says it has (TCR_EL1.IPS), up to 48.
/// How many these are.
pub fn widen() -> u32 {
    let parange = (mrs!("id_aa64mmfr0_el1") & 0xf).min(5);
    msr!("tcr_el1", mrs!("tcr_el1") & !(7 << 32) | parange << 32);
    cpu::isb();
    [32, 36, 40, 42, 44, 48][parange as usize]
}

/// Maps the GiB of virtual addresses at `at` to the GiB that `to` is in.
pub fn map_block(at: u64, to: u64) {
    set(at, to & !(GIB - 1) | BLOCK);
}

/// Says that the table for the GiB of virtual addresses at `at` is the page that `table` is in.
pub fn map_table(at: u64, table: u64) {
    set(at, table & !0xfff | TABLE);
}

fn set(at: u64, descriptor: u64) {
    unsafe extern "C" {
        static mut __table: [u64; ENTRIES as usize];
    }
    let entry = at / GIB % ENTRIES;
    // Break before make (Arm ARM D8.16.1): the table is every CPU's.
    for value in [0, descriptor] {
        // SAFETY: the start code's table has as many entries. The caller changes what he alone uses.
        unsafe { (&raw mut __table).cast::<u64>().add(entry as usize).write_volatile(value) };
        // SAFETY: barriers, and the TLBs forget this GiB.
        unsafe {
            asm!("dsb ishst", "tlbi vaae1is, {page}", "dsb ish", "isb", page = in(reg) at >> 12)
        };
    }
}
