//! Which Rust builds what.
//!
//! Two ways, in this order:
//! 1. a rustup toolchain that has the bare-metal target and a Linux arm64
//!    target installed: used plainly;
//! 2. Debian's packages: they have no standard library for the bare-metal
//!    target, so `core` and `alloc` are built from source (`-Zbuild-std`), and
//!    the arm64 `std` comes from Debian's own arm64 packages.
//!
//! `HYPHA_TOOLCHAIN=rustup` or `=system` chooses by hand.

use crate::{debian, paths, proc};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Kernel and bare-metal guests.
pub const BARE: &str = "aarch64-unknown-none-softfloat";
const MUSL: &str = "aarch64-unknown-linux-musl";
const GNU: &str = "aarch64-unknown-linux-gnu";
/// The oldest compiler the kernel is tested with.
pub const MINIMUM: (u32, u32) = (1, 95);
const MINIMUM_LLD: u32 = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Rustup,
    System,
}

#[derive(Clone, Debug)]
pub struct Toolchain {
    pub kind: Kind,
    /// Where its cargo and rustc are.
    pub bin: PathBuf,
    pub version: (u32, u32),
    pub sysroot: PathBuf,
}

impl Toolchain {
    /// The toolchain that can build everything, or why there is none.
    pub fn find() -> Result<Self> {
        let wanted = std::env::var("HYPHA_TOOLCHAIN").unwrap_or_default();
        let mut reasons = Vec::new();
        for kind in [Kind::Rustup, Kind::System] {
            let (name, found) = match kind {
                Kind::Rustup => ("rustup", Self::rustup as fn() -> Result<Self>),
                Kind::System => ("system", Self::system as fn() -> Result<Self>),
            };
            if wanted.is_empty() || wanted == name {
                match found() {
                    Ok(toolchain) => return Ok(toolchain),
                    Err(reason) => reasons.push(format!("{name}: {reason:#}")),
                }
            }
        }
        if reasons.is_empty() {
            bail!("HYPHA_TOOLCHAIN={wanted} is unknown; it can be rustup or system");
        }
        bail!("no toolchain builds for arm64\n  {}", reasons.join("\n  "))
    }

    fn rustup() -> Result<Self> {
        let rustup = proc::which("rustup").context("rustup is not in PATH")?;
        let name = std::env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| "stable".into());
        let rustc = Command::new(rustup)
            .args(["which", "--toolchain", &name, "rustc"])
            .env("RUSTUP_AUTO_INSTALL", "0")
            .stderr(std::process::Stdio::null())
            .output()?;
        let rustc = PathBuf::from(String::from_utf8_lossy(&rustc.stdout).trim());
        let bin = rustc.parent().filter(|_| rustc.exists());
        let bin = bin.with_context(|| format!("rustup has no toolchain {name}"))?;
        let toolchain = Self::at(Kind::Rustup, bin)?;
        let mut missing = Vec::new();
        if !toolchain.has_target(BARE) {
            missing.push(BARE);
        }
        if !toolchain.has_target(MUSL) && !toolchain.has_target(GNU) {
            missing.push(MUSL);
        }
        if !missing.is_empty() {
            bail!(
                "toolchain {name} lacks targets: rustup target add --toolchain {name} {}",
                missing.join(" ")
            );
        }
        Ok(toolchain)
    }

    fn system() -> Result<Self> {
        let bin = Path::new("/usr/bin");
        if !bin.join("rustc").exists() || !bin.join("cargo").exists() {
            bail!("/usr/bin/rustc and /usr/bin/cargo are not there");
        }
        let toolchain = Self::at(Kind::System, bin)?;
        if !toolchain.has_target(BARE) && !toolchain.std_source().exists() {
            bail!("{} is missing (Debian: rust-web-src)", toolchain.std_source().display());
        }
        Ok(toolchain)
    }

    /// Any Rust at all, for work on the host alone.
    pub fn host() -> Result<Self> {
        if let Ok(toolchain) = Self::find() {
            return Ok(toolchain);
        }
        if let Ok(toolchain) = Self::at(Kind::System, Path::new("/usr/bin")) {
            return Ok(toolchain);
        }
        let rustc = proc::which("rustc").context("rustc is not in PATH")?;
        Self::at(Kind::Rustup, rustc.parent().unwrap_or(Path::new("/")))
    }

    fn at(kind: Kind, bin: &Path) -> Result<Self> {
        let rustc = bin.join("rustc");
        let text = proc::quiet(&rustc, &["--version"])
            .with_context(|| format!("{} does not run", rustc.display()))?;
        let version = parse_version(&text).with_context(|| format!("odd version: {text}"))?;
        if version < MINIMUM {
            let (major, minor) = MINIMUM;
            bail!("{} is {}; {major}.{minor} or newer is needed", rustc.display(), text.trim());
        }
        let sysroot = proc::quiet(&rustc, &["--print", "sysroot"]).unwrap_or_default();
        Ok(Self { kind, bin: bin.into(), version, sysroot: PathBuf::from(sysroot.trim()) })
    }

    fn std_source(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib/src/rust/library/Cargo.lock")
    }

    fn has_target(&self, target: &str) -> bool {
        self.sysroot.join("lib/rustlib").join(target).join("lib").is_dir()
    }

    /// A program of the toolchain: cargo, rustc, rustfmt, ...
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs = std::iter::once(self.bin.clone()).chain(std::env::split_paths(&path));
        if let Ok(path) = std::env::join_paths(dirs) {
            command.env("PATH", path);
        }
        command.env("RUSTC", self.bin.join("rustc")).current_dir(paths::root());
        for name in
            ["RUSTUP_TOOLCHAIN", "CARGO", "LD_LIBRARY_PATH", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"]
        {
            command.env_remove(name);
        }
        command.env("RUSTUP_AUTO_INSTALL", "0");
        command
    }

    pub fn cargo(&self) -> Command {
        self.program("cargo")
    }

    /// Is a cargo subcommand there (clippy, fmt, nextest, miri)?
    pub fn has(&self, subcommand: &str) -> bool {
        let mut command = self.cargo();
        command.args([subcommand, "--version"]);
        command.output().is_ok_and(|out| out.status.success())
    }

    /// `cargo VERB`, set up for the bare-metal target.
    pub fn cargo_bare(&self, verb: &str) -> Result<Command> {
        let mut command = self.cargo();
        command.args([verb, "--target", BARE]);
        // Frame pointers for the backtrace; position independent, for the
        // kernel relocates itself.
        let mut flags =
            vec!["-Cforce-frame-pointers=yes".to_string(), "-Crelocation-model=pic".into()];
        flags.push(format!("-Clinker={}", self.lld()?.display()));
        flags.push("-Clinker-flavor=ld.lld".into());
        command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
        if !self.has_target(BARE) {
            command.env("RUSTC_BOOTSTRAP", "1");
            command.arg("-Zbuild-std=core,alloc,compiler_builtins");
        }
        Ok(command)
    }

    /// LLVM's linker: rustup's toolchains bring it, Debian packages it apart.
    pub fn lld(&self) -> Result<PathBuf> {
        let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let own = self.sysroot.join("lib/rustlib").join(host).join("bin/rust-lld");
        if own.exists() {
            return Ok(own);
        }
        let versions = (MINIMUM_LLD..40).rev().map(|version| format!("ld.lld-{version}"));
        versions
            .chain(["ld.lld".into()])
            .find_map(|name| proc::which(&name))
            .with_context(|| format!("no ld.lld, and no ld.lld-{MINIMUM_LLD} or newer, is in PATH"))
    }

    /// The target triple of EL0 programs.
    pub fn linux_target(&self) -> &'static str {
        if self.has_target(MUSL) { MUSL } else { GNU }
    }

    /// `cargo VERB`, set up for static arm64 Linux programs.
    pub fn cargo_linux(&self, verb: &str) -> Result<Command> {
        let target = self.linux_target();
        let mut command = self.cargo();
        command.args([verb, "--target", target]);
        let mut flags = vec!["-Ctarget-feature=+crt-static".to_string()];
        let linker = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_"));
        if target == MUSL {
            // Self-contained: its own C runtime and linker come with it.
            command.env(linker, self.lld()?);
            flags.push("-Clink-self-contained=yes".into());
        } else {
            command.env(linker, "aarch64-linux-gnu-gcc");
        }
        if !self.has_target(target) {
            flags.push(format!("--sysroot={}", self.arm64_sysroot()?.display()));
        }
        // Unlike RUSTFLAGS, takes paths with spaces.
        command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
        Ok(command)
    }

    /// A sysroot of symbolic links: the system's own, and the arm64 standard
    /// library of the very same Debian version beside it.
    fn arm64_sysroot(&self) -> Result<PathBuf> {
        let std = debian::rust_std()?;
        let sysroot = paths::cache().join("sysroot");
        let rustlib = sysroot.join("lib/rustlib");
        std::fs::create_dir_all(&rustlib)?;
        for entry in std::fs::read_dir(self.sysroot.join("lib/rustlib"))? {
            let entry = entry?;
            link(&entry.path(), &rustlib.join(entry.file_name()))?;
        }
        link(&std.join("usr/lib/rustlib").join(GNU), &rustlib.join(GNU))?;
        Ok(sysroot)
    }

    /// One line for people.
    pub fn describe(&self) -> String {
        let (major, minor) = self.version;
        let how = match (self.kind, self.has_target(BARE)) {
            (Kind::Rustup, _) => "rustup",
            (Kind::System, true) => "system",
            (Kind::System, false) => "system, core and alloc built from source",
        };
        format!("Rust {major}.{minor} in {} ({how})", self.bin.display())
    }
}

fn link(original: &Path, link: &Path) -> Result<()> {
    if std::fs::read_link(link).is_ok_and(|there| there == original) {
        return Ok(());
    }
    let _ = std::fs::remove_file(link);
    std::os::unix::fs::symlink(original, link)
        .with_context(|| format!("cannot link {}", link.display()))
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_whitespace().nth(1)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(parse_version("rustc 1.96.0 (ac68faa20 2026-05-25)"), Some((1, 96)));
        assert_eq!(parse_version("rustc 1.97.0-nightly (e50 2026)"), Some((1, 97)));
        assert_eq!(parse_version("nonsense"), None);
    }
}
