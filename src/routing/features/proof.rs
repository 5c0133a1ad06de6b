//! Whether a regression has been nearer to results that it had not seen than the posterior alone.
//!
//! With every result, before it is learned: the squared error of the posterior's mean less that
//! of the corrected one. What counts is a discounted mean of these gains, and how sure it is: none of the
//! regression below three standard errors, and then the more of it the surer, without a jump. A regression of
//! noise loses by its own variance, so it stays out by itself.
//!
//! Only what the regression has claimed is counted: where it says next to nothing of a task, the two errors are
//! equal and prove nothing. Without that, a regression that is right would lose its proof by its own
//! success, once routing by it sends a resource only tasks that are alike.
//!
//! A second, fast mean notices where a proven regression holds no longer, as where another
//! embedding with as many numbers has come.

use serde::{Deserialize, Serialize};

/// What is kept of the weight of former results: 1,000 and 20 count.
const SLOW_KEEP: f64 = 0.999;
const FAST_KEEP: f64 = 0.95;
/// Fewer results prove nothing.
const RESULTS_MIN: f64 = 32.0;
const FAST_RESULTS_MIN: f64 = 8.0;
/// So many standard errors are no chance.
const SIGMAS: f64 = 3.0;
/// A claim of less than this share of the usual one, in squares, is none.
const CLAIM_MIN: f64 = 0.1;

/// Discounted moments of the gains.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Gains {
    weight: f64,
    sum: f64,
    squares: f64,
}

impl Gains {
    fn add(&mut self, keep: f64, gain: f64) {
        self.weight = self.weight * keep + 1.0;
        self.sum = self.sum * keep + gain;
        self.squares = self.squares * keep + gain * gain;
    }

    /// The mean and its standard error.
    fn mean(&self) -> (f64, f64) {
        let mean = self.sum / self.weight;
        let variance = self.squares / self.weight - mean * mean;
        // Rounding can make nothing of it less than nothing.
        let variance = if variance > 0.0 { variance } else { 0.0 };
        (mean, libm::sqrt(variance / self.weight))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Proof {
    slow: Gains,
    fast: Gains,
    /// Squares of what was claimed, discounted as the slow gains.
    claims: f64,
}

impl Proof {
    /// One more result: how far it was off the posterior, and how far the regression had said that it
    /// would be.
    pub fn add(&mut self, off: f64, predicted: f64) {
        let claim = predicted * predicted;
        if self.slow.weight >= RESULTS_MIN && claim * self.slow.weight < CLAIM_MIN * self.claims {
            return;
        }
        self.claims = self.claims * SLOW_KEEP + claim;
        let left = off - predicted;
        let gain = off * off - left * left;
        self.slow.add(SLOW_KEEP, gain);
        self.fast.add(FAST_KEEP, gain);
    }

    /// How much the regression counts, in [0, 1].
    pub fn weight(&self) -> f64 {
        if self.slow.weight < RESULTS_MIN {
            return 0.0;
        }
        let (mean, error) = self.slow.mean();
        if mean > SIGMAS * error { 1.0 - SIGMAS * error / mean } else { 0.0 }
    }

    /// Whether it has clearly been worse than the posterior lately.
    pub fn is_refuted(&self) -> bool {
        if self.fast.weight < FAST_RESULTS_MIN {
            return false;
        }
        let (mean, error) = self.fast.mean();
        mean < -SIGMAS * error
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(results: impl IntoIterator<Item = (f64, f64)>) -> Proof {
        let mut proof = Proof::default();
        results.into_iter().for_each(|(off, predicted)| proof.add(off, predicted));
        proof
    }

    /// A residual of the size of `noise` that looks like chance.
    fn noise(number: usize) -> f64 {
        let mixed = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        mixed as f64 / f64::from(1 << 23) - 1.0
    }

    #[test]
    fn rows() {
        // (what, results, said, so much of it is true, noise, least weight, most)
        let check =
            |what: &str, results: usize, said: f64, truth: f64, size: f64, weights: (f64, f64)| {
                let proof = after((0..results).map(|number| {
                    let predicted = [said, -said][number % 2];
                    (truth * predicted + size * noise(number), predicted)
                }));
                let weight = proof.weight();
                assert!((weights.0..=weights.1).contains(&weight), "{what}: {weight}");
            };
        check("nothing", 0, 0.0, 0.0, 0.0, (0.0, 0.0));
        check("says nothing", 500, 0.0, 0.0, 0.3, (0.0, 0.0));
        check("right, too few", 30, 0.3, 1.0, 0.3, (0.0, 0.0));
        check("right", 100, 0.3, 1.0, 0.3, (0.3, 0.9));
        check("right, and many", 2_000, 0.3, 1.0, 0.3, (0.7, 0.95));
        check("always exactly right", 100, 0.3, 1.0, 0.0, (0.999, 1.0));
        check("right, a little", 100, 0.05, 1.0, 0.3, (0.0, 0.0));
        check("half as much is true", 2_000, 0.3, 0.55, 0.3, (0.0, 0.5));
        check("nothing of it is true", 2_000, 0.3, 0.0, 0.3, (0.0, 0.0));
        check("the contrary is true", 2_000, 0.3, -1.0, 0.3, (0.0, 0.0));
    }

    #[test]
    fn what_holds_no_longer_is_refuted_soon() {
        let says = |number: usize| [0.3, -0.3][number % 2];
        let mut proof = after((0..1_000).map(|at| (says(at) + 0.3 * noise(at), says(at))));
        assert!(proof.weight() > 0.5 && !proof.is_refuted());
        let refuted = (0..100).find(|at| {
            proof.add(0.3 * noise(*at) - says(*at), says(*at));
            proof.is_refuted()
        });
        assert!(refuted.is_some_and(|results| (4..40).contains(&results)), "{refuted:?}");
    }

    proptest! {
        #[test]
        fn a_weight_is_a_share_and_never_jumps(
            results in proptest::collection::vec((-1.0f64..=1.0, -1.0f64..=1.0), 1..400),
        ) {
            let mut proof = Proof::default();
            let mut before = 0.0;
            for (number, (off, said)) in results.into_iter().enumerate() {
                proof.add(off, said * 0.5 + off * 0.5);
                let weight = proof.weight();
                prop_assert!((0.0..=1.0).contains(&weight), "{weight}");
                // A result is one of many: it moves the weight by a little.
                let step = (weight - before).abs();
                prop_assert!(number < 40 || step < 0.2, "{number}: by {step}");
                before = weight;
            }
        }
    }
}
