//! Marks for whoever counts what executes: instructions that do nothing
//! (`movz xzr, #n`). `xtask/plugin` knows them; nothing else does. The vectors
//! have one behind their time stamp.

fn words(name: &str) -> [u64; 2] {
    let mut words = [0; 2];
    for (i, byte) in name.bytes().take(16).enumerate() {
        words[i / 8] |= u64::from(byte) << (8 * (i % 8));
    }
    words
}

macro_rules! named {
    ($($(#[$doc:meta])* $name:ident = $n:literal;)+) => {$(
        $(#[$doc])*
        #[inline(never)]
        pub fn $name(name: &str) {
            let [x0, x1] = words(name);
            // SAFETY: changes no register or memory.
            unsafe {
                core::arch::asm!(concat!("movz xzr, #", $n), in("x0") x0, in("x1") x1,
                    options(nostack))
            };
        }
    )+};
}

named! {
    /// Opens a window of this name (16 characters).
    open = 0x6801;
    /// The same; the next time stamp in a handler closes it.
    open_to_stamp = 0x6802;
}

/// Closes the window.
#[inline(always)]
pub fn close() {
    // SAFETY: changes no register or memory.
    unsafe { core::arch::asm!("movz xzr, #0x6803", options(nostack)) };
}
