//! Writes newc archives (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! The same input gives the same bytes: times are zero, the owner is root.

use std::collections::BTreeSet;

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
    directories: BTreeSet<String>,
}

impl Archive {
    pub fn new() -> Self {
        Self { bytes: Vec::new(), inode: 0, directories: BTreeSet::new() }
    }

    /// A directory and what it stands in. Paths have no leading slash.
    pub fn directory(&mut self, path: &str) {
        self.parents(path);
        if self.directories.insert(path.to_string()) {
            self.entry(path, DIRECTORY | 0o755, (0, 0), &[]);
        }
    }

    pub fn file(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.parents(path);
        self.entry(path, FILE | mode, (0, 0), contents);
    }

    pub fn link(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.entry(path, LINK | 0o777, (0, 0), target.as_bytes());
    }

    pub fn character_device(&mut self, path: &str, mode: u32, major: u32, minor: u32) {
        self.parents(path);
        self.entry(path, CHARACTER_DEVICE | mode, (major, minor), &[]);
    }

    /// The archive, padded to cpio's usual blocks.
    pub fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.header("TRAILER!!!", 0, (0, 0), 0);
        while self.bytes.len() % 512 != 0 {
            self.bytes.push(0);
        }
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), contents: &[u8]) {
        self.inode += 1;
        self.header(path, mode, device, contents.len());
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn header(&mut self, path: &str, mode: u32, (major, minor): (u32, u32), size: usize) {
        let links = if mode & 0o170_000 == DIRECTORY { 2 } else { 1 };
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor,
        // rdevmajor, rdevminor, namesize, check
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let name = path.len() as u32 + 1;
        let fields = [self.inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, name, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    fn pad(&mut self) {
        while self.bytes.len() % 4 != 0 {
            self.bytes.push(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn layout() {
        let mut archive = Archive::new();
        archive.file("a/b", 0o644, b"hello");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 512, 0);
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("070701"));
        assert_eq!(text.matches("070701").count(), 3);
        // Header 110 bytes, "a/b\0" to 114, padded to 116 in its own entry.
        let at = text.find("a/b").unwrap();
        assert_eq!(&bytes[at + 6..at + 11], b"hello");
    }

    /// The real cpio reads it, where there is one.
    #[test]
    fn cpio_reads_it() {
        let mut archive = Archive::new();
        archive.directory("dev");
        archive.character_device("dev/console", 0o600, 5, 1);
        archive.link("bin/sh", "busybox");
        archive.file("init", 0o755, b"#!/bin/sh\n");
        let bytes = archive.finish();
        let mut command = Command::new("cpio");
        command.args(["-t", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let Ok(mut child) = command.spawn() else { return };
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success());
        let names = String::from_utf8(out.stdout).unwrap();
        assert_eq!(names, "dev\ndev/console\nbin\nbin/sh\ninit\n");
    }
}
