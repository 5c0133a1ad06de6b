//! Samples of what a lane decides, for those who want to know how near it came to the optimum. They
//! change nothing: no state, no output depends on them.

use std::sync::Arc;

use crate::hindsight::sample::{Capacity, Key, NewSample, Offer, Sample, is_seen};
use crate::model::reason::RefusalReason;
use crate::model::task::{Objective, Task};
use crate::model::time::Timestamp;
use crate::routing::TaskKey;
use crate::routing::engine::{deadline_at, wait_until};
use crate::routing::explain::{Asked, explain};
use crate::routing::fact::{Fact, NewTask, Then};
use crate::routing::shape::Shape;
use crate::routing::state::State;

/// What a lane tells in a minute, in candidates: some hundred tasks of a usual fleet, each of which
/// costs about as much as a decision.
const OFFERS_PER_MINUTE: usize = 8_192;
/// With more resources, so few tasks could be told of that it would say nothing.
const RESOURCES_MAX: usize = 256;
const LEVEL_MAX: u8 = 40;

#[derive(Debug, Clone, Default)]
pub struct Sampler {
    /// One task in 2^level is told of.
    level: u8,
    minute: u64,
    offers: usize,
    samples: Vec<Sample>,
}

impl Sampler {
    /// A new batch begins.
    pub fn begin(&mut self, state: &State, at: Timestamp) {
        let minute = at.ms_since(Timestamp::EPOCH) / 60_000;
        if minute == self.minute {
            return;
        }
        if self.offers * 4 < OFFERS_PER_MINUTE {
            self.level = self.level.saturating_sub(1);
        }
        (self.minute, self.offers) = (minute, 0);
        // Empty batches tell nobody.
        self.samples.pop_if(|last| matches!(last, Sample::Capacities(_)));
        self.samples.push(Sample::Capacities(capacities(state)));
    }

    pub fn take(&mut self) -> Vec<Sample> {
        std::mem::take(&mut self.samples)
    }

    /// A fact that is about to be folded; `task` is the record that it is about.
    pub fn see(&mut self, state: &State, fact: &Fact, task: Option<&Task>) {
        let (key, sample) = match fact {
            Fact::Routed { key, task, metrics, .. } => {
                let utility = metrics.map(|metrics| metrics.utility);
                let Some(key) = self.seen(*key) else { return };
                let sample = match task {
                    Some(task) => self.new_sample(state, key, task, utility),
                    None => {
                        utility.map(|utility| Sample::Served { key, at: state.batch_time, utility })
                    }
                };
                (key, sample)
            }
            Fact::Queued { key, task, .. } => {
                let Some(key) = self.seen(*key) else { return };
                (key, self.new_sample(state, key, task, None))
            }
            Fact::Refused { key, new, .. } => {
                let Some(key) = self.seen(*key) else { return };
                let sample = match (new, task) {
                    (None, _) => Some(Sample::Lost { key }),
                    (Some(_), Some(task)) => {
                        let deadline_at =
                            deadline_at(task, task.created_at_ms.unwrap_or(state.batch_time));
                        let task = NewTask::of(task, Arc::new(Shape::of(task)), 0, deadline_at);
                        self.new_sample(state, key, &task, None)
                    }
                    (Some(_), None) => None,
                };
                (key, sample)
            }
            Fact::AttemptEnded { key, then: Then::GiveUp, .. } => {
                let Some(key) = self.seen(*key) else { return };
                (key, Some(Sample::Lost { key }))
            }
            Fact::BatchOpened { .. }
            | Fact::PolicySet(_)
            | Fact::FleetSet { .. }
            | Fact::HealthSet { .. }
            | Fact::ControlSkipped { .. }
            | Fact::Duplicate { .. }
            | Fact::DeadLettered { .. }
            | Fact::AttemptEnded { then: Then::Done | Then::Again | Then::Next, .. }
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
            | Fact::HeadroomTold { .. } => return,
        };
        // Telling of it may have raised the level.
        if is_seen(key, self.level) {
            self.samples.extend(sample);
        }
    }

    fn seen(&self, key: TaskKey) -> Option<Key> {
        let key = key.spread();
        is_seen(key, self.level).then_some(key)
    }

    fn new_sample(
        &mut self,
        state: &State,
        key: Key,
        task: &NewTask,
        utility: Option<f64>,
    ) -> Option<Sample> {
        if task.stages.is_some() || state.fleet.len() > RESOURCES_MAX {
            return None;
        }
        let offers = offers(state, task);
        self.offers += offers.len();
        if self.offers > OFFERS_PER_MINUTE && self.level < LEVEL_MAX {
            self.level += 1;
            self.offers /= 2;
        }
        let shape = &task.shape;
        let class = state.learned.class(&shape.class);
        let output = state.learned.output_expected(class, task.max_output_tokens);
        Some(Sample::New(NewSample {
            key,
            level: self.level,
            at: state.batch_time,
            until: wait_until(state, task.deadline_at),
            second: Objective::from(shape.objective).weights().second,
            tokens: f64::from(task.input_tokens) + output,
            offers,
            utility,
        }))
    }
}

/// What each resource would be worth that no rule keeps from it for ever.
fn offers(state: &State, task: &NewTask) -> Vec<Offer> {
    let considered = explain(state, &Asked::of(task, None));
    let offer = |one: crate::routing::explain::Considered| {
        let terms = one.terms?;
        let waits = |rule| matches!(rule, RefusalReason::NoCapacity | RefusalReason::PricedOut);
        let serves = one.refused.is_none_or(|missed| waits(missed.rule));
        let resource = state.fleet.index_of(&one.resource)?;
        serves.then_some(Offer {
            resource,
            utility: terms.utility + terms.price,
            duration_ms: terms.latency_ms,
        })
    };
    considered.into_iter().filter_map(offer).collect()
}

fn capacities(state: &State) -> Vec<Capacity> {
    let capacity = |resource: &crate::routing::fleet::Resource| Capacity {
        slots: if resource.serves() { resource.slots_units } else { 0 },
        rates: resource
            .rates
            .iter()
            .map(|rate| (rate.limit.dimension, rate.limit.window_s, rate.units))
            .collect(),
    };
    state.fleet.iter().map(|(_, resource)| capacity(resource)).collect()
}
