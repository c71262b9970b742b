//! Threads as Rust's std uses them: clone, futex, TLS, exit.

use crate::util::{gettid, ms, until};
use el0_tests::{End, Fail, Outcome, cases, check, check_eq, fork, sys, wait};
use std::cell::Cell;
use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex, Once, OnceLock, RwLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

cases!("threads";
    spawn_16, ids, mutex_counter, condvar_ping_pong, condvar_timeout, channels, rendezvous,
    rwlock_barrier_once, tls, many_in_turn, park, exit_group_from_thread, main_exits_first,
    exit_with_blocked_threads, big_stacks, panics_unwind, proc_task,
);

fn spawn_16() -> Outcome {
    let all: Vec<_> = (0..16u64).map(|i| thread::spawn(move || i * i)).collect();
    for (i, t) in all.into_iter().enumerate() {
        check_eq!(t.join().ok(), Some((i * i) as u64));
    }
    Ok(())
}

fn ids() -> Outcome {
    let pid = std::process::id();
    check_eq!(gettid(), pid as usize);
    let barrier = Arc::new(Barrier::new(8));
    let all: Vec<_> = (0..8)
        .map(|_| {
            let b = barrier.clone();
            thread::spawn(move || {
                // All alive at once, so no id may be used twice.
                b.wait();
                (std::process::id(), gettid())
            })
        })
        .collect();
    let mut seen = HashSet::from([gettid()]);
    for t in all {
        let (p, tid) = t.join().unwrap();
        check_eq!(p, pid);
        check!(seen.insert(tid), "thread id {tid} twice");
    }
    Ok(())
}

fn mutex_counter() -> Outcome {
    let n = Mutex::new(0u64);
    thread::scope(|s| {
        for _ in 0..16 {
            s.spawn(|| (0..2000).for_each(|_| *n.lock().unwrap() += 1));
        }
    });
    check_eq!(n.into_inner().unwrap(), 32000);
    Ok(())
}

fn condvar_ping_pong() -> Outcome {
    let turn = (Mutex::new(0u32), Condvar::new());
    let play = |me: u32| {
        for _ in 0..500 {
            let mut t = turn.0.lock().unwrap();
            while *t % 2 != me {
                t = turn.1.wait(t).unwrap();
            }
            *t += 1;
            turn.1.notify_one();
        }
    };
    thread::scope(|s| {
        s.spawn(|| play(0));
        s.spawn(|| play(1));
    });
    check_eq!(*turn.0.lock().unwrap(), 1000);
    Ok(())
}

fn condvar_timeout() -> Outcome {
    let m = Mutex::new(());
    let cv = Condvar::new();
    let start = Instant::now();
    let (_g, r) = cv.wait_timeout(m.lock().unwrap(), Duration::from_millis(50)).unwrap();
    check!(r.timed_out());
    check!(start.elapsed() >= Duration::from_millis(50), "woke after {:?}", start.elapsed());
    Ok(())
}

fn channels() -> Outcome {
    let (tx, rx) = mpsc::channel();
    for p in 0..4u64 {
        let tx = tx.clone();
        thread::spawn(move || (0..1000u64).for_each(|i| tx.send(p * 1000 + i).unwrap()));
    }
    drop(tx);
    let all: Vec<u64> = rx.iter().collect();
    check_eq!(all.len(), 4000);
    check_eq!(all.iter().sum::<u64>(), (0..4000).sum::<u64>());
    Ok(())
}

fn rendezvous() -> Outcome {
    let (tx, rx) = mpsc::sync_channel(0);
    let (back, replies) = mpsc::sync_channel(0);
    thread::scope(|s| {
        s.spawn(move || rx.iter().for_each(|x: u32| back.send(x + 1).unwrap()));
        for i in 0..300 {
            tx.send(i).unwrap();
            check_eq!(replies.recv().unwrap(), i + 1);
        }
        drop(tx);
        Ok(())
    })
}

fn rwlock_barrier_once() -> Outcome {
    let l = RwLock::new(0u32);
    let b = Barrier::new(8);
    let once = Once::new();
    let (ran, leaders, set) = (AtomicUsize::new(0), AtomicUsize::new(0), OnceLock::new());
    thread::scope(|s| {
        for i in 0..8u32 {
            let (l, b, once, ran, leaders, set) = (&l, &b, &once, &ran, &leaders, &set);
            s.spawn(move || {
                for _ in 0..100 {
                    *l.write().unwrap() += 1;
                    let _ = *l.read().unwrap();
                }
                if b.wait().is_leader() {
                    leaders.fetch_add(1, Ordering::Relaxed);
                }
                once.call_once(|| {
                    ms(5);
                    ran.fetch_add(1, Ordering::Relaxed);
                });
                set.get_or_init(|| i);
            });
        }
    });
    check_eq!(*l.read().unwrap(), 800);
    check_eq!(leaders.into_inner(), 1);
    check_eq!(ran.into_inner(), 1);
    Ok(())
}

fn tls() -> Outcome {
    static DROPPED: AtomicUsize = AtomicUsize::new(0);
    struct Guard(Cell<usize>);
    impl Drop for Guard {
        fn drop(&mut self) {
            DROPPED.fetch_add(self.0.get(), Ordering::SeqCst);
        }
    }
    thread_local!(static V: Guard = const { Guard(Cell::new(7)) });
    let b = Arc::new(Barrier::new(8));
    let all: Vec<_> = (0..8)
        .map(|i| {
            let b = b.clone();
            thread::spawn(move || {
                V.with(|v| v.0.set(v.0.get() + i));
                for _ in 0..50 {
                    thread::yield_now();
                }
                b.wait();
                V.with(|v| v.0.get())
            })
        })
        .collect();
    for (i, t) in all.into_iter().enumerate() {
        check_eq!(t.join().unwrap(), 7 + i);
    }
    check_eq!(DROPPED.load(Ordering::SeqCst), (0..8).map(|i| 7 + i).sum::<usize>());
    V.with(|v| v.0.get());
    Ok(())
}

fn many_in_turn() -> Outcome {
    for i in 0..200u32 {
        check_eq!(thread::spawn(move || i + 1).join().ok(), Some(i + 1));
    }
    Ok(())
}

fn park() -> Outcome {
    let start = Instant::now();
    thread::park_timeout(Duration::from_millis(30));
    check!(start.elapsed() >= Duration::from_millis(30));
    let me = thread::current();
    let n = Arc::new(AtomicUsize::new(0));
    let n2 = n.clone();
    let t = thread::spawn(move || {
        ms(20);
        n2.store(1, Ordering::SeqCst);
        me.unpark();
    });
    while n.load(Ordering::SeqCst) == 0 {
        thread::park();
    }
    t.join().unwrap();
    Ok(())
}

fn exit_group_from_thread() -> Outcome {
    let pid = fork(|| {
        for _ in 0..3 {
            thread::spawn(|| {
                loop {
                    std::hint::spin_loop();
                }
            });
        }
        thread::spawn(|| {
            ms(20);
            let _ = sys!(libc::SYS_exit_group, 7);
        });
        loop {
            ms(1000);
        }
    })?;
    check_eq!(wait(pid)?, End::Exit(7));
    Ok(())
}

fn main_exits_first() -> Outcome {
    let pid = fork(|| {
        thread::spawn(|| {
            ms(50);
            let _ = sys!(libc::SYS_exit_group, 9);
        });
        let _ = sys!(libc::SYS_exit, 3);
        0
    })?;
    check_eq!(wait(pid)?, End::Exit(9));
    Ok(())
}

fn exit_with_blocked_threads() -> Outcome {
    let pid = fork(|| {
        let m: &'static Mutex<()> = Box::leak(Box::default());
        let held = m.lock();
        for i in 0..6 {
            thread::spawn(move || {
                if i % 2 == 0 {
                    drop(m.lock());
                } else {
                    ms(100_000);
                }
            });
        }
        ms(20);
        std::mem::forget(held);
        5
    })?;
    check_eq!(wait(pid)?, End::Exit(5));
    Ok(())
}

fn big_stacks() -> Outcome {
    fn deep(n: usize) -> usize {
        let page = std::hint::black_box([n as u8; 4096]);
        if n == 0 { 0 } else { deep(n - 1) + page[n % 4096] as usize % 2 }
    }
    let all: Vec<_> =
        (0..4).map(|_| thread::Builder::new().stack_size(8 << 20).spawn(|| deep(800))).collect();
    for t in all {
        check_eq!(t?.join().ok(), Some(400));
    }
    // The main stack grows on demand.
    check_eq!(deep(800), 400);
    Ok(())
}

fn panics_unwind() -> Outcome {
    if cfg!(panic = "abort") {
        return Err(Fail::skip("panics that unwind"));
    }
    std::panic::set_hook(Box::new(|_| {}));
    let r = thread::spawn(|| panic!("on purpose")).join();
    check!(r.is_err());
    check!(std::panic::catch_unwind(|| panic!("again")).is_err());
    Ok(())
}

fn proc_task() -> Outcome {
    let b = Arc::new(Barrier::new(4));
    let all: Vec<_> = (0..3)
        .map(|_| {
            let b = b.clone();
            thread::spawn(move || {
                b.wait();
                b.wait();
            })
        })
        .collect();
    b.wait();
    let status = std::fs::read_to_string("/proc/self/status")?;
    let threads = status.lines().find(|l| l.starts_with("Threads:")).map(str::to_string);
    b.wait();
    all.into_iter().for_each(|t| t.join().unwrap());
    check_eq!(threads.as_deref(), Some("Threads:\t4"));
    // A joined thread has left the count by the time its id was cleared, or soon after.
    check!(until(|| {
        std::fs::read_to_string("/proc/self/status")
            .is_ok_and(|s| s.lines().any(|l| l == "Threads:\t1"))
    }));
    Ok(())
}
