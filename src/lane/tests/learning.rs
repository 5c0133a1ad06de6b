//! What results teach depends on the results alone.

use proptest::prelude::*;
use serde_json::json;

use super::Bench;
use crate::lane::LaneSettings;
use crate::model::policy::Policy;
use crate::routing::learned::Learned;

const RESOURCES: [&str; 3] = ["a", "b", "c"];
const CLASSES: [&str; 3] = ["code", "chat", "sum"];

/// Twice as many as there are between two looks at all priors.
const TASKS: usize = 520;

/// What the lane has learned once the results came in batches of at most so many records.
fn learned(results: &[(f64, u32, u32)], batch_records_max: usize) -> Learned {
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
    for (number, (quality, output_tokens, duration_ms)) in results.iter().enumerate() {
        // So few fail that no breaker opens: what it would fail over teaches nothing.
        let status = if number % 40 == 39 { "failed" } else { "succeeded" };
        let shown = json!({
            "input_tokens": 100, "output_tokens": output_tokens, "duration_ms": duration_ms,
            "quality": quality,
        });
        bench.result(&format!("t{number}"), 1, status, shown);
    }
    while bench.lane.queued() > 0 {
        bench.step();
    }
    bench.lane.state().learned.clone()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn where_batches_end_teaches_nothing(
        results in proptest::collection::vec((0.0f64..1.0, 0u32..100, 1u32..9_000), TASKS),
        batch_records_max in 1usize..300,
    ) {
        let (together, apart) = (learned(&results, 4_096), learned(&results, batch_records_max));
        prop_assert!(together != Learned::default());
        prop_assert!(together == apart, "{together:?}\n{apart:?}");
    }
}
