//! `unsafe` and assembly stand only where `xtask/unsafe-rooms.txt` allows them;
//! every other crate says `#![forbid(unsafe_code)]`, so that the compiler keeps
//! it so.

use crate::paths;
use crate::workspace::Package;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const LIST: &str = "xtask/unsafe-rooms.txt";

pub fn check(members: &[Package]) -> Result<()> {
    let root = paths::root();
    let rooms = rooms()?;
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for room in &rooms {
        if !root.join(room).exists() {
            wrong.push(format!("{LIST}: {} does not exist", room.display()));
        }
    }
    for package in members {
        let mut has_unsafe = false;
        for file in rust_files(&package.dir)? {
            let relative = file.strip_prefix(&root).unwrap_or(&file).to_path_buf();
            let source = std::fs::read_to_string(&file)?;
            let Some(line) = first_unsafe(&source) else { continue };
            has_unsafe = true;
            match rooms.iter().find(|room| relative.starts_with(room)) {
                Some(room) => {
                    used.insert(room.clone());
                }
                None => wrong.push(format!(
                    "{}:{line}: `unsafe` or assembly outside the rooms of {LIST}",
                    relative.display()
                )),
            }
        }
        if !has_unsafe && !forbids(package)? {
            wrong.push(format!(
                "package {}: has no unsafe code, so it must say #![forbid(unsafe_code)]",
                package.name
            ));
        }
    }
    for room in rooms.iter().filter(|room| !used.contains(*room) && root.join(room).exists()) {
        wrong.push(format!("{LIST}: {} has no unsafe code: remove the line", room.display()));
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n  "));
    }
    Ok(())
}

fn rooms() -> Result<Vec<PathBuf>> {
    let file = paths::root().join(LIST);
    let text = std::fs::read_to_string(file).with_context(|| LIST.to_string())?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    Ok(lines.filter(|line| !line.is_empty()).map(PathBuf::from).collect())
}

/// Does a room stand in this package?
pub fn allowed(package: &Package) -> Result<bool> {
    let root = paths::root();
    let dir = package.dir.strip_prefix(&root).unwrap_or(&package.dir);
    Ok(rooms()?.iter().any(|room| room.starts_with(dir) || dir.starts_with(room)))
}

/// By attribute in every root, or by `unsafe_code = "forbid"` in the manifest.
fn forbids(package: &Package) -> Result<bool> {
    let manifest = std::fs::read_to_string(package.dir.join("Cargo.toml"))?;
    if manifest.lines().any(|line| line.replace(' ', "") == r#"unsafe_code="forbid""#) {
        return Ok(true);
    }
    for root in &package.roots {
        let source = std::fs::read_to_string(root)?;
        if !source.lines().any(|line| line.trim() == "#![forbid(unsafe_code)]") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The Rust and assembly files of a package.
pub fn rust_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.is_dir() {
                // A nested package is a member of its own.
                if path.file_name() != Some("target".as_ref()) && !path.join("Cargo.toml").exists()
                {
                    dirs.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs" || e == "S" || e == "s") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The line of the first `unsafe` or assembly in code, not in comments or
/// string literals. Assembly files are assembly throughout and are named by
/// the `global_asm!` that includes them.
fn first_unsafe(source: &str) -> Option<usize> {
    let code = blank_comments_and_strings(source);
    code.lines().position(|line| words(line).any(is_unsafe)).map(|index| index + 1)
}

/// How many lines of code there are before the tests, and on how many of them
/// stands what is `unsafe` or assembly.
pub fn count(source: &str) -> (usize, usize) {
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or(source);
    let code = blank_comments_and_strings(source);
    let mut dangerous = vec![false; code.lines().count()];
    let line_of = |at: usize| code[..at].matches('\n').count();
    let mut at = 0;
    while let Some(word) = words(&code[at..]).find(|word| is_unsafe(word)) {
        let start = word.as_ptr() as usize - code.as_ptr() as usize;
        at = start + word.len();
        let end = at + enclosed(&code[at..]);
        dangerous[line_of(start)..=line_of(end)].fill(true);
    }
    let lines = source.lines().zip(code.lines()).zip(dangerous);
    lines.fold((0, 0), |(all, bad), ((text, code), dangerous)| {
        // A line of a string alone is code, too; one of a comment is not.
        let text = text.trim();
        let is_code = !code.trim().is_empty() || !(text.is_empty() || text.starts_with("//"));
        (all + usize::from(is_code), bad + usize::from(is_code && dangerous))
    })
}

/// Where the first bracketed part of `code` ends: braces, or for a macro or an
/// attribute parentheses.
fn enclosed(code: &str) -> usize {
    let first = code.trim_start_matches(['!', ' ']).chars().next();
    let (open, close) = if first == Some('(') { ('(', ')') } else { ('{', '}') };
    let mut depth = 0usize;
    for (at, c) in code.char_indices() {
        if c == open {
            depth += 1;
        } else if c == close && depth > 0 {
            depth -= 1;
            if depth == 0 {
                return at;
            }
        }
    }
    code.len().saturating_sub(1)
}

fn is_unsafe(word: &str) -> bool {
    matches!(word, "unsafe" | "asm" | "naked_asm" | "global_asm")
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
}

fn blank_comments_and_strings(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = raw_string(rest, &out) {
            length
        } else if c == '"' {
            string(rest)
        } else if c == '\'' {
            character(rest)
        } else {
            0
        };
        if skip == 0 {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            out.extend(rest[..skip].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[skip..];
        }
    }
    out
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

fn raw_string(text: &str, before: &str) -> Option<usize> {
    if before.ends_with(|c: char| c.is_alphanumeric() || c == '_') && !before.ends_with('b') {
        return None;
    }
    let hashes = text.strip_prefix('r')?;
    let count = hashes.len() - hashes.trim_start_matches('#').len();
    let body = hashes[count..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(count));
    let length = body.find(&end).map_or(body.len(), |at| at + end.len());
    Some(2 + count + length)
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// A character literal, or 0 for a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), _) => text[3.min(text.len())..].find('\'').map_or(0, |at| at + 4),
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::{count, first_unsafe};

    #[test]
    fn counts_unsafe_lines() {
        assert_eq!(count("fn a() {\n    b();\n}\n"), (3, 0));
        assert_eq!(count("fn a() {\n    unsafe { b() };\n}\n\n// unsafe\n"), (3, 1));
        assert_eq!(count("unsafe {\n    b({\n    });\n}\nc();\n"), (5, 4));
        assert_eq!(count("#[unsafe(no_mangle)]\nfn a() {\n}\n"), (3, 1));
        assert_eq!(count("global_asm!(\n    \"nop\"\n);\nfn a() {}"), (4, 3));
        assert_eq!(count("fn a() {}\n#[cfg(test)]\nmod tests {\n unsafe {}\n}"), (1, 0));
    }

    #[test]
    fn finds_code_only() {
        assert_eq!(first_unsafe("fn a() {}\nunsafe fn b() {}"), Some(2));
        assert_eq!(first_unsafe("core::arch::asm!(\"nop\")"), Some(1));
        for clean in [
            "// unsafe\nfn a() {}",
            "/* unsafe /* asm */ unsafe */",
            "#![forbid(unsafe_code)]",
            "let s = \"unsafe \\\" unsafe\";",
            "let s = r#\"unsafe \" asm\"#;",
            "let c = '\"'; let s = \"unsafe\";",
            "let c = '\\''; let s = \"unsafe\";",
            "fn a<'a>(x: &'a str) -> &'a str { x } // unsafe",
        ] {
            assert_eq!(first_unsafe(clean), None, "{clean}");
        }
        assert_eq!(first_unsafe("let c = '\"'; unsafe { x }; let d = '\"';"), Some(1));
    }
}
