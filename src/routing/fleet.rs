//! The fleet as a lane sees it: each resource with the lane's part of its limits, and what is in
//! use of them.

mod gone;
mod promised;
mod rate;
mod resource;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::fact::{Reservation, ResourceIndex};
use super::price::{Price, Stake, Toll};
use super::rights::first_deal;
use crate::model::health::HealthStatus;
use crate::model::resource::{Dimension, Limit, RESOURCES_MAX, ResourceSpec};
use crate::model::rights::LimitKind;
use crate::model::task::Priority;
use crate::model::time::Timestamp;

use gone::{Gone, Held};

pub use promised::{Kept, Promised};
pub use rate::{Deal, Rate, Release, Stand, renew};
pub use resource::{Admitted, Broken, Claim, Condition, Resource, Room};

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

/// One more than places can have at once, so that one of so many is free. Numbers are used again only
/// then: journals of before have each new name's in its turn.
const DOMAINS_MAX: usize = PLACES_MAX + 1;

/// Places of resources, with those that are gone and whose work or windows still count: indices are
/// `u16`.
const PLACES_MAX: usize = 2 * RESOURCES_MAX;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fleet {
    lane: u32,
    /// Lanes that there were at first.
    dealt: u32,
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
    /// Whether anything of any resource is promised.
    promises: bool,
    gone: Gone,
}

impl Fleet {
    pub fn new(lane: u32, dealt: u32) -> Self {
        Fleet {
            lane,
            dealt,
            resources: Vec::new(),
            rooms: Vec::new(),
            terms: Vec::new(),
            tolls: Vec::new(),
            by_id: BTreeMap::new(),
            domains: Vec::new(),
            version: 1,
            used: false,
            promises: false,
            gone: Gone::default(),
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
    #[inline]
    pub fn at(&self, index: ResourceIndex) -> &Resource {
        &self.resources[usize::from(index)]
    }

    /// What is free for any task.
    #[inline]
    pub fn room(&self, index: ResourceIndex) -> Room {
        self.rooms[usize::from(index)]
    }

    #[inline]
    pub fn terms(&self, index: ResourceIndex) -> &Terms {
        &self.terms[usize::from(index)]
    }

    /// What the resource's limits cost now.
    #[inline]
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

    /// Resources that the fleet has now: the same in all lanes that have read as far.
    pub fn count(&self) -> usize {
        self.resources.iter().filter(|resource| !resource.removed).count()
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

    /// Adds or changes a resource by the fleet's record at this offset. What is in use stays in use,
    /// and lanes keep their rights: see [`renew`].
    pub fn set(&mut self, offset: i64, spec: &ResourceSpec, start_within_ms: u64) {
        let domain = self.domain(spec.domain());
        let terms = Terms::of(spec, domain);
        let deal = Deal { lane: self.lane, dealt: self.dealt, offset, start_within_ms };
        let known = self.by_id.get(spec.id.as_str()).copied();
        let held = self.gone.back(&spec.id);
        let index = known.unwrap_or_else(|| self.claim(deal, spec, &held));
        let resource = &mut self.resources[usize::from(index)];
        if resource.removed {
            resource.removed = false;
            resource.incarnation = offset;
        }
        renew(&mut resource.rates, &mut resource.dormant, &spec.limits, deal);
        resource.spec = spec.clone();
        resource.slots_limit = spec.slots;
        if std::mem::take(&mut resource.forgotten) {
            resource.dormant.clear();
            resource.rates.iter_mut().for_each(|rate| rate.deal_again(deal));
            resource.slots_incarnation = offset;
            resource.slots_rights = first_deal(u64::from(spec.slots), self.lane, self.dealt);
        }
        resource.hold(LimitKind::Slots, resource.slots_rights);
        self.terms[usize::from(index)] = terms;
        self.rooms[usize::from(index)] = resource.room();
        self.changed();
    }

    /// A place for a resource that has none: that of one that is gone for good, or the next. `held`
    /// is what the lane still holds of it.
    fn claim(&mut self, deal: Deal, spec: &ResourceSpec, held: &[Held]) -> ResourceIndex {
        let id: Arc<str> = Arc::from(spec.id.as_str());
        let slots = held.iter().find(|held| held.kind == LimitKind::Slots);
        let amount = u64::from(spec.slots);
        let dealt = || (first_deal(amount, deal.lane, deal.dealt), deal.offset);
        let (slots_rights, slots_incarnation) =
            slots.map_or_else(dealt, |held| (held.rights, held.incarnation));
        let dormant = held.iter().filter_map(|held| match held.kind {
            LimitKind::Rate { dimension, window_s } => {
                let mut rate = Rate::new(Limit { dimension, amount: 1, window_s }, deal);
                rate.incarnation = held.incarnation;
                rate.hold(held.rights);
                Some(rate)
            }
            LimitKind::Slots | LimitKind::Budget => None,
        });
        let resource = Resource {
            id: id.clone(),
            spec: spec.clone(),
            incarnation: deal.offset,
            removed: false,
            slots_limit: spec.slots,
            slots_rights,
            slots_units: 0,
            slots_in_use: 0,
            admitted: Admitted::ALL,
            slots_used_max: 0,
            slots_moved_at: Timestamp::EPOCH,
            slot_price: Price::default(),
            rates: Vec::new(),
            health: HealthStatus::Healthy,
            severity: 0.0,
            broken: Broken::No,
            slots_incarnation,
            dormant: dormant.collect(),
            slots_promised: Promised::default(),
            forgotten: false,
        };
        let idle = |resource: &Resource| resource.removed && resource.is_idle();
        let mut free = self.resources.iter().position(idle);
        if free.is_none() && self.resources.len() >= PLACES_MAX {
            // Windows may be as long as a day, and what is in them is worth less than a place.
            let unused = |resource: &Resource| resource.removed && resource.slots_in_use == 0;
            free = self.resources.iter().position(unused);
        }
        let index = match free {
            Some(index) => {
                self.gone.keep(&self.resources[index]);
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

    /// Takes a resource out by the fleet's record at this offset.
    pub fn remove(&mut self, offset: i64, id: &str) {
        let Some(index) = self.index_of(id) else { return };
        let resource = &mut self.resources[usize::from(index)];
        resource.removed = true;
        let id = Arc::clone(&resource.id);
        if let Some(forgotten) = self.gone.remember(&id, offset)
            && let Some(index) = self.index_of(&forgotten)
        {
            self.resources[usize::from(index)].forgotten = true;
        }
        self.changed();
    }

    /// How the lane stands with a limit of a resource that is there or remembered.
    pub fn stand(&self, id: &str, kind: LimitKind) -> Option<Stand> {
        if let Some(index) = self.index_of(id) {
            let resource = self.at(index);
            return (!resource.forgotten).then(|| resource.stand(kind)).flatten();
        }
        let Held { rights, incarnation, .. } = self.gone.held(id, kind)?;
        Some(Stand { rights, incarnation, amount: 0, units: 0, used: 0, in_force: false })
    }

    /// From now on the lane holds so many rights of a limit.
    pub fn hold(&mut self, id: &str, kind: LimitKind, rights: u32) {
        let Some(index) = self.index_of(id) else { return self.gone.hold(id, kind, rights) };
        let resource = &mut self.resources[usize::from(index)];
        resource.hold(kind, rights);
        self.rooms[usize::from(index)] = resource.room();
    }

    /// Lowers each limit to the least that `lowest` says of it, where that is less than the fleet's
    /// amount.
    pub fn lower(&mut self, index: ResourceIndex, lowest: impl Fn(LimitKind) -> Option<u64>) {
        let resource = &mut self.resources[usize::from(index)];
        let rates = resource.rates.iter().map(Rate::kind);
        let kinds: Vec<LimitKind> = std::iter::once(LimitKind::Slots).chain(rates).collect();
        for kind in kinds {
            resource.lower(kind, lowest(kind));
        }
        self.rooms[usize::from(index)] = resource.room();
    }

    /// Keeps the windows for a changed `start_within_ms`.
    pub fn resize_windows(&mut self, start_within_ms: u64) {
        for (resource, room) in self.resources.iter_mut().zip(&mut self.rooms) {
            for rate in resource.rates.iter_mut().chain(&mut resource.dormant) {
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
            // Not in force, but it may come back, and then what is in it counts.
            resource.dormant.iter_mut().for_each(|rate| rate.window.advance(now));
            if freed {
                *room = resource.room();
            }
        }
    }

    /// A task wants a slot there, whether there is one or not.
    pub fn want_slot(&mut self, index: ResourceIndex, busy_ms: u32, stake: Stake, at: Timestamp) {
        let resource = &mut self.resources[usize::from(index)];
        let slots = f64::from(resource.slots_units);
        resource.slot_price.rise_slots(f64::from(busy_ms), slots, stake, at);
        self.tolls[usize::from(index)] = resource.toll(at);
    }

    /// Takes a slot, a request and the tokens. `decide` saw that they fit.
    pub fn reserve(
        &mut self,
        reservation: &Reservation,
        priority: Priority,
        at: Timestamp,
        stake: Stake,
    ) {
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
                    rate.take_v1(priority, 1.0, at);
                }
                Dimension::Tokens => {
                    rate.debit(at, reservation.tokens);
                    let tokens_expected = reservation.tokens_expected as f64;
                    rate.charge(at, tokens_expected, stake);
                    rate.take_v1(priority, tokens_expected, at);
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

    /// The highest uses of one resource start again from what is in use now.
    pub fn reset_peaks(&mut self, index: ResourceIndex) {
        self.resources[usize::from(index)].reset_peaks();
    }

    /// All that was used has been told.
    pub fn told(&mut self) {
        self.used = self.resources.iter().any(Resource::used);
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
