//! Small things that several groups need.

use crate::{Errno, Outcome, check_ret, sys};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The page size that the tests are written for.
pub const PAGE: usize = 4096;
/// The size of a block mapping.
pub const BLOCK: usize = 2 << 20;

/// Sleeps for so many milliseconds.
pub fn ms(n: u64) {
    std::thread::sleep(Duration::from_millis(n));
}

/// Lets `pid` run on that CPU only.
pub fn pin(pid: usize, cpu: usize) -> Result<usize, Errno> {
    let mask = [1u64 << cpu];
    sys!(libc::SYS_sched_setaffinity, pid, 8, mask.as_ptr())
}

/// Waits until `f` holds, for ten seconds at most.
pub fn until(mut f: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !f() {
        if start.elapsed() > Duration::from_secs(10) {
            return false;
        }
        ms(1);
    }
    true
}

/// The thread's id.
pub fn gettid() -> usize {
    sys!(libc::SYS_gettid).unwrap_or(0)
}

/// Does the thread sleep, of whichever process?
pub fn sleeps(thread: usize) -> bool {
    // Its own directory isn't listed, but there.
    let stat = std::fs::read_to_string(format!("/proc/{thread}/task/{thread}/stat"))
        .or_else(|_| std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")));
    stat.is_ok_and(|stat| stat.contains(") S "))
}

/// Waits until this is a thread's number, and that thread sleeps: when it stored its
/// number last of all, it sleeps in the call that came next.
pub fn asleep(thread: &AtomicUsize) -> bool {
    until(|| match thread.load(Ordering::SeqCst) {
        0 => false,
        thread => sleeps(thread),
    })
}

/// Runs `f` while a signal comes to this thread now and then: a single one may come
/// before the call that it is to interrupt.
pub fn signalled<T>(sig: i32, f: impl FnOnce() -> T) -> T {
    let (process, thread) = (std::process::id(), gettid());
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                ms(20);
                let _ = sys!(libc::SYS_tgkill, process, thread, sig);
            }
        });
        let result = f();
        done.store(true, Ordering::SeqCst);
        result
    })
}

/// What measures time has so many tries: a pause of the machine may spoil one.
pub fn best_of(tries: usize, f: impl Fn() -> Outcome) -> Outcome {
    let mut outcome = f();
    for _ in 1..tries {
        if outcome.is_ok() {
            break;
        }
        outcome = f();
    }
    outcome
}

/// A figure of /proc/meminfo, in bytes.
pub fn meminfo(name: &str) -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok().map(|kib: usize| kib << 10)
}

/// Lets so many descriptors be open.
pub fn raise_descriptor_limit(to: u64) -> Result<(), Errno> {
    let limit = [to, to];
    sys!(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, limit.as_ptr(), 0).map(drop)
}

/// A pipe: (read end, write end).
pub fn pipe(flags: i32) -> Result<(i32, i32), Errno> {
    let mut p = [0i32; 2];
    sys!(libc::SYS_pipe2, p.as_mut_ptr(), flags)?;
    Ok((p[0], p[1]))
}

/// Closes a descriptor.
pub fn close(fd: i32) {
    let _ = sys!(libc::SYS_close, fd);
}

/// Writes bytes to a descriptor.
pub fn write(fd: i32, b: &[u8]) -> Result<usize, Errno> {
    sys!(libc::SYS_write, fd, b.as_ptr(), b.len())
}

/// Reads bytes from a descriptor.
pub fn read(fd: i32, b: &mut [u8]) -> Result<usize, Errno> {
    sys!(libc::SYS_read, fd, b.as_mut_ptr(), b.len())
}

/// Memory from mmap, kept until `unmap`.
#[derive(Clone, Copy)]
pub struct Map {
    /// First address.
    pub at: usize,
    /// Bytes.
    pub len: usize,
}

/// Read and write.
pub const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
/// Private anonymous memory.
pub const ANON: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
/// Shared anonymous memory.
pub const SHARED: i32 = libc::MAP_SHARED | libc::MAP_ANONYMOUS;

impl Map {
    /// mmap with everything said.
    pub fn full(
        hint: usize,
        len: usize,
        prot: i32,
        flags: i32,
        fd: i32,
        off: usize,
    ) -> Result<Self, Errno> {
        let at = sys!(libc::SYS_mmap, hint, len, prot, flags, fd, off)?;
        Ok(Self { at, len })
    }

    /// Private anonymous memory.
    pub fn anon(len: usize) -> Result<Self, Errno> {
        Self::full(0, len, RW, ANON, -1, 0)
    }

    /// Shared anonymous memory.
    pub fn shared(len: usize) -> Result<Self, Errno> {
        Self::full(0, len, RW, SHARED, -1, 0)
    }

    /// A private anonymous area that starts at a multiple of 2 MiB.
    pub fn aligned(len: usize) -> Result<Self, Errno> {
        let big = Self::full(0, len + BLOCK, libc::PROT_NONE, ANON, -1, 0)?;
        let at = big.at.next_multiple_of(BLOCK);
        if at > big.at {
            sys!(libc::SYS_munmap, big.at, at - big.at)?;
        }
        let end = at + len;
        if big.at + big.len > end {
            sys!(libc::SYS_munmap, end, big.at + big.len - end)?;
        }
        Self::full(at, len, RW, ANON | libc::MAP_FIXED, -1, 0)
    }

    /// Unmaps the whole.
    pub fn unmap(self) {
        let _ = sys!(libc::SYS_munmap, self.at, self.len);
    }

    /// A word of it, as an atomic.
    pub fn word(&self, off: usize) -> &'static AtomicUsize {
        assert!(off + 8 <= self.len);
        // SAFETY: inside the mapping, which the test keeps while it uses the
        // word; a test that unmaps it wants the fault.
        unsafe { &*((self.at + off) as *const AtomicUsize) }
    }

    /// Reads a byte.
    pub fn get(&self, off: usize) -> u8 {
        peek(self.at + off)
    }

    /// Writes a byte.
    pub fn set(&self, off: usize, v: u8) {
        poke(self.at + off, v);
    }

    /// Fills every page's first word with a pattern.
    pub fn stamp(&self, seed: usize) {
        for off in (0..self.len).step_by(PAGE) {
            self.word(off).store(seed ^ off, Ordering::Relaxed);
        }
    }

    /// The first page in the range whose stamp is not the one expected.
    pub fn unstamped(&self, from: usize, to: usize, seed: usize) -> Option<usize> {
        (from..to).step_by(PAGE).find(|&off| self.word(off).load(Ordering::Relaxed) != seed ^ off)
    }

    /// The first page in the range that does not start with a zero word.
    pub fn nonzero(&self, from: usize, to: usize) -> Option<usize> {
        (from..to).step_by(PAGE).find(|&off| self.word(off).load(Ordering::Relaxed) != 0)
    }
}

/// Reads a byte at an address, wherever it is.
pub fn peek(at: usize) -> u8 {
    // SAFETY: the test mapped it, or wants the fault.
    unsafe { std::ptr::read_volatile(at as *const u8) }
}

/// Writes a byte at an address, wherever it is.
pub fn poke(at: usize, v: u8) {
    // SAFETY: the test mapped it, or wants the fault.
    unsafe { std::ptr::write_volatile(at as *mut u8, v) }
}

/// How a child ends that reads (or writes) at an address: by which signal.
pub fn touch_signal(at: usize, write: bool) -> Result<crate::End, Errno> {
    let pid = crate::fork(|| {
        if write {
            poke(at, 1);
        } else {
            peek(at);
        }
        0
    })?;
    crate::wait(pid)
}

/// A handler with siginfo.
pub type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);

/// Sets a handler, with these flags beside SA_SIGINFO and this mask.
pub fn handle(sig: i32, h: Handler, flags: i32, mask: &[i32]) -> Result<(), Errno> {
    // SAFETY: sigaction is plain data, for which zero is valid.
    let mut sa: libc::sigaction = unsafe { std::mem::zeroed() };
    sa.sa_sigaction = h as *const () as usize;
    sa.sa_flags = flags | libc::SA_SIGINFO;
    sa.sa_mask = sigset(mask);
    // SAFETY: `sa` lives through the call; handlers here touch only atomics
    // and system calls.
    check_ret(unsafe { libc::sigaction(sig, &raw const sa, std::ptr::null_mut()) } as isize)?;
    Ok(())
}

/// Sets SIG_DFL or SIG_IGN.
pub fn disposition(sig: i32, what: libc::sighandler_t) {
    // SAFETY: no handler of ours is installed by it.
    unsafe { libc::signal(sig, what) };
}

/// A set of signals.
pub fn sigset(sigs: &[i32]) -> libc::sigset_t {
    // SAFETY: sigset_t is plain data, and the calls only write to it.
    unsafe {
        let mut s: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut s);
        for &n in sigs {
            libc::sigaddset(&raw mut s, n);
        }
        s
    }
}

/// Whether a set has a signal.
pub fn has(set: &libc::sigset_t, sig: i32) -> bool {
    // SAFETY: only reads the set.
    unsafe { libc::sigismember(set, sig) == 1 }
}

/// Changes the thread's mask; gives the old one.
pub fn mask(how: i32, sigs: &[i32]) -> libc::sigset_t {
    let new = sigset(sigs);
    let mut old = sigset(&[]);
    // SAFETY: both live through the call.
    unsafe { libc::pthread_sigmask(how, &raw const new, &raw mut old) };
    old
}

/// Sends a signal to this process.
pub fn kill_self(sig: i32) -> Result<(), Errno> {
    sys!(libc::SYS_kill, std::process::id(), sig).map(|_| ())
}

/// Sends a signal to this thread, and so takes it at once.
pub fn raise(sig: i32) -> Result<(), Errno> {
    sys!(libc::SYS_tgkill, std::process::id(), gettid(), sig).map(|_| ())
}

/// A directory of its own for a case, removed on drop.
pub struct Dir(pub std::path::PathBuf);

impl Dir {
    /// Makes it under /tmp.
    pub fn new(name: &str) -> std::io::Result<Self> {
        let p = std::path::PathBuf::from(format!("/tmp/el0-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&p)?;
        Ok(Self(p))
    }

    /// A path in it.
    pub fn at(&self, name: &str) -> std::path::PathBuf {
        self.0.join(name)
    }

    /// A path in it for a raw system call.
    pub fn c(&self, name: &str) -> std::ffi::CString {
        c(self.at(name).to_str().unwrap())
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A C string.
pub fn c(s: &str) -> std::ffi::CString {
    std::ffi::CString::new(s).unwrap()
}
