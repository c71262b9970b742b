//! What was measured, as JSON has it.

use super::events::{Exits, LANES, Window};
use super::model;
use super::operation::{self, Unit};
use anyhow::Result;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Whose exits.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kernel {
    Linux,
    Hypha,
    Xen,
}

impl Kernel {
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Linux => "linux",
            Kernel::Hypha => "hypha",
            Kernel::Xen => "xen",
        }
    }
}

/// One operation on one kernel in one mode on one CPU model.
#[derive(Clone, Debug)]
pub struct Record {
    pub op: String,
    pub kernel: Kernel,
    pub mode: String,
    pub cpu: String,
    /// In the operation's unit.
    pub value: u64,
    /// What the plugin saw of it.
    pub window: Option<Window>,
    /// What guests exited for, where exits are counted.
    pub exits: Vec<Exits>,
}

impl Record {
    /// A value, with nothing seen besides.
    pub fn new(op: &str, kernel: Kernel, mode: &str, cpu: &str, value: u64) -> Self {
        let (op, mode, cpu) = (op.into(), mode.into(), cpu.into());
        Self { op, kernel, mode, cpu, value, window: None, exits: Vec::new() }
    }

    fn json(&self) -> Value {
        let unit = operation::find(&self.op).map_or(Unit::Instructions, |found| found.unit);
        let mut map = Map::new();
        map.insert("op".into(), json!(self.op));
        map.insert("kernel".into(), json!(self.kernel.name()));
        map.insert("mode".into(), json!(self.mode));
        map.insert("cpu".into(), json!(self.cpu));
        let value = match unit {
            Unit::Thousandths => json!(self.value as f64 / 1000.0),
            _ => json!(self.value),
        };
        map.insert(unit.key().into(), value);
        if !self.exits.is_empty() {
            let causes = self.exits.iter().map(|exits| (exits.cause.clone(), json!(exits.times)));
            map.insert("causes".into(), Value::Object(causes.collect()));
        }
        if let Some(window) = &self.window {
            for (name, sum) in window.sums(None).fields() {
                map.insert(name.into(), json!(sum));
            }
            map.insert("modelled_cycles".into(), json!(model::cycles(window)));
            for lane in LANES {
                let mut part = Map::new();
                let instructions = window.lanes.get(&lane).copied().unwrap_or(0);
                if instructions == 0 {
                    continue;
                }
                part.insert("instructions".into(), json!(instructions));
                for (name, sum) in window.sums(Some(lane)).fields() {
                    part.insert(name.into(), json!(sum));
                }
                map.insert(lane.name().into(), Value::Object(part));
            }
        }
        Value::Object(map)
    }
}

/// One record a line, in an array.
pub fn write(file: &Path, records: &[Record]) -> Result<()> {
    let lines: Vec<_> = records.iter().map(|record| format!("  {}", record.json())).collect();
    crate::proc::write_whole(file, format!("[\n{}\n]\n", lines.join(",\n")).as_bytes())
}
