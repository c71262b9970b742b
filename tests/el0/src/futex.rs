//! futex(2) itself.

use crate::util::{Handler, Map, asleep, gettid, handle, ms, signalled, until};
use el0_tests::{Errno, Outcome, cases, check, check_eq, fork, sys, wait};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

cases!("futex";
    value_mismatch, wake_none, timeout, absolute_timeout, wake_counts, bitset, requeue,
    cmp_requeue_mismatch, wake_op, wake_op_counts, time_out_and_handler, shared_across_fork, private_is_private, interrupted, errors,
    many_waiters, lost_wakeup,
);

const PRIVATE: i32 = libc::FUTEX_PRIVATE_FLAG;

fn op(f: &AtomicU32, op: i32, val: u32, time: usize, f2: usize, val3: u32) -> Result<usize, Errno> {
    sys!(libc::SYS_futex, f.as_ptr(), op, val, time, f2, val3)
}

fn wait_on(f: &AtomicU32, val: u32) -> Result<usize, Errno> {
    op(f, libc::FUTEX_WAIT | PRIVATE, val, 0, 0, 0)
}

fn wake(f: &AtomicU32, n: u32) -> Result<usize, Errno> {
    op(f, libc::FUTEX_WAKE | PRIVATE, n, 0, 0, 0)
}

fn value_mismatch() -> Outcome {
    check_eq!(wait_on(&AtomicU32::new(1), 2), Err(Errno(libc::EAGAIN)));
    Ok(())
}

fn wake_none() -> Outcome {
    check_eq!(wake(&AtomicU32::new(0), 10), Ok(0));
    Ok(())
}

fn timeout() -> Outcome {
    let f = AtomicU32::new(0);
    for d in [0, 1_000_000, 40_000_000] {
        let t = libc::timespec { tv_sec: 0, tv_nsec: d };
        let start = Instant::now();
        let r = op(&f, libc::FUTEX_WAIT | PRIVATE, 0, &raw const t as usize, 0, 0);
        check_eq!(r, Err(Errno(libc::ETIMEDOUT)));
        check!(start.elapsed() >= Duration::from_nanos(d as u64), "early: {:?}", start.elapsed());
    }
    Ok(())
}

fn absolute_timeout() -> Outcome {
    let f = AtomicU32::new(0);
    for (clock, flag) in
        [(libc::CLOCK_MONOTONIC, 0), (libc::CLOCK_REALTIME, libc::FUTEX_CLOCK_REALTIME)]
    {
        let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let start = Instant::now();
        sys!(libc::SYS_clock_gettime, clock, &raw mut t)?;
        t.tv_nsec += 30_000_000;
        if t.tv_nsec >= 1_000_000_000 {
            t.tv_nsec -= 1_000_000_000;
            t.tv_sec += 1;
        }
        let w = libc::FUTEX_WAIT_BITSET | PRIVATE | flag;
        let r = op(&f, w, 0, &raw const t as usize, 0, u32::MAX);
        check_eq!(r, Err(Errno(libc::ETIMEDOUT)));
        let took = start.elapsed();
        check!(took >= Duration::from_millis(30) && took < Duration::from_secs(5), "{took:?}");
        // A time that is past ends at once.
        let r = op(&f, w, 0, &raw const t as usize, 0, u32::MAX);
        check_eq!(r, Err(Errno(libc::ETIMEDOUT)));
    }
    Ok(())
}

/// Wakes one at a time until `n` have been woken; fails when more come.
fn wake_all_of(f: &AtomicU32, n: usize) -> Outcome {
    let mut woken = 0;
    check!(
        until(|| {
            woken += wake(f, 1).unwrap_or(0);
            woken >= n
        }),
        "woke {woken} of {n}"
    );
    check_eq!(wake(f, 100)?, 0);
    Ok(())
}

fn wake_counts() -> Outcome {
    let f = AtomicU32::new(0);
    let up = AtomicUsize::new(0);
    let waiters = [const { AtomicUsize::new(0) }; 6];
    thread::scope(|s| {
        for waiter in &waiters {
            let (f, up) = (&f, &up);
            s.spawn(move || {
                waiter.store(gettid(), Ordering::SeqCst);
                let _ = wait_on(f, 0);
                up.fetch_add(1, Ordering::SeqCst);
            });
        }
        // All asleep: then a wake of 2 wakes 2 and says so.
        let slept = all_asleep(&waiters);
        let two = wake(&f, 2);
        let came = until(|| up.load(Ordering::SeqCst) == 2);
        ms(10);
        let stayed = up.load(Ordering::SeqCst) == 2;
        let rest = wake(&f, 100);
        let all = until(|| {
            // Had one not slept yet, it would sleep for ever.
            let _ = wake(&f, 100);
            up.load(Ordering::SeqCst) == 6
        });
        check!(slept && all, "slept: {slept}, woken: {}", up.load(Ordering::SeqCst));
        check_eq!((two, rest), (Ok(2), Ok(4)));
        check!(came && stayed, "not two came: {came}, {stayed}");
        check_eq!(wake(&f, 1), Ok(0));
        Ok(())
    })
}

fn bitset() -> Outcome {
    let f = AtomicU32::new(0);
    let woken = AtomicU32::new(0);
    thread::scope(|s| {
        for bit in [1u32, 2, 4] {
            let (f, woken) = (&f, &woken);
            s.spawn(move || {
                let _ = op(f, libc::FUTEX_WAIT_BITSET | PRIVATE, 0, 0, 0, bit);
                woken.fetch_or(bit, Ordering::SeqCst);
            });
        }
        let wake_bits =
            |b: u32| op(&f, libc::FUTEX_WAKE_BITSET | PRIVATE, 10, 0, 0, b).unwrap_or(0);
        check_eq!(wake_bits(8), 0);
        let mut n = 0;
        check!(until(|| {
            n += wake_bits(2);
            n == 1
        }));
        check!(until(|| woken.load(Ordering::SeqCst) == 2));
        check!(until(|| {
            n += wake_bits(5);
            n == 3
        }));
        check!(until(|| woken.load(Ordering::SeqCst) == 7));
        Ok(())
    })
}

/// Waits until each of these has a thread's number, and that thread sleeps.
fn all_asleep(threads: &[AtomicUsize]) -> bool {
    threads.iter().all(asleep)
}

fn requeue() -> Outcome {
    let (a, b) = (AtomicU32::new(0), AtomicU32::new(0));
    let up = AtomicUsize::new(0);
    let waiters = [const { AtomicUsize::new(0) }; 4];
    thread::scope(|s| {
        for waiter in &waiters {
            s.spawn(|| {
                waiter.store(gettid(), Ordering::SeqCst);
                let _ = wait_on(&a, 0);
                up.fetch_add(1, Ordering::SeqCst);
            });
        }
        check!(all_asleep(&waiters));
        // One is woken, the rest move to `b`.
        let r = op(&a, libc::FUTEX_CMP_REQUEUE | PRIVATE, 1, 100, b.as_ptr() as usize, 0)?;
        check_eq!(r, 4);
        check!(until(|| up.load(Ordering::SeqCst) == 1));
        check_eq!(wake(&a, 10), Ok(0));
        ms(10);
        check_eq!(up.load(Ordering::SeqCst), 1);
        // Without a comparison, those who move count too.
        check_eq!(op(&b, libc::FUTEX_REQUEUE | PRIVATE, 0, 2, a.as_ptr() as usize, 0), Ok(2));
        wake_all_of(&b, 1)?;
        wake_all_of(&a, 2)?;
        check!(until(|| up.load(Ordering::SeqCst) == 4));
        Ok(())
    })
}

fn cmp_requeue_mismatch() -> Outcome {
    let (a, b) = (AtomicU32::new(1), AtomicU32::new(0));
    let r = op(&a, libc::FUTEX_CMP_REQUEUE | PRIVATE, 1, 1, b.as_ptr() as usize, 5);
    check_eq!(r, Err(Errno(libc::EAGAIN)));
    Ok(())
}

fn wake_op() -> Outcome {
    let (a, b) = (AtomicU32::new(0), AtomicU32::new(5));
    // b = 7 (FUTEX_OP_SET); wakes waiters of `b` if the old value was equal to 5.
    let code = (7 << 12) | 5;
    check_eq!(op(&a, libc::FUTEX_WAKE_OP | PRIVATE, 1, 1, b.as_ptr() as usize, code), Ok(0));
    check_eq!(b.load(Ordering::SeqCst), 7);
    // b += 3 (FUTEX_OP_ADD), compared less than 0: nobody.
    let code = (1 << 28) | (2 << 24) | (3 << 12);
    check_eq!(op(&a, libc::FUTEX_WAKE_OP | PRIVATE, 1, 1, b.as_ptr() as usize, code), Ok(0));
    check_eq!(b.load(Ordering::SeqCst), 10);
    Ok(())
}

/// A negative count wakes one, as zero does.
fn wake_op_counts() -> Outcome {
    let (a, b) = (AtomicU32::new(0), AtomicU32::new(0));
    let up = AtomicUsize::new(0);
    let waiters = [const { AtomicUsize::new(0) }; 3];
    thread::scope(|s| {
        for waiter in &waiters {
            let (a, up) = (&a, &up);
            s.spawn(move || {
                waiter.store(gettid(), Ordering::SeqCst);
                let _ = wait_on(a, 0);
                up.fetch_add(1, Ordering::SeqCst);
            });
        }
        check!(all_asleep(&waiters));
        // b = 0; wakes waiters of `b` unless it was.
        let code = 1 << 24;
        let (one, second) = (u32::MAX, b.as_ptr() as usize);
        check_eq!(op(&a, libc::FUTEX_WAKE_OP | PRIVATE, one, 0, second, code), Ok(1));
        wake_all_of(&a, 2)?;
        check!(until(|| up.load(Ordering::SeqCst) == 3));
        Ok(())
    })
}

fn word_of(m: &Map, off: usize) -> &'static AtomicU32 {
    // SAFETY: inside the mapping, which lives as long as the case.
    unsafe { &*((m.at + off) as *const AtomicU32) }
}

fn shared_across_fork() -> Outcome {
    let m = Map::shared(4096)?;
    let f = word_of(&m, 0);
    let pid = fork(|| {
        let r = op(f, libc::FUTEX_WAIT, 0, 0, 0, 0);
        if r == Ok(0) || f.load(Ordering::SeqCst) == 1 { 0 } else { 1 }
    })?;
    ms(30);
    f.store(1, Ordering::SeqCst);
    // The child may not have slept yet; then it sees the value.
    let _ = op(f, libc::FUTEX_WAKE, 10, 0, 0, 0)?;
    check_eq!(wait(pid)?, el0_tests::End::Exit(0));
    m.unmap();
    Ok(())
}

fn private_is_private() -> Outcome {
    // The same address in two processes, private memory: no wake across.
    let m = Map::anon(4096)?;
    let f = word_of(&m, 0);
    let pid = fork(|| {
        let t = libc::timespec { tv_sec: 0, tv_nsec: 150_000_000 };
        let r = op(f, libc::FUTEX_WAIT, 0, &raw const t as usize, 0, 0);
        i32::from(r != Err(Errno(libc::ETIMEDOUT)))
    })?;
    for _ in 0..20 {
        ms(4);
        check_eq!(op(f, libc::FUTEX_WAKE, 10, 0, 0, 0), Ok(0));
    }
    check_eq!(wait(pid)?, el0_tests::End::Exit(0));
    Ok(())
}

fn interrupted() -> Outcome {
    extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    let h: Handler = nothing;
    handle(libc::SIGUSR1, h, 0, &[])?;
    let f = AtomicU32::new(0);
    let t = libc::timespec { tv_sec: 20, tv_nsec: 0 };
    let r = signalled(libc::SIGUSR1, || {
        op(&f, libc::FUTEX_WAIT | PRIVATE, 0, &raw const t as usize, 0, 0)
    });
    check_eq!(r, Err(Errno(libc::EINTR)));
    Ok(())
}

/// A wait with a time-out is not started again once a handler ran, not even
/// with SA_RESTART.
fn time_out_and_handler() -> Outcome {
    extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    let h: Handler = nothing;
    handle(libc::SIGUSR1, h, libc::SA_RESTART, &[])?;
    let f = AtomicU32::new(0);
    let mut end = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    sys!(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &raw mut end)?;
    end.tv_sec += 5;
    let time = &raw const end as usize;
    let r = signalled(libc::SIGUSR1, || {
        op(&f, libc::FUTEX_WAIT_BITSET | PRIVATE, 0, time, 0, u32::MAX)
    });
    check_eq!(r, Err(Errno(libc::EINTR)));
    Ok(())
}

fn errors() -> Outcome {
    let f = AtomicU32::new(0);
    let soon = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    let real = libc::FUTEX_WAIT | PRIVATE | libc::FUTEX_CLOCK_REALTIME;
    check_eq!(op(&f, real, 0, &raw const soon as usize, 0, 0), Err(Errno(libc::ENOSYS)));
    let odd = f.as_ptr() as usize + 1;
    check_eq!(sys!(libc::SYS_futex, odd, libc::FUTEX_WAIT, 0, 0, 0, 0), Err(Errno(libc::EINVAL)));
    let t = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000_000 };
    let r = op(&f, libc::FUTEX_WAIT, 0, &raw const t as usize, 0, 0);
    check_eq!(r, Err(Errno(libc::EINVAL)));
    check_eq!(op(&f, libc::FUTEX_WAIT_BITSET, 0, 0, 0, 0), Err(Errno(libc::EINVAL)));
    check_eq!(op(&f, 99, 0, 0, 0, 0), Err(Errno(libc::ENOSYS)));
    Ok(())
}

fn many_waiters() -> Outcome {
    let f = AtomicU32::new(0);
    let up = AtomicUsize::new(0);
    thread::scope(|s| {
        for _ in 0..32 {
            s.spawn(|| {
                while f.load(Ordering::SeqCst) == 0 {
                    let _ = wait_on(&f, 0);
                }
                up.fetch_add(1, Ordering::SeqCst);
            });
        }
        ms(20);
        f.store(1, Ordering::SeqCst);
        wake(&f, u32::MAX >> 1)?;
        check!(until(|| up.load(Ordering::SeqCst) == 32));
        Ok(())
    })
}

fn lost_wakeup() -> Outcome {
    // The classic race: store then wake, against load then wait.
    let f = AtomicU32::new(0);
    thread::scope(|s| {
        s.spawn(|| {
            for i in 0..3000u32 {
                while f.load(Ordering::SeqCst) == i * 2 {
                    let _ = wait_on(&f, i * 2);
                }
                f.store(i * 2 + 2, Ordering::SeqCst);
                let _ = wake(&f, 1);
            }
        });
        for i in 0..3000u32 {
            f.store(i * 2 + 1, Ordering::SeqCst);
            let _ = wake(&f, 1);
            while f.load(Ordering::SeqCst) == i * 2 + 1 {
                let _ = wait_on(&f, i * 2 + 1);
            }
        }
    });
    check_eq!(f.load(Ordering::SeqCst), 6000);
    Ok(())
}
