//! Debian's arm64 packages: fetched with a private apt state (the machine's own
//! package lists and sources stay as they are), unpacked in `target/cache`.

use crate::{paths, proc, ui};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const RELEASE: &str = "bookworm";
/// A meta package: what it depends on is the kernel.
const KERNEL_META: &str = "linux-image-6.12-cloud-arm64";

const XEN: &str = "xen-hypervisor-4.17-arm64";

/// Where Debian is fetched from.
pub struct Mirrors {
    pub main: String,
    pub security: String,
}

/// This machine's own mirrors if it is a Debian of our release, else Debian's.
pub fn mirrors() -> Mirrors {
    let format = ["indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages"];
    let targets = proc::quiet("apt-get", &format).unwrap_or_default();
    let of = |codename: &str, default: &str| {
        let uri = targets.lines().find_map(|line| {
            let (name, uri) = line.split_once(' ')?;
            (name == codename && uri.starts_with("http")).then(|| uri.to_string())
        });
        uri.unwrap_or_else(|| default.to_string())
    };
    Mirrors {
        main: of(RELEASE, "http://deb.debian.org/debian/"),
        security: of("bookworm-security", "http://deb.debian.org/debian-security/"),
    }
}

/// The kernel package's tree (`boot/`, `lib/modules/`).
pub fn kernel() -> Result<PathBuf> {
    tree("kernel", || {
        let depends = apt_cache(&["depends", KERNEL_META])?;
        let real = depends
            .lines()
            .find_map(|line| line.trim().strip_prefix("Depends: "))
            .filter(|name| name.starts_with("linux-image-"));
        let real = real.with_context(|| format!("{KERNEL_META} depends on no kernel"))?;
        Ok(vec![real.to_string()])
    })
}

/// Its version, as its modules' directory is called.
pub fn kernel_version() -> Result<String> {
    let dir = kernel()?.join("lib/modules");
    let entry = std::fs::read_dir(&dir)?.next().context("the kernel has no modules")??;
    Ok(file_name(&entry.path()))
}

/// busybox-static's tree.
pub fn busybox() -> Result<PathBuf> {
    tree("busybox", || Ok(vec!["busybox-static".into()]))
}

/// The hypervisor of Debian's Xen, to compare with.
pub fn xen() -> Result<PathBuf> {
    let boot = tree("xen", || Ok(vec![XEN.into()]))?.join("boot");
    let mut files = std::fs::read_dir(&boot)?.filter_map(|entry| Some(entry.ok()?.path()));
    let is_xen = |name: &str| ["xen-4.17-arm64", "xen-4.17-arm64.gz"].contains(&name);
    files
        .find(|file| is_xen(&file_name(file)))
        .with_context(|| format!("no Xen in {}", boot.display()))
}

/// Xen's version, as its package has it.
pub fn xen_version() -> Result<String> {
    let show = apt_cache(&["show", XEN])?;
    let version = show.lines().find_map(|line| line.strip_prefix("Version: "));
    Ok(version.with_context(|| format!("{XEN} has no version"))?.to_string())
}

/// Rust's arm64 standard library, of the very version of the installed rustc.
pub fn rust_std() -> Result<PathBuf> {
    let version = proc::quiet("dpkg-query", &["-W", "-f", "${Version}", "rustc-web"]);
    let version = version.context("/usr/bin/rustc is not of Debian's package rustc-web")?;
    let number = version.split(['+', '-', '~']).next().unwrap_or_default();
    let mut parts = number.split('.');
    let short =
        format!("{}.{}", parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    tree(&format!("rust-std-{number}"), || {
        Ok(vec![
            format!("libstd-rust-web-dev={version}"),
            format!("libstd-rust-web-{short}={version}"),
        ])
    })
}

/// The unpacked tree of some packages; done once.
fn tree(name: &str, packages: impl Fn() -> Result<Vec<String>>) -> Result<PathBuf> {
    let tree = dir().join(name);
    if tree.is_dir() {
        return Ok(tree);
    }
    let files = match packages().and_then(|packages| download(&packages)) {
        Ok(files) => files,
        // Lists from an earlier day may name files that are gone.
        Err(error) => {
            ui::note(format!("{error:#}; updating the package lists"));
            update()?;
            download(&packages()?)?
        }
    };
    let temporary = dir().join(format!("{name}.tmp{}", std::process::id()));
    for file in &files {
        ui::step(format!("Unpacking {}", file_name(file)));
        proc::run(Command::new("dpkg-deb").arg("-x").arg(file).arg(&temporary))?;
    }
    std::fs::rename(&temporary, &tree)
        .with_context(|| format!("cannot create {}", tree.display()))?;
    Ok(tree)
}

fn download(packages: &[String]) -> Result<Vec<PathBuf>> {
    let store = dir().join("debs");
    let mut files = Vec::new();
    for package in packages {
        let uri = proc::output(apt("apt-get")?.args(["download", "--print-uris", package]))?;
        // 'URI' FILE SIZE HASH
        let mut words = uri.split_whitespace().skip(1);
        let name = words.next().with_context(|| format!("no package {package} for arm64"))?;
        let size: u64 = words.next().and_then(|size| size.parse().ok()).unwrap_or(0);
        let file = store.join(name);
        if !file.metadata().is_ok_and(|m| m.len() == size) {
            ui::step(format!("Downloading {package} for arm64 ({})", ui::size(size)));
            let partial = dir().join("partial");
            std::fs::create_dir_all(&partial)?;
            std::fs::create_dir_all(&store)?;
            let mut command = apt("apt-get")?;
            proc::run(command.current_dir(&partial).args(["download", package]))?;
            std::fs::rename(partial.join(name), &file)
                .with_context(|| format!("apt-get did not leave {name}"))?;
        }
        files.push(file);
    }
    Ok(files)
}

fn update() -> Result<()> {
    ui::step(format!("Fetching the package lists of Debian {RELEASE} for arm64"));
    proc::run(apt("apt-get")?.args(["update", "-q"]))
}

fn apt_cache(args: &[&str]) -> Result<String> {
    let mut command = apt("apt-cache")?;
    let out = command.args(args).stderr(Stdio::null()).output()?;
    if !out.status.success() {
        bail!("apt-cache {} found nothing", args.join(" "));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn dir() -> PathBuf {
    paths::cache().join("debian-arm64")
}

/// An apt that knows nothing of this machine but how to reach the network.
fn apt(program: &str) -> Result<Command> {
    let state = dir().join("apt");
    std::fs::create_dir_all(state.join("lists/partial"))?;
    std::fs::create_dir_all(state.join("cache/archives/partial"))?;
    let status = state.join("status");
    if !status.exists() {
        std::fs::write(&status, "")?;
    }
    let sources = state.join("sources.list");
    let Mirrors { main, security } = mirrors();
    let options = format!("[arch=arm64 signed-by={KEYRING}]");
    let lines = format!(
        "deb {options} {main} {RELEASE} main\n\
         deb {options} {main} {RELEASE}-updates main\n\
         deb {options} {security} {RELEASE}-security main\n"
    );
    if std::fs::read_to_string(&sources).unwrap_or_default() != lines {
        proc::write_whole(&sources, lines.as_bytes())?;
    }
    let mut command = Command::new(program);
    let mut option = |name: &str, value: &Path| {
        command.arg("-o").arg(format!("{name}={}", value.display()));
    };
    option("APT::Architecture", Path::new("arm64"));
    option("APT::Architectures", Path::new("arm64"));
    option("Dir::Etc::sourcelist", &sources);
    for name in ["sourceparts", "preferences", "preferencesparts"] {
        option(&format!("Dir::Etc::{name}"), Path::new("/dev/null"));
    }
    option("Dir::State", &state);
    option("Dir::State::lists", &state.join("lists"));
    option("Dir::State::status", &status);
    option("Dir::Cache", &state.join("cache"));
    option("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", Path::new("false"));
    // The sandbox user could not write below a home directory.
    option("APT::Sandbox::User", Path::new("root"));
    Ok(command)
}

fn file_name(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
