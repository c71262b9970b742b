//! A guest that attacks beside one that must be woken every millisecond: what the attacks
//! reach, and how late they make the other one.

use super::type1::{clock, no_tick_missed, partial_tree};
use super::{Bench, says};
use crate::console::Keyboard;
use crate::machine::Machine;
use crate::run;
use crate::type1::{self, Vm};
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// What `guests/attack` does, in its order.
pub struct Attack {
    pub name: &'static str,
    pub what: &'static str,
    pub contained: &'static str,
}

pub const ATTACKS: [Attack; 9] = [
    Attack { name: "nothing", what: "both of its CPUs compute, to compare with", contained: "" },
    Attack {
        name: "sgis",
        what: "SGIs of all groups to every CPU that an SGI can name",
        contained: "a write of ICC_SGI*R_EL1 or GICD_SGIR traps, and finds the VM's own CPUs only",
    },
    Attack {
        name: "cpu_on",
        what: "PSCI CPU_ON and AFFINITY_INFO of CPUs that aren't its own, by HVC and SMC",
        contained: "INVALID_PARAMETERS: PSCI knows the VM's own CPUs only",
    },
    Attack {
        name: "escape",
        what: "loads, stores, fetches and table walks by every alias of its memory, to the \
               machine's devices, and to every address that stage 1 can make",
        contained: "stage 2 maps the VM's own memory only; the rest is an external abort",
    },
    Attack {
        name: "gic",
        what: "random values to all of the GIC's registers, those of interrupts and CPUs that it \
               hasn't among them",
        contained: "the registers are emulated; what the VM hasn't reads as zero, or aborts",
    },
    Attack {
        name: "smc",
        what: "SMCs of every owner with random arguments; at the end SYSTEM_RESET",
        contained: "SMC traps and is the VM's own firmware; unknown ones are NOT_SUPPORTED, a \
                    reset is this VM's",
    },
    Attack {
        name: "console",
        what: "prints as fast as it can",
        contained: "beyond its budget of bytes a second, output is dropped",
    },
    Attack {
        name: "waits",
        what: "WFI until a timer that is due within microseconds, WFE, YIELD",
        contained: "a thread that waits leaves its CPU to others of its class; none is the other \
                    VM's",
    },
    Attack {
        name: "timers",
        what: "both timers, due again as soon as they were taken",
        contained: "the interrupts come to its own CPUs",
    },
];

/// What an attack did to the real-time guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latency {
    pub name: &'static str,
    pub ticks: u64,
    /// Nanoseconds from a deadline to the handler.
    pub mean: u64,
    pub worst: u64,
}

/// Time is counted in instructions, one a nanosecond, and idle time is skipped: no
/// tick is late because this machine is busy. QEMU then runs its CPUs in turn, each
/// until the next of its own timers; one that does nothing else (it hands on the
/// packets of a network without members) makes these turns short.
pub fn count_instructions(machine: &mut Machine) {
    let options = [
        ["-icount", "shift=0,sleep=off"],
        ["-netdev", "hubport,id=hub,hubid=0"],
        ["-object", "filter-buffer,id=turns,netdev=hub,interval=20"],
    ];
    machine.extra.extend(options.into_iter().flatten().map(String::from));
}

impl Bench<'_> {
    /// The attacking guest goes from one kind to the next, then resets itself; the other one
    /// says how late it was.
    pub fn storms(&self, args: &run::Args, length: Duration) -> Result<Vec<Latency>> {
        let kernel = self.built.image.clone().context("no kernel")?;
        let words = format!("storms={} rounds=0", length.as_millis());
        let mut attacker = Vm::bare("attack", "guest-attack", &words)?;
        attacker.cpus = 2;
        // If the attacker goes off before its time, the other one does so after it, and with it
        // the machine.
        let seconds = 20 + 2 * ATTACKS.len() as u64 * (1 + length.as_secs());
        let words = format!("report=100 seconds={seconds}");
        let mut realtime = Vm::bare("rt", type1::REALTIME, &words)?.alone();
        // An interrupt that the attacker's controller has, too.
        let (module, loader) = partial_tree(vec![clock()])?;
        realtime.more = realtime.more.child(module);
        let mut machine = type1::machine(args, &kernel, &[attacker, realtime], &self.tree())?;
        machine.extra.extend(["-device".into(), loader]);
        count_instructions(&mut machine);
        let log = self.watched(&machine, Keyboard::Nobody, |console| {
            console.expect("attack: the end, ", Duration::from_secs(1800))?;
            // By SMC, and the machine stays.
            let soon = Duration::from_secs(60);
            console.expect("] attack: resets", soon)?;
            console.expect("] attack: starts, ", soon)?;
            console.expect("[attack] attack: nothing begins", soon)?;
            console.expect("[rt] rt: 100 ticks", soon)
        })?;
        if let Some(line) = log.lines().find(|line| line.contains("FAIL attack.")) {
            bail!("the attack succeeded: {line}");
        }
        says(&log, "[attack] attack: the end, 0 failures")?;
        says(&log, " bytes dropped)")?;
        no_tick_missed(&log)?;
        latencies(&log)
    }
}

/// Of each attack, by the reports of the real-time guest that begin and end in it.
fn latencies(log: &str) -> Result<Vec<Latency>> {
    let mut found: Vec<Latency> = ATTACKS
        .iter()
        .map(|attack| Latency { name: attack.name, ticks: 0, mean: 0, worst: 0 })
        .collect();
    let mut now: Option<&mut Latency> = None;
    // The report that comes next began before, and ends before the attack does begin.
    let mut fresh = true;
    for line in log.lines() {
        if let Some(text) = line.strip_prefix("[attack] attack: ") {
            if text.starts_with("the end") {
                break;
            }
            if let Some(name) = text.strip_suffix(" begins") {
                let known = found.iter_mut().find(|latency| latency.name == name);
                now = Some(known.with_context(|| format!("{name} isn't a known attack"))?);
                fresh = true;
            }
        } else if let Some(report) = line.strip_prefix("[rt] rt: ")
            && let Some([ticks, mean, worst]) = numbers(report)
            && !std::mem::take(&mut fresh)
            && let Some(latency) = &mut now
        {
            let sum = latency.mean * latency.ticks + mean * ticks;
            latency.ticks += ticks;
            latency.mean = sum / latency.ticks.max(1);
            latency.worst = latency.worst.max(worst);
        }
    }
    match found.iter().find(|latency| latency.ticks < 400) {
        Some(few) => bail!("{}: {} ticks are too few to say anything", few.name, few.ticks),
        None => Ok(found),
    }
}

/// Ticks, mean and worst of "100 ticks, 0 missed, 0 strange, late by 1 ns, at most 2 ns".
fn numbers(report: &str) -> Option<[u64; 3]> {
    let (ticks, rest) = report.split_once(" ticks, ")?;
    let (_, rest) = rest.split_once(", late by ")?;
    let (mean, rest) = rest.split_once(" ns, at most ")?;
    let worst = rest.trim_end().strip_suffix(" ns")?;
    Some([ticks.parse().ok()?, mean.parse().ok()?, worst.parse().ok()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(ticks: u64, mean: u64, worst: u64) -> String {
        format!(
            "[rt] rt: {ticks} ticks, 0 missed, 0 strange, late by {mean} ns, at most {worst} ns\n"
        )
    }

    #[test]
    fn reports_belong_to_the_attack_that_they_are_in() {
        let mut log = String::from("[rt] rt: started, 1000 ticks a second of 1000 counts\n");
        for attack in &ATTACKS {
            log += &format!("[attack] attack: {} begins\n", attack.name);
            // Half of it is the one's before.
            log += &report(100, 9, 9000);
            log += &report(400, 10, 70);
            log += &report(100, 20, 60);
        }
        log += "[attack] attack: the end, 0 failures\n";
        log += &report(100, 9, 9000);
        let found = latencies(&log).unwrap();
        let first = Latency { name: "nothing", ticks: 500, mean: 12, worst: 70 };
        assert_eq!(found[0], first);
        assert!(found.iter().all(|latency| (latency.ticks, latency.worst) == (500, 70)));
        let few = log.replace("attack: smc begins", "attack: console begins");
        assert!(latencies(&few).unwrap_err().to_string().contains("smc: 0 ticks"));
        let unknown = log.replace("attack: smc begins", "attack: smcs begins");
        assert!(latencies(&unknown).unwrap_err().to_string().contains("smcs"));
    }

    #[test]
    fn the_guest_does_what_is_listed() {
        let source = include_str!("../../../guests/attack/src/storms.rs");
        let list = source.split("const STORMS: &[Storm] = &[").nth(1).unwrap();
        let list = list.split("];").next().unwrap();
        let names: Vec<_> = list.split('"').skip(1).step_by(2).collect();
        assert_eq!(names, ATTACKS.map(|attack| attack.name));
    }
}
