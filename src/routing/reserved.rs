//! Reserved shares: the part of every limit that is kept for a tenant, used or not.
//!
//! A weight says who comes first where tasks wait; it does not keep a slot free for a tenant that comes
//! back after an hour. A `reserved_share` does: of each limit of each resource (slots, requests and
//! tokens per window), as far as this lane holds it, the others may not take the part that the tenant
//! does not use at the moment. So an idle share is capacity that nobody uses: that is what it is for.
//! What a tenant uses beyond its share it takes from what all may have.
//!
//! Parts are whole units, rounded down: of 4 slots in this lane a share of 0.2 keeps none.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::fact::{Reservation, ResourceIndex, TenantIndex};
use super::fleet::{Claim, Rate, Release, Resource, Room};
use super::state::State;
use super::window::Window;
use crate::model::resource::{Dimension, TenantSpec};
use crate::model::task::Priority;
use crate::model::time::Timestamp;

/// A tenant for which something is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Keeper {
    id: Box<str>,
    /// In (0, 1].
    share: f64,
}

/// What it uses of one resource: the same windows as the resource's own.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct Held {
    slots: u32,
    windows: Vec<HeldWindow>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct HeldWindow {
    dimension: Dimension,
    window_s: u32,
    window: Window,
}

impl Held {
    fn used(&self, rate: &Rate) -> u64 {
        let same = |one: &&HeldWindow| {
            one.dimension == rate.limit.dimension && one.window_s == rate.limit.window_s
        };
        self.windows.iter().find(same).map_or(0, |one| one.window.used())
    }

    fn is_nothing(&self) -> bool {
        self.slots == 0 && self.windows.iter().all(|one| one.window.used() == 0)
    }
}

/// At most one entry for each tenant with a share and each resource that serves it at the time.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Reserved {
    keepers: BTreeMap<TenantIndex, Keeper>,
    held: BTreeMap<(TenantIndex, ResourceIndex), Held>,
}

/// What is kept of a resource for others than one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Kept {
    slots: u32,
    requests_free: Option<u64>,
    tokens_free: Option<u64>,
    tokens: u64,
}

fn part(share: f64, units: u64) -> u64 {
    (share * units as f64) as u64
}

fn least(one: Option<u64>, other: u64) -> Option<u64> {
    Some(one.map_or(other, |one| one.min(other)))
}

impl Reserved {
    pub fn set(&mut self, tenant: TenantIndex, spec: &TenantSpec) {
        if spec.reserved_share > 0.0 {
            let keeper = Keeper { id: Box::from(spec.id.as_str()), share: spec.reserved_share };
            self.keepers.insert(tenant, keeper);
        } else {
            self.remove(tenant);
        }
    }

    pub fn remove(&mut self, tenant: TenantIndex) {
        if self.keepers.remove(&tenant).is_some() {
            self.held.retain(|(keeper, _), _| *keeper != tenant);
        }
    }

    /// The resource's place is another's now.
    pub fn forget(&mut self, resource: ResourceIndex) {
        self.held.retain(|(_, one), _| *one != resource);
    }

    pub fn advance(&mut self, now: Timestamp) {
        self.held.retain(|_, held| {
            for one in &mut held.windows {
                one.window.advance(now);
            }
            !held.is_nothing()
        });
    }

    pub fn resize_windows(&mut self, start_within_ms: u64) {
        for one in self.held.values_mut().flat_map(|held| &mut held.windows) {
            one.window = one.window.resized(one.window_s, start_within_ms);
        }
    }

    /// The tenant takes a slot, a request and the tokens.
    pub fn debit(
        &mut self,
        tenant: TenantIndex,
        resource: &Resource,
        reservation: &Reservation,
        now: Timestamp,
        start_within_ms: u64,
    ) {
        if !self.keepers.contains_key(&tenant) {
            return;
        }
        let held = self.held.entry((tenant, reservation.resource)).or_default();
        held.slots += 1;
        let mut before = std::mem::take(&mut held.windows);
        for rate in &resource.rates {
            let (dimension, window_s) = (rate.limit.dimension, rate.limit.window_s);
            let same = |one: &HeldWindow| one.dimension == dimension && one.window_s == window_s;
            let mut one = match before.iter().position(same) {
                Some(at) => before.swap_remove(at),
                None => {
                    let window = Window::new(window_s, start_within_ms);
                    HeldWindow { dimension, window_s, window }
                }
            };
            let amount = match dimension {
                Dimension::Requests => 1,
                Dimension::Tokens => reservation.tokens,
            };
            one.window.debit(now, amount);
            held.windows.push(one);
        }
    }

    /// Gives back what an attempt held. One that began before there was a share held nothing here.
    pub fn release(&mut self, tenant: TenantIndex, resource: ResourceIndex, release: &Release) {
        let Some(held) = self.held.get_mut(&(tenant, resource)) else { return };
        held.slots = held.slots.saturating_sub(1);
        for one in &mut held.windows {
            match one.dimension {
                Dimension::Requests => {
                    one.window.credit(release.reserved_at, release.requests_back);
                }
                Dimension::Tokens => {
                    one.window.credit(release.reserved_at, release.tokens_back);
                    if release.overrun_tokens > 0 {
                        one.window.debit(release.now, release.overrun_tokens);
                    }
                }
            }
        }
    }

    /// What others keep from a task of so many tokens.
    fn kept(
        &self,
        tenant: Option<TenantIndex>,
        index: ResourceIndex,
        resource: &Resource,
        (priority, tokens): (Priority, u64),
    ) -> Kept {
        let allowed = &resource.spec.tenants;
        let nothing = Held::default();
        let keepers: Vec<(f64, &Held)> = self
            .keepers
            .iter()
            .filter(|(keeper, _)| Some(**keeper) != tenant)
            .filter(|(_, keeper)| allowed.is_empty() || allowed.iter().any(|id| **id == *keeper.id))
            .map(|(number, keeper)| {
                (keeper.share, self.held.get(&(*number, index)).unwrap_or(&nothing))
            })
            .collect();
        let unused = |units: u64, used: &dyn Fn(&Held) -> u64| -> u64 {
            keepers
                .iter()
                .map(|(share, held)| part(*share, units).saturating_sub(used(held)))
                .fold(0, u64::saturating_add)
        };
        let slots = unused(u64::from(resource.slots_units), &|held| u64::from(held.slots));
        let mut kept = Kept { slots: slots.min(u64::from(u32::MAX)) as u32, ..Kept::default() };
        for rate in &resource.rates {
            let unused = unused(rate.units, &|held| held.used(rate));
            let amount = match rate.limit.dimension {
                Dimension::Requests => 1,
                Dimension::Tokens => tokens,
            };
            let free = rate.free_for(priority, amount).saturating_sub(unused);
            match rate.limit.dimension {
                Dimension::Requests => kept.requests_free = least(kept.requests_free, free),
                Dimension::Tokens => {
                    kept.tokens_free = least(kept.tokens_free, free);
                    kept.tokens = kept.tokens.max(unused);
                }
            }
        }
        kept
    }
}

impl State {
    /// By resource, what any task of the tenant may take of it now; `None` where that depends on the task.
    pub fn rooms(&self, tenant: Option<TenantIndex>) -> Option<&[Room]> {
        let is_same = self.reserved.keepers.is_empty() && !self.tenants.has_budget(tenant);
        self.fleet.rooms().filter(|_| is_same)
    }

    /// What a task of so many tokens may take of a resource now for its tenant: what is free, without what is kept for others.
    pub fn room(
        &self,
        tenant: Option<TenantIndex>,
        index: ResourceIndex,
        priority: Priority,
        tokens: u64,
    ) -> Room {
        let room = self.fleet.room_for(index, priority, tokens);
        if self.reserved.keepers.is_empty() {
            return room;
        }
        let kept = self.reserved.kept(tenant, index, self.fleet.at(index), (priority, tokens));
        Room {
            slots: room.slots.saturating_sub(kept.slots),
            requests: kept.requests_free.map_or(room.requests, |free| free.min(room.requests)),
            tokens: kept.tokens_free.map_or(room.tokens, |free| free.min(room.tokens)),
        }
    }

    /// What has to be free on a resource besides what a task of the tenant needs, where others have
    /// a share of it.
    pub fn kept_from(&self, tenant: Option<TenantIndex>, index: ResourceIndex) -> Claim {
        if self.reserved.keepers.is_empty() {
            return Claim::default();
        }
        let kept = self.reserved.kept(tenant, index, self.fleet.at(index), (Priority::Batch, 0));
        Claim { tasks: kept.slots, tokens: kept.tokens }
    }
}
