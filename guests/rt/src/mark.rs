//! Marks for whoever counts what executes: instructions that do nothing
//! (`movz xzr, #n`). `xtask/plugin` knows them; nothing else does. The vectors
//! have one behind their time stamp.

/// A window's name, as marks carry it (16 characters).
#[derive(Clone, Copy)]
pub struct Name([u64; 2]);

/// A name to mark with.
pub fn name(name: &str) -> Name {
    let mut words = [0; 2];
    for (i, byte) in name.bytes().take(16).enumerate() {
        words[i / 8] |= u64::from(byte) << (8 * (i % 8));
    }
    Name(words)
}

macro_rules! named {
    ($($(#[$doc:meta])* $name:ident = $n:literal;)+) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(name: Name) {
            let Name([x0, x1]) = name;
            // SAFETY: changes no register or memory.
            unsafe {
                core::arch::asm!(concat!("movz xzr, #", $n), in("x0") x0, in("x1") x1,
                    options(nostack))
            };
        }
    )+};
}

named! {
    /// Opens a window of this name.
    open = 0x6801;
    /// The same; the next time stamp in a handler closes it.
    open_to_stamp = 0x6802;
    /// The same, but it begins when the whole machine sleeps.
    open_asleep = 0x6806;
}

/// Closes the window.
#[inline(always)]
pub fn close() {
    // SAFETY: changes no register or memory.
    unsafe { core::arch::asm!("movz xzr, #0x6803", options(nostack)) };
}
