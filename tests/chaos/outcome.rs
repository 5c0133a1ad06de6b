//! What rounds gave: one line each, and a file that says which need not be run again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use pointsman::failpoint::Point;
use serde::{Deserialize, Serialize};

use crate::plan::Kind;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Clean,
    /// Something is wrong with the router.
    Violation,
    /// The round itself could not be brought to its end.
    Broken,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    pub key: String,
    pub round: u32,
    pub kind: Kind,
    pub verdict: Verdict,
    /// Each a line: what should not be.
    pub findings: Vec<String>,
    pub tasks: u64,
    pub decisions: u64,
    pub refused: u64,
    pub dead_lettered: u64,
    pub failed_over: u64,
    /// SIGKILL by the conductor.
    pub kills: u64,
    /// SIGSTOP, by the conductor or at a point.
    pub freezes: u64,
    /// Points at which the router killed itself.
    pub fired: Vec<String>,
    /// Points that were not passed in time.
    pub missed: Vec<String>,
    pub node_kills: u64,
    pub node_pauses: u64,
    /// Instances that ended by themselves, in a way that a restart helps against: what they said.
    pub gave_up: Vec<String>,
    pub replayed: u64,
    pub identical: u64,
    pub elapsed_s: f64,
    /// The version of the program.
    pub version: String,
}

impl Outcome {
    pub fn line(&self) -> String {
        let mut faults = Vec::new();
        for (count, what) in [
            (self.kills, "kill -9"),
            (self.freezes, "stopped"),
            (self.node_kills, "broker killed"),
            (self.node_pauses, "broker paused"),
            (self.gave_up.len() as u64, "gave up"),
        ] {
            if count > 0 {
                faults.push(format!("{what} {count}"));
            }
        }
        if !self.fired.is_empty() {
            faults.push(format!("killed at {}", self.fired.join(" ")));
        }
        if !self.missed.is_empty() {
            faults.push(format!("not passed {}", self.missed.join(" ")));
        }
        format!(
            "{:<14} {:>5} tasks {:>5} decisions, replay {}/{}, {:>5.1} s, {}: {}",
            self.key,
            self.tasks,
            self.decisions,
            self.identical,
            self.replayed,
            self.elapsed_s,
            faults.join(", "),
            match self.verdict {
                Verdict::Clean => "clean",
                Verdict::Violation => "VIOLATION",
                Verdict::Broken => "BROKEN",
            }
        )
    }
}

/// The rounds so far, one JSON object a line.
pub struct State {
    path: PathBuf,
    known: BTreeMap<String, Outcome>,
}

impl State {
    pub fn open(path: &Path, fresh: bool) -> anyhow::Result<Self> {
        if fresh && path.exists() {
            fs::rename(path, path.with_extension("before.jsonl"))?;
        }
        let text = fs::read_to_string(path).unwrap_or_default();
        // A line that was cut off is a round that is run again.
        let known = text.lines().filter_map(|line| serde_json::from_str::<Outcome>(line).ok());
        let known = known.map(|outcome| (outcome.key.clone(), outcome)).collect();
        Ok(State { path: path.to_owned(), known })
    }

    /// What a round gave that ended clean, by this version of the program.
    pub fn clean(&self, key: &str) -> Option<&Outcome> {
        self.known.get(key).filter(|outcome| outcome.verdict == Verdict::Clean)
    }

    pub fn keep(&mut self, outcome: &Outcome) -> anyhow::Result<()> {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(&self.path)
            .with_context(|| format!("{} cannot be written", self.path.display()))?;
        writeln!(file, "{}", serde_json::to_string(outcome)?)?;
        self.known.insert(outcome.key.clone(), outcome.clone());
        Ok(())
    }
}

/// Tables over all rounds of a run.
pub fn summary(run: &[Outcome]) -> String {
    let mut text = String::from("\nkind       rounds  clean  tasks  decisions  kills  at points\n");
    let mut kinds: Vec<Kind> = run.iter().map(|outcome| outcome.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for kind in kinds {
        let of: Vec<&Outcome> = run.iter().filter(|outcome| outcome.kind == kind).collect();
        let sum = |figure: fn(&Outcome) -> u64| of.iter().map(|one| figure(one)).sum::<u64>();
        text.push_str(&format!(
            "{:<10} {:>6} {:>6} {:>6} {:>10} {:>6} {:>10}\n",
            format!("{kind:?}").to_lowercase(),
            of.len(),
            sum(|one| u64::from(one.verdict == Verdict::Clean)),
            sum(|one| one.tasks),
            sum(|one| one.decisions),
            sum(|one| one.kills),
            sum(|one| one.fired.len() as u64),
        ));
    }
    let sum = |figure: fn(&Outcome) -> u64| run.iter().map(figure).sum::<u64>();
    text.push_str(&format!(
        "stopped {}, brokers killed {}, brokers paused {}, failed over {}, refused {}, dead letters {}, \
         ended by themselves {}, replayed {} of which identical {}\n",
        sum(|one| one.freezes),
        sum(|one| one.node_kills),
        sum(|one| one.node_pauses),
        sum(|one| one.failed_over),
        sum(|one| one.refused),
        sum(|one| one.dead_lettered),
        sum(|one| one.gave_up.len() as u64),
        sum(|one| one.replayed),
        sum(|one| one.identical),
    ));
    let fired = |point: &Point| {
        run.iter().flat_map(|outcome| &outcome.fired).filter(|name| *name == point.name()).count()
    };
    let counts: Vec<(&Point, usize)> =
        Point::ALL.iter().map(|point| (point, fired(point))).collect();
    if counts.iter().any(|(_, count)| *count > 0) {
        let of: Vec<String> =
            counts.iter().map(|(point, count)| format!("{} {count}", point.name())).collect();
        let all = counts.iter().filter(|(_, count)| *count > 0).count();
        text.push_str(&format!("{all} of {} points: {}\n", counts.len(), of.join(", ")));
    }
    text
}
