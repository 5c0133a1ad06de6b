//! A linear regression of residuals, learned one result at a time.
//!
//! Kept are the discounted sums of `x·xᵀ` and `x·y`, and solved for the weights with each result
//! (Cholesky's decomposition). The usual form of recursive least squares keeps the inverse instead, which
//! saves that step and, with forgetting, grows without end in every direction in which inputs do
//! not vary; these sums are bounded, and the ridge keeps every pivot above zero.
//!
//! The ridge counts as so many results of the usual size in every direction, so it means the same
//! whatever the unit of the features is.

use serde::{Deserialize, Serialize};

use super::{DIMENSIONS, Vector};

/// What is kept of the weight of former results with each new one: 1,000 count.
const KEEP: f64 = 0.999;
/// The belief that features say nothing counts as much as this many results.
const RIDGE_RESULTS: f64 = 16.0;
/// So that there is one where nothing varies.
const RIDGE_MIN: f64 = 1e-9;
/// With fewer results, two for each number, the weights are mostly chance.
const RIPE_RESULTS: f64 = 2.0 * DIMENSIONS as f64;

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Ridge {
    /// Results, by their weight.
    results: f64,
    /// `Σ x·xᵀ`: up to the diagonal.
    squares: [Vector; DIMENSIONS],
    /// `Σ x·y`.
    products: Vector,
    weights: Vector,
}

fn dot(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).fold(0.0, |sum, (one, other)| sum + one * other)
}

impl Ridge {
    /// What is predicted for an input, in [-1, 1].
    pub fn of(&self, input: &Vector) -> f64 {
        dot(&self.weights, input).clamp(-1.0, 1.0)
    }

    /// Whether it has seen enough to be asked.
    pub fn is_ripe(&self) -> bool {
        self.results >= RIPE_RESULTS
    }

    /// One more result: at most 4 long, and in [-1, 1].
    pub fn observe(&mut self, input: &Vector, output: f64) {
        self.results = self.results * KEEP + 1.0;
        for (at, row) in self.squares.iter_mut().enumerate() {
            for (sum, other) in row.iter_mut().zip(input).take(at + 1) {
                *sum = *sum * KEEP + input[at] * other;
            }
            self.products[at] = self.products[at] * KEEP + input[at] * output;
        }
        // Without a solution there is nothing to predict.
        self.weights = self.solved().unwrap_or_default();
    }

    /// The ridge, from the mean variance in a direction.
    fn ridge(&self) -> f64 {
        let all = self.squares.iter().enumerate().fold(0.0, |sum, (at, row)| sum + row[at]);
        RIDGE_RESULTS * all / (self.results * DIMENSIONS as f64) + RIDGE_MIN
    }

    fn solved(&self) -> Option<Vector> {
        let ridge = self.ridge();
        let mut lower = [Vector::default(); DIMENSIONS];
        let mut halfway = Vector::default();
        for at in 0..DIMENSIONS {
            let (above, rest) = lower.split_at_mut(at);
            let row = rest.first_mut()?;
            for (column, other) in above.iter().enumerate() {
                let left = self.squares[at][column] - dot(&row[..column], &other[..column]);
                row[column] = left / other[column];
            }
            let left = self.squares[at][at] + ridge - dot(&row[..at], &row[..at]);
            // Asked so that what is no number is refused.
            let is_positive = left > 0.0 && left.is_finite();
            if !is_positive {
                return None;
            }
            row[at] = libm::sqrt(left);
            halfway[at] = (self.products[at] - dot(&row[..at], &halfway[..at])) / row[at];
        }
        let mut weights = Vector::default();
        for at in (0..DIMENSIONS).rev() {
            let below =
                (at + 1..DIMENSIONS).fold(0.0, |sum, row| sum + lower[row][at] * weights[row]);
            weights[at] = (halfway[at] - below) / lower[at][at];
        }
        weights.iter().all(|weight| weight.is_finite()).then_some(weights)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn input(values: &[f64]) -> Vector {
        let mut input = Vector::default();
        input.iter_mut().zip(values).for_each(|(into, value)| *into = *value);
        input
    }

    /// Numbers in [-1, 1) that look like chance.
    fn dice(seed: u64) -> impl FnMut() -> f64 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f64 / f64::from(1 << 23) - 1.0
        }
    }

    #[test]
    fn it_finds_what_is_linear() {
        // (what, scale of the inputs, numbers that vary, noise, results, error allowed)
        let rows = [
            ("all vary", 1.0, 16, 0.0, 2_000, 0.03),
            ("in another unit", 1e-3, 16, 0.0, 2_000, 0.03),
            ("only three vary", 1.0, 3, 0.0, 2_000, 0.03),
            ("noise", 1.0, 16, 0.3, 2_000, 0.15),
        ];
        for (what, scale, numbers, noise, results, allowed) in rows {
            let (mut ridge, mut die) = (Ridge::default(), dice(7));
            let truth = |input: &Vector| 0.4 * (input[0] - input[1] + 0.5 * input[2]) / scale;
            for _ in 0..results {
                let values: Vec<f64> = (0..numbers).map(|_| die() * scale).collect();
                let input = input(&values);
                ridge.observe(&input, truth(&input) + noise * die());
            }
            for one in [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, -0.5, 0.2]] {
                let input = input(&one.map(|value| value * scale));
                let (found, expected) = (ridge.of(&input), truth(&input));
                assert!((found - expected).abs() < allowed, "{what}: {found}, not {expected}");
            }
        }
    }

    #[test]
    fn few_results_say_little_and_none_nothing() {
        let mut ridge = Ridge::default();
        let one = input(&[1.0]);
        assert_eq!((ridge.of(&one), ridge.is_ripe()), (0.0, false));
        let mut before = 0.0;
        for results in 1..=40 {
            ridge.observe(&one, 1.0);
            let now = ridge.of(&one);
            assert!(now > before && now < 1.0, "{results}: {now}");
            assert_eq!(ridge.is_ripe(), results >= 33, "{results}");
            before = now;
        }
    }

    #[test]
    fn what_has_changed_is_forgotten() {
        let (mut ridge, mut die) = (Ridge::default(), dice(3));
        for sign in [1.0, -1.0] {
            for _ in 0..5_000 {
                let input = input(&[die(), die()]);
                ridge.observe(&input, sign * 0.5 * input[0]);
            }
            let found = ridge.of(&input(&[1.0]));
            assert!((found - sign * 0.5).abs() < 0.05, "{sign}: {found}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_it_stays_a_number(
            results in proptest::collection::vec(
                (proptest::collection::vec(-1.0f64..=1.0, 0..=3), -1.0f64..=1.0, -300i32..=0),
                1..200,
            ),
            again in 1usize..30,
        ) {
            let mut ridge = Ridge::default();
            for _ in 0..again {
                for (values, output, exponent) in &results {
                    let scale = libm::pow(10.0, f64::from(*exponent));
                    let scaled: Vec<f64> = values.iter().map(|value| value * scale).collect();
                    ridge.observe(&input(&scaled), *output);
                    let found = ridge.of(&input(values));
                    prop_assert!((-1.0..=1.0).contains(&found), "{found}");
                }
            }
            let numbers = ridge.squares.iter().flatten().chain(&ridge.weights).chain(&ridge.products);
            prop_assert!(numbers.copied().all(f64::is_finite), "{ridge:?}");
        }
    }
}
