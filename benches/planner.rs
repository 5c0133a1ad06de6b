//! How long a round of the planner takes, up to 512 lanes (64 instances of 8) and 200 resources of
//! three limits. `cargo bench --bench planner`.

use std::borrow::Cow;

use pointsman::clock::Stopwatch;
use pointsman::model::event::{DimensionLoad, LoadSnapshot};
use pointsman::model::health::HealthStatus;
use pointsman::model::task::Priority;
use pointsman::model::time::Timestamp;
use pointsman::routing::balancer::rebalance::{Advised, Planner};
use pointsman::routing::rights::{Scale, first_deal};

const LOAD_SNAPSHOT_MS: u64 = 5_000;

/// What the lanes of a case do.
#[derive(Debug, Clone, Copy)]
enum Load {
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

fn case(lanes: u32, resources: u32, load: Load) {
    let at = Timestamp::from_ms(1_000_000_000);
    let mut planner = Planner::new(lanes, LOAD_SNAPSHOT_MS);
    let told: Vec<LoadSnapshot<'_>> = (0..resources)
        .flat_map(|resource| (0..lanes).map(move |lane| snapshot(lane, lanes, resource, at, load)))
        .collect();
    let telling = Stopwatch::start();
    told.iter().for_each(|snapshot| planner.told(snapshot));
    let told_us = telling.elapsed_us();
    let (mut rounds, mut advice, mut first_us, mut worst_us) = (0_u64, 0, 0, 0);
    // Until nothing is left to be advised.
    loop {
        let round = Stopwatch::start();
        let advised: Vec<Advised> = planner.rebalance(at.plus_ms(100));
        let took_us = round.elapsed_us();
        rounds += 1;
        first_us = if rounds == 1 { took_us } else { first_us };
        worst_us = worst_us.max(took_us);
        advice += advised.len();
        if advised.is_empty() {
            break;
        }
    }
    println!(
        "{lanes:>4} lanes, {resources:>3} resources, {load:?}: {:.2} us to take a snapshot, first round {:.1} ms, worst {:.1} ms, {rounds} rounds, {advice} pieces of advice",
        told_us as f64 / told.len() as f64,
        first_us as f64 / 1e3,
        worst_us as f64 / 1e3,
    );
}

fn main() {
    for (lanes, resources) in [(8, 20), (64, 200), (512, 20), (512, 200)] {
        for load in [Load::Steady, Load::Skewed, Load::Overloaded] {
            case(lanes, resources, load);
        }
    }
}
