//! KVM_RUN: exits, interruption, eventfds, and sudden ends.

use crate::vm::{
    MAIL, NOWHERE, RAM, Vm, core_reg, counters, disr, e, get, load_loop, mmio, notify, spin,
    threads, walk,
};
use el0_tests::util::{BLOCK, handle, ms, pin, until};
use el0_tests::{End, Errno, Fail, Outcome, cases, check, check_eq, fork, sys, wait};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VcpuExit};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use vmm_sys_util::eventfd::EventFd;

cases!("kvm_run";
    mmio_exits, signal_interrupts, signal_wakes_wfi_or_spin, immediate_exit, immediate_exit_completes,
    ioeventfd, ioeventfd_datamatch, ioeventfd_width, many_vcpus, registers_after_exit,
    registers_are_not_shared, el0_sees_no_guests_registers, counters_are_offset, killed_in_run, killed_at_random, exits_by_itself, many_machines,
);

fn mmio_exits() -> Outcome {
    let vm = Vm::new(BLOCK)?;
    let mut v = vm.vcpu(0, mmio(), [NOWHERE, MAIL, 0])?;
    match v.run().map_err(e)? {
        VcpuExit::MmioRead(NOWHERE, data) if data.len() == 4 => {
            data.copy_from_slice(&0xdead_beefu32.to_le_bytes());
        }
        other => return Err(el0_tests::Fail::new(format!("{other:?}"))),
    }
    match v.run().map_err(e)? {
        VcpuExit::MmioWrite(at, data) => {
            check_eq!((at, data), (NOWHERE + 4, &0xdead_beefu32.to_le_bytes()[..]));
        }
        other => return Err(el0_tests::Fail::new(format!("{other:?}"))),
    }
    match v.run().map_err(e)? {
        VcpuExit::MmioRead(at, data) => {
            check_eq!((at, data.len()), (NOWHERE + 8, 1));
            data[0] = 0x9c;
        }
        other => return Err(el0_tests::Fail::new(format!("{other:?}"))),
    }
    match v.run().map_err(e)? {
        VcpuExit::MmioWrite(at, data) => check_eq!((at, data), (NOWHERE + 10, &[0x9c, 0][..])),
        other => return Err(el0_tests::Fail::new(format!("{other:?}"))),
    }
    match v.run().map_err(e)? {
        VcpuExit::MmioWrite(at, data) => check_eq!((at, data), (NOWHERE + 16, &[0; 8][..])),
        other => return Err(el0_tests::Fail::new(format!("{other:?}"))),
    }
    match v.run().map_err(e)? {
        VcpuExit::SystemEvent(kind, _) => check_eq!(kind, kvm_bindings::KVM_SYSTEM_EVENT_SHUTDOWN),
        other => return Err(el0_tests::Fail::new(format!("{other:?}"))),
    }
    Ok(())
}

fn signal_interrupts() -> Outcome {
    let vm = Vm::new(BLOCK)?;
    let r = vm.start(0, load_loop(), [RAM, MAIL, 0])?;
    for i in 0..30 {
        vm.rounds(&r)?;
        let before = r.interrupted();
        r.kick();
        check!(until(|| r.interrupted() > before), "kick {i} did nothing");
    }
    vm.rounds(&r)?;
    r.stop()?;
    Ok(())
}

fn signal_wakes_wfi_or_spin() -> Outcome {
    let vm = Vm::new(BLOCK)?;
    let r = vm.start(0, spin(), [0; 3])?;
    ms(30);
    let before = r.interrupted();
    // A signal between two KVM_RUNs interrupts neither.
    check!(until(|| {
        r.kick();
        r.interrupted() > before
    }));
    r.stop()?;
    Ok(())
}

fn immediate_exit() -> Outcome {
    let vm = Vm::new(BLOCK)?;
    let mut v = vm.vcpu(0, load_loop(), [RAM, MAIL, 0])?;
    v.set_kvm_immediate_exit(1);
    for _ in 0..10 {
        check_eq!(v.run().err().map(|e| e.errno()), Some(libc::EINTR));
    }
    check_eq!(vm.count(), 0); // It never ran.
    check_eq!(get(&v, core_reg(32))?, load_loop());
    Ok(())
}

fn immediate_exit_completes() -> Outcome {
    // What the last exit left to do is done first (api.rst, KVM_RUN's note).
    let vm = Vm::new(BLOCK)?;
    let mut v = vm.vcpu(0, mmio(), [NOWHERE, MAIL, 0])?;
    match v.run().map_err(e)? {
        VcpuExit::MmioRead(_, data) => data.copy_from_slice(&0x1234_5678u32.to_le_bytes()),
        other => return Err(el0_tests::Fail::new(format!("{other:?}"))),
    }
    v.set_kvm_immediate_exit(1);
    check_eq!(v.run().err().map(|e| e.errno()), Some(libc::EINTR));
    check_eq!(get(&v, core_reg(5))?, 0x1234_5678);
    check_eq!(get(&v, core_reg(32))?, mmio() + 4);
    Ok(())
}

fn ioeventfd() -> Outcome {
    let vm = Vm::new(BLOCK)?;
    let ev = register(&vm)?;
    let r = vm.start(0, notify(), [NOWHERE, MAIL, 0])?;
    let mut sum = 0;
    check!(until(|| {
        sum += ev.read().unwrap_or(0);
        sum > 100
    }));
    check_eq!(r.mmio().0, 0);
    // Taken away, the stores exit.
    vm.fd.unregister_ioevent(&ev, &IoEventAddress::Mmio(NOWHERE), NoDatamatch).map_err(e)?;
    check!(until(|| r.mmio().0 > 0));
    r.stop()?;
    Ok(())
}

fn register(vm: &Vm) -> Result<EventFd, el0_tests::Fail> {
    let ev = EventFd::new(libc::EFD_NONBLOCK)?;
    vm.fd.register_ioevent(&ev, &IoEventAddress::Mmio(NOWHERE), NoDatamatch).map_err(e)?;
    Ok(ev)
}

fn ioeventfd_datamatch() -> Outcome {
    let vm = Vm::new(BLOCK)?;
    let ev = EventFd::new(libc::EFD_NONBLOCK)?;
    let at = IoEventAddress::Mmio(NOWHERE);
    vm.fd.register_ioevent(&ev, &at, 3u32).map_err(e)?;
    check_eq!(vm.fd.register_ioevent(&ev, &at, 3u32).map_err(e), Err(Errno(libc::EEXIST)));
    let mut v = vm.vcpu(0, notify(), [NOWHERE, MAIL, 0])?;
    // 1 and 2 exit, 3 signals, 4 exits.
    for want in [1u32, 2, 4] {
        match v.run().map_err(e)? {
            VcpuExit::MmioWrite(NOWHERE, data) => check_eq!(data, &want.to_le_bytes()[..]),
            other => return Err(el0_tests::Fail::new(format!("{other:?}"))),
        }
    }
    check_eq!(ev.read().ok(), Some(1));
    Ok(())
}

fn ioeventfd_width() -> Outcome {
    // Eight bytes at the place of four: not this one's.
    let vm = Vm::new(BLOCK)?;
    let ev = EventFd::new(libc::EFD_NONBLOCK)?;
    vm.fd.register_ioevent(&ev, &IoEventAddress::Mmio(NOWHERE), 1u64).map_err(e)?;
    let mut v = vm.vcpu(0, notify(), [NOWHERE, MAIL, 0])?;
    match v.run().map_err(e)? {
        VcpuExit::MmioWrite(NOWHERE, data) => check_eq!(data.len(), 4),
        other => return Err(el0_tests::Fail::new(format!("{other:?}"))),
    }
    check!(ev.read().is_err());
    Ok(())
}

fn many_vcpus() -> Outcome {
    let vm = Vm::new(BLOCK)?;
    let all: Vec<_> = (0..6)
        .map(|i| vm.start(i, load_loop(), [RAM, MAIL + 64 * i, 0]))
        .collect::<Result<_, _>>()?;
    for i in 0..6 {
        let count = || vm.mail.word(64 * i + 8).load(std::sync::atomic::Ordering::SeqCst);
        let before = count();
        check!(until(|| count() > before + 10), "vCPU {i} stands still");
    }
    for r in all {
        r.stop()?;
    }
    Ok(())
}

fn registers_after_exit() -> Outcome {
    let vm = Vm::new(BLOCK)?;
    let v = vm.vcpu(0, mmio(), [NOWHERE, MAIL, 0])?;
    for i in 4..31 {
        crate::vm::set(&v, core_reg(i), 0x1111 * i)?;
    }
    let mut v = v;
    let _ = v.run().map_err(e)?;
    for i in 7..31 {
        check_eq!(get(&v, core_reg(i))?, 0x1111 * i);
    }
    check_eq!(get(&v, core_reg(1))?, NOWHERE);
    Ok(())
}

/// The value of the next store that exits.
fn next_store(v: &mut kvm_ioctls::VcpuFd) -> Result<u64, el0_tests::Fail> {
    match v.run().map_err(e)? {
        VcpuExit::MmioWrite(_, data) => {
            Ok(u64::from_le_bytes(data.try_into().map_err(|_| Errno(libc::EINVAL))?))
        }
        other => Err(el0_tests::Fail::new(format!("{other:?}"))),
    }
}

/// TPIDRRO_EL0, which programs read and the kernel alone writes.
fn read_only_thread_register() -> u64 {
    let value;
    // SAFETY: a read.
    unsafe { core::arch::asm!("mrs {}, tpidrro_el0", out(reg) value) };
    value
}

/// The fault address that the handler of an undefined instruction is told.
static TOLD: AtomicU64 = AtomicU64::new(0);

extern "C" fn undefined(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel's.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    TOLD.store(context.uc_mcontext.fault_address, SeqCst);
    context.uc_mcontext.pc += 4;
}

fn nothing_of_the_guests_to_see() -> bool {
    TOLD.store(1, SeqCst);
    // SAFETY: the handler steps over it.
    unsafe { core::arch::asm!("udf #0") };
    read_only_thread_register() == 0 && TOLD.load(SeqCst) == 0
}

fn el0_sees_no_guests_registers() -> Outcome {
    pin(0, 0)?;
    handle(libc::SIGILL, undefined, 0, &[])?;
    let vm = Vm::new(BLOCK)?;
    let mut a = vm.vcpu(0, threads(), [NOWHERE, MAIL, 0xdead_0000])?;
    let mut b = vm.vcpu(1, threads(), [NOWHERE, MAIL, 0xbeef_0000])?;
    for i in 0..20 {
        for (v, base) in [(&mut a, 0xdead_0000), (&mut b, 0xbeef_0000)] {
            check_eq!(next_store(v)?, base + i);
            check!(nothing_of_the_guests_to_see());
            // Another process has the CPU, which is the only one.
            let child = fork(|| i32::from(!nothing_of_the_guests_to_see()))?;
            check_eq!(wait(child)?, End::Exit(0));
            // What the guest had is there.
            check_eq!(next_store(v)?, 0);
        }
    }
    Ok(())
}

fn registers_are_not_shared() -> Outcome {
    // Two machines in turn on one CPU: what one leaves in its deferred
    // interrupt status, the other doesn't see, and it finds it again.
    let a = Vm::new(BLOCK)?;
    let b = Vm::new(BLOCK)?;
    let mut one = a.vcpu(0, disr(), [NOWHERE, MAIL, 0x8000_0011])?;
    let mut two = b.vcpu(0, disr(), [NOWHERE, MAIL, 0])?;
    // ID_AA64PFR0_EL1.RAS.
    if get(&one, 0x6030_0000_0013_c020)? >> 28 & 0xf == 0 {
        return Err(Fail::skip("FEAT_RAS"));
    }
    check_eq!(next_store(&mut one)?, 0);
    let left = next_store(&mut one)?;
    check!(left != 0);
    for _ in 0..3 {
        check_eq!(next_store(&mut two)?, 0);
        check_eq!(next_store(&mut one)?, left);
    }
    Ok(())
}

fn counters_are_offset() -> Outcome {
    let vm = Vm::new(BLOCK)?;
    let fd = vm.kvm.as_raw_fd();
    // KVM_CHECK_EXTENSION of KVM_CAP_COUNTER_OFFSET.
    if sys!(libc::SYS_ioctl, fd, 0xae03, 227)? == 0 {
        return Err(Fail::skip("KVM_CAP_COUNTER_OFFSET"));
    }
    let mut v = vm.vcpu(0, counters(), [NOWHERE, MAIL, 0])?;
    let now = || {
        let count: u64;
        // SAFETY: a counter that programs may read.
        unsafe { std::arch::asm!("isb", "mrs {}, cntvct_el0", out(reg) count) };
        count
    };
    let offset = now();
    let arg = [offset, 0u64];
    sys!(libc::SYS_ioctl, vm.fd.as_raw_fd(), 0x4010_aeb5usize, arg.as_ptr())?;
    // Linux leaves CNTPCT_EL0 to CNTPOFF_EL2 where the CPU has it, which in QEMU
    // without EL3 has no effect: there, only the virtual counter can be judged.
    let host = std::fs::read_to_string("/proc/version").unwrap_or_default();
    let all = host.contains("Hypha");
    // Both counters started with the offset.
    let (mut last, mut physical) = (0, false);
    for _ in 0..6 {
        let count = next_store(&mut v)?;
        physical = !physical;
        if physical && !all {
            continue;
        }
        check!(count <= now() - offset, "physical {physical}: {count}, offset {offset}");
        check!(count >= last, "physical {physical}: {count} after {last}");
        last = count;
    }
    Ok(())
}

/// A process with a machine of two vCPUs that store all over 16 MiB.
fn busy_child() -> Result<i32, Errno> {
    fork(|| {
        let Ok(vm) = Vm::new(8 * BLOCK) else { return 1 };
        let all: Vec<_> = (0..2)
            .map(|i| {
                vm.start(i, walk(), [RAM + i * 4 * BLOCK as u64, MAIL + 64 * i, 4 * BLOCK as u64])
            })
            .collect();
        ms(60_000);
        i32::from(all.len() != 2)
    })
}

fn killed_in_run() -> Outcome {
    let pid = busy_child()?;
    ms(200);
    sys!(libc::SYS_kill, pid, libc::SIGKILL)?;
    check_eq!(wait(pid)?, End::Signal(libc::SIGKILL));
    Ok(())
}

fn free_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemFree:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

fn killed_at_random() -> Outcome {
    let before = free_kib();
    for i in 0..20u64 {
        let pid = busy_child()?;
        std::thread::sleep(std::time::Duration::from_micros(i * i * 131));
        sys!(libc::SYS_kill, pid, libc::SIGKILL)?;
        check_eq!(wait(pid)?, End::Signal(libc::SIGKILL));
    }
    // 20 times 16 MiB would show.
    check!(until(|| free_kib() + 64 * 1024 > before), "{before} KiB free, then {}", free_kib());
    Ok(())
}

fn exits_by_itself() -> Outcome {
    // exit_group with vCPUs running in other threads.
    let pid = fork(|| {
        let Ok(vm) = Vm::new(BLOCK) else { return 1 };
        let r = vm.start(0, spin(), [0; 3]);
        ms(20);
        if r.is_ok() { 17 } else { 2 }
    })?;
    check_eq!(wait(pid)?, End::Exit(17));
    Ok(())
}

fn many_machines() -> Outcome {
    for i in 0..30 {
        let vm = Vm::new(BLOCK)?;
        vm.ram.word(0).store(i, std::sync::atomic::Ordering::SeqCst);
        let r = vm.start(0, load_loop(), [RAM, MAIL, 0])?;
        check_eq!(vm.rounds(&r)?, i);
        drop(r.stop()?);
        vm.ram.unmap();
        vm.mail.unmap();
    }
    Ok(())
}
