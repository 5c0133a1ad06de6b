//! How a lane fares: the answer of `checkSystemHealth`.

use serde::{Deserialize, Serialize};

use super::time::Timestamp;

/// What a lane does about its load, from the mildest; each with those before it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Tasks go where they would like to go.
    #[default]
    Steady,
    /// More arrives than usual, or prices send tasks to other resources of the same model and pool.
    Spread,
    /// Tasks go to resources of the same model in other pools.
    Overflow,
    /// Tasks go to other models than they would like.
    Degrade,
    /// Tasks wait, by priority and what they stand to lose.
    Delay,
    /// What cannot be served in time is refused, the lowest priority first.
    Shed,
}

impl Strategy {
    pub const ALL: [Strategy; 6] = [
        Strategy::Steady,
        Strategy::Spread,
        Strategy::Overflow,
        Strategy::Degrade,
        Strategy::Delay,
        Strategy::Shed,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Strategy::Steady => "steady",
            Strategy::Spread => "spread",
            Strategy::Overflow => "overflow",
            Strategy::Degrade => "degrade",
            Strategy::Delay => "delay",
            Strategy::Shed => "shed",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SystemStatus {
    Healthy,
    /// A resource is not healthy, or tasks go to other models than they would like.
    Degraded,
    /// Tasks wait, and nothing has room; or tasks are shed.
    Saturated,
    /// No resource takes work.
    Unhealthy,
}

impl SystemStatus {
    pub const ALL: [SystemStatus; 4] = [
        SystemStatus::Healthy,
        SystemStatus::Degraded,
        SystemStatus::Saturated,
        SystemStatus::Unhealthy,
    ];
}

/// Part of the lane's own record in `load-snapshots`, key `lane/`. See `schemas/load_snapshot.avsc`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SystemHealth {
    pub status: SystemStatus,
    pub strategy: Strategy,
    /// Since when that is in force.
    pub strategy_since_ms: Timestamp,
    /// Resources by health; removed ones are not counted.
    pub healthy: u32,
    pub degraded: u32,
    pub unhealthy: u32,
    pub draining: u32,
    /// Resources that take work and have no room for a task.
    pub full: u32,
    /// Waiting tasks by priority.
    pub backlog_critical: u64,
    pub backlog_interactive: u64,
    pub backlog_batch: u64,
    /// Whether more tasks arrive than usual.
    pub surge: bool,
    /// New tasks in a second: of the last few seconds, usually, and as expected for the next ones.
    pub arrivals_per_s: f64,
    pub arrivals_per_s_usual: f64,
    pub arrivals_per_s_expected: f64,
    /// In a second, over the last half minute: attempts that began, tasks that were refused for any
    /// reason, and those that were shed.
    pub routed_per_s: f64,
    pub refused_per_s: f64,
    pub shed_per_s: f64,
    /// Tenants whose own arrivals surge, at most 8.
    pub tenants_surging: Vec<String>,
}
