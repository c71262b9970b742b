//! The virtio-mmio transport, version 2 (Virtio 1.2, section 4.2), and nothing of the legacy one.

use std::io;
use std::sync::{Arc, Mutex};

use event_manager::{EventOps, EventSubscriber, Events};
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use crate::bus::MmioDevice;
use crate::error::{Context, Result};
use crate::irq::Irq;
use crate::memory::GuestMemory;
use crate::sync::lock;
use crate::virtio::VirtioDevice;

// Register offsets (4.2.2).
const MAGIC_VALUE: u64 = 0x000;
const VERSION: u64 = 0x004;
const DEVICE_ID: u64 = 0x008;
const VENDOR_ID: u64 = 0x00c;
const DEVICE_FEATURES: u64 = 0x010;
const DEVICE_FEATURES_SEL: u64 = 0x014;
const DRIVER_FEATURES: u64 = 0x020;
const DRIVER_FEATURES_SEL: u64 = 0x024;
const QUEUE_SEL: u64 = 0x030;
const QUEUE_NUM_MAX: u64 = 0x034;
const QUEUE_NUM: u64 = 0x038;
const QUEUE_READY: u64 = 0x044;
/// The notification register, which KVM can watch for us.
pub const QUEUE_NOTIFY: u64 = 0x050;
const INTERRUPT_STATUS: u64 = 0x060;
const INTERRUPT_ACK: u64 = 0x064;
const STATUS: u64 = 0x070;
const QUEUE_DESC_LOW: u64 = 0x080;
const QUEUE_DESC_HIGH: u64 = 0x084;
const QUEUE_DRIVER_LOW: u64 = 0x090;
const QUEUE_DRIVER_HIGH: u64 = 0x094;
const QUEUE_DEVICE_LOW: u64 = 0x0a0;
const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
const SHM_LEN_LOW: u64 = 0x0b0;
const SHM_BASE_HIGH: u64 = 0x0bc;
const CONFIG_GENERATION: u64 = 0x0fc;
const CONFIG: u64 = 0x100;

/// `"virt"`.
const MAGIC: u32 = 0x7472_6976;
/// `"HYPH"`.
const VENDOR: u32 = 0x4850_5948;

// Device status bits (2.1).
const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;
const NEEDS_RESET: u32 = 64;
const FAILED: u32 = 128;

// Interrupt status bits.
const USED_BUFFER: u32 = 1;
const CONFIG_CHANGE: u32 = 2;

// Feature bits of rings and transports (6).
const F_INDIRECT_DESC: u64 = 1 << 28;
const F_EVENT_IDX: u64 = 1 << 29;
const F_VERSION_1: u64 = 1 << 32;

struct State {
    device: Box<dyn VirtioDevice>,
    memory: GuestMemory,
    irq: Arc<dyn Irq>,
    queues: Vec<Queue>,
    status: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    interrupt_status: u32,
}

/// A virtio device on the bus.
pub struct VirtioMmio {
    state: Mutex<State>,
    kicks: Vec<EventFd>,
}

impl VirtioMmio {
    /// Puts `device` behind the transport.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: GuestMemory,
        irq: Arc<dyn Irq>,
    ) -> Result<VirtioMmio> {
        let mut queues = Vec::new();
        let mut kicks = Vec::new();
        for size in device.queue_sizes() {
            queues.push(Queue::new(*size).context("virtio queue")?);
            kicks.push(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).context("eventfd")?);
        }
        Ok(VirtioMmio {
            state: Mutex::new(State {
                device,
                memory,
                irq,
                queues,
                status: 0,
                device_features_sel: 0,
                driver_features_sel: 0,
                driver_features: 0,
                queue_sel: 0,
                interrupt_status: 0,
            }),
            kicks,
        })
    }

    /// Each queue's notification: KVM signals it, or a store to QUEUE_NOTIFY that exits to us, or the device's
    /// other side when it has something.
    pub fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    /// Has queue `index` served soon.
    pub fn kick(&self, index: usize) {
        if let Some(kick) = self.kicks.get(index) {
            let _ = kick.write(1);
        }
    }

    fn serve(&self, index: usize) {
        if lock(&self.state).serve(index) {
            self.kick(index);
        }
    }
}

impl State {
    fn offered(&self) -> u64 {
        self.device.features() | F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX
    }

    fn selected(&self) -> Option<&Queue> {
        self.queues.get(usize::try_from(self.queue_sel).ok()?)
    }

    fn read(&self, register: u64) -> u32 {
        match register {
            MAGIC_VALUE => MAGIC,
            VERSION => 2,
            DEVICE_ID => self.device.device_id(),
            VENDOR_ID => VENDOR,
            DEVICE_FEATURES => half(self.offered(), self.device_features_sel),
            QUEUE_NUM_MAX => self.selected().map_or(0, |q| u32::from(q.max_size())),
            QUEUE_READY => self.selected().map_or(0, |q| u32::from(q.ready())),
            INTERRUPT_STATUS => self.interrupt_status,
            STATUS => self.status,
            // No shared memory regions: length and base of all ones (4.2.2).
            SHM_LEN_LOW..=SHM_BASE_HIGH => u32::MAX,
            // The configuration never changes.
            CONFIG_GENERATION => 0,
            _ => 0,
        }
    }

    fn write(&mut self, register: u64, value: u32) {
        match register {
            DEVICE_FEATURES_SEL => self.device_features_sel = value,
            DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            DRIVER_FEATURES => self.accept_features(value),
            QUEUE_SEL => self.queue_sel = value,
            INTERRUPT_ACK => self.interrupt_status &= !value,
            STATUS => self.set_status(value),
            _ => self.configure_queue(register, value),
        }
    }

    /// The driver may name the features it takes until it has set FEATURES_OK.
    fn accept_features(&mut self, value: u32) {
        if self.status & (DRIVER | FEATURES_OK) != DRIVER {
            return;
        }
        let value = u64::from(value);
        self.driver_features = match self.driver_features_sel {
            0 => self.driver_features & !0xffff_ffff | value,
            1 => self.driver_features & 0xffff_ffff | value << 32,
            _ => self.driver_features,
        };
    }

    fn set_status(&mut self, value: u32) {
        if value == 0 {
            self.reset();
            return;
        }
        let mut new = value & (ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED);
        // Bits are only ever added, NEEDS_RESET is ours, and the steps come in order (3.1.1).
        new |= self.status;
        if self.status & FEATURES_OK == 0 && new & FEATURES_OK != 0 && !self.features_fit() {
            new &= !FEATURES_OK;
        }
        if new & FEATURES_OK == 0 {
            new &= !DRIVER_OK;
        }
        let started = new & !self.status & DRIVER_OK != 0;
        self.status = new;
        if started {
            let event_idx = self.driver_features & F_EVENT_IDX != 0;
            for queue in &mut self.queues {
                queue.set_event_idx(event_idx);
            }
        }
    }

    fn features_fit(&self) -> bool {
        self.status & DRIVER != 0
            && self.driver_features & !self.offered() == 0
            && self.driver_features & F_VERSION_1 != 0
    }

    fn reset(&mut self) {
        self.queues.iter_mut().for_each(QueueT::reset);
        self.status = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.driver_features = 0;
        self.queue_sel = 0;
        self.interrupt_status = 0;
    }

    /// Queues are set up after FEATURES_OK and before DRIVER_OK, and while they are not ready.
    fn configure_queue(&mut self, register: u64, value: u32) {
        if self.status & (FEATURES_OK | DRIVER_OK | FAILED | NEEDS_RESET) != FEATURES_OK {
            return;
        }
        let Ok(index) = usize::try_from(self.queue_sel) else { return };
        let Some(queue) = self.queues.get_mut(index) else { return };
        if register == QUEUE_READY {
            queue.set_ready(value == 1);
            // A queue that is not wholly in RAM does not become ready.
            let valid = queue.is_valid(&self.memory);
            queue.set_ready(valid);
            return;
        }
        if queue.ready() {
            return;
        }
        match register {
            QUEUE_NUM => queue.set_size(u16::try_from(value).unwrap_or(0)),
            QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
            QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
            QUEUE_DRIVER_LOW => queue.set_avail_ring_address(Some(value), None),
            QUEUE_DRIVER_HIGH => queue.set_avail_ring_address(None, Some(value)),
            QUEUE_DEVICE_LOW => queue.set_used_ring_address(Some(value), None),
            QUEUE_DEVICE_HIGH => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }

    /// Serves a queue; says whether it is to be served again.
    fn serve(&mut self, index: usize) -> bool {
        if self.status & (DRIVER_OK | FAILED | NEEDS_RESET) != DRIVER_OK {
            return false;
        }
        let Some(queue) = self.queues.get_mut(index).filter(|q| q.ready()) else {
            return false;
        };
        match self.device.process(index, queue, &self.memory) {
            Ok(served) => {
                if served.interrupt {
                    self.interrupt(USED_BUFFER);
                }
                served.again
            }
            Err(_) => {
                self.status |= NEEDS_RESET;
                self.interrupt(CONFIG_CHANGE);
                false
            }
        }
    }

    fn interrupt(&mut self, why: u32) {
        self.interrupt_status |= why;
        self.irq.raise();
    }
}

/// Half `sel` of a 64-bit set of features.
fn half(features: u64, sel: u32) -> u32 {
    let word = match sel {
        0 => features,
        1 => features >> 32,
        _ => 0,
    };
    u32::try_from(word & 0xffff_ffff).unwrap_or(0)
}

impl MmioDevice for VirtioMmio {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let state = lock(&self.state);
        if let Some(at) = offset.checked_sub(CONFIG) {
            // Beyond the end, and what the type does not have, reads as zero.
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            let config = state.device.config().get(at..).unwrap_or(&[]);
            for (to, from) in data.iter_mut().zip(config) {
                *to = *from;
            }
        } else if let Ok(data) = <&mut [u8; 4]>::try_from(data) {
            // Registers are words (4.2.2.2); other accesses read as zero.
            *data = state.read(offset).to_le_bytes();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        // None of our devices has writable configuration.
        if offset >= CONFIG {
            return;
        }
        let Ok(data) = <&[u8; 4]>::try_from(data) else { return };
        let value = u32::from_le_bytes(*data);
        if offset == QUEUE_NOTIFY {
            self.kick(usize::try_from(value).unwrap_or(usize::MAX));
        } else {
            lock(&self.state).write(offset, value);
        }
    }
}

impl EventSubscriber for VirtioMmio {
    fn process(&self, events: Events, _ops: &mut EventOps) {
        let index = usize::try_from(events.data()).unwrap_or(usize::MAX);
        let Some(kick) = self.kicks.get(index) else { return };
        match kick.read() {
            Ok(_) => self.serve(index),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => eprintln!("hypha-vmm: a virtio notification was lost: {e}"),
        }
    }

    fn init(&self, ops: &mut EventOps) {
        for (index, kick) in (0u32..).zip(&self.kicks) {
            if let Err(e) = ops.add(Events::with_data(kick, index, EventSet::IN)) {
                eprintln!("hypha-vmm: cannot watch a virtio notification: {e}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::{Answer, RingError, Served, serve};
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use virtio_queue::desc::RawDescriptor;
    use virtio_queue::desc::split::Descriptor;
    use virtio_queue::mock::MockSplitQueue;
    use vm_memory::GuestAddress;

    #[derive(Default)]
    struct Line(AtomicUsize);

    impl Irq for Line {
        fn raise(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Uses every chain, with as many bytes as it has descriptors.
    struct Echo;

    impl VirtioDevice for Echo {
        fn device_id(&self) -> u32 {
            42
        }
        fn features(&self) -> u64 {
            1 << 5
        }
        fn queue_sizes(&self) -> &[u16] {
            &[16, 8]
        }
        fn config(&self) -> &[u8] {
            &[1, 2, 3, 4, 5, 6, 7, 8]
        }
        fn process(
            &mut self,
            _: usize,
            ring: &mut Queue,
            memory: &GuestMemory,
        ) -> std::result::Result<Served, RingError> {
            serve(ring, memory, |chain| Answer::Used(u32::try_from(chain.count()).unwrap()))
        }
    }

    struct Bench {
        dev: VirtioMmio,
        line: Arc<Line>,
        memory: GuestMemory,
    }

    impl Bench {
        fn new() -> Bench {
            let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
            let line = Arc::new(Line::default());
            let dev = VirtioMmio::new(Box::new(Echo), memory.clone(), line.clone()).unwrap();
            Bench { dev, line, memory }
        }

        fn get(&self, register: u64) -> u32 {
            let mut word = [0; 4];
            self.dev.read(register, &mut word);
            u32::from_le_bytes(word)
        }

        fn set(&self, register: u64, value: u32) {
            self.dev.write(register, &value.to_le_bytes());
        }

        fn negotiate(&self, features: u64) {
            self.set(STATUS, 0);
            self.set(STATUS, ACKNOWLEDGE);
            self.set(STATUS, ACKNOWLEDGE | DRIVER);
            for sel in [0, 1] {
                self.set(DRIVER_FEATURES_SEL, sel);
                self.set(DRIVER_FEATURES, half(features, sel));
            }
            self.set(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        }

        fn set_up_queue(&self, vq: &MockSplitQueue<'_, GuestMemory>) {
            self.set(QUEUE_SEL, 0);
            self.set(QUEUE_NUM, 16);
            let low = |a: GuestAddress| u32::try_from(a.0).unwrap();
            self.set(QUEUE_DESC_LOW, low(vq.desc_table_addr()));
            self.set(QUEUE_DRIVER_LOW, low(vq.avail_addr()));
            self.set(QUEUE_DEVICE_LOW, low(vq.used_addr()));
            self.set(QUEUE_READY, 1);
        }
    }

    #[test]
    fn identifies_itself() {
        let b = Bench::new();
        assert_eq!(b.get(MAGIC_VALUE), MAGIC);
        assert_eq!(b.get(VERSION), 2);
        assert_eq!(b.get(DEVICE_ID), 42);
        assert_eq!(b.get(DEVICE_FEATURES), 1 << 5 | 3 << 28);
        b.set(DEVICE_FEATURES_SEL, 1);
        assert_eq!(b.get(DEVICE_FEATURES), 1);
        b.set(DEVICE_FEATURES_SEL, 2);
        assert_eq!(b.get(DEVICE_FEATURES), 0);
        assert_eq!(b.get(QUEUE_NUM_MAX), 16);
        b.set(QUEUE_SEL, 1);
        assert_eq!(b.get(QUEUE_NUM_MAX), 8);
        b.set(QUEUE_SEL, 2);
        assert_eq!(b.get(QUEUE_NUM_MAX), 0);
        assert_eq!(b.get(SHM_LEN_LOW), u32::MAX);
        // Configuration in any width, and past its end.
        let mut eight = [0; 8];
        b.dev.read(CONFIG + 4, &mut eight);
        assert_eq!(eight, [5, 6, 7, 8, 0, 0, 0, 0]);
        let mut one = [0];
        b.dev.read(CONFIG + 2, &mut one);
        assert_eq!(one, [3]);
        // A register in another width.
        let mut two = [0; 2];
        b.dev.read(MAGIC_VALUE, &mut two);
        assert_eq!(two, [0; 2]);
    }

    #[test]
    fn features_must_fit() {
        let b = Bench::new();
        b.negotiate(F_VERSION_1 | 1 << 5);
        assert_eq!(b.get(STATUS) & FEATURES_OK, FEATURES_OK);
        b.negotiate(F_VERSION_1 | 1 << 6);
        assert_eq!(b.get(STATUS) & FEATURES_OK, 0);
        b.negotiate(1 << 5);
        assert_eq!(b.get(STATUS) & FEATURES_OK, 0);
        // DRIVER_OK without FEATURES_OK does not stick either.
        b.set(STATUS, ACKNOWLEDGE | DRIVER | DRIVER_OK);
        assert_eq!(b.get(STATUS), ACKNOWLEDGE | DRIVER);
    }

    #[test]
    fn features_are_fixed_once_ok() {
        let b = Bench::new();
        b.negotiate(F_VERSION_1);
        b.set(DRIVER_FEATURES_SEL, 0);
        b.set(DRIVER_FEATURES, u32::MAX);
        assert_eq!(lock(&b.dev.state).driver_features, F_VERSION_1);
    }

    #[test]
    fn queues_outside_memory_do_not_become_ready() {
        let b = Bench::new();
        b.negotiate(F_VERSION_1);
        b.set(QUEUE_NUM, 16);
        b.set(QUEUE_DESC_LOW, 0x1000);
        b.set(QUEUE_DRIVER_LOW, 0x2000);
        b.set(QUEUE_DEVICE_HIGH, 1);
        b.set(QUEUE_READY, 1);
        assert_eq!(b.get(QUEUE_READY), 0);
        b.set(QUEUE_DEVICE_HIGH, 0);
        b.set(QUEUE_DEVICE_LOW, 0xf_fff0);
        b.set(QUEUE_READY, 1);
        assert_eq!(b.get(QUEUE_READY), 0);
        b.set(QUEUE_DEVICE_LOW, 0x3000);
        b.set(QUEUE_READY, 1);
        assert_eq!(b.get(QUEUE_READY), 1);
        // Ready queues do not move.
        b.set(QUEUE_DESC_LOW, 0x5000);
        assert_eq!(lock(&b.dev.state).queues[0].desc_table(), 0x1000);
    }

    #[test]
    fn a_round_trip() {
        let b = Bench::new();
        let memory = b.memory.clone();
        let vq = MockSplitQueue::new(&memory, 16);
        b.negotiate(F_VERSION_1);
        b.set_up_queue(&vq);
        let descs = [
            RawDescriptor::from(Descriptor::new(0x4000, 16, 1, 1)),
            RawDescriptor::from(Descriptor::new(0x5000, 16, 2, 0)),
        ];
        vq.build_multiple_desc_chains(&descs).unwrap();
        // Not before DRIVER_OK.
        b.dev.serve(0);
        assert_eq!(b.get(INTERRUPT_STATUS), 0);
        b.set(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        b.set(QUEUE_NOTIFY, 0);
        assert_eq!(b.dev.kicks()[0].read().unwrap(), 1);
        b.dev.serve(0);
        assert_eq!(b.get(INTERRUPT_STATUS), USED_BUFFER);
        assert_eq!(b.line.0.load(Ordering::Relaxed), 1);
        let used = vq.used().ring().ref_at(0).unwrap().load();
        assert_eq!((used.id(), used.len()), (0, 2));
        b.set(INTERRUPT_ACK, USED_BUFFER);
        assert_eq!(b.get(INTERRUPT_STATUS), 0);
        // Nothing more to do: no interrupt.
        b.dev.serve(0);
        assert_eq!(b.line.0.load(Ordering::Relaxed), 1);
        // Reset.
        b.set(STATUS, 0);
        assert_eq!((b.get(STATUS), b.get(QUEUE_READY)), (0, 0));
    }

    #[test]
    fn a_ring_without_sense_needs_a_reset() {
        let b = Bench::new();
        let memory = b.memory.clone();
        let vq = MockSplitQueue::new(&memory, 16);
        b.negotiate(F_VERSION_1);
        b.set_up_queue(&vq);
        b.set(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        vq.avail().idx().store(1000);
        b.dev.serve(0);
        assert_eq!(b.get(STATUS) & NEEDS_RESET, NEEDS_RESET);
        assert_eq!(b.get(INTERRUPT_STATUS), CONFIG_CHANGE);
        // It stays that way until the reset.
        b.set(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        assert_eq!(b.get(STATUS) & NEEDS_RESET, NEEDS_RESET);
        b.set(STATUS, 0);
        assert_eq!(b.get(STATUS), 0);
    }

    #[test]
    fn a_chain_that_loops_ends() {
        let b = Bench::new();
        let memory = b.memory.clone();
        let vq = MockSplitQueue::new(&memory, 16);
        b.negotiate(F_VERSION_1);
        b.set_up_queue(&vq);
        b.set(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        vq.desc_table().store(0, RawDescriptor::from(Descriptor::new(0x4000, 16, 1, 0))).unwrap();
        vq.avail().ring().ref_at(0).unwrap().store(0);
        vq.avail().idx().store(1);
        b.dev.serve(0);
        assert_eq!(vq.used().ring().ref_at(0).unwrap().load().len(), 16);
    }

    proptest! {
        /// Any sequence of register accesses and any ring contents.
        #[test]
        fn survives_any_driver(
            steps in prop::collection::vec((0u64..0x120, prop_oneof![0u32..16, any::<u32>(), Just(0xfu32)], 0u8..4), 0..80),
            ring in prop::collection::vec(any::<u8>(), 64),
        ) {
            use vm_memory::Bytes;
            let b = Bench::new();
            b.negotiate(F_VERSION_1);
            let memory = b.memory.clone();
            let vq = MockSplitQueue::new(&memory, 16);
            b.set_up_queue(&vq);
            b.memory.write_slice(&ring, vq.desc_table_addr()).unwrap();
            b.memory.write_slice(&ring, vq.avail_addr()).unwrap();
            b.set(STATUS, 0xf);
            for (offset, value, how) in steps {
                match how {
                    0 => b.dev.read(offset, &mut [0; 8]),
                    1 => b.dev.serve(usize::try_from(value % 3).unwrap()),
                    2 => b.dev.write(offset, &value.to_le_bytes()[..2]),
                    _ => b.set(offset & !3, value),
                }
            }
        }
    }
}
