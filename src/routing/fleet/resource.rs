//! One resource in a lane: its limits, what is in use of them, what they cost, and when there will
//! be room.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::price::{Price, Take, Toll};
use super::super::rights::{first_deal, units};
use super::super::window::Window;
use crate::model::health::HealthStatus;
use crate::model::resource::{Dimension, Limit, ResourceSpec};
use crate::model::time::Timestamp;

/// One rate limit, and the lane's part of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    pub limit: Limit,
    pub rights: u32,
    pub units: u64,
    pub window: Window,
    pub price: Price,
    /// The highest use since the last load snapshot.
    pub used_max: u64,
}

impl Rate {
    pub fn new(limit: Limit, lane: u32, lanes: u32, start_within_ms: u64) -> Self {
        let rights = first_deal(limit.amount, lane, lanes);
        Rate {
            limit,
            rights,
            units: units(rights, limit.amount),
            window: Window::new(limit.window_s, start_within_ms),
            price: Price::default(),
            used_max: 0,
        }
    }

    pub fn free(&self) -> u64 {
        self.units.saturating_sub(self.window.used())
    }

    pub fn debit(&mut self, at: Timestamp, amount: u64) {
        self.window.debit(at, amount);
        self.used_max = self.used_max.max(self.window.used());
    }

    /// Moves the price: `amount` is expected to stay taken.
    pub fn charge(&mut self, at: Timestamp, amount: f64, stake: f64) {
        let window_ms = f64::from(self.limit.window_s) * 1_000.0;
        self.price.rise(Take { amount, units: self.units as f64, window_ms }, stake, at);
    }
}

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
    pub fn fits(self, tokens: u64) -> bool {
        self.slots >= 1 && self.requests >= 1 && self.tokens >= tokens
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resource {
    pub id: Arc<str>,
    pub spec: ResourceSpec,
    /// The offset of the fleet record that first named this resource.
    pub incarnation: i64,
    /// Gone from the fleet; its attempts go on.
    pub removed: bool,
    pub slots_rights: u32,
    pub slots_units: u32,
    pub slots_in_use: u32,
    /// Of the lane's slots, those that its breaker lets new work hold.
    pub slots_admitted: u32,
    /// The most slots in use since the last load snapshot.
    pub slots_used_max: u32,
    /// When a slot became free last, or the first one was taken.
    pub slots_moved_at: Timestamp,
    /// Per millisecond in a slot.
    pub slot_price: Price,
    pub rates: Vec<Rate>,
    pub health: HealthStatus,
    /// In [0, 1].
    pub severity: f64,
}

impl Resource {
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
            let amount = match rate.limit.dimension {
                Dimension::Requests => u64::from(ahead.tasks) + 1,
                Dimension::Tokens => ahead.tokens.saturating_add(tokens),
            };
            let until = rate.window.ms_until(now, rate.units, amount)? as f64;
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

    /// The lane's slots, as far as its breaker lets new work hold them.
    fn slots_open(&self) -> u32 {
        self.slots_units.min(self.slots_admitted)
    }

    fn slots_free(&self) -> u32 {
        self.slots_open().saturating_sub(self.slots_in_use)
    }

    pub(super) fn room(&self) -> Room {
        let free = |dimension: Dimension| {
            let rates = self.rates.iter().filter(|rate| rate.limit.dimension == dimension);
            rates.map(Rate::free).min().unwrap_or(u64::MAX)
        };
        Room {
            slots: self.slots_free(),
            requests: free(Dimension::Requests),
            tokens: free(Dimension::Tokens),
        }
    }
}

/// The correction of a reservation: what is given back at its time, and an overrun debited now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    pub reserved_at: Timestamp,
    pub now: Timestamp,
    pub requests_back: u64,
    pub tokens_back: u64,
    pub overrun_tokens: u64,
}

impl Release {
    pub fn apply(&self, rate: &mut Rate) {
        match rate.limit.dimension {
            Dimension::Requests => rate.window.credit(self.reserved_at, self.requests_back),
            Dimension::Tokens => {
                rate.window.credit(self.reserved_at, self.tokens_back);
                if self.overrun_tokens > 0 {
                    rate.debit(self.now, self.overrun_tokens);
                }
            }
        }
    }
}
