//! A decision taken apart: for each resource what it would have been worth, or the rule that it
//! missed. The same functions as the decision's own, on the same state.

use serde::Serialize;

use super::eligibility::{Memo, miss};
use super::engine::{self, Sizes};
use super::fact::NewTask;
use super::state::{LiveTask, State};
use crate::model::reason::RefusalReason;
use crate::model::task::Objective;

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub task: &'a NewTask,
    /// Where the lane holds the task: what it has tried.
    pub live: Option<&'a LiveTask>,
}

impl<'a> Asked<'a> {
    pub fn of(task: &'a NewTask, live: Option<&'a LiveTask>) -> Self {
        Asked { task, live }
    }
}

/// One resource, and what the decision made of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Considered {
    pub resource: String,
    pub model: String,
    /// The rule that it missed, what that needed and what there was; `None`: it could serve.
    pub refused: Option<Missed>,
    /// Where the rules of the task's class let it through.
    pub terms: Option<Utility>,
    /// An attempt of this task there has ended.
    pub tried: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Missed {
    pub rule: RefusalReason,
    pub needed: String,
    pub had: String,
}

/// `utility = quality − cost − latency − price + saved + later`, in the units of the task's objective.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Utility {
    pub utility: f64,
    pub quality: f64,
    /// What of that the task's features have brought, or taken.
    pub features: f64,
    pub cost: f64,
    pub latency: f64,
    pub price: f64,
    /// Where its session was served last: what of cost and latency that saves.
    pub saved: f64,
    /// What the later stages are worth from here, transfers between regions and prices taken off.
    pub later: f64,
    /// What lies behind them: predicted quality, US dollars, milliseconds.
    pub quality_predicted: f64,
    pub cost_usd: f64,
    pub latency_ms: f64,
}

/// Every resource of the fleet, the best first, the refused last.
pub fn explain(state: &State, asked: &Asked<'_>) -> Vec<Considered> {
    let mut memo = Memo::default();
    let NewTask { shape, input_tokens, max_output_tokens, deadline_at, features, .. } = asked.task;
    let (input_tokens, max_output_tokens) = (*input_tokens, *max_output_tokens);
    let candidates = memo.candidates_of(state, shape);
    let ahead = engine::ahead_of(state, &mut memo, asked.task, asked.live);
    let affine = state.affinity.of(asked.task.session);
    let weights = Objective::from(shape.objective).weights();
    let sizes = Sizes {
        candidates: &candidates,
        input_tokens,
        max_output_tokens,
        deadline_at: *deadline_at,
        ahead: ahead.as_ref(),
        features: features.as_deref(),
    };
    let expected = state.learned.output_expected(candidates.class, max_output_tokens);
    let paid = engine::Prices::new(state, &candidates, input_tokens, expected);
    let tried = asked.live.map(LiveTask::tried).unwrap_or_default();
    let mut found = Vec::new();
    for (index, resource) in state.fleet.iter().filter(|(_, resource)| !resource.removed) {
        let candidate = candidates.list.iter().find(|candidate| candidate.resource == index);
        let terms = candidate.map(|candidate| {
            let prices = state.fleet.terms(index);
            let output = expected;
            let cost_usd = prices.cost_usd(input_tokens, output);
            let latency_ms = state.latency(index, input_tokens, output).expected_ms;
            let (cost, latency) = (weights.usd * cost_usd, weights.second * latency_ms / 1_000.0);
            let moved = engine::moved(state, &sizes, index);
            let features = moved.map_or(0.0, |(_, worth)| worth);
            let before = candidate.utility(input_tokens, output) + features;
            let price = paid.of(state, index);
            // What is left is the quality's part, degradation included.
            let quality = before + cost + latency;
            let quality_predicted = moved.map_or(candidate.quality, |(moved, _)| moved.quality);
            let saved = match affine == Some(index) {
                true => state.policy.affinity_share * candidate.input_part(input_tokens),
                false => 0.0,
            };
            let later = engine::later_worth(state, &sizes, index);
            Utility {
                utility: before + saved - price + later,
                quality,
                features,
                cost,
                latency,
                price,
                saved,
                later,
                quality_predicted,
                cost_usd,
                latency_ms,
            }
        });
        let missed = candidate.is_none().then(|| miss(state, shape, (index, resource)));
        let missed = match missed.flatten() {
            Some(miss) => Some(Missed { rule: miss.rule, needed: miss.needed, had: miss.had }),
            None => engine::size_or_room_miss(state, &sizes, index)
                .map(|(rule, needed, had)| Missed { rule, needed, had }),
        };
        found.push(Considered {
            resource: resource.id.to_string(),
            model: resource.spec.model.clone(),
            refused: missed,
            terms,
            tried: tried.iter().any(|tried| tried.resource == index),
        });
    }
    let worth = |one: &Considered| {
        let utility = one.terms.map_or(f64::NEG_INFINITY, |terms| terms.utility);
        (one.refused.is_none(), utility)
    };
    found.sort_by(|one, other| {
        let ((one_serves, one), (other_serves, other)) = (worth(one), worth(other));
        other_serves.cmp(&one_serves).then(other.total_cmp(&one))
    });
    found
}
