//! What the suites' cases gave, and whether two machines agree.

use anyhow::{Result, bail};

#[derive(Clone, PartialEq, Eq, Debug)]
enum Verdict {
    Passed,
    /// With the reason: something that the machine lacks.
    Skipped(String),
    Failed(String),
}

/// Names (`suite case`) and verdicts, in the order in which they ran.
#[derive(Debug)]
pub struct Results(Vec<(String, Verdict)>);

impl Results {
    /// Reads a log, in which every one of the suites must have come to its end.
    pub fn of(log: &str, suites: &[&str]) -> Result<Self> {
        let mut cases = Vec::new();
        for suite in suites {
            let (begin, end) = (format!("suite {suite} begin"), format!("suite {suite} end "));
            let mut lines = log.lines().skip_while(|line| *line != begin).skip(1);
            let first = cases.len();
            let status = loop {
                let Some(line) = lines.next() else { bail!("{suite} did not come to its end") };
                if let Some(status) = line.strip_prefix(&end) {
                    break status;
                }
                let mut words = line.splitn(3, ' ');
                let (verdict, name) = (words.next(), words.next().unwrap_or_default());
                let rest = words.next().unwrap_or_default().to_string();
                let verdict = match verdict {
                    Some("ok") => Verdict::Passed,
                    Some("skip") => Verdict::Skipped(rest),
                    Some("FAIL") => Verdict::Failed(rest),
                    _ => continue,
                };
                cases.push((format!("{suite} {name}"), verdict));
            };
            let failed =
                cases[first..].iter().any(|(_, verdict)| matches!(verdict, Verdict::Failed(_)));
            if cases.len() == first || status != "0" && !failed {
                bail!("{suite} ran {} cases and ended with {status}", cases.len() - first);
            }
        }
        Ok(Self(cases))
    }

    pub fn failures(&self) -> Vec<String> {
        let failure = |(name, verdict): &(String, Verdict)| match verdict {
            Verdict::Failed(why) => Some(format!("{name}: {why}")),
            _ => None,
        };
        self.0.iter().filter_map(failure).collect()
    }

    /// The same cases with the same verdicts; another machine may have what a
    /// skipped case needs.
    pub fn compare(&self, other: &Self, same_hardware: bool) -> Result<()> {
        for pair in self.0.iter().zip(&other.0) {
            match pair {
                (a, b) if a == b => {}
                ((a, Verdict::Skipped(_)), (b, Verdict::Passed))
                | ((a, Verdict::Passed), (b, Verdict::Skipped(_)))
                    if a == b && !same_hardware => {}
                (a, b) => bail!("{a:?} there is {b:?} here"),
            }
        }
        if self.0.len() != other.0.len() {
            bail!("{} cases there, {} here", self.0.len(), other.0.len());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(cases: &str) -> Result<Results> {
        let log = format!("boot\nsuite a begin\n{cases}\nsuite a end 0\nsuite b end 0\n");
        Results::of(&log, &["a"])
    }

    #[test]
    fn reads_logs() {
        let all =
            results("noise\nok x.one (3 ms)\nskip x.two needs luck\nFAIL x.three why not").unwrap();
        assert_eq!(all.0.len(), 3);
        assert_eq!(all.0[1], ("a x.two".into(), Verdict::Skipped("needs luck".into())));
        assert_eq!(all.failures(), ["a x.three: why not"]);
        assert!(results("nothing").is_err());
        assert!(Results::of("suite a begin\nok x\n", &["a"]).is_err());
        assert!(Results::of("suite a begin\nok x\nsuite a end 1\n", &["a"]).is_err());
        assert!(Results::of("ok x\nsuite a end 0\n", &["a"]).is_err());
    }

    #[test]
    fn compares() {
        let of = |cases| results(cases).unwrap();
        let (one, two) = (of("ok x (1 ms)\nok y"), of("ok x (2 ms)\nskip y needs luck"));
        assert!(one.compare(&of("ok x\nok y"), true).is_ok());
        assert!(one.compare(&two, false).is_ok() && two.compare(&one, false).is_ok());
        assert!(one.compare(&two, true).is_err());
        assert!(one.compare(&of("ok x"), false).is_err());
        assert!(of("ok x").compare(&one, false).is_err());
        assert!(one.compare(&of("ok x\nok z"), false).is_err());
        assert!(one.compare(&of("ok x\nFAIL y why"), false).is_err());
    }
}
