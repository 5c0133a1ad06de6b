//! The same inputs under another fleet or policy, beside what really happened.
//!
//! Closed loop: where a task goes the way that it went, at the time that it did, its recorded
//! results are used. Where its route changes, nobody knows what would have come back: a success
//! after the predicted latency, with the expected output, is modelled in its place, and the share of
//! such attempts is part of the answer.

mod change;
mod tally;

use std::collections::{BTreeMap, BTreeSet};

pub use change::{Change, ChangeError};
pub use tally::{Changed, Comparison, First, Load, Tally, Totals};

use super::Record;
use super::audit::Range;
use super::journal::Batch;
use super::player::{Folded, Played, Player};
use super::source::Source;
use super::start::Start;
use crate::codec::{Codec, RawRecord};
use crate::lane::prepared::{OutputTopic, Prepared};
use crate::lane::{Lane, LaneSettings};
use crate::model::Topic;
use crate::model::decision::{Outcome, RouteDecision};
use crate::model::event::InboxMessage;
use crate::model::journal::JournalRecord;
use crate::model::result::{ResultStatus, TaskResult};
use crate::model::time::Timestamp;
use crate::routing::TaskKey;
use crate::routing::fact::Fact;

/// Waiting tasks that are offered again before each batch: as many as a lane tries.
const REREADS_MAX: usize = 512;
/// Batches that one journaled batch may take under the change: it may make more facts.
const BATCHES_MAX: usize = 64;
/// The share of `max_output_tokens` that a modelled success has: what the router expects itself.
const OUTPUT_SHARE: f64 = 0.25;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum WhatIfError {
    #[error(
        "lane {lane} at seq {seq} was decided by engine version {version}: only its own release can \
         decide it again"
    )]
    Engine { lane: u32, seq: u64, version: u32 },
    #[error("lane {lane} at seq {seq} read {topic} at offset {offset}, which is deleted")]
    Deleted { lane: u32, seq: u64, topic: &'static str, offset: i64 },
    #[error("the state of lane {lane} cannot be copied: {problem}")]
    Copy { lane: u32, problem: String },
    #[error(transparent)]
    Change(#[from] ChangeError),
}

/// Plays one lane twice, and compares. `each` is told every task whose first decision differs.
///
/// # Errors
/// The source cannot be read, or the lane cannot be decided again as it was.
pub fn compare_lane(
    source: &mut dyn Source,
    settings: &LaneSettings,
    lane: u32,
    range: Range,
    change: &Change,
    tally: &mut Tally<'_>,
    progress: &mut dyn FnMut(&JournalRecord),
) -> anyhow::Result<()> {
    let Start { mut player, mut journal, .. } = range.start(source, settings, lane)?;
    player.keeps_results = true;
    let mut other: Option<Other> = None;
    while let Some(batch) = journal.next_batch()? {
        if batch.record.batch_time_ms >= range.until {
            break;
        }
        let inside = batch.record.batch_time_ms >= range.since;
        if inside && other.is_none() {
            other = Some(Other::begin(&player, settings, &batch, change)?);
        }
        let played = player.play(source, &batch, inside)?;
        progress(&batch.record);
        let Some(other) = &mut other else { continue };
        let baseline = match played {
            Played::Ran(Some(prepared)) => prepared,
            // It differs from the journal, which is the audit's to say.
            Played::Ran(None) => continue,
            Played::Folded(why) => return Err(not_played(&batch.record, &why).into()),
        };
        for found in player.tasks_of(source, &batch.record)? {
            tally.arrived(&found.task.task_id, found.at);
        }
        let at = batch.record.batch_time_ms;
        let mut went = Vec::new();
        for decision in decisions(&settings.codec, &baseline) {
            let decision = decision?;
            other.baseline_decided(&decision, at);
            tally.baseline(&decision);
            went.push(way_of(&decision));
        }
        if other.diverged {
            other.step(source, &player, &batch, change, tally)?;
        } else {
            other.step_alike(source, &player, &batch, &went, change, tally)?;
        }
    }
    Ok(())
}

fn not_played(record: &JournalRecord, why: &Folded) -> WhatIfError {
    let JournalRecord { lane, seq, .. } = *record;
    match why {
        Folded::Engine(version) => WhatIfError::Engine { lane, seq, version: *version },
        Folded::Deleted { topic, offset } => {
            WhatIfError::Deleted { lane, seq, topic: topic.default_name(), offset: *offset }
        }
        Folded::Earlier => WhatIfError::Copy { lane, problem: "it was not played".to_owned() },
    }
}

/// The decisions of a batch.
fn decisions<'a>(
    codec: &'a Codec,
    prepared: &'a Prepared,
) -> impl Iterator<Item = anyhow::Result<RouteDecision<'static>>> + 'a {
    let is_decision = |topic: &OutputTopic| match topic {
        OutputTopic::Known(topic) => *topic == Topic::RouteDecisions,
        OutputTopic::Pool(_) => true,
    };
    let outputs = prepared.records.iter().filter(move |output| is_decision(&output.topic));
    outputs.map(|output| {
        let raw = RawRecord {
            topic: Topic::RouteDecisions,
            partition: output.partition,
            offset: 0,
            timestamp_ms: output.timestamp_ms,
            key: None,
            value: output.value.as_ref().map(|value| prepared.slice(value)),
            headers: &[],
        };
        Ok(codec.decode_route_decision(&raw)?)
    })
}

/// What was decided about a task: its id, stage and attempt, and where it goes.
type Way = (String, u32, u32, Option<String>);

fn way_of(decision: &RouteDecision<'_>) -> Way {
    let to = resource_of(decision).map(str::to_owned);
    (decision.task_id.to_string(), decision.stage, decision.attempt, to)
}

/// An attempt, by its task, stage and number.
type AttemptKey = (TaskKey, u32, u32);

/// The lane under the change.
struct Other {
    lane: Lane,
    codec: std::sync::Arc<Codec>,
    /// Where the baseline's attempts went, and when.
    baseline: BTreeMap<AttemptKey, (String, Timestamp)>,
    /// Attempts here whose results are the recorded ones.
    real: BTreeSet<AttemptKey>,
    /// Modelled results by the time at which they come.
    modelled: BTreeMap<(Timestamp, u64), TaskResult>,
    modelled_count: u64,
    next_result: i64,
    begun: bool,
    /// Whether anything was decided otherwise. Until then the lane is run as the baseline is, so
    /// that a change without consequences has none.
    diverged: bool,
}

impl Other {
    /// Begins with the state that the lane had before this batch.
    fn begin(
        player: &Player,
        settings: &LaneSettings,
        batch: &Batch,
        change: &Change,
    ) -> anyhow::Result<Self> {
        let number = batch.record.lane;
        let mut settings = settings.clone();
        settings.batch_records_max = usize::MAX;
        let lane = match player.lane() {
            Some(lane) => {
                let copied = |problem: String| WhatIfError::Copy { lane: number, problem };
                let bytes = lane.snapshot().map_err(|error| copied(error.to_string()))?;
                settings.policy = change.policy(&lane.state().policy)?;
                Lane::restore(number, &bytes, settings.clone())
                    .map_err(|error| copied(error.to_string()))?
            }
            None => {
                settings.policy = change.policy(&settings.policy)?;
                let codec = settings.clone();
                let mut lane = Lane::genesis(number, batch.record.lanes, batch.record.epoch, codec);
                lane.start_at(0, 0, 0);
                lane
            }
        };
        let mut real = BTreeSet::new();
        let mut baseline = BTreeMap::new();
        for (key, live) in lane.state().tasks.iter() {
            if let crate::routing::state::Phase::InFlight { resource, reserved_at, .. } = live.phase
            {
                real.insert((*key, live.task.stage, live.attempt));
                let id = lane.state().fleet.at(resource).id.to_string();
                baseline.insert((*key, live.task.stage, live.attempt), (id, reserved_at));
            }
        }
        let next_result = lane.positions().task_results.unwrap_or(0);
        Ok(Other {
            lane,
            codec: settings.codec,
            baseline,
            real,
            modelled: BTreeMap::new(),
            modelled_count: 0,
            next_result,
            begun: false,
            diverged: false,
        })
    }

    fn baseline_decided(&mut self, decision: &RouteDecision<'_>, at: Timestamp) {
        if let Some(resource) = resource_of(decision) {
            let key = (TaskKey::of(&decision.task_id), decision.stage, decision.attempt);
            self.baseline.insert(key, (resource.to_owned(), at));
        }
    }

    /// Runs the batch with exactly what it had, tasks at hand included.
    fn step_alike(
        &mut self,
        source: &mut dyn Source,
        player: &Player,
        batch: &Batch,
        went: &[Way],
        change: &Change,
        tally: &mut Tally<'_>,
    ) -> anyhow::Result<()> {
        let record = &batch.record;
        let mut facts = Vec::new();
        if !std::mem::replace(&mut self.begun, true) {
            facts.extend(change.first(self.lane.state())?);
        }
        let mut policy = change.policy(&self.lane.state().policy)?;
        for fact in batch.facts()? {
            match (fact, change.control(fact)?) {
                (Fact::PolicySet(recorded), _) => policy = change.policy(recorded)?,
                (_, Some(control)) => facts.push(control),
                (Fact::FleetSet { .. } | Fact::HealthSet { .. }, None) => {}
                (other, None) => facts.push(other.clone()),
            }
        }
        let rereads = self.lane.begin_rerun(record, &facts, &BTreeMap::new());
        self.lane.set_policy(policy);
        for offset in rereads {
            self.reread(source, player, offset)?;
        }
        for (topic, taken) in player.results() {
            taken.with_raw(*topic, |raw| self.lane.offer(raw));
        }
        for taken in player.task_records(record) {
            taken.with_raw(Topic::Tasks, |raw| self.lane.offer(raw));
        }
        let goes = self.decide(record.batch_time_ms, tally)?;
        if goes != went {
            self.diverged = true;
            self.lane.end_rerun();
            self.next_result = self.lane.positions().task_results.unwrap_or(0);
        }
        Ok(())
    }

    fn reread(
        &mut self,
        source: &mut dyn Source,
        player: &Player,
        offset: i64,
    ) -> anyhow::Result<()> {
        let found = player.task_at(source, offset)?;
        let lane = &mut self.lane;
        match found {
            Some(found) => {
                found.with_raw(Topic::Tasks, |raw| lane.offer_reread(offset, Some(raw)));
            }
            None => lane.offer_reread(offset, None),
        }
        Ok(())
    }

    /// Decides what is queued; the ways of the tasks in order.
    fn decide(&mut self, at: Timestamp, tally: &mut Tally<'_>) -> anyhow::Result<Vec<Way>> {
        let mut ways = Vec::new();
        for _ in 0..BATCHES_MAX {
            let Some(prepared) = self.lane.prepare(at) else { break };
            let codec = std::sync::Arc::clone(&self.codec);
            for decision in decisions(&codec, &prepared) {
                let decision = decision?;
                let modelled = self.decided(&decision, at);
                tally.other(&decision, modelled);
                ways.push(way_of(&decision));
            }
            if self.lane.queued() == 0 {
                break;
            }
        }
        Ok(ways)
    }

    fn step(
        &mut self,
        source: &mut dyn Source,
        player: &Player,
        batch: &Batch,
        change: &Change,
        tally: &mut Tally<'_>,
    ) -> anyhow::Result<()> {
        let at = batch.record.batch_time_ms;
        self.controls(batch, change)?;
        self.lane.results_caught_up(batch.record.results_caught_up_at_ms);
        self.results(player.results());
        while let Some(entry) = self.modelled.first_entry()
            && entry.key().0 <= at
        {
            let result = entry.remove();
            self.offer_result(&result, at);
        }
        for offset in self.lane.wants(REREADS_MAX) {
            self.reread(source, player, offset)?;
        }
        for taken in player.task_records(&batch.record) {
            taken.with_raw(Topic::Tasks, |raw| self.lane.offer(raw));
        }
        self.decide(at, tally).map(drop)
    }

    fn controls(&mut self, batch: &Batch, change: &Change) -> anyhow::Result<()> {
        for fact in batch.facts()? {
            if let Fact::PolicySet(policy) = fact {
                self.lane.set_policy(change.policy(policy)?);
            } else if let Some(fact) = change.control(fact)? {
                self.lane.offer_control(&fact);
            }
        }
        Ok(())
    }

    /// Recorded results of attempts that went the same way; the others never happened here.
    fn results(&mut self, records: &[(Topic, Record)]) {
        for (topic, record) in records {
            let codec = std::sync::Arc::clone(&self.codec);
            let decoded = record.with_raw(*topic, |raw| {
                if *topic == Topic::LaneInbox {
                    return codec.decode_lane_inbox(raw).ok().and_then(InboxMessage::into_result);
                }
                codec.decode_task_result(raw).ok()
            });
            let Some(result) = decoded else { continue };
            let key = (TaskKey::of(&result.task_id), result.stage, result.attempt);
            if result.attempt > 0 && !self.real.contains(&key) {
                continue;
            }
            let at = Timestamp::from_ms(record.timestamp_ms);
            self.offer_result(&result, at);
            if is_last(result.status) {
                self.real.remove(&key);
                self.baseline.remove(&key);
            }
        }
    }

    fn offer_result(&mut self, result: &TaskResult, at: Timestamp) {
        let mut value = Vec::new();
        self.codec.encode_task_result(result, &mut value);
        self.lane.offer(&RawRecord {
            topic: Topic::TaskResults,
            partition: 0,
            offset: self.next_result,
            timestamp_ms: at.as_ms(),
            key: None,
            value: Some(&value),
            headers: &[],
        });
        self.next_result += 1;
    }

    /// Notes a decision; whether its result has to be modelled.
    fn decided(&mut self, decision: &RouteDecision<'_>, at: Timestamp) -> bool {
        let Some(resource) = resource_of(decision) else { return false };
        let key = (TaskKey::of(&decision.task_id), decision.stage, decision.attempt);
        let same =
            self.baseline.get(&key).is_some_and(|(went, when)| went == resource && *when == at);
        if same {
            self.real.insert(key);
            return false;
        }
        let latency_ms = decision.metrics.map_or(0.0, |metrics| metrics.latency_ms);
        let state = self.lane.state();
        let resource_index = state.fleet.index_of(resource);
        let queueing_ms =
            resource_index.map_or(0.0, |index| state.learned.speed(index).queueing_ms());
        let result = TaskResult {
            task_id: decision.task_id.to_string(),
            attempt: decision.attempt,
            stage: decision.stage,
            resource: resource.to_owned(),
            lane: None,
            status: ResultStatus::Succeeded,
            input_tokens: Some(decision.input_tokens),
            output_tokens: Some((f64::from(decision.max_output_tokens) * OUTPUT_SHARE) as u32),
            time_to_first_token_ms: None,
            duration_ms: Some((latency_ms - queueing_ms).max(0.0)),
            quality: None,
            retry_after_ms: None,
            error: None,
            rate_limits: Vec::new(),
        };
        self.modelled_count += 1;
        self.modelled.insert((at.plus_ms(latency_ms as u64), self.modelled_count), result);
        true
    }
}

/// Where a decision sends its task.
fn resource_of<'a>(decision: &'a RouteDecision<'_>) -> Option<&'a str> {
    match decision.outcome {
        Outcome::Routed => decision.primary.first().map(|link| &*link.resource),
        Outcome::Refused => None,
    }
}

fn is_last(status: ResultStatus) -> bool {
    match status {
        ResultStatus::Started | ResultStatus::Heartbeat => false,
        ResultStatus::Succeeded
        | ResultStatus::Failed
        | ResultStatus::RateLimited
        | ResultStatus::Late
        | ResultStatus::Cancelled => true,
    }
}
