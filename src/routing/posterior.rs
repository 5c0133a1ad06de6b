//! What results have taught about one number in [0, 1]: a mean that begins at a prior, forgets
//! slowly, and notices when the world has changed. The frozen kernel `posterior_v1`.
//!
//! Two discounted averages of the same results: a slow one that is precise, and a fast one that is
//! current. Where they differ by more than chance allows, the slow one starts again from the fast
//! one (the idea of ADWIN, Bifet and Gavaldà 2007, with two windows of exponential weights in place
//! of its many).

use serde::{Deserialize, Serialize};

use super::trust::Apart;

/// A prior of which nothing is known, or which results refute, counts as much as this many results.
const PRIOR_WEIGHT: f64 = 8.0;
/// At most and at least, however well priors have done.
const PRIOR_WEIGHT_MAX: f64 = 2_000.0;
const PRIOR_WEIGHT_MIN: f64 = 1.0;
/// So many standard deviations between the results' mean and the prior refute it.
const REFUTED_SIGMAS: f64 = 3.0;
/// A resource that changed is what its prior says again where so many results are this near to it.
const BACK_WEIGHT: f64 = 200.0;
const BACK_SIGMAS: f64 = 2.0;
/// Results of fewer say nothing about priors.
const APART_WEIGHT_MIN: f64 = 16.0;
/// The variance that is believed before there are results, and the least that is believed at all: a
/// run of equal results does not make the next one certain.
const PRIOR_VARIANCE: f64 = 0.05;
const VARIANCE_MIN: f64 = 0.02;

/// What is kept of the weight of former results with each new one: 500 and 20 results count.
const SLOW_KEEP: f64 = 0.998;
const FAST_KEEP: f64 = 0.95;

/// The fast average says nothing before this weight.
const FAST_WEIGHT_MIN: f64 = 8.0;
/// So many standard deviations between the two are a change. Results of one batch share their
/// fate, so this is more than independent results would need.
const CHANGE_SIGMAS: f64 = 4.0;

/// Discounted moments.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Moments {
    weight: f64,
    sum: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, keep: f64, value: f64) {
        self.weight = self.weight * keep + 1.0;
        self.sum = self.sum * keep + value;
        self.squares = self.squares * keep + value * value;
    }

    fn mean(&self) -> f64 {
        self.sum / self.weight
    }

    fn variance(&self) -> f64 {
        let mean = self.mean();
        f64::max(self.squares / self.weight - mean * mean, VARIANCE_MIN)
    }
}

/// What is believed of the number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Belief {
    /// In [0, 1].
    pub mean: f64,
    /// The standard deviation of the mean, not of a single result.
    pub deviation: f64,
    /// Results that this rests on, by weight; 0: only the prior.
    pub weight: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Posterior {
    slow: Moments,
    fast: Moments,
    /// The slow one has started again: the prior was of another time.
    changed: bool,
}

impl Posterior {
    /// What is believed, beginning from a `prior` of which nothing else is known.
    pub fn belief(&self, prior: f64) -> Belief {
        self.belief_by(prior, PRIOR_WEIGHT)
    }

    /// What is believed, beginning from a `prior` around which the truth has this variance.
    pub fn belief_within(&self, prior: f64, spread: f64) -> Belief {
        let variance = if self.slow.weight > 0.0 { self.slow.variance() } else { PRIOR_VARIANCE };
        let weight = (variance / spread).clamp(PRIOR_WEIGHT_MIN, PRIOR_WEIGHT_MAX);
        let sigmas = self
            .apart(prior)
            .map_or(0.0, |apart| libm::sqrt(apart.squared / (apart.chance + spread)));
        let is_back = self.slow.weight >= BACK_WEIGHT && sigmas <= BACK_SIGMAS;
        let refuted = sigmas > REFUTED_SIGMAS || self.changed && !is_back;
        self.belief_by(prior, if refuted { PRIOR_WEIGHT_MIN } else { weight })
    }

    /// How far the results are from the prior; `None` where there are too few.
    pub fn apart(&self, prior: f64) -> Option<Apart> {
        let apart = self.slow.mean() - prior;
        let apart =
            Apart { squared: apart * apart, chance: self.slow.variance() / self.slow.weight };
        (self.slow.weight >= APART_WEIGHT_MIN).then_some(apart)
    }

    fn belief_by(&self, prior: f64, prior_weight: f64) -> Belief {
        let Moments { weight, sum, .. } = self.slow;
        let all = prior_weight + weight;
        let variance = if weight > 0.0 { self.slow.variance() } else { PRIOR_VARIANCE };
        let variance = (PRIOR_VARIANCE * prior_weight + variance * weight) / all;
        Belief {
            mean: (prior * prior_weight + sum) / all,
            deviation: libm::sqrt(variance / all),
            weight,
        }
    }

    /// One more result; what is outside [0, 1] is taken for the nearest end.
    pub fn observe_v1(&mut self, value: f64) {
        let value = value.clamp(0.0, 1.0);
        self.slow.add(SLOW_KEEP, value);
        self.fast.add(FAST_KEEP, value);
        if self.has_changed() {
            self.slow = self.fast;
            self.changed = true;
        }
    }

    fn has_changed(&self) -> bool {
        // Until the slow one has seen much more, both say the same.
        if self.fast.weight < FAST_WEIGHT_MIN || self.slow.weight < 2.0 * self.fast.weight {
            return false;
        }
        let apart = self.fast.mean() - self.slow.mean();
        let chance = self.slow.variance() / self.fast.weight;
        apart * apart > CHANGE_SIGMAS * CHANGE_SIGMAS * chance
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A fixed sequence of fair enough dice.
    fn dice(seed: u64) -> impl Iterator<Item = f64> {
        let mut state = seed;
        std::iter::from_fn(move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            Some((state >> 40) as f64 / (1u64 << 24) as f64)
        })
    }

    fn seen(
        posterior: &mut Posterior,
        dice: &mut impl Iterator<Item = f64>,
        rate: f64,
        times: u32,
    ) {
        for value in dice.take(times as usize) {
            posterior.observe_v1(f64::from(u8::from(value < rate)));
        }
    }

    #[test]
    fn begins_at_the_prior_and_ends_at_the_truth() {
        let rows = [(0, 0.9, 0.0), (1, 0.85, 0.1), (20, 0.5, 0.2), (500, 0.3, 0.08)];
        for (times, expected, tolerance) in rows {
            let mut posterior = Posterior::default();
            seen(&mut posterior, &mut dice(1), 0.3, times);
            let belief = posterior.belief(0.9);
            assert!((belief.mean - expected).abs() <= tolerance, "{times}: {belief:?}");
        }
    }

    #[test]
    fn what_got_worse_is_noticed_within_forty_results() {
        for seed in 1..50 {
            let (mut posterior, mut dice) = (Posterior::default(), dice(seed));
            seen(&mut posterior, &mut dice, 0.9, 2_000);
            let before = posterior.belief(0.9).mean;
            assert!((before - 0.9).abs() < 0.05, "seed {seed}: {before}");
            seen(&mut posterior, &mut dice, 0.3, 40);
            let after = posterior.belief(0.9).mean;
            assert!(after < 0.65, "seed {seed}: {after}");
        }
    }

    #[test]
    fn chance_is_no_change() {
        let mut changes = 0;
        for seed in 1..50 {
            let (mut posterior, mut dice) = (Posterior::default(), dice(seed));
            for _ in 0..2_000 {
                let before = posterior.slow.weight;
                seen(&mut posterior, &mut dice, 0.8, 1);
                changes += u32::from(posterior.slow.weight < before - 1.0);
            }
        }
        assert!(changes <= 10, "{changes} in 100,000 results");
    }

    #[test]
    fn a_deviation_shrinks_and_has_a_floor() {
        let mut posterior = Posterior::default();
        let deviations: Vec<f64> = [0, 10, 100, 10_000]
            .map(|times| {
                for _ in 0..times {
                    posterior.observe_v1(0.7);
                }
                posterior.belief(0.7).deviation
            })
            .to_vec();
        assert!(deviations.windows(2).all(|pair| pair[1] < pair[0]), "{deviations:?}");
        assert!(deviations[3] > 0.005, "{deviations:?}");
    }

    #[test]
    fn a_prior_counts_as_far_as_priors_are_trusted_and_results_do_not_refute_it() {
        // (what, results, their rate, spread, from, to), the prior 0.8
        let rows = [
            ("no results", 0, 0.0, 0.006, 0.8, 0.8),
            ("right priors, a hundred results off by chance", 100, 0.75, 0.000_1, 0.79, 0.8),
            ("guessed priors, the same results", 100, 0.75, 0.05, 0.7, 0.78),
            ("right priors, refuted here", 100, 0.3, 0.000_1, 0.25, 0.4),
            ("too few to refute it", 10, 0.3, 0.000_1, 0.78, 0.8),
        ];
        for (what, times, rate, spread, least, most) in rows {
            let mut posterior = Posterior::default();
            seen(&mut posterior, &mut dice(1), rate, times);
            let belief = posterior.belief_within(0.8, spread);
            assert!((least..=most).contains(&belief.mean), "{what}: {belief:?}");
        }
    }

    #[test]
    fn what_got_worse_and_came_back_is_what_its_prior_says_again() {
        let (mut posterior, mut dice) = (Posterior::default(), dice(3));
        let mean = |posterior: &Posterior| posterior.belief_within(0.8, 0.000_1).mean;
        seen(&mut posterior, &mut dice, 0.8, 400);
        assert!((mean(&posterior) - 0.8).abs() < 0.02, "{posterior:?}");
        seen(&mut posterior, &mut dice, 0.2, 60);
        assert!(mean(&posterior) < 0.45, "{posterior:?}");
        seen(&mut posterior, &mut dice, 0.8, 600);
        assert!((mean(&posterior) - 0.8).abs() < 0.02, "{posterior:?}");
    }

    proptest! {
        #[test]
        fn a_belief_is_between_the_prior_and_the_results(
            values in proptest::collection::vec(0.0f64..=1.0, 0..80),
            prior in 0.0f64..=1.0,
            spread in 0.000_1f64..=1.0,
        ) {
            let mut posterior = Posterior::default();
            values.iter().for_each(|value| posterior.observe_v1(*value));
            let belief = posterior.belief_within(prior, spread);
            let all = values.iter().copied().chain([prior]);
            let (least, most) = all.fold((1.0, 0.0), |(least, most): (f64, f64), value| {
                (least.min(value), most.max(value))
            });
            prop_assert!((least - 1e-9..=most + 1e-9).contains(&belief.mean), "{belief:?}");
            prop_assert!(belief.deviation > 0.0 && belief.deviation <= 1.0, "{belief:?}");
            // Who is trusted more is left less.
            let nearer = posterior.belief_within(prior, spread / 2.0);
            let (near, far) = ((nearer.mean - prior).abs(), (belief.mean - prior).abs());
            let refuted = nearer.weight > 0.0 && near > far;
            prop_assert!(!refuted || posterior.apart(prior).is_some(), "{near} {far}");
        }
    }
}
