//! What perfect foresight could have earned: an upper bound by weak duality.
//!
//! Choosing for every task at most one resource and start time, so that slots, requests and tokens
//! suffice, is an integer programme too large to solve. But *any* prices λ ≥ 0 of the capacities bound
//! it from above:
//!
//! ```text
//! Σ_tasks max(0, max over (resource, start) of value − price of what it takes) + Σ λ·capacity
//! ```
//!
//! (Lagrangian relaxation; weak duality holds for integer programmes too.) The bound is minimised over
//! the prices by projected subgradient steps; since it is valid at each of them, the best one is kept,
//! and nothing rests on having converged. Prices for online allocation, and measuring against this
//! very bound: Devanur and Hayes, "The adwords problem" (EC 2009); Balseiro, Lu and Mirrokni, "The best
//! of many worlds: dual mirror descent for online allocation problems" (Operations Research 2023).
//!
//! **Why nothing that a router can do is above it.** Whatever a router does, look only at the attempts
//! whose answers counted, one for each task at most. Their starts are whole milliseconds in a task's
//! reach (`reach`), outside of hard outages, and early enough for the deadline: all of that is allowed
//! here. They take no more than was taken altogether, and are charged less than what they really hold:
//!
//! - a slot from start to answer, where a lane frees it with its next batch; per interval of time
//!   instead of at every instant;
//! - a request and the tokens that were really used (at most what was asked for), at the start, where a
//!   router must reserve more; in every window of a fixed grid instead of every window. A window that
//!   is no multiple of the grid's cells is rounded in the direction that allows more.
//!
//! Left out, so that the bound is only higher for it: failed attempts, partial outages, health events,
//! minimum qualities, tenants' limits and budgets. Not covered: a router that reserves less than the
//! tokens used, and so overruns; the summary says how many tokens that were.

mod problem;
mod reach;
#[cfg(test)]
mod tests;

use super::scenario::Scenario;
use super::site::Run;
use super::{BacktestError, Watch};
use crate::hindsight::prices::minimise;
use crate::hindsight::problem::Problem;
use crate::model::policy::Policy;
use crate::model::task::Weights;

pub use reach::reach_ms;

/// The bounds of a scenario, where they were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Bounds {
    pub utility: Option<f64>,
    pub utility_class_informed: Option<f64>,
    pub quality: Option<f64>,
    pub quality_class_informed: Option<f64>,
}

/// What the planner knows of quality. Arrivals, sizes and durations it knows anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insight {
    /// Of every task on every resource: it harvests luck, too.
    Full,
    /// Each class's mean on each resource: the ceiling for a router without insight into single tasks.
    ClassMeans,
}

/// What is to be earned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// Utility under the tasks' own objectives.
    Utility,
    /// Quality alone.
    Quality,
}

/// The objective that counts quality alone.
pub const QUALITY_ONLY: Weights = Weights { quality: 1.0, usd: 0.0, second: 0.0 };

impl Bounds {
    pub fn set(&mut self, aim: Aim, insight: Insight, bound: f64) {
        let place = match (aim, insight) {
            (Aim::Utility, Insight::Full) => &mut self.utility,
            (Aim::Utility, Insight::ClassMeans) => &mut self.utility_class_informed,
            (Aim::Quality, Insight::Full) => &mut self.quality,
            (Aim::Quality, Insight::ClassMeans) => &mut self.quality_class_informed,
        };
        *place = Some(bound);
    }

    /// Where all tasks want quality alone, one bound is the other.
    pub fn quality_from_utility(&mut self) {
        self.quality = self.utility;
        self.quality_class_informed = self.utility_class_informed;
    }
}

/// Whether every task counts quality alone, so that utility is quality.
pub fn wants_quality_only(scenario: &Scenario) -> bool {
    scenario.tasks.iter().all(|timed| timed.task.objective.weights() == QUALITY_ONLY)
}

/// The least upper bound found. `runs` are what routers did with the scenario: a start that a task
/// really had is within its reach, whatever else is.
///
/// # Errors
/// `watch` said to stop.
pub fn bound(
    scenario: &Scenario,
    policy: &Policy,
    runs: &[&Run],
    aim: Aim,
    insight: Insight,
    watch: Watch<'_>,
) -> Result<f64, BacktestError> {
    let reach = reach_ms(scenario, policy, runs);
    let problem = Problem::of(scenario, &reach, aim, insight);
    minimise(&problem, watch).ok_or(BacktestError::Stopped)
}
