//! The 16550 console, from vm-superio.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

use crate::bus::MmioDevice;
use crate::input::{Consumer, Input};
use crate::irq::Irq;
use crate::output::Output;
use crate::sync::lock;

/// The receive buffer register, and the modem control register with its loop bit.
const RBR: u8 = 0;
const MCR: u8 = 4;

/// An interrupt line as vm-superio wants it.
struct Line(Arc<dyn Irq>);

impl Trigger for Line {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.raise();
        Ok(())
    }
}

/// A 16550 on the bus: registers a byte wide and a byte apart.
pub struct SerialDevice {
    uart: Mutex<Serial<Line, NoEvents, Output>>,
    fifo_depth: usize,
    input: Option<Arc<Input>>,
}

impl SerialDevice {
    /// A UART that prints to `output` and, if it is the one that stdin feeds, reads `input`.
    pub fn new(irq: Arc<dyn Irq>, output: Output, input: Option<Arc<Input>>) -> SerialDevice {
        let uart = Serial::new(Line(irq), output);
        SerialDevice { fifo_depth: uart.fifo_capacity(), uart: Mutex::new(uart), input }
    }

    /// Moves waiting input to the receive FIFO if that is empty.
    fn refill(&self, uart: &mut Serial<Line, NoEvents, Output>) {
        let Some(input) = &self.input else { return };
        if uart.fifo_capacity() == self.fifo_depth {
            input.take(|bytes| {
                let n = bytes.len().min(uart.fifo_capacity());
                let fits = bytes.get(..n).unwrap_or(&[]);
                uart.enqueue_raw_bytes(fits).unwrap_or(0)
            });
        }
    }
}

impl Consumer for SerialDevice {
    fn input_ready(&self) {
        self.refill(&mut lock(&self.uart));
    }
}

impl MmioDevice for SerialDevice {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let (Ok(register), Some(byte)) = (u8::try_from(offset), data.first_mut()) else {
            return;
        };
        let mut uart = lock(&self.uart);
        *byte = uart.read(register);
        if register == RBR {
            self.refill(&mut uart);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let (Ok(register), Some(byte)) = (u8::try_from(offset), data.first()) else {
            return;
        };
        let mut uart = lock(&self.uart);
        // A byte that cannot be printed is lost, as on a wire that nobody listens to.
        let _ = uart.write(register, *byte);
        if register == MCR {
            // Leaving loop mode: input that came meanwhile can go on.
            self.refill(&mut uart);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::tests::Captured;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Irq for Count {
        fn raise(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn byte(uart: &SerialDevice, offset: u64) -> u8 {
        let mut b = [0];
        uart.read(offset, &mut b);
        b[0]
    }

    #[test]
    fn prints_and_reads() {
        let captured = Captured::default();
        let output = Output::new(Box::new(captured.clone())).unwrap();
        let irq = Arc::new(Count::default());
        let input = Input::new();
        let uart = Arc::new(SerialDevice::new(irq.clone(), output, Some(input.clone())));
        let consumer: Arc<dyn Consumer> = uart.clone();
        input.attach(&consumer);

        for b in b"hi\n" {
            uart.write(0, &[*b]);
        }
        assert_eq!(*lock(&captured.0), b"hi\n");

        uart.write(1, &[1]);
        let text: Vec<u8> = (0..200).collect();
        input.put(&text, false);
        assert!(irq.0.load(Ordering::Relaxed) > 0);
        let mut got = Vec::new();
        while byte(&uart, 5) & 1 != 0 {
            got.push(byte(&uart, 0));
        }
        assert_eq!(got, text);
    }

    #[test]
    fn input_is_not_lost_in_loop_mode() {
        let output = Output::new(Box::new(Captured::default())).unwrap();
        let input = Input::new();
        let uart =
            Arc::new(SerialDevice::new(Arc::new(Count::default()), output, Some(input.clone())));
        let consumer: Arc<dyn Consumer> = uart.clone();
        input.attach(&consumer);
        uart.write(4, &[0x10]);
        input.put(b"k", false);
        assert!(!input.is_empty());
        uart.write(4, &[0]);
        assert_eq!(byte(&uart, 0), b'k');
    }

    #[test]
    fn odd_accesses_are_harmless() {
        let output = Output::new(Box::new(Captured::default())).unwrap();
        let uart = SerialDevice::new(Arc::new(Count::default()), output, None);
        for offset in [0, 7, 8, 0xff, 0x100, 0xfff] {
            for width in [1, 2, 4, 8] {
                uart.read(offset, &mut vec![0; width]);
                uart.write(offset, &vec![0x5a; width]);
            }
        }
    }
}
