//! The flattened device tree that tells the guest what its machine has.

use vm_fdt::FdtWriter;

use crate::error::{Context, Error, Result};
use crate::layout;

/// GIC interrupt specifier cells: shared or private, number, and flags.
const SPI: u32 = 0;
const PPI: u32 = 1;
const EDGE_RISING: u32 = 1;
const LEVEL_HIGH: u32 = 4;

const PHANDLE_GIC: u32 = 1;
const PHANDLE_CLOCK: u32 = 2;

/// The interrupt controller's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gic {
    /// GICv2: at most 8 CPUs.
    V2,
    /// GICv3.
    V3,
}

/// What the tree describes.
#[derive(Debug, Clone)]
pub struct Machine<'a> {
    /// Each CPU's MPIDR_EL1, as KVM numbers them.
    pub mpidrs: &'a [u64],
    /// Bytes of RAM.
    pub ram_size: u64,
    /// The interrupt controller.
    pub gic: Gic,
    /// Whether the CPUs have a PMU, on PPI 7.
    pub pmu: bool,
    /// How many virtio-mmio slots are in use.
    pub virtio_slots: u32,
    /// The kernel's command line.
    pub cmdline: &'a str,
    /// The initrd's address and length.
    pub initrd: Option<(u64, u64)>,
    /// Entropy for the guest's random number generator.
    pub rng_seed: &'a [u8],
    /// Entropy for where the guest's kernel puts itself.
    pub kaslr_seed: u64,
}

/// Builds the tree.
pub fn build(machine: &Machine<'_>) -> Result<Vec<u8>> {
    if machine.cmdline.contains('\0') {
        return Err(Error::new("the kernel's command line has a NUL in it"));
    }
    let blob = write(machine).context("the guest's device tree")?;
    if u64::try_from(blob.len()).unwrap_or(u64::MAX) > layout::FDT_MAX {
        return Err(Error::new("the guest's device tree is over 2 MiB").cure("shorten --cmdline"));
    }
    Ok(blob)
}

type FdtResult = std::result::Result<(), vm_fdt::Error>;

fn write(machine: &Machine<'_>) -> std::result::Result<Vec<u8>, vm_fdt::Error> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_string("model", "hypha-vmm")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", PHANDLE_GIC)?;
    chosen(&mut fdt, machine)?;
    memory(&mut fdt, machine)?;
    cpus(&mut fdt, machine)?;
    psci(&mut fdt)?;
    gic(&mut fdt, machine)?;
    timer(&mut fdt, machine)?;
    if machine.pmu {
        pmu(&mut fdt, machine)?;
    }
    clock(&mut fdt)?;
    serial(&mut fdt)?;
    rtc(&mut fdt)?;
    for slot in 0..machine.virtio_slots {
        virtio(&mut fdt, slot)?;
    }
    fdt.end_node(root)?;
    fdt.finish()
}

fn chosen(fdt: &mut FdtWriter, machine: &Machine<'_>) -> FdtResult {
    let node = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", machine.cmdline)?;
    fdt.property_string("stdout-path", &format!("/serial@{:x}", layout::SERIAL_BASE))?;
    if let Some((start, size)) = machine.initrd {
        fdt.property_u64("linux,initrd-start", start)?;
        fdt.property_u64("linux,initrd-end", start.saturating_add(size))?;
    }
    fdt.property_u64("kaslr-seed", machine.kaslr_seed)?;
    fdt.property("rng-seed", machine.rng_seed)?;
    fdt.end_node(node)
}

fn memory(fdt: &mut FdtWriter, machine: &Machine<'_>) -> FdtResult {
    let node = fdt.begin_node(&format!("memory@{:x}", layout::RAM_BASE))?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &[layout::RAM_BASE, machine.ram_size])?;
    fdt.end_node(node)
}

fn cpus(fdt: &mut FdtWriter, machine: &Machine<'_>) -> FdtResult {
    let node = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    for mpidr in machine.mpidrs {
        // Aff0 to Aff2; Aff3 is zero for all the CPUs that the memory map has room for.
        let reg = u32::try_from(mpidr & 0xff_ffff).unwrap_or(0);
        let cpu = fdt.begin_node(&format!("cpu@{reg:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        fdt.property_u32("reg", reg)?;
        fdt.property_string("enable-method", "psci")?;
        fdt.end_node(cpu)?;
    }
    fdt.end_node(node)
}

fn psci(fdt: &mut FdtWriter) -> FdtResult {
    let node = fdt.begin_node("psci")?;
    let compatible = ["arm,psci-1.0", "arm,psci-0.2", "arm,psci"];
    fdt.property_string_list("compatible", compatible.map(String::from).to_vec())?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(node)
}

fn gic(fdt: &mut FdtWriter, machine: &Machine<'_>) -> FdtResult {
    let cpus = u32::try_from(machine.mpidrs.len()).unwrap_or(u32::MAX);
    let node = fdt.begin_node(&format!("interrupt-controller@{:x}", layout::GICD_BASE))?;
    match machine.gic {
        Gic::V3 => {
            fdt.property_string("compatible", "arm,gic-v3")?;
            fdt.property_array_u64(
                "reg",
                &[
                    layout::GICD_BASE,
                    layout::GICD_SIZE,
                    layout::gicr_base(cpus),
                    layout::gicr_size(cpus),
                ],
            )?;
        }
        Gic::V2 => {
            fdt.property_string("compatible", "arm,cortex-a15-gic")?;
            fdt.property_array_u64(
                "reg",
                &[layout::GICD_BASE, layout::GICV2_GICD_SIZE, layout::GICC_BASE, layout::GICC_SIZE],
            )?;
        }
    }
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_phandle(PHANDLE_GIC)?;
    fdt.end_node(node)
}

/// A private peripheral interrupt's flags: GICv2 wants a mask of CPUs in them.
fn ppi_flags(machine: &Machine<'_>) -> u32 {
    let cpus = u32::try_from(machine.mpidrs.len()).unwrap_or(8).min(8);
    match machine.gic {
        Gic::V3 => LEVEL_HIGH,
        Gic::V2 => (0xff_u32 >> 8_u32.saturating_sub(cpus)) << 8 | LEVEL_HIGH,
    }
}

fn timer(fdt: &mut FdtWriter, machine: &Machine<'_>) -> FdtResult {
    let flags = ppi_flags(machine);
    let node = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    // Secure, non-secure physical, virtual, and hypervisor physical.
    let cells: Vec<u32> = [13, 14, 11, 10].iter().flat_map(|ppi| [PPI, *ppi, flags]).collect();
    fdt.property_array_u32("interrupts", &cells)?;
    fdt.property_null("always-on")?;
    fdt.end_node(node)
}

fn pmu(fdt: &mut FdtWriter, machine: &Machine<'_>) -> FdtResult {
    let node = fdt.begin_node("pmu")?;
    fdt.property_string("compatible", "arm,armv8-pmuv3")?;
    fdt.property_array_u32("interrupts", &[PPI, 7, ppi_flags(machine)])?;
    fdt.end_node(node)
}

fn clock(fdt: &mut FdtWriter) -> FdtResult {
    let node = fdt.begin_node("apb-pclk")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", 24_000_000)?;
    fdt.property_string("clock-output-names", "clk24mhz")?;
    fdt.property_phandle(PHANDLE_CLOCK)?;
    fdt.end_node(node)
}

fn serial(fdt: &mut FdtWriter) -> FdtResult {
    let node = fdt.begin_node(&format!("serial@{:x}", layout::SERIAL_BASE))?;
    fdt.property_string("compatible", "ns16550a")?;
    fdt.property_array_u64("reg", &[layout::SERIAL_BASE, layout::SERIAL_SIZE])?;
    fdt.property_u32("clock-frequency", 1_843_200)?;
    fdt.property_array_u32("interrupts", &[SPI, layout::SERIAL_SPI, EDGE_RISING])?;
    fdt.end_node(node)
}

fn rtc(fdt: &mut FdtWriter) -> FdtResult {
    let node = fdt.begin_node(&format!("rtc@{:x}", layout::RTC_BASE))?;
    let compatible = ["arm,pl031", "arm,primecell"];
    fdt.property_string_list("compatible", compatible.map(String::from).to_vec())?;
    fdt.property_array_u64("reg", &[layout::RTC_BASE, layout::RTC_SIZE])?;
    fdt.property_array_u32("interrupts", &[SPI, layout::RTC_SPI, LEVEL_HIGH])?;
    fdt.property_u32("clocks", PHANDLE_CLOCK)?;
    fdt.property_string("clock-names", "apb_pclk")?;
    fdt.end_node(node)
}

fn virtio(fdt: &mut FdtWriter, slot: u32) -> FdtResult {
    let base = layout::virtio_base(slot);
    let node = fdt.begin_node(&format!("virtio_mmio@{base:x}"))?;
    fdt.property_string("compatible", "virtio,mmio")?;
    fdt.property_array_u64("reg", &[base, layout::VIRTIO_SIZE])?;
    fdt.property_array_u32("interrupts", &[SPI, layout::virtio_spi(slot), EDGE_RISING])?;
    fdt.property_null("dma-coherent")?;
    fdt.end_node(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine<'static> {
        Machine {
            mpidrs: &[0x8000_0000, 0x8000_0001],
            ram_size: 256 << 20,
            gic: Gic::V3,
            pmu: false,
            virtio_slots: 3,
            cmdline: "console=ttyS0",
            initrd: Some((0x8400_0000, 0x1234)),
            rng_seed: &[1; 64],
            kaslr_seed: 7,
        }
    }

    fn has(blob: &[u8], what: &[u8]) -> bool {
        blob.windows(what.len()).any(|w| w == what)
    }

    #[test]
    fn describes_the_machine() {
        let blob = build(&machine()).unwrap();
        assert_eq!(blob[..4], [0xd0, 0x0d, 0xfe, 0xed]);
        for s in [
            "memory@80000000\0",
            "cpu@0\0",
            "cpu@1\0",
            "arm,gic-v3\0",
            "arm,armv8-timer\0",
            "hvc\0",
            "ns16550a\0",
            "arm,pl031\0",
            "virtio_mmio@2002000\0",
            "console=ttyS0\0",
            "/serial@1000000\0",
            "rng-seed\0",
        ] {
            assert!(has(&blob, s.as_bytes()), "{s}");
        }
        assert!(!has(&blob, b"virtio_mmio@2003000\0"));
        assert!(!has(&blob, b"pmuv3"));
        assert!(has(&blob, &(0x8400_0000u64 + 0x1234).to_be_bytes()));
    }

    #[test]
    fn gicv2_names_its_cpus() {
        let m = Machine { gic: Gic::V2, pmu: true, initrd: None, ..machine() };
        assert_eq!(ppi_flags(&m), 0x304);
        let blob = build(&m).unwrap();
        assert!(has(&blob, b"arm,cortex-a15-gic\0"));
        assert!(has(&blob, b"arm,armv8-pmuv3\0"));
        assert!(!has(&blob, b"linux,initrd-start"));
    }

    #[test]
    fn a_tree_that_is_too_large_is_an_error() {
        let long = "x".repeat(3 << 20);
        assert!(build(&Machine { cmdline: &long, ..machine() }).is_err());
        assert!(build(&Machine { cmdline: "a\0b", ..machine() }).is_err());
    }
}
