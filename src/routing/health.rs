//! The health of resources: the last event of each scope, and what they mean together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::fleet::{Fleet, Resource};
use crate::model::health::{HealthEvent, HealthScope, HealthStatus};

/// The last event of every `(scope, id)` that is not healthy.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Health {
    events: BTreeMap<(HealthScope, String), (HealthStatus, f64)>,
}

/// How much a status keeps away: the worst of all scopes holds.
fn rank(status: HealthStatus) -> u8 {
    match status {
        HealthStatus::Healthy => 0,
        HealthStatus::Degraded => 1,
        HealthStatus::Drain => 2,
        HealthStatus::Unhealthy => 3,
    }
}

impl Health {
    pub fn set(&mut self, event: &HealthEvent) {
        let key = (event.scope, event.id.clone());
        if event.status == HealthStatus::Healthy {
            self.events.remove(&key);
        } else {
            self.events.insert(key, (event.status, event.severity));
        }
    }

    /// The worst status over the scopes of a resource, and its severity.
    pub fn of(&self, resource: &Resource) -> (HealthStatus, f64) {
        let spec = &resource.spec;
        let scopes = [
            (HealthScope::Resource, spec.id.clone()),
            (HealthScope::Provider, spec.provider.clone()),
            (HealthScope::Region, spec.region.clone()),
            (HealthScope::FailureDomain, spec.domain()),
        ];
        let events = scopes.iter().filter_map(|scope| self.events.get(scope).copied());
        events.fold((HealthStatus::Healthy, 0.0), |worst, event| {
            match rank(event.0).cmp(&rank(worst.0)) {
                std::cmp::Ordering::Greater => event,
                std::cmp::Ordering::Equal => (worst.0, f64::max(worst.1, event.1)),
                std::cmp::Ordering::Less => worst,
            }
        })
    }

    /// Brings the fleet up to date; returns the resources that are unhealthy now.
    pub fn apply(&self, fleet: &mut Fleet) {
        let now: Vec<_> =
            fleet.iter().map(|(index, resource)| (index, self.of(resource))).collect();
        for (index, (status, severity)) in now {
            let before = fleet.at(index);
            if (before.health, before.severity) != (status, severity) {
                fleet.set_health(index, status, severity);
            }
        }
    }
}
