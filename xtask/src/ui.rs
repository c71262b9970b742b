//! What the person at the terminal sees: one line for each step, on stderr.

use std::io::IsTerminal;

fn paint(code: &str, text: &str) -> String {
    if std::io::stderr().is_terminal() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_string()
    }
}

/// A step begins.
pub fn step(text: impl AsRef<str>) {
    eprintln!("{} {}", paint("1;36", "==>"), text.as_ref());
}

/// A detail of the current step.
pub fn note(text: impl AsRef<str>) {
    eprintln!("    {}", text.as_ref());
}

/// Something that may surprise, but does not stop us.
pub fn warn(text: impl AsRef<str>) {
    eprintln!("{} {}", paint("1;33", "warning:"), text.as_ref());
}

/// The reason why we stop.
pub fn error(text: impl AsRef<str>) {
    eprintln!("{} {}", paint("1;31", "error:"), text.as_ref());
}

/// A test's verdict.
pub fn verdict(passed: bool, text: impl AsRef<str>) {
    let word = if passed { paint("1;32", "pass") } else { paint("1;31", "FAIL") };
    eprintln!("{word} {}", text.as_ref());
}

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..=9_999 => format!("{bytes} B"),
        10_000..=9_999_999 => format!("{} KiB", bytes / 1024),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}
