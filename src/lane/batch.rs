//! One batch in the making: facts are applied and recorded, outputs rendered, inputs counted.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::journal::{JournalRecord, OffsetRange};
use crate::model::reason::RefusalReason;
use crate::model::rights::Advice;
use crate::model::time::Timestamp;
use crate::model::{Topic, task::Task};
use crate::routing::fact::{
    AttemptEnd, ENGINE_VERSION, FACT_LEVEL, Fact, InputTopic, ResourceIndex, Taken,
};
use crate::routing::state::State;

use super::LaneSettings;
use super::intake::{Death, OwnedRecord};
use super::journal::{ChainHash, chain};
use super::outputs::{Origin, Outputs, Room};
use super::prepared::{BatchCounts, OutputTopic, Prepared};
use super::render::{Renderer, Source};
use super::sampler::Sampler;

/// Facts of one batch, in bytes of the journal: keeps a journal record below Kafka's usual limit
/// of a record, 1 MiB.
pub const FACT_BYTES_MAX: usize = 512 << 10;
/// Outputs of one batch. A batch of large payloads is cut here rather than at its number.
pub const OUTPUT_BYTES_MAX: usize = 8 << 20;

/// Advice that one batch considers: 200 KiB or so of facts and outputs.
const ADVICE_MAX: usize = 256;

pub struct Batch<'a> {
    settings: &'a LaneSettings,
    origin: Origin,
    outputs: Outputs,
    facts: Vec<u8>,
    fact_count: u32,
    /// Digests of the inputs, in the order of their decision.
    inputs: Vec<u8>,
    reread: Vec<i64>,
    counts: BatchCounts,
    /// By resource: first attempts, later ones.
    selections: BTreeMap<ResourceIndex, (u64, u64)>,
    advice: Vec<Advice>,
    pub sampler: Sampler,
}

/// What a batch read of its inputs.
pub struct Read {
    pub offsets: Vec<OffsetRange>,
    pub next_offsets: Vec<(Topic, i64)>,
}

impl<'a> Batch<'a> {
    pub fn new(settings: &'a LaneSettings, origin: Origin, room: Room, sampler: Sampler) -> Self {
        let outputs = Outputs::new(origin.clone(), &settings.source, &settings.codec, room);
        Batch {
            settings,
            origin,
            outputs,
            facts: Vec::with_capacity(room.facts),
            fact_count: 0,
            inputs: Vec::new(),
            reread: Vec::new(),
            counts: BatchCounts::default(),
            selections: BTreeMap::new(),
            advice: Vec::new(),
            sampler,
        }
    }

    /// Advice that came: considered at the end of the batch. What is too much for one batch will be
    /// advised again.
    pub fn advised(&mut self, advice: Advice) {
        if self.advice.len() < ADVICE_MAX {
            self.advice.push(advice);
        } else {
            self.advice_ignored();
        }
    }

    pub fn has_advice(&self) -> bool {
        !self.advice.is_empty()
    }

    pub fn take_advice(&mut self) -> Vec<Advice> {
        std::mem::take(&mut self.advice)
    }

    pub fn advice_ignored(&mut self) {
        self.counts.advice_ignored += 1;
    }

    pub fn is_full(&self) -> bool {
        self.facts.len() >= FACT_BYTES_MAX || self.outputs.bytes.len() >= OUTPUT_BYTES_MAX
    }

    /// Whether nothing happened beyond the opening of the batch.
    pub fn is_empty(&self) -> bool {
        self.fact_count <= 1 && self.inputs.is_empty()
    }

    pub fn input(&mut self, digest: u64) {
        self.inputs.extend_from_slice(&digest.to_be_bytes());
    }

    pub fn task_seen(&mut self, timestamp: Timestamp) {
        self.counts.tasks += 1;
        let wait_ms = self.origin.at.ms_since(timestamp);
        self.counts.wait_ms.push(u32::try_from(wait_ms).unwrap_or(u32::MAX));
    }

    pub fn result_seen(&mut self) {
        self.counts.results += 1;
    }

    pub fn reread(&mut self, offset: i64) {
        self.reread.push(offset);
    }

    /// Renders a fact's outputs, records it and folds it into the state.
    pub fn apply(&mut self, state: &mut State, fact: Fact, source: Source<'_>) {
        Renderer {
            codec: &self.settings.codec,
            decisions_by_pool: self.settings.decisions_by_pool,
            outputs: &mut self.outputs,
        }
        .render(state, &fact, source);
        self.count(&fact);
        self.sampler.see(state, &fact, source.task);
        self.record(&fact);
        state.evolve(&fact);
    }

    fn record(&mut self, fact: &Fact) {
        self.fact_count += 1;
        if self.settings.unjournaled {
            return;
        }
        let facts = std::mem::take(&mut self.facts);
        // Facts hold nothing that postcard refuses, and a vector takes every byte: a failure here
        // is a fault of this program, which the worker catches and recovers the lane from.
        match postcard::to_extend(fact, facts) {
            Ok(facts) => self.facts = facts,
            Err(error) => unreachable!("a fact that cannot be encoded: {error}"),
        }
    }

    /// A task's outcome that is decided without its record.
    pub fn apply_task(
        &mut self,
        state: &mut State,
        fact: Fact,
        task: &Task,
        traceparent: Option<&[u8]>,
    ) {
        self.apply(state, fact, Source { task: Some(task), traceparent });
    }

    /// Puts a lane input's record into its dead letters.
    pub fn bury(
        &mut self,
        state: &mut State,
        input: InputTopic,
        record: &OwnedRecord,
        death: &Death,
    ) {
        self.bury_record(input.topic(), record, death);
        let condemned = death.is_condemned();
        let fact = Fact::DeadLettered { topic: input, offset: record.offset, condemned };
        self.apply(state, fact, Source::default());
    }

    pub fn bury_record(&mut self, input: Topic, record: &OwnedRecord, death: &Death) {
        let name = self.settings.topic_name(input);
        self.outputs.dead_letter(input, name, &self.settings.group, record, death);
        self.counts.dead_letters.push((input, death.stage, death.reason));
    }

    /// Sends a result on to the lane that it belongs to.
    pub fn forward(&mut self, message: &crate::model::event::InboxMessage) {
        let codec = &self.settings.codec;
        let topic = Topic::LaneInbox;
        let key = message.to_lane.to_string();
        let to = OutputTopic::Known(topic);
        self.outputs.event(topic, to, message.to_lane, &key, None, |out| {
            codec.encode_lane_inbox(message, out);
        });
    }

    fn count(&mut self, fact: &Fact) {
        let counts = &mut self.counts;
        match fact {
            Fact::Routed { attempt, reservation, .. } => {
                counts.routed += 1;
                let (first, later) = self.selections.entry(reservation.resource).or_default();
                *(if *attempt == 1 { first } else { later }) += 1;
            }
            Fact::Queued { .. } => counts.queued += 1,
            Fact::Duplicate { .. } => counts.duplicates += 1,
            Fact::Refused { reason, .. } => count_reason(&mut counts.refused, *reason),
            Fact::AttemptEnded { end, .. } => match end {
                AttemptEnd::FailedOver => counts.failed_over += 1,
                AttemptEnd::LeaseExpired => counts.leases_expired += 1,
                AttemptEnd::Succeeded
                | AttemptEnd::Failed
                | AttemptEnd::RateLimited
                | AttemptEnd::Late
                | AttemptEnd::Cancelled => {}
            },
            Fact::BatchOpened { .. }
            | Fact::PolicySet(_)
            | Fact::FleetSet { .. }
            | Fact::HealthSet { .. }
            | Fact::ControlSkipped { .. }
            | Fact::LeaseExtended { .. }
            | Fact::AttemptSlow { .. }
            | Fact::BreakerTold { .. }
            | Fact::FailoverEnded { .. }
            | Fact::LoadPublished { .. }
            | Fact::StrategyChanged { .. }
            | Fact::RoomKept { .. }
            | Fact::LanesCounted { .. }
            | Fact::DeadLettered { .. } => {}
            Fact::HeadroomTold { .. } => counts.headroom_told += 1,
            Fact::RightsPledged { .. } => counts.rights_pledged += 1,
            Fact::RightsGiven { .. } => counts.rights_given += 1,
            Fact::RightsTaken { how, .. } => match how {
                Taken::Held | Taken::Kept => counts.rights_taken += 1,
                Taken::Void => counts.rights_void += 1,
            },
        }
    }

    /// Closes the batch: the journal record with its hash, and everything as immutable bytes.
    pub fn close(mut self, state: &State, previous: ChainHash, read: Read) -> Closed {
        let Read { offsets, next_offsets } = read;
        let mut journal = JournalRecord {
            lane: state.lane,
            lanes: state.dealt,
            epoch: self.origin.epoch,
            seq: self.origin.seq,
            prev_hash: previous.to_hex(),
            engine_version: ENGINE_VERSION,
            fact_level: FACT_LEVEL,
            batch_time_ms: self.origin.at,
            seed: previous.seed(),
            offsets,
            reread: std::mem::take(&mut self.reread),
            results_caught_up_at_ms: state.results_caught_up_at,
            fact_count: self.fact_count,
            facts: Vec::new(),
            in_flight: state.in_flight,
            backlog: state.backlog.len() as u64,
            hash: String::new(),
        };
        let unjournaled = self.settings.unjournaled;
        let hash = if unjournaled {
            previous
        } else {
            chain(previous, &journal, &self.inputs, &self.facts, &self.outputs.bytes)
        };
        self.counts.facts = u64::from(self.fact_count);
        self.counts.fact_bytes = self.facts.len() as u64;
        self.counts.selections = self
            .selections
            .iter()
            .map(|(index, (first, later))| (Arc::clone(&state.fleet.at(*index).id), *first, *later))
            .collect();
        journal.facts = std::mem::take(&mut self.facts);
        journal.hash = hash.to_hex();
        let codec = &self.settings.codec;
        let lane = state.lane;
        if !unjournaled {
            self.outputs.event(
                Topic::Journal,
                OutputTopic::Known(Topic::Journal),
                lane,
                &lane.to_string(),
                None,
                |out| codec.encode_journal(&journal, out),
            );
        }
        let room = Room { facts: journal.facts.len(), ..self.outputs.room() };
        let prepared = Prepared {
            lane,
            seq: journal.seq,
            metadata: metadata(journal.epoch, journal.seq, &journal.hash, journal.lanes),
            hash: journal.hash,
            offsets: next_offsets,
            records: self.outputs.records,
            headers: self.outputs.headers,
            shared_headers: self.outputs.shared_headers,
            bytes: self.outputs.bytes,
            counts: self.counts,
            samples: self.sampler.take(),
        };
        Closed { prepared, hash, room: room.with_reserve(), sampler: self.sampler }
    }
}

pub struct Closed {
    pub prepared: Prepared,
    pub hash: ChainHash,
    /// For the next batch.
    pub room: Room,
    pub sampler: Sampler,
}

/// What is committed with the offsets; [`Prepared::announce`] fills in the two zeros.
pub fn metadata(epoch: u32, seq: u64, hash: &str, dealt: u32) -> String {
    format!("v1;{epoch};{seq};{hash};0;0;{dealt}")
}

fn count_reason(counts: &mut Vec<(RefusalReason, u64)>, reason: RefusalReason) {
    match counts.iter_mut().find(|(known, _)| *known == reason) {
        Some((_, count)) => *count += 1,
        None => counts.push((reason, 1)),
    }
}
