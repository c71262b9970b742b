//! Device registers.

/// A device's registers, mapped as Device memory.
#[derive(Clone, Copy, Debug)]
pub struct Mmio {
    base: u64,
    len: u64,
}

impl Mmio {
    /// # Safety
    /// `[base, base + len)` is mapped as Device memory for good, and nothing
    /// that these registers do can break Rust's memory (no DMA set up through
    /// them without care).
    pub const unsafe fn new(base: u64, len: u64) -> Self {
        Mmio { base, len }
    }

    fn pointer<T>(&self, offset: u64) -> Option<*mut T> {
        let end = offset.checked_add(size_of::<T>() as u64)?;
        let aligned = offset.is_multiple_of(size_of::<T>() as u64);
        let address = self.base.wrapping_add(offset) as usize;
        (aligned && end <= self.len).then(|| core::ptr::with_exposed_provenance_mut(address))
    }

    /// Reads a register; all ones outside the device.
    #[inline]
    pub fn read32(&self, offset: u64) -> u32 {
        // SAFETY: in range and aligned; the rest is the contract of `new`.
        self.pointer::<u32>(offset).map_or(u32::MAX, |p| unsafe { p.read_volatile() })
    }

    /// Writes a register; nothing happens outside the device.
    #[inline]
    pub fn write32(&self, offset: u64, value: u32) {
        if let Some(p) = self.pointer::<u32>(offset) {
            // SAFETY: as for `read32`.
            unsafe { p.write_volatile(value) }
        }
    }

    /// Reads a 64-bit register; all ones outside the device.
    #[inline]
    pub fn read64(&self, offset: u64) -> u64 {
        // SAFETY: as for `read32`.
        self.pointer::<u64>(offset).map_or(u64::MAX, |p| unsafe { p.read_volatile() })
    }

    /// Writes a 64-bit register; nothing happens outside the device.
    #[inline]
    pub fn write64(&self, offset: u64, value: u64) {
        if let Some(p) = self.pointer::<u64>(offset) {
            // SAFETY: as for `read32`.
            unsafe { p.write_volatile(value) }
        }
    }

    /// Reads a byte-wide register; all ones outside the device.
    #[inline]
    pub fn read8(&self, offset: u64) -> u8 {
        // SAFETY: as for `read32`.
        self.pointer::<u8>(offset).map_or(u8::MAX, |p| unsafe { p.read_volatile() })
    }

    /// Writes a byte-wide register; nothing happens outside the device.
    #[inline]
    pub fn write8(&self, offset: u64, value: u8) {
        if let Some(p) = self.pointer::<u8>(offset) {
            // SAFETY: as for `read32`.
            unsafe { p.write_volatile(value) }
        }
    }
}
