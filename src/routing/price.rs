//! Shadow prices: what the next unit of a scarce limit is worth.
//!
//! Best-first routing gives a scarce model to whoever comes first. A planner that knew every
//! arrival would rather keep it for the tasks that lose most without it, and a price per limit
//! brings that about without knowing anyone: a candidate counts for its utility minus what it
//! would take of each limit, at the limit's price. The prices are found by dual mirror descent in
//! its continuing form (Balseiro, Lu, Mirrokni: *The best of many worlds*, 2020, 2023): a
//! reservation raises the price by what it takes of the limit, time lowers it by what the limit
//! gives back. So it rises where reservations run ahead of the limit's rate, and decays to zero
//! where there is slack. Windows that are kept exactly make sure that a wrong price wastes at most
//! some quality, never capacity.
//!
//! There is nothing to tune: a price moves in steps of the *stake*, the mean of what tasks gain by
//! their best candidate over the average one, in the utility of their own objectives, so that a
//! fleet of near equals has low prices and one with a single good model high ones; and it counts a
//! limit in tasks of the size that is usual there. Steps are proportional to `price + stake`
//! (the mirror map is the entropy, shifted so that a price can begin at zero): a whole limit's worth
//! of reservations at once takes a free limit to `STEP` stakes or a little more, and where it goes
//! on and on, prices reach what is at stake in not being served at all within a few windows.
//!
//! What is not used of a window stays there for a burst; what is not used of a slot is gone. So
//! windows are priced by what is reserved, and slots by what would have been: by the best candidate
//! at its price of every task that comes, whether there was a free slot or not.
//!
//! How fast a price moves is no constant either. What a limit can take of the tasks that come now is what is
//! free now and what will be as long as they can wait: so a limit's *horizon* is its window and the time for
//! which tasks usually can wait for something better, their patience. Under a burst, impatient tasks have to be
//! sent elsewhere at once; patient ones fill the windows that follow, and a price that rose and fell with the
//! window alone would send them away from what stands idle a minute later.
//!
//! `price_v1` is frozen: journals are folded with it.

use serde::{Deserialize, Serialize};

use crate::model::time::Timestamp;

/// Of `price + stake`, per whole horizon of a limit that is taken or given back.
const STEP: f64 = 1.0;
/// A price is at most this many stakes: dearer than any difference between candidates, so that
/// nobody would pay more.
pub const STAKES_MAX: f64 = 16.0;
/// The weight of a new task in the mean size of a limit's tasks and in the stake.
const MEAN_WEIGHT: f64 = 1.0 / 64.0;
/// A free slot gives nothing back later, so what counts for slots is how long the work takes that
/// is ahead: this many usual durations of all slots are their window, without patience.
const SLOT_DURATIONS: f64 = 4.0;

/// The price of one limit of one resource, in utility.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Price {
    /// What a task of the usual size paid at `at`; in [0, [`STAKES_MAX`] · stake].
    paid: f64,
    /// The stake at that time, and the horizon.
    stake: f64,
    horizon_ms: f64,
    at: Timestamp,
    /// What a task usually takes: slot-milliseconds, 1 request, or tokens; 0: none was seen.
    usual: f64,
}

/// What a task takes of a limit, and how much the limit has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Take {
    pub amount: f64,
    pub units: f64,
    pub window_ms: f64,
}

impl Take {
    /// The same of what the limit gives in its horizon, where tasks can wait for so long.
    fn over(self, patience_ms: f64) -> (f64, f64) {
        let horizon_ms = self.window_ms + patience_ms;
        (self.amount * self.window_ms / (self.units * horizon_ms), horizon_ms)
    }
}

impl Price {
    /// What a task of the usual size pays now. Depends on `now` and the last rise alone, so it
    /// does not matter how often it is asked.
    pub fn usual_task(&self, now: Timestamp) -> f64 {
        // So that windows of no length divide nothing.
        if self.paid <= 0.0 {
            return 0.0;
        }
        // What most of a batch asks: it is the batch that moved the price.
        if now <= self.at {
            return self.paid;
        }
        let horizons = now.ms_since(self.at) as f64 / self.horizon_ms;
        let paid = (self.paid + self.stake) * libm::exp(-STEP * horizons) - self.stake;
        // Rounding must not carry it above what it was.
        let paid = if paid < self.paid { paid } else { self.paid };
        if paid > 0.0 { paid } else { 0.0 }
    }

    /// Utility per unit.
    pub fn per_unit(&self, now: Timestamp) -> f64 {
        if self.usual > 0.0 { self.usual_task(now) / self.usual } else { 0.0 }
    }

    /// What a task usually takes; 0 where none was seen.
    pub fn usual(&self) -> f64 {
        self.usual
    }

    /// `price_v1`: someone takes of the limit.
    pub fn rise(&mut self, take: Take, stake: Stake, now: Timestamp) {
        let before = self.usual_task(now);
        self.usual = mean(self.usual, take.amount);
        self.at = now;
        // A lane that holds nothing of the limit has nothing to price.
        if take.units <= 0.0 || take.window_ms <= 0.0 {
            self.paid = 0.0;
            return;
        }
        let (share, horizon_ms) = take.over(stake.patience_ms);
        let paid = before + STEP * (before + stake.gain) * share;
        let most = STAKES_MAX * stake.gain;
        self.paid = if paid < most { paid } else { most };
        self.stake = stake.gain;
        self.horizon_ms = horizon_ms;
    }

    /// As [`Price::rise`] for the slots of a resource: a task takes one for `busy_ms`.
    pub fn rise_slots(&mut self, busy_ms: f64, slots: f64, stake: Stake, now: Timestamp) {
        let usual = mean(self.usual, busy_ms);
        let window_ms = SLOT_DURATIONS * usual;
        let take = Take { amount: busy_ms, units: slots * window_ms, window_ms };
        self.rise(take, stake, now);
    }
}

/// An exponentially weighted mean that begins with its first value.
fn mean(before: f64, value: f64) -> f64 {
    if before > 0.0 { before + MEAN_WEIGHT * (value - before) } else { value }
}

/// What tasks have at stake, and how long they can wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Stake {
    /// The mean gain of the best candidate over the average one, in utility.
    gain: f64,
    /// The mean time for which tasks can wait, milliseconds.
    patience_ms: f64,
}

impl Stake {
    pub fn get(self) -> f64 {
        self.gain
    }

    /// One task with more than [`STAKES_MAX`] times the usual counts as that much, so that an
    /// objective in other units does not move everyone's prices.
    pub fn add(&mut self, gain: f64) {
        let most = STAKES_MAX * self.gain;
        let gain = if self.gain > 0.0 && gain > most { most } else { gain };
        self.gain = mean(self.gain, gain);
    }

    /// One task that has `left_ms` to wait and `gain` at stake (`None`: it has no choice), where a second
    /// costs it so much: once waiting has cost the gain, it would rather have gone elsewhere.
    pub fn waits(&mut self, left_ms: f64, gain: Option<f64>, second: f64) {
        let worth_ms = match gain {
            Some(gain) if second > 0.0 => 1_000.0 * gain / second,
            Some(_) | None => left_ms,
        };
        let patience_ms = if worth_ms < left_ms { worth_ms } else { left_ms };
        // Not by `mean`: no patience is a value like others.
        self.patience_ms += MEAN_WEIGHT * (patience_ms - self.patience_ms);
    }
}

/// What a resource's limits cost a task now, in utility.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Toll {
    pub per_request: f64,
    pub per_token: f64,
    pub per_slot_ms: f64,
}

impl Toll {
    pub const FREE: Toll = Toll { per_request: 0.0, per_token: 0.0, per_slot_ms: 0.0 };

    /// For a task with these expected tokens and milliseconds.
    #[inline]
    pub fn of(&self, tokens: f64, busy_ms: f64) -> f64 {
        self.per_request + self.per_token * tokens + self.per_slot_ms * busy_ms
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_ms(1_000_000).plus_ms(ms)
    }

    fn stake(gain: f64, patience_ms: f64) -> Stake {
        Stake { gain, patience_ms }
    }

    const REQUESTS: Take = Take { amount: 1.0, units: 100.0, window_ms: 60_000.0 };

    #[test]
    fn rows() {
        // (what, requests at once, milliseconds later, what a usual task pays, stake 1)
        let check = |what: &str, requests: u32, later_ms: u64, expected: f64| {
            let mut price = Price::default();
            for _ in 0..requests {
                price.rise(REQUESTS, stake(1.0, 0.0), at(0));
            }
            let paid = price.usual_task(at(later_ms));
            assert!((paid - expected).abs() < 1e-9, "{what}: {paid}");
        };
        let e = libm::pow(1.01, 100.0);
        check("nobody came", 0, 0, 0.0);
        check("the whole limit at once", 100, 0, e - 1.0);
        check("half a window later", 100, 30_000, e * libm::exp(-0.5) - 1.0);
        check("a window later", 100, 60_000, 0.0);
        check("never below zero", 100, 600_000, 0.0);
        check("a bound", 1_000_000, 0, STAKES_MAX);
    }

    #[test]
    fn what_runs_at_the_limits_rate_is_free() {
        let mut price = Price::default();
        for number in 0..1_000 {
            price.rise(REQUESTS, stake(1.0, 0.0), at(number * 600));
        }
        let (paid, one) = (price.usual_task(at(1_000 * 600)), STEP / 100.0);
        assert!(paid <= one, "{paid} is more than one request's {one}");
    }

    #[test]
    fn a_price_moves_with_the_window_and_what_tasks_can_wait() {
        // (what, patience ms, milliseconds later, what a usual task pays after half a limit at once)
        let check = |what: &str, patience_ms: f64, later_ms: u64, expected: f64| {
            let mut price = Price::default();
            for _ in 0..50 {
                price.rise(REQUESTS, stake(1.0, patience_ms), at(0));
            }
            let paid = price.usual_task(at(later_ms));
            assert!((paid - expected).abs() < 1e-9, "{what}: {paid}");
        };
        let (window, twice) = (libm::pow(1.01, 50.0), libm::pow(1.005, 50.0));
        check("impatient", 0.0, 0, window - 1.0);
        check("impatient, later", 0.0, 15_000, window * libm::exp(-0.25) - 1.0);
        check("a window's patience", 60_000.0, 0, twice - 1.0);
        check("a window's patience, later", 60_000.0, 15_000, twice * libm::exp(-0.125) - 1.0);
        check("given back alike", 60_000.0, 30_000, 0.0);
    }

    #[test]
    fn patience_is_what_a_task_has_and_what_waiting_is_worth() {
        // (time left, gain, what a second costs, patience)
        let rows = [
            (60_000.0, Some(0.2), 0.0, 60_000.0),
            (60_000.0, Some(0.2), 0.01, 20_000.0),
            (9_000.0, Some(0.2), 0.01, 9_000.0),
            (60_000.0, None, 0.01, 60_000.0),
            (0.0, Some(0.2), 0.0, 0.0),
        ];
        for (left_ms, gain, second, expected) in rows {
            let mut stake = Stake::default();
            (0..2_000).for_each(|_| stake.waits(left_ms, gain, second));
            assert!((stake.patience_ms - expected).abs() < 1e-6, "{left_ms} {gain:?}: {stake:?}");
        }
    }

    #[test]
    fn a_lane_without_units_asks_nothing() {
        let mut price = Price::default();
        price.rise(Take { units: 0.0, ..REQUESTS }, stake(1.0, 0.0), at(0));
        assert_eq!(price.per_unit(at(0)), 0.0);
    }

    #[test]
    fn a_stake_in_other_units_counts_for_little() {
        let mut stake = Stake::default();
        (0..100).for_each(|_| stake.add(0.1));
        stake.add(1e9);
        assert!(stake.get() < 0.13, "{stake:?}");
    }

    proptest! {
        #[test]
        fn prices_are_bounded_and_independent_of_being_asked(
            steps in proptest::collection::vec(
                (0u64..5_000, 0.0f64..1e6, 0.0f64..10.0, 0.0f64..1e6), 1..100,
            ),
            slots in 0u32..5,
        ) {
            let (mut price, mut of_slots) = (Price::default(), Price::default());
            let mut now = 0;
            for (wait_ms, amount, gain, patience_ms) in steps {
                let stake = stake(gain, patience_ms);
                now += wait_ms;
                let take = Take { amount, units: 1e5, window_ms: 60_000.0 };
                price.rise(take, stake, at(now));
                of_slots.rise_slots(amount, f64::from(slots), stake, at(now));
                for one in [price, of_slots] {
                    let paid = one.usual_task(at(now));
                    prop_assert!((0.0..=STAKES_MAX * gain).contains(&paid), "{paid}");
                    prop_assert!(one.per_unit(at(now)).is_finite());
                    prop_assert!(one.usual_task(at(now + 1)) <= paid);
                }
            }
        }
    }
}
