//! Scheduling: shares, priorities, places.

use crate::util::{Map, close, ms, pin, pipe, read, until, write};
use el0_tests::{End, Errno, Fail, Outcome, cases, check, check_eq, fork, sys, wait};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

cases!("sched"; policies, nice_shares, fifo_first, fifo_wakes, fifo_sleeps, affinity_when_woken);

/// The caller's policy and priority.
pub fn set_policy(policy: i32, priority: i32) -> Result<usize, Errno> {
    sys!(libc::SYS_sched_setscheduler, 0, policy, &raw const priority)
}

fn cpu() -> usize {
    let mut cpu = u32::MAX;
    let _ = sys!(libc::SYS_getcpu, &raw mut cpu, 0, 0);
    cpu as usize
}

/// The CPUs that the caller may use.
pub fn cpus() -> Result<Vec<usize>, Errno> {
    let mut mask = [0u64; 16];
    sys!(libc::SYS_sched_getaffinity, 0, 128, mask.as_mut_ptr())?;
    Ok((0..64).filter(|cpu| mask[0] >> cpu & 1 != 0).collect())
}

fn spin(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {}
}

fn policies() -> Outcome {
    use libc::{SCHED_BATCH, SCHED_FIFO, SCHED_IDLE, SCHED_OTHER, SCHED_RR};
    for (policy, priority) in
        [(SCHED_BATCH, 0), (SCHED_IDLE, 0), (SCHED_RR, 1), (SCHED_FIFO, 99), (SCHED_OTHER, 0)]
    {
        set_policy(policy, priority)?;
        check_eq!(sys!(libc::SYS_sched_getscheduler, 0), Ok(policy as usize));
        let mut got = -1i32;
        sys!(libc::SYS_sched_getparam, 0, &raw mut got)?;
        check_eq!(got, priority);
    }
    for (policy, priority) in [(SCHED_FIFO, 0), (SCHED_RR, 100), (SCHED_OTHER, 1), (77, 0)] {
        check_eq!(set_policy(policy, priority), Err(Errno(libc::EINVAL)));
    }
    Ok(())
}

/// Two that never stop, on one CPU.
fn nice_shares() -> Outcome {
    const MS: usize = 1_000_000;
    let at = cpus()?[0];
    let page = Map::shared(4096)?;
    let hog = |slot: usize, nice: i32| {
        fork(|| {
            let _ = pin(0, at);
            let _ = sys!(libc::SYS_setpriority, 0, 0, nice);
            page.word(64).fetch_add(1, SeqCst);
            while page.word(64).load(SeqCst) < 2 {
                std::hint::spin_loop();
            }
            // What either does alone doesn't count. A pause of the machine is time of
            // the one whom it hits, and the other gets as much by and by.
            let used = || crate::time::now(libc::CLOCK_PROCESS_CPUTIME_ID).unwrap_or(0) as usize;
            let before = used();
            while page.word(128).load(SeqCst) == 0 {
                page.word(slot).store(used() - before, SeqCst);
                let [normal, nice] = [0, 8].map(|slot| page.word(slot).load(SeqCst));
                // By weight it is 1 to 68.
                let fair = nice > 0 && nice * 8 < normal && normal + nice > 600 * MS;
                let verdict = if fair { 1 } else { 2 };
                if slot == 0 && (fair || normal + nice > 8000 * MS) {
                    page.word(128).store(verdict, SeqCst);
                }
            }
            0
        })
    };
    let hogs = [hog(0, 0)?, hog(8, 19)?];
    for pid in hogs {
        check_eq!(wait(pid)?, End::Exit(0));
    }
    let [normal, nice, verdict] = [0, 8, 128].map(|slot| page.word(slot).load(SeqCst));
    page.unmap();
    check!(verdict == 1, "nice 19 used {nice} ns, nice 0 used {normal} ns");
    Ok(())
}

/// While a SCHED_FIFO thread runs, no other one does.
fn fifo_first() -> Outcome {
    let at = cpus()?[0];
    let page = Map::shared(4096)?;
    let hog = fork(|| {
        let _ = pin(0, at);
        loop {
            page.word(0).fetch_add(1, SeqCst);
        }
    })?;
    while page.word(0).load(SeqCst) == 0 {
        ms(1);
    }
    let first = fork(|| {
        if pin(0, at).is_err() || set_policy(libc::SCHED_FIFO, 10).is_err() {
            return 1;
        }
        let before = page.word(0).load(SeqCst);
        spin(Duration::from_millis(50));
        i32::from(page.word(0).load(SeqCst) != before) * 2
    })?;
    let end = wait(first)?;
    let before = page.word(0).load(SeqCst);
    let goes_on = until(|| page.word(0).load(SeqCst) != before);
    sys!(libc::SYS_kill, hog, libc::SIGKILL)?;
    wait(hog)?;
    page.unmap();
    check_eq!(end, End::Exit(0));
    check!(goes_on);
    Ok(())
}

/// One that wakes takes the CPU from SCHED_OTHER at once, and gives it back.
fn fifo_wakes() -> Outcome {
    let at = cpus()?[0];
    let page = Map::shared(4096)?;
    let (r, w) = pipe(0)?;
    let reader = fork(|| {
        if pin(0, at).is_err() || set_policy(libc::SCHED_FIFO, 10).is_err() {
            return 1;
        }
        page.word(8).store(1, SeqCst);
        for _ in 0..50 {
            if read(r, &mut [0]) != Ok(1) {
                return 2;
            }
            page.word(0).fetch_add(1, SeqCst);
        }
        0
    })?;
    let writer = fork(|| {
        if pin(0, at).is_err() {
            return 1;
        }
        // Until the reader has the policy and waits: time for both to happen.
        if !until(|| page.word(8).load(SeqCst) == 1) {
            return 3;
        }
        ms(20);
        for n in 1..=50 {
            // It has run by the time the call returns.
            if write(w, &[0]) != Ok(1) || page.word(0).load(SeqCst) != n {
                return 2;
            }
        }
        0
    })?;
    let end = wait(writer)?;
    if end != End::Exit(0) {
        // Or the reader would wait for ever.
        let _ = sys!(libc::SYS_kill, reader, libc::SIGKILL);
    }
    let ends = [end, wait(reader)?];
    close(r);
    close(w);
    page.unmap();
    check_eq!(ends, [End::Exit(0), End::Exit(0)]);
    Ok(())
}

/// A real-time task that sleeps keeps nobody of less priority from its CPU, who is
/// woken there from another.
fn fifo_sleeps() -> Outcome {
    let [one, two, ..] = cpus()?[..] else { return Err(Fail::skip("two CPUs")) };
    let page = Map::shared(4096)?;
    let sleeper = |slot: usize, policy: i32, priority: i32| -> Result<_, Errno> {
        let (r, w) = pipe(0)?;
        let pid = fork(|| {
            if pin(0, two).is_err() || set_policy(policy, priority).is_err() {
                return 1;
            }
            page.word(slot).store(1, SeqCst);
            while read(r, &mut [0]) == Ok(1) {
                page.word(slot).fetch_add(1, SeqCst);
            }
            2
        })?;
        Ok((pid, w, slot))
    };
    pin(0, one)?;
    let urgent = sleeper(0, libc::SCHED_FIFO, 10)?;
    let other = sleeper(64, libc::SCHED_OTHER, 0)?;
    let ready = until(|| page.word(0).load(SeqCst) == 1 && page.word(64).load(SeqCst) == 1);
    let mut outcome = if ready { Ok(()) } else { Err(Fail::new("not ready")) };
    let mut took = Vec::new();
    for round in 1..=20 {
        // The urgent one is the last that fell asleep there.
        for (_, w, slot) in [urgent, other, urgent] {
            let before = page.word(slot).load(SeqCst);
            let start = Instant::now();
            let woken = write(w, &[0]) == Ok(1) && until(|| page.word(slot).load(SeqCst) > before);
            if !woken && outcome.is_ok() {
                outcome = Err(Fail::new(format!("round {round}: {slot} sleeps on")));
            }
            took.push(start.elapsed());
            ms(3);
        }
        if outcome.is_err() {
            break;
        }
    }
    for (pid, ..) in [urgent, other] {
        let _ = sys!(libc::SYS_kill, pid, libc::SIGKILL);
        wait(pid)?;
    }
    page.unmap();
    outcome?;
    // Not by something that interrupts that CPU now and then.
    took.sort_unstable();
    let median = took[took.len() / 2];
    check!(median < Duration::from_millis(150), "it takes {median:?}");
    Ok(())
}

/// A thread that is told where to run while it falls asleep, and is woken then.
fn affinity_when_woken() -> Outcome {
    const ROUNDS: usize = 200;
    let all = cpus()?;
    let [one, two, ..] = all[..] else { return Err(Fail::skip("two CPUs")) };
    let page = Map::shared(4096)?;
    let (r, w) = pipe(0)?;
    let sleeper = fork(|| {
        for n in 1..=ROUNDS {
            if read(r, &mut [0]) != Ok(1) {
                return 1;
            }
            page.word(8).store(cpu(), SeqCst);
            page.word(0).store(n, SeqCst);
        }
        0
    })?;
    let mut wrong = 0;
    for n in 1..=ROUNDS {
        let to = if n % 2 == 0 { one } else { two };
        pin(sleeper as usize, to)?;
        check_eq!(write(w, &[0]), Ok(1));
        while page.word(0).load(SeqCst) != n {
            // The two may share a CPU.
            let _ = sys!(libc::SYS_sched_yield);
        }
        wrong += usize::from(page.word(8).load(SeqCst) != to);
    }
    check_eq!(wait(sleeper)?, End::Exit(0));
    close(r);
    close(w);
    page.unmap();
    check_eq!(wrong, 0);
    Ok(())
}
