//! Fills the kernel's table of its own symbols (kernel/src/symbols.rs), so that
//! a panic can name what it was in.

use crate::ui;
use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

/// Puts the table into the section .ksyms of the linked file, in place. Little-endian
/// 32-bit words: a count, that many pairs of (address, where its name starts), then
/// the names, NUL-terminated.
pub fn fill(elf: &mut [u8]) -> Result<()> {
    let file = object::File::parse(&*elf)?;
    let section = file.section_by_name(".ksyms").context("no section .ksyms")?;
    let (start, size) = section.file_range().context(".ksyms has no contents")?;
    let (start, size) = (usize::try_from(start)?, usize::try_from(size)?);
    let table = table(functions(&file), size)?;
    let room = elf.get_mut(start..start + size).context(".ksyms is outside the file")?;
    room.fill(0);
    room[..table.len()].copy_from_slice(&table);
    Ok(())
}

fn functions(file: &object::File<'_>) -> Vec<(u32, String)> {
    let text = |symbol: &object::Symbol<'_, '_>| {
        let section = symbol.section_index().and_then(|index| file.section_by_index(index).ok());
        section.is_some_and(|section| section.kind() == object::SectionKind::Text)
    };
    let mut functions: Vec<_> = file
        .symbols()
        // Assembly often has no types; `$x` and `.L` are the assembler's own.
        .filter(|s| s.kind() == SymbolKind::Text || (s.kind() == SymbolKind::Unknown && text(s)))
        .filter_map(|s| Some((u32::try_from(s.address()).ok()?, s.name().ok()?.to_string())))
        .filter(|(_, name)| !name.is_empty() && !name.starts_with(['$', '.']))
        // As people read them, without the hash.
        .map(|(address, name)| (address, format!("{:#}", rustc_demangle::demangle(&name))))
        .collect();
    functions.sort();
    functions.dedup_by_key(|(address, _)| *address);
    functions
}

/// The table; if it is larger than `room`, without the longest names.
fn table(mut functions: Vec<(u32, String)>, room: usize) -> Result<Vec<u8>> {
    let size = |functions: &[(u32, String)]| {
        4 + functions.iter().map(|(_, name)| 8 + name.len() + 1).sum::<usize>()
    };
    if functions.is_empty() {
        bail!("the kernel has no symbols");
    }
    let all = functions.len();
    while size(&functions) > room {
        let longest = functions.iter().map(|(_, name)| name.len()).max().unwrap_or(0);
        functions.retain(|(_, name)| name.len() < longest);
    }
    if functions.len() < all {
        ui::warn(format!(
            "{} of {all} symbols do not fit into .ksyms ({room} bytes)",
            all - functions.len()
        ));
    }
    let mut table = (functions.len() as u32).to_le_bytes().to_vec();
    let mut name_at = 4 + 8 * functions.len() as u32;
    for (address, name) in &functions {
        table.extend_from_slice(&address.to_le_bytes());
        table.extend_from_slice(&name_at.to_le_bytes());
        name_at += name.len() as u32 + 1;
    }
    for (_, name) in &functions {
        table.extend_from_slice(name.as_bytes());
        table.push(0);
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn layout() {
        let functions = vec![(16, "one".to_string()), (32, "two".to_string())];
        let bytes = table(functions.clone(), 100).unwrap();
        let words: Vec<_> = bytes[..20].chunks(4).map(|w| w[0]).collect();
        assert_eq!(words, [2, 16, 20, 32, 24]);
        assert_eq!(&bytes[20..], b"one\0two\0");
        let longer = vec![(16, "one".to_string()), (32, "a long name".to_string())];
        assert_eq!(table(longer, 20).unwrap()[0], 1);
        assert!(table(Vec::new(), 100).is_err());
    }
}
