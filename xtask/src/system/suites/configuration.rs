//! Configurations: mode × CPU × GIC × CPU count, all that are valid, and few that
//! have every pair of values that one of those has.

use crate::run::Mode;

pub const MODES: &[Mode] = &[Mode::Vhe, Mode::Nvhe];
/// And whether it has FEAT_VHE.
pub const CPUS: &[(&str, bool)] = &[
    ("max", true),
    ("neoverse-n1", true),
    ("neoverse-v1", true),
    ("cortex-a76", true),
    ("cortex-a72", false),
    ("cortex-a57", false),
    ("cortex-a53", false),
];
pub const GICS: &[u32] = &[3, 2];
/// Two is what all other tests have.
pub const COUNTS: &[u32] = &[1, 4];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Configuration {
    pub mode: Mode,
    pub cpu: &'static str,
    pub gic: u32,
    pub count: u32,
}

/// A value of one of the four.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Value {
    Mode(Mode),
    Cpu(&'static str),
    Gic(u32),
    Count(u32),
}

type Pair = (Value, Value);

impl Configuration {
    pub fn name(&self) -> String {
        let Self { mode, cpu, gic, count } = self;
        let plural = if *count == 1 { "" } else { "s" };
        format!("{}, {cpu}, GICv{gic}, {count} CPU{plural}", mode.name())
    }

    /// The same machine, whatever the mode?
    pub fn same_hardware(&self, other: &Self) -> bool {
        Self { mode: other.mode, ..*self } == *other
    }

    fn pairs(&self) -> Vec<Pair> {
        let values = [
            Value::Mode(self.mode),
            Value::Cpu(self.cpu),
            Value::Gic(self.gic),
            Value::Count(self.count),
        ];
        let pairs = |at: usize| values[at + 1..].iter().map(move |value| (values[at], *value));
        (0..values.len()).flat_map(pairs).collect()
    }
}

/// All that there can be, the modes of one machine side by side.
pub fn all() -> Vec<Configuration> {
    let mut all = Vec::new();
    for &(cpu, has_vhe) in CPUS {
        for &gic in GICS {
            for &count in COUNTS {
                let can = |mode: &&Mode| has_vhe || **mode != Mode::Vhe;
                all.extend(MODES.iter().filter(can).map(|&mode| Configuration {
                    mode,
                    cpu,
                    gic,
                    count,
                }));
            }
        }
    }
    all
}

/// Few with all pairs: always the one with most pairs that none has yet. The first
/// two are one machine in both modes, whose results can be compared to the letter.
pub fn pairwise() -> Vec<Configuration> {
    let all = all();
    let mut missing: Vec<Pair> = Vec::new();
    for pair in all.iter().flat_map(Configuration::pairs) {
        if !missing.contains(&pair) {
            missing.push(pair);
        }
    }
    let mut chosen: Vec<Configuration> = Vec::new();
    let mut take = |configuration: Configuration, missing: &mut Vec<Pair>| {
        let pairs = configuration.pairs();
        missing.retain(|pair| !pairs.contains(pair));
        chosen.push(configuration);
    };
    for mode in MODES {
        take(Configuration { mode: *mode, cpu: "max", gic: 3, count: 4 }, &mut missing);
    }
    while !missing.is_empty() {
        let gain =
            |c: &Configuration| c.pairs().iter().filter(|pair| missing.contains(pair)).count();
        // The first of the best, not the last.
        let Some(best) = all.iter().rev().max_by_key(|c| gain(c)) else { break };
        take(*best, &mut missing);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid() {
        let all = all();
        assert_eq!(all.len(), (4 * 2 + 3) * 2 * 2);
        assert!(!all.iter().any(|c| c.cpu == "cortex-a72" && c.mode == Mode::Vhe));
        assert!(all.iter().all(|c| all.iter().filter(|other| *other == c).count() == 1));
    }

    /// By hand, and not by `pairs`.
    #[test]
    fn every_pair_is_covered() {
        let (all, few) = (all(), pairwise());
        assert!(few.iter().all(|c| all.contains(c)));
        type Get = fn(&Configuration) -> String;
        let get: [Get; 4] = [
            |c| c.mode.name().into(),
            |c| c.cpu.into(),
            |c| c.gic.to_string(),
            |c| c.count.to_string(),
        ];
        for a in get {
            for b in get {
                for c in &all {
                    let has = |other: &Configuration| a(other) == a(c) && b(other) == b(c);
                    assert!(few.iter().any(has), "{} with {}", a(c), b(c));
                }
            }
        }
        // Seven CPUs with each GIC are 14 already.
        assert!(few.len() <= 16, "{}", few.len());
        assert!(few[0].same_hardware(&few[1]) && few[0].mode != few[1].mode);
    }
}
