//! Plain data: what travels through Pointsman, with its units, ranges and checks.
//!
//! Nothing here does I/O or knows how a value is encoded; `codec` does.

pub mod allocation;
pub mod decision;
pub mod event;
pub mod health;
pub mod invalid;
pub mod journal;
pub mod policy;
pub mod reason;
pub mod resource;
pub mod result;
pub mod rights;
pub mod snapshot;
pub mod system_health;
pub mod task;
pub mod time;

/// The topics of the contract, by what they carry. Their names are configurable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    Tasks,
    TaskResults,
    LaneInbox,
    HealthEvents,
    Fleet,
    RouteDecisions,
    AllocationEvents,
    BalanceEvents,
    LoadSnapshots,
    Journal,
    Snapshots,
    OperatorActions,
    TasksDlq,
    TaskResultsDlq,
    LaneInboxDlq,
    HealthEventsDlq,
    FleetDlq,
}

impl Topic {
    /// Every topic, in the order of the flow.
    pub const ALL: [Topic; 17] = [
        Topic::Tasks,
        Topic::TaskResults,
        Topic::LaneInbox,
        Topic::HealthEvents,
        Topic::Fleet,
        Topic::RouteDecisions,
        Topic::AllocationEvents,
        Topic::BalanceEvents,
        Topic::LoadSnapshots,
        Topic::Journal,
        Topic::Snapshots,
        Topic::OperatorActions,
        Topic::TasksDlq,
        Topic::TaskResultsDlq,
        Topic::LaneInboxDlq,
        Topic::HealthEventsDlq,
        Topic::FleetDlq,
    ];

    /// The inputs of which each lane owns one partition.
    pub const LANE_INPUTS: [Topic; 3] = [Topic::Tasks, Topic::TaskResults, Topic::LaneInbox];

    /// The control inputs, one partition each, that every lane reads whole.
    pub const CONTROLS: [Topic; 2] = [Topic::Fleet, Topic::HealthEvents];

    /// The name where the configuration says nothing, and the label in metrics.
    pub const fn default_name(self) -> &'static str {
        match self {
            Topic::Tasks => "tasks",
            Topic::TaskResults => "task-results",
            Topic::LaneInbox => "lane-inbox",
            Topic::HealthEvents => "health-events",
            Topic::Fleet => "fleet",
            Topic::RouteDecisions => "route-decisions",
            Topic::AllocationEvents => "allocation-events",
            Topic::BalanceEvents => "balance-events",
            Topic::LoadSnapshots => "load-snapshots",
            Topic::Journal => "journal",
            Topic::Snapshots => "snapshots",
            Topic::OperatorActions => "operator-actions",
            Topic::TasksDlq => "tasks.dlq",
            Topic::TaskResultsDlq => "task-results.dlq",
            Topic::LaneInboxDlq => "lane-inbox.dlq",
            Topic::HealthEventsDlq => "health-events.dlq",
            Topic::FleetDlq => "fleet.dlq",
        }
    }

    /// Where a record of this input goes that cannot be used; `None` for what is no input.
    pub const fn dlq(self) -> Option<Topic> {
        match self {
            Topic::Tasks => Some(Topic::TasksDlq),
            Topic::TaskResults => Some(Topic::TaskResultsDlq),
            Topic::LaneInbox => Some(Topic::LaneInboxDlq),
            Topic::HealthEvents => Some(Topic::HealthEventsDlq),
            Topic::Fleet => Some(Topic::FleetDlq),
            Topic::RouteDecisions
            | Topic::AllocationEvents
            | Topic::BalanceEvents
            | Topic::LoadSnapshots
            | Topic::Journal
            | Topic::Snapshots
            | Topic::OperatorActions
            | Topic::TasksDlq
            | Topic::TaskResultsDlq
            | Topic::LaneInboxDlq
            | Topic::HealthEventsDlq
            | Topic::FleetDlq => None,
        }
    }
}
