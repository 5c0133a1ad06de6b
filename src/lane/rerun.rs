//! A journaled batch, decided again: what the world chose at the time is taken from the journal
//! and the records that it names, everything else from the state.
//!
//! What a batch took is in its journal record: the time, up to when results were read, the ranges
//! of the inputs, the control records and the policy (by value, as facts), the waiting tasks that
//! were read again, and the records that were condemned. One thing beside is read off the facts:
//! whether a result's bytes were still at hand for a dead letter.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::intake::{Death, OwnedRecord};
use super::prepared::Prepared;
use super::ready::Ready;
use super::{Control, Lane};
use crate::model::Topic;
use crate::model::journal::JournalRecord;
use crate::model::reason::RefusalReason;
use crate::routing::fact::{Fact, InputTopic};
use crate::routing::state::State;

/// The control records of a batch that could not be used. Lane 0 writes their dead letters, and
/// needs their bytes for that.
pub fn skipped_controls(lane: u32, facts: &[Fact]) -> impl Iterator<Item = (Topic, i64)> + '_ {
    facts.iter().filter(move |_| lane == 0).filter_map(|fact| match fact {
        Fact::ControlSkipped { topic, offset, .. } => Some((topic.topic(), *offset)),
        Fact::BatchOpened { .. }
        | Fact::PolicySet(_)
        | Fact::FleetSet { .. }
        | Fact::HealthSet { .. }
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
    })
}

/// Whether [`Lane::begin_rerun`] reads the fact: it says what the world chose, or who was served that
/// had waited.
pub fn is_choice(fact: &Fact) -> bool {
    match fact {
        Fact::PolicySet(_)
        | Fact::LanesCounted { .. }
        | Fact::FleetSet { .. }
        | Fact::HealthSet { .. }
        | Fact::ControlSkipped { .. }
        | Fact::DeadLettered { .. }
        | Fact::Routed { task: None, .. }
        | Fact::Refused { new: None, .. } => true,
        Fact::BatchOpened { .. }
        | Fact::Routed { task: Some(_), .. }
        | Fact::Refused { new: Some(_), .. }
        | Fact::Queued { .. }
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
        | Fact::StrategyChanged { .. }
        | Fact::HeadroomTold { .. } => false,
    }
}

impl Lane {
    /// Makes ready to run this batch again, with its facts, as far as [`is_choice`] asks for them, and
    /// the bytes of [`skipped_controls`]. To be followed by [`Lane::offer`] for every record of the batch's
    /// ranges, by [`Lane::offer_reread`] for each offset that is returned, and by
    /// [`Lane::rerun`].
    pub fn begin_rerun(
        &mut self,
        record: &JournalRecord,
        facts: &[Fact],
        skipped: &BTreeMap<(Topic, i64), OwnedRecord>,
    ) -> Vec<i64> {
        let settings = Arc::make_mut(&mut self.settings);
        settings.batch_records_max = usize::MAX;
        // A history that was begun anew goes on where it was told to.
        if self.seq == 0 || record.epoch != self.epoch {
            self.epoch = record.epoch;
            for range in &record.offsets {
                self.start_input_at(&range.topic, range.from);
            }
        }
        self.results_caught_up_at = record.results_caught_up_at_ms;
        self.ready = Ready::default();
        self.wanted.clear();
        self.condemned.clear();
        self.controls.clear();
        self.buried = Some(BTreeSet::new());
        self.set_policy(self.state.policy.clone());
        self.count_lanes(self.state.lanes);
        for fact in facts {
            self.restore_choice(fact, skipped);
        }
        self.rereads(record, facts)
    }

    /// What the facts say about the world at the time.
    fn restore_choice(&mut self, fact: &Fact, skipped: &BTreeMap<(Topic, i64), OwnedRecord>) {
        match fact {
            Fact::PolicySet(policy) => self.set_policy((**policy).clone()),
            Fact::LanesCounted { lanes } => self.count_lanes(*lanes),
            Fact::FleetSet { offset, entry } => {
                let control = Control::Fleet(Ok(entry.clone()));
                self.controls.push_back((placeholder(*offset), control));
            }
            Fact::HealthSet { offset, event } => {
                let control = Control::Health(Ok((**event).clone()));
                self.controls.push_back((placeholder(*offset), control));
            }
            Fact::ControlSkipped { topic, offset, condemned } => {
                let topic = topic.topic();
                if *condemned {
                    self.condemned.insert((topic, *offset));
                }
                let (record, control) = match skipped.get(&(topic, *offset)) {
                    Some(record) => (record.clone(), self.decode_control(topic, record)),
                    // Only lane 0 says why.
                    None if topic == Topic::Fleet => {
                        (placeholder(*offset), Control::Fleet(Err(unsaid(*condemned))))
                    }
                    None => (placeholder(*offset), Control::Health(Err(unsaid(*condemned)))),
                };
                self.controls.push_back((record, control));
            }
            Fact::DeadLettered { topic, offset, condemned } => {
                if *condemned {
                    self.condemned.insert((topic.topic(), *offset));
                }
                if *topic == InputTopic::TaskResults
                    && let Some(buried) = &mut self.buried
                {
                    buried.insert(*offset);
                }
            }
            Fact::BatchOpened { .. }
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
            | Fact::StrategyChanged { .. }
            | Fact::HeadroomTold { .. } => {}
        }
    }

    fn decode_control(&self, topic: Topic, record: &OwnedRecord) -> Control {
        let codec = Arc::clone(&self.settings.codec);
        record.with_raw(topic, |raw| {
            if topic == Topic::Fleet {
                Control::Fleet(self.control(raw, codec.decode_fleet_entry(raw)).map(Box::new))
            } else {
                Control::Health(self.control(raw, codec.decode_health_event(raw)))
            }
        })
    }

    /// The waiting tasks that the batch had at hand and decided, as far as their records were
    /// found; those whose records were gone are noted as such.
    fn rereads(&mut self, record: &JournalRecord, facts: &[Fact]) -> Vec<i64> {
        let (mut found, mut gone) = (Vec::new(), Vec::new());
        if record.reread.is_empty() {
            return found;
        }
        let reread: BTreeSet<i64> = record.reread.iter().copied().collect();
        for fact in facts {
            let (key, is_gone) = match fact {
                Fact::Routed { key, task: None, .. } => (*key, false),
                Fact::Refused { key, new: None, reason, .. } => {
                    (*key, *reason == RefusalReason::TaskExpired)
                }
                Fact::Routed { task: Some(_), .. }
                | Fact::Refused { new: Some(_), .. }
                | Fact::BatchOpened { .. }
                | Fact::PolicySet(_)
                | Fact::FleetSet { .. }
                | Fact::HealthSet { .. }
                | Fact::ControlSkipped { .. }
                | Fact::Queued { .. }
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
                | Fact::DeadLettered { .. } => continue,
            };
            let Some(live) = self.state.tasks.get(&key) else { continue };
            let offset = live.task.offset;
            if !reread.contains(&offset) {
                continue;
            }
            self.wanted.insert(offset, key);
            (if is_gone { &mut gone } else { &mut found }).push(offset);
        }
        for offset in gone {
            self.offer_reread(offset, None);
        }
        found
    }

    /// Goes on as a lane that runs by itself.
    pub fn end_rerun(&mut self) {
        self.buried = None;
    }

    /// Decides the batch with what was offered. `None` where nothing happens, which is never what
    /// was journaled.
    pub fn rerun(&mut self, record: &JournalRecord) -> Option<Prepared> {
        self.prepare(record.batch_time_ms)
    }

    fn start_input_at(&mut self, name: &str, offset: i64) {
        let is = |topic| self.settings.topic_name(topic) == name;
        if is(Topic::Tasks) {
            self.tasks.start_at(offset);
        } else if is(Topic::TaskResults) {
            self.results.start_at(offset);
        } else if is(Topic::LaneInbox) {
            self.inbox.start_at(offset);
        }
    }

    /// The facts of a record, in order.
    ///
    /// # Errors
    /// They cannot be decoded.
    pub fn facts_of(record: &JournalRecord) -> Result<Vec<Fact>, super::FoldError> {
        super::journal::facts_of(record)?.collect()
    }

    /// Queues a control record that comes by value, as a journaled fact holds it, and hears how many
    /// lanes there are; other facts are passed over.
    pub fn offer_control(&mut self, fact: &Fact) {
        match fact {
            Fact::FleetSet { .. } | Fact::HealthSet { .. } | Fact::LanesCounted { .. } => {
                self.restore_choice(fact, &BTreeMap::new());
            }
            Fact::BatchOpened { .. }
            | Fact::PolicySet(_)
            | Fact::ControlSkipped { .. }
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
            | Fact::StrategyChanged { .. }
            | Fact::HeadroomTold { .. }
            | Fact::DeadLettered { .. } => {}
        }
    }
}

/// Of a control record that comes by value, only the place is needed.
fn placeholder(offset: i64) -> OwnedRecord {
    OwnedRecord {
        partition: 0,
        offset,
        timestamp_ms: -1,
        key: None,
        value: None,
        headers: Vec::new(),
    }
}

fn unsaid(condemned: bool) -> Death {
    if condemned {
        return Death::condemned();
    }
    Death { stage: "decode", reason: "skipped", message: String::new() }
}

/// A part of a lane's state that two lanes have otherwise, and how each has it.
type Difference = (String, String, String);

impl Lane {
    /// The first part of the state in which another lane differs; `None` where they are alike. What
    /// is queued for the next batch does not count.
    pub fn differs_from(&self, other: &Lane) -> Option<Difference> {
        differ("epoch", &self.epoch, &other.epoch)
            .or_else(|| differ("seq", &self.seq, &other.seq))
            .or_else(|| differ("hash", &self.hash(), &other.hash()))
            .or_else(|| differ("positions", &self.decided(), &other.decided()))
            .or_else(|| states_differ(&self.state, &other.state))
    }
}

fn differ<T: PartialEq + std::fmt::Debug>(part: &str, one: &T, other: &T) -> Option<Difference> {
    (one != other).then(|| (part.to_owned(), format!("{one:?}"), format!("{other:?}")))
}

fn states_differ(one: &State, other: &State) -> Option<Difference> {
    // Named one by one, so that a new part is not forgotten here.
    let State {
        lane,
        dealt,
        lanes,
        batch_time,
        results_caught_up_at,
        policy,
        fleet,
        health,
        tenants,
        stake,
        learned,
        fleet_position,
        health_position,
        tasks,
        leases,
        backlog,
        given_up,
        failovers,
        recent,
        in_flight,
        load_published_at,
        sharing,
        shares,
        reserved,
        spikes,
        affinity,
    } = one;
    let resources = || {
        let pairs = fleet.iter().zip(other.fleet.iter());
        let differing =
            pairs.map(|((_, one), (_, other))| differ(&format!("resource {}", one.id), one, other));
        differing.flatten().next()
    };
    let held = || {
        let pairs = tasks.iter().zip(other.tasks.iter());
        let differing = pairs.map(|(one, other)| {
            // The shapes of tasks are many, and mostly alike: the differing task is enough.
            (one != other).then(|| differ(&format!("task {}", one.1.task.task_id), &one, &other))
        });
        differing.flatten().flatten().next()
    };
    let whole = |part: &str, is_equal: bool| {
        (!is_equal).then(|| (part.to_owned(), "another".to_owned(), "one".to_owned()))
    };
    differ("lane", &(lane, dealt, lanes), &(&other.lane, &other.dealt, &other.lanes))
        .or_else(|| differ("batch_time", batch_time, &other.batch_time))
        .or_else(|| {
            differ("results_caught_up_at", results_caught_up_at, &other.results_caught_up_at)
        })
        .or_else(|| differ("policy", policy, &other.policy))
        .or_else(|| differ("fleet_position", fleet_position, &other.fleet_position))
        .or_else(|| differ("health_position", health_position, &other.health_position))
        .or_else(|| differ("in_flight", in_flight, &other.in_flight))
        .or_else(|| differ("load_published_at", load_published_at, &other.load_published_at))
        .or_else(|| differ("sharing", sharing, &other.sharing))
        .or_else(|| differ("stake", stake, &other.stake))
        .or_else(|| differ("tasks", &tasks.len(), &other.tasks.len()))
        .or_else(held)
        .or_else(|| differ("resources", &fleet.len(), &other.fleet.len()))
        .or_else(resources)
        .or_else(|| differ("health", health, &other.health))
        .or_else(|| differ("learned", learned, &other.learned))
        .or_else(|| differ("failovers", failovers, &other.failovers))
        .or_else(|| differ("given_up", given_up, &other.given_up))
        .or_else(|| differ("recent ids", &recent.len(), &other.recent.len()))
        .or_else(|| whole("recent ids", *recent == other.recent))
        .or_else(|| whole("leases", *leases == other.leases))
        .or_else(|| whole("backlog", *backlog == other.backlog))
        .or_else(|| whole("affinity", *affinity == other.affinity))
        .or_else(|| whole("tenants", *tenants == other.tenants))
        .or_else(|| whole("fleet", *fleet == other.fleet))
        .or_else(|| whole("shares", *shares == other.shares))
        .or_else(|| differ("reserved", reserved, &other.reserved))
        .or_else(|| whole("spikes", *spikes == other.spikes))
}
