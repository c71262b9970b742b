//! What `./x` needs from the operating system: looks, says, installs.

use crate::toolchain::Toolchain;
use crate::{paths, proc, qemu, ui};
use anyhow::{Result, bail};
use std::process::Command;

/// One thing that must be there.
pub struct Need {
    pub what: &'static str,
    /// How it was found, or what is wrong.
    pub check: fn() -> Result<String>,
    /// Debian and Ubuntu packages that bring it.
    pub packages: &'static [&'static str],
    /// What to do elsewhere.
    pub elsewhere: &'static str,
}

/// What a subcommand is about to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum For {
    Checks,
    Build,
    Run,
}

const RUST: Need = Need {
    what: "Rust for arm64",
    check: || Toolchain::find().map(|t| t.describe()),
    packages: &["rustc-web", "cargo-web", "rust-web-src"],
    elsewhere: "https://rustup.rs, then: rustup target add aarch64-unknown-none-softfloat aarch64-unknown-linux-musl",
};
const LINTS: Need = Need {
    what: "clippy and rustfmt",
    check: || {
        let toolchain = Toolchain::host()?;
        // Beside its cargo: another toolchain's in PATH would check with another compiler.
        for name in ["cargo-clippy", "cargo-fmt"] {
            if !toolchain.bin.join(name).exists() {
                bail!("{} has no {name}", toolchain.bin.display());
            }
        }
        Ok("found".into())
    },
    packages: &["rust-web-clippy", "rustfmt-web"],
    elsewhere: "rustup component add clippy rustfmt",
};
const LINKER: Need = Need {
    what: "arm64 C linker",
    check: || match Toolchain::find() {
        Ok(t) if t.linux_target().ends_with("musl") => Ok("rust-lld, with the toolchain".into()),
        _ => match proc::quiet("aarch64-linux-gnu-gcc", &["-print-file-name=libc.a"]) {
            Some(path) if path.contains('/') => Ok("aarch64-linux-gnu-gcc".into()),
            Some(_) => bail!("aarch64-linux-gnu-gcc has no static C library"),
            None => bail!("aarch64-linux-gnu-gcc is not in PATH"),
        },
    },
    packages: &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
    elsewhere: "a cross compiler aarch64-linux-gnu-gcc with a static C library, or the musl target of rustup",
};
const LLD: Need = Need {
    what: "LLVM's linker",
    check: || match Toolchain::find() {
        Ok(toolchain) => Ok(toolchain.lld()?.display().to_string()),
        // As Debian's Rust would look for it.
        Err(_) => match proc::which("ld.lld-19") {
            Some(path) => Ok(path.display().to_string()),
            None => bail!("ld.lld-19 is not in PATH"),
        },
    },
    packages: &["lld-19"],
    elsewhere: "lld 16 or newer",
};
const APT: Need = Need {
    what: "apt and dpkg",
    check: || {
        for name in ["apt-get", "dpkg-deb"] {
            if proc::which(name).is_none() {
                bail!("{name} is not in PATH");
            }
        }
        Ok("found".into())
    },
    packages: &[],
    elsewhere: "apt-get and dpkg-deb: they fetch and unpack Debian's arm64 kernel and busybox (many distributions package them as apt and dpkg)",
};
const KEYRING: Need = Need {
    what: "Debian's archive keys",
    check: || match std::path::Path::new(crate::debian::KEYRING).exists() {
        true => Ok(crate::debian::KEYRING.into()),
        false => bail!("{} is missing", crate::debian::KEYRING),
    },
    packages: &["debian-archive-keyring"],
    elsewhere: "the package debian-archive-keyring",
};
const XZ: Need = Need {
    what: "xz",
    check: || match proc::which("xz") {
        Some(path) => Ok(path.display().to_string()),
        None => bail!("xz is not in PATH"),
    },
    packages: &["xz-utils"],
    elsewhere: "xz",
};
const QEMU: Need = Need {
    what: "QEMU for arm64",
    check: qemu::check,
    packages: &["qemu-system-arm"],
    elsewhere: "qemu-system-aarch64, version 9 or newer",
};

/// What this needs, in the order of the report.
pub fn needs(purpose: For) -> Vec<Need> {
    let mut needs = vec![RUST];
    if purpose != For::Build {
        needs.push(LINTS);
    }
    needs.extend([LINKER, LLD, APT, KEYRING, XZ]);
    if purpose != For::Build {
        needs.push(QEMU);
    }
    if purpose == For::Run {
        needs.retain(|need| need.what != LINTS.what);
    }
    needs
}

/// Looks for everything; on Debian and Ubuntu installs what is missing.
pub fn ensure(purpose: For) -> Result<()> {
    let missing = missing(purpose);
    if missing.is_empty() {
        return Ok(());
    }
    for (need, reason) in &missing {
        ui::step(format!("Missing: {}: {reason:#}", need.what));
    }
    if can_install() {
        let packages: Vec<_> =
            missing.iter().flat_map(|(need, _)| need.packages.iter().copied()).collect();
        install(&packages)?;
    }
    let missing = self::missing(purpose);
    if missing.is_empty() {
        return Ok(());
    }
    let mut text = String::from("this machine lacks:");
    for (need, reason) in &missing {
        text += &format!("\n  {}: {reason:#}\n    needed: {}", need.what, need.elsewhere);
        if !need.packages.is_empty() {
            text += &format!("\n    Debian 12: apt-get install {}", need.packages.join(" "));
        }
    }
    bail!(text)
}

fn missing(purpose: For) -> Vec<(Need, anyhow::Error)> {
    needs(purpose).into_iter().filter_map(|need| (need.check)().err().map(|e| (need, e))).collect()
}

fn is_root() -> bool {
    proc::quiet("id", &["-u"]).is_some_and(|id| id.trim() == "0")
}

fn can_install() -> bool {
    proc::which("apt-get").is_some()
        && proc::which("dpkg-query").is_some()
        && (is_root() || proc::which("sudo").is_some())
}

fn apt_get() -> Command {
    let mut command = if is_root() {
        Command::new("apt-get")
    } else {
        // sudo drops the environment.
        let mut sudo = Command::new("sudo");
        sudo.args(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        sudo
    };
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// The version apt would install, if any; `release` as for `apt-get -t`.
fn candidate(package: &str, release: Option<&str>) -> Option<String> {
    let mut args = vec!["policy"];
    if let Some(release) = release {
        args.extend(["-t", release]);
    }
    args.push(package);
    let policy = proc::quiet("apt-cache", &args)?;
    let line = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (line != "(none)").then(|| line.to_string())
}

fn install(packages: &[&str]) -> Result<()> {
    let (qemu, others): (Vec<_>, Vec<_>) =
        packages.iter().copied().partition(|p: &&str| p.starts_with("qemu"));
    // Always: a machine's old lists may name an older compiler than Hypha needs.
    ui::step("Updating apt's package lists");
    if let Err(error) = proc::run(apt_get().args(["update", "-q"])) {
        ui::warn(format!("{error:#}"));
    }
    let (known, unknown): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|package: &&str| candidate(package, None).is_some());
    for package in &unknown {
        ui::warn(format!("apt knows no package {package}"));
    }
    if !known.is_empty() {
        announce(&known, "");
        let mut command = apt_get();
        command.args(["install", "-y", "-q", "--no-install-recommends"]).args(&known);
        proc::run(&mut command)?;
    }
    if !qemu.is_empty() {
        install_qemu()?;
    }
    Ok(())
}

fn announce<S: AsRef<str>>(packages: &[S], from: &str) {
    let names: Vec<_> = packages.iter().map(AsRef::as_ref).collect();
    ui::step(format!("Installing Debian packages{from}: {}", names.join(" ")));
}

/// QEMU from the release itself where it is new enough, else from its
/// backports, which are added as a source of their own if need be.
fn install_qemu() -> Result<()> {
    const PACKAGE: &str = "qemu-system-arm";
    let new_enough = |version: &String| qemu::version_of_package(version) >= Some(qemu::MINIMUM);
    let mut release = None;
    if !candidate(PACKAGE, None).as_ref().is_some_and(new_enough) {
        let codename = codename().unwrap_or_default();
        let backports = format!("{codename}-backports");
        if !candidate(PACKAGE, Some(&backports)).as_ref().is_some_and(new_enough) {
            if codename != "bookworm" {
                bail!("this release has no QEMU {} or newer", qemu::MINIMUM);
            }
            let known = proc::quiet("apt-get", &["indextargets", "--format", "$(CODENAME)"]);
            if known.is_some_and(|text| text.lines().any(|line| line == backports)) {
                ui::step("Updating apt's package lists");
                proc::run(apt_get().args(["update", "-q"]))?;
            } else {
                add_backports(&backports)?;
            }
        }
        release = Some(backports);
    }
    announce(&[PACKAGE], &release.as_ref().map(|r| format!(" from {r}")).unwrap_or_default());
    let mut command = apt_get();
    command.args(["install", "-y", "-q", "--no-install-recommends"]);
    if let Some(release) = &release {
        command.args(["-t", release]);
    }
    proc::run(command.arg(PACKAGE))
}

fn codename() -> Option<String> {
    let text = std::fs::read_to_string("/etc/os-release").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(line.trim_matches('"').to_string())
}

/// Adds the backports from the mirror this machine already uses. Their pin
/// priority of 100 means that nothing else is taken from there.
fn add_backports(release: &str) -> Result<()> {
    const FILE: &str = "/etc/apt/sources.list.d/hypha-backports.list";
    let mirror = crate::debian::mirrors().main;
    let line = format!(
        "# Added by Hypha's ./x for QEMU; remove it whenever you like.\n\
         deb [signed-by={}] {mirror} {release} main\n",
        crate::debian::KEYRING
    );
    ui::step(format!("Adding {release} to apt's sources ({FILE}), for QEMU alone"));
    let temporary = paths::cache().join("hypha-backports.list");
    proc::write_whole(&temporary, line.as_bytes())?;
    let mut copy = if is_root() { Command::new("install") } else { Command::new("sudo") };
    if !is_root() {
        copy.arg("install");
    }
    proc::run(copy.args(["-m", "644"]).arg(&temporary).arg(FILE))?;
    proc::run(apt_get().args([
        "update",
        "-q",
        "-o",
        &format!("Dir::Etc::sourcelist={FILE}"),
        "-o",
        "Dir::Etc::sourceparts=-",
        "-o",
        "APT::Get::List-Cleanup=0",
    ]))
}
