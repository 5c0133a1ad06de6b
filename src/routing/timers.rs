//! What happens because time has passed: leases end, resources that went down are failed over,
//! and waiting tasks give up. Each is bounded in a batch and goes on in the next.

use super::TaskKey;
use super::allocator::attempt_ended;
use super::fact::{AttemptEnd, Fact, ResourceIndex};
use super::state::{LiveTask, Phase, State};
use crate::model::time::Timestamp;
use crate::planted::{Bug, planted};

/// Timers of one kind that one batch serves: about 100 KiB of facts.
const TIMERS_MAX: usize = 1_024;

/// Attempts whose lease has ended for sure: all results that existed then have been read.
pub fn expired_leases(state: &State) -> Vec<TaskKey> {
    let ended = |until: Timestamp| until.plus_ms(state.policy.lease_grace_ms);
    state
        .leases
        .iter()
        .take_while(|(until, _)| {
            (ended(*until) <= state.results_caught_up_at || planted(Bug::EndLeasesEarly))
                && ended(*until) <= state.batch_time
        })
        .take(TIMERS_MAX)
        .map(|(_, key)| *key)
        .collect()
}

/// Ends one attempt whose lease is over.
pub fn decide_expired(state: &State, key: TaskKey) -> Option<Fact> {
    let live = state.tasks.get(&key)?;
    Some(attempt_ended(state, key, live, AttemptEnd::LeaseExpired, None))
}

/// Attempts in flight on resources that went down.
pub fn failing_over(state: &State) -> Vec<TaskKey> {
    if state.failovers.is_empty() {
        return Vec::new();
    }
    let moves = |live: &LiveTask| moved_from(state, live).is_some();
    let moving = state.tasks.iter().filter(|(_, live)| moves(live));
    moving.take(TIMERS_MAX).map(|(key, _)| *key).collect()
}

/// The resource that went down under a task.
fn moved_from(state: &State, live: &LiveTask) -> Option<ResourceIndex> {
    match &live.phase {
        Phase::InFlight { resource, reserved_at, .. } => {
            let failover = state.failovers.get(resource)?;
            (*reserved_at <= failover.reserved_by).then_some(*resource)
        }
        Phase::Waiting { .. } | Phase::GivenUp => None,
    }
}

pub fn decide_failover(state: &State, key: TaskKey) -> Option<Fact> {
    let live = state.tasks.get(&key)?;
    Some(attempt_ended(state, key, live, AttemptEnd::FailedOver, None))
}

/// Resources whose failover is complete.
pub fn failovers_ended(state: &State) -> Vec<Fact> {
    let mut ended = state.failovers.clone();
    // What was sent there knowingly is still there: then all tasks have to be looked at.
    if ended.keys().any(|resource| state.fleet.is_busy(*resource)) {
        for (_, live) in state.tasks.iter() {
            if let Some(resource) = moved_from(state, live) {
                ended.remove(&resource);
                if ended.is_empty() {
                    break;
                }
            }
        }
    }
    ended
        .into_iter()
        .map(|(resource, failover)| Fact::FailoverEnded { resource, tasks: failover.tasks })
        .collect()
}

/// Waiting tasks whose time has ended.
pub fn ended_waits(state: &State) -> Vec<TaskKey> {
    state.backlog.ended(state.batch_time).take(TIMERS_MAX).collect()
}

/// When a timer is due next. Leases wait for the results as well; the caller asks for those.
pub fn next(state: &State) -> Option<Timestamp> {
    let leases = state.leases.first().map(|(until, _)| until.plus_ms(state.policy.lease_grace_ms));
    let waits = state.backlog.first_until().map(|(until, _)| until);
    let failover = (!state.failovers.is_empty()).then_some(state.batch_time);
    let strategy = state.spikes.due();
    let breakers = state.health.breakers.due(|resource| state.fleet.is_busy(resource));
    let limits = state.health.headroom.due();
    [leases, waits, failover, breakers, limits, strategy].into_iter().flatten().min()
}
