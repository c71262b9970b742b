//! Allocations that fail, each in its turn.

use crate::util::{Map, PAGE, RW, close, pipe};
use el0_tests::nth::{Nth, each, surely};
use el0_tests::{End, Errno, Outcome, cases, check, check_eq, sys, wait};

cases!("fail";
    reads_back, pipes, sockets, events, memory, processes, groups, files,
);

fn reads_back() -> Outcome {
    let nth = Nth::open()?;
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

/// A child that ends at once, by raw calls: what the library's fork() does besides must
/// not be what fails.
fn child() -> Result<(), Errno> {
    let pid = sys!(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0)?;
    if pid == 0 {
        let _ = sys!(libc::SYS_exit_group, 7);
    }
    // What is to fail is the parent's allocation.
    match surely(|| wait(pid as i32))? {
        End::Exit(7) => Ok(()),
        _ => Err(Errno(libc::ECHILD)),
    }
}

fn processes() -> Outcome {
    each(child)
}

fn groups() -> Outcome {
    let groups = [0u32; 65536];
    each(|| {
        let result = sys!(libc::SYS_setgroups, groups.len(), groups.as_ptr()).and_then(|_| child());
        surely(|| sys!(libc::SYS_setgroups, 0, 0))?;
        result
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
