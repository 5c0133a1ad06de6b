//! Rights: what lanes say to each other about the limits that they share.
//!
//! A limit is named so that every lane means the same one: by its owner, by what it counts, and by
//! the fleet record by which it came into being. A limit that went and came back is another one,
//! so what was said of the old one cannot be mistaken for it.

use serde::{Deserialize, Serialize};

use super::resource::{Dimension, TENANT_KEY_PREFIX};
use super::task::Priority;
use super::time::Timestamp;

/// The window of a tenant's budget, which is per hour.
pub const BUDGET_WINDOW_S: u32 = 3_600;

/// Who has a limit, by id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LimitOwner {
    Resource(String),
    Tenant(String),
}

impl LimitOwner {
    /// The owner's key in the `fleet` topic, which is also its name in `load-snapshots`.
    pub fn key(&self) -> String {
        match self {
            LimitOwner::Resource(id) => id.clone(),
            LimitOwner::Tenant(id) => format!("{TENANT_KEY_PREFIX}{id}"),
        }
    }

    pub fn of_key(key: &str) -> Self {
        match key.strip_prefix(TENANT_KEY_PREFIX) {
            Some(id) => LimitOwner::Tenant(id.to_owned()),
            None => LimitOwner::Resource(key.to_owned()),
        }
    }
}

/// Which of its owner's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LimitKind {
    Slots,
    Rate {
        dimension: Dimension,
        window_s: u32,
    },
    /// Millionths of a US dollar per hour; only tenants have one.
    Budget,
}

/// What a limit counts, as records say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Counted {
    Slots,
    Requests,
    Tokens,
    Usd,
}

impl Counted {
    pub const ALL: [Counted; 4] =
        [Counted::Slots, Counted::Requests, Counted::Tokens, Counted::Usd];

    pub const fn name(self) -> &'static str {
        match self {
            Counted::Slots => "slots",
            Counted::Requests => "requests",
            Counted::Tokens => "tokens",
            Counted::Usd => "usd",
        }
    }
}

impl LimitKind {
    pub const fn counted(self) -> Counted {
        match self {
            LimitKind::Slots => Counted::Slots,
            LimitKind::Rate { dimension: Dimension::Requests, .. } => Counted::Requests,
            LimitKind::Rate { dimension: Dimension::Tokens, .. } => Counted::Tokens,
            LimitKind::Budget => Counted::Usd,
        }
    }

    /// Seconds; 0 for slots.
    pub const fn window_s(self) -> u32 {
        match self {
            LimitKind::Slots => 0,
            LimitKind::Rate { window_s, .. } => window_s,
            LimitKind::Budget => BUDGET_WINDOW_S,
        }
    }

    pub const fn of(counted: Counted, window_s: u32) -> Self {
        match counted {
            Counted::Slots => LimitKind::Slots,
            Counted::Requests => LimitKind::Rate { dimension: Dimension::Requests, window_s },
            Counted::Tokens => LimitKind::Rate { dimension: Dimension::Tokens, window_s },
            Counted::Usd => LimitKind::Budget,
        }
    }
}

/// Lanes that there can be. How rights are counted in units rests on it: see `routing::rights`.
pub const LANES_MAX: u32 = 1_024;

/// One limit, the same for all lanes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "LimitRecord", into = "LimitRecord")]
pub struct LimitName {
    pub owner: LimitOwner,
    /// The offset of the fleet record by which this limit last came into being. A changed amount
    /// is the same limit; one that was taken out and comes back is a new one.
    pub incarnation: i64,
    pub kind: LimitKind,
}

/// A limit's name in a record: flat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitRecord {
    /// The owner's key in the `fleet` topic.
    pub owner: String,
    pub incarnation: i64,
    pub dimension: Counted,
    #[serde(default)]
    pub window_s: u32,
}

impl From<LimitRecord> for LimitName {
    fn from(record: LimitRecord) -> Self {
        LimitName {
            owner: LimitOwner::of_key(&record.owner),
            incarnation: record.incarnation,
            kind: LimitKind::of(record.dimension, record.window_s),
        }
    }
}

impl From<LimitName> for LimitRecord {
    fn from(name: LimitName) -> Self {
        LimitRecord {
            owner: name.owner.key(),
            incarnation: name.incarnation,
            dimension: name.kind.counted(),
            window_s: name.kind.window_s(),
        }
    }
}

/// Rights that change hands: the sender has given them up already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RightsTransfer {
    pub limit: LimitName,
    /// Millionths of the limit.
    pub rights: u32,
    /// The sender's batch time. The receiver uses the rights when its own clock shows no less, so
    /// that what lanes say about the same limit is in order by their times too.
    pub given_at_ms: Timestamp,
}

/// What the planner would have a lane do: to give so many rights to another one. Worth no more
/// than a suggestion; lost, stale or doubled advice breaks nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advice {
    pub limit: LimitName,
    /// The lane that shall have them.
    pub to_lane: u32,
    /// Millionths of the limit.
    pub rights: u32,
    /// How urgent the tasks are that wait for them there, where they are owed to those tasks: also what
    /// becomes free later, before tasks of the giver that are no more urgent. `None`: what is free now.
    #[serde(default)]
    pub owed_to: Option<Priority>,
}
