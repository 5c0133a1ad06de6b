//! The smaller events: balance, load snapshots, operator actions, and what lanes send each other.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::health::HealthStatus;
use super::result::TaskResult;
use super::system_health::SystemHealth;
use super::time::Timestamp;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BalanceKind {
    RightsMoved,
    StrategyChanged,
    /// A resource went down and its in-flight work is decided again.
    Failover,
}

/// One record of `balance-events`. See `schemas/balance_event.avsc`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BalanceEvent<'a> {
    pub kind: BalanceKind,
    #[serde(borrow)]
    pub resource: Cow<'a, str>,
    pub lane: u32,
    pub at_ms: Timestamp,
    /// Attempts that are decided again, for a failover; that wait, for a change of strategy.
    pub tasks: u64,
    #[serde(borrow)]
    pub detail: Cow<'a, str>,
}

/// One limit of a resource as one lane sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DimensionLoad<'a> {
    /// `slots`, `requests` or `tokens`.
    #[serde(borrow)]
    pub dimension: Cow<'a, str>,
    /// 0 for slots.
    pub window_s: u32,
    /// Of all lanes together.
    pub limit: u64,
    /// This lane's part of the limit.
    pub units: u64,
    /// In use in the window, or at this instant for slots.
    pub used: u64,
    /// The highest use since the lane's last snapshot of this resource.
    pub used_max: u64,
    /// What a task of the usual size pays for it now, in utility.
    pub price: f64,
}

/// One record of `load-snapshots`, keyed `lane/resource`; a lane's own has no resource. See `schemas/load_snapshot.avsc`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadSnapshot<'a> {
    pub lane: u32,
    #[serde(borrow)]
    pub resource: Cow<'a, str>,
    pub at_ms: Timestamp,
    pub health: HealthStatus,
    #[serde(borrow)]
    pub load: Vec<DimensionLoad<'a>>,
    pub in_flight: u64,
    /// Tasks of the lane that wait for any resource.
    pub backlog: u64,
    /// How the whole lane fares: in its own record alone, which has no resource and the key `lane/`.
    #[serde(default)]
    pub system: Option<SystemHealth>,
}

/// One record of `operator-actions`. See `schemas/operator_action.avsc`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperatorAction {
    pub action_id: String,
    /// `clock_probe`, `drain`, `redrive`, …
    pub kind: String,
    pub actor: String,
    pub reason: String,
    pub at_ms: Timestamp,
    pub detail: String,
}

/// One record of `lane-inbox`, keyed by the receiving lane. See `schemas/lane_inbox.avsc`.
///
/// The capacity issue adds rights and advice here; until then lanes only pass on results that
/// came to the wrong partition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InboxMessage {
    pub from_lane: u32,
    pub to_lane: u32,
    pub result: TaskResult,
}
