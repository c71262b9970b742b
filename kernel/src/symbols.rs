//! Names for addresses in the kernel's text.
//!
//! The build fills the section `.ksyms` of the Image after linking, from the
//! Image's own symbol table: a count, that many (offset, name offset) pairs of
//! 32-bit words in order of offset, then NUL-terminated names, as people read them.
#![expect(unsafe_code, reason = "a section of its own for the build to fill")]

use core::fmt;

/// Room for the table, in 8-byte words.
const WORDS: usize = 25 << 10;

#[repr(C, align(8))]
struct Table([u32; WORDS * 2]);

#[unsafe(link_section = ".ksyms")]
#[used]
static TABLE: Table = Table([0; WORDS * 2]);

fn word(index: usize) -> u32 {
    // The linker's tool changes it behind the compiler's back.
    core::hint::black_box(&TABLE).0.get(index).copied().unwrap_or(0)
}

fn byte(index: usize) -> u8 {
    let word = word(index / 4);
    word.to_le_bytes().get(index % 4).copied().unwrap_or(0)
}

/// An offset in the Image that shows itself as `function+0x12`, or as the
/// offset alone where no symbol is known.
pub struct Name(pub u64);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = word(0) as usize;
        let start_of = |i: usize| u64::from(word(i.saturating_mul(2).saturating_add(1)));
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low.midpoint(high);
            if start_of(middle) <= self.0 {
                low = middle.saturating_add(1);
            } else {
                high = middle;
            }
        }
        let Some(found) = low.checked_sub(1) else { return write!(f, "{:#x}", self.0) };
        let mut at = word(found.saturating_mul(2).saturating_add(2)) as usize;
        let mut name = [0u8; 160];
        let mut len = 0usize;
        for slot in &mut name {
            match byte(at) {
                0 => break,
                text => *slot = text,
            }
            at = at.saturating_add(1);
            len = len.saturating_add(1);
        }
        let name = core::str::from_utf8(name.get(..len).unwrap_or_default()).unwrap_or("?");
        let offset = self.0.saturating_sub(start_of(found));
        write!(f, "{name}+{offset:#x} ({:#x})", self.0)
    }
}
