//! Allocations that fail, each in its turn: fail-nth of Linux's
//! Documentation/fault-injection. A scenario runs again and again, with its
//! first, second, … allocation failing, until none is left to fail.

use crate::util::{gettid, ms};
use crate::{Errno, Fail, Outcome, check, check_eq, sys};
use std::fs;

/// `/proc/self/fail-nth`, open: nothing of it may allocate later.
pub struct Nth(i32);

impl Nth {
    /// Linux can be built without fault injection, Hypha can't.
    pub fn open() -> Result<Self, Fail> {
        let path = format!("/proc/self/task/{}/fail-nth\0", gettid());
        match sys!(libc::SYS_openat, -100isize, path.as_ptr(), libc::O_RDWR, 0) {
            Ok(fd) => Ok(Self(fd as i32)),
            Err(Errno(libc::ENOENT)) if !fs::exists("/proc/hypha")? => {
                Err(Fail::skip("fault injection"))
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Writes it.
    pub fn set(&self, text: &[u8]) -> Result<usize, Errno> {
        sys!(libc::SYS_pwrite64, self.0, text.as_ptr(), text.len(), 0)
    }

    /// How many allocations are left until the failure.
    pub fn left(&self) -> Result<u32, Fail> {
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

/// Runs `scenario` with each of its allocations failing in turn, and wants all back
/// that it took.
pub fn each(scenario: impl Fn() -> Result<(), Errno>) -> Outcome {
    let nth = Nth::open()?;
    // What stays for good is there after the first time.
    scenario()?;
    let (mut before, mut after) = (String::new(), String::new());
    // What others left behind may still be going; what the scenario leaves it leaves
    // each time.
    for _ in 0..3 {
        before = accounts()?;
        each_once(&nth, &scenario)?;
        for _ in 0..50 {
            after = accounts()?;
            if after == before {
                return Ok(());
            }
            ms(20);
        }
    }
    Err(Fail::new(format!("before {before:?}, after {after:?}")))
}

fn each_once(nth: &Nth, scenario: &impl Fn() -> Result<(), Errno>) -> Outcome {
    for n in 1..1000 {
        // Neither made nor dropped while an allocation is to fail: the scenario's are
        // meant, and not the library's.
        let text = n.to_string();
        nth.set(text.as_bytes())?;
        let result = scenario();
        let left = nth.left();
        nth.set(b"0")?;
        let left = left?;
        if left != 0 {
            check_eq!(result, Ok(()));
            check!(n > 1, "nothing could fail");
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
pub fn surely<T>(f: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
    match f() {
        Err(Errno(libc::ENOMEM)) => f(),
        result => result,
    }
}
