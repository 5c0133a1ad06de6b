//! How far the fleet's priors can be trusted: learned from how far they have been off.
//!
//! A prior that is right is worth more than hundreds of results, and one that was guessed is worth a
//! few. Nobody says which it is, but the pairs of class and resource that have many results do: what
//! remains of their distance from the priors, beyond what chance explains, is the spread of the
//! truth around the priors (the method of moments of empirical Bayes: Efron and Morris 1973; DerSimonian
//! and Laird 1986). A single resource that went wrong must not make all other priors worthless, so
//! one pair counts for so much and no more (Huber's winsorised moments), and where a pair's own
//! results refute its prior, the prior is hardly asked there ([`super::posterior`]).
//!
//! `trust_v1` is frozen: journals are folded with it.

use serde::{Deserialize, Serialize};

/// The spread that is believed before there are results, as a variance; the belief counts as much as
/// so many pairs.
const SPREAD_PRIOR: f64 = 0.006;
const PAIRS_PRIOR: f64 = 4.0;

/// The least: a standard deviation of one hundredth.
const SPREAD_MIN: f64 = 0.000_1;

/// A pair's squared distance counts for at most so many times what was expected.
const SURPRISE_MAX: f64 = 9.0;

/// Results between two estimates: each looks at every pair.
const RENEWED_AFTER: u32 = 256;

/// How far a pair's mean is from its prior.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Apart {
    pub squared: f64,
    /// What chance alone explains of that: the variance of the mean.
    pub chance: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Trust {
    spread: f64,
    since: u32,
}

impl Default for Trust {
    fn default() -> Self {
        Trust { spread: SPREAD_PRIOR, since: 0 }
    }
}

impl Trust {
    /// The variance of the truth around the priors.
    pub fn spread(&self) -> f64 {
        self.spread
    }

    /// `trust_v1`: one more result; where it is time, the spread is estimated again from all pairs.
    pub fn observe_v1<Pairs: Iterator<Item = Apart>>(&mut self, pairs: impl FnOnce() -> Pairs) {
        self.since += 1;
        if self.since < RENEWED_AFTER {
            return;
        }
        self.since = 0;
        let (mut sum, mut count) = (SPREAD_PRIOR * PAIRS_PRIOR, PAIRS_PRIOR);
        for Apart { squared, chance } in pairs() {
            let most = SURPRISE_MAX * (self.spread + chance);
            sum += if squared < most { squared } else { most } - chance;
            count += 1.0;
        }
        let spread = sum / count;
        self.spread = if spread > SPREAD_MIN { spread } else { SPREAD_MIN };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn renewed(trust: &mut Trust, times: u32, pairs: &[Apart]) -> f64 {
        for _ in 0..times * RENEWED_AFTER {
            trust.observe_v1(|| pairs.iter().copied());
        }
        trust.spread()
    }

    #[test]
    fn rows() {
        let pair = |squared: f64| Apart { squared, chance: 0.000_5 };
        // (what, pairs, estimates, from, to)
        let check = |what: &str, pairs: &[Apart], times: u32, least: f64, most: f64| {
            let spread = renewed(&mut Trust::default(), times, pairs);
            assert!((least..=most).contains(&spread), "{what}: {spread}");
        };
        check("no results", &[], 1, SPREAD_PRIOR, SPREAD_PRIOR);
        check("nothing but chance", &[pair(0.000_5); 40], 1, 0.000_4, 0.000_6);
        check("less than chance", &[pair(0.0); 400], 1, SPREAD_MIN, SPREAD_MIN);
        check("priors that were guessed", &[pair(0.04); 40], 3, 0.03, 0.04);
        let mut one_wrong = [pair(0.000_5); 40];
        one_wrong[0] = pair(0.25);
        check("one that went wrong", &one_wrong, 8, 0.000_4, 0.001_2);
    }

    #[test]
    fn between_two_estimates_nothing_is_looked_at() {
        let mut trust = Trust::default();
        for _ in 1..RENEWED_AFTER {
            trust.observe_v1(|| -> std::iter::Empty<Apart> { panic!("looked at too early") });
        }
        trust.observe_v1(|| std::iter::repeat_n(Apart { squared: 0.1, chance: 0.001 }, 40));
        assert!(trust.spread() > SPREAD_PRIOR);
    }

    proptest! {
        #[test]
        fn the_spread_is_bounded_and_the_order_of_pairs_does_not_matter(
            rounds in proptest::collection::vec(
                proptest::collection::vec((0.0f64..=1.0, 0.0f64..=0.02), 0..60), 1..8,
            ),
        ) {
            let (mut forward, mut back) = (Trust::default(), Trust::default());
            for round in rounds {
                let pairs: Vec<Apart> =
                    round.iter().map(|(squared, chance)| Apart { squared: *squared, chance: *chance }).collect();
                let reversed: Vec<Apart> = pairs.iter().rev().copied().collect();
                let one = renewed(&mut forward, 1, &pairs);
                let other = renewed(&mut back, 1, &reversed);
                // Two numbers in [0, 1] are at most 1 apart.
                prop_assert!((SPREAD_MIN..=1.0).contains(&one), "{one}");
                prop_assert!((one - other).abs() <= 1e-9 * one, "{one} {other}");
            }
        }
    }
}
