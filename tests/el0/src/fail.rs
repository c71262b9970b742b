//! Allocations that fail, each in its turn: fail-nth of Linux's
//! Documentation/fault-injection. A scenario runs again and again, with its
//! first, second, … allocation failing, until none is left to fail.

use crate::util::{Map, PAGE, RW, close, pipe};
use el0_tests::{Errno, Fail, Outcome, cases, check, check_eq, fork, sys, wait};
use std::fs;

cases!("fail";
    reads_back, pipes, sockets, events, memory, processes, files,
);

/// `/proc/self/fail-nth`, open: nothing of it may allocate later.
struct Nth(i32);

impl Nth {
    /// None where the kernel has no fault injection.
    fn open() -> Result<Option<Self>, Fail> {
        let path = format!("/proc/self/task/{}/fail-nth\0", crate::util::gettid());
        match sys!(libc::SYS_openat, -100isize, path.as_ptr(), libc::O_RDWR, 0) {
            Ok(fd) => Ok(Some(Self(fd as i32))),
            Err(Errno(libc::ENOENT)) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn set(&self, text: &[u8]) -> Result<usize, Errno> {
        sys!(libc::SYS_pwrite64, self.0, text.as_ptr(), text.len(), 0)
    }

    fn left(&self) -> Result<u32, Fail> {
        let mut text = [0u8; 16];
        let len = sys!(libc::SYS_pread64, self.0, text.as_mut_ptr(), text.len(), 0)?;
        String::from_utf8_lossy(&text[..len]).trim().parse().map_err(Fail::new)
    }
}

/// What must not be left over: `/proc/hypha` less what the heap and this
/// program itself keep.
fn accounts() -> Result<String, Fail> {
    let kept = ["free", "heap", "tables", "anonymous"];
    let text = fs::read_to_string("/proc/hypha").unwrap_or_default();
    let lines = text.lines().filter(|line| !kept.iter().any(|word| line.starts_with(word)));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// Runs `scenario` with each of its allocations failing in turn.
fn each(scenario: impl Fn() -> Result<(), Errno>) -> Outcome {
    let Some(nth) = Nth::open()? else { return Ok(()) };
    // What stays for good is there after the first time.
    scenario()?;
    let before = accounts()?;
    for n in 1..1000 {
        nth.set(n.to_string().as_bytes())?;
        let result = scenario();
        let left = nth.left()?;
        nth.set(b"0")?;
        if left != 0 {
            check_eq!(result, Ok(()));
            check!(n > 1, "nothing could fail");
            // Who ended gives its stack back when another task has the CPU.
            let mut after = accounts()?;
            for _ in 0..100 {
                if after == before {
                    break;
                }
                crate::util::ms(20);
                after = accounts()?;
            }
            check_eq!(after, before);
            return Ok(());
        }
        if let Err(Errno(errno)) = result {
            let clean = [libc::ENOMEM, libc::EAGAIN, libc::ENOSPC, libc::ENOLCK];
            check!(clean.contains(&errno), "the {n}th failure gave {:?}", Errno(errno));
        }
    }
    Err(Fail::new("it never came to an end"))
}

/// Tidying up, which may be what fails: only once.
fn surely<T>(f: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
    match f() {
        Err(Errno(libc::ENOMEM)) => f(),
        result => result,
    }
}

fn reads_back() -> Outcome {
    let Some(nth) = Nth::open()? else { return Ok(()) };
    check_eq!(nth.left()?, 0);
    nth.set(b"1000000\n")?;
    check!((999_000..=1_000_000).contains(&nth.left()?));
    check_eq!(nth.set(b"x"), Err(Errno(libc::EINVAL)));
    nth.set(b"0")?;
    check_eq!(nth.left()?, 0);
    Ok(())
}

fn pipes() -> Outcome {
    each(|| {
        let (rd, wr) = pipe(libc::O_NONBLOCK)?;
        let data = [1u8; 4096];
        let result = sys!(libc::SYS_write, wr, data.as_ptr(), data.len());
        close(rd);
        close(wr);
        result.map(drop)
    })
}

fn sockets() -> Outcome {
    each(|| {
        let mut pair = [0i32; 2];
        sys!(libc::SYS_socketpair, libc::AF_UNIX, libc::SOCK_STREAM, 0, pair.as_mut_ptr())?;
        let result = sys!(libc::SYS_write, pair[0], c"x".as_ptr(), 1);
        pair.into_iter().for_each(close);
        result.map(drop)
    })
}

fn events() -> Outcome {
    each(|| {
        let set = sys!(libc::SYS_epoll_create1, 0)?;
        let result = sys!(libc::SYS_eventfd2, 0, 0).and_then(|fd| {
            let event = libc::epoll_event { events: 1, u64: 0 };
            let add = libc::EPOLL_CTL_ADD;
            let result = sys!(libc::SYS_epoll_ctl, set, add, fd, &raw const event);
            close(fd as i32);
            result
        });
        close(set as i32);
        result.map(drop)
    })
}

fn memory() -> Outcome {
    each(|| {
        let map = Map::anon(4 * PAGE)?;
        let result = sys!(libc::SYS_mprotect, map.at + PAGE, PAGE, libc::PROT_READ)
            .and_then(|_| sys!(libc::SYS_mprotect, map.at, 4 * PAGE, RW));
        map.set(0, 1);
        surely(|| sys!(libc::SYS_munmap, map.at, map.len))?;
        result.map(drop)
    })
}

fn processes() -> Outcome {
    each(|| {
        let pid = fork(|| 0)?;
        surely(|| wait(pid)).map(drop)
    })
}

fn files() -> Outcome {
    each(|| {
        let (one, two) = (c"/tmp/fail-one", c"/tmp/fail-two");
        let flags = libc::O_CREAT | libc::O_RDWR;
        let data = [1u8; 8192];
        let open = sys!(libc::SYS_openat, -100isize, one.as_ptr(), flags, 0o600);
        let result = open.and_then(|fd| {
            let result = sys!(libc::SYS_write, fd, data.as_ptr(), data.len()).and_then(|_| {
                let to = two.as_ptr();
                sys!(libc::SYS_renameat2, -100isize, one.as_ptr(), -100isize, to, 0)
            });
            close(fd as i32);
            result
        });
        // It may be there although it wasn't opened.
        for path in [one, two] {
            let _ = surely(|| sys!(libc::SYS_unlinkat, -100isize, path.as_ptr(), 0));
        }
        result.map(drop)
    })
}
