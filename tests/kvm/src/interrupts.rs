//! Interrupts from outside: KVM_IRQ_LINE and irqfd, to a guest in WFI.

use crate::vm::{MAIL, Running, Vm, e, irq, needs_gicv3};
use el0_tests::util::{BLOCK, ms, until};
use el0_tests::{Errno, Fail, Outcome, cases, check, check_eq};
use kvm_bindings as k;
use kvm_ioctls::DeviceFd;
use std::sync::atomic::Ordering::SeqCst;
use vmm_sys_util::eventfd::EventFd;

cases!("kvm_interrupts";
    line_level, irqfd_edge, irqfd_many, irqfd_errors, vgic_errors,
);

const GICD: u64 = 0x0800_0000;
const GICR: u64 = 0x080a_0000;
/// The SPI that the guest enables: INTID 40.
const SPI: u32 = 8;
const INTID: usize = 40;

fn attr(d: &DeviceFd, group: u32, attr: u64, value: u64) -> Result<(), Errno> {
    let value = &raw const value;
    let a = k::kvm_device_attr { flags: 0, group, attr, addr: value as u64 };
    d.set_device_attr(&a).map_err(e)
}

fn gic(vm: &Vm) -> Result<DeviceFd, Errno> {
    let mut d = k::kvm_create_device {
        type_: k::kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
        fd: 0,
        flags: 0,
    };
    vm.fd.create_device(&mut d).map_err(e)
}

/// GICD_ICFGR2 for it.
const LEVEL: u64 = 0;
const EDGE: u64 = 2 << 16;

/// A machine with a GICv3, its guest waiting.
fn machine(config: u64) -> Result<(Vm, Running, DeviceFd), Fail> {
    let vm = Vm::new(BLOCK)?;
    needs_gicv3(&vm)?;
    let v = vm.vcpu(0, irq(), [GICD, MAIL, config])?;
    let d = gic(&vm)?;
    let addr = k::KVM_DEV_ARM_VGIC_GRP_ADDR;
    attr(&d, k::KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, 64)?;
    attr(&d, addr, u64::from(k::KVM_VGIC_V3_ADDR_TYPE_DIST), GICD)?;
    attr(&d, addr, u64::from(k::KVM_VGIC_V3_ADDR_TYPE_REDIST), GICR)?;
    attr(&d, k::KVM_DEV_ARM_VGIC_GRP_CTRL, u64::from(k::KVM_DEV_ARM_VGIC_CTRL_INIT), 0)?;
    let r = Running::new(v)?;
    check_ready(&vm, &r)?;
    Ok((vm, r, d))
}

fn check_ready(vm: &Vm, r: &Running) -> Outcome {
    check!(until(|| vm.mail.word(16).load(SeqCst) == 1), "KVM_RUN: {:?}", Errno(r.fault()));
    Ok(())
}

/// Waits until nothing has come for 50 ms.
fn quiet(vm: &Vm) -> bool {
    until(|| {
        let before = vm.count();
        ms(50);
        vm.count() == before
    })
}

fn line_level() -> Outcome {
    let (vm, r, _d) = machine(LEVEL)?;
    // Type SPI in bits 27:24, the INTID below.
    let line = k::KVM_ARM_IRQ_TYPE_SPI << k::KVM_ARM_IRQ_TYPE_SHIFT | INTID as u32;
    for _ in 0..20 {
        let before = vm.count();
        vm.fd.set_irq_line(line, true).map_err(e)?;
        // A level: it comes again and again until it is let go.
        check!(until(|| vm.count() > before + 3));
        check_eq!(vm.mail.word(0).load(SeqCst), INTID);
        vm.fd.set_irq_line(line, false).map_err(e)?;
        // The guest may have taken one more, and be late to count both; then no more
        // comes.
        let after = vm.count();
        check!(quiet(&vm) && vm.count() <= after + 2, "{after}, then {}", vm.count());
    }
    let bad = k::KVM_ARM_IRQ_TYPE_SPI << k::KVM_ARM_IRQ_TYPE_SHIFT | 2000;
    check_eq!(vm.fd.set_irq_line(bad, true).map_err(e), Err(Errno(libc::EINVAL)));
    r.stop()?;
    Ok(())
}

fn irqfd_edge() -> Outcome {
    let (vm, r, _d) = machine(EDGE)?;
    let ev = EventFd::new(libc::EFD_NONBLOCK)?;
    vm.fd.register_irqfd(&ev, SPI).map_err(e)?;
    for _ in 0..100 {
        let before = vm.count();
        ev.write(1)?;
        check!(until(|| vm.count() > before), "a write to the eventfd did not arrive");
        check_eq!(vm.mail.word(0).load(SeqCst), INTID);
    }
    vm.fd.unregister_irqfd(&ev, SPI).map_err(e)?;
    check!(quiet(&vm));
    let before = vm.count();
    ev.write(1)?;
    ms(20);
    check_eq!(vm.count(), before);
    r.stop()?;
    Ok(())
}

fn irqfd_many() -> Outcome {
    // Written from four threads at once: the last write is never lost.
    let (vm, r, _d) = machine(EDGE)?;
    let ev = EventFd::new(libc::EFD_NONBLOCK)?;
    vm.fd.register_irqfd(&ev, SPI).map_err(e)?;
    for _ in 0..20 {
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| (0..50).for_each(|_| drop(ev.write(1))));
            }
        });
        check!(quiet(&vm));
        let before = vm.count();
        ev.write(1)?;
        check!(until(|| vm.count() > before));
    }
    r.stop()?;
    Ok(())
}

fn irqfd_errors() -> Outcome {
    let (vm, r, _d) = machine(EDGE)?;
    let ev = EventFd::new(libc::EFD_NONBLOCK)?;
    vm.fd.register_irqfd(&ev, SPI).map_err(e)?;
    check_eq!(vm.fd.register_irqfd(&ev, SPI).map_err(e), Err(Errno(libc::EBUSY)));
    r.stop()?;
    Ok(())
}

fn vgic_errors() -> Outcome {
    let vm = Vm::new(BLOCK)?;
    needs_gicv3(&vm)?;
    let d = gic(&vm)?;
    let addr = k::KVM_DEV_ARM_VGIC_GRP_ADDR;
    let dist = u64::from(k::KVM_VGIC_V3_ADDR_TYPE_DIST);
    for (n, errno) in [(31, libc::EINVAL), (63, libc::EINVAL), (2000, libc::EINVAL)] {
        let r = attr(&d, k::KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, n);
        check_eq!(r, Err(Errno(errno)));
    }
    attr(&d, k::KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, 64)?;
    check_eq!(attr(&d, k::KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, 96), Err(Errno(libc::EBUSY)));
    check_eq!(attr(&d, addr, dist, GICD + 0x1000), Err(Errno(libc::EINVAL)));
    attr(&d, addr, dist, GICD)?;
    check_eq!(attr(&d, addr, dist, GICD), Err(Errno(libc::EEXIST)));
    Ok(())
}
