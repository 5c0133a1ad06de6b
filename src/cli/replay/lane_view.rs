//! A lane's state for people and programs.

use std::fmt::Write as _;

use serde::Serialize;

use crate::cli::print::{table, text_of};
use crate::lane::Lane;

#[derive(Debug, Serialize)]
pub struct LaneView {
    lane: u32,
    lanes: u32,
    seq: u64,
    hash: String,
    batch_time_ms: i64,
    results_caught_up_at_ms: i64,
    tasks: usize,
    in_flight: u64,
    backlog: usize,
    given_up: usize,
    fleet_position: i64,
    health_position: i64,
    /// Next offsets of `tasks`, `task-results` and `lane-inbox`.
    positions: [Option<i64>; 3],
    resources: Vec<ResourceView>,
}

#[derive(Debug, Serialize)]
struct ResourceView {
    resource: String,
    health: &'static str,
    removed: bool,
    slots: u32,
    slots_units: u32,
    slots_in_use: u32,
    /// Of each rate limit: dimension, window, the lane's units, used.
    rates: Vec<RateView>,
}

#[derive(Debug, Serialize)]
struct RateView {
    dimension: &'static str,
    window_s: u64,
    units: u64,
    used: u64,
}

pub fn of(lane: &Lane) -> LaneView {
    let state = lane.state();
    let positions = lane.positions();
    let resources = state.fleet.iter().map(|(_, resource)| ResourceView {
        resource: resource.id.to_string(),
        health: resource.health.name(),
        removed: resource.removed,
        slots: resource.spec.slots,
        slots_units: resource.slots_units,
        slots_in_use: resource.slots_in_use,
        rates: resource
            .rates
            .iter()
            .map(|rate| RateView {
                dimension: rate.limit.dimension.name(),
                window_s: u64::from(rate.limit.window_s),
                units: rate.units,
                used: rate.window.used(),
            })
            .collect(),
    });
    LaneView {
        lane: state.lane,
        lanes: state.lanes,
        seq: lane.seq(),
        hash: lane.hash(),
        batch_time_ms: state.batch_time.as_ms(),
        results_caught_up_at_ms: state.results_caught_up_at.as_ms(),
        tasks: state.tasks.len(),
        in_flight: state.in_flight,
        backlog: state.backlog.len(),
        given_up: state.given_up.len(),
        fleet_position: state.fleet_position,
        health_position: state.health_position,
        positions: [positions.tasks, positions.task_results, positions.lane_inbox],
        resources: resources.collect(),
    }
}

pub fn text(view: &LaneView) -> String {
    let mut out = format!(
        "lane {} of {}, seq {}, hash {}\n{} tasks held: {} in flight, {} waiting, {} given up\n",
        view.lane,
        view.lanes,
        view.seq,
        view.hash,
        view.tasks,
        view.in_flight,
        view.backlog,
        view.given_up
    );
    let mut rows = table(&["resource", "health", "slots in use", "of", "rates used"]);
    for one in &view.resources {
        let rates: Vec<String> = one
            .rates
            .iter()
            .map(|rate| {
                format!("{} {}/{} in {} s", rate.dimension, rate.used, rate.units, rate.window_s)
            })
            .collect();
        let health = if one.removed { "removed" } else { one.health };
        rows.add_row([
            one.resource.clone(),
            health.to_owned(),
            one.slots_in_use.to_string(),
            one.slots_units.to_string(),
            rates.join(", "),
        ]);
    }
    // Writing to a string cannot fail.
    writeln!(out, "{}", text_of(&rows)).ok();
    out
}
