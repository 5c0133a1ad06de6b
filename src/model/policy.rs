//! The routing policy: the part of the configuration that decisions depend on. It is journaled by
//! value when it changes, so that a replay knows it.

use serde::{Deserialize, Serialize};

/// How much output a task's first attempt may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReserveOutput {
    /// All that the task asks for.
    All,
    /// What 99 in 100 tasks of its class need: more fit into the limits, and the longest are cut off.
    Predicted,
}

/// Every field is part of the decisions: a change is a control record of the next batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Attempts that may fail or expire before a task is given up; 1 to 10.
    pub attempts_max: u32,
    /// Fallback chains in a decision; 0 to 4.
    pub fallbacks_max: u32,
    /// A worker must start this soon after the decision; windows are kept this much longer.
    pub start_within_ms: u64,
    /// A lease is `start_within + predicted latency · lease_factor`, within the two bounds.
    pub lease_factor: f64,
    pub lease_ms_min: u64,
    pub lease_ms_max: u64,
    /// A lease ends this long after its time, so that a result on its way still counts.
    pub lease_grace_ms: u64,
    /// Tasks that may wait in one lane's backlog.
    pub backlog_tasks_max: u32,
    /// A waiting task without a deadline is refused after this long.
    pub wait_ms_max: u64,
    /// A task id is recognised as a duplicate for this long …
    pub recognise_ms: u64,
    /// … and among this many newest ids of the lane.
    pub recognise_tasks_max: u32,
    /// At most this share of the tasks is served by a resource that may be better than is believed.
    pub explore_share: f64,
    /// How much output is reserved, and with the decision allowed.
    pub reserve_output: ReserveOutput,
    /// `load-snapshots` of a lane are this far apart.
    pub load_snapshot_ms: u64,
    /// Pools of the fleet whose decision topic does not exist; found by the shell.
    pub pools_missing: Vec<String>,
    /// Of what all priorities are given, each below the highest gets at least this share while it
    /// waits; in [0, 0.2].
    pub priority_share_min: f64,
    /// A task whose next stage is served in another region begins it this much later.
    pub transfer_ms: f64,
    /// What it costs to bring a million tokens of the next stage's input to another region.
    pub transfer_usd_per_million_tokens: f64,
    /// This share of an input's cost and reading time is saved where its session was served last; in [0, 1].
    pub affinity_share: f64,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            attempts_max: 3,
            fallbacks_max: 2,
            start_within_ms: 2_000,
            lease_factor: 4.0,
            lease_ms_min: 30_000,
            lease_ms_max: 3_600_000,
            lease_grace_ms: 1_000,
            backlog_tasks_max: 10_000,
            wait_ms_max: 60_000,
            recognise_ms: 3_600_000,
            recognise_tasks_max: 1_000_000,
            explore_share: 0.01,
            reserve_output: ReserveOutput::All,
            load_snapshot_ms: 5_000,
            pools_missing: Vec::new(),
            priority_share_min: 0.01,
            transfer_ms: 100.0,
            transfer_usd_per_million_tokens: 0.0004,
            affinity_share: 0.25,
        }
    }
}
