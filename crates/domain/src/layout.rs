//! Where things are in a guest's address space.
//!
//! These are Xen's addresses (`xen/include/public/arch-arm.h`), so that partial
//! device trees that were written for Xen find the holes they expect; but a
//! GICv3's distributor is at a multiple of 64 KiB.

use crate::Region;
use alloc::vec::Vec;

/// GICv2: distributor.
pub const GICV2_GICD: Region = Region::new(0x0300_1000, 0x1000);
/// GICv2: CPU interface.
pub const GICV2_GICC: Region = Region::new(0x0300_2000, 0x2000);
/// GICv3: distributor.
pub const GICV3_GICD: Region = Region::new(0x0300_0000, 0x1_0000);
/// GICv3: redistributors, 128 KiB each.
pub const GICV3_GICR: Region = Region::new(0x0302_0000, 0x100_0000);
/// One redistributor.
pub const GICR_SIZE: u64 = 0x2_0000;
/// The virtual PL011.
pub const PL011: Region = Region::new(0x2200_0000, 0x1000);
/// Its interrupt, as an SPI.
pub const PL011_SPI: u32 = 0;
/// Its interrupt, as INTID.
pub const PL011_INTID: u32 = 32 + PL011_SPI;
/// Where RAM may be.
pub const RAM: [Region; 2] =
    [Region::new(0x4000_0000, 0xc000_0000), Region::new(0x2_0000_0000, 0xfe_0000_0000)];

/// The most virtual CPUs of a domain with a GICv3.
pub const CPUS_MAX: u32 = 128;
/// The same with a GICv2.
pub const CPUS_MAX_GICV2: u32 = 8;

/// The longest time that a domain may go without petting its watchdog: seconds.
pub const WATCHDOG_MAX: u32 = 3600;

/// MPIDR_EL1's affinity fields of virtual CPU `index`: sixteen to a cluster, so
/// that an SGI reaches each (ICC_SGI1R_EL1.TargetList).
pub const fn mpidr(index: u32) -> u64 {
    ((index >> 4) as u64) << 8 | (index & 0xf) as u64
}

/// What RAM is given in.
pub(crate) const BLOCK: u64 = 2 << 20;

/// How much RAM a domain gets that doesn't name the machine's: whole blocks.
pub fn ram_size(domain: &crate::Domain) -> u64 {
    domain.memory.checked_next_multiple_of(BLOCK).unwrap_or(domain.memory)
}

/// The banks of so many bytes of RAM.
pub fn banks(size: u64) -> Vec<Region> {
    let mut left = size;
    let mut banks = Vec::new();
    for bank in RAM {
        let size = bank.size.min(left);
        if size > 0 {
            banks.push(Region::new(bank.start, size));
            left = left.saturating_sub(size);
        }
    }
    banks
}

/// Where a domain has its RAM, and which of the machine's that is where the
/// device tree says so: guest's and machine's address, bytes. Without
/// `xen,static-mem` the machine's is nobody's choice yet, and with `direct-map`
/// neither is the guest's: the list is empty then.
pub fn static_banks(domain: &crate::Domain) -> Vec<(Region, u64)> {
    let mut list = Vec::new();
    if domain.direct_map {
        list.extend(domain.static_memory.iter().map(|host| (*host, host.start)));
        return list;
    }
    let mut banks = RAM.into_iter();
    let mut bank = banks.next();
    for host in &domain.static_memory {
        let mut host = *host;
        while let Some(room) = bank {
            let size = room.size.min(host.size);
            list.push((Region::new(room.start, size), host.start));
            host = Region::new(host.start.saturating_add(size), host.size.saturating_sub(size));
            let rest = Region::new(room.start.saturating_add(size), room.size.saturating_sub(size));
            bank = if rest.size == 0 { banks.next() } else { Some(rest) };
            if host.size == 0 {
                break;
            }
        }
    }
    list
}

/// What a guest's RAM and passed-through devices must leave free.
pub fn devices(v3: bool, console: bool) -> impl Iterator<Item = (Region, &'static str)> {
    let gic = if v3 {
        [(GICV3_GICD, "GICD"), (GICV3_GICR, "GICR")]
    } else {
        [(GICV2_GICD, "GICD"), (GICV2_GICC, "GICC")]
    };
    gic.into_iter().chain(console.then_some((PL011, "the virtual PL011")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_goes_to_the_second_bank_when_the_first_is_full() {
        assert_eq!(banks(64 << 20), [Region::new(0x4000_0000, 64 << 20)]);
        let four = banks(4 << 30);
        assert_eq!(four[0], RAM[0]);
        assert_eq!(four[1], Region::new(0x2_0000_0000, 1 << 30));
        assert!(banks(0).is_empty());
    }

    #[test]
    fn affinities() {
        assert_eq!(mpidr(0), 0);
        assert_eq!(mpidr(15), 15);
        assert_eq!(mpidr(16), 0x100);
        assert_eq!(mpidr(127), 0x70f);
    }

    #[test]
    fn nothing_overlaps() {
        for v3 in [false, true] {
            let all: Vec<_> = devices(v3, true).map(|d| d.0).chain(RAM).collect();
            for (i, a) in all.iter().enumerate() {
                assert!(all[i + 1..].iter().all(|b| !a.overlaps(b)));
            }
        }
        assert_eq!(GICV3_GICR.size / GICR_SIZE, u64::from(CPUS_MAX));
    }
}
