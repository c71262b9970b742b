//! The device's attributes and its frames, as the KVM selftest `vgic_init` and
//! VMMs use them.

use super::*;
use crate::attr::*;

const AT: u64 = 0x1000;

struct Device {
    machine: Machine,
    memory: Memory,
}

impl Device {
    fn new(vcpus: usize) -> Device {
        Device { machine: Machine::bare(vcpus), memory: Memory(RefCell::new([0; 256])) }
    }

    fn set(&self, group: u32, attr: u64, value: u64) -> Result<()> {
        self.memory.write(AT, &value.to_le_bytes()).unwrap();
        self.machine.vgic.set_attr(group, attr, &self.memory, AT, &self.machine)
    }

    fn get(&self, group: u32, attr: u64, given: u64) -> Result<u64> {
        self.memory.write(AT, &given.to_le_bytes()).unwrap();
        self.machine.vgic.get_attr(group, attr, &self.memory, AT, &self.machine)?;
        let mut bytes = [0; 8];
        self.memory.read(AT, &mut bytes).unwrap();
        Ok(u64::from_le_bytes(bytes))
    }

    fn init(&self) -> Result<()> {
        self.set(GRP_CTRL, CTRL_INIT, 0)
    }
}

const fn region(count: u64, base: u64, flags: u64, index: u64) -> u64 {
    count << 52 | base | flags << 12 | index
}

const LIMIT: u64 = 1 << 40;

#[test]
fn legacy_addresses() {
    let d = Device::new(4);
    let vgic = &d.machine.vgic;
    for attr in [ADDR_DIST, ADDR_REDIST, ADDR_REDIST_REGION] {
        assert_eq!(vgic.has_attr(GRP_ADDR, attr), Ok(()));
    }
    assert_eq!(vgic.has_attr(GRP_ADDR, u64::MAX), Err(Errno::ENXIO));
    assert_eq!(d.set(GRP_ADDR, 0, 0), Err(Errno::ENXIO));
    assert_eq!(d.get(GRP_ADDR, ADDR_DIST, 0), Ok(u64::MAX));
    for attr in [ADDR_DIST, ADDR_REDIST] {
        assert_eq!(d.set(GRP_ADDR, attr, 0x1000), Err(Errno::EINVAL));
        assert_eq!(d.set(GRP_ADDR, attr, LIMIT), Err(Errno::E2BIG));
    }
    assert_eq!(d.set(GRP_ADDR, ADDR_REDIST, LIMIT - 0x1_0000), Err(Errno::E2BIG));
    assert_eq!(d.set(GRP_ADDR, ADDR_REDIST, 0), Ok(()));
    assert_eq!(d.set(GRP_ADDR, ADDR_REDIST, 0xe_0000), Err(Errno::EEXIST));
    for index in [0, 1] {
        let mixed = region(4, 0x10_0000, 0, index);
        assert_eq!(d.set(GRP_ADDR, ADDR_REDIST_REGION, mixed), Err(Errno::EINVAL));
    }
    // Overlaps the last redistributor: seen at the first run only.
    assert_eq!(d.set(GRP_ADDR, ADDR_DIST, 0x7_0000), Ok(()));
    assert_eq!(d.set(GRP_ADDR, ADDR_DIST, 0x20_0000), Err(Errno::EEXIST));
    assert_eq!(vgic.map_resources(), Err(Errno::EINVAL));
    assert_eq!(vgic.decode(0x7_0000), None);
}

#[test]
fn redistributor_regions() {
    let d = Device::new(4);
    let add = |value| d.set(GRP_ADDR, ADDR_REDIST_REGION, value);
    assert_eq!(add(region(4, 0x10_0000, 2, 0)), Err(Errno::EINVAL));
    assert_eq!(add(region(0, 0x10_0000, 0, 0)), Err(Errno::EINVAL));
    assert_eq!(add(region(2, 0x20_0000, 0, 1)), Err(Errno::EINVAL));
    assert_eq!(add(region(2, 0x20_1000, 0, 1)), Err(Errno::EINVAL));
    assert_eq!(add(region(2, 0x20_0000, 0, 0)), Ok(()));
    assert_eq!(add(region(2, 0x20_0000, 0, 1)), Err(Errno::EINVAL));
    assert_eq!(add(region(1, 0x21_0000, 0, 2)), Err(Errno::EINVAL));
    assert_eq!(add(region(1, 0x24_0000, 0, 2)), Err(Errno::EINVAL));
    assert_eq!(add(region(1, 0x24_0000, 0, 1)), Ok(()));
    assert_eq!(add(region(1, LIMIT, 0, 2)), Err(Errno::E2BIG));
    assert_eq!(add(region(2, LIMIT - 0x3_0000, 0, 2)), Err(Errno::E2BIG));
    assert_eq!(d.set(GRP_ADDR, ADDR_REDIST, 0x26_0000), Err(Errno::EINVAL));
    let get = |index| d.get(GRP_ADDR, ADDR_REDIST_REGION, index);
    assert_eq!(get(0), Ok(region(2, 0x20_0000, 0, 0)));
    assert_eq!(get(1), Ok(region(1, 0x24_0000, 0, 1)));
    assert_eq!(get(2), Err(Errno::ENOENT));
    assert_eq!(d.set(GRP_ADDR, ADDR_DIST, 0x26_0000), Ok(()));
    assert_eq!(add(region(1, 0x26_0000, 0, 2)), Err(Errno::EINVAL));
    let vgic = &d.machine.vgic;
    let bad = vgic.set_attr(GRP_ADDR, ADDR_REDIST_REGION, &d.memory, 0, &d.machine);
    assert_eq!(bad, Err(Errno::EFAULT));
    assert_eq!(vgic.map_resources(), Err(Errno::ENXIO), "vCPU 3 has no redistributor");
    assert_eq!(add(region(1, 0x28_0000, 0, 2)), Ok(()));
    assert_eq!(vgic.map_resources(), Err(Errno::EBUSY), "not initialised");
    d.init().unwrap();
    vgic.map_resources().unwrap();
    assert_eq!(vgic.decode(0x26_0004), Some((Region::Dist, 4)));
    assert_eq!(vgic.decode(0x22_0000), Some((Region::Redist(1), 0)));
    assert_eq!(vgic.decode(0x24_ffff), Some((Region::Redist(2), 0xffff)));
    assert_eq!(vgic.decode(0x29_0000), Some((Region::Redist(3), 0x1_0000)));
    assert_eq!(vgic.decode(0x2a_0000), None);
    assert_eq!(vgic.decode(0), None);
    assert_eq!(vgic.frames().count(), 4);
}

/// vCPUs made in this order, by their numbers.
fn with_ids(ids: &[u64]) -> Device {
    let d = Device::new(0);
    for &id in ids {
        d.machine.vgic.add_vcpu(id as u32, id).unwrap();
    }
    d
}

fn typer(d: &Device, id: u64) -> Result<u64> {
    d.get(GRP_REDIST_REGS, id << 32 | 8, 0)
}

#[test]
fn the_last_redistributor_of_a_run_says_so() {
    let d = with_ids(&[0, 3, 5, 4, 1, 2]);
    assert_eq!(typer(&d, 9), Err(Errno::EINVAL));
    assert_eq!(typer(&d, 1), Err(Errno::EBUSY));
    d.init().unwrap();
    for id in 0..6 {
        assert_eq!(typer(&d, id), Ok(id << 8));
    }
    for (index, base) in [0x10_0000, 0x24_0000, 0x20_0000].into_iter().enumerate() {
        d.set(GRP_ADDR, ADDR_REDIST_REGION, region(2, base, 0, index as u64)).unwrap();
    }
    for (id, value) in [(0, 0), (1, 0x100), (2, 0x200), (3, 0x310), (5, 0x500), (4, 0x410)] {
        assert_eq!(typer(&d, id), Ok(value));
    }

    let d = with_ids(&[0, 3, 5, 4, 1, 2]);
    d.init().unwrap();
    d.set(GRP_ADDR, ADDR_REDIST, 0x1_0000).unwrap();
    for (id, value) in [(0, 0), (3, 0x300), (5, 0x500), (1, 0x100), (2, 0x210)] {
        assert_eq!(typer(&d, id), Ok(value));
    }
}

#[test]
fn legacy_region_grows_past_the_end() {
    let d = Device::new(1);
    d.set(GRP_ADDR, ADDR_REDIST, LIMIT - 3 * 0x2_0000).unwrap();
    d.set(GRP_ADDR, ADDR_DIST, 0).unwrap();
    for id in 1..4 {
        d.machine.vgic.add_vcpu(id, id.into()).unwrap();
    }
    d.init().unwrap();
    assert_eq!(d.machine.vgic.map_resources(), Err(Errno::EINVAL));
}

#[test]
fn numbers_of_interrupts() {
    for bad in [0, 32, 63, 65, 1025, 1056, u64::from(u32::MAX)] {
        assert_eq!(Device::new(1).set(GRP_NR_IRQS, 0, bad), Err(Errno::EINVAL));
    }
    for good in [64, 96, 1024] {
        let d = Device::new(1);
        assert_eq!(d.get(GRP_NR_IRQS, 0, 0), Ok(32));
        d.set(GRP_NR_IRQS, 0, good).unwrap();
        assert_eq!(d.set(GRP_NR_IRQS, 0, good), Err(Errno::EBUSY));
        d.init().unwrap();
        assert_eq!(d.get(GRP_NR_IRQS, 0, 0), Ok(good));
        let typer = d.machine.read(0, Region::Dist, 4);
        assert_eq!(u64::from(typer & 0x1f), good / 32 - 1);
        // INTIDs from 1020 on are special.
        let last = (good as u32).min(1020) - 1;
        assert_eq!(d.machine.vgic.inject_spi(last, true), Ok(()));
        assert_eq!(d.machine.vgic.inject_spi(last + 1, true), Err(Errno::EINVAL));
    }
    let d = Device::new(1);
    d.init().unwrap();
    assert_eq!(d.get(GRP_NR_IRQS, 0, 0), Ok(256));
    assert_eq!(d.set(GRP_NR_IRQS, 0, 128), Err(Errno::EBUSY));
}

#[test]
fn control() {
    assert_eq!(Device::new(0).init(), Err(Errno::ENODEV));
    let mut d = Device::new(1);
    assert_eq!(d.set(GRP_CTRL, CTRL_SAVE_PENDING_TABLES, 0), Ok(()));
    d.init().unwrap();
    d.init().unwrap();
    assert_eq!(d.set(GRP_CTRL, 1, 0), Err(Errno::ENXIO));
    assert_eq!(d.get(GRP_CTRL, 0, 0), Err(Errno::ENXIO));
    assert_eq!(d.set(2, 0, 0), Err(Errno::ENXIO));
    assert_eq!(d.machine.vgic.has_attr(8, 0), Err(Errno::ENXIO));
    d.machine.running = true;
    assert_eq!(d.set(GRP_CTRL, CTRL_SAVE_PENDING_TABLES, 0), Err(Errno::EBUSY));
    assert_eq!(d.get(GRP_DIST_REGS, 0x104, 0), Err(Errno::EBUSY));
    assert_eq!(d.get(GRP_CPU_SYSREGS, sysreg(3, 0, 4, 6, 0).into(), 0), Err(Errno::EBUSY));
}

use crate::sysreg;

#[test]
fn registers_by_attribute() {
    let d = Device::new(2);
    // The revision may be chosen before initialisation.
    assert_eq!(d.get(GRP_DIST_REGS, 8, 0), Ok(0x4b00_343b));
    assert_eq!(d.set(GRP_DIST_REGS, 8, 0x4b00_243b), Ok(()));
    assert_eq!(d.set(GRP_DIST_REGS, 8, 0x4b00_443b), Err(Errno::EINVAL));
    assert_eq!(d.set(GRP_DIST_REGS, 8, 0x4a00_343b), Err(Errno::EINVAL));
    assert_eq!(d.set(GRP_DIST_REGS, 8, 0x4b00_343b), Ok(()));
    assert_eq!(d.set(GRP_DIST_REGS, 0, 2), Err(Errno::EBUSY));
    d.init().unwrap();
    d.set(GRP_DIST_REGS, 0, 2).unwrap();
    assert_eq!(d.get(GRP_DIST_REGS, 0, 0), Ok(0x52));
    assert_eq!(d.get(GRP_DIST_REGS, 0x1_0000, 0), Err(Errno::ENXIO));
    assert_eq!(d.machine.vgic.has_attr(GRP_DIST_REGS, 0x101), Err(Errno::ENXIO));
    assert_eq!(d.machine.vgic.has_attr(GRP_DIST_REGS, 0x104), Ok(()));

    // ISPENDR: the latch, exactly as written; ICPENDR: RAZ/WI.
    d.machine.vgic.inject_spi(33, true).unwrap();
    assert_eq!(d.get(GRP_DIST_REGS, 0x204, 0), Ok(0));
    d.set(GRP_DIST_REGS, 0x204, 0xf0).unwrap();
    assert_eq!(d.machine.read(0, Region::Dist, 0x204), 0xf2);
    d.set(GRP_DIST_REGS, 0x204, 0x30).unwrap();
    d.set(GRP_DIST_REGS, 0x284, 0xff).unwrap();
    assert_eq!(d.get(GRP_DIST_REGS, 0x204, 0), Ok(0x30));
    assert_eq!(d.get(GRP_DIST_REGS, 0x284, 0), Ok(0));

    // Lines.
    let level = |first: u64| d.get(GRP_LEVEL_INFO, first, 0);
    assert_eq!(level(32), Ok(2));
    assert_eq!(level(33), Err(Errno::EINVAL));
    assert_eq!(level(1 << 10 | 32), Err(Errno::EINVAL));
    assert_eq!(level(992), Ok(0));
    assert_eq!(d.set(GRP_LEVEL_INFO, 992, 7), Ok(()));
    assert_eq!(level(992), Ok(0));
    assert_eq!(d.set(GRP_LEVEL_INFO, 1 << 32, 0xffff_ffff), Ok(()));
    assert_eq!(d.get(GRP_LEVEL_INFO, 1 << 32, 0), Ok(0xffff_0000));
    assert_eq!(level(0), Ok(0));
    assert_eq!(d.get(GRP_LEVEL_INFO, 7 << 32, 0), Err(Errno::EINVAL));

    // 64-bit registers by words.
    d.set(GRP_DIST_REGS, 0x6108, 1).unwrap();
    d.set(GRP_DIST_REGS, 0x610c, 1).unwrap();
    assert_eq!(d.get(GRP_DIST_REGS, 0x6108, 0), Ok(1));
    assert_eq!(d.get(GRP_DIST_REGS, 0x610c, 0), Ok(0));
    let redist = |offset: u64| 1 << 32 | offset;
    d.set(GRP_REDIST_REGS, redist(0x70), 0xffff_ffff).unwrap();
    d.set(GRP_REDIST_REGS, redist(0x74), 0xffff_ffff).unwrap();
    assert_eq!(d.get(GRP_REDIST_REGS, redist(0x70), 0), Ok(0xffff_ff9f));
    assert_eq!(d.get(GRP_REDIST_REGS, redist(0x74), 0), Ok(0x070f_ffff));
    assert_eq!(d.get(GRP_REDIST_REGS, redist(0xc), 0), Ok(1));
    assert_eq!(d.get(GRP_REDIST_REGS, redist(0x1_0100), 0), Ok(0xffff));
    assert_eq!(d.get(GRP_REDIST_REGS, redist(0x1_0104), 0), Err(Errno::ENXIO));
}

#[test]
fn pending_and_active_survive_a_snapshot() {
    let d = Device::new(1);
    d.init().unwrap();
    let mut m = d.machine;
    m.write(0, Region::Dist, 0, 2);
    m.write(0, Region::Dist, 0x104, 3);
    m.write(0, Region::Dist, 0xc08, 0xa);
    m.vgic.inject_spi(32, true).unwrap();
    m.vgic.inject_spi(33, true).unwrap();
    assert_eq!(m.ack(0), Some(32));
    let d = Device { machine: m, memory: d.memory };
    // Both are in list registers; the attributes see through them.
    d.machine.kicked();
    assert_eq!(d.get(GRP_DIST_REGS, 0x304, 0), Ok(1));
    assert_eq!(d.machine.kicked(), [0], "to fill them again");
    assert_eq!(d.get(GRP_DIST_REGS, 0x204, 0), Ok(2));
    // Restored elsewhere.
    let e = Device::new(1);
    e.init().unwrap();
    for (offset, value) in [(0, 2), (0x104, 3), (0xc08, 0xa), (0x204, 2), (0x304, 1)] {
        e.set(GRP_DIST_REGS, offset, value).unwrap();
    }
    let mut m = e.machine;
    assert_eq!(m.ack(0), Some(33));
    m.eoi(0, 33);
    m.eoi(0, 32);
    assert_eq!(m.ack(0), None);
    m.sync(0);
    assert_eq!(m.read(0, Region::Dist, 0x304), 0);
}

#[test]
fn cpu_interface_registers() {
    let d = Device::new(2);
    d.init().unwrap();
    let reg = |crn, crm, op2| 1u64 << 32 | u64::from(sysreg(3, 0, crn, crm, op2));
    let set = |reg, value| d.set(GRP_CPU_SYSREGS, reg, value);
    let get = |reg| d.get(GRP_CPU_SYSREGS, reg, 0);
    let (pmr, bpr0, bpr1) = (reg(4, 6, 0), reg(12, 8, 3), reg(12, 12, 3));
    let (ctlr, sre) = (reg(12, 12, 4), reg(12, 12, 5));
    set(pmr, 0xf0).unwrap();
    assert_eq!(get(pmr), Ok(0xf0));
    set(bpr0, 3).unwrap();
    set(bpr1, 5).unwrap();
    assert_eq!((get(bpr0), get(bpr1)), (Ok(3), Ok(5)));
    // PRIbits 4 (5 bits), IDbits 0, CBPR and EOImode.
    assert_eq!(get(ctlr), Ok(0x400));
    set(ctlr, 0x403).unwrap();
    assert_eq!(get(ctlr), Ok(0x403));
    assert_eq!(get(bpr1), Ok(4), "a common binary point");
    set(bpr1, 1).unwrap();
    set(ctlr, 0).unwrap();
    assert_eq!(get(bpr1), Ok(5));
    assert_eq!(set(ctlr, 0x500), Err(Errno::EINVAL));
    assert_eq!(set(ctlr, 0x8400), Err(Errno::EINVAL));
    assert_eq!(get(sre), Ok(7));
    assert_eq!(set(sre, 7), Ok(()));
    assert_eq!(set(sre, 0), Err(Errno::EINVAL));
    for op2 in [6, 7] {
        assert_eq!(get(reg(12, 12, op2)), Ok(1));
        set(reg(12, 12, op2), 0).unwrap();
        assert_eq!(get(reg(12, 12, op2)), Ok(0));
    }
    for (crm, first) in [(8, 4), (9, 0)] {
        set(reg(12, crm, first), 0x1234).unwrap();
        assert_eq!(get(reg(12, crm, first)), Ok(0x1234));
        assert_eq!(get(reg(12, crm, first + 1)), Err(Errno::EINVAL));
    }
    assert_eq!(get(reg(12, 11, 5)), Err(Errno::ENXIO));
    let vgic = &d.machine.vgic;
    assert_eq!(vgic.has_attr(GRP_CPU_SYSREGS, pmr), Ok(()));
    assert_eq!(vgic.has_attr(GRP_CPU_SYSREGS, reg(12, 11, 5)), Err(Errno::ENXIO));
}

#[test]
fn widths() {
    let d = Device::new(1);
    d.init().unwrap();
    let vgic = &d.machine.vgic;
    let read = |region, offset, len| vgic.mmio_read(0, region, offset, len);
    let write = |offset, len, value| vgic.mmio_write(0, Region::Dist, offset, len, value);
    // Priorities: bytes and words, 5 bits.
    write(0x420, 4, 0x1122_33ff);
    assert_eq!(read(Region::Dist, 0x420, 4), 0x1020_30f8);
    assert_eq!(read(Region::Dist, 0x421, 1), 0x30);
    for (offset, len) in [(0x420, 2), (0x420, 8), (0x421, 4), (0x104, 1), (0x105, 4), (0x100, 8)] {
        write(offset, len, u64::MAX);
        assert_eq!(read(Region::Dist, offset, len), 0);
    }
    assert_eq!(read(Region::Dist, 0x420, 4), 0x1020_30f8);
    assert_eq!(read(Region::Dist, 0x104, 4), 0);
    // Private ones aren't in the distributor.
    write(0x100, 4, u64::MAX);
    assert_eq!(read(Region::Dist, 0x100, 4), 0);
    // Routes: words and doublewords.
    write(0x6100, 8, 1 << 31 | 0xff << 32 | 0x123456);
    assert_eq!(read(Region::Dist, 0x6100, 8), 0x123456);
    assert_eq!(read(Region::Dist, 0x6100, 4), 0x123456);
    assert_eq!(read(Region::Dist, 0x6104, 4), 0);
    assert_eq!(read(Region::Dist, 0x6104, 8), 0);
    assert_eq!(read(Region::Dist, 0x6100, 2), 0);
    assert_eq!(read(Region::Dist, 0xffe8, 4), 0x3b);
    let r = Region::Redist(0);
    assert_eq!(read(r, 8, 8), 0);
    assert_eq!(read(r, 0xffe8, 4), 0x3b);
    assert_eq!(read(r, 4, 4), 0x4b00_343b);
    assert_eq!(read(r, 0x1_0c00, 4), 0xaaaa_aaaa);
    vgic.mmio_write(0, r, 0x1_0c04, 4, u64::MAX);
    assert_eq!(read(r, 0x1_0c04, 4), 0);
    assert_eq!(read(Region::Redist(1), 4, 4), 0);
    vgic.mmio_write(0, Region::Dist, 0xc08, 4, 0xffff_ffff);
    assert_eq!(read(Region::Dist, 0xc08, 4), 0xaaaa_aaaa);
    assert_eq!(read(Region::Dist, 0xc0c, 4), 0);
}
