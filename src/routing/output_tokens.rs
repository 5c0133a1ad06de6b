//! How much output tasks of a class have: the share of `max_output_tokens` that they use, as a mean
//! and as an upper quantile. The frozen kernel `output_tokens_v1`.

use serde::{Deserialize, Serialize};

/// Before there are results: the share that is expected, and that it may be all.
const SHARE_PRIOR: f64 = 0.25;
/// The prior counts as much as this many results, and 1,000 results count at most.
const PRIOR_WEIGHT: f64 = 4.0;
const KEEP: f64 = 0.999;

/// The quantile that is followed (Robbins and Monro 1951), and by which steps.
const UPPER: f64 = 0.99;
const UPPER_STEP: f64 = 0.02;

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OutputTokens {
    weight: f64,
    sum: f64,
    upper: f64,
}

impl Default for OutputTokens {
    fn default() -> Self {
        OutputTokens { weight: 0.0, sum: 0.0, upper: 1.0 }
    }
}

impl OutputTokens {
    /// Tokens that are expected of a task with this bound.
    pub fn expected(&self, max_output_tokens: u32) -> f64 {
        let share = (SHARE_PRIOR * PRIOR_WEIGHT + self.sum) / (PRIOR_WEIGHT + self.weight);
        f64::from(max_output_tokens) * share
    }

    /// Tokens that one task in a hundred exceeds.
    pub fn upper(&self, max_output_tokens: u32) -> f64 {
        f64::from(max_output_tokens) * self.upper
    }

    /// One more answer. More than the bound counts as the bound. One that used all of a smaller
    /// reservation was cut off there: nobody knows how long it would have been, only that it is longer.
    pub fn observe_v1(&mut self, max_output_tokens: u32, reserved: u32, output_tokens: u32) {
        if max_output_tokens == 0 {
            return;
        }
        let share = f64::min(f64::from(output_tokens) / f64::from(max_output_tokens), 1.0);
        self.weight = self.weight * KEEP + 1.0;
        self.sum = self.sum * KEEP + share;
        let was_cut = reserved < max_output_tokens && output_tokens >= reserved;
        let side = if was_cut || share > self.upper { UPPER } else { UPPER - 1.0 };
        self.upper = (self.upper + UPPER_STEP * side).clamp(0.0, 1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_what_is_used() {
        let mut output = OutputTokens::default();
        assert_eq!((output.expected(1_000), output.upper(1_000)), (250.0, 1_000.0));
        for time in 0..20_000_u32 {
            output.observe_v1(1_000, 1_000, time * 7_919 % 400);
        }
        let (expected, upper) = (output.expected(1_000), output.upper(1_000));
        assert!((expected - 200.0).abs() < 10.0, "{expected}");
        assert!((380.0..=440.0).contains(&upper), "{upper}");
    }

    #[test]
    fn what_exceeds_its_bound_counts_as_the_bound() {
        let mut output = OutputTokens::default();
        for _ in 0..10_000 {
            output.observe_v1(100, 100, 1_000_000);
            output.observe_v1(0, 0, 5);
        }
        assert_eq!(output.upper(100), 100.0);
        assert!((output.expected(100) - 100.0).abs() < 1.0);
    }

    #[test]
    fn answers_that_are_cut_off_are_let_grow_again() {
        let mut output = OutputTokens::default();
        for time in 0..20_000_u32 {
            // From the middle on, answers are three times as long.
            let wanted = (time * 7_919 % 200) * if time < 10_000 { 1 } else { 3 };
            let reserved = output.upper(1_000) as u32;
            output.observe_v1(1_000, reserved, wanted.min(reserved));
        }
        let upper = output.upper(1_000);
        assert!((560.0..=660.0).contains(&upper), "{upper}");
    }
}
