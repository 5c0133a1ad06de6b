//! The story of one task, told from the journal: what was decided about it and why, each batch of
//! it run again so that the telling is the truth.

mod text;

use memchr::memmem;
use serde::Serialize;
use serde_json::{Value, json};

use super::compare::compare;
use super::find::{Place, decisions_of, key_of};
use super::journal::{Batch, PlayError};
use super::player::{Folded, Played, Player};
use super::snapshots::Limit;
use super::source::Source;
use super::start::{Start, start};
use crate::lane::LaneSettings;
use crate::model::journal::JournalRecord;
use crate::model::time::Timestamp;
use crate::routing::TaskKey;
use crate::routing::chain::first_shape;
use crate::routing::explain::{Asked, Considered, explain};
use crate::routing::fact::{ENGINE_VERSION, Fact, NewTask};
use crate::routing::shape::Shape;
use crate::routing::state::{Phase, State};

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
    /// The snapshot that the telling began with; none: the lane's first batch.
    pub begun_with_seq: Option<u64>,
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

/// Tells the story of a task from the batch that names it first until it is over; `None` where
/// that batch does not name it. A repetition of its id after that is another story.
///
/// # Errors
/// The source cannot be read, or the journal is broken; what is needed of it is deleted.
pub fn tell(
    source: &mut dyn Source,
    settings: &LaneSettings,
    place: &Place,
    until: Timestamp,
    progress: &mut dyn FnMut(&JournalRecord),
) -> anyhow::Result<Option<Story>> {
    let key = TaskKey::of(&place.task_id);
    let before = place.batch_time.plus_ms(1);
    let limit = Limit { seq_max: place.seq.saturating_sub(1), before };
    let Start { mut player, mut journal, from, .. } = start(source, settings, place.lane, limit)?;
    let mut story = Story {
        task_id: place.task_id.clone(),
        lane: place.lane,
        events: Vec::new(),
        ended: "over",
        verified_batches: 0,
        batches: 0,
        engine_version: ENGINE_VERSION,
        begun_with_seq: (from.seq > 0).then_some(from.seq),
    };
    while let Some(batch) = journal.next_batch()? {
        if batch.record.batch_time_ms > until || story.events.len() >= EVENTS_MAX {
            break;
        }
        progress(&batch.record);
        let names_it = batch.record.seq >= place.seq && names(&batch, key)?;
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
        told.events(before, &batch, &mut story.events)?;
        // What lies before the next batch of the story need not be read.
        player.close_inputs();
        if player.lane().is_some_and(|lane| !lane.state().tasks.contains_key(&key)) {
            break;
        }
    }
    if let Some(live) = player.lane().and_then(|lane| lane.state().tasks.get(&key)) {
        story.ended = match live.phase {
            Phase::Waiting { .. } => "waiting",
            Phase::GivenUp => "given up",
            Phase::InFlight { .. } => "in flight",
        };
    }
    Ok((!story.events.is_empty()).then_some(story))
}

/// Whether a batch has a fact about this task.
fn names(batch: &Batch, key: TaskKey) -> anyhow::Result<bool> {
    if memmem::find(&batch.record.facts, &key.0).is_none() {
        return Ok(false);
    }
    Ok(batch.facts()?.iter().any(|fact| key_of(fact) == Some(key)))
}

/// What was asked for by a task that was refused at once: the lane kept nothing of it.
fn refused_task(
    source: &mut dyn Source,
    player: &Player,
    batch: &Batch,
    key: TaskKey,
) -> anyhow::Result<Option<NewTask>> {
    let refused = batch.facts()?.iter().any(|fact| match fact {
        Fact::Refused { key: of, new: Some(_), .. } => *of == key,
        Fact::Refused { new: None, .. }
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
        | Fact::DeadLettered { .. } => false,
    });
    if !refused {
        return Ok(None);
    }
    let tasks = player.tasks_of(source, &batch.record)?;
    Ok(tasks.into_iter().find(|found| found.key == key).map(|found| {
        let created_at = found.task.created_at_ms.unwrap_or(found.at);
        let shape = first_shape(&found.task).unwrap_or_else(|| Shape::of(&found.task));
        let deadline_at =
            found.task.deadline_ms.map_or(Timestamp::MAX, |ms| created_at.plus_ms(ms));
        NewTask::of(&found.task, std::sync::Arc::new(shape), found.record.offset, deadline_at)
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
    fn events(
        &self,
        mut state: State,
        batch: &Batch,
        into: &mut Vec<Event>,
    ) -> Result<(), PlayError> {
        let mut ids = self.ids.iter().filter(|(_, task)| task == self.task_id).map(|(id, _)| id);
        for fact in batch.facts()? {
            if key_of(fact) == Some(self.key) {
                let considered = self.considered(&state, fact);
                let is_decision = super::journal::is_decision(fact);
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
        Ok(())
    }

    fn considered(&self, state: &State, fact: &Fact) -> Vec<Considered> {
        let live = state.tasks.get(&self.key);
        let asked = match fact {
            Fact::Routed { task: Some(task), .. } | Fact::Queued { task, .. } => Some(&**task),
            Fact::Routed { task: None, .. } => live.map(|live| &*live.task),
            Fact::Refused { new: None, .. } => live.map(|live| &*live.task),
            Fact::Refused { new: Some(_), .. } => self.task,
            Fact::BatchOpened { .. }
            | Fact::PolicySet(_)
            | Fact::FleetSet { .. }
            | Fact::HealthSet { .. }
            | Fact::ControlSkipped { .. }
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
        };
        asked.map(|task| explain(state, &Asked::of(task, live))).unwrap_or_default()
    }
}

fn shown(state: &State, fact: &Fact) -> (&'static str, Value) {
    let id = |index| state.fleet.at(index).id.to_string();
    match fact {
        Fact::Routed { key, task, attempt, reservation, fallbacks, lease_until, plans, .. } => {
            let known = task.as_deref().or_else(|| Some(&*state.tasks.get(key)?.task));
            let chain = |first: &u16, plan: Option<&Vec<u16>>| {
                let later = plan.into_iter().flatten().copied();
                std::iter::once(*first).chain(later).map(id).collect::<Vec<_>>()
            };
            let mut detail = json!({
                "attempt": attempt,
                "resource": id(reservation.resource),
                "fallbacks": fallbacks.iter().map(|one| id(*one)).collect::<Vec<_>>(),
                "reserved": {"slots": 1, "requests": 1, "tokens": reservation.tokens},
                "usd_micros": reservation.usd_micros,
                "lease_until_at_ms": lease_until.as_ms(),
            });
            if let Some(known) = known.filter(|known| known.stages.is_some()) {
                let others = fallbacks.iter().enumerate();
                let others = others.map(|(at, one)| chain(one, plans.get(at + 1)));
                detail["stage"] = json!(known.stage);
                detail["stages"] = json!(known.stage_count());
                detail["chain"] = json!(chain(&reservation.resource, plans.first()));
                detail["fallback_chains"] = json!(others.collect::<Vec<_>>());
            }
            ("routed", detail)
        }
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
                Then::Next => "waits for its next stage",
            };
            let detail = json!({
                "end": end.name(), "tokens": tokens, "overrun_tokens": overrun_tokens, "then": then,
            });
            ("attempt_ended", detail)
        }
        Fact::LeaseExtended { lease_until, .. } => {
            ("lease_extended", json!({"lease_until_at_ms": lease_until.as_ms()}))
        }
        Fact::AttemptSlow { slow, .. } => ("slow", json!({"longer_by": slow})),
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
        | Fact::DeadLettered { .. } => ("other", json!({})),
    }
}
