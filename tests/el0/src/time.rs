//! Clocks and sleeping.

use crate::util::{Handler, asleep, best_of, gettid, handle, ms};
use el0_tests::{Errno, Outcome, cases, check, check_eq, sys};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

cases!("time";
    monotonic_across_threads, sleep_lower_bound, sleep_absolute, sleep_interrupted, sleep_errors,
    getres, clocks_agree, cpu_clocks, counter_matches, many_sleepers, sleep_order, settime, vdso,
    user_and_system, setting_wakes_sleepers, timerfd_and_setting,
);

/// What a clock shows, in nanoseconds.
pub fn now(clock: i32) -> Result<u64, Errno> {
    let mut t = [0i64; 2];
    sys!(libc::SYS_clock_gettime, clock, t.as_mut_ptr())?;
    Ok(t[0] as u64 * 1_000_000_000 + t[1] as u64)
}

fn sleep(clock: i32, flags: i32, ns: u64) -> Result<usize, Errno> {
    let t = [(ns / 1_000_000_000) as i64, (ns % 1_000_000_000) as i64];
    sys!(libc::SYS_clock_nanosleep, clock, flags, t.as_ptr(), 0)
}

fn monotonic_across_threads() -> Outcome {
    // By the vDSO (Instant) and by the system call; never back, on any CPU.
    static LAST: AtomicU64 = AtomicU64::new(0);
    let base = Instant::now();
    let run = move |by_call: bool| -> Outcome {
        for _ in 0..20_000 {
            let before = LAST.load(SeqCst);
            let t = if by_call {
                let _ = now(libc::CLOCK_MONOTONIC)?;
                base.elapsed()
            } else {
                base.elapsed()
            };
            let t = t.as_nanos() as u64;
            check!(t >= before, "{t} after {before}");
            LAST.fetch_max(t, SeqCst);
        }
        Ok(())
    };
    let all: Vec<_> = (0..4).map(|i| thread::spawn(move || run(i % 2 == 0))).collect();
    all.into_iter().try_for_each(|t| t.join().unwrap())
}

fn sleep_lower_bound() -> Outcome {
    for us in [1u64, 100, 1_000, 5_000, 50_000] {
        let start = now(libc::CLOCK_MONOTONIC)?;
        sleep(libc::CLOCK_MONOTONIC, 0, us * 1000)?;
        let took = now(libc::CLOCK_MONOTONIC)? - start;
        check!(took >= us * 1000, "slept {took} ns of {us} us");
        check!(took < us * 1000 + 2_000_000_000, "slept {took} ns of {us} us");
    }
    Ok(())
}

fn sleep_absolute() -> Outcome {
    for clock in [libc::CLOCK_MONOTONIC, libc::CLOCK_REALTIME] {
        let until = now(clock)? + 30_000_000;
        sleep(clock, libc::TIMER_ABSTIME, until)?;
        check!(now(clock)? >= until);
        let before = Instant::now();
        sleep(clock, libc::TIMER_ABSTIME, until)?;
        check!(before.elapsed() < Duration::from_secs(1));
    }
    Ok(())
}

fn sleep_interrupted() -> Outcome {
    extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    handle(libc::SIGALRM, nothing as Handler, libc::SA_RESTART, &[])?;
    // Again and again: the first may come before the call.
    crate::signals::set_itimer(30_000, 30_000)?;
    let (t, mut left) = ([10i64, 0], [0i64; 2]);
    let r = sys!(libc::SYS_nanosleep, t.as_ptr(), left.as_mut_ptr());
    crate::signals::set_itimer(0, 0)?;
    check_eq!(r, Err(Errno(libc::EINTR)));
    check!((7..10).contains(&left[0]), "left {left:?}");
    Ok(())
}

fn sleep_errors() -> Outcome {
    for bad in [[0i64, -1], [0, 1_000_000_000], [-1, 0]] {
        let r = sys!(libc::SYS_nanosleep, bad.as_ptr(), 0);
        check_eq!(r, Err(Errno(libc::EINVAL)));
    }
    check_eq!(sleep(77, 0, 1), Err(Errno(libc::EINVAL)));
    Ok(())
}

fn getres() -> Outcome {
    for clock in [libc::CLOCK_MONOTONIC, libc::CLOCK_REALTIME, libc::CLOCK_BOOTTIME] {
        let mut t = [9i64; 2];
        sys!(libc::SYS_clock_getres, clock, t.as_mut_ptr())?;
        check_eq!(t, [0, 1]);
        check_eq!(sys!(libc::SYS_clock_getres, clock, 0), Ok(0));
    }
    check_eq!(sys!(libc::SYS_clock_getres, 99, 0), Err(Errno(libc::EINVAL)));
    check_eq!(now(99), Err(Errno(libc::EINVAL)));
    Ok(())
}

fn clocks_agree() -> Outcome {
    // The vDSO's answers lie between two of the system call's.
    for _ in 0..200 {
        let a = now(libc::CLOCK_REALTIME)?;
        let v = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let b = now(libc::CLOCK_REALTIME)?;
        let v = v.as_nanos() as u64;
        check!(a <= v && v <= b, "{a} {v} {b}");
    }
    let (m, b) = (now(libc::CLOCK_MONOTONIC)?, now(libc::CLOCK_BOOTTIME)?);
    check!(b + 1_000_000 >= m);
    let (r, c) = (now(libc::CLOCK_MONOTONIC_RAW)?, now(libc::CLOCK_MONOTONIC_COARSE)?);
    check!(r > 0 && c > 0 && c <= now(libc::CLOCK_MONOTONIC)?);
    let mut tv = [0i64; 2];
    sys!(libc::SYS_gettimeofday, tv.as_mut_ptr(), 0)?;
    let us = now(libc::CLOCK_REALTIME)? / 1000;
    check!(us - (tv[0] * 1_000_000 + tv[1]) as u64 <= 2_000_000);
    Ok(())
}

fn cpu_clocks() -> Outcome {
    best_of(3, cpu_clocks_once)
}

fn cpu_clocks_once() -> Outcome {
    let burn = || {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(80) {
            std::hint::spin_loop();
        }
    };
    let before = now(libc::CLOCK_THREAD_CPUTIME_ID)?;
    burn();
    let used = now(libc::CLOCK_THREAD_CPUTIME_ID)? - before;
    check!(used >= 10_000_000, "a busy thread used {used} ns");
    let asleep = now(libc::CLOCK_THREAD_CPUTIME_ID)?;
    ms(80);
    let used = now(libc::CLOCK_THREAD_CPUTIME_ID)? - asleep;
    check!(used < 60_000_000, "a sleeping thread used {used} ns");
    let before = now(libc::CLOCK_PROCESS_CPUTIME_ID)?;
    thread::spawn(burn).join().unwrap();
    check!(now(libc::CLOCK_PROCESS_CPUTIME_ID)? - before >= 10_000_000);
    Ok(())
}

fn counter_matches() -> Outcome {
    // The counter that EL0 reads itself runs at the rate of the clock.
    #[cfg(target_arch = "aarch64")]
    {
        let count = || {
            let v: u64;
            // SAFETY: reads a counter that Linux opens to EL0.
            unsafe { std::arch::asm!("isb", "mrs {}, cntvct_el0", out(reg) v) };
            v
        };
        let freq: u64;
        // SAFETY: reads a register that Linux opens to EL0.
        unsafe { std::arch::asm!("mrs {}, cntfrq_el0", out(reg) freq) };
        // Both at one time: with nothing between them that takes long.
        let both = || {
            for _ in 0..1000 {
                let (c0, t, c1) = (count(), now(libc::CLOCK_MONOTONIC_RAW)?, count());
                if (c1 - c0) * 1000 < freq {
                    return Ok((c0, t));
                }
            }
            Err(el0_tests::Fail::new("no look at the clock took less than 1 ms"))
        };
        let (c0, t0) = both()?;
        ms(100);
        let (c1, t1) = both()?;
        let by_counter = u128::from(c1 - c0) * 1_000_000_000 / u128::from(freq);
        let by_clock = u128::from(t1 - t0);
        check!(by_counter.abs_diff(by_clock) * 20 < by_clock, "{by_counter} and {by_clock} ns");
    }
    Ok(())
}

fn many_sleepers() -> Outcome {
    let all: Vec<_> = (0..24u64)
        .map(|i| {
            thread::spawn(move || {
                let want = Duration::from_millis(1 + i * 7 % 50);
                let start = Instant::now();
                thread::sleep(want);
                start.elapsed() >= want
            })
        })
        .collect();
    for t in all {
        check!(t.join().unwrap());
    }
    Ok(())
}

fn sleep_order() -> Outcome {
    // A shorter sleep that starts later still ends first.
    let (tx, rx) = std::sync::mpsc::channel();
    for d in [1500u64, 1000, 500] {
        let tx = tx.clone();
        thread::spawn(move || {
            ms(d);
            let _ = tx.send(d);
        });
    }
    drop(tx);
    check_eq!(rx.iter().collect::<Vec<_>>(), vec![500, 1000, 1500]);
    Ok(())
}

fn settime() -> Outcome {
    let t = [0i64, -5];
    let r = sys!(libc::SYS_clock_settime, libc::CLOCK_REALTIME, t.as_ptr());
    check_eq!(r, Err(Errno(libc::EINVAL)));
    check_eq!(
        sys!(libc::SYS_clock_settime, libc::CLOCK_MONOTONIC, t.as_ptr()),
        Err(Errno(libc::EINVAL))
    );
    Ok(())
}

/// The vDSO is there, and what libc gets from it lies between two answers of
/// the system call, also after the clock was set.
fn vdso() -> Outcome {
    // SAFETY: only looks at the auxiliary vector.
    let image = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
    check!(image != 0, "there is none");
    check_eq!(
        (0..4).map(|i| crate::util::peek(image as usize + i)).collect::<Vec<_>>(),
        b"\x7fELF"
    );
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    check!(maps.is_empty() || maps.contains("[vdso]"), "not in /proc/self/maps");
    let agree = || -> Outcome {
        for clock in [0, 1, 4, 5, 6, 7, 11] {
            for _ in 0..50 {
                let a = now(clock)?;
                let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
                // SAFETY: `t` lives through the call.
                check_eq!(unsafe { libc::clock_gettime(clock, &raw mut t) }, 0);
                let b = now(clock)?;
                let v = t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64;
                check!(a <= v && v <= b, "clock {clock}: {a}, {v}, {b}");
            }
        }
        let a = now(libc::CLOCK_REALTIME)? / 1000;
        let mut t = libc::timeval { tv_sec: 0, tv_usec: 0 };
        // SAFETY: `t` lives through the call.
        check_eq!(unsafe { libc::gettimeofday(&raw mut t, std::ptr::null_mut()) }, 0);
        let b = now(libc::CLOCK_REALTIME)? / 1000;
        let v = t.tv_sec as u64 * 1_000_000 + t.tv_usec as u64;
        check!(a <= v && v <= b, "gettimeofday: {a}, {v}, {b}");
        Ok(())
    };
    agree()?;
    let later = now(libc::CLOCK_REALTIME)? + 5_000_000_000_000;
    let time = [later / 1_000_000_000, later % 1_000_000_000];
    check_eq!(sys!(libc::SYS_clock_settime, libc::CLOCK_REALTIME, time.as_ptr()), Ok(0));
    check!(now(libc::CLOCK_REALTIME)? >= later);
    let result = agree();
    let back = now(libc::CLOCK_REALTIME)? - 5_000_000_000_000;
    let time = [back / 1_000_000_000, back % 1_000_000_000];
    sys!(libc::SYS_clock_settime, libc::CLOCK_REALTIME, time.as_ptr())?;
    result
}

/// CPU time in ms, user's and system's, as the kernel tells it in four ways.
fn cpu_times() -> Result<[[u64; 2]; 3], Errno> {
    let mut usage = [0i64; 18];
    sys!(libc::SYS_getrusage, 0, usage.as_mut_ptr())?;
    let ms_of = |at: usize| (usage[at] * 1000 + usage[at + 1] / 1000) as u64;
    let mut times = [0u64; 4];
    sys!(libc::SYS_times, times.as_mut_ptr())?;
    let stat = std::fs::read_to_string("/proc/self/stat").map_err(|_| Errno(libc::EIO))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    // utime and stime are fields 14 and 15 of proc(5); after the name comes 3.
    let field = |at: usize| fields.get(at - 3).and_then(|text| text.parse::<u64>().ok());
    let stat = [14, 15].map(|at| field(at).unwrap_or(u64::MAX / 10) * 10);
    Ok([[ms_of(0), ms_of(2)], [times[0] * 10, times[1] * 10], stat])
}

/// A program that computes uses user time, one that calls the kernel uses
/// system time; wait4() tells of both.
fn user_and_system() -> Outcome {
    best_of(3, user_and_system_once)
}

fn user_and_system_once() -> Outcome {
    let work = |in_kernel: bool| {
        el0_tests::fork(|| {
            let zero = c"/dev/zero";
            let fd = sys!(libc::SYS_openat, libc::AT_FDCWD, zero.as_ptr(), libc::O_RDONLY);
            let mut buffer = vec![1u8; 1 << 20];
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(400) {
                if in_kernel {
                    let fd = fd.unwrap_or(usize::MAX);
                    let _ = sys!(libc::SYS_read, fd, buffer.as_mut_ptr(), buffer.len());
                } else {
                    for _ in 0..100_000 {
                        std::hint::spin_loop();
                    }
                }
            }
            let Ok(told) = cpu_times() else { return 1 };
            let wrong = told.iter().any(|&[user, system]| {
                let [more, less] = if in_kernel { [system, user] } else { [user, system] };
                more < 100 || more < less * 3
            });
            if wrong {
                eprintln!("in the kernel: {in_kernel}, user and system: {told:?} ms");
            }
            i32::from(wrong)
        })
    };
    for in_kernel in [true, false] {
        let pid = work(in_kernel)?;
        let (mut status, mut usage) = (0i32, [0i64; 18]);
        sys!(libc::SYS_wait4, pid, &raw mut status, 0, usage.as_mut_ptr())?;
        check_eq!(status, 0);
        let [user, system] = [0, 2].map(|at| usage[at] * 1000 + usage[at + 1] / 1000);
        let [more, less] = if in_kernel { [system, user] } else { [user, system] };
        check!(more >= 100 && more >= less * 3, "wait4: {user} ms user, {system} ms system");
    }
    Ok(())
}

/// Moves CLOCK_REALTIME by so many seconds.
fn move_clock(by: i64) -> Result<(), Errno> {
    let mut t = [0i64; 2];
    sys!(libc::SYS_clock_gettime, libc::CLOCK_REALTIME, t.as_mut_ptr())?;
    t[0] += by;
    sys!(libc::SYS_clock_settime, libc::CLOCK_REALTIME, t.as_ptr()).map(drop)
}

/// Who waits for a time of day waits no longer when the clock is set past it.
fn setting_wakes_sleepers() -> Outcome {
    let wake = now(libc::CLOCK_REALTIME)? + 100_000_000_000;
    let start = Instant::now();
    let ids = [const { AtomicUsize::new(0) }; 2];
    let result = thread::scope(|s| {
        let sleeper = s.spawn(|| {
            ids[0].store(gettid(), SeqCst);
            sleep(libc::CLOCK_REALTIME, libc::TIMER_ABSTIME, wake)
        });
        let waiter = s.spawn(|| {
            let word = 0u32;
            let t = [(wake / 1_000_000_000) as i64, 0];
            ids[1].store(gettid(), SeqCst);
            // FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME
            sys!(libc::SYS_futex, &raw const word, 9 | 256, 0, t.as_ptr(), 0, u32::MAX)
        });
        let slept = ids.iter().all(asleep);
        move_clock(200)?;
        let ended = (slept, sleeper.join().ok(), waiter.join().ok());
        move_clock(-200)?;
        Ok::<_, Errno>(ended)
    });
    check_eq!(result?, (true, Some(Ok(0)), Some(Err(Errno(libc::ETIMEDOUT)))));
    check!(start.elapsed() < Duration::from_secs(50));
    Ok(())
}

fn timerfd_and_setting() -> Outcome {
    let timer = |clock: i32, flags: i32, at: u64| -> Result<i32, Errno> {
        let fd = sys!(libc::SYS_timerfd_create, clock, 0)? as i32;
        let spec = [0, 0, (at / 1_000_000_000) as i64, (at % 1_000_000_000) as i64];
        sys!(libc::SYS_timerfd_settime, fd, flags, spec.as_ptr(), 0)?;
        Ok(fd)
    };
    let soon = now(libc::CLOCK_REALTIME)? + 100_000_000_000;
    let late = soon + 1_000_000_000_000;
    let absolute = timer(libc::CLOCK_REALTIME, libc::TFD_TIMER_ABSTIME, soon)?;
    let relative = timer(libc::CLOCK_REALTIME, 0, 100_000_000_000)?;
    let cancelled = timer(libc::CLOCK_REALTIME, libc::TFD_TIMER_ABSTIME | 2, late)?;
    let mut polls = [absolute, relative, cancelled].map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    let mover = thread::spawn(|| {
        thread::sleep(Duration::from_millis(50));
        move_clock(200)
    });
    let mut poll = |msec: i64| {
        let t = [msec / 1000, msec % 1000 * 1_000_000];
        let ready = sys!(libc::SYS_ppoll, polls.as_mut_ptr(), 3, t.as_ptr(), 0, 8);
        (ready.is_ok(), polls.map(|poll| poll.revents != 0))
    };
    let first = poll(20_000);
    let moved = mover.join();
    let second = poll(0);
    let mut ticks = 0u64;
    let read = |fd: i32, to: &mut u64| sys!(libc::SYS_read, fd, to as *mut u64, 8);
    let got = (read(absolute, &mut ticks), read(cancelled, &mut 0));
    move_clock(-200)?;
    check!(first.0 && moved.is_ok_and(|moved| moved.is_ok()));
    check_eq!(second, (true, [true, false, true]));
    check_eq!(got, (Ok(8), Err(Errno(libc::ECANCELED))));
    check_eq!(ticks, 1);
    Ok(())
}
