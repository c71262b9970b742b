//! Demand paging and copy on write.

use crate::object::ObjectId;
use crate::space::{AddressSpace, Locked};
use crate::vma::Vma;
use base::{BLOCK_SIZE, Errno, PAGE_SIZE, Result, UserMem, VirtAddr};
use frame::{Fill, Frame, Size};
use paging::{Leaf, User, UserAttrs};

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Exec,
}

/// Why an access can't be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is there: SIGSEGV, SEGV_MAPERR.
    SegvMapErr,
    /// It isn't allowed: SIGSEGV, SEGV_ACCERR.
    SegvAccErr,
    /// The object has no such page: SIGBUS, BUS_ADRERR.
    BusAdrErr,
    /// No memory is left.
    Oom,
}

impl Fault {
    /// What a system call says of it.
    pub fn errno(self) -> Errno {
        match self {
            Fault::Oom => Errno::ENOMEM,
            _ => Errno::EFAULT,
        }
    }
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Fault {
        if errno == Errno::ENOMEM { Fault::Oom } else { Fault::BusAdrErr }
    }
}

/// What is mapped at an address.
#[derive(Debug)]
pub struct Backing {
    /// The page's frame, or the whole block's if it is mapped as one.
    pub frame: Frame,
    /// The address that `frame` starts at: multiples of its size.
    pub start: u64,
    /// Whether it may be written: it isn't shared for copying on write.
    pub writable: bool,
    /// Whether EL0 may execute it.
    pub executable: bool,
}

/// Who waits on a futex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FutexKey {
    /// In one address space, by its id.
    Private {
        /// [`AddressSpace::id`].
        mm: u64,
        /// The word's address.
        addr: u64,
    },
    /// In memory that processes share.
    Shared {
        /// The object.
        id: ObjectId,
        /// The word's offset in it.
        offset: u64,
    },
}

/// Areas from this size on get 2 MiB blocks unasked.
const GUEST_SIZED: u64 = 4 << 20;
/// What is populated between interrupt windows: a block, or pages of as much.
const POPULATE_STEP: u64 = BLOCK_SIZE / 4;
/// What stays free between a stack and the area below it (stack_guard_gap).
const GUARD_GAP: u64 = 256 * PAGE_SIZE;

fn leaf_allows(attrs: UserAttrs, access: Access) -> bool {
    match access {
        Access::Read => attrs.read,
        Access::Write => attrs.write,
        Access::Exec => attrs.exec,
    }
}

impl AddressSpace {
    /// Makes an access of EL0's (or the kernel's for it) to `addr` possible.
    pub fn fault(&self, addr: u64, access: Access) -> Result<(), Fault> {
        self.lock().fault(addr, access)
    }

    /// Makes it possible, and says what is there. The handle keeps the memory,
    /// not the mapping: who maps it elsewhere checks
    /// [`AddressSpace::is_current`].
    pub fn get_frame(&self, addr: u64, write: bool) -> Result<Backing, Fault> {
        let access = if write { Access::Write } else { Access::Read };
        let mut locked = self.lock();
        if let Some(backing) = locked.backing(addr, access) {
            return Ok(backing);
        }
        locked.fault(addr, access)?;
        locked.backing(addr, access).ok_or(Fault::BusAdrErr)
    }

    /// What identifies the futex word at `addr`, `private` if the caller said
    /// FUTEX_PRIVATE_FLAG. `EINVAL` unless aligned, `EFAULT` if a shared one
    /// isn't mapped.
    pub fn futex_key(&self, addr: u64, private: bool) -> Result<FutexKey> {
        if !addr.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        let alone = FutexKey::Private { mm: self.id(), addr };
        if private {
            return Ok(alone);
        }
        let locked = self.lock();
        let vma = locked.vmas.find(addr).ok_or(Errno::EFAULT)?;
        let VirtAddrIn { page, offset } = split_addr(addr);
        Ok(match &vma.object {
            Some((object, _)) if vma.flags.shared => FutexKey::Shared {
                id: object.id(),
                offset: vma.index(page).wrapping_mul(PAGE_SIZE).wrapping_add(offset),
            },
            _ => alone,
        })
    }

    /// Touches all of `start..end`, with interrupt windows.
    pub(crate) fn populate(&self, start: u64, end: u64, access: Access) -> Result<(), Fault> {
        let mut at = start;
        while at < end {
            let mut locked = self.lock();
            let stop = end.min(at.saturating_add(POPULATE_STEP));
            while at < stop {
                locked.fault(at, access)?;
                let next = locked.table.lookup(at).map(|leaf| leaf.end());
                at = next.unwrap_or_else(|| at.saturating_add(PAGE_SIZE));
            }
            drop(locked);
            self.env.window();
        }
        Ok(())
    }
}

struct VirtAddrIn {
    page: u64,
    offset: u64,
}

fn split_addr(addr: u64) -> VirtAddrIn {
    let addr = VirtAddr::new(addr);
    VirtAddrIn { page: addr.page_align_down().get(), offset: addr.page_offset() }
}

/// Memory by software translation: page by page through the frames, without
/// the MMU.
impl UserMem for AddressSpace {
    fn read(&self, addr: u64, out: &mut [u8]) -> Result<()> {
        let mut at = addr;
        let mut out = out;
        while !out.is_empty() {
            let backing = self.get_frame(at, false).map_err(|_| Errno::EFAULT)?;
            let offset = at.wrapping_sub(backing.start);
            let room = backing.frame.size().bytes().wrapping_sub(offset) as usize;
            let (now, later) = out.split_at_mut(room.min(out.len()));
            backing.frame.read(offset, now)?;
            at = at.checked_add(now.len() as u64).ok_or(Errno::EFAULT)?;
            out = later;
        }
        Ok(())
    }

    fn write(&self, addr: u64, data: &[u8]) -> Result<()> {
        let mut at = addr;
        let mut data = data;
        while !data.is_empty() {
            let backing = self.get_frame(at, true).map_err(|_| Errno::EFAULT)?;
            let offset = at.wrapping_sub(backing.start);
            let room = backing.frame.size().bytes().wrapping_sub(offset) as usize;
            let (now, later) = data.split_at(room.min(data.len()));
            backing.frame.write(offset, now)?;
            at = at.checked_add(now.len() as u64).ok_or(Errno::EFAULT)?;
            data = later;
        }
        Ok(())
    }
}

impl Locked<'_> {
    fn backing(&self, addr: u64, access: Access) -> Option<Backing> {
        let leaf = self.table.lookup(addr).filter(|leaf| leaf_allows(leaf.attrs(), access))?;
        Some(Backing {
            frame: self.table.frame(&leaf)?,
            start: leaf.start,
            writable: leaf.attrs().write,
            executable: leaf.attrs().exec,
        })
    }

    /// See [`AddressSpace::fault`].
    pub fn fault(&mut self, addr: u64, access: Access) -> Result<(), Fault> {
        let addr = split_addr(addr).page;
        if self.vmas.find(addr).is_none() {
            self.grow_stack(addr)?;
        }
        let vma = self.vmas.find(addr).ok_or(Fault::SegvMapErr)?;
        if !vma.allows(access) {
            return Err(Fault::SegvAccErr);
        }
        let vma = vma.clone();
        match self.table.lookup(addr) {
            None => self.fill(&vma, addr, access),
            // Another thread was faster, or the TLB was slower.
            Some(leaf) if leaf_allows(leaf.attrs(), access) => Ok(()),
            Some(leaf) if access == Access::Write && !vma.flags.shared => {
                self.break_cow(&vma, addr, &leaf)
            }
            Some(leaf) if access == Access::Exec => self.make_executable(&vma, &leaf),
            Some(_) => self.refill(&vma, addr, access),
        }
    }

    /// Stretches a stack that ends above `addr` down to it.
    fn grow_stack(&mut self, addr: u64) -> Result<(), Fault> {
        let limit = self.layout.stack_limit;
        let stack = self.vmas.find_or_above(addr).ok_or(Fault::SegvMapErr)?;
        let below = self.vmas.below(addr).map_or(0, |vma| vma.end);
        let wanted = stack.end.wrapping_sub(addr);
        let free = addr.wrapping_sub(below) >= GUARD_GAP && addr >= self.layout.lowest();
        if !stack.flags.grows_down || wanted > limit || !free {
            return Err(Fault::SegvMapErr);
        }
        let start = stack.start;
        if let Some(mut stack) = self.vmas.take(start) {
            stack.start = addr;
            self.vmas.insert(stack);
        }
        Ok(())
    }

    /// Maps what belongs at `addr`, where nothing is.
    fn fill(&mut self, vma: &Vma, addr: u64, access: Access) -> Result<(), Fault> {
        if let Some((block, start)) = self.find_block(vma, addr) {
            self.sync(vma, &block);
            self.table.map(start, block, vma.attrs(true))?;
            return Ok(());
        }
        let (frame, writable) = match &vma.object {
            None => (Frame::alloc(Size::Page, Fill::Zeroed)?, true),
            Some((object, _)) if vma.flags.shared => {
                let writes = vma.allows(Access::Write);
                (object.frame(vma.index(addr), writes)?, writes)
            }
            Some((object, _)) => {
                let page = object.frame(vma.index(addr), false)?;
                if access == Access::Write { (copy(&page, 0)?, true) } else { (page, false) }
            }
        };
        // An object may give a block for a page.
        let frame = match frame.size() {
            Size::Page => frame,
            Size::Block => {
                let pages = Size::Block.pages().wrapping_sub(1);
                frame.sub(vma.index(addr) & pages).ok_or(Fault::BusAdrErr)?
            }
        };
        self.sync(vma, &frame);
        self.table.map(addr, frame, vma.attrs(writable))?;
        Ok(())
    }

    /// A block for the 2 MiB that hold `addr`, if the area has room for it,
    /// wants it, and none of it is mapped.
    fn find_block(&self, vma: &Vma, addr: u64) -> Option<(Frame, u64)> {
        let start = VirtAddr::new(addr).block_align_down().get();
        let end = start.checked_add(BLOCK_SIZE)?;
        let wanted = vma.flags.huge || vma.len() >= GUEST_SIZED;
        if vma.flags.no_huge || !wanted || start < vma.start || end > vma.end {
            return None;
        }
        let possible = match &vma.object {
            None => true,
            Some(_) => vma.flags.shared && vma.index(start).is_multiple_of(Size::Block.pages()),
        };
        if !possible || self.table.next(start, end).is_some() {
            return None;
        }
        let block = match &vma.object {
            None => Frame::alloc(Size::Block, Fill::Zeroed).ok()?,
            Some((object, _)) => object.block(vma.index(start), vma.allows(Access::Write))?,
        };
        Some((block, start))
    }

    /// The first write to a private page: in place if nobody else has it, else
    /// to a copy.
    fn break_cow(&mut self, vma: &Vma, addr: u64, leaf: &Leaf<User>) -> Result<(), Fault> {
        let alone = |locked: &Self| locked.table.frame_count(addr) == Some(1);
        if !alone(self) {
            // Perhaps the others are notifiers.
            self.notify(leaf.start, leaf.end());
        }
        let mut gather = self.gather();
        if alone(self) {
            if !leaf.attrs().exec
                && let Some(frame) = self.table.frame(leaf)
            {
                self.sync(vma, &frame);
            }
            let (start, end) = (leaf.start.max(vma.start), leaf.end().min(vma.end));
            self.table.protect(start, end, &mut gather, |_| vma.attrs(true))?;
            return Ok(());
        }
        let old = self.table.frame(leaf).ok_or(Fault::BusAdrErr)?;
        let new = copy(&old, addr.wrapping_sub(leaf.start))?;
        drop(old);
        self.sync(vma, &new);
        // The old page stays until the new one is sure to come.
        self.table.replace(addr, new, vma.attrs(true), &mut gather)?;
        Ok(())
    }

    /// mprotect() made the area executable: what was written to the page before
    /// is seen by instruction fetches from now on.
    fn make_executable(&mut self, vma: &Vma, leaf: &Leaf<User>) -> Result<(), Fault> {
        let frame = self.table.frame(leaf).ok_or(Fault::BusAdrErr)?;
        self.sync(vma, &frame);
        let mut gather = self.gather();
        let (start, end) = (leaf.start.max(vma.start), leaf.end().min(vma.end));
        self.table.protect(start, end, &mut gather, |old| vma.attrs(old.write))?;
        Ok(())
    }

    /// The area allows what the leaf doesn't: a shared page that was read
    /// before it became writable, so the object must hear of it.
    fn refill(&mut self, vma: &Vma, addr: u64, access: Access) -> Result<(), Fault> {
        let end = addr.saturating_add(PAGE_SIZE);
        self.zap(addr, end)?;
        self.fill(vma, addr, access)
    }

    /// The kernel wrote the frame, EL0 may execute it.
    fn sync(&self, vma: &Vma, frame: &Frame) {
        if vma.allows(Access::Exec) {
            self.space.env.sync_code(frame);
        }
    }
}

/// A copy of 4 KiB of `frame`.
fn copy(frame: &Frame, offset: u64) -> Result<Frame> {
    let new = Frame::alloc(Size::Page, Fill::Stale)?;
    new.copy_range(0, frame, offset, PAGE_SIZE)?;
    Ok(new)
}
