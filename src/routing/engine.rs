//! The routing engine: which resource serves a task now, with which fallbacks, or why none does.

use std::sync::Arc;

use super::TaskKey;
use super::eligibility::{Candidate, Candidates, Memo, miss, rank};
use super::fact::{Fact, NewTask, RefusedCandidate, Reservation, ResourceIndex};
use super::fleet::Terms;
use super::state::{Fallbacks, LiveTask, Phase, State, Tried};
use crate::model::decision::{REFUSALS_MAX, RouteMetrics};
use crate::model::reason::RefusalReason;
use crate::model::task::Task;
use crate::model::time::Timestamp;
use crate::planted::{Bug, clock_ms, planted};

/// The share of `max_output_tokens` that a task is expected to use, until results teach better.
/// Reservations and cost ceilings never rest on it.
const OUTPUT_SHARE_EXPECTED: f64 = 0.25;

/// What the engine needs to know of a task.
struct Ask<'a> {
    candidates: &'a Candidates,
    input_tokens: u32,
    max_output_tokens: u32,
    /// Until the deadline; `None` without one.
    left_ms: Option<f64>,
    tried: &'a [Tried],
    /// Taken in this order where they can serve, before anything else.
    preferred: Fallbacks,
}

impl Ask<'_> {
    fn tokens(&self) -> u64 {
        u64::from(self.input_tokens) + u64::from(self.max_output_tokens)
    }

    fn output_expected(&self) -> f64 {
        output_expected(self.max_output_tokens)
    }
}

/// A resource with everything that was reserved and predicted.
struct Choice {
    reservation: Reservation,
    fallbacks: Vec<ResourceIndex>,
    metrics: RouteMetrics,
}

enum Verdict {
    Serve(Choice),
    /// Nothing is free now.
    Wait(RefusalReason),
    /// Nothing will ever serve it.
    Refuse(RefusalReason),
}

/// The first rule that depends on the task's sizes and that a candidate misses.
fn size_miss(ask: &Ask<'_>, terms: &Terms) -> Option<RefusalReason> {
    if ask.tokens() > u64::from(terms.context_window)
        || ask.max_output_tokens > terms.max_output_tokens
    {
        return Some(RefusalReason::ContextWindow);
    }
    if let Some(ceiling) = ask.candidates.shape.requirements.max_cost_usd
        && terms.cost_usd(ask.input_tokens, f64::from(ask.max_output_tokens)) > ceiling
    {
        return Some(RefusalReason::Cost);
    }
    if let Some(left_ms) = ask.left_ms
        && terms.latency_ms(ask.input_tokens, ask.output_expected()) > left_ms
    {
        return Some(RefusalReason::Deadline);
    }
    None
}

fn choose(state: &State, memo: &mut Memo, ask: &Ask<'_>) -> Verdict {
    let output = ask.output_expected();
    let tokens = ask.tokens();
    let mut furthest = ask.candidates.furthest;
    let mut best: Option<(f64, u32, &Candidate)> = None;
    let mut waits = false;
    memo.scored.clear();
    let was_tried =
        |candidate: &Candidate| ask.tried.iter().any(|tried| tried.resource == candidate.resource);
    // A resource that failed this task comes again only where there is no other.
    let skips_tried =
        !ask.tried.is_empty() && ask.candidates.list.iter().any(|candidate| !was_tried(candidate));
    for candidate in &ask.candidates.list {
        if skips_tried && was_tried(candidate) {
            continue;
        }
        let terms = state.fleet.terms(candidate.resource);
        if let Some(reason) = size_miss(ask, terms) {
            if rank(reason) > rank(furthest) {
                furthest = reason;
            }
            continue;
        }
        let utility = candidate.utility(ask.input_tokens, output);
        memo.scored.push((utility, candidate.resource));
        waits |= tokens <= terms.tokens_max;
        if best.is_some_and(|(best, ..)| utility < best) {
            continue;
        }
        let room = state.fleet.room(candidate.resource);
        // Of equals, the one with more free slots.
        let better = room.fits(tokens)
            && best.is_none_or(|(best, slots, _)| utility > best || room.slots > slots);
        if better {
            best = Some((utility, room.slots, candidate));
        }
    }
    let preferred = ask.preferred.iter().find_map(|resource| {
        let (utility, _) = memo.scored.iter().find(|(_, scored)| *scored == resource)?;
        let candidate = ask.candidates.list.iter().find(|one| one.resource == resource)?;
        let room = state.fleet.room(resource);
        room.fits(tokens).then_some((*utility, room.slots, candidate))
    });
    let Some((utility, _, candidate)) = preferred.or(best) else {
        return match (memo.scored.is_empty(), waits) {
            (true, _) => Verdict::Refuse(furthest),
            (false, true) => Verdict::Wait(RefusalReason::NoCapacity),
            // No window of any candidate could ever take so many tokens.
            (false, false) => Verdict::Refuse(RefusalReason::NoCapacity),
        };
    };
    let terms = state.fleet.terms(candidate.resource);
    let cost_reserved = terms.cost_usd(ask.input_tokens, f64::from(ask.max_output_tokens));
    let usd_micros = libm::ceil(cost_reserved * 1e6) as u64;
    let admitted = match ask.candidates.tenant {
        Some(tenant) => state.tenants.admit(tenant, state.batch_time, tokens, usd_micros),
        None => Ok(None),
    };
    let burst_arrival_ns = match admitted {
        Ok(burst_arrival_ns) => burst_arrival_ns,
        Err(reason) => return Verdict::Wait(reason),
    };
    Verdict::Serve(Choice {
        reservation: Reservation {
            resource: candidate.resource,
            tokens,
            usd_micros,
            burst_arrival_ns,
        },
        fallbacks: fallbacks(state, &memo.scored, candidate.resource),
        metrics: RouteMetrics {
            quality: candidate.quality,
            cost_usd: terms.cost_usd(ask.input_tokens, output),
            latency_ms: terms.latency_ms(ask.input_tokens, output),
            utility,
            price: 0.0,
        },
    })
}

/// The next best resources, none of which shares a failure domain with the primary or another.
fn fallbacks(
    state: &State,
    scored: &[(f64, ResourceIndex)],
    primary: ResourceIndex,
) -> Vec<ResourceIndex> {
    let mut chosen = Vec::with_capacity(state.policy.fallbacks_max as usize);
    let domain = |resource| state.fleet.terms(resource).domain;
    for _ in 0..state.policy.fallbacks_max {
        let mut best: Option<(f64, ResourceIndex)> = None;
        for (utility, resource) in scored {
            let apart = domain(*resource) != domain(primary)
                && chosen.iter().all(|one| domain(*one) != domain(*resource));
            if apart && best.is_none_or(|(best, _)| *utility > best) {
                best = Some((*utility, *resource));
            }
        }
        match best {
            Some((_, resource)) => chosen.push(resource),
            None => break,
        }
    }
    chosen
}

/// A task's sizes, for an explanation.
pub(super) struct Sizes<'a> {
    pub candidates: &'a Candidates,
    pub input_tokens: u32,
    pub max_output_tokens: u32,
    pub deadline_at: Timestamp,
}

/// The output that a task is expected to have, in tokens.
pub(super) fn output_expected(max_output_tokens: u32) -> f64 {
    f64::from(max_output_tokens) * OUTPUT_SHARE_EXPECTED
}

/// Why a resource that the shape's rules let through cannot serve a task of these sizes now: the
/// rule, what it needed and what there was.
pub(super) fn size_or_room_miss(
    state: &State,
    sizes: &Sizes<'_>,
    index: ResourceIndex,
) -> Option<(RefusalReason, String, String)> {
    let ask = Ask {
        candidates: sizes.candidates,
        input_tokens: sizes.input_tokens,
        max_output_tokens: sizes.max_output_tokens,
        left_ms: left_ms(state, sizes.deadline_at),
        tried: &[],
        preferred: Fallbacks::NONE,
    };
    explain_miss(state, &ask, index)
}

fn explain_miss(
    state: &State,
    ask: &Ask<'_>,
    index: ResourceIndex,
) -> Option<(RefusalReason, String, String)> {
    let terms = state.fleet.terms(index);
    if let Some(rule) = size_miss(ask, terms) {
        let (needed, had) = explain_size(ask, terms, rule);
        return Some((rule, needed, had));
    }
    let room = state.fleet.room(index);
    if room.fits(ask.tokens()) {
        return None;
    }
    let needed = format!("1 slot, 1 request, {} tokens", ask.tokens());
    let had = format!("{} slots, {} requests, {} tokens", room.slots, room.requests, room.tokens);
    Some((RefusalReason::NoCapacity, needed, had))
}

/// Every resource that was refused, with the rule; at most [`REFUSALS_MAX`].
fn refused(state: &State, ask: &Ask<'_>) -> Vec<RefusedCandidate> {
    let shape = &ask.candidates.shape;
    let mut found = Vec::new();
    for (index, resource) in state.fleet.iter().filter(|(_, resource)| !resource.removed) {
        if found.len() == REFUSALS_MAX {
            break;
        }
        let (rule, needed, had) = match miss(state, shape, resource) {
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

fn explain_size(ask: &Ask<'_>, terms: &Terms, rule: RefusalReason) -> (String, String) {
    if rule == RefusalReason::ContextWindow {
        let needed = format!("{} tokens with {} of output", ask.tokens(), ask.max_output_tokens);
        let had = format!("{} with {}", terms.context_window, terms.max_output_tokens);
        return (needed, had);
    }
    if rule == RefusalReason::Cost {
        let ceiling = ask.candidates.shape.requirements.max_cost_usd.unwrap_or_default();
        let cost = terms.cost_usd(ask.input_tokens, f64::from(ask.max_output_tokens));
        return (format!("at most {ceiling} USD"), format!("{cost} USD"));
    }
    let left_ms = ask.left_ms.unwrap_or_default();
    let latency_ms = libm::ceil(terms.latency_ms(ask.input_tokens, ask.output_expected()));
    (format!("within {left_ms} ms"), format!("{latency_ms} ms"))
}

fn lease_until(state: &State, metrics: &RouteMetrics) -> Timestamp {
    let policy = &state.policy;
    let expected_ms = (metrics.latency_ms * policy.lease_factor) as u64;
    let read_ms = if planted(Bug::ReadClock) { clock_ms() } else { 0 };
    let lease_ms = expected_ms.clamp(policy.lease_ms_min, policy.lease_ms_max) + read_ms;
    state.batch_time.plus_ms(policy.start_within_ms.saturating_add(lease_ms))
}

/// Decides a task that the lane has not seen.
pub fn decide_task(
    state: &State,
    memo: &mut Memo,
    task: &Task,
    offset: i64,
    created_at: Timestamp,
) -> Vec<Fact> {
    let key = TaskKey::of(&task.task_id);
    if state.recent.contains(key) || state.tasks.contains_key(&key) {
        return vec![Fact::Duplicate { key }];
    }
    let refuse = |reason, candidates| Fact::Refused { key, known: false, reason, candidates };
    if task.stages.len() > 1 {
        return vec![refuse(RefusalReason::NotSupported, Vec::new())];
    }
    let candidates = memo.candidates_of_task(state, task);
    let deadline_at = task.deadline_ms.map_or(Timestamp::MAX, |ms| created_at.plus_ms(ms));
    let ask = Ask {
        candidates: &candidates,
        input_tokens: task.input_tokens,
        max_output_tokens: task.max_output_tokens,
        left_ms: left_ms(state, deadline_at),
        tried: &[],
        preferred: Fallbacks::NONE,
    };
    let verdict = choose(state, memo, &ask);
    let new_task = || {
        Arc::new(NewTask {
            task_id: task.task_id.as_str().into(),
            shape: Arc::clone(&candidates.shape),
            offset,
            deadline_at,
            input_tokens: task.input_tokens,
            max_output_tokens: task.max_output_tokens,
        })
    };
    match verdict {
        Verdict::Serve(choice) => vec![routed(state, key, Some(new_task()), 1, choice)],
        Verdict::Refuse(reason) => vec![refuse(reason, refused(state, &ask))],
        Verdict::Wait(blocked_by) => {
            let until = wait_until(state, deadline_at);
            let mut facts = Vec::with_capacity(2);
            if state.backlog.len() >= state.policy.backlog_tasks_max as usize {
                // The task that would be served last gives way.
                match state.backlog.last() {
                    Some(last) if (task.priority, until) < (last.priority, last.until) => {
                        facts.push(Fact::Refused {
                            key: last.key,
                            known: true,
                            reason: RefusalReason::BacklogFull,
                            candidates: Vec::new(),
                        });
                    }
                    Some(_) | None => {
                        return vec![refuse(RefusalReason::BacklogFull, refused(state, &ask))];
                    }
                }
            }
            facts.push(Fact::Queued { key, task: new_task(), blocked_by, until });
            facts
        }
    }
}

/// Until when a task may wait for capacity.
pub fn wait_until(state: &State, deadline_at: Timestamp) -> Timestamp {
    deadline_at.min(state.batch_time.plus_ms(state.policy.wait_ms_max))
}

/// Decides a task of the backlog. No fact where it has to wait on.
pub fn decide_waiting(state: &State, memo: &mut Memo, key: TaskKey) -> Option<Fact> {
    let live = state.tasks.get(&key)?;
    let waits = match live.phase {
        Phase::Waiting { .. } => true,
        Phase::GivenUp | Phase::InFlight { .. } => false,
    };
    if !waits {
        return None;
    }
    let candidates = memo.candidates_of(state, &live.task.shape);
    let ask = ask_of(state, &candidates, live);
    match choose(state, memo, &ask) {
        Verdict::Serve(choice) => Some(routed(state, key, None, live.attempt + 1, choice)),
        Verdict::Wait(_) => None,
        Verdict::Refuse(reason) => {
            Some(Fact::Refused { key, known: true, reason, candidates: refused(state, &ask) })
        }
    }
}

/// Whether a waiting task could be served now, so that reading its payload is worth while.
pub fn could_serve(state: &State, memo: &mut Memo, key: TaskKey) -> bool {
    decide_waiting(state, memo, key).is_some()
}

fn left_ms(state: &State, deadline_at: Timestamp) -> Option<f64> {
    (deadline_at != Timestamp::MAX).then(|| deadline_at.ms_since(state.batch_time) as f64)
}

fn ask_of<'a>(state: &State, candidates: &'a Candidates, live: &'a LiveTask) -> Ask<'a> {
    Ask {
        candidates,
        input_tokens: live.task.input_tokens,
        max_output_tokens: live.task.max_output_tokens,
        left_ms: left_ms(state, live.task.deadline_at),
        tried: live.tried(),
        preferred: live.fallbacks,
    }
}

fn routed(
    state: &State,
    key: TaskKey,
    task: Option<Arc<NewTask>>,
    attempt: u32,
    choice: Choice,
) -> Fact {
    Fact::Routed {
        key,
        task,
        attempt,
        lease_until: lease_until(state, &choice.metrics),
        reservation: choice.reservation,
        fallbacks: choice.fallbacks,
        metrics: Some(choice.metrics),
    }
}
