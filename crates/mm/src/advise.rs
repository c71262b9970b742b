//! madvise, mincore, msync, mlock.

use crate::abi::*;
use crate::fault::{Access, Fault};
use crate::map::{aligned, page_align};
use crate::object::ObjectId;
use crate::space::AddressSpace;
use crate::vma::{Vma, VmaFlags};
use base::{Errno, PAGE_SHIFT, PAGE_SIZE, Result};

impl AddressSpace {
    /// madvise(2). Areas are advised even if others in the range are missing;
    /// then it is `ENOMEM`.
    pub fn madvise(&self, addr: u64, len: u64, advice: u32) -> Result<()> {
        let known = matches!(
            advice,
            MADV_NORMAL..=MADV_DONTNEED
                | MADV_FREE
                | MADV_DONTFORK..=MADV_PAGEOUT
                | MADV_POPULATE_READ
                | MADV_POPULATE_WRITE
                | MADV_DONTNEED_LOCKED
        );
        if !known {
            return Err(Errno::EINVAL);
        }
        aligned(addr)?;
        let len = page_align(len).ok_or(Errno::EINVAL)?;
        let end = addr.checked_add(len).ok_or(Errno::EINVAL)?;
        if len == 0 {
            return Ok(());
        }
        let anonymous = |vma: &Vma| vma.object.is_none();
        let set = |f: fn(&mut VmaFlags)| self.advise_areas(addr, end, |_| true, f);
        match advice {
            MADV_DONTNEED | MADV_DONTNEED_LOCKED => self.dont_need(addr, end, |_| true),
            MADV_FREE => self.dont_need(addr, end, anonymous),
            MADV_POPULATE_READ => self.populate_advised(addr, end, Access::Read),
            MADV_POPULATE_WRITE => self.populate_advised(addr, end, Access::Write),
            MADV_DONTFORK => set(|flags| flags.dont_fork = true),
            MADV_DOFORK => set(|flags| flags.dont_fork = false),
            MADV_DONTDUMP => set(|flags| flags.dont_dump = true),
            MADV_DODUMP => set(|flags| flags.dont_dump = false),
            MADV_HUGEPAGE => set(|flags| (flags.huge, flags.no_huge) = (true, false)),
            MADV_NOHUGEPAGE => set(|flags| (flags.huge, flags.no_huge) = (false, true)),
            MADV_WIPEONFORK => {
                self.advise_areas(addr, end, anonymous, |flags| flags.wipe_on_fork = true)
            }
            MADV_KEEPONFORK => set(|flags| flags.wipe_on_fork = false),
            _ => self.check_mapped(addr, end),
        }
    }

    fn check_mapped(&self, start: u64, end: u64) -> Result<()> {
        if self.lock().vmas.covers(start, end) { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Sets flags, area by area; `EINVAL` at one that isn't `fit`.
    fn advise_areas(
        &self,
        start: u64,
        end: u64,
        fit: impl Fn(&Vma) -> bool,
        f: impl Fn(&mut VmaFlags),
    ) -> Result<()> {
        let mut locked = self.lock();
        let complete = locked.vmas.covers(start, end);
        let mut at = start;
        while at < end {
            let vma = locked.vmas.find_or_above(at).filter(|vma| vma.start < end);
            let Some(vma) = vma else { break };
            let (from, to) = (vma.start.max(start), vma.end.min(end));
            if !fit(vma) {
                return Err(Errno::EINVAL);
            }
            let mut flags = vma.flags;
            f(&mut flags);
            if flags != vma.flags {
                locked.vmas.room(locked.vmas.splits(from, to))?;
                locked.vmas.change(from, to, |vma| vma.flags = flags);
            }
            at = to;
        }
        if complete { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Drops pages: private ones are zeros (or the file's) when they are
    /// touched again.
    fn dont_need(&self, start: u64, end: u64, fit: impl Fn(&Vma) -> bool) -> Result<()> {
        let mut at = start;
        loop {
            let mut locked = self.lock();
            let vma = locked.vmas.find_or_above(at).filter(|vma| vma.start < end);
            let Some(vma) = vma else { break };
            if !fit(vma) {
                return Err(Errno::EINVAL);
            }
            let (from, to) = (vma.start.max(at), vma.end.min(end));
            at = locked.zap_step(from, to)?;
            drop(locked);
            if at >= end {
                break;
            }
            self.env.window();
        }
        self.check_mapped(start, end)
    }

    /// Pages `first..end` of an object are gone (a file was cut or got a hole):
    /// unmaps them, private copies too, as Linux does.
    pub fn unmap_object(&self, id: ObjectId, first: u64, end: u64) -> Result<()> {
        let mut at = 0;
        loop {
            let mut locked = self.lock();
            let Some(vma) = locked.vmas.find_or_above(at) else { return Ok(()) };
            let pages =
                vma.object.as_ref().filter(|(object, _)| object.id() == id).map(|(_, from)| {
                    let here = |index: u64| {
                        let pages = index.saturating_sub(*from).min(vma.len() >> PAGE_SHIFT);
                        vma.start.wrapping_add(pages << PAGE_SHIFT)
                    };
                    (here(first).max(at), here(end))
                });
            let vma_end = vma.end;
            at = match pages {
                Some((from, to)) if from < to => match locked.zap_step(from, to)? {
                    reached if reached < to => reached,
                    _ => vma_end,
                },
                _ => vma_end,
            };
            drop(locked);
            self.env.window();
        }
    }

    fn populate_advised(&self, start: u64, end: u64, access: Access) -> Result<()> {
        self.populate(start, end, access).map_err(|fault| match fault {
            Fault::SegvMapErr | Fault::Oom => Errno::ENOMEM,
            Fault::SegvAccErr => Errno::EINVAL,
            Fault::BusAdrErr => Errno::EFAULT,
        })
    }

    /// mincore(2): 1 for each page from `addr` that is in memory, into `out`.
    pub fn mincore(&self, addr: u64, out: &mut [u8]) -> Result<()> {
        aligned(addr)?;
        let len = (out.len() as u64).checked_mul(PAGE_SIZE).ok_or(Errno::ENOMEM)?;
        let end = addr.checked_add(len).ok_or(Errno::ENOMEM)?;
        let locked = self.lock();
        if !locked.vmas.covers(addr, end) {
            return Err(Errno::ENOMEM);
        }
        for (slot, at) in out.iter_mut().zip((addr..).step_by(PAGE_SIZE as usize)) {
            *slot = u8::from(locked.table.lookup(at).is_some());
        }
        Ok(())
    }

    /// msync(2): memory is where it belongs already.
    pub fn msync(&self, addr: u64, len: u64, flags: u32) -> Result<()> {
        let both = MS_ASYNC | MS_SYNC;
        if flags & !(both | MS_INVALIDATE) != 0 || flags & both == both {
            return Err(Errno::EINVAL);
        }
        aligned(addr)?;
        let end = page_align(len).and_then(|len| addr.checked_add(len)).ok_or(Errno::ENOMEM)?;
        self.check_mapped(addr, end)
    }

    /// mlock2(2), and mlock(2) with no flags: nothing is ever paged out, so
    /// that is all but the faults.
    pub fn mlock(&self, addr: u64, len: u64, flags: u32) -> Result<()> {
        if flags & !MLOCK_ONFAULT != 0 {
            return Err(Errno::EINVAL);
        }
        self.munlock(addr, len)?;
        if flags & MLOCK_ONFAULT == 0 {
            let start = addr & !PAGE_SIZE.wrapping_sub(1);
            let _ = self.populate(start, addr.saturating_add(len), Access::Read);
        }
        Ok(())
    }

    /// munlock(2).
    pub fn munlock(&self, addr: u64, len: u64) -> Result<()> {
        let start = addr & !PAGE_SIZE.wrapping_sub(1);
        let end = addr.checked_add(len).and_then(page_align).ok_or(Errno::EINVAL)?;
        self.check_mapped(start, end)
    }

    /// mlockall(2).
    pub fn mlockall(&self, flags: u32) -> Result<()> {
        let known = MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT;
        let named = flags & (MCL_CURRENT | MCL_FUTURE) != 0;
        if flags & !known == 0 && named { Ok(()) } else { Err(Errno::EINVAL) }
    }
}
