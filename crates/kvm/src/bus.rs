//! Devices that the kernel itself gives a VM: its MMIO bus. A VM of a VMM's has
//! none, and its accesses go to the run page.

use alloc::sync::Arc;
use alloc::vec::Vec;
use base::{Errno, Result, room};
use regime::HostRegime;

/// A device of a VM in the kernel. Accesses are of 1, 2, 4 or 8 bytes, at an
/// offset from where the device begins.
pub trait MmioDevice: Send + Sync {
    /// A read in the guest's world: no lock that others hold for long, and no
    /// interrupt line moves. `None` if it can't be done there.
    fn read_fast(&self, at: u64, size: u8) -> Option<u64>;

    /// A read.
    fn read(&self, regime: &HostRegime, at: u64, size: u8) -> u64;

    /// A write.
    fn write(&self, regime: &HostRegime, at: u64, size: u8, value: u64);
}

/// Where a device is.
#[derive(Clone)]
struct Place {
    base: u64,
    len: u64,
    device: Arc<dyn MmioDevice>,
}

/// A VM's devices, in the order of addresses.
#[derive(Clone, Default)]
pub struct Bus {
    places: Vec<Place>,
}

impl Bus {
    /// A bus without devices.
    pub const fn new() -> Self {
        Bus { places: Vec::new() }
    }

    /// The device at a guest physical address, and where in it.
    #[inline]
    pub fn find(&self, addr: u64) -> Option<(&dyn MmioDevice, u64)> {
        self.places.iter().find_map(|place| {
            let at = addr.wrapping_sub(place.base);
            (at < place.len).then_some((&*place.device, at))
        })
    }

    /// A bus with one more device. `EEXIST` if another is there, `EINVAL` if it
    /// is empty or goes round the end.
    pub fn with(&self, base: u64, len: u64, device: Arc<dyn MmioDevice>) -> Result<Bus> {
        let end = base.checked_add(len).filter(|_| len != 0).ok_or(Errno::EINVAL)?;
        if self.places.iter().any(|p| p.base < end && base < p.base.saturating_add(p.len)) {
            return Err(Errno::EEXIST);
        }
        let mut places = room::try_vec(self.places.len().saturating_add(1))?;
        places.extend_from_slice(&self.places);
        let at = places.partition_point(|place| place.base < base);
        places.insert(at, Place { base, len, device });
        Ok(Bus { places })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing(u64);

    impl MmioDevice for Nothing {
        fn read_fast(&self, at: u64, _: u8) -> Option<u64> {
            Some(self.0 + at)
        }
        fn read(&self, _: &HostRegime, at: u64, _: u8) -> u64 {
            self.0 + at
        }
        fn write(&self, _: &HostRegime, _: u64, _: u8, _: u64) {}
    }

    #[test]
    fn finds_what_was_put_there() {
        let device = |n| Arc::new(Nothing(n)) as Arc<dyn MmioDevice>;
        let bus = Bus::new().with(0x2000, 0x1000, device(2)).unwrap();
        let bus = bus.with(0x1000, 0x1000, device(1)).unwrap();
        assert_eq!(bus.with(0x1fff, 2, device(3)).err(), Some(Errno::EEXIST));
        assert_eq!(bus.with(0x5000, 0, device(3)).err(), Some(Errno::EINVAL));
        assert_eq!(bus.with(u64::MAX, 2, device(3)).err(), Some(Errno::EINVAL));
        let value = |addr| bus.find(addr).and_then(|(device, at)| device.read_fast(at, 4));
        assert_eq!(value(0xfff), None);
        assert_eq!(value(0x1000), Some(1));
        assert_eq!(value(0x1fff), Some(0x1000));
        assert_eq!(value(0x2000), Some(2));
        assert_eq!(value(0x3000), None);
    }
}
