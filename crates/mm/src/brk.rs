//! brk(2).

use crate::abi::{PROT_EXEC, PROT_READ, PROT_WRITE};
use crate::map::page_align;
use crate::space::AddressSpace;
use crate::vma::{Vma, VmaFlags};
use base::Result;

impl AddressSpace {
    /// Puts the break to where execve found the program's end, rounded up.
    pub fn set_brk_start(&self, addr: u64) {
        let mut locked = self.lock();
        if let Some(addr) = page_align(addr) {
            (locked.brk_start, locked.brk) = (addr, addr);
        }
    }

    /// brk(2) as the system call is: the new break, or the old if it can't be.
    pub fn brk(&self, addr: u64) -> u64 {
        let (old, start) = {
            let locked = self.lock();
            (locked.brk, locked.brk_start)
        };
        if addr < start || self.move_brk(old, addr).is_err() { self.lock().brk } else { addr }
    }

    fn move_brk(&self, old: u64, new: u64) -> Result<()> {
        let end = page_align(new).ok_or(base::Errno::ENOMEM)?;
        let old_end = page_align(old).ok_or(base::Errno::ENOMEM)?;
        if end < old_end {
            self.munmap(end, old_end.wrapping_sub(end))?;
        }
        let mut locked = self.lock();
        if locked.brk != old {
            return Err(base::Errno::EAGAIN); // Another thread moved it.
        }
        if end > old_end {
            let fits = end <= locked.layout.task_size && locked.vmas.is_free(old_end, end);
            if !fits || end.wrapping_sub(old_end) > frame::stats().total {
                return Err(base::Errno::ENOMEM);
            }
            locked.vmas.room(1)?;
            locked.vmas.insert(Vma {
                start: old_end,
                end,
                prot: PROT_READ | PROT_WRITE,
                max_prot: PROT_READ | PROT_WRITE | PROT_EXEC,
                flags: VmaFlags::default(),
                object: None,
            });
            locked.vmas.merge(old_end);
        }
        locked.brk = new;
        Ok(())
    }
}
