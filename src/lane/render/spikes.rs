//! What a lane says of itself: its strategy, and how it fares.

use std::borrow::Cow;

use super::super::Lane;
use super::Renderer;
use crate::model::Topic;
use crate::model::event::{BalanceEvent, BalanceKind, LoadSnapshot};
use crate::model::health::HealthStatus;
use crate::model::system_health::{Strategy, SystemHealth, SystemStatus};
use crate::routing::state::State;
use crate::routing::system_health::check_system_health;

impl Lane {
    /// `checkSystemHealth`: how the lane fares after its last batch.
    pub fn system_health(&self) -> SystemHealth {
        check_system_health(&self.state)
    }
}

impl Renderer<'_> {
    /// It concerns no single resource.
    pub(super) fn strategy(&mut self, state: &State, to: Strategy) {
        let (spikes, now) = (&state.spikes, state.batch_time);
        let arrivals = spikes.arrivals.at(now, 1);
        let mut detail = format!(
            "{} -> {}: {:.1} tasks a second arrive, usually {:.1}; {:.1} are routed",
            spikes.strategy.name(),
            to.name(),
            arrivals.rate(),
            arrivals.rate_usual(),
            spikes.routed.per_s(now),
        );
        let tenants: Vec<&str> = spikes.surging(now).collect();
        if !tenants.is_empty() {
            detail.push_str("; more than usual of ");
            detail.push_str(&tenants.join(", "));
        }
        let event = BalanceEvent {
            kind: BalanceKind::StrategyChanged,
            resource: Cow::Borrowed(""),
            lane: state.lane,
            at_ms: now,
            tasks: state.backlog.len() as u64,
            detail: Cow::Owned(detail),
        };
        let codec = self.codec;
        self.event(state, Topic::BalanceEvents, &format!("{}/", state.lane), None, |out| {
            codec.encode_balance_event(&event, out);
        });
    }

    /// The lane's own record among the load snapshots. No resource has an empty id.
    pub(super) fn system(&mut self, state: &State) {
        let system = check_system_health(state);
        let snapshot = LoadSnapshot {
            lane: state.lane,
            resource: Cow::Borrowed(""),
            at_ms: state.batch_time,
            health: match system.status {
                SystemStatus::Healthy => HealthStatus::Healthy,
                SystemStatus::Degraded | SystemStatus::Saturated => HealthStatus::Degraded,
                SystemStatus::Unhealthy => HealthStatus::Unhealthy,
            },
            load: Vec::new(),
            in_flight: state.in_flight,
            backlog: state.backlog.len() as u64,
            system: Some(system),
        };
        let codec = self.codec;
        self.event(state, Topic::LoadSnapshots, &format!("{}/", state.lane), None, |out| {
            codec.encode_load_snapshot(&snapshot, out);
        });
    }
}
