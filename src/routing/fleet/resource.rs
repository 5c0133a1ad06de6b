//! One resource in a lane: its limits, what is in use of them, what they cost, and when there will
//! be room.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::fact::ResourceIndex;
use super::super::price::{Price, Toll};
use super::super::rights::Scale;
use super::promised::{Kept, Promised};
use super::rate::{Rate, Stand};
use crate::model::health::HealthStatus;
use crate::model::resource::{Dimension, Limit, ResourceSpec};
use crate::model::rights::LimitKind;
use crate::model::task::Priority;
use crate::model::time::Timestamp;

/// What tasks that were asked before this one wait for on a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Claim {
    pub tasks: u32,
    pub tokens: u64,
}

impl Claim {
    /// Both together.
    pub fn and(self, other: Claim) -> Claim {
        Claim {
            tasks: self.tasks.saturating_add(other.tasks),
            tokens: self.tokens.saturating_add(other.tokens),
        }
    }
}

/// What is free of a resource in this lane: the least over its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Room {
    pub slots: u32,
    pub requests: u64,
    pub tokens: u64,
}

impl Room {
    /// Without a limit.
    pub const ALL: Room = Room { slots: u32::MAX, requests: u64::MAX, tokens: u64::MAX };

    /// What there is of both.
    pub fn least(self, other: Room) -> Room {
        Room {
            slots: self.slots.min(other.slots),
            requests: self.requests.min(other.requests),
            tokens: self.tokens.min(other.tokens),
        }
    }

    pub fn fits(self, tokens: u64) -> bool {
        self.slots >= 1 && self.requests >= 1 && self.tokens >= tokens
    }
}

/// What new work may use of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Admitted {
    /// Of the lane's slots.
    pub slots: u32,
    /// Of the lane's part of its rates, in [0, 1]. A task may begin while less than that is in use, however
    /// large it is: what is small would keep it waiting for ever otherwise.
    pub share: f64,
}

impl Admitted {
    pub const ALL: Admitted = Admitted { slots: u32::MAX, share: 1.0 };

    /// Whether new work may use a rate of so many units, so many of which are in use.
    fn lets(self, units: u64, used: u64) -> bool {
        self.share >= 1.0 || used < ((units as f64 * self.share) as u64).max(1)
    }
}

/// What breakers make of a resource that serves as far as anyone else says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Broken {
    No,
    /// This lane's tries it with one attempt at a time.
    Probed,
    /// Nothing goes there, but where most of what a task may use is like that.
    Stopped,
}

/// How a resource is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Condition {
    pub health: HealthStatus,
    pub severity: f64,
    pub broken: Broken,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resource {
    pub id: Arc<str>,
    pub spec: ResourceSpec,
    /// The offset of the fleet record that first named this resource.
    pub incarnation: i64,
    /// Gone from the fleet; its attempts go on.
    pub removed: bool,
    /// The slots in force: the fleet's, or fewer while the provider grants less.
    pub slots_limit: u32,
    pub slots_rights: u32,
    pub slots_units: u32,
    pub slots_in_use: u32,
    /// Of the lane's part, what its health lets new work use.
    pub admitted: Admitted,
    /// The most slots in use since the last load snapshot.
    pub slots_used_max: u32,
    /// When a slot became free last, or the first one was taken.
    pub slots_moved_at: Timestamp,
    /// Per millisecond in a slot.
    pub slot_price: Price,
    pub rates: Vec<Rate>,
    pub health: HealthStatus,
    /// What someone else than a breaker says of it, in [0, 1].
    pub severity: f64,
    pub broken: Broken,
    /// See [`crate::model::rights::LimitName::incarnation`].
    pub slots_incarnation: i64,
    /// Limits that the fleet took out, the longest gone first.
    pub dormant: Vec<Rate>,
    pub slots_promised: Promised,
    /// It is gone for so long that its rights are dealt anew should it come back.
    pub forgotten: bool,
}

impl Resource {
    /// How the lane stands with one of its limits; `None` where it never had it.
    pub fn stand(&self, kind: LimitKind) -> Option<Stand> {
        let in_force = !self.removed;
        if kind == LimitKind::Slots {
            return Some(Stand {
                rights: self.slots_rights,
                incarnation: self.slots_incarnation,
                amount: u64::from(self.slots_limit),
                units: u64::from(self.slots_units),
                used: u64::from(self.slots_in_use),
                in_force,
            });
        }
        let of = |rates: &[Rate]| rates.iter().find(|rate| rate.is(kind)).map(Rate::stand);
        let dormant = || Some(Stand { in_force: false, ..of(&self.dormant)? });
        of(&self.rates).map(|stand| Stand { in_force, ..stand }).or_else(dormant)
    }

    /// From now on the lane holds so many rights of one of its limits.
    pub(super) fn hold(&mut self, kind: LimitKind, rights: u32) {
        if kind == LimitKind::Slots {
            let scale = Scale { limit: u64::from(self.slots_limit) };
            self.slots_rights = rights;
            self.slots_units = scale.units(rights) as u32;
            self.slots_promised.count(scale, rights);
            return;
        }
        let mut rates = self.rates.iter_mut().chain(&mut self.dormant);
        if let Some(rate) = rates.find(|rate| rate.is(kind)) {
            rate.hold(rights);
        }
    }

    /// From now on all lanes together may have `lowest` of a limit in use, where that is less than
    /// the fleet's amount; `None`: all of it. Rights stay as they are.
    pub(super) fn lower(&mut self, kind: LimitKind, lowest: Option<u64>) {
        let least = |amount: u64| lowest.map_or(amount, |lowest| lowest.min(amount));
        if kind == LimitKind::Slots {
            self.slots_limit = least(u64::from(self.spec.slots)) as u32;
            return self.hold(kind, self.slots_rights);
        }
        let Some(rate) = self.rates.iter_mut().find(|rate| rate.is(kind)) else { return };
        let limits = self.spec.limits.iter();
        let Limit { dimension, window_s, .. } = rate.limit;
        let mut same = limits.filter(|one| (one.dimension, one.window_s) == (dimension, window_s));
        if let Some(limit) = same.next() {
            rate.resize(least(limit.amount));
        }
    }

    /// From now on so much of one of its limits is promised: see [`Promised`].
    pub(super) fn promise(&mut self, kind: LimitKind, rights: [u32; 3], kept: Option<Kept>) {
        if kind == LimitKind::Slots {
            let scale = Scale { limit: u64::from(self.slots_limit) };
            self.slots_promised.set(rights, kept, scale, self.slots_rights);
            return;
        }
        let mut rates = self.rates.iter_mut().chain(&mut self.dormant);
        if let Some(rate) = rates.find(|rate| rate.is(kind)) {
            rate.promise(rights, kept);
        }
    }

    /// Whether what is free depends on who asks.
    pub(super) fn promises(&self) -> bool {
        self.slots_promised.is_any() || self.rates.iter().any(|rate| rate.promised.is_any())
    }

    /// Nothing of it is in use, and nothing was in any window.
    pub(super) fn is_idle(&self) -> bool {
        let mut rates = self.rates.iter().chain(&self.dormant);
        self.slots_in_use == 0 && rates.all(|rate| rate.window.used() == 0)
    }

    /// Whether a task could have room in the lane, were nothing in use.
    pub fn could_fit(&self, tokens: u64) -> bool {
        self.slots_units > 0
            && self.rates.iter().all(|rate| match rate.limit.dimension {
                Dimension::Requests => rate.units > 0,
                Dimension::Tokens => rate.units >= tokens,
            })
    }

    /// The highest uses start again from what is in use now.
    pub(super) fn reset_peaks(&mut self) {
        self.slots_used_max = self.slots_in_use;
        for rate in &mut self.rates {
            rate.used_max = rate.window.used();
        }
    }

    /// Whether new work may go there.
    pub fn serves(&self) -> bool {
        !self.removed
            && match self.health {
                HealthStatus::Healthy | HealthStatus::Degraded => true,
                HealthStatus::Unhealthy | HealthStatus::Drain => false,
            }
    }

    /// Whether anything of it was in use since the last `reset_peaks`.
    pub fn used(&self) -> bool {
        self.slots_used_max > 0 || self.rates.iter().any(|rate| rate.used_max > 0)
    }

    pub(super) fn toll(&self, now: Timestamp) -> Toll {
        let mut toll = Toll { per_slot_ms: self.slot_price.per_unit(now), ..Toll::FREE };
        for rate in &self.rates {
            match rate.limit.dimension {
                Dimension::Requests => toll.per_request += rate.price.per_unit(now),
                Dimension::Tokens => toll.per_token += rate.price.per_unit(now),
            }
        }
        toll
    }

    /// Milliseconds until a task of `tokens` that takes `busy_ms` behind `ahead` has room, as far as
    /// debits and durations tell. `None` where it never will.
    pub(super) fn room_in_ms(
        &self,
        now: Timestamp,
        tokens: u64,
        busy_ms: f64,
        ahead: Claim,
    ) -> Option<f64> {
        let free = self.slots_free();
        let behind = ahead.tasks.saturating_add(1).saturating_sub(free);
        let mut longest = match behind {
            0 => 0.0,
            // Nobody knows how its breaker goes on.
            _ if self.slots_open() < self.slots_units || self.slots_units == 0 => return None,
            _ => self.slots_in_ms(now, busy_ms, behind),
        };
        for rate in &self.rates {
            // Nobody knows how its health goes on.
            if !self.admitted.lets(rate.units, rate.window.used()) {
                return None;
            }
            let amount = match rate.limit.dimension {
                Dimension::Requests => u64::from(ahead.tasks) + 1,
                Dimension::Tokens => ahead.tokens.saturating_add(tokens),
            };
            let open = rate.promised.open(Priority::Batch);
            let until = rate.window.ms_until(now, open, amount)? as f64;
            longest = if until > longest { until } else { longest };
        }
        Some(longest)
    }

    /// Slots end one by one, evenly over the usual duration. Where none has ended for longer, the
    /// work there is not what it usually is, and nothing better is known than that the next one may
    /// take as long again.
    fn slots_in_ms(&self, now: Timestamp, busy_ms: f64, behind: u32) -> f64 {
        let usual = self.slot_price.usual();
        let busy_ms = if usual > 0.0 { usual } else { busy_ms };
        let expected = busy_ms * f64::from(behind) / f64::from(self.slots_units);
        let still = now.ms_since(self.slots_moved_at) as f64;
        if still > expected { still } else { expected }
    }

    /// Tasks that slots have room for in `ms`, where each takes `busy_ms` unless something else is usual
    /// there: in the lane's slots, or in `whole` in all there are.
    pub fn slots_within(&self, ms: u64, busy_ms: f64, whole: bool) -> f64 {
        let usual = self.slot_price.usual();
        let busy_ms = if usual > 0.0 { usual } else { busy_ms };
        let slots = if whole { self.slots_limit } else { self.slots_units };
        f64::from(slots) * ms as f64 / if busy_ms > 1.0 { busy_ms } else { 1.0 }
    }

    /// Tasks of so many tokens that the rates let through in `ms` from `now`, of the lane's part, or
    /// in `whole` of all; infinite where there are none.
    pub fn rates_within(&self, now: Timestamp, ms: u64, tokens: f64, whole: bool) -> f64 {
        let within = |rate: &Rate| {
            let units = if whole { rate.limit.amount } else { rate.units };
            let fits = rate.window.fits_within(now, ms, units) as f64;
            match rate.limit.dimension {
                Dimension::Requests => fits,
                Dimension::Tokens => fits / if tokens > 1.0 { tokens } else { 1.0 },
            }
        };
        let least = |least: f64, one: f64| if one < least { one } else { least };
        self.rates.iter().map(within).fold(f64::INFINITY, least)
    }

    /// The lane's slots that any task may fill, as far as its breaker lets new work hold them.
    fn slots_open(&self) -> u32 {
        self.slots_open_for(Priority::Batch)
    }

    fn slots_open_for(&self, priority: Priority) -> u32 {
        let open = u32::try_from(self.slots_promised.open(priority)).unwrap_or(u32::MAX);
        open.min(self.admitted.slots)
    }

    pub fn slots_free(&self) -> u32 {
        self.slots_open().saturating_sub(self.slots_in_use)
    }

    /// The share of the lane's part that is free, of the limit of which least is; in [0, 1].
    pub fn free_share(&self) -> f64 {
        let share = |free: u64, units: u64| match units {
            0 => 0.0,
            units => free as f64 / units as f64,
        };
        let slots = share(self.slots_free().into(), self.slots_units.into());
        self.rates.iter().fold(slots, |least, rate| f64::min(least, share(rate.free(), rate.units)))
    }

    /// What is free for any task.
    pub(super) fn room(&self) -> Room {
        self.room_for(Priority::Batch, 0)
    }

    /// What is free for a task of so many tokens.
    pub(super) fn room_for(&self, priority: Priority, tokens: u64) -> Room {
        let free = |dimension: Dimension, amount: u64| {
            let rates = self.rates.iter().filter(|rate| rate.limit.dimension == dimension);
            let free = |rate: &Rate| match self.admitted.lets(rate.units, rate.window.used()) {
                true => rate.free_for(priority, amount),
                false => 0,
            };
            rates.map(free).min().unwrap_or(u64::MAX)
        };
        Room {
            slots: self.slots_open_for(priority).saturating_sub(self.slots_in_use),
            requests: free(Dimension::Requests, 1),
            tokens: free(Dimension::Tokens, tokens),
        }
    }
}

impl super::Fleet {
    /// Of every resource, removed ones included.
    pub fn indices(&self) -> std::ops::Range<ResourceIndex> {
        0..self.resources.len() as ResourceIndex
    }

    /// Whether attempts are under way there.
    pub fn is_busy(&self, index: ResourceIndex) -> bool {
        self.at(index).slots_in_use > 0
    }

    pub fn set_health(&mut self, index: ResourceIndex, condition: Condition) {
        let resource = &mut self.resources[usize::from(index)];
        let Condition { health, severity, broken } = condition;
        (resource.health, resource.severity, resource.broken) = (health, severity, broken);
        self.changed();
    }

    /// New work may use so much of the lane's part.
    pub fn admit(&mut self, index: ResourceIndex, admitted: Admitted) {
        let resource = &mut self.resources[usize::from(index)];
        if resource.admitted != admitted {
            resource.admitted = admitted;
            self.rooms[usize::from(index)] = resource.room();
        }
    }

    /// From now on the lane knows a limit by the record of the fleet by which the others know it.
    pub fn rename(&mut self, id: &str, kind: LimitKind, incarnation: i64) {
        let Some(index) = self.index_of(id) else { return self.gone.rename(id, kind, incarnation) };
        let resource = &mut self.resources[usize::from(index)];
        if kind == LimitKind::Slots {
            resource.slots_incarnation = incarnation;
            return;
        }
        let mut rates = resource.rates.iter_mut().chain(&mut resource.dormant);
        if let Some(rate) = rates.find(|rate| rate.is(kind)) {
            rate.incarnation = incarnation;
        }
    }
}
