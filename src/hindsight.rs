//! How near decisions come to perfect foresight: what a planner could have earned at most that knew
//! every arrival, size and duration in advance, for a backtest's scenario and for what a running lane
//! has just decided.

pub mod prices;
pub mod problem;
pub mod sample;
pub mod window;

/// Told how many tasks were settled since it was last asked; says whether to go on.
pub type Watch<'a> = &'a (dyn Fn(u64) -> bool + Sync);
