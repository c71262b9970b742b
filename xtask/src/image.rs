//! From the linked ELF file to what a boot loader takes.

use crate::ui;
use anyhow::{Context, Result, bail};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSection, ObjectSymbol};

/// Offset of the magic number in the arm64 Image header
/// (Documentation/arch/arm64/booting.rst).
const MAGIC_AT: usize = 56;
const MAGIC: &[u8] = b"ARM\x64";

/// The PT_LOAD segments, each at its place: what `objcopy -O binary` makes.
pub fn flatten(elf: &[u8]) -> Result<Vec<u8>> {
    let header = object::elf::FileHeader64::<Endianness>::parse(elf).context("not an ELF file")?;
    let endian = header.endian()?;
    let loads: Vec<_> = header
        .program_headers(endian, elf)?
        .iter()
        .filter(|h| h.p_type(endian) == object::elf::PT_LOAD && h.p_filesz(endian) > 0)
        .collect();
    let base = loads.iter().map(|h| h.p_paddr(endian)).min().context("nothing to load")?;
    let mut flat = Vec::new();
    for load in loads {
        let data = load.data(endian, elf).ok().context("a segment outside the file")?;
        let start = usize::try_from(load.p_paddr(endian) - base)?;
        let end = start + data.len();
        if end > 64 << 20 {
            bail!("a segment ends {end} bytes above the first: is a load address wrong?");
        }
        if flat.len() < end {
            flat.resize(end, 0);
        }
        flat[start..end].copy_from_slice(data);
    }
    Ok(flat)
}

/// A kernel for the Linux arm64 boot protocol?
pub fn check_header(image: &[u8]) -> Result<()> {
    if image.get(MAGIC_AT..MAGIC_AT + MAGIC.len()) != Some(MAGIC) {
        bail!("no arm64 Image header: the magic number at offset {MAGIC_AT} is missing");
    }
    Ok(())
}

/// Prints how large the Image and the parts of it are.
pub fn report(elf: &[u8], image: &[u8]) -> Result<()> {
    let file = object::File::parse(elf)?;
    ui::note(format!("{:<24} {:>9}", "Image", ui::size(image.len() as u64)));
    for section in file.sections() {
        // SHF_ALLOC: part of the kernel in memory.
        let object::SectionFlags::Elf { sh_flags } = section.flags() else { continue };
        if sh_flags & u64::from(object::elf::SHF_ALLOC) != 0 && section.size() > 0 {
            let name = section.name().unwrap_or("?");
            ui::note(format!("  {name:<22} {:>9}", ui::size(section.size())));
        }
    }
    let symbols = file.symbols().filter(|symbol| symbol.size() > 0).count();
    ui::note(format!("{symbols} symbols in Image.elf"));
    Ok(())
}
