//! Linux kernel modules out of Debian's kernel package: which, in what order.

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A module, uncompressed.
pub struct Module {
    pub name: String,
    pub contents: Vec<u8>,
}

/// The named modules and all they depend on, each after its dependencies. What
/// is built into the kernel is left out. The package has no modules.dep (depmod
/// makes it on installation): each module names its dependencies itself.
pub fn load_order(tree: &Path, names: &[&str]) -> Result<Vec<Module>> {
    let modules = tree.join("lib/modules");
    let version = std::fs::read_dir(&modules)?.next().context("a kernel without modules")??.path();
    let builtin = std::fs::read_to_string(version.join("modules.builtin"))?;
    let builtin: Vec<String> = builtin.lines().map(|line| name_of(Path::new(line))).collect();
    let mut files = BTreeMap::new();
    find(&version.join("kernel"), &mut files)?;
    let mut order = Vec::new();
    for name in names {
        add(&canonical(name), &files, &builtin, &mut order)?;
    }
    Ok(order)
}

fn add(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    builtin: &[String],
    order: &mut Vec<Module>,
) -> Result<()> {
    if order.iter().any(|module| module.name == name) || builtin.iter().any(|b| b == name) {
        return Ok(());
    }
    let file = files.get(name).with_context(|| format!("the kernel has no module {name}"))?;
    let contents = read(file)?;
    for dependency in dependencies(&contents)? {
        add(&dependency, files, builtin, order)?;
    }
    order.push(Module { name: name.to_string(), contents });
    Ok(())
}

fn read(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_none_or(|e| e != "xz") {
        return Ok(std::fs::read(file)?);
    }
    let out = Command::new("xz").arg("-dc").arg(file).output().context("cannot run xz")?;
    if !out.status.success() {
        bail!("xz cannot read {}", file.display());
    }
    Ok(out.stdout)
}

/// The `depends=` entry of the section .modinfo.
fn dependencies(module: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(module)?;
    let section = file.section_by_name(".modinfo").context("a module without .modinfo")?;
    let mut entries = section.data()?.split(|byte| *byte == 0);
    let depends = entries.find_map(|entry| entry.strip_prefix(b"depends=".as_slice()));
    let depends = String::from_utf8_lossy(depends.unwrap_or_default()).into_owned();
    Ok(depends.split(',').filter(|name| !name.is_empty()).map(canonical).collect())
}

fn find(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else {
            files.insert(name_of(&path), path);
        }
    }
    Ok(())
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    canonical(name.split(".ko").next().unwrap_or_default())
}

fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// The kernel in a tree of Debian's kernel package: `boot/vmlinuz-*`.
pub fn vmlinuz(tree: &Path) -> Result<PathBuf> {
    for entry in std::fs::read_dir(tree.join("boot"))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz-")) {
            return Ok(path);
        }
    }
    bail!("no kernel in {}", tree.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(
            name_of(Path::new("kernel/drivers/char/hw_random/virtio-rng.ko.xz")),
            "virtio_rng"
        );
        assert_eq!(name_of(Path::new("kernel/fs/ext4/ext4.ko")), "ext4");
    }
}
