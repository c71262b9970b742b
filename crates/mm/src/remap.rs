//! mremap(2).

use crate::abi::{MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE};
use crate::map::{aligned, page_align};
use crate::space::{AddressSpace, Locked};
use crate::vma::Vma;
use base::{BLOCK_SIZE, Errno, PAGE_SIZE, Result};

impl AddressSpace {
    /// mremap(2): the new address.
    pub fn mremap(
        &self,
        old: u64,
        old_len: u64,
        new_len: u64,
        flags: u32,
        new: u64,
    ) -> Result<u64> {
        let fixed = flags & MREMAP_FIXED != 0;
        let may_move = flags & MREMAP_MAYMOVE != 0;
        if flags & !(MREMAP_MAYMOVE | MREMAP_FIXED) != 0 || (fixed && !may_move) {
            // MREMAP_DONTUNMAP isn't there, as on old Linux.
            let _ = MREMAP_DONTUNMAP;
            return Err(Errno::EINVAL);
        }
        aligned(old)?;
        let old_len = page_align(old_len).ok_or(Errno::EINVAL)?;
        let new_len = page_align(new_len).filter(|len| *len > 0).ok_or(Errno::EINVAL)?;
        let old_end = old.checked_add(old_len).ok_or(Errno::EINVAL)?;
        if fixed {
            aligned(new)?;
            let end = new.checked_add(new_len).ok_or(Errno::EINVAL)?;
            let task_size = self.layout().task_size;
            if end > task_size || (old < end && new < old_end) {
                return Err(Errno::EINVAL);
            }
        }
        if !fixed && new_len < old_len {
            // Shrinks in place.
            self.munmap(old.wrapping_add(new_len), old_len.wrapping_sub(new_len))?;
        }
        let mut locked = self.lock();
        let vma = locked.vmas.find(old).ok_or(Errno::EFAULT)?.clone();
        if old_len == 0 {
            // Would map shared memory a second time; private memory can't.
            return Err(Errno::EINVAL);
        }
        let kept = old_len.min(new_len);
        if old.wrapping_add(kept) > vma.end {
            return Err(Errno::EFAULT);
        }
        if !fixed && new_len <= old_len {
            return Ok(old);
        }
        if let Some((_, first)) = &vma.object {
            let pages = new_len / PAGE_SIZE;
            let index = vma.index(old);
            index.checked_add(pages).filter(|_| *first <= index).ok_or(Errno::EINVAL)?;
        }
        let end = old.checked_add(new_len).filter(|end| *end <= locked.layout.task_size);
        if let Some(end) = end.filter(|_| !fixed)
            && old_end == vma.end
            && locked.vmas.is_free(vma.end, end)
        {
            // Grows in place.
            if let Some(mut vma) = locked.vmas.take(vma.start) {
                vma.end = end;
                locked.vmas.insert(vma);
            }
            locked.vmas.merge(end);
            return Ok(old);
        }
        if !may_move {
            return Err(Errno::ENOMEM);
        }
        locked.vmas.room(4)?;
        let to = if fixed {
            locked.check_fixed(new, new_len)?;
            locked.unmap(new, new.wrapping_add(new_len))?;
            new
        } else {
            let align = if new_len >= BLOCK_SIZE { BLOCK_SIZE } else { PAGE_SIZE };
            locked.place(0, new_len, align)?
        };
        if fixed && new_len < old_len {
            locked.unmap(old.wrapping_add(new_len), old_end)?;
        }
        let moved = old_len.min(new_len);
        locked.move_pages(&vma, old, to, moved)?;
        let mut target = vma.clone();
        if let Some((_, first)) = &mut target.object {
            *first = vma.index(old);
        }
        (target.start, target.end) = (to, to.wrapping_add(new_len));
        let end = target.end;
        locked.vmas.remove(old, old.wrapping_add(moved));
        locked.vmas.insert(target);
        locked.vmas.merge(end);
        locked.vmas.merge(to);
        Ok(to)
    }
}

impl Locked<'_> {
    /// Moves the page table's entries of a part of `vma`, all or none.
    fn move_pages(&mut self, vma: &Vma, from: u64, to: u64, len: u64) -> Result<()> {
        let end = from.wrapping_add(len);
        if self.table.next(from, end).is_none() {
            return Ok(());
        }
        self.notify(from, end);
        let mut gather = self.gather();
        self.table.split_at(from, &mut gather)?;
        self.table.split_at(end, &mut gather)?;
        let same_blocks = (from ^ to).is_multiple_of(BLOCK_SIZE);
        let mut at = from;
        while let Some(mut leaf) = self.table.next(at, end) {
            if leaf.is_block() && !same_blocks {
                self.table.split(leaf.start, &mut gather)?;
                leaf = self.table.lookup(leaf.start).ok_or(Errno::EFAULT)?;
            }
            let frame = self.table.frame(&leaf).ok_or(Errno::EFAULT)?;
            let place = leaf.start.wrapping_sub(from).wrapping_add(to);
            let attrs = vma.attrs_after(leaf.attrs(), true);
            if let Err(errno) = self.table.map(place, frame, attrs) {
                self.table.unmap(to, to.wrapping_add(len), &mut gather)?;
                return Err(errno);
            }
            at = leaf.end();
        }
        self.table.unmap(from, end, &mut gather)?;
        Ok(())
    }
}
