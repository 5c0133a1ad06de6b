//! The smaller events: balance, load snapshots, operator actions, and what lanes send each other.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::health::HealthStatus;
use super::result::TaskResult;
use super::rights::{Advice, RightsTransfer};
use super::system_health::SystemHealth;
use super::task::Priority;
use super::time::Timestamp;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BalanceKind {
    RightsMoved,
    StrategyChanged,
    /// A resource went down and its in-flight work is decided again.
    Failover,
    /// Rights go to another lane as soon as they are not in use.
    RightsPledged,
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
    /// `slots`, `requests`, `tokens` or `usd`: see [`super::rights::Counted`].
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
    /// Millionths of the limit that this lane holds.
    #[serde(default)]
    pub rights: u32,
    /// See [`super::rights::LimitName::incarnation`].
    #[serde(default)]
    pub incarnation: i64,
    /// What this lane's waiting tasks would take of the limit, as far as they were looked at.
    #[serde(default)]
    pub waiting: u64,
    /// What the largest task takes that waits for want of units here and would fit the whole limit;
    /// 0 where none does.
    #[serde(default)]
    pub largest_waiting: u64,
    /// Since when a task waits here for want of units, or one that is too large where there is one; `None`
    /// where none does.
    #[serde(default)]
    pub waiting_since_ms: Option<Timestamp>,
    /// Of `waiting`, what critical tasks wait for.
    #[serde(default)]
    pub waiting_critical: u64,
    /// Of `waiting`, what interactive tasks wait for.
    #[serde(default)]
    pub waiting_interactive: u64,
    /// Of the largest waiting task; meaningless where there is none.
    #[serde(default)]
    pub largest_priority: Priority,
    /// Of `rights`, those that the lane owes to others as soon as they are not in use.
    #[serde(default)]
    pub pledged: u32,
}

/// One record of `load-snapshots`, keyed `lane/resource`, where a tenant stands for a resource as
/// `tenant:` and its id; a lane's own has no resource. See `schemas/load_snapshot.avsc`.
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "InboxRecord", into = "InboxRecord")]
pub struct InboxMessage {
    pub from_lane: u32,
    pub to_lane: u32,
    pub body: InboxBody,
}

#[derive(Debug, Clone, PartialEq)]
pub enum InboxBody {
    /// A result that came to the wrong partition.
    Result(TaskResult),
    Rights(RightsTransfer),
    Advice(Advice),
}

/// An inbox message in a record: exactly one of the contents is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InboxRecord {
    pub from_lane: u32,
    pub to_lane: u32,
    #[serde(default)]
    pub result: Option<TaskResult>,
    #[serde(default)]
    pub rights: Option<RightsTransfer>,
    #[serde(default)]
    pub advice: Option<Advice>,
}

/// A message that has no content, or more than one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message with {0} contents; allowed: one of result, rights and advice")]
pub struct NotOneContent(pub usize);

impl TryFrom<InboxRecord> for InboxMessage {
    type Error = NotOneContent;

    fn try_from(record: InboxRecord) -> Result<Self, NotOneContent> {
        let InboxRecord { from_lane, to_lane, result, rights, advice } = record;
        let body = match (result, rights, advice) {
            (Some(result), None, None) => InboxBody::Result(result),
            (None, Some(rights), None) => InboxBody::Rights(rights),
            (None, None, Some(advice)) => InboxBody::Advice(advice),
            (result, rights, advice) => {
                let found = [result.is_some(), rights.is_some(), advice.is_some()];
                return Err(NotOneContent(found.into_iter().filter(|one| *one).count()));
            }
        };
        Ok(InboxMessage { from_lane, to_lane, body })
    }
}

impl From<InboxMessage> for InboxRecord {
    fn from(message: InboxMessage) -> Self {
        let InboxMessage { from_lane, to_lane, body } = message;
        let (mut result, mut rights, mut advice) = (None, None, None);
        match body {
            InboxBody::Result(content) => result = Some(content),
            InboxBody::Rights(content) => rights = Some(content),
            InboxBody::Advice(content) => advice = Some(content),
        }
        InboxRecord { from_lane, to_lane, result, rights, advice }
    }
}

impl InboxMessage {
    /// The task result that the message passes on, where it does.
    pub fn into_result(self) -> Option<TaskResult> {
        match self.body {
            InboxBody::Result(result) => Some(result),
            InboxBody::Rights(_) | InboxBody::Advice(_) => None,
        }
    }
}
