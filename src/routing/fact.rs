//! Facts: the recorded outcomes by which alone a lane's state changes.
//!
//! A fact carries results, so that folding it only assigns, adds and removes. Its encoding in the
//! journal is postcard's; a change of this file that alters the encoding needs a new
//! [`FACT_LEVEL`] (from version 0.1.0 on).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::TaskKey;
use super::affinity::SessionHash;
use super::chain::Stages;
use super::features::Projected;
use super::shape::SharedShape;
use super::sharing::{Keeping, Pledge};
use crate::model::Topic;
use crate::model::allocation::AllocationKind;
use crate::model::decision::RouteMetrics;
use crate::model::health::{HealthEvent, HealthStatus, LoweredLimit};
use crate::model::policy::Policy;
use crate::model::reason::RefusalReason;
use crate::model::resource::FleetEntry;
use crate::model::rights::{LimitKind, LimitName, RightsTransfer};
use crate::model::system_health::Strategy;
use crate::model::task::{Priority, Task};
use crate::model::time::Timestamp;

/// The level of the facts that this release writes.
pub const FACT_LEVEL: u32 = 4;

/// The oldest level that this release reads: from 0.1.0 on the one before the newest.
pub const FACT_LEVEL_OLDEST: u32 = 4;

/// The version of the decisions: raised with every change that can alter an outcome.
pub const ENGINE_VERSION: u32 = 4;

/// A resource's place in the fleet table.
pub type ResourceIndex = u16;
/// A tenant's place in the tenant table.
pub type TenantIndex = u16;

/// What a new task would have taken had there been room everywhere, which moves the prices.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bid {
    /// Its best candidate at the prices of the time.
    pub wanted: ResourceIndex,
    /// It would have kept a slot there for so long, as predicted.
    pub busy_ms: u32,
    /// What it gains by its best candidate over the average one, in utility without prices; `None`
    /// where it has only one.
    pub gain: Option<f32>,
    /// Its best candidate without prices.
    pub rather: ResourceIndex,
}

/// What a waiting task stands to lose by going without its best candidate, in millionths of
/// utility: who loses most is served first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Loss(pub u32);

impl Loss {
    /// Of a task whose attempt has ended: it has waited once already.
    pub const MAX: Loss = Loss(u32::MAX);

    /// More than 4,294 in utility counts as that much, and less than nothing as nothing.
    pub fn of(utility: f64) -> Self {
        Loss((utility * 1e6) as u32)
    }
}

/// What a lane keeps of a task; never its payload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewTask {
    pub task_id: Box<str>,
    pub shape: SharedShape,
    /// Where the task stands in the lane's partition of `tasks`.
    pub offset: i64,
    pub deadline_at: Timestamp,
    pub input_tokens: u32,
    pub max_output_tokens: u32,
    /// The stage that is to be decided or under way, from 0; class and sizes are this one's.
    pub stage: u32,
    /// All stages; `None` where the task names none.
    pub stages: Option<Stages>,
    pub session: SessionHash,
    /// What is kept of its features: few numbers, however many it came with.
    pub features: Option<Box<Projected>>,
}

/// Of a task that is refused as it arrives: as whose it counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Newcomer {
    pub tenant: Box<str>,
    pub priority: Priority,
}

impl Newcomer {
    pub fn of(task: &Task) -> Self {
        Newcomer { tenant: Box::from(task.tenant.as_str()), priority: task.priority }
    }
}

/// What an attempt reserves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reservation {
    pub resource: ResourceIndex,
    pub tokens: u64,
    /// What the prices count: as many tokens are expected.
    pub tokens_expected: u64,
    /// Millionths of a US dollar at most, against the budgets.
    pub usd_micros: u64,
    /// What the budgets' prices count: as many are expected.
    pub usd_micros_expected: u64,
    /// The tenant's new theoretical arrival time, nanoseconds since the epoch.
    pub burst_arrival_ns: Option<u64>,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttemptEnd {
    Succeeded,
    Failed,
    RateLimited,
    Late,
    Cancelled,
    LeaseExpired,
    FailedOver,
}

impl AttemptEnd {
    /// The allocation event that says so.
    pub const fn allocation(self) -> AllocationKind {
        match self {
            AttemptEnd::Succeeded
            | AttemptEnd::Failed
            | AttemptEnd::RateLimited
            | AttemptEnd::Late
            | AttemptEnd::Cancelled => AllocationKind::Released,
            AttemptEnd::LeaseExpired => AllocationKind::Expired,
            AttemptEnd::FailedOver => AllocationKind::FailedOver,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            AttemptEnd::Succeeded => "succeeded",
            AttemptEnd::Failed => "failed",
            AttemptEnd::RateLimited => "rate_limited",
            AttemptEnd::Late => "late",
            AttemptEnd::Cancelled => "cancelled",
            AttemptEnd::LeaseExpired => "lease_expired",
            AttemptEnd::FailedOver => "failed_over",
        }
    }

    /// Whether the attempt counts towards `attempts_max`.
    pub const fn is_failure(self) -> bool {
        match self {
            AttemptEnd::Failed | AttemptEnd::RateLimited | AttemptEnd::LeaseExpired => true,
            AttemptEnd::Succeeded
            | AttemptEnd::Late
            | AttemptEnd::Cancelled
            | AttemptEnd::FailedOver => false,
        }
    }
}

/// What a result said of its attempt, as far as the lane learns from it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Shown {
    /// In [0, 1].
    pub quality: Option<f64>,
    pub input_tokens: Option<u32>,
    pub output_tokens: Option<u32>,
    pub time_to_first_token_ms: Option<f64>,
    pub duration_ms: Option<f64>,
    /// From the decision to the result, less the duration, milliseconds; in [0, `start_within_ms`].
    pub queued_ms: Option<f64>,
    pub retry_after_ms: Option<u64>,
}

/// What becomes of the task when an attempt has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Then {
    /// It is over.
    Done,
    /// It waits for the next attempt.
    Again,
    /// Its attempts are spent: it waits only to be read again for its dead letter.
    GiveUp,
    /// The stage has succeeded: the next one waits for its first attempt.
    Next,
}

/// Why a candidate was refused, for the decision record; not journaled, because deciding again
/// derives it.
#[derive(Debug, Clone, PartialEq)]
pub struct RefusedCandidate {
    pub resource: ResourceIndex,
    pub rule: RefusalReason,
    pub needed: String,
    pub had: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Fact {
    /// The first fact of every batch.
    BatchOpened {
        at: Timestamp,
        results_caught_up_at: Timestamp,
    },
    PolicySet(Box<Policy>),
    FleetSet {
        offset: i64,
        entry: Box<FleetEntry>,
    },
    HealthSet {
        offset: i64,
        event: Box<HealthEvent>,
    },
    /// A control record that could not be used; it is in the dead letters.
    ControlSkipped {
        topic: ControlTopic,
        offset: i64,
        /// The core had panicked on it.
        condemned: bool,
    },
    /// A task got its resource. `task` is set where the lane did not know it before.
    Routed {
        key: TaskKey,
        task: Option<Arc<NewTask>>,
        attempt: u32,
        reservation: Reservation,
        fallbacks: Vec<ResourceIndex>,
        lease_until: Timestamp,
        /// Of a new task.
        bid: Option<Bid>,
        #[serde(skip)]
        metrics: Option<RouteMetrics>,
        /// Of a task with stages: who is to serve those after this one, first where it goes, then
        /// where each of the fallbacks would go.
        plans: Vec<Vec<ResourceIndex>>,
    },
    /// Nothing is free that is worth having: the task waits in the backlog.
    Queued {
        key: TaskKey,
        task: Arc<NewTask>,
        blocked_by: RefusalReason,
        until: Timestamp,
        loss: Loss,
        /// Of a new task.
        bid: Option<Bid>,
    },
    /// The task gets no resource. `new` is set where the lane did not know it before.
    Refused {
        key: TaskKey,
        new: Option<Newcomer>,
        reason: RefusalReason,
        #[serde(skip)]
        candidates: Vec<RefusedCandidate>,
    },
    /// A task id that was decided before.
    Duplicate {
        key: TaskKey,
    },
    AttemptEnded {
        key: TaskKey,
        end: AttemptEnd,
        /// Tokens and requests that stay debited at the time of the reservation.
        tokens: u64,
        requests: u32,
        /// Tokens used beyond the reservation, debited now.
        overrun_tokens: u64,
        usd_micros: u64,
        then: Then,
        /// Where the task waits again: until when.
        until: Timestamp,
        /// `None` where no result said that it ended.
        shown: Option<Shown>,
    },
    LeaseExtended {
        key: TaskKey,
        lease_until: Timestamp,
    },
    /// A breaker of this lane has moved, or moves by this: what the lane says about a resource's health.
    /// Time alone moves nothing, because batches that came to nothing are in no journal.
    BreakerTold {
        resource: ResourceIndex,
        status: HealthStatus,
    },
    /// No attempt is left on a resource that went down.
    FailoverEnded {
        resource: ResourceIndex,
        tasks: u64,
    },
    /// The lane's load was published: the highest uses start again.
    LoadPublished {
        /// Of everything that was used, because it was time; else of what cannot wait.
        due: bool,
        owners: Vec<LoadOwner>,
        /// What the lane lacks of the owners' limits.
        lacks: Vec<Lack>,
    },
    /// An input record that could not be used.
    DeadLettered {
        topic: InputTopic,
        offset: i64,
        /// The core had panicked on it.
        condemned: bool,
    },
    /// The lane has given up rights for another one.
    RightsGiven {
        limit: LimitName,
        to_lane: u32,
        rights: u32,
    },
    /// Rights came from another lane.
    RightsTaken {
        from_lane: u32,
        transfer: RightsTransfer,
        how: Taken,
    },
    /// The lane does something else about its load from now on.
    StrategyChanged {
        to: Strategy,
    },
    /// A provider grants less than the lane counts: it says so to all lanes, itself among them, and
    /// lowers nothing before it reads it.
    HeadroomTold {
        resource: ResourceIndex,
        limits: Vec<LoweredLimit>,
    },
    /// What becomes free of a limit goes to another lane, before tasks of this one that are no more
    /// urgent.
    RightsPledged {
        limit: LimitName,
        pledge: Pledge,
    },
    /// What becomes free of a limit is kept together for a large task of this lane.
    RoomKept {
        limit: LimitName,
        keeping: Keeping,
    },
    /// A heartbeat shows that an attempt under way takes longer than it had shown before: by this much
    /// more than was expected of all of it, as a share of that.
    AttemptSlow {
        key: TaskKey,
        slow: f32,
    },
    /// There are more lanes than the lane knew of.
    LanesCounted {
        lanes: u32,
    },
}

/// Whose limits a load snapshot shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LoadOwner {
    Resource(ResourceIndex),
    Tenant(TenantIndex),
}

/// What a lane lacks of one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lack {
    pub owner: LoadOwner,
    pub kind: LimitKind,
    /// Units that tasks wait for, or went elsewhere without.
    pub waiting: u64,
    /// Of those that wait, what critical tasks wait for.
    pub critical: u64,
    /// Of those that wait, what interactive tasks wait for.
    pub interactive: u64,
    /// What the largest waiting task takes that never fits as it is: the lane has fewer units, or it is
    /// keeping room for such a task that has not come together yet. Of the most urgent ones; 0: none.
    pub largest: u64,
    /// Of the largest one; meaningless where there is none.
    pub priority: Priority,
}

/// What becomes of rights that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Taken {
    /// The lane holds them.
    Held,
    /// They wait until the lane's clock shows the time at which they were given, and the lane
    /// knows the limit.
    Kept,
    /// The limit that they belong to is no more.
    Void,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ControlTopic {
    Fleet,
    HealthEvents,
}

impl ControlTopic {
    pub const fn topic(self) -> Topic {
        match self {
            ControlTopic::Fleet => Topic::Fleet,
            ControlTopic::HealthEvents => Topic::HealthEvents,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum InputTopic {
    Tasks,
    TaskResults,
    LaneInbox,
}

impl InputTopic {
    pub const fn topic(self) -> Topic {
        match self {
            InputTopic::Tasks => Topic::Tasks,
            InputTopic::TaskResults => Topic::TaskResults,
            InputTopic::LaneInbox => Topic::LaneInbox,
        }
    }
}
