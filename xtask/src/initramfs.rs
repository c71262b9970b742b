//! The initramfs archives of host and guest.

use crate::cpio::Archive;
use crate::modules::Module;
use crate::{debian, proc};
use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;
use std::path::Path;

const HOST_INIT: &[u8] = include_bytes!("../initramfs/host-init");
const GUEST_INIT: &[u8] = include_bytes!("../initramfs/guest-init");

/// What the host's initramfs holds besides busybox and /init.
#[derive(Default)]
pub struct Cargo {
    pub vmm: Option<Vec<u8>>,
    /// Kernel and initramfs.
    pub guest: Option<(Vec<u8>, Vec<u8>)>,
}

pub fn host(cargo: &Cargo) -> Result<Vec<u8>> {
    let mut archive = base(HOST_INIT)?;
    if let Some(vmm) = &cargo.vmm {
        archive.file("hypha/hypha-vmm", 0o755, vmm);
    }
    if let Some((kernel, initramfs)) = &cargo.guest {
        archive.file("hypha/guest/Image", 0o644, kernel);
        archive.file("hypha/guest/initramfs.cpio.gz", 0o644, initramfs);
    }
    gzip(&archive.finish())
}

pub fn guest(modules: &[Module]) -> Result<Vec<u8>> {
    let mut archive = base(GUEST_INIT)?;
    let mut order = String::new();
    for module in modules {
        archive.file(&format!("lib/modules/{}.ko", module.name), 0o644, &module.contents);
        order += &format!("{}.ko\n", module.name);
    }
    archive.file("lib/modules/order", 0o644, order.as_bytes());
    gzip(&archive.finish())
}

/// busybox with its applets, empty mount points, a console and /init.
fn base(init: &[u8]) -> Result<Archive> {
    let busybox = debian::busybox()?;
    let busybox = [busybox.join("bin/busybox"), busybox.join("usr/bin/busybox")];
    let busybox = busybox.iter().find(|file| file.exists()).context("no busybox in its package")?;
    let busybox = std::fs::read(busybox)?;
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

/// Quick rather than tight: most of it is a kernel that is unpacked once more
/// under emulation.
fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// Writes only what changed, so that later steps can go by time stamps.
pub fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    if std::fs::read(file).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    proc::write_whole(file, bytes)
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
