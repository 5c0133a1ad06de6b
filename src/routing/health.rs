//! The health of resources: the last event of each scope and source, this lane's own breakers, and
//! what they mean together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::breaker::{Position, RECOVERY_MS, recovered};
use super::breakers::{Breakers, part};
use super::fact::ResourceIndex;
use super::fleet::{Admitted, Broken, Condition, Fleet, Resource};
use super::headroom::Headroom;
use crate::model::health::{BREAKER_SOURCE, HealthEvent, HealthScope, HealthStatus};
use crate::model::time::Timestamp;

/// Events that are not healthy, of all scopes and sources: as many as a fleet of resources with a
/// breaker of each of a few lanes. Anyone may publish, so their number must not grow without end.
pub const EVENTS_MAX: usize = 1 << 16;

type Scope = (HealthScope, String);

/// What a source says of a scope.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Said {
    status: HealthStatus,
    /// In [0, 1].
    severity: f64,
    /// The batch that heard it.
    at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Health {
    /// The last event of every scope that is not healthy, by source.
    events: BTreeMap<Scope, BTreeMap<String, Said>>,
    kept: usize,
    pub breakers: Breakers,
    pub headroom: Headroom,
    /// Resources of which another lane's breaker says that they recover, and since when this lane knows.
    recovering: BTreeMap<ResourceIndex, Timestamp>,
}

/// What all scopes and sources together say of a resource.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Told {
    /// The worst of those that are no breakers.
    status: HealthStatus,
    severity: f64,
    /// Another lane's breaker does not let it be used.
    open: bool,
    /// Other lanes' breakers let it recover: since the last of them was heard.
    recovering: Option<Timestamp>,
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

    pub fn set(&mut self, lane: u32, event: &HealthEvent, now: Timestamp) {
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
            let said = Said { status: event.status, severity: event.severity, at: now };
            let before = sources.insert(event.source.clone(), said);
            self.kept += usize::from(before.is_none());
        }
    }

    /// What the events say of a resource, over all of its scopes.
    fn told(&self, resource: &Resource) -> Told {
        let spec = &resource.spec;
        let scopes = [
            (HealthScope::Resource, spec.id.clone()),
            (HealthScope::Provider, spec.provider.clone()),
            (HealthScope::Region, spec.region.clone()),
            (HealthScope::FailureDomain, spec.domain()),
        ];
        let mut told =
            Told { status: HealthStatus::Healthy, severity: 0.0, open: false, recovering: None };
        for scope in &scopes {
            for (source, said) in self.events.get(scope).into_iter().flatten() {
                let is_breaker =
                    scope.0 == HealthScope::Resource && source.starts_with(BREAKER_SOURCE);
                match said.status {
                    HealthStatus::Unhealthy if is_breaker => told.open = true,
                    HealthStatus::Degraded if is_breaker => {
                        told.recovering = told.recovering.max(Some(said.at));
                    }
                    HealthStatus::Healthy
                    | HealthStatus::Degraded
                    | HealthStatus::Drain
                    | HealthStatus::Unhealthy => {
                        let one = (told.status, told.severity);
                        (told.status, told.severity) = worse(one, (said.status, said.severity));
                    }
                }
            }
        }
        told
    }

    /// What new work may use of a resource at `now`. Nothing that is degraded is shut off by that: at least
    /// one task at a time goes there.
    pub fn admits(&self, index: ResourceIndex, resource: &Resource, now: Timestamp) -> Admitted {
        let (slots, share) = self.breakers.admits(index, resource.slots_units, now);
        let degraded = match resource.health {
            HealthStatus::Degraded => 1.0 - resource.severity,
            HealthStatus::Healthy | HealthStatus::Unhealthy | HealthStatus::Drain => 1.0,
        };
        let recovered = self.recovering.get(&index).map_or(1.0, |since| recovered(*since, now));
        let least = f64::min(degraded, recovered);
        let units = resource.slots_units;
        let most = if least < 1.0 { part(units, least) } else { units };
        Admitted { slots: slots.min(most), share: f64::min(share, least) }
    }

    /// Those of which time alone changes what new work may use.
    pub fn unsettled(&self) -> impl Iterator<Item = ResourceIndex> {
        self.breakers.unsettled().chain(self.recovering.keys().copied())
    }

    /// Forgets to look at those that let everything through again.
    pub fn settle(&mut self, now: Timestamp) {
        self.breakers.settle(now);
        self.recovering.retain(|_, since| since.plus_ms(RECOVERY_MS) > now);
    }

    /// What holds of a resource. A lane goes by its own breaker while that finds out or recovers: what other
    /// lanes' breakers say then is older than what it sees, and lanes that all waited for one another would
    /// wait for ever.
    fn condition(
        &mut self,
        index: ResourceIndex,
        resource: &Resource,
        now: Timestamp,
    ) -> Condition {
        let Told { status, severity, open, recovering } = self.told(resource);
        let position = self.breakers.position(index);
        let is_stopped = match position {
            Position::Closed => open,
            Position::Open { .. } => true,
            Position::HalfOpen { .. } | Position::Recovering { .. } => false,
        };
        let recovering = recovering.filter(|since| {
            position == Position::Closed && !is_stopped && since.plus_ms(RECOVERY_MS) > now
        });
        match recovering {
            Some(since) => self.recovering.insert(index, since),
            None => self.recovering.remove(&index),
        };
        let said = Condition { health: status, severity, broken: Broken::No };
        match status {
            HealthStatus::Unhealthy | HealthStatus::Drain => said,
            HealthStatus::Healthy | HealthStatus::Degraded if is_stopped => {
                Condition { health: HealthStatus::Unhealthy, broken: Broken::Stopped, ..said }
            }
            HealthStatus::Healthy | HealthStatus::Degraded => match position {
                Position::HalfOpen { .. } => Condition { broken: Broken::Probed, ..said },
                Position::Closed if recovering.is_some() => {
                    Condition { health: HealthStatus::Degraded, ..said }
                }
                Position::Closed | Position::Open { .. } | Position::Recovering { .. } => said,
            },
        }
    }

    /// Brings the fleet up to date. Those that are down from now on because more than before says so: what is
    /// under way there has to go.
    pub fn apply(&mut self, fleet: &mut Fleet, now: Timestamp) -> Vec<ResourceIndex> {
        let mut down = Vec::new();
        for index in fleet.indices() {
            let before = fleet.at(index);
            let was = Condition {
                health: before.health,
                severity: before.severity,
                broken: before.broken,
            };
            let condition = self.condition(index, before, now);
            if condition != was {
                let is_down = |one: &Condition| one.health == HealthStatus::Unhealthy;
                let is_said = |one: &Condition| is_down(one) && one.broken == Broken::No;
                if is_down(&condition) && !is_down(&was) || is_said(&condition) && !is_said(&was) {
                    down.push(index);
                }
                fleet.set_health(index, condition);
            }
            fleet.admit(index, self.admits(index, fleet.at(index), now));
        }
        down
    }
}
