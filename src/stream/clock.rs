//! The lane clock: what time a batch has.
//!
//! Batch times end up in windows and leases, so they must never go back and never run faster than
//! real time: a jump forward would free a rate window early, and a rate above 1 would let more
//! through than the limit. Reading the wall clock for each batch gives neither guarantee. So a lane
//! takes the wall clock once, when it is acquired (never earlier than its last batch, and less the
//! uncertainty of the wall clock, so that a lane that moves between machines does not jump ahead),
//! and follows the monotonic clock from there. Where that is ahead of the wall it runs at 0.95 of
//! its speed until it is not. A lane clock that is behind stays behind: it is harmless there.

use crate::model::time::Timestamp;

/// One reading of this machine's clocks; the worker never reads them itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since the epoch.
    pub wall_ms: i64,
    /// Microseconds since any fixed point; never goes back.
    pub monotonic_us: u64,
}

impl Now {
    /// Milliseconds of the monotonic clock since `earlier_us`.
    pub const fn ms_since(self, earlier_us: u64) -> u64 {
        self.monotonic_us.saturating_sub(earlier_us) / 1_000
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneClock {
    time_us: i64,
    monotonic_us: u64,
}

impl LaneClock {
    /// The clock of a lane whose last batch was at `previous`; `uncertainty_ms` is how far the wall
    /// clock may be ahead of that of the lane's last owner.
    pub fn acquire(previous: Timestamp, now: Now, uncertainty_ms: u64) -> Self {
        let wall = Timestamp::from_ms(now.wall_ms).minus_ms(uncertainty_ms);
        let time = previous.max(wall);
        LaneClock { time_us: time.as_ms().saturating_mul(1_000), monotonic_us: now.monotonic_us }
    }

    /// The lane's time now, which is at least that of every reading before.
    pub fn read(&mut self, now: Now) -> Timestamp {
        let elapsed_us = now.monotonic_us.saturating_sub(self.monotonic_us);
        let elapsed_us = i64::try_from(elapsed_us).unwrap_or(i64::MAX);
        let full_us = self.time_us.saturating_add(elapsed_us);
        let wall_us = now.wall_ms.saturating_mul(1_000);
        self.time_us = if full_us <= wall_us {
            full_us
        } else {
            let slewed_us = self.time_us.saturating_add(elapsed_us / 100 * 95);
            slewed_us.max(wall_us)
        };
        self.monotonic_us = self.monotonic_us.max(now.monotonic_us);
        Timestamp::from_ms(self.time_us / 1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall_ms: i64, monotonic_ms: u64) -> Now {
        Now { wall_ms, monotonic_us: monotonic_ms * 1_000 }
    }

    /// Acquires at (wall 100,000, monotonic 0) with an uncertainty of 1 s, then reads.
    fn check(previous_ms: i64, readings: &[(Now, i64)]) {
        let mut clock = LaneClock::acquire(Timestamp::from_ms(previous_ms), at(100_000, 0), 1_000);
        for (index, (now, expected)) in readings.iter().enumerate() {
            assert_eq!(clock.read(*now).as_ms(), *expected, "reading {index} at {now:?}");
        }
    }

    #[test]
    fn starts_at_the_wall_less_its_uncertainty_and_follows_the_monotonic_clock() {
        check(
            0,
            &[(at(100_000, 0), 99_000), (at(100_500, 500), 99_500), (at(100_500, 500), 99_500)],
        );
    }

    #[test]
    fn never_starts_before_the_last_batch() {
        check(99_700, &[(at(100_000, 0), 99_700), (at(100_100, 100), 99_800)]);
    }

    #[test]
    fn runs_slower_where_it_is_ahead_and_stops_slewing_at_the_wall() {
        check(
            101_000,
            &[
                (at(100_000, 0), 101_000),
                (at(110_000, 10_000), 110_500),
                // 20 s of slewing would end at 129.5: it meets the wall first.
                (at(130_000, 30_000), 130_000),
                (at(131_000, 31_000), 131_000),
            ],
        );
    }

    #[test]
    fn a_wall_clock_that_steps_moves_nothing() {
        // Forward: the lane goes on at its own speed.
        check(0, &[(at(100_000, 0), 99_000), (at(500_000, 1_000), 100_000)]);
        // Backward: the lane slows down.
        check(0, &[(at(100_000, 0), 99_000), (at(50_000, 1_000), 99_950)]);
    }

    #[test]
    fn a_monotonic_clock_that_stands_still_or_goes_back_gives_the_same_time() {
        check(
            0,
            &[(at(100_100, 100), 99_100), (at(100_100, 50), 99_100), (at(100_200, 200), 99_200)],
        );
    }
}
