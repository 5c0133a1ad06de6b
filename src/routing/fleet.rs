//! The fleet as a lane sees it: each resource with the lane's part of its limits, and what is in
//! use of them.

mod resource;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::fact::{Reservation, ResourceIndex};
use super::price::{Price, Toll};
use super::rights::{first_deal, units};
use crate::model::health::HealthStatus;
use crate::model::resource::{Dimension, RESOURCES_MAX, ResourceSpec};
use crate::model::time::Timestamp;

pub use resource::{Claim, Rate, Release, Resource, Room};

/// The numbers of a resource that every scoring reads, apart from the rest so that they are dense.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    pub usd_per_input_token: f64,
    pub usd_per_output_token: f64,
    pub time_to_first_token_ms: f64,
    pub ms_per_input_token: f64,
    pub ms_per_output_token: f64,
    /// The largest task that any window of the resource could ever take, in tokens.
    pub tokens_max: u64,
    pub context_window: u32,
    pub max_output_tokens: u32,
    /// Equal for resources that fail together.
    pub domain: u16,
}

impl Terms {
    fn of(spec: &ResourceSpec, domain: u16) -> Self {
        let tokens_max = spec
            .limits
            .iter()
            .filter(|limit| limit.dimension == Dimension::Tokens)
            .map(|limit| limit.amount)
            .min();
        Terms {
            usd_per_input_token: spec.usd_per_million_tokens.input / 1e6,
            usd_per_output_token: spec.usd_per_million_tokens.output / 1e6,
            time_to_first_token_ms: spec.speed.time_to_first_token_ms,
            ms_per_input_token: 1_000.0 / spec.speed.prefill_tokens_per_s,
            ms_per_output_token: 1_000.0 / spec.speed.decode_tokens_per_s,
            tokens_max: tokens_max.unwrap_or(u64::MAX),
            context_window: spec.context_window,
            max_output_tokens: spec.max_output_tokens,
            domain,
        }
    }

    /// US dollars.
    pub fn cost_usd(&self, input_tokens: u32, output_tokens: f64) -> f64 {
        self.usd_per_input_token * f64::from(input_tokens)
            + self.usd_per_output_token * output_tokens
    }

    /// From decision to last token, in milliseconds, without queueing.
    pub fn latency_ms(&self, input_tokens: u32, output_tokens: f64) -> f64 {
        self.time_to_first_token_ms
            + self.ms_per_input_token * f64::from(input_tokens)
            + self.ms_per_output_token * output_tokens
    }
}

/// One more than resources can have at once, so that one of so many is free. Numbers are used again only
/// then: journals of before have each new name's in its turn.
const DOMAINS_MAX: usize = RESOURCES_MAX + 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fleet {
    lane: u32,
    lanes: u32,
    resources: Vec<Resource>,
    rooms: Vec<Room>,
    terms: Vec<Terms>,
    tolls: Vec<Toll>,
    by_id: BTreeMap<Arc<str>, ResourceIndex>,
    /// At most [`DOMAINS_MAX`]: by their numbers in [`Terms`].
    domains: Vec<String>,
    /// Changes with everything that candidate lists depend on.
    version: u64,
    /// Whether there is load that has not been published.
    used: bool,
}

impl Fleet {
    pub fn new(lane: u32, lanes: u32) -> Self {
        Fleet {
            lane,
            lanes,
            resources: Vec::new(),
            rooms: Vec::new(),
            terms: Vec::new(),
            tolls: Vec::new(),
            by_id: BTreeMap::new(),
            domains: Vec::new(),
            version: 1,
            used: false,
        }
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn changed(&mut self) {
        self.version += 1;
    }

    pub fn index_of(&self, id: &str) -> Option<ResourceIndex> {
        self.by_id.get(id).copied()
    }

    /// The resource at an index that a fact or a live task carries.
    pub fn at(&self, index: ResourceIndex) -> &Resource {
        &self.resources[usize::from(index)]
    }

    pub fn room(&self, index: ResourceIndex) -> Room {
        self.rooms[usize::from(index)]
    }

    pub fn terms(&self, index: ResourceIndex) -> &Terms {
        &self.terms[usize::from(index)]
    }

    /// What the resource's limits cost now.
    pub fn toll(&self, index: ResourceIndex) -> &Toll {
        &self.tolls[usize::from(index)]
    }

    /// Milliseconds until a task of `tokens` that takes `busy_ms` behind `ahead` has room; `None`
    /// where it never will.
    pub fn room_in_ms(
        &self,
        index: ResourceIndex,
        now: Timestamp,
        tokens: u64,
        busy_ms: f64,
        ahead: Claim,
    ) -> Option<f64> {
        self.at(index).room_in_ms(now, tokens, busy_ms, ahead)
    }

    /// Every resource, removed ones included, in the order of their indices.
    pub fn iter(&self) -> impl Iterator<Item = (ResourceIndex, &Resource)> {
        self.resources.iter().enumerate().map(|(index, resource)| (index as u16, resource))
    }

    pub fn len(&self) -> usize {
        self.resources.len()
    }

    /// Whether no resource was ever named.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    fn domain(&mut self, name: String) -> u16 {
        let known = self.domains.iter().position(|domain| *domain == name);
        let number = known.unwrap_or_else(|| {
            if self.domains.len() < DOMAINS_MAX {
                self.domains.push(name);
                return self.domains.len() - 1;
            }
            let used: BTreeSet<u16> = self.terms.iter().map(|terms| terms.domain).collect();
            let free = (0..DOMAINS_MAX).find(|number| !used.contains(&(*number as u16)));
            let number = free.unwrap_or_default();
            self.domains[number] = name;
            number
        });
        number as u16
    }

    /// Adds or changes a resource. What is in use stays in use; the windows of limits that remain
    /// keep their debits.
    pub fn set(&mut self, offset: i64, spec: &ResourceSpec, start_within_ms: u64) {
        let domain = self.domain(spec.domain());
        let terms = Terms::of(spec, domain);
        let (lane, lanes) = (self.lane, self.lanes);
        let index = match self.by_id.get(spec.id.as_str()) {
            Some(index) => *index,
            None => self.claim(offset, spec),
        };
        let resource = &mut self.resources[usize::from(index)];
        if resource.removed {
            resource.removed = false;
            resource.incarnation = offset;
        }
        let mut before = std::mem::take(&mut resource.rates);
        for limit in &spec.limits {
            let same = |rate: &Rate| {
                rate.limit.dimension == limit.dimension && rate.limit.window_s == limit.window_s
            };
            let mut rate = match before.iter().position(same) {
                Some(at) => before.swap_remove(at),
                None => Rate::new(*limit, lane, lanes, start_within_ms),
            };
            if rate.limit.amount != limit.amount {
                rate.limit = *limit;
                rate.rights = first_deal(limit.amount, lane, lanes);
                rate.units = units(rate.rights, limit.amount);
            }
            resource.rates.push(rate);
        }
        resource.slots_rights = first_deal(u64::from(spec.slots), lane, lanes);
        resource.slots_units = units(resource.slots_rights, u64::from(spec.slots)) as u32;
        resource.spec = spec.clone();
        self.terms[usize::from(index)] = terms;
        self.rooms[usize::from(index)] = resource.room();
        self.changed();
    }

    /// A place for a resource that is new: that of one that is gone for good, or the next.
    fn claim(&mut self, offset: i64, spec: &ResourceSpec) -> ResourceIndex {
        let id: Arc<str> = Arc::from(spec.id.as_str());
        let resource = Resource {
            id: id.clone(),
            spec: spec.clone(),
            incarnation: offset,
            removed: false,
            slots_rights: 0,
            slots_units: 0,
            slots_in_use: 0,
            slots_admitted: u32::MAX,
            slots_used_max: 0,
            slots_moved_at: Timestamp::EPOCH,
            slot_price: Price::default(),
            rates: Vec::new(),
            health: HealthStatus::Healthy,
            severity: 0.0,
        };
        let gone = |resource: &Resource| resource.removed && resource.slots_in_use == 0;
        let index = match self.resources.iter().position(gone) {
            Some(index) => {
                self.by_id.remove(&self.resources[index].id);
                self.resources[index] = resource;
                self.tolls[index] = Toll::FREE;
                index
            }
            None => {
                self.resources.push(resource);
                self.rooms.push(Room::default());
                self.terms.push(Terms::of(spec, 0));
                self.tolls.push(Toll::FREE);
                self.resources.len() - 1
            }
        } as ResourceIndex;
        self.by_id.insert(id, index);
        index
    }

    pub fn remove(&mut self, id: &str) {
        if let Some(index) = self.index_of(id) {
            self.resources[usize::from(index)].removed = true;
            self.changed();
        }
    }

    pub fn set_health(&mut self, index: ResourceIndex, health: HealthStatus, severity: f64) {
        let resource = &mut self.resources[usize::from(index)];
        resource.health = health;
        resource.severity = severity;
        self.changed();
    }

    /// New work may hold so many of the lane's slots.
    pub fn admit(&mut self, index: ResourceIndex, slots: u32) {
        let resource = &mut self.resources[usize::from(index)];
        if resource.slots_admitted != slots {
            resource.slots_admitted = slots;
            self.rooms[usize::from(index)] = resource.room();
        }
    }

    /// Keeps the windows for a changed `start_within_ms`.
    pub fn resize_windows(&mut self, start_within_ms: u64) {
        for (resource, room) in self.resources.iter_mut().zip(&mut self.rooms) {
            for rate in &mut resource.rates {
                rate.window = rate.window.resized(rate.limit.window_s, start_within_ms);
            }
            *room = resource.room();
        }
    }

    /// Moves every window and price on to the time of the batch.
    pub fn advance(&mut self, now: Timestamp) {
        for (resource, toll) in self.resources.iter().zip(&mut self.tolls) {
            // What is free stays free until someone takes of it.
            if *toll != Toll::FREE {
                *toll = resource.toll(now);
            }
        }
        for (resource, room) in self.resources.iter_mut().zip(&mut self.rooms) {
            let mut freed = false;
            for rate in &mut resource.rates {
                let before = rate.window.used();
                rate.window.advance(now);
                freed |= rate.window.used() != before;
            }
            if freed {
                *room = resource.room();
            }
        }
    }

    /// A task wants a slot there, whether there is one or not.
    pub fn want_slot(&mut self, index: ResourceIndex, busy_ms: u32, stake: f64, at: Timestamp) {
        let resource = &mut self.resources[usize::from(index)];
        let slots = f64::from(resource.slots_units);
        resource.slot_price.rise_slots(f64::from(busy_ms), slots, stake, at);
        self.tolls[usize::from(index)] = resource.toll(at);
    }

    /// Takes a slot, a request and the tokens. `decide` saw that they fit.
    pub fn reserve(&mut self, reservation: &Reservation, at: Timestamp, stake: f64) {
        self.used = true;
        let place = usize::from(reservation.resource);
        let resource = &mut self.resources[place];
        if resource.slots_in_use == 0 {
            resource.slots_moved_at = at;
        }
        resource.slots_in_use += 1;
        resource.slots_used_max = resource.slots_used_max.max(resource.slots_in_use);
        for rate in &mut resource.rates {
            match rate.limit.dimension {
                Dimension::Requests => {
                    rate.debit(at, 1);
                    rate.charge(at, 1.0, stake);
                }
                Dimension::Tokens => {
                    rate.debit(at, reservation.tokens);
                    rate.charge(at, reservation.tokens_expected as f64, stake);
                }
            }
        }
        self.tolls[place] = resource.toll(at);
        self.rooms[place] = resource.room();
    }

    /// Frees the slot and corrects the debits of a reservation.
    pub fn release(&mut self, index: ResourceIndex, release: &Release) {
        let resource = &mut self.resources[usize::from(index)];
        resource.slots_in_use = resource.slots_in_use.saturating_sub(1);
        resource.slots_moved_at = release.now;
        for rate in &mut resource.rates {
            release.apply(rate);
        }
        self.rooms[usize::from(index)] = resource.room();
    }

    /// Whether a resource was used since the last `reset_peaks`, or is still.
    pub fn used(&self) -> bool {
        self.used
    }

    /// The highest uses start again from what is in use now.
    pub fn reset_peaks(&mut self) {
        self.used = false;
        for resource in &mut self.resources {
            resource.slots_used_max = resource.slots_in_use;
            for rate in &mut resource.rates {
                rate.used_max = rate.window.used();
            }
            self.used |= resource.used();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(id: &str, domain: &str) -> ResourceSpec {
        let spec = json!({
            "id": id, "model": "m", "provider": "p", "region": "eu", "failure_domain": domain,
            "context_window": 1_000, "max_output_tokens": 1_000, "slots": 1,
            "usd_per_million_tokens": {"input": 1.0, "output": 2.0}, "quality": {"default": 0.5},
        });
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn numbers_of_failure_domains_that_nobody_has_are_used_again() {
        let mut fleet = Fleet::new(0, 1);
        let number_after = |fleet: &mut Fleet, id: &str, domain: &str| {
            fleet.set(1, &spec(id, domain), 1_000);
            fleet.terms(fleet.index_of(id).unwrap()).domain
        };
        assert_eq!(number_after(&mut fleet, "a", "first"), 0);
        // Its domain was renamed again and again.
        while fleet.domains.len() < DOMAINS_MAX - 1 {
            fleet.domains.push(format!("before {}", fleet.domains.len()));
        }
        let last = (DOMAINS_MAX - 1) as u16;
        let rows = [
            ("a name that is known", "b", "first", 0),
            ("the last number", "b", "last", last),
            ("0 is taken", "c", "one", 1),
            ("1 is taken", "d", "two", 2),
            ("a known one keeps its number", "e", "last", last),
            ("one that has gone is new", "f", "before 1", 3),
            ("given up with this one", "a", "four", 4),
            ("free again", "g", "five", 0),
        ];
        for (what, id, domain, expected) in rows {
            assert_eq!(number_after(&mut fleet, id, domain), expected, "{what}");
        }
        assert_eq!(fleet.domains.len(), DOMAINS_MAX);
    }
}
