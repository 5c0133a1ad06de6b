//! Until when a router could start a task: a planner that may wait longer would be no fair measure, one
//! that may wait less no bound.

use crate::backtest::scenario::Scenario;
use crate::backtest::site::{End, Run};
use crate::model::health::HealthStatus;
use crate::model::policy::Policy;

/// From a task's arrival, or the end of its attempt, to the batch in which its wait begins: batches are
/// 20 ms apart, and one that is full leaves the rest to the next.
const BATCH_SLACK_MS: u64 = 1_000;

/// The last start of each task, milliseconds from the scenario's start. Deadlines are not in it: they
/// depend on how long an attempt takes.
///
/// A task waits at most `wait_ms_max`. Where an attempt fails in an outage, or is failed over, it waits
/// anew; only tasks that can have met an incident get that time.
pub fn reach_ms(scenario: &Scenario, policy: &Policy, runs: &[&Run]) -> Vec<u64> {
    let wait_ms = policy.wait_ms_max.saturating_add(BATCH_SLACK_MS);
    let mut reach: Vec<u64> = (0..scenario.tasks.len())
        .map(|task| {
            let arrival_ms = scenario.tasks[task].arrival_ms;
            let mut reach = arrival_ms.saturating_add(wait_ms);
            for _ in 1..policy.attempts_max {
                let further = after_incident(scenario, task, arrival_ms, reach);
                match further {
                    Some(ended_ms) => reach = reach.max(ended_ms.saturating_add(wait_ms)),
                    None => break,
                }
            }
            reach
        })
        .collect();
    for run in runs {
        for (reach, fate) in reach.iter_mut().zip(&run.fates) {
            if matches!(fate.end, End::Answered { .. }) {
                *reach = (*reach).max(fate.last_start_ms);
            }
        }
    }
    reach
}

/// The latest time at which an attempt that began in a task's reach ended without an answer.
fn after_incident(scenario: &Scenario, task: usize, arrival_ms: u64, reach_ms: u64) -> Option<u64> {
    let duration_ms = |resource: usize| {
        let outcome = scenario.outcome(task, resource);
        outcome.map_or(0, |outcome| libm::ceil(outcome.duration_ms) as u64)
    };
    let failed = scenario
        .outages
        .iter()
        .filter(|outage| outage.from_ms <= reach_ms && outage.to_ms > arrival_ms)
        .map(|outage| outage.to_ms.min(reach_ms) + duration_ms(outage.resource));
    let longest_ms = (0..scenario.resources().len()).map(duration_ms).max().unwrap_or(0);
    let failed_over = scenario
        .health
        .iter()
        .filter(|(at_ms, event)| {
            event.status == HealthStatus::Unhealthy
                && *at_ms >= arrival_ms
                && *at_ms <= reach_ms + longest_ms
        })
        .map(|(at_ms, _)| *at_ms);
    failed.chain(failed_over).max()
}
