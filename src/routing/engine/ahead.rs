//! What lies behind the present stage: the best ways through those that are left.
//!
//! A task with stages takes the best path through the layered graph of stages and resources. Its worth is the
//! sum over the stages of utility less price, less what every change of region costs. That splits where
//! a stage ends (Bellman 1957), so it is computed from the last stage backwards, and each candidate of the present
//! stage comes with its best way on. These are the k best paths with different first resources: the
//! primary and its fallbacks.
//!
//! Two things are kept small. What lies behind a resource depends on its region alone, so the ways of a
//! stage are kept by region, not by resource. And deadline and cost ceiling are sums over the whole path,
//! which the best way may exceed while another does not: so all ways are kept that no other of their
//! region beats in worth, cost and time at once (labels: Joksch 1966; Irnich and Desaulniers 2005), without
//! deadline or ceiling a single one.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::chain::{Progress, StageAsk};
use super::super::eligibility::{Candidates, Memo, rank};
use super::super::fact::ResourceIndex;
use super::super::features::Projected;
use super::super::shape::Shape;
use super::super::state::{Fallbacks, State};
use super::survey::{Ask, size_miss};
use crate::model::reason::RefusalReason;
use crate::model::task::{Objective, Weights};

/// Ways that one stage keeps of one region. Where a deadline or a ceiling binds, three stages may have more that no
/// other beats; then a little worth is lost, and the cheapest and the fastest stay.
const LABELS_MAX: usize = 8;

/// From one resource of a later stage to the end.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Label<'a> {
    resource: ResourceIndex,
    region: &'a str,
    /// Utility less prices and transfers.
    worth: f64,
    /// With all of each stage's `max_output_tokens`; 0 without a ceiling.
    cost_usd: f64,
    /// At the upper quantile of each stage; 0 without a deadline.
    upper_ms: f64,
    /// Its place in the next layer.
    next: Option<usize>,
}

impl Label<'_> {
    fn beats(&self, other: &Self) -> bool {
        self.worth >= other.worth
            && self.cost_usd <= other.cost_usd
            && self.upper_ms <= other.upper_ms
    }
}

/// What a change of region takes.
#[derive(Debug, Clone, Copy)]
struct Transfer {
    ms: f64,
    usd_per_token: f64,
    weights: Weights,
}

impl Transfer {
    fn of(state: &State, weights: Weights) -> Self {
        let policy = &state.policy;
        let usd_per_token = policy.transfer_usd_per_million_tokens / 1e6;
        Transfer { ms: policy.transfer_ms, usd_per_token, weights }
    }

    /// Utility, US dollars, milliseconds.
    fn between(&self, from: &str, to: &str, tokens: u32) -> (f64, f64, f64) {
        if from == to {
            return (0.0, 0.0, 0.0);
        }
        let usd = self.usd_per_token * f64::from(tokens);
        let lost = self.weights.usd * usd + self.weights.second * self.ms / 1_000.0;
        (lost, usd, self.ms)
    }
}

/// The stages of a task from the present one on.
pub struct Stretch<'a> {
    /// Of the present stage.
    pub shape: &'a Shape,
    pub input_tokens: u32,
    pub later: &'a [StageAsk],
    pub has_deadline: bool,
    pub progress: Option<&'a Progress>,
    /// Whether the present stage had no attempt yet.
    pub is_fresh: bool,
    pub features: Option<&'a Projected>,
}

/// The best ways on from any resource of the present stage.
#[derive(Debug)]
pub struct Ahead<'a> {
    /// All resources that may serve a stage, the next stage's first.
    nodes: Vec<Vec<Label<'a>>>,
    /// The ways that are kept of each.
    layers: Vec<Vec<Label<'a>>>,
    /// Input of each of them, which is what a transfer moves.
    tokens: Vec<u32>,
    transfer: Transfer,
    counts: Counts,
    present_tokens: u32,
    /// The region that served the stage before.
    from: Option<&'a str>,
    spent_usd: f64,
    /// Why nothing can serve one of the stages.
    pub stuck: Option<RefusalReason>,
    /// Who was to serve the present stage.
    pub planned: Option<ResourceIndex>,
}

/// One resource of the present stage, as far as the way on depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Here<'a> {
    pub region: &'a str,
    /// With all of its `max_output_tokens`.
    pub cost_usd: f64,
    pub upper_ms: f64,
    pub ceiling_usd: Option<f64>,
    pub left_ms: Option<f64>,
}

/// The best way on from there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Way {
    /// Utility less prices of the later stages, less the transfers, that to here included.
    pub worth: f64,
    label: Option<usize>,
}

impl<'a> Ahead<'a> {
    pub fn of(state: &'a State, memo: &mut Memo, stretch: &Stretch<'_>) -> Self {
        let Stretch { shape, later, progress, .. } = stretch;
        let features = state.learned.heeded(stretch.features);
        let weights = Objective::from(shape.objective).weights();
        let region = |index: &ResourceIndex| state.fleet.at(*index).spec.region.as_str();
        let served = progress.and_then(|progress| progress.served.last());
        let plan = progress.filter(|_| stretch.is_fresh).map(|progress| &progress.plan);
        let counts =
            Counts { cost: shape.requirements.max_cost_usd.is_some(), time: stretch.has_deadline };
        let mut ahead = Ahead {
            nodes: Vec::with_capacity(later.len()),
            layers: Vec::new(),
            tokens: later.iter().map(|stage| stage.input_tokens).collect(),
            transfer: Transfer::of(state, weights),
            counts,
            present_tokens: stretch.input_tokens,
            from: served.map(region),
            spent_usd: progress.map_or(0.0, |one| one.spent_usd_micros as f64 / 1e6),
            stuck: None,
            planned: plan.and_then(|plan| plan.first().copied()),
        };
        // Where several stages have none, the reason is the last one's.
        for stage in later.iter().rev() {
            let candidates = memo.candidates_of(state, &Arc::new(stage.shape(shape)));
            match nodes(state, &candidates, (stage, features), counts) {
                Ok(nodes) => ahead.nodes.push(nodes),
                Err(reason) => {
                    ahead.stuck = Some(reason);
                    return ahead;
                }
            }
        }
        ahead.nodes.reverse();
        ahead.layers = ahead.layers(|_| true).unwrap_or_default();
        ahead
    }

    /// The same without the resources of these failure domains; `None` where a stage has no others.
    pub fn without(&self, state: &State, domains: &[u16]) -> Option<Ahead<'a>> {
        let may = |label: &Label<'_>| !domains.contains(&state.fleet.terms(label.resource).domain);
        let layers = self.layers(may)?;
        Some(Ahead { nodes: Vec::new(), layers, tokens: self.tokens.clone(), ..*self })
    }

    /// The ways from each stage to the end, the next stage's first, through the resources that `may` lets
    /// serve; `None` where it lets none serve a stage.
    fn layers(&self, may: impl Fn(&Label<'a>) -> bool) -> Option<Vec<Vec<Label<'a>>>> {
        let mut layers: Vec<Vec<Label<'a>>> = Vec::with_capacity(self.nodes.len());
        for (at, nodes) in self.nodes.iter().enumerate().rev() {
            let mut kept = ByRegion::new();
            for node in nodes.iter().filter(|node| may(node)) {
                keep(kept.entry(node.region).or_default(), *node);
            }
            if kept.is_empty() {
                return None;
            }
            let layer = match (layers.last(), self.tokens.get(at + 1)) {
                (Some(behind), Some(tokens)) => {
                    joined(kept, behind, *tokens, self.transfer, self.counts)
                }
                (Some(_) | None, _) => kept,
            };
            layers.push(layer.into_values().flatten().collect());
        }
        layers.reverse();
        Some(layers)
    }

    /// Each label of the next stage as it is reached from a region: worth, cost, time.
    fn reached(&self, region: &str) -> impl Iterator<Item = (usize, (f64, f64, f64))> {
        let tokens = self.tokens.first().copied().unwrap_or_default();
        self.layers.first().into_iter().flatten().enumerate().map(move |(at, label)| {
            let (lost, usd, ms) = self.transfer.between(region, label.region, tokens);
            (at, (label.worth - lost, label.cost_usd + usd, label.upper_ms + ms))
        })
    }

    /// The best way on that keeps to the deadline and the ceiling, or what is missed without one.
    pub fn way(&self, here: &Here<'_>) -> Result<Way, RefusalReason> {
        if let Some(reason) = self.stuck {
            return Err(reason);
        }
        let (lost, usd, ms) = match self.from {
            Some(from) => self.transfer.between(from, here.region, self.present_tokens),
            None => (0.0, 0.0, 0.0),
        };
        let cost_usd = self.spent_usd + here.cost_usd + usd;
        let upper_ms = here.upper_ms + ms;
        let dear = |cost: f64| here.ceiling_usd.is_some_and(|ceiling| cost_usd + cost > ceiling);
        let late = |ms: f64| here.left_ms.is_some_and(|left_ms| upper_ms + ms > left_ms);
        if self.layers.is_empty() {
            return match (dear(0.0), late(0.0)) {
                (true, _) => Err(RefusalReason::Cost),
                (false, true) => Err(RefusalReason::Deadline),
                (false, false) => Ok(Way { worth: -lost, label: None }),
            };
        }
        let mut best: Option<Way> = None;
        // The rule that comes last is missed only where the others are not.
        let mut missed = RefusalReason::Cost;
        for (at, (worth, cost, ms)) in self.reached(here.region) {
            if dear(cost) {
                continue;
            }
            if late(ms) {
                missed = RefusalReason::Deadline;
                continue;
            }
            let worth = worth - lost;
            if best.is_none_or(|best| worth > best.worth) {
                best = Some(Way { worth, label: Some(at) });
            }
        }
        best.ok_or(missed)
    }

    /// The resources of a way, the next stage's first.
    pub fn plan(&self, way: Way) -> Vec<ResourceIndex> {
        let mut plan = Vec::with_capacity(self.layers.len());
        let mut at = way.label;
        for layer in &self.layers {
            let Some(label) = at.and_then(|at| layer.get(at)) else { break };
            plan.push(label.resource);
            at = label.next;
        }
        plan
    }

    /// The least time that the later stages take from a region; 0 without a deadline.
    pub fn least_ms(&self, region: &str) -> f64 {
        let least = self
            .reached(region)
            .map(|(_, (_, _, ms))| ms)
            .reduce(|one, other| if other < one { other } else { one });
        least.unwrap_or_default()
    }
}

/// Which sums matter.
#[derive(Debug, Clone, Copy)]
struct Counts {
    cost: bool,
    time: bool,
}

type ByRegion<'a> = BTreeMap<&'a str, Vec<Label<'a>>>;

/// The resources that may serve one stage, or why there is none.
fn nodes<'a>(
    state: &'a State,
    candidates: &Candidates,
    (stage, features): (&StageAsk, Option<&Projected>),
    counts: Counts,
) -> Result<Vec<Label<'a>>, RefusalReason> {
    let class = candidates.class;
    let ask = Ask {
        candidates,
        input_tokens: stage.input_tokens,
        max_output_tokens: state.output_reserved(class, stage.max_output_tokens),
        output_expected: state.learned.output_expected(class, stage.max_output_tokens),
        left_ms: None,
        wait_ms: None,
        tried: &[],
        preferred: Fallbacks::NONE,
        ahead: None,
        affine: None,
        features,
    };
    let prices = ask.prices(state);
    let mut furthest = candidates.furthest;
    let mut found = Vec::with_capacity(candidates.later().len());
    for candidate in candidates.later() {
        let index = candidate.resource;
        let terms = state.fleet.terms(index);
        let missed = size_miss(state, &ask, index)
            .or_else(|| (ask.tokens() > terms.tokens_max).then_some(RefusalReason::NoCapacity));
        if let Some(reason) = missed {
            if rank(reason) > rank(furthest) {
                furthest = reason;
            }
            continue;
        }
        let region = state.fleet.at(index).spec.region.as_str();
        let cost_usd = terms.cost_usd(ask.input_tokens, f64::from(ask.max_output_tokens));
        found.push(Label {
            resource: index,
            region,
            worth: ask.utility(state, candidate) - prices.of(state, index),
            cost_usd: if counts.cost { cost_usd } else { 0.0 },
            upper_ms: if counts.time { ask.latency(state, index).upper_ms } else { 0.0 },
            next: None,
        });
    }
    if found.is_empty() { Err(furthest) } else { Ok(found) }
}

/// The ways that begin with `nodes` and go on with those of the layer behind.
fn joined<'a>(
    nodes: ByRegion<'a>,
    behind: &[Label<'a>],
    tokens: u32,
    transfer: Transfer,
    counts: Counts,
) -> ByRegion<'a> {
    let mut found = ByRegion::new();
    for (region, nodes) in nodes {
        let kept = found.entry(region).or_default();
        for (at, label) in behind.iter().enumerate() {
            let (lost, usd, ms) = transfer.between(region, label.region, tokens);
            for node in &nodes {
                let way = Label {
                    worth: node.worth + label.worth - lost,
                    cost_usd: node.cost_usd + label.cost_usd + if counts.cost { usd } else { 0.0 },
                    upper_ms: node.upper_ms + label.upper_ms + if counts.time { ms } else { 0.0 },
                    next: Some(at),
                    ..*node
                };
                keep(kept, way);
            }
        }
    }
    found
}

/// Adds a label where no other beats it, in place of those that it beats.
fn keep<'a>(labels: &mut Vec<Label<'a>>, label: Label<'a>) {
    if labels.iter().any(|known| known.beats(&label)) {
        return;
    }
    labels.retain(|known| !label.beats(known));
    labels.push(label);
    if labels.len() <= LABELS_MAX {
        return;
    }
    let least = |value: fn(&Label<'_>) -> f64| {
        let order = |(_, one): &(usize, &Label<'_>), (_, other): &(usize, &Label<'_>)| {
            value(one).total_cmp(&value(other))
        };
        labels.iter().enumerate().min_by(order).map(|(at, _)| at)
    };
    let (cheapest, fastest) = (least(|label| label.cost_usd), least(|label| label.upper_ms));
    let spare = labels
        .iter()
        .enumerate()
        .filter(|(at, _)| Some(*at) != cheapest && Some(*at) != fastest)
        .min_by(|(_, one), (_, other)| one.worth.total_cmp(&other.worth))
        .map(|(at, _)| at);
    if let Some(at) = spare {
        labels.remove(at);
    }
}

#[cfg(test)]
mod tests;
