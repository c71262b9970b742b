//! The ELF header (System V ABI, chapter 4; ELF for the Arm 64-bit
//! Architecture).

use base::{Errno, Result};

/// What kind of executable it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderKind {
    /// `ET_EXEC`: loaded at the addresses it names.
    Fixed,
    /// `ET_DYN`: loaded wherever the kernel wants.
    PositionIndependent,
}

/// The parts of an ELF header that loading needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where it may be loaded.
    pub kind: HeaderKind,
    /// `e_entry`, before the load bias.
    pub entry: u64,
    /// `e_phoff`: where the program headers are in the file.
    pub phoff: u64,
    /// `e_phnum`, at least 1.
    pub phnum: u16,
}

const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_AARCH64: u16 = 183;

impl Header {
    /// The size of an ELF64 header: how much of the file [`parse`](Self::parse)
    /// wants to see.
    pub const SIZE: usize = 64;
    /// `e_phentsize`: the size of one program header.
    pub const PHENT: u16 = 56;

    /// Reads the header at the start of `head`. `ENOEXEC` if this is no 64-bit
    /// little-endian arm64 executable.
    pub fn parse(head: &[u8]) -> Result<Header> {
        if head.get(..4) != Some(b"\x7fELF".as_slice()) {
            return Err(Errno::ENOEXEC);
        }
        // EI_CLASS is ELFCLASS64, EI_DATA is ELFDATA2LSB.
        if head.get(4..6) != Some([2, 1].as_slice()) {
            return Err(Errno::ENOEXEC);
        }
        let kind = match u16_at(head, 16)? {
            ET_EXEC => HeaderKind::Fixed,
            ET_DYN => HeaderKind::PositionIndependent,
            _ => return Err(Errno::ENOEXEC),
        };
        let phnum = u16_at(head, 56)?;
        // Linux takes at most 64 KiB of program headers.
        let size = u32::from(phnum).saturating_mul(u32::from(Self::PHENT));
        let machine = u16_at(head, 18)?;
        let phentsize = u16_at(head, 54)?;
        if machine != EM_AARCH64 || phentsize != Self::PHENT || phnum == 0 || size > 65536 {
            return Err(Errno::ENOEXEC);
        }
        let header = Header { kind, entry: u64_at(head, 24)?, phoff: u64_at(head, 32)?, phnum };
        header.phoff.checked_add(header.phdr_size() as u64).ok_or(Errno::ENOEXEC)?;
        Ok(header)
    }

    /// How many bytes of program headers to read at [`phoff`](Self::phoff); at
    /// most 64 KiB.
    pub fn phdr_size(&self) -> usize {
        usize::from(self.phnum).saturating_mul(usize::from(Self::PHENT))
    }
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    array_at(bytes, at).map(u16::from_le_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    array_at(bytes, at).map(u64::from_le_bytes)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(Errno::ENOEXEC)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    /// A header for tests.
    pub fn header(kind: u16, entry: u64, phnum: u16) -> Vec<u8> {
        let mut head = vec![0; 64];
        head[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        head[16..18].copy_from_slice(&kind.to_le_bytes());
        head[18..20].copy_from_slice(&183u16.to_le_bytes());
        head[20] = 1;
        head[24..32].copy_from_slice(&entry.to_le_bytes());
        head[32..40].copy_from_slice(&64u64.to_le_bytes());
        head[52..54].copy_from_slice(&64u16.to_le_bytes());
        head[54..56].copy_from_slice(&56u16.to_le_bytes());
        head[56..58].copy_from_slice(&phnum.to_le_bytes());
        head
    }

    #[test]
    fn executables() {
        let parsed = Header::parse(&header(2, 0x400000, 4)).unwrap();
        assert_eq!(parsed.kind, HeaderKind::Fixed);
        assert_eq!((parsed.entry, parsed.phoff, parsed.phnum), (0x400000, 64, 4));
        assert_eq!(parsed.phdr_size(), 224);
        let pie = Header::parse(&header(3, 0, 1)).unwrap();
        assert_eq!(pie.kind, HeaderKind::PositionIndependent);
    }

    #[test]
    fn others_are_refused() {
        let refused = |at: usize, value: u8| {
            let mut head = header(2, 0, 1);
            head[at] = value;
            assert_eq!(Header::parse(&head), Err(Errno::ENOEXEC), "byte {at}");
        };
        refused(0, 0); // no magic
        refused(4, 1); // 32 bits
        refused(5, 2); // big-endian
        refused(16, 1); // an object file
        refused(18, 62); // x86-64
        refused(54, 32); // program headers of another size
        refused(56, 0); // none of them
        refused(57, 0xff); // too many
        assert_eq!(
            Header::parse(&header(2, 0, 1)[..63]),
            Ok(Header::parse(&header(2, 0, 1)).unwrap())
        );
        assert_eq!(Header::parse(&header(2, 0, 1)[..57]), Err(Errno::ENOEXEC));
        assert_eq!(Header::parse(b""), Err(Errno::ENOEXEC));
        let mut head = header(2, 0, 1);
        head[32..40].fill(0xff);
        assert_eq!(Header::parse(&head), Err(Errno::ENOEXEC));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            mut bytes in prop::collection::vec(any::<u8>(), 0..80), magic in any::<bool>()
        ) {
            if magic && bytes.len() >= 20 {
                bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
                bytes[16..20].copy_from_slice(&[2, 0, 183, 0]);
            }
            let _ = Header::parse(&bytes);
        }
    }
}
