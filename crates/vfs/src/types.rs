//! The file system types that can be mounted.

use crate::device::register_devtmpfs;
use crate::path::Namespace;
use crate::proc::{Proc, ProcSource};
use crate::sysfs::{self, SysSource};
use crate::tmpfs::{Tmpfs, TmpfsOptions};
use alloc::sync::Arc;
use base::Result;

/// Makes sysfs, proc, devtmpfs, tmpfs and ramfs mountable. There is one
/// instance of the first three, whoever mounts them.
pub fn register(
    ns: &Arc<Namespace>,
    ram_pages: u64,
    proc: Arc<dyn ProcSource>,
    sys: Arc<dyn SysSource>,
) -> Result<()> {
    let sysfs = sysfs::new(sys, ns.devices(), &**ns.clock());
    ns.register_fs("sysfs", move |_| Ok(sysfs.clone()));
    let clock = ns.clock().clone();
    ns.register_fs("tmpfs", move |data| {
        let options = TmpfsOptions::new(ram_pages).parse(data)?;
        Ok(Tmpfs::new("tmpfs", options, clock.clone())?)
    });
    let (proc, _) = Proc::build(proc, ns);
    ns.register_fs("proc", move |_| Ok(proc.clone()));
    register_devtmpfs(ns, ram_pages)?;
    let clock = ns.clock().clone();
    ns.register_fs("ramfs", move |_| {
        // Without limits.
        let options =
            TmpfsOptions { pages: u64::MAX, inodes: u64::MAX, mode: 0o755, ..TmpfsOptions::new(0) };
        Ok(Tmpfs::new("ramfs", options, clock.clone())?)
    });
    Ok(())
}
