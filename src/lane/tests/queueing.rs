//! What results teach of the time that passes between a decision and a worker's start.

use serde_json::{Value, json};

use super::{Bench, decided};
use crate::model::policy::Policy;

const START_WITHIN_MS: u64 = 2_000;

/// Answers take 500 ms.
fn bench() -> Bench {
    let policy = Policy {
        explore_share: 0.0,
        load_snapshot_ms: 1_000_000_000,
        start_within_ms: START_WITHIN_MS,
        ..Policy::default()
    };
    let mut bench = Bench::new(policy);
    let speed = json!({
        "time_to_first_token_ms": 500, "prefill_tokens_per_s": 1e9, "decode_tokens_per_s": 1e9,
    });
    for (id, quality) in [("a", 0.9), ("b", 0.8)] {
        let change = json!({"slots": 1_000, "speed": speed, "quality": {"default": quality}});
        bench.resource(id, change);
    }
    bench
}

/// A task is decided now; its result is dated so much later, and read after as long again.
fn answer(bench: &mut Bench, id: &str, dated_ms: i64, read_ms: i64, shown: Value) {
    bench.task(id, json!({}));
    bench.step();
    bench.now += dated_ms;
    bench.result(id, 1, "succeeded", shown);
    bench.now += read_ms - dated_ms;
    bench.step();
}

fn queueing_ms(bench: &Bench) -> f64 {
    bench.lane.state().learned.speed(0).queueing_ms()
}

fn took(duration_ms: i64) -> Value {
    json!({"input_tokens": 100, "output_tokens": 20, "duration_ms": duration_ms})
}

#[test]
fn rows() {
    // (what, the result's date and when it is read, after the decision, the result, what is learned; half
    // of it with the first result)
    let check = |what: &str, (dated_ms, read_ms): (i64, i64), shown: Value, expected: f64| {
        let mut bench = bench();
        answer(&mut bench, "t", dated_ms, read_ms, shown);
        assert_eq!(queueing_ms(&bench), expected, "{what}");
        assert_eq!(bench.folded().state(), bench.lane.state(), "{what}");
    };
    check("at once", (500, 500), took(500), 0.0);
    check("800 ms before or after the call", (1_300, 1_300), took(500), 400.0);
    check("read late", (1_300, 600_000), took(500), 400.0);
    check("no longer than a worker may wait", (60_000, 60_000), took(500), 1_000.0);
    check("dated before it can have ended", (400, 1_300), took(500), 0.0);
    // The clock of who dated it is ahead: it was read by then.
    check("dated after it was read", (9_000, 1_300), took(500), 400.0);
    check("dated before the decision, or not at all", (-5_000, 1_300), took(500), 0.0);
    check("without tokens", (1_300, 1_300), json!({"duration_ms": 500}), 400.0);
    check("without a duration", (1_300, 1_300), json!({"output_tokens": 20}), 0.0);
}

#[test]
fn it_is_part_of_what_is_expected_and_of_what_deadlines_allow_for() {
    let mut bench = bench();
    let latency_ms = |bench: &mut Bench, id: &str, change: Value| -> (Value, Value) {
        bench.task(id, change);
        bench.step();
        let decision = decided(bench).remove(0);
        let resource = decision.pointer("/primary/0/resource").cloned();
        (resource.unwrap_or_default(), decision["metrics"]["latency_ms"].clone())
    };
    let first = latency_ms(&mut bench, "first", json!({}));
    assert_eq!((first.0, first.1.as_f64().unwrap().round()), (json!("a"), 500.0));
    for number in 0..300 {
        answer(&mut bench, &format!("t{number}"), 1_500, 1_500, took(500));
    }
    let (resource, ms) = latency_ms(&mut bench, "then", json!({}));
    assert_eq!((resource, ms.as_f64().unwrap().round()), (json!("a"), 1_500.0));
    // Answers do not get slower by it, and the other resource is as it was said to be.
    let state = bench.lane.state();
    let ([first_token, ..], _) = state.learned.speed(0).factors();
    assert!((first_token - 1.0).abs() < 1e-6, "{first_token}");
    // 1,500 ms are too long, however exactly they are known; half of it and half again are not.
    for (deadline_ms, resource) in [(1_400, "b"), (1_700, "a")] {
        let id = format!("within {deadline_ms}");
        let (found, _) = latency_ms(&mut bench, &id, json!({"deadline_ms": deadline_ms}));
        assert_eq!(found, json!(resource), "{id}");
    }
}
