//! What cannot be served in time is refused at once, and nothing else is.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Bench;
use super::spikes::step;
use crate::lane::Lane;
use crate::model::Topic;
use crate::model::policy::Policy;
use crate::model::system_health::{Strategy, SystemStatus};

fn policy() -> Policy {
    Policy { load_snapshot_ms: 1_000_000_000, wait_ms_max: 20_000, ..Policy::default() }
}

fn tasks(bench: &mut Bench, count: usize, change: &Value) {
    for number in 0..count {
        let mut task = json!({"priority": "batch"});
        super::merge(&mut task, change.clone());
        bench.task(&format!("t{number}"), task);
    }
}

/// The tasks that the next batch sheds, in its order.
fn shed(bench: &mut Bench) -> Vec<String> {
    let decisions = step(bench, Topic::RouteDecisions);
    let shed = decisions.iter().filter(|one| one["reason"] == "shed");
    shed.map(|one| one["task_id"].as_str().unwrap().to_owned()).collect()
}

/// The newest first.
fn newest(from: usize, to: usize) -> Vec<String> {
    (from..to).rev().map(|number| format!("t{number}")).collect()
}

#[test]
fn what_cannot_be_served_in_time_is_shed_the_lowest_first() {
    let mut bench = Bench::new(policy());
    // 500 ms, 20 ms for the input and 500 ms for the output: 19 in the 20 s for which tasks wait.
    bench.resource("one", json!({"slots": 1}));
    for (priority, count) in [("critical", 15), ("interactive", 40), ("batch", 40)] {
        for number in 0..count {
            bench.task(&format!("{priority}-{number}"), json!({"priority": priority}));
        }
    }
    let decisions = step(&mut bench, Topic::RouteDecisions);
    let shed: Vec<&str> = decisions
        .iter()
        .filter(|one| one["reason"] == "shed")
        .map(|one| one["task_id"].as_str().unwrap())
        .collect();
    // Of each priority 16 keep their place.
    let expected: Vec<String> = (16..40)
        .rev()
        .map(|number| format!("batch-{number}"))
        .chain((16..40).rev().map(|number| format!("interactive-{number}")))
        .collect();
    assert_eq!(shed, expected);
    let system = bench.lane.system_health();
    assert_eq!((system.strategy, system.status), (Strategy::Shed, SystemStatus::Saturated));
    let left = (system.backlog_critical, system.backlog_interactive, system.backlog_batch);
    assert_eq!(left, (14, 16, 16));
}

#[test]
fn what_waits_of_its_own_choice_is_not_shed() {
    let mut bench = Bench::new(policy());
    bench.resource("good", json!({"slots": 1, "quality": {"default": 0.9}}));
    bench.resource("plain", json!({"slots": 200, "quality": {"default": 0.1}}));
    tasks(&mut bench, 60, &json!({"objective": {"quality": 1.0, "usd": 0.0, "second": 0.0}}));
    assert_eq!(shed(&mut bench), Vec::<String>::new());
    assert!(!bench.lane.state().backlog.is_empty());
}

#[test]
fn a_few_tokens_that_are_left_are_no_room() {
    let mut bench = Bench::new(policy());
    let limits = json!([{"dimension": "tokens", "amount": 10_000, "window_s": 10}]);
    bench.resource("one", json!({"slots": 1_000, "limits": limits}));
    // 33 of 300 tokens fit. 225 are expected of each: 44.4 more when those have left the window, once in
    // the time for which tasks wait. Twice as many may.
    tasks(&mut bench, 300, &json!({"input_tokens": 200}));
    assert_eq!(shed(&mut bench), newest(33 + 89, 300));
    assert_eq!(bench.lane.system_health().status, SystemStatus::Saturated);
    assert_eq!(bench.lane.system_health().full, 1);
}

#[test]
fn nothing_is_saturated_where_the_usual_task_has_room() {
    let mut bench = Bench::new(policy());
    let limits = json!([{"dimension": "tokens", "amount": 10_000, "window_s": 10}]);
    bench.resource("one", json!({"slots": 1_000, "limits": limits}));
    bench.task("t0", json!({"input_tokens": 200}));
    bench.step();
    let system = bench.lane.system_health();
    assert_eq!((system.status, system.full), (SystemStatus::Healthy, 0));
}

#[test]
fn what_is_kept_for_another_tenant_is_no_room() {
    let mut bench = Bench::new(policy());
    bench.tenant("acme", json!({"reserved_share": 0.5}));
    bench.resource("one", json!({"slots": 4}));
    // 78 in 20 s.
    tasks(&mut bench, 250, &json!({"tenant": "others"}));
    assert_eq!(shed(&mut bench), newest(2 + 2 * 78, 250));
}

#[test]
fn at_a_moderate_rate_most_of_what_exceeds_the_limit_is_shed_not_left_to_wait_in_vain() {
    let mut bench = Bench::new(policy());
    let limits = json!([{"dimension": "requests", "amount": 24, "window_s": 10}]);
    bench.resource("one", json!({"slots": 1_000, "limits": limits}));
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for second in 0..240 {
        for number in 0..5 {
            bench.task(&format!("t{second}-{number}"), json!({}));
        }
        for decision in step(&mut bench, Topic::RouteDecisions) {
            let end = decision["reason"].as_str().unwrap_or("routed").to_owned();
            *ends.entry(end).or_default() += 1;
        }
        bench.now += 1_000;
    }
    let ends: Vec<(&str, usize)> = ends.iter().map(|(end, count)| (&**end, *count)).collect();
    // 24 every 13 s: the last of them may begin 2 s late, and a batch comes each second. So a few fewer
    // than the limit lets through. As many as that wait in vain, because all are alike: nothing small fills
    // what a large one leaves.
    assert_eq!(ends, [("no_capacity", 245), ("routed", 456), ("shed", 451)]);
    assert_eq!(bench.lane.state().backlog.len(), 48);
}

/// A large resource goes down; so long later, so many tasks come; what the small one cannot serve in
/// time is shed, unless the large one may be back before.
#[test]
fn what_a_resource_could_serve_that_went_down_lately_is_not_shed() {
    let rows = [
        ("as it goes down", 0, Vec::new()),
        ("almost as long later as tasks wait", 19_999, Vec::new()),
        ("as long later", 20_000, newest(1 + 39, 100)),
    ];
    for (what, later_ms, expected) in rows {
        let mut bench = Bench::new(policy());
        bench.resource("large", json!({"slots": 100}));
        bench.resource("small", json!({"slots": 1}));
        bench.health("large", "unhealthy");
        bench.step();
        bench.now += later_ms;
        tasks(&mut bench, 100, &json!({}));
        assert_eq!(shed(&mut bench), expected, "{what}");
        bench.health("large", "healthy");
        bench.now += 1;
        assert_eq!(shed(&mut bench), Vec::<String>::new(), "{what}");
        assert!(bench.lane.state().backlog.is_empty(), "{what}");
    }
}

/// The lane's part serves 117 tasks in time, all of the limit 470: others may have some to give, and
/// have ten seconds for it.
#[test]
fn a_lane_that_shares_waits_for_the_others_before_it_sheds() {
    let policy = Policy { wait_ms_max: 60_000, ..policy() };
    let mut bench = Bench::new(policy.clone());
    bench.lane = Lane::genesis(0, 4, 1, super::settings(policy));
    bench.lane.start_at(0, 0, 0);
    bench.resource("one", json!({"slots": 8}));
    tasks(&mut bench, 300, &json!({}));
    assert_eq!(shed(&mut bench), Vec::<String>::new());
    assert_eq!(bench.lane.state().backlog.len(), 298);
    // It says that it lacks slots.
    bench.now += 200;
    assert_eq!(shed(&mut bench), Vec::<String>::new());
    bench.now += 9_000;
    assert_eq!(shed(&mut bench), Vec::<String>::new());
    bench.now += 1_000;
    // The last of them gives up in 49.8 s: 97.6 can be served until then, and twice as many may wait.
    assert_eq!(shed(&mut bench), newest(2 + 195, 300));
}
