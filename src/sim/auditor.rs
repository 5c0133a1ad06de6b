//! Looks at everything that was committed, and says what should not be: the demo's independent audit of
//! decisions and reservations, and the chain of every lane's journal.

use std::collections::BTreeMap;

use super::reader::read_all;
use super::records::Plain;
use super::workload::fleet;
use super::world::World;
use crate::demo::audit::audit;
use crate::demo::audit::history::{DeadLetterSeen, Names, TaskSeen};
use crate::lane::{Lane, LaneSettings};
use crate::model::Topic;
use crate::model::resource::FleetFile;

/// One thing that should not be.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Violation {
    pub seed: u64,
    /// A stable name.
    pub invariant: &'static str,
    pub detail: String,
}

/// Everything that is wrong with what was committed.
pub fn look(world: &World, settings: &LaneSettings, seed: u64) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut say = |invariant, detail: String| found.push(Violation { seed, invariant, detail });
    let mut names = Names::default();
    let codec = &world.codec;
    let (mut tasks, mut decisions) = (Vec::new(), Vec::new());
    let (mut allocations, mut dead_letters) = (Vec::new(), Vec::new());
    each(world, Topic::Tasks, |partition, record| {
        let task = record
            .with_raw(Topic::Tasks, partition, |raw| codec.decode_task(raw).ok())
            .map(|task| names.keep(&task.task_id));
        tasks.push(TaskSeen { partition, offset: record.offset, task });
    });
    each(world, Topic::RouteDecisions, |partition, record| {
        record.with_raw(Topic::RouteDecisions, partition, |raw| {
            match codec.decode_route_decision(raw) {
                Ok(decision) => decisions.push(names.decision(&decision)),
                Err(error) => say("readable", error.to_string()),
            }
        });
    });
    each(world, Topic::AllocationEvents, |partition, record| {
        record.with_raw(Topic::AllocationEvents, partition, |raw| {
            match codec.decode_allocation_event(raw) {
                Ok(event) => allocations.push(names.allocation(&event)),
                Err(error) => say("readable", error.to_string()),
            }
        });
    });
    each(world, Topic::TasksDlq, |_, record| {
        let headers: BTreeMap<&str, i64> = record
            .headers
            .iter()
            .filter_map(|(name, value)| {
                let text = std::str::from_utf8(value.as_deref()?).ok()?;
                Some((name.as_str(), text.parse().ok()?))
            })
            .collect();
        let number = |name: &str| headers.get(name).copied().unwrap_or(-1);
        dead_letters.push(DeadLetterSeen {
            partition: i32::try_from(number("__connect.errors.partition")).unwrap_or(-1),
            offset: number("__connect.errors.offset"),
        });
    });
    let resources = fleet().into_iter().map(serde_json::from_value).collect::<Result<_, _>>();
    match resources {
        Ok(resources) => {
            let fleet = FleetFile { resources, ..FleetFile::default() };
            let report = audit(&fleet, &tasks, &decisions, &allocations, &dead_letters);
            for finding in &report.findings {
                let text = finding.to_string();
                let (invariant, detail) = text.split_once(": ").unwrap_or(("audit", &text));
                let invariant = INVARIANTS.iter().find(|name| **name == invariant);
                say(invariant.copied().unwrap_or("audit"), detail.to_owned());
            }
        }
        Err(error) => say("fleet", error.to_string()),
    }
    for lane in 0..world.lanes {
        journal(world, settings, lane, &mut say);
    }
    found
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

fn each(world: &World, topic: Topic, mut take: impl FnMut(i32, &Plain)) {
    for partition in 0..world.partitions(topic) {
        for record in read_all(world, topic, partition) {
            take(partition, &record);
        }
    }
}

/// The journal's seqs have no gap, its hashes chain, and nothing is left when all is done.
fn journal(
    world: &World,
    settings: &LaneSettings,
    number: u32,
    say: &mut impl FnMut(&'static str, String),
) {
    let mut lane = Lane::genesis(number, world.lanes, 1, settings.clone());
    let partition = i32::try_from(number).unwrap_or(0);
    for record in read_all(world, Topic::Journal, partition) {
        if let Err(error) = lane.fold(&record.value.unwrap_or_default()) {
            return say("journal", error.to_string());
        }
    }
    let state = lane.state();
    if let Some(live) = state.tasks.values().next() {
        let detail = format!(
            "lane {number} at seq {} holds {} tasks, {} in flight; the first is {} at offset {}: {:?}",
            lane.seq(),
            state.tasks.len(),
            state.in_flight,
            live.task.task_id,
            live.task.offset,
            live.phase,
        );
        say("drained", detail);
    }
}

/// Every lane as its journal gives it, as far as that was looked at.
pub struct Progress {
    lanes: Vec<(Lane, usize)>,
}

impl Progress {
    pub fn new(world: &World, settings: &LaneSettings) -> Self {
        let lane = |number| (Lane::genesis(number, world.lanes, 1, settings.clone()), 0);
        Progress { lanes: (0..world.lanes).map(lane).collect() }
    }

    /// Whether every lane has read all its tasks and holds none of them.
    pub fn is_drained(&mut self, world: &World) -> bool {
        self.lanes.iter_mut().all(|(lane, seen)| {
            let partition = i32::try_from(lane.number()).unwrap_or(0);
            let journal = read_all(world, Topic::Journal, partition);
            for record in journal.iter().skip(*seen) {
                // One that does not follow is found by the look at the end.
                if lane.fold(record.value.as_deref().unwrap_or_default()).is_err() {
                    return true;
                }
            }
            *seen = journal.len();
            let tasks = read_all(world, Topic::Tasks, partition);
            let end = tasks.last().map_or(0, |task| task.offset + 1);
            lane.positions().tasks.unwrap_or(0) >= end && lane.state().tasks.is_empty()
        })
    }
}
