//! Signals: delivery, masks, frames, faults, stops.

use crate::util::{
    Dir, Map, PAGE, asleep, close, disposition, gettid, handle, has, kill_self, mask, ms, peek,
    pipe, poke, raise, read, signalled, sigset, sleeps, until, write,
};
use el0_tests::{End, Errno, Outcome, cases, check, check_eq, fork, sys, wait};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

cases!("signals";
    siginfo_of_kill, siginfo_of_tgkill, blocked_then_pending, standard_coalesce, realtime_queue,
    nested, mask_in_handler, nodefer, resethand, restart, no_restart, altstack,
    stack_overflow_on_altstack, fault_maperr, fault_accerr, fault_fixed_in_handler,
    fault_when_blocked_kills, bus_error_past_eof, undefined_instruction, breakpoint,
    edit_context, registers_survive, itimer_real, itimer_waits, alarm, sigtimedwait, sigtimedwait_timeout,
    pause, sigsuspend, ppoll_mask, to_one_thread, to_any_unblocked_thread, passed_on_at_exit,
    passed_on_in_handler, passed_on_at_exec, stop_and_continue, stop_is_told_when_all_threads_stand, stop_of_the_killed_is_not_told, group_kill_reaches_waiters, kill_by_thread, orphaned_group,
    default_actions, sigchld, ignored_sigchld_reaps, sigpipe, kill_errors, inherited_by_fork,
    during_many_syscalls, interrupted_sleep, handler_longs_return,
);

static SEEN: AtomicI32 = AtomicI32::new(0);
static COUNT: AtomicUsize = AtomicUsize::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
static WORD: AtomicUsize = AtomicUsize::new(0);
static ADDR: AtomicUsize = AtomicUsize::new(0);

extern "C" fn note(sig: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid siginfo with SA_SIGINFO.
    let info = unsafe { &*info };
    SEEN.store(sig, SeqCst);
    CODE.store(info.si_code, SeqCst);
    // SAFETY: for signals by kill, tgkill and SIGCHLD the field is there;
    // for others the value isn't looked at.
    WORD.store(unsafe { info.si_pid() } as usize, SeqCst);
    // SAFETY: as above, for faults.
    ADDR.store(unsafe { info.si_addr() } as usize, SeqCst);
    COUNT.fetch_add(1, SeqCst);
}

fn siginfo_of_kill() -> Outcome {
    handle(libc::SIGUSR1, note, 0, &[])?;
    kill_self(libc::SIGUSR1)?;
    // Taken before kill returns: this is the only thread.
    check_eq!(SEEN.load(SeqCst), libc::SIGUSR1);
    check_eq!(CODE.load(SeqCst), 0);
    check_eq!(WORD.load(SeqCst), std::process::id() as usize);
    Ok(())
}

fn siginfo_of_tgkill() -> Outcome {
    handle(libc::SIGUSR2, note, 0, &[])?;
    raise(libc::SIGUSR2)?;
    check_eq!(SEEN.load(SeqCst), libc::SIGUSR2);
    check_eq!(CODE.load(SeqCst), -6); // SI_TKILL
    Ok(())
}

fn pending() -> libc::sigset_t {
    let mut s = sigset(&[]);
    // SAFETY: `s` lives through the call.
    unsafe { libc::sigpending(&raw mut s) };
    s
}

fn blocked_then_pending() -> Outcome {
    handle(libc::SIGUSR1, note, 0, &[])?;
    mask(libc::SIG_BLOCK, &[libc::SIGUSR1]);
    kill_self(libc::SIGUSR1)?;
    check_eq!(COUNT.load(SeqCst), 0);
    check!(has(&pending(), libc::SIGUSR1));
    mask(libc::SIG_UNBLOCK, &[libc::SIGUSR1]);
    check_eq!(COUNT.load(SeqCst), 1);
    check!(!has(&pending(), libc::SIGUSR1));
    Ok(())
}

fn standard_coalesce() -> Outcome {
    handle(libc::SIGUSR1, note, 0, &[])?;
    mask(libc::SIG_BLOCK, &[libc::SIGUSR1]);
    for _ in 0..5 {
        kill_self(libc::SIGUSR1)?;
    }
    mask(libc::SIG_UNBLOCK, &[libc::SIGUSR1]);
    check_eq!(COUNT.load(SeqCst), 1);
    // SIGKILL and SIGSTOP can't be blocked.
    mask(libc::SIG_BLOCK, &[libc::SIGKILL, libc::SIGSTOP]);
    let m = mask(libc::SIG_BLOCK, &[]);
    check!(!has(&m, libc::SIGKILL) && !has(&m, libc::SIGSTOP));
    Ok(())
}

fn realtime_queue() -> Outcome {
    static ORDER: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn h(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: valid siginfo of a queued signal.
        let v = unsafe { (*info).si_value().sival_ptr } as usize;
        ORDER.store(ORDER.load(SeqCst) * 10 + v, SeqCst);
    }
    let rt = libc::SIGRTMIN() + 1;
    handle(rt, h, 0, &[])?;
    mask(libc::SIG_BLOCK, &[rt]);
    for i in 1..=5usize {
        // SAFETY: queues a signal to this process.
        let r = unsafe {
            libc::sigqueue(
                std::process::id() as i32,
                rt,
                libc::sigval { sival_ptr: i as *mut libc::c_void },
            )
        };
        el0_tests::check_ret(r as isize)?;
    }
    mask(libc::SIG_UNBLOCK, &[rt]);
    check_eq!(ORDER.load(SeqCst), 12345);
    Ok(())
}

static DEPTH: AtomicUsize = AtomicUsize::new(0);
static MAX_DEPTH: AtomicUsize = AtomicUsize::new(0);

extern "C" fn nest(sig: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let d = DEPTH.fetch_add(1, SeqCst) + 1;
    MAX_DEPTH.fetch_max(d, SeqCst);
    COUNT.fetch_add(1, SeqCst);
    if sig == libc::SIGUSR1 {
        let _ = raise(libc::SIGUSR2);
    } else if d < 4 && sig == libc::SIGHUP {
        let _ = raise(libc::SIGHUP);
    }
    DEPTH.fetch_sub(1, SeqCst);
}

fn nested() -> Outcome {
    handle(libc::SIGUSR1, nest, 0, &[])?;
    handle(libc::SIGUSR2, nest, 0, &[])?;
    raise(libc::SIGUSR1)?;
    check_eq!(COUNT.load(SeqCst), 2);
    check_eq!(MAX_DEPTH.load(SeqCst), 2);
    Ok(())
}

fn mask_in_handler() -> Outcome {
    handle(libc::SIGUSR1, nest, 0, &[libc::SIGUSR2])?;
    handle(libc::SIGUSR2, nest, 0, &[])?;
    raise(libc::SIGUSR1)?;
    // SIGUSR2 waits for the first handler's end.
    check_eq!(COUNT.load(SeqCst), 2);
    check_eq!(MAX_DEPTH.load(SeqCst), 1);
    // And the mask is what it was.
    let m = mask(libc::SIG_BLOCK, &[]);
    check!(!has(&m, libc::SIGUSR1) && !has(&m, libc::SIGUSR2));
    Ok(())
}

fn nodefer() -> Outcome {
    handle(libc::SIGHUP, nest, libc::SA_NODEFER, &[])?;
    raise(libc::SIGHUP)?;
    check_eq!(MAX_DEPTH.load(SeqCst), 4);
    MAX_DEPTH.store(0, SeqCst);
    COUNT.store(0, SeqCst);
    // Without the flag they come one after the other.
    static LEFT: AtomicI32 = AtomicI32::new(3);
    extern "C" fn again(s: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        let d = DEPTH.fetch_add(1, SeqCst) + 1;
        MAX_DEPTH.fetch_max(d, SeqCst);
        COUNT.fetch_add(1, SeqCst);
        if LEFT.fetch_sub(1, SeqCst) > 0 {
            let _ = raise(s);
        }
        DEPTH.fetch_sub(1, SeqCst);
    }
    handle(libc::SIGHUP, again, 0, &[])?;
    raise(libc::SIGHUP)?;
    check_eq!(COUNT.load(SeqCst), 4);
    check_eq!(MAX_DEPTH.load(SeqCst), 1);
    Ok(())
}

fn resethand() -> Outcome {
    let pid = fork(|| {
        let _ = handle(libc::SIGTERM, note, libc::SA_RESETHAND, &[]);
        let _ = raise(libc::SIGTERM);
        if COUNT.load(SeqCst) != 1 {
            return 1;
        }
        let _ = raise(libc::SIGTERM);
        2
    })?;
    check_eq!(wait(pid)?, End::Signal(libc::SIGTERM));
    Ok(())
}

fn restart() -> Outcome {
    handle(libc::SIGUSR1, note, libc::SA_RESTART, &[])?;
    let (r, w) = pipe(0)?;
    let (reader, id) = (gettid(), AtomicUsize::new(0));
    thread::scope(|s| {
        let t = s.spawn(|| {
            let slept = asleep(&id);
            let sent = sys!(libc::SYS_tgkill, std::process::id(), reader, libc::SIGUSR1);
            // The handler has run, and the read goes on.
            let again = until(|| COUNT.load(SeqCst) == 1 && sleeps(reader));
            (slept, sent, again, write(w, b"x"))
        });
        id.store(reader, SeqCst);
        let got = read(r, &mut [0; 4]);
        check_eq!(t.join().unwrap(), (true, Ok(0), true, Ok(1)));
        check_eq!(got, Ok(1));
        check_eq!(COUNT.load(SeqCst), 1);
        Ok(())
    })
}

fn no_restart() -> Outcome {
    handle(libc::SIGUSR1, note, 0, &[])?;
    let (r, _w) = pipe(0)?;
    check_eq!(signalled(libc::SIGUSR1, || read(r, &mut [0; 4])), Err(Errno(libc::EINTR)));
    check!(COUNT.load(SeqCst) > 0);
    Ok(())
}

static STACK_AT: AtomicUsize = AtomicUsize::new(0);

extern "C" fn where_am_i(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let here = 0u8;
    STACK_AT.store(std::hint::black_box(&raw const here) as usize, SeqCst);
}

fn set_altstack(m: &Map) -> Result<usize, Errno> {
    let ss = libc::stack_t { ss_sp: m.at as *mut libc::c_void, ss_flags: 0, ss_size: m.len };
    sys!(libc::SYS_sigaltstack, &raw const ss, 0)
}

fn altstack() -> Outcome {
    let m = Map::anon(64 * 1024)?;
    set_altstack(&m)?;
    handle(libc::SIGUSR1, where_am_i, libc::SA_ONSTACK, &[])?;
    raise(libc::SIGUSR1)?;
    let at = STACK_AT.load(SeqCst);
    check!(at >= m.at && at < m.at + m.len, "handler at {at:#x}, not on the stack");
    handle(libc::SIGUSR1, where_am_i, 0, &[])?;
    raise(libc::SIGUSR1)?;
    let at = STACK_AT.load(SeqCst);
    check!(at < m.at || at >= m.at + m.len);
    // The current setting reads back; a tiny one is refused.
    let mut old = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: 0, ss_size: 0 };
    sys!(libc::SYS_sigaltstack, 0, &raw mut old)?;
    check_eq!((old.ss_sp as usize, old.ss_size), (m.at, m.len));
    let tiny = Map { at: m.at, len: 128 };
    check_eq!(set_altstack(&tiny), Err(Errno(libc::ENOMEM)));
    Ok(())
}

fn stack_overflow_on_altstack() -> Outcome {
    extern "C" fn h(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: ends the process.
        unsafe { libc::_exit(44) };
    }
    #[allow(unconditional_recursion)] // Its purpose.
    fn deep(n: usize) -> usize {
        let page = std::hint::black_box([n as u8; 1024]);
        deep(n + 1) + page[n % 1024] as usize
    }
    let pid = fork(|| {
        let Ok(m) = Map::anon(64 * 1024) else { return 1 };
        let _ = set_altstack(&m);
        let _ = handle(libc::SIGSEGV, h, libc::SA_ONSTACK, &[]);
        deep(std::hint::black_box(0)) as i32
    })?;
    check_eq!(wait(pid)?, End::Exit(44));
    Ok(())
}

/// Runs a fault in a child whose handler checks code and address.
fn expect_fault(at: usize, write: bool, sig: i32, code: i32) -> Outcome {
    static WANT: AtomicUsize = AtomicUsize::new(0);
    static WANT_CODE: AtomicI32 = AtomicI32::new(0);
    extern "C" fn h(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: a fault's siginfo has the address.
        let (a, c) = unsafe { ((*info).si_addr() as usize, (*info).si_code) };
        let bad = if a != WANT.load(SeqCst) {
            61
        } else if c != WANT_CODE.load(SeqCst) {
            62
        } else {
            60
        };
        // SAFETY: ends the process.
        unsafe { libc::_exit(bad) };
    }
    let pid = fork(|| {
        WANT.store(at, SeqCst);
        WANT_CODE.store(code, SeqCst);
        let _ = handle(sig, h, 0, &[]);
        if write {
            poke(at, 1);
        } else {
            peek(at);
        }
        63
    })?;
    // 61: wrong address; 62: wrong code; 63: no fault.
    check_eq!(wait(pid)?, End::Exit(60));
    Ok(())
}

const MAPERR: i32 = 1;
const ACCERR: i32 = 2;

fn fault_maperr() -> Outcome {
    let m = Map::anon(3 * PAGE)?;
    sys!(libc::SYS_munmap, m.at + PAGE, PAGE)?;
    for at in [0, 8, m.at + PAGE, m.at + PAGE + 1234] {
        expect_fault(at, false, libc::SIGSEGV, MAPERR)?;
        expect_fault(at, true, libc::SIGSEGV, MAPERR)?;
    }
    Ok(())
}

fn fault_accerr() -> Outcome {
    let ro = Map::full(0, PAGE, libc::PROT_READ, crate::util::ANON, -1, 0)?;
    let none = Map::full(0, PAGE, libc::PROT_NONE, crate::util::ANON, -1, 0)?;
    expect_fault(ro.at + 5, true, libc::SIGSEGV, ACCERR)?;
    check_eq!(ro.get(5), 0);
    expect_fault(ro.at + 5, true, libc::SIGSEGV, ACCERR)?;
    expect_fault(none.at + 9, false, libc::SIGSEGV, ACCERR)?;
    expect_fault(none.at + 9, true, libc::SIGSEGV, ACCERR)?;
    Ok(())
}

fn fault_fixed_in_handler() -> Outcome {
    extern "C" fn h(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: a fault's siginfo has the address.
        let at = unsafe { (*info).si_addr() as usize } & !(PAGE - 1);
        COUNT.fetch_add(1, SeqCst);
        let _ = sys!(libc::SYS_mprotect, at, PAGE, crate::util::RW);
    }
    let m = Map::full(0, 64 * PAGE, libc::PROT_NONE, crate::util::ANON, -1, 0)?;
    handle(libc::SIGSEGV, h, 0, &[])?;
    for p in 0..64 {
        m.set(p * PAGE + p, p as u8);
    }
    for p in 0..64 {
        check_eq!(m.get(p * PAGE + p), p as u8);
    }
    check_eq!(COUNT.load(SeqCst), 64);
    Ok(())
}

fn fault_when_blocked_kills() -> Outcome {
    let pid = fork(|| {
        let _ = handle(libc::SIGSEGV, note, 0, &[]);
        mask(libc::SIG_BLOCK, &[libc::SIGSEGV]);
        i32::from(peek(16))
    })?;
    check_eq!(wait(pid)?, End::Signal(libc::SIGSEGV));
    let pid = fork(|| {
        disposition(libc::SIGSEGV, libc::SIG_IGN);
        i32::from(peek(16))
    })?;
    check_eq!(wait(pid)?, End::Signal(libc::SIGSEGV));
    Ok(())
}

fn bus_error_past_eof() -> Outcome {
    use std::os::fd::AsRawFd;
    let d = Dir::new("bus")?;
    std::fs::write(d.at("f"), vec![1u8; 100])?;
    let f = std::fs::File::open(d.at("f"))?;
    let m = Map::full(0, 3 * PAGE, libc::PROT_READ, libc::MAP_SHARED, f.as_raw_fd(), 0)?;
    check_eq!(m.get(99), 1);
    check_eq!(m.get(100), 0);
    check_eq!(m.get(PAGE - 1), 0);
    expect_fault(m.at + PAGE + 3, false, libc::SIGBUS, 2) // BUS_ADRERR
}

#[cfg(target_arch = "aarch64")]
fn undefined_instruction() -> Outcome {
    let pid = fork(|| {
        // SAFETY: raises SIGILL, which ends this child.
        unsafe { std::arch::asm!("udf #0") };
        0
    })?;
    check_eq!(wait(pid)?, End::Signal(libc::SIGILL));
    static PC: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn h(_: i32, info: *mut libc::siginfo_t, uc: *mut libc::c_void) {
        // SAFETY: the kernel's frame holds a ucontext.
        let uc = unsafe { &mut *uc.cast::<libc::ucontext_t>() };
        // SAFETY: valid siginfo of a fault.
        let (at, code) = unsafe { ((*info).si_addr() as usize, (*info).si_code) };
        CODE.store(code, SeqCst);
        PC.store(usize::from(at == uc.uc_mcontext.pc as usize), SeqCst);
        uc.uc_mcontext.pc += 4;
    }
    handle(libc::SIGILL, h, 0, &[])?;
    // SAFETY: the handler steps over it. An EL1 register, then udf.
    unsafe { std::arch::asm!("udf #7", "msr sctlr_el1, xzr") };
    check_eq!(PC.load(SeqCst), 1);
    check_eq!(CODE.load(SeqCst), 1); // ILL_ILLOPC
    Ok(())
}

#[cfg(target_arch = "aarch64")]
fn breakpoint() -> Outcome {
    extern "C" fn h(sig: i32, info: *mut libc::siginfo_t, uc: *mut libc::c_void) {
        // SAFETY: the kernel's frame holds a ucontext.
        let uc = unsafe { &mut *uc.cast::<libc::ucontext_t>() };
        // SAFETY: valid siginfo.
        CODE.store(unsafe { (*info).si_code }, SeqCst);
        SEEN.store(sig, SeqCst);
        uc.uc_mcontext.pc += 4;
    }
    handle(libc::SIGTRAP, h, 0, &[])?;
    // SAFETY: the handler steps over it.
    unsafe { std::arch::asm!("brk #1") };
    check_eq!(SEEN.load(SeqCst), libc::SIGTRAP);
    check_eq!(CODE.load(SeqCst), 1); // TRAP_BRKPT
    Ok(())
}

#[cfg(target_arch = "aarch64")]
fn edit_context() -> Outcome {
    extern "C" fn h(_: i32, info: *mut libc::siginfo_t, uc: *mut libc::c_void) {
        // SAFETY: the kernel's frame holds a ucontext.
        let uc = unsafe { &mut *uc.cast::<libc::ucontext_t>() };
        // SAFETY: valid siginfo of a fault.
        ADDR.store(unsafe { (*info).si_addr() } as usize, SeqCst);
        SEEN.store(i32::from(uc.uc_mcontext.fault_address == 0x128), SeqCst);
        uc.uc_mcontext.regs[3] = 0x1234_5678_9abc;
        uc.uc_mcontext.pc += 4;
    }
    handle(libc::SIGSEGV, h, 0, &[])?;
    let mut got: u64 = 0;
    // SAFETY: the load faults; the handler puts a value into x3 and steps on.
    unsafe {
        std::arch::asm!("ldr x3, [{at}]", at = in(reg) 0x128u64, inout("x3") got);
    }
    check_eq!(got, 0x1234_5678_9abc);
    check_eq!(ADDR.load(SeqCst), 0x128);
    check_eq!(SEEN.load(SeqCst), 1);
    Ok(())
}

/// A storm of SIGALRM while general registers and flags hold a pattern.
#[cfg(target_arch = "aarch64")]
fn registers_survive() -> Outcome {
    extern "C" fn h(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        COUNT.fetch_add(1, SeqCst);
        // SAFETY: spoils what a handler may spoil.
        unsafe {
            std::arch::asm!(
                "mov x0, #-1", "mov x5, #-1", "mov x9, #-1", "mov x16, #-1", "mov x17, #-1",
                "cmp x0, #0",
                out("x0") _, out("x5") _, out("x9") _, out("x16") _, out("x17") _,
            );
        }
    }
    handle(libc::SIGALRM, h, 0, &[])?;
    set_itimer(1000, 1000)?;
    let start = Instant::now();
    let mut rounds = 0u64;
    while start.elapsed() < Duration::from_millis(400) || COUNT.load(SeqCst) < 20 {
        let bad: u64;
        // SAFETY: only registers, all named.
        unsafe {
            std::arch::asm!(
                "mov x0, #0x100", "mov x1, #0x101", "mov x2, #0x102", "mov x3, #0x103",
                "mov x4, #0x104", "mov x5, #0x105", "mov x6, #0x106", "mov x7, #0x107",
                "mov x8, #0x108", "mov x9, #0x109", "mov x10, #0x10a", "mov x11, #0x10b",
                "mov x12, #0x10c", "mov x13, #0x10d", "mov x14, #0x10e", "mov x15, #0x10f",
                "mov x16, #0x110", "mov x17, #0x111", "mov x20, #0x114", "mov x21, #0x115",
                "mov x22, #0x116", "mov x23, #0x117", "mov x24, #0x118", "mov x25, #0x119",
                "mov x26, #0x11a", "mov x27, #0x11b", "mov x28, #0x11c",
                // Sets N and V, clears Z and C, and expects them at the end.
                "mov x30, #20000",
                "movz x28, #0x9000, lsl #16",
                "msr nzcv, x28",
                "2: sub x30, x30, #1",
                "cbnz x30, 2b",
                "mrs x30, nzcv",
                "eor x28, x28, x30",
                "sub x0, x0, #0x100", "orr x28, x28, x0", "sub x1, x1, #0x101", "orr x28, x28, x1",
                "sub x2, x2, #0x102", "orr x28, x28, x2", "sub x3, x3, #0x103", "orr x28, x28, x3",
                "sub x4, x4, #0x104", "orr x28, x28, x4", "sub x5, x5, #0x105", "orr x28, x28, x5",
                "sub x6, x6, #0x106", "orr x28, x28, x6", "sub x7, x7, #0x107", "orr x28, x28, x7",
                "sub x8, x8, #0x108", "orr x28, x28, x8", "sub x9, x9, #0x109", "orr x28, x28, x9",
                "sub x10, x10, #0x10a", "orr x28, x28, x10", "sub x11, x11, #0x10b", "orr x28, x28, x11",
                "sub x12, x12, #0x10c", "orr x28, x28, x12", "sub x13, x13, #0x10d", "orr x28, x28, x13",
                "sub x14, x14, #0x10e", "orr x28, x28, x14", "sub x15, x15, #0x10f", "orr x28, x28, x15",
                "sub x16, x16, #0x110", "orr x28, x28, x16", "sub x17, x17, #0x111", "orr x28, x28, x17",
                "sub x20, x20, #0x114", "orr x28, x28, x20", "sub x21, x21, #0x115", "orr x28, x28, x21",
                "sub x22, x22, #0x116", "orr x28, x28, x22", "sub x23, x23, #0x117", "orr x28, x28, x23",
                "sub x24, x24, #0x118", "orr x28, x28, x24", "sub x25, x25, #0x119", "orr x28, x28, x25",
                "sub x26, x26, #0x11a", "orr x28, x28, x26", "sub x27, x27, #0x11b", "orr x28, x28, x27",
                out("x0") _, out("x1") _, out("x2") _, out("x3") _, out("x4") _, out("x5") _,
                out("x6") _, out("x7") _, out("x8") _, out("x9") _, out("x10") _, out("x11") _,
                out("x12") _, out("x13") _, out("x14") _, out("x15") _, out("x16") _, out("x17") _,
                out("x20") _, out("x21") _, out("x22") _, out("x23") _, out("x24") _, out("x25") _,
                out("x26") _, out("x27") _, out("x28") bad, out("x30") _,
            );
        }
        check!(bad == 0, "round {rounds}: differing bits {bad:#x}");
        rounds += 1;
    }
    set_itimer(0, 0)?;
    Ok(())
}

#[cfg(not(target_arch = "aarch64"))]
use other_arch::{breakpoint, edit_context, registers_survive, undefined_instruction};

/// Written for arm64; elsewhere (the developer's own machine) they do nothing.
#[cfg(not(target_arch = "aarch64"))]
mod other_arch {
    use el0_tests::Outcome;
    pub fn undefined_instruction() -> Outcome {
        Ok(())
    }
    pub fn breakpoint() -> Outcome {
        Ok(())
    }
    pub fn edit_context() -> Outcome {
        Ok(())
    }
    pub fn registers_survive() -> Outcome {
        Ok(())
    }
}

/// Starts (or with zeros stops) ITIMER_REAL, in microseconds.
pub fn set_itimer(first: i64, every: i64) -> Result<(), Errno> {
    let t = [0, every, 0, first];
    sys!(libc::SYS_setitimer, libc::ITIMER_REAL, t.as_ptr(), 0).map(|_| ())
}

/// A repeated alarm goes on when its signal is taken, not before: blocked or
/// ignored it rests.
fn itimer_waits() -> Outcome {
    let left = || {
        let mut now = [0i64; 4];
        sys!(libc::SYS_getitimer, libc::ITIMER_REAL, now.as_mut_ptr())?;
        Ok::<_, Errno>((now[1], now[2] + now[3]))
    };
    mask(libc::SIG_BLOCK, &[libc::SIGALRM]);
    // A long interval: else a late machine finds the next alarm gone off, too.
    set_itimer(5_000, 900_000)?;
    check!(until(|| left() == Ok((900_000, 0))), "left {:?}", left());
    ms(1000);
    check_eq!(left()?, (900_000, 0));
    check_eq!(timed_wait(&[libc::SIGALRM], 1000).0, Ok(libc::SIGALRM as usize));
    // Or it has gone off again already.
    check!(left()?.1 != 0 || has(&pending(), libc::SIGALRM), "the alarm doesn't go on");
    Ok(())
}

fn itimer_real() -> Outcome {
    handle(libc::SIGALRM, note, 0, &[])?;
    let start = Instant::now();
    set_itimer(20_000, 10_000)?;
    check!(until(|| COUNT.load(SeqCst) >= 10), "{} signals", COUNT.load(SeqCst));
    let took = start.elapsed();
    check!(took >= Duration::from_millis(105), "10 signals in {took:?}");
    let mut left = [0i64; 4];
    sys!(libc::SYS_getitimer, libc::ITIMER_REAL, left.as_mut_ptr())?;
    check_eq!(left[1], 10_000);
    check!(left[2] == 0 && left[3] <= 10_000, "left {left:?}");
    set_itimer(0, 0)?;
    let n = COUNT.load(SeqCst);
    ms(40);
    check!(COUNT.load(SeqCst) <= n + 1);
    Ok(())
}

fn alarm() -> Outcome {
    let start = Instant::now();
    let pid = fork(|| {
        // SAFETY: no memory involved.
        unsafe { libc::alarm(1) };
        ms(20_000);
        0
    })?;
    check_eq!(wait(pid)?, End::Signal(libc::SIGALRM));
    check!(start.elapsed() >= Duration::from_millis(900));
    Ok(())
}

fn timed_wait(sigs: &[i32], msec: i64) -> (Result<usize, Errno>, libc::siginfo_t) {
    let set = sigset(sigs);
    // SAFETY: plain data.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let t = libc::timespec { tv_sec: msec / 1000, tv_nsec: (msec % 1000) * 1_000_000 };
    let r = sys!(libc::SYS_rt_sigtimedwait, &raw const set, &raw mut info, &raw const t, 8);
    (r, info)
}

fn sigtimedwait() -> Outcome {
    mask(libc::SIG_BLOCK, &[libc::SIGUSR1, libc::SIGUSR2, libc::SIGCHLD]);
    kill_self(libc::SIGUSR2)?;
    let (r, info) = timed_wait(&[libc::SIGUSR1, libc::SIGUSR2], 2000);
    check_eq!(r, Ok(libc::SIGUSR2 as usize));
    check_eq!(info.si_signo, libc::SIGUSR2);
    // SAFETY: sent by kill.
    check_eq!(unsafe { info.si_pid() } as u32, std::process::id());
    check!(!has(&pending(), libc::SIGUSR2));
    // And one that comes while it waits.
    let pid = fork(|| {
        ms(40);
        3
    })?;
    let (r, info) = timed_wait(&[libc::SIGCHLD], 5000);
    check_eq!(r, Ok(libc::SIGCHLD as usize));
    // SAFETY: a SIGCHLD.
    check_eq!(unsafe { (info.si_pid(), info.si_status()) }, (pid, 3));
    check_eq!(wait(pid)?, End::Exit(3));
    Ok(())
}

fn sigtimedwait_timeout() -> Outcome {
    mask(libc::SIG_BLOCK, &[libc::SIGUSR1]);
    let start = Instant::now();
    check_eq!(timed_wait(&[libc::SIGUSR1], 50).0, Err(Errno(libc::EAGAIN)));
    check!(start.elapsed() >= Duration::from_millis(50));
    check_eq!(timed_wait(&[libc::SIGUSR1], 0).0, Err(Errno(libc::EAGAIN)));
    Ok(())
}

/// A child that sends a signal to this process, again and again until the word is set:
/// the first may come before the call that it is to interrupt.
fn signal_later(sig: i32, taken: &'static AtomicUsize) -> Result<i32, Errno> {
    let parent = std::process::id();
    fork(move || {
        while taken.load(SeqCst) == 0 {
            ms(60);
            let _ = sys!(libc::SYS_kill, parent, sig);
        }
        0
    })
}

fn pause() -> Outcome {
    handle(libc::SIGUSR1, note, libc::SA_RESTART, &[])?;
    let m = Map::shared(PAGE)?;
    let pid = signal_later(libc::SIGUSR1, m.word(0))?;
    // SAFETY: no memory involved. Never restarted, whatever the flags.
    let r = el0_tests::check_ret(unsafe { libc::pause() } as isize);
    check_eq!(r, Err(Errno(libc::EINTR)));
    check!(COUNT.load(SeqCst) > 0);
    m.word(0).store(1, SeqCst);
    wait(pid)?;
    Ok(())
}

fn sigsuspend() -> Outcome {
    handle(libc::SIGUSR1, note, 0, &[])?;
    mask(libc::SIG_BLOCK, &[libc::SIGUSR1]);
    kill_self(libc::SIGUSR1)?;
    let none = sigset(&[]);
    // Pending already: it must not sleep.
    let r = sys!(libc::SYS_rt_sigsuspend, &raw const none, 8);
    check_eq!(r, Err(Errno(libc::EINTR)));
    check_eq!(COUNT.load(SeqCst), 1);
    // The old mask is back.
    check!(has(&mask(libc::SIG_BLOCK, &[]), libc::SIGUSR1));
    let m = Map::shared(PAGE)?;
    let pid = signal_later(libc::SIGUSR1, m.word(0))?;
    let r = sys!(libc::SYS_rt_sigsuspend, &raw const none, 8);
    check_eq!(r, Err(Errno(libc::EINTR)));
    // One: what came since is blocked again.
    check_eq!(COUNT.load(SeqCst), 2);
    m.word(0).store(1, SeqCst);
    wait(pid)?;
    Ok(())
}

fn ppoll_mask() -> Outcome {
    handle(libc::SIGUSR1, note, 0, &[])?;
    mask(libc::SIG_BLOCK, &[libc::SIGUSR1]);
    kill_self(libc::SIGUSR1)?;
    let none = sigset(&[]);
    let t = libc::timespec { tv_sec: 5, tv_nsec: 0 };
    let start = Instant::now();
    let r = sys!(libc::SYS_ppoll, 0, 0, &raw const t, &raw const none, 8);
    check_eq!(r, Err(Errno(libc::EINTR)));
    check_eq!(COUNT.load(SeqCst), 1);
    check!(start.elapsed() < Duration::from_secs(4));
    check!(has(&mask(libc::SIG_BLOCK, &[]), libc::SIGUSR1));
    Ok(())
}

static IN_THREAD: AtomicUsize = AtomicUsize::new(0);
extern "C" fn who(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    IN_THREAD.store(gettid(), SeqCst);
    COUNT.fetch_add(1, SeqCst);
}

fn to_one_thread() -> Outcome {
    handle(libc::SIGUSR1, who, libc::SA_RESTART, &[])?;
    let ids: Vec<AtomicUsize> = (0..4).map(|_| AtomicUsize::new(0)).collect();
    let stop = AtomicUsize::new(0);
    thread::scope(|s| {
        for id in &ids {
            let stop = &stop;
            s.spawn(move || {
                id.store(gettid(), SeqCst);
                while stop.load(SeqCst) == 0 {
                    ms(1);
                }
            });
        }
        let check_each = || {
            check!(until(|| ids.iter().all(|i| i.load(SeqCst) != 0)));
            for (n, id) in ids.iter().enumerate() {
                let id = id.load(SeqCst);
                sys!(libc::SYS_tgkill, std::process::id(), id, libc::SIGUSR1)?;
                check!(until(|| COUNT.load(SeqCst) == n + 1));
                check_eq!(IN_THREAD.load(SeqCst), id);
            }
            Ok(())
        };
        let r = check_each();
        stop.store(1, SeqCst);
        r
    })
}

fn to_any_unblocked_thread() -> Outcome {
    handle(libc::SIGUSR1, who, libc::SA_RESTART, &[])?;
    mask(libc::SIG_BLOCK, &[libc::SIGUSR1]);
    let id = AtomicUsize::new(0);
    let stop = AtomicUsize::new(0);
    thread::scope(|s| {
        // Inherits the block.
        s.spawn(|| {
            while stop.load(SeqCst) == 0 {
                ms(1);
            }
        });
        s.spawn(|| {
            mask(libc::SIG_UNBLOCK, &[libc::SIGUSR1]);
            id.store(gettid(), SeqCst);
            while stop.load(SeqCst) == 0 {
                ms(1);
            }
        });
        let go = || {
            check!(until(|| id.load(SeqCst) != 0));
            kill_self(libc::SIGUSR1)?;
            check!(until(|| COUNT.load(SeqCst) == 1));
            check_eq!(IN_THREAD.load(SeqCst), id.load(SeqCst));
            Ok(())
        };
        let r = go();
        stop.store(1, SeqCst);
        r
    })
}

/// A signal for the process comes while the thread that is to take it ends.
fn passed_on_at_exit() -> Outcome {
    handle(libc::SIGUSR1, who, libc::SA_RESTART, &[])?;
    mask(libc::SIG_BLOCK, &[libc::SIGUSR1]);
    for round in 1..=200 {
        let (ready, go) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|s| {
            // The older of the two is asked first.
            s.spawn(|| {
                mask(libc::SIG_UNBLOCK, &[libc::SIGUSR1]);
                ready.fetch_add(1, SeqCst);
                while go.load(SeqCst) == 0 {
                    std::hint::spin_loop();
                }
            });
            s.spawn(|| {
                mask(libc::SIG_UNBLOCK, &[libc::SIGUSR1]);
                ready.fetch_add(1, SeqCst);
                while go.load(SeqCst) < 2 {
                    ms(1);
                }
            });
            let come = until(|| ready.load(SeqCst) == 2);
            go.store(1, SeqCst);
            let sent = kill_self(libc::SIGUSR1);
            let come = come && until(|| COUNT.load(SeqCst) == round);
            go.store(2, SeqCst);
            check!(come && sent.is_ok(), "lost in round {round}");
            Ok(())
        })?;
    }
    Ok(())
}

/// Waits as vfork() does, where no signal but SIGKILL ends it, until `done`.
fn wait_in_vfork(begun: &AtomicUsize, done: &AtomicUsize) {
    // The child has its own memory, but for what is shared.
    if sys!(libc::SYS_clone, libc::CLONE_VFORK | libc::SIGCHLD, 0, 0, 0, 0) == Ok(0) {
        begun.store(1, SeqCst);
        until(|| done.load(SeqCst) != 0);
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
}

/// The one who is to take two signals blocks one in the other's handler.
fn passed_on_in_handler() -> Outcome {
    static FOUND: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn first(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        FOUND.store(1 + usize::from(until(|| COUNT.load(SeqCst) == 1)), SeqCst);
    }
    handle(libc::SIGUSR1, first, libc::SA_RESTART, &[libc::SIGUSR2])?;
    handle(libc::SIGUSR2, who, libc::SA_RESTART, &[])?;
    let both = [libc::SIGUSR1, libc::SIGUSR2];
    mask(libc::SIG_BLOCK, &both);
    let m = Map::shared(PAGE)?;
    thread::scope(|s| {
        s.spawn(|| {
            mask(libc::SIG_UNBLOCK, &both);
            wait_in_vfork(m.word(0), m.word(8));
        });
        check!(until(|| m.word(0).load(SeqCst) == 1));
        s.spawn(|| {
            mask(libc::SIG_UNBLOCK, &both);
            m.word(16).store(1, SeqCst);
            until(|| FOUND.load(SeqCst) != 0);
        });
        check!(until(|| m.word(16).load(SeqCst) == 1));
        kill_self(libc::SIGUSR1)?;
        kill_self(libc::SIGUSR2)?;
        m.word(8).store(1, SeqCst);
        check!(until(|| FOUND.load(SeqCst) != 0));
        check_eq!(FOUND.load(SeqCst), 2);
        Ok(())
    })
}

/// The one who is to take a signal ends because another calls execve().
fn passed_on_at_exec() -> Outcome {
    let m = Map::shared(PAGE)?;
    let pid = fork(|| {
        mask(libc::SIG_BLOCK, &[libc::SIGUSR1]);
        thread::spawn(move || {
            mask(libc::SIG_UNBLOCK, &[libc::SIGUSR1]);
            wait_in_vfork(m.word(0), m.word(8));
        });
        until(|| m.word(0).load(SeqCst) == 1);
        thread::spawn(move || {
            mask(libc::SIG_UNBLOCK, &[libc::SIGUSR1]);
            m.word(16).store(1, SeqCst);
            until(|| m.word(24).load(SeqCst) == 1);
            let me = crate::util::c(std::env::current_exe().unwrap().to_str().unwrap());
            let args = [
                me.as_ptr(),
                c"--helper".as_ptr(),
                c"exit".as_ptr(),
                c"7".as_ptr(),
                std::ptr::null(),
            ];
            let environment = [std::ptr::null::<libc::c_char>()];
            let _ = sys!(libc::SYS_execve, me.as_ptr(), args.as_ptr(), environment.as_ptr());
        });
        until(|| m.word(16).load(SeqCst) == 1);
        let _ = kill_self(libc::SIGUSR1);
        m.word(24).store(1, SeqCst);
        ms(5000);
        0
    })?;
    let end = wait(pid)?;
    m.word(8).store(1, SeqCst);
    check_eq!(end, End::Signal(libc::SIGUSR1));
    Ok(())
}

/// Who waits for a blocked signal gets one that is sent to all of his group.
fn group_kill_reaches_waiters() -> Outcome {
    mask(libc::SIG_BLOCK, &[libc::SIGUSR1]);
    let set = sigset(&[libc::SIGUSR1]);
    let m = Map::shared(PAGE)?;
    let mut children = Vec::new();
    for n in 0..60 {
        children.push(fork(|| {
            let group = m.word(8).load(SeqCst);
            let fd = sys!(libc::SYS_signalfd4, -1isize, &raw const set, 8, 0).unwrap_or(0) as i32;
            let joined = sys!(libc::SYS_setpgid, 0, group).is_ok();
            m.word(0).fetch_add(1, SeqCst);
            let got = match n % 2 {
                0 => timed_wait(&[libc::SIGUSR1], 20_000).0 == Ok(libc::SIGUSR1 as usize),
                _ => read(fd, &mut [0; 128]) == Ok(128),
            };
            i32::from(!(joined && got))
        })?);
        if n == 0 {
            check!(until(|| m.word(0).load(SeqCst) == 1));
            m.word(8).store(children[0] as usize, SeqCst);
        }
    }
    check!(until(|| m.word(0).load(SeqCst) == 60));
    check!(until(|| children.iter().all(|pid| sleeps(*pid as usize))));
    sys!(libc::SYS_kill, -children[0], libc::SIGUSR1)?;
    for pid in children {
        check_eq!(wait(pid)?, End::Exit(0));
    }
    Ok(())
}

fn wait_opts(pid: i32, opts: i32) -> Result<(usize, End), Errno> {
    let mut status = 0;
    let r = sys!(libc::SYS_wait4, pid, &raw mut status, opts, 0)?;
    Ok((r, End::of(status)))
}

fn stop_and_continue() -> Outcome {
    let m = Map::shared(PAGE)?;
    let pid = fork(|| {
        loop {
            m.word(0).fetch_add(1, SeqCst);
            std::hint::spin_loop();
        }
    })?;
    check!(until(|| m.word(0).load(SeqCst) > 0));
    sys!(libc::SYS_kill, pid, libc::SIGSTOP)?;
    check_eq!(wait_opts(pid, libc::WUNTRACED)?, (pid as usize, End::Stopped(libc::SIGSTOP)));
    let a = m.word(0).load(SeqCst);
    ms(50);
    check_eq!(m.word(0).load(SeqCst), a);
    check_eq!(wait_opts(pid, libc::WUNTRACED | libc::WNOHANG)?.0, 0);
    sys!(libc::SYS_kill, pid, libc::SIGCONT)?;
    check_eq!(wait_opts(pid, libc::WCONTINUED)?, (pid as usize, End::Continued));
    check!(until(|| m.word(0).load(SeqCst) > a));
    // A stopped process still dies of SIGKILL.
    sys!(libc::SYS_kill, pid, libc::SIGSTOP)?;
    wait_opts(pid, libc::WUNTRACED)?;
    sys!(libc::SYS_kill, pid, libc::SIGKILL)?;
    check_eq!(wait(pid)?, End::Signal(libc::SIGKILL));
    Ok(())
}

fn stop_is_told_when_all_threads_stand() -> Outcome {
    const THREADS: usize = 4;
    let m = Map::shared(PAGE)?;
    let counts = || std::array::from_fn::<_, THREADS, _>(|i| m.word(i * 64).load(SeqCst));
    let pid = fork(|| {
        thread::scope(|s| {
            for i in 0..THREADS {
                s.spawn(move || {
                    // For ever.
                    while m.word(i * 64).fetch_add(1, SeqCst) < usize::MAX {}
                });
            }
        });
        0
    })?;
    for round in 0..40 {
        let before = counts();
        check!(until(|| counts().iter().zip(&before).all(|(now, then)| now > then)));
        sys!(libc::SYS_kill, pid, libc::SIGSTOP)?;
        check_eq!(wait_opts(pid, libc::WUNTRACED)?, (pid as usize, End::Stopped(libc::SIGSTOP)));
        let told = counts();
        ms(3);
        check!(counts() == told, "round {round}: {told:?}, then {:?}", counts());
        sys!(libc::SYS_kill, pid, libc::SIGCONT)?;
        check_eq!(wait_opts(pid, libc::WCONTINUED)?, (pid as usize, End::Continued));
    }
    sys!(libc::SYS_kill, pid, libc::SIGKILL)?;
    check_eq!(wait(pid)?, End::Signal(libc::SIGKILL));
    Ok(())
}

/// A stop that nobody has waited for is no news any more once SIGKILL has come.
fn stop_of_the_killed_is_not_told() -> Outcome {
    for _ in 0..10 {
        let pid = fork(|| {
            loop {
                ms(1000);
            }
        })?;
        sys!(libc::SYS_kill, pid, libc::SIGSTOP)?;
        let look = libc::WSTOPPED | libc::WNOWAIT;
        sys!(libc::SYS_waitid, libc::P_PID, pid, 0, look, 0)?;
        sys!(libc::SYS_kill, pid, libc::SIGKILL)?;
        check_eq!(wait_opts(pid, libc::WUNTRACED)?, (pid as usize, End::Signal(libc::SIGKILL)));
    }
    Ok(())
}

fn default_actions() -> Outcome {
    let fatal = [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGILL,
        libc::SIGABRT,
        libc::SIGFPE,
        libc::SIGKILL,
        libc::SIGUSR1,
        libc::SIGSEGV,
        libc::SIGUSR2,
        libc::SIGPIPE,
        libc::SIGALRM,
        libc::SIGTERM,
        libc::SIGXCPU,
        libc::SIGSYS,
        40,
    ];
    for sig in fatal {
        let pid = fork(|| {
            disposition(sig, libc::SIG_DFL);
            let _ = kill_self(sig);
            0
        })?;
        check_eq!(wait(pid)?, End::Signal(sig));
    }
    for sig in [libc::SIGCHLD, libc::SIGURG, libc::SIGWINCH, libc::SIGCONT] {
        let pid = fork(|| {
            disposition(sig, libc::SIG_DFL);
            let _ = kill_self(sig);
            4
        })?;
        check_eq!(wait(pid)?, End::Exit(4));
    }
    Ok(())
}

fn sigchld() -> Outcome {
    handle(libc::SIGCHLD, note, libc::SA_RESTART, &[])?;
    let pid = fork(|| 6)?;
    check_eq!(wait(pid)?, End::Exit(6));
    check!(until(|| COUNT.load(SeqCst) == 1));
    check_eq!(SEEN.load(SeqCst), libc::SIGCHLD);
    check_eq!(CODE.load(SeqCst), libc::CLD_EXITED);
    check_eq!(WORD.load(SeqCst), pid as usize);
    let pid = fork(|| {
        let _ = kill_self(libc::SIGKILL);
        0
    })?;
    check_eq!(wait(pid)?, End::Signal(libc::SIGKILL));
    check!(until(|| COUNT.load(SeqCst) == 2));
    check_eq!(CODE.load(SeqCst), libc::CLD_KILLED);
    Ok(())
}

fn ignored_sigchld_reaps() -> Outcome {
    disposition(libc::SIGCHLD, libc::SIG_IGN);
    let pid = fork(|| 6)?;
    check_eq!(wait(pid), Err(Errno(libc::ECHILD)));
    check_eq!(sys!(libc::SYS_kill, pid, 0), Err(Errno(libc::ESRCH)));
    Ok(())
}

fn sigpipe() -> Outcome {
    let (r, w) = pipe(0)?;
    close(r);
    let pid = fork(|| {
        disposition(libc::SIGPIPE, libc::SIG_DFL);
        let _ = write(w, b"x");
        0
    })?;
    check_eq!(wait(pid)?, End::Signal(libc::SIGPIPE));
    disposition(libc::SIGPIPE, libc::SIG_IGN);
    check_eq!(write(w, b"x"), Err(Errno(libc::EPIPE)));
    handle(libc::SIGPIPE, note, 0, &[])?;
    check_eq!(write(w, b"x"), Err(Errno(libc::EPIPE)));
    check_eq!(COUNT.load(SeqCst), 1);
    Ok(())
}

fn kill_errors() -> Outcome {
    let me = std::process::id();
    check_eq!(sys!(libc::SYS_kill, me, 0), Ok(0));
    check_eq!(sys!(libc::SYS_kill, me, 65), Err(Errno(libc::EINVAL)));
    check_eq!(sys!(libc::SYS_kill, me, -1isize), Err(Errno(libc::EINVAL)));
    check_eq!(sys!(libc::SYS_kill, 0x3fff_ffff, 0), Err(Errno(libc::ESRCH)));
    check_eq!(sys!(libc::SYS_tgkill, me, 0x3fff_ffff, 0), Err(Errno(libc::ESRCH)));
    check_eq!(sys!(libc::SYS_tgkill, me, 0, 0), Err(Errno(libc::EINVAL)));
    let r = handle(libc::SIGKILL, note, 0, &[]);
    check_eq!(r, Err(Errno(libc::EINVAL)));
    let set = sigset(&[]);
    let r = sys!(libc::SYS_rt_sigprocmask, 0, &raw const set, 0, 4);
    check_eq!(r, Err(Errno(libc::EINVAL)));
    check_eq!(sys!(libc::SYS_rt_sigprocmask, 77, &raw const set, 0, 8), Err(Errno(libc::EINVAL)));
    Ok(())
}

/// kill() takes a thread's ID, too, for its process.
fn kill_by_thread() -> Outcome {
    handle(libc::SIGUSR1, who, 0, &[])?;
    let (id, stop) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|s| {
        s.spawn(|| {
            mask(libc::SIG_BLOCK, &[libc::SIGUSR1]);
            id.store(gettid(), SeqCst);
            until(|| stop.load(SeqCst) == 1);
        });
        check!(until(|| id.load(SeqCst) != 0));
        let sent = sys!(libc::SYS_kill, id.load(SeqCst), libc::SIGUSR1);
        let taken = until(|| COUNT.load(SeqCst) == 1);
        stop.store(1, SeqCst);
        check_eq!(sent, Ok(0));
        check!(taken);
        check_eq!(IN_THREAD.load(SeqCst), std::process::id() as usize);
        Ok(())
    })
}

/// A group with members that stand still loses the last parent who could let
/// them go on: it gets SIGHUP and SIGCONT.
fn orphaned_group() -> Outcome {
    extern "C" fn hang_up(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        let _ = write(WORD.load(SeqCst) as i32, b"h");
        // SAFETY: ends the process.
        unsafe { libc::_exit(0) };
    }
    let (r, w) = pipe(0)?;
    WORD.store(w as usize, SeqCst);
    let parent = fork(|| {
        let child = fork(|| {
            let _ = handle(libc::SIGHUP, hang_up, 0, &[]);
            let _ = sys!(libc::SYS_setpgid, 0, 0);
            let _ = kill_self(libc::SIGSTOP);
            let _ = write(w, b"c");
            0
        });
        let stopped = child.and_then(|pid| wait_opts(pid, libc::WUNTRACED));
        i32::from(!stopped.is_ok_and(|(_, end)| end == End::Stopped(libc::SIGSTOP)))
    })?;
    close(w);
    check_eq!(wait(parent)?, End::Exit(0));
    let mut polls = [libc::pollfd { fd: r, events: libc::POLLIN, revents: 0 }];
    let t = [5i64, 0];
    check_eq!(sys!(libc::SYS_ppoll, polls.as_mut_ptr(), 1, t.as_ptr(), 0, 8), Ok(1));
    let mut text = [0u8; 2];
    check_eq!(read(r, &mut text), Ok(1));
    check_eq!(text[0], b'h');
    Ok(())
}

fn inherited_by_fork() -> Outcome {
    handle(libc::SIGUSR1, note, 0, &[])?;
    mask(libc::SIG_BLOCK, &[libc::SIGUSR2]);
    kill_self(libc::SIGUSR2)?;
    let pid = fork(|| {
        // Handlers and mask are inherited, pending signals aren't.
        let _ = raise(libc::SIGUSR1);
        let m = mask(libc::SIG_BLOCK, &[]);
        let good =
            COUNT.load(SeqCst) == 1 && has(&m, libc::SIGUSR2) && !has(&pending(), libc::SIGUSR2);
        i32::from(!good)
    })?;
    check_eq!(wait(pid)?, End::Exit(0));
    Ok(())
}

fn during_many_syscalls() -> Outcome {
    handle(libc::SIGALRM, note, libc::SA_RESTART, &[])?;
    set_itimer(500, 500)?;
    let (r, w) = pipe(0)?;
    let start = Instant::now();
    let mut n = 0u32;
    while start.elapsed() < Duration::from_millis(500) || COUNT.load(SeqCst) < 20 {
        let out = n.to_le_bytes();
        check_eq!(write(w, &out), Ok(4));
        let mut b = [0u8; 4];
        check_eq!(read(r, &mut b), Ok(4));
        check_eq!(u32::from_le_bytes(b), n);
        n += 1;
    }
    set_itimer(0, 0)?;
    Ok(())
}

fn interrupted_sleep() -> Outcome {
    handle(libc::SIGUSR1, note, libc::SA_RESTART, &[])?;
    let m = Map::shared(PAGE)?;
    let pid = signal_later(libc::SIGUSR1, m.word(0))?;
    let want = libc::timespec { tv_sec: 10, tv_nsec: 0 };
    let mut left = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let start = Instant::now();
    let r = sys!(libc::SYS_nanosleep, &raw const want, &raw mut left);
    let took = start.elapsed();
    m.word(0).store(1, SeqCst);
    check_eq!(r, Err(Errno(libc::EINTR)));
    check!(COUNT.load(SeqCst) > 0);
    let left = Duration::new(left.tv_sec as u64, left.tv_nsec as u32);
    let whole = Duration::from_secs(10);
    check!(left < whole && left + took >= whole, "left {left:?} after {took:?}");
    wait(pid)?;
    // A stop and continue without a handler is not an interruption.
    let pid = fork(|| {
        let (start, want) = (Instant::now(), [0i64, 300_000_000]);
        m.word(8).store(1, SeqCst);
        let slept = sys!(libc::SYS_nanosleep, want.as_ptr(), 0);
        i32::from(slept != Ok(0) || start.elapsed() < Duration::from_millis(300))
    })?;
    check!(until(|| m.word(8).load(SeqCst) == 1 && sleeps(pid as usize)));
    sys!(libc::SYS_kill, pid, libc::SIGSTOP)?;
    check_eq!(wait_opts(pid, libc::WUNTRACED)?, (pid as usize, End::Stopped(libc::SIGSTOP)));
    sys!(libc::SYS_kill, pid, libc::SIGCONT)?;
    check_eq!(wait(pid)?, End::Exit(0));
    Ok(())
}

fn handler_longs_return() -> Outcome {
    // A handler that itself sleeps and does I/O, then returns to a sleeper.
    extern "C" fn h(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        ms(10);
        if let Ok((r, w)) = pipe(0) {
            let _ = write(w, b"abc");
            let mut b = [0u8; 3];
            if read(r, &mut b) == Ok(3) && &b == b"abc" {
                COUNT.fetch_add(1, SeqCst);
            }
            close(r);
            close(w);
        }
    }
    handle(libc::SIGUSR1, h, libc::SA_RESTART, &[])?;
    for i in 0..20 {
        raise(libc::SIGUSR1)?;
        check_eq!(COUNT.load(SeqCst), i + 1);
    }
    Ok(())
}
