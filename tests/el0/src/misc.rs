//! Scheduling calls, identity, limits, randomness, /proc, and what a bad call
//! or a bad pointer gets.

use crate::util::{ANON, Map, PAGE, RW, asleep, best_of, c, gettid, pipe, read, until, write};
use el0_tests::{End, Errno, Outcome, cases, check, check_eq, fork, sys, syscall, wait};
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

cases!("misc";
    affinity, affinity_follows, yield_is_fair, priorities, getrandom, uname, prlimit, sysinfo,
    ids, prctl_name, prctl_no_new_privs, proc_self, proc_stat_fields, proc_meminfo, proc_system, auxv, getcpu,
    unknown_calls, bad_pointers, kernel_pointers, partly_bad_pointers, wrapping_lengths,
    read_only_pointers, kernel_memory_unreachable, negative_arguments, membarrier, spinner_yields,
    pacga_is_no_trap, kmsg_records, syslog, urandom_takes_writes,
);

const FAULT: Errno = Errno(libc::EFAULT);

fn online() -> usize {
    thread::available_parallelism().map_or(1, |n| n.get())
}

fn affinity() -> Outcome {
    let mut set = [0u64; 16];
    let n = sys!(libc::SYS_sched_getaffinity, 0, 128, set.as_mut_ptr())?;
    check!(n >= 8 && n.is_multiple_of(8));
    let cpus: u32 = set.iter().map(|w| w.count_ones()).sum();
    check!(cpus as usize >= online());
    check_eq!(sys!(libc::SYS_sched_getaffinity, 0, 3, set.as_mut_ptr()), Err(Errno(libc::EINVAL)));
    let none = [0u64; 16];
    check_eq!(sys!(libc::SYS_sched_setaffinity, 0, 128, none.as_ptr()), Err(Errno(libc::EINVAL)));
    check_eq!(
        sys!(libc::SYS_sched_getaffinity, 0x3fff_ffff, 128, set.as_mut_ptr()),
        Err(Errno(libc::ESRCH))
    );
    Ok(())
}

fn cpu() -> u32 {
    let mut n = 999u32;
    let _ = sys!(libc::SYS_getcpu, &raw mut n, 0, 0);
    n
}

fn affinity_follows() -> Outcome {
    let mut all = [0u64; 16];
    sys!(libc::SYS_sched_getaffinity, 0, 128, all.as_mut_ptr())?;
    let mine: Vec<u32> = (0..64).filter(|i| all[0] & 1 << i != 0).collect();
    for round in 0..20 {
        let want = mine[round % mine.len()];
        let one = [1u64 << want];
        sys!(libc::SYS_sched_setaffinity, 0, 8, one.as_ptr())?;
        check_eq!(cpu(), want);
        let pid = fork(|| i32::from(cpu() != want))?;
        check_eq!(wait(pid)?, End::Exit(0));
    }
    Ok(())
}

fn getcpu() -> Outcome {
    for _ in 0..100 {
        check!(cpu() < 512);
    }
    Ok(())
}

fn yield_is_fair() -> Outcome {
    best_of(3, yield_is_fair_once)
}

fn yield_is_fair_once() -> Outcome {
    // Two busy processes on one CPU both get on, without and with yields.
    let one = [1u64];
    let m = Map::shared(PAGE)?;
    let mut pids = Vec::new();
    for i in 0..2 {
        pids.push(fork(|| {
            let _ = sys!(libc::SYS_sched_setaffinity, 0, 8, one.as_ptr());
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(600) {
                m.word(64 * i).fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            0
        })?);
    }
    for p in pids {
        check_eq!(wait(p)?, End::Exit(0));
    }
    let n = [0, 64].map(|o| m.word(o).load(std::sync::atomic::Ordering::Relaxed));
    m.unmap();
    check!(n[0] > n[1] / 5 && n[1] > n[0] / 5, "unfair: {n:?}");
    Ok(())
}

fn spinner_yields() -> Outcome {
    // A thread that only yields doesn't keep the one it waits for away.
    let flag = std::sync::atomic::AtomicBool::new(false);
    let one = [1u64];
    thread::scope(|s| {
        let (flag, one) = (&flag, &one);
        s.spawn(move || {
            let _ = sys!(libc::SYS_sched_setaffinity, 0, 8, one.as_ptr());
            crate::util::ms(20);
            flag.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        let _ = sys!(libc::SYS_sched_setaffinity, 0, 8, one.as_ptr());
        let start = Instant::now();
        while !flag.load(std::sync::atomic::Ordering::SeqCst) {
            check!(start.elapsed() < Duration::from_secs(10));
            sys!(libc::SYS_sched_yield)?;
        }
        Ok(())
    })
}

fn priorities() -> Outcome {
    // The call gives 20 - nice.
    check_eq!(sys!(libc::SYS_getpriority, libc::PRIO_PROCESS, 0), Ok(20));
    let pid = fork(|| {
        let set = sys!(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, 5);
        let got = sys!(libc::SYS_getpriority, libc::PRIO_PROCESS, 0);
        i32::from(set != Ok(0) || got != Ok(15))
    })?;
    check_eq!(wait(pid)?, End::Exit(0));
    check_eq!(sys!(libc::SYS_sched_getscheduler, 0), Ok(libc::SCHED_OTHER as usize));
    Ok(())
}

fn getrandom() -> Outcome {
    let mut seen = std::collections::HashSet::new();
    for _ in 0..64 {
        let mut b = [0u8; 16];
        check_eq!(sys!(libc::SYS_getrandom, b.as_mut_ptr(), 16, 0), Ok(16));
        check!(seen.insert(b));
    }
    let mut big = vec![0u8; 5000];
    check_eq!(sys!(libc::SYS_getrandom, big.as_mut_ptr(), 5000, libc::GRND_NONBLOCK), Ok(5000));
    let ones: u32 = big.iter().map(|b| b.count_ones()).sum();
    check!((18_000..22_000).contains(&ones), "{ones} of 40000 bits");
    check_eq!(sys!(libc::SYS_getrandom, big.as_mut_ptr(), 1, 0x80), Err(Errno(libc::EINVAL)));
    Ok(())
}

fn uname() -> Outcome {
    let mut b = [0u8; 390];
    sys!(libc::SYS_uname, b.as_mut_ptr())?;
    let field = |i: usize| {
        let f = &b[65 * i..65 * (i + 1)];
        String::from_utf8_lossy(&f[..f.iter().position(|&c| c == 0).unwrap_or(65)]).into_owned()
    };
    check!(!field(0).is_empty() && !field(2).is_empty());
    check_eq!(field(4), std::env::consts::ARCH);
    check_eq!(fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(), field(2));
    Ok(())
}

fn prlimit() -> Outcome {
    let mut l = [0usize; 2];
    let get = |res: u32, l: &mut [usize; 2]| sys!(libc::SYS_prlimit64, 0, res, 0, l.as_mut_ptr());
    get(libc::RLIMIT_STACK, &mut l)?;
    check!(l[0] >= 1 << 20);
    let set = [500usize, 600];
    sys!(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, set.as_ptr(), l.as_mut_ptr())?;
    get(libc::RLIMIT_NOFILE, &mut l)?;
    check_eq!(l, [500, 600]);
    let bad = [700usize, 600];
    let r = sys!(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, bad.as_ptr(), 0);
    check_eq!(r, Err(Errno(libc::EINVAL)));
    check_eq!(get(99, &mut l), Err(Errno(libc::EINVAL)));
    let pid = fork(|| {
        let mut l = [0usize; 2];
        let r = sys!(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, 0, l.as_mut_ptr());
        i32::from(r != Ok(0) || l != [500, 600])
    })?;
    check_eq!(wait(pid)?, End::Exit(0));
    Ok(())
}

fn sysinfo() -> Outcome {
    // SAFETY: plain data.
    let mut s: libc::sysinfo = unsafe { std::mem::zeroed() };
    sys!(libc::SYS_sysinfo, &raw mut s)?;
    let total = s.totalram * u64::from(s.mem_unit);
    check!(total > 64 << 20 && s.freeram <= s.totalram && s.procs > 0);
    Ok(())
}

fn ids() -> Outcome {
    let me = std::process::id() as usize;
    check_eq!(sys!(libc::SYS_getpid), Ok(me));
    for nr in [libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid] {
        check!(sys!(nr).is_ok());
    }
    check_eq!(sys!(libc::SYS_set_tid_address, 0), Ok(me));
    Ok(())
}

/// PR_SET_NO_NEW_PRIVS reads back, and children have it.
fn prctl_no_new_privs() -> Outcome {
    let pid = fork(|| {
        let get = || sys!(libc::SYS_prctl, libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
        let before = get();
        let set = sys!(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        let child = fork(|| i32::from(get() != Ok(1)));
        let same = child.and_then(wait) == Ok(End::Exit(0));
        i32::from((before, set, get(), same) != (Ok(0), Ok(0), Ok(1), true))
    })?;
    check_eq!(wait(pid)?, End::Exit(0));
    Ok(())
}

fn prctl_name() -> Outcome {
    let name = c("a-long-name-for-a-task");
    sys!(libc::SYS_prctl, libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0)?;
    let mut b = [0xffu8; 16];
    sys!(libc::SYS_prctl, libc::PR_GET_NAME, b.as_mut_ptr(), 0, 0, 0)?;
    check_eq!(&b, b"a-long-name-for\0");
    check_eq!(fs::read_to_string("/proc/self/comm")?, "a-long-name-for\n");
    check_eq!(sys!(libc::SYS_prctl, 99_999, 0, 0, 0, 0), Err(Errno(libc::EINVAL)));
    Ok(())
}

fn proc_self() -> Outcome {
    let pid = std::process::id();
    check_eq!(fs::read_link("/proc/self")?.to_str(), Some(pid.to_string().as_str()));
    check!(fs::read_link("/proc/self/exe")?.is_absolute());
    check_eq!(fs::read_link("/proc/self/cwd")?, std::env::current_dir()?);
    let line = fs::read("/proc/self/cmdline")?;
    let args: Vec<u8> = std::env::args().flat_map(|a| [a.as_bytes(), b"\0"].concat()).collect();
    check_eq!(String::from_utf8_lossy(&line), String::from_utf8_lossy(&args));
    let (r, w) = pipe(0)?;
    for fd in [r, w] {
        check!(
            fs::read_link(format!("/proc/self/fd/{fd}"))?.to_string_lossy().starts_with("pipe:[")
        );
    }
    let fds = fs::read_dir("/proc/self/fd")?.count();
    check!(fds >= 5, "{fds} descriptors");
    Ok(())
}

fn proc_stat_fields() -> Outcome {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let rest: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split_whitespace().collect();
    check!(rest.len() >= 40, "{} fields", rest.len());
    check_eq!(rest[0], "R");
    let ppid = sys!(libc::SYS_getppid)?;
    check_eq!(rest[1], ppid.to_string());
    let status = fs::read_to_string("/proc/self/status")?;
    let of =
        |key: &str| status.lines().find_map(|l| l.strip_prefix(key)).map(|v| v.trim().to_string());
    check_eq!(of("Pid:"), Some(std::process::id().to_string()));
    check_eq!(of("PPid:"), Some(ppid.to_string()));
    check!(of("VmRSS:").is_some_and(|v| v.ends_with(" kB") && !v.starts_with("0 ")));
    // What is touched shows.
    let rss = || -> usize {
        let s = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        s.split_whitespace().nth(1).and_then(|v| v.parse().ok()).unwrap_or(0)
    };
    let before = rss();
    let m = Map::anon(16 << 20)?;
    m.stamp(1);
    let after = rss();
    check!(after >= before + 3500, "{before} pages, then {after}");
    m.unmap();
    check!(rss() < after - 3500);
    Ok(())
}

fn proc_meminfo() -> Outcome {
    let info = fs::read_to_string("/proc/meminfo")?;
    let of = |key: &str| -> Option<u64> {
        let line = info.lines().find_map(|l| l.strip_prefix(key))?;
        line.strip_suffix("kB")?.trim().parse().ok()
    };
    let (total, free) = (of("MemTotal:").unwrap_or(0), of("MemFree:").unwrap_or(0));
    check!(total > 65_536 && free > 0 && free < total);
    check!(of("MemAvailable:").is_some());
    Ok(())
}

fn proc_system() -> Outcome {
    check!(fs::read_to_string("/proc/uptime")?.split_whitespace().count() == 2);
    check!(fs::read_to_string("/proc/loadavg")?.split_whitespace().count() == 5);
    check!(fs::read_to_string("/proc/mounts")?.lines().any(|l| l.contains(" /proc proc ")));
    check!(fs::read_to_string("/proc/cpuinfo")?.matches("processor\t: ").count() >= online());
    let stat = fs::read_to_string("/proc/stat")?;
    check!(stat.starts_with("cpu ") && stat.contains("\ncpu0 ") && stat.contains("\nbtime "));
    check!(fs::read_to_string("/proc/filesystems")?.contains("tmpfs"));
    check!(fs::read_to_string("/sys/devices/system/cpu/online")?.starts_with('0'));
    Ok(())
}

fn auxv() -> Outcome {
    let get = |what: u64| {
        // SAFETY: reads the vector that the kernel left.
        unsafe { libc::getauxval(what) as usize }
    };
    check_eq!(get(libc::AT_PAGESZ), PAGE);
    check!(get(libc::AT_PHDR) != 0 && get(libc::AT_PHNUM) > 0 && get(libc::AT_ENTRY) != 0);
    check!(get(libc::AT_RANDOM) != 0);
    let auxv = fs::read("/proc/self/auxv")?;
    check!(auxv.len() > 64 && auxv.len() % 16 == 0);
    Ok(())
}

fn membarrier() -> Outcome {
    match sys!(libc::SYS_membarrier, 0, 0, 0) {
        Ok(_) | Err(Errno(libc::ENOSYS)) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn unknown_calls() -> Outcome {
    // 244..259 are unused on arm64; x86's table has no such numbers either.
    for nr in [600i64, 1000, 5000, 1 << 20, i64::MAX, -2] {
        check_eq!(syscall(nr, &[0; 6]), Err(Errno(libc::ENOSYS)));
    }
    if cfg!(target_arch = "aarch64") {
        for nr in [244, 250, 259] {
            check_eq!(syscall(nr, &[1, 2, 3, 4, 5, 6]), Err(Errno(libc::ENOSYS)));
        }
    }
    Ok(())
}

/// A call's name and answer.
type Called = (&'static str, Result<usize, Errno>);

/// Calls that write to, or read from, the address given, each with all else right.
fn calls_with(bad: usize) -> Result<Vec<Called>, Errno> {
    let (r, w) = pipe(libc::O_NONBLOCK)?;
    sys!(libc::SYS_write, w, b"12345678".as_ptr(), 8)?;
    let ep = sys!(libc::SYS_epoll_create1, 0)?;
    let e = sys!(libc::SYS_eventfd2, 1, libc::O_NONBLOCK)?;
    sys!(libc::SYS_epoll_ctl, ep, libc::EPOLL_CTL_ADD, w, [4u64, 0].as_ptr())?;
    let dot = c(".");
    let dir = sys!(libc::SYS_openat, libc::AT_FDCWD, dot.as_ptr(), libc::O_DIRECTORY, 0)?;
    let at = libc::AT_FDCWD;
    let mono = libc::CLOCK_MONOTONIC;
    Ok(vec![
        ("read", sys!(libc::SYS_read, r, bad, 8)),
        ("write", sys!(libc::SYS_write, w, bad, 8)),
        ("readv", sys!(libc::SYS_readv, r, bad, 1)),
        ("writev", sys!(libc::SYS_writev, w, bad, 1)),
        ("readv's buffer", sys!(libc::SYS_readv, r, [bad, 8].as_ptr(), 1)),
        ("read eventfd", sys!(libc::SYS_read, e, bad, 8)),
        ("openat", sys!(libc::SYS_openat, at, bad, 0, 0)),
        ("newfstatat", sys!(libc::SYS_newfstatat, at, bad, bad, 0)),
        ("newfstatat's buffer", sys!(libc::SYS_newfstatat, at, dot.as_ptr(), bad, 0)),
        ("statx's buffer", sys!(libc::SYS_statx, at, dot.as_ptr(), 0, 0x7ff, bad)),
        ("fstat", sys!(libc::SYS_fstat, r, bad)),
        ("getdents64", sys!(libc::SYS_getdents64, dir, bad, 4096)),
        ("readlinkat", sys!(libc::SYS_readlinkat, at, c("/proc/self").as_ptr(), bad, 99)),
        ("getcwd", sys!(libc::SYS_getcwd, bad, 4096)),
        ("mkdirat", sys!(libc::SYS_mkdirat, at, bad, 0)),
        ("unlinkat", sys!(libc::SYS_unlinkat, at, bad, 0)),
        ("renameat2", sys!(libc::SYS_renameat2, at, bad, at, bad, 0)),
        ("pipe2", sys!(libc::SYS_pipe2, bad, 0)),
        ("uname", sys!(libc::SYS_uname, bad)),
        ("sysinfo", sys!(libc::SYS_sysinfo, bad)),
        ("clock_gettime", sys!(libc::SYS_clock_gettime, mono, bad)),
        ("clock_nanosleep", sys!(libc::SYS_clock_nanosleep, mono, 0, bad, 0)),
        ("nanosleep", sys!(libc::SYS_nanosleep, bad, 0)),
        ("getrandom", sys!(libc::SYS_getrandom, bad, 16, 0)),
        ("rt_sigaction", sys!(libc::SYS_rt_sigaction, libc::SIGUSR1, bad, 0, 8)),
        ("rt_sigaction's old", sys!(libc::SYS_rt_sigaction, libc::SIGUSR1, 0, bad, 8)),
        ("rt_sigprocmask", sys!(libc::SYS_rt_sigprocmask, 0, bad, 0, 8)),
        ("rt_sigprocmask's old", sys!(libc::SYS_rt_sigprocmask, 0, 0, bad, 8)),
        ("rt_sigpending", sys!(libc::SYS_rt_sigpending, bad, 8)),
        ("sigaltstack", sys!(libc::SYS_sigaltstack, bad, 0)),
        ("prlimit64", sys!(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, bad, 0)),
        ("prlimit64's old", sys!(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, 0, bad)),
        ("futex wait", sys!(libc::SYS_futex, bad, libc::FUTEX_WAIT, 0, 0, 0, 0)),
        ("futex private wait", sys!(libc::SYS_futex, bad, 128, 0, 0, 0, 0)),
        ("epoll_ctl", sys!(libc::SYS_epoll_ctl, ep, libc::EPOLL_CTL_MOD, w, bad)),
        ("epoll_pwait", sys!(libc::SYS_epoll_pwait, ep, bad, 1, 0, 0, 8)),
        ("ppoll", sys!(libc::SYS_ppoll, bad, 1, 0, 0, 8)),
        ("pselect6", sys!(libc::SYS_pselect6, 8, bad, 0, 0, 0, 0)),
        ("setitimer", sys!(libc::SYS_setitimer, libc::ITIMER_REAL, bad, 0)),
        ("wait4's usage", {
            let pid = fork(|| 0)?;
            sys!(libc::SYS_wait4, pid, 0, 0, bad)
        }),
        ("wait4's status", {
            let pid = fork(|| 0)?;
            sys!(libc::SYS_wait4, pid, bad, 0, 0)
        }),
        ("execve", sys!(libc::SYS_execve, bad, 0, 0)),
        ("execve's arguments", {
            let exe = c("/proc/self/exe");
            sys!(libc::SYS_execve, exe.as_ptr(), bad, 0)
        }),
        ("sched_getaffinity", sys!(libc::SYS_sched_getaffinity, 0, 128, bad)),
        ("memfd_create", sys!(libc::SYS_memfd_create, bad, 0)),
        ("prctl", sys!(libc::SYS_prctl, libc::PR_SET_NAME, bad, 0, 0, 0)),
        ("mount", sys!(libc::SYS_mount, bad, bad, bad, 0, 0)),
        ("times", sys!(libc::SYS_times, bad)),
        ("getrusage", sys!(libc::SYS_getrusage, 0, bad)),
        ("FIONREAD", sys!(libc::SYS_ioctl, r, libc::FIONREAD, bad)),
    ])
}

fn all_fault(bad: usize) -> Outcome {
    let wrong: Vec<_> = calls_with(bad)?.into_iter().filter(|(_, r)| *r != Err(FAULT)).collect();
    check!(wrong.is_empty(), "at {bad:#x}: {wrong:?}");
    Ok(())
}

fn bad_pointers() -> Outcome {
    let m = Map::full(0, PAGE, libc::PROT_NONE, ANON, -1, 0)?;
    for bad in [1 << 12, 0x123_4568, m.at, 0x7f_ffff_ffff_f000] {
        let pid = fork(|| match all_fault(bad) {
            Ok(()) => 0,
            Err(e) => {
                println!("# {e}");
                1
            }
        })?;
        check_eq!(wait(pid)?, End::Exit(0));
    }
    Ok(())
}

fn kernel_pointers() -> Outcome {
    for bad in [
        0xffff_0000_0000_0000usize,
        0xffff_8000_0000_0000,
        0xffff_8000_8000_0000,
        0xffff_ffff_ffff_f000,
        0x8000_0000_0000_0000,
        0x0001_0000_0000_0000,
    ] {
        all_fault(bad)?;
    }
    Ok(())
}

fn partly_bad_pointers() -> Outcome {
    // A buffer that runs into a hole: what fits is done, or EFAULT; never beyond.
    let m = Map::anon(2 * PAGE)?;
    sys!(libc::SYS_munmap, m.at + PAGE, PAGE)?;
    let edge = m.at + PAGE - 10;
    let (r, w) = pipe(libc::O_NONBLOCK)?;
    sys!(libc::SYS_write, w, [7u8; 64].as_ptr(), 64)?;
    let n = sys!(libc::SYS_read, r, edge, 64);
    check!(n == Err(FAULT) || n == Ok(10), "{n:?}");
    check_eq!(sys!(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, edge), Err(FAULT));
    check_eq!(sys!(libc::SYS_uname, edge), Err(FAULT));
    // A string without an end before the hole.
    for i in 0..10 {
        crate::util::poke(edge + i, b'a');
    }
    check_eq!(sys!(libc::SYS_openat, libc::AT_FDCWD, edge, 0, 0), Err(FAULT));
    // With its end on the last byte it's fine.
    crate::util::poke(edge + 9, 0);
    let r = sys!(libc::SYS_openat, libc::AT_FDCWD, edge, 0, 0);
    check_eq!(r, Err(Errno(libc::ENOENT)));
    Ok(())
}

fn wrapping_lengths() -> Outcome {
    let m = Map::anon(PAGE)?;
    let (r, w) = pipe(libc::O_NONBLOCK)?;
    sys!(libc::SYS_write, w, m.at, 64)?;
    for len in [usize::MAX, usize::MAX - PAGE, 1 << 63, isize::MAX as usize] {
        let n = sys!(libc::SYS_write, w, m.at, len);
        check!(n.is_err() || n.is_ok_and(|n| n <= PAGE), "write of {len:#x}: {n:?}");
        let n = sys!(libc::SYS_getrandom, m.at + 8, len, 0);
        check!(n.is_err() || n.is_ok_and(|n| n <= PAGE), "getrandom of {len:#x}: {n:?}");
    }
    let top = usize::MAX - 7;
    check_eq!(sys!(libc::SYS_read, r, top, 64), Err(FAULT));
    check_eq!(sys!(libc::SYS_write, w, top, 64), Err(FAULT));
    check_eq!(sys!(libc::SYS_uname, top), Err(FAULT));
    let n = sys!(libc::SYS_ppoll, m.at, usize::MAX / 4, 0, 0, 8);
    check_eq!(n, Err(Errno(libc::EINVAL)));
    check_eq!(sys!(libc::SYS_madvise, m.at, usize::MAX - 5, 4).is_err(), true);
    check_eq!(sys!(libc::SYS_mprotect, m.at, usize::MAX - 5, 1).is_err(), true);
    Ok(())
}

fn read_only_pointers() -> Outcome {
    // The kernel doesn't write where the program may not.
    let m = Map::anon(PAGE)?;
    m.set(0, 0x55);
    sys!(libc::SYS_mprotect, m.at, PAGE, libc::PROT_READ)?;
    check_eq!(sys!(libc::SYS_uname, m.at), Err(FAULT));
    check_eq!(sys!(libc::SYS_getrandom, m.at, 8, 0), Err(FAULT));
    check_eq!(sys!(libc::SYS_clock_gettime, libc::CLOCK_REALTIME, m.at), Err(FAULT));
    check_eq!(m.get(0), 0x55);
    // Nor into program text.
    check_eq!(sys!(libc::SYS_uname, uname as *const () as usize), Err(FAULT));
    sys!(libc::SYS_mprotect, m.at, PAGE, RW)?;
    check_eq!(sys!(libc::SYS_uname, m.at), Ok(0));
    Ok(())
}

fn kernel_memory_unreachable() -> Outcome {
    let mut at = 0xffff_0000_0000_0000usize;
    for _ in 0..24 {
        check_eq!(crate::util::touch_signal(at, false)?, End::Signal(libc::SIGSEGV));
        check_eq!(crate::util::touch_signal(at, true)?, End::Signal(libc::SIGSEGV));
        at = at.wrapping_add(0x0000_0aaa_8000_0000);
    }
    Ok(())
}

fn negative_arguments() -> Outcome {
    let m = Map::anon(PAGE)?;
    check_eq!(sys!(libc::SYS_kill, 0x7fff_fff0, 0), Err(Errno(libc::ESRCH)));
    check_eq!(sys!(libc::SYS_tgkill, -1isize, 1, 0), Err(Errno(libc::EINVAL)));
    check_eq!(sys!(libc::SYS_rt_sigaction, 65, 0, 0, 8), Err(Errno(libc::EINVAL)));
    check_eq!(sys!(libc::SYS_rt_sigaction, libc::SIGUSR1, 0, 0, 7), Err(Errno(libc::EINVAL)));
    check_eq!(sys!(libc::SYS_rt_sigprocmask, 9, m.at, 0, 8), Err(Errno(libc::EINVAL)));
    check_eq!(sys!(libc::SYS_clone, libc::CLONE_THREAD, 0, 0, 0, 0), Err(Errno(libc::EINVAL)));
    check_eq!(sys!(libc::SYS_clone, libc::CLONE_SIGHAND, 0, 0, 0, 0), Err(Errno(libc::EINVAL)));
    check_eq!(sys!(libc::SYS_getdents64, 0, m.at, 4096).is_err(), true);
    check_eq!(sys!(libc::SYS_dup3, 0, -1isize, 0), Err(Errno(libc::EBADF)));
    check_eq!(sys!(libc::SYS_reboot, 1, 2, 3, 4), Err(Errno(libc::EINVAL)));
    Ok(())
}

/// Nothing at EL1 disables PACGA: where the kernel stands at EL1, EL2 must not
/// trap it. Without FEAT_PAuth it is UNDEFINED.
fn pacga_is_no_trap() -> Outcome {
    let pid = fork(|| {
        // SAFETY: PACGA X0, X1, X2 only writes X0.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            core::arch::asm!(".inst 0x9ac23020", out("x0") _, in("x1") 1, in("x2") 2)
        };
        0
    })?;
    let end = wait(pid)?;
    check!(end == End::Exit(0) || end == End::Signal(libc::SIGILL));
    Ok(())
}

fn kmsg(flags: i32) -> Result<i32, Errno> {
    sys!(libc::SYS_openat, -100isize, c"/dev/kmsg".as_ptr(), flags, 0).map(|fd| fd as i32)
}

/// The next record of ours, and how many there were of others'.
fn our_record(log: i32) -> Result<(String, u64), Errno> {
    let mut buf = [0u8; 8192];
    let mut others = 0;
    loop {
        let len = read(log, &mut buf)?;
        let record = String::from_utf8_lossy(&buf[..len]).into_owned();
        if record.split_once(';').is_some_and(|(_, text)| text.starts_with("el0 ")) {
            return Ok((record, others));
        }
        others += 1;
    }
}

/// Each read of /dev/kmsg gives one record, each write makes one.
fn kmsg_records() -> Outcome {
    let seek = |fd: i32, offset: isize, whence: i32| sys!(libc::SYS_lseek, fd, offset, whence);
    let (log, out) = (kmsg(libc::O_RDWR | libc::O_NONBLOCK)?, kmsg(libc::O_WRONLY)?);
    let mut buf = [0u8; 8192];
    check!(read(log, &mut buf)? > 0);
    check_eq!(seek(log, 0, libc::SEEK_END), Ok(0));
    // The kernel may have something to say, too.
    check!(until(|| read(log, &mut buf) == Err(Errno(libc::EAGAIN))));
    check_eq!(write(out, b"<6>el0 \"one\" \\ \x01\n"), Ok(17));
    // Several ranges are one record. Linux shows what has no newline later.
    let parts = [[c"el0 ".as_ptr() as usize, 4], [c"two\n".as_ptr() as usize, 4]];
    check_eq!(sys!(libc::SYS_writev, out, parts.as_ptr(), 2), Ok(8));
    check_eq!(read(kmsg(libc::O_RDONLY)?, &mut buf[..4]), Err(Errno(libc::EINVAL)));
    let (mut numbers, mut between) = (Vec::new(), 0);
    for (priority, text) in [("14", "el0 \"one\" \\x5c \\x01"), ("12", "el0 two")] {
        let (record, others) = our_record(log)?;
        between = others;
        let (head, body) = record.split_once(';').unwrap_or_default();
        check_eq!(body.lines().next(), Some(text));
        let fields: Vec<&str> = head.split(',').collect();
        check_eq!(fields[0], priority);
        numbers.push(fields[1].parse::<u64>().unwrap_or(0));
        check!(fields[2].parse::<u64>().is_ok() && fields[3] == "-", "{head}");
    }
    check_eq!(numbers[1], numbers[0] + 1 + between);
    check_eq!(seek(log, 1, libc::SEEK_SET), Err(Errno(libc::ESPIPE)));
    check_eq!(seek(log, 0, libc::SEEK_CUR), Err(Errno(libc::EINVAL)));
    check_eq!(seek(log, 0, libc::SEEK_SET), Ok(0));
    check!(read(log, &mut buf)? > 0);
    check_eq!(write(out, &[b'x'; 3000]), Err(Errno(libc::EINVAL)));
    // A reader that waits.
    let waits = kmsg(libc::O_RDONLY)?;
    check_eq!(seek(waits, 0, libc::SEEK_END), Ok(0));
    let id = AtomicUsize::new(0);
    let (got, wrote) = thread::scope(|s| {
        let writer = s.spawn(|| (asleep(&id), write(out, b"el0 three\n")));
        id.store(gettid(), SeqCst);
        (our_record(waits), writer.join().unwrap())
    });
    check!(got?.0.ends_with(";el0 three\n"));
    check_eq!(wrote, (true, Ok(10)));
    Ok(())
}

/// syslog(2): all, what was not cleared, what nobody read.
fn syslog() -> Outcome {
    let call =
        |what: i32, buf: &mut [u8]| sys!(libc::SYS_syslog, what, buf.as_mut_ptr(), buf.len());
    let all = |what: i32| -> Result<String, Errno> {
        let mut buf = vec![0u8; 1 << 20];
        let len = call(what, &mut buf)?;
        Ok(String::from_utf8_lossy(&buf[..len]).into_owned())
    };
    let out = kmsg(libc::O_WRONLY)?;
    write(out, b"<5>el0 syslog\n")?;
    check!(sys!(libc::SYS_syslog, 9, 0, 0)? > 0);
    // What nobody read, record by record.
    let mut found = false;
    while !found && sys!(libc::SYS_syslog, 9, 0, 0)? > 0 {
        found = all(2)?.contains("el0 syslog");
    }
    check!(found);
    let text = all(3)?;
    check!(text.lines().any(|line| line.starts_with("<13>[") && line.ends_with("] el0 syslog")));
    check!(all(4)?.contains("el0 syslog"));
    check!(!all(3)?.contains("el0 syslog"));
    write(out, b"el0 again\n")?;
    check!(all(3)?.contains("el0 again"));
    check_eq!(sys!(libc::SYS_syslog, 5, 0, 0), Ok(0));
    check!(!all(3)?.contains("el0 again"));
    check_eq!(sys!(libc::SYS_syslog, 3, 0, 10), Err(Errno(libc::EINVAL)));
    Ok(())
}

fn urandom_takes_writes() -> Outcome {
    let fd = sys!(libc::SYS_openat, -100isize, c"/dev/urandom".as_ptr(), libc::O_RDWR, 0)? as i32;
    check_eq!(write(fd, &[7; 100]), Ok(100));
    let (mut one, mut two) = ([0u8; 32], [0u8; 32]);
    check_eq!(read(fd, &mut one), Ok(32));
    check_eq!(read(fd, &mut two), Ok(32));
    check!(one != two && one != [0; 32]);
    check_eq!(sys!(libc::SYS_getrandom, one.as_mut_ptr(), 32, libc::GRND_NONBLOCK), Ok(32));
    Ok(())
}
