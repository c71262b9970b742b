//! Room on the heap, for those who can be told that there is none.
//!
//! Rust's collections, `Box` and `Arc` stop the kernel where memory ends. What
//! EL0, a VMM or a guest can ask for goes through here instead, and the caller
//! answers `ENOMEM`. What doesn't is small, of a number that the code bounds,
//! and lives on the reserve that only the heap may touch.
//!
//! When memory is low ([`set_low`]), the rest is for them: whoever can be told no
//! gets nothing of a page or more.
//!
//! Each question may be answered with no by [`refuse_by`], so that every error
//! path can be walked without a machine that is full.

use crate::{Errno, Result};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BinaryHeap, VecDeque};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use spin::Once;

/// What is so large, in bytes, is refused while memory is low.
const LARGE: usize = 4096;
static LOW: AtomicBool = AtomicBool::new(false);

/// Whether memory is so short that what is left is for those who can't be told no.
#[inline]
pub fn is_low() -> bool {
    LOW.load(Relaxed)
}

/// Says that memory is low, or isn't any more. The frame allocator does.
#[inline]
pub fn set_low(low: bool) {
    // A plain load first: the line is shared by all CPUs.
    if LOW.load(Relaxed) != low {
        LOW.store(low, Relaxed);
    }
}

/// Whether anybody ever asked for refusals.
static ARMED: AtomicBool = AtomicBool::new(false);
static REFUSE: Once<fn() -> bool> = Once::new();

/// From now on `refuse` is asked before each allocation that may fail whether
/// this one does. The first call wins.
pub fn refuse_by(refuse: fn() -> bool) {
    REFUSE.call_once(|| refuse);
    ARMED.store(true, Relaxed);
}

/// `ENOMEM` if this allocation is to fail, whatever there is.
#[inline]
pub fn ask() -> Result<()> {
    if ARMED.load(Relaxed) { ask_slowly() } else { Ok(()) }
}

/// `ENOMEM` if so many bytes of the heap are to be refused.
#[inline]
fn ask_for_bytes(size: usize) -> Result<()> {
    if size >= LARGE && is_low() {
        return Err(Errno::ENOMEM);
    }
    ask()
}

#[cold]
fn ask_slowly() -> Result<()> {
    if REFUSE.get().is_some_and(|refuse| refuse()) { Err(Errno::ENOMEM) } else { Ok(()) }
}

/// Collections that can be told to grow, or that they can't.
pub trait Room {
    /// Room for `more` elements beyond those there are, or `ENOMEM`: adding
    /// them allocates nothing.
    fn make_room(&mut self, more: usize) -> Result<()>;
}

/// All collections have the same three methods, and no trait for them.
macro_rules! room {
    ($([$($generic:tt)*] $type:ty, of $element:ty;)+) => {$(
        #[expect(clippy::disallowed_methods, reason = "asked before")]
        impl<$($generic)*> Room for $type {
            #[inline]
            fn make_room(&mut self, more: usize) -> Result<()> {
                if self.capacity().wrapping_sub(self.len()) >= more {
                    return Ok(());
                }
                // They grow at least to twice their size.
                let elements = self.len().saturating_add(more).max(self.capacity().saturating_mul(2));
                ask_for_bytes(elements.saturating_mul(size_of::<$element>()))?;
                self.try_reserve(more).map_err(|_| Errno::ENOMEM)
            }
        }
    )+};
}

room! {
    [T] Vec<T>, of T;
    [T] VecDeque<T>, of T;
    [T: Ord] BinaryHeap<T>, of T;
    [] String, of u8;
}

/// A vector with room for exactly so many, or `ENOMEM`.
#[expect(clippy::disallowed_methods, reason = "asked before")]
pub fn try_vec<T>(capacity: usize) -> Result<Vec<T>> {
    let mut vec = Vec::new();
    if capacity > 0 {
        ask_for_bytes(capacity.saturating_mul(size_of::<T>()))?;
        vec.try_reserve_exact(capacity).map_err(|_| Errno::ENOMEM)?;
    }
    Ok(vec)
}

/// So many zeros.
pub fn try_zeros(len: usize) -> Result<Vec<u8>> {
    let mut bytes = try_vec(len)?;
    bytes.resize(len, 0);
    Ok(bytes)
}

/// A copy.
pub fn try_copy<T: Clone>(values: &[T]) -> Result<Vec<T>> {
    let mut copy = try_vec(values.len())?;
    copy.extend_from_slice(values);
    Ok(copy)
}

/// A vector of all that `values` gives.
pub fn try_collect<T>(values: impl IntoIterator<Item = T>) -> Result<Vec<T>> {
    let values = values.into_iter();
    let mut vec = try_vec(values.size_hint().0)?;
    for value in values {
        vec.make_room(1)?;
        vec.push(value);
    }
    Ok(vec)
}

/// `Box::new`, or `ENOMEM`.
pub fn try_box<T>(value: T) -> Result<Box<T>> {
    ask_for::<T>()?;
    Ok(Box::new(value))
}

/// `Arc::new`, or `ENOMEM`.
pub fn try_arc<T>(value: T) -> Result<Arc<T>> {
    ask_for_size(arc_size::<T>())?;
    Ok(Arc::new(value))
}

/// What an `Arc<T>` takes: two counts, too.
const fn arc_size<T>() -> usize {
    size_of::<T>().saturating_add(size_of::<[usize; 2]>())
}

/// `Arc::new_cyclic`, or `ENOMEM`.
pub fn try_arc_cyclic<T>(make: impl FnOnce(&alloc::sync::Weak<T>) -> T) -> Result<Arc<T>> {
    ask_for_size(arc_size::<T>())?;
    Ok(Arc::new_cyclic(make))
}

/// `BTreeMap::insert`, or `ENOMEM` with nothing changed.
pub fn try_insert<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: V) -> Result<Option<V>> {
    room_in(map)?;
    Ok(map.insert(key, value))
}

/// Room for one more in a map: a node of it. That a full one splits makes one
/// on each level at most.
pub fn room_in<K, V>(_: &BTreeMap<K, V>) -> Result<()> {
    // B = 6: eleven keys and values, twelve edges, a parent, two counts.
    let entries = size_of::<K>().saturating_add(size_of::<V>()).saturating_mul(11);
    ask_for_size(entries.saturating_add(size_of::<[usize; 14]>()))
}

/// Stable Rust can't make these and be told no. So the same size is taken and
/// given back first: nothing else on this CPU runs in between, and what other
/// CPUs take meanwhile, the reserve has.
fn ask_for_size(size: usize) -> Result<()> {
    drop(try_vec::<u8>(size)?);
    Ok(())
}

/// `ENOMEM` if there is no room for a `Box<T>`, where making it can't say so.
pub fn ask_for<T>() -> Result<()> {
    ask_for_size(size_of::<T>())
}

/// Text that grows until there is no room, as `write!` wants it.
#[derive(Debug, Default)]
pub struct Text(Vec<u8>);

impl Text {
    /// No text.
    pub const fn new() -> Text {
        Text(Vec::new())
    }

    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.make_room(bytes.len())?;
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    /// Adds what `format_args!` made.
    pub fn print(&mut self, text: fmt::Arguments<'_>) -> Result<()> {
        // No Display of ours fails by itself.
        fmt::Write::write_fmt(self, text).map_err(|_| Errno::ENOMEM)
    }

    /// The text.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes()).map_err(|_| fmt::Error)
    }
}

/// `format!`, as bytes, or `ENOMEM`.
pub fn try_text(text: fmt::Arguments<'_>) -> Result<Vec<u8>> {
    let mut out = Text::new();
    out.print(text)?;
    Ok(out.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    std::thread_local! {
        /// Counts down to a refusal, in this thread alone.
        static NTH: Cell<u32> = const { Cell::new(0) };
    }

    fn refuse() -> bool {
        NTH.with(|nth| {
            let left = nth.get();
            nth.set(left.saturating_sub(1));
            left == 1
        })
    }

    fn nth<T>(n: u32, f: impl FnOnce() -> Result<T>) -> Result<T> {
        refuse_by(refuse);
        NTH.with(|nth| nth.set(n));
        let result = f();
        NTH.with(|nth| nth.set(0));
        result
    }

    #[test]
    fn each_can_be_refused() {
        assert_eq!(nth(0, || try_copy(b"abc")), Ok(b"abc".to_vec()));
        assert_eq!(nth(1, || try_copy(b"abc")), Err(Errno::ENOMEM));
        assert_eq!(nth(2, || try_copy(b"abc")), Ok(b"abc".to_vec()));
        assert_eq!(nth(1, || try_box(1)), Err(Errno::ENOMEM));
        assert_eq!(nth(1, || try_arc(1)), Err(Errno::ENOMEM));
        assert_eq!(nth(1, || try_text(format_args!("{}", 1))), Err(Errno::ENOMEM));
        let mut map = BTreeMap::new();
        assert_eq!(nth(1, || try_insert(&mut map, 1, 1)), Err(Errno::ENOMEM));
        assert!(map.is_empty());
        assert_eq!(nth(2, || try_insert(&mut map, 1, 1)), Ok(None));
    }

    #[test]
    fn room_is_asked_for_when_it_is_needed() {
        let mut vec = Vec::from([1, 2]);
        vec.shrink_to_fit();
        assert_eq!(nth(1, || vec.make_room(1)), Err(Errno::ENOMEM));
        assert_eq!(nth(0, || vec.make_room(1)), Ok(()));
        assert_eq!(nth(1, || vec.make_room(1)), Ok(()));
        assert_eq!(nth(1, || try_vec::<u8>(0)), Ok(Vec::new()));
        assert_eq!(nth(0, || try_vec::<u64>(usize::MAX)), Err(Errno::ENOMEM));
        assert_eq!(nth(0, || try_collect(1..4)), Ok(Vec::from([1, 2, 3])));
        assert_eq!(nth(1, || try_collect(1..4)), Err(Errno::ENOMEM));
    }

    #[test]
    fn large_ones_are_refused_while_memory_is_low() {
        let mut vec = try_vec::<u64>(256).unwrap();
        vec.resize(256, 0);
        set_low(true);
        let refused = [
            try_zeros(LARGE).err(),
            try_vec::<u64>(LARGE / 8).err(),
            vec.make_room(1).err(),
            try_box([0u8; LARGE]).err(),
        ];
        let given = (try_zeros(LARGE - 1).is_ok(), try_vec::<u64>(511).is_ok());
        set_low(false);
        assert_eq!(refused, [Some(Errno::ENOMEM); 4]);
        assert_eq!(given, (true, true));
        assert_eq!(vec.make_room(1), Ok(()));
    }

    #[test]
    fn text_is_what_format_makes() {
        let mut text = Text::new();
        text.print(format_args!("{:>4}{:02x}", 7, 10)).unwrap();
        text.push(b"\n").unwrap();
        assert_eq!(text.into_bytes(), b"   70a\n");
    }
}
