//! What results teach depends on the results alone.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::Bench;
use crate::lane::LaneSettings;
use crate::model::policy::Policy;
use crate::routing::breakers::Breakers;
use crate::routing::learned::Learned;
use crate::routing::state::{LiveTask, Phase};

const RESOURCES: [&str; 3] = ["a", "b", "c"];
const CLASSES: [&str; 3] = ["code", "chat", "sum"];

/// Twice as many as there are between two looks at all priors.
const RESULTS: usize = 520;
/// The last ones stay under way, and are slow.
const TASKS: usize = RESULTS + 20;
/// A task's heartbeat comes before the result of the one so many places before it.
const AHEAD: usize = 7;

/// A result, and a heartbeat of another task.
#[derive(Debug, Clone)]
struct Told {
    quality: f64,
    output_tokens: u32,
    duration_ms: u32,
    /// Output so far, and since when.
    heartbeat: Option<(u32, u32)>,
}

fn told() -> impl Strategy<Value = Vec<Told>> {
    let heartbeat = proptest::option::of((0u32..100, 1u32..20_000));
    let one = (0.0f64..1.0, 0u32..100, 1u32..9_000, heartbeat).prop_map(
        |(quality, output_tokens, duration_ms, heartbeat)| Told {
            quality,
            output_tokens,
            duration_ms,
            heartbeat,
        },
    );
    proptest::collection::vec(one, RESULTS)
}

/// Those of the first class go to the resource whose breaker opens.
fn is_of_first(number: usize) -> bool {
    number.is_multiple_of(CLASSES.len())
}

/// A few fail, and at last five of one resource in a row: its breaker opens. Not before its last result,
/// because what it fails over teaches nothing.
fn fails(number: usize) -> bool {
    number % 40 == 39 || is_of_first(number) && number + 5 * CLASSES.len() > RESULTS
}

/// What a lane knows of its resources.
#[derive(Debug, PartialEq)]
struct Known {
    learned: Learned,
    breakers: Breakers,
    /// By how much longer than expected attempts take that are under way, by task.
    slow: BTreeMap<String, f32>,
}

/// What the lane knows once the results came in batches of at most so many records.
fn known(told: &[Told], batch_records_max: usize) -> Known {
    // Nothing is explored and nothing waits, so that all batches route alike.
    let policy =
        Policy { explore_share: 0.0, load_snapshot_ms: 1_000_000_000, ..Policy::default() };
    let mut bench = Bench::with(LaneSettings { batch_records_max, ..super::settings(policy) });
    for (place, id) in RESOURCES.iter().enumerate() {
        let quality: serde_json::Map<_, _> = CLASSES
            .iter()
            .enumerate()
            .map(|(class, name)| {
                ((*name).to_owned(), json!(0.5 + 0.1 * ((class + place) % 3) as f64))
            })
            .collect();
        bench.resource(id, json!({"slots": 10_000, "quality": quality}));
    }
    for number in 0..TASKS {
        let features = [(number % 7) as f64 / 7.0, (number % 11) as f64 / 11.0];
        let class = CLASSES[number % CLASSES.len()];
        bench.task(&format!("t{number}"), json!({"class": class, "features": features}));
    }
    while bench.lane.queued() > 0 {
        bench.step();
    }
    bench.now += 1_500;
    for number in (RESULTS..TASKS).filter(|number| !is_of_first(*number)) {
        let shown = json!({"output_tokens": 0, "duration_ms": 60_000});
        bench.result(&format!("t{number}"), 1, "heartbeat", shown);
    }
    for (number, one) in told.iter().enumerate() {
        let later = number + AHEAD;
        // What is failed over would be heard in one batch and not in another.
        let may_end = later >= RESULTS && is_of_first(later);
        if let Some((output_tokens, duration_ms)) = one.heartbeat.filter(|_| !may_end) {
            let shown = json!({"output_tokens": output_tokens, "duration_ms": duration_ms});
            bench.result(&format!("t{later}"), 1, "heartbeat", shown);
        }
        let status = if fails(number) { "failed" } else { "succeeded" };
        let shown = json!({
            "input_tokens": 100, "output_tokens": one.output_tokens, "quality": one.quality,
            "duration_ms": one.duration_ms,
        });
        bench.result(&format!("t{number}"), 1, status, shown);
    }
    while bench.lane.queued() > 0 {
        bench.step();
    }
    let state = bench.lane.state();
    let slow = |live: &LiveTask| match live.phase {
        Phase::InFlight { slow, .. } => Some((live.task.task_id.to_string(), slow)),
        Phase::Waiting { .. } | Phase::GivenUp => None,
    };
    Known {
        learned: state.learned.clone(),
        breakers: state.health.breakers.clone(),
        slow: state.tasks.values().filter_map(slow).collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn where_batches_end_teaches_nothing(told in told(), batch_records_max in 1usize..300) {
        let (together, apart) = (known(&told, 4_096), known(&told, batch_records_max));
        prop_assert_eq!(&together, &apart);
        prop_assert!(together.learned != Learned::default());
        let open = (0..3).filter(|one| together.breakers.position(*one).name() == "open");
        prop_assert_eq!(open.count(), 1);
        prop_assert!(together.slow.values().any(|slow| *slow > 0.0));
    }
}
