//! mmap and its relatives, brk, and what fork does to memory.

use crate::util::{ANON, BLOCK, Map, PAGE, RW, SHARED, pipe, read, touch_signal, write};
use el0_tests::{End, Errno, Outcome, cases, check, check_eq, fork, sys, wait};
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

cases!("memory";
    zero_filled, sizes_and_errors, munmap_middle, munmap_many, fixed_replaces, fixed_noreplace,
    hint, mprotect_split, mprotect_none_and_back, mprotect_errors, read_only_zero_page,
    mremap_grow, mremap_shrink, mremap_move_keeps, mremap_fixed, mremap_errors, dontneed_zeroes,
    dontneed_shared_keeps, dontneed_errors, shared_across_fork, shared_split_across_fork,
    private_isolated, big_area, big_partly_unmapped, big_partly_protected, big_fork,
    big_dontneed, many_areas, brk_grows, stack_grows, mincore_and_advice, noreserve_is_lazy,
    munmap_in_threads, fault_in_threads, file_private, file_shared, file_shared_across_fork,
    execute, maps_file, exhaustion,
);

const SEGV: End = End::Signal(libc::SIGSEGV);

fn mprotect(at: usize, len: usize, prot: i32) -> Result<usize, Errno> {
    sys!(libc::SYS_mprotect, at, len, prot)
}

fn munmap(at: usize, len: usize) -> Result<usize, Errno> {
    sys!(libc::SYS_munmap, at, len)
}

fn mremap(at: usize, old: usize, new: usize, flags: i32, to: usize) -> Result<usize, Errno> {
    sys!(libc::SYS_mremap, at, old, new, flags, to)
}

fn madvise(at: usize, len: usize, what: i32) -> Result<usize, Errno> {
    sys!(libc::SYS_madvise, at, len, what)
}

fn zero_filled() -> Outcome {
    // Dirtied and freed many times over: what comes back is always zero.
    for round in 0..20 {
        let m = Map::anon(64 * PAGE)?;
        for off in (0..m.len).step_by(8) {
            check!(m.word(off).load(SeqCst) == 0, "round {round}: offset {off:#x} is not zero");
        }
        for off in (0..m.len).step_by(8) {
            m.word(off).store(!off, SeqCst);
        }
        m.unmap();
    }
    Ok(())
}

fn sizes_and_errors() -> Outcome {
    let bad = |at, len, flags, fd: i32, off| Map::full(at, len, RW, flags, fd, off).err();
    check_eq!(bad(0, 0, ANON, -1, 0), Some(Errno(libc::EINVAL)));
    check_eq!(bad(0, usize::MAX, ANON, -1, 0), Some(Errno(libc::ENOMEM)));
    check_eq!(bad(0, 1 << 50, ANON, -1, 0), Some(Errno(libc::ENOMEM)));
    check_eq!(bad(0, PAGE, libc::MAP_PRIVATE, -1, 0), Some(Errno(libc::EBADF)));
    check_eq!(bad(0, PAGE, libc::MAP_PRIVATE, 0, 1), Some(Errno(libc::EINVAL)));
    check_eq!(bad(0, PAGE, libc::MAP_ANONYMOUS, -1, 0), Some(Errno(libc::EINVAL)));
    check_eq!(bad(123, PAGE, ANON | libc::MAP_FIXED, -1, 0), Some(Errno(libc::EINVAL)));
    // Not at the end of the address space nor in the kernel's half.
    for at in [1 << 56, usize::MAX - PAGE + 1, 0xffff_0000_0000_0000] {
        check_eq!(bad(at, PAGE, ANON | libc::MAP_FIXED, -1, 0), Some(Errno(libc::ENOMEM)));
    }
    let m = Map::anon(1)?;
    m.set(PAGE - 1, 1);
    check_eq!(munmap(m.at + 1, PAGE), Err(Errno(libc::EINVAL)));
    check_eq!(munmap(m.at, 0), Err(Errno(libc::EINVAL)));
    check_eq!(munmap(m.at, usize::MAX), Err(Errno(libc::EINVAL)));
    check_eq!(munmap(0xffff_0000_0000_0000, PAGE), Err(Errno(libc::EINVAL)));
    // Any length is rounded up; unmapping what isn't there is no error.
    check_eq!(munmap(m.at, 5), Ok(0));
    check_eq!(munmap(m.at, PAGE), Ok(0));
    Ok(())
}

fn munmap_middle() -> Outcome {
    let m = Map::anon(8 * PAGE)?;
    m.stamp(77);
    munmap(m.at + 3 * PAGE, 2 * PAGE)?;
    check_eq!(m.unstamped(0, 3 * PAGE, 77), None);
    check_eq!(m.unstamped(5 * PAGE, 8 * PAGE, 77), None);
    check_eq!(touch_signal(m.at + 3 * PAGE, false)?, SEGV);
    check_eq!(touch_signal(m.at + 5 * PAGE - 1, true)?, SEGV);
    check_eq!(touch_signal(m.at + 5 * PAGE, true)?, End::Exit(0));
    // The hole filled again is fresh.
    let h = Map::full(m.at + 3 * PAGE, 2 * PAGE, RW, ANON | libc::MAP_FIXED, -1, 0)?;
    check_eq!(h.nonzero(0, 2 * PAGE), None);
    check_eq!(munmap(m.at, 8 * PAGE), Ok(0));
    check_eq!(touch_signal(m.at, false)?, SEGV);
    Ok(())
}

fn munmap_many() -> Outcome {
    // One call over several areas and holes.
    let m = Map::anon(64 * PAGE)?;
    for p in (0..64).step_by(4) {
        munmap(m.at + p * PAGE, PAGE)?;
        mprotect(m.at + (p + 1) * PAGE, PAGE, libc::PROT_READ)?;
    }
    check_eq!(munmap(m.at + PAGE, 62 * PAGE), Ok(0));
    for p in [0, 1, 31, 62] {
        check_eq!(touch_signal(m.at + p * PAGE, false)?, SEGV);
    }
    check_eq!(touch_signal(m.at + 63 * PAGE, true)?, End::Exit(0));
    Ok(())
}

fn fixed_replaces() -> Outcome {
    let m = Map::anon(6 * PAGE)?;
    m.stamp(5);
    let r = Map::full(m.at + PAGE, 2 * PAGE, libc::PROT_READ, ANON | libc::MAP_FIXED, -1, 0)?;
    check_eq!(r.at, m.at + PAGE);
    check_eq!(r.nonzero(0, 2 * PAGE), None);
    check_eq!(m.unstamped(3 * PAGE, 6 * PAGE, 5), None);
    check_eq!(m.unstamped(0, PAGE, 5), None);
    check_eq!(touch_signal(r.at, true)?, SEGV);
    Ok(())
}

fn fixed_noreplace() -> Outcome {
    let m = Map::anon(2 * PAGE)?;
    let flags = ANON | libc::MAP_FIXED_NOREPLACE;
    check_eq!(Map::full(m.at + PAGE, PAGE, RW, flags, -1, 0).err(), Some(Errno(libc::EEXIST)));
    munmap(m.at + PAGE, PAGE)?;
    check_eq!(Map::full(m.at + PAGE, PAGE, RW, flags, -1, 0)?.at, m.at + PAGE);
    Ok(())
}

fn hint() -> Outcome {
    let m = Map::anon(4 * PAGE)?;
    m.unmap();
    check_eq!(Map::full(m.at, PAGE, RW, ANON, -1, 0)?.at, m.at);
    // Taken: another place, and nothing is replaced.
    m.set(0, 9);
    let other = Map::full(m.at, PAGE, RW, ANON, -1, 0)?;
    check!(other.at != m.at);
    check_eq!(m.get(0), 9);
    Ok(())
}

fn mprotect_split() -> Outcome {
    let m = Map::anon(5 * PAGE)?;
    m.stamp(3);
    mprotect(m.at + 2 * PAGE, PAGE, libc::PROT_READ)?;
    check_eq!(m.unstamped(0, m.len, 3), None);
    check_eq!(touch_signal(m.at + 2 * PAGE, true)?, SEGV);
    check_eq!(touch_signal(m.at + 2 * PAGE, false)?, End::Exit(0));
    check_eq!(touch_signal(m.at + PAGE, true)?, End::Exit(0));
    check_eq!(touch_signal(m.at + 3 * PAGE, true)?, End::Exit(0));
    mprotect(m.at, m.len, RW)?;
    m.set(2 * PAGE + 8, 1);
    check_eq!(m.unstamped(0, m.len, 3), None);
    Ok(())
}

fn mprotect_none_and_back() -> Outcome {
    let m = Map::anon(4 * PAGE)?;
    m.stamp(8);
    mprotect(m.at, m.len, libc::PROT_NONE)?;
    check_eq!(touch_signal(m.at, false)?, SEGV);
    mprotect(m.at, m.len, libc::PROT_READ)?;
    check_eq!(m.unstamped(0, m.len, 8), None);
    check_eq!(touch_signal(m.at, true)?, SEGV);
    mprotect(m.at, m.len, RW)?;
    m.stamp(9);
    check_eq!(m.unstamped(0, m.len, 9), None);
    Ok(())
}

fn mprotect_errors() -> Outcome {
    let m = Map::anon(3 * PAGE)?;
    check_eq!(mprotect(m.at + 1, PAGE, RW), Err(Errno(libc::EINVAL)));
    check_eq!(mprotect(m.at, 0, RW), Ok(0));
    munmap(m.at + PAGE, PAGE)?;
    check_eq!(mprotect(m.at, 3 * PAGE, libc::PROT_READ), Err(Errno(libc::ENOMEM)));
    // What comes before the hole has changed.
    check_eq!(touch_signal(m.at, true)?, SEGV);
    check_eq!(touch_signal(m.at + 2 * PAGE, true)?, End::Exit(0));
    check_eq!(mprotect(m.at, PAGE, 0x8000_0000u32 as i32), Err(Errno(libc::EINVAL)));
    Ok(())
}

fn read_only_zero_page() -> Outcome {
    // Read first, write later: the first write must not reach other zeros.
    let m = Map::anon(64 * PAGE)?;
    check_eq!(m.nonzero(0, m.len), None);
    for p in (0..64).step_by(2) {
        m.set(p * PAGE, 0xff);
    }
    for p in (1..64).step_by(2) {
        check_eq!(m.get(p * PAGE), 0);
    }
    check_eq!(Map::anon(PAGE)?.get(0), 0);
    Ok(())
}

fn mremap_grow() -> Outcome {
    let m = Map::anon(16 * PAGE)?;
    m.stamp(1);
    // Room behind it: in place.
    munmap(m.at + 8 * PAGE, 8 * PAGE)?;
    check_eq!(mremap(m.at, 8 * PAGE, 16 * PAGE, 0, 0), Ok(m.at));
    check_eq!(m.unstamped(0, 8 * PAGE, 1), None);
    check_eq!(m.nonzero(8 * PAGE, 16 * PAGE), None);
    // No room: without MAYMOVE it fails and changes nothing.
    munmap(m.at + 8 * PAGE, 8 * PAGE)?;
    Map::full(m.at + 8 * PAGE, PAGE, RW, ANON | libc::MAP_FIXED, -1, 0)?;
    check_eq!(mremap(m.at, 8 * PAGE, 16 * PAGE, 0, 0), Err(Errno(libc::ENOMEM)));
    check_eq!(m.unstamped(0, 8 * PAGE, 1), None);
    Ok(())
}

fn mremap_shrink() -> Outcome {
    let m = Map::anon(8 * PAGE)?;
    m.stamp(2);
    check_eq!(mremap(m.at, 8 * PAGE, 3 * PAGE, 0, 0), Ok(m.at));
    check_eq!(m.unstamped(0, 3 * PAGE, 2), None);
    check_eq!(touch_signal(m.at + 3 * PAGE, false)?, SEGV);
    Ok(())
}

fn mremap_move_keeps() -> Outcome {
    let m = Map::anon(32 * PAGE)?;
    m.stamp(4);
    let half = 16 * PAGE;
    let at = mremap(m.at, half, 64 * PAGE, libc::MREMAP_MAYMOVE, 0)?;
    check!(at != m.at);
    let n = Map { at, len: 64 * PAGE };
    check_eq!(n.unstamped(0, half, 4), None);
    check_eq!(n.nonzero(half, n.len), None);
    check_eq!(touch_signal(m.at, false)?, SEGV);
    check_eq!(m.unstamped(half, m.len, 4), None);
    Ok(())
}

fn mremap_fixed() -> Outcome {
    let m = Map::anon(4 * PAGE)?;
    let to = Map::anon(4 * PAGE)?;
    m.stamp(6);
    to.stamp(60);
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    check_eq!(mremap(m.at, 2 * PAGE, 2 * PAGE, flags, to.at + PAGE), Ok(to.at + PAGE));
    check_eq!(to.unstamped(0, PAGE, 60), None);
    check_eq!(to.unstamped(3 * PAGE, 4 * PAGE, 60), None);
    for p in 0..2 {
        check_eq!(to.word((p + 1) * PAGE).load(SeqCst), 6 ^ (p * PAGE));
    }
    check_eq!(touch_signal(m.at + PAGE, false)?, SEGV);
    Ok(())
}

fn mremap_errors() -> Outcome {
    let m = Map::anon(4 * PAGE)?;
    let may = libc::MREMAP_MAYMOVE;
    check_eq!(mremap(m.at + 1, PAGE, PAGE, may, 0), Err(Errno(libc::EINVAL)));
    check_eq!(mremap(m.at, PAGE, 0, may, 0), Err(Errno(libc::EINVAL)));
    check_eq!(mremap(m.at, PAGE, PAGE, 0x100, 0), Err(Errno(libc::EINVAL)));
    check_eq!(mremap(m.at, PAGE, PAGE, libc::MREMAP_FIXED, 0), Err(Errno(libc::EINVAL)));
    // Overlap of old and new.
    let fixed = may | libc::MREMAP_FIXED;
    check_eq!(mremap(m.at, 2 * PAGE, 2 * PAGE, fixed, m.at + PAGE), Err(Errno(libc::EINVAL)));
    munmap(m.at, PAGE)?;
    check_eq!(mremap(m.at, PAGE, 2 * PAGE, may, 0), Err(Errno(libc::EFAULT)));
    Ok(())
}

fn dontneed_zeroes() -> Outcome {
    let m = Map::anon(16 * PAGE)?;
    for _ in 0..5 {
        m.stamp(7);
        madvise(m.at + 4 * PAGE, 8 * PAGE, libc::MADV_DONTNEED)?;
        check_eq!(m.unstamped(0, 4 * PAGE, 7), None);
        check_eq!(m.nonzero(4 * PAGE, 12 * PAGE), None);
        check_eq!(m.unstamped(12 * PAGE, 16 * PAGE, 7), None);
    }
    Ok(())
}

fn dontneed_shared_keeps() -> Outcome {
    let m = Map::shared(4 * PAGE)?;
    m.stamp(70);
    madvise(m.at, m.len, libc::MADV_DONTNEED)?;
    check_eq!(m.unstamped(0, m.len, 70), None);
    Ok(())
}

fn dontneed_errors() -> Outcome {
    let m = Map::anon(3 * PAGE)?;
    check_eq!(madvise(m.at + 1, PAGE, libc::MADV_DONTNEED), Err(Errno(libc::EINVAL)));
    check_eq!(madvise(m.at, PAGE, 12345), Err(Errno(libc::EINVAL)));
    check_eq!(madvise(m.at, 0, libc::MADV_DONTNEED), Ok(0));
    munmap(m.at + PAGE, PAGE)?;
    m.set(0, 1);
    m.set(2 * PAGE, 1);
    check_eq!(madvise(m.at, 3 * PAGE, libc::MADV_DONTNEED), Err(Errno(libc::ENOMEM)));
    // Done all the same, on both sides of the hole.
    check_eq!((m.get(0), m.get(2 * PAGE)), (0, 0));
    Ok(())
}

fn shared_across_fork() -> Outcome {
    let m = Map::shared(64 * PAGE)?;
    m.word(0).store(1, SeqCst); // One page before the fork, the rest after.
    let pid = fork(|| {
        m.stamp(0x5a);
        0
    })?;
    check_eq!(wait(pid)?, End::Exit(0));
    check_eq!(m.unstamped(0, m.len, 0x5a), None);
    let pid = fork(|| i32::from(m.unstamped(0, m.len, 0x5a).is_some()))?;
    check_eq!(wait(pid)?, End::Exit(0));
    Ok(())
}

fn shared_split_across_fork() -> Outcome {
    // Unmapped or moved in the parent, it lives on in the child.
    let m = Map::shared(8 * PAGE)?;
    m.stamp(11);
    let (r, w) = pipe(0)?;
    let (r2, w2) = pipe(0)?;
    let pid = fork(|| {
        let _ = read(r, &mut [0]);
        let good = m.unstamped(0, m.len, 11).is_none();
        m.stamp(12);
        let _ = write(w2, b"x");
        i32::from(!good)
    })?;
    munmap(m.at, 4 * PAGE)?;
    let at = mremap(m.at + 4 * PAGE, 4 * PAGE, 4 * PAGE, libc::MREMAP_MAYMOVE, 0)?;
    write(w, b"x")?;
    read(r2, &mut [0])?;
    let n = Map { at, len: 4 * PAGE };
    for p in 0..4 {
        check_eq!(n.word(p * PAGE).load(SeqCst), 12 ^ ((p + 4) * PAGE));
    }
    check_eq!(wait(pid)?, End::Exit(0));
    Ok(())
}

fn private_isolated() -> Outcome {
    let m = Map::anon(16 * PAGE)?;
    m.stamp(21);
    for round in 0..10 {
        let pid = fork(|| {
            m.stamp(round);
            i32::from(m.unstamped(0, m.len, round).is_some())
        })?;
        check_eq!(wait(pid)?, End::Exit(0));
        check_eq!(m.unstamped(0, m.len, 21), None);
    }
    // Written by the kernel, not by a store: the copy is broken all the same.
    let (r, w) = pipe(0)?;
    write(w, &[0xee; 8])?;
    let pid = fork(|| {
        let n = sys!(libc::SYS_read, r, m.at, 8);
        i32::from(n != Ok(8) || m.get(0) != 0xee)
    })?;
    check_eq!(wait(pid)?, End::Exit(0));
    check_eq!(m.unstamped(0, m.len, 21), None);
    Ok(())
}

fn big_area() -> Outcome {
    let m = Map::aligned(4 * BLOCK)?;
    let _ = madvise(m.at, m.len, libc::MADV_HUGEPAGE);
    check_eq!(m.nonzero(0, m.len), None);
    m.stamp(31);
    check_eq!(m.unstamped(0, m.len, 31), None);
    // Misaligned by a page as well.
    let n = Map { at: m.at + PAGE, len: 3 * BLOCK };
    munmap(m.at, PAGE)?;
    check_eq!(n.word(0).load(SeqCst), 31 ^ PAGE);
    Ok(())
}

fn big_partly_unmapped() -> Outcome {
    let m = Map::aligned(4 * BLOCK)?;
    m.stamp(32);
    munmap(m.at + BLOCK / 2, BLOCK)?; // Half of two blocks.
    munmap(m.at + 3 * BLOCK + 5 * PAGE, PAGE)?; // A page of another.
    check_eq!(m.unstamped(0, BLOCK / 2, 32), None);
    check_eq!(m.unstamped(3 * BLOCK / 2, 3 * BLOCK + 5 * PAGE, 32), None);
    check_eq!(m.unstamped(3 * BLOCK + 6 * PAGE, 4 * BLOCK, 32), None);
    for off in [BLOCK / 2, BLOCK - PAGE, BLOCK, 3 * BLOCK / 2 - PAGE, 3 * BLOCK + 5 * PAGE] {
        check_eq!(touch_signal(m.at + off, false)?, SEGV);
    }
    Ok(())
}

fn big_partly_protected() -> Outcome {
    let m = Map::aligned(2 * BLOCK)?;
    m.stamp(33);
    mprotect(m.at + BLOCK - PAGE, 2 * PAGE, libc::PROT_READ)?;
    check_eq!(m.unstamped(0, m.len, 33), None);
    check_eq!(touch_signal(m.at + BLOCK - PAGE, true)?, SEGV);
    check_eq!(touch_signal(m.at + BLOCK, true)?, SEGV);
    check_eq!(touch_signal(m.at + BLOCK - 2 * PAGE, true)?, End::Exit(0));
    check_eq!(touch_signal(m.at + BLOCK + PAGE, true)?, End::Exit(0));
    mprotect(m.at, m.len, RW)?;
    m.stamp(34);
    check_eq!(m.unstamped(0, m.len, 34), None);
    Ok(())
}

fn big_fork() -> Outcome {
    let m = Map::aligned(3 * BLOCK)?;
    m.stamp(35);
    let pid = fork(|| {
        if m.unstamped(0, m.len, 35).is_some() {
            return 1;
        }
        // A single page of a block, then the whole next block.
        m.word(PAGE).store(1, SeqCst);
        Map { at: m.at + BLOCK, len: BLOCK }.stamp(36);
        i32::from(m.unstamped(2 * BLOCK, 3 * BLOCK, 35).is_some()) * 2
            + i32::from(m.unstamped(2 * PAGE, BLOCK, 35).is_some()) * 4
    })?;
    check_eq!(wait(pid)?, End::Exit(0));
    check_eq!(m.unstamped(0, m.len, 35), None);
    m.stamp(37);
    check_eq!(m.unstamped(0, m.len, 37), None);
    Ok(())
}

fn big_dontneed() -> Outcome {
    let m = Map::aligned(2 * BLOCK)?;
    for _ in 0..3 {
        m.stamp(38);
        madvise(m.at + PAGE, BLOCK, libc::MADV_DONTNEED)?;
        check_eq!(m.unstamped(0, PAGE, 38), None);
        check_eq!(m.nonzero(PAGE, BLOCK + PAGE), None);
        check_eq!(m.unstamped(BLOCK + PAGE, m.len, 38), None);
        madvise(m.at, m.len, libc::MADV_DONTNEED)?;
        check_eq!(m.nonzero(0, m.len), None);
    }
    Ok(())
}

fn many_areas() -> Outcome {
    let m = Map::anon(2000 * PAGE)?;
    for p in (0..2000).step_by(2) {
        mprotect(m.at + p * PAGE, PAGE, libc::PROT_READ)?;
    }
    for p in (1..2000).step_by(2) {
        m.word(p * PAGE).store(p, SeqCst);
    }
    for p in 0..2000 {
        let want = if p % 2 == 1 { p } else { 0 };
        check_eq!(m.word(p * PAGE).load(SeqCst), want);
    }
    check_eq!(munmap(m.at, m.len), Ok(0));
    Ok(())
}

fn brk_grows() -> Outcome {
    let brk = |at: usize| sys!(libc::SYS_brk, at).unwrap_or(0);
    let start = brk(0);
    check!(start != 0);
    check_eq!(brk(start + 20 * PAGE), start + 20 * PAGE);
    let top = start.next_multiple_of(PAGE);
    let m = Map { at: top, len: 18 * PAGE };
    check_eq!(m.nonzero(0, m.len), None);
    m.stamp(41);
    check_eq!(brk(start + 5 * PAGE), start + 5 * PAGE);
    check_eq!(brk(start + 20 * PAGE), start + 20 * PAGE);
    check_eq!(m.unstamped(0, 4 * PAGE, 41), None);
    check_eq!(m.nonzero(6 * PAGE, m.len), None);
    // What can't be: the old break comes back.
    check_eq!(brk(1), start + 20 * PAGE);
    check_eq!(brk(usize::MAX - PAGE), start + 20 * PAGE);
    let pid = fork(|| i32::from(brk(0) != start + 20 * PAGE))?;
    check_eq!(wait(pid)?, End::Exit(0));
    check_eq!(brk(start), start);
    Ok(())
}

fn stack_grows() -> Outcome {
    // A fresh process: its main stack, megabytes deep, in steps.
    fn deep(n: usize) -> usize {
        let block = std::hint::black_box([1u8; 16384]);
        if n == 0 { 0 } else { deep(n - 1) + usize::from(block[n]) }
    }
    let pid = fork(|| i32::from(deep(300) != 300))?;
    check_eq!(wait(pid)?, End::Exit(0));
    Ok(())
}

fn mincore_and_advice() -> Outcome {
    let m = Map::anon(8 * PAGE)?;
    for advice in [libc::MADV_NORMAL, libc::MADV_WILLNEED, libc::MADV_SEQUENTIAL, libc::MADV_RANDOM]
    {
        check_eq!(madvise(m.at, m.len, advice), Ok(0));
    }
    Ok(())
}

fn noreserve_is_lazy() -> Outcome {
    // 64 GiB of addresses cost nothing until they're touched.
    let m = Map::full(0, 64 << 30, RW, ANON | libc::MAP_NORESERVE, -1, 0)?;
    for i in 0..64 {
        m.word(i << 30).store(i + 1, SeqCst);
    }
    for i in 0..64 {
        check_eq!(m.word(i << 30).load(SeqCst), i + 1);
    }
    check_eq!(munmap(m.at, m.len), Ok(0));
    Ok(())
}

fn munmap_in_threads() -> Outcome {
    // Mapping, touching and unmapping from four threads on one address space.
    let all: Vec<_> = (0..4usize)
        .map(|t| {
            thread::spawn(move || -> Outcome {
                for i in 0..200 {
                    let m = Map::anon((1 + i % 7) * PAGE)?;
                    check_eq!(m.nonzero(0, m.len), None);
                    m.stamp(t << 32 | i);
                    check_eq!(m.unstamped(0, m.len, t << 32 | i), None);
                    m.unmap();
                }
                Ok(())
            })
        })
        .collect();
    all.into_iter().try_for_each(|t| t.join().unwrap())
}

fn fault_in_threads() -> Outcome {
    // Four threads fault on the same pages: each page is made once.
    for _ in 0..10 {
        let m = Map::anon(128 * PAGE)?;
        let all: Vec<_> = (0..4)
            .map(|_| {
                thread::spawn(move || {
                    for off in (0..m.len).step_by(PAGE) {
                        m.word(off).fetch_add(1, SeqCst);
                    }
                })
            })
            .collect();
        all.into_iter().for_each(|t| t.join().unwrap());
        for off in (0..m.len).step_by(PAGE) {
            check_eq!(m.word(off).load(SeqCst), 4);
        }
        m.unmap();
    }
    Ok(())
}

/// A file of four pages, each full of its number.
fn paged_file(d: &crate::util::Dir) -> Result<std::fs::File, std::io::Error> {
    let bytes: Vec<u8> = (0..4 * PAGE).map(|i| b'0' + (i / PAGE) as u8).collect();
    std::fs::write(d.at("f"), bytes)?;
    std::fs::OpenOptions::new().read(true).write(true).open(d.at("f"))
}

fn file_private() -> Outcome {
    use std::os::fd::AsRawFd;
    let d = crate::util::Dir::new("mmap")?;
    let f = paged_file(&d)?;
    let m = Map::full(0, 3 * PAGE, RW, libc::MAP_PRIVATE, f.as_raw_fd(), PAGE)?;
    check_eq!((m.get(0), m.get(PAGE), m.get(3 * PAGE - 1)), (b'1', b'2', b'3'));
    m.set(PAGE + 1, b'x');
    check_eq!(std::fs::read(d.at("f"))?[2 * PAGE + 1], b'2');
    drop(f);
    std::fs::remove_file(d.at("f"))?;
    check_eq!((m.get(PAGE), m.get(PAGE + 1), m.get(2 * PAGE)), (b'2', b'x', b'3'));
    // DONTNEED brings the file's bytes back.
    madvise(m.at + PAGE, PAGE, libc::MADV_DONTNEED)?;
    check_eq!(m.get(PAGE + 1), b'2');
    Ok(())
}

fn file_shared() -> Outcome {
    use std::io::{Seek, SeekFrom, Write};
    use std::os::fd::AsRawFd;
    let d = crate::util::Dir::new("shmap")?;
    let mut f = paged_file(&d)?;
    let a = Map::full(0, 4 * PAGE, RW, libc::MAP_SHARED, f.as_raw_fd(), 0)?;
    let b = Map::full(0, PAGE, libc::PROT_READ, libc::MAP_SHARED, f.as_raw_fd(), 2 * PAGE)?;
    a.set(2 * PAGE + 9, b'!');
    check_eq!(b.get(9), b'!');
    check_eq!(std::fs::read(d.at("f"))?[2 * PAGE + 9], b'!');
    f.seek(SeekFrom::Start(2 * PAGE as u64))?;
    f.write_all(b"written")?;
    check_eq!((b.get(0), a.get(2 * PAGE + 6)), (b'w', b'n'));
    check_eq!(sys!(libc::SYS_msync, a.at, a.len, libc::MS_SYNC), Ok(0));
    // Writable sharing of a file that is open for reading only is refused.
    let ro = std::fs::File::open(d.at("f"))?;
    let r = Map::full(0, PAGE, RW, libc::MAP_SHARED, ro.as_raw_fd(), 0);
    check_eq!(r.err(), Some(Errno(libc::EACCES)));
    Ok(())
}

fn file_shared_across_fork() -> Outcome {
    use std::os::fd::AsRawFd;
    let d = crate::util::Dir::new("shfork")?;
    let f = paged_file(&d)?;
    let m = Map::full(0, 4 * PAGE, RW, libc::MAP_SHARED, f.as_raw_fd(), 0)?;
    let pid = fork(|| {
        m.set(3 * PAGE, b'c');
        0
    })?;
    check_eq!(wait(pid)?, End::Exit(0));
    check_eq!(m.get(3 * PAGE), b'c');
    check_eq!(std::fs::read(d.at("f"))?[3 * PAGE], b'c');
    Ok(())
}

/// Code written at run time, made visible, changed, and refused without PROT_EXEC.
fn execute() -> Outcome {
    let m = Map::anon(PAGE)?;
    let run = |value: u32| -> Result<u32, Errno> {
        #[cfg(target_arch = "aarch64")]
        let code = [0x5280_0000 | value << 5, 0xd65f_03c0]; // mov w0, #value; ret
        #[cfg(target_arch = "x86_64")]
        let code = [0xb8 | value << 8, 0xc3 << 8]; // mov eax, value; ret
        mprotect(m.at, PAGE, RW)?;
        for (i, w) in code.iter().enumerate() {
            for (j, b) in u32::to_le_bytes(*w).into_iter().enumerate() {
                m.set(4 * i + j, b);
            }
        }
        mprotect(m.at, PAGE, libc::PROT_READ | libc::PROT_EXEC)?;
        #[cfg(target_arch = "aarch64")]
        // SAFETY: cleans and invalidates lines of the mapping.
        unsafe {
            std::arch::asm!("dc cvau, {0}", "dsb ish", "ic ivau, {0}", "dsb ish", "isb", in(reg) m.at);
        }
        // SAFETY: the two instructions above follow the C calling convention.
        Ok(unsafe { std::mem::transmute::<usize, extern "C" fn() -> u32>(m.at)() })
    };
    for v in 0..20 {
        check_eq!(run(v)?, v);
    }
    mprotect(m.at, PAGE, RW)?;
    let pid = fork(|| {
        // SAFETY: faults: the page is not executable.
        unsafe { std::mem::transmute::<usize, extern "C" fn() -> u32>(m.at)() as i32 }
    })?;
    check_eq!(wait(pid)?, SEGV);
    Ok(())
}

fn maps_file() -> Outcome {
    let m = Map::full(0, 3 * PAGE, libc::PROT_READ, SHARED, -1, 0)?;
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let range = format!("{:x}-{:x} r--s", m.at, m.at + m.len);
    check!(maps.lines().any(|l| l.starts_with(&range)), "no {range} in\n{maps}");
    check!(maps.lines().any(|l| l.ends_with("[stack]")));
    Ok(())
}

fn exhaustion() -> Outcome {
    // A limit on the address space ends in ENOMEM, not in worse.
    let pid = fork(|| {
        let lim = [256usize << 20, 256 << 20];
        let set = sys!(libc::SYS_prlimit64, 0, libc::RLIMIT_AS, lim.as_ptr(), 0);
        let mut n = 0;
        let last = loop {
            match Map::anon(16 << 20) {
                Ok(_) if n > 100 => break None,
                Ok(_) => n += 1,
                Err(e) => break Some(e),
            }
        };
        i32::from(set != Ok(0) || last != Some(Errno(libc::ENOMEM)) || n == 0)
    })?;
    check_eq!(wait(pid)?, End::Exit(0));
    Ok(())
}
