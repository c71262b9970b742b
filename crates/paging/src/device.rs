//! Devices that guests reach without an exit.

use crate::regime::{Memory, Stage2, Stage2Attrs};
use crate::table::PageTable;
use base::{Errno, PAGE_SIZE, PhysAddr, Result};

/// Registers of the machine's that a guest may use as it likes: the virtual CPU
/// interface of a GICv2, or those of a device that is the guest's alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestDevice {
    base: PhysAddr,
    len: u64,
}

impl GuestDevice {
    /// `len` bytes from `base`; none unless they are whole pages.
    ///
    /// # Safety
    ///
    /// Nothing that is done to these registers can reach memory, or disturb anybody
    /// but the guest whose state is in them; or whoever set the machine up said that
    /// the guest is trusted not to.
    pub unsafe fn new(base: PhysAddr, len: u64) -> Option<GuestDevice> {
        let aligned = base.get().is_multiple_of(PAGE_SIZE) && len.is_multiple_of(PAGE_SIZE);
        if aligned && len != 0 { Some(GuestDevice { base, len }) } else { None }
    }

    /// One that isn't there, for tests on a machine without stage 2.
    #[cfg(not(target_os = "none"))]
    pub fn hosted(base: u64, len: u64) -> Option<GuestDevice> {
        // SAFETY: nobody walks stage 2 here.
        unsafe { GuestDevice::new(PhysAddr::new(base), len) }
    }

    /// How many bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        false
    }
}

impl PageTable<Stage2> {
    /// Maps the page at `offset` of `device` at guest physical `at`. `EEXIST` if
    /// something is mapped there.
    pub fn map_device(&mut self, at: u64, device: &GuestDevice, offset: u64) -> Result<()> {
        let end = offset.checked_add(PAGE_SIZE).ok_or(Errno::EINVAL)?;
        let from = device.base.get().checked_add(offset).ok_or(Errno::EINVAL)?;
        if end > device.len {
            return Err(Errno::EINVAL);
        }
        let attrs = Stage2Attrs { read: true, write: true, exec: false, memory: Memory::Device };
        // SAFETY: a page of the device, which guests may use: the promise of
        // `GuestDevice::new`.
        unsafe { self.map_raw(at, PhysAddr::new(from), PAGE_SIZE, attrs) }
    }
}
