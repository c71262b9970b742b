//! A guest that hangs, and one that could and doesn't.

use core::arch::asm;
use guest_rt::{cpu, say};

/// The watchdog of Linux's `arm,smc-wdt`: the call in x1, its argument in x2.
const WATCHDOG: u64 = 0x8200_3d06;
const INIT: u64 = 0;
const SET_TIMEOUT: u64 = 1;
const ENABLE: u64 = 2;
const PET: u64 = 3;

/// Seconds.
const TIMEOUT: u64 = 2;

/// By SMC, as Linux does.
fn call(call: u64, value: u64) -> [u64; 3] {
    let (mut x0, mut x1, mut x2) = (WATCHDOG, call, value);
    // SAFETY: SMCCC: x4 to x17 may change, the rest is kept.
    unsafe {
        asm!("smc #0", inout("x0") x0, inout("x1") x1, inout("x2") x2, inout("x3") 0u64 => _,
            out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _,
            out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _,
            out("x16") _, out("x17") _);
    }
    [x0, x1, x2]
}

fn start() {
    let [answer, least, most] = call(INIT, 0);
    say!("watchdog: {} ({least} to {most} s)", answer as i64);
    call(SET_TIMEOUT, TIMEOUT);
    call(ENABLE, 1);
}

/// Starts the watchdog, and does nothing any more.
pub fn hang() -> ! {
    cpu::mask();
    start();
    say!("hang: begins");
    loop {
        core::hint::spin_loop();
    }
}

/// Starts it, and pets it for so many seconds.
pub fn pet(seconds: u64) {
    start();
    let begin = cpu::now();
    while cpu::now() - begin < seconds * cpu::frequency() {
        call(PET, 0);
        cpu::pause();
    }
    call(ENABLE, 0);
    say!("pet: has ended");
}
