//! Control records: the fleet, its health, and the policy.

use super::admission::TENANTS_MAX;
use super::fact::Fact;
use super::headroom::LOWERED_EVENTS_MAX;
use super::health::EVENTS_MAX;
use super::state::State;
use crate::model::health::HealthEvent;
use crate::model::invalid::Invalid;
use crate::model::policy::Policy;
use crate::model::resource::{FleetEntry, RESOURCES_MAX};

/// A fleet record. An error where the fleet is full.
pub fn decide_fleet(state: &State, offset: i64, entry: FleetEntry) -> Result<Fact, Invalid> {
    let full = |field: &str, count: usize, max: usize| {
        Err(Invalid::new(field, format!("entry number {}", count + 1), &format!("at most {max}")))
    };
    match &entry {
        FleetEntry::Resource(spec) => {
            let known = state.fleet.index_of(&spec.id);
            let known = known.is_some_and(|index| !state.fleet.at(index).removed);
            // Counted only where there may be too many.
            if !known && state.fleet.len() >= RESOURCES_MAX {
                let count = state.fleet.count();
                if count >= RESOURCES_MAX {
                    return full("resource", count, RESOURCES_MAX);
                }
            }
        }
        FleetEntry::Tenant(spec) => {
            if !state.tenants.contains(&spec.id) && state.tenants.len() >= TENANTS_MAX {
                return full("tenant", state.tenants.len(), TENANTS_MAX);
            }
        }
        FleetEntry::ResourceRemoved(_) | FleetEntry::TenantRemoved(_) => {}
    }
    Ok(Fact::FleetSet { offset, entry: Box::new(entry) })
}

/// A health record. An error where no more events are kept.
pub fn decide_health(state: &State, offset: i64, event: HealthEvent) -> Result<Fact, Invalid> {
    if state.health.is_full_for(&event) {
        let allowed = if event.limits.is_empty() {
            format!("at most {EVENTS_MAX} scopes that are not healthy")
        } else {
            format!("at most {LOWERED_EVENTS_MAX} sources that lower limits")
        };
        return Err(Invalid::new("id", event.id, &allowed));
    }
    Ok(Fact::HealthSet { offset, event: Box::new(event) })
}

/// What the lane's breakers have to say: those that time moves, and those that results have moved.
pub fn decide_breakers(state: &State) -> Vec<Fact> {
    let untold = state.health.breakers.untold(state.batch_time, |one| state.fleet.is_busy(one));
    untold.map(|(resource, status)| Fact::BreakerTold { resource, status }).collect()
}

/// The policy, where it differs from the one in force.
pub fn decide_policy(state: &State, policy: &Policy) -> Option<Fact> {
    (state.policy != *policy).then(|| Fact::PolicySet(Box::new(policy.clone())))
}
