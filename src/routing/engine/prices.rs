//! What limits and budgets cost a task, in utility.

use super::super::eligibility::Candidates;
use super::super::fact::ResourceIndex;
use super::super::price::Toll;
use super::super::state::State;

/// In millionths, rounded up.
pub(super) fn usd_micros(usd: f64) -> u64 {
    libm::ceil(usd * 1e6) as u64
}

/// What a resource's limits and the budgets cost a task of these sizes now, in utility: by what it is
/// expected to take.
#[derive(Debug, Clone, Copy)]
pub struct Prices {
    input_tokens: u32,
    output_expected: f64,
    usd_micro: f64,
}

impl Prices {
    pub fn new(
        state: &State,
        candidates: &Candidates,
        input_tokens: u32,
        output_expected: f64,
    ) -> Self {
        let usd_micro = state.tenants.usd_micro_price(candidates.tenant, state.batch_time);
        Prices { input_tokens, output_expected, usd_micro }
    }

    pub fn of(&self, state: &State, index: ResourceIndex) -> f64 {
        let latency = || state.latency(index, self.input_tokens, self.output_expected);
        self.of_busy(state, index, || latency().expected_ms)
    }

    /// As [`Prices::of`], where the milliseconds that it is expected to take there may be known.
    #[inline]
    pub fn of_busy(
        &self,
        state: &State,
        index: ResourceIndex,
        busy_ms: impl FnOnce() -> f64,
    ) -> f64 {
        let toll = state.fleet.toll(index);
        let mut price = 0.0;
        if *toll != Toll::FREE {
            price = toll.of(f64::from(self.input_tokens) + self.output_expected, busy_ms());
        }
        if self.usd_micro > 0.0 {
            let terms = state.fleet.terms(index);
            let usd = terms.cost_usd(self.input_tokens, self.output_expected);
            price += self.usd_micro * usd_micros(usd) as f64;
        }
        price
    }
}
