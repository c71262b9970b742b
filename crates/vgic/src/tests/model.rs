//! One interrupt against the rules of the GIC architecture (GICv3, 4.1.2
//! "Interrupt handling state machine").

use super::*;

/// What the architecture says of one interrupt.
#[derive(Clone, Copy, Debug, Default)]
struct Spec {
    edge: bool,
    enabled: bool,
    latch: bool,
    line: bool,
    active: bool,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Line(bool),
    Enable(bool),
    Pend(bool),
    Activate(bool),
    Ack,
    End,
    /// The vCPU is put and loaded again.
    Sync,
}

const OPS: [Op; 11] = [
    Op::Line(true),
    Op::Line(false),
    Op::Enable(true),
    Op::Enable(false),
    Op::Pend(true),
    Op::Pend(false),
    Op::Activate(true),
    Op::Activate(false),
    Op::Ack,
    Op::End,
    Op::Sync,
];

impl Spec {
    fn pending(&self) -> bool {
        self.latch || (self.line && !self.edge)
    }
}

struct Pair {
    machine: Machine,
    spec: Spec,
    intid: u32,
    /// vCPU 1 does what is done by MMIO: list registers stay as they are until
    /// vCPU 0, kicked, exits.
    remote: bool,
}

impl Pair {
    fn new(edge: bool, intid: u32, remote: bool) -> Pair {
        let machine = Machine::with_irqs(2, 64);
        if edge {
            machine.write(0, Region::Dist, 0xc08, 2);
        }
        Pair { machine, spec: Spec { edge, ..Spec::default() }, intid, remote }
    }

    fn registers(&self) -> (Region, u32, u32) {
        if self.intid < 32 {
            (Region::Redist(0), SGI_FRAME, 1 << self.intid)
        } else {
            (Region::Dist, self.intid / 32 * 4, 1 << (self.intid % 32))
        }
    }

    fn write(&mut self, offset: u32) {
        let (region, base, mask) = self.registers();
        if self.remote {
            self.machine.write(1, region, base + offset, mask);
            self.machine.enter(0);
            return;
        }
        if Vgic::needs_sync(region, base + offset) {
            self.machine.sync(0);
        }
        self.machine.write(0, region, base + offset, mask);
    }

    fn step(&mut self, op: Op) {
        let spec = &mut self.spec;
        match op {
            Op::Line(level) => {
                if spec.edge {
                    spec.latch |= level;
                } else {
                    spec.line = level;
                }
                if self.intid < 32 {
                    self.machine.vgic.inject_ppi(0, self.intid, level).unwrap();
                } else {
                    self.machine.vgic.inject_spi(self.intid, level).unwrap();
                }
            }
            Op::Enable(on) => {
                spec.enabled = on;
                self.write(if on { 0x100 } else { 0x180 });
            }
            Op::Pend(on) => {
                spec.latch = on;
                self.write(if on { 0x200 } else { 0x280 });
            }
            Op::Activate(on) => {
                spec.active = on;
                self.write(if on { 0x300 } else { 0x380 });
            }
            Op::Ack => {
                let expect = spec.enabled && spec.pending() && !spec.active;
                if expect {
                    spec.latch = false;
                    spec.active = true;
                }
                assert_eq!(self.machine.ack(0).is_some(), expect, "{:?}", self.spec);
            }
            Op::End => {
                if spec.active {
                    spec.active = false;
                    self.machine.eoi(0, self.intid);
                }
            }
            Op::Sync => {
                self.machine.sync(0);
                let ready = spec.enabled && spec.pending() && !spec.active;
                let lrs = &self.machine.lrs.borrow()[0];
                assert_eq!(self.machine.vgic.has_deliverable(0, lrs), ready);
            }
        }
    }

    /// Compares what the guest reads; that syncs.
    fn compare(&mut self) {
        self.machine.sync(0);
        let (region, base, mask) = self.registers();
        let read = |offset| self.machine.read(0, region, base + offset) & mask != 0;
        assert_eq!(read(0x100), self.spec.enabled);
        assert_eq!(read(0x200), self.spec.pending(), "pending {:?}", self.spec);
        assert_eq!(read(0x300), self.spec.active, "active {:?}", self.spec);
    }
}

/// Every sequence of `LENGTH` operations, with list registers left in the
/// hardware as long as may be.
#[test]
fn all_short_stories() {
    const LENGTH: u32 = 5;
    for (edge, intid, remote) in [
        (true, 32, false),
        (false, 32, false),
        (false, 20, false),
        (true, 32, true),
        (false, 32, true),
    ] {
        for story in 0..(OPS.len() as u64).pow(LENGTH) {
            let mut pair = Pair::new(edge, intid, remote);
            // Enabled from the start: the interesting part comes sooner.
            pair.step(Op::Enable(true));
            let mut rest = story as usize;
            for _ in 0..LENGTH {
                pair.step(OPS[rest % OPS.len()]);
                rest /= OPS.len();
            }
            pair.compare();
            pair.step(Op::Ack);
            pair.compare();
        }
    }
}

proptest::proptest! {
    #[test]
    fn long_stories(
        edge: bool,
        remote: bool,
        story in proptest::collection::vec(0usize..OPS.len(), 0..200),
        compare: u64,
    ) {
        let mut pair = Pair::new(edge, 32, remote);
        for (at, op) in story.into_iter().enumerate() {
            pair.step(OPS[op]);
            if compare >> (at % 64) & 1 != 0 {
                pair.compare();
            }
        }
        pair.compare();
    }
}
