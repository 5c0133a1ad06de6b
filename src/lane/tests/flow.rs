//! The life of a task, one story a test: every output is compared.

use serde_json::json;

use super::{Bench, settings};
use crate::lane::LaneSettings;
use crate::model::policy::Policy;
use crate::model::time::Timestamp;

fn policy() -> Policy {
    Policy { load_snapshot_ms: 1_000_000_000, ..Policy::default() }
}

fn bench() -> Bench {
    let mut bench = Bench::new(policy());
    bench.resource("a", json!({"quality": {"default": 0.9}, "slots": 1}));
    bench.resource("b", json!({"quality": {"default": 0.8}, "slots": 1}));
    bench
}

#[test]
fn a_task_is_routed_and_released() {
    let mut bench = bench();
    bench.task("t1", json!({}));
    assert_eq!(
        bench.step(),
        [r#"t1 #1 -> a [b] {"prompt":"t1"}"#, "reserved a t1 #1 1/1/200 over 0 -"]
    );
    bench.result("t1", 1, "succeeded", json!({"input_tokens": 100, "output_tokens": 20}));
    assert_eq!(bench.step_at(1_000_500), ["released a t1 #1 0/1/120 over 0 -"]);
    assert_eq!(bench.step_at(1_001_000), Vec::<String>::new());
    assert_eq!(bench.lane.state().tasks.len(), 0);
}

#[test]
fn an_overrun_is_counted_apart() {
    let mut bench = bench();
    bench.task("t1", json!({}));
    bench.step();
    bench.result("t1", 1, "succeeded", json!({"input_tokens": 100, "output_tokens": 150}));
    assert_eq!(bench.step(), ["released a t1 #1 0/1/200 over 50 -"]);
}

#[test]
fn a_failure_is_decided_again_on_the_fallback_until_attempts_are_spent() {
    let mut bench = bench();
    bench.task("t1", json!({}));
    bench.step();
    bench.result("t1", 1, "failed", json!({}));
    assert_eq!(bench.step(), ["released a t1 #1 0/1/200 over 0 -"]);
    bench.reread();
    assert_eq!(
        bench.step_at(1_000_100),
        [r#"t1 #2 -> b [] {"prompt":"t1"}"#, "reserved b t1 #2 1/1/200 over 0 -"]
    );
    bench.result("t1", 2, "rate_limited", json!({"retry_after_ms": 5}));
    assert_eq!(bench.step(), ["released b t1 #2 0/1/0 over 0 -"]);
    bench.reread();
    let third = bench.step_at(1_000_200);
    // The one that failed is believed to be worse now.
    assert_eq!(third[0], r#"t1 #3 -> b [a] {"prompt":"t1"}"#);
    bench.result("t1", 3, "failed", json!({}));
    bench.step();
    bench.reread();
    assert_eq!(
        bench.step_at(1_000_300),
        [
            "t1 #4 refused attempts_spent",
            r#"tasks.dlq {"input_tokens":100,"max_output_tokens":100,"payload":{"prompt":"t1"},"task_id":"t1"}"#,
        ]
    );
    let letter = bench.prepared.last().unwrap();
    let headers: Vec<String> = letter
        .headers_of(&letter.records[1])
        .map(|(name, value)| {
            format!("{name}={}", String::from_utf8_lossy(value.unwrap_or_default()))
        })
        .collect();
    assert_eq!(
        headers.last().unwrap(),
        "__connect.errors.exception.message=attempt 1 on a: failed; attempt 2 on b: rate_limited; \
         attempt 3 on b: failed"
    );
}

#[test]
fn what_finds_no_room_waits_in_order_of_priority() {
    let mut bench = bench();
    for (id, priority) in [("t1", "batch"), ("t2", "batch"), ("t3", "batch"), ("t4", "interactive")]
    {
        // A second costs so much that nobody waits for what is better.
        let objective = json!({"quality": 1.0, "usd": 0.0, "second": 0.3});
        bench.task(id, json!({"priority": priority, "objective": objective}));
    }
    let first = bench.step();
    assert_eq!(first.len(), 4, "{first:?}");
    bench.result("t1", 1, "succeeded", json!({}));
    assert_eq!(
        bench.step_at(1_000_100),
        [
            "released b t1 #1 0/1/200 over 0 -",
            r#"t2 #1 -> b [a] {"prompt":"t2"}"#,
            "reserved b t2 #1 1/1/200 over 0 -",
        ]
    );
    // The last one waits as long as the policy lets it.
    assert_eq!(
        bench.step_at(1_060_001),
        ["t3 #1 refused no_capacity", "denied  t3 #1 0/0/0 over 0 no_capacity"]
    );
}

#[test]
fn a_full_backlog_refuses_what_would_be_served_last() {
    let mut bench = Bench::new(Policy { backlog_tasks_max: 1, ..policy() });
    bench.resource("a", json!({"slots": 1}));
    bench.task("t1", json!({}));
    bench.task("t2", json!({"priority": "batch"}));
    bench.task("t3", json!({"priority": "critical"}));
    bench.task("t4", json!({"priority": "batch"}));
    assert_eq!(
        bench.step()[2..],
        [
            "t2 #1 refused backlog_full",
            "denied  t2 #1 0/0/0 over 0 backlog_full",
            "t4 #1 refused backlog_full",
            "denied  t4 #1 0/0/0 over 0 backlog_full",
        ]
    );
}

#[test]
fn every_refusal_has_its_reason() {
    let rows = [
        (json!({"requirements": {"models": ["gpt-9"]}}), "model"),
        (json!({"requirements": {"modalities": ["video"]}}), "modality"),
        (json!({"requirements": {"regions": ["mars"]}}), "region"),
        (json!({"requirements": {"min_quality": 0.99}}), "quality"),
        (json!({"requirements": {"max_cost_usd": 0.0000001}}), "cost"),
        (json!({"input_tokens": 1_000_000}), "context_window"),
        (json!({"max_output_tokens": 20_000}), "context_window"),
        (json!({"deadline_ms": 10}), "deadline"),
    ];
    for (change, reason) in rows {
        let mut bench = bench();
        bench.task("t1", change);
        assert_eq!(bench.step(), [format!("t1 #1 refused {reason}")]);
    }
    let mut bench = Bench::new(policy());
    bench.resource("a", json!({"tenants": ["other"]}));
    bench.task("t1", json!({}));
    assert_eq!(bench.step(), ["t1 #1 refused tenant"]);
    let mut bench = Bench::new(policy());
    bench.resource("a", json!({"quality": {"code": 0.5}}));
    bench.task("t1", json!({"class": "chat"}));
    assert_eq!(bench.step(), ["t1 #1 refused no_capable_resource"]);
    let mut bench = Bench::new(policy());
    let limits = json!([{"dimension": "tokens", "amount": 50, "window_s": 10}]);
    bench.resource("a", json!({"limits": limits}));
    bench.task("t1", json!({}));
    assert_eq!(
        bench.step(),
        ["t1 #1 refused no_capacity", "denied  t1 #1 0/0/0 over 0 no_capacity"]
    );
}

#[test]
fn a_repeated_id_is_recognised_and_said() {
    let mut bench = bench();
    bench.task("t1", json!({}));
    bench.task("t1", json!({}));
    assert_eq!(bench.step()[2..], ["denied  t1 #0 0/0/0 over 0 duplicate"]);
    bench.result("t1", 1, "succeeded", json!({}));
    bench.task("t1", json!({}));
    assert_eq!(
        bench.step(),
        ["released a t1 #1 0/1/200 over 0 -", "denied  t1 #0 0/0/0 over 0 duplicate"]
    );
}

#[test]
fn what_goes_down_is_failed_over_at_once() {
    let mut bench = bench();
    bench.resource("c", json!({"quality": {"default": 0.7}}));
    bench.task("t1", json!({}));
    bench.step();
    bench.health("a", "unhealthy");
    assert_eq!(
        bench.step_at(1_000_050),
        ["failed_over a t1 #1 0/1/200 over 0 -", "failover a tasks 1"]
    );
    bench.reread();
    assert_eq!(
        bench.step_at(1_000_100),
        [r#"t1 #2 -> b [c] {"prompt":"t1"}"#, "reserved b t1 #2 1/1/200 over 0 -"]
    );
    // The first worker's answer comes too late to count.
    bench.result("t1", 1, "succeeded", json!({}));
    assert_eq!(bench.step(), Vec::<String>::new());
    bench.task("t2", json!({"requirements": {"models": ["m"], "min_quality": 0.85}}));
    assert_eq!(bench.step(), ["t2 #1 refused health"]);
}

#[test]
fn a_lease_ends_only_when_the_results_are_caught_up() {
    let mut bench = bench();
    bench.task("t1", json!({}));
    bench.step();
    let much_later = bench.now + 10_000_000;
    assert_eq!(bench.step_at(much_later), Vec::<String>::new());
    assert!(bench.lane.awaits_results(crate::model::time::Timestamp::from_ms(much_later)));
    bench.lane.results_caught_up(crate::model::time::Timestamp::from_ms(much_later));
    assert_eq!(bench.step(), ["expired a t1 #1 0/1/200 over 0 -"]);
    bench.reread();
    assert_eq!(bench.step_at(much_later + 100)[0], r#"t1 #2 -> b [] {"prompt":"t1"}"#);
}

#[test]
fn a_sign_of_life_keeps_the_lease_and_a_cancellation_ends_it() {
    let mut bench = bench();
    bench.task("t1", json!({}));
    bench.step();
    bench.result("t1", 1, "heartbeat", json!({}));
    assert_eq!(bench.step_at(1_030_000), Vec::<String>::new());
    bench.lane.results_caught_up(crate::model::time::Timestamp::from_ms(1_050_000));
    assert_eq!(bench.step_at(1_050_000), Vec::<String>::new());
    bench.result("t1", 0, "cancelled", json!({}));
    assert_eq!(bench.step(), ["released a t1 #1 0/1/200 over 0 -"]);
}

#[test]
fn bad_records_are_buried_with_their_bytes_and_the_next_is_served() {
    let mut bench = bench();
    bench.raw_task(b"\xff\xfe garbage");
    bench.raw_task(br#"{"task_id": "", "input_tokens": 1}"#);
    bench.raw_task(br#"{"task_id": "t0", "input_tokens": 1, "deadline_ms": -5}"#);
    bench.task("t1", json!({}));
    bench.result("unknown", 1, "succeeded", json!({}));
    bench.resource(
        "broken",
        json!({"slots": 0, "usd_per_million_tokens": {"input": -1, "output": 0}}),
    );
    let outputs = bench.step();
    let kinds: Vec<&str> = outputs.iter().map(|line| line.split_once(' ').unwrap().0).collect();
    assert_eq!(
        kinds,
        ["fleet.dlq", "task-results.dlq", "tasks.dlq", "tasks.dlq", "tasks.dlq", "t1", "reserved",]
    );
    assert_eq!(
        bench.prepared[0]
            .counts
            .dead_letters
            .iter()
            .map(|(_, _, reason)| *reason)
            .collect::<Vec<_>>(),
        ["invalid", "unknown_task", "unknown_format", "invalid", "json"]
    );
}

#[test]
fn a_result_for_another_lane_is_forwarded() {
    let mut bench = Bench::new(policy());
    bench.lane = super::super::Lane::genesis(0, 2, 1, super::settings(policy()));
    bench.lane.start_at(0, 0, 0);
    bench.result("t9", 1, "succeeded", json!({"lane": 1}));
    let outputs = bench.step();
    assert_eq!(outputs.len(), 1);
    assert!(outputs[0].starts_with("lane-inbox "), "{outputs:?}");
    assert_eq!(bench.prepared[0].records[0].partition, 1);
}

#[test]
fn a_large_fleet_takes_more_than_one_batch_and_no_task_goes_first() {
    let mut bench = Bench::new(policy());
    for number in 0..5_000 {
        bench.resource(&format!("resource-{number:0100}"), json!({}));
    }
    bench.task("t1", json!({"requirements": {"models": ["m"]}}));
    assert_eq!(bench.step(), Vec::<String>::new());
    let known = bench.lane.state().fleet.len();
    assert!((1..5_000).contains(&known), "{known}");
    while bench.lane.queued() > 0 {
        bench.step();
    }
    assert_eq!(bench.lane.state().fleet.len(), 5_000);
    assert_eq!(bench.lane.state().in_flight, 1);
}

#[test]
fn a_task_that_another_owner_gave_up_is_read_again_for_its_dead_letter() {
    let policy = Policy { attempts_max: 1, ..Policy::default() };
    let begin = || {
        let mut bench = Bench::new(policy.clone());
        bench.resource("one", json!({"slots": 1}));
        bench.task("t0", json!({}));
        bench.task("t1", json!({}));
        bench.step();
        bench
    };
    let (mut left_behind, mut owner) = (begin(), begin());
    owner.result("t0", 1, "succeeded", json!({}));
    owner.step_at(1_001_000);
    owner.result("t1", 1, "failed", json!({}));
    owner.step_at(1_002_000);
    for record in &owner.journal[1..] {
        left_behind.lane.fold(record).unwrap();
    }
    // It had the task at hand while that waited.
    left_behind.now = 1_003_000;
    left_behind.reread();
    let shown = left_behind.step();
    assert!(shown.iter().any(|line| line.starts_with("tasks.dlq")), "{shown:?}");
    assert!(left_behind.lane.state().tasks.is_empty());
}

#[test]
fn a_lease_does_not_end_over_a_result_that_waits_for_the_next_batch() {
    let mut bench = Bench::with(LaneSettings { batch_records_max: 1, ..settings(policy()) });
    bench.resource("a", json!({}));
    bench.task("t1", json!({}));
    bench.step();
    bench.result("t1", 9, "succeeded", json!({}));
    bench.result("t1", 1, "succeeded", json!({"input_tokens": 100, "output_tokens": 20}));
    bench.lane.results_caught_up(Timestamp::from_ms(1_100_000));
    assert_eq!(bench.step_at(1_100_000), Vec::<String>::new(), "one record, of an old attempt");
    assert_eq!(bench.step_at(1_100_100), ["released a t1 #1 0/1/120 over 0 -"]);
}
