//! The routing engine: which resource serves a task now, with which fallbacks, or why none does.

mod ahead;
mod explore;
mod fallbacks;
mod held_back;
mod kept;
mod prices;
mod refused;
mod rooms;
mod survey;

use std::cmp::Reverse;
use std::sync::Arc;

use super::TaskKey;
use super::admission::Lacking;
use super::affinity::session_of;
use super::backlog::places_kept;
use super::chain::{StageAsk, first_shape, stages_of};
use super::eligibility::{Candidates, Memo};
use super::fact::{Bid, Fact, Loss, NewTask, Newcomer, Reservation, ResourceIndex};
use super::features::Projected;
use super::state::{Fallbacks, LiveTask, Phase, State};
use crate::model::decision::RouteMetrics;
use crate::model::reason::RefusalReason;
use crate::model::task::Task;
use crate::model::time::Timestamp;
use crate::planted::{Bug, clock_ms, planted};

pub(super) use ahead::{Ahead, Stretch};
use explore::{Die, explore};
use fallbacks::fallbacks;
use kept::{planned, preferred, roomiest};
pub(super) use prices::Prices;
use prices::usd_micros;
use refused::refused;
pub(super) use refused::{Sizes, later_worth, moved, size_or_room_miss};
use survey::{Ask, Offer, Survey};

/// A resource with everything that was reserved and predicted.
struct Choice {
    reservation: Reservation,
    fallbacks: Vec<ResourceIndex>,
    metrics: RouteMetrics,
    plans: Vec<Vec<ResourceIndex>>,
}

enum Verdict {
    Serve(Choice),
    /// Nothing is free now, or nothing that is worth more than what is free soon.
    Wait(RefusalReason),
    /// Nothing will ever serve it.
    Refuse(RefusalReason),
}

/// A verdict, and what the task brought to it.
struct Judged {
    verdict: Verdict,
    bid: Option<Bid>,
    loss: Loss,
}

fn choose(state: &State, memo: &mut Memo, die: Die, ask: &Ask<'_>) -> Judged {
    let found = Survey::of(state, memo, ask);
    Judged {
        bid: found.bid(state, ask),
        loss: found.loss(state),
        verdict: verdict(state, memo, die, ask, &found),
    }
}

fn verdict(state: &State, memo: &mut Memo, die: Die, ask: &Ask<'_>, found: &Survey<'_>) -> Verdict {
    let kept = match found.now {
        Some(now) if ask.is_failed_over() => Some(roomiest(state, memo, ask, now)),
        Some(_) | None => preferred(state, memo, ask),
    };
    if let Some(offer) = kept {
        return serve(state, memo, ask, (offer, 1.0));
    }
    let better = found.worth_waiting(state, memo, ask);
    match (found.now, better) {
        (Some(now), None) => {
            if memo.lacks.are_asked()
                && let Some(better) = found.never_here(state, ask)
            {
                memo.lacks.went_without(state, better, ask.taking(state, better));
            }
            if let Some(offer) = planned(state, memo, ask, now) {
                return serve(state, memo, ask, (offer, 1.0));
            }
            let taken = explore(state, memo, ask, die, now);
            serve(state, memo, ask, taken)
        }
        (_, better) => {
            // Who waits for money stands in nobody's way.
            if let Some(offer) = better.or(found.first())
                && ask.unaffordable(state, offer.candidate.resource).is_none()
            {
                memo.add_claim(offer.candidate.resource, ask.tokens());
            }
            if memo.lacks.are_asked()
                && let Some(offer) = better.or(found.first_later())
            {
                let resource = offer.candidate.resource;
                let taking = ask.taking(state, resource);
                match ask.unaffordable(state, resource) {
                    Some(tenant) => memo.lacks.tenant_waits(state, tenant, taking),
                    // What holds back lacks nothing.
                    None if ask.capacity(state, resource).fits(ask.tokens()) => {}
                    None => memo.lacks.resource_waits(state, resource, taking),
                }
            }
            match (found.has_any(), found.waits_for()) {
                (true, _) if found.is_rationed() => Verdict::Wait(RefusalReason::PricedOut),
                (_, Some(reason)) => Verdict::Wait(reason),
                // No window of any candidate could ever take so many tokens.
                (true, None) => Verdict::Refuse(RefusalReason::NoCapacity),
                (false, None) => Verdict::Refuse(found.furthest),
            }
        }
    }
}

fn serve(
    state: &State,
    memo: &mut Memo,
    ask: &Ask<'_>,
    (offer, propensity): (Offer<'_>, f64),
) -> Verdict {
    let candidate = offer.candidate;
    let (tokens, output) = (ask.tokens(), ask.output_expected);
    let (fallbacks, plans) = fallbacks(state, &memo.scored, ask, candidate.resource);
    let terms = state.fleet.terms(candidate.resource);
    let taking = ask.taking(state, candidate.resource);
    let admitted = state.tenants.admit(ask.candidates.tenant, state.batch_time, &taking);
    let burst_arrival_ns = match admitted {
        Ok(burst_arrival_ns) => burst_arrival_ns,
        Err(Lacking { tenant, rule, .. }) => {
            if memo.lacks.are_asked() {
                memo.lacks.tenant_waits(state, tenant, taking);
            }
            return Verdict::Wait(rule);
        }
    };
    let cost_usd = terms.cost_usd(ask.input_tokens, output);
    Verdict::Serve(Choice {
        reservation: Reservation {
            resource: candidate.resource,
            tokens,
            tokens_expected: u64::from(ask.input_tokens) + output as u64,
            usd_micros: taking.usd_micros,
            usd_micros_expected: usd_micros(cost_usd),
            burst_arrival_ns,
        },
        plans,
        fallbacks,
        metrics: RouteMetrics {
            quality: ask
                .moved(state, candidate.resource)
                .map_or(candidate.quality, |moved| moved.quality),
            cost_usd,
            latency_ms: ask.latency(state, candidate.resource).expected_ms,
            utility: ask.utility(state, candidate),
            price: offer.price,
            propensity,
        },
    })
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
    let new = || Some(Newcomer::of(task));
    let refuse = |reason, candidates| Fact::Refused { key, new: new(), reason, candidates };
    let opening = Opening::of(state, memo, task);
    let candidates = &opening.candidates;
    let ahead = opening.ahead(state, memo, task);
    let ask = ask_of_new(state, &opening, ahead.as_ref(), task, created_at);
    let deadline_at = deadline_at(task, created_at);
    let new_task =
        || Arc::new(NewTask::of(task, Arc::clone(&candidates.shape), offset, deadline_at));
    let die = Die::first(key);
    let mut judged = choose(state, memo, die, &ask);
    let is_full = state.backlog.len() >= state.policy.backlog_tasks_max as usize;
    if is_full && matches!(judged.verdict, Verdict::Wait(_)) {
        // There is no place to wait for something better.
        judged = choose(state, memo, die, &Ask { wait_ms: None, ..ask });
    }
    let Judged { verdict, bid, loss } = judged;
    match verdict {
        Verdict::Serve(choice) => vec![routed(state, key, Some((new_task(), bid)), 1, choice)],
        Verdict::Refuse(reason) => vec![refuse(reason, refused(state, &ask))],
        Verdict::Wait(blocked_by) => {
            let until = wait_until(state, deadline_at);
            let mut facts = Vec::with_capacity(2);
            if is_full {
                // The task that would be served last gives way.
                let place = (task.priority, Reverse(loss), until);
                let weight = |tenant: &str| state.tenants.weight(tenant);
                let kept = places_kept(&state.policy);
                match state.backlog.gives_way(place, &task.tenant, weight, kept) {
                    Some(last) => {
                        facts.push(Fact::Refused {
                            key: last.key,
                            new: None,
                            reason: RefusalReason::BacklogFull,
                            candidates: Vec::new(),
                        });
                    }
                    None => {
                        return vec![refuse(RefusalReason::BacklogFull, refused(state, &ask))];
                    }
                }
            }
            facts.push(Fact::Queued { key, task: new_task(), blocked_by, until, loss, bid });
            facts
        }
    }
}

/// What a new task stands to lose by going without its best candidate.
pub fn loss_of_new(state: &State, memo: &mut Memo, task: &Task, created_at: Timestamp) -> Loss {
    let opening = Opening::of(state, memo, task);
    let ahead = opening.ahead(state, memo, task);
    let ask = ask_of_new(state, &opening, ahead.as_ref(), task, created_at);
    Survey::of(state, memo, &ask).loss(state)
}

/// A new task as its first stage asks for it.
struct Opening {
    candidates: Arc<Candidates>,
    input_tokens: u32,
    max_output_tokens: u32,
    /// Those after the first.
    later: Option<Vec<StageAsk>>,
    /// Where they may count.
    features: Option<Box<Projected>>,
}

impl Opening {
    fn of(state: &State, memo: &mut Memo, task: &Task) -> Self {
        let features = state.learned.heeds_features().then(|| Projected::of(task)).flatten();
        if let Some(shape) = first_shape(task)
            && let Some(first) = task.stages.first()
        {
            return Opening {
                candidates: memo.candidates_of(state, &Arc::new(shape)),
                input_tokens: first.input_tokens,
                max_output_tokens: first.max_output_tokens,
                later: stages_of(task).map(|stages| stages[1..].to_vec()),
                features,
            };
        }
        Opening {
            candidates: memo.candidates_of_task(state, task),
            input_tokens: task.input_tokens,
            max_output_tokens: task.max_output_tokens,
            later: None,
            features,
        }
    }

    fn ahead<'a>(&self, state: &'a State, memo: &mut Memo, task: &Task) -> Option<Ahead<'a>> {
        let later = self.later.as_deref()?;
        let stretch = Stretch {
            shape: &self.candidates.shape,
            input_tokens: self.input_tokens,
            later,
            has_deadline: task.deadline_ms.is_some(),
            progress: None,
            is_fresh: true,
            features: self.features.as_deref(),
        };
        Some(Ahead::of(state, memo, &stretch))
    }
}

/// What lies before a task that the lane holds; `None` where it has no stages.
pub(super) fn ahead_of<'a>(
    state: &'a State,
    memo: &mut Memo,
    task: &NewTask,
    live: Option<&LiveTask>,
) -> Option<Ahead<'a>> {
    task.stages.as_ref()?;
    let stretch = Stretch {
        shape: &task.shape,
        input_tokens: task.input_tokens,
        later: task.later(),
        has_deadline: task.deadline_at != Timestamp::MAX,
        progress: live.and_then(|live| live.progress.as_deref()),
        is_fresh: live.is_some_and(|live| live.attempt == 0),
        features: task.features.as_deref(),
    };
    Some(Ahead::of(state, memo, &stretch))
}

/// Until when a task may wait for capacity.
pub fn wait_until(state: &State, deadline_at: Timestamp) -> Timestamp {
    deadline_at.min(state.batch_time.plus_ms(state.policy.wait_ms_max))
}

/// Decides a task of the backlog. No fact where it has to wait on.
pub fn decide_waiting(state: &State, memo: &mut Memo, key: TaskKey) -> Option<Fact> {
    let live = state.tasks.get(&key)?;
    let Phase::Waiting { until, .. } = live.phase else { return None };
    let candidates = memo.candidates_of(state, &live.task.shape);
    let ahead = ahead_of(state, memo, &live.task, Some(live));
    let ask = ask_of(state, (&candidates, ahead.as_ref()), live, until);
    match choose(state, memo, Die::next(key, live), &ask).verdict {
        Verdict::Serve(choice) => Some(routed(state, key, None, live.attempt + 1, choice)),
        Verdict::Wait(_) => None,
        Verdict::Refuse(reason) => {
            Some(Fact::Refused { key, new: None, reason, candidates: refused(state, &ask) })
        }
    }
}

/// Refuses a task whose time to wait has ended, for what it goes without now. No fact where it
/// could be served, so that its record is worth the time that reading it takes.
pub fn decide_ended_wait(state: &State, memo: &mut Memo, key: TaskKey) -> Option<Fact> {
    let live = state.tasks.get(&key)?;
    let Phase::Waiting { until, .. } = live.phase else { return None };
    let candidates = memo.candidates_of(state, &live.task.shape);
    let ahead = ahead_of(state, memo, &live.task, Some(live));
    let ask = ask_of(state, (&candidates, ahead.as_ref()), live, until);
    let reason = match choose(state, memo, Die::next(key, live), &ask).verdict {
        Verdict::Serve(_) => return None,
        Verdict::Wait(_) | Verdict::Refuse(_) if live.task.deadline_at <= state.batch_time => {
            RefusalReason::Deadline
        }
        Verdict::Wait(reason) | Verdict::Refuse(reason) => reason,
    };
    Some(Fact::Refused { key, new: None, reason, candidates: refused(state, &ask) })
}

fn left_ms(state: &State, deadline_at: Timestamp) -> Option<f64> {
    (deadline_at != Timestamp::MAX).then(|| deadline_at.ms_since(state.batch_time) as f64)
}

/// Until when a task is to be answered; [`Timestamp::MAX`] where it does not say.
pub fn deadline_at(task: &Task, created_at: Timestamp) -> Timestamp {
    task.deadline_ms.map_or(Timestamp::MAX, |ms| created_at.plus_ms(ms))
}

fn ask_of_new<'a>(
    state: &State,
    opening: &'a Opening,
    ahead: Option<&'a Ahead<'a>>,
    task: &Task,
    created_at: Timestamp,
) -> Ask<'a> {
    let Opening { candidates, input_tokens, max_output_tokens, .. } = opening;
    let (input_tokens, max_output_tokens) = (*input_tokens, *max_output_tokens);
    let deadline_at = deadline_at(task, created_at);
    Ask {
        candidates,
        input_tokens,
        max_output_tokens: state.output_reserved(candidates.class, max_output_tokens),
        output_expected: state.learned.output_expected(candidates.class, max_output_tokens),
        left_ms: left_ms(state, deadline_at),
        wait_ms: Some(wait_until(state, deadline_at).ms_since(state.batch_time) as f64),
        tried: &[],
        preferred: Fallbacks::NONE,
        ahead,
        affine: state.affinity.of(session_of(task)),
        features: state.learned.heeded(opening.features.as_deref()),
    }
}

fn ask_of<'a>(
    state: &State,
    (candidates, ahead): (&'a Candidates, Option<&'a Ahead<'a>>),
    live: &'a LiveTask,
    until: Timestamp,
) -> Ask<'a> {
    // What is expected of its class was not enough, or may not have been.
    let max_output_tokens = match live.attempt {
        0 => state.output_reserved(candidates.class, live.task.max_output_tokens),
        _ => live.task.max_output_tokens,
    };
    // Who had an attempt has lost time already.
    let wait_ms = (live.attempt == 0).then(|| until.ms_since(state.batch_time) as f64);
    Ask {
        candidates,
        input_tokens: live.task.input_tokens,
        max_output_tokens,
        output_expected: state
            .learned
            .output_expected(candidates.class, live.task.max_output_tokens),
        left_ms: left_ms(state, live.task.deadline_at),
        wait_ms,
        tried: live.tried(),
        preferred: live.fallbacks,
        ahead,
        affine: state.affinity.of(live.task.session),
        features: state.learned.heeded(live.task.features.as_deref()),
    }
}

fn routed(
    state: &State,
    key: TaskKey,
    new: Option<(Arc<NewTask>, Option<Bid>)>,
    attempt: u32,
    choice: Choice,
) -> Fact {
    let (task, bid) = match new {
        Some((task, bid)) => (Some(task), bid),
        None => (None, None),
    };
    Fact::Routed {
        key,
        task,
        attempt,
        lease_until: lease_until(state, &choice.metrics),
        reservation: choice.reservation,
        fallbacks: choice.fallbacks,
        bid,
        metrics: Some(choice.metrics),
        plans: choice.plans,
    }
}
