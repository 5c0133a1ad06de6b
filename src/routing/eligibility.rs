//! Which resources may serve a task of a shape, and why not the others.
//!
//! The rules that depend on the shape alone are evaluated once per shape; the list is kept until
//! the fleet, its health or the policy changes. What results teach of a resource changes its numbers
//! alone, and of no other one. The rules that depend on a task's sizes are the engine's, and so is what is
//! free: no list depends on how much of a limit is in use.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashTable;

use super::capability::{Capable, ClassIndex};
use super::fact::{ResourceIndex, TenantIndex};
use super::fleet::{Broken, Claim, Resource};
use super::posterior::Belief;
use super::shape::{Shape, SharedShape};
use super::sharing::Lacks;
use super::speed;
use super::state::State;
use crate::model::health::HealthStatus;
use crate::model::reason::RefusalReason;
use crate::model::task::{Objective, Task};

/// A resource that the shape's rules let through, with its utility as a linear function of the
/// task's sizes, for each range of prompt sizes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    pub resource: ResourceIndex,
    /// What an attempt is expected to bring, in [0, 1]; one that fails brings nothing.
    pub quality: f64,
    /// The standard deviation of what is believed of its quality.
    pub deviation: f64,
    prompts: [Prompt; speed::RANGES],
    per_output_token: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Prompt {
    base: f64,
    per_token: f64,
}

impl Candidate {
    fn of(
        state: &State,
        class: Option<ClassIndex>,
        shape: &Shape,
        (index, resource): (ResourceIndex, &Resource),
    ) -> Self {
        let weights = Objective::from(shape.objective).weights();
        let Belief { mean: quality, deviation, .. } =
            predicted_quality(state, class, shape, (index, resource));
        let worth = weights.quality * quality * kept(resource);
        let per_ms = weights.second / 1_000.0;
        let terms = state.fleet.terms(index);
        let speed = state.learned.speed(index);
        let (first_token, decode) = speed.factors();
        let begun = worth - per_ms * speed.queueing_ms();
        Candidate {
            resource: index,
            quality,
            deviation,
            prompts: first_token.map(|factor| Prompt {
                base: begun - per_ms * factor * terms.time_to_first_token_ms,
                per_token: weights.usd * terms.usd_per_input_token
                    + per_ms * factor * terms.ms_per_input_token,
            }),
            per_output_token: weights.usd * terms.usd_per_output_token
                + per_ms * decode * terms.ms_per_output_token,
        }
    }

    #[inline]
    pub fn utility(&self, input_tokens: u32, output_tokens: f64) -> f64 {
        let prompt = &self.prompts[speed::range(input_tokens)];
        prompt.base
            - prompt.per_token * f64::from(input_tokens)
            - self.per_output_token * output_tokens
    }

    /// The part of the utility that reading the input costs: money and time.
    pub fn input_part(&self, input_tokens: u32) -> f64 {
        self.prompts[speed::range(input_tokens)].per_token * f64::from(input_tokens)
    }
}

/// Of the quality of what is used although its breaker says that it is down.
const PANIC_KEPT: f64 = 0.5;

/// What is degraded counts for less, in proportion to how bad it is.
pub fn kept(resource: &Resource) -> f64 {
    match (resource.health, resource.broken) {
        (HealthStatus::Degraded, _) => 1.0 - resource.severity,
        (HealthStatus::Unhealthy, Broken::Stopped) => (1.0 - resource.severity) * PANIC_KEPT,
        (HealthStatus::Healthy | HealthStatus::Unhealthy | HealthStatus::Drain, _) => 1.0,
    }
}

/// What an attempt of the shape's class is expected to bring there, in [0, 1].
fn predicted_quality(
    state: &State,
    class: Option<ClassIndex>,
    shape: &Shape,
    (index, resource): (ResourceIndex, &Resource),
) -> Belief {
    let prior = resource.spec.quality_prior(&shape.class).unwrap_or_default();
    let Capable { quality, success } = state.learned.capable(class, index, prior);
    Belief { mean: quality.mean * success, ..quality }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Candidates {
    pub shape: SharedShape,
    pub tenant: Option<TenantIndex>,
    /// Where the results of its class are; `None` where there are none yet.
    pub class: Option<ClassIndex>,
    pub list: Vec<Candidate>,
    /// Those that nothing but breakers stops: they may come back at any time.
    pub stopped: Vec<Candidate>,
    /// The rule that stopped the resource that got furthest, where the shape's rules let none
    /// through.
    pub furthest: RefusalReason,
}

impl Candidates {
    /// Those for a time that is not now: where breakers stop all, these may have let go by then.
    pub fn later(&self) -> &[Candidate] {
        if self.list.is_empty() { &self.stopped } else { &self.list }
    }

    /// Whether a resource is among those that may serve now.
    pub fn has(&self, index: ResourceIndex) -> bool {
        place(&self.list, index).is_some()
    }
}

/// The order in which rules are asked: a later one means that a resource came closer.
pub fn rank(reason: RefusalReason) -> u8 {
    match reason {
        RefusalReason::NoCapableResource => 0,
        RefusalReason::Model => 1,
        RefusalReason::Modality => 2,
        RefusalReason::Region => 3,
        RefusalReason::Tenant => 4,
        RefusalReason::Quality => 5,
        RefusalReason::Health => 6,
        RefusalReason::PoolTopicMissing => 7,
        RefusalReason::ContextWindow => 8,
        RefusalReason::Cost => 9,
        RefusalReason::Deadline => 10,
        RefusalReason::NoCapacity => 11,
        RefusalReason::PricedOut => 12,
        RefusalReason::TenantLimit => 13,
        RefusalReason::Budget => 14,
        RefusalReason::BacklogFull
        | RefusalReason::Shed
        | RefusalReason::AttemptsSpent
        | RefusalReason::TaskExpired
        | RefusalReason::Cancelled
        | RefusalReason::Duplicate
        | RefusalReason::NotSupported => 15,
    }
}

/// A rule that a resource misses: what it needed and what it had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Miss {
    pub rule: RefusalReason,
    pub needed: String,
    pub had: String,
}

/// The first of the shape's rules that a resource misses.
pub fn miss(
    state: &State,
    shape: &Shape,
    (index, resource): (ResourceIndex, &Resource),
) -> Option<Miss> {
    let spec = &resource.spec;
    let needs = &shape.requirements;
    let found = |rule, needed: String, had: String| Some(Miss { rule, needed, had });
    if spec.quality_prior(&shape.class).is_none() {
        let classes: Vec<&str> = spec.quality.keys().map(String::as_str).collect();
        let had = classes.join(", ");
        return found(RefusalReason::NoCapableResource, shape.class.clone(), had);
    }
    if !needs.models.is_empty() && !needs.models.contains(&spec.model) {
        return found(RefusalReason::Model, needs.models.join(" or "), spec.model.clone());
    }
    if let Some(modality) = needs.modalities.iter().find(|name| !spec.modalities.contains(name)) {
        return found(RefusalReason::Modality, modality.clone(), spec.modalities.join(", "));
    }
    if !needs.regions.is_empty() && !needs.regions.contains(&spec.region) {
        return found(RefusalReason::Region, needs.regions.join(" or "), spec.region.clone());
    }
    if !spec.tenants.is_empty() && !spec.tenants.contains(&shape.tenant) {
        return found(RefusalReason::Tenant, shape.tenant.clone(), spec.tenants.join(", "));
    }
    if let Some(least) = needs.min_quality {
        let class = state.learned.class(&shape.class);
        let quality = predicted_quality(state, class, shape, (index, resource)).mean;
        if quality < least {
            return found(RefusalReason::Quality, least.to_string(), quality.to_string());
        }
    }
    if !resource.serves() {
        let had = match (resource.removed, resource.broken) {
            (true, _) => "removed".to_owned(),
            (false, Broken::Stopped) => format!("{}: a breaker is open", resource.health.name()),
            (false, Broken::No | Broken::Probed) => resource.health.name().to_owned(),
        };
        return found(RefusalReason::Health, "healthy or degraded".to_owned(), had);
    }
    if has_no_pool(state, resource) {
        let needed = format!("a decision topic of pool {}", spec.pool);
        return found(RefusalReason::PoolTopicMissing, needed, "none".to_owned());
    }
    None
}

fn has_no_pool(state: &State, resource: &Resource) -> bool {
    state.policy.pools_missing.contains(&resource.spec.pool)
}

/// Whether most of what a task may use is down by its breakers, and something is left of it. Then something
/// else is wrong, and sending everything to the rest would only break that too, so breakers are not asked
/// (Envoy's panic threshold, of which a task's candidates are the cluster). Where nothing is left there is no rest
/// to protect, and attempts that all fail are worth less than waiting for a probe that succeeds.
fn panics<'a>(all: impl Iterator<Item = &'a Resource>) -> bool {
    let (mut down, mut left) = (0, 0);
    for resource in all {
        // Of all lanes, so that lanes agree on it.
        let slots = u64::from(resource.spec.slots);
        match resource.broken {
            Broken::No => left += slots,
            Broken::Probed | Broken::Stopped => down += slots,
        }
    }
    left > 0 && down > left
}

fn candidates(state: &State, shape: SharedShape) -> Candidates {
    let class = state.learned.class(&shape.class);
    let (mut list, mut stopped) = (Vec::new(), Vec::new());
    let mut furthest = RefusalReason::NoCapableResource;
    for (index, resource) in state.fleet.iter() {
        // What is gone from the fleet is no candidate that could be refused.
        if resource.removed {
            continue;
        }
        let candidate = || Candidate::of(state, class, &shape, (index, resource));
        if let Some(miss) = miss(state, &shape, (index, resource)) {
            let is_stopped = miss.rule == RefusalReason::Health
                && resource.broken == Broken::Stopped
                && !has_no_pool(state, resource);
            if is_stopped {
                stopped.push(candidate());
            }
            if rank(miss.rule) > rank(furthest) {
                furthest = miss.rule;
            }
            continue;
        }
        list.push(candidate());
    }
    let both = list.iter().chain(&stopped).map(|candidate| state.fleet.at(candidate.resource));
    if !stopped.is_empty() && panics(both) {
        list.append(&mut stopped);
        list.sort_unstable_by_key(|candidate| candidate.resource);
    }
    let tenant = state.tenants.index_of(&shape.tenant);
    Candidates { tenant, class, shape, list, stopped, furthest }
}

/// Where a resource is in a list.
fn place(list: &[Candidate], index: ResourceIndex) -> Option<usize> {
    list.binary_search_by_key(&index, |candidate| candidate.resource).ok()
}

/// Brings the numbers of these resources up to date; `false` where the lists may be others now. The only rule of a
/// shape that results can change is the quality that it asks for.
fn renew(
    state: &State,
    candidates: &mut Candidates,
    changed: impl Iterator<Item = ResourceIndex>,
) -> bool {
    let Candidates { shape, class, list, stopped, .. } = candidates;
    *class = class.or_else(|| state.learned.class(&shape.class));
    for index in changed {
        let resource = state.fleet.at(index);
        let known = match (place(list, index), place(stopped, index)) {
            (Some(place), _) => list.get_mut(place),
            (None, Some(place)) => stopped.get_mut(place),
            (None, None) => None,
        };
        if shape.requirements.min_quality.is_some() && !resource.removed {
            let missed = miss(state, shape, (index, resource)).map(|miss| rank(miss.rule));
            let quality = rank(RefusalReason::Quality);
            let is_same = match &known {
                Some(_) => missed != Some(quality),
                None => missed.is_some_and(|missed| missed < quality),
            };
            if !is_same {
                return false;
            }
        }
        if let Some(known) = known {
            *known = Candidate::of(state, *class, shape, (index, resource));
        }
    }
    true
}

/// The same candidates with what has been learned since, of any of them.
fn renewed(state: &State, known: &Candidates) -> Candidates {
    if known.shape.requirements.min_quality.is_some() {
        return candidates(state, Arc::clone(&known.shape));
    }
    let class = state.learned.class(&known.shape.class);
    let again = |candidate: &Candidate| {
        let index = candidate.resource;
        Candidate::of(state, class, &known.shape, (index, state.fleet.at(index)))
    };
    let list = known.list.iter().map(again).collect();
    let stopped = known.stopped.iter().map(again).collect();
    Candidates { shape: Arc::clone(&known.shape), class, list, stopped, ..*known }
}

/// The candidates of a shape, as of what was learned at a time.
#[derive(Debug)]
struct Known {
    hash: u64,
    learned: u64,
    candidates: Arc<Candidates>,
}

impl Known {
    /// With what has been learned since.
    fn renewed(&mut self, state: &State) -> Arc<Candidates> {
        if self.learned != state.learned.version() {
            let changed = state.learned.learned_since(self.learned);
            self.learned = state.learned.version();
            let is_renewed = changed
                .is_some_and(|changed| renew(state, Arc::make_mut(&mut self.candidates), changed));
            if !is_renewed {
                self.candidates = Arc::new(renewed(state, &self.candidates));
            }
        }
        Arc::clone(&self.candidates)
    }
}

/// What could be derived again at any time: the candidate lists, and room to work in. Decisions
/// depend on its claims, which begin anew with every batch.
#[derive(Debug, Default)]
pub struct Memo {
    version: u64,
    lists: HashTable<Known>,
    /// Candidates in all lists together.
    kept: usize,
    pub(super) scored: Vec<(f64, ResourceIndex)>,
    /// Of those that exploration may choose: chance and score.
    pub(super) chances: Vec<(f64, f64, ResourceIndex)>,
    /// What tasks that were asked before wait for, in the batch that is being assigned.
    claims: BTreeMap<ResourceIndex, Claim>,
    /// What tasks of the batch went without.
    pub lacks: Lacks,
}

/// Candidates that all lists may hold together: 80 bytes each, so 21 MB.
const CANDIDATES_MAX: usize = 1 << 18;

/// Shapes that are kept. Producers choose shapes, so their number must not grow without end.
const SHAPES_MAX: usize = 1 << 14;

impl Memo {
    pub(super) fn forget_claims(&mut self) {
        self.claims.clear();
    }

    pub(super) fn claim(&self, resource: ResourceIndex) -> Claim {
        self.claims.get(&resource).copied().unwrap_or_default()
    }

    pub(super) fn add_claim(&mut self, resource: ResourceIndex, tokens: u64) {
        let claim = self.claims.entry(resource).or_default();
        claim.tasks = claim.tasks.saturating_add(1);
        claim.tokens = claim.tokens.saturating_add(tokens);
    }

    fn renew(&mut self, state: &State) {
        let full = self.kept > CANDIDATES_MAX || self.lists.len() >= SHAPES_MAX;
        if self.version != state.fleet.version() || full {
            self.lists.clear();
            self.kept = 0;
            self.version = state.fleet.version();
        }
    }

    fn add(&mut self, state: &State, hash: u64, shape: SharedShape) -> Arc<Candidates> {
        let made = Arc::new(candidates(state, shape));
        self.kept += made.list.len() + made.stopped.len();
        let known = Known { hash, learned: state.learned.version(), candidates: made.clone() };
        self.lists.insert_unique(hash, known, |known| known.hash);
        made
    }

    /// The candidates of a task's shape.
    pub fn candidates_of_task(&mut self, state: &State, task: &Task) -> Arc<Candidates> {
        self.renew(state);
        let hash = Shape::hash_of(task);
        match self.lists.find_mut(hash, |known| known.candidates.shape.fits(task)) {
            Some(known) => known.renewed(state),
            None => self.add(state, hash, Arc::new(Shape::of(task))),
        }
    }

    /// The candidates of a shape.
    pub fn candidates_of(&mut self, state: &State, shape: &SharedShape) -> Arc<Candidates> {
        self.renew(state);
        let hash = shape.hash();
        match self.lists.find_mut(hash, |known| known.candidates.shape == *shape) {
            Some(known) => known.renewed(state),
            None => self.add(state, hash, shape.clone()),
        }
    }
}

#[cfg(test)]
mod tests;
