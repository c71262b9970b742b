//! Every dependency has a permissive licence.

use crate::proc;
use crate::toolchain::Toolchain;
use anyhow::{Context, Result, bail};
use serde_json::Value;

/// SPDX identifiers that may ship in the Image or the VMM.
const PERMISSIVE: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

pub fn check(toolchain: &Toolchain) -> Result<()> {
    let text = proc::output(toolchain.cargo().args(["metadata", "--format-version=1"]))?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata")?;
    let mut bad = Vec::new();
    let mut count = 0;
    for package in metadata["packages"].as_array().into_iter().flatten() {
        count += 1;
        let licence = package["license"].as_str().unwrap_or_default();
        if !permissive(licence) {
            let name = package["name"].as_str().unwrap_or_default();
            let version = package["version"].as_str().unwrap_or_default();
            let licence = if licence.is_empty() { "no licence expression" } else { licence };
            bad.push(format!("{name} {version}: {licence}"));
        }
    }
    if !bad.is_empty() {
        bail!("not permissive:\n  {}", bad.join("\n  "));
    }
    if count == 0 {
        bail!("cargo metadata names no packages");
    }
    Ok(())
}

/// Can the SPDX expression be satisfied with permissive licences alone?
fn permissive(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = tokens.as_slice();
    alternatives(&mut rest) == Some(true) && rest.is_empty()
}

fn alternatives(rest: &mut &[&str]) -> Option<bool> {
    let mut any = conjunction(rest)?;
    while let Some(("OR", tail)) = rest.split_first().map(|(head, tail)| (*head, tail)) {
        *rest = tail;
        any |= conjunction(rest)?;
    }
    Some(any)
}

fn conjunction(rest: &mut &[&str]) -> Option<bool> {
    let mut all = atom(rest)?;
    while let Some(("AND", tail)) = rest.split_first().map(|(head, tail)| (*head, tail)) {
        *rest = tail;
        all &= atom(rest)?;
    }
    Some(all)
}

fn atom(rest: &mut &[&str]) -> Option<bool> {
    let (head, tail) = rest.split_first()?;
    *rest = tail;
    if *head == "(" {
        let inner = alternatives(rest)?;
        let (close, tail) = rest.split_first()?;
        *rest = tail;
        return (*close == ")").then_some(inner);
    }
    if let ["WITH", exception, tail @ ..] = tail {
        *rest = tail;
        let whole = format!("{head} WITH {exception}");
        return Some(PERMISSIVE.contains(&whole.as_str()));
    }
    Some(PERMISSIVE.contains(head))
}

#[cfg(test)]
mod tests {
    use super::permissive;

    #[test]
    fn expressions() {
        for good in [
            "MIT",
            "Apache-2.0 OR MIT",
            "MIT/Apache-2.0",
            "Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "GPL-2.0 OR MIT",
        ] {
            assert!(permissive(good), "{good}");
        }
        for bad in [
            "",
            "GPL-2.0",
            "MIT AND GPL-3.0-only",
            "MPL-2.0",
            "(MIT",
            "MIT MIT",
            "LGPL-2.1 OR MPL-2.0",
        ] {
            assert!(!permissive(bad), "{bad}");
        }
    }
}
