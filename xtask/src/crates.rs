//! What is linked into the kernel: its crates, dependencies included, with the
//! lines of the files that the compiler read for each.

use crate::toolchain::{BARE, Toolchain};
use crate::{paths, proc, ui};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The most lines that may be linked into what runs in Type-1 mode.
const TYPE1_MAX: usize = 30_000;

/// A crate, and its lines of code.
#[derive(Clone, Debug)]
pub struct Linked {
    name: String,
    lines: usize,
}

/// Prints both lists. `core` and `alloc` are the compiler's, and not in them.
pub fn report(all: &[Linked], type1: &[Linked]) {
    ui::step("Linked into the kernel: lines of code, for Type-1 mode alone, and for all");
    for linked in all {
        let alone = type1.iter().find(|other| other.name == linked.name);
        let alone = alone.map_or_else(String::new, |alone| alone.lines.to_string());
        ui::note(format!("{:<24} {alone:>7} {:>7}", linked.name, linked.lines));
    }
    ui::note(format!("{:<24} {:>7} {:>7}", "in all", sum(type1), sum(all)));
}

/// All lines.
fn sum(linked: &[Linked]) -> usize {
    linked.iter().map(|linked| linked.lines).sum()
}

/// What runs in Type-1 mode is small.
pub fn check_type1(linked: &[Linked]) -> Result<()> {
    let lines = sum(linked);
    if lines > TYPE1_MAX {
        bail!("what runs in Type-1 mode has {lines} lines; {TYPE1_MAX} are allowed");
    }
    Ok(())
}

/// Runs `cargo`, which builds or checks the kernel in `target`, and returns what the
/// compiler took, the largest first.
pub fn linked(cargo: &mut Command, toolchain: &Toolchain, target: &Path) -> Result<Vec<Linked>> {
    cargo.arg("--message-format=json-render-diagnostics");
    let messages = proc::output(cargo)?;
    let target = target.join(BARE);
    let mut crates = Vec::new();
    for message in messages.lines() {
        let message: Value = serde_json::from_str(message).context("cargo's messages")?;
        let Some(artifact) = Artifact::read(&message, &target) else { continue };
        if artifact.dir.starts_with(toolchain.sysroot.join("lib/rustlib")) {
            continue;
        }
        let mut lines = 0;
        for file in files_read(&artifact.dep_info()?)? {
            let text = std::fs::read_to_string(&file);
            lines += count(&text.with_context(|| format!("cannot read {}", file.display()))?);
        }
        crates.push(Linked { name: artifact.name, lines });
    }
    crates.sort_by(|a, b| b.lines.cmp(&a.lines).then_with(|| a.name.cmp(&b.name)));
    Ok(crates)
}

/// A crate that was compiled for the kernel's target.
struct Artifact {
    name: String,
    /// Where its package is.
    dir: PathBuf,
    file: PathBuf,
}

impl Artifact {
    /// From cargo's message, if that is one.
    fn read(message: &Value, target: &Path) -> Option<Artifact> {
        if message["reason"] != "compiler-artifact" {
            return None;
        }
        let file = message["filenames"].as_array()?.last()?.as_str()?;
        if !Path::new(file).starts_with(target) {
            return None;
        }
        let manifest = Path::new(message["manifest_path"].as_str()?);
        Some(Artifact {
            name: message["target"]["name"].as_str()?.to_string(),
            dir: manifest.parent()?.to_path_buf(),
            file: file.into(),
        })
    }

    /// Where the compiler says which files it read: beside libNAME-HASH.rmeta. The name
    /// of a program has no hash: the newest NAME-HASH.d.
    fn dep_info(&self) -> Result<PathBuf> {
        let stem = self.file.file_stem().unwrap_or_default().to_string_lossy();
        if let Some(stem) = stem.strip_prefix("lib") {
            return Ok(self.file.with_file_name(format!("{stem}.d")));
        }
        let dir = self.file.with_file_name("deps");
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&dir).with_context(|| format!("no {}", dir.display()))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let parts = name.strip_suffix(".d").and_then(|name| name.rsplit_once('-'));
            if parts.is_some_and(|(name, _)| name == self.name) {
                found.push((entry.metadata()?.modified()?, entry.path()));
            }
        }
        let newest = found.into_iter().max().with_context(|| format!("no {}-*.d", self.name))?;
        Ok(newest.1)
    }
}

/// The first line of a file NAME.d, relative to the workspace.
fn files_read(dep_info: &Path) -> Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string(dep_info)
        .with_context(|| format!("cannot read {}", dep_info.display()))?;
    let words = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let source = words.filter(|word| word.ends_with(".rs") || word.ends_with(".s"));
    Ok(source.map(|word| paths::root().join(word)).collect())
}

/// Lines that are neither empty nor comments, nor in a module of tests.
fn count(text: &str) -> usize {
    let mut lines = 0;
    let mut comment = false;
    let mut pending = false;
    let mut tests_end: Option<String> = None;
    for whole in text.lines() {
        let line = whole.trim();
        if let Some(end) = &tests_end {
            if whole.trim_end() == *end {
                tests_end = None;
            }
        } else if comment {
            comment = !line.contains("*/");
        } else if line.is_empty() || line.starts_with("//") {
        } else if line.starts_with("/*") {
            comment = !line.contains("*/");
        } else if line == "#[cfg(test)]" {
            pending = true;
        } else if pending && line.starts_with("mod ") && line.ends_with('{') {
            // To the brace that stands where the module begins.
            let indent = whole.len() - whole.trim_start().len();
            tests_end = Some(format!("{}}}", " ".repeat(indent)));
            pending = false;
        } else {
            lines += 1;
            pending = false;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::{Artifact, count};
    use std::path::Path;

    #[test]
    fn lines() {
        let text = "//! About.\n\nuse a;\n/* long\n one */\n#[cfg(test)]\nuse b;\nfn f() {} // x\n\
                    #[cfg(test)]\nmod tests {\n    fn g() {\n    }\n}\n";
        assert_eq!(count(text), 3);
        // What follows the tests counts.
        assert_eq!(
            count(&format!("{text}mod a {{\n    #[cfg(test)]\n    mod tests {{\n    }}\n}}\n")),
            5
        );
    }

    #[test]
    fn what_runs_while_building_is_not_linked() {
        let message = |dir: &str| {
            serde_json::json!({
                "reason": "compiler-artifact",
                "manifest_path": "/a-b/Cargo.toml",
                "target": {"name": "a_b"},
                "filenames": [format!("/target/{dir}/release/deps/liba_b-0123.rmeta")],
            })
        };
        let target = Path::new("/target/arm");
        let artifact = Artifact::read(&message("arm"), target).unwrap();
        assert_eq!(artifact.name, "a_b");
        assert_eq!(artifact.dir, Path::new("/a-b"));
        let dep_info = artifact.dep_info().unwrap();
        assert_eq!(dep_info, Path::new("/target/arm/release/deps/a_b-0123.d"));
        assert!(Artifact::read(&message("other"), target).is_none());
    }
}
