//! A rate limit, kept exactly in every sliding window.
//!
//! A fixed window lets twice the limit through around its edge, and a list of all reservations
//! grows with the load. A ring of sub-buckets holds the debits by the time of their reservation
//! and forgets a bucket only when its *last* possible reservation has left the window: it is never
//! more permissive than the exact window, and at most one sub-bucket more conservative.
//!
//! Debits are kept over `window + start_within`: a worker may start as late as `start_within`
//! after its reservation, so the starts of a longer span may bunch up in one window.

use serde::{Deserialize, Serialize};

use crate::model::time::Timestamp;

/// Sub-buckets of a window. 128 costs 1 KiB per limit and at most 0.8 % of the window's capacity.
const BUCKETS_PER_WINDOW: u64 = 128;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    bucket_ms: u64,
    /// Debits by sub-bucket; bucket number `n` is at `n % buckets.len()`.
    buckets: Vec<u64>,
    /// The newest bucket number that the ring covers.
    newest: u64,
    sum: u64,
}

impl Window {
    /// An empty window of `window_s` seconds in which debits count for `start_within_ms` longer.
    pub fn new(window_s: u32, start_within_ms: u64) -> Self {
        let window_ms = u64::from(window_s) * 1_000;
        let bucket_ms = window_ms.div_ceil(BUCKETS_PER_WINDOW).max(1);
        let length = (window_ms + start_within_ms).div_ceil(bucket_ms) + 1;
        Window { bucket_ms, buckets: vec![0; length as usize], newest: 0, sum: 0 }
    }

    /// The same debits, kept for a changed `start_within_ms`.
    pub fn resized(&self, window_s: u32, start_within_ms: u64) -> Self {
        let mut window = Window::new(window_s, start_within_ms);
        window.newest = self.newest;
        let kept = self.buckets.len().min(window.buckets.len()) as u64;
        for back in 0..kept {
            let Some(number) = self.newest.checked_sub(back) else { break };
            let debit = self.buckets[self.slot(number)];
            let slot = window.slot(number);
            window.buckets[slot] = debit;
            window.sum += debit;
        }
        window
    }

    fn number(&self, at: Timestamp) -> u64 {
        at.ms_since(Timestamp::EPOCH) / self.bucket_ms
    }

    fn slot(&self, number: u64) -> usize {
        (number % self.buckets.len() as u64) as usize
    }

    /// Moves on to `now`: forgets what has left the window. Times never go back.
    pub fn advance(&mut self, now: Timestamp) {
        let number = self.number(now);
        if number <= self.newest {
            return;
        }
        let steps = (number - self.newest).min(self.buckets.len() as u64);
        if self.sum > 0 {
            for back in 0..steps {
                let slot = self.slot(number - back);
                self.sum -= self.buckets[slot];
                self.buckets[slot] = 0;
            }
        }
        self.newest = number;
    }

    /// Debits `amount` at the time of its reservation, and moves on to that time where it is new.
    pub fn debit(&mut self, reserved_at: Timestamp, amount: u64) {
        self.advance(reserved_at);
        let number = self.number(reserved_at);
        if self.newest - number < self.buckets.len() as u64 {
            let slot = self.slot(number);
            self.buckets[slot] += amount;
            self.sum += amount;
        }
    }

    /// Gives back `amount` of a debit; nothing where its bucket has left the window.
    pub fn credit(&mut self, reserved_at: Timestamp, amount: u64) {
        let number = self.number(reserved_at).min(self.newest);
        if self.newest - number < self.buckets.len() as u64 {
            let slot = self.slot(number);
            let back = amount.min(self.buckets[slot]);
            self.buckets[slot] -= back;
            self.sum -= back;
        }
    }

    /// Milliseconds from `now` until `amount` fits under `units`, as far as the debits so far
    /// tell. `None` where it never will.
    pub fn ms_until(&self, now: Timestamp, units: u64, amount: u64) -> Option<u64> {
        let mut used = self.sum;
        if used.saturating_add(amount) <= units {
            return Some(0);
        }
        let most = units.checked_sub(amount)?;
        // The oldest bucket leaves first: it stands behind the newest one.
        for number in self.newest + 1..=self.newest + self.buckets.len() as u64 {
            used -= self.buckets[self.slot(number)];
            if used <= most {
                let at_ms = number.saturating_mul(self.bucket_ms);
                return Some(at_ms.saturating_sub(now.ms_since(Timestamp::EPOCH)));
            }
        }
        None
    }

    /// What fits under `units` from `now` on in the next `ms`, where all that becomes free is taken at
    /// once: what is free, what leaves, and that again and again.
    pub fn fits_within(&self, now: Timestamp, ms: u64, units: u64) -> u64 {
        let length = self.buckets.len() as u64;
        let steps = self.number(now.plus_ms(ms)).saturating_sub(self.newest);
        let leaves = (1..=steps % length).map(|step| self.buckets[self.slot(self.newest + step)]);
        let free = units.saturating_sub(self.sum);
        units.saturating_mul(steps / length).saturating_add(units.min(free + leaves.sum::<u64>()))
    }

    /// What counts against the limit now.
    pub fn used(&self) -> u64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_ms(ms)
    }

    #[test]
    fn rows() {
        // (what, window in seconds, start_within in ms, debits at (ms, amount), now, used)
        let check = |what: &str, start_within_ms: u64, now: i64, used: u64| {
            let mut window = Window::new(10, start_within_ms);
            window.debit(at(1_000), 5);
            window.advance(at(now));
            assert_eq!(window.used(), used, "{what}");
        };
        check("at once, in a window that has never moved", 0, 1_000, 5);
        check("inside", 0, 10_000, 5);
        check("exactly one window later", 0, 11_000, 5);
        check("one bucket more", 0, 11_100, 0);
        check("kept for the late start", 200, 11_190, 5);
        check("long after", 200, 1_000_000, 0);
    }

    #[test]
    fn a_correction_keeps_the_time_of_the_reservation() {
        let mut window = Window::new(10, 0);
        window.advance(at(1_000));
        window.debit(at(1_000), 100);
        window.advance(at(9_000));
        window.credit(at(1_000), 60);
        assert_eq!(window.used(), 40);
        window.advance(at(11_200));
        assert_eq!(window.used(), 0);
        window.credit(at(1_000), 40);
        assert_eq!(window.used(), 0, "what has left is not given back twice");
    }

    #[test]
    fn says_when_room_comes_back() {
        let mut window = Window::new(10, 0);
        window.debit(at(1_000), 60);
        window.debit(at(4_000), 30);
        let until = |window: &Window, now, amount| window.ms_until(at(now), 100, amount);
        let rows =
            [(10, Some(0)), (11, Some(7_060)), (70, Some(7_060)), (71, Some(10_062)), (101, None)];
        for (amount, expected) in rows {
            assert_eq!(until(&window, 4_000, amount), expected, "{amount}");
        }
        window.advance(at(11_059));
        assert_eq!(until(&window, 11_059, 11), Some(1));
        window.advance(at(11_060));
        assert_eq!(until(&window, 11_060, 11), Some(0));
    }

    proptest! {
        /// Against a list of all debits: never below the exact window, and never above the exact
        /// window that is one sub-bucket longer.
        #[test]
        fn between_the_exact_windows(
            steps in proptest::collection::vec((0i64..3_000, 0u64..50), 1..200),
            start_within_ms in 0u64..3_000,
        ) {
            let mut window = Window::new(10, start_within_ms);
            let span = 10_000 + start_within_ms as i64;
            let bucket = window.bucket_ms as i64;
            let mut debits = Vec::new();
            let mut now = 0;
            for (wait, amount) in steps {
                now += wait;
                window.advance(at(now));
                window.debit(at(now), amount);
                debits.push((now, amount));
                let sum = |span: i64| -> u64 {
                    debits.iter().filter(|(ms, _)| *ms > now - span).map(|(_, amount)| amount).sum()
                };
                prop_assert!(window.used() >= sum(span));
                prop_assert!(window.used() <= sum(span + 2 * bucket));
            }
            let resized = window.resized(10, start_within_ms);
            prop_assert_eq!(resized, window);
        }

        /// Against taking all that is free, bucket by bucket.
        #[test]
        fn says_how_much_fits_within_a_time(
            debits in proptest::collection::vec((0u64..3_000, 0u64..50), 0..40),
            ms in 0u64..40_000,
            units in 0u64..500,
        ) {
            let mut window = Window::new(10, 2_000);
            let mut now = at(500_000);
            window.advance(now);
            for (wait, amount) in debits {
                now = now.plus_ms(wait);
                window.advance(now);
                window.debit(now, amount.min(units.saturating_sub(window.used())));
            }
            let expected = {
                let (mut window, mut taken) = (window.clone(), 0);
                for number in window.number(now)..=window.number(now.plus_ms(ms)) {
                    let then = now.max(Timestamp::EPOCH.plus_ms(number * window.bucket_ms));
                    window.advance(then);
                    let free = units - window.used();
                    window.debit(then, free);
                    taken += free;
                }
                taken
            };
            prop_assert_eq!(window.fits_within(now, ms, units), expected);
        }
    }
}
