//! The ladder of one operation: who was where, and what was saved and restored.

use super::events::{Event, Lane, What, Window};
use super::instruction::{self, Kind};

/// A CPU's stay at one level.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    pub lane: Lane,
    /// Instructions of this CPU.
    pub instructions: u64,
    /// What brought the CPU here; nothing for the first.
    pub by: Option<String>,
    pub reads: Vec<(String, u32)>,
    pub writes: Vec<(String, u32)>,
    /// Barriers, TLB maintenance and what else there is.
    pub others: Vec<(String, u32)>,
}

/// The steps of one CPU.
pub struct Ladder {
    pub cpu: usize,
    pub steps: Vec<Step>,
}

/// Each CPU's ladder; those that did nothing but run are not in it.
pub fn ladders(window: &Window) -> Vec<Ladder> {
    let mut cpus: Vec<_> = window.events.iter().map(|event| event.cpu).collect();
    // In the order in which they come into it.
    let mut seen = Vec::new();
    cpus.retain(|cpu| {
        !seen.contains(cpu) && {
            seen.push(*cpu);
            true
        }
    });
    cpus.into_iter()
        .map(|cpu| {
            let events: Vec<_> = window.events.iter().filter(|e| e.cpu == cpu).copied().collect();
            let total = window.own.get(&cpu).copied().unwrap_or(0);
            Ladder { cpu, steps: steps(&events, total) }
        })
        .filter(|ladder| ladder.steps.len() > 1)
        .collect()
}

fn steps(events: &[Event], total: u64) -> Vec<Step> {
    let Some(first) = events.first() else { return Vec::new() };
    let lane = match first.what {
        What::From(from) => from,
        What::System(_) => first.lane,
    };
    let mut steps = vec![Step::new(lane, None)];
    let mut start = 0;
    let mut last: Option<&Event> = None;
    for event in events {
        match event.what {
            What::From(from) => {
                if let Some(step) = steps.last_mut() {
                    step.instructions = event.own.saturating_sub(start);
                }
                start = event.own;
                steps.push(Step::new(event.lane, Some(cause(from, event, last))));
            }
            What::System(opcode) => {
                if let Some(step) = steps.last_mut() {
                    step.add(opcode);
                }
            }
        }
        last = Some(event);
    }
    if let Some(step) = steps.last_mut() {
        step.instructions = total.saturating_sub(start);
    }
    steps
}

/// Why the level changed: the instruction right before it, if it's one that does.
fn cause(from: Lane, change: &Event, last: Option<&Event>) -> String {
    if let Some(Event { own, what: What::System(opcode), .. }) = last {
        let name = instruction::name(*opcode);
        match (instruction::kind(*opcode), change.own.saturating_sub(*own)) {
            (Kind::Call | Kind::Eret, 0 | 1) => return name,
            (Kind::Read | Kind::Write | Kind::Wait, 0) => return format!("trap: {name}"),
            _ => {}
        }
    }
    if from.level() < change.lane.level() { "abort or interrupt".into() } else { "return".into() }
}

impl Step {
    fn new(lane: Lane, by: Option<String>) -> Self {
        let (reads, writes, others) = Default::default();
        Self { lane, instructions: 0, by, reads, writes, others }
    }

    fn add(&mut self, opcode: u32) {
        let list = match instruction::kind(opcode) {
            Kind::Read => &mut self.reads,
            Kind::Write => &mut self.writes,
            // These are the arrows.
            Kind::Eret | Kind::Call => return,
            _ => &mut self.others,
        };
        let name = instruction::name(opcode);
        match list.iter_mut().find(|(known, _)| *known == name) {
            Some((_, times)) => *times += 1,
            None => list.push((name, 1)),
        }
    }

    /// "read 3: ESR_EL2, ELR_EL2 ×2" and so on.
    pub fn words(&self) -> Vec<String> {
        let line = |verb: &str, list: &[(String, u32)]| {
            let sum: u32 = list.iter().map(|(_, times)| times).sum();
            let names: Vec<_> = list
                .iter()
                .map(
                    |(name, times)| {
                        if *times == 1 { name.clone() } else { format!("{name} ×{times}") }
                    },
                )
                .collect();
            let count = if verb.is_empty() { String::new() } else { format!("{verb} {sum}: ") };
            (!list.is_empty()).then(|| count + &names.join(", "))
        };
        [line("read", &self.reads), line("write", &self.writes), line("", &self.others)]
            .into_iter()
            .flatten()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hypercall() {
        let event = |own, lane, what| Event { cpu: 1, at: own, own, lane, what };
        let window = Window {
            own: [(1, 97)].into(),
            events: vec![
                event(9, Lane::GuestEl1, What::System(0xd400_0002)),
                event(10, Lane::El2, What::From(Lane::GuestEl1)),
                event(18, Lane::El2, What::System(0xd53c_4024)),
                event(19, Lane::El2, What::System(0xd53c_4024)),
                event(77, Lane::El2, What::System(0xd51c_4021)),
                event(94, Lane::El2, What::System(0xd69f_03e0)),
                event(95, Lane::GuestEl1, What::From(Lane::El2)),
            ],
            ..Window::default()
        };
        let ladders = ladders(&window);
        assert_eq!(ladders.len(), 1);
        let steps = &ladders[0].steps;
        let counts: Vec<_> = steps.iter().map(|step| (step.lane, step.instructions)).collect();
        assert_eq!(counts, [(Lane::GuestEl1, 10), (Lane::El2, 85), (Lane::GuestEl1, 2)]);
        assert_eq!(steps[1].by.as_deref(), Some("HVC"));
        assert_eq!(steps[2].by.as_deref(), Some("ERET"));
        assert_eq!(steps[1].words(), ["read 2: ELR_EL2 ×2", "write 1: ELR_EL2"]);
    }

    #[test]
    fn causes() {
        let event = |own, lane, what| Event { cpu: 0, at: own, own, lane, what };
        let to = event(9, Lane::El2, What::From(Lane::GuestEl1));
        let sgi = event(9, Lane::GuestEl1, What::System(0xd518_cba0));
        assert_eq!(cause(Lane::GuestEl1, &to, Some(&sgi)), "trap: ICC_SGI1R_EL1");
        let earlier = event(5, Lane::GuestEl1, What::System(0xd518_cba0));
        assert_eq!(cause(Lane::GuestEl1, &to, Some(&earlier)), "abort or interrupt");
        assert_eq!(cause(Lane::GuestEl1, &to, None), "abort or interrupt");
    }
}
