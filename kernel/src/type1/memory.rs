//! A VM's memory: blocks of 2 MiB, from its first start to the end of days.
#![expect(unsafe_code, reason = "clears memory by blocks of the cache's own")]

use crate::memory::phys_to_virt;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use base::{BLOCK_SIZE, Errno, Result, room};
use domain::{Domain, Region, layout};
use frame::{Fill, Frame, Size};
use kvm::{AddressSpace, HostFrame, MmuNotifier};
use regime::HostRegime;

/// Memory in one piece, as the guest sees it.
struct Bank {
    guest: Region,
    blocks: Vec<Frame>,
}

/// A VM's memory. What KVM takes for the VMM's addresses are the guest's own.
pub struct GuestMemory {
    banks: Vec<Bank>,
}

impl GuestMemory {
    /// Takes it from the allocator, rounded up to whole blocks.
    pub fn alloc(domain: &Domain) -> Result<Arc<GuestMemory>> {
        let size = domain.memory.checked_next_multiple_of(BLOCK_SIZE).ok_or(Errno::ENOMEM)?;
        let mut banks = Vec::new();
        for guest in layout::banks(size) {
            let count = (guest.size / BLOCK_SIZE) as usize;
            let mut blocks = room::try_vec(count)?;
            for _ in 0..count {
                blocks.push(Frame::alloc(Size::Block, Fill::Stale)?);
            }
            banks.push(Bank { guest, blocks });
        }
        Ok(Arc::new(GuestMemory { banks }))
    }

    /// By the guest's addresses.
    pub fn regions(&self) -> Vec<Region> {
        self.banks.iter().map(|bank| bank.guest).collect()
    }

    /// Clears all of it, with interrupt windows.
    pub fn clear(&self, mut between: impl FnMut()) {
        for block in self.banks.iter().flat_map(|bank| &bank.blocks) {
            let start = phys_to_virt(block.addr().get()) as usize;
            // SAFETY: a whole block of the linear map, ours; its guest, if there
            // ever was one, has ended.
            unsafe { arch::cache::zero(start, BLOCK_SIZE as usize) };
            between();
        }
    }

    /// Copies `bytes` to a guest physical address, with interrupt windows.
    pub fn write(&self, at: u64, bytes: &[u8], mut between: impl FnMut()) -> Result<()> {
        let mut at = at;
        let mut left = bytes;
        while !left.is_empty() {
            let (block, offset) = self.block(at).ok_or(Errno::EFAULT)?;
            let room = BLOCK_SIZE.wrapping_sub(offset) as usize;
            let (now, rest) = left.split_at_checked(room).unwrap_or((left, &[]));
            block.write(offset, now)?;
            at = at.checked_add(now.len() as u64).ok_or(Errno::EFAULT)?;
            left = rest;
            between();
        }
        Ok(())
    }

    /// The block that holds a guest physical address, and where in it.
    fn block(&self, at: u64) -> Option<(&Frame, u64)> {
        let bank = self.banks.iter().find(|b| b.guest.contains(&Region::new(at, 1)))?;
        let offset = at.wrapping_sub(bank.guest.start);
        let block = bank.blocks.get((offset / BLOCK_SIZE) as usize)?;
        Some((block, offset % BLOCK_SIZE))
    }
}

impl AddressSpace for GuestMemory {
    fn id(&self) -> u64 {
        core::ptr::from_ref(self).addr() as u64
    }

    /// Nothing is ever taken back while a VM lives.
    fn sequence(&self) -> u64 {
        0
    }

    fn is_current(&self, _: u64) -> bool {
        true
    }

    fn get_frame(&self, _: &HostRegime, addr: u64, _write: bool) -> Result<HostFrame> {
        let (block, _) = self.block(addr).ok_or(Errno::EFAULT)?;
        Ok(HostFrame { frame: block.clone(), writable: true })
    }

    fn register(&self, _: Weak<dyn MmuNotifier>) -> Result<()> {
        Ok(())
    }
}
