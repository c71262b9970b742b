//! The guest-physical memory map, and where kernel, device tree and initrd go in it.
//!
//! Devices live below 1 GiB, RAM starts at 2 GiB:
//!
//! | address       | what                                                  |
//! | ------------- | ----------------------------------------------------- |
//! | `0x0100_0000` | 16550 UART                                            |
//! | `0x0101_0000` | PL031 real-time clock                                 |
//! | `0x0200_0000` | virtio-mmio slots, 4 KiB each                         |
//! | below         | GICv3 redistributors, 128 KiB a CPU, growing down     |
//! | `0x3ffd_0000` | GICv2 CPU interface                                   |
//! | `0x3fff_0000` | GIC distributor                                       |
//! | `0x8000_0000` | RAM: kernel, device tree, initrd                      |

use crate::error::{Error, Result};

/// Bytes in a MiB.
pub const MIB: u64 = 1 << 20;

/// What the arm64 boot protocol aligns the kernel to, and the size of a stage-2 block.
pub const BLOCK: u64 = 2 * MIB;

/// The 16550.
pub const SERIAL_BASE: u64 = 0x0100_0000;
/// The 16550's window: eight byte-wide registers, rounded up.
pub const SERIAL_SIZE: u64 = 0x1000;
/// The 16550's shared peripheral interrupt (0 is INTID 32).
pub const SERIAL_SPI: u32 = 0;

/// The PL031.
pub const RTC_BASE: u64 = 0x0101_0000;
/// The PL031's window.
pub const RTC_SIZE: u64 = 0x1000;
/// The PL031's interrupt; its alarm is not modelled, so it never comes.
pub const RTC_SPI: u32 = 1;

/// The first virtio-mmio slot.
pub const VIRTIO_BASE: u64 = 0x0200_0000;
/// A virtio-mmio slot: registers, then configuration space from 0x100.
pub const VIRTIO_SIZE: u64 = 0x1000;
/// The first virtio-mmio slot's interrupt; the others follow.
pub const VIRTIO_SPI: u32 = 16;
/// How many virtio-mmio slots there are.
pub const VIRTIO_SLOTS: u32 = 32;

/// The GIC distributor, in GICv2 and GICv3.
pub const GICD_BASE: u64 = 0x3fff_0000;
/// The GICv3 distributor's window.
pub const GICD_SIZE: u64 = 0x1_0000;
/// The GICv2 distributor's window.
pub const GICV2_GICD_SIZE: u64 = 0x1000;
/// The GICv2 CPU interface.
pub const GICC_BASE: u64 = 0x3ffd_0000;
/// The GICv2 CPU interface's window.
pub const GICC_SIZE: u64 = 0x2000;
/// One CPU's GICv3 redistributor: two frames of 64 KiB.
pub const GICR_STRIDE: u64 = 0x2_0000;
/// The fewest interrupt IDs that KVM gives a GIC, and in what steps there are more.
const GIC_IRQS: (u32, u32) = (64, 32);
/// The first shared peripheral interrupt's INTID.
pub const SPI_INTID: u32 = 32;

/// Most vCPUs the map has room for; the host's limit may be lower.
pub const MAX_CPUS: u32 = 256;

/// Where RAM starts.
pub const RAM_BASE: u64 = 0x8000_0000;

/// Room for the device tree; the boot protocol's limit.
pub const FDT_MAX: u64 = BLOCK;

/// Where the redistributors of `cpus` CPUs start: right below the distributor.
pub const fn gicr_base(cpus: u32) -> u64 {
    GICD_BASE.saturating_sub(gicr_size(cpus))
}

/// The size of the redistributors of `cpus` CPUs.
pub const fn gicr_size(cpus: u32) -> u64 {
    GICR_STRIDE.saturating_mul(cpus as u64)
}

/// The address of virtio-mmio slot `slot`.
pub const fn virtio_base(slot: u32) -> u64 {
    VIRTIO_BASE.saturating_add(VIRTIO_SIZE.saturating_mul(slot as u64))
}

/// The interrupt of virtio-mmio slot `slot`.
pub const fn virtio_spi(slot: u32) -> u32 {
    VIRTIO_SPI.saturating_add(slot)
}

/// How many interrupt IDs the GIC of a machine with `slots` virtio-mmio devices has. Guests set up each
/// interrupt that there is, by an exit or more: no more than needed.
pub const fn gic_irqs(slots: u32) -> u32 {
    let (least, step) = GIC_IRQS;
    let used = virtio_spi(slots).saturating_add(SPI_INTID).div_ceil(step).saturating_mul(step);
    if used < least { least } else { used }
}

/// Where everything that is loaded into RAM goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// The kernel's first byte, which is also its entry.
    pub kernel: u64,
    /// The device tree.
    pub fdt: u64,
    /// The initrd's first byte and its length.
    pub initrd: Option<(u64, u64)>,
    /// One past RAM's last byte.
    pub ram_end: u64,
}

/// Places a kernel that wants `text_offset` from a 2 MiB boundary and occupies `kernel_size` bytes, the
/// device tree behind it, and an initrd of `initrd_size` behind that (Documentation/arch/arm64/booting.rst:
/// the device tree on 8 bytes and at most 2 MiB, the initrd within 1 GiB windows of the kernel or anywhere
/// in the first 32 GiB: being next to it serves).
pub fn place(
    ram_size: u64,
    text_offset: u64,
    kernel_size: u64,
    initrd_size: Option<u64>,
) -> Result<Placement> {
    let ram_end = RAM_BASE
        .checked_add(ram_size)
        .ok_or_else(|| Error::new(format!("{} MiB of RAM is absurd", ram_size / MIB)))?;
    let too_small = |need: Option<u64>| {
        let what = match initrd_size {
            Some(n) => format!(
                "the kernel ({} KiB) and the initrd ({} KiB) do not",
                kernel_size >> 10,
                n >> 10
            ),
            None => format!("the kernel ({} KiB) does not", kernel_size >> 10),
        };
        let e = Error::new(format!("{what} fit in {} MiB of guest RAM", ram_size / MIB));
        match need {
            Some(need) => e.cure(format!(
                "give --mem {} or more, and leave the guest some to work with",
                need.div_ceil(MIB)
            )),
            None => e.cure("check that the file is what it should be: its sizes are absurd"),
        }
    };
    let layout = || {
        let kernel = RAM_BASE.checked_add(text_offset)?;
        let fdt = kernel.checked_add(kernel_size)?.checked_next_multiple_of(BLOCK)?;
        let after = fdt.checked_add(FDT_MAX)?;
        let end = after.checked_add(initrd_size.unwrap_or(0))?;
        Some((kernel, fdt, after, end))
    };
    let Some((kernel, fdt, after, end)) = layout() else {
        return Err(too_small(None));
    };
    if end > ram_end {
        return Err(too_small(end.checked_sub(RAM_BASE)));
    }
    Ok(Placement { kernel, fdt, initrd: initrd_size.map(|n| (after, n)), ram_end })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_do_not_overlap() {
        let mut windows = [
            (SERIAL_BASE, SERIAL_SIZE),
            (RTC_BASE, RTC_SIZE),
            (VIRTIO_BASE, VIRTIO_SIZE * u64::from(VIRTIO_SLOTS)),
            (gicr_base(MAX_CPUS), gicr_size(MAX_CPUS)),
            (GICD_BASE, GICD_SIZE),
        ];
        windows.sort();
        for pair in windows.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
        }
        const { assert!(GICD_BASE + GICD_SIZE <= 1 << 30) };
        const { assert!(GICC_BASE + GICC_SIZE <= GICD_BASE) };
    }

    #[test]
    fn interrupts_as_needed() {
        assert_eq!(gic_irqs(0), 64);
        assert_eq!(gic_irqs(3), 64);
        // Slot 15 has INTID 63, the last of 64.
        assert_eq!(gic_irqs(16), 64);
        assert_eq!(gic_irqs(17), 96);
        assert_eq!(gic_irqs(VIRTIO_SLOTS), 96);
        for slots in 0..=VIRTIO_SLOTS {
            assert!(virtio_spi(slots) + SPI_INTID <= gic_irqs(slots));
        }
    }

    #[test]
    fn places_one_behind_the_other() {
        let p = place(256 * MIB, 0, 35 * MIB, Some(5000)).unwrap();
        assert_eq!(p.kernel, RAM_BASE);
        assert_eq!(p.fdt, RAM_BASE + 36 * MIB);
        assert_eq!(p.initrd, Some((RAM_BASE + 38 * MIB, 5000)));
        assert_eq!(p.ram_end, RAM_BASE + 256 * MIB);
    }

    #[test]
    fn says_how_much_memory_is_needed() {
        let e = place(16 * MIB, 0, 35 * MIB, Some(MIB)).unwrap_err().to_string();
        assert!(e.contains("--mem 39"), "{e}");
        let e = place(16 * MIB, 0, u64::MAX, None).unwrap_err().to_string();
        assert!(e.contains("absurd"), "{e}");
        assert!(place(u64::MAX, 0, MIB, None).is_err());
    }
}
