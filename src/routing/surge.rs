//! Spikes: whether more tasks arrive than usual, by how much, and what is expected next. The frozen
//! kernel `surge_v1`.
//!
//! Arrivals are counted by the second. The usual rate is a slow average; a one-sided CUSUM (Page 1954)
//! sums what exceeds it, in units of its standard deviation (a Poisson's, widened by what the
//! counts really vary), and raises the alarm at a bound. With this slack and bound a steady Poisson
//! stream raises a false alarm about once in 10,000 seconds (Siegmund's approximation); a doubling is
//! seen after a few seconds. It ends when the sum is back at zero. Where many streams are watched, each
//! has a bound that is higher by the logarithm of their number: the time between false alarms grows at
//! least as fast as the exponential of the bound, so all of them together raise no more than one would.

use serde::{Deserialize, Serialize};

use crate::model::time::Timestamp;

/// Arrivals are counted in bins of this length.
const BIN_MS: u64 = 1_000;
/// Bins that one call may pass over one by one; what is longer was a silence.
const BINS_MAX: u64 = 120;

/// The usual rate follows by this much of the difference with each bin: minutes.
const USUAL_STEP: f64 = 1.0 / 300.0;
/// During a surge ten times slower: a spike is not to become usual at once.
const SURGE_STEP: f64 = USUAL_STEP / 10.0;
/// The rate of now follows within seconds.
const NOW_STEP: f64 = 0.25;

/// Bins before the usual rate is known well enough.
const LEARNING_BINS: u32 = 30;

/// In standard deviations: what is passed over in a bin, at which sum the alarm is raised where one
/// stream is watched, and how large the sum can grow: so long the alarm lasts at least when it is over.
const SLACK: f64 = 0.75;
const ALARM: f64 = 6.0;
const SUM_MAX: f64 = 30.0;

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Surge {
    bin_began: Timestamp,
    /// Tasks in the bin that is still open.
    count: u32,
    bins: u32,
    /// Tasks in a bin.
    usual: f64,
    now: f64,
    /// Of a bin's count, against the usual.
    variance: f64,
    sum: f64,
    is_surge: bool,
}

impl Default for Surge {
    fn default() -> Self {
        Surge {
            bin_began: Timestamp::EPOCH,
            count: 0,
            bins: 0,
            usual: 0.0,
            now: 0.0,
            variance: 0.0,
            sum: 0.0,
            is_surge: false,
        }
    }
}

impl Surge {
    pub fn is_surge(&self) -> bool {
        self.is_surge
    }

    /// Tasks in a second, of the last few seconds.
    pub fn rate(&self) -> f64 {
        self.now
    }

    /// Tasks in a second that are usual.
    pub fn rate_usual(&self) -> f64 {
        self.usual
    }

    /// As it is at a time, as one of so many streams: a silence shows in no fact.
    pub fn at(mut self, now: Timestamp, streams: usize) -> Self {
        if self.bins > 0 || self.count > 0 {
            self.advance_v1(now, streams);
        }
        self
    }

    /// Tasks in a second, expected for the next ones.
    pub fn rate_expected(&self) -> f64 {
        // The present rate is the best simple forecast of a spike; outside one, the usual rate is.
        if self.is_surge { larger(self.now, self.usual) } else { self.usual }
    }

    /// Tasks that arrived in a batch of this time, in one of so many streams.
    pub fn arrived_v1(&mut self, at: Timestamp, tasks: u32, streams: usize) {
        self.advance_v1(at, streams);
        self.count = self.count.saturating_add(tasks);
    }

    /// Closes the bins that are over.
    fn advance_v1(&mut self, at: Timestamp, streams: usize) {
        if self.bin_began == Timestamp::EPOCH {
            self.bin_began = at;
        }
        let over = at.ms_since(self.bin_began) / BIN_MS;
        if over > 0 {
            let alarm = ALARM + libm::log(streams.max(1) as f64);
            for _ in 0..over.min(BINS_MAX) {
                self.close_bin(alarm);
            }
        }
        self.bin_began = self.bin_began.plus_ms(over * BIN_MS);
    }

    fn close_bin(&mut self, alarm: f64) {
        let count = f64::from(std::mem::take(&mut self.count));
        self.bins = self.bins.saturating_add(1);
        let apart = count - self.usual;
        if self.bins > LEARNING_BINS {
            let deviation = libm::sqrt(larger(self.variance, larger(self.usual, 1.0)));
            let sum = larger(self.sum + apart / deviation - SLACK, 0.0);
            self.sum = if sum < SUM_MAX { sum } else { SUM_MAX };
        }
        self.is_surge = if self.is_surge { self.sum > 0.0 } else { self.sum >= alarm };
        // The first bins are their own average.
        let learning = 1.0 / f64::from(self.bins);
        let step = if self.is_surge { SURGE_STEP } else { larger(USUAL_STEP, learning) };
        self.variance += step * (apart * apart - self.variance);
        self.usual += step * apart;
        self.now += larger(NOW_STEP, learning) * (count - self.now);
    }
}

fn larger(one: f64, other: f64) -> f64 {
    if one > other { one } else { other }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Poisson counts by inversion, from a fixed generator.
    struct Poisson(u64);

    impl Poisson {
        fn next(&mut self, mean: f64) -> u32 {
            let (mut product, limit, mut count) = (1.0, libm::exp(-mean), 0);
            loop {
                self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                product *= ((self.0 >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
                if product < limit {
                    return count;
                }
                count += 1;
            }
        }
    }

    struct Bench {
        surge: Surge,
        poisson: Poisson,
        now: Timestamp,
        streams: usize,
    }

    impl Bench {
        fn new(seed: u64) -> Self {
            let now = Timestamp::from_ms(1_000_000);
            Bench { surge: Surge::default(), poisson: Poisson(seed), now, streams: 1 }
        }

        /// Seconds at a mean; in how many of them a surge began.
        fn run(&mut self, seconds: u32, mean: f64) -> u32 {
            let mut began = 0;
            for _ in 0..seconds {
                let before = self.surge.is_surge();
                let tasks = self.poisson.next(mean);
                self.surge.arrived_v1(self.now, tasks, self.streams);
                self.now = self.now.plus_ms(BIN_MS);
                self.surge.advance_v1(self.now, self.streams);
                began += u32::from(!before && self.surge.is_surge());
            }
            began
        }
    }

    #[test]
    fn a_steady_stream_rarely_raises_the_alarm() {
        for mean in [0.2, 2.6, 40.0] {
            let began: u32 = (1..=10).map(|seed| Bench::new(seed).run(10_000, mean)).sum();
            assert!(began <= 30, "{began} false alarms in 100,000 s at {mean}/s");
        }
    }

    #[test]
    fn many_steady_streams_together_raise_it_no_more_often_than_one() {
        for mean in [0.2, 2.6, 40.0] {
            let began: u32 = (1..=200)
                .map(|seed| Bench { streams: 200, ..Bench::new(seed) }.run(1_000, mean))
                .sum();
            assert!(began <= 3, "{began} false alarms of 200 streams in 1,000 s at {mean}/s");
        }
    }

    #[test]
    fn one_of_a_thousand_is_still_seen_within_seconds() {
        for seed in 1..=20 {
            let mut bench = Bench { streams: 1_000, ..Bench::new(seed) };
            bench.run(600, 5.0);
            bench.run(5, 25.0);
            assert!(bench.surge.is_surge(), "seed {seed}");
        }
    }

    #[test]
    fn a_spike_is_seen_within_seconds_and_ends() {
        for seed in 1..=20 {
            let mut bench = Bench::new(seed);
            bench.run(600, 5.0);
            bench.run(5, 25.0);
            assert!(bench.surge.is_surge(), "seed {seed}");
            assert!(bench.surge.rate_expected() > 12.0, "seed {seed}: {:?}", bench.surge);
            bench.run(55, 25.0);
            assert!(
                bench.surge.rate() > 3.0 * bench.surge.rate_usual(),
                "seed {seed}: {:?}",
                bench.surge
            );
            bench.run(90, 5.0);
            assert!(!bench.surge.is_surge(), "seed {seed}: {:?}", bench.surge);
        }
    }

    #[test]
    fn what_lasts_becomes_usual() {
        let mut bench = Bench::new(3);
        bench.run(600, 5.0);
        bench.run(7_200, 15.0);
        assert!(
            !bench.surge.is_surge() || bench.surge.rate() < 1.3 * bench.surge.rate_usual(),
            "{:?}",
            bench.surge
        );
    }

    #[test]
    fn a_long_silence_costs_little_time() {
        let mut bench = Bench::new(3);
        bench.run(60, 5.0);
        bench.now = bench.now.plus_ms(1 << 40);
        bench.surge.advance_v1(bench.now, 1);
        assert!(bench.surge.rate_expected() < 5.0);
    }
}
