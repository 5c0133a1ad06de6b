//! What a lane tells of some of its tasks: what each could have had, and what it got.

use crate::model::resource::Dimension;
use crate::model::time::Timestamp;

/// Identifies a task; spread evenly, as a hash is.
pub type Key = u64;

/// One thing that was seen.
#[derive(Debug, Clone, PartialEq)]
pub enum Sample {
    New(NewSample),
    /// A task that was seen before is served, or served again.
    Served {
        key: Key,
        at: Timestamp,
        utility: f64,
    },
    /// It ends without a result.
    Lost {
        key: Key,
    },
    /// The lane's part of every limit, from now on.
    Capacities(Vec<Capacity>),
}

/// A task, when it came.
#[derive(Debug, Clone, PartialEq)]
pub struct NewSample {
    pub key: Key,
    /// One task in 2^level is seen.
    pub level: u8,
    pub at: Timestamp,
    /// The latest start.
    pub until: Timestamp,
    /// Utility that a second of waiting costs.
    pub second: f64,
    /// Expected, input and output.
    pub tokens: f64,
    pub offers: Vec<Offer>,
    /// `None`: it waits, or is refused.
    pub utility: Option<f64>,
}

/// What a resource would be worth at once, without prices.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Offer {
    /// The resource's place in the fleet.
    pub resource: u16,
    pub utility: f64,
    pub duration_ms: f64,
}

/// What a lane holds of one resource; `None`: the resource does not serve.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Capacity {
    pub slots: u32,
    /// Dimension, seconds of the window, units.
    pub rates: Vec<(Dimension, u32, u64)>,
}

/// Whether the task is among those that are seen where one in 2^level is.
pub fn is_seen(key: Key, level: u8) -> bool {
    key.trailing_zeros() >= u32::from(level)
}
