//! The documentation names files that are there, and the walk through an exit
//! functions that are.

use super::rooms;
use crate::paths;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::path::Path;

const WALK: (&str, &str) = ("ARCHITECTURE.md", "## Life of an exit");
/// Where the walk leads through.
const ALONG: &[&str] = &["kernel", "hyp", "crates"];

pub fn check() -> Result<()> {
    let root = paths::root();
    let mut wrong = Vec::new();
    let mut pages = vec![root.join("ARCHITECTURE.md"), root.join("CONTRIBUTING.md")];
    for entry in std::fs::read_dir(root.join("docs"))? {
        pages.push(entry?.path());
    }
    for page in pages.iter().filter(|page| page.extension().is_some_and(|e| e == "md")) {
        let text = read(page)?;
        let missing = quoted(&text)
            .filter(|word| is_source(word))
            .filter(|file| !root.join(file).exists() && !root.join("crates").join(file).exists());
        wrong.extend(missing.map(|file| format!("{}: there is no {file}", page.display())));
    }
    let words = words_of_the_sources(&root)?;
    let text = read(&root.join(WALK.0))?;
    let walk = section(&text, WALK.1).context("the walk through an exit is not there")?;
    for name in quoted(walk).filter(|word| is_name(word)) {
        if !name.split("::").all(|part| words.contains(part)) {
            wrong.push(format!("{}, {}: nothing is called {name}", WALK.0, WALK.1));
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n  "));
    }
    Ok(())
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// What stands between back quotes on one line.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// Up to the next heading of its level.
fn section<'a>(text: &'a str, heading: &str) -> Option<&'a str> {
    let rest = &text[text.find(heading)? + heading.len()..];
    Some(&rest[..rest.find("\n## ").unwrap_or(rest.len())])
}

/// A path of a source file.
fn is_source(word: &str) -> bool {
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    plain && word.contains('/') && [".rs", ".s", ".md"].iter().any(|e| word.ends_with(e))
}

/// A name in Rust or assembly, with or without what it is in.
fn is_name(word: &str) -> bool {
    let plain = |part: &str| part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let parts = word.split("::");
    parts.into_iter().all(|part| !part.is_empty() && plain(part))
        && (word.contains("::") || word.contains('_') || word.starts_with(char::is_uppercase))
}

/// All names in them; what macros put together from a prefix, too.
fn words_of_the_sources(root: &Path) -> Result<BTreeSet<String>> {
    let mut words: BTreeSet<String> =
        ALONG.iter().map(|word| (*word).into()).chain([String::from("vcpu")]).collect();
    for dir in ALONG {
        for file in all_files(&root.join(dir))? {
            words.extend(file.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
            let text = read(&file)?;
            let split = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            words.extend(split.filter(|word| !word.is_empty()).map(String::from));
            // guest.s: __\prefix\()_sync
            for part in text.split("__\\prefix\\()").skip(1) {
                let end = part.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                let name = &part[..end.unwrap_or(part.len())];
                words.extend(["guest", "hyp_guest"].map(|prefix| format!("__{prefix}{name}")));
            }
        }
    }
    Ok(words)
}

/// Those of nested packages as well.
fn all_files(dir: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut files = rooms::rust_files(dir)?;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.join("Cargo.toml").exists() {
            files.extend(all_files(&path)?);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let text = "See `a/b.rs` and\n`Type::name`, `fn_name`.\n## Life\nof `X`\n## Next\n`Y`";
        assert_eq!(quoted(text).collect::<Vec<_>>(), ["a/b.rs", "Type::name", "fn_name", "X", "Y"]);
        assert!(is_source("a/b.rs") && !is_source("b.rs") && !is_source("crates/{a,b}"));
        assert!(is_name("Type::name") && is_name("fn_name") && is_name("X"));
        assert!(
            !is_name("hyp") && !is_name("a/b.rs") && !is_name("__guest_*") && !is_name("a = 1")
        );
        assert_eq!(section(text, "## Life").map(str::trim), Some("of `X`"));
        assert_eq!(section(text, "## Death"), None);
    }

    #[test]
    fn this_tree() {
        check().unwrap();
    }
}
