//! How fast a resource really is: what results showed of its time to first token and its decoding,
//! against the fleet entry's figures. The frozen kernel `speed_v1`.
//!
//! Both are kept as factors on the prior model, so that they hold for all sizes; the time to the
//! first token has one factor for each range of prompt sizes, because prefill rarely grows as
//! the entry says. A ratio that is far off moves a factor no further than one that is somewhat off
//! (a Huber step), and the upper quantile is followed by steps of its own (Robbins and Monro 1951).

use serde::{Deserialize, Serialize};

/// Prompts up to so many tokens share a factor, the rest has its own.
const PROMPT_TOKENS: [u32; 2] = [1_000, 8_000];

/// Ranges of prompt sizes, each of which has its own time to first token.
pub const RANGES: usize = PROMPT_TOKENS.len() + 1;

/// A single result moves a factor by this much of its distance, once some have been seen.
const STEP: f64 = 0.05;
/// A result counts as no further off than this, up or down.
const RATIO_MAX: f64 = 3.0;
/// Factors stay in here: a fleet entry is not wrong by more.
const FACTOR_MAX: f64 = 100.0;

/// The quantile that deadlines are checked against.
const UPPER: f64 = 0.95;
const UPPER_STEP: f64 = 0.1;
const UPPER_PRIOR: f64 = 1.5;
const UPPER_MAX: f64 = 20.0;

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Factor {
    value: f64,
    results: u32,
}

impl Default for Factor {
    fn default() -> Self {
        Factor { value: 1.0, results: 0 }
    }
}

impl Factor {
    /// `ratio`: what was, by what this factor predicted.
    fn observe(&mut self, ratio: f64) {
        self.results = self.results.saturating_add(1);
        // The first results count more: the prior is an entry in a file.
        let step = f64::max(STEP, 0.5 / f64::from(self.results));
        let ratio = ratio.clamp(1.0 / RATIO_MAX, RATIO_MAX);
        let value = self.value * (1.0 + step * (ratio - 1.0));
        self.value = value.clamp(1.0 / FACTOR_MAX, FACTOR_MAX);
    }
}

/// The times of an attempt, as the fleet entry predicts them, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Predicted {
    pub first_token_ms: f64,
    pub decode_ms: f64,
}

/// What an attempt took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Took {
    pub input_tokens: u32,
    pub first_token_ms: Option<f64>,
    pub duration_ms: f64,
}

/// What an attempt will take, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    pub expected_ms: f64,
    /// Exceeded by one attempt in twenty.
    pub upper_ms: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    first_token: [Factor; RANGES],
    decode: Factor,
    /// The upper quantile of what was, by what was expected.
    upper: f64,
}

impl Default for Speed {
    fn default() -> Self {
        Speed { first_token: Default::default(), decode: Factor::default(), upper: UPPER_PRIOR }
    }
}

/// Below [`RANGES`].
pub fn range(input_tokens: u32) -> usize {
    PROMPT_TOKENS.iter().position(|most| input_tokens <= *most).unwrap_or(PROMPT_TOKENS.len())
}

impl Speed {
    /// By what the entry's times to the first token are multiplied, by [`range`]; and its times for each
    /// token after that.
    pub fn factors(&self) -> ([f64; RANGES], f64) {
        (self.first_token.map(|factor| factor.value), self.decode.value)
    }

    pub fn latency(&self, input_tokens: u32, predicted: Predicted) -> Latency {
        let first = predicted.first_token_ms * self.first_token[range(input_tokens)].value;
        let expected_ms = first + predicted.decode_ms * self.decode.value;
        Latency { expected_ms, upper_ms: expected_ms * self.upper }
    }

    /// One more answer. `predicted` is the entry's prediction for the sizes that it really had.
    pub fn observe_v1(&mut self, predicted: Predicted, took: Took) {
        let expected_ms = self.latency(took.input_tokens, predicted).expected_ms;
        let is_time = |ms: f64| ms.is_finite() && ms > 0.0;
        if !is_time(took.duration_ms) || !is_time(expected_ms) {
            return;
        }
        let ratio = took.duration_ms / expected_ms;
        let first = &mut self.first_token[range(took.input_tokens)];
        match took.first_token_ms.filter(|ms| *ms <= took.duration_ms) {
            Some(first_token_ms) => {
                if is_time(first_token_ms) && is_time(predicted.first_token_ms) {
                    first.observe(first_token_ms / (predicted.first_token_ms * first.value));
                }
                let decode_ms = took.duration_ms - first_token_ms;
                if is_time(decode_ms) && is_time(predicted.decode_ms) {
                    self.decode.observe(decode_ms / (predicted.decode_ms * self.decode.value));
                }
            }
            // Who was slow is not known: both share it.
            None => {
                first.observe(ratio);
                self.decode.observe(ratio);
            }
        }
        let share = if ratio > self.upper { UPPER } else { UPPER - 1.0 };
        self.upper = (self.upper * (1.0 + UPPER_STEP * share)).clamp(1.0, UPPER_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIOR: Predicted = Predicted { first_token_ms: 400.0, decode_ms: 1_600.0 };

    fn took(first_token_ms: Option<f64>, duration_ms: f64) -> Took {
        Took { input_tokens: 500, first_token_ms, duration_ms }
    }

    fn after(times: usize, row: impl Fn(usize) -> Took) -> Latency {
        let mut speed = Speed::default();
        for time in 0..times {
            speed.observe_v1(PRIOR, row(time));
        }
        speed.latency(500, PRIOR)
    }

    #[test]
    fn what_is_expected_follows_what_was() {
        let near = |latency: Latency, ms: f64| (latency.expected_ms - ms).abs() < 0.02 * ms;
        assert!(near(after(0, |_| took(None, 1.0)), 2_000.0));
        assert!(near(after(200, |_| took(Some(400.0), 2_000.0)), 2_000.0));
        assert!(near(after(200, |_| took(None, 6_000.0)), 6_000.0));
        assert!(near(after(200, |_| took(Some(2_000.0), 2_400.0)), 2_400.0));
        // One in fifty takes a minute: that is hardly seen.
        let outliers =
            after(500, |time| took(None, if time % 50 == 49 { 60_000.0 } else { 2_000.0 }));
        assert!((outliers.expected_ms - 2_000.0).abs() < 300.0, "{outliers:?}");
    }

    #[test]
    fn prompts_of_other_sizes_keep_their_own_first_token() {
        let mut speed = Speed::default();
        for _ in 0..200 {
            speed.observe_v1(PRIOR, took(Some(4_000.0), 5_600.0));
        }
        assert!((speed.latency(500, PRIOR).expected_ms - 5_600.0).abs() < 60.0);
        assert!((speed.latency(5_000, PRIOR).expected_ms - 2_000.0).abs() < 60.0);
    }

    #[test]
    fn the_upper_quantile_is_exceeded_by_one_in_twenty() {
        let mut speed = Speed::default();
        let spread = |time: usize| 1_000.0 + (time * 7_919 % 1_000) as f64 * 2.0;
        for time in 0..5_000 {
            speed.observe_v1(PRIOR, took(None, spread(time)));
        }
        let upper_ms = speed.latency(500, PRIOR).upper_ms;
        let exceeded = (0..1_000).filter(|time| spread(*time) > upper_ms).count();
        assert!((10..=110).contains(&exceeded), "{exceeded} of 1,000 above {upper_ms}");
    }

    #[test]
    fn nonsense_teaches_nothing() {
        for nonsense in [0.0, -5.0, f64::NAN, f64::INFINITY] {
            assert_eq!(after(10, |_| took(None, nonsense)), after(0, |_| took(None, 1.0)));
        }
    }
}
