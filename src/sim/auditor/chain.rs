//! A lane's journal: its chain, what it says that was read, and that the group's offsets say the same.

use std::collections::{BTreeMap, BTreeSet};

use super::Findings;
use crate::lane::Lane;
use crate::model::Topic;
use crate::model::journal::JournalRecord;
use crate::routing::fact::Fact;
use crate::sim::group::committed_now;
use crate::sim::logs::Logs;
use crate::sim::world::World;

/// A journal, folded as far as it was read.
pub struct Chain {
    pub lane: Lane,
    /// The hash of each batch, by seq - 1.
    pub hashes: Vec<String>,
    seen: usize,
    /// Why the next record does not follow.
    pub broken: Option<String>,
}

impl Chain {
    pub fn new(lane: Lane) -> Self {
        Chain { lane, hashes: Vec::new(), seen: 0, broken: None }
    }

    fn partition(&self) -> i32 {
        i32::try_from(self.lane.number()).unwrap_or(0)
    }

    pub fn follow(&mut self, logs: &Logs) {
        let journal = logs.of(Topic::Journal, self.partition());
        for record in journal.iter().skip(self.seen) {
            self.seen += 1;
            match self.lane.fold(record.value.as_deref().unwrap_or_default()) {
                Ok(()) => self.hashes.push(self.lane.hash()),
                Err(error) => {
                    self.broken.get_or_insert(error.to_string());
                    return;
                }
            }
        }
    }

    /// What the lane has not done yet.
    pub fn rest(&self, logs: &Logs) -> Option<String> {
        let (lane, state) = (self.lane.number(), self.lane.state());
        if let Some(live) = state.tasks.values().next() {
            return Some(format!(
                "lane {lane} at seq {} holds {} tasks, {} in flight; the first is {} at offset {}: {:?}",
                self.lane.seq(),
                state.tasks.len(),
                state.in_flight,
                live.task.task_id,
                live.task.offset,
                live.phase,
            ));
        }
        let at = self.lane.positions();
        let reads = [
            (Topic::Tasks, self.partition(), at.tasks.unwrap_or(0)),
            (Topic::Fleet, 0, at.fleet),
            (Topic::HealthEvents, 0, at.health_events),
        ];
        reads.into_iter().find_map(|(topic, partition, at)| {
            let end = logs.of(topic, partition).last().map_or(0, |record| record.offset + 1);
            let name = topic.default_name();
            (at < end).then(|| format!("lane {lane} has read {name} up to {at} of {end}"))
        })
    }

    /// What the group's offsets say besides the journal's end.
    pub fn differs(&self, world: &World) -> Option<String> {
        let lane = self.lane.number();
        let Some(commits) = committed_now(world, &[lane]) else {
            return Some(format!("the offsets of lane {lane} cannot be read"));
        };
        let at = self.lane.positions();
        let positions = [at.tasks, at.task_results, at.lane_inbox];
        let named = format!(";{};{};", self.lane.seq(), self.lane.hash());
        for (topic, (position, commit)) in Topic::LANE_INPUTS
            .into_iter()
            .zip(positions.into_iter().zip(commits.iter().flat_map(|(_, commit)| commit)))
        {
            let name = topic.default_name();
            match commit {
                None if self.lane.seq() == 0 => {}
                None => return Some(format!("lane {lane}: no offset of {name} is committed")),
                Some(commit) if Some(commit.offset) != position => {
                    let offset = commit.offset;
                    return Some(format!(
                        "lane {lane}: {offset} of {name} is committed, and {position:?} journaled"
                    ));
                }
                Some(commit) if !commit.metadata.contains(&named) => {
                    let metadata = &commit.metadata;
                    return Some(format!(
                        "lane {lane}: '{metadata}' is committed, and the journal ends with {named}"
                    ));
                }
                Some(_) => {}
            }
        }
        None
    }

    pub fn check(&self, world: &World, logs: &Logs, findings: &mut Findings) {
        if let Some(broken) = &self.broken {
            findings.say("journal", broken.clone());
        }
        if let Some(rest) = self.rest(logs) {
            findings.say("drained", rest);
        }
        if let Some(differs) = self.differs(world) {
            findings.say("committed", differs);
        }
        let mut records = Vec::new();
        for record in logs.of(Topic::Journal, self.partition()) {
            match world.codec.decode_journal(record.value.as_deref().unwrap_or_default()) {
                Ok(record) => records.push(record),
                Err(error) => return findings.say("readable", error.to_string()),
            }
        }
        self.check_ranges(logs, &records, findings);
        self.check_controls(logs, &records, findings);
    }

    /// Each input's offsets are covered once, from the first on and without a gap; no record is left
    /// out between two batches.
    fn check_ranges(&self, logs: &Logs, records: &[JournalRecord], findings: &mut Findings) {
        let lane = self.lane.number();
        let mut next: BTreeMap<&str, i64> = BTreeMap::new();
        for record in records {
            for range in &record.offsets {
                let at = next.entry(range.topic.as_str()).or_insert(0);
                if range.from != *at || range.to < range.from {
                    findings.say(
                        "covered",
                        format!(
                            "lane {lane} at seq {} read {} from {} to {}, after {at}",
                            record.seq, range.topic, range.from, range.to
                        ),
                    );
                }
                *at = range.to;
            }
        }
        let tasks = logs.of(Topic::Tasks, self.partition()).last();
        let end = tasks.map_or(0, |record| record.offset + 1);
        let at = next.get(Topic::Tasks.default_name()).copied().unwrap_or(0);
        if at != end {
            findings.say("covered", format!("lane {lane} read tasks up to {at} of {end}"));
        }
    }

    /// Each lane applies each control record once, in order.
    fn check_controls(&self, logs: &Logs, records: &[JournalRecord], findings: &mut Findings) {
        let lane = self.lane.number();
        let mut applied: BTreeMap<Topic, Vec<i64>> = BTreeMap::new();
        for record in records {
            let facts = match Lane::facts_of(record) {
                Ok(facts) => facts,
                Err(error) => return findings.say("readable", error.to_string()),
            };
            for fact in facts {
                if let Some((topic, offset)) = control(&fact) {
                    applied.entry(topic).or_default().push(offset);
                }
            }
        }
        for topic in Topic::CONTROLS {
            let applied = applied.remove(&topic).unwrap_or_default();
            let name = topic.default_name();
            if let Some(pair) = applied.windows(2).find(|pair| pair[0] >= pair[1]) {
                let detail = format!("lane {lane} applied {name} {} after {}", pair[1], pair[0]);
                findings.say("controls", detail);
            }
            let applied: BTreeSet<i64> = applied.into_iter().collect();
            let passed = logs.of(topic, 0).iter().find(|record| !applied.contains(&record.offset));
            if let Some(passed) = passed {
                let detail = format!("lane {lane} never applied {name} {}", passed.offset);
                findings.say("controls", detail);
            }
        }
    }
}

fn control(fact: &Fact) -> Option<(Topic, i64)> {
    match fact {
        Fact::FleetSet { offset, .. } => Some((Topic::Fleet, *offset)),
        Fact::HealthSet { offset, .. } => Some((Topic::HealthEvents, *offset)),
        Fact::ControlSkipped { topic, offset, .. } => Some((topic.topic(), *offset)),
        Fact::BatchOpened { .. }
        | Fact::PolicySet(_)
        | Fact::Routed { .. }
        | Fact::Queued { .. }
        | Fact::Refused { .. }
        | Fact::Duplicate { .. }
        | Fact::AttemptEnded { .. }
        | Fact::LeaseExtended { .. }
        | Fact::AttemptSlow { .. }
        | Fact::BreakerTold { .. }
        | Fact::FailoverEnded { .. }
        | Fact::LoadPublished { .. }
        | Fact::RightsGiven { .. }
        | Fact::RightsTaken { .. }
        | Fact::RightsPledged { .. }
        | Fact::RoomKept { .. }
        | Fact::LanesCounted { .. }
        | Fact::StrategyChanged { .. }
        | Fact::HeadroomTold { .. }
        | Fact::DeadLettered { .. } => None,
    }
}
