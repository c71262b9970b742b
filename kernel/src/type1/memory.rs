//! A VM's memory, from its first start to its last end: blocks of 2 MiB of any, or
//! what the device tree names; and what VMs share.
#![expect(unsafe_code, reason = "clears memory by blocks of the cache's own, and takes it by address")]

use crate::memory::phys_to_virt;
use crate::sched;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use base::{BLOCK_SIZE, Errno, Lock, PhysAddr, Result, Room, WaitQueue, rank, room};
use domain::{Domain, Region, SharedMemory, layout};
use frame::{Fill, Frame, GIGABYTE, Size};
use kvm::{AddressSpace, Bank, HostFrame, MmuNotifier};
use regime::HostRegime;
use spin::Once;

/// A VM's memory. What KVM takes for the VMM's addresses are the guest's own.
pub struct GuestMemory {
    /// RAM.
    banks: Vec<Bank>,
    /// Others have it, too.
    shared: Vec<Bank>,
}

/// What VMs share: it stays when a VM starts anew.
struct Shared {
    /// `xen,shm-id`.
    id: String,
    /// There once it is cleared.
    frames: Once<Result<Vec<Frame>>>,
    changed: WaitQueue,
}

static SHARED: Lock<Vec<Arc<Shared>>> = Lock::new(rank::INODE, Vec::new());

impl GuestMemory {
    /// What the domain is to have, with interrupt windows. Called once: memory with an
    /// address can be taken but once.
    pub fn take(domain: &Domain) -> Result<Arc<GuestMemory>> {
        let mut between = sched::breathe;
        let size = layout::ram_size(domain);
        let banks = if !domain.static_memory.is_empty() {
            let places = layout::static_banks(domain);
            let bank = |(guest, host): (Region, u64)| {
                let there = Region::new(host, guest.size);
                Ok(Bank::new(guest.start, adopt(there, size_for(guest, host), &mut between)?))
            };
            places.into_iter().map(bank).collect::<Result<Vec<Bank>>>()?
        } else if domain.direct_map {
            where_it_lies(any(size, Size::Block, &mut between)?)
        } else {
            let bank = |guest: Region| {
                Ok(Bank::new(guest.start, any(guest.size, Size::Block, &mut between)?))
            };
            layout::banks(size).into_iter().map(bank).collect::<Result<Vec<Bank>>>()?
        };
        let wanted = domain.shared_memory.iter();
        let shared = wanted.map(|wanted| shared(wanted, between)).collect::<Result<Vec<Bank>>>()?;
        Ok(Arc::new(GuestMemory { banks, shared }))
    }

    /// RAM, by the guest's addresses; the kernel goes to the first.
    pub fn ram(&self) -> Vec<Region> {
        self.banks.iter().map(region).collect()
    }

    /// All that is to be mapped, by the guest's addresses.
    pub fn regions(&self) -> impl Iterator<Item = Region> {
        self.banks.iter().chain(&self.shared).map(region)
    }

    /// Clears the RAM, with interrupt windows.
    pub fn clear(&self, mut between: impl FnMut()) {
        for frame in self.banks.iter().flat_map(|bank| &bank.frames) {
            clear(frame);
            between();
        }
    }

    /// Copies `bytes` to a guest physical address, with interrupt windows.
    pub fn write(&self, at: u64, bytes: &[u8], mut between: impl FnMut()) -> Result<()> {
        let mut at = at;
        let mut left = bytes;
        while !left.is_empty() {
            let (frame, offset) = self.frame(at).ok_or(Errno::EFAULT)?;
            let room = frame.size().bytes().wrapping_sub(offset) as usize;
            let (now, rest) = left.split_at_checked(room).unwrap_or((left, &[]));
            frame.write(offset, now)?;
            at = at.checked_add(now.len() as u64).ok_or(Errno::EFAULT)?;
            left = rest;
            between();
        }
        Ok(())
    }

    /// The frame that holds a guest physical address, and where in it.
    fn frame(&self, at: u64) -> Option<(&Frame, u64)> {
        self.banks.iter().find_map(|bank| bank.at(at))
    }
}

fn region(bank: &Bank) -> Region {
    Region::new(bank.start, bank.bytes())
}

/// Blocks, where both the guest and the machine have them.
fn size_for(guest: Region, host: u64) -> Size {
    let whole = (guest.start | guest.size | host).is_multiple_of(BLOCK_SIZE);
    if whole { Size::Block } else { Size::Page }
}

/// Memory that the device tree gives to this domain, by its address.
fn adopt(host: Region, size: Size, between: &mut impl FnMut()) -> Result<Vec<Frame>> {
    let count = host.size.checked_div(size.bytes()).unwrap_or(0);
    let mut frames = room::try_vec(count as usize)?;
    for nth in 0..count {
        let at = nth.checked_mul(size.bytes()).and_then(|at| host.start.checked_add(at));
        let at = PhysAddr::new(at.ok_or(Errno::EINVAL)?);
        // SAFETY: reserved at boot (`Machine::reserve_domains`), and this domain's or
        // this region's alone (`domain::claims`), which is taken once.
        frames.push(unsafe { frame::adopt(at, size) }?);
        between();
    }
    Ok(frames)
}

/// Any memory, in whole GiB first as far as there are any.
fn any(bytes: u64, size: Size, between: &mut impl FnMut()) -> Result<Vec<Frame>> {
    let count = bytes.checked_div(size.bytes()).unwrap_or(0);
    let mut frames = room::try_vec(count as usize)?;
    if size == Size::Block {
        for _ in 0..bytes / GIGABYTE {
            let Ok(blocks) = Frame::gigabyte() else { break };
            frames.extend(blocks);
            between();
        }
    }
    for _ in frames.len() as u64..count {
        frames.push(Frame::alloc(size, Fill::Stale)?);
        between();
    }
    Ok(frames)
}

/// Banks at the machine's own addresses, the largest first.
fn where_it_lies(mut frames: Vec<Frame>) -> Vec<Bank> {
    frames.sort_unstable_by_key(Frame::addr);
    let mut banks: Vec<Bank> = Vec::new();
    let next = |a: &Frame, b: &Frame| a.addr().offset(a.size().bytes()) == Some(b.addr());
    for run in frames.chunk_by(next) {
        let start = run.first().map_or(0, |frame| frame.addr().get());
        banks.push(Bank::new(start, run.to_vec()));
    }
    banks.sort_by_key(|bank| core::cmp::Reverse(bank.bytes()));
    banks
}

/// A region that several domains have: the first of them makes it, the others wait.
fn shared(wanted: &SharedMemory, between: impl FnMut()) -> Result<Bank> {
    let (region, is_first) = named(&wanted.id)?;
    if is_first {
        region.frames.call_once(|| make(wanted, between));
        region.changed.wake_all();
    }
    let ready = || region.frames.get().ok_or(Errno::EAGAIN);
    // Nobody interrupts it: there are no signals here.
    let Ok(frames) = crate::wait::until(&region.changed, None, ready) else {
        return Err(Errno::ENOMEM);
    };
    Ok(Bank::new(wanted.guest, frames.clone()?))
}

/// The region of this `xen,shm-id`, and whether it is the caller's to make.
fn named(id: &str) -> Result<(Arc<Shared>, bool)> {
    let mut known = SHARED.lock();
    if let Some(region) = known.iter().find(|region| region.id == id) {
        return Ok((region.clone(), false));
    }
    let region = Shared { id: id.into(), frames: Once::new(), changed: WaitQueue::new() };
    let region = Arc::new(region);
    known.make_room(1)?;
    known.push(region.clone());
    Ok((region, true))
}

/// Takes the memory that `wanted` names, or any, and clears it, with interrupt windows.
fn make(wanted: &SharedMemory, mut between: impl FnMut()) -> Result<Vec<Frame>> {
    let frames = match wanted.on_host() {
        // Each VM may have it at another address: `Bank` looks at that.
        Some(host) => adopt(host, size_for(host, host.start), &mut between)?,
        None => any(wanted.size, size_for(Region::new(0, wanted.size), 0), &mut between)?,
    };
    for frame in &frames {
        clear(frame);
        between();
    }
    Ok(frames)
}

fn clear(frame: &Frame) {
    let start = phys_to_virt(frame.addr().get()) as usize;
    // SAFETY: a whole frame of the linear map, ours; its guest, if there ever was
    // one, has ended.
    unsafe { arch::cache::zero(start, frame.size().bytes() as usize) };
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
        let mut banks = self.banks.iter().chain(&self.shared);
        let frame = banks.find_map(|bank| bank.mapped(addr)).ok_or(Errno::EFAULT)?;
        Ok(HostFrame { frame, writable: true })
    }

    fn gigabyte(&self, addr: u64) -> Option<&[Frame]> {
        self.banks.iter().chain(&self.shared).find_map(|bank| bank.gigabyte(addr))
    }

    fn register(&self, _: Weak<dyn MmuNotifier>) -> Result<()> {
        Ok(())
    }
}
