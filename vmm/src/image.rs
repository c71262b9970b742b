//! The arm64 `Image` header (Documentation/arch/arm64/booting.rst), and telling it from what people pass by mistake.

use crate::error::{Error, Result};
use crate::layout::BLOCK;

/// The header's length.
pub const HEADER_LEN: usize = 64;

/// `"ARM\x64"`, at offset 56.
const MAGIC: u32 = 0x644d_5241;

/// What the header tells a loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Offset of the image from a 2 MiB boundary.
    pub text_offset: u64,
    /// Memory it needs from its start on, zero-initialised data included.
    pub memory_size: u64,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let b = bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_le_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let b = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let b = bytes.get(at..)?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*b))
}

/// Whether the file is a gzip stream, as distributions ship arm64 kernels.
pub fn is_gzip(file: &[u8]) -> bool {
    file.starts_with(&[0x1f, 0x8b])
}

/// Reads the header from the start of a kernel file, `file`, that has `file_size` bytes in all.
pub fn parse(file: &[u8], file_size: u64) -> Result<Header> {
    if file.is_empty() {
        return Err(Error::new("the kernel file is empty"));
    }
    if u32_at(file, 56) != Some(MAGIC) {
        return Err(not_an_image(file));
    }
    let (Some(text_offset), Some(image_size)) = (u64_at(file, 8), u64_at(file, 16)) else {
        return Err(not_an_image(file));
    };
    // Kernels before 3.17 leave image_size zero, and then text_offset is 0x80000 whatever the field says.
    let (text_offset, image_size) =
        if image_size == 0 { (0x8_0000, 0) } else { (text_offset, image_size) };
    if text_offset >= BLOCK {
        return Err(Error::new(format!(
            "the kernel's Image header is damaged: text_offset {text_offset:#x} is over 2 MiB"
        ))
        .cure("build or download the kernel again"));
    }
    check_sections(file, file_size)?;
    Ok(Header { text_offset, memory_size: image_size.max(file_size) })
}

/// An Image with an EFI stub is a PE file too, and its section table says how long the file should be.
/// Nothing else would show that a kernel was cut short.
fn check_sections(file: &[u8], file_size: u64) -> Result<()> {
    if !file.starts_with(b"MZ") {
        return Ok(());
    }
    match sections_end(file) {
        Some(end) if end > file_size => Err(Error::new(format!(
            "the kernel is truncated: its sections end at byte {end}, the file at {file_size}"
        ))
        .cure("copy or download the kernel again")),
        _ => Ok(()),
    }
}

/// The end of the last PE section, if there is a PE header.
fn sections_end(file: &[u8]) -> Option<u64> {
    let pe = usize::try_from(u32_at(file, 0x3c)?).ok()?;
    if file.get(pe..)?.first_chunk::<4>()? != b"PE\0\0" {
        return None;
    }
    let count = usize::from(u16_at(file, pe.checked_add(6)?)?);
    let optional = usize::from(u16_at(file, pe.checked_add(20)?)?);
    let table = pe.checked_add(24)?.checked_add(optional)?;
    let mut end = 0;
    for i in 0..count {
        let section = table.checked_add(i.checked_mul(40)?)?;
        let size = u64::from(u32_at(file, section.checked_add(16)?)?);
        let start = u64::from(u32_at(file, section.checked_add(20)?)?);
        end = end.max(start.checked_add(size)?);
    }
    Some(end)
}

fn not_an_image(file: &[u8]) -> Error {
    let e = |what: &str| Error::new(format!("the kernel is not an arm64 Image: {what}"));
    if file.starts_with(b"\x7fELF") {
        return e("it is an ELF file")
            .cure("give arch/arm64/boot/Image, not vmlinux (or: objcopy -O binary vmlinux Image)");
    }
    if file.get(4..8) == Some(b"zimg") {
        return e("it is a compressed EFI application (vmlinuz.efi)")
            .cure("give the Image it was made from, or extract it with binwalk or unzboot");
    }
    if file.get(0x202..0x206) == Some(b"HdrS") {
        return e("it is an x86 bzImage").cure("give a kernel for arm64");
    }
    if file.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
        return e("it is compressed with xz").cure("decompress it first: xz -dc FILE > Image");
    }
    if file.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return e("it is compressed with zstd").cure("decompress it first: zstd -dc FILE > Image");
    }
    if file.len() < HEADER_LEN {
        return e("it is shorter than the header").cure("copy or download the kernel again");
    }
    e("the magic number at offset 56 is missing")
        .cure("give an uncompressed or gzip-compressed arm64 Image")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(file: &[u8]) -> Result<Header> {
        super::parse(file, file.len() as u64)
    }

    fn image(text_offset: u64, size: u64, len: usize) -> Vec<u8> {
        let mut v = vec![0; len];
        v[8..16].copy_from_slice(&text_offset.to_le_bytes());
        v[16..24].copy_from_slice(&size.to_le_bytes());
        v[56..60].copy_from_slice(&MAGIC.to_le_bytes());
        v
    }

    #[test]
    fn reads_the_header() {
        let h = parse(&image(0, 0x10_0000, 4096)).unwrap();
        assert_eq!((h.text_offset, h.memory_size), (0, 0x10_0000));
        let h = parse(&image(0x1000, 0, 4096)).unwrap();
        assert_eq!((h.text_offset, h.memory_size), (0x8_0000, 4096));
    }

    #[test]
    fn a_damaged_header_is_refused() {
        assert!(parse(&image(BLOCK, 4096, 4096)).is_err());
    }

    #[test]
    fn a_truncated_efi_kernel_is_noticed() {
        let mut v = image(0, 0x10_0000, 4096);
        v[..2].copy_from_slice(b"MZ");
        v[0x3c..0x40].copy_from_slice(&64u32.to_le_bytes());
        v[64..68].copy_from_slice(b"PE\0\0");
        v[70] = 1;
        v[84] = 0xa0;
        let section = 64 + 24 + 0xa0;
        v[section + 16..section + 20].copy_from_slice(&0x1000u32.to_le_bytes());
        assert!(parse(&v).is_ok());
        v[section + 20..section + 24].copy_from_slice(&1u32.to_le_bytes());
        assert!(parse(&v).unwrap_err().to_string().contains("truncated"));
    }

    #[test]
    fn garbage_is_named() {
        let named = |bytes: &[u8], what: &str| {
            let e = parse(bytes).unwrap_err().to_string();
            assert!(e.contains(what), "{e}");
        };
        named(b"", "empty");
        named(b"\x7fELF\x02\x01\x01", "ELF");
        named(b"MZ\0\0zimg", "EFI application");
        named(&[0x5a; 10], "shorter");
        named(&[0x5a; 4096], "magic number");
        let mut bz = vec![0; 4096];
        bz[0x202..0x206].copy_from_slice(b"HdrS");
        named(&bz, "x86");
    }

    proptest::proptest! {
        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(0u8.., 0..512), magic: bool, mz: bool) {
            if magic && bytes.len() >= 60 {
                bytes[56..60].copy_from_slice(&MAGIC.to_le_bytes());
            }
            if mz && bytes.len() >= 2 {
                bytes[..2].copy_from_slice(b"MZ");
            }
            let _ = parse(&bytes);
        }
    }
}
