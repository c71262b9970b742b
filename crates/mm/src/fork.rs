//! fork(2): the child shares the parent's private pages until one writes.

use crate::space::{AddressSpace, Inner, Locked, MmEnv};
use crate::vma::{Vma, VmaTree};
use alloc::sync::Arc;
use alloc::vec::Vec;
use base::{Errno, Result, room};
use paging::{Gather, PageTable, User, UserAttrs};

impl AddressSpace {
    /// A copy of this address space, for a child. `alone`: nobody but the caller
    /// changes it, or touches what it maps; then it is copied in steps, with
    /// interrupt windows between them. Else at once: of two writes that another
    /// thread does, the copy must not have the later without the earlier.
    pub fn fork(&self, env: Arc<dyn MmEnv>, alone: bool) -> Result<AddressSpace> {
        let mut child = {
            let parent = self.lock();
            let inner = Inner {
                layout: parent.layout,
                vmas: VmaTree::default(),
                table: PageTable::new(parent.table.bits())?,
                brk_start: parent.brk_start,
                brk: parent.brk,
                notifiers: Vec::new(),
            };
            AddressSpace::with(env, inner)
        };
        let result = self.copy_to(child.inner.get_mut(), alone);
        // On an error its drop gives back what it got.
        result.map(|()| child)
    }

    fn copy_to(&self, child: &mut Inner, alone: bool) -> Result<()> {
        let mut parent = self.lock();
        let mut at = 0;
        while let Some(vma) = parent.vmas.find_or_above(at).cloned() {
            at = vma.end;
            if vma.flags.dont_fork {
                continue;
            }
            child.vmas.room(1)?;
            // Each takes heap, and there may be many.
            if room::is_low() {
                return Err(Errno::ENOMEM);
            }
            // Shared pages come when they are touched.
            let shares = !vma.flags.shared && !vma.flags.wipe_on_fork;
            let mut from = if shares { vma.start } else { vma.end };
            loop {
                if from < vma.end {
                    from = parent.share_step(&vma, from, &mut child.table)?;
                }
                if alone {
                    drop(parent);
                    self.env.window();
                    parent = self.lock();
                }
                if from >= vma.end {
                    break;
                }
            }
            child.vmas.insert(vma);
        }
        Ok(())
    }
}

impl Locked<'_> {
    /// Maps a bounded part of an area's pages from `from` on in `child`, too,
    /// where nobody may write any more; how far it came.
    fn share_step(&mut self, vma: &Vma, from: u64, child: &mut PageTable<User>) -> Result<u64> {
        let Some((start, stop)) = self.next_step(from, vma.end) else { return Ok(vma.end) };
        self.notify(start, stop);
        let mut gather = Gather::new(&*self.space.env);
        let read_only = |old| UserAttrs { write: false, ..old };
        let stop = self.table.protect(start, stop, &mut gather, read_only)?;
        drop(gather);
        self.table.visit(start, stop, &mut |leaf| {
            let frame = self.table.frame(&leaf).ok_or(Errno::EFAULT)?;
            child.map(leaf.start, frame, vma.attrs_after(leaf.attrs(), false))
        })?;
        Ok(stop)
    }
}
