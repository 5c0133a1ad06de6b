//! Looks at everything that was committed, and says what should not be: the demo's independent audit of
//! decisions and reservations, what this one adds to it, and at last every output decided again.

mod chain;
mod leases;
mod lowered;
mod rights;
mod snapshots;

use super::logs::Logs;
use super::workload::fleet;
use super::world::World;
use crate::demo::audit::audit;
use crate::demo::audit::history::{DeadLetterSeen, Names, TaskSeen};
use crate::lane::{Lane, LaneSettings};
use crate::model::Topic;
use crate::model::resource::FleetFile;
use crate::replay::audit::{Audit, Range, audit_lane};

/// One thing that should not be.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Violation {
    pub seed: u64,
    /// A stable name.
    pub invariant: &'static str,
    pub detail: String,
}

/// What was looked at, and what was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings {
    /// Each with the name of its invariant.
    pub violations: Vec<(&'static str, String)>,
    /// Decisions that were made again, and were the same.
    pub replayed: u64,
}

impl Findings {
    fn say(&mut self, invariant: &'static str, detail: impl Into<String>) {
        self.violations.push((invariant, detail.into()));
    }
}

/// Everything that is wrong with what was committed.
pub fn look(world: &World, settings: &LaneSettings, progress: Progress) -> Findings {
    let mut findings = Findings::default();
    let Progress { mut logs, lanes } = progress;
    logs.read_all(world);
    let mut names = Names::default();
    let codec = &world.codec;
    let (mut decisions, mut allocations) = (Vec::new(), Vec::new());
    let tasks: Vec<TaskSeen> = logs
        .all(Topic::Tasks)
        .map(|record| {
            let task = record.with_raw(Topic::Tasks, |raw| codec.decode_task(raw).ok());
            names.task(record.partition, record.offset, task.as_ref())
        })
        .collect();
    for record in logs.all(Topic::RouteDecisions) {
        record.with_raw(Topic::RouteDecisions, |raw| match codec.decode_route_decision(raw) {
            Ok(decision) => decisions.push(names.decision(&decision)),
            Err(error) => findings.say("readable", error.to_string()),
        });
    }
    for record in logs.all(Topic::AllocationEvents) {
        record.with_raw(Topic::AllocationEvents, |raw| match codec.decode_allocation_event(raw) {
            Ok(event) => allocations.push(names.allocation(&event)),
            Err(error) => findings.say("readable", error.to_string()),
        });
    }
    let dead_letters: Vec<DeadLetterSeen> =
        logs.all(Topic::TasksDlq).map(|record| dead_letter(&record.headers)).collect();
    let resources = fleet().into_iter().map(serde_json::from_value).collect::<Result<_, _>>();
    match resources {
        Ok(resources) => {
            let fleet = FleetFile { resources, ..FleetFile::default() };
            let report = audit(&fleet, &tasks, &decisions, &allocations, &dead_letters);
            for finding in &report.findings {
                let text = finding.to_string();
                let (invariant, detail) = text.split_once(": ").unwrap_or(("audit", &text));
                let invariant = INVARIANTS.iter().find(|name| **name == invariant);
                findings.say(invariant.copied().unwrap_or("audit"), detail);
            }
        }
        Err(error) => findings.say("fleet", error.to_string()),
    }
    leases::check(world, &logs, &mut findings);
    rights::check(world, &logs, &lanes, &mut findings);
    lowered::check(world, &logs, &allocations, &mut findings);
    for (number, chain) in lanes.iter().enumerate() {
        chain.check(world, &logs, &mut findings);
        snapshots::check(settings, &logs, chain, &mut findings);
        // What does not follow cannot be decided again.
        if chain.broken.is_none() {
            decide_again(settings, &mut logs, number as u32, &mut findings);
        }
    }
    findings
}

/// The audit's kinds of findings.
const INVARIANTS: [&str; 7] = [
    "lost",
    "duplicated",
    "oversubscribed",
    "unreserved",
    "undecided",
    "unreleased",
    "inconsistent",
];

fn dead_letter(headers: &[(String, Option<Vec<u8>>)]) -> DeadLetterSeen {
    let number = |name: &str| -> Option<i64> {
        let (_, value) = headers.iter().find(|(found, _)| found == name)?;
        std::str::from_utf8(value.as_deref()?).ok()?.parse().ok()
    };
    let number = |name: &str| number(name).unwrap_or(-1);
    DeadLetterSeen {
        partition: i32::try_from(number("__connect.errors.partition")).unwrap_or(-1),
        offset: number("__connect.errors.offset"),
    }
}

/// Every output of a lane must come out of its inputs and its journal once more, to the last byte.
fn decide_again(settings: &LaneSettings, logs: &mut Logs, lane: u32, findings: &mut Findings) {
    let mut found = Audit::default();
    match audit_lane(logs, settings, lane, Range::ALL, &mut found, &mut |_| {}) {
        Ok(()) => {}
        Err(error) => return findings.say("replayed", format!("lane {lane}: {error:#}")),
    }
    findings.replayed += found.identical;
    if let Some(first) = found.first_divergence {
        findings.say(
            "replayed",
            format!(
                "lane {lane} at seq {}: {}: was {}, is {}",
                first.seq, first.what, first.expected, first.found
            ),
        );
    }
    if found.folded_decisions > 0 {
        let detail = format!("lane {lane}: not decided again: {:?}", found.folded_batches);
        findings.say("replayed", detail);
    }
    if found.published_deleted > 0 {
        let detail = format!("lane {lane}: {} outputs are not there", found.published_deleted);
        findings.say("replayed", detail);
    }
}

/// Every lane as its journal gives it, as far as that was looked at.
pub struct Progress {
    logs: Logs,
    lanes: Vec<chain::Chain>,
}

impl Progress {
    pub fn new(world: &World, settings: &LaneSettings) -> Self {
        let lane = |number| Lane::genesis(number, world.dealt, 1, settings.clone());
        Progress {
            logs: Logs::new(world.lanes()),
            lanes: (0..world.lanes()).map(|number| chain::Chain::new(lane(number))).collect(),
        }
    }

    /// Whether every lane has read all its tasks and all control records, and holds no task, and the
    /// group's offsets are its journal's.
    pub fn is_drained(&mut self, world: &World) -> bool {
        let Progress { logs, lanes } = self;
        for topic in Topic::CONTROLS {
            logs.read(world, topic, 0);
        }
        let mut drained = true;
        for chain in lanes {
            let partition = i32::try_from(chain.lane.number()).unwrap_or(0);
            logs.read(world, Topic::Journal, partition);
            logs.read(world, Topic::Tasks, partition);
            chain.follow(logs);
            // One that does not follow is reported at the end.
            drained &= chain.broken.is_some()
                || chain.rest(logs).is_none() && chain.differs(world).is_none();
        }
        drained
    }
}
