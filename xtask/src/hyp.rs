//! `hyp`, the program at EL2: built before the kernel, which embeds it, and kept
//! small.

use crate::check::rooms;
use crate::toolchain::{BARE, Toolchain};
use crate::{image, paths, proc, ui};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;

/// The package's name, and its directory's.
pub const HYP: &str = "hyp";
/// The most lines that may be in it.
const MAX_LINES: usize = 4000;
/// The libraries that exist for it or are mostly its own.
const LIBRARIES: &[&str] =
    &["crates/hyp-abi", "crates/world-switch", "crates/vcpu-context", "crates/psci"];

/// Builds it, as a flat binary.
pub fn build(toolchain: &Toolchain) -> Result<PathBuf> {
    ui::step("Building hyp");
    proc::run(toolchain.cargo_bare("build")?.args(["--release", "-p", HYP]))?;
    let elf = std::fs::read(paths::target().join(BARE).join("release").join(HYP))?;
    let flat = image::flatten(&elf)?;
    let file = paths::hypha().join("hyp.bin");
    proc::write_if_changed(&paths::hypha().join("hyp.elf"), &elf)?;
    proc::write_if_changed(&file, &flat)?;
    report(flat.len())?;
    Ok(file)
}

/// Says how large it is: bytes, lines, and how much of it is `unsafe`.
fn report(bytes: usize) -> Result<()> {
    let own = count(&[HYP])?;
    let all = count(&[&[HYP], LIBRARIES].concat())?;
    let show = |(lines, dangerous): (usize, usize)| {
        format!("{lines} lines, {}% unsafe or assembly", dangerous * 100 / lines.max(1))
    };
    ui::note(format!("{:<24} {:>9}  {}", "hyp", ui::size(bytes as u64), show(own)));
    ui::note(format!("  {:<22} {:>9}  {}", "with its libraries", "", show(all)));
    if all.0 > MAX_LINES {
        bail!("hyp and its libraries have {} lines; {MAX_LINES} are allowed", all.0);
    }
    Ok(())
}

/// Lines that aren't blank, comments or tests, and those of them that are
/// `unsafe` or assembly.
fn count(dirs: &[&str]) -> Result<(usize, usize)> {
    let mut sum = (0, 0);
    for dir in dirs {
        for file in rooms::rust_files(&paths::root().join(dir))? {
            if file.ends_with("tests.rs") {
                continue;
            }
            let source = std::fs::read_to_string(&file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            let (lines, dangerous) = if file.extension().is_some_and(|e| e == "rs") {
                rooms::count(&source)
            } else {
                let code = source.lines().map(str::trim);
                let lines = code.filter(|l| !l.is_empty() && !l.starts_with("//")).count();
                (lines, lines)
            };
            sum = (sum.0 + lines, sum.1 + dangerous);
        }
    }
    Ok(sum)
}
