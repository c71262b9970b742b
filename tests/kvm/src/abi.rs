//! Capabilities, registers, and what bad arguments get.

use crate::vm::{MAIL, NOWHERE, RAM, Vm, core_reg, e, get, icc, load_loop, needs_gicv3, set, skip};
use el0_tests::util::{BLOCK, Map, PAGE, until};
use el0_tests::{Errno, Outcome, cases, check, check_eq, sys};
use kvm_bindings::{RegList, kvm_create_device, kvm_vcpu_init};
use kvm_ioctls::{Cap, Kvm};
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering::SeqCst;

cases!("kvm_abi";
    version_and_capabilities, core_registers, register_list, register_errors, slot_errors,
    vcpu_errors, vcpu_without_a_descriptor, no_gic_no_gicv3, init_errors, device_errors, unknown_ioctls, bad_pointers, reset_by_init,
    descriptors_keep_the_machine, run_page,
);

/// An ioctl number: direction, size, number, of KVM's type 0xAE.
const fn io(direction: usize, size: usize, nr: usize) -> usize {
    direction << 30 | size << 16 | 0xae << 8 | nr
}
const W: usize = 1;
const R: usize = 2;

fn version_and_capabilities() -> Outcome {
    let kvm = Kvm::new().map_err(e)?;
    check_eq!(kvm.get_api_version(), 12);
    let size = kvm.get_vcpu_mmap_size().map_err(e)?;
    check!(size >= PAGE && size.is_multiple_of(PAGE));
    for cap in [Cap::UserMemory, Cap::OneReg, Cap::ArmPsci02, Cap::ImmediateExit, Cap::DeviceCtrl] {
        check!(kvm.check_extension(cap), "{cap:?}");
    }
    check!(kvm.get_nr_vcpus() >= 1 && kvm.get_max_vcpus() >= kvm.get_nr_vcpus());
    let fd = kvm.as_raw_fd();
    check_eq!(sys!(libc::SYS_ioctl, fd, io(0, 0, 0x03), 99_999), Ok(0));
    // These take no argument.
    check_eq!(sys!(libc::SYS_ioctl, fd, io(0, 0, 0x00), 1), Err(Errno(libc::EINVAL)));
    check_eq!(sys!(libc::SYS_ioctl, fd, io(0, 0, 0x04), 1), Err(Errno(libc::EINVAL)));
    Ok(())
}

fn core_registers() -> Outcome {
    let vm = Vm::new(BLOCK)?;
    let v = vm.vcpu(0, load_loop(), [0; 3])?;
    // x0 to x30, SP, PC; then SP_EL1, ELR_EL1.
    for i in (0..33).chain([34, 35]) {
        let want = 0x0123_4567_89ab_cdef ^ (i << 32);
        set(&v, core_reg(i), want)?;
        check_eq!(get(&v, core_reg(i))?, want);
    }
    // PSTATE: EL1h, and not EL2.
    set(&v, core_reg(33), 0x3c5)?;
    check_eq!(get(&v, core_reg(33))?, 0x3c5);
    check_eq!(set(&v, core_reg(33), 0x3c9), Err(Errno(libc::EINVAL)));
    // V0 to V31 stand from word 42 on, 128 bits each.
    for i in 0..32u64 {
        let id = 0x6040_0000_0010_0000 | (42 * 2 + i * 4);
        let want: [u8; 16] = std::array::from_fn(|b| (i * 16) as u8 ^ b as u8);
        v.set_one_reg(id, &want).map_err(e)?;
        let mut got = [0; 16];
        v.get_one_reg(id, &mut got).map_err(e)?;
        check_eq!(got, want);
    }
    Ok(())
}

fn register_list() -> Outcome {
    let vm = Vm::new(BLOCK)?;
    let v = vm.vcpu(0, load_loop(), [0; 3])?;
    // Too small: E2BIG, and the number that is needed.
    let mut small = RegList::new(1).unwrap();
    check_eq!(v.get_reg_list(&mut small).map_err(e), Err(Errno(libc::E2BIG)));
    let n = small.as_fam_struct_ref().n as usize;
    check!(n > 60, "{n} registers");
    let mut list = RegList::new(n).unwrap();
    v.get_reg_list(&mut list).map_err(e)?;
    let ids = list.as_slice().to_vec();
    check_eq!(ids.len(), n);
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    sorted.dedup();
    check_eq!(sorted.len(), n);
    // Every one can be read; and what was read can be set, and reads the same
    // (but the counter and what belongs to it, which run).
    for id in ids {
        let size = 1usize << (id >> 52 & 0xf);
        let mut value = vec![0; size];
        let got = v.get_one_reg(id, &mut value).map_err(e);
        check!(got == Ok(size), "get {id:#x}: {got:?}");
        let put = v.set_one_reg(id, &value).map_err(e);
        check!(put == Ok(size), "set {id:#x}: {put:?}");
        let mut again = vec![0; size];
        v.get_one_reg(id, &mut again).map_err(e)?;
        let runs = [0x6030_0000_0013_df1a, 0x6030_0000_0013_df01].contains(&id);
        check!(runs || again == value, "{id:#x} was {value:x?}, then {again:x?}");
    }
    for id in [core_reg(0), core_reg(32), 0x6030_0000_0013_c080] {
        check!(sorted.contains(&id), "{id:#x} is not in the list");
    }
    Ok(())
}

fn register_errors() -> Outcome {
    let vm = Vm::new(BLOCK)?;
    let v = vm.vcpu(0, load_loop(), [0; 3])?;
    let mut b = [0; 8];
    // Another architecture's, an unknown group, unknown registers.
    for (id, errno) in [
        (0x2030_0000_0000_0000u64, libc::EINVAL),
        (0x6030_0000_00f0_0000, libc::ENOENT),
        (core_reg(0x400), libc::ENOENT),
        (0x6030_0000_0013_ffff, libc::ENOENT),
    ] {
        check_eq!(v.get_one_reg(id, &mut b).map_err(e), Err(Errno(errno)));
        check_eq!(v.set_one_reg(id, &b).map_err(e), Err(Errno(errno)));
    }
    // The right register, the wrong size.
    let mut half = [0; 4];
    let id = core_reg(0) & !(0xf << 52) | 2 << 52;
    check_eq!(v.get_one_reg(id, &mut half).map_err(e), Err(Errno(libc::EINVAL)));
    // MIDR_EL1 is what it is.
    let midr = 0x6030_0000_0013_c000;
    let was = get(&v, midr)?;
    check_eq!(set(&v, midr, was), Ok(()));
    check_eq!(set(&v, midr, !was), Err(Errno(libc::EINVAL)));
    Ok(())
}

fn slot_errors() -> Outcome {
    let vm = Vm::new(BLOCK)?;
    let m = Map::anon(4 * PAGE)?;
    let page = |at: usize, len: usize| Map { at, len };
    let inval = Err(Errno(libc::EINVAL));
    check_eq!(vm.slot(9, NOWHERE, page(m.at, PAGE + 1), 0), inval);
    check_eq!(vm.slot(9, NOWHERE + 1, page(m.at, PAGE), 0), inval);
    check_eq!(vm.slot(9, NOWHERE, page(m.at + 1, PAGE), 0), inval);
    check_eq!(vm.slot(9, NOWHERE, page(m.at, 0), 0), inval); // Deletes what isn't there.
    check_eq!(vm.slot(9, NOWHERE, page(m.at, PAGE), 0x8000), inval);
    check_eq!(vm.slot(0x7fff_ffff, NOWHERE, page(m.at, PAGE), 0), inval);
    check_eq!(vm.slot(9, NOWHERE, page(0xffff_8000_0000_0000, PAGE), 0), inval);
    check_eq!(vm.slot(9, u64::MAX - 0xfff, page(m.at, 2 * PAGE), 0), inval);
    // Over another slot.
    check_eq!(vm.slot(9, RAM, page(m.at, PAGE), 0), Err(Errno(libc::EEXIST)));
    check_eq!(vm.slot(9, MAIL - PAGE as u64, page(m.at, 2 * PAGE), 0), Err(Errno(libc::EEXIST)));
    // Beyond the guest's physical addresses.
    let end = 1u64 << vm.kvm.get_host_ipa_limit();
    check_eq!(vm.slot(9, end, page(m.at, PAGE), 0), Err(Errno(libc::EFAULT)));
    // A slot doesn't change its size.
    vm.slot(9, NOWHERE, page(m.at, 2 * PAGE), 0)?;
    check_eq!(vm.slot(9, NOWHERE, page(m.at, PAGE), 0), inval);
    check_eq!(vm.slot(9, NOWHERE, page(m.at, 0), 0), Ok(()));
    Ok(())
}

fn vcpu_errors() -> Outcome {
    let vm = Vm::new(BLOCK)?;
    let create = |id: usize| sys!(libc::SYS_ioctl, vm.fd.as_raw_fd(), io(0, 0, 0x41), id);
    let fd = create(0)?;
    check_eq!(create(0), Err(Errno(libc::EEXIST)));
    check_eq!(create(1 << 20), Err(Errno(libc::EINVAL)));
    check_eq!(create(usize::MAX), Err(Errno(libc::EINVAL)));
    // Not initialised yet.
    check_eq!(sys!(libc::SYS_ioctl, fd, io(0, 0, 0x80), 0), Err(Errno(libc::ENOEXEC)));
    check_eq!(sys!(libc::SYS_ioctl, fd, io(0, 0, 0x80), 1), Err(Errno(libc::EINVAL)));
    let value = 0u64;
    let one = [core_reg(0), &raw const value as u64];
    let r = sys!(libc::SYS_ioctl, fd, io(W, 16, 0xab), one.as_ptr());
    check_eq!(r, Err(Errno(libc::ENOEXEC)));
    Ok(())
}

fn vcpu_without_a_descriptor() -> Outcome {
    // It leaves no vCPU behind.
    let vm = Vm::new(BLOCK)?;
    let create = |id: usize| sys!(libc::SYS_ioctl, vm.fd.as_raw_fd(), io(0, 0, 0x41), id);
    let next = sys!(libc::SYS_dup, vm.fd.as_raw_fd())?;
    sys!(libc::SYS_close, next)?;
    let limit = |soft: usize| -> Result<[u64; 2], Errno> {
        let mut old = [0u64; 2];
        sys!(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, 0, old.as_mut_ptr())?;
        let new = [soft as u64, old[1]];
        sys!(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, new.as_ptr(), 0)?;
        Ok(old)
    };
    let old = limit(next)?;
    let r = create(0);
    limit(old[0] as usize)?;
    check_eq!(r, Err(Errno(libc::EMFILE)));
    let fd = create(0)?;
    check_eq!(create(0), Err(Errno(libc::EEXIST)));
    // The failed ones took no descriptor.
    sys!(libc::SYS_close, fd)?;
    check_eq!(sys!(libc::SYS_dup, vm.fd.as_raw_fd()), Ok(fd));
    Ok(())
}

fn no_gic_no_gicv3() -> Outcome {
    // A machine whose VMM makes no interrupt controller has none.
    let vm = Vm::new(BLOCK)?;
    // EL1's synchronous exceptions, with SP_EL1, go to the handler.
    let at = MAIL + 0x200;
    let branch = 0x1400_0000 | (skip().wrapping_sub(at) >> 2) as u32 & 0x03ff_ffff;
    vm.mail.word(0x200).store(branch as usize, SeqCst);
    let r = vm.start(0, icc(), [0, MAIL, 0])?;
    check!(until(|| vm.count() == 1), "the guest stands still, {}", r.fault());
    // ID_AA64PFR0_EL1.GIC.
    check_eq!(vm.mail.word(0).load(SeqCst) >> 24 & 0xf, 0);
    check_eq!(vm.mail.word(16).load(SeqCst), 9);
    r.stop()?;
    Ok(())
}

fn init_errors() -> Outcome {
    let vm = Vm::new(BLOCK)?;
    let mut good = kvm_vcpu_init::default();
    vm.fd.get_preferred_target(&mut good).map_err(e)?;
    let v = vm.fd.create_vcpu(0).map_err(e)?;
    let mut bad = good;
    bad.target = 0x1234;
    check_eq!(v.vcpu_init(&bad).map_err(e), Err(Errno(libc::EINVAL)));
    let mut bad = good;
    bad.features[0] = 1 << 31;
    check_eq!(v.vcpu_init(&bad).map_err(e), Err(Errno(libc::ENOENT)));
    let mut bad = good;
    bad.features[3] = 1;
    check_eq!(v.vcpu_init(&bad).map_err(e), Err(Errno(libc::ENOENT)));
    check_eq!(v.vcpu_init(&good).map_err(e), Ok(()));
    check_eq!(v.vcpu_init(&good).map_err(e), Ok(()));
    // Features can't change afterwards.
    let mut other = good;
    other.features[0] ^= 1 << kvm_bindings::KVM_ARM_VCPU_PSCI_0_2;
    check_eq!(v.vcpu_init(&other).map_err(e), Err(Errno(libc::EINVAL)));
    Ok(())
}

fn device_errors() -> Outcome {
    let vm = Vm::new(BLOCK)?;
    let mut d = kvm_create_device { type_: 9999, fd: 0, flags: 0 };
    check_eq!(vm.fd.create_device(&mut d).map(|_| ()).map_err(e), Err(Errno(libc::ENODEV)));
    needs_gicv3(&vm)?;
    // A test only: nothing is made.
    let gic = kvm_bindings::kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3;
    let mut d = [gic, 0, kvm_bindings::KVM_CREATE_DEVICE_TEST];
    let create = io(W | R, 12, 0xe0);
    let fd = vm.fd.as_raw_fd();
    check_eq!(sys!(libc::SYS_ioctl, fd, create, d.as_mut_ptr()), Ok(0));
    d[2] = 0;
    check_eq!(sys!(libc::SYS_ioctl, fd, create, d.as_mut_ptr()), Ok(0));
    check_eq!(sys!(libc::SYS_ioctl, fd, create, d.as_mut_ptr()), Err(Errno(libc::EEXIST)));
    // Attributes that aren't.
    let attr = [0u32, 77, 0, 0, 0, 0];
    let dev = d[1] as i32;
    for (nr, what) in [(0xe1, "set"), (0xe2, "get"), (0xe3, "has")] {
        let r = sys!(libc::SYS_ioctl, dev, io(W, 24, nr), attr.as_ptr());
        check!(r == Err(Errno(libc::ENXIO)), "{what}: {r:?}");
    }
    Ok(())
}

fn unknown_ioctls() -> Outcome {
    let vm = Vm::new(BLOCK)?;
    let v = vm.vcpu(0, load_loop(), [0; 3])?;
    for fd in [vm.kvm.as_raw_fd(), vm.fd.as_raw_fd(), v.as_raw_fd()] {
        for nr in [io(0, 0, 0xff), io(W, 8, 0xfe), 0x1234_5678] {
            let r = sys!(libc::SYS_ioctl, fd, nr, 0);
            let want = [Err(Errno(libc::EINVAL)), Err(Errno(libc::ENOTTY))];
            check!(want.contains(&r), "ioctl {nr:#x}: {r:?}");
        }
    }
    check_eq!(sys!(libc::SYS_read, vm.fd.as_raw_fd(), 0, 0), Err(Errno(libc::EINVAL)));
    // KVM_CREATE_VM: 40 bits of address by default; type bits that aren't.
    let create = |kind: usize| sys!(libc::SYS_ioctl, vm.kvm.as_raw_fd(), io(0, 0, 0x01), kind);
    check_eq!(create(1 << 20), Err(Errno(libc::EINVAL)));
    check_eq!(create(20), Err(Errno(libc::EINVAL)));
    Ok(())
}

fn bad_pointers() -> Outcome {
    let vm = Vm::new(BLOCK)?;
    let v = vm.vcpu(0, load_loop(), [0; 3])?;
    let (vm_fd, v_fd) = (vm.fd.as_raw_fd(), v.as_raw_fd());
    for bad in [8usize, 0xffff_8000_0000_0000, usize::MAX - 15] {
        for (what, fd, nr) in [
            ("SET_USER_MEMORY_REGION", vm_fd, io(W, 32, 0x46)),
            ("CREATE_DEVICE", vm_fd, io(W | R, 12, 0xe0)),
            ("IRQFD", vm_fd, io(W, 32, 0x76)),
            ("IOEVENTFD", vm_fd, io(W, 64, 0x79)),
            ("ARM_PREFERRED_TARGET", vm_fd, io(R, 32, 0xaf)),
            ("ARM_VCPU_INIT", v_fd, io(W, 32, 0xae)),
            ("GET_ONE_REG", v_fd, io(W, 16, 0xab)),
            ("SET_ONE_REG", v_fd, io(W, 16, 0xac)),
            ("GET_REG_LIST", v_fd, io(W | R, 8, 0xb0)),
        ] {
            let r = sys!(libc::SYS_ioctl, fd, nr, bad);
            check!(r == Err(Errno(libc::EFAULT)), "{what} at {bad:#x}: {r:?}");
        }
        // The register's value at a bad place.
        for nr in [0xab, 0xac] {
            let one = [core_reg(1), bad as u64];
            let r = sys!(libc::SYS_ioctl, v_fd, io(W, 16, nr), one.as_ptr());
            check_eq!(r, Err(Errno(libc::EFAULT)));
        }
    }
    Ok(())
}

fn reset_by_init() -> Outcome {
    let vm = Vm::new(BLOCK)?;
    let v = vm.vcpu(0, load_loop(), [1, 2, 3])?;
    let mut init = kvm_vcpu_init::default();
    vm.fd.get_preferred_target(&mut init).map_err(e)?;
    init.features[0] |= 1 << kvm_bindings::KVM_ARM_VCPU_PSCI_0_2;
    v.vcpu_init(&init).map_err(e)?;
    check_eq!((get(&v, core_reg(1))?, get(&v, core_reg(32))?), (0, 0));
    check_eq!(get(&v, core_reg(33))?, 0x3c5);
    Ok(())
}

fn descriptors_keep_the_machine() -> Outcome {
    // The vCPU's descriptor alone keeps all of it.
    let vm = Vm::new(BLOCK)?;
    let v = vm.vcpu(0, crate::vm::mmio(), [NOWHERE, MAIL, 0])?;
    let Vm { kvm, fd, .. } = vm;
    drop(fd);
    drop(kvm);
    let mut v = v;
    match v.run().map_err(e)? {
        kvm_ioctls::VcpuExit::MmioRead(NOWHERE, _) => Ok(()),
        other => Err(el0_tests::Fail::new(format!("{other:?}"))),
    }
}

fn run_page() -> Outcome {
    let vm = Vm::new(BLOCK)?;
    let v = sys!(libc::SYS_ioctl, vm.fd.as_raw_fd(), io(0, 0, 0x41), 3)? as i32;
    let size = vm.kvm.get_vcpu_mmap_size().map_err(e)?;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let m = Map::full(0, size, prot, libc::MAP_SHARED, v, 0)?;
    check_eq!(m.get(1), 0);
    m.set(1, 1); // immediate_exit
    m.unmap();
    Ok(())
}
