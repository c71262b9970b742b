//! Where things are.

use std::path::{Path, PathBuf};

/// The repository.
pub fn root() -> PathBuf {
    // Set by cargo when the xtask was built; the clone may have moved since.
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"));
    match std::env::current_exe().ok().and_then(|exe| exe.ancestors().nth(4).map(PathBuf::from)) {
        Some(dir) if dir.join("xtask/Cargo.toml").exists() => dir,
        _ => built.to_path_buf(),
    }
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    root().join("target")
}

/// What `./x build` leaves.
pub fn hypha() -> PathBuf {
    target().join("hypha")
}

/// Downloads and what is unpacked from them.
pub fn cache() -> PathBuf {
    target().join("cache")
}
