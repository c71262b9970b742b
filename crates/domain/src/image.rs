//! A guest's kernel: an arm64 Image (Documentation/arch/arm64/booting.rst), and
//! where it, the ramdisk and the device tree go in the guest's RAM.

use crate::layout::BLOCK;
use crate::{Domain, Problem, Region};
use alloc::format;

/// The header's bytes that [`Image::parse`] wants.
pub const HEADER: usize = 64;
const MAGIC: &[u8] = b"ARM\x64";
/// Where images of before Linux 3.17 go, which leave `image_size` zero.
const OLD_TEXT_OFFSET: u64 = 0x8_0000;
/// The most that a device tree may have.
pub const TREE_MAX: u64 = BLOCK;

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// From a multiple of 2 MiB to its first byte.
    pub text_offset: u64,
    /// What it needs in memory, from its first byte.
    pub size: u64,
}

/// Where things go, by the guest's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The kernel: entry point and first byte.
    pub kernel: u64,
    /// The device tree; there are [`TREE_MAX`] bytes.
    pub tree: u64,
    /// The ramdisk.
    pub ramdisk: Option<Region>,
}

impl Image {
    /// Reads the header of a kernel of `len` bytes.
    pub fn parse(header: &[u8], len: u64) -> Result<Image, &'static str> {
        let header: &[u8; HEADER] = header
            .get(..HEADER)
            .and_then(|header| header.try_into().ok())
            .ok_or("is no arm64 Image: too short")?;
        if header.get(56..60) != Some(MAGIC) {
            return Err(match header {
                [0x1f, 0x8b, ..] => "is compressed: unpack it, only arm64 Images are supported",
                [0x7f, b'E', b'L', b'F', ..] => "is an ELF file, not an arm64 Image",
                _ => "is no arm64 Image",
            });
        }
        let word = |at: usize| {
            let bytes = header.get(at..at.saturating_add(8)).unwrap_or_default();
            bytes.iter().rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte))
        };
        let (text_offset, size, flags) = (word(8), word(16), word(24));
        if flags & 1 != 0 {
            return Err("is big-endian");
        }
        let (text_offset, size) =
            if size == 0 { (OLD_TEXT_OFFSET, len) } else { (text_offset, size.max(len)) };
        if text_offset >= BLOCK || size >= 1 << 40 {
            return Err("has an impossible header");
        }
        Ok(Image { text_offset, size })
    }
}

/// Reads the header of a domain's kernel of `len` bytes, and finds room for it in the
/// first bank of its RAM.
pub fn prepare(
    domain: &Domain,
    header: &[u8],
    len: u64,
    ramdisk: Option<u64>,
    bank: Region,
) -> Result<Placed, Problem> {
    let image = Image::parse(header, len).map_err(|why| {
        let what = format!("the kernel there {why}");
        Problem::property(domain.kernel_node.clone(), "reg", what)
    })?;
    place(&image, ramdisk, bank).map_err(|why| {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let what = format!(
            "{why}: give it more for a kernel of {} MiB, a device tree of 2 and a ramdisk of {}, \
             each from a multiple of 2 on, in one piece ({bank})",
            mib(image.size),
            mib(ramdisk.unwrap_or(0)),
        );
        let property = if domain.static_memory.is_empty() { "memory" } else { "xen,static-mem" };
        Problem::property(format!("/chosen/{}", domain.name), property, what)
    })
}

/// Finds room in the first bank: the kernel at its start, the device tree in the
/// block of 2 MiB behind it, the ramdisk behind that.
pub fn place(image: &Image, ramdisk: Option<u64>, bank: Region) -> Result<Placed, &'static str> {
    const LARGE: &str = "is too little";
    let up = |at: u64| at.checked_next_multiple_of(BLOCK).ok_or(LARGE);
    let kernel = up(bank.start)?.checked_add(image.text_offset).ok_or(LARGE)?;
    let tree = up(kernel.checked_add(image.size).ok_or(LARGE)?)?;
    let free = tree.checked_add(TREE_MAX).ok_or(LARGE)?;
    let ramdisk = ramdisk.filter(|size| *size > 0).map(|size| Region::new(free, size));
    let end = ramdisk.map_or(free, |region| region.end());
    if end > bank.end() {
        return Err(LARGE);
    }
    Ok(Placed { kernel, tree, ramdisk })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;

    fn header(text_offset: u64, size: u64, flags: u64) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[8..16].copy_from_slice(&text_offset.to_le_bytes());
        header[16..24].copy_from_slice(&size.to_le_bytes());
        header[24..32].copy_from_slice(&flags.to_le_bytes());
        header[56..60].copy_from_slice(MAGIC);
        header
    }

    #[test]
    fn todays_and_old_images() {
        let image = Image::parse(&header(0, 0x123_4567, 0xa), 0x100_0000).unwrap();
        assert_eq!(image, Image { text_offset: 0, size: 0x123_4567 });
        let old = Image::parse(&header(0, 0, 0), 0x1000).unwrap();
        assert_eq!(old, Image { text_offset: 0x8_0000, size: 0x1000 });
        assert!(Image::parse(&header(0, 1, 1), 1).is_err());
        assert!(Image::parse(&[0; 63], 63).is_err());
        let mut gzip = [0; HEADER];
        gzip[..2].copy_from_slice(&[0x1f, 0x8b]);
        assert!(Image::parse(&gzip, 64).unwrap_err().contains("compressed"));
    }

    #[test]
    fn kernel_then_tree_then_ramdisk() {
        let image = Image { text_offset: 0x8_0000, size: 0x20_0000 };
        let bank = Region::new(0x4000_0000, 16 << 20);
        let placed = place(&image, Some(0x12345), bank).unwrap();
        assert_eq!(placed.kernel, 0x4008_0000);
        assert_eq!(placed.tree, 0x4040_0000);
        assert_eq!(placed.ramdisk, Some(Region::new(0x4060_0000, 0x12345)));
        assert_eq!(place(&image, None, bank).unwrap().ramdisk, None);
        assert!(place(&image, Some(16 << 20), bank).is_err());
        assert!(place(&image, None, Region::new(0x4000_0000, 4 << 20)).is_err());
    }

    #[test]
    fn what_is_wrong_names_node_and_property() {
        let domain = crate::tests::domain("domU1");
        let bank = Region::new(0x4000_0000, 8 << 20);
        let say = |domain: &Domain, header: &[u8], ramdisk| {
            prepare(domain, header, 0x1000, ramdisk, bank).unwrap_err().to_string()
        };
        let gzip = say(&domain, &[0x1f, 0x8b, 0, 0].repeat(16), None);
        assert!(gzip.starts_with("/chosen/domU1/module@48000000: reg: the kernel there is compr"));
        let header = header(0, 3 << 20, 0);
        assert!(prepare(&domain, &header, 0x1000, Some(2 << 20), bank).is_ok());
        let large = say(&domain, &header, Some(3 << 20));
        assert!(large.starts_with("/chosen/domU1: memory: is too little: give it more"), "{large}");
        assert!(large.contains("kernel of 3 MiB") && large.contains("ramdisk of 3,"), "{large}");
        let named = Domain { static_memory: std::vec![bank], ..domain };
        assert!(say(&named, &header, Some(3 << 20)).starts_with("/chosen/domU1: xen,static-mem: "));
    }

    proptest! {
        #[test]
        fn nothing_overlaps_or_lies_outside(
            header in proptest::collection::vec(any::<u8>(), HEADER),
            len in any::<u64>(), ramdisk in proptest::option::of(any::<u64>()),
            start in any::<u64>(), size in any::<u64>(),
        ) {
            let mut header = header;
            header[56..60].copy_from_slice(MAGIC);
            let bank = Region::new(start, size);
            if let Ok(image) = Image::parse(&header, len)
                && let Ok(placed) = place(&image, ramdisk, bank)
            {
                let kernel = Region::new(placed.kernel, image.size);
                let tree = Region::new(placed.tree, TREE_MAX);
                prop_assert!(bank.contains(&kernel) && bank.contains(&tree));
                prop_assert!(!kernel.overlaps(&tree));
                if let Some(ramdisk) = placed.ramdisk {
                    prop_assert!(bank.contains(&ramdisk));
                    prop_assert!(!ramdisk.overlaps(&tree) && !ramdisk.overlaps(&kernel));
                }
            }
        }
    }
}
