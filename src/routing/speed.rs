//! How fast a resource really is: what results showed of its time to first token and its decoding,
//! against the fleet entry's figures, and of the time that passes before a worker begins. The frozen kernel
//! `speed_v1`.
//!
//! Both are kept as factors on the prior model, so that they hold for all sizes; the time to the
//! first token has one factor for each range of prompt sizes, because prefill rarely grows as
//! the entry says. A ratio that is far off moves a factor no further than one that is somewhat off
//! (a Huber step), and the upper quantile is followed by steps of its own (Robbins and Monro 1951).
//!
//! The factors compare an answer with the prediction for the sizes that it really had. The upper quantile
//! cannot: a decision does not know how long the answer will be, so the quantile follows what answers took
//! against what decisions expect, and has the spread of their lengths in it.
//!
//! Answers that take long come late, so a resource that became slow looks as fast as before until they
//! do. What attempts under way show of that stands beside the factors, as the step that each of them
//! would make if it ended now, and goes with it: its result takes that place. So a slow attempt counts
//! once, as a fast one does, and what is learned for good depends on results alone.

use serde::{Deserialize, Serialize};

/// Prompts up to so many tokens share a factor, the rest has its own.
const PROMPT_TOKENS: [u32; 2] = [1_000, 8_000];

/// Ranges of prompt sizes, each of which has its own time to first token.
pub const RANGES: usize = PROMPT_TOKENS.len() + 1;

/// A single result moves a factor by this much of its distance, once some have been seen.
const STEP: f64 = 0.05;
/// A result counts as no further off than this, up or down.
const RATIO_MAX: f64 = 3.0;
/// How much longer than expected an attempt under way can show that it takes, as a share of that.
pub const SLOW_MAX: f64 = RATIO_MAX - 1.0;
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

/// The mean time between a decision and the worker's start, and between the answer and its result.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Queueing {
    ms: f64,
    results: u32,
}

impl Queueing {
    /// `ms` has a bound, so that no single result moves it far.
    fn observe(&mut self, ms: f64) {
        self.results = self.results.saturating_add(1);
        let step = f64::max(STEP, 0.5 / f64::from(self.results));
        self.ms += step * (ms - self.ms);
    }
}

/// The times of an attempt, as the fleet entry predicts them, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Predicted {
    pub input_tokens: u32,
    pub first_token_ms: f64,
    pub decode_ms: f64,
}

/// What an attempt took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Took {
    pub first_token_ms: Option<f64>,
    pub duration_ms: f64,
    /// What it waited; `None` where nothing tells.
    pub queued_ms: Option<f64>,
}

/// What attempts under way show of the speed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct UnderWay {
    /// Those that have shown that they are slow.
    attempts: u32,
    /// All times are so many times longer; at least 1.
    times: f64,
}

impl Default for UnderWay {
    fn default() -> Self {
        UnderWay { attempts: 0, times: 1.0 }
    }
}

/// What an attempt will take from the decision on, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    pub expected_ms: f64,
    /// Exceeded by one attempt in twenty.
    pub upper_ms: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    queueing: Queueing,
    first_token: [Factor; RANGES],
    decode: Factor,
    /// The upper quantile of what was, by what decisions expect.
    upper: f64,
    under_way: UnderWay,
}

impl Default for Speed {
    fn default() -> Self {
        Speed {
            queueing: Queueing::default(),
            first_token: Default::default(),
            decode: Factor::default(),
            upper: UPPER_PRIOR,
            under_way: UnderWay::default(),
        }
    }
}

/// Below [`RANGES`]. Without a branch, because it is asked of each candidate.
#[inline]
pub fn range(input_tokens: u32) -> usize {
    PROMPT_TOKENS.iter().map(|most| usize::from(input_tokens > *most)).sum()
}

impl Speed {
    /// By what the entry's times to the first token are multiplied, by [`range`]; and its times for each
    /// token after that.
    pub fn factors(&self) -> ([f64; RANGES], f64) {
        let times = self.under_way.times;
        (self.first_token.map(|factor| factor.value * times), self.decode.value * times)
    }

    /// Between a decision and the worker's start, and between the answer and its result, milliseconds.
    pub fn queueing_ms(&self) -> f64 {
        self.queueing.ms
    }

    #[inline]
    pub fn latency(&self, predicted: Predicted) -> Latency {
        let expected_ms = self.queueing.ms + self.answer_ms(predicted);
        Latency { expected_ms, upper_ms: expected_ms * self.upper }
    }

    /// From the worker's start on.
    #[inline]
    pub fn answer_ms(&self, predicted: Predicted) -> f64 {
        self.learned_ms(predicted) * self.under_way.times
    }

    /// As results alone have it.
    #[inline]
    fn learned_ms(&self, predicted: Predicted) -> f64 {
        let first_token = &self.first_token[range(predicted.input_tokens)];
        predicted.first_token_ms * first_token.value + predicted.decode_ms * self.decode.value
    }

    /// An attempt under way takes longer than expected: by which share it had shown before (0: it had not),
    /// and shows now; in [0, [`SLOW_MAX`]].
    pub fn slow_v1(&mut self, before: f64, now: f64) {
        let UnderWay { attempts, times } = &mut self.under_way;
        *attempts += u32::from(before <= 0.0);
        let longer = *times * (1.0 + STEP * now) / (1.0 + STEP * before);
        *times = longer.clamp(1.0, FACTOR_MAX);
    }

    /// An attempt has ended that had shown as much.
    pub fn slow_ended_v1(&mut self, slow: f64) {
        let UnderWay { attempts, times } = self.under_way;
        // It had shown that of another resource that had this one's place.
        if attempts == 0 {
            return;
        }
        self.under_way = match attempts - 1 {
            0 => UnderWay::default(),
            attempts => {
                let times = (times / (1.0 + STEP * slow)).clamp(1.0, FACTOR_MAX);
                UnderWay { attempts, times }
            }
        };
    }

    /// One more answer waited so long, milliseconds; not less than 0, and bounded by whoever says so.
    pub fn queued_v1(&mut self, queued_ms: f64) {
        self.queueing.observe(queued_ms);
    }

    /// One more answer, before what it waited is counted. What the entry predicts for the sizes that a decision would have expected, and for
    /// those that it really had.
    pub fn observe_v1(&mut self, decided: Predicted, predicted: Predicted, took: Took) {
        let answer_ms = self.learned_ms(predicted);
        let is_time = |ms: f64| ms.is_finite() && ms > 0.0;
        if !is_time(took.duration_ms) || !is_time(answer_ms) {
            return;
        }
        // Before anything moves, as a decision expects it.
        let queued_ms = took.queued_ms.unwrap_or(self.queueing.ms);
        let expected_ms = self.queueing.ms + self.learned_ms(decided);
        let over = (queued_ms + took.duration_ms) / expected_ms;
        let ratio = took.duration_ms / answer_ms;
        let first = &mut self.first_token[range(predicted.input_tokens)];
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
        let share = if over > self.upper { UPPER } else { UPPER - 1.0 };
        self.upper = (self.upper * (1.0 + UPPER_STEP * share)).clamp(1.0, UPPER_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIOR: Predicted =
        Predicted { input_tokens: 500, first_token_ms: 400.0, decode_ms: 1_600.0 };

    fn took(first_token_ms: Option<f64>, duration_ms: f64) -> Took {
        Took { first_token_ms, duration_ms, queued_ms: None }
    }

    impl Speed {
        /// An answer of the size that was expected.
        fn sees(&mut self, took: Took) {
            self.observe_v1(PRIOR, PRIOR, took);
            took.queued_ms.into_iter().for_each(|ms| self.queued_v1(ms));
        }
    }

    fn after(times: usize, row: impl Fn(usize) -> Took) -> Latency {
        let mut speed = Speed::default();
        for time in 0..times {
            speed.sees(row(time));
        }
        speed.latency(PRIOR)
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
            speed.sees(took(Some(4_000.0), 5_600.0));
        }
        assert!((speed.latency(PRIOR).expected_ms - 5_600.0).abs() < 60.0);
        assert!(
            (speed.latency(Predicted { input_tokens: 5_000, ..PRIOR }).expected_ms - 2_000.0).abs()
                < 60.0
        );
    }

    #[test]
    fn what_is_under_way_counts_until_it_ends() {
        let expected = |speed: &Speed| format!("{:.3}", speed.latency(PRIOR).expected_ms);
        let mut speed = Speed::default();
        (0..100).for_each(|_| speed.sees(took(None, 2_000.0)));
        let before = speed;
        assert_eq!(expected(&speed), "2000.000");
        speed.slow_v1(0.0, 1.0);
        assert_eq!(expected(&speed), "2100.000");
        speed.slow_v1(1.0, 2.0);
        assert_eq!(expected(&speed), "2200.000");
        speed.slow_v1(0.0, 0.5);
        assert_eq!(expected(&speed), "2255.000");
        let (first, decode) = speed.factors();
        assert!((first[2] - 1.1275).abs() < 1e-9 && (decode - 1.1275).abs() < 1e-9);
        // What comes meanwhile teaches as it would have.
        let mut alone = before;
        alone.sees(took(None, 2_500.0));
        speed.sees(took(None, 2_500.0));
        assert_eq!(
            (speed.first_token, speed.decode, speed.upper),
            (alone.first_token, alone.decode, alone.upper)
        );
        speed.slow_ended_v1(2.0);
        let half = alone.latency(PRIOR).expected_ms * 1.025;
        assert!((speed.latency(PRIOR).expected_ms - half).abs() < 1e-9);
        speed.slow_ended_v1(0.5);
        assert_eq!(speed, alone, "all have ended");
        speed.slow_ended_v1(2.0);
        assert_eq!(speed, alone, "one of before the resource was another");
    }

    #[test]
    fn however_many_are_slow_there_is_a_bound() {
        let mut speed = Speed::default();
        (0..10_000).for_each(|_| speed.slow_v1(0.0, SLOW_MAX));
        assert_eq!(speed.latency(PRIOR).expected_ms, 2_000.0 * FACTOR_MAX);
        (0..10_000).for_each(|_| speed.slow_ended_v1(SLOW_MAX));
        assert_eq!(speed, Speed::default());
    }

    #[test]
    fn the_upper_quantile_is_exceeded_by_one_in_twenty() {
        let mut speed = Speed::default();
        let spread = |time: usize| 1_000.0 + (time * 7_919 % 1_000) as f64 * 2.0;
        for time in 0..5_000 {
            speed.sees(took(None, spread(time)));
        }
        let upper_ms = speed.latency(PRIOR).upper_ms;
        let exceeded = (0..1_000).filter(|time| spread(*time) > upper_ms).count();
        assert!((10..=110).contains(&exceeded), "{exceeded} of 1,000 above {upper_ms}");
    }

    #[test]
    fn the_quantile_is_of_what_a_decision_expects() {
        let longest = Predicted { decode_ms: 3_200.0, ..PRIOR };
        let mut speed = Speed::default();
        // Every tenth answer has twice the output, at the speed that the entry says.
        for time in 0..2_000 {
            let (predicted, duration_ms) =
                if time % 10 == 0 { (longest, 3_600.0) } else { (PRIOR, 2_000.0) };
            speed.observe_v1(PRIOR, predicted, took(None, duration_ms));
        }
        let latency = speed.latency(PRIOR);
        assert!((latency.expected_ms - 2_000.0).abs() < 1e-6, "{latency:?}");
        assert!((3_300.0..4_000.0).contains(&latency.upper_ms), "{latency:?}");
    }

    #[test]
    fn what_passes_before_the_start_is_learned_apart() {
        let queued = |queued_ms| Took { queued_ms, ..took(None, 2_000.0) };
        let mut speed = Speed::default();
        (0..200).for_each(|_| speed.sees(queued(Some(700.0))));
        let latency = speed.latency(PRIOR);
        assert!((latency.expected_ms - 2_700.0).abs() < 1.0, "{latency:?}");
        assert!((2_700.0..3_000.0).contains(&latency.upper_ms), "{latency:?}");
        assert!((speed.answer_ms(PRIOR) - 2_000.0).abs() < 1e-6);
        // Who does not know says nothing of it.
        let before = speed.queueing_ms();
        (0..200).for_each(|_| speed.sees(queued(None)));
        assert_eq!(speed.queueing_ms(), before);
        // One that took long moves it by a twentieth.
        speed.sees(queued(Some(2_000.0)));
        assert!((speed.queueing_ms() - (before + 65.0)).abs() < 0.1, "{}", speed.queueing_ms());
    }

    #[test]
    fn nonsense_teaches_nothing() {
        for nonsense in [0.0, -5.0, f64::NAN, f64::INFINITY] {
            assert_eq!(after(10, |_| took(None, nonsense)), after(0, |_| took(None, 1.0)));
        }
    }
}
