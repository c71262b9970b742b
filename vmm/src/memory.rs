//! Guest RAM: one anonymous mapping on a 2 MiB boundary, so that stage 2 can map it in blocks.

use std::io;
use std::ptr;

use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};

use crate::error::{Context, Error, Result};
use crate::layout::{BLOCK, MIB, RAM_BASE};

/// Guest memory as the devices see it.
pub type GuestMemory = GuestMemoryMmap<()>;

/// The mapping. It stays until the process ends, through every restart of the guest: so nothing that still
/// points into it can dangle.
#[derive(Clone)]
pub struct Ram {
    host: usize,
    size: usize,
    memory: GuestMemory,
}

fn no_memory(size: u64, e: &io::Error) -> Error {
    Error::new(format!("cannot reserve {} MiB for the guest: {e}", size / MIB))
        .cure("give a smaller --mem; the host's limits are in `ulimit -v` and /proc/sys/vm/overcommit_memory")
}

impl Ram {
    /// Reserves `size` bytes, a multiple of 2 MiB. The host finds pages for them as they are touched.
    pub fn new(size: u64) -> Result<Ram> {
        let absurd = || {
            Error::new(format!("{} MiB of guest RAM is absurd", size / MIB))
                .cure("give a smaller --mem")
        };
        let block = usize::try_from(BLOCK).map_err(|_| absurd())?;
        let len = usize::try_from(size).map_err(|_| absurd())?;
        let reserve = len.checked_add(block).ok_or_else(absurd)?;
        // SAFETY: a new private mapping at an address of the kernel's choice disturbs nothing that exists.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                reserve,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(no_memory(size, &io::Error::last_os_error()));
        }
        let start = start.addr();
        let host = start.next_multiple_of(block);
        let head = host.saturating_sub(start);
        let tail = block.saturating_sub(head);
        if head > 0 {
            // SAFETY: the bytes before the boundary belong to the mapping above, and nobody knows of them.
            unsafe { libc::munmap(ptr::without_provenance_mut(start), head) };
        }
        if tail > 0 {
            // SAFETY: so do those behind the guest's.
            unsafe { libc::munmap(ptr::without_provenance_mut(host.saturating_add(len)), tail) };
        }
        let ram = ptr::with_exposed_provenance_mut::<u8>(host);
        // SAFETY: `ram` and `len` name our own mapping. Huge pages are a wish; a host without them is fine.
        unsafe { libc::madvise(ram.cast(), len, libc::MADV_HUGEPAGE) };
        // SAFETY: `ram` points to `len` bytes that stay mapped, readable and writable, until the process ends.
        let region = unsafe { MmapRegionBuilder::new(len).with_raw_mmap_pointer(ram) }
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE)
            .build()
            .context("guest RAM")?;
        let region = GuestRegionMmap::new(region, GuestAddress(RAM_BASE)).ok_or_else(absurd)?;
        let memory = GuestMemory::from_regions(vec![region]).context("guest RAM")?;
        Ok(Ram { host, size: len, memory })
    }

    /// As the devices see it.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Where it is in our address space.
    pub fn host_address(&self) -> u64 {
        u64::try_from(self.host).unwrap_or(u64::MAX)
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        u64::try_from(self.size).unwrap_or(u64::MAX)
    }

    /// Makes it all zero again and gives the pages back to the host.
    pub fn clear(&self) -> Result<()> {
        // SAFETY: the range is our mapping, which only holds guest memory: bytes that nobody has a reference to.
        let status = unsafe {
            libc::madvise(
                ptr::with_exposed_provenance_mut(self.host),
                self.size,
                libc::MADV_DONTNEED,
            )
        };
        match status {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()).context("clearing the guest's RAM"),
        }
    }
}

/// The host's memory in bytes, from the text of /proc/meminfo.
pub fn host_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|l| l.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn aligned_zeroed_and_clearable() {
        let ram = Ram::new(4 * MIB).unwrap();
        assert_eq!(ram.host_address() % BLOCK, 0);
        assert_eq!(ram.size(), 4 * MIB);
        let last = GuestAddress(RAM_BASE + 4 * MIB - 8);
        assert!(ram.memory().write_obj(1u64, GuestAddress(RAM_BASE + 4 * MIB - 7)).is_err());
        ram.memory().write_obj(1u64, last).unwrap();
        assert_eq!(ram.memory().read_obj::<u64>(last).unwrap(), 1);
        ram.clear().unwrap();
        assert_eq!(ram.memory().read_obj::<u64>(last).unwrap(), 0);
    }

    #[test]
    fn absurd_sizes_are_errors() {
        assert!(Ram::new(1 << 60).is_err());
        assert!(Ram::new(u64::MAX - BLOCK + 1).is_err());
    }

    #[test]
    fn meminfo() {
        assert_eq!(
            host_total("MemTotal:        2013320 kB\nMemFree: 1 kB\n"),
            Some(2_013_320 << 10)
        );
        assert_eq!(host_total("nothing"), None);
        assert_eq!(host_total("MemTotal: 99999999999999999999 kB"), None);
    }
}
