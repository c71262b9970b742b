//! Virtio devices (Virtual I/O Device 1.2) behind the MMIO transport.

pub mod block;
pub mod console;
pub mod mmio;
pub mod rng;

use virtio_queue::{Queue, QueueOwnedT, QueueT};

use crate::memory::GuestMemory;

/// What the transport needs of a device.
pub trait VirtioDevice: Send {
    /// The device type's number.
    fn device_id(&self) -> u32;

    /// The feature bits that are the type's own; the transport adds those of the ring and VERSION_1.
    fn features(&self) -> u64 {
        0
    }

    /// Each queue's greatest size.
    fn queue_sizes(&self) -> &[u16];

    /// The configuration space, as long as the type makes it.
    fn config(&self) -> &[u8] {
        &[]
    }

    /// Serves a queue that the driver has filled, or whose other side became ready. The driver is hostile: what
    /// it says is checked, and the work of one call is bounded by [`serve`].
    fn process(
        &mut self,
        queue: usize,
        ring: &mut Queue,
        memory: &GuestMemory,
    ) -> Result<Served, RingError>;
}

/// The ring itself makes no sense: the device needs a reset.
pub type RingError = virtio_queue::Error;

/// How serving a queue went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Served {
    /// The driver is to be interrupted.
    pub interrupt: bool,
    /// There is more to do; it was left for later so that others get their turn.
    pub again: bool,
}

/// A descriptor chain in guest memory.
pub type Chain<'a> = virtio_queue::DescriptorChain<&'a GuestMemory>;

/// What to do with one chain.
pub enum Answer {
    /// It is used; so many bytes were written to it.
    Used(u32),
    /// Put it back and stop: there is nothing to fill it with yet.
    Later,
}

/// Takes chains off `ring` and hands each to `each`, until the ring is empty or a ring's worth of them is done.
pub fn serve(
    ring: &mut Queue,
    memory: &GuestMemory,
    mut each: impl FnMut(Chain<'_>) -> Answer,
) -> Result<Served, RingError> {
    let mut served = Served::default();
    let mut used = false;
    let mut budget = ring.size();
    ring.disable_notification(memory)?;
    loop {
        let Some(chain) = ring.iter(memory)?.next() else {
            if ring.enable_notification(memory)? {
                ring.disable_notification(memory)?;
                continue;
            }
            break;
        };
        // A chain that was in the ring a moment ago and is gone now would be a driver's trick; the budget
        // covers the `continue` above too, as it only follows a chain that appeared.
        if budget == 0 {
            ring.go_to_previous_position();
            served.again = true;
            break;
        }
        budget = budget.saturating_sub(1);
        let head = chain.head_index();
        match each(chain) {
            Answer::Used(written) => {
                ring.add_used(memory, head, written)?;
                used = true;
            }
            Answer::Later => {
                // The driver need not say again that there is room: the device knows when it has something.
                ring.go_to_previous_position();
                break;
            }
        }
    }
    served.interrupt = used && ring.needs_notification(memory)?;
    Ok(served)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};
    use virtio_queue::mock::MockSplitQueue;
    use vm_memory::{Address, Bytes, GuestAddress};

    const SIZE: u16 = 16;

    /// One ring in a MiB of memory, and the driver's side of it.
    pub struct Ring {
        pub memory: GuestMemory,
        queue: RefCell<Queue>,
        desc: GuestAddress,
        avail: GuestAddress,
        used: GuestAddress,
        next: Cell<u16>,
        heads: Cell<u16>,
    }

    impl Ring {
        pub fn new() -> Ring {
            let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
            let (queue, desc, avail, used) = {
                let mock = MockSplitQueue::new(&memory, SIZE);
                let queue: Queue = mock.create_queue().unwrap();
                (queue, mock.desc_table_addr(), mock.avail_addr(), mock.used_addr())
            };
            Ring {
                memory,
                queue: RefCell::new(queue),
                desc,
                avail,
                used,
                next: Cell::new(0),
                heads: Cell::new(0),
            }
        }

        /// Puts a chain of (address, length, device-writable) into the ring.
        pub fn chain(&self, parts: &[(u64, u32, bool)]) {
            let head = self.next.get();
            for (i, (addr, len, writable)) in parts.iter().enumerate() {
                let index = self.next.get();
                self.next.set(index + 1);
                let more = i + 1 < parts.len();
                let flags = u16::from(more) | u16::from(*writable) << 1;
                let at = self.desc.unchecked_add(u64::from(index) * 16);
                self.memory.write_obj(*addr, at).unwrap();
                self.memory.write_obj(*len, at.unchecked_add(8)).unwrap();
                self.memory.write_obj(flags, at.unchecked_add(12)).unwrap();
                self.memory.write_obj(index + 1, at.unchecked_add(14)).unwrap();
            }
            let n = self.heads.get();
            self.memory.write_obj(head, self.avail.unchecked_add(4 + u64::from(n) * 2)).unwrap();
            self.heads.set(n + 1);
            self.memory.write_obj(n + 1, self.avail.unchecked_add(2)).unwrap();
        }

        pub fn serve(
            &self,
            device: &mut dyn VirtioDevice,
            queue: usize,
        ) -> Result<Served, RingError> {
            device.process(queue, &mut self.queue.borrow_mut(), &self.memory)
        }

        /// The lengths in the used ring.
        pub fn used(&self) -> Vec<u32> {
            let count: u16 = self.memory.read_obj(self.used.unchecked_add(2)).unwrap();
            (0..count)
                .map(|i| {
                    self.memory.read_obj(self.used.unchecked_add(8 + u64::from(i) * 8)).unwrap()
                })
                .collect()
        }

        pub fn read(&self, addr: u64, len: usize) -> Vec<u8> {
            let mut v = vec![0; len];
            self.memory.read_slice(&mut v, GuestAddress(addr)).unwrap();
            v
        }

        pub fn write(&self, addr: u64, bytes: &[u8]) {
            self.memory.write_slice(bytes, GuestAddress(addr)).unwrap();
        }
    }
}
