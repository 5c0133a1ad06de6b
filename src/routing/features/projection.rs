//! Features of any length as [`DIMENSIONS`] numbers of bounded size.
//!
//! First `x / √(1 + |x|²)`: into the ball of radius one, from which every vector could be told again,
//! so that nothing a producer sends is too large. Then the sum of every sixteenth number, each with a
//! sign of its own: the hashing trick (Weinberger et al. 2009) with places in turn rather than by
//! hash, which keeps products of vectors up to chance (Johnson and Lindenstrauss 1984), takes one
//! addition per number, and loses nothing where there are no more than sixteen.

use serde::{Deserialize, Serialize};

use super::{DIMENSIONS, Vector};
use crate::model::task::Task;

/// What is kept of a task's features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Projected {
    /// Numbers that the task has: at most [`crate::model::task::FEATURES_MAX`].
    pub length: u16,
    /// Together at most [`LENGTH_MAX`] long.
    values: [f32; DIMENSIONS],
}

/// Only vectors that were made for it come out longer than they went in by as much.
const LENGTH_MAX: f64 = 2.0;

impl Projected {
    pub(super) fn vector(&self) -> Vector {
        self.values.map(f64::from)
    }

    /// Of a task; `None` where it has none.
    pub fn of(task: &Task) -> Option<Box<Projected>> {
        project_v1(&task.features).map(Box::new)
    }
}

/// Mixes all bits of a number into all others (SplitMix64: Steele, Lea and Flood 2014).
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The frozen projection; `None` of no numbers. Finite for all finite numbers.
pub fn project_v1(features: &[f32]) -> Option<Projected> {
    let length = u16::try_from(features.len()).ok().filter(|length| *length > 0)?;
    let (mut sums, mut squares) = (Vector::default(), Vector::default());
    for (number, chunk) in features.chunks(DIMENSIONS).enumerate() {
        let mut signs = mixed(number as u64);
        for ((sum, square), value) in sums.iter_mut().zip(&mut squares).zip(chunk) {
            let value = f64::from(*value);
            *square += value * value;
            *sum += if signs & 1 == 0 { value } else { -value };
            signs >>= 1;
        }
    }
    let scale = 1.0 / libm::sqrt(1.0 + squares.iter().fold(0.0, |all, square| all + square));
    sums.iter_mut().for_each(|sum| *sum *= scale);
    let size = libm::sqrt(sums.iter().fold(0.0, |all, sum| all + sum * sum));
    if size > LENGTH_MAX {
        sums.iter_mut().for_each(|sum| *sum *= LENGTH_MAX / size);
    }
    Some(Projected { length, values: sums.map(|sum| sum as f32) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values(features: &[f32]) -> Vector {
        project_v1(features).unwrap().vector()
    }

    /// Journals hold what these give: they stay as they are.
    #[test]
    fn rows() {
        let check = |what: &str, features: &[f32], expected: &str| {
            let found = project_v1(features).map(|one| {
                let last = one.values.iter().rposition(|value| *value != 0.0);
                let values: Vec<String> = one.values[..last.map_or(0, |last| last + 1)]
                    .iter()
                    .map(|value| format!("{value:.6}"))
                    .collect();
                format!("{}: {}", one.length, values.join(" "))
            });
            assert_eq!(found.unwrap_or_default(), expected, "{what}");
        };
        check("none", &[], "");
        check("nothing", &[0.0, 0.0], "2: ");
        check("one", &[0.5], "1: -0.447214");
        check("two", &[3.0, 4.0], "2: -0.588348 -0.784465");
        check("huge", &[f32::MAX; 3], "3: -0.577350 -0.577350 -0.577350");
        let long: Vec<f32> = (0..40).map(|number| (number % 7) as f32 - 3.0).collect();
        check(
            "long",
            &long,
            "40: 0.400320 0.000000 -0.080064 0.400320 0.160128 -0.480384 0.400320 0.240192 0.160128 \
             0.000000 -0.160128 -0.320256 0.400320 0.080064 0.320256 0.160128",
        );
    }

    #[test]
    fn more_numbers_than_a_task_may_have_are_none() {
        assert_eq!(project_v1(&vec![1.0; 1 << 16]), None);
        assert!(project_v1(&vec![1.0; crate::model::task::FEATURES_MAX]).is_some());
    }

    #[test]
    fn products_are_kept_up_to_chance() {
        // Of many pairs of long vectors: the mean error of their product is small.
        let vector = |seed: u64| -> Vec<f32> {
            (0..768).map(|at| (mixed(seed * 1_000 + at) >> 40) as f32 / 8_388_608.0 - 1.0).collect()
        };
        let product =
            |one: &[f64], other: &[f64]| one.iter().zip(other).map(|(a, b)| a * b).sum::<f64>();
        let (mut error, mut size) = (0.0, 0.0);
        for seed in 0..200 {
            let one = vector(seed);
            // Half of it is the first one.
            let other: Vec<f32> =
                one.iter().zip(vector(seed + 1_000)).map(|(a, b)| a * 0.5 + b * 0.5).collect();
            let true_product = {
                let long =
                    |features: &[f32]| features.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
                let (one, other) = (long(&one), long(&other));
                product(&one, &other)
                    / libm::sqrt((1.0 + product(&one, &one)) * (1.0 + product(&other, &other)))
            };
            error += product(&values(&one), &values(&other)) - true_product;
            size += true_product;
        }
        assert!((error / size).abs() < 0.1, "off by {error} of {size}");
    }

    proptest! {
        #[test]
        fn whatever_comes_is_finite_and_small(
            features in proptest::collection::vec(
                prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL | prop::num::f32::ZERO,
                1..200,
            ),
        ) {
            let found = values(&features);
            let size = libm::sqrt(found.iter().map(|value| value * value).sum::<f64>());
            prop_assert!(size.is_finite() && size <= LENGTH_MAX + 1e-6, "{size}");
        }

        #[test]
        fn short_vectors_lose_nothing(
            features in proptest::collection::vec(-3.0f32..3.0, 1..=DIMENSIONS),
        ) {
            let found = values(&features);
            let inside = found.iter().map(|value| value * value).sum::<f64>();
            let scale = libm::sqrt(1.0 - inside);
            for (value, feature) in found.iter().zip(&features) {
                let again = (value / scale).abs() - f64::from(feature.abs());
                prop_assert!(again.abs() < 1e-3, "{value} {feature}");
            }
        }
    }
}
