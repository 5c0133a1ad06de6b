//! How good is the router? The real core in a closed loop over a scenario, offline and in simulated
//! time, next to simple routers on the same input, and as a share of what perfect foresight could have
//! earned.
//!
//! Comparing routers with one another says which is better, not how much is left. So the scenario is
//! also solved with hindsight: weak duality turns any set of prices into an upper bound on what any
//! router could have earned (`bound`). The part of the providers is played by a stand-in that keeps the
//! fleet's limits itself (`provider`), so an oversubscription would show.
//!
//! Pure: files are read and written by the command.

pub mod baselines;
pub mod bound;
mod closed_loop;
pub mod parse;
mod provider;
pub mod scenario;
pub mod site;
pub mod summary;
#[cfg(test)]
pub(crate) mod tests;

pub use closed_loop::run as route;

use crate::model::policy::Policy;

/// What a backtest depends on beside its scenario.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The routing policy, as in production.
    pub policy: Policy,
    pub seed: u64,
    /// Lanes that share the fleet, at least 1.
    pub lanes: u32,
    /// Share of the tasks that come to the first lane, in [0, 1]; the others spread evenly over the rest. `None`: all
    /// lanes get as many.
    pub skew: Option<f64>,
}

pub use crate::hindsight::Watch;

/// Why a backtest did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BacktestError {
    #[error("stopped before the end")]
    Stopped,
    #[error("{open} tasks were neither answered nor refused; please report it")]
    Unsettled { open: usize },
    /// The core published something that cannot be read.
    #[error("{0}; please report it")]
    Core(String),
}
