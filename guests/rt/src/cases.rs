//! Named cases: `ok NAME`, `FAIL NAME why`, and the count.

use crate::machine::Machine;
use crate::say;

/// Why a case failed: the line, and two numbers that were to be equal.
#[derive(Clone, Copy, Debug)]
pub struct Fail(pub u32, pub u64, pub u64);

/// The case does not apply to this machine.
pub const SKIP: Outcome = Err(Fail(0, 0, 0));

/// What a case returns.
pub type Outcome = Result<(), Fail>;

/// A case and its name.
pub type Case = (&'static str, fn(&'static Machine) -> Outcome);

/// Fails the case unless both numbers are equal.
#[macro_export]
macro_rules! same {
    ($a:expr, $b:expr) => {
        match ($a as u64, $b as u64) {
            (a, b) if a == b => {}
            (a, b) => return Err($crate::cases::Fail(line!(), a, b)),
        }
    };
}

/// Fails the case unless it is so.
#[macro_export]
macro_rules! check {
    ($a:expr) => {
        if !$a {
            return Err($crate::cases::Fail(line!(), 0, 1));
        }
    };
}

/// Runs them (those whose names contain `case=` of the command line).
pub fn run(m: &'static Machine, cases: &[Case]) {
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let filter = m.argument("case").unwrap_or("");
    for (name, f) in cases.iter().filter(|c| c.0.contains(filter)) {
        match f(m) {
            Ok(()) => {
                passed += 1;
                say!("ok {name}");
            }
            Err(Fail(0, ..)) => {
                skipped += 1;
                say!("skip {name} needs another machine");
            }
            Err(Fail(line, a, b)) => {
                failed += 1;
                say!("FAIL {name} line {line}: {a:#x}, expected {b:#x}");
            }
        }
    }
    say!("{passed} passed, {failed} failed, {skipped} skipped");
}
