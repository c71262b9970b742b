//! The MMIO bus: finds the device that an address belongs to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Error, Result};

/// A device that answers loads and stores.
///
/// `offset` lies within the window that the device was placed at; `data` has 1, 2, 4 or 8 bytes, little-endian.
/// Reads find `data` zeroed.
pub trait MmioDevice: Send + Sync {
    /// The guest loads.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// The guest stores.
    fn write(&self, offset: u64, data: &[u8]);
}

struct Window {
    base: u64,
    size: u64,
    device: Arc<dyn MmioDevice>,
}

/// How many stray accesses are reported.
const REPORTS: u32 = 8;

/// All windows, sorted by address. Loads from nowhere give zero, stores to nowhere are dropped.
#[derive(Default)]
pub struct Bus {
    windows: Vec<Window>,
    strays: AtomicU32,
}

impl Bus {
    /// An empty bus.
    pub fn new() -> Bus {
        Bus::default()
    }

    /// Places `device` at `base`.
    pub fn insert(&mut self, base: u64, size: u64, device: Arc<dyn MmioDevice>) -> Result<()> {
        let overlap = self
            .windows
            .iter()
            .any(|w| base < w.base.saturating_add(w.size) && w.base < base.saturating_add(size));
        if size == 0 || overlap {
            return Err(Error::new(format!("MMIO window {base:#x}+{size:#x} overlaps another")));
        }
        let at = self.windows.partition_point(|w| w.base < base);
        self.windows.insert(at, Window { base, size, device });
        Ok(())
    }

    /// The device at `addr` for an access of `len` bytes, and the offset within its window.
    fn find(&self, addr: u64, len: usize) -> Option<(&dyn MmioDevice, u64)> {
        let at = self.windows.partition_point(|w| w.base <= addr).checked_sub(1)?;
        let window = self.windows.get(at)?;
        let offset = addr.checked_sub(window.base)?;
        let end = offset.checked_add(u64::try_from(len).ok()?)?;
        (end <= window.size).then_some((window.device.as_ref(), offset))
    }

    /// A load of `data.len()` bytes.
    pub fn read(&self, addr: u64, data: &mut [u8]) {
        data.fill(0);
        match self.find(addr, data.len()) {
            Some((device, offset)) => device.read(offset, data),
            None => self.stray("load from", addr),
        }
    }

    /// A store of `data.len()` bytes.
    pub fn write(&self, addr: u64, data: &[u8]) {
        match self.find(addr, data.len()) {
            Some((device, offset)) => device.write(offset, data),
            None => self.stray("store to", addr),
        }
    }

    fn stray(&self, what: &str, addr: u64) {
        // A guest could fill the terminal with these.
        if self.strays.fetch_add(1, Ordering::Relaxed) < REPORTS {
            eprintln!("hypha-vmm: guest's {what} {addr:#x}, where there is nothing");
        } else {
            self.strays.store(REPORTS, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Probe(Mutex<Vec<(u64, usize)>>);

    impl MmioDevice for Probe {
        fn read(&self, offset: u64, data: &mut [u8]) {
            self.0.lock().unwrap().push((offset, data.len()));
            data.fill(0xaa);
        }
        fn write(&self, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.len()));
        }
    }

    #[test]
    fn finds_devices_and_refuses_overlap() {
        let (a, b) = (Arc::new(Probe::default()), Arc::new(Probe::default()));
        let mut bus = Bus::new();
        bus.insert(0x2000, 0x1000, b.clone()).unwrap();
        bus.insert(0x1000, 0x1000, a.clone()).unwrap();
        assert!(bus.insert(0x1fff, 1, a.clone()).is_err());
        assert!(bus.insert(0, 0x1001, a.clone()).is_err());
        assert!(bus.insert(0x3000, 0, a.clone()).is_err());

        let mut data = [0u8; 4];
        bus.read(0x1ffc, &mut data);
        assert_eq!(data, [0xaa; 4]);
        bus.write(0x2000, &[1]);
        // Across the border of two windows, before the first and behind the last: nothing there.
        for addr in [0x1ffe, 0xfff, 0x3000, u64::MAX] {
            data = [7; 4];
            bus.read(addr, &mut data);
            assert_eq!(data, [0; 4]);
            bus.write(addr, &data);
        }
        assert_eq!(*a.0.lock().unwrap(), [(0xffc, 4)]);
        assert_eq!(*b.0.lock().unwrap(), [(0, 1)]);
    }
}
