//! Everything that the tasks' results have taught a lane, and where it is asked.

mod lately;

use serde::{Deserialize, Serialize};

use super::capability::{Capability, Capable, ClassIndex, Graded};
use super::fact::{AttemptEnd, ResourceIndex, Shown};
use super::features::{Against, Features, Projected};
use super::fleet::Terms;
use super::output_tokens::OutputTokens;
use super::speed::{Latency, Predicted, Speed, Took};
use lately::Lately;

/// The sizes and the class of the task whose attempt ended.
#[derive(Debug, Clone, Copy)]
pub struct Attempted<'a> {
    pub class: &'a str,
    pub resource: ResourceIndex,
    pub input_tokens: u32,
    /// What the task asked for, and what the decision let it have.
    pub max_output_tokens: u32,
    pub output_reserved: u32,
    /// What the fleet entry says of the quality, in [0, 1].
    pub quality_prior: f64,
    pub features: Option<&'a Projected>,
}

/// What features make of the quality that is expected of an attempt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moved {
    /// With them, in [0, 1].
    pub quality: f64,
    /// By how much they have moved it.
    pub by: f64,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Learned {
    capability: Capability,
    /// By resource; as long as the last one that has answered.
    speeds: Vec<Speed>,
    /// By class.
    output_tokens: Vec<OutputTokens>,
    features: Features,
    /// Changes with everything that is learned.
    version: u64,
    #[serde(skip)]
    lately: Lately,
}

impl Learned {
    /// Where a class's results are; `None` where there are none yet.
    pub fn class(&self, name: &str) -> Option<ClassIndex> {
        self.capability.class(name)
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    /// The resources of which something was learned since that version; `None` where it may be any.
    pub fn learned_since(&self, version: u64) -> Option<impl Iterator<Item = ResourceIndex>> {
        self.lately.since(version)
    }

    fn learns_of(&mut self, resource: ResourceIndex) {
        self.version += 1;
        self.lately.add(resource, self.version);
    }

    pub fn capable(
        &self,
        class: Option<ClassIndex>,
        resource: ResourceIndex,
        quality_prior: f64,
    ) -> Capable {
        self.capability.belief(class, resource, quality_prior)
    }

    /// Whether features move anything anywhere.
    pub fn heeds_features(&self) -> bool {
        self.features.are_proven()
    }

    /// A task's features where they may move anything.
    pub fn heeded<'a>(&self, features: Option<&'a Projected>) -> Option<&'a Projected> {
        features.filter(|features| self.features.counts(features))
    }

    /// What a task's features make of what is expected there; `None` where they have no weight.
    pub fn moved(
        &self,
        class: Option<ClassIndex>,
        resource: ResourceIndex,
        quality_prior: f64,
        features: &Projected,
    ) -> Option<Moved> {
        let by = self.features.moved(class?, resource, features);
        if by == 0.0 {
            return None;
        }
        let Capable { quality, success } = self.capable(class, resource, quality_prior);
        let answer = (quality.mean + by).clamp(0.0, 1.0);
        Some(Moved { quality: answer * success, by: (answer - quality.mean) * success })
    }

    /// Output that a task of a class is expected to have, tokens.
    pub fn output_expected(&self, class: Option<ClassIndex>, max_output_tokens: u32) -> f64 {
        let known = class.and_then(|class| self.output_tokens.get(usize::from(class)));
        known.copied().unwrap_or_default().expected(max_output_tokens)
    }

    /// Output that one task of a class in a hundred exceeds, tokens; all that it may have, until there
    /// are results.
    pub fn output_upper(&self, class: Option<ClassIndex>, max_output_tokens: u32) -> u32 {
        let known = class.and_then(|class| self.output_tokens.get(usize::from(class)));
        let upper = known.copied().unwrap_or_default().upper(max_output_tokens);
        (libm::ceil(upper) as u32).min(max_output_tokens)
    }

    /// Of an attempt with these sizes, from the decision on.
    #[inline]
    pub fn latency(
        &self,
        resource: ResourceIndex,
        terms: &Terms,
        input_tokens: u32,
        output_tokens: f64,
    ) -> Latency {
        let predicted = predicted(terms, input_tokens, output_tokens);
        match self.speeds.get(usize::from(resource)) {
            // Asked for every candidate of every task, so it is not copied.
            Some(speed) => speed.latency(predicted),
            None => Speed::default().latency(predicted),
        }
    }

    /// How fast a resource is, as factors of its fleet entry's times.
    pub fn speed(&self, resource: ResourceIndex) -> Speed {
        self.speeds.get(usize::from(resource)).copied().unwrap_or_default()
    }

    /// Learns from an attempt that ended.
    pub fn observe_v1(
        &mut self,
        attempted: Attempted<'_>,
        terms: &Terms,
        end: AttemptEnd,
        shown: &Shown,
    ) {
        let Attempted { class, resource, input_tokens, max_output_tokens, .. } = attempted;
        let Attempted { output_reserved, quality_prior, features, .. } = attempted;
        let succeeded = match end {
            AttemptEnd::Succeeded => true,
            AttemptEnd::Failed => false,
            // What happened there says nothing about what the resource can do.
            AttemptEnd::RateLimited
            | AttemptEnd::Late
            | AttemptEnd::Cancelled
            | AttemptEnd::LeaseExpired
            | AttemptEnd::FailedOver => return,
        };
        self.learns_of(resource);
        let graded = |quality| Graded { quality, prior: quality_prior };
        let quality = shown.quality.filter(|_| succeeded).map(graded);
        let believed =
            |learned: &Self| learned.capable(learned.class(class), resource, quality_prior).quality;
        let before = features.is_some().then(|| believed(self));
        let spread = self.capability.spread();
        self.capability.observe_v1(class, resource, succeeded, quality);
        if self.capability.spread() != spread {
            self.lately.all(self.version);
        }
        if let (Some(features), Some(before), Some(graded), Some(at)) =
            (features, before, quality, self.class(class))
        {
            let off = (graded.quality - before.mean).clamp(-1.0, 1.0);
            // A result adds to the weight, or nearly as much as is forgotten.
            let changed = believed(self).weight < before.weight - 1.0;
            self.features.observe_v1(at, resource, features, Against { off, changed });
        }
        if !succeeded {
            return;
        }
        // As the next decision would have expected it.
        let output_expected = self.output_expected(self.class(class), max_output_tokens);
        if let (Some(class), Some(output)) = (self.class(class), shown.output_tokens) {
            let at = usize::from(class);
            if self.output_tokens.len() <= at {
                self.output_tokens.resize(at + 1, OutputTokens::default());
            }
            if let Some(output_tokens) = self.output_tokens.get_mut(at) {
                output_tokens.observe_v1(max_output_tokens, output_reserved, output);
            }
        }
        if let (Some(input), Some(output), Some(duration_ms)) =
            (shown.input_tokens, shown.output_tokens, shown.duration_ms)
        {
            let (first_token_ms, queued_ms) = (shown.time_to_first_token_ms, shown.queued_ms);
            let took = Took { first_token_ms, duration_ms, queued_ms };
            let decided = predicted(terms, input_tokens, output_expected);
            let predicted = predicted(terms, input, f64::from(output));
            self.speed_mut(resource).observe_v1(decided, predicted, took);
        }
        if let Some(queued_ms) = shown.queued_ms {
            self.speed_mut(resource).queued_v1(queued_ms);
        }
    }

    /// How much longer than expected an attempt under way takes at least, as a share of that: below
    /// zero where it may be faster. `output_tokens`: what it has so far, and in all, as far as is known.
    pub fn slow(
        &self,
        resource: ResourceIndex,
        terms: &Terms,
        input_tokens: u32,
        output_tokens: (f64, f64),
        elapsed_ms: f64,
    ) -> f64 {
        let speed = self.speed(resource);
        let expected_ms = |output| speed.answer_ms(predicted(terms, input_tokens, output));
        let (so_far, all) = output_tokens;
        // What is left of it may go on as expected.
        let all = expected_ms(if so_far > all { so_far } else { all });
        if all > 0.0 { (elapsed_ms - expected_ms(so_far)) / all } else { 0.0 }
    }

    /// An attempt under way there takes longer than expected: by how much it had shown before, and
    /// shows now.
    pub fn slow_v1(&mut self, resource: ResourceIndex, before: f64, now: f64) {
        self.learns_of(resource);
        self.speed_mut(resource).slow_v1(before, now);
    }

    /// An attempt has ended that had shown as much.
    pub fn slow_ended_v1(&mut self, resource: ResourceIndex, slow: f64) {
        if slow > 0.0 {
            self.learns_of(resource);
            self.speed_mut(resource).slow_ended_v1(slow);
        }
    }

    fn speed_mut(&mut self, resource: ResourceIndex) -> &mut Speed {
        let at = usize::from(resource);
        if self.speeds.len() <= at {
            self.speeds.resize(at + 1, Speed::default());
        }
        &mut self.speeds[at]
    }

    /// The resource's breaker lets single tasks try it again: its failures belong to what is over, and
    /// must not keep away those who would find out.
    pub fn forgive(&mut self, resource: ResourceIndex) {
        if self.capability.forgive(resource) {
            self.learns_of(resource);
        }
    }

    /// Another resource has this index now.
    pub fn forget(&mut self, resource: ResourceIndex) {
        self.learns_of(resource);
        self.capability.forget(resource);
        self.features.forget(resource);
        if let Some(speed) = self.speeds.get_mut(usize::from(resource)) {
            *speed = Speed::default();
        }
    }
}

#[inline]
fn predicted(terms: &Terms, input_tokens: u32, output_tokens: f64) -> Predicted {
    let first = terms.time_to_first_token_ms + terms.ms_per_input_token * f64::from(input_tokens);
    let decode_ms = terms.ms_per_output_token * output_tokens;
    Predicted { input_tokens, first_token_ms: first, decode_ms }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::speed::Latency;

    const RESOURCE: ResourceIndex = 3;
    const MAX_OUTPUT_TOKENS: u32 = 1_000;

    fn terms() -> Terms {
        Terms {
            usd_per_input_token: 0.0,
            usd_per_output_token: 0.0,
            time_to_first_token_ms: 300.0,
            ms_per_input_token: 0.2,
            ms_per_output_token: 20.0,
            tokens_max: u64::MAX,
            context_window: 128_000,
            max_output_tokens: 16_384,
            domain: 0,
        }
    }

    /// As a decision takes it.
    fn predicted_for(learned: &Learned, input_tokens: u32) -> Latency {
        let output = learned.output_expected(learned.class("code"), MAX_OUTPUT_TOKENS);
        learned.latency(RESOURCE, &terms(), input_tokens, output)
    }

    /// The share of the last answers that took longer than the decision had said, where the n-th of them
    /// has so many tokens of output and takes so much longer than the entry says.
    fn exceeded(output: impl Fn(u32) -> u32, longer: impl Fn(u32) -> f64) -> f64 {
        const SEEN: u32 = 2_000;
        const COUNTED: u32 = 4_000;
        let (mut learned, mut late) = (Learned::default(), 0);
        for number in 0..SEEN + COUNTED {
            let (input_tokens, output_tokens) = (500, output(number));
            let taken = predicted(&terms(), input_tokens, f64::from(output_tokens));
            let duration_ms = longer(number) * (taken.first_token_ms + taken.decode_ms);
            let upper_ms = predicted_for(&learned, input_tokens).upper_ms;
            late += u32::from(number >= SEEN && duration_ms > upper_ms);
            let attempted = Attempted {
                class: "code",
                resource: RESOURCE,
                input_tokens,
                max_output_tokens: MAX_OUTPUT_TOKENS,
                output_reserved: MAX_OUTPUT_TOKENS,
                quality_prior: 0.5,
                features: None,
            };
            let shown = Shown {
                input_tokens: Some(input_tokens),
                output_tokens: Some(output_tokens),
                duration_ms: Some(duration_ms),
                ..Shown::default()
            };
            learned.observe_v1(attempted, &terms(), AttemptEnd::Succeeded, &shown);
        }
        f64::from(late) / f64::from(COUNTED)
    }

    #[test]
    fn one_answer_in_twenty_takes_longer_than_deadlines_allow_for() {
        // Numbers of a sequence without a pattern that either of the others has (Weyl).
        let spread =
            |number: u32, of: u32| number.wrapping_mul(2_654_435_769) / (u32::MAX / of + 1);
        let check = |what: &str, found: f64| {
            assert!((0.04..0.065).contains(&found), "{what}: {found}");
        };
        let (any, same) = (|number| spread(number, 900), |_| 400);
        let noisy = |number: u32| 0.5 + f64::from(spread(number.wrapping_mul(7), 1_000)) / 1_000.0;
        check("any length, at the same speed", exceeded(any, |_| 1.0));
        check("one length, at any speed", exceeded(same, noisy));
        check("any length, at any speed", exceeded(any, noisy));
        check("much of them short", exceeded(|number| spread(number, 30).pow(2), noisy));
    }
}
