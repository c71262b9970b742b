//! Unit and property tests of everything that builds on the developer's machine.

use crate::toolchain::Toolchain;
use crate::ui;
use crate::workspace::{Package, Room};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

/// How many passed and failed.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    pub passed: usize,
    pub failed: usize,
}

/// By nextest if it is there, else by `cargo test`.
pub fn run(toolchain: &Toolchain, members: &[Package]) -> Result<Count> {
    let nextest = toolchain.has("nextest");
    let mut command = toolchain.cargo();
    if nextest {
        command.args(["nextest", "run", "--status-level=fail", "--no-fail-fast"]);
        command.args(["--hide-progress-bar", "--no-tests=pass"]);
    } else {
        ui::note("cargo-nextest is not installed: cargo test runs the tests");
        command.args(["test", "--no-fail-fast", "-q"]);
    }
    for package in members.iter().filter(|p| p.room == Room::Host) {
        command.args(["-p", &package.name]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run cargo")?;
    let stdout = child.stdout.take().context("no stdout")?;
    let stderr = child.stderr.take().context("no stderr")?;
    let (out, err) = std::thread::scope(|scope| {
        let err = scope.spawn(move || count_lines(stderr));
        (count_lines(stdout), err.join().unwrap_or_default())
    });
    let status = child.wait()?;
    let count = Count { passed: out.passed + err.passed, failed: out.failed + err.failed };
    if !status.success() && count.failed == 0 {
        bail!("the unit tests did not run: {status}");
    }
    Ok(count)
}

fn count_lines(stream: impl Read) -> Count {
    let mut count = Count::default();
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        if let Some(more) = summary(&line) {
            count.passed += more.passed;
            count.failed += more.failed;
        }
        eprintln!("{line}");
    }
    count
}

/// nextest: `Summary [   0.5s] 12 tests run: 11 passed, 1 failed, 0 skipped`;
/// cargo test: `test result: ok. 12 passed; 0 failed; 0 ignored; ...`.
fn summary(line: &str) -> Option<Count> {
    let line = line.trim();
    let rest = if line.starts_with("Summary [") {
        line.split_once("run:")?.1
    } else {
        line.strip_prefix("test result: ")?.split_once(". ")?.1
    };
    let mut count = Count::default();
    for part in rest.split([',', ';']) {
        // "11 passed (2 slow)"
        let mut words = part.split_whitespace();
        let (Some(number), Some(what)) = (words.next(), words.next()) else { continue };
        let Ok(number) = number.parse::<usize>() else { continue };
        match what {
            "passed" => count.passed = number,
            "failed" | "timed" | "exec" => count.failed += number,
            _ => {}
        }
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::{Count, summary};

    #[test]
    fn summaries() {
        let nextest = "     Summary [   0.512s] 12 tests run: 9 passed (1 slow), 2 failed, 1 timed out, 3 skipped";
        assert_eq!(summary(nextest), Some(Count { passed: 9, failed: 3 }));
        let cargo =
            "test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(summary(cargo), Some(Count { passed: 3, failed: 1 }));
        assert_eq!(summary("Compiling x"), None);
    }
}
