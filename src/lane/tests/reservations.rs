//! What attempts reserve, and what of it their results give back.

use serde_json::{Value, json};

use super::{Bench, decided};
use crate::model::policy::{Policy, ReserveOutput};

fn policy() -> Policy {
    Policy { load_snapshot_ms: 1_000_000_000, explore_share: 0.0, ..Policy::default() }
}

#[test]
fn what_a_result_leaves_open_counts_as_it_was_reserved() {
    // (the result, what stays of 100 tokens of input and 100 of output)
    let check = |status: &str, said: Value, expected: &str| {
        let mut bench = Bench::new(policy());
        bench.resource("a", json!({}));
        bench.task("t1", json!({}));
        bench.step();
        bench.result("t1", 1, status, said.clone());
        let expected = format!("released a t1 #1 {expected} -");
        assert_eq!(bench.step(), [expected], "{status} {said}");
        assert_eq!(bench.folded().state(), bench.lane.state());
    };
    for status in ["succeeded", "failed", "cancelled"] {
        check(status, json!({}), "0/1/200 over 0");
        check(status, json!({"input_tokens": 60, "output_tokens": 30}), "0/1/90 over 0");
        check(status, json!({"input_tokens": 60}), "0/1/160 over 0");
        check(status, json!({"input_tokens": 130}), "0/1/200 over 30");
        check(status, json!({"output_tokens": 30}), "0/1/130 over 0");
    }
    // Nothing was written where nothing was begun.
    check("rate_limited", json!({}), "0/1/0 over 0");
    check("rate_limited", json!({"input_tokens": 60}), "0/1/60 over 0");
    check("late", json!({}), "0/0/0 over 0");
}

/// `reserve_output = "predicted"`, once many answers had 20 of 100 tokens.
#[test]
fn of_a_known_class_no_more_is_reserved_than_its_answers_need() {
    let mut bench = Bench::new(Policy { reserve_output: ReserveOutput::Predicted, ..policy() });
    bench.resource("a", json!({"slots": 10_000}));
    bench.task("first", json!({}));
    assert_eq!(bench.step()[1], "reserved a first #1 1/1/200 over 0 -", "nothing is known yet");
    // Each of them lowers what may be needed by 0.02 tokens: to a little less than 60.
    const ANSWERS: u32 = 2_001;
    for number in 0..ANSWERS {
        bench.task(&format!("t{number}"), json!({}));
    }
    bench.step();
    for number in 0..ANSWERS {
        let used = json!({"input_tokens": 100, "output_tokens": 20});
        bench.result(&format!("t{number}"), 1, "succeeded", used);
    }
    bench.step();
    let allowed = |bench: &Bench| decided(bench)[0]["max_output_tokens"].clone();
    bench.task("u", json!({}));
    let outputs = bench.step();
    assert_eq!(outputs[1], "reserved a u #1 1/1/160 over 0 -");
    assert_eq!(allowed(&bench), 60);
    bench.result("u", 1, "failed", json!({"input_tokens": 100, "output_tokens": 75}));
    assert_eq!(bench.step(), ["released a u #1 0/1/160 over 15 -"], "an overrun is debited");
    // What was reserved may not have been enough.
    bench.reread();
    assert_eq!(bench.step()[1], "reserved a u #2 1/1/200 over 0 -");
    assert_eq!(allowed(&bench), 100);
    // A class of which nothing is known.
    bench.task("other", json!({"class": "other"}));
    assert_eq!(bench.step()[1], "reserved a other #1 1/1/200 over 0 -");
    assert_eq!(bench.folded().state(), bench.lane.state());
}
