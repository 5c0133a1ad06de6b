//! What lanes say of their load, for the benches that ask a planner.

use std::borrow::Cow;

use pointsman::model::event::{DimensionLoad, LoadSnapshot};
use pointsman::model::health::HealthStatus;
use pointsman::model::task::Priority;
use pointsman::model::time::Timestamp;
use pointsman::routing::rights::{Scale, first_deal};

/// How often a lane says it.
pub const LOAD_SNAPSHOT_MS: u64 = 5_000;

/// What the lanes of a case do.
#[derive(Debug, Clone, Copy)]
pub enum Load {
    /// Everyone uses a good half of its part.
    Steady,
    /// One lane in eight wants eight times its part, the others use little.
    Skewed,
    /// Everyone uses all it has, and more waits.
    Overloaded,
}

fn limit(
    lane: u32,
    lanes: u32,
    name: &'static str,
    amount: u64,
    load: Load,
) -> DimensionLoad<'static> {
    let rights = first_deal(amount, lane, lanes);
    let units = Scale { limit: amount }.units(rights);
    let (used, waiting) = match load {
        Load::Steady => (units * 6 / 10, 0),
        Load::Skewed if lane.is_multiple_of(8) => (units, 7 * units),
        Load::Skewed => (units / 10, 0),
        Load::Overloaded => (units, 3 * units),
    };
    DimensionLoad {
        dimension: Cow::Borrowed(name),
        window_s: if name == "slots" { 0 } else { 60 },
        limit: amount,
        units,
        used,
        used_max: used,
        price: if waiting > 0 { 1.0 } else { 0.0 },
        rights,
        incarnation: 1,
        waiting,
        largest_waiting: 0,
        waiting_since_ms: None,
        waiting_critical: 0,
        waiting_interactive: 0,
        largest_priority: Priority::default(),
        pledged: 0,
    }
}

fn snapshot(
    lane: u32,
    lanes: u32,
    resource: u32,
    at: Timestamp,
    load: Load,
) -> LoadSnapshot<'static> {
    let limits = [("slots", 20_000), ("requests", 600_000), ("tokens", 40_000_000)];
    LoadSnapshot {
        lane,
        resource: Cow::Owned(format!("resource-{resource}")),
        at_ms: at,
        health: HealthStatus::Healthy,
        load: limits.map(|(name, amount)| limit(lane, lanes, name, amount, load)).to_vec(),
        in_flight: 0,
        backlog: 0,
        system: None,
    }
}

/// What all lanes say at a time, of so many resources with three limits each.
pub fn snapshots(
    lanes: u32,
    resources: u32,
    at: Timestamp,
    load: Load,
) -> Vec<LoadSnapshot<'static>> {
    (0..resources)
        .flat_map(|resource| (0..lanes).map(move |lane| snapshot(lane, lanes, resource, at, load)))
        .collect()
}
