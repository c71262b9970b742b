//! QEMU: is it there, and is it new enough.

use crate::proc;
use anyhow::{Context, Result, bail};

pub const PROGRAM: &str = "qemu-system-aarch64";
/// Older ones lack what the machines here ask for, and some emulate EL2 with
/// errors that Hypha would have to work around.
pub const MINIMUM: u32 = 9;

/// The major version of a Debian package's version string.
pub fn version_of_package(version: &str) -> Option<u32> {
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    version.split('.').next()?.parse().ok()
}

/// A QEMU that can run Hypha, in words.
pub fn check() -> Result<String> {
    let path = proc::which(PROGRAM).with_context(|| format!("{PROGRAM} is not in PATH"))?;
    let text = proc::quiet(&path, &["--version"])
        .with_context(|| format!("{} does not run", path.display()))?;
    // QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)
    let version = text.split_whitespace().nth(3).unwrap_or_default();
    let major: u32 = version.split('.').next().and_then(|v| v.parse().ok()).unwrap_or(0);
    if major < MINIMUM {
        bail!("{} is version {version}; {MINIMUM} or newer is needed", path.display());
    }
    Ok(format!("{version} ({})", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_versions() {
        assert_eq!(version_of_package("1:10.0.2+ds-2+deb13u1~bpo12+1"), Some(10));
        assert_eq!(version_of_package("1:7.2+dfsg-7+deb12u18"), Some(7));
        assert_eq!(version_of_package("junk"), None);
    }
}
