//! Where in a journal something is: a batch by its seq, a task by its id or that of a decision.

use std::cmp::Ordering;

use memchr::memmem::Finder;

use super::journal::Batch;

use super::player::Played;
use super::published::parse_id;
use super::snapshots::Limit;
use super::source::{Peeked, Source};
use super::start::{Start, start};
use crate::codec::RawRecord;
use crate::lane::LaneSettings;
use crate::lane::prepared::{OutputTopic, Prepared};
use crate::model::Topic;
use crate::model::journal::JournalRecord;
use crate::model::time::Timestamp;
use crate::routing::TaskKey;
use crate::routing::fact::Fact;

/// Where a task's story is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub lane: u32,
    pub task_id: String,
    /// The batch that names it first, and its time.
    pub seq: u64,
    pub batch_time: Timestamp,
}

/// The journal record with this seq: records are in the order of their seqs, so by bisection.
///
/// # Errors
/// The source cannot be read.
pub fn find_batch(
    source: &mut dyn Source,
    settings: &LaneSettings,
    lane: u32,
    seq: u64,
) -> anyhow::Result<Option<Batch>> {
    bisect(source, settings, lane, |record| record.seq.cmp(&seq))
}

/// The batch that the order calls equal.
fn bisect(
    source: &mut dyn Source,
    settings: &LaneSettings,
    lane: u32,
    order: impl Fn(&JournalRecord) -> Ordering,
) -> anyhow::Result<Option<Batch>> {
    let partition = i32::try_from(lane)?;
    let bounds = source.bounds(Topic::Journal, partition)?;
    let (mut low, mut high) = (bounds.start, bounds.end);
    while low < high {
        let middle = low + (high - low) / 2;
        // Markers of transactions take offsets too, so the next record there is.
        let Some(found) = source.next_from(Topic::Journal, partition, middle)? else {
            high = middle;
            continue;
        };
        let batch = Batch::read(settings, lane, found)?;
        match order(&batch.record) {
            Ordering::Equal => return Ok(Some(batch)),
            Ordering::Less => low = batch.offset + 1,
            Ordering::Greater => high = middle,
        }
    }
    Ok(None)
}

/// The batch that took this record of `tasks`.
fn find_taking(
    source: &mut dyn Source,
    settings: &LaneSettings,
    lane: u32,
    offset: i64,
) -> anyhow::Result<Option<Batch>> {
    let name = settings.topic_names.get(&Topic::Tasks);
    let name = name.map_or(Topic::Tasks.default_name(), String::as_str);
    bisect(source, settings, lane, |record| {
        match record.offsets.iter().find(|range| range.topic == name) {
            Some(range) if range.from > offset => Ordering::Greater,
            Some(range) if range.to > offset => Ordering::Equal,
            Some(_) | None => Ordering::Less,
        }
    })
}

/// The task of a decision `lane-epoch-seq-index`.
///
/// # Errors
/// The source cannot be read; what is needed of it is deleted.
pub fn find_decision(
    source: &mut dyn Source,
    settings: &LaneSettings,
    id: &str,
) -> anyhow::Result<Option<Place>> {
    let Some((lane, (epoch, seq, _))) = parse_id(id) else { return Ok(None) };
    if lane >= source.lanes() {
        return Ok(None);
    }
    let Some(batch) = find_batch(source, settings, lane, seq)? else { return Ok(None) };
    if batch.record.epoch != epoch {
        return Ok(None);
    }
    let published = published_task(source, settings, &batch.record, id)?;
    let task_id = match published {
        Some(task_id) => task_id,
        // Not in a topic that is read here: the batch says it when it is run again.
        None => match decided_task(source, settings, &batch, id)? {
            Some(task_id) => task_id,
            None => return Ok(None),
        },
    };
    first_named(source, settings, batch, task_id).map(Some)
}

fn published_task(
    source: &mut dyn Source,
    settings: &LaneSettings,
    record: &JournalRecord,
    id: &str,
) -> anyhow::Result<Option<String>> {
    let (topic, partition) = (Topic::RouteDecisions, i32::try_from(record.lane)?);
    if settings.decisions_by_pool || source.bounds(topic, partition)?.is_empty() {
        return Ok(None);
    }
    let from = source.offset_at(topic, partition, record.batch_time_ms)?;
    let mut published = Peeked::new(source.open(topic, partition, from)?);
    while let Some(found) = published.take()? {
        if found.timestamp_ms > record.batch_time_ms.as_ms() {
            break;
        }
        let decided = found.with_raw(topic, |raw| decision_of(settings, raw));
        if let Some((found, task_id)) = decided
            && found == id
        {
            return Ok(Some(task_id));
        }
    }
    Ok(None)
}

fn decided_task(
    source: &mut dyn Source,
    settings: &LaneSettings,
    batch: &Batch,
    id: &str,
) -> anyhow::Result<Option<String>> {
    let Start { mut player, mut journal, .. } = start_before(source, settings, &batch.record)?;
    while let Some(next) = journal.next_batch()? {
        let is_it = next.record.seq == batch.record.seq;
        let played = player.play(source, &next, is_it)?;
        if let Played::Ran(Some(prepared)) = played {
            let decisions = decisions_of(settings, &prepared);
            return Ok(decisions.into_iter().find(|(found, _)| found == id).map(|(_, id)| id));
        }
        if is_it {
            break;
        }
    }
    Ok(None)
}

/// Begins where the state before a batch can be had.
pub fn start_before(
    source: &mut dyn Source,
    settings: &LaneSettings,
    record: &JournalRecord,
) -> anyhow::Result<Start> {
    let before = record.batch_time_ms.plus_ms(1);
    let limit = Limit { seq_max: record.seq.saturating_sub(1), before };
    start(source, settings, record.lane, limit)
}

/// Looks through a lane's journal for the first batch from `since` on that names a task, and for
/// the one before that where it was admitted earlier.
///
/// # Errors
/// The source cannot be read; what is needed of it is deleted.
pub fn find_task(
    source: &mut dyn Source,
    settings: &LaneSettings,
    lane: u32,
    task_id: &str,
    since: Timestamp,
    progress: &mut dyn FnMut(),
) -> anyhow::Result<Option<Place>> {
    let partition = i32::try_from(lane)?;
    let from = if since == Timestamp::EPOCH {
        source.bounds(Topic::Journal, partition)?.start
    } else {
        source.offset_at(Topic::Journal, partition, since)?
    };
    let key = TaskKey::of(task_id);
    let finder = Finder::new(&key.0);
    let mut cursor = source.open(Topic::Journal, partition, from)?;
    while let Some(entry) = cursor.next()? {
        progress();
        // The key stands in the bytes as it is: nothing needs decoding to see that it does not.
        if entry.value.as_deref().is_none_or(|value| finder.find(value).is_none()) {
            continue;
        }
        let batch = Batch::read(settings, lane, entry)?;
        if batch.facts()?.iter().any(|fact| key_of(fact) == Some(key)) {
            return first_named(source, settings, batch, task_id.to_owned()).map(Some);
        }
    }
    Ok(None)
}

/// Goes back from a batch that names a task to the one that admitted it.
fn first_named(
    source: &mut dyn Source,
    settings: &LaneSettings,
    batch: Batch,
    task_id: String,
) -> anyhow::Result<Place> {
    let key = TaskKey::of(&task_id);
    let lane = batch.record.lane;
    let place = |batch: &Batch, task_id: String| Place {
        lane,
        task_id,
        seq: batch.record.seq,
        batch_time: batch.record.batch_time_ms,
    };
    let first = batch.facts()?.iter().find(|fact| key_of(fact) == Some(key));
    if first.is_none_or(admits) {
        return Ok(place(&batch, task_id));
    }
    // The state knows which record the task came with, and the journal which batch took that.
    let Start { mut player, mut journal, .. } = start_before(source, settings, &batch.record)?;
    while let Some(next) = journal.next_batch()?
        && next.record.seq < batch.record.seq
    {
        player.play(source, &next, false)?;
    }
    let held = player.lane().and_then(|lane| lane.state().tasks.get(&key));
    let Some(offset) = held.map(|live| live.task.offset) else { return Ok(place(&batch, task_id)) };
    if let Some(earlier) = find_taking(source, settings, lane, offset)?
        && earlier.record.seq < batch.record.seq
        && earlier.facts()?.iter().any(|fact| key_of(fact) == Some(key))
    {
        return Ok(place(&earlier, task_id));
    }
    Ok(place(&batch, task_id))
}

/// Whether a task's story begins with this fact.
fn admits(fact: &Fact) -> bool {
    match fact {
        Fact::Routed { task, .. } => task.is_some(),
        Fact::Refused { new, .. } => new.is_some(),
        Fact::Queued { .. } | Fact::Duplicate { .. } => true,
        Fact::AttemptEnded { .. }
        | Fact::LeaseExtended { .. }
        | Fact::AttemptSlow { .. }
        | Fact::BatchOpened { .. }
        | Fact::PolicySet(_)
        | Fact::FleetSet { .. }
        | Fact::HealthSet { .. }
        | Fact::ControlSkipped { .. }
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
        | Fact::DeadLettered { .. } => false,
    }
}

/// The task that a fact is about.
pub fn key_of(fact: &Fact) -> Option<TaskKey> {
    match fact {
        Fact::Routed { key, .. }
        | Fact::Queued { key, .. }
        | Fact::Refused { key, .. }
        | Fact::Duplicate { key }
        | Fact::AttemptEnded { key, .. }
        | Fact::LeaseExtended { key, .. }
        | Fact::AttemptSlow { key, .. } => Some(*key),
        Fact::BatchOpened { .. }
        | Fact::PolicySet(_)
        | Fact::FleetSet { .. }
        | Fact::HealthSet { .. }
        | Fact::ControlSkipped { .. }
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

fn decision_of(settings: &LaneSettings, raw: &RawRecord<'_>) -> Option<(String, String)> {
    let decision = settings.codec.decode_route_decision(raw).ok()?;
    Some((decision.decision_id.into_owned(), decision.task_id.into_owned()))
}

/// Ids of the decisions of a batch and of their tasks.
pub fn decisions_of(settings: &LaneSettings, prepared: &Prepared) -> Vec<(String, String)> {
    let is_decision = |topic: &OutputTopic| match topic {
        OutputTopic::Known(topic) => *topic == Topic::RouteDecisions,
        OutputTopic::Pool(_) => true,
    };
    let outputs = prepared.records.iter().filter(|output| is_decision(&output.topic));
    let decoded = outputs.filter_map(|output| {
        decision_of(
            settings,
            &RawRecord {
                topic: Topic::RouteDecisions,
                partition: output.partition,
                offset: 0,
                timestamp_ms: output.timestamp_ms,
                key: None,
                value: output.value.as_ref().map(|value| prepared.slice(value)),
                headers: &[],
            },
        )
    });
    decoded.collect()
}
