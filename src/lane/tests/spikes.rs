//! What a lane does about its load, and what it says of it.

use serde_json::{Value, json};

use super::Bench;
use crate::lane::prepared::OutputTopic;
use crate::model::Topic;
use crate::model::policy::Policy;
use crate::model::system_health::{Strategy, SystemStatus};

fn policy() -> Policy {
    Policy { load_snapshot_ms: 1_000_000_000, wait_ms_max: 20_000, ..Policy::default() }
}

/// A batch; and what it published to a topic.
fn step(bench: &mut Bench, topic: Topic) -> Vec<Value> {
    let before = bench.prepared.len();
    bench.reread();
    bench.step();
    let new = bench.prepared.get(before..).unwrap_or_default();
    new.iter()
        .flat_map(|prepared| {
            let records = prepared.records.iter();
            let of_topic = records.filter(move |one| one.topic == OutputTopic::Known(topic));
            of_topic.map(|record| {
                serde_json::from_slice(prepared.slice(record.value.as_ref().unwrap())).unwrap()
            })
        })
        .collect()
}

/// The strategies that the lane went through.
fn changes(events: &[Value]) -> Vec<String> {
    events
        .iter()
        .filter(|event| event["kind"] == "strategy_changed")
        .map(|event| {
            assert_eq!(event["resource"], "");
            let detail = event["detail"].as_str().unwrap();
            detail.split(':').next().unwrap().to_owned()
        })
        .collect()
}

#[test]
fn each_strategy_is_said_and_a_milder_one_comes_back_later() {
    let mut bench = Bench::new(policy());
    let limits = json!([{"dimension": "requests", "amount": 50, "window_s": 10}]);
    bench.resource("good", json!({"slots": 1_000, "limits": limits, "quality": {"default": 0.9}}));
    bench.resource("plain", json!({"slots": 1_000, "model": "other"}));
    let mut events = Vec::new();
    // What finds no room at the good one has no time to wait for it.
    let objective = json!({"quality": 1.0, "usd": 0.0, "second": 0.001});
    for number in 0..200 {
        bench.task(&format!("t{number}"), json!({"objective": objective, "deadline_ms": 9_000}));
    }
    events.extend(step(&mut bench, Topic::BalanceEvents));
    assert_eq!(bench.lane.system_health().status, SystemStatus::Degraded);
    // Nothing comes any more.
    for _ in 0..60 {
        bench.now += 1_000;
        events.extend(step(&mut bench, Topic::BalanceEvents));
    }
    assert_eq!(changes(&events), ["steady -> degrade", "degrade -> steady"]);
    let detail = events[0]["detail"].as_str().unwrap();
    assert!(detail.contains("tasks a second arrive, usually"), "{detail}");
    assert_eq!(bench.lane.system_health().strategy, Strategy::Steady);
}

#[test]
fn what_cannot_be_served_in_time_is_shed_the_lowest_first() {
    let mut bench = Bench::new(Policy { backlog_tasks_max: 100, ..policy() });
    bench.resource("one", json!({"slots": 1}));
    for (priority, count) in [("critical", 30), ("interactive", 20), ("batch", 40)] {
        for number in 0..count {
            bench.task(&format!("{priority}-{number}"), json!({"priority": priority}));
        }
    }
    let decisions = step(&mut bench, Topic::RouteDecisions);
    let shed: Vec<&str> = decisions
        .iter()
        .filter(|one| one["reason"] == "shed")
        .map(|one| one["priority"].as_str().unwrap())
        .collect();
    // Half of the bound may stay.
    assert_eq!(shed, ["batch"; 39]);
    let system = bench.lane.system_health();
    assert_eq!((system.strategy, system.status), (Strategy::Shed, SystemStatus::Saturated));
    let left = (system.backlog_critical, system.backlog_interactive, system.backlog_batch);
    assert_eq!(left, (29, 20, 1));
}

#[test]
fn what_waits_of_its_own_choice_is_not_shed() {
    let mut bench = Bench::new(Policy { backlog_tasks_max: 20, ..policy() });
    bench.resource("good", json!({"slots": 1, "quality": {"default": 0.9}}));
    bench.resource("plain", json!({"slots": 100, "quality": {"default": 0.1}}));
    for number in 0..18 {
        bench.task(&format!("t{number}"), json!({"objective": "best"}));
    }
    let decisions = step(&mut bench, Topic::RouteDecisions);
    assert!(decisions.iter().all(|one| one["reason"] != "shed"), "{decisions:?}");
}

#[test]
fn a_lane_says_how_it_fares() {
    let mut bench = Bench::new(Policy { load_snapshot_ms: 1_000, ..policy() });
    bench.resource("one", json!({"slots": 1}));
    bench.resource("two", json!({"slots": 1}));
    bench.health("two", "drain");
    bench.task("t1", json!({}));
    bench.task("t2", json!({"priority": "batch"}));
    step(&mut bench, Topic::LoadSnapshots);
    bench.now += 1_000;
    let load = step(&mut bench, Topic::LoadSnapshots);
    let own: Vec<&Value> = load.iter().filter(|one| one["resource"] == "").collect();
    assert_eq!(own.len(), 1, "{load:?}");
    let system = &own[0]["system"];
    let shown = |name: &str| system[name].clone();
    assert_eq!(
        ["status", "strategy", "healthy", "draining", "full", "backlog_batch"].map(shown),
        [json!("saturated"), json!("steady"), json!(1), json!(1), json!(1), json!(1)]
    );
    assert!(load.iter().filter(|one| one["resource"] != "").all(|one| one["system"].is_null()));
}
