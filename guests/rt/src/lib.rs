//! What the bare-metal guests share: the arm64 Image header and start code,
//! vectors, the machine as the device tree tells it, a serial port for words, a
//! GICv2 or GICv3, PSCI. Everything is one to one: virtual addresses are physical.
//!
//! A guest defines `fn main(&'static Machine)` and says `guest_rt::guest!(main)`.

#![no_std]
#![cfg(target_arch = "aarch64")]

pub mod cases;
pub mod cpu;
pub mod exception;
pub mod gic;
pub mod machine;
pub mod mark;
pub mod mmio;
pub mod psci;
pub mod serial;
pub mod translation;

use machine::Machine;

core::arch::global_asm!(include_str!("head.s"));

/// Names the guest's function.
#[macro_export]
macro_rules! guest {
    ($main:path) => {
        // SAFETY: the runtime declares it with this signature, and there is one.
        #[unsafe(no_mangle)]
        fn guest_main(machine: &'static $crate::machine::Machine) {
            $main(machine)
        }
    };
}

/// Prints a line on the serial port.
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => { $crate::serial::line(format_args!($($arg)*)) };
}

unsafe extern "Rust" {
    safe fn guest_main(machine: &'static Machine);
}

// SAFETY: the start code calls it once, with the device tree it got and the image's place.
#[unsafe(no_mangle)]
extern "C" fn guest_rt_start(device_tree: u64, image: u64) -> ! {
    let machine = machine::read(device_tree, image);
    guest_main(machine);
    psci::off()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    say!("PANIC {info}");
    psci::off()
}
