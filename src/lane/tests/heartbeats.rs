//! What heartbeats teach of attempts that are under way.

use serde_json::{Value, json};

use super::Bench;
use crate::model::policy::Policy;
use crate::routing::TaskKey;
use crate::routing::state::Phase;

/// 500 ms to the first token, 100 tokens of input in 10 ms, 10 ms for each token of output. So all 100
/// tokens of output take 1,510 ms, and a quarter, which is expected at first, 760 ms.
fn bench() -> Bench {
    let policy =
        Policy { explore_share: 0.0, load_snapshot_ms: 1_000_000_000, ..Policy::default() };
    let mut bench = Bench::new(policy);
    for (id, tokens_per_s) in [("fast", 100), ("slow", 50)] {
        let speed = json!({
            "time_to_first_token_ms": 500, "prefill_tokens_per_s": 10_000,
            "decode_tokens_per_s": tokens_per_s,
        });
        bench.resource(id, json!({"slots": 1_000, "speed": speed}));
    }
    bench
}

fn slow(bench: &Bench, id: &str) -> String {
    match bench.lane.state().tasks.get(&TaskKey::of(id)).unwrap().phase {
        Phase::InFlight { slow, .. } => format!("{slow:.2}"),
        Phase::Waiting { .. } | Phase::GivenUp => "-".to_owned(),
    }
}

#[test]
fn rows() {
    // (what, after so many milliseconds, the heartbeat, how much longer than expected)
    let check = |what: &str, after_ms: i64, change: Value, expected: &str| {
        let mut bench = bench();
        bench.task("t1", json!({"objective": "fastest"}));
        bench.step();
        bench.now += after_ms;
        bench.result("t1", 1, "heartbeat", change.clone());
        bench.step();
        assert_eq!(slow(&bench, "t1"), expected, "{what}");
        // The same once more says nothing new.
        bench.result("t1", 1, "heartbeat", change);
        bench.step();
        assert_eq!(slow(&bench, "t1"), expected, "{what}, again");
        assert_eq!(bench.folded().hash(), bench.lane.hash(), "{what}");
    };
    // A worker begins within two seconds.
    check("may be at its end", 3_500, json!({}), "0.00");
    check("longer than all of its output", 5_000, json!({}), "0.99");
    check("much longer", 60_000, json!({}), "2.00");
    check("as fast as expected", 9_000, json!({"output_tokens": 50, "duration_ms": 1_010}), "0.00");
    check("a little slower", 9_000, json!({"output_tokens": 25, "duration_ms": 900}), "0.00");
    check("slower", 9_000, json!({"output_tokens": 25, "duration_ms": 1_760}), "1.32");
    check("no first token yet", 9_000, json!({"output_tokens": 0, "duration_ms": 1_500}), "1.30");
    check("long, and fast", 9_000, json!({"output_tokens": 90, "duration_ms": 1_000}), "0.00");
}

#[test]
fn a_resource_that_became_slow_is_known_before_any_answer_came() {
    for (heartbeats, expected) in [(false, "fast"), (true, "slow")] {
        let mut bench = bench();
        let task = json!({"objective": "fastest"});
        for number in 0..40 {
            bench.task(&format!("t{number}"), task.clone());
        }
        bench.step();
        bench.now += 8_000;
        for number in 0..40 {
            // Five tokens in eight seconds.
            if heartbeats {
                let shown = json!({"output_tokens": 5, "duration_ms": 8_000});
                bench.result(&format!("t{number}"), 1, "heartbeat", shown);
            }
        }
        bench.task("next", task.clone());
        let outputs = bench.step();
        let to = format!("next #1 -> {expected} ");
        assert!(outputs.iter().any(|output| output.starts_with(&to)), "{outputs:?}");
    }
}

#[test]
fn an_attempt_says_so_a_few_times_at_most() {
    let mut bench = bench();
    bench.task("t1", json!({}));
    bench.step();
    let mut said = 0;
    for after_ms in (500..600_000).step_by(500) {
        let before = slow(&bench, "t1");
        bench.now = 1_000_000 + after_ms;
        bench.result("t1", 1, "heartbeat", json!({"output_tokens": 0, "duration_ms": after_ms}));
        bench.step();
        said += u32::from(slow(&bench, "t1") != before);
    }
    // What is left to the most that counts is not worth saying.
    assert!(slow(&bench, "t1").as_str() > "1.75", "{}", slow(&bench, "t1"));
    assert!((2..=8).contains(&said), "{said} times");
}
