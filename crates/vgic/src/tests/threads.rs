//! vCPUs on threads of their own: what is sent arrives, exactly once, whatever
//! the others do meanwhile.

use super::*;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

struct Nobody;
impl Kick for Nobody {
    fn kick(&self, _: usize) {}
}

/// Runs one vCPU: acknowledges and ends whatever comes, and counts it.
fn guest(vgic: &Vgic, vcpu: usize, stop: &AtomicBool, seen: &[AtomicU32]) {
    let cpu = vgic.cpu(vcpu).unwrap();
    let mut lrs = ListRegisters { vmcr: 0xf800_0002, ..ListRegisters::new() };
    let mut turn = 0u32;
    while !stop.load(Ordering::Relaxed) {
        if cpu.needs_flush() {
            vgic.flush(vcpu, &mut lrs, 0);
        }
        for lr in lrs.lr.iter_mut() {
            let mut state = Lr::decode(*lr);
            if state.pending && !state.active {
                (state.pending, state.active) = (false, true);
                seen[state.intid as usize].fetch_add(1, Ordering::SeqCst);
            } else if state.active && turn & 1 == 0 {
                state.active = false;
            }
            if *lr != 0 {
                *lr = state.encode();
            }
        }
        turn = turn.wrapping_add(1);
        if turn.is_multiple_of(7) {
            vgic.sync(vcpu, &mut lrs, 0);
        }
        // Fewer CPUs than threads: a spin lock's holder must get on.
        thread::yield_now();
    }
}

#[test]
fn nothing_sent_is_lost_or_doubled() {
    const ROUNDS: u32 = 1000;
    let vgic = Vgic::new(Arc::new(Nobody), Machine::config(Version::V3));
    for vcpu in 0..3 {
        vgic.add_vcpu(vcpu, vcpu.into()).unwrap();
    }
    vgic.init().unwrap();
    let write = |offset, value| vgic.mmio_write(2, Region::Dist, offset, 4, value);
    write(0, 2);
    write(0x104, u64::from(u32::MAX));
    write(0xc08, u64::from(u32::MAX));
    let stop = AtomicBool::new(false);
    let seen: Vec<AtomicU32> = (0..64).map(|_| AtomicU32::new(0)).collect();
    let wait = |intid: usize, count: u32| {
        let mut spins = 0u64;
        while seen[intid].load(Ordering::SeqCst) < count {
            spins += 1;
            thread::yield_now();
            assert!(spins < 1 << 24, "interrupt {intid} got lost:\n{vgic:?}");
        }
    };
    thread::scope(|scope| {
        for vcpu in 0..2 {
            let (vgic, stop, seen) = (&vgic, &stop, &seen);
            scope.spawn(move || guest(vgic, vcpu, stop, seen));
        }
        // vCPU 2's thread looks at everything and moves it about.
        scope.spawn(|| {
            let mut turn = 0u64;
            while !stop.load(Ordering::Relaxed) {
                turn += 1;
                write(0x6100, turn & 1);
                vgic.mmio_read(2, Region::Redist(0), SGI_FRAME + 0x200, 4);
                vgic.mmio_read(2, Region::Redist(1), SGI_FRAME + 0x300, 4);
                vgic.mmio_read(2, Region::Dist, 0x204, 4);
                // Off and on again.
                write(0x184, 1);
                write(0x104, 1);
                thread::yield_now();
            }
        });
        for round in 1..=ROUNDS {
            vgic.send_sgi(2, sgi1r(0, 1 + u64::from(round & 1), 5), SgiKind::Sgi1);
            vgic.inject_spi(32, true).unwrap();
            wait(5, round);
            wait(32, round);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(seen[5].load(Ordering::SeqCst), ROUNDS);
    assert_eq!(seen[32].load(Ordering::SeqCst), ROUNDS);
}
