//! Measures what a VMM asks of the kernel, on Linux and on Hypha alike. Prints
//! `name: number` like the guest `measure`, and counts as it does: by the
//! difference of N and 4N rounds, each the least of several runs.
//!
//!     host-measure [op=A,B] [ram=KIB]
//!
//! As /init it marks that it runs and gives way to the init that follows; in a
//! guest (`/init` with `measure.guest` on the command line) it powers off.

#![cfg(all(target_os = "linux", target_arch = "aarch64"))]

mod machine;

use kvm_ioctls::Kvm;
use machine::{Code, Machine, Memory, PAGE, RAM, Result, close, count, now, open, words};
use std::io::Error;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// The init of the host behind us.
const NEXT: &str = "/hypha/init";
/// How often each count is taken, and how many rounds N is.
const RUNS: u64 = 20;
const N: u64 = 8;
/// VMs that are there at a time.
const VMS: u64 = 8;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        return init();
    }
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("host-measure: {error}");
            ExitCode::FAILURE
        }
    }
}

fn init() -> ExitCode {
    if std::path::Path::new(NEXT).exists() {
        count(words("boot_host"));
        let error = Command::new(NEXT).exec();
        eprintln!("host-measure: {NEXT}: {error}");
    } else {
        count(words("boot_guest"));
        match settle() {
            Ok(()) => count(words("guest_settled")),
            Err(error) => eprintln!("host-measure: {error}"),
        }
        // SAFETY: ends the machine, which has nothing to lose.
        unsafe { libc::reboot(libc::RB_POWER_OFF) };
    }
    ExitCode::FAILURE
}

/// Waits for what the kernel does beside its boot: it tests its ciphers in threads. How far
/// they are when /init begins is chance.
fn settle() -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(60);
    std::fs::create_dir_all("/proc")?;
    let (name, path) = (c"proc".as_ptr(), c"/proc".as_ptr());
    // SAFETY: strings that end, and no data.
    if unsafe { libc::mount(name, path, name, 0, std::ptr::null()) } != 0 {
        return Err(Error::last_os_error());
    }
    let start = Instant::now();
    let untested = |line: &str| line.starts_with("selftest") && line.ends_with("unknown");
    while std::fs::read_to_string("/proc/crypto")?.lines().any(untested) {
        if start.elapsed() > LIMIT {
            return Err(Error::other("the kernel's tests of its ciphers do not end"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn measure() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let argument = |key: &str| arguments.iter().find_map(|a| a.strip_prefix(key));
    let wanted = |name: &str| argument("op=").is_none_or(|ops| ops.split(',').any(|o| o == name));
    if let Some(ram) = argument("ram=").and_then(|kib| kib.parse::<u64>().ok())
        && wanted("mem_host_kib")
    {
        println!("mem_host_kib: {}", ram.saturating_sub(available()?));
    }
    one_cpu()?;
    let kvm = Kvm::new()?;
    if wanted("run_exit") {
        let mut machine = Machine::new(&kvm, Code::Exit, None)?;
        machine.exit()?;
        machine.vcpu.set_kvm_immediate_exit(1);
        report("run_exit", RUNS, N, &mut || match machine.vcpu.run() {
            Err(error) if error.errno() == libc::EINTR => Ok(()),
            other => Err(Error::other(format!("KVM_RUN gave {other:?}"))),
        })?;
    }
    if wanted("vcpu_switch") {
        let mut machines =
            [Machine::new(&kvm, Code::Exit, None)?, Machine::new(&kvm, Code::Exit, None)?];
        let mut turn = 0;
        report("vcpu_switch", RUNS, N, &mut || {
            turn ^= 1;
            machines[turn].exit().map(|_| ())
        })?;
    }
    if wanted("vm_cycle") {
        let memory = Memory::new(16 * PAGE)?;
        report("vm_cycle", RUNS / 4, N / 4, &mut || {
            let mut machine = Machine::new(&kvm, Code::Exit, Some(&memory))?;
            machine.exit()?;
            machine.end();
            Ok(())
        })?;
    }
    if wanted("s2_fault_4k") {
        faults(&kvm)?;
    }
    if wanted("mem_vm_kib") {
        // What the first one needs is nobody's.
        let first = Machine::new(&kvm, Code::Exit, None)?;
        let before = available()?;
        let mut machines = Vec::new();
        for _ in 0..VMS {
            let mut machine = Machine::new(&kvm, Code::Exit, None)?;
            machine.exit()?;
            machines.push(machine);
        }
        println!("mem_vm_kib: {}", before.saturating_sub(available()?) / VMS);
        machines.into_iter().for_each(Machine::end);
        first.end();
    }
    Ok(())
}

/// First stores to pages that nobody touched, counted by the guest.
fn faults(kvm: &Kvm) -> Result<()> {
    let pages = RUNS * 5 * N + RUNS;
    let memory = Memory::new(pages as usize * PAGE)?;
    let mut machine = Machine::new(kvm, Code::Touch, Some(&memory))?;
    let mut next = RAM;
    let mut touch = |machine: &mut Machine, pages: u64| {
        machine.set(9, next)?;
        machine.set(10, pages)?;
        next += pages * PAGE as u64;
        machine.exit()
    };
    let (mut one, mut four) = (u64::MAX, u64::MAX);
    for _ in 0..RUNS {
        one = one.min(touch(&mut machine, N)?);
        four = four.min(touch(&mut machine, 4 * N)?);
    }
    println!("s2_fault_4k: {}", per_round(one, four, N));
    let [x0, x1] = words("s2_fault_4k");
    machine.set(0, x0)?;
    machine.set(1, x1)?;
    machine.go(Code::Marked)?;
    touch(&mut machine, RUNS)?;
    machine.end();
    Ok(())
}

/// Counts and prints; then rounds between marks, for whoever watches.
fn report(name: &str, runs: u64, n: u64, f: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    let mut timed = |rounds: u64| {
        let start = now();
        for _ in 0..rounds {
            f()?;
        }
        Ok::<_, Error>(now() - start)
    };
    timed(n)?; // Fills caches of every kind.
    let (mut one, mut four) = (u64::MAX, u64::MAX);
    for _ in 0..runs {
        one = one.min(timed(n)?);
        four = four.min(timed(4 * n)?);
    }
    println!("{name}: {}", per_round(one, four, n));
    // Made beforehand: making it may use SIMD registers, which KVM_RUN leaves trapping.
    let name = words(name);
    for _ in 0..runs {
        open(name);
        let result = f();
        close();
        result?;
    }
    Ok(())
}

/// Nanoseconds, which under icount are instructions.
fn per_round(one: u64, four: u64, n: u64) -> u64 {
    let ticks = u128::from(four.saturating_sub(one));
    let ns = ticks * 1_000_000_000 / u128::from(machine::frequency()).max(1);
    (ns as u64 + 3 * n / 2) / (3 * n)
}

/// MemAvailable.
fn available() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    text.lines()
        .find_map(|line| {
            line.strip_prefix("MemAvailable:")?.split_whitespace().next()?.parse().ok()
        })
        .ok_or_else(|| Error::other("/proc/meminfo has no MemAvailable"))
}

/// Stays on the CPU it is on.
fn one_cpu() -> Result<()> {
    // SAFETY: a set of bits, filled in before it is passed.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(0, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if result == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}
