//! GICv2: the distributor's own registers, senders of SGIs, device attributes.

use super::*;
use crate::attr::*;
use crate::gich::{lr_from_gich, lr_to_gich};
use crate::{ICH_LR_ACTIVE, ICH_LR_EOI, ICH_LR_GROUP, ICH_LR_HW, ICH_LR_PENDING};
use proptest::prelude::*;

const D: Region = Region::DistV2;
const AT: u64 = 0x1000;
const ISENABLER1: u32 = 0x104;
const ISPENDR0: u32 = 0x200;
const ICPENDR0: u32 = 0x280;
const ITARGETSR: u32 = 0x800;
const SGIR: u32 = 0xf00;
const CPENDSGIR: u32 = 0xf10;
const SPENDSGIR: u32 = 0xf20;

fn machine(vcpus: usize) -> Machine {
    let machine = Machine::bare_of(Version::V2, vcpus);
    machine.vgic.init().unwrap();
    machine.write(0, D, 0, 1);
    for vcpu in 0..vcpus {
        machine.vgic.cpu(vcpu).unwrap().work.store(0, core::sync::atomic::Ordering::SeqCst);
    }
    machine.kicked();
    machine
}

impl Machine {
    /// Acknowledges, and says whose it is: INTID and sender.
    fn ack_from(&mut self, vcpu: usize) -> Option<(u32, u8)> {
        let intid = self.ack(vcpu)?;
        let lrs = &self.lrs.borrow()[vcpu];
        let lr = lrs.in_use().iter().map(|&lr| Lr::decode(lr)).find(|lr| lr.intid == intid)?;
        Some((intid & 0x3ff, lr.sender()))
    }

    /// Ends an SGI, whoever sent it.
    fn end(&mut self, vcpu: usize, intid: u32) {
        self.enter(vcpu);
        let active = {
            let lrs = &self.lrs.borrow()[vcpu];
            let mut all = lrs.in_use().iter().map(|&lr| Lr::decode(lr));
            all.find(|lr| lr.active && lr.intid & 0x3ff == intid).unwrap().intid
        };
        self.eoi(vcpu, active);
    }

    fn byte(&self, vcpu: usize, offset: u32) -> u8 {
        self.vgic.mmio_read(vcpu, D, offset, 1) as u8
    }

    fn set_byte(&self, vcpu: usize, offset: u32, value: u8) {
        self.vgic.mmio_write(vcpu, D, offset, 1, value.into());
    }
}

#[test]
fn identification() {
    let m = machine(3);
    assert_eq!(m.read(0, D, 0), 1);
    assert_eq!(m.read(0, D, 4), 7 | 2 << 5);
    assert_eq!(m.read(0, D, 8), 0x4b00_343b);
    m.write(0, D, 0, 2);
    assert_eq!(m.read(0, D, 0), 0, "one enable bit");
    assert_eq!(m.read(0, D, 0x80), 0, "group 0");
    assert_eq!(m.read(0, D, SGIR), 0);
    assert_eq!(m.read(0, D, 0xfe8), 0);
}

#[test]
fn spis_go_where_targets_say() {
    let mut m = machine(3);
    m.write(0, D, ISENABLER1, 1);
    m.write(0, D, 0xc08, 2);
    for (targets, goes_to, reads) in
        [(0b100u8, 2usize, 0b100u8), (0b110, 1, 0b110), (0, 0, 0), (0xf8, 0, 0), (0xff, 0, 7)]
    {
        m.set_byte(1, ITARGETSR + 32, targets);
        assert_eq!(m.byte(2, ITARGETSR + 32), reads);
        m.vgic.inject_spi(32, true).unwrap();
        for vcpu in 0..3 {
            assert_eq!(m.ack(vcpu), (vcpu == goes_to).then_some(32), "{targets:#x}");
        }
        m.eoi(goes_to, 32);
        // Until that is known, the next one would go there to be sent on.
        m.sync(goes_to);
    }
    // A word of them; beyond the last SPI there is nothing.
    m.write(0, D, ITARGETSR + 36, 0x0102_0304);
    assert_eq!(m.read(0, D, ITARGETSR + 36), 0x0102_0304);
    m.write(0, D, ITARGETSR + 0x3fc, 0x0101_0101);
    assert_eq!(m.read(0, D, ITARGETSR + 0x3fc), 0);
    // Those of private interrupts say who reads.
    m.write(1, D, ITARGETSR, 0);
    assert_eq!(m.read(1, D, ITARGETSR), 0x0202_0202);
    assert_eq!(m.byte(2, ITARGETSR + 31), 4);
}

#[test]
fn private_registers_are_banked() {
    let m = machine(2);
    m.set_byte(0, 0x400 + 27, 0x58);
    m.write(0, D, 0x100, 1 << 27);
    assert_eq!(m.byte(0, 0x400 + 27), 0x58);
    assert_eq!(m.byte(1, 0x400 + 27), 0);
    assert_eq!(m.read(0, D, 0x100), 1 << 27 | 0xffff);
    assert_eq!(m.read(1, D, 0x100), 0xffff);
}

#[test]
fn sgis_have_senders() {
    let mut m = machine(3);
    m.write(1, D, SGIR, 1 << 16 | 5);
    m.write(2, D, SGIR, 1 << 16 | 5);
    m.write(2, D, SGIR, 1 << 16 | 5);
    assert_eq!(m.byte(0, CPENDSGIR + 5), 0b110);
    assert_eq!(m.read(0, D, ISPENDR0), 1 << 5);
    assert_eq!(m.ack_from(0), Some((5, 1)));
    assert_eq!(m.ack(0), None);
    m.sync(0);
    assert_eq!(m.byte(0, CPENDSGIR + 5), 0b100, "the active one isn't pending");
    m.end(0, 5);
    assert_eq!(m.ack_from(0), Some((5, 2)));
    // The same sender once more, while its first is active.
    m.write(2, D, SGIR, 1 << 16 | 5);
    m.enter(0);
    m.end(0, 5);
    assert_eq!(m.ack_from(0), Some((5, 2)));
    m.end(0, 5);
    assert_eq!(m.ack(0), None);
}

#[test]
fn filters() {
    let mut m = machine(3);
    let who = |m: &mut Machine, value: u32| {
        m.write(1, D, SGIR, value | 3);
        let mut all = 0;
        for vcpu in 0..3 {
            if let Some(got) = m.ack_from(vcpu) {
                assert_eq!(got, (3, 1));
                m.end(vcpu, 3);
                all |= 1 << vcpu;
            }
        }
        all
    };
    assert_eq!(who(&mut m, 0xff << 16), 0b111);
    assert_eq!(who(&mut m, 0b101 << 16), 0b101);
    assert_eq!(who(&mut m, 0xf8 << 16), 0);
    assert_eq!(who(&mut m, 1 << 24 | 0xff << 16), 0b101);
    assert_eq!(who(&mut m, 2 << 24), 0b010);
    assert_eq!(who(&mut m, 3 << 24 | 0xff << 16), 0);
}

#[test]
fn pending_sgis_by_sender() {
    let mut m = machine(2);
    // ISPENDR and ICPENDR don't reach SGIs; PPIs they do.
    m.write(0, D, ISPENDR0, 0x0010_ffff);
    assert_eq!(m.read(0, D, ISPENDR0), 0x0010_0000);
    m.write(0, D, ICPENDR0, 0x0010_0000);
    m.write(0, D, SPENDSGIR + 4, 0x0300_0080);
    assert_eq!(m.read(0, D, ISPENDR0), 1 << 4 | 1 << 7);
    m.write(0, D, ICPENDR0, u32::MAX);
    assert_eq!(m.read(0, D, SPENDSGIR + 4), 0x0300_0080);
    m.set_byte(0, CPENDSGIR + 7, 1);
    m.set_byte(0, CPENDSGIR + 4, 0xff);
    assert_eq!(m.read(0, D, CPENDSGIR + 4), 0x0200_0000);
    assert_eq!(m.ack_from(0), Some((7, 1)));
    m.end(0, 7);
    assert_eq!(m.ack(0), None);
    assert_eq!(m.read(1, D, CPENDSGIR + 4), 0, "banked");
    assert!(Vgic::needs_sync(D, CPENDSGIR) && Vgic::needs_sync(D, SPENDSGIR + 15));
    assert!(!Vgic::needs_sync(D, SGIR) && !Vgic::needs_sync(D, 4));
}

#[test]
fn a_put_vcpu_keeps_senders() {
    let mut m = machine(2);
    m.write(1, D, SGIR, 1 << 16 | 9);
    m.enter(0);
    m.sync(0);
    assert_eq!(m.byte(0, CPENDSGIR + 9), 0b10);
    assert_eq!(m.ack_from(0), Some((9, 1)));
    m.sync(0);
    m.enter(0);
    let lr = Lr::decode(m.lrs.borrow()[0].lr[0]);
    assert!(lr.active && lr.sender() == 1);
    m.end(0, 9);
    assert_eq!(m.ack(0), None);
}

#[test]
fn ends_of_forwarded_interrupts_that_hardware_does_not_see() {
    let config = Config { deactivates: false, ..Machine::config(Version::V2) };
    let mut m = Machine::with_config(config, 1);
    m.vgic.init().unwrap();
    m.write(0, D, 0, 1);
    m.write(0, D, 0x100, 1 << 27);
    m.vgic.map_phys(0, 27, Some(30)).unwrap();
    m.lines = 1 << 27;
    m.vgic.inject_ppi(0, 27, true).unwrap();
    m.enter(0);
    let lr = m.lrs.borrow()[0].lr[0];
    assert_eq!(lr & (ICH_LR_HW | ICH_LR_EOI), ICH_LR_EOI);
    assert_eq!(m.ack(0), Some(27));
    // The line is still up at the end: once more, without the hardware's help.
    m.eoi(0, 27);
    assert_eq!(m.deactivated, []);
    assert_eq!(m.ack(0), Some(27));
    // It falls, and something makes the vCPU leave while it is active.
    m.lines = 0;
    m.flush(0);
    assert_eq!(m.deactivated, []);
    m.eoi(0, 27);
    assert_eq!(m.deactivated, [30]);
    assert_eq!(m.vgic.forwarded(0), 0);
    assert_eq!(m.ack(0), None);
}

struct Device {
    machine: Machine,
    memory: Memory,
}

impl Device {
    fn new(vcpus: usize) -> Device {
        let machine = Machine::bare_of(Version::V2, vcpus);
        Device { machine, memory: Memory(RefCell::new([0; 256])) }
    }

    fn set(&self, group: u32, attr: u64, value: u64) -> Result<()> {
        self.memory.write(AT, &value.to_le_bytes()).unwrap();
        self.machine.vgic.set_attr(group, attr, &self.memory, AT, &self.machine)
    }

    fn get(&self, group: u32, attr: u64) -> Result<u64> {
        self.memory.write(AT, &[0; 8]).unwrap();
        self.machine.vgic.get_attr(group, attr, &self.memory, AT, &self.machine)?;
        let mut bytes = [0; 8];
        self.memory.read(AT, &mut bytes).unwrap();
        Ok(u64::from_le_bytes(bytes))
    }
}

#[test]
fn eight_vcpus() {
    let m = Machine::bare_of(Version::V2, 8);
    assert_eq!(m.vgic.add_vcpu(8, 8), Err(Errno::EINVAL));
}

#[test]
fn addresses() {
    let d = Device::new(1);
    let vgic = &d.machine.vgic;
    for attr in [ADDR_V2_DIST, ADDR_V2_CPU] {
        assert_eq!(vgic.has_attr(GRP_ADDR, attr), Ok(()));
        assert_eq!(d.get(GRP_ADDR, attr), Ok(u64::MAX));
        assert_eq!(d.set(GRP_ADDR, attr, 0x1800), Err(Errno::EINVAL));
        assert_eq!(d.set(GRP_ADDR, attr, 1 << 40), Err(Errno::E2BIG));
    }
    for attr in [ADDR_DIST, ADDR_REDIST, ADDR_REDIST_REGION, 4] {
        assert_eq!(vgic.has_attr(GRP_ADDR, attr), Err(Errno::ENXIO));
        assert_eq!(d.set(GRP_ADDR, attr, 0), Err(Errno::ENXIO));
        assert_eq!(d.get(GRP_ADDR, attr), Err(Errno::ENXIO));
    }
    assert_eq!(d.set(GRP_ADDR, ADDR_V2_DIST, 0x1000), Ok(()));
    assert_eq!(d.set(GRP_ADDR, ADDR_V2_DIST, 0x2000), Err(Errno::EEXIST));
    assert_eq!(vgic.map_resources(), Err(Errno::ENXIO));
    // No device says "init" after KVM_CREATE_IRQCHIP: the first KVM_RUN does.
    assert!(!vgic.is_initialized());
    assert_eq!(d.set(GRP_ADDR, ADDR_V2_CPU, 0x2000), Ok(()));
    assert_eq!(d.get(GRP_ADDR, ADDR_V2_CPU), Ok(0x2000));
    assert_eq!(vgic.decode(0x1000), None);
    assert_eq!(vgic.map_resources(), Ok(()));
    assert!(vgic.is_initialized());
    assert_eq!(vgic.decode(0x1ffc), Some((D, 0xffc)));
    assert_eq!(vgic.decode(0x2000), None);
    assert_eq!(vgic.cpu_interface(0x1fff), None);
    assert_eq!(vgic.cpu_interface(0x2000), Some(0));
    assert_eq!(vgic.cpu_interface(0x3fff), Some(0x1fff));
    assert_eq!(vgic.cpu_interface(0x4000), None);
}

#[test]
fn frames_must_not_overlap() {
    let d = Device::new(1);
    d.set(GRP_ADDR, ADDR_V2_DIST, 0x2000).unwrap();
    d.set(GRP_ADDR, ADDR_V2_CPU, 0x1000).unwrap();
    assert_eq!(d.machine.vgic.map_resources(), Err(Errno::EINVAL));
}

#[test]
fn an_interrupt_initialises() {
    let d = Device::new(1);
    assert_eq!(d.machine.vgic.inject_spi(40, true), Ok(()));
    assert!(d.machine.vgic.is_initialized());
    let none = Device::new(0);
    assert_eq!(none.machine.vgic.inject_spi(40, true), Err(Errno::ENODEV));
}

#[test]
fn register_attributes() {
    let mut d = Device::new(2);
    let vgic = &d.machine.vgic;
    for offset in [0u64, 4, 8, 0x80, 0x100, 0x3fc, 0x400, 0x800, 0xbfc, 0xc00, 0xf00, 0xf10, 0xf2c]
    {
        assert_eq!(vgic.has_attr(GRP_DIST_REGS, offset), Ok(()), "{offset:#x}");
        assert_eq!(vgic.has_attr(GRP_DIST_REGS, 1 << 32 | offset), Ok(()));
    }
    for offset in [1u64, 0xc, 0x7c, 0xd00, 0xf04, 0xf30, 0xfe8, 0x6000] {
        assert_eq!(vgic.has_attr(GRP_DIST_REGS, offset), Err(Errno::ENXIO), "{offset:#x}");
        assert_eq!(d.get(GRP_DIST_REGS, offset), Err(Errno::ENXIO));
    }
    for offset in [0u64, 4, 8, 0x1c, 0xd0, 0xdc, 0xfc] {
        assert_eq!(vgic.has_attr(GRP_CPU_REGS, offset), Ok(()), "{offset:#x}");
    }
    for offset in [0xcu64, 0x10, 0x20, 0xe0, 0x100, 0x1000] {
        assert_eq!(vgic.has_attr(GRP_CPU_REGS, offset), Err(Errno::ENXIO), "{offset:#x}");
    }
    assert_eq!(vgic.has_attr(GRP_DIST_REGS, 2 << 32), Err(Errno::EINVAL));
    assert_eq!(vgic.has_attr(GRP_CTRL, CTRL_INIT), Ok(()));
    assert_eq!(vgic.has_attr(GRP_CTRL, CTRL_SAVE_PENDING_TABLES), Err(Errno::ENXIO));
    for group in [GRP_REDIST_REGS, GRP_CPU_SYSREGS, GRP_LEVEL_INFO, 9] {
        assert_eq!(vgic.has_attr(group, 0), Err(Errno::ENXIO));
        assert_eq!(d.set(group, 0, 0), Err(Errno::ENXIO));
        assert_eq!(d.get(group, 0), Err(Errno::ENXIO));
    }
    d.machine.running = true;
    assert_eq!(d.get(GRP_CPU_REGS, 0), Err(Errno::EBUSY));
}

#[test]
fn saved_and_restored() {
    let d = Device::new(2);
    // Groups may be written once the revision was confirmed.
    d.set(GRP_DIST_REGS, 0x80, 0xf0).unwrap();
    assert_eq!(d.get(GRP_DIST_REGS, 0x80), Ok(0));
    assert_eq!(d.set(GRP_DIST_REGS, 8, 0x4b00_143b), Err(Errno::EINVAL));
    assert_eq!(d.set(GRP_DIST_REGS, 8, 0x4b00_243b), Ok(()));
    d.set(GRP_DIST_REGS, 0x80, 0xf0).unwrap();
    assert_eq!(d.get(GRP_DIST_REGS, 0x80), Ok(0xf0));
    assert_eq!(d.get(GRP_DIST_REGS, 1 << 32 | 0x80), Ok(0));
    // Pending SGIs come without senders.
    d.set(GRP_DIST_REGS, 1 << 32 | 0x200, 0x0010_0004).unwrap();
    assert_eq!(d.get(GRP_DIST_REGS, 1 << 32 | 0x200), Ok(0x0010_0004));
    assert_eq!(d.get(GRP_DIST_REGS, 1 << 32 | 0xf10), Ok(0x0002_0000));
    d.set(GRP_DIST_REGS, 1 << 32 | 0x280, 0x0010_0004).unwrap();
    assert_eq!(d.get(GRP_DIST_REGS, 1 << 32 | 0x200), Ok(0));
    // A line that is up is pending, whoever looks: nothing else tells of it.
    d.machine.vgic.inject_spi(40, true).unwrap();
    assert_eq!(d.get(GRP_DIST_REGS, 0x204), Ok(1 << 8));
    assert_eq!(d.get(GRP_DIST_REGS, 0x284), Ok(1 << 8));
    d.machine.vgic.inject_spi(40, false).unwrap();
    assert_eq!(d.get(GRP_DIST_REGS, 0x204), Ok(0));
    // The CPU interface: the priority mask's upper five bits.
    for (offset, value) in [(0u64, 0x201u64), (4, 0x1e), (8, 3), (0x1c, 4), (0xd0, 0x10)] {
        d.set(GRP_CPU_REGS, 1 << 32 | offset, value).unwrap();
        assert_eq!(d.get(GRP_CPU_REGS, 1 << 32 | offset), Ok(value), "{offset:#x}");
    }
    assert_eq!(d.machine.lrs.borrow()[1].vmcr, 0x1e << 27 | 3 << 21 | 4 << 18 | 0x201);
    assert_eq!(d.machine.lrs.borrow()[1].ap0r[0], 0x10);
    assert_eq!(d.get(GRP_CPU_REGS, 0xfc), Ok(0x04b2_043b));
    d.set(GRP_CPU_REGS, 0xfc, 0).unwrap();
    assert_eq!(d.get(GRP_CPU_REGS, 0xd4), Ok(0));
}

#[test]
fn list_register_layout() {
    // GIC architecture specification 2.0, 5.3.11.
    let sgi = 5 | 3 << 10 | 0xa0 << 48 | ICH_LR_PENDING;
    assert_eq!(lr_to_gich(sgi), 1 << 28 | 0x14 << 23 | 3 << 10 | 5);
    let timer = 27 | 27 << 32 | ICH_LR_HW | ICH_LR_ACTIVE;
    assert_eq!(lr_to_gich(timer), 1 << 31 | 1 << 29 | 27 << 10 | 27);
    let spi = 40 | ICH_LR_EOI | ICH_LR_GROUP | 0x08 << 48;
    assert_eq!(lr_to_gich(spi), 1 << 30 | 1 << 23 | 1 << 19 | 40);
}

proptest! {
    #[test]
    fn list_registers_survive(
        intid in 0u32..1020, pending: bool, active: bool, hw: Option<u16>, eoi: bool,
        group1: bool, priority: u8, sender in 0u32..8,
    ) {
        let hw = hw.map(|intid| intid & 0x3ff);
        let lr = Lr {
            intid: intid | if hw.is_some() { 0 } else { sender << 10 },
            pending, active, hw, group1,
            eoi: eoi && hw.is_none(),
            priority: priority & 0xf8,
        };
        prop_assert_eq!(lr_from_gich(lr_to_gich(lr.encode())), lr.encode());
    }
}
