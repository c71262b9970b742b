//! fork(2): the child shares the parent's private pages until one writes.

use crate::space::{AddressSpace, Inner, Locked, MmEnv};
use crate::vma::{Vma, VmaTree};
use alloc::sync::Arc;
use alloc::vec::Vec;
use base::{Errno, Result};
use paging::{PageTable, User, UserAttrs};

impl AddressSpace {
    /// A copy of this address space, for a child.
    pub fn fork(&self, env: Arc<dyn MmEnv>) -> Result<AddressSpace> {
        let mut parent = self.lock();
        let mut vmas = VmaTree::default();
        let mut table = PageTable::new(parent.table.bits())?;
        let (mut at, mut result) = (0, Ok(()));
        while let Some(vma) = parent.vmas.find_or_above(at).cloned() {
            at = vma.end;
            if vma.flags.dont_fork {
                continue;
            }
            // Shared pages come when they are touched.
            if !vma.flags.shared && !vma.flags.wipe_on_fork {
                result = parent.share(&vma, &mut table);
            }
            if result.is_err() {
                break;
            }
            // Each takes heap, and there may be many.
            if frame::is_low() {
                result = Err(Errno::ENOMEM);
                break;
            }
            vmas.insert(vma);
        }
        let inner = Inner {
            layout: parent.layout,
            vmas,
            table,
            brk_start: parent.brk_start,
            brk: parent.brk,
            notifiers: Vec::new(),
        };
        drop(parent);
        // On an error its drop gives back what it got.
        let child = AddressSpace::with(env, inner);
        result.map(|()| child)
    }
}

impl Locked<'_> {
    /// Maps an area's pages in `child` too, where nobody may write any more.
    fn share(&mut self, vma: &Vma, child: &mut PageTable<User>) -> Result<()> {
        let (start, end) = (vma.start, vma.end);
        if self.table.next(start, end).is_none() {
            return Ok(());
        }
        self.notify(start, end);
        let mut gather = self.gather();
        let read_only = |old| UserAttrs { write: false, ..old };
        self.table.protect(start, end, &mut gather, read_only)?;
        drop(gather);
        self.table.visit(start, end, &mut |leaf| {
            let frame = self.table.frame(&leaf).ok_or(Errno::EFAULT)?;
            child.map(leaf.start, frame, leaf.attrs())
        })
    }
}
