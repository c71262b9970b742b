//! Guest memory is the VMM's memory: what munmap, madvise, mprotect, mremap,
//! mmap and fork do to it, a running guest sees at once, and it never sees,
//! nor writes to, what was there before.

use crate::vm::MAIL;
use crate::vm::{CODE, NOWHERE, RAM, Running, Vm, flags, get, load_loop, store_loop, walk};
use el0_tests::util::{ANON, BLOCK, Map, PAGE, RW, ms, until};
use el0_tests::{End, Errno, Fail, Outcome, cases, check, check_eq, fork, sys, wait};
use std::sync::atomic::Ordering::SeqCst;

cases!("kvm_memory";
    sees_stores, host_sees_guest, remap_fixed, remap_fixed_block, munmap_faults,
    munmap_page_of_block, dontneed, dontneed_block, dontneed_under_stores, mprotect_read_only,
    mprotect_none, mremap_away, fork_under_load, fork_under_stores, fork_child_is_apart,
    flags_by_hardware_under_fork, slot_deleted, slot_moved, slot_read_only, shared_memory, walk_under_churn, two_vms,
);

fn machine(off: usize, pc: u64) -> Result<(Vm, Running), Fail> {
    let vm = Vm::new(4 * BLOCK)?;
    vm.ram.stamp(7);
    let r = vm.start(0, pc, [RAM + off as u64, MAIL, 0])?;
    vm.rounds(&r)?;
    Ok((vm, r))
}

fn fixed(at: usize, len: usize, prot: i32) -> Result<Map, Errno> {
    Map::full(at, len, prot, ANON | libc::MAP_FIXED, -1, 0)
}

fn sees_stores() -> Outcome {
    for off in [0, BLOCK + PAGE, 4 * BLOCK - PAGE] {
        let (vm, r) = machine(off, load_loop())?;
        check_eq!(vm.rounds(&r)?, 7 ^ off);
        for i in 0..100 {
            vm.ram.word(off).store(i, SeqCst);
            check_eq!(vm.rounds(&r)?, i);
        }
        r.stop()?;
    }
    Ok(())
}

fn host_sees_guest() -> Outcome {
    let (vm, r) = machine(BLOCK, store_loop())?;
    for _ in 0..50 {
        let seen = vm.ram.word(BLOCK).load(SeqCst);
        vm.rounds(&r)?;
        check!(vm.ram.word(BLOCK).load(SeqCst) > seen);
    }
    r.stop()?;
    Ok(())
}

fn remap(len: usize) -> Outcome {
    let (vm, r) = machine(BLOCK, load_loop())?;
    for i in 1..60 {
        // The old page is gone when mmap returns.
        fixed(vm.ram.at + BLOCK, len, RW)?;
        check_eq!(vm.rounds(&r)?, 0);
        vm.ram.word(BLOCK).store(i, SeqCst);
        check_eq!(vm.rounds(&r)?, i);
    }
    r.stop()?;
    Ok(())
}

fn remap_fixed() -> Outcome {
    remap(PAGE)
}

fn remap_fixed_block() -> Outcome {
    remap(BLOCK)
}

fn munmap_faults() -> Outcome {
    for len in [PAGE, BLOCK] {
        let (vm, r) = machine(BLOCK, load_loop())?;
        sys!(libc::SYS_munmap, vm.ram.at + BLOCK, len)?;
        check!(r.faults_with(libc::EFAULT), "no EFAULT: {}", r.fault());
        // Nothing more was shown since.
        let c = vm.count();
        ms(10);
        check_eq!(vm.count(), c);
        fixed(vm.ram.at + BLOCK, len, RW)?;
        vm.ram.word(BLOCK).store(99, SeqCst);
        r.resume();
        check_eq!(vm.rounds(&r)?, 99);
        r.stop()?;
    }
    Ok(())
}

fn munmap_page_of_block() -> Outcome {
    // The neighbours of a hole in a block stay.
    let (vm, r) = machine(BLOCK + 9 * PAGE, load_loop())?;
    sys!(libc::SYS_munmap, vm.ram.at + BLOCK + 8 * PAGE, PAGE)?;
    check_eq!(vm.rounds(&r)?, 7 ^ (BLOCK + 9 * PAGE));
    vm.ram.word(BLOCK + 9 * PAGE).store(5, SeqCst);
    check_eq!(vm.rounds(&r)?, 5);
    let b = vm.start(1, load_loop(), [RAM + (BLOCK + 8 * PAGE) as u64, MAIL + 64, 0])?;
    check!(b.faults_with(libc::EFAULT));
    b.stop()?;
    r.stop()?;
    Ok(())
}

fn discard(len: usize) -> Outcome {
    let (vm, r) = machine(BLOCK, load_loop())?;
    for i in 1..60 {
        vm.ram.word(BLOCK).store(i, SeqCst);
        check_eq!(vm.rounds(&r)?, i);
        sys!(libc::SYS_madvise, vm.ram.at + BLOCK, len, libc::MADV_DONTNEED)?;
        check_eq!(vm.rounds(&r)?, 0);
    }
    r.stop()?;
    Ok(())
}

fn dontneed() -> Outcome {
    discard(PAGE)
}

fn dontneed_block() -> Outcome {
    discard(2 * BLOCK)
}

fn dontneed_under_stores() -> Outcome {
    let (vm, r) = machine(BLOCK, store_loop())?;
    for _ in 0..100 {
        sys!(libc::SYS_madvise, vm.ram.at + BLOCK, PAGE, libc::MADV_DONTNEED)?;
        let c = vm.count();
        vm.rounds(&r)?;
        // The guest stores where the host looks, not to the page that went.
        let seen = vm.ram.word(BLOCK).load(SeqCst);
        check!(seen >= c, "the host sees {seen}, the guest stored {c}");
    }
    r.stop()?;
    Ok(())
}

fn mprotect_read_only() -> Outcome {
    let (vm, r) = machine(BLOCK, store_loop())?;
    for _ in 0..10 {
        sys!(libc::SYS_mprotect, vm.ram.at + BLOCK, PAGE, libc::PROT_READ)?;
        let a = vm.ram.word(BLOCK).load(SeqCst);
        check!(r.faults_with(libc::EFAULT));
        check_eq!(vm.ram.word(BLOCK).load(SeqCst), a);
        sys!(libc::SYS_mprotect, vm.ram.at + BLOCK, PAGE, RW)?;
        r.resume();
        vm.rounds(&r)?;
        check!(vm.ram.word(BLOCK).load(SeqCst) > a);
    }
    r.stop()?;
    // Loads from read-only memory are fine.
    let (vm, r) = machine(BLOCK, load_loop())?;
    sys!(libc::SYS_mprotect, vm.ram.at + BLOCK, PAGE, libc::PROT_READ)?;
    check_eq!(vm.rounds(&r)?, 7 ^ BLOCK);
    r.stop()?;
    Ok(())
}

fn mprotect_none() -> Outcome {
    let (vm, r) = machine(BLOCK, load_loop())?;
    sys!(libc::SYS_mprotect, vm.ram.at + BLOCK, BLOCK, libc::PROT_NONE)?;
    check!(r.faults_with(libc::EFAULT));
    sys!(libc::SYS_mprotect, vm.ram.at + BLOCK, BLOCK, RW)?;
    r.resume();
    check_eq!(vm.rounds(&r)?, 7 ^ BLOCK);
    r.stop()?;
    Ok(())
}

fn mremap_away() -> Outcome {
    for len in [PAGE, BLOCK] {
        let (vm, r) = machine(BLOCK, store_loop())?;
        let to = sys!(
            libc::SYS_mremap,
            vm.ram.at + BLOCK,
            len,
            len,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
            Map::aligned(BLOCK)?.at
        )?;
        let moved = Map { at: to, len };
        let a = moved.word(0).load(SeqCst);
        check!(r.faults_with(libc::EFAULT));
        fixed(vm.ram.at + BLOCK, len, RW)?;
        r.resume();
        vm.rounds(&r)?;
        // The guest's stores go to the new memory, the old stands still.
        check_eq!(moved.word(0).load(SeqCst), a);
        check!(vm.ram.word(BLOCK).load(SeqCst) > a);
        r.stop()?;
    }
    Ok(())
}

fn fork_under_load() -> Outcome {
    let (vm, r) = machine(BLOCK, load_loop())?;
    for i in 1..15 {
        let pid = fork(|| {
            // The child's store must not reach the guest.
            vm.ram.word(BLOCK).store(0xbad, SeqCst);
            ms(2);
            0
        })?;
        vm.ram.word(BLOCK).store(i, SeqCst);
        check_eq!(vm.rounds(&r)?, i);
        check_eq!(wait(pid)?, End::Exit(0));
        check_eq!(vm.rounds(&r)?, i);
    }
    r.stop()?;
    Ok(())
}

fn fork_under_stores() -> Outcome {
    let (vm, r) = machine(BLOCK, store_loop())?;
    for _ in 0..10 {
        let pid = fork(|| {
            // The child's copy stands still while the guest stores on.
            let a = vm.ram.word(BLOCK).load(SeqCst);
            ms(20);
            i32::from(vm.ram.word(BLOCK).load(SeqCst) != a)
        })?;
        for _ in 0..5 {
            let a = vm.ram.word(BLOCK).load(SeqCst);
            vm.rounds(&r)?;
            check!(vm.ram.word(BLOCK).load(SeqCst) > a, "the parent lost the guest's stores");
        }
        check_eq!(wait(pid)?, End::Exit(0));
    }
    r.stop()?;
    Ok(())
}

fn fork_child_is_apart() -> Outcome {
    // A child has the descriptors, but not the machine: EIO.
    let vm = Vm::new(BLOCK)?;
    let mut v = vm.vcpu(0, load_loop(), [RAM, MAIL, 0])?;
    let pid = fork(|| i32::from(v.run().err().map(|e| e.errno()) != Some(libc::EIO)))?;
    check_eq!(wait(pid)?, End::Exit(0));
    // Nor one that has run already.
    let mut v = vm.vcpu(1, crate::vm::mmio(), [NOWHERE, MAIL, 0])?;
    v.run().map_err(crate::vm::e)?;
    let pid = fork(|| i32::from(v.run().err().map(|e| e.errno()) != Some(libc::EIO)))?;
    check_eq!(wait(pid)?, End::Exit(0));
    Ok(())
}

fn flags_by_hardware_under_fork() -> Outcome {
    // The guest's page table is shared with a child, and so read-only in stage 2,
    // when hardware sets a page's access flag for a fetch, or its dirty state.
    const AF: usize = 1 << 10;
    const READ_ONLY: usize = 1 << 7;
    const DBM: usize = 1 << 51;
    let vm = Vm::new(BLOCK)?;
    let v = vm.vcpu(0, flags(), [RAM, MAIL, 0])?;
    // ID_AA64MMFR1_EL1.HAFDBS: 2 has dirty state as well.
    if get(&v, 0x6030_0000_0013_c039)? & 0xf < 2 {
        return Ok(());
    }
    let (level1, level2, level3, data) = (0, PAGE, 2 * PAGE, 3 * PAGE);
    let put = |at: usize, descriptor: usize| vm.ram.word(at).store(descriptor, SeqCst);
    let ram = |at: usize| RAM as usize + at;
    // 1 GiB of code and mailbox, one of memory; then pages.
    put(level1 + 8, CODE as usize | 0x705);
    put(level1 + 16, ram(0) | 0x705);
    put(level1 + 24, ram(level2) | 3);
    put(level2, ram(level3) | 3);
    let r = Running::new(v)?;
    for i in 1..=10 {
        put(level3, CODE as usize | 0x307);
        put(level3 + 8, ram(data) | 0x307 | READ_ONLY | DBM);
        let pid = fork(|| {
            ms(20);
            // The child's table is as it was.
            let seen = [0, 8].map(|at| vm.ram.word(level3 + at).load(SeqCst));
            i32::from(seen[0] & AF != 0 || seen[1] & AF != 0)
        })?;
        vm.mail.word(16).store(1, SeqCst);
        check!(until(|| vm.count() >= i), "round {i}: the guest stands still, {}", r.fault());
        check!(vm.ram.word(level3).load(SeqCst) & AF != 0);
        check_eq!(vm.ram.word(level3 + 8).load(SeqCst) & (AF | READ_ONLY), AF);
        check_eq!(vm.ram.word(data).load(SeqCst), i);
        check_eq!(wait(pid)?, End::Exit(0));
    }
    r.stop()?;
    Ok(())
}

fn slot_deleted() -> Outcome {
    let (vm, r) = machine(BLOCK, load_loop())?;
    vm.slot(2, RAM, Map { at: vm.ram.at, len: 0 }, 0)?;
    check!(until(|| r.mmio().0 > 0));
    check_eq!(r.mmio().1, RAM + BLOCK as u64);
    vm.slot(2, RAM, vm.ram, 0)?;
    check_eq!(vm.rounds(&r)?, 7 ^ BLOCK);
    r.stop()?;
    Ok(())
}

fn slot_moved() -> Outcome {
    let (vm, r) = machine(BLOCK, load_loop())?;
    vm.slot(2, RAM + BLOCK as u64, vm.ram, 0)?; // The same memory, a block further up.
    check_eq!(vm.rounds(&r)?, 7);
    r.stop()?;
    Ok(())
}

fn slot_read_only() -> Outcome {
    let vm = Vm::new(BLOCK)?;
    if !vm.kvm.check_extension(kvm_ioctls::Cap::ReadonlyMem) {
        return Err(Fail::skip("KVM_CAP_READONLY_MEM"));
    }
    let rom = Map::anon(PAGE)?;
    rom.word(0).store(31, SeqCst);
    vm.slot(5, NOWHERE, rom, kvm_bindings::KVM_MEM_READONLY)?;
    let r = vm.start(0, load_loop(), [NOWHERE, MAIL, 0])?;
    check_eq!(vm.rounds(&r)?, 31);
    let w = vm.start(1, store_loop(), [NOWHERE, MAIL + 64, 0])?;
    check!(until(|| w.mmio().0 > 2));
    check_eq!(rom.word(0).load(SeqCst), 31);
    w.stop()?;
    r.stop()?;
    Ok(())
}

fn shared_memory() -> Outcome {
    // A memfd, mapped by the VMM and by another process.
    let vm = Vm::new(BLOCK)?;
    let fd = sys!(libc::SYS_memfd_create, c"ram".as_ptr(), 0)?;
    sys!(libc::SYS_ftruncate, fd, BLOCK)?;
    let m = Map::full(0, BLOCK, RW, libc::MAP_SHARED, fd as i32, 0)?;
    vm.slot(6, 2 * RAM, m, 0)?;
    let r = vm.start(0, load_loop(), [2 * RAM + PAGE as u64, MAIL, 0])?;
    check_eq!(vm.rounds(&r)?, 0);
    let pid = fork(|| {
        m.word(PAGE).store(123, SeqCst);
        0
    })?;
    check_eq!(wait(pid)?, End::Exit(0));
    check_eq!(vm.rounds(&r)?, 123);
    r.stop()?;
    Ok(())
}

fn walk_under_churn() -> Outcome {
    // Two vCPUs store all over memory that is discarded, remapped and forked.
    let vm = Vm::new(4 * BLOCK)?;
    let a = vm.start(0, walk(), [RAM, MAIL, 2 * BLOCK as u64])?;
    let b = vm.start(1, walk(), [RAM + 2 * BLOCK as u64, MAIL + 64, 2 * BLOCK as u64])?;
    for i in 0..60usize {
        let at = vm.ram.at + (i * 37 % 2000) * PAGE;
        match i % 4 {
            0 => drop(sys!(libc::SYS_madvise, at, 40 * PAGE, libc::MADV_DONTNEED)?),
            1 => drop(fixed(at, 3 * PAGE, RW)?),
            2 => drop(sys!(libc::SYS_madvise, vm.ram.at + BLOCK, BLOCK, libc::MADV_DONTNEED)?),
            _ => check_eq!(wait(fork(|| 0)?)?, End::Exit(0)),
        }
        check_eq!((a.fault(), b.fault()), (0, 0));
    }
    vm.rounds(&a)?;
    a.stop()?;
    b.stop()?;
    // What each page holds is its own address, or nothing yet.
    for off in (0..vm.ram.len).step_by(PAGE) {
        let v = vm.ram.word(off).load(SeqCst);
        check!(v == 0 || v == RAM as usize + off, "offset {off:#x} holds {v:#x}");
    }
    Ok(())
}

fn two_vms() -> Outcome {
    // The same guest-physical addresses, apart.
    let (v1, r1) = machine(0, load_loop())?;
    let (v2, r2) = machine(0, load_loop())?;
    for i in 0..30 {
        v1.ram.word(0).store(1000 + i, SeqCst);
        v2.ram.word(0).store(2000 + i, SeqCst);
        check_eq!(v1.rounds(&r1)?, 1000 + i);
        check_eq!(v2.rounds(&r2)?, 2000 + i);
    }
    r1.stop()?;
    check_eq!(v2.rounds(&r2)?, 2029);
    r2.stop()?;
    Ok(())
}
