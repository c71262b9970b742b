//! Memory: mmap and what belongs to it.

use super::{Args, SysResult};
use crate::process::exec::FileObject;
use crate::process::space::Mm;
use crate::process::credentials::{INFINITY, resource};
use crate::process::current;
use crate::user::CurrentUser;
use alloc::sync::Arc;
use base::{Errno, PAGE_SIZE, Result, UserMem};
use mm::abi::{MAP_ANONYMOUS, MAP_SHARED, MAP_SHARED_VALIDATE, MAP_TYPE, PROT_WRITE};
use mm::{Map, MapObject};
use syscalls::nr;

/// This group's calls; `None` for others.
pub fn dispatch(number: u64, a: Args) -> Option<SysResult> {
    let [a0, a1, a2, a3, a4, _] = a;
    Some(match number {
        nr::BRK => with_mm(|mm| brk(mm, a0)),
        nr::MMAP => mmap(a),
        nr::MUNMAP => with_mm(|mm| done(mm.munmap(a0, a1))),
        nr::MPROTECT => with_mm(|mm| done(mm.mprotect(a0, a1, a2 as u32))),
        nr::MREMAP => with_mm(|mm| {
            check_limit(mm, a2.saturating_sub(a1))?;
            Ok(mm.mremap(a0, a1, a2, a3 as u32, a4)? as i64)
        }),
        nr::MADVISE => with_mm(|mm| done(mm.madvise(a0, a1, a2 as u32))),
        nr::MSYNC => with_mm(|mm| done(mm.msync(a0, a1, a2 as u32))),
        nr::MLOCK => with_mm(|mm| done(mm.mlock(a0, a1, 0))),
        nr::MLOCK2 => with_mm(|mm| done(mm.mlock(a0, a1, a2 as u32))),
        nr::MUNLOCK => with_mm(|mm| done(mm.munlock(a0, a1))),
        nr::MLOCKALL => with_mm(|mm| done(mm.mlockall(a0 as u32))),
        nr::MUNLOCKALL => Ok(0),
        nr::MINCORE => mincore(a0, a1, a2),
        _ => return None,
    })
}

fn with_mm(f: impl FnOnce(&Arc<Mm>) -> Result<i64>) -> SysResult {
    Ok(f(&current()?.mm()?)?)
}

fn done(result: Result<()>) -> Result<i64> {
    result.map(|()| 0)
}

/// RLIMIT_AS: `ENOMEM` if `more` bytes are too much.
fn check_limit(mm: &Mm, more: u64) -> Result<()> {
    let limit = current()?.limit(resource::AS);
    let mapped = || mm.size().0.saturating_mul(PAGE_SIZE).saturating_add(more);
    if limit != INFINITY && more != 0 && mapped() > limit { Err(Errno::ENOMEM) } else { Ok(()) }
}

fn brk(mm: &Mm, end: u64) -> Result<i64> {
    let now = mm.brk(0);
    match check_limit(mm, end.saturating_sub(now)) {
        Ok(()) => Ok(mm.brk(end) as i64),
        // As the call has it: the break stays where it is.
        Err(_) => Ok(now as i64),
    }
}

fn mmap([addr, len, prot, flags, fd, offset]: Args) -> SysResult {
    let (prot, flags) = (prot as u32, flags as u32);
    if !offset.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL.into());
    }
    let process = current()?;
    let object = if flags & MAP_ANONYMOUS != 0 {
        None
    } else {
        let file = process.files()?.get(fd as i32)?;
        file.not_path()?;
        let access = file.flags();
        // Even what will only be written is read first.
        if !access.readable() {
            return Err(Errno::EACCES.into());
        }
        let shared = matches!(flags & MAP_TYPE, MAP_SHARED | MAP_SHARED_VALIDATE);
        let (object, may_write) = match shared && access.writable() {
            false => (FileObject::of(&file)?, access.writable()),
            true => match FileObject::writable(&file) {
                // Sealed: it can still be read.
                Err(Errno::EPERM) if prot & PROT_WRITE == 0 => (FileObject::of(&file)?, false),
                object => (object?, true),
            },
        };
        Some(MapObject { object, offset, may_write })
    };
    let mm = process.mm()?;
    check_limit(&mm, len)?;
    Ok(mm.mmap(Map { addr, len, prot, flags, object })? as i64)
}

/// How many pages mincore() looks at between copies.
const PAGES: usize = 512;

fn mincore(addr: u64, len: u64, out: u64) -> SysResult {
    let mm = current()?.mm()?;
    let pages = len.div_ceil(PAGE_SIZE);
    let mut done = 0u64;
    let mut chunk = [0; PAGES];
    while done < pages {
        let count = pages.saturating_sub(done).min(PAGES as u64);
        let part = chunk.get_mut(..count as usize).ok_or(Errno::EFAULT)?;
        let at = addr.wrapping_add(done.wrapping_mul(PAGE_SIZE));
        mm.mincore(at, part)?;
        CurrentUser.write(out.wrapping_add(done), part)?;
        done = done.saturating_add(count);
        crate::sched::breathe();
    }
    Ok(0)
}
