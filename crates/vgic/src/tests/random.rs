//! Random use by several vCPUs: nothing panics, nothing is in two places, and
//! nothing is lost.

use super::*;
use proptest::prelude::*;

const VCPUS: usize = 3;

#[derive(Clone, Debug)]
enum Op {
    Line(u32, bool),
    Ppi(usize, u32, bool),
    Timer(usize),
    Sgi(usize, u64, u8),
    Read(usize, u32, u32, u32),
    Write(usize, u32, u32, u32, u64),
    Enter(usize),
    Sync(usize),
    Ack(usize),
    End(usize, usize),
    Deactivate(usize, u32),
    Lines(u32),
}

/// Registers that do something, more often than those that don't.
fn offset() -> impl Strategy<Value = u32> {
    prop_oneof![
        8 => (0u32..0x3c).prop_map(|word| 0x80 + word * 0x10),
        4 => (0u32..4).prop_map(|word| 0x100 + word * 4),
        4 => (0u32..0x60).prop_map(|byte| 0x400 + byte),
        2 => (0u32..6).prop_map(|word| 0xc00 + word * 4),
        4 => (0u32..0x20).prop_map(|intid| 0x6100 + intid * 8),
        2 => 0u32..0x100,
        1 => 0u32..0x1_0000,
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let vcpu = || 0..VCPUS;
    let value =
        prop_oneof![Just(0u64), Just(1), Just(2), any::<u64>(), any::<u32>().prop_map(u64::from)];
    prop_oneof![
        4 => (32u32..72, any::<bool>()).prop_map(|(i, l)| Op::Line(i, l)),
        2 => (vcpu(), 16u32..32, any::<bool>()).prop_map(|(v, i, l)| Op::Ppi(v, i, l)),
        2 => vcpu().prop_map(Op::Timer),
        3 => (vcpu(), any::<u64>(), 0u8..4).prop_map(|(v, s, k)| Op::Sgi(v, s, k)),
        3 => (vcpu(), 0u32..6, offset(), 0u32..4).prop_map(|(v, r, o, w)| Op::Read(v, r, o, 1 << w)),
        6 => (vcpu(), 0u32..6, offset(), 0u32..4, value)
            .prop_map(|(v, r, o, w, x)| Op::Write(v, r, o, 1 << w, x)),
        4 => vcpu().prop_map(Op::Enter),
        2 => vcpu().prop_map(Op::Sync),
        6 => vcpu().prop_map(Op::Ack),
        4 => (vcpu(), 0usize..8).prop_map(|(v, n)| Op::End(v, n)),
        1 => (vcpu(), 0u32..80).prop_map(|(v, i)| Op::Deactivate(v, i)),
        1 => any::<u32>().prop_map(Op::Lines),
    ]
}

fn region(which: u32) -> (Region, u32) {
    match which {
        0..2 => (Region::Dist, 0),
        n => (Region::Redist((n - 2) as u16), SGI_FRAME),
    }
}

fn run(machine: &mut Machine, active: &mut [Vec<u32>], op: Op) {
    match op {
        Op::Line(intid, level) => machine.vgic.inject_spi(intid, level).unwrap(),
        Op::Ppi(vcpu, intid, level) => machine.vgic.inject_ppi(vcpu, intid, level).unwrap(),
        Op::Timer(vcpu) => machine.vgic.inject_ppi(vcpu, 27, true).unwrap(),
        Op::Sgi(vcpu, value, 0) => machine.vgic.send_sgi(vcpu, value, SgiKind::Sgi0),
        Op::Sgi(vcpu, value, 1) => machine.vgic.send_sgi(vcpu, value, SgiKind::Asgi1),
        Op::Sgi(vcpu, value, _) => {
            let value = value & 0x100_0f00_0007;
            let own = value & !(0xf << 24) == 1 << vcpu;
            if !(own && machine.send_to_self(vcpu, (value >> 24) as usize & 0xf)) {
                send(machine, vcpu, value);
            }
        }
        Op::Read(vcpu, which, offset, len) => {
            let (region, base) = region(which);
            machine.vgic.mmio_read(vcpu, region, base + offset, len);
        }
        Op::Write(vcpu, which, offset, len, value) => {
            let (region, base) = region(which);
            if Vgic::needs_sync(region, base + offset) {
                machine.sync(vcpu);
            }
            machine.vgic.mmio_write(vcpu, region, base + offset, len, value);
        }
        Op::Enter(vcpu) => machine.enter(vcpu),
        Op::Sync(vcpu) => machine.sync(vcpu),
        Op::Ack(vcpu) => active[vcpu].extend(machine.ack(vcpu)),
        Op::End(vcpu, nth) => {
            if !active[vcpu].is_empty() {
                let at = nth % active[vcpu].len();
                let intid = active[vcpu].remove(at);
                machine.eoi(vcpu, intid);
            }
        }
        Op::Deactivate(vcpu, intid) => {
            machine.sync(vcpu);
            machine.vgic.deactivate(vcpu, intid);
        }
        Op::Lines(lines) => machine.lines = lines,
    }
    machine.check();
}

/// Nobody raises anything any more: all that is pending, enabled and routed is
/// taken by someone.
fn drain(machine: &mut Machine) {
    machine.lines = 0;
    machine.write(0, Region::Dist, 0, 3);
    for vcpu in 0..VCPUS {
        for intid in 16..32 {
            machine.vgic.inject_ppi(vcpu, intid, false).unwrap();
        }
    }
    for intid in 32..256 {
        machine.vgic.inject_spi(intid, false).unwrap();
    }
    // Guests that end nothing may have left anything active.
    for vcpu in 0..VCPUS {
        machine.sync(vcpu);
    }
    for word in 1..8 {
        machine.write(0, Region::Dist, 0x380 + 4 * word, u32::MAX);
    }
    for vcpu in 0..VCPUS {
        machine.write(vcpu, Region::Redist(vcpu as u16), SGI_FRAME + 0x380, u32::MAX);
    }
    for _ in 0..3 {
        for vcpu in 0..VCPUS {
            let mut taken = 0;
            while let Some(intid) = machine.ack(vcpu) {
                machine.eoi(vcpu, intid);
                taken += 1;
                assert!(taken < 1000, "interrupts don't end");
            }
            machine.sync(vcpu);
        }
    }
    let live = machine.vgic.live().unwrap();
    for cpu in &live.cpus {
        for n in 0..8 {
            let bank = live.lock_bank(cpu, n).unwrap();
            assert_eq!(bank.inflight, 0);
            let routed = (0..32).filter(|&i| bank.target[i] != crate::bank::NO_CPU);
            let routed = routed.fold(0u32, |all, i| all | 1 << i);
            assert_eq!(bank.candidates(live.gate()) & routed, 0, "bank {n} of {}", cpu.index());
            assert_eq!(bank.forwarded, 0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn nothing_is_lost(ops in proptest::collection::vec(op(), 0..120), enable: [u32; 2], edge: [u32; 4]) {
        let mut machine = Machine::new(VCPUS);
        for vcpu in 0..VCPUS {
            machine.vgic.map_phys(vcpu, 27, Some(27)).unwrap();
            machine.write(vcpu, Region::Redist(vcpu as u16), SGI_FRAME + 0x100, u32::MAX);
        }
        for (word, value) in enable.into_iter().enumerate() {
            machine.write(0, Region::Dist, 0x104 + 4 * word as u32, value);
        }
        for (word, value) in edge.into_iter().enumerate() {
            machine.write(0, Region::Dist, 0xc08 + 4 * word as u32, value);
        }
        let mut active = vec![Vec::new(); VCPUS];
        for op in ops {
            run(&mut machine, &mut active, op);
        }
        drain(&mut machine);
    }

    #[test]
    fn any_list_registers_fold(lrs: [u64; 16], used in 0u8..=255, hcr: u64, vmcr: u64, lines: u32) {
        let machine = Machine::new(2);
        let mut interface = ListRegisters { lr: lrs, used, hcr, vmcr, ..ListRegisters::new() };
        machine.vgic.has_deliverable(0, &interface);
        machine.vgic.sync(0, &mut interface, lines);
        interface.lr = lrs;
        interface.used = used;
        machine.vgic.flush(0, &mut interface, lines);
        machine.vgic.flush(9, &mut interface, lines);
    }

    #[test]
    fn any_access_is_answered(
        ops in proptest::collection::vec((0usize..4, 0u16..6, any::<u32>(), 0u32..=16, any::<u64>()), 0..50),
    ) {
        let machine = Machine::new(2);
        for (vcpu, cpu, offset, len, value) in ops {
            let region = if cpu == 5 { Region::Dist } else { Region::Redist(cpu) };
            for offset in [offset, offset & 0x1_ffff] {
                machine.vgic.mmio_write(vcpu, region, offset, len, value);
                machine.vgic.mmio_read(vcpu, region, offset, len);
            }
        }
    }
}
