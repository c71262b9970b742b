//! KVM_ARM_VM_SMCCC_FILTER: firmware calls that are denied, or the VMM's to answer.

use crate::vm::{NOWHERE, Vm, call, core_reg, e, get, set};
use el0_tests::util::{BLOCK, pin};
use el0_tests::{Errno, Fail, Outcome, cases, check, check_eq, sys};
use kvm_bindings as k;
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::os::fd::AsRawFd;

cases!("kvm_filter"; attributes, errors, overlaps, reserved, too_late, nothing, denied, forwarded, the_rest,
    machines_apart);

const HANDLE: u8 = k::kvm_smccc_filter_action_KVM_SMCCC_FILTER_HANDLE as u8;
const DENY: u8 = k::kvm_smccc_filter_action_KVM_SMCCC_FILTER_DENY as u8;
const FORWARD: u8 = k::kvm_smccc_filter_action_KVM_SMCCC_FILTER_FWD_TO_USER as u8;

const SMCCC_VERSION: u32 = 0x8000_0000;
const PSCI_VERSION: u32 = 0x8400_0000;
const CPU_OFF: u32 = 0x8400_0002;
const AFFINITY_INFO: u32 = 0xc400_0004;
const TRNG_VERSION: u32 = 0x8400_0050;
/// The vendor's, which doesn't exist.
const UNKNOWN: u32 = 0xc600_ff00;
const NOT_SUPPORTED: u64 = u64::MAX;

fn attr(group: u32, attr: u64, addr: u64) -> k::kvm_device_attr {
    k::kvm_device_attr { flags: 0, group, attr, addr }
}

fn install(vm: &Vm, filter: &k::kvm_smccc_filter) -> Result<(), Errno> {
    vm.fd.set_device_attr(&attr(0, 0, &raw const *filter as u64)).map_err(e)
}

fn filter(vm: &Vm, base: u32, nr_functions: u32, action: u8) -> Result<(), Errno> {
    install(vm, &k::kvm_smccc_filter { base, nr_functions, action, pad: [0; 15] })
}

fn attributes() -> Outcome {
    let vm = Vm::new(BLOCK)?;
    check_eq!(vm.fd.has_device_attr(&attr(0, 0, 0)).map_err(e), Ok(()));
    for (group, number) in [(0, 1), (1, 0), (77, 0)] {
        let attr = attr(group, number, 0);
        check_eq!(vm.fd.has_device_attr(&attr).map_err(e), Err(Errno(libc::ENXIO)));
        check_eq!(vm.fd.set_device_attr(&attr).map_err(e), Err(Errno(libc::ENXIO)));
    }
    for bad in [8, 0xffff_8000_0000_0000, u64::MAX - 15] {
        let r = vm.fd.set_device_attr(&attr(0, 0, bad)).map_err(e);
        check!(r == Err(Errno(libc::EFAULT)), "{bad:#x}: {r:?}");
    }
    // KVM_GET_DEVICE_ATTR.
    let attr = attr(0, 0, 0);
    let r = sys!(libc::SYS_ioctl, vm.fd.as_raw_fd(), 0x4018_aee2usize, &raw const attr);
    check_eq!(r, Err(Errno(libc::EINVAL)));
    Ok(())
}

fn errors() -> Outcome {
    let vm = Vm::new(BLOCK)?;
    let inval = Err(Errno(libc::EINVAL));
    check_eq!(filter(&vm, PSCI_VERSION, 0, HANDLE), inval);
    check_eq!(filter(&vm, u32::MAX, 2, DENY), inval);
    check_eq!(filter(&vm, u32::MAX, u32::MAX, DENY), inval);
    for action in [3, 255] {
        check_eq!(filter(&vm, PSCI_VERSION, 1, action), inval);
    }
    for at in 0..15 {
        let mut pad = [0; 15];
        pad[at] = 1;
        let range = k::kvm_smccc_filter { base: PSCI_VERSION, nr_functions: 1, action: DENY, pad };
        check_eq!(install(&vm, &range), inval);
    }
    // None of these left anything.
    check_eq!(filter(&vm, PSCI_VERSION, 1, DENY), Ok(()));
    check_eq!(filter(&vm, u32::MAX, 1, DENY), Ok(()));
    Ok(())
}

fn overlaps() -> Outcome {
    let vm = Vm::new(BLOCK)?;
    check_eq!(filter(&vm, 0x8400_0010, 0x10, DENY), Ok(()));
    check_eq!(filter(&vm, 0x8400_0030, 0x10, HANDLE), Ok(()));
    for (base, n) in [
        (0x8400_0010, 0x10),
        (0x8400_001f, 1),
        (0x8400_0000, 0x11),
        (0x8400_0000, 0x1000),
        (0x8400_0018, 2),
        // One that leaves the call to KVM is one, too.
        (0x8400_003f, 1),
    ] {
        for action in [HANDLE, DENY, FORWARD] {
            let r = filter(&vm, base, n, action);
            check!(r == Err(Errno(libc::EEXIST)), "{base:#x}, {n:#x}: {r:?}");
        }
    }
    check_eq!(filter(&vm, 0x8400_0020, 0x10, FORWARD), Ok(()));
    check_eq!(filter(&vm, 0x8400_000f, 1, FORWARD), Ok(()));
    check_eq!(filter(&vm, 0x8400_0040, 1, FORWARD), Ok(()));
    Ok(())
}

fn reserved() -> Outcome {
    let vm = Vm::new(BLOCK)?;
    for base in [SMCCC_VERSION, 0xc000_0000] {
        for (base, n) in [(base, 1), (base, 0x1_0000), (base + 0xffff, 2), (base - 1, 2)] {
            let r = filter(&vm, base, n, DENY);
            check!(r == Err(Errno(libc::EEXIST)), "{base:#x}, {n:#x}: {r:?}");
        }
        check_eq!(filter(&vm, base - 1, 1, DENY), Ok(()));
        check_eq!(filter(&vm, base + 0x1_0000, 1, DENY), Ok(()));
    }
    Ok(())
}

/// Why KVM_RUN ended.
#[derive(Debug, PartialEq)]
enum Seen {
    /// The guest shows x0 after a call, by HVC at 0, by SMC at 8.
    Shown(u64, u64),
    /// A call, and the flags.
    Call(u64, u32),
}

const HVC: u64 = 0;
const SMC: u64 = 8;

fn next(v: &mut VcpuFd) -> Result<Seen, Fail> {
    match v.run().map_err(e)? {
        VcpuExit::MmioWrite(at, data) => {
            let value = data.try_into().map_err(|_| Errno(libc::EINVAL))?;
            Ok(Seen::Shown(at.wrapping_sub(NOWHERE), u64::from_le_bytes(value)))
        }
        VcpuExit::Hypercall(call) => Ok(Seen::Call(call.nr, call.longmode)),
        other => Err(Fail::new(format!("{other:?}"))),
    }
}

/// A vCPU that will call `function` by HVC and by SMC, again and again.
fn caller(vm: &Vm, function: u32) -> Result<VcpuFd, Errno> {
    let v = vm.vcpu(0, call(), [0; 3])?;
    set(&v, core_reg(19), NOWHERE)?;
    change(&v, function.into())?;
    Ok(v)
}

/// It calls another one from now on.
fn change(v: &VcpuFd, function: u64) -> Result<(), Errno> {
    set(v, core_reg(20), function)
}

/// Both ways get this answer, from KVM.
fn answers(v: &mut VcpuFd, function: u64, answer: u64) -> Outcome {
    change(v, function)?;
    for how in [HVC, SMC] {
        let seen = next(v)?;
        check!(seen == Seen::Shown(how, answer), "{function:#x}: {seen:x?}, not {answer:#x}");
    }
    Ok(())
}

/// KVM_REG_ARM_PSCI_VERSION.
fn psci_version(v: &VcpuFd) -> Result<u64, Errno> {
    get(v, 0x6030_0000_0014_0000)
}

fn too_late() -> Outcome {
    let vm = Vm::new(BLOCK)?;
    let mut v = caller(&vm, UNKNOWN)?;
    check_eq!(filter(&vm, PSCI_VERSION, 1, DENY), Ok(()));
    next(&mut v)?;
    let busy = Err(Errno(libc::EBUSY));
    check_eq!(filter(&vm, UNKNOWN, 1, DENY), busy);
    check_eq!(filter(&vm, PSCI_VERSION, 1, DENY), busy);
    // What is wrong by itself is told first.
    check_eq!(filter(&vm, UNKNOWN, 0, DENY), Err(Errno(libc::EINVAL)));
    Ok(())
}

fn nothing() -> Outcome {
    // Without a filter.
    let vm = Vm::new(BLOCK)?;
    let mut v = caller(&vm, UNKNOWN)?;
    let version = psci_version(&v)?;
    answers(&mut v, UNKNOWN.into(), NOT_SUPPORTED)?;
    answers(&mut v, PSCI_VERSION.into(), version)?;
    answers(&mut v, SMCCC_VERSION.into(), 0x1_0001)?;
    answers(&mut v, TRNG_VERSION.into(), 0x1_0000)?;
    Ok(())
}

/// Calls of each kind that can be filtered.
const ALL: [u32; 5] = [PSCI_VERSION, CPU_OFF, AFFINITY_INFO, TRNG_VERSION, UNKNOWN];

/// A VM that does this with all of them.
fn filtered(action: u8) -> Result<Vm, Fail> {
    let vm = Vm::new(BLOCK)?;
    for function in ALL {
        check_eq!(filter(&vm, function, 1, action), Ok(()));
    }
    Ok(vm)
}

fn denied() -> Outcome {
    let vm = filtered(DENY)?;
    let mut v = caller(&vm, UNKNOWN)?;
    for function in ALL {
        answers(&mut v, function.into(), NOT_SUPPORTED)?;
    }
    // The function is W0.
    answers(&mut v, 0x1234_5678 << 32 | u64::from(PSCI_VERSION), NOT_SUPPORTED)?;
    Ok(())
}

fn forwarded() -> Outcome {
    let vm = filtered(FORWARD)?;
    let mut v = caller(&vm, UNKNOWN)?;
    let smc = k::KVM_HYPERCALL_EXIT_SMC;
    for function in ALL {
        let x0 = 0x5555_5555 << 32 | u64::from(function);
        change(&v, x0)?;
        for (how, flags, behind) in [(HVC, 0, call() + 8), (SMC, smc, call() + 20)] {
            check_eq!(next(&mut v)?, Seen::Call(function.into(), flags));
            check_eq!((get(&v, core_reg(0))?, get(&v, core_reg(32))?), (x0, behind));
            let answer = 0x1234_0000_0000 | u64::from(function) << 1;
            set(&v, core_reg(0), answer)?;
            check_eq!(next(&mut v)?, Seen::Shown(how, answer));
        }
    }
    // A signal before the guest goes on: the call isn't told again.
    check_eq!(next(&mut v)?, Seen::Call(UNKNOWN.into(), 0));
    set(&v, core_reg(0), 7)?;
    v.set_kvm_immediate_exit(1);
    check_eq!(v.run().err().map(|e| e.errno()), Some(libc::EINTR));
    v.set_kvm_immediate_exit(0);
    check_eq!(next(&mut v)?, Seen::Shown(HVC, 7));
    Ok(())
}

fn machines_apart() -> Outcome {
    // On one CPU, in turn: one has a filter, one has none.
    pin(0, 0)?;
    let (with, without) = (Vm::new(BLOCK)?, Vm::new(BLOCK)?);
    check_eq!(filter(&with, PSCI_VERSION, 1, FORWARD), Ok(()));
    let mut a = caller(&with, PSCI_VERSION)?;
    let mut b = caller(&without, PSCI_VERSION)?;
    let version = psci_version(&b)?;
    for n in 0..20 {
        for (how, flags) in [(HVC, 0), (SMC, k::KVM_HYPERCALL_EXIT_SMC)] {
            check_eq!(next(&mut a)?, Seen::Call(PSCI_VERSION.into(), flags));
            set(&a, core_reg(0), n)?;
            check_eq!(next(&mut b)?, Seen::Shown(how, version));
            check_eq!(next(&mut a)?, Seen::Shown(how, n));
        }
    }
    Ok(())
}

fn the_rest() -> Outcome {
    // What stands beside the filtered calls, and what can't be filtered.
    let vm = Vm::new(BLOCK)?;
    check_eq!(filter(&vm, PSCI_VERSION + 1, 0xff, DENY), Ok(()));
    check_eq!(filter(&vm, UNKNOWN, 1, FORWARD), Ok(()));
    check_eq!(filter(&vm, PSCI_VERSION, 1, HANDLE), Ok(()));
    let mut v = caller(&vm, PSCI_VERSION)?;
    let version = psci_version(&v)?;
    answers(&mut v, PSCI_VERSION.into(), version)?;
    answers(&mut v, SMCCC_VERSION.into(), 0x1_0001)?;
    answers(&mut v, (UNKNOWN + 1).into(), NOT_SUPPORTED)?;
    answers(&mut v, (UNKNOWN - 1).into(), NOT_SUPPORTED)?;
    answers(&mut v, TRNG_VERSION.into(), NOT_SUPPORTED)?;
    change(&v, UNKNOWN.into())?;
    check_eq!(next(&mut v)?, Seen::Call(UNKNOWN.into(), 0));
    Ok(())
}
