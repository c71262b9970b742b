//! What is linked into the kernel: its crates, dependencies included, with the
//! lines of the files that the compiler read for each.

use crate::toolchain::{BARE, Toolchain};
use crate::{build, paths, proc, ui};
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A crate, and its lines of code.
struct Linked {
    name: String,
    lines: usize,
    /// Of these, those that only the host's user space needs.
    host: usize,
}

/// Prints the list. `core` and `alloc` are the compiler's, and not in it.
pub fn report(toolchain: &Toolchain) -> Result<()> {
    let crates = linked(toolchain)?;
    ui::step("Linked into the kernel: lines of code that Type-1 mode can enter, and all");
    for linked in &crates {
        let type1 = linked.lines - linked.host;
        ui::note(format!("{:<24} {type1:>7} {:>7}", linked.name, linked.lines));
    }
    let all: usize = crates.iter().map(|linked| linked.lines).sum();
    let host: usize = crates.iter().map(|linked| linked.host).sum();
    ui::note(format!("{:<24} {:>7} {all:>7}", "in all", all - host));
    Ok(())
}

fn linked(toolchain: &Toolchain) -> Result<Vec<Linked>> {
    let mut command = toolchain.cargo();
    command.args(["metadata", "--format-version=1", "--filter-platform", BARE]);
    let metadata: Value = serde_json::from_str(&proc::output(&mut command)?)?;
    let packages = closure(&metadata)?;
    let read = files_read(&paths::target().join(BARE).join("release/deps"))?;
    let kernel = packages.values().find(|package| package["name"] == build::KERNEL);
    let host = strings(&kernel.context("no kernel")?["metadata"]["hypha"]["user-space"]);
    let mut crates = Vec::new();
    for package in packages.values() {
        let Some(library) = library(package) else { continue };
        let files = read.get(&library).map(|(_, files)| files.as_slice()).unwrap_or_default();
        let manifest = PathBuf::from(package["manifest_path"].as_str().unwrap_or_default());
        let dir = manifest.parent().context("a package without a directory")?;
        let name = package["name"].as_str().unwrap_or_default().to_string();
        let mut linked = Linked { name, lines: 0, host: 0 };
        for file in files.iter().filter(|file| file.starts_with(dir)) {
            let lines = count(&std::fs::read_to_string(file).unwrap_or_default());
            linked.lines += lines;
            let path = file.strip_prefix(dir)?.with_extension("");
            let is_host = |entry: &String| *entry == linked.name || path.starts_with(entry);
            if host.iter().any(is_host) {
                linked.host += lines;
            }
        }
        crates.push(linked);
    }
    crates.sort_by(|a, b| b.lines.cmp(&a.lines).then_with(|| a.name.cmp(&b.name)));
    Ok(crates)
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(String::from)).collect()
}

/// What the kernel depends on, but not what builds it.
fn closure(metadata: &Value) -> Result<BTreeMap<String, &Value>> {
    let by_id: BTreeMap<&str, &Value> = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|package| Some((package["id"].as_str()?, package)))
        .collect();
    let nodes: BTreeMap<&str, &Value> = metadata["resolve"]["nodes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|node| Some((node["id"].as_str()?, node)))
        .collect();
    let kernel = by_id.iter().find(|(_, package)| package["name"] == build::KERNEL);
    let mut open = vec![*kernel.context("the workspace has no kernel")?.0];
    let mut seen: BTreeSet<&str> = open.iter().copied().collect();
    let mut packages = BTreeMap::new();
    while let Some(id) = open.pop() {
        let Some(package) = by_id.get(id) else { continue };
        packages.insert(id.to_string(), *package);
        for dependency in nodes.get(id).and_then(|n| n["deps"].as_array()).into_iter().flatten() {
            let kinds = dependency["dep_kinds"].as_array().into_iter().flatten();
            let normal = kinds.into_iter().any(|kind| kind["kind"].is_null());
            let Some(id) = dependency["pkg"].as_str().filter(|_| normal) else { continue };
            if by_id.get(id).is_some_and(|package| library(package).is_some()) && seen.insert(id) {
                open.push(id);
            }
        }
    }
    Ok(packages)
}

/// The crate's name of a package's library or binary; none of a procedural macro.
fn library(package: &Value) -> Option<String> {
    let target = package["targets"].as_array()?.iter().find(|target| {
        let kinds = strings(&target["kind"]);
        kinds.iter().any(|kind| matches!(kind.as_str(), "lib" | "rlib" | "bin"))
    })?;
    Some(target["name"].as_str()?.replace('-', "_"))
}

/// By crate, the files that its last compilation read (`name-hash.d`).
fn files_read(dir: &Path) -> Result<BTreeMap<String, (SystemTime, Vec<PathBuf>)>> {
    let mut newest: BTreeMap<String, (SystemTime, Vec<PathBuf>)> = BTreeMap::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("no {}", dir.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((name, _)) = name.strip_suffix(".d").and_then(|name| name.rsplit_once('-')) else {
            continue;
        };
        let time = entry.metadata()?.modified()?;
        if newest.get(name).is_some_and(|(other, _)| *other > time) {
            continue;
        }
        let text = std::fs::read_to_string(entry.path())?;
        let words = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
        let rust = words.filter(|word| word.ends_with(".rs") || word.ends_with(".s"));
        // Relative to the workspace.
        let files = rust.map(|word| paths::root().join(word)).collect();
        newest.insert(name.to_string(), (time, files));
    }
    Ok(newest)
}

/// Lines that are neither empty nor comments, and not in the tests at a file's end.
fn count(text: &str) -> usize {
    let mut lines = 0;
    let mut comment = false;
    let mut pending = 0;
    for line in text.lines().map(str::trim) {
        if comment {
            comment = !line.contains("*/");
        } else if line.is_empty() || line.starts_with("//") {
        } else if line.starts_with("/*") {
            comment = !line.contains("*/");
        } else if line == "#[cfg(test)]" {
            pending = 1;
        } else if pending == 1 && line.starts_with("mod ") && line.ends_with('{') {
            break;
        } else {
            lines += 1;
            pending = 0;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::{count, library};

    #[test]
    fn lines() {
        let text = "//! About.\n\nuse a;\n/* long\n one */\n#[cfg(test)]\nuse b;\nfn f() {} // x\n\
                    #[cfg(test)]\nmod tests {\n    fn g() {}\n}\n";
        assert_eq!(count(text), 3);
    }

    #[test]
    fn macros_are_not_linked() {
        let package = |kind| serde_json::json!({"targets": [{"kind": [kind], "name": "a-b"}]});
        assert_eq!(library(&package("lib")), Some("a_b".into()));
        assert_eq!(library(&package("proc-macro")), None);
    }
}
