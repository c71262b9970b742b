//! mmap, munmap, mprotect.

use crate::abi::*;
use crate::fault::Access;
use crate::object::{SharedMemory, VmObject};
use crate::space::{AddressSpace, Locked};
use crate::vma::{Vma, VmaFlags};
use alloc::sync::Arc;
use base::{BLOCK_SIZE, Errno, PAGE_SHIFT, PAGE_SIZE, Result, room};
use paging::Gather;

/// The arguments of mmap(2).
pub struct Map {
    /// A hint, or the place.
    pub addr: u64,
    /// In bytes.
    pub len: u64,
    /// PROT_ bits.
    pub prot: u32,
    /// MAP_ bits.
    pub flags: u32,
    /// What the descriptor names; none with MAP_ANONYMOUS.
    pub object: Option<MapObject>,
}

/// What a descriptor lets be mapped.
pub struct MapObject {
    /// The file.
    pub object: Arc<dyn VmObject>,
    /// Of the mapping in it, in bytes.
    pub offset: u64,
    /// The descriptor was opened for writing.
    pub may_write: bool,
}

/// Above this, a range is unmapped in steps before it is unmapped at once.
const AT_ONCE: u64 = 2 * BLOCK_SIZE;

const PROT_RWX: u32 = PROT_READ | PROT_WRITE | PROT_EXEC;
/// What mprotect knows on arm64; BTI's is accepted and has no effect.
const PROT_KNOWN: u32 = PROT_RWX | PROT_SEM | PROT_BTI;
const MAP_KNOWN: u32 = MAP_TYPE
    | MAP_FIXED
    | MAP_ANONYMOUS
    | MAP_GROWSDOWN
    | MAP_DENYWRITE
    | MAP_EXECUTABLE
    | MAP_LOCKED
    | MAP_NORESERVE
    | MAP_POPULATE
    | MAP_NONBLOCK
    | MAP_STACK
    | MAP_HUGETLB
    | MAP_FIXED_NOREPLACE;

/// `len` in whole pages; none if that is too much.
pub(crate) fn page_align(len: u64) -> Option<u64> {
    len.checked_next_multiple_of(PAGE_SIZE)
}

pub(crate) fn aligned(addr: u64) -> Result<()> {
    if addr.is_multiple_of(PAGE_SIZE) { Ok(()) } else { Err(Errno::EINVAL) }
}

impl AddressSpace {
    /// mmap(2): the address.
    pub fn mmap(&self, map: Map) -> Result<u64> {
        let Map { addr, len, prot, flags, object } = map;
        let len = match page_align(len) {
            Some(0) => return Err(Errno::EINVAL),
            Some(len) => len,
            None => return Err(Errno::ENOMEM),
        };
        if flags & MAP_HUGETLB != 0 {
            return Err(Errno::ENOMEM); // The pool of huge pages is empty.
        }
        let shared = match flags & MAP_TYPE {
            MAP_PRIVATE => false,
            MAP_SHARED => true,
            MAP_SHARED_VALIDATE if flags & MAP_ANONYMOUS == 0 => {
                if flags & !MAP_KNOWN != 0 {
                    return Err(Errno::EOPNOTSUPP);
                }
                true
            }
            _ => return Err(Errno::EINVAL),
        };
        // Only anonymous private memory is a stack.
        if flags & MAP_GROWSDOWN != 0 && (shared || flags & MAP_ANONYMOUS == 0) {
            return Err(Errno::EINVAL);
        }
        let mut max_prot = PROT_RWX;
        let object = if flags & MAP_ANONYMOUS != 0 {
            match shared {
                true => Some((room::try_arc(SharedMemory::new(len))? as Arc<dyn VmObject>, 0)),
                false => None,
            }
        } else {
            let MapObject { object, offset, may_write } = object.ok_or(Errno::EBADF)?;
            aligned(offset)?;
            offset.checked_add(len).ok_or(Errno::EOVERFLOW)?;
            if shared && !may_write {
                max_prot = PROT_READ | PROT_EXEC;
            }
            Some((object, offset >> PAGE_SHIFT))
        };
        let prot = prot & PROT_RWX;
        if prot & !max_prot != 0 {
            return Err(Errno::EACCES);
        }
        // One mapping larger than the machine is an obvious overcommit
        // (vm.overcommit_memory=0).
        let counted = prot & PROT_WRITE != 0 && !shared && flags & MAP_NORESERVE == 0;
        if counted && len > frame::stats().total {
            return Err(Errno::ENOMEM);
        }
        let fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0;
        let replace = fixed && flags & MAP_FIXED_NOREPLACE == 0;
        if replace && len > AT_ONCE {
            let locked = self.lock();
            locked.check_fixed(addr, len)?;
            locked.vmas.room(3)?;
            drop(locked);
            self.zap_in_steps(addr, addr.wrapping_add(len))?;
        }
        let mut locked = self.lock();
        locked.vmas.room(if replace { 3 } else { 1 })?;
        let start = if fixed {
            locked.check_fixed(addr, len)?;
            addr
        } else {
            let blocks = len >= BLOCK_SIZE && flags & MAP_STACK == 0;
            locked.place(addr, len, if blocks { BLOCK_SIZE } else { PAGE_SIZE })?
        };
        let end = start.wrapping_add(len);
        if replace {
            locked.zap(start, end)?;
            locked.vmas.remove(start, end);
        } else if fixed && !locked.vmas.is_free(start, end) {
            return Err(Errno::EEXIST);
        }
        let flags_of_area = VmaFlags {
            shared,
            grows_down: flags & MAP_GROWSDOWN != 0,
            no_huge: flags & MAP_STACK != 0,
            ..VmaFlags::default()
        };
        let vma = Vma { start, end, prot, max_prot, flags: flags_of_area, object };
        let access = if vma.allows(Access::Write) { Access::Write } else { Access::Read };
        locked.vmas.insert(vma);
        locked.vmas.merge(end);
        locked.vmas.merge(start);
        drop(locked);
        if flags & (MAP_POPULATE | MAP_LOCKED) != 0 && prot != 0 {
            // As far as it goes: mmap(2) doesn't fail if it can't.
            let _ = self.populate(start, end, access);
        }
        Ok(start)
    }

    /// munmap(2).
    pub fn munmap(&self, addr: u64, len: u64) -> Result<()> {
        aligned(addr)?;
        let len = page_align(len).filter(|len| *len > 0).ok_or(Errno::EINVAL)?;
        let end = addr.checked_add(len).ok_or(Errno::EINVAL)?;
        let locked = self.lock();
        if end > locked.layout.task_size {
            return Err(Errno::EINVAL);
        }
        locked.room_to_unmap(addr, end)?;
        drop(locked);
        if len > AT_ONCE {
            self.zap_in_steps(addr, end)?;
        }
        self.lock().unmap(addr, end)
    }

    /// mprotect(2).
    pub fn mprotect(&self, addr: u64, len: u64, prot: u32) -> Result<()> {
        let grows = prot & (PROT_GROWSDOWN | PROT_GROWSUP);
        let prot = prot & !(PROT_GROWSDOWN | PROT_GROWSUP);
        if grows == PROT_GROWSDOWN | PROT_GROWSUP {
            return Err(Errno::EINVAL);
        }
        aligned(addr)?;
        if len == 0 {
            return Ok(());
        }
        let end = page_align(len).and_then(|len| addr.checked_add(len)).ok_or(Errno::ENOMEM)?;
        if prot & !PROT_KNOWN != 0 {
            return Err(Errno::EINVAL);
        }
        let prot = prot & PROT_RWX;
        let mut at = addr;
        if grows != 0 {
            let locked = self.lock();
            let vma = locked.vmas.find_or_above(addr).filter(|vma| vma.start < end);
            let vma = vma.ok_or(Errno::ENOMEM)?;
            if grows == PROT_GROWSUP || !vma.flags.grows_down {
                return Err(Errno::EINVAL);
            }
            at = vma.start;
        }
        while at < end {
            let (stop, changed) = self.protect_area(at, end, prot)?;
            if changed {
                self.protect_pages(at, stop)?;
            }
            at = stop;
            if at < end {
                self.env.window();
            }
        }
        Ok(())
    }

    /// Changes what the area at `at` allows, up to `end`: where that ends, and
    /// whether it allowed something else. From here on faults obey it.
    fn protect_area(&self, at: u64, end: u64, prot: u32) -> Result<(u64, bool)> {
        let mut locked = self.lock();
        let vma = locked.vmas.find(at).ok_or(Errno::ENOMEM)?;
        let stop = vma.end.min(end);
        if prot & !vma.max_prot != 0 {
            return Err(Errno::EACCES);
        }
        if vma.prot == prot {
            return Ok((stop, false));
        }
        locked.vmas.room(locked.vmas.splits(at, stop))?;
        // First what may fail: the pages must follow the area.
        for edge in [at, stop] {
            if locked.table.lookup(edge).is_some_and(|leaf| leaf.start != edge) {
                locked.notify(edge, edge.saturating_add(PAGE_SIZE));
                let mut gather = locked.gather();
                locked.table.split_at(edge, &mut gather)?;
            }
        }
        locked.vmas.change(at, stop, |vma| vma.prot = prot);
        Ok((stop, true))
    }

    /// Lets the pages in `start..end` allow no more than their areas do, in
    /// steps, with interrupt windows between them. Each step looks at the areas
    /// anew: another thread may change them meanwhile, and then sees to the
    /// pages as well; who gets there last makes them what the areas are by then.
    /// Pages that come by a fault obey them already.
    fn protect_pages(&self, start: u64, end: u64) -> Result<()> {
        let mut at = start;
        loop {
            let mut locked = self.lock();
            let vma = locked.vmas.find_or_above(at).filter(|vma| vma.start < end).cloned();
            let Some(vma) = vma else { return Ok(()) };
            at = locked.protect_step(vma.start.max(at), vma.end.min(end), &vma)?;
            drop(locked);
            if at >= end {
                return Ok(());
            }
            self.env.window();
        }
    }
}

impl Locked<'_> {
    /// Whether MAP_FIXED may ask for it.
    pub fn check_fixed(&self, addr: u64, len: u64) -> Result<()> {
        aligned(addr)?;
        if addr.checked_add(len).is_none_or(|end| end > self.layout.task_size) {
            return Err(Errno::ENOMEM);
        }
        if addr < self.layout.lowest() { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// A free place for `len` bytes: at the hint, or below the stack, or
    /// anywhere.
    pub fn place(&self, hint: u64, len: u64, align: u64) -> Result<u64> {
        let layout = &self.layout;
        let hint = hint & !PAGE_SIZE.wrapping_sub(1);
        if hint != 0 {
            let hint = hint.max(layout.lowest());
            let end = hint.checked_add(len).filter(|end| *end <= layout.task_size);
            if end.is_some_and(|end| self.vmas.is_free(hint, end)) {
                return Ok(hint);
            }
        }
        let tries = [
            (layout.mmap_base, align),
            (layout.mmap_base, PAGE_SIZE),
            (layout.task_size, PAGE_SIZE),
        ];
        tries
            .into_iter()
            .find_map(|(top, align)| self.vmas.find_gap(layout.lowest(), top, len, align))
            .ok_or(Errno::ENOMEM)
    }

    /// `ENOMEM` if taking `start..end` out makes too many areas.
    pub fn room_to_unmap(&self, start: u64, end: u64) -> Result<()> {
        let inside = self.vmas.find(start).is_some_and(|vma| vma.start < start && vma.end > end);
        self.vmas.room(usize::from(inside))
    }

    /// Takes `start..end` out, pages and areas.
    pub fn unmap(&mut self, start: u64, end: u64) -> Result<()> {
        self.room_to_unmap(start, end)?;
        self.zap(start, end)?;
        self.vmas.remove(start, end);
        Ok(())
    }

    /// Lets a bounded part of the pages in `start..end` allow what `vma` does;
    /// how far it came. What wasn't writable isn't yet: copying on write decides.
    fn protect_step(&mut self, start: u64, end: u64, vma: &Vma) -> Result<u64> {
        let Some((from, stop)) = self.next_step(start, end) else { return Ok(end) };
        self.notify(from, stop);
        let mut gather = Gather::new(&*self.space.env);
        self.table.protect(from, stop, &mut gather, |old| vma.attrs_after(old, true))
    }
}
