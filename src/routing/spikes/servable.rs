//! Whether what waits has room now, and how much of it can be served before its time is over.
//!
//! Both are about the *usual* waiting task: what is left of a limit is rarely nothing, and a few tokens
//! are no room for a task of thousands. How much can be served follows from the limits, not from what
//! was served lately: that says nothing at the beginning of a spike, and right after an outage, and is
//! all or nothing where a limit is used up in the first seconds of its window.

use crate::model::task::Priority;
use crate::model::time::Timestamp;

use super::super::fact::{ResourceIndex, TenantIndex};
use super::super::state::State;

/// Waiting tasks that are looked at for what is usual: those whose time ends first.
const LOOKED_AT_MAX: usize = 128;

/// So many tasks may wait whatever is believed of durations.
const SERVABLE_MIN: f64 = 16.0;

/// So long after the lane has said what it lacks, the others have given what they can.
const SHARED_MS: u64 = 10_000;

/// A task as most of those are that wait.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usual {
    tenant: Option<TenantIndex>,
    priority: Priority,
    /// That it reserves: the median.
    tokens: u64,
    /// That it is expected to take: the mean.
    tokens_expected: f64,
    input_tokens: u32,
    output_expected: f64,
}

impl Usual {
    /// Of those that wait now. Where none waits, the smallest there can be.
    pub fn of(state: &State) -> Self {
        let mut found = Vec::with_capacity(LOOKED_AT_MAX);
        let mut sum = 0.0;
        for key in state.backlog.ending(LOOKED_AT_MAX) {
            let Some(live) = state.tasks.get(&key) else { continue };
            let (task, shape) = (&live.task, &live.task.shape);
            let class = state.learned.class(&shape.class);
            // What is expected of its class was not enough, or may not have been.
            let output = match live.attempt {
                0 => state.output_reserved(class, task.max_output_tokens),
                _ => task.max_output_tokens,
            };
            let output_expected = state.learned.output_expected(class, task.max_output_tokens);
            sum += f64::from(task.input_tokens) + output_expected;
            found.push((u64::from(task.input_tokens) + u64::from(output), key, output_expected));
        }
        found.sort_unstable_by_key(|(tokens, key, _)| (*tokens, *key));
        let usual = found.get(found.len() / 2).and_then(|(tokens, key, output_expected)| {
            let task = &state.tasks.get(key)?.task;
            Some(Usual {
                tenant: state.tenants.index_of(&task.shape.tenant),
                priority: task.shape.priority,
                tokens: *tokens,
                tokens_expected: sum / found.len() as f64,
                input_tokens: task.input_tokens,
                output_expected: *output_expected,
            })
        });
        usual.unwrap_or(Usual {
            tenant: None,
            priority: Priority::Batch,
            tokens: 1,
            tokens_expected: 1.0,
            input_tokens: 1,
            output_expected: 0.0,
        })
    }

    /// Whether it has room there now.
    pub fn fits(&self, state: &State, index: ResourceIndex) -> bool {
        state.room(self.tenant, index, self.priority, self.tokens).fits(self.tokens)
    }
}

/// Whether no resource that takes work has room for the usual waiting task.
pub fn is_full(state: &State) -> bool {
    let usual = Usual::of(state);
    let mut serving = state.fleet.iter().filter(|(_, resource)| resource.serves());
    serving.all(|(index, _)| !usual.fits(state, index))
}

/// Whether other lanes may still have to give of what this one lacks.
fn may_be_given(state: &State) -> bool {
    let dry_since = state.sharing.dry.values().map(|dry| dry.since).min();
    let is_new = |since: Timestamp| state.batch_time.ms_since(since) < SHARED_MS;
    state.lanes > 1 && dry_since.is_none_or(is_new)
}

/// Tasks that can be served until the last one that waits gives up: by what the limits let through and
/// what slots are free for, of all resources that take work, or may again because they went down a
/// shorter time ago than a task may wait. Limits are the whole ones while other lanes may give of
/// theirs. Where work takes less time than is believed, what was served of late is more.
pub fn servable(state: &State) -> f64 {
    let now = state.batch_time;
    let Some(last_until) = state.backlog.last_until() else { return SERVABLE_MIN };
    let (ms, usual, whole) = (last_until.ms_since(now), Usual::of(state), may_be_given(state));
    let (mut sum, mut by_rates) = (0.0, 0.0);
    for (index, resource) in state.fleet.iter() {
        let may_serve = resource.serves() || state.spikes.went_down_lately(state, index);
        if resource.removed || !may_serve {
            continue;
        }
        let busy = state.latency(index, usual.input_tokens, usual.output_expected);
        let slots = resource.slots_within(ms, busy.expected_ms, whole);
        let rates = resource.rates_within(now, ms, usual.tokens_expected, whole);
        sum += if slots < rates { slots } else { rates };
        by_rates += rates;
    }
    let paced = state.spikes.routed.per_s(now) * ms as f64 / 1_000.0;
    let paced = if paced < by_rates { paced } else { by_rates };
    [sum, paced].into_iter().fold(SERVABLE_MIN, |most, one| if one > most { one } else { most })
}
