//! The allocator: what a result means for the reservation it belongs to.

use super::TaskKey;
use super::engine::wait_until;
use super::fact::{AttemptEnd, Fact, ResourceIndex, Shown, Then};
use super::speed::SLOW_MAX;
use super::state::{LiveTask, Phase, State};
use crate::model::reason::RefusalReason;
use crate::model::result::{ResultStatus, TaskResult};
use crate::model::time::Timestamp;

/// What a lane does with a result.
#[derive(Debug, Clone, PartialEq)]
pub enum ResultVerdict {
    Facts(Vec<Fact>),
    /// Of an attempt that had ended already; it changes nothing.
    Stale,
    /// Of a task of another lane.
    Forward {
        to_lane: u32,
    },
    /// Of a task that this lane does not know.
    UnknownTask,
    /// It names another resource than the attempt's.
    ResourceMismatch {
        expected: String,
    },
}

/// Attempts of any kind before a task is given up even though none of them failed: bounds a loop
/// of late starts or failovers.
const ATTEMPTS_ALL_MAX: u32 = 100;

/// `said_at`: the time of the result's record, by the clock of whoever wrote it.
pub fn decide_result(state: &State, result: &TaskResult, said_at: Timestamp) -> ResultVerdict {
    if let Some(lane) = result.lane
        && lane != state.lane
        && lane < state.lanes
    {
        return ResultVerdict::Forward { to_lane: lane };
    }
    let key = TaskKey::of(&result.task_id);
    let Some(live) = state.tasks.get(&key) else {
        return if state.recent.contains(key) {
            ResultVerdict::Stale
        } else {
            ResultVerdict::UnknownTask
        };
    };
    let attempt = (live.task.stage, live.attempt);
    if (result.stage, result.attempt) != attempt && result.attempt != 0 {
        return ResultVerdict::Stale;
    }
    let (resource, lease_until) = match live.phase {
        Phase::GivenUp => return ResultVerdict::Stale,
        Phase::Waiting { .. } => {
            // An attempt that ended is stale; only a cancellation reaches a waiting task.
            return match result.status {
                ResultStatus::Cancelled if result.attempt == 0 => {
                    ResultVerdict::Facts(vec![Fact::Refused {
                        key,
                        new: None,
                        reason: RefusalReason::Cancelled,
                        candidates: Vec::new(),
                    }])
                }
                ResultStatus::Cancelled
                | ResultStatus::Started
                | ResultStatus::Heartbeat
                | ResultStatus::Succeeded
                | ResultStatus::Failed
                | ResultStatus::RateLimited
                | ResultStatus::Late => ResultVerdict::Stale,
            };
        }
        Phase::InFlight { resource, lease_until, .. } => (resource, lease_until),
    };
    let expected = &state.fleet.at(resource).id;
    if !result.resource.is_empty() && *result.resource != **expected {
        return ResultVerdict::ResourceMismatch { expected: expected.to_string() };
    }
    let end = match result.status {
        ResultStatus::Started => {
            return ResultVerdict::Facts(extend_lease(state, key, (resource, lease_until)));
        }
        ResultStatus::Heartbeat => {
            let mut facts = extend_lease(state, key, (resource, lease_until));
            facts.extend(slow(state, key, live, result));
            return ResultVerdict::Facts(facts);
        }
        ResultStatus::Succeeded => AttemptEnd::Succeeded,
        ResultStatus::Failed => AttemptEnd::Failed,
        ResultStatus::RateLimited => AttemptEnd::RateLimited,
        ResultStatus::Late => AttemptEnd::Late,
        ResultStatus::Cancelled => AttemptEnd::Cancelled,
    };
    ResultVerdict::Facts(vec![attempt_ended(state, key, live, end, Some((result, said_at)))])
}

/// A sign of life keeps the lease: at least the shortest lease from now.
fn extend_lease(
    state: &State,
    key: TaskKey,
    (resource, lease_until): (ResourceIndex, Timestamp),
) -> Vec<Fact> {
    let until = state.batch_time.plus_ms(state.policy.lease_ms_min);
    // Where an attempt was lost, any sign of life says that it may have been an accident.
    if until <= lease_until && !state.health.breakers.is_silent(resource) {
        return Vec::new();
    }
    vec![Fact::LeaseExtended { key, lease_until: until.max(lease_until) }]
}

/// An attempt that was this much slower than it had shown before is worth a fact: at most eight of one
/// attempt, because what is slower than [`SLOW_MAX`] is no slower to the estimate.
const SLOW_STEP: f64 = 0.25;

/// What a heartbeat shows of the resource's speed. Only that it is slow: whoever is faster than
/// expected ends soon, and is learned from then.
fn slow(state: &State, key: TaskKey, live: &LiveTask, result: &TaskResult) -> Option<Fact> {
    let Phase::InFlight { resource, reserved_at, tokens, slow: told, .. } = live.phase else {
        return None;
    };
    let input = result.input_tokens.unwrap_or(live.task.input_tokens);
    // A worker that does not say since when may have begun as late as it may begin.
    let since_ms = state.batch_time.ms_since(reserved_at);
    let since_ms = since_ms.saturating_sub(state.policy.start_within_ms) as f64;
    let elapsed_ms = result.duration_ms.unwrap_or(since_ms);
    // One that does not say how far it is may be as far as it was allowed to come.
    let all = f64::from(output_reserved(live, tokens));
    let class = state.learned.class(&live.task.shape.class);
    let output = match result.output_tokens {
        Some(so_far) => {
            let max_output_tokens = live.task.max_output_tokens;
            (f64::from(so_far), state.learned.output_expected(class, max_output_tokens))
        }
        None => (all, all),
    };
    let terms = state.fleet.terms(resource);
    let slow = state.learned.slow(resource, terms, input, output, elapsed_ms);
    let slow = if slow < SLOW_MAX { slow } else { SLOW_MAX };
    (slow >= f64::from(told) + SLOW_STEP).then_some(Fact::AttemptSlow { key, slow: slow as f32 })
}

/// Output that an attempt may have, of all tokens that it has reserved.
pub fn output_reserved(live: &LiveTask, tokens: u64) -> u32 {
    tokens.saturating_sub(u64::from(live.task.input_tokens)) as u32
}

/// What of an attempt's time was not the answer's, milliseconds; `None` where nothing tells.
///
/// The result is dated by another clock. Where that is ahead the result was read before its date, by this
/// lane's clock; where it is so far behind that the date lies before the decision, it says nothing. Between
/// those two the error is no larger than the clocks' difference; and no attempt begins later than it may.
fn queued_ms(
    state: &State,
    live: &LiveTask,
    result: &TaskResult,
    said_at: Timestamp,
) -> Option<f64> {
    let Phase::InFlight { reserved_at, .. } = live.phase else { return None };
    let duration_ms = result.duration_ms?;
    if said_at < reserved_at {
        return None;
    }
    let ended_ms = said_at.min(state.batch_time).ms_since(reserved_at) as f64;
    Some((ended_ms - duration_ms).clamp(0.0, state.policy.start_within_ms as f64))
}

/// The fact that ends an attempt in flight, with the corrected debits. `result`: what said so, and the
/// time of its record.
pub fn attempt_ended(
    state: &State,
    key: TaskKey,
    live: &LiveTask,
    end: AttemptEnd,
    result: Option<(&TaskResult, Timestamp)>,
) -> Fact {
    let (resource, reserved_tokens, reserved_micros) = match live.phase {
        Phase::InFlight { resource, tokens, usd_micros, .. } => (resource, tokens, usd_micros),
        Phase::Waiting { .. } | Phase::GivenUp => (0, 0, 0),
    };
    let reported = result.and_then(|(result, _)| {
        let (input, output) = (result.input_tokens, result.output_tokens);
        (input.is_some() || output.is_some()).then(|| {
            let input = input.unwrap_or(live.task.input_tokens);
            let output = output.unwrap_or_else(|| match end {
                // The provider refused it, or it was never sent.
                AttemptEnd::RateLimited | AttemptEnd::Late => 0,
                AttemptEnd::Succeeded
                | AttemptEnd::Failed
                | AttemptEnd::Cancelled
                | AttemptEnd::LeaseExpired
                | AttemptEnd::FailedOver => output_reserved(live, reserved_tokens),
            });
            let usd = state.fleet.terms(resource).cost_usd(input, f64::from(output));
            (u64::from(input) + u64::from(output), libm::ceil(usd * 1e6) as u64)
        })
    });
    let everything = (reserved_tokens, reserved_micros);
    let (used, usd_micros) = match end {
        AttemptEnd::Succeeded | AttemptEnd::Failed | AttemptEnd::Cancelled => {
            reported.unwrap_or(everything)
        }
        // The provider refused it, or it was never sent.
        AttemptEnd::RateLimited | AttemptEnd::Late => reported.unwrap_or((0, 0)),
        // Nobody knows what was used.
        AttemptEnd::LeaseExpired | AttemptEnd::FailedOver => everything,
    };
    let failures = live.failures + u32::from(end.is_failure());
    let spent = failures >= state.policy.attempts_max || live.attempt >= ATTEMPTS_ALL_MAX;
    let then = match end {
        AttemptEnd::Succeeded if !live.task.later().is_empty() => Then::Next,
        AttemptEnd::Succeeded | AttemptEnd::Cancelled => Then::Done,
        AttemptEnd::Failed
        | AttemptEnd::RateLimited
        | AttemptEnd::Late
        | AttemptEnd::LeaseExpired
        | AttemptEnd::FailedOver => {
            if spent {
                Then::GiveUp
            } else {
                Then::Again
            }
        }
    };
    Fact::AttemptEnded {
        key,
        end,
        tokens: used.min(reserved_tokens),
        requests: u32::from(end != AttemptEnd::Late),
        overrun_tokens: used.saturating_sub(reserved_tokens),
        usd_micros,
        then,
        until: wait_until(state, live.task.deadline_at),
        shown: result.map(|(result, said_at)| Shown {
            quality: result.quality,
            input_tokens: result.input_tokens,
            output_tokens: result.output_tokens,
            time_to_first_token_ms: result.time_to_first_token_ms,
            duration_ms: result.duration_ms,
            queued_ms: queued_ms(state, live, result, said_at),
            retry_after_ms: result.retry_after_ms,
        }),
    }
}
