//! The story of one task, told from the journal: what was decided about it and why, each batch of
//! it run again so that the telling is the truth.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Value, json};

use super::compare::compare;
use super::player::{Batch, Folded, Journal, Played, Player};
use super::published::parse_id;
use super::source::{Peeked, Source};
use crate::codec::RawRecord;
use crate::lane::LaneSettings;
use crate::lane::prepared::{OutputTopic, Prepared};
use crate::model::Topic;
use crate::model::journal::JournalRecord;
use crate::model::time::Timestamp;
use crate::routing::TaskKey;
use crate::routing::explain::{Asked, Considered, explain};
use crate::routing::fact::{ENGINE_VERSION, Fact, NewTask};
use crate::routing::shape::Shape;
use crate::routing::state::State;

/// Events of one task that are told: a task has a few attempts, and the rest would be repetition.
const EVENTS_MAX: usize = 64;

/// What is told.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Story {
    pub task_id: String,
    pub lane: u32,
    pub events: Vec<Event>,
    /// Where the task is at the end of the journal: waiting, in flight, given up, or over.
    pub ended: &'static str,
    /// Batches of the story that were run again and are equal in every byte, and all of them.
    pub verified_batches: u64,
    pub batches: u64,
    pub engine_version: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    pub at_ms: i64,
    pub seq: u64,
    /// `routed`, `queued`, `refused`, …
    pub kind: &'static str,
    /// Of a decision.
    pub decision_id: Option<String>,
    /// What the fact says.
    pub detail: Value,
    /// Of a decision: every resource, the best first.
    pub considered: Vec<Considered>,
}

/// Where a task's story is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub lane: u32,
    pub task_id: String,
}

/// The task of a decision `lane-epoch-seq-index`: from the journal's record, found by bisection,
/// and the decision that was published at its time.
///
/// # Errors
/// The source cannot be read.
pub fn find_decision(
    source: &mut dyn Source,
    settings: &LaneSettings,
    id: &str,
) -> anyhow::Result<Option<Place>> {
    let Some((lane, (epoch, seq, _))) = parse_id(id) else { return Ok(None) };
    if lane >= source.lanes() {
        return Ok(None);
    }
    let partition = i32::try_from(lane)?;
    let Some(batch) = find_batch(source, settings, lane, seq)? else { return Ok(None) };
    if batch.epoch != epoch {
        return Ok(None);
    }
    let topic = Topic::RouteDecisions;
    if !settings.decisions_by_pool && !source.bounds(topic, partition)?.is_empty() {
        let from = source.offset_at(topic, partition, batch.batch_time_ms)?;
        let mut published = Peeked::new(source.open(topic, partition, from)?);
        while let Some(record) = published.take()? {
            if record.timestamp_ms > batch.batch_time_ms.as_ms() {
                break;
            }
            let decided = record.with_raw(topic, |raw| decision_of(settings, raw));
            if let Some((found, task_id)) = decided
                && found == id
            {
                return Ok(Some(Place { lane, task_id }));
            }
        }
    }
    // Not published in a topic that is read here: the batch says it when it is run again.
    let mut journal = Journal::open(source, lane, settings)?;
    let mut player = Player::new(lane, settings);
    while let Some(batch) = journal.next_batch()? {
        let is_it = batch.record.seq == seq;
        if let Played::Ran(Some(prepared)) = player.play(source, &batch, is_it)? {
            return Ok(task_of(settings, &prepared, id).map(|task_id| Place { lane, task_id }));
        }
        if is_it {
            break;
        }
    }
    Ok(None)
}

fn decision_of(settings: &LaneSettings, raw: &RawRecord<'_>) -> Option<(String, String)> {
    let decision = settings.codec.decode_route_decision(raw).ok()?;
    Some((decision.decision_id.into_owned(), decision.task_id.into_owned()))
}

fn task_of(settings: &LaneSettings, prepared: &Prepared, id: &str) -> Option<String> {
    decisions_of(settings, prepared).into_iter().find(|(found, _)| found == id).map(|(_, id)| id)
}

/// Ids of the decisions of a batch and of their tasks.
fn decisions_of(settings: &LaneSettings, prepared: &Prepared) -> Vec<(String, String)> {
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

/// The journal record with this seq: records are in the order of their seqs, so by bisection.
fn find_batch(
    source: &mut dyn Source,
    settings: &LaneSettings,
    lane: u32,
    seq: u64,
) -> anyhow::Result<Option<JournalRecord>> {
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
        let record = settings.codec.decode_journal(found.value.as_deref().unwrap_or_default())?;
        match record.seq.cmp(&seq) {
            std::cmp::Ordering::Equal => return Ok(Some(record)),
            std::cmp::Ordering::Less => low = found.offset + 1,
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    Ok(None)
}

/// Tells the story of a task in one lane; `None` where the lane's journal does not name it between
/// the two times.
///
/// # Errors
/// The source cannot be read, or the journal is broken.
pub fn tell(
    source: &mut dyn Source,
    settings: &LaneSettings,
    place: &Place,
    until: Timestamp,
    progress: &mut dyn FnMut(&JournalRecord),
) -> anyhow::Result<Option<Story>> {
    let key = TaskKey::of(&place.task_id);
    let mut journal = Journal::open(source, place.lane, settings)?;
    let mut player = Player::new(place.lane, settings);
    let mut story = Story {
        task_id: place.task_id.clone(),
        lane: place.lane,
        events: Vec::new(),
        ended: "over",
        verified_batches: 0,
        batches: 0,
        engine_version: ENGINE_VERSION,
    };
    while let Some(batch) = journal.next_batch()? {
        if batch.record.batch_time_ms > until || story.events.len() >= EVENTS_MAX {
            break;
        }
        progress(&batch.record);
        let names_it = batch.facts.iter().any(|fact| key_of(fact) == Some(key));
        let before = if names_it { player.lane().map(|lane| lane.state().clone()) } else { None };
        let played = player.play(source, &batch, names_it)?;
        if !names_it {
            continue;
        }
        story.batches += 1;
        let prepared = match &played {
            Played::Ran(prepared) => prepared.as_deref(),
            Played::Folded(Folded::Earlier | Folded::Engine(_) | Folded::Deleted { .. }) => None,
        };
        if prepared.is_some() && compare(&settings.codec, &batch, prepared).is_none() {
            story.verified_batches += 1;
        }
        let ids = prepared.map(|prepared| decisions_of(settings, prepared)).unwrap_or_default();
        let before = before.unwrap_or_else(|| State::genesis(place.lane, batch.record.lanes));
        let task = refused_task(source, &player, &batch, key)?;
        let told = Telling { key, task: task.as_ref(), ids, task_id: &place.task_id };
        told.events(before, &batch, &mut story.events);
        // What lies before the next batch of the story need not be read.
        player.close_inputs();
    }
    if let Some(lane) = player.lane()
        && let Some(live) = lane.state().tasks.get(&key)
    {
        use crate::routing::state::Phase;
        story.ended = match live.phase {
            Phase::Waiting { .. } => "waiting",
            Phase::GivenUp => "given up",
            Phase::InFlight { .. } => "in flight",
        };
    }
    Ok((!story.events.is_empty()).then_some(story))
}

/// What was asked for by a task that was refused at once: the lane kept nothing of it.
fn refused_task(
    source: &mut dyn Source,
    player: &Player,
    batch: &Batch,
    key: TaskKey,
) -> anyhow::Result<Option<NewTask>> {
    let refused = batch.facts.iter().any(|fact| match fact {
        Fact::Refused { key: of, known: false, .. } => *of == key,
        Fact::Refused { known: true, .. }
        | Fact::BatchOpened { .. }
        | Fact::PolicySet(_)
        | Fact::FleetSet { .. }
        | Fact::HealthSet { .. }
        | Fact::ControlSkipped { .. }
        | Fact::Routed { .. }
        | Fact::Queued { .. }
        | Fact::Duplicate { .. }
        | Fact::AttemptEnded { .. }
        | Fact::LeaseExtended { .. }
        | Fact::BreakerTold { .. }
        | Fact::FailoverEnded { .. }
        | Fact::LoadPublished
        | Fact::DeadLettered { .. } => false,
    });
    if !refused {
        return Ok(None);
    }
    let tasks = player.tasks_of(source, &batch.record)?;
    Ok(tasks.into_iter().find(|found| found.key == key).map(|found| {
        let created_at = found.task.created_at_ms.unwrap_or(found.at);
        NewTask {
            task_id: found.task.task_id.as_str().into(),
            shape: std::sync::Arc::new(Shape::of(&found.task)),
            offset: found.record.offset,
            deadline_at: found.task.deadline_ms.map_or(Timestamp::MAX, |ms| created_at.plus_ms(ms)),
            input_tokens: found.task.input_tokens,
            max_output_tokens: found.task.max_output_tokens,
        }
    }))
}

struct Telling<'a> {
    key: TaskKey,
    task_id: &'a str,
    /// Of a task that the lane never held.
    task: Option<&'a NewTask>,
    /// Decisions of the batch.
    ids: Vec<(String, String)>,
}

impl Telling<'_> {
    /// Follows the facts of a batch, and tells those about the task with the state before them.
    fn events(&self, mut state: State, batch: &Batch, into: &mut Vec<Event>) {
        let mut ids = self.ids.iter().filter(|(_, task)| task == self.task_id).map(|(id, _)| id);
        for fact in &batch.facts {
            if key_of(fact) == Some(self.key) {
                let considered = self.considered(&state, fact);
                let is_decision = super::audit::is_decision(fact);
                let decision_id = if is_decision { ids.next().cloned() } else { None };
                let (kind, detail) = shown(&state, fact);
                into.push(Event {
                    at_ms: batch.record.batch_time_ms.as_ms(),
                    seq: batch.record.seq,
                    kind,
                    decision_id,
                    detail,
                    considered,
                });
            }
            state.evolve(fact);
        }
    }

    fn considered(&self, state: &State, fact: &Fact) -> Vec<Considered> {
        let live = state.tasks.get(&self.key);
        let asked = match fact {
            Fact::Routed { task: Some(task), .. } | Fact::Queued { task, .. } => Some(&**task),
            Fact::Routed { task: None, .. } => live.map(|live| &*live.task),
            Fact::Refused { known, .. } => {
                if *known {
                    live.map(|live| &*live.task)
                } else {
                    self.task
                }
            }
            Fact::BatchOpened { .. }
            | Fact::PolicySet(_)
            | Fact::FleetSet { .. }
            | Fact::HealthSet { .. }
            | Fact::ControlSkipped { .. }
            | Fact::Duplicate { .. }
            | Fact::AttemptEnded { .. }
            | Fact::LeaseExtended { .. }
            | Fact::BreakerTold { .. }
            | Fact::FailoverEnded { .. }
            | Fact::LoadPublished
            | Fact::DeadLettered { .. } => None,
        };
        asked.map(|task| explain(state, &Asked::of(task, live))).unwrap_or_default()
    }
}

/// The task that a fact is about.
fn key_of(fact: &Fact) -> Option<TaskKey> {
    match fact {
        Fact::Routed { key, .. }
        | Fact::Queued { key, .. }
        | Fact::Refused { key, .. }
        | Fact::Duplicate { key }
        | Fact::AttemptEnded { key, .. }
        | Fact::LeaseExtended { key, .. } => Some(*key),
        Fact::BatchOpened { .. }
        | Fact::PolicySet(_)
        | Fact::FleetSet { .. }
        | Fact::HealthSet { .. }
        | Fact::ControlSkipped { .. }
        | Fact::BreakerTold { .. }
        | Fact::FailoverEnded { .. }
        | Fact::LoadPublished
        | Fact::DeadLettered { .. } => None,
    }
}

fn shown(state: &State, fact: &Fact) -> (&'static str, Value) {
    let id = |index| state.fleet.at(index).id.to_string();
    match fact {
        Fact::Routed { attempt, reservation, fallbacks, lease_until, .. } => (
            "routed",
            json!({
                "attempt": attempt,
                "resource": id(reservation.resource),
                "fallbacks": fallbacks.iter().map(|one| id(*one)).collect::<Vec<_>>(),
                "reserved": {"slots": 1, "requests": 1, "tokens": reservation.tokens},
                "usd_micros": reservation.usd_micros,
                "lease_until_at_ms": lease_until.as_ms(),
            }),
        ),
        Fact::Queued { blocked_by, until, .. } => {
            ("queued", json!({"blocked_by": blocked_by.name(), "until_ms": until.as_ms()}))
        }
        Fact::Refused { reason, .. } => ("refused", json!({"reason": reason.name()})),
        Fact::Duplicate { .. } => ("duplicate", json!({})),
        Fact::AttemptEnded { end, tokens, overrun_tokens, then, .. } => {
            use crate::routing::fact::Then;
            let then = match then {
                Then::Done => "over",
                Then::Again => "waits for another attempt",
                Then::GiveUp => "attempts are spent",
            };
            let detail = json!({
                "end": end.name(), "tokens": tokens, "overrun_tokens": overrun_tokens, "then": then,
            });
            ("attempt_ended", detail)
        }
        Fact::LeaseExtended { lease_until, .. } => {
            ("lease_extended", json!({"lease_until_at_ms": lease_until.as_ms()}))
        }
        Fact::BatchOpened { .. }
        | Fact::PolicySet(_)
        | Fact::FleetSet { .. }
        | Fact::HealthSet { .. }
        | Fact::ControlSkipped { .. }
        | Fact::BreakerTold { .. }
        | Fact::FailoverEnded { .. }
        | Fact::LoadPublished
        | Fact::DeadLettered { .. } => ("other", json!({})),
    }
}

impl Story {
    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let begun = self.events.first().map_or(0, |event| event.at_ms);
        // Writing to a string cannot fail.
        writeln!(out, "{}  lane {}, {}", self.task_id, self.lane, self.ended).ok();
        for event in &self.events {
            let after_s = (event.at_ms - begun) as f64 / 1_000.0;
            let id = event.decision_id.as_deref().unwrap_or("");
            let detail = detail_text(event.kind, &event.detail);
            writeln!(out, "{after_s:>9.3} s  seq {}  {} {detail}  {id}", event.seq, event.kind)
                .ok();
            let width = event.considered.iter().map(|one| one.resource.len()).max().unwrap_or(0);
            for one in &event.considered {
                writeln!(out, "             {}", considered_text(one, width)).ok();
            }
        }
        let (verified, all) = (self.verified_batches, self.batches);
        let how = if verified == all { "same bytes" } else { "the others were only folded" };
        writeln!(
            out,
            "verified: {verified} of {all} batches decided again under engine {}, {how}",
            self.engine_version
        )
        .ok();
        out
    }
}

fn detail_text(kind: &str, detail: &Value) -> String {
    let text = |name: &str| detail[name].as_str().unwrap_or("-").to_owned();
    match kind {
        "routed" => {
            let fallbacks: Vec<&str> = detail["fallbacks"]
                .as_array()
                .map(|all| all.iter().filter_map(Value::as_str).collect())
                .unwrap_or_default();
            format!(
                "attempt {} → {}, reserved 1 slot, 1 request, {} tokens, fallbacks {}",
                detail["attempt"],
                text("resource"),
                detail["reserved"]["tokens"],
                if fallbacks.is_empty() { "none".to_owned() } else { fallbacks.join(", ") },
            )
        }
        "queued" => format!("blocked by {}", text("blocked_by")),
        "refused" => text("reason"),
        "attempt_ended" => {
            format!("{}, {} tokens used, then {}", text("end"), detail["tokens"], text("then"))
        }
        _ => String::new(),
    }
}

fn considered_text(one: &Considered, width: usize) -> String {
    let terms = one.terms.map(|terms| {
        format!(
            "{:.4} = quality {:.4} − cost {:.4} − latency {:.4} − price {:.4}",
            terms.utility, terms.quality, terms.cost, terms.latency, terms.price
        )
    });
    let tried = if one.tried { "  tried before" } else { "" };
    match &one.refused {
        None => format!("{:width$}  {}{tried}", one.resource, terms.unwrap_or_default()),
        Some(missed) => format!(
            "{:width$}  refused {}: needs {}, has {}{tried}",
            one.resource,
            missed.rule.name(),
            missed.needed,
            missed.had
        ),
    }
}
