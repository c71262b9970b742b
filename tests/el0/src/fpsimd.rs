//! FP and SIMD state: kept over system calls, signals, faults, switches, fork
//! and threads.

#[cfg(target_arch = "aarch64")]
pub use arm64::CASES;
#[cfg(not(target_arch = "aarch64"))]
pub const CASES: &[el0_tests::Case] = &[];

#[cfg(target_arch = "aarch64")]
mod arm64 {
    use crate::util::{Map, PAGE, gettid, handle};
    use el0_tests::{End, Outcome, cases, check, check_eq, fork, wait};
    use std::arch::asm;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::thread;
    use std::time::{Duration, Instant};

    cases!("fpsimd";
        over_system_calls, over_signals, handler_sees_and_edits, over_switches, over_faults,
        over_fork, control_registers,
    );

    type Regs = [u128; 32];

    fn pattern(seed: usize) -> Regs {
        let k = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835u128;
        std::array::from_fn(|i| k.wrapping_mul((seed * 32 + i + 1) as u128))
    }

    /// Loads all 32 registers, runs the instructions, and stores them again.
    macro_rules! with_regs {
        ($regs:expr, [$($code:literal),*] $(, $($ops:tt)*)?) => {{
            let p: *mut Regs = $regs;
            // SAFETY: loads from and stores to the array; every register that
            // changes is named.
            unsafe {
                asm!(
                    "ldp q0, q1, [x20, #0]",
                    "ldp q2, q3, [x20, #32]",
                    "ldp q4, q5, [x20, #64]",
                    "ldp q6, q7, [x20, #96]",
                    "ldp q8, q9, [x20, #128]",
                    "ldp q10, q11, [x20, #160]",
                    "ldp q12, q13, [x20, #192]",
                    "ldp q14, q15, [x20, #224]",
                    "ldp q16, q17, [x20, #256]",
                    "ldp q18, q19, [x20, #288]",
                    "ldp q20, q21, [x20, #320]",
                    "ldp q22, q23, [x20, #352]",
                    "ldp q24, q25, [x20, #384]",
                    "ldp q26, q27, [x20, #416]",
                    "ldp q28, q29, [x20, #448]",
                    "ldp q30, q31, [x20, #480]",
                    $($code,)*
                    "stp q0, q1, [x20, #0]",
                    "stp q2, q3, [x20, #32]",
                    "stp q4, q5, [x20, #64]",
                    "stp q6, q7, [x20, #96]",
                    "stp q8, q9, [x20, #128]",
                    "stp q10, q11, [x20, #160]",
                    "stp q12, q13, [x20, #192]",
                    "stp q14, q15, [x20, #224]",
                    "stp q16, q17, [x20, #256]",
                    "stp q18, q19, [x20, #288]",
                    "stp q20, q21, [x20, #320]",
                    "stp q22, q23, [x20, #352]",
                    "stp q24, q25, [x20, #384]",
                    "stp q26, q27, [x20, #416]",
                    "stp q28, q29, [x20, #448]",
                    "stp q30, q31, [x20, #480]",
                    in("x20") p,
                    $($($ops)*,)?
                    out("v0") _, out("v1") _, out("v2") _, out("v3") _,
                    out("v4") _, out("v5") _, out("v6") _, out("v7") _,
                    out("v8") _, out("v9") _, out("v10") _, out("v11") _,
                    out("v12") _, out("v13") _, out("v14") _, out("v15") _,
                    out("v16") _, out("v17") _, out("v18") _, out("v19") _,
                    out("v20") _, out("v21") _, out("v22") _, out("v23") _,
                    out("v24") _, out("v25") _, out("v26") _, out("v27") _,
                    out("v28") _, out("v29") _, out("v30") _, out("v31") _,
                );
            }
        }};
    }

    /// Which registers differ.
    fn differing(a: &Regs, b: &Regs) -> Vec<usize> {
        (0..32).filter(|&i| a[i] != b[i]).collect()
    }

    fn over_system_calls() -> Outcome {
        for seed in 0..200 {
            let mut r = pattern(seed);
            // getpid, sched_yield, getppid.
            with_regs!(
                &raw mut r,
                ["mov x8, #172", "svc #0", "mov x8, #124", "svc #0", "mov x8, #173", "svc #0"],
                out("x0") _, out("x8") _
            );
            check_eq!(differing(&r, &pattern(seed)), vec![]);
        }
        Ok(())
    }

    fn spoil() {
        // SAFETY: all are named.
        unsafe {
            asm!(
                "movi v0.16b, #0xff", "movi v1.16b, #0xff", "movi v2.16b, #0xff", "movi v3.16b, #0xff",
                "movi v4.16b, #0xff", "movi v5.16b, #0xff", "movi v6.16b, #0xff", "movi v7.16b, #0xff",
                "movi v8.16b, #0xff", "movi v9.16b, #0xff", "movi v10.16b, #0xff", "movi v11.16b, #0xff",
                "movi v12.16b, #0xff", "movi v13.16b, #0xff", "movi v14.16b, #0xff", "movi v15.16b, #0xff",
                "movi v16.16b, #0xff", "movi v17.16b, #0xff", "movi v18.16b, #0xff", "movi v19.16b, #0xff",
                "movi v20.16b, #0xff", "movi v21.16b, #0xff", "movi v22.16b, #0xff", "movi v23.16b, #0xff",
                "movi v24.16b, #0xff", "movi v25.16b, #0xff", "movi v26.16b, #0xff", "movi v27.16b, #0xff",
                "movi v28.16b, #0xff", "movi v29.16b, #0xff", "movi v30.16b, #0xff", "movi v31.16b, #0xff",
                out("v0") _, out("v1") _, out("v2") _, out("v3") _,
                out("v4") _, out("v5") _, out("v6") _, out("v7") _,
                out("v8") _, out("v9") _, out("v10") _, out("v11") _,
                out("v12") _, out("v13") _, out("v14") _, out("v15") _,
                out("v16") _, out("v17") _, out("v18") _, out("v19") _,
                out("v20") _, out("v21") _, out("v22") _, out("v23") _,
                out("v24") _, out("v25") _, out("v26") _, out("v27") _,
                out("v28") _, out("v29") _, out("v30") _, out("v31") _,
            );
        }
    }

    /// Sends this thread SIGUSR1 between the load and the store.
    fn raise_with(r: &mut Regs) {
        with_regs!(
            &raw mut *r,
            ["mov x8, #131", "svc #0"],
            inout("x0") std::process::id() as usize => _,
            in("x1") gettid(),
            in("x2") libc::SIGUSR1,
            out("x8") _
        );
    }

    static COUNT: AtomicUsize = AtomicUsize::new(0);

    fn over_signals() -> Outcome {
        extern "C" fn h(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
            COUNT.fetch_add(1, SeqCst);
            spoil();
        }
        handle(libc::SIGUSR1, h, 0, &[])?;
        for seed in 0..100 {
            let mut r = pattern(seed);
            raise_with(&mut r);
            check_eq!(differing(&r, &pattern(seed)), vec![]);
        }
        check_eq!(COUNT.load(SeqCst), 100);
        // And at any instruction, by a timer.
        handle(libc::SIGALRM, h, 0, &[])?;
        crate::signals::set_itimer(1000, 1000)?;
        spin_for(Duration::from_millis(300), 7)
    }

    /// Holds a pattern while time passes.
    fn spin_for(time: Duration, seed: usize) -> Outcome {
        let start = Instant::now();
        while start.elapsed() < time {
            let mut r = pattern(seed);
            with_regs!(
                &raw mut r,
                ["mov x1, #30000", "2: sub x1, x1, #1", "cbnz x1, 2b"],
                out("x1") _
            );
            check_eq!(differing(&r, &pattern(seed)), vec![]);
        }
        Ok(())
    }

    fn handler_sees_and_edits() -> Outcome {
        extern "C" fn h(_: i32, _: *mut libc::siginfo_t, uc: *mut libc::c_void) {
            // The frame's records: (magic, size) pairs after the mcontext's head.
            // SAFETY: the kernel's frame holds a ucontext.
            let uc = unsafe { &mut *uc.cast::<libc::ucontext_t>() };
            let mut at = (&raw mut uc.uc_mcontext).cast::<u8>().wrapping_add(0x120);
            for _ in 0..16 {
                // SAFETY: inside the frame, whose records end with a zero.
                let (magic, size) =
                    unsafe { (at.cast::<u32>().read(), at.add(4).cast::<u32>().read()) };
                if magic == 0x4650_8001 && size == 528 {
                    let regs = at.wrapping_add(16).cast::<u128>();
                    // SAFETY: 32 registers follow fpsr and fpcr.
                    unsafe {
                        COUNT.store(usize::from(regs.add(9).read() == pattern(1)[9]), SeqCst);
                        regs.add(3).write(0x1234_5678);
                    }
                }
                if magic == 0 {
                    break;
                }
                at = at.wrapping_add(size as usize);
            }
        }
        handle(libc::SIGUSR1, h, 0, &[])?;
        let mut r = pattern(1);
        raise_with(&mut r);
        check_eq!(COUNT.load(SeqCst), 1);
        check_eq!(r[3], 0x1234_5678);
        check_eq!(differing(&r, &pattern(1)), vec![3]);
        Ok(())
    }

    fn over_switches() -> Outcome {
        // More threads and processes than CPUs, each with its own pattern.
        let pids: Vec<_> = (0..3)
            .map(|i| fork(|| i32::from(spin_for(Duration::from_millis(500), 100 + i).is_err())))
            .collect();
        let all: Vec<_> = (0..5)
            .map(|i| thread::spawn(move || spin_for(Duration::from_millis(500), i)))
            .collect();
        all.into_iter().try_for_each(|t| t.join().unwrap())?;
        for p in pids {
            check_eq!(wait(p?)?, End::Exit(0));
        }
        Ok(())
    }

    fn over_faults() -> Outcome {
        let m = Map::anon(64 * PAGE)?;
        let mut r = pattern(5);
        with_regs!(
            &raw mut r,
            ["mov x1, #64", "2: str xzr, [x2]", "add x2, x2, #4096", "sub x1, x1, #1", "cbnz x1, 2b"],
            out("x1") _,
            inout("x2") m.at => _
        );
        check_eq!(differing(&r, &pattern(5)), vec![]);
        Ok(())
    }

    fn over_fork() -> Outcome {
        let mut r = pattern(6);
        let pid: isize;
        // clone(SIGCHLD): both sides come out with the same registers.
        with_regs!(
            &raw mut r,
            ["mov x8, #220", "svc #0"],
            inout("x0") 17isize => pid,
            in("x1") 0, in("x2") 0, in("x3") 0, in("x4") 0,
            out("x8") _
        );
        let good = r == pattern(6);
        if pid == 0 {
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(!good)) };
        }
        check!(good && pid > 0);
        check_eq!(wait(pid as i32)?, End::Exit(0));
        Ok(())
    }

    fn control_registers() -> Outcome {
        // Rounding mode and sticky flags belong to the thread.
        let run = |mode: u64| -> Outcome {
            for _ in 0..300 {
                let (cr, sr): (u64, u64);
                // SAFETY: sets rounding mode and flags and puts them back.
                unsafe {
                    asm!(
                        "msr fpcr, {mode}", "msr fpsr, {flags}",
                        "mov x8, #124", "svc #0", // sched_yield
                        "mrs {cr}, fpcr", "mrs {sr}, fpsr", "msr fpcr, xzr", "msr fpsr, xzr",
                        mode = in(reg) mode << 22, flags = in(reg) mode,
                        cr = out(reg) cr, sr = out(reg) sr,
                        out("x0") _, out("x8") _,
                    );
                }
                check_eq!((cr, sr), (mode << 22, mode));
            }
            Ok(())
        };
        let all: Vec<_> = (0..4).map(|i| thread::spawn(move || run(i))).collect();
        all.into_iter().try_for_each(|t| t.join().unwrap())
    }
}
