//! The guest's console output on its way to our standard output.
//!
//! The 16550 hands over one byte at a time. They are written a line at a time, or by a flusher a few
//! milliseconds later if no line end comes (a prompt), instead of with a system call each.

use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

use crate::sync::lock;

/// Written out when it gets this long.
const FULL: usize = 1024;

/// How long a byte waits for a line end.
const PATIENCE: Duration = Duration::from_millis(5);

/// How many times that the end of the program waits for the flusher.
const DRAIN_TRIES: u32 = 400;

struct State {
    bytes: Vec<u8>,
    sink: Box<dyn Write + Send>,
    flusher_idle: bool,
}

impl State {
    fn flush(&mut self) {
        // A terminal that went away must not end the guest; a non-blocking one that is full gets a second to drain.
        let mut rest = self.bytes.as_slice();
        let mut retries = 200u32;
        while !rest.is_empty() {
            match self.sink.write(rest) {
                Ok(0) => break,
                Ok(n) => rest = rest.get(n..).unwrap_or(&[]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock && retries > 0 => {
                    retries = retries.saturating_sub(1);
                    thread::sleep(PATIENCE);
                }
                Err(_) => break,
            }
        }
        let _ = self.sink.flush();
        self.bytes.clear();
    }
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

/// A handle on the output; clones share it.
#[derive(Clone)]
pub struct Output(Arc<Shared>);

impl Output {
    /// Output to `sink`. Starts the flusher.
    pub fn new(sink: Box<dyn Write + Send>) -> io::Result<Output> {
        let output = Output(Arc::new(Shared {
            state: Mutex::new(State { bytes: Vec::with_capacity(FULL), sink, flusher_idle: false }),
            wake: Condvar::new(),
        }));
        let flusher = output.clone();
        thread::Builder::new().name("output".into()).spawn(move || flusher.flusher())?;
        Ok(output)
    }

    /// Appends what the guest printed.
    pub fn put(&self, bytes: &[u8]) {
        let mut state = lock(&self.0.state);
        for chunk in bytes.chunks(FULL) {
            state.bytes.extend_from_slice(chunk);
            if state.bytes.len() >= FULL || chunk.ends_with(b"\n") {
                state.flush();
            }
        }
        if state.flusher_idle && !state.bytes.is_empty() {
            state.flusher_idle = false;
            self.0.wake.notify_one();
        }
    }

    /// Waits until what is pending is written out, but not for a reader that has stopped reading.
    pub fn drain(&self) {
        for _ in 0..DRAIN_TRIES {
            let drained = match self.0.state.try_lock() {
                Ok(state) => state.bytes.is_empty(),
                Err(TryLockError::Poisoned(state)) => state.get_ref().bytes.is_empty(),
                Err(TryLockError::WouldBlock) => false,
            };
            if drained {
                return;
            }
            thread::sleep(PATIENCE);
        }
    }

    fn flusher(&self) {
        let mut state = lock(&self.0.state);
        loop {
            state.flusher_idle = state.bytes.is_empty();
            while state.flusher_idle {
                state = self.0.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            drop(state);
            thread::sleep(PATIENCE);
            state = lock(&self.0.state);
            state.flush();
        }
    }
}

/// For devices that print through `Write`: a flush is not urgent.
impl Write for Output {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.put(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[derive(Clone, Default)]
    pub struct Captured(pub Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            lock(&self.0).extend_from_slice(buf);
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A reader that has stopped reading.
    struct Stuck;

    impl Write for Stuck {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            loop {
                thread::park();
            }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_reader_does_not_keep_the_program_from_ending() {
        let output = Output::new(Box::new(Stuck)).unwrap();
        output.put(b"x");
        output.drain();
    }

    #[test]
    fn lines_at_once_and_prompts_soon() {
        let captured = Captured::default();
        let output = Output::new(Box::new(captured.clone())).unwrap();
        output.put(b"one\n");
        assert_eq!(*lock(&captured.0), b"one\n");
        output.put(b"# ");
        for _ in 0..1000 {
            if lock(&captured.0).ends_with(b"# ") {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(*lock(&captured.0), b"one\n# ");
        output.put(b"x");
        output.drain();
        assert_eq!(*lock(&captured.0), b"one\n# x");
    }
}
