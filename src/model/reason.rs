//! Why a task was refused: a closed list that producers and dashboards rely on.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalReason {
    NoCapableResource,
    Model,
    Modality,
    ContextWindow,
    Region,
    Tenant,
    Quality,
    Health,
    Cost,
    Deadline,
    NoCapacity,
    PricedOut,
    TenantLimit,
    Budget,
    BacklogFull,
    Shed,
    AttemptsSpent,
    TaskExpired,
    Cancelled,
    Duplicate,
    NotSupported,
    PoolTopicMissing,
}

impl RefusalReason {
    pub const ALL: [RefusalReason; 22] = [
        RefusalReason::NoCapableResource,
        RefusalReason::Model,
        RefusalReason::Modality,
        RefusalReason::ContextWindow,
        RefusalReason::Region,
        RefusalReason::Tenant,
        RefusalReason::Quality,
        RefusalReason::Health,
        RefusalReason::Cost,
        RefusalReason::Deadline,
        RefusalReason::NoCapacity,
        RefusalReason::PricedOut,
        RefusalReason::TenantLimit,
        RefusalReason::Budget,
        RefusalReason::BacklogFull,
        RefusalReason::Shed,
        RefusalReason::AttemptsSpent,
        RefusalReason::TaskExpired,
        RefusalReason::Cancelled,
        RefusalReason::Duplicate,
        RefusalReason::NotSupported,
        RefusalReason::PoolTopicMissing,
    ];

    /// Whether more capacity would have helped.
    pub const fn is_want_of_capacity(self) -> bool {
        match self {
            RefusalReason::NoCapacity
            | RefusalReason::PricedOut
            | RefusalReason::BacklogFull
            | RefusalReason::Shed => true,
            RefusalReason::NoCapableResource
            | RefusalReason::Model
            | RefusalReason::Modality
            | RefusalReason::ContextWindow
            | RefusalReason::Region
            | RefusalReason::Tenant
            | RefusalReason::Quality
            | RefusalReason::Health
            | RefusalReason::Cost
            | RefusalReason::Deadline
            | RefusalReason::TenantLimit
            | RefusalReason::Budget
            | RefusalReason::AttemptsSpent
            | RefusalReason::TaskExpired
            | RefusalReason::Cancelled
            | RefusalReason::Duplicate
            | RefusalReason::NotSupported
            | RefusalReason::PoolTopicMissing => false,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            RefusalReason::NoCapableResource => "no_capable_resource",
            RefusalReason::Model => "model",
            RefusalReason::Modality => "modality",
            RefusalReason::ContextWindow => "context_window",
            RefusalReason::Region => "region",
            RefusalReason::Tenant => "tenant",
            RefusalReason::Quality => "quality",
            RefusalReason::Health => "health",
            RefusalReason::Cost => "cost",
            RefusalReason::Deadline => "deadline",
            RefusalReason::NoCapacity => "no_capacity",
            RefusalReason::PricedOut => "priced_out",
            RefusalReason::TenantLimit => "tenant_limit",
            RefusalReason::Budget => "budget",
            RefusalReason::BacklogFull => "backlog_full",
            RefusalReason::Shed => "shed",
            RefusalReason::AttemptsSpent => "attempts_spent",
            RefusalReason::TaskExpired => "task_expired",
            RefusalReason::Cancelled => "cancelled",
            RefusalReason::Duplicate => "duplicate",
            RefusalReason::NotSupported => "not_supported",
            RefusalReason::PoolTopicMissing => "pool_topic_missing",
        }
    }
}
