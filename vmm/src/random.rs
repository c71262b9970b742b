//! Entropy from the host.

use std::fs::File;
use std::io::{self, Read};

/// Fills `bytes`, by getrandom or, where the kernel has no such call, from /dev/urandom.
pub fn fill(bytes: &mut [u8]) -> io::Result<()> {
    let mut rest = &mut *bytes;
    while !rest.is_empty() {
        // SAFETY: the pointer and the length are those of `rest`, which nobody else can see.
        let n = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(n) {
            Ok(n) => rest = rest.get_mut(n..).unwrap_or(&mut []),
            Err(_) => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => {}
                e if e.raw_os_error() == Some(libc::ENOSYS) => {
                    return File::open("/dev/urandom")?.read_exact(rest);
                }
                e => return Err(e),
            },
        }
    }
    Ok(())
}
