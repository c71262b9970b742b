//! fork, exec, wait, pipes between processes, groups and sessions.

use crate::util::{Map, PAGE, c, close, disposition, handle, mask, ms, pipe, read, until, write};
use el0_tests::{End, Errno, Fail, Outcome, cases, check, check_eq, fork, sys, wait};
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

cases!("process";
    exit_codes, wait_nohang_and_echild, wait_any, waitid_nowait, rusage, pipe_to_child, command_output,
    command_stdin, command_env_cwd, command_signal, command_many_args, command_in_threads,
    exec_errors, exec_keeps_and_closes, exec_resets_signals, exec_from_thread, exec_arg_limit,
    orphan_reparented, groups_and_sessions, many_groups, kill_group, cow, cow_chain, cow_file_private,
    fork_storm, fork_tree, fork_in_threaded, group_kill_misses_nobody, zombies_counted, pdeathsig, vfork_shares,
    many_children_at_once, proc_of_child, stacks_come_back,
);

/// What `el0-tests --helper WORD…` does: the other end of the exec cases.
pub fn helper(args: &[String]) -> i32 {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["exit", n] => n.parse().unwrap_or(99),
        ["echo", rest @ ..] => {
            println!("{}", rest.join(" "));
            0
        }
        ["count", rest @ ..] => {
            println!("{} {}", rest.len(), rest.iter().map(|a| a.len()).sum::<usize>());
            0
        }
        ["upper"] => {
            let mut s = String::new();
            let _ = std::io::stdin().read_to_string(&mut s);
            print!("{}", s.to_uppercase());
            0
        }
        ["env", name] => {
            println!("{}", std::env::var(name).unwrap_or("(unset)".into()));
            println!("{}", std::env::current_dir().unwrap_or_default().display());
            0
        }
        ["sleep"] => {
            ms(100_000);
            0
        }
        ["fds", open, closed] => {
            let is_open = |n: &str| {
                sys!(libc::SYS_fcntl, n.parse::<i32>().unwrap_or(-1), libc::F_GETFD).is_ok()
            };
            i32::from(!is_open(open)) + 2 * i32::from(is_open(closed))
        }
        ["signals"] => {
            // SAFETY: plain data.
            let get = |s: i32| unsafe {
                let mut sa: libc::sigaction = std::mem::zeroed();
                libc::sigaction(s, std::ptr::null(), &raw mut sa);
                sa.sa_sigaction
            };
            let m = mask(libc::SIG_BLOCK, &[]);
            i32::from(get(libc::SIGUSR1) != libc::SIG_DFL)
                + 2 * i32::from(get(libc::SIGHUP) != libc::SIG_IGN)
                + 4 * i32::from(!crate::util::has(&m, libc::SIGUSR2))
        }
        ["pid", want] => {
            // The one thread that is left has the process's ID, as others see it.
            let pid = std::process::id();
            let there = sys!(libc::SYS_tgkill, pid, pid, 0) == Ok(0);
            i32::from(pid.to_string() != *want || !there)
        }
        _ => 98,
    }
}

fn me(words: &[&str]) -> Command {
    let mut cmd = Command::new("/proc/self/exe");
    cmd.arg("--helper").args(words);
    cmd
}

fn exit_codes() -> Outcome {
    for code in [0, 1, 2, 127, 128, 254, 255] {
        let pid = fork(|| code)?;
        check_eq!(wait(pid)?, End::Exit(code));
    }
    // Only eight bits come through.
    let pid = fork(|| 0x1ff02)?;
    check_eq!(wait(pid)?, End::Exit(2));
    Ok(())
}

fn wait_nohang_and_echild() -> Outcome {
    let any = |opts: i32| sys!(libc::SYS_wait4, -1isize, 0, opts, 0);
    check_eq!(any(0), Err(Errno(libc::ECHILD)));
    check_eq!(any(libc::WNOHANG), Err(Errno(libc::ECHILD)));
    let (r, w) = pipe(0)?;
    let pid = fork(|| {
        let _ = read(r, &mut [0]);
        0
    })?;
    check_eq!(any(libc::WNOHANG), Ok(0));
    check_eq!(sys!(libc::SYS_wait4, 1, 0, 0, 0), Err(Errno(libc::ECHILD)));
    write(w, b"x")?;
    check_eq!(any(0), Ok(pid as usize));
    check_eq!(any(0x0100_0000), Err(Errno(libc::EINVAL)));
    Ok(())
}

fn wait_any() -> Outcome {
    let mut left: Vec<(usize, i32)> = Vec::new();
    for i in 0..10 {
        left.push((fork(|| i)? as usize, i));
    }
    while !left.is_empty() {
        let mut status = 0;
        let pid = sys!(libc::SYS_wait4, -1isize, &raw mut status, 0, 0)?;
        let at = left.iter().position(|&(p, _)| p == pid);
        let Some(at) = at else {
            return Err(el0_tests::Fail::new(format!("unknown child {pid}")));
        };
        let (_, code) = left.swap_remove(at);
        check_eq!(End::of(status), End::Exit(code));
    }
    check_eq!(sys!(libc::SYS_wait4, -1isize, 0, 0, 0), Err(Errno(libc::ECHILD)));
    Ok(())
}

fn waitid_nowait() -> Outcome {
    let pid = fork(|| 12)?;
    // SAFETY: plain data.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    for opts in [libc::WEXITED | libc::WNOWAIT, libc::WEXITED] {
        sys!(libc::SYS_waitid, libc::P_PID, pid, &raw mut info, opts, 0)?;
        // SAFETY: waitid fills the SIGCHLD fields.
        check_eq!(unsafe { (info.si_pid(), info.si_status()) }, (pid, 12));
        check_eq!(info.si_code, libc::CLD_EXITED);
    }
    let r = sys!(libc::SYS_waitid, libc::P_PID, pid, &raw mut info, libc::WEXITED, 0);
    check_eq!(r, Err(Errno(libc::ECHILD)));
    Ok(())
}

fn rusage() -> Outcome {
    let pid = fork(|| {
        let start = std::time::Instant::now();
        while start.elapsed() < std::time::Duration::from_millis(150) {
            std::hint::spin_loop();
        }
        0
    })?;
    // SAFETY: plain data.
    let mut ru: libc::rusage = unsafe { std::mem::zeroed() };
    check_eq!(sys!(libc::SYS_wait4, pid, 0, 0, &raw mut ru), Ok(pid as usize));
    let us = ru.ru_utime.tv_sec * 1_000_000 + ru.ru_utime.tv_usec + ru.ru_stime.tv_usec;
    check!(us > 10_000, "a busy child used {us} us");
    check!(ru.ru_maxrss > 0);
    Ok(())
}

fn pipe_to_child() -> Outcome {
    let (r1, w1) = pipe(0)?;
    let (r2, w2) = pipe(0)?;
    let pid = fork(|| {
        close(w1);
        close(r2);
        let mut total = 0u64;
        let mut b = [0u8; 5000];
        while let Ok(n) = read(r1, &mut b)
            && n > 0
        {
            total += b[..n].iter().map(|&x| u64::from(x)).sum::<u64>();
        }
        let _ = write(w2, &total.to_le_bytes());
        0
    })?;
    close(r1);
    close(w2);
    let block: Vec<u8> = (0..3000u32).map(|i| i as u8).collect();
    for _ in 0..300 {
        let mut done = 0;
        while done < block.len() {
            done += write(w1, &block[done..])?;
        }
    }
    close(w1);
    let mut b = [0u8; 8];
    check_eq!(read(r2, &mut b), Ok(8));
    let sum: u64 = block.iter().map(|&x| u64::from(x)).sum();
    check_eq!(u64::from_le_bytes(b), sum * 300);
    check_eq!(read(r2, &mut b), Ok(0));
    check_eq!(wait(pid)?, End::Exit(0));
    Ok(())
}

fn command_output() -> Outcome {
    let out = me(&["echo", "hello", "world"]).output()?;
    check_eq!(String::from_utf8_lossy(&out.stdout), "hello world\n");
    check!(out.status.success());
    check_eq!(me(&["exit", "17"]).status()?.code(), Some(17));
    Ok(())
}

fn command_stdin() -> Outcome {
    let mut child = me(&["upper"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let text = "line of text\n".repeat(10_000);
    let mut stdin = child.stdin.take().unwrap();
    let t = thread::spawn(move || stdin.write_all(text.as_bytes()));
    let out = child.wait_with_output()?;
    t.join().unwrap()?;
    check_eq!(out.stdout.len(), 130_000);
    check!(out.stdout.starts_with(b"LINE OF TEXT\nLINE"));
    Ok(())
}

fn command_env_cwd() -> Outcome {
    let exe = std::fs::read_link("/proc/self/exe")?;
    let mut cmd = Command::new(exe);
    cmd.args(["--helper", "env", "EL0_WORD"]).env_clear().env("EL0_WORD", "x=y z");
    let out = cmd.current_dir("/tmp").output()?;
    check_eq!(String::from_utf8_lossy(&out.stdout), "x=y z\n/tmp\n");
    Ok(())
}

fn command_signal() -> Outcome {
    let mut child = me(&["sleep"]).spawn()?;
    check!(child.try_wait()?.is_none());
    child.kill()?;
    check_eq!(child.wait()?.signal(), Some(libc::SIGKILL));
    Ok(())
}

fn command_many_args() -> Outcome {
    let long = "a".repeat(100);
    let args: Vec<&str> = (0..1000).map(|_| long.as_str()).collect();
    let mut words = vec!["count"];
    words.extend(args);
    let out = me(&words).output()?;
    check_eq!(String::from_utf8_lossy(&out.stdout), "1000 100000\n");
    let empty = me(&["count", "", "", "x"]).output()?;
    check_eq!(String::from_utf8_lossy(&empty.stdout), "3 1\n");
    Ok(())
}

fn command_in_threads() -> Outcome {
    let all: Vec<_> = (0..4)
        .map(|i| {
            thread::spawn(move || {
                for j in 0..4 {
                    let word = format!("{i}-{j}");
                    let out = me(&["echo", &word]).output().map(|o| o.stdout);
                    if out.ok() != Some(format!("{word}\n").into_bytes()) {
                        return false;
                    }
                }
                true
            })
        })
        .collect();
    for t in all {
        check_eq!(t.join().ok(), Some(true));
    }
    Ok(())
}

fn exec_errors() -> Outcome {
    let d = crate::util::Dir::new("exec")?;
    std::fs::write(d.at("plain"), "not a program")?;
    std::fs::write(d.at("elf"), b"\x7fELF rubbish that is no program at all.............")?;
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(d.at("elf"), std::fs::Permissions::from_mode(0o755))?;
    let exec = |p: &str| {
        let path = c(p);
        let argv = [path.as_ptr(), std::ptr::null()];
        let envp = [std::ptr::null::<u8>()];
        sys!(libc::SYS_execve, path.as_ptr(), argv.as_ptr(), envp.as_ptr())
    };
    let at = |n: &str| d.at(n).to_str().unwrap().to_string();
    check_eq!(exec("/no/such/file"), Err(Errno(libc::ENOENT)));
    check_eq!(exec(""), Err(Errno(libc::ENOENT)));
    check_eq!(exec("/tmp"), Err(Errno(libc::EACCES)));
    check_eq!(exec(&at("plain")), Err(Errno(libc::EACCES)));
    check_eq!(exec(&at("elf")), Err(Errno(libc::ENOEXEC)));
    std::fs::set_permissions(d.at("plain"), std::fs::Permissions::from_mode(0o755))?;
    check_eq!(exec(&at("plain")), Err(Errno(libc::ENOEXEC)));
    check_eq!(exec(&format!("{}/x", at("plain"))), Err(Errno(libc::ENOTDIR)));
    std::fs::write(d.at("plain"), "#!/no/such/interpreter\n")?;
    check_eq!(exec(&at("plain")), Err(Errno(libc::ENOENT)));
    Ok(())
}

fn exec_keeps_and_closes() -> Outcome {
    let (keep, _w) = pipe(0)?;
    let (gone, _w2) = pipe(libc::O_CLOEXEC)?;
    let code = me(&["fds", &keep.to_string(), &gone.to_string()]).status()?.code();
    // 1: closed what it should keep; 2: kept what it should close.
    check_eq!(code, Some(0));
    Ok(())
}

fn exec_resets_signals() -> Outcome {
    extern "C" fn h(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    handle(libc::SIGUSR1, h, 0, &[])?;
    disposition(libc::SIGHUP, libc::SIG_IGN);
    let pid = fork(|| {
        mask(libc::SIG_BLOCK, &[libc::SIGUSR2]);
        // exec in place: std's spawn would reset the mask.
        let exe = c("/proc/self/exe");
        let words = ["x", "--helper", "signals"].map(c);
        let argv = [words[0].as_ptr(), words[1].as_ptr(), words[2].as_ptr(), std::ptr::null()];
        let envp = [std::ptr::null::<u8>()];
        let _ = sys!(libc::SYS_execve, exe.as_ptr(), argv.as_ptr(), envp.as_ptr());
        90
    })?;
    // 1: handler kept; 2: ignored lost; 4: mask lost.
    check_eq!(wait(pid)?, End::Exit(0));
    Ok(())
}

fn exec_from_thread() -> Outcome {
    // Which thread ends last is a matter of luck.
    (0..20).try_for_each(|_| exec_from_one_of_many())
}

fn exec_from_one_of_many() -> Outcome {
    let pid = fork(|| {
        let want = std::process::id().to_string();
        for _ in 0..3 {
            thread::spawn(|| ms(100_000));
        }
        thread::spawn(move || {
            let e = me(&["pid", &want]).exec();
            eprintln!("  exec: {e}");
        });
        ms(100_000);
        91
    })?;
    check_eq!(wait(pid)?, End::Exit(0));
    Ok(())
}

fn exec_arg_limit() -> Outcome {
    // One string over 128 KiB (MAX_ARG_STRLEN) is too long.
    let long = c(&"x".repeat(140_000));
    let exe = c("/proc/self/exe");
    let argv = [exe.as_ptr(), long.as_ptr(), std::ptr::null()];
    let envp = [std::ptr::null::<u8>()];
    let r = sys!(libc::SYS_execve, exe.as_ptr(), argv.as_ptr(), envp.as_ptr());
    check_eq!(r, Err(Errno(libc::E2BIG)));
    Ok(())
}

fn orphan_reparented() -> Outcome {
    let m = Map::shared(PAGE)?;
    let (r, w) = pipe(0)?;
    let pid = fork(|| {
        let middle = std::process::id();
        let _ = fork(|| {
            let ppid = || sys!(libc::SYS_getppid).unwrap_or(0);
            until(|| ppid() != middle as usize);
            m.word(0).store(ppid(), SeqCst);
            let _ = write(w, b"x");
            0
        });
        0
    })?;
    check_eq!(wait(pid)?, End::Exit(0));
    check_eq!(read(r, &mut [0]), Ok(1));
    let new = m.word(0).load(SeqCst);
    check!(new != pid as usize && new != 0, "parent is {new}");
    Ok(())
}

fn groups_and_sessions() -> Outcome {
    let me = std::process::id() as usize;
    let (r, w) = pipe(0)?;
    let pid = fork(|| {
        let _ = read(r, &mut [0]);
        let id = std::process::id() as usize;
        let first = sys!(libc::SYS_setsid);
        let good = first == Ok(id)
            && sys!(libc::SYS_getsid, 0) == Ok(id)
            && sys!(libc::SYS_getpgid, 0) == Ok(id)
            // Already a leader.
            && sys!(libc::SYS_setsid) == Err(Errno(libc::EPERM))
            && sys!(libc::SYS_setpgid, 0, 0) == Err(Errno(libc::EPERM));
        i32::from(!good)
    })?;
    check_eq!(sys!(libc::SYS_getpgid, pid), Ok(me));
    check_eq!(sys!(libc::SYS_getsid, pid)?, sys!(libc::SYS_getsid, 0)?);
    check_eq!(sys!(libc::SYS_setpgid, 0x3fff_ffff, 0), Err(Errno(libc::ESRCH)));
    check_eq!(sys!(libc::SYS_setpgid, 0, -1isize), Err(Errno(libc::EINVAL)));
    write(w, b"x")?;
    check_eq!(wait(pid)?, End::Exit(0));
    Ok(())
}

/// Bytes on the kernel's heap, where the kernel says so.
fn heap_used() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/hypha").ok()?;
    text.lines().find_map(|line| line.strip_prefix("heap-used "))?.parse().ok()
}

/// As many groups as there may be cost their memory once, not for each child.
fn many_groups() -> Outcome {
    const MOST: usize = 65536;
    let groups: Vec<u32> = (0..MOST as u32).collect();
    check_eq!(sys!(libc::SYS_setgroups, MOST + 1, groups.as_ptr()), Err(Errno(libc::EINVAL)));
    sys!(libc::SYS_setgroups, MOST, groups.as_ptr())?;
    check_eq!(sys!(libc::SYS_getgroups, 0, 0), Ok(MOST));
    check_eq!(sys!(libc::SYS_getgroups, MOST - 1, 0), Err(Errno(libc::EINVAL)));
    let before = heap_used();
    let (r, w) = pipe(0)?;
    let mut children = Vec::new();
    for n in 0..64 {
        children.push(fork(|| {
            close(w);
            let _ = read(r, &mut [0]);
            let mut mine = vec![0u32; MOST];
            // What one child changes is its own.
            if n % 2 == 0 && sys!(libc::SYS_setgroups, 1, [7u32].as_ptr()).is_err() {
                return 1;
            }
            let count = if n % 2 == 0 { 1 } else { MOST };
            let got = sys!(libc::SYS_getgroups, MOST, mine.as_mut_ptr());
            i32::from(got != Ok(count) || mine[count - 1] != [7, MOST as u32 - 1][n % 2])
        })?);
    }
    let after = heap_used();
    close(w);
    close(r);
    for pid in children {
        check_eq!(wait(pid)?, End::Exit(0));
    }
    check_eq!(sys!(libc::SYS_getgroups, 0, 0), Ok(MOST));
    sys!(libc::SYS_setgroups, 0, 0)?;
    if let Some((before, after)) = before.zip(after) {
        let each = after.saturating_sub(before) / 64;
        check!(each < MOST, "{each} bytes for each child");
    }
    Ok(())
}

fn kill_group() -> Outcome {
    let leader = fork(|| {
        ms(100_000);
        0
    })?;
    sys!(libc::SYS_setpgid, leader, leader)?;
    let mut all = vec![leader];
    for _ in 0..3 {
        let pid = fork(|| {
            ms(100_000);
            0
        })?;
        sys!(libc::SYS_setpgid, pid, leader)?;
        all.push(pid);
    }
    check_eq!(sys!(libc::SYS_kill, -leader, 0), Ok(0));
    sys!(libc::SYS_kill, -leader, libc::SIGTERM)?;
    // Waiting by group takes exactly these.
    for _ in &all {
        let mut status = 0;
        let pid = sys!(libc::SYS_wait4, -leader, &raw mut status, 0, 0)? as i32;
        check!(all.contains(&pid));
        check_eq!(End::of(status), End::Signal(libc::SIGTERM));
    }
    check_eq!(sys!(libc::SYS_wait4, -leader, 0, 0, 0), Err(Errno(libc::ECHILD)));
    check_eq!(sys!(libc::SYS_kill, -leader, 0), Err(Errno(libc::ESRCH)));
    Ok(())
}

fn cow() -> Outcome {
    let m = Map::anon(4 << 20)?;
    m.stamp(0x1111_0000);
    let (r, w) = pipe(0)?;
    let (r2, w2) = pipe(0)?;
    let pid = fork(|| {
        if m.unstamped(0, m.len, 0x1111_0000).is_some() {
            return 1;
        }
        m.stamp(0x2222_0000);
        let _ = write(w2, b"x");
        let _ = read(r, &mut [0]);
        // The parent's later writes aren't seen here.
        if m.unstamped(0, m.len, 0x2222_0000).is_some() { 2 } else { 0 }
    })?;
    read(r2, &mut [0])?;
    check_eq!(m.unstamped(0, m.len, 0x1111_0000), None);
    m.stamp(0x3333_0000);
    write(w, b"x")?;
    check_eq!(wait(pid)?, End::Exit(0));
    check_eq!(m.unstamped(0, m.len, 0x3333_0000), None);
    Ok(())
}

fn cow_chain() -> Outcome {
    fn level(m: &Map, n: usize) -> i32 {
        if n == 6 {
            return 0;
        }
        m.stamp(n << 40);
        let Ok(pid) = fork(|| level(m, n + 1)) else { return 50 };
        let end = wait(pid);
        if m.unstamped(0, m.len, n << 40).is_some() {
            return 10 + n as i32;
        }
        match end {
            Ok(End::Exit(code)) => code,
            _ => 51,
        }
    }
    let m = Map::aligned(2 << 20)?;
    check_eq!(level(&m, 0), 0);
    Ok(())
}

fn cow_file_private() -> Outcome {
    use std::os::fd::AsRawFd;
    let d = crate::util::Dir::new("cowfile")?;
    std::fs::write(d.at("f"), vec![b'a'; 3 * PAGE])?;
    let f = std::fs::File::open(d.at("f"))?;
    let m = Map::full(0, 3 * PAGE, crate::util::RW, libc::MAP_PRIVATE, f.as_raw_fd(), 0)?;
    m.set(PAGE, b'p');
    let pid = fork(|| {
        let saw = (m.get(0), m.get(PAGE)) == (b'a', b'p');
        m.set(0, b'c');
        m.set(PAGE, b'c');
        i32::from(!saw)
    })?;
    check_eq!(wait(pid)?, End::Exit(0));
    check_eq!((m.get(0), m.get(PAGE), m.get(2 * PAGE)), (b'a', b'p', b'a'));
    check_eq!(std::fs::read(d.at("f"))?, vec![b'a'; 3 * PAGE]);
    Ok(())
}

fn fork_storm() -> Outcome {
    for i in 0..100 {
        let pid = fork(|| i % 7)?;
        check_eq!(wait(pid)?, End::Exit(i % 7));
    }
    Ok(())
}

fn fork_tree() -> Outcome {
    fn grow(depth: u32) -> i32 {
        if depth == 0 {
            return 1;
        }
        let kids: Vec<_> = (0..2).map(|_| fork(|| grow(depth - 1))).collect();
        let mut sum = 1;
        for k in kids {
            match k.and_then(wait) {
                Ok(End::Exit(n)) => sum += n,
                _ => return 255,
            }
        }
        sum
    }
    check_eq!(grow(5), 63);
    Ok(())
}

/// A signal to a group that forks meanwhile misses nobody.
fn group_kill_misses_nobody() -> Outcome {
    for _ in 0..15 {
        // All of the group hold one end: the other ends when they all have.
        let mut ends = [0i32; 2];
        sys!(libc::SYS_pipe2, ends.as_mut_ptr(), libc::O_NONBLOCK)?;
        let leader = fork(|| {
            let _ = sys!(libc::SYS_setpgid, 0, 0);
            loop {
                let _ = fork(|| {
                    ms(20_000);
                    0
                });
            }
        })?;
        close(ends[1]);
        let group = -(leader as isize);
        check!(until(|| sys!(libc::SYS_kill, group, 0) == Ok(0)));
        ms(3);
        sys!(libc::SYS_kill, group, libc::SIGKILL)?;
        check_eq!(wait(leader)?, End::Signal(libc::SIGKILL));
        let gone = || {
            let mut byte = 0u8;
            sys!(libc::SYS_read, ends[0], &raw mut byte, 1) == Ok(0)
        };
        check!(until(gone), "somebody of group {leader} lives on");
        close(ends[0]);
    }
    Ok(())
}

fn fork_in_threaded() -> Outcome {
    let m = Map::anon(PAGE)?;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let s2 = stop.clone();
    let t = thread::spawn(move || {
        while !s2.load(SeqCst) {
            m.word(0).fetch_add(1, SeqCst);
        }
    });
    let mut bad = 0;
    for _ in 0..20 {
        let pid = fork(|| {
            // Only this thread is here, and memory stands still.
            let a = m.word(0).load(SeqCst);
            ms(3);
            i32::from(m.word(0).load(SeqCst) != a)
        })?;
        if wait(pid)? != End::Exit(0) {
            bad += 1;
        }
    }
    stop.store(true, SeqCst);
    t.join().unwrap();
    check_eq!(bad, 0);
    Ok(())
}

fn zombies_counted() -> Outcome {
    let pid = fork(|| 0)?;
    let state = || {
        let s = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        s.rsplit(") ").next().and_then(|r| r.chars().next())
    };
    check!(until(|| state() == Some('Z')), "state {:?}", state());
    // A zombie takes signals and stays.
    check_eq!(sys!(libc::SYS_kill, pid, libc::SIGKILL), Ok(0));
    check_eq!(wait(pid)?, End::Exit(0));
    check_eq!(state(), None);
    Ok(())
}

fn pdeathsig() -> Outcome {
    let (r, w) = pipe(0)?;
    let pid = fork(|| {
        let _ = fork(|| {
            let _ = sys!(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
            let _ = write(w, b"x");
            ms(100_000);
            0
        });
        let _ = read(r, &mut [0]);
        0
    })?;
    check_eq!(wait(pid)?, End::Exit(0));
    close(w);
    // The grandchild held the other write end; its death is the end of file.
    check_eq!(read(r, &mut [0]), Ok(0));
    Ok(())
}

fn vfork_shares() -> Outcome {
    // CLONE_VM | CLONE_VFORK as posix_spawn does it: the parent waits for the
    // exec or exit, and memory is one.
    let stack = Map::anon(64 * 1024)?;
    static V: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    extern "C" fn child(_: *mut libc::c_void) -> i32 {
        ms(30);
        V.store(77, SeqCst);
        21
    }
    // SAFETY: the child runs on its own stack and returns to _exit.
    let pid = unsafe {
        libc::clone(
            child,
            (stack.at + stack.len) as *mut libc::c_void,
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            std::ptr::null_mut(),
        )
    };
    check!(pid > 0);
    check_eq!(V.load(SeqCst), 77);
    check_eq!(wait(pid)?, End::Exit(21));
    Ok(())
}

fn many_children_at_once() -> Outcome {
    let (r, w) = pipe(0)?;
    let mut pids = Vec::new();
    for i in 0..60 {
        pids.push(fork(|| {
            close(w);
            let _ = read(r, &mut [0]);
            i
        })?);
    }
    close(w);
    for (i, pid) in pids.into_iter().enumerate() {
        check_eq!(wait(pid)?, End::Exit(i as i32));
    }
    Ok(())
}

fn proc_of_child() -> Outcome {
    let mut child = me(&["sleep"]).stdin(Stdio::null()).spawn()?;
    let pid = child.id();
    let line = move || std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    check!(until(|| line().ends_with(b"--helper\0sleep\0")), "cmdline {:?}", line());
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let want = format!("PPid:\t{}", std::process::id());
    check!(status.lines().any(|l| l == want));
    child.kill()?;
    child.wait()?;
    check!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    Ok(())
}

/// A child's kernel stack is free once it has ended, whoever knew it last.
fn stacks_come_back() -> Outcome {
    let stacks = || -> Result<usize, Fail> {
        let text = std::fs::read_to_string("/proc/hypha").map_err(|_| Fail::skip("/proc/hypha"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("stacks "));
        line.ok_or("no stacks").and_then(|n| n.parse().map_err(|_| "no number")).map_err(Fail::new)
    };
    let before = stacks()?;
    for round in 0..50 {
        let pid = fork(|| 0)?;
        check_eq!(wait(pid)?, End::Exit(0));
        let back = until(|| stacks().is_ok_and(|now| now <= before));
        check!(back, "round {round}: {before} bytes before, {} after", stacks()?);
    }
    Ok(())
}
