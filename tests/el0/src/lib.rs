//! The harness that the programs under `tests/` share: named cases, each in a
//! process of its own with a time limit, so that a crash or a hang is a failed
//! case and not the end of the run.

pub mod nth;
pub mod util;

use std::fmt;
use std::io::Write;
use std::panic::Location;
use std::time::{Duration, Instant};

/// Why a case failed, or does not apply: a sentence that names the place.
pub struct Fail {
    why: String,
    skipped: bool,
}

impl Fail {
    /// A failure with the given words, at the caller's line.
    #[track_caller]
    pub fn new(why: impl fmt::Display) -> Self {
        let at = Location::caller();
        let file = at.file().rsplit('/').next().unwrap_or("");
        Self { why: format!("{file}:{}: {why}", at.line()), skipped: false }
    }

    /// The case does not apply here: what it needs of the machine.
    pub fn skip(needs: impl fmt::Display) -> Self {
        Self { why: format!("needs {needs}"), skipped: true }
    }
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl fmt::Debug for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl From<std::io::Error> for Fail {
    #[track_caller]
    fn from(e: std::io::Error) -> Self {
        Self::new(e)
    }
}

/// An error number, as system calls return it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", std::io::Error::from_raw_os_error(self.0))
    }
}

impl From<Errno> for Fail {
    #[track_caller]
    fn from(e: Errno) -> Self {
        Self::new(format!("{e:?}"))
    }
}

/// What a case returns.
pub type Outcome = Result<(), Fail>;

/// A named case.
#[derive(Clone, Copy)]
pub struct Case {
    /// `group.name`.
    pub name: &'static str,
    /// The test itself.
    pub run: fn() -> Outcome,
}

/// Fails the case unless the condition holds.
#[macro_export]
macro_rules! check {
    ($cond:expr) => {
        if !$cond {
            return Err($crate::Fail::new(stringify!($cond)));
        }
    };
    ($cond:expr, $($arg:tt)+) => {
        if !$cond {
            return Err($crate::Fail::new(format!($($arg)+)));
        }
    };
}

/// Fails the case unless both are equal, and shows both.
#[macro_export]
macro_rules! check_eq {
    ($a:expr, $b:expr) => {
        match (&$a, &$b) {
            (a, b) if *a == *b => {}
            (a, b) => {
                return Err($crate::Fail::new(format!(
                    "{} is {:?}, expected {:?}",
                    stringify!($a),
                    a,
                    b
                )));
            }
        }
    };
}

/// A raw system call: `sys!(SYS_x, a, b, …)` gives `Result<usize, Errno>`.
#[macro_export]
macro_rules! sys {
    ($nr:expr $(, $arg:expr)* $(,)?) => {
        $crate::syscall(($nr) as i64, &[$(($arg) as usize),*])
    };
}

/// A raw system call with up to six arguments. Safe only in the sense that a
/// test knows what it asks for: pointers are the caller's affair.
pub fn syscall(nr: i64, args: &[usize]) -> Result<usize, Errno> {
    let mut a = [0usize; 6];
    a[..args.len()].copy_from_slice(args);
    let [a, b, c, d, e, f] = a;
    // SAFETY: what the kernel does with the caller's memory is the test's
    // subject; each caller passes what it owns, or wants the refusal.
    check_ret(unsafe { libc::syscall(nr as libc::c_long, a, b, c, d, e, f) } as isize)
}

/// Turns libc's -1-and-errno into a `Result`.
pub fn check_ret(r: isize) -> Result<usize, Errno> {
    if r == -1 {
        return Err(Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)));
    }
    Ok(r as usize)
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By exit, with this code.
    Exit(i32),
    /// By this signal.
    Signal(i32),
    /// Stopped by this signal, not ended.
    Stopped(i32),
    /// Continued after a stop.
    Continued,
}

impl End {
    /// Decodes what wait4 stores.
    pub fn of(status: i32) -> Self {
        if libc::WIFEXITED(status) {
            Self::Exit(libc::WEXITSTATUS(status))
        } else if libc::WIFSIGNALED(status) {
            Self::Signal(libc::WTERMSIG(status))
        } else if libc::WIFSTOPPED(status) {
            Self::Stopped(libc::WSTOPSIG(status))
        } else {
            Self::Continued
        }
    }
}

/// Forks; the child runs `f` and exits with what it returns.
pub fn fork(f: impl FnOnce() -> i32) -> Result<i32, Errno> {
    // SAFETY: the child runs only `f` and leaves by _exit.
    let pid = check_ret(unsafe { libc::fork() } as isize)? as i32;
    if pid == 0 {
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_or(101);
        // SAFETY: ends the process.
        unsafe { libc::_exit(code) };
    }
    Ok(pid)
}

/// Waits for `pid`, through interruptions.
pub fn wait(pid: i32) -> Result<End, Errno> {
    let mut status = 0i32;
    loop {
        match sys!(libc::SYS_wait4, pid as isize, &raw mut status, 0, 0) {
            Ok(_) => return Ok(End::of(status)),
            Err(Errno(libc::EINTR)) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Forks, runs a whole case in the child, and passes its failure on.
pub fn in_child(f: impl FnOnce() -> Outcome) -> Outcome {
    let pid = fork(|| match f() {
        Ok(()) => 0,
        Err(why) => {
            eprintln!("  in the child: {why}");
            1
        }
    })?;
    match wait(pid)? {
        End::Exit(0) => Ok(()),
        end => Err(Fail::new(format!("child ended with {end:?}"))),
    }
}

struct Options {
    filters: Vec<String>,
    skip: Vec<String>,
    exact: Option<String>,
    list: bool,
    in_process: bool,
    limit: Duration,
    repeat: u32,
}

const USAGE: &str = "usage: PROGRAM [--list] [--in-process] [--exact NAME] [--limit SECONDS] [--repeat N] [--skip FILTER]... [FILTER...]
  runs the cases whose names contain one of the filters (all without one), each
  in its own process with a time limit (default 120 s); --in-process runs them
  in this process, without forking.";

fn options(args: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut o = Options {
        filters: Vec::new(),
        skip: Vec::new(),
        exact: None,
        list: false,
        in_process: false,
        limit: Duration::from_secs(120),
        repeat: 1,
    };
    let mut args = args;
    while let Some(a) = args.next() {
        match a.as_str() {
            "--list" => o.list = true,
            "--in-process" => o.in_process = true,
            "--exact" => o.exact = Some(args.next().ok_or("--exact needs a name")?),
            "--limit" => {
                let s = args.next().and_then(|v| v.parse().ok());
                o.limit = Duration::from_secs(s.ok_or("--limit needs a number of seconds")?);
            }
            "--skip" => o.skip.push(args.next().ok_or("--skip needs a part of a name")?),
            "--repeat" => {
                let n = args.next().and_then(|v| v.parse().ok());
                o.repeat = n.ok_or("--repeat needs a number")?;
            }
            "--help" | "-h" => return Err(USAGE.into()),
            // A kernel passes words it doesn't know to init; ignore options then.
            f if std::process::id() == 1 && (f.starts_with('-') || f.contains('=')) => {}
            f if f.starts_with('-') => return Err(format!("unknown option {f}\n{USAGE}")),
            f => o.filters.push(f.into()),
        }
    }
    Ok(o)
}

/// Runs the cases that the command line asks for; gives the exit status.
/// As PID 1 it mounts what the cases need first and powers off afterwards.
pub fn main_of(cases: &[Case]) -> i32 {
    let o = match options(std::env::args().skip(1)) {
        Ok(o) => o,
        Err(text) => {
            eprintln!("{text}");
            return 2;
        }
    };
    if o.list {
        cases.iter().for_each(|c| println!("{}", c.name));
        return 0;
    }
    let init = std::process::id() == 1;
    if init {
        set_up_as_init();
    }
    let wanted = |c: &&Case| {
        o.exact.as_ref().is_none_or(|e| e == c.name)
            && (o.filters.is_empty() || o.filters.iter().any(|f| c.name.contains(f.as_str())))
            && !o.skip.iter().any(|f| c.name.contains(f.as_str()))
    };
    let (mut passed, mut failed, mut skipped) = (0u32, 0u32, 0u32);
    for _ in 0..o.repeat {
        for case in cases.iter().filter(wanted) {
            let start = Instant::now();
            let outcome = if o.in_process { (case.run)() } else { contained(case, o.limit) };
            let ms = start.elapsed().as_millis();
            match outcome {
                Ok(()) => {
                    passed += 1;
                    println!("ok {} ({ms} ms)", case.name);
                }
                Err(why) if why.skipped => {
                    skipped += 1;
                    println!("skip {} {why}", case.name);
                }
                Err(why) => {
                    failed += 1;
                    println!("FAIL {} {why}", case.name);
                }
            }
            let _ = std::io::stdout().flush();
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    let _ = std::io::stdout().flush();
    if init {
        power_off();
    }
    i32::from(failed != 0)
}

/// The exit status of a case that does not apply.
const SKIPPED: i32 = 77;

/// Runs one case in a child of its own process group; kills the group when
/// the time is up and after the case, so that nothing outlives it.
fn contained(case: &Case, limit: Duration) -> Outcome {
    let mut pipe = [0i32; 2];
    sys!(libc::SYS_pipe2, pipe.as_mut_ptr(), libc::O_CLOEXEC)?;
    let [rd, wr] = pipe;
    let pid = fork(|| {
        let _ = sys!(libc::SYS_setpgid, 0, 0);
        let _ = sys!(libc::SYS_close, rd);
        std::panic::set_hook(Box::new(move |info| {
            let text = format!("panicked: {info}").replace('\n', " ");
            let _ = sys!(libc::SYS_write, wr, text.as_ptr(), text.len());
        }));
        match (case.run)() {
            Ok(()) => 0,
            Err(why) => {
                let text = why.to_string();
                let _ = sys!(libc::SYS_write, wr, text.as_ptr(), text.len());
                if why.skipped { SKIPPED } else { 1 }
            }
        }
    })?;
    let _ = sys!(libc::SYS_close, wr);
    let start = Instant::now();
    let mut status = 0i32;
    // Polling, and not SIGALRM or ppoll: what is under test shouldn't carry
    // the harness more than it must.
    let end = loop {
        match sys!(libc::SYS_wait4, pid, &raw mut status, libc::WNOHANG, 0)? {
            0 if start.elapsed() > limit => {
                let _ = sys!(libc::SYS_kill, -(pid as isize), libc::SIGKILL);
                let _ = sys!(libc::SYS_kill, pid, libc::SIGKILL);
                let _ = sys!(libc::SYS_wait4, pid, &raw mut status, 0, 0);
                break None;
            }
            0 => std::thread::sleep(Duration::from_millis(2)),
            _ => break Some(End::of(status)),
        }
    };
    let _ = sys!(libc::SYS_kill, -(pid as isize), libc::SIGKILL);
    // The reason is already in the pipe: its writer has ended.
    let mut buf = [0u8; 2048];
    let n = match end {
        Some(End::Exit(0)) => 0,
        _ => {
            let _ = sys!(libc::SYS_fcntl, rd, libc::F_SETFL, libc::O_NONBLOCK);
            sys!(libc::SYS_read, rd, buf.as_mut_ptr(), buf.len()).unwrap_or(0)
        }
    };
    let _ = sys!(libc::SYS_close, rd);
    let said = String::from_utf8_lossy(&buf[..n]).into_owned();
    let failed = |why| Err(Fail { why, skipped: false });
    match end {
        Some(End::Exit(0)) => Ok(()),
        Some(End::Exit(SKIPPED)) => Err(Fail { why: said, skipped: true }),
        Some(End::Exit(1)) if !said.is_empty() => Err(Fail { why: said, skipped: false }),
        Some(end) => failed(format!("ended with {end:?} {said}")),
        None => failed(format!("still running after {} s {said}", limit.as_secs())),
    }
}

fn set_up_as_init() {
    for (what, kind) in
        [("/proc", "proc"), ("/sys", "sysfs"), ("/dev", "devtmpfs"), ("/tmp", "tmpfs")]
    {
        let _ = std::fs::create_dir(what);
        let (Ok(target), Ok(fs)) = (std::ffi::CString::new(what), std::ffi::CString::new(kind))
        else {
            continue;
        };
        if let Err(e) = sys!(libc::SYS_mount, fs.as_ptr(), target.as_ptr(), fs.as_ptr(), 0, 0) {
            println!("# mount {what}: {e:?}");
        }
    }
}

fn power_off() {
    // SAFETY: ends the machine; nothing of ours is open for writing.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
}

/// A table of cases: `cases!("group"; a, b, c)` names them `group.a`, ….
#[macro_export]
macro_rules! cases {
    ($group:literal; $($f:ident),+ $(,)?) => {
        /// The cases of this group.
        pub const CASES: &[$crate::Case] = &[
            $($crate::Case { name: concat!($group, ".", stringify!($f)), run: $f }),+
        ];
    };
}
