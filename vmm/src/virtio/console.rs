//! The console device (Virtio 1.2, section 5.3) with its one port.

use std::io::{Read, Write};
use std::sync::{Arc, Weak};

use virtio_queue::Queue;

use crate::input::{Consumer, Input};
use crate::memory::GuestMemory;
use crate::output::Output;
use crate::virtio::mmio::VirtioMmio;
use crate::virtio::{Answer, Chain, RingError, Served, VirtioDevice, serve};

/// The port's queues.
const RECEIVE: usize = 0;

/// How much is copied at once.
const CHUNK: usize = 512;

/// Most of one chain that is printed; a driver sends a page at a time.
const MOST: usize = 64 << 10;

/// A console that prints to `output` and, if it is the one that stdin feeds, reads `input`.
pub struct Console {
    output: Output,
    input: Option<Arc<Input>>,
}

impl Console {
    /// A console on `output` and perhaps `input`.
    pub fn new(output: Output, input: Option<Arc<Input>>) -> Console {
        Console { output, input }
    }

    fn transmit(&self, chain: Chain<'_>) {
        let memory = chain.memory();
        let Ok(reader) = chain.clone().reader(memory) else { return };
        let mut reader = reader.take(u64::try_from(MOST).unwrap_or(0));
        let mut buffer = [0; CHUNK];
        while let Ok(n @ 1..) = reader.read(&mut buffer) {
            self.output.put(buffer.get(..n).unwrap_or(&[]));
        }
    }

    fn receive(input: Option<&Input>, chain: Chain<'_>) -> Answer {
        let Some(input) = input.filter(|i| !i.is_empty()) else {
            return Answer::Later;
        };
        let memory = chain.memory();
        let Ok(mut writer) = chain.clone().writer(memory) else {
            return Answer::Used(0);
        };
        let mut written = 0;
        input.take(|bytes| {
            let n = bytes.len().min(writer.available_bytes());
            if writer.write_all(bytes.get(..n).unwrap_or(&[])).is_ok() {
                written = n;
            }
            written
        });
        Answer::Used(u32::try_from(written).unwrap_or(0))
    }
}

impl VirtioDevice for Console {
    fn device_id(&self) -> u32 {
        3
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64, 64]
    }

    fn process(
        &mut self,
        queue: usize,
        ring: &mut Queue,
        memory: &GuestMemory,
    ) -> Result<Served, RingError> {
        if queue == RECEIVE {
            serve(ring, memory, |chain| Console::receive(self.input.as_deref(), chain))
        } else {
            serve(ring, memory, |chain| {
                self.transmit(chain);
                Answer::Used(0)
            })
        }
    }
}

/// Has the receive queue served when there is input.
pub struct ConsoleInput(Weak<VirtioMmio>);

impl ConsoleInput {
    /// For the console behind `transport`.
    pub fn new(transport: &Arc<VirtioMmio>) -> ConsoleInput {
        ConsoleInput(Arc::downgrade(transport))
    }
}

impl Consumer for ConsoleInput {
    fn input_ready(&self) {
        if let Some(transport) = self.0.upgrade() {
            transport.kick(RECEIVE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::tests::Captured;
    use crate::sync::lock;
    use crate::virtio::tests::Ring;

    #[test]
    fn prints() {
        let captured = Captured::default();
        let output = Output::new(Box::new(captured.clone())).unwrap();
        let mut console = Console::new(output.clone(), None);
        let ring = Ring::new();
        ring.write(0x4000, b"hello ");
        ring.write(0x5000, b"world\n");
        ring.chain(&[(0x4000, 6, false), (0x5000, 6, false), (0x6000, 6, true)]);
        ring.chain(&[(u64::MAX, 6, false)]);
        ring.serve(&mut console, 1).unwrap();
        output.drain();
        assert_eq!(*lock(&captured.0), b"hello world\n");
        assert_eq!(ring.used(), [0, 0]);
    }

    #[test]
    fn receives_as_input_comes() {
        let output = Output::new(Box::new(Captured::default())).unwrap();
        let input = Input::new();
        let mut console = Console::new(output, Some(input.clone()));
        let ring = Ring::new();
        ring.chain(&[(0x4000, 4, true)]);
        ring.chain(&[(0x5000, 4, true)]);
        assert_eq!(ring.serve(&mut console, 0).unwrap(), Served::default());
        assert!(ring.used().is_empty());
        input.put(b"abcdef", false);
        assert!(ring.serve(&mut console, 0).unwrap().interrupt);
        assert_eq!(ring.used(), [4, 2]);
        assert_eq!(ring.read(0x4000, 4), b"abcd");
        assert_eq!(ring.read(0x5000, 2), b"ef");
    }

    #[test]
    fn a_chain_without_room_does_not_eat_input_or_hang() {
        let output = Output::new(Box::new(Captured::default())).unwrap();
        let input = Input::new();
        input.put(b"a", false);
        let mut console = Console::new(output, Some(input.clone()));
        let ring = Ring::new();
        ring.chain(&[(0x4000, 4, false)]);
        ring.chain(&[(0x4000, 4, true)]);
        ring.serve(&mut console, 0).unwrap();
        assert_eq!(ring.used(), [0, 1]);
        assert!(input.is_empty());
    }
}
