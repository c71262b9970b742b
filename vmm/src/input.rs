//! Standard input on its way to the guest's console, with the Ctrl-a escapes.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};

use crate::sync::lock;

/// What is kept while the guest does not read.
const LIMIT: usize = 64 << 10;

/// The escape character, Ctrl-a.
const ESCAPE: u8 = 0x01;

/// Someone to tell that there is input.
pub trait Consumer: Send + Sync {
    /// Input came.
    fn input_ready(&self);
}

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    consumer: Option<Weak<dyn Consumer>>,
}

/// Input that waits for the guest.
#[derive(Default)]
pub struct Input {
    state: Mutex<State>,
    space: Condvar,
}

impl Input {
    /// No input yet, nobody to tell.
    pub fn new() -> Arc<Input> {
        Arc::new(Input::default())
    }

    /// From now on `consumer` is told, about what is here already too.
    pub fn attach(&self, consumer: &Arc<dyn Consumer>) {
        lock(&self.state).consumer = Some(Arc::downgrade(consumer));
        consumer.input_ready();
    }

    /// Lets `take` look at the bytes at the front; it says how many it took.
    pub fn take(&self, take: impl FnOnce(&[u8]) -> usize) {
        let mut state = lock(&self.state);
        let (front, _) = state.bytes.as_slices();
        if front.is_empty() {
            return;
        }
        let taken = take(front).min(front.len());
        state.bytes.drain(..taken);
        drop(state);
        self.space.notify_all();
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        lock(&self.state).bytes.is_empty()
    }

    /// Adds bytes. If the guest does not read, waits for space (`wait`) or drops what does not fit, as a UART would.
    pub fn put(&self, bytes: &[u8], wait: bool) {
        if bytes.is_empty() {
            return;
        }
        let mut state = lock(&self.state);
        while wait && state.bytes.len() >= LIMIT {
            state = self.space.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let room = LIMIT.saturating_sub(state.bytes.len());
        let fits = if wait { bytes.len() } else { bytes.len().min(room) };
        state.bytes.extend(bytes.iter().take(fits));
        let consumer = state.consumer.as_ref().and_then(Weak::upgrade);
        // The consumer takes its own lock, then ours: not under ours.
        drop(state);
        if let Some(consumer) = consumer {
            consumer.input_ready();
        }
    }
}

/// Finds the Ctrl-a escapes in a stream of bytes.
#[derive(Default)]
pub struct Escapes {
    pending: bool,
}

/// What one chunk of input amounts to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// What the guest gets.
    pub bytes: Vec<u8>,
    /// Ctrl-a x was among it.
    pub quit: bool,
}

impl Escapes {
    /// Ctrl-a x quits, Ctrl-a a sends Ctrl-a, Ctrl-a with anything else sends both.
    pub fn filter(&mut self, input: &[u8]) -> Chunk {
        let mut chunk = Chunk::default();
        for &byte in input {
            if !self.pending {
                if byte == ESCAPE {
                    self.pending = true;
                } else {
                    chunk.bytes.push(byte);
                }
                continue;
            }
            self.pending = false;
            match byte {
                b'x' | b'X' => {
                    chunk.quit = true;
                    break;
                }
                b'a' | b'A' | ESCAPE => chunk.bytes.push(ESCAPE),
                other => chunk.bytes.extend([ESCAPE, other]),
            }
        }
        chunk
    }
}

/// Reads `source` until it ends or Ctrl-a x comes, which calls `quit`. The end of input does not end the guest.
pub fn pump(mut source: impl Read, input: &Input, wait: bool, quit: impl FnOnce()) {
    let mut escapes = Escapes::default();
    let mut buffer = [0; 256];
    loop {
        let n = match source.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let chunk = escapes.filter(buffer.get(..n).unwrap_or(&[]));
        input.put(&chunk.bytes, wait);
        if chunk.quit {
            quit();
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    #[test]
    fn escapes() {
        let mut e = Escapes::default();
        assert_eq!(e.filter(b"ab").bytes, b"ab");
        assert_eq!(e.filter(b"\x01").bytes, b"");
        assert_eq!(e.filter(b"a").bytes, b"\x01");
        assert_eq!(e.filter(b"\x01q\x01\x01").bytes, b"\x01q\x01");
        let chunk = e.filter(b"end\x01xmore");
        assert_eq!((chunk.bytes.as_slice(), chunk.quit), (b"end".as_slice(), true));
    }

    struct Count(AtomicUsize);

    impl Consumer for Count {
        fn input_ready(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn bytes_wait_and_are_taken() {
        let input = Input::new();
        input.put(b"abc", false);
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let consumer: Arc<dyn Consumer> = count.clone();
        input.attach(&consumer);
        input.put(b"d", false);
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
        let mut got = Vec::new();
        while !input.is_empty() {
            input.take(|b| {
                got.push(b[0]);
                1
            });
        }
        assert_eq!(got, b"abcd");
    }

    #[test]
    fn a_guest_that_does_not_read_costs_a_bounded_buffer() {
        let input = Input::new();
        for _ in 0..1000 {
            input.put(&[0; 256], false);
        }
        assert_eq!(lock(&input.state).bytes.len(), LIMIT);
    }

    #[test]
    fn the_end_of_input_is_not_the_end() {
        let input = Input::new();
        let quit = AtomicBool::new(false);
        pump(&b"ls\n"[..], &input, true, || quit.store(true, Ordering::Relaxed));
        assert!(!quit.load(Ordering::Relaxed));
        pump(&b"\x01x"[..], &input, true, || quit.store(true, Ordering::Relaxed));
        assert!(quit.load(Ordering::Relaxed));
        assert_eq!(lock(&input.state).bytes, b"ls\n");
    }
}
