//! `checkSystemHealth`: how the lane fares, from its state alone.

use super::spikes::{Usual, is_full};
use super::state::State;
use crate::model::health::HealthStatus;
use crate::model::system_health::{Strategy, SystemHealth, SystemStatus};
use crate::model::task::Priority;

pub fn check_system_health(state: &State) -> SystemHealth {
    let now = state.batch_time;
    let usual = Usual::of(state);
    let [mut healthy, mut degraded, mut unhealthy, mut draining, mut full] = [0_u32; 5];
    for (index, resource) in state.fleet.iter().filter(|(_, resource)| !resource.removed) {
        match resource.health {
            HealthStatus::Healthy => healthy += 1,
            HealthStatus::Degraded => degraded += 1,
            HealthStatus::Unhealthy => unhealthy += 1,
            HealthStatus::Drain => draining += 1,
        }
        full += u32::from(resource.serves() && !usual.fits(state, index));
    }
    let spikes = &state.spikes;
    let arrivals = spikes.arrivals.at(now, 1);
    let status = if healthy + degraded == 0 {
        SystemStatus::Unhealthy
    } else if spikes.strategy == Strategy::Shed || (!state.backlog.is_empty() && is_full(state)) {
        SystemStatus::Saturated
    } else if degraded + unhealthy > 0 || spikes.strategy >= Strategy::Degrade {
        SystemStatus::Degraded
    } else {
        SystemStatus::Healthy
    };
    let backlog = |priority| state.backlog.count(priority) as u64;
    SystemHealth {
        status,
        strategy: spikes.strategy,
        strategy_since_ms: spikes.since,
        healthy,
        degraded,
        unhealthy,
        draining,
        full,
        backlog_critical: backlog(Priority::Critical),
        backlog_interactive: backlog(Priority::Interactive),
        backlog_batch: backlog(Priority::Batch),
        surge: arrivals.is_surge(),
        arrivals_per_s: arrivals.rate(),
        arrivals_per_s_usual: arrivals.rate_usual(),
        arrivals_per_s_expected: arrivals.rate_expected(),
        routed_per_s: spikes.routed.per_s(now),
        refused_per_s: spikes.refused.per_s(now),
        shed_per_s: spikes.shed.per_s(now),
        tenants_surging: spikes.surging(now).map(str::to_owned).collect(),
    }
}
