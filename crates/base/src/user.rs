//! User memory: an allegation until copied.

use crate::{Errno, Result, Room};
use alloc::vec::Vec;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// An address space that EL0 (or a guest) can change at any time. Every access
/// copies, checks the address, and fails with `EFAULT`; nothing is borrowed.
///
/// No [`crate::Lock`] may be held across these calls: they can fault.
pub trait UserMem {
    /// Copies `out.len()` bytes from `addr`. On `EFAULT`, `out` may be partly
    /// written.
    fn read(&self, addr: u64, out: &mut [u8]) -> Result<()>;

    /// Copies `data` to `addr`. On `EFAULT`, a prefix may have been written.
    fn write(&self, addr: u64, data: &[u8]) -> Result<()>;
}

/// Typed accesses on top of [`UserMem`].
pub trait UserMemExt: UserMem {
    /// Copies a `T` out of user memory.
    fn read_obj<T: FromBytes + IntoBytes>(&self, addr: u64) -> Result<T> {
        let mut value = T::new_zeroed();
        self.read(addr, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Copies a `T` to user memory.
    fn write_obj<T: IntoBytes + Immutable>(&self, addr: u64, value: &T) -> Result<()> {
        self.write(addr, value.as_bytes())
    }

    /// Copies `count` values of `T`; `EINVAL` if their size overflows, `ENOMEM`
    /// if the kernel has no room for them.
    fn read_vec<T: FromBytes + IntoBytes>(&self, addr: u64, count: usize) -> Result<Vec<T>> {
        let mut values = crate::room::try_vec(count)?;
        values.resize_with(count, T::new_zeroed);
        self.read(addr, values.as_mut_slice().as_mut_bytes())?;
        Ok(values)
    }

    /// Copies a NUL-terminated string without its NUL: `ENAMETOOLONG` if there
    /// is none within `max` bytes.
    fn read_cstr(&self, addr: u64, max: usize) -> Result<Vec<u8>> {
        const CHUNK: u64 = 64;
        let mut string = Vec::new();
        let mut at = addr;
        loop {
            // Never past the next 64-byte line: the string may end right
            // before an unmapped page.
            let room = CHUNK.wrapping_sub(at % CHUNK);
            let mut chunk = [0u8; CHUNK as usize];
            let part = chunk.get_mut(..room as usize).ok_or(Errno::EFAULT)?;
            self.read(at, part)?;
            let end = part.iter().position(|&byte| byte == 0);
            let text = part.get(..end.unwrap_or(part.len())).ok_or(Errno::EFAULT)?;
            if string.len().saturating_add(text.len()) >= max {
                return Err(Errno::ENAMETOOLONG);
            }
            string.make_room(text.len())?;
            string.extend_from_slice(text);
            if end.is_some() {
                return Ok(string);
            }
            at = at.checked_add(room).ok_or(Errno::EFAULT)?;
        }
    }
}

impl<M: UserMem + ?Sized> UserMemExt for M {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::vec;

    /// Bytes at address 4096 and up.
    struct Flat(Mutex<Vec<u8>>);

    impl UserMem for Flat {
        fn read(&self, addr: u64, out: &mut [u8]) -> Result<()> {
            let memory = self.0.lock().unwrap();
            let at = addr.checked_sub(4096).ok_or(Errno::EFAULT)? as usize;
            out.copy_from_slice(memory.get(at..at + out.len()).ok_or(Errno::EFAULT)?);
            Ok(())
        }
        fn write(&self, addr: u64, data: &[u8]) -> Result<()> {
            let mut memory = self.0.lock().unwrap();
            let at = addr.checked_sub(4096).ok_or(Errno::EFAULT)? as usize;
            memory.get_mut(at..at + data.len()).ok_or(Errno::EFAULT)?.copy_from_slice(data);
            Ok(())
        }
    }

    #[test]
    fn strings_end_at_their_nul() {
        let mut memory = vec![b'a'; 4096];
        memory[4095] = 0;
        let user = Flat(Mutex::new(memory));
        assert_eq!(user.read_cstr(4096 + 4000, 4096).unwrap().len(), 95);
        assert_eq!(user.read_cstr(4096, 100), Err(Errno::ENAMETOOLONG));
        assert_eq!(user.read_cstr(0, 100), Err(Errno::EFAULT));
        assert_eq!(user.read_cstr(8192, 100), Err(Errno::EFAULT));
    }

    #[test]
    fn objects_round_trip() {
        let user = Flat(Mutex::new(vec![0; 64]));
        user.write_obj(4100, &0x1122_3344_u32).unwrap();
        assert_eq!(user.read_obj::<u32>(4100), Ok(0x1122_3344));
        assert_eq!(user.read_vec::<u16>(4100, 2).unwrap(), [0x3344, 0x1122]);
        assert_eq!(user.read_obj::<u64>(4096 + 60), Err(Errno::EFAULT));
        assert_eq!(user.read_vec::<u64>(4096, usize::MAX), Err(Errno::ENOMEM));
    }
}
