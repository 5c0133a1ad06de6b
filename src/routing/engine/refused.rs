//! Why a task's candidates were refused, for the decision record and for explanations.

use super::super::eligibility::{Candidates, miss};
use super::super::fact::{RefusedCandidate, ResourceIndex};
use super::super::features::Projected;
use super::super::headroom::lowered_text;
use super::super::learned::Moved;
use super::super::state::{Fallbacks, State};
use super::ahead::Ahead;
use super::left_ms;
use super::survey::{Ask, size_miss};
use crate::model::decision::REFUSALS_MAX;
use crate::model::reason::RefusalReason;
use crate::model::time::Timestamp;

/// A task's sizes, for an explanation.
pub struct Sizes<'a> {
    pub candidates: &'a Candidates,
    pub input_tokens: u32,
    pub max_output_tokens: u32,
    pub deadline_at: Timestamp,
    /// Of a task with stages.
    pub ahead: Option<&'a Ahead<'a>>,
    pub features: Option<&'a Projected>,
}

impl Sizes<'_> {
    fn ask(&self, state: &State) -> Ask<'_> {
        let class = self.candidates.class;
        Ask {
            candidates: self.candidates,
            input_tokens: self.input_tokens,
            max_output_tokens: state.output_reserved(class, self.max_output_tokens),
            output_expected: state.learned.output_expected(class, self.max_output_tokens),
            left_ms: left_ms(state, self.deadline_at),
            wait_ms: None,
            tried: &[],
            preferred: Fallbacks::NONE,
            ahead: self.ahead,
            affine: None,
            features: state.learned.heeded(self.features),
        }
    }
}

/// Why a resource that the shape's rules let through cannot serve a task of these sizes now: the
/// rule, what it needed and what there was.
pub fn size_or_room_miss(
    state: &State,
    sizes: &Sizes<'_>,
    index: ResourceIndex,
) -> Option<(RefusalReason, String, String)> {
    explain_miss(state, &sizes.ask(state), index)
}

/// What the later stages are worth from a resource, with the way to it from the stage before; 0
/// where there is no way, or no stages.
pub fn later_worth(state: &State, sizes: &Sizes<'_>, index: ResourceIndex) -> f64 {
    let way = sizes.ask(state).way(state, index);
    way.and_then(Result::ok).map_or(0.0, |way| way.worth)
}

/// What a task's features make of the quality that is expected from a resource, and what that is worth
/// in utility; `None` where they have no weight.
pub fn moved(state: &State, sizes: &Sizes<'_>, index: ResourceIndex) -> Option<(Moved, f64)> {
    let ask = sizes.ask(state);
    ask.moved(state, index).map(|moved| (moved, ask.moved_worth(state, index, moved)))
}

fn explain_miss(
    state: &State,
    ask: &Ask<'_>,
    index: ResourceIndex,
) -> Option<(RefusalReason, String, String)> {
    if let Some(rule) = size_miss(state, ask, index) {
        let (needed, had) = explain_size(state, ask, index, rule);
        return Some((rule, needed, had));
    }
    let room = ask.capacity(state, index);
    if !room.fits(ask.tokens()) {
        let needed = format!("1 slot, 1 request, {} tokens", ask.tokens());
        let lowered = lowered_text(state, index);
        let lowered = lowered.map_or_else(String::new, |text| format!("; lowered: {text}"));
        let had = format!(
            "{} slots, {} requests, {} tokens{lowered}",
            room.slots, room.requests, room.tokens
        );
        return Some((RefusalReason::NoCapacity, needed, had));
    }
    let taking = ask.taking(state, index);
    if let Err(lacking) = state.tenants.admit(ask.candidates.tenant, state.batch_time, &taking) {
        return Some((lacking.rule, lacking.needed, lacking.had));
    }
    let candidate = ask.candidates.list.iter().find(|candidate| candidate.resource == index)?;
    // As the choice counts it: with the later stages.
    let later = ask.way(state, index).and_then(Result::ok).map_or(0.0, |way| way.worth);
    let utility = ask.utility(state, candidate) + later;
    let price = ask.price(state, index);
    ask.is_priced_out(state, utility, price).then(|| {
        let stake = state.stake.get();
        let most = if utility > stake { utility } else { stake };
        let needed = format!("a price of at most {most:.6}");
        (RefusalReason::PricedOut, needed, format!("{price:.6}"))
    })
}

/// Every resource that was refused, with the rule; at most [`REFUSALS_MAX`].
pub(super) fn refused(state: &State, ask: &Ask<'_>) -> Vec<RefusedCandidate> {
    let shape = &ask.candidates.shape;
    let mut found = Vec::new();
    for (index, resource) in state.fleet.iter().filter(|(_, resource)| !resource.removed) {
        if found.len() == REFUSALS_MAX {
            break;
        }
        let missed = (!ask.candidates.has(index)).then(|| miss(state, shape, (index, resource)));
        let (rule, needed, had) = match missed.flatten() {
            Some(miss) => (miss.rule, miss.needed, miss.had),
            None => match explain_miss(state, ask, index) {
                Some(missed) => missed,
                None => continue,
            },
        };
        found.push(RefusedCandidate { resource: index, rule, needed, had });
    }
    found
}

fn explain_size(
    state: &State,
    ask: &Ask<'_>,
    index: ResourceIndex,
    rule: RefusalReason,
) -> (String, String) {
    let terms = state.fleet.terms(index);
    if rule == RefusalReason::ContextWindow {
        let needed = format!("{} tokens with {} of output", ask.tokens(), ask.max_output_tokens);
        let had = format!("{} with {}", terms.context_window, terms.max_output_tokens);
        return (needed, had);
    }
    if rule == RefusalReason::Quality {
        let least = ask.candidates.shape.requirements.min_quality.unwrap_or_default();
        let had = ask.moved(state, index).map_or(0.0, |moved| moved.quality);
        return (least.to_string(), format!("{had} with these features"));
    }
    if let Some(ahead) = ask.ahead {
        let what = match (ahead.stuck, rule) {
            (Some(_), _) => "a resource for every later stage".to_owned(),
            (None, RefusalReason::Cost) => {
                let ceiling = ask.candidates.shape.requirements.max_cost_usd.unwrap_or_default();
                format!("at most {ceiling} USD with the later stages")
            }
            (None, _) => {
                let left_ms = ask.left_ms.unwrap_or_default();
                format!("within {left_ms} ms with the later stages")
            }
        };
        return (what, "none".to_owned());
    }
    if rule == RefusalReason::Cost {
        let ceiling = ask.candidates.shape.requirements.max_cost_usd.unwrap_or_default();
        let cost = terms.cost_usd(ask.input_tokens, f64::from(ask.max_output_tokens));
        return (format!("at most {ceiling} USD"), format!("{cost} USD"));
    }
    let left_ms = ask.left_ms.unwrap_or_default();
    let latency_ms = libm::ceil(ask.latency(state, index).upper_ms);
    (format!("within {left_ms} ms"), format!("{latency_ms} ms"))
}
