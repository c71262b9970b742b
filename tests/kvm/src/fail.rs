//! Allocations that fail, each in its turn, while a machine is made and run. All by raw
//! calls: a library's own memory must not be what fails.

use crate::vm::{CODE, MAIL, NOWHERE, can_make, code_page, core_reg, mmio};
use el0_tests::nth::{each, surely};
use el0_tests::util::{Map, PAGE, RW};
use el0_tests::{Errno, Outcome, cases, sys};
use kvm_bindings as k;
use std::sync::atomic::Ordering::SeqCst;

cases!("fail"; vm, vcpu, slots, filter, run, device, irqfd, ioeventfd);

const CREATE_VM: usize = 0xae01;
const GET_VCPU_MMAP_SIZE: usize = 0xae04;
const CREATE_VCPU: usize = 0xae41;
const SET_USER_MEMORY_REGION: usize = 0x4020_ae46;
const IRQFD: usize = 0x4020_ae76;
const IOEVENTFD: usize = 0x4040_ae79;
const RUN: usize = 0xae80;
const SET_ONE_REG: usize = 0x4010_aeac;
const VCPU_INIT: usize = 0x4020_aeae;
const PREFERRED_TARGET: usize = 0x8020_aeaf;
const CREATE_DEVICE: usize = 0xc00c_aee0;
const SET_DEVICE_ATTR: usize = 0x4018_aee1;

/// A descriptor that is closed in the end.
struct Fd(i32);

impl Fd {
    fn ioctl(&self, request: usize, argument: usize) -> Result<usize, Errno> {
        sys!(libc::SYS_ioctl, self.0, request, argument)
    }

    /// With a structure.
    fn with<T>(&self, request: usize, argument: &mut T) -> Result<usize, Errno> {
        self.ioctl(request, &raw mut *argument as usize)
    }

    fn attr(&self, group: u32, attr: u32, value: u64) -> Result<usize, Errno> {
        let addr = &raw const value as u64;
        let attr = u64::from(attr);
        self.with(SET_DEVICE_ATTR, &mut k::kvm_device_attr { flags: 0, group, attr, addr })
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        let _ = sys!(libc::SYS_close, self.0);
    }
}

fn fd(result: Result<usize, Errno>) -> Result<Fd, Errno> {
    result.map(|fd| Fd(fd as i32))
}

fn open() -> Result<Fd, Errno> {
    let flags = libc::O_RDWR | libc::O_CLOEXEC;
    fd(sys!(libc::SYS_openat, -100isize, c"/dev/kvm".as_ptr(), flags))
}

fn eventfd() -> Result<Fd, Errno> {
    fd(sys!(libc::SYS_eventfd2, 0, 0))
}

fn machine() -> Result<Fd, Errno> {
    fd(open()?.ioctl(CREATE_VM, 0))
}

fn slot(vm: &Fd, slot: u32, gpa: u64, memory: Map) -> Result<usize, Errno> {
    let mut region = k::kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: gpa,
        memory_size: memory.len as u64,
        userspace_addr: memory.at as u64,
    };
    vm.with(SET_USER_MEMORY_REGION, &mut region)
}

fn processor(vm: &Fd) -> Result<Fd, Errno> {
    let vcpu = fd(vm.ioctl(CREATE_VCPU, 0))?;
    let mut init = k::kvm_vcpu_init::default();
    vm.with(PREFERRED_TARGET, &mut init)?;
    init.features[0] |= 1 << k::KVM_ARM_VCPU_PSCI_0_2;
    vcpu.with(VCPU_INIT, &mut init)?;
    Ok(vcpu)
}

/// A GIC of the kind that this host has for its guests, ready.
fn gic(vm: &Fd) -> Result<Fd, Errno> {
    let v3 = k::kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3;
    let v2 = k::kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2;
    let type_ = if can_make(vm.0, v3) { v3 } else { v2 };
    let mut device = k::kvm_create_device { type_, fd: 0, flags: 0 };
    vm.with(CREATE_DEVICE, &mut device)?;
    let gic = Fd(device.fd as i32);
    let [distributor, second] = match type_ == v3 {
        true => [k::KVM_VGIC_V3_ADDR_TYPE_DIST, k::KVM_VGIC_V3_ADDR_TYPE_REDIST],
        false => [k::KVM_VGIC_V2_ADDR_TYPE_DIST, k::KVM_VGIC_V2_ADDR_TYPE_CPU],
    };
    gic.attr(k::KVM_DEV_ARM_VGIC_GRP_ADDR, distributor, 0x0800_0000)?;
    gic.attr(k::KVM_DEV_ARM_VGIC_GRP_ADDR, second, 0x080a_0000)?;
    gic.attr(k::KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, 64)?;
    gic.attr(k::KVM_DEV_ARM_VGIC_GRP_CTRL, k::KVM_DEV_ARM_VGIC_CTRL_INIT, 0)?;
    Ok(gic)
}

fn vm() -> Outcome {
    each(|| machine().map(drop))
}

fn vcpu() -> Outcome {
    each(|| {
        let vm = machine()?;
        processor(&vm).map(drop)
    })
}

/// Two are made, one is moved, one is taken away.
fn slots() -> Outcome {
    let memory = Map::anon(2 * PAGE)?;
    each(|| {
        let vm = machine()?;
        slot(&vm, 0, CODE, memory)?;
        slot(&vm, 1, MAIL, memory)?;
        slot(&vm, 1, MAIL + 0x10_0000, memory)?;
        slot(&vm, 0, CODE, Map { len: 0, ..memory }).map(drop)
    })
}

/// One range is put behind another.
fn filter() -> Outcome {
    each(|| {
        let vm = machine()?;
        for base in [0x8400_0000, 0x8600_0000] {
            let range =
                k::kvm_smccc_filter { base, nr_functions: 1, action: 1, ..Default::default() };
            let addr = &raw const range as u64;
            let mut attr = k::kvm_device_attr { flags: 0, group: 0, attr: 0, addr };
            vm.with(SET_DEVICE_ATTR, &mut attr)?;
        }
        Ok(())
    })
}

/// From nothing to the guest's own power-off.
fn run() -> Outcome {
    let code = code_page()?;
    each(|| {
        let kvm = open()?;
        let size = kvm.ioctl(GET_VCPU_MMAP_SIZE, 0)?;
        let vm = machine()?;
        slot(&vm, 0, CODE, code)?;
        let vcpu = processor(&vm)?;
        for (id, mut value) in [(core_reg(32), mmio()), (core_reg(1), NOWHERE)] {
            let addr = &raw mut value as u64;
            vcpu.with(SET_ONE_REG, &mut k::kvm_one_reg { id, addr })?;
        }
        let shared = Map::full(0, size, RW, libc::MAP_SHARED, vcpu.0, 0)?;
        let exit_reason = || shared.word(8).load(SeqCst) as u32;
        let result = loop {
            match vcpu.ioctl(RUN, 0) {
                Ok(_) if exit_reason() == k::KVM_EXIT_MMIO => {}
                Ok(_) if exit_reason() == k::KVM_EXIT_SYSTEM_EVENT => break Ok(()),
                // An exit that nobody asked for.
                Ok(_) => break Err(Errno(libc::EPROTO)),
                Err(errno) => break Err(errno),
            }
        };
        surely(|| sys!(libc::SYS_munmap, shared.at, shared.len))?;
        result
    })
}

fn device() -> Outcome {
    each(|| {
        let vm = machine()?;
        let _vcpu = processor(&vm)?;
        gic(&vm).map(drop)
    })
}

fn irqfd() -> Outcome {
    each(|| {
        let vm = machine()?;
        let _vcpu = processor(&vm)?;
        let _gic = gic(&vm)?;
        let event = eventfd()?;
        let mut irqfd = k::kvm_irqfd { fd: event.0 as u32, gsi: 8, ..Default::default() };
        vm.with(IRQFD, &mut irqfd)?;
        sys!(libc::SYS_write, event.0, 1u64.to_ne_bytes().as_ptr(), 8)?;
        irqfd.flags = k::KVM_IRQFD_FLAG_DEASSIGN;
        vm.with(IRQFD, &mut irqfd).map(drop)
    })
}

fn ioeventfd() -> Outcome {
    each(|| {
        let vm = machine()?;
        let event = eventfd()?;
        let mut ioeventfd =
            k::kvm_ioeventfd { addr: NOWHERE, len: 4, fd: event.0, ..Default::default() };
        vm.with(IOEVENTFD, &mut ioeventfd)?;
        ioeventfd.flags = 1 << k::kvm_ioeventfd_flag_nr_deassign;
        vm.with(IOEVENTFD, &mut ioeventfd).map(drop)
    })
}
