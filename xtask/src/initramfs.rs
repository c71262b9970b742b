//! The initramfs archives of host and guest.

use crate::cpio::Archive;
use crate::modules::Module;
use crate::{debian, paths, proc, ui};
use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::Path;

const HOST_INIT: &[u8] = include_bytes!("../initramfs/host-init");
/// Scripts for `hypha.run=`, and what they share.
const TESTS: &[(&str, &[u8])] = &[
    ("kill-test", include_bytes!("../initramfs/kill-test")),
    ("bad-input-test", include_bytes!("../initramfs/bad-input-test")),
    ("accounts", include_bytes!("../initramfs/accounts")),
    ("crowd-test", include_bytes!("../initramfs/crowd-test")),
    ("endure", include_bytes!("../initramfs/endure")),
    ("suites", include_bytes!("../initramfs/suites")),
];
const GUEST_INIT: &[u8] = include_bytes!("../initramfs/guest-init");
const GUEST_PARALLEL: &[u8] = include_bytes!("../initramfs/guest-parallel");

/// What the host's initramfs holds besides busybox and /init.
#[derive(Default)]
pub struct Cargo {
    pub vmm: Option<Vec<u8>>,
    /// Kernel and initramfs.
    pub guest: Option<(Vec<u8>, Vec<u8>)>,
    /// Others, by their paths.
    pub files: Vec<(String, Vec<u8>)>,
}

pub fn host(cargo: &Cargo) -> Result<Vec<u8>> {
    let mut archive = base(HOST_INIT)?;
    for (name, script) in TESTS {
        archive.file(&format!("hypha/tests/{name}"), 0o755, script);
    }
    for (name, contents) in &cargo.files {
        archive.file(name, 0o755, contents);
    }
    if let Some(vmm) = &cargo.vmm {
        archive.file("hypha/hypha-vmm", 0o755, vmm);
    }
    if let Some((kernel, initramfs)) = &cargo.guest {
        archive.file("hypha/guest/Image", 0o644, kernel);
        archive.file("hypha/guest/initramfs.cpio.gz", 0o644, initramfs);
    }
    Ok(archive.finish())
}

/// The measuring programs and what runs them. The first of the files is /init as
/// well: it says that it runs, and gives way to ours.
pub fn bench(files: &[(&str, Vec<u8>)]) -> Result<Vec<u8>> {
    let (_, first) = files.first().context("no program is the first")?;
    let mut archive = base(first)?;
    archive.file("hypha/init", 0o755, HOST_INIT);
    archive.file("hypha/bench/run", 0o755, include_bytes!("../initramfs/bench-run"));
    for (name, contents) in files {
        archive.file(name, 0o755, contents);
    }
    Ok(archive.finish())
}

/// A program as /init that says that it runs and gives way to ours; and so many bytes
/// that can't be compressed.
pub fn marking(program: &[u8], padding: u64) -> Result<Vec<u8>> {
    let mut archive = base(program)?;
    archive.file("hypha/init", 0o755, HOST_INIT);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let noise: Vec<u8> = (0..padding)
        .map(|_| {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect();
    archive.file("padding", 0o644, &noise);
    Ok(archive.finish())
}

pub fn guest(modules: &[Module]) -> Result<Vec<u8>> {
    let mut archive = base(GUEST_INIT)?;
    archive.file("hypha/guest-parallel", 0o755, GUEST_PARALLEL);
    let mut order = String::new();
    for module in modules {
        archive.file(&format!("lib/modules/{}.ko", module.name), 0o644, &module.contents);
        order += &format!("{}.ko\n", module.name);
    }
    archive.file("lib/modules/order", 0o644, order.as_bytes());
    Ok(archive.finish())
}

/// One static program as PID 1.
pub fn program(program: &[u8]) -> Vec<u8> {
    let mut archive = Archive::new();
    for dir in ["dev", "proc", "sys", "tmp"] {
        archive.directory(dir);
    }
    archive.character_device("dev/console", 0o600, 5, 1);
    archive.file("init", 0o755, program);
    archive.finish()
}

/// As tests/parity/mkinitramfs.sh makes it.
pub fn parity(init: &[u8], script: &[u8]) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    archive.file("bin/busybox", 0o755, &busybox()?);
    archive.link("bin/sh", "busybox");
    archive.file("init", 0o755, init);
    archive.file("parity.sh", 0o644, script);
    Ok(archive.finish())
}

fn busybox() -> Result<Vec<u8>> {
    let tree = debian::busybox()?;
    let places = [tree.join("bin/busybox"), tree.join("usr/bin/busybox")];
    let file = places.iter().find(|file| file.exists()).context("no busybox in its package")?;
    Ok(std::fs::read(file)?)
}

/// busybox with its applets, empty mount points, a console and /init.
fn base(init: &[u8]) -> Result<Archive> {
    let busybox = busybox()?;
    let mut archive = Archive::new();
    for dir in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
        archive.directory(dir);
    }
    // Linux opens it for PID 1 before anything is mounted.
    archive.character_device("dev/console", 0o600, 5, 1);
    for applet in applets(&busybox)? {
        archive.link(&format!("bin/{applet}"), "busybox");
    }
    archive.file("bin/busybox", 0o755, &busybox);
    archive.file("init", 0o755, init);
    Ok(archive)
}

/// busybox's applets: the sorted table of names in the program itself, for it
/// cannot be asked on a machine of another architecture.
fn applets(busybox: &[u8]) -> Result<Vec<String>> {
    const FIRST: &[u8] = b"\0[\0[[\0";
    let start = busybox.windows(FIRST.len()).position(|window| window == FIRST);
    let start = start.context("busybox has no table of applets")? + 1;
    let mut names: Vec<String> = Vec::new();
    for name in busybox[start..].split(|byte| *byte == 0) {
        let name = String::from_utf8_lossy(name).into_owned();
        if name.is_empty() || names.last().is_some_and(|last| *last >= name) {
            break;
        }
        names.push(name);
    }
    if !names.iter().any(|name| name == "sh") {
        anyhow::bail!("busybox has no sh");
    }
    names.retain(|name| name != "busybox");
    Ok(names)
}

/// Compresses an archive into a file, unless the file was made of the same.
pub fn write(file: &Path, archive: Vec<u8>) -> Result<()> {
    let mut hasher = DefaultHasher::new();
    archive.hash(&mut hasher);
    let key = format!("{:016x} {}", hasher.finish(), archive.len());
    let key_file = file.with_extension("key");
    if file.exists() && std::fs::read_to_string(&key_file).is_ok_and(|old| old == key) {
        return Ok(());
    }
    ui::step(format!("Compressing {} ({})", show(file), ui::size(archive.len() as u64)));
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(&archive)?;
    let _ = std::fs::remove_file(&key_file);
    proc::write_whole(file, &encoder.finish()?)?;
    proc::write_whole(&key_file, key.as_bytes())
}

fn show(file: &Path) -> String {
    file.strip_prefix(paths::root()).unwrap_or(file).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::applets;

    #[test]
    fn table() {
        let program = b"junk\0[\0[[\0ash\0busybox\0sh\0zcat\0\0more\0";
        assert_eq!(applets(program).unwrap(), ["[", "[[", "ash", "sh", "zcat"]);
        assert!(applets(b"nothing").is_err());
    }
}
