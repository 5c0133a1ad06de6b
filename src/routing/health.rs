//! The health of resources: the last event of each scope and source, this lane's own breakers, and
//! what they mean together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::breaker::Position;
use super::breakers::Breakers;
use super::fact::ResourceIndex;
use super::fleet::{Fleet, Resource};
use super::headroom::Headroom;
use crate::model::health::{BREAKER_SOURCE, HealthEvent, HealthScope, HealthStatus};
use crate::model::time::Timestamp;

/// Events that are not healthy, of all scopes and sources: as many as a fleet of resources with a
/// breaker of each of a few lanes. Anyone may publish, so their number must not grow without end.
pub const EVENTS_MAX: usize = 1 << 16;

/// How bad a resource is taken to be whose breaker is open while most are.
const PANIC_SEVERITY: f64 = 0.5;

type Scope = (HealthScope, String);

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Health {
    /// The last event of every scope that is not healthy, by source.
    events: BTreeMap<Scope, BTreeMap<String, (HealthStatus, f64)>>,
    kept: usize,
    pub breakers: Breakers,
    pub headroom: Headroom,
    /// The breakers of most slots were open when last looked at.
    panicking: bool,
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

fn worse(one: (HealthStatus, f64), other: (HealthStatus, f64)) -> (HealthStatus, f64) {
    match rank(other.0).cmp(&rank(one.0)) {
        std::cmp::Ordering::Greater => other,
        std::cmp::Ordering::Equal => (one.0, f64::max(one.1, other.1)),
        std::cmp::Ordering::Less => one,
    }
}

/// The source of a lane's breakers.
pub fn breaker_source(lane: u32) -> String {
    format!("{BREAKER_SOURCE}{lane}")
}

impl Health {
    /// Whether an event would exceed what is kept.
    pub fn is_full_for(&self, event: &HealthEvent) -> bool {
        if !event.limits.is_empty() {
            return self.headroom.is_full_for(event);
        }
        event.status != HealthStatus::Healthy
            && self.kept >= EVENTS_MAX
            && !self
                .events
                .get(&(event.scope, event.id.clone()))
                .is_some_and(|sources| sources.contains_key(&event.source))
    }

    pub fn set(&mut self, lane: u32, event: &HealthEvent) {
        // What this lane said itself it knows better from its breakers.
        if event.source == breaker_source(lane) {
            return;
        }
        let scope = (event.scope, event.id.clone());
        // What lowers limits says nothing else.
        if event.status == HealthStatus::Healthy || !event.limits.is_empty() {
            if let Some(sources) = self.events.get_mut(&scope) {
                self.kept -= usize::from(sources.remove(&event.source).is_some());
                if sources.is_empty() {
                    self.events.remove(&scope);
                }
            }
        } else {
            let sources = self.events.entry(scope).or_default();
            let before = sources.insert(event.source.clone(), (event.status, event.severity));
            self.kept += usize::from(before.is_none());
        }
    }

    /// The worst status over the scopes of a resource, as the events have it, and its severity.
    fn told(&self, resource: &Resource) -> (HealthStatus, f64) {
        let spec = &resource.spec;
        let scopes = [
            (HealthScope::Resource, spec.id.clone()),
            (HealthScope::Provider, spec.provider.clone()),
            (HealthScope::Region, spec.region.clone()),
            (HealthScope::FailureDomain, spec.domain()),
        ];
        let sources = scopes.iter().filter_map(|scope| self.events.get(scope));
        sources.flat_map(BTreeMap::values).copied().fold((HealthStatus::Healthy, 0.0), worse)
    }

    /// Whether the breakers of most resources are open. Then something else is wrong, and sending
    /// everything to the rest would only make it worse (Envoy's panic threshold).
    fn panics(&self, fleet: &Fleet) -> bool {
        let (mut open, mut all) = (0, 0);
        for (index, resource) in fleet.iter().filter(|(_, resource)| !resource.removed) {
            let slots = u64::from(resource.slots_units);
            all += slots;
            if matches!(self.breakers.position(index), Position::Open { .. }) {
                open += slots;
            }
        }
        fleet.iter().filter(|(_, resource)| !resource.removed).count() > 1 && 2 * open > all
    }

    /// Slots of `units` that new work may hold at `now`.
    pub fn slots(&self, index: ResourceIndex, units: u32, now: Timestamp) -> u32 {
        match self.breakers.position(index) {
            Position::Open { .. } if self.panicking => units,
            Position::Closed
            | Position::Open { .. }
            | Position::HalfOpen { .. }
            | Position::Recovering { .. } => self.breakers.slots(index, units, now),
        }
    }

    /// Brings the fleet up to date.
    pub fn apply(&mut self, fleet: &mut Fleet, now: Timestamp) {
        self.panicking = self.panics(fleet);
        let of = |index: ResourceIndex, resource: &Resource| {
            let own = match self.breakers.position(index) {
                Position::Open { .. } if self.panicking => (HealthStatus::Degraded, PANIC_SEVERITY),
                Position::Open { .. } => (HealthStatus::Unhealthy, 1.0),
                // What goes there is bounded by its slots.
                Position::Closed | Position::HalfOpen { .. } | Position::Recovering { .. } => {
                    (HealthStatus::Healthy, 0.0)
                }
            };
            (worse(self.told(resource), own), self.slots(index, resource.slots_units, now))
        };
        let found: Vec<_> =
            fleet.iter().map(|(index, resource)| (index, of(index, resource))).collect();
        for (index, ((status, severity), slots)) in found {
            let before = fleet.at(index);
            if (before.health, before.severity) != (status, severity) {
                fleet.set_health(index, status, severity);
            }
            fleet.admit(index, slots);
        }
    }
}
