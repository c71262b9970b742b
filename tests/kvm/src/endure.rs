//! Endurance: machines made, run and ended in every way, again and again, by children;
//! afterwards every frame, task, file, VM, vCPU and VMID is back, by the kernel's
//! own accounts. `ROUNDS=N` in the environment says how often.

use crate::vm::{NOWHERE, RAM, Vm, e, mmio, spin, walk};
use el0_tests::util::{BLOCK, Map, PAGE, close, ms, read, until};
use el0_tests::{End, Errno, Fail, Outcome, cases, check, check_eq, fork, sys, wait};
use kvm_ioctls::VcpuExit;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

cases!("endure"; created, killed, killed_while_it_clones, stopped, signalled, starved);

/// Where the page lies that a child's guest shares with us.
const SHARED: u64 = 0x5000_0000;
const KILLED: End = End::Signal(libc::SIGKILL);

/// What /proc/hypha counts, and the heap's bytes apart.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Accounts {
    text: [u8; 1024],
    heap: usize,
}

impl Accounts {
    /// Looks without a heap of our own: it would count.
    fn now() -> Result<Self, Fail> {
        let fd = sys!(libc::SYS_openat, libc::AT_FDCWD, c"/proc/hypha".as_ptr(), libc::O_CLOEXEC);
        let fd = fd.map_err(|_| Fail::skip("/proc/hypha"))? as i32;
        let mut all = [0; 1024];
        let length = read(fd, &mut all)?;
        close(fd);
        let mut this = Self { text: [0; 1024], heap: 0 };
        let mut at = 0;
        for line in all[..length].split_inclusive(|byte| *byte == b'\n') {
            if let Some(number) = line.strip_prefix(b"heap-used ") {
                this.heap = std::str::from_utf8(number)
                    .ok()
                    .and_then(|n| n.trim().parse().ok())
                    .unwrap_or(0);
            } else if !line.starts_with(b"free ") && !line.starts_with(b"heap ") {
                // Free memory is what the others leave; a page of the heap stays
                // for a single byte in it.
                this.text[at..at + line.len()].copy_from_slice(line);
                at += line.len();
            }
        }
        check!(at > 50, "/proc/hypha counts nothing");
        Ok(this)
    }

    fn words(&self) -> String {
        String::from_utf8_lossy(&self.text).trim_end_matches('\0').replace('\n', ", ")
    }
}

/// `ROUNDS`, or few.
fn rounds() -> u64 {
    std::env::var("ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(10)
}

/// Does it a few times, and then so many times; the second leaves nothing behind.
fn again(rounds: u64, mut round: impl FnMut(u64) -> Outcome) -> Outcome {
    // What the first ones leave is the kernel's own: caches, lazily made tables.
    Accounts::now()?;
    (0..4).try_for_each(&mut round)?;
    // What ends in the background may take a moment.
    let mut before = Accounts::now()?;
    for _ in 0..20 {
        ms(500);
        let last = std::mem::replace(&mut before, Accounts::now()?);
        if last == before {
            break;
        }
    }
    (0..rounds).try_for_each(&mut round)?;
    let mut after = Accounts::now()?;
    for _ in 0..50 {
        if after.text == before.text {
            break;
        }
        ms(100);
        after = Accounts::now()?;
    }
    check!(after.text == before.text, "before {} after {}", before.words(), after.words());
    // Lists keep room for the most they ever held; that doesn't grow with the rounds.
    check!(after.heap <= before.heap + 1024, "heap: {} bytes, then {}", before.heap, after.heap);
    Ok(())
}

/// Numbers that look random.
fn random(seed: u64) -> u64 {
    let mut x = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 31;
    x.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 20
}

fn status(outcome: Outcome) -> i32 {
    match outcome {
        Ok(()) => 0,
        Err(why) => {
            eprintln!("  in the child: {why}");
            1
        }
    }
}

/// A process with a machine of two vCPUs that store all over 4 MiB; the first
/// counts its rounds in the shared page.
fn busy(shared: Map) -> Result<i32, Errno> {
    fork(|| {
        status((|| {
            let vm = Vm::new(2 * BLOCK)?;
            vm.slot(3, SHARED, shared, 0)?;
            let size = BLOCK as u64;
            let _one = vm.start(0, walk(), [RAM, SHARED, size])?;
            let _two = vm.start(1, walk(), [RAM + size, SHARED + 64, size])?;
            ms(600_000);
            Err(Fail::new("nobody killed this"))
        })())
    })
}

fn kill(pid: i32) -> Outcome {
    sys!(libc::SYS_kill, pid, libc::SIGKILL)?;
    check_eq!(wait(pid)?, KILLED);
    Ok(())
}

/// Made, run until the guest powers off, and closed.
fn life() -> Outcome {
    let vm = Vm::new(BLOCK)?;
    let mut vcpu = vm.vcpu(0, mmio(), [NOWHERE, 0, 0])?;
    let mut accesses = 0;
    loop {
        match vcpu.run().map_err(e)? {
            VcpuExit::MmioRead(..) | VcpuExit::MmioWrite(..) => accesses += 1,
            VcpuExit::SystemEvent(..) => break,
            other => return Err(Fail::new(format!("{other:?}"))),
        }
    }
    check_eq!(accesses, 5);
    vm.close();
    Ok(())
}

fn created() -> Outcome {
    again(rounds(), |_| {
        let pid = fork(|| status((0..4).try_for_each(|_| life())))?;
        check_eq!(wait(pid)?, End::Exit(0));
        Ok(())
    })
}

fn killed() -> Outcome {
    let shared = Map::shared(PAGE)?;
    again(rounds(), |round| {
        let pid = busy(shared)?;
        // Most while things are half made.
        let limit = if round % 4 == 0 { 120_000 } else { 15_000 };
        std::thread::sleep(Duration::from_micros(random(round) % limit));
        kill(pid)
    })
}

/// Threads that are killed before whoever makes them is done.
fn killed_while_it_clones() -> Outcome {
    const MOST: usize = 200;
    let clone = || (0..MOST).for_each(|_| drop(std::thread::spawn(|| ms(600_000))));
    // The tables that map the kernel's stacks stay.
    let pid = fork(|| {
        clone();
        0
    })?;
    check_eq!(wait(pid)?, End::Exit(0));
    again(rounds() * 4, |round| {
        let pid = fork(|| {
            clone();
            ms(600_000);
            1
        })?;
        std::thread::sleep(Duration::from_micros(random(round) % 10_000));
        kill(pid)
    })
}

/// Does the guest's count go up, be it late?
fn goes_on(shared: &Map) -> bool {
    let count = || shared.word(8).load(SeqCst);
    let from = count();
    (0..6).any(|_| until(|| count() > from + 1))
}

fn stopped() -> Outcome {
    let shared = Map::shared(PAGE)?;
    again(rounds().div_ceil(10), |_| {
        let pid = busy(shared)?;
        check!(goes_on(&shared));
        for _ in 0..3 {
            sys!(libc::SYS_kill, pid, libc::SIGSTOP)?;
            let mut code = 0i32;
            sys!(libc::SYS_wait4, pid, &raw mut code, libc::WUNTRACED, 0)?;
            check_eq!(End::of(code), End::Stopped(libc::SIGSTOP));
            // The vCPU's thread may be the last to stand still.
            check!(until(|| {
                let at = shared.word(8).load(SeqCst);
                ms(20);
                shared.word(8).load(SeqCst) == at
            }));
            sys!(libc::SYS_kill, pid, libc::SIGCONT)?;
            check!(goes_on(&shared));
        }
        kill(pid)
    })
}

/// Signals without end interrupt KVM_RUN; the guest loses nothing.
fn signalled() -> Outcome {
    again(rounds().div_ceil(10), |_| {
        let pid = fork(|| {
            status((|| {
                let vm = Vm::new(BLOCK)?;
                let one = vm.start(0, spin(), [0; 3])?;
                for _ in 0..200 {
                    one.kick();
                }
                let interrupted = until(|| {
                    one.kick();
                    one.interrupted() > 0
                });
                check!(interrupted && one.fault() == 0);
                one.stop()?;
                Ok(())
            })())
        })?;
        check_eq!(wait(pid)?, End::Exit(0));
        Ok(())
    })
}

/// Others take all memory there is, while a machine touches its own anew again and
/// again: they die of it, the machine goes on.
fn starved() -> Outcome {
    let shared = Map::shared(PAGE)?;
    let adjust = |value: &str| std::fs::write("/proc/self/oom_score_adj", value);
    Accounts::now()?;
    let machine = fork(|| {
        status((|| {
            adjust("-1000")?;
            let vm = Vm::new(8 * BLOCK)?;
            vm.slot(3, SHARED, shared, 0)?;
            let one = vm.start(0, walk(), [RAM, SHARED, 8 * BLOCK as u64])?;
            while shared.word(128).load(SeqCst) == 0 {
                sys!(libc::SYS_madvise, vm.ram.at, vm.ram.len, libc::MADV_DONTNEED)?;
                ms(5);
                check_eq!(one.fault(), 0);
            }
            drop(one.stop()?);
            Ok(())
        })())
    })?;
    check!(goes_on(&shared));
    for _ in 0..2 {
        let hog = fork(|| {
            status((|| {
                adjust("1000")?;
                for _ in 0..1 << 14 {
                    let some = Map::anon(BLOCK)?;
                    (0..BLOCK).step_by(PAGE).for_each(|at| some.set(at, 1));
                }
                Err(Fail::new("memory without end"))
            })())
        })?;
        check_eq!(wait(hog)?, KILLED);
        check!(goes_on(&shared));
    }
    shared.word(128).store(1, SeqCst);
    check_eq!(wait(machine)?, End::Exit(0));
    Ok(())
}
