//! The workspace's packages and what each is built for.

use crate::proc;
use crate::toolchain::Toolchain;
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::PathBuf;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    /// Builds and is tested on the developer's machine.
    Host,
    /// Runs without an operating system on arm64: kernel, hyp, bare guests.
    Bare,
    /// An arm64 Linux program that does not build for the developer's machine.
    Linux,
}

pub struct Package {
    pub name: String,
    pub dir: PathBuf,
    pub room: Room,
    pub default_features: Vec<String>,
    /// The source files of library and binaries.
    pub roots: Vec<PathBuf>,
}

/// The members. A package says where it belongs by
/// `[package.metadata.hypha] room = "host" | "bare" | "linux"`; without it,
/// what stands in kernel/, hyp/ and guests/ is bare, all else host.
pub fn members(toolchain: &Toolchain) -> Result<Vec<Package>> {
    let text =
        proc::output(toolchain.cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata")?;
    let root = PathBuf::from(metadata["workspace_root"].as_str().unwrap_or_default());
    let mut members = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let manifest = PathBuf::from(package["manifest_path"].as_str().unwrap_or_default());
        let dir = manifest.parent().context("a package without a directory")?.to_path_buf();
        let top = dir.strip_prefix(&root).ok().and_then(|d| d.components().next());
        let top = top.map(|c| c.as_os_str().to_string_lossy().into_owned()).unwrap_or_default();
        let room = match package["metadata"]["hypha"]["room"].as_str() {
            Some("host") => Room::Host,
            Some("bare") => Room::Bare,
            Some("linux") => Room::Linux,
            Some(other) => anyhow::bail!("{}: unknown room {other}", manifest.display()),
            None if ["kernel", "hyp", "guests"].contains(&top.as_str()) => Room::Bare,
            None => Room::Host,
        };
        let features = package["features"]["default"].as_array().into_iter().flatten();
        let targets = package["targets"].as_array().into_iter().flatten();
        members.push(Package {
            name: package["name"].as_str().unwrap_or_default().to_string(),
            dir,
            room,
            default_features: features.filter_map(|f| f.as_str().map(String::from)).collect(),
            roots: targets
                .filter(|target| {
                    let kinds = target["kind"].as_array().into_iter().flatten();
                    kinds.filter_map(Value::as_str).any(|k| k == "lib" || k == "bin")
                })
                .filter_map(|target| target["src_path"].as_str().map(PathBuf::from))
                .collect(),
        });
    }
    members.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(members)
}
