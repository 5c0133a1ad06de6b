//! A rate limit in a lane: the lane's part of it, what is in use of that, and what it costs.

use serde::{Deserialize, Serialize};

use super::super::faded::{Faded, MEMORY_MS};
use super::super::price::{Price, Stake, Take};
use super::super::rights::{Scale, first_deal};
use super::super::window::Window;
use super::promised::{Kept, Promised};
use crate::model::resource::{Dimension, LIMITS_MAX, Limit};
use crate::model::rights::LimitKind;
use crate::model::task::Priority;
use crate::model::time::Timestamp;
use crate::planted::{Bug, planted};

/// By which record, and to whom, rights are dealt.
#[derive(Debug, Clone, Copy)]
pub struct Deal {
    pub lane: u32,
    /// Lanes that there were at first.
    pub dealt: u32,
    /// The offset of the fleet record.
    pub offset: i64,
    pub start_within_ms: u64,
}

/// So much ahead a task looks that holds back: twice as long costs it more than the others gain, half as
/// long helps them half as much (`docs/performance.md`).
const HELD_BACK_MS: f64 = 5_000.0;

/// One rate limit, and the lane's part of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Its amount is what is in force: the fleet's, or less while the provider grants less.
    pub limit: Limit,
    pub rights: u32,
    pub units: u64,
    pub window: Window,
    pub price: Price,
    /// The highest use since the last load snapshot.
    pub used_max: u64,
    /// See [`crate::model::rights::LimitName::incarnation`].
    pub incarnation: i64,
    pub promised: Promised,
    /// What critical and interactive tasks took of it lately, as far as that is expected to stay taken.
    pub taken: [Faded; Priority::ALL.len() - 1],
}

/// How a lane stands with a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stand {
    pub rights: u32,
    pub incarnation: i64,
    /// Of all lanes together.
    pub amount: u64,
    pub units: u64,
    pub used: u64,
    /// Whether the limit is in the fleet now.
    pub in_force: bool,
}

/// Limits that were taken out of one resource or tenant and are remembered. One that comes back
/// goes on with its rights and its window; more would be a fleet that is not described but rolled.
pub const DORMANT_MAX: usize = 4 * LIMITS_MAX;

impl Rate {
    pub fn new(limit: Limit, deal: Deal) -> Self {
        let mut rate = Rate {
            limit,
            rights: 0,
            units: 0,
            window: Window::new(limit.window_s, deal.start_within_ms),
            price: Price::default(),
            used_max: 0,
            incarnation: deal.offset,
            promised: Promised::default(),
            taken: Default::default(),
        };
        rate.hold(first_deal(limit.amount, deal.lane, deal.dealt));
        rate
    }

    /// Which limit this is; a tenant's budget is kept apart.
    pub fn kind(&self) -> LimitKind {
        LimitKind::Rate { dimension: self.limit.dimension, window_s: self.limit.window_s }
    }

    /// Whether this is the limit of that kind.
    pub fn is(&self, kind: LimitKind) -> bool {
        kind == self.kind()
    }

    pub fn stand(&self) -> Stand {
        Stand {
            rights: self.rights,
            incarnation: self.incarnation,
            amount: self.limit.amount,
            units: self.units,
            used: self.window.used(),
            in_force: true,
        }
    }

    /// From now on the lane holds so many rights.
    pub fn hold(&mut self, rights: u32) {
        let scale = Scale { limit: self.limit.amount };
        self.rights = rights;
        self.units = scale.units(rights);
        self.promised.count(scale, rights);
    }

    /// From now on so much of it is promised: see [`Promised`].
    pub fn promise(&mut self, rights: [u32; 3], kept: Option<Kept>) {
        let scale = Scale { limit: self.limit.amount };
        self.promised.set(rights, kept, scale, self.rights);
    }

    /// The same limit with another amount: every lane keeps its part.
    pub fn resize(&mut self, amount: u64) {
        if planted(Bug::KeepLimit) && amount < self.limit.amount {
            return;
        }
        self.limit.amount = amount;
        self.hold(self.rights);
    }

    /// The limit as if it were new; what is in its window still counts.
    pub fn deal_again(&mut self, deal: Deal) {
        self.incarnation = deal.offset;
        self.hold(first_deal(self.limit.amount, deal.lane, deal.dealt));
    }

    /// What is free for any task.
    pub fn free(&self) -> u64 {
        self.free_for(Priority::Batch, 0)
    }

    /// What is free for a task that takes so much.
    pub fn free_for(&self, priority: Priority, amount: u64) -> u64 {
        self.promised.free(priority, amount, self.window.used())
    }

    /// What a task of the priority leaves free for those above it, as long as it may wait: what they take in
    /// `HELD_BACK_MS`, or in the window where that is shorter, at the pace of the last [`MEMORY_MS`]. Of a
    /// unit less than a whole nothing is left.
    pub fn held_back(&self, priority: Priority, now: Timestamp) -> u64 {
        let higher = self.taken.iter().take(priority as usize);
        let taken: f64 = higher.map(|taken| taken.at(now)).sum();
        let window_ms = f64::from(self.limit.window_s) * 1_000.0;
        let ahead_ms = if window_ms < HELD_BACK_MS { window_ms } else { HELD_BACK_MS };
        (taken * ahead_ms / MEMORY_MS) as u64
    }

    /// A task of the priority took so much.
    pub fn take_v1(&mut self, priority: Priority, amount: f64, at: Timestamp) {
        if let Some(taken) = self.taken.get_mut(priority as usize) {
            taken.add_v1(amount, at);
        }
    }

    pub fn debit(&mut self, at: Timestamp, amount: u64) {
        self.window.debit(at, amount);
        self.used_max = self.used_max.max(self.window.used());
    }

    /// Moves the price: `amount` is expected to stay taken.
    pub fn charge(&mut self, at: Timestamp, amount: f64, stake: Stake) {
        let window_ms = f64::from(self.limit.window_s) * 1_000.0;
        self.price.rise(Take { amount, units: self.units as f64, window_ms }, stake, at);
    }
}

/// The rates that a record of the fleet asks for. Limits that were there before, or were taken out
/// and come back, go on with their rights and what is in their windows: work that is under way
/// counts, in whichever lane it is, and no lane knows what the others have under way.
pub fn renew(rates: &mut Vec<Rate>, dormant: &mut Vec<Rate>, limits: &[Limit], deal: Deal) {
    let mut before = std::mem::take(dormant);
    before.append(rates);
    for limit in limits {
        let same = |rate: &Rate| {
            rate.limit.dimension == limit.dimension && rate.limit.window_s == limit.window_s
        };
        rates.push(match before.iter().position(same) {
            Some(at) => {
                let mut rate = before.remove(at);
                rate.resize(limit.amount);
                rate
            }
            None => Rate::new(*limit, deal),
        });
    }
    // The same ones in all lanes: it follows from the fleet's records alone.
    before.drain(..before.len().saturating_sub(DORMANT_MAX));
    *dormant = before;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_higher_priorities_took_is_held_back_while_it_lasts() {
        let at = |ms: u64| Timestamp::from_ms(1_000_000).plus_ms(ms);
        let deal = Deal { lane: 0, dealt: 1, offset: 0, start_within_ms: 0 };
        // (window s, milliseconds later, held back by a critical, an interactive, a batch task)
        let rows = [
            (60, 0, [0, 1, 5]),
            (5, 0, [0, 1, 5]),
            // Of a shorter window its part.
            (2, 0, [0, 0, 2]),
            (60, 10_000, [0, 0, 1]),
            // Less than one is none.
            (60, 30_000, [0, 0, 0]),
        ];
        for (window_s, later_ms, expected) in rows {
            let limit = Limit { dimension: Dimension::Requests, amount: 100, window_s };
            let mut rate = Rate::new(limit, deal);
            for (priority, amount) in
                [(Priority::Critical, 3.0), (Priority::Interactive, 7.0), (Priority::Batch, 50.0)]
            {
                rate.take_v1(priority, amount, at(0));
            }
            let held = Priority::ALL.map(|priority| rate.held_back(priority, at(later_ms)));
            assert_eq!(held, expected, "{window_s} {later_ms}");
        }
    }
}
