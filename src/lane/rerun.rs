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
        | Fact::BreakerTold { .. }
        | Fact::FailoverEnded { .. }
        | Fact::LoadPublished
        | Fact::DeadLettered { .. } => None,
    })
}

impl Lane {
    /// Makes ready to run this batch again, with its facts and the bytes of
    /// [`skipped_controls`]. To be followed by [`Lane::offer`] for every record of the batch's
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
        for fact in facts {
            self.restore_choice(fact, skipped);
        }
        self.rereads(record, facts)
    }

    /// What the facts say about the world at the time.
    fn restore_choice(&mut self, fact: &Fact, skipped: &BTreeMap<(Topic, i64), OwnedRecord>) {
        match fact {
            Fact::PolicySet(policy) => self.set_policy((**policy).clone()),
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
            | Fact::BreakerTold { .. }
            | Fact::FailoverEnded { .. }
            | Fact::LoadPublished => {}
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
                Fact::Refused { key, known: true, reason, .. } => {
                    (*key, *reason == RefusalReason::TaskExpired)
                }
                Fact::Routed { task: Some(_), .. }
                | Fact::Refused { known: false, .. }
                | Fact::BatchOpened { .. }
                | Fact::PolicySet(_)
                | Fact::FleetSet { .. }
                | Fact::HealthSet { .. }
                | Fact::ControlSkipped { .. }
                | Fact::Queued { .. }
                | Fact::Duplicate { .. }
                | Fact::AttemptEnded { .. }
                | Fact::LeaseExtended { .. }
                | Fact::BreakerTold { .. }
                | Fact::FailoverEnded { .. }
                | Fact::LoadPublished
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

    /// Queues a control record that comes by value, as a journaled fact holds it; other facts are
    /// passed over.
    pub fn offer_control(&mut self, fact: &Fact) {
        match fact {
            Fact::FleetSet { .. } | Fact::HealthSet { .. } => {
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
            | Fact::BreakerTold { .. }
            | Fact::FailoverEnded { .. }
            | Fact::LoadPublished
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
