//! A virtio block device (virtio 1.2, 4.2 and 5.2), as far as reading one block at
//! a time takes: one queue, one request.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering::SeqCst};
use guest_rt::machine::Machine;
use guest_rt::{cpu, gic, mmio, mrs};

/// What one request reads.
pub const BYTES: u32 = 4096;
const QUEUE: u32 = 8;

// Registers (4.2.2).
const MAGIC: u64 = 0x0;
const DEVICE_ID: u64 = 0x8;
const DRIVER_FEATURES: u64 = 0x20;
const DRIVER_FEATURES_SEL: u64 = 0x24;
const QUEUE_SEL: u64 = 0x30;
const QUEUE_NUM: u64 = 0x38;
const QUEUE_READY: u64 = 0x44;
const QUEUE_NOTIFY: u64 = 0x50;
const INTERRUPT_STATUS: u64 = 0x60;
const INTERRUPT_ACK: u64 = 0x64;
const STATUS: u64 = 0x70;
const QUEUE_DESC: u64 = 0x80;
const QUEUE_DRIVER: u64 = 0x90;
const QUEUE_DEVICE: u64 = 0xa0;

const BLOCK_DEVICE: u32 = 2;
/// ACKNOWLEDGE, DRIVER; then FEATURES_OK; then DRIVER_OK.
const STEPS: [u32; 4] = [0, 3, 3 | 8, 3 | 8 | 4];
const NEXT: u16 = 1;
const WRITE: u16 = 2;

#[repr(C, align(16))]
struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

/// What the device reads and writes (2.7): all of it ours and its.
#[repr(C, align(4096))]
struct Shared {
    data: [u8; BYTES as usize],
    descriptors: [Descriptor; QUEUE as usize],
    /// Flags, index, ring.
    available: [u16; 2 + QUEUE as usize],
    /// Flags and index, then 8 bytes each.
    used: [u32; 1 + 2 * QUEUE as usize],
    /// Type, reserved, sector.
    header: [u64; 2],
    status: u8,
}

struct Cell(UnsafeCell<Shared>);

// SAFETY: one CPU uses it, and the device when it is told to.
unsafe impl Sync for Cell {}

static SHARED: Cell = Cell(UnsafeCell::new(Shared {
    data: [0; BYTES as usize],
    descriptors: [const { Descriptor { address: 0, len: 0, flags: 0, next: 0 } }; QUEUE as usize],
    available: [0; 2 + QUEUE as usize],
    used: [0; 1 + 2 * QUEUE as usize],
    header: [0; 2],
    status: 0,
}));

static DEVICE: AtomicU64 = AtomicU64::new(0);
static SENT: AtomicU16 = AtomicU16::new(0);

/// Is it a block device?
pub fn is_there(m: &Machine) -> bool {
    let magic = u32::from_le_bytes(*b"virt");
    m.virtio != 0
        && m.virtio_spi != 0
        && mmio::read32(m.virtio + MAGIC) == magic
        && mmio::read32(m.virtio + DEVICE_ID) == BLOCK_DEVICE
}

/// Sets it up, its interrupt too.
pub fn init(m: &Machine) {
    let at = m.virtio;
    let shared = SHARED.0.get();
    // SAFETY: the device doesn't know of it yet.
    let shared = unsafe { &mut *shared };
    let part = [
        (&raw const shared.header as u64, 16, NEXT),
        (&raw const shared.data as u64, BYTES, NEXT | WRITE),
        (&raw const shared.status as u64, 1, WRITE),
    ];
    for (i, (address, len, flags)) in part.into_iter().enumerate() {
        shared.descriptors[i] = Descriptor { address, len, flags, next: i as u16 + 1 };
    }
    mmio::write32(at + STATUS, STEPS[0]);
    mmio::write32(at + STATUS, STEPS[1]);
    mmio::write32(at + DRIVER_FEATURES_SEL, 0);
    mmio::write32(at + DRIVER_FEATURES, 0);
    mmio::write32(at + DRIVER_FEATURES_SEL, 1);
    mmio::write32(at + DRIVER_FEATURES, 1); // VIRTIO_F_VERSION_1.
    mmio::write32(at + STATUS, STEPS[2]);
    mmio::write32(at + QUEUE_SEL, 0);
    mmio::write32(at + QUEUE_NUM, QUEUE);
    let places = [
        (QUEUE_DESC, &raw const shared.descriptors as u64),
        (QUEUE_DRIVER, &raw const shared.available as u64),
        (QUEUE_DEVICE, &raw const shared.used as u64),
    ];
    for (register, address) in places {
        mmio::write32(at + register, address as u32);
        mmio::write32(at + register + 4, (address >> 32) as u32);
    }
    mmio::write32(at + QUEUE_READY, 1);
    mmio::write32(at + STATUS, STEPS[3]);
    gic::enable_spi(m, m.virtio_spi, mrs!("mpidr_el1"), true);
    DEVICE.store(at, SeqCst);
}

/// The interrupt's handler: tells the device that it was heard.
pub fn acknowledge() {
    let at = DEVICE.load(SeqCst);
    if at != 0 {
        mmio::write32(at + INTERRUPT_ACK, mmio::read32(at + INTERRUPT_STATUS));
    }
}

/// Prepares a read of the first block; [`go`] starts it.
pub fn prepare() {
    let shared = SHARED.0.get();
    let sent = SENT.load(SeqCst);
    // SAFETY: the device has answered the last request, and looks at the index only.
    unsafe {
        (*shared).status = 0xff;
        (*shared).available[2 + usize::from(sent) % QUEUE as usize] = 0;
    }
    cpu::dsb();
    // SAFETY: as above.
    unsafe { (&raw mut (*shared).available[1]).write_volatile(sent.wrapping_add(1)) };
    SENT.store(sent.wrapping_add(1), SeqCst);
    cpu::dsb();
}

/// Tells the device.
#[inline(always)]
pub fn go() {
    mmio::write32(DEVICE.load(SeqCst) + QUEUE_NOTIFY, 0);
}

/// Has the device read the block?
pub fn done() -> bool {
    // SAFETY: a byte that the device writes.
    unsafe { (&raw const (*SHARED.0.get()).status).read_volatile() == 0 }
}
