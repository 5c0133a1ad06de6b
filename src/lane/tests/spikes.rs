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
pub(super) fn step(bench: &mut Bench, topic: Topic) -> Vec<Value> {
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

/// 50 of so many tasks find room where they would rather go; a second costs too much to wait for it.
fn burst(tasks: usize, other: Option<Value>) -> (Bench, Vec<Value>) {
    let mut bench = Bench::new(policy());
    let limits = json!([{"dimension": "requests", "amount": 50, "window_s": 10}]);
    bench.resource("good", json!({"slots": 1_000, "limits": limits, "quality": {"default": 0.9}}));
    if let Some(other) = other {
        bench.resource("other", super::merged(json!({"slots": 1_000}), other));
    }
    for number in 0..tasks {
        let objective = json!({"quality": 1.0, "usd": 0.0, "second": 0.1});
        bench.task(&format!("t{number}"), json!({"objective": objective}));
    }
    let events = step(&mut bench, Topic::BalanceEvents);
    (bench, events)
}

#[test]
fn each_strategy_is_said_and_a_milder_one_comes_back_later() {
    let speed = |first_ms: u32| {
        json!({"time_to_first_token_ms": first_ms, "prefill_tokens_per_s": 5_000,
            "decode_tokens_per_s": 50})
    };
    let usd = |one: f64| json!({"input": one, "output": 2.0 * one});
    // It is slower, so nobody would rather go there.
    let better = json!({"model": "better", "quality": {"default": 0.95}, "speed": speed(2_500)});
    let as_good = json!({"model": "twin", "quality": {"default": 0.9}, "speed": speed(2_500)});
    let with = |one: &Value, other: Value| super::merged(one.clone(), other);
    let worse = json!({"quality": {"default": 0.8}});
    // (what, tasks, the other resource, the strategy)
    let rows = [
        ("room", 50, None, None),
        ("another of the model", 200, Some(worse.clone()), Some("spread")),
        ("… in another pool", 200, Some(with(&worse, json!({"pool": "far"}))), Some("overflow")),
        ("a worse model", 200, Some(with(&worse, json!({"model": "small"}))), Some("degrade")),
        (
            "… dearer and in another pool",
            200,
            Some(with(
                &worse,
                json!({
                    "model": "small", "pool": "far", "usd_per_million_tokens": usd(9.0),
                }),
            )),
            Some("degrade"),
        ),
        ("a better model", 200, Some(better.clone()), Some("spread")),
        (
            "… dearer and in another pool",
            200,
            Some(with(&better, json!({"pool": "far", "usd_per_million_tokens": usd(9.0)}))),
            Some("overflow"),
        ),
        ("one as good", 200, Some(as_good.clone()), Some("spread")),
        (
            "… and cheaper",
            200,
            Some(with(&as_good, json!({"usd_per_million_tokens": usd(0.5)}))),
            Some("degrade"),
        ),
        ("no other", 110, None, Some("delay")),
        ("no other, and no time", 200, None, Some("shed")),
    ];
    for (what, tasks, other, strategy) in rows {
        let (mut bench, mut events) = burst(tasks, other);
        let expected = strategy.map(|one| format!("steady -> {one}"));
        assert_eq!(changes(&events), expected.clone().into_iter().collect::<Vec<_>>(), "{what}");
        let status = match strategy {
            None | Some("spread" | "overflow") => SystemStatus::Healthy,
            Some("degrade") => SystemStatus::Degraded,
            Some(_) => SystemStatus::Saturated,
        };
        assert_eq!(bench.lane.system_health().status, status, "{what}");
        if let Some(first) = events.first() {
            let detail = first["detail"].as_str().unwrap();
            assert!(detail.contains("tasks a second arrive, usually"), "{what}: {detail}");
        }
        // Nothing comes any more.
        for _ in 0..60 {
            bench.now += 1_000;
            events.extend(step(&mut bench, Topic::BalanceEvents));
        }
        let back = strategy.map(|one| format!("{one} -> steady"));
        let expected: Vec<String> = expected.into_iter().chain(back).collect();
        assert_eq!(changes(&events), expected, "{what}");
        assert_eq!(bench.lane.system_health().strategy, Strategy::Steady);
    }
}

/// A lane in which easy tasks go where they would rather go, and hard ones to a worse model: the good
/// one for them is taken for good.
struct Mixed {
    bench: Bench,
    tasks: usize,
}

impl Mixed {
    fn new() -> Self {
        let mut bench = Bench::new(policy());
        bench.resource("easy", json!({"slots": 10_000, "quality": {"easy": 0.9}}));
        bench.resource("hard", json!({"slots": 1, "quality": {"hard": 0.9}}));
        let plain = json!({"slots": 10_000, "model": "plain", "quality": {"hard": 0.8}});
        bench.resource("plain", plain);
        let mut mixed = Mixed { bench, tasks: 0 };
        mixed.send("hard", 1);
        mixed
    }

    /// So many tasks, each in a batch of its own.
    fn send(&mut self, class: &str, count: usize) -> Vec<String> {
        let mut events = Vec::new();
        for _ in 0..count {
            let objective = json!({"quality": 1.0, "usd": 0.0, "second": 1.0});
            let task = json!({"class": class, "objective": objective});
            self.bench.task(&format!("t{}", self.tasks), task);
            self.tasks += 1;
            self.bench.now += 10;
            events.extend(step(&mut self.bench, Topic::BalanceEvents));
        }
        changes(&events)
    }
}

/// Each task weighs 1/64: after 14 the share is 1 − (63/64)¹⁴ = 0.198, after 15 it is 0.21.
#[test]
fn a_strategy_begins_at_a_fifth_of_the_tasks_and_ends_at_a_twentieth() {
    let mut mixed = Mixed::new();
    assert_eq!(mixed.send("hard", 14), Vec::<String>::new());
    assert_eq!(mixed.send("hard", 1), ["steady -> degrade"]);
    // One in ten holds it, for longer than anything has to last …
    for _ in 0..200 {
        assert_eq!(mixed.send("easy", 9), Vec::<String>::new());
        assert_eq!(mixed.send("hard", 1), Vec::<String>::new());
    }
    // … until there are none.
    assert_eq!(mixed.send("easy", 300), ["degrade -> steady"]);
    // One in ten brings none about.
    for _ in 0..200 {
        assert_eq!(mixed.send("easy", 9), Vec::<String>::new());
        assert_eq!(mixed.send("hard", 1), Vec::<String>::new());
    }
}

#[test]
fn a_strategy_lasts_ten_seconds_at_least() {
    let mut mixed = Mixed::new();
    assert_eq!(mixed.send("hard", 15), ["steady -> degrade"]);
    let since = mixed.bench.now;
    assert_eq!(mixed.send("easy", 500), Vec::<String>::new());
    mixed.bench.now = since + 9_989;
    assert_eq!(mixed.send("easy", 1), Vec::<String>::new(), "at {}", mixed.bench.now - since);
    mixed.bench.now = since + 9_990;
    assert_eq!(mixed.send("easy", 1), ["degrade -> steady"]);
}

/// Nearly all of what they send is refused as it arrives.
#[test]
fn a_tenant_that_floods_is_named_though_it_is_refused() {
    let mut bench = Bench::new(Policy { backlog_tasks_max: 2, ..policy() });
    bench.resource("one", json!({"slots": 1}));
    let second = |bench: &mut Bench, number: usize, calm: usize, flood: usize| {
        for (tenant, count) in [("calm", calm), ("flood", flood)] {
            for one in 0..count {
                bench.task(&format!("{tenant}-{number}-{one}"), json!({"tenant": tenant}));
            }
        }
        let decisions = step(bench, Topic::RouteDecisions);
        bench.now += 1_000;
        decisions.iter().filter(|one| one["reason"] == "backlog_full").count()
    };
    for number in 0..60 {
        second(&mut bench, number, 5, 5);
    }
    let surging = |bench: &Bench| bench.lane.system_health().tenants_surging;
    assert_eq!(surging(&bench), Vec::<String>::new());
    let refused: usize = (60..66).map(|number| second(&mut bench, number, 5, 60)).sum();
    assert_eq!(surging(&bench), ["flood"]);
    assert!(refused > 350, "{refused}");
    // It is over.
    for number in 66..200 {
        second(&mut bench, number, 5, 5);
    }
    assert_eq!(surging(&bench), Vec::<String>::new());
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
