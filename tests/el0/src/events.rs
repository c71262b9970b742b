//! Pipes, eventfd, timerfd, epoll, poll and select.

use crate::util::{
    Handler, Map, PAGE, asleep, best_of, close, gettid, handle, ms, pipe, raise_descriptor_limit,
    read, sleeps, until, write,
};
use el0_tests::{End, Errno, Outcome, cases, check, check_eq, fork, sys, wait};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

cases!("events";
    pipe_basics, pipe_eof_and_epipe, pipe_nonblock_full, pipe_atomic, pipe_blocks_and_wakes,
    pipe_interrupted, pipe_size, eventfd_counts, eventfd_semaphore, eventfd_blocks,
    eventfd_errors, timerfd_once, timerfd_periodic, timerfd_absolute_and_disarm, timerfd_errors,
    poll_basics, poll_timeout, poll_hup_nval, ppoll_mask, select_basics, epoll_level, epoll_edge,
    epoll_oneshot, epoll_mod_del, epoll_errors, epoll_timeout, epoll_wakes, epoll_closed,
    epoll_dup_keeps, epoll_nested, epoll_many, epoll_fair, epoll_pwait_mask, epoll_two_waiters,
    signalfd_reads, socketpair_both_ways, pipe_keeps_what_has_no_buffer, select_counts,
    poll_one_many_times, poll_writes_revents_alone, messages_by_write, ranges_at_once,
    socket_timeouts,
);

const IN: u32 = libc::EPOLLIN as u32;
const OUT: u32 = libc::EPOLLOUT as u32;
const HUP: u32 = libc::EPOLLHUP as u32;
const ET: u32 = libc::EPOLLET as u32;
const ONE: u32 = libc::EPOLLONESHOT as u32;
const AGAIN: Errno = Errno(libc::EAGAIN);

extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

fn eventfd(init: u32, flags: i32) -> Result<i32, Errno> {
    sys!(libc::SYS_eventfd2, init, flags).map(|fd| fd as i32)
}

fn get(fd: i32) -> Result<u64, Errno> {
    let mut b = [0; 8];
    read(fd, &mut b).map(|_| u64::from_ne_bytes(b))
}

fn put(fd: i32, v: u64) -> Result<usize, Errno> {
    write(fd, &v.to_ne_bytes())
}

fn pipe_basics() -> Outcome {
    let (r, w) = pipe(0)?;
    check_eq!(write(w, b"hello"), Ok(5));
    check_eq!(write(w, b" world"), Ok(6));
    let mut b = [0; 8];
    check_eq!(read(r, &mut b), Ok(8));
    check_eq!(&b, b"hello wo");
    let mut left = 0i32;
    sys!(libc::SYS_ioctl, r, libc::FIONREAD, &raw mut left)?;
    check_eq!(left, 3);
    check_eq!(read(r, &mut b), Ok(3));
    check_eq!(read(w, &mut b), Err(Errno(libc::EBADF)));
    check_eq!(write(r, b"x"), Err(Errno(libc::EBADF)));
    check_eq!(read(r, &mut []), Ok(0));
    Ok(())
}

fn pipe_eof_and_epipe() -> Outcome {
    let (r, w) = pipe(0)?;
    write(w, b"last")?;
    close(w);
    let mut b = [0; 8];
    check_eq!((read(r, &mut b), read(r, &mut b)), (Ok(4), Ok(0)));
    static N: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn h(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        N.fetch_add(1, SeqCst);
    }
    handle(libc::SIGPIPE, h, 0, &[])?;
    let (r, w) = pipe(0)?;
    close(r);
    check_eq!(write(w, b"x"), Err(Errno(libc::EPIPE)));
    check_eq!(N.load(SeqCst), 1);
    let pid = fork(|| {
        crate::util::disposition(libc::SIGPIPE, libc::SIG_DFL);
        let _ = write(w, b"x");
        0
    })?;
    check_eq!(wait(pid)?, End::Signal(libc::SIGPIPE));
    Ok(())
}

fn pipe_nonblock_full() -> Outcome {
    let (r, w) = pipe(libc::O_NONBLOCK)?;
    check_eq!(read(r, &mut [0]), Err(AGAIN));
    let block = [7u8; 4096];
    let mut total = 0;
    let e = loop {
        match write(w, &block) {
            Ok(n) => total += n,
            Err(e) => break e,
        }
        check!(total <= 1 << 20);
    };
    check_eq!((e, total), (AGAIN, 65536));
    check_eq!(read(r, &mut [0; 4096]), Ok(4096));
    check_eq!(write(w, &block), Ok(4096));
    Ok(())
}

fn pipe_atomic() -> Outcome {
    // Writes up to PIPE_BUF are never mixed.
    let (r, w) = pipe(0)?;
    let mut pids = Vec::new();
    for i in 1..=4u8 {
        pids.push(fork(|| i32::from((0..60).any(|_| write(w, &[i; 1000]) != Ok(1000))))?);
    }
    close(w);
    let mut all = Vec::new();
    let mut b = [0; 3333];
    while let Ok(n) = read(r, &mut b)
        && n > 0
    {
        all.extend_from_slice(&b[..n]);
    }
    check_eq!(all.len(), 4 * 60 * 1000);
    check!(all.chunks(1000).all(|c| c.iter().all(|b| *b == c[0])), "writes are mixed");
    for p in pids {
        check_eq!(wait(p)?, End::Exit(0));
    }
    Ok(())
}

fn pipe_blocks_and_wakes() -> Outcome {
    let (r, w) = pipe(0)?;
    let id = AtomicUsize::new(0);
    thread::scope(|s| {
        let t = s.spawn(|| {
            id.store(gettid(), SeqCst);
            read(r, &mut [0; 4])
        });
        let slept = asleep(&id);
        check_eq!(write(w, b"go"), Ok(2));
        check_eq!(t.join().unwrap(), Ok(2));
        check!(slept, "it never slept");
        Ok(())
    })?;
    // A writer of more than fits sleeps and ends when it's all read.
    let t = thread::spawn(move || write(w, &vec![1u8; 300_000]));
    let mut total = 0;
    let mut b = vec![0; 10_000];
    while total < 300_000 {
        total += read(r, &mut b)?;
    }
    check_eq!(t.join().unwrap(), Ok(300_000));
    Ok(())
}

fn pipe_interrupted() -> Outcome {
    static ALARMS: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn alarm(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        ALARMS.fetch_add(1, SeqCst);
    }
    let (r, w) = pipe(0)?;
    // Again and again: the first may come before the call.
    let read_under_alarms = |flags: i32| {
        handle(libc::SIGALRM, alarm, flags, &[])?;
        crate::signals::set_itimer(30_000, 30_000)?;
        let got = read(r, &mut [0]);
        crate::signals::set_itimer(0, 0)?;
        got
    };
    check_eq!(read_under_alarms(0), Err(Errno(libc::EINTR)));
    // With SA_RESTART it goes on.
    let reader = gettid();
    let writer = thread::spawn(move || {
        crate::util::mask(libc::SIG_BLOCK, &[libc::SIGALRM]);
        let before = ALARMS.load(SeqCst);
        let rung = until(|| ALARMS.load(SeqCst) > before + 1 && sleeps(reader));
        (rung, write(w, b"!"))
    });
    check_eq!(read_under_alarms(libc::SA_RESTART), Ok(1));
    check_eq!(writer.join().unwrap(), (true, Ok(1)));
    Ok(())
}

fn pipe_size() -> Outcome {
    let (r, w) = pipe(libc::O_NONBLOCK)?;
    check_eq!(sys!(libc::SYS_fcntl, w, libc::F_GETPIPE_SZ), Ok(65536));
    check_eq!(sys!(libc::SYS_fcntl, w, libc::F_SETPIPE_SZ, 8000), Ok(8192));
    check_eq!(write(w, &[0; 20_000]), Ok(8192));
    check_eq!(read(r, &mut [0; 20_000]), Ok(8192));
    Ok(())
}

fn eventfd_counts() -> Outcome {
    let e = eventfd(5, libc::EFD_NONBLOCK)?;
    put(e, 7)?;
    check_eq!(get(e), Ok(12));
    check_eq!(get(e), Err(AGAIN));
    put(e, u64::MAX - 1)?;
    check_eq!(put(e, 1), Err(AGAIN));
    check_eq!(put(e, 0), Ok(8));
    check_eq!(get(e), Ok(u64::MAX - 1));
    Ok(())
}

fn eventfd_semaphore() -> Outcome {
    let e = eventfd(3, libc::EFD_NONBLOCK | libc::EFD_SEMAPHORE)?;
    check_eq!((get(e), get(e), get(e), get(e)), (Ok(1), Ok(1), Ok(1), Err(AGAIN)));
    Ok(())
}

fn eventfd_blocks() -> Outcome {
    let (a, b) = (eventfd(0, 0)?, eventfd(0, 0)?);
    let t = thread::spawn(move || {
        for i in 1..=500 {
            if get(a) != Ok(i) || put(b, i) != Ok(8) {
                return false;
            }
        }
        true
    });
    for i in 1..=500 {
        put(a, i)?;
        check_eq!(get(b), Ok(i));
    }
    check!(t.join().unwrap());
    Ok(())
}

fn eventfd_errors() -> Outcome {
    let e = eventfd(0, 0)?;
    check_eq!(write(e, &[0; 4]), Err(Errno(libc::EINVAL)));
    check_eq!(read(e, &mut [0; 4]), Err(Errno(libc::EINVAL)));
    check_eq!(put(e, u64::MAX), Err(Errno(libc::EINVAL)));
    check_eq!(eventfd(0, 0x100), Err(Errno(libc::EINVAL)));
    Ok(())
}

fn timerfd(clock: i32) -> Result<i32, Errno> {
    sys!(libc::SYS_timerfd_create, clock, libc::TFD_NONBLOCK).map(|fd| fd as i32)
}

/// First expiry and interval in microseconds.
fn arm(fd: i32, flags: i32, first: i64, every: i64) -> Result<usize, Errno> {
    let t =
        [every / 1_000_000, every % 1_000_000 * 1000, first / 1_000_000, first % 1_000_000 * 1000];
    sys!(libc::SYS_timerfd_settime, fd, flags, t.as_ptr(), 0)
}

fn timerfd_once() -> Outcome {
    let t = timerfd(libc::CLOCK_MONOTONIC)?;
    check_eq!(get(t), Err(AGAIN));
    let start = Instant::now();
    arm(t, 0, 40_000, 0)?;
    check_eq!(poll1(t, libc::POLLIN, 5000)?, (1, libc::POLLIN));
    let took = start.elapsed();
    check!(took >= Duration::from_millis(40) && took < Duration::from_secs(3), "{took:?}");
    check_eq!((get(t), get(t)), (Ok(1), Err(AGAIN)));
    Ok(())
}

fn timerfd_periodic() -> Outcome {
    let t = timerfd(libc::CLOCK_MONOTONIC)?;
    let start = Instant::now();
    arm(t, 0, 5_000, 10_000)?;
    let mut n = 0;
    while n < 10 {
        check_eq!(poll1(t, libc::POLLIN, 5000)?.0, 1);
        n += get(t)?;
    }
    check!(start.elapsed() >= Duration::from_millis(94), "{n} in {:?}", start.elapsed());
    // What was missed is counted.
    ms(100);
    check!(get(t)? >= 8);
    let mut left = [0i64; 4];
    sys!(libc::SYS_timerfd_gettime, t, left.as_mut_ptr())?;
    check_eq!((left[0], left[1]), (0, 10_000_000));
    check!(left[2] == 0 && left[3] <= 10_000_000);
    Ok(())
}

fn timerfd_absolute_and_disarm() -> Outcome {
    let t = timerfd(libc::CLOCK_MONOTONIC)?;
    arm(t, libc::TFD_TIMER_ABSTIME, 1, 0)?; // Long past.
    check_eq!(poll1(t, libc::POLLIN, 1000)?.0, 1);
    check_eq!(get(t), Ok(1));
    arm(t, 0, 30_000, 0)?;
    arm(t, 0, 0, 0)?;
    check_eq!(poll1(t, libc::POLLIN, 80)?.0, 0);
    // Rearming forgets what had expired.
    arm(t, 0, 1_000, 0)?;
    ms(20);
    arm(t, 0, 10_000_000, 0)?;
    check_eq!(get(t), Err(AGAIN));
    Ok(())
}

fn timerfd_errors() -> Outcome {
    check_eq!(timerfd(99), Err(Errno(libc::EINVAL)));
    let t = timerfd(libc::CLOCK_REALTIME)?;
    let bad = [0i64, 0, 0, 1_000_000_000];
    check_eq!(sys!(libc::SYS_timerfd_settime, t, 0, bad.as_ptr(), 0), Err(Errno(libc::EINVAL)));
    check_eq!(read(t, &mut [0; 7]), Err(Errno(libc::EINVAL)));
    let e = eventfd(0, 0)?;
    check_eq!(arm(e, 0, 1, 0), Err(Errno(libc::EINVAL)));
    Ok(())
}

fn ppoll(fds: &mut [libc::pollfd], msec: i64) -> Result<usize, Errno> {
    let t = [msec / 1000, msec % 1000 * 1_000_000];
    let t = if msec < 0 { 0 } else { t.as_ptr() as usize };
    sys!(libc::SYS_ppoll, fds.as_mut_ptr(), fds.len(), t, 0, 8)
}

fn poll1(fd: i32, events: i16, msec: i64) -> Result<(usize, i16), Errno> {
    let mut p = [libc::pollfd { fd, events, revents: 0 }];
    let n = ppoll(&mut p, msec)?;
    Ok((n, p[0].revents))
}

fn poll_basics() -> Outcome {
    let (r, w) = pipe(libc::O_NONBLOCK)?;
    let e = eventfd(0, 0)?;
    let mut p =
        [r, w, e].map(|fd| libc::pollfd { fd, events: libc::POLLIN | libc::POLLOUT, revents: 0 });
    check_eq!(ppoll(&mut p, 0), Ok(2));
    check_eq!([p[0].revents, p[1].revents, p[2].revents], [0, libc::POLLOUT, libc::POLLOUT]);
    write(w, b"x")?;
    put(e, 1)?;
    check_eq!(ppoll(&mut p, -1), Ok(3));
    check_eq!(p[2].revents, libc::POLLIN | libc::POLLOUT);
    p[0].fd = -1; // Skipped.
    check_eq!((ppoll(&mut p, 0), p[0].revents), (Ok(2), 0));
    check_eq!(ppoll(&mut [], 1), Ok(0));
    // A regular file is always ready.
    let f = std::fs::File::open("/proc/self/exe")?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&f);
    check_eq!(poll1(fd, libc::POLLIN, 0)?, (1, libc::POLLIN));
    Ok(())
}

fn poll_timeout() -> Outcome {
    let (r, _w) = pipe(0)?;
    for want in [0i64, 1, 60] {
        let start = Instant::now();
        check_eq!(poll1(r, libc::POLLIN, want)?.0, 0);
        let took = start.elapsed();
        check!(took >= Duration::from_millis(want as u64), "{took:?} of {want} ms");
    }
    let bad = [0i64, -1];
    check_eq!(sys!(libc::SYS_ppoll, 0, 0, bad.as_ptr(), 0, 8), Err(Errno(libc::EINVAL)));
    Ok(())
}

fn poll_hup_nval() -> Outcome {
    let (r, w) = pipe(0)?;
    check_eq!(poll1(999, libc::POLLIN, -1)?, (1, libc::POLLNVAL));
    write(w, b"x")?;
    close(w);
    check_eq!(poll1(r, libc::POLLIN, -1)?, (1, libc::POLLIN | libc::POLLHUP));
    read(r, &mut [0])?;
    check_eq!(poll1(r, 0, -1)?, (1, libc::POLLHUP));
    let (r, w) = pipe(0)?;
    close(r);
    let re = poll1(w, libc::POLLOUT, -1)?.1;
    check!(re & libc::POLLERR != 0);
    Ok(())
}

fn ppoll_mask() -> Outcome {
    // Blocked outside, let in by ppoll's mask: never lost in between.
    handle(libc::SIGUSR1, nothing as Handler, 0, &[])?;
    crate::util::mask(libc::SIG_BLOCK, &[libc::SIGUSR1]);
    crate::util::kill_self(libc::SIGUSR1)?;
    let (r, _w) = pipe(0)?;
    let mut p = [libc::pollfd { fd: r, events: libc::POLLIN, revents: 0 }];
    let empty = 0u64;
    let t = [10i64, 0];
    let r = sys!(libc::SYS_ppoll, p.as_mut_ptr(), 1, t.as_ptr(), &raw const empty, 8);
    check_eq!(r, Err(Errno(libc::EINTR)));
    check!(crate::util::has(&crate::util::mask(libc::SIG_BLOCK, &[]), libc::SIGUSR1));
    Ok(())
}

fn select_basics() -> Outcome {
    let (r, w) = pipe(0)?;
    let mut rd = [0u64; 16];
    let mut wr = [0u64; 16];
    let bit = |fd: i32| 1u64 << fd;
    let mut t = [0i64, 50_000_000];
    let mut go = |rd: &mut [u64; 16], wr: &mut [u64; 16]| {
        sys!(libc::SYS_pselect6, w + 1, rd.as_mut_ptr(), wr.as_mut_ptr(), 0, t.as_mut_ptr(), 0)
    };
    rd[0] = bit(r);
    wr[0] = bit(w);
    check_eq!((go(&mut rd, &mut wr), rd[0], wr[0]), (Ok(1), 0, bit(w)));
    write(w, b"x")?;
    rd[0] = bit(r);
    check_eq!((go(&mut rd, &mut wr), rd[0], wr[0]), (Ok(2), bit(r), bit(w)));
    close(w);
    wr[0] = bit(w);
    rd[0] = 0;
    check_eq!(go(&mut rd, &mut wr), Err(Errno(libc::EBADF)));
    Ok(())
}

fn epoll() -> Result<i32, Errno> {
    sys!(libc::SYS_epoll_create1, libc::EPOLL_CLOEXEC).map(|fd| fd as i32)
}

fn ctl(ep: i32, op: i32, fd: i32, events: u32, data: u64) -> Result<usize, Errno> {
    let ev = libc::epoll_event { events, u64: data };
    sys!(libc::SYS_epoll_ctl, ep, op, fd, &raw const ev)
}

fn add(ep: i32, fd: i32, events: u32, data: u64) -> Result<usize, Errno> {
    ctl(ep, libc::EPOLL_CTL_ADD, fd, events, data)
}

fn wait_for(ep: i32, max: usize, msec: i32) -> Result<Vec<(u32, u64)>, Errno> {
    let mut ev = [libc::epoll_event { events: 0, u64: 0 }; 64];
    let n = sys!(libc::SYS_epoll_pwait, ep, ev.as_mut_ptr(), max, msec as isize, 0, 8)?;
    Ok(ev[..n].iter().map(|e| (e.events, e.u64)).collect())
}

fn epoll_level() -> Outcome {
    let (ep, (r, w)) = (epoll()?, pipe(0)?);
    add(ep, r, IN, 77)?;
    check_eq!(wait_for(ep, 8, 0)?, vec![]);
    write(w, b"xy")?;
    for _ in 0..3 {
        check_eq!(wait_for(ep, 8, -1)?, vec![(IN, 77)]);
    }
    read(r, &mut [0])?;
    check_eq!(wait_for(ep, 8, 0)?, vec![(IN, 77)]);
    read(r, &mut [0])?;
    check_eq!(wait_for(ep, 8, 0)?, vec![]);
    close(w);
    check_eq!(wait_for(ep, 8, -1)?, vec![(HUP, 77)]);
    Ok(())
}

fn epoll_edge() -> Outcome {
    let (ep, e) = (epoll()?, eventfd(0, libc::EFD_NONBLOCK)?);
    add(ep, e, IN | ET, 1)?;
    put(e, 1)?;
    check_eq!(wait_for(ep, 8, -1)?, vec![(IN, 1)]);
    check_eq!(wait_for(ep, 8, 20)?, vec![]); // Still readable, but no new edge.
    put(e, 1)?;
    check_eq!(wait_for(ep, 8, -1)?, vec![(IN, 1)]);
    check_eq!(get(e), Ok(2));
    check_eq!(wait_for(ep, 8, 0)?, vec![]);
    // Already ready when it's added: that counts as an edge.
    put(e, 1)?;
    wait_for(ep, 8, 0)?;
    ctl(ep, libc::EPOLL_CTL_MOD, e, IN | ET, 2)?;
    check_eq!(wait_for(ep, 8, 0)?, vec![(IN, 2)]);
    Ok(())
}

fn epoll_oneshot() -> Outcome {
    let (ep, e) = (epoll()?, eventfd(1, 0)?);
    add(ep, e, IN | ONE, 4)?;
    check_eq!(wait_for(ep, 8, -1)?, vec![(IN, 4)]);
    put(e, 1)?;
    check_eq!(wait_for(ep, 8, 20)?, vec![]);
    ctl(ep, libc::EPOLL_CTL_MOD, e, IN | ONE, 5)?;
    check_eq!(wait_for(ep, 8, -1)?, vec![(IN, 5)]);
    Ok(())
}

fn epoll_mod_del() -> Outcome {
    let (ep, e) = (epoll()?, eventfd(1, 0)?);
    add(ep, e, IN, 1)?;
    ctl(ep, libc::EPOLL_CTL_MOD, e, OUT, 2)?;
    check_eq!(wait_for(ep, 8, -1)?, vec![(OUT, 2)]);
    ctl(ep, libc::EPOLL_CTL_MOD, e, IN | OUT, 3)?;
    check_eq!(wait_for(ep, 8, -1)?, vec![(IN | OUT, 3)]);
    ctl(ep, libc::EPOLL_CTL_DEL, e, 0, 0)?;
    check_eq!(wait_for(ep, 8, 0)?, vec![]);
    check_eq!(ctl(ep, libc::EPOLL_CTL_DEL, e, 0, 0), Err(Errno(libc::ENOENT)));
    Ok(())
}

fn epoll_errors() -> Outcome {
    let (ep, e) = (epoll()?, eventfd(0, 0)?);
    add(ep, e, IN, 0)?;
    check_eq!(add(ep, e, IN, 0), Err(Errno(libc::EEXIST)));
    check_eq!(add(ep, 999, IN, 0), Err(Errno(libc::EBADF)));
    check_eq!(add(999, e, IN, 0), Err(Errno(libc::EBADF)));
    check_eq!(add(e, e, IN, 0), Err(Errno(libc::EINVAL)));
    check_eq!(add(ep, ep, IN, 0), Err(Errno(libc::EINVAL)));
    check_eq!(ctl(ep, 9, e, IN, 0), Err(Errno(libc::EINVAL)));
    let f = std::fs::File::open("/proc/self/exe")?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&f);
    check_eq!(add(ep, fd, IN, 0), Err(Errno(libc::EPERM)));
    check_eq!(wait_for(ep, 0, 0), Err(Errno(libc::EINVAL)));
    check_eq!(wait_for(e, 1, 0), Err(Errno(libc::EINVAL)));
    check_eq!(sys!(libc::SYS_epoll_create1, 1), Err(Errno(libc::EINVAL)));
    let mut ev = [libc::epoll_event { events: 0, u64: 0 }];
    let r = sys!(libc::SYS_epoll_pwait, ep, ev.as_mut_ptr(), -1isize, 0, 0, 8);
    check_eq!(r, Err(Errno(libc::EINVAL)));
    Ok(())
}

fn epoll_timeout() -> Outcome {
    let ep = epoll()?;
    for want in [0u64, 1, 50] {
        let start = Instant::now();
        check_eq!(wait_for(ep, 4, want as i32)?, vec![]);
        check!(start.elapsed() >= Duration::from_millis(want));
    }
    Ok(())
}

fn epoll_wakes() -> Outcome {
    let (ep, e) = (epoll()?, eventfd(0, 0)?);
    let back = eventfd(0, 0)?;
    add(ep, e, IN, 9)?;
    let t = thread::spawn(move || -> Outcome {
        for _ in 0..300 {
            check_eq!(wait_for(ep, 4, 5000)?, vec![(IN, 9)]);
            get(e)?;
            put(back, 1)?;
        }
        Ok(())
    });
    for _ in 0..300 {
        put(e, 1)?;
        get(back)?;
    }
    t.join().unwrap()
}

fn epoll_closed() -> Outcome {
    // The last close of a file takes it out.
    let (ep, e) = (epoll()?, eventfd(1, 0)?);
    add(ep, e, IN, 1)?;
    close(e);
    check_eq!(wait_for(ep, 4, 0)?, vec![]);
    let e2 = eventfd(1, 0)?;
    check_eq!(e2, e);
    check_eq!(add(ep, e2, IN, 2), Ok(0));
    check_eq!(wait_for(ep, 4, 0)?, vec![(IN, 2)]);
    Ok(())
}

fn epoll_dup_keeps() -> Outcome {
    // The file lives on by another descriptor, and so does its entry.
    let (ep, e) = (epoll()?, eventfd(1, 0)?);
    add(ep, e, IN, 1)?;
    let d = sys!(libc::SYS_dup, e)? as i32;
    close(e);
    check_eq!(wait_for(ep, 4, 0)?, vec![(IN, 1)]);
    close(d);
    check_eq!(wait_for(ep, 4, 0)?, vec![]);
    Ok(())
}

fn epoll_nested() -> Outcome {
    let (outer, inner, e) = (epoll()?, epoll()?, eventfd(0, 0)?);
    add(inner, e, IN, 1)?;
    add(outer, inner, IN, 2)?;
    check_eq!(wait_for(outer, 4, 0)?, vec![]);
    put(e, 1)?;
    check_eq!(wait_for(outer, 4, 1000)?, vec![(IN, 2)]);
    check_eq!(poll1(outer, libc::POLLIN, 0)?, (1, libc::POLLIN));
    check_eq!(add(inner, outer, IN, 3), Err(Errno(libc::ELOOP)));
    Ok(())
}

fn epoll_many() -> Outcome {
    let ep = epoll()?;
    let fds: Vec<i32> = (0..50).map(|_| eventfd(0, 0)).collect::<Result<_, _>>()?;
    for (i, fd) in fds.iter().enumerate() {
        add(ep, *fd, IN, i as u64)?;
    }
    for i in [3, 17, 49] {
        put(fds[i], 1)?;
    }
    let mut got: Vec<u64> = wait_for(ep, 64, -1)?.into_iter().map(|e| e.1).collect();
    got.sort_unstable();
    check_eq!(got, vec![3, 17, 49]);
    Ok(())
}

fn epoll_fair() -> Outcome {
    // With room for one, each ready file gets its turn.
    let ep = epoll()?;
    for i in 0..5 {
        add(ep, eventfd(1, 0)?, IN, i)?;
    }
    let mut seen = [0; 5];
    for _ in 0..20 {
        for (_, i) in wait_for(ep, 1, -1)? {
            seen[i as usize] += 1;
        }
    }
    check_eq!(seen, [4; 5]);
    Ok(())
}

fn epoll_pwait_mask() -> Outcome {
    handle(libc::SIGUSR1, nothing as Handler, 0, &[])?;
    crate::util::mask(libc::SIG_BLOCK, &[libc::SIGUSR1]);
    crate::util::kill_self(libc::SIGUSR1)?;
    let ep = epoll()?;
    let mut ev = [libc::epoll_event { events: 0, u64: 0 }];
    let empty = 0u64;
    let wait = |max_ms: isize, ev: &mut [libc::epoll_event; 1]| {
        sys!(libc::SYS_epoll_pwait, ep, ev.as_mut_ptr(), 1, max_ms, &raw const empty, 8)
    };
    check_eq!(wait(10_000, &mut ev), Err(Errno(libc::EINTR)));
    check_eq!(wait(10, &mut ev), Ok(0));
    Ok(())
}

fn epoll_two_waiters() -> Outcome {
    // Two threads on one edge-triggered eventfd: every count arrives once.
    let (ep, e) = (epoll()?, eventfd(0, libc::EFD_NONBLOCK)?);
    add(ep, e, IN | ET, 0)?;
    static SUM: AtomicUsize = AtomicUsize::new(0);
    let all: Vec<_> = (0..2)
        .map(|_| {
            thread::spawn(move || {
                while SUM.load(SeqCst) < 500 {
                    let _ = wait_for(ep, 1, 20);
                    if let Ok(n) = get(e) {
                        SUM.fetch_add(n as usize, SeqCst);
                    }
                }
            })
        })
        .collect();
    for _ in 0..500 {
        put(e, 1)?;
    }
    all.into_iter().for_each(|t| t.join().unwrap());
    check_eq!(SUM.load(SeqCst), 500);
    Ok(())
}

fn signalfd_reads() -> Outcome {
    crate::util::mask(libc::SIG_BLOCK, &[libc::SIGUSR1]);
    let set = 1u64 << (libc::SIGUSR1 - 1);
    let fd = sys!(libc::SYS_signalfd4, -1isize, &raw const set, 8, libc::SFD_NONBLOCK)? as i32;
    let mut b = [0u8; 128];
    check_eq!(read(fd, &mut b), Err(AGAIN));
    crate::util::kill_self(libc::SIGUSR1)?;
    check!(until(|| poll1(fd, libc::POLLIN, 0) == Ok((1, libc::POLLIN))));
    check_eq!(read(fd, &mut b), Ok(128));
    check_eq!(i32::from_ne_bytes([b[0], b[1], b[2], b[3]]), libc::SIGUSR1);
    Ok(())
}

fn socketpair_both_ways() -> Outcome {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    let (mut a, mut b) = UnixStream::pair()?;
    a.write_all(b"ping")?;
    let mut got = [0; 4];
    b.read_exact(&mut got)?;
    b.write_all(b"pong")?;
    a.read_exact(&mut got)?;
    check_eq!(&got, b"pong");
    drop(b);
    check_eq!(a.read(&mut got)?, 0);
    Ok(())
}

/// A buffer that ends too early: what did not come has not left the pipe.
fn pipe_keeps_what_has_no_buffer() -> Outcome {
    let (r, w) = pipe(0)?;
    let data: Vec<u8> = (0..6000u32).map(|i| (i * 7 + (i >> 8)) as u8).collect();
    check_eq!(write(w, &data), Ok(6000));
    let map = Map::anon(2 * PAGE)?;
    sys!(libc::SYS_munmap, map.at + PAGE, PAGE)?;
    let start = PAGE - 1000;
    // Linux takes nothing, others may take what fits.
    let first = match sys!(libc::SYS_read, r, map.at + start, 6000) {
        Err(Errno(libc::EFAULT)) => 0,
        Ok(n) if n <= 1000 => n,
        other => return Err(el0_tests::Fail::new(format!("read: {other:?}"))),
    };
    check!((0..first).all(|i| map.get(start + i) == data[i]), "the first {first} bytes differ");
    let mut rest = vec![0; 7000];
    let n = read(r, &mut rest)?;
    check_eq!(first + n, 6000);
    check!(rest[..n] == data[first..], "what came after {first} bytes differs");
    Ok(())
}

/// However many descriptors are named, none is above the table's end.
fn select_counts() -> Outcome {
    let (r, w) = pipe(0)?;
    write(w, b"x")?;
    let t = [0usize; 2];
    for n in [r as usize + 1, 1024, 0x7fff_ffff] {
        let mut set = [0u64; 1 << 15];
        set[0] = 1 << r;
        let n = sys!(libc::SYS_pselect6, n, set.as_mut_ptr(), 0, 0, t.as_ptr(), 0);
        check_eq!(n, Ok(1));
        check_eq!(set[0], 1 << r);
    }
    let mut set = [0u64; 1];
    let bad = sys!(libc::SYS_pselect6, -1i32, set.as_mut_ptr(), 0, 0, t.as_ptr(), 0);
    check_eq!(bad, Err(Errno(libc::EINVAL)));
    set[0] = 1 << 63;
    let bad = sys!(libc::SYS_pselect6, 64, set.as_mut_ptr(), 0, 0, t.as_ptr(), 0);
    check_eq!(bad, Err(Errno(libc::EBADF)));
    // Above the count nothing is looked at, and nothing comes back.
    let none = sys!(libc::SYS_pselect6, 63, set.as_mut_ptr(), 0, 0, t.as_ptr(), 0);
    check_eq!(none, Ok(0));
    Ok(())
}

/// To wait costs little more than to look, however often a file is named.
fn poll_one_many_times() -> Outcome {
    const MANY: usize = 80_000;
    raise_descriptor_limit(MANY as u64)?;
    let (r, w) = pipe(0)?;
    let mut list = vec![libc::pollfd { fd: r, events: libc::POLLIN, revents: 7 }; MANY];
    best_of(3, || {
        let mut list = list.clone();
        let start = Instant::now();
        for _ in 0..4 {
            check_eq!(ppoll(&mut list, 0), Ok(0));
        }
        let looks = start.elapsed();
        check_eq!(list[MANY - 1].revents, 0);
        let start = Instant::now();
        check_eq!(ppoll(&mut list, 1), Ok(0));
        let waits = start.elapsed();
        check!(waits < 10 * looks, "waiting took {waits:?}, four looks {looks:?}");
        Ok(())
    })?;
    write(w, b"x")?;
    check_eq!(ppoll(&mut list, 1), Ok(MANY));
    Ok(())
}

/// What another thread changes meanwhile stays changed.
fn poll_writes_revents_alone() -> Outcome {
    let m = Map::anon(PAGE)?;
    let (r, w) = pipe(0)?;
    let at = m.at as *mut libc::pollfd;
    // SAFETY: the mapping is there to the end, and nothing refers to it.
    unsafe { at.write_volatile(libc::pollfd { fd: r, events: libc::POLLIN, revents: 0 }) };
    let id = AtomicUsize::new(0);
    let (ready, other) = thread::scope(|s| {
        let other = s.spawn(|| {
            let slept = asleep(&id);
            let at = m.at as *mut libc::pollfd;
            // SAFETY: as above.
            unsafe { at.write_volatile(libc::pollfd { fd: 77, events: 99, revents: 0 }) };
            (slept, write(w, b"x"))
        });
        id.store(gettid(), SeqCst);
        let ready = sys!(libc::SYS_ppoll, m.at, 1, 0, 0, 8);
        (ready, other.join().unwrap())
    });
    check_eq!(ready, Ok(1));
    check_eq!(other, (true, Ok(1)));
    // SAFETY: as above.
    let after = unsafe { at.read_volatile() };
    check_eq!((after.fd, after.events, after.revents), (77, 99, libc::POLLIN));
    Ok(())
}

fn iov(parts: &[&[u8]]) -> Vec<[usize; 2]> {
    parts.iter().map(|part| [part.as_ptr() as usize, part.len()]).collect()
}

fn socket_pair(kind: i32) -> Result<(i32, i32), Errno> {
    let mut pair = [0i32; 2];
    sys!(libc::SYS_socketpair, libc::AF_UNIX, kind, 0, pair.as_mut_ptr())?;
    Ok((pair[0], pair[1]))
}

/// Each write is one message, in how many ranges it may be; so is each read.
fn messages_by_write() -> Outcome {
    for kind in [libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
        let (a, b) = socket_pair(kind | libc::SOCK_NONBLOCK)?;
        let parts = iov(&[b"one ", b"", b"two"]);
        check_eq!(sys!(libc::SYS_writev, a, parts.as_ptr(), parts.len()), Ok(7));
        let large = vec![7u8; 100 << 10];
        check_eq!(write(a, &large), Ok(large.len()));
        check_eq!(write(a, b"third"), Ok(5));
        let mut buf = vec![0u8; 200 << 10];
        check_eq!(read(b, &mut buf), Ok(7));
        check_eq!(&buf[..7], b"one two");
        check_eq!(read(b, &mut buf), Ok(large.len()));
        // What has no room is lost; the next is not read for it.
        let (mut x, mut y) = ([0u8; 2], [0u8; 2]);
        let into = [[x.as_mut_ptr() as usize, 2], [y.as_mut_ptr() as usize, 2]];
        check_eq!(write(a, b"more"), Ok(4));
        check_eq!(read(b, &mut []), Ok(0));
        check_eq!(sys!(libc::SYS_readv, b, into.as_ptr(), 2), Ok(4));
        check_eq!((x, y), (*b"th", *b"ir"));
        check_eq!(sys!(libc::SYS_readv, b, into.as_ptr(), 2), Ok(4));
        check_eq!((x, y), (*b"mo", *b"re"));
        check_eq!(read(b, &mut buf), Err(AGAIN));
        close(b);
        check!(write(a, b"x").is_err());
    }
    Ok(())
}

/// What a pipe takes whole or not at all may be in several ranges.
fn ranges_at_once() -> Outcome {
    let (r, w) = pipe(libc::O_NONBLOCK)?;
    let size = sys!(libc::SYS_fcntl, w, libc::F_GETPIPE_SZ)?;
    check_eq!(write(w, &vec![0; size - PAGE])?, size - PAGE);
    check_eq!(write(w, &[1; PAGE / 2])?, PAGE / 2);
    let half = [2; PAGE / 2];
    let parts = iov(&[&half, &half]);
    check_eq!(sys!(libc::SYS_writev, w, parts.as_ptr(), 2), Err(AGAIN));
    let mut buf = vec![0u8; size];
    check_eq!(read(r, &mut buf), Ok(size - PAGE / 2));
    check_eq!(sys!(libc::SYS_writev, w, parts.as_ptr(), 2), Ok(PAGE));
    let (head, tail) = buf.split_at_mut(PAGE);
    let into = [[head.as_mut_ptr() as usize, PAGE], [tail.as_mut_ptr() as usize, PAGE]];
    check_eq!(sys!(libc::SYS_readv, r, into.as_ptr(), 2), Ok(PAGE));
    // A bad second range: what is in the first is written.
    let bad = [parts[0], [16, 100]];
    let file = sys!(libc::SYS_memfd_create, c"f".as_ptr(), 0)?;
    check_eq!(sys!(libc::SYS_writev, file, bad.as_ptr(), 2), Ok(PAGE / 2));
    check_eq!(sys!(libc::SYS_lseek, file, 0, libc::SEEK_CUR), Ok(PAGE / 2));
    check_eq!(sys!(libc::SYS_lseek, file, 0, libc::SEEK_SET), Ok(0));
    let bad = [[head.as_mut_ptr() as usize, 100], [16, 100]];
    check_eq!(sys!(libc::SYS_readv, file, bad.as_ptr(), 2), Ok(100));
    check_eq!(sys!(libc::SYS_lseek, file, 0, libc::SEEK_CUR), Ok(100));
    // An eventfd takes one number at a time.
    let e = eventfd(0, 0)?;
    let (one, two) = (1u64.to_ne_bytes(), 2u64.to_ne_bytes());
    let parts = iov(&[&one, &two]);
    check_eq!(sys!(libc::SYS_writev, e, parts.as_ptr(), 2), Ok(16));
    check_eq!(get(e), Ok(3));
    Ok(())
}

fn socket_timeouts() -> Outcome {
    let set = |fd: i32, option: i32, time: [i64; 2]| {
        sys!(libc::SYS_setsockopt, fd, libc::SOL_SOCKET, option, time.as_ptr(), 16)
    };
    let get_option = |fd: i32, option: i32| {
        let (mut time, mut len) = ([9i64; 2], 16u32);
        let got = sys!(
            libc::SYS_getsockopt,
            fd,
            libc::SOL_SOCKET,
            option,
            time.as_mut_ptr(),
            &raw mut len
        );
        got.map(|_| (time, len))
    };
    for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
        let (a, _b) = socket_pair(kind)?;
        check_eq!(get_option(a, libc::SO_RCVTIMEO), Ok(([0, 0], 16)));
        check_eq!(set(a, libc::SO_RCVTIMEO, [0, 1_000_000]), Err(Errno(libc::EDOM)));
        check_eq!(set(a, libc::SO_RCVTIMEO, [0, 60_000]), Ok(0));
        check_eq!(set(a, libc::SO_SNDTIMEO, [0, 60_000]), Ok(0));
        check_eq!(get_option(a, libc::SO_RCVTIMEO), Ok(([0, 60_000], 16)));
        let start = Instant::now();
        check_eq!(read(a, &mut [0; 4]), Err(AGAIN));
        check!(start.elapsed() >= Duration::from_millis(55));
        check_eq!(sys!(libc::SYS_recvfrom, a, [0u8; 4].as_mut_ptr(), 4, 0, 0, 0), Err(AGAIN));
        check!(start.elapsed() >= Duration::from_millis(110));
        // Until it is full, and for the time it stays so.
        let start = Instant::now();
        let data = [1u8; 4096];
        let full = (0..10_000).find_map(|_| write(a, &data).err());
        check_eq!(full, Some(AGAIN));
        check!(start.elapsed() >= Duration::from_millis(55));
        check_eq!(set(a, libc::SO_RCVTIMEO, [0, 0]), Ok(0));
        check_eq!(get_option(a, libc::SO_RCVTIMEO), Ok(([0, 0], 16)));
    }
    Ok(())
}
