//! Everything a lane knows. Read by `decide`, changed by [`super::evolve`] alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::TaskKey;
use super::admission::Tenants;
use super::affinity::Affinity;
use super::backlog::Backlog;
use super::capability::ClassIndex;
use super::chain::Progress;
use super::fact::{AttemptEnd, Loss, NewTask, ResourceIndex};
use super::fleet::Fleet;
use super::health::Health;
use super::learned::Learned;
use super::price::Stake;
use super::recent::Recent;
use super::reserved::Reserved;
use super::shares::Shares;
use super::sharing::Sharing;
use super::speed::Latency;
use super::spikes::Spikes;
use super::tasks::Tasks;
use crate::model::policy::{Policy, ReserveOutput};
use crate::model::reason::RefusalReason;
use crate::model::time::Timestamp;

/// Fallbacks that a task remembers; `Policy::fallbacks_max` is not larger.
pub const FALLBACKS_MAX: usize = 4;

/// An attempt that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    pub resource: ResourceIndex,
    pub end: AttemptEnd,
}

/// Where a task is that the lane holds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Phase {
    /// In the backlog, until this time; `turn` keeps the order of arrival.
    Waiting { until: Timestamp, turn: u64, blocked_by: RefusalReason, loss: Loss },
    /// Its attempts are spent; it waits to be read again for its dead letter.
    GivenUp,
    InFlight {
        resource: ResourceIndex,
        reserved_at: Timestamp,
        lease_until: Timestamp,
        tokens: u64,
        usd_micros: u64,
        /// By how much longer than expected it has shown that it takes, as a share of that: its
        /// resource counts as slower for so long as it is under way.
        slow: f32,
    },
}

/// Moves what is under way on a resource that went down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failover {
    /// Moved so far.
    pub tasks: u64,
    /// Those that were reserved until then; what goes there all the same goes there knowingly.
    pub reserved_by: Timestamp,
}

/// Up to [`FALLBACKS_MAX`] resources, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fallbacks([ResourceIndex; FALLBACKS_MAX]);

/// Larger than any index: [`crate::model::resource::RESOURCES_MAX`] is smaller.
const NO_RESOURCE: ResourceIndex = ResourceIndex::MAX;

impl Fallbacks {
    pub const NONE: Fallbacks = Fallbacks([NO_RESOURCE; FALLBACKS_MAX]);

    pub fn of(resources: &[ResourceIndex]) -> Self {
        let mut fallbacks = Fallbacks::NONE;
        for (place, resource) in fallbacks.0.iter_mut().zip(resources) {
            *place = *resource;
        }
        fallbacks
    }

    pub fn iter(&self) -> impl Iterator<Item = ResourceIndex> {
        self.0.iter().copied().take_while(|resource| *resource != NO_RESOURCE)
    }
}

/// A task that waits or is in flight.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveTask {
    pub task: Arc<NewTask>,
    /// The number of the last attempt; 0 before the first.
    pub attempt: u32,
    /// Attempts that failed or whose lease ended.
    pub failures: u32,
    pub fallbacks: Fallbacks,
    /// Boxed, because most tasks never have one, and there may be millions of them.
    pub tried: Option<Box<Vec<Tried>>>,
    pub phase: Phase,
    /// Of a task with stages.
    pub progress: Option<Box<Progress>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub lane: u32,
    /// Lanes that there were at first: limits are dealt among these for ever.
    pub dealt: u32,
    /// Lanes that share now, as far as the lane knows. It never falls.
    pub lanes: u32,
    /// The time of the last batch.
    pub batch_time: Timestamp,
    /// All results that existed at this time are in the state.
    pub results_caught_up_at: Timestamp,
    pub policy: Policy,
    pub fleet: Fleet,
    pub health: Health,
    pub tenants: Tenants,
    pub stake: Stake,
    pub learned: Learned,
    /// The next offsets of the control topics.
    pub fleet_position: i64,
    pub health_position: i64,
    /// These, the leases and the recent ids stand behind the rest of a snapshot, in a form of their
    /// own: `lane::snapshot`.
    #[serde(skip)]
    pub tasks: Tasks,
    #[serde(skip)]
    pub leases: BTreeSet<(Timestamp, TaskKey)>,
    pub backlog: Backlog,
    pub given_up: BTreeSet<TaskKey>,
    /// Resources that went down with attempts in flight.
    pub failovers: BTreeMap<ResourceIndex, Failover>,
    #[serde(skip)]
    pub recent: Recent,
    pub in_flight: u64,
    pub load_published_at: Timestamp,
    pub sharing: Sharing,
    pub shares: Shares,
    pub reserved: Reserved,
    pub spikes: Spikes,
    pub affinity: Affinity,
}

impl State {
    /// Output that is reserved for a task's first attempt, tokens.
    pub fn output_reserved(&self, class: Option<ClassIndex>, max_output_tokens: u32) -> u32 {
        match self.policy.reserve_output {
            ReserveOutput::All => max_output_tokens,
            ReserveOutput::Predicted => self.learned.output_upper(class, max_output_tokens),
        }
    }

    /// Of an attempt with these sizes there, from the decision on.
    #[inline]
    pub fn latency(
        &self,
        resource: ResourceIndex,
        input_tokens: u32,
        output_tokens: f64,
    ) -> Latency {
        self.learned.latency(resource, self.fleet.terms(resource), input_tokens, output_tokens)
    }

    /// A lane that has never run, of an installation that began with `dealt` lanes; it may have been
    /// added since. It has no resources, so it can decide nothing yet.
    pub fn genesis(lane: u32, dealt: u32) -> Self {
        State {
            lane,
            dealt,
            lanes: dealt.max(lane + 1),
            batch_time: Timestamp::EPOCH,
            results_caught_up_at: Timestamp::EPOCH,
            policy: Policy::default(),
            fleet: Fleet::new(lane, dealt),
            health: Health::default(),
            tenants: Tenants::new(lane, dealt),
            stake: Stake::default(),
            learned: Learned::default(),
            fleet_position: 0,
            health_position: 0,
            tasks: Tasks::default(),
            leases: BTreeSet::new(),
            backlog: Backlog::default(),
            given_up: BTreeSet::new(),
            failovers: BTreeMap::new(),
            recent: Recent::default(),
            in_flight: 0,
            load_published_at: Timestamp::EPOCH,
            sharing: Sharing::default(),
            shares: Shares::default(),
            reserved: Reserved::default(),
            spikes: Spikes::default(),
            affinity: Affinity::default(),
        }
    }

    /// Whether a resource has ever been named, so that tasks can be decided.
    pub fn has_fleet(&self) -> bool {
        !self.fleet.is_empty()
    }
}

impl LiveTask {
    /// The attempts that are over, first to last.
    pub fn tried(&self) -> &[Tried] {
        self.tried.as_deref().map_or(&[], Vec::as_slice)
    }
}
