//! `el0-tests`: what a program at EL0 may expect of Linux, or of Hypha.
//! `el0-tests --help` says how to choose cases.

#![cfg(target_os = "linux")]

mod events;
mod fail;
mod files;
mod fpsimd;
mod futex;
mod memory;
mod misc;
mod oom;
mod process;
mod sched;
mod signals;
mod threads;
mod time;

use el0_tests::util;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some((first, rest)) = args.get(1..).and_then(<[_]>::split_first)
        && first == "--helper"
    {
        std::process::exit(process::helper(rest));
    }
    let groups = [
        process::CASES,
        signals::CASES,
        threads::CASES,
        futex::CASES,
        memory::CASES,
        files::CASES,
        events::CASES,
        time::CASES,
        fpsimd::CASES,
        sched::CASES,
        misc::CASES,
        oom::CASES,
        fail::CASES,
    ];
    let cases: Vec<el0_tests::Case> = groups.into_iter().flatten().copied().collect();
    std::process::exit(el0_tests::main_of(&cases));
}
