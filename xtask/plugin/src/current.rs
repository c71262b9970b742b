//! Which CPU calls back.
//!
//! Where one thread emulates all CPUs (`-icount`), QEMU 10.0 hands call backs the
//! number of the CPU that a block was translated for, not of the one that executes
//! it. QEMU knows better itself, and exports what it knows.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr::null;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

/// QEMU's state of each CPU, as far as they were seen.
static STATES: [AtomicPtr<c_void>; 64] = [const { AtomicPtr::new(std::ptr::null_mut()) }; 64];

thread_local! {
    /// Where QEMU keeps this thread's CPU.
    static CURRENT: Cell<*const *mut c_void> = const { Cell::new(null()) };
}

unsafe extern "C" {
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

fn symbol(name: &CStr) -> *mut c_void {
    // SAFETY: asks for a symbol by its name, in whatever is loaded (RTLD_DEFAULT); of
    // a thread's own variable, the thread's instance.
    unsafe { dlsym(std::ptr::null_mut(), name.as_ptr()) }
}

/// The number of the CPU that calls back; `passed` is what QEMU says it is.
pub fn cpu(passed: c_uint) -> usize {
    let passed = passed as usize;
    let current = CURRENT.with(|current| {
        if current.get().is_null() {
            current.set(symbol(c"current_cpu").cast());
        }
        current.get()
    });
    if current.is_null() {
        return passed;
    }
    // SAFETY: a pointer of QEMU's, of this thread, which lives as long as the thread.
    let state = unsafe { *current };
    if state.is_null() {
        return passed;
    }
    if let Some(i) = STATES.iter().position(|known| known.load(Relaxed) == state) {
        return i;
    }
    let number = symbol(c"gdb_get_cpu_index");
    if number.is_null() {
        return passed;
    }
    // SAFETY: QEMU's function of this name takes a CPU's state and gives its number,
    // from 1 on.
    let number = unsafe {
        let number: extern "C" fn(*mut c_void) -> c_int = std::mem::transmute(number);
        number(state)
    };
    let i = usize::try_from(number - 1).unwrap_or(passed);
    if let Some(slot) = STATES.get(i) {
        slot.store(state, Relaxed);
    }
    i
}
