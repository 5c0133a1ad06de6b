//! What results do to a resource's health, and what the lane says of it.

use serde_json::json;

use super::Bench;
use crate::model::policy::Policy;

fn bench() -> Bench {
    bench_of(Policy::default())
}

fn bench_of(policy: Policy) -> Bench {
    let policy = Policy { load_snapshot_ms: 1_000_000_000, attempts_max: 10, ..policy };
    let mut bench = Bench::new(policy);
    bench.resource("a", json!({"quality": {"default": 0.9}, "slots": 20}));
    bench.resource("b", json!({"quality": {"default": 0.8}, "slots": 20}));
    bench.resource("c", json!({"quality": {"default": 0.7}, "slots": 20}));
    bench
}

/// The tasks of these outputs that were routed, with where they went.
fn routed(outputs: &[String]) -> Vec<String> {
    let routed = outputs.iter().filter(|output| output.contains(" -> "));
    routed.map(|output| output.split(" [").next().unwrap_or_default().to_owned()).collect()
}

fn health(outputs: &[String]) -> Vec<&str> {
    let said = outputs.iter().filter(|output| output.contains(" is "));
    said.map(String::as_str).collect()
}

/// Five tasks on `a` fail, one more is in flight there.
fn five_failed() -> (Bench, Vec<String>) {
    let mut bench = bench();
    for number in 0..6 {
        bench.task(&format!("t{number}"), json!({}));
    }
    assert!(routed(&bench.step()).iter().all(|routed| routed.ends_with("-> a")));
    for number in 0..5 {
        bench.result(&format!("t{number}"), 1, "failed", json!({}));
    }
    let outputs = bench.step_at(1_000_100);
    (bench, outputs)
}

#[test]
fn what_fails_in_a_row_is_left_alone_and_said_to_be() {
    let (mut bench, outputs) = five_failed();
    assert_eq!(health(&outputs), ["a is unhealthy: breaker of lane 0: open"]);
    // What is in flight there is failed over at once.
    bench.reread();
    let outputs = [outputs, bench.step_at(1_000_200)].concat();
    assert!(outputs.contains(&"failed_over a t5 #1 0/1/200 over 0 -".to_owned()), "{outputs:?}");
    bench.reread();
    let mut outputs = [outputs, bench.step_at(1_000_300)].concat();
    outputs.sort();
    let to_b: Vec<String> = (0..6).map(|number| format!("t{number} #2 -> b")).collect();
    assert_eq!(routed(&outputs), to_b);
}

#[test]
fn it_comes_back_by_single_tasks_and_then_slowly() {
    let (mut bench, _) = five_failed();
    bench.task("u1", json!({}));
    assert!(routed(&bench.step_at(1_001_000)).contains(&"u1 #1 -> b".to_owned()));
    // Its time is over: one task at a time tries it.
    for round in 0..3 {
        let (probe, other) = (format!("p{round}"), format!("o{round}"));
        bench.task(&probe, json!({}));
        bench.task(&other, json!({}));
        let outputs = bench.step_at(1_002_200 + round * 100);
        let expected = [format!("{probe} #1 -> a"), format!("{other} #1 -> b")];
        assert_eq!(routed(&outputs), expected, "round {round}");
        bench.result(&probe, 1, "succeeded", json!({}));
        let outputs = bench.step_at(1_002_250 + round * 100);
        let expected: &[&str] =
            if round == 2 { &["a is degraded: breaker of lane 0: recovering"] } else { &[] };
        assert_eq!(health(&outputs), expected, "round {round}");
    }
    // A tenth of its 20 slots at first.
    for number in 0..4 {
        bench.task(&format!("v{number}"), json!({}));
    }
    let to_a = routed(&bench.step_at(1_002_500)).iter().filter(|one| one.ends_with("-> a")).count();
    assert_eq!(to_a, 2);
    bench.task("w", json!({}));
    let outputs = bench.step_at(1_040_000);
    assert_eq!(health(&outputs), ["a is healthy: breaker of lane 0: closed"]);
    assert_eq!(routed(&outputs), ["w #1 -> a"]);
    assert_eq!(bench.folded().state(), bench.lane.state());
}

#[test]
fn what_a_lane_said_itself_does_not_come_back_to_it() {
    let mut bench = bench();
    bench.step();
    bench.said("a", "unhealthy", "breaker-0");
    bench.task("t1", json!({}));
    assert_eq!(routed(&bench.step_at(1_000_100)), ["t1 #1 -> a"]);
    // Another lane's breaker counts, and only that lane takes it back.
    bench.said("a", "unhealthy", "breaker-1");
    bench.task("t2", json!({}));
    assert_eq!(routed(&bench.step_at(1_000_200)), ["t2 #1 -> b"]);
    bench.health("a", "healthy");
    bench.task("t3", json!({}));
    assert_eq!(routed(&bench.step_at(1_000_300)), ["t3 #1 -> b"]);
    bench.said("a", "healthy", "breaker-1");
    bench.task("t4", json!({}));
    assert_eq!(routed(&bench.step_at(1_000_400)), ["t4 #1 -> a"]);
}

#[test]
fn a_rate_limit_is_waited_for() {
    let mut bench = bench();
    bench.task("t1", json!({}));
    bench.step();
    bench.result("t1", 1, "rate_limited", json!({"retry_after_ms": 4_000}));
    bench.reread();
    bench.task("t2", json!({}));
    let outputs = bench.step_at(1_000_100);
    assert_eq!(health(&outputs), Vec::<&str>::new());
    assert!(routed(&outputs).contains(&"t2 #1 -> b".to_owned()), "{outputs:?}");
    bench.task("t3", json!({}));
    assert!(routed(&bench.step_at(1_004_100)).contains(&"t3 #1 -> a".to_owned()));
}

#[test]
fn where_most_are_down_something_else_is_wrong() {
    // Too short to wait for the one that is not.
    let mut bench = bench_of(Policy { wait_ms_max: 20, ..Policy::default() });
    for resource in ["a", "b"] {
        for number in 0..5 {
            bench.task(&format!("{resource}{number}"), json!({}));
        }
        let outputs = bench.step_at(bench.now + 10);
        assert!(routed(&outputs).iter().all(|one| one.ends_with(resource)), "{outputs:?}");
        for number in 0..5 {
            bench.result(&format!("{resource}{number}"), 1, "failed", json!({}));
        }
        bench.step_at(bench.now + 10);
    }
    // Two of three are open: both get work again, though less gladly.
    for number in 0..30 {
        bench.task(&format!("x{number}"), json!({}));
    }
    let outputs = bench.step_at(bench.now + 10);
    let on = |resource: &str| {
        routed(&outputs)
            .iter()
            .filter(|one| one.starts_with('x') && one.ends_with(resource))
            .count()
    };
    assert_eq!((on("c"), on("a"), on("b")), (20, 10, 0));
}
