//! Interrupts, one story each.

use super::*;
use crate::{ICH_LR_EOI, ICH_LR_HW, ICH_LR_PENDING};

const D: Region = Region::Dist;

/// Enables SPIs of bank 1 and makes those in `edge` edge-triggered.
fn enable(machine: &Machine, mask: u32, edge: u32) {
    machine.write(0, D, 0x104, mask);
    for half in 0..2 {
        let mut config = 0;
        for i in 0..16 {
            config |= (edge >> (half * 16 + i) & 1) << (2 * i + 1);
        }
        machine.write(0, D, 0xc08 + 4 * half, config);
    }
}

#[test]
fn an_edge_comes_once() {
    let mut m = Machine::new(1);
    enable(&m, 1, 1);
    m.vgic.inject_spi(32, true).unwrap();
    assert_eq!(m.kicked(), [0]);
    assert_eq!(m.ack(0), Some(32));
    assert_eq!(m.ack(0), None);
    // Again while active: after the end.
    m.vgic.inject_spi(32, true).unwrap();
    assert_eq!(m.ack(0), None);
    m.eoi(0, 32);
    assert_eq!(m.ack(0), Some(32));
    m.eoi(0, 32);
    assert_eq!(m.ack(0), None);
    m.vgic.inject_spi(32, false).unwrap();
    assert_eq!(m.ack(0), None);
}

#[test]
fn special_intids_are_no_interrupts() {
    let mut m = Machine::with_irqs(1, 1024);
    let last = (0x100 + 31 * 4, 0x200 + 31 * 4, 0x300 + 31 * 4);
    m.write(0, D, last.0, u32::MAX);
    assert_eq!(m.vgic.inject_spi(1019, true), Ok(()));
    for intid in 1020..1024 {
        assert_eq!(m.vgic.inject_spi(intid, true), Err(Errno::EINVAL));
    }
    assert_eq!(m.ack(0), Some(1019));
    m.vgic.inject_spi(1019, false).unwrap();
    m.eoi(0, 1019);
    // Nor by way of the registers.
    m.write(0, D, last.1, 0xf << 28);
    m.write(0, D, last.2, 0xf << 28);
    assert_eq!(m.ack(0), None);
    assert_eq!((m.read(0, D, last.1) | m.read(0, D, last.2)) >> 28, 0);
    // INTIDs 992 to 1007 have their whole configuration register.
    m.write(0, D, 0xc00 + 62 * 4, 0xaaaa_aaaa);
    assert_eq!(m.read(0, D, 0xc00 + 62 * 4), 0xaaaa_aaaa);
}

#[test]
fn a_level_comes_until_it_falls() {
    let mut m = Machine::new(1);
    enable(&m, 1, 0);
    m.vgic.inject_spi(32, true).unwrap();
    assert_eq!(m.ack(0), Some(32));
    m.eoi(0, 32);
    assert_eq!(m.ack(0), Some(32));
    m.kicked();
    m.vgic.inject_spi(32, false).unwrap();
    assert_eq!(m.kicked(), [0]);
    m.enter(0);
    let lr = m.lrs.borrow()[0].lr[0];
    assert_eq!(lr & ICH_LR_EOI, 0, "nothing to learn from this end");
    m.eoi(0, 32);
    assert_eq!(m.ack(0), None);
    // Rises again in the handler.
    m.vgic.inject_spi(32, true).unwrap();
    assert_eq!(m.ack(0), Some(32));
    m.vgic.inject_spi(32, false).unwrap();
    m.enter(0);
    m.vgic.inject_spi(32, true).unwrap();
    assert_eq!(m.ack(0), None);
    m.eoi(0, 32);
    assert_eq!(m.ack(0), Some(32));
}

#[test]
fn a_level_that_falls_unseen_is_withdrawn() {
    let mut m = Machine::new(1);
    enable(&m, 1, 0);
    m.vgic.inject_spi(32, true).unwrap();
    m.enter(0);
    assert_eq!(m.lrs.borrow()[0].used, 1);
    m.vgic.inject_spi(32, false).unwrap();
    assert_eq!(m.ack(0), None);
}

#[test]
fn disabled_ones_wait_and_are_withdrawn() {
    let mut m = Machine::new(1);
    m.vgic.inject_spi(40, true).unwrap();
    assert!(m.kicked().is_empty());
    assert_eq!(m.ack(0), None);
    assert_eq!(m.read(0, D, 0x204), 1 << 8);
    m.write(0, D, 0x104, 1 << 8);
    m.enter(0);
    assert_eq!(m.lrs.borrow()[0].used, 1);
    m.write(0, D, 0x184, 1 << 8);
    assert_eq!(m.ack(0), None);
    m.write(0, D, 0x104, 1 << 8);
    m.write(0, D, 0, 0);
    assert_eq!(m.ack(0), None);
    m.write(0, D, 0, 2);
    assert_eq!(m.ack(0), Some(40));
}

#[test]
fn priorities_decide_who_gets_a_list_register() {
    let mut m = Machine::new(1);
    enable(&m, 0xffff_ffff, 0xffff_ffff);
    for i in 0..8u32 {
        m.vgic.mmio_write(0, D, 0x420 + i, 1, u64::from((7 - i) << 3));
        m.vgic.inject_spi(32 + i, true).unwrap();
    }
    for i in (0..8).rev() {
        assert_eq!(m.ack(0), Some(32 + i));
        assert_eq!(m.ack(0).is_some(), i > 0, "nested");
        if i > 0 {
            let nested = 32 + i - 1;
            m.eoi(0, nested);
            m.vgic.inject_spi(nested, true).unwrap();
        }
        m.eoi(0, 32 + i);
    }
    assert_eq!(m.ack(0), None);
}

#[test]
fn those_that_wait_get_the_room_that_active_ones_leave() {
    let mut m = Machine::new(1);
    enable(&m, 0xffff_ffff, 0xffff_ffff);
    // Equal priorities, nothing ended: as with EOImode 1 and threads.
    for i in 0..7u32 {
        m.vgic.inject_spi(32 + i, true).unwrap();
    }
    for i in 0..7 {
        assert_eq!(m.ack(0), Some(32 + i));
    }
    assert_eq!(m.ack(0), None);
}

#[test]
fn more_active_ones_than_list_registers() {
    let mut m = Machine::new(1);
    enable(&m, 0xffff_ffff, 0xffff_ffff);
    for i in 0..10u32 {
        m.vgic.mmio_write(0, D, 0x420 + i, 1, u64::from((20 - i) << 3));
    }
    // Each preempts the one before.
    for i in 0..10 {
        m.vgic.inject_spi(32 + i, true).unwrap();
        assert_eq!(m.ack(0), Some(32 + i));
    }
    for i in (0..10).rev() {
        m.eoi(0, 32 + i);
        assert_eq!(m.lrs.borrow()[0].hcr >> 27, 0, "an end that nobody heard of");
        m.sync(0);
        let left = (1u32 << i) - 1;
        assert_eq!(m.read(0, D, 0x304), left);
    }
    assert_eq!(m.ack(0), None);
}

#[test]
fn a_mapped_timer_ends_with_the_guest() {
    let mut m = Machine::new(1);
    m.vgic.map_phys(0, 27, Some(27)).unwrap();
    m.write(0, Region::Redist(0), SGI_FRAME + 0x100, 1 << 27);
    m.lines = 1 << 27;
    m.vgic.inject_ppi(0, 27, true).unwrap();
    m.enter(0);
    assert_eq!(m.lrs.borrow()[0].lr[0] & (ICH_LR_HW | 0x1fff << 32), ICH_LR_HW | 27 << 32);
    assert_eq!(m.vgic.forwarded(0), 1 << 27);
    assert_eq!(m.ack(0), Some(27));
    m.eoi(0, 27);
    assert_eq!(m.deactivated, [27]);
    // Its line is still up, but who says so is the physical interrupt.
    send(&m, 0, sgi1r(0, 1, 0));
    assert_eq!(m.ack(0), Some(0));
    assert_eq!(m.ack(0), None);
    m.eoi(0, 0);
    m.vgic.inject_ppi(0, 27, true).unwrap();
    assert_eq!(m.ack(0), Some(27));
    m.eoi(0, 27);
    m.deactivated.pop();
    // The list register is still there; it fires again at once.
    m.vgic.inject_ppi(0, 27, true).unwrap();
    assert_eq!(m.ack(0), Some(27));
    m.eoi(0, 27);
    m.lines = 0;
    m.sync(0);
    assert_eq!(m.vgic.forwarded(0), 0);
    assert_eq!(m.deactivated, [27, 27]);
    assert_eq!(m.ack(0), None);
}

#[test]
fn an_sgi_to_oneself_goes_into_its_list_register() {
    let mut m = Machine::new(2);
    m.write(0, Region::Redist(0), SGI_FRAME + 0x180, 1 << 3);
    m.enter(0);
    assert!(!m.send_to_self(0, 3), "it is disabled");
    m.write(0, Region::Redist(0), SGI_FRAME + 0x100, 0xffff);
    m.enter(0);
    for _ in 0..3 {
        assert!(m.send_to_self(0, 3));
        assert!(!m.vgic.cpu(0).unwrap().needs_flush());
        assert!(!m.send_to_self(0, 3), "it is pending already");
        assert_eq!(m.ack(0), Some(3));
        // While it is active the next one waits: the slower way.
        assert!(!m.send_to_self(0, 3));
        m.eoi(0, 3);
    }
    assert_eq!(m.lrs.borrow()[0].used, 1, "always the same");
    for sgi in [0, 1, 2] {
        assert!(m.send_to_self(0, sgi));
    }
    assert!(!m.send_to_self(0, 4), "there are four list registers");
    let mut taken = [m.ack(0), m.ack(0), m.ack(0)];
    taken.sort();
    assert_eq!(taken, [Some(0), Some(1), Some(2)]);
    for sgi in [0, 1, 2] {
        m.eoi(0, sgi);
    }
    // With news from elsewhere all is looked at.
    send(&m, 1, sgi1r(0, 1, 5));
    assert!(!m.send_to_self(0, 3));
    assert_eq!(m.ack(0), Some(5));
}

#[test]
fn a_mapped_interrupt_fires_again_at_its_end() {
    let mut m = Machine::new(1);
    m.vgic.map_phys(0, 27, Some(27)).unwrap();
    m.write(0, Region::Redist(0), SGI_FRAME + 0x100, 1 << 27);
    for _ in 0..3 {
        // In one step: the last one, which the guest has ended, goes back first.
        m.lines = 1 << 27;
        let lrs = &mut m.lrs.borrow_mut()[0];
        let out = m.vgic.flush_fired(0, lrs, 1 << 27, &mut || 1 << 27);
        assert_eq!((out.write, out.deactivate, lrs.used), (1, 0, 1));
        assert_eq!(lrs.lr[0] & (ICH_LR_HW | ICH_LR_PENDING), ICH_LR_HW | ICH_LR_PENDING);
        assert_eq!(m.vgic.forwarded(0), 1 << 27);
        lrs.lr[0] &= !ICH_LR_PENDING;
    }
    m.lines = 0;
    m.sync(0);
    assert_eq!(m.vgic.forwarded(0), 0);
    assert!(m.deactivated.is_empty());
}

#[test]
fn a_mapped_line_that_falls_is_withdrawn_and_deactivated() {
    let mut m = Machine::new(1);
    m.vgic.map_phys(0, 27, Some(27)).unwrap();
    m.lines = 1 << 27;
    m.vgic.inject_ppi(0, 27, true).unwrap();
    m.enter(0);
    assert_eq!(m.lrs.borrow()[0].used, 0, "disabled");
    m.lines = 0;
    m.write(0, Region::Redist(0), SGI_FRAME + 0x100, 1 << 27);
    assert_eq!(m.ack(0), None);
    assert_eq!(m.deactivated, [27]);
    assert_eq!(m.vgic.forwarded(0), 0);
    // The same while it waits in a list register.
    m.lines = 1 << 27;
    m.vgic.inject_ppi(0, 27, true).unwrap();
    m.enter(0);
    m.lines = 0;
    m.sync(0);
    assert_eq!(m.deactivated, [27, 27]);
    assert_eq!(m.ack(0), None);
}

#[test]
fn a_mapped_interrupt_made_pending_by_software() {
    let mut m = Machine::new(1);
    m.vgic.map_phys(0, 27, Some(27)).unwrap();
    let sgi = |offset| SGI_FRAME + offset;
    m.write(0, Region::Redist(0), sgi(0x100), 1 << 27);
    m.write(0, Region::Redist(0), sgi(0x200), 1 << 27);
    assert_eq!(m.ack(0), Some(27));
    m.eoi(0, 27);
    assert_eq!(m.ack(0), None);
    assert!(m.deactivated.is_empty(), "the physical one never fired");
    // Both: fires, and is made pending while active.
    m.lines = 1 << 27;
    m.vgic.inject_ppi(0, 27, true).unwrap();
    assert_eq!(m.ack(0), Some(27));
    m.lines = 0;
    m.sync(0);
    m.write(0, Region::Redist(0), sgi(0x200), 1 << 27);
    assert_eq!(m.ack(0), None);
    m.eoi(0, 27);
    assert_eq!(m.ack(0), Some(27));
    m.eoi(0, 27);
    assert_eq!(m.ack(0), None);
    m.sync(0);
    assert_eq!(m.deactivated, [27]);
    assert_eq!(m.vgic.forwarded(0), 0);
}

#[test]
fn resamplers_hear_of_the_end() {
    let mut m = Machine::new(1);
    enable(&m, 1, 0);
    m.vgic.set_resample(32, true).unwrap();
    m.vgic.inject_spi(32, true).unwrap();
    assert_eq!(m.ack(0), Some(32));
    assert!(m.ended().is_empty());
    m.eoi(0, 32);
    assert_eq!(m.ended(), [32]);
    assert_eq!(m.ack(0), None, "its line was lowered");
    m.vgic.inject_spi(32, true).unwrap();
    assert_eq!(m.ack(0), Some(32));
}

#[test]
fn sgis_find_their_targets() {
    let mut m = Machine::new(40);
    send(&m, 0, sgi1r(0, 0b1110, 3));
    assert_eq!(m.kicked(), [1, 2, 3]);
    assert_eq!(m.ack(2), Some(3));
    assert_eq!(m.ack(0), None);
    m.eoi(2, 3);
    // Coalesced until taken; no second kick.
    send(&m, 0, sgi1r(0, 0b10, 3));
    assert_eq!(m.kicked(), []);
    assert_eq!(m.ack(1), Some(3));
    // Another cluster, and aff1 = 2's second half isn't there.
    send(&m, 0, sgi1r(2, 0xffff, 0));
    assert_eq!(m.kicked(), (32..40).collect::<Vec<_>>());
    // Nobody has these.
    send(&m, 0, sgi1r(7, 0xffff, 0));
    send(&m, 0, sgi1r(0x100, 0xffff, 0));
    send(&m, 0, sgi1r(0, 1, 0) | 1 << 44);
    send(&m, 0, sgi1r(0, 1, 0) | 1 << 48);
    assert_eq!(m.kicked(), []);
    // All but me.
    send(&m, 5, 1 << 40 | 9 << 24);
    assert_eq!(m.kicked(), (0..40).filter(|&v| v != 5).collect::<Vec<_>>());
    assert_eq!(m.ack(5), None);
    // To myself: no kick, I look before I enter.
    send(&m, 5, sgi1r(0, 1 << 5, 1));
    assert_eq!(m.kicked(), []);
    assert_eq!(m.ack(5), Some(1));
}

#[test]
fn group_0_sgis_by_the_other_registers() {
    let mut m = Machine::new(2);
    m.vgic.send_sgi(0, sgi1r(0, 2, 4), SgiKind::Sgi0);
    assert_eq!(m.ack(1), None, "it is in group 1");
    m.write(1, Region::Redist(1), SGI_FRAME + 0x80, !(1 << 4));
    m.vgic.send_sgi(0, sgi1r(0, 2, 4), SgiKind::Asgi1);
    assert_eq!(m.kicked(), [1]);
    assert_eq!(m.ack(1), Some(4));
}

#[test]
fn routes_move_what_waits() {
    let mut m = Machine::new(3);
    enable(&m, 1, 1);
    m.vgic.mmio_write(0, D, 0x6100, 8, 2);
    assert_eq!(m.vgic.mmio_read(0, D, 0x6100, 8), 2);
    m.vgic.inject_spi(32, true).unwrap();
    assert_eq!(m.kicked(), [2]);
    m.enter(2);
    // It waits at vCPU 2; now it is for vCPU 1.
    m.vgic.mmio_write(0, D, 0x6100, 8, 1);
    assert_eq!(m.kicked(), [2]);
    assert_eq!(m.ack(1), None);
    m.enter(2);
    assert_eq!(m.kicked(), [1]);
    assert_eq!(m.ack(2), None);
    assert_eq!(m.ack(1), Some(32));
    // Active: it stays where it is until it ends.
    m.vgic.mmio_write(0, D, 0x6100, 8, 0);
    m.vgic.inject_spi(32, true).unwrap();
    m.enter(1);
    assert_eq!(m.ack(0), None);
    m.eoi(1, 32);
    // Pending in vCPU 1's list register: it may take it or pass it on.
    m.flush(1);
    assert_eq!(m.ack(0), Some(32));
    // Nobody's.
    m.eoi(0, 32);
    m.vgic.mmio_write(0, D, 0x6100, 8, 0x77);
    m.vgic.inject_spi(32, true).unwrap();
    for vcpu in 0..3 {
        assert_eq!(m.ack(vcpu), None);
    }
    m.vgic.mmio_write(0, D, 0x6100, 8, 0);
    assert_eq!(m.ack(0), Some(32));
}

#[test]
fn active_states_can_be_seen_and_set_from_another_vcpu() {
    let mut m = Machine::new(2);
    enable(&m, 1, 0);
    m.vgic.inject_spi(32, true).unwrap();
    assert_eq!(m.ack(0), Some(32));
    m.kicked();
    // vCPU 0 is in its handler and didn't exit: it is asked to.
    m.read(1, D, 0x304);
    assert_eq!(m.kicked(), [0]);
    m.enter(0);
    assert_eq!(m.read(1, D, 0x304), 1);
    m.kicked();
    m.write(1, D, 0x384, 1);
    assert_eq!(m.kicked(), [0]);
    // The line is still up.
    assert_eq!(m.ack(0), Some(32));
}

#[test]
fn who_can_be_woken() {
    let mut m = Machine::new(1);
    enable(&m, 3, 3);
    let ready = |m: &Machine| m.vgic.has_deliverable(0, &m.lrs.borrow()[0]);
    assert!(!ready(&m));
    m.vgic.mmio_write(0, D, 0x420, 1, 0xa0);
    m.vgic.inject_spi(32, true).unwrap();
    assert!(ready(&m));
    m.lrs.borrow_mut()[0].vmcr = 0xa000_0002;
    assert!(!ready(&m), "masked by priority");
    m.enter(0);
    assert!(!ready(&m), "in a list register just as well");
    m.lrs.borrow_mut()[0].vmcr = 0xa800_0002;
    assert!(ready(&m));
    m.lrs.borrow_mut()[0].vmcr = 0xa800_0001;
    assert!(!ready(&m), "group 1 is off");
    m.lrs.borrow_mut()[0].vmcr = 0xa800_0002;
    assert_eq!(m.ack(0), Some(32));
    assert!(!ready(&m));
    m.sync(0);
    assert!(!ready(&m), "active only");
    m.eoi(0, 32);
    send(&m, 0, sgi1r(0, 1, 2));
    assert!(ready(&m), "in the mailbox");
    m.write(0, Region::Redist(0), SGI_FRAME + 0x180, 1 << 2);
    assert!(!ready(&m));
    assert!(m.vgic.cpu(0).unwrap().needs_flush());
}

#[test]
fn quiet_vcpus_cost_nothing() {
    let mut m = Machine::new(1);
    assert!(!m.vgic.cpu(0).unwrap().needs_flush());
    send(&m, 0, sgi1r(0, 1, 2));
    assert_eq!(m.ack(0), Some(2));
    m.eoi(0, 2);
    // The used list register stays until there is news.
    assert!(!m.vgic.cpu(0).unwrap().needs_flush());
    m.sync(0);
    assert!(!m.vgic.cpu(0).unwrap().needs_flush());
    assert!(m.lrs.borrow()[0].is_idle());
}

#[test]
fn errors() {
    let m = Machine::bare(1);
    assert_eq!(m.vgic.inject_spi(32, true), Err(Errno::EBUSY));
    let m = Machine::new(1);
    for intid in [0, 31, 256, 1023, u32::MAX] {
        assert_eq!(m.vgic.inject_spi(intid, true), Err(Errno::EINVAL));
    }
    for intid in [0, 15, 32, u32::MAX] {
        assert_eq!(m.vgic.inject_ppi(0, intid, true), Err(Errno::EINVAL));
        assert_eq!(m.vgic.map_phys(0, intid, Some(27)), Err(Errno::EINVAL));
    }
    assert_eq!(m.vgic.inject_ppi(1, 16, true), Err(Errno::EINVAL));
    assert_eq!(m.vgic.add_vcpu(1, 1), Err(Errno::EBUSY));
    assert!(std::format!("{:?}", m.vgic).contains("vcpu 0"));
}
